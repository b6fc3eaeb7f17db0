//! The proof that a consumer has all of a month: its rows against the control record of each partition.
//!
//! It reads rows as a consumer keeps them, and nothing else: whatever got lost after they were read is found, too.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::model::money::decimal_string;
use crate::model::quantity::Quantity;

/// A row of a consumer.
#[derive(Debug, Deserialize)]
struct Row {
    partition: u32,
    sequence: u64,
    period_closed: Option<Statement>,
    period_control: Option<Control>,
}

#[derive(Debug, Deserialize)]
struct Statement {
    account: String,
    period: String,
    currency: String,
    usage: Vec<Usage>,
    lines: Vec<Line>,
    total: String,
    #[serde(default)]
    other_totals: BTreeMap<String, String>,
    outcomes: BTreeMap<String, u64>,
    /// From 1; 0: it has no pages.
    #[serde(default)]
    page: u32,
    #[serde(default)]
    pages: u32,
}

#[derive(Debug, Deserialize)]
struct Usage {
    meter: String,
    class: String,
    quantity: String,
}

#[derive(Debug, Deserialize)]
struct Line {
    amount: String,
    #[serde(default)]
    currency: String,
    #[serde(default)]
    error: String,
}

#[derive(Debug, Deserialize)]
struct Control {
    period: String,
    partition: u32,
    partition_count: u32,
    accounts: u64,
    outcomes: BTreeMap<String, u64>,
    quantities: BTreeMap<String, String>,
    /// Meters of which the record says nothing, for want of room.
    #[serde(default)]
    quantities_left_out: u32,
    amounts: BTreeMap<String, String>,
    first_sequence: u64,
    last_sequence: u64,
}

/// Something without which the month isn't complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Where; absent: everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// `control`, `partition_count`, `sequences`, `repeated`, `statements`, `pages`, `outcomes`, `quantities`, `amounts`, `lines`, `row`.
    pub what: &'static str,
    /// In words.
    pub detail: String,
}

/// What one partition has of the month.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Part {
    /// Which.
    pub partition: u32,
    /// As the control record says; absent without one.
    pub accounts: Option<u64>,
    /// Statements found.
    pub statements: u64,
    /// As the control record says.
    pub first_sequence: u64,
    /// As the control record says.
    pub last_sequence: u64,
    /// Of the statements found, by currency.
    pub amounts: BTreeMap<String, String>,
}

/// What the proof comes to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The month.
    pub period: String,
    /// Whether everything is there.
    pub complete: bool,
    /// As the control records say; 0 without any.
    pub partition_count: u32,
    /// Lines that can't be invoiced because their amount can't be expressed.
    pub lines_without_amount: u64,
    /// By number.
    pub partitions: Vec<Part>,
    /// What is missing or doesn't agree.
    pub missing: Vec<Missing>,
}

/// A statement's money: what its lines come to, and what it says that they do.
#[derive(Debug, Default)]
struct Money {
    /// Of its first page, or of the first that came.
    sequence: u64,
    lines: BTreeMap<String, Decimal>,
    totals: BTreeMap<String, Decimal>,
}

impl Money {
    /// Where the two differ, in words.
    fn differences(&self) -> Vec<String> {
        let differs = |(currency, total): (&String, &Decimal)| {
            let of_lines = self.lines.get(currency).copied().unwrap_or_default();
            let (lines, said) = (decimal_string(of_lines), decimal_string(*total));
            (of_lines != *total).then(|| {
                let sequence = self.sequence;
                format!("sequence {sequence}: its lines come to {lines} {currency}, its total is {said}")
            })
        };
        self.totals.iter().filter_map(differs).collect()
    }
}

/// A statement that comes in pages.
#[derive(Debug, Default)]
struct Paged {
    pages: u32,
    have: BTreeSet<u32>,
    money: Money,
}

impl Paged {
    /// Takes one more page; whether it is a new one.
    fn take(&mut self, page: u32, pages: u32, money: Money) -> bool {
        if self.have.is_empty() || page == 1 {
            self.money.sequence = money.sequence;
        }
        self.pages = self.pages.max(pages);
        self.money.totals.extend(money.totals);
        for (currency, amount) in money.lines {
            let sum = self.money.lines.entry(currency).or_default();
            *sum = sum.checked_add(amount).unwrap_or(*sum);
        }
        self.have.insert(page)
    }

