//! The Azure LLM inference traces (Microsoft, CC-BY 4.0; Patel et al., ISCA 2024) as events.
//!
//! The traces carry neither accounts nor failures. Both are added by a seeded rule: a request's account is the lesser of two
//! equally likely numbers (so that a few accounts have most of the traffic); one in a thousand as often as asked for fails at
//! the upstream, or its client leaves when half of the answer is out. By default every request succeeds.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use chrono::Datelike;
use thiserror::Error;

use super::seed::Seed;
use super::{Step, What, event, quantity, with_ticks};
use crate::model::Ms;
use crate::wire::pb::{self, Cause, Observer, Phase, Progress, Provenance};

/// How a trace becomes traffic.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of accounts and outcomes.
    pub seed: u64,
    /// Accounts that requests are spread over.
    pub accounts: u32,
    /// Requests of a thousand that fail at the upstream.
    pub failures_per_mille: u16,
    /// Requests of a thousand whose client leaves.
    pub disconnects_per_mille: u16,
    /// What is priced.
    pub product: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            accounts: 100,
            failures_per_mille: 0,
            disconnects_per_mille: 0,
            product: "azure-llm".to_owned(),
        }
    }
}

/// What a file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceSums {
    /// Rows.
    pub requests: u64,
    /// Of all rows.
    pub context_tokens: u64,
    /// Of all rows.
    pub generated_tokens: u64,
}

/// Files as traffic.
#[derive(Clone, Debug)]
pub struct Trace {
    /// In order of arrival, with a tick a minute.
    pub steps: Vec<Step>,
    /// By file, as given.
    pub sums: Vec<(String, TraceSums)>,
}

