//! Two folds of one partition, table by table: what decides money, wherever it is held, in memory or in the store.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

use serde_json::{Value, json};

use crate::machine::accounts::{Account, Standing};
use crate::machine::adjust::ClosedPeriod;
use crate::machine::calls::Call;
use crate::machine::output::Topic;
use crate::machine::usage::{Bucket, BucketKey, Span};
use crate::model::period::{Day, Month, rfc3339};
use crate::partition::PartitionError;
use crate::partition::read::KnownCall;
use crate::partition::worker::Partition;
use crate::store::bytes::Damaged;
use crate::store::keys::{self, CF_SETTLED, table};
use crate::store::packed::Block;
use crate::store::values::Stored;

/// Months for which an account's closed usage and statements are held for certain.
const HISTORY_MONTHS: u32 = 25;

/// Bytes of a row that are shown where it differs.
const SHOWN_CHARS: usize = 600;

/// The first place at which two folds differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// In which partition.
    pub partition: u32,
    /// In which table.
    pub table: &'static str,
    /// Which row of it.
    pub place: String,
    /// As the store has it.
    pub was: String,
    /// As it is folded again.
    pub again: String,
}

impl Difference {
    pub fn to_json(&self) -> Value {
        json!({"partition": self.partition, "table": self.table, "place": self.place, "was": self.was, "again": self.again})
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "partition {}, {}", self.partition, self.table)?;
        if !self.place.is_empty() {
            write!(f, " of {}", self.place)?;
        }
        write!(f, ": {}, folded again {}", self.was, self.again)
    }
}

/// Says so if two values differ.
fn same<T: PartialEq + Debug>(
    partition: u32,
    table: &'static str,
    place: impl FnOnce() -> String,
    was: &T,
    again: &T,
) -> Option<Difference> {
    let shown = |value: &T| {
        let text = format!("{value:?}");
        match text.char_indices().nth(SHOWN_CHARS) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    };
    (was != again).then(|| Difference {
        partition,
        table,
        place: place(),
        was: shown(was),
        again: shown(again),
    })
}

/// The first key under which two maps differ.
fn same_rows<K: Ord, V: PartialEq + Debug>(
    partition: u32,
    table: &'static str,
    place: impl Fn(&K) -> String,
    was: &BTreeMap<K, V>,
    again: &BTreeMap<K, V>,
) -> Option<Difference> {
    let key = was.keys().chain(again.keys()).find(|k| was.get(k) != again.get(k))?;
    same(partition, table, || place(key), &was.get(key), &again.get(key))
}

/// An account's days, and the hours of its open periods: what the store has, and what memory holds above it.
fn buckets(of: &Partition, number: u32, account: &Account) -> Result<BTreeMap<BucketKey, Bucket>, PartitionError> {
    let mut all: BTreeMap<BucketKey, Bucket> = BTreeMap::new();
    of.rocks.scan(&keys::numbered(table::BUCKET, number), |key, bytes| {
        let damaged = Damaged {
            what: "key of a bucket",
        };
        all.insert(keys::parse_bucket(key).ok_or(damaged)?, Bucket::from_bytes(bytes)?);
        Ok(())
    })?;
    let range = (number, Span::Day, Month::MIN, i32::MIN)..=(number, Span::Hour, Month::MAX, i32::MAX);
    for (&key, bucket) in of.machine.cold.buckets.range(range) {
        if bucket.partial {
            all.entry(key).or_default().absorb(bucket);
        } else {
            all.insert(key, bucket.clone());
        }
    }
    for (span, latest) in [(Span::Day, &account.day), (Span::Hour, &account.hour)] {
        if let Some(latest) = latest {
            let key = (number, span, latest.month, latest.place);
            all.entry(key).or_default().absorb(&latest.bucket);
        }
    }
    let oldest = oldest_month(account);
    let is_open = |month| account.period(month).is_some_and(|p| p.standing == Standing::Open);
    all.retain(|key, bucket| {
        (bucket.partial, bucket.dirty) = (false, false);
        for line in &mut bucket.lines {
            line.meters.retain(|(_, nano)| *nano != 0);
        }
        bucket.lines.retain(|line| !line.meters.is_empty());
        bucket.counts.retain(|(_, calls)| *calls != 0);
        let empty = bucket.lines.is_empty() && bucket.counts.is_empty();
        let kept = match key.1 {
            Span::Day => key.2 >= oldest,
            Span::Hour => is_open(key.2),
        };
        kept && !empty
    });
    Ok(all)
}

