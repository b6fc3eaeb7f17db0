//! `reckon consume statements`: the reference invoicing consumer. Every statement once, in order, held to its chain; and the
//! proof that a month is complete.

mod body;
mod cursor;
mod proof;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Stdout, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use prost::DecodeError;
use serde::Serialize;
use serde_json::json;
use thiserror::Error;

use super::CliError;
use super::source::{Outputs, Source, heard_within};
use super::terminal::{Table, grouped, put, say};
use crate::log::continuity::{Arrival, Continuity, Discontinuity};
use crate::log::kafka::outputs::{Item, OutputStream};
use crate::machine::output::{Output, Topic};
use crate::model::period::Month;
use body::KeptBody;
use cursor::{Cursor, CursorFile, Position};
use proof::{Proof, Report};

/// Rows after which the cursor is written.
const ROWS_AT_A_TIME: u64 = 1_000;

/// How old what isn't in the cursor may be.
const SAVE_EVERY: Duration = Duration::from_millis(500);

/// One wait for rows, of many.
const WAIT: Duration = Duration::from_millis(100);

/// How long brokers may be silent where the end is to be reached.
const SILENCE: Duration = Duration::from_secs(30);

/// Consume outputs as an invoicing system should
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon consume statements --data ./reckon-data --complete 2026-09")]
pub struct Consume {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Statements(Statements),
}

/// Take every statement, notice and control record once, in order, as NDJSON
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  reckon consume statements --kafka localhost:9092 --cursor invoicing.cursor \\\n      \
    --out statements.ndjson --follow\n  \
    reckon consume statements --kafka localhost:9092 --cursor invoicing.cursor \\\n      \
    --out statements.ndjson --complete 2026-09\n\nEvery record is held to the sequence and the hash of the one before it; at a gap nothing more is taken. With --out \
    and --cursor each row is in the file exactly once, however often the process is killed. Only lines of period_closed are \
    invoiceable. To write a consumer of your own: deploy/CONSUMERS.md.\n\nExit code 1 if the month isn't complete, or at a gap."
)]
struct Statements {
    #[command(flatten)]
    source: Source,

    /// File that keeps how far this consumer is; without it everything is read from the beginning
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,

    /// Append rows to this file instead of writing them to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,

    /// Go on at the end, until SIGTERM or SIGINT
    #[arg(long, conflicts_with_all = ["complete", "data"])]
    follow: bool,

    /// Prove that all of this month is there, by its control records: in the file of --out, else in the topic
    #[arg(long, value_name = "PERIOD")]
    complete: Option<Month>,
}

/// Why a consumer stops.
#[derive(Debug, Error)]
pub enum ConsumeError {
    /// An output that doesn't follow the ones before it.
    #[error(transparent)]
    Discontinuity(#[from] Discontinuity),
    /// A record that can't be read.
    #[error("statements partition {partition}: sequence {sequence} can't be decoded: {cause}")]
    Undecodable {
        /// Which partition.
        partition: u32,
        /// Which.
        sequence: u64,
        /// Why.
        cause: DecodeError,
    },
    /// A file's.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Another process has the cursor.
    #[error("the cursor {path} is another process's; stop that one, or give this one another --cursor and --out")]
    Taken {
        /// Which.
        path: PathBuf,
    },
    /// The cursor isn't one.
    #[error(
        "the cursor {path} can't be read: {what}. To begin anew, remove it and the file of --out: every row comes again, under \
         the same id"
    )]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The cursor is of another topic.
    #[error(
        "the cursor {path} is of {of}, this is {here}: the topic was made anew, or it is another cluster's. Give the cursor of \
         this one, or begin anew with another --cursor and --out"
    )]
    Elsewhere {
        /// Which.
        path: PathBuf,
        /// As it says.
        of: String,
        /// What is read.
        here: String,
    },
    /// There are rows, but nothing says which.
    #[error(
        "{path} has rows, but there is no cursor that says which: give the --cursor that belongs to it, or remove it"
    )]
    RowsWithoutCursor {
        /// The file of rows.
        path: PathBuf,
    },
    /// The cursor was kept with rows going elsewhere.
    #[error("the cursor {path} was kept {with} --out: go on like that, or begin anew with another --cursor")]
    OtherOut {
        /// Which.
        path: PathBuf,
        /// `with` or `without`.
        with: &'static str,
    },
    /// Rows are gone.
    #[error(
        "{path} has {found} bytes, the cursor says {wanted}: rows are lost. Restore it, or begin anew: remove it and the cursor"
    )]
    OutShorter {
        /// The file of rows.
        path: PathBuf,
        /// There are.
        found: u64,
        /// There were.
        wanted: u64,
    },
    /// The topic is shorter than it was.
    #[error(
        "{topic} partition {partition} ends at offset {end}, the cursor is at {wanted}: the topic was cut off, or a broker is \
         behind. Try again; if it stays so, ask the operator of the cluster (an unclean leader election?)"
    )]
    TopicShorter {
        /// Which.
        topic: String,
        /// Which partition.
        partition: u32,
        /// Its end.
        end: u64,
        /// Of the cursor.
        wanted: u64,
    },
}

