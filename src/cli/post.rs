//! `reckon post`: a file of events, or of log records, to a running service. Goes on where it stopped; safe to repeat.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use xxhash_rust::xxh3::Xxh3Default;

use super::CliError;
use super::answer::Refused;
use super::history::is_record;
use super::terminal::{grouped, plain, progress, say};

/// A request's body ends after the line with which it is over so many bytes; the service takes 10 MiB.
const BODY_BYTES: usize = 4 << 20;

/// The longest wait between two tries, if the service doesn't ask for a longer one.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Post a file of events (NDJSON) to a running service
///
/// Each batch is acknowledged once it is durable. The place reached is kept beside the file: the same command again goes on
/// there, also after the file has grown. A last line without an end, which somebody may still be writing, waits for the next
/// time unless it is a whole JSON object. To send a file again as a whole, which changes nothing, remove the kept place.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon post events.ndjson --to http://127.0.0.1:7070")]
pub struct Post {
    /// The file: one event a line, or one log record a line
    file: PathBuf,

    /// Where the service listens
    #[arg(long, value_name = "URL")]
    to: String,

    /// A token that may write them; else taken from RECKON_TOKEN
    #[arg(long)]
    token: Option<String>,

    /// The lines are log records (events, ticks, control) even if the first doesn't look so; wants an operator token
    #[arg(long)]
    records: bool,

    /// Lines a request
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,

    /// Where the place reached is kept; FILE.posted if not given
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    /// The file grows no more: its last line is sent whatever it looks like
    #[arg(long = "final")]
    is_final: bool,

    /// Seconds to go on trying while the service is away or busy
    #[arg(long, default_value_t = 300)]
    patience: u64,
}

/// The place reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// The service that it was sent to.
    to: String,
    /// Bytes of the file that are dealt with.
    offset: u64,
    /// Their hash: another file of the same name is noticed.
    hash: String,
    /// Their lines, blank ones too.
    lines: u64,
    /// Events or records that are in the log.
    accepted: u64,
    /// Those that the service has refused.
    refused: u64,
}

/// Lines of one request.
#[derive(Default)]
struct Batch {
    body: Vec<u8>,
    /// Of each line that isn't blank, its number in the file.
    numbers: Vec<u64>,
    /// Lines of the file that were read for it.
    lines: u64,
    /// Bytes of a last line that isn't whole yet.
    held_back: u64,
}

/// What came of one try.
enum Sent {
    Results(Value),
    Again { why: String, after: Option<Duration> },
}

fn file_error(path: &Path, cause: std::io::Error) -> CliError {
    CliError::File {
        path: path.to_owned(),
        cause,
    }
}

impl Batch {
    fn read(reader: &mut impl BufRead, first: u64, lines_max: usize, is_final: bool) -> std::io::Result<Self> {
        let mut batch = Self::default();
        while batch.numbers.len() < lines_max && batch.body.len() < BODY_BYTES {
            let from = batch.body.len();
            if reader.read_until(b'\n', &mut batch.body)? == 0 {
                break;
            }
            if !is_final && !is_whole(&batch.body[from..]) {
                batch.held_back = (batch.body.len() - from) as u64;
                batch.body.truncate(from);
                break;
            }
            batch.lines += 1;
            if !batch.body[from..].trim_ascii().is_empty() {
                batch.numbers.push(first + batch.lines);
            }
        }
        Ok(batch)
    }
}

/// Whether nobody is still writing the line: it has its end, or is an object with its own.
fn is_whole(line: &[u8]) -> bool {
    let text = line.trim_ascii();
    line.ends_with(b"\n")
        || text.is_empty()
        || (text.starts_with(b"{") && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok())
}

fn first_line(path: &Path) -> std::io::Result<String> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 && line.trim().is_empty() {
        line.clear();
    }
    Ok(line.trim().to_owned())
}

fn save(path: &Path, place: &Place) -> Result<(), CliError> {
    let mut new = path.to_owned().into_os_string();
    new.push(".new");
    let new = PathBuf::from(new);
    // At once the old or the new one, whenever the machine stops.
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(serde_json::to_string(place)?.as_bytes())?;
        file.sync_data()?;
        std::fs::rename(&new, path)
    };
    write().map_err(|cause| file_error(path, cause))
}

/// Where the service takes the lines, and who sends them.
struct Service {
    agent: ureq::Agent,
    url: String,
    token: Option<String>,
    /// What a token must be good for.
    scope: &'static str,
}

