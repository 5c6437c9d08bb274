//! What a guest tells of its memory through its balloon, told in a file of the Pod's directory as its traffic is: a scrape
//! reads it and wakes nobody.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use vmm::{Balloon, BalloonLook, QmpError};

pub use vmm::GuestMemory;

use crate::session::Progress;

/// How often a guest is asked, in seconds (KubeVirt's `memBalloonStatsPeriod`). The first time comes as late after its
/// start: a machine that comes and goes is not kept from it.
const INTERVAL_SECONDS: u32 = 10;

/// How long after the first question the first look is: a driver answers within milliseconds.
const FIRST_ANSWER: Duration = Duration::from_secs(1);

/// After so many looks without news the guest has no driver any more, and what it told is no longer true.
const MOST_SILENT: u32 = 3;

/// Keeps the file at `path` up to date, a [`GuestMemory`], while the guest runs. Ends with QEMU.
pub(crate) async fn tell(balloon: Balloon, path: PathBuf, progress: watch::Receiver<Progress>) {
    let interval = Duration::from_secs(u64::from(INTERVAL_SECONDS));
    sleep(interval).await;
    if let Err(error) = balloon.ask_every(INTERVAL_SECONDS).await {
        tracing::warn!(%error, "the guest is not asked for its memory");
        return;
    }
    sleep(FIRST_ANSWER).await;
    let mut silence = Silence::default();
    let mut told = None;
    loop {
        // A guest that stands still tells nothing, and what it told stays true.
        if progress.borrow().paused.is_none() {
            match balloon.look().await {
                Ok(look) => {
                    let memory = Some(silence.heard(look));
                    if told != memory {
                        if let Err(error) = crate::pod_dir::write_document(&path, &memory) {
                            tracing::warn!(path = %path.display(), %error, "the guest's memory is no longer told");
                            return;
                        }
                        told = memory;
                    }
                }
                Err(QmpError::Closed { .. }) => return,
                Err(error) => tracing::debug!(%error, "the guest's memory is looked at later"),
            }
        }
        sleep(interval).await;
    }
}

/// How long a guest has told nothing.
#[derive(Debug, Default)]
struct Silence {
    told_at: i64,
    looks: u32,
}

impl Silence {
    /// What is to be told after a look.
    fn heard(&mut self, BalloonLook { memory, told_at }: BalloonLook) -> GuestMemory {
        self.looks = if told_at == self.told_at { self.looks.saturating_add(1) } else { 0 };
        self.told_at = told_at;
        if told_at == 0 || self.looks >= MOST_SILENT {
            return GuestMemory { actual_bytes: memory.actual_bytes, ..GuestMemory::default() };
        }
        memory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_falls_silent_is_believed_for_a_while() {
        let memory = GuestMemory { actual_bytes: 9, free_bytes: Some(5), ..GuestMemory::default() };
        let mut silence = Silence::default();
        let looks = [0, 7, 7, 7, 7, 7, 8, 8];
        let believed = looks.map(|told_at| {
            let told = silence.heard(BalloonLook { memory: memory.clone(), told_at });
            assert_eq!(told.actual_bytes, 9, "QEMU says so");
            told == memory
        });
        assert_eq!(believed, [false, true, true, true, false, false, true, true]);
    }
}
