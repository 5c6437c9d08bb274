//! Which server is spoken to: `--kubeconfig`, the files of `KUBECONFIG`, `~/.kube/config`, else the Pod that we run in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::report::Failure;
use crate::settings::Settings;

/// How a server of this machine is made known.
const HINT: &str = "make the server of this machine known: ferrovirt kubeconfig --merge";

/// Set in every Pod (Kubernetes, "Accessing the API from within a Pod").
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// Whether anything names a server.
pub fn is_named(settings: &Settings) -> bool {
    settings.kubeconfig.is_some()
        || settings.kube_context.is_some()
        || files(variable("KUBECONFIG"), variable("HOME")).iter().any(|file| file.exists())
        || variable(IN_CLUSTER).is_some()
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Finds it by kubectl's rules.
///
/// # Errors
/// When nothing names a server, or what does cannot be read.
pub async fn find(settings: &Settings) -> Result<Config, Failure> {
    let files = match &settings.kubeconfig {
        Some(file) => vec![file.clone()],
        None => files(variable("KUBECONFIG"), variable("HOME")),
    };
    // A file of the list that is not there is passed over; one that was named is missed.
    let present: Vec<_> =
        files.iter().filter(|file| settings.kubeconfig.is_some() || file.exists()).collect();
    if present.is_empty() {
        if settings.kube_context.is_none() && variable(IN_CLUSTER).is_some() {
            let config = Config::incluster_env().context("cannot use the credentials of this Pod");
            return config.map_err(|error| {
                Failure::refused(error, Some("name a kubeconfig with --kubeconfig".to_owned()))
            });
        }
        let mut failure = Failure::refused(anyhow!("no kubeconfig names a server"), Some(HINT.to_owned()));
        failure.causes = files.iter().map(|file| format!("`{}` does not exist", file.display())).collect();
        return Err(failure);
    }
    let mut merged = Kubeconfig::default();
    for file in present {
        let read = Kubeconfig::read_from(file).and_then(|config| merged.merge(config));
        merged = read.map_err(|error| unreadable(file, error))?;
    }
    let options =
        KubeConfigOptions { context: settings.kube_context.clone(), ..KubeConfigOptions::default() };
    let contexts: Vec<_> = merged.contexts.iter().map(|context| format!("`{}`", context.name)).collect();
    let config = Config::from_custom_kubeconfig(merged, &options).await;
    let mut config = config.map_err(|error| unusable(error, &contexts))?;
    trim_token(&mut config);
    Ok(config)
}

/// Takes the token out of its file where white space is around it: client-go leaves that out, and the client here would
/// send it. A file without any is read again by the client as time goes by.
fn trim_token(config: &mut Config) {
    let auth = &mut config.auth_info;
    // What cannot be read is told when the client looks for it.
    let text = auth.token_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
    let Some(text) = text.filter(|_| auth.token.is_none()) else { return };
    if text.trim() != text {
        auth.token = Some(text.trim().to_owned().into());
    }
}

/// The files that kubectl reads: those of KUBECONFIG, else `~/.kube/config`.
fn files(kubeconfig: Option<OsString>, home: Option<OsString>) -> Vec<PathBuf> {
    let named = |list: &OsString| -> Vec<PathBuf> {
        std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect()
    };
    let listed = kubeconfig.as_ref().map(named).unwrap_or_default();
    if !listed.is_empty() {
        return listed;
    }
    home.map(|home| Path::new(&home).join(".kube/config")).into_iter().collect()
}

fn unreadable(file: &Path, error: KubeconfigError) -> Failure {
    let hint = match &error {
        KubeconfigError::ReadConfig(..) => "name another file with --kubeconfig, or in KUBECONFIG",
        _ => "mend the file, or name another with --kubeconfig",
    };
    let error = match error {
        // Its own text repeats the cause and the path.
        KubeconfigError::ReadConfig(error, _) => anyhow!(error),
        other => anyhow!(other.to_string()),
    };
    let error = error.context(format!("cannot read the kubeconfig `{}`", file.display()));
    Failure::refused(error, Some(hint.to_owned()))
}

fn unusable(error: KubeconfigError, contexts: &[String]) -> Failure {
    let (error, hint) = match error {
        KubeconfigError::CurrentContextNotSet if contexts.is_empty() => {
            (anyhow!("the kubeconfig names no server"), HINT.to_owned())
        }
        KubeconfigError::CurrentContextNotSet => (
            anyhow!("the kubeconfig has no current context"),
            format!("choose one with --context: {}", contexts.join(", ")),
        ),
        KubeconfigError::LoadContext(name) => {
            let error = anyhow!("the kubeconfig has no context `{name}`");
            match contexts.is_empty() {
                true => (error, HINT.to_owned()),
                false => (error, format!("it has {}", contexts.join(", "))),
            }
        }
        other => (
            anyhow!(other.to_string()).context("cannot use the kubeconfig"),
            "choose another context with --context".to_owned(),
        ),
    };
    Failure::refused(error, Some(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_kubectls() {
        let home = || Some(OsString::from("/home/u"));
        let own = vec![PathBuf::from("/home/u/.kube/config")];
        assert_eq!(files(None, home()), own);
        assert_eq!(files(Some(":".into()), home()), own);
        assert_eq!(files(Some(":/a::/b".into()), home()), [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(files(None, None), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_context_that_is_not_there_is_told_with_those_that_are() {
        let contexts = ["`a`".to_owned(), "`b`".to_owned()];
        let failure = unusable(KubeconfigError::LoadContext("x".to_owned()), &contexts);
        assert_eq!(failure.error.to_string(), "the kubeconfig has no context `x`");
        assert_eq!(failure.hints, ["it has `a`, `b`"]);
        let failure = unusable(KubeconfigError::CurrentContextNotSet, &[]);
        assert_eq!(failure.hints, [HINT]);
        let failure = unusable(KubeconfigError::CurrentContextNotSet, &contexts);
        assert_eq!(failure.hints, ["choose one with --context: `a`, `b`"]);
    }
}
