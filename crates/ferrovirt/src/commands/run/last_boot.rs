//! What a machine booted last, so that the next run can say that the kernel is another one.
//!
//! One small JSON file for each machine, `STATE/boots/NAMESPACE.NAME.json`, replaced atomically. Losing it costs one
//! message, so a file that cannot be read counts as absent.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use launcher::machine_dir::directory_name;
use serde::{Deserialize, Serialize};

/// The kernel of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastBoot {
    /// Digest of the kernel file.
    pub kernel_digest: String,
    /// Its release string, where it has one.
    pub kernel_version: Option<String>,
    /// The image's digest, where it came from one.
    pub image_digest: Option<String>,
}

impl LastBoot {
    /// What `namespace`/`name` booted last; `None` on its first boot.
    pub fn read(boots_dir: &Path, namespace: &str, name: &str) -> Option<LastBoot> {
        let bytes = std::fs::read(file(boots_dir, namespace, name)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps this as the last boot.
    ///
    /// # Errors
    /// When the state directory cannot be written.
    pub fn write(&self, boots_dir: &Path, namespace: &str, name: &str) -> Result<()> {
        let path = file(boots_dir, namespace, name);
        let attempt = || -> std::io::Result<()> {
            std::fs::create_dir_all(boots_dir)?;
            let temporary = path.with_extension(format!("{}.part", std::process::id()));
            std::fs::write(&temporary, serde_json::to_vec(self).expect("strings serialize"))
                .and_then(|()| std::fs::rename(&temporary, &path))
                .inspect_err(|_| {
                    // Removing the leftover is a courtesy; the first error is the one that matters.
                    let _ = std::fs::remove_file(&temporary);
                })
        };
        attempt().with_context(|| format!("cannot write `{}`", path.display()))
    }

    /// The release booted before, when `now` has another kernel.
    pub fn changed_from(&self, now: &LastBoot) -> Option<String> {
        (self.kernel_digest != now.kernel_digest)
            .then(|| self.kernel_version.clone().unwrap_or_else(|| "unknown".to_owned()))
    }
}

fn file(boots_dir: &Path, namespace: &str, name: &str) -> PathBuf {
    boots_dir.join(format!("{}.json", directory_name(namespace, name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(digest: &str, version: &str) -> LastBoot {
        LastBoot { kernel_digest: digest.into(), kernel_version: Some(version.into()), image_digest: None }
    }

    #[test]
    fn a_change_is_a_change_of_bytes() {
        let old = boot("sha256:1", "6.1");
        assert_eq!(old.changed_from(&boot("sha256:2", "6.2")).as_deref(), Some("6.1"));
        assert_eq!(
            old.changed_from(&boot("sha256:2", "6.1")).as_deref(),
            Some("6.1"),
            "rebuilt, same release"
        );
        assert_eq!(old.changed_from(&boot("sha256:1", "6.1")), None);
    }

    #[test]
    fn it_survives_in_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(LastBoot::read(dir.path(), "default", "vm"), None);
        let boot = boot("sha256:1", "6.1");
        boot.write(dir.path(), "default", "vm").expect("writes");
        assert_eq!(LastBoot::read(dir.path(), "default", "vm"), Some(boot));
        assert_eq!(std::fs::read_dir(dir.path()).expect("lists").count(), 1, "no part file stays");
    }
}
