//! What brokers, networks, clocks and operators do to the instances.

use crate::action::Action;
use crate::fold::{TOPICS, Version};
use crate::instance::{Halt, Instance};
use crate::promise::Breach;
use crate::scene::Scene;
use crate::store::Store;
use crate::world::World;

impl World {
    /// A step that isn't an instance's own.
    pub fn happen(&mut self, scene: &Scene, action: Action) -> Result<(), Breach> {
        match action {
            Action::Append => self.input.end += 1,
            Action::Marker { producer, topic } => {
                self.broker.mark(producer, usize::from(topic));
                return self.outputs(scene);
            }
            Action::Arrive(producer) => {
                let producer = &mut self.broker.producers[usize::from(producer)];
                if producer.under_way.take() == Some(producer.epoch) {
                    producer.decide(true);
                }
            }
            Action::Lose(producer) => self.broker.producers[usize::from(producer)].under_way = None,
            Action::Heal(topic) => self.broker.partitions[usize::from(topic)].stale = None,
            Action::HealInput => self.input.stale = None,
            Action::Crash(i) => self.instances[usize::from(i)].die(),
            Action::Fail { instance, commit } => {
                if commit {
                    let epoch = self.instances[usize::from(instance)].epoch;
                    let producer = Self::producer_of(scene, instance);
                    self.broker.producers[usize::from(producer)].under_way = Some(epoch);
                }
                self.failed(scene, instance, false);
            }
            Action::TimeOut(producer) => {
                let producer = &mut self.broker.producers[usize::from(producer)];
                producer.epoch += 1;
                producer.decide(false);
            }
            Action::Expire { instance, to } => self.group.expire(instance, to),
            Action::HandOver(to) => self.group.hand_over(to),
            Action::Isolate(topic) => {
                let partition = &mut self.broker.partitions[usize::from(topic)];
                partition.stale = Some(partition.entries.len() as u8);
            }
            Action::IsolateInput => self.input.stale = Some(self.input.end),
            Action::Truncate(at) => self.input.truncate(at),
            Action::Retain(from) => self.input.start = from,
            Action::Purge(topic) => {
                let partition = &mut self.broker.partitions[usize::from(topic)];
                partition.start = partition.entries.len() as u8;
                partition.stale = None;
            }
            Action::Restore { instance, from } => {
                let copy = from.map_or_else(Store::default, |from| self.instances[usize::from(from)].flushed);
                let instance = &mut self.instances[usize::from(instance)];
                instance.flushed = copy;
                instance.die();
            }
            Action::Silence(i) => self.instances[usize::from(i)].unheard = true,
            Action::Repair(i) => {
                let instance = &mut self.instances[usize::from(i)];
                instance.halted = None;
                instance.version = Version::Old;
                if !scene.keep {
                    instance.flushed = Store::default();
                    instance.die();
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The operator can do something for a halted instance: it runs the new version, or its store was written by it.
    pub fn repairable(&self, scene: &Scene, instance: &Instance) -> bool {
        let told = matches!(instance.halted, Some(Halt::Mismatch | Halt::TailAhead | Halt::Gap));
        let spoilt = !scene.keep && !scene.single() && self.spoilt(scene, instance);
        told && (instance.version == Version::New || spoilt)
    }

    /// The store isn't what the instance's version folds from the log as it is.
    pub fn spoilt(&self, scene: &Scene, instance: &Instance) -> bool {
        let store = &instance.written;
        let states = &scene.truth(instance.version, self.input.cut).states;
        states
            .get(usize::from(store.position.next))
            .is_none_or(|s| *s != store.state)
    }

    /// All that is left to hope for: nothing more goes wrong.
    pub fn calm_down(&mut self) {
        self.budget = 0;
        self.calm = true;
    }

    /// Nobody can take the partition further.
    pub fn all_halted(&self, scene: &Scene) -> bool {
        let instances = &self.instances[..scene.versions.len()];
        instances
            .iter()
            .all(|i| i.halted.is_some() && !self.repairable(scene, i))
    }

    /// Transactions at rest, everything readable.
    pub fn at_rest(&self) -> bool {
        self.broker.producers.iter().all(|p| p.partitions == [false; TOPICS])
    }
}
