//! What a table expects, checked against whatever has folded the scenario's log.

use std::collections::BTreeMap;

use reckon::model::quantity::Quantity;
use reckon::wire::pb::{self, statement_record::Body};

use super::parse::{Record, Scenario, Step};

/// What is known of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    Unknown,
    Open,
    /// And how.
    Settled(String),
}

/// Which usage is asked for.
#[derive(Clone, Debug)]
pub struct UsageOf<'a> {
    pub account: &'a str,
    pub period: &'a str,
    pub class: &'a str,
    pub service: Option<&'a str>,
    pub product: Option<&'a str>,
    pub dimensions: Vec<(String, String)>,
}

/// A fold of a scenario's log: takes records, and tells what holds after them.
pub trait Facts {
    fn append(&mut self, record: &Record) -> Result<(), String>;
    /// Why the last record was rejected, if it was.
    fn rejected(&mut self) -> Result<Option<pb::Rejected>, String>;
    fn known(&mut self, account: &str, call: &str) -> Result<Known, String>;
    fn settled(&mut self, account: &str, call: &str) -> Result<Option<pb::CallSettled>, String>;
    /// The row that a settled call's verdict has.
    fn row(&mut self, account: &str, call: &str) -> Result<String, String>;
    /// By meter.
    fn usage(&mut self, of: &UsageOf<'_>) -> Result<BTreeMap<String, Quantity>, String>;
    fn statements(&mut self) -> Result<Vec<Body>, String>;
    /// Another opinion on a verdict.
    fn second(&mut self, _found: &pb::CallSettled) -> Result<(), String> {
        Ok(())
    }
}

/// Runs a scenario; what doesn't hold goes to the failures.
pub fn run(scenario: &Scenario, facts: &mut impl Facts, failures: &mut Vec<String>) {
    for step in &scenario.steps {
        let result = match step {
            Step::Record(record) => facts.append(record),
            Step::Expect { line, words } => {
                expect(facts, words).map_err(|what| format!("line {line}: {}: {what}", words.join(" ")))
            }
        };
        if let Err(what) = result {
            failures.push(format!("{} == {}\n    {what}", scenario.file, scenario.title));
        }
    }
}

/// `key=value` words by key; `None` if a word is none.
fn fields(words: &[String]) -> Result<BTreeMap<&str, &str>, String> {
    words
        .iter()
        .map(|w| w.split_once('=').ok_or_else(|| format!("{w:?} is not understood")))
        .collect()
}

pub fn amount(text: &str) -> Result<Quantity, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

/// Takes the account out of the fields.
fn account<'a>(fields: &mut BTreeMap<&str, &'a str>) -> &'a str {
    fields.remove("account").unwrap_or("acme")
}

/// What is left are meters and their quantities.
fn meters(fields: BTreeMap<&str, &str>) -> Result<BTreeMap<String, Quantity>, String> {
    fields
        .into_iter()
        .map(|(meter, number)| Ok((meter.to_owned(), amount(number)?)))
        .collect()
}

pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: found {found:?}, expected {expected:?}"))
    }
}

