//! One record of the log: its kind and what its bytes say.

use prost::Message;

use super::{control, json, pb, plain_json, protobuf, wording};
use crate::model::Ms;
use crate::model::event::Event;
use crate::model::limits::RECORD_BYTES_MAX;
use crate::model::reject::{Reject, RejectReason};

/// What kind of record it is: on Kafka the header `reckon-record`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// From a gateway.
    Event = 0,
    /// Only moves the clock.
    Tick = 1,
    /// From the operator.
    Control = 2,
    /// The first record of a partition.
    Genesis = 3,
}

impl Kind {
    /// By its number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Event),
            1 => Some(Self::Tick),
            2 => Some(Self::Control),
            3 => Some(Self::Genesis),
            _ => None,
        }
    }

    /// By the header's bytes. What isn't known is an event, to be rejected as what it is not.
    pub fn from_header(value: &[u8]) -> Self {
        match value {
            b"tick" => Self::Tick,
            b"control" => Self::Control,
            b"genesis" => Self::Genesis,
            _ => Self::Event,
        }
    }

    /// The header's text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Tick => "tick",
            Self::Control => "control",
            Self::Genesis => "genesis",
        }
    }
}

/// What stands beside a record's bytes: on Kafka, headers of the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    /// `reckon-signature`: by whose authority, as `key id:base64`.
    pub signature: Option<&'a str>,
    /// `reckon-forwarded`: where the event was before it was forwarded to its own partition.
    pub forwarded: Option<Forwarded>,
}

/// Where a forwarded event was found, and when the log took it there (RULES §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The partition that it was misplaced in.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// When the log took it there.
    pub append_ms: Ms,
}

impl Forwarded {
    /// The header's text: `PARTITION:OFFSET:APPEND_MS`.
    pub fn to_text(self) -> String {
        format!("{}:{}:{}", self.partition, self.offset, self.append_ms)
    }

    /// Reads the header's text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let forwarded = Self {
            partition: parts.next()?.parse().ok()?,
            offset: parts.next()?.parse().ok()?,
            append_ms: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(forwarded)
    }
}

/// What one record says, decoded; `Err` is what the decoder rejected.
///
/// Nearly every record is an event: a box around it would cost an allocation each.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most records are of the large kind")]
pub enum Input<'a> {
    /// From a gateway.
    Event(Result<Event<'a>, Reject>),
    /// The owner's wall time, or a history's.
    Tick(Result<Ms, Reject>),
    /// From the operator.
    Control(Result<Box<pb::Control>, Reject>),
    /// The first record; folded before, says nothing more.
    Genesis,
}

/// Whether the bytes are JSON: the first is `{` (contract).
pub fn is_json(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'{')
}

/// Decodes an event in either form, for whoever sends it: a rejection says how to mend it. `scratch` holds what JSON is
/// turned into.
pub fn decode_event<'a>(bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Event<'a>, Reject> {
    event_of(bytes, scratch).map_err(Reject::for_sender)
}

/// The rejection of an event that can be decoded, and has a field over its limit: how far, for whoever sends it.
pub fn too_large(field: &'static str, bytes: &[u8]) -> Reject {
    let event = if is_json(bytes) {
        json::decode(bytes).map(|read| read.event).ok()
    } else {
        pb::CallEvent::decode(bytes).ok()
    };
    let told = event.and_then(|event| wording::oversize(&event, field));
    let detail = told.unwrap_or_else(|| "over the contract's size".to_owned());
    Reject::new(RejectReason::TooLarge, field, detail)
}

/// Decodes an event as [`decode_event`] does, for the fold, in the words of the rejects output.
fn event_of<'a>(bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Event<'a>, Reject> {
    if !is_json(bytes) {
        return protobuf::decode(bytes);
    }
    if let Some(decoded) = plain_json::decode(bytes) {
        return decoded;
    }
    let read = json::decode(bytes)?;
    scratch.clear();
    // A growing Vec takes any message.
    let _ = read.event.encode(scratch);
    let mut event = protobuf::decode(scratch).map_err(|reject| read.explain(reject))?;
    event.unknown_fields = u32::try_from(read.unknown_fields.len()).unwrap_or(u32::MAX);
    if bytes.len() > RECORD_BYTES_MAX {
        event.too_large = Some("record");
    }
    Ok(event)
}

/// Decodes a record.
pub fn decode<'a>(kind: Kind, bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Input<'a> {
    match kind {
        Kind::Event => Input::Event(event_of(bytes, scratch)),
        Kind::Tick => Input::Tick(protobuf::decode_tick(bytes)),
        Kind::Control => Input::Control(control::decode(bytes).map(Box::new)),
        Kind::Genesis => Input::Genesis,
    }
}

/// The producer an event names (a CloudEvent too), however broken the rest of it is.
pub fn source_of(bytes: &[u8]) -> Option<String> {
    if is_json(bytes) {
        let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        value.get("source")?.as_str().map(str::to_owned)
    } else {
        protobuf::source_of(bytes).map(str::to_owned)
    }
}

/// The account an event names, however broken the rest of it is.
pub fn account_of(bytes: &[u8]) -> Option<String> {
    if is_json(bytes) {
        // Whatever else is wrong with it: only the account's own partition judges it (RULES §1).
        let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        let account = value.get("account_id").or_else(|| value.get("accountId"))?.as_str()?;
        (!account.is_empty()).then(|| account.to_owned())
    } else {
        protobuf::account_of(bytes).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_is_read_however_broken_the_rest_is() {
        for (text, account) in [
            (r#"{"account_id":"acme","attempt":"many"}"#, Some("acme")),
            (r#"{"accountId":"acme","occurred_at":7}"#, Some("acme")),
            (r#"{"account_id":"acme","accountId":"other","end":[]}"#, Some("acme")),
            (r#"{"account_id":7}"#, None),
            (r#"{"account_id":""}"#, None),
            (r#"{"account_id":"acme""#, None),
        ] {
            assert_eq!(account_of(text.as_bytes()).as_deref(), account, "{text}");
        }
    }
}
