//! One commit is one `WriteBatch`: whatever the fold changed since the last one.

use std::borrow::Borrow;

use rocksdb::WriteBatch;

use super::bytes::{Reader, Writer};
use super::keys::{self, CF_OPEN, Meta, Rule, table};
use super::packed::write_call;
use super::rocks::{Rocks, StoreError};
use super::shelf::Shelf;
use super::state;
use super::values::{self, Stored};
use crate::machine::accounts::Profile;
use crate::machine::calls::PAGE_SLOTS;
use crate::machine::fold::Machine;
use crate::machine::forward::Forward;
use crate::machine::names::Names;
use crate::machine::output::{Output, Topic};
use crate::machine::usage::{Bucket, BucketKey, Span};
use crate::model::period::{self, Month, Zone};
use crate::model::policy::Policy;
use crate::model::rate_card::RateCard;
use crate::model::symbol::Sym;

/// Months for which closed usage and statements are kept (RULES §6, `history`).
const HISTORY_MONTHS: u32 = 25;

/// What the store holds already of lists that only grow.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    pub(super) symbols: usize,
    pub(super) shapes: usize,
    pub(super) policies: usize,
    pub(super) rollups: usize,
    pub(super) cards: usize,
    pub(super) profiles: usize,
    /// What the next batch is likely to take.
    batch_bytes: usize,
}

impl Written {
    /// What a machine holds that was loaded a moment ago.
    pub fn of(machine: &Machine) -> Self {
        Self {
            symbols: machine.names.symbols.len(),
            shapes: machine.names.shapes_len(),
            policies: machine.policies.len(),
            rollups: machine.rollups.len(),
            cards: machine.cards.all().len(),
            profiles: machine.accounts.profiles().len(),
            batch_bytes: 0,
        }
    }

    /// What a new store holds: nothing but what every machine has.
    pub fn nothing() -> Self {
        Self {
            symbols: Names::FIXED_SYMBOLS,
            shapes: 1,
            policies: 0,
            rollups: 0,
            cards: 0,
            profiles: 0,
            batch_bytes: 0,
        }
    }

    /// Takes a commit as written.
    pub fn wrote(&mut self, bytes: &CommitBytes) {
        self.batch_bytes = (bytes.all + bytes.all / 8) as usize;
    }
}

/// The last record that was folded: by it a log is recognised that was cut off and written anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRecord {
    /// Its place.
    pub offset: u64,
    /// The leader that took it.
    pub leader_epoch: i32,
    /// The log's fingerprint of its bytes.
    pub fingerprint: u64,
}

impl LastRecord {
    fn to_bytes(self) -> Vec<u8> {
        let mut w = Writer::default();
        w.uint(self.offset);
        w.int(self.leader_epoch.into());
        w.uint(self.fingerprint);
        w.bytes
    }

    /// What a store says; `None`: nothing but the genesis is folded.
    pub fn read(rocks: &Rocks) -> Result<Option<Self>, StoreError> {
        let Some(bytes) = rocks.get(&keys::meta(Meta::LastRecord))? else {
            return Ok(None);
        };
        let mut r = Reader::new(&bytes, "last record");
        let mut read = || {
            Ok(Self {
                offset: r.uint()?,
                leader_epoch: r.int()? as i32,
                fingerprint: r.uint()?,
            })
        };
        read().map(Some).map_err(|d| rocks.damaged(d))
    }
}

/// Bytes of one commit by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitBytes {
    /// Packed calls and their hashes.
    pub settled: u64,
    /// Pages of calls that aren't packed.
    pub open: u64,
    /// Accounts and usage.
    pub totals: u64,
    /// Outbox.
    pub outbox: u64,
    /// Everything.
    pub all: u64,
}

impl CommitBytes {
    /// Adds another commit's.
    pub fn add(&mut self, other: &Self) {
        self.settled += other.settled;
        self.open += other.open;
        self.totals += other.totals;
        self.outbox += other.outbox;
        self.all += other.all;
    }
}

/// What leaves the partition: rows of the outbox that come and go with a commit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leaving<'a> {
    /// Outputs decided since the last commit.
    pub outputs: &'a [Output],
    /// Outputs that are known to be out.
    pub delivered: &'a [(Topic, u64)],
    /// Misplaced events found since the last commit.
    pub forwards: &'a [Forward],
    /// Offsets of misplaced events that are known to be in their own partition.
    pub forwarded: &'a [u64],
}

/// What changed since the last commit: what is small, in the batch; of what is large, the list.
#[derive(Default)]
pub struct Changed {
    batch: WriteBatch,
    totals_bytes: u64,
    accounts: Vec<(u32, bool)>,
    pages: Vec<u32>,
}

