//! One call in plain words: what it came to, why, and what was seen of it.

use serde::Deserialize;

use super::{figures, words};
use crate::model::outcome::ROWS;
use crate::model::period::{Zone, parse_rfc3339};
use crate::partition::explain::Explained;

/// A quantity of the call.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What is counted, in words.
    pub meter: String,
    /// How much.
    pub quantity: String,
    /// How that is known.
    pub known: String,
}

/// Something that was seen of the call.
#[derive(Clone, Debug)]
pub struct Seen {
    /// As the account's clocks showed it.
    pub at: String,
    /// Who saw it.
    pub who: String,
    /// What.
    pub what: String,
    /// More of it: states, errors.
    pub more: Vec<String>,
}

/// One call as its page shows it.
#[derive(Clone, Debug)]
pub struct CallView {
    /// Its id.
    pub id: String,
    /// Charged, Not charged, or what it would be.
    pub verdict: &'static str,
    /// charged, uncharged or open: for the colour.
    pub tone: &'static str,
    /// In a few words.
    pub title: &'static str,
    /// In a sentence.
    pub sentence: &'static str,
    /// The stable code.
    pub code: &'static str,
    /// Row of the verdict table.
    pub row: u8,
    /// The row in words.
    pub rule: &'static str,
    /// When its wait ends, if it isn't settled.
    pub due: Option<String>,
    /// Amendments after the first verdict.
    pub amended: u32,
    /// A quantity is an estimate.
    pub is_estimated: bool,
    /// Such as 2026-09.
    pub period: String,
    /// Such as September 2026.
    pub period_name: String,
    /// The instant that decides the period.
    pub decided_at: String,
    /// IANA.
    pub zone: &'static str,
    /// The interface.
    pub service: String,
    /// What is priced.
    pub product: String,
    /// By meter.
    pub quantities: Vec<Measured>,
    /// The provider's word, if there is one.
    pub correction: Option<String>,
    /// In order of time.
    pub timeline: Vec<Seen>,
}

/// The evidence's JSON, as far as a timeline needs it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Evidence {
    first: String,
    last: String,
    endings: Vec<Ending>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ending {
    observer: String,
    attempt: u64,
    phase: String,
    cause: String,
    progress: String,
    client_status: u64,
    upstream_status: u64,
    end_marker: String,
    error_type: String,
    at: String,
}

impl Ending {
    fn seen(&self, zone: Zone) -> Seen {
        let what = if self.phase == "ended" {
            "saw the call end".to_owned()
        } else {
            format!("saw attempt {} end", self.attempt)
        };
        let mut more: Vec<String> = Vec::new();
        more.extend(words::progress(&self.progress).map(str::to_owned));
        if self.client_status != 0 {
            more.push(format!("status {} to the client", self.client_status));
        }
        if self.upstream_status != 0 {
            more.push(format!("status {} from the service", self.upstream_status));
        }
        match self.end_marker.as_str() {
            "seen" => more.push("the end of the stream was seen".to_owned()),
            "missing" => more.push("the end of the stream is missing".to_owned()),
            _ => {}
        }
        if !self.error_type.is_empty() {
            more.push(format!("error {}", self.error_type));
        }
        Seen {
            at: shown(&self.at, zone),
            who: words::observer(&self.observer).to_owned(),
            what: format!("{what}: {}", words::cause(&self.cause)),
            more,
        }
    }
}

fn shown(at: &str, zone: Zone) -> String {
    parse_rfc3339(at).map_or_else(|| at.to_owned(), |at| figures::exact_time(at, zone))
}

fn timeline(evidence: &serde_json::Value, zone: Zone) -> Vec<Seen> {
    let Evidence {
        first,
        last,
        mut endings,
    } = Evidence::deserialize(evidence).unwrap_or_default();
    // All of one form, in UTC: text order is time order.
    endings.sort_by(|a, b| a.at.cmp(&b.at));
    let ends_first = endings.first().is_some_and(|e| e.at <= first);
    let ends_last = endings.last().is_some_and(|e| e.at >= last);
    let report = |at: &str, what: &str| Seen {
        at: shown(at, zone),
        who: String::new(),
        what: what.to_owned(),
        more: Vec::new(),
    };
    let mut seen = Vec::new();
    if !ends_first {
        seen.push(report(&first, "First report of the call"));
    }
    seen.extend(endings.iter().map(|e| e.seen(zone)));
    if !ends_last && last != first {
        seen.push(report(&last, "Last report of the call"));
    }
    seen
}

impl CallView {
    /// A call in the words of its page.
    pub fn of(explained: Explained, zone: Zone) -> Self {
        let known = &explained.known;
        let ruling = &known.verdict.ruling;
        let settled = known.call.is_settled();
        let (title, sentence) = words::reason(ruling.reason, ruling.billed);
        let (verdict, tone) = match (settled, ruling.billed) {
            (true, true) => ("Charged", "charged"),
            (true, false) => ("Not charged", "uncharged"),
            (false, true) => ("Not decided yet; charged as it stands", "open"),
            (false, false) => ("Not decided yet; not charged as it stands", "open"),
        };
        Self {
            verdict,
            tone,
            title,
            sentence,
            code: ruling.reason.as_str(),
            row: ruling.row,
            rule: ROWS[usize::from(ruling.row) - 1],
            due: known.due.map(|due| figures::time(due, zone)),
            amended: known.call.revision.saturating_sub(1),
            is_estimated: known.verdict.bill.estimated,
            period: explained.period.to_string(),
            period_name: figures::month_name(explained.period),
            decided_at: figures::exact_time(ruling.at, zone),
            zone: zone.name(),
            quantities: explained
                .quantities
                .iter()
                .map(|q| Measured {
                    meter: words::meter(&q.meter).to_owned(),
                    quantity: figures::quantity(q.quantity.parse().unwrap_or_default()),
                    known: words::provenance(&q.provenance).to_owned(),
                })
                .collect(),
            correction: known.correction.as_ref().map(|c| c.reason.clone()),
            timeline: timeline(&explained.evidence, zone),
            id: explained.call,
            service: explained.service,
            product: explained.product,
        }
    }
}
