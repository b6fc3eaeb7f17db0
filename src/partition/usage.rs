//! An account's usage by window and group, summed from what was taken and the store's rows, page by page.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use utoipa::ToSchema;

use super::live::Standing;
use super::taken::{Halt, Taken};
use crate::machine::accounts::{Period, Profile};
use crate::machine::names::Naming;
use crate::machine::rating::amount_of;
use crate::machine::usage::Bucket;
use crate::model::Ms;
use crate::model::outcome::{Class, Outcome, Reason};
use crate::model::period::{self, Day, Month};
use crate::model::quantity::Quantity;
use crate::model::rate_card::CardsView;
use crate::model::symbol::Sym;
use crate::store::rows::Rows;

/// By what length of time usage is summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// The clock hours of the account's zone; in open periods only, without rollup dimensions.
    Hour,
    /// The days of the account's zone.
    Day,
    /// Periods.
    #[default]
    Month,
}

/// What is asked of an account's usage. The meter always divides the sums; what isn't named here is added up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct UsageQuery {
    /// The first and the last period; the one that the clock is in, if absent.
    pub months: Option<(Month, Month)>,
    /// Only hours, or days, that begin at or after it; a month then sums those days.
    pub from: Option<Ms>,
    /// Only hours, or days, that begin before it.
    pub until: Option<Ms>,
    /// Length of time.
    pub window: Window,
    /// Whether services are told apart.
    pub by_service: bool,
    /// Whether products are told apart.
    pub by_product: bool,
    /// Whether classes are told apart.
    pub by_class: bool,
    /// Rollup dimensions that are told apart.
    pub dimensions: Vec<String>,
    /// Sums of an answer at most; `None`: all.
    pub limit: Option<usize>,
    /// Only sums behind it.
    pub after: Option<Box<UsageCursor>>,
}

/// One sum of an account's usage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageSum {
    /// Added up.
    pub quantity: Quantity,
    /// Of it, charged.
    pub billed: Quantity,
    /// Of what is charged, that which no price was found for.
    pub unpriced: Quantity,
    /// Price of what is charged, unrounded; `None` if it can't be expressed.
    pub amount: Option<Decimal>,
}

/// What a sum is of; empty where it isn't told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageOf {
    /// First instant of the window.
    pub from: Ms,
    /// `2026-09`, `2026-09-03`, or an instant.
    pub window: String,
    /// The interface.
    pub service: String,
    /// What is priced.
    pub product: String,
    /// What is counted.
    pub meter: String,
    /// success, disconnected, disconnected_estimated or unbilled.
    pub class: String,
    /// Values of the rollup dimensions that were asked for, in their order.
    pub dimensions: Vec<String>,
}

/// The last sum of an answer, behind which the next one goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UsageCursor {
    month: Month,
    of: UsageOf,
}

impl std::fmt::Display for UsageCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = &self.of;
        let parts = serde_json::json!([
            self.month.0,
            of.from,
            of.window,
            of.service,
            of.product,
            of.meter,
            of.class,
            of.dimensions
        ]);
        f.write_str(&URL_SAFE_NO_PAD.encode(parts.to_string()))
    }
}

/// Not a cursor of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the `next` of an answer; give it as it was, with the same parameters")]
pub struct NoCursor;

impl std::str::FromStr for UsageCursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        type Parts = (u32, Ms, String, String, String, String, String, Vec<String>);
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NoCursor)?;
        let parts: Parts = serde_json::from_slice(&bytes).map_err(|_| NoCursor)?;
        let (month, from, window, service, product, meter, class, dimensions) = parts;
        Ok(Self {
            month: Month(month),
            of: UsageOf {
                from,
                window,
                service,
                product,
                meter,
                class,
                dimensions,
            },
        })
    }
}

/// An account's usage as it stands.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Where the answer stands.
    pub standing: Standing,
    /// Zone and currency of the last period.
    pub profile: Profile,
    /// The periods it is about.
    pub periods: Vec<Period>,
    /// Quantities and amounts.
    pub sums: BTreeMap<UsageOf, UsageSum>,
    /// Calls by window, outcome and reason, of the windows that begin here; none by hour.
    pub calls: BTreeMap<(Ms, String, Outcome, Reason), i64>,
    /// Set if there are more sums.
    pub next: Option<UsageCursor>,
}

/// What divides the sums of a window.
type Group = (Sym, Sym, Sym, Option<Class>, SmallVec<[Sym; 2]>);

/// Prices that were looked up, by the card's version, service, product and meter.
type Prices = HashMap<(u64, Sym, Sym, Sym), Option<(Decimal, u64)>>;

