//! Which Pods this node runs, and what of them it believes.
//!
//! Anybody who may create Pods may bind one here, so everything in a Pod is hostile. A launcher is started with arguments
//! that are written anew from values checked here; images, commands, environments, mounts and security contexts of its
//! containers have no effect, and a Pod that needs more than a launcher can give is refused as a whole.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, Volume};
use manifest::keys;

use crate::schedule::{cpu_limit, cpu_request};

/// Reason of a Pod's status that is not run here.
pub(super) const UNSUPPORTED: &str = "UnsupportedPod";

/// The container that is the launcher.
pub(super) const COMPUTE: &str = "compute";

/// The init container that stands for the launcher's log of the guest's console.
pub(super) const CONSOLE_LOG: &str = "guest-console-log";

/// The init container that stands for the pull of the boot image, whose digest is in its status.
pub(super) const BOOT_IMAGE: &str = "volumekernel-boot-volume";

/// Longest grace period taken, in seconds: 136 years. Kubernetes has no limit.
pub(super) const MOST_GRACE_SECONDS: u64 = u32::MAX as u64;

/// The level that no guest goes beyond: a third of what any other process has.
const MOST_NICENESS: u8 = 5;

/// Longest UID of a Kubernetes object; those of API servers have 36 characters.
const MOST_UID_BYTES: usize = 64;

/// What a launcher is started for, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LauncherPod {
    /// Name of the VirtualMachineInstance.
    pub instance: String,
    /// Its UID.
    pub instance_uid: String,
    /// The namespace of both.
    pub namespace: String,
    /// What the launcher is told to give the guest for its shutdown.
    pub grace_seconds: u64,
    /// Most that the machine takes of the processors, in thousandths of a core.
    pub cpu_limit_millis: Option<u64>,
}

impl LauncherPod {
    /// Reads a Pod.
    ///
    /// # Errors
    /// Why it is not run here, for its status.
    pub(super) fn read(pod: &Pod) -> Result<Self, String> {
        read(pod).map_err(|why| {
            format!(
                "ferrovirt runs the launcher Pods of VirtualMachineInstances only, and this is none: {why}"
            )
        })
    }

    /// The arguments of the launcher that the Pod decides, `niceness` among them.
    pub(super) fn arguments(&self, niceness: u8) -> Vec<String> {
        let grace = self.grace_seconds.to_string();
        let niceness = niceness.to_string();
        let cpu_limit = self.cpu_limit_millis.map(|millis| millis.to_string());
        [
            ("--name", self.instance.as_str()),
            ("--namespace", &self.namespace),
            ("--uid", &self.instance_uid),
            ("--grace-period-seconds", &grace),
            ("--niceness", &niceness),
        ]
        .into_iter()
        .chain(cpu_limit.as_deref().map(|limit| ("--cpu-limit-millis", limit)))
        .flat_map(|(name, value)| [name.to_owned(), value.to_owned()])
        .collect()
    }
}

fn read(pod: &Pod) -> Result<LauncherPod, String> {
    let labels = pod.metadata.labels.as_ref();
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    if label(keys::APP) != Some("virt-launcher") {
        return Err(format!("it has no label `{}=virt-launcher`", keys::APP));
    }
    let spec = pod.spec.as_ref().ok_or("it has no spec")?;
    check_spec(spec)?;
    let [compute] = spec.containers.as_slice() else {
        return Err(format!("its containers are not just `{COMPUTE}`"));
    };
    if compute.name != COMPUTE {
        return Err(format!("its containers are not just `{COMPUTE}`"));
    }
    if compute.command.as_deref().unwrap_or_default() != ["ferrovirt", "launcher"] {
        return Err(format!("the command of its container `{COMPUTE}` is not `ferrovirt launcher`"));
    }
    for container in spec.init_containers.as_deref().unwrap_or_default() {
        let policy = container.restart_policy.as_deref();
        let is_known = match container.name.as_str() {
            CONSOLE_LOG => policy == Some("Always"),
            BOOT_IMAGE => policy.is_none(),
            _ => false,
        };
        if !is_known {
            return Err(format!("its init container `{}` is not one of a launcher Pod", container.name));
        }
    }
    let privileged = |container: &Container| {
        container.security_context.as_ref().and_then(|context| context.privileged).unwrap_or_default()
    };
    if spec.containers.iter().chain(spec.init_containers.iter().flatten()).any(privileged) {
        return Err("it has a privileged container".to_owned());
    }
    let mut launcher = read_arguments(compute.args.as_deref().unwrap_or_default())?;
    // What is too large to be a number is no limit.
    launcher.cpu_limit_millis = cpu_limit(compute).and_then(|millis| u64::try_from(millis).ok());
    if Some(launcher.namespace.as_str()) != pod.metadata.namespace.as_deref() {
        return Err("`--namespace` is not its own".to_owned());
    }
    if label(keys::CREATED_BY) != Some(&launcher.instance_uid) {
        return Err(format!("`--uid` is not that of the label `{}`", keys::CREATED_BY));
    }
    let domain = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(keys::DOMAIN));
    if domain != Some(&launcher.instance) {
        return Err(format!("`--name` is not that of the annotation `{}`", keys::DOMAIN));
    }
    Ok(launcher)
}

