//! What is filled in when a machine is stored, and when an instance is made from it.
//!
//! ```text
//! VirtualMachine as written ──apply_vm──► as stored ──vmi_for──► instance as created ──apply_vmi──► as stored
//! ```
//!
//! Little is written back to a machine: its identity (UUID and serial), architecture and machine type, so that these
//! stay the same over all its runs. Everything else is filled in for each instance. What is decided only when the guest
//! starts (grace period, secure boot, MAC addresses, host name...) is not written anywhere; it is named in the types'
//! documentation.
//!
//! Applying defaults twice changes nothing. Random numbers come in through [`DefaultsContext`].

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use uuid::Uuid;

use crate::resources::{CpuTopology, cpu_topology, guest_memory};
use crate::schema::Empty;
use crate::types::*;
use quantity::Quantity;

/// API version that new objects are written with.
pub const API_VERSION: &str = "kubevirt.io/v1";

/// Namespace of the UUIDs of machines that were stored without one, by their name.
pub const FIRMWARE_UUID_NAMESPACE: Uuid = Uuid::from_u128(0x6a1a24a1_4061_4607_8bf4_a3963d0c5895);

/// Finalizer by which the machine controller holds machines and their instances.
pub const MACHINE_FINALIZER: &str = "kubevirt.io/virtualMachineControllerFinalize";

/// Finalizer by which the instance controller holds instances.
pub const INSTANCE_FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";

/// Annotation with the version of the PCI layout, and its present value.
const PCI_TOPOLOGY: (&str, &str) = ("kubevirt.io/pci-topology-version", "v3");

/// Annotation with the generation of the machine that an instance was made from.
const MACHINE_GENERATION: &str = "kubevirt.io/vm-generation";

/// How many times its sockets and its memory a guest may grow to.
const HOTPLUG_RATIO: u32 = 4;

/// Most virtual CPUs that a guest may grow to.
const MAX_HOTPLUG_CPUS: u64 = 512;

/// Smallest guest whose memory can grow, in bytes.
const MIN_HOTPLUG_MEMORY_BYTES: u64 = 1 << 30;

/// Guest memory that can grow is a multiple of this, in bytes.
const HOTPLUG_MEMORY_STEP_BYTES: u64 = 2 << 20;

/// User id that VMMs run as.
const RUNTIME_USER: u64 = 107;

/// What defaults need that the object does not say.
#[derive(Debug, Clone)]
pub struct DefaultsContext {
    /// Architecture of guests that name none, as Kubernetes spells it: `amd64`, `arm64`, `s390x`.
    pub architecture: String,
    /// A random UUID for firmware that has none.
    pub firmware_uuid: Uuid,
    /// Another random UUID, for the serial number of firmware that has none.
    pub firmware_serial: Uuid,
}

/// What differs between architectures.
struct Platform {
    machine_type: &'static str,
    cpu_model: &'static str,
    disk_bus: &'static str,
    has_pci_topology: bool,
    grows_sockets: bool,
    grows_memory: bool,
}

impl Platform {
    /// An unknown architecture is treated as amd64; the validation refuses it.
    fn of(architecture: &str) -> Self {
        match architecture {
            "arm64" => Self {
                machine_type: "virt",
                cpu_model: "host-passthrough",
                disk_bus: "virtio",
                has_pci_topology: true,
                grows_sockets: false,
                grows_memory: false,
            },
            "s390x" => Self {
                machine_type: "s390-ccw-virtio",
                cpu_model: "host-model",
                disk_bus: "virtio",
                has_pci_topology: false,
                grows_sockets: true,
                grows_memory: false,
            },
            _ => Self {
                machine_type: "q35",
                cpu_model: "host-model",
                disk_bus: "sata",
                has_pci_topology: true,
                grows_sockets: true,
                grows_memory: true,
            },
        }
    }
}

/// Fills in what a machine is stored with when it is created.
pub fn apply_vm(machine: &mut VirtualMachine, context: &DefaultsContext) {
    let template = &mut machine.spec.template;
    let platform = board(&mut template.spec, context);
    if platform.has_pci_topology {
        annotate(template.metadata.get_or_insert_default(), PCI_TOPOLOGY);
    }
    let firmware = template.spec.domain.firmware.get_or_insert_default();
    fill_text(&mut firmware.uuid, || context.firmware_uuid.to_string());
    fill_text(&mut firmware.serial, || context.firmware_serial.to_string());
}

/// Fills in what a machine is stored with when it is changed: an identity that was taken away stays away.
pub fn apply_vm_update(machine: &mut VirtualMachine, context: &DefaultsContext) {
    board(&mut machine.spec.template.spec, context);
}

