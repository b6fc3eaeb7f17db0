//! Long runs, drawn by seed: three instances, more records, faults and pauses as they come.

use crate::action::Action;
use crate::fold::{Puts, Version};
use crate::group::INSTANCES;
use crate::promise::Breach;
use crate::scene::{Faults, Scene};
use crate::world::World;

/// SplitMix64.
pub struct Dice(u64);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// From 0, below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Run {
    pub actions: Vec<Action>,
    pub result: Result<End, Breach>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Delivered,
    Halted,
}

/// A scene by seed: which faults there are, and how fast the log grows.
pub fn scene(dice: &mut Dice) -> Scene {
    const OUTPUTS: [Puts; 5] = [[1, 0], [0, 1], [1, 1], [0, 0], [2, 0]];
    let mut puts: Vec<Puts> = (0..8).map(|_| OUTPUTS[dice.below(OUTPUTS.len())]).collect();
    puts[dice.below(8)] = [1, 1];
    let kind = dice.below(8);
    let mut scene = match kind {
        // Another version comes, perhaps while nothing yet speaks against it.
        0 | 1 => {
            let puts_new: Vec<Puts> = puts.iter().rev().copied().collect();
            let versions = [Version::Old, Version::Old, Version::New];
            let at = dice.below(6) as u8;
            let mut scene = Scene::changing(&puts, &puts_new, at, &versions);
            scene.delivered = dice.one_in(2);
            scene
        }
        _ => Scene::new(&puts, &[Version::Old; INSTANCES]),
    };
    scene.faults = Faults::usual(dice.below(12) as u8 + 1);
    scene.faults.restore = dice.one_in(2);
    match kind {
        2 => {
            scene.faults.truncate = true;
            scene.next_sequence = false;
        }
        3 => scene.faults.retain = true,
        4 => scene.faults.purge = true,
        5 => scene.faults.isolate_input = true,
        _ => {}
    }
    scene.faults.silence = dice.one_in(2);
    scene.records = dice.below(7) as u8;
    scene.eager = !dice.one_in(3);
    scene.batch = dice.below(3) as u8 + 1;
    scene.whole = dice.one_in(3);
    scene
}

/// Steps until the calm, and of the calm.
const STEPS_MAX: usize = 600;
const SELDOM: usize = 10;
const CALM_STEPS_MAX: usize = 5_000;

/// Plays one scene to its end.
pub fn play(scene: &Scene, dice: &mut Dice) -> Run {
    let mut world = World::new(scene);
    let mut actions = Vec::new();
    let steps = STEPS_MAX / 3 + dice.below(STEPS_MAX * 2 / 3);
    let fault_rate = 4 + dice.below(40);
    let pause_rate = 5 + dice.below(60);
    // Until which step an instance is stopped: it does nothing, and nobody tells it anything.
    let mut stopped = [0; INSTANCES];
    let mut choices = Vec::new();
    let mut faults = Vec::new();
    for number in 0..steps {
        choices.clear();
        world.enabled(scene, &mut choices);
        if dice.one_in(pause_rate) {
            let paused = dice.below(INSTANCES);
            stopped[paused] = number + dice.below(80);
            // Often long enough that its session runs out.
            let expires = |a: &Action| matches!(a, Action::Expire { instance, .. } if usize::from(*instance) == paused);
            if let Some(&expiry) = choices.iter().find(|a| expires(a)).filter(|_| dice.one_in(2)) {
                actions.push(expiry);
                if let Err(breach) = world.apply(scene, expiry) {
                    return Run {
                        actions,
                        result: Err(breach),
                    };
                }
                continue;
            }
        }
        faults.clear();
        faults.extend(choices.iter().copied().filter(|a| a.is_fault()));
        choices.retain(|a| !a.is_fault() && a.instance().is_none_or(|i| stopped[usize::from(i)] <= number));
        let from = if !faults.is_empty() && (choices.is_empty() || dice.one_in(fault_rate)) {
            &faults
        } else {
            &choices
        };
        if from.is_empty() {
            continue;
        }
        let action = from[dice.below(from.len())];
        // What ends a scene soon comes seldom.
        let seldom = matches!(
            action,
            Action::Append | Action::Heal(_) | Action::HealInput | Action::Repair(_)
        );
        if seldom && !dice.one_in(SELDOM) {
            continue;
        }
        actions.push(action);
        if let Err(breach) = world.apply(scene, action) {
            return Run {
                actions,
                result: Err(breach),
            };
        }
    }
    let result = calm(scene, &mut world, dice, &mut actions);
    Run { actions, result }
}

/// Nothing goes wrong any more; who moves next is still drawn, so that everybody does now and then.
fn calm(scene: &Scene, world: &mut World, dice: &mut Dice, actions: &mut Vec<Action>) -> Result<End, Breach> {
    world.calm_down();
    let mut choices = Vec::new();
    for number in 0..CALM_STEPS_MAX {
        choices.clear();
        world.enabled(scene, &mut choices);
        if number % 16 == 0 || choices.is_empty() {
            if world.all_halted(scene) {
                return Ok(End::Halted);
            }
            if world.input.end == scene.records_max() && world.arrived(scene) {
                return Ok(End::Delivered);
            }
        }
        if choices.is_empty() {
            break;
        }
        let action = choices[dice.below(choices.len())];
        actions.push(action);
        world.apply(scene, action)?;
    }
    Err(Breach::NeverArrives)
}