/// Takes what changed, so that nothing of it counts as changed any more. Short: readers are kept out.
pub fn take(rocks: &Rocks, machine: &mut Machine, written: &mut Written) -> Result<Changed, StoreError> {
    // As large as the last one, so that it doesn't grow by copying.
    let mut batch = WriteBatch::with_capacity_bytes(written.batch_bytes);
    names(machine, written, &mut batch);
    rules(machine, written, &mut batch);
    ledger(machine, &mut batch);
    let before = batch.size_in_bytes();
    buckets(rocks, machine, &mut batch)?;
    closed(machine, &mut batch);
    Ok(Changed {
        totals_bytes: (batch.size_in_bytes() - before) as u64,
        accounts: machine.accounts.take_dirty(),
        pages: machine.calls.take_dirty_pages(),
        batch,
    })
}

/// Puts everything that changed into one batch; nothing of the state changes meanwhile.
pub fn fill(
    rocks: &Rocks,
    machine: &Machine,
    shelf: &Shelf,
    changed: Changed,
    leaving: Leaving<'_>,
    last: Option<LastRecord>,
) -> Result<(WriteBatch, CommitBytes), StoreError> {
    let mut batch = changed.batch;
    let mut bytes = CommitBytes::default();
    let mut since = batch.size_in_bytes() as u64;
    let mut part = |batch: &WriteBatch| {
        let now = batch.size_in_bytes() as u64;
        now - std::mem::replace(&mut since, now)
    };
    accounts(machine, &changed.accounts, &mut batch);
    bytes.totals = changed.totals_bytes + part(&batch);
    open_pages(rocks, machine, changed.pages, &mut batch)?;
    bytes.open = part(&batch);
    let tail = shelf.fill(rocks, &mut batch)?;
    batch.put([table::TAIL_BLOCK], tail);
    bytes.settled = part(&batch);
    for output in leaving.outputs {
        let mut row = Vec::with_capacity(output.body.len() + 16);
        row.extend_from_slice(&output.chain.to_le_bytes());
        row.extend_from_slice(&output.body);
        batch.put(keys::outbox(output.topic as u8, output.sequence), row);
    }
    for &(topic, sequence) in leaving.delivered {
        batch.delete(keys::outbox(topic as u8, sequence));
    }
    for forward in leaving.forwards {
        let mut row = Writer::default();
        row.uint(forward.to.into());
        row.int(forward.append_ms);
        row.bytes.extend_from_slice(&forward.bytes);
        batch.put(keys::forward(forward.offset), row.bytes);
    }
    for &offset in leaving.forwarded {
        batch.delete(keys::forward(offset));
    }
    bytes.outbox = part(&batch);
    batch.put(keys::meta(Meta::CallsChunk), &machine.outputs.calls);
    if let Some(last) = last {
        batch.put(keys::meta(Meta::LastRecord), last.to_bytes());
    }
    let state = state::write(machine, shelf.next_block(), shelf.oldest_block());
    batch.put(keys::meta(Meta::State), state);
    bytes.all = batch.size_in_bytes() as u64;
    Ok((batch, bytes))
}

fn names(machine: &Machine, written: &mut Written, batch: &mut WriteBatch) {
    for name in machine.names.symbols.since(written.symbols) {
        batch.put(keys::numbered(table::SYMBOL, written.symbols as u32), name);
        written.symbols += 1;
    }
    for shape in machine.names.shapes_since(written.shapes) {
        batch.put(keys::numbered(table::SHAPE, written.shapes as u32), shape.to_bytes());
        written.shapes += 1;
    }
}

fn list<T: Stored>(all: &[impl Borrow<T>], written: &mut usize, kind: Rule, batch: &mut WriteBatch) {
    for value in all.iter().skip(*written) {
        batch.put(keys::rule(kind, *written as u32), value.borrow().to_bytes());
        *written += 1;
    }
}

fn rules(machine: &Machine, written: &mut Written, batch: &mut WriteBatch) {
    list::<Policy>(&machine.policies, &mut written.policies, Rule::Policy, batch);
    list::<RateCard>(machine.cards.all(), &mut written.cards, Rule::Card, batch);
    list::<Vec<Sym>>(&machine.rollups, &mut written.rollups, Rule::Rollup, batch);
    list::<Profile>(machine.accounts.profiles(), &mut written.profiles, Rule::Profile, batch);
}

fn ledger(machine: &mut Machine, batch: &mut WriteBatch) {
    for id in std::mem::take(&mut machine.ledger.dropped) {
        batch.delete(keys::control_id(&id));
    }
    for id in std::mem::take(&mut machine.ledger.added) {
        if let Some((hash, at)) = machine.ledger.ids.get(&id) {
            let mut w = Writer::default();
            w.bytes.extend_from_slice(&hash.to_le_bytes());
            w.int(*at);
            batch.put(keys::control_id(&id), w.bytes);
        }
    }
}

