//! Producers that place events in their own ways: by Kafka's hash of a key, by another hash, by none. The bill is one and the
//! same.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use reckon::log::kafka::KafkaLog;
use reckon::log::placement::partition_of;
use reckon::log::{Batch, Log};
use reckon::machine::clock::Source;
use reckon::machine::control::is_for_everyone;
use reckon::machine::output::{Topic, calls_of};
use reckon::model::period::Month;
use reckon::wire::check::timestamp;
use reckon::wire::pb::{self, statement_record::Body};
use reckon::wire::record::{Kind, account_of};
use reckon::workload::What;
use reckon::workload::synthetic::Synthetic;
use serde_json::Value;

use crate::broker;
use crate::comparing::compare;
use crate::fleet::{Fleet, eventually, usage};
use crate::outputs::{Seen, delivered, read};
use crate::served::Served;
use crate::topics::Topics;

/// Not a divisor of what other partitioners' hashes come out even with.
const PARTITIONS: u32 = 5;

/// 1 September 2026.
const START: i64 = 1_788_220_800_000;

/// Events that come between two ticks, at least.
const AT_ONCE: usize = 250;

/// A producer that places events in its own way.
struct Placing {
    name: &'static str,
    topics: Topics,
    producer: ThreadedProducer<DefaultProducerContext>,
    keyed: bool,
    /// Of all partitions, to look at what is there.
    log: KafkaLog,
}

/// What is in a log's input.
#[derive(Debug, Default)]
struct Census {
    events: usize,
    misplaced: BTreeSet<(u32, u64)>,
    forwarded: BTreeSet<(u32, u64)>,
}

impl Placing {
    fn new(name: &'static str, partitioner: &str, keyed: bool) -> Self {
        let topics = Topics::create(&broker::shared().bootstrap(), PARTITIONS, Source::Ticks, 1);
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &topics.settings.bootstrap)
            .set("partitioner", partitioner)
            .set("enable.idempotence", "true")
            .set("sticky.partitioning.linger.ms", "0")
            .create()
            .expect("a producer");
        let log = KafkaLog::open(&topics.settings).expect("the log");
        Self {
            name,
            topics,
            producer,
            keyed,
            log,
        }
    }

    /// Writes events, and waits until all that are misplaced have been forwarded.
    fn write(&self, events: &[(String, Vec<u8>)], before: usize) {
        let topic = self.topics.settings.events();
        for (account, bytes) in events {
            let mut record = BaseRecord::to(&topic).payload(bytes.as_slice());
            if self.keyed {
                record = record.key(account.as_str());
            }
            self.producer.send(record).expect("room");
        }
        self.producer.flush(Duration::from_secs(30)).expect("written");
        eventually("forwarding is over", Duration::from_secs(60), || {
            let census = self.census();
            (census.events == before + events.len() && census.forwarded == census.misplaced).then_some(())
        });
    }

    fn census(&self) -> Census {
        let mut census = Census::default();
        for partition in 0..PARTITIONS {
            let mut batch = Batch::default();
            self.log.poll(partition, 0, usize::MAX, &mut batch).expect("records");
            for record in batch.iter().filter(|r| r.kind == Kind::Event) {
                if let Some(first) = record.headers.forwarded {
                    census.forwarded.insert((first.partition, first.offset));
                    continue;
                }
                census.events += 1;
                let account = account_of(record.bytes).expect("an account");
                if partition_of(&account, PARTITIONS) != partition {
                    census.misplaced.insert((partition, record.offset));
                }
            }
        }
        census
    }
}

/// What accounts owe, without places and orders of a log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Bill {
    /// The last verdict of each.
    calls: BTreeMap<(String, String), String>,
    statements: BTreeMap<(String, String), String>,
    adjustments: BTreeMap<(String, String), BTreeSet<String>>,
    usage: BTreeMap<(String, String), Value>,
}

fn sorted<T: std::fmt::Debug>(rows: &mut [T]) {
    rows.sort_by_key(|row| format!("{row:?}"));
}

/// Each verdict of each call as it was given.
type Verdicts = BTreeMap<(String, String, u32), pb::CallSettled>;

