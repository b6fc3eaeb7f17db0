//! JSON events in their plain form, read by one borrowing pass: strings without escapes, every field once, enums by name.
//!
//! That is how gateways write them, and it is several times as fast as a tree of values. Whatever is out of the plain form,
//! and whatever is wrong, is left to [`super::json`], which says what it means: this pass may only agree with it.

use std::fmt;

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use smallvec::SmallVec;

use super::check::is_in_range;
use super::raw::{Raw, RawEnd, RawQuantity};
use crate::model::event::{CallKind, Cause, EndMarker, Event, Observer, Phase, Progress, Provenance};
use crate::model::reject::Reject;

/// Decodes an event that is in the plain form; `None` if it isn't.
pub fn decode(bytes: &[u8]) -> Option<Result<Event<'_>, Reject>> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let raw = json.deserialize_map(EventVisitor).ok()?;
    json.end().ok()?;
    Some(raw.check(bytes.len()))
}

/// Which fields of an object were there: one that comes twice is not plain.
#[derive(Default)]
struct Once(u32);

impl Once {
    fn mark<E: Error>(&mut self, field: u32) -> Result<(), E> {
        let bit = 1 << field;
        if self.0 & bit != 0 {
            return Err(not_plain());
        }
        self.0 |= bit;
        Ok(())
    }
}

fn not_plain<E: Error>() -> E {
    E::custom("not in the plain form")
}

macro_rules! visitor {
    ($name:ident -> $value:ty { $($method:item)+ }) => {
        struct $name;

        impl<'de> Visitor<'de> for $name {
            type Value = $value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the plain form")
            }

            $($method)+
        }
    };
}

/// A number that may be written as a string.
struct Whole(i128);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        visitor! { WholeVisitor -> Whole {
            fn visit_u64<E: Error>(self, number: u64) -> Result<Whole, E> {
                Ok(Whole(number.into()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Whole, E> {
                Ok(Whole(number.into()))
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Whole, E> {
                text.parse().map(Whole).map_err(|_| not_plain())
            }
        } }
        from.deserialize_any(WholeVisitor)
    }
}

impl Whole {
    fn to<T: TryFrom<i128>, E: Error>(self) -> Result<T, E> {
        T::try_from(self.0).map_err(|_| not_plain())
    }
}

/// A value of a field that the contract doesn't have. One that holds others is not plain: how deep it may go is a question.
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        visitor! { SkippedVisitor -> Skipped {
            fn visit_bool<E: Error>(self, _: bool) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Skipped, E> {
                Ok(Skipped)
            }

            fn visit_borrowed_str<E: Error>(self, _: &'de str) -> Result<Skipped, E> {
                Ok(Skipped)
            }
        } }
        from.deserialize_any(SkippedVisitor)
    }
}

macro_rules! enumeration {
    ($name:ident, $enumeration:ty, $prefix:literal) => {
        /// A number of the contract, by its short or long name.
        struct $name(i32);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <&str>::deserialize(from)?;
                let found = match text.strip_prefix($prefix) {
                    Some(long) => <$enumeration>::ALL
                        .iter()
                        .find(|v| v.as_str().eq_ignore_ascii_case(long)),
                    None => <$enumeration>::ALL.iter().find(|v| v.as_str() == text),
                };
                found.map(|v| Self(*v as i32)).ok_or_else(not_plain)
            }
        }
    };
}

enumeration!(PhaseName, Phase, "PHASE_");
enumeration!(ObserverName, Observer, "OBSERVER_");
enumeration!(KindName, CallKind, "CALL_KIND_");
enumeration!(CauseName, Cause, "CAUSE_");
enumeration!(ProgressName, Progress, "PROGRESS_");
enumeration!(MarkerName, EndMarker, "END_MARKER_");
enumeration!(ProvenanceName, Provenance, "PROVENANCE_");

/// Seconds and nanoseconds; `None` if the text is empty.
struct Instant(Option<(i64, i32)>);

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(from)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        let at = chrono::DateTime::parse_from_rfc3339(text).map_err(|_| not_plain())?;
        let nanos = at.timestamp_subsec_nanos().min(999_999_999);
        if !is_in_range(at.timestamp(), nanos.into()) {
            return Err(not_plain());
        }
        Ok(Self(Some((at.timestamp(), nanos as i32))))
    }
}

visitor! { EndVisitor -> RawEnd<'de> {
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawEnd<'de>, A::Error> {
        let (mut end, mut once) = (RawEnd::default(), Once::default());
        while let Some(name) = map.next_key::<&str>()? {
            let field = match name {
                "cause" => {
                    end.cause = map.next_value::<CauseName>()?.0;
                    1
                }
                "progress" => {
                    end.progress = map.next_value::<ProgressName>()?.0;
                    2
                }
                "client_status" | "clientStatus" => {
                    end.client_status = map.next_value::<Whole>()?.to()?;
                    3
                }
                "upstream_status" | "upstreamStatus" => {
                    end.upstream_status = map.next_value::<Whole>()?.to()?;
                    4
                }
                "end_marker" | "endMarker" => {
                    end.end_marker = map.next_value::<MarkerName>()?.0;
                    5
                }
                "error_type" | "errorType" => {
                    end.error_type = map.next_value()?;
                    6
                }
                // Fields that nobody knows are counted by their distinct names.
                _ => return Err(not_plain()),
            };
            once.mark(field)?;
        }
        Ok(end)
    }
} }

