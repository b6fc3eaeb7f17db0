//! The rows of `reckon export`: an interface that other people's checks use. Names and forms stay as they are.

use std::collections::BTreeMap;

use base64::Engine;
use serde::Serialize;
use utoipa::ToSchema;

use crate::model::period::rfc3339;
use crate::model::quantity::Quantity;
use crate::partition::read::UsageKey;
use crate::wire::check::instant_ms;
use crate::wire::pb;

/// `export calls`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CallRow {
    /// Who pays.
    pub account: String,
    /// Which call.
    pub call: String,
    /// success, disconnected or failed.
    pub outcome: String,
    /// RULES §4.
    pub reason: String,
    /// Whether it is charged.
    pub billed: bool,
    /// In the account's zone.
    pub period: String,
    /// The interface.
    pub service: String,
    /// What is priced.
    pub product: String,
    /// Of its class, `requests` included.
    pub quantities: BTreeMap<String, String>,
    /// A quantity was won by an estimate.
    pub estimated: bool,
    /// From 1.
    pub revision: u32,
}

impl From<pb::CallSettled> for CallRow {
    fn from(call: pb::CallSettled) -> Self {
        Self {
            account: call.account_id,
            call: call.call_id,
            outcome: call.outcome,
            reason: call.reason,
            billed: call.billed,
            period: call.period,
            service: call.service,
            product: call.product,
            quantities: call.quantities.into_iter().map(|q| (q.meter, q.quantity)).collect(),
            estimated: call.estimated,
            revision: call.revision,
        }
    }
}

/// `export usage`.
#[derive(Debug, Serialize)]
pub struct UsageRow<'a> {
    /// Who pays.
    pub account: &'a str,
    /// In the account's zone.
    pub period: &'a str,
    /// The interface.
    pub service: &'a str,
    /// What is priced.
    pub product: &'a str,
    /// What is counted.
    pub meter: &'a str,
    /// Charged or not, and how.
    pub class: &'a str,
    /// How much.
    pub quantity: String,
}

impl<'a> UsageRow<'a> {
    /// A sum as a row.
    pub fn new(account: &'a str, period: &'a str, key: &'a UsageKey, nano: i128) -> Self {
        Self {
            account,
            period,
            service: &key.0,
            product: &key.1,
            meter: &key.2,
            class: key.3,
            quantity: Quantity(nano).to_string(),
        }
    }
}

/// `export outcomes`.
#[derive(Debug, Serialize)]
pub struct OutcomeRow<'a> {
    /// Who pays.
    pub account: &'a str,
    /// In the account's zone.
    pub period: &'a str,
    /// Calls by outcome.
    pub outcomes: &'a BTreeMap<&'static str, i64>,
    /// Calls by reason.
    pub reasons: &'a BTreeMap<&'static str, i64>,
}

/// A sum of a statement or an adjustment.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Sum {
    /// The interface.
    pub service: String,
    /// What is priced.
    pub product: String,
    /// What is counted.
    pub meter: String,
    /// Charged or not, and how.
    pub class: String,
    /// How much.
    pub quantity: String,
    /// Set on unpriced usage that an earlier, closed period has more (or less) of.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub original_period: String,
}

/// Rows by service, product, meter and class; rollup dimensions are added up, zeros left out.
pub fn sums(rows: Vec<pb::UsageRow>) -> Vec<Sum> {
    let mut summed: BTreeMap<(String, String, String, String, String), i128> = BTreeMap::new();
    // One that can't be read is shown as it stands, never as nothing.
    let mut unreadable = Vec::new();
    for row in rows {
        let Ok(quantity) = row.quantity.parse::<Quantity>() else {
            unreadable.push(Sum {
                service: row.service,
                product: row.product,
                meter: row.meter,
                class: row.class,
                quantity: row.quantity,
                original_period: row.original_period,
            });
            continue;
        };
        let sum = summed
            .entry((row.original_period, row.service, row.product, row.meter, row.class))
            .or_default();
        *sum = sum.saturating_add(quantity.0);
    }
    summed
        .into_iter()
        .filter(|(_, nano)| *nano != 0)
        .map(|((original_period, service, product, meter, class), nano)| Sum {
            service,
            product,
            meter,
            class,
            quantity: Quantity(nano).to_string(),
            original_period,
        })
        .chain(unreadable)
        .collect()
}

