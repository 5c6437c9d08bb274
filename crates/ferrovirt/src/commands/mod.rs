//! The commands, one file each.

pub mod api;
pub mod apply;
pub mod console;
pub mod delete;
pub mod describe;
pub mod doctor;
pub mod events;
pub mod get;
pub mod host;
pub mod image;
pub mod kubeconfig;
pub mod launcher;
pub mod logs;
pub mod manifests;
pub mod power;
pub mod run;
pub mod serve;
pub mod state;
pub mod validate;
pub mod wait;

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
