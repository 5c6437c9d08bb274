//! What a guest tells of its memory, through the driver of its balloon (QEMU, `docs/interop/virtio-balloon-stats.rst`;
//! virtio 1.2, section 5.5.6.3).

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::BALLOON;
use crate::qmp::{Qmp, QmpError};

/// How long QEMU may take for an answer. One that is later is not worth waiting for: there will be another question.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A guest's memory as the guest sees it. All amounts are the guest's own words but `actual_bytes`, and anything that fits
/// into the number. What the guest does not tell is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestMemory {
    /// Bytes that the balloon leaves to the guest; QEMU says so.
    pub actual_bytes: u64,
    /// Bytes that its system knows: without what firmware and kernel keep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Bytes that are used for nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Bytes that programs could have without swapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_bytes: Option<u64>,
    /// Bytes that hold what is on disks too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_caches_bytes: Option<u64>,
    /// Bytes read back from swap since the guest's start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_in_bytes: Option<u64>,
    /// Bytes written out to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_out_bytes: Option<u64>,
    /// Page faults that took a disk since the guest's start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// Those that took none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor_faults: Option<u64>,
}

/// One look at a guest's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalloonLook {
    /// What is told.
    pub memory: GuestMemory,
    /// When the guest told it: seconds of the host's clock since 1970, or 0 as long as it has told nothing. It stays the
    /// same while the guest has no driver for its balloon.
    pub told_at: i64,
}

/// The memory balloon of a running guest.
#[derive(Debug, Clone)]
pub struct Balloon(pub(super) Arc<Qmp>);

impl Balloon {
    /// Has QEMU ask the guest again and again, every so many seconds of the guest's clock, once the guest has a driver.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn ask_every(&self, interval_seconds: u32) -> Result<(), QmpError> {
        let arguments = json!({
            "path": path(), "property": "guest-stats-polling-interval", "value": interval_seconds,
        });
        self.0.execute("qom-set", arguments, ANSWER_LIMIT).await.map(drop)
    }

    /// What the guest has told last. Asks QEMU, and not the guest.
    ///
    /// # Errors
    /// See [`QmpError`].
    pub async fn look(&self) -> Result<BalloonLook, QmpError> {
        let arguments = json!({"path": path(), "property": "guest-stats"});
        let told = self.0.execute("qom-get", arguments, ANSWER_LIMIT).await?;
        let balloon = self.0.execute("query-balloon", Value::Null, ANSWER_LIMIT).await?;
        Ok(read(&told, &balloon))
    }
}

fn path() -> String {
    format!("/machine/peripheral/{BALLOON}")
}

fn read(told: &Value, balloon: &Value) -> BalloonLook {
    // A guest that does not know a number has QEMU say -1, as an unsigned one.
    let number = |name: &str| told["stats"][name].as_u64().filter(|number| *number != u64::MAX);
    let memory = GuestMemory {
        // QEMU tells it of every balloon.
        actual_bytes: balloon["actual"].as_u64().unwrap_or_default(),
        total_bytes: number("stat-total-memory"),
        free_bytes: number("stat-free-memory"),
        available_bytes: number("stat-available-memory"),
        disk_caches_bytes: number("stat-disk-caches"),
        swap_in_bytes: number("stat-swap-in"),
        swap_out_bytes: number("stat-swap-out"),
        major_faults: number("stat-major-faults"),
        minor_faults: number("stat-minor-faults"),
    };
    BalloonLook { memory, told_at: told["last-update"].as_i64().unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_does_not_know_is_not_told() {
        let told = json!({"last-update": 1_700_000_000, "stats": {
            "stat-htlb-pgalloc": 0, "stat-swap-out": 1, "stat-available-memory": 2, "stat-htlb-pgfail": 0,
            "stat-free-memory": 3, "stat-minor-faults": 4, "stat-major-faults": 5, "stat-total-memory": 6,
            "stat-swap-in": 7, "stat-disk-caches": u64::MAX, "stat-new": "what",
        }});
        let memory = GuestMemory {
            actual_bytes: 8,
            total_bytes: Some(6),
            free_bytes: Some(3),
            available_bytes: Some(2),
            disk_caches_bytes: None,
            swap_in_bytes: Some(7),
            swap_out_bytes: Some(1),
            major_faults: Some(5),
            minor_faults: Some(4),
        };
        assert_eq!(read(&told, &json!({"actual": 8})), BalloonLook { memory, told_at: 1_700_000_000 });

        let silent = json!({"last-update": 0, "stats": {"stat-free-memory": u64::MAX}});
        let memory = GuestMemory { actual_bytes: 8, ..GuestMemory::default() };
        assert_eq!(read(&silent, &json!({"actual": 8})), BalloonLook { memory, told_at: 0 });
        let nonsense = json!({"last-update": "now", "stats": {"stat-free-memory": -5, "stat-swap-in": {}}});
        assert_eq!(read(&nonsense, &json!(null)), BalloonLook { memory: GuestMemory::default(), told_at: 0 });
    }
}
