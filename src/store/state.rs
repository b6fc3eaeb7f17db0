//! The state row: everything of a machine that is small and changes with every commit.

use std::collections::{BTreeMap, BTreeSet};

use super::bytes::{Damaged, Reader, Writer};
use super::values::Stored;
use crate::machine::authority::Authority;
use crate::machine::clock::{Clock, Source};
use crate::machine::close::MonthTally;
use crate::machine::fold::{Counters, Machine, Position, REASONS_MAX};
use crate::machine::output::Tail;
use crate::model::Ms;
use crate::model::period::Month;
use crate::model::reject::RejectReason;
use crate::wire::signature::Keys;

/// The row, as it is read back.
#[derive(Debug)]
pub struct State {
    /// How far.
    pub position: Position,
    /// Whether the last record left something due that isn't all fired.
    pub settling: bool,
    /// By what the operator's records are known.
    pub authority: Authority,
    /// Log time.
    pub clock: Clock,
    /// The running digest.
    pub digest: u128,
    /// Last sequence and chain of each output topic.
    pub tails: [Tail; 4],
    /// Whether the calls output is on, and the log time of its unfinished chunk.
    pub calls: (bool, Ms),
    /// For people.
    pub counters: Counters,
    /// Last accepted control version.
    pub control_version: u64,
    /// Holds in force.
    pub holds: BTreeSet<(Month, u32)>,
    /// Due, but held.
    pub held: BTreeMap<(Month, u32), Ms>,
    /// Sums by month.
    pub months: BTreeMap<Month, MonthTally>,
    /// Months whose control record is out.
    pub finished: BTreeMap<Month, (u64, MonthTally)>,
    /// First month whose control record was to come from here, and the next one.
    pub controls: Option<(Month, Month)>,
    /// Months outside these two whose control record is out.
    pub controls_out: BTreeSet<Month>,
    /// Number of the block that is being filled.
    pub next_block: u64,
    /// First block that isn't dropped.
    pub oldest_block: u64,
}

fn wide(w: &mut Writer, value: u128) {
    w.bytes.extend_from_slice(&value.to_le_bytes());
}

fn read_wide(r: &mut Reader<'_>) -> Result<u128, Damaged> {
    let damaged = r.damaged();
    let bytes = r.take(16)?.try_into().map_err(|_| damaged)?;
    Ok(u128::from_le_bytes(bytes))
}

fn write_authority(authority: &Authority, w: &mut Writer) {
    match authority {
        Authority::Process => w.byte(0),
        Authority::Signed { log_id, keys } => {
            w.byte(1);
            w.text(log_id);
            w.uint(keys.len() as u64);
            for (id, key) in keys {
                w.text(id);
                w.bytes.extend_from_slice(key);
            }
        }
    }
}

fn read_authority(r: &mut Reader<'_>) -> Result<Authority, Damaged> {
    let damaged = r.damaged();
    match r.byte()? {
        0 => Ok(Authority::Process),
        1 => {
            let log_id = r.text()?.to_owned();
            let mut keys = Keys::new();
            for _ in 0..r.count()? {
                let id = r.text()?.to_owned();
                keys.insert(id, r.take(32)?.try_into().map_err(|_| damaged.clone())?);
            }
            Ok(Authority::Signed { log_id, keys })
        }
        _ => Err(damaged),
    }
}

