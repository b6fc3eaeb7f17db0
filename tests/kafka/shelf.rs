//! A partition of a log for lines of a table: records written by a gateway's and an operator's producers, folded by whoever
//! serves the log, what holds read over HTTP and from the output topics.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use prost::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use reckon::log::kafka::publish::{ControlWriter, Publisher};
use reckon::log::{NewRecord, Place};
use reckon::machine::control::is_for_everyone;
use reckon::machine::output::Topic;
use reckon::model::quantity::Quantity;
use reckon::wire::check::timestamp;
use reckon::wire::pb::{self, control::Body as ControlBody, statement_record::Body};
use reckon::wire::record::Kind;

use self::answers::Reads;
use crate::fleet::eventually;
use crate::scenario::expect::{Facts, Known, UsageOf, run};
use crate::scenario::parse::{Record, Scenario, Step, parse};
use crate::served::Served;
use crate::topics::{Topics, living_in};

#[path = "../http/answers.rs"]
mod answers;

/// Prices, an account and what it owes so far: 15.00.
pub const OWED: &str = "01 00:00:00 card from=2026-09-01T00:00:00Z price=m-large/output_tokens/:15/1000000
01 00:00:01 profile zone=Europe/Berlin currency=USD
10 12:00:00 ended completed product=m-large output_tokens=1000000
10 13:00:00 tick
=> success completed billed product=m-large output_tokens=1000000";

/// What all scenarios of a log share.
pub struct SharedLog<'a> {
    topics: &'a Topics,
    served: &'a Served,
    gateway: Publisher,
    operator: Mutex<ControlWriter>,
}

impl<'a> SharedLog<'a> {
    /// Of a log and whoever serves it.
    pub fn new(topics: &'a Topics, served: &'a Served) -> Self {
        Self {
            topics,
            served,
            gateway: topics.gateway(),
            operator: Mutex::new(topics.operator()),
        }
    }
}

/// Who reads output topics of a partition, as consumers do.
struct Outputs {
    rejects: BaseConsumer,
    statements: BaseConsumer,
}

fn from_the_first(topics: &Topics, topic: Topic, partition: u32) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topics.settings.output(topic), partition as i32, Offset::Beginning)
        .expect("an offset");
    list
}

impl Outputs {
    fn of(topics: &Topics, partition: u32) -> Self {
        let rejects = topics.consumer("read_committed");
        rejects
            .assign(&from_the_first(topics, Topic::Rejects, partition))
            .expect("assigned");
        Self {
            rejects,
            statements: topics.consumer("read_committed"),
        }
    }

    /// The next reject.
    fn reject(&self) -> Result<pb::Rejected, String> {
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            match self.rejects.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if message.payload().is_some_and(|body| !body.is_empty()) => {
                    return pb::Rejected::decode(message.payload().unwrap_or_default()).map_err(|e| e.to_string());
                }
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) | None => {}
                Some(Err(cause)) => return Err(cause.to_string()),
            }
        }
        Err("a reject doesn't come".to_owned())
    }

    /// All statement records up to the topic's end.
    fn statements(&self, topics: &Topics, partition: u32) -> Result<Vec<Body>, String> {
        let list = from_the_first(topics, Topic::Statements, partition);
        self.statements.assign(&list).map_err(|e| e.to_string())?;
        let mut statements = Vec::new();
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            match self.statements.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let record = pb::StatementRecord::decode(message.payload().unwrap_or_default());
                    statements.extend(record.map_err(|e| e.to_string())?.body);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(statements),
                Some(Err(cause)) => return Err(cause.to_string()),
                None => {}
            }
        }
        Err("the statements have no end".to_owned())
    }
}

/// Lines of a table as a scenario.
fn scenario(lines: &str) -> Scenario {
    let scenarios = parse("these lines", &format!("== in a test\n{lines}"));
    scenarios.expect("lines of a table").remove(0)
}

/// A scenario's partition.
pub struct Shelf<'a> {
    log: &'a SharedLog<'a>,
    partition: u32,
    outputs: Outputs,
    /// Names that accounts of the table have here.
    names: BTreeMap<String, String>,
    last_tick: i64,
    /// Records to be appended before the next question.
    waiting: Vec<NewRecord>,
    /// Offset of the last record that was appended.
    offset: Option<u64>,
    /// Rejects of all before were read.
    delivered_at: Option<u64>,
    rejects: Vec<pb::Rejected>,
    sentinels: u64,
    /// The version of the last record for everyone that was accepted, and the one that may have been.
    version: u64,
    unsure: Option<(u64, u64)>,
}

