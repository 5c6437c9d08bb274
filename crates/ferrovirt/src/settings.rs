//! Flags and environment, resolved once into plain values: where things are and for whom we work. What registries need
//! of the environment is resolved in [`host`](crate::commands::host).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cli::GlobalFlags;

/// Whether Ferrovirt works for the whole machine or for one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Effective user 0: system directories, QEMU as 107:107.
    Root,
    /// Any other user: XDG directories, QEMU as that user.
    User,
}

/// Everything that does not depend on the command.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For whom we work.
    pub mode: Mode,
    /// Images and other lasting state.
    pub state_dir: PathBuf,
    /// What runs now.
    pub run_dir: PathBuf,
    /// Registry credentials given by flag.
    pub authfile: Option<PathBuf>,
    /// The kubeconfig given by flag.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig given by flag.
    pub kube_context: Option<String>,
    /// The namespace given by flag.
    pub namespace: Option<String>,
}

impl Settings {
    /// Resolves `flags` against the environment.
    ///
    /// # Errors
    /// When no directory is given and the environment names no home to derive one from.
    pub fn resolve(
        flags: &GlobalFlags,
        mode: Mode,
        user_id: u32,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Settings> {
        let given = |flag: &Option<PathBuf>, name: &str| {
            flag.clone().or_else(|| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from))
        };
        // A relative path in an XDG variable is to be ignored (XDG base directory specification).
        let absolute = |name: &str| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state_dir = match (given(&flags.state_dir, "FERROVIRT_STATE_DIR"), mode) {
            (Some(dir), _) => dir,
            (None, Mode::Root) => PathBuf::from("/var/lib/ferrovirt"),
            (None, Mode::User) => match absolute("XDG_STATE_HOME") {
                Some(dir) => dir.join("ferrovirt"),
                None => match absolute("HOME") {
                    Some(home) => home.join(".local/state/ferrovirt"),
                    None => {
                        bail!("neither HOME nor XDG_STATE_HOME is set: say where state goes with --state-dir")
                    }
                },
            },
        };
        let run_dir = match (given(&flags.run_dir, "FERROVIRT_RUN_DIR"), mode) {
            (Some(dir), _) => dir,
            (None, Mode::Root) => PathBuf::from("/run/ferrovirt"),
            // Without a session (cron, CI) there is no runtime directory; the user's id keeps users apart and the
            // directory is checked for its owner before use.
            (None, Mode::User) => match absolute("XDG_RUNTIME_DIR") {
                Some(dir) => dir.join("ferrovirt"),
                None => PathBuf::from(format!("/tmp/ferrovirt-{user_id}")),
            },
        };
        Ok(Settings {
            mode,
            state_dir: std::path::absolute(state_dir).context("cannot make the state directory absolute")?,
            run_dir: std::path::absolute(run_dir).context("cannot make the run directory absolute")?,
            authfile: flags.authfile.clone(),
            kubeconfig: flags.kubeconfig.clone(),
            kube_context: flags.context.clone(),
            namespace: flags.namespace.clone(),
        })
    }

    /// Where the API server keeps its objects, its certificates and the administrator's kubeconfig.
    pub fn api_dir(&self) -> PathBuf {
        self.state_dir.join("apiserver")
    }

    /// The administrator's kubeconfig, which the API server writes.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.api_dir().join("admin.kubeconfig")
    }

    /// The image store's directory.
    pub fn image_dir(&self) -> PathBuf {
        self.state_dir.join("images")
    }

    /// Kernels unwrapped for QEMU, content-addressed.
    pub fn kernel_dir(&self) -> PathBuf {
        self.state_dir.join("kernels")
    }

    /// Facts about the host that stay true for a while (QEMU's version, whether KVM works).
    pub fn facts_dir(&self) -> PathBuf {
        self.state_dir.join("facts")
    }

    /// What each machine booted last.
    pub fn boots_dir(&self) -> PathBuf {
        self.state_dir.join("boots")
    }

    /// The node's lasting state: its authority, and logs of machines that are gone.
    pub fn node_dir(&self) -> PathBuf {
        self.state_dir.join("node")
    }

    /// Directories of launcher Pods.
    pub fn pods_dir(&self) -> PathBuf {
        self.run_dir.join("pods")
    }

    /// Directories of running machines.
    pub fn machines_dir(&self) -> PathBuf {
        self.run_dir.join("machines")
    }
}

