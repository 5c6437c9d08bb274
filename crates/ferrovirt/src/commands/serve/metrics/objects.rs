//! From objects to measurements. Names, labels and values are KubeVirt's (`pkg/monitoring/metrics/virt-controller` and
//! `virt-handler` in its repository).

use std::collections::{BTreeMap, HashMap};
use std::iter;

use jiff::Timestamp;
use manifest::Quantity;
use manifest::types::{Cpu, DomainSpec, Machine as MachineType, VirtualMachineInstanceSpec};
use node::usage::Usage;
use serde::Deserialize;

use super::families::{Families, Labels, Metric};

/// A label that has no value.
const NONE: &str = "<none>";

const INFO: Metric = Metric::gauge("kubevirt_info", "Version of what serves the API");
const VM_INFO: Metric = Metric::gauge("kubevirt_vm_info", "Information about virtual machines");
const VM_CREATED: Metric =
    Metric::gauge("kubevirt_vm_create_date_timestamp_seconds", "When a virtual machine was created");
const VM_LABELS: Metric = Metric::gauge("kubevirt_vm_labels", "Labels of virtual machines");
const VM_REQUESTS: Metric = Metric::gauge("kubevirt_vm_resource_requests", "What a virtual machine asks for");
const VM_LIMITS: Metric = Metric::gauge("kubevirt_vm_resource_limits", "What a virtual machine may have");
const VM_CARDS: Metric = Metric::gauge("kubevirt_vm_vnic_info", "Network cards of virtual machines");
const VMI_INFO: Metric = Metric::gauge("kubevirt_vmi_info", "Information about virtual machine instances");
const VMI_CARDS: Metric = Metric::gauge("kubevirt_vmi_vnic_info", "Network cards of instances");
const VMI_ADDRESSES: Metric = Metric::gauge("kubevirt_vmi_status_addresses", "Addresses of instances");
const VMI_STAYS: Metric = Metric::gauge(
    "kubevirt_vmi_non_evictable",
    "Whether an instance is to be migrated on an eviction and cannot be",
);
const VMI_OVERHEAD: Metric = Metric::gauge(
    "kubevirt_vmi_launcher_memory_overhead_bytes",
    "Memory that an instance's launcher Pod asks for beside the guest's",
);
const OUTDATED: Metric =
    Metric::gauge("kubevirt_vmi_number_of_outdated", "Instances whose launcher is of an older version");
const CPU: Metric = Metric::counter("kubevirt_vmi_cpu_usage_seconds", "Processor time of an instance's QEMU");
const CPU_USER: Metric = Metric::counter("kubevirt_vmi_cpu_user_usage_seconds", "The part in user mode");
const CPU_SYSTEM: Metric = Metric::counter("kubevirt_vmi_cpu_system_usage_seconds", "The part in the kernel");
const VCPU: Metric = Metric::counter("kubevirt_vmi_vcpu_seconds", "Processor time of a virtual processor");
const VCPU_DELAY: Metric = Metric::counter(
    "kubevirt_vmi_vcpu_delay_seconds",
    "Time in which a virtual processor waited for one of the host's",
);
const DOMAIN: Metric =
    Metric::gauge("kubevirt_vmi_memory_domain_bytes", "Memory that an instance's guest has");
const RESIDENT: Metric =
    Metric::gauge("kubevirt_vmi_memory_resident_bytes", "Resident memory of an instance's QEMU");

const AVAILABLE: Metric = Metric::gauge(
    "kubevirt_vmi_memory_available_bytes",
    "Memory that the system in an instance's guest knows",
);
const UNUSED: Metric =
    Metric::gauge("kubevirt_vmi_memory_unused_bytes", "Memory that an instance's guest uses for nothing");
