//! Each piece of the protocol is there for a reason: without it a promise is broken, and the shortest way to that is printed.
//!
//! Every scene is first played with the whole protocol, which holds in it. What counts as a breach is what readers or the operator
//! notice; that a row was pruned too early is looked at once by itself.

use crate::explore::explore;
use crate::fold::{Puts, Version};
use crate::instance::Halt;
use crate::promise::Breach;
use crate::random::{Dice, play, scene};
use crate::scene::{Flaw, Scene};

const STATES_MAX: usize = 500_000;

fn breach_of(flaw: Flaw, mut scene: Scene) -> Breach {
    let whole = explore(&scene, STATES_MAX);
    assert!(!whole.cut_off, "more than {STATES_MAX} states");
    let trace = whole.trace.map(|trace| trace.to_string());
    assert!(
        trace.is_none(),
        "with the whole protocol:\n{}",
        trace.unwrap_or_default()
    );
    scene.flaw = Some(flaw);
    let explored = explore(&scene, STATES_MAX);
    let trace = explored.trace.expect("the flaw is caught");
    let states = (explored.states, whole.states);
    println!(
        "{flaw:?}: caught after {} states; without it {} and no breach\n{trace}",
        states.0, states.1
    );
    trace.breach
}

/// Two instances of one version.
fn pair(puts: &[Puts]) -> Scene {
    let mut scene = Scene::new(puts, &[Version::Old; 2]);
    scene.lenient = true;
    scene.eager = false;
    scene
}

/// All is delivered but the last record's outputs; then an instance with another fold comes.
fn update(puts: &[Puts], puts_new: &[Puts], changed_at: u8) -> Scene {
    let mut scene = Scene::changing(puts, puts_new, changed_at, &[Version::Old, Version::New]);
    scene.lenient = true;
    scene.eager = false;
    scene.records = puts.len() as u8 - 1;
    scene.delivered = true;
    scene.faults.expire = true;
    scene
}

#[test]
fn a_producer_of_ones_own_fences_nobody() {
    let mut scene = pair(&[[1, 0]]);
    scene.faults.budget = 1;
    scene.faults.expire = true;
    let breach = breach_of(Flaw::OwnProducer, scene);
    assert!(matches!(breach, Breach::Double { .. }));
}

#[test]
fn a_shared_epoch_fences_nobody() {
    let mut scene = pair(&[[1, 0]]);
    scene.faults.budget = 1;
    scene.faults.expire = true;
    let breach = breach_of(Flaw::NoFence, scene);
    assert!(matches!(breach, Breach::Double { .. }));
}

#[test]
fn without_a_barrier_a_deposed_leader_tells_an_old_tail() {
    let mut scene = pair(&[[1, 0]]);
    scene.faults.budget = 2;
    scene.faults.expire = true;
    scene.faults.isolate = 1;
    let breach = breach_of(Flaw::NoBarrier, scene);
    assert!(matches!(breach, Breach::Double { .. }));
}

#[test]
fn an_aborted_output_is_no_tail() {
    let mut scene = pair(&[[1, 0], [1, 0]]);
    scene.faults.budget = 1;
    scene.faults.fail = true;
    let breach = breach_of(Flaw::ReadUncommitted, scene);
    assert!(matches!(breach, Breach::Gap { .. }));
}

#[test]
fn column_families_flushed_apart() {
    let mut scene = pair(&[[1, 0], [1, 0]]);
    scene.faults.budget = 1;
    scene.faults.crash = true;
    let breach = breach_of(Flaw::FlushApart, scene);
    let why = Halt::Gap;
    assert_eq!(breach, Breach::HaltedWithoutCause { instance: 0, why });
}

#[test]
fn compared_after_it_is_written() {
    let puts = [[1, 0], [0, 1], [1, 0]];
    let mut scene = update(&puts, &puts, 1);
    scene.faults.budget = 2;
    scene.faults.crash = true;
    let breach = breach_of(Flaw::CompareAfter, scene);
    assert_eq!(breach, Breach::Content);
}

#[test]
fn one_tail_reached_of_two() {
    let mut scene = update(&[[1, 0], [0, 1], [0, 1], [1, 0]], &[[1, 0], [1, 0], [0, 1], [1, 0]], 1);
    scene.faults.budget = 1;
    let breach = breach_of(Flaw::AnyTail, scene);
    assert_eq!(breach, Breach::Content);
}

