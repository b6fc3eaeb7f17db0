//! JSON to and from the contract's messages: proto3's mapping, names in snake_case or lowerCamelCase, enums long or short.

use serde_json::{Map, Value};

use super::check::{is_in_range, timestamp};
use super::whole::whole;
use super::{pb, wording};
use crate::model::event::{CallKind, Cause, EndMarker, Observer, Phase, Progress, Provenance};
use crate::model::period::rfc3339;
use crate::model::reject::{Reject, RejectReason};

/// Stands for an enum name that the contract doesn't have, so that it is found in its turn.
const UNKNOWN_NUMBER: i32 = i32::MAX;

/// An event as read from JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonEvent {
    /// The message. What JSON could say but protobuf can't is in `unknown_enum` and `bad_quantity`.
    pub event: pb::CallEvent,
    /// First enum name that the contract doesn't have: field and name.
    pub unknown_enum: Option<(String, String)>,
    /// First quantity that isn't an integer of 64 bits: field and text.
    pub bad_quantity: Option<(String, String)>,
    /// Fields that the contract doesn't have, as paths.
    pub unknown_fields: Vec<String>,
}

impl JsonEvent {
    /// The decoder's rejection, in the words of the JSON.
    pub fn explain(&self, reject: Reject) -> Reject {
        let found = match reject.reason {
            RejectReason::UnknownEnum => &self.unknown_enum,
            RejectReason::BadQuantity => &self.bad_quantity,
            _ => &None,
        };
        match found {
            Some((field, text)) => {
                let told = match reject.reason {
                    RejectReason::UnknownEnum => wording::not_one(text, field),
                    _ => format!("{text} is not a whole number from 0 to {}", i64::MAX),
                };
                Reject::new(reject.reason, field.clone(), format!("{text} is not one")).telling(told)
            }
            None => reject,
        }
    }
}

fn undecodable(path: &str, detail: impl Into<String>) -> Reject {
    Reject::new(RejectReason::Undecodable, path.to_owned(), detail)
}

/// Reads one object's fields by name, and notes those that nobody asked for.
pub(super) struct Object<'a> {
    path: String,
    fields: Map<String, Value>,
    unknown: &'a mut Vec<String>,
}

impl<'a> Object<'a> {
    pub(super) fn new(path: &str, value: Value, unknown: &'a mut Vec<String>) -> Result<Self, Reject> {
        match value {
            Value::Object(fields) => Ok(Self {
                path: path.to_owned(),
                fields,
                unknown,
            }),
            other => Err(undecodable(path, format!("{other} is not an object"))),
        }
    }

    pub(super) fn at(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// The field under either spelling; null is absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let mut camel = String::with_capacity(name.len());
        let mut up = false;
        for c in name.chars() {
            if c == '_' {
                up = true;
            } else if up {
                camel.push(c.to_ascii_uppercase());
                up = false;
            } else {
                camel.push(c);
            }
        }
        let other = self.fields.remove(&camel);
        self.fields.remove(name).or(other).filter(|v| !v.is_null())
    }

    pub(super) fn text(&mut self, name: &str) -> Result<String, Reject> {
        match self.take(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(undecodable(&self.at(name), format!("{other} is not a string"))),
        }
    }

