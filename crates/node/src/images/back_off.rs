//! When a pull that failed is tried again, as a kubelet does: 10 s, doubling to 300 s, per Pod and image.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// The first pause (kubelet `imageBackOffPeriod`).
const FIRST: Duration = Duration::from_secs(10);

/// The longest pause (kubelet `MaxImageBackOff`).
const LONGEST: Duration = Duration::from_secs(300);

/// What nobody asked about for so long after its pause is forgotten (client-go `Backoff`: twice the longest).
const MEMORY: Duration = Duration::from_secs(600);

/// A Pod's UID and an image's reference.
pub type Key = (String, String);

/// Pauses after failures.
#[derive(Debug, Default)]
pub struct BackOff {
    entries: HashMap<Key, Entry>,
}

#[derive(Debug)]
struct Entry {
    pause: Duration,
    until: Instant,
    error: String,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Pull.
    Pull,
    /// Wait so long; the last pull failed with this.
    Wait(Duration, String),
}

impl BackOff {
    /// Whose turn it is.
    pub fn turn(&self, key: &Key, now: Instant) -> Turn {
        match self.entries.get(key) {
            Some(entry) if entry.until > now => Turn::Wait(entry.until - now, entry.error.clone()),
            _ => Turn::Pull,
        }
    }

    /// A pull failed; the pause begins.
    pub fn failed(&mut self, key: Key, error: String, now: Instant) {
        self.entries.retain(|_, entry| now.saturating_duration_since(entry.until) <= MEMORY);
        let pause = self.entries.get(&key).map_or(FIRST, |entry| (entry.pause * 2).min(LONGEST));
        self.entries.insert(key, Entry { pause, until: now + pause, error });
    }

    /// A pull succeeded; the next failure is a first one.
    pub fn succeeded(&mut self, key: &Key) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_five_minutes_and_end_with_success() {
        let key = || ("uid".to_owned(), "image".to_owned());
        let mut back_off = BackOff::default();
        let mut now = Instant::now();
        assert_eq!(back_off.turn(&key(), now), Turn::Pull);
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            back_off.failed(key(), "e".to_owned(), now);
            let pause = Duration::from_secs(expected);
            assert_eq!(back_off.turn(&key(), now), Turn::Wait(pause, "e".to_owned()));
            let last = Duration::from_millis(1);
            assert_eq!(back_off.turn(&key(), now + pause - last), Turn::Wait(last, "e".to_owned()));
            now += pause;
            assert_eq!(back_off.turn(&key(), now), Turn::Pull);
        }
        let other = ("uid".to_owned(), "other".to_owned());
        assert_eq!(back_off.turn(&other, now), Turn::Pull);
        back_off.succeeded(&key());
        back_off.failed(key(), "e".to_owned(), now);
        assert_eq!(back_off.turn(&key(), now), Turn::Wait(FIRST, "e".to_owned()));
        // Long afterwards nothing is left of it.
        back_off.failed(other.clone(), "e".to_owned(), now + FIRST + MEMORY + Duration::from_secs(1));
        assert_eq!(back_off.entries.keys().collect::<Vec<_>>(), [&other]);
    }
}
