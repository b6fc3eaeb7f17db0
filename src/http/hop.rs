//! On Kafka any instance answers any read: one of an account whose partition another instance owns is passed on to it, once.
//!
//! Every route with `{account}` in its pattern is meant, and nothing else has to be done for a new one. Whoever asks is asked for a
//! token here first, so that strangers make no instance ask another; the owner asks again. An answer is given here only by
//! the partition's owner, which has folded all that was in the log when it took it over, and is asked before and after whether it
//! still is: while a partition moves a read is refused with 503, and never answered with what was once right.

use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::page;
use super::peers::{OWNER, PROXIED_BY, Peers};
use super::problem::{Code, Problem};
use super::service::{Service, blocking};
use crate::log::placement::partition_of;
use crate::partition::live::Live;
use crate::partition::sharing::Sharing;

/// Seconds after which a halted partition is asked for again: so often it is looked at.
const HALTED_RETRY_S: u32 = 30;

/// What this instance can say of a partition of a shared log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Here {
    /// It answers for it.
    Served,
    /// It is this one's, and what was in the log isn't folded yet.
    Opening,
    /// It is this one's, and can't be right as it is: why.
    Halted(String),
    /// It is another's, or nobody's.
    Elsewhere,
    /// It may have been this one's: nobody knows.
    HeldUp,
}

impl Here {
    /// Of one partition. It may wait for a commit, or for the cluster.
    pub fn of(sharing: &Sharing, live: &Live) -> Self {
        if sharing.is_stale() {
            Self::HeldUp
        } else if !sharing.may_answer(live.number) {
            Self::Elsewhere
        } else if live.is_served() && (live.is_caught_up() || live.lag_records().is_ok_and(|lag| lag == 0)) {
            Self::Served
        } else {
            let cause = sharing.halted().remove(&live.number);
            cause.map_or(Self::Opening, Self::Halted)
        }
    }
}

/// Said instead of an answer by whoever may have lost its partitions.
pub fn held_up() -> Problem {
    Problem::new(
        Code::HeldUp,
        "this instance was held up for so long that the group may have given its partitions to others",
    )
}

/// The account of the route, if it is about one.
async fn account_of(parts: &mut Parts) -> Option<String> {
    let params = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    let account = params.iter().find(|(name, _)| *name == "account")?.1;
    Some(account.to_owned())
}

/// Around the routes: answers here, or passes on.
pub async fn pass_on(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let (Some(sharing), Some(peers)) = (&service.running.sharing, &service.peers) else {
        return next.run(request).await;
    };
    let (mut parts, body) = request.into_parts();
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    let account = account_of(&mut parts).await.filter(|_| reads);
    let caller = account.as_ref().and_then(|_| service.gatekeeper.admit(&parts).ok());
    let may_operate = caller.as_ref().is_some_and(|caller| caller.may_operate().is_ok());
    let allowed = account.filter(|account| caller.is_some_and(|caller| caller.may_read(account).is_ok()));
    // Without one, the handler says what is wrong with it.
    let Some(account) = allowed else {
        return next.run(Request::from_parts(parts, body)).await;
    };
    let number = partition_of(&account, service.running.log.identity().partition_count);
    let refuse = |parts: &Parts, problem: Problem| refusal(parts, problem);
    let (of, live) = (Arc::clone(sharing), Arc::clone(service.running.partition_of(&account)));
    let here = blocking(move || Here::of(&of, &live)).await;
    let asked = parts.clone();
    let mut response = match here {
        Ok(Here::Served) => {
            let mut response = next.run(Request::from_parts(parts, body)).await;
            if !sharing.may_answer(number) {
                response = refuse(&asked, moving(number, "it has just been given away"));
            }
            response.headers_mut().insert(OWNER, peers.own_header().clone());
            response
        }
        Ok(Here::Opening) => {
            let mut response = refuse(&asked, moving(number, "its new owner is opening it"));
            response.headers_mut().insert(OWNER, peers.own_header().clone());
            response
        }
        Ok(Here::Halted(cause)) => {
            let mut response = refuse(&asked, halted(number, may_operate.then_some(cause.as_str())));
            response.headers_mut().insert(OWNER, peers.own_header().clone());
            response
        }
        Ok(Here::HeldUp) => refuse(&asked, held_up()),
        Ok(Here::Elsewhere) => elsewhere(&service, peers, number, &asked).await,
        Err(problem) => refuse(&asked, problem),
    };
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .entry("retry-after")
            .or_insert(HeaderValue::from_static("1"));
    }
    response
}

/// Asks the owner.
async fn elsewhere(service: &Service, peers: &Peers, number: u32, parts: &Parts) -> Response {
    let count = |result: &'static str| {
        metrics::counter!("reckon_reads_passed_on_total", "result" => result).increment(1);
    };
    if parts.headers.contains_key(PROXIED_BY) {
        count("refused");
        return refusal(
            parts,
            moving(
                number,
                "the instance that passed the request on takes this one for its owner",
            ),
        );
    }
    let Some(address) = peers.address_of(number).await else {
        count("no_owner");
        peers.doubt();
        return refusal(parts, moving(number, "nobody owns it right now"));
    };
    let mut response = match peers.ask(&address, parts, service.gatekeeper.token_of(parts)).await {
        Ok(response) if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
            count("moving");
            peers.doubt();
            response
        }
        Ok(response) => {
            count("answered");
            response
        }
        Err(problem) => {
            count("owner_silent");
            refusal(parts, problem)
        }
    };
    if let Ok(address) = HeaderValue::try_from(address) {
        response.headers_mut().entry(OWNER).or_insert(address);
    }
    response
}

/// Said of a partition that waits for its operator. The cause names topics and offsets, which are the operator's business.
fn halted(number: u32, cause: Option<&str>) -> Problem {
    let cause = cause.map_or(String::new(), |cause| format!(": {cause}"));
    Problem::new(
        Code::NotServed,
        format!("partition {number} is halted until its operator mends it{cause}"),
    )
    .retry_after(HALTED_RETRY_S)
}

fn moving(number: u32, what: &str) -> Problem {
    Problem::new(Code::NotServed, format!("partition {number} is moving: {what}"))
}

/// A page for people, a problem for programs.
fn refusal(parts: &Parts, problem: Problem) -> Response {
    let route = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    if route.starts_with("/v1/") || route.ends_with("/live") {
        problem.into_response()
    } else {
        page::Refusal::from(problem).into_response()
    }
}
