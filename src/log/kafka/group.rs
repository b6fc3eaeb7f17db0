//! The consumer group: who owns which partition, and whether it is still us.
//!
//! The member fetches nothing (`fetch` does): its partitions are paused as soon as they are assigned. So its poll thread
//! never waits for a fold, and a heartbeat that is missed means that the process hangs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use super::settings::{ASK_TIMEOUT, KafkaSettings};
use super::{broker, kafka, note};
use crate::log::LogError;

/// How long one wait of the member's poll thread is.
const POLL_WAIT: Duration = Duration::from_millis(50);

/// What is done with partitions that come and go. Both return soon: the group waits for them.
pub trait Ownership: Send + Sync {
    /// These are ours now.
    fn assigned(&self, partitions: &[u32]);
    /// These aren't any more: when it returns nothing more is emitted for them.
    fn revoked(&self, partitions: &[u32]);
    /// The group won't take this process any more, or what it gives can't be followed: whatever is done, nothing comes of it.
    fn expelled(&self, cause: LogError);
}

struct Context {
    topic: String,
    owned: Arc<Mutex<BTreeSet<u32>>>,
    ownership: Arc<dyn Ownership>,
    rebalances: Arc<AtomicU64>,
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        note(&error, reason);
    }
}

fn numbers(list: &TopicPartitionList, topic: &str) -> Vec<u32> {
    let elements = list.elements_for_topic(topic);
    elements
        .iter()
        .filter_map(|e| u32::try_from(e.partition()).ok())
        .collect()
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = numbers(list, &self.topic);
        self.rebalances.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("reckon_rebalances_total").increment(1);
        if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            tracing::info!(?partitions, "the group gives partitions");
            if let Err(cause) = consumer.incremental_assign(list) {
                // The group takes them for ours: better that they go to a process that can fold them.
                self.ownership.expelled(kafka("following what the group gives", &cause));
                return;
            }
            if let Err(cause) = consumer.pause(list) {
                tracing::warn!(%cause, "the member fetches what nobody takes from it");
            }
            self.owned.lock().extend(&partitions);
            if !partitions.is_empty() {
                self.ownership.assigned(&partitions);
            }
        } else {
            tracing::info!(?partitions, "the group takes partitions");
            self.owned.lock().retain(|p| !partitions.contains(p));
            if !partitions.is_empty() {
                self.ownership.revoked(&partitions);
            }
            if let Err(cause) = consumer.incremental_unassign(list) {
                tracing::error!(%cause, "what the group takes can't be given back");
            }
        }
    }
}

