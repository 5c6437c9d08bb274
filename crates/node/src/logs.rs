//! What a container of a Pod has said.

use std::io;

use bytes::Bytes;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;

use crate::Settings;

/// What of a log is wanted, and how: `PodLogOptions` of Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Which container; may be left out where the Pod has one only.
    pub container: Option<String>,
    /// Go on with what is said from now on, until the container has ended.
    pub follow: bool,
    /// The boot before this one.
    pub previous: bool,
    /// Only what was said at this instant or later.
    pub since: Option<jiff::Timestamp>,
    /// So many of the last lines; all when absent.
    pub tail_lines: Option<u64>,
    /// No more bytes than these.
    pub limit_bytes: Option<u64>,
    /// Each line begins with its instant, RFC 3339.
    pub timestamps: bool,
}

/// An option with a value that it cannot have; answered with 422 `PodLogOptions "NAME" is invalid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidOption {
    /// Its name in the query.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What is wrong with it, Kubernetes' words.
    pub detail: &'static str,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Status 400, Kubernetes' message.
    #[error("{0}")]
    BadRequest(String),
    /// Status 422: these options cannot be.
    #[error("log options are invalid")]
    Invalid(Vec<InvalidOption>),
    /// Status 500: the log cannot be read.
    #[error("cannot read the log of the container `{container}`")]
    Files {
        /// Which container.
        container: String,
        /// Why.
        source: io::Error,
    },
}

impl LogOptions {
    /// Reads the query of `GET …/pods/NAME/log`, decoded; `now` is what `sinceSeconds` counts back from. Parameters that
    /// are not known are passed over.
    ///
    /// # Errors
    /// [`LogError::BadRequest`] for a value that is none of its type, [`LogError::Invalid`] for one out of range.
    pub fn from_query<'a>(
        _pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        _now: jiff::Timestamp,
    ) -> Result<Self, LogError> {
        Ok(Self::default())
    }
}

/// What a container of `pod` has said, in pieces of at most 64 KiB; read no faster than it is taken.
///
/// # Errors
/// As Kubernetes words them, when the container has no log (yet).
pub async fn open(
    _settings: &Settings,
    _pod: &Pod,
    _options: &LogOptions,
) -> Result<BoxStream<'static, io::Result<Bytes>>, LogError> {
    std::future::pending().await
}

/// A boot whose Pod is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedBoot {
    /// The Pod's namespace.
    pub namespace: String,
    /// Name of the VirtualMachineInstance: the Pod's annotation `kubevirt.io/domain`.
    pub instance: String,
    /// The Pod's UID.
    pub pod_uid: String,
}

/// Keeps the logs of a Pod whose directory is about to be removed, `STATE/logs/NAMESPACE/INSTANCE/MILLISECONDS-UID/`;
/// of each instance the last three. Blocks; may be repeated.
///
/// # Errors
/// When the files cannot be copied; the Pod's directory may be removed all the same.
pub fn keep(_settings: &Settings, _boot: &EndedBoot, _now: jiff::Timestamp) -> io::Result<()> {
    Ok(())
}

/// Removes kept logs that are too old or too many. Blocks; what cannot be removed stays until the next time.
pub fn sweep(_settings: &Settings, _now: jiff::Timestamp) {}
