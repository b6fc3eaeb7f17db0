//! The other instances that share a Kafka log: who owns which partition, and asking them, within a time.
//!
//! What the group says of owners is a hint and no more: whoever is asked answers only for partitions that it knows to be its own.
//! So an old hint costs a refusal, never a wrong answer, and where the group is just being ordered anew (it names nobody then) the
//! last hint is still tried.
//!
//! The token of a request goes along, as what it is: the owner checks it again. Addresses come from the group's members, so
//! whoever may join the group is trusted with tokens as with the partitions themselves: `reckon topics acls` prints the ACLs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use axum::response::Response;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::problem::{Code, Problem};
use super::requests::REQUEST_ID;
use crate::log::LogError;
use crate::log::kafka::KafkaLog;
use crate::log::kafka::owners::{Directory, Owners};

/// Names the instance whose answer it is.
pub const OWNER: HeaderName = HeaderName::from_static("reckon-owner");

/// On a request: who has passed it on. It is passed on no further.
pub const PROXIED_BY: HeaderName = HeaderName::from_static("reckon-proxied-by");

/// How long it takes at most to reach an instance.
const CONNECT_WAIT: Duration = Duration::from_secs(1);

/// How long an instance may take until the head of its answer; a read that waits for one's own write takes a second of it.
const HEAD_WAIT: Duration = Duration::from_secs(5);

/// How long the group may take to say who owns what.
const GROUP_WAIT: Duration = Duration::from_secs(4);

/// How old what the group said may be before it is asked again, beside the reads.
const HINTS_FRESH: Duration = Duration::from_secs(2);

/// The same where somebody was found not to own what the group said; of many such findings one is enough.
const HINTS_DOUBTED: Duration = Duration::from_secs(1);

/// What is older than this isn't answered from: after a pause reads wait for the group.
const HINTS_OLD: Duration = Duration::from_secs(30);

/// Connections that nobody needs are closed before the other side does so (`listen.head_timeout`).
const IDLE: Duration = Duration::from_secs(5);

/// Bytes of an answer that is read whole, at most.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// What of a read's request goes along. No cookie: its token goes as a bearer, which is worth no more.
const TAKEN_ALONG: [HeaderName; 8] = [
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::USER_AGENT,
    HeaderName::from_static("last-event-id"),
    REQUEST_ID,
];

/// What holds for one connection alone (RFC 9110, 7.6.1), and what this instance says itself.
const LEFT_OUT: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    REQUEST_ID,
];

/// Asks the group who owns what. It may take long.
type Ask = dyn Fn() -> Result<Owners, LogError> + Send + Sync;

/// What was last heard of owners. The group is asked beside the reads: they are answered from what is known.
#[derive(Clone)]
struct Hints {
    ask: Arc<Ask>,
    heard: Arc<Mutex<Heard>>,
    /// Whether there is something to answer from.
    usable: watch::Sender<bool>,
}

#[derive(Default)]
struct Heard {
    /// When the group was last asked.
    asked: Option<Instant>,
    is_asking: bool,
    /// Somebody didn't own what was said to be its.
    is_doubted: bool,
    owners: Owners,
}

impl Heard {
    /// Whether it is time to ask; whoever is told so asks. With it whether what is known is of no use any more.
    fn begins_asking(&mut self, now: Instant) -> Option<bool> {
        let age = self.asked.map(|asked| now.saturating_duration_since(asked));
        let fresh = if self.is_doubted { HINTS_DOUBTED } else { HINTS_FRESH };
        if self.is_asking || age.is_some_and(|age| age < fresh) {
            return None;
        }
        (self.is_asking, self.is_doubted, self.asked) = (true, false, Some(now));
        Some(age.is_none_or(|age| age >= HINTS_OLD))
    }
}

impl Hints {
    fn new(ask: Arc<Ask>) -> Self {
        Self {
            ask,
            heard: Arc::default(),
            usable: watch::Sender::new(false),
        }
    }