    pub(super) fn uint(&mut self, name: &str) -> Result<Option<u64>, Reject> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        match whole(&value).and_then(|n| u64::try_from(n).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(undecodable(
                &self.at(name),
                format!("{value} is not a whole number from 0"),
            )),
        }
    }

    pub(super) fn uint32(&mut self, name: &str) -> Result<u32, Reject> {
        let number = self.uint(name)?.unwrap_or_default();
        u32::try_from(number).map_err(|_| undecodable(&self.at(name), format!("{number} is over 32 bits")))
    }

    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, Reject> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(undecodable(&self.at(name), format!("{other} is not true or false"))),
        }
    }

    pub(super) fn instant(&mut self, name: &str) -> Result<Option<prost_types::Timestamp>, Reject> {
        // One of another type, such as a number of milliseconds.
        let text = self.text(name).map_err(wording::with_instant)?;
        if text.is_empty() {
            return Ok(None);
        }
        parse_instant(&text).map(Some).ok_or_else(|| {
            let reject = undecodable(&self.at(name), format!("{text:?} is not a time of RFC 3339"));
            wording::with_instant(reject)
        })
    }

    pub(super) fn list(&mut self, name: &str) -> Result<Vec<Value>, Reject> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => Ok(values),
            Some(other) => Err(undecodable(&self.at(name), format!("{other} is not a list"))),
        }
    }

    pub(super) fn object(&mut self, name: &str) -> Result<Option<Object<'_>>, Reject> {
        let path = self.at(name);
        match self.take(name) {
            None => Ok(None),
            Some(value) => Object::new(&path, value, self.unknown).map(Some),
        }
    }

    pub(super) fn unknown(&mut self) -> &mut Vec<String> {
        self.unknown
    }

    fn pairs(&mut self, name: &str) -> Result<std::collections::BTreeMap<String, String>, Reject> {
        let path = self.at(name);
        let fields = match self.take(name) {
            None => return Ok(std::collections::BTreeMap::new()),
            Some(Value::Object(fields)) => fields,
            Some(other) => return Err(undecodable(&path, format!("{other} is not an object"))),
        };
        fields
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(text) => Ok((key, text)),
                other => Err(undecodable(
                    &format!("{path}.{key}"),
                    format!("{other} is not a string"),
                )),
            })
            .collect()
    }

    /// An enum by its short or long name or its number.
    fn enumeration(
        &mut self,
        name: &str,
        prefix: &str,
        by_name: impl Fn(&str) -> Option<i32>,
        unknown: &mut Option<(String, String)>,
    ) -> Result<i32, Reject> {
        let path = self.at(name);
        match self.take(name) {
            None => Ok(0),
            Some(number @ Value::Number(_)) => Ok(whole(&number)
                .and_then(|n| i32::try_from(n).ok())
                .unwrap_or(UNKNOWN_NUMBER)),
            Some(Value::String(text)) => {
                let short = match text.strip_prefix(prefix) {
                    Some(long) => long.to_ascii_lowercase(),
                    None => text.clone(),
                };
                if text.is_empty() || short == "unspecified" {
                    return Ok(0);
                }
                Ok(by_name(&short).unwrap_or_else(|| {
                    unknown.get_or_insert_with(|| (path, format!("{text:?}")));
                    UNKNOWN_NUMBER
                }))
            }
            Some(other) => Err(undecodable(&path, format!("{other} is not a name"))),
        }
    }

    /// Notes what is left.
    pub(super) fn finish(self) {
        for name in self.fields.keys() {
            let path = self.at(name);
            self.unknown.push(path);
        }
    }
}

pub(super) fn parse_instant(text: &str) -> Option<prost_types::Timestamp> {
    let at = chrono::DateTime::parse_from_rfc3339(text).ok()?;
    let nanos = at.timestamp_subsec_nanos().min(999_999_999);
    is_in_range(at.timestamp(), nanos.into()).then_some(prost_types::Timestamp {
        seconds: at.timestamp(),
        nanos: nanos as i32,
    })
}

macro_rules! by_name {
    ($enumeration:ty) => {
        |name: &str| {
            <$enumeration>::ALL
                .iter()
                .find(|v| v.as_str() == name)
                .map(|v| *v as i32)
        }
    };
}

/// Reads the list of quantities; `value` is an integer of 64 bits, as a string or a number.
pub(super) fn quantities(
    parent: &mut Object<'_>,
    name: &str,
    unknown_enum: &mut Option<(String, String)>,
    bad_quantity: &mut Option<(String, String)>,
) -> Result<Vec<pb::Quantity>, Reject> {
    let path = parent.at(name);
    let mut quantities = Vec::new();
    for (index, value) in parent.list(name)?.into_iter().enumerate() {
        let mut quantity = Object::new(&format!("{path}[{index}]"), value, parent.unknown())?;
        let at = quantity.at("value");
        let value = match quantity.take("value") {
            None => 0,
            Some(value) => {
                if !matches!(value, Value::Number(_) | Value::String(_)) {
                    return Err(undecodable(&at, format!("{value} is not a number")));
                }
                let number = whole(&value).and_then(|n| i64::try_from(n).ok());
                number.unwrap_or_else(|| {
                    bad_quantity.get_or_insert_with(|| (at, value.to_string()));
                    -1
                })
            }
        };
        quantities.push(pb::Quantity {
            meter: quantity.text("meter")?,
            value,
            scale: quantity.uint32("scale")?,
            provenance: quantity.enumeration("provenance", "PROVENANCE_", by_name!(Provenance), unknown_enum)?,
        });
        quantity.finish();
    }
    Ok(quantities)
}

