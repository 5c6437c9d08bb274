//! `ferrovirt doctor`: what this machine offers, and what to do about what it does not.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use image::Store;
use launcher::host::{Host, HostError, KVM_DEVICE, run_as};
use launcher::network::{HostLoopback, Outside};
use node::pods::redirect::{self, RedirectError, Redirected};
use serde::Serialize;
use vmm::accelerator::{CacheUse, KvmStatus};
use vmm::process::Trampoline;
use vmm::{Accelerator, Access, HostFacts, Namespaces, QemuFacts, RunAs};

use super::{Context, host, run};
use crate::cli::{Accel, DoctorFlags, ListFormat};
use crate::report::{ExitCode, Failure, binary_bytes, decimal_bytes, print};

/// One finding.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding {
    /// What was looked at.
    subject: &'static str,
    state: State,
    /// What was seen.
    text: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// All is well.
    Ok,
    /// It works, with a loss.
    Warning,
    /// Nothing boots like this.
    Error,
}

/// Looks at everything anew (no cached answer) and exits with 1 when nothing could boot.
pub async fn doctor(context: &Context, flags: &DoctorFlags) -> Result<ExitCode, Failure> {
    let findings = [
        qemu_and_kvm(context),
        vec![user(context), store(context), run_directory(context), registries(context), limits()],
        vec![pod_ports().await],
    ]
    .concat();
    let text = match flags.output {
        ListFormat::Json => serde_json::to_string_pretty(&findings).context("cannot write JSON")? + "\n",
        ListFormat::Table => table(&findings),
    };
    print(&text)?;
    let healthy = findings.iter().all(|finding| finding.state != State::Error);
    Ok(if healthy { ExitCode::Done } else { ExitCode::Refused })
}

fn table(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { subject, state, text: seen, hint } in findings {
        let mark = match state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Error => "error",
        };
        text.push_str(&format!("{subject:<11} {mark:<8} {seen}\n"));
        if let Some(hint) = hint {
            text.push_str(&format!("{:<20} hint: {hint}\n", ""));
        }
    }
    text
}

fn failed(subject: &'static str, failure: Failure) -> Finding {
    Finding {
        subject,
        state: State::Error,
        text: format!("{:#}", failure.error),
        hint: failure.hints.into_iter().next(),
    }
}

fn qemu_and_kvm(context: &Context) -> Vec<Finding> {
    let host = host::host(context, Accel::Auto);
    let qemu = match host.qemu() {
        Ok(qemu) => qemu,
        Err(error) => return vec![failed("QEMU", error.into())],
    };
    let sandbox = match qemu.sandbox {
        vmm::Sandbox::Available => "with sandbox",
        vmm::Sandbox::Missing => "without sandbox",
    };
    let found = Finding {
        subject: "QEMU",
        state: State::Ok,
        text: format!("{} at `{}`, {sandbox}", qemu.version, qemu.binary.display()),
        hint: None,
    };
    let run_as =
        run_as(&[(Path::new(KVM_DEVICE), Access::Device)]).map_or(RunAs::Caller, |(run_as, _)| run_as);
    let kvm = match host.accelerator(&qemu, &run_as, CacheUse::Refresh) {
        Err(error) => failed("KVM", error.into()),
        Ok(chosen) => match chosen.kvm {
            Some(KvmStatus::Usable(measured)) => Finding {
                subject: "KVM",
                state: State::Ok,
                text: format!(
                    "ran {} guest instructions in {} µs",
                    measured.instructions, measured.microseconds
                ),
                hint: None,
            },
            Some(KvmStatus::Unusable(unusable)) => Finding {
                subject: "KVM",
                state: State::Warning,
                text: format!("not usable, guests run under TCG, many times slower: {}", unusable.reason),
                hint: unusable.hint,
            },
            None => Finding {
                subject: "KVM",
                state: State::Warning,
                text: "not looked at".to_owned(),
                hint: None,
            },
        },
    };
    let network = network(&host, &qemu);
    vec![found, kvm, isolation(qemu, run_as), network]
}

/// What keeps QEMU from the rest of the machine. Nothing of it depends on the accelerator.
fn isolation(qemu: QemuFacts, run_as: RunAs) -> Finding {
    let finding = |state, text, hint| Finding { subject: "isolation", state, text, hint };
    let accelerator = Accelerator::Tcg { reason: String::new() };
    match HostFacts::probe(qemu, accelerator, run_as, &Trampoline::this_program()) {
        Err(error) => failed("isolation", HostError::from(error).into()),
        Ok(facts) => match (facts.unconfined(), facts.namespaces) {
            (Some(text), _) => {
                let hint = "root outside of a container, or in one with CAP_SYS_ADMIN whose profile lets it mount, and \
                            a QEMU that is no script, need not do without";
                finding(State::Warning, text, Some(hint.to_owned()))
            }
            (None, Namespaces::Unprivileged { reason }) => {
                let text =
                    format!("QEMU has the rights of this user, who cannot hide files from it: {reason}");
                let hint = "a host that lets every user make user namespaces, or root, can";
                finding(State::Ok, text, Some(hint.to_owned()))
            }
            (None, Namespaces::UsableByUser) => {
                let text = "QEMU has no capabilities, and sees none but its own files and network";
                finding(State::Ok, text.to_owned(), None)
            }
            (None, _) => {
                let text = "QEMU has no capabilities, and sees none but its own files, processes and network";
                finding(State::Ok, text.to_owned(), None)
            }
        },
    }
}