fn oldest_month(account: &Account) -> Month {
    Month(
        account
            .periods
            .last()
            .map_or(0, |p| p.month.0.saturating_sub(HISTORY_MONTHS)),
    )
}

/// What an account's closed periods have stated.
fn closed(of: &Partition, number: u32, account: &Account) -> Result<BTreeMap<Month, ClosedPeriod>, PartitionError> {
    let mut all = BTreeMap::new();
    of.rocks.scan(&keys::numbered(table::CLOSED, number), |key, bytes| {
        let (_, month) = keys::parse_account_month(key).ok_or(Damaged { what: "key of a month" })?;
        all.insert(month, ClosedPeriod::from_bytes(bytes)?);
        Ok(())
    })?;
    let range = (number, Month::MIN)..=(number, Month::MAX);
    for (&(_, month), held) in of.machine.closed.range(range) {
        all.insert(month, held.clone());
    }
    all.retain(|&month, _| month >= oldest_month(account));
    Ok(all)
}

/// What makes two calls the same one: everything a verdict can still depend on, and what it came to.
fn shown(known: &KnownCall) -> impl PartialEq + Debug + use<> {
    let call = &known.call;
    (
        (call.revision, call.policy, call.since),
        call.evidence.clone(),
        known.correction.clone(),
        known.verdict.clone(),
    )
}

/// Looks at a call that one of the two has.
fn same_call(first: &Partition, again: &Partition, call: &Call) -> Result<Option<Difference>, PartitionError> {
    if call.is_settled() && call.remembered_until() < again.machine.clock.forget_line {
        return Ok(None);
    }
    let id = call.id.to_string();
    let account = again.machine.accounts.get(call.account).map_or("", |a| a.id.as_str());
    let alive = |of: &Partition| -> Result<_, PartitionError> {
        let known = of.call(account, &id)?;
        // A newer word on it may be over.
        let over = |k: &KnownCall| k.call.is_settled() && k.call.remembered_until() < of.machine.clock.forget_line;
        Ok(known.filter(|k| !over(k)).as_ref().map(shown))
    };
    let place = || format!("account {account}, call {id}");
    Ok(same(first.number, "calls", place, &alive(first)?, &alive(again)?))
}

/// Looks at every call that a partition holds: in memory, and packed in its store.
fn each_call(
    of: &Partition,
    mut look: impl FnMut(&Call) -> Result<Option<Difference>, PartitionError>,
) -> Result<Option<Difference>, PartitionError> {
    for (_, call) in of.machine.calls.iter() {
        if let Some(found) = look(call)? {
            return Ok(Some(found));
        }
    }
    let mut block = |bytes: &[u8]| {
        for packed in Block::parse(bytes).map_err(|d| of.rocks.damaged(d))?.calls() {
            let packed = packed.map_err(|d| of.rocks.damaged(d))?;
            if let Some(found) = look(&packed.call)? {
                return Ok(Some(found));
            }
        }
        Ok::<_, PartitionError>(None)
    };
    if let Some(tail) = of.rocks.get(&[table::TAIL_BLOCK])?
        && let Some(found) = block(&tail)?
    {
        return Ok(Some(found));
    }
    let mut rows = of.rocks.db.raw_iterator_cf(of.rocks.family(CF_SETTLED)?);
    rows.seek(of.shelf.oldest_block().to_be_bytes());
    while let Some((_, bytes)) = rows.item() {
        if let Some(found) = block(bytes)? {
            return Ok(Some(found));
        }
        rows.next();
    }
    rows.status().map_err(|e| of.rocks.explain(e))?;
    Ok(None)
}

