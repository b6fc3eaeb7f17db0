//! `reckon check`: a dry run for gateway teams. Nothing is stored.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use clap::Args;
use prost::Message;
use serde_json::{Value, json};

use super::CliError;
use super::terminal::{Table, grouped};
use crate::log::appender::tick;
use crate::machine::clock::Source;
use crate::machine::control;
use crate::machine::evidence::Scope;
use crate::machine::fold::{Advance, Machine, Record};
use crate::machine::output::Topic;
use crate::model::Ms;
use crate::model::event::{Observer, Progress};
use crate::model::outcome::{Outcome, ROWS};
use crate::model::quantity::Quantity;
use crate::wire::check::instant_ms;
use crate::wire::json as wire_json;
use crate::wire::pb;
use crate::wire::record::{self, Kind};
use crate::wire::record_file::{self, Line};

/// Events of one call whose times lie further apart than the upstream's and the edge's clocks should.
const SKEW_MS: Ms = 60_000;

/// Dry-run a file of log records: each call's verdict and rule, and everything suspicious
///
/// Nothing is stored. Time is the file's ticks, or the latest occurred_at; at the end it runs on until every call is settled.
/// Exit code 1 if anything suspicious was found.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon check gateway-sample.ndjson")]
pub struct Check {
    /// NDJSON: {"event": …}, {"tick": …} or {"control": …} a line
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
    machine: Machine,
    scratch: Vec<u8>,
    findings: Vec<Finding>,
    control_version: u64,
    /// Which observers spoke of a call and the spread of their times, by account and call.
    seen: BTreeMap<(String, String), BTreeMap<i32, (Ms, Ms)>>,
    unknown_fields: BTreeMap<String, (usize, u64)>,
}

impl DryRun {
    fn apply(&mut self, line: usize, kind: Kind, bytes: &[u8]) {
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
        for output in self.machine.outputs.take() {
            if output.topic == Topic::Rejects
                && let Ok(reject) = pb::Rejected::decode(output.body.as_slice())
            {
                self.findings.push(Finding {
                    line: Some(line),
                    call: None,
                    what: "rejected",
                    field: reject.field,
                    detail: format!("{}: {}", reject.reason, reject.detail),
                });
            }
        }
    }

    fn event(&mut self, line: usize, text: &str) {
        if let Ok(read) = wire_json::decode(text.as_bytes()) {
            for field in read.unknown_fields {
                let entry = self.unknown_fields.entry(field).or_insert((line, 0));
                entry.1 += 1;
            }
            if let Some(at) = &read.event.occurred_at {
                let at = instant_ms(at);
                let key = (read.event.account_id, read.event.call_id);
                let observer = read.event.observer.max(Observer::Edge as i32);
                let spread = self.seen.entry(key).or_default().entry(observer).or_insert((at, at));
                *spread = (spread.0.min(at), spread.1.max(at));
            }
        }
        self.apply(line, Kind::Event, text.as_bytes());
    }

    fn control(&mut self, line: usize, mut control: pb::Control) {
        if control::is_for_everyone(&control) {
            if control.control_version == 0 {
                control.control_version = self.control_version + 1;
            }
            self.control_version = control.control_version;
        }
        self.apply(line, Kind::Control, &control.encode_to_vec());
    }

    /// What each call's evidence lacks.
    fn look(&mut self) {
        let symbols = &self.machine.names.symbols;
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
            let edge_ended = call
                .evidence
                .endings
                .iter()
                .any(|e| e.scope == Scope::Call && e.observer == Observer::Edge);
            let task = matches!(verdict.ruling.kind, 3 | 4);
            if !edge_ended && !task {
                let detail =
                    "the edge never said how it ended: settled at the deadline; send phase ended with end.cause";
                find("missing end", "phase", detail.to_owned());
            }
            if verdict.ruling.billed && verdict.bill.quantities.len() < 2 {
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
            if verdict.ruling.outcome == Outcome::Failed && verdict.ruling.row == 17 {
                let unknown = call.evidence.progress(verdict.ruling.serving) == Progress::Unknown;
                if unknown {
                    let detail = "the client left and nobody said how far the call was: not charged; send end.progress";
                    find("missing progress", "end.progress", detail.to_owned());
                }
            }
            if let Some(observers) = self.seen.get(&key) {
                let first = observers.values().map(|s| s.0).min().unwrap_or(0);
                let late = observers.values().map(|s| s.0).max().unwrap_or(0);
                if observers.len() > 1 && late - first > SKEW_MS {
                    let detail = format!(
                        "observers begin {} s apart: compare the clocks of edge and upstream",
                        (late - first) / 1_000
                    );
                    find("skewed clocks", "occurred_at", detail);
                }
            }
            let _ = symbols;
        }
        for (field, (line, count)) in &self.unknown_fields {
            self.findings.push(Finding {
                line: Some(*line),
                call: None,
                what: "unknown field",
                field: field.clone(),
                detail: format!("left out of {count} events; is it misspelt?"),
            });
        }
    }
}

