//! RULES §1, placement: events found in another partition than their account's are judged by their own, once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prost::Message;
use reckon::log::local::{LocalLog, wall_clock};
use reckon::log::memory::MemoryLog;
use reckon::log::placement::partition_of;
use reckon::log::{Batch, Identity, Log, LogError, NewRecord, Place, Receipt, Retention};
use reckon::machine::authority::Authority;
use reckon::machine::clock::Source;
use reckon::machine::control;
use reckon::machine::output::{Output, Tail, Topic};
use reckon::model::period::Month;
use reckon::partition::host::Host;
use reckon::partition::worker::Partition;
use reckon::partition::{PartitionError, Settings};
use reckon::store::rocks::Budget;
use reckon::wire::check::timestamp;
use reckon::wire::pb;
use reckon::wire::record::{Forwarded, Kind};
use reckon::workload::arbitrary::Arbitrary;
use reckon::workload::seed::Seed;
use reckon::workload::synthetic::Synthetic;
use reckon::workload::{Step, What};

use crate::authority::signer;

const COUNT: u32 = 4;
const START: i64 = 1_790_000_000_000;

fn identity(source: Source) -> Identity {
    Identity {
        log_id: "test".to_owned(),
        partition_count: COUNT,
        source,
    }
}

fn open(log: &Arc<dyn Log>, number: u32, folder: &Path) -> Result<Partition, PartitionError> {
    let path = folder.join(number.to_string());
    let budget = Budget::new(1 << 20, 64 << 20);
    Partition::open(Arc::clone(log), number, &path, &budget, Settings::default())
}

/// All partitions of a log in memory.
struct Partitions {
    log: MemoryLog,
    host: Host,
    _folder: tempfile::TempDir,
}

impl Partitions {
    fn new(source: Source, now_ms: i64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let log = MemoryLog::new(identity(source), now_ms);
        let shared: Arc<dyn Log> = Arc::new(log.clone());
        let budget = Budget::new(1 << 20, 64 << 20);
        Self {
            log,
            host: Host::open(shared, folder.path(), &budget, &Settings::default()).expect("opened"),
            _folder: folder,
        }
    }

    fn fold(&mut self, partition: u32) {
        self.host.partitions[partition as usize]
            .catch_up(|_| ())
            .expect("folded");
    }

    /// Folds until nothing is left, forwarded events included.
    fn fold_all(&mut self) {
        self.host.catch_up(&|_| ()).expect("folded");
    }

    fn outputs(&self, topic: Topic) -> Vec<Vec<u8>> {
        let outputs = |n| self.log.read_outputs(n, topic, 0, usize::MAX).expect("outputs");
        (0..COUNT).flat_map(outputs).map(|o| o.body).collect()
    }

    fn rejects(&self) -> Vec<pb::Rejected> {
        let bodies = self.outputs(Topic::Rejects);
        let read = |body: &Vec<u8>| pb::Rejected::decode(body.as_slice()).expect("a reject");
        bodies.iter().map(read).collect()
    }

    fn forwarded(&self) -> u64 {
        self.host.partitions.iter().map(|p| p.machine.counters.forwarded).sum()
    }
}

/// Plays a workload; `places` says where an event is put, given its home: in as many partitions as it names.
fn play(steps: &[Step], mut places: impl FnMut(u32) -> Vec<u32>) -> Partitions {
    let mut partitions = Partitions::new(Source::Ticks, steps.first().map_or(0, |s| s.at_ms));
    for step in steps {
        partitions.log.set_now(step.at_ms);
        let append = |place, kind, bytes| {
            let record = NewRecord::new(kind, bytes);
            partitions.log.append_placed(vec![(place, record)]).expect("appended");
        };
        match &step.what {
            What::Tick => {
                let tick = pb::Tick {
                    at: Some(timestamp(step.at_ms)),
                };
                append(Place::All, Kind::Tick, tick.encode_to_vec());
            }
            What::Control(control) => {
                let own = control::account_of(control).map(|a| Place::One(partition_of(a, COUNT)));
                append(own.unwrap_or(Place::All), Kind::Control, control.encode_to_vec());
            }
            What::Event(event) => {
                let home = partition_of(&event.account_id, COUNT);
                for place in places(home) {
                    let bytes = event.encode_to_vec();
                    let record = NewRecord::new(Kind::Event, bytes);
                    partitions.log.append(place, vec![record]).expect("appended");
                    if place != home {
                        partitions.fold(place);
                    }
                }
            }
        }
    }
    partitions.fold_all();
    partitions
}