/// What consumers of the output topics and those who ask are told. Calls are dropped from a notice: the first few that caused it.
fn bill(topics: &Topics, instances: &[Served]) -> (Bill, Verdicts) {
    let folded = topics.fold();
    for one in &folded {
        assert_eq!(compare(&one.machine, &one.outputs, &one.findings), None);
    }
    let (mut bill, mut verdicts) = (Bill::default(), Verdicts::new());
    for seen in delivered(topics, Topic::Calls, &folded, Duration::from_secs(60))
        .values()
        .flatten()
    {
        for call in calls_of(&seen.body).expect("calls") {
            let key = (call.account_id.clone(), call.call_id.clone(), call.revision);
            let mut call = call;
            sorted(&mut call.quantities);
            assert_eq!(verdicts.insert(key, call), None, "twice");
        }
    }
    for ((account, call, _), verdict) in &verdicts {
        // How often and when a verdict was amended hangs on the order in which a call's events came.
        let mut last = verdict.clone();
        (last.revision, last.settled_at) = (0, None);
        bill.calls.insert((account.clone(), call.clone()), format!("{last:?}"));
    }
    for seen in delivered(topics, Topic::Statements, &folded, Duration::from_secs(60))
        .values()
        .flatten()
    {
        let record = pb::StatementRecord::decode(seen.body.as_slice()).expect("a record");
        match record.body.expect("a body") {
            Body::PeriodClosed(mut closed) => {
                sorted(&mut closed.usage);
                sorted(&mut closed.outcomes);
                sorted(&mut closed.reasons);
                sorted(&mut closed.unpriced);
                for line in &mut closed.lines {
                    sorted(&mut line.rows);
                    line.notices.clear();
                }
                sorted(&mut closed.lines);
                let key = (closed.account_id.clone(), closed.period.clone());
                assert_eq!(bill.statements.insert(key, format!("{closed:?}")), None, "twice");
            }
            Body::AdjustmentNoticed(mut notice) => {
                sorted(&mut notice.usage);
                sorted(&mut notice.outcomes);
                notice.id.clear();
                notice.calls.clear();
                let key = (notice.account_id.clone(), notice.period.clone());
                bill.adjustments.entry(key).or_default().insert(format!("{notice:?}"));
            }
            Body::PeriodControl(_) => {}
        }
    }
    for key in bill.statements.keys() {
        let answer = eventually("an answer", Duration::from_secs(30), || {
            instances.iter().find_map(|served| usage(served, &key.0, &key.1))
        });
        let mut rows = answer["rows"].as_array().cloned().unwrap_or_default();
        sorted(&mut rows);
        bill.usage.insert(key.clone(), rows.into());
    }
    let rejects = delivered(topics, Topic::Rejects, &folded, Duration::from_secs(60));
    assert!(rejects.values().all(Vec::is_empty), "{rejects:?}");
    (bill, verdicts)
}

#[test]
fn however_producers_place_events_the_bill_is_the_same() {
    let month = Month(2026 * 12 + 8);
    let made = Synthetic {
        seed: 11,
        month,
        calls: 700,
    }
    .make();
    let ways = [
        Placing::new("java", "murmur2_random", true),
        Placing::new("librdkafka", "consistent_random", true),
        Placing::new("keyless", "consistent_random", false),
    ];
    let fleets: Vec<Fleet> = ways.iter().map(|way| Fleet::of(&way.topics, &[])).collect();
    let instances: Vec<Vec<Served>> = fleets
        .iter()
        .map(|fleet| ["a", "b"].map(|name| fleet.start(name)).into())
        .collect();
    let operators: Vec<_> = ways.iter().map(|way| way.topics.operator()).collect();
    let (mut waiting, mut written, mut version) = (Vec::new(), 0, 0);
    let last_ms = made.steps.last().expect("steps").at_ms;
    let first_ms = made.steps[0].at_ms;
    // The clock has to begin, and at the end both months are closed.
    let mut steps = vec![(first_ms, What::Tick)];
    steps.extend(made.steps.into_iter().map(|s| (s.at_ms, s.what)));
    steps.push((last_ms + 70 * 86_400_000, What::Tick));
    for (at_ms, what) in steps {
        let control = match what {
            What::Event(event) => {
                let bytes = match waiting.len() % 2 {
                    0 => event.encode_to_vec(),
                    _ => reckon::wire::json::encode(&event).to_string().into_bytes(),
                };
                waiting.push((event.account_id.clone(), bytes));
                continue;
            }
            What::Tick if waiting.len() < AT_ONCE && at_ms > first_ms && at_ms <= last_ms => continue,
            What::Tick => None,
            What::Control(control) => {
                let mut control = *control;
                if is_for_everyone(&control) {
                    version += 1;
                    control.control_version = version;
                }
                Some(control)
            }
        };
        // What a forwarded event finds hangs on when it comes home: so the clock waits for it.
        if !waiting.is_empty() {
            ways.iter().for_each(|way| way.write(&waiting, written));
        }
        written += waiting.len();
        waiting.clear();
        for (way, operator) in ways.iter().zip(&operators) {
            let record = match &control {
                None => way.topics.tick(at_ms),
                Some(control) => way.topics.control(control, at_ms),
            };
            operator.append(&[record], PARTITIONS).expect("appended");
        }
    }
    let mut bills = Vec::new();
    for (way, instances) in ways.iter().zip(&instances) {
        bills.push(bill(&way.topics, instances));
        let census = way.census();
        println!(
            "{}: {} of {} events were misplaced",
            way.name,
            census.misplaced.len(),
            census.events
        );
        assert_eq!(census.misplaced.is_empty(), way.name == "java");
        let counted: u64 = way.topics.fold().iter().map(|f| f.machine.counters.forwarded).sum();
        assert_eq!(counted, census.misplaced.len() as u64);
        way.log.leave();
    }
    let (first, first_verdicts) = &bills[0];
    assert!(first.statements.len() >= 12, "{} statements", first.statements.len());
    assert!(first.calls.len() >= 700, "{} calls", first.calls.len());
    for ((bill, verdicts), way) in bills.iter().zip(&ways) {
        for (own, first) in bill.calls.iter().zip(&first.calls) {
            assert_eq!(own, first, "{}", way.name);
        }
        assert_eq!(bill, first, "{}", way.name);
        // A key keeps a call's events in their order on every way home.
        if way.keyed {
            assert_eq!(verdicts, first_verdicts, "{}", way.name);
        }
    }
}

