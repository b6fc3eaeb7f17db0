//! `GET /v1/periods/{period}`: how far a month is closed, over all partitions.
//!
//! Where instances share the log, all owners are asked at once, at a path for instances alone ([`routes`]): there each answers with
//! its own partitions, one by one (`Part`), and asks nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::get;
use futures_util::future::join_all;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{self, AsOf};
use super::caller::Caller;
use super::hop::Here;
use super::params::{Places, month};
use super::peers::Peers;
use super::problem::{Code, Problem, ProblemBody};
use super::service::{Service, blocking};
use crate::machine::close::{EVERY_ACCOUNT, OVERFLOWED};
use crate::model::money::decimal_string;
use crate::model::period::Month;
use crate::model::quantity::Quantity;
use crate::partition::live::{ReadError, Standing};
use crate::partition::running::Running;
use crate::partition::worker::Partition;

/// Held accounts that an answer names.
const HELD_NAMED_MAX: usize = 1_000;

/// One partition's month.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PartitionMonth {
    /// Where it stands.
    pub as_of: AsOf,
    /// The instance that folds it, where several share the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Accounts that have the period.
    #[schema(example = "120")]
    pub accounts: String,
    /// Of them, closed.
    #[schema(example = "118")]
    pub closed: String,
    /// Statements put out.
    #[schema(example = "97")]
    pub statements: String,
    /// Sequence of the month's control record; absent: it isn't out yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_sequence: Option<String>,
    /// Sequences of the month's first and last statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequences: Option<[String; 2]>,
}

/// A partition that nothing is known of right now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
pub struct MissingPartition {
    /// Its number.
    pub partition: u32,
    /// The instance that should have answered; absent: nobody owns it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// A month over all partitions.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PeriodBody {
    /// Such as 2026-09.
    pub period: String,
    /// Accounts that have the period.
    #[schema(example = "120")]
    pub accounts: String,
    /// Of them, closed.
    #[schema(example = "118")]
    pub closed: String,
    /// Every partition has answered and its control record is out: nothing more will be stated for the month but adjustments.
    pub complete: bool,
    /// A hold keeps the month open for every account. One that came when the month had closed holds nothing.
    pub held_for_everyone: bool,
    /// Accounts whose close was due and is held, a thousand at most.
    pub held: Vec<String>,
    /// Calls by outcome, of what is closed.
    pub outcomes: BTreeMap<String, String>,
    /// Charged quantities by meter, of what is closed.
    pub quantities: BTreeMap<String, String>,
    /// Totals of the statements by currency.
    pub amounts: BTreeMap<String, String>,
    /// One by one.
    pub partitions: Vec<PartitionMonth>,
    /// Partitions that haven't answered: unless it is empty, every count and sum here is of `partitions` alone, and not the
    /// month's. Ask again.
    pub missing: Vec<MissingPartition>,
}

/// What one partition says; also as one instance says it to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Part {
    row: PartitionMonth,
    accounts: u64,
    closed: u64,
    held_for_everyone: bool,
    held: Vec<String>,
    outcomes: BTreeMap<String, i64>,
    /// In units of 10^-9, as text: JSON's numbers end before ours do.
    quantities: BTreeMap<String, String>,
    amounts: BTreeMap<String, String>,
}

fn part(partition: &Partition, month: Month) -> Part {
    let machine = &partition.machine;
    let finished = machine.finished.get(&month);
    let tally = finished
        .map(|(_, tally)| tally)
        .or_else(|| machine.months.get(&month))
        .cloned();
    let tally = tally.unwrap_or_default();
    let (accounts, closed) = (tally.open + tally.closed, tally.closed);
    let held = machine.held.range((month, 0)..=(month, u32::MAX));
    Part {
        row: PartitionMonth {
            as_of: Standing::of(partition).into(),
            owner: None,
            accounts: accounts.to_string(),
            closed: closed.to_string(),
            statements: tally.statements.to_string(),
            control_sequence: finished.map(|(sequence, _)| sequence.to_string()),
            sequences: (tally.first_sequence != 0)
                .then(|| [tally.first_sequence.to_string(), tally.last_sequence.to_string()]),
        },
        accounts,
        closed,
        // A month whose control record is out has closed: nothing holds it any more.
        held_for_everyone: finished.is_none() && machine.holds.contains(&(month, EVERY_ACCOUNT)),
        held: held
            .take(HELD_NAMED_MAX)
            .filter_map(|(&(_, account), _)| Some(machine.accounts.get(account)?.id.to_string()))
            .collect(),
        outcomes: tally
            .outcomes
            .iter()
            .map(|(o, &n)| (o.as_str().to_owned(), n))
            .collect(),
        quantities: tally
            .quantities
            .iter()
            .map(|(&meter, &nano)| (machine.names.symbols.name(meter).to_owned(), nano.to_string()))
            .collect(),
        amounts: tally
            .amounts
            .iter()
            .map(|(c, a)| (c.to_string(), a.to_string()))
            .collect(),
    }
}

