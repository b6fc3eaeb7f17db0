//! `GET /v1/accounts/{account}/usage/stream`: totals of the running period as they grow, as server-sent events.
//!
//! Every message carries the totals themselves, never a difference: whoever comes back after a cut has all with the first one.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use futures_util::stream::unfold;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

use super::caller::Caller;
use super::page;
use super::params::{Params, Places};
use super::problem::{Code, Problem, ProblemBody};
use super::service::{AtLeast, Service, blocking};
use super::usage::{self, UsageParams};
use super::watchers::{Form, ROUND_EVERY, Totals, Watch};
use crate::partition::account::{UsageQuery, Window};
use crate::partition::live::{Live, ReadError, Standing};
use crate::partition::sharing::Sharing;
use crate::partition::taken::Taken;
use crate::store::rows::Rows;

/// So often something is sent though nothing has changed, for those in between that end what is silent.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

/// How often it is looked whether the partition is still this instance's.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A browser comes back so long after a cut.
const GREETING: &str = "retry: 1000\n\n";

/// A stream ends after it: whoever comes again is asked for a token that still holds.
const LIFE_MAX: Duration = Duration::from_secs(5 * 60);

/// The header in which a browser says what it has seen.
const LAST_EVENT_ID: &str = "last-event-id";

/// What is asked. The running period is meant, also after it has rolled over.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StreamParams {
    /// Length of a window in the account's time zone: `month`, or `day`.
    #[param(nullable = false, inline)]
    window: Option<Window>,
    /// What is told apart besides the meter, as for the usage read; `product,class` if not given.
    #[param(nullable = false, example = "product,class")]
    group_by: Option<String>,
}

/// One message, as a client's reader of server-sent events hands it on.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UsageMessage {
    /// PARTITION:OFFSET of the last record that is in it.
    #[schema(example = "2:1041")]
    pub id: String,
    /// A `UsageBody` as JSON.
    #[schema(content_media_type = "application/json")]
    pub data: String,
}

/// The id of a message, which a client sends back as `Last-Event-ID`.
pub fn id(standing: Standing) -> String {
    format!("{}:{}", standing.partition, standing.next_offset.saturating_sub(1))
}

/// The totals as a message, from what was taken of the account.
pub fn totals(
    live: &Live,
    taken: &Taken,
    rows: &mut Rows<'_>,
    query: &UsageQuery,
) -> Result<Option<Totals>, ReadError> {
    let found = live.usage_of(taken, rows, query)?;
    let mut message = format!("id: {}\ndata: ", id(found.standing)).into_bytes();
    // Strings and numbers in structs: nothing that JSON can't say, and no line break.
    if serde_json::to_writer(&mut message, &usage::body(&taken.id, &found, query)).is_err() {
        return Ok(None);
    }
    message.extend_from_slice(b"\n\n");
    Ok(Some(Totals {
        standing: found.standing,
        message: message.into(),
    }))
}

/// One client of a stream.
struct Follower {
    watch: Watch,
    closing: CancellationToken,
    /// A stream ends when the partition is given to another instance: whoever comes back is sent there.
    sharing: Option<Arc<Sharing>>,
    /// Only totals with this record are news.
    seen: Option<AtLeast>,
    /// From totals to totals at least.
    pace: Duration,
    greeted: bool,
    last_totals: Option<Instant>,
    last_sent: Instant,
    until: Instant,
}

impl Follower {
    async fn totals(&mut self) -> Option<Bytes> {
        if let Some(last) = self.last_totals {
            tokio::time::sleep_until(last + self.pace).await;
        }
        loop {
            let totals = self.watch.next().await?;
            if self.seen.is_none_or(|s| s.offset < totals.standing.next_offset) {
                return Some(totals.message.clone());
            }
        }
    }

    fn is_ours(&self) -> bool {
        let number = self.watch.live().number;
        self.sharing.as_ref().is_none_or(|s| s.may_answer(number))
    }

    fn heartbeat(&self) -> Bytes {
        let standing = self.watch.live().standing();
        match self.watch.form() {
            Form::Usage(_) => format!(": {}\n\n", id(standing)).into(),
            Form::Page => page::live::heartbeat(),
        }
    }

