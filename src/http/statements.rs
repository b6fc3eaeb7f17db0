//! `GET /v1/accounts/{account}/statements[/{period}]`: what a month owes, as closed or as it would be now.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use xxhash_rust::xxh3::xxh3_64;

use super::accept::{Format, wants_csv};
use super::answer::{self, AsOf};
use super::caller::Caller;
use super::months::{self, Comes};
use super::params::{Params, Places, month};
use super::problem::{Code, Problem, ProblemBody};
use super::rows::ClosedStatement;
use super::service::{Service, blocking, read};
use super::usage::{PeriodBounds, csv_line};
use crate::machine::rating::{AdjustmentLine, LineKey};
use crate::model::money::decimal_string;
use crate::model::period::Month;
use crate::partition::account::{PeriodStatement, Statement};
use crate::partition::live::{Live, ReadError};
use crate::partition::rows::{Line, StatementRow, Sum, sums};

/// What is asked.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatementParams {
    /// Else by the Accept header.
    #[param(nullable = false, inline)]
    format: Option<Format>,
    /// Whether the CSV of a closed statement also has what is owed since, in rows of the state `owed`. They come again as lines of
    /// a later statement: leave them out of sums. JSON has them in any case.
    #[param(nullable = false)]
    owed: Option<bool>,
    /// PARTITION:OFFSET of a record that the answer must include; waits up to a second for it.
    #[param(nullable = false, pattern = r"^\d{1,9}:\d{1,18}$", example = "0:1")]
    at_least: Option<String>,
}

/// A line of a draft, or what a closed period owes beyond its statement.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DraftLine {
    /// What is priced.
    pub product: String,
    /// What is counted.
    pub meter: String,
    /// Absent: the line spans services.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// For `per` units.
    pub unit_price: String,
    /// 1, 1000 or 1000000.
    pub per: u64,
    /// How much of it.
    #[schema(example = "1402")]
    pub quantity: String,
    /// Unrounded in a draft; rounded where it is a difference of statements. Absent if it can't be expressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "0.02103")]
    pub amount: Option<String>,
    /// Set on a line that adjusts an earlier statement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original_period: Option<String>,
    /// Ids of the notices that announced it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Set where it isn't the statement's: an adjustment is in its own period's currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

fn draft_line(key: &LineKey, quantity: String, amount: Option<Decimal>) -> DraftLine {
    DraftLine {
        product: key.product.clone(),
        meter: key.meter.clone(),
        service: key.service.clone(),
        unit_price: decimal_string(key.unit_price),
        per: key.per,
        quantity,
        amount: answer::amount(amount),
        original_period: None,
        notices: Vec::new(),
        currency: None,
    }
}

fn owed_line(line: &AdjustmentLine) -> DraftLine {
    draft_line(&line.key, line.quantity.to_string(), line.amount)
}

/// What a period would state if it closed now.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Draft {
    /// The period's own lines, and those that adjust earlier ones.
    pub lines: Vec<DraftLine>,
    /// Sum of the lines in the statement's currency, unrounded; absent if it can't be expressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// What the statement's total would be, each line rounded; absent if it can't be expressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<String>,
    /// Charged usage that no price was found for.
    pub unpriced: Vec<Sum>,
}

/// A period's statement.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StatementBody {
    /// Who pays.
    pub account: String,
    /// Bounds and state.
    #[serde(flatten)]
    pub period: PeriodBounds,
    /// Kept open by a hold of the operator.
    pub held: bool,
    /// IANA.
    pub time_zone: String,
    /// ISO 4217.
    pub currency: String,
    /// Where the answer stands.
    pub as_of: AsOf,
    /// As put out; null while open, and if there was nothing to state.
    pub closed: Option<ClosedStatement>,
    /// What it would be now; null once closed.
    pub draft: Option<Draft>,
    /// What a closed period owes more or less than was stated: lines of the next statement.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owed: Vec<DraftLine>,
}

impl StatementBody {
    /// In the words of an answer.
    pub fn of(account: &str, found: PeriodStatement) -> Self {
        let (mut closed, mut draft, mut owed_lines) = (None, None, Vec::new());
        match found.statement {
            Statement::Closed {
                sequence,
                statement,
                owed,
            } => {
                closed = statement.map(|s| StatementRow::new(sequence, *s).into());
                owed_lines = owed.iter().map(owed_line).collect();
            }
            Statement::Draft { rated, adjustments } => {
                let own = rated.lines.iter();
                let mut lines: Vec<DraftLine> = own
                    .map(|line| draft_line(&line.key, line.quantity.to_string(), line.exact))
                    .collect();
                lines.extend(adjustments.iter().map(|(original, currency, notices, line)| {
                    let other = *currency != found.profile.currency;
                    DraftLine {
                        original_period: Some(original.to_string()),
                        notices: notices.clone(),
                        currency: other.then(|| currency.to_string()),
                        ..owed_line(line)
                    }
                }));
                let comes = Comes::of(found.profile.currency, &rated, &adjustments);
                draft = Some(Draft {
                    lines,
                    amount: answer::amount(comes.exact),
                    total: answer::amount(comes.rounded),
                    unpriced: sums(rated.unpriced_rows()),
                });
            }
        }
        Self {
            account: account.to_owned(),
            period: PeriodBounds::of(&found.period),
            held: found.held,
            time_zone: found.profile.zone.name().to_owned(),
            currency: found.profile.currency.to_string(),
            as_of: found.standing.into(),
            closed,
            draft,
            owed: owed_lines,
        }
    }

