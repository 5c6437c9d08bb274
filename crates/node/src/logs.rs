//! What a container of a Pod has said.
//!
//! ```text
//! query ──► LogOptions ──► which file? ── a live Pod's, or a boot kept ──► records ──► lines ──► pieces, as they are taken
//! ```
//!
//! A launcher writes `compute` and `guest-console-log` in the CRI log format. The other containers of a launcher Pod are
//! never run on one machine and say nothing. `previous` is the boot of the same instance before, kept when its Pod went.
//! Kubernetes' API leads no further back; [`boots`] are read from the files, with or without a node.

mod boots;
mod cri;
mod kept;
mod reader;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use launcher::pod_dir::{LauncherRecord, PodDir};
use manifest::keys;

use crate::Settings;
pub use boots::{Boot, boots};
use cri::Printer;
use reader::{Reader, Step};

/// Containers of a launcher Pod that say something.
pub const CONTAINERS: [&str; 2] = ["compute", "guest-console-log"];

/// Where kept logs are, in the node's lasting state.
const LOGS: &str = "logs";

/// Who follows looks for more in this time.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

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
    pub since: Option<Timestamp>,
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
    /// are not known are passed over, and so are empty ones.
    ///
    /// # Errors
    /// [`LogError::BadRequest`] for a value that is none of its type, [`LogError::Invalid`] for one out of range
    /// (`ValidatePodLogOptions` of Kubernetes).
    pub fn from_query<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
        now: Timestamp,
    ) -> Result<Self, LogError> {
        let mut options = Self::default();
        let (mut since_seconds, mut since_time, mut tail, mut limit) = (None, None, None, None);
        for (name, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
            match name {
                "container" => options.container = Some(value.to_owned()),
                "follow" => options.follow = boolean(value),
                "previous" => options.previous = boolean(value),
                "timestamps" => options.timestamps = boolean(value),
                "tailLines" => tail = Some(integer(value)?),
                "limitBytes" => limit = Some(integer(value)?),
                "sinceSeconds" => since_seconds = Some(integer(value)?),
                "sinceTime" => since_time = Some(value),
                _ => {}
            }
        }
        let mut invalid = Vec::new();
        let mut refuse = |field, value: String, detail| invalid.push(InvalidOption { field, value, detail });
        if let Some(tail) = tail.filter(|tail| *tail < 0) {
            refuse("tailLines", tail.to_string(), "must be greater than or equal to 0");
        }
        if let Some(limit) = limit.filter(|limit| *limit < 1) {
            refuse("limitBytes", limit.to_string(), "must be greater than 0");
        }
        match (since_seconds, since_time) {
            (Some(_), Some(time)) => {
                refuse(
                    "sinceTime",
                    time.to_owned(),
                    "at most one of `sinceTime` or `sinceSeconds` may be specified",
                );
            }
            (Some(seconds), None) if seconds < 1 => {
                refuse("sinceSeconds", seconds.to_string(), "must be greater than 0");
            }
            (Some(seconds), None) => {
                let since = now.checked_sub(jiff::SignedDuration::from_secs(seconds));
                options.since = Some(since.unwrap_or(Timestamp::MIN));
            }
            (None, Some(time)) => {
                let since = time.parse().map_err(|error| {
                    LogError::BadRequest(format!("unable to parse sinceTime \"{time}\" as RFC 3339: {error}"))
                })?;
                options.since = Some(since);
            }
            (None, None) => {}
        }
        if !invalid.is_empty() {
            return Err(LogError::Invalid(invalid));
        }
        options.tail_lines = tail.and_then(|tail| u64::try_from(tail).ok());
        options.limit_bytes = limit.and_then(|limit| u64::try_from(limit).ok());
        Ok(options)
    }
}

/// As `Convert_Slice_string_To_bool` of Kubernetes: all but these two is true.
fn boolean(value: &str) -> bool {
    value != "0" && !value.eq_ignore_ascii_case("false")
}

