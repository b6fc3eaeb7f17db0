//! The consumer group's coordinator: who owns the partition, and since which generation.

/// Instances at most.
pub const INSTANCES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// Counts rebalances. A member that doesn't know the newest has to rejoin before it is told anything else.
    pub generation: u8,
    pub owner: Option<u8>,
    pub members: [bool; INSTANCES],
    /// The offset committed to the group; only the flaw that trusts it reads it.
    pub committed: u8,
}

impl Group {
    pub fn join(&mut self, instance: u8) {
        let member = &mut self.members[usize::from(instance)];
        if !*member {
            *member = true;
            self.generation += 1;
            self.owner = self.owner.or(Some(instance));
        }
    }

    /// Its session ran out: a pause, a partition of the network, or it is gone.
    pub fn expire(&mut self, instance: u8, to: Option<u8>) {
        self.members[usize::from(instance)] = false;
        self.generation += 1;
        if self.owner == Some(instance) {
            self.owner = to;
        }
    }

    pub fn hand_over(&mut self, to: u8) {
        self.generation += 1;
        self.owner = Some(to);
    }

    pub fn other_members(&self, instance: u8) -> impl Iterator<Item = u8> {
        let members = self.members;
        (0..INSTANCES as u8).filter(move |&i| i != instance && members[usize::from(i)])
    }
}