    /// What says that a closed statement is the same one: its place in the output, what is owed since if that is shown, and the
    /// form.
    fn etag(&self, form: Form) -> Option<String> {
        if self.draft.is_some() {
            return None;
        }
        let sequence = self.closed.as_ref().map_or("0", |c| c.sequence.as_str());
        let (form, owed) = match form {
            Form::Json => ("json", &*self.owed),
            Form::Csv { owed: true } => ("csv-owed", &*self.owed),
            Form::Csv { owed: false } => ("csv", &[][..]),
        };
        let owed = serde_json::to_vec(owed).ok()?;
        // Weak: the answer's standing differs from one to the next.
        Some(format!("W/\"{sequence}-{:016x}-{form}\"", xxh3_64(&owed)))
    }

    /// Its lines; `owed` those to come on a later statement, too.
    fn csv(&self, owed: bool) -> String {
        let mut text = csv_line([
            "account",
            "period",
            "state",
            "product",
            "meter",
            "service",
            "unit_price",
            "per",
            "quantity",
            "amount",
            "currency",
            "original_period",
            "reason",
            "error",
        ]);
        let closed = self.closed.iter().flat_map(|c| &c.lines);
        let draft = self.draft.iter().flat_map(|d| &d.lines);
        let later = if owed { &*self.owed } else { &[] };
        let state = self.period.state;
        let lines = closed
            .map(|line| (state, CsvLine::from(line)))
            .chain(draft.map(|line| (state, CsvLine::from(line))))
            .chain(later.iter().map(|line| ("owed", CsvLine::from(line))));
        for (state, line) in lines {
            let currency = if line.currency.is_empty() {
                &self.currency
            } else {
                line.currency
            };
            text.push_str(&csv_line([
                self.account.as_str(),
                &self.period.period,
                state,
                line.product,
                line.meter,
                line.service,
                line.unit_price,
                &line.per.to_string(),
                line.quantity,
                line.amount,
                currency,
                line.original_period,
                line.reason,
                line.error,
            ]));
        }
        text
    }
}

/// How a statement is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    /// With what is owed since, or without.
    Csv {
        owed: bool,
    },
}

/// A line of whatever kind, as CSV says it: empty where there is nothing.
struct CsvLine<'a> {
    product: &'a str,
    meter: &'a str,
    service: &'a str,
    unit_price: &'a str,
    per: u64,
    quantity: &'a str,
    amount: &'a str,
    /// Empty: the statement's.
    currency: &'a str,
    original_period: &'a str,
    reason: &'a str,
    error: &'a str,
}

impl<'a> From<&'a Line> for CsvLine<'a> {
    fn from(line: &'a Line) -> Self {
        Self {
            product: &line.product,
            meter: &line.meter,
            service: &line.service,
            unit_price: &line.unit_price,
            per: line.per,
            quantity: &line.quantity,
            amount: &line.amount,
            currency: &line.currency,
            original_period: &line.original_period,
            reason: &line.reason,
            error: &line.error,
        }
    }
}

impl<'a> From<&'a DraftLine> for CsvLine<'a> {
    fn from(line: &'a DraftLine) -> Self {
        let original_period = line.original_period.as_deref().unwrap_or_default();
        Self {
            product: &line.product,
            meter: &line.meter,
            service: &line.service,
            unit_price: &line.unit_price,
            per: line.per,
            quantity: &line.quantity,
            amount: line.amount.as_deref().unwrap_or_default(),
            currency: line.currency.as_deref().unwrap_or_default(),
            original_period,
            reason: if original_period.is_empty() { "" } else { "adjustment" },
            error: match line.amount {
                Some(_) => "",
                None => "overflow: the amount can't be expressed",
            },
        }
    }
}

/// Whether the client has the answer of that tag already (RFC 9110, 13.1.2: weakly compared).
fn has_already(headers: &HeaderMap, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let own = opaque(etag);
    let given = headers.get_all(header::IF_NONE_MATCH).iter();
    given
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|one| one.trim() == "*" || opaque(one) == own)
}

