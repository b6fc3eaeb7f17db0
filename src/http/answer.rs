//! What every answer says of itself: partition, offset and clock at which it stands.

use axum::Json;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::money::decimal_string;
use crate::model::period::rfc3339;
use crate::partition::live::Standing;

/// Where an answer stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AsOf {
    /// The account's partition.
    pub partition: u32,
    /// The last record that is in the answer.
    #[schema(example = "1041")]
    pub offset: String,
    /// Log time; absent in a log whose clock hasn't begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-11-24T12:00:00.000Z")]
    pub clock: Option<String>,
}

impl From<Standing> for AsOf {
    fn from(standing: Standing) -> Self {
        Self {
            partition: standing.partition,
            offset: standing.next_offset.saturating_sub(1).to_string(),
            clock: standing.clock.map(rfc3339),
        }
    }
}

/// An answer with its standing in the headers too, for forms other than JSON.
pub fn with_standing(standing: Standing, body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    put_standing(response.headers_mut(), standing);
    response
}

/// Puts the standing into the headers.
fn put_standing(headers: &mut HeaderMap, standing: Standing) {
    let as_of = AsOf::from(standing);
    let mut put = |name: &'static str, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            headers.insert(name, value);
        }
    };
    put("reckon-partition", &as_of.partition.to_string());
    put("reckon-offset", &as_of.offset);
    if let Some(clock) = &as_of.clock {
        put("reckon-clock", clock);
    }
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    // By it a form is chosen, and whether who isn't signed in is sent on.
    headers.insert("vary", HeaderValue::from_static("accept"));
}

/// A JSON answer.
pub fn json(standing: Standing, body: impl Serialize) -> Response {
    with_standing(standing, Json(body))
}

/// A JSON answer that is no partition's alone.
pub fn uncached(body: impl Serialize) -> Response {
    ([(axum::http::header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

/// An amount, or nothing where it can't be expressed.
pub fn amount(amount: Option<Decimal>) -> Option<String> {
    amount.map(decimal_string)
}
