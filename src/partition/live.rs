//! A partition that one thread folds while others read.
//!
//! The fold takes the lock for a moment at a time, half a millisecond at most; a record that is being applied in steps is seen
//! between its steps, never within one. A reader that can't wait ([`Live::ask`]) looks at once if the lock is free; if the fold
//! has it, the fold does the look for it between two groups of records. One that can wait ([`Live::read`]) comes next.
//!
//! A look takes what memory holds, and the store is read without the lock ([`super::account`]): so a slow disk makes a read
//! slow, not the fold. A commit keeps readers out while it puts together what it writes, not while that is written. Outputs
//! are delivered, which waits for the disk, without the lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock, RwLockWriteGuard};
use thiserror::Error;
use tokio::sync::{oneshot, watch};

use super::courier::{Arrived, Courier, Load};
use super::errands::Errands;
use super::words::Words;
use super::worker::Partition;
use super::{PartitionError, turns};
use crate::log::{Batch, Log};
use crate::model::Ms;
use crate::store::rocks::Rocks;

/// How long the fold keeps readers out at a time, commits left aside.
const HOLD_MAX: Duration = Duration::from_micros(500);

/// How long the fold waits for records before it looks whether to commit or to stop.
const IDLE_WAIT: Duration = Duration::from_millis(50);

/// Age of a record that comes to be folded, from which on the fold is behind.
const BEHIND_MS: Ms = 1_000;

/// Where a partition stands: what a read answers for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Which partition.
    pub partition: u32,
    /// Every record below is folded.
    pub next_offset: u64,
    /// Steps of the next record that are done.
    pub step: u64,
    /// Log time.
    pub clock: Option<Ms>,
}

impl Standing {
    /// Where a partition stands now.
    pub fn of(partition: &Partition) -> Self {
        let machine = &partition.machine;
        Self {
            partition: partition.number,
            next_offset: machine.position.next_offset,
            step: machine.position.step,
            clock: machine.clock.now,
        }
    }
}

/// Why a read has no answer.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The partition is being opened, or was let go.
    #[error("partition {partition} isn't served right now; ask again in a moment")]
    NotServed {
        /// Which.
        partition: u32,
    },
    /// The partition has stopped for good.
    #[error("partition {partition} has stopped: {cause}")]
    Stopped {
        /// Which.
        partition: u32,
        /// Why.
        cause: String,
    },
    /// The store or the log failed.
    #[error(transparent)]
    Failed(#[from] PartitionError),
}

impl From<crate::store::rocks::StoreError> for ReadError {
    fn from(cause: crate::store::rocks::StoreError) -> Self {
        Self::Failed(cause.into())
    }
}

impl From<crate::log::LogError> for ReadError {
    fn from(cause: crate::log::LogError) -> Self {
        Self::Failed(cause.into())
    }
}

/// Says to every fold of a process that it should come to an end.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<(AtomicBool, Mutex<()>, Condvar)>);

impl Stop {
    /// Says it.
    pub fn set(&self) {
        let guard = self.0.1.lock();
        self.0.0.store(true, Ordering::Release);
        drop(guard);
        self.0.2.notify_all();
    }

    /// Waits until it is said, at most that long. Whether it was.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut guard = self.0.1.lock();
        if !self.is_set() {
            self.0.2.wait_while_for(&mut guard, |()| !self.is_set(), timeout);
        }
        self.is_set()
    }

    /// Whether it was said.
    pub fn is_set(&self) -> bool {
        self.0.0.load(Ordering::Acquire)
    }
}

/// A partition while nothing changes it, and what its numbers stand for.
pub struct Look<'p> {
    /// The partition.
    pub partition: &'p Partition,
    /// What its numbers stand for.
    pub words: Arc<Words>,
    /// Commits begun so far.
    pub(super) commits: u64,
}

impl Look<'_> {
    /// Whether anything of the account is folded.
    pub fn knows(&self, account: &str) -> bool {
        self.partition.machine.accounts.find(account).is_some()
    }
}

/// One partition, folded by one thread and read by any.
pub struct Live {
    /// Its number.
    pub number: u32,
    log: Arc<dyn Log>,
    /// `None` while it isn't served.
    partition: RwLock<Option<Partition>>,
    /// The store of the partition that is served: told without the partition's lock, which a commit may hold for long.
    store: Mutex<Weak<Rocks>>,
    /// Commits begun since the process started: what was taken before one doesn't fit rows read after it.
    pub(super) commits: AtomicU64,
    /// What numbers stood for when somebody last looked.
    words: Mutex<Arc<Words>>,
    errands: Errands,
    /// Why it has stopped, once it has for good.
    stopped: Mutex<Option<String>>,
    standing: watch::Sender<Standing>,
    /// Up to where all outputs are delivered, if that is known.
    delivered: watch::Sender<Option<Standing>>,
    /// End of the log when it was opened.
    opened_end: AtomicU64,
    /// How often it was served.
    servings: AtomicU64,
    /// The serving in which that end was reached.
    caught_up_in: AtomicU64,
}

