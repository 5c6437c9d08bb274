//! How far history is to be forgotten. Pure: the time comes in.

use std::collections::VecDeque;

use super::log::Change;
use super::types::HistoryLimits;

/// Changes that are remembered as one are at most this far apart, in milliseconds,
const STEP_MILLISECONDS: i64 = 1000;

/// and this many.
const STEP_EVENTS: u64 = 256;

/// Some changes in a row.
#[derive(Debug, Clone, Copy)]
struct Step {
    first_at: i64,
    /// The newest of them: its time, its revision.
    last_at: i64,
    last: u64,
    bytes: u64,
}

/// How old and how large the history is, coarsely.
#[derive(Debug, Default)]
pub(super) struct Ages {
    steps: VecDeque<Step>,
    bytes: u64,
}

impl Ages {
    /// Takes in the next change.
    pub(super) fn add(&mut self, change: Change) {
        self.bytes += change.bytes;
        if let Some(step) = self.steps.back_mut()
            && !change.revision.is_multiple_of(STEP_EVENTS)
            && (0..STEP_MILLISECONDS).contains(&(change.at - step.first_at))
        {
            step.last_at = change.at;
            step.last = change.revision;
            step.bytes += change.bytes;
            return;
        }
        let Change { revision, at, bytes } = change;
        self.steps.push_back(Step { first_at: at, last_at: at, last: revision, bytes });
    }

    /// The revision that history need not go back beyond, at the time `now` (milliseconds since 1970) and the revision
    /// `current`; at least `floor`.
    pub(super) fn target(&self, limits: &HistoryLimits, now: i64, current: u64, floor: u64) -> u64 {
        let oldest = now.saturating_sub(i64::try_from(limits.max_age.as_millis()).unwrap_or(i64::MAX));
        let mut target = floor.max(current.saturating_sub(limits.max_events));
        let mut bytes = self.bytes;
        for step in &self.steps {
            if step.last_at > oldest && bytes <= limits.max_bytes {
                break;
            }
            target = target.max(step.last);
            bytes -= step.bytes;
        }
        target.min(current)
    }

    /// Drops what is not after `floor`.
    pub(super) fn forget(&mut self, floor: u64) {
        while let Some(step) = self.steps.front().filter(|step| step.last <= floor) {
            self.bytes -= step.bytes;
            self.steps.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(max_events: u64, max_age: u64, max_bytes: u64) -> HistoryLimits {
        HistoryLimits {
            max_events,
            max_age: Duration::from_secs(max_age),
            max_bytes,
            ..HistoryLimits::default()
        }
    }

    #[test]
    fn every_limit_counts_alone() {
        let mut ages = Ages::default();
        for revision in 2..=11 {
            ages.add(Change { revision, at: i64::from(revision as i32) * 10_000, bytes: 100 });
        }
        let target = |limits| ages.target(&limits, 110_000, 11, 1);
        assert_eq!(target(limits(100, 1000, 10_000)), 1);
        assert_eq!(target(limits(4, 1000, 10_000)), 7);
        assert_eq!(target(limits(100, 50, 10_000)), 6);
        assert_eq!(target(limits(100, 1000, 300)), 8);
        assert_eq!(target(limits(0, 0, 0)), 11);
    }

    #[test]
    fn changes_of_one_second_are_one_step() {
        let mut ages = Ages::default();
        for revision in 2..=5000 {
            ages.add(Change { revision, at: 500, bytes: 1 });
        }
        assert!(ages.steps.len() < 30, "{}", ages.steps.len());
        assert_eq!(ages.bytes, 4999);
        ages.forget(2559);
        assert_eq!(ages.bytes, 5000 - 2559);
        assert_eq!(ages.target(&limits(10_000, 1, 10_000), 1500, 5000, 2559), 5000);
        assert_eq!(ages.target(&limits(10_000, 1, 10_000), 1499, 5000, 2559), 2559);
    }
}
