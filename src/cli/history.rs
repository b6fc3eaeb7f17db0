//! A file of log records, line by line, as `import` appends it and `check` tries it: one reading, so that both say the same.
//! `check` takes a file of bare events too, as gateways send them: what `import` would make of them, were each a record.
//!
//! *Time.* Ticks are the file's own. A file without a valid one gets them from `occurred_at`: time is the latest one read so
//! far, of events that the decoder takes. One wild producer must not carry the clock off, after which all else were too late:
//! a leap of more than the amendment window (35 days) counts only if most of the next hundred events go along with it; the last
//! event of a file may leap by a year. Else the clock stays, and the fold rejects the event, `ahead`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::CliError;
use crate::model::Ms;
use crate::model::policy::Policy;
use crate::wire::record::{self, Kind};
use crate::wire::record_file::{self, BadLine, Line};
use crate::wire::{envelope, pb};

/// How far time may leap where no event comes after to bear witness.
const LAST_LEAP_MS: Ms = 366 * 86_400_000;

/// Events after a leap that are asked whether it is one.
const WITNESSES: usize = 100;

/// What a file's lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Log records.
    Records,
    /// Bare events.
    Events,
}

/// Whether a line is a log record, however broken, and not a bare event: so `post` and `check` tell what a file has.
pub(super) fn is_record(line: &str) -> bool {
    envelope::open(line).is_some() || !matches!(record_file::parse(line), Err(BadLine::Form(_)))
}

/// The form of a file that has this line; none if the line is no JSON object.
fn form_of(line: &[u8]) -> Option<Form> {
    let text = std::str::from_utf8(line).ok()?.trim();
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).ok()?;
    Some(if is_record(text) { Form::Records } else { Form::Events })
}

/// Why a line can't be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Unread {
    /// Among log records.
    #[error(transparent)]
    Record(#[from] BadLine),
    /// Among bare events.
    #[error("not an event: {0}; write one JSON object a line")]
    Event(String),
}

/// Entry a line comes to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry {
    /// For all partitions: the file's own, or one that an event's time gives.
    Tick(Ms),
    /// An event's bytes as they stand.
    Event(Vec<u8>),
    /// A control record.
    Control(Box<pb::Control>),
    /// Kept as it stands, for the fold to reject with its reason.
    Unreadable {
        /// Entry it seems to be.
        kind: Kind,
        /// As it stands.
        bytes: Vec<u8>,
        /// Why.
        cause: Unread,
    },
    /// Said before the event whose time leaps and is not taken for the log's.
    Leap {
        /// Where the clock stays; `None`: it hasn't begun.
        from: Option<Ms>,
        /// The event's time.
        to: Ms,
    },
}

/// A file of records that has been read once.
pub(super) struct History {
    path: PathBuf,
    /// All of it, if it comes through a pipe and can't be read twice.
    piped: Option<Vec<u8>>,
    /// Bytes of the file.
    pub size: u64,
    /// What its lines are.
    pub form: Form,
    /// How many can be read, and how many can't.
    readable: u64,
    unreadable: u64,
    /// The first that isn't blank.
    first: Vec<u8>,
    has_ticks: bool,
    /// In a file without ticks the time of each of its events; `None`: it has none that counts.
    times: Vec<Option<Ms>>,
}

/// The time of an event that the decoder takes.
fn time_of(bytes: &[u8], scratch: &mut Vec<u8>) -> Option<Ms> {
    let event = record::decode_event(bytes, scratch).ok()?;
    event.too_large.is_none().then_some(event.occurred_at)
}

fn parse(form: Form, line: &[u8]) -> Result<Line, Entry> {
    let unreadable = |kind, bytes: &[u8], cause: BadLine| Entry::Unreadable {
        kind,
        bytes: bytes.to_vec(),
        cause: match (form, cause) {
            (Form::Events, BadLine::Form(what)) => Unread::Event(what),
            (_, cause) => cause.into(),
        },
    };
    // Bytes stay what they are: what isn't text is never mended into it, where two different ids might become one.
    let text = std::str::from_utf8(line).map_err(|cause| {
        let cause = BadLine::Form(format!("not UTF-8 from byte {} on", cause.valid_up_to() + 1));
        unreadable(Kind::Event, line, cause)
    })?;
    let text = text.trim();
    if form == Form::Events {
        // Whatever else is wrong with it the fold says, as it does of what is posted.
        return if record::is_json(text.as_bytes()) {
            Ok(Line::Event(text.to_owned()))
        } else {
            let cause = BadLine::Form("no JSON object".to_owned());
            Err(unreadable(Kind::Event, text.as_bytes(), cause))
        };
    }
    record_file::parse(text).map_err(|cause| match &cause {
        BadLine::Control(_) => unreadable(Kind::Control, record_file::control_text(text).as_bytes(), cause),
        BadLine::Tick(_) => unreadable(Kind::Tick, text.as_bytes(), cause),
        BadLine::Form(_) => unreadable(Kind::Event, text.as_bytes(), cause),
    })
}

