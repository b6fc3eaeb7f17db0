//! `reckon check`: a dry run for gateway teams. Nothing is stored.

mod seen;

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use prost::Message;
use serde_json::{Value, json};

use super::CliError;
use super::history::{Entry, Form, History, Unread};
use super::terminal::{Table, grouped, plain, put, say};
use crate::log::appender::tick;
use crate::machine::clock::Source;
use crate::machine::control;
use crate::machine::evidence::Scope;
use crate::machine::fold::{Advance, Machine, Record};
use crate::machine::output::Topic;
use crate::model::event::{CallKind, Observer, Progress};
use crate::model::outcome::ROWS;
use crate::model::period::rfc3339;
use crate::model::quantity::Quantity;
use crate::wire::json as wire_json;
use crate::wire::pb;
use crate::wire::record::{self, Kind};
use crate::wire::record_file::BadLine;
use seen::Seen;

/// Characters of a line that are shown where it can't be read.
const SHOWN_CHARS: usize = 60;

/// Dry-run a file of events or log records: each call's verdict and rule, and everything suspicious
///
/// Nothing is stored. The file has events, one a line, as gateways send them (`reckon post`, POST /v1/events), or log records, as
/// `reckon import events` reads them: its first line tells. Time is the file's ticks, or else the latest occurred_at. At the end
/// time runs on until every call is settled. Exit code 1 if anything suspicious was found.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon check gateway-sample.ndjson")]
pub struct Check {
    /// NDJSON: an event a line; or {"event": …}, {"tick": …} or {"control": …} a line
    file: PathBuf,
}

/// Something suspicious.
struct Finding {
    line: Option<usize>,
    call: Option<(String, String)>,
    what: &'static str,
    field: String,
    detail: String,
}

struct DryRun {
    form: Form,
    machine: Machine,
    scratch: Vec<u8>,
    findings: Vec<Finding>,
    /// By account and call.
    seen: BTreeMap<(String, String), Seen>,
    /// By path: the first line that has it, and how many do.
    unknown_fields: BTreeMap<String, (usize, u64)>,
}

impl DryRun {
    fn new(form: Form) -> Self {
        Self {
            form,
            machine: Machine::new(0, 1, Source::Ticks, 0),
            scratch: Vec::new(),
            findings: Vec::new(),
            seen: BTreeMap::new(),
            unknown_fields: BTreeMap::new(),
        }
    }

    fn find(&mut self, line: usize, what: &'static str, field: &str, detail: String) {
        self.findings.push(Finding {
            line: Some(line),
            call: None,
            what,
            field: field.to_owned(),
            detail,
        });
    }

    /// Folds a record; returns why it was rejected, if it was.
    fn apply(&mut self, kind: Kind, bytes: &[u8]) -> Option<pb::Rejected> {
        let offset = self.machine.position.next_offset;
        let record = Record {
            offset,
            append_ms: self.machine.now(),
            bytes,
            input: record::decode(kind, bytes, &mut self.scratch),
            headers: crate::wire::record::Headers::default(),
        };
        // Nothing is stored, so nothing has to be loaded.
        while self.machine.advance(&record) != Advance::Done {}
        while self.machine.settle_down() != Advance::Done {}
        let (outputs, _) = self.machine.outputs.take();
        let mut rejects = outputs.iter().filter(|o| o.topic == Topic::Rejects);
        rejects.find_map(|o| pb::Rejected::decode(o.body.as_slice()).ok())
    }

    fn record(&mut self, line: usize, kind: Kind, bytes: &[u8]) {
        if let Some(reject) = self.apply(kind, bytes) {
            let detail = format!("{}: {}", reject.reason, reject.detail);
            self.find(line, "rejected", &reject.field, detail);
        }
    }

    fn event(&mut self, line: usize, bytes: &[u8]) {
        let read = wire_json::decode(bytes).ok();
        let before = self.findings.len();
        self.record(line, Kind::Event, bytes);
        let Some(read) = read else { return };
        for field in read.unknown_fields {
            let entry = self.unknown_fields.entry(field).or_insert((line, 0));
            entry.1 += 1;
        }
        if self.findings.len() == before {
            let key = (read.event.account_id.clone(), read.event.call_id.clone());
            self.seen.entry(key).or_default().take(&read.event);
        }
    }

