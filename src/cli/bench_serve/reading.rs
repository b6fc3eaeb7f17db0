//! Who reads: one blocking connection on a thread of its own, so that nothing of the client's stands in front of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::failed;
use crate::cli::CliError;
use crate::cli::bench::times::Times;
use crate::workload::dense::account_id;
use crate::workload::seed::Seed;

/// From one read to the next.
const PACE: Duration = Duration::from_millis(3);

/// One connection that is kept.
pub struct Blocking {
    socket: BufReader<TcpStream>,
}

impl Blocking {
    pub fn connect(address: SocketAddr) -> Result<Self, CliError> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        Ok(Self {
            socket: BufReader::new(socket),
        })
    }

    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Vec<u8>, CliError> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.socket.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length, mut line) = (String::new(), None, String::new());
        loop {
            line.clear();
            if self.socket.read_line(&mut line)? == 0 {
                return Err(failed(format!("{method} {path}: the connection has ended")));
            }
            let text = line.trim_end();
            if status.is_empty() {
                text.clone_into(&mut status);
            } else if text.is_empty() {
                break;
            } else if let Some((name, value)) = text.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse::<usize>().ok();
            }
        }
        let length = length.ok_or_else(|| failed(format!("{method} {path}: an answer without a length")))?;
        let mut answer = vec![0; length];
        self.socket.read_exact(&mut answer)?;
        if status.split(' ').nth(1) != Some("200") {
            let text: String = String::from_utf8_lossy(&answer).chars().take(400).collect();
            return Err(failed(format!("{method} {path}: {status}: {text}")));
        }
        Ok(answer)
    }
}

/// A thread that goes on until it is told to stop.
pub struct Going {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Times, CliError>>,
}

impl Going {
    fn start(once: impl FnMut(u64) -> Result<Duration, CliError> + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let mut once = once;
        let thread = std::thread::spawn(move || {
            let mut times = Times::default();
            let mut n = 0;
            while !told.load(Ordering::Relaxed) {
                times.push(once(n)?);
                n += 1;
                std::thread::sleep(PACE);
            }
            Ok(times)
        });
        Self { stop, thread }
    }

    /// Tells it to stop; what it has measured.
    pub fn stop(self) -> Result<Times, CliError> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| failed("a reader has panicked"))?
    }
}

/// Reads usage of drawn accounts, one after another.
pub fn read(address: SocketAddr, accounts: &Arc<[u64]>) -> Result<Going, CliError> {
    let mut client = Blocking::connect(address)?;
    let mut draw = Seed::new(11);
    let accounts = Arc::clone(accounts);
    Ok(Going::start(move |_| {
        let drawn = draw.below(accounts.len() as u64) as usize;
        let path = format!("/v1/accounts/{}/usage", account_id(accounts[drawn]));
        let sent = Instant::now();
        client.ask("GET", &path, "")?;
        Ok(sent.elapsed())
    }))
}

/// Posts single events and reads until each is visible: the time from the post to the answer that has it.
pub fn see(address: SocketAddr, run: &'static str) -> Result<Going, CliError> {
    let mut client = Blocking::connect(address)?;
    Ok(Going::start(move |n| {
        let event = json!({"account_id": "seen", "call_id": format!("{run}-{n}"), "phase": "ended",
            "occurred_at": chrono::Utc::now().to_rfc3339(), "product": "m-large", "end": {"cause": "completed"},
            "usage": [{"meter": "output_tokens", "value": 7}]});
        let sent = Instant::now();
        let answer = client.ask("POST", "/v1/events", &event.to_string())?;
        let answer: Value = serde_json::from_slice(&answer)?;
        let result = &answer["results"][0];
        let (partition, offset) = (&result["partition"], result["offset"].as_str().unwrap_or_default());
        let path = format!("/v1/accounts/seen/usage?at_least={partition}:{offset}");
        client.ask("GET", &path, "")?;
        Ok(sent.elapsed())
    }))
}

/// How many reads the service has answered within which time, as `/metrics` says: bounds in microseconds.
pub fn answered(address: SocketAddr) -> Result<Vec<(u64, u64)>, CliError> {
    const NAME: &str = "reckon_http_request_seconds_bucket{route=\"/v1/accounts/{account}/usage\"";
    let text = Blocking::connect(address)?.ask("GET", "/metrics", "")?;
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter(|line| line.starts_with(NAME));
    let bucket = |line: &str| {
        let (_, bound) = line.split_once("le=\"")?;
        let (bound, count) = bound.split_once("\"} ")?;
        let bound = bound.parse::<rust_decimal::Decimal>().ok()? * rust_decimal::Decimal::from(1_000_000);
        Some((u64::try_from(bound).ok()?, count.trim().parse().ok()?))
    };
    Ok(lines.filter_map(bucket).collect())
}

/// The percentile of the answers between two looks, in microseconds: within its bucket as if they lay evenly.
pub fn percentile_us(before: &[(u64, u64)], after: &[(u64, u64)], of_1000: u64) -> u64 {
    let since = |&(bound, count): &(u64, u64)| {
        let had = before.iter().find(|b| b.0 == bound).map_or(0, |b| b.1);
        (bound, count - had)
    };
    let counts: Vec<(u64, u64)> = after.iter().map(since).collect();
    let all = counts.last().map_or(0, |c| c.1);
    if all == 0 {
        return 0;
    }
    let wanted = all * of_1000 / 1_000;
    let (mut low, mut below) = (0, 0);
    for (bound, count) in counts {
        if count > wanted {
            return low + (bound - low) * (wanted - below) / (count - below).max(1);
        }
        (low, below) = (bound, count);
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_buckets_lie_within_them() {
        let before = [(100, 5), (250, 5), (500, 5)];
        let after = [(100, 55), (250, 95), (500, 105)];
        assert_eq!(percentile_us(&before, &after, 500), 100);
        assert_eq!(percentile_us(&before, &after, 900), 250);
        assert_eq!(percentile_us(&before, &after, 950), 375);
        assert_eq!(percentile_us(&after, &after, 990), 0);
    }
}
