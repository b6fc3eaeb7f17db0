//! `GET /v1/accounts/{account}/usage`: totals by window and group, with amounts.
//!
//! What is in memory and small, the rule by far, is answered by the task that serves the socket: it neither waits for the fold nor
//! for the disk, and no other thread has to be woken. All else is summed and written where waiting is allowed.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use utoipa::{IntoParams, ToSchema};

use super::accept::{Format, wants_csv};
use super::answer::{self, AsOf};
use super::caller::Caller;
use super::params::{Params, Places, Whole, instant, month};
use super::problem::{Code, Problem, ProblemBody};
use super::service::{Service, blocking};
use crate::machine::accounts::{Period, Standing as PeriodStanding};
use crate::model::money::decimal_string;
use crate::model::period::{Month, rfc3339};
use crate::partition::account::{Usage, UsageCursor, UsageQuery, Window};
use crate::partition::live::Look;
use crate::partition::taken::{Asked, Taken};
use crate::partition::usage::NoCursor;

/// Periods asked for at a time: those that are kept.
const MONTHS_MAX: u32 = 25;

/// Rows of an answer.
const ROWS_MAX: usize = 10_000;

/// Answers that take long, or wait for the disk, are made so many at a time: whoever asks for many keeps only those back.
static LONG_READS: Semaphore = Semaphore::const_new(4);

/// The header in which an answer says how to go on, for forms other than JSON.
const NEXT: &str = "reckon-next";

/// What is asked.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageParams {
    /// One period, such as 2026-09; the running one, if nothing else is given.
    #[param(nullable = false, pattern = r"^\d{4}-(0[1-9]|1[0-2])$")]
    period: Option<String>,
    /// The first of several periods; with `until_period`.
    #[param(nullable = false, pattern = r"^\d{4}-(0[1-9]|1[0-2])$")]
    from_period: Option<String>,
    /// The last of several periods; with `from_period`.
    #[param(nullable = false, pattern = r"^\d{4}-(0[1-9]|1[0-2])$")]
    until_period: Option<String>,
    /// Only hours (for windows of an hour) or days that begin at or after this time (RFC 3339); a month then sums those days.
    #[param(nullable = false, format = DateTime)]
    from: Option<String>,
    /// Only hours (for windows of an hour) or days that begin before this time (RFC 3339), which is after `from`; a month then
    /// sums those days.
    #[param(nullable = false, format = DateTime)]
    until: Option<String>,
    /// Length of a window in the account's time zone: `hour` (kept until a period closes), `day` or `month`.
    #[param(nullable = false, inline)]
    window: Option<Window>,
    /// What is told apart besides the meter, separated by commas: service, product, class, or names of rollup dimensions;
    /// `product,class` if not given.
    #[param(nullable = false, example = "product,class")]
    group_by: Option<String>,
    /// Rows of an answer at most, up to 10,000, which holds if it isn't given. If there are more, `next` says how to go on.
    #[param(nullable = false, value_type = Option<usize>, minimum = 1, maximum = 10_000)]
    limit: Option<Whole<1, ROWS_MAX>>,
    /// The `next` of the answer before, with all else as it was asked for that: one of another period is refused.
    #[param(nullable = false)]
    after: Option<String>,
    /// Else by the Accept header.
    #[param(nullable = false, inline)]
    format: Option<Format>,
    /// PARTITION:OFFSET of a record that the answer must include; waits up to a second for it.
    #[param(nullable = false, pattern = r"^\d{1,9}:\d{1,18}$", example = "0:1")]
    at_least: Option<String>,
}

/// A period of the account.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PeriodBounds {
    /// Such as 2026-09.
    pub period: String,
    /// First instant.
    pub from: String,
    /// First instant after it.
    pub until: String,
    /// open or closed.
    pub state: &'static str,
}

impl PeriodBounds {
    /// In words.
    pub fn of(period: &Period) -> Self {
        Self {
            period: period.month.to_string(),
            from: rfc3339(period.from),
            until: rfc3339(period.until),
            state: match period.standing {
                PeriodStanding::Open => "open",
                PeriodStanding::Closed => "closed",
            },
        }
    }
}

