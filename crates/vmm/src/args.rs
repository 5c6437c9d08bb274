//! The QEMU command line, as a pure function of what the guest is, what the host is and where its sockets
//! are. No file, clock or environment is looked at, so the text is the same every time and is tested as
//! golden files.
//!
//! The line is also meant for people: run by hand it boots the same guest with its console on the terminal.
//!
//! Every option, why it is there, and where QEMU's manual ("Invocation") or source defines it:
//!
//! - `-name guest=…,debug-threads=on`: process and thread names for `ps` and `top` (`-name`).
//! - `-nodefaults -no-user-config`: nothing in the guest that is not written here. No VGA, and with it
//!   no option ROM; together with a network card's worth 0.1 s of 2.3 s under TCG.
//! - `-machine q35,…`: the machine that KubeVirt guests see (`-machine`). `usb=off` and `vmport=off` leave
//!   out what nobody asked for, `dump-guest-core=off` keeps the guest's memory out of core dumps of QEMU;
//!   `acpi=off`, `hpet=off` and `pit=off` only when the guest asks for that.
//! - `-accel kvm` or `tcg,thread=multi`: what executes the guest; one host thread for each virtual CPU
//!   (`-accel`).
//! - `-cpu`: `host` under KVM, `max` less some slow features under TCG, unless the guest names a model; then
//!   the features that the guest names (`-cpu`). Whether those that it requires or forbids are there is asked
//!   once QEMU runs ([`Vm::start`](crate::Vm::start)): its own `enforce` would also judge the model's.
//! - `-smp`, `-m`: exactly the CPUs and bytes asked for (`-smp`, `-m`).
//! - `-rtc`: a clock that does not show the host's UTC, or makes up for lost ticks (`-rtc`).
//! - `-global kvm-pit.lost_tick_policy`: the same for the interval timer, which is KVM's (`hw/i386/kvm/i8254.c`).
//! - `-uuid`, `-smbios`: the guest's identity, system and chassis tables (`-smbios`, SMBIOS specification
//!   7.2, 7.4).
//! - `-kernel`, `-initrd`, `-append`: direct Linux boot ("Linux/Multiboot boot specific").
//! - `-display none`: no window (`-display`).
//! - `-chardev stdio,signal=off` with `-serial`: the guest's `ttyS0` on standard input and output; Ctrl-C
//!   belongs to the guest (`-chardev`, `-serial`).
//! - `-chardev socket,server=on,wait=off` with `-mon`: QMP for supervision, without waiting for a supervisor
//!   (`-mon`).
//! - `-device pvpanic` or `pvpanic-pci`: the guest's kernel tells of its panic (`docs/specs/pvpanic`).
//! - `-action panic=pause`: with that device, a panicked guest stops where it is, and an event says so
//!   (`-action`). Without, its kernel's own `panic=` decides.
//! - `-device i6300esb`, `-action watchdog=…`: a watchdog, only when asked for (`-action`).
//! - `-object rng-random`, `-device virtio-rng-pci`: entropy, only when asked for (`-object rng-random`).
//! - `-device virtio-balloon-pci,id=…,free-page-reporting=on`: the guest hands back pages that it has freed, without
//!   being told to (virtio specification 1.2, 5.5.6.7).
//! - `-device VGA`, `-vnc unix:…`: a display and the socket on which it is served, only when asked for (`-vnc`). With
//!   it SeaBIOS runs one option ROM more.
//! - `-device qemu-xhci`, `usb-tablet`, `virtio-tablet-pci`: pointing devices, only when asked for.
//! - `-netdev stream`, `-device virtio-net-pci,…`: a network card, whose Ethernet frames go through a UNIX socket
//!   that the supervisor listens on, each after its length in four bytes (`-netdev stream`). No option ROM: nothing
//!   boots from the network. Where nobody listens, as when the line is run by hand, the card has no link.
//! - `-device virtio-serial-pci`, `virtserialport,name=org.qemu.guest_agent.0`, `-chardev socket,id=agent`: the port on
//!   which an agent in the guest listens ("QEMU Guest Agent"), and the socket on which it is served.
//! - `-no-reboot`: a reboot ends the guest, only when the guest asks for that (`-no-reboot`).
//! - `-S`: stopped before the first instruction, only when asked for (`-S`).
//! - `-msg timestamp=off`: QEMU's complaints as they are (`-msg`).
//! - `-sandbox on,…=deny`: a seccomp filter against new processes, privileges and scheduling changes
//!   (`-sandbox`).
//!
//! No `-bios`: QEMU's default SeaBIOS is the firmware of KubeVirt guests. qboot gains 1 % and shows the guest
//! another firmware. Entering an unpacked kernel through PVH gains 10 to 15 % under TCG, and has no KASLR,
//! since that is the work of the kernel's own decompressor (all with Debian's 6.1 cloud kernel, QEMU 7.2,
//! measured 2026-11). Which of its forms the kernel is in is the caller's choice: `-kernel` takes both.
//!
//! Text with commas: QEMU splits the value of most options at commas, and reads a doubled comma as one. Every
//! such value passes `option_value`. `-kernel`, `-append`, `-uuid` and `-cpu` are taken whole. `-initrd` is
//! taken whole for a Linux kernel; QEMU splits it at commas for multiboot kernels only
//! (`hw/i386/multiboot.c`), which are never booted here.

