//! What this host offers, and what registries need of the environment.

use image::{RegistrySettings, UserMode};
use launcher::host::Host;
use vmm::accelerator::AcceleratorChoice;

use super::Context;
use crate::cli::Accel;
use crate::settings::Mode;

/// Where a command looks for QEMU and keeps what it finds out about this host.
pub fn host(context: &Context, choice: Accel) -> Host {
    Host {
        search_path: std::env::var_os("PATH").unwrap_or_default(),
        facts_dir: context.settings.facts_dir(),
        choice: match choice {
            Accel::Auto => AcceleratorChoice::Auto,
            Accel::Kvm => AcceleratorChoice::Kvm,
            Accel::Tcg => AcceleratorChoice::Tcg,
        },
    }
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
