//! A call in few bytes, and blocks of settled calls.
//!
//! A call is written in two streams. The *pattern* holds what recurs from call to call (names, causes, statuses, meters,
//! provenances, policy version); the *values* hold what doesn't (account, id, times, quantities). A block of up to 256
//! calls keeps each distinct pattern once:
//!
//! ```text
//! block   = version 1, patterns: count × (len, bytes), calls: count × (len, pattern number, values)
//! values  = account, id (16 bytes, or len and text), since Δ first, first ms, last Δ first,
//!           endings: (at Δ first, seq if given), amounts: value, revision if > 1, correction if corrected
//! ```
//!
//! Nothing that a verdict can still depend on is lost: the facts of RULES §3, policy version, settle clock, revision and
//! correction. What was billed is worked out again from them.

use std::collections::BTreeMap;

use super::bytes::{Damaged, Reader, Writer};
use crate::machine::calls::{Call, Queue};
use crate::machine::evidence::{Amount, Ending, Evidence, Label, Scope};
use crate::machine::names::ShapeId;
use crate::machine::verdict::Correction;
use crate::model::Ms;
use crate::model::event::{Cause, EndMarker, Observer, Progress, Provenance};
use crate::model::id::{CallId, CallKey};
use crate::model::symbol::Sym;

/// Calls of one block.
pub const BLOCK_CALLS: usize = 256;

const VERSION: u8 = 1;

/// A call with the operator's word on it.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The call, in no queue.
    pub call: Call,
    /// The operator's word.
    pub correction: Option<Box<Correction>>,
}

const UUID: u8 = 0;
const ULID: u8 = 1;
const TEXT: u8 = 2;
const CORRECTED: u8 = 4;
const REVISED: u8 = 8;
const OPEN: u8 = 16;

/// Writes a call's two streams.
pub fn write_call(call: &Call, correction: Option<&Correction>, pattern: &mut Writer, values: &mut Writer) {
    let evidence = &call.evidence;
    values.uint(call.account.into());
    let form = match &call.id {
        CallId::Uuid(bytes) => {
            values.bytes.extend_from_slice(bytes);
            UUID
        }
        CallId::Ulid(bytes) => {
            values.bytes.extend_from_slice(bytes);
            ULID
        }
        CallId::Text(text) => {
            values.text(text);
            TEXT
        }
    };
    let mut flags = form;
    if correction.is_some() {
        flags |= CORRECTED;
    }
    if call.revision > 1 {
        flags |= REVISED;
    }
    if call.revision == 0 {
        flags |= OPEN;
    }
    pattern.byte(flags);
    pattern.uint(call.policy.into());
    values.int(evidence.first);
    values.int(call.since - evidence.first);
    values.uint((evidence.last - evidence.first) as u64);
    pattern.uint(evidence.labels.len() as u64);
    for label in &evidence.labels {
        pattern.byte(label.attempt);
        pattern.byte(label.observer as u8 | (label.progress as u8) << 4);
        pattern.byte(label.kinds);
        pattern.uint(label.any.0.into());
        pattern.uint(label.ended.0.into());
    }
    pattern.uint(evidence.endings.len() as u64);
    for ending in &evidence.endings {
        pattern.byte(ending.attempt);
        pattern.byte(
            ending.observer as u8
                | (ending.scope as u8) << 2
                | u8::from(ending.seq != 0) << 3
                | (ending.cause as u8) << 4,
        );
        pattern.byte(ending.progress as u8 | (ending.end_marker as u8) << 4);
        pattern.uint(ending.client_status.into());
        pattern.uint(ending.upstream_status.into());
        pattern.uint(ending.error.0.into());
        values.int(ending.at - evidence.first);
        if ending.seq != 0 {
            values.uint(ending.seq);
        }
    }
    pattern.uint(evidence.amounts.len() as u64);
    for amount in &evidence.amounts {
        pattern.byte(amount.attempt);
        pattern.uint(amount.meter.0.into());
        pattern.byte(amount.scale << 4 | amount.provenance as u8);
        values.uint(amount.value as u64);
    }
    if call.revision > 1 {
        values.uint(call.revision.into());
    }
    if call.revision == 0 {
        values.int(call.changed - evidence.first);
        values.uint(call.changed_by);
    }
    if let Some(correction) = correction {
        values.byte(correction.bill.into());
        values.text(&correction.control_id);
        values.text(&correction.actor);
        values.text(&correction.reason);
        values.uint(correction.quantities.len() as u64);
        for (meter, nano) in &correction.quantities {
            values.uint(meter.0.into());
            values.wide(*nano);
        }
    }
}