use std::path::{Path, PathBuf};

use crate::clock::ClockStart;
use crate::host_facts::{Accelerator, HostFacts, Sandbox};
use crate::launch_spec::{
    Acpi, CardModel, Chassis, CpuTopology, FeaturePolicy, GuestReboot, InitialState, LaunchSpec, NetworkCard,
    PanicDevice, PitTicks, RtcSource, Smbios, TabletBus, Timers, WatchdogAction,
};

/// Where one run of a virtual machine keeps the files that its command line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPaths {
    /// UNIX socket on which QEMU serves QMP, at most [`MAX_SOCKET_PATH_BYTES`] long.
    pub qmp_socket: PathBuf,
    /// UNIX socket on which QEMU serves the guest's display, no longer than the other.
    pub vnc_socket: PathBuf,
    /// UNIX socket on which QEMU serves the port of the guest's agent, no longer than the first.
    pub agent_socket: PathBuf,
    /// Where QEMU writes a picture of the display when it is told to.
    pub picture: PathBuf,
    /// UNIX socket to which QEMU connects the guest's network card; as long as the other.
    pub network_socket: PathBuf,
}

/// QEMU's name for the port of the guest's agent.
pub(crate) const AGENT_PORT: &str = "agent0";

/// QEMU's name for the memory balloon.
pub(crate) const BALLOON: &str = "balloon0";

/// Longest path of a UNIX socket: `sun_path` has 108 bytes with its final zero, unix(7).
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

impl RunPaths {
    /// The paths inside a run directory. QEMU gets a directory of its own there (`qemu`), since it may run as
    /// another user who must not be able to touch the rest.
    pub fn in_directory(run_directory: &Path) -> Self {
        let own = run_directory.join("qemu");
        Self {
            qmp_socket: own.join("qmp.sock"),
            vnc_socket: own.join("vnc.sock"),
            network_socket: own.join("net.sock"),
            agent_socket: own.join("ga.sock"),
            picture: own.join("screen.png"),
        }
    }
}

/// The arguments of QEMU, without the program's own name.
///
/// Assumes a spec that [`LaunchSpec::check`] accepts.
pub fn qemu_args(spec: &LaunchSpec, facts: &HostFacts, paths: &RunPaths, clock: &ClockStart) -> Vec<String> {
    let mut args = Arguments::default();
    args.pair("-name", format!("guest={},debug-threads=on", option_value(&spec.name)));
    args.flag("-nodefaults");
    args.flag("-no-user-config");
    args.pair("-machine", machine(spec));
    args.pair("-accel", accelerator(&facts.accelerator));
    args.pair("-cpu", cpu(spec, &facts.accelerator));
    let CpuTopology { sockets, cores, threads } = spec.cpus;
    args.pair("-smp", format!("{},sockets={sockets},cores={cores},threads={threads}", spec.cpus.vcpus()));
    args.pair("-m", format!("size={}", size(spec.memory_bytes)));
    timers(&mut args, &spec.timers, &facts.accelerator, clock);
    identity(&mut args, &spec.smbios);
    args.pair("-kernel", path(&spec.kernel));
    if let Some(initrd) = &spec.initrd {
        args.pair("-initrd", path(initrd));
    }
    if !spec.command_line.is_empty() {
        args.pair("-append", spec.command_line.clone());
    }
    args.pair("-display", "none");
    if spec.serial_console {
        args.pair("-chardev", "stdio,id=console,signal=off");
        args.pair("-serial", "chardev:console");
    }
    args.pair("-chardev", served("qmp", &paths.qmp_socket));
    args.pair("-mon", "chardev=qmp,mode=control");
    let panic_device = match spec.panic_device {
        PanicDevice::None => None,
        PanicDevice::Isa => Some("pvpanic"),
        PanicDevice::Pci => Some("pvpanic-pci"),
    };
    if let Some(device) = panic_device {
        args.pair("-device", device);
        args.pair("-action", "panic=pause");
    }
    if let Some(action) = spec.watchdog {
        args.pair("-device", "i6300esb");
        args.pair("-action", format!("watchdog={}", watchdog_action(action)));
    }
    if spec.rng {
        args.pair("-object", "rng-random,id=rng0,filename=/dev/urandom");
        args.pair("-device", "virtio-rng-pci,rng=rng0");
    }
    if spec.memory_balloon {
        args.pair("-device", format!("virtio-balloon-pci,id={BALLOON},free-page-reporting=on"));
    }
    if spec.graphics {
        args.pair("-device", "VGA");
        args.pair("-vnc", format!("unix:{}", option_value(&path(&paths.vnc_socket))));
    }
    inputs(&mut args, &spec.inputs);
    if let Some(card) = &spec.network_card {
        network(&mut args, card, &paths.network_socket);
    }
    if spec.agent_port {
        args.pair("-chardev", served("agent", &paths.agent_socket));
        args.pair("-device", "virtio-serial-pci");
        args.pair(
            "-device",
            format!("virtserialport,chardev=agent,id={AGENT_PORT},name=org.qemu.guest_agent.0"),
        );
    }
    match spec.guest_reboot {
        GuestReboot::Restart => {}
        GuestReboot::Terminate => args.flag("-no-reboot"),
    }
    match spec.initial_state {
        InitialState::Running => {}
        InitialState::Paused => args.flag("-S"),
    }
    args.pair("-msg", "timestamp=off");
    args.sandbox(facts.qemu.sandbox);
    args.list
}

