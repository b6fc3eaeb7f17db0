//! Owners that are held up, fenced, or lose a broker.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, Producer};
use reckon::log::NewRecord;
use reckon::log::placement::partition_of;
use reckon::machine::clock::Source;
use reckon::machine::output::Topic;
use reckon::wire::check::timestamp;
use reckon::wire::pb;
use reckon::wire::record::Kind;

use crate::broker::{Broker, shared};
use crate::fleet::{Fleet, SESSION_MS, eventually, usage};
use crate::outputs;
use crate::served::Served;
use crate::topics::Topics;

/// 1 September 2026.
const START: i64 = 1_788_220_800_000;

const DAY: i64 = 86_400_000;

fn completed(account: &str, call: &str, at: i64) -> Vec<u8> {
    pb::CallEvent {
        account_id: account.to_owned(),
        call_id: call.to_owned(),
        phase: pb::Phase::Ended.into(),
        occurred_at: Some(timestamp(at)),
        end: Some(pb::Termination {
            cause: pb::Cause::Completed.into(),
            client_status: 200,
            ..pb::Termination::default()
        }),
        usage: vec![pb::Quantity {
            meter: "output_tokens".to_owned(),
            value: 7,
            ..pb::Quantity::default()
        }],
        ..pb::CallEvent::default()
    }
    .encode_to_vec()
}

/// One call of each of many accounts, and something to reject in each partition.
fn calls(topics: &Topics, accounts: u32, round: u32, at: i64) {
    let mut records = Vec::new();
    for n in 0..accounts {
        let account = format!("account-{n}");
        let event = completed(&account, &format!("call-{round}-{n}"), at);
        records.push((
            partition_of(&account, topics.partitions),
            NewRecord::new(Kind::Event, event),
        ));
    }
    for partition in 0..topics.partitions {
        records.push((
            partition,
            NewRecord::new(Kind::Event, format!("garbage {round}").into_bytes()),
        ));
    }
    let placed: Vec<(u32, &NewRecord)> = records.iter().map(|(p, r)| (*p, r)).collect();
    topics.gateway().append(&placed).expect("acknowledged");
}

fn tick(topics: &Topics, at: i64) {
    let ticks = [topics.tick(at)];
    topics.operator().append(&ticks, topics.partitions).expect("a tick");
}

/// How many records of a topic are committed, over all partitions.
fn delivered(topics: &Topics, topic: Topic) -> usize {
    outputs::read(topics, topic, "read_committed")
        .values()
        .map(Vec::len)
        .sum()
}

