//! The billing rules as tables that a finance person can read: `tests/scenarios/*.txt`, one promise a scenario.

use crate::in_memory::Checker;
use crate::scenario::expect::run;
use crate::scenario::parse::all;

/// Fewer than this says that tables were lost.
const SCENARIOS_MIN: usize = 400;

#[test]
fn every_scenario_holds() {
    let (scenarios, mut failures) = all();
    for scenario in &scenarios {
        match Checker::new(scenario) {
            Ok(mut checker) => run(scenario, &mut checker, &mut failures),
            Err(what) => failures.push(what),
        }
    }
    let count = scenarios.len();
    assert!(count >= SCENARIOS_MIN, "{count} scenarios");
    assert!(
        failures.is_empty(),
        "{} of {count} scenarios fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