    /// Where owners are, as far as is known.
    async fn owners(&self) -> Owners {
        let begins = self.heard.lock().begins_asking(Instant::now());
        if let Some(old) = begins {
            if old {
                self.usable.send_replace(false);
            }
            let asking = self.clone();
            tokio::task::spawn_blocking(move || asking.refresh());
        }
        let mut usable = self.usable.subscribe();
        if tokio::time::timeout(GROUP_WAIT, usable.wait_for(|usable| *usable))
            .await
            .is_err()
        {
            tracing::warn!("the group doesn't say who owns what in time");
        }
        self.heard.lock().owners.clone()
    }

    fn refresh(&self) {
        let told = (self.ask)();
        let mut heard = self.heard.lock();
        heard.is_asking = false;
        match told {
            // Where it names nobody just now, the last one is still tried.
            Ok(owners) => heard.owners.extend(owners),
            Err(cause) => tracing::warn!(%cause, "the group doesn't say who owns what"),
        }
        drop(heard);
        self.usable.send_replace(true);
    }

    fn doubt(&self) {
        self.heard.lock().is_doubted = true;
    }
}

/// The other instances.
pub struct Peers {
    own: String,
    own_header: HeaderValue,
    client: Client<HttpConnector, Empty<Bytes>>,
    hints: Option<Hints>,
}

impl Peers {
    /// Those that share the log with this one. Nobody is asked yet.
    pub fn new(log: &KafkaLog) -> Self {
        let hints = match Directory::new(log.settings()) {
            Ok(directory) => Some(Hints::new(Arc::new(move || directory.owners()))),
            Err(cause) => {
                tracing::error!(%cause, "no other instance can be found: reads of what others own are refused here");
                None
            }
        };
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_WAIT));
        connector.set_nodelay(true);
        let own = log.settings().advertise.clone().unwrap_or_default();
        Self {
            own_header: HeaderValue::from_str(&own).unwrap_or(HeaderValue::from_static("unnamed")),
            own,
            client: Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .build(connector),
            hints,
        }
    }

    /// Where others reach this instance.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// The same, as it stands in headers.
    pub const fn own_header(&self) -> &HeaderValue {
        &self.own_header
    }

    /// Where owners are, as far as is known.
    pub async fn addresses(&self) -> Owners {
        match &self.hints {
            Some(hints) => hints.owners().await,
            None => Owners::new(),
        }
    }

    /// Where a partition's owner is, as far as is known; `None` also if it should be this instance.
    pub async fn address_of(&self, partition: u32) -> Option<String> {
        self.addresses().await.remove(&partition).filter(|a| *a != self.own)
    }

    /// Instances other than this one, with the partitions that they own.
    pub async fn others(&self) -> BTreeMap<String, Vec<u32>> {
        let mut others: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (partition, address) in self.addresses().await {
            if address != self.own {
                others.entry(address).or_default().push(partition);
            }
        }
        others
    }

    /// What the group said was found wrong: it is asked again soon, however many say so.
    pub fn doubt(&self) {
        if let Some(hints) = &self.hints {
            hints.doubt();
        }
    }

    /// Asks another instance what this one was asked. The answer's body is handed on as it comes.
    pub async fn ask(&self, address: &str, parts: &Parts, token: Option<&str>) -> Result<Response, Problem> {
        let silent = |what: String| Problem::new(Code::OwnerSilent, format!("{address}: {what}"));
        let request = self
            .request(address, parts, token)
            .map_err(|cause| silent(cause.to_string()))?;
        let answered = tokio::time::timeout(HEAD_WAIT, self.client.request(request)).await;
        let problem = match answered {
            Ok(Ok(response)) => {
                let mut response = response.map(Body::new);
                for name in LEFT_OUT {
                    response.headers_mut().remove(name);
                }
                return Ok(response);
            }
            Ok(Err(cause)) => silent(if cause.is_connect() {
                "it can't be reached".to_owned()
            } else {
                cause.to_string()
            }),
            Err(_) => silent(format!("no answer within {} s", HEAD_WAIT.as_secs())),
        };
        self.doubt();
        Err(problem)
    }

    /// The same for an answer in JSON that is needed whole.
    pub async fn ask_for<T: DeserializeOwned>(
        &self,
        address: &str,
        parts: &Parts,
        token: Option<&str>,
    ) -> Result<T, Problem> {
        let answered = async {
            let response = self.ask(address, parts, token).await?;
            let refused = |what: String| Problem::new(Code::OwnerSilent, format!("{address}: {what}"));
            if !response.status().is_success() {
                return Err(refused(response.status().to_string()));
            }
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|cause| refused(cause.to_string()))?.to_bytes();
            serde_json::from_slice(&body).map_err(|cause| refused(cause.to_string()))
        };
        match tokio::time::timeout(HEAD_WAIT, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(Problem::new(
                Code::OwnerSilent,
                format!("{address}: no whole answer in time"),
            )),
        }
    }

    fn request(
        &self,
        address: &str,
        parts: &Parts,
        token: Option<&str>,
    ) -> Result<Request<Empty<Bytes>>, axum::http::Error> {
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        let method = if parts.method == Method::HEAD {
            Method::HEAD
        } else {
            Method::GET
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{address}{path}"))
            .header(PROXIED_BY, &self.own_header)
            .body(Empty::new())?;
        taken_along(&parts.headers, request.headers_mut());
        if let Some(token) = token {
            let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))?;
            bearer.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
        }
        Ok(request)
    }
}