/// What the partitions that are read here say.
fn parts_here(running: &Running, own: Option<&str>, month: Month) -> Result<Vec<Part>, ReadError> {
    let Some(sharing) = &running.sharing else {
        let all = running.partitions.iter();
        return all.map(|live| live.read(|p| part(p, month))).collect();
    };
    let mut parts = Vec::new();
    for live in &running.partitions {
        if Here::of(sharing, live) == Here::Served
            && let Ok(mut part) = live.read(|p| part(p, month))
            // Asked again: it may have gone while it was read.
            && sharing.may_answer(live.number)
        {
            part.row.owner = own.map(str::to_owned);
            parts.push(part);
        }
    }
    Ok(parts)
}

/// Adds up what was said.
struct Adding {
    body: PeriodBody,
    accounts: u64,
    closed: u64,
    outcomes: BTreeMap<String, i64>,
    quantities: BTreeMap<String, i128>,
    amounts: BTreeMap<String, Decimal>,
}

impl Adding {
    fn new(month: Month) -> Self {
        Self {
            body: PeriodBody {
                period: month.to_string(),
                accounts: String::new(),
                closed: String::new(),
                complete: true,
                held_for_everyone: false,
                held: Vec::new(),
                outcomes: BTreeMap::new(),
                quantities: BTreeMap::new(),
                amounts: BTreeMap::new(),
                partitions: Vec::new(),
                missing: Vec::new(),
            },
            accounts: 0,
            closed: 0,
            outcomes: BTreeMap::new(),
            quantities: BTreeMap::new(),
            amounts: BTreeMap::new(),
        }
    }

    fn add(&mut self, part: Part) -> Result<(), Problem> {
        let unreadable = |what: &str| Problem::new(Code::Internal, format!("another instance's {what:?} is no number"));
        // A sum that is left out would look like none.
        let too_large = |what: &str| {
            let detail = format!("the month's sum of {what} can't be expressed; ask the partitions' control records");
            Problem::new(Code::Internal, detail)
        };
        let body = &mut self.body;
        self.accounts += part.accounts;
        self.closed += part.closed;
        body.complete &= part.row.control_sequence.is_some();
        body.held_for_everyone |= part.held_for_everyone;
        body.held.extend(part.held);
        for (name, count) in part.outcomes {
            *self.outcomes.entry(name).or_default() += count;
        }
        for (meter, nano) in part.quantities {
            let nano: i128 = nano.parse().map_err(|_| unreadable(&nano))?;
            let sum = self.quantities.entry(meter.clone()).or_default();
            *sum = sum.checked_add(nano).ok_or_else(|| too_large(&meter))?;
        }
        for (currency, amount) in part.amounts {
            let amount: Decimal = amount.parse().map_err(|_| unreadable(&amount))?;
            let sum = self.amounts.entry(currency.clone()).or_default();
            let amount = Some(amount).filter(|a| *a != OVERFLOWED);
            *sum = amount
                .and_then(|a| sum.checked_add(a))
                .ok_or_else(|| too_large(&currency))?;
        }
        body.partitions.push(part.row);
        Ok(())
    }

    fn finish(self, missing: Vec<MissingPartition>) -> PeriodBody {
        let mut body = self.body;
        body.complete &= missing.is_empty();
        body.missing = missing;
        body.accounts = self.accounts.to_string();
        body.closed = self.closed.to_string();
        body.held.truncate(HELD_NAMED_MAX);
        body.outcomes = self.outcomes.into_iter().map(|(o, n)| (o, n.to_string())).collect();
        body.quantities = self
            .quantities
            .into_iter()
            .map(|(meter, nano)| (meter, Quantity(nano).to_string()))
            .collect();
        body.amounts = self
            .amounts
            .into_iter()
            .map(|(currency, amount)| (currency, decimal_string(amount)))
            .collect();
        body
    }
}