/// How guests reach what is outside.
fn network(host: &Host, qemu: &QemuFacts) -> Finding {
    let outside = Outside::find(&host.search_path, qemu, &Trampoline::this_program(), HostLoopback::Closed);
    let (state, text) = match &outside {
        Outside::Open(runner) => (State::Ok, format!("guests reach the host's network by {}", runner.name())),
        Outside::Closed { warning } => (State::Warning, warning.clone()),
    };
    Finding { subject: "network", state, text, hint: None }
}

fn user(context: &Context) -> Finding {
    let text = match context.settings.mode {
        crate::settings::Mode::Root => {
            "root: QEMU runs as 107:107 where that user can reach its files".to_owned()
        }
        crate::settings::Mode::User => "an ordinary user: QEMU runs as the same user".to_owned(),
    };
    Finding { subject: "user", state: State::Ok, text, hint: None }
}

fn store(context: &Context) -> Finding {
    let directory = context.settings.image_dir();
    let looked =
        Store::open(&directory).and_then(|store| Ok((store.list()?.len(), store.available_bytes()?)));
    match looked {
        Ok((images, available)) => Finding {
            subject: "store",
            state: if available < 1 << 30 { State::Warning } else { State::Ok },
            text: format!("{images} images in `{}`, {} free", directory.display(), decimal_bytes(available)),
            hint: (available < 1 << 30)
                .then(|| "`ferrovirt image prune --dry-run` shows what can be removed".to_owned()),
        },
        Err(error) => failed("store", error.into()),
    }
}

fn registries(context: &Context) -> Finding {
    let settings = host::registry_settings(context);
    let existing =
        |paths: Vec<PathBuf>| -> Vec<PathBuf> { paths.into_iter().filter(|path| path.exists()).collect() };
    // Of the main files only the first that exists is read.
    let mut configuration = existing(settings.registries_conf.iter().map(|(path, _)| path.clone()).collect());
    configuration.truncate(1);
    for directory in &settings.registries_conf_directories {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        let drop_ins = entries.filter_map(|entry| Some(entry.ok()?.path()));
        configuration
            .extend(drop_ins.filter(|path| path.extension().is_some_and(|extension| extension == "conf")));
    }
    let credentials = existing(settings.auth_files.iter().map(|file| file.path.clone()).collect());
    // Their content is not printed, not even as part of an error.
    let malformed: Vec<&PathBuf> = credentials
        .iter()
        .filter(|path| {
            std::fs::read(path)
                .is_ok_and(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).is_err())
        })
        .collect();
    let listed = |paths: &[PathBuf]| match paths {
        [] => "none".to_owned(),
        paths => paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
    };
    let text = format!("configuration: {}; credentials: {}", listed(&configuration), listed(&credentials));
    let broken = malformed.first().map(|path| format!("`{}` is not JSON", path.display()));
    if let Err(error) = image::Client::new(settings) {
        return failed("registries", error.into());
    }
    Finding {
        subject: "registries",
        state: if broken.is_some() { State::Error } else { State::Ok },
        text,
        hint: broken,
    }
}

fn run_directory(context: &Context) -> Finding {
    let directory = context.settings.machines_dir();
    match run::machines_dir(context) {
        Ok(()) => Finding {
            subject: "run",
            state: State::Ok,
            text: format!("machines run in `{}`", directory.display()),
            hint: None,
        },
        Err(failure) => failed("run", failure),
    }
}

/// Whether all ports of guests are open at their Pods' addresses, or can be.
async fn pod_ports() -> Finding {
    let finding = |state, text, hint| Finding { subject: "pod ports", state, text, hint };
    if redirect::is_in_force().await {
        let text = "all TCP ports of guests are open at their Pods' addresses";
        return finding(State::Ok, text.to_owned(), None);
    }
    let error = match redirect::check().await {
        Ok(opened) => {
            let ports = match opened {
                Redirected::All => "ports",
                Redirected::TcpAlone { .. } => "TCP ports",
            };
            let text = format!(
                "`ferrovirt serve` opens all {ports} of guests at their Pods' addresses, by nftables"
            );
            return finding(State::Ok, text, None);
        }
        Err(error) => error,
    };
    let hint = Some(error.hint().to_owned());
    let state = match error {
        RedirectError::NotRoot => State::Ok,
        _ => State::Warning,
    };
    let error = anyhow::Error::new(error);
    finding(
        state,
        format!("of guests only those are open at Pods' addresses that `ports` list: {error:#}"),
        hint,
    )
}

fn limits() -> Finding {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
    // What cannot be read is told as unknown.
    let memory = std::fs::read_to_string("/proc/meminfo").ok();
    let memory = memory.and_then(|text| vmm::proc_bytes(&text, "MemAvailable"));
    Finding {
        subject: "limits",
        state: State::Ok,
        text: format!(
            "{cpus} CPUs, {} of memory available, {} open files",
            memory.map_or("unknown".to_owned(), binary_bytes),
            descriptors.map_or("any number of".to_owned(), |count| count.to_string())
        ),
        hint: None,
    }
}
