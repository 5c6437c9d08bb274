//! Which accelerator QEMU gets: KVM where KVM has been seen to run a guest, TCG everywhere else.
//!
//! That `/dev/kvm` opens says little. Some hosts offer it and then emulate every kernel-mode instruction of the
//! guest one by one (a nested hypervisor without the hardware's help), so that a Linux guest never leaves its
//! decompressor; others run guests and make QEMU abort on a model-specific register. So the probe measures:
//!
//! ```text
//! choose ── tcg asked for ─────────────────────────────────────────────► Tcg
//!    │
//!    └─ probe ── no /dev/kvm ──────────────────────────────────────────► Unusable
//!         ├─ verdict of this boot in the cache? ───────────────────────► that verdict (microseconds)
//!         ├─ stage 1  helper process: 64-bit guest with paging, millions
//!         │           of kernel-mode instructions, CPU-time deadline ──► Unusable: reason with the numbers
//!         └─ stage 2  QEMU itself, `-accel kvm`, the machine and CPU
//!                     model to be used, a guest of nine bytes ─────────► Unusable: QEMU's words, or Usable
//! ```
//!
//! Both stages run in child processes, because a vCPU that does not come back can then simply be killed, a crash
//! stays in the child, and the permission to open `/dev/kvm` is tried as the user that QEMU will run as. The child
//! of stage 1 is the calling program itself, started with [`HELPER_COMMAND`]; its `main` hands over to
//! [`helper_main`]. The deadline counts the child's CPU time, so that a busy host is not mistaken for a slow one.
//!
//! The verdict is kept in a small JSON file; its key holds everything that could change the answer (boot, kernel,
//! the device's inode, QEMU's binary, machine, CPU model, user), so an outdated verdict is never used and a missing
//! or damaged file only costs another probe.

mod cache;
mod child;
mod guest_image;
mod helper;
#[allow(unsafe_code)] // JUSTIFICATION: see the module; KVM maps memory of this process into the guest.
mod kvm_guest;
mod qemu_check;

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use helper::{HELPER_COMMAND, helper_main};

use crate::host_facts::Accelerator;
use crate::process::{Role, Trampoline};
use crate::run_as::RunAs;
use child::Ended;
use helper::GuestOutcome;

/// The device through which KVM is reached.
const KVM_DEVICE: &str = "/dev/kvm";

/// CPU time that the guest of stage 1 may take. Hardware needs about two milliseconds for it; TCG would need about
/// thirty; a host that emulates needs many seconds.
const GUEST_CPU_LIMIT: Duration = Duration::from_millis(250);

/// Elapsed time after which stage 1 is given up even if the child hardly got a CPU.
const GUEST_WALL_LIMIT: Duration = Duration::from_secs(8);

/// CPU time that QEMU may take for its start with a guest that ends at once: it takes about 150 ms.
const QEMU_CPU_LIMIT: Duration = Duration::from_secs(3);

/// Elapsed time after which stage 2 is given up; QEMU may have to come from a slow disk first.
const QEMU_WALL_LIMIT: Duration = Duration::from_secs(15);

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorChoice {
    /// KVM where it works, else TCG.
    #[default]
    Auto,
    /// KVM; an error where it does not work.
    Kvm,
    /// QEMU's own translator, also where KVM would work.
    Tcg,
}

/// The text is not one of `auto`, `kvm`, `tcg`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an accelerator: `auto`, `kvm` and `tcg` are")]
pub struct UnknownAccelerator(pub String);

impl FromStr for AcceleratorChoice {
    type Err = UnknownAccelerator;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            _ => Err(UnknownAccelerator(text.to_owned())),
        }
    }
}

impl fmt::Display for AcceleratorChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// The accelerator, and what the probe found on the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// What QEMU is to be started with.
    pub accelerator: Accelerator,
    /// The probe's finding; `None` if there was no probe, because TCG was asked for. [`KvmStatus::Unusable`] is worth
    /// a loud warning with its reason and hint.
    pub kvm: Option<KvmStatus>,
}

/// Why KVM cannot be used, and what may help.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmUnusable {
    /// What was seen, with the measured numbers; no full stop.
    pub reason: String,
    /// What the user can do, where there is something.
    pub hint: Option<String>,
}

