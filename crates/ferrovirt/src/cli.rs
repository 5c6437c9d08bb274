//! The command line: what was typed and nothing else. Values that need a look at the system are resolved in
//! [`settings`](crate::settings) and in the commands.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::api::targets::{self, Guest};

mod deferred;
mod guests;
mod server;

pub use deferred::Deferred;

pub use guests::{
    Forwarding, Login, Place, PortForwardFlags, ScpFlags, ScreenshotFlags, SecureShellFlags, SshFlags,
    ViewerKind, VncCommand, VncFlags,
};
#[cfg(test)]
pub use server::parse_until;
pub use server::{
    ApplyFlags, ChoiceFlags, ConsoleFlags, DeleteFlags, DescribeFlags, DryRun, EventsFlags, GetFlags,
    InstanceFlags, MachinesFlags, RestartFlags, SortBy, StartFlags, StopFlags, TopFlags, Until, WaitFlags,
    WaitForFlags,
};

/// KubeVirt virtual machines from a kernel and an initrd in a container image, with one binary and QEMU.
#[derive(Debug, Parser)]
#[command(name = "ferrovirt", version, max_term_width = 110, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalFlags,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
pub struct GlobalFlags {
    /// Directory of images and other lasting state [env: FERROVIRT_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Directory of what runs now: sockets, console logs [env: FERROVIRT_RUN_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Registry credentials, in place of the files of containers-auth.json(5) [env: REGISTRY_AUTH_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Kubeconfig of commands that ask a server [env: KUBECONFIG; default: ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, in place of its current one
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace that a command works in [default: the context's, else `default`]
    #[arg(short, long, global = true, value_name = "NAME", value_parser = server::namespace)]
    pub namespace: Option<String>,
    /// Say less: no progress, no summary
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; twice for debugging (RUST_LOG overrides)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a VirtualMachine or VirtualMachineInstance in the foreground
    Run(Deferred<RunFlags>),
    /// Print objects of a server
    Get(Deferred<GetFlags>),
    /// Create objects of a manifest, or change them, on a server
    Apply(Deferred<ApplyFlags>),
    /// Describe objects of a server; of machines also their boot
    Describe(Deferred<DescribeFlags>),
    /// Delete objects of a server
    Delete(Deferred<DeleteFlags>),
    /// Start machines
    Start(Deferred<StartFlags>),
    /// Stop machines
    Stop(Deferred<StopFlags>),
    /// Restart machines: each boots what its image holds now
    Restart(Deferred<RestartFlags>),
    /// Let the virtual CPUs of machines stand still
    Pause(Deferred<InstanceFlags>),
    /// Let the virtual CPUs of paused machines run again
    Unpause(Deferred<InstanceFlags>),
    /// Press the reset button of machines
    Reset(Deferred<InstanceFlags>),
    /// Ask the guests of machines to reboot
    SoftReboot(Deferred<InstanceFlags>),
    /// Connect to the serial console of a machine
    Console(Deferred<ConsoleFlags>),
    /// Forward ports of this host to a guest
    PortForward(Deferred<PortForwardFlags>),
    /// Log in to a guest with this host's `ssh`
    Ssh(Deferred<SshFlags>),
    /// Copy files to or from a guest with this host's `scp`
    Scp(Deferred<ScpFlags>),
    /// See the display of a machine with a viewer of this host
    Vnc(Deferred<VncFlags>),
    /// Wait until objects are as wanted, or a console says so
    Wait(Deferred<WaitForFlags>),
    /// Print what happened
    Events(Deferred<EventsFlags>),
    /// Print what machines, Pods or nodes use of processors and memory
    Top(Deferred<TopFlags>),
    /// Serve the Kubernetes API with KubeVirt's kinds on this machine
    Serve(Deferred<ServeFlags>),
    /// Print the kubeconfig of the server's administrator, or merge it into yours
    Kubeconfig(Deferred<KubeconfigFlags>),
    /// Print what a machine said, in this boot or an earlier one
    Logs(Deferred<LogsFlags>),
    /// Back up, restore or check the state that `serve` keeps
    State(Deferred<StateFlags>),
    /// Build, move and look at images
    Image(Deferred<ImageFlags>),
    /// Check manifests without running anything
    Validate(Deferred<ValidateFlags>),
    /// Report what this machine offers: KVM, QEMU, registries, store, limits
    Doctor(Deferred<DoctorFlags>),
    /// Print a script that completes commands and names of objects in a shell
    Completion(Deferred<CompletionFlags>),
    /// Print what may stand in the place of the last word; asked by shells
    #[command(hide = true, name = "__complete")]
    Complete(Deferred<CompleteFlags>),
    /// Be the launcher of one virtual machine; started by `serve`
    #[command(hide = true)]
    Launcher(Deferred<LauncherFlags>),
}

/// `ferrovirt completion`
#[derive(Debug, Args)]
pub struct CompletionFlags {
    /// Whose script
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// source <(ferrovirt completion bash)
    Bash,
    /// source <(ferrovirt completion zsh)
    Zsh,
    /// ferrovirt completion fish | source
    Fish,
}

/// `ferrovirt __complete`
#[derive(Debug, Args)]
pub struct CompleteFlags {
    /// What has been typed behind the program's name; the last word is the one to complete
    #[arg(value_name = "WORD", last = true)]
    pub words: Vec<String>,
}

/// `ferrovirt launcher`
#[derive(Debug, Args)]
pub struct LauncherFlags {
    /// The Pod's directory, as the node has laid it out
    #[arg(long, value_name = "DIR")]
    pub pod_dir: PathBuf,
    /// Where the control API listens
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Name of the VirtualMachineInstance
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// Its UID; no other instance is started
    #[arg(long, value_name = "UID")]
    pub uid: String,
    /// How long the guest may take to shut down after SIGTERM
    #[arg(long, value_name = "SECONDS")]
    pub grace_period_seconds: u64,
    /// How far QEMU stands behind other processes for the processors: a nice level
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=19))]
    pub niceness: u8,
    /// Most that the machine takes of the processors, in thousandths of a core
    #[arg(long, value_name = "N")]
    pub cpu_limit_millis: Option<u64>,
    /// What executes the guest's instructions
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// What a line of its log is
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// What a line of a log looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// A JSON object
    Json,
}