impl<'a> Shelf<'a> {
    /// Nothing is in it yet.
    pub fn new(log: &'a SharedLog<'a>, partition: u32) -> Self {
        Self {
            log,
            partition,
            outputs: Outputs::of(log.topics, partition),
            names: BTreeMap::new(),
            last_tick: i64::MIN,
            waiting: Vec::new(),
            offset: None,
            delivered_at: None,
            rejects: Vec::new(),
            sentinels: 0,
            version: 0,
            unsure: None,
        }
    }

    /// Goes through lines of a table, in which everything must hold.
    pub fn holds(&mut self, lines: &str) {
        let mut failures = Vec::new();
        run(&scenario(lines), self, &mut failures);
        assert!(failures.is_empty(), "{lines}\n{}", failures.join("\n"));
    }

    /// Lines of a table as records, not appended: those of the operator's signed, with the version that is next.
    pub fn records(&mut self, lines: &str) -> Result<Vec<NewRecord>, String> {
        let mut records = Vec::new();
        for step in scenario(lines).steps {
            let Step::Record(record) = step else { continue };
            records.push(match &record.control {
                Some((control, given)) => {
                    let control = self.own(control, *given)?;
                    self.log.topics.signed(Kind::Control, control.encode_to_vec())
                }
                None if record.kind == Kind::Tick => self.log.topics.signed(Kind::Tick, record.bytes),
                None => NewRecord::new(Kind::Event, self.event(&record.bytes)?),
            });
        }
        Ok(records)
    }

    /// Appends a record by the producer of a gateway, whatever it says it is; its offset.
    pub fn gateway(&mut self, record: &NewRecord) -> Result<u64, String> {
        self.flush()?;
        let receipts = self.log.gateway.append(&[(self.partition, record)]);
        let offset = receipts.map_err(|e| e.to_string())?[0].offset;
        self.offset = Some(offset);
        Ok(offset)
    }

    /// Why the record at an offset was rejected; empty if it wasn't.
    pub fn reason(&mut self, offset: u64) -> Result<String, String> {
        self.deliver()?;
        let found = self.rejects.iter().find(|r| r.offset == offset);
        Ok(found.map(|r| r.reason.clone()).unwrap_or_default())
    }

    /// The name of a table's account here.
    fn name(&mut self, account: &str) -> String {
        let (partition, count) = (self.partition, self.log.topics.partitions);
        let name = self.names.entry(account.to_owned());
        name.or_insert_with(|| living_in(account, partition, count)).clone()
    }

    /// The table's account of a name.
    fn account(&self, name: &str) -> String {
        let found = self.names.iter().find(|(_, own)| *own == name);
        found.map_or_else(|| name.to_owned(), |(account, _)| account.clone())
    }

    /// Appends what waits: events and ticks as gateways do, control as the operator does.
    fn flush(&mut self) -> Result<(), String> {
        let waiting = std::mem::take(&mut self.waiting);
        for records in waiting.chunk_by(|a, b| (a.kind == Kind::Control) == (b.kind == Kind::Control)) {
            let appended = if records[0].kind == Kind::Control {
                let placed: Vec<(Place, NewRecord)> = records
                    .iter()
                    .map(|r| (Place::One(self.partition), r.clone()))
                    .collect();
                let operator = self.log.operator.lock().expect("the operator");
                operator.append(&placed, self.log.topics.partitions)
            } else {
                let placed: Vec<(u32, &NewRecord)> = records.iter().map(|r| (self.partition, r)).collect();
                self.log.gateway.append(&placed)
            };
            let receipts = appended.map_err(|e| e.to_string())?;
            self.offset = receipts.last().map(|r| r.offset);
        }
        Ok(())
    }

    /// Appends a record that is sure to be rejected and changes nothing: its own reject shows that those before are read.
    fn sentinel(&mut self) -> Result<(), String> {
        self.sentinels += 1;
        let control = pb::Control {
            id: format!("sentinel-{}", self.sentinels),
            control_version: 999_999,
            issued_at: Some(timestamp(self.last_tick)),
            actor: "kim@ops".to_owned(),
            body: Some(ControlBody::Policy(pb::Policy::default())),
        };
        let record = self.log.topics.signed(Kind::Control, control.encode_to_vec());
        let receipts = self.log.gateway.append(&[(self.partition, &record)]);
        let sentinel = receipts.map_err(|e| e.to_string())?[0].offset;
        loop {
            let reject = self.outputs.reject()?;
            if reject.offset == sentinel {
                return Ok(());
            }
            self.rejects.push(reject);
        }
    }

    /// Reads the rejects of all that was appended.
    fn deliver(&mut self) -> Result<(), String> {
        self.flush()?;
        if self.delivered_at != self.offset {
            self.sentinel()?;
            self.delivered_at = self.offset;
        }
        Ok(())
    }

