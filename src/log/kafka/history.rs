//! The control records of a log: which ids are in it, and which version was the last.

use std::collections::BTreeSet;

use prost::Message;

use super::KafkaLog;
use super::emitter::read_output;
use super::fetch::read_headers;
use super::reader::{Next, Seen};
use crate::log::{Log, LogError};
use crate::machine::control::is_for_everyone;
use crate::machine::output::Topic;
use crate::wire::record::Kind;
use crate::wire::{control, pb};
use std::time::Duration;

/// How long the whole log may take to be read.
const READ_WAIT: Duration = Duration::from_secs(3_600);

/// Control records that are in a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Ids of those that weren't rejected.
    pub ids: BTreeSet<String>,
    /// Last `control_version` that wasn't rejected.
    pub version: u64,
}

impl KafkaLog {
    /// Reads every partition to its end. `progress` is told how many records were read.
    pub fn control_records(&self, mut progress: impl FnMut(u64)) -> Result<Known, LogError> {
        let count = self.identity().partition_count;
        let rejects = self.settings().output(Topic::Rejects);
        let events = self.settings().events();
        let mut rejected = BTreeSet::new();
        let mut starts = Vec::new();
        for partition in 0..count {
            starts.push((rejects.as_str(), partition, self.readers.ends(&rejects, partition)?.0));
        }
        let whole = self.readers.read(&starts, READ_WAIT, |_, partition, seen| match seen {
            Seen::Record(message) => {
                let output = read_output(Topic::Rejects, message);
                if let Some(reject) = output.and_then(|o| pb::Rejected::decode(o.body.as_slice()).ok()) {
                    rejected.insert((partition, reject.offset));
                }
                Next::More
            }
            Seen::End(_) => Next::Enough,
        })?;
        let mut known = Known::default();
        let mut signature = String::new();
        let mut records = 0;
        let from: Vec<(&str, u32, u64)> = (0..count).map(|p| (events.as_str(), p, 0)).collect();
        let whole = whole
            && self.readers.read(&from, READ_WAIT, |_, partition, seen| {
                let Seen::Record(message) = seen else {
                    return Next::Enough;
                };
                records += 1;
                if records % 65_536 == 0 {
                    progress(records);
                }
                if read_headers(message, &mut signature).0 == Kind::Control
                    && !rejected.contains(&(partition, message.offset()))
                    && let Ok(control) = control::decode(message.payload())
                {
                    if is_for_everyone(&control) {
                        known.version = known.version.max(control.control_version);
                    }
                    known.ids.insert(control.id);
                }
                Next::More
            })?;
        if whole {
            Ok(known)
        } else {
            Err(super::broker(
                "reading the log's control records",
                "the brokers were too slow",
            ))
        }
    }
}