fn check_spec(spec: &PodSpec) -> Result<(), String> {
    let of_host =
        [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
    if let Some((name, _)) = of_host.into_iter().find(|(_, asked)| *asked == Some(true)) {
        return Err(format!("it asks for `{name}`"));
    }
    if spec.restart_policy.as_deref() != Some("Never") {
        return Err("its restartPolicy is not `Never`".to_owned());
    }
    let is_known = |volume: &Volume| volume.image.is_some() && is_name(&volume.name);
    match spec.volumes.iter().flatten().find(|volume| !is_known(volume)) {
        Some(volume) => Err(format!("its volume `{}` is no image volume", volume.name)),
        None => Ok(()),
    }
}

/// Four options with one value each, every one once, in any order.
fn read_arguments(arguments: &[String]) -> Result<LauncherPod, String> {
    let wrong = || {
        format!(
            "the arguments of its container `{COMPUTE}` are not `--name`, `--namespace`, `--uid` and \
             `--grace-period-seconds` with a value each"
        )
    };
    let (mut name, mut namespace, mut uid, mut grace) = (None, None, None, None);
    let (pairs, rest) = arguments.as_chunks::<2>();
    if pairs.len() != 4 || !rest.is_empty() {
        return Err(wrong());
    }
    for [option, value] in pairs {
        let place = match option.as_str() {
            "--name" => &mut name,
            "--namespace" => &mut namespace,
            "--uid" => &mut uid,
            "--grace-period-seconds" => &mut grace,
            _ => return Err(wrong()),
        };
        if place.replace(value).is_some() {
            return Err(wrong());
        }
    }
    let (Some(name), Some(namespace), Some(uid), Some(grace)) = (name, namespace, uid, grace) else {
        return Err(wrong());
    };
    if !is_name(name) || !is_name(namespace) {
        return Err("`--name` or `--namespace` is no name of an object".to_owned());
    }
    if !is_uid(uid) {
        return Err("`--uid` is no UID".to_owned());
    }
    let digits = grace.len() <= 10 && grace.bytes().all(|byte| byte.is_ascii_digit());
    let grace_seconds = grace.parse().ok().filter(|seconds| digits && *seconds <= MOST_GRACE_SECONDS);
    Ok(LauncherPod {
        instance: name.clone(),
        instance_uid: uid.clone(),
        namespace: namespace.clone(),
        cpu_limit_millis: None,
        grace_seconds: grace_seconds
            .ok_or_else(|| format!("`--grace-period-seconds` is no number from 0 to {MOST_GRACE_SECONDS}"))?,
    })
}

/// The nice level of the QEMU of `pod`, from 0 to [`MOST_NICENESS`].
pub(super) fn niceness(pod: &Pod) -> u8 {
    nearest_level(cpu_request(pod))
}

/// The nice level whose share of the processors is nearest to what a kubelet gives for a CPU request in thousandths of a
/// core: 1024 shares for a core, of which a process at level 0 has as many, and each level a fifth less than the one
/// before (`sched_prio_to_weight` of the kernel: a factor of 1.25). More than a core is level 0, since levels below are
/// root's alone; and less than a third of one is [`MOST_NICENESS`], since a kubelet weighs Pods against each other only,
/// while this weighs a guest against everything on its host.
fn nearest_level(millis: i128) -> u8 {
    let share = 1000.0 / millis.clamp(1, 1000) as f64;
    // Half of a level is the root of its factor.
    let is_nearer = |level: &u8| share * share < 1.25_f64.powi(2 * i32::from(*level) + 1);
    (0..MOST_NICENESS).find(is_nearer).unwrap_or(MOST_NICENESS)
}

/// Whether this can be the name of an object, and of a file: an RFC 1123 subdomain.
pub(super) fn is_name(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(is_inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// Whether this can be the UID of an object, and the name of a directory.
pub(super) fn is_uid(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MOST_UID_BYTES
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.starts_with('-')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn launcher_pod() -> Value {
        json!({
            "metadata": {
                "name": "virt-launcher-vm-abcde", "namespace": "default",
                "labels": {"kubevirt.io": "virt-launcher", "kubevirt.io/created-by": "u-1"},
                "annotations": {"kubevirt.io/domain": "vm"},
            },
            "spec": {
                "restartPolicy": "Never",
                "containers": [{
                    "name": "compute", "image": "i", "command": ["ferrovirt", "launcher"],
                    "args": ["--name", "vm", "--namespace", "default", "--uid", "u-1", "--grace-period-seconds", "45"],
                    "env": [{"name": "LD_PRELOAD", "value": "/tmp/x.so"}],
                }],
                "initContainers": [
                    {"name": "guest-console-log", "image": "i", "restartPolicy": "Always"},
                    {"name": "volumekernel-boot-volume", "image": "k", "command": ["anything"]},
                ],
                "volumes": [{"name": "kernel-boot-volume", "image": {"reference": "k"}}],
            },
        })
    }

    fn read(pod: Value) -> Result<LauncherPod, String> {
        super::read(&serde_json::from_value(pod).unwrap())
    }

    fn niceness_of(pod: Value) -> u8 {
        niceness(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_launcher_pod_is_read_and_its_arguments_are_written_anew() {
        let launcher = read(launcher_pod()).unwrap();
        let expected = "--name vm --namespace default --uid u-1 --grace-period-seconds 45 --niceness 5";
        assert_eq!(launcher.arguments(niceness_of(launcher_pod())).join(" "), expected);
        let mut turned = launcher_pod();
        turned["spec"]["containers"][0]["args"] = json!([
            "--uid",
            "u-1",
            "--grace-period-seconds",
            "0045",
            "--name",
            "vm",
            "--namespace",
            "default"
        ]);
        assert_eq!(read(turned).unwrap(), launcher);
        let mut limited = launcher_pod();
        limited["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1500m"}});
        let launcher = read(limited).unwrap();
        assert!(launcher.arguments(0).ends_with(&["--cpu-limit-millis".to_owned(), "1500".to_owned()]));
    }

    #[test]
    fn a_guest_stands_behind_by_what_its_pod_requests_of_the_processors() {
        let mut pod = launcher_pod();
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "500m"}});
        assert_eq!(niceness_of(pod), 3);
        // The kernel's weights of levels 5 to 0, as shares: 335, 423, 526, 655, 820, 1024.
        for (millis, level) in [
            (-1, 5),
            (0, 5),
            (100, 5),
            (327, 5),
            (413, 4),
            (514, 3),
            (640, 2),
            (800, 1),
            (1000, 0),
            (8000, 0),
        ] {
            assert_eq!(nearest_level(millis), level, "{millis}m");
        }
    }

    /// Sets the value at `at`, a JSON pointer whose parent is there.
    fn changed(at: &str, value: Value) -> Value {
        let mut pod = launcher_pod();
        let (parent, key) = at.rsplit_once('/').unwrap();
        match pod.pointer_mut(at) {
            Some(place) => *place = value,
            None => pod.pointer_mut(parent).unwrap()[key] = value,
        }
        pod
    }

    #[test]
    fn whatever_differs_is_refused() {
        let compute = launcher_pod()["spec"]["containers"][0].clone();
        for (at, value, expected) in [
            ("/metadata/labels/kubevirt.io", json!("x"), "it has no label `kubevirt.io=virt-launcher`"),
            ("/metadata/labels", json!({}), "it has no label `kubevirt.io=virt-launcher`"),
            (
                "/metadata/labels/kubevirt.io~1created-by",
                json!("u-2"),
                "`--uid` is not that of the label `kubevirt.io/created-by`",
            ),
            (
                "/metadata/annotations/kubevirt.io~1domain",
                json!("other"),
                "`--name` is not that of the annotation `kubevirt.io/domain`",
            ),
            ("/metadata/namespace", json!("other"), "`--namespace` is not its own"),
            ("/spec/restartPolicy", json!("Always"), "its restartPolicy is not `Never`"),
            ("/spec/hostNetwork", json!(true), "it asks for `hostNetwork`"),
            ("/spec/hostPID", json!(true), "it asks for `hostPID`"),
            ("/spec/hostIPC", json!(true), "it asks for `hostIPC`"),
            (
                "/spec/volumes/0",
                json!({"name": "root", "hostPath": {"path": "/"}}),
                "its volume `root` is no image volume",
            ),
            (
                "/spec/volumes/0",
                json!({"name": "../x", "image": {"reference": "k"}}),
                "its volume `../x` is no image volume",
            ),
            ("/spec/containers/0/name", json!("other"), "its containers are not just `compute`"),
            ("/spec/containers", json!([compute, compute]), "its containers are not just `compute`"),
            ("/spec/containers", json!([]), "its containers are not just `compute`"),
            (
                "/spec/containers/0/command",
                json!(["ferrovirt", "serve"]),
                "the command of its container `compute` is not `ferrovirt launcher`",
            ),
            (
                "/spec/containers/0/command",
                Value::Null,
                "the command of its container `compute` is not `ferrovirt launcher`",
            ),
            (
                "/spec/containers/0/securityContext",
                json!({"privileged": true}),
                "it has a privileged container",
            ),
            (
                "/spec/initContainers/0/restartPolicy",
                Value::Null,
                "its init container `guest-console-log` is not one of a launcher Pod",
            ),
            (
                "/spec/initContainers/1/name",
                json!("evil"),
                "its init container `evil` is not one of a launcher Pod",
            ),
        ] {
            assert_eq!(read(changed(at, value.clone())).unwrap_err(), expected, "{at} {value}");
        }
    }

    #[test]
    fn whatever_else_the_arguments_are_is_refused() {
        let four = |name: &str, namespace: &str, uid: &str, grace: &str| {
            json!(["--name", name, "--namespace", namespace, "--uid", uid, "--grace-period-seconds", grace])
        };
        let others = "the arguments of its container `compute` are not `--name`, `--namespace`, `--uid` and \
             `--grace-period-seconds` with a value each";
        let no_name = "`--name` or `--namespace` is no name of an object";
        let no_grace = "`--grace-period-seconds` is no number from 0 to 4294967295";
        let at = "/spec/containers/0/args";
        for (value, expected) in [
            (Value::Null, others),
            (json!(["--name", "vm"]), others),
            (json!(["--name", "vm", "--name", "vm", "--name", "vm", "--name", "vm"]), others),
            (json!(["--name", "vm", "--namespace", "default", "--uid", "u-1", "--pod-dir", "/"]), others),
            (four("../vm", "default", "u-1", "1"), no_name),
            (four("vm", "..", "u-1", "1"), no_name),
            (four("-vm", "default", "u-1", "1"), no_name),
            (four(&"v".repeat(254), "default", "u-1", "1"), no_name),
            (four("vm", "default", "u/1", "1"), "`--uid` is no UID"),
            (four("vm", "default", "", "1"), "`--uid` is no UID"),
            (four("vm", "default", "u-1", "-1"), no_grace),
            (four("vm", "default", "u-1", "+1"), no_grace),
            (four("vm", "default", "u-1", ""), no_grace),
            (four("vm", "default", "u-1", "4294967296"), no_grace),
        ] {
            assert_eq!(read(changed(at, value.clone())).unwrap_err(), expected, "{value}");
        }
        let longest = read(changed(at, four("vm", "default", "u-1", "4294967295"))).unwrap();
        assert_eq!(longest.grace_seconds, MOST_GRACE_SECONDS);
    }
}
