//! The billing page: what an account owes this month, as a person reads it, and why a call is charged.
//!
//! Pages are whole without a script; where there is one, [`live`] keeps the bill up to date. Nothing is asked of other
//! servers, and no script or style stands in the page itself: so a strict content policy holds.

pub mod assets;
pub mod bill;
pub mod call;
pub mod figures;
pub mod live;
pub mod words;

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use rust_decimal::Decimal;
use serde::Deserialize;

use super::caller::Caller;
use super::months::{self, Comes};
use super::params::{Params, Places, month};
use super::problem::{Code, Problem};
use super::service::{Service, read};
use super::stream;
use super::watchers::Form;
use crate::machine::accounts::{Period, Standing as PeriodStanding};
use crate::model::money::Currency;
use crate::model::period::Month;
use crate::partition::account::Statement;
use crate::partition::live::{Live, ReadError};
use bill::{Bill, Found};
use call::CallView;
use figures::Money;

/// People don't read faster.
const PAGE_EVERY: Duration = Duration::from_secs(1);

/// Earlier periods that are listed with their totals.
const EARLIER_MAX: usize = 24;

/// Nothing of others, nothing that stands in the page itself.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
    form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Every page. They are no part of the contract.
pub fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/accounts/{account}", get(account))
        .route("/accounts/{account}/live", get(live_bill))
        .route("/accounts/{account}/calls", get(look_up))
        .route("/accounts/{account}/calls/{call}", get(one_call))
        .route("/assets/{hash}/{name}", get(assets::asset))
}

/// A part of a path.
fn path_part(text: &str) -> String {
    askama::filters::urlencode_strict(text).map_or_else(|_| String::new(), |encoded| encoded.to_string())
}

/// Where the pages of an account are.
fn account_path(account: &str) -> String {
    format!("/accounts/{}", path_part(account))
}

/// What every page has around it.
struct Frame {
    title: String,
    style: &'static str,
    icon: &'static str,
}

impl Frame {
    fn new(title: String) -> Self {
        Self {
            title,
            style: &assets::STYLE.address,
            icon: &assets::ICON.address,
        }
    }
}

/// A period in the list of them.
struct Listed {
    period: String,
    name: String,
    state: &'static str,
    total: Money,
    is_shown: bool,
    csv: String,
}

/// A neighbouring period.
struct Beside {
    period: String,
    name: String,
}

#[derive(Template)]
#[template(path = "account.html")]
struct AccountPage<'a> {
    frame: Frame,
    account: &'a str,
    bill: &'a Bill,
    script: &'static str,
    before: Option<Beside>,
    after: Option<Beside>,
    /// Only the running period is kept up to date.
    is_running: bool,
    periods: Vec<Listed>,
}

#[derive(Template)]
#[template(path = "call.html")]
struct CallPage<'a> {
    frame: Frame,
    account: &'a str,
    path: String,
    call: &'a CallView,
}

#[derive(Template)]
#[template(path = "refusal.html")]
struct RefusalPage<'a> {
    frame: Frame,
    /// The id in question.
    subject: Option<&'a str>,
    sentence: &'a str,
    /// Where one may go instead: the address, and its name.
    back: Option<(&'a str, &'a str)>,
}

fn page(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(markup) => {
            let mut response = (status, Html(markup)).into_response();
            let headers = response.headers_mut();
            let mut put = |name: HeaderName, value: &'static str| {
                headers.insert(name, HeaderValue::from_static(value));
            };
            put(header::CONTENT_SECURITY_POLICY, CONTENT_POLICY);
            put(header::CACHE_CONTROL, "no-store");
            put(header::REFERRER_POLICY, "same-origin");
            put(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
            response
        }
        Err(cause) => Problem::new(Code::Internal, cause.to_string()).into_response(),
    }
}

/// A problem, told to a person.
pub struct Refusal {
    problem: Problem,
    subject: Option<String>,
    back: Option<(String, String)>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            subject: None,
            back: None,
        }
    }
}