const USABLE: Metric = Metric::gauge(
    "kubevirt_vmi_memory_usable_bytes",
    "Memory that programs in an instance's guest could have without swapping",
);
const CACHED: Metric = Metric::gauge(
    "kubevirt_vmi_memory_cached_bytes",
    "Memory of an instance's guest that holds what is on its disks too",
);
const BALLOON: Metric = Metric::gauge(
    "kubevirt_vmi_memory_actual_balloon_bytes",
    "Memory that the balloon leaves to an instance's guest",
);
const MAJOR_FAULTS: Metric =
    Metric::counter("kubevirt_vmi_memory_pgmajfault", "Page faults in an instance's guest that took a disk");
const MINOR_FAULTS: Metric =
    Metric::counter("kubevirt_vmi_memory_pgminfault", "Page faults in an instance's guest that took none");
const SWAP_IN: Metric = Metric::gauge(
    "kubevirt_vmi_memory_swap_in_traffic_bytes",
    "Bytes that an instance's guest has read from its swap",
);
const SWAP_OUT: Metric = Metric::gauge(
    "kubevirt_vmi_memory_swap_out_traffic_bytes",
    "Bytes that an instance's guest has written to its swap",
);

const RECEIVED_BYTES: Metric =
    Metric::counter("kubevirt_vmi_network_receive_bytes", "Bytes that an instance's guest has received");
const RECEIVED: Metric =
    Metric::counter("kubevirt_vmi_network_receive_packets", "Packets that an instance's guest has received");
const TRANSMITTED_BYTES: Metric =
    Metric::counter("kubevirt_vmi_network_transmit_bytes", "Bytes that an instance's guest has sent");
const TRANSMITTED: Metric =
    Metric::counter("kubevirt_vmi_network_transmit_packets", "Packets that an instance's guest has sent");
const RECEIVED_DROPPED: Metric = Metric::counter(
    "kubevirt_vmi_network_receive_packets_dropped",
    "Packets to an instance's guest that were dropped",
);
const TRANSMITTED_DROPPED: Metric = Metric::counter(
    "kubevirt_vmi_network_transmit_packets_dropped",
    "Packets of an instance's guest that were dropped",
);
const TRANSMIT_ERRORS: Metric = Metric::counter(
    "kubevirt_vmi_network_transmit_errors",
    "Packets of an instance's guest that could not be sent on",
);

const FILE_SYSTEM_CAPACITY: Metric =
    Metric::gauge("kubevirt_vmi_filesystem_capacity_bytes", "Size of a file system in an instance's guest");
const FILE_SYSTEM_USED: Metric = Metric::gauge(
    "kubevirt_vmi_filesystem_used_bytes",
    "The part of a file system in an instance's guest that is in use",
);
const LOAD_1: Metric =
    Metric::gauge("kubevirt_vmi_guest_load_1m", "Load of an instance's guest, averaged over one minute");
const LOAD_5: Metric =
    Metric::gauge("kubevirt_vmi_guest_load_5m", "Load of an instance's guest, averaged over five minutes");
const LOAD_15: Metric = Metric::gauge(
    "kubevirt_vmi_guest_load_15m",
    "Load of an instance's guest, averaged over fifteen minutes",
);

/// What groups of states are called, with the metric that tells when a machine entered one, and the states in each: of
/// `printableStatus`.
const GROUPS: [(&str, Metric, &[&str]); 5] = [
    (
        "starting",
        Metric::gauge(
            "kubevirt_vm_starting_status_last_transition_timestamp_seconds",
            "When a virtual machine began to start",
        ),
        &["Provisioning", "Starting", "WaitingForVolumeBinding"],
    ),
    (
        "running",
        Metric::gauge(
            "kubevirt_vm_running_status_last_transition_timestamp_seconds",
            "When a virtual machine began to run",
        ),
        &["Running"],
    ),
    (
        "migrating",
        Metric::gauge(
            "kubevirt_vm_migrating_status_last_transition_timestamp_seconds",
            "When a virtual machine began to migrate",
        ),
        &["Migrating"],
    ),
    (
        "non_running",
        Metric::gauge(
            "kubevirt_vm_non_running_status_last_transition_timestamp_seconds",
            "When a virtual machine stopped or paused",
        ),
        &["Stopped", "Paused", "Stopping", "Terminating"],
    ),
    (
        "error",
        Metric::gauge(
            "kubevirt_vm_error_status_last_transition_timestamp_seconds",
            "When a virtual machine failed",
        ),
        &[
            "CrashLoopBackOff",
            "Unknown",
            "ErrorUnschedulable",
            "ErrImagePull",
            "ImagePullBackOff",
            "ErrorPvcNotFound",
            "DataVolumeError",
        ],
    ),
];

