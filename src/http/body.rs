//! A request's body as it arrives: counted, limited, and given up on when it stalls.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::gate::{Gate, Held};
use super::problem::{Code, Problem};

/// What is left of a refused body is read and thrown away up to so many bytes and so long: a client that still writes would
/// else see its connection reset and not the answer.
const DRAIN_BYTES: usize = 16 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// What happened next.
#[derive(Debug)]
pub enum Arrival {
    /// More bytes.
    Bytes(Bytes),
    /// Nothing for the time asked for; more may come.
    Pause,
    /// The body is complete.
    End,
}

/// A body on its way in.
pub struct Arriving {
    body: Body,
    held: Held,
    /// As the client says, if it does.
    declared: Option<usize>,
    arrived: usize,
    limit: usize,
    idle_timeout: Duration,
    last: Instant,
    until: Instant,
}

impl Arriving {
    /// A body that hasn't been read from.
    pub fn new(gate: &Arc<Gate>, headers: &HeaderMap, body: Body) -> Self {
        let now = Instant::now();
        let declared = headers.get(header::CONTENT_LENGTH);
        Self {
            body,
            held: Held::none(gate),
            declared: declared.and_then(|v| v.to_str().ok()?.parse().ok()),
            arrived: 0,
            limit: gate.limits.request_bytes,
            idle_timeout: gate.limits.idle_timeout,
            last: now,
            until: now + gate.limits.body_timeout,
        }
    }

    /// A small one, that has to come as fast as a piece of a large one.
    fn small(gate: &Arc<Gate>, headers: &HeaderMap, body: Body, limit: usize) -> Self {
        let arriving = Self::new(gate, headers, body);
        Self {
            limit,
            until: arriving.last + arriving.idle_timeout,
            ..arriving
        }
    }

    fn too_large(&self) -> Problem {
        Problem::new(
            Code::TooLarge,
            format!("the body is over {} bytes, decompressed", self.limit),
        )
    }

    /// Waits for more; with `pause` no longer than that.
    pub async fn next(&mut self, pause: Option<Duration>) -> Result<Arrival, Problem> {
        if self.declared.is_some_and(|bytes| bytes > self.limit) {
            return Err(self.too_large());
        }
        let stalled = (self.last + self.idle_timeout).min(self.until);
        let until = pause.map_or(stalled, |pause| stalled.min(Instant::now() + pause));
        let bytes = loop {
            match tokio::time::timeout_at(until, self.body.frame()).await {
                Err(_) if until < stalled => return Ok(Arrival::Pause),
                Err(_) => {
                    return Err(Problem::new(
                        Code::TimedOut,
                        format!("nothing more came for too long after {} bytes", self.arrived),
                    ));
                }
                Ok(None) => return Ok(Arrival::End),
                Ok(Some(Err(cause))) => {
                    return Err(Problem::new(Code::BadBody, format!("the body broke off: {cause}")));
                }
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) if bytes.is_empty() => {}
                    Ok(bytes) => break bytes,
                    // Trailers say nothing here.
                    Err(_) => {}
                },
            }
        };
        self.last = Instant::now();
        self.arrived += bytes.len();
        if self.arrived > self.limit {
            return Err(self.too_large());
        }
        self.held.grow(bytes.len())?;
        Ok(Arrival::Bytes(bytes))
    }

    /// All of it.
    pub async fn whole(&mut self) -> Result<Vec<u8>, Problem> {
        let mut whole = Vec::new();
        loop {
            match self.next(None).await? {
                Arrival::Bytes(bytes) => whole.extend_from_slice(&bytes),
                Arrival::Pause => {}
                Arrival::End => return Ok(whole),
            }
        }
    }

    /// Parts with so many of the bytes in flight, for work that may outlive the request.
    #[must_use]
    pub fn hand_over(&mut self, bytes: usize) -> Held {
        self.held.hand_over(bytes)
    }

    /// Reads on for the answer's sake.
    pub async fn drain(mut self) {
        let mut left = DRAIN_BYTES;
        let drained = async {
            while let Some(Ok(frame)) = self.body.frame().await {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                match left.checked_sub(bytes) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        };
        // Over or not: the answer goes out now.
        let _ = tokio::time::timeout(DRAIN_TIME, drained).await;
    }
}

/// The request with its whole body, which has to be small and to come within a time. Whoever reads a body in another way
/// waits for it for ever.
pub async fn in_time(gate: &Arc<Gate>, request: Request, limit: usize) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let mut arriving = Arriving::small(gate, &parts.headers, body, limit);
    match arriving.whole().await {
        Ok(whole) => Ok(Request::from_parts(parts, Body::from(whole))),
        Err(problem) => {
            arriving.drain().await;
            Err(problem)
        }
    }
}
