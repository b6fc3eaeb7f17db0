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

pub mod acls;
pub mod emitter;
mod fetch;
pub(crate) mod ffi;
mod genesis;
pub mod group;
pub mod history;
pub mod outputs;
pub mod owners;
mod pages;
mod place;
pub mod publish;
mod reader;
pub mod settings;
pub mod topics;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{Batch, Identity, Log, LogError, NewRecord, Place, Receipt, Retention, next_outputs};
use crate::machine::output::{Output, Tail, Topic};
use crate::model::Ms;
use crate::wire::record::Kind;
use emitter::Emitter;
use fetch::Fetcher;
pub(crate) use fetch::Quiet;
use group::{Member, Ownership};
use pages::Pages;
use publish::Publisher;
use rdkafka::consumer::{BaseConsumer, Consumer};
use reader::{Readers, Seen, Want};
use settings::ASK_TIMEOUT;
pub use settings::KafkaSettings;

/// How often it is looked whether the topics are still the same ones.
const PLACE_EVERY: Duration = Duration::from_secs(10);

/// How long that may take: whoever looks has other things to look at.
const PLACE_WAIT: Duration = Duration::from_secs(2);

/// How old a partition's end may be that is shown as lag.
const END_FRESH: Duration = Duration::from_secs(1);

/// How long the brokers may be silent where it isn't the fold that reads.
const READ_SILENCE: Duration = Duration::from_secs(20);

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

/// What a client tells beside answers: it goes on by itself.
pub(crate) fn note(error: &KafkaError, reason: &str) {
    tracing::debug!(%error, reason, "librdkafka");
}

pub(crate) fn broker(doing: &str, cause: impl std::fmt::Display) -> LogError {
    LogError::Kafka {
        doing: doing.to_owned(),
        cause: cause.to_string(),
        fenced: false,
    }
}

/// What is known of a partition that was taken over.
#[derive(Clone, Copy)]
struct TakenOver {
    /// What is delivered.
    tails: [Tail; 4],
    /// Where the input ended at least when it was taken over.
    input_end: u64,
}

impl TakenOver {
    fn of(emitter: &Emitter) -> Self {
        Self {
            tails: emitter.tails,
            input_end: emitter.input_barrier + 1,
        }
    }
}

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
    /// By partition: what is known of those. Whoever asks waits for no transaction.
    taken: Vec<Mutex<Option<TakenOver>>>,
    /// The last group offset known, by partition.
    group_offsets: Vec<Mutex<Option<u64>>>,
    ends: Mutex<BTreeMap<u32, (Instant, u64)>>,
    pages: Pages,
    place_checked: Mutex<Instant>,
}

impl KafkaLog {
    /// Opens the topics, whose settings must be those that `reckon topics create` gives. No partition is owned yet.
    pub fn open(settings: &KafkaSettings) -> Result<Self, LogError> {
        let found = topics::open(settings)?;
        let readers = Readers::new(settings.clone());
        let count = found.partition_count;
        let identity = genesis::read(&readers, settings, count)?;
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
            taken: (0..count).map(|_| Mutex::new(None)).collect(),
            group_offsets: (0..count).map(|_| Mutex::new(None)).collect(),
            ends: Mutex::new(BTreeMap::new()),
            pages: Pages::default(),
            place_checked: Mutex::new(Instant::now()),
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

    /// Nothing is emitted any more before the partition is taken over anew.
    fn give_up_emitting(&self, partition: u32) {
        let mut emitter = self.emitters[partition as usize].lock();
        *emitter = None;
        *self.taken[partition as usize].lock() = None;
    }

    fn emitter(&self, partition: u32) -> Result<MutexGuard<'_, Option<Emitter>>, LogError> {
        self.check(partition)?;
        Ok(self.emitters[partition as usize].lock())
    }

    /// That the topics and the cluster are those that this log was opened on. Asks at most every ten seconds.
    pub fn check_place(&self) -> Result<(), LogError> {
        let mut checked = self.place_checked.lock();
        if checked.elapsed() < PLACE_EVERY {
            return Ok(());
        }
        *checked = Instant::now();
        drop(checked);
        self.check_place_within(PLACE_WAIT)
    }

    fn check_place_within(&self, timeout: Duration) -> Result<(), LogError> {
        let found = place::place(self.uncommitted.client(), &self.settings, timeout)?;
        if found == self.place {
            return Ok(());
        }
        Err(LogError::OtherPlace {
            opened: self.place.clone(),
            found,
        })
    }

