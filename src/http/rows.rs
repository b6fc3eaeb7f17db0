//! Outputs as HTTP says them: the rows of `reckon export`, but every count, sequence and offset a decimal string, as in all
//! other answers. (Exported rows have them as numbers, and stay as they are.)

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::partition::rows::{AdjustmentRow, ContinuedLine, ControlRow, Line, RejectRow, StatementRow, Sum};

fn texts<N: ToString>(counts: BTreeMap<String, N>) -> BTreeMap<String, String> {
    counts.into_iter().map(|(name, n)| (name, n.to_string())).collect()
}

/// A closed statement; in an output, of one that is too large for a record, a page.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ClosedStatement {
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
    pub outcomes: BTreeMap<String, String>,
    /// Calls by reason.
    pub reasons: BTreeMap<String, String>,
    /// The log's clock.
    pub closed_at: String,
    /// Rate cards up to this version hold.
    #[schema(example = "4")]
    pub control_version: String,
    /// Gapless in the partition's statements topic; of a whole statement that has pages, the first one's.
    #[schema(example = "17")]
    pub sequence: String,
    /// Set on a page, from 1. What is there once (bounds, total, outcomes ...) is on the first; else it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// How many pages there are; set on a page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<u32>,
    /// More of lines of this page or earlier ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub continued: Vec<ContinuedLine>,
}

impl From<StatementRow> for ClosedStatement {
    fn from(row: StatementRow) -> Self {
        Self {
            account: row.account,
            period: row.period,
            from: row.from,
            until: row.until,
            time_zone: row.time_zone,
            currency: row.currency,
            usage: row.usage,
            lines: row.lines,
            total: row.total,
            other_totals: row.other_totals,
            unpriced: row.unpriced,
            outcomes: texts(row.outcomes),
            reasons: texts(row.reasons),
            closed_at: row.closed_at,
            control_version: row.control_version.to_string(),
            sequence: row.sequence.to_string(),
            page: row.page,
            pages: row.pages,
            continued: row.continued,
        }
    }
}

/// A change of a closed period.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AdjustmentNotice {
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
    /// Rows of usage that a record had no room for; the amount is of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_left_out: Option<String>,
    /// Signed differences by reason.
    pub reasons: BTreeMap<String, String>,
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
    #[schema(example = "17")]
    pub sequence: String,
}

impl From<AdjustmentRow> for AdjustmentNotice {
    fn from(row: AdjustmentRow) -> Self {
        Self {
            id: row.id,
            account: row.account,
            period: row.period,
            currency: row.currency,
            usage: row.usage,
            usage_left_out: row.usage_left_out.map(|rows| rows.to_string()),
            reasons: texts(row.reasons),
            amount: row.amount,
            error: row.error,
            noticed_at: row.noticed_at,
            calls: row.calls,
            sequence: row.sequence.to_string(),
        }
    }
}

/// A month's sums of one partition.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MonthControl {
    /// The month.
    pub period: String,
    /// Which partition says it.
    pub partition: u32,
    /// Of how many.
    pub partition_count: u32,
    /// Statements put out.
    #[schema(example = "97")]
    pub accounts: String,
    /// Calls by outcome, as frozen.
    pub outcomes: BTreeMap<String, String>,
    /// Billed quantities by meter, as frozen.
    pub quantities: BTreeMap<String, String>,
    /// Meters that a record had no room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantities_left_out: Option<String>,
    /// By currency.
    pub amounts: BTreeMap<String, String>,
    /// Of the month's statements; 0: there is none.
    #[schema(example = "12")]
    pub first_sequence: String,
    /// Of the month's statements; 0: there is none.
    #[schema(example = "108")]
    pub last_sequence: String,
    /// Rules up to this version held.
    #[schema(example = "4")]
    pub control_version: String,
    /// Gapless in the partition's statements topic.
    #[schema(example = "109")]
    pub sequence: String,
}

impl From<ControlRow> for MonthControl {
    fn from(row: ControlRow) -> Self {
        Self {
            period: row.period,
            partition: row.partition,
            partition_count: row.partition_count,
            accounts: row.accounts.to_string(),
            outcomes: texts(row.outcomes),
            quantities: row.quantities,
            quantities_left_out: row.quantities_left_out.map(|meters| meters.to_string()),
            amounts: row.amounts,
            first_sequence: row.first_sequence.to_string(),
            last_sequence: row.last_sequence.to_string(),
            control_version: row.control_version.to_string(),
            sequence: row.sequence.to_string(),
        }
    }
}

/// A record that was not folded.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RejectedRecord {
    /// Which partition.
    pub partition: u32,
    /// Offset of the record.
    #[schema(example = "1041")]
    pub offset: String,
    /// A stable code.
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

impl From<RejectRow> for RejectedRecord {
    fn from(row: RejectRow) -> Self {
        Self {
            partition: row.partition,
            offset: row.offset.to_string(),
            reason: row.reason,
            field: row.field,
            detail: row.detail,
            record: row.record,
            record_encoding: row.record_encoding,
            truncated: row.truncated,
        }
    }
}
