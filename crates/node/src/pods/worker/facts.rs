//! What is known of a Pod: for the decision what comes next, and for its status.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::super::decide::{Api, Facts, Launcher, Start, Status};
use super::super::runtime::Phase;
use super::super::shape::{LauncherPod, UNSUPPORTED};
use super::super::status::{self, Stage};
use super::{START_LIMIT, Worker};
use crate::images::Waiting;
use crate::schedule::has_ended;

/// Whether the Pod's launcher has run, by its status.
pub(super) fn was_started(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().any(|status| {
        status.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    })
}

impl Worker {
    /// All that [`decide`](super::decide) goes by.
    pub(super) fn facts(&mut self) -> Facts {
        let api = self.api();
        if self.runtime.as_ref().is_some_and(|runtime| matches!(runtime.phase, Phase::Told)) {
            self.update_end();
        }
        let now = Instant::now();
        let launcher = match &self.runtime {
            None => Launcher::Absent,
            Some(runtime) => match &runtime.phase {
                Phase::Nameless => Launcher::Nameless,
                Phase::Starting(since) => {
                    Launcher::Starting { overdue: now.duration_since(*since) >= START_LIMIT }
                }
                // One that was told by a daemon that ended since is told again, and has a time to end by again.
                Phase::Listening if runtime.record.ending || self.is_unhealthy() => Launcher::Unhealthy,
                Phase::Listening => Launcher::Listening,
                Phase::Told => Launcher::Told { overdue: self.end_by.is_some_and(|end_by| end_by.at <= now) },
                Phase::Killed => Launcher::Killed,
                Phase::Ended { .. } => Launcher::Ended,
            },
        };
        let is_reported = self.pod.as_deref().is_none_or(|pod| status::is_reported(pod, &self.status(pod)));
        let status = if is_reported { Status::Right } else { Status::Stale };
        Facts { api, launcher, start: self.start_facts(now), status }
    }

    fn api(&self) -> Api {
        let Some(pod) = self.pod.as_deref().filter(|_| self.gone.is_none()) else { return Api::Gone };
        match (has_ended(pod), pod.metadata.deletion_timestamp.is_some()) {
            (false, false) => Api::Live,
            (false, true) => Api::Deleting,
            (true, false) => Api::Final,
            (true, true) => Api::FinalDeleting,
        }
    }

    fn start_facts(&self, now: Instant) -> Start {
        let Some(pod) = self.pod.as_deref() else { return Start::Waiting };
        if self.failed.is_some() {
            return Start::Failed;
        }
        if LauncherPod::read(pod).is_err() {
            return Start::Unsupported;
        }
        if was_started(pod) {
            return Start::Lost;
        }
        match (&self.laid_out, &self.waiting) {
            (Some(_), _) => Start::Ready,
            (None, Some((_, retry))) if retry.is_none_or(|at| now < at) => Start::Waiting,
            (None, _) => Start::Due,
        }
    }

    /// What is to be told of the Pod.
    pub(super) fn stage(&self, pod: &Pod) -> Stage {
        if let Some(runtime) = &self.runtime {
            return match &runtime.phase {
                Phase::Ended { end, .. } => Stage::Ended(runtime.run.clone(), end.clone()),
                _ => Stage::Running { run: runtime.run.clone(), is_ready: self.health(pod).is_ready },
            };
        }
        match (&self.failed, LauncherPod::read(pod), &self.waiting) {
            (Some(message), _, _) => Stage::Failed { reason: "StartError", message: message.clone() },
            (None, Err(message), _) => Stage::Failed { reason: UNSUPPORTED, message },
            (None, Ok(_), _) if was_started(pod) => Stage::Lost,
            (None, Ok(_), Some((Waiting { reason, message, .. }, _))) => {
                Stage::Waiting { reason: reason.clone(), message: message.clone() }
            }
            (None, Ok(_), None) => Stage::Preparing,
        }
    }

    fn status(&self, pod: &Pod) -> k8s_openapi::api::core::v1::PodStatus {
        status::status(pod, &self.stage(pod), self.node.settings.address, Timestamp::now())
    }
}
