//! Every value of the default column family: what is written and how it is read back. See `keys.rs` for where it stands.

use std::collections::BTreeMap;

use compact_str::CompactString;
use rust_decimal::Decimal;
use smallvec::SmallVec;

use super::bytes::{Damaged, Reader, Writer};
use crate::machine::accounts::{Account, Latest, Period, Profile, Standing};
use crate::machine::adjust::{Adjustment, ClosedPeriod};
use crate::machine::close::MonthTally;
use crate::machine::names::{Shape, ShapeId};
use crate::machine::rating::LineKey as PriceKey;
use crate::machine::usage::{Bucket, Line, LineKey};
use crate::model::money::Currency;
use crate::model::outcome::{Class, Outcome, Reason};
use crate::model::period::{Month, Zone};
use crate::model::policy::Policy;
use crate::model::quantity::Quantity;
use crate::model::rate_card::{Price, RateCard};
use crate::model::symbol::Sym;

/// A value that is written to, and read from, one row.
pub trait Stored: Sized {
    /// What it is, for errors.
    const WHAT: &'static str;

    /// Writes it.
    fn write(&self, w: &mut Writer);

    /// Reads it.
    fn read(r: &mut Reader<'_>) -> Result<Self, Damaged>;

    /// Its bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.write(&mut writer);
        writer.bytes
    }

    /// From its bytes, all of them.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut reader = Reader::new(bytes, Self::WHAT);
        let value = Self::read(&mut reader)?;
        if reader.is_empty() {
            Ok(value)
        } else {
            Err(reader.damaged())
        }
    }
}

fn text(r: &mut Reader<'_>) -> Result<String, Damaged> {
    r.text().map(str::to_owned)
}

fn decimal(r: &mut Reader<'_>) -> Result<Decimal, Damaged> {
    let damaged = r.damaged();
    r.text()?.parse().map_err(|_| damaged)
}

fn small<T: TryFrom<u64>>(r: &mut Reader<'_>) -> Result<T, Damaged> {
    let damaged = r.damaged();
    T::try_from(r.uint()?).map_err(|_| damaged)
}

fn flag(r: &mut Reader<'_>) -> Result<bool, Damaged> {
    Ok(r.byte()? != 0)
}

fn pick<T>(r: &mut Reader<'_>, from: fn(u8) -> Option<T>) -> Result<T, Damaged> {
    from(r.byte()?).ok_or(r.damaged())
}

impl Stored for Policy {
    const WHAT: &'static str = "policy";

    fn write(&self, w: &mut Writer) {
        for ms in [
            self.settle_grace_ms,
            self.disconnect_grace_ms,
            self.call_deadline_ms,
            self.task_deadline_ms,
            self.close_grace_ms,
            self.amend_window_ms,
            self.max_open_ms,
            self.call_span_ms,
        ] {
            w.int(ms);
        }
        for switch in [
            self.bill_unproven,
            self.bill_empty_disconnect,
            self.bill_upstream_only,
            self.bill_cancelled_task,
        ] {
            w.byte(switch.into());
        }
        w.uint(self.rollup_dimensions.len() as u64);
        self.rollup_dimensions.iter().for_each(|name| w.text(name));
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        Ok(Self {
            settle_grace_ms: r.int()?,
            disconnect_grace_ms: r.int()?,
            call_deadline_ms: r.int()?,
            task_deadline_ms: r.int()?,
            close_grace_ms: r.int()?,
            amend_window_ms: r.int()?,
            max_open_ms: r.int()?,
            call_span_ms: r.int()?,
            bill_unproven: flag(r)?,
            bill_empty_disconnect: flag(r)?,
            bill_upstream_only: flag(r)?,
            bill_cancelled_task: flag(r)?,
            rollup_dimensions: (0..r.count()?).map(|_| text(r)).collect::<Result<_, _>>()?,
        })
    }
}

impl Stored for RateCard {
    const WHAT: &'static str = "rate card";