#[test]
fn an_owner_that_wakes_after_its_partitions_moved_emits_nothing_more() {
    let topics = Topics::create(&shared().bootstrap(), 4, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    tick(&topics, START);
    let sleeper = fleet.start("sleeper");
    calls(&topics, 40, 0, START);
    eventually("all rejects of the first round", Duration::from_secs(30), || {
        (delivered(&topics, Topic::Rejects) == 4).then_some(())
    });
    // It sleeps for longer than the group waits, with records on their way to it; another takes everything over.
    sleeper.signal("STOP");
    calls(&topics, 40, 1, START + 1_000);
    let heir = fleet.start("heir");
    eventually("the heir delivers", Duration::from_millis(SESSION_MS + 20_000), || {
        (delivered(&topics, Topic::Rejects) == 8).then_some(())
    });
    tick(&topics, START + 40 * DAY);
    eventually("the month's statements", Duration::from_secs(30), || {
        (delivered(&topics, Topic::Statements) >= 40).then_some(())
    });
    let right = eventually("the heir's answer", Duration::from_secs(10), || {
        usage(&heir, "account-7", "2026-09")
    });
    sleeper.signal("CONT");
    // Whatever it says from now on is the truth or nothing.
    let until = Instant::now() + Duration::from_secs(5);
    let mut answers = 0;
    while Instant::now() < until {
        if let Some(answer) = usage(&sleeper, "account-7", "2026-09") {
            assert_eq!(answer["rows"], right["rows"]);
            answers += 1;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{answers} answers after it woke, all right");
    calls(&topics, 40, 2, START + 40 * DAY);
    tick(&topics, START + 75 * DAY);
    outputs::all_delivered(&topics, &topics.fold(), Duration::from_secs(60));
}

/// How long what a stopped process has sent may take to reach its broker and be answered there.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// Stops the owner of partition 0 while statements come out, in the midst of a transaction, and lets it go on when the broker has
/// aborted that: how many records it was in. A transaction whose commit was on its way when it was stopped is none: the next one is
/// tried, and `None` if they have come to an end.
fn stopped_within_a_transaction(topics: &Topics, owner: &Served) -> Option<i64> {
    let name = topics.settings.output(Topic::Statements);
    let (all, settled) = (topics.consumer("read_uncommitted"), topics.consumer("read_committed"));
    let end = |consumer: &BaseConsumer| {
        let ends = consumer.fetch_watermarks(&name, 0, Duration::from_secs(10));
        ends.expect("its end").1
    };
    let mut seen = end(&all);
    let mut risen_at = Instant::now();
    while risen_at.elapsed() < Duration::from_secs(5) {
        let high = end(&all);
        if high == seen {
            continue;
        }
        owner.signal("STOP");
        std::thread::sleep(ON_ITS_WAY);
        let (stable, high) = (end(&settled), end(&all));
        if stable < high {
            eventually("the abort of what lasts too long", Duration::from_secs(20), || {
                (end(&settled) > high).then_some(())
            });
            owner.signal("CONT");
            return Some(high - stable);
        }
        owner.signal("CONT");
        (seen, risen_at) = (high, Instant::now());
    }
    None
}

#[test]
fn an_owner_fenced_by_a_rival_or_by_a_time_out_starts_over() {
    let broker = Broker::start(
        1,
        &[("transaction.abort.timed.out.transaction.cleanup.interval.ms", "200")],
    );
    let topics = Topics::create(&broker.bootstrap(), 1, Source::Ticks, 1);
    let fleet = Fleet::of(
        &topics,
        &["-X", "transaction.timeout.ms=3000", "-X", "message.timeout.ms=2900"],
    );
    tick(&topics, START);
    let owner = fleet.start("owner");
    calls(&topics, 6_000, 0, START);
    eventually("the first reject", Duration::from_secs(30), || {
        (delivered(&topics, Topic::Rejects) == 1).then_some(())
    });
    // Somebody initialises its transactional id, which is all that fencing tells.
    let rival: BaseProducer = topics
        .settings
        .transactional(&topics.settings.output_transactions(&topics.log_id, 0))
        .create()
        .expect("a producer");
    rival.init_transactions(Duration::from_secs(20)).expect("fences");
    calls(&topics, 1, 1, START);
    eventually("a reject after it was fenced", Duration::from_secs(30), || {
        (delivered(&topics, Topic::Rejects) == 2).then_some(())
    });
    assert!(fleet.said("owner").contains("interrupted"), "{}", fleet.said("owner"));
    let interruptions = fleet.said("owner").matches("interrupted").count();
    // A close of many statements is many transactions: it is stopped within one, for longer than that may last.
    let cut = (1..=8).find_map(|month: u32| {
        let close = START + i64::from(month) * 35 * DAY;
        tick(&topics, close);
        stopped_within_a_transaction(&topics, &owner).or_else(|| {
            // All of this month's came out: the next one's are tried.
            calls(&topics, 6_000, 1 + month, close);
            None
        })
    });
    println!(
        "stopped {} records into a transaction",
        cut.expect("a transaction that is met under way")
    );
    outputs::all_delivered(&topics, &topics.fold(), Duration::from_secs(60));
    let said = fleet.said("owner");
    assert!(said.matches("interrupted").count() > interruptions, "{said}");
    assert!(delivered(&topics, Topic::Statements) > 6_000);
}

/// The broker that leads a partition of an output topic.
fn leader(topics: &Topics, topic: Topic, partition: u32) -> i32 {
    let name = topics.settings.output(topic);
    let consumer = topics.consumer("read_committed");
    let found = consumer.fetch_metadata(Some(&name), Duration::from_secs(20));
    let found = found.expect("the topic");
    let partitions = found.topics()[0].partitions();
    let found = partitions.iter().find(|p| p.id() == partition as i32);
    found.expect("the partition").leader()
}

/// How long nothing may come out of a partition whose leader has died: until the controller misses the broker (3 s here), its
/// partitions, the transactions and the group it coordinated have others, and the owner has taken the partition over anew; or an
/// instance was started again.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Starts instances again that have ended, as systemd does, until it is told that all is over. A coordinator that dies between taking
/// an instance's request and answering it leaves the instance fenced by itself: it ends, for it can't tell that from another process
/// of its name.
fn supervise(fleet: &Fleet, instances: &Mutex<BTreeMap<&'static str, Served>>, over: &AtomicBool) {
    while !over.load(Ordering::Acquire) {
        for (name, instance) in instances.lock().expect("instances").iter_mut() {
            if !instance.is_running() {
                let said = fleet.said(name);
                assert!(said.contains("doesn't take instance"), "{said}");
                println!("{name} was fenced by itself, and is started again");
                *instance = fleet.start(name);
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Set when it goes, however that comes about.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn of_three_brokers_one_may_die() {
    let broker = Broker::start(3, &[]);
    let topics = Topics::create(&broker.bootstrap(), 6, Source::Ticks, 3);
    let fleet = Fleet::of(&topics, &[]);
    tick(&topics, START);
    let started = ["one", "two"].map(|name| (name, fleet.start(name)));
    let instances = Mutex::new(BTreeMap::from(started));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| supervise(&fleet, &instances, &over));
        let _over = Over(&over);
        with_one_killed(&broker, &topics);
        let answer = eventually("an answer", Duration::from_secs(60), || {
            let instances = instances.lock().expect("instances");
            instances.values().find_map(|i| usage(i, "account-7", "2026-09"))
        });
        let rows = answer["rows"].as_array().expect("rows");
        let tokens = rows.iter().find(|r| r["meter"] == "output_tokens").expect("tokens");
        assert_eq!(tokens["quantity"], "280");
    });
}

/// Forty rounds of calls, with one broker dead from the tenth to the thirtieth.
fn with_one_killed(broker: &Broker, topics: &Topics) {
    let rejects = |partition: u32| outputs::read(topics, Topic::Rejects, "read_committed")[&partition].len();
    let visible = |what: &str, rounds: u32| {
        eventually(what, Duration::from_secs(60), || {
            (delivered(topics, Topic::Rejects) == rounds as usize * 6).then_some(())
        });
    };
    let mut killed = 0;
    for round in 0..40 {
        if round == 10 {
            visible("everything before the kill", round);
            // Whoever leads what is looked at.
            killed = leader(topics, Topic::Rejects, 0);
            assert!(killed > 0, "partition 0 has no leader");
            broker.kill(killed as usize);
        }
        let began = Instant::now();
        calls(topics, 100, round, START + i64::from(round) * 1_000);
        if round == 10 {
            let appended = began.elapsed();
            eventually("an output of the killed leader's partition", STALL_MAX, || {
                (rejects(0) as u32 == round + 1).then_some(())
            });
            let stall = began.elapsed();
            visible("an output of every partition", round + 1);
            let all = began.elapsed();
            println!(
                "broker {killed} killed: appended after {appended:?}, its partition's next output after {stall:?}, all after {all:?}"
            );
            assert!(all < STALL_MAX, "{all:?}");
            assert_ne!(leader(topics, Topic::Rejects, 0), killed);
        }
        if round == 30 {
            broker.restart(killed as usize);
        }
    }
    tick(topics, START + 40 * DAY);
    outputs::all_delivered(topics, &topics.fold(), Duration::from_secs(60));
}
