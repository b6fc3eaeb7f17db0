//! What a table expects, checked against the machine and, for verdicts, against the auditor too.

use std::collections::BTreeMap;

use prost::Message;
use reckon::auditor::{Auditor, ClockSource, Entry, Word};
use reckon::machine::clock::Source;
use reckon::machine::control::is_for_everyone;
use reckon::machine::fold::{Advance, Machine, Record as LogRecord};
use reckon::machine::output::{Topic, calls_of};
use reckon::model::id::CallKey;
use reckon::model::period::Month;
use reckon::model::quantity::Quantity;
use reckon::wire::check::timestamp;
use reckon::wire::pb::{self, statement_record::Body};
use reckon::wire::record::{self, Kind};

use super::parse::{Record, Scenario};

/// A scenario's log, folded so far.
pub struct Checker {
    machine: Machine,
    auditor: Auditor,
    append_clock: bool,
    last_tick: i64,
    control_version: u64,
    scratch: Vec<u8>,
    last_rejected: Option<pb::Rejected>,
    statements: Vec<Body>,
    calls: BTreeMap<(String, String), pb::CallSettled>,
}

/// `key=value` words by key; `None` if a word is none.
fn fields(words: &[String]) -> Result<BTreeMap<&str, &str>, String> {
    words
        .iter()
        .map(|w| w.split_once('=').ok_or_else(|| format!("{w:?} is not understood")))
        .collect()
}

fn amount(text: &str) -> Result<Quantity, String> {
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

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: found {found:?}, expected {expected:?}"))
    }
}

impl Checker {
    pub fn new(scenario: &Scenario) -> Result<Self, String> {
        let first = scenario.steps.iter().find_map(|s| match s {
            super::parse::Step::Record(record) => Some(record.at_ms),
            super::parse::Step::Expect { .. } => None,
        });
        let genesis_ms = first.ok_or_else(|| format!("{}: no records", scenario.title))?;
        let (source, audited) = if scenario.append_clock {
            (Source::Append, ClockSource::Append)
        } else {
            (Source::Ticks, ClockSource::Ticks)
        };
        let mut machine = Machine::new(0, 1, source, genesis_ms);
        machine.outputs.calls_on = true;
        Ok(Self {
            machine,
            auditor: Auditor::new(audited, genesis_ms),
            append_clock: scenario.append_clock,
            last_tick: i64::MIN,
            control_version: 0,
            scratch: Vec::new(),
            last_rejected: None,
            statements: Vec::new(),
            calls: BTreeMap::new(),
        })
    }

    pub fn append(&mut self, record: &Record) -> Result<(), String> {
        if !self.append_clock && record.kind != Kind::Tick && record.at_ms > self.last_tick {
            let tick = pb::Tick {
                at: Some(timestamp(record.at_ms)),
            };
            self.fold(record.at_ms, Kind::Tick, &tick.encode_to_vec())?;
        }
        self.last_tick = self.last_tick.max(record.at_ms);
        let bytes = match &record.control {
            None => record.bytes.clone(),
            Some((control, given)) => {
                let mut control = control.clone();
                if !given && is_for_everyone(&control) {
                    control.control_version = self.control_version + 1;
                }
                control.encode_to_vec()
            }
        };
        self.fold(record.at_ms, record.kind, &bytes)?;
        self.control_version = self.machine.ledger.version;
        Ok(())
    }

    fn fold(&mut self, append_ms: i64, kind: Kind, bytes: &[u8]) -> Result<(), String> {
        let offset = self.machine.position.next_offset;
        let word = match kind {
            Kind::Event => pb::CallEvent::decode(bytes).map(Word::Event),
            Kind::Control => pb::Control::decode(bytes).map(Word::Control),
            _ => pb::Tick::decode(bytes).map(|t| Word::Tick(t.at.map_or(0, |at| reckon::wire::check::instant_ms(&at)))),
        };
        self.auditor.take(&Entry {
            offset,
            append_ms,
            word: word.map_err(|e| e.to_string())?,
        });
        let record = LogRecord {
            offset,
            append_ms,
            bytes,
            input: record::decode(kind, bytes, &mut self.scratch),
        };
        while self.machine.advance(&record) != Advance::Done {}
        while self.machine.settle_down() != Advance::Done {}
        self.last_rejected = None;
        let mut chunks = vec![self.machine.outputs.calls.clone()];
        for output in self.machine.outputs.take() {
            match output.topic {
                Topic::Rejects => self.last_rejected = pb::Rejected::decode(output.body.as_slice()).ok(),
                Topic::Statements => {
                    let record = pb::StatementRecord::decode(output.body.as_slice()).map_err(|e| e.to_string())?;
                    self.statements.extend(record.body);
                }
                Topic::Calls => chunks.insert(0, output.body),
                Topic::Alerts => {}
            }
        }
        for chunk in chunks {
            for call in calls_of(&chunk).map_err(|e| e.to_string())? {
                self.calls.insert((call.account_id.clone(), call.call_id.clone()), call);
            }
        }
        Ok(())
    }

