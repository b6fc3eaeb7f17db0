//! Any sequence of records: the fold never panics, and two folds of one sequence agree.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use reckon::machine::authority::Authority;
use reckon::machine::clock::Source;
use reckon::machine::fold::{Advance, Machine, Record};
use reckon::wire::check::timestamp;
use reckon::wire::key_pair::KeyPair;
use reckon::wire::pb::{self, control::Body};
use reckon::wire::record::{Forwarded, Headers, Kind, decode};
use reckon::wire::signature::Signer;

/// Reads numbers from the fuzzer's bytes; zeros when they are used up.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&first, rest)) => {
                self.0 = rest;
                first
            }
            None => 0,
        }
    }

    fn below(&mut self, n: u8) -> i32 {
        i32::from(self.byte() % n)
    }

    fn wide(&mut self) -> i64 {
        (0..8).fold(0, |value, _| value << 8 | i64::from(self.byte()))
    }
}

const START_MS: i64 = 1_788_220_800_000;
const ERRORS: [&str; 5] = ["", "overloaded_error", "refusal", "cancelled", "idempotent_replay"];
const METERS: [&str; 5] = ["output_tokens", "input_tokens_uncached", "bytes_out", "x.a.b", "requests"];

fn event(n: &mut Numbers<'_>, now: i64) -> Vec<u8> {
    let mut event = pb::CallEvent {
        account_id: format!("a{}", n.below(3)),
        call_id: format!("c{}", n.below(6)),
        phase: n.below(8),
        observer: n.below(5),
        attempt: n.below(4) as u32,
        seq: n.below(3) as u64,
        kind: n.below(7),
        product: ["", "m"][n.below(2) as usize].to_owned(),
        occurred_at: Some(timestamp(now - i64::from(n.byte()) * 60_000)),
        ..pb::CallEvent::default()
    };
    if n.byte() % 4 > 0 {
        event.end = Some(pb::Termination {
            cause: n.below(11),
            progress: n.below(6),
            client_status: [0, 200, 400, 429, 499, 503][n.below(6) as usize],
            upstream_status: [0, 200, 400, 499, 500, 529][n.below(6) as usize],
            end_marker: n.below(4),
            error_type: ERRORS[n.below(5) as usize].to_owned(),
        });
    }
    for _ in 0..n.byte() % 3 {
        event.usage.push(pb::Quantity {
            meter: METERS[n.below(5) as usize].to_owned(),
            value: if n.byte() % 8 == 0 { n.wide() } else { i64::from(n.byte()) },
            scale: n.below(11) as u32,
            provenance: n.below(7),
        });
    }
    event.encode_to_vec()
}

fn control(n: &mut Numbers<'_>, version: u64) -> Vec<u8> {
    let account_id = format!("a{}", n.below(3));
    let period = ["2026-08", "2026-09", "2026-10", "x"][n.below(4) as usize].to_owned();
    let everyone = n.byte() % 2 == 0;
    let holder = if everyone { String::new() } else { account_id.clone() };
    let body = match n.below(7) {
        0 => Body::AccountProfile(pb::AccountProfile {
            account_id,
            time_zone: ["", "Asia/Kolkata", "America/New_York", "Nowhere"][n.below(4) as usize].to_owned(),
            currency: ["", "JPY", "EUR", "???"][n.below(4) as usize].to_owned(),
        }),
        1 => Body::Policy(pb::Policy {
            settle_grace_ms: Some(n.byte().into()),
            call_deadline_ms: Some(n.wide() as u64 % 1_000_000_000),
            amend_window_ms: Some(n.wide() as u64 % 10_000_000_000),
            close_grace_ms: Some(n.wide() as u64 % 1_000_000_000),
            max_open_ms: Some(n.wide() as u64),
            bill_unproven: Some(everyone),
            ..pb::Policy::default()
        }),
        2 => Body::RateCard(pb::RateCard {
            effective_from: Some(timestamp(START_MS - 86_400_000 * i64::from(n.byte()))),
            prices: vec![pb::Price {
                product: "m".to_owned(),
                currency: "USD".to_owned(),
                amount: ["15", "0.000000000001", "99999999999999999999", "-1"][n.below(4) as usize].to_owned(),
                per: [0, 1, 1_000, 1_000_000, 7][n.below(5) as usize],
                ..pb::Price::default()
            }],
        }),
        3 => Body::HoldClose(pb::HoldClose { period, account_id: holder }),
        4 => Body::ReleaseClose(pb::ReleaseClose { period, account_id: holder }),
        5 => Body::OperatorKeys(pb::OperatorKeys {
            add: (0..n.below(3)).map(|_| signer(n).operator_key()).collect(),
            remove: (0..n.below(3)).map(|_| KEYS[n.below(4) as usize].to_owned()).collect(),
        }),
        _ => Body::Correction(pb::Correction {
            account_id,
            call_id: format!("c{}", n.below(6)),
            bill: Some(everyone),
            quantities: vec![pb::Quantity {
                meter: "output_tokens".to_owned(),
                value: n.wide(),
                ..pb::Quantity::default()
            }],
            reason: "fuzz".to_owned(),
        }),
    };
    pb::Control {
        id: format!("k{}", n.byte()),
        control_version: if n.byte() % 2 == 0 { version } else { 0 },
        body: Some(body),
        issued_at: (n.byte() % 4 > 0).then(|| timestamp(START_MS + n.wide() % 10_000_000_000)),
        ..pb::Control::default()
    }
    .encode_to_vec()
}

const KEYS: [&str; 4] = ["ops", "next", "a:b", ""];

fn signer(n: &mut Numbers<'_>) -> Signer {
    let at = n.below(4);
    Signer::new(KEYS[at as usize], KeyPair::from_secret(&[at as u8; 32]))
}

fn fold(data: &[u8]) -> u128 {
    let mut n = Numbers(data);
    let source = if n.byte() % 2 == 0 { Source::Ticks } else { Source::Append };
    let mut machine = Machine::new(0, 1 + n.below(3) as u32, source, START_MS);
    machine.outputs.calls_on = true;
    if n.byte() % 2 == 0 {
        machine.authority = Authority::of_genesis(&pb::Genesis {
            log_id: "log".to_owned(),
            keys: vec![signer(&mut n).operator_key()],
            ..pb::Genesis::default()
        });
    }
    let (mut now, mut scratch) = (START_MS, Vec::new());
    while !n.0.is_empty() {
        let (kind, bytes) = match n.below(8) {
            0 => {
                now = now.saturating_add((n.wide() & 0xffff_ffff) >> (n.byte() % 32));
                let tick = pb::Tick { at: Some(timestamp(now)) };
                (Kind::Tick, tick.encode_to_vec())
            }
            1 => (Kind::Control, control(&mut n, machine.ledger.version + 1)),
            _ => (Kind::Event, event(&mut n, now)),
        };
        let signature = match n.below(4) {
            0 => None,
            1 => Some("ops:AAAA".to_owned()),
            _ => Some(signer(&mut n).sign("log", &bytes)),
        };
        let headers = Headers {
            signature: signature.as_deref(),
            forwarded: (n.byte() % 4 == 0).then(|| Forwarded { partition: 1, offset: 0, append_ms: n.wide() }),
        };
        let record = Record {
            offset: machine.position.next_offset,
            append_ms: now,
            bytes: &bytes,
            input: decode(kind, &bytes, &mut scratch),
            headers,
        };
        while machine.advance(&record) != Advance::Done {}
        while machine.settle_down() != Advance::Done {}
    }
    machine.digest.value()
}

fuzz_target!(|data: &[u8]| {
    assert_eq!(fold(data), fold(data));
});
