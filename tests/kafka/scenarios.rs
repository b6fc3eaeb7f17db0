//! The tables of the billing rules on Kafka: records written by a gateway's and an operator's producers, folded by real `reckon
//! serve --kafka` processes, what holds read over HTTP and from the output topics. Those that script append times stay with the
//! log in memory (`tests/fold`).
//!
//! A scenario has a partition of its own, not a log of its own: clock, policies, rate cards and control versions are a
//! partition's. What is for everyone is written to that partition alone, and accounts get names that live there.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use reckon::machine::clock::Source;

use crate::fleet::{Fleet, ready};
use crate::scenario::expect::run;
use crate::scenario::parse::{Scenario, all};
use crate::shelf::{SharedLog, Shelf};
use crate::topics::Topics;

/// Fewer than this says that tables were lost.
const SCENARIOS_MIN: usize = 400;

/// Partitions, and so scenarios, of one log.
const IN_A_LOG: usize = 32;

/// Logs at a time.
const LOGS_AT_ONCE: usize = 2;

/// Scenarios at a time in one log: most of the time is waiting.
const AT_ONCE: usize = 6;

/// Runs scenarios in one log, each in its partition; what doesn't hold.
fn run_in_a_log(scenarios: &[Scenario]) -> Vec<String> {
    let count = scenarios.len() as u32;
    let began = Instant::now();
    let topics = Topics::create(&crate::broker::shared().bootstrap(), count, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    let served = fleet.start("one");
    ready(&served, Duration::from_secs(60));
    let log = SharedLog::new(&topics, &served);
    let made = began.elapsed();
    let waiting = Mutex::new((0..count).zip(scenarios));
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("the list").next();
                    let Some((partition, scenario)) = next else { return };
                    let mut found = Vec::new();
                    run(scenario, &mut Shelf::new(&log, partition), &mut found);
                    failures.lock().expect("the list").extend(found);
                }
            });
        }
    });
    println!(
        "{count} scenarios in {:?}, of these {made:?} until they were served",
        began.elapsed()
    );
    let failures = failures.into_inner().expect("the list");
    if !failures.is_empty() {
        eprintln!("{}", fleet.said("one"));
    }
    failures
}

#[test]
fn every_scenario_of_ticks_holds_on_kafka() {
    let (scenarios, failures) = all();
    let scripted = scenarios.iter().filter(|s| s.append_clock).count();
    let scenarios: Vec<Scenario> = scenarios.into_iter().filter(|s| !s.append_clock).collect();
    let count = scenarios.len();
    let began = Instant::now();
    let (waiting, failures) = (Mutex::new(scenarios.chunks(IN_A_LOG)), Mutex::new(failures));
    std::thread::scope(|scope| {
        for _ in 0..LOGS_AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("the list").next();
                    let Some(scenarios) = next else { return };
                    let found = run_in_a_log(scenarios);
                    failures.lock().expect("the list").extend(found);
                }
            });
        }
    });
    let failures = failures.into_inner().expect("the list");
    println!(
        "{count} scenarios on Kafka in {:?}; {scripted} script append times and stay on the log in memory",
        began.elapsed()
    );
    assert!(count >= SCENARIOS_MIN, "{count} scenarios");
    assert!(
        failures.is_empty(),
        "{} failures in {count} scenarios:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
