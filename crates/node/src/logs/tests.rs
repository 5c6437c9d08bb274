#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use futures::TryStreamExt as _;
use serde_json::{Value, json};

use super::*;
use crate::test_server;

fn query(pairs: &[(&str, &str)]) -> Result<LogOptions, LogError> {
    LogOptions::from_query(pairs.iter().copied(), at("2026-11-22T18:00:00Z"))
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn queries_are_read_as_kubernetes_does() {
    let all = query(&[
        ("container", "compute"),
        ("follow", "true"),
        ("previous", "1"),
        ("timestamps", "False"),
        ("tailLines", "0"),
        ("limitBytes", "1"),
        ("sinceSeconds", "60"),
        ("pretty", "x"),
    ]);
    let expected = LogOptions {
        container: Some("compute".to_owned()),
        follow: true,
        previous: true,
        since: Some(at("2026-11-22T17:59:00Z")),
        tail_lines: Some(0),
        limit_bytes: Some(1),
        timestamps: false,
    };
    assert_eq!(all.unwrap(), expected);
    assert_eq!(query(&[("tailLines", ""), ("container", "")]).unwrap(), LogOptions::default());
    let since = |text| query(&[("sinceTime", text)]).unwrap().since;
    assert_eq!(since("2026-11-22T17:00:00+01:00"), Some(at("2026-11-22T16:00:00Z")));
    assert_eq!(query(&[("sinceSeconds", "9223372036854775807")]).unwrap().since, Some(Timestamp::MIN));

    let bad = |pairs: &[(&str, &str)]| match query(pairs) {
        Err(LogError::BadRequest(message)) => message,
        Err(LogError::Invalid(options)) => options
            .iter()
            .map(|option| format!("{}={} {}; ", option.field, option.value, option.detail))
            .collect(),
        other => panic!("{other:?}"),
    };
    let table = [
        (vec![("tailLines", "x")], "strconv.ParseInt: parsing \"x\": invalid syntax"),
        (
            vec![("tailLines", "99999999999999999999")],
            "strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
        ),
        (vec![("tailLines", "-1")], "tailLines=-1 must be greater than or equal to 0; "),
        (
            vec![("limitBytes", "0"), ("sinceSeconds", "0")],
            "limitBytes=0 must be greater than 0; sinceSeconds=0 must be greater than 0; ",
        ),
        (
            vec![("sinceSeconds", "1"), ("sinceTime", "t")],
            "sinceTime=t at most one of `sinceTime` or `sinceSeconds` may be specified; ",
        ),
    ];
    for (pairs, expected) in table {
        assert_eq!(bad(&pairs), expected);
    }
    assert!(bad(&[("sinceTime", "yesterday")]).starts_with("unable to parse sinceTime \"yesterday\""));
}

fn pod(uid: &str, state: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {
            "name": "virt-launcher-vm-abcde", "namespace": "ns", "uid": uid,
            "annotations": {"kubevirt.io/domain": "vm"},
        },
        "spec": {
            "nodeName": "here",
            "containers": [{"name": "compute"}],
            "initContainers": [{"name": "guest-console-log"}, {"name": "volumekernel-boot-volume"}],
        },
        "status": {
            "containerStatuses": [{
                "name": "compute", "state": state, "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            }],
        },
    }))
    .unwrap()
}

fn running() -> Value {
    json!({"running": {"startedAt": "2026-11-22T18:00:00Z"}})
}

async fn refusal(settings: &Settings, pod: &Pod, options: &LogOptions) -> String {
    match open(settings, pod, options).await {
        Err(LogError::BadRequest(message)) => message,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("there is a log"),
    }
}

#[tokio::test]
async fn who_has_no_log_is_told_why_as_by_a_kubelet() {
    let directory = tempfile::tempdir().unwrap();
    let settings = test_server::settings(directory.path());
    let named =
        |container: &str| LogOptions { container: Some(container.to_owned()), ..LogOptions::default() };
    let waiting = |reason: &str| json!({"waiting": {"reason": reason}});
    let table = [
        (pod("u", running()), named("x"), "container x is not valid for pod virt-launcher-vm-abcde"),
        (
            pod("u", running()),
            named("guest-console-log"),
            "container \"guest-console-log\" in pod \"virt-launcher-vm-abcde\" is not available",
        ),
        (
            pod("u", waiting("ContainerCreating")),
            LogOptions::default(),
            "container \"compute\" in pod \"virt-launcher-vm-abcde\" is waiting to start: ContainerCreating",
        ),
        (
            pod("u", waiting("ErrImagePull")),
            LogOptions::default(),
            "container \"compute\" in pod \"virt-launcher-vm-abcde\" is waiting to start: image can't be pulled",
        ),
        (
            pod("u", waiting("ImagePullBackOff")),
            LogOptions::default(),
            "container \"compute\" in pod \"virt-launcher-vm-abcde\" is waiting to start: trying and failing to pull image",
        ),
        (
            pod("u", json!({})),
            LogOptions::default(),
            "container \"compute\" in pod \"virt-launcher-vm-abcde\" is waiting to start - no logs yet",
        ),
        (
            pod("u", running()),
            LogOptions { previous: true, ..LogOptions::default() },
            "previous terminated container \"compute\" in pod \"virt-launcher-vm-abcde\" not found",
        ),
        (
            pod("u", running()),
            LogOptions::default(),
            "unable to retrieve container logs for ferrovirt://u/compute",
        ),
    ];
    for (pod, options, expected) in table {
        assert_eq!(refusal(&settings, &pod, &options).await, expected);
    }
    let mut two = pod("u", running());
    let spec = two.spec.as_mut().unwrap();
    spec.containers
        .push(k8s_openapi::api::core::v1::Container { name: "b".to_owned(), ..Default::default() });
    assert_eq!(
        refusal(&settings, &two, &LogOptions::default()).await,
        "a container name must be specified for pod virt-launcher-vm-abcde, choose one of: [compute b] or one of the \
         init containers: [guest-console-log volumekernel-boot-volume]"
    );
    // Not on a node yet: nothing, and no error.
    two.spec.as_mut().unwrap().node_name = None;
    let nothing = open(&settings, &two, &named("b")).await.unwrap();
    assert_eq!(nothing.try_collect::<Vec<_>>().await.unwrap(), [""; 0]);
}

