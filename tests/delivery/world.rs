//! The whole of it at one moment, and what can happen next.

use crate::action::Action;
use crate::broker::{Broker, Transaction};
use crate::fold::TOPICS;
use crate::group::{Group, INSTANCES};
use crate::input::Input;
use crate::instance::{Instance, Phase};
use crate::promise::Breach;
use crate::scene::{Flaw, Scene};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub input: Input,
    pub broker: Broker,
    pub group: Group,
    pub instances: [Instance; INSTANCES],
    /// Faults still to come.
    pub budget: u8,
    /// No more faults: what is under way comes to its end.
    pub calm: bool,
}

impl World {
    /// All instances are members, the first is the owner.
    pub fn new(scene: &Scene) -> Self {
        let mut instances = [Instance::new(scene.versions[0]); INSTANCES];
        let mut members = [false; INSTANCES];
        for (i, version) in scene.versions.iter().enumerate() {
            instances[i].version = *version;
            instances[i].generation = 1;
            members[i] = true;
        }
        instances[0].phase = Phase::Ask;
        let mut world = Self {
            input: Input::new(scene.records),
            broker: Broker::default(),
            group: Group {
                generation: 1,
                owner: Some(0),
                members,
                committed: 0,
            },
            instances,
            budget: 0,
            calm: false,
        };
        if scene.delivered {
            world.deliver(scene);
        }
        world.budget = scene.faults.budget;
        world
    }

    /// The first instance delivers all there is while nothing else moves; then its store is flushed.
    fn deliver(&mut self, scene: &Scene) {
        let mut choices = Vec::new();
        loop {
            choices.clear();
            self.enabled(scene, &mut choices);
            let next = choices
                .iter()
                .filter(|a| a.instance().is_none_or(|i| i == 0) && **a != Action::Append)
                .filter(|a| a.rank().is_some())
                .min_by_key(|a| a.rank());
            let Some(next) = next else { break };
            self.apply(scene, *next).expect("no fault, no flaw yet");
        }
        self.instances[0].flushed = self.instances[0].written;
    }

    pub fn count(scene: &Scene) -> u8 {
        scene.versions.len() as u8
    }

    /// Number of the transactional.id that an instance uses.
    pub fn producer_of(scene: &Scene, instance: u8) -> u8 {
        if scene.has(Flaw::OwnProducer) { instance } else { 0 }
    }

    /// Everything that can happen next.
    pub fn enabled(&self, scene: &Scene, out: &mut Vec<Action>) {
        for i in 0..Self::count(scene) {
            let instance = &self.instances[usize::from(i)];
            if instance.halted.is_none() {
                self.steps(scene, i, instance, out);
            } else {
                let other_owner = self.group.other_members(i).next();
                if self.group.members[usize::from(i)] {
                    out.push(Action::Expire {
                        instance: i,
                        to: other_owner,
                    });
                }
                if self.repairable(scene, instance) {
                    out.push(Action::Repair(i));
                }
            }
        }
        // The last record is kept for the calm: an idle log is ticked, and that is when a truncation is noticed.
        let kept = u8::from(scene.faults.truncate && !self.calm);
        if self.input.end + kept < scene.records_max() {
            out.push(Action::Append);
        }
        for (producer, p) in (0u8..).zip(&self.broker.producers) {
            for topic in 0..TOPICS as u8 {
                if p.busy() && p.partitions[usize::from(topic)] {
                    out.push(Action::Marker { producer, topic });
                }
            }
            if self.calm && self.abandoned(scene, producer) {
                out.push(Action::TimeOut(producer));
            }
            if p.under_way.is_some() {
                out.push(Action::Arrive(producer));
                out.push(Action::Lose(producer));
            }
        }
        for topic in 0..TOPICS as u8 {
            if self.broker.partitions[usize::from(topic)].stale.is_some() {
                out.push(Action::Heal(topic));
            }
        }
        if self.input.stale.is_some() {
            out.push(Action::HealInput);
        }
        if self.budget > 0 {
            self.faults(scene, out);
        }
    }

