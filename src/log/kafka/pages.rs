//! Outputs by sequence, a page at a time: where in its topic a sequence stands has to be found first.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::READ_SILENCE;
use super::emitter::read_output;
use super::reader::{Readers, Seen, Want};
use crate::log::LogError;
use crate::machine::output::{Output, Topic};

/// So many outputs further on is read from where the last page ended, without looking for the place.
const NEAR_OUTPUTS: u64 = 4_096;

/// So many offsets are read through rather than halved.
const READ_THROUGH: u64 = 512;

/// Reads pages, and remembers where the last one ended: sequence and offset, by topic and partition.
#[derive(Default)]
pub struct Pages(Mutex<BTreeMap<(Topic, u32), (u64, u64)>>);

impl Pages {
    /// Outputs after a sequence, at most `max`.
    pub fn read(
        &self,
        readers: &Readers,
        name: &str,
        topic: Topic,
        partition: u32,
        after: u64,
        max: usize,
    ) -> Result<Vec<Output>, LogError> {
        let page = |from| read_from(readers, name, topic, partition, from, after, max);
        let near = match self.near(topic, partition, after) {
            Some(from) => match page(from) {
                // There are fewer outputs than were asked for, or the topic has changed: looked for from nothing.
                Err(LogError::OffsetGone { .. }) => None,
                result => Some(result?),
            },
            None => None,
        };
        let (outputs, next) = match near {
            Some(found) => found,
            None => page(offset_after(readers, name, topic, partition, after)?)?,
        };
        if let Some(next) = next {
            self.0.lock().insert((topic, partition), next);
        }
        Ok(outputs)
    }

    /// Every output takes an offset, and markers some more: so one that follows the last page doesn't stand before that.
    fn near(&self, topic: Topic, partition: u32, after: u64) -> Option<u64> {
        let (sequence, offset) = *self.0.lock().get(&(topic, partition))?;
        let further = after.checked_sub(sequence)?;
        (further <= NEAR_OUTPUTS).then_some(offset + further)
    }
}

/// The outputs, and behind the last of them its sequence and the next offset.
type Page = (Vec<Output>, Option<(u64, u64)>);

fn read_from(
    readers: &Readers,
    name: &str,
    topic: Topic,
    partition: u32,
    from: u64,
    after: u64,
    max: usize,
) -> Result<Page, LogError> {
    let mut outputs: Vec<Output> = Vec::new();
    let mut next = None;
    readers.read(&[(name, partition, from)], READ_SILENCE, |_, _, seen| match seen {
        Seen::Record(message) => {
            if let Some(output) = read_output(topic, message).filter(|o| o.sequence > after) {
                next = Some((output.sequence, message.offset() + 1));
                outputs.push(output);
            }
            if outputs.len() < max { Want::More } else { Want::Enough }
        }
        Seen::End(_) => Want::Enough,
    })?;
    Ok((outputs, next))
}

/// The offset of the first output after a sequence, or one before it: found by halving, for sequences grow with offsets.
fn offset_after(readers: &Readers, name: &str, topic: Topic, partition: u32, after: u64) -> Result<u64, LogError> {
    let (start, end) = readers.ends(name, partition)?;
    let (mut low, mut high) = (start, end);
    if after == 0 {
        return Ok(start);
    }
    while high.saturating_sub(low) > READ_THROUGH {
        let middle = low + (high - low) / 2;
        let mut found = None;
        readers.read(&[(name, partition, middle)], READ_SILENCE, |_, _, seen| {
            if let Seen::Record(message) = seen {
                found = read_output(topic, message).map(|o| o.sequence);
            }
            Want::Enough
        })?;
        match found {
            Some(sequence) if sequence <= after => low = middle,
            _ => high = middle,
        }
    }
    Ok(low)
}
