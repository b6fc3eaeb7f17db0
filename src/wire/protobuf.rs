//! Protobuf to [`Event`] by one borrowing scan: no allocation, no copy, every check that needs no clock.
//!
//! It takes what prost would take (fields in any order, the last of a repeated scalar, merged submessages) and finds what
//! is wrong in the order of RULES §5.

use super::check::is_in_range;
use super::fields::{Fields, Malformed, Value};
use super::raw::{Raw, RawEnd, RawQuantity, undecodable};
use crate::model::Ms;
use crate::model::event::Event;
use crate::model::reject::{Reject, RejectReason};

/// Keys of fields, number and type in one, so that one jump tells which field it is.
mod key {
    const fn number(field: u64) -> u64 {
        field << 3
    }

    const fn string(field: u64) -> u64 {
        field << 3 | 2
    }

    macro_rules! keys {
        ($all:ident: $($name:ident = $kind:ident $field:literal,)+) => {
            $(pub(super) const $name: u64 = $kind($field);)+
            pub(super) const $all: &[u64] = &[$($name,)+];
        };
    }

    keys! { EVENT:
        ACCOUNT_ID = string 1, CALL_ID = string 2, PHASE = number 3, OBSERVER = number 4, OCCURRED_AT = string 5,
        STARTED_AT = string 6, ATTEMPT = number 7, SEQ = number 8, SERVICE = string 9, PRODUCT = string 10,
        KIND = number 11, END = string 12, USAGE = string 13, SOURCE = string 14, BOOT_ID = string 15,
        IDEMPOTENCY_KEY = string 16, PARENT_ID = string 17, TRACEPARENT = string 18, EVENT_ID = string 19,
        DIMENSION = string 20, NATIVE = string 21,
    }
    keys! { INSTANT: SECONDS = number 1, NANOS = number 2, }
    keys! { TERMINATION:
        CAUSE = number 1, PROGRESS = number 2, CLIENT_STATUS = number 3, UPSTREAM_STATUS = number 4,
        END_MARKER = number 5, ERROR_TYPE = string 6,
    }
    keys! { QUANTITY: METER = string 1, VALUE = number 2, SCALE = number 3, PROVENANCE = number 4, }
}

/// An enum's number as prost reads it: 32 bits, sign and all.
fn enum_number(value: u64) -> i32 {
    value as u32 as i32
}

fn scan_instant(bytes: &[u8], at: &mut (i64, i32), unknown: &mut u32) -> Result<(), Malformed> {
    let mut fields = Fields::new(bytes);
    while let Some(key) = fields.key()? {
        match key {
            key::SECONDS => at.0 = fields.varint()? as i64,
            key::NANOS => at.1 = fields.varint()? as u32 as i32,
            _ => fields = fields.pass(key, key::INSTANT, unknown)?,
        }
    }
    Ok(())
}

fn scan_end<'a>(bytes: &'a [u8], end: &mut RawEnd<'a>, unknown: &mut u32) -> Result<(), Malformed> {
    let mut fields = Fields::new(bytes);
    while let Some(key) = fields.key()? {
        match key {
            key::CAUSE => end.cause = enum_number(fields.varint()?),
            key::PROGRESS => end.progress = enum_number(fields.varint()?),
            key::CLIENT_STATUS => end.client_status = fields.varint()? as u32,
            key::UPSTREAM_STATUS => end.upstream_status = fields.varint()? as u32,
            key::END_MARKER => end.end_marker = enum_number(fields.varint()?),
            key::ERROR_TYPE => end.error_type = fields.text()?,
            _ => fields = fields.pass(key, key::TERMINATION, unknown)?,
        }
    }
    Ok(())
}

fn scan_quantity<'a>(bytes: &'a [u8], unknown: &mut u32) -> Result<RawQuantity<'a>, Malformed> {
    let mut quantity = RawQuantity::default();
    let mut fields = Fields::new(bytes);
    while let Some(key) = fields.key()? {
        match key {
            key::METER => quantity.meter = fields.text()?,
            key::VALUE => quantity.value = fields.varint()? as i64,
            key::SCALE => quantity.scale = fields.varint()? as u32,
            key::PROVENANCE => quantity.provenance = enum_number(fields.varint()?),
            _ => fields = fields.pass(key, key::QUANTITY, unknown)?,
        }
    }
    Ok(quantity)
}