/// Parses text as one JSON value.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, Reject> {
    serde_json::from_slice(bytes).map_err(|e| undecodable("", format!("not JSON: {e}")))
}

/// Reads an event.
pub fn decode(bytes: &[u8]) -> Result<JsonEvent, Reject> {
    event_of(parse(bytes)?)
}

/// Reads an event from a parsed object.
pub fn event_of(value: Value) -> Result<JsonEvent, Reject> {
    let mut unknown_fields = Vec::new();
    let (mut unknown_enum, mut bad_quantity) = (None, None);
    let mut object = Object::new("", value, &mut unknown_fields)?;
    let phase = object.enumeration("phase", "PHASE_", by_name!(Phase), &mut unknown_enum)?;
    let observer = object.enumeration("observer", "OBSERVER_", by_name!(Observer), &mut unknown_enum)?;
    let kind = object.enumeration("kind", "CALL_KIND_", by_name!(CallKind), &mut unknown_enum)?;
    let ends = phase == Phase::Ended as i32 || phase == Phase::AttemptEnded as i32;
    let mut end_unknown = None;
    let end = match object.object("end")? {
        None => None,
        Some(mut end) => {
            let termination = pb::Termination {
                cause: end.enumeration("cause", "CAUSE_", by_name!(Cause), &mut end_unknown)?,
                progress: end.enumeration("progress", "PROGRESS_", by_name!(Progress), &mut end_unknown)?,
                client_status: end.uint32("client_status")?,
                upstream_status: end.uint32("upstream_status")?,
                end_marker: end.enumeration("end_marker", "END_MARKER_", by_name!(EndMarker), &mut end_unknown)?,
                error_type: end.text("error_type")?,
            };
            end.finish();
            Some(termination)
        }
    };
    if ends {
        unknown_enum = unknown_enum.or(end_unknown);
    }
    let usage = quantities(&mut object, "usage", &mut unknown_enum, &mut bad_quantity)?;
    let event = pb::CallEvent {
        account_id: object.text("account_id")?,
        call_id: object.text("call_id")?,
        phase,
        observer,
        occurred_at: object.instant("occurred_at")?,
        started_at: object.instant("started_at")?,
        attempt: object.uint32("attempt")?,
        seq: object.uint("seq")?.unwrap_or_default(),
        service: object.text("service")?,
        product: object.text("product")?,
        kind,
        end,
        usage,
        source: object.text("source")?,
        boot_id: object.text("boot_id")?,
        idempotency_key: object.text("idempotency_key")?,
        parent_id: object.text("parent_id")?,
        traceparent: object.text("traceparent")?,
        event_id: object.text("event_id")?,
        dimensions: object.pairs("dimensions")?,
        native: object.pairs("native")?,
    };
    object.finish();
    Ok(JsonEvent {
        event,
        unknown_enum,
        bad_quantity,
        unknown_fields,
    })
}

fn put(object: &mut Map<String, Value>, name: &str, text: &str) {
    if !text.is_empty() {
        object.insert(name.to_owned(), text.into());
    }
}

fn put_enum(object: &mut Map<String, Value>, name: &str, number: i32, text: Option<&str>) {
    if number != 0 {
        let value = text.map_or_else(|| Value::from(number), Value::from);
        object.insert(name.to_owned(), value);
    }
}

macro_rules! name_of {
    ($enumeration:ty, $number:expr) => {
        u64::try_from($number)
            .ok()
            .and_then(<$enumeration>::from_number)
            .map(<$enumeration>::as_str)
    };
}

