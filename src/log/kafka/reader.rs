//! Reading that isn't the fold's: one record again, the tail of the outputs, a page of them.
//!
//! Each reading has a client to itself; clients are kept for the next one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::fetch::Quiet;
use super::ffi::{Queue, Taken};
use super::settings::{ASK_TIMEOUT, KafkaSettings};
use super::{broker, kafka};
use crate::log::LogError;

/// How long one wait for an answer is, of many within a reading's time.
const WAIT: Duration = Duration::from_millis(100);

/// Clients kept at most: one for every partition that is taken over at a time, of a topic of ordinary size. Making one, and
/// letting go of one, takes longer than what it reads.
const KEPT_MAX: usize = 16;

/// Bytes that a client which reads whole partitions fetches of one at a time: many more records come of a round trip.
const LONG_FETCH_BYTES: usize = 1 << 20;

/// What a reading wants further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// More.
    More,
    /// Nothing more of this partition.
    Enough,
}

/// What a reading comes across.
pub(super) enum Seen<'a> {
    /// A committed record.
    Record(&'a Taken),
    /// The end: every offset below is read, and nothing that was begun before it can still arrive below.
    End(u64),
}

/// The clients.
pub struct Readers {
    settings: KafkaSettings,
    fetch_bytes: Option<usize>,
    idle: Mutex<Vec<Queue<Quiet>>>,
}

impl Readers {
    /// None yet.
    pub const fn new(settings: KafkaSettings) -> Self {
        Self {
            settings,
            fetch_bytes: None,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// None yet; for whole partitions rather than a record or a few.
    pub fn of_much(settings: KafkaSettings) -> Self {
        Self {
            fetch_bytes: Some(LONG_FETCH_BYTES),
            ..Self::new(settings)
        }
    }

    fn client(&self) -> Result<Queue<Quiet>, LogError> {
        let mut idle = self.idle.lock();
        if let Some(queue) = idle.pop() {
            return Ok(queue);
        }
        drop(idle);
        let mut config = self.settings.reader();
        config
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "20");
        if let Some(bytes) = self.fetch_bytes {
            config.set("fetch.message.max.bytes", bytes.to_string());
        }
        let consumer: BaseConsumer<Quiet> = config
            .create_with_context(Quiet)
            .map_err(|e| kafka("making a client that reads", &e))?;
        Queue::of(Arc::new(consumer)).ok_or_else(|| broker("making a client that reads", "it has no queue"))
    }

    fn give_back(&self, queue: Queue<Quiet>) {
        let mut idle = self.idle.lock();
        if idle.len() < KEPT_MAX {
            idle.push(queue);
        }
    }

    /// First offset that is kept, and the offset after the last record that may be read.
    pub fn ends(&self, topic: &str, partition: u32) -> Result<(u64, u64), LogError> {
        let client = self.client()?;
        let ends = client
            .consumer()
            .fetch_watermarks(topic, partition as i32, ASK_TIMEOUT)
            .map_err(|e| kafka(&format!("asking where {topic} {partition} begins and ends"), &e))?;
        self.give_back(client);
        Ok((ends.0.max(0) as u64, ends.1.max(0) as u64))
    }

    /// Reads from the given offsets on, by (topic, partition), until `take` has enough of each. That the brokers say nothing for
    /// `silence` is an error, and so a partition of which nothing came is never one that has nothing: only its end, or a record
    /// further on, says so.
    pub(super) fn read(
        &self,
        from: &[(&str, u32, u64)],
        silence: Duration,
        mut take: impl FnMut(&str, u32, Seen<'_>) -> Want,
    ) -> Result<(), LogError> {
        let mut client = self.client()?;
        let mut list = TopicPartitionList::new();
        let mut wanted: BTreeMap<(String, u32), bool> = BTreeMap::new();
        for (topic, partition, offset) in from {
            list.add_partition_offset(topic, *partition as i32, Offset::Offset(*offset as i64))
                .map_err(|e| kafka("assigning a partition to read", &e))?;
            wanted.insert(((*topic).to_owned(), *partition), true);
        }
        client
            .consumer()
            .assign(&list)
            .map_err(|e| kafka("assigning a partition to read", &e))?;
        let mut heard = Instant::now();
        let (mut failed, mut trouble) = (None, None);
        while wanted.values().any(|w| *w) && failed.is_none() {
            client.take(WAIT, |message| {
                let partition = u32::try_from(message.partition()).unwrap_or(u32::MAX);
                let topic = message.topic();
                let wants = wanted.get_mut(&(topic.to_owned(), partition));
                let seen = match message.error() {
                    None => Seen::Record(message),
                    Some(RDKafkaErrorCode::PartitionEOF) => Seen::End(message.offset()),
                    Some(code) => {
                        if wants.is_some() {
                            failed = failed.take().or_else(|| failure(topic, partition, code, message));
                        }
                        trouble = Some(message.error_text());
                        return;
                    }
                };
                let Some(wants) = wants.filter(|wants| **wants) else {
                    return;
                };
                heard = Instant::now();
                *wants = take(topic, partition, seen) == Want::More;
            });
            if heard.elapsed() >= silence && failed.is_none() && wanted.values().any(|w| *w) {
                failed = Some(silent(&wanted, silence, trouble.take()));
            }
        }
        client
            .consumer()
            .assign(&TopicPartitionList::new())
            .map_err(|e| kafka("letting go of a partition", &e))?;
        self.give_back(client);
        failed.map_or(Ok(()), Err)
    }
}

/// What an error in place of a record means for whoever reads; `None`: the client goes on by itself, and is waited for.
fn failure(topic: &str, partition: u32, code: RDKafkaErrorCode, message: &Taken) -> Option<LogError> {
    match code {
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::LogTruncation => {
            Some(LogError::OffsetGone {
                partition,
                cause: format!("{topic}: {}", message.error_text()),
            })
        }
        RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::InvalidMessage => Some(LogError::Corrupt {
            partition,
            offset: message.offset(),
            what: format!("{topic}: {}", message.error_text()),
        }),
        RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownPartition
        | RDKafkaErrorCode::TopicAuthorizationFailed => Some(broker(&format!("reading {topic} {partition}"), code)),
        _ => None,
    }
}

/// Brokers that have said nothing for too long.
fn silent(wanted: &BTreeMap<(String, u32), bool>, silence: Duration, trouble: Option<String>) -> LogError {
    let open: Vec<String> = wanted
        .iter()
        .filter(|(_, wants)| **wants)
        .map(|((topic, partition), _)| format!("{topic} {partition}"))
        .collect();
    let trouble = trouble.map_or(String::new(), |text| format!(" ({text})"));
    broker(
        &format!("reading {}", open.join(", ")),
        format!("no answer for {} s{trouble}", silence.as_secs()),
    )
}
