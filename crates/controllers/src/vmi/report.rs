//! From what is observed to what the instance says: phase, conditions, fields, annotations, and what people are told.
//!
//! [`report`] is pure. Its result is the whole instance as it should be stored; whoever writes it sends the difference,
//! and tells of the events once that is stored. So an event belongs to a change that is written, and neither a conflict
//! nor a restart repeats it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifest::Quantity;
use manifest::keys;
use manifest::machine_status::{
    BootFacts, BootTimeline, FileFacts, GuestInterface, MachineInterface, MachineStatus,
};
use manifest::types::{
    Condition, FileChecksum, KernelBootStatus, Machine, VirtualMachineInstance,
    VirtualMachineInstanceGuestOsInfo, VirtualMachineInstanceNetworkInterface,
    VirtualMachineInstancePhaseTransitionTimestamp, VirtualMachineInstanceStatus, VolumeStatus,
};

use super::conditions::{self, find, set};
use super::phase::{self, Facts, Phase};
use super::pod::grace_seconds;
use super::resources;
use super::view::{PodView, Stage, cut, printable};
use crate::events::Event;

/// How long the marks of a boot may stay unwritten while userspace has not been reached.
const TIMELINE_PATIENCE: Duration = Duration::from_secs(10);

/// The finalizer as older versions wrote it.
const LEGACY_FINALIZER: &str = "foregroundDeleteVirtualMachine";

/// User that QEMU runs as where nothing else is known.
const RUNTIME_USER: u64 = 107;

/// What is observed.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed<'a> {
    /// The instance's Pod; none when there certainly is none.
    pub pod: Option<&'a PodView>,
    /// What its launcher said last.
    pub machine: Option<&'a MachineStatus>,
    /// Why the launcher refused the instance.
    pub refusal: Option<&'a str>,
    /// Why the Pod could not be created.
    pub create_error: Option<&'a str>,
    /// What the machine that owns the instance booted last.
    pub last_boot: Option<&'a BootFacts>,
    /// The node is lost.
    pub node_is_lost: bool,
}

/// Who tells of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Teller {
    /// The controller.
    Controller,
    /// KubeVirt's node agent; on whose behalf the controller speaks.
    Handler,
}

/// What follows.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Report {
    /// The instance as it should be.
    pub instance: VirtualMachineInstance,
    /// What people are told once that is stored.
    pub events: Vec<(Teller, Event)>,
    /// There is more to write then.
    pub again_after: Option<Duration>,
}

/// What `instance` should say, given what is observed; `now` is to the second.
pub(super) fn report(instance: &VirtualMachineInstance, observed: &Observed<'_>, now: Timestamp) -> Report {
    let unchanged = || Report { instance: instance.clone(), events: Vec::new(), again_after: None };
    let phase_name = instance.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    let Some(before) = Phase::parse(phase_name) else { return unchanged() };
    let deleting = instance.metadata.deletion_timestamp.is_some();
    let machine = newest(instance, observed);
    let entered = phase::steps(
        before,
        &Facts {
            pod: observed.pod.map(|pod| pod.stage),
            machine,
            is_receiver: is_receiver(instance),
            deleting,
            had_a_chance: has_acpi(instance) && grace_seconds(instance) > 0,
        },
    );
    let after = entered.last().copied().unwrap_or(before);

    let mut new = instance.clone();
    let now_time = Time(now);
    let status = new.status.get_or_insert_default();
    enter(status, &entered, &now_time);
    if after.is_final() && !before.is_final() && observed.node_is_lost {
        status.reason = Some("NodeUnresponsive".to_owned());
    }
    fill_status(instance, status, after, observed, machine);
    write_conditions(instance, &mut status.conditions, after, observed, machine, &now_time);
    write_metadata(&mut new, after, observed, machine);
    if deleting && observed.pod.is_none() && after.is_final() {
        let ours = |name: &String| name == keys::VMI_FINALIZER || name == LEGACY_FINALIZER;
        if let Some(finalizers) = &mut new.metadata.finalizers {
            finalizers.retain(|name| !ours(name));
        }
    }
    let events = events(instance, &new, before, &entered, observed, machine);
    let again_after = write_timeline(instance, &mut new, after, machine, now);
    Report { instance: new, events, again_after }
}

