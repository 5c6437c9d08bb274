//! What a guest's real-time clock shows at its start, as QEMU's `-rtc base` wants it: not at all when it is the host's
//! UTC, else as a date and time.
//!
//! QEMU's own `base=localtime` knows one zone, that of its environment; and a shift it knows not at all. So both are
//! worked out here, for the moment of the start. The guest's clock then runs by itself: it does not follow a change
//! between summer and winter time, as a real machine's would not.

use std::time::SystemTime;

use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use crate::launch_spec::{Clock, SpecError};

/// What the real-time clock shows when the machine starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClockStart {
    /// `2026-11-22T19:00:00`; `None` is the host's UTC.
    pub(crate) base: Option<String>,
}

impl ClockStart {
    /// What `clock` shows at the instant `now`. Zones are read from the host's time zone database.
    ///
    /// # Errors
    /// [`SpecError::TimeZone`] for a zone that the host does not know, [`SpecError::ClockRange`] when the clock would
    /// leave the calendar.
    pub fn of(clock: &Clock, now: SystemTime) -> Result<Self, SpecError> {
        let shown = match clock {
            Clock::Utc { offset_seconds: 0 } => return Ok(Self::default()),
            Clock::Utc { offset_seconds } => {
                let out_of_range = |_| SpecError::ClockRange { offset_seconds: *offset_seconds };
                Timestamp::try_from(now)
                    .and_then(|now| now.checked_add(SignedDuration::from_secs((*offset_seconds).into())))
                    .map(|shown| Offset::UTC.to_datetime(shown))
                    .map_err(out_of_range)?
            }
            Clock::Zone { name } => {
                let unknown = |_| SpecError::TimeZone { name: name.clone() };
                let zone = TimeZone::get(name).map_err(unknown)?;
                let now = Timestamp::try_from(now).map_err(unknown)?;
                zone.to_datetime(now)
            }
        };
        Ok(Self { base: Some(shown.strftime("%Y-%m-%dT%H:%M:%S").to_string()) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    /// 2026-11-22T19:00:00.5Z, and half a year before that.
    const WINTER: Duration = Duration::from_millis(1_795_374_000_500);
    const SUMMER: Duration = Duration::from_secs(1_779_735_600);

    fn shown(clock: &Clock, since_epoch: Duration) -> Option<String> {
        ClockStart::of(clock, SystemTime::UNIX_EPOCH + since_epoch).unwrap().base
    }

    fn zone(name: &str) -> Clock {
        Clock::Zone { name: name.to_owned() }
    }

    #[test]
    fn a_clock_shows_utc_or_is_shifted_or_shows_a_zones_time() {
        let utc = |offset_seconds| Clock::Utc { offset_seconds };
        for (clock, at, expected) in [
            (utc(0), WINTER, None),
            (utc(3661), WINTER, Some("2026-11-22T20:01:01")),
            (utc(-86_400), WINTER, Some("2026-11-21T19:00:00")),
            (utc(i32::MAX), WINTER, Some("2094-12-10T22:14:07")),
            (utc(i32::MIN), WINTER, Some("1958-11-04T15:45:52")),
            (zone("UTC"), WINTER, Some("2026-11-22T19:00:00")),
            (zone("Europe/Berlin"), WINTER, Some("2026-11-22T20:00:00")),
            (zone("Europe/Berlin"), SUMMER, Some("2026-05-25T21:00:00")),
            (zone("Asia/Kolkata"), WINTER, Some("2026-11-23T00:30:00")),
        ] {
            assert_eq!(shown(&clock, at).as_deref(), expected, "{clock:?}");
        }
    }

    #[test]
    fn zones_that_are_none_are_refused() {
        for name in [
            "",
            "Europe/Atlantis",
            "../../../etc/passwd",
            "/etc/localtime",
            "Europe/Berlin\0",
            "UTC,clock=vm",
        ] {
            let error = ClockStart::of(&zone(name), SystemTime::UNIX_EPOCH).unwrap_err();
            assert_eq!(error, SpecError::TimeZone { name: name.to_owned() });
        }
    }

    #[test]
    fn a_clock_beyond_the_calendar_is_refused() {
        // The year 9999 is the last.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_000_000);
        let error = ClockStart::of(&Clock::Utc { offset_seconds: i32::MAX }, now).unwrap_err();
        assert_eq!(error, SpecError::ClockRange { offset_seconds: i32::MAX });
    }
}
