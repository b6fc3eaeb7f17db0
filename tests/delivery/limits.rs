//! What the whole protocol doesn't promise, shown as breaches of what one might expect; and what it could do without.

use crate::explore::explore;
use crate::fold::Version;
use crate::instance::Halt;
use crate::promise::Breach;
use crate::scene::{Flaw, Scene};

const STATES_MAX: usize = 500_000;

fn breach_of(name: &str, scene: &Scene) -> Breach {
    let explored = explore(scene, STATES_MAX);
    let trace = explored.trace.expect("a known limit");
    println!("{name}: after {} states\n{trace}", explored.states);
    trace.breach
}

/// Barriers are records too. Where retention removes those of a topic that never had an output, the empty topic looks like one
/// that lost its outputs, and the partition halts. Output topics have to be kept for good.
#[test]
fn a_topic_without_outputs_that_loses_its_barriers() {
    let mut scene = Scene::new(&[[1, 0]], &[Version::Old]);
    scene.faults.budget = 2;
    scene.faults.purge_quiet = true;
    scene.faults.fail = true;
    let breach = breach_of("a topic without outputs", &scene);
    let why = Halt::Dropped;
    assert_eq!(breach, Breach::HaltedWithoutCause { instance: 0, why });
}

/// An owner produces and is fenced before it commits; the next owner has another fold, and nothing delivered speaks against it.
/// Whoever took the aborted output has something that nobody else will ever see.
#[test]
fn the_next_sequence_of_another_fold() {
    let puts = [[1, 0], [1, 0], [1, 0]];
    let mut scene = Scene::changing(&puts, &puts, 2, &[Version::Old, Version::New]);
    scene.records = 2;
    scene.delivered = true;
    scene.eager = false;
    scene.next_sequence = true;
    scene.faults.budget = 1;
    scene.faults.expire = true;
    let breach = breach_of("the next sequence of another fold", &scene);
    assert!(matches!(breach, Breach::NextSequence { .. }));
}

/// The same with a record that a truncation took back.
#[test]
fn the_next_sequence_of_a_lost_record() {
    let mut scene = Scene::new(&[[1, 1], [1, 1], [1, 1]], &[Version::Old; 2]);
    scene.records = 2;
    scene.eager = false;
    scene.faults.budget = 1;
    scene.faults.truncate = true;
    let breach = breach_of("the next sequence of a lost record", &scene);
    assert!(matches!(breach, Breach::NextSequence { .. }));
}

/// Outputs above one topic's tail are written while another topic's tail is still ahead, and only there it shows that the fold
/// is another one. So the right program over a store that halted by a mismatch isn't enough: the store is folded anew.
#[test]
fn a_store_written_by_another_fold_before_it_showed() {
    let puts = [[1, 0], [0, 1], [0, 1], [1, 0]];
    let puts_new = [[1, 0], [1, 0], [0, 1], [1, 0]];
    let mut scene = Scene::changing(&puts, &puts_new, 1, &[Version::Old, Version::New]);
    scene.records = 3;
    scene.delivered = true;
    scene.eager = false;
    scene.faults.budget = 1;
    scene.faults.expire = true;
    scene.keep = true;
    let breach = breach_of("a store kept after a mismatch", &scene);
    let why = Halt::Mismatch;
    assert_eq!(breach, Breach::HaltedWithoutCause { instance: 1, why });
    scene.keep = false;
    let explored = explore(&scene, STATES_MAX);
    assert!(explored.trace.is_none() && !explored.cut_off, "folded anew, it holds");
}

/// The hash is chained: comparing the last delivered output of each topic finds any difference before it, one batch too late to
/// spare the store, never too late for a reader.
#[test]
fn comparing_the_last_output_spares_readers_not_the_store() {
    let puts = [[1, 0], [1, 0], [1, 0], [1, 0]];
    let mut scene = Scene::changing(&puts, &puts, 1, &[Version::Old, Version::New]);
    scene.records = 3;
    scene.delivered = true;
    scene.eager = false;
    scene.faults.budget = 2;
    scene.faults.expire = true;
    scene.faults.crash = true;
    scene.flaw = Some(Flaw::CompareLast);
    let explored = explore(&scene, STATES_MAX);
    println!(
        "only the last output compared, stores folded anew: {} states",
        explored.states
    );
    assert!(explored.trace.is_none() && !explored.cut_off);
    scene.keep = true;
    let breach = breach_of("only the last output compared, the store kept", &scene);
    assert!(matches!(breach, Breach::HaltedWithoutCause { .. }));
    scene.flaw = None;
    let explored = explore(&scene, STATES_MAX);
    assert!(
        explored.trace.is_none() && !explored.cut_off,
        "each compared, and here even the store is spared"
    );
}

/// Fencing is what makes it safe. Asking keeps an instance that isn't the owner any more from fencing the one that is.
#[test]
fn asking_the_group_is_for_peace_not_for_safety() {
    let mut scene = Scene::new(&[[1, 0], [0, 1]], &[Version::Old; 2]);
    scene.eager = false;
    scene.faults.budget = 2;
    scene.faults.expire = true;
    scene.flaw = Some(Flaw::NoAsk);
    let explored = explore(&scene, STATES_MAX);
    println!("without asking: {} states", explored.states);
    assert!(explored.trace.is_none() && !explored.cut_off);
}