/// What is known last of the instance's own machine. The termination message is the last word.
fn newest<'a>(instance: &VirtualMachineInstance, observed: &Observed<'a>) -> Option<&'a MachineStatus> {
    let uid = instance.metadata.uid.as_deref().unwrap_or_default();
    let machine = observed.pod.and_then(|pod| pod.last.as_ref()).or(observed.machine)?;
    (machine.vmi_uid.is_empty() || machine.vmi_uid == uid).then_some(machine)
}

/// Whether a power button is there to be pressed.
pub(super) fn has_acpi(instance: &VirtualMachineInstance) -> bool {
    let features = instance.spec.domain.features.as_ref();
    let acpi = features.and_then(|features| features.acpi.as_ref());
    acpi.is_none_or(|acpi| acpi.enabled.unwrap_or(true))
}

/// Whether it waits for a machine that migrates here; it never boots by itself.
pub(super) fn is_receiver(instance: &VirtualMachineInstance) -> bool {
    instance.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(keys::RECEIVER))
}

/// Enters phases; each keeps the time of its first entry.
fn enter(status: &mut VirtualMachineInstanceStatus, entered: &[Phase], now: &Time) {
    for phase in entered {
        status.phase = Some(phase.as_str().to_owned());
        let stamps = &mut status.phase_transition_timestamps;
        if !stamps.iter().any(|stamp| stamp.phase.as_deref() == Some(phase.as_str())) {
            stamps.push(VirtualMachineInstancePhaseTransitionTimestamp {
                phase: Some(phase.as_str().to_owned()),
                phase_transition_timestamp: Some(now.clone()),
            });
        }
    }
}

fn fill_status(
    instance: &VirtualMachineInstance,
    status: &mut VirtualMachineInstanceStatus,
    phase: Phase,
    observed: &Observed<'_>,
    machine: Option<&MachineStatus>,
) {
    let os = machine.and_then(|machine| machine.guest_agent.as_ref()).map(|agent| os_info(&agent.os));
    match os {
        // What was known of it stays, also when its agent is gone.
        Some(os) => status.guest_os_info = Some(os),
        None => drop(status.guest_os_info.get_or_insert_default()),
    }
    status.runtime_user.get_or_insert(RUNTIME_USER);
    if phase != Phase::Pending
        && status.memory.as_ref().is_none_or(|memory| memory.memory_overhead.is_none())
        && let Ok(overhead) = resources::overhead_bytes(&instance.spec)
    {
        let memory = status.memory.get_or_insert_default();
        memory.memory_overhead = Some(Quantity::from_bytes(overhead));
    }
    // Before, a change of node would cost a write of its own.
    if phase >= Phase::Scheduled
        && let Some(pod) = observed.pod
        && let Some(node) = &pod.node_name
    {
        status.node_name = Some(node.clone());
        status.active_pods = [(pod.uid.clone(), node.clone())].into();
        status.qos_class = pod.qos_class.clone();
        status.launcher_container_image_version = pod.launcher_image.clone();
        status.migration_transport = Some("Unix".to_owned());
    }
    if phase < Phase::Running {
        return;
    }
    let Some(machine) = machine else { return };
    if status.migration_method.is_none() && phase == Phase::Running {
        status.migration_method = Some(super::migratable::method(instance).to_owned());
    }
    if let Some(machine_type) = &machine.machine_type {
        status.machine = Some(Machine { type_: Some(cut(machine_type).to_owned()) });
    }
    if let Some(pod) = observed.pod
        && phase == Phase::Running
    {
        let address = pod.control.map(|control| control.ip().to_string());
        status.interfaces = interfaces(machine, address);
    }
    let is_frozen = machine.guest_agent.as_ref().is_some_and(|agent| agent.is_frozen);
    status.fs_freeze_status = is_frozen.then(|| "frozen".to_owned());
    if let Some(user) = machine.qemu_user {
        status.runtime_user = Some(u64::from(user));
    }
    if let Some(context) = &machine.selinux_context {
        status.selinux_context = Some(cut(&printable(context)).to_owned());
    }
    if let Some(boot) = &machine.boot {
        let checksum = |file: &FileFacts| FileChecksum { checksum: Some(file.checksum) };
        status.kernel_boot_status = Some(KernelBootStatus {
            kernel_info: boot.kernel.as_ref().map(checksum),
            initrd_info: boot.initrd.as_ref().map(checksum),
        });
    }
    if status.volume_status.is_empty() && phase == Phase::Running {
        status.volume_status = volume_status(instance);
    }
}

