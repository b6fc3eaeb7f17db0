//! `reckon export`: what was decided, as rows for other programs. Reads beside a running process.

use std::collections::BTreeMap;
use std::io::{BufWriter, StdoutLock, Write};

use clap::{Args, ValueEnum};
use prost::Message;
use serde::Serialize;

use super::CliError;
use super::source::{Outputs, Source};
use crate::machine::output::{Topic, calls_of};
use crate::model::period::Month;
use crate::partition::host::Host;
use crate::partition::read::MonthUsage;
use crate::partition::rows::{AdjustmentRow, CallRow, ControlRow, OutcomeRow, RejectRow, StatementRow, UsageRow};
use crate::wire::pb;
use crate::wire::pb::statement_record::Body;

/// Write calls, usage, statements and more as NDJSON on standard output.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  reckon export usage --data ./reckon-data --account acme --format csv\n  \
    reckon export statements --data ./reckon-data --period 2026-09\n  \
    reckon export calls --kafka localhost:9092 --account acme"
)]
pub struct Export {
    /// What to write
    #[arg(value_enum)]
    what: What,

    #[command(flatten)]
    source: Source,

    /// Only this account
    #[arg(long)]
    account: Option<String>,

    /// Only this month, such as 2026-09
    #[arg(long)]
    period: Option<Month>,

    /// NDJSON, or CSV for usage and outcomes
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// The latest verdict of every settled call
    Calls,
    /// Sums by account, month, service, product, meter and class, as now known
    Usage,
    /// Calls by outcome and reason, as now known
    Outcomes,
    /// Closed months, as stated
    Statements,
    /// What changed in closed months
    Adjustments,
    /// Records that were not folded, and why
    Rejects,
    /// Each month's control record: what a consumer must have
    Control,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A JSON object a line
    Ndjson,
    /// Comma-separated, with a head
    Csv,
}

struct Rows<'a> {
    out: BufWriter<StdoutLock<'a>>,
    account: Option<String>,
    period: Option<String>,
}

impl Rows<'_> {
    fn wants(&self, account: &str, period: &str) -> bool {
        self.account.as_deref().is_none_or(|a| a == account) && self.period.as_deref().is_none_or(|p| p == period)
    }

    fn row(&mut self, row: &impl Serialize) -> Result<(), CliError> {
        serde_json::to_writer(&mut self.out, row)?;
        self.out.write_all(b"\n")?;
        Ok(())
    }

    fn csv(&mut self, cells: &[&str]) -> Result<(), CliError> {
        let mut line = String::new();
        for (i, cell) in cells.iter().enumerate() {
            if i > 0 {
                line.push(',');
            }
            if cell.contains([',', '"', '\n', '\r']) {
                line.push_str(&format!("\"{}\"", cell.replace('"', "\"\"")));
            } else {
                line.push_str(cell);
            }
        }
        line.push_str("\r\n");
        self.out.write_all(line.as_bytes())?;
        Ok(())
    }
}

impl Export {
    pub(super) fn run(self) -> Result<(), CliError> {
        if self.format == Format::Csv && !matches!(self.what, What::Usage | What::Outcomes) {
            return Err(CliError::Usage("--format csv is for usage and outcomes".to_owned()));
        }
        if self.source.kafka.is_some() && matches!(self.what, What::Usage | What::Outcomes) {
            return Err(CliError::Usage(
                "usage and outcomes are read from stores, which aren't on Kafka: ask any instance for GET \
                 /v1/accounts/ACCOUNT/usage, or give --data. From Kafka: calls, statements, adjustments, rejects, control"
                    .to_owned(),
            ));
        }
        let outputs = self.source.open()?;
        let mut rows = Rows {
            out: BufWriter::new(std::io::stdout().lock()),
            account: self.account.clone(),
            period: self.period.map(|p| p.to_string()),
        };
        match (self.what, &outputs) {
            (What::Calls, Outputs::Data(host)) => calls(host, &mut rows)?,
            (What::Calls, Outputs::Kafka(_)) => delivered_calls(&outputs, &mut rows)?,
            (What::Usage | What::Outcomes, Outputs::Data(host)) => self.usage(host, &mut rows)?,
            // Refused above.
            (What::Usage | What::Outcomes, Outputs::Kafka(_)) => {}
            (What::Statements | What::Adjustments | What::Control, _) => statements(&outputs, &mut rows, self.what)?,
            (What::Rejects, _) => rejects(&outputs, &mut rows)?,
        }
        rows.out.flush()?;
        Ok(())
    }

