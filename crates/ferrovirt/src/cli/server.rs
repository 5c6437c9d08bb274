//! The commands that ask a server: kubectl's and virtctl's words.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use launcher::console::Pattern;

use super::parse_duration;
use crate::commands::api::output::{Output, OutputParser};
use crate::commands::api::targets::{self, Guest};
use crate::commands::api::template::Template;

/// Which objects of a resource are meant, where none is named.
#[derive(Debug, Default, Args)]
pub struct ChoiceFlags {
    /// Every namespace, whichever is named
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only objects with these labels, e.g. `app=web,tier!=db`
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
}

/// Whether something is done, or only checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// It is done.
    None,
    /// The server checks it and does nothing.
    Server,
}

impl DryRun {
    /// What is put behind the line that says that something was done.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Server => " (server dry run)",
        }
    }
}

/// Whether it is only tried.
#[derive(Debug, Args)]
pub struct DryRunFlag {
    /// Only let the server check it
    #[arg(long = "dry-run", value_name = "DRY_RUN", value_enum, default_value_t = DryRun::None, default_missing_value = "server",
          num_args = 0..=1, require_equals = true)]
    pub mode: DryRun,
}

/// Waiting for what was asked for.
#[derive(Debug, Args)]
pub struct WaitFlags {
    /// Wait until it has come about
    #[arg(long)]
    pub wait: bool,
    /// Give up waiting after this time, with exit code 124, e.g. `90s` or `2m30s`
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, requires = "wait")]
    pub timeout: Option<Duration>,
}

/// `ferrovirt get`
#[derive(Debug, Args)]
pub struct GetFlags {
    /// `vm`, `vmi`, `pods` or any other resource, with names or without; or `vm/NAME`
    #[arg(value_name = "RESOURCE", required = true)]
    pub resources: Vec<String>,
    #[command(flatten)]
    pub choice: ChoiceFlags,
    /// Form: wide, json, yaml, name, jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORM", value_parser = OutputParser, hide_possible_values = true)]
    pub output: Option<Output>,
    /// Go on with every change
    #[arg(short, long)]
    pub watch: bool,
    /// Leave out the line of names
    #[arg(long)]
    pub no_headers: bool,
    /// Leave in who owns which field (-o json and yaml)
    #[arg(long)]
    pub show_managed_fields: bool,
}

/// `ferrovirt apply`
#[derive(Debug, Args)]
pub struct ApplyFlags {
    /// Manifests (YAML or JSON) or directories of them, `-` for standard input
    #[arg(short, long, value_name = "FILE", required = true)]
    pub filename: Vec<PathBuf>,
    /// Also what is in directories of directories
    #[arg(short = 'R', long)]
    pub recursive: bool,
    #[command(flatten)]
    pub dry_run: DryRunFlag,
    /// Take over fields that somebody else owns
    #[arg(long)]
    pub force_conflicts: bool,
    /// Form of the objects as they are then: json, yaml, name, jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORM", value_parser = OutputParser, hide_possible_values = true)]
    pub output: Option<Output>,
}

/// `ferrovirt delete`
#[derive(Debug, Args)]
pub struct DeleteFlags {
    /// `vm NAME` or `vm/NAME`, of any resource
    #[arg(value_name = "RESOURCE", required_unless_present = "filename", conflicts_with = "filename")]
    pub resources: Vec<String>,
    /// The objects of these manifests or directories of them, `-` for standard input
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["selector", "all_namespaces"])]
    pub filename: Vec<PathBuf>,
    /// Also what is in directories of directories
    #[arg(short = 'R', long, requires = "filename")]
    pub recursive: bool,
    #[command(flatten)]
    pub choice: ChoiceFlags,
    /// All of the namespace
    #[arg(long, conflicts_with_all = ["filename", "selector"])]
    pub all: bool,
    /// Wait until they are gone
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true", num_args = 0..=1,
          require_equals = true, action = clap::ArgAction::Set)]
    pub wait: bool,
    /// Give up waiting after this time, with exit code 124, e.g. `90s`
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// How long a guest may take to shut down [default: its own]
    #[arg(long, value_name = "SECONDS")]
    pub grace_period: Option<u32>,
    /// An object that is not there is as good as deleted
    #[arg(long)]
    pub ignore_not_found: bool,
    #[command(flatten)]
    pub dry_run: DryRunFlag,
}

/// The machines that `start`, `stop` and `restart` are for.
#[derive(Debug, Args)]
pub struct MachinesFlags {
    /// VirtualMachines: NAME or vm/NAME
    #[arg(value_name = "NAME", required = true)]
    pub machines: Vec<String>,
    #[command(flatten)]
    pub dry_run: DryRunFlag,
}