/// One sum.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UsageRow {
    /// `2026-09`, `2026-09-03`, or the instant at which an hour begins.
    pub window: String,
    /// First instant of the window.
    pub from: String,
    /// If told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// If told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// What is counted.
    pub meter: String,
    /// success, disconnected, disconnected_estimated or unbilled; if told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Rollup dimensions that are told apart.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dimensions: BTreeMap<String, String>,
    /// Added up.
    #[schema(example = "1402")]
    pub quantity: String,
    /// Of it, charged.
    pub billed: String,
    /// Of what is charged, that which no price was found for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpriced: Option<String>,
    /// Price of what is charged, unrounded; absent if it can't be expressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "0.02103")]
    pub amount: Option<String>,
}

/// Calls of one outcome and reason.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CallsRow {
    /// As in the rows.
    pub window: String,
    /// success, disconnected or failed.
    pub outcome: &'static str,
    /// Why: a stable code.
    pub reason: &'static str,
    /// How many.
    #[schema(example = "17")]
    pub calls: String,
}

/// An account's usage.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UsageBody {
    /// Which account.
    pub account: String,
    /// ISO 4217.
    pub currency: String,
    /// IANA.
    pub time_zone: String,
    /// Where the answer stands.
    pub as_of: AsOf,
    /// hour, day or month.
    pub window: Window,
    /// The periods it is about.
    pub periods: Vec<PeriodBounds>,
    /// Quantities and amounts.
    pub rows: Vec<UsageRow>,
    /// Calls by outcome and reason, of the windows that begin in this answer; empty for windows of an hour.
    pub calls: Vec<CallsRow>,
    /// Sum of the amounts of the rows that are here, unrounded; absent if it can't be expressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// There are more rows: give it as `after` to go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl UsageParams {
    /// Of the running period.
    pub fn running(window: Option<Window>, group_by: Option<String>) -> Self {
        Self {
            window,
            group_by,
            ..Self::default()
        }
    }

    /// What the parameters ask for, given the rollup dimensions that there are.
    pub fn query(&self, rollups: &[String]) -> Result<UsageQuery, Problem> {
        let window = self.window.unwrap_or_default();
        let mut query = UsageQuery {
            window,
            limit: Some(self.limit.map_or(ROWS_MAX, |Whole(limit)| limit)),
            ..UsageQuery::default()
        };
        let after = self.after.as_deref().map(str::parse).transpose();
        let after = after.map_err(|cause: NoCursor| Problem::parameter("after", cause.to_string()))?;
        query.after = after.map(Box::new);
        for name in self.group_by.as_deref().unwrap_or("product,class").split(',') {
            match name.trim() {
                "" | "meter" => {}
                "service" => query.by_service = true,
                "product" => query.by_product = true,
                "class" => query.by_class = true,
                other if !rollups.iter().any(|known| known == other) => {
                    return Err(Problem::parameter(
                        "group_by",
                        format!(
                            "{other:?} is not service, product, class or a rollup dimension of the policy ({})",
                            rollups.join(", ")
                        ),
                    ));
                }
                _ if window == Window::Hour => {
                    return Err(Problem::parameter(
                        "group_by",
                        "hours are not kept by rollup dimension; ask by day",
                    ));
                }
                other => query.dimensions.push(other.to_owned()),
            }
        }
        let named = |field: &str, text: &Option<String>| text.as_deref().map(|t| month(field, t)).transpose();
        let (one, first, last) = (
            named("period", &self.period)?,
            named("from_period", &self.from_period)?,
            named("until_period", &self.until_period)?,
        );
        query.months = match (one, first, last) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                return Err(Problem::parameter(
                    "period",
                    "give either period, or from_period and until_period",
                ));
            }
            (Some(one), None, None) => Some((one, one)),
            (None, Some(first), Some(last)) if first <= last && last.0 - first.0 < MONTHS_MAX => Some((first, last)),
            (None, None, None) => None,
            // One month alone is asked for by `period`: whoever leaves the other end out may mean all from there on.
            (None, Some(_), None) => {
                return Err(Problem::parameter(
                    "from_period",
                    "give until_period with it, or period for one alone",
                ));
            }
            (None, ..) => {
                return Err(Problem::parameter(
                    "until_period",
                    format!("give from_period with it, not after it, and at most {MONTHS_MAX} periods"),
                ));
            }
        };
        query.from = self.from.as_deref().map(|t| instant("from", t)).transpose()?;
        query.until = self.until.as_deref().map(|t| instant("until", t)).transpose()?;
        if let (Some(from), Some(until)) = (query.from, query.until)
            && from >= until
        {
            return Err(Problem::parameter("until", "not after from: nothing begins in between"));
        }
        Ok(query)
    }
}

