//! The commands, one file each.

pub mod api;
pub mod apply;
pub mod completion;
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
pub mod port_forward;
pub mod power;
pub mod run;
pub mod serve;
pub mod ssh;
pub mod state;
pub mod top;
pub mod validate;
pub mod vnc;
pub mod wait;

use crate::report::{ExitCode, Failure, ReaderGone, Reporter};
use crate::settings::Settings;

/// What every command works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Resolved flags and environment.
    pub settings: Settings,
    /// Where messages go.
    pub reporter: Reporter,
}

/// Does `act` for each of `items`; one that fails is told and does not keep the rest. Leaves with the last failure's code.
///
/// # Errors
/// When nobody reads standard output any more, which ends all of it.
async fn each<T>(
    context: &Context,
    items: impl IntoIterator<Item = T>,
    mut act: impl AsyncFnMut(T) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::Done;
    for item in items {
        match act(item).await {
            Ok(()) => {}
            Err(failure) if failure.error.is::<ReaderGone>() => return Err(failure),
            Err(failure) => {
                code = failure.code;
                context.reporter.failure(&failure);
            }
        }
    }
    Ok(code)
}
