//! The boots of an instance whose logs are on this machine, found without asking anybody. Blocks.

use std::io;
use std::path::Path;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use launcher::pod_dir::PodDir;

use super::kept::{self, Kept};
use super::{Followed, LOGS, LogOptions, LogSource};
use crate::pods;

/// A boot whose logs are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// UID of its Pod.
    pub pod_uid: String,
    /// When its logs were set aside, as its Pod went; `None` while the Pod is there.
    pub kept: Option<Timestamp>,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Live(PodDir),
    Kept(Kept),
}

/// The boots of an instance, the newest first: that of its Pod, and those kept. `pods_dir` and `state_dir` are those of
/// [`Settings`](crate::Settings).
///
/// # Errors
/// When a directory that is there cannot be read.
pub fn boots(pods_dir: &Path, state_dir: &Path, namespace: &str, instance: &str) -> io::Result<Vec<Boot>> {
    let live = pods::directories(pods_dir, namespace, instance)?
        .into_iter()
        .map(|(directory, pod_uid)| Boot { pod_uid, kept: None, place: Place::Live(directory) });
    let mut boots: Vec<_> = live.collect();
    let Some(directory) = kept::directory(&state_dir.join(LOGS), namespace, instance) else {
        return Ok(boots);
    };
    for kept in kept::boots(&directory)?.into_iter().rev() {
        // Copied, and the Pod's own not removed yet.
        if boots.iter().all(|boot| boot.pod_uid != kept.pod_uid) {
            // A time beyond what can be told is a file that somebody else has made; 1970 is as good.
            let at = i64::try_from(kept.kept).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
            boots.push(Boot {
                pod_uid: kept.pod_uid.clone(),
                kept: Some(at.unwrap_or_default()),
                place: Place::Kept(kept),
            });
        }
    }
    Ok(boots)
}

impl Boot {
    /// What one of [`CONTAINERS`](super::CONTAINERS) has said, in pieces of at most 64 KiB. Of `options` the container
    /// and `previous` mean nothing here.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn read(
        &self,
        container: &str,
        options: &LogOptions,
    ) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        let source = match &self.place {
            Place::Live(pod) => LogSource { path: pod.log(container), live: Some(pod.clone()) },
            Place::Kept(kept) => LogSource { path: kept.log(container), live: None },
        };
        Ok(super::stream(Followed::begin(source, options)?).boxed())
    }
}
