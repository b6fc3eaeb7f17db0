//! The tables of the billing rules against real `reckon serve` processes: records through `POST /v1/records`, what holds
//! through the reads and outputs. Those that script append times stay with the log in memory (`tests/fold`).

use std::collections::BTreeMap;
use std::sync::Mutex;

use prost::Message;
use reckon::log::Identity;
use reckon::log::local::wall_clock;
use reckon::machine::clock::Source;
use reckon::model::period::rfc3339;
use reckon::model::quantity::Quantity;
use reckon::wire::check::instant_ms;
use reckon::wire::pb::{self, control::Body as ControlBody, statement_record::Body};
use reckon::wire::record::Kind;
use reckon::wire::{json as wire_json, protobuf};
use serde_json::{Map, Value, json};

use crate::answers::{self, Reads, text};
use crate::scenario::expect::{Facts, Known, UsageOf, run};
use crate::scenario::parse::{Record, Scenario, all};
use crate::served::Served;

/// Fewer than this says that tables were lost.
const SCENARIOS_MIN: usize = 400;

/// Processes at a time.
const AT_ONCE: usize = 4;

fn put(object: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    let value = value.into();
    if !value.is_null() && value != "" {
        object.insert(name.to_owned(), value);
    }
}

fn instant(at: Option<prost_types::Timestamp>) -> Value {
    at.map(|at| rfc3339(instant_ms(&at)).into()).unwrap_or_default()
}

fn policy_json(policy: &pb::Policy) -> Map<String, Value> {
    let mut body = Map::new();
    for (name, value) in [
        ("settle_grace_ms", policy.settle_grace_ms),
        ("disconnect_grace_ms", policy.disconnect_grace_ms),
        ("call_deadline_ms", policy.call_deadline_ms),
        ("task_deadline_ms", policy.task_deadline_ms),
        ("close_grace_ms", policy.close_grace_ms),
        ("amend_window_ms", policy.amend_window_ms),
        ("max_open_ms", policy.max_open_ms),
        ("call_span_ms", policy.call_span_ms),
    ] {
        put(&mut body, name, value.map(|v| v.to_string()));
    }
    for (name, value) in [
        ("bill_unproven", policy.bill_unproven),
        ("bill_empty_disconnect", policy.bill_empty_disconnect),
        ("bill_upstream_only", policy.bill_upstream_only),
        ("bill_cancelled_task", policy.bill_cancelled_task),
    ] {
        put(&mut body, name, value);
    }
    put(
        &mut body,
        "rollup_dimensions",
        policy.rollup_dimensions.as_ref().map(|n| json!({"names": n.names})),
    );
    body
}

/// A control record as an operator writes it.
fn control_json(control: &pb::Control) -> Value {
    let mut object = Map::new();
    put(&mut object, "id", control.id.as_str());
    put(&mut object, "issued_at", instant(control.issued_at));
    put(&mut object, "actor", control.actor.as_str());
    if control.control_version != 0 {
        put(&mut object, "control_version", control.control_version.to_string());
    }
    let mut body = Map::new();
    let name = match control.body.as_ref().expect("a body") {
        ControlBody::AccountProfile(profile) => {
            put(&mut body, "account_id", profile.account_id.as_str());
            put(&mut body, "time_zone", profile.time_zone.as_str());
            put(&mut body, "currency", profile.currency.as_str());
            "account_profile"
        }
        ControlBody::Correction(correction) => {
            put(&mut body, "account_id", correction.account_id.as_str());
            put(&mut body, "call_id", correction.call_id.as_str());
            put(&mut body, "bill", correction.bill);
            put(&mut body, "reason", correction.reason.as_str());
            let quantities = correction.quantities.iter();
            let rows = quantities.map(|q| json!({"meter": q.meter, "value": q.value.to_string(), "scale": q.scale}));
            put(&mut body, "quantities", rows.collect::<Vec<_>>());
            "correction"
        }
        ControlBody::Policy(policy) => {
            body = policy_json(policy);
            "policy"
        }
        ControlBody::RateCard(card) => {
            put(&mut body, "effective_from", instant(card.effective_from));
            let prices = card.prices.iter().map(|p| {
                json!({"product": p.product, "meter": p.meter, "service": p.service, "currency": p.currency,
                    "amount": p.amount, "per": p.per})
            });
            put(&mut body, "prices", prices.collect::<Vec<_>>());
            "rate_card"
        }
        ControlBody::HoldClose(hold) => {
            put(&mut body, "period", hold.period.as_str());
            put(&mut body, "account_id", hold.account_id.as_str());
            "hold_close"
        }
        ControlBody::ReleaseClose(release) => {
            put(&mut body, "period", release.period.as_str());
            put(&mut body, "account_id", release.account_id.as_str());
            "release_close"
        }
        // Of a log that others write, too.
        ControlBody::OperatorKeys(_) => unreachable!("no table has one"),
    };
    object.insert(name.to_owned(), body.into());
    object.into()
}