/// What an agent says of its guest's system, as far as it can be shown.
fn os_info(os: &VirtualMachineInstanceGuestOsInfo) -> VirtualMachineInstanceGuestOsInfo {
    let text = |text: &Option<String>| text.as_deref().map(|text| cut(&printable(text)).to_owned());
    VirtualMachineInstanceGuestOsInfo {
        id: text(&os.id),
        name: text(&os.name),
        pretty_name: text(&os.pretty_name),
        version: text(&os.version),
        version_id: text(&os.version_id),
        kernel_release: text(&os.kernel_release),
        kernel_version: text(&os.kernel_version),
        machine: text(&os.machine),
    }
}

/// The machine's network cards, and what else the guest's agent tells of. The address of a card is the Pod's, as with
/// KubeVirt's `masquerade`; what the guest itself has there by its agent or by DHCP follows.
fn interfaces(
    machine: &MachineStatus,
    pod_address: Option<String>,
) -> Vec<VirtualMachineInstanceNetworkInterface> {
    let text = |text: &str| cut(&printable(text)).to_owned();
    let seen = machine.guest_agent.iter().flat_map(|agent| &agent.interfaces);
    let card = |card: &MachineInterface| {
        let guest = seen.clone().find(|interface| interface.mac == card.mac);
        let of_agent = guest.iter().flat_map(|guest| &guest.addresses);
        let of_dhcp = card.lease.iter().filter(|_| guest.is_none());
        let own = of_agent.chain(of_dhcp).map(|address| text(address));
        VirtualMachineInstanceNetworkInterface {
            name: Some(text(&card.name)),
            mac: Some(text(&card.mac)),
            ip_address: pod_address.clone(),
            ip_addresses: pod_address.iter().cloned().chain(own).collect(),
            pod_interface_name: Some("eth0".to_owned()),
            info_source: Some(if guest.is_some() { "domain, guest-agent" } else { "domain" }.to_owned()),
            queue_count: Some(1),
            link_state: Some("up".to_owned()),
            interface_name: guest.map(|guest| text(&guest.name)),
        }
    };
    let is_card = |guest: &&GuestInterface| machine.interfaces.iter().any(|card| card.mac == guest.mac);
    let other = |guest: &GuestInterface| VirtualMachineInstanceNetworkInterface {
        mac: Some(text(&guest.mac)).filter(|mac| !mac.is_empty()),
        ip_address: guest.addresses.first().map(|address| text(address)),
        ip_addresses: guest.addresses.iter().map(|address| text(address)).collect(),
        info_source: Some("guest-agent".to_owned()),
        interface_name: Some(text(&guest.name)),
        ..VirtualMachineInstanceNetworkInterface::default()
    };
    let others = seen.clone().filter(|guest| !is_card(guest)).map(other);
    machine.interfaces.iter().map(card).chain(others).collect()
}