impl Live {
    /// A partition that isn't served yet.
    pub fn new(number: u32, log: Arc<dyn Log>) -> Self {
        Self {
            number,
            log,
            partition: RwLock::new(None),
            store: Mutex::default(),
            commits: AtomicU64::new(0),
            words: Mutex::default(),
            errands: Errands::default(),
            stopped: Mutex::new(None),
            standing: watch::Sender::new(Standing {
                partition: number,
                ..Standing::default()
            }),
            delivered: watch::Sender::new(None),
            opened_end: AtomicU64::new(u64::MAX),
            servings: AtomicU64::new(0),
            caught_up_in: AtomicU64::new(0),
        }
    }

    /// Serves the partition from now on.
    pub fn serve(&self, partition: Partition) -> Result<(), PartitionError> {
        // It was asked a moment ago, when the store was opened.
        let end = self.log.recent_end(self.number)?;
        self.opened_end.store(u64::MAX, Ordering::Release);
        self.servings.fetch_add(1, Ordering::AcqRel);
        let standing = Standing::of(&partition);
        let mut served = self.partition.write();
        // Where the one before stood says nothing of this one, also to those that look before they are woken.
        self.standing.send_if_modified(|known| {
            *known = standing;
            false
        });
        *self.store.lock() = Arc::downgrade(&partition.rocks);
        // Another store may have given other numbers.
        *self.words.lock() = Arc::default();
        self.commits.fetch_add(1, Ordering::SeqCst);
        *self.stopped.lock() = None;
        self.opened_end.store(end, Ordering::Release);
        *served = Some(partition);
        drop(served);
        // Whoever is woken by it finds the partition.
        self.standing.send_modify(|_| {});
        self.delivered.send_replace(None);
        self.run_errands();
        Ok(())
    }

    /// No longer serves it; its store can be opened again once the partition is let go.
    pub fn take(&self) -> Option<Partition> {
        let mut served = self.partition.write();
        *self.store.lock() = Weak::new();
        self.commits.fetch_add(1, Ordering::SeqCst);
        let taken = served.take();
        drop(served);
        self.run_errands();
        taken
    }

    /// Whether it is served here. Waits for nobody.
    pub fn is_served(&self) -> bool {
        self.store.lock().strong_count() > 0
    }

    /// Where it stands.
    pub fn standing(&self) -> Standing {
        *self.standing.borrow()
    }

    /// Tells where it stands, whenever that has changed.
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Changes whenever outputs were delivered.
    pub fn watch_delivered(&self) -> watch::Receiver<Option<Standing>> {
        self.delivered.subscribe()
    }

    /// Up to where everything that the folded records led to is delivered; `None` until that is known.
    pub fn delivered(&self) -> Result<Option<Standing>, ReadError> {
        let now = self.read(|p| (p.undelivered() == 0 && p.is_settled()).then(|| Standing::of(p)))?;
        Ok(now.or_else(|| *self.delivered.borrow()))
    }

    /// Records that are in the log and not folded.
    pub fn lag_records(&self) -> Result<u64, ReadError> {
        Ok(self.log.recent_end(self.number)?.saturating_sub(self.folded_up_to()))
    }

    /// Nothing below is still to be folded.
    fn folded_up_to(&self) -> u64 {
        let next_offset = self.standing().next_offset;
        self.log.read_up_to(self.number, next_offset)
    }

    /// What waits is compared with what was delivered while the partition was taken over anew.
    pub fn taken_over(&self) -> Result<(), PartitionError> {
        self.write(|p| {
            p.caught_up = false;
            Ok(())
        })?;
        // The log may have to be asked.
        self.read(|p| p.compare(&p.unsent)).unwrap_or(Ok(()))
    }

    /// Whether it has folded all that was in the log when it was opened: from then on its counters don't repeat themselves.
    pub fn is_caught_up(&self) -> bool {
        let serving = self.servings.load(Ordering::Acquire);
        // Once is enough: behind the last record stand markers that no record passes before the next one comes.
        if self.caught_up_in.load(Ordering::Acquire) != serving {
            if self.folded_up_to() < self.opened_end.load(Ordering::Acquire) {
                return false;
            }
            self.caught_up_in.store(serving, Ordering::Release);
        }
        // What was seen of an earlier serving says nothing of this one.
        self.servings.load(Ordering::Acquire) == serving
    }

