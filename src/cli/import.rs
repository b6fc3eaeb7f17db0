//! `reckon import`: histories into a log of their own, folded as they come.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::history::{Entry, History};
use super::terminal::{grouped, progress, say};
use super::{CliError, Data, init};
use crate::log::appender::{Appender, tick};
use crate::log::{Log, NewRecord};
use crate::machine::control;
use crate::model::period::rfc3339;
use crate::partition::Settings;
use crate::partition::host::Host;
use crate::store::rocks::Budget;
use crate::wire::record::{self, Kind};
use crate::workload::azure;
use crate::workload::play::append_steps;

/// Fold a history: a file of log records, or real request traces.
#[derive(Debug, Args)]
#[command(
    subcommand_required = true,
    after_help = "Examples:\n  reckon import events history.ndjson --data ./reckon-data --close\n  \
    reckon import azure-llm AzureLLMInferenceTrace_conv.csv --data ./azure"
)]
pub struct Import {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Events(Events),
    AzureLlm(AzureLlm),
}

/// Fold a file of log records (NDJSON: events, ticks, control records in log order)
///
/// Each line is {"event": …}, {"tick": …} or {"control": …}; bare events, as gateways send them, `reckon post` takes. A line
/// that can't be read is kept as it stands, and rejected by the fold; a file of which no line can be read is refused.
///
/// A file without ticks gets them from occurred_at: time is the latest one read so far, of events that can be read. An event
/// that leaps more than 35 days ahead moves it only if most of the next hundred go along; else it is rejected, `ahead`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon import events history.ndjson --data ./reckon-data --close")]
struct Events {
    /// The file
    file: PathBuf,

    #[command(flatten)]
    data: Data,

    /// Partitions of the log, if it is to be made
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    partitions: u32,

    /// Then let time run on until no timer is left: every call settled, every month closed
    #[arg(long)]
    close: bool,
}

/// Fold the Azure LLM inference traces (TIMESTAMP,ContextTokens,GeneratedTokens)
///
/// Each file is a service of the same accounts. The traces carry no accounts and no failures: both are added by a seeded
/// rule; by default every request succeeds, so that exactly the traces' tokens are billed.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  reckon import azure-llm AzureLLMInferenceTrace_conv.csv AzureLLMInferenceTrace_code.csv \\\n      \
        --data ./azure"
)]
struct AzureLlm {
    /// The traces
    #[arg(required = true)]
    files: Vec<PathBuf>,

    #[command(flatten)]
    data: Data,

    /// Partitions of the log, if it is to be made
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    partitions: u32,

    /// Seed of accounts and outcomes
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Accounts that the requests are spread over
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    accounts: u32,

    /// Requests of a thousand that fail at the upstream
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1000))]
    failures_per_mille: u16,

    /// Requests of a thousand whose client leaves
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1000))]
    disconnects_per_mille: u16,

    /// Then let time run on until no timer is left: every call settled, every month closed
    #[arg(long)]
    close: bool,
}

/// What was folded.
struct Folded<'a> {
    /// All partitions, at the end of the log.
    host: Host,
    /// Where they are.
    data: &'a Path,
    /// Records appended.
    appended: u64,
    /// What is to be said of the source: said when all is done, for whoever reads it may have had enough.
    notes: Vec<String>,
}

/// Opens a history's log and folds what it has, so that more can follow.
pub(super) fn open(data: &Path, partitions: u32) -> Result<Host, CliError> {
    let log: Arc<dyn Log> = Arc::new(init::open_for_history(data, partitions)?);
    let mut host = Host::open(log, data, &Budget::default(), &Settings::default())?;
    host.catch_up(&|_| ())?;
    Ok(host)
}

/// The last control version that all partitions have accepted.
pub(super) fn control_version(host: &Host) -> u64 {
    host.partitions
        .iter()
        .map(|p| p.machine.ledger.version)
        .max()
        .unwrap_or(0)
}

/// Lets time run on until no timer is left.
pub(super) fn run_on(host: &mut Host) -> Result<(), CliError> {
    let mut before = None;
    loop {
        let due = host
            .partitions
            .iter()
            .filter_map(super::super::partition::worker::Partition::last_timer)
            .max();
        // A held month's timers stay; time that has come there once needn't come again.
        let Some(due) = due.filter(|due| before.is_none_or(|b| *due > b)) else {
            return Ok(());
        };
        before = Some(due);
        let record = NewRecord::new(Kind::Tick, tick(due));
        host.log.broadcast(vec![record])?;
        host.catch_up(&|_| ())?;
    }
}

impl Import {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        match self.what {
            What::Events(events) => events.run(json),
            What::AzureLlm(azure) => azure.run(json),
        }
    }
}

