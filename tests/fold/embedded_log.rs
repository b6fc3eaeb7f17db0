//! The embedded log and the stores: what is durable stays, what is torn is cut off, what is damaged or foreign is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use reckon::log::local::{LocalLog, WallClock};
use reckon::log::memory::MemoryLog;
use reckon::log::{Batch, Identity, Log, LogError, NewRecord, Place, Retention};
use reckon::machine::clock::Source;
use reckon::machine::output::{Output, Tail, Topic};
use reckon::partition::worker::Partition;
use reckon::partition::{PartitionError, Settings};
use reckon::store::keys::{Meta, meta};
use reckon::store::rocks::{Budget, StoreError};
use reckon::wire::record::Kind;

fn identity(log_id: &str) -> Identity {
    Identity {
        log_id: log_id.to_owned(),
        partition_count: 2,
        source: Source::Append,
    }
}

fn clock(now: &Arc<AtomicI64>) -> WallClock {
    let now = Arc::clone(now);
    Arc::new(move || now.load(Ordering::Relaxed))
}

fn fixed() -> WallClock {
    clock(&Arc::new(AtomicI64::new(1_790_000_000_000)))
}

fn records(n: usize, bytes: usize) -> Vec<NewRecord> {
    (0..n)
        .map(|i| NewRecord::new(Kind::Event, vec![i as u8; bytes]))
        .collect()
}

fn all(log: &LocalLog, partition: u32) -> Vec<(u64, usize)> {
    let (mut batch, mut found) = (Batch::default(), Vec::new());
    let mut next = log.start(partition).expect("a start");
    while next < log.end(partition).expect("an end") {
        log.poll(partition, next, 1_000, &mut batch).expect("polled");
        for record in batch.iter() {
            assert_eq!(record.offset, next, "gapless");
            found.push((record.offset, record.bytes.len()));
            next += 1;
        }
    }
    found
}

/// The newest write-ahead log of a RocksDB.
fn write_ahead_log(folder: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|f| f.expect("a file").path())
        .filter(|p| p.extension().is_some_and(|e| e == "log"))
        .filter(|p| std::fs::metadata(p).is_ok_and(|m| m.len() > 0))
        .collect();
    files.sort();
    files.pop().expect("a write-ahead log")
}

/// A log with twenty appends whose files are as a crash leaves them.
fn crashed(folder: &Path) -> PathBuf {
    let path = folder.join("log");
    let log = LocalLog::create(&path, &identity("a"), fixed()).expect("made");
    for _ in 0..20 {
        log.append(0, records(3, 200)).expect("appended");
    }
    let copy = folder.join("crashed");
    std::fs::create_dir_all(&copy).expect("a folder");
    for file in std::fs::read_dir(&path).expect("files") {
        let file = file.expect("a file");
        if file.file_name() != "LOCK" {
            std::fs::copy(file.path(), copy.join(file.file_name())).expect("copied");
        }
    }
    copy
}

#[test]
fn what_is_acknowledged_is_there_after_a_crash() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = LocalLog::open(&crashed(folder.path()), fixed()).expect("opens");
    assert_eq!(all(&log, 0).len(), 61);
    assert_eq!(all(&log, 1).len(), 1);
    assert_eq!(log.identity(), &identity("a"));
}

#[test]
fn a_torn_tail_is_cut_off() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = crashed(folder.path());
    let file = write_ahead_log(&path);
    let len = std::fs::metadata(&file).expect("its size").len();
    let open = std::fs::OpenOptions::new().write(true).open(&file).expect("opens");
    open.set_len(len - 100).expect("cut");
    let log = LocalLog::open(&path, fixed()).expect("opens");
    // The last append is torn; the nineteen before it are whole.
    assert_eq!(all(&log, 0).len(), 58);
    log.append(0, records(1, 5)).expect("goes on");
    assert_eq!(all(&log, 0).last(), Some(&(58, 5)));
}

#[test]
fn damage_before_the_tail_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = crashed(folder.path());
    let file = write_ahead_log(&path);
    let mut bytes = std::fs::read(&file).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    std::fs::write(&file, bytes).expect("written");
    let refused = LocalLog::open(&path, fixed()).err().expect("refused").to_string();
    assert!(
        refused.contains("crashed") && refused.to_lowercase().contains("corrupt"),
        "{refused}"
    );
}

