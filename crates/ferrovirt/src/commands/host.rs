//! What this host offers, looked at once for a command.

use std::path::Path;

use image::{RegistrySettings, UserMode};
use vmm::accelerator::{self, AcceleratorChoice, CacheUse, Chosen, Helper, ProbeRequest};
use vmm::process::Trampoline;
use vmm::{Access, QemuFacts, QemuSearch, RunAs, RunAsFacts, choose_run_as};

use super::Context;
use crate::cli::Accel;
use crate::report::Failure;
use crate::settings::Mode;

/// Finds QEMU in the search path.
///
/// # Errors
/// When there is none, or none that can be used.
pub fn qemu(context: &Context) -> Result<QemuFacts, Failure> {
    let search = QemuSearch {
        binary: None,
        search_path: std::env::var_os("PATH").unwrap_or_default(),
        cache_directory: Some(context.settings.facts_dir()),
    };
    Ok(QemuFacts::probe(&search)?)
}

/// Decides whose credentials QEMU gets, with a warning when root has to keep its own.
///
/// # Errors
/// When a path that QEMU needs cannot be looked at.
pub fn run_as(needs: &[(&Path, Access)]) -> Result<(RunAs, Option<String>), Failure> {
    let facts = RunAsFacts::gather(needs).map_err(|error| {
        Failure::from(anyhow::Error::new(error).context("cannot look at the files that QEMU needs"))
    })?;
    Ok(choose_run_as(&facts))
}

/// Settles what executes the guest's instructions; blocks while KVM is tried.
///
/// # Errors
/// When KVM is demanded and does not work.
pub fn accelerator(
    context: &Context,
    choice: Accel,
    qemu: &QemuFacts,
    run_as: &RunAs,
    cache_use: CacheUse,
) -> Result<Chosen, Failure> {
    let request = ProbeRequest {
        qemu: qemu.binary.clone(),
        machine: "q35".to_owned(),
        cpu_model: "host".to_owned(),
        run_as: run_as.clone(),
        helper: Helper::this_program(),
        trampoline: Trampoline::this_program(),
        cache: Some((context.settings.facts_dir(), cache_use)),
    };
    let choice = match choice {
        Accel::Auto => AcceleratorChoice::Auto,
        Accel::Kvm => AcceleratorChoice::Kvm,
        Accel::Tcg => AcceleratorChoice::Tcg,
    };
    Ok(accelerator::choose(choice, &request)?)
}

/// Registry settings out of the environment, and `--authfile`.
pub fn registry_settings(context: &Context) -> RegistrySettings {
    let user = match context.settings.mode {
        Mode::Root => UserMode::Root,
        Mode::User => UserMode::User,
    };
    let authfile = context.settings.authfile.as_ref().map(|path| path.display().to_string());
    RegistrySettings::from_env(
        |name| match (name, &authfile) {
            ("REGISTRY_AUTH_FILE", Some(path)) => Some(path.clone()),
            _ => std::env::var(name).ok(),
        },
        user,
    )
}