impl History {
    /// Reads a file of log records for the first time.
    pub fn open(path: &Path) -> Result<Self, CliError> {
        Self::open_as(path, Some(Form::Records))
    }

    /// Reads a file of log records, or of bare events, for the first time: its first JSON object says what it is.
    pub fn open_either(path: &Path) -> Result<Self, CliError> {
        Self::open_as(path, None)
    }

    fn open_as(path: &Path, mut form: Option<Form>) -> Result<Self, CliError> {
        let failed = |cause| CliError::File {
            path: path.to_owned(),
            cause,
        };
        let mut file = File::open(path).map_err(failed)?;
        let mut piped = None;
        if !file.metadata().map_err(failed)?.is_file() {
            file.read_to_end(piped.insert(Vec::new())).map_err(failed)?;
        }
        let mut history = Self {
            path: path.to_owned(),
            piped,
            size: 0,
            form: Form::Records,
            readable: 0,
            unreadable: 0,
            first: Vec::new(),
            has_ticks: false,
            times: Vec::new(),
        };
        let (mut size, mut has_ticks, mut times) = (0, false, Vec::new());
        let (mut readable, mut unreadable, mut first) = (0, 0, Vec::new());
        let mut scratch = Vec::new();
        history.lines(|_, read, line| {
            size = read;
            if readable + unreadable == 0 {
                first.extend_from_slice(line);
            }
            form = form.or_else(|| form_of(line));
            let parsed = parse(form.unwrap_or(Form::Records), line);
            let count = if parsed.is_ok() { &mut readable } else { &mut unreadable };
            *count += 1;
            match parsed {
                Ok(Line::Tick(_)) => has_ticks = true,
                Ok(Line::Event(text)) if !has_ticks => times.push(time_of(text.as_bytes(), &mut scratch)),
                _ => {}
            }
            Ok(())
        })?;
        (history.size, history.has_ticks, history.times) = (size, has_ticks, times);
        (history.readable, history.unreadable, history.first) = (readable, unreadable, first);
        history.form = form.unwrap_or(Form::Records);
        Ok(history)
    }

    /// That there is a log record in the file, or nothing at all; else what it seems to be, and what to do with it.
    pub fn has_records(&self) -> Result<(), CliError> {
        if self.readable > 0 || self.unreadable == 0 {
            return Ok(());
        }
        let file = self.path.display();
        let seems = match self.first.as_slice() {
            [0x1f, 0x8b, ..] => "it is compressed (gzip): unpack it first".to_owned(),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is compressed (zstd): unpack it first".to_owned(),
            first if first.contains(&0) || std::str::from_utf8(first).is_err() => {
                "it is binary: give a text of one JSON object a line".to_owned()
            }
            first if first.starts_with(b"TIMESTAMP,") => {
                format!("it is a trace in CSV: `reckon import azure-llm {file} --data DIR`")
            }
            first if form_of(first) == Some(Form::Events) && record::account_of(first.trim_ascii()).is_some() => {
                format!(
                    "it has bare events, one event a line as gateways send them: post them to a service with `reckon post {file} --to \
                 URL`, or wrap each as {{\"event\": …}}: sed 's/..*/{{\"event\": &}}/' {file} > {file}.records"
                )
            }
            first => match parse(self.form, first) {
                Err(Entry::Unreadable { cause, .. }) => format!("the first is {cause}"),
                _ => String::new(),
            },
        };
        Err(CliError::Finding(format!(
            "{file}: none of its {} lines is a log record; {seems}",
            self.unreadable
        )))
    }