/// What is the partition's own: position, clock, rules, holds, months.
fn same_state(first: &Partition, again: &Partition) -> Option<Difference> {
    let (p, was, is) = (first.number, &first.machine, &again.machine);
    let nowhere = String::new;
    let month = |month: &Month| month.to_string();
    let ids = |of: &Partition| -> BTreeMap<String, _> { of.machine.ledger.ids.clone() };
    same(p, "position", nowhere, &was.position, &is.position)
        .or_else(|| same(p, "clock", nowhere, &was.clock, &is.clock))
        .or_else(|| same(p, "operator keys", nowhere, &was.authority, &is.authority))
        .or_else(|| same(p, "control version", nowhere, &was.ledger.version, &is.ledger.version))
        .or_else(|| same_rows(p, "control ids", String::clone, &ids(first), &ids(again)))
        .or_else(|| same(p, "policies", nowhere, &was.policies, &is.policies))
        .or_else(|| same(p, "rate cards", nowhere, &was.cards, &is.cards))
        .or_else(|| same(p, "rollup dimensions", nowhere, &was.rollups, &is.rollups))
        .or_else(|| same(p, "holds", nowhere, &was.holds, &is.holds))
        .or_else(|| same(p, "held closes", nowhere, &was.held, &is.held))
        .or_else(|| same_rows(p, "months", month, &was.months, &is.months))
        .or_else(|| same_rows(p, "finished months", month, &was.finished, &is.finished))
        .or_else(|| same(p, "control records to come", nowhere, &was.controls, &is.controls))
        .or_else(|| same(p, "control records out", nowhere, &was.controls_out, &is.controls_out))
}

/// What is an account's.
fn same_account(first: &Partition, again: &Partition, number: u32) -> Result<Option<Difference>, PartitionError> {
    let p = first.number;
    let (was, is) = (first.machine.accounts.get(number), again.machine.accounts.get(number));
    let row = |account: &Account| {
        let profile = first.machine.accounts.profile(account.profile);
        (account.id.to_string(), profile, account.periods.to_vec())
    };
    let id = || was.or(is).map_or_else(String::new, |a| a.id.to_string());
    let place = || format!("account {}", id());
    if let Some(found) = same(p, "accounts", place, &was.map(row), &is.map(row)) {
        return Ok(Some(found));
    }
    let (Some(was), Some(is)) = (was, is) else {
        return Ok(None);
    };
    let of_bucket = |&(_, span, month, place): &BucketKey| {
        let at = match span {
            Span::Day => format!("day {}", Day(place)),
            Span::Hour => format!("hour {}", rfc3339(i64::from(place) * 60_000)),
        };
        format!("account {}, {at} ({month})", id())
    };
    let of_month = |month: &Month| format!("account {}, {month}", id());
    let (days, days_again) = (buckets(first, number, was)?, buckets(again, number, is)?);
    if let Some(found) = same_rows(p, "usage", of_bucket, &days, &days_again) {
        return Ok(Some(found));
    }
    let (stated, stated_again) = (closed(first, number, was)?, closed(again, number, is)?);
    if let Some(found) = same_rows(p, "closed periods", of_month, &stated, &stated_again) {
        return Ok(Some(found));
    }
    let range = (number, Month::MIN)..=(number, Month::MAX);
    let adjustments = |of: &Partition| -> BTreeMap<Month, _> {
        let changed = of.machine.adjustments.range(range.clone());
        changed.map(|(&(_, month), a)| (month, a.clone())).collect()
    };
    let combinations = |of: &Partition| -> BTreeMap<Month, _> {
        let named = of.machine.combinations.range(range.clone());
        named.map(|(&(_, month), c)| (month, c.clone())).collect()
    };
    Ok(
        same_rows(p, "adjustments", of_month, &adjustments(first), &adjustments(again)).or_else(|| {
            let (was, is) = (combinations(first), combinations(again));
            same_rows(p, "rollup combinations", of_month, &was, &is)
        }),
    )
}

/// What differs between two folds of one partition; `None`: nothing.
pub(super) fn difference(first: &Partition, again: &Partition) -> Result<Option<Difference>, PartitionError> {
    let p = first.number;
    if let Some(found) = same_state(first, again) {
        return Ok(Some(found));
    }
    let accounts = first.machine.accounts.len().max(again.machine.accounts.len());
    for number in 0..accounts as u32 {
        if let Some(found) = same_account(first, again, number)? {
            return Ok(Some(found));
        }
    }
    for of in [first, again] {
        if let Some(found) = each_call(of, |call| same_call(first, again, call))? {
            return Ok(Some(found));
        }
    }
    for topic in Topic::ALL {
        let tail = |of: &Partition| of.machine.outputs.tails[topic as usize];
        let place = || topic.as_str().to_owned();
        if let Some(found) = same(p, "outputs", place, &tail(first), &tail(again)) {
            return Ok(Some(found));
        }
    }
    let digest = |of: &Partition| format!("{:032x}", of.machine.digest.value());
    let place = || "all changes, though every row and output is the same".to_owned();
    Ok(same(p, "digest", place, &digest(first), &digest(again)))
}
