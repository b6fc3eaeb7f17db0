//! The machine against the auditor, a second computation of the same rules that shares nothing with it.

use crate::comparing::compare;
use crate::folding::{audited, entries, folded};
use reckon::machine::clock::Source;
use reckon::model::period::Month;
use reckon::workload::Step;
use reckon::workload::arbitrary::Arbitrary;
use reckon::workload::synthetic::Synthetic;

fn check(name: &str, steps: &[Step]) -> Result<(), String> {
    let entries = entries(steps, 0, 1);
    let (machine, outputs) = folded(&entries, Source::Ticks);
    let findings = audited(&entries, Source::Ticks);
    match compare(&machine, &outputs, &findings) {
        None => Ok(()),
        Some(found) => Err(format!("{name}: {found}")),
    }
}

#[test]
fn realistic_traffic_is_billed_as_the_auditor_bills_it() {
    let made = Synthetic {
        seed: 11,
        month: Month(2026 * 12 + 8),
        calls: 2_500,
    }
    .make();
    if let Err(found) = check("synthetic", &made.steps) {
        panic!("{found}");
    }
}

#[test]
fn arbitrary_records_are_billed_as_the_auditor_bills_them() {
    let seeds = std::env::var("RECKON_AUDIT_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(150);
    let mut failures = Vec::new();
    for seed in 0..seeds {
        let arbitrary = Arbitrary {
            seed,
            events: 400,
            calls: [3, 12, 60][seed as usize % 3],
            accounts: 1 + seed % 4,
            leap_ms: [2_000, 3_600_000, 3 * 86_400_000][seed as usize / 3 % 3],
        };
        failures.extend(check(&format!("seed {seed}"), &arbitrary.make()).err());
    }
    assert!(
        failures.is_empty(),
        "{} of {seeds} seeds:\n{}",
        failures.len(),
        failures[..failures.len().min(12)].join("\n")
    );
}

#[test]
fn every_row_of_the_verdict_table_occurs_in_the_demo() {
    for (seed, calls) in [(1, 100), (2, 100), (3, 500), (7, 20_000)] {
        let made = Synthetic {
            seed,
            month: Month(2026 * 12 + 8),
            calls,
        }
        .make();
        let (machine, _) = folded(&entries(&made.steps, 0, 1), Source::Ticks);
        let verdicts = machine.calls.iter().filter_map(|(slot, _)| machine.verdict_of(slot));
        let rows: std::collections::BTreeSet<u8> = verdicts.map(|v| v.ruling.row).collect();
        assert!(
            rows.iter().copied().eq(1..=19),
            "seed {seed}, {calls} calls: rows {rows:?}"
        );
        assert!(machine.counters.rejects.is_empty(), "{:?}", machine.counters.rejects);
    }
}
