//! Which images go when the disk fills up. Blocks.

use std::io;
use std::time::{Duration, SystemTime};

use image::store::{PruneScope, RunMode};
use image::{Reference, Store, StoreError};

use super::Thresholds;
use crate::register::Disk;

/// An image that was used so recently stays (kubelet `imageMinimumGCAge`).
const YOUNG: Duration = Duration::from_secs(120);

/// What came of looking at the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There was space enough.
    Nothing,
    /// There is space enough again.
    Enough {
        /// Bytes that were removed.
        freed_bytes: u64,
    },
    /// All that nobody uses is gone, and it was not enough.
    TooLittle {
        /// Bytes that were removed.
        freed_bytes: u64,
        /// Bytes that should have been.
        wanted_bytes: u64,
    },
}

/// Used space in percent, rounded up as a kubelet does; 0 of a file system without a size.
pub fn usage_percent(disk: &Disk) -> u64 {
    (u128::from(disk.free_bytes) * 100)
        .checked_div(u128::from(disk.total_bytes))
        .map_or(0, |free| 100 - u64::try_from(free).unwrap_or(100).min(100))
}

/// Removes what nobody uses, the longest unused first, where usage is at the upper threshold, until it is at the lower
/// one. What leases name stays. `measure` asks the store's file system.
///
/// # Errors
/// When the store or its file system cannot be read or written; what was removed until then stays removed.
pub fn collect(
    store: &Store,
    thresholds: Thresholds,
    now: SystemTime,
    measure: &dyn Fn() -> io::Result<Disk>,
) -> Result<Outcome, StoreError> {
    let measure = || {
        let path = store.root().to_path_buf();
        measure().map_err(|source| StoreError::Io { action: "ask for the space of", path, source })
    };
    let disk = measure()?;
    if usage_percent(&disk) < u64::from(thresholds.high_percent) {
        return Ok(Outcome::Nothing);
    }
    let free_percent = u128::from(100 - thresholds.low_percent.min(100));
    let enough = u64::try_from(u128::from(disk.total_bytes) * free_percent / 100).unwrap_or(u64::MAX);
    let wanted_bytes = enough.saturating_sub(disk.free_bytes);
    let mut freed_bytes = store.prune(PruneScope::Unreferenced, RunMode::Remove)?.freed_bytes();
    let mut images: Vec<_> = store.list()?.into_iter().filter(|image| !image.is_in_use).collect();
    images.sort_by_key(|image| image.last_used);
    for image in images {
        if measure()?.free_bytes >= enough {
            break;
        }
        let is_young = now.duration_since(image.last_used).unwrap_or_default() < YOUNG;
        let Some(reference) = image.reference.parse::<Reference>().ok().filter(|_| !is_young) else {
            continue;
        };
        match store.remove(&reference, RunMode::Remove) {
            Ok(report) => freed_bytes = freed_bytes.saturating_add(report.freed_bytes()),
            // Somebody came to need it, or removed it.
            Err(StoreError::InUse { .. } | StoreError::UnknownImage { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(match measure()?.free_bytes >= enough {
        true => Outcome::Enough { freed_bytes },
        false => Outcome::TooLittle { freed_bytes, wanted_bytes },
    })
}
