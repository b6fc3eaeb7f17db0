//! The protocol, as one instance follows it step by step.

use crate::action::Action;
use crate::broker::{Transaction, What};
use crate::fold::{Row, TOPICS};
use crate::instance::{Halt, Instance, Phase};
use crate::promise::Breach;
use crate::scene::{Flaw, Scene};
use crate::store::Position;
use crate::world::World;

impl World {
    /// A step of an instance that isn't halted.
    pub fn step(&mut self, scene: &Scene, i: u8, action: Action) -> Result<(), Breach> {
        let at = usize::from(i);
        match action {
            Action::Learn(_) => return self.learn(scene, i),
            Action::Ask(_) => {
                let confirmed = self.group.owner == Some(i) && self.group.generation == self.instances[at].generation;
                let phase = if confirmed || scene.has(Flaw::NoAsk) {
                    Phase::Init
                } else {
                    Phase::Standby
                };
                self.instances[at].go_to(phase);
            }
            Action::Init(_) => self.initialise(scene, i),
            Action::Barrier(_) => self.barrier(scene, i),
            Action::Abort(_) => {
                let producer = usize::from(Self::producer_of(scene, i));
                let (fenced, ongoing) = (!self.holds(scene, i), {
                    let p = &mut self.broker.producers[producer];
                    p.epoch == self.instances[at].epoch && p.decide(false)
                });
                if ongoing {
                    self.instances[at].phase = Phase::Tails;
                } else {
                    self.failed(scene, i, fenced);
                }
            }
            Action::Tail { topic, stale, .. } => return self.read_tail(scene, i, usize::from(topic), stale),
            Action::AtEnd(_) => return self.halt(scene, i, Halt::TailAhead),
            Action::Fold { records, .. } => return self.fold(scene, i, records),
            Action::Compare(_) => return self.halt(scene, i, Halt::Mismatch),
            Action::Flush(_) => {
                let instance = &mut self.instances[at];
                instance.flushed = instance.written;
                self.offset_committed(scene, i);
            }
            Action::FlushFamily(_, family) => {
                let instance = &mut self.instances[at];
                match family {
                    0 => instance.flushed.state = instance.written.state,
                    1 => instance.flushed.outbox = instance.written.outbox,
                    _ => instance.flushed.position = instance.written.position,
                }
            }
            Action::Produce(_) => return self.produce(scene, i),
            Action::Commit(_) => self.commit(scene, i),
            Action::Prune(_) => return self.prune(scene, i),
            _ => {}
        }
        Ok(())
    }

    /// The coordinator hasn't given the id to anybody else.
    fn holds(&self, scene: &Scene, i: u8) -> bool {
        self.broker.producers[usize::from(Self::producer_of(scene, i))].epoch == self.instances[usize::from(i)].epoch
    }

    /// Any error of the producer: to step 1.
    pub fn failed(&mut self, scene: &Scene, i: u8, fenced: bool) {
        let silent = fenced && scene.has(Flaw::RevokeWhenFenced);
        self.instances[usize::from(i)].go_to(if silent { Phase::GaveUp } else { Phase::Ask });
    }

    /// Whoever halts writes nothing, prunes nothing, and has to have a reason.
    pub fn halt(&mut self, scene: &Scene, i: u8, why: Halt) -> Result<(), Breach> {
        let instance = &mut self.instances[usize::from(i)];
        instance.die();
        instance.halted = Some(why);
        self.halted_with_cause(scene, i, why)
    }

    /// Whether nobody answers what the instance asks now.
    fn unheard(&mut self, i: u8) -> bool {
        std::mem::take(&mut self.instances[usize::from(i)].unheard)
    }

    fn learn(&mut self, scene: &Scene, i: u8) -> Result<(), Breach> {
        let at = usize::from(i);
        // Whether the log is still the one it was: without an answer it asks again.
        if self.instances[at].generation == 0 && self.unheard(i) {
            return Ok(());
        }
        if self.instances[at].generation == 0
            && let Err(why) = self.history(scene, &self.instances[at], true)
        {
            return self.halt(scene, i, why);
        }
        self.group.join(i);
        let instance = &mut self.instances[at];
        instance.generation = self.group.generation;
        if self.group.owner != Some(i) {
            instance.go_to(Phase::Standby);
        } else if instance.phase == Phase::Standby {
            instance.phase = Phase::Ask;
        }
        Ok(())
    }

    /// Step 1. An older owner's open transaction is aborted first; the coordinator takes no other call meanwhile.
    fn initialise(&mut self, scene: &Scene, i: u8) {
        let producer = usize::from(Self::producer_of(scene, i));
        let producer = &mut self.broker.producers[producer];
        let instance = &mut self.instances[usize::from(i)];
        if !scene.has(Flaw::NoFence) {
            producer.epoch += 1;
            if producer.decide(false) {
                return;
            }
        }
        instance.epoch = producer.epoch;
        let skip = scene.has(Flaw::NoBarrier);
        instance.phase = if skip { Phase::Tails } else { Phase::Barrier };
    }

