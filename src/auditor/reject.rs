//! RULES §5, "Rejected": what a record itself shows. The order of reasons is the callers'.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use chrono_tz::Tz;

use super::evidence::{ending_of, observer};
use super::period;
use crate::wire::pb;

const ID_BYTES: usize = 128;
const STRING_BYTES: usize = 128;
const ATTEMPTS: u32 = 255;
const PAIRS: usize = 16;
const KEY_BYTES: usize = 64;
const VALUE_BYTES: usize = 256;
const ROLLUP_DIMENSIONS: usize = 3;
const METERS_OF_A_CALL: usize = 64;
/// An operator's own words.
const WORDS_BYTES: usize = 1_024;
const METERS: [&str; 7] = [
    "input_tokens_uncached",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "bytes_in",
    "bytes_out",
    "compute_ms",
];

/// Reasons that RULES leaves to the project ("what else control records need").
pub const BAD_TIME_ZONE: &str = "bad_time_zone";
pub const BAD_CURRENCY: &str = "bad_currency";
pub const BAD_PERIOD: &str = "bad_period";
pub const BAD_OPERATOR_KEYS: &str = "bad_operator_keys";
/// Issued longer ago than the amendment window.
pub const EXPIRED: &str = "expired";

fn bad_id(id: &str) -> bool {
    id.len() > ID_BYTES || id.chars().any(char::is_control)
}

fn bad_meter(meter: &str) -> bool {
    let vendors = meter.strip_prefix("x.").is_some_and(|name| !name.is_empty());
    !(METERS.contains(&meter) || vendors)
}

fn bad_quantity(quantity: &pb::Quantity) -> bool {
    quantity.value < 0 || quantity.scale > 9 || bad_meter(&quantity.meter)
}

fn unknown_provenance(quantity: &pb::Quantity) -> bool {
    pb::Provenance::try_from(quantity.provenance).is_err()
}

/// The first of `missing_field`, `bad_id`, `unknown_enum`, `bad_quantity` that holds for an event.
pub fn event_content(event: &pb::CallEvent) -> Option<&'static str> {
    let ends = matches!(event.phase(), pb::Phase::Ended | pb::Phase::AttemptEnded);
    let end = ending_of(event);
    let no_cause = ends && end.is_none_or(|end| end.cause == 0);
    if event.account_id.is_empty()
        || event.call_id.is_empty()
        || event.phase == 0
        || event.occurred_at.is_none()
        || no_cause
    {
        return Some("missing_field");
    }
    if bad_id(&event.account_id) || bad_id(&event.call_id) {
        return Some("bad_id");
    }
    let unknown_end = end.is_some_and(|end| {
        pb::Cause::try_from(end.cause).is_err()
            || pb::Progress::try_from(end.progress).is_err()
            || pb::EndMarker::try_from(end.end_marker).is_err()
    });
    if pb::Phase::try_from(event.phase).is_err()
        || pb::Observer::try_from(event.observer).is_err()
        || pb::CallKind::try_from(event.kind).is_err()
        || unknown_end
        || event.usage.iter().any(unknown_provenance)
    {
        return Some("unknown_enum");
    }
    let invoiced_by_another = |quantity: &pb::Quantity| {
        quantity.provenance() == pb::Provenance::ProviderInvoiced && observer(event) != pb::Observer::Provider
    };
    if event
        .usage
        .iter()
        .any(|quantity| bad_quantity(quantity) || invoiced_by_another(quantity))
    {
        return Some("bad_quantity");
    }
    None
}

pub fn event_too_large(event: &pb::CallEvent) -> bool {
    let long = |text: &str| text.len() > STRING_BYTES;
    event.attempt > ATTEMPTS
        || long(&event.service)
        || long(&event.product)
        || event.usage.iter().any(|quantity| long(&quantity.meter))
        || ending_of(event).is_some_and(|end| long(&end.error_type))
        || pairs_too_large(&event.dimensions)
        || pairs_too_large(&event.native)
}

fn pairs_too_large(pairs: &BTreeMap<String, String>) -> bool {
    pairs.len() > PAIRS
        || pairs
            .iter()
            .any(|(key, value)| key.len() > KEY_BYTES || value.len() > VALUE_BYTES)
}

