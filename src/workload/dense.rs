//! Traffic for measuring: three events a call, about 150 bytes each, made without allocating.
//!
//! A call starts, its edge says that it ended, and its upstream reports three quantities: for most calls after the edge's
//! word and so after it settled. Half a per cent of the events come twice.

use std::io::Write;

use super::seed::Seed;
use crate::model::Ms;

/// The first call starts here: 2026-09-01T00:00:00Z.
pub const START_MS: Ms = 1_788_220_800_000;

/// Log time from start to end of a call.
const CALL_MS: Ms = 1_000;
/// Log time from the end to usage that comes late.
const LATE_MS: Ms = 1_500;

const PRODUCTS: [&str; 8] = [
    "m-large", "m-medium", "m-small", "m-nano", "m-vision", "m-embed", "m-code", "m-audio",
];
const SERVICES: [&str; 4] = ["api", "api", "console", "batch"];

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Dense {
    /// Accounts that calls are spread over.
    pub accounts: u64,
    /// Log time between two calls' starts, in µs.
    pub gap_us: u64,
    /// Calls of a hundred whose usage comes after they settled.
    pub late_percent: u64,
    /// Events of ten thousand that come twice.
    pub twice_of_10_000: u64,
    /// Of ids and sizes.
    pub seed: u64,
    /// The first call starts here.
    pub start_ms: Ms,
}

impl Default for Dense {
    fn default() -> Self {
        Self {
            accounts: 100_000,
            gap_us: 50,
            late_percent: 63,
            twice_of_10_000: 50,
            seed: 1,
            start_ms: START_MS,
        }
    }
}

/// One event: its call, and which of the three it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Started,
    Usage,
    Ended,
}

impl Dense {
    fn draw(&self, call: u64) -> Seed {
        Seed::of(self.seed, call)
    }

    /// The call's account, by number.
    pub fn account(&self, call: u64) -> u64 {
        self.draw(call).below(self.accounts)
    }

    /// Service and product: an account uses one, and another one for every tenth call.
    fn labels(&self, call: u64) -> (&'static str, &'static str) {
        let mut draw = Seed::of(self.seed, self.account(call) | 1 << 63);
        let mut own = draw.next();
        if self.draw(call).next().is_multiple_of(10) {
            own = draw.next();
        }
        (SERVICES[(own & 3) as usize], PRODUCTS[(own >> 2 & 7) as usize])
    }

    /// Input, cached input and output tokens.
    pub fn quantities(&self, call: u64) -> [u64; 3] {
        let mut draw = self.draw(call);
        draw.next();
        [1 + draw.below(4_000), draw.below(8_000), 1 + draw.below(900)]
    }

    /// Log time of the call's start.
    pub fn start_ms(&self, call: u64) -> Ms {
        self.start_ms + Ms::try_from(call * self.gap_us / 1_000).unwrap_or(0)
    }

    fn is_late(&self, call: u64) -> bool {
        let mut draw = self.draw(call);
        draw.next();
        draw.next();
        draw.next();
        draw.next();
        draw.below(100) < self.late_percent
    }

    /// The events of calls `from..until` in the order of their arrival, each written into `bytes`. `take` gets its bytes and
    /// its append time.
    pub fn write(&self, from: u64, until: u64, mut take: impl FnMut(&[u8], Ms)) {
        let lag = |ms: Ms| (ms as u64 * 1_000).div_ceil(self.gap_us.max(1));
        let (ended, late) = (lag(CALL_MS), lag(CALL_MS + LATE_MS));
        let mut writer = EventWriter::default();
        let mut repeat = Seed::of(self.seed, u64::MAX);
        // At every step one call starts, an earlier one ends, and a still earlier one's late usage comes.
        for step in from..until + late {
            let mut emit = |call: u64, part: Part, lag_ms: Ms| {
                let at = self.start_ms(call) + lag_ms;
                let bytes = writer.event(self, call, part, at);
                take(bytes, at);
                if repeat.below(10_000) < self.twice_of_10_000 {
                    take(bytes, at);
                }
            };
            if step < until {
                emit(step, Part::Started, 0);
            }
            if let Some(call) = step.checked_sub(ended).filter(|c| (from..until).contains(c)) {
                if !self.is_late(call) {
                    emit(call, Part::Usage, CALL_MS);
                }
                emit(call, Part::Ended, CALL_MS);
            }
            if let Some(call) = step.checked_sub(late).filter(|c| (from..until).contains(c))
                && self.is_late(call)
            {
                emit(call, Part::Usage, CALL_MS + LATE_MS);
            }
        }
    }
}