    /// The next piece of the body; `None` ends it.
    async fn next(mut self) -> Option<(Result<Bytes, std::convert::Infallible>, Self)> {
        if !self.greeted {
            self.greeted = true;
            return Some((Ok(Bytes::from_static(GREETING.as_bytes())), self));
        }
        let closing = self.closing.clone();
        let silent = self.last_sent + HEARTBEAT_EVERY;
        let shared = self.sharing.is_some();
        let piece = loop {
            let until = self.until;
            tokio::select! {
                () = closing.cancelled() => return None,
                () = tokio::time::sleep_until(until) => return None,
                totals = self.totals() => {
                    self.last_totals = Some(Instant::now());
                    break totals?;
                }
                () = tokio::time::sleep_until(silent) => break self.heartbeat(),
                () = tokio::time::sleep(LOOK_EVERY), if shared => {}
            }
            if !self.is_ours() {
                return None;
            }
        };
        if !self.is_ours() {
            return None;
        }
        self.last_sent = Instant::now();
        Some((Ok(piece), self))
    }
}

/// What the client has seen before, if the log still has it: it may be that of a copy which was put back.
fn seen(headers: &HeaderMap, live: &Live) -> Option<AtLeast> {
    let seen: AtLeast = headers.get(LAST_EVENT_ID)?.to_str().ok()?.parse().ok()?;
    let end = live.log().end(live.number).ok()?;
    (seen.partition == live.number && seen.offset < end).then_some(seen)
}

/// The stream of one form of an account's totals, once it is certain that there is such an account.
pub async fn follow(
    service: &Service,
    account: &str,
    form: Form,
    pace: Duration,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let live = service.partition_of(account, None).await?;
    let of = account.to_owned();
    if !live.ask(move |look| look.knows(&of)).await? {
        return Err(Problem::account_unknown(account));
    }
    // Kafka's end is asked of the cluster.
    let (reader, asked) = (Arc::clone(&live), headers.clone());
    let seen = match headers.get(LAST_EVENT_ID) {
        Some(_) => blocking(move || seen(&asked, &reader)).await?,
        None => None,
    };
    let watch = service.watchers.watch(&live, account, form, seen.map(|s| s.offset));
    let watch = watch.ok_or_else(|| Problem::new(Code::Internal, "a partition without watchers"))?;
    let follower = Follower {
        watch,
        closing: service.closing.clone(),
        sharing: service.running.sharing.clone(),
        seen,
        pace,
        greeted: false,
        last_totals: None,
        last_sent: Instant::now(),
        until: Instant::now() + LIFE_MAX,
    };
    let mut response = Response::new(Body::from_stream(unfold(follower, Follower::next)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would keep messages back until its buffer is full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// An account's usage, live
///
/// Server-sent events. Each message is the body of a usage read of the running period: absolute totals with the calls by
/// outcome, never differences, so after a cut the next message has all. `id` is PARTITION:OFFSET of the last record that is
/// in it; give it, or the place of an event of your own, as `Last-Event-ID` to get nothing older. Totals of more than 10,000 rows
/// are cut off there, with `next` as the usage read has it. A message is sent at once, then when something has changed, each
/// 250 ms at most (less often while very many accounts are watched); a slow client misses totals in between, never the last.
/// When nothing changes for 15 s, a comment line is sent. Ends after five minutes, so that an expired token reads no more,
/// and when the service shuts down: connect again.
#[utoipa::path(
    get,
    path = "/v1/accounts/{account}/usage/stream",
    tag = "reads",
    params(
        ("account" = String, Path, description = "Who pays"),
        StreamParams,
        ("Last-Event-ID" = Option<String>, Header, description = "PARTITION:OFFSET that was seen before")
    ),
    responses(
        (status = 200, description = "Messages, each with the body of a usage read in `data`", body = UsageMessage, content_type = "text/event-stream"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("account" = []), ("operator" = []))
)]
pub async fn usage_stream(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Places(account): Places<String>,
    Params(params): Params<StreamParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_read(&account)?;
    if params.window == Some(Window::Hour) {
        return Err(Problem::parameter(
            "window",
            "hours aren't streamed; ask for day or month",
        ));
    }
    let live = service.partition_of(&account, None).await?;
    let rollups = live.ask(|look| look.words.rollup_names()).await?;
    let query = UsageParams::running(params.window, params.group_by).query(&rollups)?;
    follow(&service, &account, Form::Usage(query), ROUND_EVERY, &headers).await
}
