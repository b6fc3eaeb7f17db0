//! The billing rules as tables that a finance person can read: `tests/scenarios/*.txt`, one promise a scenario.

use std::path::Path;

use crate::scenario::expect::Checker;
use crate::scenario::parse::{Scenario, Step, parse};

/// Fewer than this says that tables were lost.
const SCENARIOS_MIN: usize = 400;

fn run(scenario: &Scenario, failures: &mut Vec<String>) {
    let mut checker = match Checker::new(scenario) {
        Ok(checker) => checker,
        Err(what) => return failures.push(what),
    };
    for step in &scenario.steps {
        let result = match step {
            Step::Record(record) => checker.append(record),
            Step::Expect { line, words } => checker
                .expect(words)
                .map_err(|what| format!("line {line}: {}: {what}", words.join(" "))),
        };
        if let Err(what) = result {
            failures.push(format!("{} == {}\n    {what}", scenario.file, scenario.title));
        }
    }
}

#[test]
fn every_scenario_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("tests/scenarios")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    let (mut count, mut failures) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a table");
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match parse(&name, &text) {
            Ok(scenarios) => {
                count += scenarios.len();
                scenarios.iter().for_each(|s| run(s, &mut failures));
            }
            Err(what) => failures.push(what),
        }
    }
    assert!(count >= SCENARIOS_MIN, "{count} scenarios");
    assert!(
        failures.is_empty(),
        "{} of {count} scenarios fail:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