    fn missing(&self) -> Vec<String> {
        let all = 1..=self.pages;
        all.filter(|page| !self.have.contains(page))
            .map(|page| page.to_string())
            .collect()
    }
}

#[derive(Debug, Default)]
struct Held {
    /// Runs of sequences, first and last.
    runs: Vec<(u64, u64)>,
    repeated: Vec<u64>,
    control: Option<Control>,
    statements: u64,
    accounts: BTreeMap<String, u64>,
    /// By account.
    paged: BTreeMap<String, Paged>,
    outcomes: BTreeMap<String, i128>,
    quantities: BTreeMap<String, i128>,
    amounts: BTreeMap<String, Decimal>,
}

impl Held {
    fn note(&mut self, sequence: u64) {
        if self.runs.iter().any(|r| (r.0..=r.1).contains(&sequence)) {
            self.repeated.push(sequence);
            return;
        }
        match self.runs.last_mut() {
            Some(run) if sequence == run.1 + 1 => run.1 = sequence,
            _ => self.runs.push((sequence, sequence)),
        }
    }

    /// Runs of sequences from `first` to `last` that aren't there.
    fn gaps(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut runs = self.runs.clone();
        runs.sort_unstable();
        let (mut next, mut gaps) = (first, Vec::new());
        for (from, to) in runs.into_iter().filter(|r| r.1 >= first && r.0 <= last) {
            if from > next {
                gaps.push((next, from - 1));
            }
            next = next.max(to + 1);
        }
        if next <= last {
            gaps.push((next, last));
        }
        gaps
    }
}

/// Collects rows.
#[derive(Debug, Default)]
pub struct Proof {
    period: String,
    held: BTreeMap<u32, Held>,
    lines_without_amount: u64,
    missing: Vec<Missing>,
}

fn decimal(text: &str) -> Option<Decimal> {
    if text.is_empty() {
        Some(Decimal::ZERO)
    } else {
        text.parse().ok()
    }
}

impl Proof {
    /// Of a month, such as 2026-09.
    pub fn new(period: String) -> Self {
        Self {
            period,
            ..Self::default()
        }
    }

    fn miss(&mut self, partition: Option<u32>, what: &'static str, detail: String) {
        self.missing.push(Missing {
            partition,
            what,
            detail,
        });
    }

    /// Takes one row as it is kept.
    pub fn take(&mut self, line: &str) {
        let row: Row = match serde_json::from_str(line) {
            Ok(row) => row,
            Err(cause) => return self.miss(None, "row", format!("a row can't be read: {cause}")),
        };
        let (partition, sequence) = (row.partition, row.sequence);
        let held = self.held.entry(partition).or_default();
        let repeated = held.repeated.len();
        held.note(sequence);
        if held.repeated.len() > repeated {
            // What is there twice counts once.
            return;
        }
        if let Some(control) = row.period_control.filter(|c| c.period == self.period) {
            let again = held.control.is_some();
            let own = control.partition == partition;
            held.control.get_or_insert(control);
            if again || !own {
                let detail = format!("sequence {sequence} is a second control record, or another partition's");
                self.miss(Some(partition), "control", detail);
            }
        }
        if let Some(statement) = row.period_closed.filter(|s| s.period == self.period) {
            self.statement(partition, sequence, statement);
        }
    }

