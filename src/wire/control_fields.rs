//! What every control record must have, and its ids: the first reasons of RULES §5, the same for protobuf and JSON.

use super::check::{id_fault, is_good_id};
use super::operator_keys::is_key_id;
use super::pb::{self, control::Body};
use crate::model::reject::{Reject, RejectReason};

/// Says that a field is absent or empty.
pub fn missing(field: &'static str) -> Reject {
    Reject::new(RejectReason::MissingField, field, "absent or empty")
}

/// Ids of a body that must be there, and those that may be empty.
fn ids_of(body: &Body) -> (Vec<(&'static str, &str)>, Vec<(&'static str, &str)>) {
    match body {
        Body::AccountProfile(profile) => (vec![("account_profile.account_id", &profile.account_id)], vec![]),
        Body::Correction(correction) => (
            vec![
                ("correction.account_id", &correction.account_id),
                ("correction.call_id", &correction.call_id),
            ],
            vec![],
        ),
        Body::HoldClose(hold) => (vec![], vec![("hold_close.account_id", &hold.account_id)]),
        Body::ReleaseClose(release) => (vec![], vec![("release_close.account_id", &release.account_id)]),
        Body::OperatorKeys(keys) => {
            let added = keys
                .add
                .iter()
                .map(|key| ("operator_keys.add.key_id", key.key_id.as_str()));
            let removed = keys.remove.iter().map(|id| ("operator_keys.remove", id.as_str()));
            (added.chain(removed).collect(), vec![])
        }
        Body::Policy(_) | Body::RateCard(_) => (vec![], vec![]),
    }
}

/// What else must be there.
fn missing_in(body: &Body) -> Option<&'static str> {
    match body {
        Body::Correction(correction) if correction.bill.is_none() => Some("correction.bill"),
        Body::Correction(correction) if correction.reason.is_empty() => Some("correction.reason"),
        Body::RateCard(card) if card.effective_from.is_none() => Some("rate_card.effective_from"),
        Body::HoldClose(hold) if hold.period.is_empty() => Some("hold_close.period"),
        Body::ReleaseClose(release) if release.period.is_empty() => Some("release_close.period"),
        Body::OperatorKeys(keys) if keys.add.is_empty() && keys.remove.is_empty() => Some("operator_keys"),
        _ => None,
    }
}

fn check_id(field: &'static str, id: &str) -> Result<(), Reject> {
    if !is_good_id(id) {
        let detail = format!("{} bytes, or control characters", id.len());
        return Err(Reject::new(RejectReason::BadId, field, detail).telling(id_fault(id)));
    }
    if field.starts_with("operator_keys") && !is_key_id(id) {
        return Err(Reject::new(RejectReason::BadId, field, format!("{id:?} has a colon")));
    }
    Ok(())
}

/// `missing_field`, then `bad_id`; `dated` asks for `issued_at`, too.
pub fn check(control: &pb::Control, dated: bool) -> Result<(), Reject> {
    if control.id.is_empty() {
        return Err(missing("control.id"));
    }
    let Some(body) = &control.body else {
        return Err(missing("control.body"));
    };
    if dated && control.issued_at.is_none() {
        return Err(missing("control.issued_at"));
    }
    let (needed, others) = ids_of(body);
    if let Some((field, _)) = needed.iter().find(|(_, id)| id.is_empty()) {
        return Err(missing(field));
    }
    if let Some(field) = missing_in(body) {
        return Err(missing(field));
    }
    check_id("control.id", &control.id)?;
    needed
        .into_iter()
        .chain(others)
        .try_for_each(|(field, id)| check_id(field, id))
}
