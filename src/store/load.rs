//! From rows back to a machine: everything but packed calls, cold usage and closed periods, which are brought in when needed.

use super::bytes::{Damaged, Reader};
use super::keys::{self, CF_OPEN, Meta, Rule, table};
use super::packed::read_call;
use super::rocks::{Rocks, StoreError};
use super::shelf::Shelf;
use super::state::{self, State};
use super::values::{self, Stored};
use crate::machine::accounts::{Profile, Standing};
use crate::machine::adjust::{Adjustment, ClosedPeriod};
use crate::machine::calls::{PAGE_SLOTS, Queue, Slot};
use crate::machine::clock::Source;
use crate::machine::digest::Digest;
use crate::machine::fold::Machine;
use crate::machine::forward::Forward;
use crate::machine::names::{Shape, ShapeId};
use crate::machine::output::{Output, Topic};
use crate::machine::usage::{Bucket, Span};
use crate::model::Ms;
use crate::model::period::Month;
use crate::model::policy::Policy;
use crate::model::rate_card::RateCard;
use crate::model::symbol::Sym;

/// What a store held.
pub struct Loaded {
    /// The machine at the stored position.
    pub machine: Machine,
    /// Its packed calls.
    pub shelf: Shelf,
    /// Outputs that aren't known delivered, by topic and sequence.
    pub outbox: Vec<Output>,
    /// Misplaced events that aren't known to be in their own partition, by offset.
    pub forwards: Vec<Forward>,
}

/// Loads a partition; `None` from a store that nothing was committed to.
pub fn load(rocks: &Rocks) -> Result<Option<Loaded>, StoreError> {
    let Some(row) = rocks.get(&keys::meta(Meta::State))? else {
        return Ok(None);
    };
    let state = state::read(&row).map_err(|d| rocks.damaged(d))?;
    // Partition numbers are those of the identity, which has been compared.
    let mut machine = Machine::new(0, 1, Source::Ticks, 0);
    machine.backed = true;
    let (oldest_block, next_block) = (state.oldest_block, state.next_block);
    restore_state(&mut machine, state);
    if let Some(calls) = rocks.get(&keys::meta(Meta::CallsChunk))? {
        machine.outputs.calls = calls;
    }
    names(rocks, &mut machine)?;
    rules(rocks, &mut machine)?;
    accounts(rocks, &mut machine)?;
    adjustments(rocks, &mut machine)?;
    ledger(rocks, &mut machine)?;
    open_calls(rocks, &mut machine)?;
    machine.restored();
    let tail = rocks.get(&[table::TAIL_BLOCK])?;
    let shelf = Shelf::load(rocks, oldest_block, next_block, tail.as_deref())?;
    Ok(Some(Loaded {
        machine,
        shelf,
        outbox: outbox(rocks)?,
        forwards: forwards(rocks)?,
    }))
}

fn restore_state(machine: &mut Machine, state: State) {
    machine.position = state.position;
    machine.settling = state.settling;
    machine.authority = state.authority;
    machine.clock = state.clock;
    machine.digest = Digest::resume(state.digest);
    machine.outputs.tails = state.tails;
    (machine.outputs.calls_on, machine.outputs.calls_since) = state.calls;
    machine.counters = state.counters;
    machine.ledger.version = state.control_version;
    machine.holds = state.holds;
    machine.held = state.held;
    machine.months = state.months;
    machine.finished = state.finished;
    machine.controls = state.controls;
    machine.controls_out = state.controls_out;
}

fn names(rocks: &Rocks, machine: &mut Machine) -> Result<(), StoreError> {
    let symbols = &mut machine.names.symbols;
    rocks.scan(&[table::SYMBOL], |_, name| {
        let damaged = Damaged { what: "symbol" };
        symbols.intern(std::str::from_utf8(name).map_err(|_| damaged)?);
        Ok(())
    })?;
    let names = &mut machine.names;
    rocks.scan(&[table::SHAPE], |_, bytes| {
        names.shape(Shape::from_bytes(bytes)?);
        Ok(())
    })
}

