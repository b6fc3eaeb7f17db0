//! The log as a Kafka topic: many processes share its partitions, and outputs are topics beside it.
//!
//! ```text
//!                      ┌ group ([`group`]): whose is which partition
//! PREFIX.events ─ fetch ([`fetch`]) ─▶ a basket a partition ─▶ its fold
//!        ▲                                                      │
//!        └── events over HTTP, ticks, forwards ([`publish`])    └▶ transactions ([`emitter`]) ─▶ PREFIX.statements …
//! ```
//!
//! What differs from the embedded log: offsets have gaps (transaction markers, aborted records); others write too, so control
//! records are signed and events may be misplaced; a partition may be taken away, so outputs are fenced.

pub mod emitter;
mod fetch;
pub(crate) mod ffi;
pub mod group;
pub mod history;
pub mod outputs;
pub mod owners;
pub mod publish;
mod reader;
pub mod settings;
pub mod topics;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{Batch, Identity, Log, LogError, NewRecord, Place, Receipt, Retention, next_outputs};
use crate::machine::output::{Output, Tail, Topic};
use crate::model::Ms;
use crate::wire::record::Kind;
use emitter::{Emitter, read_output};
use fetch::Fetcher;
pub(crate) use fetch::Quiet;
use group::{Member, Ownership};
use publish::Publisher;
use rdkafka::consumer::{BaseConsumer, Consumer};
use reader::{Next, Readers, Seen};
use settings::ASK_TIMEOUT;
pub use settings::KafkaSettings;

/// How old a partition's end may be that is shown as lag.
const END_FRESH: Duration = Duration::from_secs(1);

/// Records read at once where it isn't the fold that reads.
const PAGE_WAIT: Duration = Duration::from_secs(20);

pub(crate) fn kafka(doing: &str, cause: &KafkaError) -> LogError {
    let fenced = matches!(
        cause.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch
                | RDKafkaErrorCode::ConcurrentTransactions
        )
    );
    LogError::Kafka {
        doing: doing.to_owned(),
        cause: cause.to_string(),
        fenced,
    }
}

pub(crate) fn broker(doing: &str, cause: impl std::fmt::Display) -> LogError {
    LogError::Kafka {
        doing: doing.to_owned(),
        cause: cause.to_string(),
        fenced: false,
    }
}

/// So many outputs further on is read from where the last page ended, without looking for the place.
const NEAR_OUTPUTS: u64 = 4_096;

/// Where the last page of outputs that was read ended: sequence and offset, by topic and partition.
type Pages = BTreeMap<(Topic, u32), (u64, u64)>;

/// The log.
pub struct KafkaLog {
    settings: KafkaSettings,
    identity: Identity,
    place: String,
    fetcher: Fetcher,
    publisher: Publisher,
    readers: Readers,
    /// Sees what isn't committed, so that it can be told whether somebody keeps the last stable offset back.
    uncommitted: BaseConsumer<Quiet>,
    member: OnceLock<Member>,
    /// By partition; those that are ours and taken over.
    emitters: Vec<Mutex<Option<Emitter>>>,
    /// By partition: where the input ended at least when it was taken over; 0 if it isn't. Whoever asks waits for no transaction.
    taken_at: Vec<AtomicU64>,
    /// The last group offset known, by partition.
    group_offsets: Vec<Mutex<Option<u64>>>,
    ends: Mutex<BTreeMap<u32, (Instant, u64)>>,
    pages: Mutex<Pages>,
}

impl KafkaLog {
    /// Opens the topics, whose settings must be those that `reckon topics create` gives. No partition is owned yet.
    pub fn open(settings: &KafkaSettings) -> Result<Self, LogError> {
        let found = topics::open(settings)?;
        let readers = Readers::new(settings.clone());
        let count = found.partition_count;
        let identity = genesis(&readers, settings, count)?;
        Ok(Self {
            settings: settings.clone(),
            place: found.place,
            fetcher: Fetcher::start(settings)?,
            publisher: Publisher::new(settings)?,
            readers,
            uncommitted: settings
                .reader()
                .set("isolation.level", "read_uncommitted")
                .create_with_context(Quiet)
                .map_err(|e| kafka("making a client that reads", &e))?,
            member: OnceLock::new(),
            emitters: (0..count).map(|_| Mutex::new(None)).collect(),
            taken_at: (0..count).map(|_| AtomicU64::new(0)).collect(),
            group_offsets: (0..count).map(|_| Mutex::new(None)).collect(),
            ends: Mutex::new(BTreeMap::new()),
            pages: Mutex::new(Pages::new()),
            identity,
        })
    }

    /// Joins the group.
    pub fn join(&self, ownership: Arc<dyn Ownership>) -> Result<(), LogError> {
        let member = Member::join(&self.settings, ownership)?;
        let _ = self.member.set(member);
        Ok(())
    }