impl KvmUnusable {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None }
    }

    fn with_hint(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: Some(hint.into()) }
    }
}

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KvmStatus {
    /// KVM ran the test guest, and QEMU started with it.
    Usable(KvmMeasurement),
    /// It did not.
    Unusable(KvmUnusable),
}

/// How fast the test guest ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KvmMeasurement {
    /// Instructions that the guest of stage 1 executed.
    pub instructions: u64,
    /// Elapsed time for them, in microseconds.
    pub microseconds: u64,
}

/// Whether a verdict of this boot may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheUse {
    /// Take it if everything that it depended on is unchanged.
    Reuse,
    /// Probe again and replace it.
    Refresh,
}

/// What to probe, and with what.
#[derive(Debug, Clone)]
pub struct ProbeRequest {
    /// QEMU's binary.
    pub qemu: PathBuf,
    /// The machine type to be used, such as `q35`.
    pub machine: String,
    /// The CPU model to be used, such as `host`.
    pub cpu_model: String,
    /// The user that QEMU will run as.
    pub run_as: RunAs,
    /// What starts both stages' processes.
    pub trampoline: Trampoline,
    /// The program that answers [`HELPER_COMMAND`].
    pub helper: Helper,
    /// Where the verdict is kept, and whether it may be used; `None` keeps none. The directory is made if absent.
    pub cache: Option<(PathBuf, CacheUse)>,
}

/// The program that runs the test guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helper {
    /// Its path.
    pub program: PathBuf,
    /// Arguments before [`HELPER_COMMAND`]; usually none.
    pub arguments: Vec<String>,
}

impl Helper {
    /// The program that the trampoline is: the same file, by the link that stays right even when it has been replaced
    /// meanwhile.
    pub fn this_program() -> Self {
        Self { program: PathBuf::from("/proc/self/exe"), arguments: Vec::new() }
    }
}

/// Choosing the accelerator failed.
#[derive(Debug, thiserror::Error)]
pub enum AcceleratorError {
    /// KVM was demanded and does not work here.
    #[error("cannot use KVM as asked: {}", .0.reason)]
    KvmUnusable(KvmUnusable),
}

impl AcceleratorError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::KvmUnusable(unusable) => {
                let otherwise = "`--accel auto` runs the guest under TCG, slower, without KVM";
                Some(match &unusable.hint {
                    Some(hint) => format!("{hint}; {otherwise}"),
                    None => otherwise.to_owned(),
                })
            }
        }
    }
}

/// Settles the accelerator: what was asked for, else what [`probe`] finds.
///
/// Blocks for as long as the probe does.
///
/// # Errors
///
/// [`AcceleratorError::KvmUnusable`] if `choice` demands KVM and KVM does not work.
pub fn choose(choice: AcceleratorChoice, request: &ProbeRequest) -> Result<Chosen, AcceleratorError> {
    if choice == AcceleratorChoice::Tcg {
        let accelerator = Accelerator::Tcg { reason: "it was asked for".to_owned() };
        return Ok(Chosen { accelerator, kvm: None });
    }
    let kvm = probe(request);
    let accelerator = match (&kvm, choice) {
        (KvmStatus::Usable(_), _) => Accelerator::Kvm,
        (KvmStatus::Unusable(unusable), AcceleratorChoice::Kvm) => {
            return Err(AcceleratorError::KvmUnusable(unusable.clone()));
        }
        (KvmStatus::Unusable(unusable), _) => Accelerator::Tcg { reason: unusable.reason.clone() },
    };
    Ok(Chosen { accelerator, kvm: Some(kvm) })
}

/// Finds out whether KVM runs a guest here, from the cache or by running one.
///
/// Blocks: less than a millisecond with a cached verdict, about 0.2 s without one where KVM works, and up to the
/// deadlines above where it does not. Never fails: whatever prevents the probe is a reason not to use KVM.
pub fn probe(request: &ProbeRequest) -> KvmStatus {
    let device = match std::fs::metadata(KVM_DEVICE) {
        Ok(metadata) => metadata,
        Err(error) => return KvmStatus::Unusable(no_device(&error)),
    };
    let cache =
        request.cache.as_ref().and_then(|(directory, cache_use)| match cache::Key::of(request, &device) {
            Ok(key) => Some((directory, *cache_use, key)),
            Err(error) => {
                tracing::debug!(%error, "the verdict on KVM cannot be cached");
                None
            }
        });
    if let Some((directory, CacheUse::Reuse, key)) = &cache
        && let Some(status) = cache::load(directory, key)
    {
        return status;
    }
    let (status, keep) = match probe_afresh(request, &device) {
        Ok(measurement) => (KvmStatus::Usable(measurement), true),
        Err(Obstacle::Lasting(unusable)) => (KvmStatus::Unusable(unusable), true),
        Err(Obstacle::Passing(unusable)) => (KvmStatus::Unusable(unusable), false),
    };
    if let (Some((directory, _, key)), true) = (&cache, keep)
        && let Err(error) = cache::store(directory, key, &status)
    {
        tracing::debug!(%error, directory = %directory.display(), "the verdict on KVM was not cached");
    }
    status
}

