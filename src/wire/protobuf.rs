//! Protobuf to [`Event`] by one borrowing scan: no allocation, no copy, every check that needs no clock.
//!
//! It takes what prost would take (fields in any order, the last of a repeated scalar, merged submessages) and finds what
//! is wrong in the order of RULES §5.

use super::check::is_in_range;
use super::raw::{Raw, RawEnd, RawQuantity, undecodable};
use crate::model::Ms;
use crate::model::event::Event;
use crate::model::reject::{Reject, RejectReason};

/// Groups within groups that are skipped; prost's limit for messages.
const DEPTH_MAX: u32 = 100;

/// Not protobuf: where the scan stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub &'static str);

/// Walks the fields of one message.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

/// One field's value.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Fixed-width numbers and groups: nothing of the contract has them.
    Other,
}

impl<'a> Fields<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }

    #[inline(always)]
    fn varint(&mut self) -> Result<u64, Malformed> {
        if let Some((&byte, rest)) = self.rest.split_first()
            && byte < 0x80
        {
            self.rest = rest;
            return Ok(byte.into());
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for (i, &byte) in self.rest.iter().take(10).enumerate() {
            if i == 9 && byte > 1 {
                return Err(Malformed("a number is longer than 64 bits"));
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.rest = &self.rest[i + 1..];
                return Ok(value);
            }
        }
        Err(Malformed("a number breaks off"))
    }

    #[inline(always)]
    fn take(&mut self, len: u64) -> Result<&'a [u8], Malformed> {
        if len > self.rest.len() as u64 {
            return Err(Malformed("a field breaks off"));
        }
        let (taken, rest) = self.rest.split_at(len as usize);
        self.rest = rest;
        Ok(taken)
    }

    /// The next field's number and value.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Malformed> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = key >> 3;
        if number == 0 || key > u64::from(u32::MAX) {
            return Err(Malformed("a field has no valid number"));
        }
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            other => {
                self.skip(other, number, DEPTH_MAX)?;
                Value::Other
            }
        };
        Ok(Some((number, value)))
    }

    fn skip(&mut self, wire_type: u64, number: u64, depth: u32) -> Result<(), Malformed> {
        match wire_type {
            0 => self.varint().map(|_| ()),
            1 => self.take(8).map(|_| ()),
            2 => {
                let len = self.varint()?;
                self.take(len).map(|_| ())
            }
            3 if depth > 0 => loop {
                let key = self.varint()?;
                if key & 7 == 4 {
                    return if key >> 3 == number {
                        Ok(())
                    } else {
                        Err(Malformed("a group ends that did not begin"))
                    };
                }
                self.skip(key & 7, key >> 3, depth - 1)?;
            },
            5 => self.take(4).map(|_| ()),
            _ => Err(Malformed("a field has no valid wire type")),
        }
    }
}

impl<'a> Value<'a> {
    #[inline]
    fn number(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(Malformed("a number has the wrong wire type")),
        }
    }

    #[inline]
    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(value) => Ok(value),
            _ => Err(Malformed("a string or message has the wrong wire type")),
        }
    }

    #[inline]
    fn text(self) -> Result<&'a str, Malformed> {
        super::ascii::text(self.bytes()?).ok_or(Malformed("a string is not UTF-8"))
    }
}

/// An enum's number as prost reads it: 32 bits, sign and all.
fn enum_number(value: u64) -> i32 {
    value as u32 as i32
}

fn scan_instant(bytes: &[u8], at: &mut (i64, i32), unknown: &mut u32) -> Result<(), Malformed> {
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => at.0 = value.number()? as i64,
            2 => at.1 = value.number()? as u32 as i32,
            _ => *unknown += 1,
        }
    }
    Ok(())
}

fn scan_end<'a>(bytes: &'a [u8], end: &mut RawEnd<'a>, unknown: &mut u32) -> Result<(), Malformed> {
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => end.cause = enum_number(value.number()?),
            2 => end.progress = enum_number(value.number()?),
            3 => end.client_status = value.number()? as u32,
            4 => end.upstream_status = value.number()? as u32,
            5 => end.end_marker = enum_number(value.number()?),
            6 => end.error_type = value.text()?,
            _ => *unknown += 1,
        }
    }
    Ok(())
}

fn scan_quantity<'a>(bytes: &'a [u8], unknown: &mut u32) -> Result<RawQuantity<'a>, Malformed> {
    let mut quantity = RawQuantity::default();
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => quantity.meter = value.text()?,
            2 => quantity.value = value.number()? as i64,
            3 => quantity.scale = value.number()? as u32,
            4 => quantity.provenance = enum_number(value.number()?),
            _ => *unknown += 1,
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
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => raw.account = value.text()?,
            2 => raw.call = value.text()?,
            3 => raw.phase = enum_number(value.number()?),
            4 => raw.observer = enum_number(value.number()?),
            5 => {
                let at = raw.occurred_at.get_or_insert_default();
                scan_instant(value.bytes()?, at, &mut raw.unknown_fields)?;
            }
            6 => scan_instant(value.bytes()?, &mut (0, 0), &mut raw.unknown_fields)?,
            7 => raw.attempt = value.number()? as u32,
            8 => raw.seq = value.number()?,
            9 => raw.service = value.text()?,
            10 => raw.product = value.text()?,
            11 => raw.kind = enum_number(value.number()?),
            12 => {
                let end = raw.end.get_or_insert_default();
                scan_end(value.bytes()?, end, &mut raw.unknown_fields)?;
            }
            13 => {
                let quantity = scan_quantity(value.bytes()?, &mut raw.unknown_fields)?;
                raw.usage.push(quantity);
            }
            14 => raw.source = value.text()?,
            15..=19 => {
                // Stays in the log; that it is text is all that is asked.
                value.text()?;
            }
            20 => {
                let pair = scan_pair(value.bytes()?)?;
                raw.measure_pair(pair, "dimensions");
                raw.dimensions.push(pair);
            }
            21 => {
                let pair = scan_pair(value.bytes()?)?;
                raw.measure_pair(pair, "native");
                raw.native += 1;
            }
            _ => raw.unknown_fields += 1,
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