fn scan_pair(bytes: &[u8]) -> Result<(&str, &str), Malformed> {
    let (mut key, mut text) = ("", "");
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => key = value.text()?,
            2 => text = value.text()?,
            _ => {}
        }
    }
    Ok((key, text))
}

fn scan<'a>(raw: &mut Raw<'a>, bytes: &'a [u8]) -> Result<(), Malformed> {
    let mut fields = Fields::new(bytes);
    while let Some(key) = fields.key()? {
        match key {
            key::ACCOUNT_ID => raw.account = fields.text()?,
            key::CALL_ID => raw.call = fields.text()?,
            key::PHASE => raw.phase = enum_number(fields.varint()?),
            key::OBSERVER => raw.observer = enum_number(fields.varint()?),
            key::OCCURRED_AT => {
                let at = raw.occurred_at.get_or_insert_default();
                scan_instant(fields.bytes()?, at, &mut raw.unknown_fields)?;
            }
            key::STARTED_AT => scan_instant(fields.bytes()?, &mut (0, 0), &mut raw.unknown_fields)?,
            key::ATTEMPT => raw.attempt = fields.varint()? as u32,
            key::SEQ => raw.seq = fields.varint()?,
            key::SERVICE => raw.service = fields.text()?,
            key::PRODUCT => raw.product = fields.text()?,
            key::KIND => raw.kind = enum_number(fields.varint()?),
            key::END => {
                let end = raw.end.get_or_insert_default();
                scan_end(fields.bytes()?, end, &mut raw.unknown_fields)?;
            }
            key::USAGE => {
                let quantity = scan_quantity(fields.bytes()?, &mut raw.unknown_fields)?;
                raw.usage.push(quantity);
            }
            key::SOURCE => raw.source = fields.text()?,
            key::BOOT_ID | key::IDEMPOTENCY_KEY | key::PARENT_ID | key::TRACEPARENT | key::EVENT_ID => {
                // Stays in the log; that it is text is all that is asked.
                fields.text()?;
            }
            key::DIMENSION => {
                let pair = scan_pair(fields.bytes()?)?;
                raw.measure_pair(pair, "dimensions");
                raw.dimensions.push(pair);
            }
            key::NATIVE => {
                let pair = scan_pair(fields.bytes()?)?;
                raw.measure_pair(pair, "native");
                raw.native += 1;
            }
            _ => fields = fields.pass(key, key::EVENT, &mut raw.unknown_fields)?,
        }
    }
    Ok(())
}

/// Decodes one event; it borrows from `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Event<'_>, Reject> {
    let mut raw = Raw::default();
    scan(&mut raw, bytes).map_err(|e| undecodable("", e.0))?;
    raw.check(bytes.len())
}

/// Decodes a tick.
pub fn decode_tick(bytes: &[u8]) -> Result<Ms, Reject> {
    let bad = |detail: &str| Reject::new(RejectReason::BadTick, "tick.at", detail);
    let mut at: Option<(i64, i32)> = None;
    let mut fields = Fields::new(bytes);
    let mut unknown = 0;
    loop {
        match fields.next() {
            Ok(None) => break,
            Ok(Some((1, Value::Bytes(value)))) => {
                scan_instant(value, at.get_or_insert_default(), &mut unknown).map_err(|e| bad(e.0))?;
            }
            Ok(Some(_)) => return Err(bad("not a tick")),
            Err(malformed) => return Err(bad(malformed.0)),
        }
    }
    match at {
        Some((seconds, nanos)) if is_in_range(seconds, nanos.into()) => {
            Ok(seconds * 1_000 + Ms::from(nanos) / 1_000_000)
        }
        Some(_) => Err(bad("not an instant of the years 1 to 9999")),
        None => Err(bad("absent")),
    }
}

/// The account an event names, however broken the rest of it is: its partition hangs on it.
pub fn account_of(bytes: &[u8]) -> Option<&str> {
    text_of(bytes, 1)
}

/// The producer an event names, however broken the rest of it is.
pub fn source_of(bytes: &[u8]) -> Option<&str> {
    text_of(bytes, 14)
}

