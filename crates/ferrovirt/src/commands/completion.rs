//! `ferrovirt completion`: what a shell may put in the place of the word that is being typed.
//!
//! ```text
//! TAB ─► the shell's script ─► ferrovirt __complete -- WORDS ─► flags and words of the definitions
//!                                                            └► names of objects, which a server is asked for
//! ```
//!
//! A shell inserts names as they are, and may execute them on the next line break: those that are none of Kubernetes' are
//! left out.

use std::time::Duration;

use apiserver::metadata::is_dns1123_subdomain;
use clap::{Arg, Command, CommandFactory as _};

use super::Context;
use super::api::Server;
use super::api::resources::{INSTANCES, MACHINES, Resource, daily_words};
use crate::cli::{ChoiceFlags, Cli, CompleteFlags, CompletionFlags, Shell};
use crate::report::{ExitCode, Failure, print};

/// How long a server may take for names: somebody waits with a finger on a key.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prints the script that a shell needs.
pub fn completion(flags: &CompletionFlags) -> Result<ExitCode, Failure> {
    print(match flags.shell {
        Shell::Bash => include_str!("completion/ferrovirt.bash"),
        Shell::Zsh => include_str!("completion/ferrovirt.zsh"),
        Shell::Fish => include_str!("completion/ferrovirt.fish"),
    })?;
    Ok(ExitCode::Done)
}

/// Prints what may stand in the place of the last word, a line each.
pub async fn complete(context: &Context, flags: &CompleteFlags) -> Result<ExitCode, Failure> {
    let mut command = Cli::command();
    command.build();
    let (typed, before) = match flags.words.split_last() {
        Some((typed, before)) => (typed.as_str(), before),
        None => ("", &[][..]),
    };
    let line = Line::read(&command, before);
    let found = match line.candidates(typed) {
        Candidates::Words(words) => words,
        Candidates::Names { resource, prefix } => {
            let mut context = context.clone();
            context.settings.kubeconfig = line.kubeconfig.map(Into::into).or(context.settings.kubeconfig);
            context.settings.namespace = line.namespace.map(str::to_owned).or(context.settings.namespace);
            context.settings.kube_context = line.context.map(str::to_owned).or(context.settings.kube_context);
            let names = tokio::time::timeout(PATIENCE, names(&context, &resource)).await;
            // Without an answer there is nothing to offer, and no place to say why.
            let names = names.ok().and_then(Result::ok).unwrap_or_default();
            names.into_iter().map(|name| format!("{prefix}{name}")).collect()
        }
    };
    let fitting = found.into_iter().filter(|word| word.starts_with(typed));
    print(&fitting.map(|word| word + "\n").collect::<String>())?;
    Ok(ExitCode::Done)
}

async fn names(context: &Context, resource: &str) -> Result<Vec<String>, Failure> {
    let server = Server::find(context).await?;
    let resource: Resource = server.resource(resource).await?;
    let objects = server.chosen(&resource, &ChoiceFlags::default()).await?;
    let names = objects.into_iter().map(|object| object.name);
    Ok(names.filter(|name| is_dns1123_subdomain(name).is_empty()).collect())
}

/// What may follow.
#[derive(Debug, PartialEq, Eq)]
enum Candidates {
    /// These words.
    Words(Vec<String>),
    /// Names of a resource's objects, each behind a prefix.
    Names {
        /// A word for the resource.
        resource: String,
        /// `vm/`, or nothing.
        prefix: String,
    },
}

impl Candidates {
    const NONE: Candidates = Candidates::Words(Vec::new());

    fn names(resource: &str, prefix: &str) -> Candidates {
        Candidates::Names { resource: resource.to_owned(), prefix: prefix.to_owned() }
    }
}