    /// Whether the group says of all our partitions that they are ours: by commits of the offsets it has, under our generation.
    pub fn confirms_all(&self) -> bool {
        let Some(member) = self.member.get() else { return true };
        member
            .owned()
            .into_iter()
            .all(|partition| match self.confirm(member, partition) {
                Ok(()) => true,
                Err(cause) => {
                    tracing::debug!(partition, %cause, "not confirmed");
                    false
                }
            })
    }

    /// Asks the group whether the partition is ours, by a commit. What is acknowledged meanwhile waits, so the group's offset
    /// doesn't go back.
    fn confirm(&self, member: &Member, partition: u32) -> Result<(), LogError> {
        self.check(partition)?;
        let mut known = self.group_offsets[partition as usize].lock();
        // Another owner may have gone on meanwhile.
        let offset = member.committed(partition)?.max(known.unwrap_or(0));
        member.confirm(partition, offset)?;
        *known = Some(offset);
        drop(known);
        Ok(())
    }

    /// The chain of the delivered output with that sequence, which is below the tail; `None` if retention has removed it.
    fn delivered_chain(&self, partition: u32, topic: Topic, sequence: u64) -> Result<Option<u128>, LogError> {
        let outputs = self.read_outputs(partition, topic, sequence - 1, 1)?;
        match outputs.first() {
            Some(output) => Ok((output.sequence == sequence).then_some(output.chain)),
            // The tail at least must be there.
            None => Err(LogError::Interrupted {
                partition,
                doing: "comparing with what was delivered",
                cause: format!("{} ends before sequence {sequence}", topic.as_str()),
            }),
        }
    }
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
        let known = self.taken[partition as usize].lock().map_or(0, |taken| taken.input_end);
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
            .read(&[(&events, partition, from)], READ_SILENCE, |_, _, seen| match seen {
                Seen::Record(message) if batch.bytes_len() < max_bytes || batch.is_empty() => {
                    fetch::put(message, batch, &mut signature);
                    Want::More
                }
                _ => Want::Enough,
            })
    }

    fn record_at(&self, partition: u32, offset: u64) -> Result<Option<u64>, LogError> {
        self.check(partition)?;
        let events = self.settings.events();
        let mut found = None;
        self.readers
            .read(&[(&events, partition, offset)], READ_SILENCE, |_, _, seen| {
                if let Seen::Record(message) = seen
                    && message.offset() == offset
                {
                    found = Some(super::fingerprint(message.payload()));
                }
                Want::Enough
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
        self.give_up_emitting(partition);
        let Some(member) = self.member.get() else {
            return Err(LogError::NotOwned { partition });
        };
        let began = Instant::now();
        // What was delivered to topics that are gone says nothing of those that have their names now.
        self.check_place_within(ASK_TIMEOUT)?;
        self.confirm(member, partition)?;
        tracing::debug!(
            partition,
            ask_ms = began.elapsed().as_millis() as u64,
            "the group says that it is ours"
        );
        let emitter = Emitter::take_over(&self.settings, &self.identity.log_id, partition, &self.readers)?;
        let mut guard = self.emitter(partition)?;
        *self.taken[partition as usize].lock() = Some(TakenOver::of(&emitter));
        *guard = Some(emitter);
        Ok(())
    }

    fn let_go(&self, partition: u32) {
        if let Err(cause) = self.fetcher.unfollow(partition) {
            tracing::warn!(partition, %cause, "a partition can't be let go");
        }
        if self.check(partition).is_ok() {
            self.give_up_emitting(partition);
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
                Some(last) if last == tail.sequence => Some(tail.chain),
                Some(last) => self.delivered_chain(partition, topic, last)?,
                None => None,
            };
            let chain = |sequence| Ok(delivered.filter(|_| Some(sequence) == last));
            new.extend(next_outputs(partition, tail, of_topic(), chain)?);
        }
        let result = emitter.emit(&new);
        // After a failure its transaction's outcome may be unknown; the next take-over reads it.
        let taken = result.is_ok().then(|| TakenOver::of(emitter));
        if taken.is_none() {
            *guard = None;
        }
        *self.taken[partition as usize].lock() = taken;
        result
    }

    fn output_tail(&self, partition: u32, topic: Topic) -> Result<Tail, LogError> {
        self.check(partition)?;
        match *self.taken[partition as usize].lock() {
            Some(taken) => Ok(taken.tails[topic as usize]),
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
        self.pages.read(&self.readers, &name, topic, partition, after, max)
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