    /// Our place in the group, once joined.
    pub fn member(&self) -> Option<&Member> {
        self.member.get()
    }

    /// How the cluster is used.
    pub const fn settings(&self) -> &KafkaSettings {
        &self.settings
    }

    /// Leaves the group and lets go of every client.
    pub fn leave(&self) {
        if let Some(member) = self.member.get() {
            member.leave();
        }
        self.fetcher.stop();
    }

    /// The offset after the last record of the partition, committed or not, and that after the last one that may be read.
    pub fn high_and_stable(&self, partition: u32) -> Result<(u64, u64), LogError> {
        let events = self.settings.events();
        let stable = self.readers.ends(&events, partition)?.1;
        let (_, high) = self
            .uncommitted
            .fetch_watermarks(&events, partition as i32, ASK_TIMEOUT)
            .map_err(|e| kafka("asking where a partition ends", &e))?;
        Ok((high.max(0) as u64, stable))
    }

    fn check(&self, partition: u32) -> Result<(), LogError> {
        let count = self.identity.partition_count;
        if partition < count {
            Ok(())
        } else {
            Err(LogError::NoPartition { partition, count })
        }
    }

    fn emitter(&self, partition: u32) -> Result<MutexGuard<'_, Option<Emitter>>, LogError> {
        self.check(partition)?;
        Ok(self.emitters[partition as usize].lock())
    }

    /// The chain of the delivered output with that sequence.
    fn delivered_chain(&self, partition: u32, topic: Topic, sequence: u64) -> Result<Option<u128>, LogError> {
        let outputs = self.read_outputs(partition, topic, sequence - 1, 1)?;
        Ok(outputs.first().filter(|o| o.sequence == sequence).map(|o| o.chain))
    }

    /// The offset of the first output after a sequence, or one before it: found by halving, for sequences grow with offsets.
    fn offset_after(&self, partition: u32, topic: Topic, after: u64) -> Result<u64, LogError> {
        let name = self.settings.output(topic);
        // Every output takes an offset, and markers some more: so the one wanted doesn't stand before that.
        if let Some(&(sequence, offset)) = self.pages.lock().get(&(topic, partition))
            && let Some(further) = after.checked_sub(sequence)
            && further <= NEAR_OUTPUTS
        {
            return Ok(offset + further);
        }
        let (start, end) = self.readers.ends(&name, partition)?;
        let (mut low, mut high) = (start, end);
        if after == 0 {
            return Ok(start);
        }
        while high.saturating_sub(low) > 512 {
            let middle = low + (high - low) / 2;
            let mut found = None;
            self.readers
                .read(&[(&name, partition, middle)], PAGE_WAIT, |_, _, seen| {
                    if let Seen::Record(message) = seen {
                        found = read_output(topic, message).map(|o| o.sequence);
                    }
                    Next::Enough
                })?;
            match found {
                Some(sequence) if sequence <= after => low = middle,
                _ => high = middle,
            }
        }
        Ok(low)
    }
}

/// What the log is, from the first record of each partition. Where retention has removed that one, a store may still go on that
/// has folded it: each partition says so for itself. One genesis must be left.
fn genesis(readers: &Readers, settings: &KafkaSettings, count: u32) -> Result<Identity, LogError> {
    let events = settings.events();
    let mut from: Vec<(&str, u32, u64)> = Vec::new();
    let mut removed = Vec::new();
    for partition in 0..count {
        match readers.ends(&events, partition)?.0 {
            0 => from.push((&events, partition, 0)),
            start => removed.push((partition, start)),
        }
    }
    let mut found: BTreeMap<u32, Option<crate::wire::pb::Genesis>> = BTreeMap::new();
    let mut signature = String::new();
    let mut bad = None;
    readers.read(&from, PAGE_WAIT, |_, partition, seen| {
        if let Seen::Record(message) = seen
            && message.offset() == 0
            && fetch::read_headers(message, &mut signature).0 == Kind::Genesis
        {
            let genesis = super::memory::genesis_of(message.payload());
            if let Some(genesis) = &genesis
                && (genesis.partition != partition || genesis.partition_count != count)
            {
                bad = Some((partition, genesis.partition_count));
            }
            found.insert(partition, genesis);
        }
        Next::Enough
    })?;
    if let Some((partition, found)) = bad {
        return Err(LogError::PartitionCount {
            topic: events,
            partition,
            found: count,
            wanted: found,
        });
    }
    for (_, partition, _) in from {
        if found.get(&partition).is_none_or(Option::is_none) {
            return Err(LogError::NoGenesisRecord {
                topic: events,
                partition,
            });
        }
    }
    for (partition, start) in removed {
        tracing::warn!(
            partition,
            start,
            "records were removed from the log, its genesis among them: a store of this partition that is lost can't be rebuilt"
        );
    }
    let mut found = found
        .into_iter()
        .filter_map(|(partition, genesis)| Some((partition, genesis?)));
    let first = found.next().map(|(_, genesis)| genesis);
    // One log: the same id, clock and keys everywhere.
    let differs = |other: &crate::wire::pb::Genesis| {
        let same = |one: &crate::wire::pb::Genesis| {
            one.log_id == other.log_id && one.clock_source == other.clock_source && one.keys == other.keys
        };
        !first.as_ref().is_some_and(same)
    };
    if let Some((partition, _)) = found.find(|(_, other)| differs(other)) {
        return Err(LogError::Topics {
            what: format!(
                "{events}: the genesis of partition {partition} names another log, clock source or keys than the first one does; \
                 make a new log under another --topic-prefix"
            ),
        });
    }
    first
        .as_ref()
        .map(super::local::identity_from)
        .ok_or(LogError::NoGenesisRecord {
            topic: events,
            partition: 0,
        })
}