struct End<'a>(RawEnd<'a>);

impl<'de> Deserialize<'de> for End<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(EndVisitor).map(Self)
    }
}

struct Reading<'a>(RawQuantity<'a>);

impl<'de> Deserialize<'de> for Reading<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        visitor! { ReadingVisitor -> RawQuantity<'de> {
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawQuantity<'de>, A::Error> {
                let (mut quantity, mut once) = (RawQuantity::default(), Once::default());
                while let Some(name) = map.next_key::<&str>()? {
                    let field = match name {
                        "meter" => {
                            quantity.meter = map.next_value()?;
                            1
                        }
                        "value" => {
                            quantity.value = map.next_value::<Whole>()?.to()?;
                            2
                        }
                        "scale" => {
                            quantity.scale = map.next_value::<Whole>()?.to()?;
                            3
                        }
                        "provenance" => {
                            quantity.provenance = map.next_value::<ProvenanceName>()?.0;
                            4
                        }
                        _ => return Err(not_plain()),
                    };
                    once.mark(field)?;
                }
                Ok(quantity)
            }
        } }
        from.deserialize_map(ReadingVisitor).map(Self)
    }
}

struct Readings<'a>(SmallVec<[RawQuantity<'a>; 4]>);

impl<'de> Deserialize<'de> for Readings<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        visitor! { ReadingsVisitor -> Readings<'de> {
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Readings<'de>, A::Error> {
                let mut readings = SmallVec::new();
                while let Some(Reading(reading)) = list.next_element()? {
                    readings.push(reading);
                }
                Ok(Readings(readings))
            }
        } }
        from.deserialize_seq(ReadingsVisitor)
    }
}

struct Pairs<'a>(SmallVec<[(&'a str, &'a str); 2]>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        visitor! { PairsVisitor -> Pairs<'de> {
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs: SmallVec<[(&str, &str); 2]> = SmallVec::new();
                while let Some((key, text)) = map.next_entry::<&str, &str>()? {
                    // Few enough that looking at each is quicker than a set; more are too many anyway.
                    if pairs.len() > 64 || pairs.iter().any(|(known, _)| *known == key) {
                        return Err(not_plain());
                    }
                    pairs.push((key, text));
                }
                Ok(Pairs(pairs))
            }
        } }
        from.deserialize_map(PairsVisitor)
    }
}

struct EventVisitor;

impl<'de> Visitor<'de> for EventVisitor {
    type Value = Raw<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event in the plain form")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw<'de>, A::Error> {
        let (mut raw, mut once) = (Raw::default(), Once::default());
        let mut unknown: SmallVec<[&str; 4]> = SmallVec::new();
        while let Some(name) = map.next_key::<&str>()? {
            let field = match name {
                "account_id" | "accountId" => {
                    raw.account = map.next_value()?;
                    1
                }
                "call_id" | "callId" => {
                    raw.call = map.next_value()?;
                    2
                }
                "phase" => {
                    raw.phase = map.next_value::<PhaseName>()?.0;
                    3
                }
                "observer" => {
                    raw.observer = map.next_value::<ObserverName>()?.0;
                    4
                }
                "occurred_at" | "occurredAt" => {
                    raw.occurred_at = map.next_value::<Instant>()?.0;
                    5
                }
                "started_at" | "startedAt" => {
                    map.next_value::<Instant>()?;
                    6
                }
                "attempt" => {
                    raw.attempt = map.next_value::<Whole>()?.to()?;
                    7
                }
                "seq" => {
                    raw.seq = map.next_value::<Whole>()?.to()?;
                    8
                }
                "service" => {
                    raw.service = map.next_value()?;
                    9
                }
                "product" => {
                    raw.product = map.next_value()?;
                    10
                }
                "kind" => {
                    raw.kind = map.next_value::<KindName>()?.0;
                    11
                }
                "end" => {
                    raw.end = Some(map.next_value::<End<'de>>()?.0);
                    12
                }
                "usage" => {
                    raw.usage = map.next_value::<Readings<'de>>()?.0;
                    13
                }
                "source" => {
                    raw.source = map.next_value()?;
                    14
                }
                "boot_id" | "bootId" => {
                    map.next_value::<&str>()?;
                    15
                }
                "idempotency_key" | "idempotencyKey" => {
                    map.next_value::<&str>()?;
                    16
                }
                "parent_id" | "parentId" => {
                    map.next_value::<&str>()?;
                    17
                }
                "traceparent" => {
                    map.next_value::<&str>()?;
                    18
                }
                "event_id" | "eventId" => {
                    map.next_value::<&str>()?;
                    19
                }
                "dimensions" => {
                    raw.dimensions = map.next_value::<Pairs<'de>>()?.0;
                    for pair in raw.dimensions.clone() {
                        raw.measure_pair(pair, "dimensions");
                    }
                    20
                }
                "native" => {
                    let pairs = map.next_value::<Pairs<'de>>()?.0;
                    raw.native = pairs.len() as u32;
                    for pair in pairs {
                        raw.measure_pair(pair, "native");
                    }
                    21
                }
                other => {
                    if unknown.len() > 16 || unknown.contains(&other) {
                        return Err(not_plain());
                    }
                    unknown.push(other);
                    map.next_value::<Skipped>()?;
                    continue;
                }
            };
            once.mark(field)?;
        }
        raw.unknown_fields = unknown.len() as u32;
        Ok(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{json, protobuf};
    use prost::Message;

    /// What the tree of values makes of it.
    fn by_tree<'a>(text: &str, scratch: &'a mut Vec<u8>) -> Result<Event<'a>, Reject> {
        let read = json::decode(text.as_bytes())?;
        let _ = read.event.encode(scratch);
        let mut event = protobuf::decode(scratch).map_err(|reject| read.explain(reject))?;
        event.unknown_fields = read.unknown_fields.len() as u32;
        event.dimensions.sort_unstable();
        Ok(event)
    }