/// Reads a number that names an enum value.
fn named<T>(number: u8, from: fn(u64) -> Option<T>, reader: &Reader<'_>) -> Result<T, Damaged> {
    from(number.into()).ok_or(reader.damaged())
}

/// Reads a call's two streams.
pub fn read_call(pattern: &mut Reader<'_>, values: &mut Reader<'_>) -> Result<Packed, Damaged> {
    let account = values.u32()?;
    let flags = pattern.byte()?;
    let id = match flags & 3 {
        UUID => CallId::Uuid(id_bytes(values)?),
        ULID => CallId::Ulid(id_bytes(values)?),
        _ => CallId::Text(values.text()?.into()),
    };
    let policy = pattern.u32()? as u16;
    let first = values.int()?;
    let since = first.wrapping_add(values.int()?);
    let last = first.wrapping_add(values.uint()? as i64);
    let mut evidence = Evidence {
        first,
        last,
        ..Evidence::default()
    };
    for _ in 0..pattern.count()? {
        let attempt = pattern.byte()?;
        let who = pattern.byte()?;
        evidence.labels.push(Label {
            attempt,
            observer: named(who & 15, Observer::from_number, pattern)?,
            progress: named(who >> 4, Progress::from_number, pattern)?,
            kinds: pattern.byte()?,
            any: ShapeId(pattern.u32()?),
            ended: ShapeId(pattern.u32()?),
        });
    }
    for _ in 0..pattern.count()? {
        let attempt = pattern.byte()?;
        let who = pattern.byte()?;
        let how = pattern.byte()?;
        evidence.endings.push(Ending {
            attempt,
            observer: named(who & 3, Observer::from_number, pattern)?,
            scope: if who & 4 == 0 { Scope::Call } else { Scope::Attempt },
            cause: named(who >> 4, Cause::from_number, pattern)?,
            progress: named(how & 15, Progress::from_number, pattern)?,
            end_marker: named(how >> 4, EndMarker::from_number, pattern)?,
            client_status: pattern.u32()? as u16,
            upstream_status: pattern.u32()? as u16,
            error: Sym(pattern.u32()?),
            at: first.wrapping_add(values.int()?),
            seq: if who & 8 == 0 { 0 } else { values.uint()? },
        });
    }
    for _ in 0..pattern.count()? {
        let attempt = pattern.byte()?;
        let meter = Sym(pattern.u32()?);
        let how = pattern.byte()?;
        evidence.amounts.push(Amount {
            attempt,
            meter,
            scale: how >> 4,
            provenance: named(how & 15, Provenance::from_number, pattern)?,
            value: values.uint()? as i64,
        });
    }
    let mut call = Call::new(id, account, policy, since, first);
    call.evidence = evidence;
    call.revision = match flags & (OPEN | REVISED) {
        OPEN => 0,
        REVISED => values.u32()?,
        _ => 1,
    };
    if flags & OPEN != 0 {
        call.changed = first.wrapping_add(values.int()?);
        call.changed_by = values.uint()?;
    }
    let correction = if flags & CORRECTED == 0 {
        None
    } else {
        Some(Box::new(read_correction(values)?))
    };
    call.corrected = correction.is_some();
    Ok(Packed { call, correction })
}