fn finish(mut folded: Folded<'_>, close: bool, json: bool, more: serde_json::Value) -> Result<(), CliError> {
    if close {
        run_on(&mut folded.host)?;
    }
    folded.host.finish()?;
    let sum = |of: fn(&crate::machine::fold::Counters) -> u64| -> u64 {
        let machines = folded.host.partitions.iter().map(|p| &p.machine);
        machines.map(|m| of(&m.counters)).sum()
    };
    let rejected: u64 = sum(|c| c.rejects.values().sum());
    let open: u64 = folded.host.partitions.iter().map(|p| p.machine.calls.open()).sum();
    let (events, settled, amended) = (sum(|c| c.events), sum(|c| c.settled), sum(|c| c.amended));
    if json {
        let row = json!({"records": folded.appended, "events": events, "calls_settled": settled,
            "verdicts_amended": amended, "calls_open": open, "rejected": rejected, "source": more});
        say!("{row}")?;
        return Ok(());
    }
    let n = |count: u64| grouped(&count.to_string());
    folded.notes.iter().try_for_each(|note| say!("{note}"))?;
    say!(
        "appended {} records, ticks counted once a partition",
        n(folded.appended)
    )?;
    say!(
        "folded   {} events: {} calls settled, {} verdicts amended, {} calls open, {} records rejected",
        n(events),
        n(settled),
        n(amended),
        n(open),
        n(rejected)
    )?;
    if rejected > 0 {
        say!(
            "         see them with `reckon rejects list --data {}`",
            folded.data.display()
        )?;
    }
    if open > 0 {
        say!("         open calls wait for time to go on; --close lets it")?;
    }
    Ok(())
}

impl Events {
    fn run(self, json: bool) -> Result<(), CliError> {
        let history = History::open(&self.file)?;
        // Before a log is made for it.
        history.has_records()?;
        let mut host = open(&self.data.data, self.partitions)?;
        let log = Arc::clone(&host.log);
        let mut appender = Appender::new(log.as_ref(), control_version(&host));
        let bar = progress(history.size, "appending");
        let now = host.partitions.iter().filter_map(|p| p.machine.clock.now).max();
        let mut leaps = Vec::new();
        history.read(now, |line, read, entry| {
            bar.set_position(read);
            match entry {
                // For all partitions: what an account owes must not hang on how many there are.
                Entry::Tick(at) => appender.tick(at)?,
                Entry::Leap { from, to } => leaps.push((line, from, to)),
                Entry::Control(control) => {
                    if control::is_for_everyone(&control) && control.control_version == 0 {
                        // Only the fold knows whether the records before it were accepted.
                        appender.flush()?;
                        host.catch_up(&|_| ())?;
                        appender.accepted(control_version(&host));
                    }
                    appender.control(*control)?;
                }
                Entry::Event(bytes)
                | Entry::Unreadable {
                    kind: Kind::Event,
                    bytes,
                    ..
                } => {
                    let account = record::account_of(&bytes);
                    appender.event(account.as_deref(), bytes)?;
                }
                Entry::Unreadable { kind, bytes, .. } => appender.unreadable(kind, bytes)?,
            }
            Ok(())
        })?;
        appender.flush()?;
        bar.finish_and_clear();
        let appended = appender.appended;
        let bar = progress(appended, "folding");
        host.catch_up(&|records| bar.inc(records))?;
        bar.finish_and_clear();
        let note = |(line, _, to): &(usize, Option<_>, _)| {
            let to = rfc3339(*to);
            format!("line {line}: occurred_at {to} leaps, and most events after it don't go along: the clock stays")
        };
        let notes = leaps.iter().map(note).collect();
        let leaps: Vec<_> = leaps
            .into_iter()
            .map(|(line, from, to)| json!({"line": line, "from": from.map(rfc3339), "to": rfc3339(to)}))
            .collect();
        let source = json!({"file": self.file, "leaps": leaps});
        let folded = Folded {
            host,
            data: &self.data.data,
            appended,
            notes,
        };
        finish(folded, self.close, json, source)
    }
}

impl AzureLlm {
    fn run(self, json: bool) -> Result<(), CliError> {
        let others = u32::from(self.failures_per_mille) + u32::from(self.disconnects_per_mille);
        if others > 1_000 {
            return Err(CliError::Usage(format!(
                "--failures-per-mille and --disconnects-per-mille come to {others}; together they are at most 1000"
            )));
        }
        let options = azure::Options {
            seed: self.seed,
            accounts: self.accounts,
            failures_per_mille: self.failures_per_mille,
            disconnects_per_mille: self.disconnects_per_mille,
            ..azure::Options::default()
        };
        let trace = azure::read(&self.files, &options)?;
        let mut host = open(&self.data.data, self.partitions)?;
        let log = Arc::clone(&host.log);
        let mut appender = Appender::new(log.as_ref(), control_version(&host));
        append_steps(&mut appender, trace.steps)?;
        appender.flush()?;
        let appended = appender.appended;
        let bar = progress(appended, "folding");
        host.catch_up(&|records| bar.inc(records))?;
        bar.finish_and_clear();
        let (mut sources, mut notes) = (Vec::new(), Vec::new());
        for (file, sums) in &trace.sums {
            sources.push(
                json!({"file": file, "requests": sums.requests, "context_tokens": sums.context_tokens,
                "generated_tokens": sums.generated_tokens}),
            );
            notes.push(format!(
                "{file}: {} requests, {} context tokens, {} generated tokens",
                grouped(&sums.requests.to_string()),
                grouped(&sums.context_tokens.to_string()),
                grouped(&sums.generated_tokens.to_string())
            ));
        }
        let folded = Folded {
            host,
            data: &self.data.data,
            appended,
            notes,
        };
        finish(folded, self.close, json, sources.into())
    }
}