/// The instance that runs `machine` next, as it is created: its own defaults are still to be applied.
///
/// Status, and what an instancetype would add, are not included. An owner is named when the machine has a UID, that is,
/// when it is stored somewhere.
pub fn vmi_for(machine: &VirtualMachine) -> VirtualMachineInstance {
    let template = &machine.spec.template;
    let described = template.metadata.clone().unwrap_or_default();
    let mut metadata = ObjectMeta {
        name: machine.metadata.name.clone(),
        namespace: machine.metadata.namespace.clone(),
        labels: described.labels,
        annotations: described.annotations,
        finalizers: Some(vec![MACHINE_FINALIZER.to_owned()]),
        ..ObjectMeta::default()
    };
    if let Some(generation) = machine.metadata.generation {
        annotate(&mut metadata, (MACHINE_GENERATION, &generation.to_string()));
    }
    let name = machine.metadata.name.clone().unwrap_or_default();
    metadata.owner_references = machine.metadata.uid.clone().map(|uid| {
        vec![OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: "VirtualMachine".to_owned(),
            name: name.clone(),
            uid,
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]
    });
    let mut spec = template.spec.clone();
    let firmware = spec.domain.firmware.get_or_insert_default();
    fill_text(&mut firmware.uuid, || Uuid::new_v5(&FIRMWARE_UUID_NAMESPACE, name.as_bytes()).to_string());
    let devices = &mut spec.domain.devices;
    if devices.autoattach_input_device == Some(true) && devices.inputs.is_empty() {
        devices.inputs.push(Input {
            name: "default-0".to_owned(),
            type_: "tablet".to_owned(),
            bus: Some("usb".to_owned()),
        });
    }
    VirtualMachineInstance {
        api_version: API_VERSION.to_owned(),
        kind: "VirtualMachineInstance".to_owned(),
        metadata,
        spec,
        status: None,
    }
}

/// Fills in what an instance is stored with when it is created.
pub fn apply_vmi(instance: &mut VirtualMachineInstance, context: &DefaultsContext) {
    let spec = &mut instance.spec;
    let platform = board(spec, context);
    if platform.has_pci_topology {
        annotate(&mut instance.metadata, PCI_TOPOLOGY);
    }
    let finalizers = instance.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == INSTANCE_FINALIZER) {
        finalizers.push(INSTANCE_FINALIZER.to_owned());
    }
    let firmware = spec.domain.firmware.get_or_insert_default();
    fill_text(&mut firmware.uuid, || context.firmware_uuid.to_string());
    fill_text(&mut spec.eviction_strategy, || "None".to_owned());
    fill_cpu(spec, &platform);
    fill_memory(spec, &platform);
    fill_features(spec.domain.features.get_or_insert_default());
    if let Some(timer) = spec.domain.clock.as_mut().and_then(|clock| clock.timer.as_mut()) {
        fill_timers(timer);
    }
    fill_network(spec);
    fill_disks(spec, platform.disk_bus);
    fill_other_devices(&mut spec.domain.devices);
    for volume in &mut spec.volumes {
        if let Some(disk) = &mut volume.container_disk {
            fill_text(&mut disk.image_pull_policy, || container_disk_pull_policy(&disk.image).to_owned());
        }
    }
    for probe in [&mut spec.liveness_probe, &mut spec.readiness_probe].into_iter().flatten() {
        fill_probe(probe);
    }
}

/// Sets the status that an instance is created with; `now` is when that is.
///
/// Apply it after [`apply_vmi`], from which memory and CPU counts come.
pub fn initial_status(instance: &mut VirtualMachineInstance, now: Time) {
    let guest = guest_memory(&instance.spec).ok();
    let CpuTopology { sockets, cores, threads } = cpu_topology(&instance.spec);
    let status = instance.status.get_or_insert_default();
    status.phase = Some("Pending".to_owned());
    status.phase_transition_timestamps = vec![VirtualMachineInstancePhaseTransitionTimestamp {
        phase: Some("Pending".to_owned()),
        phase_transition_timestamp: Some(now),
    }];
    status.guest_os_info = Some(VirtualMachineInstanceGuestOsInfo::default());
    status.runtime_user = Some(RUNTIME_USER);
    status.memory = guest.map(|guest| MemoryStatus {
        guest_at_boot: Some(guest.clone()),
        guest_current: Some(guest.clone()),
        guest_requested: Some(guest),
        memory_overhead: None,
    });
    status.current_cpu_topology =
        Some(CpuTopologyStatus { sockets: Some(sockets), cores: Some(cores), threads: Some(threads) });
}