impl LogFormat {
    /// The flag that says so.
    pub fn as_flag(self) -> &'static str {
        match self {
            Self::Text => "--log-format=text",
            Self::Json => "--log-format=json",
        }
    }
}

/// Ports of guests that are open at their Pods' addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PodPorts {
    /// All, by rules of the host's firewall, which take root and nft(8)
    All,
    /// Those that an interface lists; the firewall is left alone
    Listed,
}

/// `ferrovirt serve`
#[derive(Debug, Args)]
pub struct ServeFlags {
    /// Address and port to serve on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,
    /// File of static bearer tokens: `token,user,uid,"group1,group2"` a line
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Write an audit event for each request to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// How many changes, of all objects, watches and lists can go back; what is older answers 410 Gone
    #[arg(long, value_name = "NUMBER", default_value_t = apiserver::store::HistoryLimits::default().max_events)]
    pub history_changes: u64,
    /// Name of this machine's Node [default: the one that it had, at first the host's]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// What each line on standard error is, and of launchers' logs
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Ports of guests that are open at their Pods' addresses, of those that manifests allow
    #[arg(long, value_name = "PORTS", value_enum, default_value_t = PodPorts::All, conflicts_with = "api_only")]
    pub pod_ports: PodPorts,
    /// Serve the API and nothing else: no controller acts, no machine is started, ended or adopted
    #[arg(long, conflicts_with = "node_name")]
    pub api_only: bool,
}

/// `ferrovirt kubeconfig`
#[derive(Debug, Args)]
pub struct KubeconfigFlags {
    /// Merge into the first file of $KUBECONFIG, or ~/.kube/config, and make it the current context
    #[arg(long)]
    pub merge: bool,
}