fn taken_along(from: &HeaderMap, to: &mut HeaderMap) {
    for name in TAKEN_ALONG {
        for value in from.get_all(&name) {
            to.append(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn of_many_doubts_one_makes_the_group_be_asked_again() {
        let (mut heard, began) = (Heard::default(), Instant::now());
        let after = |ms| began + Duration::from_millis(ms);
        assert_eq!(heard.begins_asking(began), Some(true));
        // While it is asked nobody else asks.
        assert_eq!(heard.begins_asking(after(60_000)), None);
        heard.is_asking = false;
        assert_eq!(heard.begins_asking(after(500)), None);
        heard.is_doubted = true;
        assert_eq!(heard.begins_asking(after(999)), None);
        assert_eq!(heard.begins_asking(after(1_000)), Some(false));
        heard.is_asking = false;
        assert_eq!(heard.begins_asking(after(2_999)), None);
        assert_eq!(heard.begins_asking(after(3_000)), Some(false));
        heard.is_asking = false;
        assert_eq!(heard.begins_asking(after(33_000)), Some(true));
    }

    #[tokio::test]
    async fn reads_do_not_wait_for_a_group_that_is_slow() {
        let (answer, answers) = mpsc::channel::<&str>();
        let (answers, asked) = (Mutex::new(answers), Arc::new(AtomicUsize::new(0)));
        let counting = Arc::clone(&asked);
        let hints = Hints::new(Arc::new(move || {
            counting.fetch_add(1, Ordering::SeqCst);
            let address = answers.lock().recv().unwrap_or_default().to_owned();
            Ok(Owners::from([(7, address)]))
        }));
        answer.send("http://old").expect("asked");
        assert_eq!(hints.owners().await[&7], "http://old");
        // The group is silent from here on.
        let past = Instant::now().checked_sub(Duration::from_secs(5));
        hints.heard.lock().asked = past;
        let began = Instant::now();
        for _ in 0..100 {
            assert_eq!(hints.owners().await[&7], "http://old");
            hints.doubt();
        }
        assert!(began.elapsed() < GROUP_WAIT, "{:?}", began.elapsed());
        answer.send("http://new").expect("asked");
        while hints.owners().await[&7] != "http://new" {
            tokio::task::yield_now().await;
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn neither_cookies_nor_traces_of_proxies_go_along() {
        let mut from = HeaderMap::new();
        for name in [
            "accept",
            "if-none-match",
            "last-event-id",
            "cookie",
            "authorization",
            "x-forwarded-for",
            "host",
            "origin",
        ] {
            from.insert(name, HeaderValue::from_static("x"));
        }
        let mut to = HeaderMap::new();
        taken_along(&from, &mut to);
        let mut names: Vec<&str> = to.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "if-none-match", "last-event-id"]);
    }
}