/// As Go's `strconv.ParseInt` and its errors.
fn integer(value: &str) -> Result<i64, LogError> {
    value.parse::<i64>().map_err(|error| {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};
        let reason = match error.kind() {
            NegOverflow | PosOverflow => "value out of range",
            _ => "invalid syntax",
        };
        LogError::BadRequest(format!("strconv.ParseInt: parsing {value:?}: {reason}"))
    })
}

/// What a container of `pod` has said, in pieces of at most 64 KiB; read no faster than it is taken.
///
/// # Errors
/// As Kubernetes words them, when the container has no log (yet).
pub async fn open(
    settings: &Settings,
    pod: &Pod,
    options: &LogOptions,
) -> Result<BoxStream<'static, io::Result<Bytes>>, LogError> {
    let container = container(pod, options.container.as_deref())?.to_owned();
    if pod.spec.as_ref().is_none_or(|spec| spec.node_name.as_deref().unwrap_or_default().is_empty()) {
        // As the API server answers before there is a kubelet to ask.
        return Ok(futures::stream::empty().boxed());
    }
    if !options.previous {
        has_log(pod, &container)?;
    }
    let work = {
        let (settings, pod, options, container) =
            (settings.clone(), pod.clone(), options.clone(), container.clone());
        move || {
            let source = source(&settings, &pod, &container, options.previous)?;
            source.map(|source| Followed::begin(source, &options)).transpose()
        }
    };
    let opened = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    match opened {
        Ok(Some(followed)) => Ok(stream(followed).boxed()),
        Ok(None) if options.previous => {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            Err(LogError::BadRequest(format!(
                "previous terminated container {container:?} in pod {name:?} not found"
            )))
        }
        Ok(None) => {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            Err(LogError::BadRequest(format!(
                "unable to retrieve container logs for ferrovirt://{uid}/{container}"
            )))
        }
        Err(source) => Err(LogError::Files { container, source }),
    }
}

/// The container that is meant (`validateContainer` of Kubernetes' pod registry).
fn container<'a>(pod: &'a Pod, wanted: Option<&'a str>) -> Result<&'a str, LogError> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let names: Vec<&str> =
        spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.as_str()).collect();
    let init: Vec<&str> = spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .map(|container| container.name.as_str())
        .collect();
    match (wanted, names.as_slice()) {
        (Some(wanted), _) if names.contains(&wanted) || init.contains(&wanted) => Ok(wanted),
        (Some(wanted), _) => {
            Err(LogError::BadRequest(format!("container {wanted} is not valid for pod {pod_name}")))
        }
        (None, [only]) => Ok(only),
        (None, []) => {
            Err(LogError::BadRequest(format!("a container name must be specified for pod {pod_name}")))
        }
        (None, _) => {
            let mut message = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                names.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(LogError::BadRequest(message))
        }
    }
}

/// Whether the container has begun, after its status (`validateContainerLogStatus` of a kubelet).
fn has_log(pod: &Pod, container: &str) -> Result<(), LogError> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref();
    let statuses = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let init = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let found: Option<&ContainerStatus> = statuses.iter().chain(init).find(|status| status.name == container);
    let Some(found) = found else {
        return Err(LogError::BadRequest(format!(
            "container {container:?} in pod {pod_name:?} is not available"
        )));
    };
    let none = ContainerState::default();
    let state = found.state.as_ref().unwrap_or(&none);
    if state.running.is_some() || state.terminated.is_some() {
        return Ok(());
    }
    let head = format!("container {container:?} in pod {pod_name:?} is waiting to start");
    let reason = state.waiting.as_ref().map(|waiting| waiting.reason.as_deref().unwrap_or_default());
    Err(LogError::BadRequest(match reason {
        Some("ErrImagePull") => format!("{head}: image can't be pulled"),
        Some("ImagePullBackOff") => format!("{head}: trying and failing to pull image"),
        Some(reason) => format!("{head}: {reason}"),
        None => format!("{head} - no logs yet"),
    }))
}

/// Where a log is.
struct LogSource {
    path: PathBuf,
    /// The Pod's directory, where the log may grow.
    live: Option<PodDir>,
}