/// Architecture and machine type, which machines and instances share.
fn board(spec: &mut VirtualMachineInstanceSpec, context: &DefaultsContext) -> Platform {
    fill_text(&mut spec.architecture, || context.architecture.clone());
    let platform = Platform::of(spec.architecture.as_deref().unwrap_or_default());
    let machine = spec.domain.machine.get_or_insert_default();
    fill_text(&mut machine.type_, || platform.machine_type.to_owned());
    platform
}

fn fill_cpu(spec: &mut VirtualMachineInstanceSpec, platform: &Platform) {
    if let Some(resources) = &mut spec.domain.resources
        && let Some(limit) = resources.limits.get("cpu")
        && !resources.requests.contains_key("cpu")
    {
        resources.requests.insert("cpu".to_owned(), limit.clone());
    }
    let topology = cpu_topology(spec);
    let cpu = spec.domain.cpu.get_or_insert_default();
    let is_unset = |count: Option<u32>| count.unwrap_or(0) == 0;
    if is_unset(cpu.sockets) && is_unset(cpu.cores) && is_unset(cpu.threads) {
        cpu.sockets = Some(topology.sockets);
        cpu.cores = Some(topology.cores);
        cpu.threads = Some(topology.threads);
    }
    if platform.grows_sockets && is_unset(cpu.max_sockets) {
        cpu.max_sockets = Some(max_sockets(topology));
    }
    fill_text(&mut cpu.model, || platform.cpu_model.to_owned());
}

/// The sockets that a guest may grow to: four times as many, within the limit of all CPUs, and never fewer than it has.
fn max_sockets(topology: CpuTopology) -> u32 {
    let cpus_per_socket = u64::from(topology.cores).saturating_mul(u64::from(topology.threads));
    let limit = u32::try_from(MAX_HOTPLUG_CPUS / cpus_per_socket.max(1)).unwrap_or(u32::MAX);
    topology.sockets.saturating_mul(HOTPLUG_RATIO).min(limit).max(topology.sockets)
}

fn fill_memory(spec: &mut VirtualMachineInstanceSpec, platform: &Platform) {
    // A spec that asks for no memory, or for an absurd amount, is left as it is for the validation to see.
    let Ok(guest) = guest_memory(spec) else {
        return;
    };
    let memory = spec.domain.memory.get_or_insert_default();
    let bytes = guest.bytes();
    let can_grow = bytes >= MIN_HOTPLUG_MEMORY_BYTES && bytes.is_multiple_of(HOTPLUG_MEMORY_STEP_BYTES);
    if platform.grows_memory && can_grow && memory.max_guest.is_none() {
        let largest = bytes.saturating_mul(u64::from(HOTPLUG_RATIO));
        let is_binary = guest.as_str().ends_with('i');
        memory.max_guest =
            Some(if is_binary { Quantity::from_bytes(largest) } else { Quantity::from_units(largest) });
    }
    memory.guest.get_or_insert(guest);
}

fn fill_features(features: &mut Features) {
    switch_on(features.acpi.get_or_insert_default());
    for feature in
        [&mut features.smm, &mut features.pvspinlock, &mut features.hyperv_passthrough].into_iter().flatten()
    {
        switch_on(feature);
    }
    if let Some(apic) = &mut features.apic {
        apic.enabled.get_or_insert(true);
    }
    if let Some(hyperv) = &mut features.hyperv {
        fill_hyperv(hyperv);
    }
}

/// Switches on what is named, and what that cannot do without (QEMU, "Hyper-V Enlightenments", lists the dependencies).
fn fill_hyperv(hyperv: &mut FeatureHyperv) {
    let is_on = |enabled: Option<bool>| enabled.unwrap_or(true);
    let timers = hyperv.synictimer.as_ref().is_some_and(|timer| is_on(timer.enabled));
    let on = |feature: &Option<FeatureState>| feature.as_ref().is_some_and(|state| is_on(state.enabled));
    let flush = hyperv.tlbflush.as_ref().is_some_and(|flush| is_on(flush.enabled));
    if timers {
        hyperv.synic.get_or_insert_default();
    }
    if timers || flush || on(&hyperv.synic) || on(&hyperv.ipi) {
        hyperv.vpindex.get_or_insert_default();
    }
    if on(&hyperv.evmcs) {
        hyperv.vapic.get_or_insert_default();
    }
    for feature in [
        &mut hyperv.relaxed,
        &mut hyperv.vapic,
        &mut hyperv.vpindex,
        &mut hyperv.runtime,
        &mut hyperv.synic,
        &mut hyperv.reset,
        &mut hyperv.frequencies,
        &mut hyperv.reenlightenment,
        &mut hyperv.ipi,
        &mut hyperv.evmcs,
    ]
    .into_iter()
    .flatten()
    {
        switch_on(feature);
    }
    if let Some(spinlocks) = &mut hyperv.spinlocks {
        spinlocks.enabled.get_or_insert(true);
        spinlocks.spinlocks.get_or_insert(4096);
    }
    if let Some(timer) = &mut hyperv.synictimer {
        timer.enabled.get_or_insert(true);
        timer.direct.iter_mut().for_each(switch_on);
    }
    if let Some(flush) = &mut hyperv.tlbflush {
        flush.enabled.get_or_insert(true);
        flush.direct.iter_mut().for_each(switch_on);
        flush.extended.iter_mut().for_each(switch_on);
    }
    if let Some(vendor) = &mut hyperv.vendorid {
        vendor.enabled.get_or_insert(true);
    }
}

