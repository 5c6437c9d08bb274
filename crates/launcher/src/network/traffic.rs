//! What a guest sends and receives, counted where its frames pass, and told in a file of the Pod's directory: a scrape of a
//! thousand machines then costs no more than reading, and wakes no launcher.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::sleep;

/// How often the file is written while there is traffic.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// What has gone over a guest's card since its machine was started, as the guest sees it; Ethernet headers included, as
/// libvirt counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    /// Name of the interface in the manifest.
    pub interface: String,
    /// Bytes to the guest.
    pub receive_bytes: u64,
    /// Frames to the guest.
    pub receive_packets: u64,
    /// Bytes from the guest.
    pub transmit_bytes: u64,
    /// Frames from the guest.
    pub transmit_packets: u64,
}

/// The counters of a card.
#[derive(Debug, Default)]
pub(super) struct Counters {
    interface: String,
    received: Counter,
    transmitted: Counter,
    has_changed: Notify,
}

/// One direction, which one task counts at a time.
#[derive(Debug, Default)]
struct Counter {
    bytes: AtomicU64,
    packets: AtomicU64,
}

impl Counter {
    fn add(&self, length: usize) {
        self.bytes.fetch_add(length as u64, Ordering::Relaxed);
        self.packets.fetch_add(1, Ordering::Relaxed);
    }
}

impl Counters {
    /// Those of the card of this interface.
    pub fn new(interface: &str) -> Self {
        Self { interface: interface.to_owned(), ..Self::default() }
    }

    /// The guest has got a frame of this length.
    pub fn receive(&self, length: usize) {
        self.received.add(length);
        self.has_changed.notify_one();
    }

    /// It has sent one.
    pub fn transmit(&self, length: usize) {
        self.transmitted.add(length);
        self.has_changed.notify_one();
    }

    fn current(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            interface: self.interface.clone(),
            receive_bytes: read(&self.received.bytes),
            receive_packets: read(&self.received.packets),
            transmit_bytes: read(&self.transmitted.bytes),
            transmit_packets: read(&self.transmitted.packets),
        }
    }

    /// Keeps the file at `path` up to date, a [`Traffic`]. Goes on until it is dropped.
    pub async fn tell(&self, path: &Path) {
        loop {
            if let Err(error) = crate::pod_dir::write_document(path, &self.current()) {
                tracing::warn!(path = %path.display(), %error, "the guest's traffic is no longer told");
                return std::future::pending().await;
            }
            self.has_changed.notified().await;
            sleep(TELL_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn the_file_follows_the_counters() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("traffic.json");
        let counters = Counters::new("default");
        let told = async |receive: (u64, u64), transmit: (u64, u64)| {
            let expected = Traffic {
                interface: "default".to_owned(),
                receive_bytes: receive.0,
                receive_packets: receive.1,
                transmit_bytes: transmit.0,
                transmit_packets: transmit.1,
            };
            loop {
                match std::fs::read(&path) {
                    Ok(text) if serde_json::from_slice::<Traffic>(&text).unwrap() == expected => return,
                    _ => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let looking = async {
            told((0, 0), (0, 0)).await;
            counters.receive(60);
            counters.transmit(1500);
            counters.transmit(1000);
            told((60, 1), (2500, 2)).await;
        };
        tokio::select! {
            () = counters.tell(&path) => unreachable!("it goes on"),
            looked = tokio::time::timeout(Duration::from_secs(60), looking) => looked.unwrap(),
        }
    }
}