    /// Gives a record for everyone the next version, which hangs on whether the one before was accepted.
    fn next_version(&mut self) -> Result<u64, String> {
        if let Some((offset, version)) = self.unsure.take() {
            self.deliver()?;
            if self.rejects.iter().all(|r| r.offset != offset) {
                self.version = version;
            }
        }
        Ok(self.version + 1)
    }

    /// A table's control record about accounts of this partition.
    fn own(&mut self, control: &pb::Control, given: bool) -> Result<pb::Control, String> {
        let mut control = control.clone();
        match &mut control.body {
            Some(ControlBody::AccountProfile(profile)) => profile.account_id = self.name(&profile.account_id),
            Some(ControlBody::Correction(correction)) => correction.account_id = self.name(&correction.account_id),
            Some(ControlBody::HoldClose(hold)) => hold.account_id = self.name(&hold.account_id),
            Some(ControlBody::ReleaseClose(release)) => release.account_id = self.name(&release.account_id),
            _ => {}
        }
        if is_for_everyone(&control) && !given {
            control.control_version = self.next_version()?;
        }
        Ok(control)
    }

    /// A table's event of an account of this partition.
    fn event(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut event = pb::CallEvent::decode(bytes).map_err(|e| e.to_string())?;
        event.account_id = self.name(&event.account_id);
        Ok(event.encode_to_vec())
    }

    fn control(&mut self, control: &pb::Control, given: bool) -> Result<(), String> {
        let control = self.own(control, given)?;
        let record = self.log.topics.signed(Kind::Control, control.encode_to_vec());
        self.waiting.push(record);
        if is_for_everyone(&control) {
            let next = self.next_version()?;
            self.flush()?;
            let offset = self.offset.ok_or("nothing was appended")?;
            self.unsure = (control.control_version == next).then_some((offset, next));
        }
        Ok(())
    }
}

impl Reads for Shelf<'_> {
    fn get(&mut self, path: &str) -> Result<(u16, serde_json::Value), String> {
        self.flush()?;
        let joint = if path.contains('?') { '&' } else { '?' };
        let at_least = self.offset.map_or(String::new(), |offset| {
            format!("{joint}at_least={}:{offset}", self.partition)
        });
        // As clients do: a partition that has just come says when to ask again.
        Ok(eventually("an answer", Duration::from_secs(20), || {
            let answer = self.log.served.get(&format!("{path}{at_least}"));
            (answer.status != 503).then(|| (answer.status, answer.json()))
        }))
    }
}

impl Facts for Shelf<'_> {
    fn append(&mut self, record: &Record) -> Result<(), String> {
        if record.kind != Kind::Tick && record.at_ms > self.last_tick {
            self.waiting.push(self.log.topics.tick(record.at_ms).1);
        }
        self.last_tick = self.last_tick.max(record.at_ms);
        match (record.kind, &record.control) {
            (_, Some((control, given))) => self.control(control, *given)?,
            (Kind::Tick, None) => {
                let tick = self.log.topics.signed(Kind::Tick, record.bytes.clone());
                self.waiting.push(tick);
            }
            (_, None) => {
                let event = self.event(&record.bytes)?;
                self.waiting.push(NewRecord::new(Kind::Event, event));
            }
        }
        Ok(())
    }

    fn rejected(&mut self) -> Result<Option<pb::Rejected>, String> {
        self.deliver()?;
        let last = self.offset;
        Ok(self.rejects.iter().find(|r| Some(r.offset) == last).cloned())
    }

    fn known(&mut self, account: &str, call: &str) -> Result<Known, String> {
        let name = self.name(account);
        answers::known(self, &name, call)
    }

    fn settled(&mut self, account: &str, call: &str) -> Result<Option<pb::CallSettled>, String> {
        let name = self.name(account);
        answers::settled(self, &name, call)
    }

    fn row(&mut self, account: &str, call: &str) -> Result<String, String> {
        let name = self.name(account);
        answers::row(self, &name, call)
    }

    fn usage(&mut self, of: &UsageOf<'_>) -> Result<BTreeMap<String, Quantity>, String> {
        let name = self.name(of.account);
        let of = UsageOf {
            account: &name,
            ..of.clone()
        };
        answers::usage(self, &of)
    }

    fn statements(&mut self) -> Result<Vec<Body>, String> {
        self.deliver()?;
        // A transaction ends in each topic for itself, but before the same producer's next one begins: what came before the
        // first sentinel can be read everywhere once the second can.
        self.sentinel()?;
        let mut statements = self.outputs.statements(self.log.topics, self.partition)?;
        for statement in &mut statements {
            match statement {
                Body::PeriodClosed(closed) => closed.account_id = self.account(&closed.account_id),
                Body::AdjustmentNoticed(notice) => notice.account_id = self.account(&notice.account_id),
                Body::PeriodControl(_) => {}
            }
        }
        Ok(statements)
    }
}
