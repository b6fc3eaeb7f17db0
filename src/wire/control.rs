//! Control records, in protobuf or JSON. Strict: what the contract doesn't have is rejected (RULES §1), for an operator who
//! mistypes a field must not get a rule that he did not write.

use base64::Engine;
use prost::Message;
use serde_json::Value;

use super::fields::Fields;
use super::json::{Object, parse, quantities};
use super::pb::{self, control::Body};
use super::wording;
use crate::model::reject::{Reject, RejectReason};

/// A message's fields: number, and the fields of the message it holds.
type Schema = &'static [(u64, Option<&'static [u64]>)];

const TIMESTAMP: &[u64] = &[1, 2];
const QUANTITY: &[u64] = &[1, 2, 3, 4];
const PRICE: &[u64] = &[1, 2, 3, 4, 5, 6];
const NAMES: &[u64] = &[1];
const OPERATOR_KEY: &[u64] = &[1, 2];

/// Fields of the bodies, by the body's number in `Control`.
const BODIES: &[(u64, Schema)] = &[
    (10, &[(1, None), (2, None), (3, None)]),
    (11, &[(1, None), (2, None), (3, None), (4, Some(QUANTITY)), (5, None)]),
    (
        12,
        &[
            (1, None),
            (2, None),
            (3, None),
            (4, None),
            (5, None),
            (6, None),
            (7, None),
            (8, None),
            (9, None),
            (10, None),
            (11, Some(NAMES)),
            (12, None),
            (13, None),
        ],
    ),
    (13, &[(1, Some(TIMESTAMP)), (2, Some(PRICE))]),
    (14, &[(1, None), (2, None)]),
    (15, &[(1, None), (2, None)]),
    (16, &[(1, Some(OPERATOR_KEY)), (2, None)]),
];

fn undecodable(field: impl Into<String>, detail: impl Into<String>) -> Reject {
    Reject::new(RejectReason::Undecodable, field.into(), detail)
}

/// Decodes a control record.
pub fn decode(bytes: &[u8]) -> Result<pb::Control, Reject> {
    if super::record::is_json(bytes) {
        return from_json(parse(bytes)?);
    }
    let control = pb::Control::decode(bytes).map_err(|e| undecodable("", e.to_string()))?;
    find_unknown(bytes)?;
    Ok(control)
}

fn unknown(path: &str, number: u64) -> Reject {
    undecodable(path, format!("field {number} is unknown to this version"))
}

