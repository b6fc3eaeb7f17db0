//! `GET /v1/accounts/{account}/usage`: totals by window and group, with amounts.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::accept::{Format, wants_csv};
use super::answer::{self, AsOf};
use super::caller::Caller;
use super::params::{Params, Places, instant, month};
use super::problem::{Problem, ProblemBody};
use super::service::{Service, read};
use crate::machine::accounts::{Period, Standing as PeriodStanding};
use crate::model::money::decimal_string;
use crate::model::period::rfc3339;
use crate::partition::account::{Usage, UsageQuery, Window};

/// Periods asked for at a time: those that are kept.
const MONTHS_MAX: u32 = 25;

/// What is asked.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UsageParams {
    /// One period, such as 2026-09; the running one, if nothing else is given.
    #[param(nullable = false, pattern = r"^\d{4}-(0[1-9]|1[0-2])$")]
    period: Option<String>,
    /// The first of several periods.
    #[param(nullable = false, pattern = r"^\d{4}-(0[1-9]|1[0-2])$")]
    from_period: Option<String>,
    /// The last of several periods.
    #[param(nullable = false, pattern = r"^\d{4}-(0[1-9]|1[0-2])$")]
    until_period: Option<String>,
    /// Only windows that begin at or after this time (RFC 3339).
    #[param(nullable = false, format = DateTime)]
    from: Option<String>,
    /// Only windows that begin before this time (RFC 3339).
    #[param(nullable = false, format = DateTime)]
    until: Option<String>,
    /// Length of a window in the account's time zone: `hour` (open periods only), `day` or `month`.
    #[param(nullable = false, inline)]
    window: Option<Window>,
    /// What is told apart besides the meter, separated by commas: service, product, class, or names of rollup dimensions;
    /// `product,class` if not given.
    #[param(nullable = false, example = "product,class")]
    group_by: Option<String>,
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
    /// Calls by outcome and reason; empty for windows of an hour.
    pub calls: Vec<CallsRow>,
    /// Sum of the rows' amounts, unrounded; absent if it can't be expressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
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
            ..UsageQuery::default()
        };
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
            (None, Some(first), None) => Some((first, first)),
            (None, None, None) => None,
            (None, ..) => {
                return Err(Problem::parameter(
                    "until_period",
                    format!("give from_period with it, not after it, and at most {MONTHS_MAX} periods"),
                ));
            }
        };
        query.from = self.from.as_deref().map(|t| instant("from", t)).transpose()?;
        query.until = self.until.as_deref().map(|t| instant("until", t)).transpose()?;
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

/// An account's usage
///
/// Totals by window (hour, day, month in the account's zone) and by what `group_by` names. Exact decimals as strings.
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
    let query = params.query(&live.rollup_names()?)?;
    let (asked, of) = (query.clone(), account.clone());
    let usage = read(move || live.usage(&of, &asked)).await?;
    let usage = usage.ok_or_else(|| Problem::account_unknown(&account))?;
    let body = body(&account, &usage, &query);
    if as_csv {
        let text = ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], csv(&body, &query));
        return Ok(answer::with_standing(usage.standing, text.into_response()));
    }
    Ok(answer::json(usage.standing, body))
}