/// The first of `missing_field`, `bad_id`, `unknown_enum`, `bad_quantity` that holds for a control record.
/// Where others write the log, too, it must say when it was issued.
pub fn control_content(control: &pb::Control, dated: bool) -> Option<&'static str> {
    use pb::control::Body;
    let Some(body) = &control.body else {
        return Some("missing_field");
    };
    let (needed, ids): (bool, Vec<&str>) = match body {
        Body::AccountProfile(profile) => (!profile.account_id.is_empty(), vec![&profile.account_id]),
        Body::Correction(correction) => (
            !correction.account_id.is_empty()
                && !correction.call_id.is_empty()
                && correction.bill.is_some()
                && !correction.reason.is_empty(),
            vec![&correction.account_id, &correction.call_id],
        ),
        Body::Policy(_) => (true, vec![]),
        Body::RateCard(card) => (card.effective_from.is_some(), vec![]),
        Body::HoldClose(hold) => (!hold.period.is_empty(), vec![&hold.account_id]),
        Body::ReleaseClose(release) => (!release.period.is_empty(), vec![&release.account_id]),
        Body::OperatorKeys(keys) => {
            let added = keys.add.iter().map(|key| key.key_id.as_str());
            let ids: Vec<&str> = added.chain(keys.remove.iter().map(String::as_str)).collect();
            (!ids.is_empty() && ids.iter().all(|id| !id.is_empty()), ids)
        }
    };
    if control.id.is_empty() || !needed || (dated && control.issued_at.is_none()) {
        return Some("missing_field");
    }
    let key_ids = matches!(body, Body::OperatorKeys(_));
    let bad = |id: &str| bad_id(id) || (key_ids && id.contains(':'));
    if bad_id(&control.id) || ids.into_iter().any(bad) {
        return Some("bad_id");
    }
    if let Body::Correction(correction) = body {
        if correction.quantities.iter().any(unknown_provenance) {
            return Some("unknown_enum");
        }
        let meters: BTreeSet<&str> = correction
            .quantities
            .iter()
            .map(|quantity| quantity.meter.as_str())
            .collect();
        if correction.quantities.iter().any(bad_quantity) || meters.len() < correction.quantities.len() {
            return Some("bad_quantity");
        }
    }
    None
}

pub fn control_too_large(control: &pb::Control) -> bool {
    use pb::control::Body;
    let long = |text: &String| text.len() > STRING_BYTES;
    let body_too_large = match &control.body {
        Some(Body::Correction(correction)) => {
            correction.reason.len() > WORDS_BYTES
                || correction.quantities.len() > METERS_OF_A_CALL
                || correction.quantities.iter().any(|quantity| long(&quantity.meter))
        }
        Some(Body::Policy(policy)) => policy.rollup_dimensions.as_ref().is_some_and(|names| {
            names.names.len() > ROLLUP_DIMENSIONS || names.names.iter().any(|name| name.len() > KEY_BYTES)
        }),
        Some(Body::RateCard(card)) => card
            .prices
            .iter()
            .any(|price| long(&price.product) || long(&price.meter) || long(&price.service)),
        _ => false,
    };
    control.actor.len() > WORDS_BYTES || body_too_large
}

/// What else control records need.
pub fn control_else(control: &pb::Control) -> Option<&'static str> {
    use pb::control::Body;
    match &control.body {
        Some(Body::AccountProfile(profile)) => {
            let currency = profile.currency.as_bytes();
            let code = currency.len() == 3 && currency.iter().all(u8::is_ascii_uppercase);
            if zone(&profile.time_zone).is_none() {
                Some(BAD_TIME_ZONE)
            } else if !(currency.is_empty() || code) {
                Some(BAD_CURRENCY)
            } else {
                None
            }
        }
        Some(Body::HoldClose(hold)) if !period::is_name(&hold.period) => Some(BAD_PERIOD),
        Some(Body::ReleaseClose(release)) if !period::is_name(&release.period) => Some(BAD_PERIOD),
        _ => None,
    }
}

/// An account's time zone: empty is UTC.
pub fn zone(name: &str) -> Option<Tz> {
    if name.is_empty() {
        Some(Tz::UTC)
    } else {
        Tz::from_str(name).ok()
    }
}