/// `ferrovirt start`
#[derive(Debug, Args)]
pub struct StartFlags {
    #[command(flatten)]
    pub on: MachinesFlags,
    /// Leave its virtual CPUs standing still
    #[arg(long)]
    pub paused: bool,
    /// Words put behind the kernel arguments, for this start only
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub append: Vec<String>,
    #[command(flatten)]
    pub waiting: WaitFlags,
}

/// `ferrovirt stop`
#[derive(Debug, Args)]
pub struct StopFlags {
    #[command(flatten)]
    pub on: MachinesFlags,
    /// End it at once
    #[arg(long)]
    pub force: bool,
    /// With --force: how long the guest may take to shut down
    #[arg(long, value_name = "SECONDS", requires = "force")]
    pub grace_period: Option<u32>,
    #[command(flatten)]
    pub waiting: WaitFlags,
}

/// `ferrovirt restart`
#[derive(Debug, Args)]
pub struct RestartFlags {
    #[command(flatten)]
    pub on: MachinesFlags,
    /// End it at once
    #[arg(long)]
    pub force: bool,
    /// With --force: how long the guest may take to shut down; KubeVirt takes 0 only
    #[arg(long, value_name = "SECONDS", requires = "force")]
    pub grace_period: Option<u32>,
    #[command(flatten)]
    pub waiting: WaitFlags,
}

/// `ferrovirt pause`, `unpause`, `reset` and `soft-reboot`
#[derive(Debug, Args)]
pub struct InstanceFlags {
    /// Machines: NAME, vm/NAME or vmi/NAME
    #[arg(value_name = "NAME", required = true)]
    pub machines: Vec<String>,
    #[command(flatten)]
    pub dry_run: DryRunFlag,
}

/// `ferrovirt describe`
#[derive(Debug, Args)]
pub struct DescribeFlags {
    /// `vm NAME` or `vm/NAME`, of any resource; without a name all of them
    #[arg(value_name = "RESOURCE", required = true)]
    pub resources: Vec<String>,
    #[command(flatten)]
    pub choice: ChoiceFlags,
}

/// `ferrovirt wait`
#[derive(Debug, Args)]
pub struct WaitForFlags {
    /// `vm NAME` or `vm/NAME`, of any resource
    #[arg(value_name = "RESOURCE", required = true)]
    pub resources: Vec<String>,
    /// What for: condition=TYPE[=STATUS], jsonpath=PATH[=VALUE], delete, create, console=REGEX
    #[arg(long = "for", value_name = "WHAT", required = true, value_parser = parse_until)]
    pub until: Until,
    /// Give up after this time, with exit code 124
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s")]
    pub timeout: Duration,
    #[command(flatten)]
    pub choice: ChoiceFlags,
    /// All of the namespace
    #[arg(long, conflicts_with = "selector")]
    pub all: bool,
}

/// What is waited for.
#[derive(Debug, Clone)]
pub enum Until {
    /// A condition has a status.
    Condition {
        /// Its type, in any case.
        name: String,
        /// Its status, in any case.
        status: String,
    },
    /// A path leads to a value; without one, to anything.
    JsonPath {
        /// The path.
        template: Template,
        /// The value as text.
        value: Option<String>,
    },
    /// The object is gone.
    Delete,
    /// The object is there.
    Create,
    /// A line of the console matches, one of this boot or the next.
    Console(Pattern),
}

impl std::fmt::Display for Until {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Condition { name, status } => write!(formatter, "have the condition {name}={status}"),
            Self::JsonPath { value: Some(value), .. } => write!(formatter, "have the value `{value}`"),
            Self::JsonPath { value: None, .. } => formatter.write_str("have a value"),
            Self::Delete => formatter.write_str("be gone"),
            Self::Create => formatter.write_str("be there"),
            Self::Console(pattern) => write!(formatter, "say `{}` on its console", pattern.as_str()),
        }
    }
}

