//! RULES §6: an account's calendar months, stored without gap or overlap.

use chrono::{DateTime, Datelike, Duration, LocalResult, NaiveDate, TimeZone, Utc};
use chrono_tz::Tz;

/// A calendar month: year and month from 1.
pub type Month = (i32, u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    pub month: Month,
    pub from: i64,
    pub until: i64,
    pub zone: Tz,
    pub close_due: i64,
    pub closed: bool,
}

pub fn name(month: Month) -> String {
    format!("{:04}-{:02}", month.0, month.1)
}

/// Whether it is a month's name, as in "2026-09".
pub fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let digits =
        |range: std::ops::Range<usize>| bytes.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit));
    let month = text.get(5..7).and_then(|month| month.parse::<u32>().ok());
    bytes.len() == 7
        && digits(0..4)
        && bytes.get(4) == Some(&b'-')
        && digits(5..7)
        && month.is_some_and(|month| (1..=12).contains(&month))
}

fn next(month: Month) -> Month {
    if month.1 == 12 {
        (month.0.saturating_add(1), 1)
    } else {
        (month.0, month.1.saturating_add(1))
    }
}

fn previous(month: Month) -> Month {
    if month.1 == 1 {
        (month.0.saturating_sub(1), 12)
    } else {
        (month.0, month.1.saturating_sub(1))
    }
}

/// The month's first instant in a zone. Where a clock change skips midnight it is the first one after the gap.
fn start(month: Month, zone: Tz) -> Option<i64> {
    let midnight = NaiveDate::from_ymd_opt(month.0, month.1, 1)?.and_hms_opt(0, 0, 0)?;
    for minutes in 0..=2 * 24 * 60 {
        let local = midnight.checked_add_signed(Duration::minutes(minutes))?;
        match zone.from_local_datetime(&local) {
            LocalResult::Single(time) => return Some(time.timestamp_millis()),
            LocalResult::Ambiguous(one, other) => {
                return Some(one.timestamp_millis().min(other.timestamp_millis()));
            }
            LocalResult::None => {}
        }
    }
    None
}

/// The day of an instant in a zone.
pub fn day(at: i64, zone: Tz) -> Option<NaiveDate> {
    let local = DateTime::<Utc>::from_timestamp_millis(at)?.with_timezone(&zone);
    Some(local.date_naive())
}

fn month_of(at: i64, zone: Tz) -> Option<Month> {
    let local = DateTime::<Utc>::from_timestamp_millis(at)?.with_timezone(&zone);
    Some((local.year(), local.month()))
}

/// The latest month start already passed in UTC+14.
pub fn latest_start_in_utc_plus_14(clock: i64) -> Option<i64> {
    let ahead = 14 * super::HOUR;
    let local_month = month_of(clock.checked_add(ahead)?, Tz::UTC)?;
    start(local_month, Tz::UTC)?.checked_sub(ahead)
}

/// The stored periods of an account, in order, after storing what is needed to have the one with this instant.
/// `zone` is that of the profile as it is now. `None` if the calendar has no such month.
pub fn needed(stored: &[Period], at: i64, zone: Tz, close_grace: i64) -> Option<Vec<Period>> {
    let new = |month: Month, from: i64, until: i64, zone: Tz| Period {
        month,
        from,
        until,
        zone,
        close_due: until.saturating_add(close_grace),
        closed: false,
    };
    let mut periods = stored.to_vec();
    if periods.is_empty() {
        let month = month_of(at, zone)?;
        periods.push(new(month, start(month, zone)?, start(next(month), zone)?, zone));
    }
    // Later ones: in the zone of the profile as it is now.
    while let Some(latest) = periods.last()
        && at >= latest.until
    {
        let month = next(latest.month);
        let period = new(month, latest.until, start(next(month), zone)?, zone);
        periods.push(period);
    }
    // Earlier ones: in the zone of the one after.
    while let Some(earliest) = periods.first()
        && at < earliest.from
    {
        let month = previous(earliest.month);
        let period = new(month, start(month, earliest.zone)?, earliest.from, earliest.zone);
        periods.insert(0, period);
    }
    Some(periods)
}
