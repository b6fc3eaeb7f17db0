//! Protobuf to [`Event`] by one borrowing scan: no allocation, no copy, every check that needs no clock.
//!
//! It takes what prost would take (fields in any order, the last of a repeated scalar, merged submessages) and finds what
//! is wrong in the order of RULES §5.

use smallvec::SmallVec;

use super::check::{is_good_id, is_in_range, is_known_meter};
use super::fields::{Fields, Malformed, Value};
use crate::model::Ms;
use crate::model::event::{CallKind, Cause, End, EndMarker, Event, Observer, Phase, Progress, Provenance, Reading};
use crate::model::limits::{
    ATTEMPT_MAX, DIMENSION_KEY_BYTES_MAX, DIMENSION_VALUE_BYTES_MAX, DIMENSIONS_MAX, LABEL_BYTES_MAX, RECORD_BYTES_MAX,
    SCALE_MAX,
};
use crate::model::quantity::canonical;
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

#[derive(Default)]
struct RawEnd<'a> {
    cause: i32,
    progress: i32,
    client_status: u32,
    upstream_status: u32,
    end_marker: i32,
    error_type: &'a str,
}

#[derive(Clone, Copy, Default)]
struct RawQuantity<'a> {
    meter: &'a str,
    value: i64,
    scale: u32,
    provenance: i32,
}

#[derive(Default)]
struct Raw<'a> {
    account: &'a str,
    call: &'a str,
    phase: i32,
    observer: i32,
    occurred_at: Option<(i64, i32)>,
    attempt: u32,
    seq: u64,
    service: &'a str,
    product: &'a str,
    kind: i32,
    end: Option<RawEnd<'a>>,
    usage: SmallVec<[RawQuantity<'a>; 4]>,
    dimensions: SmallVec<[(&'a str, &'a str); 2]>,
    native: u32,
    too_large: Option<&'static str>,
    unknown_fields: u32,
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

impl<'a> Raw<'a> {
    fn scan(&mut self, bytes: &'a [u8]) -> Result<(), Malformed> {
        let mut fields = Fields::new(bytes);
        while let Some(key) = fields.key()? {
            match key {
                key::ACCOUNT_ID => self.account = fields.text()?,
                key::CALL_ID => self.call = fields.text()?,
                key::PHASE => self.phase = enum_number(fields.varint()?),
                key::OBSERVER => self.observer = enum_number(fields.varint()?),
                key::OCCURRED_AT => {
                    let at = self.occurred_at.get_or_insert_default();
                    scan_instant(fields.bytes()?, at, &mut self.unknown_fields)?;
                }
                key::STARTED_AT => scan_instant(fields.bytes()?, &mut (0, 0), &mut self.unknown_fields)?,
                key::ATTEMPT => self.attempt = fields.varint()? as u32,
                key::SEQ => self.seq = fields.varint()?,
                key::SERVICE => self.service = fields.text()?,
                key::PRODUCT => self.product = fields.text()?,
                key::KIND => self.kind = enum_number(fields.varint()?),
                key::END => {
                    let end = self.end.get_or_insert_default();
                    scan_end(fields.bytes()?, end, &mut self.unknown_fields)?;
                }
                key::USAGE => {
                    let quantity = scan_quantity(fields.bytes()?, &mut self.unknown_fields)?;
                    self.usage.push(quantity);
                }
                key::SOURCE
                | key::BOOT_ID
                | key::IDEMPOTENCY_KEY
                | key::PARENT_ID
                | key::TRACEPARENT
                | key::EVENT_ID => {
                    // Stays in the log; that it is text is all that is asked.
                    fields.text()?;
                }
                key::DIMENSION => {
                    let pair = scan_pair(fields.bytes()?)?;
                    self.measure_pair(pair, "dimensions");
                    self.dimensions.push(pair);
                }
                key::NATIVE => {
                    let pair = scan_pair(fields.bytes()?)?;
                    self.measure_pair(pair, "native");
                    self.native += 1;
                }
                _ => fields = fields.pass(key, key::EVENT, &mut self.unknown_fields)?,
            }
        }
        Ok(())
    }

    fn measure_pair(&mut self, pair: (&str, &str), field: &'static str) {
        if pair.0.len() > DIMENSION_KEY_BYTES_MAX || pair.1.len() > DIMENSION_VALUE_BYTES_MAX {
            self.too_large = Some(field);
        }
    }

    fn ends(&self) -> bool {
        self.phase == Phase::Ended as i32 || self.phase == Phase::AttemptEnded as i32
    }

    fn missing_field(&self) -> Option<&'static str> {
        if self.account.is_empty() {
            Some("account_id")
        } else if self.call.is_empty() {
            Some("call_id")
        } else if self.phase == 0 {
            Some("phase")
        } else if self.occurred_at.is_none() {
            Some("occurred_at")
        } else if self.ends() && self.end.as_ref().is_none_or(|e| e.cause == 0) {
            Some("end.cause")
        } else {
            None
        }
    }

    fn too_large(&self, record_bytes: usize) -> Option<&'static str> {
        if record_bytes > RECORD_BYTES_MAX {
            Some("record")
        } else if self.attempt > ATTEMPT_MAX {
            Some("attempt")
        } else if self.service.len() > LABEL_BYTES_MAX {
            Some("service")
        } else if self.product.len() > LABEL_BYTES_MAX {
            Some("product")
        } else if self.usage.iter().any(|q| q.meter.len() > LABEL_BYTES_MAX) {
            Some("usage.meter")
        } else if self.ends() && self.end.as_ref().is_some_and(|e| e.error_type.len() > LABEL_BYTES_MAX) {
            Some("end.error_type")
        } else if self.dimensions.len() > DIMENSIONS_MAX {
            Some("dimensions")
        } else if self.native as usize > DIMENSIONS_MAX {
            Some("native")
        } else {
            self.too_large
        }
    }
}

