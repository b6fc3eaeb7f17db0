//! Bodies of `POST /v1/events` as the contract describes them: `reckon.v1.CallEvent` of proto/reckon/v1/events.proto in JSON, as
//! `wire::json` reads it. Nothing is read by these types.

use std::collections::BTreeMap;

use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

/// A value of one of the contract's enums, by its name or its number; 0: not given.
fn named(description: &str, names: &[&str]) -> RefOr<Schema> {
    let name = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(names.iter().copied()));
    let number = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(0u32))
        .maximum(Some(names.len()));
    OneOfBuilder::new()
        .description(Some(description))
        .item(name)
        .item(number)
        .into()
}

macro_rules! names {
    ($($(#[doc = $doc:literal])+ $name:ident: $($text:literal)+;)+) => {$(
        $(#[doc = $doc])+
        pub struct $name;

        impl $name {
            /// The names, in the order of their numbers from 1.
            pub const NAMES: &'static [&'static str] = &[$($text,)+];
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                named(concat!($($doc,)+).trim(), Self::NAMES)
            }
        }

        impl ToSchema for $name {}
    )+};
}

names! {
    /// What part of the call's life the event tells of. Also as PHASE_ENDED.
    EventPhase: "started" "response_started" "progress" "attempt_ended" "ended" "usage_reported";
    /// Who saw it.
    EventObserver: "edge" "upstream" "provider";
    /// What kind of call it is.
    EventCallKind: "unary" "stream" "async_task" "batch_item" "session_slice";
    /// How it ended.
    EventCause:
        "completed" "client_gone" "upstream_error" "upstream_broken" "upstream_timeout" "rejected" "gateway_aborted"
        "cancelled" "expired";
    /// How far the request provably got.
    EventProgress: "not_forwarded" "forwarded" "response_started" "complete";
    /// The application's own end of a stream.
    EventEndMarker: "seen" "missing";
    /// How a quantity is known: higher wins.
    EventProvenance: "reserved" "estimated" "edge_counted" "upstream_measured" "provider_invoiced";
}

/// A whole number, also as a string: not every client has integers of 64 bits.
fn whole(max: Option<u32>) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Integer, Type::String]))
        .minimum(Some(0u32))
        .maximum(max)
        .pattern(Some(r"^\+?[0-9]+$"))
        .into()
}

macro_rules! wholes {
    ($($(#[doc = $doc:literal])+ $name:ident = $max:expr;)+) => {$(
        $(#[doc = $doc])+
        pub struct $name;

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                whole($max)
            }
        }

        impl ToSchema for $name {}
    )+};
}

wholes! {
    /// Any.
    EventNumber = None;
    /// The number of an upstream try.
    EventAttempt = Some(255);
    /// Decimal places.
    EventScale = Some(9);
}

/// A quantity, cumulative for the attempt.
#[derive(ToSchema)]
pub struct EventQuantity {
    /// `input_tokens_uncached`, `cache_read_tokens`, `cache_write_tokens`, `output_tokens`, `bytes_in`, `bytes_out`, `compute_ms`, or
    /// `x.<vendor>.<name>`. `requests` is counted, never reported.
    #[schema(min_length = 1, max_length = 128, example = "output_tokens")]
    pub meter: String,
    /// Times 10^-scale.
    #[schema(inline, example = "412")]
    pub value: Option<EventNumber>,
    /// Decimal places.
    #[schema(inline)]
    pub scale: Option<EventScale>,
    /// `edge_counted` if not given.
    pub provenance: Option<EventProvenance>,
}

/// How an observer saw the call, or an attempt, end.
#[derive(ToSchema)]
pub struct EventEnd {
    /// Required where the phase is `ended` or `attempt_ended`.
    pub cause: Option<EventCause>,
    /// How far the request provably got.
    pub progress: Option<EventProgress>,
    /// 0: no status line reached the client's side.
    #[schema(inline)]
    pub client_status: Option<EventNumber>,
    /// 0: none seen.
    #[schema(inline)]
    pub upstream_status: Option<EventNumber>,
    /// Absent: this producer can't see it.
    pub end_marker: Option<EventEndMarker>,
    /// Such as overloaded_error, rate_limited, refusal, cancelled.
    pub error_type: Option<String>,
}

