//! `reckon export`: what was decided, as rows for other programs. Reads beside a running process.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufWriter, StdoutLock, Write};

use clap::{Args, ValueEnum};
use prost::Message;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use super::CliError;
use super::rejects::account_of;
use super::source::{Outputs, Source};
use crate::machine::output::{Topic, calls_of};
use crate::machine::paging::Joining;
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

    /// Only this account; rejects: of records that name it
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
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        self.check(json)?;
        let outputs = self.source.open()?;
        let mut rows = Rows {
            out: BufWriter::new(std::io::stdout().lock()),
            account: self.account.clone(),
            period: self.period.map(|p| p.to_string()),
        };
        match (self.what, &outputs) {
            (What::Calls, _) => calls(&outputs, &mut rows)?,
            (What::Usage | What::Outcomes, Outputs::Data(host)) => self.usage(host, &mut rows)?,
            // Refused above.
            (What::Usage | What::Outcomes, Outputs::Kafka(_)) => {}
            (What::Statements | What::Adjustments | What::Control, _) => statements(&outputs, &mut rows, self.what)?,
            (What::Rejects, _) => rejects(&outputs, &mut rows)?,
        }
        rows.out.flush()?;
        Ok(())
    }

    /// That the options have a meaning together.
    fn check(&self, json: bool) -> Result<(), CliError> {
        if json && self.format == Format::Csv {
            return Err(CliError::Usage(
                "--json and --format csv exclude each other; without either it is NDJSON".to_owned(),
            ));
        }
        if self.what == What::Rejects && self.period.is_some() {
            return Err(CliError::Usage(
                "--period has no meaning for rejects: what was not folded is in no month; --account has".to_owned(),
            ));
        }
        if self.what == What::Control && self.account.is_some() {
            return Err(CliError::Usage(
                "--account has no meaning for control: a month's control record is a partition's; --period has"
                    .to_owned(),
            ));
        }
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

/// Every verdict and amendment in the order in which they were decided, with its place in its partition. On Kafka early ones may
/// have been removed.
fn verdicts(
    outputs: &Outputs,
    mut take: impl FnMut(u32, (u64, usize), pb::CallSettled) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut chunk = |partition, sequence, body: &[u8]| {
        let calls = calls_of(body).map_err(|cause| undecodable(partition, sequence, &cause))?;
        let mut calls = calls.into_iter().enumerate();
        calls.try_for_each(|(n, call)| take(partition, (sequence, n), call))
    };
    outputs.read(Topic::Calls, |partition, output| {
        chunk(partition, output.sequence, &output.body)
    })?;
    let Outputs::Data(host) = outputs else { return Ok(()) };
    // What doesn't fill a chunk yet.
    let mut partitions = host.partitions.iter();
    partitions.try_for_each(|p| chunk(p.number, u64::MAX, &p.machine.outputs.calls))
}

/// The latest verdict of every call; one that was forgotten and came again is the newer one. Read twice, so that of each call
/// no more is held than where its latest verdict stands.
fn calls(outputs: &Outputs, rows: &mut Rows<'_>) -> Result<(), CliError> {
    if let Outputs::Data(host) = outputs
        && !host.partitions.iter().all(|p| p.machine.outputs.calls_on)
    {
        return Err(CliError::Finding(
            "the calls output of this store is off: verdicts are not kept".to_owned(),
        ));
    }
    // No id has a control character in it.
    let key = |partition: u32, call: &pb::CallSettled| {
        xxh3_128(format!("{partition}\0{}\0{}", call.account_id, call.call_id).as_bytes())
    };
    let mut latest = HashMap::new();
    let account = rows.account.clone();
    let wanted = |call: &pb::CallSettled| account.as_ref().is_none_or(|a| *a == call.account_id);
    verdicts(outputs, |partition, place, call| {
        if wanted(&call) {
            latest.insert(key(partition, &call), place);
        }
        Ok(())
    })?;
    verdicts(outputs, |partition, place, call| {
        if rows.wants(&call.account_id, &call.period) && latest.get(&key(partition, &call)) == Some(&place) {
            rows.row(&CallRow::from(call))?;
        }
        Ok(())
    })
}

fn undecodable(partition: u32, sequence: u64, cause: &prost::DecodeError) -> CliError {
    CliError::Finding(format!(
        "sequence {sequence} of partition {partition} can't be decoded: {cause}"
    ))
}

fn statements(outputs: &Outputs, rows: &mut Rows<'_>, what: What) -> Result<(), CliError> {
    let mut joining: BTreeMap<u32, Joining> = BTreeMap::new();
    outputs.read(Topic::Statements, |partition, output| {
        let sequence = output.sequence;
        let record = pb::StatementRecord::decode(output.body.as_slice())
            .map_err(|cause| undecodable(partition, sequence, &cause))?;
        match (what, record.body) {
            (What::Statements, Some(Body::PeriodClosed(s))) if rows.wants(&s.account_id, &s.period) => {
                let whole = joining.entry(partition).or_default().take(sequence, s);
                whole.map_or(Ok(()), |(first, s)| rows.row(&StatementRow::new(first, s)))
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
        let mut wanted = rows.account.iter();
        if wanted.all(|a| account_of(&reject.record).as_ref() == Some(a)) {
            rows.row(&RejectRow::from(reject))?;
        }
        Ok(())
    })
}