/// Creates `dir` and its parents, `leaf_mode` on `dir` itself when it is new.
///
/// # Errors
/// When it cannot be made, or exists and belongs to somebody else.
pub fn ensure_dir(dir: &Path, leaf_mode: u32) -> Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot create the directory `{}`", parent.display()))?;
    }
    match std::fs::DirBuilder::new().mode(leaf_mode).create(dir) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let metadata = std::fs::symlink_metadata(dir)
                .with_context(|| format!("cannot look at the directory `{}`", dir.display()))?;
            let user_id = rustix::process::geteuid().as_raw();
            if !metadata.is_dir() || (metadata.uid() != user_id && user_id != 0) {
                bail!(
                    "`{}` is not a directory of this user; choose another with --run-dir or --state-dir",
                    dir.display()
                );
            }
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("cannot create the directory `{}`", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn resolve(flags: GlobalFlags, mode: Mode, variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::resolve(&flags, mode, 1000, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn no_flags() -> GlobalFlags {
        GlobalFlags {
            state_dir: None,
            run_dir: None,
            authfile: None,
            kubeconfig: None,
            context: None,
            namespace: None,
            quiet: false,
            verbose: 0,
        }
    }

    #[test]
    fn directories_follow_mode_environment_and_flags() {
        let root = resolve(no_flags(), Mode::Root, &[("HOME", "/root")]).unwrap();
        assert_eq!(
            (root.state_dir.to_str(), root.run_dir.to_str()),
            (Some("/var/lib/ferrovirt"), Some("/run/ferrovirt"))
        );

        let user = resolve(no_flags(), Mode::User, &[("HOME", "/home/u")]).unwrap();
        assert_eq!(user.state_dir, Path::new("/home/u/.local/state/ferrovirt"));
        assert_eq!(user.run_dir, Path::new("/tmp/ferrovirt-1000"));

        let xdg = [("HOME", "/home/u"), ("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "/run/user/1000")];
        let user = resolve(no_flags(), Mode::User, &xdg).unwrap();
        assert_eq!(user.state_dir, Path::new("/s/ferrovirt"));
        assert_eq!(user.run_dir, Path::new("/run/user/1000/ferrovirt"));

        let flags = GlobalFlags { state_dir: Some("/a".into()), run_dir: Some("/b".into()), ..no_flags() };
        let flagged = resolve(flags, Mode::User, &xdg).unwrap();
        assert_eq!((flagged.state_dir.to_str(), flagged.run_dir.to_str()), (Some("/a"), Some("/b")));
    }

    #[test]
    fn variables_give_directories_and_empty_ones_do_not() {
        let given = [("HOME", "/home/u"), ("FERROVIRT_STATE_DIR", "/v"), ("FERROVIRT_RUN_DIR", "")];
        let user = resolve(no_flags(), Mode::User, &given).unwrap();
        assert_eq!(user.state_dir, Path::new("/v"));
        assert_eq!(user.run_dir, Path::new("/tmp/ferrovirt-1000"));
    }

    #[test]
    fn a_relative_xdg_path_is_ignored_as_the_standard_says() {
        let user = resolve(no_flags(), Mode::User, &[("HOME", "/home/u"), ("XDG_STATE_HOME", "s")]).unwrap();
        assert_eq!(user.state_dir, Path::new("/home/u/.local/state/ferrovirt"));
    }

    #[test]
    fn no_home_is_an_error_with_a_way_out() {
        let error = resolve(no_flags(), Mode::User, &[]).unwrap_err();
        assert!(error.to_string().contains("--state-dir"), "{error}");
    }
}
