#![allow(clippy::unwrap_used)]

//! Pods of a real API server, run with a script for a launcher.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::images::ImageManager;
use crate::test_server::{self, TestServer, eventually};
use crate::{NodeError, Settings};

const NODE: &str = "here";

/// A launcher that takes its lock, says that it listens, and leaves an exit record when it is told to end. What it does
/// instead is in the file `behave` beside it.
const LAUNCHER: &str = r#"#!/bin/bash
dir=; all="$*"
while [ $# -gt 0 ]; do [ "$1" = --pod-dir ] && dir=$2; [ "$1" = --listen ] && listen=$2; shift; done
behaviour=$(cat "${0%/*}/behave" 2>/dev/null)
[ "$behaviour" = die ] && { echo "cannot do that" >&2; exit 3; }
exec 9>"$dir/lock"; flock -n 9 || exit 4
echo "$all" > "$dir/arguments"
env > "$dir/environment"
ls -l /proc/$$/fd > "$dir/descriptors"
end() {
    [ "$behaviour" = stubborn ] && return
    printf '{"state":"%s","vmiUid":"u"}' "$1" > "$dir/exit.tmp"; mv "$dir/exit.tmp" "$dir/exit.json"; exit "$2"
}
trap 'end shutOff 0' TERM
trap 'end shutOff 0' USR1
trap 'end crashed 1' USR2
[ "$behaviour" = deaf ] || {
    printf '{"processId":%s,"control":"%s","version":"test"}' $$ "$listen" > "$dir/launcher.tmp"
    mv "$dir/launcher.tmp" "$dir/launcher.json"
}
mkfifo "$dir/never"; exec 8<>"$dir/never"
while :; do read -r -t 1 line <&8; done
"#;

struct World {
    server: TestServer,
    directory: tempfile::TempDir,
}

/// Works, and panics where the test has put a file `panic`, which it takes away.
pub(super) async fn until_told_to_panic(work: impl Future<Output = ()>, settings: &Settings) {
    let trap = settings.pods_dir.with_file_name("panic");
    let told = async {
        while std::fs::remove_file(&trap).is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = told => panic!("the test says so"),
    }
}

/// A node that runs until this is dropped; its launchers go on then.
struct Running(JoinHandle<Result<(), NodeError>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for World {
    /// No launcher survives its test, however that went.
    fn drop(&mut self) {
        for directory in std::fs::read_dir(self.directory.path().join("pods")).into_iter().flatten().flatten()
        {
            if let Some(id) = process_id(&directory.path()) {
                let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
            }
        }
    }
}

fn process_id(directory: &Path) -> Option<rustix::process::Pid> {
    let record: Value = serde_json::from_slice(&std::fs::read(directory.join("pod.json")).ok()?).ok()?;
    rustix::process::Pid::from_raw(i32::try_from(record["processId"].as_i64()?).ok()?)
}

fn is_alive(id: rustix::process::Pid) -> bool {
    // A zombie has ended too: its parent has not looked yet.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", id.as_raw_pid()));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim().starts_with('Z'))
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("launcher");
        std::fs::write(&program, LAUNCHER).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { server: TestServer::start().await, directory }
    }

    fn behave(&self, how: &str) {
        std::fs::write(self.directory.path().join("behave"), how).unwrap();
    }

    fn settings(&self) -> Settings {
        Settings {
            name: NODE.to_owned(),
            program: self.directory.path().join("launcher"),
            program_arguments: vec!["--state-dir".to_owned(), "/s".to_owned()],
            ..test_server::settings(self.directory.path())
        }
    }

    /// Starts the part of a node that runs Pods.
    fn start(&self) -> Running {
        let (client, settings) = (self.server.client(), self.settings());
        Running(tokio::spawn(async move {
            let images = ImageManager::new(client.clone(), settings.clone());
            let adopted = super::adopt(&settings, &images).await?;
            super::run(client, &settings, &images, adopted).await
        }))
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.server.client(), "default")
    }

    /// Creates a Pod and binds it; returns its UID.
    async fn create(&self, pod: Value) -> String {
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let made = self.pods().create(&PostParams::default(), &pod).await.unwrap();
        self.bind(&name).await;
        made.metadata.uid.unwrap()
    }

    /// Creates a launcher Pod and waits until it runs; returns its UID and its process.
    async fn create_running(&self, name: &str) -> (String, rustix::process::Pid) {
        let uid = self.create(launcher_pod(name)).await;
        self.wait_for_phase(name, "Running").await;
        let id = process_id(&self.pod_dir(&uid)).unwrap();
        (uid, id)
    }

    async fn bind(&self, name: &str) {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": "default"},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        });
        let _: Value =
            self.pods().create_subresource("binding", name, &PostParams::default(), &binding).await.unwrap();
    }

    async fn wait_for_phase(&self, name: &str, phase: &str) -> Pod {
        eventually(async || {
            let pod = self.pods().get(name).await.map_err(|error| error.to_string())?;
            let found = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
            if found == phase { Ok(pod) } else { Err(format!("{:?}", pod.status)) }
        })
        .await
    }

    async fn wait_until_gone(&self, name: &str, uid: &str) {
        eventually(async || match self.pods().get_opt(name).await.unwrap() {
            None => Ok(()),
            Some(pod) => Err(format!("{pod:?}")),
        })
        .await;
        eventually(async || {
            let left: Vec<PathBuf> =
                std::fs::read_dir(self.pod_dir("")).unwrap().map(|entry| entry.unwrap().path()).collect();
            if left.iter().any(|path| path.ends_with(uid) || path.to_string_lossy().contains(".gone")) {
                return Err(format!("{left:?}"));
            }
            Ok(())
        })
        .await;
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.directory.path().join("pods").join(uid)
    }

    async fn events(&self, reason: &str) -> Vec<Event> {
        let events: Api<Event> = Api::namespaced(self.server.client(), "default");
        let all = events.list(&ListParams::default()).await.unwrap().items;
        all.into_iter().filter(|event| event.reason.as_deref() == Some(reason)).collect()
    }

    async fn signal(&self, uid: &str, signal: rustix::process::Signal) {
        rustix::process::kill_process(process_id(&self.pod_dir(uid)).unwrap(), signal).unwrap();
    }
}