impl Service {
    fn send(&self, body: &[u8]) -> Result<Sent, CliError> {
        let mut request = self
            .agent
            .post(&self.url)
            .header("content-type", "application/x-ndjson");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut response = match request.send(body) {
            Ok(response) => response,
            Err(ureq::Error::BadUri(what)) => return Err(CliError::Usage(format!("--to: {what}"))),
            Err(cause) => {
                return Ok(Sent::Again {
                    why: cause.to_string(),
                    after: None,
                });
            }
        };
        let status = response.status().as_u16();
        let after = response
            .headers()
            .get("retry-after")
            .and_then(|v| v.to_str().ok()?.parse().ok());
        let text = response.body_mut().with_config().limit(64 << 20).read_to_string();
        let answer: Value = match text.map(|text| serde_json::from_str(&text)) {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) if !(300..500).contains(&status) => {
                let why = format!("{}: the answer (status {status}) broke off or can't be read", self.url);
                return Ok(Sent::Again { why, after: None });
            }
            Ok(Err(_)) | Err(_) => Value::Null,
        };
        let all = answer["code"].is_null() || answer["code"] == "none_accepted";
        if matches!(status, 200 | 400) && all && answer["results"].is_array() {
            return Ok(Sent::Results(answer));
        }
        let refused = Refused::new(&self.url, status, &answer, self.scope);
        if matches!(status, 408 | 412 | 429 | 500..) {
            let after = after.map(Duration::from_secs);
            return Ok(Sent::Again {
                why: refused.why,
                after,
            });
        }
        Err(CliError::Finding(refused.to_string()))
    }

    /// Sends until the service has an answer for every line, or patience is over.
    fn deliver(&self, body: &[u8], patience: Duration, note: &dyn Fn(&str)) -> Result<Value, CliError> {
        let began = Instant::now();
        let mut backoff = Duration::from_millis(250);
        loop {
            let (why, after) = match self.send(body)? {
                Sent::Results(answer) => return Ok(answer),
                Sent::Again { why, after } => (why, after),
            };
            let pause = after.unwrap_or_default().max(backoff);
            if began.elapsed() + pause > patience {
                let tried = began.elapsed().as_secs();
                return Err(CliError::Finding(format!(
                    "given up after {tried} s: {why}; the same command again goes on here"
                )));
            }
            note(&why);
            std::thread::sleep(pause);
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}

impl Post {
    /// The place reached before, if the file still begins with what was posted; and the reader at it.
    fn resume(&self, state: &Path) -> Result<(Place, Xxh3Default, BufReader<File>), CliError> {
        let failed = |cause| file_error(&self.file, cause);
        let mut reader = BufReader::with_capacity(1 << 20, File::open(&self.file).map_err(failed)?);
        let mut hash = Xxh3Default::new();
        let place: Place = match std::fs::read(state) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|cause| CliError::Finding(format!("{}: {cause}; remove it to start over", state.display())))?,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Place {
                to: self.to.clone(),
                hash: format!("{:016x}", hash.digest()),
                ..Place::default()
            },
            Err(cause) => return Err(file_error(state, cause)),
        };
        if place.to != self.to {
            return Err(CliError::Finding(format!(
                "{} tells of {}, not of {}; give another --state, or remove it to start over",
                state.display(),
                place.to,
                self.to
            )));
        }
        let mut posted = (&mut reader).take(place.offset);
        loop {
            let piece = posted.fill_buf().map_err(failed)?;
            if piece.is_empty() {
                break;
            }
            hash.update(piece);
            let read = piece.len();
            posted.consume(read);
        }
        if format!("{:016x}", hash.digest()) != place.hash {
            return Err(CliError::Finding(format!(
                "{} isn't the file that was posted: its first {} bytes have changed; remove {} to start over",
                self.file.display(),
                place.offset,
                state.display()
            )));
        }
        Ok((place, hash, reader))
    }

    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        if !self.to.starts_with("http://") && !self.to.starts_with("https://") {
            return Err(CliError::Usage(format!(
                "--to: {:?} is not http://… or https://…",
                self.to
            )));
        }
        let failed = |cause| file_error(&self.file, cause);
        let state = self.state.clone().unwrap_or_else(|| {
            let mut name = self.file.clone().into_os_string();
            name.push(".posted");
            name.into()
        });
        let records = self.records || is_record(&first_line(&self.file).map_err(failed)?);
        let path = if records { "/v1/records" } else { "/v1/events" };
        let service = Service {
            agent: ureq::Agent::config_builder()
                .http_status_as_error(false)
                .timeout_connect(Some(Duration::from_secs(10)))
                .timeout_global(Some(Duration::from_secs(180)))
                .build()
                .into(),
            url: format!("{}{path}", self.to.trim_end_matches('/')),
            token: self.token.clone().or_else(|| std::env::var("RECKON_TOKEN").ok()),
            scope: if records { "operator" } else { "ingest" },
        };
        let (mut place, mut hash, mut reader) = self.resume(&state)?;
        let began = Instant::now();
        let (resumed_at, before) = (place.offset, place.clone());
        let bar = progress(std::fs::metadata(&self.file).map_err(failed)?.len(), "posting");
        bar.set_position(place.offset);
        let mut held_back;
        // Whoever read what was refused may have had enough; the file is posted to its end all the same.
        let mut told = Ok(());
        loop {
            let batch = Batch::read(&mut reader, place.lines, self.batch as usize, self.is_final).map_err(failed)?;
            held_back = batch.held_back;
            if batch.lines == 0 {
                break;
            }
            if !batch.numbers.is_empty() {
                let note = |why: &str| bar.suspend(|| eprintln!("trying again: {why}"));
                let answer = service.deliver(&batch.body, Duration::from_secs(self.patience), &note)?;
                let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
                if results.len() != batch.numbers.len() {
                    return Err(CliError::Finding(format!(
                        "{} results for {} lines: is {} a Reckon service?",
                        results.len(),
                        batch.numbers.len(),
                        service.url
                    )));
                }
                for (number, result) in batch.numbers.iter().zip(results) {
                    if result["reason"].is_null() {
                        place.accepted += 1;
                    } else {
                        place.refused += 1;
                        if told.is_ok() {
                            told = bar.suspend(|| print_refused(*number, result, json));
                        }
                    }
                }
            }
            hash.update(&batch.body);
            place.offset += batch.body.len() as u64;
            place.lines += batch.lines;
            place.hash = format!("{:016x}", hash.digest());
            save(&state, &place)?;
            bar.set_position(place.offset);
            if held_back > 0 {
                break;
            }
        }
        bar.finish_and_clear();
        if held_back > 0 {
            eprintln!(
                "line {} isn't whole yet ({held_back} bytes without an end): it waits for the next time; --final sends it as it is",
                place.lines + 1
            );
        }
        told = told.and_then(|()| self.report(&place, &before, resumed_at, records, began.elapsed(), json));
        match place.refused {
            0 => Ok(told?),
            refused => Err(CliError::Finding(format!(
                "{refused} of {} lines were refused; mend them and post them in a file of their own",
                place.accepted + refused
            ))),
        }
    }

    fn report(
        &self,
        place: &Place,
        before: &Place,
        resumed_at: u64,
        records: bool,
        took: Duration,
        json: bool,
    ) -> std::io::Result<()> {
        if json {
            let row = json!({"file": self.file, "to": self.to, "lines": place.lines, "accepted": place.accepted,
                "refused": place.refused, "bytes": place.offset, "resumed_at": resumed_at, "ms": took.as_millis() as u64});
            return say!("{row}");
        }
        let n = |count: u64| grouped(&count.to_string());
        let what = if records { "records" } else { "events" };
        if resumed_at > 0 {
            say!("went on after {} lines that were posted before", n(before.lines))?;
        }
        let posted = place.accepted + place.refused - before.accepted - before.refused;
        let rate = u128::from(posted) * 1_000 / took.as_millis().max(1);
        say!(
            "posted {} {what} in {}.{:03} s ({} a second)",
            n(posted),
            took.as_secs(),
            took.subsec_millis(),
            grouped(&rate.to_string())
        )?;
        say!("in all {} accepted, {} refused", n(place.accepted), n(place.refused))
    }
}

