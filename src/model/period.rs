//! Calendar months in an account's time zone, half-open, and the days and hours that usage is summed by.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, MappedLocalTime, NaiveDate, NaiveDateTime, Offset, SecondsFormat, TimeZone, Utc};
use chrono_tz::Tz;
use thiserror::Error;

use super::Ms;

const DAY_MS: Ms = 86_400_000;
const HOUR_MS: Ms = 3_600_000;

/// Years that a month can lie in: those of RFC 3339.
const YEARS: std::ops::RangeInclusive<i32> = 0..=9_999;

/// A calendar month: year × 12 + month − 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(pub u32);

/// Not a month such as `2026-09`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a month; write it as 2026-09")]
pub struct NotAMonth(pub String);

impl Month {
    /// January of year 0.
    pub const MIN: Self = Self(0);
    /// After every month.
    pub const MAX: Self = Self(u32::MAX);

    /// The month after.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The month before.
    #[must_use]
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The month in which the instant lies in the zone.
    pub fn of(at: Ms, zone: Zone) -> Self {
        let (year, month) = match local_date(at, zone) {
            Some(date) => (date.year().clamp(*YEARS.start(), *YEARS.end()), date.month()),
            None if at < 0 => (*YEARS.start(), 1),
            None => (*YEARS.end(), 12),
        };
        Self(year as u32 * 12 + month - 1)
    }

    fn first_day(self) -> NaiveDate {
        NaiveDate::from_ymd_opt((self.0 / 12) as i32, self.0 % 12 + 1, 1).unwrap_or(NaiveDate::MAX)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_text(|text| f.write_str(text))
    }
}

