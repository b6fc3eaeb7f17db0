//! Partitions whose threads panic or are held up, on a log in memory.

use std::sync::mpsc::{Receiver, channel};

use super::super::Settings;
use super::super::live::ReadError;
use super::*;
use crate::log::memory::MemoryLog;
use crate::log::placement::partition_of;
use crate::log::{Identity, NewRecord, Place, Receipt, Retention};
use crate::machine::clock::Source;
use crate::machine::output::{Output, Tail, Topic};
use crate::store::rocks::Budget;
use crate::wire::record::Kind;

type Fallible = Result<(), Box<dyn std::error::Error>>;

const PATIENCE: Duration = Duration::from_secs(30);

/// What a partition's thread meets when it asks what was delivered: under the partition's lock, with a commit half made.
#[derive(Clone, Default)]
enum Meets {
    #[default]
    Answer,
    Panic,
    /// Brokers that take outputs only once it is let go; it tells when they are given some.
    Reluctance(Sender<()>, Arc<Mutex<Receiver<()>>>),
    /// Brokers that take no outputs.
    Refusal,
    /// Other partitions that take nothing, and a group that is told nothing.
    Others,
    /// Outputs that are delivered and not shown yet.
    Blindness,
    /// Tells that it is asked, and waits until it is let go.
    Silence(Sender<()>, Arc<Mutex<Receiver<()>>>),
}

/// A log in memory that misbehaves for partition 0.
struct Moody {
    log: MemoryLog,
    meets: Mutex<Meets>,
    /// When a partition was taken over.
    taken_over: Mutex<Vec<Instant>>,
}

impl Moody {
    fn answer(&self, is_met: impl FnOnce(&Meets) -> bool) -> Result<(), LogError> {
        if is_met(&self.meets.lock()) {
            return Err(LogError::Interrupted {
                partition: 0,
                doing: "a test",
                cause: "it isn't taken".to_owned(),
            });
        }
        Ok(())
    }
}

impl Log for Moody {
    fn take_over(&self, _: u32) -> Result<(), LogError> {
        self.taken_over.lock().push(Instant::now());
        Ok(())
    }

    fn acknowledge(&self, _: u32, _: u64) -> Result<(), LogError> {
        self.answer(|meets| matches!(meets, Meets::Others))
    }

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
        let forwarded = records.iter().any(|(_, record)| record.forwarded.is_some());
        self.answer(|meets| forwarded && matches!(meets, Meets::Others))?;
        self.log.append_placed(records)
    }

    fn wait(&self, partition: u32, from: u64, timeout: Duration) -> Result<bool, LogError> {
        self.log.wait(partition, from, timeout)
    }

    fn append_outputs(&self, partition: u32, outputs: &[Output]) -> Result<(), LogError> {
        self.answer(|meets| partition == 0 && !outputs.is_empty() && matches!(meets, Meets::Refusal))?;
        let meets = self.meets.lock().clone();
        if let Meets::Reluctance(asked, over) = meets
            && partition == 0
            && !outputs.is_empty()
        {
            let _ = asked.send(());
            let _ = over.lock().recv_timeout(PATIENCE);
        }
        self.log.append_outputs(partition, outputs)
    }

    fn output_tail(&self, partition: u32, topic: Topic) -> Result<Tail, LogError> {
        let meets = self.meets.lock().clone();
        match meets {
            Meets::Panic if partition == 0 => std::panic::panic_any("a number ran over".to_owned()),
            Meets::Silence(asked, over) if partition == 0 => {
                let _ = asked.send(());
                let _ = over.lock().recv_timeout(PATIENCE);
            }
            _ => {}
        }
        self.log.output_tail(partition, topic)
    }

    fn read_outputs(&self, partition: u32, topic: Topic, after: u64, max: usize) -> Result<Vec<Output>, LogError> {
        if matches!(*self.meets.lock(), Meets::Blindness) {
            return Ok(Vec::new());
        }
        self.log.read_outputs(partition, topic, after, max)
    }

    fn prune(&self, partition: u32, needed_from: u64, retention: Retention) -> Result<(), LogError> {
        self.log.prune(partition, needed_from, retention)
    }
}

struct Stage {
    folder: tempfile::TempDir,
    log: Arc<Moody>,
}