fn line(record: &Record) -> Result<Value, String> {
    match (record.kind, &record.control) {
        (_, Some((control, _))) => Ok(json!({"control": control_json(control)})),
        (Kind::Tick, None) => {
            let at = protobuf::decode_tick(&record.bytes).map_err(|e| e.to_string())?;
            Ok(json!({"tick": rfc3339(at)}))
        }
        (_, None) => {
            let event = pb::CallEvent::decode(record.bytes.as_slice()).map_err(|e| e.to_string())?;
            Ok(json!({"event": wire_json::encode(&event)}))
        }
    }
}

/// A scenario's log in a process of its own.
struct Remote {
    served: Served,
    last_tick: i64,
    /// Lines to be posted before the next question.
    waiting: Vec<Value>,
    /// The last line's result.
    last: Value,
    /// Offset of the last line that was appended.
    offset: Option<u64>,
    /// Outputs up to here were read.
    delivered_at: Option<u64>,
    rejects: Vec<Value>,
    statements: Vec<Body>,
    sequences: (u64, u64),
    sentinels: u64,
    _folder: tempfile::TempDir,
}

fn offset_of(result: &Value) -> Option<u64> {
    let own = result["offset"]
        .as_str()
        .or_else(|| result["places"][0]["offset"].as_str());
    own.and_then(|text| text.parse().ok())
}

impl Remote {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let identity = Identity {
            log_id: "scenario".to_owned(),
            partition_count: 1,
            source: Source::Ticks,
        };
        drop(reckon::partition::host::create_log(folder.path(), &identity, wall_clock()).expect("a log"));
        Self {
            served: Served::start(folder.path(), &[]),
            last_tick: i64::MIN,
            waiting: Vec::new(),
            last: Value::Null,
            offset: None,
            delivered_at: None,
            rejects: Vec::new(),
            statements: Vec::new(),
            sequences: (0, 0),
            sentinels: 0,
            _folder: folder,
        }
    }

    fn post(&mut self, lines: &[Value]) -> Result<Vec<Value>, String> {
        let body: Vec<String> = lines.iter().map(Value::to_string).collect();
        let answer = self.served.post("/v1/records", "application/x-ndjson", body.join("\n"));
        let results = answer.json()["results"].as_array().cloned().unwrap_or_default();
        if results.len() != lines.len() {
            return Err(format!("{}: {}", answer.status, answer.text));
        }
        Ok(results)
    }

    /// Posts what waits.
    fn flush(&mut self) -> Result<(), String> {
        let lines = std::mem::take(&mut self.waiting);
        if lines.is_empty() {
            return Ok(());
        }
        let results = self.post(&lines)?;
        self.offset = results.iter().filter_map(offset_of).next_back().max(self.offset);
        self.last = results.last().cloned().unwrap_or_default();
        Ok(())
    }

    /// Reads the outputs of all that was appended. A record that is sure to be rejected, and changes nothing, shows by its
    /// own reject that those before it are delivered.
    fn deliver(&mut self) -> Result<(), String> {
        self.flush()?;
        if self.delivered_at == self.offset {
            return Ok(());
        }
        self.sentinels += 1;
        let control = json!({"id": format!("sentinel-{}", self.sentinels), "control_version": "999999", "policy": {}});
        let results = self.post(&[json!({"control": control})])?;
        let sentinel = offset_of(&results[0]).ok_or_else(|| results[0].to_string())?;
        loop {
            let path = format!(
                "/v1/outputs/rejects?after={}&wait_ms=10000&limit=1000",
                self.sequences.0
            );
            let answer = self.served.get(&path).json();
            let rows = answer["outputs"].as_array().ok_or_else(|| answer.to_string())?;
            let rows: Vec<Value> = rows.iter().map(|row| row["rejected"].clone()).collect();
            if rows.is_empty() {
                return Err("the sentinel's reject doesn't come".to_owned());
            }
            self.sequences.0 += rows.len() as u64;
            let arrived = rows.iter().any(|row| offset_of(row) == Some(sentinel));
            self.rejects.extend(rows);
            if arrived {
                break;
            }
        }
        loop {
            let path = format!("/v1/outputs/statements?after={}&limit=1000", self.sequences.1);
            let answer = self.served.get(&path).json();
            let rows = answer["outputs"].as_array().ok_or_else(|| answer.to_string())?;
            if rows.is_empty() {
                break;
            }
            self.sequences.1 += rows.len() as u64;
            self.statements.extend(rows.iter().map(statement_of));
        }
        self.delivered_at = self.offset;
        Ok(())
    }
}

fn sums(rows: &Value) -> Vec<pb::UsageRow> {
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |row: &Value| pb::UsageRow {
        service: text(row, "service").to_owned(),
        product: text(row, "product").to_owned(),
        meter: text(row, "meter").to_owned(),
        class: text(row, "class").to_owned(),
        quantity: text(row, "quantity").to_owned(),
        ..pb::UsageRow::default()
    };
    rows.iter().map(row).collect()
}