/// Whether both have billed the same, to the byte of every statement and verdict.
fn assert_same(placed: &Partitions, misplaced: &Partitions, what: &str) {
    for topic in [Topic::Statements, Topic::Calls] {
        assert!(placed.outputs(topic) == misplaced.outputs(topic), "{what}: {topic:?}");
    }
    for (a, b) in placed.host.partitions.iter().zip(&misplaced.host.partitions) {
        assert_eq!(a.usage(None).expect("usage"), b.usage(None).expect("usage"), "{what}");
        assert_eq!(a.machine.accounts.len(), b.machine.accounts.len(), "{what}");
        assert_eq!(a.machine.calls.open(), b.machine.calls.open(), "{what}");
        assert_eq!(a.machine.counters.verdicts, b.machine.counters.verdicts, "{what}");
        let ids = b.machine.accounts.iter().map(|(_, account)| &account.id);
        let at_home = |id: &str| partition_of(id, COUNT) == b.number;
        assert!(
            ids.into_iter().all(|id| at_home(id)),
            "{what}: only accounts at home get a number"
        );
    }
}

/// The auditor, too, must have found what the partitions have.
fn audit(partitions: &Partitions, what: &str) {
    let compared = reckon::cli::audit::compare(&partitions.host).expect("audited");
    assert!(compared.differences.is_empty(), "{what}: {:?}", compared.differences);
}

/// What was rejected and why, wherever it stood.
fn refused(partitions: &Partitions) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = partitions.rejects().into_iter().map(|r| (r.reason, r.record)).collect();
    all.sort();
    all
}

#[test]
fn misplaced_events_are_billed_as_if_they_were_well_placed() {
    for seed in 0..6 {
        let arbitrary = Arbitrary {
            seed: 500 + seed,
            events: 300,
            calls: [12, 60][seed as usize % 2],
            accounts: 12,
            leap_ms: [2_000, 3_600_000, 2 * 86_400_000][seed as usize % 3],
        };
        let steps = arbitrary.make();
        let placed = play(&steps, |home| vec![home]);
        let mut turn = 0;
        let robin = play(&steps, |_| {
            turn += 1;
            vec![turn % COUNT]
        });
        let what = format!("seed {seed}");
        assert_same(&placed, &robin, &what);
        assert_eq!(refused(&placed), refused(&robin), "{what}");
        audit(&robin, &what);
        assert_eq!(placed.forwarded(), 0);
        assert!(robin.forwarded() > 100, "{what}");
        // And with copies of it from everywhere.
        let mut dice = Seed::new(seed);
        let copied = play(&steps, |home| vec![dice.below(4) as u32, dice.below(4) as u32, home]);
        assert_same(&placed, &copied, &what);
        audit(&copied, &what);
        let once = |mut all: Vec<(String, Vec<u8>)>| {
            all.dedup();
            all
        };
        assert_eq!(once(refused(&placed)), once(refused(&copied)), "{what}");
    }
}

#[test]
fn realistic_traffic_without_keys_is_billed_the_same() {
    let made = Synthetic {
        seed: 21,
        month: Month(2026 * 12 + 8),
        calls: 250,
    }
    .make();
    let mut turn = 0;
    let robin = play(&made.steps, |_| {
        turn += 1;
        vec![turn % COUNT]
    });
    let placed = play(&made.steps, |home| vec![home]);
    assert!(placed.outputs(Topic::Statements).len() > COUNT as usize);
    assert_same(&placed, &robin, "synthetic");
}

/// The event of an account that lives in partition 2.
fn event(call: &str, at_ms: i64) -> Vec<u8> {
    let account = (0..1_000)
        .map(|n| format!("a{n}"))
        .find(|a| partition_of(a, COUNT) == 2);
    pb::CallEvent {
        account_id: account.expect("one"),
        call_id: call.to_owned(),
        phase: pb::Phase::Ended.into(),
        occurred_at: Some(timestamp(at_ms)),
        end: Some(pb::Termination {
            cause: pb::Cause::Completed.into(),
            ..pb::Termination::default()
        }),
        ..pb::CallEvent::default()
    }
    .encode_to_vec()
}

fn records(log: &dyn Log, partition: u32) -> Vec<(Option<Forwarded>, Vec<u8>)> {
    let mut batch = Batch::default();
    log.poll(partition, 1, usize::MAX, &mut batch).expect("polled");
    let all = batch.iter();
    all.map(|r| (r.headers.forwarded, r.bytes.to_vec())).collect()
}

