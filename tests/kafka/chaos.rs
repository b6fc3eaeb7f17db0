//! Instances and the broker are killed, started, added and removed at random while hundreds of thousands of events come in.
//!
//! At the end everything that was acknowledged is in the log, and calls, usage and statements are those of the auditor, each
//! delivered exactly once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use prost::Message;
use prost::encoding::encode_varint;
use reckon::log::kafka::publish::Publisher;
use reckon::log::placement::partition_of;
use reckon::log::{NewRecord, Place, fingerprint};
use reckon::machine::clock::Source;
use reckon::machine::output::Topic;
use reckon::model::Ms;
use reckon::model::period::Month;
use reckon::model::quantity::Quantity;
use reckon::wire::check::timestamp;
use reckon::wire::pb::control::Body;
use reckon::wire::record::Kind;
use reckon::workload::synthetic::Synthetic;
use reckon::workload::{Step, What};
use serde_json::Value;

use crate::broker::Broker;
use crate::comparing::compare;
use crate::fleet::{Fleet, eventually, usage};
use crate::outputs;
use crate::served::Served;
use crate::topics::{Folded, Topics};

const PARTITIONS: u32 = 12;

/// Accounts that one of the workload's is split into, so that every partition has some.
const SPLIT: u64 = 20;

/// Times that events are appended; in a log of ticks, each time before one.
const BATCHES: u64 = 150;

/// Of the events, one in so many is posted to an instance.
const POSTED: u64 = 4;

/// How long a client waits for an instance before it asks another one: less than instances are held up for.
const POST_WAIT: Duration = Duration::from_secs(3);

/// How long lies between two appends, beside what they take: so that kills come while events do.
const APPEND_PAUSE: Duration = Duration::from_millis(150);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(default)
}

/// A seeded order of things.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn part(account: &str, call: &str) -> String {
    format!("{account}-{}", fingerprint(call.as_bytes()) % SPLIT)
}

/// The workload with each account split into many.
fn split(steps: Vec<Step>) -> Vec<Step> {
    let mut out = Vec::new();
    for mut step in steps {
        match &mut step.what {
            What::Event(event) => event.account_id = part(&event.account_id, &event.call_id),
            What::Control(control) => match &mut control.body {
                Some(Body::Correction(correction)) => {
                    correction.account_id = part(&correction.account_id, &correction.call_id);
                }
                Some(Body::AccountProfile(_)) => {
                    for n in 0..SPLIT {
                        let mut other = control.clone();
                        other.id = format!("{}-{n}", other.id);
                        if let Some(Body::AccountProfile(profile)) = &mut other.body {
                            profile.account_id = format!("{}-{n}", profile.account_id);
                        }
                        let what = What::Control(other);
                        out.push(Step {
                            at_ms: step.at_ms,
                            what,
                        });
                    }
                    continue;
                }
                _ => {}
            },
            What::Tick => {}
        }
        out.push(step);
    }
    out
}

/// What was acknowledged: partition, offset, and fingerprint.
type Acknowledged = Vec<(u32, u64, u64)>;

/// Says by which seed a run that fails can be had again.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to have this run again: RECKON_CHAOS_SEED={}", self.0);
        }
    }
}

/// Lets only so much in between two kills that kills come until the end of the events.
struct Pace {
    events: u64,
    kills_min: u64,
    kills: Mutex<u64>,
    killed: Condvar,
}

impl Pace {
    fn kill(&self) {
        *self.kills.lock().expect("no panic") += 1;
        self.killed.notify_all();
    }

    fn kills(&self) -> u64 {
        *self.kills.lock().expect("no panic")
    }

    /// Waits until so many events may be there.
    fn wait(&self, fed: u64) {
        let too_soon = |kills: &mut u64| fed > self.events * (*kills + 1) / self.kills_min;
        drop(self.killed.wait_while(self.kills.lock().expect("no panic"), too_soon));
    }
}

/// Where living instances answer.
type Addresses = Mutex<Vec<String>>;

/// A client of the instances, as a gateway is: it posts again, to the next one, until it is told that its events are there.
struct Client<'a> {
    addresses: &'a Addresses,
    agent: ureq::Agent,
    next: usize,
    again: u64,
}

impl<'a> Client<'a> {
    fn new(addresses: &'a Addresses) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false);
        Self {
            addresses,
            agent: config.timeout_global(Some(POST_WAIT)).build().into(),
            next: 0,
            again: 0,
        }
    }

