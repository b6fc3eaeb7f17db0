//! A real process that appends and folds is killed with SIGKILL at random moments: every acknowledged event is counted once,
//! the log opens, and the digest is that of an undisturbed fold.
//!
//! `RECKON_KILLS=300 cargo test --release --test fold -- crash` kills more often.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::folding::{Entered, fold};
use prost::Message;
use reckon::log::local::{LocalLog, wall_clock};
use reckon::log::placement::partition_of;
use reckon::log::{Batch, Identity, Log, LogError, NewRecord};
use reckon::machine::clock::Source;
use reckon::machine::fold::Machine;
use reckon::model::quantity::Quantity;
use reckon::partition::Settings;
use reckon::partition::host::{Host, create_log, open_log};
use reckon::store::rocks::Budget;
use reckon::wire::check::timestamp;
use reckon::wire::pb;
use reckon::wire::record::Kind;
use reckon::workload::seed::Seed;

const PARTITIONS: u32 = 2;
/// Events appended at a time, at most.
const GROUP_MAX: u64 = 40;
const FOLDER: &str = "RECKON_CRASH_FOLDER";
const FROM: &str = "RECKON_CRASH_FROM";

fn tokens(n: u64) -> i64 {
    Seed::of(3, n).below(1_000) as i64
}

/// The n-th event: a whole call of its own.
fn event(n: u64) -> (String, Vec<u8>) {
    let account = format!("account-{}", n % 37);
    let event = pb::CallEvent {
        account_id: account.clone(),
        call_id: format!("call-{n}"),
        phase: pb::Phase::Ended.into(),
        occurred_at: Some(timestamp(chrono::Utc::now().timestamp_millis())),
        end: Some(pb::Termination {
            cause: pb::Cause::Completed.into(),
            ..pb::Termination::default()
        }),
        usage: vec![pb::Quantity {
            meter: "output_tokens".to_owned(),
            value: tokens(n),
            ..pb::Quantity::default()
        }],
        ..pb::CallEvent::default()
    };
    (account, event.encode_to_vec())
}

fn open(folder: &Path) -> Host {
    let log = match open_log(folder, wall_clock()) {
        Err(LogError::NoGenesis { .. }) => {
            let identity = Identity {
                log_id: "crash".to_owned(),
                partition_count: PARTITIONS,
                source: Source::Append,
            };
            create_log(folder, &identity, wall_clock()).expect("made")
        }
        log => log.expect("the log opens after a kill"),
    };
    let settings = Settings {
        commit_events: 200,
        commit_ms: 5,
        flush_bytes: 20_000,
        hold_ms: 50,
        ..Settings::default()
    };
    Host::open(Arc::new(log), folder, &Budget::new(8 << 20, 64 << 20), &settings).expect("the stores open after a kill")
}