    fn control(&mut self, line: usize, mut control: pb::Control) {
        if control::is_for_everyone(&control) && control.control_version == 0 {
            control.control_version = self.machine.ledger.version.saturating_add(1);
        }
        self.record(line, Kind::Control, &control.encode_to_vec());
    }

    fn take(&mut self, line: usize, entry: Entry) {
        match entry {
            Entry::Tick(at) => self.record(line, Kind::Tick, &tick(at)),
            Entry::Event(bytes) => self.event(line, &bytes),
            Entry::Control(control) => self.control(line, *control),
            Entry::Unreadable { kind, bytes, cause } => {
                // The cause says more than the fold's reason.
                self.apply(kind, &bytes);
                let field = match &cause {
                    Unread::Record(BadLine::Control(reject)) => reject.field.to_string(),
                    Unread::Record(BadLine::Tick(_)) => "tick".to_owned(),
                    Unread::Record(BadLine::Form(_)) | Unread::Event(_) => String::new(),
                };
                let text = String::from_utf8_lossy(&bytes);
                let shown: String = text.chars().take(SHOWN_CHARS).collect();
                self.find(line, "unreadable", &field, format!("{cause} (found {shown})"));
            }
            Entry::Leap { from, to } => {
                let ticks = match self.form {
                    Form::Records => ", or give the file {\"tick\": …} lines",
                    Form::Events => "",
                };
                let detail = format!(
                    "the clock is at {}, this event's at {}, and most events after it don't go along: the clock stays; \
                     mend the producer's clock{ticks}",
                    from.map_or_else(|| "its beginning".to_owned(), rfc3339),
                    rfc3339(to)
                );
                self.find(line, "leap", "occurred_at", detail);
            }
        }
    }

    /// Lets time run on until every call is settled.
    fn run_on(&mut self) {
        let wait = self.machine.policies.iter().map(|p| p.max_open_ms).max().unwrap_or(0);
        let end = self.machine.now().saturating_add(wait);
        if self.machine.clock.now.is_some() {
            self.apply(Kind::Tick, &tick(end));
        }
    }

    /// Entry each call's evidence lacks.
    fn look(&mut self) {
        for (slot, call) in self.machine.calls.iter() {
            let Some(verdict) = self.machine.verdict_of(slot) else {
                continue;
            };
            let account = self
                .machine
                .accounts
                .get(call.account)
                .map_or_else(String::new, |a| a.id.to_string());
            let key = (account, call.id.to_string());
            let mut find = |what, field: &str, detail: String| {
                self.findings.push(Finding {
                    line: None,
                    call: Some(key.clone()),
                    what,
                    field: field.to_owned(),
                    detail,
                });
            };
            let ruling = &verdict.ruling;
            let task = [CallKind::AsyncTask as u8, CallKind::BatchItem as u8].contains(&ruling.kind);
            let mut endings = call.evidence.endings.iter();
            let edge_ended = endings.any(|e| e.scope == Scope::Call && e.observer == Observer::Edge);
            if task && ruling.row >= 18 {
                let detail = "nobody said how the task ended: settled at the deadline; send phase ended with end.cause";
                find("missing end", "phase", detail.to_owned());
            } else if !task && !edge_ended {
                let detail =
                    "the edge never said how it ended: settled at the deadline; send phase ended with end.cause";
                find("missing end", "phase", detail.to_owned());
            }
            if ruling.billed && verdict.bill.quantities.len() < 2 {
                let detail =
                    "billed, but nothing was measured: only the request is charged; send usage with the end or after";
                find("missing usage", "usage", detail.to_owned());
            }
            if verdict.bill.product.is_none() {
                find(
                    "missing product",
                    "product",
                    "no price can name it; send product".to_owned(),
                );
            }
            if ruling.row == 17 && call.evidence.progress(ruling.serving) == Progress::Unknown {
                let detail = "the client left and nobody said how far the call was: not charged; send end.progress";
                find("missing progress", "end.progress", detail.to_owned());
            }
            if let Some(skew) = self.seen.get(&key).and_then(Seen::skew) {
                find("skewed clocks", "occurred_at", skew);
            }
        }
        for (field, (line, count)) in std::mem::take(&mut self.unknown_fields) {
            self.find(
                line,
                "unknown field",
                &field,
                format!("left out of {count} events; is it misspelt?"),
            );
        }
    }
}

