//! `reckon explain`: why one call came to what it came to.

use std::path::Path;

use clap::Args;
use serde_json::{Map, Value, json};

use super::terminal::{grouped, put, say};
use super::{CliError, Data};
use crate::log::placement::partition_of;
use crate::model::outcome::ROWS;
use crate::model::period::rfc3339;
use crate::partition::Settings;
use crate::partition::explain::{Explained, FoundEvent, find_events};
use crate::partition::host::Host;
use crate::partition::rows::CallRow;
use crate::store::rocks::Budget;

/// Explain one call: verdict, rule, quantities, evidence, amendments and events
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon explain acme 01J8ZC6V1Y8Z4T3RDQ0XNWB5MA --data ./reckon-data")]
pub struct Explain {
    /// Who pays
    account: String,

    /// The call's id
    call: String,

    #[command(flatten)]
    data: Data,
}

/// Everything that is known of a call.
pub(super) struct Report {
    account: String,
    call: String,
    partition: u32,
    explained: Option<Explained>,
    /// Its verdict and amendments, oldest first.
    verdicts: Vec<CallRow>,
    events: Vec<FoundEvent>,
    log_start: u64,
}

impl Explain {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        let report = explain(&self.data.data, &self.account, &self.call)?;
        if json {
            say!("{}", report.to_json())?;
        } else {
            put(&report)?;
        }
        Ok(())
    }
}

/// Looks the call up beside whoever folds the log.
fn explain(data: &Path, account: &str, call: &str) -> Result<Report, CliError> {
    let host = Host::open_beside(data, &Budget::default(), &Settings::default())?;
    of_host(&host, account, call)
}

/// Looks the call up.
pub(super) fn of_host(host: &Host, account: &str, call: &str) -> Result<Report, CliError> {
    let number = partition_of(account, host.log.identity().partition_count);
    let log = std::sync::Arc::clone(&host.log);
    let partition = &host.partitions[number as usize];
    let explained = partition.explain(account, call)?;
    let mut verdicts = Vec::new();
    partition.verdicts_of(account, call, |v| verdicts.push(CallRow::from(v)))?;
    if explained.is_none() && verdicts.is_empty() {
        return Err(CliError::Finding(format!(
            "account {account:?} has no call {call:?} (partition {number}); `reckon export rejects` shows what was not folded"
        )));
    }
    let known = explained.as_ref().map(|e| &e.known);
    let events = find_events(log.as_ref(), partition, known, account, call)?;
    Ok(Report {
        account: account.to_owned(),
        call: call.to_owned(),
        partition: number,
        explained,
        verdicts,
        events,
        log_start: log.start(number)?,
    })
}

impl Report {
    fn to_json(&self) -> Value {
        let mut row = Map::new();
        row.insert("account".to_owned(), self.account.clone().into());
        row.insert("call".to_owned(), self.call.clone().into());
        row.insert("partition".to_owned(), self.partition.into());
        match &self.explained {
            Some(explained) => row.extend(explained.to_json()),
            None => {
                row.insert("evidence".to_owned(), Value::Null);
            }
        }
        let verdicts = self.verdicts.iter().filter_map(|v| serde_json::to_value(v).ok());
        row.insert("revisions".to_owned(), verdicts.collect());
        let events: Vec<Value> = self
            .events
            .iter()
            .map(|e| json!({"offset": e.offset, "appended_at": rfc3339(e.append_ms), "record": e.event}))
            .collect();
        row.insert("events".to_owned(), events.into());
        row.insert("log_reaches_back_to_offset".to_owned(), self.log_start.into());
        row.into()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "call {} of account {} (partition {})",
            self.call, self.account, self.partition
        )?;
        match &self.explained {
            None => writeln!(f, "  its evidence is forgotten; what was decided is below")?,
            Some(explained) => {
                let known = &explained.known;
                let ruling = &known.verdict.ruling;
                let charged = if ruling.billed { "charged" } else { "not charged" };
                let so_far = if known.call.is_settled() {
                    ""
                } else {
                    " (open: this is what it would come to now)"
                };
                writeln!(
                    f,
                    "  {}, {}: {}{so_far}",
                    ruling.outcome.as_str(),
                    ruling.reason.as_str(),
                    charged
                )?;
                writeln!(f, "  rule {}: {}", ruling.row, ROWS[usize::from(ruling.row) - 1])?;
                if let Some(due) = known.due {
                    writeln!(
                        f,
                        "  settles at {} of the log's clock if nothing more comes",
                        rfc3339(due)
                    )?;
                }
                for q in &explained.quantities {
                    writeln!(f, "    {:>14} {} ({})", grouped(&q.quantity), q.meter, q.provenance)?;
                }
                if let Some(c) = &known.correction {
                    let word = if c.bill { "bill" } else { "waive" };
                    writeln!(f, "  corrected by {} ({}): {word}, {}", c.actor, c.control_id, c.reason)?;
                }
                writeln!(f, "  evidence")?;
                for ending in explained.evidence["endings"].as_array().into_iter().flatten() {
                    writeln!(
                        f,
                        "    {} {} {}: {}, progress {}, client {}, upstream {}, end marker {}{}",
                        ending["at"].as_str().unwrap_or_default(),
                        ending["observer"].as_str().unwrap_or_default(),
                        ending["phase"].as_str().unwrap_or_default(),
                        ending["cause"].as_str().unwrap_or_default(),
                        ending["progress"].as_str().unwrap_or_default(),
                        ending["client_status"],
                        ending["upstream_status"],
                        ending["end_marker"].as_str().unwrap_or_default(),
                        match ending["error_type"].as_str() {
                            None | Some("") => String::new(),
                            Some(error) => format!(", error {error}"),
                        }
                    )?;
                }
                for fact in explained.evidence["facts"].as_array().into_iter().flatten() {
                    writeln!(
                        f,
                        "    {} at attempt {}: service {:?}, product {:?}",
                        fact["observer"].as_str().unwrap_or_default(),
                        fact["attempt"],
                        fact["service"].as_str().unwrap_or_default(),
                        fact["product"].as_str().unwrap_or_default(),
                    )?;
                }
                for fact in explained.evidence["progress"].as_array().into_iter().flatten() {
                    let progress = fact["progress"].as_str().unwrap_or_default();
                    writeln!(f, "    attempt {}: progress {progress}, by whomever", fact["attempt"])?;
                }
            }
        }
        if !self.verdicts.is_empty() {
            writeln!(f, "  decided")?;
        }
        for v in &self.verdicts {
            let quantities: Vec<String> = v
                .quantities
                .iter()
                .map(|(m, q)| format!("{} {m}", grouped(q)))
                .collect();
            writeln!(
                f,
                "    revision {}: {} {} in {}: {}",
                v.revision,
                v.outcome,
                v.reason,
                v.period,
                quantities.join(", ")
            )?;
        }
        writeln!(f, "  events")?;
        for e in &self.events {
            writeln!(f, "    {}:{} {}", self.partition, e.offset, e.event)?;
        }
        if self.log_start > 0 {
            writeln!(f, "    the log reaches back to offset {} only", self.log_start)?;
        }
        Ok(())
    }
}
