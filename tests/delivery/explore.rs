//! Every interleaving of a small scene, nearest states first, so that what is found is found by a shortest way: the fewest steps
//! before the breach, or before the calm that leads to it.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::action::Action;
use crate::promise::Breach;
use crate::scene::Scene;
use crate::world::World;

/// A state's fingerprint: 64 bits, mixed as they come.
#[derive(Default)]
struct Fingerprint(u64);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        let x = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        x ^ (x >> 32)
    }
}

/// Takes a fingerprint as its own hash.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Seen = HashSet<u64, BuildHasherDefault<AsIs>>;

pub fn fingerprint(world: &World) -> u64 {
    let mut hasher = Fingerprint::default();
    world.hash(&mut hasher);
    hasher.finish()
}

/// A broken promise, and how it came to it.
#[derive(Debug)]
pub struct Trace {
    pub actions: Vec<Action>,
    pub breach: Breach,
    /// The last this many actions are those of the calm.
    pub calm: usize,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calm_from = self.actions.len() - self.calm;
        for (number, action) in self.actions.iter().enumerate() {
            if number == calm_from {
                writeln!(f, "  and then, though nothing goes wrong any more:")?;
            }
            writeln!(f, "  {:2}. {action}", number + 1)?;
        }
        writeln!(f, "  => {}", self.breach)
    }
}

/// What an exploration came to.
#[derive(Debug, Default)]
pub struct Explored {
    pub states: usize,
    /// Steps on the way to the end of a calm, each way walked once.
    pub calm_states: usize,
    /// Steps to the farthest state.
    pub depth: usize,
    /// States left out because the limit was reached.
    pub cut_off: bool,
    pub trace: Option<Trace>,
}

/// Explores all states, up to `limit`, or until a promise is broken. From each, the calm has to lead to the end.
pub fn explore(scene: &Scene, limit: usize) -> Explored {
    let mut explored = Explored::default();
    let mut seen = Seen::default();
    let mut calm = Seen::default();
    // How each state was come to, for the trace.
    let mut ways: Vec<(u32, Option<Action>)> = vec![(0, None)];
    let first = World::new(scene);
    seen.insert(fingerprint(&first));
    let mut waiting = VecDeque::from([(first, 0u32, 0usize)]);
    let mut choices = Vec::new();
    while let Some((world, number, depth)) = waiting.pop_front() {
        explored.states += 1;
        explored.depth = depth;
        if let Err((actions, breach)) = arrives(scene, &world, &mut calm) {
            let steps = actions.len();
            explored.trace = Some(trace(&ways, number, actions, breach, steps));
            break;
        }
        choices.clear();
        world.enabled(scene, &mut choices);
        for &action in &choices {
            let mut next = world.clone();
            if let Err(breach) = next.apply(scene, action) {
                explored.trace = Some(trace(&ways, number, vec![action], breach, 0));
                explored.calm_states = calm.len();
                return explored;
            }
            next.canonical(scene);
            if !seen.insert(fingerprint(&next)) {
                continue;
            }
            if ways.len() < limit {
                ways.push((number, Some(action)));
                waiting.push_back((next, ways.len() as u32 - 1, depth + 1));
            } else {
                explored.cut_off = true;
            }
        }
    }
    explored.calm_states = calm.len();
    explored
}

fn trace(ways: &[(u32, Option<Action>)], mut number: u32, after: Vec<Action>, breach: Breach, calm: usize) -> Trace {
    let mut actions = Vec::new();
    while let (before, Some(action)) = ways[number as usize] {
        actions.push(action);
        number = before;
    }
    actions.reverse();
    actions.extend(after);
    Trace { actions, breach, calm }
}

/// Steps that a calm may take. The longest needs far fewer.
const CALM_STEPS_MAX: usize = 300;

/// From now on nothing goes wrong, and everybody does what there is to do: all that can be delivered is.
fn arrives(scene: &Scene, world: &World, calm: &mut Seen) -> Result<(), (Vec<Action>, Breach)> {
    let mut world = world.clone();
    world.calm_down();
    let mut actions = Vec::new();
    let mut choices = Vec::new();
    while actions.len() < CALM_STEPS_MAX {
        if !calm.insert(fingerprint(&world)) {
            return Ok(());
        }
        choices.clear();
        world.enabled(scene, &mut choices);
        let next = choices.iter().filter(|a| a.rank().is_some()).min_by_key(|a| a.rank());
        let Some(&next) = next else { break };
        actions.push(next);
        world.apply(scene, next).map_err(|breach| (actions.clone(), breach))?;
        world.canonical(scene);
    }
    if world.arrived(scene) || world.all_halted(scene) {
        return Ok(());
    }
    Err((actions, Breach::NeverArrives))
}