/// Our place in the group.
pub struct Member {
    consumer: Arc<BaseConsumer<Context>>,
    topic: String,
    owned: Arc<Mutex<BTreeSet<u32>>>,
    rebalances: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    /// Milliseconds from `began` to the member's last poll.
    polled_ms: Arc<AtomicU64>,
    began: Instant,
    session_timeout: Duration,
    expelled: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Member {
    /// Joins the group. What it gives and takes is told to `ownership`.
    pub fn join(settings: &KafkaSettings, ownership: Arc<dyn Ownership>) -> Result<Self, LogError> {
        let topic = settings.events();
        let owned = Arc::new(Mutex::new(BTreeSet::new()));
        let rebalances = Arc::new(AtomicU64::new(0));
        let context = Context {
            topic: topic.clone(),
            owned: Arc::clone(&owned),
            ownership: Arc::clone(&ownership),
            rebalances: Arc::clone(&rebalances),
        };
        let consumer: BaseConsumer<Context> = settings
            .member()
            .create_with_context(context)
            .map_err(|e| kafka("making the group's member", &e))?;
        consumer.subscribe(&[&topic]).map_err(|e| kafka("subscribing", &e))?;
        let member = Self {
            consumer: Arc::new(consumer),
            topic,
            owned,
            rebalances,
            stop: Arc::new(AtomicBool::new(false)),
            polled_ms: Arc::new(AtomicU64::new(0)),
            began: Instant::now(),
            session_timeout: settings.session_timeout,
            expelled: Arc::new(AtomicBool::new(false)),
            thread: Mutex::new(None),
        };
        let (consumer, stop) = (Arc::clone(&member.consumer), Arc::clone(&member.stop));
        let (polled_ms, began) = (Arc::clone(&member.polled_ms), member.began);
        let expelled = Arc::clone(&member.expelled);
        let instance = settings.instance.clone().unwrap_or_default();
        let thread = std::thread::Builder::new()
            .name("group".to_owned())
            .spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    // Everything that is fetched before the pause is of no use here.
                    if let Some(Err(cause)) = consumer.poll(POLL_WAIT) {
                        tracing::debug!(%cause, "the group's member");
                        if let Some((_, cause)) = consumer.client().fatal_error()
                            && !expelled.swap(true, Ordering::AcqRel)
                        {
                            let instance = instance.clone();
                            ownership.expelled(LogError::Expelled { instance, cause });
                        }
                    }
                    polled_ms.store(began.elapsed().as_millis() as u64, Ordering::Release);
                }
            })
            .map_err(|e| broker("starting the member's thread", e))?;
        *member.thread.lock() = Some(thread);
        Ok(member)
    }

    /// Whether the group has taken us in and said what is ours, be it nothing.
    pub fn has_joined(&self) -> bool {
        self.rebalances.load(Ordering::Relaxed) > 0
    }

    /// Whether the partition is ours as far as this process knows.
    pub fn owns(&self, partition: u32) -> bool {
        self.owned.lock().contains(&partition)
    }

    /// The partitions that are ours as far as this process knows.
    pub fn owned(&self) -> Vec<u32> {
        self.owned.lock().iter().copied().collect()
    }

    /// Whether the group may have given our partitions to another while this process was held up. Reads aren't answered then.
    pub fn is_stale(&self) -> bool {
        let polled_ms = self.polled_ms.load(Ordering::Acquire);
        let silent = (self.began.elapsed().as_millis() as u64).saturating_sub(polled_ms);
        u128::from(silent) > self.session_timeout.as_millis() || self.expelled.load(Ordering::Acquire)
    }

    /// Asks the group, by a commit under the current generation, whether the partition is still ours. `position` is committed.
    pub fn confirm(&self, partition: u32, position: u64) -> Result<(), LogError> {
        if !self.owns(partition) {
            return Err(LogError::NotOwned { partition });
        }
        self.commit(partition, position)?;
        if self.owns(partition) {
            Ok(())
        } else {
            Err(LogError::NotOwned { partition })
        }
    }

    /// Commits the group's offset of a partition, under the current generation.
    pub fn commit(&self, partition: u32, position: u64) -> Result<(), LogError> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition as i32, Offset::Offset(position as i64))
            .map_err(|e| kafka("committing the group's offset", &e))?;
        self.consumer
            .commit(&list, CommitMode::Sync)
            .map_err(|e| match e.rdkafka_error_code() {
                // Those who are asked about a partition that they don't own any more learn it by a rebalance, soon.
                Some(
                    RDKafkaErrorCode::IllegalGeneration
                    | RDKafkaErrorCode::UnknownMemberId
                    | RDKafkaErrorCode::FencedInstanceId
                    | RDKafkaErrorCode::RebalanceInProgress,
                ) => LogError::Interrupted {
                    partition,
                    doing: "asking the group who owns it",
                    cause: e.to_string(),
                },
                _ => kafka("committing the group's offset", &e),
            })
    }

    /// The group's offset of a partition: every forward below it was acknowledged.
    pub fn committed(&self, partition: u32) -> Result<u64, LogError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition as i32);
        let found = self
            .consumer
            .committed_offsets(list, ASK_TIMEOUT)
            .map_err(|e| kafka("asking for the group's offset", &e))?;
        let offset = found.find_partition(&self.topic, partition as i32).map(|e| e.offset());
        Ok(match offset {
            Some(Offset::Offset(offset)) => offset.max(0) as u64,
            _ => 0,
        })
    }

    /// Leaves the group (a static member's partitions stay its own for the session's time).
    pub fn leave(&self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the member's thread has panicked");
        }
    }
}