fn id_bytes(values: &mut Reader<'_>) -> Result<[u8; 16], Damaged> {
    let damaged = values.damaged();
    values.take(16)?.try_into().map_err(|_| damaged)
}

fn read_correction(values: &mut Reader<'_>) -> Result<Correction, Damaged> {
    let bill = values.byte()? != 0;
    let control_id = values.text()?.to_owned();
    let actor = values.text()?.to_owned();
    let reason = values.text()?.to_owned();
    let mut quantities = Vec::new();
    for _ in 0..values.count()? {
        quantities.push((Sym(values.u32()?), values.wide()?));
    }
    Ok(Correction {
        bill,
        quantities,
        control_id,
        actor,
        reason,
    })
}

/// A block while it fills.
#[derive(Debug, Default)]
pub struct BlockWriter {
    patterns: BTreeMap<Vec<u8>, u16>,
    ordered: Vec<Vec<u8>>,
    calls: Writer,
    count: usize,
    /// The latest instant by which a call of it is forgotten.
    pub remembered_until: Ms,
    pattern: Writer,
    values: Writer,
}

impl BlockWriter {
    /// Calls in it.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a call.
    pub fn push(&mut self, call: &Call, correction: Option<&Correction>) {
        self.pattern.bytes.clear();
        self.values.bytes.clear();
        write_call(call, correction, &mut self.pattern, &mut self.values);
        let number = match self.patterns.get(&self.pattern.bytes) {
            Some(&number) => number,
            None => {
                let number = self.ordered.len() as u16;
                self.patterns.insert(self.pattern.bytes.clone(), number);
                self.ordered.push(self.pattern.bytes.clone());
                number
            }
        };
        let number_bytes = if number < 0x80 { 1 } else { 2 };
        self.calls.uint((self.values.bytes.len() + number_bytes) as u64);
        self.calls.uint(number.into());
        self.calls.bytes.extend_from_slice(&self.values.bytes);
        self.remembered_until = if self.count == 0 {
            call.remembered_until()
        } else {
            self.remembered_until.max(call.remembered_until())
        };
        self.count += 1;
    }

    /// The block's bytes as they are now.
    pub fn bytes(&self) -> Vec<u8> {
        let mut block = Writer::default();
        block.byte(VERSION);
        block.uint(self.ordered.len() as u64);
        for pattern in &self.ordered {
            block.slice(pattern);
        }
        block.uint(self.count as u64);
        block.bytes.extend_from_slice(&self.calls.bytes);
        block.bytes
    }

    /// Empties it for the next block.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// A block to go on filling, from its bytes.
    pub fn reopen(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut writer = Self::default();
        for packed in Block::parse(bytes)?.calls() {
            let packed = packed?;
            writer.push(&packed.call, packed.correction.as_deref());
        }
        Ok(writer)
    }
}

/// A block that was read.
#[derive(Debug)]
pub struct Block<'a> {
    patterns: Vec<&'a [u8]>,
    calls: Vec<(u16, &'a [u8])>,
}