    #[test]
    fn it_agrees_with_the_tree_or_leaves_it_alone() {
        let whole = r#"{"account_id":"acme","callId":"01J","phase":"PHASE_ENDED","observer":"upstream","occurred_at":"2026-09-01T02:00:00.250+02:00","started_at":"2026-09-01T00:00:00Z","attempt":2,"seq":"18446744073709551615","service":"api","product":"m","kind":"stream","end":{"cause":"completed","progress":"complete","clientStatus":200,"upstream_status":"200","end_marker":"END_MARKER_SEEN","error_type":"refusal"},"usage":[{"meter":"output_tokens","value":"412","scale":1,"provenance":"upstream_measured"},{"meter":"bytes_out","value":7}],"source":"/envoy/1","boot_id":"b","idempotency_key":"k","parent_id":"p","traceparent":"t","event_id":"e","dimensions":{"w":"x","a":"\u00fc"},"native":{"flags":"DC"},"colour":"red","n":-1}"#;
        let plain = whole.replace("\\u00fc", "ü");
        let mut taken = 0;
        let variants = [
            (r#""account_id":"acme","#, ""),
            (r#""account_id":"acme""#, r#""account_id":"""#),
            (r#""account_id":"acme""#, r#""account_id":null"#),
            (r#""account_id":"acme""#, r#""account_id":"a","account_id":"b""#),
            (r#""account_id":"acme""#, r#""account_id":"a","accountId":"b""#),
            (r#""attempt":2"#, r#""attempt":256"#),
            (r#""attempt":2"#, r#""attempt":-2"#),
            (r#""attempt":2"#, r#""attempt":2.0"#),
            (r#""attempt":2"#, r#""attempt":4294967296"#),
            (r#""phase":"PHASE_ENDED""#, r#""phase":"ened""#),
            (r#""phase":"PHASE_ENDED""#, r#""phase":5"#),
            (r#""phase":"PHASE_ENDED""#, r#""phase":"unspecified""#),
            (r#""phase":"PHASE_ENDED""#, r#""phase":"started""#),
            (r#""value":"412""#, r#""value":-412"#),
            (r#""value":"412""#, r#""value":"9223372036854775808""#),
            (r#""value":"412""#, r#""value":1.5"#),
            (r#""value":"412""#, r#""value":"+412""#),
            (r#""scale":1"#, r#""scale":10"#),
            (r#""meter":"bytes_out""#, r#""meter":"requests""#),
            (r#""occurred_at":"2026"#, r#""occurred_at":"0000"#),
            (r#""end":{"cause""#, r#""end":{"why":1,"cause""#),
            (r#""end":{"cause":"completed","#, r#""end":{"#),
            (r#""colour":"red""#, r#""colour":"red","colour":1"#),
            (r#""colour":"red""#, r#""colour":["red"]"#),
            (r#""colour":"red""#, r#""colour":"\ud800""#),
            (r#""dimensions":{"w":"x""#, r#""dimensions":{"a":"y","w":"x""#),
            (r#""dimensions":{"w":"x""#, r#""dimensions":{"w":7"#),
            (r#""n":-1}"#, r#""n":-1}}"#),
            (r#""n":-1}"#, r#""n":-1"#),
            ("\u{0}", ""),
        ];
        for (from, to) in variants {
            let text = plain.replace(from, to);
            let mut scratch = Vec::new();
            let Some(mut own) = decode(text.as_bytes()) else {
                continue;
            };
            taken += 1;
            if let Ok(event) = &mut own {
                event.dimensions.sort_unstable();
            }
            let by_tree = by_tree(&text, &mut scratch);
            assert_eq!(own, by_tree, "{from} -> {to}");
        }
        assert!(taken >= 9, "{taken} were plain");
        assert!(decode(plain.as_bytes()).is_some_and(|event| event.is_ok()));
        assert!(decode(whole.as_bytes()).is_none());
    }
}