/// A row.
#[derive(Serialize)]
struct Row<'a> {
    partition: u32,
    sequence: u64,
    /// As in header `reckon-id`: the same wherever and whenever it is read.
    id: String,
    #[serde(flatten)]
    body: &'a KeptBody,
}

/// Where rows go.
enum Sink {
    Stdout(BufWriter<Stdout>),
    File {
        path: PathBuf,
        file: BufWriter<File>,
        bytes: u64,
    },
    /// Only the proof sees them.
    Nowhere,
}

impl Sink {
    fn write(&mut self, row: &str) -> Result<(), CliError> {
        match self {
            Self::Stdout(out) => {
                out.write_all(row.as_bytes())?;
                Ok(())
            }
            Self::File { path, file, bytes } => {
                *bytes += row.len() as u64;
                file.write_all(row.as_bytes()).map_err(|cause| failed(path, cause))?;
                Ok(())
            }
            Self::Nowhere => Ok(()),
        }
    }

    /// Everything is out; what is a file is on disk. Its length.
    fn sync(&mut self) -> Result<Option<u64>, CliError> {
        match self {
            Self::Stdout(out) => {
                out.flush()?;
                Ok(None)
            }
            Self::File { path, file, bytes } => {
                let synced = file.flush().and_then(|()| file.get_ref().sync_data());
                synced.map_err(|cause| failed(path, cause))?;
                Ok(Some(*bytes))
            }
            Self::Nowhere => Ok(None),
        }
    }
}

fn failed(path: &Path, cause: std::io::Error) -> ConsumeError {
    ConsumeError::File {
        path: path.to_owned(),
        cause,
    }
}

/// What was taken.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Counts {
    statements: u64,
    notices: u64,
    controls: u64,
    /// Of a newer version: passed on as `unreadable`.
    unknown: u64,
    /// Came again with the same content.
    again: u64,
}

struct Consumer {
    sink: Sink,
    cursor_file: Option<CursorFile>,
    cursor: Cursor,
    continuity: BTreeMap<u32, Continuity>,
    proof: Option<Proof>,
    counts: Counts,
    unsaved: u64,
    saved: Instant,
}

impl Consumer {
    fn take(&mut self, partition: u32, next_offset: u64, output: &Output) -> Result<(), CliError> {
        let continuity = self.continuity.entry(partition).or_default();
        let taken = continuity.take(partition, output).map_err(ConsumeError::from)?;
        let position = Position::at(next_offset, continuity.tail());
        if taken == Arrival::New {
            let body = KeptBody::of(output).map_err(|cause| ConsumeError::Undecodable {
                partition,
                sequence: output.sequence,
                cause,
            })?;
            match &body {
                // One with pages is counted with its first.
                KeptBody::PeriodClosed(page) => self.counts.statements += u64::from(page.page.is_none_or(|n| n == 1)),
                KeptBody::AdjustmentNoticed(_) => self.counts.notices += 1,
                KeptBody::PeriodControl(_) => self.counts.controls += 1,
                KeptBody::Unreadable(_) => self.counts.unknown += 1,
            }
            let mut row = serde_json::to_string(&Row {
                partition,
                sequence: output.sequence,
                id: format!("{}/{partition}/{}", output.topic.as_str(), output.sequence),
                body: &body,
            })?;
            row.push('\n');
            self.sink.write(&row)?;
            if let Some(proof) = &mut self.proof {
                proof.take(&row);
            }
        } else {
            self.counts.again += 1;
        }
        self.cursor.partitions.insert(partition, position);
        self.unsaved += 1;
        if self.unsaved >= ROWS_AT_A_TIME {
            self.save()?;
        }
        Ok(())
    }

    /// First the rows, then the cursor.
    fn save(&mut self) -> Result<(), CliError> {
        if self.unsaved > 0 {
            self.cursor.out_bytes = self.sink.sync()?;
            if let Some(file) = &self.cursor_file {
                file.save(&self.cursor)?;
            }
            self.unsaved = 0;
        }
        self.saved = Instant::now();
        Ok(())
    }

