//! One partition, folded by one thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::forwarding::{self, Forwarding};
use super::{PartitionError, Settings};
use crate::log::{self, Batch, Log, LogError};
use crate::machine::accounts::Accounts;
use crate::machine::calls::Queue;
use crate::machine::control;
use crate::machine::fold::{Advance, Known, Machine, Position, Record};
use crate::machine::output::{Output, Topic};
use crate::model::Ms;
use crate::model::event::Phase;
use crate::model::id::CallKey;
use crate::model::period::Month;
use crate::store::commit::{CommitBytes, LastRecord, Written};
use crate::store::load::load_period;
use crate::store::rocks::Rocks;
use crate::store::shelf::Shelf;
use crate::wire::pb::control::Body;
use crate::wire::record::{self, Input, Kind};

/// Records that are decoded, looked up and applied together, so that memory is waited for once and not once a record.
const GROUP: usize = 32;

/// Settled calls that are kept after they were read back.
const CLEAN_MAX: u64 = 4_096;

/// Settled calls that are kept in memory at most, however slowly the log's time goes by.
const WARM_MAX: u64 = 1 << 20;

/// So many times larger commits are, in events and time, while the fold is behind.
const BEHIND_TIMES: u64 = 5;

/// Bytes of outputs and misplaced events that are decided and not committed, after which a commit is due.
const DECIDED_BYTES_MAX: usize = 32 << 20;

/// Position and forget line up to which the store is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flushed {
    /// How far.
    pub position: Position,
    /// Calls last known before it will never be asked for again.
    pub forget_line: Ms,
}

/// What a partition has done since it was opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Records folded.
    pub records: u64,
    /// Commits written.
    pub commits: u64,
    /// Bytes of the commits.
    pub bytes: CommitBytes,
    /// Time in commits.
    pub commit_time: Duration,
    /// Misplaced events appended to their own partitions.
    pub forwarded: u64,
}

/// One partition.
pub struct Partition {
    /// Its number.
    pub number: u32,
    /// The state.
    pub machine: Machine,
    /// Its packed calls.
    pub shelf: Shelf,
    /// Its store; shared with reads that go on beside the fold.
    pub rocks: Arc<Rocks>,
    /// What it has done.
    pub work: Work,
    pub(super) log: Arc<dyn Log>,
    pub(super) settings: Settings,
    pub(super) written: Written,
    /// Decided and committed, not yet delivered.
    pub(super) unsent: Vec<Output>,
    /// Delivered since the last commit: their outbox rows go with the next one.
    pub(super) delivered: Vec<(Topic, u64)>,
    pub(super) forwarding: Forwarding,
    pub(super) flushed: Flushed,
    pub(super) flushing: Option<Flushed>,
    pub(super) flushed_at: Instant,
    pub(super) committed: Position,
    pub(super) committed_at: Instant,
    /// The log may let go of records below it: set when a flush has ended.
    pub(super) prune_below: Option<u64>,
    /// The store has reached the tail of every output topic: from then on outputs go out, and are new.
    pub(super) caught_up: bool,
    /// More waits in the log than is folded in a moment: commits are larger then, for they cost less an event, and what they
    /// put out is late anyway.
    pub(super) behind: bool,
    /// The last record that was folded.
    pub(super) last: Option<LastRecord>,
    pub(super) scratch: Vec<Vec<u8>>,
}

/// Whether the record may change totals: those that only open a call, or say that it goes on, don't.
fn may_book(record: &Record<'_>) -> bool {
    match &record.input {
        Input::Event(Ok(event)) => !matches!(event.phase, Phase::Started | Phase::ResponseStarted | Phase::Progress),
        _ => true,
    }
}

/// The account and the call that a record is about.
fn called<'r>(record: &'r Record<'_>) -> Option<(&'r str, &'r str)> {
    match &record.input {
        Input::Event(Ok(event)) => Some((event.account, event.call)),
        Input::Control(Ok(control)) => match &control.body {
            Some(Body::Correction(c)) => Some((&c.account_id, &c.call_id)),
            _ => None,
        },
        _ => None,
    }
}

impl Partition {
    /// Folds what the log has now, up to `until` or its end. Whether anything was there.
    pub fn fold_available(&mut self, batch: &mut Batch, until: Option<u64>) -> Result<bool, PartitionError> {
        let from = self.machine.position.next_offset;
        let log = Arc::clone(&self.log);
        log.poll(self.number, from, self.settings.poll_bytes, batch)?;
        let count = match until {
            Some(until) => batch.iter().take_while(|r| r.offset < until).count(),
            None => batch.len(),
        };
        // The last record may have left something: it needs no other to go on.
        if count == 0 && !self.machine.settling {
            self.reached_end(until.is_none())?;
            return Ok(false);
        }
        self.fold(batch, count)?;
        Ok(true)
    }