/// Appends in small groups while every partition folds; says what is acknowledged. Ends by being killed.
#[test]
fn child_process() {
    let (Ok(folder), Ok(from)) = (std::env::var(FOLDER), std::env::var(FROM)) else {
        return; // only when the other test starts it
    };
    let mut next: u64 = from.parse().expect("a number");
    let host = open(Path::new(&folder));
    let log = Arc::clone(&host.log);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mut partition in host.partitions {
            let (log, stop) = (Arc::clone(&log), &stop);
            scope.spawn(move || {
                let mut batch = Batch::default();
                while !stop.load(Ordering::Relaxed) {
                    let position = partition.machine.position.next_offset;
                    if log
                        .wait(partition.number, position, Duration::from_millis(20))
                        .expect("waited")
                    {
                        partition.fold_available(&mut batch, None).expect("folded");
                    }
                }
            });
        }
        let mut seed = Seed::of(9, next);
        // Far more than are appended before the kill.
        let last = next + 1_000_000;
        while next < last {
            let until = next + 1 + seed.below(GROUP_MAX);
            let mut groups: Vec<Vec<NewRecord>> = vec![Vec::new(); PARTITIONS as usize];
            for n in next..until {
                let (account, bytes) = event(n);
                let kind = Kind::Event;
                groups[partition_of(&account, PARTITIONS) as usize].push(NewRecord::new(kind, bytes));
            }
            for (partition, records) in groups.into_iter().enumerate() {
                if !records.is_empty() {
                    log.append(partition as u32, records).expect("appended");
                }
            }
            next = until;
            println!("acknowledged {next}");
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Runs a child until it has acknowledged some, then kills it. The first event that isn't acknowledged.
fn run_and_kill(folder: &Path, from: u64, acknowledgements: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["crash::child_process", "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(FROM, from.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("a child");
    let mut next = from;
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let mut left = acknowledgements;
    for line in output.lines() {
        if let Some(n) = line.expect("a line").strip_prefix("acknowledged ") {
            next = n.parse().expect("a number");
            left = left.saturating_sub(1);
            if left == 0 {
                child.kill().expect("killed"); // SIGKILL
            }
        }
    }
    let status = child.wait().expect("gone");
    assert_eq!(status.code(), None, "the child ended by itself: {status}");
    next
}

#[test]
fn every_acknowledged_event_is_counted_once_whatever_is_killed() {
    let kills: u64 = std::env::var("RECKON_KILLS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(24);
    let folder = tempfile::tempdir().expect("a folder");
    let mut seed = Seed::new(17);
    let mut acknowledged = 0;
    for _ in 0..kills {
        acknowledged = run_and_kill(folder.path(), acknowledged, 1 + seed.below(120));
    }
    let mut host = open(folder.path());
    // Of the group that was on its way at the last kill some may be there: it is sent again, as a client does.
    let all = acknowledged + 2 * GROUP_MAX;
    for n in acknowledged..all {
        let (account, bytes) = event(n);
        let kind = Kind::Event;
        let partition = partition_of(&account, PARTITIONS);
        host.log
            .append(partition, vec![NewRecord::new(kind, bytes)])
            .expect("appended");
    }
    host.catch_up(&|_| ()).expect("folded");
    host.finish().expect("finished");
    let (mut requests, mut output) = (0i128, 0i128);
    for partition in &host.partitions {
        for (_, usage) in partition.usage(None).expect("usage") {
            for ((_, _, meter, _), nano) in usage.usage {
                match meter.as_str() {
                    "requests" => requests += nano,
                    _ => output += nano,
                }
            }
        }
    }
    assert_eq!(
        Quantity(requests),
        Quantity::from_parts(all as i64, 0),
        "calls, {acknowledged} acknowledged"
    );
    let expected: i64 = (0..all).map(tokens).sum();
    assert_eq!(
        Quantity(output),
        Quantity::from_parts(expected, 0),
        "tokens of {all} calls"
    );
    for partition in &host.partitions {
        assert_eq!(
            partition.machine.digest.value(),
            undisturbed(host.log.as_ref(), partition.number)
        );
    }
    drop(host);
    // What was closed opens, and is whole.
    let log = LocalLog::open(&folder.path().join("log"), wall_clock()).expect("opens");
    assert!(log.end(0).expect("an end") > 1);
}

/// The digest of one fold of the log in memory.
fn undisturbed(log: &dyn Log, number: u32) -> u128 {
    let mut batch = Batch::default();
    log.poll(number, 0, usize::MAX, &mut batch).expect("polled");
    let mut records = batch.iter();
    let genesis_ms = records.next().expect("a genesis").append_ms;
    let mut machine = Machine::new(number, PARTITIONS, Source::Append, genesis_ms);
    let mut scratch = Vec::new();
    for record in records {
        let entry = Entered {
            append_ms: record.append_ms,
            kind: record.kind,
            bytes: record.bytes.to_vec(),
        };
        fold(&mut machine, &entry, &mut scratch);
    }
    machine.digest.value()
}

#[test]
fn readers_beside_a_running_process_see_whole_records() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["crash::child_process", "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder.path())
        .env(FROM, "0")
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut acknowledged = 0;
    let mut before = 0i128;
    for _ in 0..8 {
        for line in lines.by_ref().take(40) {
            if let Some(n) = line.expect("a line").strip_prefix("acknowledged ") {
                acknowledged = n.parse().expect("a number");
            }
        }
        let host =
            Host::open_beside(folder.path(), &Budget::new(8 << 20, 64 << 20), &Settings::default()).expect("opens");
        let usage = host.partitions.iter().map(|p| p.usage(None).expect("usage"));
        let requests: i128 = usage
            .flat_map(BTreeMap::into_values)
            .flat_map(|month| month.usage)
            .filter(|((_, _, meter, _), _)| meter == "requests")
            .map(|(_, nano)| nano / 1_000_000_000)
            .sum();
        assert!(requests >= i128::from(acknowledged), "{requests} of {acknowledged}");
        assert!(requests >= before, "never less than before");
        before = requests;
    }
    child.kill().expect("killed");
    child.wait().expect("gone");
}