fn accounts(machine: &Machine, dirty: &[(u32, bool)], batch: &mut WriteBatch) {
    let mut w = Writer::default();
    for (at, &(number, row)) in dirty.iter().enumerate() {
        // Totals lie scattered: those of a few accounts ahead are asked for in time.
        let ahead = |by: usize| dirty.get(at + by).map_or(0, |d| d.0);
        let accounts = &machine.accounts;
        accounts.prefetch_latest(ahead(16));
        accounts.prefetch_lines(ahead(8));
        let Some(account) = machine.accounts.get(number) else {
            continue;
        };
        if row {
            w.bytes.clear();
            values::write_account(account, &mut w);
            batch.put(keys::numbered(table::ACCOUNT, number), &w.bytes);
        }
        w.bytes.clear();
        values::write_latest(account, &mut w);
        batch.put(keys::numbered(table::LATEST, number), &w.bytes);
    }
}

/// Writes cold buckets, each put together with what the store holds of it.
fn buckets(rocks: &Rocks, machine: &mut Machine, batch: &mut WriteBatch) -> Result<(), StoreError> {
    let mut w = Writer::default();
    for key in machine.cold.take_dirty() {
        fill_bucket(rocks, machine, key)?;
        let Some(bucket) = machine.cold.buckets.get_mut(&key) else {
            continue;
        };
        bucket.dirty = false;
        w.bytes.clear();
        bucket.write(&mut w);
        batch.put(keys::bucket(key), &w.bytes);
    }
    for (account, month) in std::mem::take(&mut machine.hours_over) {
        let hours = |place| keys::bucket((account, Span::Hour, month, place));
        batch.delete_range(hours(i32::MIN), hours(i32::MAX));
        drop_history(machine, account, month, batch);
    }
    Ok(())
}

/// Lets go of an account's usage and statements older than the history, if no event can reach them any more.
fn drop_history(machine: &mut Machine, account: u32, closed: Month, batch: &mut WriteBatch) {
    let oldest = Month(closed.0.saturating_sub(HISTORY_MONTHS));
    if period::bounds(oldest, Zone::UTC).0 >= machine.clock.forget_line {
        return;
    }
    let days = |month| keys::bucket((account, Span::Day, month, i32::MIN));
    batch.delete_range(days(Month::MIN), days(oldest));
    let statements = |month| keys::account_month(table::CLOSED, account, month);
    batch.delete_range(statements(Month::MIN), statements(oldest));
}

/// Puts what the store holds of a bucket under what was added to it in memory.
pub fn fill_bucket(rocks: &Rocks, machine: &mut Machine, key: BucketKey) -> Result<(), StoreError> {
    if machine.cold.buckets.get(&key).is_some_and(|b| !b.partial) {
        return Ok(());
    }
    let stored = match rocks.get(&keys::bucket(key))? {
        Some(bytes) => Bucket::from_bytes(&bytes).map_err(|d| rocks.damaged(d))?,
        None => Bucket::default(),
    };
    machine.cold.fill(key, stored);
    Ok(())
}

fn closed(machine: &mut Machine, batch: &mut WriteBatch) {
    for (account, month) in std::mem::take(&mut machine.closed_dirty) {
        if let Some(closed) = machine.closed.get(&(account, month)) {
            batch.put(keys::account_month(table::CLOSED, account, month), closed.to_bytes());
        }
    }
    for (account, month) in std::mem::take(&mut machine.adjustments_dirty) {
        let key = keys::account_month(table::ADJUSTMENT, account, month);
        match machine.adjustments.get(&(account, month)) {
            Some(adjustment) => batch.put(key, adjustment.to_bytes()),
            None => batch.delete(key),
        }
    }
    for (account, month) in std::mem::take(&mut machine.combinations_dirty) {
        if let Some(shapes) = machine.combinations.get(&(account, month)) {
            batch.put(
                keys::account_month(table::COMBINATIONS, account, month),
                shapes.to_bytes(),
            );
        }
    }
}

fn open_pages(rocks: &Rocks, machine: &Machine, pages: Vec<u32>, batch: &mut WriteBatch) -> Result<(), StoreError> {
    let open = rocks.family(CF_OPEN)?;
    let mut calls = Writer::default();
    let (mut pattern, mut values) = (Writer::default(), Writer::default());
    for page in pages {
        calls.bytes.clear();
        for (slot, call) in machine.calls.page(page) {
            // A clean call is still where it was packed.
            if call.queue == crate::machine::calls::Queue::Clean {
                continue;
            }
            let correction = call
                .corrected
                .then(|| machine.calls.corrections.get(&slot))
                .flatten()
                .map(AsRef::as_ref);
            calls.byte((slot % PAGE_SLOTS) as u8);
            pattern.bytes.clear();
            values.bytes.clear();
            write_call(call, correction, &mut pattern, &mut values);
            calls.slice(&pattern.bytes);
            calls.slice(&values.bytes);
        }
        let key = page.to_be_bytes();
        if calls.bytes.is_empty() {
            batch.delete_cf(open, key);
        } else {
            batch.put_cf(open, key, &calls.bytes);
        }
    }
    Ok(())
}
