//! The tables' grammar.
//!
//! ```text
//! == TITLE                       a fresh log; account `acme`, call `c` unless said otherwise
//! log append                     the clock goes by append times (else by ticks, one before each record)
//! TIME [observer] PHASE [CAUSE] key=value … METER=NUMBER[@PROVENANCE] …
//! TIME tick | profile … | policy … | correct … | card … | hold MONTH | release MONTH
//! => what holds now
//! ```

use std::collections::BTreeMap;

use prost::Message;
use reckon::model::period::parse_rfc3339;
use reckon::wire::check::timestamp;
use reckon::wire::pb::{self, control::Body};
use reckon::wire::record::Kind;

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    pub at_ms: i64,
    pub kind: Kind,
    /// Of a control record, whose version is given when it is appended; else in `bytes`.
    pub control: Option<(pb::Control, bool)>,
    pub bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
pub enum Step {
    Record(Box<Record>),
    Expect { line: usize, words: Vec<String> },
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub file: String,
    pub title: String,
    pub append_clock: bool,
    pub steps: Vec<Step>,
}

/// Words of a line; quotes keep blanks together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '"' => (quoted, any) = (!quoted, true),
            ' ' | '\t' if !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                    any = false;
                }
            }
            c => word.push(c),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

/// `HH:MM:SS`, `DD HH:MM:SS`, `DDTHH:MM:SS` or RFC 3339.
pub fn time(text: &str) -> Option<i64> {
    let text = text.replace('_', "T");
    if let Some(at) = parse_rfc3339(&text) {
        return Some(at);
    }
    let (day, clock) = text.split_once('T').unwrap_or(("10", &text));
    parse_rfc3339(&format!("2026-09-{day}T{clock}Z"))
}

fn duration_ms(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..split].parse().ok()?;
    let unit = match &text[split..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(number * unit)
}

