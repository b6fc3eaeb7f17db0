//! What comes into a log while instances are killed: from a gateway, over HTTP, and from the operator.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use prost::Message;
use prost::encoding::encode_varint;
use reckon::log::kafka::publish::Publisher;
use reckon::log::placement::partition_of;
use reckon::log::{NewRecord, Place, fingerprint};
use reckon::machine::clock::Source;
use reckon::model::Ms;
use reckon::model::period::Month;
use reckon::wire::check::timestamp;
use reckon::wire::pb::control::Body;
use reckon::wire::record::Kind;
use reckon::workload::synthetic::Synthetic;
use reckon::workload::{Step, What};
use serde_json::Value;

use crate::topics::Topics;

/// Accounts that one of the workload's is split into, so that every partition has some.
const SPLIT: u64 = 20;

/// Times that events are appended; in a log of ticks, each time before one.
const BATCHES: u64 = 150;

/// Of the events, one in so many is posted to an instance.
pub const POSTED: u64 = 4;

/// How long a client waits for an instance before it asks another one: less than instances are held up for.
const POST_WAIT: Duration = Duration::from_secs(3);

/// How long lies between two appends, beside what they take: so that kills come while events do.
const APPEND_PAUSE: Duration = Duration::from_millis(150);

/// A seeded order of things.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u64) -> u64 {
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

/// The workload, and the log time of its end. A log whose clock is the brokers' time takes what happened just now.
pub fn workload(events: u64, source: Source) -> (Vec<Step>, Ms) {
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
            *at = Some(timestamp(
                first.seconds * 1_000 + i64::from(first.nanos) / 1_000_000 + later_ms,
            ));
        }
        last_ms += later_ms;
    }
    steps.push(Step {
        at_ms: last_ms,
        what: What::Tick,
    });
    (steps, last_ms)
}

/// What was acknowledged: partition, offset, and fingerprint.
pub type Acknowledged = Vec<(u32, u64, u64)>;

/// Lets only so much in between two kills that kills come until the end of the events.
pub struct Pace {
    pub events: u64,
    pub kills_min: u64,
    kills: Mutex<u64>,
    killed: Condvar,
}

impl Pace {
    pub fn new(events: u64, kills_min: u64) -> Self {
        Self {
            events,
            kills_min,
            kills: Mutex::new(0),
            killed: Condvar::new(),
        }
    }

    pub fn kill(&self) {
        *self.kills.lock().expect("no panic") += 1;
        self.killed.notify_all();
    }

    pub fn kills(&self) -> u64 {
        *self.kills.lock().expect("no panic")
    }

    /// Waits until so many events may be there.
    fn wait(&self, fed: u64) {
        let too_soon = |kills: &mut u64| fed > self.events * (*kills + 1) / self.kills_min;
        drop(self.killed.wait_while(self.kills.lock().expect("no panic"), too_soon));
    }
}

/// Where living instances answer.
pub type Addresses = Mutex<Vec<String>>;

/// A client of the instances, as a gateway is: it posts again, to the next one, until it is told that its events are there.
pub struct Client<'a> {
    addresses: &'a Addresses,
    agent: ureq::Agent,
    next: usize,
    pub again: u64,
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
pub struct Feed<'a> {
    topics: &'a Topics,
    gateway: Publisher,
    pub client: Client<'a>,
    pace: &'a Pace,
    pub acknowledged: Acknowledged,
    /// Of them, those that an instance has acknowledged.
    pub posted: u64,
}

impl<'a> Feed<'a> {
    pub fn new(topics: &'a Topics, addresses: &'a Addresses, pace: &'a Pace) -> Self {
        Self {
            topics,
            gateway: topics.gateway(),
            client: Client::new(addresses),
            pace,
            acknowledged: Vec::new(),
            posted: 0,
        }
    }

    /// Writes the workload as gateways and an operator do, again where it wasn't acknowledged.
    pub fn all(&mut self, steps: &[Step], source: Source) {
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
                        let own = partition_of(&event.account_id, self.topics.partitions);
                        // As producers that place otherwise, or not at all.
                        let place = if dice.below(12) == 0 {
                            dice.below(self.topics.partitions.into()) as u32
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
                && let Err(cause) = operator.append(&of_operator, self.topics.partitions)
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