    /// Step 2.
    fn barrier(&mut self, scene: &Scene, i: u8) {
        if !self.holds(scene, i) {
            return self.failed(scene, i, true);
        }
        let producer = Self::producer_of(scene, i);
        let instance = &mut self.instances[usize::from(i)];
        for topic in 0..TOPICS {
            instance.barrier[topic] = self.broker.partitions[topic].entries.len() as u8;
            let none = Row {
                topic,
                sequence: 0,
                chain: 0,
            };
            self.broker.append(producer, What::Barrier, none);
        }
        instance.phase = Phase::Abort;
    }

    /// Step 3.
    fn read_tail(&mut self, scene: &Scene, i: u8, topic: usize, stale: bool) -> Result<(), Breach> {
        let unheard = self.unheard(i);
        if unheard && !scene.has(Flaw::SilentTail) {
            self.failed(scene, i, false);
            return Ok(());
        }
        let partition = &self.broker.partitions[topic];
        let end = match partition.stale {
            Some(end) if stale => usize::from(end),
            _ => partition.entries.len(),
        };
        let start = usize::from(partition.start).min(end);
        let mut tail = if scene.has(Flaw::ReadUncommitted) {
            let outputs = partition.entries[start..end].iter().rev();
            outputs
                .filter(|e| e.what == What::Output)
                .map(|e| e.sequence)
                .next()
                .unwrap_or(0)
        } else if start > 0 {
            // What was removed can't be read back.
            let before = self.broker.read(topic, start).last();
            Some(self.broker.read(topic, end).last())
                .filter(|last| *last > before)
                .unwrap_or(0)
        } else {
            self.broker.read(topic, end).last()
        };
        if unheard {
            tail = 0;
        } else if tail == 0 && start > 0 && !scene.has(Flaw::EmptyTail) {
            return self.halt(scene, i, Halt::Dropped);
        }
        if scene.has(Flaw::GroupOffset) {
            let states = &scene.truth(scene.versions[usize::from(i)], self.input.cut).states;
            tail = tail.max(states[usize::from(self.group.committed)].sequence[topic]);
        }
        let instance = &mut self.instances[usize::from(i)];
        instance.tail[topic] = Some(tail);
        if instance.tail.iter().all(Option::is_some) {
            return self.catch_up(scene, i);
        }
        Ok(())
    }

    /// Step 4 begins: what the outbox holds up to the tails is compared, and then known to be delivered.
    fn catch_up(&mut self, scene: &Scene, i: u8) -> Result<(), Breach> {
        let at = usize::from(i);
        let tails = self.instances[at].tail.map(Option::unwrap_or_default);
        let outbox = self.instances[at].written.outbox;
        let compares = (0..TOPICS).any(|t| outbox.up_to(t, tails[t]).next().is_some());
        let unheard = compares && self.unheard(i);
        if unheard && !scene.has(Flaw::SilentCompare) {
            self.failed(scene, i, false);
            return Ok(());
        }
        let store = &self.instances[at].written;
        for (topic, &tail) in tails.iter().enumerate() {
            if store
                .outbox
                .up_to(topic, tail)
                .any(|row| !unheard && self.differs(scene, row, tail))
            {
                return self.halt(scene, i, Halt::Mismatch);
            }
            if store.state.sequence[topic] > tail && store.outbox.get(topic, tail + 1).is_none() {
                return self.halt(scene, i, Halt::Gap);
            }
        }
        let instance = &mut self.instances[at];
        instance.phase = Phase::CatchUp;
        instance.delivered = tails;
        instance.sent = tails;
        self.prune(scene, i)?;
        self.reach(scene, i);
        Ok(())
    }

    /// A row up to the tail isn't what was delivered.
    fn differs(&self, scene: &Scene, row: Row, tail: u8) -> bool {
        if scene.has(Flaw::CompareLast) && row.sequence != tail {
            return false;
        }
        let delivered = self.broker.decided(row.topic).chain(row.sequence);
        delivered.is_some_and(|chain| chain != row.chain)
    }

    /// Step 4 ends once the store is where the tails are.
    fn reach(&mut self, scene: &Scene, i: u8) {
        let instance = &mut self.instances[usize::from(i)];
        if instance.phase != Phase::CatchUp {
            return;
        }
        let sequence = instance.written.state.sequence;
        let mut reached = (0..TOPICS).map(|t| Some(sequence[t]) >= instance.tail[t]);
        let reached = if scene.has(Flaw::AnyTail) {
            reached.any(|r| r)
        } else {
            reached.all(|r| r)
        };
        if reached {
            instance.phase = Phase::Emit;
        }
    }