impl Month {
    /// `2026-09`, without an allocation.
    pub fn with_text<R>(self, take: impl FnOnce(&str) -> R) -> R {
        let (year, month) = (self.0 / 12, self.0 % 12 + 1);
        let digit = |value: u32| b'0' + (value % 10) as u8;
        let text = [
            digit(year / 1_000),
            digit(year / 100),
            digit(year / 10),
            digit(year),
            b'-',
            digit(month / 10),
            digit(month),
        ];
        // Digits are UTF-8.
        take(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl FromStr for Month {
    type Err = NotAMonth;

    fn from_str(text: &str) -> Result<Self, NotAMonth> {
        let parsed = || {
            let (year, month) = text.split_once('-')?;
            let digits = |s: &str, len| s.len() == len && s.bytes().all(|b| b.is_ascii_digit());
            if !digits(year, 4) || !digits(month, 2) {
                return None;
            }
            let (year, month): (u32, u32) = (year.parse().ok()?, month.parse().ok()?);
            (1..=12).contains(&month).then(|| Self(year * 12 + month - 1))
        };
        parsed().ok_or_else(|| NotAMonth(text.to_owned()))
    }
}

/// An IANA time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Zone(Tz);

/// Not a zone of the IANA database.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not an IANA time zone; write one such as Europe/Berlin")]
pub struct NotAZone(pub String);

impl Zone {
    /// The default.
    pub const UTC: Self = Self(Tz::UTC);

    /// By its IANA name.
    pub fn parse(name: &str) -> Result<Self, NotAZone> {
        name.parse().map(Self).map_err(|_| NotAZone(name.to_owned()))
    }

    /// Its IANA name.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// What its clocks show at the instant; `None` past what a date can say.
    pub fn local(self, at: Ms) -> Option<NaiveDateTime> {
        let local = at.checked_add(self.offset_ms(at))?;
        DateTime::from_timestamp_millis(local).map(|l| l.naive_utc())
    }

    /// How far its clocks are ahead of UTC at the instant, in ms.
    fn offset_ms(self, at: Ms) -> Ms {
        if self.0 == Tz::UTC {
            return 0;
        }
        DateTime::from_timestamp_millis(at).map_or(0, |utc| {
            let offset = self.0.offset_from_utc_datetime(&utc.naive_utc());
            Ms::from(offset.fix().local_minus_utc()) * 1_000
        })
    }
}

/// A calendar day: days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i32);

impl Day {
    fn date(self) -> NaiveDate {
        NaiveDate::from_epoch_days(self.0).unwrap_or(NaiveDate::MAX)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.date().fmt(f)
    }
}

fn local_date(at: Ms, zone: Zone) -> Option<NaiveDate> {
    zone.local(at).map(|l| l.date())
}

/// The first instant of a local date. Where midnight comes twice the earlier one, where it is skipped the end of the gap.
fn start_of(date: NaiveDate, zone: Zone) -> Ms {
    let Some(midnight) = date.and_hms_opt(0, 0, 0) else {
        return Ms::MAX;
    };
    match zone.0.from_local_datetime(&midnight) {
        MappedLocalTime::Single(at) | MappedLocalTime::Ambiguous(at, _) => at.timestamp_millis(),
        MappedLocalTime::None => {
            // No zone is further than a day and some hours from UTC.
            let naive = midnight.and_utc().timestamp_millis();
            let (mut before, mut after) = (naive - 2 * DAY_MS, naive + 2 * DAY_MS);
            while after - before > 1 {
                let middle = before + (after - before) / 2;
                if local_date(middle, zone).is_some_and(|d| d >= date) {
                    after = middle;
                } else {
                    before = middle;
                }
            }
            after
        }
    }
}

/// First instant of the month in the zone, and the first after it.
pub fn bounds(month: Month, zone: Zone) -> (Ms, Ms) {
    (
        start_of(month.first_day(), zone),
        start_of(month.next().first_day(), zone),
    )
}

/// The day in which the instant lies in the zone.
pub fn day_of(at: Ms, zone: Zone) -> Day {
    let local = at.saturating_add(zone.offset_ms(at));
    Day(i32::try_from(local.div_euclid(DAY_MS)).unwrap_or(if local < 0 { i32::MIN } else { i32::MAX }))
}

/// First instant of the day in the zone, and the first after it.
pub fn day_bounds(day: Day, zone: Zone) -> (Ms, Ms) {
    if zone == Zone::UTC {
        let start = Ms::from(day.0) * DAY_MS;
        return (start, start + DAY_MS);
    }
    let next = Day(day.0.saturating_add(1));
    (start_of(day.date(), zone), start_of(next.date(), zone))
}

/// First instant of the zone's clock hour in which the instant lies.
pub fn hour_start(at: Ms, zone: Zone) -> Ms {
    let local = at.saturating_add(zone.offset_ms(at));
    at.saturating_sub(local.rem_euclid(HOUR_MS))
}

/// The instant at which the month has ended everywhere (RULES §6, the partition's control record).
pub fn end_of_month_utc_minus_12(month: Month) -> Ms {
    bounds(month, Zone::UTC).1.saturating_add(12 * HOUR_MS)
}

/// The month it still is in UTC−12.
pub fn month_in_utc_minus_12(now: Ms) -> Month {
    Month::of(now.saturating_sub(12 * HOUR_MS), Zone::UTC)
}

/// The latest month start that has passed where days begin first (RULES §7, `not_effective`).
pub fn latest_month_start_utc_plus_14(now: Ms) -> Ms {
    let month = Month::of(now.saturating_add(14 * HOUR_MS), Zone::UTC);
    bounds(month, Zone::UTC).0.saturating_sub(14 * HOUR_MS)
}

/// As RFC 3339 with milliseconds, in UTC.
pub fn rfc3339(at: Ms) -> String {
    DateTime::<Utc>::from_timestamp_millis(at).map_or_else(
        || format!("{at} ms"),
        |t| t.to_rfc3339_opts(SecondsFormat::Millis, true),
    )
}

/// An instant from RFC 3339, floored to milliseconds.
pub fn parse_rfc3339(text: &str) -> Option<Ms> {
    let at = DateTime::parse_from_rfc3339(text).ok()?;
    Some(at.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Ms {
        parse_rfc3339(text).unwrap_or(Ms::MIN)
    }

    fn zone(name: &str) -> Zone {
        Zone::parse(name).unwrap_or(Zone::UTC)
    }

    fn month(text: &str) -> Month {
        text.parse().unwrap_or_default()
    }

    #[test]
    fn months_have_the_bounds_of_their_zone() {
        let cases = [
            ("UTC", "2026-09", "2026-09-01T00:00:00Z", "2026-10-01T00:00:00Z"),
            (
                "Asia/Kolkata",
                "2026-09",
                "2026-08-31T18:30:00Z",
                "2026-09-30T18:30:00Z",
            ),
            // Summer time ends in October, begins in March.
            (
                "Europe/Berlin",
                "2026-10",
                "2026-09-30T22:00:00Z",
                "2026-10-31T23:00:00Z",
            ),
            (
                "Europe/Berlin",
                "2026-03",
                "2026-02-28T23:00:00Z",
                "2026-03-31T22:00:00Z",
            ),
            (
                "America/New_York",
                "2026-11",
                "2026-11-01T04:00:00Z",
                "2026-12-01T05:00:00Z",
            ),
        ];
        for (name, text, from, until) in cases {
            assert_eq!(bounds(month(text), zone(name)), (at(from), at(until)), "{name} {text}");
            assert_eq!(Month::of(at(from), zone(name)), month(text));
            assert_eq!(Month::of(at(from) - 1, zone(name)), month(text).prev());
        }
    }

    #[test]
    fn a_day_whose_midnight_is_skipped_begins_at_the_end_of_the_gap() {
        // Beirut went from 24:00 on 2022-03-26 to 01:00.
        let beirut = zone("Asia/Beirut");
        let day = day_of(at("2022-03-27T12:00:00Z"), beirut);
        assert_eq!(day.to_string(), "2022-03-27");
        assert_eq!(day_bounds(day, beirut).0, at("2022-03-26T22:00:00Z"));
        // Apia skipped the whole of 2011-12-30.
        let apia = zone("Pacific/Apia");
        assert_eq!(bounds(month("2012-01"), apia).0, at("2011-12-31T10:00:00Z"));
        assert_eq!(day_of(at("2011-12-30T10:00:00Z"), apia).to_string(), "2011-12-31");
    }

    #[test]
    fn hours_are_those_of_the_zones_clock() {
        let kolkata = zone("Asia/Kolkata");
        assert_eq!(
            hour_start(at("2026-09-01T12:29:59.999Z"), kolkata),
            at("2026-09-01T11:30:00Z")
        );
        assert_eq!(
            hour_start(at("2026-09-01T12:30:00Z"), kolkata),
            at("2026-09-01T12:30:00Z")
        );
    }

    #[test]
    fn texts_come_back() {
        assert_eq!(month("2026-09").to_string(), "2026-09");
        for bad in ["2026-13", "2026-9", "26-09", "2026-09-01", "", "2026-0a"] {
            assert!(bad.parse::<Month>().is_err(), "{bad}");
        }
        assert_eq!(rfc3339(at("2026-09-01T00:00:01.250999Z")), "2026-09-01T00:00:01.250Z");
        assert!(Zone::parse("Mars/Olympus").is_err());
        assert_eq!(
            latest_month_start_utc_plus_14(at("2026-09-30T09:59:59Z")),
            at("2026-08-31T10:00:00Z")
        );
        assert_eq!(
            latest_month_start_utc_plus_14(at("2026-09-30T10:00:00Z")),
            at("2026-09-30T10:00:00Z")
        );
    }
}