/// An account that lives in a partition: of its letter as many as it takes to be this long, or one more.
fn account_of_len(len: usize, home: u32, partitions: u32) -> String {
    (len..len + 100)
        .map(|len| "x".repeat(len))
        .find(|account| partition_of(account, partitions) == home)
        .expect("one of them")
}

/// Why a record was rejected.
fn rejected(seen: &Seen) -> String {
    pb::Rejected::decode(seen.body.as_slice()).expect("a reject").reason
}

/// Letters that no compression makes much of: brokers measure what is compressed.
fn noise(len: usize) -> String {
    let mut draw = reckon::workload::seed::Seed::new(3);
    (0..len).map(|_| char::from(b'!' + draw.below(90) as u8)).collect()
}

#[test]
fn misplaced_events_too_large_for_producers_hold_nothing_back() {
    let topics = Topics::create(&broker::shared().bootstrap(), 2, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    topics.operator().append(&[topics.tick(START)], 2).expect("a tick");
    let gateway: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
        .set("bootstrap.servers", &topics.settings.bootstrap)
        .set("message.max.bytes", "2000000")
        .create()
        .expect("a producer");
    let events = topics.settings.events();
    let event = |account: &str, source: usize| {
        let event = pb::CallEvent {
            account_id: account.to_owned(),
            call_id: "c".to_owned(),
            phase: pb::Phase::Started.into(),
            occurred_at: Some(timestamp(START)),
            source: noise(source),
            ..pb::CallEvent::default()
        };
        event.encode_to_vec()
    };
    let records = [
        // As large as a broker takes by its defaults, and more than a producer does by its own.
        event(&account_of_len(5, 1, 2), 1_020_000),
        // As large as the topic takes: with the header that says where it was found it would be too large.
        event(&account_of_len(5, 1, 2), 1_048_470),
        // Its account, as the key, would be as much again.
        event(&account_of_len(520_000, 1, 2), 0),
        // At home, and rejected there.
        b"garbage".to_vec(),
    ];
    for bytes in &records {
        let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(&events).partition(0).payload(bytes);
        gateway.send(record).map_err(|(cause, _)| cause).expect("room");
    }
    gateway.flush(Duration::from_secs(30)).expect("written");
    let _served = fleet.start("one");
    let all = [
        BTreeSet::from(["undecodable"]),
        BTreeSet::from(["bad_id", "too_large", "undecodable"]),
    ];
    eventually("what is wrong with each", Duration::from_secs(60), || {
        let seen = read(&topics, Topic::Rejects, "read_committed");
        let rejects = |partition: u32| seen[&partition].iter().map(rejected).collect::<BTreeSet<String>>();
        let is_there =
            |(partition, reasons): (u32, &BTreeSet<&str>)| reasons.iter().all(|r| rejects(partition).contains(*r));
        (0..).zip(&all).all(is_there).then_some(())
    });
    assert!(!fleet.said("one").contains("interrupted"), "{}", fleet.said("one"));
}
