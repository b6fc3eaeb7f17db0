//! Statements too large for one record: split into pages by their content alone, and put together again by whoever reads them.
//!
//! An account may have any number of products, and a line any number of services; a topic takes records of a bounded size, and
//! one that it doesn't take would hold up all that follows.

use prost::Message;

use crate::wire::pb;

/// Bytes that a record of the statements output has at most: half of what a topic takes where nobody has set it otherwise.
pub const PAGE_BYTES_MAX: usize = 512 * 1024;

/// Bytes at most that a repeated field has beside its value: its number and its length.
const FIELD_BYTES: usize = 8;

/// The same of an entry of `continued`, with the line's number.
const CONTINUED_BYTES: usize = 16;

/// The same of a page: its numbers, the record around it, its sequence on Kafka, and an entry of `continued` begun at its end.
const FRAME_BYTES: usize = 96;

/// Bytes at most of a notice beside its usage (ids, ten calls, a count for each reason), and of a month's control record beside
/// its quantities (an amount for each currency).
const BESIDE_BYTES: usize = 32 * 1024;

/// Bytes that a message has in a repeated field.
fn bytes_of(message: &impl Message) -> usize {
    message.encoded_len() + FIELD_BYTES
}

/// A page that is being filled, and those before it.
struct Pages {
    done: Vec<pb::PeriodClosed>,
    page: pb::PeriodClosed,
    bytes: usize,
    /// Bytes of a further page without rows.
    bare: usize,
}

impl Pages {
    fn bare(of: &pb::PeriodClosed) -> pb::PeriodClosed {
        pb::PeriodClosed {
            account_id: of.account_id.clone(),
            period: of.period.clone(),
            currency: of.currency.clone(),
            ..pb::PeriodClosed::default()
        }
    }

    fn begin(first: pb::PeriodClosed) -> Self {
        Self {
            bytes: first.encoded_len() + FRAME_BYTES,
            bare: Self::bare(&first).encoded_len() + FRAME_BYTES,
            done: Vec::new(),
            page: first,
        }
    }

    /// Turns the page if it doesn't hold so many bytes more.
    fn room(&mut self, bytes: usize) {
        if self.bytes + bytes > PAGE_BYTES_MAX {
            let next = Self::bare(&self.page);
            self.done.push(std::mem::replace(&mut self.page, next));
            self.bytes = self.bare;
        }
        self.bytes += bytes;
    }

    fn line(&mut self, number: u32, mut line: pb::StatementLine) {
        let bytes = bytes_of(&line);
        if self.bare + bytes <= PAGE_BYTES_MAX {
            self.room(bytes);
            self.page.lines.push(line);
            return;
        }
        // It has more sub-rows, or was announced by more notices, than a page holds.
        let rows = std::mem::take(&mut line.rows);
        let notices = std::mem::take(&mut line.notices);
        self.room(bytes_of(&line));
        self.page.lines.push(line);
        for row in rows {
            self.room(bytes_of(&row));
            self.continued(number).rows.push(row);
        }
        for notice in notices {
            self.room(notice.len() + FIELD_BYTES);
            self.continued(number).notices.push(notice);
        }
    }

    /// What this page says more of a line.
    fn continued(&mut self, line: u32) -> &mut pb::LineContinued {
        let all = &mut self.page.continued;
        if all.last().is_none_or(|c| c.line != line) {
            self.bytes += CONTINUED_BYTES;
            all.push(pb::LineContinued {
                line,
                ..pb::LineContinued::default()
            });
        }
        let at = all.len() - 1;
        &mut all[at]
    }

    fn end(mut self) -> Vec<pb::PeriodClosed> {
        self.done.push(self.page);
        let pages = self.done.len() as u32;
        for (page, number) in self.done.iter_mut().zip(1..) {
            (page.page, page.pages) = (number, pages);
        }
        self.done
    }
}

