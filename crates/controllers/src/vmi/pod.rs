//! The launcher Pod of an instance, in the shape that KubeVirt gives it where the cluster has image volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, ExecAction, ImageVolumeSource, LocalObjectReference, Pod,
    PodReadinessGate, PodSecurityContext, PodSpec, Probe, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use manifest::types::{KernelBootContainer, VirtualMachineInstance};
use manifest::{MemoryError, defaults, keys};
use ring::digest;
use serde_json::json;

use super::resources;

/// The container that is the launcher.
pub(super) const COMPUTE: &str = "compute";

/// Name of the launcher's port in its container.
pub(super) const CONTROL_PORT_NAME: &str = "control";

/// Port of the launcher's control API on its Pod's address.
pub(super) const CONTROL_PORT: u16 = 8443;

/// The readiness gate of a launcher Pod, and the condition that opens it: the guest is not paused.
pub(super) const UNPAUSED: &str = "kubevirt.io/virtual-machine-unpaused";

/// The image volume with kernel and initrd, and where it is mounted.
const KERNEL_VOLUME: &str = "kernel-boot-volume";
const KERNEL_MOUNT: &str = "/var/run/kubevirt-kernel-boot";

/// Annotation by which a user does without the container that finds out the kernel image's digest.
const SKIP_DIGEST: &str = "kubevirt.io/image-volume-skip-digest-resolution";

/// User and group of QEMU.
const QEMU_USER: i64 = 107;

/// Seconds that a guest has to shut down where the instance does not say.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Seconds that the Pod has beyond the guest's.
pub(super) const POD_GRACE_BEYOND_SECONDS: i64 = 30;

/// Seconds that a probe waits longer than it says: a machine has to start first (KubeVirt's `LibvirtStartupDelay`).
const PROBE_DELAY_SECONDS: i32 = 10;

/// The alphabet of generated names (`k8s.io/apimachinery/pkg/util/rand`).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Characters at the end of a generated name, and those in front of them at most (`maxGeneratedNameLength`).
const SUFFIX_LENGTH: usize = 5;
const BASE_LENGTH: usize = 58;

/// Longest label value (Kubernetes), and how much of a longer name is kept before its digest (KubeVirt).
const LABEL_LENGTH: usize = 63;
const KEPT_LENGTH: usize = 54;

/// Seconds between the power button and the kill; not negative.
pub(super) fn grace_seconds(instance: &VirtualMachineInstance) -> i64 {
    instance.spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS).max(0)
}