#[test]
fn outputs_suppressed_by_the_groups_offset() {
    let mut scene = pair(&[[1, 0], [1, 0]]);
    scene.faults.budget = 1;
    scene.faults.crash = true;
    let breach = breach_of(Flaw::GroupOffset, scene);
    assert!(matches!(breach, Breach::Gap { .. }));
}

#[test]
fn revoked_for_good_when_fenced() {
    let mut scene = pair(&[[1, 0]]);
    scene.faults.budget = 1;
    scene.faults.time_out = true;
    let breach = breach_of(Flaw::RevokeWhenFenced, scene);
    assert_eq!(breach, Breach::NeverArrives);
}

#[test]
fn pruned_before_it_is_committed() {
    let mut scene = pair(&[[1, 0], [1, 0]]);
    scene.faults.budget = 1;
    scene.faults.fail = true;
    let breach = breach_of(Flaw::PruneProduced, scene.clone());
    let why = Halt::Gap;
    assert_eq!(breach, Breach::HaltedWithoutCause { instance: 0, why });
    scene.lenient = false;
    let breach = breach_of(Flaw::PruneProduced, scene);
    assert!(matches!(breach, Breach::Pruned { .. }));
}

/// The end of the log needs what the tails have: to be read past something one has written oneself.
#[test]
fn the_logs_end_as_a_deposed_leader_tells_it() {
    let mut scene = pair(&[[1, 0], [1, 0]]);
    scene.records = 1;
    scene.faults.budget = 2;
    scene.faults.expire = true;
    scene.faults.isolate_input = true;
    let breach = breach_of(Flaw::InputEnd, scene);
    let why = Halt::TailAhead;
    assert_eq!(breach, Breach::HaltedWithoutCause { instance: 1, why });
}

#[test]
fn a_truncated_log_that_grew_again() {
    let mut scene = pair(&[[1, 0], [0, 1], [1, 0]]);
    scene.records = 2;
    scene.next_sequence = false;
    scene.faults.budget = 1;
    scene.faults.truncate = true;
    let breach = breach_of(Flaw::NoEpochCheck, scene);
    assert_eq!(breach, Breach::Content);
}

#[test]
fn a_log_that_lost_its_beginning() {
    let mut scene = pair(&[[1, 0], [1, 0]]);
    scene.faults.budget = 1;
    scene.faults.retain = true;
    let breach = breach_of(Flaw::HistoryIgnored, scene);
    assert_eq!(breach, Breach::Content);
}

#[test]
fn no_answer_counts_as_nothing_delivered() {
    let mut scene = pair(&[[1, 0]]);
    scene.faults.budget = 2;
    scene.faults.expire = true;
    scene.faults.silence = true;
    let breach = breach_of(Flaw::SilentTail, scene);
    assert!(matches!(breach, Breach::Double { .. }));
}

#[test]
fn no_answer_counts_as_nothing_to_compare() {
    let puts = [[1, 0], [0, 1], [1, 0]];
    let mut scene = update(&puts, &puts, 1);
    scene.faults.budget = 2;
    scene.faults.silence = true;
    let breach = breach_of(Flaw::SilentCompare, scene);
    assert_eq!(breach, Breach::Content);
}

#[test]
fn an_output_topic_that_lost_its_records() {
    let mut scene = pair(&[[1, 0]]);
    scene.faults.budget = 2;
    scene.faults.purge = true;
    scene.faults.expire = true;
    let breach = breach_of(Flaw::EmptyTail, scene);
    assert!(matches!(breach, Breach::Double { .. }));
}

/// Random runs meet flaws too, those that take a rare coincidence seldom.
#[test]
fn random_runs_meet_flaws() {
    let flaws = [
        Flaw::OwnProducer,
        Flaw::NoFence,
        Flaw::NoBarrier,
        Flaw::ReadUncommitted,
        Flaw::FlushApart,
        Flaw::AnyTail,
        Flaw::GroupOffset,
        Flaw::RevokeWhenFenced,
        Flaw::PruneProduced,
        Flaw::NoEpochCheck,
        Flaw::HistoryIgnored,
        Flaw::EmptyTail,
        Flaw::SilentTail,
    ];
    const RUNS: u64 = 1_000;
    for flaw in flaws {
        let caught = (0..RUNS).filter(|&seed| {
            let mut dice = Dice::new(seed);
            let mut scene = scene(&mut dice);
            scene.flaw = Some(flaw);
            scene.lenient = true;
            play(&scene, &mut dice).result.is_err()
        });
        let caught = caught.count();
        println!("{flaw:?}: in {caught} of {RUNS} random runs");
        assert!(caught > 0, "{flaw:?}");
    }
}