/// Why KVM is not used, and whether that will be so until something changes that the cache's key holds.
#[derive(Debug, PartialEq, Eq)]
enum Obstacle {
    Lasting(KvmUnusable),
    /// The next probe may find otherwise, so this verdict is not kept.
    Passing(KvmUnusable),
}

impl Obstacle {
    /// The probe itself could not be done.
    fn cannot(what: &str, error: &io::Error) -> Self {
        Self::Passing(KvmUnusable::new(format!("cannot {what}: {error}")))
    }
}

fn probe_afresh(request: &ProbeRequest, device: &Metadata) -> Result<KvmMeasurement, Obstacle> {
    let device = DeviceOwner { uid: device.uid(), gid: device.gid(), mode: device.mode() & 0o7777 };
    let measurement = run_test_guest(request, device, GUEST_CPU_LIMIT, GUEST_WALL_LIMIT)?;
    qemu_check::start_with(request, "kvm", QEMU_CPU_LIMIT, QEMU_WALL_LIMIT)?;
    Ok(measurement)
}

/// Stage 1: the test guest in a helper process.
fn run_test_guest(
    request: &ProbeRequest,
    device: DeviceOwner,
    cpu_limit: Duration,
    wall_limit: Duration,
) -> Result<KvmMeasurement, Obstacle> {
    const MAKE_MEMORY: &str = "make the test guest's memory";
    let memory = guest_image::memory().map_err(|error| Obstacle::cannot(MAKE_MEMORY, &error))?;
    let stdin = memory.try_clone().map_err(|error| Obstacle::cannot(MAKE_MEMORY, &error))?;
    let mut arguments = request.helper.arguments.clone();
    arguments.push(HELPER_COMMAND.to_owned());
    let role = Role::of(&request.run_as);
    let mut command = request.trampoline.command(&role, &request.helper.program, &arguments);
    let (ended, output) = child::run(&mut command, stdin, cpu_limit, wall_limit)
        .map_err(|error| Obstacle::cannot("run the process that tests KVM", &error))?;
    let status = match ended {
        Ended::OutOfTime { cpu, elapsed } if cpu < cpu_limit => {
            return Err(Obstacle::Passing(KvmUnusable::new(format!(
                "KVM's test guest got only {} ms of CPU time in {} ms and did not end: the machine is too busy to tell",
                cpu.as_millis(),
                elapsed.as_millis()
            ))));
        }
        Ended::OutOfTime { cpu, elapsed } => return Err(Obstacle::Lasting(too_slow(&memory, cpu, elapsed))),
        Ended::Exited(status) => status,
    };
    match helper::read_outcome(&output.stdout) {
        Some(GuestOutcome::Ran { microseconds }) => {
            Ok(KvmMeasurement { instructions: guest_image::INSTRUCTIONS, microseconds })
        }
        Some(GuestOutcome::CannotOpen { errno }) => {
            let unusable = cannot_open(&request.run_as, device, errno);
            // A permission is in the cache's key; a module that gets loaded is not.
            let is_permission = io::Error::from_raw_os_error(errno).kind() == io::ErrorKind::PermissionDenied;
            Err(if is_permission { Obstacle::Lasting(unusable) } else { Obstacle::Passing(unusable) })
        }
        Some(GuestOutcome::Failed { doing, errno }) => Err(Obstacle::Passing(refused(&doing, errno))),
        Some(GuestOutcome::Stopped { how }) => Err(Obstacle::Lasting(KvmUnusable::new(format!(
            "KVM did not run the test guest to its end: {how}"
        )))),
        None => Err(Obstacle::Passing(KvmUnusable::new(format!(
            "the process that tests KVM ended without an answer ({status}{})",
            output.stderr_tail().map(|tail| format!(": {tail}")).unwrap_or_default()
        )))),
    }
}

