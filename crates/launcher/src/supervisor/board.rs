//! What a launcher publishes of its machine: from a session's progress and verdict to [`MachineStatus`], and when.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use manifest::machine_status::{BootTimeline, GuestPanic, MachineState, MachineStatus, StateReason};
use tokio::sync::watch;
use tokio::time::Instant;
use vmm::PauseReason;

use super::TELL_INTERVAL;
use crate::exit_record::fitted;
use crate::session::{Progress, Verdict};
use crate::timeline::Timeline;

/// The status that is published, which counts its changes.
#[derive(Debug)]
pub(super) struct Board(watch::Sender<MachineStatus>);

impl Default for Board {
    fn default() -> Self {
        Self(watch::Sender::new(MachineStatus::default()))
    }
}

impl Board {
    pub(super) fn watch(&self) -> watch::Receiver<MachineStatus> {
        self.0.subscribe()
    }

    pub(super) fn current(&self) -> MachineStatus {
        self.0.borrow().clone()
    }

    /// Changes it, and counts that if anything is another than before. It always fits a termination message.
    pub(super) fn change(&self, edit: impl FnOnce(&mut MachineStatus)) {
        self.0.send_if_modified(|status| {
            let mut next = status.clone();
            edit(&mut next);
            let mut next = fitted(next);
            let is_news = next != *status;
            if is_news {
                next.revision = status.revision + 1;
                *status = next;
            }
            is_news
        });
    }
}

/// What a machine came to, or the lack of one.
#[derive(Debug)]
pub(super) struct End {
    pub state: MachineState,
    pub reason: StateReason,
    /// What is known of the guest at last, with the run's beginning in milliseconds since the Unix epoch.
    pub progress: Option<(Progress, u64)>,
}

impl End {
    /// Nothing was started, and nothing will be.
    pub(super) fn before_a_machine() -> Self {
        Self { state: MachineState::ShutOff, reason: StateReason::Destroyed, progress: None }
    }

    pub(super) fn tell(&self, status: &mut MachineStatus) {
        if let Some((progress, began)) = &self.progress {
            tell(status, progress, *began);
        }
        status.state = self.state;
        status.reason = self.reason;
        status.timeline.ended.get_or_insert_with(unix_milliseconds);
    }
}

/// What a verdict is in KubeVirt's terms.
pub(super) fn ending(verdict: &Verdict) -> (MachineState, StateReason) {
    match verdict {
        Verdict::PoweredOff | Verdict::Rebooted => (MachineState::ShutOff, StateReason::Shutdown),
        // The last three are for commands and do not come up here.
        Verdict::Destroyed | Verdict::Ended(_) | Verdict::TimedOut | Verdict::UntilMatched { .. } => {
            (MachineState::ShutOff, StateReason::Destroyed)
        }
        Verdict::Panicked { .. } => (MachineState::Crashed, StateReason::Panicked),
        Verdict::VmmFailed { .. } | Verdict::FailMatched { .. } => {
            (MachineState::Crashed, StateReason::Crashed)
        }
    }
}

/// Puts what is known of a running guest into its status. `began` in milliseconds since the Unix epoch.
pub(super) fn tell(status: &mut MachineStatus, progress: &Progress, began: u64) {
    let at = |since: Option<Duration>| since.map(|since| began + milliseconds(since));
    let Timeline { prepared, vmm_ready, first_output, kernel_started, userspace_started, ended, .. } =
        progress.timeline;
    status.timeline = BootTimeline {
        pull_started: status.timeline.pull_started,
        pulled: status.timeline.pulled,
        prepared: at(prepared),
        vmm_ready: at(vmm_ready),
        first_output: at(first_output),
        kernel_started: at(kernel_started),
        userspace_started: at(userspace_started),
        ended: at(ended),
    };
    (status.state, status.reason) = running(progress);
    status.reboots = progress.reboots;
    status.panic = progress.panic.as_ref().map(|report| GuestPanic {
        at: began + milliseconds(report.at),
        line: report.line.clone(),
        tail: report.tail.clone(),
    });
}