impl Check {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        let failed = |cause| CliError::File {
            path: self.file.clone(),
            cause,
        };
        let mut lines = Vec::new();
        for line in BufReader::new(File::open(&self.file).map_err(failed)?).split(b'\n') {
            lines.push(String::from_utf8_lossy(&line.map_err(failed)?).into_owned());
        }
        let parsed: Vec<_> = lines
            .iter()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(n, line)| (n + 1, line, record_file::parse(line)))
            .collect();
        let has_ticks = parsed.iter().any(|(_, _, p)| matches!(p, Ok(Line::Tick(_))));
        let mut run = DryRun {
            machine: Machine::new(0, 1, Source::Ticks, 0),
            scratch: Vec::new(),
            findings: Vec::new(),
            control_version: 0,
            seen: BTreeMap::new(),
            unknown_fields: BTreeMap::new(),
        };
        let mut latest: Option<Ms> = None;
        for (number, line, parsed) in parsed {
            match parsed {
                Ok(Line::Tick(at)) => run.apply(number, Kind::Tick, &tick(at)),
                Ok(Line::Control(control)) => run.control(number, *control),
                Ok(Line::Event(text)) => {
                    let at = wire_json::decode(text.as_bytes())
                        .ok()
                        .and_then(|r| r.event.occurred_at.as_ref().map(instant_ms));
                    if !has_ticks && at > latest {
                        latest = at;
                        run.apply(number, Kind::Tick, &tick(at.unwrap_or(0)));
                    }
                    run.event(number, &text);
                }
                Err(cause) => run.findings.push(Finding {
                    line: Some(number),
                    call: None,
                    what: "unreadable",
                    field: String::new(),
                    detail: format!("{cause} (found {line:.60}…)"),
                }),
            }
        }
        let wait = run.machine.policies.iter().map(|p| p.max_open_ms).max().unwrap_or(0);
        let end = run.machine.now().saturating_add(wait);
        if run.machine.clock.now.is_some() {
            run.apply(0, Kind::Tick, &tick(end));
        }
        run.look();
        if json {
            print_json(&run);
        } else {
            print_text(&run);
        }
        if run.findings.is_empty() {
            Ok(())
        } else {
            Err(CliError::Finding(format!("{} findings", run.findings.len())))
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

fn print_json(run: &DryRun) {
    for (account, call, outcome, reason, row, quantities) in calls(run) {
        let rule = ROWS[usize::from(row) - 1];
        let quantities: BTreeMap<String, String> = quantities.into_iter().collect();
        println!(
            "{}",
            json!({"account": account, "call": call, "outcome": outcome, "reason": reason, "row": row, "rule": rule,
                "quantities": quantities})
        );
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
        println!("{row}");
    }
}

fn print_text(run: &DryRun) {
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
    print!("{table}");
    if run.findings.is_empty() {
        println!("\nnothing suspicious");
        return;
    }
    println!();
    for finding in &run.findings {
        let place = match (&finding.line, &finding.call) {
            (Some(line), _) => format!("line {line}"),
            (None, Some((account, call))) => format!("{account} {call}"),
            (None, None) => String::new(),
        };
        println!("{place}: {}{}: {}", finding.what, field(&finding.field), finding.detail);
    }
}

fn field(field: &str) -> String {
    if field.is_empty() {
        String::new()
    } else {
        format!(" ({field})")
    }
}