fn find_unknown(bytes: &[u8]) -> Result<(), Reject> {
    let malformed = |m: super::fields::Malformed| undecodable("", m.0);
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next().map_err(malformed)? {
        match number {
            1 | 3 | 4 => {}
            2 => check_fields(value.bytes().map_err(malformed)?, TIMESTAMP, "issued_at")?,
            _ => {
                let Some((_, schema)) = BODIES.iter().find(|(n, _)| *n == number) else {
                    return Err(unknown("control", number));
                };
                let mut inner = Fields::new(value.bytes().map_err(malformed)?);
                while let Some((number, value)) = inner.next().map_err(malformed)? {
                    match schema.iter().find(|(n, _)| *n == number) {
                        None => return Err(unknown("control.body", number)),
                        Some((_, None)) => {}
                        Some((_, Some(fields))) => {
                            check_fields(value.bytes().map_err(malformed)?, fields, "control.body")?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

fn check_fields(bytes: &[u8], known: &[u64], path: &str) -> Result<(), Reject> {
    let mut fields = Fields::new(bytes);
    while let Some((number, _)) = fields.next().map_err(|m| undecodable(path, m.0))? {
        if !known.contains(&number) {
            return Err(unknown(path, number));
        }
    }
    Ok(())
}

/// Reads a control record from a parsed object.
pub fn from_json(value: Value) -> Result<pb::Control, Reject> {
    let mut unknown = Vec::new();
    let mut object = Object::new("", value, &mut unknown)?;
    let mut control = pb::Control {
        id: object.text("id")?,
        issued_at: object.instant("issued_at")?,
        actor: object.text("actor")?,
        control_version: object.uint("control_version")?.unwrap_or_default(),
        body: None,
    };
    let mut bodies = Vec::new();
    let mut unknown_enum = None;
    if let Some(body) = object.object("account_profile")? {
        bodies.push(profile(body)?);
    }
    if let Some(body) = object.object("correction")? {
        bodies.push(correction(body, &mut unknown_enum)?);
    }
    if let Some(body) = object.object("policy")? {
        bodies.push(policy(body)?);
    }
    if let Some(body) = object.object("rate_card")? {
        bodies.push(rate_card(body)?);
    }
    for name in ["hold_close", "release_close"] {
        if let Some(mut body) = object.object(name)? {
            let (period, account_id) = (body.text("period")?, body.text("account_id")?);
            body.finish();
            bodies.push(if name == "hold_close" {
                Body::HoldClose(pb::HoldClose { period, account_id })
            } else {
                Body::ReleaseClose(pb::ReleaseClose { period, account_id })
            });
        }
    }
    if let Some(body) = object.object("operator_keys")? {
        bodies.push(operator_keys(body)?);
    }
    object.finish();
    if let Some(field) = unknown.first() {
        return Err(undecodable(field.clone(), "the field is unknown to this version"));
    }
    if bodies.len() > 1 {
        return Err(undecodable(
            "control.body",
            format!("{} bodies; one is allowed", bodies.len()),
        ));
    }
    control.body = bodies.pop();
    if let Some((field, text)) = unknown_enum {
        // A number would do as it is; a name is told while it is known, in its turn.
        super::control_fields::check(&control, false)?;
        let told = wording::not_one(&text, &field);
        let detail = format!("{text} is not one");
        return Err(Reject::new(RejectReason::UnknownEnum, field, detail).telling(told));
    }
    Ok(control)
}

fn profile(mut body: Object<'_>) -> Result<Body, Reject> {
    let profile = pb::AccountProfile {
        account_id: body.text("account_id")?,
        time_zone: body.text("time_zone")?,
        currency: body.text("currency")?,
    };
    body.finish();
    Ok(Body::AccountProfile(profile))
}

fn correction(mut body: Object<'_>, unknown_enum: &mut Option<(String, String)>) -> Result<Body, Reject> {
    // One that can't be a quantity is a negative one, and rejected as such.
    let quantities = quantities(&mut body, "quantities", unknown_enum, &mut None)?;
    let correction = pb::Correction {
        account_id: body.text("account_id")?,
        call_id: body.text("call_id")?,
        bill: body.boolean("bill")?,
        quantities,
        reason: body.text("reason")?,
    };
    body.finish();
    Ok(Body::Correction(correction))
}

fn policy(mut body: Object<'_>) -> Result<Body, Reject> {
    let rollup_dimensions = match body.object("rollup_dimensions")? {
        None => None,
        Some(mut names) => {
            let path = names.at("names");
            let list = names.list("names")?;
            names.finish();
            let names: Option<Vec<String>> = list.iter().map(|v| v.as_str().map(str::to_owned)).collect();
            Some(pb::Names {
                names: names.ok_or_else(|| undecodable(path, "a list of strings is wanted"))?,
            })
        }
    };
    let policy = pb::Policy {
        settle_grace_ms: body.uint("settle_grace_ms")?,
        disconnect_grace_ms: body.uint("disconnect_grace_ms")?,
        call_deadline_ms: body.uint("call_deadline_ms")?,
        task_deadline_ms: body.uint("task_deadline_ms")?,
        close_grace_ms: body.uint("close_grace_ms")?,
        amend_window_ms: body.uint("amend_window_ms")?,
        bill_unproven: body.boolean("bill_unproven")?,
        bill_empty_disconnect: body.boolean("bill_empty_disconnect")?,
        bill_upstream_only: body.boolean("bill_upstream_only")?,
        bill_cancelled_task: body.boolean("bill_cancelled_task")?,
        rollup_dimensions,
        max_open_ms: body.uint("max_open_ms")?,
        call_span_ms: body.uint("call_span_ms")?,
    };
    body.finish();
    Ok(Body::Policy(policy))
}

fn rate_card(mut body: Object<'_>) -> Result<Body, Reject> {
    let effective_from = body.instant("effective_from")?;
    let path = body.at("prices");
    let mut prices = Vec::new();
    for (index, value) in body.list("prices")?.into_iter().enumerate() {
        let mut price = Object::new(&format!("{path}[{index}]"), value, body.unknown())?;
        prices.push(pb::Price {
            product: price.text("product")?,
            meter: price.text("meter")?,
            service: price.text("service")?,
            currency: price.text("currency")?,
            amount: price.text("amount")?,
            per: price.uint("per")?.unwrap_or_default(),
        });
        price.finish();
    }
    body.finish();
    Ok(Body::RateCard(pb::RateCard { effective_from, prices }))
}

fn operator_keys(mut body: Object<'_>) -> Result<Body, Reject> {
    let path = body.at("add");
    let mut add = Vec::new();
    for (index, value) in body.list("add")?.into_iter().enumerate() {
        let mut key = Object::new(&format!("{path}[{index}]"), value, body.unknown())?;
        let field = key.at("ed25519_public");
        let text = key.text("ed25519_public")?;
        add.push(pb::OperatorKey {
            key_id: key.text("key_id")?,
            ed25519_public: read_base64(&text).ok_or_else(|| undecodable(field, "base64 is wanted"))?,
        });
        key.finish();
    }
    let path = body.at("remove");
    let remove = body.list("remove")?;
    let remove: Option<Vec<String>> = remove.iter().map(|v| v.as_str().map(str::to_owned)).collect();
    let remove = remove.ok_or_else(|| undecodable(path, "a list of strings is wanted"))?;
    body.finish();
    Ok(Body::OperatorKeys(pb::OperatorKeys { add, remove }))
}

/// Bytes as protobuf's JSON has them: either alphabet, padded or not.
fn read_base64(text: &str) -> Option<Vec<u8>> {
    let standard: String = text
        .trim_end_matches('=')
        .chars()
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            c => c,
        })
        .collect();
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(standard).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() -> Result<(), Reject> {
        let json = br#"{"id":"c-1","controlVersion":"3","rate_card":{"effective_from":"2026-09-01T00:00:00Z",
            "prices":[{"product":"m","meter":"output_tokens","currency":"USD","amount":"15","per":1000000}]}}"#;
        let control = decode(json)?;
        assert_eq!(control.control_version, 3);
        assert_eq!(decode(&control.encode_to_vec())?, control);
        Ok(())
    }

    #[test]
    fn keys_are_read_in_both_forms() -> Result<(), Reject> {
        let json = br#"{"id":"k","control_version":2,"operator_keys":{"add":[{"key_id":"ops-2","ed25519Public":"_-8"}],"remove":["ops-1"]}}"#;
        let control = decode(json)?;
        let Some(Body::OperatorKeys(keys)) = &control.body else {
            return Err(undecodable("", "another body"));
        };
        assert_eq!(keys.add[0].ed25519_public, [0xff, 0xef]);
        assert_eq!(keys.remove, ["ops-1"]);
        assert_eq!(decode(&control.encode_to_vec())?, control);
        let odd = decode(br#"{"id":"k","operator_keys":{"add":[{"key_id":"a","ed25519_public":"?"}]}}"#);
        assert_eq!(
            odd.map_err(|r| r.field.into_owned()),
            Err("operator_keys.add[0].ed25519_public".to_owned())
        );
        assert!(decode(br#"{"id":"k","operator_keys":{"add":[{"id":"a"}]}}"#).is_err());
        Ok(())
    }

    #[test]
    fn a_missing_field_is_told_before_an_unknown_name() {
        let with = |more: &str| {
            let text = format!(
                r#"{{"id":"c-1","correction":{{"account_id":"acme","call_id":"c","bill":true{more},
                "quantities":[{{"meter":"output_tokens","value":"1","provenance":"guess"}}]}}}}"#
            );
            decode(text.as_bytes()).map_err(|r| (r.reason, r.field.into_owned()))
        };
        let reason = RejectReason::MissingField;
        assert_eq!(with(""), Err((reason, "correction.reason".to_owned())));
        let field = "correction.quantities[0].provenance".to_owned();
        assert_eq!(with(r#","reason":"r""#), Err((RejectReason::UnknownEnum, field)));
    }

    #[test]
    fn unknown_fields_are_refused() {
        let reject = decode(br#"{"id":"c-1","policy":{"settle_grace":5}}"#).err();
        assert_eq!(
            reject.map(|r| r.field.into_owned()).as_deref(),
            Some("policy.settle_grace")
        );
        let mut bytes = pb::Control {
            id: "c-1".to_owned(),
            body: Some(Body::Policy(pb::Policy::default())),
            ..pb::Control::default()
        }
        .encode_to_vec();
        assert!(decode(&bytes).is_ok());
        bytes.extend_from_slice(&[0x62, 2, 14 << 3, 1]); // policy, field 14
        assert!(decode(&bytes).is_err());
    }
}