    fn post(&mut self, events: &[Vec<u8>]) -> Acknowledged {
        let mut body = Vec::new();
        for event in events {
            encode_varint(event.len() as u64, &mut body);
            body.extend_from_slice(event);
        }
        let results = loop {
            let address = {
                let addresses = self.addresses.lock().expect("no panic");
                self.next += 1;
                addresses.get(self.next % addresses.len().max(1)).cloned()
            };
            // At the very beginning nobody is there.
            self.again += u64::from(address.is_some());
            let answer = address.and_then(|address| {
                let request = self.agent.post(format!("{address}/v1/events"));
                let request = request.header("content-type", "application/x-protobuf; framing=delimited");
                let mut answer = request.send(&body).ok().filter(|answer| answer.status() == 200)?;
                let text = answer.body_mut().with_config().limit(1 << 30).read_to_string().ok()?;
                serde_json::from_str::<Value>(&text).ok()
            });
            if let Some(answer) = answer {
                self.again -= 1;
                break answer["results"].as_array().expect("results").clone();
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(results.len(), events.len());
        let acknowledged = results.iter().zip(events).map(|(result, event)| {
            let offset = result["offset"].as_str().and_then(|offset| offset.parse().ok());
            let offset = offset.unwrap_or_else(|| panic!("refused: {result}"));
            let partition = result["partition"].as_u64().expect("a partition") as u32;
            (partition, offset, fingerprint(event))
        });
        acknowledged.collect()
    }
}

/// Whoever brings events and the operator's records into the log.
struct Feed<'a> {
    topics: &'a Topics,
    gateway: Publisher,
    client: Client<'a>,
    pace: &'a Pace,
    acknowledged: Acknowledged,
    /// Of them, those that an instance has acknowledged.
    posted: u64,
}

impl Feed<'_> {
    /// Writes the workload as gateways and an operator do, again where it wasn't acknowledged.
    fn all(&mut self, steps: &[Step], source: Source) {
        let at_once = (self.pace.events / BATCHES) as usize;
        let mut operator = self.topics.operator();
        let mut dice = Dice(7);
        let (mut sent, mut posts): (Vec<(u32, NewRecord)>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
        let mut version = 0;
        for step in steps {
            let mut of_operator: Vec<(Place, NewRecord)> = Vec::new();
            let full = sent.len() + posts.len() >= at_once;
            match &step.what {
                What::Event(event) => {
                    let bytes = event.encode_to_vec();
                    if dice.below(POSTED) == 0 {
                        posts.push(bytes);
                    } else {
                        let own = partition_of(&event.account_id, PARTITIONS);
                        // As producers that place otherwise, or not at all.
                        let place = if dice.below(12) == 0 {
                            dice.below(PARTITIONS.into()) as u32
                        } else {
                            own
                        };
                        sent.push((place, NewRecord::new(Kind::Event, bytes)));
                    }
                    if !full || source == Source::Ticks {
                        continue;
                    }
                }
                What::Tick if !full || source == Source::Append => continue,
                What::Tick => of_operator.push(self.topics.tick(step.at_ms)),
                What::Control(control) => {
                    let mut control = (**control).clone();
                    if reckon::machine::control::is_for_everyone(&control) {
                        version += 1;
                        control.control_version = version;
                    }
                    of_operator.push(self.topics.control(&control, step.at_ms));
                }
            }
            self.append(&mut sent, &mut posts);
            while !of_operator.is_empty()
                && let Err(cause) = operator.append(&of_operator, PARTITIONS)
            {
                eprintln!("the operator tries again: {cause}");
                operator = self.topics.operator();
            }
        }
        self.append(&mut sent, &mut posts);
    }

    fn append(&mut self, sent: &mut Vec<(u32, NewRecord)>, posts: &mut Vec<Vec<u8>>) {
        if sent.is_empty() && posts.is_empty() {
            return;
        }
        let fed = self.acknowledged.len() + sent.len() + posts.len();
        self.pace.wait(fed as u64);
        let records: Vec<(u32, &NewRecord)> = sent.iter().map(|(p, r)| (*p, r)).collect();
        let receipts = loop {
            match self.gateway.append(&records) {
                Ok(receipts) => break receipts,
                Err(cause) => eprintln!("the gateway tries again: {cause}"),
            }
        };
        let prints = records.iter().map(|(_, r)| fingerprint(&r.bytes));
        let acknowledged = receipts.into_iter().zip(prints);
        self.acknowledged
            .extend(acknowledged.map(|(receipt, print)| (receipt.partition, receipt.offset, print)));
        if !posts.is_empty() {
            self.acknowledged.extend(self.client.post(posts));
            self.posted += posts.len() as u64;
        }
        sent.clear();
        posts.clear();
        std::thread::sleep(APPEND_PAUSE);
    }
}

/// Kills, starts, stops, adds and removes until told to end. Leaves two instances alive. How many kills.
fn disturb(
    fleet: &Fleet,
    broker: &Broker,
    over: &AtomicBool,
    pace: &Pace,
    (addresses, seed): (&Addresses, u64),
) -> Vec<Served> {
    let mut dice = Dice(seed);
    let mut alive: BTreeMap<u64, Served> = (0..2).map(|n| (n, fleet.start(&format!("i{n}")))).collect();
    let mut next_name = 2;
    let mut broker_kills = 0;
    while !over.load(Ordering::Relaxed) || pace.kills() < pace.kills_min {
        *addresses.lock().expect("no panic") = alive.values().map(|served| served.base.clone()).collect();
        std::thread::sleep(Duration::from_millis(300 + dice.below(1_500)));
        let names: Vec<u64> = alive.keys().copied().collect();
        let name = names[dice.below(names.len() as u64) as usize];
        match dice.below(12) {
            // Killed, and started again at once: a static member.
            0..=6 => {
                alive.remove(&name).expect("alive").kill();
                pace.kill();
                alive.insert(name, fleet.start(&format!("i{name}")));
            }
            // Killed for good; another one comes, which has no store, or has an old one.
            7 | 8 if alive.len() > 1 => {
                alive.remove(&name).expect("alive").kill();
                pace.kill();
                let another = if dice.below(2) == 0 {
                    next_name
                } else {
                    (name + 1) % next_name
                };
                if another == next_name {
                    next_name += 1;
                }
                alive
                    .entry(another)
                    .or_insert_with(|| fleet.start(&format!("i{another}")));
            }
            9 if alive.len() < 3 => {
                alive.insert(next_name, fleet.start(&format!("i{next_name}")));
                next_name += 1;
            }
            10 if alive.len() > 2 => {
                alive.remove(&name).expect("alive").stop();
            }
            11 if broker_kills < 1 + pace.kills() / 12 => {
                broker.kill(1);
                std::thread::sleep(Duration::from_millis(dice.below(2_000)));
                broker.restart(1);
                broker_kills += 1;
            }
            _ => {
                alive[&name].signal("STOP");
                std::thread::sleep(Duration::from_millis(dice.below(9_000)));
                alive[&name].signal("CONT");
            }
        }
    }
    while alive.len() < 2 {
        alive.insert(next_name, fleet.start(&format!("i{next_name}")));
        next_name += 1;
    }
    let kills = pace.kills();
    println!("{kills} instances and {broker_kills} brokers killed, {next_name} data folders");
    alive.into_values().collect()
}

fn live_usage(fleet: &[Served], account: &str, period: &str) -> BTreeMap<(String, String, String, String), String> {
    let answer = eventually(&format!("an answer for {account}"), Duration::from_secs(30), || {
        fleet.iter().find_map(|served| usage(served, account, period))
    });
    let rows = answer["rows"].as_array().expect("rows").iter();
    rows.map(|row| {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        (
            (text("service"), text("product"), text("meter"), text("class")),
            text("quantity"),
        )
    })
    .collect()
}

/// The workload, and the log time of its end. A log whose clock is the brokers' time takes what happened just now.
fn workload(events: u64, source: Source) -> (Vec<Step>, Ms) {
    let month = Month(2026 * 12 + 8);
    let made = Synthetic {
        seed: 5,
        month,
        calls: (events * 2 / 5) as u32,
    }
    .make();
    let mut steps = split(made.steps);
    let mut last_ms = steps.last().expect("steps").at_ms;
    if source == Source::Append {
        let later_ms = chrono::Utc::now().timestamp_millis() - 60_000 - last_ms;
        for step in &mut steps {
            step.at_ms += later_ms;
            let at = match &mut step.what {
                What::Event(event) => &mut event.occurred_at,
                What::Control(control) => &mut control.issued_at,
                What::Tick => continue,
            };
            let first = at.as_ref().expect("a time");
            *at = Some(timestamp(first.seconds * 1_000 + i64::from(first.nanos) / 1_000_000 + later_ms));
        }
        last_ms += later_ms;
    }
    steps.push(Step {
        at_ms: last_ms,
        what: What::Tick,
    });
    (steps, last_ms)
}

/// What instances answer is what the auditor has, for some accounts of each partition.
fn live_usage_is(instances: &[Served], folded: &[Folded]) -> Result<(), String> {
    for folded in folded {
        let mut expected: BTreeMap<(String, String), BTreeMap<_, i128>> = BTreeMap::new();
        for ((account, period, service, product, meter, class), nano) in &folded.findings.usage {
            let key = (service.clone(), product.clone(), meter.clone(), (*class).to_owned());
            let of_period = expected.entry((account.clone(), period.clone())).or_default();
            *of_period.entry(key).or_default() += nano;
        }
        for ((account, period), rows) in expected.iter().take(6) {
            let rows: BTreeMap<_, _> = rows
                .iter()
                .map(|(key, nano)| (key.clone(), Quantity(*nano).to_string()))
                .collect();
            let live = live_usage(instances, account, period);
            if live != rows {
                return Err(format!("{account} {period}: {live:?} instead of {rows:?}"));
            }
        }
    }
    Ok(())
}

fn round(source: Source, events: u64, kills: u64) {
    let seed = Seed(number("RECKON_CHAOS_SEED", 3));
    let (steps, last_ms) = workload(events, source);
    let is_event = |step: &&Step| matches!(step.what, What::Event(_));
    let count = steps.iter().filter(is_event).count() as u64;
    assert!(count >= events, "only {count} events");
    let broker = Broker::start(1, &[]);
    let topics = Topics::create(&broker.bootstrap(), PARTITIONS, source, 1);
    let fleet = Fleet::of(&topics, &[]);
    let pace = Pace {
        events: count,
        kills_min: kills,
        kills: Mutex::new(0),
        killed: Condvar::new(),
    };
    let (over, addresses) = (AtomicBool::new(false), Addresses::default());
    let mut feed = Feed {
        topics: &topics,
        gateway: topics.gateway(),
        client: Client::new(&addresses),
        pace: &pace,
        acknowledged: Vec::new(),
        posted: 0,
    };
    let began = Instant::now();
    let (kills_under_load, instances) = std::thread::scope(|scope| {
        let disturbing = scope.spawn(|| disturb(&fleet, &broker, &over, &pace, (&addresses, seed.0)));
        feed.all(&steps, source);
        let kills = pace.kills();
        over.store(true, Ordering::Relaxed);
        (kills, disturbing.join().expect("no panic"))
    });
    let Feed {
        acknowledged,
        posted,
        client,
        ..
    } = feed;
    println!(
        "{count} events fed in {:?}, {posted} of them posted with {} further attempts",
        began.elapsed(),
        client.again
    );
    let kills = pace.kills();
    assert!(
        kills_under_load * 10 >= kills * 9,
        "{kills_under_load} of {kills} kills came while events did"
    );
    assert_eq!(acknowledged.len() as u64, count);
    assert!(posted * POSTED * 2 > count && client.again > 0);
    if source == Source::Ticks {
        // Time runs on until every wait is over and both months are closed.
        topics
            .operator()
            .append(&[topics.tick(last_ms + 70 * 86_400_000)], PARTITIONS)
            .expect("a tick");
    }
    let began = Instant::now();
    let folded = loop {
        let folded = topics.fold();
        for (partition, offset, print) in &acknowledged {
            let found = folded[*partition as usize].records.get(offset);
            assert_eq!(found, Some(print), "{partition}:{offset} was acknowledged");
        }
        if source == Source::Ticks {
            outputs::all_delivered(&topics, &folded, Duration::from_secs(150));
            live_usage_is(&instances, &folded).expect("as the auditor has it");
            break folded;
        }
        // Owners go on to tick: what the log leads to is looked at again until nothing has come between.
        let delivered = Topic::ALL.iter().try_for_each(|topic| {
            let seen = outputs::read(&topics, *topic, "read_committed");
            outputs::same(*topic, &seen, &folded)
        });
        match delivered.and_then(|()| live_usage_is(&instances, &folded)) {
            Ok(()) => break folded,
            Err(what) => assert!(began.elapsed() < Duration::from_secs(150), "{what}"),
        }
    };
    // Delivered is what the log leads to: so it suffices to compare that with the auditor.
    for folded in &folded {
        assert_eq!(compare(&folded.machine, &folded.outputs, &folded.findings), None);
    }
    let of = |topic| {
        let outputs = folded.iter().flat_map(|f| &f.outputs);
        outputs.filter(|o| o.topic == topic).count()
    };
    println!("{} statement records, each once", of(Topic::Statements));
    assert!(of(Topic::Calls) > 0);
}

#[test]
fn kills_at_random_lose_nothing_and_double_nothing() {
    let (events, kills) = (number("RECKON_CHAOS_EVENTS", 200_000), number("RECKON_CHAOS_KILLS", 30));
    round(Source::Ticks, events, kills);
}

/// Ticks are the owners' here, and an event's time is hardly before the clock's.
#[test]
fn kills_at_random_on_a_log_of_append_times() {
    let (events, kills) = (number("RECKON_CHAOS_EVENTS", 200_000), number("RECKON_CHAOS_KILLS", 30));
    round(Source::Append, events / 8, kills / 4);
}
