//! `ferrovirt state`: copies, checks and restores what the API server keeps. None of it goes through a running server.

use std::path::Path;

use apiserver::server::STORE_DIRECTORY;
use apiserver::store::{self, BackupError, Existing, OpenError, RestoreError};

use super::Context;
use crate::cli::StateCommand;
use crate::report::{ExitCode, Failure, Hinted as _, binary_bytes, print};

/// Runs one of them.
pub fn state(context: &Context, command: &StateCommand) -> Result<ExitCode, Failure> {
    let directory = context.settings.api_dir().join(STORE_DIRECTORY);
    match command {
        StateCommand::Backup { file } => backup(context, &directory, file),
        StateCommand::Restore { file, replace } => restore(context, &directory, file, *replace),
        StateCommand::Check => check(context, &directory),
    }
}

fn backup(context: &Context, directory: &Path, file: &Path) -> Result<ExitCode, Failure> {
    store::backup(directory, file).map_err(|error| {
        let hint = match &error {
            BackupError::Exists { .. } => Some("name a file that does not exist yet".to_owned()),
            BackupError::State(cause) => cause.way_out(),
            _ => None,
        };
        Failure::refused(error, hint)
    })?;
    let size =
        file.metadata().map_or_else(|_| String::new(), |file| format!(" ({})", binary_bytes(file.len())));
    context.reporter.note(format!("wrote {}{size}; it holds the secrets too", file.display()));
    Ok(ExitCode::Done)
}

fn restore(context: &Context, directory: &Path, file: &Path, replace: bool) -> Result<ExitCode, Failure> {
    let existing = if replace { Existing::SetAside } else { Existing::Refuse };
    let restored = store::restore(file, directory, existing).map_err(|error| {
        let hint = match &error {
            RestoreError::HoldsState { .. } => Some(
                "add --replace to put the backup in its place; the present state is kept aside".to_owned(),
            ),
            RestoreError::Directory(cause) => cause.way_out(),
            RestoreError::Backup {
                source: OpenError::Missing { .. } | OpenError::Foreign { .. } | OpenError::Damaged { .. },
                ..
            } => Some("name a file that `ferrovirt state backup` wrote".to_owned()),
            RestoreError::Backup { source, .. } => source.way_out(),
            RestoreError::Damaged { .. } => Some("use an earlier backup".to_owned()),
            _ => None,
        };
        let causes = match &error {
            RestoreError::Damaged { faults, .. } => faults.iter().skip(1).cloned().collect(),
            _ => Vec::new(),
        };
        Failure { causes, ..Failure::refused(error, hint) }
    })?;
    context.reporter.note(format!(
        "restored {} objects of revision {} as revision {}",
        restored.report.objects, restored.report.revision, restored.revision
    ));
    if let Some(aside) = restored.set_aside {
        context.reporter.note(format!("what was there before is in {}", aside.display()));
    }
    Ok(ExitCode::Done)
}

fn check(context: &Context, directory: &Path) -> Result<ExitCode, Failure> {
    let report = store::check(directory)?;
    if !report.faults.is_empty() {
        let error = anyhow::anyhow!("the state in `{}` is damaged", directory.display());
        let hint = "restore a backup: ferrovirt state restore --replace FILE".to_owned();
        return Err(Failure { causes: report.faults, ..Failure::refused(error, Some(hint)) });
    }
    print(&format!(
        "{} objects at revision {}; history back to revision {} ({} rows, {}); nothing is wrong\n",
        report.objects,
        report.revision,
        report.floor,
        report.rows,
        binary_bytes(report.bytes)
    ))?;
    context.reporter.note(format!("schema version {}", report.schema_version));
    Ok(ExitCode::Done)
}
