//! Whether the process lives, and whether it should be sent traffic.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::service::Service;
use crate::partition::live::Live;
use crate::partition::sharing::Sharing;

/// When the service calls itself ready.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// Records that may wait to be folded in one partition.
    pub lag_records_max: u64,
}

impl Default for Readiness {
    /// About a second of folding.
    fn default() -> Self {
        Self {
            lag_records_max: 500_000,
        }
    }
}

/// Whether the process lives.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok`, or `failed`.
    pub status: &'static str,
    /// Why a partition has stopped for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// Whether traffic is welcome, and why not.
#[derive(Debug, Serialize, ToSchema)]
pub struct Ready {
    /// Whether it is.
    pub ready: bool,
    /// What holds for the whole service: `shutting_down`, `partition_failed`; where the log is shared also `not_joined` (the
    /// group hasn't taken it in, or another process has its name) and `held_up`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<&'static str>,
    /// Partition by partition; where the log is shared, those that this instance owns.
    pub partitions: Vec<PartitionReady>,
}

/// Whether a partition keeps up.
#[derive(Debug, Serialize, ToSchema)]
pub struct PartitionReady {
    /// Its number.
    pub partition: u32,
    /// Records that are in the log and not folded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "0")]
    pub lag_records: Option<String>,
    /// What is wrong: `not_served`, `halted`, `behind`, `log_unreadable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl PartitionReady {
    /// Of a partition of a shared log. The cluster isn't asked: it may be what is wrong.
    fn owned(live: &Live, sharing: &Sharing, halted: bool, limits: Readiness) -> Self {
        let lag = sharing.lag_records(live);
        let reason = match lag {
            _ if halted => Some("halted"),
            _ if !live.is_served() => Some("not_served"),
            // Its end wasn't seen yet: it has just come.
            None => Some("behind"),
            Some(lag) if lag > limits.lag_records_max => Some("behind"),
            Some(_) => None,
        };
        Self {
            partition: live.number,
            lag_records: lag.map(|lag| lag.to_string()),
            reason,
        }
    }

    fn of(live: &Live, limits: Readiness) -> Self {
        let lag = live.lag_records();
        let reason = match &lag {
            _ if !live.is_served() => Some("not_served"),
            Err(_) => Some("log_unreadable"),
            Ok(lag) if *lag > limits.lag_records_max => Some("behind"),
            Ok(_) => None,
        };
        Self {
            partition: live.number,
            lag_records: lag.ok().map(|lag| lag.to_string()),
            reason,
        }
    }
}

impl Ready {
    /// How the service stands.
    pub fn of(service: &Service) -> Self {
        let mut reasons = Vec::new();
        if service.is_leaving() {
            reasons.push("shutting_down");
        }
        if service.running.failed().borrow().is_some() {
            reasons.push("partition_failed");
        }
        let partitions = &service.running.partitions;
        let partitions: Vec<_> = match &service.running.sharing {
            None => partitions
                .iter()
                .map(|live| PartitionReady::of(live, service.readiness))
                .collect(),
            Some(sharing) => {
                if !sharing.has_joined() {
                    reasons.push("not_joined");
                }
                if sharing.is_stale() {
                    reasons.push("held_up");
                }
                let (owned, halted) = (sharing.owned(), sharing.halted());
                let owned = owned.iter().filter_map(|&number| partitions.get(number as usize));
                owned
                    .map(|live| {
                        PartitionReady::owned(live, sharing, halted.contains_key(&live.number), service.readiness)
                    })
                    .collect()
            }
        };
        Self {
            ready: reasons.is_empty() && partitions.iter().all(|p| p.reason.is_none()),
            reasons,
            partitions,
        }
    }
}

fn answer(good: bool, body: impl Serialize) -> Response {
    let status = if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, [("cache-control", "no-store")], Json(body)).into_response()
}

/// Whether the process lives
///
/// 200 as long as it answers, but for a partition that has stopped for good: then a restart is all that helps. No token.
#[utoipa::path(get, path = "/healthz", tag = "running", responses(
    (status = 200, description = "It lives", body = Health),
    (status = 503, description = "A partition has stopped for good", body = Health)))]
pub async fn healthz(State(service): State<Arc<Service>>) -> Response {
    let cause = service.running.failed().borrow().clone();
    let status = if cause.is_none() { "ok" } else { "failed" };
    answer(cause.is_none(), Health { status, cause })
}

/// Whether it should be sent traffic
///
/// 200 when every partition is served and folding keeps up; where the log is shared, when this instance is in the group, every
/// partition that it owns is served and keeps up, and none is halted; 503 with the reasons otherwise, from the beginning of a shutdown
/// too. No token.
#[utoipa::path(get, path = "/readyz", tag = "running", responses(
    (status = 200, description = "Send traffic", body = Ready),
    (status = 503, description = "Send none", body = Ready)))]
pub async fn readyz(State(service): State<Arc<Service>>) -> Response {
    // A commit may hold a partition's lock for a while.
    let ready = super::service::blocking(move || Ready::of(&service)).await;
    match ready {
        Ok(ready) => answer(ready.ready, ready),
        Err(problem) => problem.into_response(),
    }
}