impl Stage {
    fn new() -> std::io::Result<Self> {
        let identity = Identity {
            log_id: "moody".to_owned(),
            partition_count: 2,
            source: Source::Ticks,
        };
        let log = Arc::new(Moody {
            log: MemoryLog::new(identity, 1_788_220_800_000),
            meets: Mutex::default(),
            taken_over: Mutex::default(),
        });
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("store"))?;
        Ok(Self { folder, log })
    }

    fn opening(&self) -> Opening {
        Opening {
            log: Arc::clone(&self.log) as Arc<dyn Log>,
            data: self.folder.path().to_owned(),
            budget: Budget::new(8 << 20, 8 << 20),
            settings: Settings {
                commit_events: 16,
                ..Settings::default()
            },
        }
    }

    fn live(&self) -> Vec<Arc<Live>> {
        let live = |number| Arc::new(Live::new(number, Arc::clone(&self.log) as Arc<dyn Log>));
        (0..2).map(live).collect()
    }

    fn folds(&self) -> (Arc<Folds>, Receiver<Told>) {
        let (taken, told) = channel();
        (Arc::new(Folds::new(self.opening(), self.live(), taken)), told)
    }

    /// The same, with partition 0 taken over.
    fn begun(&self) -> Result<(Arc<Folds>, Receiver<Told>), Box<dyn std::error::Error>> {
        let (folds, told) = self.folds();
        folds.begin(0)?;
        told.recv_timeout(PATIENCE)?;
        Ok((folds, told))
    }

    /// Something to reject, which is an output.
    fn garbage(&self) -> Result<(), LogError> {
        let records = (0..2).map(|p| (Place::One(p), NewRecord::new(Kind::Event, b"garbage".to_vec())));
        self.log.append_placed(records.collect()).map(drop)
    }

    fn meet(&self, meets: Meets) {
        *self.log.meets.lock() = meets;
    }

    /// Hears when it is met, and lets go of it.
    fn meet_until_let_go(
        &self,
        meets: impl FnOnce(Sender<()>, Arc<Mutex<Receiver<()>>>) -> Meets,
    ) -> (Receiver<()>, Sender<()>) {
        let (asked, is_asked) = channel();
        let (let_go, over) = channel();
        self.meet(meets(asked, Arc::new(Mutex::new(over))));
        (is_asked, let_go)
    }

    fn rejects(&self, partition: u32) -> usize {
        let rejects = self.log.read_outputs(partition, Topic::Rejects, 0, 10);
        rejects.map_or(0, |outputs| outputs.len())
    }
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_panic_halts_its_partition_and_no_other() -> Fallible {
    let stage = Stage::new()?;
    let (folds, told) = stage.folds();
    for number in 0..2 {
        folds.begin(number)?;
        told.recv_timeout(PATIENCE)?;
    }
    stage.meet(Meets::Panic);
    stage.garbage()?;
    eventually("halted", || folds.halted().contains_key(&0));
    assert!(folds.halted()[&0].contains("a number ran over"), "{:?}", folds.halted());
    assert!(!folds.partitions[0].is_served());
    assert!(folds.partitions[0].read(|_| ()).is_err());
    eventually("the other one goes on", || stage.rejects(1) == 1);
    assert!(folds.partitions[1].is_served() && !folds.halted().contains_key(&1));
    // The group takes it: nobody waits for a thread that is gone.
    let began = Instant::now();
    folds.give_up(&[0]);
    assert!(began.elapsed() < REVOKE_WAIT);
    assert_eq!(stage.rejects(0), 0);
    // Given again, it is folded from what was committed, and nothing is missing or twice.
    stage.meet(Meets::Answer);
    folds.begin(0)?;
    told.recv_timeout(PATIENCE)?;
    eventually("its output", || stage.rejects(0) == 1);
    assert!(folds.halted().is_empty());
    stage.garbage()?;
    eventually("the next ones", || stage.rejects(0) == 2 && stage.rejects(1) == 2);
    folds.end_all();
    Ok(())
}

#[test]
fn nobody_reads_what_a_panic_left_half_done() -> Fallible {
    let stage = Stage::new()?;
    let opening = stage.opening();
    let live = Live::new(0, Arc::clone(&stage.log) as Arc<dyn Log>);
    live.serve(opening.open(0)?)?;
    stage.meet(Meets::Panic);
    stage.garbage()?;
    let folded = live.fold(&Stop::default());
    assert!(matches!(folded, Err(PartitionError::Panicked { partition: 0, .. })));
    assert!(!live.is_served());
    assert!(matches!(live.read(|_| ()), Err(ReadError::NotServed { partition: 0 })));
    Ok(())
}