/// The list, grown by options with and without a value.
#[derive(Default)]
pub(crate) struct Arguments {
    pub(crate) list: Vec<String>,
}

impl Arguments {
    pub(crate) fn flag(&mut self, option: &str) {
        self.list.push(option.to_owned());
    }

    pub(crate) fn pair(&mut self, option: &str, value: impl Into<String>) {
        self.list.push(option.to_owned());
        self.list.push(value.into());
    }

    pub(crate) fn sandbox(&mut self, sandbox: Sandbox) {
        match sandbox {
            Sandbox::Missing => {}
            Sandbox::Available => {
                self.pair(
                    "-sandbox",
                    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
                );
            }
        }
    }
}

/// The text that stands for `value` inside an option's comma-separated value: each comma doubled
/// (QEMU, `get_opt_value` in `util/qemu-option.c`). Everything else stands for itself.
fn option_value(value: &str) -> String {
    value.replace(',', ",,")
}

/// A path as text. [`LaunchSpec::check`] refuses those that are not UTF-8.
fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A character device that QEMU serves on a socket, whether somebody connects or not.
fn served(id: &str, socket: &Path) -> String {
    format!("socket,id={id},path={},server=on,wait=off", option_value(&path(socket)))
}

fn accelerator(accelerator: &Accelerator) -> String {
    match accelerator {
        Accelerator::Kvm => "kvm".to_owned(),
        Accelerator::Tcg { .. } => "tcg,thread=multi".to_owned(),
    }
}

/// The best CPU that TCG offers, without features that only make it slower.
///
/// - `erms` invites Linux to copy with `rep movsb`, which TCG runs a byte at a time: about 10 % of the CPU
///   time that a Debian cloud kernel needs to boot (6.1, QEMU 7.2, measured 2026-11).
/// - `fsrm` (QEMU 10 has it) says the same of short copies. A processor with it and without `erms` does not
///   exist, and Linux 6.1 hangs on one (seen with QEMU 10.0.13): the two go together.
/// - `la57` adds a fifth level to every page walk for address space that no such guest has: up to 3 %.
///
/// `qemu64`, QEMU's own default, is hardly faster then, and lacks what userspace of x86-64-v2 needs.
const TCG_CPU: &str = "max,erms=off,fsrm=off,la57=off";

/// `host` under KVM, [`TCG_CPU`] under TCG, unless the guest names a model; then the features that it names. These are
/// the values that are not escaped, since QEMU has no escape there: features follow a comma, whatever comes after it.
/// So [`LaunchSpec::check`] lets plain names pass only. Of two words on one feature QEMU takes the later.
fn cpu(spec: &LaunchSpec, accelerator: &Accelerator) -> String {
    let mut text = match (&spec.cpu_model, accelerator) {
        (Some(model), _) => model.clone(),
        (None, Accelerator::Kvm) => "host".to_owned(),
        (None, Accelerator::Tcg { .. }) => TCG_CPU.to_owned(),
    };
    if *accelerator == Accelerator::Kvm {
        // Both are KVM's; on is QEMU's default for the first and off for the second.
        if !spec.timers.kvm_clock {
            text.push_str(",kvmclock=off");
        }
        if spec.timers.hyperv_clock {
            text.push_str(",hv-time=on");
        }
    }
    for feature in &spec.cpu_features {
        let switch = match feature.policy {
            FeaturePolicy::Force | FeaturePolicy::Require | FeaturePolicy::Optional => "on",
            // QEMU leaves it out where the accelerator does not have it; where it is there, the machine does not start.
            FeaturePolicy::Forbid => "on",
            FeaturePolicy::Disable => "off",
        };
        text.push_str(&format!(",{}={switch}", feature.name));
    }
    text
}