fn list<T: Stored>(rocks: &Rocks, kind: Rule) -> Result<Vec<T>, StoreError> {
    let mut all = Vec::new();
    rocks.scan(&[table::RULES, kind as u8], |_, bytes| {
        all.push(T::from_bytes(bytes)?);
        Ok(())
    })?;
    Ok(all)
}

fn rules(rocks: &Rocks, machine: &mut Machine) -> Result<(), StoreError> {
    machine.policies = list::<Policy>(rocks, Rule::Policy)?;
    machine.rollups = list::<Vec<Sym>>(rocks, Rule::Rollup)?;
    for card in list::<RateCard>(rocks, Rule::Card)? {
        machine.cards.push(card);
    }
    for profile in list::<Profile>(rocks, Rule::Profile)? {
        machine.accounts.profile_id(profile);
    }
    if machine.policies.is_empty() || machine.rollups.is_empty() {
        return Err(rocks.damaged(Damaged {
            what: "list of policies",
        }));
    }
    Ok(())
}

fn accounts(rocks: &Rocks, machine: &mut Machine) -> Result<(), StoreError> {
    let mut latest = rocks.db.raw_iterator();
    latest.seek([table::LATEST]);
    let (accounts, closes, held) = (&mut machine.accounts, &mut machine.closes, &machine.held);
    rocks.scan(&[table::ACCOUNT], |key, bytes| {
        let damaged = Damaged { what: "account" };
        let row = values::read_account(bytes)?;
        let (key_number, latest_row) = (&key[1..], latest.item());
        let (day, hour) = match latest_row {
            Some((k, bytes)) if k.first() == Some(&table::LATEST) && &k[1..] == key_number => {
                values::read_latest(bytes)?
            }
            _ => return Err(damaged),
        };
        latest.next();
        let number = accounts.len() as u32;
        for period in row.periods.iter().filter(|p| p.standing == Standing::Open) {
            if !held.contains_key(&(period.month, number)) {
                closes.insert((period.close_due, number, period.month));
            }
        }
        accounts.restore(row.id, row.profile, row.periods, day, hour);
        if key_number == number.to_be_bytes() {
            Ok(())
        } else {
            Err(damaged)
        }
    })
}

fn month_key(key: &[u8]) -> Result<(u32, Month), Damaged> {
    keys::parse_account_month(key).ok_or(Damaged { what: "key of a month" })
}

fn adjustments(rocks: &Rocks, machine: &mut Machine) -> Result<(), StoreError> {
    let Machine {
        adjustments,
        notices,
        combinations,
        ..
    } = machine;
    rocks.scan(&[table::ADJUSTMENT], |key, bytes| {
        let (account, month) = month_key(key)?;
        let adjustment = Adjustment::from_bytes(bytes)?;
        if let Some(due) = adjustment.due {
            notices.insert((due, account, month));
        }
        adjustments.insert((account, month), adjustment);
        Ok(())
    })?;
    rocks.scan(&[table::COMBINATIONS], |key, bytes| {
        combinations.insert(month_key(key)?, Vec::<ShapeId>::from_bytes(bytes)?);
        Ok(())
    })
}

fn ledger(rocks: &Rocks, machine: &mut Machine) -> Result<(), StoreError> {
    let ledger = &mut machine.ledger;
    rocks.scan(&[table::CONTROL_ID], |key, bytes| {
        let damaged = Damaged { what: "control id" };
        let mut r = Reader::new(bytes, "control id");
        let hash = u128::from_le_bytes(r.take(16)?.try_into().map_err(|_| damaged.clone())?);
        let id = std::str::from_utf8(&key[1..]).map_err(|_| damaged)?;
        ledger.remember(id.to_owned(), hash, r.int()?);
        Ok(())
    })
}