/// A statement's output, as far as tables ask.
fn statement_of(output: &Value) -> Body {
    let string = |row: &Value, name: &str| text(row, name).to_owned();
    if let Some(closed) = output.get("period_closed") {
        let lines = closed["lines"].as_array().map(Vec::as_slice).unwrap_or_default();
        return Body::PeriodClosed(pb::PeriodClosed {
            account_id: string(closed, "account"),
            period: string(closed, "period"),
            total: string(closed, "total"),
            usage: sums(&closed["usage"]),
            lines: lines
                .iter()
                .map(|line| pb::StatementLine {
                    product: string(line, "product"),
                    meter: string(line, "meter"),
                    service: string(line, "service"),
                    quantity: string(line, "quantity"),
                    amount: string(line, "amount"),
                    error: string(line, "error"),
                    original_period: string(line, "original_period"),
                    ..pb::StatementLine::default()
                })
                .collect(),
            ..pb::PeriodClosed::default()
        });
    }
    if let Some(notice) = output.get("adjustment_noticed") {
        return Body::AdjustmentNoticed(pb::AdjustmentNoticed {
            account_id: string(notice, "account"),
            period: string(notice, "period"),
            amount: string(notice, "amount"),
            error: string(notice, "error"),
            usage: sums(&notice["usage"]),
            ..pb::AdjustmentNoticed::default()
        });
    }
    let control = &output["period_control"];
    Body::PeriodControl(pb::PeriodControl {
        period: string(control, "period"),
        accounts: text(control, "accounts").parse().unwrap_or_default(),
        ..pb::PeriodControl::default()
    })
}

impl Reads for Remote {
    /// A read that includes all that was appended.
    fn get(&mut self, path: &str) -> Result<(u16, Value), String> {
        self.flush()?;
        let joint = if path.contains('?') { '&' } else { '?' };
        let at_least = self
            .offset
            .map_or(String::new(), |offset| format!("{joint}at_least=0:{offset}"));
        let answer = self.served.get(&format!("{path}{at_least}"));
        Ok((answer.status, answer.json()))
    }
}

impl Facts for Remote {
    fn append(&mut self, record: &Record) -> Result<(), String> {
        if record.kind != Kind::Tick && record.at_ms > self.last_tick {
            self.waiting.push(json!({"tick": rfc3339(record.at_ms)}));
        }
        self.last_tick = self.last_tick.max(record.at_ms);
        self.waiting.push(line(record)?);
        Ok(())
    }

    fn rejected(&mut self) -> Result<Option<pb::Rejected>, String> {
        self.deliver()?;
        let found = if self.last["reason"].is_null() {
            let offset = offset_of(&self.last);
            self.rejects.iter().find(|row| offset_of(row) == offset)
        } else {
            Some(&self.last)
        };
        Ok(found.map(|row| pb::Rejected {
            reason: text(row, "reason").to_owned(),
            field: text(row, "field").to_owned(),
            detail: text(row, "detail").to_owned(),
            ..pb::Rejected::default()
        }))
    }

    fn known(&mut self, account: &str, call: &str) -> Result<Known, String> {
        answers::known(self, account, call)
    }

    fn settled(&mut self, account: &str, call: &str) -> Result<Option<pb::CallSettled>, String> {
        answers::settled(self, account, call)
    }

    fn row(&mut self, account: &str, call: &str) -> Result<String, String> {
        answers::row(self, account, call)
    }

    fn usage(&mut self, of: &UsageOf<'_>) -> Result<BTreeMap<String, Quantity>, String> {
        answers::usage(self, of)
    }

    fn statements(&mut self) -> Result<Vec<Body>, String> {
        self.deliver()?;
        Ok(self.statements.clone())
    }
}

#[test]
fn every_scenario_of_ticks_holds_over_http() {
    let (scenarios, failures) = all();
    let scripted = scenarios.iter().filter(|s| s.append_clock).count();
    let waiting: Vec<Scenario> = scenarios.into_iter().filter(|s| !s.append_clock).collect();
    let count = waiting.len();
    let (waiting, failures) = (Mutex::new(waiting), Mutex::new(failures));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(scenario) = waiting.lock().expect("the list").pop() else {
                        return;
                    };
                    let mut found = Vec::new();
                    run(&scenario, &mut Remote::start(), &mut found);
                    failures.lock().expect("the list").extend(found);
                }
            });
        }
    });
    let failures = failures.into_inner().expect("the list");
    println!("{count} scenarios over HTTP; {scripted} script append times and stay on the log in memory");
    assert!(count >= SCENARIOS_MIN, "{count} scenarios");
    assert!(
        failures.is_empty(),
        "{} failures in {count} scenarios:\n{}",
        failures.len(),
        failures.join("\n")
    );
}