#[test]
fn what_was_forwarded_says_where_it_was_found() {
    let mut partitions = Partitions::new(Source::Append, START);
    let bytes = event("c", START);
    partitions.log.set_now(START + 7);
    let record = NewRecord::new(Kind::Event, bytes.clone());
    partitions.log.append(1, vec![record]).expect("appended");
    partitions.fold(1);
    let found = Forwarded {
        partition: 1,
        offset: 1,
        append_ms: START + 7,
    };
    assert_eq!(records(&partitions.log, 2), [(Some(found), bytes)]);
    let machine = &partitions.host.partitions[1].machine;
    // Its time counts where it was found, too; nothing else does.
    assert_eq!(machine.clock.now, Some(START + 7));
    assert_eq!((machine.counters.events, machine.counters.forwarded), (0, 1));
    assert_eq!((machine.accounts.len(), machine.calls.open()), (0, 0));
    partitions.fold_all();
    assert_eq!(partitions.host.partitions[2].machine.counters.events, 1);
    assert!(partitions.rejects().is_empty());
}

#[test]
fn a_second_hop_is_refused() {
    let mut partitions = Partitions::new(Source::Append, START);
    let record = NewRecord {
        forwarded: Forwarded::parse("0:9:1790000000000"),
        ..NewRecord::new(Kind::Event, event("c", START))
    };
    let unreadable = NewRecord {
        bytes: [&record.bytes[..], &[0xff]].concat(),
        ..record.clone()
    };
    partitions.log.append(3, vec![record, unreadable]).expect("appended");
    partitions.fold_all();
    let reasons: Vec<_> = partitions
        .rejects()
        .into_iter()
        .map(|r| (r.partition, r.reason))
        .collect();
    let wrong = (3, "wrong_partition".to_owned());
    assert_eq!(reasons, [wrong.clone(), wrong]);
    assert_eq!(partitions.forwarded(), 0);
}

#[test]
fn the_owner_alone_rejects() {
    let mut partitions = Partitions::new(Source::Append, START);
    let bad = event("c\n", START);
    let unreadable = [&event("c", START)[..], &[0xff]].concat();
    let too_late = event("c", START - 100 * 86_400_000);
    let nobodys = vec![0xff];
    let json = br#"{"account_id": "a", "phase": 77}"#.to_vec();
    for bytes in [&bad, &unreadable, &too_late, &nobodys, &json] {
        let record = NewRecord::new(Kind::Event, bytes.clone());
        partitions.log.append(1, vec![record]).expect("appended");
    }
    partitions.fold_all();
    let mut found: Vec<_> = partitions
        .rejects()
        .into_iter()
        .map(|r| (r.partition, r.reason, r.record))
        .collect();
    found.sort();
    let home = partition_of("a", COUNT);
    let mut expected = vec![
        (2, "bad_id".to_owned(), bad),
        (2, "undecodable".to_owned(), unreadable),
        (2, "too_late".to_owned(), too_late),
        (1, "undecodable".to_owned(), nobodys),
        (home, "missing_field".to_owned(), json),
    ];
    expected.sort();
    assert_eq!(found, expected);
    assert!(partitions.host.partitions.iter().all(|p| p.machine.accounts.is_empty()));
}

#[test]
fn how_far_ahead_an_event_is_was_decided_when_it_first_came() {
    const MINUTE: i64 = 60_000;
    for (ahead, rejected) in [(5 * MINUTE, false), (5 * MINUTE + 1, true)] {
        let mut partitions = Partitions::new(Source::Append, START);
        let record = NewRecord::new(Kind::Event, event("c", START + ahead));
        partitions.log.append(1, vec![record]).expect("appended");
        // By the time it is forwarded its time has come.
        partitions.log.set_now(START + 20 * MINUTE);
        partitions.fold_all();
        let reasons: Vec<_> = partitions.rejects().into_iter().map(|r| r.reason).collect();
        assert_eq!(reasons, if rejected { vec!["ahead"] } else { vec![] });
    }
}

/// A log whose broker takes no forwarded events for now.
struct Unwilling {
    log: MemoryLog,
    unwilling: AtomicBool,
}