#[test]
fn retention_goes_by_size_and_age_and_never_past_what_is_needed() {
    let folder = tempfile::tempdir().expect("a folder");
    let now = Arc::new(AtomicI64::new(1_000_000));
    let log = LocalLog::create(&folder.path().join("log"), &identity("a"), clock(&now)).expect("made");
    for _ in 0..10 {
        log.append(0, records(2, 1_000)).expect("appended");
        now.fetch_add(1_000, Ordering::Relaxed);
    }
    let by_size = |bytes| Retention {
        bytes: Some(bytes),
        age_ms: None,
    };
    log.prune(0, 5, by_size(1)).expect("pruned");
    // Offset 5 is the first of its batch.
    assert_eq!(log.start(0).expect("a start"), 5);
    log.prune(0, 21, by_size(5_000)).expect("pruned");
    assert_eq!(log.start(0).expect("a start"), 17);
    let by_age = Retention {
        bytes: None,
        age_ms: Some(1_500),
    };
    log.prune(0, 21, by_age).expect("pruned");
    assert_eq!(log.start(0).expect("a start"), 19);
    assert_eq!(all(&log, 0).len(), 2);
    assert!(matches!(
        log.poll(0, 18, 100, &mut Batch::default()),
        Err(LogError::HistoryLost {
            start: 19,
            wanted: 18,
            ..
        })
    ));
}

#[test]
fn what_a_log_weighs_is_kept_with_it_and_measured_where_it_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let retention = Retention {
        bytes: Some(5_000),
        age_ms: None,
    };
    let log = LocalLog::create(&path, &identity("a"), fixed()).expect("made");
    for _ in 0..10 {
        log.append(0, records(2, 1_000)).expect("appended");
    }
    // While it is held, as for a backup, nothing goes; nor ever the last batch.
    let held = log.hold();
    log.prune(0, 21, retention).expect("later");
    assert_eq!(log.start(0).expect("a start"), 0);
    drop(held);
    log.prune(0, 21, retention).expect("pruned");
    assert_eq!(log.start(0).expect("a start"), 17);
    drop(log);
    let log = LocalLog::open(&path, fixed()).expect("opens");
    log.append(0, records(2, 1_000)).expect("appended");
    log.prune(0, 23, retention).expect("pruned");
    assert_eq!(log.start(0).expect("a start"), 19);
    drop(log);
    // As it was written before weights were kept.
    let db =
        rocksdb::DB::open_cf(&rocksdb::Options::default(), &path, ["default", "records", "outputs"]).expect("opens");
    for name in ["appended", "removed"] {
        db.delete([name.as_bytes(), &[0; 4]].concat()).expect("removed");
    }
    drop(db);
    let log = LocalLog::open(&path, fixed()).expect("opens");
    log.prune(0, 23, retention).expect("nothing to do");
    assert_eq!(log.start(0).expect("a start"), 19);
    log.append(0, records(2, 1_000)).expect("appended");
    log.prune(0, 25, retention).expect("pruned");
    assert_eq!(log.start(0).expect("a start"), 21);
    log.prune(
        0,
        25,
        Retention {
            bytes: Some(1),
            age_ms: None,
        },
    )
    .expect("pruned");
    assert_eq!(all(&log, 0).len(), 2);
}

#[test]
fn outputs_are_taken_once_in_order_and_unchanged() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = LocalLog::create(&folder.path().join("log"), &identity("a"), fixed()).expect("made");
    let mut tail = Tail::default();
    let outputs: Vec<Output> = (0..5u8)
        .map(|n| {
            tail = tail.next(Topic::Statements, &[n]);
            Output {
                topic: Topic::Statements,
                sequence: tail.sequence,
                chain: tail.chain,
                body: vec![n],
            }
        })
        .collect();
    log.append_outputs(1, &outputs[..3]).expect("delivered");
    log.append_outputs(1, &outputs[1..]).expect("two again, two more");
    assert_eq!(log.read_outputs(1, Topic::Statements, 0, 99).expect("read"), outputs);
    assert_eq!(
        log.read_outputs(1, Topic::Statements, 3, 1).expect("read"),
        outputs[3..4]
    );
    assert!(log.read_outputs(0, Topic::Statements, 0, 99).expect("read").is_empty());
    let gap = Output {
        sequence: 9,
        ..outputs[4].clone()
    };
    assert!(matches!(log.append_outputs(1, &[gap]), Err(LogError::OutputGap { .. })));
    let other = Output {
        chain: 1,
        ..outputs[2].clone()
    };
    assert!(matches!(
        log.append_outputs(1, &[other]),
        Err(LogError::OutputDiffers { .. })
    ));
}

fn open_store(log: &Arc<LocalLog>, path: &Path) -> Result<Partition, PartitionError> {
    let log = Arc::clone(log) as Arc<dyn Log>;
    Partition::open(log, 0, path, &Budget::new(1 << 20, 16 << 20), Settings::default())
}

