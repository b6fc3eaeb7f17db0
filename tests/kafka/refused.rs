//! What can't be right is refused, and the error names the cure: nothing is emitted, the other partitions go on.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use prost::Message as _;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use reckon::log::kafka::KafkaSettings;
use reckon::log::{Identity, NewRecord, Place, local};
use reckon::machine::clock::Source;
use reckon::machine::output::Topic;
use reckon::store::bytes::Writer;
use reckon::store::keys::{self, Meta};
use reckon::store::rocks::{FOLD_VERSION, FORMAT_VERSION};
use reckon::wire::check::timestamp;
use reckon::wire::pb;
use reckon::wire::record::Kind;
use serde_json::Value;

use crate::broker::{Broker, shared};
use crate::fleet::{Fleet, eventually};
use crate::served::Served;
use crate::topics::{Topics, living_in};

const WAIT: Duration = Duration::from_secs(20);

/// The group waits for a silent instance, and a halted partition is looked at again; both are shorter.
const LONG_WAIT: Duration = Duration::from_secs(60);

const DAY: i64 = 86_400_000;

/// Settings by which `reckon topics create` makes every topic. Kafka sets anew all that aren't named.
const SETTINGS: [(&str, &str); 5] = [
    ("cleanup.policy", "delete"),
    ("retention.ms", "-1"),
    ("retention.bytes", "-1"),
    ("unclean.leader.election.enable", "false"),
    ("min.insync.replicas", "1"),
];

/// The cluster's administrator, who may do everything, and does it wrong.
pub struct Admin {
    client: AdminClient<DefaultClientContext>,
    options: AdminOptions,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    pub fn of(bootstrap: &str) -> Self {
        let client = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .create();
        Self {
            client: client.expect("an admin client"),
            options: AdminOptions::new()
                .request_timeout(Some(WAIT))
                .operation_timeout(Some(WAIT)),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("a runtime"),
        }
    }

    fn done<T>(&self, asked: impl Future<Output = Result<T, KafkaError>>) -> T {
        self.runtime.block_on(asked).expect("it is done")
    }

    /// Sets one setting of a topic to another value than it should have; with "" all are as they should be.
    fn set(&self, topic: &str, name: &str, value: &str) {
        let mut settings: BTreeMap<&str, &str> = SETTINGS.into_iter().collect();
        if topic.ends_with(".events") {
            settings.insert("message.timestamp.type", "LogAppendTime");
        } else {
            settings.insert("max.message.bytes", "16777216");
        }
        if !name.is_empty() {
            settings.insert(name, value);
        }
        if value == "CreateTime" {
            // Else the broker itself refuses what is more than an hour ahead.
            settings.insert("message.timestamp.after.max.ms", "9223372036854775807");
        }
        let config = settings
            .iter()
            .fold(AlterConfig::new(ResourceSpecifier::Topic(topic)), |c, (n, v)| {
                c.set(n, v)
            });
        for result in self.done(self.client.alter_configs([&config], &self.options)) {
            result.expect("altered");
        }
    }

    /// Removes a partition's records below an offset, or all of them.
    pub fn remove(&self, topic: &str, partition: u32, below: Offset) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition as i32, below)
            .expect("an offset");
        let removed = self.done(self.client.delete_records(&list, &self.options));
        assert!(removed.elements().iter().all(|e| e.error().is_ok()));
    }

    fn grow(&self, topic: &str, partitions: u32) {
        let more = NewPartitions::new(topic, partitions as usize);
        for result in self.done(self.client.create_partitions([&more], &self.options)) {
            result.expect("more partitions");
        }
        self.await_partitions(topic, partitions);
    }

    /// Waits until brokers say so too: the controller is done before they have heard of it.
    fn await_partitions(&self, topic: &str, partitions: u32) {
        eventually("the partitions are known", WAIT, || {
            let found = self.client.inner().fetch_metadata(Some(topic), WAIT).expect("metadata");
            let count = found.topics().first().map_or(0, |t| t.partitions().len());
            (count == partitions as usize).then_some(())
        });
    }

    fn make(&self, topic: &str, partitions: u32) {
        let mut new = NewTopic::new(topic, partitions as i32, TopicReplication::Fixed(1));
        for (name, value) in SETTINGS {
            new = new.set(name, value);
        }
        new = if topic.ends_with(".events") {
            new.set("message.timestamp.type", "LogAppendTime")
        } else {
            new.set("max.message.bytes", "16777216")
        };
        for result in self.done(self.client.create_topics([&new], &self.options)) {
            result.expect("made");
        }
        self.await_partitions(topic, partitions);
    }

    /// Removes a topic. Another one can be made by its name when it returns.
    fn delete(&self, topic: &str) {
        for result in self.done(self.client.delete_topics(&[topic], &self.options)) {
            result.expect("deleted");
        }
        eventually("the topic is gone", WAIT, || {
            let found = self.client.inner().fetch_metadata(None, WAIT).expect("metadata");
            found.topics().iter().all(|t| t.name() != topic).then_some(())
        });
    }
}

