//! A gateway that gives every call a product of its own: a statement of more than any record holds.

use std::collections::BTreeMap;

use prost::Message;
use reckon::machine::clock::Source;
use reckon::machine::output::{Output, Topic};
use reckon::machine::paging::{Joining, PAGE_BYTES_MAX};
use reckon::model::period::{Month, Zone, bounds};
use reckon::wire::check::timestamp;
use reckon::wire::pb::{self, statement_record::Body};
use reckon::workload::{Step, What};
use rust_decimal::Decimal;

use crate::comparing::compare;
use crate::folding::{Entered, audited, entries, folded};

const MONTH: Month = Month(2026 * 12 + 8);
const HOUR_MS: i64 = 3_600_000;
const PRODUCTS: usize = 12_000;
/// Of so many of the products a call comes late.
const LATE: usize = 6_000;
/// What a call uses of each meter, and its price. Nothing prices `requests`.
const METERS: [(&str, i64, &str); 3] = [
    ("input_tokens_uncached", 3, "0.01"),
    ("output_tokens", 2, "0.02"),
    ("bytes_out", 7, "0.03"),
];
/// What a record may have on Kafka.
const RECORD_BYTES_MAX: usize = 16 << 20;

fn at(day: i64, hour: i64) -> i64 {
    bounds(MONTH, Zone::UTC).0 + (day * 24 + hour) * HOUR_MS
}

fn call(at_ms: i64, occurred: i64, call: String, product: usize) -> Step {
    let usage = METERS.iter().map(|&(meter, value, _)| pb::Quantity {
        meter: meter.to_owned(),
        value,
        ..pb::Quantity::default()
    });
    let event = pb::CallEvent {
        account_id: "acme".to_owned(),
        call_id: call,
        product: format!("{product:05}-{}", "p".repeat(110)),
        phase: pb::Phase::Ended.into(),
        occurred_at: Some(timestamp(occurred)),
        end: Some(pb::Termination {
            cause: pb::Cause::Completed.into(),
            ..pb::Termination::default()
        }),
        usage: usage.collect(),
        ..pb::CallEvent::default()
    };
    Step {
        at_ms,
        what: What::Event(Box::new(event)),
    }
}

/// September with a product a call, closed; then late calls of half of them; then October, closed.
fn history() -> Vec<Entered> {
    let tick = |at_ms| Step {
        at_ms,
        what: What::Tick,
    };
    let prices = METERS.iter().map(|(meter, _, amount)| pb::Price {
        meter: (*meter).to_owned(),
        currency: "USD".to_owned(),
        amount: (*amount).to_owned(),
        per: 1,
        ..pb::Price::default()
    });
    let card = pb::Control {
        id: "card".to_owned(),
        issued_at: Some(timestamp(at(0, 0))),
        control_version: 1,
        body: Some(pb::control::Body::RateCard(pb::RateCard {
            effective_from: Some(timestamp(at(0, 0))),
            prices: prices.collect(),
        })),
        ..pb::Control::default()
    };
    let mut steps = vec![
        tick(at(0, 0)),
        Step {
            at_ms: at(0, 0),
            what: What::Control(Box::new(card)),
        },
        tick(at(10, 0)),
    ];
    let calls = (0..PRODUCTS).map(|n| call(at(10, 0), at(n as i64 % 9, 12), format!("c-{n}"), n));
    steps.extend(calls);
    steps.push(tick(at(32, 10)));
    steps.extend((0..LATE).map(|n| call(at(32, 10), at(20, 0), format!("late-{n}"), n)));
    steps.push(tick(at(32, 11)));
    steps.push(tick(at(63, 12)));
    entries(&steps, 0, 1)
}

#[derive(Default)]
struct Stated {
    statements: BTreeMap<String, (u64, pb::PeriodClosed)>,
    notices: Vec<pb::AdjustmentNoticed>,
    controls: BTreeMap<String, pb::PeriodControl>,
    pages: BTreeMap<String, u64>,
}

