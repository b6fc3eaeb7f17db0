//! The live part of the billing page as server-sent events: the same markup as on the page, by the same code.

use askama::Template;
use axum::body::Bytes;

use super::bill::{self, Bill, Found};
use crate::http::stream::id;
use crate::http::watchers::Totals;
use crate::partition::live::{Live, ReadError};
use crate::partition::taken::Taken;
use crate::store::rows::Rows;

#[derive(Template)]
#[template(path = "bill.html")]
struct BillPart<'a> {
    bill: &'a Bill,
}

/// The running period as a message, from what was taken of the account.
pub fn totals(live: &Live, taken: &Taken, rows: &mut Rows<'_>) -> Result<Option<Totals>, ReadError> {
    let Found::Bill(bill) = bill::of_taken(live, taken, rows, None)? else {
        return Ok(None);
    };
    let Ok(markup) = (BillPart { bill: &bill }).render() else {
        return Ok(None);
    };
    let mut message = format!("id: {}\n", id(bill.standing));
    // Every kind of line break ends a field of an event.
    for line in markup.split(['\n', '\r']).map(str::trim).filter(|l| !l.is_empty()) {
        message.push_str("data: ");
        message.push_str(line);
        message.push('\n');
    }
    message.push('\n');
    Ok(Some(Totals {
        standing: bill.standing,
        message: message.into(),
    }))
}

/// Says to the page that it is still connected, though nothing has changed.
pub fn heartbeat() -> Bytes {
    Bytes::from_static(b"event: still\ndata:\n\n")
}