    /// Folds to the log's end as it is now and commits.
    pub fn catch_up(&mut self, mut progress: impl FnMut(u64)) -> Result<(), PartitionError> {
        let mut batch = Batch::default();
        let mut before = self.work.records;
        while self.fold_available(&mut batch, None)? {
            progress(self.work.records - before);
            before = self.work.records;
        }
        Ok(())
    }

    fn reached_end(&mut self, at_end: bool) -> Result<(), PartitionError> {
        if at_end {
            self.check_tails()?;
        }
        if self.has_uncommitted() {
            self.commit()?;
        }
        self.send()
    }

    /// Whether the store has reached the tails of all output topics. Before that nothing goes out: what one topic is ahead by
    /// would be told before what the others still have to be compared with.
    pub(super) fn reach_tails(&mut self) -> Result<bool, PartitionError> {
        if !self.caught_up {
            for topic in Topic::ALL {
                let tail = self.log.output_tail(self.number, topic)?.sequence;
                if tail > self.machine.outputs.tails[topic as usize].sequence {
                    return Ok(false);
                }
            }
            self.check_outbox()?;
            self.caught_up = true;
        }
        Ok(true)
    }

    /// Beside the tails that it has reached: the store must say the same of the last output delivered, and still have the next.
    fn check_outbox(&self) -> Result<(), PartitionError> {
        let partition = self.number;
        for topic in Topic::ALL {
            let (tail, own) = (
                self.log.output_tail(partition, topic)?,
                self.machine.outputs.tails[topic as usize],
            );
            let sequence = own.sequence;
            if sequence == tail.sequence && own.chain != tail.chain {
                return Err(LogError::OutputDiffers {
                    topic,
                    partition,
                    sequence,
                }
                .into());
            }
            let mut waiting = self.unsent.iter().chain(&self.machine.outputs.pending);
            let next = waiting.find(|o| o.topic == topic && o.sequence > tail.sequence);
            if sequence > tail.sequence && next.map(|o| o.sequence) != Some(tail.sequence + 1) {
                return Err(LogError::OutputGap {
                    topic,
                    partition,
                    sequence: next.map_or(sequence, |o| o.sequence),
                    tail: tail.sequence,
                }
                .into());
            }
        }
        Ok(())
    }

    /// Before records of another leader are folded: the last one folded must still be where it was.
    pub(super) fn check_leader(&self, batch: &Batch) -> Result<(), PartitionError> {
        let Some(last) = self.last else { return Ok(()) };
        let epoch = batch
            .len()
            .checked_sub(1)
            .and_then(|n| batch.get(n))
            .map_or(0, |r| r.leader_epoch);
        if epoch != last.leader_epoch
            && last.offset >= self.log.start(self.number)?
            && self.log.record_at(self.number, last.offset)? != Some(last.fingerprint)
        {
            return Err(LogError::OtherRecord {
                partition: self.number,
                offset: last.offset,
            }
            .into());
        }
        Ok(())
    }

    /// At the log's end, once: the outputs delivered before must be among those that the log leads to.
    pub(super) fn check_tails(&mut self) -> Result<(), PartitionError> {
        if self.reach_tails()? { Ok(()) } else { self.check_end() }
    }

    /// The same where the tails aren't reached yet. It asks the log.
    pub(super) fn check_end(&self) -> Result<(), PartitionError> {
        if self.is_at_end()? {
            for topic in Topic::ALL {
                let tail = self.log.output_tail(self.number, topic)?.sequence;
                let folded = self.machine.outputs.tails[topic as usize].sequence;
                if tail > folded {
                    return Err(PartitionError::TailAhead {
                        partition: self.number,
                        topic,
                        tail,
                        folded,
                    });
                }
            }
        }
        Ok(())
    }

    /// Whether everything that the log has now is folded.
    fn is_at_end(&self) -> Result<bool, PartitionError> {
        let end = self.log.end(self.number)?;
        Ok(self.log.read_up_to(self.number, self.machine.position.next_offset) >= end)
    }

    /// Folds the first `count` records of a batch.
    pub fn fold(&mut self, batch: &Batch, count: usize) -> Result<(), PartitionError> {
        let mut at = 0;
        while at < count || self.machine.settling {
            at = self.fold_next(batch, at, count)?;
            if self.is_commit_due() {
                self.commit()?;
                self.send()?;
            }
        }
        Ok(())
    }