fn stated(outputs: &[Output]) -> Stated {
    let (mut stated, mut joining) = (Stated::default(), Joining::default());
    let outputs = outputs.iter().filter(|o| o.topic == Topic::Statements);
    for (output, sequence) in outputs.zip(1..) {
        assert_eq!(output.sequence, sequence);
        assert!(output.body.len() <= PAGE_BYTES_MAX, "{} bytes", output.body.len());
        let record = pb::StatementRecord::decode(output.body.as_slice()).expect("a record");
        match record.body.expect("a body") {
            Body::PeriodClosed(page) => {
                *stated.pages.entry(page.period.clone()).or_default() += 1;
                if let Some((first, whole)) = joining.take(sequence, page) {
                    let before = stated.statements.insert(whole.period.clone(), (first, whole));
                    assert!(before.is_none(), "a statement comes once");
                }
            }
            Body::AdjustmentNoticed(notice) => stated.notices.push(notice),
            Body::PeriodControl(control) => {
                stated.controls.insert(control.period.clone(), control);
            }
        }
    }
    stated
}

fn sum(lines: &[pb::StatementLine]) -> Decimal {
    lines
        .iter()
        .map(|l| l.amount.parse::<Decimal>().expect("an amount"))
        .sum()
}

#[test]
fn a_statement_larger_than_a_record_comes_in_pages() {
    let entries = history();
    let (machine, outputs) = folded(&entries, Source::Ticks);
    // What was frozen, page by page, is what the auditor froze.
    let findings = audited(&entries, Source::Ticks);
    if let Some(found) = compare(&machine, &outputs, &findings) {
        panic!("{found}");
    }
    let stated = stated(&outputs);
    let (first, september) = &stated.statements["2026-09"];
    assert!(september.encoded_len() > RECORD_BYTES_MAX, "no record would hold it");
    assert_eq!((september.page, september.pages), (0, 0));
    assert_eq!(september.usage.len(), PRODUCTS * (METERS.len() + 1));
    assert_eq!(september.lines.len(), PRODUCTS * METERS.len());
    assert_eq!(september.unpriced.len(), PRODUCTS);
    assert_eq!(september.total, "3360");
    assert_eq!(sum(&september.lines), Decimal::from(3_360));
    let pages = stated.pages["2026-09"];
    assert!(pages > 30, "{pages} pages");
    let control = &stated.controls["2026-09"];
    assert_eq!(control.accounts, 1);
    assert_eq!(
        (control.first_sequence, control.last_sequence),
        (*first, first + pages - 1)
    );
    assert_eq!(control.amounts[0].amount, "3360");

    // What comes late is noticed, as far as a record holds it, and is in the next statement as a whole.
    let [notice] = stated.notices.as_slice() else {
        panic!("{} notices", stated.notices.len());
    };
    assert!(notice.usage_left_out > 0);
    let rows = notice.usage.len() + notice.usage_left_out as usize;
    assert_eq!(rows, LATE * (METERS.len() + 1));
    assert_eq!(notice.amount, "1680");
    let (_, october) = &stated.statements["2026-10"];
    assert!(stated.pages["2026-10"] > 1);
    assert_eq!(october.lines.len(), LATE * METERS.len());
    assert_eq!(
        (october.total.as_str(), sum(&october.lines)),
        ("1680", Decimal::from(1_680))
    );
    let names_it = |l: &pb::StatementLine| l.original_period == "2026-09" && l.notices == [notice.id.clone()];
    assert!(october.lines.iter().all(names_it));
    assert_eq!(stated.controls["2026-10"].accounts, 1);
}

/// Pages are one step's, so one commit's: none is there without the others, however the fold is cut off.
#[cfg(feature = "store")]
#[test]
fn pages_fold_alike_however_they_are_cut() {
    let entries = history();
    for seed in 0..2 {
        crate::partition::check(&entries, seed);
    }
}
