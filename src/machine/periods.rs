//! Periods are stored when they are first needed, without gap or overlap (RULES §6).

use super::accounts::{Period, ProfileId, Standing};
use super::digest::Mark;
use super::fold::Machine;
use crate::model::Ms;
use crate::model::period::{self, Month};

impl Machine {
    /// The month that an instant of the account counts for: its stored period's, or that of the zone which would hold.
    pub fn month_of(&self, account: u32, at: Ms) -> Month {
        let Some(owner) = self.accounts.get(account) else {
            return Month::of(at, self.utc());
        };
        if let Some(index) = owner.period_at(at) {
            return owner.periods[index].month;
        }
        let before_all = owner.periods.first().filter(|first| at < first.from);
        let zone = self
            .accounts
            .profile(before_all.map_or(owner.profile, |first| first.profile))
            .zone;
        let month = Month::of(at, zone);
        match (before_all, owner.periods.last()) {
            (Some(first), _) => month.min(first.month.prev()),
            (None, Some(last)) => month.max(last.month.next()),
            (None, None) => month,
        }
    }

    /// The account's period with this instant, stored now with all between it and the nearest stored one.
    pub(super) fn period_at(&mut self, account: u32, at: Ms) -> Period {
        loop {
            let Some(owner) = self.accounts.get(account) else {
                // Every number comes from `Accounts`: there is no such account only in a broken program.
                return self.natural_period(period::Month::of(at, self.utc()), 0);
            };
            if let Some(index) = owner.period_at(at) {
                return owner.periods[index];
            }
            let (first, last) = (owner.periods.first().copied(), owner.periods.last().copied());
            let profile = owner.profile;
            let (period, at_the_end) = match (first, last) {
                (Some(first), Some(last)) => {
                    if at >= last.until {
                        // Begins where the latest one ended, in the profile that holds now.
                        let mut next = self.natural_period(last.month.next(), profile);
                        next.from = last.until;
                        (next, true)
                    } else {
                        // Earlier ones in the earliest one's zone.
                        let mut previous = self.natural_period(first.month.prev(), first.profile);
                        previous.until = first.from;
                        (previous, false)
                    }
                }
                _ => {
                    let zone = self.accounts.profile(profile).zone;
                    (self.natural_period(Month::of(at, zone), profile), true)
                }
            };
            self.store_period(account, period, at_the_end);
        }
    }

    fn utc(&self) -> crate::model::period::Zone {
        self.accounts.profile(0).zone
    }

    /// The month as the profile's zone bounds it.
    fn natural_period(&self, month: Month, profile: ProfileId) -> Period {
        let zone = self.accounts.profile(profile).zone;
        let (from, until) = period::bounds(month, zone);
        Period {
            month,
            from,
            until,
            close_due: Ms::MAX,
            profile,
            rollup: 0,
            standing: Standing::Open,
        }
    }

    fn store_period(&mut self, account: u32, mut period: Period, at_the_end: bool) {
        let now = self.now();
        period.close_due = period.until.saturating_add(self.policy().close_grace_ms);
        period.rollup = (self.rollups.len() - 1) as u16;
        // Closed, with an empty statement that isn't emitted, if its close was already due and nothing holds it; a month
        // whose control record is out has said that nothing more comes.
        let control_is_out = self.is_control_out(period.month);
        let too_late = control_is_out || (now >= period.close_due && !self.is_held(account, period.month));
        if too_late {
            period.standing = Standing::Closed;
            self.remember_statement(account, period.month);
        } else {
            self.closes.insert((period.close_due, account, period.month));
            self.months.entry(period.month).or_default().open += 1;
            self.wake(period.close_due);
        }
        self.digest
            .note(Mark::Period, account.into(), [period.from as u64, period.until as u64]);
        if let Some(owner) = self.accounts.get_mut(account) {
            if at_the_end {
                owner.periods.push(period);
            } else {
                owner.periods.insert(0, period);
            }
        }
    }
}