    fn kafka(&mut self, stream: &mut OutputStream, follow: bool) -> Result<(), CliError> {
        let stop = Arc::new(AtomicBool::new(false));
        if follow {
            for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
                signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(CliError::Output)?;
            }
        }
        let mut from = BTreeMap::new();
        for partition in 0..stream.partition_count() {
            let (start, end) = stream.bounds(partition)?;
            let position = self.cursor.partitions.get(&partition);
            let wanted = position.map_or(0, |p| p.next_offset);
            if wanted > end {
                return Err(ConsumeError::TopicShorter {
                    topic: stream.name().to_owned(),
                    partition,
                    end,
                    wanted,
                }
                .into());
            }
            // What was removed shows as a gap in the sequences.
            from.insert(partition, wanted.max(start));
        }
        stream.follow(&from)?;
        let mut open: BTreeMap<u32, u64> = from;
        let mut heard = Instant::now();
        let mut found = Vec::new();
        while (follow || !open.is_empty()) && !stop.load(Ordering::Relaxed) {
            stream.take(WAIT, |partition, next_offset, next| {
                found.push((partition, next_offset, next));
            })?;
            if !found.is_empty() {
                heard = Instant::now();
            }
            let idle = found.is_empty();
            for (partition, next_offset, next) in found.drain(..) {
                match next {
                    Item::Output(output) => self.take(partition, next_offset, &output)?,
                    Item::End => {
                        open.remove(&partition);
                    }
                }
            }
            if idle || self.saved.elapsed() >= SAVE_EVERY {
                self.save()?;
            }
            if !follow {
                heard_within(SILENCE, heard, stream)?;
            }
        }
        self.save()
    }
}

impl Consume {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        match self.command {
            Command::Statements(command) => command.run(json),
        }
    }
}

impl Statements {
    fn run(self, json: bool) -> Result<(), CliError> {
        if self.complete.is_some() && self.cursor.is_some() && self.out.is_none() {
            return Err(CliError::Usage(
                "--complete looks at every row of the month: give the --out that belongs to --cursor, or leave --cursor away"
                    .to_owned(),
            ));
        }
        let outputs = self.source.open()?;
        let mut stream = match &outputs {
            Outputs::Kafka(settings) => Some(OutputStream::open(settings, Topic::Statements)?),
            Outputs::Data(_) => None,
        };
        let place = match (&stream, &outputs) {
            (Some(stream), _) => stream.place().to_owned(),
            (None, Outputs::Data(host)) => format!("log {}", host.log.identity().log_id),
            (None, Outputs::Kafka(_)) => String::new(),
        };
        let mut consumer = self.consumer(&place)?;
        if let Some(stream) = &mut stream {
            consumer.kafka(stream, self.follow)?;
        } else {
            outputs.read(Topic::Statements, |partition, output| {
                let have = consumer.continuity.get(&partition).map_or(0, |c| c.tail().sequence);
                if output.sequence > have {
                    consumer.take(partition, 0, output)?;
                }
                Ok(())
            })?;
            consumer.save()?;
        }
        consumer.sink.sync()?;
        summary(&consumer, json);
        let Some(period) = self.complete else {
            return Ok(());
        };
        let report = match (consumer.proof.take(), &self.out) {
            (Some(proof), _) => proof.report(),
            (None, Some(out)) => prove_file(period, out)?,
            (None, None) => Proof::new(period.to_string()).report(),
        };
        show(&report, json)
    }

    /// At the cursor, with the file of rows cut to what the cursor says.
    fn consumer(&self, place: &str) -> Result<Consumer, CliError> {
        let cursor_file = self.cursor.as_deref().map(CursorFile::take).transpose()?;
        let loaded = cursor_file.as_ref().map(CursorFile::load).transpose()?.flatten();
        if let (Some(cursor), Some(path)) = (&loaded, &self.cursor) {
            if cursor.place != place {
                return Err(ConsumeError::Elsewhere {
                    path: path.clone(),
                    of: cursor.place.clone(),
                    here: place.to_owned(),
                }
                .into());
            }
            if cursor.out_bytes.is_some() != self.out.is_some() {
                let with = if cursor.out_bytes.is_some() { "with" } else { "without" };
                return Err(ConsumeError::OtherOut {
                    path: path.clone(),
                    with,
                }
                .into());
            }
        }
        let fresh = loaded.is_none();
        let cursor = loaded.unwrap_or_else(|| Cursor::new(place, self.out.as_ref().map(|_| 0)));
        let sink = match &self.out {
            Some(path) => {
                let found = std::fs::metadata(path).map_or(0, |m| m.len());
                if fresh && found > 0 {
                    return Err(ConsumeError::RowsWithoutCursor { path: path.clone() }.into());
                }
                // The cursor first: else rows might be there that it doesn't say.
                if let Some(file) = cursor_file.as_ref().filter(|_| fresh) {
                    file.save(&cursor)?;
                }
                open_rows(path, cursor.out_bytes.unwrap_or_default())?
            }
            None if self.complete.is_some() => Sink::Nowhere,
            None => Sink::Stdout(BufWriter::new(std::io::stdout())),
        };
        let continuity = cursor
            .partitions
            .iter()
            .filter_map(|(partition, position)| Some((*partition, position.continuity()?)))
            .collect();
        let proof = self.complete.filter(|_| self.out.is_none());
        Ok(Consumer {
            sink,
            cursor_file,
            cursor,
            continuity,
            proof: proof.map(|period| Proof::new(period.to_string())),
            counts: Counts::default(),
            unsaved: 0,
            saved: Instant::now(),
        })
    }
}