/// The account's periods.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PeriodsBody {
    /// Who pays.
    pub account: String,
    /// IANA; holds for periods to come.
    pub time_zone: String,
    /// ISO 4217; holds for periods to come.
    pub currency: String,
    /// Where the answer stands.
    pub as_of: AsOf,
    /// Oldest first.
    pub periods: Vec<PeriodBounds>,
    /// The log's clock lies in it, if it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<String>,
}

/// An account's periods
///
/// Oldest first, with their bounds in the account's zone; each has a statement, closed or as it would be.
#[utoipa::path(
    get,
    path = "/v1/accounts/{account}/statements",
    tag = "reads",
    params(("account" = String, Path, description = "Who pays"), super::calls::CallParams),
    responses(
        (status = 200, description = "The periods", body = PeriodsBody),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("account" = []), ("operator" = []))
)]
pub async fn statements(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Places(account): Places<String>,
    Params(params): Params<super::calls::CallParams>,
) -> Result<Response, Problem> {
    caller.may_read(&account)?;
    let live = service.partition_of(&account, params.at_least()?).await?;
    let of = account.clone();
    let found = read(move || live.periods(&of)).await?;
    let (standing, profile, periods) = found.ok_or_else(|| Problem::account_unknown(&account))?;
    let (_, running) = months::running(standing, &profile, periods.iter().map(|p| &p.0));
    let body = PeriodsBody {
        account,
        time_zone: profile.zone.name().to_owned(),
        currency: profile.currency.to_string(),
        as_of: standing.into(),
        running: running.map(|p| p.month.to_string()),
        periods: periods.iter().map(|(p, _)| PeriodBounds::of(p)).collect(),
    };
    Ok(answer::json(standing, body))
}

/// A period's statement
///
/// Closed: as it was put out, with an ETag; only its lines are invoiceable. Open: what it would be if it closed now, unrounded.
/// As CSV a closed statement has its own lines alone: the amounts in its currency add up to its total, over months too. With
/// `owed=true` there are also rows for what is owed since, which a later statement has as adjustments.
#[utoipa::path(
    get,
    path = "/v1/accounts/{account}/statements/{period}",
    tag = "reads",
    params(
        ("account" = String, Path, description = "Who pays"),
        ("period" = String, Path, description = "Such as 2026-09", pattern = r"^\d{4}-(0[1-9]|1[0-2])$"),
        StatementParams
    ),
    responses(
        (status = 200, description = "The statement; its lines as CSV too", content((StatementBody = "application/json"), (String = "text/csv"))),
        (status = 304, description = "Unchanged since the ETag that If-None-Match gives"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("account" = []), ("operator" = []))
)]
pub async fn statement(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Places((account, period)): Places<(String, String)>,
    Params(params): Params<StatementParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_read(&account)?;
    let wanted = month("period", &period)?;
    let form = if wants_csv(params.format, &headers) {
        Form::Csv {
            owed: params.owed.unwrap_or_default(),
        }
    } else {
        Form::Json
    };
    let at_least = params.at_least.as_deref().map(str::parse).transpose()?;
    let live = service.partition_of(&account, at_least).await?;
    // A long statement is written there, too.
    let written = blocking(move || match live.statement(&account, Some(wanted))? {
        Some(found) => Ok(answered(found, &account, form, &headers)),
        None => Err(no_period(&live, &account, wanted)?),
    });
    written.await?
}

/// A month that has passed won't come any more.
fn no_period(live: &Live, account: &str, wanted: Month) -> Result<Problem, ReadError> {
    let is_to_come = live.periods(account)?.is_some_and(|(standing, profile, periods)| {
        let (running, _) = months::running(standing, &profile, periods.iter().map(|p| &p.0));
        wanted >= running
    });
    let yet = if is_to_come { " yet" } else { "" };
    Ok(Problem::new(
        Code::PeriodUnknown,
        format!("account {account:?} has no period {wanted}{yet}"),
    ))
}

fn answered(found: PeriodStatement, account: &str, form: Form, headers: &HeaderMap) -> Response {
    let standing = found.standing;
    let body = StatementBody::of(account, found);
    let etag = body.etag(form);
    let unchanged = etag.as_ref().is_some_and(|own| has_already(headers, own));
    let mut response = if unchanged {
        answer::with_standing(standing, StatusCode::NOT_MODIFIED)
    } else if let Form::Csv { owed } = form {
        let text = ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], body.csv(owed));
        answer::with_standing(standing, text.into_response())
    } else {
        answer::json(standing, &body)
    };
    if let Some(etag) = etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
        response.headers_mut().insert(header::ETAG, etag);
        let private = HeaderValue::from_static("private, no-cache");
        response.headers_mut().insert(header::CACHE_CONTROL, private);
    }
    response
}
