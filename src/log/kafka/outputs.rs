//! An output topic as its consumers read it: from offsets that they keep, what is committed, in order.
//!
//! Needs no more than Read and Describe on that one topic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::emitter::read_output;
use super::fetch::Quiet;
use super::ffi::Queue;
use super::settings::{ASK_TIMEOUT, KafkaSettings};
use super::{broker, kafka, place, topics};
use crate::log::LogError;
use crate::machine::output::{Output, Topic};

/// What comes of a partition.
#[derive(Debug)]
pub enum Item {
    /// An output.
    Output(Output),
    /// There is nothing more now.
    End,
}

/// A client that reads one output topic.
pub struct OutputStream {
    client: Queue<Quiet>,
    topic: Topic,
    name: String,
    place: String,
    partition_count: u32,
}

impl OutputStream {
    /// Asks what the topic is; nothing is read yet.
    pub fn open(settings: &KafkaSettings, topic: Topic) -> Result<Self, LogError> {
        let name = settings.output(topic);
        let mut config = settings.reader();
        config
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "100");
        let consumer: BaseConsumer<Quiet> = config
            .create_with_context(Quiet)
            .map_err(|e| kafka("making a client that reads", &e))?;
        let client =
            Queue::of(Arc::new(consumer)).ok_or_else(|| broker("making a client that reads", "it has no queue"))?;
        let doing = format!("asking what {name} is");
        let metadata = client
            .consumer()
            .fetch_metadata(Some(&name), ASK_TIMEOUT)
            .map_err(|e| kafka(&doing, &e))?;
        let found = metadata.topics().iter().find(|t| t.name() == name);
        let partition_count = match found.map(|t| (t.error(), t.partitions().len())) {
            Some((None, count)) if count > 0 => count as u32,
            Some((Some(code), _)) if RDKafkaErrorCode::from(code) != RDKafkaErrorCode::UnknownTopicOrPartition => {
                return Err(topics::not_told(&name, code.into()));
            }
            _ => return Err(no_topic(&name)),
        };
        let ids = place::ids(client.consumer().client(), &[&name], ASK_TIMEOUT)?;
        Ok(Self {
            place: format!("cluster {}, topic {name} {}", ids.cluster, ids.topics.join(" ")),
            client,
            topic,
            name,
            partition_count,
        })
    }

    /// How many partitions the topic has.
    pub const fn partition_count(&self) -> u32 {
        self.partition_count
    }

    /// Cluster and topic by their ids: another place has another text.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The topic's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// First offset that is kept, and the offset after the last record that may be read.
    pub fn bounds(&self, partition: u32) -> Result<(u64, u64), LogError> {
        let (start, end) = self
            .client
            .consumer()
            .fetch_watermarks(&self.name, partition as i32, ASK_TIMEOUT)
            .map_err(|e| kafka(&format!("asking where {} {partition} begins and ends", self.name), &e))?;
        Ok((start.max(0) as u64, end.max(0) as u64))
    }

    /// From now on reads these partitions, from these offsets on.
    pub fn follow(&self, from: &BTreeMap<u32, u64>) -> Result<(), LogError> {
        let failed = |e: &_| kafka("assigning a partition to read", e);
        let mut list = TopicPartitionList::new();
        for (partition, offset) in from {
            list.add_partition_offset(&self.name, *partition as i32, Offset::Offset(*offset as i64))
                .map_err(|e| failed(&e))?;
        }
        self.client.consumer().assign(&list).map_err(|e| failed(&e))
    }

    /// Waits at most `wait` for something, then hands over what is there: partition, the offset after it, and what it is.
    pub fn take(&mut self, wait: Duration, mut take: impl FnMut(u32, u64, Item)) -> Result<(), LogError> {
        let mut failed = None;
        let (topic, name) = (self.topic, &self.name);
        self.client.take(wait, |message| {
            let Ok(partition) = u32::try_from(message.partition()) else {
                return;
            };
            if failed.is_some() {
                return;
            }
            match message.error() {
                // What doesn't end with the sequence that its header says isn't Reckon's either.
                None => match read_output(topic, message).filter(|output| {
                    let end = super::emitter::sequence_field(output.sequence);
                    message.payload().ends_with(&end)
                }) {
                    Some(output) => take(partition, message.offset() + 1, Item::Output(output)),
                    None => {
                        failed = Some(LogError::ForeignOutput {
                            topic: name.clone(),
                            partition,
                            offset: message.offset(),
                        });
                    }
                },
                Some(RDKafkaErrorCode::PartitionEOF) => take(partition, message.offset(), Item::End),
                Some(
                    code @ (RDKafkaErrorCode::AutoOffsetReset
                    | RDKafkaErrorCode::OffsetOutOfRange
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::TopicAuthorizationFailed),
                ) => failed = Some(broker(&format!("reading {name} {partition}"), code)),
                // The client tries again by itself.
                Some(_) => {}
            }
        });
        failed.map_or(Ok(()), Err)
    }
}

fn no_topic(name: &str) -> LogError {
    LogError::Topics {
        what: format!("there is no topic {name}: give the --topic-prefix that `reckon topics create` was given"),
    }
}