    /// When the oldest record that isn't folded was appended; `None` if all are folded.
    pub fn waiting_since(&self) -> Result<Option<Ms>, ReadError> {
        Ok(self.log.waiting_since(self.number, self.standing().next_offset)?)
    }

    /// Says why nothing is read from here any more.
    pub fn stopped(&self, cause: &PartitionError) {
        *self.stopped.lock() = Some(cause.to_string());
    }

    fn not_served(&self) -> ReadError {
        let partition = self.number;
        match self.stopped.lock().clone() {
            Some(cause) => ReadError::Stopped { partition, cause },
            None => ReadError::NotServed { partition },
        }
    }

    /// The store of the partition, if it is served.
    pub fn store(&self) -> Result<Arc<Rocks>, ReadError> {
        let store = self.store.lock().upgrade();
        store.ok_or_else(|| self.not_served())
    }

    /// Reads what memory holds. Short: the fold waits meanwhile. It may wait for the fold itself.
    pub fn read<T>(&self, take: impl FnOnce(&Partition) -> T) -> Result<T, ReadError> {
        let guard = self.partition.read();
        let result = match guard.as_ref() {
            Some(partition) => Ok(take(partition)),
            None => Err(self.not_served()),
        };
        drop(guard);
        self.run_errands();
        result
    }

    /// The same, with what numbers stand for.
    pub fn look<T>(&self, take: impl FnOnce(&Look<'_>) -> T) -> Result<T, ReadError> {
        self.read(|partition| take(&self.look_at(partition)))
    }

    /// The same for those that must not wait for the fold: at once if it isn't at work, else it does the look between two
    /// groups of records.
    pub async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        take: impl FnOnce(&Look<'_>) -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        let answer = {
            match self.partition.try_read() {
                Some(guard) => {
                    let answer = guard.as_ref().map(|p| take(&self.look_at(p)));
                    let answer = answer.ok_or_else(|| self.not_served());
                    drop(guard);
                    self.run_errands();
                    return answer;
                }
                None => {
                    let (sender, receiver) = oneshot::channel();
                    let live = Arc::clone(self);
                    self.errands.leave(Box::new(move |partition| {
                        let answer = partition.map(|p| take(&live.look_at(p)));
                        let answer = answer.ok_or_else(|| live.not_served());
                        // Whoever asked may have left.
                        let _ = sender.send(answer);
                    }));
                    receiver
                }
            }
        };
        self.run_errands();
        answer.await.unwrap_or_else(|_| Err(self.not_served()))
    }