/// An object's metadata, as far as anything is told of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    pub namespace: String,
    pub name: String,
    uid: String,
    creation_timestamp: Option<Timestamp>,
    pub labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    r#type: String,
    status: String,
    last_transition_time: Option<Timestamp>,
}

/// A VirtualMachine, as far as it is told.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Machine {
    metadata: Metadata,
    spec: MachineSpec,
    status: MachineStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MachineSpec {
    template: Template,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: Metadata,
    spec: VirtualMachineInstanceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MachineStatus {
    printable_status: String,
    conditions: Vec<Condition>,
}

/// A VirtualMachineInstance, as far as it is told.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Instance {
    metadata: Metadata,
    spec: VirtualMachineInstanceSpec,
    status: InstanceStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct InstanceStatus {
    phase: String,
    node_name: String,
    machine: Option<MachineType>,
    #[serde(rename = "guestOSInfo")]
    guest: GuestInfo,
    conditions: Vec<Condition>,
    interfaces: Vec<Address>,
    memory: StatusMemory,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StatusMemory {
    guest_current: Option<Quantity>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct GuestInfo {
    kernel_release: String,
    machine: String,
    name: String,
    version_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Address {
    name: String,
    ip_address: String,
}

/// A Pod, as far as it is told.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    metadata: Metadata,
    status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
}

fn or_none(text: &str) -> String {
    if text.is_empty() { NONE.to_owned() } else { text.to_owned() }
}

fn machine_type(machine: Option<&MachineType>) -> String {
    or_none(machine.and_then(|machine| machine.type_.as_deref()).unwrap_or_default())
}

fn named(metadata: &Metadata) -> Labels {
    vec![("name", metadata.name.clone()), ("namespace", metadata.namespace.clone())]
}

fn on_node(node: &str, namespace: &str, name: &str) -> Labels {
    vec![("node", node.to_owned()), ("namespace", namespace.to_owned()), ("name", name.to_owned())]
}

/// What the annotations of KubeVirt's common templates say.
fn template_labels(metadata: &Metadata) -> Labels {
    let value = |key: &str| or_none(metadata.annotations.get(key).map_or("", String::as_str));
    vec![
        ("os", value("vm.kubevirt.io/os")),
        ("workload", value("vm.kubevirt.io/workload")),
        ("flavor", value("vm.kubevirt.io/flavor")),
    ]
}

/// Which program this is.
pub fn version(families: &mut Families) {
    let version = concat!("v", env!("CARGO_PKG_VERSION"));
    let labels = vec![("goversion", NONE.to_owned()), ("kubeversion", version.to_owned())];
    families.add(INFO, labels, 1.0);
}

/// What is told of a virtual machine.
pub fn machine(machine: &Machine, families: &mut Families) {
    let Machine { metadata, spec: MachineSpec { template }, status } = machine;
    let domain = &template.spec.domain;
    let state = status.printable_status.as_str();
    let group = GROUPS.iter().find(|(_, _, states)| states.contains(&state));
    let mut labels = named(metadata);
    labels.extend(template_labels(&template.metadata));
    labels.extend([
        ("machine_type", machine_type(domain.machine.as_ref())),
        ("instance_type", NONE.to_owned()),
        ("preference", NONE.to_owned()),
        ("status", state.to_lowercase()),
        ("status_group", group.map_or("<unknown>", |(name, ..)| *name).to_owned()),
    ]);
    families.add(VM_INFO, labels, 1.0);
    if let Some(created) = metadata.creation_timestamp {
        families.add(VM_CREATED, named(metadata), created.as_second() as f64);
    }
    if !metadata.labels.is_empty() {
        families.add_with(VM_LABELS, named(metadata), own_labels(&metadata.labels), 1.0);
    }
    let entered = status
        .conditions
        .iter()
        .filter(|condition| matches!(condition.r#type.as_str(), "Ready" | "Failure" | "Paused"))
        .filter_map(|condition| condition.last_transition_time)
        .map(Timestamp::as_second)
        .max()
        .unwrap_or(-1);
    // What is in no group counts as failed.
    let entered_group = group.map_or("error", |(name, ..)| *name);
    for (name, metric, _) in GROUPS {
        families.add(metric, named(metadata), if name == entered_group { entered as f64 } else { 0.0 });
    }
    resources(metadata, domain, families);
    for card in cards(&template.spec) {
        families.add(VM_CARDS, [named(metadata), card].concat(), 1.0);
    }
}

/// The labels of an object under names of the text format, which has letters, digits and underscores alone. Where two would
/// have one name the later one has `_conflict1` behind it, and so on, as kube-state-metrics calls them.
fn own_labels(labels: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut told = BTreeMap::new();
    for (key, value) in labels {
        let name: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let name = format!("label_{name}");
        let mut names = iter::once(name.clone()).chain((1..).map(|count| format!("{name}_conflict{count}")));
        if let Some(free) = names.find(|name| !told.contains_key(name)) {
            told.insert(free, value.clone());
        }
    }
    told.into_iter().collect()
}

fn resources(metadata: &Metadata, domain: &DomainSpec, families: &mut Families) {
    let mut asked = |resource: &str, unit: &str, source: &str, value: f64| {
        let mut labels = named(metadata);
        labels.extend([
            ("resource", resource.to_owned()),
            ("unit", unit.to_owned()),
            ("source", source.to_owned()),
        ]);
        families.add(VM_REQUESTS, labels, value);
    };
    let resources = domain.resources.as_ref();
    let requested = |name| resources.and_then(|resources| resources.requests.get(name));
    let set = |quantity: &&Quantity| !quantity.is_zero();
    for (source, quantity) in [("domain", requested("memory")), ("guest", guest_memory(domain))] {
        if let Some(quantity) = quantity.filter(set) {
            asked("memory", "bytes", source, quantity.bytes() as f64);
        }
    }
    let cores = |quantity: &Quantity| quantity.millis() as f64 / 1000.0;
    let processors = requested("cpu").filter(set);
    if let Some(quantity) = processors {
        asked("cpu", "cores", "requests", cores(quantity));
    }
    let (source, cpu) = match &domain.cpu {
        Some(Cpu { cores, sockets, threads, .. }) => ("domain", [*cores, *threads, *sockets]),
        // What a machine has that says nothing.
        None if processors.is_none() => ("default", [Some(1); 3]),
        None => ("domain", [None; 3]),
    };
    for (unit, count) in ["cores", "threads", "sockets"].into_iter().zip(cpu) {
        if let Some(count) = count.filter(|count| *count > 0) {
            asked("cpu", unit, source, f64::from(count));
        }
    }
    let mut limited = |resource: &str, unit: &str, value: f64| {
        let mut labels = named(metadata);
        labels.extend([("resource", resource.to_owned()), ("unit", unit.to_owned())]);
        families.add(VM_LIMITS, labels, value);
    };
    let limit = |name| resources.and_then(|resources| resources.limits.get(name));
    if let Some(quantity) = limit("memory").filter(set) {
        limited("memory", "bytes", quantity.bytes() as f64);
    }
    if let Some(quantity) = limit("cpu").filter(set) {
        limited("cpu", "cores", cores(quantity));
    }
}

fn guest_memory(domain: &DomainSpec) -> Option<&Quantity> {
    domain.memory.as_ref()?.guest.as_ref()
}

/// The labels of each network card that has a network.
fn cards(spec: &VirtualMachineInstanceSpec) -> impl Iterator<Item = Labels> {
    spec.domain.devices.interfaces.iter().filter_map(|interface| {
        let network = spec.networks.iter().find(|network| network.name == interface.name)?;
        let binding = match (&interface.bridge, &interface.masquerade) {
            (Some(_), _) => "bridge",
            (None, Some(_)) => "masquerade",
            (None, None) => NONE,
        };
        Some(vec![
            ("vnic_name", interface.name.clone()),
            ("binding_type", "core".to_owned()),
            ("network", network.pod.as_ref().map_or(NONE, |_| "pod networking").to_owned()),
            ("binding_name", binding.to_owned()),
        ])
    })
}

fn is_outdated(instance: &Instance) -> bool {
    instance.metadata.labels.contains_key("kubevirt.io/outdatedLauncherImage")
}

/// Names of the launcher Pods that run, by the UID of their instance.
pub fn running_pods(pods: &[Pod]) -> HashMap<&str, &str> {
    let running = pods.iter().filter(|pod| pod.status.phase == "Running");
    running
        .filter_map(|pod| {
            let instance = pod.metadata.labels.get(manifest::keys::CREATED_BY)?;
            Some((instance.as_str(), pod.metadata.name.as_str()))
        })
        .collect()
}

/// What has been told of an instance, as far as the rest of a scrape has to know it.
#[derive(Debug)]
pub struct Told {
    node: String,
    created: Option<Timestamp>,
    is_outdated: bool,
    /// Memory that its guest has.
    memory_bytes: Option<u64>,
}

/// Instances by namespace and name.
#[derive(Debug, Default)]
pub struct Instances(HashMap<(String, String), Told>);

impl Instances {
    /// When an instance was created; none where there is no such one.
    pub fn created(&self, key: &(String, String)) -> Option<Timestamp> {
        self.0.get(key)?.created
    }
}

/// What is told of an instance.
pub fn instance(
    instance: &Instance,
    pods: &HashMap<&str, &str>,
    instances: &mut Instances,
    families: &mut Families,
) {
    let Instance { metadata, spec, status } = instance;
    let on_node = || on_node(&status.node_name, &metadata.namespace, &metadata.name);
    let is_migratable = status
        .conditions
        .iter()
        .any(|condition| condition.r#type == "LiveMigratable" && condition.status != "False");
    let is_evictable = spec.eviction_strategy.as_deref() != Some("LiveMigrate") || is_migratable;
    let mut labels = on_node();
    labels.push(("phase", status.phase.to_lowercase()));
    labels.extend(template_labels(metadata));
    labels.extend([
        ("instance_type", NONE.to_owned()),
        ("preference", NONE.to_owned()),
        ("guest_os_kernel_release", or_none(&status.guest.kernel_release)),
        ("guest_os_machine", machine_type(status.machine.as_ref())),
        ("guest_os_arch", or_none(&status.guest.machine)),
        ("guest_os_name", or_none(&status.guest.name)),
        ("guest_os_version_id", or_none(&status.guest.version_id)),
        ("evictable", is_evictable.to_string()),
        ("outdated", is_outdated(instance).to_string()),
        ("vmi_pod", or_none(pods.get(metadata.uid.as_str()).copied().unwrap_or_default())),
    ]);
    families.add(VMI_INFO, labels, 1.0);
    families.add(VMI_STAYS, on_node(), if is_evictable { 0.0 } else { 1.0 });
    for card in cards(spec) {
        families.add(VMI_CARDS, [on_node(), card].concat(), 1.0);
    }
    for address in &status.interfaces {
        if address.ip_address.is_empty() {
            continue;
        }
        let mut labels = on_node();
        labels.extend([
            ("network_name", address.name.clone()),
            ("address", address.ip_address.clone()),
            ("type", "ExternalInterface".to_owned()),
        ]);
        families.add(VMI_ADDRESSES, labels, 1.0);
    }
    // Of a spec without memory nothing is started.
    if let Ok(overhead) = controllers::vmi::launcher_overhead_bytes(spec) {
        families.add(VMI_OVERHEAD, named(metadata), overhead as f64);
    }
    let memory = status.memory.guest_current.as_ref().or(guest_memory(&spec.domain));
    let told = Told {
        node: status.node_name.clone(),
        created: metadata.creation_timestamp,
        is_outdated: is_outdated(instance),
        memory_bytes: memory.map(Quantity::bytes),
    };
    instances.0.insert((metadata.namespace.clone(), metadata.name.clone()), told);
}

/// What is told of all instances, and of what those on this node use.
pub fn usage(Instances(instances): &Instances, used: Vec<Usage>, families: &mut Families) {
    let outdated = instances.values().filter(|instance| instance.is_outdated).count();
    families.add(OUTDATED, Labels::new(), outdated as f64);
    for used in used {
        let key = (used.namespace, used.instance);
        let Some(instance) = instances.get(&key) else { continue };
        let on_node = || on_node(&instance.node, &key.0, &key.1);
        families.add(CPU, on_node(), used.user_seconds + used.system_seconds);
        families.add(CPU_USER, on_node(), used.user_seconds);
        families.add(CPU_SYSTEM, on_node(), used.system_seconds);
        families.add(RESIDENT, on_node(), used.resident_bytes as f64);
        for (number, cpu) in used.virtual_cpus {
            let labels = || [on_node(), vec![("id", number.to_string())]].concat();
            // As libvirt says of each that is there, whatever it does.
            families.add(VCPU, [labels(), vec![("state", "running".to_owned())]].concat(), cpu.seconds);
            if let Some(delay) = cpu.delay_seconds {
                families.add(VCPU_DELAY, labels(), delay);
            }
        }
        if let Some(traffic) = &used.traffic {
            let carried = [
                (RECEIVED_BYTES, traffic.receive_bytes),
                (RECEIVED, traffic.receive_packets),
                (TRANSMITTED_BYTES, traffic.transmit_bytes),
                (TRANSMITTED, traffic.transmit_packets),
            ];
            let lost = traffic.lost.as_ref().map(|lost| {
                [
                    (RECEIVED_DROPPED, lost.receive_packets_dropped),
                    (TRANSMITTED_DROPPED, lost.transmit_packets_dropped),
                    (TRANSMIT_ERRORS, lost.transmit_errors),
                ]
            });
            for (metric, value) in carried.into_iter().chain(lost.into_iter().flatten()) {
                let mut labels = on_node();
                labels.push(("interface", traffic.interface.clone()));
                families.add(metric, labels, value as f64);
            }
        }
        if let Some(memory) = &used.guest_memory {
            for (metric, value) in [
                (BALLOON, Some(memory.actual_bytes)),
                (AVAILABLE, memory.total_bytes),
                (UNUSED, memory.free_bytes),
                (USABLE, memory.available_bytes),
                (CACHED, memory.disk_caches_bytes),
                (MAJOR_FAULTS, memory.major_faults),
                (MINOR_FAULTS, memory.minor_faults),
                (SWAP_IN, memory.swap_in_bytes),
                (SWAP_OUT, memory.swap_out_bytes),
            ] {
                if let Some(value) = value {
                    families.add(metric, on_node(), value as f64);
                }
            }
        }
        if let Some(report) = used.agent_report {
            for found in report.file_systems {
                let labels = [
                    on_node(),
                    vec![
                        ("disk_name", found.disk_name),
                        ("mount_point", found.mount_point),
                        ("file_system_type", found.file_system_type),
                    ],
                ]
                .concat();
                families.add(FILE_SYSTEM_CAPACITY, labels.clone(), found.total_bytes as f64);
                families.add(FILE_SYSTEM_USED, labels, found.used_bytes as f64);
            }
            if let Some(load) = report.load {
                for (metric, value) in
                    [(LOAD_1, load.one_minute), (LOAD_5, load.five_minutes), (LOAD_15, load.fifteen_minutes)]
                {
                    families.add(metric, on_node(), value);
                }
            }
        }
        if let Some(memory) = instance.memory_bytes {
            families.add(DOMAIN, on_node(), memory as f64);
        }
    }
}

#[cfg(test)]
mod tests;
