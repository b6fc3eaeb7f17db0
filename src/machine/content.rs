//! What a control record shows by itself, before anything is known of the log: the first reasons of RULES §5, in their order.

use std::collections::BTreeMap;

use crate::model::limits::{
    CONTROL_BYTES_MAX, DIMENSION_KEY_BYTES_MAX, LABEL_BYTES_MAX, METERS_PER_CALL_MAX, ROLLUP_DIMENSIONS_MAX, SCALE_MAX,
    WORDS_BYTES_MAX,
};
use crate::model::quantity::Quantity;
use crate::model::reject::{Reject, RejectReason};
use crate::wire::check::is_known_meter;
use crate::wire::control_fields;
use crate::wire::pb::{self, control::Body};

/// Checks it; `dated` asks for `issued_at`, too.
pub(super) fn check(control: &pb::Control, dated: bool, record_bytes: usize) -> Result<(), Reject> {
    control_fields::check(control, dated)?;
    if let Some(Body::Correction(correction)) = &control.body {
        let unknown = |q: &&pb::Quantity| pb::Provenance::try_from(q.provenance).is_err();
        if let Some(quantity) = correction.quantities.iter().find(unknown) {
            return Err(Reject::new(
                RejectReason::UnknownEnum,
                "correction.quantities",
                format!("provenance {}", quantity.provenance),
            ));
        }
        quantities_of(correction)?;
    }
    check_size(control, record_bytes)
}

fn check_size(control: &pb::Control, record_bytes: usize) -> Result<(), Reject> {
    let within = |field: &'static str, found: usize, limit: usize, of: &str| {
        if found <= limit {
            return Ok(());
        }
        let detail = format!("{found} {of}; at most {limit}");
        Err(Reject::new(RejectReason::TooLarge, field, detail))
    };
    let bytes = |field, text: &str, limit| within(field, text.len(), limit, "bytes");
    within("record", record_bytes, CONTROL_BYTES_MAX, "bytes")?;
    bytes("control.actor", &control.actor, WORDS_BYTES_MAX)?;
    match &control.body {
        Some(Body::Correction(correction)) => {
            bytes("correction.reason", &correction.reason, WORDS_BYTES_MAX)?;
            let meters = correction.quantities.len();
            within("correction.quantities", meters, METERS_PER_CALL_MAX, "meters")?;
            let mut quantities = correction.quantities.iter();
            quantities.try_for_each(|q| bytes("correction.quantities", &q.meter, LABEL_BYTES_MAX))
        }
        Some(Body::Policy(policy)) => {
            let names = policy.rollup_dimensions.as_ref().map_or(&[][..], |names| &names.names);
            let field = "policy.rollup_dimensions";
            within(field, names.len(), ROLLUP_DIMENSIONS_MAX, "names")?;
            names
                .iter()
                .try_for_each(|name| bytes(field, name, DIMENSION_KEY_BYTES_MAX))
        }
        Some(Body::RateCard(card)) => card.prices.iter().try_for_each(|price| {
            [&price.product, &price.meter, &price.service]
                .into_iter()
                .try_for_each(|text| bytes("rate_card.prices", text, LABEL_BYTES_MAX))
        }),
        _ => Ok(()),
    }
}

/// The quantities of a correction, by meter.
pub(super) fn quantities_of(correction: &pb::Correction) -> Result<BTreeMap<&str, i128>, Reject> {
    let bad = |detail: String| Reject::new(RejectReason::BadQuantity, "correction.quantities", detail);
    let mut named: BTreeMap<&str, i128> = BTreeMap::new();
    for quantity in &correction.quantities {
        if !is_known_meter(&quantity.meter) {
            return Err(bad(format!("meter {:?}", quantity.meter)));
        }
        if quantity.value < 0 || quantity.scale > SCALE_MAX {
            return Err(bad(format!("value {} scale {}", quantity.value, quantity.scale)));
        }
        let amount = Quantity::from_parts(quantity.value, quantity.scale as u8);
        if named.insert(&quantity.meter, amount.0).is_some() {
            return Err(bad(format!("meter {:?} twice", quantity.meter)));
        }
    }
    Ok(named)
}
