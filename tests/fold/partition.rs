//! However a partition is fed, committed, evicted or cut off: the digest, the usage and the outputs are those of one pure fold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::folding::{Entered, entries, folded};
use prost::Message;
use reckon::log::memory::MemoryLog;
use reckon::log::{Batch, Identity, Log, NewRecord};
use reckon::machine::accounts::Standing;
use reckon::machine::clock::Source;
use reckon::machine::fold::Machine;
use reckon::machine::output::{Output, Topic};
use reckon::machine::usage::{Bucket, BucketKey, Span};
use reckon::model::period::Month;
use reckon::partition::Settings;
use reckon::partition::worker::Partition;
use reckon::store::keys::{self, table};
use reckon::store::rocks::Budget;
use reckon::store::values::Stored;
use reckon::wire::check::timestamp;
use reckon::wire::pb;
use reckon::wire::pb::control::Body;
use reckon::wire::record::Kind;
use reckon::workload::arbitrary::Arbitrary;
use reckon::workload::seed::Seed;
use reckon::workload::synthetic::Synthetic;

fn log_of(entries: &[Entered]) -> Arc<MemoryLog> {
    let identity = Identity {
        log_id: "test".to_owned(),
        partition_count: 1,
        source: Source::Ticks,
    };
    let log = MemoryLog::new(identity, entries.first().map_or(0, |e| e.append_ms));
    for entry in entries {
        log.set_now(entry.append_ms);
        let record = NewRecord::new(entry.kind, entry.bytes.clone());
        log.append(0, vec![record]).expect("appended");
    }
    Arc::new(log)
}

/// What a crash leaves: the files as they are on disk now.
fn crashed_copy(of: &Path, to: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&to).expect("a folder");
    for file in std::fs::read_dir(of).expect("a store") {
        let file = file.expect("a file");
        if file.file_name() != "LOCK" {
            std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
        }
    }
    to
}

fn open(log: &Arc<MemoryLog>, path: &Path, seed: &mut Seed) -> Partition {
    let settings = Settings {
        commit_events: 1 + seed.below(400),
        hold_ms: [0, 1, 5_000, 86_400_000][seed.below(4) as usize],
        poll_bytes: 1 + seed.below(20_000) as usize,
        flush_bytes: if seed.chance(500) { 1 } else { u64::MAX },
        ..Settings::default()
    };
    let log: Arc<dyn Log> = Arc::clone(log) as Arc<dyn Log>;
    Partition::open(log, 0, path, &Budget::new(1 << 20, 64 << 20), settings).expect("opened")
}

/// Folds with random batches, commits, evictions and crashes.
fn ragged(log: &Arc<MemoryLog>, seed: u64) -> Partition {
    let mut seed = Seed::new(seed);
    let folder = tempfile::tempdir().expect("a folder").keep();
    let mut path = folder.join("0");
    let mut partition = open(log, &path, &mut seed);
    let mut batch = Batch::default();
    let mut copies = 0;
    loop {
        let end = log.end(0).expect("an end");
        let until = partition.machine.position.next_offset + 1 + seed.below(700);
        let more = partition
            .fold_available(&mut batch, (until < end).then_some(until))
            .expect("folded");
        if !more && partition.machine.position.next_offset == end {
            return partition;
        }
        match seed.below(12) {
            0 if copies < 12 => {
                copies += 1;
                partition.rocks.db.cancel_all_background_work(true);
                path = crashed_copy(&path, folder.join(copies.to_string()));
                drop(partition);
                partition = open(log, &path, &mut seed);
            }
            1 => partition.finish().expect("finished"),
            2 => {
                drop(partition);
                partition = open(log, &path, &mut seed);
            }
            _ => {}
        }
    }
}

/// What a bucket says, name by name: sums of lines with their rollup values, and counts of calls; nothing that is zero.
type Said = BTreeMap<String, i128>;