/// Each volume and the device that shows it to the guest, by the volumes' names.
fn volume_status(instance: &VirtualMachineInstance) -> Vec<VolumeStatus> {
    let mut taken = std::collections::BTreeMap::<&str, usize>::new();
    let mut targets = std::collections::BTreeMap::new();
    for disk in &instance.spec.domain.devices.disks {
        let bus = [
            disk.disk.as_ref().and_then(|target| target.bus.as_deref()),
            disk.lun.as_ref().and_then(|target| target.bus.as_deref()),
            disk.cdrom.as_ref().and_then(|target| target.bus.as_deref()),
        ];
        let prefix = if bus.contains(&Some("virtio")) { "vd" } else { "sd" };
        let index = taken.entry(prefix).or_default();
        targets.insert(disk.name.as_str(), format!("{prefix}{}", letters(*index)));
        *index += 1;
    }
    let mut volumes: Vec<_> = instance
        .spec
        .volumes
        .iter()
        .map(|volume| VolumeStatus {
            name: volume.name.clone(),
            target: targets.get(volume.name.as_str()).cloned().unwrap_or_default(),
            ..VolumeStatus::default()
        })
        .collect();
    volumes.sort_by(|one, other| one.name.cmp(&other.name));
    volumes
}

/// `a` to `z`, then `aa` and on, as Linux names disks.
fn letters(mut index: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b"abcdefghijklmnopqrstuvwxyz"[index % 26]));
        if index < 26 {
            return letters.into_iter().rev().collect();
        }
        index = index / 26 - 1;
    }
}

fn write_conditions(
    instance: &VirtualMachineInstance,
    list: &mut Vec<Condition>,
    phase: Phase,
    observed: &Observed<'_>,
    machine: Option<&MachineStatus>,
    now: &Time,
) {
    let pod = observed.pod;
    // An instance whose Pod is about to be created is not worth a write.
    if phase != Phase::Pending || observed.create_error.is_some() {
        set(list, conditions::READY, conditions::ready(phase, pod), now);
    }
    let sync_error = machine.and_then(|machine| machine.sync_error.as_deref()).or(observed.refusal);
    let synchronized = conditions::synchronized(phase, pod, observed.create_error, sync_error);
    set(list, conditions::SYNCHRONIZED, synchronized, now);
    set(list, conditions::POD_SCHEDULED, conditions::pod_scheduled(phase, pod), now);
    set(list, conditions::PAUSED, conditions::paused(phase, machine), now);
    set(list, conditions::AGENT_CONNECTED, conditions::agent_connected(phase, machine), now);
    set(list, conditions::AGENT_UNSUPPORTED, conditions::agent_unsupported(phase, machine), now);
    if phase == Phase::Running {
        set(list, conditions::LIVE_MIGRATABLE, conditions::live_migratable(instance), now);
        let storage = conditions::storage_live_migratable(instance);
        set(list, conditions::STORAGE_LIVE_MIGRATABLE, storage, now);
    }
    let progress = pod.and_then(|pod| pod.progress.as_ref()).filter(|_| !phase.is_final());
    let pulled = conditions::image_pulled(progress, pod, find(list, keys::IMAGE_PULLED));
    set(list, keys::IMAGE_PULLED, pulled, now);
    // A panic that was written stays, also when the launcher is gone.
    if let Some(panic) = machine.and_then(|machine| machine.panic.as_ref()) {
        set(list, keys::GUEST_PANICKED, conditions::guest_panicked(Some(panic)), now);
    }
}

fn write_metadata(
    new: &mut VirtualMachineInstance,
    phase: Phase,
    observed: &Observed<'_>,
    machine: Option<&MachineStatus>,
) {
    // Checksums may be known only a moment after the machine runs.
    let learns = !knows_boot(new);
    let node = new.status.as_ref().and_then(|status| status.node_name.clone());
    if let Some(node) = node.filter(|_| phase >= Phase::Scheduled) {
        new.metadata.labels.get_or_insert_default().insert(keys::NODE_NAME.to_owned(), node);
    }
    let mut annotate = |key: &str, value: Option<String>| match value {
        Some(value) => {
            new.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value);
        }
        None => {
            if let Some(annotations) = &mut new.metadata.annotations {
                annotations.remove(key);
            }
        }
    };
    let progress = observed.pod.and_then(|pod| pod.progress.as_ref()).filter(|_| !phase.is_final());
    // It always has a JSON form.
    annotate(keys::PULL_PROGRESS, progress.and_then(|progress| serde_json::to_string(progress).ok()));
    if phase < Phase::Running {
        return;
    }
    let Some(boot) = machine.and_then(|machine| machine.boot.as_ref()) else { return };
    annotate(keys::IMAGE_DIGEST, Some(cut(&boot.image_digest).to_owned()));
    if let Some(version) = &boot.kernel_version {
        annotate(keys::KERNEL_VERSION, Some(cut(&printable(version)).to_owned()));
    }
    if let Some(kernel) = &boot.kernel {
        annotate(keys::KERNEL_CHECKSUM, Some(format!("{:08x}", kernel.checksum)));
    }
    if learns && let Some(last) = observed.last_boot {
        annotate(keys::KERNEL_CHANGED, Some(differs(last, boot).to_string()));
    }
}