    /// A store may still be lost. Otherwise it makes no difference what is flushed, and everything is, at once.
    pub fn flushes(&self, scene: &Scene) -> bool {
        self.budget > 0 && (scene.faults.crash || scene.faults.restore)
    }

    /// The steps that an instance can take.
    fn steps(&self, scene: &Scene, i: u8, instance: &Instance, out: &mut Vec<Action>) {
        if instance.generation != self.group.generation {
            out.push(Action::Learn(i));
        }
        let flushes = self.flushes(scene);
        if flushes && scene.has(Flaw::FlushApart) {
            if instance.written.state != instance.flushed.state {
                out.push(Action::FlushFamily(i, 0));
            }
            if instance.written.outbox != instance.flushed.outbox {
                out.push(Action::FlushFamily(i, 1));
            }
            if instance.written.position != instance.flushed.position {
                out.push(Action::FlushFamily(i, 2));
            }
        } else if flushes && instance.written != instance.flushed {
            out.push(Action::Flush(i));
        }
        if instance.doubt {
            out.push(Action::Compare(i));
            return;
        }
        let next = instance.written.position.next;
        if scene.eager || instance.knows_tails() {
            if next > self.input.end || self.input.start > next {
                out.push(Action::Fold {
                    instance: i,
                    records: 1,
                });
            } else {
                for records in 1..=scene.batch.min(self.input.end - next) {
                    out.push(Action::Fold { instance: i, records });
                }
            }
        }
        let producer = &self.broker.producers[usize::from(Self::producer_of(scene, i))];
        // A transaction that waits for its markers keeps everyone waiting but the fenced, who are told so.
        let free = !producer.busy() || producer.epoch != instance.epoch;
        match instance.phase {
            Phase::Ask => out.push(Action::Ask(i)),
            Phase::Init if !producer.busy() => out.push(Action::Init(i)),
            Phase::Barrier if free => out.push(Action::Barrier(i)),
            Phase::Abort if free => out.push(Action::Abort(i)),
            Phase::Standby | Phase::GaveUp | Phase::Init | Phase::Barrier | Phase::Abort => {}
            Phase::Tails => self.tails(scene, i, instance, out),
            Phase::CatchUp => {
                let end = match self.input.stale {
                    Some(stale) if scene.has(Flaw::InputEnd) => stale,
                    _ => self.input.end,
                };
                if next >= end {
                    out.push(Action::AtEnd(i));
                }
            }
            Phase::Emit | Phase::Open => {
                let outbox = &instance.written.outbox;
                if free && (0..TOPICS).any(|t| outbox.get(t, instance.sent[t] + 1).is_some()) {
                    out.push(Action::Produce(i));
                }
                if free && instance.phase == Phase::Open {
                    out.push(Action::Commit(i));
                }
                if (0..TOPICS).any(|t| outbox.up_to(t, instance.delivered[t]).next().is_some()) {
                    out.push(Action::Prune(i));
                }
            }
        }
    }

    /// The tails that can be read: those of leaders that know the barrier.
    fn tails(&self, scene: &Scene, instance: u8, reader: &Instance, out: &mut Vec<Action>) {
        for (topic, partition) in self.broker.partitions.iter().enumerate() {
            if reader.tail[topic].is_some() {
                continue;
            }
            let ends = [Some(partition.entries.len() as u8), partition.stale];
            for (stale, end) in [false, true].into_iter().zip(ends) {
                let Some(end) = end.map(usize::from) else { continue };
                let past = if scene.has(Flaw::ReadUncommitted) {
                    end
                } else {
                    self.broker.read(topic, end).stable
                };
                if scene.has(Flaw::NoBarrier) || past > usize::from(reader.barrier[topic]) {
                    let topic = topic as u8;
                    out.push(Action::Tail { instance, topic, stale });
                }
            }
        }
    }

