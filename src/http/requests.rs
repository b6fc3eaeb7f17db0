//! Around every request: its id, its line in the log, its place in the metrics.
//!
//! Neither line nor metric has the path, the query or a header: routes are named by their patterns, since paths hold account
//! ids and headers hold tokens.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use tracing::Instrument;

/// Takes and gives a request's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken from a client.
const ID_BYTES_MAX: usize = 128;

/// Tells the ids of one process from another's.
static PROCESS: LazyLock<u64> = LazyLock::new(|| {
    let nanos = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default();
    nanos.cast_unsigned() ^ u64::from(std::process::id()).rotate_left(40)
});

static COUNT: AtomicU64 = AtomicU64::new(0);

/// The client's id if it can stand in a log, else a new one.
fn id_of(headers: &HeaderMap) -> HeaderValue {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.:/+=".contains(&c);
    if let Some(given) = headers.get(REQUEST_ID) {
        let bytes = given.as_bytes();
        if !bytes.is_empty() && bytes.len() <= ID_BYTES_MAX && bytes.iter().copied().all(plain) {
            return given.clone();
        }
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    HeaderValue::from_str(&format!("{:x}-{count:x}", *PROCESS)).unwrap_or(HeaderValue::from_static("unnamed"))
}

/// The method as a label: clients can make up others.
fn method_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// A request that is under way. When its client leaves first, it is let go without an answer.
struct UnderWay {
    route: String,
    method: &'static str,
    began: Instant,
    answered: bool,
}

impl UnderWay {
    fn begin(route: String, method: &'static str) -> Self {
        metrics::gauge!("reckon_http_requests_in_progress").increment(1);
        Self {
            route,
            method,
            began: Instant::now(),
            answered: false,
        }
    }

    fn count(&self, status: String) {
        let labels = [
            ("route", self.route.clone()),
            ("method", self.method.to_owned()),
            ("status", status),
        ];
        metrics::counter!("reckon_http_requests_total", &labels).increment(1);
    }

    fn answered(&mut self, response: &Response) {
        self.answered = true;
        let (status, elapsed) = (response.status(), self.began.elapsed());
        self.count(status.as_str().to_owned());
        let labels = [("route", self.route.clone()), ("method", self.method.to_owned())];
        metrics::histogram!("reckon_http_request_seconds", &labels).record(elapsed);
        let (route, method, status, latency_us) = (
            self.route.as_str(),
            self.method,
            status.as_u16(),
            elapsed.as_micros() as u64,
        );
        if status >= 500 {
            tracing::warn!(target: "reckon::request", method, route, status, latency_us, "request");
        } else {
            tracing::debug!(target: "reckon::request", method, route, status, latency_us, "request");
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        metrics::gauge!("reckon_http_requests_in_progress").decrement(1);
        if !self.answered {
            self.count("client_gone".to_owned());
            let latency_us = self.began.elapsed().as_micros() as u64;
            let (route, method) = (self.route.as_str(), self.method);
            tracing::debug!(target: "reckon::request", method, route, latency_us, "the client left before the answer");
        }
    }
}

/// A stream that is being followed.
struct Following;

impl Following {
    fn begin() -> Self {
        metrics::gauge!("reckon_streams_open").increment(1);
        Self
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        metrics::gauge!("reckon_streams_open").decrement(1);
    }
}

fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// Counts a stream until its body is let go: at its end, or when its client leaves.
fn followed(response: Response) -> Response {
    let following = Following::begin();
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _until_the_body_is_let_go = &following;
            frame
        }))
    })
}

/// Gives the request an id, and notes how it went once the answer's head is ready.
pub async fn observe(request: Request, next: Next) -> Response {
    let id = id_of(request.headers());
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or("none", MatchedPath::as_str).to_owned();
    let mut under_way = UnderWay::begin(route, method_of(request.method()));
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());
    async move {
        let mut response = next.run(request).await;
        response.headers_mut().insert(REQUEST_ID, id);
        under_way.answered(&response);
        if is_stream(&response) {
            followed(response)
        } else {
            response
        }
    }
    .instrument(span)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_can_stand_in_a_log_are_taken() {
        let id = |given: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_str(given).expect("a value"));
            id_of(&headers)
        };
        assert_eq!(id("abc-1.2:3"), "abc-1.2:3");
        for given in ["", "two words", "mail@example.com", &"x".repeat(129)] {
            assert_ne!(id(given), given);
        }
        assert_ne!(id_of(&HeaderMap::new()), id_of(&HeaderMap::new()));
    }

    #[test]
    fn made_up_methods_are_one_label() {
        assert_eq!(method_of(&Method::from_bytes(b"BREW").expect("a method")), "other");
    }
}
