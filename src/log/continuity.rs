//! What a consumer of outputs holds them to: each follows the one before, and is the one that was decided.

use std::collections::VecDeque;

use thiserror::Error;

use crate::machine::output::{Output, Tail};

/// Outputs that are remembered, so that one that comes again can be told from another one under its sequence.
const REMEMBERED: usize = 4_096;

/// Why outputs can't be taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Discontinuity {
    /// One or more are missing.
    #[error(
        "{topic} partition {partition}: sequence {found} comes where {wanted} is next: {} missing. Nothing after {have} was \
         taken. Were they removed by retention, or is the reader not read_committed? Restore the topic, or take them from \
         `reckon export` or GET /v1/outputs/{topic}",
        if found - wanted == 1 { "one is".to_owned() } else { format!("{} are", found - wanted) }
    )]
    Gap {
        /// The topic's last part.
        topic: &'static str,
        /// Which partition.
        partition: u32,
        /// The last one taken.
        have: u64,
        /// The next one.
        wanted: u64,
        /// The one that came.
        found: u64,
    },
    /// Another one under a sequence that was taken, or one of which that can't be told any more.
    #[error(
        "{topic} partition {partition}: sequence {sequence} comes again after {have}, and {what}. Stopped: nothing was taken. \
         Outputs are never put out twice, so somebody else writes the topic, or it was made anew: keep both and ask the \
         operator of Reckon"
    )]
    Again {
        /// The topic's last part.
        topic: &'static str,
        /// Which partition.
        partition: u32,
        /// The last one taken.
        have: u64,
        /// The one that came again.
        sequence: u64,
        /// With what.
        what: &'static str,
    },
    /// One whose chained hash doesn't follow from the one before it and its own content.
    #[error(
        "{topic} partition {partition}: sequence {sequence} doesn't continue the chain of outputs before it (reckon-chain \
         {found:032x}, computed {computed:032x}). Stopped: nothing was taken. It, or one before it, isn't what was put out"
    )]
    Chain {
        /// The topic's last part.
        topic: &'static str,
        /// Which partition.
        partition: u32,
        /// Which.
        sequence: u64,
        /// As its header says.
        found: u128,
        /// From its content.
        computed: u128,
    },
}

/// What an output is to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The next one.
    New,
    /// One that it has, with the same content.
    Again,
}

/// One partition's outputs of one topic as far as they were taken.
#[derive(Clone, Debug, Default)]
pub struct Continuity {
    tail: Tail,
    /// Tails before and after the last ones.
    recent: VecDeque<(Tail, Tail)>,
    anywhere: bool,
}

impl Continuity {
    /// From the one after this on.
    pub fn after(tail: Tail) -> Self {
        Self {
            tail,
            ..Self::default()
        }
    }

    /// From whichever comes first, where earlier ones may have been removed.
    pub fn anywhere() -> Self {
        Self {
            anywhere: true,
            ..Self::default()
        }
    }

    /// The last one taken.
    pub const fn tail(&self) -> Tail {
        self.tail
    }

    /// Holds an output to the ones before it.
    pub fn take(&mut self, partition: u32, output: &Output) -> Result<Arrival, Discontinuity> {
        let topic = output.topic.as_str();
        let sequence = output.sequence;
        let have = self.tail.sequence;
        if std::mem::take(&mut self.anywhere) && sequence > 1 {
            self.tail = Tail {
                sequence,
                chain: output.chain,
            };
            return Ok(Arrival::New);
        }
        if sequence <= have {
            let known = self.recent.iter().find(|(_, after)| after.sequence == sequence);
            let what = match known {
                Some((before, after)) if *after == before.next(output.topic, &output.body) => {
                    return Ok(Arrival::Again);
                }
                Some(_) => "its content is another one",
                None => "its content can't be compared any more",
            };
            return Err(Discontinuity::Again {
                topic,
                partition,
                have,
                sequence,
                what,
            });
        }
        if sequence > have + 1 {
            return Err(Discontinuity::Gap {
                topic,
                partition,
                have,
                wanted: have + 1,
                found: sequence,
            });
        }
        let next = self.tail.next(output.topic, &output.body);
        if next.chain != output.chain {
            return Err(Discontinuity::Chain {
                topic,
                partition,
                sequence,
                found: output.chain,
                computed: next.chain,
            });
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((self.tail, next));
        self.tail = next;
        Ok(Arrival::New)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::output::Topic;

    fn outputs(bodies: &[&[u8]]) -> Vec<Output> {
        let mut tail = Tail::default();
        let output = |body: &&[u8]| {
            tail = tail.next(Topic::Statements, body);
            Output {
                topic: Topic::Statements,
                sequence: tail.sequence,
                chain: tail.chain,
                body: body.to_vec(),
            }
        };
        bodies.iter().map(output).collect()
    }

    #[test]
    fn the_next_one_is_taken_and_the_same_again_is_told() {
        let all = outputs(&[b"a", b"b", b"c"]);
        let mut continuity = Continuity::default();
        for output in &all {
            assert_eq!(continuity.take(0, output), Ok(Arrival::New));
        }
        for output in &all {
            assert_eq!(continuity.take(0, output), Ok(Arrival::Again));
        }
        let mut on = Continuity::after(Tail {
            sequence: all[1].sequence,
            chain: all[1].chain,
        });
        assert_eq!(on.take(0, &all[2]), Ok(Arrival::New));
        assert_eq!(on.tail().sequence, 3);
        let mut late = Continuity::anywhere();
        assert_eq!(late.take(0, &all[1]), Ok(Arrival::New));
        assert_eq!(late.take(0, &all[2]), Ok(Arrival::New));
    }

    #[test]
    fn gaps_forgeries_and_another_content_are_refused() {
        let all = outputs(&[b"a", b"b", b"c"]);
        let others = outputs(&[b"x", b"b", b"c"]);
        let mut continuity = Continuity::default();
        assert_eq!(continuity.take(0, &all[0]), Ok(Arrival::New));
        assert!(matches!(
            continuity.take(0, &all[2]),
            Err(Discontinuity::Gap {
                wanted: 2,
                found: 3,
                ..
            })
        ));
        assert!(matches!(
            continuity.take(0, &others[1]),
            Err(Discontinuity::Chain { .. })
        ));
        let forged = Output {
            chain: all[0].chain,
            ..others[0].clone()
        };
        assert!(matches!(
            continuity.take(0, &forged),
            Err(Discontinuity::Again { sequence: 1, .. })
        ));
        assert_eq!(continuity.take(0, &all[1]), Ok(Arrival::New));
    }
}