/// What the other owners say of theirs, all asked at once; and who owns what.
async fn parts_elsewhere(
    peers: &Peers,
    request: &Parts,
    token: Option<&str>,
    month: Month,
    wanted: &[u32],
) -> (Vec<Part>, BTreeMap<u32, String>) {
    let mut request = request.clone();
    let path = PARTS_PATH.replace("{period}", &month.to_string());
    request.uri = path.parse().unwrap_or_default();
    let request = &request;
    let others = peers.others().await;
    let asked = others
        .iter()
        .filter(|(_, partitions)| partitions.iter().any(|p| wanted.contains(p)))
        .map(|(address, _)| async move {
            let said = peers.ask_for::<Vec<Part>>(address, request, token).await;
            said.map_err(|problem| tracing::warn!(address, detail = problem.detail, "no word on a period"))
                .unwrap_or_default()
        });
    let parts = join_all(asked).await.into_iter().flatten().collect();
    let owners = others
        .into_iter()
        .flat_map(|(address, partitions)| partitions.into_iter().map(move |p| (p, address.clone())))
        .collect();
    (parts, owners)
}

/// What one instance asks another, which is no part of the contract.
const PARTS_PATH: &str = "/instances/periods/{period}";

/// What instances ask each other.
pub fn routes() -> Router<Arc<Service>> {
    Router::new().route(PARTS_PATH, get(own_parts))
}

/// This instance's own partitions, for another one that adds them up.
async fn own_parts(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Places(period): Places<String>,
) -> Result<Response, Problem> {
    caller.may_operate()?;
    service.check_held_up()?;
    let month = month("period", &period)?;
    Ok(answer::uncached(read_parts(&service, month).await?))
}

async fn read_parts(service: &Arc<Service>, month: Month) -> Result<Vec<Part>, Problem> {
    let reading = Arc::clone(service);
    let parts = blocking(move || {
        let own = reading.peers.as_ref().map(Peers::own);
        parts_here(&reading.running, own, month)
    });
    Ok(parts.await??)
}

/// A month over all accounts
///
/// How many of them are closed, which are held, and the sums by which a consumer proves that it has everything. Where several
/// instances share the log, any of them asks all; `missing` names partitions whose owners haven't answered, and the counts and
/// sums are without them.
#[utoipa::path(
    get,
    path = "/v1/periods/{period}",
    tag = "reads",
    params(("period" = String, Path, description = "Such as 2026-09", pattern = r"^\d{4}-(0[1-9]|1[0-2])$")),
    responses(
        (status = 200, description = "The month", body = PeriodBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("operator" = []))
)]
pub async fn period(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Places(period): Places<String>,
    request: Parts,
) -> Result<Response, Problem> {
    caller.may_operate()?;
    service.check_held_up()?;
    let month = month("period", &period)?;
    let parts = read_parts(&service, month).await?;
    let mut parts: BTreeMap<u32, Part> = parts.into_iter().map(|p| (p.row.as_of.partition, p)).collect();
    let mut missing = Vec::new();
    if let Some(peers) = &service.peers {
        let count = service.running.log.identity().partition_count;
        let wanted: Vec<u32> = (0..count).filter(|p| !parts.contains_key(p)).collect();
        if !wanted.is_empty() {
            let token = service.gatekeeper.token_of(&request);
            let (others, owners) = parts_elsewhere(peers, &request, token, month, &wanted).await;
            for part in others.into_iter().filter(|p| p.row.as_of.partition < count) {
                parts.entry(part.row.as_of.partition).or_insert(part);
            }
            missing = wanted
                .into_iter()
                .filter(|p| !parts.contains_key(p))
                .map(|partition| MissingPartition {
                    partition,
                    owner: owners.get(&partition).cloned(),
                })
                .collect();
            if !missing.is_empty() {
                peers.doubt();
            }
        }
    }
    let mut adding = Adding::new(month);
    for part in parts.into_values() {
        adding.add(part)?;
    }
    Ok(answer::uncached(adding.finish(missing)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(amount: Decimal, nano: i128) -> Part {
        let zero = || "0".to_owned();
        Part {
            row: PartitionMonth {
                as_of: Standing::default().into(),
                owner: None,
                accounts: zero(),
                closed: zero(),
                statements: zero(),
                control_sequence: None,
                sequences: None,
            },
            accounts: 0,
            closed: 0,
            held_for_everyone: false,
            held: Vec::new(),
            outcomes: BTreeMap::new(),
            quantities: BTreeMap::from([("requests".to_owned(), nano.to_string())]),
            amounts: BTreeMap::from([("USD".to_owned(), amount.to_string())]),
        }
    }

    #[test]
    fn a_sum_that_cannot_be_expressed_is_said_and_not_left_out() {
        let mut adding = Adding::new(Month(0));
        let largest = OVERFLOWED - Decimal::ONE;
        adding.add(part(largest, i128::MAX)).unwrap();
        let refused = adding.add(part(largest, 0)).unwrap_err();
        assert!(refused.detail.contains("USD"), "{}", refused.detail);
        let refused = adding.add(part(Decimal::ZERO, 1)).unwrap_err();
        assert!(refused.detail.contains("requests"), "{}", refused.detail);
    }
}