/// The Pod's own log, or the kept one; `None` when there is neither. Blocks.
fn source(settings: &Settings, pod: &Pod, container: &str, previous: bool) -> io::Result<Option<LogSource>> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let directory = PodDir::new(settings.pods_dir.join(uid));
    if !previous && !uid.is_empty() && directory.path().is_dir() {
        return Ok(Some(LogSource { path: directory.log(container), live: Some(directory) }));
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let instance = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(keys::DOMAIN));
    let instance = instance.map(String::as_str).unwrap_or_default();
    let Some(directory) = kept::directory(&logs_dir(settings), namespace, instance) else { return Ok(None) };
    let boots = kept::boots(&directory)?;
    let wanted = boots.iter().rev().find(|boot| (boot.pod_uid == uid) != previous);
    Ok(wanted.map(|boot| LogSource { path: boot.log(container), live: None }))
}

fn logs_dir(settings: &Settings) -> PathBuf {
    settings.state_dir.join(LOGS)
}

/// A log on its way out.
struct Followed {
    reader: Reader,
    live: Option<PodDir>,
    /// Its launcher has ended; whatever is there now is the rest.
    is_last_look: bool,
}

impl Followed {
    fn begin(source: LogSource, options: &LogOptions) -> io::Result<Self> {
        let printer = Printer {
            since: options.since,
            timestamps: options.timestamps,
            left_bytes: options.limit_bytes,
            ..Printer::default()
        };
        let follow = options.follow && source.live.is_some();
        let reader = Reader::open(source.path, follow, options.tail_lines, printer)?;
        Ok(Self { reader, live: source.live, is_last_look: false })
    }
}

fn stream(followed: Followed) -> impl futures::Stream<Item = io::Result<Bytes>> + Send {
    futures::stream::try_unfold(Some(followed), async |followed| {
        let Some(mut followed) = followed else { return Ok(None) };
        loop {
            let work = move || {
                let step = followed.reader.step()?;
                let has_ended = match &step {
                    // Seen before the last look, so that nothing is said after it.
                    Step::Idle => followed.live.as_ref().is_none_or(has_ended),
                    Step::Printed(_) | Step::Ended => false,
                };
                Ok::<_, io::Error>((followed, step, has_ended))
            };
            let (back, step, has_ended) =
                tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??;
            followed = back;
            match step {
                Step::Printed(bytes) => return Ok(Some((bytes, Some(followed)))),
                Step::Ended => return Ok(None),
                Step::Idle if followed.is_last_look => return Ok(None),
                Step::Idle if has_ended => followed.is_last_look = true,
                Step::Idle => tokio::time::sleep(FOLLOW_INTERVAL).await,
            }
        }
    })
}

/// Whether nothing will be written any more: the launcher's process is gone, or its directory. The lock is not asked:
/// trying it would keep it from a launcher that begins. Blocks.
fn has_ended(pod: &PodDir) -> bool {
    if !pod.path().is_dir() {
        return true;
    }
    let read = |path: PathBuf| std::fs::read(path).ok();
    let listening = read(pod.launcher_record())
        .and_then(|bytes| serde_json::from_slice::<LauncherRecord>(&bytes).ok())
        .map(|record| record.process_id);
    let process = listening.or_else(|| {
        let record: serde_json::Value = serde_json::from_slice(&read(pod.pod_record())?).ok()?;
        u32::try_from(record["processId"].as_u64()?).ok()
    });
    match process {
        Some(process) => !PathBuf::from(format!("/proc/{process}")).exists(),
        None => pod.exit_record().exists(),
    }
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
pub fn keep(settings: &Settings, boot: &EndedBoot, now: Timestamp) -> io::Result<()> {
    let pod = PodDir::new(settings.pods_dir.join(&boot.pod_uid));
    kept::keep(&logs_dir(settings), &pod, boot, u64::try_from(now.as_millisecond()).unwrap_or_default())
}

/// Removes kept logs that are older than thirty days, and the oldest where all are more than 1 GiB. Blocks; what cannot
/// be removed stays until the next time.
pub fn sweep(settings: &Settings, now: Timestamp) {
    if let Err(error) = kept::sweep(&logs_dir(settings), now.into()) {
        tracing::warn!(%error, "logs of machines that are gone could not be removed");
    }
}

#[cfg(test)]
mod tests;