/// The body of an answer.
pub fn body(account: &str, usage: &Usage, query: &UsageQuery) -> UsageBody {
    let told = |apart: bool, text: &str| apart.then(|| text.to_owned());
    let mut amount = Some(Decimal::ZERO);
    let rows = usage
        .sums
        .iter()
        .map(|(of, sum)| {
            amount = amount.zip(sum.amount).and_then(|(a, b)| a.checked_add(b));
            UsageRow {
                window: of.window.clone(),
                from: rfc3339(of.from),
                service: told(query.by_service, &of.service),
                product: told(query.by_product, &of.product),
                meter: of.meter.clone(),
                class: told(query.by_class, &of.class),
                dimensions: query
                    .dimensions
                    .iter()
                    .cloned()
                    .zip(of.dimensions.iter().cloned())
                    .collect(),
                quantity: sum.quantity.to_string(),
                billed: sum.billed.to_string(),
                unpriced: (sum.unpriced.0 != 0).then(|| sum.unpriced.to_string()),
                amount: answer::amount(sum.amount),
            }
        })
        .collect();
    let calls = usage
        .calls
        .iter()
        .map(|((_, window, outcome, reason), count)| CallsRow {
            window: window.clone(),
            outcome: outcome.as_str(),
            reason: reason.as_str(),
            calls: count.to_string(),
        })
        .collect();
    UsageBody {
        account: account.to_owned(),
        currency: usage.profile.currency.to_string(),
        time_zone: usage.profile.zone.name().to_owned(),
        as_of: usage.standing.into(),
        window: query.window,
        periods: usage.periods.iter().map(PeriodBounds::of).collect(),
        rows,
        calls,
        amount: amount.map(decimal_string),
        next: usage.next.as_ref().map(ToString::to_string),
    }
}

/// A CSV field, quoted where it has to be; text that a spreadsheet would run as a formula is kept as text.
pub fn csv_field(text: &str) -> String {
    let formula =
        text.starts_with(['=', '+', '@', '\t', '\r']) || (text.starts_with('-') && text.parse::<Decimal>().is_err());
    if formula {
        return format!("\"'{}\"", text.replace('"', "\"\""));
    }
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// A line of CSV.
pub fn csv_line<'a>(fields: impl IntoIterator<Item = &'a str>) -> String {
    let fields: Vec<String> = fields.into_iter().map(csv_field).collect();
    format!("{}\r\n", fields.join(","))
}

fn csv(body: &UsageBody, query: &UsageQuery) -> String {
    let dimensions = query.dimensions.iter().map(String::as_str);
    let heads = ["account", "window", "service", "product", "meter", "class"];
    let mut text = csv_line(
        heads
            .into_iter()
            .chain(dimensions)
            .chain(["quantity", "billed", "unpriced", "amount", "currency"]),
    );
    for row in &body.rows {
        let of = [
            body.account.as_str(),
            &row.window,
            row.service.as_deref().unwrap_or_default(),
            row.product.as_deref().unwrap_or_default(),
            &row.meter,
            row.class.as_deref().unwrap_or_default(),
        ];
        let dimensions = query
            .dimensions
            .iter()
            .map(|name| row.dimensions.get(name).map_or("", String::as_str));
        let sums = [
            row.quantity.as_str(),
            &row.billed,
            row.unpriced.as_deref().unwrap_or("0"),
            row.amount.as_deref().unwrap_or_default(),
            &body.currency,
        ];
        text.push_str(&csv_line(of.into_iter().chain(dimensions).chain(sums)));
    }
    text
}

