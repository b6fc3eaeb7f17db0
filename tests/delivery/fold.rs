//! The fold: what each record puts out, by version, and what every reader has to find in the end.

/// Output topics.
pub const TOPICS: usize = 2;

/// Outputs of one topic at most.
pub const ROWS: usize = 16;

/// Stands for a hash: of a state, or chained over a topic's outputs up to and with this one. 0 is none.
pub type Chain = u16;

/// Outputs that one record puts into each topic.
pub type Puts = [u8; TOPICS];

/// A record of the input partition.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub offset: u8,
    /// Tells apart what stood at this offset before and after a truncation.
    pub content: u8,
    pub leader_epoch: u8,
}

/// What the fold carries from record to record, with the last output of each topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub hash: Chain,
    pub sequence: [u8; TOPICS],
    pub chain: [Chain; TOPICS],
}

/// A row of the outbox.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub topic: usize,
    pub sequence: u8,
    pub chain: Chain,
}

/// One instance's program. Two differ from [`Fold::changed_at`] on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    Old,
    New,
}

/// Both versions, side by side.
#[derive(Clone, Debug)]
pub struct Fold {
    /// By offset, for the old version.
    pub puts: Vec<Puts>,
    /// By offset, for the new one from `changed_at` on.
    pub puts_new: Vec<Puts>,
    pub changed_at: u8,
}

fn mix(a: Chain, b: u64) -> Chain {
    let x = (u64::from(a) << 32 | b).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((x ^ (x >> 31)) as Chain).max(1)
}

impl Fold {
    /// Folds one record; the rows are given to `put` in order.
    pub fn step(&self, version: Version, state: &mut State, record: Record, mut put: impl FnMut(Row)) {
        let new = version == Version::New && record.offset >= self.changed_at;
        let at = usize::from(record.offset);
        let mut puts = if new { self.puts_new[at] } else { self.puts[at] };
        if record.content != record.offset {
            puts.reverse();
        }
        state.hash = mix(state.hash, u64::from(record.content) << 1 | u64::from(new));
        for (topic, count) in puts.into_iter().enumerate() {
            for _ in 0..count {
                let sequence = state.sequence[topic] + 1;
                let body = mix(state.hash, u64::from(sequence) << 8 | topic as u64);
                let chain = mix(state.chain[topic], u64::from(body) << 2 | topic as u64);
                state.sequence[topic] = sequence;
                state.chain[topic] = chain;
                put(Row { topic, sequence, chain });
            }
        }
    }
}

/// What one version puts out of one history of the log.
#[derive(Clone, Debug)]
pub struct Truth {
    /// By topic and sequence - 1.
    pub rows: [[Chain; ROWS]; TOPICS],
    /// The state before each offset, and after the last.
    pub states: Vec<State>,
}

impl Truth {
    /// Of a log whose records from `cut` on are those after a truncation.
    pub fn of(fold: &Fold, version: Version, cut: u8) -> Self {
        let mut rows = [[0; ROWS]; TOPICS];
        let mut state = State::default();
        let mut states = vec![state];
        for offset in 0..fold.puts.len() as u8 {
            let record = record(offset, cut);
            fold.step(version, &mut state, record, |row| {
                rows[row.topic][usize::from(row.sequence) - 1] = row.chain;
            });
            states.push(state);
        }
        Self { rows, states }
    }
}

/// The record at an offset of a log cut off at `cut`.
pub const fn record(offset: u8, cut: u8) -> Record {
    let after = offset >= cut;
    Record {
        offset,
        content: if after { offset + 128 } else { offset },
        leader_epoch: after as u8,
    }
}