/// Writes the row.
pub fn write(machine: &Machine, next_block: u64, oldest_block: u64) -> Vec<u8> {
    let mut w = Writer::default();
    w.uint(machine.position.next_offset);
    w.uint(machine.position.step);
    w.byte(machine.settling.into());
    write_authority(&machine.authority, &mut w);
    let clock = &machine.clock;
    w.byte(u8::from(clock.source == Source::Ticks));
    w.maybe(clock.now);
    w.maybe(clock.last_tick);
    w.int(clock.late_line);
    w.int(clock.forget_line);
    wide(&mut w, machine.digest.value());
    for tail in &machine.outputs.tails {
        w.uint(tail.sequence);
        wide(&mut w, tail.chain);
    }
    w.byte(machine.outputs.calls_on.into());
    w.int(machine.outputs.calls_since);
    let counters = &machine.counters;
    for count in [
        counters.events,
        counters.copies,
        counters.unknown_fields,
        counters.settled,
        counters.amended,
        counters.forwarded,
    ] {
        w.uint(count);
    }
    w.uint(counters.verdicts.len() as u64);
    counters.verdicts.iter().for_each(|&count| w.uint(count));
    w.uint(counters.rejects.len() as u64);
    for (reason, count) in &counters.rejects {
        w.byte(*reason as u8);
        w.uint(*count);
    }
    w.uint(machine.ledger.version);
    w.uint(machine.holds.len() as u64);
    for (month, account) in &machine.holds {
        w.uint(month.0.into());
        w.uint((*account).into());
    }
    w.uint(machine.held.len() as u64);
    for ((month, account), due) in &machine.held {
        w.uint(month.0.into());
        w.uint((*account).into());
        w.int(*due);
    }
    w.uint(machine.months.len() as u64);
    for (month, tally) in &machine.months {
        w.uint(month.0.into());
        tally.write(&mut w);
    }
    w.uint(machine.finished.len() as u64);
    for (month, (sequence, tally)) in &machine.finished {
        w.uint(month.0.into());
        w.uint(*sequence);
        tally.write(&mut w);
    }
    match machine.controls {
        None => w.byte(0),
        Some((first, next)) => {
            w.byte(1);
            w.uint(first.0.into());
            w.uint(next.0.into());
        }
    }
    w.uint(machine.controls_out.len() as u64);
    machine.controls_out.iter().for_each(|month| w.uint(month.0.into()));
    w.uint(next_block);
    w.uint(oldest_block);
    w.bytes
}

/// Reads the row.
pub fn read(bytes: &[u8]) -> Result<State, Damaged> {
    let r = &mut Reader::new(bytes, "state");
    let position = Position {
        next_offset: r.uint()?,
        step: r.uint()?,
    };
    let settling = r.byte()? != 0;
    let authority = read_authority(r)?;
    let source = if r.byte()? == 0 { Source::Append } else { Source::Ticks };
    let clock = Clock {
        source,
        now: r.maybe()?,
        last_tick: r.maybe()?,
        late_line: r.int()?,
        forget_line: r.int()?,
    };
    let digest = read_wide(r)?;
    let mut tails = [Tail::default(); 4];
    for tail in &mut tails {
        *tail = Tail {
            sequence: r.uint()?,
            chain: read_wide(r)?,
        };
    }
    let calls = (r.byte()? != 0, r.int()?);
    let mut counters = Counters {
        events: r.uint()?,
        copies: r.uint()?,
        unknown_fields: r.uint()?,
        settled: r.uint()?,
        amended: r.uint()?,
        forwarded: r.uint()?,
        verdicts: [0; REASONS_MAX],
        rejects: BTreeMap::new(),
    };
    for index in 0..r.count()? {
        let count = r.uint()?;
        *counters.verdicts.get_mut(index).ok_or(r.damaged())? = count;
    }
    for _ in 0..r.count()? {
        let index = usize::from(r.byte()?);
        let reason = RejectReason::ALL.get(index).ok_or(r.damaged())?;
        counters.rejects.insert(*reason, r.uint()?);
    }
    let control_version = r.uint()?;
    let mut holds = BTreeSet::new();
    for _ in 0..r.count()? {
        holds.insert((Month(r.u32()?), r.u32()?));
    }
    let mut held = BTreeMap::new();
    for _ in 0..r.count()? {
        held.insert((Month(r.u32()?), r.u32()?), r.int()?);
    }
    let mut months = BTreeMap::new();
    for _ in 0..r.count()? {
        let month = Month(r.u32()?);
        months.insert(month, MonthTally::read(r)?);
    }
    let mut finished = BTreeMap::new();
    for _ in 0..r.count()? {
        let month = Month(r.u32()?);
        finished.insert(month, (r.uint()?, MonthTally::read(r)?));
    }
    let controls = match r.byte()? {
        0 => None,
        _ => Some((Month(r.u32()?), Month(r.u32()?))),
    };
    let mut controls_out = BTreeSet::new();
    for _ in 0..r.count()? {
        controls_out.insert(Month(r.u32()?));
    }
    Ok(State {
        position,
        settling,
        authority,
        clock,
        digest,
        tails,
        calls,
        counters,
        control_version,
        holds,
        held,
        months,
        finished,
        controls,
        controls_out,
        next_block: r.uint()?,
        oldest_block: r.uint()?,
    })
}
