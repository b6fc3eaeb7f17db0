//! Records of the owned partitions, fetched by one client and one thread, handed to each partition's own thread.
//!
//! ```text
//! broker ─▶ librdkafka's queue ─▶ poll thread ─▶ basket of partition 0 ─▶ its fold
//!                                            └─▶ basket of partition 1 ─▶ its fold
//! ```
//!
//! The thread copies records into the basket of their partition; a fold takes the whole basket by swapping it for an empty one.
//! A basket that is full makes the thread wait a moment, and a partition whose fold doesn't get on is paused, so that it keeps
//! nobody back. This client isn't the group's member: partitions are assigned to it at the offset where their store stands,
//! once that is open.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::ffi::{Queue, Taken};
use super::settings::KafkaSettings;
use super::{broker, kafka};
use crate::log::{Batch, LogError};
use crate::wire::record::{Forwarded, Headers, Kind};

/// Bytes in a basket at which the poll thread waits for its fold. Three such buffers go round for every partition.
const BASKET_BYTES: usize = 1 << 20;

/// How long the poll thread waits for a full basket before it pauses the partition: long enough for a fold that only lacks a
/// processor, since what the client has fetched of a partition that is paused is thrown away and fetched again.
const FULL_WAIT: Duration = Duration::from_millis(250);

/// How long the poll thread waits for records before it looks whether to stop, or whom to resume.
const POLL_WAIT: Duration = Duration::from_millis(20);

/// What clients tell beside answers.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Quiet {}

/// What waits for one partition's fold.
#[derive(Default)]
struct Basket {
    /// Fetched, not taken.
    batch: Batch,
    /// Why no more comes.
    failed: Option<LogError>,
    /// Nothing below is still to come, once the batch is taken: markers of transactions stand where no record does.
    read_up_to: u64,
    paused: bool,
    /// Something came into it. One for each basket: what comes for one partition wakes no other's fold.
    filled: Arc<Condvar>,
    /// What was taken is being folded: it is neither here nor done.
    in_hands: bool,
}

struct Shared {
    baskets: Mutex<BTreeMap<u32, Basket>>,
    /// Held from taking records off the client's queue until they are in their baskets, and while partitions are assigned or let
    /// go. So nothing that is handed over is of an assignment that is over, and nothing of a new one is taken for that: either
    /// way records would be skipped without a trace.
    steady: Mutex<()>,
    /// A basket was taken.
    taken: Condvar,
    stop: AtomicBool,
}

