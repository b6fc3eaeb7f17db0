//! Takes to the log what leaves a partition, beside its fold.
//!
//! A transaction takes as long as the brokers take, and an append to another partition or a commit of the group's offset no
//! less: what is folded meanwhile is seen meanwhile. There is one load on its way at a time, so order stays order. The fold alone
//! changes the partition: it hands out copies of what is committed, and notes what has come of them once it asks.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{Builder, Scope};
use std::time::Instant;

use super::live::Standing;
use super::worker::Partition;
use super::{PartitionError, forwarding};
use crate::log::{Log, Retention};
use crate::machine::forward::Forward;
use crate::machine::output::Output;

/// Bytes of outputs that may be committed and not out, while a load is on its way: then the fold waits for it. Some seconds of
/// every verdict at full speed; the outbox and memory hold no more, however slow the brokers are.
const UNSENT_BYTES_MAX: usize = 16 << 20;

/// What leaves together.
pub(super) struct Load {
    /// Committed outputs, in order.
    pub outputs: Vec<Output>,
    /// Committed misplaced events.
    pub forwards: Vec<Forward>,
    /// The log may let go of records below it.
    pub prune_below: Option<u64>,
    /// How long the log keeps what no store needs.
    pub retention: Retention,
    /// Once all that is out, everything below is done.
    pub acknowledge: Option<u64>,
    /// Where the partition stands whose outputs are all out then; `None`: some are left.
    pub standing: Option<Standing>,
}

/// What has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrived {
    /// Outputs delivered.
    pub outputs: usize,
    /// Misplaced events appended where they belong.
    pub forwards: usize,
    /// Whether those are all of the load's.
    pub is_forwarded: bool,
    /// What the log was told.
    pub acknowledged: Option<u64>,
    /// Where the partition stands whose outputs are all out.
    pub standing: Option<Standing>,
}

impl Load {
    pub(super) fn is_empty(&self) -> bool {
        self.outputs.is_empty() && self.forwards.is_empty() && self.prune_below.is_none() && self.acknowledge.is_none()
    }

    /// Takes it there.
    pub(super) fn carry(&self, log: &dyn Log, partition: u32) -> Result<Arrived, PartitionError> {
        // First: what others can't take must not keep back what is ours.
        if !self.outputs.is_empty() {
            let began = Instant::now();
            log.append_outputs(partition, &self.outputs)?;
            metrics::histogram!("reckon_deliver_seconds").record(began.elapsed());
        }
        if let Some(below) = self.prune_below {
            log.prune(partition, below, self.retention)?;
        }
        let forwards = forwarding::append(log, partition, &self.forwards)?;
        let done = self.acknowledge.filter(|_| forwards == self.forwards.len());
        let acknowledged = match done.map(|below| log.acknowledge(partition, below)) {
            // It is told again with the next load. Whoever has lost the partition is fenced by the outputs' transactions.
            Some(Err(cause)) if cause.is_interruption() => {
                tracing::debug!(partition, %cause, "the log wasn't told how far everything is done");
                None
            }
            Some(told) => {
                told?;
                done
            }
            None => None,
        };
        Ok(Arrived {
            outputs: self.outputs.len(),
            forwards,
            is_forwarded: forwards == self.forwards.len(),
            acknowledged,
            standing: self.standing,
        })
    }
}

impl Partition {
    /// What is committed and may leave now; with `now`, the log is told how far everything is done though it isn't due. Nothing may
    /// be on its way.
    pub(super) fn next_load(&mut self, now: bool) -> Result<Load, PartitionError> {
        let may_leave = self.unsent.is_empty() || self.reach_tails()?;
        let forwards = self.forwarding.may_leave(now);
        let all_leave = may_leave && forwards.len() == self.forwarding.unsent.len();
        Ok(Load {
            outputs: if may_leave { self.unsent.clone() } else { Vec::new() },
            forwards: forwards.to_vec(),
            prune_below: self.prune_below.take(),
            retention: self.settings.retention,
            acknowledge: all_leave.then(|| self.to_acknowledge(now)).flatten(),
            standing: (may_leave && self.is_settled()).then(|| Standing::of(self)),
        })
    }

    /// Takes a load as arrived: the rows of its outputs and events go with the next commit.
    pub(super) fn arrived(&mut self, arrived: Arrived) {
        self.forwarded(arrived.forwards, arrived.is_forwarded);
        self.sent(arrived.outputs);
        if let Some(below) = arrived.acknowledged {
            self.acknowledged(below);
        }
    }

    /// Forwards and delivers what is committed, and lets the log remove what nobody needs any more.
    pub fn send(&mut self) -> Result<(), PartitionError> {
        self.deliver(false)
    }

    pub(super) fn deliver(&mut self, now: bool) -> Result<(), PartitionError> {
        if self.rocks.read_only {
            return Ok(());
        }
        let arrived = self.next_load(now)?.carry(self.log.as_ref(), self.number)?;
        self.arrived(arrived);
        Ok(())
    }

    /// Whether so much waits to leave that no more should be decided before some of it has arrived.
    pub(super) fn is_full(&self) -> bool {
        let bytes: usize = self.unsent.iter().map(|output| output.body.len()).sum();
        bytes >= UNSENT_BYTES_MAX || self.forwarding.is_full()
    }
}

/// A thread that carries one load after the other, until this is let go of.
pub(super) struct Courier {
    loads: Sender<Load>,
    arrived: Receiver<Result<Arrived, PartitionError>>,
    is_away: bool,
}

impl Courier {
    /// Starts the thread of a partition.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        log: &'scope dyn Log,
        partition: u32,
    ) -> Result<Self, PartitionError> {
        let (loads, taken) = channel::<Load>();
        let (told, arrived) = channel();
        Builder::new()
            .name(format!("out-{partition}"))
            .spawn_scoped(scope, move || {
                for load in taken {
                    let result = PartitionError::caught(partition, || load.carry(log, partition));
                    if told.send(result).is_err() {
                        return;
                    }
                }
            })
            .map_err(|cause| PartitionError::Thread { cause })?;
        Ok(Self {
            loads,
            arrived,
            is_away: false,
        })
    }

    /// Whether a load is on its way.
    pub(super) fn is_away(&self) -> bool {
        self.is_away
    }

    /// Sends it off with a load. Only when it isn't away.
    pub(super) fn send(&mut self, load: Load) {
        // The thread is there as long as this is.
        self.is_away = self.loads.send(load).is_ok();
    }

    /// What has arrived since this was last asked; with `wait`, what is on its way too.
    pub(super) fn arrived(&mut self, wait: bool) -> Result<Option<Arrived>, PartitionError> {
        if !self.is_away {
            return Ok(None);
        }
        let result = if wait {
            self.arrived.recv().ok()
        } else {
            match self.arrived.try_recv() {
                Err(TryRecvError::Empty) => return Ok(None),
                result => result.ok(),
            }
        };
        self.is_away = false;
        result.transpose()
    }
}