/// Reads what is waited for, as `kubectl wait --for` has it; `console=REGEX` is ours.
///
/// # Errors
/// When it is none of them.
pub fn parse_until(word: &str) -> Result<Until, String> {
    match word.split_once('=') {
        None if word == "delete" => Ok(Until::Delete),
        None if word == "create" => Ok(Until::Create),
        Some(("condition", rest)) if !rest.is_empty() => {
            let (name, status) = rest.split_once('=').unwrap_or((rest, "True"));
            Ok(Until::Condition { name: name.to_owned(), status: status.to_owned() })
        }
        Some(("jsonpath", rest)) if !rest.is_empty() => {
            // A value follows the brace that closes, or the last sign where there are none.
            let (path, value) = match rest.rfind('}') {
                Some(end) => (&rest[..=end], rest[end + 1..].strip_prefix('=')),
                None => rest.rsplit_once('=').map_or((rest, None), |(path, value)| (path, Some(value))),
            };
            Ok(Until::JsonPath { template: Template::parse(path)?, value: value.map(str::to_owned) })
        }
        Some(("console", pattern)) if !pattern.is_empty() => {
            Pattern::new(pattern).map(Until::Console).map_err(|error| error.to_string())
        }
        _ => {
            Err("choose one of condition=TYPE, jsonpath=PATH=VALUE, delete, create, console=REGEX".to_owned())
        }
    }
}

/// `ferrovirt events`
#[derive(Debug, Args)]
pub struct EventsFlags {
    /// Every namespace, whichever is named
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only what happened to one object: `vm/NAME`
    #[arg(long, value_name = "KIND/NAME")]
    pub r#for: Option<String>,
    /// Only events of these types
    #[arg(
        long = "type",
        visible_alias = "types",
        value_name = "TYPE",
        value_enum,
        value_delimiter = ',',
        ignore_case = true
    )]
    pub types: Vec<EventType>,
    /// Form: json, yaml, name, jsonpath=TEMPLATE
    #[arg(short, long, value_name = "FORM", value_parser = OutputParser, hide_possible_values = true)]
    pub output: Option<Output>,
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub watch: bool,
}

/// The two types of events (Kubernetes' API reference, `Event.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum EventType {
    /// For information
    Normal,
    /// Something may be wrong
    Warning,
}

impl EventType {
    /// As events have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// `ferrovirt top`
#[derive(Debug, Args)]
pub struct TopFlags {
    /// `vm`, `vmi`, `pods` or `nodes`, with names or without; or `vm/NAME`
    #[arg(value_name = "RESOURCE", required = true)]
    pub resources: Vec<String>,
    #[command(flatten)]
    pub choice: ChoiceFlags,
    /// The largest first [default: by name]
    #[arg(long, value_name = "WHAT", value_enum)]
    pub sort_by: Option<SortBy>,
    /// Leave out the line of names
    #[arg(long)]
    pub no_headers: bool,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortBy {
    /// Processors
    Cpu,
    /// Memory
    Memory,
}

/// `ferrovirt console`
#[derive(Debug, Args)]
pub struct ConsoleFlags {
    /// Machine: NAME, vm/NAME[/NAMESPACE] or vmi/NAME[/NAMESPACE]
    #[arg(value_name = "NAME", value_parser = targets::guest)]
    pub guest: Guest,
    /// Only look, beside whoever types
    #[arg(long)]
    pub read_only: bool,
    /// Begin with what was said in this boot
    #[arg(long)]
    pub replay: bool,
    /// How long a machine that does not run yet is waited for, with exit code 124 after it
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5m")]
    pub timeout: Duration,
}

/// Reads a namespace. It must not be empty: that would mean all of them.
pub fn namespace(name: &str) -> Result<String, String> {
    match name.is_empty() || name.contains(['/', '%']) {
        true => Err("it is no name of a namespace".to_owned()),
        false => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_waited_for_is_kubectls() {
        for (word, said) in [
            ("condition=Ready", "have the condition Ready=True"),
            ("condition=Paused=False", "have the condition Paused=False"),
            ("jsonpath={.status.phase}=Running", "have the value `Running`"),
            ("jsonpath={.items[?(@.a==\"b\")].c}=d=e", "have the value `d=e`"),
            ("jsonpath=.status.phase=Running", "have the value `Running`"),
            ("jsonpath={.status.phase}", "have a value"),
            ("delete", "be gone"),
            ("create", "be there"),
            ("console=login: ?$", "say `login: ?$` on its console"),
        ] {
            assert_eq!(parse_until(word).unwrap().to_string(), said, "{word}");
        }
        for word in ["", "ready", "condition=", "jsonpath=", "console=", "delete=now"] {
            assert!(parse_until(word).unwrap_err().starts_with("choose one of"), "{word}");
        }
        assert!(parse_until("console=(").unwrap_err().contains('('));
    }

    #[test]
    fn a_namespace_is_one() {
        assert!(namespace("").is_err() && namespace("a/b").is_err());
        assert_eq!(namespace("a").unwrap(), "a");
    }
}
