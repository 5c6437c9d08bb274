//! By when a launcher that was told to end has to.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::super::shape::MOST_GRACE_SECONDS;
use super::Worker;

/// What a launcher has when its Pod was removed by force (`minimumGracePeriodInSeconds` of a kubelet).
const FORCED_GRACE: Duration = Duration::from_secs(2);

/// When a launcher that was told to end is killed.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndBy {
    /// What it was computed from: a change of it moves the end.
    grace: Duration,
    pub at: Instant,
}

impl Worker {
    /// Moves the end of a launcher that was told, when its Pod's grace has changed. It is only ever moved forward.
    pub(super) fn update_end(&mut self) {
        let grace = self.grace();
        if self.end_by.is_some_and(|end_by| end_by.grace == grace) {
            return;
        }
        let at = Instant::now() + self.remaining(grace);
        let at = self.end_by.map_or(at, |end_by| end_by.at.min(at));
        self.end_by = Some(EndBy { grace, at });
    }

    /// How long the launcher may take to end, from the moment when that was asked for.
    fn grace(&self) -> Duration {
        let of_record = self.runtime.as_ref().map_or(0, |runtime| runtime.record.grace_seconds);
        let of_pod = self.pod.as_deref().and_then(|pod| pod.metadata.deletion_grace_period_seconds);
        let seconds = match self.gone {
            Some(true) => return FORCED_GRACE,
            Some(false) => of_record,
            None => of_pod.and_then(|grace| u64::try_from(grace).ok()).unwrap_or(of_record),
        };
        Duration::from_secs(seconds.min(MOST_GRACE_SECONDS))
    }

    /// What is left of `grace`: less than all of it when its Pod was deleted some time ago. A clock that was set back
    /// does not make it longer.
    fn remaining(&self, grace: Duration) -> Duration {
        let deletion = self.pod.as_deref().and_then(|pod| pod.metadata.deletion_timestamp.as_ref());
        match deletion.filter(|_| self.gone.is_none()) {
            Some(at) => {
                let left = at.0.duration_since(Timestamp::now());
                Duration::try_from(left).unwrap_or_default().min(grace)
            }
            None => grace,
        }
    }
}
