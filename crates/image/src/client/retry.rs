//! When a failed request is made again, and after how long.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use super::error::RegistryError;
use crate::settings::RetryPolicy;

/// What happens after a failed attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try again after this pause.
    Again(Duration),
    /// It is over.
    GiveUp,
}

/// Decides after attempt number `attempt` (the first is 1) failed with `error`.
pub(super) fn decide(policy: &RetryPolicy, attempt: u32, error: &RegistryError) -> Next {
    if attempt >= policy.attempts || !error.may_pass() {
        return Next::GiveUp;
    }
    let backoff = policy
        .first_delay
        .saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)))
        .min(policy.longest_delay);
    match error.retry_after() {
        // Coming back sooner than asked for is rude, waiting longer than the user would is useless.
        Some(asked) if asked > policy.longest_delay => Next::GiveUp,
        Some(asked) => Next::Again(asked.max(jittered(backoff).min(policy.longest_delay))),
        None => Next::Again(jittered(backoff).min(policy.longest_delay)),
    }
}

/// Up to half as much again, so that many clients that failed together do not come back together.
fn jittered(delay: Duration) -> Duration {
    // A new RandomState has new keys, which is all the randomness that this needs.
    let random = RandomState::new().hash_one(0_u8) % 1024;
    delay + delay.mul_f64(random as f64 / 2048.0)
}

/// `Retry-After` in seconds, or as a date counted from `now`. A date in the past means at once.
pub(super) fn parse_retry_after(value: &str, now: std::time::SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let moment = http_date(value)?;
    let now = now.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(moment.saturating_sub(now))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7, the only form that is still written) since 1970.
fn http_date(text: &str) -> Option<Duration> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let rest = text.split_once(", ")?.1.strip_suffix(" GMT")?;
    let mut parts = rest.split(' ');
    let day: i64 = parts.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let name = parts.next()?;
    let month = 1 + i64::try_from(MONTHS.iter().position(|month| *month == name)?).ok()?;
    let year: i64 = parts.next()?.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    let mut clock = parts.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let mut below = |limit: i64| clock.next()?.filter(|value| (0..limit).contains(value));
    // Of seconds there may be 61, for leap seconds.
    let (hours, minutes, seconds) = (below(24)?, below(60)?, below(61)?);
    // Days from 1970-01-01 in the proleptic Gregorian calendar, counting years from March so that the leap
    // day is last.
    let (year, month_from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month_from_march + 2) / 5 + day
        - 1
        - 719_468;
    u64::try_from(days * 86_400 + hours * 3600 + minutes * 60 + seconds).ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use reqwest::StatusCode;

    use super::*;

    fn failure(status: u16, retry_after: Option<u64>) -> RegistryError {
        RegistryError::ServerFailure {
            host: "r".to_owned(),
            what: "x".to_owned(),
            status: StatusCode::from_u16(status).expect("a status"),
            retry_after: retry_after.map(Duration::from_secs),
            detail: String::new(),
        }
    }

    #[test]
    fn pauses_double_with_jitter_and_are_bounded() {
        let policy = RetryPolicy {
            attempts: 6,
            first_delay: Duration::from_secs(1),
            longest_delay: Duration::from_secs(5),
        };
        for (attempt, low, high) in
            [(1, 1.0, 1.5), (2, 2.0, 3.0), (3, 4.0, 5.0), (4, 5.0, 5.0), (5, 5.0, 5.0)]
        {
            let Next::Again(delay) = decide(&policy, attempt, &failure(503, None)) else {
                panic!("gave up after attempt {attempt}")
            };
            assert!((low..=high).contains(&delay.as_secs_f64()), "{attempt}: {delay:?}");
        }
        assert_eq!(decide(&policy, 6, &failure(503, None)), Next::GiveUp);
    }

    #[test]
    fn retry_after_is_honoured_within_bounds() {
        let policy = RetryPolicy::default();
        assert_eq!(decide(&policy, 1, &failure(503, Some(7))), Next::Again(Duration::from_secs(7)));
        assert_eq!(decide(&policy, 1, &failure(503, Some(30))), Next::Again(Duration::from_secs(30)));
        assert_eq!(decide(&policy, 1, &failure(503, Some(31))), Next::GiveUp);
    }

    #[test]
    fn what_cannot_pass_is_not_tried_again() {
        let error =
            RegistryError::Forbidden { host: String::new(), what: String::new(), detail: String::new() };
        assert_eq!(decide(&RetryPolicy::default(), 1, &error), Next::GiveUp);
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        assert_eq!(parse_retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("Sat, 05 Nov 1994 08:49:37 GMT", now), Some(Duration::ZERO));
        assert_eq!(
            parse_retry_after("Thu, 29 Feb 2024 00:00:00 GMT", UNIX_EPOCH),
            Some(Duration::from_secs(1_709_164_800))
        );
        assert_eq!(parse_retry_after("soon", now), None);
        assert_eq!(parse_retry_after("-1", now), None);
        for clock in ["9223372036854775807:00:00", "24:00:00", "-1:00:00", "08:60:00", "08:49:61", "08:49"] {
            assert_eq!(parse_retry_after(&format!("Sun, 06 Nov 1994 {clock} GMT"), now), None, "{clock}");
        }
    }
}