fn text_of(bytes: &[u8], field: u64) -> Option<&str> {
    let mut fields = Fields::new(bytes);
    let mut text = None;
    while let Ok(Some((number, value))) = fields.next() {
        if number == field {
            text = value.text().ok();
        }
    }
    text.filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::model::event::Cause;
    use crate::wire::pb;

    fn event() -> pb::CallEvent {
        pb::CallEvent {
            account_id: "acme".to_owned(),
            call_id: "c".to_owned(),
            phase: 5,
            observer: 2,
            occurred_at: Some(prost_types::Timestamp {
                seconds: 1_790_000_000,
                nanos: 250_999_999,
            }),
            attempt: 2,
            seq: u64::MAX,
            product: "m".to_owned(),
            kind: 2,
            end: Some(pb::Termination {
                cause: 1,
                progress: 4,
                client_status: 200,
                upstream_status: 70_000,
                end_marker: 1,
                error_type: "refusal".to_owned(),
            }),
            usage: vec![pb::Quantity {
                meter: "output_tokens".to_owned(),
                value: 4_120,
                scale: 1,
                provenance: 4,
            }],
            dimensions: [("workspace".to_owned(), "w".to_owned())].into(),
            ..pb::CallEvent::default()
        }
    }

    fn reason(change: impl Fn(&mut pb::CallEvent)) -> Option<(RejectReason, String)> {
        let mut event = event();
        change(&mut event);
        decode(&event.encode_to_vec())
            .err()
            .map(|r| (r.reason, r.field.into_owned()))
    }

    #[test]
    fn an_event_is_read_without_a_copy() {
        let bytes = event().encode_to_vec();
        let Ok(event) = decode(&bytes) else {
            panic!("not decoded")
        };
        assert_eq!((event.account, event.call, event.product), ("acme", "c", "m"));
        assert_eq!(event.occurred_at, 1_790_000_000_250);
        assert_eq!((event.attempt, event.seq), (2, u64::MAX));
        assert_eq!(
            event.end.map(|e| (e.cause, e.upstream_status)),
            Some((Cause::Completed, u16::MAX))
        );
        assert_eq!(event.usage[0].value, 412);
        assert_eq!(event.usage[0].scale, 0);
        assert_eq!(event.dimensions.as_slice(), &[("workspace", "w")]);
        assert_eq!(account_of(&bytes), Some("acme"));
    }

    #[test]
    fn the_first_reason_in_order_is_given() {
        let field = |reason, field: &str| Some((reason, field.to_owned()));
        assert_eq!(reason(|_| ()), None);
        assert_eq!(
            reason(|e| e.account_id.clear()),
            field(RejectReason::MissingField, "account_id")
        );
        assert_eq!(
            reason(|e| {
                e.end = None;
                e.call_id = "\u{7}".to_owned();
            }),
            field(RejectReason::MissingField, "end.cause")
        );
        assert_eq!(
            reason(|e| {
                e.call_id = "\u{7}".to_owned();
                e.kind = 99;
            }),
            field(RejectReason::BadId, "call_id")
        );
        assert_eq!(
            reason(|e| e.account_id = "é".repeat(65)),
            field(RejectReason::BadId, "account_id")
        );
        assert_eq!(
            reason(|e| {
                e.observer = 4;
                e.usage[0].value = -1;
            }),
            field(RejectReason::UnknownEnum, "observer")
        );
        assert_eq!(
            reason(|e| e.usage[0].value = -1),
            field(RejectReason::BadQuantity, "usage.value")
        );
        assert_eq!(
            reason(|e| e.usage[0].meter = "requests".to_owned()),
            field(RejectReason::BadQuantity, "usage.meter")
        );
        assert_eq!(
            reason(|e| e.usage[0].provenance = 5),
            field(RejectReason::BadQuantity, "usage.provenance")
        );
        assert_eq!(
            reason(|e| {
                e.phase = 2;
                e.end.get_or_insert_default().cause = 77;
            }),
            None
        );
    }

    #[test]
    fn sizes_are_left_to_the_clock() {
        let mut event = event();
        event.attempt = 256;
        assert_eq!(decode(&event.encode_to_vec()).map(|e| e.too_large), Ok(Some("attempt")));
        event.attempt = 1;
        event.dimensions = (0..17).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(
            decode(&event.encode_to_vec()).map(|e| e.too_large),
            Ok(Some("dimensions"))
        );
    }

    #[test]
    fn no_cut_or_flip_panics() {
        let bytes = event().encode_to_vec();
        for cut in 0..bytes.len() {
            let _ = decode(&bytes[..cut]);
            let mut flipped = bytes.clone();
            flipped[cut] ^= 0x85;
            let _ = decode(&flipped);
            let _ = decode_tick(&flipped);
        }
    }
}