/// A statement as records hold it: as it is, or as pages in their order, of which the first has all that is there once.
pub fn split(mut statement: pb::PeriodClosed) -> Vec<pb::PeriodClosed> {
    if statement.encoded_len() + FRAME_BYTES <= PAGE_BYTES_MAX {
        return vec![statement];
    }
    let usage = std::mem::take(&mut statement.usage);
    let lines = std::mem::take(&mut statement.lines);
    let unpriced = std::mem::take(&mut statement.unpriced);
    let mut pages = Pages::begin(statement);
    for row in usage {
        pages.room(bytes_of(&row));
        pages.page.usage.push(row);
    }
    for (line, number) in lines.into_iter().zip(0..) {
        pages.line(number, line);
    }
    for row in unpriced {
        pages.room(bytes_of(&row));
        pages.page.unpriced.push(row);
    }
    pages.end()
}

/// Cuts a notice's usage, or the quantities of a month's control record, to what a record holds. How many rows are left out: the
/// next statement's lines have all that a notice announces, and the month's statements all that its control record sums up.
pub fn cut(rows: &mut Vec<impl Message>) -> u32 {
    let mut bytes = BESIDE_BYTES;
    let over = rows.iter().position(|row| {
        bytes += bytes_of(row);
        bytes > PAGE_BYTES_MAX
    });
    let kept = over.unwrap_or(rows.len());
    let left_out = rows.len() - kept;
    rows.truncate(kept);
    left_out as u32
}

/// How many pages the statement has that a record of the statements output is about; 1 if it is about none.
pub fn pages_in(body: &[u8]) -> u64 {
    let pages = Numbered::decode(body).ok().and_then(|record| record.page);
    pages.map_or(1, |page| u64::from(page.pages).max(1))
}

/// A `StatementRecord` of which only the numbers of pages are read: all else is passed over.
#[derive(Clone, PartialEq, Message)]
struct Numbered {
    #[prost(message, optional, tag = "1")]
    page: Option<PageNumbers>,
}

#[derive(Clone, PartialEq, Message)]
struct PageNumbers {
    #[prost(uint32, tag = "17")]
    pages: u32,
}

/// Puts the pages of one partition's statements together as they come, in their order.
#[derive(Debug, Default)]
pub struct Joining {
    /// Sequence of the first page, and what was taken so far; its `page` is the last one.
    open: Option<(u64, pb::PeriodClosed)>,
}

impl Joining {
    /// Takes the next one. A whole statement as if it had had room in one record, under the sequence of its first page, once
    /// its last page is there. One whose first pages were removed never is.
    pub fn take(&mut self, sequence: u64, page: pb::PeriodClosed) -> Option<(u64, pb::PeriodClosed)> {
        if page.pages <= 1 {
            self.open = None;
            return Some((sequence, page));
        }
        if page.page == 1 {
            self.open = Some((sequence, page));
            return None;
        }
        let (first, mut statement) = self.open.take()?;
        let follows = page.page == statement.page + 1
            && page.pages == statement.pages
            && sequence == first + u64::from(statement.page);
        if !follows {
            return None;
        }
        statement.page = page.page;
        statement.usage.extend(page.usage);
        statement.lines.extend(page.lines);
        statement.unpriced.extend(page.unpriced);
        statement.continued.extend(page.continued);
        if statement.page < statement.pages {
            self.open = Some((first, statement));
            return None;
        }
        (statement.page, statement.pages) = (0, 0);
        for more in std::mem::take(&mut statement.continued) {
            if let Some(line) = statement.lines.get_mut(more.line as usize) {
                line.rows.extend(more.rows);
                line.notices.extend(more.notices);
            }
        }
        Some((first, statement))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: usize) -> pb::UsageRow {
        pb::UsageRow {
            service: format!("service-{n}"),
            product: "p".repeat(128),
            meter: "output_tokens".to_owned(),
            class: "success".to_owned(),
            quantity: "1".to_owned(),
            dimensions: vec!["d".repeat(256); 3],
            ..pb::UsageRow::default()
        }
    }