fn switch_on(feature: &mut FeatureState) {
    feature.enabled.get_or_insert(true);
}

fn fill_timers(timer: &mut Timer) {
    let ticking = [&mut timer.hpet, &mut timer.pit].into_iter().flatten();
    let plain = [&mut timer.kvm, &mut timer.hyperv].into_iter().flatten();
    let presences = ticking
        .map(|timer| &mut timer.present)
        .chain(plain.map(|timer| &mut timer.present))
        .chain(timer.rtc.iter_mut().map(|timer| &mut timer.present));
    for present in presences {
        present.get_or_insert(true);
    }
}

/// Connects a guest that names neither networks nor interfaces to the pod network, unless it wants none.
fn fill_network(spec: &mut VirtualMachineInstanceSpec) {
    let devices = &mut spec.domain.devices;
    let wanted = devices.autoattach_pod_interface.unwrap_or(true);
    if !wanted || !spec.networks.is_empty() || !devices.interfaces.is_empty() {
        return;
    }
    devices.interfaces.push(Interface {
        name: "default".to_owned(),
        bridge: Some(Empty {}),
        ..Interface::default()
    });
    spec.networks.push(Network {
        name: "default".to_owned(),
        pod: Some(PodNetwork::default()),
        ..Network::default()
    });
}

/// Gives each volume that nothing shows a disk, and each disk a target and a bus.
fn fill_disks(spec: &mut VirtualMachineInstanceSpec, bus: &str) {
    let devices = &mut spec.domain.devices;
    for volume in &spec.volumes {
        let shown = devices.disks.iter().any(|disk| disk.name == volume.name)
            || devices.filesystems.iter().any(|filesystem| filesystem.name == volume.name);
        if !shown {
            devices.disks.push(Disk { name: volume.name.clone(), ..Disk::default() });
        }
    }
    for disk in &mut devices.disks {
        if disk.disk.is_none() && disk.lun.is_none() && disk.cdrom.is_none() {
            disk.disk = Some(DiskTarget::default());
        }
        let buses = [
            disk.disk.as_mut().map(|target| &mut target.bus),
            disk.lun.as_mut().map(|target| &mut target.bus),
            disk.cdrom.as_mut().map(|target| &mut target.bus),
        ];
        for target in buses.into_iter().flatten() {
            fill_text(target, || bus.to_owned());
        }
        if let Some(cdrom) = &mut disk.cdrom {
            cdrom.readonly.get_or_insert(true);
            fill_text(&mut cdrom.tray, || "closed".to_owned());
        }
        if let Some(matching) = disk.block_size.as_mut().and_then(|size| size.match_volume.as_mut()) {
            switch_on(matching);
        }
    }
}

fn fill_other_devices(devices: &mut Devices) {
    if let Some(watchdog) = &mut devices.watchdog {
        for model in [&mut watchdog.i6300esb, &mut watchdog.diag288].into_iter().flatten() {
            fill_text(&mut model.action, || "reset".to_owned());
        }
    }
    for input in &mut devices.inputs {
        fill_text(&mut input.bus, || "usb".to_owned());
    }
}

/// The pull policy of a container disk that names none. The rule looks at the text alone: the port of a registry counts
/// as a tag. (A kernel's image keeps an empty policy; the puller applies Kubernetes' own, better rule there.)
fn container_disk_pull_policy(image: &str) -> &'static str {
    if image.ends_with(":latest") || !image.contains([':', '@']) { "Always" } else { "IfNotPresent" }
}

fn fill_probe(probe: &mut Probe) {
    let counts = [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ];
    for (count, default) in counts {
        if count.unwrap_or(0) == 0 {
            *count = Some(default);
        }
    }
}

/// Sets a text that is unset or empty.
fn fill_text(field: &mut Option<String>, default: impl FnOnce() -> String) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(default());
    }
}

/// Sets an annotation that is not there yet.
fn annotate(metadata: &mut ObjectMeta, (key, value): (&str, &str)) {
    metadata.annotations.get_or_insert_default().entry(key.to_owned()).or_insert_with(|| value.to_owned());
}