/// A statement's line.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Line {
    /// What is priced.
    pub product: String,
    /// What is counted.
    pub meter: String,
    /// Absent: the line spans services.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// For `per` units.
    pub unit_price: String,
    /// 1, 1000 or 1000000.
    pub per: u64,
    /// How much of it.
    pub quantity: String,
    /// Rounded once.
    pub amount: String,
    /// Set on a line that adjusts an earlier statement.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub original_period: String,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Ids of the notices that announced it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// Set instead of an amount.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Set where it isn't the statement's: an adjustment is in its own period's currency.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub currency: String,
}

/// More of a line that was announced by more notices than a page holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ContinuedLine {
    /// The line's number among the lines of all pages, from 0.
    pub line: u32,
    /// Further ids of the notices that announced it.
    pub notices: Vec<String>,
}

impl From<pb::StatementLine> for Line {
    fn from(line: pb::StatementLine) -> Self {
        Self {
            product: line.product,
            meter: line.meter,
            service: line.service,
            unit_price: line.unit_price,
            per: line.per,
            quantity: line.quantity,
            amount: line.amount,
            original_period: line.original_period,
            reason: line.reason,
            notices: line.notices,
            error: line.error,
            currency: line.currency,
        }
    }
}

fn counts(counts: Vec<pb::OutcomeCount>) -> BTreeMap<String, u64> {
    counts.into_iter().map(|c| (c.name, c.count)).collect()
}

fn instant(at: Option<prost_types::Timestamp>) -> String {
    at.map(|at| rfc3339(instant_ms(&at))).unwrap_or_default()
}

/// `export statements`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StatementRow {
    /// Who pays.
    pub account: String,
    /// In the account's zone.
    pub period: String,
    /// First instant.
    pub from: String,
    /// First instant after it.
    pub until: String,
    /// IANA.
    pub time_zone: String,
    /// ISO 4217.
    pub currency: String,
    /// As frozen at the close.
    pub usage: Vec<Sum>,
    /// What is invoiced.
    pub lines: Vec<Line>,
    /// Sum of the amounts of the lines in the statement's currency.
    pub total: String,
    /// Sums of lines in other currencies.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub other_totals: BTreeMap<String, String>,
    /// Billed usage that no price was found for.
    pub unpriced: Vec<Sum>,
    /// Calls by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Calls by reason.
    pub reasons: BTreeMap<String, u64>,
    /// The log's clock.
    pub closed_at: String,
    /// Rate cards up to this version hold.
    pub control_version: u64,
    /// Gapless in the partition's statements topic; exported: of the first page.
    pub sequence: u64,
    /// Set on a page of a statement that is too large for one record, from 1. What is there once is on the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// How many pages there are, if there is more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<u32>,
    /// More of lines of this page or earlier ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub continued: Vec<ContinuedLine>,
}

impl StatementRow {
    /// A statement, or a page of one, as a row.
    pub fn new(sequence: u64, statement: pb::PeriodClosed) -> Self {
        Self {
            account: statement.account_id,
            period: statement.period,
            from: instant(statement.from),
            until: instant(statement.until),
            time_zone: statement.time_zone,
            currency: statement.currency,
            usage: sums(statement.usage),
            lines: statement.lines.into_iter().map(Line::from).collect(),
            total: statement.total,
            other_totals: statement
                .other_totals
                .into_iter()
                .map(|t| (t.currency, t.amount))
                .collect(),
            unpriced: sums(statement.unpriced),
            outcomes: counts(statement.outcomes),
            reasons: counts(statement.reasons),
            closed_at: instant(statement.closed_at),
            control_version: statement.control_version,
            sequence,
            page: Some(statement.page).filter(|page| *page > 0),
            pages: Some(statement.pages).filter(|pages| *pages > 0),
            continued: statement
                .continued
                .into_iter()
                .filter(|more| !more.notices.is_empty())
                .map(|more| ContinuedLine {
                    line: more.line,
                    notices: more.notices,
                })
                .collect(),
        }
    }
}