    fn write(&self, w: &mut Writer) {
        w.uint(self.version);
        w.int(self.effective_from_ms);
        w.uint(self.prices.len() as u64);
        for price in &self.prices {
            w.text(&price.product);
            w.text(&price.meter);
            w.text(&price.service);
            w.text(price.currency.code());
            w.text(&price.amount.to_string());
            w.uint(price.per);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let (version, effective_from_ms) = (r.uint()?, r.int()?);
        let mut prices = Vec::new();
        for _ in 0..r.count()? {
            prices.push(Price {
                product: text(r)?,
                meter: text(r)?,
                service: text(r)?,
                currency: currency(r)?,
                amount: decimal(r)?,
                per: r.uint()?,
            });
        }
        Ok(Self {
            version,
            effective_from_ms,
            prices,
        })
    }
}

fn currency(r: &mut Reader<'_>) -> Result<Currency, Damaged> {
    let damaged = r.damaged();
    Currency::parse(r.text()?).map_err(|_| damaged)
}

impl Stored for Profile {
    const WHAT: &'static str = "profile";

    fn write(&self, w: &mut Writer) {
        w.text(self.zone.name());
        w.text(self.currency.code());
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let damaged = r.damaged();
        Ok(Self {
            zone: Zone::parse(r.text()?).map_err(|_| damaged)?,
            currency: currency(r)?,
        })
    }
}

impl Stored for Vec<Sym> {
    const WHAT: &'static str = "list of rollup names";

    fn write(&self, w: &mut Writer) {
        w.uint(self.len() as u64);
        self.iter().for_each(|sym| w.uint(sym.0.into()));
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        (0..r.count()?).map(|_| r.u32().map(Sym)).collect()
    }
}

impl Stored for Vec<ShapeId> {
    const WHAT: &'static str = "list of rollup combinations";

    fn write(&self, w: &mut Writer) {
        w.uint(self.len() as u64);
        self.iter().for_each(|shape| w.uint(shape.0.into()));
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        (0..r.count()?).map(|_| r.u32().map(ShapeId)).collect()
    }
}

impl Stored for Shape {
    const WHAT: &'static str = "shape";

    fn write(&self, w: &mut Writer) {
        w.uint(self.service.0.into());
        w.uint(self.product.0.into());
        w.uint(self.dimensions.len() as u64);
        for (name, value) in &self.dimensions {
            w.uint(name.0.into());
            w.uint(value.0.into());
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let (service, product) = (Sym(r.u32()?), Sym(r.u32()?));
        let mut dimensions = SmallVec::new();
        for _ in 0..r.count()? {
            dimensions.push((Sym(r.u32()?), Sym(r.u32()?)));
        }
        Ok(Self {
            service,
            product,
            dimensions,
        })
    }
}

/// The part of an account that seldom changes.
#[derive(Debug)]
pub struct AccountRow {
    /// Its id.
    pub id: CompactString,
    /// Holds for periods that aren't stored yet.
    pub profile: u32,
    /// Contiguous, oldest first.
    pub periods: Vec<Period>,
}

/// Writes an account's seldom-changing part.
pub fn write_account(account: &Account, w: &mut Writer) {
    w.text(&account.id);
    w.uint(account.profile.into());
    w.uint(account.periods.len() as u64);
    for period in &account.periods {
        w.uint(period.month.0.into());
        w.int(period.from);
        w.int(period.until - period.from);
        w.int(period.close_due.saturating_sub(period.until));
        w.uint(period.profile.into());
        w.uint(period.rollup.into());
        w.byte(period.standing as u8);
    }
}

/// Reads an account's seldom-changing part.
pub fn read_account(bytes: &[u8]) -> Result<AccountRow, Damaged> {
    let mut r = Reader::new(bytes, "account");
    let (id, profile) = (r.text()?.into(), r.u32()?);
    let mut periods = Vec::new();
    for _ in 0..r.count()? {
        let month = Month(r.u32()?);
        let from = r.int()?;
        let until = from.wrapping_add(r.int()?);
        periods.push(Period {
            month,
            from,
            until,
            close_due: until.saturating_add(r.int()?),
            profile: r.u32()?,
            rollup: small(&mut r)?,
            standing: if r.byte()? == 0 {
                Standing::Open
            } else {
                Standing::Closed
            },
        });
    }
    Ok(AccountRow { id, profile, periods })
}

impl Stored for Bucket {
    const WHAT: &'static str = "bucket of usage";

