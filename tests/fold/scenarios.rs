//! The billing rules as tables that a finance person can read: `tests/scenarios/*.txt`, one promise a scenario.

use crate::in_memory::Checker;
use crate::scenario::expect::run;
use crate::scenario::parse::{all, parse};

/// What the service's rows don't show, or the service refuses before it is in the log: (values=VALUE,VALUE on a frozen or noticed
/// line: only rows with these values of the rollup dimensions, in this order.)
const OF_THE_FOLD_ALONE: &str = "
== The values of a statement's usage stand in the order in which the policy names the dimensions
01 00:00:00  policy rollup=api_key
01 00:00:01  policy rollup=workspace,api_key
10 12:00:00  ended completed call=c1 dim.workspace=blue dim.api_key=k1 output_tokens=4000
10 12:00:01  ended completed call=c2 dim.api_key=k2 output_tokens=7
2026-10-02T00:00:00Z  tick
=> frozen 2026-09 success values=blue,k1 output_tokens=4000 requests=1
=> frozen 2026-09 success values=,k2 output_tokens=7 requests=1

== And so do those of a notice
01 00:00:00  policy rollup=api_key
01 00:00:01  policy rollup=workspace,api_key
10 12:00:00  ended completed call=c1 dim.workspace=blue dim.api_key=k1 output_tokens=4000
2026-10-02T00:00:00Z  tick
2026-10-02T00:00:01Z  provider usage_reported call=c1 at=2026-09-10T12:00:00Z output_tokens=4500@provider_invoiced
2026-10-02T01:00:00Z  tick
=> noticed 2026-09 values=blue,k1 output_tokens=500

== A card that can't take effect any more says so before what else is wrong with it
12:00:00  card from=2026-09-01T00:00:00Z price=//:1
12:00:01  card from=2026-08-01T00:00:00Z price=//:-1
=> rejected not_effective
";

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

#[test]
fn what_only_the_fold_shows_holds() {
    let mut failures = Vec::new();
    let scenarios = parse("of the fold alone", OF_THE_FOLD_ALONE).expect("scenarios");
    assert_eq!(scenarios.len(), 3);
    for scenario in &scenarios {
        run(scenario, &mut Checker::new(scenario).expect("a checker"), &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