/// The client that fetches, and its thread.
pub struct Fetcher {
    shared: Arc<Shared>,
    consumer: Arc<BaseConsumer<Quiet>>,
    topic: String,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The kind and headers of a message of the input topic.
pub(super) fn read_headers(message: &Taken, signature: &mut String) -> (Kind, Option<Forwarded>) {
    let (mut kind, mut forwarded) = (Kind::Event, None);
    signature.clear();
    message.headers(|name, value| match name {
        "reckon-record" => kind = Kind::from_header(value),
        "reckon-signature" => {
            signature.clear();
            signature.push_str(std::str::from_utf8(value).unwrap_or("not UTF-8"));
        }
        "reckon-forwarded" => forwarded = std::str::from_utf8(value).ok().and_then(Forwarded::parse),
        _ => {}
    });
    (kind, forwarded)
}

/// Puts a message of the input topic into a batch.
pub(super) fn put(message: &Taken, batch: &mut Batch, signature: &mut String) {
    let (kind, forwarded) = read_headers(message, signature);
    let headers = Headers {
        signature: (!signature.is_empty()).then_some(signature.as_str()),
        forwarded,
    };
    let (append_ms, _) = message.timestamp();
    batch.push_led(
        message.offset(),
        message.leader_epoch(),
        append_ms,
        kind,
        headers,
        message.payload(),
    );
}

impl Fetcher {
    /// Starts the client and its thread.
    pub fn start(settings: &KafkaSettings) -> Result<Self, LogError> {
        let consumer: BaseConsumer<Quiet> = settings
            .fetcher()
            .create_with_context(Quiet)
            .map_err(|e| kafka("making the client that fetches", &e))?;
        let consumer = Arc::new(consumer);
        let queue = Queue::of(Arc::clone(&consumer))
            .ok_or_else(|| broker("making the client that fetches", "it has no queue"))?;
        let shared = Arc::new(Shared {
            baskets: Mutex::new(BTreeMap::new()),
            steady: Mutex::new(()),
            taken: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let topic = settings.events();
        let poll = Poll {
            queue,
            shared: Arc::clone(&shared),
            topic: topic.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("poll".to_owned())
            .spawn(move || poll.run())
            .map_err(|e| broker("starting the poll thread", e))?;
        Ok(Self {
            shared,
            consumer,
            topic,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Begins to fetch a partition at an offset.
    pub fn follow(&self, partition: u32, from: u64) -> Result<(), LogError> {
        let _steady = self.shared.steady.lock();
        self.let_go(partition)?;
        self.shared.baskets.lock().insert(partition, Basket::default());
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition as i32, Offset::Offset(from as i64))
            .map_err(|e| kafka("assigning a partition", &e))?;
        self.consumer
            .incremental_assign(&list)
            .map_err(|e| kafka("assigning a partition", &e))
    }

    /// No longer fetches a partition.
    pub fn unfollow(&self, partition: u32) -> Result<(), LogError> {
        let _steady = self.shared.steady.lock();
        self.let_go(partition)
    }

    fn let_go(&self, partition: u32) -> Result<(), LogError> {
        let Some(basket) = self.shared.baskets.lock().remove(&partition) else {
            return Ok(());
        };
        self.shared.taken.notify_all();
        basket.filled.notify_all();
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition as i32);
        if basket.paused {
            // The client remembers it beyond the assignment: the next one would begin paused, and nobody would know.
            self.consumer
                .resume(&list)
                .map_err(|e| kafka("letting go of a partition", &e))?;
        }
        self.consumer
            .incremental_unassign(&list)
            .map_err(|e| kafka("letting go of a partition", &e))
    }

    /// Whether the partition is fetched.
    pub fn follows(&self, partition: u32) -> bool {
        self.shared.baskets.lock().contains_key(&partition)
    }

    /// Takes what is there of a partition: `batch` is emptied and swapped for it.
    pub fn take(&self, partition: u32, batch: &mut Batch) -> Result<(), LogError> {
        batch.clear();
        let mut baskets = self.shared.baskets.lock();
        let Some(basket) = baskets.get_mut(&partition) else {
            return Err(LogError::NotOwned { partition });
        };
        std::mem::swap(&mut basket.batch, batch);
        basket.in_hands = !batch.is_empty();
        let failed = batch.is_empty().then(|| basket.failed.take()).flatten();
        drop(baskets);
        self.shared.taken.notify_all();
        failed.map_or(Ok(()), Err)
    }

    /// Waits until there is a record, an error or nothing to wait for any more. Whether there is something to take.
    pub fn wait(&self, partition: u32, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut baskets = self.shared.baskets.lock();
        // Whoever asks for more has folded what it took.
        if let Some(basket) = baskets.get_mut(&partition) {
            basket.in_hands = false;
        }
        loop {
            let filled = match baskets.get(&partition) {
                Some(basket) if basket.batch.is_empty() && basket.failed.is_none() => Arc::clone(&basket.filled),
                _ => return true,
            };
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return false;
            };
            filled.wait_for(&mut baskets, left);
        }
    }

    /// The offset below which nothing is left to be folded, if nothing waits and nothing is being folded.
    pub fn read_up_to(&self, partition: u32) -> Option<u64> {
        let baskets = self.shared.baskets.lock();
        baskets
            .get(&partition)
            .filter(|b| b.batch.is_empty() && !b.in_hands)
            .map(|b| b.read_up_to)
    }

    /// When the oldest record that waits was appended.
    pub fn waiting_since(&self, partition: u32) -> Option<crate::model::Ms> {
        self.shared
            .baskets
            .lock()
            .get(&partition)?
            .batch
            .get(0)
            .map(|r| r.append_ms)
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.taken.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the poll thread has panicked");
        }
    }
}

/// The poll thread.
struct Poll {
    queue: Queue<Quiet>,
    shared: Arc<Shared>,
    topic: String,
}

impl Poll {
    fn run(mut self) {
        let mut signature = String::new();
        let mut fetched: Vec<Batch> = Vec::new();
        let mut failed: Vec<(u32, LogError)> = Vec::new();
        let mut ends: Vec<(u32, u64)> = Vec::new();
        while !self.shared.stop.load(Ordering::Acquire) {
            let steady = self.shared.steady.lock();
            self.queue.take(POLL_WAIT, |message| {
                let partition = u32::try_from(message.partition()).unwrap_or(u32::MAX);
                match message.error() {
                    None => {
                        let at = partition as usize;
                        if at >= fetched.len() {
                            fetched.resize_with(at + 1, Batch::default);
                        }
                        put(message, &mut fetched[at], &mut signature);
                    }
                    Some(RDKafkaErrorCode::PartitionEOF) => ends.push((partition, message.offset())),
                    Some(code) => {
                        if let Some(cause) = fetch_error(partition, code, message) {
                            failed.push((partition, cause));
                        }
                    }
                }
            });
            let full = self.hand_over(&mut ends, &mut fetched, &mut failed);
            // Whoever waits to assign comes first.
            MutexGuard::unlock_fair(steady);
            if !full.is_empty() {
                self.wait_or_pause(&full);
            }
            self.resume();
        }
    }

    /// Puts what was fetched into the baskets. Which of them are full?
    fn hand_over(
        &self,
        ends: &mut Vec<(u32, u64)>,
        fetched: &mut [Batch],
        failed: &mut Vec<(u32, LogError)>,
    ) -> Vec<u32> {
        let mut full = Vec::new();
        let mut told = Vec::new();
        let mut baskets = self.shared.baskets.lock();
        for (partition, batch) in (0u32..).zip(fetched).filter(|(_, b)| !b.is_empty()) {
            // Of a partition that was let go nothing is of use.
            if let Some(basket) = baskets.get_mut(&partition) {
                told.push(Arc::clone(&basket.filled));
                if basket.batch.is_empty() {
                    std::mem::swap(&mut basket.batch, batch);
                } else {
                    basket.batch.append(batch);
                }
                if basket.batch.bytes_len() >= BASKET_BYTES {
                    full.push(partition);
                }
            }
            batch.clear();
        }
        for (partition, end) in ends.drain(..) {
            if let Some(basket) = baskets.get_mut(&partition) {
                basket.read_up_to = end;
            }
        }
        for (partition, cause) in failed.drain(..) {
            if let Some(basket) = baskets.get_mut(&partition) {
                basket.failed = Some(cause);
                told.push(Arc::clone(&basket.filled));
            }
        }
        drop(baskets);
        for filled in told {
            filled.notify_all();
        }
        full
    }

    fn wait_or_pause(&self, full: &[u32]) {
        let is_full = |baskets: &BTreeMap<u32, Basket>, p: &u32| {
            baskets
                .get(p)
                .is_some_and(|b| !b.paused && b.batch.bytes_len() >= BASKET_BYTES)
        };
        let mut baskets = self.shared.baskets.lock();
        let waits = |baskets: &mut BTreeMap<u32, Basket>| {
            !self.shared.stop.load(Ordering::Acquire) && full.iter().any(|p| is_full(baskets, p))
        };
        self.shared.taken.wait_while_for(&mut baskets, waits, FULL_WAIT);
        drop(baskets);
        // What is paused must still be assigned.
        let steady = self.shared.steady.lock();
        let mut baskets = self.shared.baskets.lock();
        let mut list = TopicPartitionList::new();
        for partition in full {
            if is_full(&baskets, partition)
                && let Some(basket) = baskets.get_mut(partition)
            {
                basket.paused = true;
                list.add_partition(&self.topic, *partition as i32);
            }
        }
        drop(baskets);
        if list.count() > 0
            && let Err(cause) = self.queue.consumer().pause(&list)
        {
            tracing::warn!(%cause, "a partition can't be paused");
        }
        MutexGuard::unlock_fair(steady);
    }

    fn resume(&self) {
        let _steady = self.shared.steady.lock();
        let mut list = TopicPartitionList::new();
        for (partition, basket) in self.shared.baskets.lock().iter_mut() {
            if basket.paused && basket.batch.bytes_len() < BASKET_BYTES / 2 {
                basket.paused = false;
                list.add_partition(&self.topic, *partition as i32);
            }
        }
        if list.count() > 0
            && let Err(cause) = self.queue.consumer().resume(&list)
        {
            tracing::warn!(%cause, "a partition can't be resumed");
        }
    }
}

/// What an error in place of a message means for the partition's fold; `None`: the client goes on by itself.
fn fetch_error(partition: u32, code: RDKafkaErrorCode, message: &Taken) -> Option<LogError> {
    match code {
        // `auto.offset.reset=error`: the offset isn't there any more, or not yet.
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::LogTruncation => {
            Some(LogError::OffsetGone {
                partition,
                cause: message.error_text(),
            })
        }
        RDKafkaErrorCode::BadMessage | RDKafkaErrorCode::InvalidMessage => Some(LogError::Corrupt {
            partition,
            offset: message.offset(),
            what: message.error_text(),
        }),
        RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownPartition
        | RDKafkaErrorCode::TopicAuthorizationFailed => {
            Some(broker(&format!("fetching partition {partition}"), message.error_text()))
        }
        _ => {
            tracing::debug!(partition, ?code, "a fetch failed; the client tries again");
            None
        }
    }
}