/// The words before the one that is being typed, as the definitions have them.
#[derive(Debug)]
struct Line<'a> {
    command: &'a Command,
    positionals: Vec<&'a str>,
    /// The flag whose value comes next.
    pending: Option<&'a Arg>,
    namespace: Option<&'a str>,
    kubeconfig: Option<&'a str>,
    context: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn read(command: &'a Command, words: &'a [String]) -> Line<'a> {
        let mut line = Line {
            command,
            positionals: Vec::new(),
            pending: None,
            namespace: None,
            kubeconfig: None,
            context: None,
        };
        for word in words {
            line.take(word);
        }
        line
    }

    fn take(&mut self, word: &'a str) {
        if let Some(flag) = self.pending.take() {
            return self.set(flag, word);
        }
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) =
                long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
            let mut flags = self.command.get_arguments();
            let flag = flags
                .find(|flag| flag.get_long_and_visible_aliases().is_some_and(|names| names.contains(&name)));
            self.take_flag(flag, value);
        } else if let Some(cluster) = word.strip_prefix('-').filter(|cluster| !cluster.is_empty()) {
            for (position, short) in cluster.char_indices() {
                let flag = self.command.get_arguments().find(|flag| flag.get_short() == Some(short));
                let rest = &cluster[position + short.len_utf8()..];
                if flag.is_some_and(takes_value) {
                    return self.take_flag(flag, Some(rest).filter(|rest| !rest.is_empty()));
                }
            }
        } else if let (true, Some(subcommand)) =
            (self.positionals.is_empty(), self.command.find_subcommand(word))
        {
            self.command = subcommand;
        } else {
            self.positionals.push(word);
        }
    }

    fn take_flag(&mut self, flag: Option<&'a Arg>, value: Option<&'a str>) {
        match (flag, value) {
            (Some(flag), Some(value)) => self.set(flag, value),
            (Some(flag), None) if takes_value(flag) && !flag.is_require_equals_set() => {
                self.pending = Some(flag)
            }
            _ => {}
        }
    }

    fn set(&mut self, flag: &Arg, value: &'a str) {
        match flag.get_id().as_str() {
            "namespace" => self.namespace = Some(value),
            "kubeconfig" => self.kubeconfig = Some(value),
            "context" => self.context = Some(value),
            _ => {}
        }
    }

    /// What may stand where `typed` is.
    fn candidates(&self, typed: &str) -> Candidates {
        if let Some(flag) = self.pending {
            return match flag.get_id().as_str() {
                "namespace" => Candidates::names("namespaces", ""),
                // Of `events` an object; of `wait` what it waits for.
                "for" => match typed.split_once('/') {
                    Some((kind, _)) => Candidates::names(kind, &format!("{kind}/")),
                    None => Candidates::NONE,
                },
                _ => Candidates::Words(possible_values(flag)),
            };
        }
        if typed.starts_with('-') {
            let flags = self.command.get_arguments().filter(|flag| !flag.is_hide_set());
            return Candidates::Words(
                flags.filter_map(|flag| Some(format!("--{}", flag.get_long()?))).collect(),
            );
        }
        let subcommands = self.command.get_subcommands().filter(|command| !command.is_hide_set());
        let mut subcommands: Vec<_> = subcommands.map(|command| command.get_name().to_owned()).collect();
        if self.positionals.is_empty() && self.command.get_positionals().next().is_none() {
            subcommands.retain(|name| name != "help");
            return Candidates::Words(subcommands);
        }
        self.object(typed)
    }

    /// What may stand where objects are named, in the commands that name them.
    fn object(&self, typed: &str) -> Candidates {
        // Who logs in stands before the guest.
        let (user, guest) = match (self.command.get_name(), typed.split_once('@')) {
            ("ssh" | "scp", Some((user, guest))) => (format!("{user}@"), guest),
            _ => (String::new(), typed),
        };
        let after_slash = guest.split_once('/').map(|(kind, _)| kind);
        match (self.command.get_name(), &self.positionals[..], after_slash) {
            ("get" | "describe" | "delete" | "wait" | "top", _, Some(kind)) => {
                Candidates::names(kind, &format!("{kind}/"))
            }
            ("get" | "describe" | "delete" | "wait", [], None) => Candidates::Words(daily_words()),
            ("top", [], None) => Candidates::Words(["vm", "vmi", "pods", "nodes"].map(str::to_owned).into()),
            ("get" | "describe" | "delete" | "wait" | "top", [kind, ..], None)
                if !kind.contains(['/', ',']) =>
            {
                Candidates::names(kind, "")
            }
            ("start" | "stop" | "restart", _, None) => Candidates::names(&MACHINES.plural, ""),
            ("pause" | "unpause" | "reset" | "soft-reboot", _, None)
            | ("console" | "logs" | "port-forward" | "ssh" | "vnc" | "screenshot", [], None) => {
                Candidates::names(&INSTANCES.plural, &user)
            }
            (
                "start" | "stop" | "restart" | "pause" | "unpause" | "reset" | "soft-reboot" | "console"
                | "logs" | "port-forward" | "ssh" | "scp" | "vnc" | "screenshot",
                _,
                Some(kind @ ("vm" | "vmi")),
            ) => Candidates::names(kind, &format!("{user}{kind}/")),
            (_, [], None) => match self.command.get_positionals().next() {
                Some(positional) => Candidates::Words(possible_values(positional)),
                None => Candidates::NONE,
            },
            _ => Candidates::NONE,
        }
    }
}

