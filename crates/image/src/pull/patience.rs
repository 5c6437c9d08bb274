//! How long somebody else's download is waited for.

use std::time::{Duration, Instant};

/// When the user is told for the first time.
const FIRST_TOLD: Duration = Duration::from_secs(2);

/// When the user is told again.
const TOLD_AGAIN: Duration = Duration::from_secs(60);

/// A download that does not grow for so long is stuck. Ten times as long as a server may be silent by default: a process
/// that lives has tried again, or given up, several times by then.
const STUCK: Duration = Duration::from_secs(300);

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Wait on.
    Wait,
    /// The same, and tell the user.
    Tell,
    /// Stop: nothing has arrived for so long.
    GiveUp(Duration),
}

/// Somebody else's download, as it was last seen.
#[derive(Default)]
pub(super) struct Patience {
    seen: Option<Seen>,
}

struct Seen {
    tell_at: Instant,
    grown_at: Instant,
    partial_bytes: u64,
}

impl Patience {
    /// Judges the download by how much of it is there.
    pub(super) fn look(&mut self, now: Instant, partial_bytes: u64) -> Verdict {
        let seen = self.seen.get_or_insert(Seen { tell_at: now + FIRST_TOLD, grown_at: now, partial_bytes });
        // A download that begins anew shrinks first.
        if seen.partial_bytes != partial_bytes {
            seen.partial_bytes = partial_bytes;
            seen.grown_at = now;
        }
        let still = now.duration_since(seen.grown_at);
        if still >= STUCK {
            return Verdict::GiveUp(still);
        }
        if now >= seen.tell_at {
            seen.tell_at = now + TOLD_AGAIN;
            return Verdict::Tell;
        }
        Verdict::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_wait_is_told_again_and_again_but_not_all_the_time() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let told: Vec<u64> = (0..600_u64)
            .filter(|second| {
                // It grows all the time.
                patience.look(start + Duration::from_secs(*second), second + 1) == Verdict::Tell
            })
            .collect();
        assert_eq!(told, [2, 62, 122, 182, 242, 302, 362, 422, 482, 542]);
    }

    #[test]
    fn a_download_that_does_not_grow_is_given_up() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        assert_eq!(patience.look(at(0), 10), Verdict::Wait);
        assert_eq!(patience.look(at(100), 11), Verdict::Tell);
        assert_ne!(patience.look(at(399), 11), Verdict::GiveUp(Duration::from_secs(299)));
        assert_eq!(patience.look(at(400), 11), Verdict::GiveUp(STUCK));
    }
}
