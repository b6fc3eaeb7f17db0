//! Versioned prices (RULES §7): whole cards, each holding from its first day until a later one does.

use rust_decimal::Decimal;
use thiserror::Error;

use super::Ms;
use super::money::{Currency, NotACurrency};
use crate::wire::pb;

/// Decimal places that a price may have: with nine of a quantity and six of `per` a product stays within 28.
const PRICE_PLACES_MAX: u32 = 12;

/// The units a price can be for (contract, `Price.per`).
const PER: [u64; 3] = [1, 1_000, 1_000_000];

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
    /// (RULES §7); of two wildcards the one that names the product.
    fn precision(&self) -> (bool, bool, bool) {
        let (product, meter) = (!self.product.is_empty(), !self.meter.is_empty());
        (!self.service.is_empty(), product && meter, product)
    }

    fn place(&self) -> (&str, &str, &str, &str) {
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

/// Why a rate card can't hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadRateCard {
    /// No `effective_from`.
    #[error("effective_from is absent")]
    NoEffectiveFrom,
    /// Not an amount.
    #[error("prices[{index}].amount {amount:?} is not a decimal from 0 with at most {PRICE_PLACES_MAX} places")]
    Amount {
        /// Which price.
        index: usize,
        /// As sent.
        amount: String,
    },
    /// Not a unit.
    #[error("prices[{index}].per {per} is none of 1, 1000, 1000000")]
    Per {
        /// Which price.
        index: usize,
        /// As sent.
        per: u64,
    },
    /// Not a currency.
    #[error("prices[{index}].currency: {cause}")]
    Currency {
        /// Which price.
        index: usize,
        /// Why.
        cause: NotACurrency,
    },
    /// Not a meter.
    #[error("prices[{index}].meter {meter:?} is neither the contract's, nor requests, nor x.<vendor>.<name>")]
    Meter {
        /// Which price.
        index: usize,
        /// As sent.
        meter: String,
    },
    /// Two prices for one thing.
    #[error("prices[{index}] prices the same product, meter, service and currency as an earlier one")]
    Twice {
        /// Which price.
        index: usize,
    },
}

impl RateCard {
    /// Checks a card as it came.
    pub fn from_contract(card: &pb::RateCard, version: u64) -> Result<Self, BadRateCard> {
        let from = card.effective_from.as_ref().ok_or(BadRateCard::NoEffectiveFrom)?;
        let mut prices: Vec<Price> = Vec::with_capacity(card.prices.len());
        for (index, sent) in card.prices.iter().enumerate() {
            let price = price_from_contract(sent, index)?;
            if prices.iter().any(|p| p.place() == price.place()) {
                return Err(BadRateCard::Twice { index });
            }
            prices.push(price);
        }
        Ok(Self {
            version,
            effective_from_ms: crate::wire::check::instant_ms(from),
            prices,
        })
    }

    fn price(&self, service: &str, product: &str, meter: &str, currency: Currency) -> Option<&Price> {
        self.prices
            .iter()
            .filter(|p| p.fits(service, product, meter, currency))
            .max_by_key(|p| p.precision())
    }
}

fn price_from_contract(sent: &pb::Price, index: usize) -> Result<Price, BadRateCard> {
    let amount = Decimal::from_str_exact(&sent.amount)
        .ok()
        .map(|a| a.normalize())
        .filter(|a| !a.is_sign_negative() && a.scale() <= PRICE_PLACES_MAX)
        .ok_or_else(|| BadRateCard::Amount {
            index,
            amount: sent.amount.clone(),
        })?;
    let per = sent.per.max(1);
    if !PER.contains(&per) {
        return Err(BadRateCard::Per { index, per });
    }
    let meter = &sent.meter;
    if !meter.is_empty() && meter != super::limits::METER_REQUESTS && !crate::wire::check::is_known_meter(meter) {
        return Err(BadRateCard::Meter {
            index,
            meter: meter.clone(),
        });
    }
    Ok(Price {
        product: sent.product.clone(),
        meter: meter.clone(),
        service: sent.service.clone(),
        currency: Currency::parse(&sent.currency).map_err(|cause| BadRateCard::Currency { index, cause })?,
        amount,
        per,
    })
}

/// All accepted cards of a partition, in the order of their versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateCards {
    cards: Vec<RateCard>,
}

/// The cards accepted up to a control version: those by which one statement is rated, then and later.
#[derive(Clone, Copy, Debug)]
pub struct CardsView<'a> {
    cards: &'a [RateCard],
}

impl RateCards {
    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.cards.is_empty()
    }

    /// Adds the latest card.
    pub fn push(&mut self, card: RateCard) {
        self.cards.push(card);
    }

    /// All, by version.
    pub fn all(&self) -> &[RateCard] {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn card(version: u64, from_s: i64, prices: &[(&str, &str, &str, &str)]) -> Result<RateCard, BadRateCard> {
        RateCard::from_contract(
            &pb::RateCard {
                effective_from: Some(prost_types::Timestamp {
                    seconds: from_s,
                    nanos: 0,
                }),
                prices: prices
                    .iter()
                    .map(|(product, meter, service, amount)| pb::Price {
                        product: (*product).to_owned(),
                        meter: (*meter).to_owned(),
                        service: (*service).to_owned(),
                        currency: "USD".to_owned(),
                        amount: (*amount).to_owned(),
                        per: 1_000_000,
                    })
                    .collect(),
            },
            version,
        )
    }

    #[test]
    fn the_most_precise_price_of_the_days_card_holds() -> Result<(), BadRateCard> {
        let mut cards = RateCards::default();
        cards.push(card(
            3,
            100,
            &[
                ("", "", "", "1"),
                ("m", "", "", "2"),
                ("m", "output_tokens", "", "3"),
                ("", "", "batch", "4"),
            ],
        )?);
        cards.push(card(4, 200, &[("", "", "", "9")])?);
        cards.push(card(7, 200, &[("", "", "", "10")])?);
        let price = |version, at, service, product, meter| {
            cards
                .up_to(version)
                .price(at, service, product, meter, Currency::USD)
                .map(|p| p.amount.to_string())
        };
        assert_eq!(price(9, 99_999, "api", "m", "output_tokens"), None);
        assert_eq!(price(9, 100_000, "api", "m", "output_tokens").as_deref(), Some("3"));
        assert_eq!(price(9, 100_000, "api", "m", "bytes_in").as_deref(), Some("2"));
        assert_eq!(price(9, 100_000, "api", "n", "bytes_in").as_deref(), Some("1"));
        assert_eq!(price(9, 100_000, "batch", "m", "output_tokens").as_deref(), Some("4"));
        assert_eq!(price(9, 200_000, "api", "m", "output_tokens").as_deref(), Some("10"));
        assert_eq!(price(6, 200_000, "api", "m", "output_tokens").as_deref(), Some("9"));
        assert_eq!(price(2, 200_000, "api", "m", "output_tokens"), None);
        Ok(())
    }

    #[test]
    fn bad_cards_name_the_price() {
        assert!(matches!(
            card(1, 0, &[("m", "output_tokens", "", "-1")]),
            Err(BadRateCard::Amount { index: 0, .. })
        ));
        assert!(matches!(
            card(1, 0, &[("m", "", "", "1"), ("m", "", "", "2")]),
            Err(BadRateCard::Twice { index: 1 })
        ));
        assert!(matches!(
            card(1, 0, &[("m", "out", "", "1")]),
            Err(BadRateCard::Meter { .. })
        ));
    }
}