    /// Folds records from `at` on, a group at most, and says where to go on. That is the same place again, or
    /// [`Machine::settling`](crate::machine::fold::Machine) is set, if a record has more steps: between them others may read.
    pub fn fold_next(&mut self, batch: &Batch, at: usize, count: usize) -> Result<usize, PartitionError> {
        if self.machine.settling && !self.settle_down()? {
            return Ok(at);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize_with(GROUP, Vec::new);
        let folded = self.fold_group(batch, at..count.min(at + GROUP), &mut scratch);
        self.scratch = scratch;
        Ok(at + folded?)
    }

    fn fold_group(
        &mut self,
        batch: &Batch,
        range: std::ops::Range<usize>,
        scratch: &mut [Vec<u8>],
    ) -> Result<usize, PartitionError> {
        let first = range.start;
        let mut records: SmallVec<[Record<'_>; GROUP]> = SmallVec::new();
        for (polled, scratch) in range.filter_map(|i| batch.get(i)).zip(scratch) {
            records.push(Record {
                offset: polled.offset,
                append_ms: polled.append_ms,
                bytes: polled.bytes,
                headers: polled.headers,
                input: record::decode(polled.kind, polled.bytes, scratch),
            });
        }
        let known = self.bring_in(&records)?;
        let mut folded = 0usize;
        for (record, known) in records.iter().zip(&known) {
            if !self.apply(record, known.as_ref())? {
                break;
            }
            folded += 1;
            if !self.settle_down()? {
                break;
            }
        }
        self.work.records += folded as u64;
        if let Some(record) = folded.checked_sub(1).and_then(|n| batch.get(first + n)) {
            self.last = Some(LastRecord {
                offset: record.offset,
                leader_epoch: record.leader_epoch,
                fingerprint: log::fingerprint(record.bytes),
            });
        }
        self.pack();
        Ok(folded)
    }

    /// Whether enough is folded, or enough time gone by, for a commit.
    pub fn is_commit_due(&self) -> bool {
        let since = self.machine.position.next_offset - self.committed.next_offset;
        let times = if self.behind { BEHIND_TIMES } else { 1 };
        since >= self.settings.commit_events.saturating_mul(times)
            || self.machine.outputs.forwards.len() >= forwarding::WAITING_MAX
            || self.machine.outputs.bytes >= DECIDED_BYTES_MAX
            || (self.has_uncommitted()
                && self.committed_at.elapsed().as_millis() as u64 >= self.settings.commit_ms.saturating_mul(times))
    }

    /// Outputs that are decided and committed, and not known to be delivered.
    pub fn undelivered(&self) -> usize {
        self.unsent.len()
    }

    /// Whether all that the folded records led to is committed.
    pub(super) fn is_settled(&self) -> bool {
        !self.has_uncommitted() && !self.machine.settling
    }

    /// Whether anything is folded that isn't committed.
    pub fn has_uncommitted(&self) -> bool {
        self.machine.position != self.committed
    }

    /// Makes resident every packed call that a record of the group is about, and says what it found out on the way.
    fn bring_in<'r>(
        &mut self,
        records: &'r [Record<'_>],
    ) -> Result<SmallVec<[Option<Known<'r>>; GROUP]>, PartitionError> {
        // In stages over the whole group, each a row of independent looks, so that memory is waited for once a stage.
        let machine = &self.machine;
        let (accounts, calls) = (&machine.accounts, &machine.calls);
        let named: SmallVec<[Option<(&str, &str, u64)>; GROUP]> = records
            .iter()
            .map(|record| called(record).map(|(account, call)| (account, call, Accounts::hash(account))))
            .collect();
        let hashes = || named.iter().flatten().map(|named| named.2);
        hashes().for_each(|hash| accounts.prefetch_place(hash));
        hashes()
            .filter_map(|hash| accounts.likely(hash))
            .for_each(|account| accounts.prefetch(account));
        let mut known: SmallVec<[Option<Known<'r>>; GROUP]> = named
            .iter()
            .zip(records)
            .map(|(named, record)| {
                let (account, call, hash) = (*named)?;
                // An account that has no number yet has no calls.
                let account = accounts.find_hashed(account, hash)?;
                if may_book(record) {
                    accounts.prefetch_latest(account);
                }
                let key = CallKey::parse(call);
                let hash = key.hash(account);
                calls.prefetch_place(hash);
                let slot = None;
                Some(Known {
                    account,
                    key,
                    hash,
                    slot,
                })
            })
            .collect();
        for (known, record) in known.iter_mut().zip(records) {
            let Some(known) = known else { continue };
            if may_book(record) {
                accounts.prefetch_lines(known.account);
            }
            known.slot = calls.likely(known.hash);
            match known.slot {
                Some(slot) => calls.prefetch(slot),
                None => self.shelf.prefetch(known.hash),
            }
        }
        for known in known.iter().flatten() {
            known.slot.into_iter().for_each(|slot| calls.prefetch_neighbours(slot));
        }
        for known in known.iter_mut().flatten() {
            let calls = &mut self.machine.calls;
            if known
                .slot
                .is_none_or(|slot| !calls.holds(slot, known.account, &known.key))
            {
                known.slot = calls.find(known.account, &known.key, known.hash);
            }
            if known.slot.is_none()
                && let Some(packed) = self.shelf.find(&self.rocks, known.account, &known.key, known.hash)?
            {
                let slot = calls.insert(packed.call);
                if let Some(correction) = packed.correction {
                    calls.corrections.insert(slot, correction);
                }
                calls.enqueue(slot, Queue::Clean);
                known.slot = Some(slot);
            }
        }
        Ok(known)
    }

    /// Applies a record until it is done or a step says that there is more. Whether it is done.
    fn apply(&mut self, record: &Record<'_>, known: Option<&Known<'_>>) -> Result<bool, PartitionError> {
        loop {
            match self.machine.advance_known(record, known) {
                Advance::Done => return Ok(true),
                Advance::More => return Ok(false),
                Advance::Load(periods) => self.load(&periods)?,
            }
        }
    }

    /// Fires what the last record left due at its own instant. Whether nothing is left.
    fn settle_down(&mut self) -> Result<bool, PartitionError> {
        loop {
            match self.machine.settle_down() {
                Advance::Done => return Ok(true),
                Advance::More => return Ok(false),
                Advance::Load(periods) => self.load(&periods)?,
            }
        }
    }

    fn load(&mut self, periods: &[(u32, Month)]) -> Result<(), PartitionError> {
        for &(account, month) in periods {
            load_period(&self.rocks, &mut self.machine, account, month)?;
        }
        Ok(())
    }

    /// Packs settled calls that have cooled, and lets go of those that were only looked at.
    fn pack(&mut self) {
        let Some(now) = self.machine.clock.now else {
            return;
        };
        let calls = &mut self.machine.calls;
        while let Some((slot, call)) = calls.coldest() {
            if call.changed.saturating_add(self.settings.hold_ms) > now && calls.warm() < WARM_MAX {
                break;
            }
            // While this one is packed, memory is asked for the next two.
            if let Some(next) = calls.behind(call) {
                let hash = next.hash();
                self.shelf.prefetch(hash);
                calls.prefetch_place(hash);
                calls.prefetch_behind(next);
            }
            let correction = call.corrected.then(|| calls.corrections.get(&slot)).flatten();
            self.shelf.put(call, correction.map(AsRef::as_ref));
            calls.remove(slot);
        }
        while calls.clean() > CLEAN_MAX
            && let Some(slot) = calls.first_clean()
        {
            calls.remove(slot);
        }
    }

    /// Takes the first `count` outputs as delivered: their outbox rows go with the next commit.
    pub(super) fn sent(&mut self, count: usize) {
        self.delivered
            .extend(self.unsent.drain(..count).map(|o| (o.topic, o.sequence)));
    }

    /// The same for misplaced events.
    pub(super) fn forwarded(&mut self, count: usize, all: bool) {
        self.forwarding.sent(count, all);
        self.work.forwarded += count as u64;
    }

    /// Commits, delivers and puts everything on disk.
    pub fn close(mut self) -> Result<(), PartitionError> {
        self.finish()
    }

    /// Commits, delivers and puts everything on disk; the partition can go on after.
    pub fn finish(&mut self) -> Result<(), PartitionError> {
        if self.rocks.read_only {
            return Ok(());
        }
        self.commit()?;
        self.deliver(true)?;
        if !self.delivered.is_empty() || !self.forwarding.sent.is_empty() {
            self.commit()?;
        }
        self.put_on_disk()
    }

    /// Puts on disk what is committed. Nothing leaves, nor is it asked what has left: others may own the partition by now.
    pub(super) fn put_away(mut self) -> Result<(), PartitionError> {
        if self.rocks.read_only {
            return Ok(());
        }
        self.put_on_disk()
    }

    fn put_on_disk(&mut self) -> Result<(), PartitionError> {
        self.rocks.flush()?;
        self.flushed = self.state_on_disk();
        self.flushing = None;
        self.shelf.drop_files(&self.rocks)?;
        Ok(())
    }
}

/// Where a record belongs: the account that it names, or everyone's.
pub fn account_of(kind: Kind, bytes: &[u8]) -> Option<String> {
    match kind {
        Kind::Event => record::account_of(bytes),
        Kind::Control => crate::wire::control::decode(bytes)
            .ok()
            .and_then(|c| control::account_of(&c).map(str::to_owned)),
        Kind::Tick | Kind::Genesis => None,
    }
}
