//! How long to wait before another try, when instances end without ever having run (`status.startFailure`).

use jiff::{SignedDuration, Timestamp};
use manifest::Time;
use manifest::types::{VirtualMachineInstance, VirtualMachineStartFailure as StartFailure};

use super::instance;
use super::strategy::Strategy;

/// The longest wait in seconds (`maxCrashLoopBackoffDelay`).
pub const MOST_SECONDS: u64 = 300;

/// Failures after which the wait grows no more: 10·6² is over the longest wait.
const MOST_COUNTED: u64 = 6;

/// What is recorded of failures to start, once `instance` has been seen. `random` spreads the tries of many machines.
pub fn next(
    before: Option<&StartFailure>,
    strategy: &Strategy,
    instance: Option<&VirtualMachineInstance>,
    now: Timestamp,
    random: u64,
) -> Option<StartFailure> {
    if matches!(strategy, Strategy::Manual | Strategy::Halted | Strategy::WaitAsReceiver) {
        return None;
    }
    let Some(instance) = instance else {
        return before.cloned();
    };
    if instance::has_run(instance) || instance::phase(instance) == "Running" {
        return None;
    }
    let uid = instance::uid(instance);
    let is_known = before.is_some_and(|before| before.last_failed_vmi_uid.as_deref() == Some(uid));
    if !instance::is_final(instance) || is_known {
        return before.cloned();
    }
    let count = before.and_then(|before| before.consecutive_fail_count).unwrap_or(0).max(0).saturating_add(1);
    let seconds = delay_seconds(u64::try_from(count).unwrap_or(1), random);
    let retry_after = now + SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(0));
    Some(StartFailure {
        consecutive_fail_count: Some(count),
        last_failed_vmi_uid: Some(uid.to_owned()),
        retry_after_timestamp: Some(Time(retry_after)),
    })
}

/// Seconds to wait after `count` failures in a row (1 or more): 10·n² and at most half as much again, 300 at most.
pub fn delay_seconds(count: u64, random: u64) -> u64 {
    let square = count.min(MOST_COUNTED).pow(2);
    (10 * square + random % (5 * square + 1)).min(MOST_SECONDS)
}

/// How long there is still to wait, or `None` when the next try is due.
pub fn remaining(failure: Option<&StartFailure>, now: Timestamp) -> Option<SignedDuration> {
    let Time(retry_after) = failure?.retry_after_timestamp.as_ref()?;
    let left = retry_after.duration_since(now);
    // More than the longest wait is left when the clock has been set back: then the wait means nothing.
    let longest = SignedDuration::from_secs(MOST_SECONDS as i64);
    (left > SignedDuration::ZERO && left <= longest).then_some(left)
}