fn takes_value(flag: &Arg) -> bool {
    flag.get_action().takes_values()
}

fn possible_values(flag: &Arg) -> Vec<String> {
    let values = flag.get_possible_values();
    values.iter().filter(|value| !value.is_hide_set()).map(|value| value.get_name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(line: &str) -> Candidates {
        let mut command = Cli::command();
        command.build();
        let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        let typed = words.pop().unwrap_or_default();
        Line::read(&command, &words).candidates(&typed)
    }

    fn words(line: &str) -> Vec<String> {
        match candidates(line) {
            Candidates::Words(words) => words,
            names => panic!("{names:?}"),
        }
    }

    #[test]
    fn objects_are_named_where_commands_name_them() {
        let names = |resource: &str, prefix: &str| Candidates::names(resource, prefix);
        for (line, expected) in [
            ("start ", names("virtualmachines", "")),
            ("-v stop -n other one t", names("virtualmachines", "")),
            ("console --timeout 5s ", names("virtualmachineinstances", "")),
            ("port-forward vm/t", names("vm", "vm/")),
            ("ssh vm/tiny ", Candidates::NONE),
            ("ssh root@", names("virtualmachineinstances", "root@")),
            ("ssh root@vm/t", names("vm", "root@vm/")),
            ("scp file root@vmi/t", names("vmi", "root@vmi/")),
            ("scp vm/t", names("vm", "vm/")),
            ("scp fi", Candidates::NONE),
            ("scp directory/fi", Candidates::NONE),
            ("get vm a@v", names("vm", "")),
            ("events --for vm/t", names("vm", "vm/")),
            ("wait vm/tiny --for con", Candidates::NONE),
            ("get vm ", names("vm", "")),
            ("get pod/", names("pod", "pod/")),
            ("top vm --sort-by cpu ", names("vm", "")),
            ("get -o yaml nodes n", names("nodes", "")),
            ("delete vm,vmi ", Candidates::NONE),
            ("get vm -n ", names("namespaces", "")),
            ("get vm --namespace ", names("namespaces", "")),
            ("vnc screenshot --file x ", names("virtualmachineinstances", "")),
            ("-n other get vm ", names("vm", "")),
            ("-n ", names("namespaces", "")),
            ("logs ", names("virtualmachineinstances", "")),
            ("logs vmi/t", names("vmi", "vmi/")),
            ("image inspect ", Candidates::NONE),
        ] {
            assert_eq!(candidates(line), expected, "{line}");
        }
    }

    #[test]
    fn words_and_flags_are_those_of_the_definitions() {
        let commands = words("");
        assert!(commands.contains(&"port-forward".to_owned()), "{commands:?}");
        assert!(!commands.iter().any(|name| name == "launcher" || name.starts_with("__")), "{commands:?}");
        assert_eq!(words("completion "), ["bash", "zsh", "fish"]);
        assert_eq!(words("state "), ["backup", "restore", "check"]);
        assert!(words("get ").contains(&"vmi".to_owned()));
        assert_eq!(words("top "), ["vm", "vmi", "pods", "nodes"]);
        assert_eq!(words("top vm --sort-by "), ["cpu", "memory"]);
        let flags = words("start --");
        assert!(
            ["--append", "--namespace", "--kubeconfig"]
                .iter()
                .all(|flag| flags.contains(&(*flag).to_owned())),
            "{flags:?}"
        );
        assert_eq!(words("run --accel "), ["auto", "kvm", "tcg"]);
        for command in ["get vm", "apply -f x", "events"] {
            assert_eq!(words(&format!("{command} -o ")), ["wide", "json", "yaml", "name", "jsonpath="]);
        }
        assert_eq!(words("events --types "), ["Normal", "Warning"]);
        assert_eq!(words("apply -f "), Vec::<String>::new());
    }

    #[test]
    fn a_line_tells_which_server_is_meant() {
        let mut command = Cli::command();
        command.build();
        for line in ["--context=c get -n n --kubeconfig k vm", "-n n --kubeconfig k get --context=c vm"] {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            let line = Line::read(&command, &words);
            assert_eq!((line.context, line.namespace, line.kubeconfig), (Some("c"), Some("n"), Some("k")));
        }
    }
}