fn said(machine: &Machine, bucket: &Bucket) -> Said {
    let symbols = &machine.names.symbols;
    let mut said = Said::new();
    for line in &bucket.lines {
        let dimensions: Vec<String> = machine
            .names
            .of(line.key.dimensions)
            .dimensions
            .iter()
            .map(|&(name, value)| format!("{}={}", symbols.name(name), symbols.name(value)))
            .collect();
        for &(meter, nano) in &line.meters {
            let key = format!(
                "{}/{}/{} {} {dimensions:?}",
                symbols.name(line.key.service),
                symbols.name(line.key.product),
                symbols.name(meter),
                line.key.class.as_str()
            );
            *said.entry(key).or_default() += nano;
        }
    }
    for ((outcome, reason), calls) in &bucket.counts {
        let key = format!("{} {}", outcome.as_str(), reason.as_str());
        *said.entry(key).or_default() += i128::from(*calls);
    }
    said.retain(|_, n| *n != 0);
    said
}

/// Every account's days, and the hours of its open periods, from what memory holds and what `stored` has beneath it.
fn totals(
    machine: &Machine,
    stored: BTreeMap<BucketKey, Bucket>,
) -> BTreeMap<(String, &'static str, Month, i32), Said> {
    let mut buckets = stored;
    for (key, bucket) in &machine.cold.buckets {
        if bucket.partial {
            buckets.entry(*key).or_default().absorb(bucket);
        } else {
            buckets.insert(*key, bucket.clone());
        }
    }
    for (number, account) in machine.accounts.iter() {
        for (span, latest) in [(Span::Day, &account.day), (Span::Hour, &account.hour)] {
            if let Some(latest) = latest {
                let key = (number, span, latest.month, latest.place);
                buckets.entry(key).or_default().absorb(&latest.bucket);
            }
        }
    }
    let mut totals = BTreeMap::new();
    for ((number, span, month, place), bucket) in buckets {
        let account = machine.accounts.get(number).expect("an account");
        let period = account.period(month).expect("a period");
        let said = said(machine, &bucket);
        if !said.is_empty() && (span == Span::Day || period.standing == Standing::Open) {
            let span = if span == Span::Day { "day" } else { "hour" };
            totals.insert((account.id.to_string(), span, month, place), said);
        }
    }
    totals
}

fn stored(partition: &Partition) -> BTreeMap<BucketKey, Bucket> {
    let mut buckets = BTreeMap::new();
    partition
        .rocks
        .scan(&[table::BUCKET], |key, bytes| {
            buckets.insert(keys::parse_bucket(key).expect("a key"), Bucket::from_bytes(bytes)?);
            Ok(())
        })
        .expect("a store");
    buckets
}

