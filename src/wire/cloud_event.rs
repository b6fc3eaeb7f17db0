//! CloudEvents 1.0 in JSON: the envelope taken off, what it says put where the event itself says nothing.
//!
//! | attribute | what becomes of it |
//! |---|---|
//! | `specversion` | must be `1.0` |
//! | `type` | must be [`TYPE`] |
//! | `id` | `event_id`, if the event has none |
//! | `source` | `source`, if the event has none |
//! | `time` | `occurred_at`, if the event has none |
//! | `data` | the event as a JSON object |
//! | `data_base64` | the event in protobuf (or JSON, if its first byte is `{`) |
//!
//! All else (`subject`, `datacontenttype`, extensions) is left out. The event's own bytes stay as they are: what it lacks is
//! written behind them, and in both forms the last of a field holds.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::record::is_json;
use super::{json, pb, wording};
use crate::model::reject::{Reject, RejectReason};

/// The `type` of an envelope that holds one `CallEvent` of package `reckon.v1`.
pub const TYPE: &str = "reckon.call_event.v1";

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default)]
    specversion: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    source: Cow<'a, str>,
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    time: Option<String>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data_base64: Option<Cow<'a, str>>,
}

fn undecodable(field: &'static str, detail: impl Into<String>) -> Reject {
    Reject::new(RejectReason::Undecodable, field, detail)
}

fn missing(field: &'static str) -> Reject {
    Reject::new(RejectReason::MissingField, field, "absent or empty")
}

/// The event in an envelope, as it is to be appended. Only its sender hears of a rejection: the fold sees no envelopes.
pub fn unwrap(bytes: &[u8]) -> Result<Vec<u8>, Reject> {
    unwrapped(bytes).map_err(Reject::for_sender)
}

fn unwrapped(bytes: &[u8]) -> Result<Vec<u8>, Reject> {
    if !is_json(bytes) {
        return Err(undecodable("", "a CloudEvent is a JSON object"));
    }
    let envelope: Envelope<'_> =
        serde_json::from_slice(bytes).map_err(|e| undecodable("", format!("not a CloudEvent: {e}")))?;
    let required = [
        ("specversion", &envelope.specversion),
        ("id", &envelope.id),
        ("source", &envelope.source),
        ("type", &envelope.kind),
    ];
    if let Some((field, _)) = required.into_iter().find(|(_, text)| text.is_empty()) {
        return Err(missing(field));
    }
    if envelope.specversion != "1.0" {
        return Err(undecodable(
            "specversion",
            format!("{:?} is not 1.0", envelope.specversion),
        ));
    }
    if envelope.kind != TYPE {
        return Err(undecodable("type", format!("{:?} is not {TYPE}", envelope.kind)));
    }
    let event = match (envelope.data, &envelope.data_base64) {
        (Some(data), None) if is_json(data.get().as_bytes()) => Cow::Borrowed(data.get().as_bytes()),
        (Some(_), None) => return Err(undecodable("data", "not a JSON object; protobuf goes into data_base64")),
        (None, Some(text)) => {
            let decoded = STANDARD.decode(text.as_bytes());
            Cow::Owned(decoded.map_err(|e| undecodable("data_base64", e.to_string()))?)
        }
        (None, None) => return Err(missing("data")),
        (Some(_), Some(_)) => return Err(undecodable("data_base64", "beside data; one is allowed")),
    };
    if is_json(&event) {
        json_event(&event, &envelope)
    } else {
        protobuf_event(event.into_owned(), &envelope)
    }
}

fn json_event(event: &[u8], envelope: &Envelope<'_>) -> Result<Vec<u8>, Reject> {
    let read = json::decode(event)?.event;
    let mut lacking: Vec<(&str, &str)> = Vec::new();
    if read.event_id.is_empty() {
        lacking.push(("event_id", &envelope.id));
    }
    if read.source.is_empty() {
        lacking.push(("source", &envelope.source));
    }
    if let Some(time) = envelope.time.as_deref().filter(|_| read.occurred_at.is_none()) {
        lacking.push(("occurred_at", time));
    }
    // It was read as an object: its last byte that isn't a blank is the brace.
    let open = event.trim_ascii_end();
    let mut bytes = open[..open.len().saturating_sub(1)].trim_ascii_end().to_vec();
    for (name, text) in lacking {
        if bytes.len() > 1 {
            bytes.push(b',');
        }
        bytes.extend_from_slice(
            format!("{}:{}", serde_json::Value::from(name), serde_json::Value::from(text)).as_bytes(),
        );
    }
    bytes.push(b'}');
    Ok(bytes)
}