/// The sums of one window.
#[derive(Default)]
struct Sums {
    groups: BTreeMap<Group, UsageSum>,
    calls: BTreeMap<(Outcome, Reason), i64>,
}

/// One period while it is summed.
struct Summing<'a> {
    taken: &'a Taken,
    query: &'a UsageQuery,
    profile: Profile,
    cards: CardsView<'a>,
    /// The dimensions asked for, where the period's policy names them.
    dimensions: Vec<Option<Sym>>,
}

impl Summing<'_> {
    fn add(&self, sums: &mut Sums, day_start: Ms, bucket: &Bucket, prices: &mut Prices) {
        let (words, query) = (&*self.taken.words, self.query);
        let card = self.cards.for_day(day_start).map_or(0, |c| c.version);
        let apart = |apart: bool, name: Sym| if apart { name } else { Sym::NONE };
        for line in &bucket.lines {
            let key = line.key;
            let shape = words.shape_of(key.dimensions);
            let dimension = |name: &Option<Sym>| name.map_or(Sym::NONE, |name| shape.dimension(name));
            let dimensions: SmallVec<[Sym; 2]> = self.dimensions.iter().map(dimension).collect();
            for &(meter, nano) in line.meters.iter().filter(|m| m.1 != 0) {
                let group = (
                    apart(query.by_service, key.service),
                    apart(query.by_product, key.product),
                    meter,
                    query.by_class.then_some(key.class),
                    dimensions.clone(),
                );
                let total = sums.groups.entry(group).or_insert_with(|| UsageSum {
                    amount: Some(Decimal::ZERO),
                    ..UsageSum::default()
                });
                total.quantity.0 = total.quantity.0.saturating_add(nano);
                if !key.class.is_billed() {
                    continue;
                }
                total.billed.0 = total.billed.0.saturating_add(nano);
                let price = prices
                    .entry((card, key.service, key.product, meter))
                    .or_insert_with(|| {
                        let (service, product) = (words.name(key.service), words.name(key.product));
                        let currency = self.profile.currency;
                        let price = self
                            .cards
                            .price(day_start, service, product, words.name(meter), currency);
                        price.map(|p| (p.amount, p.per))
                    });
                match *price {
                    None => total.unpriced.0 = total.unpriced.0.saturating_add(nano),
                    Some((amount, per)) => {
                        let more = amount_of(Quantity(nano), amount, per);
                        total.amount = total.amount.zip(more).and_then(|(a, b)| a.checked_add(b));
                    }
                }
            }
        }
        for &(what, calls) in &bucket.counts {
            *sums.calls.entry(what).or_default() += calls;
        }
    }

    /// Adds a window to the answer. Whether there is room for more.
    fn tell(
        &self,
        usage: &mut Usage,
        last: &mut Option<UsageCursor>,
        month: Month,
        window: (Ms, String),
        sums: Sums,
    ) -> bool {
        let words = &*self.taken.words;
        let (from, window) = window;
        let name = |sym| words.name(sym).to_owned();
        let nonzero = sums
            .groups
            .into_iter()
            .filter(|(_, s)| s.quantity.0 != 0 || s.billed.0 != 0);
        let mut rows: Vec<(UsageOf, UsageSum)> = nonzero
            .map(|((service, product, meter, class, dimensions), sum)| {
                let of = UsageOf {
                    from,
                    window: window.clone(),
                    service: name(service),
                    product: name(product),
                    meter: name(meter),
                    class: class.map_or_else(String::new, |c| c.as_str().to_owned()),
                    dimensions: dimensions.into_iter().map(name).collect(),
                };
                (of, sum)
            })
            .collect();
        rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        // A window that the last answer ended in has begun there, and its calls were told there.
        let cut = self
            .query
            .after
            .as_ref()
            .filter(|a| a.month == month && a.of.from == from);
        if let Some(after) = cut {
            rows.retain(|(of, _)| *of > after.of);
        }
        let room = self
            .query
            .limit
            .map_or(usize::MAX, |limit| limit - usage.sums.len().min(limit));
        if room == 0 && !rows.is_empty() {
            usage.next = last.take();
            return false;
        }
        if cut.is_none() {
            let calls = sums.calls.into_iter().filter(|(_, count)| *count != 0);
            for ((outcome, reason), count) in calls {
                *usage.calls.entry((from, window.clone(), outcome, reason)).or_default() += count;
            }
        }
        let more = rows.len() > room;
        for (of, sum) in rows.into_iter().take(room) {
            *last = Some(UsageCursor { month, of: of.clone() });
            usage.sums.insert(of, sum);
        }
        if more {
            usage.next = last.take();
        }
        !more
    }
}

