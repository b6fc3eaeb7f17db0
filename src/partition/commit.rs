//! A commit in its parts, so that readers are kept out of the short ones alone; and the flush that follows some of them.
//!
//! What changes with a commit is taken first ([`Partition::begin_commit`]); then what is written is put together from a state
//! that stays as it is, and written ([`Partition::write_commit`]), while others read; then memory lets go of what the store has
//! ([`Partition::end_commit`]). Only the thread that folds commits: nothing else changes in between.

use std::time::Instant;

use super::PartitionError;
use super::worker::{Flushed, Partition};
use crate::machine::output::{Output, Topic};
use crate::store::commit::{self, Changed, CommitBytes, Leaving};

/// A flush for the sake of time alone waits until there is this part of `flush_bytes`, some 90,000 events, which are folded again
/// in no time: blocks of packed calls are never merged, so every flush leaves files that stay until they are forgotten.
const FLUSH_PARTS: u64 = 24;

/// … or for so many times `flush_ms`: the log keeps what isn't flushed.
const FLUSH_WAITS: u64 = 960;

/// What became of a flush.
pub(super) enum FlushStep {
    /// It has begun, of this state, then.
    Begun(Flushed, Instant),
    /// It is over: this is on disk.
    Over(Flushed),
}

/// A commit on its way.
pub(super) struct Commit {
    started: Instant,
    /// Of what leaves the partition, the first that was decided since the last commit.
    first_output: usize,
    first_forward: usize,
    changed: Changed,
    bytes: CommitBytes,
}

impl Partition {
    /// Writes everything that changed, in one batch. Beside another process nothing is written.
    pub fn commit(&mut self) -> Result<(), PartitionError> {
        self.compare_pending()?;
        if let Some(mut commit) = self.begin_commit()? {
            self.write_commit(&mut commit)?;
            self.end_commit(&commit);
            let step = self.flush_when_due()?;
            self.flush_stepped(step);
        }
        Ok(())
    }

    /// Outputs that are delivered already must be the same ones: compared before anything is written. Also once the tails are
    /// reached: what reached them may not have been committed yet. The partition may go on after an interruption, and still
    /// has them then.
    pub(super) fn compare_pending(&self) -> Result<(), PartitionError> {
        let outputs = &self.machine.outputs.pending;
        if self.rocks.read_only || outputs.is_empty() {
            return Ok(());
        }
        self.compare(outputs)
    }

    /// Takes what changes with a commit; what is written is put together after it from what stays as it is. `None`: beside
    /// another process nothing is written.
    pub(super) fn begin_commit(&mut self) -> Result<Option<Commit>, PartitionError> {
        if self.rocks.read_only {
            self.machine.outputs.take();
            return Ok(None);
        }
        let started = Instant::now();
        // Those that were compared a moment ago are out: they need no outbox, and when a partition is folded anew from its
        // beginning there are more of them than memory holds.
        let delivered = self.delivered_up_to()?;
        let (mut outputs, forwards) = self.machine.outputs.take();
        outputs.retain(|output| output.sequence > delivered[output.topic as usize]);
        let (first_output, first_forward) = (self.unsent.len(), self.forwarding.unsent.len());
        self.unsent.extend(outputs);
        let forwards = self.forwarding.to_keep(forwards);
        self.forwarding.unsent.extend(forwards);
        self.shelf.forget(self.flushed.forget_line);
        let changed = commit::take(&self.rocks, &mut self.machine, &mut self.written)?;
        Ok(Some(Commit {
            started,
            first_output,
            first_forward,
            changed,
            bytes: CommitBytes::default(),
        }))
    }

    /// Puts together what changed and writes it. Others may read meanwhile.
    pub(super) fn write_commit(&self, commit: &mut Commit) -> Result<(), PartitionError> {
        let leaving = Leaving {
            outputs: &self.unsent[commit.first_output..],
            delivered: &self.delivered,
            forwards: &self.forwarding.unsent[commit.first_forward..],
            forwarded: &self.forwarding.sent,
        };
        let changed = std::mem::take(&mut commit.changed);
        let (batch, bytes) = commit::fill(&self.rocks, &self.machine, &self.shelf, changed, leaving, self.last)?;
        commit.bytes = bytes;
        Ok(self.rocks.write(batch)?)
    }

    /// Takes it as written.
    pub(super) fn end_commit(&mut self, commit: &Commit) {
        let bytes = &commit.bytes;
        self.written.wrote(bytes);
        self.shelf.stored();
        self.delivered.clear();
        self.forwarding.sent.clear();
        self.machine.evict();
        self.committed = self.machine.position;
        self.committed_at = Instant::now();
        self.work.commits += 1;
        self.work.bytes.add(bytes);
        self.work.commit_time += commit.started.elapsed();
        tracing::debug!(
            partition = self.number,
            next_offset = self.committed.next_offset,
            batch_bytes = bytes.all,
            commit_us = commit.started.elapsed().as_micros() as u64,
            "committed"
        );
    }

    /// Sequences of the last outputs delivered, of the topics of those decided since the last commit.
    fn delivered_up_to(&self) -> Result<[u64; 4], PartitionError> {
        let mut delivered = [0; 4];
        for topic in Topic::ALL {
            if self.machine.outputs.pending.iter().any(|output| output.topic == topic) {
                delivered[topic as usize] = self.log.output_tail(self.number, topic)?.sequence;
            }
        }
        Ok(delivered)
    }

    /// Compares outputs with those that are delivered under their sequences.
    pub(super) fn compare(&self, outputs: &[Output]) -> Result<(), PartitionError> {
        for topic in Topic::ALL {
            let tail = self.log.output_tail(self.number, topic)?.sequence;
            let delivered: Vec<Output> = outputs
                .iter()
                .filter(|o| o.topic == topic && o.sequence <= tail)
                .cloned()
                .collect();
            self.log.append_outputs(self.number, &delivered)?;
        }
        Ok(())
    }

    /// Ends a flush that is over, or begins one that is due: waits for the disk, and others may read meanwhile.
    pub(super) fn flush_when_due(&self) -> Result<Option<FlushStep>, PartitionError> {
        if self.rocks.read_only {
            return Ok(None);
        }
        if let Some(flushing) = self.flushing {
            if self.rocks.is_flushing() {
                return Ok(None);
            }
            self.shelf.drop_files(&self.rocks)?;
            return Ok(Some(FlushStep::Over(flushing)));
        }
        let (bytes, ms) = (
            self.rocks.unflushed_bytes(),
            self.flushed_at.elapsed().as_millis() as u64,
        );
        let worth_it = bytes >= self.settings.flush_bytes / FLUSH_PARTS || ms >= self.settings.flush_ms * FLUSH_WAITS;
        let due = bytes >= self.settings.flush_bytes || (ms >= self.settings.flush_ms && worth_it);
        if !due {
            return Ok(None);
        }
        let began = FlushStep::Begun(self.state_on_disk(), Instant::now());
        self.rocks.start_flush()?;
        Ok(Some(began))
    }

    /// Takes in what became of a flush.
    pub(super) fn flush_stepped(&mut self, step: Option<FlushStep>) {
        match step {
            Some(FlushStep::Over(flushed)) => {
                self.flushed = flushed;
                self.flushing = None;
                self.prune_below = Some(flushed.position.next_offset);
            }
            Some(FlushStep::Begun(flushing, at)) => {
                self.flushed_at = at;
                self.flushing = Some(flushing);
            }
            None => {}
        }
    }

    pub(super) fn state_on_disk(&self) -> Flushed {
        Flushed {
            position: self.committed,
            forget_line: self.machine.clock.forget_line,
        }
    }
}