/// The machine and what is left out of it.
fn machine(spec: &LaunchSpec) -> String {
    let mut text = format!("{},usb=off,vmport=off,dump-guest-core=off", option_value(&spec.machine_type));
    let absent = [("acpi", spec.acpi == Acpi::Off), ("hpet", !spec.timers.hpet), ("pit", !spec.timers.pit)];
    for (part, absent) in absent {
        if absent {
            text.push_str(&format!(",{part}=off"));
        }
    }
    text
}

/// The real-time clock, unless it shows the host's UTC as QEMU's own does; and KVM's interval timer.
fn timers(args: &mut Arguments, timers: &Timers, accelerator: &Accelerator, clock: &ClockStart) {
    let mut rtc = clock
        .base
        .as_ref()
        .map_or_else(|| "base=utc".to_owned(), |base| format!("base={}", option_value(base)));
    if timers.rtc_source == RtcSource::Guest {
        rtc.push_str(",clock=vm");
    }
    if timers.rtc_catches_up {
        rtc.push_str(",driftfix=slew");
    }
    if rtc != "base=utc" {
        args.pair("-rtc", rtc);
    }
    if *accelerator == Accelerator::Kvm
        && let Some(ticks) = timers.pit_ticks
    {
        let policy = match ticks {
            PitTicks::Delay => "delay",
            PitTicks::Discard => "discard",
        };
        args.pair("-global", format!("kvm-pit.lost_tick_policy={policy}"));
    }
}

fn watchdog_action(action: WatchdogAction) -> &'static str {
    match action {
        WatchdogAction::Poweroff => "poweroff",
        WatchdogAction::Reset => "reset",
        WatchdogAction::Shutdown => "shutdown",
    }
}

/// Tablets, and the controller of those on USB.
fn inputs(args: &mut Arguments, inputs: &[TabletBus]) {
    if inputs.contains(&TabletBus::Usb) {
        args.pair("-device", "qemu-xhci");
    }
    for bus in inputs {
        args.pair(
            "-device",
            match bus {
                TabletBus::Usb => "usb-tablet",
                TabletBus::Virtio => "virtio-tablet-pci",
            },
        );
    }
}

/// The network card, and the way of its frames.
fn network(args: &mut Arguments, card: &NetworkCard, socket: &Path) {
    let socket = option_value(&path(socket));
    args.pair("-netdev", format!("stream,id=net0,server=off,addr.type=unix,addr.path={socket}"));
    let device = match card.model {
        CardModel::Virtio => "virtio-net-pci",
        CardModel::E1000 => "e1000",
        CardModel::E1000e => "e1000e",
        CardModel::Igb => "igb",
        CardModel::Ne2kPci => "ne2k_pci",
        CardModel::Pcnet => "pcnet",
        CardModel::Rtl8139 => "rtl8139",
    };
    let mac = card.mac.map(|octet| format!("{octet:02x}")).join(":");
    args.pair("-device", format!("{device},netdev=net0,mac={mac},romfile="));
}

/// Exactly this many bytes: in MiB where that is a whole number, for people to read.
fn size(bytes: u64) -> String {
    const MEBIBYTE: u64 = 1 << 20;
    if bytes.is_multiple_of(MEBIBYTE) { format!("{}M", bytes / MEBIBYTE) } else { format!("{bytes}B") }
}

fn identity(args: &mut Arguments, smbios: &Smbios) {
    let Smbios { manufacturer, product, family, uuid, serial, version, sku, chassis } = smbios;
    if let Some(uuid) = uuid {
        args.pair("-uuid", uuid.clone());
    }
    let system = [
        ("manufacturer", manufacturer),
        ("product", product),
        ("version", version),
        ("serial", serial),
        ("uuid", uuid),
        ("sku", sku),
        ("family", family),
    ];
    table(args, 1, &system);
    let Chassis { manufacturer, version, serial, asset, sku } = chassis;
    let chassis = [
        ("manufacturer", manufacturer),
        ("version", version),
        ("serial", serial),
        ("asset", asset),
        ("sku", sku),
    ];
    table(args, 3, &chassis);
}

/// One SMBIOS table, unless it would be empty.
fn table(args: &mut Arguments, number: u8, strings: &[(&str, &Option<String>)]) {
    let mut text = format!("type={number}");
    for (name, value) in strings {
        if let Some(value) = value {
            text.push_str(&format!(",{name}={}", option_value(value)));
        }
    }
    if text.contains(',') {
        args.pair("-smbios", text);
    }
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