#[test]
fn whoever_asks_whether_a_partition_is_served_waits_for_no_lock() -> Fallible {
    let stage = Stage::new()?;
    let (folds, _told) = stage.begun()?;
    let (is_asked, let_go) = stage.meet_until_let_go(Meets::Silence);
    stage.garbage()?;
    // Its commit holds the lock now.
    is_asked.recv_timeout(PATIENCE)?;
    let (answer, answered) = channel();
    let live = Arc::clone(&folds.partitions[0]);
    std::thread::spawn(move || answer.send(live.is_served()));
    assert_eq!(answered.recv_timeout(Duration::from_secs(10)), Ok(true));
    stage.meet(Meets::Answer);
    let_go.send(())?;
    eventually("its output", || stage.rejects(0) == 1);
    folds.end_all();
    Ok(())
}

#[test]
fn stores_of_partitions_that_were_ours_are_opened_before_the_group_has_spoken() -> Fallible {
    let stage = Stage::new()?;
    let (folds, _told) = stage.begun()?;
    stage.garbage()?;
    eventually("its output", || stage.rejects(0) == 1);
    folds.end_all();
    let (folds, told) = stage.folds();
    folds.open_early();
    assert_eq!(folds.early.numbers(), [0]);
    for number in 0..2 {
        folds.begin(number)?;
        told.recv_timeout(PATIENCE)?;
    }
    eventually("the other's output", || stage.rejects(1) == 1);
    assert_eq!(stage.rejects(0), 1);
    assert!(folds.early.numbers().is_empty());
    folds.end_all();
    Ok(())
}