/// What reads of whole months say, from days.
fn months(days: &BTreeMap<(String, &'static str, Month, i32), Said>) -> BTreeMap<(String, Month), Said> {
    let mut months: BTreeMap<(String, Month), Said> = BTreeMap::new();
    for ((account, span, month, _), said) in days {
        if *span == "day" {
            let sums = months.entry((account.clone(), *month)).or_default();
            for (what, n) in said {
                // By service, product, meter and class only; or by outcome, by reason.
                match what.split_once(" [") {
                    Some((key, _)) => *sums.entry(key.to_owned()).or_default() += n,
                    None => {
                        for word in what.split(' ') {
                            *sums.entry(word.to_owned()).or_default() += n;
                        }
                    }
                }
            }
        }
    }
    for said in months.values_mut() {
        said.retain(|_, n| *n != 0);
    }
    months.retain(|_, said| !said.is_empty());
    months
}

fn read_months(partition: &Partition) -> BTreeMap<(String, Month), Said> {
    let mut months = BTreeMap::new();
    for (key, month) in partition.usage(None).expect("usage") {
        let mut said = Said::new();
        for ((service, product, meter, class), nano) in month.usage {
            said.insert(format!("{service}/{product}/{meter} {class}"), nano);
        }
        for (name, calls) in month.outcomes.into_iter().chain(month.reasons) {
            said.insert(name.to_owned(), calls.into());
        }
        if !said.is_empty() {
            months.insert(key, said);
        }
    }
    months
}

/// Folds in a store, cut off at random, and in memory alone: all must be the same.
pub fn check(entries: &[Entered], seed: u64) {
    let (machine, outputs) = folded(entries, Source::Ticks);
    let log = log_of(entries);
    let partition = ragged(&log, seed);
    assert_eq!(
        partition.machine.digest.value(),
        machine.digest.value(),
        "digest, seed {seed}"
    );
    for topic in Topic::ALL {
        let wanted: Vec<&Output> = outputs.iter().filter(|o| o.topic == topic).collect();
        let found = log.read_outputs(0, topic, 0, usize::MAX).expect("outputs");
        let gapless = found.iter().enumerate().all(|(n, o)| o.sequence == n as u64 + 1);
        assert!(gapless, "{topic:?}, seed {seed}");
        assert!(
            found.iter().eq(wanted.iter().copied()),
            "{topic:?} outputs differ, seed {seed}"
        );
    }
    let wanted = totals(&machine, BTreeMap::new());
    assert!(wanted.len() > 4, "{} days and hours", wanted.len());
    let found = totals(&partition.machine, stored(&partition));
    for key in wanted.keys().chain(found.keys()) {
        assert_eq!(found.get(key), wanted.get(key), "{key:?}, seed {seed}");
    }
    assert_eq!(read_months(&partition), months(&wanted), "seed {seed}");
    assert_eq!(partition.machine.counters, machine.counters, "seed {seed}");
}

#[test]
fn arbitrary_records_fold_alike_however_they_are_cut() {
    let seeds = std::env::var("RECKON_CRASH_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(24);
    for seed in 0..seeds {
        let arbitrary = Arbitrary {
            seed: seed + 1_000,
            events: 1_500,
            calls: [12, 80, 600][seed as usize % 3],
            accounts: 1 + seed % 5,
            leap_ms: [2_000, 3_600_000, 2 * 86_400_000][seed as usize / 3 % 3],
        };
        check(&entries(&arbitrary.make(), 0, 1), seed);
    }
}

#[test]
fn realistic_traffic_folds_alike_however_it_is_cut() {
    let made = Synthetic {
        seed: 5,
        month: Month(2026 * 12 + 8),
        calls: 4_000,
    }
    .make();
    let entries = entries(&made.steps, 0, 1);
    for seed in 0..4 {
        check(&entries, seed);
    }
}

#[test]
fn outputs_that_differ_from_those_delivered_stop_the_fold() {
    let made = Synthetic {
        seed: 6,
        month: Month(2026 * 12 + 8),
        calls: 300,
    }
    .make();
    let mut records = entries(&made.steps, 0, 1);
    let first = log_of(&records);
    ragged(&first, 1);
    // Another history under the same outputs: the last call's word is another one.
    let at = records.iter().position(|e| e.bytes.len() > 60).expect("an event");
    records.remove(at);
    let second = log_of(&records);
    for topic in Topic::ALL {
        let delivered = first.read_outputs(0, topic, 0, usize::MAX).expect("outputs");
        second.append_outputs(0, &delivered).expect("delivered");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let log: Arc<dyn Log> = second as Arc<dyn Log>;
    let mut partition = Partition::open(
        log,
        0,
        folder.path(),
        &Budget::new(1 << 20, 64 << 20),
        Settings::default(),
    )
    .expect("opened");
    let stopped = partition.catch_up(|_| ()).expect_err("must stop");
    assert!(
        stopped.to_string().contains("differs from what was delivered"),
        "{stopped}"
    );
}

/// A call of each of many accounts, in a month whose close is held, due and then released by the last record.
fn released(accounts: u32) -> Vec<Entered> {
    const START: i64 = 1_788_220_800_000;
    let tick = |at: i64| Entered {
        append_ms: at,
        kind: Kind::Tick,
        bytes: pb::Tick {
            at: Some(timestamp(at)),
        }
        .encode_to_vec(),
    };
    let control = |at: i64, version: u64, body: Body| Entered {
        append_ms: at,
        kind: Kind::Control,
        bytes: pb::Control {
            id: format!("control-{version}"),
            issued_at: Some(timestamp(at)),
            actor: "kim@ops".to_owned(),
            control_version: version,
            body: Some(body),
        }
        .encode_to_vec(),
    };
    let call = |n: u32| {
        let at = START + 1_000 + i64::from(n);
        Entered {
            append_ms: at,
            kind: Kind::Event,
            bytes: pb::CallEvent {
                account_id: format!("account-{n}"),
                call_id: format!("call-{n}"),
                phase: pb::Phase::Ended.into(),
                occurred_at: Some(timestamp(at)),
                end: Some(pb::Termination {
                    cause: pb::Cause::Completed.into(),
                    ..pb::Termination::default()
                }),
                ..pb::CallEvent::default()
            }
            .encode_to_vec(),
        }
    };
    let due = START + 35 * 86_400_000;
    let (period, account_id) = ("2026-09".to_owned(), String::new());
    let hold = Body::HoldClose(pb::HoldClose {
        period: period.clone(),
        account_id: account_id.clone(),
    });
    let release = Body::ReleaseClose(pb::ReleaseClose { period, account_id });
    let mut entries = vec![tick(START), control(START, 1, hold)];
    entries.extend((0..accounts).map(call));
    entries.extend([tick(due), control(due, 2, release)]);
    entries
}

#[test]
fn what_a_release_leaves_to_close_goes_on_wherever_it_is_cut() {
    let entries = released(3_000);
    let (machine, outputs) = folded(&entries, Source::Ticks);
    let statements = outputs.iter().filter(|o| o.topic == Topic::Statements).count();
    assert!(statements >= 3_000, "{statements}");
    let log = log_of(&entries);
    let end = log.end(0).expect("an end");
    for steps in 0..3 {
        let log = log_of(&entries);
        let folder = tempfile::tempdir().expect("a folder");
        let open = || {
            let log: Arc<dyn Log> = Arc::clone(&log) as Arc<dyn Log>;
            let budget = Budget::new(1 << 20, 64 << 20);
            Partition::open(log, 0, folder.path(), &budget, Settings::default()).expect("opened")
        };
        let mut partition = open();
        let mut batch = Batch::default();
        while partition.machine.position.next_offset < end {
            let from = partition.machine.position.next_offset;
            log.poll(0, from, 1 << 20, &mut batch).expect("polled");
            let mut at = 0;
            while at < batch.len() {
                at = partition.fold_next(&batch, at, batch.len()).expect("folded");
            }
        }
        assert!(partition.machine.settling, "so many closes are more than a step");
        for _ in 0..steps {
            partition.commit().expect("committed");
            partition.fold_next(&Batch::default(), 0, 0).expect("a step");
            assert!(partition.has_uncommitted(), "step {steps}");
        }
        assert_eq!(partition.machine.settling, steps < 2);
        // What is committed and on disk is what a crash leaves.
        partition.commit().expect("committed");
        partition.rocks.flush().expect("flushed");
        drop(partition);
        let mut partition = open();
        partition.catch_up(|_| ()).expect("caught up");
        assert!(!partition.has_uncommitted(), "after {steps} steps");
        assert_eq!(
            partition.machine.digest.value(),
            machine.digest.value(),
            "after {steps} steps"
        );
        let delivered = log.read_outputs(0, Topic::Statements, 0, usize::MAX).expect("outputs");
        assert_eq!(delivered.len(), statements, "after {steps} steps");
    }
}
