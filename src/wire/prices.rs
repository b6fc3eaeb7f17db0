//! Rate cards as an operator sends them: checked, and named where they can't hold.

use rust_decimal::Decimal;
use thiserror::Error;

use super::pb;
use crate::model::limits::METER_REQUESTS;
use crate::model::money::{Currency, NotACurrency};
use crate::model::rate_card::{Price, RateCard};

/// Decimal places that a price may have: with nine of a quantity and six of `per` a product stays within 28.
const PRICE_PLACES_MAX: u32 = 12;

/// The units a price can be for (contract, `Price.per`).
const PER: [u64; 3] = [1, 1_000, 1_000_000];

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

/// Checks a card as it came.
pub fn rate_card(card: &pb::RateCard, version: u64) -> Result<RateCard, BadRateCard> {
    let from = card.effective_from.as_ref().ok_or(BadRateCard::NoEffectiveFrom)?;
    let mut prices: Vec<Price> = Vec::with_capacity(card.prices.len());
    for (index, sent) in card.prices.iter().enumerate() {
        let price = price_from_contract(sent, index)?;
        if prices.iter().any(|p| p.place() == price.place()) {
            return Err(BadRateCard::Twice { index });
        }
        prices.push(price);
    }
    Ok(RateCard {
        version,
        effective_from_ms: super::check::instant_ms(from),
        prices,
    })
}

/// Digits, and digits after a point: a price that is written in another way isn't guessed at.
fn is_decimal(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match text.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(text),
    }
}

fn price_from_contract(sent: &pb::Price, index: usize) -> Result<Price, BadRateCard> {
    let amount = Some(sent.amount.as_str())
        .filter(|text| is_decimal(text))
        .and_then(|text| Decimal::from_str_exact(text).ok())
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
    if !meter.is_empty() && meter != METER_REQUESTS && !super::check::is_known_meter(meter) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rate_card::RateCards;

    fn card(version: u64, from_s: i64, prices: &[(&str, &str, &str, &str)]) -> Result<RateCard, BadRateCard> {
        rate_card(
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
        for amount in ["-1", "+1", ".5", "1.", "1_000", "1e3", " 1", ""] {
            let card = card(1, 0, &[("m", "output_tokens", "", amount)]);
            assert!(matches!(card, Err(BadRateCard::Amount { index: 0, .. })), "{amount:?}");
        }
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
