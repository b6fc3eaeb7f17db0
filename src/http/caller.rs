//! Who asks, and what that one may do: every route names the right it needs, and nothing else lets a request through.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::problem::{Code, Problem};
use super::service::Service;
use super::sign_in;

/// What helps whoever is refused where no tokens are asked for: there, none would be of use.
const NO_KEY_CURE: &str = "`reckon token key new` makes a key; then whoever has a token is let in from anywhere";

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "scope")]
pub enum Scope {
    /// Writes events, reads nothing.
    Ingest {
        /// If not empty, only events whose `source` is one of these, or begins with one that ends in `*`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        sources: Vec<String>,
    },
    /// Reads one account.
    Account {
        /// Which.
        account: String,
    },
    /// Reads the metrics, and nothing of any account.
    Metrics,
    /// Reads everything, writes events and records.
    Operator,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Name on the token; empty where no tokens are asked for.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
}

impl Caller {
    /// May write events.
    pub fn may_ingest(&self) -> Result<(), Problem> {
        match self.scope {
            Scope::Ingest { .. } | Scope::Operator => Ok(()),
            Scope::Account { .. } | Scope::Metrics => Err(self.refused("an ingest or an operator token")),
        }
    }

    /// Whether the token lets events of that source through.
    pub fn may_send(&self, source: &str) -> bool {
        match &self.scope {
            Scope::Ingest { sources } => {
                sources.is_empty()
                    || sources.iter().any(|allowed| match allowed.strip_suffix('*') {
                        Some(prefix) => source.starts_with(prefix),
                        None => source == allowed,
                    })
            }
            Scope::Operator => true,
            Scope::Account { .. } | Scope::Metrics => false,
        }
    }

    /// May read the account.
    pub fn may_read(&self, account: &str) -> Result<(), Problem> {
        match &self.scope {
            Scope::Operator => Ok(()),
            Scope::Account { account: own } if own == account => Ok(()),
            Scope::Account { .. } | Scope::Ingest { .. } | Scope::Metrics => {
                Err(self.refused("the account's own or an operator token"))
            }
        }
    }

    /// May do and read everything.
    pub fn may_operate(&self) -> Result<(), Problem> {
        match self.scope {
            Scope::Operator => Ok(()),
            Scope::Account { .. } | Scope::Ingest { .. } | Scope::Metrics => Err(self.refused("an operator token")),
        }
    }

    /// May read the metrics.
    pub fn may_scrape(&self) -> Result<(), Problem> {
        match self.scope {
            Scope::Operator | Scope::Metrics => Ok(()),
            Scope::Account { .. } | Scope::Ingest { .. } => Err(self.refused("a metrics or an operator token")),
        }
    }

    fn refused(&self, wanted: &str) -> Problem {
        let own = match &self.scope {
            Scope::Ingest { .. } => "has the scope ingest".to_owned(),
            Scope::Metrics => "has the scope metrics".to_owned(),
            Scope::Account { account } => format!("is for account {account:?}"),
            Scope::Operator => "has the scope operator".to_owned(),
        };
        Problem::new(Code::Forbidden, format!("this route wants {wanted}; yours {own}"))
    }
}

/// How whoever isn't admitted is turned away.
#[derive(Debug)]
pub enum TurnedAway {
    /// Told what is wrong.
    Refused(Problem),
    /// A browser that has no good token: shown where to sign in.
    ToSignIn(String),
}

impl IntoResponse for TurnedAway {
    fn into_response(self) -> Response {
        match self {
            Self::Refused(problem) => problem.into_response(),
            Self::ToSignIn(address) => sign_in::see_other(&address),
        }
    }
}

impl FromRequestParts<Arc<Service>> for Caller {
    type Rejection = TurnedAway;

    async fn from_request_parts(parts: &mut Parts, service: &Arc<Service>) -> Result<Self, TurnedAway> {
        service.gatekeeper.admit(parts).map_err(|mut problem| {
            if !service.gatekeeper.asks_for_tokens() {
                problem = problem.with_cure(NO_KEY_CURE);
            }
            let address = (problem.code == Code::Unauthenticated).then(|| sign_in::address_for(parts));
            address
                .flatten()
                .map_or(TurnedAway::Refused(problem), TurnedAway::ToSignIn)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_refused_hears_what_the_token_is_for() {
        let refused = |scope: Scope| {
            let caller = Caller {
                name: String::new(),
                scope,
            };
            caller.may_read("globex").map_err(|problem| problem.detail)
        };
        let wanted = "this route wants the account's own or an operator token; yours";
        let account = "acme".to_owned();
        assert_eq!(
            refused(Scope::Account { account }),
            Err(format!("{wanted} is for account \"acme\""))
        );
        assert_eq!(refused(Scope::Metrics), Err(format!("{wanted} has the scope metrics")));
    }
}