/// How a process ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    said: String,
    took: Duration,
}

/// Runs a command that is expected to end by itself.
fn run(args: &[&str]) -> Ended {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("said");
    let said = std::fs::File::create(&path).expect("a file");
    let began = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(said.try_clone().expect("a file"))
        .stderr(said)
        .spawn()
        .expect("reckon runs");
    let read = || std::fs::read_to_string(&path).expect("what it said");
    loop {
        if let Some(status) = child.try_wait().expect("its state") {
            let (code, took) = (status.code(), began.elapsed());
            return Ended {
                code,
                said: read(),
                took,
            };
        }
        if began.elapsed() > LONG_WAIT {
            child.kill().expect("killed");
            child.wait().expect("gone");
            panic!("reckon {args:?} goes on: {}", read());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `reckon serve` on topics, which is expected to end by itself.
fn serve(settings: &KafkaSettings, data: &Path, more: &[&str]) -> Ended {
    let data = data.to_str().expect("a path");
    let mut args = vec!["serve", "--listen", "127.0.0.1:0", "--data", data];
    args.extend(["--kafka", &settings.bootstrap, "--topic-prefix", &settings.prefix]);
    args.extend(more);
    run(&args)
}

/// Refused, with all of these words.
fn assert_refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert_says(&ended.said, words);
    assert!(!ended.said.contains("panicked"), "{}", ended.said);
}

fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
}

fn garbage(text: &str) -> NewRecord {
    let bytes = [&[0xff; 12], text.as_bytes()].concat();
    NewRecord::new(Kind::Event, bytes)
}

/// Appends what can't be read: an output of the rejects each, at once.
fn append_garbage(topics: &Topics, partitions: &[u32], text: &str) {
    let record = garbage(text);
    let records: Vec<(u32, &NewRecord)> = partitions.iter().map(|&p| (p, &record)).collect();
    topics.gateway().append(&records).expect("appended");
}

/// What a consumer of all outputs sees, by topic and partition: offsets and values.
type Delivered = BTreeMap<(String, u32), Vec<(i64, Vec<u8>)>>;

fn delivered(topics: &Topics) -> Delivered {
    let consumer = topics.consumer("read_committed");
    let mut seen = Delivered::new();
    for topic in Topic::ALL {
        let name = topics.settings.output(topic);
        let mut list = TopicPartitionList::new();
        for partition in 0..topics.partitions {
            list.add_partition_offset(&name, partition as i32, Offset::Beginning)
                .expect("an offset");
            seen.insert((name.clone(), partition), Vec::new());
        }
        consumer.assign(&list).expect("assigned");
        let mut open: BTreeSet<i32> = (0..topics.partitions as i32).collect();
        let until = Instant::now() + LONG_WAIT;
        while !open.is_empty() {
            assert!(Instant::now() < until, "{name} has no end");
            match consumer.poll(Duration::from_millis(50)) {
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                }
                Some(Ok(message)) => {
                    let value = message.payload().unwrap_or_default().to_vec();
                    let of_partition = seen.get_mut(&(name.clone(), message.partition() as u32));
                    of_partition.expect("a partition").push((message.offset(), value));
                }
                Some(Err(_)) | None => {}
            }
        }
    }
    seen
}

/// Rejects delivered for a partition.
fn rejects(topics: &Topics, partition: u32) -> usize {
    delivered(topics)[&(topics.settings.output(Topic::Rejects), partition)].len()
}

/// Waits until a partition's rejects are delivered.
fn await_rejects(topics: &Topics, partitions: &[u32], count: usize) {
    let name = topics.settings.output(Topic::Rejects);
    let until = Instant::now() + LONG_WAIT;
    loop {
        let seen = delivered(topics);
        let counts: Vec<usize> = partitions.iter().map(|p| seen[&(name.clone(), *p)].len()).collect();
        if counts.iter().all(|found| *found == count) {
            return;
        }
        assert!(
            Instant::now() < until,
            "{count} rejects of {partitions:?} expected: {counts:?}"
        );
    }
}

