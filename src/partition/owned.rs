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

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::backoff::Backoff;
use super::early::Early;
use super::live::{Live, Stop};
use super::running::Opening;
use super::sharing::Told;
use super::worker::Partition;
use super::{PartitionError, host, instance};
use crate::log::{Batch, Log, LogError};

/// How long the group's taking of partitions waits for their folds to end. It is safe not to wait: their outputs are fenced.
const REVOKE_WAIT: Duration = Duration::from_secs(5);

/// How long a halted partition waits before it is looked at again.
const HALTED_WAIT: Duration = Duration::from_secs(30);

/// How long a fold waits for records before it looks whether the partition is taken over.
const AHEAD_WAIT: Duration = Duration::from_millis(10);

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

/// What the partitions' threads share.
pub(super) struct Folds {
    log: Arc<dyn Log>,
    opening: Opening,
    pub(super) partitions: Vec<Arc<Live>>,
    owned: Mutex<BTreeMap<u32, Owned>>,
    halted: Mutex<BTreeMap<u32, String>>,
    pub(super) early: Early,
    /// Set at the end: what the group takes then is still ours after a restart.
    ending: AtomicBool,
    /// Told of each partition that was taken over.
    taken: Sender<Told>,
}

impl Folds {
    pub(super) fn new(opening: Opening, partitions: Vec<Arc<Live>>, taken: Sender<Told>) -> Self {
        Self {
            log: Arc::clone(&opening.log),
            opening,
            partitions,
            owned: Mutex::new(BTreeMap::new()),
            halted: Mutex::new(BTreeMap::new()),
            early: Early::default(),
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
        let count = self.partitions.len() as u32;
        let last = instance::last_owned(self.data()).into_iter();
        let there = |number: &u32| *number < count && host::store_path(self.data(), *number).join("CURRENT").exists();
        for number in last.filter(there) {
            let folds = Arc::clone(self);
            self.early.open(number, move || folds.opening.load(number));
        }
    }

    /// Begins to fold a partition.
    pub(super) fn begin(self: &Arc<Self>, number: u32) -> std::io::Result<()> {
        let mut owned = self.owned.lock();
        // What is assigned while the end is under way would be folded by a thread that nobody ends.
        if self.ending.load(Ordering::Acquire) {
            return Ok(());
        }
        let before = owned.remove(&number);
        if let Some(before) = &before {
            before.stop.set();
        }
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
                && let Err(cause) = partition.put_away()
            {
                tracing::warn!(partition = number, %cause, "not everything could be put on disk; it is folded again next time");
            }
        })?;
        owned.insert(number, Owned { stop, quiet, thread });
        drop(owned);
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
        let owned = self.owned.lock();
        self.ending.store(true, Ordering::Release);
        owned.values().for_each(|owned| owned.stop.set());
        drop(owned);
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
        self.early.close_all();
    }

    /// Takes a partition over, serves and folds it, and begins anew after whatever ends that, until told to stop.
    fn follow(&self, number: u32, stop: &Stop) {
        let live = &self.partitions[number as usize];
        let mut backoff = Backoff::new();
        while !stop.is_set() {
            let began = Instant::now();
            // Whatever was half done is let go of: the store has what was committed, the tails have what was delivered.
            let Err(cause) = PartitionError::caught(number, || self.serve(live, stop)) else {
                return;
            };
            drop(live.take());
            self.log.let_go(number);
            if stop.is_set() {
                return;
            }
            let interrupted = cause.is_interruption() || cause.is_disk_full() || cause.is_still_held();
            if interrupted || matches!(cause, PartitionError::Log(LogError::NotOwned { .. })) {
                let wait = backoff.after(began.elapsed());
                tracing::warn!(partition = number, %cause, wait_ms = wait.as_millis() as u64, "the partition is taken over anew");
                stop.wait(wait);
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
        let mut backoff = Backoff::new();
        loop {
            let began = Instant::now();
            // What waits from before goes first: nothing may come that would make it go.
            match live.commit().and_then(|()| live.fold(stop)) {
                Err(cause) if cause.is_interruption() => {
                    // Each take-over leaves its barrier in the outputs: what fails at once must not go round at once.
                    let wait = backoff.after(began.elapsed());
                    tracing::warn!(partition = number, %cause, wait_ms = wait.as_millis() as u64, "interrupted");
                    stop.wait(wait);
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
        let mut backoff = Backoff::new();
        while !is_vain() {
            let began = Instant::now();
            match self.log.take_over(number) {
                Ok(()) => return Ok(true),
                Err(cause) if cause.is_interruption() => {
                    let wait = backoff.after(began.elapsed());
                    tracing::warn!(partition = number, %cause, wait_ms = wait.as_millis() as u64, "not taken over yet");
                    stop.wait(wait);
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
        let stored = match self.early.take(number) {
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
mod tests;
