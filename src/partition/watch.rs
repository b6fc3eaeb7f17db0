//! Whether an account has changed since somebody looked: what live streams compare before they compute anything.

use std::sync::Weak;

use super::live::{Live, ReadError, Standing};
use super::worker::Partition;
use crate::model::period::Month;
use crate::store::rocks::Rocks;

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
    /// Whether the account was known.
    pub fn is_known(&self) -> bool {
        self.account.is_some()
    }

    fn of(partition: &Partition, id: &str) -> Self {
        let machine = &partition.machine;
        let account = machine.accounts.find(id);
        let owner = account.and_then(|number| machine.accounts.get(number));
        Self {
            opened: std::sync::Arc::downgrade(&partition.rocks),
            account,
            changes: owner.map_or(0, |o| o.changes),
            // The roll-over of a month is no change of the account, nor is a new price.
            running: account.map_or(Month::MIN, |number| machine.month_of(number, machine.now())),
            cards: machine.ledger.version,
        }
    }
}

impl Live {
    /// The accounts' marks, in their order, and where the partition stands. One lock for all of them.
    pub fn marks<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> Result<(Standing, Vec<Mark>), ReadError> {
        self.read(|p| {
            let marks = ids.into_iter().map(|id| Mark::of(p, id)).collect();
            (Standing::of(p), marks)
        })
    }
}
