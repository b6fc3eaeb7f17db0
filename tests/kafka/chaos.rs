//! Instances and the broker are killed, started, added and removed at random while hundreds of thousands of events come in.
//!
//! At the end everything that was acknowledged is in the log, and calls, usage and statements are those of the auditor, each
//! delivered exactly once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use reckon::log::placement::partition_of;
use reckon::log::{NewRecord, Place, Receipt, fingerprint};
use reckon::machine::clock::Source;
use reckon::machine::output::Topic;
use reckon::model::period::Month;
use reckon::model::quantity::Quantity;
use reckon::wire::pb::control::Body;
use reckon::wire::record::Kind;
use reckon::workload::synthetic::Synthetic;
use reckon::workload::{Step, What};

use crate::broker::Broker;
use crate::comparing::compare;
use crate::fleet::{Fleet, eventually, usage};
use crate::outputs;
use crate::served::Served;
use crate::topics::Topics;

const PARTITIONS: u32 = 12;

/// Accounts that one of the workload's is split into, so that every partition has some.
const SPLIT: u64 = 20;

/// Times that the operator's tick comes between events.
const TICKS: u64 = 150;

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

/// What was acknowledged: where, and what.
type Acknowledged = Vec<(Receipt, u64)>;

/// Writes the workload as gateways and an operator do, again where it wasn't acknowledged.
fn feed(topics: &Topics, steps: &[Step], at_once: usize, fed: &AtomicU64) -> Acknowledged {
    let gateway = topics.gateway();
    let mut operator = topics.operator();
    let mut acknowledged = Vec::new();
    let mut dice = Dice(7);
    let mut waiting: Vec<(u32, NewRecord)> = Vec::new();
    let mut version = 0;
    for step in steps {
        let mut of_operator: Vec<(Place, NewRecord)> = Vec::new();
        match &step.what {
            What::Event(event) => {
                let own = partition_of(&event.account_id, PARTITIONS);
                // As producers that place otherwise, or not at all.
                let place = if dice.below(12) == 0 {
                    dice.below(PARTITIONS.into()) as u32
                } else {
                    own
                };
                waiting.push((place, NewRecord::new(Kind::Event, event.encode_to_vec())));
                continue;
            }
            What::Tick if waiting.len() < at_once => continue,
            What::Tick => of_operator.push(topics.tick(step.at_ms)),
            What::Control(control) => {
                let mut control = (**control).clone();
                if reckon::machine::control::is_for_everyone(&control) {
                    version += 1;
                    control.control_version = version;
                }
                of_operator.push(topics.control(&control, step.at_ms));
            }
        }
        append(&gateway, &mut waiting, &mut acknowledged, fed);
        while let Err(cause) = operator.append(&of_operator, PARTITIONS) {
            eprintln!("the operator tries again: {cause}");
            operator = topics.operator();
        }
    }
    append(&gateway, &mut waiting, &mut acknowledged, fed);
    acknowledged
}

fn append(
    gateway: &reckon::log::kafka::publish::Publisher,
    waiting: &mut Vec<(u32, NewRecord)>,
    acknowledged: &mut Acknowledged,
    fed: &AtomicU64,
) {
    let records: Vec<(u32, &NewRecord)> = waiting.iter().map(|(p, r)| (*p, r)).collect();
    let receipts = loop {
        match gateway.append(&records) {
            Ok(receipts) => break receipts,
            Err(cause) => eprintln!("the gateway tries again: {cause}"),
        }
    };
    let prints = records.iter().map(|(_, r)| fingerprint(&r.bytes));
    acknowledged.extend(receipts.into_iter().zip(prints));
    fed.fetch_add(records.len() as u64, Ordering::Relaxed);
    waiting.clear();
}

/// Kills, starts, stops, adds and removes until told to end. Leaves two instances alive. How many kills.
fn disturb(fleet: &Fleet, broker: &Broker, over: &AtomicBool, kills_min: u64) -> (u64, Vec<Served>) {
    let mut dice = Dice(number("RECKON_CHAOS_SEED", 3));
    let mut alive: BTreeMap<u64, Served> = (0..2).map(|n| (n, fleet.start(&format!("i{n}")))).collect();
    let mut next_name = 2;
    let (mut kills, mut broker_kills) = (0, 0);
    while !over.load(Ordering::Relaxed) || kills < kills_min {
        std::thread::sleep(Duration::from_millis(300 + dice.below(1_500)));
        let names: Vec<u64> = alive.keys().copied().collect();
        let name = names[dice.below(names.len() as u64) as usize];
        match dice.below(12) {
            // Killed, and started again at once: a static member.
            0..=6 => {
                alive.remove(&name).expect("alive").kill();
                kills += 1;
                alive.insert(name, fleet.start(&format!("i{name}")));
            }
            // Killed for good; another one comes, which has no store, or has an old one.
            7 | 8 if alive.len() > 1 => {
                alive.remove(&name).expect("alive").kill();
                kills += 1;
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
            11 if broker_kills < 1 + kills / 12 => {
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
    println!("{kills} instances and {broker_kills} brokers killed, {next_name} data folders");
    (kills, alive.into_values().collect())
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

#[test]
fn kills_at_random_lose_nothing_and_double_nothing() {
    let (events, kills) = (number("RECKON_CHAOS_EVENTS", 200_000), number("RECKON_CHAOS_KILLS", 30));
    let month = Month(2026 * 12 + 8);
    let made = Synthetic {
        seed: 5,
        month,
        calls: (events * 2 / 5) as u32,
    }
    .make();
    let mut steps = split(made.steps);
    let is_event = |step: &&Step| matches!(step.what, What::Event(_));
    let count = steps.iter().filter(is_event).count() as u64;
    assert!(count >= events, "only {count} events");
    let last_ms = steps.last().expect("steps").at_ms;
    steps.push(Step {
        at_ms: last_ms,
        what: What::Tick,
    });
    let broker = Broker::start(1, &[]);
    let topics = Topics::create(&broker.bootstrap(), PARTITIONS, Source::Ticks, 1);
    let fleet = Fleet::of(&topics, &[]);
    let (over, fed) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    let (acknowledged, instances) = std::thread::scope(|scope| {
        let disturbing = scope.spawn(|| disturb(&fleet, &broker, &over, kills));
        let acknowledged = feed(&topics, &steps, (count / TICKS) as usize, &fed);
        println!("{count} events fed in {:?}", began.elapsed());
        over.store(true, Ordering::Relaxed);
        let (killed, instances) = disturbing.join().expect("no panic");
        assert!(killed >= kills);
        (acknowledged, instances)
    });
    // Time runs on until every wait is over and both months are closed.
    topics
        .operator()
        .append(&[topics.tick(last_ms + 70 * 86_400_000)], PARTITIONS)
        .expect("a tick");
    let folded = topics.fold();
    for (receipt, print) in &acknowledged {
        let found = folded[receipt.partition as usize].records.get(&receipt.offset);
        assert_eq!(found, Some(print), "{receipt:?} was acknowledged");
    }
    outputs::all_delivered(&topics, &folded, Duration::from_secs(150));
    // Delivered is what the log leads to: so it suffices to compare that with the auditor.
    for folded in &folded {
        assert_eq!(compare(&folded.machine, &folded.outputs, &folded.findings), None);
    }
    let statements = folded
        .iter()
        .flat_map(|f| &f.outputs)
        .filter(|o| o.topic == Topic::Statements);
    println!("{} statement records, each once", statements.count());
    for folded in &folded {
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
            assert_eq!(live_usage(&instances, account, period), rows, "{account} {period}");
        }
    }
}
