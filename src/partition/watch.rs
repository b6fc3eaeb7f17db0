//! Whether an account has changed since somebody looked: what live streams compare before they compute anything.

use std::sync::{Arc, Weak};

use super::live::{Live, ReadError, Standing};
use super::taken::{Asked, Taken};
use super::worker::Partition;
use crate::model::period::Month;
use crate::store::rocks::Rocks;
use crate::store::rows::Rows;

/// What an account's totals of the running period hang on. Two equal marks: nothing has changed in between.
#[derive(Clone, Debug, Default)]
pub struct Mark {
    /// Counted from the opening of the store on, so a mark of another opening is never equal.
    opened: Weak<Rocks>,
    account: Option<u32>,
    changes: u32,
    running: Month,
    cards: u64,
}

impl PartialEq for Mark {
    fn eq(&self, other: &Self) -> bool {
        Weak::ptr_eq(&self.opened, &other.opened)
            && (self.account, self.changes, self.running, self.cards)
                == (other.account, other.changes, other.running, other.cards)
    }
}

impl Mark {
    /// Whether both were counted since one opening of a store.
    pub fn is_of_the_same_opening(&self, other: &Self) -> bool {
        Weak::ptr_eq(&self.opened, &other.opened)
    }

    fn of(partition: &Partition, id: &str) -> Self {
        let machine = &partition.machine;
        let account = machine.accounts.find(id);
        let owner = account.and_then(|number| machine.accounts.get(number));
        Self {
            opened: Arc::downgrade(&partition.rocks),
            account,
            changes: owner.map_or(0, |o| o.changes),
            // The roll-over of a month is no change of the account, nor is a new price.
            running: account.map_or(Month::MIN, |number| machine.month_of(number, machine.now())),
            cards: machine.ledger.version,
        }
    }
}

/// Accounts of which more may be taken under one lock: some tens of microseconds.
pub const TAKEN_MAX: usize = 64;

/// One who is watched, and the mark after which was last computed.
pub struct Watched<'a> {
    /// The account.
    pub id: &'a str,
    /// What is computed of it.
    pub asked: &'a Asked,
    /// The mark of the last time, unless it is to be computed in any case.
    pub before: Option<&'a Mark>,
}

/// What has changed of those watched.
pub struct Changes<'r> {
    /// Where the partition stands.
    pub standing: Standing,
    /// How many of those watched were looked at.
    pub looked_at: usize,
    /// Of these, by their place: what has changed.
    pub changed: Vec<(usize, Mark, Taken)>,
    /// The store's rows of the same moment.
    pub rows: Rows<'r>,
}

impl Live {
    /// Looks which of those watched have changed, and takes what memory holds of them: in one lock, as far as it gets in a
    /// moment. An account that isn't known is as one that hasn't changed.
    pub fn changes<'r>(&self, rocks: &'r Arc<Rocks>, watched: &[Watched<'_>]) -> Result<Changes<'r>, ReadError> {
        self.look(|look| {
            if !Arc::ptr_eq(rocks, &look.partition.rocks) {
                return Err(ReadError::NotServed { partition: self.number });
            }
            let (mut changed, mut looked_at) = (Vec::new(), 0);
            for (at, one) in watched.iter().enumerate() {
                if changed.len() == TAKEN_MAX {
                    break;
                }
                looked_at += 1;
                let mark = Mark::of(look.partition, one.id);
                if one.before != Some(&mark)
                    && let Some(taken) = Taken::of(look, one.id, one.asked)
                {
                    changed.push((at, mark, taken));
                }
            }
            Ok(Changes {
                standing: Standing::of(look.partition),
                looked_at,
                changed,
                rows: rocks.rows(false),
            })
        })?
    }
}
