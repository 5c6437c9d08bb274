//! An API server in this process with machines and instances, the machine controller beside it, and what a test does in
//! the place of users, of the instance controller and of nodes.

use std::time::{Duration, Instant};

use apiserver::auth::Identity;
use apiserver::server::ApiServer;
use controllers::vm::requests::{Change, Refusal, Target};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use manifest::Time;
use manifest::keys::VMI_FINALIZER;
use manifest::types::{VirtualMachine, VirtualMachineInstance};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::server;

/// How long a state is waited for, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who the controller is.
const CONTROLLER: &str = "controller";

const NAMESPACE: &str = "default";
pub const NAME: &str = "kb";

pub struct World {
    pub machines: Api<VirtualMachine>,
    pub instances: Api<VirtualMachineInstance>,
    pub client: kube::Client,
    controllers: kube::Client,
    server: ApiServer,
    controller: JoinHandle<()>,
    directory: tempfile::TempDir,
}

impl World {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = server::start(directory.path()).await;
        let client = kube::Client::new(server.client_service(Identity::internal("test")), NAMESPACE);
        let controllers = kube::Client::new(server.client_service(Identity::internal(CONTROLLER)), NAMESPACE);
        Self {
            machines: Api::namespaced(client.clone(), NAMESPACE),
            instances: Api::namespaced(client.clone(), NAMESPACE),
            controller: tokio::spawn(controllers::vm::run(controllers.clone())),
            controllers,
            client,
            server,
            directory,
        }
    }

    /// Ends the controller as a kill does, and starts another.
    pub async fn restart_controller(&mut self) {
        self.stop_controller().await;
        self.start_controller();
    }

    pub async fn stop_controller(&mut self) {
        self.controller.abort();
        let _ended = (&mut self.controller).await;
    }

    pub fn start_controller(&mut self) {
        self.controller = tokio::spawn(controllers::vm::run(self.controllers.clone()));
    }

    pub async fn end(mut self) {
        self.stop_controller().await;
        self.server.shutdown().await;
    }

    pub async fn create(&self, strategy: &str) -> VirtualMachine {
        self.create_as(machine(strategy)).await
    }

    pub async fn create_as(&self, machine: Value) -> VirtualMachine {
        let machine = serde_json::from_value(machine).unwrap();
        self.machines.create(&PostParams::default(), &machine).await.unwrap()
    }

    pub async fn patch(&self, patch: Value) -> VirtualMachine {
        self.machines.patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap()
    }

    /// Waits until the machine is as `wanted` says.
    pub async fn machine(&self, what: &str, wanted: impl Fn(&VirtualMachine) -> bool) -> VirtualMachine {
        self.until(what, &self.machines, wanted).await
    }

    /// Waits until the instance is as `wanted` says.
    pub async fn instance(
        &self,
        what: &str,
        wanted: impl Fn(&VirtualMachineInstance) -> bool,
    ) -> VirtualMachineInstance {
        self.until(what, &self.instances, wanted).await
    }

    /// Waits until the machine shows that word.
    pub async fn shows(&self, word: &str) -> VirtualMachine {
        self.machine(word, |machine| word_of(machine) == word).await
    }

    async fn until<K>(&self, what: &str, api: &Api<K>, wanted: impl Fn(&K) -> bool) -> K
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
    {
        let start = Instant::now();
        loop {
            let found = api.get_opt(NAME).await.unwrap();
            if let Some(found) = &found
                && wanted(found)
            {
                return found.clone();
            }
            let seen = || serde_json::to_string_pretty(&found).unwrap();
            assert!(start.elapsed() < PATIENCE, "{what} does not come; there is {}", seen());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until there is no machine.
    pub async fn no_machine(&self) {
        gone(&self.machines).await;
    }

    /// Waits until there is no instance.
    pub async fn no_instance(&self) {
        gone(&self.instances).await;
    }

    /// Moves the instance along as its controller does.
    pub async fn advance(&self, phase: &str, conditions: Value) -> VirtualMachineInstance {
        let found = self.instances.get(NAME).await.unwrap();
        let mut stamps =
            serde_json::to_value(found.status.unwrap_or_default().phase_transition_timestamps).unwrap();
        let now = serde_json::to_value(Time(jiff::Timestamp::now())).unwrap();
        stamps.as_array_mut().unwrap().push(json!({"phase": phase, "phaseTransitionTimestamp": now}));
        let status = json!({"phase": phase, "conditions": conditions, "phaseTransitionTimestamps": stamps});
        let patch = Patch::Merge(json!({"status": status}));
        self.instances.patch(NAME, &PatchParams::default(), &patch).await.unwrap()
    }

    /// Has the instance run, ready.
    pub async fn run(&self) -> VirtualMachineInstance {
        self.advance("Running", json!([{"type": "Ready", "status": "True"}])).await
    }

    /// Has the instance end, and lets it go as its controller does once it is to be deleted.
    pub async fn end_instance(&self, phase: &str) {
        self.advance(phase, json!([{"type": "Ready", "status": "False", "reason": "GuestNotRunning"}])).await;
    }

    /// Lets the instance go, as its controller does when it has ended and is to be deleted.
    pub async fn let_go(&self) {
        let leaving =
            self.instance("deletion", |instance| instance.metadata.deletion_timestamp.is_some()).await;
        let finalizers: Vec<_> =
            leaving.metadata.finalizers.unwrap().into_iter().filter(|of| of != VMI_FINALIZER).collect();
        let version = leaving.metadata.resource_version;
        let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}}));
        match self.instances.patch(NAME, &PatchParams::default(), &patch).await {
            // The machine controller was faster, look again.
            Err(kube::Error::Api(status)) if status.code == 409 => Box::pin(self.let_go()).await,
            other => drop(other.unwrap()),
        }
    }

    /// What the HTTP layer does with a request.
    pub async fn ask(
        &self,
        ask: impl Fn(&VirtualMachine, Option<&VirtualMachineInstance>) -> Result<Vec<Change>, Refusal>,
    ) {
        loop {
            let machine = self.machines.get(NAME).await.unwrap();
            let instance = self.instances.get_opt(NAME).await.unwrap();
            let mut lost = false;
            for change in ask(&machine, instance.as_ref()).unwrap() {
                let (parameters, patch) = (PatchParams::default(), Patch::Json::<()>(change.patch));
                let result = match change.target {
                    Target::Machine => self.machines.patch(NAME, &parameters, &patch).await.map(drop),
                    Target::MachineStatus => {
                        self.machines.patch_status(NAME, &parameters, &patch).await.map(drop)
                    }
                    Target::Instance => self.instances.patch(NAME, &parameters, &patch).await.map(drop),
                };
                match result {
                    Err(kube::Error::Api(status)) if status.code == 422 => lost = true,
                    other => other.unwrap(),
                }
            }
            if !lost {
                return;
            }
        }
    }

    /// Events about the machine: type, reason, message, count. They are written beside everything else, so `least` of
    /// them are waited for.
    pub async fn events(&self, least: usize) -> Vec<(String, String, String, i32)> {
        let events = Api::<Event>::namespaced(self.client.clone(), NAMESPACE);
        let start = Instant::now();
        loop {
            let found = events.list(&ListParams::default()).await.unwrap();
            let mut shown: Vec<_> = found
                .items
                .into_iter()
                .filter(|event| event.involved_object.kind.as_deref() == Some("VirtualMachine"))
                .map(|event| {
                    let text = |text: Option<String>| text.unwrap_or_default();
                    (
                        text(event.type_),
                        text(event.reason),
                        text(event.message),
                        event.count.unwrap_or_default(),
                    )
                })
                .collect();
            shown.sort();
            if shown.len() >= least {
                return shown;
            }
            assert!(start.elapsed() < PATIENCE, "events are missing: {shown:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the one revision that is kept is `name`.
    pub async fn only_revision(&self, name: &str) {
        let revisions = Api::<ControllerRevision>::namespaced(self.client.clone(), NAMESPACE);
        let start = Instant::now();
        loop {
            let kept = revisions.list(&ListParams::default()).await.unwrap();
            let names: Vec<_> =
                kept.items.into_iter().map(|revision| revision.metadata.name.unwrap()).collect();
            if names == [name] {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "there are {names:?} instead of {name}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the controller has written, at `least` that often: `verb resource/subresource`.
    pub async fn writes(&self, least: usize) -> Vec<String> {
        let start = Instant::now();
        loop {
            let log = std::fs::read_to_string(self.directory.path().join("audit.log")).unwrap_or_default();
            let mut writes = Vec::new();
            // The last line may still be growing.
            for line in log.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let event: Value = serde_json::from_str(line).unwrap();
                let text = |place: &str| event.pointer(place).and_then(Value::as_str).unwrap_or_default();
                let is_write = ["create", "update", "patch", "delete"].contains(&text("/verb"));
                if text("/user/username") == CONTROLLER && is_write && text("/stage") == "ResponseComplete" {
                    let what = format!("{}/{}", text("/objectRef/resource"), text("/objectRef/subresource"));
                    writes.push(format!("{} {}", text("/verb"), what.trim_end_matches('/')));
                }
            }
            if writes.len() >= least {
                return writes;
            }
            assert!(start.elapsed() < PATIENCE, "it has only written {writes:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn delete_machine(&self, parameters: &DeleteParams) {
        self.machines.delete(NAME, parameters).await.unwrap();
    }
}

async fn gone<K>(api: &Api<K>)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    let start = Instant::now();
    while let Some(found) = api.get_opt(NAME).await.unwrap() {
        let seen = || serde_json::to_string_pretty(&found).unwrap();
        assert!(start.elapsed() < PATIENCE, "it is still there: {}", seen());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn machine(strategy: &str) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"runStrategy": strategy, "template": template()},
    })
}

pub fn template() -> Value {
    json!({
        "metadata": {"labels": {"app": "a"}},
        "spec": {"domain": {
            "devices": {},
            "memory": {"guest": "128Mi"},
            "firmware": {"kernelBoot": {"container": {"image": "localhost/k:1", "kernelPath": "/vmlinuz"}}},
        }},
    })
}

pub fn word_of(machine: &VirtualMachine) -> &str {
    let status = machine.status.as_ref();
    status.and_then(|status| status.printable_status.as_deref()).unwrap_or_default()
}

/// Status, reason and message of a condition of the machine.
pub fn condition(machine: &VirtualMachine, type_: &str) -> Option<(String, String, String)> {
    let conditions = &machine.status.as_ref()?.conditions;
    let found = conditions.iter().find(|condition| condition.type_ == type_)?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Some((found.status.clone(), text(&found.reason), text(&found.message)))
}

pub fn uid(instance: &VirtualMachineInstance) -> String {
    instance.metadata.uid.clone().unwrap()
}