fn too_slow(memory: &File, cpu: Duration, elapsed: Duration) -> KvmUnusable {
    let mut remaining = [0; 4];
    let executed = match memory.read_exact_at(&mut remaining, guest_image::PROGRESS) {
        Ok(()) => guest_image::executed(u32::from_le_bytes(remaining)),
        Err(_) => 0, // the number only adorns the message
    };
    KvmUnusable::with_hint(
        format!(
            "`{KVM_DEVICE}` opens, but KVM's test guest executed {executed} of {} instructions in {} ms of CPU time \
             ({} ms in all), where hardware takes about 2 ms for all of them: the host emulates the guest",
            guest_image::INSTRUCTIONS,
            cpu.as_millis(),
            elapsed.as_millis(),
        ),
        "this machine is itself a guest; its hypervisor would have to pass hardware virtualisation on",
    )
}

fn no_device(error: &io::Error) -> KvmUnusable {
    if error.kind() != io::ErrorKind::NotFound {
        return KvmUnusable::new(format!("cannot look at `{KVM_DEVICE}`: {error}"));
    }
    // An empty text where it cannot be read: it only chooses the hint.
    absent(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// There is no device on a machine with these CPUs (the text of `/proc/cpuinfo`).
fn absent(cpus: &str) -> KvmUnusable {
    let flags = cpus.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_ascii_whitespace().any(|word| word == flag);
    let module = if has("vmx") {
        Some("kvm_intel")
    } else if has("svm") {
        Some("kvm_amd")
    } else {
        None
    };
    let hint = match module {
        Some(module) => format!(
            "the CPU has virtualisation: load the module with `sudo modprobe {module}`; in a container, pass the \
             device in"
        ),
        None => "the CPU shows no virtualisation (neither vmx nor svm): switch it on in the firmware's setup, or, in \
                 a virtual machine, switch on nested virtualisation for it"
            .to_owned(),
    };
    KvmUnusable::with_hint(format!("there is no `{KVM_DEVICE}`"), hint)
}

/// To whom `/dev/kvm` belongs.
#[derive(Debug, Clone, Copy)]
struct DeviceOwner {
    uid: u32,
    gid: u32,
    mode: u32,
}

fn cannot_open(run_as: &RunAs, device: DeviceOwner, errno: i32) -> KvmUnusable {
    let error = io::Error::from_raw_os_error(errno);
    if error.kind() != io::ErrorKind::PermissionDenied {
        let hint = "is the module for this CPU loaded? `sudo dmesg | grep -i kvm` says why it may not be";
        return KvmUnusable::with_hint(format!("cannot open `{KVM_DEVICE}`: {error}"), hint);
    }
    let owner = format!("{}:{} mode {:04o}", device.uid, device.gid, device.mode);
    let group_may = device.mode & 0o060 == 0o060 && device.gid != 0;
    match run_as {
        RunAs::User { uid, gid, .. } => KvmUnusable::with_hint(
            format!("`{KVM_DEVICE}` ({owner}) does not open for {uid}:{gid}, which QEMU runs as"),
            format!(
                "`sudo chgrp kvm {KVM_DEVICE} && sudo chmod 0660 {KVM_DEVICE}`, as a distribution's udev rule does"
            ),
        ),
        RunAs::Caller => KvmUnusable::with_hint(
            format!("`{KVM_DEVICE}` ({owner}) does not open for this user: permission denied"),
            if group_may {
                "add yourself to its group with `sudo usermod -aG kvm \"$USER\"` and log in again".to_owned()
            } else {
                format!(
                    "`sudo chgrp kvm {KVM_DEVICE} && sudo chmod 0660 {KVM_DEVICE}`, then be a member of group kvm"
                )
            },
        ),
    }
}

fn refused(doing: &str, errno: i32) -> KvmUnusable {
    let error = io::Error::from_raw_os_error(errno);
    let reason = format!("KVM refused to {doing}: {error}");
    if errno == rustix::io::Errno::BUSY.raw_os_error() {
        return KvmUnusable::with_hint(
            reason,
            "another hypervisor (VirtualBox, VMware) holds the CPU; stop it",
        );
    }
    KvmUnusable::new(reason)
}

#[cfg(test)]
mod tests;