/// Writes an event, unset fields left out, enum names short.
pub fn encode(event: &pb::CallEvent) -> Value {
    let mut object = Map::new();
    put(&mut object, "account_id", &event.account_id);
    put(&mut object, "call_id", &event.call_id);
    put_enum(&mut object, "phase", event.phase, name_of!(Phase, event.phase));
    put_enum(
        &mut object,
        "observer",
        event.observer,
        name_of!(Observer, event.observer),
    );
    for (name, at) in [("occurred_at", &event.occurred_at), ("started_at", &event.started_at)] {
        if let Some(at) = at {
            put(&mut object, name, &rfc3339(super::check::instant_ms(at)));
        }
    }
    if event.attempt != 0 {
        object.insert("attempt".to_owned(), event.attempt.into());
    }
    if event.seq != 0 {
        put(&mut object, "seq", &event.seq.to_string());
    }
    put(&mut object, "service", &event.service);
    put(&mut object, "product", &event.product);
    put_enum(&mut object, "kind", event.kind, name_of!(CallKind, event.kind));
    if let Some(end) = &event.end {
        let mut inner = Map::new();
        put_enum(&mut inner, "cause", end.cause, name_of!(Cause, end.cause));
        put_enum(&mut inner, "progress", end.progress, name_of!(Progress, end.progress));
        for (name, status) in [
            ("client_status", end.client_status),
            ("upstream_status", end.upstream_status),
        ] {
            if status != 0 {
                inner.insert(name.to_owned(), status.into());
            }
        }
        put_enum(
            &mut inner,
            "end_marker",
            end.end_marker,
            name_of!(EndMarker, end.end_marker),
        );
        put(&mut inner, "error_type", &end.error_type);
        object.insert("end".to_owned(), inner.into());
    }
    if !event.usage.is_empty() {
        let usage: Vec<Value> = event.usage.iter().map(quantity_json).collect();
        object.insert("usage".to_owned(), usage.into());
    }
    put(&mut object, "source", &event.source);
    put(&mut object, "boot_id", &event.boot_id);
    put(&mut object, "idempotency_key", &event.idempotency_key);
    put(&mut object, "parent_id", &event.parent_id);
    put(&mut object, "traceparent", &event.traceparent);
    put(&mut object, "event_id", &event.event_id);
    for (name, pairs) in [("dimensions", &event.dimensions), ("native", &event.native)] {
        if !pairs.is_empty() {
            let pairs: Map<String, Value> = pairs.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
            object.insert(name.to_owned(), pairs.into());
        }
    }
    object.into()
}

pub(super) fn quantity_json(quantity: &pb::Quantity) -> Value {
    let mut inner = Map::new();
    put(&mut inner, "meter", &quantity.meter);
    put(&mut inner, "value", &quantity.value.to_string());
    if quantity.scale != 0 {
        inner.insert("scale".to_owned(), quantity.scale.into());
    }
    put_enum(
        &mut inner,
        "provenance",
        quantity.provenance,
        name_of!(Provenance, quantity.provenance),
    );
    inner.into()
}

/// A tick's line in a file of records.
pub fn tick_text(at: crate::model::Ms) -> String {
    rfc3339(super::check::instant_ms(&timestamp(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"account_id":"acme","callId":"01J","phase":"PHASE_ENDED","occurred_at":"2026-09-01T00:00:01.250Z","kind":"stream","end":{"cause":"completed","clientStatus":200,"why":1},"usage":[{"meter":"output_tokens","value":"412","provenance":"upstream_measured"},{"meter":"bytes_out","value":7}],"dimensions":{"w":"x"},"colour":"red"}"#;

    #[test]
    fn both_spellings_are_read_and_unknown_fields_named() -> Result<(), Reject> {
        let read = decode(LINE.as_bytes())?;
        assert_eq!(read.event.call_id, "01J");
        assert_eq!(read.event.phase, Phase::Ended as i32);
        assert_eq!(read.event.usage[0].value, 412);
        assert_eq!(read.event.usage[1].value, 7);
        assert_eq!(read.unknown_fields, ["end.why", "colour"]);
        let again = event_of(encode(&read.event))?;
        assert_eq!(again.event, read.event);
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        let read = decode(br#"{"phase":"ened","usage":[{"meter":"m","value":1.5}]}"#);
        let read = read.unwrap_or_default();
        assert_eq!(read.unknown_enum, Some(("phase".to_owned(), "\"ened\"".to_owned())));
        assert_eq!(read.bad_quantity, Some(("usage[0].value".to_owned(), "1.5".to_owned())));
        for (text, field) in [
            ("[]", ""),
            (r#"{"occurred_at":"yesterday"}"#, "occurred_at"),
            (r#"{"attempt":-1}"#, "attempt"),
            (r#"{"end":7}"#, "end"),
            (r#"{"usage":[{"value":true}]}"#, "usage[0].value"),
        ] {
            let reject = decode(text.as_bytes()).err();
            assert_eq!(
                reject.map(|r| (r.reason, r.field.into_owned())),
                Some((RejectReason::Undecodable, field.to_owned()))
            );
        }
    }
}
