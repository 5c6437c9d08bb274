//! `ferrovirt kubeconfig`: how clients reach the server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use apiserver::auth::merge_kubeconfig;

use super::Context;
use crate::cli::KubeconfigFlags;
use crate::report::{ExitCode, Failure, print};

/// Prints the administrator's kubeconfig, or merges it into the user's own.
pub fn kubeconfig(context: &Context, flags: &KubeconfigFlags) -> Result<ExitCode, Failure> {
    let ours = context.settings.admin_kubeconfig();
    let text = match std::fs::read_to_string(&ours) {
        Ok(text) => text,
        Err(error) => {
            let hint = match error.kind() {
                std::io::ErrorKind::NotFound => "start the server once: ferrovirt serve",
                std::io::ErrorKind::PermissionDenied => {
                    "run this as the user who started the server, or name another state with --state-dir"
                }
                _ => "name another state with --state-dir",
            };
            let error = anyhow::Error::new(error).context(format!("cannot read `{}`", ours.display()));
            return Err(Failure::refused(error, Some(hint.to_owned())));
        }
    };
    if !flags.merge {
        print(&text)?;
        return Ok(ExitCode::Done);
    }
    let environment = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let target = target(environment("KUBECONFIG"), environment("HOME")).ok_or_else(|| {
        Failure::refused(
            anyhow::anyhow!("neither KUBECONFIG nor HOME is set, so there is no file to merge into"),
            Some("set KUBECONFIG to the file".to_owned()),
        )
    })?;
    merge(&target, &text)?;
    context.reporter.note(format!("merged into {}", target.display()));
    Ok(ExitCode::Done)
}

/// The file that kubectl writes to: the first of KUBECONFIG, else ~/.kube/config.
fn target(kubeconfig: Option<std::ffi::OsString>, home: Option<std::ffi::OsString>) -> Option<PathBuf> {
    let first =
        kubeconfig.and_then(|list| std::env::split_paths(&list).find(|path| !path.as_os_str().is_empty()));
    first.or_else(|| home.map(|home| Path::new(&home).join(".kube/config")))
}

/// Puts `ours` into the file at `target`, whole or not at all. A link is followed, so that it stays one.
fn merge(target: &Path, ours: &str) -> Result<(), Failure> {
    let lock = lock_path(target);
    let _lock = Lock::take(&lock, LOCK_WAIT).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                format!("if no kubectl is at work, remove the file that one left: rm {}", lock.display())
            }
            _ => "name another file in KUBECONFIG".to_owned(),
        };
        let error = anyhow::Error::new(error).context(format!("cannot lock `{}`", target.display()));
        Failure::refused(error, Some(hint))
    })?;
    let target = std::fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
    let existing = match std::fs::read_to_string(&target) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => {
            return Err(anyhow::Error::new(error)
                .context(format!("cannot read `{}`", target.display()))
                .into());
        }
    };
    let merged = merge_kubeconfig(&existing, ours).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("cannot merge into `{}`", target.display()));
        Failure::refused(error, Some("mend the file, or name another in KUBECONFIG".to_owned()))
    })?;
    write_atomic(&target, &merged)
        .with_context(|| format!("cannot write `{}`", target.display()))
        .map_err(Failure::from)
}

/// How long it is waited for a kubectl that writes the same file.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How often it is looked whether it is done; nothing tells.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// Where kubectl locks a kubeconfig (`lockName` of client-go's clientcmd).
fn lock_path(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// kubectl's lock of a kubeconfig: a file that only one process can make.
struct Lock<'a>(&'a Path);

impl<'a> Lock<'a> {
    fn take(path: &'a Path, wait: Duration) -> std::io::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let began = Instant::now();
        loop {
            match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o000).open(path) {
                Ok(_) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && began.elapsed() < wait => {
                    std::thread::sleep(LOCK_INTERVAL);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(self.0) {
            tracing::warn!(path = %self.0.display(), %error, "the lock could not be removed");
        }
    }
}

/// Replaces a file of secrets: readable by its owner alone, complete or as it was.
fn write_atomic(target: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let directory = target.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, target)?;
        std::fs::File::open(directory)?.sync_all()
    };
    let result = write();
    if result.is_err() {
        // Nothing half-done stays; that it cannot be removed changes nothing about the failure.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_the_one_that_kubectl_writes() {
        let home = || Some("/home/u".into());
        assert_eq!(target(None, home()), Some("/home/u/.kube/config".into()));
        assert_eq!(target(Some(":/a:/b".into()), home()), Some("/a".into()));
        assert_eq!(target(None, None), None);
    }

    #[test]
    fn a_link_stays_one_and_the_file_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real");
        let link = directory.path().join("link");
        std::fs::write(&real, "old").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let resolved = std::fs::canonicalize(&link).unwrap();
        write_atomic(&resolved, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&real).unwrap(), "new");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_kubectl_that_writes_is_waited_for_and_one_that_was_killed_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("kube/config");
        let path = lock_path(&target);
        assert_eq!(path, directory.path().join("kube/config.lock"));
        let first = Lock::take(&path, Duration::ZERO).unwrap();
        let taken = Lock::take(&path, Duration::ZERO).err().unwrap();
        assert_eq!(taken.kind(), std::io::ErrorKind::AlreadyExists);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| Lock::take(&path, Duration::from_secs(20)).map(drop));
            drop(first);
            second.join().unwrap().unwrap();
        });
        assert!(!path.exists());
    }
}
