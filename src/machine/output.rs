//! What the fold decides to put out: rows of the outbox, each with its place in a gapless order and a hash of all before it.

use prost::Message;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::forward::Forward;
use crate::model::Ms;
use crate::wire::pb;
use crate::wire::settled::Settled;

/// An output topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Topic {
    /// Closed statements, adjustments, control records.
    Statements = 0,
    /// Each verdict and amendment; an output is a chunk of many, as a `CallsSettled`.
    Calls = 1,
    /// Thresholds and warnings.
    Alerts = 2,
    /// What was not folded, and why.
    Rejects = 3,
}

impl Topic {
    /// All topics.
    pub const ALL: [Self; 4] = [Self::Statements, Self::Calls, Self::Alerts, Self::Rejects];

    /// The name's last part: `reckon.statements` is `statements`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Statements => "statements",
            Self::Calls => "calls",
            Self::Alerts => "alerts",
            Self::Rejects => "rejects",
        }
    }
}

/// One output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Where it goes.
    pub topic: Topic,
    /// Gapless per topic and partition, from 1.
    pub sequence: u64,
    /// Hash chained over all outputs of the topic and partition up to this one.
    pub chain: u128,
    /// Protobuf of `outputs.proto`.
    pub body: Vec<u8>,
}

/// Last sequence and chain of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// Sequence of the last output; 0 = none yet.
    pub sequence: u64,
    /// Its chain.
    pub chain: u128,
}

impl Tail {
    /// The tail after one more output with this body.
    #[must_use]
    pub fn next(self, topic: Topic, body: &[u8]) -> Self {
        let sequence = self.sequence + 1;
        let mut header = [0u8; 25];
        header[0] = topic as u8;
        header[1..9].copy_from_slice(&sequence.to_le_bytes());
        header[9..25].copy_from_slice(&self.chain.to_le_bytes());
        let seed = xxh3_128_with_seed(&header, 0) as u64;
        Self {
            sequence,
            chain: xxh3_128_with_seed(body, seed) ^ self.chain.rotate_left(1),
        }
    }
}

/// Verdicts of a chunk of the calls output: large enough that a row costs little, small enough to hold in one record.
pub const CALLS_CHUNK_BYTES: usize = 256 * 1024;

/// Log time that a chunk of the calls output spans at most.
pub const CALLS_CHUNK_MS: Ms = 1_000;

/// Outputs decided since the last commit, and the tails they lead to.
#[derive(Debug, Default)]
pub struct Outputs {
    /// By [`Topic`] number.
    pub tails: [Tail; 4],
    /// Decided, not yet taken by the shell.
    pub pending: Vec<Output>,
    /// Misplaced events to be passed on, not yet taken by the shell.
    pub forwards: Vec<Forward>,
    /// Bytes of both.
    pub bytes: usize,
    /// Verdicts not yet in a chunk, each as a field of `CallsSettled`. Kept with the state, so that chunks split by what the log holds alone.
    pub calls: Vec<u8>,
    /// Log time of the first of them.
    pub calls_since: Ms,
    /// Whether the calls output is on.
    pub calls_on: bool,
}

impl Outputs {
    /// Decides an output. Returns its sequence and chain.
    pub fn push(&mut self, topic: Topic, body: Vec<u8>) -> Tail {
        let tail = self.tails[topic as usize].next(topic, &body);
        self.tails[topic as usize] = tail;
        self.bytes += body.len();
        self.pending.push(Output {
            topic,
            sequence: tail.sequence,
            chain: tail.chain,
            body,
        });
        tail
    }

    /// Adds a verdict to the calls output, at log time `now`. Chunks split by size and log time, never by when the shell commits.
    pub fn push_call(&mut self, call: &Settled<'_>, now: Ms) {
        if self.calls.is_empty() {
            self.calls_since = now;
        } else if now >= self.calls_since.saturating_add(CALLS_CHUNK_MS) {
            self.flush_calls();
            self.calls_since = now;
        }
        call.write(&mut self.calls);
        if self.calls.len() >= CALLS_CHUNK_BYTES {
            self.flush_calls();
        }
    }

    /// Log time has come to `now`: what a chunk waited for longer than its span goes out, also when no call settles any more.
    #[inline]
    pub fn close_calls(&mut self, now: Ms) {
        if !self.calls.is_empty() && now >= self.calls_since.saturating_add(CALLS_CHUNK_MS) {
            self.flush_calls();
        }
    }

    fn flush_calls(&mut self) {
        if !self.calls.is_empty() {
            let body = std::mem::take(&mut self.calls);
            self.push(Topic::Calls, body);
        }
    }

    /// Decides that a misplaced event is passed on.
    pub fn pass_on(&mut self, forward: Forward) {
        self.bytes += forward.bytes.len();
        self.forwards.push(forward);
    }

    /// Decided and not yet taken.
    pub fn take(&mut self) -> (Vec<Output>, Vec<Forward>) {
        self.bytes = 0;
        (std::mem::take(&mut self.pending), std::mem::take(&mut self.forwards))
    }
}

/// The verdicts of one chunk of the calls output.
pub fn calls_of(chunk: &[u8]) -> Result<Vec<pb::CallSettled>, prost::DecodeError> {
    Ok(pb::CallsSettled::decode(chunk)?.calls)
}
