//! What a partition's numbers stand for, as a reader keeps it: names, shapes, rollups, profiles and prices.
//!
//! They only ever get more. So a copy made at one record serves every read until something new is named, and a newer copy
//! shares all that is old: a reader takes it in one short lock, and puts numbers into words without the fold's lock.

use std::sync::Arc;

use crate::machine::accounts::{Profile, ProfileId};
use crate::machine::fold::Machine;
use crate::machine::names::{Naming, Shape, ShapeId};
use crate::model::money::Currency;
use crate::model::period::Zone;
use crate::model::rate_card::RateCards;
use crate::model::symbol::Sym;

/// Rows that copies share at a time.
const PART: usize = 1_024;

/// A list that only grows, in parts that copies share.
#[derive(Clone, Debug)]
struct Rows<T> {
    full: Vec<Arc<[T]>>,
    rest: Vec<T>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self {
            full: Vec::new(),
            rest: Vec::new(),
        }
    }
}

impl<T> Rows<T> {
    fn len(&self) -> usize {
        self.full.len() * PART + self.rest.len()
    }

    fn get(&self, at: usize) -> Option<&T> {
        match self.full.get(at / PART) {
            Some(part) => part.get(at % PART),
            None => self.rest.get(at.checked_sub(self.full.len() * PART)?),
        }
    }

    fn extend(&mut self, more: impl Iterator<Item = T>) {
        for row in more {
            self.rest.push(row);
            if self.rest.len() == PART {
                self.full.push(std::mem::take(&mut self.rest).into());
            }
        }
    }
}

/// What numbers stand for.
#[derive(Clone, Debug, Default)]
pub struct Words {
    symbols: Rows<Arc<str>>,
    shapes: Rows<Shape>,
    nothing: Shape,
    rollups: Arc<Vec<Vec<Sym>>>,
    profiles: Arc<Vec<Profile>>,
    cards: RateCards,
}

impl Words {
    /// What a machine knows, made from what was known before; that itself, if nothing is new.
    pub fn of(machine: &Machine, before: &Arc<Self>) -> Arc<Self> {
        let names = &machine.names;
        let (rollups, profiles) = (&machine.rollups, machine.accounts.profiles());
        let is_current = before.symbols.len() == names.symbols.len()
            && before.shapes.len() == names.shapes_len()
            && before.rollups.len() == rollups.len()
            && before.profiles.len() == profiles.len()
            && before.cards.all().len() == machine.cards.all().len();
        if is_current {
            return Arc::clone(before);
        }
        let mut now = Self::clone(before);
        let named = names.symbols.since(now.symbols.len());
        now.symbols.extend(named.map(Arc::from));
        let shaped = names.shapes_since(now.shapes.len());
        now.shapes.extend(shaped.iter().cloned());
        if now.rollups.len() != rollups.len() {
            now.rollups = Arc::new(rollups.clone());
        }
        if now.profiles.len() != profiles.len() {
            now.profiles = Arc::new(profiles.to_vec());
        }
        now.cards = machine.cards.clone();
        Arc::new(now)
    }

    /// The rollup names of that number.
    pub fn rollup(&self, number: u16) -> &[Sym] {
        self.rollups.get(usize::from(number)).map_or(&[], Vec::as_slice)
    }

    /// Names of all rollup dimensions that a policy has named so far, sorted.
    pub fn rollup_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .rollups
            .iter()
            .flatten()
            .map(|&name| self.name(name).to_owned())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The profile of that number.
    pub fn profile(&self, id: ProfileId) -> Profile {
        self.profiles.get(id as usize).copied().unwrap_or(Profile {
            zone: Zone::UTC,
            currency: Currency::USD,
        })
    }

    /// All rate cards.
    pub const fn cards(&self) -> &RateCards {
        &self.cards
    }
}

impl Naming for Words {
    fn name(&self, sym: Sym) -> &str {
        self.symbols.get(sym.0 as usize).map_or("", AsRef::as_ref)
    }

    fn shape_of(&self, id: ShapeId) -> &Shape {
        self.shapes.get(id.0 as usize).unwrap_or(&self.nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::clock::Source;

    #[test]
    fn a_copy_says_what_the_machine_says_and_shares_what_is_old() {
        let mut machine = Machine::new(0, 1, Source::Ticks, 0);
        let first = Words::of(&machine, &Arc::default());
        assert!(Arc::ptr_eq(&first, &Words::of(&machine, &first)), "nothing is new");
        for n in 0..3 * PART {
            let name = machine.names.symbols.intern(&format!("name-{n}"));
            machine.names.shape(Shape {
                product: name,
                ..Shape::default()
            });
            if n == PART + 7 {
                let between = Words::of(&machine, &first);
                assert_eq!(between.name(name), format!("name-{n}"));
            }
        }
        let second = Words::of(&machine, &first);
        let later = machine.names.symbols.intern("later");
        let third = Words::of(&machine, &second);
        assert!(Arc::ptr_eq(&second.symbols.full[0], &third.symbols.full[0]));
        assert_eq!((second.name(later), third.name(later)), ("", "later"));
        for number in 0..machine.names.symbols.len() as u32 {
            assert_eq!(third.name(Sym(number)), machine.names.symbols.name(Sym(number)));
        }
        for number in 0..machine.names.shapes_len() as u32 {
            assert_eq!(third.shape_of(ShapeId(number)), machine.names.of(ShapeId(number)));
        }
    }
}
