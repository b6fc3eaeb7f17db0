//! Control records as JSON, for those who read them: what [`super::control::from_json`] takes back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::check::instant_ms;
use super::pb::{self, control::Body};
use crate::model::period::rfc3339;

/// Writes a control record, unset fields left out.
pub fn encode(control: &pb::Control) -> Value {
    let mut object = Map::new();
    put(&mut object, "id", &control.id);
    put_instant(&mut object, "issued_at", control.issued_at.as_ref());
    put(&mut object, "actor", &control.actor);
    if control.control_version != 0 {
        put(&mut object, "control_version", &control.control_version.to_string());
    }
    if let Some(body) = &control.body {
        let (name, value) = encode_body(body);
        object.insert(name.to_owned(), value);
    }
    object.into()
}

fn put(object: &mut Map<String, Value>, name: &str, text: &str) {
    if !text.is_empty() {
        object.insert(name.to_owned(), text.into());
    }
}

fn put_instant(object: &mut Map<String, Value>, name: &str, at: Option<&prost_types::Timestamp>) {
    if let Some(at) = at {
        put(object, name, &rfc3339(instant_ms(at)));
    }
}

fn encode_body(body: &Body) -> (&'static str, Value) {
    let mut object = Map::new();
    let name = match body {
        Body::AccountProfile(profile) => {
            put(&mut object, "account_id", &profile.account_id);
            put(&mut object, "time_zone", &profile.time_zone);
            put(&mut object, "currency", &profile.currency);
            "account_profile"
        }
        Body::Correction(correction) => {
            put(&mut object, "account_id", &correction.account_id);
            put(&mut object, "call_id", &correction.call_id);
            if let Some(bill) = correction.bill {
                object.insert("bill".to_owned(), bill.into());
            }
            if !correction.quantities.is_empty() {
                let quantities: Vec<Value> = correction.quantities.iter().map(super::json::quantity_json).collect();
                object.insert("quantities".to_owned(), quantities.into());
            }
            put(&mut object, "reason", &correction.reason);
            "correction"
        }
        Body::Policy(policy) => {
            for (name, value) in [
                ("settle_grace_ms", policy.settle_grace_ms),
                ("disconnect_grace_ms", policy.disconnect_grace_ms),
                ("call_deadline_ms", policy.call_deadline_ms),
                ("task_deadline_ms", policy.task_deadline_ms),
                ("close_grace_ms", policy.close_grace_ms),
                ("amend_window_ms", policy.amend_window_ms),
                ("max_open_ms", policy.max_open_ms),
                ("call_span_ms", policy.call_span_ms),
            ] {
                if let Some(value) = value {
                    put(&mut object, name, &value.to_string());
                }
            }
            for (name, value) in [
                ("bill_unproven", policy.bill_unproven),
                ("bill_empty_disconnect", policy.bill_empty_disconnect),
                ("bill_upstream_only", policy.bill_upstream_only),
                ("bill_cancelled_task", policy.bill_cancelled_task),
            ] {
                if let Some(value) = value {
                    object.insert(name.to_owned(), value.into());
                }
            }
            if let Some(names) = &policy.rollup_dimensions {
                object.insert("rollup_dimensions".to_owned(), json!({"names": names.names}));
            }
            "policy"
        }
        Body::RateCard(card) => {
            put_instant(&mut object, "effective_from", card.effective_from.as_ref());
            let prices: Vec<Value> = card.prices.iter().map(price).collect();
            object.insert("prices".to_owned(), prices.into());
            "rate_card"
        }
        Body::HoldClose(hold) => {
            put(&mut object, "period", &hold.period);
            put(&mut object, "account_id", &hold.account_id);
            "hold_close"
        }
        Body::ReleaseClose(release) => {
            put(&mut object, "period", &release.period);
            put(&mut object, "account_id", &release.account_id);
            "release_close"
        }
        Body::OperatorKeys(keys) => {
            let add: Vec<Value> = keys.add.iter().map(operator_key).collect();
            object.insert("add".to_owned(), add.into());
            object.insert("remove".to_owned(), keys.remove.clone().into());
            "operator_keys"
        }
    };
    (name, object.into())
}

fn operator_key(key: &pb::OperatorKey) -> Value {
    let mut object = Map::new();
    put(&mut object, "key_id", &key.key_id);
    put(&mut object, "ed25519_public", &STANDARD.encode(&key.ed25519_public));
    object.into()
}

fn price(price: &pb::Price) -> Value {
    let mut object = Map::new();
    put(&mut object, "product", &price.product);
    put(&mut object, "meter", &price.meter);
    put(&mut object, "service", &price.service);
    put(&mut object, "currency", &price.currency);
    put(&mut object, "amount", &price.amount);
    if price.per != 0 {
        put(&mut object, "per", &price.per.to_string());
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::from_json;

    #[test]
    fn what_is_written_is_read_again() {
        for body in [
            json!({"account_profile": {"account_id": "acme", "time_zone": "Europe/Berlin", "currency": "EUR"}}),
            json!({"correction": {"account_id": "acme", "call_id": "c", "bill": true, "reason": "agreed",
                "quantities": [{"meter": "output_tokens", "value": "12", "provenance": "upstream_measured"}]}}),
            json!({"policy": {"close_grace_ms": "1000", "bill_unproven": false, "rollup_dimensions": {"names": ["key"]}}}),
            json!({"rate_card": {"effective_from": "2026-09-01T00:00:00.000Z",
                "prices": [{"meter": "requests", "currency": "USD", "amount": "0.5", "per": "1000"}]}}),
            json!({"hold_close": {"period": "2026-09", "account_id": "acme"}}),
            json!({"release_close": {"period": "2026-09"}}),
            json!({"operator_keys": {"add": [{"key_id": "k", "ed25519_public": "AAECAw=="}], "remove": ["old"]}}),
        ] {
            let mut value =
                json!({"id": "x", "issued_at": "2026-09-01T00:00:00.000Z", "actor": "kim", "control_version": "3"});
            value
                .as_object_mut()
                .unwrap()
                .extend(body.as_object().cloned().unwrap());
            let control = from_json(value.clone()).unwrap();
            assert_eq!(encode(&control), value);
            assert_eq!(from_json(encode(&control)).unwrap(), control);
        }
    }
}
