//! From an instance and the files of its Pod to a running QEMU: the steps of `ferrovirt run`, with the image volume that
//! the node has laid out in the place of a pull.

use std::net::SocketAddr;
use std::path::Path;

use manifest::machine_status::{MachineInterface, MachineStatus};
use manifest::types::VirtualMachineInstance;
use tokio::time::Instant;
use vmm::kernel::EntryChoice;
use vmm::priority;
use vmm::process::Trampoline;
use vmm::{
    Accelerator, Acpi, ConsoleReader, ConsoleWriter, HostFacts, InitialState, LaunchSpec, PanicDevice, RunAs,
    StartRequest, Vm,
};

use super::{CONSOLE_LOG, LauncherError, Settings, open_log, unix_milliseconds, write_document};
use crate::boot_image::{self, BootImage, BootImageError};
use crate::cgroup::{ControlGroup, memory_limit_bytes};
use crate::command_line;
use crate::control::described;
use crate::cri_log::{CriLog, Stream};
use crate::host::{self, HostError};
use crate::network::{self, Door, Outside, PodPorts, network};
use crate::plan::{PanicDevices, plan};
use crate::pod_dir::{LaunchRecord, PodDir};
use crate::privileges;
use crate::session::{OnPanic, PowerButton, Rules};
use crate::timeline::Timeline;

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartFailure {
    #[error("this launcher is for the instance {wanted}, not for {given}")]
    Other { wanted: String, given: String },
    #[error(transparent)]
    BootImage(#[from] BootImageError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("cannot size the machine {name}")]
    Memory { name: String, source: manifest::resources::MemoryError },
    #[error("cannot start the virtual machine {name}")]
    Spec { name: String, source: vmm::SpecError },
    #[error(transparent)]
    Files(#[from] LauncherError),
    #[error(transparent)]
    Qemu(#[from] vmm::StartError),
    #[error("the preparation of the boot files was interrupted")]
    Interrupted,
}

impl StartFailure {
    fn hint(&self) -> Option<String> {
        match self {
            Self::BootImage(error) => error.hint(),
            Self::Host(error) => error.hint(),
            Self::Memory { source, .. } => source.hint(),
            Self::Spec { source, .. } => source.hint(),
            Self::Qemu(error) => error.hint(),
            Self::Other { .. } | Self::Files(_) | Self::Interrupted => None,
        }
    }

    /// In one line: what went wrong, its causes, what to do.
    pub(super) fn told(&self) -> String {
        let mut text = described(self);
        if let Some(hint) = self.hint() {
            text.push_str(&format!(" ({hint})"));
        }
        text
    }
}

/// A machine whose QEMU runs.
pub(super) struct Started {
    pub vm: Vm,
    pub console: ConsoleReader,
    /// Kept open: a guest whose console hangs up may do anything.
    pub console_input: ConsoleWriter,
    /// None when the manifest wants none.
    pub console_log: Option<CriLog>,
    pub image: BootImage,
    pub known: Known,
    /// The way to the guest, where it has a network.
    pub door: Option<Door>,
    pub rules: Rules,
    pub initial_state: InitialState,
    pub began: Instant,
    pub began_unix: u64,
    pub timeline: Timeline,
}

/// What is known of a machine for good once its QEMU runs.
#[derive(Debug, Clone)]
pub(super) struct Known {
    uid: String,
    machine_type: Option<String>,
    accelerator: &'static str,
    qemu_user: u32,
    selinux_context: Option<String>,
    pull: (u64, u64),
    interfaces: Vec<MachineInterface>,
    warnings: Vec<String>,
}

impl Known {
    /// Adds what its owner should know.
    pub(super) fn warn(&mut self, warning: Option<impl Into<String>>) {
        let Some(warning) = warning.map(Into::into) else { return };
        tracing::warn!("{warning}");
        self.warnings.push(warning);
    }

    /// The guest has this address by DHCP.
    pub(super) fn note_lease(&mut self, address: std::net::Ipv4Addr) {
        for interface in &mut self.interfaces {
            interface.lease = Some(address.to_string());
        }
    }

    pub(super) fn tell(&self, status: &mut MachineStatus) {
        status.vmi_uid.clone_from(&self.uid);
        status.sync_error = None;
        status.machine_type.clone_from(&self.machine_type);
        status.accelerator = Some(self.accelerator.to_owned());
        status.qemu_user = Some(self.qemu_user);
        status.selinux_context.clone_from(&self.selinux_context);
        status.interfaces.clone_from(&self.interfaces);
        status.warnings.clone_from(&self.warnings);
        (status.timeline.pull_started, status.timeline.pulled) = (Some(self.pull.0), Some(self.pull.1));
    }
}

fn known(settings: &Settings, image: &BootImage, facts: &HostFacts, machine_type: Option<&str>) -> Known {
    Known {
        uid: settings.uid.clone(),
        machine_type: machine_type.map(str::to_owned),
        accelerator: match facts.accelerator {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg { .. } => "tcg",
        },
        qemu_user: match facts.run_as {
            RunAs::Caller => rustix::process::geteuid().as_raw(),
            RunAs::User { uid, .. } => uid,
        },
        selinux_context: selinux_context(),
        pull: image.pull,
        interfaces: Vec::new(),
        warnings: Vec::new(),
    }
}

/// The SELinux context of this process, which QEMU is started in; `none` where there is no SELinux.
fn selinux_context() -> Option<String> {
    // Where another security module has the file, what it says is no context.
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        return Some("none".to_owned());
    }
    // It is told where it can be read; nothing depends on it.
    let text = std::fs::read_to_string("/proc/self/attr/current").ok()?;
    Some(text.trim_end_matches(['\0', '\n']).to_owned())
}

/// From an instance to a running QEMU. `control` is where the control API listens, at the Pod's address, of which
/// `pod_ports` are taken by a machine with a network.
pub(super) async fn start(
    pod: &PodDir,
    settings: &Settings,
    control: SocketAddr,
    pod_ports: &mut PodPorts,
    group: Option<&ControlGroup>,
    instance: &VirtualMachineInstance,
) -> Result<Started, StartFailure> {
    let (began, began_unix) = (Instant::now(), unix_milliseconds());
    let full_name = |namespace: Option<&str>, name: Option<&str>| {
        format!("`{}/{}`", namespace.unwrap_or_default(), name.unwrap_or_default())
    };
    let given = full_name(instance.metadata.namespace.as_deref(), instance.metadata.name.as_deref());
    let wanted = full_name(Some(&settings.namespace), Some(&settings.name));
    if given != wanted {
        return Err(StartFailure::Other { wanted, given });
    }
    let qemu = settings.host.qemu()?;
    let chosen = settings.host.accelerator_for(pod.path(), &qemu).await?;
    let image = prepared(pod, settings, instance, host::kernel_entry(&chosen.accelerator)).await?;
    let spec = plan(instance, &image.files, &[], PanicDevices::AsWritten)
        .map_err(|source| StartFailure::Memory { name: given.clone(), source })?;
    let (facts, warnings) = host::facts(qemu, chosen.accelerator, &image.files, pod.path())?;
    spec.check(&facts).map_err(|source| StartFailure::Spec { name: given.clone(), source })?;
    let console_warning =
        spec.serial_console.then(|| command_line::console_warning(&spec.command_line)).flatten();
    for warning in image.warnings.iter().chain(&warnings).chain(&console_warning.map(|text| text.to_string()))
    {
        tracing::warn!("{warning}");
    }
    let record = LaunchRecord {
        vmi_uid: settings.uid.clone(),
        vmi_generation: instance.metadata.generation,
        launch: spec.clone(),
    };
    write_document(&pod.launch_record(), &record)?;
    let is_logged = instance.spec.domain.devices.log_serial_console.unwrap_or(true);
    let console_log = is_logged.then(|| open_log(pod, CONSOLE_LOG, Stream::Output)).transpose()?;
    if let Some(group) = group
        && let Err(error) = group.limit_memory(memory_limit_bytes(&spec, &facts.accelerator))
    {
        tracing::warn!(%error, "no limit on the memory of the machine");
    }
    let prepared = Some(began.elapsed());
    let trampoline = Trampoline::this_program();
    let request = StartRequest {
        spec: &spec,
        facts: &facts,
        run_directory: pod.path(),
        trampoline: &trampoline,
        niceness: settings.niceness,
    };
    let (mut vm, console, console_input) = Vm::start(request).await?;
    if let Err(error) = priority::step_back() {
        tracing::warn!(%error, "the launcher stays ahead of others");
    }
    let network = network(instance);
    // Some of them take a privilege.
    let closed_ports = match &network {
        Some(network) => pod_ports.open(control, &network.ports).await,
        None => None,
    };
    if let Err(error) = privileges::after_start() {
        tracing::warn!(%error, "the launcher keeps the privileges that the start took");
    }
    let pod_ports = std::mem::take(pod_ports);
    let timeline = Timeline { prepared, vmm_ready: Some(began.elapsed()), ..Timeline::default() };
    tracing::info!(process = vm.process_id(), accelerator = ?facts.accelerator, "QEMU runs");
    let mut known = known(settings, &image, &facts, vm.machine_type());
    let mut door = None;
    known.warn(closed_ports);
    if let Some(network) = network {
        let outside =
            Outside::find(&settings.host.search_path, &facts.qemu, &trampoline, network.host_loopback);
        known.warn(outside.warning());
        known.interfaces.push(MachineInterface::new(&network.interface, network.card.mac));
        door = vm.network().map(|wire| network::serve(wire, network, outside));
        if let Some(door) = &door {
            pod_ports.serve(door);
            tokio::spawn(door.clone().tell_traffic(pod.traffic()));
        }
    }
    Ok(Started {
        known,
        vm,
        console,
        console_input,
        console_log,
        door,
        image,
        rules: rules(&spec),
        initial_state: spec.initial_state,
        began,
        began_unix,
        timeline,
    })
}

/// The boot image, prepared beside other tasks: unpacking a kernel takes its time.
async fn prepared(
    pod: &PodDir,
    settings: &Settings,
    instance: &VirtualMachineInstance,
    entry: EntryChoice,
) -> Result<BootImage, StartFailure> {
    let record = pod.image_volume(boot_image::VOLUME);
    let (instance, kernel_dir) = (instance.clone(), settings.kernel_dir.clone());
    let prepare = move || {
        let volume = boot_image::read_volume(&record)?;
        boot_image::prepare(&instance, &volume, &kernel_dir, entry)
    };
    Ok(tokio::task::spawn_blocking(prepare).await.map_err(|_| StartFailure::Interrupted)??)
}

/// A panic without a device in the manifest is the guest's own affair.
fn rules(spec: &LaunchSpec) -> Rules {
    Rules::Launcher {
        panic: if spec.panic_device == PanicDevice::None { OnPanic::Tell } else { OnPanic::Crash },
        power_button: match spec.acpi {
            Acpi::On => PowerButton::Present,
            Acpi::Off => PowerButton::Absent,
        },
        reboot: spec.guest_reboot,
    }
}