fn protobuf_event(mut event: Vec<u8>, envelope: &Envelope<'_>) -> Result<Vec<u8>, Reject> {
    let read = pb::CallEvent::decode(event.as_slice()).map_err(|e| undecodable("data_base64", e.to_string()))?;
    let mut lacking = pb::CallEvent::default();
    if read.event_id.is_empty() {
        lacking.event_id = envelope.id.clone().into_owned();
    }
    if read.source.is_empty() {
        lacking.source = envelope.source.clone().into_owned();
    }
    if let Some(time) = envelope.time.as_deref().filter(|_| read.occurred_at.is_none()) {
        let at = json::parse_instant(time).ok_or_else(|| {
            let reject = undecodable("time", format!("{time:?} is not a time of RFC 3339"));
            wording::with_instant(reject)
        });
        lacking.occurred_at = Some(at?);
    }
    event.extend_from_slice(&lacking.encode_to_vec());
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::decode_event;

    fn envelope(more: &str) -> String {
        format!(
            r#"{{"specversion":"1.0","id":"e-1","source":"/gw/1","type":"{TYPE}","time":"2026-09-01T00:00:00Z",{more}}}"#
        )
    }

    #[test]
    fn the_envelope_says_what_the_event_does_not() -> Result<(), Reject> {
        let bytes =
            unwrap(envelope(r#""data": {"account_id": "a", "call_id": "c", "phase": "started" } "#).as_bytes())?;
        assert!(bytes.starts_with(br#"{"account_id": "a", "call_id": "c", "phase": "started","#));
        let read = json::decode(&bytes)?.event;
        assert_eq!((read.event_id.as_str(), read.source.as_str()), ("e-1", "/gw/1"));
        assert!(read.occurred_at.is_some());
        let own = r#"{"event_id":"own","source":"own","occurred_at":"2026-09-02T00:00:00Z"}"#;
        assert_eq!(unwrap(envelope(&format!("\"data\":{own}")).as_bytes())?, own.as_bytes());
        assert_eq!(
            unwrap(envelope("\"data\":{}").as_bytes())?[..15],
            br#"{"event_id":"e-"#[..]
        );
        // A null is no source: the envelope's holds.
        let nulled = unwrap(envelope(r#""data":{"source":null}"#).as_bytes())?;
        assert_eq!(json::decode(&nulled)?.event.source, "/gw/1");
        Ok(())
    }

    #[test]
    fn protobuf_comes_in_base64() -> Result<(), Reject> {
        let event = pb::CallEvent {
            account_id: "a".to_owned(),
            call_id: "c".to_owned(),
            phase: 1,
            source: "own".to_owned(),
            ..pb::CallEvent::default()
        };
        let text = STANDARD.encode(event.encode_to_vec());
        let bytes = unwrap(envelope(&format!("\"data_base64\":\"{text}\"")).as_bytes())?;
        let mut scratch = Vec::new();
        let read = decode_event(&bytes, &mut scratch)?;
        assert_eq!((read.source, read.occurred_at), ("own", 1_788_220_800_000));
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, field) in [
            (envelope("\"data\":7"), "data"),
            (envelope("\"x\":7"), "data"),
            (envelope("\"data\":{},\"data_base64\":\"\""), "data_base64"),
            (envelope("\"data_base64\":\"*\""), "data_base64"),
            (envelope("\"data\":{}").replace("1.0", "0.3"), "specversion"),
            (envelope("\"data\":{}").replace(TYPE, "other"), "type"),
            (envelope("\"data\":{}").replace("e-1", ""), "id"),
            (envelope("\"data\":{}").replace("source", "origin"), "source"),
            ("[]".to_owned(), ""),
        ] {
            let reject = unwrap(text.as_bytes()).err();
            assert_eq!(reject.map(|r| r.field.into_owned()).as_deref(), Some(field), "{text}");
        }
    }
}