#[inline(always)]
fn enum_value<T>(
    number: i32,
    default: Option<T>,
    from: fn(u64) -> Option<T>,
    field: &'static str,
) -> Result<T, Reject> {
    if number == 0
        && let Some(default) = default
    {
        return Ok(default);
    }
    u64::try_from(number)
        .ok()
        .and_then(from)
        .ok_or_else(|| unknown_enum(number, field))
}

#[cold]
fn unknown_enum(number: i32, field: &'static str) -> Reject {
    Reject::new(RejectReason::UnknownEnum, field, format!("number {number}"))
}

fn undecodable(field: &'static str, detail: impl Into<String>) -> Reject {
    Reject::new(RejectReason::Undecodable, field, detail)
}

fn reading<'a>(raw: &RawQuantity<'a>, provenance: Provenance, observer: Observer) -> Result<Reading<'a>, Reject> {
    let bad = |field, detail: String| Err(Reject::new(RejectReason::BadQuantity, field, detail));
    if !is_known_meter(raw.meter) {
        return bad("usage.meter", format!("{:?} is not a meter", raw.meter));
    }
    if raw.value < 0 {
        return bad("usage.value", format!("{} is negative or overflows", raw.value));
    }
    if raw.scale > SCALE_MAX {
        return bad("usage.scale", format!("{} is over {SCALE_MAX}", raw.scale));
    }
    if provenance == Provenance::ProviderInvoiced && observer != Observer::Provider {
        return bad(
            "usage.provenance",
            format!("provider_invoiced from {}", observer.as_str()),
        );
    }
    let (value, scale) = canonical(raw.value, raw.scale as u8);
    Ok(Reading {
        meter: raw.meter,
        value,
        scale,
        provenance,
    })
}

/// Decodes one event; it borrows from `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Event<'_>, Reject> {
    let mut raw = Raw::default();
    raw.scan(bytes).map_err(|e| undecodable("", e.0))?;
    if let Some((seconds, nanos)) = raw.occurred_at
        && !is_in_range(seconds, nanos.into())
    {
        return Err(undecodable(
            "occurred_at",
            format!("{seconds} s {nanos} ns is not an instant of the years 1 to 9999"),
        ));
    }
    if let Some(field) = raw.missing_field() {
        return Err(Reject::new(RejectReason::MissingField, field, "absent or empty"));
    }
    for (field, id) in [("account_id", raw.account), ("call_id", raw.call)] {
        if !is_good_id(id) {
            return Err(Reject::new(
                RejectReason::BadId,
                field,
                format!("{} bytes, or control characters", id.len()),
            ));
        }
    }
    let phase = enum_value(raw.phase, None, Phase::from_number, "phase")?;
    let observer = enum_value(raw.observer, Some(Observer::Edge), Observer::from_number, "observer")?;
    let kind = match raw.kind {
        0 => None,
        number => Some(enum_value(number, None, CallKind::from_number, "kind")?),
    };
    let end = match &raw.end {
        Some(end) if raw.ends() => Some(End {
            cause: enum_value(end.cause, None, Cause::from_number, "end.cause")?,
            progress: enum_value(end.progress, None, Progress::from_number, "end.progress")?,
            client_status: u16::try_from(end.client_status).unwrap_or(u16::MAX),
            upstream_status: u16::try_from(end.upstream_status).unwrap_or(u16::MAX),
            end_marker: enum_value(end.end_marker, None, EndMarker::from_number, "end.end_marker")?,
            error_type: end.error_type,
        }),
        _ => None,
    };
    // All names first: an unknown one is a reason before a bad quantity.
    let provenance = |quantity: &RawQuantity<'_>| {
        let default = Some(Provenance::EdgeCounted);
        enum_value(
            quantity.provenance,
            default,
            Provenance::from_number,
            "usage.provenance",
        )
    };
    for quantity in &raw.usage {
        provenance(quantity)?;
    }
    let mut usage = SmallVec::new();
    for quantity in &raw.usage {
        usage.push(reading(quantity, provenance(quantity)?, observer)?);
    }
    let too_large = raw.too_large(bytes.len());
    let (seconds, nanos) = raw.occurred_at.unwrap_or_default();
    Ok(Event {
        account: raw.account,
        call: raw.call,
        phase,
        observer,
        occurred_at: seconds * 1_000 + Ms::from(nanos) / 1_000_000,
        attempt: u8::try_from(raw.attempt).unwrap_or(u8::MAX),
        seq: raw.seq,
        service: raw.service,
        product: raw.product,
        kind,
        end,
        usage,
        dimensions: raw.dimensions,
        too_large,
        unknown_fields: raw.unknown_fields,
    })
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
    let mut fields = Fields::new(bytes);
    let mut account = None;
    while let Ok(Some((number, value))) = fields.next() {
        if number == 1 {
            account = value.text().ok();
        }
    }
    account.filter(|a| !a.is_empty())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
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