impl Log for Unwilling {
    fn identity(&self) -> &Identity {
        self.log.identity()
    }
    fn start(&self, partition: u32) -> Result<u64, LogError> {
        self.log.start(partition)
    }
    fn end(&self, partition: u32) -> Result<u64, LogError> {
        self.log.end(partition)
    }
    fn poll(&self, partition: u32, from: u64, max_bytes: usize, batch: &mut Batch) -> Result<(), LogError> {
        self.log.poll(partition, from, max_bytes, batch)
    }
    fn append_placed(&self, records: Vec<(Place, NewRecord)>) -> Result<Vec<Receipt>, LogError> {
        if self.unwilling.load(Ordering::Relaxed) && records.iter().any(|(_, r)| r.forwarded.is_some()) {
            return Err(LogError::Storage {
                path: "broker".into(),
                cause: "unwilling".to_owned(),
            });
        }
        self.log.append_placed(records)
    }
    fn wait(&self, partition: u32, from: u64, timeout: Duration) -> Result<bool, LogError> {
        self.log.wait(partition, from, timeout)
    }
    fn append_outputs(&self, partition: u32, outputs: &[Output]) -> Result<(), LogError> {
        self.log.append_outputs(partition, outputs)
    }
    fn output_tail(&self, partition: u32, topic: Topic) -> Result<Tail, LogError> {
        self.log.output_tail(partition, topic)
    }
    fn read_outputs(&self, partition: u32, topic: Topic, after: u64, max: usize) -> Result<Vec<Output>, LogError> {
        self.log.read_outputs(partition, topic, after, max)
    }
    fn forwarded_below(&self, partition: u32) -> Result<u64, LogError> {
        self.log.forwarded_below(partition)
    }
    fn acknowledge(&self, partition: u32, below: u64) -> Result<(), LogError> {
        self.log.acknowledge(partition, below)
    }
    fn prune(&self, partition: u32, needed_from: u64, retention: Retention) -> Result<(), LogError> {
        self.log.prune(partition, needed_from, retention)
    }
}

#[test]
fn what_is_not_acknowledged_is_forwarded_after_a_crash_and_never_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let memory = MemoryLog::new(identity(Source::Append), START);
    let unwilling = Arc::new(Unwilling {
        log: memory.clone(),
        unwilling: AtomicBool::new(true),
    });
    let log: Arc<dyn Log> = Arc::clone(&unwilling) as Arc<dyn Log>;
    let some = |calls: &[&str]| -> Vec<NewRecord> {
        let record = |call: &&str| NewRecord::new(Kind::Event, event(call, START));
        calls.iter().map(record).collect()
    };
    memory.append(1, some(&["c", "d", "e"])).expect("appended");
    let mut partition = open(&log, 1, folder.path()).expect("opened");
    let stopped = partition.catch_up(|_| ()).expect_err("it can't forward");
    assert!(stopped.to_string().contains("unwilling"), "{stopped}");
    assert_eq!(
        memory.forwarded_below(1).expect("an offset"),
        1,
        "the genesis alone is acknowledged"
    );
    drop(partition);
    // Still not: opening fails, and nothing is lost.
    assert!(open(&log, 1, folder.path()).is_err());
    assert!(records(&memory, 2).is_empty());

    unwilling.unwilling.store(false, Ordering::Relaxed);
    let mut partition = open(&log, 1, folder.path()).expect("opened");
    let offsets = || {
        records(&memory, 2)
            .iter()
            .map(|r| r.0.expect("forwarded").offset)
            .collect::<Vec<_>>()
    };
    assert_eq!(offsets(), [1, 2, 3]);
    partition.finish().expect("finished");
    drop(partition);
    assert_eq!(memory.forwarded_below(1).expect("an offset"), 4);

    // The rows are gone; and a store that folds all of it anew forwards nothing below, but what comes after.
    drop(open(&log, 1, folder.path()).expect("opened"));
    memory.append(1, some(&["f"])).expect("appended");
    let again = tempfile::tempdir().expect("a folder");
    let mut partition = open(&log, 1, again.path()).expect("opened");
    partition.catch_up(|_| ()).expect("folded");
    assert_eq!(partition.machine.counters.forwarded, 4, "all of them are counted");
    assert_eq!(offsets(), [1, 2, 3, 4]);
    let mut home = open(&log, 2, again.path()).expect("opened");
    home.catch_up(|_| ()).expect("folded");
    assert_eq!(home.machine.counters.events, 4);
}

