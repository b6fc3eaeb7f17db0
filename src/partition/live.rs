//! A partition that one thread folds while others read.
//!
//! The fold takes the lock for a moment at a time, half a millisecond at most unless it commits, and lets waiting readers in
//! between; a record that is being applied in steps is seen between its steps, never within one. A reader takes what memory
//! holds and a snapshot of the store under the lock, and reads the store after it has let go ([`super::account`]): so a slow
//! disk makes a read slow, not the fold. Outputs are delivered, which waits for the disk, without the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock, RwLockWriteGuard};
use thiserror::Error;
use tokio::sync::watch;

use super::worker::Partition;
use super::{PartitionError, forwarding};
use crate::log::{Batch, Log};
use crate::model::Ms;

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

/// One partition, folded by one thread and read by any.
pub struct Live {
    /// Its number.
    pub number: u32,
    log: Arc<dyn Log>,
    /// `None` while it isn't served.
    partition: RwLock<Option<Partition>>,
    standing: watch::Sender<Standing>,
    /// Up to where all outputs are delivered, if that is known.
    delivered: watch::Sender<Option<Standing>>,
    /// End of the log when it was opened.
    opened_end: AtomicU64,
    /// Set once it was reached, until the partition is served anew.
    caught_up: AtomicBool,
}

impl Live {
    /// A partition that isn't served yet.
    pub fn new(number: u32, log: Arc<dyn Log>) -> Self {
        Self {
            number,
            log,
            partition: RwLock::new(None),
            standing: watch::Sender::new(Standing {
                partition: number,
                ..Standing::default()
            }),
            delivered: watch::Sender::new(None),
            opened_end: AtomicU64::new(u64::MAX),
            caught_up: AtomicBool::new(false),
        }
    }

    /// Serves the partition from now on.
    pub fn serve(&self, partition: Partition) -> Result<(), PartitionError> {
        let end = self.log.end(self.number)?;
        self.opened_end.store(end, Ordering::Release);
        self.caught_up.store(false, Ordering::Release);
        self.standing.send_replace(Standing::of(&partition));
        self.delivered.send_replace(None);
        *self.partition.write() = Some(partition);
        Ok(())
    }

    /// No longer serves it; its store can be opened again once the partition is let go.
    pub fn take(&self) -> Option<Partition> {
        self.partition.write().take()
    }

    /// Whether it is served here.
    pub fn is_served(&self) -> bool {
        self.partition.read().is_some()
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
        let now = self.read(|p| (p.undelivered() == 0 && !p.has_uncommitted()).then(|| Standing::of(p)))?;
        Ok(now.or_else(|| *self.delivered.borrow()))
    }

    /// Names of all rollup dimensions that a policy has named so far, sorted.
    pub fn rollup_names(&self) -> Result<Vec<String>, ReadError> {
        self.read(|p| {
            let names = p.machine.rollups.iter().flatten();
            let mut names: Vec<String> = names.map(|&n| p.machine.names.symbols.name(n).to_owned()).collect();
            names.sort_unstable();
            names.dedup();
            names
        })
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
        self.write(Partition::taken_over).map(drop)
    }

    /// Whether it has folded all that was in the log when it was opened: from then on its counters don't repeat themselves.
    pub fn is_caught_up(&self) -> bool {
        let caught_up =
            self.caught_up.load(Ordering::Acquire) || self.folded_up_to() >= self.opened_end.load(Ordering::Acquire);
        // Once is enough: behind the last record stand markers that no record passes before the next one comes.
        self.caught_up.store(caught_up, Ordering::Release);
        caught_up
    }

    /// When the oldest record that isn't folded was appended; `None` if all are folded.
    pub fn waiting_since(&self) -> Result<Option<Ms>, ReadError> {
        Ok(self.log.waiting_since(self.number, self.standing().next_offset)?)
    }