impl UsageQuery {
    fn asks_for(&self, begins: Ms) -> bool {
        self.from.is_none_or(|f| begins >= f) && self.until.is_none_or(|u| begins < u)
    }

    /// The first and the last place of a period's buckets that can be asked for.
    fn places(&self, period: &Period, profile: Profile) -> (i32, i32) {
        let place = |at: Ms| match self.window {
            Window::Hour => i32::try_from(period::hour_start(at, profile.zone) / 60_000).unwrap_or(i32::MAX),
            Window::Day | Window::Month => period::day_of(at, profile.zone).0,
        };
        let within = |at: Ms| place(at.clamp(period.from, period.until));
        let reached = self
            .after
            .as_ref()
            .filter(|a| a.month == period.month && self.window != Window::Month);
        let first = [self.from, reached.map(|a| a.of.from)].into_iter().flatten().max();
        (first.map_or(i32::MIN, within), self.until.map_or(i32::MAX, within))
    }
}

/// Sums what is asked for. With `lines_max` not more than so many lines of buckets are looked at.
pub(super) fn sum(
    taken: &Taken,
    query: &UsageQuery,
    rows: &mut Rows<'_>,
    lines_max: Option<usize>,
) -> Result<Usage, Halt> {
    let words = &*taken.words;
    let in_range = |m: &Month| query.months.is_none_or(|(first, last)| (first..=last).contains(m));
    let months = taken.months.iter().filter(|m| in_range(m));
    let periods: Vec<Period> = months.filter_map(|&m| taken.period(m)).copied().collect();
    let profile = periods.last().map_or(taken.profile, |p| p.profile);
    let mut usage = Usage {
        standing: taken.standing,
        profile: words.profile(profile),
        periods,
        sums: BTreeMap::new(),
        calls: BTreeMap::new(),
        next: None,
    };
    let (mut last, mut lines) = (query.after.as_deref().cloned(), 0);
    let reached = query.after.as_ref().map(|a| a.month);
    for at in 0..usage.periods.len() {
        let period = usage.periods[at];
        let month = period.month;
        if reached.is_some_and(|reached| month < reached) {
            continue;
        }
        let profile = words.profile(period.profile);
        let named = words.rollup(period.rollup);
        let wanted = query.dimensions.iter();
        let summing = Summing {
            taken,
            query,
            profile,
            cards: words.cards().up_to(taken.cards_of(rows, &period)?),
            dimensions: wanted
                .map(|wanted| named.iter().copied().find(|&n| words.name(n) == wanted))
                .collect(),
        };
        let (mut whole, mut prices) = (Sums::default(), Prices::new());
        let goes_on = taken.each_bucket(rows, month, query.places(&period, profile), |place, bucket| {
            lines += 1 + bucket.lines.len();
            if lines_max.is_some_and(|max| lines > max) {
                return Err(Halt::Long);
            }
            // An hour is priced as its day is.
            let hour = Ms::from(place) * 60_000;
            let day = match query.window {
                Window::Hour => period::day_of(hour, profile.zone),
                Window::Day | Window::Month => Day(place),
            };
            let day_start = period::day_bounds(day, profile.zone).0;
            let (begins, window) = match query.window {
                Window::Hour => (hour, period::rfc3339(hour)),
                Window::Day | Window::Month => (day_start, day.to_string()),
            };
            if !query.asks_for(begins) {
                return Ok(true);
            }
            if query.window == Window::Month {
                summing.add(&mut whole, day_start, bucket, &mut prices);
                return Ok(true);
            }
            let mut one = Sums::default();
            summing.add(&mut one, day_start, bucket, &mut prices);
            Ok(summing.tell(&mut usage, &mut last, month, (begins, window), one))
        })?;
        let window = (period.from, month.to_string());
        if !goes_on || (query.window == Window::Month && !summing.tell(&mut usage, &mut last, month, window, whole)) {
            break;
        }
    }
    Ok(usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let cursor = UsageCursor {
            month: Month(24_321),
            of: UsageOf {
                from: 1_790_000_000_000,
                window: "2026-09-21".to_owned(),
                product: "m \"large\"\u{1f600}".to_owned(),
                meter: "output_tokens".to_owned(),
                dimensions: vec![String::new(), "a,b".to_owned()],
                ..UsageOf::default()
            },
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for bad in ["", "x", "W10", "????"] {
            assert_eq!(bad.parse::<UsageCursor>(), Err(NoCursor), "{bad}");
        }
    }
}