fn running(progress: &Progress) -> (MachineState, StateReason) {
    match &progress.paused {
        None => (MachineState::Running, StateReason::None),
        Some(PauseReason::Requested) => (MachineState::Paused, StateReason::User),
        Some(PauseReason::IoError) => (MachineState::Paused, StateReason::IoError),
        Some(_) => (MachineState::Paused, StateReason::None),
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn unix_milliseconds() -> u64 {
    // A clock before 1970 is as good as one at it.
    milliseconds(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// When changes are told: a change of the state at once, others once in [`TELL_INTERVAL`].
#[derive(Debug, Default)]
pub(super) struct Telling {
    has_come: bool,
    is_urgent: bool,
    told_at: Option<Instant>,
    told_paused: Option<PauseReason>,
}

impl Telling {
    /// There is something to tell, among it that the virtual CPUs stand still for this reason, or do not.
    pub(super) fn come(&mut self, paused: &Option<PauseReason>) {
        self.has_come = true;
        self.is_urgent |= self.told_paused != *paused;
    }

    /// When it is to be told; `None` while there is nothing.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let due = self.told_at.filter(|_| !self.is_urgent).map_or(now, |told| told + TELL_INTERVAL);
        self.has_come.then_some(due)
    }

    /// All was told at `now`.
    pub(super) fn told(&mut self, paused: Option<PauseReason>, now: Instant) {
        *self = Self { told_at: Some(now), told_paused: paused, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::session::{EndRequest, PanicReport};

    #[test]
    fn verdicts_are_states_of_kubevirt() {
        use {
            MachineState::{Crashed, ShutOff},
            StateReason as Reason,
        };
        let line = || "x".to_owned();
        for (verdict, expected) in [
            (Verdict::PoweredOff, (ShutOff, Reason::Shutdown)),
            (Verdict::Rebooted, (ShutOff, Reason::Shutdown)),
            (Verdict::Destroyed, (ShutOff, Reason::Destroyed)),
            (Verdict::Ended(EndRequest::LeaveKey), (ShutOff, Reason::Destroyed)),
            (Verdict::Panicked { line: None }, (Crashed, Reason::Panicked)),
            (Verdict::VmmFailed { reason: line() }, (Crashed, Reason::Crashed)),
        ] {
            assert_eq!(ending(&verdict), expected, "{verdict:?}");
        }
    }

    #[test]
    fn progress_becomes_a_status_with_the_times_of_the_calendar() {
        let ms = |milliseconds| Some(Duration::from_millis(milliseconds));
        let mut status = MachineStatus::default();
        status.timeline.pulled = Some(5);
        let progress = Progress {
            timeline: Timeline { prepared: ms(10), vmm_ready: ms(90), ..Timeline::default() },
            paused: Some(PauseReason::IoError),
            panic: Some(PanicReport {
                at: Duration::from_millis(700),
                line: None,
                tail: vec!["last".into()],
            }),
            reboots: 2,
            is_agent_port_open: true,
        };
        tell(&mut status, &progress, 1_000);
        assert_eq!((status.state, status.reason), (MachineState::Paused, StateReason::IoError));
        assert_eq!(
            status.timeline,
            BootTimeline {
                pulled: Some(5),
                prepared: Some(1_010),
                vmm_ready: Some(1_090),
                ..BootTimeline::default()
            }
        );
        assert_eq!(status.panic, Some(GuestPanic { at: 1_700, line: None, tail: vec!["last".into()] }));
        assert_eq!(status.reboots, 2);
    }

    #[test]
    fn each_change_counts_once_and_no_change_does_not() {
        let board = Board::default();
        let mut watch = board.watch();
        board.change(|status| status.reboots = 1);
        board.change(|status| status.reboots = 1);
        assert_eq!(board.current().revision, 1);
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        board.change(|_| {});
        assert!(!watch.has_changed().unwrap());
    }

    #[test]
    fn what_a_guest_can_repeat_is_told_once_a_second_and_a_pause_at_once() {
        let now = Instant::now();
        let later = now + Duration::from_millis(300);
        let mut news = Telling::default();
        assert_eq!(news.due(now), None);
        news.come(&None);
        assert_eq!(news.due(now), Some(now), "the first is told at once");
        news.told(None, now);
        assert_eq!(news.due(later), None);
        news.come(&None);
        assert_eq!(news.due(later), Some(now + TELL_INTERVAL));
        news.come(&Some(PauseReason::Requested));
        assert_eq!(news.due(later), Some(later));
        news.told(Some(PauseReason::Requested), later);
        news.come(&Some(PauseReason::Requested));
        assert_eq!(news.due(later), Some(later + TELL_INTERVAL));
    }

    #[test]
    fn without_a_machine_the_end_is_an_orderly_one() {
        let board = Board::default();
        board.change(|status| End::before_a_machine().tell(status));
        let status = board.current();
        assert_eq!((status.state, status.reason), (MachineState::ShutOff, StateReason::Destroyed));
        assert!(status.timeline.ended.is_some());
    }
}