impl Log for KafkaLog {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn place(&self) -> String {
        self.place.clone()
    }

    fn start(&self, partition: u32) -> Result<u64, LogError> {
        self.check(partition)?;
        Ok(self.readers.ends(&self.settings.events(), partition)?.0)
    }

    fn end(&self, partition: u32) -> Result<u64, LogError> {
        Ok(self.range(partition)?.1)
    }

    fn range(&self, partition: u32) -> Result<(u64, u64), LogError> {
        self.check(partition)?;
        let (start, end) = self.readers.ends(&self.settings.events(), partition)?;
        // A stale leader may tell an old end; what was there when the partition was taken over is known.
        let known = self.taken_at[partition as usize].load(Ordering::Acquire);
        let end = end.max(known);
        self.ends.lock().insert(partition, (Instant::now(), end));
        Ok((start, end))
    }

    fn recent_end(&self, partition: u32) -> Result<u64, LogError> {
        if let Some((asked, end)) = self.ends.lock().get(&partition)
            && asked.elapsed() < END_FRESH
        {
            return Ok(*end);
        }
        self.end(partition)
    }

    fn read_up_to(&self, partition: u32, next_offset: u64) -> u64 {
        let fetched = self.fetcher.read_up_to(partition);
        fetched.map_or(next_offset, |offset| offset.max(next_offset))
    }

    fn follow(&self, partition: u32, from: u64) -> Result<(), LogError> {
        self.check(partition)?;
        self.fetcher.follow(partition, from)
    }

    fn poll(&self, partition: u32, from: u64, max_bytes: usize, batch: &mut Batch) -> Result<(), LogError> {
        self.check(partition)?;
        if self.fetcher.follows(partition) {
            return self.fetcher.take(partition, batch);
        }
        batch.clear();
        let events = self.settings.events();
        let mut signature = String::new();
        self.readers
            .read(&[(&events, partition, from)], PAGE_WAIT, |_, _, seen| match seen {
                Seen::Record(message) if batch.bytes_len() < max_bytes || batch.is_empty() => {
                    fetch::put(message, batch, &mut signature);
                    Next::More
                }
                _ => Next::Enough,
            })?;
        Ok(())
    }

    fn record_at(&self, partition: u32, offset: u64) -> Result<Option<u64>, LogError> {
        self.check(partition)?;
        let events = self.settings.events();
        let mut found = None;
        self.readers
            .read(&[(&events, partition, offset)], PAGE_WAIT, |_, _, seen| {
                if let Seen::Record(message) = seen
                    && message.offset() == offset
                {
                    found = Some(super::fingerprint(message.payload()));
                }
                Next::Enough
            })?;
        Ok(found)
    }

    fn waiting_since(&self, partition: u32, from: u64) -> Result<Option<Ms>, LogError> {
        let _ = from;
        Ok(self.fetcher.waiting_since(partition))
    }

    fn append_placed(&self, records: Vec<(Place, NewRecord)>) -> Result<Vec<Receipt>, LogError> {
        if records.iter().any(|(_, r)| r.kind == Kind::Control) {
            return publish::append_control(&self.settings, &records, self.identity.partition_count);
        }
        let mut placed = Vec::with_capacity(records.len());
        for (place, record) in &records {
            for partition in place.partitions(self.identity.partition_count)? {
                placed.push((partition, record));
            }
        }
        self.publisher.append(&placed)
    }

    fn wait(&self, partition: u32, _: u64, timeout: Duration) -> Result<bool, LogError> {
        Ok(self.fetcher.wait(partition, timeout))
    }

