//! What is promised, looked at after every step that could break it.

use std::fmt;

use crate::broker::What;
use crate::fold::{Row, TOPICS, Truth, Version};
use crate::input::WHOLE;
use crate::instance::Halt;
use crate::scene::Scene;
use crate::world::World;

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// A read_committed reader finds a sequence that isn't the next one.
    Gap { topic: usize, sequence: u8, after: u8 },
    /// The same sequence again.
    Double { topic: usize, sequence: u8 },
    /// Committed outputs are no fold of any history of the log.
    Content,
    /// A reader that takes exactly the next sequence, committed or not, gets other content.
    NextSequence { topic: usize, sequence: u8 },
    /// A row left an outbox and wasn't committed.
    Pruned { topic: usize, sequence: u8 },
    /// Nothing was wrong, or the cure was applied.
    HaltedWithoutCause { instance: u8, why: Halt },
    /// No fault any more, and outputs stay undelivered.
    NeverArrives,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |topic: usize| char::from(b'A' + topic as u8);
        match *self {
            Self::Gap { topic, sequence, after } => {
                write!(f, "gap: in {} comes {sequence} after {after}", name(topic))
            }
            Self::Double { topic, sequence } => write!(f, "double: {} {sequence} is delivered twice", name(topic)),
            Self::Content => write!(f, "content: what is delivered is no fold of the log"),
            Self::NextSequence { topic, sequence } => {
                write!(
                    f,
                    "content: who takes the next sequence gets another {} {sequence}",
                    name(topic)
                )
            }
            Self::Pruned { topic, sequence } => write!(f, "pruned: {} {sequence} was never committed", name(topic)),
            Self::HaltedWithoutCause { instance, why } => write!(f, "halted: {instance} for no reason ({why:?})"),
            Self::NeverArrives => write!(f, "lost: outputs stay undelivered though nothing is wrong any more"),
        }
    }
}

impl World {
    /// Readers' promises.
    pub fn outputs(&self, scene: &Scene) -> Result<(), Breach> {
        for (topic, partition) in self.broker.partitions.iter().enumerate() {
            let found = self.broker.read(topic, partition.entries.len());
            for (after, (sequence, _)) in (0u8..).zip(found.rows()) {
                let sequence = *sequence;
                if sequence <= after {
                    return Err(Breach::Double { topic, sequence });
                } else if sequence != after + 1 {
                    return Err(Breach::Gap { topic, sequence, after });
                }
            }
            if scene.next_sequence {
                self.next_sequence(topic)?;
            }
        }
        if self.candidates(scene).next().is_none() {
            return Err(Breach::Content);
        }
        Ok(())
    }

    /// The reader with one integer a partition: what it took is what is committed. Says how far it is.
    fn next_sequence(&self, topic: usize) -> Result<u8, Breach> {
        let committed = self.broker.decided(topic);
        let mut last = 0;
        for entry in &self.broker.partitions[topic].entries {
            let sequence = entry.sequence;
            if entry.what == What::Output && sequence == last + 1 {
                if committed.chain(sequence).is_some_and(|chain| chain != entry.chain) {
                    return Err(Breach::NextSequence { topic, sequence });
                }
                last = sequence;
            }
        }
        Ok(last)
    }

    /// What may count as the truth, given what is committed: a version's fold of the log as it is, or was; with its end.
    fn candidates<'a>(&'a self, scene: &'a Scene) -> impl Iterator<Item = (&'a Truth, u8)> {
        let decided = [0, 1].map(|topic| self.broker.decided(topic));
        let histories = [
            Some((self.input.cut, self.input.end)),
            self.input.truncated().then_some((WHOLE, self.input.end_before)),
        ];
        let new = scene.versions.contains(&Version::New);
        let versions = [Some(Version::Old), new.then_some(Version::New)];
        let all = versions.into_iter().flatten();
        all.flat_map(move |version| histories.into_iter().flatten().map(move |h| (version, h)))
            .map(|(version, (cut, end))| (scene.truth(version, cut), end))
            .filter(move |(truth, _)| {
                (0..TOPICS).all(|topic| {
                    let rows = decided[topic].rows();
                    rows.iter().zip(&truth.rows[topic]).all(|(row, chain)| row.1 == *chain)
                })
            })
    }

    /// A row has left an outbox.
    pub fn pruned(&self, scene: &Scene, row: Row) -> Result<(), Breach> {
        let Row { topic, sequence, chain } = row;
        if scene.lenient || self.broker.decided(topic).chain(sequence) == Some(chain) {
            return Ok(());
        }
        Err(Breach::Pruned { topic, sequence })
    }

    /// Halting stops a partition's invoices: it takes a real reason.
    pub fn halted_with_cause(&self, scene: &Scene, instance: u8, why: Halt) -> Result<(), Breach> {
        let log_hurt = self.input.truncated() || self.input.start > 0;
        let outputs_hurt = self.broker.partitions.iter().any(|p| p.start > 0);
        let halted = &self.instances[usize::from(instance)];
        let cause = match why {
            Halt::HistoryLost => self.input.start > 0,
            Halt::Truncated => self.input.truncated(),
            Halt::Dropped => self.outputs_removed(),
            Halt::Mismatch | Halt::TailAhead | Halt::Gap => {
                let own = scene.truth(halted.version, self.input.cut);
                let contradicted = !self.candidates(scene).any(|(truth, _)| std::ptr::eq(truth, own));
                // A fold that was never delivered against may have been written before anything was known.
                let spoilt = !scene.keep && !scene.single() && self.spoilt(scene, halted);
                log_hurt || outputs_hurt || contradicted || spoilt
            }
        };
        if cause {
            return Ok(());
        }
        Err(Breach::HaltedWithoutCause { instance, why })
    }

    /// Retention took outputs, not only barriers.
    fn outputs_removed(&self) -> bool {
        let starts = self.broker.partitions.iter().map(|p| usize::from(p.start)).enumerate();
        starts
            .into_iter()
            .any(|(topic, start)| self.broker.read(topic, start).last() > 0)
    }

    /// Both readers have all there is to have.
    pub fn arrived(&self, scene: &Scene) -> bool {
        self.at_rest()
            && self.candidates(scene).any(|(truth, end)| {
                let all = truth.states[usize::from(end)].sequence;
                (0..TOPICS).all(|topic| {
                    let entries = self.broker.partitions[topic].entries.len();
                    let next = self.next_sequence(topic);
                    self.broker.read(topic, entries).last() == all[topic]
                        && (!scene.next_sequence || next == Ok(all[topic]))
                })
            })
    }
}
