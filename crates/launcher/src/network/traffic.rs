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
    /// Of the launchers of earlier versions it is not known.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
}

/// What did not get on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// Datagrams to the guest that are too long for its card.
    pub receive_packets_dropped: u64,
    /// Frames from the guest that lead nowhere: what is no IPv4, what is for loopback addresses, fragments for the gateway,
    /// what is for the outside where there is none; and datagrams of which there are too many at a time.
    pub transmit_packets_dropped: u64,
    /// Frames from the guest that the way outside has failed to take.
    pub transmit_errors: u64,
}

/// The counters of a card.
#[derive(Debug, Default)]
pub(super) struct Counters {
    interface: String,
    received: Counter,
    transmitted: Counter,
    transmit_errors: AtomicU64,
    has_changed: Notify,
}

/// One direction.
#[derive(Debug, Default)]
struct Counter {
    bytes: AtomicU64,
    packets: AtomicU64,
    dropped: AtomicU64,
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

    /// Something for the guest is dropped.
    pub fn drop_received(&self) {
        self.lose(&self.received.dropped);
    }

    /// Something of the guest's is dropped.
    pub fn drop_transmitted(&self) {
        self.lose(&self.transmitted.dropped);
    }

    /// The way outside has failed to take a frame of the guest's.
    pub fn fail_transmitted(&self) {
        self.lose(&self.transmit_errors);
    }

    fn lose(&self, counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
        self.has_changed.notify_one();
    }

    pub(super) fn current(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            interface: self.interface.clone(),
            receive_bytes: read(&self.received.bytes),
            receive_packets: read(&self.received.packets),
            transmit_bytes: read(&self.transmitted.bytes),
            transmit_packets: read(&self.transmitted.packets),
            lost: Some(Lost {
                receive_packets_dropped: read(&self.received.dropped),
                transmit_packets_dropped: read(&self.transmitted.dropped),
                transmit_errors: read(&self.transmit_errors),
            }),
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
        let told = async |receive: (u64, u64), transmit: (u64, u64), lost: Lost| {
            let expected = Traffic {
                interface: "default".to_owned(),
                receive_bytes: receive.0,
                receive_packets: receive.1,
                transmit_bytes: transmit.0,
                transmit_packets: transmit.1,
                lost: Some(lost),
            };
            loop {
                match std::fs::read(&path) {
                    Ok(text) if serde_json::from_slice::<Traffic>(&text).unwrap() == expected => return,
                    _ => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let looking = async {
            told((0, 0), (0, 0), Lost::default()).await;
            counters.receive(60);
            counters.transmit(1500);
            counters.transmit(1000);
            told((60, 1), (2500, 2), Lost::default()).await;
            counters.drop_received();
            counters.drop_transmitted();
            counters.drop_transmitted();
            for _ in 0..3 {
                counters.fail_transmitted();
            }
            let lost = Lost { receive_packets_dropped: 1, transmit_packets_dropped: 2, transmit_errors: 3 };
            told((60, 1), (2500, 2), lost).await;
        };
        tokio::select! {
            () = counters.tell(&path) => unreachable!("it goes on"),
            looked = tokio::time::timeout(Duration::from_secs(60), looking) => looked.unwrap(),
        }
    }

    #[test]
    fn an_earlier_launcher_says_nothing_of_what_is_lost() {
        let told = r#"{"interface":"default","receiveBytes":60,"receivePackets":1,"transmitBytes":0,"transmitPackets":0}"#;
        let traffic: Traffic = serde_json::from_str(told).unwrap();
        assert_eq!((traffic.receive_bytes, &traffic.lost), (60, &None));
        assert_eq!(serde_json::to_string(&traffic).unwrap(), told);
    }
}