/// The id of an account.
pub fn account_id(number: u64) -> String {
    format!("acct-{number:010}")
}

/// Writes protobuf into buffers that are used again.
#[derive(Default)]
struct EventWriter {
    bytes: Vec<u8>,
    inner: Vec<u8>,
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn text(out: &mut Vec<u8>, number: u8, value: &str) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    out.push(field << 3);
    varint(out, value);
}

impl EventWriter {
    fn message(&mut self, field: u8) {
        self.bytes.push(field << 3 | 2);
        varint(&mut self.bytes, self.inner.len() as u64);
        self.bytes.extend_from_slice(&self.inner);
        self.inner.clear();
    }

    fn event(&mut self, dense: &Dense, call: u64, part: Part, at: Ms) -> &[u8] {
        self.bytes.clear();
        let mut draw = Seed::of(dense.seed ^ 0x5bd1_e995, call);
        let (high, low) = (draw.next(), draw.next());
        let bytes = &mut self.bytes;
        bytes.extend_from_slice(&[1 << 3 | 2, 15]);
        // A Vec takes whatever is written to it.
        let _ = write!(bytes, "acct-{:010}", dense.account(call));
        bytes.extend_from_slice(&[2 << 3 | 2, 36]);
        uuid(bytes, dense.start_ms(call) as u64, high, low);
        let (phase, observer) = match part {
            Part::Started => (1, 1),
            Part::Usage => (6, 2),
            Part::Ended => (5, 1),
        };
        number(bytes, 3, phase);
        number(bytes, 4, observer);
        number(&mut self.inner, 1, at as u64 / 1_000);
        number(&mut self.inner, 2, at as u64 % 1_000 * 1_000_000);
        self.message(5);
        number(&mut self.bytes, 7, 1);
        let (service, product) = dense.labels(call);
        text(&mut self.bytes, 9, service);
        text(&mut self.bytes, 10, product);
        number(&mut self.bytes, 11, 2);
        match part {
            Part::Started => text(&mut self.bytes, 16, "idem-00000000-0000-4000-8000"),
            Part::Ended => {
                for (field, value) in [(1, 1), (2, 4), (3, 200), (4, 200), (5, 1)] {
                    number(&mut self.inner, field, value);
                }
                self.message(12);
            }
            Part::Usage => {
                let meters = ["input_tokens_uncached", "cache_read_tokens", "output_tokens"];
                for (meter, value) in meters.into_iter().zip(dense.quantities(call)) {
                    text(&mut self.inner, 1, meter);
                    number(&mut self.inner, 2, value);
                    number(&mut self.inner, 4, 4);
                    self.message(13);
                }
            }
        }
        if part != Part::Usage {
            text(&mut self.bytes, 14, "/envoy/eu1/pod-7");
            text(&mut self.bytes, 15, "boot-0192f3a4");
        }
        &self.bytes
    }
}

fn uuid(out: &mut Vec<u8>, time: u64, high: u64, low: u64) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let value = u128::from(time) << 80
        | 7 << 76
        | u128::from(high & 0xfff) << 64
        | 2 << 62
        | u128::from(low & 0x3fff_ffff_ffff_ffff);
    for i in 0..32 {
        if matches!(i, 8 | 12 | 16 | 20) {
            out.push(b'-');
        }
        out.push(HEX[(value >> (124 - 4 * i)) as usize & 15]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::CallKey;
    use crate::wire::protobuf::decode;

    #[test]
    fn every_call_has_its_three_events() {
        let dense = Dense {
            accounts: 10,
            gap_us: 100_000,
            ..Dense::default()
        };
        let (mut events, mut tokens, mut bytes_len, mut before) = (0u64, 0, 0, Ms::MIN);
        dense.write(5, 205, |bytes, at| {
            let Ok(event) = decode(bytes) else {
                panic!("not an event")
            };
            assert!(matches!(CallKey::parse(event.call), CallKey::Uuid(_)));
            assert!(event.occurred_at == at && at >= before);
            before = at;
            events += 1;
            bytes_len += bytes.len();
            tokens += event.usage.iter().map(|u| u.value as u64).sum::<u64>();
        });
        let expected: u64 = (5..205).map(|c| dense.quantities(c).iter().sum::<u64>()).sum();
        assert!(tokens >= expected && (600..630).contains(&events), "{events}");
        let mean = bytes_len as u64 / events;
        assert!((120..170).contains(&mean), "{mean} bytes an event");
    }
}