impl Check {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        let history = History::open_either(&self.file)?;
        let mut run = DryRun::new(history.form);
        history.read(None, |line, _, entry| {
            run.take(line, entry);
            Ok(())
        })?;
        run.run_on();
        run.look();
        if json {
            print_json(&run)?;
        } else {
            print_text(&run)?;
        }
        match run.findings.len() {
            0 => Ok(()),
            1 => Err(CliError::Finding("1 finding".to_owned())),
            findings => Err(CliError::Finding(format!("{findings} findings"))),
        }
    }
}

/// Account, call, outcome, reason, row, quantities.
type CallLine = (String, String, &'static str, &'static str, u8, Vec<(String, String)>);

fn calls(run: &DryRun) -> Vec<CallLine> {
    let symbols = &run.machine.names.symbols;
    let mut calls: Vec<CallLine> = run
        .machine
        .calls
        .iter()
        .filter_map(|(slot, call)| {
            let verdict = run.machine.verdict_of(slot)?;
            let quantities = verdict.bill.quantities.iter();
            Some((
                run.machine.accounts.get(call.account)?.id.to_string(),
                call.id.to_string(),
                verdict.ruling.outcome.as_str(),
                verdict.ruling.reason.as_str(),
                verdict.ruling.row,
                quantities
                    .map(|&(m, q)| (symbols.name(m).to_owned(), Quantity(q).to_string()))
                    .collect(),
            ))
        })
        .collect();
    calls.sort();
    calls
}

fn print_json(run: &DryRun) -> std::io::Result<()> {
    for (account, call, outcome, reason, row, quantities) in calls(run) {
        let rule = ROWS[usize::from(row) - 1];
        let quantities: BTreeMap<String, String> = quantities.into_iter().collect();
        say!(
            "{}",
            json!({"account": account, "call": call, "outcome": outcome, "reason": reason, "row": row, "rule": rule,
                "quantities": quantities})
        )?;
    }
    for finding in &run.findings {
        let (account, call) = finding.call.clone().unwrap_or_default();
        let mut row = json!({"finding": finding.what, "field": finding.field, "detail": finding.detail});
        if let Some(line) = finding.line {
            row["line"] = line.into();
        }
        if finding.call.is_some() {
            row["account"] = Value::from(account);
            row["call"] = Value::from(call);
        }
        say!("{row}")?;
    }
    Ok(())
}

fn print_text(run: &DryRun) -> std::io::Result<()> {
    let mut table = Table::new(&["account", "call", "outcome", "reason", ">row", "rule", "quantities"]);
    for (account, call, outcome, reason, row, quantities) in calls(run) {
        let quantities: Vec<String> = quantities.iter().map(|(m, q)| format!("{} {m}", grouped(q))).collect();
        let rule = ROWS[usize::from(row) - 1];
        let cells = [
            account,
            call,
            outcome.to_owned(),
            reason.to_owned(),
            row.to_string(),
            rule.to_owned(),
        ];
        table.row(cells.into_iter().chain([quantities.join(", ")]));
    }
    put(&table)?;
    if run.findings.is_empty() {
        return say!("\nnothing suspicious");
    }
    say!("")?;
    for finding in &run.findings {
        let place = match (&finding.line, &finding.call) {
            (Some(line), _) => format!("line {line}"),
            (None, Some((account, call))) => format!("{account} {call}"),
            (None, None) => String::new(),
        };
        let (field, detail) = (field(&finding.field), plain(&finding.detail));
        say!("{place}: {}{field}: {detail}", finding.what)?;
    }
    Ok(())
}

fn field(field: &str) -> String {
    if field.is_empty() {
        String::new()
    } else {
        format!(" ({field})")
    }
}