/// The month that a cursor stands in, the first of what it says. Whose it is, it doesn't say.
fn month_of(cursor: &UsageCursor) -> Option<Month> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor.to_string()).ok()?;
    let parts: Vec<serde_json::Value> = serde_json::from_slice(&bytes).ok()?;
    let number = parts.first()?.as_u64()?;
    u32::try_from(number).ok().map(Month)
}

/// How an answer is to be written.
struct Writing {
    account: String,
    query: UsageQuery,
    as_csv: bool,
}

impl Writing {
    fn answer(&self, usage: &Usage) -> Result<Response, Problem> {
        let reached = self.query.after.as_deref().and_then(month_of);
        if let Some(month) = reached.filter(|month| usage.periods.iter().all(|period| period.month != *month)) {
            // Else rows would be left out, or come again, and nobody would see it.
            let detail = format!("the `next` of an answer about {month}; give it with the same period as there");
            return Err(Problem::parameter("after", detail));
        }
        let closed = usage.periods.iter().find(|p| p.standing == PeriodStanding::Closed);
        if let Some(period) = closed.filter(|_| self.query.window == Window::Hour) {
            let detail = format!(
                "{} is closed: its usage is kept by day, no longer by hour",
                period.month
            );
            return Err(Problem {
                field: Some("window".to_owned()),
                ..Problem::new(Code::HoursGone, detail)
            });
        }
        let body = body(&self.account, usage, &self.query);
        if !self.as_csv {
            return Ok(answer::json(usage.standing, body));
        }
        let text = (
            [(header::CONTENT_TYPE, "text/csv; charset=utf-8")],
            csv(&body, &self.query),
        );
        let mut response = answer::with_standing(usage.standing, text.into_response());
        if let Some(next) = body.next.as_deref().and_then(|next| HeaderValue::from_str(next).ok()) {
            response.headers_mut().insert(NEXT, next);
        }
        Ok(response)
    }
}

/// An account's usage
///
/// Totals by window (hour, day, month in the account's zone) and by what `group_by` names. Exact decimals as strings. An answer
/// has 10,000 rows at most; if there are more, it has a `next` (as CSV in the header `Reckon-Next`), and each answer is as of the
/// record that it names.
#[utoipa::path(
    get,
    path = "/v1/accounts/{account}/usage",
    tag = "reads",
    params(("account" = String, Path, description = "Who pays"), UsageParams),
    responses(
        (status = 200, description = "Its usage; CSV too", content((UsageBody = "application/json"), (String = "text/csv"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("account" = []), ("operator" = []))
)]
pub async fn usage(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Places(account): Places<String>,
    Params(params): Params<UsageParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_read(&account)?;
    let at_least = params.at_least.as_deref().map(str::parse).transpose()?;
    let as_csv = wants_csv(params.format, &headers);
    // First the wait: the policy that names a dimension may be among what is waited for.
    let live = service.partition_of(&account, at_least).await?;
    let of = account.clone();
    let take = move |look: &Look<'_>| -> Result<_, Problem> {
        let query = params.query(&look.words.rollup_names())?;
        let taken = Taken::of(look, &of, &Asked::Usage(query.clone()));
        Ok((query, taken))
    };
    let (query, taken) = live.ask(take).await??;
    let taken = taken.ok_or_else(|| Problem::account_unknown(&account))?;
    let writing = Writing { account, query, as_csv };
    if let Some(usage) = live.usage_at_once(&taken, &writing.query) {
        return writing.answer(&usage);
    }
    drop(taken);
    let turn = LONG_READS.acquire().await;
    blocking(move || {
        // It goes on when the client has left.
        let _until_it_is_done = turn;
        let usage = live.usage(&writing.account, &writing.query)?;
        let usage = usage.ok_or_else(|| Problem::account_unknown(&writing.account))?;
        writing.answer(&usage)
    })
    .await?
}
