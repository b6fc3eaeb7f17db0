//! Which instance owns which partition, and how it is reached: from the group's description.
//!
//! Every member's `client.id` is `reckon;ADDRESS`, and the group's assignment names its partitions: so whoever may describe the
//! group knows where to ask, and there is nothing else to keep in step.

use std::collections::BTreeMap;

use rdkafka::consumer::{BaseConsumer, Consumer};

use super::fetch::Quiet;
use super::kafka;
use super::settings::{ASK_TIMEOUT, CLIENT_ID, KafkaSettings};
use crate::log::LogError;

/// Addresses by partition; a partition without an entry has no owner now.
pub type Owners = BTreeMap<u32, String>;

/// Asks the group.
pub struct Directory {
    client: BaseConsumer<Quiet>,
    settings: KafkaSettings,
}

impl Directory {
    /// Asks nothing yet.
    pub fn new(settings: &KafkaSettings) -> Result<Self, LogError> {
        let client = settings
            .reader()
            .create_with_context(Quiet)
            .map_err(|e| kafka("making a client that asks the group", &e))?;
        Ok(Self {
            client,
            settings: settings.clone(),
        })
    }

    /// Who owns what, as the group says now.
    pub fn owners(&self) -> Result<Owners, LogError> {
        let list = self
            .client
            .fetch_group_list(Some(self.settings.group()), ASK_TIMEOUT)
            .map_err(|e| kafka("asking the group for its members", &e))?;
        let mut owners = Owners::new();
        let events = self.settings.events();
        for member in list.groups().iter().flat_map(rdkafka::groups::GroupInfo::members) {
            let Some(address) = member.client_id().strip_prefix(CLIENT_ID) else {
                continue;
            };
            for partition in member
                .assignment()
                .and_then(|a| assigned(a, &events))
                .unwrap_or_default()
            {
                owners.insert(partition, address.to_owned());
            }
        }
        Ok(owners)
    }
}

/// The partitions of a topic in a member's assignment (Kafka's `ConsumerProtocolAssignment`: version i16, then topics, each a
/// name and partitions).
fn assigned(bytes: &[u8], wanted: &str) -> Option<Vec<u32>> {
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(taken)
    }
    fn int(bytes: &mut &[u8]) -> Option<u32> {
        Some(u32::from_be_bytes(take(bytes, 4)?.try_into().ok()?))
    }
    let mut rest = bytes;
    take(&mut rest, 2)?;
    let mut found = Vec::new();
    for _ in 0..int(&mut rest)? {
        let len = u16::from_be_bytes(take(&mut rest, 2)?.try_into().ok()?);
        let name = take(&mut rest, len.into())?;
        for _ in 0..int(&mut rest)? {
            let partition = int(&mut rest)?;
            if name == wanted.as_bytes() {
                found.push(partition);
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read_as_kafka_writes_it() {
        let mut bytes = vec![0, 1, 0, 0, 0, 2];
        for (name, partitions) in [("other", vec![9u32]), ("reckon.events", vec![0, 7])] {
            bytes.extend_from_slice(&(name.len() as u16).to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(&(partitions.len() as u32).to_be_bytes());
            partitions
                .iter()
                .for_each(|p| bytes.extend_from_slice(&p.to_be_bytes()));
        }
        bytes.extend_from_slice(&[0xff; 4]);
        assert_eq!(assigned(&bytes, "reckon.events"), Some(vec![0, 7]));
        assert_eq!(assigned(&bytes[..9], "reckon.events"), None);
    }
}
