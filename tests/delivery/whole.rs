//! The protocol with nothing left out keeps its promises: in small scenes whatever happens, in large ones as far as was drawn.

use std::time::Instant;

use crate::explore::{Trace, explore};
use crate::fold::Version;
use crate::random::{Dice, End, Run, play, scene};
use crate::scene::{Faults, Scene};

/// No scene here needs as many.
const STATES_MAX: usize = 1_500_000;

fn holds(name: &str, scene: &Scene) {
    let began = Instant::now();
    let e = explore(scene, STATES_MAX);
    println!(
        "{name}: {} states, the farthest {} steps away, {} more of calm, {:.1} s",
        e.states,
        e.depth,
        e.calm_states,
        began.elapsed().as_secs_f32()
    );
    let trace = e.trace.map(|trace| trace.to_string());
    assert!(trace.is_none(), "{name}:\n{}", trace.unwrap_or_default());
    assert!(!e.cut_off, "{name} has more than {STATES_MAX} states");
}

#[test]
fn four_records_and_any_one_fault() {
    let mut scene = Scene::new(&[[1, 0], [0, 1], [1, 1], [1, 0]], &[Version::Old; 2]);
    scene.eager = false;
    scene.faults = Faults::usual(1);
    holds("four records, one fault", &scene);
}

#[test]
fn transactions_cut_anywhere_while_the_log_grows() {
    let mut scene = Scene::new(&[[1, 1], [2, 0]], &[Version::Old; 2]);
    scene.records = 1;
    scene.batch = 2;
    scene.whole = false;
    scene.eager = false;
    scene.faults = Faults::usual(1);
    scene.faults.crash = false;
    holds("transactions cut anywhere", &scene);
}

#[test]
fn one_owner_and_four_faults() {
    let mut scene = Scene::new(&[[1, 0], [0, 1], [1, 1]], &[Version::Old; 1]);
    scene.faults = Faults::usual(4);
    scene.faults.expire = false;
    scene.faults.hand_over = false;
    scene.batch = 3;
    holds("one owner, four faults", &scene);
}

#[test]
fn standbys_fold_too() {
    let mut scene = Scene::new(&[[1, 0], [1, 1]], &[Version::Old; 2]);
    scene.faults = Faults::usual(1);
    holds("standbys, one fault", &scene);
}

#[test]
fn crashes_and_rebalances() {
    let mut scene = Scene::new(&[[1, 0], [0, 1]], &[Version::Old; 2]);
    scene.eager = false;
    scene.batch = 2;
    scene.faults.budget = 2;
    scene.faults.crash = true;
    scene.faults.expire = true;
    scene.faults.hand_over = true;
    holds("crash and rebalance, two faults", &scene);
}

#[test]
fn unknown_commits_and_rebalances() {
    let mut scene = Scene::new(&[[1, 0], [1, 1]], &[Version::Old; 2]);
    scene.eager = false;
    scene.faults.budget = 2;
    scene.faults.fail = true;
    scene.faults.time_out = true;
    scene.faults.expire = true;
    scene.faults.hand_over = true;
    holds("failed calls, time-outs and rebalances, two faults", &scene);
}

#[test]
fn one_record_and_any_two_faults() {
    let mut scene = Scene::new(&[[1, 1]], &[Version::Old; 2]);
    scene.eager = false;
    scene.faults = Faults::usual(2);
    holds("one record, two faults", &scene);
}

#[test]
fn deposed_leaders_and_rebalances() {
    let mut scene = Scene::new(&[[1, 1]], &[Version::Old; 2]);
    scene.eager = false;
    scene.faults.budget = 3;
    scene.faults.isolate = 2;
    scene.faults.expire = true;
    holds("deposed leaders and rebalances, three faults", &scene);
}

#[test]
fn readings_without_an_answer() {
    let mut scene = Scene::new(&[[1, 0], [1, 1]], &[Version::Old; 2]);
    scene.eager = false;
    scene.faults.budget = 3;
    scene.faults.silence = true;
    scene.faults.expire = true;
    holds("silent brokers and rebalances, three faults", &scene);
    scene.faults.budget = 2;
    scene.faults.crash = true;
    scene.faults.fail = true;
    scene.faults.time_out = true;
    scene.eager = true;
    holds("silent brokers, crashes and failed calls, two faults", &scene);
}

#[test]
fn three_instances() {
    let mut scene = Scene::new(&[[1, 0], [0, 1]], &[Version::Old; 3]);
    scene.eager = false;
    scene.faults = Faults::usual(1);
    holds("three instances, one fault", &scene);
}

#[test]
fn copied_and_lost_stores() {
    let mut scene = Scene::new(&[[1, 0], [1, 1]], &[Version::Old; 2]);
    scene.eager = false;
    scene.faults.budget = 2;
    scene.faults.restore = true;
    scene.faults.fail = true;
    holds("copied and lost stores, two faults", &scene);
}

#[test]
fn another_fold() {
    let puts = [[1, 0], [0, 1], [1, 1]];
    let puts_new = [[1, 0], [1, 0], [1, 1]];
    let mut scene = Scene::changing(&puts, &puts_new, 1, &[Version::Old, Version::New]);
    scene.faults.budget = 1;
    scene.faults.expire = true;
    scene.faults.hand_over = true;
    scene.batch = 2;
    holds("another fold from the start, one fault", &scene);
    scene.delivered = true;
    scene.records = 2;
    scene.faults.budget = 2;
    scene.faults.fail = true;
    scene.eager = false;
    holds("another fold later, two faults", &scene);
}

#[test]
fn a_truncated_log() {
    let mut scene = Scene::new(&[[1, 0], [0, 1], [1, 1]], &[Version::Old; 2]);
    scene.records = 2;
    scene.eager = false;
    scene.next_sequence = false;
    scene.faults.budget = 2;
    scene.faults.truncate = true;
    scene.faults.fail = true;
    scene.faults.crash = true;
    holds("a truncated log, two faults", &scene);
    scene.faults.crash = false;
    scene.faults.fail = false;
    scene.faults.expire = true;
    scene.faults.hand_over = true;
    holds("a truncated log and rebalances, two faults", &scene);
}

#[test]
fn retention() {
    let mut scene = Scene::new(&[[1, 0], [1, 1]], &[Version::Old; 2]);
    scene.eager = false;
    scene.faults.budget = 2;
    scene.faults.retain = true;
    scene.faults.purge = true;
    scene.faults.fail = true;
    scene.faults.crash = true;
    scene.faults.restore = true;
    holds("retention, two faults", &scene);
}

/// `RECKON_MODEL_RUNS` sets how many; a seed that fails is named.
#[test]
fn random_runs() {
    let runs: u64 = std::env::var("RECKON_MODEL_RUNS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20_000);
    let began = Instant::now();
    let (mut steps, mut faults, mut delivered) = (0, 0, 0);
    for seed in 0..runs {
        let mut dice = Dice::new(seed);
        let scene = scene(&mut dice);
        let Run { actions, result } = play(&scene, &mut dice);
        steps += actions.len();
        faults += actions.iter().filter(|a| a.is_fault()).count();
        match result {
            Ok(end) => delivered += usize::from(end == End::Delivered),
            Err(breach) => panic!(
                "seed {seed}:\n{}{scene:?}",
                Trace {
                    actions,
                    breach,
                    calm: 0
                }
            ),
        }
    }
    println!(
        "random: {runs} runs, {steps} steps, {faults} faults; {delivered} delivered all, {} halted for a reason; {:.1} s",
        runs - delivered as u64,
        began.elapsed().as_secs_f32()
    );
}