fn expect(facts: &mut impl Facts, words: &[String]) -> Result<(), String> {
    let (verb, rest) = words.split_first().ok_or("nothing expected")?;
    match (verb.as_str(), rest) {
        ("success" | "disconnected" | "failed", _) => verdict(facts, verb, rest),
        ("open", _) => open(facts, fields(rest)?),
        ("unknown", _) => unknown(facts, fields(rest)?),
        ("accepted", []) => match facts.rejected()? {
            None => Ok(()),
            Some(reject) => Err(format!(
                "rejected, {} {}: {}",
                reject.reason, reject.field, reject.detail
            )),
        },
        ("rejected", [reason, rest @ ..]) => {
            let reject = facts.rejected()?.ok_or("it was accepted")?;
            same("reason", &reject.reason, reason)?;
            match fields(rest)?.get("field") {
                Some(&field) if !reject.field.contains(field) => Err(format!("field {}", reject.field)),
                _ => Ok(()),
            }
        }
        ("usage", [period, class, rest @ ..]) => usage(facts, period, class, fields(rest)?),
        ("frozen", [period, class, rest @ ..]) => frozen(&facts.statements()?, period, class, fields(rest)?),
        ("statement", [period, rest @ ..]) => {
            let mut of = fields(rest)?;
            let statements = facts.statements()?;
            let statement = statement(&statements, account(&mut of), period).ok_or("there is none")?;
            for (key, value) in of {
                match key {
                    "total" => same("total", &amount(&statement.total)?, &amount(value)?)?,
                    "lines" => same("lines", &statement.lines.len().to_string().as_str(), &value)?,
                    key => return Err(format!("{key} is not understood")),
                }
            }
            Ok(())
        }
        ("line", [period, rest @ ..]) => line(&facts.statements()?, period, fields(rest)?),
        ("noticed", [period, rest @ ..]) => noticed(&facts.statements()?, period, fields(rest)?),
        ("control", [period, rest @ ..]) => {
            let statements = facts.statements()?;
            let control = control(&statements, period).ok_or("there is none")?;
            match fields(rest)?.get("accounts") {
                Some(&accounts) => same("accounts", &control.accounts.to_string().as_str(), &accounts),
                None => Ok(()),
            }
        }
        ("no", [what, period, rest @ ..]) => {
            let mut of = fields(rest)?;
            let statements = facts.statements()?;
            let found = match what.as_str() {
                "statement" => statement(&statements, account(&mut of), period).is_some(),
                "control" => control(&statements, period).is_some(),
                "noticed" => notice(&statements, account(&mut of), period).is_some(),
                what => return Err(format!("{what} is not understood")),
            };
            if found { Err("there is one".to_owned()) } else { Ok(()) }
        }
        _ => Err("not understood".to_owned()),
    }
}

fn verdict(facts: &mut impl Facts, outcome: &str, rest: &[String]) -> Result<(), String> {
    let (reason, rest) = rest.split_first().ok_or("no reason")?;
    let flag = |word: &str| rest.iter().any(|w| w == word);
    let pairs: Vec<String> = rest
        .iter()
        .filter(|w| !["billed", "unbilled", "estimated"].contains(&w.as_str()))
        .cloned()
        .collect();
    let mut of = fields(&pairs)?;
    let (account, call) = (account(&mut of), of.remove("call").unwrap_or("c"));
    let found = facts.settled(account, call)?.ok_or("not settled")?;
    same(
        "verdict",
        &format!("{} {}", found.outcome, found.reason),
        &format!("{outcome} {reason}"),
    )?;
    if flag("billed") || flag("unbilled") {
        same("billed", &found.billed, &flag("billed"))?;
    }
    same("estimated", &found.estimated, &flag("estimated"))?;
    if let Some(row) = of.remove("row") {
        same("row", &facts.row(account, call)?.as_str(), &row)?;
    }
    for (key, value) in [
        ("period", &found.period),
        ("service", &found.service),
        ("product", &found.product),
    ] {
        if let Some(expected) = of.remove(key) {
            same(key, &value.as_str(), &expected)?;
        }
    }
    if let Some(revision) = of.remove("revision") {
        same("revision", &found.revision.to_string().as_str(), &revision)?;
    }
    let quantities: BTreeMap<String, Quantity> = found
        .quantities
        .iter()
        .filter(|q| q.meter != "requests")
        .map(|q| Ok((q.meter.clone(), amount(&q.quantity)?)))
        .collect::<Result<_, String>>()?;
    same("quantities", &quantities, &meters(of)?)?;
    facts.second(&found)
}

fn open(facts: &mut impl Facts, mut of: BTreeMap<&str, &str>) -> Result<(), String> {
    let (account, call) = (account(&mut of), of.remove("call").unwrap_or("c"));
    same("the call", &facts.known(account, call)?, &Known::Open)
}

fn unknown(facts: &mut impl Facts, mut of: BTreeMap<&str, &str>) -> Result<(), String> {
    let (account, call) = (account(&mut of), of.remove("call").unwrap_or("c"));
    same("the call", &facts.known(account, call)?, &Known::Unknown)
}

