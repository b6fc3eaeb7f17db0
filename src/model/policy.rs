//! The versioned rules that an operator may set by control records (RULES §4–§6; contract, `Policy`).

use super::Ms;

const SECOND: Ms = 1_000;
const HOUR: Ms = 3_600 * SECOND;
const DAY: Ms = 24 * HOUR;

/// One version of the billing rules. Durations are milliseconds on the log's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Wait before an *arrival* row settles, for gateways that report usage apart.
    pub settle_grace_ms: Ms,
    /// Wait of rows 14–17.
    pub disconnect_grace_ms: Ms,
    /// Wait of rows 18–19 for calls.
    pub call_deadline_ms: Ms,
    /// Wait of rows 18–19 for tasks and batch items.
    pub task_deadline_ms: Ms,
    /// How long after a period's end it closes; taken when the period's bounds are stored.
    pub close_grace_ms: Ms,
    /// How late an event may be; the one in force now.
    pub amend_window_ms: Ms,
    /// Row 16 bills.
    pub bill_unproven: bool,
    /// Row 15 bills.
    pub bill_empty_disconnect: bool,
    /// Row 18 bills.
    pub bill_upstream_only: bool,
    /// A cancelled task bills.
    pub bill_cancelled_task: bool,
    /// Names of the rollup dimensions, at most 3, in the operator's order.
    pub rollup_dimensions: Vec<String>,
    /// No call stays open longer than this after its first event arrived.
    pub max_open_ms: Ms,
    /// How long after a call's last known event another may occur; the one in force now.
    pub call_span_ms: Ms,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            settle_grace_ms: 0,
            disconnect_grace_ms: 30 * SECOND,
            call_deadline_ms: HOUR,
            task_deadline_ms: 48 * HOUR,
            close_grace_ms: DAY,
            amend_window_ms: 35 * DAY,
            bill_unproven: false,
            bill_empty_disconnect: false,
            bill_upstream_only: true,
            bill_cancelled_task: false,
            rollup_dimensions: Vec::new(),
            max_open_ms: 7 * DAY,
            call_span_ms: 3 * DAY,
        }
    }
}