/// Whether it is written on the instance what it booted.
pub(super) fn knows_boot(instance: &VirtualMachineInstance) -> bool {
    instance.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(keys::IMAGE_DIGEST))
}

/// Whether kernel or initrd are others than they were, by their checksums: that is what an instance keeps of them.
fn differs(last: &BootFacts, boot: &BootFacts) -> bool {
    let checksum = |file: &Option<FileFacts>| file.as_ref().map(|file| file.checksum);
    checksum(&last.kernel) != checksum(&boot.kernel) || checksum(&last.initrd) != checksum(&boot.initrd)
}

/// Writes the boot's timeline where that costs no write of its own, or where it is worth one: userspace was reached, the
/// machine has ended, or nothing came for a while. Says when to look again otherwise.
fn write_timeline(
    old: &VirtualMachineInstance,
    new: &mut VirtualMachineInstance,
    phase: Phase,
    machine: Option<&MachineStatus>,
    now: Timestamp,
) -> Option<Duration> {
    let timeline = &machine.filter(|_| phase >= Phase::Running)?.timeline;
    let annotations = new.metadata.annotations.as_ref();
    let stored = annotations.and_then(|annotations| annotations.get(keys::BOOT_TIMELINE));
    // What users wrote there is replaced.
    let written: BootTimeline = stored.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    if written == *timeline {
        return None;
    }
    let is_new = |of: fn(&BootTimeline) -> Option<u64>| of(timeline).is_some() && of(&written).is_none();
    let ready = timeline.vmm_ready.and_then(|at| i64::try_from(at).ok());
    let waited = ready.and_then(|at| u64::try_from(now.as_millisecond().saturating_sub(at)).ok());
    let waited = Duration::from_millis(waited.unwrap_or(u64::MAX));
    let is_worth_it = is_new(|timeline| timeline.userspace_started)
        || is_new(|timeline| timeline.ended)
        || waited >= TIMELINE_PATIENCE;
    if *old == *new && !is_worth_it {
        return Some(TIMELINE_PATIENCE.saturating_sub(waited));
    }
    // A struct of numbers always has a JSON form.
    if let Ok(text) = serde_json::to_string(timeline) {
        new.metadata.annotations.get_or_insert_default().insert(keys::BOOT_TIMELINE.to_owned(), text);
    }
    None
}