impl<'a> Block<'a> {
    /// Finds the calls' places.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let mut reader = Reader::new(bytes, "block of settled calls");
        if reader.byte()? != VERSION {
            return Err(reader.damaged());
        }
        let mut patterns = Vec::new();
        for _ in 0..reader.count()? {
            patterns.push(reader.slice()?);
        }
        let mut calls = Vec::new();
        for _ in 0..reader.count()? {
            let mut call = Reader::new(reader.slice()?, "settled call");
            let number = call.u32()? as u16;
            calls.push((number, call.rest));
        }
        Ok(Self { patterns, calls })
    }

    fn read(&self, number: u16, values: &[u8]) -> Result<Packed, Damaged> {
        let values = Reader::new(values, "settled call");
        let pattern = self.patterns.get(usize::from(number)).ok_or(values.damaged())?;
        let mut packed = read_call(&mut Reader::new(pattern, "pattern of settled calls"), &mut { values })?;
        packed.call.queue = Queue::None;
        Ok(packed)
    }

    /// The last call in it with this id: the newest word.
    pub fn find(&self, account: u32, key: &CallKey<'_>) -> Result<Option<Packed>, Damaged> {
        let wanted: Option<[u8; 16]> = match key {
            CallKey::Uuid(value) | CallKey::Ulid(value) => Some(value.to_be_bytes()),
            CallKey::Text(_) => None,
        };
        for &(number, values) in self.calls.iter().rev() {
            let mut reader = Reader::new(values, "settled call");
            if reader.u32()? != account {
                continue;
            }
            if let Some(wanted) = wanted
                && reader.rest.get(..16) != Some(&wanted[..])
            {
                continue;
            }
            let packed = self.read(number, values)?;
            if packed.call.id.is(key) {
                return Ok(Some(packed));
            }
        }
        Ok(None)
    }

    /// All calls in the order in which they were packed.
    pub fn calls(&self) -> impl Iterator<Item = Result<Packed, Damaged>> {
        self.calls.iter().map(|&(number, values)| self.read(number, values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(n: u128) -> Call {
        let id = match n % 3 {
            0 => CallKey::Uuid(n).to_owned(),
            1 => CallKey::Ulid(n).to_owned(),
            _ => CallId::Text(format!("call-{n}").into()),
        };
        let at = 1_790_000_000_000 + n as Ms;
        let mut call = Call::new(id, n as u32 % 7, 3, at + 50, at);
        call.revision = 1 + n as u32 % 3;
        call.evidence.last = at + 1_000;
        call.evidence.labels.push(Label {
            attempt: 1,
            observer: Observer::Upstream,
            progress: Progress::Complete,
            kinds: 0x21,
            any: ShapeId(4),
            ended: ShapeId(2),
        });
        call.evidence.endings.push(Ending {
            seq: n as u64 % 2,
            at: at + 3,
            error: Sym(13),
            client_status: 200,
            upstream_status: 65_535,
            attempt: 0,
            observer: Observer::Edge,
            scope: Scope::Attempt,
            cause: Cause::Expired,
            progress: Progress::Forwarded,
            end_marker: EndMarker::Missing,
        });
        call.evidence.amounts.push(Amount {
            value: i64::MAX - n as i64,
            meter: Sym(5),
            attempt: 255,
            scale: 9,
            provenance: Provenance::ProviderInvoiced,
        });
        call
    }

    #[test]
    fn a_block_gives_back_every_call() -> Result<(), Damaged> {
        let correction = Correction {
            bill: true,
            quantities: vec![(Sym(5), -7)],
            control_id: "c-1".to_owned(),
            actor: "kim".to_owned(),
            reason: "incident".to_owned(),
        };
        let mut writer = BlockWriter::default();
        for n in 0..BLOCK_CALLS as u128 {
            writer.push(&call(n), (n % 5 == 0).then_some(&correction));
        }
        let bytes = writer.bytes();
        assert_eq!(BlockWriter::reopen(&bytes)?.bytes(), bytes);
        let block = Block::parse(&bytes)?;
        for n in 0..BLOCK_CALLS as u128 {
            let wanted = call(n);
            let found = block.find(wanted.account, &wanted.id.key())?;
            let found = found.ok_or(Damaged { what: "test" })?;
            assert_eq!(found.call.evidence, wanted.evidence);
            assert_eq!(
                (found.call.since, found.call.revision, found.call.policy),
                (wanted.since, wanted.revision, wanted.policy)
            );
            assert_eq!(found.correction.is_some(), n % 5 == 0);
        }
        assert!(block.find(0, &CallKey::Uuid(9_999)).is_ok_and(|f| f.is_none()));
        for cut in 0..bytes.len() {
            // Never a panic, whatever is cut off.
            let _ = Block::parse(&bytes[..cut]).map(|b| b.calls().count());
        }
        Ok(())
    }
}
