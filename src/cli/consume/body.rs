//! What a record of the statements topic says, as `consume statements` keeps it: a row of `export`, counts as numbers; a statement
//! that has pages in its pages.

use prost::Message;
use serde::Serialize;

use crate::machine::output::Output;
use crate::partition::rows::{AdjustmentRow, ControlRow, StatementRow};
use crate::wire::pb;
use crate::wire::pb::statement_record::Body;

/// One record.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeptBody {
    /// A closed statement, or a page of one.
    PeriodClosed(Box<StatementRow>),
    /// A change of a closed period.
    AdjustmentNoticed(Box<AdjustmentRow>),
    /// A month's sums of its partition.
    PeriodControl(Box<ControlRow>),
    /// An output of another version.
    Unreadable(&'static str),
}

impl KeptBody {
    /// What an output of the statements topic says.
    pub fn of(output: &Output) -> Result<Self, prost::DecodeError> {
        let sequence = output.sequence;
        Ok(match pb::StatementRecord::decode(output.body.as_slice())?.body {
            Some(Body::PeriodClosed(closed)) => Self::PeriodClosed(Box::new(StatementRow::new(sequence, closed))),
            Some(Body::AdjustmentNoticed(notice)) => {
                Self::AdjustmentNoticed(Box::new(AdjustmentRow::new(sequence, notice)))
            }
            Some(Body::PeriodControl(control)) => Self::PeriodControl(Box::new(ControlRow::new(sequence, control))),
            None => Self::Unreadable("a record of a newer version"),
        })
    }
}