/// A launcher Pod as KubeVirt's controllers make it, without a boot image.
fn launcher_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default",
            "labels": {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": "11-22"},
            "annotations": {"kubevirt.io/domain": "vm"},
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 60,
            "readinessGates": [{"conditionType": "kubevirt.io/virtual-machine-unpaused"}],
            "containers": [{
                "name": "compute", "image": "ferrovirt/launcher:1", "command": ["ferrovirt", "launcher"],
                "args": ["--name", "vm", "--namespace", "default", "--uid", "11-22", "--grace-period-seconds", "45"],
                "ports": [{"containerPort": 8443, "name": "control"}],
            }],
            "initContainers": [{
                "name": "guest-console-log", "image": "ferrovirt/launcher:1", "restartPolicy": "Always",
            }],
        },
    })
}

fn conditions(pod: &Pod) -> BTreeMap<String, String> {
    let conditions = pod.status.as_ref().unwrap().conditions.as_deref().unwrap_or_default();
    conditions
        .iter()
        .map(|condition| {
            let reason = condition.reason.as_deref().map(|reason| format!(" {reason}")).unwrap_or_default();
            (condition.type_.clone(), format!("{}{reason}", condition.status))
        })
        .collect()
}

fn terminated(pod: &Pod) -> (i32, String, String) {
    let status = pod.status.as_ref().unwrap();
    let state = status.container_statuses.as_ref().unwrap()[0].state.clone().unwrap();
    let end = state.terminated.unwrap();
    (end.exit_code, end.reason.unwrap_or_default(), end.message.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_ends_and_is_cleaned_up() {
    let world = World::new().await;
    let _node = world.start();
    let uid = world.create(launcher_pod("a")).await;
    let pod = world.wait_for_phase("a", "Running").await;
    let status = pod.status.clone().unwrap();
    let address: Ipv4Addr = status.pod_ip.clone().unwrap().parse().unwrap();
    assert_eq!(address.octets()[..2], [127, 88]);
    assert_eq!(status.host_ip.as_deref(), Some("127.0.0.1"));
    assert!(conditions(&pod).values().all(|value| value.starts_with("True")), "{:?}", conditions(&pod));
    assert_eq!(conditions(&pod)["kubevirt.io/virtual-machine-unpaused"], "True NotPaused");
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    assert!(all.clone().all(|container| container.ready && container.started == Some(true)));
    assert_eq!(all.count(), 2);

    let directory = world.pod_dir(&uid);
    let arguments = std::fs::read_to_string(directory.join("arguments")).unwrap();
    let expected = format!(
        "--state-dir /s launcher --name vm --namespace default --uid 11-22 --grace-period-seconds 45 --niceness 5 \
         --pod-dir {} --listen {address}:8443\n",
        directory.display()
    );
    assert_eq!(arguments, expected);
    let environment = std::fs::read_to_string(directory.join("environment")).unwrap();
    assert!(environment.contains("PATH=") && !environment.contains("CARGO"), "{environment}");
    let mode = |name: &str| std::fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(""), mode("tls"), mode("tls/tls.key")), (0o711, 0o700, 0o600));
    eventually(async || match world.events("Started").await.as_slice() {
        [event] if event.message.as_deref() == Some("Started container compute") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;

    let id = process_id(&directory).unwrap();
    world.pods().delete("a", &DeleteParams::default()).await.unwrap();
    world.wait_until_gone("a", &uid).await;
    assert!(!is_alive(id));
    let killing = world.events("Killing").await;
    assert_eq!(killing.len(), 1);
    assert_eq!(killing[0].message.as_deref(), Some("Stopping container compute"));
    assert_eq!(killing[0].involved_object.field_path.as_deref(), Some("spec.containers{compute}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_a_launcher_ended_is_in_its_pod() {
    use rustix::process::Signal;
    let world = World::new().await;
    let _node = world.start();
    let message = |state: &str| format!(r#"{{"state":"{state}","vmiUid":"u"}}"#);
    for (name, signal, phase, expected) in [
        ("off", Signal::USR1, "Succeeded", (0, "Completed", message("shutOff"))),
        ("crash", Signal::USR2, "Failed", (1, "Error", message("crashed"))),
        ("kill", Signal::KILL, "Failed", (137, "Error", String::new())),
    ] {
        let (uid, _) = world.create_running(name).await;
        world.signal(&uid, signal).await;
        let pod = world.wait_for_phase(name, phase).await;
        let (code, reason, message) = terminated(&pod);
        assert_eq!((code, reason.as_str(), message), expected, "{name}");
        assert!(conditions(&pod)["Ready"].starts_with("False"), "{:?}", conditions(&pod));
        // Its directory stays as long as its Pod, for its logs.
        assert!(world.pod_dir(&uid).exists());
        world.pods().delete(name, &DeleteParams::default()).await.unwrap();
        world.wait_until_gone(name, &uid).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launcher_that_dies_at_once_says_why_in_its_pod() {
    let world = World::new().await;
    world.behave("die");
    let _node = world.start();
    world.create(launcher_pod("a")).await;
    let pod = world.wait_for_phase("a", "Failed").await;
    assert_eq!(terminated(&pod), (3, "Error".to_owned(), "cannot do that".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_not_there_fails_the_pod() {
    let world = World::new().await;
    std::fs::remove_file(world.directory.path().join("launcher")).unwrap();
    let _node = world.start();
    let uid = world.create(launcher_pod("a")).await;
    let pod = world.wait_for_phase("a", "Failed").await;
    let status = pod.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("StartError"));
    assert!(status.message.unwrap().starts_with("cannot start `"));
    assert!(!world.pod_dir(&uid).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_launcher_is_not_run() {
    let world = World::new().await;
    let _node = world.start();
    let uid = world
        .create(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"containers": [{"name": "nginx", "image": "nginx"}]},
        }))
        .await;
    let pod = world.wait_for_phase("web", "Failed").await;
    let status = pod.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("UnsupportedPod"));
    assert_eq!(
        status.message.as_deref(),
        Some(
            "ferrovirt runs the launcher Pods of VirtualMachineInstances only, and this is none: it has no label \
             `kubevirt.io=virt-launcher`"
        )
    );
    assert!(status.container_statuses.is_none());
    world.pods().delete("web", &DeleteParams::default()).await.unwrap();
    world.wait_until_gone("web", &uid).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launcher_that_does_not_obey_is_killed() {
    let world = World::new().await;
    world.behave("stubborn");
    let _node = world.start();
    let (uid, id) = world.create_running("a").await;
    world.pods().delete("a", &DeleteParams::default()).await.unwrap();
    eventually(
        async || if world.events("Killing").await.is_empty() { Err("no event".to_owned()) } else { Ok(()) },
    )
    .await;
    assert!(is_alive(id), "it has a minute");
    // A shorter grace counts at once.
    world.pods().delete("a", &DeleteParams::default().grace_period(1)).await.unwrap();
    world.wait_until_gone("a", &uid).await;
    assert!(!is_alive(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launcher_whose_pod_was_removed_by_force_ends() {
    let world = World::new().await;
    world.behave("stubborn");
    let _node = world.start();
    let (uid, id) = world.create_running("a").await;
    world.pods().delete("a", &DeleteParams::default().grace_period(0)).await.unwrap();
    world.wait_until_gone("a", &uid).await;
    assert!(!is_alive(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_during_the_start_ends_it() {
    let world = World::new().await;
    world.behave("deaf");
    let _node = world.start();
    let uid = world.create(launcher_pod("a")).await;
    eventually(async || {
        if world.pod_dir(&uid).join("descriptors").exists() { Ok(()) } else { Err("not started".to_owned()) }
    })
    .await;
    let id = process_id(&world.pod_dir(&uid)).unwrap();
    world.pods().delete("a", &DeleteParams::default()).await.unwrap();
    world.wait_until_gone("a", &uid).await;
    assert!(!is_alive(id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_that_somebody_reports_makes_the_pod_unready() {
    let world = World::new().await;
    let _node = world.start();
    world.create_running("a").await;
    for (value, ready) in [("False", "False ReadinessGatesNotReady"), ("True", "True")] {
        let patch = json!({"status": {"conditions": [
            {"type": "kubevirt.io/virtual-machine-unpaused", "status": value},
        ]}});
        world.pods().patch_status("a", &PatchParams::default(), &Patch::Strategic(&patch)).await.unwrap();
        eventually(async || {
            let found = conditions(&world.pods().get("a").await.unwrap())["Ready"].clone();
            if found == ready { Ok(()) } else { Err(found) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn launchers_outlive_the_daemon_and_are_taken_over() {
    let world = World::new().await;
    let node = world.start();
    let mut uids = Vec::new();
    for number in 0..20 {
        uids.push(world.create(launcher_pod(&format!("p{number}"))).await);
    }
    for number in 0..20 {
        world.wait_for_phase(&format!("p{number}"), "Running").await;
    }
    eventually(async || match world.events("Started").await.len() {
        20 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    let before = world.pods().list(&ListParams::default()).await.unwrap();
    let ids: Vec<_> = uids.iter().map(|uid| process_id(&world.pod_dir(uid)).unwrap()).collect();
    drop(node);
    // What happens meanwhile: one is shut off, one is killed, one Pod is deleted and one removed by force.
    world.signal(&uids[0], rustix::process::Signal::USR1).await;
    world.signal(&uids[1], rustix::process::Signal::KILL).await;
    eventually(async || if is_alive(ids[0]) || is_alive(ids[1]) { Err("alive".to_owned()) } else { Ok(()) })
        .await;
    world.pods().delete("p2", &DeleteParams::default()).await.unwrap();
    world.pods().delete("p3", &DeleteParams::default().grace_period(0)).await.unwrap();

    let began = std::time::Instant::now();
    let _node = world.start();
    assert_eq!(terminated(&world.wait_for_phase("p0", "Succeeded").await).0, 0);
    assert_eq!(terminated(&world.wait_for_phase("p1", "Failed").await).0, 137);
    world.wait_until_gone("p2", &uids[2]).await;
    world.wait_until_gone("p3", &uids[3]).await;
    // Far below the second that is promised, but this machine may be busy.
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    let after = world.pods().list(&ListParams::default()).await.unwrap();
    let version = |pods: &[Pod], name: &str| {
        let found = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name)).unwrap();
        found.metadata.resource_version.clone().unwrap()
    };
    for (number, id) in ids.iter().enumerate().skip(4) {
        let name = format!("p{number}");
        assert_eq!(
            version(&before.items, &name),
            version(&after.items, &name),
            "{name} was not written again"
        );
        assert!(is_alive(*id));
    }
    assert_eq!(world.events("Started").await.len(), 20);
    assert!(world.events("Started").await.iter().all(|event| event.count == Some(1)));
    // And they are still looked after.
    world.signal(&uids[4], rustix::process::Signal::KILL).await;
    world.wait_for_phase("p4", "Failed").await;
    world.pods().delete("p5", &DeleteParams::default()).await.unwrap();
    world.wait_until_gone("p5", &uids[5]).await;
    assert!(!is_alive(ids[5]));
}

/// The files of a Pod as the first version wrote them are kept; and a later version may add to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn launchers_of_other_versions_are_taken_over() {
    let world = World::new().await;
    let node = world.start();
    let kept = [
        ("pod.json", include_str!("../../tests/fixtures/pod-1/pod.json")),
        ("launcher.json", include_str!("../../tests/fixtures/pod-1/launcher.json")),
    ];
    let mut pods = Vec::new();
    for (name, more) in [("a", ""), ("b", "\"later\":{\"a\":[1]},")] {
        let uid = world.create(launcher_pod(name)).await;
        let pod = world.wait_for_phase(name, "Running").await;
        let address = pod.status.unwrap().pod_ip.unwrap();
        let id = process_id(&world.pod_dir(&uid)).unwrap();
        let process = id.as_raw_pid().to_string();
        for (file, text) in kept {
            let text = text.replace("UID", &uid).replace("ADDRESS", &address).replace("PROCESS", &process);
            let text = text.replace("\"a\",", &format!("\"{name}\",")).replacen('{', &format!("{{{more}"), 1);
            pods.push((world.pod_dir(&uid).join(file), text));
        }
    }
    drop(node);
    for (path, text) in &pods {
        std::fs::write(path, text).unwrap();
    }
    let _node = world.start();
    for name in ["a", "b"] {
        let pod = world.pods().get(name).await.unwrap();
        let uid = pod.metadata.uid.unwrap();
        world.signal(&uid, rustix::process::Signal::USR1).await;
        assert_eq!(terminated(&world.wait_for_phase(name, "Succeeded").await).0, 0);
    }
    assert_eq!(world.events("Started").await.len(), 2, "nothing was started again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_panics_is_replaced_and_its_launcher_goes_on() {
    let world = World::new().await;
    let _node = world.start();
    let uid = world.create(launcher_pod("a")).await;
    world.wait_for_phase("a", "Running").await;
    let id = process_id(&world.pod_dir(&uid)).unwrap();
    let trap = world.directory.path().join("panic");
    // The second one is the successor.
    for _ in 0..2 {
        std::fs::write(&trap, "").unwrap();
        eventually(async || if trap.exists() { Err("nobody panicked".to_owned()) } else { Ok(()) }).await;
    }
    assert!(is_alive(id));
    world.signal(&uid, rustix::process::Signal::USR1).await;
    assert_eq!(terminated(&world.wait_for_phase("a", "Succeeded").await).0, 0);
    assert_eq!(world.events("Started").await.len(), 1, "it was started once");
    world.pods().delete("a", &DeleteParams::default()).await.unwrap();
    world.wait_until_gone("a", &uid).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_the_host_no_pod_is_said_to_run() {
    let world = World::new().await;
    let node = world.start();
    let (uid, _) = world.create_running("a").await;
    drop(node);
    world.signal(&uid, rustix::process::Signal::KILL).await;
    std::fs::remove_dir_all(world.pod_dir("")).unwrap();
    let _node = world.start();
    let pod = world.wait_for_phase("a", "Failed").await;
    let expected = "The container could not be located when the pod was terminated";
    assert_eq!(terminated(&pod), (137, "ContainerStatusUnknown".to_owned(), expected.to_owned()));
    assert_eq!(pod.status.unwrap().reason.as_deref(), Some("NodeRestarted"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_understood_is_left_alone() {
    let world = World::new().await;
    let node = world.start();
    let (uid, id) = world.create_running("a").await;
    drop(node);
    let record = world.pod_dir(&uid).join("pod.json");
    let good = std::fs::read(&record).unwrap();
    std::fs::write(&record, "{").unwrap();
    std::fs::create_dir(world.pod_dir("strange")).unwrap();
    std::fs::create_dir(world.pod_dir(".new-half")).unwrap();
    let node = world.start();
    // The node works, for somebody else, and the Pod is as it was.
    world.create(launcher_pod("b")).await;
    world.wait_for_phase("b", "Running").await;
    world.wait_for_phase("a", "Running").await;
    assert!(is_alive(id) && world.pod_dir("strange").exists() && !world.pod_dir(".new-half").exists());
    drop(node);
    std::fs::write(&record, good).unwrap();
    let _node = world.start();
    world.pods().delete("a", &DeleteParams::default()).await.unwrap();
    world.wait_until_gone("a", &uid).await;
    assert!(!is_alive(id));
}

/// A launcher Pod whose boot image is at a registry on `port`.
fn pod_with_image(name: &str, port: u16) -> Value {
    let mut pod = launcher_pod(name);
    let image = format!("127.0.0.1:{port}/team/boot:v1");
    pod["metadata"]["annotations"]["ferrovirt.dev/image-paths"] = r#"{"boot":["/vmlinuz"]}"#.into();
    pod["spec"]["volumes"] = json!([{"name": "boot", "image": {"reference": image, "pullPolicy": "Always"}}]);
    let container = json!({"name": "volumekernel-boot-volume", "image": image});
    pod["spec"]["initContainers"].as_array_mut().unwrap().push(container);
    pod
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_does_not_come_is_told_in_the_status_and_its_pod_can_go() {
    let world = World::new().await;
    // It takes connections and never answers.
    let registry = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let silent = registry.local_addr().unwrap().port();
    let closed = {
        let port = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        port.local_addr().unwrap().port()
    };
    let _node = world.start();
    let waits = world.create(pod_with_image("waits", silent)).await;
    let fails = world.create(pod_with_image("fails", closed)).await;
    let waiting = async |name: &str, expected: &str| {
        eventually(async || {
            let pod = world.pods().get(name).await.unwrap();
            let statuses = pod.status.clone().unwrap().init_container_statuses.unwrap_or_default();
            let status = statuses.iter().find(|status| status.name == "volumekernel-boot-volume").cloned();
            let state = status.and_then(|status| status.state?.waiting);
            match state.and_then(|waiting| waiting.reason) {
                Some(reason) if reason == expected => Ok(pod),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    };
    let (_connection, _) = registry.accept().await.unwrap();
    let pod = waiting("waits", "PodInitializing").await;
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Pending"));
    world.pods().delete("waits", &DeleteParams::default()).await.unwrap();
    world.wait_until_gone("waits", &waits).await;
    let pod = waiting("fails", "ErrImagePull").await;
    assert_eq!(conditions(&pod)["Initialized"], "False ContainersNotInitialized");
    world.pods().delete("fails", &DeleteParams::default()).await.unwrap();
    world.wait_until_gone("fails", &fails).await;
    assert_eq!(std::fs::read_dir(world.pod_dir("")).unwrap().count(), 0);
}

/// The control API of a launcher, as far as probes need it: what it answers to each path, and how often it was asked.
struct Guest {
    answers: Arc<Mutex<HashMap<&'static str, &'static str>>>,
    asked: watch::Receiver<HashMap<String, usize>>,
    _server: Listening,
}

/// A server that runs until this is dropped.
struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

const LIVENESS: &str = "/v1/probe/liveness";
const READINESS: &str = "/v1/probe/readiness";
const SUCCESS: &str = r#""success""#;
const WARNING: &str = r#"{"warning":"odd"}"#;
const FAILURE: &str = r#"{"failure":"no"}"#;

impl Guest {
    /// Serves at the address of a Pod that runs, with its certificate.
    async fn start(pod: &Pod, directory: &Path) -> Self {
        let address = pod.status.as_ref().unwrap().pod_ip.clone().unwrap();
        let read = |name: &str| std::fs::read(directory.join("tls").join(name)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(&read("tls.crt")).unwrap()],
                PrivateKeyDer::from_pem_slice(&read("tls.key")).unwrap(),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind(format!("{address}:8443")).await.unwrap();
        let answers: Arc<Mutex<HashMap<&str, &str>>> = Arc::default();
        let (count, asked) = watch::channel(HashMap::new());
        let known = Arc::clone(&answers);
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // A node that ends lets go of its connections at any point.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap_or_default();
                let head = String::from_utf8_lossy(&head[..length]).into_owned();
                let Some(path) = head.split(' ').nth(1) else { continue };
                count.send_modify(|count| *count.entry(path.to_owned()).or_insert(0) += 1);
                let body = known.lock().unwrap().get(path).copied().unwrap_or_default();
                let code = if body.is_empty() { 409 } else { 200 };
                let body = if body.is_empty() { r#"{"error":"there is no machine"}"# } else { body };
                let answer = format!("HTTP/1.1 {code} So\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { answers, asked, _server: Listening(server) }
    }

    fn answer(&self, path: &'static str, body: &'static str) {
        self.answers.lock().unwrap().insert(path, body);
    }

    /// Waits until it was asked so many times more.
    async fn wait_until_asked(&mut self, path: &str, times: usize) {
        let asked = |count: &HashMap<String, usize>| count.get(path).copied().unwrap_or_default();
        let before = asked(&self.asked.borrow());
        let enough = self.asked.wait_for(|count| asked(count) >= before + times);
        tokio::time::timeout(std::time::Duration::from_secs(20), enough).await.unwrap().unwrap();
    }
}

/// A launcher Pod with these probes, which are made every second.
fn probed_pod(name: &str, probes: &Value) -> Value {
    let mut pod = launcher_pod(name);
    for (probe, thresholds) in probes.as_object().unwrap() {
        let compute = &mut pod["spec"]["containers"][0];
        compute[probe] = thresholds.clone();
        compute[probe]["tcpSocket"] = json!({"port": 22});
        compute[probe]["periodSeconds"] = json!(1);
    }
    pod
}

async fn wait_for_ready(world: &World, name: &str, wanted: &str) -> Pod {
    eventually(async || {
        let pod = world.pods().get(name).await.unwrap();
        let found = conditions(&pod);
        if found["Ready"] == wanted && found["ContainersReady"] == wanted {
            Ok(pod)
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_ready_while_its_readiness_probe_holds() {
    const UNREADY: &str = "False ContainersNotReady";
    let world = World::new().await;
    let node = world.start();
    let probes = json!({"readinessProbe": {"successThreshold": 2, "failureThreshold": 2}});
    let uid = world.create(probed_pod("a", &probes)).await;
    let pod = world.wait_for_phase("a", "Running").await;
    assert_eq!(conditions(&pod)["Ready"], UNREADY);
    let status = &pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0];
    assert_eq!((status.ready, status.started), (false, Some(true)));
    let mut guest = Guest::start(&pod, &world.pod_dir(&uid)).await;
    // Neither a machine that is not there yet nor the first success says anything.
    guest.wait_until_asked(READINESS, 3).await;
    guest.answer(READINESS, WARNING);
    wait_for_ready(&world, "a", "True").await;
    let events = world.events("ProbeWarning").await;
    assert_eq!(events[0].message.as_deref(), Some("Readiness probe warning: odd"), "it counts as a success");
    assert_eq!(events[0].type_.as_deref(), Some("Warning"));
    guest.answer(READINESS, FAILURE);
    let pod = wait_for_ready(&world, "a", UNREADY).await;
    let events = world.events("Unhealthy").await;
    assert_eq!(events[0].message.as_deref(), Some("Readiness probe failed: no"));
    assert_eq!(events[0].type_.as_deref(), Some("Warning"));
    assert_eq!(events[0].involved_object.field_path.as_deref(), Some("spec.containers{compute}"));
    assert!(is_alive(process_id(&world.pod_dir(&uid)).unwrap()), "it runs all the same");
    guest.answer(READINESS, SUCCESS);
    let ready = wait_for_ready(&world, "a", "True").await;
    assert_ne!(pod.metadata.resource_version, ready.metadata.resource_version);

    // Another daemon goes on where this one ends.
    drop(node);
    let _node = world.start();
    guest.wait_until_asked(READINESS, 3).await;
    let after = world.pods().get("a").await.unwrap();
    assert_eq!(ready.metadata.resource_version, after.metadata.resource_version);
    guest.answer(READINESS, FAILURE);
    wait_for_ready(&world, "a", UNREADY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launcher_whose_liveness_probe_fails_is_told_to_end() {
    let world = World::new().await;
    let _node = world.start();
    let uid = world.create(probed_pod("a", &json!({"livenessProbe": {"failureThreshold": 3}}))).await;
    let pod = world.wait_for_phase("a", "Running").await;
    assert_eq!(conditions(&pod)["Ready"], "True", "only readiness makes it wait");
    let mut guest = Guest::start(&pod, &world.pod_dir(&uid)).await;
    guest.answer(LIVENESS, SUCCESS);
    guest.wait_until_asked(LIVENESS, 1).await;
    guest.answer(LIVENESS, FAILURE);
    let ended = world.wait_for_phase("a", "Succeeded").await;
    assert_eq!(terminated(&ended).0, 0, "it was told, and not killed");
    eventually(async || match world.events("Killing").await.as_slice() {
        [event] if event.message.as_deref() == Some("Container compute failed liveness probe") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let failures = world.events("Unhealthy").await;
    let told: Vec<_> = failures.iter().map(|event| (event.message.as_deref(), event.count)).collect();
    assert_eq!(told, [(Some("Liveness probe failed: no"), Some(3))]);
    assert!(world.pods().get("a").await.unwrap().metadata.deletion_timestamp.is_none());
}

/// The daemon ends after it has told a launcher to end, and before that has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launcher_that_was_told_to_end_is_not_forgotten_by_the_next_daemon() {
    let world = World::new().await;
    world.behave("stubborn");
    let node = world.start();
    let mut pod = probed_pod("a", &json!({"livenessProbe": {"failureThreshold": 1}}));
    pod["spec"]["terminationGracePeriodSeconds"] = json!(2);
    let uid = world.create(pod).await;
    let pod = world.wait_for_phase("a", "Running").await;
    let guest = Guest::start(&pod, &world.pod_dir(&uid)).await;
    guest.answer(LIVENESS, FAILURE);
    let record = world.pod_dir(&uid).join("pod.json");
    eventually(async || match std::fs::read_to_string(&record).unwrap() {
        record if record.contains(r#""ending":true"#) => Ok(()),
        record => Err(record),
    })
    .await;
    drop(node);
    guest.answer(LIVENESS, SUCCESS);
    let _node = world.start();
    assert_eq!(terminated(&world.wait_for_phase("a", "Failed").await).0, 137, "its time was over");
    assert_eq!(world.events("Killing").await.len(), 1);
}