    fn look_at<'p>(&self, partition: &'p Partition) -> Look<'p> {
        let before = Arc::clone(&self.words.lock());
        let words = Words::of(&partition.machine, &before);
        if !Arc::ptr_eq(&before, &words) {
            *self.words.lock() = Arc::clone(&words);
        }
        Look {
            partition,
            words,
            commits: self.commits.load(Ordering::SeqCst),
        }
    }

    /// Does the looks that wait, unless somebody has the lock who will.
    fn run_errands(&self) {
        while self.errands.any_after_letting_go() {
            let Some(guard) = self.partition.try_read() else {
                return;
            };
            self.errands.run(guard.as_ref());
        }
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&mut Partition) -> Result<T, PartitionError>,
    ) -> Result<Option<T>, PartitionError> {
        let mut guard = self.partition.write();
        let result = guard
            .as_mut()
            .map(|partition| PartitionError::caught(self.number, || work(partition)))
            .transpose();
        // What a panic has left half applied is nobody's to read.
        let spoilt = match &result {
            Err(PartitionError::Panicked { .. }) => {
                *self.store.lock() = Weak::new();
                guard.take()
            }
            _ => None,
        };
        // Whoever waits to read comes first.
        if self.errands.any() {
            self.errands.run(guard.as_ref());
        }
        RwLockWriteGuard::unlock_fair(guard);
        drop(spoilt);
        self.run_errands();
        result
    }

    /// Folds what the log has and gets, until told to stop; then what is folded is committed and delivered. Returns too
    /// when the partition is no longer served.
    pub fn fold(&self, stop: &Stop) -> Result<(), PartitionError> {
        std::thread::scope(|scope| {
            let mut courier = Courier::start(scope, self.log.as_ref(), self.number)?;
            self.fold_until(stop, &mut courier)?;
            self.arrived(&mut courier, true)
        })?;
        self.write_changes()?;
        self.deliver(true)
    }

    fn fold_until(&self, stop: &Stop, courier: &mut Courier) -> Result<(), PartitionError> {
        let mut batch = Batch::default();
        let poll_bytes = self.read(|p| p.settings.poll_bytes).unwrap_or(1 << 20);
        // What the last record left goes on though no other comes.
        if !self.fold_batch(&batch, stop, courier)? {
            return Ok(());
        }
        while !stop.is_set() {
            let from = self.standing().next_offset;
            if self.log.wait(self.number, from, IDLE_WAIT)? {
                self.log.poll(self.number, from, poll_bytes, &mut batch)?;
                self.read(|p| p.check_leader(&batch)).unwrap_or(Ok(()))?;
                let oldest = batch.get(0).map_or(Ms::MAX, |r| r.append_ms);
                self.write(|p| {
                    p.behind = chrono::Utc::now().timestamp_millis().saturating_sub(oldest) > BEHIND_MS;
                    Ok(())
                })?;
                if !self.fold_batch(&batch, stop, courier)? {
                    return Ok(());
                }
            } else {
                let reached = self.write(|p| {
                    p.behind = false;
                    p.reach_tails()
                })?;
                match reached {
                    None => return Ok(()),
                    Some(true) => {}
                    Some(false) => self.read(Partition::check_end).unwrap_or(Ok(()))?,
                }
                self.send_off(courier)?;
            }
            self.commit_when_due(courier)?;
        }
        Ok(())
    }

    /// Whether the partition is still served.
    fn fold_batch(&self, batch: &Batch, stop: &Stop, courier: &mut Courier) -> Result<bool, PartitionError> {
        let mut at = 0;
        let mut settling = self.read(|p| p.machine.settling).unwrap_or(false);
        let mut turn = None;
        while at < batch.len() || settling {
            turn.get_or_insert_with(turns::take);
            let folded = self.write(|partition| {
                let began = Instant::now();
                let mut next = at;
                loop {
                    next = partition.fold_next(batch, next, batch.len())?;
                    if self.errands.any() {
                        self.errands.run(Some(partition));
                    }
                    let over = next >= batch.len() && !partition.machine.settling;
                    let due = partition.is_commit_due();
                    if over || due || began.elapsed() >= HOLD_MAX {
                        return Ok((next, partition.machine.settling, due, Standing::of(partition)));
                    }
                }
            })?;
            let Some((next, more, due, standing)) = folded else {
                return Ok(false);
            };
            (at, settling) = (next, more);
            self.standing.send_replace(standing);
            if due {
                // It may have to wait for the disk, or for the log.
                turn = None;
                self.write_changes()?;
                self.send_off(courier)?;
            }
            if stop.is_set() {
                break;
            }
        }
        Ok(true)
    }

    fn commit_when_due(&self, courier: &mut Courier) -> Result<(), PartitionError> {
        if self.read(Partition::is_commit_due).unwrap_or(false) {
            self.write_changes()?;
            self.send_off(courier)?;
        }
        Ok(())
    }

    /// Sends off what is committed and not out yet, unless the courier is away with what was before; waits for it if that is
    /// too much.
    fn send_off(&self, courier: &mut Courier) -> Result<(), PartitionError> {
        let is_full = courier.is_away() && self.read(Partition::is_full).unwrap_or(false);
        self.arrived(courier, is_full)?;
        if !courier.is_away()
            && let Some(load) = self.next_load(false)?
        {
            courier.send(load);
        }
        Ok(())
    }

    /// Notes what the courier has delivered; with `wait`, once it is back.
    fn arrived(&self, courier: &mut Courier, wait: bool) -> Result<(), PartitionError> {
        match courier.arrived(wait)? {
            Some(arrived) => self.note(arrived),
            None => Ok(()),
        }
    }

    fn note(&self, arrived: Arrived) -> Result<(), PartitionError> {
        self.write(|partition| {
            partition.arrived(arrived);
            Ok(())
        })?;
        self.all_out(arrived.standing, arrived.outputs > 0);
        Ok(())
    }

    /// Up to there all outputs are out, if that is known. Who waits for outputs is woken by outputs alone.
    fn all_out(&self, standing: Option<Standing>, outputs: bool) {
        self.delivered.send_if_modified(|known| {
            *known = standing.or(*known);
            outputs
        });
    }

    /// What is committed and may leave now; `None`: nothing.
    fn next_load(&self, now: bool) -> Result<Option<Load>, PartitionError> {
        let load = self.write(|partition| partition.next_load(now))?;
        if let Some(load) = load.as_ref().filter(|load| load.is_empty()) {
            self.all_out(load.standing, false);
        }
        Ok(load.filter(|load| !load.is_empty()))
    }

    /// Writes what changed. Readers are kept out at the beginning and the end alone: only this thread changes the partition.
    fn write_changes(&self) -> Result<(), PartitionError> {
        let began = Instant::now();
        if !self.read(Partition::has_uncommitted).unwrap_or(false) {
            return Ok(());
        }
        self.read(Partition::compare_pending).unwrap_or(Ok(()))?;
        let mut kept_out = Duration::ZERO;
        let begun = self.write(|partition| {
            let began = Instant::now();
            // Whoever takes something from memory from now on can't have rows from before it was taken.
            self.commits.fetch_add(1, Ordering::SeqCst);
            let commit = partition.begin_commit();
            kept_out += began.elapsed();
            commit
        })?;
        if let Some(mut commit) = begun.flatten() {
            self.read(|partition| partition.write_commit(&mut commit))
                .unwrap_or(Ok(()))?;
            self.write(|partition| {
                let began = Instant::now();
                partition.end_commit(&commit);
                kept_out += began.elapsed();
                Ok(())
            })?;
            let step = self.read(Partition::flush_when_due).unwrap_or(Ok(None))?;
            self.write(|partition| {
                partition.flush_stepped(step);
                Ok(())
            })?;
        }
        metrics::histogram!("reckon_commit_seconds").record(began.elapsed());
        metrics::histogram!("reckon_commit_lock_seconds").record(kept_out);
        Ok(())
    }

    /// Commits, then delivers, without keeping readers out meanwhile. For the thread that folds alone: nothing may change between
    /// the parts of a commit.
    pub(super) fn commit(&self) -> Result<(), PartitionError> {
        self.write_changes()?;
        self.deliver(false)
    }

    /// Takes to the log what may leave, and waits for it; with `now`, tells it too how far everything is done.
    fn deliver(&self, now: bool) -> Result<(), PartitionError> {
        match self.next_load(now)? {
            Some(load) => self.note(load.carry(self.log.as_ref(), self.number)?),
            None => Ok(()),
        }
    }

    /// The log that it folds.
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Identity;
    use crate::log::memory::MemoryLog;
    use crate::machine::clock::Source;
    use crate::partition::Settings;
    use crate::store::rocks::Budget;

    fn served(folder: &std::path::Path) -> Result<Arc<Live>, PartitionError> {
        let identity = Identity {
            log_id: "test".to_owned(),
            partition_count: 1,
            source: Source::Ticks,
        };
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new(identity, 0));
        let budget = Budget::new(1 << 20, 16 << 20);
        let partition = Partition::open(Arc::clone(&log), 0, folder, &budget, Settings::default())?;
        let live = Arc::new(Live::new(0, log));
        live.serve(partition)?;
        Ok(live)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_has_the_lock_does_the_looks_that_others_wait_for() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let live = served(folder.path())?;
        let (locked, told) = oneshot::channel();
        let holding = Arc::clone(&live);
        let holder = std::thread::spawn(move || {
            holding.write(|partition| {
                let _ = locked.send(());
                // As a fold does between two groups of records; there is no end to it unless somebody asks.
                while !holding.errands.any() {
                    std::thread::yield_now();
                }
                holding.errands.run(Some(partition));
                Ok(std::thread::current().id())
            })
        });
        told.await?;
        let by = live
            .ask(|look| (std::thread::current().id(), look.partition.number))
            .await?;
        let holder = holder.join().map_err(|_| "panicked")??;
        assert_eq!((Some(by.0), by.1), (holder, 0));
        let by = live.ask(|_| std::thread::current().id()).await?;
        assert_eq!(by, std::thread::current().id(), "the lock is free: at once");
        assert!(live.ask(|_| 1).await.is_ok() && live.take().is_some());
        assert!(matches!(
            live.ask(|_| 1).await,
            Err(ReadError::NotServed { partition: 0 })
        ));
        Ok(())
    }

    #[test]
    fn what_a_panic_leaves_is_read_by_nobody() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let live = served(folder.path())?;
        let spoilt = live.write(|partition| {
            partition.machine.position.next_offset = 7;
            if partition.number == 0 {
                std::panic::panic_any("half applied");
            }
            Ok(())
        });
        let Err(cause) = spoilt else {
            return Err("it went on".into());
        };
        assert!(cause.to_string().contains("half applied"), "{cause}");
        assert!(matches!(live.read(|_| ()), Err(ReadError::NotServed { .. })) && !live.is_served());
        live.stopped(&cause);
        let said = live.read(|_| ()).map_err(|cause| cause.to_string());
        assert!(said.is_err_and(|said| said.contains("has stopped")));
        Ok(())
    }
}
