//! The partitions of a shared log that are this instance's: a thread each, from its taking over to its letting go.
//!
//! ```text
//!          ┌ fence, barrier, tails ──────────────┐
//! assigned ┤                                     ├▶ compare ─▶ commit, emit, serve, fold
//!          └ open the store, fold it in memory ──┘
//! revoked  ─▶ fold and emit no more; only then the group is told ─▶ close the store
//! ```
//!
//! While a partition is taken over its store is opened and folded already, in memory alone: nothing is committed, emitted or read
//! before the five steps of [`crate::log::kafka::emitter`] are done, and if they say that the log or the outputs are others,
//! what was folded is thrown away.
//!
//! What interrupts a partition (a fenced or timed-out transaction, brokers that are away) makes it be taken over anew. What
//! can't be right (another record, an output that differs, history lost, a panic) halts it: it is served no more, says why, and is
//! looked at again now and then, for a leader may just have been stale. The other partitions go on.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::live::{Live, Stop};
use super::open::Stored;
use super::running::Opening;
use super::sharing::Told;
use super::worker::Partition;
use super::{PartitionError, host, instance};
use crate::log::{Batch, Log, LogError};

/// How long the group's taking of partitions waits for their folds to end. It is safe not to wait: their outputs are fenced.
const REVOKE_WAIT: Duration = Duration::from_secs(5);

/// How long a partition waits before it is taken over again, at first and at most.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long a halted partition waits before it is looked at again.
const HALTED_WAIT: Duration = Duration::from_secs(30);

/// How long a fold waits for records before it looks whether the partition is taken over.
const AHEAD_WAIT: Duration = Duration::from_millis(10);

/// How long stores that were opened early are kept for the group to give their partitions.
const EARLY_WAIT: Duration = Duration::from_secs(60);

/// One partition that is ours, or was.
struct Owned {
    stop: Stop,
    quiet: Quiet,
    thread: JoinHandle<()>,
}

/// Set once nothing more is folded or emitted.
#[derive(Clone, Default)]
struct Quiet(Arc<(Mutex<bool>, Condvar)>);

impl Quiet {
    fn set(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    fn wait_until(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        self.0.1.wait_while_for(&mut self.0.0.lock(), |quiet| !*quiet, left);
    }
}

/// However a thread ends.
struct SetAtEnd(Quiet);

impl Drop for SetAtEnd {
    fn drop(&mut self) {
        self.0.set();
    }
}

/// Stores that are opened before the group has spoken.
struct Early {
    since: Instant,
    stores: BTreeMap<u32, JoinHandle<Result<Stored, PartitionError>>>,
}

/// What the partitions' threads share.
pub(super) struct Folds {
    log: Arc<dyn Log>,
    opening: Opening,
    pub(super) partitions: Vec<Arc<Live>>,
    owned: Mutex<BTreeMap<u32, Owned>>,
    halted: Mutex<BTreeMap<u32, String>>,
    early: Mutex<Option<Early>>,
    /// Set at the end: what the group takes then is still ours after a restart.
    ending: AtomicBool,
    /// Told of each partition that was taken over.
    taken: Sender<Told>,
}

/// What a panic said.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|t| (*t).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no words".to_owned())
}

impl Folds {
    pub(super) fn new(opening: Opening, partitions: Vec<Arc<Live>>, taken: Sender<Told>) -> Self {
        Self {
            log: Arc::clone(&opening.log),
            opening,
            partitions,
            owned: Mutex::new(BTreeMap::new()),
            halted: Mutex::new(BTreeMap::new()),
            early: Mutex::new(None),
            ending: AtomicBool::new(false),
            taken,
        }
    }

    pub(super) fn data(&self) -> &PathBuf {
        &self.opening.data
    }

    /// Partitions that are halted, and why.
    pub(super) fn halted(&self) -> BTreeMap<u32, String> {
        self.halted.lock().clone()
    }