/// The log lines of one start.
fn lines(said: &str) -> Vec<Value> {
    said.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Waits until an instance says that it halts a partition, and why.
fn await_halt(fleet: &Fleet, name: &str, before: usize, partition: u32, words: &[&str]) {
    let cause = eventually(&format!("partition {partition} halts: {words:?}"), LONG_WAIT, || {
        let said = fleet.said(name);
        assert!(!said[before..].contains("panicked"), "{said}");
        lines(&said[before..]).into_iter().find_map(|line| {
            let halted = line["message"].as_str().is_some_and(|m| m.contains("is halted"));
            (halted && line["partition"] == partition).then(|| line["cause"].as_str().unwrap_or_default().to_owned())
        })
    });
    assert_says(&cause, words);
}

/// Waits until exactly these partitions aren't served.
fn await_unserved(served: &Served, halted: &[u32]) {
    let mut last = String::new();
    let expected: Vec<u64> = halted.iter().map(|&p| p.into()).collect();
    let began = Instant::now();
    loop {
        let answer = served.get("/readyz");
        let ready = answer.json();
        // Those that it owns: none before the group has taken it in.
        let partitions = ready["partitions"].as_array().expect("partitions");
        let unserved: Vec<u64> = partitions
            .iter()
            .filter(|p| p["reason"] == "halted" || p["reason"] == "not_served")
            .filter_map(|p| p["partition"].as_u64())
            .collect();
        let status = if halted.is_empty() { 200 } else { 503 };
        if !partitions.is_empty() && unserved == expected && answer.status == status {
            return;
        }
        last.clone_from(&answer.text);
        assert!(began.elapsed() < LONG_WAIT, "not as expected ({halted:?}): {last}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Where an instance found a partition's store to stand, at every start.
fn opened_at(fleet: &Fleet, name: &str, partition: u32) -> Vec<u64> {
    lines(&fleet.said(name))
        .iter()
        .filter(|line| line["message"] == "partition opened" && line["partition"] == partition)
        .filter_map(|line| line["next_offset"].as_u64())
        .collect()
}

/// Serves until one reject of each partition is delivered, and stops.
fn served_once(topics: &Topics, fleet: &Fleet, name: &str) {
    let all: Vec<u32> = (0..topics.partitions).collect();
    append_garbage(topics, &all, "first");
    let served = fleet.start(name);
    await_rejects(topics, &all, 1);
    assert!(served.stop().success(), "{}", fleet.said(name));
}

#[test]
fn topics_with_other_settings_or_partitions() {
    let broker = shared();
    let admin = Admin::of(&broker.bootstrap());
    let topics = Topics::create(&broker.bootstrap(), 1, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    served_once(&topics, &fleet, "a");
    let before = delivered(&topics);
    append_garbage(&topics, &[0], "second");
    let data = fleet.data("a");
    let events = topics.settings.events();
    let statements = topics.settings.output(Topic::Statements);
    let mut check = vec!["topics", "check"];
    let arguments = topics.arguments();
    check.extend(arguments.iter().map(String::as_str));
    for (topic, name, value, cure) in [
        (&events, "cleanup.policy", "compact", "set it to delete"),
        (&statements, "cleanup.policy", "compact", "set it to delete"),
        (
            &events,
            "message.timestamp.type",
            "CreateTime",
            "set it to LogAppendTime",
        ),
        (&events, "unclean.leader.election.enable", "true", "set it to false"),
        (&statements, "unclean.leader.election.enable", "true", "set it to false"),
        (&statements, "max.message.bytes", "1048588", "set it to 16777216"),
    ] {
        admin.set(topic, name, value);
        eventually("the setting holds", WAIT, || {
            run(&check).said.contains(&format!("{value} ")).then_some(())
        });
        assert_refused(&run(&check), 1, &["refused", topic, name, value, cure]);
        assert_refused(&serve(&topics.settings, &data, &[]), 1, &[topic, name, value, cure]);
        admin.set(topic, "", "");
    }
    eventually("all as it was", WAIT, || (run(&check).code == Some(0)).then_some(()));
    assert_eq!(delivered(&topics), before);
    // They are good again: it goes on. While it runs, a partition is added to the input.
    let quick = Fleet::of(&topics, &["-X", "topic.metadata.refresh.interval.ms=500"]);
    let served = quick.start("b");
    await_rejects(&topics, &[0], 2);
    let before = delivered(&topics);
    admin.grow(&events, 2);
    let ended = served.wait();
    assert_eq!(ended.code(), Some(1), "{}", quick.said("b"));
    let count = [events.as_str(), "has 2 partitions", "says 1", "make a new log"];
    assert_says(&quick.said("b"), &count);
    let alerts = topics.settings.output(Topic::Alerts);
    let cure = ["partitions", "the input has 2", "Partitions can't be added"];
    assert_refused(&run(&check), 1, &cure);
    assert_refused(&serve(&topics.settings, &data, &[]), 1, &[&alerts, cure[1], cure[2]]);
    for topic in Topic::ALL {
        admin.grow(&topics.settings.output(topic), 2);
    }
    assert_refused(&serve(&topics.settings, &data, &[]), 1, &count);
    assert_eq!(delivered(&topics), before);
    // An output alone.
    let topics = Topics::create(&broker.bootstrap(), 1, Source::Ticks, 1);
    admin.grow(&topics.settings.output(Topic::Alerts), 2);
    let alerts = topics.settings.output(Topic::Alerts);
    assert_refused(
        &serve(&topics.settings, &fleet.data("c"), &[]),
        1,
        &[&alerts, "has partitions 2", "the input has 1"],
    );
}

#[test]
fn topics_without_their_genesis() {
    let broker = shared();
    let admin = Admin::of(&broker.bootstrap());
    let folder = tempfile::tempdir().expect("a folder");
    let by_hand = KafkaSettings {
        bootstrap: broker.bootstrap(),
        prefix: format!("by-hand-{}", std::process::id()),
        ..KafkaSettings::default()
    };
    let genesis = ["doesn't begin with its genesis", "reckon topics create"];
    assert_refused(
        &serve(&by_hand, folder.path(), &[]),
        1,
        &["no such topic", "reckon topics create"],
    );
    admin.make(&by_hand.events(), 1);
    for topic in Topic::ALL {
        admin.make(&by_hand.output(topic), 1);
    }
    assert_refused(&serve(&by_hand, folder.path(), &[]), 1, &genesis);
    // Somebody's record in its place.
    let gateway = reckon::log::kafka::publish::Publisher::new(&by_hand).expect("a producer");
    gateway.append(&[(0, &garbage("first"))]).expect("appended");
    assert_refused(&serve(&by_hand, folder.path(), &[]), 1, &genesis);
    // Removed from all partitions.
    let topics = Topics::create(&broker.bootstrap(), 1, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    served_once(&topics, &fleet, "a");
    admin.remove(&topics.settings.events(), 0, Offset::End);
    assert_refused(&serve(&topics.settings, &fleet.data("a"), &[]), 1, &genesis);
    assert_eq!(rejects(&topics, 0), 1);
}

/// An output as its partition's owner would write it, but of another history.
fn deliver_another(topics: &Topics, partition: u32, sequence: u8) {
    let id = topics.settings.output_transactions(&topics.log_id, partition);
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", &topics.settings.bootstrap)
        .set("transactional.id", id)
        .create()
        .expect("a producer");
    producer.init_transactions(WAIT).expect("taken over");
    producer.begin_transaction().expect("begun");
    let mut headers = OwnedHeaders::new();
    for (key, value) in [
        ("reckon-sequence", sequence.to_string()),
        ("reckon-chain", format!("{:032x}", 77)),
        ("reckon-id", format!("rejects-{partition}-{sequence}")),
    ] {
        let value = Some(value.as_str());
        headers = headers.insert(Header { key, value });
    }
    let name = topics.settings.output(Topic::Rejects);
    let value = [14 << 3, sequence];
    let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(&name)
        .partition(partition as i32)
        .payload(&value[..])
        .headers(headers);
    producer.send(record).map_err(|(e, _)| e).expect("sent");
    producer.commit_transaction(WAIT).expect("committed");
}

/// A message as anybody writes it.
fn write_plainly(topics: &Topics, topic: Topic, partition: u32) {
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", &topics.settings.bootstrap)
        .create()
        .expect("a producer");
    let name = topics.settings.output(topic);
    let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(&name).partition(partition as i32).payload(&b"{}"[..]);
    producer.send(record).map_err(|(e, _)| e).expect("sent");
    producer.flush(WAIT).expect("written");
}

/// Makes a partition's store one of the next version of the fold.
fn raise_version(store: &Path) {
    let options = rocksdb::Options::default();
    let families = rocksdb::DB::list_cf(&options, store).expect("families");
    let db = rocksdb::DB::open_cf(&options, store, families).expect("the store");
    let mut versions = Writer::default();
    versions.uint(FORMAT_VERSION.into());
    versions.uint((FOLD_VERSION + 1).into());
    db.put(keys::meta(Meta::Versions), versions.bytes).expect("written");
}

/// One instance, seven partitions, and something else wrong with each but one.
#[test]
fn partitions_that_do_not_fit_halt_and_the_others_go_on() {
    let broker = shared();
    let admin = Admin::of(&broker.bootstrap());
    let topics = Topics::create(&broker.bootstrap(), 7, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    served_once(&topics, &fleet, "a");
    let events = topics.settings.events();
    let store = |partition: u32| fleet.data("a").join("store").join(partition.to_string());
    // 1: records that the store hasn't folded yet are removed. 6: those that it has, and one behind it isn't.
    let at = topics.end(1);
    for text in ["second", "third", "fourth"] {
        append_garbage(&topics, &[1, 6], text);
    }
    admin.remove(&events, 1, Offset::Offset(at as i64 + 2));
    // Behind what the store has folded stand the barrier of its last owner and the marker that took it back.
    let folded = topics.end(6) - 3 - 2;
    admin.remove(&events, 6, Offset::Offset(folded as i64));
    // 2: nothing tells any more what was delivered.
    admin.remove(&topics.settings.output(Topic::Statements), 2, Offset::End);
    // 3: somebody else writes an output topic.
    write_plainly(&topics, Topic::Alerts, 3);
    // 4: what was delivered isn't what the log leads to.
    deliver_another(&topics, 4, 2);
    // 5: folded by another version.
    raise_version(&store(5));
    let before = delivered(&topics);
    let start = fleet.said("a").len();
    append_garbage(&topics, &[0, 2, 3, 5], "fifth");
    let served = fleet.start("a");
    let halts = |start: usize| {
        await_halt(
            &fleet,
            "a",
            start,
            1,
            &["partition 1 begins at offset", "history is lost", "restore"],
        );
        await_halt(&fleet, "a", start, 2, &["has no output left", "Set retention.ms"]);
        await_halt(
            &fleet,
            "a",
            start,
            3,
            &["alerts partition 3 offset", "isn't one of Reckon's outputs"],
        );
    };
    halts(start);
    await_halt(
        &fleet,
        "a",
        start,
        4,
        &[
            "2 outputs of rejects were delivered",
            "leads to 1",
            "Nothing was written",
        ],
    );
    let version = (FOLD_VERSION + 1).to_string();
    let words = [
        "fold version",
        &version,
        "run the binary that wrote it",
        "remove the store",
    ];
    await_halt(&fleet, "a", start, 5, &words);
    await_unserved(&served, &[1, 2, 3, 4, 5]);
    let refused = served.get(&format!("/v1/accounts/{}/usage", living_in("acme", 2, 7)));
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (503, "30"),
        "{}",
        refused.text
    );
    assert_says(&refused.text, &["partition 2 is halted", "has no output left"]);
    await_rejects(&topics, &[0], 2);
    await_rejects(&topics, &[6], 4);
    let untouched = |now: &Delivered| {
        for (key, seen) in &before {
            if ![0, 6].contains(&key.1) {
                assert_eq!(now.get(key), Some(seen), "{key:?}");
            }
        }
    };
    untouched(&delivered(&topics));
    served.stop();
    // What the log goes on with isn't what stands there: compared before it is written.
    append_garbage(&topics, &[4], "sixth");
    let start = fleet.said("a").len();
    let served = fleet.start("a");
    halts(start);
    let words = [
        "rejects of partition 4",
        "sequence 2 differs",
        "nothing was written",
        "reckon replay",
    ];
    await_halt(&fleet, "a", start, 4, &words);
    await_unserved(&served, &[1, 2, 3, 4, 5]);
    untouched(&delivered(&topics));
    served.stop();
    // The way over: without its store a partition is folded anew. Where the genesis is gone, that isn't possible.
    for partition in [1, 5] {
        std::fs::remove_dir_all(store(partition)).expect("removed");
    }
    let start = fleet.said("a").len();
    let served = fleet.start("a");
    halts(start);
    await_halt(&fleet, "a", start, 1, &["but 0 is needed next"]);
    await_unserved(&served, &[1, 2, 3, 4]);
    await_rejects(&topics, &[5], 2);
    served.stop();
    // The refused record was never written to the store.
    let opened = opened_at(&fleet, "a", 4);
    assert!(
        opened.len() >= 4 && opened[1..].iter().all(|at| *at == opened[1]),
        "{opened:?}"
    );
}

#[test]
fn a_lost_store_is_folded_anew_and_nothing_is_put_out_twice() {
    let topics = Topics::create(&shared().bootstrap(), 2, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    served_once(&topics, &fleet, "a");
    let before = delivered(&topics);
    std::fs::remove_dir_all(fleet.data("a")).expect("removed");
    let served = fleet.start("a");
    await_unserved(&served, &[]);
    // Behind the genesis alone.
    assert_eq!(opened_at(&fleet, "a", 0).last(), Some(&1));
    assert_eq!(delivered(&topics), before);
    // Then it goes on behind them.
    append_garbage(&topics, &[0], "second");
    await_rejects(&topics, &[0], 2);
    assert!(served.stop().success());
}

#[test]
fn topics_of_another_place() {
    let broker = shared();
    let admin = Admin::of(&broker.bootstrap());
    let topics = Topics::create(&broker.bootstrap(), 1, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    served_once(&topics, &fleet, "a");
    let words = [
        "was folded from log",
        "point --data at the right log, or remove the store",
    ];
    // An output topic is another one of the same name.
    let alerts = topics.settings.output(Topic::Alerts);
    admin.delete(&alerts);
    admin.make(&alerts, 1);
    append_garbage(&topics, &[0], "second");
    let start = fleet.said("a").len();
    let served = fleet.start("a");
    await_halt(&fleet, "a", start, 0, &words);
    await_unserved(&served, &[0]);
    assert_eq!(rejects(&topics, 0), 1);
    assert!(served.stop().success());
    // The input is, with the same genesis and as many records as before.
    let events = topics.settings.events();
    admin.delete(&events);
    admin.make(&events, 1);
    rewrite(&topics, "other");
    let start = fleet.said("a").len();
    let served = fleet.start("a");
    await_halt(&fleet, "a", start, 0, &words);
    await_unserved(&served, &[0]);
    assert_eq!(rejects(&topics, 0), 1);
    assert!(served.stop().success());
}

#[test]
fn an_input_made_anew_under_a_running_instance() {
    let broker = shared();
    let admin = Admin::of(&broker.bootstrap());
    let topics = Topics::create(&broker.bootstrap(), 1, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &["-X", "topic.metadata.refresh.interval.ms=500"]);
    append_garbage(&topics, &[0], "first");
    let served = fleet.start("a");
    await_rejects(&topics, &[0], 1);
    let before = delivered(&topics);
    let events = topics.settings.events();
    admin.delete(&events);
    admin.make(&events, 1);
    rewrite(&topics, "other");
    append_garbage(&topics, &[0], "more of the other");
    // Its partition halts when it next reads, and the process ends when it next looks at the topics.
    assert_ended(&fleet, "a", served);
    assert_eq!(delivered(&topics), before);
}

/// Waits until an instance ends because its topics are others.
fn assert_ended(fleet: &Fleet, name: &str, served: Served) {
    let (pid, (told, ended)) = (served.pid(), std::sync::mpsc::channel());
    let waiting = std::thread::spawn(move || told.send(served.wait()));
    let Ok(status) = ended.recv_timeout(LONG_WAIT) else {
        let killed = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
        assert!(killed.expect("kill runs").success());
        waiting.join().expect("waited").expect("told");
        panic!("it goes on: {}", fleet.said(name));
    };
    assert_eq!(status.code(), Some(1), "{}", fleet.said(name));
    assert_says(&fleet.said(name), &["were deleted and made anew", "Restore the topics"]);
}

#[test]
fn an_output_topic_made_anew_under_a_running_instance() {
    let broker = shared();
    let admin = Admin::of(&broker.bootstrap());
    let topics = Topics::create(&broker.bootstrap(), 2, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &["-X", "topic.metadata.refresh.interval.ms=500"]);
    append_garbage(&topics, &[0, 1], "first");
    let served = fleet.start("a");
    await_rejects(&topics, &[0, 1], 1);
    let statements = topics.settings.output(Topic::Statements);
    admin.delete(&statements);
    admin.make(&statements, 2);
    assert_ended(&fleet, "a", served);
    let seen = delivered(&topics);
    assert!(seen[&(statements.clone(), 0)].is_empty() && seen[&(statements, 1)].is_empty());
}

/// Writes the genesis that the topics had to an input that is made anew, and what doesn't belong there after it.
fn rewrite(topics: &Topics, text: &str) {
    let identity = Identity {
        log_id: topics.log_id.clone(),
        partition_count: topics.partitions,
        source: Source::Ticks,
    };
    let genesis = |partition| {
        let genesis = pb::Genesis {
            keys: vec![topics.signer.operator_key()],
            ..local::genesis(&identity, partition)
        };
        (
            Place::One(partition),
            topics.signed(Kind::Genesis, genesis.encode_to_vec()),
        )
    };
    let all: Vec<(Place, NewRecord)> = (0..topics.partitions).map(genesis).collect();
    topics.operator().append(&all, topics.partitions).expect("appended");
    let all: Vec<u32> = (0..topics.partitions).collect();
    append_garbage(topics, &all, text);
}

#[test]
fn a_second_process_of_the_same_folder_or_name() {
    let topics = Topics::create(&shared().bootstrap(), 1, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &["--instance", "twin"]);
    let served = fleet.start("a");
    await_unserved(&served, &[]);
    let second = serve(&topics.settings, &fleet.data("a"), &[]);
    assert_refused(&second, 1, &["is another process's", "another --data"]);
    // By the same name from another folder: the group takes the later one.
    let twin = fleet.start("b");
    let base = served.base.clone();
    let ended = served.wait();
    assert_eq!(ended.code(), Some(1), "{}", fleet.said("a"));
    assert_says(
        &fleet.said("a"),
        &[
            "doesn't take instance twin any more",
            "give each an --instance of its own",
        ],
    );
    assert!(Served::agent().get(format!("{base}/readyz")).call().is_err());
    await_unserved(&twin, &[]);
    append_garbage(&topics, &[0], "first");
    await_rejects(&topics, &[0], 1);
    assert!(twin.stop().success());
}

#[test]
fn no_broker_and_settings_that_are_ours() {
    let folder = tempfile::tempdir().expect("a folder");
    let nobody = KafkaSettings {
        bootstrap: "127.0.0.1:1".to_owned(),
        ..KafkaSettings::default()
    };
    let ended = serve(&nobody, folder.path(), &[]);
    assert_refused(&ended, 1, &["127.0.0.1:1", "is a broker there?"]);
    assert!(ended.took < Duration::from_secs(15), "{ended:?}");
    for (setting, instead) in [
        ("isolation.level=read_uncommitted", "promises"),
        ("auto.offset.reset=earliest", "promises"),
        ("enable.idempotence=false", "promises"),
        ("acks=1", "promises"),
        ("request.required.acks=1", "promises"),
        ("transactional.id=mine", "promises"),
        ("enable.partition.eof=false", "promises"),
        ("fetch.queue.backoff.ms=1000", "promises"),
        ("group.protocol=consumer", "promises"),
        ("group.id=mine", "--topic-prefix"),
        ("group.instance.id=mine", "--instance"),
        ("client.id=mine", "--advertise"),
        ("session.timeout.ms=60000", "kafka.session_timeout_ms"),
        ("heartbeat.interval.ms=60000", "kafka.session_timeout_ms"),
        ("max.poll.interval.ms=60000", "kafka.session_timeout_ms"),
        ("bootstrap.servers=elsewhere:9092", "--kafka"),
    ] {
        let name = setting.split('=').next().expect("a name");
        let ended = serve(&nobody, folder.path(), &["-X", setting]);
        assert_refused(&ended, 2, &[name, "can't be set", instead]);
    }
}

#[test]
fn an_append_time_a_month_ahead_closes_nothing() {
    let broker = shared();
    let admin = Admin::of(&broker.bootstrap());
    let topics = Topics::create(&broker.bootstrap(), 1, Source::Append, 1);
    let fleet = Fleet::of(&topics, &[]);
    let served = fleet.start("a");
    await_unserved(&served, &[]);
    let now = chrono::Utc::now().timestamp_millis();
    let call = pb::CallEvent {
        account_id: "acme".to_owned(),
        call_id: "c".to_owned(),
        phase: pb::Phase::Ended.into(),
        occurred_at: Some(timestamp(now)),
        product: "m".to_owned(),
        end: Some(pb::Termination {
            cause: 1,
            ..pb::Termination::default()
        }),
        usage: vec![pb::Quantity {
            meter: "output_tokens".to_owned(),
            value: 5,
            ..pb::Quantity::default()
        }],
        ..pb::CallEvent::default()
    };
    let call = NewRecord::new(Kind::Event, call.encode_to_vec());
    topics.gateway().append(&[(0, &call)]).expect("appended");
    let events = topics.settings.events();
    admin.set(&events, "message.timestamp.type", "CreateTime");
    let ahead = now + 40 * DAY;
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap())
        .create()
        .expect("a producer");
    let bytes = garbage("ahead").bytes;
    eventually("a record with a time of its own", WAIT, || {
        let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(&events)
            .partition(0)
            .payload(bytes.as_slice())
            .timestamp(ahead);
        producer.send(record).map_err(|(e, _)| e).expect("sent");
        producer.flush(WAIT).expect("written");
        // Refused as soon as the setting holds.
        reckon::log::kafka::KafkaLog::open(&topics.settings).err().map(drop)
    });
    let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(&events)
        .partition(0)
        .payload(bytes.as_slice())
        .timestamp(ahead);
    producer.send(record).map_err(|(e, _)| e).expect("sent");
    producer.flush(WAIT).expect("written");
    let end = topics.end(0);
    eventually("all is folded", WAIT, || {
        let ready = served.get("/readyz").json();
        (ready["partitions"][0]["lag_records"] == "0" && topics.end(0) == end).then_some(())
    });
    append_garbage(&topics, &[0], "after");
    eventually("its reject", WAIT, || (rejects(&topics, 0) >= 3).then_some(()));
    let seen = delivered(&topics);
    assert!(seen[&(topics.settings.output(Topic::Statements), 0)].is_empty());
    let answer = served.get("/v1/accounts/acme/usage?period=current&group_by=meter");
    assert!(answer.status < 500, "{}", answer.text);
    assert!(served.stop().success());
    let again = serve(&topics.settings, &fleet.data("a"), &[]);
    assert_refused(
        &again,
        1,
        &["message.timestamp.type", "CreateTime", "set it to LogAppendTime"],
    );
}

/// Cuts batches off a partition's only segment, as a leader that was elected uncleanly lacks them.
pub fn cut(broker: &Broker, topic: &str, partition: u32, batches: usize) {
    let data = broker
        .log(1)
        .with_file_name("data")
        .join(format!("{topic}-{partition}"));
    let segment = data.join(format!("{:020}.log", 0));
    let bytes = std::fs::read(&segment).expect("a segment");
    let mut starts = Vec::new();
    let mut at = 0;
    while at + 12 <= bytes.len() {
        let length = u32::from_be_bytes([bytes[at + 8], bytes[at + 9], bytes[at + 10], bytes[at + 11]]);
        if length == 0 {
            break;
        }
        starts.push(at);
        at += 12 + length as usize;
    }
    assert!(starts.len() > batches, "{starts:?}");
    let file = std::fs::File::options()
        .write(true)
        .open(&segment)
        .expect("the segment");
    file.set_len(starts[starts.len() - batches] as u64).expect("cut");
    for entry in std::fs::read_dir(&data).expect("its folder") {
        let path = entry.expect("an entry").path();
        if path
            .extension()
            .is_some_and(|e| e == "index" || e == "timeindex" || e == "snapshot")
        {
            std::fs::remove_file(path).expect("removed");
        }
    }
}

#[test]
fn a_log_that_was_cut_off_or_is_another_clusters() {
    let broker = Broker::start(1, &[]);
    let topics = Topics::create(&broker.bootstrap(), 2, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    served_once(&topics, &fleet, "a");
    for text in ["second", "third"] {
        append_garbage(&topics, &[0, 1], text);
    }
    let served = fleet.start("a");
    await_rejects(&topics, &[0, 1], 3);
    let end = topics.end(0);
    let before = delivered(&topics);
    let start = fleet.said("a").len();
    broker.kill(1);
    // Two records, and the owner's barrier behind them with the marker that took it back.
    cut(&broker, &topics.settings.events(), 0, 4);
    broker.start_all();
    let found = eventually("the partition has its leader again", WAIT, || {
        let ends = topics
            .consumer("read_committed")
            .fetch_watermarks(&topics.settings.events(), 0, WAIT);
        ends.ok().map(|ends| ends.1 as u64)
    });
    assert_eq!(found, end - 4);
    // The running one notices as well as one that is started.
    await_halt(&fleet, "a", start, 0, &["partition 0"]);
    append_garbage(&topics, &[1], "fourth");
    await_rejects(&topics, &[1], 4);
    assert!(served.stop().success());
    let start = fleet.said("a").len();
    let served = fleet.start("a");
    let other = ["another record than the one that was folded", "restore the topic"];
    await_halt(&fleet, "a", start, 0, &other);
    await_unserved(&served, &[0]);
    assert!(served.stop().success());
    // Others come to stand where the lost ones stood.
    for text in ["not second", "not third", "fourth"] {
        append_garbage(&topics, &[0], text);
    }
    let start = fleet.said("a").len();
    let served = fleet.start("a");
    await_halt(
        &fleet,
        "a",
        start,
        0,
        &["another record than the one that was folded", "restore the topic"],
    );
    await_unserved(&served, &[0]);
    append_garbage(&topics, &[1], "fifth");
    await_rejects(&topics, &[1], 5);
    let key = (topics.settings.output(Topic::Rejects), 0);
    assert_eq!(delivered(&topics)[&key], before[&key]);
    assert!(served.stop().success());
    // The same names and genesis on another cluster.
    let elsewhere = shared();
    let admin = Admin::of(&elsewhere.bootstrap());
    let settings = KafkaSettings {
        bootstrap: elsewhere.bootstrap(),
        prefix: format!("{}-elsewhere", topics.settings.prefix),
        ..KafkaSettings::default()
    };
    admin.make(&settings.events(), 2);
    for topic in Topic::ALL {
        admin.make(&settings.output(topic), 2);
    }
    let mut topics = topics;
    topics.settings = settings;
    rewrite(&topics, "first");
    let data = fleet.data("a");
    let other = Fleet::of(&topics, &[]);
    std::fs::rename(&data, other.data("a")).expect("moved");
    let served = other.start("a");
    for partition in [0, 1] {
        await_halt(
            &other,
            "a",
            0,
            partition,
            &["was folded from log", "cluster", "point --data at the right log"],
        );
    }
    await_unserved(&served, &[0, 1]);
    assert!(delivered(&topics).values().all(Vec::is_empty));
    assert!(served.stop().success());
}