    /// Reads what memory holds. Short: the fold waits meanwhile.
    pub fn read<T>(&self, take: impl FnOnce(&Partition) -> T) -> Result<T, ReadError> {
        match self.partition.read().as_ref() {
            Some(partition) => Ok(take(partition)),
            None => Err(ReadError::NotServed { partition: self.number }),
        }
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&mut Partition) -> Result<T, PartitionError>,
    ) -> Result<Option<T>, PartitionError> {
        let mut guard = self.partition.write();
        let result = guard.as_mut().map(work).transpose();
        // Whoever waits to read comes first.
        RwLockWriteGuard::unlock_fair(guard);
        result
    }

    /// Folds what the log has and gets, until told to stop; then what is folded is committed and delivered. Returns too
    /// when the partition is no longer served.
    pub fn fold(&self, stop: &Stop) -> Result<(), PartitionError> {
        let mut batch = Batch::default();
        let poll_bytes = self.read(|p| p.settings.poll_bytes).unwrap_or(1 << 20);
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
                if !self.fold_batch(&batch, stop)? {
                    return Ok(());
                }
            } else {
                let idle = self.write(|p| {
                    p.behind = false;
                    p.check_tails()
                })?;
                if idle.is_none() {
                    return Ok(());
                }
                if self.read(Partition::undelivered).unwrap_or(0) > 0 {
                    self.commit()?;
                }
                self.acknowledge(false)?;
            }
            self.commit_when_due()?;
        }
        self.commit()?;
        self.acknowledge(true)
    }

    /// Whether the partition is still served.
    fn fold_batch(&self, batch: &Batch, stop: &Stop) -> Result<bool, PartitionError> {
        let mut at = 0;
        let mut settling = false;
        while at < batch.len() || settling {
            let folded = self.write(|partition| {
                let began = Instant::now();
                let mut next = at;
                loop {
                    next = partition.fold_next(batch, next, batch.len())?;
                    let over = next >= batch.len() && !partition.machine.settling;
                    if over || partition.is_commit_due() || began.elapsed() >= HOLD_MAX {
                        return Ok((next, partition.machine.settling, Standing::of(partition)));
                    }
                }
            })?;
            let Some((next, more, standing)) = folded else {
                return Ok(false);
            };
            (at, settling) = (next, more);
            self.standing.send_replace(standing);
            self.commit_when_due()?;
            if stop.is_set() {
                break;
            }
        }
        Ok(true)
    }

    fn commit_when_due(&self) -> Result<(), PartitionError> {
        if self.read(Partition::is_commit_due).unwrap_or(false) {
            self.commit()?;
        }
        Ok(())
    }

    /// Commits, then delivers without keeping readers out.
    pub fn commit(&self) -> Result<(), PartitionError> {
        let committed = self.write(|partition| {
            if partition.has_uncommitted() {
                let began = Instant::now();
                partition.commit()?;
                metrics::histogram!("reckon_commit_seconds").record(began.elapsed());
            }
            let retention = partition.settings.retention;
            let outputs = if !partition.unsent.is_empty() && partition.reach_tails()? {
                partition.unsent.clone()
            } else {
                Vec::new()
            };
            let whole = outputs.len() == partition.unsent.len();
            let standing = whole.then(|| Standing::of(partition));
            let leaving = (outputs, partition.forwarding.unsent.clone(), standing);
            Ok((leaving, partition.prune_below.take(), retention))
        })?;
        let Some(((outputs, forwards, standing), prune_below, retention)) = committed else {
            return Ok(());
        };
        if !forwards.is_empty() {
            forwarding::append(self.log.as_ref(), self.number, &forwards)?;
            self.write(|partition| {
                partition.forwarded(forwards.len());
                Ok(())
            })?;
        }
        if !outputs.is_empty() {
            let began = Instant::now();
            self.log.append_outputs(self.number, &outputs)?;
            metrics::histogram!("reckon_deliver_seconds").record(began.elapsed());
            self.write(|partition| {
                partition.sent(outputs.len());
                Ok(())
            })?;
            self.delivered.send_replace(standing);
        } else if standing.is_some() {
            // Nobody waits for it.
            self.delivered.send_if_modified(|known| {
                *known = standing;
                false
            });
        }
        if let Some(below) = prune_below {
            self.log.prune(self.number, below, retention)?;
        }
        self.acknowledge(false)
    }

    /// Tells the log how far everything is done, if that is due, or at once.
    fn acknowledge(&self, now: bool) -> Result<(), PartitionError> {
        let below = self.read(|partition| partition.to_acknowledge(now)).ok().flatten();
        if let Some(below) = below {
            self.log.acknowledge(self.number, below)?;
            self.write(|partition| {
                partition.acknowledged(below);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The log that it folds.
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }
}
