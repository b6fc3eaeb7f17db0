//! What `canon.rs` makes the same goes on the same: from a world and from the one that stands for it the same worlds follow.

use std::collections::BTreeSet;

use crate::action::Action;
use crate::explore::fingerprint;
use crate::random::{Dice, scene};
use crate::scene::Scene;
use crate::world::World;

#[test]
fn alike_worlds_go_on_alike() {
    let mut compared = 0;
    for seed in 0..1_000 {
        let mut dice = Dice::new(seed);
        let scene = scene(&mut dice);
        let mut world = World::new(&scene);
        for _ in 0..100 {
            let mut alike = world.clone();
            alike.canonical(&scene);
            assert_eq!(
                followers(&scene, &world),
                followers(&scene, &alike),
                "seed {seed}: {world:?}"
            );
            compared += 1;
            let mut choices = Vec::new();
            world.enabled(&scene, &mut choices);
            if choices.is_empty() {
                break;
            }
            let action = choices[dice.below(choices.len())];
            world.apply(&scene, action).expect("no breach");
        }
    }
    println!("{compared} worlds compared with those that stand for them");
}

/// What follows, but for deposed leaders: one that nobody would believe may be forgotten, and another deposed.
fn followers(scene: &Scene, world: &World) -> BTreeSet<u64> {
    let mut choices = Vec::new();
    world.enabled(scene, &mut choices);
    choices.retain(|a| !matches!(a, Action::Isolate(_) | Action::Heal(_) | Action::Flush(_)));
    let next = |&action: &Action| {
        let mut next = world.clone();
        next.apply(scene, action).expect("no breach");
        next.canonical(scene);
        fingerprint(&next)
    };
    choices.iter().map(next).collect()
}