    /// What may go wrong next.
    fn faults(&self, scene: &Scene, out: &mut Vec<Action>) {
        let faults = &scene.faults;
        let count = Self::count(scene);
        for i in 0..count {
            let instance = &self.instances[usize::from(i)];
            if instance.halted.is_none() {
                if faults.crash {
                    out.push(Action::Crash(i));
                }
                if faults.fail && instance.phase >= Phase::Barrier {
                    out.push(Action::Fail {
                        instance: i,
                        commit: false,
                    });
                }
                let producer = &self.broker.producers[usize::from(Self::producer_of(scene, i))];
                if faults.fail && instance.phase == Phase::Open && producer.under_way.is_none() {
                    out.push(Action::Fail {
                        instance: i,
                        commit: true,
                    });
                }
                if faults.expire && self.group.members[usize::from(i)] {
                    let mut others = self.group.other_members(i).peekable();
                    if self.group.owner != Some(i) || others.peek().is_none() {
                        out.push(Action::Expire { instance: i, to: None });
                    } else {
                        out.extend(others.map(|to| Action::Expire {
                            instance: i,
                            to: Some(to),
                        }));
                    }
                }
            }
            let asks = instance.generation == 0 || instance.phase >= Phase::Tails;
            if faults.silence && instance.halted.is_none() && asks && !instance.unheard {
                out.push(Action::Silence(i));
            }
            if faults.restore && instance.halted.is_none() {
                out.push(Action::Restore {
                    instance: i,
                    from: None,
                });
                let others = (0..count).filter(|&j| j != i);
                let others = others.filter(|&j| self.instances[usize::from(j)].version == instance.version);
                out.extend(others.map(|j| Action::Restore {
                    instance: i,
                    from: Some(j),
                }));
            }
            if faults.hand_over && self.group.owner != Some(i) && self.group.members[usize::from(i)] {
                out.push(Action::HandOver(i));
            }
        }
        for (producer, p) in (0u8..).zip(&self.broker.producers) {
            if faults.time_out && p.transaction == Transaction::Ongoing {
                out.push(Action::TimeOut(producer));
            }
        }
        for (topic, partition) in (0u8..).zip(&self.broker.partitions) {
            if usize::from(topic) < faults.isolate && partition.stale.is_none() {
                out.push(Action::Isolate(topic));
            }
            let settled = !self.broker.producers.iter().any(|p| p.transaction != Transaction::None);
            let quiet = self.broker.decided(usize::from(topic)).rows().is_empty();
            let purge = if quiet { faults.purge_quiet } else { faults.purge };
            if purge && settled && usize::from(partition.start) < partition.entries.len() {
                out.push(Action::Purge(topic));
            }
        }
        let input = &self.input;
        if faults.isolate_input && input.stale.is_none() {
            out.push(Action::IsolateInput);
        }
        if faults.truncate && !input.truncated() {
            out.extend((input.start..input.end).map(Action::Truncate));
        }
        if faults.retain && input.start < input.end {
            out.extend((input.start + 1..=input.end).map(Action::Retain));
        }
    }

    fn inevitable(&self, action: Action) -> bool {
        match action {
            Action::Expire { instance, .. } => self.instances[usize::from(instance)].halted.is_some(),
            Action::TimeOut(_) => self.calm,
            _ => false,
        }
    }

    /// A transaction that nobody will end: its time runs out, however calm it is.
    fn abandoned(&self, scene: &Scene, producer: u8) -> bool {
        let p = &self.broker.producers[usize::from(producer)];
        let ends = |i: u8| {
            let instance = &self.instances[usize::from(i)];
            let its = Self::producer_of(scene, i) == producer && instance.epoch == p.epoch;
            its && instance.halted.is_none() && matches!(instance.phase, Phase::Abort | Phase::Open)
        };
        p.transaction == Transaction::Ongoing && !(0..Self::count(scene)).any(ends)
    }

    /// One step; `Err` if a promise is broken by it.
    pub fn apply(&mut self, scene: &Scene, action: Action) -> Result<(), Breach> {
        // Those that are bound to happen come without a budget: a halted instance leaves the group.
        if action.is_fault() && !self.inevitable(action) {
            self.budget -= 1;
        }
        match action.instance() {
            Some(i) => self.step(scene, i, action),
            None => self.happen(scene, action),
        }?;
        if !self.flushes(scene) {
            for instance in &mut self.instances {
                instance.flushed = instance.written;
            }
        }
        Ok(())
    }
}