    fn write(&self, w: &mut Writer) {
        w.uint(self.lines.len() as u64);
        for line in &self.lines {
            w.uint(line.key.service.0.into());
            w.uint(line.key.product.0.into());
            w.uint(line.key.dimensions.0.into());
            w.byte(line.key.class as u8);
            w.uint(line.meters.len() as u64);
            for (meter, nano) in &line.meters {
                w.uint(meter.0.into());
                write_nano(*nano, w);
            }
        }
        w.uint(self.counts.len() as u64);
        for ((outcome, reason), calls) in &self.counts {
            w.byte(*outcome as u8);
            w.byte(*reason as u8);
            w.int(*calls);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut bucket = Self::default();
        for _ in 0..r.count()? {
            let key = LineKey {
                service: Sym(r.u32()?),
                product: Sym(r.u32()?),
                dimensions: ShapeId(r.u32()?),
                class: pick(r, Class::from_index)?,
            };
            let mut meters = SmallVec::new();
            for _ in 0..r.count()? {
                meters.push((Sym(r.u32()?), read_nano(r)?));
            }
            bucket.lines.push(Line { key, meters });
        }
        for _ in 0..r.count()? {
            let what = (pick(r, Outcome::from_index)?, pick(r, Reason::from_index)?);
            bucket.counts.push((what, r.int()?));
        }
        Ok(bucket)
    }
}

const NANO: i128 = 1_000_000_000;

/// Nearly every sum is whole: then it is written without its nine zeros. The lowest bit tells.
fn write_nano(nano: i128, w: &mut Writer) {
    // Sums under 9 billion are divided in 64 bits: in 128 it is a call that takes a fifth of a commit.
    if let Ok(small) = i64::try_from(nano)
        && small % NANO as i64 == 0
    {
        w.int(small / NANO as i64 * 2);
    } else if nano % NANO == 0 {
        w.wide((nano / NANO).wrapping_mul(2));
    } else {
        w.byte(1 << 1);
        w.wide(nano);
    }
}

fn read_nano(r: &mut Reader<'_>) -> Result<i128, Damaged> {
    let value = r.wide()?;
    if value == 1 {
        return r.wide();
    }
    (value / 2).checked_mul(NANO).ok_or(r.damaged())
}

impl Stored for Latest {
    const WHAT: &'static str = "latest bucket";

    fn write(&self, w: &mut Writer) {
        w.uint(self.month.0.into());
        w.int(self.place.into());
        self.bucket.write(w);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let month = Month(r.u32()?);
        let place = i32::try_from(r.int()?).map_err(|_| r.damaged())?;
        Ok(Self {
            month,
            place,
            bucket: Bucket::read(r)?,
        })
    }
}

/// Writes an account's latest day and hour.
pub fn write_latest(account: &Account, w: &mut Writer) {
    for latest in [&account.day, &account.hour] {
        match latest {
            None => w.byte(0),
            Some(latest) => {
                w.byte(1);
                latest.write(w);
            }
        }
    }
}

/// An account's latest day and hour.
pub type LatestPair = (Option<Box<Latest>>, Option<Box<Latest>>);

/// Reads an account's latest day and hour.
pub fn read_latest(bytes: &[u8]) -> Result<LatestPair, Damaged> {
    let mut r = Reader::new(bytes, "latest buckets");
    let mut next = || -> Result<Option<Box<Latest>>, Damaged> {
        if r.byte()? == 0 {
            return Ok(None);
        }
        Latest::read(&mut r).map(|l| Some(Box::new(l)))
    };
    Ok((next()?, next()?))
}

impl Stored for ClosedPeriod {
    const WHAT: &'static str = "closed period";

    fn write(&self, w: &mut Writer) {
        w.uint(self.cards);
        w.uint(self.sequence);
        w.uint(self.stated.len() as u64);
        for (key, (quantity, amount)) in &self.stated {
            w.text(&key.product);
            w.text(&key.meter);
            w.text(&key.service);
            w.text(&key.unit_price.to_string());
            w.uint(key.per);
            w.wide(quantity.0);
            w.text(&amount.to_string());
        }
        w.uint(self.unpriced.len() as u64);
        for ((service, product, meter, class), quantity) in &self.unpriced {
            w.text(service);
            w.text(product);
            w.text(meter);
            w.byte(*class as u8);
            w.wide(quantity.0);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let cards = r.uint()?;
        let sequence = r.uint()?;
        let mut stated = BTreeMap::new();
        for _ in 0..r.count()? {
            let key = PriceKey {
                product: text(r)?,
                meter: text(r)?,
                service: text(r)?,
                unit_price: decimal(r)?,
                per: r.uint()?,
            };
            stated.insert(key, (Quantity(r.wide()?), decimal(r)?));
        }
        let mut unpriced = BTreeMap::new();
        for _ in 0..r.count()? {
            let key = (text(r)?, text(r)?, text(r)?, pick(r, Class::from_index)?);
            unpriced.insert(key, Quantity(r.wide()?));
        }
        Ok(Self {
            cards,
            sequence,
            stated,
            unpriced,
        })
    }
}

impl Stored for Adjustment {
    const WHAT: &'static str = "adjustment";