    /// Opens the stores of the partitions that were ours last, while the group is being joined: it mostly gives the same ones.
    pub(super) fn open_early(self: &Arc<Self>) {
        let there = |number: &u32| {
            (*number as usize) < self.partitions.len()
                && host::store_path(self.data(), *number).join("CURRENT").exists()
        };
        let last = instance::last_owned(self.data());
        let stores = last.into_iter().filter(there).filter_map(|number| {
            let folds = Arc::clone(self);
            let thread = std::thread::Builder::new().name(format!("load-{number}"));
            // What can't be opened early is opened late, and says then what is wrong.
            let thread = thread.spawn(move || folds.opening.load(number)).ok()?;
            Some((number, thread))
        });
        let stores = stores.collect();
        *self.early.lock() = Some(Early {
            since: Instant::now(),
            stores,
        });
    }

    /// Closes the stores that were opened early and that the group doesn't seem to give.
    pub(super) fn close_early(&self) {
        let old = self.early.lock().take_if(|early| early.since.elapsed() > EARLY_WAIT);
        drop(old);
    }

    /// Begins to fold a partition.
    pub(super) fn begin(self: &Arc<Self>, number: u32) -> std::io::Result<()> {
        let before = self.owned.lock().remove(&number);
        let (stop, quiet) = (Stop::default(), Quiet::default());
        let (folds, told, set_at_end) = (Arc::clone(self), stop.clone(), SetAtEnd(quiet.clone()));
        let thread = std::thread::Builder::new().name(format!("fold-{number}")).spawn(move || {
            // The one it had before closes its store first.
            if let Some(before) = before
                && before.thread.join().is_err()
            {
                tracing::error!(partition = number, "a partition's thread has panicked");
            }
            folds.follow(number, &told);
            folds.log.let_go(number);
            drop(set_at_end);
            folds.halted.lock().remove(&number);
            if let Some(partition) = folds.partitions[number as usize].take()
                && let Err(cause) = partition.close()
            {
                tracing::debug!(partition = number, %cause, "not everything could be put on disk; it is folded again next time");
            }
        })?;
        self.owned.lock().insert(number, Owned { stop, quiet, thread });
        self.remember();
        Ok(())
    }

    /// Folds and emits no more for these: returns when nothing goes out any more, or it has waited long enough.
    pub(super) fn give_up(&self, numbers: &[u32]) {
        let owned = self.owned.lock();
        let leaving = numbers.iter().filter_map(|p| owned.get(p));
        let quiet: Vec<_> = leaving
            .map(|owned| {
                owned.stop.set();
                owned.quiet.clone()
            })
            .collect();
        drop(owned);
        self.remember();
        let until = Instant::now() + REVOKE_WAIT;
        quiet.iter().for_each(|one| one.wait_until(until));
    }

    /// Notes which partitions are ours, for the next start.
    fn remember(&self) {
        if self.ending.load(Ordering::Acquire) {
            return;
        }
        let owned = self.owned.lock();
        let ours: Vec<u32> = owned
            .iter()
            .filter(|(_, one)| !one.stop.is_set())
            .map(|(number, _)| *number)
            .collect();
        if let Err(cause) = instance::remember_owned(self.data(), &ours) {
            tracing::debug!(%cause, "the next start won't know which stores to open early");
        }
        drop(owned);
    }

    /// Folds and emits nothing more; nobody waits for it.
    pub(super) fn stop_all(&self) {
        self.ending.store(true, Ordering::Release);
        self.owned.lock().values().for_each(|owned| owned.stop.set());
    }

    /// Ends every fold, and puts everything on disk.
    pub(super) fn end_all(&self) {
        self.stop_all();
        let owned = std::mem::take(&mut *self.owned.lock());
        for one in owned.into_values() {
            if one.thread.join().is_err() {
                tracing::error!("a partition's thread has panicked");
            }
        }
        drop(self.early.lock().take());
    }