/// Why a file can't be read.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The file's own.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A row.
    #[error(
        "{path} line {line}: {what}; a row is TIMESTAMP,ContextTokens,GeneratedTokens, as in 2023-11-16 18:17:03.9799600,374,44"
    )]
    Row {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

/// Tokens that a row may have of a kind: more is no request, and times would run out of the calendar.
const TOKENS_MAX: u64 = 1_000_000_000;

/// The first row, if it is no request.
const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

/// One request of a trace.
struct Request {
    at_ms: Ms,
    file: usize,
    row: usize,
    context: u64,
    generated: u64,
}

/// The service's name: what stands after the last `_` of the file's name; `conv` is a chat service.
fn service_of(path: &Path) -> String {
    let stem = path
        .file_stem()
        .map_or_else(String::new, |s| s.to_string_lossy().into_owned());
    match stem.rsplit('_').next() {
        Some("conv") => "chat".to_owned(),
        Some(name) if !name.is_empty() => name.to_lowercase(),
        _ => "api".to_owned(),
    }
}

fn parse(line: &str) -> Result<(Ms, u64, u64), String> {
    let mut cells = line.trim().split(',');
    let (Some(at), Some(context), Some(generated), None) = (cells.next(), cells.next(), cells.next(), cells.next())
    else {
        return Err("not three cells".to_owned());
    };
    let at = chrono::NaiveDateTime::parse_from_str(at, "%Y-%m-%d %H:%M:%S%.f").map_err(|e| format!("{at:?}: {e}"))?;
    let tokens = |text: &str| match text.parse::<u64>() {
        Ok(tokens) if tokens <= TOKENS_MAX => Ok(tokens),
        Ok(tokens) => Err(format!("{tokens} tokens; at most {TOKENS_MAX}")),
        Err(cause) => Err(format!("{text:?}: {cause}")),
    };
    if !(1970..=9_998).contains(&at.year()) {
        return Err(format!("{at}: the year is none of 1970 to 9998"));
    }
    Ok((at.and_utc().timestamp_millis(), tokens(context)?, tokens(generated)?))
}

fn is_header(line: &str) -> bool {
    line.trim_start_matches('\u{feff}').trim().eq_ignore_ascii_case(HEADER)
}

fn read_file(path: &Path, file: usize, requests: &mut Vec<Request>) -> Result<TraceSums, TraceError> {
    let failed = |cause| TraceError::File {
        path: path.to_owned(),
        cause,
    };
    let mut sums = TraceSums::default();
    for (row, line) in BufReader::new(File::open(path).map_err(failed)?).lines().enumerate() {
        let line = line.map_err(failed)?;
        if line.trim().is_empty() || (row == 0 && is_header(&line)) {
            continue;
        }
        let (at_ms, context, generated) = parse(&line).map_err(|what| TraceError::Row {
            path: path.to_owned(),
            line: row + 1,
            what,
        })?;
        sums.requests += 1;
        sums.context_tokens += context;
        sums.generated_tokens += generated;
        requests.push(Request {
            at_ms,
            file,
            row,
            context,
            generated,
        });
    }
    Ok(sums)
}

/// Reads traces, merged in time order, as services of the same accounts.
pub fn read(files: &[PathBuf], options: &Options) -> Result<Trace, TraceError> {
    let mut requests = Vec::new();
    let mut sums = Vec::new();
    for (number, path) in files.iter().enumerate() {
        let of_file = read_file(path, number, &mut requests)?;
        sums.push((path.display().to_string(), of_file));
    }
    requests.sort_by_key(|r| (r.at_ms, r.file, r.row));
    let services: Vec<String> = files.iter().map(|f| service_of(f)).collect();
    let mut steps = Vec::with_capacity(requests.len() * 3);
    for request in &requests {
        request_steps(request, &services[request.file], options, &mut steps);
    }
    Ok(Trace {
        steps: with_ticks(steps),
        sums,
    })
}

fn request_steps(request: &Request, service: &str, options: &Options, steps: &mut Vec<Step>) {
    let mut seed = Seed::of(options.seed, (request.file as u64) << 40 | request.row as u64);
    let accounts = u64::from(options.accounts.max(1));
    let account = format!("account-{:04}", seed.below(accounts).min(seed.below(accounts)));
    let call = seed.uuid(request.at_ms);
    let luck = seed.below(1_000);
    let failed = luck < u64::from(options.failures_per_mille);
    let gone = !failed && luck < u64::from(options.failures_per_mille) + u64::from(options.disconnects_per_mille);
    let generated = match (failed, gone) {
        (true, _) => 0,
        (_, true) => request.generated / 2,
        _ => request.generated,
    };
    // 200 ms to the first token, 15 ms a token: the traces have no durations.
    let end_ms = request.at_ms + 200 + 15 * Ms::try_from(generated).unwrap_or(0);
    let base = |phase, observer, at| pb::CallEvent {
        service: service.to_owned(),
        product: options.product.clone(),
        kind: pb::CallKind::Stream.into(),
        source: "trace".to_owned(),
        ..event(&account, &call, phase, observer, at)
    };
    let (cause, progress, client, upstream) = match (failed, gone) {
        (true, _) => (Cause::UpstreamError, Progress::Forwarded, 502, 500),
        (_, true) => (Cause::ClientGone, Progress::ResponseStarted, 200, 200),
        _ => (Cause::Completed, Progress::Complete, 200, 200),
    };
    let end = pb::Termination {
        cause: cause.into(),
        progress: progress.into(),
        client_status: client,
        upstream_status: upstream,
        ..pb::Termination::default()
    };
    let mut push = |at_ms, event| {
        steps.push(Step {
            at_ms,
            what: What::Event(Box::new(event)),
        });
    };
    push(request.at_ms, base(Phase::Started, Observer::Edge, request.at_ms));
    let measured = Provenance::UpstreamMeasured;
    let usage = vec![
        quantity("input_tokens_uncached", request.context, measured),
        quantity("output_tokens", generated, measured),
    ];
    push(
        end_ms,
        pb::CallEvent {
            usage,
            ..base(Phase::UsageReported, Observer::Upstream, end_ms)
        },
    );
    push(
        end_ms,
        pb::CallEvent {
            end: Some(end),
            ..base(Phase::Ended, Observer::Edge, end_ms)
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums_of(text: &str) -> Result<TraceSums, TraceError> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        let trace = read(&[file.path().to_owned()], &Options::default())?;
        // Far apart as they may be, there isn't a tick for every minute between them.
        assert!(trace.steps.len() < 100_000, "{} steps", trace.steps.len());
        Ok(trace.sums[0].1)
    }

    #[test]
    fn the_first_row_is_a_header_only_if_it_says_so() {
        let row = "2023-11-16 18:17:03.9799600,374,44\n";
        for head in [
            "",
            "TIMESTAMP,ContextTokens,GeneratedTokens\n",
            "\u{feff}timestamp,contexttokens,generatedtokens\r\n",
        ] {
            let sums = sums_of(&format!("{head}{row}")).expect("a trace");
            assert_eq!((sums.requests, sums.context_tokens), (1, 374), "{head:?}");
        }
        let other = sums_of("when,in,out\n2023-11-16 18:17:03,1,1\n");
        assert!(other.is_err_and(|e| e.to_string().contains("line 1")));
    }

    #[test]
    fn rows_far_apart_are_read() {
        let sums = sums_of("1970-01-01 00:00:00,1,1000000000\n9998-12-31 23:59:59,1,1000000000\n").expect("a trace");
        assert_eq!(sums.generated_tokens, 2_000_000_000);
    }

    #[test]
    fn rows_are_read_to_the_millisecond() {
        assert_eq!(
            parse("2023-11-16 18:17:03.9799600,374,44"),
            Ok((1_700_158_623_979, 374, 44))
        );
        assert!(parse("2023-11-16,374,44").is_err());
        let odd = |row: &str| parse(row).err().unwrap_or_default();
        assert!(odd("2023-11-16 18:17:03,18446744073709551615,1").contains("at most"));
        assert!(odd("2023-11-16 18:17:03,1,1000000001").contains("at most"));
        assert!(odd("+262142-11-16 18:17:03,1,1").contains("year"));
        assert!(parse("2023-11-16 18:17:03.9,374").is_err());
        assert_eq!(service_of(Path::new("/x/AzureLLMInferenceTrace_conv.csv")), "chat");
        assert_eq!(service_of(Path::new("AzureLLMInferenceTrace_code.csv")), "code");
    }
}
