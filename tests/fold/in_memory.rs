//! A scenario's log folded by the machine in memory, its verdicts judged by the auditor too.

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

use crate::scenario::expect::{Facts, Known, UsageOf, same};
use crate::scenario::parse::{Record, Scenario, Step};

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

impl Checker {
    pub fn new(scenario: &Scenario) -> Result<Self, String> {
        let first = scenario.steps.iter().find_map(|s| match s {
            Step::Record(record) => Some(record.at_ms),
            Step::Expect { .. } => None,
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

    fn fold(&mut self, append_ms: i64, kind: Kind, bytes: &[u8]) -> Result<(), String> {
        let offset = self.machine.position.next_offset;
        let word = match kind {
            Kind::Event => pb::CallEvent::decode(bytes).map(Word::Event),
            Kind::Control => pb::Control::decode(bytes).map(Word::Control),
            _ => pb::Tick::decode(bytes).map(|t| Word::Tick(t.at.map_or(0, |at| reckon::wire::check::instant_ms(&at)))),
        };
        let word = word.map_err(|e| e.to_string())?;
        self.auditor.take(&Entry::new(offset, append_ms, word));
        let record = LogRecord {
            offset,
            append_ms,
            bytes,
            headers: record::Headers::default(),
            input: record::decode(kind, bytes, &mut self.scratch),
        };
        while self.machine.advance(&record) != Advance::Done {}
        while self.machine.settle_down() != Advance::Done {}
        self.last_rejected = None;
        let mut chunks = vec![self.machine.outputs.calls.clone()];
        for output in self.machine.outputs.take().0 {
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

    fn slot(&self, account: &str, call: &str) -> Option<u32> {
        let account = self.machine.accounts.find(account)?;
        let key = CallKey::parse(call);
        self.machine.calls.find(account, &key, key.hash(account))
    }
}

impl Facts for Checker {
    fn append(&mut self, record: &Record) -> Result<(), String> {
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

    fn rejected(&mut self) -> Result<Option<pb::Rejected>, String> {
        Ok(self.last_rejected.clone())
    }

    fn known(&mut self, account: &str, call: &str) -> Result<Known, String> {
        let key = (account.to_owned(), call.to_owned());
        let how = |settled: Option<&pb::CallSettled>| {
            settled.map_or_else(String::new, |s| format!("{} {}", s.outcome, s.reason))
        };
        Ok(
            match (
                self.slot(account, call).and_then(|s| self.machine.calls.get(s)),
                self.calls.get(&key),
            ) {
                (Some(found), _) if !found.is_settled() => Known::Open,
                (None, None) => Known::Unknown,
                (_, settled) => Known::Settled(how(settled)),
            },
        )
    }

    fn settled(&mut self, account: &str, call: &str) -> Result<Option<pb::CallSettled>, String> {
        Ok(self.calls.get(&(account.to_owned(), call.to_owned())).cloned())
    }

    fn row(&mut self, account: &str, call: &str) -> Result<String, String> {
        let slot = self.slot(account, call).ok_or("the call is not in memory")?;
        let verdict = self.machine.verdict_of(slot).ok_or("no verdict")?;
        Ok(verdict.ruling.row.to_string())
    }

    fn usage(&mut self, of: &UsageOf<'_>) -> Result<BTreeMap<String, Quantity>, String> {
        let month: Month = of.period.parse().map_err(|_| "not a month")?;
        let names = &self.machine.names;
        let mut found: BTreeMap<String, Quantity> = BTreeMap::new();
        if let Some(number) = self.machine.accounts.find(of.account) {
            for (_, bucket) in self.machine.days_of(number, month) {
                for line in &bucket.lines {
                    let shape = names.of(line.key.dimensions);
                    let wanted = of.dimensions.iter().all(|(name, value)| {
                        let name = names.symbols.find(name);
                        name.is_some_and(|n| names.symbols.name(shape.dimension(n)) == value)
                    });
                    let fits = wanted
                        && line.key.class.as_str() == of.class
                        && of.service.is_none_or(|s| s == names.symbols.name(line.key.service))
                        && of.product.is_none_or(|p| p == names.symbols.name(line.key.product));
                    for (meter, nano) in line.meters.iter().filter(|_| fits) {
                        found.entry(names.symbols.name(*meter).to_owned()).or_default().0 += nano;
                    }
                }
            }
        }
        Ok(found)
    }

    fn statements(&mut self) -> Result<Vec<Body>, String> {
        Ok(self.statements.clone())
    }

    /// The auditor must have found the same.
    fn second(&mut self, found: &pb::CallSettled) -> Result<(), String> {
        let key = (found.account_id.clone(), found.call_id.clone());
        let findings = self.auditor.findings();
        let audited = findings.calls.get(&key).ok_or("the auditor has no verdict")?;
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
}