fn open_calls(rocks: &Rocks, machine: &mut Machine) -> Result<(), StoreError> {
    let mut rows = rocks.db.raw_iterator_cf(rocks.family(CF_OPEN)?);
    rows.seek_to_first();
    // (changed, changed_by, slot): the order in which they wait and cool.
    let mut order: Vec<(Ms, u64, Slot)> = Vec::new();
    while let Some((key, bytes)) = rows.item() {
        let read = |key: &[u8], bytes: &[u8], machine: &mut Machine, order: &mut Vec<_>| -> Result<(), Damaged> {
            let damaged = Damaged {
                what: "page of open calls",
            };
            let page = u32::from_be_bytes(key.try_into().map_err(|_| damaged.clone())?);
            let mut r = Reader::new(bytes, damaged.what);
            while !r.is_empty() {
                let slot = page * PAGE_SLOTS + Slot::from(r.byte()?);
                let (pattern, values) = (r.slice()?, r.slice()?);
                let packed = read_call(
                    &mut Reader::new(pattern, "open call"),
                    &mut Reader::new(values, "open call"),
                )?;
                order.push((packed.call.changed, packed.call.changed_by, slot));
                machine.calls.restore(slot, packed.call);
                if let Some(correction) = packed.correction {
                    machine.calls.corrections.insert(slot, correction);
                }
            }
            Ok(())
        };
        read(key, bytes, machine, &mut order).map_err(|d| rocks.damaged(d))?;
        rows.next();
    }
    rows.status().map_err(|e| rocks.explain(e))?;
    machine.calls.restored();
    order.sort_unstable();
    for (_, _, slot) in order {
        if machine
            .calls
            .get(slot)
            .is_some_and(crate::machine::calls::Call::is_settled)
        {
            machine.calls.enqueue(slot, Queue::Warm);
        } else {
            machine.requeue(slot);
        }
    }
    machine.calls.take_dirty_pages();
    Ok(())
}

fn outbox(rocks: &Rocks) -> Result<Vec<Output>, StoreError> {
    let mut outputs = Vec::new();
    rocks.scan(&[table::OUTBOX], |key, row| {
        let damaged = Damaged { what: "outbox row" };
        let topic = key.get(1).and_then(|&t| Topic::ALL.get(usize::from(t)).copied());
        let (Some(topic), Some(chain), Some(sequence)) = (topic, row.get(..16), key.get(2..10)) else {
            return Err(damaged);
        };
        outputs.push(Output {
            topic,
            sequence: u64::from_be_bytes(sequence.try_into().map_err(|_| damaged.clone())?),
            chain: u128::from_le_bytes(chain.try_into().map_err(|_| damaged)?),
            body: row[16..].to_vec(),
        });
        Ok(())
    })?;
    Ok(outputs)
}

fn forwards(rocks: &Rocks) -> Result<Vec<Forward>, StoreError> {
    let mut forwards = Vec::new();
    rocks.scan(&[table::FORWARD], |key, row| {
        let damaged = Damaged {
            what: "misplaced event",
        };
        let offset = key.get(1..9).and_then(|k| k.try_into().ok()).ok_or(damaged.clone())?;
        let mut r = Reader::new(row, damaged.what);
        forwards.push(Forward {
            offset: u64::from_be_bytes(offset),
            to: r.u32()?,
            append_ms: r.int()?,
            bytes: r.rest.to_vec(),
        });
        Ok(())
    })?;
    Ok(forwards)
}

/// Brings the days of an account's period, and what it has stated if it is closed, into memory.
pub fn load_period(rocks: &Rocks, machine: &mut Machine, account: u32, month: Month) -> Result<(), StoreError> {
    let first = keys::bucket((account, Span::Day, month, i32::MIN));
    let mut stored = Vec::new();
    rocks.scan(&first[..10], |key, bytes| {
        let key = keys::parse_bucket(key).ok_or(Damaged {
            what: "key of a bucket",
        })?;
        stored.push((key, Bucket::from_bytes(bytes)?));
        Ok(())
    })?;
    for (key, bucket) in stored {
        machine.cold.fill(key, bucket);
    }
    machine.cold.make_whole(account, month);
    if !machine.closed.contains_key(&(account, month))
        && let Some(bytes) = rocks.get(&keys::account_month(table::CLOSED, account, month))?
    {
        let closed = ClosedPeriod::from_bytes(&bytes).map_err(|d| rocks.damaged(d))?;
        machine.closed.insert((account, month), closed);
    }
    machine.loaded(account, month);
    Ok(())
}