/// Name of the instance's Pod. It looks like a generated one, but follows from the instance's name and UID, so that
/// whoever creates it a second time is told that it exists.
pub(super) fn pod_name(instance: &VirtualMachineInstance) -> String {
    let uid = instance.metadata.uid.as_deref().unwrap_or_default();
    let name = instance.metadata.name.as_deref().unwrap_or_default();
    let digest = digest::digest(&digest::SHA256, uid.as_bytes());
    let mut pod_name = format!("virt-launcher-{name}-");
    // Names of objects are ASCII.
    pod_name.truncate(BASE_LENGTH);
    for byte in digest.as_ref().iter().take(SUFFIX_LENGTH) {
        pod_name.push(char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
    }
    pod_name
}

/// The Pod as it is created.
///
/// # Errors
/// When the instance does not say how much memory the guest has.
pub(super) fn launcher_pod(
    instance: &VirtualMachineInstance,
    launcher_image: &str,
) -> Result<Pod, MemoryError> {
    let spec = &instance.spec;
    let name = instance.metadata.name.clone().unwrap_or_default();
    let kernel = kernel_container(instance);
    let grace = grace_seconds(instance);
    let compute = Container {
        name: COMPUTE.to_owned(),
        image: Some(launcher_image.to_owned()),
        command: Some(vec!["ferrovirt".to_owned(), "launcher".to_owned()]),
        args: Some(vec![
            "--name".to_owned(),
            name.clone(),
            "--namespace".to_owned(),
            instance.metadata.namespace.clone().unwrap_or_default(),
            "--uid".to_owned(),
            instance.metadata.uid.clone().unwrap_or_default(),
            "--grace-period-seconds".to_owned(),
            grace.to_string(),
        ]),
        ports: Some(vec![ContainerPort {
            name: Some(CONTROL_PORT_NAME.to_owned()),
            container_port: i32::from(CONTROL_PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(resources::compute(spec)?),
        liveness_probe: spec.liveness_probe.as_ref().map(|probe| pod_probe(instance, probe)),
        readiness_probe: spec.readiness_probe.as_ref().map(|probe| pod_probe(instance, probe)),
        volume_mounts: kernel.map(|_| {
            vec![VolumeMount {
                name: KERNEL_VOLUME.to_owned(),
                mount_path: KERNEL_MOUNT.to_owned(),
                read_only: Some(true),
                ..VolumeMount::default()
            }]
        }),
        ..Container::default()
    };
    let mut init_containers = Vec::new();
    let devices = &spec.domain.devices;
    if devices.autoattach_serial_console.unwrap_or(true) && devices.log_serial_console.unwrap_or(true) {
        init_containers.push(console_log(launcher_image));
    }
    init_containers.extend(kernel.filter(|kernel| needs_digest(instance, kernel)).map(digest_container));
    let pod_spec = PodSpec {
        affinity: spec.affinity.clone(),
        automount_service_account_token: Some(false),
        containers: vec![compute],
        dns_config: spec.dns_config.clone(),
        dns_policy: non_empty(&spec.dns_policy),
        enable_service_links: Some(false),
        hostname: Some(hostname(instance)),
        image_pull_secrets: kernel
            .and_then(|kernel| non_empty(&kernel.image_pull_secret))
            .map(|name| vec![LocalObjectReference { name }]),
        init_containers: Some(init_containers).filter(|list| !list.is_empty()),
        node_selector: Some(spec.node_selector.clone()).filter(|labels| !labels.is_empty()),
        priority_class_name: non_empty(&spec.priority_class_name),
        readiness_gates: Some(vec![PodReadinessGate { condition_type: UNPAUSED.to_owned() }]),
        restart_policy: Some("Never".to_owned()),
        scheduler_name: non_empty(&spec.scheduler_name),
        security_context: Some(PodSecurityContext {
            fs_group: Some(QEMU_USER),
            ..PodSecurityContext::default()
        }),
        service_account_name: non_empty(&spec.service_account_name),
        subdomain: non_empty(&spec.subdomain),
        termination_grace_period_seconds: Some(grace.saturating_add(POD_GRACE_BEYOND_SECONDS)),
        tolerations: Some(spec.tolerations.clone()).filter(|list| !list.is_empty()),
        topology_spread_constraints: Some(spec.topology_spread_constraints.clone())
            .filter(|list| !list.is_empty()),
        volumes: kernel.map(|kernel| {
            vec![Volume {
                name: KERNEL_VOLUME.to_owned(),
                image: Some(ImageVolumeSource {
                    reference: Some(kernel.image.clone()),
                    pull_policy: non_empty(&kernel.image_pull_policy),
                }),
                ..Volume::default()
            }]
        }),
        ..PodSpec::default()
    };
    Ok(Pod {
        metadata: ObjectMeta {
            name: Some(pod_name(instance)),
            namespace: instance.metadata.namespace.clone(),
            labels: Some(labels(instance, &name)),
            annotations: Some(annotations(instance, &name, kernel)),
            owner_references: Some(vec![OwnerReference {
                api_version: defaults::API_VERSION.to_owned(),
                kind: "VirtualMachineInstance".to_owned(),
                name,
                uid: instance.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(pod_spec),
        status: None,
    })
}

/// A probe of the guest as one of the container: what its agent is to do is a command that asks it.
fn pod_probe(instance: &VirtualMachineInstance, probe: &manifest::types::Probe) -> Probe {
    let timeout = probe.timeout_seconds.unwrap_or(1);
    let metadata = &instance.metadata;
    let [namespace, name] =
        [&metadata.namespace, &metadata.name].map(|text| text.as_deref().unwrap_or_default());
    let ask = |what: &[&str], arguments: &[String]| {
        let domain = format!("{namespace}_{name}");
        let command = ["virt-probe", "--domainName", &domain, "--timeoutSeconds", &timeout.to_string()];
        let command = command.iter().chain(what).map(|word| (*word).to_owned());
        ExecAction { command: Some(command.chain(arguments.iter().cloned()).collect()) }
    };
    let exec = match (&probe.exec, &probe.guest_agent_ping) {
        (Some(exec), _) => match exec.command.as_deref().unwrap_or_default() {
            [] => Some(exec.clone()),
            [program, arguments @ ..] => Some(ask(&["--command", program, "--"], arguments)),
        },
        (None, Some(_)) => Some(ask(&["--guestAgentPing"], &[])),
        (None, None) => None,
    };
    Probe {
        initial_delay_seconds: Some(
            probe.initial_delay_seconds.unwrap_or(0).saturating_add(PROBE_DELAY_SECONDS),
        ),
        // What asks the agent takes its time too.
        timeout_seconds: Some(timeout.saturating_add(i32::from(exec.is_some()))),
        exec,
        http_get: probe.http_get.clone(),
        tcp_socket: probe.tcp_socket.clone(),
        period_seconds: probe.period_seconds,
        success_threshold: probe.success_threshold,
        failure_threshold: probe.failure_threshold,
        ..Probe::default()
    }
}

fn kernel_container(instance: &VirtualMachineInstance) -> Option<&KernelBootContainer> {
    instance.spec.domain.firmware.as_ref()?.kernel_boot.as_ref()?.container.as_ref()
}

/// Whether a container is needed to find out the digest of the kernel's image.
fn needs_digest(instance: &VirtualMachineInstance, kernel: &KernelBootContainer) -> bool {
    let annotations = instance.metadata.annotations.as_ref();
    let skips = annotations.and_then(|annotations| annotations.get(SKIP_DIGEST));
    !kernel.image.contains('@') && skips.is_none_or(|skips| skips != "true")
}

/// Says what the guest's serial console says, for as long as the Pod lives.
fn console_log(launcher_image: &str) -> Container {
    Container {
        name: "guest-console-log".to_owned(),
        image: Some(launcher_image.to_owned()),
        restart_policy: Some("Always".to_owned()),
        security_context: Some(unprivileged()),
        ..Container::default()
    }
}

/// Runs the kernel's image to no purpose but that the Pod's status has its digest.
fn digest_container(kernel: &KernelBootContainer) -> Container {
    Container {
        name: format!("volume{KERNEL_VOLUME}"),
        image: Some(kernel.image.clone()),
        image_pull_policy: non_empty(&kernel.image_pull_policy),
        command: Some(vec!["/container-disk-binary/usr/bin/container-disk".to_owned()]),
        args: Some(vec!["--no-op".to_owned()]),
        security_context: Some(unprivileged()),
        ..Container::default()
    }
}

fn unprivileged() -> SecurityContext {
    SecurityContext {
        run_as_user: Some(QEMU_USER),
        run_as_non_root: Some(true),
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

/// The instance's labels, and those by which its Pod is found.
fn labels(instance: &VirtualMachineInstance, name: &str) -> BTreeMap<String, String> {
    let mut labels = instance.metadata.labels.clone().unwrap_or_default();
    labels.remove(keys::NODE_NAME);
    let identity = label_of(name);
    labels.extend([
        (keys::APP.to_owned(), "virt-launcher".to_owned()),
        (keys::CREATED_BY.to_owned(), instance.metadata.uid.clone().unwrap_or_default()),
        ("vm.kubevirt.io/name".to_owned(), identity.clone()),
        ("vmi.kubevirt.io/id".to_owned(), identity),
    ]);
    labels
}

/// A name as a label's value: itself, or its beginning and eight digits of its SHA-1.
fn label_of(name: &str) -> String {
    if name.len() <= LABEL_LENGTH {
        return name.to_owned();
    }
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, name.as_bytes());
    let suffix: String = digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let kept = name.get(..KEPT_LENGTH).unwrap_or_default();
    format!("{kept}-{suffix}")
}

/// The annotations that are the user's own, and ours.
fn annotations(
    instance: &VirtualMachineInstance,
    name: &str,
    kernel: Option<&KernelBootContainer>,
) -> BTreeMap<String, String> {
    let ours = |key: &str| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        ["kubevirt.io", "ferrovirt.dev", "kubectl.kubernetes.io"]
            .iter()
            .any(|own| domain == *own || domain.ends_with(&format!(".{own}")))
    };
    let mut annotations = instance.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !ours(key));
    annotations.insert(keys::DOMAIN.to_owned(), name.to_owned());
    annotations.insert("kubectl.kubernetes.io/default-container".to_owned(), COMPUTE.to_owned());
    if let Some(kernel) = kernel {
        let paths: Vec<_> =
            [&kernel.kernel_path, &kernel.initrd_path].into_iter().filter_map(non_empty).collect();
        annotations.insert(keys::IMAGE_PATHS.to_owned(), json!({ KERNEL_VOLUME: paths }).to_string());
    }
    annotations
}

/// The guest's host name: the first label of what the instance says, or of its name.
fn hostname(instance: &VirtualMachineInstance) -> String {
    let stated = non_empty(&instance.spec.hostname).or_else(|| instance.metadata.name.clone());
    let name = stated.unwrap_or_default();
    let label = name.split('.').next().unwrap_or_default();
    label.get(..LABEL_LENGTH).unwrap_or(label).trim_end_matches('-').to_owned()
}

fn non_empty(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::Value;

    use super::*;

    fn instance(changes: Value) -> VirtualMachineInstance {
        let mut object = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "kb", "namespace": "ns", "uid": "4f3f1f9e-6c3a-4a67-8c4e-1f9b2d3c4e5f"},
            "spec": {"domain": {
                "devices": {}, "memory": {"guest": "128Mi"},
                "firmware": {"kernelBoot": {"container": {
                    "image": "registry:5000/kb", "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd",
                }}},
            }},
        });
        json_patch::merge(&mut object, &changes);
        serde_json::from_value(object).unwrap()
    }

    fn golden(name: &str, changes: Value) {
        let pod = launcher_pod(&instance(changes), "ferrovirt.dev/launcher:0").unwrap();
        insta::assert_snapshot!(name, serde_json::to_string_pretty(&pod).unwrap());
    }

    #[test]
    fn a_plain_instance() {
        golden("pod_plain", json!({}));
    }

    #[test]
    fn an_instance_that_says_everything() {
        golden(
            "pod_full",
            json!({
                "metadata": {
                    "labels": {"app": "x", "kubevirt.io/nodeName": "old", "kubevirt.io/created-by": "me"},
                    "annotations": {
                        "example.org/a": "b", "kubevirt.io/vm-generation": "1", "ferrovirt.dev/pull-progress": "{}",
                        "kubectl.kubernetes.io/last-applied-configuration": "{}",
                    },
                },
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "hostname": "guest", "subdomain": "sub", "priorityClassName": "high", "schedulerName": "other",
                    "nodeSelector": {"disk": "ssd"},
                    "tolerations": [{"key": "a", "operator": "Exists"}],
                    "affinity": {"nodeAffinity": {}},
                    "livenessProbe": {"guestAgentPing": {}, "timeoutSeconds": 3, "failureThreshold": 2},
                    "readinessProbe": {
                        "exec": {"command": ["cat", "/tmp/ready"]}, "initialDelaySeconds": 5, "timeoutSeconds": 1,
                        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
                    },
                    "domain": {
                        "cpu": {"cores": 2},
                        "firmware": {"kernelBoot": {"container": {
                            "imagePullPolicy": "Always", "imagePullSecret": "secret",
                        }}},
                    },
                },
            }),
        );
    }

    fn init_containers(changes: Value) -> Vec<String> {
        let pod = launcher_pod(&instance(changes), "l").unwrap();
        pod.spec.unwrap().init_containers.unwrap_or_default().into_iter().map(|one| one.name).collect()
    }

    #[test]
    fn init_containers_are_there_where_they_are_needed() {
        let both = ["guest-console-log", "volumekernel-boot-volume"];
        assert_eq!(init_containers(json!({})), both);
        let digest = format!("r/kb@sha256:{}", "0".repeat(64));
        let pinned =
            json!({"spec": {"domain": {"firmware": {"kernelBoot": {"container": {"image": digest}}}}}});
        assert_eq!(init_containers(pinned), both[..1]);
        let skipped = json!({"metadata": {"annotations": {SKIP_DIGEST: "true"}}});
        assert_eq!(init_containers(skipped), both[..1]);
        for silent in ["logSerialConsole", "autoattachSerialConsole"] {
            let changes = json!({"spec": {"domain": {"devices": {silent: false}}}});
            assert_eq!(init_containers(changes), both[1..], "{silent}");
        }
        let without = json!({"spec": {"domain": {"firmware": null}}});
        assert_eq!(init_containers(without.clone()), both[..1]);
        assert_eq!(launcher_pod(&instance(without), "l").unwrap().spec.unwrap().volumes, None);
    }

    #[test]
    fn a_probe_of_the_network_is_the_pods_and_starts_later() {
        let get = json!({"port": "web", "path": "/up", "scheme": "HTTPS"});
        let probes = json!({"spec": {"readinessProbe": {"httpGet": get, "timeoutSeconds": 4}}});
        let pod = launcher_pod(&instance(probes), "l").unwrap();
        let compute = pod.spec.unwrap().containers.remove(0);
        assert_eq!(
            serde_json::to_value(compute.readiness_probe).unwrap(),
            json!({"httpGet": get, "timeoutSeconds": 4, "initialDelaySeconds": 10})
        );
        assert_eq!(compute.liveness_probe, None);
    }

    #[test]
    fn a_name_follows_from_the_instance_and_its_uid() {
        let name =
            |name: &str, uid: &str| pod_name(&instance(json!({"metadata": {"name": name, "uid": uid}})));
        assert_eq!(name("kb", "a"), name("kb", "a"));
        assert_ne!(name("kb", "a"), name("kb", "b"));
        assert!(name("kb", "a").starts_with("virt-launcher-kb-"));
        assert_eq!(name("kb", "a").len(), "virt-launcher-kb-".len() + 5);
        assert_eq!(name(&"x".repeat(253), "a").len(), 63);
    }

    #[test]
    fn a_long_name_is_still_a_label() {
        assert_eq!(label_of(&"a".repeat(63)), "a".repeat(63));
        let long = label_of(&"a".repeat(64));
        assert_eq!((long.len(), &long[..55]), (63, format!("{}-", "a".repeat(54)).as_str()));
    }
}