    /// Lines that aren't blank: number, bytes read up to here, and what stands there, without its end.
    fn lines(&self, mut take: impl FnMut(usize, u64, &[u8]) -> Result<(), CliError>) -> Result<(), CliError> {
        let failed = |cause| CliError::File {
            path: self.path.clone(),
            cause,
        };
        let mut reader: Box<dyn BufRead + '_> = match &self.piped {
            Some(bytes) => Box::new(bytes.as_slice()),
            None => Box::new(BufReader::with_capacity(
                1 << 20,
                File::open(&self.path).map_err(failed)?,
            )),
        };
        let mut line = Vec::new();
        let (mut number, mut read) = (0, 0u64);
        loop {
            line.clear();
            let bytes = reader.read_until(b'\n', &mut line).map_err(failed)?;
            if bytes == 0 {
                return Ok(());
            }
            (number, read) = (number + 1, read + bytes as u64);
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            if !text.trim_ascii().is_empty() {
                take(number, read, text)?;
            }
        }
    }

    /// Reads it again, in order: line, bytes read so far, and what it comes to. `now` is the clock of the log that it goes to.
    pub fn read(
        &self,
        now: Option<Ms>,
        mut take: impl FnMut(usize, u64, Entry) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut latest = now;
        let mut times = if self.has_ticks { &[][..] } else { &self.times };
        self.lines(|number, read, line| {
            let entry = match parse(self.form, line) {
                Ok(Line::Tick(at)) => Entry::Tick(at),
                Ok(Line::Control(control)) => Entry::Control(control),
                Ok(Line::Event(text)) => {
                    if let Some((time, after)) = times.split_first() {
                        times = after;
                        if let Some(time) = time.filter(|&t| latest.is_none_or(|l| t > l)) {
                            if goes_along(latest, time, after) {
                                latest = Some(time);
                                take(number, read, Entry::Tick(time))?;
                            } else {
                                take(number, read, Entry::Leap { from: latest, to: time })?;
                            }
                        }
                    }
                    Entry::Event(text.into_bytes())
                }
                Err(unreadable) => unreadable,
            };
            take(number, read, entry)
        })
    }
}

/// Whether time may go on to an event's: it doesn't leap, or those that come after go along.
fn goes_along(latest: Option<Ms>, time: Ms, after: &[Option<Ms>]) -> bool {
    let window = Policy::default().amend_window_ms;
    if latest.is_some_and(|l| time.saturating_sub(l) <= window) {
        return true;
    }
    let witnesses = || after.iter().flatten().take(WITNESSES);
    let along = witnesses().filter(|&&t| t >= time.saturating_sub(window)).count();
    match witnesses().count() {
        0 => latest.is_none_or(|l| time.saturating_sub(l) <= LAST_LEAP_MS),
        all => 2 * along > all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Ms = 86_400_000;

    #[test]
    fn records_are_told_from_events() {
        assert!(is_record(r#"{"tick": "x"}"#));
        assert!(is_record(r#"{"event": {}}"#));
        assert!(!is_record(r#"{"account_id": "a"}"#));
        assert_eq!(form_of(br#" {"account_id": "a"}"#), Some(Form::Events));
        assert_eq!(form_of(br#"{"tick": "x"}"#), Some(Form::Records));
        for none in [&b"\xff"[..], b"[]", b"{", b"TIMESTAMP,ContextTokens"] {
            assert_eq!(form_of(none), None);
        }
    }

    #[test]
    fn a_leap_counts_if_those_that_come_after_go_along() {
        let days = |days: &[i64]| -> Vec<Option<Ms>> { days.iter().map(|d| Some(d * DAY)).collect() };
        let along =
            |latest: Option<i64>, day: i64, after: &[i64]| goes_along(latest.map(|d| d * DAY), day * DAY, &days(after));
        assert!(along(Some(0), 35, &[0, 0]));
        assert!(!along(Some(0), 36, &[0, 0]));
        assert!(along(Some(0), 36, &[36, 37, 0]), "one straggler");
        assert!(!along(Some(0), 36, &[36, 0]), "two wild ones");
        assert!(along(Some(0), 366, &[]));
        assert!(!along(Some(0), 367, &[]));
        assert!(along(None, 36, &[]));
        assert!(along(None, 36, &[36]));
        assert!(!along(None, 36, &[0, 1]));
    }
}