/// `ferrovirt logs`
#[derive(Debug, Args)]
pub struct LogsFlags {
    /// Machine: NAME, vm/NAME[/NAMESPACE] or vmi/NAME[/NAMESPACE]
    #[arg(value_name = "NAME", value_parser = targets::guest)]
    pub guest: Guest,
    /// Read the files of this machine and ask no server
    #[arg(long)]
    pub local: bool,
    /// Which boot: 0 is the newest, -1 the one before it; the last three are kept after they have ended
    #[arg(short, long, value_name = "NUMBER", default_value_t = 0, default_value_if("previous", "true", "-1"),
          allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(..=0))]
    pub boot: i32,
    /// The same as --boot -1
    #[arg(short, long, conflicts_with = "boot")]
    pub previous: bool,
    /// Whose words: the guest's console, or `compute`, the launcher
    #[arg(short, long, value_name = "NAME", default_value = "guest-console-log", value_parser = crate::commands::logs::container)]
    pub container: String,
    /// Go on with what is said from now on, until the machine has ended
    #[arg(short, long)]
    pub follow: bool,
    /// Print so many of the last lines only
    #[arg(long, value_name = "LINES")]
    pub tail: Option<u64>,
    /// Put the time in front of each line
    #[arg(long)]
    pub timestamps: bool,
    /// List the boots instead
    #[arg(long, conflicts_with_all = ["boot", "previous", "container", "follow", "tail", "timestamps"])]
    pub list_boots: bool,
}

/// `ferrovirt state`
#[derive(Debug, Args)]
pub struct StateFlags {
    #[command(subcommand)]
    pub command: StateCommand,
}

#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Copy the API objects into one file; a running server goes on
    Backup {
        /// File to write; it must not exist
        file: PathBuf,
    },
    /// Put the objects of a backup in the place of the present ones; no server may run
    Restore {
        /// A file that `backup` wrote
        file: PathBuf,
        /// Replace the state that is there; it is kept aside
        #[arg(long)]
        replace: bool,
    },
    /// Read all of the state and report what is wrong with it
    Check,
}

/// `ferrovirt run`
#[derive(Debug, Args)]
#[command(after_long_help = RUN_EXIT_CODES)]
pub struct RunFlags {
    /// Manifest (YAML or JSON), `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    pub filename: Option<PathBuf>,
    /// Which machine, where the manifest holds several
    #[arg(long, value_name = "NAME", requires = "filename")]
    pub name: Option<String>,
    /// Kernel file to boot in place of the image's
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk to boot in place of the image's
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Words put behind the kernel arguments, for this run only
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Vec<String>,
    /// Change a field of the manifest for this run, e.g. `spec.template.spec.domain.memory.guest=2Gi`
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// End the run after this time, with exit code 124, e.g. `90s` or `2m30s`
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// End the run as a success when a console line matches
    #[arg(long, value_name = "REGEX")]
    pub until: Option<String>,
    /// End the run as a failure when a console line matches (added to the default set)
    #[arg(long, value_name = "REGEX")]
    pub fail_on: Vec<String>,
    /// Do without the default failure set (panic, oops, BUG, no root file system)
    #[arg(long)]
    pub no_fail_on: bool,
    /// What executes the guest's instructions
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// How the kernel is entered
    #[arg(long, value_enum, default_value_t = KernelEntry::Auto)]
    pub kernel_entry: KernelEntry,
    /// Also write the console to this file
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Send standard input to the guest's console even where it is no terminal
    #[arg(short, long)]
    pub interactive: bool,
    /// Pull and prepare, then print the image digest, the files and the QEMU command line instead of booting
    #[arg(long)]
    pub dry_run: bool,
    /// Also write the summary as JSON: `json=FILE` or `json=fd:N`
    #[arg(short, long, value_name = "FORMAT", value_parser = parse_summary_output)]
    pub output: Option<SummaryOutput>,
}