/// `export adjustments`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AdjustmentRow {
    /// Of the notice.
    pub id: String,
    /// Who pays.
    pub account: String,
    /// The closed period.
    pub period: String,
    /// ISO 4217.
    pub currency: String,
    /// Signed differences.
    pub usage: Vec<Sum>,
    /// Rows of usage that a record had no room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_left_out: Option<u32>,
    /// Signed differences by reason.
    pub reasons: BTreeMap<String, i64>,
    /// What the period owes more or less than all stated and noticed before.
    pub amount: String,
    /// Set instead of an amount.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// A full hour of the log's clock.
    pub noticed_at: String,
    /// The first calls that caused it.
    pub calls: Vec<String>,
    /// Gapless in the partition's statements topic.
    pub sequence: u64,
}

impl AdjustmentRow {
    /// A notice as a row.
    pub fn new(sequence: u64, notice: pb::AdjustmentNoticed) -> Self {
        Self {
            id: notice.id,
            account: notice.account_id,
            period: notice.period,
            currency: notice.currency,
            usage: sums(notice.usage),
            usage_left_out: Some(notice.usage_left_out).filter(|rows| *rows > 0),
            reasons: notice.outcomes.into_iter().map(|c| (c.name, c.change)).collect(),
            amount: notice.amount,
            error: notice.error,
            noticed_at: instant(notice.noticed_at),
            calls: notice.calls,
            sequence,
        }
    }
}

/// `export control`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ControlRow {
    /// The month.
    pub period: String,
    /// Which partition says it.
    pub partition: u32,
    /// Of how many.
    pub partition_count: u32,
    /// Statements put out.
    pub accounts: u64,
    /// Calls by outcome, as frozen.
    pub outcomes: BTreeMap<String, u64>,
    /// Billed quantities by meter, as frozen.
    pub quantities: BTreeMap<String, String>,
    /// Meters that a record had no room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantities_left_out: Option<u32>,
    /// By currency.
    pub amounts: BTreeMap<String, String>,
    /// Of the month's statements.
    pub first_sequence: u64,
    /// Of the month's statements.
    pub last_sequence: u64,
    /// Rules up to this version held.
    pub control_version: u64,
    /// Gapless in the partition's statements topic.
    pub sequence: u64,
}

impl ControlRow {
    /// A month's control record as a row.
    pub fn new(sequence: u64, control: pb::PeriodControl) -> Self {
        Self {
            period: control.period,
            partition: control.partition,
            partition_count: control.partition_count,
            accounts: control.accounts,
            outcomes: counts(control.outcomes),
            quantities: control.quantities.into_iter().map(|q| (q.meter, q.quantity)).collect(),
            quantities_left_out: Some(control.quantities_left_out).filter(|meters| *meters > 0),
            amounts: control.amounts.into_iter().map(|a| (a.currency, a.amount)).collect(),
            first_sequence: control.first_sequence,
            last_sequence: control.last_sequence,
            control_version: control.control_version,
            sequence,
        }
    }
}

/// `export rejects`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RejectRow {
    /// Which partition.
    pub partition: u32,
    /// Offset of the record.
    pub offset: u64,
    /// RULES §5.
    pub reason: String,
    /// At fault.
    pub field: String,
    /// What is wrong, and the cure.
    pub detail: String,
    /// As received: text as it is, other bytes in base64.
    pub record: String,
    /// `base64` if the record isn't text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_encoding: Option<&'static str>,
    /// The record was longer than what is kept of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl From<pb::Rejected> for RejectRow {
    fn from(reject: pb::Rejected) -> Self {
        let text = std::str::from_utf8(&reject.record).ok().filter(|t| {
            // Protobuf may be UTF-8 by chance: control characters tell.
            !t.chars().any(|c| c.is_control() && !c.is_whitespace())
        });
        let (record, record_encoding) = match text {
            Some(text) => (text.to_owned(), None),
            None => (
                base64::engine::general_purpose::STANDARD.encode(&reject.record),
                Some("base64"),
            ),
        };
        Self {
            partition: reject.partition,
            offset: reject.offset,
            reason: reject.reason,
            field: reject.field,
            detail: reject.detail,
            record,
            record_encoding,
            truncated: reject.truncated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_that_cannot_be_read_is_shown_as_it_stands() {
        let row = |quantity: &str| pb::UsageRow {
            meter: "output_tokens".to_owned(),
            quantity: quantity.to_owned(),
            ..pb::UsageRow::default()
        };
        let sums = sums(vec![row("2"), row("many"), row("3")]);
        let shown: Vec<&str> = sums.iter().map(|s| s.quantity.as_str()).collect();
        assert_eq!(shown, ["5", "many"]);
    }
}