#[test]
fn a_store_that_does_not_fit_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = |name: &str| {
        let path = folder.path().join(name);
        Arc::new(LocalLog::create(&path, &identity(name), fixed()).expect("made"))
    };
    let (first, second) = (made("first"), made("second"));
    first.append(0, records(9, 10)).expect("appended");
    let store = folder.path().join("store");
    let mut partition = open_store(&first, &store).expect("opens");
    partition.catch_up(|_| ()).expect("folded");
    partition.finish().expect("finished");
    // Locked.
    let locked = open_store(&first, &store).err().expect("refused");
    assert!(
        matches!(locked, PartitionError::Store(StoreError::Locked { .. })),
        "{locked}"
    );
    assert!(LocalLog::open(&folder.path().join("first"), fixed()).is_err_and(|e| matches!(e, LogError::Locked { .. })));
    // Another version.
    let versions = partition
        .rocks
        .get(&meta(Meta::Versions))
        .expect("a row")
        .expect("there");
    partition
        .rocks
        .db
        .put(meta(Meta::Versions), [versions[0], 99])
        .expect("put");
    drop(partition);
    let refused = open_store(&first, &store).err().expect("refused").to_string();
    assert!(
        refused.contains("fold version 99") && refused.contains("remove the store"),
        "{refused}"
    );
    // Another log.
    let store = folder.path().join("other");
    open_store(&second, &store).expect("opens").finish().expect("finished");
    let refused = open_store(&first, &store).err().expect("refused").to_string();
    assert!(
        refused.contains("\"second\"") && refused.contains("\"first\""),
        "{refused}"
    );
}

#[test]
fn a_log_that_was_cut_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("log");
    let log = Arc::new(LocalLog::create(&path, &identity("a"), fixed()).expect("made"));
    log.append(0, records(9, 10)).expect("appended");
    let store = folder.path().join("store");
    let mut partition = open_store(&log, &store).expect("opens");
    partition.catch_up(|_| ()).expect("folded");
    partition.close().expect("closed");
    drop(log);
    std::fs::remove_dir_all(&path).expect("removed");
    let shorter = Arc::new(LocalLog::create(&path, &identity("a"), fixed()).expect("made"));
    let refused = open_store(&shorter, &store).err().expect("refused");
    assert!(
        matches!(
            refused,
            PartitionError::Log(LogError::Truncated { end: 1, wanted: 10, .. })
        ),
        "{refused}"
    );
}

#[test]
fn records_of_several_partitions_are_one_write_in_both_logs() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = LocalLog::create(folder.path(), &identity("l"), fixed()).expect("created");
    let memory = MemoryLog::new(identity("l"), 1_790_000_000_000);
    let places = [Place::One(1), Place::All, Place::One(0), Place::One(1)];
    let placed = |n: usize| places.into_iter().zip(records(4, n)).collect::<Vec<_>>();
    for bytes in [10, 20] {
        let (own, other) = (local.append_placed(placed(bytes)), memory.append_placed(placed(bytes)));
        assert_eq!(own.expect("appended"), other.expect("appended"));
    }
    assert_eq!(
        all(&local, 0),
        [(0, all(&local, 0)[0].1), (1, 10), (2, 10), (3, 20), (4, 20)]
    );
    assert_eq!(all(&local, 1).len(), 7);
    // One wrong place, and nothing is written.
    let mut wrong = placed(30);
    wrong.push((Place::One(2), records(1, 1).remove(0)));
    for log in [&local as &dyn Log, &memory] {
        let refused = log.append_placed(wrong.clone());
        assert!(matches!(refused, Err(LogError::NoPartition { partition: 2, count: 2 })));
        assert_eq!((log.end(0).expect("an end"), log.end(1).expect("an end")), (5, 7));
    }
}

#[test]
fn an_append_that_panics_keeps_no_other_one_waiting() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(LocalLog::create(folder.path(), &identity("a"), fixed()).expect("made"));
    let panics = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&panics);
    let clock: WallClock = Arc::new(move || {
        assert!(!told.swap(false, Ordering::Relaxed), "a clock that fails once");
        1_790_000_000_000
    });
    let log = LocalLog::open(folder.path(), clock).expect("opened");
    let first = std::thread::scope(|scope| scope.spawn(|| log.append(0, records(1, 10))).join());
    assert!(first.is_err(), "it has panicked");
    assert!(!panics.load(Ordering::Relaxed));
    let receipts = log.append(0, records(2, 10)).expect("the next one goes on");
    assert_eq!(receipts[0].offset, 1, "nothing was written");
    assert_eq!(all(&log, 0).len(), 3);
}

#[test]
fn appends_of_many_threads_are_all_told_and_wake_who_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = LocalLog::create(folder.path(), &identity("a"), fixed()).expect("made");
    std::thread::scope(|scope| {
        let waits = |partition: u32| {
            let log = &log;
            move || {
                let mut from = 1;
                while from < 401 {
                    assert!(log.wait(partition, from, Duration::from_secs(60)).expect("waited"));
                    from = log.end(partition).expect("an end");
                }
            }
        };
        let waiting = [scope.spawn(waits(0)), scope.spawn(waits(1))];
        for thread in 0..8 {
            let log = &log;
            scope.spawn(move || {
                for _ in 0..100 {
                    log.append(thread % 2, records(1, 10)).expect("appended");
                }
            });
        }
        for one in waiting {
            one.join().expect("all were seen");
        }
    });
    assert_eq!((all(&log, 0).len(), all(&log, 1).len()), (401, 401));
    assert!(!log.wait(0, 401, Duration::from_millis(1)).expect("waited"));
}