#[test]
fn what_is_folded_while_brokers_take_their_time_is_seen_but_not_without_end() -> Fallible {
    let stage = Stage::new()?;
    let (folds, _told) = stage.begun()?;
    let (is_asked, let_go) = stage.meet_until_let_go(Meets::Reluctance);
    stage.garbage()?;
    is_asked.recv_timeout(PATIENCE)?;
    // A transaction is on its way, for as long as the brokers like. What comes meanwhile is folded and committed.
    let live = &folds.partitions[0];
    let before = live.standing().next_offset;
    stage.garbage()?;
    eventually("folded beside it", || live.standing().next_offset > before);
    eventually("committed beside it", || {
        live.read(|p| !p.has_uncommitted() && p.undelivered() == 2)
            .is_ok_and(|is| is)
    });
    assert_eq!(stage.rejects(0), 0);
    // Rejects keep their records' bytes, up to 64 KiB: more of them than may wait.
    const LARGE: usize = 600;
    let record = NewRecord::new(Kind::Event, vec![0xff; 80 << 10]);
    let appended = stage.log.append(0, vec![record; LARGE])?;
    let end = appended.last().map_or(0, |receipt| receipt.offset + 1);
    // Nobody tells that the fold waits: it is seen by its standing still.
    let (mut at, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_millis(500) && at < end {
        let now = live.standing().next_offset;
        if now != at {
            (at, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(
        at < end && live.read(Partition::undelivered)? < LARGE,
        "folded to {at} of {end}"
    );
    // Once they take it, all of it goes out.
    stage.meet(Meets::Answer);
    drop(let_go);
    eventually("all is out", || {
        stage
            .log
            .output_tail(0, Topic::Rejects)
            .is_ok_and(|tail| tail.sequence == 602)
    });
    let sequences = stage
        .log
        .read_outputs(0, Topic::Rejects, 0, 1_000)?
        .into_iter()
        .map(|o| o.sequence);
    assert_eq!(sequences.collect::<Vec<_>>(), (1..=602).collect::<Vec<_>>());
    folds.end_all();
    Ok(())
}

#[test]
fn outputs_that_are_out_take_no_outbox_when_a_partition_is_folded_anew() -> Fallible {
    let stage = Stage::new()?;
    let settings = || Settings {
        commit_events: 1,
        ..Settings::default()
    };
    let open = |name: &str| {
        let folder = stage.folder.path().join(name);
        Partition::open(
            Arc::clone(&stage.log) as Arc<dyn Log>,
            0,
            &folder,
            &Budget::new(8 << 20, 8 << 20),
            settings(),
        )
    };
    for _ in 0..3 {
        stage.garbage()?;
    }
    let mut first = open("first")?;
    first.catch_up(|_| ())?;
    first.close()?;
    assert_eq!(stage.rejects(0), 3);
    // Another store beside the same log: two of the three are decided and committed, and nothing waits to go out again.
    let mut again = open("again")?;
    let mut batch = Batch::default();
    stage
        .log
        .poll(0, again.machine.position.next_offset, 1 << 20, &mut batch)?;
    again.fold_next(&batch, 0, 2)?;
    again.commit()?;
    assert_eq!(
        (
            again.machine.outputs.tails[Topic::Rejects as usize].sequence,
            again.undelivered()
        ),
        (2, 0)
    );
    again.catch_up(|_| ())?;
    stage.garbage()?;
    again.catch_up(|_| ())?;
    assert_eq!(stage.rejects(0), 4);
    again.close()?;
    Ok(())
}

/// An account that lives in a partition.
fn account_in(partition: u32) -> String {
    (0..)
        .map(|n| format!("account-{n}"))
        .take(1_000)
        .find(|account| partition_of(account, 2) == partition)
        .unwrap_or_default()
}

fn ended(account: &str) -> NewRecord {
    let event = serde_json::json!({"account_id": account, "call_id": "c", "phase": "ended",
        "occurred_at": "2026-09-10T00:00:00Z", "end": {"cause": "completed"}});
    NewRecord::new(Kind::Event, event.to_string().into_bytes())
}

#[test]
fn what_others_do_not_take_holds_nothing_back() -> Fallible {
    let stage = Stage::new()?;
    let (folds, _told) = stage.begun()?;
    stage.meet(Meets::Others);
    stage.log.append(0, vec![ended(&account_in(1))])?;
    let home = stage.log.end(1)?;
    stage.garbage()?;
    eventually("its output", || stage.rejects(0) == 1);
    // It is out, its partition is the same one's, and the event still waits.
    let live = &folds.partitions[0];
    eventually("all is committed", || {
        live.read(|p| !p.has_uncommitted() && p.undelivered() == 0)
            .is_ok_and(|is| is)
    });
    assert_eq!(stage.log.taken_over.lock().len(), 1);
    assert_eq!(stage.log.end(1)?, home + 1, "the garbage alone");
    // At the end it is tried once more, whatever its time.
    stage.meet(Meets::Answer);
    folds.end_all();
    assert_eq!(stage.log.end(1)?, home + 2);
    Ok(())
}

#[test]
fn what_fails_at_once_is_not_taken_over_at_once() -> Fallible {
    let stage = Stage::new()?;
    let (folds, _told) = stage.begun()?;
    stage.meet(Meets::Refusal);
    stage.garbage()?;
    let taken_over = &stage.log.taken_over;
    eventually("taken over anew, and anew", || taken_over.lock().len() >= 4);
    let waits: Vec<Duration> = taken_over.lock().windows(2).map(|pair| pair[1] - pair[0]).collect();
    let least = [100, 200, 400].map(Duration::from_millis);
    assert!(waits.iter().zip(least).all(|(wait, least)| *wait >= least), "{waits:?}");
    stage.meet(Meets::Answer);
    eventually("its output", || stage.rejects(0) == 1);
    folds.end_all();
    Ok(())
}

#[test]
fn nothing_is_begun_after_the_end() -> Fallible {
    let stage = Stage::new()?;
    let (folds, told) = stage.begun()?;
    folds.end_all();
    // The group gives more before it is left.
    folds.begin(1)?;
    assert!(folds.owned.lock().is_empty());
    assert!(told.try_recv().is_err() && !folds.partitions[1].is_served());
    Ok(())
}

#[test]
fn a_statement_that_is_delivered_and_not_shown_yet_is_no_missing_one() -> Fallible {
    let stage = Stage::new()?;
    let (folds, _told) = stage.begun()?;
    let (live, account) = (&folds.partitions[0], account_in(0));
    let tick = |day: i64| {
        NewRecord::new(
            Kind::Tick,
            crate::log::appender::tick(1_788_220_800_000 + day * 86_400_000),
        )
    };
    stage.log.append(0, vec![tick(9), ended(&account), tick(35)])?;
    let statements = || {
        stage
            .log
            .output_tail(0, Topic::Statements)
            .map_or(0, |tail| tail.sequence)
    };
    eventually("its statement", || statements() >= 1);
    // With the next commit its outbox row goes.
    stage.log.append(0, vec![tick(36)])?;
    let end = stage.log.end(0)?;
    eventually("the next commit", || {
        live.read(|p| p.committed.next_offset == end && p.delivered.is_empty())
            .is_ok_and(|is| is)
    });
    let month = Some("2026-09".parse()?);
    stage.meet(Meets::Blindness);
    assert!(matches!(
        live.statement(&account, month),
        Err(ReadError::NotServed { partition: 0 })
    ));
    stage.meet(Meets::Answer);
    assert!(live.statement(&account, month)?.is_some());
    folds.end_all();
    Ok(())
}
