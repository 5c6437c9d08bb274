//! An API server in the process with KubeVirt's two kinds, the controllers, and a kubelet's hands for the test.

use std::fmt::Debug;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use apiserver::auth::Identity;
use apiserver::server::ApiServer;
use controllers::Settings;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use manifest::machine_status::MachineStatus;
use manifest::types::{VirtualMachine, VirtualMachineInstance};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::launchers::FakeLaunchers;
use crate::server;

/// How long a state is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

pub const NODE: &str = "node1";
const NAMESPACE: &str = "default";

/// Who an event is from, its type, reason and message, and how often it happened.
pub type Told = (String, String, String, String, i32);

pub struct World {
    server: ApiServer,
    pub client: Client,
    pub launchers: Arc<FakeLaunchers>,
    controllers: JoinHandle<()>,
    addresses: AtomicU16,
    _directory: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = server::start(directory.path()).await;
        let identity = Identity::internal("system:serviceaccount:kubevirt:kubevirt-controller");
        let client = Client::new(server.client_service(identity), NAMESPACE);
        let launchers = Arc::<FakeLaunchers>::default();
        let controllers = start(&client, &launchers);
        let node: Node = serde_json::from_value(json!({"metadata": {"name": NODE}})).unwrap();
        Api::all(client.clone()).create(&PostParams::default(), &node).await.unwrap();
        Self { server, client, launchers, controllers, addresses: AtomicU16::new(1), _directory: directory }
    }

    /// Ends the controllers in the middle of whatever they do, and starts new ones.
    pub async fn restart_controllers(&mut self) {
        self.stop_controllers().await;
        self.start_controllers();
    }

    pub fn start_controllers(&mut self) {
        self.controllers = start(&self.client, &self.launchers);
    }

    pub async fn stop_controllers(&mut self) {
        self.controllers.abort();
        assert!((&mut self.controllers).await.is_err_and(|error| error.is_cancelled()));
    }

    pub async fn end(self) {
        self.controllers.abort();
        self.server.shutdown().await;
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub fn instances(&self) -> Api<VirtualMachineInstance> {
        self.api()
    }

    pub fn machines(&self) -> Api<VirtualMachine> {
        self.api()
    }

    pub fn pods(&self) -> Api<Pod> {
        self.api()
    }

    pub async fn create_instance(&self, name: &str, changes: Value) -> VirtualMachineInstance {
        let mut object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": name},
            "spec": instance_spec(),
        });
        json_patch::merge(&mut object, &changes);
        let instance = serde_json::from_value(object).unwrap();
        self.instances().create(&PostParams::default(), &instance).await.unwrap()
    }

    /// Waits until the object is as it should be.
    pub async fn wait<K>(&self, name: &str, what: &str, is_so: impl Fn(&K) -> bool) -> K
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api = self.api::<K>();
        until(what, || async {
            let object = api.get_opt(name).await.unwrap();
            match object.filter(|object| is_so(object)) {
                Some(object) => Ok(object),
                None => Err(format!("{:#?}", api.get_opt(name).await.unwrap())),
            }
        })
        .await
    }

    pub async fn wait_gone<K>(&self, name: &str)
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api = self.api::<K>();
        until(&format!("{name} is gone"), || async {
            match api.get_opt(name).await.unwrap() {
                None => Ok(()),
                Some(object) => Err(format!("{object:#?}")),
            }
        })
        .await;
    }

    pub async fn wait_phase(&self, name: &str, phase: &str) -> VirtualMachineInstance {
        self.wait(name, phase, |instance: &VirtualMachineInstance| phase_of(instance) == phase).await
    }

    /// The one launcher Pod of the instance.
    pub async fn pod_of(&self, instance: &VirtualMachineInstance) -> Pod {
        let uid = instance.metadata.uid.as_deref().unwrap();
        let wanted = ListParams::default().labels(&format!("kubevirt.io/created-by={uid}"));
        until("the Pod", || async {
            let pods = self.pods().list(&wanted).await.unwrap().items;
            match pods.as_slice() {
                [pod] => Ok(pod.clone()),
                others => Err(format!("{} Pods", others.len())),
            }
        })
        .await
    }

    /// Everything that was told of an object, in order.
    pub async fn told_of(&self, uid: &str) -> Vec<Told> {
        let wanted = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
        let mut events = self.api::<Event>().list(&wanted).await.unwrap().items;
        // A count moves the version, so the order is that of creation only where nothing is repeated.
        events
            .sort_by_key(|event| event.metadata.resource_version.as_deref().unwrap().parse::<u64>().unwrap());
        events
            .into_iter()
            .map(|event| {
                (
                    event.reporting_component.unwrap_or_default(),
                    event.type_.unwrap_or_default(),
                    event.reason.unwrap_or_default(),
                    event.message.unwrap_or_default(),
                    event.count.unwrap_or_default(),
                )
            })
            .collect()
    }

    /// Waits until so many different things were told of an object.
    pub async fn wait_told(&self, uid: &str, count: usize) -> Vec<Told> {
        until(&format!("{count} events"), || async {
            let told = self.told_of(uid).await;
            if told.len() >= count { Ok(told) } else { Err(format!("{told:#?}")) }
        })
        .await
    }

    // A kubelet's hands.

    pub async fn bind(&self, pod: &str) {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
            "target": {"kind": "Node", "name": NODE},
        });
        // A Pod without a node may go at once, as one with a status may below.
        let bound: Result<Value, kube::Error> =
            self.pods().create_subresource("binding", pod, &PostParams::default(), &binding).await;
        match bound {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn set_status(&self, pod: &str, status: Value) {
        let patch = json!({"status": status});
        match self.pods().patch_status(pod, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("{error}"),
        }
    }

    pub async fn wait_for_image(&self, pod: &str, reason: &str, message: &str) {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        self.set_status(
            pod,
            json!({"initContainerStatuses": [container("volumekernel-boot-volume", false, state)]}),
        )
        .await;
    }

    /// Binds the Pod and starts its launcher.
    pub async fn run(&self, pod: &str) -> SocketAddr {
        self.bind(pod).await;
        self.start(pod).await
    }

    /// Starts the launcher of a Pod that is bound.
    pub async fn start(&self, pod: &str) -> SocketAddr {
        let number = self.addresses.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        let at = SocketAddr::new(IpAddr::from([127, 88, high, low]), 8443);
        self.launchers.start(at);
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}, "waiting": null});
        self.set_status(
            pod,
            json!({
                "phase": "Running", "podIP": at.ip().to_string(), "podIPs": [{"ip": at.ip().to_string()}],
                "initContainerStatuses": null,
                "containerStatuses": [container("compute", true, running)],
                "conditions": [
                    {"type": "Ready", "status": "True"},
                    {"type": "kubevirt.io/virtual-machine-unpaused", "status": "True", "reason": "NotPaused"},
                ],
            }),
        )
        .await;
        at
    }

    /// The launcher has ended; what it left is the termination message.
    pub async fn ended(&self, pod: &str, last: Option<&MachineStatus>) {
        let message = last.map(|last| serde_json::to_string(last).unwrap());
        let code = if message.is_some() { 0 } else { 137 };
        let state =
            json!({"terminated": {"exitCode": code, "message": message}, "running": null, "waiting": null});
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let statuses = json!([container("compute", false, state)]);
        self.set_status(pod, json!({"phase": phase, "containerStatuses": statuses})).await;
    }

    /// The node is done with a Pod that is being deleted.
    pub async fn remove(&self, pod: &str) {
        let now = DeleteParams::default().grace_period(0);
        match self.pods().delete(pod, &now).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn start(client: &Client, launchers: &Arc<FakeLaunchers>) -> JoinHandle<()> {
    let settings = Settings {
        launcher_image: "ferrovirt.dev/launcher:test".to_owned(),
        metrics: controllers::Metrics::default(),
    };
    tokio::spawn(controllers::run(
        client.clone(),
        settings,
        Arc::clone(launchers) as Arc<dyn controllers::Launchers>,
        std::future::pending(),
    ))
}

fn container(name: &str, ready: bool, state: Value) -> Value {
    json!({
        "name": name, "ready": ready, "restartCount": 0, "image": "i", "imageID": "", "state": state,
    })
}

/// Asks again until there is an answer; fails with the last reason why there was none.
pub async fn until<T, F>(what: &str, attempt: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(found) => return found,
            Err(seen) if tokio::time::Instant::now() > deadline => panic!("waited for {what}, saw {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

pub fn phase_of(instance: &VirtualMachineInstance) -> &str {
    instance.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub fn phases_of(instance: &VirtualMachineInstance) -> Vec<String> {
    let stamps = &instance.status.as_ref().unwrap().phase_transition_timestamps;
    stamps.iter().map(|stamp| stamp.phase.clone().unwrap()).collect()
}

/// Status, reason and message of a condition.
pub fn condition(instance: &VirtualMachineInstance, type_: &str) -> Option<(String, String, String)> {
    let conditions = &instance.status.as_ref()?.conditions;
    let condition = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((
        condition.status.clone(),
        condition.reason.clone().unwrap_or_default(),
        condition.message.clone().unwrap_or_default(),
    ))
}

pub fn reason(instance: &VirtualMachineInstance, type_: &str) -> String {
    condition(instance, type_).map_or_else(String::new, |(_, reason, _)| reason)
}

pub fn annotation<'a>(instance: &'a VirtualMachineInstance, key: &str) -> Option<&'a str> {
    instance.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

pub fn instance_spec() -> Value {
    json!({"domain": {
        "devices": {}, "memory": {"guest": "128Mi"},
        "firmware": {"kernelBoot": {"container": {
            "image": "registry/kb", "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd",
        }}},
    }})
}
