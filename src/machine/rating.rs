//! Usage to money (RULES §7): aggregated quantities per price, rounded once per line.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use super::accounts::Profile;
use super::names::{Naming, ShapeId};
use super::usage::Bucket;
use crate::model::Ms;
use crate::model::money::{Currency, exact_sum};
use crate::model::outcome::Class;
use crate::model::period::{self, Day};
use crate::model::quantity::Quantity;
use crate::model::rate_card::{CardsView, Price};
use crate::model::symbol::Sym;
use crate::wire::pb;

/// One day's sum, as the rates see it.
#[derive(Clone, Copy, Debug)]
pub struct DayUsage<'a> {
    /// The account's local day.
    pub day: Day,
    /// Its first instant.
    pub day_start_ms: Ms,
    /// The interface.
    pub service: &'a str,
    /// What is priced.
    pub product: &'a str,
    /// What is counted.
    pub meter: &'a str,
    /// Unbilled usage is not rated.
    pub class: Class,
    /// Values of the rollup dimensions.
    pub dimensions: &'a [String],
    /// How much.
    pub quantity: Quantity,
}

/// A line is one product, meter and price, with the service where the price names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineKey {
    /// What is priced.
    pub product: String,
    /// What is counted.
    pub meter: String,
    /// Empty: the line spans services.
    pub service: String,
    /// For `per` units, without trailing zeros.
    pub unit_price: Decimal,
    /// 1, 1,000 or 1,000,000.
    pub per: u64,
}

/// Service, product, meter, class, dimensions.
type RowKey = (String, String, String, Class, Vec<String>);

/// One rated line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it prices.
    pub key: LineKey,
    /// Summed over days, services, classes and dimensions.
    pub quantity: Quantity,
    /// Unrounded; `None` if it can't be expressed.
    pub exact: Option<Decimal>,
    /// Rounded once, half-even; `None` if it can't be expressed.
    pub amount: Option<Decimal>,
    rows: BTreeMap<RowKey, Quantity>,
}

/// A period at its prices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rated {
    /// By key.
    pub lines: Vec<Line>,
    /// Sum of the lines' rounded amounts.
    pub total: Decimal,
    unpriced: BTreeMap<RowKey, Quantity>,
}

/// What a closed period has beyond all that was stated for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    /// By line.
    pub lines: Vec<AdjustmentLine>,
    /// Billed usage that no price was found for.
    pub unpriced: Vec<(UnpricedKey, Quantity)>,
}

impl Owed {
    /// Whether all is stated.
    pub fn is_nothing(&self) -> bool {
        self.lines.is_empty() && self.unpriced.is_empty()
    }

    /// Sum of the lines; `None` if it, or one of them, can't be expressed.
    pub fn amount(&self) -> Option<Decimal> {
        let mut amounts = self.lines.iter().map(|l| l.amount);
        amounts.try_fold(Decimal::ZERO, |sum, amount| exact_sum(sum, amount?))
    }
}

/// What a closed period's line owes beyond what was stated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdjustmentLine {
    /// The line.
    pub key: LineKey,
    /// More (or less) of it.
    pub quantity: Quantity,
    /// More (or less) money; `None` if it can't be expressed: then what was stated stays.
    pub amount: Option<Decimal>,
}

/// `quantity / per × price`, exactly; `None` where 96 bits don't hold it.
pub fn amount_of(quantity: Quantity, price: Decimal, per: u64) -> Option<Decimal> {
    let quantity = quantity.to_decimal()?;
    let product = quantity.checked_mul(price)?;
    if !product.is_zero() && product.scale() < quantity.scale() + price.scale() {
        return None; // rust_decimal has rounded
    }
    let per_places = per.checked_ilog10().unwrap_or(0);
    Decimal::try_from_i128_with_scale(product.mantissa(), product.scale() + per_places).ok()
}

/// An account's period, day by day, at the prices of the cards that hold for it. `rollup` are the dimensions that its policy
/// names.
pub fn rate_days(
    names: &impl Naming,
    rollup: &[Sym],
    profile: Profile,
    cards: CardsView<'_>,
    days: &[(i32, &Bucket)],
) -> Rated {
    let lines = days.iter().flat_map(|(_, bucket)| &bucket.lines);
    let mut dimensions: BTreeMap<ShapeId, Vec<String>> = BTreeMap::new();
    for line in lines {
        let shape = line.key.dimensions;
        dimensions
            .entry(shape)
            .or_insert_with(|| names.values_of(shape, rollup));
    }
    let mut rows = Vec::new();
    for &(day, bucket) in days {
        let day = Day(day);
        let (day_start_ms, _) = period::day_bounds(day, profile.zone);
        for line in &bucket.lines {
            let values = dimensions.get(&line.key.dimensions).map_or(&[][..], Vec::as_slice);
            for &(meter, nano) in &line.meters {
                rows.push(DayUsage {
                    day,
                    day_start_ms,
                    service: names.name(line.key.service),
                    product: names.name(line.key.product),
                    meter: names.name(meter),
                    class: line.key.class,
                    dimensions: values,
                    quantity: Quantity(nano),
                });
            }
        }
    }
    rate(rows, cards, profile.currency)
}

