//! `ferrovirt validate`: everything that can be said of a manifest offline.

use super::manifests::Judgement;
use super::{Context, manifests};
use crate::cli::ValidateFlags;
use crate::report::{ExitCode, Failure, print};

/// Checks every machine of every file; all faults are told before the command fails.
pub fn validate(context: &Context, flags: &ValidateFlags) -> Result<ExitCode, Failure> {
    let mut code = ExitCode::Done;
    for path in &manifests::files(&flags.filename, flags.recursive)? {
        let source = path.display();
        let manifest = match manifests::read(path) {
            Ok(manifest) => manifest,
            Err(failure) => {
                context.reporter.failure(&failure);
                code = ExitCode::Refused;
                continue;
            }
        };
        if manifest.machines.is_empty() {
            context
                .reporter
                .warning(format!("`{source}` holds no VirtualMachine and no VirtualMachineInstance"));
        }
        for machine in &manifest.machines {
            match machine.judge(Judgement::AsWritten, &context.reporter) {
                Ok(()) => print(&format!("{source}: {} `{}` is valid\n", machine.kind(), machine.name()))?,
                Err(failure) => {
                    context.reporter.failure(&failure.context(format!("in `{source}`")));
                    code = ExitCode::Refused;
                }
            }
        }
    }
    Ok(code)
}