fn usage(facts: &mut impl Facts, period: &str, class: &str, mut of: BTreeMap<&str, &str>) -> Result<(), String> {
    let account = account(&mut of);
    let (service, product) = (of.remove("service"), of.remove("product"));
    let dimensions = of
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("dim.")?.to_owned(), (*value).to_owned())))
        .collect();
    of.retain(|key, _| !key.starts_with("dim."));
    let mut found = facts.usage(&UsageOf {
        account,
        period,
        class,
        service,
        product,
        dimensions,
    })?;
    found.retain(|_, q| q.0 != 0);
    same("usage", &found, &meters(of)?)
}

fn statement<'a>(statements: &'a [Body], account: &str, period: &str) -> Option<&'a pb::PeriodClosed> {
    statements.iter().find_map(|s| match s {
        Body::PeriodClosed(s) if s.account_id == account && s.period == period => Some(s),
        _ => None,
    })
}

fn notice<'a>(statements: &'a [Body], account: &str, period: &str) -> Option<&'a pb::AdjustmentNoticed> {
    statements.iter().rev().find_map(|s| match s {
        Body::AdjustmentNoticed(n) if n.account_id == account && n.period == period => Some(n),
        _ => None,
    })
}

fn control<'a>(statements: &'a [Body], period: &str) -> Option<&'a pb::PeriodControl> {
    statements.iter().find_map(|s| match s {
        Body::PeriodControl(c) if c.period == period => Some(c),
        _ => None,
    })
}

/// Whether a row has these values of the rollup dimensions, `VALUE,VALUE` in the policy's order.
fn rolled_up(row: &pb::UsageRow, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|values| row.dimensions.join(",") == values)
}

fn frozen(statements: &[Body], period: &str, class: &str, mut of: BTreeMap<&str, &str>) -> Result<(), String> {
    let statement = statement(statements, account(&mut of), period).ok_or("there is no statement")?;
    let values = of.remove("values");
    let mut found: BTreeMap<String, Quantity> = BTreeMap::new();
    for row in statement
        .usage
        .iter()
        .filter(|r| r.class == class && rolled_up(r, values))
    {
        found.entry(row.meter.clone()).or_default().0 += amount(&row.quantity)?.0;
    }
    same("frozen usage", &found, &meters(of)?)
}

fn line(statements: &[Body], period: &str, mut of: BTreeMap<&str, &str>) -> Result<(), String> {
    let statement = statement(statements, account(&mut of), period).ok_or("there is no statement")?;
    let original = of.remove("original").unwrap_or_default();
    let fits = |line: &pb::StatementLine| {
        line.original_period == original
            && of.iter().all(|(key, value)| match *key {
                "product" => line.product == *value,
                "meter" => line.meter == *value,
                "service" => line.service == *value,
                "quantity" => amount(&line.quantity) == amount(value),
                "amount" => amount(&line.amount) == amount(value),
                "error" => line.error.starts_with(value) && line.amount.is_empty(),
                _ => false,
            })
    };
    if statement.lines.iter().any(fits) {
        return Ok(());
    }
    let lines: Vec<String> = statement
        .lines
        .iter()
        .map(|l| {
            format!(
                "{}/{}/{} {} = {} {}",
                l.product, l.meter, l.service, l.quantity, l.amount, l.original_period
            )
        })
        .collect();
    Err(format!("the lines are {lines:?}"))
}

fn noticed(statements: &[Body], period: &str, mut of: BTreeMap<&str, &str>) -> Result<(), String> {
    let notice = notice(statements, account(&mut of), period).ok_or("there is no notice")?;
    if let Some(expected) = of.remove("amount") {
        same("amount", &amount(&notice.amount)?, &amount(expected)?)?;
    }
    if let Some(expected) = of.remove("error") {
        let told = notice.error.starts_with(expected) && notice.amount.is_empty();
        same("error and no amount", &told, &true)?;
    }
    let values = of.remove("values");
    let mut found: BTreeMap<String, Quantity> = BTreeMap::new();
    for row in notice
        .usage
        .iter()
        .filter(|r| r.class != "unbilled" && rolled_up(r, values))
    {
        found.entry(row.meter.clone()).or_default().0 += amount(&row.quantity)?.0;
    }
    found.retain(|_, q| q.0 != 0);
    same("noticed", &found, &meters(of)?)
}