    /// The log is still the one we have folded.
    fn history(&self, scene: &Scene, instance: &Instance, look: bool) -> Result<(), Halt> {
        let Position { next, content, .. } = instance.written.position;
        if self.input.start > next && !scene.has(Flaw::HistoryIgnored) {
            return Err(Halt::HistoryLost);
        }
        if scene.has(Flaw::NoEpochCheck) {
            return Ok(());
        }
        let look = look && next > self.input.start;
        if self.input.end < next || (look && self.input.at(next - 1).content != content) {
            return Err(Halt::Truncated);
        }
        Ok(())
    }

    /// A batch: load, decide, compare what is known to be delivered, write at once.
    fn fold(&mut self, scene: &Scene, i: u8, records: u8) -> Result<(), Breach> {
        let elected = {
            let position = self.instances[usize::from(i)].written.position;
            position.leader_epoch != self.input.at(position.next).leader_epoch
        };
        // Looking the last folded record up again is a question, too: it is asked again with the next batch.
        if elected && self.unheard(i) {
            return Ok(());
        }
        let instance = &self.instances[usize::from(i)];
        let mut store = instance.written;
        if let Err(why) = self.history(scene, instance, elected) {
            return self.halt(scene, i, why);
        }
        store.position.next = store.position.next.max(self.input.start);
        if store.position.next >= self.input.end {
            return Ok(());
        }
        let tails = if instance.knows_tails() {
            instance.tail.map(Option::unwrap_or_default)
        } else {
            [0; TOPICS]
        };
        let (mut differs, mut compares) = (false, false);
        for _ in 0..records {
            let record = self.input.at(store.position.next);
            let outbox = &mut store.outbox;
            scene.fold.step(instance.version, &mut store.state, record, |row| {
                if row.sequence <= tails[row.topic] {
                    compares = true;
                    differs |= self.differs(scene, row, tails[row.topic]);
                } else {
                    outbox.put(row);
                }
            });
            store.position = Position {
                next: record.offset + 1,
                content: record.content,
                leader_epoch: record.leader_epoch,
            };
        }
        if compares && self.unheard(i) {
            if !scene.has(Flaw::SilentCompare) {
                self.failed(scene, i, false);
                return Ok(());
            }
            differs = false;
        }
        if differs && !scene.has(Flaw::CompareAfter) {
            return self.halt(scene, i, Halt::Mismatch);
        }
        let instance = &mut self.instances[usize::from(i)];
        instance.written = store;
        instance.doubt = differs;
        self.reach(scene, i);
        Ok(())
    }

    /// Step 5: the next row, or all that wait.
    fn produce(&mut self, scene: &Scene, i: u8) -> Result<(), Breach> {
        if !self.holds(scene, i) {
            self.failed(scene, i, true);
            return Ok(());
        }
        let producer = Self::producer_of(scene, i);
        let instance = &mut self.instances[usize::from(i)];
        instance.phase = Phase::Open;
        let outbox = instance.written.outbox;
        let sent_before = instance.sent;
        'rows: for topic in 0..TOPICS {
            while let Some(row) = outbox.get(topic, instance.sent[topic] + 1) {
                self.broker.append(producer, What::Output, row);
                instance.sent[topic] += 1;
                if !scene.whole {
                    break 'rows;
                }
            }
        }
        if scene.has(Flaw::PruneProduced) {
            let sent = instance.sent;
            for topic in 0..TOPICS {
                for row in outbox
                    .up_to(topic, sent[topic])
                    .filter(|row| row.sequence > sent_before[topic])
                {
                    self.remove(scene, i, row)?;
                }
            }
        }
        self.outputs(scene)
    }

    fn commit(&mut self, scene: &Scene, i: u8) {
        let fenced = !self.holds(scene, i);
        let producer = usize::from(Self::producer_of(scene, i));
        let producer = &mut self.broker.producers[producer];
        let ongoing = producer.transaction == Transaction::Ongoing;
        if fenced || !ongoing {
            return self.failed(scene, i, fenced);
        }
        producer.decide(true);
        let instance = &mut self.instances[usize::from(i)];
        instance.delivered = instance.sent;
        instance.phase = Phase::Emit;
    }

    fn prune(&mut self, scene: &Scene, i: u8) -> Result<(), Breach> {
        let Instance { written, delivered, .. } = self.instances[usize::from(i)];
        for (topic, delivered) in delivered.into_iter().enumerate() {
            for row in written.outbox.up_to(topic, delivered) {
                self.remove(scene, i, row)?;
            }
        }
        Ok(())
    }

    fn remove(&mut self, scene: &Scene, i: u8, row: Row) -> Result<(), Breach> {
        let outbox = &mut self.instances[usize::from(i)].written.outbox;
        outbox.remove(row.topic, row.sequence);
        self.pruned(scene, row)
    }

    /// An owner commits its flushed offset to the group, as consumers do.
    fn offset_committed(&mut self, scene: &Scene, i: u8) {
        let instance = &self.instances[usize::from(i)];
        if scene.has(Flaw::GroupOffset) && instance.phase > Phase::GaveUp {
            self.group.committed = self.group.committed.max(instance.flushed.position.next);
        }
    }
}