    fn write(&self, w: &mut Writer) {
        w.uint(self.usage.len() as u64);
        for ((key, meter), nano) in &self.usage {
            w.uint(key.service.0.into());
            w.uint(key.product.0.into());
            w.uint(key.dimensions.0.into());
            w.byte(key.class as u8);
            w.uint(meter.0.into());
            w.wide(*nano);
        }
        w.uint(self.counts.len() as u64);
        for ((outcome, reason), change) in &self.counts {
            w.byte(*outcome as u8);
            w.byte(*reason as u8);
            w.int(*change);
        }
        w.uint(self.calls.len() as u64);
        self.calls.iter().for_each(|call| w.text(call));
        w.maybe(self.due);
        w.uint(self.unstated.len() as u64);
        self.unstated.iter().for_each(|at| w.int(*at));
        w.text(&self.noticed.to_string());
        w.byte(self.named.into());
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut adjustment = Self::default();
        for _ in 0..r.count()? {
            let key = LineKey {
                service: Sym(r.u32()?),
                product: Sym(r.u32()?),
                dimensions: ShapeId(r.u32()?),
                class: pick(r, Class::from_index)?,
            };
            let meter = Sym(r.u32()?);
            adjustment.usage.insert((key, meter), r.wide()?);
        }
        for _ in 0..r.count()? {
            let what = (pick(r, Outcome::from_index)?, pick(r, Reason::from_index)?);
            adjustment.counts.insert(what, r.int()?);
        }
        for _ in 0..r.count()? {
            adjustment.calls.push(text(r)?);
        }
        adjustment.due = r.maybe()?;
        for _ in 0..r.count()? {
            adjustment.unstated.push(r.int()?);
        }
        adjustment.noticed = decimal(r)?;
        adjustment.named = r.byte()? != 0;
        Ok(adjustment)
    }
}

impl Stored for MonthTally {
    const WHAT: &'static str = "month's tally";

    fn write(&self, w: &mut Writer) {
        w.uint(self.open);
        w.uint(self.closed);
        w.uint(self.statements);
        w.uint(self.outcomes.len() as u64);
        for (outcome, calls) in &self.outcomes {
            w.byte(*outcome as u8);
            w.int(*calls);
        }
        w.uint(self.quantities.len() as u64);
        for (meter, nano) in &self.quantities {
            w.uint(meter.0.into());
            w.wide(*nano);
        }
        w.uint(self.amounts.len() as u64);
        for (currency, amount) in &self.amounts {
            w.text(currency.code());
            w.text(&amount.to_string());
        }
        w.uint(self.first_sequence);
        w.uint(self.last_sequence);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut tally = Self {
            open: r.uint()?,
            closed: r.uint()?,
            statements: r.uint()?,
            ..Self::default()
        };
        for _ in 0..r.count()? {
            let outcome = pick(r, Outcome::from_index)?;
            tally.outcomes.insert(outcome, r.int()?);
        }
        for _ in 0..r.count()? {
            let meter = Sym(r.u32()?);
            tally.quantities.insert(meter, r.wide()?);
        }
        for _ in 0..r.count()? {
            let currency = currency(r)?;
            tally.amounts.insert(currency, decimal(r)?);
        }
        tally.first_sequence = r.uint()?;
        tally.last_sequence = r.uint()?;
        Ok(tally)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_come_back_whole_or_not() -> Result<(), Damaged> {
        let mut bucket = Bucket::default();
        let sums = [
            0,
            NANO,
            -NANO,
            1,
            -1,
            NANO / 2,
            i128::from(i64::MAX) * NANO,
            7 * NANO + 1,
        ];
        for (n, nano) in sums.into_iter().enumerate() {
            let key = LineKey {
                service: Sym(9),
                product: Sym(n as u32),
                dimensions: ShapeId::NONE,
                class: Class::Unbilled,
            };
            bucket.add(key, &[(Sym(1), nano)], 1);
        }
        bucket.count((Outcome::Failed, Reason::Unresolved), -3);
        bucket.dirty = false;
        assert_eq!(Bucket::from_bytes(&bucket.to_bytes())?, bucket);
        Ok(())
    }
}