    fn statement(&mut self, partition: u32, sequence: u64, statement: Statement) {
        let held = self.held.entry(partition).or_default();
        let mut wrong = Vec::new();
        if statement.page <= 1 {
            held.statements += 1;
            if let Some(first) = held.accounts.insert(statement.account.clone(), sequence) {
                wrong.push((
                    "statements",
                    format!("{} has two: sequences {first} and {sequence}", statement.account),
                ));
            }
        }
        for (name, count) in statement.outcomes {
            *held.outcomes.entry(name).or_default() += i128::from(count);
        }
        for usage in statement.usage.into_iter().filter(|u| u.class != "unbilled") {
            match usage.quantity.parse::<Quantity>() {
                Ok(quantity) => *held.quantities.entry(usage.meter).or_default() += quantity.0,
                Err(_) => wrong.push((
                    "row",
                    format!("sequence {sequence}: {:?} is no quantity", usage.quantity),
                )),
            }
        }
        let mut money = Money {
            sequence,
            ..Money::default()
        };
        for line in statement.lines {
            if !line.error.is_empty() {
                self.lines_without_amount += 1;
            }
            let currency = if line.currency.is_empty() {
                statement.currency.clone()
            } else {
                line.currency
            };
            let amount = decimal(&line.amount);
            let sum = money.lines.entry(currency).or_default();
            *sum = amount.and_then(|a| sum.checked_add(a)).unwrap_or(*sum);
        }
        let mut totals = statement.other_totals;
        if statement.page <= 1 {
            totals.insert(statement.currency, statement.total);
        }
        for (currency, total) in totals {
            let Some(total) = decimal(&total) else {
                wrong.push(("row", format!("sequence {sequence}: {total:?} is no amount")));
                continue;
            };
            let sum = held.amounts.entry(currency.clone()).or_default();
            *sum = sum.checked_add(total).unwrap_or(*sum);
            money.totals.insert(currency, total);
        }
        if statement.pages > 1 {
            let paged = held.paged.entry(statement.account.clone()).or_default();
            if !paged.take(statement.page, statement.pages, money) {
                let (account, page) = (&statement.account, statement.page);
                wrong.push((
                    "pages",
                    format!("sequence {sequence}: {account} has page {page} already"),
                ));
            }
        } else {
            wrong.extend(money.differences().into_iter().map(|detail| ("lines", detail)));
        }
        for (what, detail) in wrong {
            self.miss(Some(partition), what, detail);
        }
    }

    /// Says what is missing.
    pub fn report(mut self) -> Report {
        let counts: Vec<u32> = self
            .held
            .values()
            .filter_map(|h| h.control.as_ref().map(|c| c.partition_count))
            .collect();
        let partition_count = counts.first().copied().unwrap_or_default();
        if counts.iter().any(|c| *c != partition_count) {
            let detail = format!("the control records disagree on how many partitions there are: {counts:?}");
            self.miss(None, "partition_count", detail);
        }
        if counts.is_empty() {
            let period = &self.period;
            let detail = format!("there is no control record of {period} yet, from any partition");
            self.miss(None, "control", detail);
        }
        let held = std::mem::take(&mut self.held);
        let none = Held::default();
        let mut partitions = Vec::new();
        for partition in 0..partition_count {
            let held = held.get(&partition).unwrap_or(&none);
            partitions.push(self.part(partition, held));
        }
        if let Some(beyond) = held.keys().find(|p| **p >= partition_count && partition_count > 0) {
            let detail = format!("there are rows of it, but the control records say {partition_count} partitions");
            self.miss(Some(*beyond), "partition_count", detail);
        }
        Report {
            period: self.period,
            complete: self.missing.is_empty(),
            partition_count,
            lines_without_amount: self.lines_without_amount,
            partitions,
            missing: self.missing,
        }
    }

    fn part(&mut self, partition: u32, held: &Held) -> Part {
        let mut part = Part {
            partition,
            statements: held.statements,
            amounts: held
                .amounts
                .iter()
                .map(|(c, a)| (c.clone(), decimal_string(*a)))
                .collect(),
            ..Part::default()
        };
        if !held.repeated.is_empty() {
            let detail = format!("sequences that are there more than once: {:?}", held.repeated);
            self.miss(Some(partition), "repeated", detail);
        }
        for (account, paged) in &held.paged {
            let missing = paged.missing();
            if missing.is_empty() {
                for detail in paged.money.differences() {
                    self.miss(Some(partition), "lines", detail);
                }
            } else {
                let (pages, missing) = (paged.pages, missing.join(", "));
                let detail = format!("{account}: of {pages} pages these aren't there: {missing}");
                self.miss(Some(partition), "pages", detail);
            }
        }
        let Some(control) = &held.control else {
            let detail = "its control record hasn't come: the month isn't over there, or is held".to_owned();
            self.miss(Some(partition), "control", detail);
            return part;
        };
        part.accounts = Some(control.accounts);
        part.first_sequence = control.first_sequence;
        part.last_sequence = control.last_sequence;
        if control.first_sequence > 0 {
            let gaps = held.gaps(control.first_sequence, control.last_sequence);
            if !gaps.is_empty() {
                let gaps: Vec<String> = gaps
                    .iter()
                    .map(|(first, last)| {
                        if first == last {
                            first.to_string()
                        } else {
                            format!("{first} to {last}")
                        }
                    })
                    .collect();
                let (first, last) = (control.first_sequence, control.last_sequence);
                let detail = format!("of sequences {first} to {last} these aren't there: {}", gaps.join(", "));
                self.miss(Some(partition), "sequences", detail);
            }
        }
        if held.statements != control.accounts {
            let detail = format!("{} statements of {}", held.statements, control.accounts);
            self.miss(Some(partition), "statements", detail);
        }
        let wanted = control.outcomes.iter().map(|(n, c)| (n.clone(), Some(i128::from(*c))));
        self.same(partition, "outcomes", &held.outcomes, wanted, ToString::to_string);
        let nano = |(meter, text): (&String, &String)| (meter.clone(), text.parse().ok().map(|q: Quantity| q.0));
        let is_said = |meter: &String| control.quantities_left_out == 0 || control.quantities.contains_key(meter);
        let said = held.quantities.iter().filter(|(meter, _)| is_said(meter));
        let said = said.map(|(meter, nano)| (meter.clone(), *nano)).collect();
        self.same(
            partition,
            "quantities",
            &said,
            control.quantities.iter().map(nano),
            |nano| Quantity(*nano).to_string(),
        );
        let wanted = control.amounts.iter().map(|(c, a)| (c.clone(), decimal(a)));
        self.same(partition, "amounts", &held.amounts, wanted, |a| decimal_string(*a));
        part
    }