/// Rates a period's usage with the cards that hold for it.
pub fn rate(usage: Vec<DayUsage<'_>>, cards: CardsView<'_>, currency: Currency) -> Rated {
    let mut lines: BTreeMap<LineKey, BTreeMap<RowKey, Quantity>> = BTreeMap::new();
    let mut unpriced = BTreeMap::new();
    for row in usage.into_iter().filter(|r| r.class.is_billed() && r.quantity.0 != 0) {
        let price = cards.price(row.day_start_ms, row.service, row.product, row.meter, currency);
        let rows = match price {
            Some(price) => lines.entry(line_key(&row, price)).or_default(),
            None => &mut unpriced,
        };
        let key = (
            row.service.to_owned(),
            row.product.to_owned(),
            row.meter.to_owned(),
            row.class,
            row.dimensions.to_vec(),
        );
        let sum: &mut Quantity = rows.entry(key).or_default();
        sum.0 = sum.0.saturating_add(row.quantity.0);
    }
    let mut rated = Rated::default();
    for (key, mut rows) in lines {
        rows.retain(|_, q| q.0 != 0);
        let quantity = Quantity(rows.values().fold(0, |sum: i128, q| sum.saturating_add(q.0)));
        if quantity.0 == 0 {
            continue;
        }
        let exact = amount_of(quantity, key.unit_price, key.per);
        let amount = exact.map(|a| currency.round_half_even(a));
        // A line that would overflow the total carries the error, as one that overflows by itself.
        let total = amount.and_then(|a| exact_sum(rated.total, a));
        if let Some(total) = total {
            rated.total = total;
        }
        rated.lines.push(Line {
            key,
            quantity,
            exact: exact.filter(|_| total.is_some()),
            amount: amount.filter(|_| total.is_some()),
            rows,
        });
    }
    unpriced.retain(|_, q| q.0 != 0);
    rated.unpriced = unpriced;
    rated
}

fn line_key(row: &DayUsage<'_>, price: &Price) -> LineKey {
    LineKey {
        product: row.product.to_owned(),
        meter: row.meter.to_owned(),
        service: price.service.clone(),
        unit_price: price.amount,
        per: price.per,
    }
}

fn usage_rows(rows: &BTreeMap<RowKey, Quantity>) -> Vec<pb::UsageRow> {
    rows.iter()
        .map(
            |((service, product, meter, class, dimensions), quantity)| pb::UsageRow {
                service: service.clone(),
                product: product.clone(),
                meter: meter.clone(),
                class: class.as_str().to_owned(),
                quantity: quantity.to_string(),
                dimensions: dimensions.clone(),
                original_period: String::new(),
            },
        )
        .collect()
}

impl Line {
    /// In the words of the contract.
    pub fn to_contract(&self) -> pb::StatementLine {
        pb::StatementLine {
            rows: usage_rows(&self.rows),
            ..super::close::statement_line(&self.key, self.quantity, self.amount)
        }
    }
}

/// Where billed usage without a price stands: service, product, meter, class.
pub type UnpricedKey = (String, String, String, Class);

impl Rated {
    /// Billed usage that no price was found for, over all dimensions, as a closed period remembers it.
    pub fn unpriced_places(&self) -> BTreeMap<UnpricedKey, Quantity> {
        let mut places: BTreeMap<UnpricedKey, Quantity> = BTreeMap::new();
        for ((service, product, meter, class, _), quantity) in &self.unpriced {
            let key = (service.clone(), product.clone(), meter.clone(), *class);
            let sum = places.entry(key).or_default();
            sum.0 = sum.0.saturating_add(quantity.0);
        }
        places
    }

    /// What the lines say, as a closed period remembers it.
    pub fn stated(&self) -> BTreeMap<LineKey, (Quantity, Decimal)> {
        self.lines
            .iter()
            // Of a line with an error nothing is stated but its quantity: once it can be expressed, all of it is owed.
            .map(|l| (l.key.clone(), (l.quantity, l.amount.unwrap_or_default())))
            .collect()
    }

    /// Billed usage that no price was found for.
    pub fn unpriced_rows(&self) -> Vec<pb::UsageRow> {
        usage_rows(&self.unpriced)
    }
}

/// What a period rated as now known owes beyond what was stated, line by line.
pub fn difference(rated: &Rated, stated: &BTreeMap<LineKey, (Quantity, Decimal)>) -> Vec<AdjustmentLine> {
    let mut owed: BTreeMap<&LineKey, (Quantity, Option<Decimal>)> = stated
        .iter()
        .map(|(k, (q, a))| (k, (Quantity(-q.0), Some(-*a))))
        .collect();
    for line in &rated.lines {
        let (quantity, amount) = owed.entry(&line.key).or_insert((Quantity(0), Some(Decimal::ZERO)));
        quantity.0 = quantity.0.saturating_add(line.quantity.0);
        *amount = amount.zip(line.amount).and_then(|(less, now)| exact_sum(less, now));
    }
    // An amount that can't be expressed is told once, with the quantity that led to it.
    owed.into_iter()
        .filter(|(_, (quantity, amount))| quantity.0 != 0 || amount.is_some_and(|a| !a.is_zero()))
        .map(|(key, (quantity, amount))| AdjustmentLine {
            key: key.clone(),
            quantity,
            amount,
        })
        .collect()
}

/// The same of what no price was found for.
pub fn unpriced_difference(
    now: BTreeMap<UnpricedKey, Quantity>,
    stated: &BTreeMap<UnpricedKey, Quantity>,
) -> Vec<(UnpricedKey, Quantity)> {
    let mut owed = now;
    for (key, quantity) in stated {
        let sum = owed.entry(key.clone()).or_default();
        sum.0 = sum.0.saturating_sub(quantity.0);
    }
    owed.into_iter().filter(|(_, quantity)| quantity.0 != 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_or_refused() {
        let price: Decimal = "0.15".parse().unwrap_or_default();
        let tokens = Quantity::from_parts(1_234_567, 0);
        assert_eq!(
            amount_of(tokens, price, 1_000_000).map(|a| a.to_string()).as_deref(),
            Some("0.18518505")
        );
        assert_eq!(amount_of(Quantity(i128::MAX / 4), price, 1), None);
        assert_eq!(amount_of(Quantity(0), price, 1).map(|a| a.is_zero()), Some(true));
    }
}