    fn take_over(&self, partition: u32) -> Result<(), LogError> {
        self.check(partition)?;
        *self.emitter(partition)? = None;
        self.taken_at[partition as usize].store(0, Ordering::Release);
        let Some(member) = self.member.get() else {
            return Err(LogError::NotOwned { partition });
        };
        let began = Instant::now();
        let position = self.forwarded_below(partition)?;
        member.confirm(partition, position)?;
        tracing::debug!(
            partition,
            ask_ms = began.elapsed().as_millis() as u64,
            "the group says that it is ours"
        );
        let emitter = Emitter::take_over(&self.settings, &self.identity.log_id, partition, &self.readers)?;
        self.taken_at[partition as usize].store(emitter.input_barrier + 1, Ordering::Release);
        *self.emitter(partition)? = Some(emitter);
        Ok(())
    }

    fn let_go(&self, partition: u32) {
        if let Err(cause) = self.fetcher.unfollow(partition) {
            tracing::warn!(partition, %cause, "a partition can't be let go");
        }
        if let Some(emitter) = self.emitters.get(partition as usize) {
            *emitter.lock() = None;
            self.taken_at[partition as usize].store(0, Ordering::Release);
        }
    }

    fn append_outputs(&self, partition: u32, outputs: &[Output]) -> Result<(), LogError> {
        if outputs.is_empty() {
            return Ok(());
        }
        let mut guard = self.emitter(partition)?;
        let Some(emitter) = guard.as_mut() else {
            return Err(LogError::Interrupted {
                partition,
                doing: "emitting outputs",
                cause: "the partition isn't taken over".to_owned(),
            });
        };
        let mut new = Vec::new();
        for topic in Topic::ALL {
            let tail = emitter.tails[topic as usize];
            let of_topic = || outputs.iter().filter(move |o| o.topic == topic);
            // Hashes are chained: if the last one is the delivered one, so are all before it.
            let last = of_topic().map(|o| o.sequence).filter(|s| *s <= tail.sequence).max();
            let delivered = match last {
                Some(last) => self.delivered_chain(partition, topic, last)?,
                None => None,
            };
            let chain = |sequence| Ok(delivered.filter(|_| Some(sequence) == last));
            new.extend(next_outputs(partition, tail, of_topic(), chain)?);
        }
        let result = emitter.emit(&new);
        if result.is_err() {
            // Its transaction's outcome may be unknown; the next take-over reads it.
            *guard = None;
        }
        result
    }

    fn output_tail(&self, partition: u32, topic: Topic) -> Result<Tail, LogError> {
        match self.emitter(partition)?.as_ref() {
            Some(emitter) => Ok(emitter.tails[topic as usize]),
            None => Err(LogError::Interrupted {
                partition,
                doing: "asking what was delivered",
                cause: "the partition isn't taken over".to_owned(),
            }),
        }
    }

    fn read_outputs(&self, partition: u32, topic: Topic, after: u64, max: usize) -> Result<Vec<Output>, LogError> {
        self.check(partition)?;
        let name = self.settings.output(topic);
        let from = self.offset_after(partition, topic, after)?;
        let mut outputs: Vec<Output> = Vec::new();
        let mut next = None;
        self.readers
            .read(&[(&name, partition, from)], PAGE_WAIT, |_, _, seen| match seen {
                Seen::Record(message) => {
                    if let Some(output) = read_output(topic, message).filter(|o| o.sequence > after) {
                        next = Some((output.sequence, message.offset() + 1));
                        outputs.push(output);
                    }
                    if outputs.len() < max { Next::More } else { Next::Enough }
                }
                Seen::End(_) => Next::Enough,
            })?;
        if let Some(next) = next {
            self.pages.lock().insert((topic, partition), next);
        }
        Ok(outputs)
    }

    fn prune(&self, _: u32, _: u64, _: Retention) -> Result<(), LogError> {
        // The topic's own retention, which `topics check` looks at.
        Ok(())
    }

    fn forwarded_below(&self, partition: u32) -> Result<u64, LogError> {
        self.check(partition)?;
        let Some(member) = self.member.get() else {
            return Ok(0);
        };
        let mut known = self.group_offsets[partition as usize].lock();
        // Another owner may have gone on meanwhile.
        let offset = member.committed(partition)?.max(known.unwrap_or(0));
        *known = Some(offset);
        Ok(offset)
    }

    fn acknowledge(&self, partition: u32, below: u64) -> Result<(), LogError> {
        self.check(partition)?;
        let Some(member) = self.member.get() else {
            return Ok(());
        };
        let mut known = self.group_offsets[partition as usize].lock();
        if known.is_none_or(|known| below > known) {
            member.commit(partition, below)?;
            *known = Some(below);
        }
        drop(known);
        Ok(())
    }
}
