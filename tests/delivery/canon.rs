//! Worlds that can't be told apart from now on are made the same: what is explored from one needn't be from the other.
//!
//! Only numbers that are compared and never counted go: epochs and generations nobody holds any more, offsets of what every
//! reader is past. `random.rs` plays without it.

use crate::broker::{Entry, Partition, What};
use crate::fold::TOPICS;
use crate::instance::Phase;
use crate::scene::{Flaw, Scene};
use crate::world::World;

impl World {
    /// The one that stands for all that are alike.
    pub fn canonical(&mut self, scene: &Scene) {
        self.forget_numbers(scene);
        for topic in 0..TOPICS {
            if !scene.has(Flaw::NoBarrier) {
                self.forget_deposed(topic);
            }
            self.shorten(topic);
        }
    }

    /// Of generations and epochs it matters only whether they are the newest.
    fn forget_numbers(&mut self, scene: &Scene) {
        for i in 0..Self::count(scene) {
            let producer = &self.broker.producers[usize::from(Self::producer_of(scene, i))];
            let instance = &mut self.instances[usize::from(i)];
            if instance.epoch != 0 {
                instance.epoch = 1 + u8::from(instance.epoch == producer.epoch);
            }
            if instance.generation != 0 {
                instance.generation = 1 + u8::from(instance.generation == self.group.generation);
            }
            // Read no more once the tails are.
            if instance.knows_tails() {
                instance.barrier = [0; TOPICS];
            }
        }
        self.group.generation = 2;
        for producer in &mut self.broker.producers {
            let newest = producer.epoch;
            producer.under_way = producer.under_way.map(|epoch| 1 + u8::from(epoch == newest));
            producer.epoch = 2;
        }
    }

    /// A deposed leader that no reader will believe: barriers still to come lie past all it knows.
    fn forget_deposed(&mut self, topic: usize) {
        let readers = self
            .instances
            .iter()
            .filter(|i| matches!(i.phase, Phase::Abort | Phase::Tails));
        let stale = &mut self.broker.partitions[topic].stale;
        *stale = stale.filter(|&end| readers.into_iter().any(|i| i.barrier[topic] < end));
    }

    /// Transactions over and done with: their outputs stay, and what a reader that takes the next sequence took of an aborted one.
    fn shorten(&mut self, topic: usize) {
        let pins = self
            .instances
            .iter()
            .filter(|i| matches!(i.phase, Phase::Abort | Phase::Tails));
        let pins = pins
            .map(|i| i.barrier[topic])
            .chain(self.broker.partitions[topic].stale);
        let pinned = pins.map(usize::from).min();
        let Partition { entries, start, .. } = &self.broker.partitions[topic];
        let end = pinned.unwrap_or(entries.len());
        // Everything before has its marker before, too.
        let end = self.broker.read(topic, end).stable;
        if *start > 0 || end == 0 {
            return;
        }
        let mut short: Vec<Entry> = Vec::with_capacity(entries.len());
        let marker = |what| Entry {
            what,
            producer: 0,
            sequence: 0,
            chain: 0,
        };
        let found = self.broker.read(topic, end);
        short.extend(found.rows().iter().map(|&(sequence, chain)| Entry {
            what: What::Output,
            producer: 0,
            sequence,
            chain,
        }));
        if !short.is_empty() {
            short.push(marker(What::Commit));
        }
        let mut next = 1;
        let committed = found.last();
        let whole = short.len();
        for entry in entries[..end].iter().filter(|e| e.what == What::Output) {
            if entry.sequence == next {
                next += 1;
                if entry.sequence > committed {
                    short.push(Entry { producer: 0, ..*entry });
                }
            }
        }
        if short.len() > whole {
            short.push(marker(What::Abort));
        }
        // Longer than what it stands for: as it is, then.
        if short.len() > end {
            return;
        }
        let less = (end - short.len()) as u8;
        short.extend_from_slice(&entries[end..]);
        let partition = &mut self.broker.partitions[topic];
        partition.entries = short;
        partition.stale = partition.stale.map(|stale| stale - less);
        for instance in &mut self.instances {
            if matches!(instance.phase, Phase::Abort | Phase::Tails) {
                instance.barrier[topic] -= less;
            }
        }
    }
}