/// Opens the file of rows and cuts off what the cursor doesn't say.
fn open_rows(path: &Path, bytes: u64) -> Result<Sink, ConsumeError> {
    let open = || -> std::io::Result<(File, u64)> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .open(path)?;
        let found = file.metadata()?.len();
        Ok((file, found))
    };
    let (mut file, found) = open().map_err(|cause| failed(path, cause))?;
    if found < bytes {
        return Err(ConsumeError::OutShorter {
            path: path.to_owned(),
            found,
            wanted: bytes,
        });
    }
    let mut cut = || -> std::io::Result<()> {
        file.set_len(bytes)?;
        file.sync_all()?;
        cursor::sync_folder(path)?;
        file.seek(SeekFrom::Start(bytes)).map(|_| ())
    };
    cut().map_err(|cause| failed(path, cause))?;
    Ok(Sink::File {
        path: path.to_owned(),
        file: BufWriter::new(file),
        bytes,
    })
}

fn prove_file(period: Month, path: &Path) -> Result<Report, CliError> {
    let mut proof = Proof::new(period.to_string());
    let file = File::open(path).map_err(|cause| failed(path, cause))?;
    for line in BufReader::new(file).lines() {
        proof.take(&line.map_err(|cause| failed(path, cause))?);
    }
    Ok(proof.report())
}

/// On standard error: standard output has the rows, or the proof.
fn summary(consumer: &Consumer, json: bool) {
    let counts = &consumer.counts;
    if json {
        let partitions: BTreeMap<u32, u64> = consumer
            .continuity
            .iter()
            .map(|(partition, c)| (*partition, c.tail().sequence))
            .collect();
        eprintln!("{}", json!({"taken": counts, "last_sequence": partitions}));
        return;
    }
    eprintln!(
        "took {} statements, {} notices, {} control records",
        grouped(&counts.statements.to_string()),
        grouped(&counts.notices.to_string()),
        grouped(&counts.controls.to_string())
    );
    if counts.unknown > 0 {
        eprintln!(
            "{} records are of a newer version than this program: they are passed on as unreadable; update it",
            counts.unknown
        );
    }
}

fn show(report: &Report, json: bool) -> Result<(), CliError> {
    if json {
        say!("{}", serde_json::to_string(report)?)?;
    } else {
        let mut table = Table::new(&[">partition", ">statements", ">of", "sequences", "amounts"]);
        for part in &report.partitions {
            let of = part
                .accounts
                .map_or_else(|| "?".to_owned(), |a| grouped(&a.to_string()));
            let sequences = match (part.accounts, part.first_sequence) {
                (None, _) => "?".to_owned(),
                (_, 0) => "none".to_owned(),
                (_, first) => format!("{first} to {}", part.last_sequence),
            };
            let amounts: Vec<String> = part
                .amounts
                .iter()
                .map(|(currency, amount)| format!("{} {currency}", grouped(amount)))
                .collect();
            table.row([
                part.partition.to_string(),
                grouped(&part.statements.to_string()),
                of,
                sequences,
                amounts.join(", "),
            ]);
        }
        if !table.is_empty() {
            put(&table)?;
        }
        if report.lines_without_amount > 0 {
            say!(
                "{} lines have an error instead of an amount: they can't be invoiced as they are",
                report.lines_without_amount
            )?;
        }
        for missing in &report.missing {
            let place = missing
                .partition
                .map_or_else(String::new, |p| format!("partition {p}, "));
            say!("missing: {place}{}: {}", missing.what, missing.detail)?;
        }
        if report.complete {
            say!("{} is complete", report.period)?;
        }
    }
    if report.complete {
        return Ok(());
    }
    Err(CliError::Finding(format!("{} isn't complete", report.period)))
}