    /// That sums are the control record's; one that is zero may be left out.
    fn same<T: Copy + Default + PartialEq>(
        &mut self,
        partition: u32,
        what: &'static str,
        held: &BTreeMap<String, T>,
        wanted: impl Iterator<Item = (String, Option<T>)>,
        text: impl Fn(&T) -> String,
    ) {
        let mut held = held.clone();
        for (name, wanted) in wanted {
            let found = held.remove(&name).unwrap_or_default();
            if wanted != Some(found) {
                let wanted = wanted.map_or_else(|| "an unreadable number".to_owned(), |w| text(&w));
                let detail = format!("{name}: {} of {wanted}", text(&found));
                self.miss(Some(partition), what, detail);
            }
        }
        for (name, found) in held.into_iter().filter(|(_, f)| *f != T::default()) {
            let detail = format!("{name}: {} of 0", text(&found));
            self.miss(Some(partition), what, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = r#"{"partition": 0, "sequence": 5, "id": "statements/0/5", "period_control": {"period": "2026-09",
        "partition": 0, "partition_count": 1, "accounts": 2, "outcomes": {"success": 3}, "quantities": {"requests": "3"},
        "amounts": {"USD": "2.5", "EUR": "0"}, "first_sequence": 2, "last_sequence": 4, "control_version": 1}}"#;
    const NOTICE: &str = r#"{"partition": 0, "sequence": 3, "id": "statements/0/3", "adjustment_noticed": {}}"#;

    fn statement(sequence: u64, account: &str, calls: u64, amount: &str) -> String {
        format!(
            r#"{{"partition": 0, "sequence": {sequence}, "id": "", "period_closed": {{"account": "{account}", "period": "2026-09",
            "currency": "USD", "usage": [{{"meter": "requests", "class": "success", "quantity": "{calls}"}},
            {{"meter": "requests", "class": "unbilled", "quantity": "7"}}], "lines": [{{"amount": "{amount}"}}],
            "total": "{amount}", "outcomes": {{"success": {calls}}}}}}}"#
        )
    }

    fn report(rows: &[&str]) -> Report {
        let mut proof = Proof::new("2026-09".to_owned());
        rows.iter().for_each(|row| proof.take(row));
        proof.report()
    }

    fn whats(report: &Report) -> Vec<&'static str> {
        report.missing.iter().map(|m| m.what).collect()
    }

    #[test]
    fn a_month_is_complete_when_every_sum_is_the_control_records() {
        let (a, b) = (statement(2, "a", 1, "1.00"), statement(4, "b", 2, "1.50"));
        let whole = report(&[&a, NOTICE, &b, CONTROL]);
        assert_eq!(whole.missing, []);
        assert!(whole.complete);
        assert_eq!(whole.partitions[0].amounts["USD"], "2.5");
        let cases: [(&[&str], &[&str]); 5] = [
            (
                &[&a, NOTICE, CONTROL],
                &["sequences", "statements", "outcomes", "quantities", "amounts"],
            ),
            (&[&a, &b, CONTROL], &["sequences"]),
            (&[&a, NOTICE, &b], &["control"]),
            (&[&a, &a, NOTICE, &b, CONTROL], &["repeated"]),
            (&[&a, NOTICE, &b, CONTROL, "{"], &["row"]),
        ];
        for (rows, missing) in cases {
            let report = report(rows);
            assert!(!report.complete);
            assert_eq!(whats(&report), missing);
        }
    }

    #[test]
    fn rows_whose_ids_are_in_the_earlier_form_count_the_same() {
        let of = |id: &str| statement(2, "a", 1, "1.00").replace(r#""id": """#, &format!(r#""id": "{id}""#));
        let b = statement(4, "b", 2, "1.50");
        for id in ["statements-0-2", "statements/0/2"] {
            assert_eq!(report(&[&of(id), NOTICE, &b, CONTROL]).missing, [], "{id}");
        }
        let both = report(&[&of("statements-0-2"), &of("statements/0/2"), NOTICE, &b, CONTROL]);
        assert_eq!(whats(&both), ["repeated"], "one row, whatever its id is written like");
    }

    #[test]
    fn a_total_that_its_lines_do_not_come_to_is_found() {
        let b = statement(4, "b", 2, "1.50").replace(r#""total": "1.50""#, r#""total": "1.40""#);
        let report = report(&[&statement(2, "a", 1, "1.00"), NOTICE, &b, CONTROL]);
        assert_eq!(whats(&report), ["lines", "amounts"]);
    }

    /// A page of b's statement of 2 calls.
    fn page(sequence: u64, page: u32, amount: &str) -> String {
        let (total, calls) = if page == 1 {
            ("1.50", r#""success": 2"#)
        } else {
            ("", "")
        };
        format!(
            r#"{{"partition": 0, "sequence": {sequence}, "id": "", "period_closed": {{"account": "b", "period": "2026-09",
            "currency": "USD", "usage": [{{"meter": "requests", "class": "success", "quantity": "1"}}],
            "lines": [{{"amount": "{amount}"}}], "total": "{total}", "outcomes": {{{calls}}}, "page": {page}, "pages": 2}}}}"#
        )
    }

    #[test]
    fn a_month_is_complete_when_every_page_is_there() {
        let a = statement(2, "a", 1, "1.00");
        let (first, second) = (page(3, 1, "0.90"), page(4, 2, "0.60"));
        let whole = report(&[&a, &first, &second, CONTROL]);
        assert_eq!(whole.missing, []);
        assert_eq!(whole.partitions[0].statements, 2);
        assert!(report(&[&second, CONTROL, &first, &a]).complete, "whatever the order");

        let without = report(&[&a, &first, CONTROL]);
        assert_eq!(whats(&without), ["pages", "sequences", "quantities"]);
        assert_eq!(without.missing[0].detail, "b: of 2 pages these aren't there: 2");
        let without = report(&[&a, &second, CONTROL]);
        assert_eq!(
            whats(&without),
            ["pages", "sequences", "statements", "outcomes", "quantities", "amounts"]
        );
        assert_eq!(without.missing[0].detail, "b: of 2 pages these aren't there: 1");

        let twice = report(&[&a, &first, &page(4, 1, "0.60"), CONTROL]);
        assert!(whats(&twice).contains(&"pages") && whats(&twice).contains(&"statements"));
        let less = report(&[&a, &first, &page(4, 2, "0.50"), CONTROL]);
        assert_eq!(whats(&less), ["lines"]);
        assert_eq!(
            less.missing[0].detail,
            "sequence 3: its lines come to 1.4 USD, its total is 1.5"
        );
    }

    #[test]
    fn meters_that_a_control_record_leaves_out_are_not_compared() {
        let without = CONTROL.replace(r#""quantities": {"requests": "3"}"#, r#""quantities": {}"#);
        let cut = without.replace(r#""amounts""#, r#""quantities_left_out": 1, "amounts""#);
        let (a, b) = (statement(2, "a", 1, "1.00"), statement(4, "b", 2, "1.50"));
        assert_eq!(whats(&report(&[&a, NOTICE, &b, &without])), ["quantities"]);
        assert!(report(&[&a, NOTICE, &b, &cut]).complete);
    }

    #[test]
    fn every_partition_must_have_a_control_record() {
        let report = report(&[&CONTROL.replace(r#""partition_count": 1"#, r#""partition_count": 2"#)]);
        assert!(
            report
                .missing
                .iter()
                .any(|m| m.partition == Some(1) && m.what == "control")
        );
    }
}
