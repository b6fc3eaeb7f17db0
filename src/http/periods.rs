//! `GET /v1/periods/{period}`: how far a month is closed, over all partitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::AsOf;
use super::caller::Caller;
use super::params::{Places, month};
use super::problem::{Problem, ProblemBody};
use super::service::Service;
use crate::machine::close::EVERY_ACCOUNT;
use crate::model::money::decimal_string;
use crate::model::period::Month;
use crate::model::quantity::Quantity;
use crate::partition::live::Standing;
use crate::partition::worker::Partition;

/// Held accounts that an answer names.
const HELD_NAMED_MAX: usize = 1_000;

/// One partition's month.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PartitionMonth {
    /// Where it stands.
    pub as_of: AsOf,
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
    /// Every partition's control record is out: nothing more will be stated for the month but adjustments.
    pub complete: bool,
    /// A hold keeps the month open for every account.
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
}

/// What one partition says.
struct Part {
    row: PartitionMonth,
    accounts: u64,
    closed: u64,
    held_for_everyone: bool,
    held: Vec<String>,
    outcomes: BTreeMap<&'static str, i64>,
    quantities: BTreeMap<String, i128>,
    amounts: BTreeMap<String, Decimal>,
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
            accounts: accounts.to_string(),
            closed: closed.to_string(),
            statements: tally.statements.to_string(),
            control_sequence: finished.map(|(sequence, _)| sequence.to_string()),
            sequences: (tally.first_sequence != 0)
                .then(|| [tally.first_sequence.to_string(), tally.last_sequence.to_string()]),
        },
        accounts,
        closed,
        held_for_everyone: machine.holds.contains(&(month, EVERY_ACCOUNT)),
        held: held
            .take(HELD_NAMED_MAX)
            .filter_map(|(&(_, account), _)| Some(machine.accounts.get(account)?.id.to_string()))
            .collect(),
        outcomes: tally.outcomes.iter().map(|(o, &n)| (o.as_str(), n)).collect(),
        quantities: tally
            .quantities
            .iter()
            .map(|(&meter, &nano)| (machine.names.symbols.name(meter).to_owned(), nano))
            .collect(),
        amounts: tally.amounts.iter().map(|(c, &a)| (c.to_string(), a)).collect(),
    }
}

/// A month over all accounts
///
/// How many of them are closed, which are held, and the sums by which a consumer proves that it has everything.
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
) -> Result<Response, Problem> {
    use axum::response::IntoResponse;
    caller.may_operate()?;
    let month = month("period", &period)?;
    let mut body = PeriodBody {
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
    };
    let (mut accounts, mut closed) = (0, 0);
    let mut outcomes: BTreeMap<&str, i64> = BTreeMap::new();
    let mut quantities: BTreeMap<String, i128> = BTreeMap::new();
    let mut amounts: BTreeMap<String, Option<Decimal>> = BTreeMap::new();
    for live in &service.running.partitions {
        let part = live.read(|p| part(p, month))?;
        accounts += part.accounts;
        closed += part.closed;
        body.complete &= part.row.control_sequence.is_some();
        body.held_for_everyone |= part.held_for_everyone;
        body.held.extend(part.held);
        for (name, count) in part.outcomes {
            *outcomes.entry(name).or_default() += count;
        }
        for (meter, nano) in part.quantities {
            let sum = quantities.entry(meter).or_default();
            *sum = sum.saturating_add(nano);
        }
        for (currency, amount) in part.amounts {
            let sum = amounts.entry(currency).or_insert(Some(Decimal::ZERO));
            *sum = sum.and_then(|s| s.checked_add(amount));
        }
        body.partitions.push(part.row);
    }
    body.accounts = accounts.to_string();
    body.closed = closed.to_string();
    body.held.truncate(HELD_NAMED_MAX);
    body.outcomes = outcomes
        .into_iter()
        .map(|(o, n)| (o.to_owned(), n.to_string()))
        .collect();
    body.quantities = quantities
        .into_iter()
        .map(|(meter, nano)| (meter, Quantity(nano).to_string()))
        .collect();
    body.amounts = amounts
        .into_iter()
        .filter_map(|(currency, amount)| Some((currency, decimal_string(amount?))))
        .collect();
    let mut response = axum::Json(body).into_response();
    let no_store = axum::http::HeaderValue::from_static("no-store");
    response.headers_mut().insert("cache-control", no_store);
    Ok(response)
}
