//! Instances and the broker are killed, started, added and removed at random while hundreds of thousands of events come in.
//!
//! At the end everything that was acknowledged is in the log, and calls, usage and statements are those of the auditor, each
//! delivered exactly once.

//! Instances and the broker are killed, started, added and removed at random while hundreds of thousands of events come in.
//!
//! At the end everything that was acknowledged is in the log, and calls, usage and statements are those of the auditor, each
//! delivered exactly once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reckon::machine::clock::Source;
use reckon::machine::output::Topic;
use reckon::model::quantity::Quantity;
use reckon::workload::What;

use crate::broker::Broker;
use crate::comparing::compare;
use crate::feed::{Addresses, Dice, Feed, POSTED, Pace, workload};
use crate::fleet::{Fleet, eventually, usage};
use crate::outputs;
use crate::served::Served;
use crate::topics::{Folded, Topics};

const PARTITIONS: u32 = 12;

/// How long it may take until everything is delivered, once nobody is killed any more.
const DELIVERED_WAIT: Duration = Duration::from_secs(150);

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(default)
}

/// Says by which seed a run that fails can be had again.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to have this run again: RECKON_CHAOS_SEED={}", self.0);
        }
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

/// Waits until nothing more comes into the log.
fn await_rest(topics: &Topics) {
    let ends = || -> Vec<u64> { (0..PARTITIONS).map(|p| topics.end(p)).collect() };
    let mut before = ends();
    eventually("nothing more is forwarded", DELIVERED_WAIT, || {
        // Longer than a fold takes for what it forwards; nothing tells that there is no more.
        std::thread::sleep(Duration::from_secs(2));
        let now = ends();
        let rests = now == before;
        before = now;
        rests.then_some(())
    });
}

/// What a reader of committed outputs finds is what the log leads to, and so does one that takes exactly the next sequence.
fn delivered_is(topics: &Topics, folded: &[Folded]) -> Result<(), String> {
    for topic in Topic::ALL {
        let seen = outputs::read(topics, topic, "read_committed");
        outputs::same(topic, &seen, folded)?;
        let all = outputs::read(topics, topic, "read_uncommitted");
        for (partition, seen) in seen {
            let taken = outputs::next_only(&all[&partition]);
            assert!(taken.len() >= seen.len(), "{} of {partition}", topic.as_str());
            for (taken, seen) in taken.iter().zip(&seen) {
                assert_eq!((taken.sequence, &taken.body), (seen.sequence, &seen.body));
            }
        }
    }
    Ok(())
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
    let is_event = |step: &&reckon::workload::Step| matches!(step.what, What::Event(_));
    let count = steps.iter().filter(is_event).count() as u64;
    assert!(count >= events, "only {count} events");
    let broker = Broker::start(1, &[]);
    let topics = Topics::create(&broker.bootstrap(), PARTITIONS, source, 1);
    let fleet = Fleet::of(&topics, &[]);
    let pace = Pace::new(count, kills);
    let (over, addresses) = (AtomicBool::new(false), Addresses::default());
    let mut feed = Feed::new(&topics, &addresses, &pace);
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
        // What owners still forward is to come before time runs on until every wait is over and both months are closed.
        await_rest(&topics);
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
        // Owners may still forward and tick: what the log leads to is looked at again until nothing has come between.
        let delivered = delivered_is(&topics, &folded);
        match delivered.and_then(|()| live_usage_is(&instances, &folded)) {
            Ok(()) => break folded,
            Err(what) => {
                eprintln!("after {:?}: {what}", began.elapsed());
                assert!(began.elapsed() < DELIVERED_WAIT, "{what}");
            }
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