/// One fact that one observer reports about one call. Names may also be in lowerCamelCase; fields that aren't here are left out and
/// counted.
#[derive(ToSchema)]
#[schema(example = json!({
    "account_id": "acme", "call_id": "01J8Z3", "phase": "ended", "occurred_at": "2026-09-01T12:00:00.250Z", "product": "m-large",
    "kind": "stream", "end": {"cause": "completed", "progress": "complete", "client_status": 200},
    "usage": [{"meter": "output_tokens", "value": "412", "provenance": "upstream_measured"}], "source": "/gateway/eu1/7"
}))]
pub struct CallEvent {
    /// Who pays.
    #[schema(min_length = 1, max_length = 128)]
    pub account_id: String,
    /// Minted by the operator's edge, the same for all attempts and observers.
    #[schema(min_length = 1, max_length = 128)]
    pub call_id: String,
    /// What part of the call's life it tells of.
    pub phase: EventPhase,
    /// `edge` if not given.
    pub observer: Option<EventObserver>,
    /// By the producer's clock; milliseconds are kept.
    #[schema(format = DateTime)]
    pub occurred_at: String,
    /// When the call began, in RFC 3339; absent or empty: not known.
    pub started_at: Option<String>,
    /// Upstream tries from 1; 0: the call as a whole, or not known.
    #[schema(inline)]
    pub attempt: Option<EventAttempt>,
    /// Grows by observer and call; 0: not given.
    #[schema(inline)]
    pub seq: Option<EventNumber>,
    /// The interface: api, console, batch and so on.
    #[schema(max_length = 128)]
    pub service: Option<String>,
    /// What the rate card prices: a model, an endpoint.
    #[schema(max_length = 128)]
    pub product: Option<String>,
    /// `unary` if not given.
    pub kind: Option<EventCallKind>,
    /// Required where the phase is `ended` or `attempt_ended`.
    pub end: Option<EventEnd>,
    /// Cumulative for the attempt, never differences.
    pub usage: Option<Vec<EventQuantity>>,
    /// The producer.
    pub source: Option<String>,
    /// Changes when the producer restarts.
    pub boot_id: Option<String>,
    /// The client's, of this account.
    pub idempotency_key: Option<String>,
    /// Batch, task or session.
    pub parent_id: Option<String>,
    /// W3C, for correlation only.
    pub traceparent: Option<String>,
    /// For tracing only.
    pub event_id: Option<String>,
    /// At most 16 pairs, keys to 64 bytes, values to 256 bytes.
    pub dimensions: Option<BTreeMap<String, String>>,
    /// Verbatim signals of the gateway, kept for disputes; the same limits.
    pub native: Option<BTreeMap<String, String>>,
}

/// One event, or many.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Events {
    /// One.
    One(Box<CallEvent>),
    /// Each is judged by itself.
    Many(Vec<CallEvent>),
}

/// A CloudEvent 1.0 in structured mode.
#[derive(ToSchema)]
#[schema(example = json!({
    "specversion": "1.0", "id": "e-1", "source": "/gateway/eu1/7", "type": "reckon.call_event.v1", "time": "2026-09-01T12:00:00.250Z",
    "data": {"account_id": "acme", "call_id": "01J8Z3", "phase": "started"}
}))]
pub struct CloudEvent {
    /// 1.0.
    #[schema(pattern = r"^1\.0$")]
    pub specversion: String,
    /// `event_id`, where the event has none.
    #[schema(min_length = 1)]
    pub id: String,
    /// `source`, where the event has none.
    #[schema(min_length = 1)]
    pub source: String,
    /// reckon.call_event.v1.
    #[schema(pattern = r"^reckon\.call_event\.v1$")]
    pub r#type: String,
    /// `occurred_at`, where the event has none.
    pub time: Option<String>,
    /// The event as a JSON object: a CallEvent, though what the envelope says may be absent.
    #[schema(value_type = Option<Object>)]
    pub data: Option<Value>,
    /// Instead of `data`: the event in protobuf.
    pub data_base64: Option<String>,
}

/// A CallEvent in protobuf; with `framing=delimited` many, each after its length.
pub struct Protobuf;

impl PartialSchema for Protobuf {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
            .into()
    }
}

impl ToSchema for Protobuf {}