    /// Takes a partition over, serves and folds it, and begins anew after whatever ends that, until told to stop.
    fn follow(&self, number: u32, stop: &Stop) {
        let live = &self.partitions[number as usize];
        let mut wait = RETRY_WAIT.0;
        while !stop.is_set() {
            let began = Instant::now();
            // Whatever was half done is let go of: the store has what was committed, the tails have what was delivered.
            let served = catch_unwind(AssertUnwindSafe(|| self.serve(live, stop)));
            let cause = match served {
                Ok(Ok(())) => return,
                Ok(Err(cause)) => cause,
                Err(panic) => PartitionError::Panicked {
                    partition: number,
                    words: words(panic.as_ref()),
                },
            };
            drop(live.take());
            self.log.let_go(number);
            if stop.is_set() {
                return;
            }
            let interrupted = cause.is_interruption() || cause.is_disk_full() || cause.is_still_held();
            if interrupted || matches!(cause, PartitionError::Log(LogError::NotOwned { .. })) {
                // Whoever held out for long begins with short waits again.
                wait = if began.elapsed() > HALTED_WAIT {
                    RETRY_WAIT.0
                } else {
                    wait
                };
                tracing::warn!(partition = number, %cause, wait_ms = wait.as_millis() as u64, "the partition is taken over anew");
                stop.wait(wait);
                wait = (wait * 2).min(RETRY_WAIT.1);
            } else {
                tracing::error!(partition = number, %cause, "the partition is halted; the others go on");
                self.halted.lock().insert(number, cause.to_string());
                stop.wait(HALTED_WAIT);
            }
        }
    }

    fn serve(&self, live: &Live, stop: &Stop) -> Result<(), PartitionError> {
        let number = live.number;
        let began = Instant::now();
        let Some(partition) = self.open(number, stop)? else {
            return Ok(());
        };
        let next_offset = partition.machine.position.next_offset;
        live.serve(partition)?;
        self.halted.lock().remove(&number);
        // Nobody may be listening any more at the end.
        let _ = self.taken.send(Told::Taken);
        tracing::info!(
            partition = number,
            next_offset,
            took_ms = began.elapsed().as_millis() as u64,
            "taken over"
        );
        loop {
            // What waits from before goes first: nothing may come that would make it go.
            match live.commit().and_then(|()| live.fold(stop)) {
                Err(cause) if cause.is_interruption() => {
                    tracing::warn!(partition = number, %cause, "interrupted");
                }
                result => return result,
            }
            // The store is as it should be: what isn't known is what was delivered.
            if !self.take_over(number, || stop.is_set(), stop)? {
                return Ok(());
            }
            live.taken_over()?;
            self.log.follow(number, live.standing().next_offset)?;
        }
    }

    /// Makes this process the one that puts out the partition's outputs, as often as it takes. Whether it came to that before
    /// nobody wanted it any more.
    fn take_over(&self, number: u32, is_vain: impl Fn() -> bool, stop: &Stop) -> Result<bool, LogError> {
        let mut wait = RETRY_WAIT.0;
        while !is_vain() {
            match self.log.take_over(number) {
                Ok(()) => return Ok(true),
                Err(cause) if cause.is_interruption() => {
                    tracing::warn!(partition = number, %cause, wait_ms = wait.as_millis() as u64, "not taken over yet");
                    stop.wait(wait);
                    wait = (wait * 2).min(RETRY_WAIT.1);
                }
                Err(cause) => return Err(cause),
            }
        }
        Ok(false)
    }