const RUN_EXIT_CODES: &str = "Exit codes:
    0  the guest powered off, or --until matched
    1  refused, or failed for a reason that you can act on (manifest, image, host)
    2  usage
    3  the kernel panicked, or a failure pattern matched
    4  the VMM itself failed
  124  --timeout
  130  interrupted (Ctrl-C, Ctrl-], SIGTERM)";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// KVM where it proves that it runs a guest, else TCG
    Auto,
    /// KVM or nothing
    Kvm,
    /// QEMU's own translator; works everywhere
    Tcg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KernelEntry {
    /// Under TCG a bzImage is unpacked on the host and entered behind its own unpacker (PVH; no KASLR), which is faster
    Auto,
    /// The file's own start code runs
    AsGiven,
}

/// Where the JSON summary goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SummaryOutput {
    /// Into a file.
    File(PathBuf),
    /// Into a descriptor that the caller opened.
    Descriptor(u32),
}

/// `ferrovirt image`
#[derive(Debug, Args)]
pub struct ImageFlags {
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make an image that KubeVirt and Ferrovirt boot
    Build(ImageBuildFlags),
    /// Send an image of the store to a registry
    Push {
        /// Image reference
        #[arg(value_name = "REFERENCE")]
        reference: String,
        /// Where to, when it is not the reference itself
        #[arg(value_name = "DESTINATION")]
        destination: Option<String>,
    },
    /// Fetch an image, or only the named files of it
    Pull {
        /// Image reference
        #[arg(value_name = "REFERENCE")]
        reference: String,
        /// Paths of files that are wanted; without any, everything is fetched
        #[arg(value_name = "PATH")]
        paths: Vec<String>,
        /// When to ask the registry
        #[arg(long, value_enum, default_value_t = Policy::Always)]
        policy: Policy,
        /// Platform to choose from an index, `os/architecture[/variant]`
        #[arg(long, value_name = "PLATFORM")]
        platform: Option<String>,
    },
    /// List the images of the store
    #[command(visible_alias = "list")]
    Ls {
        /// `json` for machines
        #[arg(short, long, value_enum, default_value_t = ListFormat::Table)]
        output: ListFormat,
    },
    /// Show what the store knows of an image, as JSON
    Inspect {
        /// Image reference
        #[arg(value_name = "REFERENCE")]
        reference: String,
    },
    /// Forget images
    Rm {
        /// Image references
        #[arg(value_name = "REFERENCE", required = true)]
        references: Vec<String>,
    },
    /// Remove what no image and no running VM uses
    Prune {
        /// Also forget images that no running VM uses
        #[arg(short, long)]
        all: bool,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Write an image to an archive (an OCI layout in a tar)
    Save {
        /// Image reference
        #[arg(value_name = "REFERENCE")]
        reference: String,
        /// File to write; standard output without it
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Read images from an OCI archive, an OCI layout directory or a docker archive
    Load {
        /// File or directory to read, `-` for standard input
        #[arg(short, long, value_name = "FILE")]
        input: PathBuf,
        /// Name for the image, where the archive gives none
        #[arg(short, long, value_name = "REFERENCE")]
        tag: Option<String>,
    },
}

/// `ferrovirt image build`
#[derive(Debug, Args)]
pub struct ImageBuildFlags {
    /// Name of the image
    #[arg(short, long, value_name = "REFERENCE")]
    pub tag: String,
    /// Kernel, put at /boot/vmlinuz-virt
    #[arg(long, value_name = "FILE")]
    pub kernel: PathBuf,
    /// Initial RAM disk, put at /boot/initramfs-virt
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Kernel modules, a directory as `make modules_install` writes it (`…/lib/modules/VERSION`)
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// A further file or directory, and where in the image it goes
    #[arg(long, value_name = "SOURCE:DESTINATION")]
    pub add: Vec<String>,
    /// A label of the image
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// How layers are compressed
    #[arg(long, value_enum, default_value_t = LayerCompression::Gzip)]
    pub compression: LayerCompression,
    /// Send it to its registry when it is built
    #[arg(long)]
    pub push: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LayerCompression {
    Gzip,
    Zstd,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    Table,
    Json,
}

/// `ferrovirt validate`
#[derive(Debug, Args)]
pub struct ValidateFlags {
    /// Manifests (YAML or JSON) or directories of them, `-` for standard input
    #[arg(short, long, value_name = "FILE", required = true)]
    pub filename: Vec<PathBuf>,
    /// Also what is in directories of directories
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// `ferrovirt doctor`
#[derive(Debug, Args)]
pub struct DoctorFlags {
    /// `json` for machines
    #[arg(short, long, value_enum, default_value_t = ListFormat::Table)]
    pub output: ListFormat,
}

/// Reads a duration the way Go's `time.ParseDuration` does (kubectl's `--timeout`): numbers with units
/// `ns us µs ms s m h`, e.g. `1h30m`, `1.5s`. A bare number is refused, `0` excepted.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let fault = || format!("`{text}` is not a duration; write it as `90s`, `2m30s` or `500ms`");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut seconds = 0.0f64;
    if rest.is_empty() {
        return Err(fault());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(fault)?;
        let number: f64 = rest[..digits].parse().map_err(|_| fault())?;
        rest = &rest[digits..];
        let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let factor = match &rest[..unit_end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(fault()),
        };
        seconds += number * factor;
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| fault())
}

fn parse_summary_output(text: &str) -> Result<SummaryOutput, String> {
    let fault = || format!("`{text}` is no summary format; write `json=FILE` or `json=fd:N`");
    match text.split_once('=') {
        Some(("json", target)) => match target.strip_prefix("fd:") {
            Some(number) => number.parse().map(SummaryOutput::Descriptor).map_err(|_| fault()),
            None if target.is_empty() => Err(fault()),
            None => Ok(SummaryOutput::File(PathBuf::from(target))),
        },
        _ => Err(fault()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    /// The pages in `contrib/man` say what the definitions do.
    #[test]
    fn the_manual_is_that_of_the_definitions() {
        let written = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib/man");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(&written).unwrap();
            for page in std::fs::read_dir(&written).unwrap() {
                std::fs::remove_file(page.unwrap().path()).unwrap();
            }
            clap_mangen::generate_to(Cli::command(), &written).unwrap();
        }
        let wanted = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(Cli::command(), wanted.path()).unwrap();
        let pages = |directory: &Path| -> BTreeMap<_, _> {
            let pages = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
            pages.map(|page| (page.file_name(), std::fs::read_to_string(page.path()).unwrap())).collect()
        };
        assert!(
            pages(&written) == pages(wanted.path()),
            "contrib/man is out of date: run this test with UPDATE_GOLDEN=1"
        );
    }

    #[test]
    fn the_previous_boot_is_kubectls() {
        for (line, boot) in
            [("logs a", 0), ("logs a -p", -1), ("logs -p vm/a --tail 1", -1), ("logs a -b -2", -2)]
        {
            let cli = Cli::try_parse_from(std::iter::once("ferrovirt").chain(line.split(' '))).unwrap();
            let Command::Logs(flags) = cli.command else { panic!("{line}") };
            assert_eq!(flags.boot, boot, "{line}");
        }
        for line in ["logs a -p -b -2", "logs a -p --list-boots"] {
            let words = std::iter::once("ferrovirt").chain(line.split(' '));
            assert_eq!(Cli::try_parse_from(words).unwrap_err().kind(), ErrorKind::ArgumentConflict, "{line}");
        }
    }

    #[test]
    fn durations_are_gos() {
        for (text, milliseconds) in [
            ("90s", 90_000),
            ("2m30s", 150_000),
            ("500ms", 500),
            ("1.5s", 1_500),
            ("1h", 3_600_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(milliseconds), "{text}");
        }
        for text in ["", "90", "s", "-1s", "1x", "1s2", "1..5s", "999999999999999999999h"] {
            let message = parse_duration(text).unwrap_err();
            assert!(message.starts_with(&format!("`{text}` is not a duration")), "{message}");
        }
    }

    #[test]
    fn a_summary_has_a_place() {
        assert_eq!(parse_summary_output("json=fd:3").unwrap(), SummaryOutput::Descriptor(3));
        assert_eq!(parse_summary_output("json=a=b").unwrap(), SummaryOutput::File("a=b".into()));
        for text in ["yaml", "json", "json=", "json=fd:x", ""] {
            assert!(parse_summary_output(text).is_err(), "{text}");
        }
    }
}