    fn usage(&self, host: &Host, rows: &mut Rows<'_>) -> Result<(), CliError> {
        let mut months: BTreeMap<(String, Month), MonthUsage> = BTreeMap::new();
        for partition in &host.partitions {
            months.extend(partition.usage(self.account.as_deref())?);
        }
        let csv = self.format == Format::Csv;
        if csv && self.what == What::Usage {
            rows.csv(&["account", "period", "service", "product", "meter", "class", "quantity"])?;
        } else if csv {
            rows.csv(&["account", "period", "kind", "name", "calls"])?;
        }
        for ((account, month), usage) in &months {
            let period = month.to_string();
            if !rows.wants(account, &period) {
                continue;
            }
            match (self.what, csv) {
                (What::Usage, _) => {
                    for (key, nano) in &usage.usage {
                        let row = UsageRow::new(account, &period, key, *nano);
                        if csv {
                            let cells = [account, period.as_str(), &key.0, &key.1, &key.2, key.3, &row.quantity];
                            rows.csv(&cells)?;
                        } else {
                            rows.row(&row)?;
                        }
                    }
                }
                // A month that its last call has moved out of has nothing to say.
                (_, false) if usage.outcomes.is_empty() && usage.reasons.is_empty() => {}
                (_, false) => rows.row(&OutcomeRow {
                    account,
                    period: &period,
                    outcomes: &usage.outcomes,
                    reasons: &usage.reasons,
                })?,
                (_, true) => {
                    for (kind, counts) in [("outcome", &usage.outcomes), ("reason", &usage.reasons)] {
                        for (name, calls) in counts {
                            rows.csv(&[account, &period, kind, name, &calls.to_string()])?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The latest verdict of every call; one that was forgotten and came again is the newer one.
fn calls(host: &Host, rows: &mut Rows<'_>) -> Result<(), CliError> {
    if !host.partitions.iter().all(|p| p.machine.outputs.calls_on) {
        return Err(CliError::Finding(
            "the calls output of this store is off: verdicts are not kept".to_owned(),
        ));
    }
    for partition in &host.partitions {
        let mut latest: BTreeMap<(String, String), pb::CallSettled> = BTreeMap::new();
        partition.verdicts(|call| {
            if rows.account.as_deref().is_none_or(|a| a == call.account_id) {
                latest.insert((call.account_id.clone(), call.call_id.clone()), call);
            }
        })?;
        for (_, call) in latest {
            if rows.wants(&call.account_id, &call.period) {
                rows.row(&CallRow::from(call))?;
            }
        }
    }
    Ok(())
}

/// The same from the calls topic, from which early ones may have been removed.
fn delivered_calls(outputs: &Outputs, rows: &mut Rows<'_>) -> Result<(), CliError> {
    let mut latest: BTreeMap<(u32, String, String), pb::CallSettled> = BTreeMap::new();
    outputs.read(Topic::Calls, |partition, output| {
        let calls = calls_of(&output.body).map_err(|cause| undecodable(partition, output.sequence, &cause))?;
        for call in calls {
            if rows.account.as_deref().is_none_or(|a| a == call.account_id) {
                latest.insert((partition, call.account_id.clone(), call.call_id.clone()), call);
            }
        }
        Ok(())
    })?;
    for (_, call) in latest {
        if rows.wants(&call.account_id, &call.period) {
            rows.row(&CallRow::from(call))?;
        }
    }
    Ok(())
}

fn undecodable(partition: u32, sequence: u64, cause: &prost::DecodeError) -> CliError {
    CliError::Finding(format!(
        "sequence {sequence} of partition {partition} can't be decoded: {cause}"
    ))
}

fn statements(outputs: &Outputs, rows: &mut Rows<'_>, what: What) -> Result<(), CliError> {
    outputs.read(Topic::Statements, |partition, output| {
        let sequence = output.sequence;
        let record = pb::StatementRecord::decode(output.body.as_slice())
            .map_err(|cause| undecodable(partition, sequence, &cause))?;
        match (what, record.body) {
            (What::Statements, Some(Body::PeriodClosed(s))) if rows.wants(&s.account_id, &s.period) => {
                rows.row(&StatementRow::new(sequence, s))
            }
            (What::Adjustments, Some(Body::AdjustmentNoticed(a))) if rows.wants(&a.account_id, &a.period) => {
                rows.row(&AdjustmentRow::new(sequence, a))
            }
            (What::Control, Some(Body::PeriodControl(c))) if rows.period.as_deref().is_none_or(|p| p == c.period) => {
                rows.row(&ControlRow::new(sequence, c))
            }
            _ => Ok(()),
        }
    })
}

fn rejects(outputs: &Outputs, rows: &mut Rows<'_>) -> Result<(), CliError> {
    outputs.read(Topic::Rejects, |partition, output| {
        let reject = pb::Rejected::decode(output.body.as_slice())
            .map_err(|cause| undecodable(partition, output.sequence, &cause))?;
        rows.row(&RejectRow::from(reject))
    })
}
