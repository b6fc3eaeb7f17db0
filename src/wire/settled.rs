//! A verdict as the calls output holds it, written straight into a chunk.
//!
//! Every call passes here, and a `pb::CallSettled` takes a dozen allocations to make. The bytes are the same: prost's, field by
//! field in order, defaults left out.

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::model::Ms;
use crate::model::id::CallKey;
use crate::model::outcome::{Outcome, Reason};
use crate::model::period::Month;
use crate::model::quantity::Quantity;

/// The fields of `CallSettled`, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Settled<'a> {
    /// Whose.
    pub account: &'a str,
    /// Which call.
    pub call: CallKey<'a>,
    /// From 1.
    pub revision: u32,
    /// What it came to.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// Whether it is charged.
    pub billed: bool,
    /// A billed quantity was won by an estimate.
    pub estimated: bool,
    /// In the account's zone.
    pub period: Month,
    /// Default `api`.
    pub service: &'a str,
    /// Default empty.
    pub product: &'a str,
    /// By meter name, sorted by it, zeros left out.
    pub quantities: &'a [(&'a str, Quantity)],
    /// The log's clock.
    pub settled_at: Ms,
    /// The instant that decided the period.
    pub decided_at: Ms,
}

fn text(field: u32, text: &[u8], out: &mut Vec<u8>) {
    if !text.is_empty() {
        encode_key(field, WireType::LengthDelimited, out);
        encode_varint(text.len() as u64, out);
        out.extend_from_slice(text);
    }
}

fn uint(field: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        encode_key(field, WireType::Varint, out);
        encode_varint(value, out);
    }
}

/// A field whose length is known only when it is written: `room` is what its length is likely to take.
fn nested(field: u32, room: usize, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    encode_key(field, WireType::LengthDelimited, out);
    let at = out.len();
    out.resize(at + room, 0);
    write(out);
    let len = (out.len() - at - room) as u64;
    let needed = encoded_len_varint(len);
    if needed != room {
        let body = at + room..out.len();
        let end = body.end;
        if needed > room {
            out.resize(end + needed - room, 0);
        }
        out.copy_within(body, at + needed);
        out.truncate(end + needed - room);
    }
    encode_varint(len, &mut &mut out[at..at + needed]);
}

fn instant(field: u32, at: Ms, out: &mut Vec<u8>) {
    nested(field, 1, out, |out| {
        uint(1, at.div_euclid(1_000) as u64, out);
        uint(2, at.rem_euclid(1_000) as u64 * 1_000_000, out);
    });
}

impl Settled<'_> {
    /// Appends it to a chunk, as one entry of `CallsSettled.calls`.
    pub fn write(&self, chunk: &mut Vec<u8>) {
        // Two bytes of length: from 128 bytes to 16 KiB.
        nested(1, 2, chunk, |out| {
            text(1, self.account.as_bytes(), out);
            self.call.with_text(|id| text(2, id.as_bytes(), out));
            uint(3, self.revision.into(), out);
            text(4, self.outcome.as_str().as_bytes(), out);
            text(5, self.reason.as_str().as_bytes(), out);
            uint(6, self.billed.into(), out);
            uint(7, self.estimated.into(), out);
            self.period.with_text(|period| text(8, period.as_bytes(), out));
            text(9, self.service.as_bytes(), out);
            text(10, self.product.as_bytes(), out);
            for (meter, quantity) in self.quantities {
                nested(11, 1, out, |out| {
                    text(1, meter.as_bytes(), out);
                    quantity.with_text(|quantity| text(2, quantity.as_bytes(), out));
                });
            }
            instant(12, self.settled_at, out);
            instant(13, self.decided_at, out);
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::wire::check::timestamp;
    use crate::wire::pb;

    fn written_by_prost(call: &Settled<'_>) -> Vec<u8> {
        let quantities = call.quantities.iter().map(|(meter, quantity)| pb::MeterQuantity {
            meter: (*meter).to_owned(),
            quantity: quantity.to_string(),
        });
        let call = pb::CallSettled {
            account_id: call.account.to_owned(),
            call_id: call.call.to_string(),
            revision: call.revision,
            outcome: call.outcome.as_str().to_owned(),
            reason: call.reason.as_str().to_owned(),
            billed: call.billed,
            estimated: call.estimated,
            period: call.period.to_string(),
            service: call.service.to_owned(),
            product: call.product.to_owned(),
            quantities: quantities.collect(),
            settled_at: Some(timestamp(call.settled_at)),
            decided_at: Some(timestamp(call.decided_at)),
        };
        pb::CallsSettled {
            calls: vec![call],
            sequence: 0,
        }
        .encode_to_vec()
    }

    proptest! {
        #[test]
        fn bytes_are_those_of_prost(
            account in ".{0,40}",
            id in prop_oneof![
                "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
                "[0-7][0-9A-HJKMNP-TV-Z]{25}",
                ".{0,40}",
            ],
            revision in any::<u32>(),
            (billed, estimated) in any::<(bool, bool)>(),
            reason in 0..Reason::ALL.len(),
            product in ".{0,9000}",
            quantities in proptest::collection::vec(("[a-z_]{1,140}", any::<i128>()), 0..6),
            (settled_at, decided_at) in (-62_135_596_800_000i64..253_402_300_799_000, prop_oneof![Just(0), any::<i32>().prop_map(Ms::from)]),
        ) {
            let quantities: Vec<(&str, Quantity)> = quantities.iter().map(|(m, q)| (m.as_str(), Quantity(*q / 7))).collect();
            let call = Settled {
                account: &account,
                call: CallKey::parse(&id),
                revision,
                outcome: Outcome::Disconnected,
                reason: Reason::ALL[reason],
                billed,
                estimated,
                period: Month(2026 * 12 + 8),
                service: "api",
                product: &product,
                quantities: &quantities,
                settled_at,
                decided_at,
            };
            let mut bytes = b"before".to_vec();
            call.write(&mut bytes);
            prop_assert_eq!(&bytes[6..], written_by_prost(&call));
        }
    }
}
