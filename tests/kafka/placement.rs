//! Who writes what where: producers that place events in their own ways, a gateway that writes more than events, and all that a
//! partition holds besides records. None of it changes a bill.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use reckon::log::kafka::KafkaLog;
use reckon::log::placement::partition_of;
use reckon::log::{Batch, Log, NewRecord};
use reckon::machine::clock::Source;
use reckon::machine::control::is_for_everyone;
use reckon::machine::output::{Topic, calls_of};
use reckon::model::period::Month;
use reckon::wire::check::timestamp;
use reckon::wire::key_pair::KeyPair;
use reckon::wire::pb::{self, control::Body as ControlBody, statement_record::Body};
use reckon::wire::record::{Forwarded, Kind, account_of};
use reckon::wire::signature::Signer;
use reckon::workload::What;
use reckon::workload::synthetic::Synthetic;
use serde_json::Value;

use crate::broker;
use crate::comparing::compare;
use crate::fleet::{Fleet, eventually, ready, usage};
use crate::outputs::all_delivered;
use crate::scenarios::{SharedLog, Shelf};
use crate::served::Served;
use crate::topics::{Topics, living_in};

/// Not a divisor of what other partitioners' hashes come out even with.
const PARTITIONS: u32 = 5;

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
            self.log
                .poll(partition, 0, usize::MAX, &mut batch)
                .expect("records");
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
    for seen in all_delivered(topics, Topic::Calls, &folded).values().flatten() {
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
    for seen in all_delivered(topics, Topic::Statements, &folded).values().flatten() {
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
    let rejects = all_delivered(topics, Topic::Rejects, &folded);
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
        println!("{}: {} of {} events were misplaced", way.name, census.misplaced.len(), census.events);
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

/// Prices, an account and what it owes so far: 15.00.
const OWED: &str = "01 00:00:00 card from=2026-09-01T00:00:00Z price=m-large/output_tokens/:15/1000000
01 00:00:01 profile zone=Europe/Berlin currency=USD
10 12:00:00 ended completed product=m-large output_tokens=1000000
10 13:00:00 tick
=> success completed billed product=m-large output_tokens=1000000";

/// What whoever holds a gateway's credentials would like.
const WISHES: [&str; 7] = [
    "10 13:00:00 card from=2026-09-01T00:00:00Z price=m-large/output_tokens/:0/1000000",
    "10 13:00:00 policy bill_unproven=false close_grace=1h",
    "10 13:00:00 profile zone=Asia/Tokyo currency=EUR",
    "10 13:00:00 correct waive reason=wished",
    "10 13:00:00 hold 2026-09",
    "10 13:00:00 hold 2026-09 account=acme",
    "10 13:00:00 profile account=gone zone=Asia/Tokyo currency=EUR",
];

/// A control record by which a key becomes an operator's.
fn own_key(signer: &Signer, version: u64) -> Vec<u8> {
    pb::Control {
        id: "own-key".to_owned(),
        control_version: version,
        issued_at: Some(timestamp(1_789_000_000_000)),
        actor: "kim@ops".to_owned(),
        body: Some(ControlBody::OperatorKeys(pb::OperatorKeys {
            add: vec![signer.operator_key()],
            ..pb::OperatorKeys::default()
        })),
    }
    .encode_to_vec()
}

/// The same record, with every signature that one without the operator's key comes by.
fn forgeries(topics: &Topics, other: &Topics, bytes: &[u8]) -> Vec<NewRecord> {
    let with = |signature: Option<String>| NewRecord {
        signature,
        ..NewRecord::new(Kind::Control, bytes.to_vec())
    };
    let pair = || KeyPair::from_secret(&[9; 32]);
    let own = topics.signer.key_id();
    // A good signature of another value.
    let mut altered = pb::Control::decode(bytes).expect("a control record");
    altered.id.push('x');
    vec![
        with(None),
        with(Some("not a signature".to_owned())),
        with(Some(Signer::new(own, pair()).sign(&topics.log_id, bytes))),
        with(Some(Signer::new("another", pair()).sign(&topics.log_id, bytes))),
        with(Some(topics.signer.sign(&topics.log_id, &altered.encode_to_vec()))),
        // Good in another log, of the same operator and of another.
        with(Some(topics.signer.sign(&other.log_id, bytes))),
        with(Some(other.signer.sign(&other.log_id, bytes))),
    ]
}

#[test]
fn a_gateways_credentials_change_no_price_no_profile_and_no_close() {
    let bootstrap = broker::shared().bootstrap();
    let topics = Topics::create(&bootstrap, 2, Source::Ticks, 1);
    let other = Topics::create(&bootstrap, 1, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    let served = fleet.start("one");
    ready(&served, Duration::from_secs(60));
    let log = SharedLog::new(&topics, &served);
    let mut shelf = Shelf::new(&log, 0);
    shelf.holds(OWED);

    let mut wishes: Vec<Vec<u8>> = Vec::new();
    for wish in WISHES {
        wishes.extend(shelf.records(wish).expect("records").into_iter().map(|r| r.bytes));
    }
    assert_eq!(wishes.len(), WISHES.len());
    wishes.push(own_key(&Signer::new("another", KeyPair::from_secret(&[9; 32])), 2));
    let mut forged = Vec::new();
    for bytes in &wishes {
        for record in forgeries(&topics, &other, bytes) {
            forged.push(shelf.gateway(&record).expect("appended"));
        }
    }
    // A tick that closes the month, unsigned and signed for another log.
    let mut tick = shelf.records("2026-10-20T00:00:00Z tick").expect("records").remove(0);
    tick.signature = None;
    forged.push(shelf.gateway(&tick).expect("appended"));
    tick.signature = Some(topics.signer.sign(&other.log_id, &tick.bytes));
    forged.push(shelf.gateway(&tick).expect("appended"));
    for offset in &forged {
        assert_eq!(shelf.reason(*offset).as_deref(), Ok("not_authorised"), "offset {offset}");
    }
    println!("{} forgeries", forged.len());
    shelf.holds("=> no statement 2026-09\n=> success completed billed product=m-large output_tokens=1000000");

    // What the operator said once is not said again by repeating it.
    let said = shelf.records("20 12:00:00 hold 2026-09 account=acme id=h1\n20 12:00:01 correct waive reason=outage id=w1");
    let said = said.expect("records");
    for record in &said {
        let offset = shelf.gateway(record).expect("appended");
        assert_eq!(shelf.reason(offset).as_deref(), Ok(""));
    }
    shelf.holds("=> failed operator_waived unbilled output_tokens=1000000 product=m-large");
    // A version that nobody has used up is the next one.
    shelf.holds(
        "21 12:00:00 release 2026-09 account=acme id=r1
         21 12:00:01 correct bill reason=no_outage id=b1
         => success operator_billed billed output_tokens=1000000 product=m-large
         21 12:00:02 policy call_deadline=10m id=p1
         => accepted",
    );
    for record in &said {
        let offset = shelf.gateway(record).expect("appended");
        assert_eq!(shelf.reason(offset).as_deref(), Ok(""), "ignored");
    }
    shelf.holds(
        "=> success operator_billed billed output_tokens=1000000 product=m-large
         2026-10-20T00:00:00Z tick
         => statement 2026-09 total=15.00 lines=1",
    );

    // One that says it was forwarded, where its account doesn't live.
    let event = pb::CallEvent {
        account_id: living_in("eve", 1, 2),
        call_id: "c".to_owned(),
        ..pb::CallEvent::default()
    };
    let misplaced = NewRecord {
        forwarded: Some(Forwarded {
            partition: 0,
            offset: 1,
            append_ms: 0,
        }),
        ..NewRecord::new(Kind::Event, event.encode_to_vec())
    };
    let offset = shelf.gateway(&misplaced).expect("appended");
    assert_eq!(shelf.reason(offset).as_deref(), Ok("wrong_partition"));
    agree(&topics);
}

/// What is delivered is what the log leads to, and what the auditor makes of it.
fn agree(topics: &Topics) {
    let folded = topics.fold();
    for topic in Topic::ALL {
        all_delivered(topics, topic, &folded);
    }
    for one in &folded {
        assert_eq!(compare(&one.machine, &one.outputs, &one.findings), None);
    }
}

/// A producer of transactions, of a gateway's.
fn transactions(topics: &Topics, id: &str) -> BaseProducer {
    let producer: BaseProducer = topics.settings.transactional(id).create().expect("a producer");
    producer.init_transactions(Duration::from_secs(30)).expect("taken over");
    producer
}

fn send(producer: &BaseProducer, topics: &Topics, partition: u32, bytes: Option<&[u8]>) {
    let topic = topics.settings.events();
    let mut record: BaseRecord<'_, str, [u8]> = BaseRecord::to(&topic).partition(partition as i32).key("acme");
    if let Some(bytes) = bytes {
        record = record.payload(bytes);
    }
    producer.send(record).map_err(|(cause, _)| cause).expect("room");
}

#[test]
fn what_else_a_partition_holds_is_passed_over() {
    let wait = Duration::from_secs(30);
    let topics = Topics::create(&broker::shared().bootstrap(), 3, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    let served = fleet.start("one");
    ready(&served, Duration::from_secs(60));
    let log = SharedLog::new(&topics, &served);
    let mut shelf = Shelf::new(&log, 0);
    shelf.holds(OWED);
    let (first, second) = (transactions(&topics, "gateway-1"), transactions(&topics, "gateway-2"));
    let mut tombstones = 0;
    for n in 0..20 {
        let event = |shelf: &mut Shelf<'_>, call: &str| {
            let line = format!("10 13:00:00 ended completed product=m-large output_tokens=1000 call={call}-{n}");
            shelf.records(&line).expect("records").remove(0).bytes
        };
        let (aborted, committed, plain) = (
            event(&mut shelf, "aborted"),
            event(&mut shelf, "committed"),
            event(&mut shelf, "plain"),
        );
        // All at once: what is taken back lies between what counts.
        first.begin_transaction().expect("begun");
        send(&first, &topics, 0, Some(&aborted));
        first.flush(wait).expect("written");
        second.begin_transaction().expect("begun");
        send(&second, &topics, 0, Some(&committed));
        second.flush(wait).expect("written");
        shelf.gateway(&NewRecord::new(Kind::Event, plain)).expect("appended");
        second.commit_transaction(wait).expect("committed");
        first.abort_transaction(wait).expect("aborted");
        if n % 5 == 0 {
            second.begin_transaction().expect("begun");
            send(&second, &topics, 0, None);
            second.commit_transaction(wait).expect("committed");
            tombstones += 1;
        }
    }
    // The last record is one whose offset is known.
    shelf.holds(
        "10 14:00:00 tick
         => unknown call=aborted-0
         => unknown call=aborted-19
         => success completed billed product=m-large output_tokens=1000 call=committed-0
         => success completed billed product=m-large output_tokens=1000 call=plain-19
         => usage 2026-09 success output_tokens=1040000 requests=41",
    );
    // Nothing was ever in one of the partitions but ticks.
    let mut empty = Shelf::new(&log, 2);
    empty.holds("10 14:00:00 tick\n2026-10-20T00:00:01Z tick\n=> control 2026-09 accounts=0");
    shelf.holds("2026-10-20T00:00:01Z tick\n=> statement 2026-09 total=15.60 lines=1\n=> control 2026-09 accounts=1");
    let rejects = crate::outputs::read(&topics, Topic::Rejects, "read_committed");
    let reasons: Vec<String> = rejects[&0]
        .iter()
        .map(|seen| pb::Rejected::decode(seen.body.as_slice()).expect("a reject").reason)
        .filter(|reason| reason != "bad_version")
        .collect();
    assert_eq!(reasons, vec!["missing_field"; tombstones]);
    agree(&topics);
}