fn print_refused(number: u64, result: &Value, json: bool) -> std::io::Result<()> {
    let word = |name: &str| result[name].as_str().unwrap_or_default();
    if json {
        let mut row = result.clone();
        row["line"] = number.into();
        say!("{row}")
    } else {
        let field = match word("field") {
            "" => String::new(),
            field => format!(" in {field}"),
        };
        say!(
            "line {number}: {}{field}: {}; {}",
            word("reason"),
            plain(word("detail")),
            word("cure")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_whole_lines_and_know_their_numbers() -> std::io::Result<()> {
        let mut file: &[u8] = b"{a}\n\n{b}\n{\"c\": 1}";
        let first = Batch::read(&mut file, 0, 2, false)?;
        assert_eq!(
            (first.body.as_slice(), first.numbers.as_slice(), first.lines),
            (&b"{a}\n\n{b}\n"[..], &[1, 3][..], 3)
        );
        let second = Batch::read(&mut file, 3, 2, false)?;
        assert_eq!(
            (second.body.as_slice(), second.numbers.as_slice()),
            (&b"{\"c\": 1}"[..], &[4][..])
        );
        assert_eq!(Batch::read(&mut file, 4, 2, false)?.lines, 0);
        Ok(())
    }

    #[test]
    fn a_line_that_is_being_written_waits() -> std::io::Result<()> {
        for half in [&b"{\"c\": "[..], b"{\"c\": 1", b"4", b"{} {"] {
            let bytes = [&b"{}\n"[..], half].concat();
            let batch = Batch::read(&mut bytes.as_slice(), 0, 9, false)?;
            assert_eq!((batch.body.as_slice(), batch.lines), (&b"{}\n"[..], 1));
            assert_eq!(batch.held_back, half.len() as u64);
            let batch = Batch::read(&mut bytes.as_slice(), 0, 9, true)?;
            assert_eq!((batch.body, batch.lines, batch.held_back), (bytes, 2, 0));
        }
        Ok(())
    }
}