/// What happened between `old` and `new`.
fn events(
    old: &VirtualMachineInstance,
    new: &VirtualMachineInstance,
    before: Phase,
    entered: &[Phase],
    observed: &Observed<'_>,
    machine: Option<&MachineStatus>,
) -> Vec<(Teller, Event)> {
    let mut events = Vec::new();
    let mut tell = |teller, event| events.push((teller, event));
    let conditions_of = |instance: &VirtualMachineInstance, type_: &str| {
        let status = instance.status.as_ref();
        status.and_then(|status| find(&status.conditions, type_)).cloned()
    };
    let news = |type_: &str| {
        let (was, is) = (conditions_of(old, type_), conditions_of(new, type_)?);
        let is_same =
            was.is_some_and(|was| (was.reason, was.message) == (is.reason.clone(), is.message.clone()));
        (!is_same).then_some(is)
    };
    if entered.contains(&Phase::Scheduling)
        && let Some(pod) = observed.pod
    {
        let message = format!("Created virtual machine pod {}", pod.name);
        tell(Teller::Controller, Event::normal("SuccessfulCreate", message));
    }
    if let Some(condition) = news(conditions::SYNCHRONIZED) {
        let message = condition.message.unwrap_or_default();
        match condition.reason.as_deref() {
            Some("FailedCreate") => {
                let message = format!("Error creating pod: {message}");
                tell(Teller::Controller, Event::warning("FailedCreate", message));
            }
            Some(conditions::SYNC_FAILED) => {
                tell(Teller::Handler, Event::warning("SyncFailed", message));
            }
            // The node tells of images.
            _ => {}
        }
    }
    if entered.contains(&Phase::Running) {
        tell(Teller::Handler, Event::normal("Created", "VirtualMachineInstance defined."));
        tell(Teller::Handler, Event::normal("Started", "VirtualMachineInstance started."));
        for warning in machine.iter().flat_map(|machine| &machine.warnings) {
            tell(Teller::Handler, Event::warning("MachineRestricted", cut(&printable(warning)).to_owned()));
        }
        let migrates = conditions_of(new, conditions::LIVE_MIGRATABLE);
        if new.spec.eviction_strategy.as_deref() == Some("LiveMigrate")
            && let Some(condition) = migrates.filter(|condition| condition.status == "False")
        {
            let message = format!(
                "EvictionStrategy is set but vmi is not migratable; {}",
                condition.message.unwrap_or_default()
            );
            tell(Teller::Handler, Event::warning("Migrated", message));
        }
    }
    // What starts paused was not paused by anybody.
    let paused = |instance: &VirtualMachineInstance| {
        conditions_of(instance, conditions::PAUSED)
            .is_some_and(|paused| paused.reason.as_deref() == Some("PausedByUser"))
    };
    if before == Phase::Running && entered.is_empty() {
        match (paused(old), paused(new)) {
            (false, true) => tell(Teller::Handler, Event::normal("Paused", "VirtualMachineInstance paused")),
            (true, false) => {
                tell(Teller::Handler, Event::normal("Unpaused", "VirtualMachineInstance unpaused"))
            }
            _ => {}
        }
    }
    if news(keys::GUEST_PANICKED).is_some() {
        let line = machine.and_then(|machine| machine.panic.as_ref()).and_then(|panic| panic.line.as_deref());
        let message = line.map_or("GuestPanicked (details unavailable)".to_owned(), printable);
        tell(Teller::Handler, Event::warning("GuestPanicked", message));
    }
    let was_handed_over = before >= Phase::Scheduled || entered.contains(&Phase::Scheduled);
    match entered.last() {
        Some(Phase::Succeeded) => {
            tell(Teller::Handler, Event::normal("Stopped", "The VirtualMachineInstance was shut down."));
        }
        Some(Phase::Failed) if was_handed_over => {
            tell(Teller::Handler, Event::warning("Stopped", "The VirtualMachineInstance crashed."));
        }
        _ => {}
    }
    events
}

/// Whether nothing is new but that the instance has come further on its way to running: writing that can wait a little,
/// more will follow. What keeps it from going on is a condition, and written at once.
pub(super) fn can_wait(old: &VirtualMachineInstance, new: &VirtualMachineInstance) -> bool {
    let phase = new.status.as_ref().and_then(|status| status.phase.as_deref());
    let others = |instance: &VirtualMachineInstance| {
        let conditions = instance.status.as_ref().map(|status| status.conditions.clone());
        let others = conditions.unwrap_or_default().into_iter();
        others.filter(|condition| condition.type_ != conditions::READY).collect::<Vec<_>>()
    };
    matches!(phase, Some("Scheduling" | "Scheduled"))
        && new.metadata.deletion_timestamp.is_none()
        && others(old) == others(new)
}

/// Whether the launcher may be given the instance.
pub(super) fn may_start(instance: &VirtualMachineInstance, pod: &PodView) -> bool {
    pod.stage == Stage::Ready && instance.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests;