    /// Takes the partition over, and opens and folds its store meanwhile. `None` if told to stop.
    fn open(&self, number: u32, stop: &Stop) -> Result<Option<Partition>, PartitionError> {
        let began = Instant::now();
        let vain = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let is_vain = || stop.is_set() || vain.load(Ordering::Acquire);
            let thread = std::thread::Builder::new().name(format!("take-{number}"));
            let taking = thread
                .spawn_scoped(scope, move || {
                    let result = self.take_over(number, is_vain, stop);
                    (result, began.elapsed().as_millis() as u64)
                })
                .map_err(|cause| PartitionError::Thread { cause })?;
            let loaded = self.loaded(number);
            vain.store(loaded.is_err(), Ordering::Release);
            let load_ms = began.elapsed().as_millis() as u64;
            let mut batch = Batch::default();
            let ready = loaded.map(|mut partition| {
                let ahead = self.fold_ahead(&mut partition, &mut batch, || taking.is_finished() || stop.is_set());
                (partition, ahead)
            });
            let (taken, take_over_ms) = taking.join().unwrap_or_else(|panic| resume_unwind(panic));
            let (mut partition, ahead) = ready?;
            if !taken? || stop.is_set() {
                return Ok(None);
            }
            let checked = Instant::now();
            partition.check()?;
            tracing::debug!(
                partition = number,
                load_ms,
                take_over_ms,
                check_ms = checked.elapsed().as_millis() as u64,
                records_ahead = partition.work.records,
                "ready to be served"
            );
            // What the check has to say of it is said more plainly.
            ahead?;
            Ok(Some(partition))
        })
    }

    fn loaded(&self, number: u32) -> Result<Partition, PartitionError> {
        let early = self.early.lock().as_mut().and_then(|early| early.stores.remove(&number));
        let early = early.and_then(|thread| thread.join().ok()?.ok());
        let stored = match early {
            Some(stored) => stored,
            None => self.opening.load(number)?,
        };
        Partition::of(Arc::clone(&self.log), number, stored, self.opening.settings.clone())
    }

    /// Folds in memory what comes, until the partition is taken over or as much is folded as one commit may hold.
    fn fold_ahead(
        &self,
        partition: &mut Partition,
        batch: &mut Batch,
        is_over: impl Fn() -> bool,
    ) -> Result<(), PartitionError> {
        let number = partition.number;
        self.log.follow(number, partition.machine.position.next_offset)?;
        partition.behind = true;
        while !is_over() && !partition.is_commit_due() {
            let from = partition.machine.position.next_offset;
            if !self.log.wait(number, from, AHEAD_WAIT)? {
                continue;
            }
            self.log.poll(number, from, self.opening.settings.poll_bytes, batch)?;
            partition.check_leader(batch)?;
            // To its end, whatever is over meanwhile: what was taken isn't given again.
            let mut at = 0;
            while at < batch.len() || partition.machine.settling {
                at = partition.fold_next(batch, at, batch.len())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::super::Settings;
    use super::super::live::ReadError;
    use super::*;
    use crate::log::memory::MemoryLog;
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
        /// Tells that it is asked, and waits until it is let go.
        Silence(Sender<()>, Arc<Mutex<Receiver<()>>>),
    }

    /// A log in memory that misbehaves for partition 0.
    struct Moody {
        log: MemoryLog,
        meets: Mutex<Meets>,
    }

    impl Log for Moody {
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
            self.log.append_placed(records)
        }

        fn wait(&self, partition: u32, from: u64, timeout: Duration) -> Result<bool, LogError> {
            self.log.wait(partition, from, timeout)
        }

        fn append_outputs(&self, partition: u32, outputs: &[Output]) -> Result<(), LogError> {
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
                settings: Settings::default(),
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

        /// Something to reject, which is an output.
        fn garbage(&self) -> Result<(), LogError> {
            let records = (0..2).map(|p| (Place::One(p), NewRecord::new(Kind::Event, b"garbage".to_vec())));
            self.log.append_placed(records.collect()).map(drop)
        }

        fn meet(&self, meets: Meets) {
            *self.log.meets.lock() = meets;
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
        let folded = catch_unwind(AssertUnwindSafe(|| live.fold(&Stop::default())));
        assert!(folded.is_err());
        assert!(!live.is_served());
        assert!(matches!(
            live.read(|_| ()),
            Err(ReadError::NotServed { partition: 0 })
        ));
        Ok(())
    }

    #[test]
    fn whoever_asks_whether_a_partition_is_served_waits_for_no_lock() -> Fallible {
        let stage = Stage::new()?;
        let (folds, told) = stage.folds();
        folds.begin(0)?;
        told.recv_timeout(PATIENCE)?;
        let (asked, is_asked) = channel();
        let (let_go, over) = channel();
        stage.meet(Meets::Silence(asked, Arc::new(Mutex::new(over))));
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
        let (folds, told) = stage.folds();
        folds.begin(0)?;
        told.recv_timeout(PATIENCE)?;
        stage.garbage()?;
        eventually("its output", || stage.rejects(0) == 1);
        folds.end_all();
        let (folds, told) = stage.folds();
        folds.open_early();
        assert_eq!(
            folds.early.lock().as_ref().map(|early| early.stores.keys().copied().collect()),
            Some(vec![0])
        );
        for number in 0..2 {
            folds.begin(number)?;
            told.recv_timeout(PATIENCE)?;
        }
        eventually("the other's output", || stage.rejects(1) == 1);
        assert_eq!(stage.rejects(0), 1);
        assert_eq!(folds.early.lock().as_ref().map(|early| early.stores.len()), Some(0));
        folds.end_all();
        Ok(())
    }
}