#[test]
fn a_store_that_was_behind_forwards_copies_that_change_nothing() {
    // The broker has lost what was acknowledged, or never had it: all are forwarded again.
    let mut partitions = Partitions::new(Source::Append, START);
    let records = ["c", "d"].map(|call| NewRecord::new(Kind::Event, event(call, START)));
    partitions.log.append(1, records.to_vec()).expect("appended");
    partitions.fold_all();
    let before = partitions.host.partitions[2].usage(None).expect("usage");
    let copies = records.map(|record| NewRecord {
        forwarded: Forwarded::parse("1:1:1790000000000"),
        ..record
    });
    partitions.log.append(2, copies.to_vec()).expect("appended");
    partitions.fold_all();
    let machine = &partitions.host.partitions[2].machine;
    assert_eq!((machine.counters.events, machine.counters.copies), (4, 2));
    assert_eq!(partitions.host.partitions[2].usage(None).expect("usage"), before);
    assert!(partitions.rejects().is_empty());
}

#[test]
fn the_embedded_log_takes_each_but_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let now = chrono::Utc::now().timestamp_millis();
    let local = LocalLog::create(&folder.path().join("log"), &identity(Source::Append), wall_clock()).expect("made");
    let log: Arc<dyn Log> = Arc::new(local);
    let record = |call| NewRecord::new(Kind::Event, event(call, now));
    log.append(1, vec![record("c"), record("d")]).expect("appended");
    for fold in 0..3 {
        let store = folder.path().join(fold.to_string());
        let mut partition = open(&log, 1, &store).expect("opened");
        partition.catch_up(|_| ()).expect("folded");
        partition.close().expect("closed");
    }
    assert_eq!(log.forwarded_below(1).expect("an offset"), 3);
    let found: Vec<_> = records(log.as_ref(), 2)
        .into_iter()
        .map(|r| r.0.expect("forwarded").offset)
        .collect();
    assert_eq!(found, [1, 2]);
}

#[test]
fn a_store_keeps_the_operators_keys_and_a_false_genesis_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ops, next) = (signer("ops", 1), signer("next", 2));
    let genesis = |by: &reckon::wire::signature::Signer| -> Vec<NewRecord> {
        (0..COUNT)
            .map(|partition| {
                let genesis = pb::Genesis {
                    log_id: "test".to_owned(),
                    partition,
                    partition_count: COUNT,
                    keys: vec![ops.operator_key()],
                    ..pb::Genesis::default()
                };
                let bytes = genesis.encode_to_vec();
                NewRecord {
                    signature: Some(by.sign("test", &bytes)),
                    ..NewRecord::new(Kind::Genesis, bytes)
                }
            })
            .collect()
    };
    let forged: Arc<dyn Log> = Arc::new(MemoryLog::with_genesis(identity(Source::Append), START, genesis(&next)));
    let refused = open(&forged, 0, &folder.path().join("forged")).err().expect("refused");
    assert!(
        matches!(refused, PartitionError::BadGenesis { partition: 0, .. }),
        "{refused}"
    );

    let mut turned = genesis(&ops);
    turned.swap(0, 1);
    let turned: Arc<dyn Log> = Arc::new(MemoryLog::with_genesis(identity(Source::Append), START, turned));
    let refused = open(&turned, 0, &folder.path().join("turned")).err().expect("refused");
    assert!(refused.to_string().contains("that of partition 1 of 4"), "{refused}");

    let log: Arc<dyn Log> = Arc::new(MemoryLog::with_genesis(identity(Source::Append), START, genesis(&ops)));
    let change = pb::Control {
        id: "k-1".to_owned(),
        issued_at: Some(timestamp(START)),
        control_version: 1,
        body: Some(pb::control::Body::OperatorKeys(pb::OperatorKeys {
            add: vec![next.operator_key()],
            remove: vec!["ops".to_owned()],
        })),
        ..pb::Control::default()
    }
    .encode_to_vec();
    let record = NewRecord {
        signature: Some(ops.sign("test", &change)),
        ..NewRecord::new(Kind::Control, change)
    };
    log.broadcast(vec![record]).expect("appended");
    let mut partition = open(&log, 3, folder.path()).expect("opened");
    partition.catch_up(|_| ()).expect("folded");
    let authority = partition.machine.authority.clone();
    partition.close().expect("closed");
    let Authority::Signed { log_id, keys } = &authority else {
        panic!("signed");
    };
    assert_eq!(
        (log_id.as_str(), keys.keys().collect::<Vec<_>>()),
        ("test", vec![&"next".to_owned()])
    );
    let partition = open(&log, 3, folder.path()).expect("opened");
    assert_eq!(partition.machine.authority, authority);
}
