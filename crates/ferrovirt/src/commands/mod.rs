//! The commands, one file each.

pub mod doctor;
pub mod host;
pub mod image;
pub mod kubeconfig;
pub mod launcher;
pub mod logs;
pub mod manifests;
pub mod run;
pub mod serve;
pub mod state;
pub mod validate;

use crate::report::Reporter;
use crate::settings::Settings;

/// What every command works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Resolved flags and environment.
    pub settings: Settings,
    /// Where messages go.
    pub reporter: Reporter,
}