fn append(pod: &PodDir, lines: &[&str]) {
    fs::create_dir_all(pod.path().join("logs")).unwrap();
    let mut file = fs::OpenOptions::new().create(true).append(true).open(pod.log("compute")).unwrap();
    for line in lines {
        writeln!(file, "2026-11-22T18:48:01Z stdout F {line}").unwrap();
    }
}

/// A process that stands for a launcher; ended when dropped.
struct Launcher(Child);

impl Launcher {
    fn start(pod: &PodDir) -> Self {
        let child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        fs::write(pod.pod_record(), json!({"processId": child.id()}).to_string()).unwrap();
        Self(child)
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_log_is_followed_until_its_launcher_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let settings = test_server::settings(directory.path());
    let pod_dir = PodDir::new(settings.pods_dir.join("uid"));
    append(&pod_dir, &["1", "2"]);
    let launcher = Launcher::start(&pod_dir);
    let pod = pod("uid", running());
    let options = LogOptions { follow: true, tail_lines: Some(1), ..LogOptions::default() };
    let mut log = open(&settings, &pod, &options).await.unwrap();
    assert_eq!(log.try_next().await.unwrap().unwrap(), "2\n");
    append(&pod_dir, &["3"]);
    assert_eq!(log.try_next().await.unwrap().unwrap(), "3\n");
    append(&pod_dir, &["4"]);
    drop(launcher);
    let rest: Vec<Bytes> = tokio::time::timeout(Duration::from_secs(20), log.try_collect())
        .await
        .expect("the log ends")
        .unwrap();
    assert_eq!(rest.concat(), b"4\n");

    // Without following it ends by itself, whoever lives.
    let limited = LogOptions { limit_bytes: Some(3), ..LogOptions::default() };
    let text: Vec<Bytes> = open(&settings, &pod, &limited).await.unwrap().try_collect().await.unwrap();
    assert_eq!(text.concat(), b"1\n2");
}

#[tokio::test]
async fn a_boot_before_is_the_previous_container() {
    let directory = tempfile::tempdir().unwrap();
    let settings = test_server::settings(directory.path());
    for uid in ["first", "second", "third"] {
        let pod_dir = PodDir::new(settings.pods_dir.join(uid));
        append(&pod_dir, &[uid]);
        if uid != "third" {
            let boot = EndedBoot { namespace: "ns".into(), instance: "vm".into(), pod_uid: uid.into() };
            let now =
                at("2026-11-22T18:00:00Z") + jiff::SignedDuration::from_secs(i64::from(uid == "second"));
            keep(&settings, &boot, now).unwrap();
            fs::remove_dir_all(pod_dir.path()).unwrap();
        }
    }
    let read = async |uid: &str, previous: bool| {
        let options = LogOptions { previous, follow: true, ..LogOptions::default() };
        let log = open(&settings, &pod(uid, json!({"terminated": {"exitCode": 0}})), &options).await.unwrap();
        let pieces: Vec<Bytes> = log.try_collect().await.unwrap();
        String::from_utf8(pieces.concat()).unwrap()
    };
    assert_eq!(read("third", true).await, "second\n");
    // The object of a Pod whose directory has gone is there for a moment yet.
    assert_eq!(read("second", false).await, "second\n");
}

#[test]
fn who_has_ended_is_known_without_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let pod = PodDir::new(directory.path().join("uid"));
    assert!(has_ended(&pod), "there is no directory");
    fs::create_dir(pod.path()).unwrap();
    assert!(!has_ended(&pod), "it has not begun");
    let launcher = Launcher::start(&pod);
    assert!(!has_ended(&pod));
    fs::write(pod.exit_record(), "{}").unwrap();
    assert!(!has_ended(&pod), "it has its last words to say");
    let record = LauncherRecord {
        process_id: launcher.0.id(),
        control: "127.0.0.1:8443".parse().unwrap(),
        version: String::new(),
    };
    fs::write(pod.launcher_record(), serde_json::to_vec(&record).unwrap()).unwrap();
    assert!(!has_ended(&pod));
    drop(launcher);
    assert!(has_ended(&pod));
}