    pub fn expect(&mut self, words: &[String]) -> Result<(), String> {
        let (verb, rest) = words.split_first().ok_or("nothing expected")?;
        match (verb.as_str(), rest) {
            ("success" | "disconnected" | "failed", _) => self.verdict(verb, rest),
            ("open", _) => self.open(fields(rest)?),
            ("unknown", _) => self.unknown(fields(rest)?),
            ("accepted", []) => match &self.last_rejected {
                None => Ok(()),
                Some(reject) => Err(format!(
                    "rejected, {} {}: {}",
                    reject.reason, reject.field, reject.detail
                )),
            },
            ("rejected", [reason, rest @ ..]) => {
                let reject = self.last_rejected.as_ref().ok_or("it was accepted")?;
                same("reason", &reject.reason, reason)?;
                match fields(rest)?.get("field") {
                    Some(&field) if !reject.field.contains(field) => Err(format!("field {}", reject.field)),
                    _ => Ok(()),
                }
            }
            ("usage", [period, class, rest @ ..]) => self.usage(period, class, fields(rest)?),
            ("frozen", [period, class, rest @ ..]) => self.frozen(period, class, fields(rest)?),
            ("statement", [period, rest @ ..]) => {
                let mut of = fields(rest)?;
                let statement = self.statement(account(&mut of), period).ok_or("there is none")?;
                for (key, value) in of {
                    match key {
                        "total" => same("total", &amount(&statement.total)?, &amount(value)?)?,
                        "lines" => same("lines", &statement.lines.len().to_string().as_str(), &value)?,
                        key => return Err(format!("{key} is not understood")),
                    }
                }
                Ok(())
            }
            ("line", [period, rest @ ..]) => self.line(period, fields(rest)?),
            ("noticed", [period, rest @ ..]) => self.noticed(period, fields(rest)?),
            ("control", [period, rest @ ..]) => {
                let control = self.control(period).ok_or("there is none")?;
                match fields(rest)?.get("accounts") {
                    Some(&accounts) => same("accounts", &control.accounts.to_string().as_str(), &accounts),
                    None => Ok(()),
                }
            }
            ("no", [what, period, rest @ ..]) => {
                let mut of = fields(rest)?;
                let found = match what.as_str() {
                    "statement" => self.statement(account(&mut of), period).is_some(),
                    "control" => self.control(period).is_some(),
                    "noticed" => self.notice(account(&mut of), period).is_some(),
                    what => return Err(format!("{what} is not understood")),
                };
                if found { Err("there is one".to_owned()) } else { Ok(()) }
            }
            _ => Err("not understood".to_owned()),
        }
    }

    fn slot(&self, account: &str, call: &str) -> Option<u32> {
        let account = self.machine.accounts.find(account)?;
        let key = CallKey::parse(call);
        self.machine.calls.find(account, &key, key.hash(account))
    }

    fn open(&self, mut of: BTreeMap<&str, &str>) -> Result<(), String> {
        let (account, call) = (account(&mut of), of.remove("call").unwrap_or("c"));
        let slot = self.slot(account, call).ok_or("the call is unknown")?;
        match self.machine.calls.get(slot) {
            Some(call) if !call.is_settled() => Ok(()),
            _ => Err(format!(
                "settled: {:?}",
                self.machine.verdict_of(slot).map(|v| v.ruling)
            )),
        }
    }

    fn unknown(&self, mut of: BTreeMap<&str, &str>) -> Result<(), String> {
        let (account, call) = (account(&mut of), of.remove("call").unwrap_or("c"));
        if self.slot(account, call).is_some() {
            return Err("the call is known".to_owned());
        }
        match self.calls.get(&(account.to_owned(), call.to_owned())) {
            Some(settled) => Err(format!("it was settled: {} {}", settled.outcome, settled.reason)),
            None => Ok(()),
        }
    }

    fn verdict(&self, outcome: &str, rest: &[String]) -> Result<(), String> {
        let (reason, rest) = rest.split_first().ok_or("no reason")?;
        let flag = |word: &str| rest.iter().any(|w| w == word);
        let pairs: Vec<String> = rest
            .iter()
            .filter(|w| !["billed", "unbilled", "estimated"].contains(&w.as_str()))
            .cloned()
            .collect();
        let mut of = fields(&pairs)?;
        let (account, call) = (account(&mut of), of.remove("call").unwrap_or("c"));
        let key = (account.to_owned(), call.to_owned());
        let Some(found) = self.calls.get(&key) else {
            return Err("not settled".to_owned());
        };
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
            let slot = self.slot(account, call).ok_or("the call is not in memory")?;
            let verdict = self.machine.verdict_of(slot).ok_or("no verdict")?;
            same("row", &verdict.ruling.row.to_string().as_str(), &row)?;
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
        self.audited(&key, found)
    }