/// A decimal as value and scale.
pub fn quantity(meter: &str, text: &str) -> Option<pb::Quantity> {
    let (number, provenance) = match text.split_once('@') {
        None => (text, 0),
        Some((number, name)) => (number, by_name(name, &PROVENANCES)?),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    Some(pb::Quantity {
        meter: meter.to_owned(),
        value: format!("{whole}{fraction}").parse().ok()?,
        scale: fraction.len() as u32,
        provenance,
    })
}

const PROVENANCES: [&str; 6] = [
    "unspecified",
    "reserved",
    "estimated",
    "edge_counted",
    "upstream_measured",
    "provider_invoiced",
];
const PHASES: [&str; 7] = [
    "unspecified",
    "started",
    "response_started",
    "progress",
    "attempt_ended",
    "ended",
    "usage_reported",
];
const OBSERVERS: [&str; 4] = ["unspecified", "edge", "upstream", "provider"];
const CAUSES: [&str; 10] = [
    "unspecified",
    "completed",
    "client_gone",
    "upstream_error",
    "upstream_broken",
    "upstream_timeout",
    "rejected",
    "gateway_aborted",
    "cancelled",
    "expired",
];
const PROGRESS: [&str; 5] = [
    "unspecified",
    "not_forwarded",
    "forwarded",
    "response_started",
    "complete",
];
const KINDS: [&str; 6] = [
    "unspecified",
    "unary",
    "stream",
    "async_task",
    "batch_item",
    "session_slice",
];
const MARKERS: [&str; 3] = ["unspecified", "seen", "missing"];

fn by_name(name: &str, of: &[&str]) -> Option<i32> {
    of.iter().position(|n| *n == name).map(|n| n as i32)
}

fn event(at_ms: i64, words: &[String]) -> Option<pb::CallEvent> {
    let mut words = words.iter().map(String::as_str).peekable();
    let mut event = pb::CallEvent {
        account_id: "acme".to_owned(),
        call_id: "c".to_owned(),
        occurred_at: Some(timestamp(at_ms)),
        ..pb::CallEvent::default()
    };
    if let Some(observer) = words.peek().and_then(|w| by_name(w, &OBSERVERS)) {
        event.observer = observer;
        words.next();
    }
    event.phase = by_name(words.next()?, &PHASES)?;
    if let Some(cause) = words.peek().and_then(|w| by_name(w, &CAUSES)) {
        event.end.get_or_insert_default().cause = cause;
        words.next();
    }
    for word in words {
        let (key, value) = word.split_once('=')?;
        let number = || value.parse::<u32>().ok();
        match key {
            "account" => event.account_id = value.to_owned(),
            "call" => event.call_id = value.to_owned(),
            "attempt" => event.attempt = number()?,
            "seq" => event.seq = value.parse().ok()?,
            "service" => event.service = value.to_owned(),
            "product" => event.product = value.to_owned(),
            "kind" => event.kind = by_name(value, &KINDS)?,
            "client" => event.end.get_or_insert_default().client_status = number()?,
            "upstream" => event.end.get_or_insert_default().upstream_status = number()?,
            "progress" => event.end.get_or_insert_default().progress = by_name(value, &PROGRESS)?,
            "marker" => event.end.get_or_insert_default().end_marker = by_name(value, &MARKERS)?,
            "error" => event.end.get_or_insert_default().error_type = value.to_owned(),
            "at" => event.occurred_at = Some(timestamp(time(value)?)),
            "started_at" => event.started_at = Some(timestamp(time(value)?)),
            key => match key.strip_prefix("dim.") {
                Some(name) => {
                    event.dimensions.insert(name.to_owned(), value.to_owned());
                }
                None => event.usage.push(quantity(key, value)?),
            },
        }
    }
    Some(event)
}

/// Keys and values of a control line; other words are refused.
fn pairs(words: &[String]) -> Option<Vec<(&str, &str)>> {
    words.iter().map(|w| w.split_once('=')).collect()
}

fn policy(words: &[String]) -> Option<pb::Policy> {
    let mut policy = pb::Policy::default();
    for (key, value) in pairs(words)? {
        let flag = || value.parse::<bool>().ok();
        match key {
            "settle_grace" => policy.settle_grace_ms = Some(duration_ms(value)?),
            "disconnect_grace" => policy.disconnect_grace_ms = Some(duration_ms(value)?),
            "call_deadline" => policy.call_deadline_ms = Some(duration_ms(value)?),
            "task_deadline" => policy.task_deadline_ms = Some(duration_ms(value)?),
            "close_grace" => policy.close_grace_ms = Some(duration_ms(value)?),
            "amend_window" => policy.amend_window_ms = Some(duration_ms(value)?),
            "call_span" => policy.call_span_ms = Some(duration_ms(value)?),
            "max_open" => policy.max_open_ms = Some(duration_ms(value)?),
            "bill_unproven" => policy.bill_unproven = Some(flag()?),
            "bill_empty_disconnect" => policy.bill_empty_disconnect = Some(flag()?),
            "bill_upstream_only" => policy.bill_upstream_only = Some(flag()?),
            "bill_cancelled_task" => policy.bill_cancelled_task = Some(flag()?),
            "rollup" => {
                let names = value.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect();
                policy.rollup_dimensions = Some(pb::Names { names });
            }
            _ => return None,
        }
    }
    Some(policy)
}

/// `PRODUCT/METER/SERVICE:AMOUNT/PER[:CURRENCY]`.
fn price(text: &str) -> Option<pb::Price> {
    let mut parts = text.split(':');
    let (what, amount, currency) = (parts.next()?, parts.next()?, parts.next().unwrap_or("USD"));
    let mut what = what.split('/');
    let (amount, per) = amount.split_once('/').unwrap_or((amount, "1"));
    Some(pb::Price {
        product: what.next()?.to_owned(),
        meter: what.next()?.to_owned(),
        service: what.next().unwrap_or_default().to_owned(),
        currency: currency.to_owned(),
        amount: amount.to_owned(),
        per: per.parse().ok()?,
    })
}

fn body(verb: &str, rest: &[String]) -> Option<Body> {
    let fields = |words: &[String]| -> Option<BTreeMap<String, String>> {
        Some(
            pairs(words)?
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
        )
    };
    Some(match verb {
        "profile" => {
            let mut of = fields(rest)?;
            let mut take = |key: &str, default: &str| of.remove(key).unwrap_or_else(|| default.to_owned());
            let profile = pb::AccountProfile {
                account_id: take("account", "acme"),
                time_zone: take("zone", ""),
                currency: take("currency", ""),
            };
            if !of.is_empty() {
                return None;
            }
            Body::AccountProfile(profile)
        }
        "policy" => Body::Policy(policy(rest)?),
        "correct" => {
            let (word, rest) = rest.split_first()?;
            let mut correction = pb::Correction {
                account_id: "acme".to_owned(),
                call_id: "c".to_owned(),
                bill: match word.as_str() {
                    "bill" => Some(true),
                    "waive" => Some(false),
                    _ => return None,
                },
                ..pb::Correction::default()
            };
            for (key, value) in pairs(rest)? {
                match key {
                    "reason" => correction.reason = value.to_owned(),
                    "call" => correction.call_id = value.to_owned(),
                    "account" => correction.account_id = value.to_owned(),
                    meter => correction.quantities.push(quantity(meter, value)?),
                }
            }
            Body::Correction(correction)
        }
        "card" => {
            let mut card = pb::RateCard::default();
            for (key, value) in pairs(rest)? {
                match key {
                    "from" => card.effective_from = Some(timestamp(time(value)?)),
                    "price" => card.prices.push(price(value)?),
                    _ => return None,
                }
            }
            Body::RateCard(card)
        }
        "hold" | "release" => {
            let (period, rest) = rest.split_first()?;
            let account_id = match pairs(rest)?.as_slice() {
                [] => String::new(),
                [("account", account)] => (*account).to_owned(),
                _ => return None,
            };
            let period = period.clone();
            if verb == "hold" {
                Body::HoldClose(pb::HoldClose { period, account_id })
            } else {
                Body::ReleaseClose(pb::ReleaseClose { period, account_id })
            }
        }
        _ => return None,
    })
}

/// A control record, and whether its version was given.
fn control(line: usize, at_ms: i64, words: &[String]) -> Option<(pb::Control, bool)> {
    let (verb, rest) = words.split_first()?;
    let mut control = pb::Control {
        id: format!("control-{line}"),
        issued_at: Some(timestamp(at_ms)),
        actor: "kim@ops".to_owned(),
        ..pb::Control::default()
    };
    let mut given = false;
    let mut own = Vec::new();
    for word in rest {
        match word.split_once('=') {
            Some(("id", id)) => control.id = id.to_owned(),
            Some(("version", version)) => {
                control.control_version = version.parse().ok()?;
                given = true;
            }
            Some(("issued", at)) => control.issued_at = Some(timestamp(time(at)?)),
            _ => own.push(word.clone()),
        }
    }
    control.body = Some(body(verb, &own)?);
    Some((control, given))
}

fn record(line: usize, words: &[String]) -> Option<Record> {
    let (at_ms, words) = match words.split_first()? {
        (first, rest) if first.contains(':') => (time(first)?, rest),
        (day, rest) => {
            let (clock, rest) = rest.split_first()?;
            (time(&format!("{day}T{clock}"))?, rest)
        }
    };
    let mut record = Record {
        at_ms,
        kind: Kind::Event,
        control: None,
        bytes: Vec::new(),
    };
    let (verb, rest) = words.split_first()?;
    if verb == "tick" {
        let at = match rest {
            [] => at_ms,
            [word] => time(word.strip_prefix("at=")?)?,
            _ => return None,
        };
        record.kind = Kind::Tick;
        record.bytes = pb::Tick {
            at: Some(timestamp(at)),
        }
        .encode_to_vec();
    } else if ["profile", "policy", "correct", "card", "hold", "release"].contains(&verb.as_str()) {
        record.kind = Kind::Control;
        record.control = Some(control(line, at_ms, words)?);
    } else {
        record.bytes = event(at_ms, words)?.encode_to_vec();
    }
    Some(record)
}

/// All scenarios of a file.
pub fn parse(file: &str, text: &str) -> Result<Vec<Scenario>, String> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split(" # ").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix("== ") {
            scenarios.push(Scenario {
                file: file.to_owned(),
                title: title.to_owned(),
                append_clock: false,
                steps: Vec::new(),
            });
            continue;
        }
        let bad = || format!("{file} line {}: can't be read: {line}", number + 1);
        let scenario = scenarios.last_mut().ok_or_else(bad)?;
        if let Some(expected) = line.strip_prefix("=>") {
            scenario.steps.push(Step::Expect {
                line: number + 1,
                words: words(expected),
            });
        } else if line == "log append" {
            scenario.append_clock = true;
        } else {
            let record = record(number + 1, &words(line)).ok_or_else(bad)?;
            scenario.steps.push(Step::Record(Box::new(record)));
        }
    }
    Ok(scenarios)
}

/// All scenarios of `tests/scenarios`, and what can't be read there.
pub fn all() -> (Vec<Scenario>, Vec<String>) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("tests/scenarios")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    files.sort();
    let (mut scenarios, mut failures) = (Vec::new(), Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a table");
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match parse(&name, &text) {
            Ok(found) => scenarios.extend(found),
            Err(what) => failures.push(what),
        }
    }
    (scenarios, failures)
}