impl Refusal {
    fn back(problem: Problem, subject: &str, account: &str) -> Self {
        Self {
            problem,
            subject: Some(subject.to_owned()),
            back: Some((account_path(account), format!("Charges of {account}"))),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let code = self.problem.code;
        let own = format!("{}. What helps: {}.", self.problem.detail, self.problem.cure);
        let (title, sentence) = words::refusal(code).unwrap_or((code.title(), &own));
        let refusal = RefusalPage {
            frame: Frame::new(title.to_owned()),
            subject: self.subject.as_deref(),
            sentence,
            back: self.back.as_ref().map(|(path, name)| (path.as_str(), name.as_str())),
        };
        let mut response = page(code.status(), &refusal);
        if let Some(seconds) = self.problem.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// What is asked of the billing page.
#[derive(Debug, Default, Deserialize)]
struct AccountParams {
    period: Option<String>,
}

/// All that a billing page shows.
struct Shown {
    bill: Box<Bill>,
    running: Month,
    before: Option<Month>,
    after: Option<Month>,
    periods: Vec<Listed>,
}

fn listed(live: &Live, account: &str, period: &Period, held: bool, shown: Month) -> Result<Listed, ReadError> {
    let found = live.statement(account, Some(period.month))?;
    let total = found.as_ref().and_then(|found| {
        let total = match &found.statement {
            Statement::Closed { statement, .. } => {
                statement.as_ref().map_or(Some(Decimal::ZERO), |s| s.total.parse().ok())
            }
            Statement::Draft { rated, adjustments } => Comes::of(found.profile.currency, rated, adjustments).rounded,
        };
        Some(figures::money(found.profile.currency, Some(total?)))
    });
    let month = period.month;
    Ok(Listed {
        period: month.to_string(),
        name: figures::month_name(month),
        state: match (period.standing, held) {
            (PeriodStanding::Closed, _) => "Closed",
            (PeriodStanding::Open, true) => "Held for review",
            (PeriodStanding::Open, false) => "Open",
        },
        total: total.unwrap_or_default(),
        is_shown: month == shown,
        csv: format!("/v1/accounts/{}/statements/{month}?format=csv", path_part(account)),
    })
}

/// What later statements have of a closed month: the month of each, and what its lines of that month come to.
fn stated_later<'a>(
    live: &Live,
    account: &str,
    periods: impl Iterator<Item = &'a Period>,
    of: Month,
) -> Result<Vec<(Month, Option<Decimal>)>, ReadError> {
    let mut stated = Vec::new();
    for later in periods.filter(|p| p.month > of && p.standing == PeriodStanding::Closed) {
        let found = live.statement(account, Some(later.month))?;
        let Some(Statement::Closed {
            statement: Some(statement),
            ..
        }) = found.map(|found| found.statement)
        else {
            continue;
        };
        let name = of.to_string();
        let mut lines = statement.lines.iter().filter(|l| l.original_period == name).peekable();
        if lines.peek().is_some() {
            let sum = lines.try_fold(Decimal::ZERO, |sum, line| sum.checked_add(line.amount.parse().ok()?));
            stated.push((later.month, sum));
        }
    }
    Ok(stated)
}

fn shown(live: &Live, account: &str, wanted: Option<Month>) -> Result<Result<Shown, Problem>, ReadError> {
    let Some((standing, profile, periods)) = live.periods(account)? else {
        return Ok(Err(Problem::account_unknown(account)));
    };
    let (running, _) = months::running(standing, &profile, periods.iter().map(|p| &p.0));
    let month = wanted.unwrap_or(running);
    let mut bill = match bill::read(live, account, wanted.filter(|m| *m != running))? {
        Found::Bill(bill) => bill,
        Found::NoAccount => return Ok(Err(Problem::account_unknown(account))),
        Found::NoPeriod => {
            let detail = format!("account {account:?} has no period {month}");
            return Ok(Err(Problem::new(Code::PeriodUnknown, detail)));
        }
    };
    if bill.is_blank() {
        let currency = Currency::parse(bill.currency).unwrap_or(profile.currency);
        let mut open = periods.iter().filter(|(p, _)| p.standing == PeriodStanding::Open);
        // One that is held may close after others.
        let next = open.find(|(p, _)| p.month > month).filter(|(_, held)| !held);
        let stated = stated_later(live, account, periods.iter().map(|(p, _)| p), month)?;
        bill.tell_elsewhere(currency, &stated, next.map(|(p, _)| p.month));
    }
    let mut months: Vec<Month> = periods.iter().map(|(p, _)| p.month).collect();
    if months.last().is_none_or(|last| *last < running) {
        months.push(running);
    }
    let latest = periods.iter().rev().take(EARLIER_MAX);
    let periods = latest
        .map(|(period, held)| listed(live, account, period, *held, month))
        .collect::<Result<_, _>>()?;
    Ok(Ok(Shown {
        bill,
        running,
        before: months.iter().rev().find(|m| **m < month).copied(),
        after: months.iter().find(|m| **m > month).copied(),
        periods,
    }))
}

async fn account(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Places(account): Places<String>,
    Params(params): Params<AccountParams>,
) -> Result<Response, Refusal> {
    caller.may_read(&account)?;
    let wanted = params.period.as_deref().map(|p| month("period", p)).transpose();
    let wanted = wanted.map_err(|problem| Refusal::back(problem, "period", &account))?;
    let live = service.partition_of(&account, None).await?;
    let of = account.clone();
    let found = read(move || shown(&live, &of, wanted)).await?;
    let shown = found.map_err(|problem| match problem.code {
        Code::PeriodUnknown => Refusal::back(problem, params.period.as_deref().unwrap_or_default(), &account),
        _ => Refusal::from(problem),
    })?;
    let beside = |month: Month| Beside {
        period: month.to_string(),
        name: figures::month_name(month),
    };
    Ok(page(
        StatusCode::OK,
        &AccountPage {
            frame: Frame::new(format!("{account}: charges for {}", shown.bill.name)),
            account: &account,
            bill: &shown.bill,
            script: &assets::SCRIPT.address,
            before: shown.before.map(beside),
            after: shown.after.map(beside),
            is_running: shown.bill.period == shown.running.to_string(),
            periods: shown.periods,
        },
    ))
}

async fn live_bill(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Places(account): Places<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.may_read(&account)?;
    stream::follow(&service, &account, Form::Page, PAGE_EVERY, &headers).await
}

/// What the form for looking up a call sends.
#[derive(Debug, Default, Deserialize)]
struct LookUp {
    #[serde(default)]
    id: String,
}

async fn look_up(
    caller: Caller,
    Places(account): Places<String>,
    Params(params): Params<LookUp>,
) -> Result<Response, Refusal> {
    caller.may_read(&account)?;
    let path = account_path(&account);
    // Ids never begin or end with what a paste brings along.
    let to = match params.id.trim() {
        "" => path,
        id => format!("{path}/calls/{}", path_part(id)),
    };
    Ok(Redirect::to(&to).into_response())
}

async fn one_call(
    State(service): State<Arc<Service>>,
    caller: Caller,
    Places((account, call)): Places<(String, String)>,
) -> Result<Response, Refusal> {
    caller.may_read(&account)?;
    let live = service.partition_of(&account, None).await?;
    let (of, id) = (account.clone(), call.clone());
    let found = read(move || {
        let Some((_, profile, _)) = live.periods(&of)? else {
            return Ok(None);
        };
        Ok(Some((profile.zone, live.explain(&of, &id)?.1)))
    });
    let Some((zone, explained)) = found.await? else {
        return Err(Problem::account_unknown(&account).into());
    };
    let explained = explained.ok_or_else(|| {
        let detail = format!("account {account:?} has no call {call:?} that is remembered");
        Refusal::back(Problem::new(Code::CallUnknown, detail), &call, &account)
    })?;
    let view = CallView::of(explained, zone);
    Ok(page(
        StatusCode::OK,
        &CallPage {
            frame: Frame::new(format!("{account}: call {call}")),
            account: &account,
            path: account_path(&account),
            call: &view,
        },
    ))
}