    fn line(product: &str, rows: usize, notices: usize) -> pb::StatementLine {
        pb::StatementLine {
            product: product.to_owned(),
            amount: "1.00".to_owned(),
            rows: (0..rows).map(row).collect(),
            notices: (0..notices).map(|n| format!("acme/2026-09/{n}")).collect(),
            ..pb::StatementLine::default()
        }
    }

    fn statement(usage: usize, lines: Vec<pb::StatementLine>) -> pb::PeriodClosed {
        pb::PeriodClosed {
            account_id: "acme".to_owned(),
            period: "2026-09".to_owned(),
            time_zone: "UTC".to_owned(),
            currency: "USD".to_owned(),
            total: "3".to_owned(),
            usage: (0..usage).map(row).collect(),
            lines,
            unpriced: vec![row(0)],
            ..pb::PeriodClosed::default()
        }
    }

    fn record(page: &pb::PeriodClosed, sequence: u64) -> Vec<u8> {
        let record = pb::StatementRecord {
            body: Some(pb::statement_record::Body::PeriodClosed(page.clone())),
            sequence,
        };
        record.encode_to_vec()
    }

    #[test]
    fn a_statement_that_has_room_in_a_record_stays_as_it_is() {
        let small = statement(10, vec![line("a", 3, 2)]);
        assert_eq!(split(small.clone()), std::slice::from_ref(&small));
        assert_eq!(pages_in(&record(&small, 0)), 1);
        assert_eq!(Joining::default().take(7, small.clone()), Some((7, small)));
    }

    #[test]
    fn pages_have_room_in_a_record_and_come_to_the_statement() {
        let lines = vec![line("a", 3, 2), line("b", 2_000, 40_000), line("c", 5, 0)];
        for whole in [
            statement(1_500, lines.clone()),
            statement(0, lines),
            statement(1_500, Vec::new()),
        ] {
            let pages = split(whole.clone());
            assert!(pages.len() > 2, "{} pages", pages.len());
            let mut joining = Joining::default();
            let mut joined = None;
            for (n, page) in pages.iter().enumerate() {
                let bytes = record(page, u64::MAX);
                assert!(bytes.len() <= PAGE_BYTES_MAX, "{} bytes", bytes.len());
                assert_eq!(pages_in(&bytes), pages.len() as u64);
                assert_eq!((page.page, page.pages), (n as u32 + 1, pages.len() as u32));
                assert_eq!(page.total.is_empty(), n > 0);
                assert_eq!((page.account_id.as_str(), page.currency.as_str()), ("acme", "USD"));
                assert!(joined.is_none());
                joined = joining.take(n as u64 + 40, page.clone());
            }
            assert!(joined == Some((40, whole)));
            // Each page but the last is full, but for a row.
            let full = pages.iter().rev().skip(1).map(|p| record(p, 0).len());
            assert!(full.min() > Some(PAGE_BYTES_MAX / 2));
        }
    }

    #[test]
    fn a_statement_of_which_a_page_is_missing_is_none() {
        let pages = split(statement(2_500, Vec::new()));
        assert!(pages.len() > 3);
        for missing in 0..pages.len() {
            let mut joining = Joining::default();
            let mut rest = pages.iter().enumerate().filter(|(n, _)| *n != missing);
            assert!(rest.all(|(n, page)| joining.take(n as u64 + 1, page.clone()).is_none()));
        }
    }

    #[test]
    fn a_notice_has_room_in_a_record() {
        let mut usage: Vec<_> = (0..3_000).map(row).collect();
        let left_out = cut(&mut usage);
        assert!(left_out > 0);
        assert_eq!(usage.len() + left_out as usize, 3_000);
        let bytes: usize = usage.iter().map(bytes_of).sum();
        assert!(bytes <= PAGE_BYTES_MAX - BESIDE_BYTES && bytes > PAGE_BYTES_MAX / 2);
        let mut few = vec![row(1)];
        assert_eq!((cut(&mut few), few.len()), (0, 1));
    }
}