    /// The auditor must have found the same.
    fn audited(&self, key: &(String, String), found: &pb::CallSettled) -> Result<(), String> {
        let findings = self.auditor.findings();
        let audited = findings.calls.get(key).ok_or("the auditor has no verdict")?;
        let quantities: Vec<(String, String)> = audited
            .quantities
            .iter()
            .map(|(meter, nano)| (meter.clone(), Quantity(*nano).to_string()))
            .collect();
        let own: Vec<(String, String)> = found
            .quantities
            .iter()
            .map(|q| (q.meter.clone(), q.quantity.clone()))
            .collect();
        same(
            "the auditor differs",
            &(
                found.outcome.as_str(),
                found.reason.as_str(),
                found.billed,
                found.period.as_str(),
                &own,
            ),
            &(
                audited.outcome,
                audited.reason,
                audited.billed,
                audited.period.as_str(),
                &quantities,
            ),
        )
    }

    fn usage(&self, period: &str, class: &str, mut of: BTreeMap<&str, &str>) -> Result<(), String> {
        let account = account(&mut of);
        let (service, product) = (of.remove("service"), of.remove("product"));
        let dimensions: Vec<(String, String)> = of
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix("dim.")?.to_owned(), (*value).to_owned())))
            .collect();
        of.retain(|key, _| !key.starts_with("dim."));
        let month: Month = period.parse().map_err(|_| "not a month")?;
        let names = &self.machine.names;
        let mut found: BTreeMap<String, Quantity> = BTreeMap::new();
        if let Some(number) = self.machine.accounts.find(account) {
            for (_, bucket) in self.machine.days_of(number, month) {
                for line in &bucket.lines {
                    let shape = names.of(line.key.dimensions);
                    let wanted = dimensions.iter().all(|(name, value)| {
                        let name = names.symbols.find(name);
                        name.is_some_and(|n| names.symbols.name(shape.dimension(n)) == value)
                    });
                    let fits = wanted
                        && line.key.class.as_str() == class
                        && service.is_none_or(|s| s == names.symbols.name(line.key.service))
                        && product.is_none_or(|p| p == names.symbols.name(line.key.product));
                    for (meter, nano) in line.meters.iter().filter(|_| fits) {
                        found.entry(names.symbols.name(*meter).to_owned()).or_default().0 += nano;
                    }
                }
            }
        }
        found.retain(|_, q| q.0 != 0);
        same("usage", &found, &meters(of)?)
    }

    fn statement(&self, account: &str, period: &str) -> Option<&pb::PeriodClosed> {
        self.statements.iter().find_map(|s| match s {
            Body::PeriodClosed(s) if s.account_id == account && s.period == period => Some(s),
            _ => None,
        })
    }

    fn notice(&self, account: &str, period: &str) -> Option<&pb::AdjustmentNoticed> {
        self.statements.iter().rev().find_map(|s| match s {
            Body::AdjustmentNoticed(n) if n.account_id == account && n.period == period => Some(n),
            _ => None,
        })
    }

    fn control(&self, period: &str) -> Option<&pb::PeriodControl> {
        self.statements.iter().find_map(|s| match s {
            Body::PeriodControl(c) if c.period == period => Some(c),
            _ => None,
        })
    }

    fn frozen(&self, period: &str, class: &str, mut of: BTreeMap<&str, &str>) -> Result<(), String> {
        let statement = self
            .statement(account(&mut of), period)
            .ok_or("there is no statement")?;
        let mut found: BTreeMap<String, Quantity> = BTreeMap::new();
        for row in statement.usage.iter().filter(|r| r.class == class) {
            found.entry(row.meter.clone()).or_default().0 += amount(&row.quantity)?.0;
        }
        same("frozen usage", &found, &meters(of)?)
    }

    fn line(&self, period: &str, mut of: BTreeMap<&str, &str>) -> Result<(), String> {
        let statement = self
            .statement(account(&mut of), period)
            .ok_or("there is no statement")?;
        let original = of.remove("original").unwrap_or_default();
        let fits = |line: &pb::StatementLine| {
            line.original_period == original
                && of.iter().all(|(key, value)| match *key {
                    "product" => line.product == *value,
                    "meter" => line.meter == *value,
                    "service" => line.service == *value,
                    "quantity" => amount(&line.quantity) == amount(value),
                    "amount" => amount(&line.amount) == amount(value),
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

    fn noticed(&self, period: &str, mut of: BTreeMap<&str, &str>) -> Result<(), String> {
        let notice = self.notice(account(&mut of), period).ok_or("there is no notice")?;
        if let Some(expected) = of.remove("amount") {
            same("amount", &amount(&notice.amount)?, &amount(expected)?)?;
        }
        let mut found: BTreeMap<String, Quantity> = BTreeMap::new();
        for row in notice.usage.iter().filter(|r| r.class != "unbilled") {
            found.entry(row.meter.clone()).or_default().0 += amount(&row.quantity)?.0;
        }
        found.retain(|_, q| q.0 != 0);
        same("noticed", &found, &meters(of)?)
    }
}
