//! Half load for a long time: memory, files and disk stay flat, or grow by what is said here.
//!
//! `RECKON_SOAK_MINUTES=30 cargo test --release --test http soak -- --nocapture`; without the variable nothing is done.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::served::{Served, reckon};
use crate::traffic::{Address, Client, agent, number, send};

const CLIENTS: u64 = 2;
const BATCH: u64 = 1_000;
const CALIBRATION: Duration = Duration::from_secs(5);
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// Log bytes that retention keeps of each partition.
const RETAINED: u64 = 64 << 20;
/// Write buffers of the log's records and outputs, which take some minutes to fill.
const LOG_BUFFERS: u64 = 128 << 20;
const SETTINGS: [&str; 10] = [
    "--set",
    "fold.flush_ms=5000",
    "--set",
    "fold.buffer_bytes=67108864",
    "--set",
    "fold.cache_bytes=33554432",
    "--set",
    "retention.log_bytes=67108864",
    "--set",
    "telemetry.log_filter=warn",
];

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    events: u64,
    resident: u64,
    files: u64,
    log: u64,
    store: u64,
    lag: u64,
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    1024 * line
        .split_whitespace()
        .nth(1)
        .and_then(|n| n.parse::<u64>().ok())
        .expect("a number")
}

fn files(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").count() as u64
}

/// Bytes of all files below a folder; files come and go meanwhile.
fn bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(what) if what.is_dir() => bytes(&entry.path()),
            Ok(what) => what.len(),
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn soak() {
    let Some(minutes) = std::env::var("RECKON_SOAK_MINUTES")
        .ok()
        .and_then(|m| m.parse::<u64>().ok())
    else {
        println!("RECKON_SOAK_MINUTES isn't set: nothing done");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    reckon(&["init", "--data", data.to_str().expect("a path"), "--partitions", "2"]);
    let served = Served::start(&data, &SETTINGS);
    let address = Address::default();
    address.set(&served.base);
    let (stop, events) = (AtomicBool::new(false), AtomicU64::new(0));
    // Microseconds from batch to batch of one client; 0: as fast as it goes.
    let pace = AtomicU64::new(0);
    let ends = [AtomicU64::new(0), AtomicU64::new(0)];
    let samples = std::thread::scope(|scope| {
        for n in 0..CLIENTS {
            let (address, stop, events, pace, ends) = (&address, &stop, &events, &pace, &ends);
            scope.spawn(move || {
                let (agent, mut due) = (agent(), Instant::now());
                let mut number = n;
                let mut client = Client::new(number, &now());
                let mut made = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    if made.elapsed() > Duration::from_secs(60) {
                        // Calls of another minute.
                        number += CLIENTS;
                        client = Client::new(number, &now());
                        made = Instant::now();
                    }
                    let places = send(&agent, address, &client.batch(BATCH).body);
                    events.fetch_add(places.len() as u64, Ordering::Relaxed);
                    for (partition, offset) in places {
                        ends[partition as usize].fetch_max(offset, Ordering::Relaxed);
                    }
                    due = Instant::now().max(due + Duration::from_micros(pace.load(Ordering::Relaxed)));
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            });
        }
        std::thread::sleep(CALIBRATION);
        let full = events.load(Ordering::Relaxed) / CALIBRATION.as_secs();
        let half = (full / 2).max(1);
        pace.store(CLIENTS * BATCH * 1_250_000 / half, Ordering::Relaxed);
        println!("{full} events/s at full load; {half} events/s from now on");
        let (began, mut samples) = (Instant::now(), Vec::new());
        while began.elapsed() < Duration::from_secs(60 * minutes) {
            std::thread::sleep(SAMPLE_EVERY);
            let lag = (0..2).map(|partition| {
                let answer = served
                    .get(&format!("/v1/outputs/statements?partition={partition}"))
                    .json();
                ends[partition]
                    .load(Ordering::Relaxed)
                    .saturating_sub(number(&answer["as_of"]["offset"]))
            });
            let sample = Sample {
                at: began.elapsed(),
                lag: lag.max().unwrap_or(0),
                events: events.load(Ordering::Relaxed),
                resident: resident(served.pid()),
                files: files(served.pid()),
                log: bytes(&data.join("log")),
                store: bytes(&data.join("store")),
            };
            println!(
                "{:>5} s {:>12} events  {:>6} MiB resident  {:>4} files  {:>6} MiB log  {:>6} MiB store  lag {}",
                sample.at.as_secs(),
                sample.events,
                sample.resident >> 20,
                sample.files,
                sample.log >> 20,
                sample.store >> 20,
                sample.lag
            );
            samples.push(sample);
        }
        stop.store(true, Ordering::Relaxed);
        samples
    });
    assert!(served.stop().success());
    let (warm, last) = (samples[samples.len() / 3], samples[samples.len() - 1]);
    let calls = last.events - warm.events;
    // The index of remembered calls takes 5 to 7 bytes a call, and doubles at times; the rest is flat.
    let filling = if minutes < 10 { LOG_BUFFERS } else { 0 };
    let explained = warm.resident / 10 + 16 * calls + filling;
    let grown = last.resident.saturating_sub(warm.resident);
    assert!(
        grown < explained,
        "memory grew by {grown} bytes over {calls} events; {explained} are explained"
    );
    let most_files = samples.iter().map(|s| s.files).max().unwrap_or(0);
    assert!(most_files < 600, "{most_files} files");
    let most_lag = samples.iter().map(|s| s.lag).max().unwrap_or(0);
    assert!(most_lag < 500_000, "{most_lag} records not folded");
    let a_call = last.store.saturating_sub(warm.store) / calls.max(1);
    assert!(a_call < 150, "the stores take {a_call} bytes an event");
    // What is retained, the write-ahead log, outputs (calls), and what compaction hasn't removed yet.
    let log_max = 2 * RETAINED + (512 << 20) + 300 * last.events;
    assert!(
        last.log < log_max,
        "the log has {} bytes; {log_max} are explained",
        last.log
    );
}

fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
