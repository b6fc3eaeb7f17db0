//! Versioned prices (RULES §7): whole cards, each holding from its first day until a later one does.

use std::sync::Arc;

use rust_decimal::Decimal;

use super::Ms;
use super::money::Currency;

/// What one unit of a meter costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// Empty = any.
    pub product: String,
    /// Empty = any.
    pub meter: String,
    /// Empty = any; then a line spans services.
    pub service: String,
    /// Of the amount.
    pub currency: Currency,
    /// In major units, for `per` units of the meter.
    pub amount: Decimal,
    /// 1, 1,000 or 1,000,000.
    pub per: u64,
}

impl Price {
    fn fits(&self, service: &str, product: &str, meter: &str, currency: Currency) -> bool {
        let any_or = |own: &str, wanted: &str| own.is_empty() || own == wanted;
        self.currency == currency
            && any_or(&self.service, service)
            && any_or(&self.product, product)
            && any_or(&self.meter, meter)
    }

    /// Greater beats: one that names a service beats one that doesn't, one that names product and meter beats a wildcard
    /// (RULES §7); of two wildcards the one that names the product, then the one that names the meter. No two prices of a card
    /// that fit the same usage are equal in it, so that their order in the card decides nothing.
    fn precision(&self) -> (bool, bool, bool, bool) {
        let (product, meter) = (!self.product.is_empty(), !self.meter.is_empty());
        (!self.service.is_empty(), product && meter, product, meter)
    }

    /// What two prices of a card can't share.
    pub fn place(&self) -> (&str, &str, &str, &str) {
        (&self.product, &self.meter, &self.service, self.currency.code())
    }
}

/// All prices from one day on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateCard {
    /// The control record's version: of two cards from one instant the higher holds.
    pub version: u64,
    /// First instant; a day is priced by the card that holds at its start.
    pub effective_from_ms: Ms,
    /// The prices.
    pub prices: Vec<Price>,
}

impl RateCard {
    fn price(&self, service: &str, product: &str, meter: &str, currency: Currency) -> Option<&Price> {
        self.prices
            .iter()
            .filter(|p| p.fits(service, product, meter, currency))
            .max_by_key(|p| p.precision())
    }
}

/// All accepted cards of a partition, in the order of their versions. A copy shares the cards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateCards {
    cards: Vec<Arc<RateCard>>,
}

/// The cards accepted up to a control version: those by which one statement is rated, then and later.
#[derive(Clone, Copy, Debug)]
pub struct CardsView<'a> {
    cards: &'a [Arc<RateCard>],
}

impl RateCards {
    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.cards.is_empty()
    }

    /// Adds the latest card.
    pub fn push(&mut self, card: RateCard) {
        self.cards.push(Arc::new(card));
    }

    /// All, by version.
    pub fn all(&self) -> &[Arc<RateCard>] {
        &self.cards
    }

    /// Those accepted up to a control version.
    pub fn up_to(&self, control_version: u64) -> CardsView<'_> {
        let until = self.cards.partition_point(|c| c.version <= control_version);
        CardsView {
            cards: &self.cards[..until],
        }
    }
}

impl<'a> CardsView<'a> {
    /// The card that holds for a day: the greatest `effective_from` not after its start, at equal ones the higher version.
    pub fn for_day(&self, day_start_ms: Ms) -> Option<&'a RateCard> {
        self.cards
            .iter()
            .filter(|c| c.effective_from_ms <= day_start_ms)
            .max_by_key(|c| (c.effective_from_ms, c.version))
            .map(AsRef::as_ref)
    }

    /// The price of one day's usage.
    pub fn price(
        &self,
        day_start_ms: Ms,
        service: &str,
        product: &str,
        meter: &str,
        currency: Currency,
    ) -> Option<&'a Price> {
        self.for_day(day_start_ms)?.price(service, product, meter, currency)
    }
}
