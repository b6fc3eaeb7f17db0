//! Made-up calls, a client that sends until it is acknowledged, and the sums that must come out.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use reckon::workload::seed::Seed;
use serde_json::{Value, json};

/// Accounts that the calls are spread over.
pub const ACCOUNTS: u64 = 24;

/// What an account comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub calls: u64,
    pub tokens: u64,
}

impl AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.tokens += other.tokens;
    }
}

impl Sums {
    /// Nothing of it is less.
    pub fn covers(self, other: Self) -> bool {
        self.calls >= other.calls && self.tokens >= other.tokens
    }

    /// What a usage answer, or a message of its stream, says.
    pub fn of_usage(body: &Value) -> Self {
        let mut sums = Self::default();
        for row in body["rows"].as_array().expect("rows") {
            let quantity = number(&row["quantity"]);
            match row["meter"].as_str().expect("a meter") {
                "requests" => sums.calls += quantity,
                "output_tokens" => sums.tokens += quantity,
                other => panic!("nobody sent {other}"),
            }
        }
        sums
    }
}

/// A decimal string.
pub fn number(value: &Value) -> u64 {
    value
        .as_str()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| panic!("a whole number, not {value}"))
}

#[derive(Debug, Default)]
struct Account {
    attempted: Sums,
    /// By partition and offset.
    acknowledged: Vec<(u64, Sums)>,
}

/// What was sent, and what was acknowledged where.
#[derive(Debug, Default)]
pub struct Ledger {
    accounts: Mutex<BTreeMap<String, Account>>,
}

impl Ledger {
    fn attempt(&self, batch: &Sent) {
        let mut accounts = self.accounts.lock().expect("the ledger");
        for (account, sums) in &batch.events {
            accounts.entry(account.clone()).or_default().attempted += *sums;
        }
    }

    fn acknowledge(&self, batch: &Sent, places: &[(u32, u64)]) {
        assert_eq!(batch.events.len(), places.len(), "a result for every event");
        let mut accounts = self.accounts.lock().expect("the ledger");
        for ((account, sums), (_, offset)) in batch.events.iter().zip(places) {
            accounts
                .entry(account.clone())
                .or_default()
                .acknowledged
                .push((*offset, *sums));
        }
    }

    /// What must be in an answer that stands at that offset, and what can be in any answer by now.
    pub fn bounds(&self, account: &str, offset: u64) -> (Sums, Sums) {
        let accounts = self.accounts.lock().expect("the ledger");
        let mut least = Sums::default();
        let Some(account) = accounts.get(account) else {
            return (least, least);
        };
        for (_, sums) in account.acknowledged.iter().filter(|(at, _)| *at <= offset) {
            least += *sums;
        }
        (least, account.attempted)
    }

    /// All accounts, each with everything that was acknowledged.
    pub fn acknowledged(&self) -> BTreeMap<String, Sums> {
        let accounts = self.accounts.lock().expect("the ledger");
        let sum = |account: &Account| {
            let mut sums = Sums::default();
            account.acknowledged.iter().for_each(|(_, s)| sums += *s);
            sums
        };
        accounts
            .iter()
            .map(|(name, account)| (name.clone(), sum(account)))
            .collect()
    }

    /// Events acknowledged.
    pub fn events(&self) -> usize {
        let accounts = self.accounts.lock().expect("the ledger");
        accounts.values().map(|a| a.acknowledged.len()).sum()
    }
}

/// A body and what its events come to.
pub struct Sent {
    pub body: String,
    events: Vec<(String, Sums)>,
}

impl Sent {
    /// The first event's account, and what it adds to it.
    pub fn first(&self) -> (String, Sums) {
        self.events[0].clone()
    }
}

/// One client's calls: some in one event, some in two that go out one batch after the other.
pub struct Client {
    number: u64,
    next: u64,
    seed: Seed,
    occurred_at: String,
    /// Usage of calls whose end went out with the batch before.
    late: Vec<(String, String, u64)>,
}

impl Client {
    /// Clients of different numbers send different calls.
    pub fn new(number: u64, occurred_at: &str) -> Self {
        Self {
            number,
            next: 0,
            seed: Seed::of(number, 41),
            occurred_at: occurred_at.to_owned(),
            late: Vec::new(),
        }
    }

    /// The next batch, of 1 to `calls_max` calls.
    pub fn some(&mut self, calls_max: u64) -> Sent {
        let calls = 1 + self.seed.below(calls_max);
        self.batch(calls)
    }

    /// The next batch of that many calls.
    pub fn batch(&mut self, calls: u64) -> Sent {
        let mut sent = Sent {
            body: String::new(),
            events: Vec::new(),
        };
        let usage = |tokens: u64| json!([{"meter": "output_tokens", "value": tokens.to_string(), "provenance": "upstream_measured"}]);
        let mut push = |event: Value, sums: Sums| {
            sent.events
                .push((event["account_id"].as_str().expect("an account").to_owned(), sums));
            sent.body.push_str(&event.to_string());
            sent.body.push('\n');
        };
        for (account, call, tokens) in std::mem::take(&mut self.late) {
            let event = json!({"account_id": account, "call_id": call, "phase": "usage_reported",
                "occurred_at": self.occurred_at, "usage": usage(tokens)});
            push(event, Sums { calls: 0, tokens });
        }
        for _ in 0..calls {
            let account = format!("account-{}", self.seed.below(ACCOUNTS));
            let call = format!("call-{}-{}", self.number, self.next);
            let tokens = self.seed.below(1_000);
            self.next += 1;
            let mut event = json!({"account_id": account, "call_id": call, "phase": "ended", "product": "m",
                "occurred_at": self.occurred_at, "end": {"cause": "completed"}});
            if self.seed.below(4) == 0 {
                push(event, Sums { calls: 1, tokens: 0 });
                self.late.push((account, call, tokens));
            } else {
                event["usage"] = usage(tokens);
                push(event, Sums { calls: 1, tokens });
            }
        }
        sent
    }
}

/// Where the service listens; it changes with every restart.
#[derive(Debug, Default)]
pub struct Address {
    now: Mutex<(u64, String)>,
    changed: Condvar,
}

impl Address {
    /// It listens there from now on.
    pub fn set(&self, base: &str) {
        let mut now = self.now.lock().expect("the address");
        *now = (now.0 + 1, base.to_owned());
        self.changed.notify_all();
    }

    /// Which one it is, and where.
    pub fn get(&self) -> (u64, String) {
        self.now.lock().expect("the address").clone()
    }

    /// Waits for another address than that one; a little only, for the same one may answer again.
    pub fn wait(&self, seen: u64) {
        let now = self.now.lock().expect("the address");
        let _ = self
            .changed
            .wait_timeout_while(now, Duration::from_millis(20), |now| now.0 == seen);
    }
}

/// A client that takes every status as an answer and doesn't wait for one for ever.
pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(10)))
        .build()
        .into()
}

/// Sends a body as a client does: again and again, the same bytes, until it is acknowledged. Where its events then are.
pub fn send(agent: &ureq::Agent, address: &Address, body: &str) -> Vec<(u32, u64)> {
    loop {
        let (seen, base) = address.get();
        let answer = agent
            .post(format!("{base}/v1/events"))
            .header("content-type", "application/x-ndjson")
            .send(body)
            .and_then(|mut response| {
                let status = response.status().as_u16();
                let text = response.body_mut().with_config().limit(1 << 26).read_to_string()?;
                Ok((status, text))
            });
        match answer {
            Ok((200, text)) => {
                let answer: Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(answer["refused"], 0, "{text}");
                let place = |r: &Value| {
                    (
                        r["partition"].as_u64().expect("a partition") as u32,
                        number(&r["offset"]),
                    )
                };
                return answer["results"]
                    .as_array()
                    .expect("results")
                    .iter()
                    .map(place)
                    .collect();
            }
            Ok((429 | 503, _)) | Err(_) => address.wait(seen),
            Ok((status, text)) => panic!("{status}: {text}"),
        }
    }
}

/// Sends batches until told to stop; what is begun is sent to its acknowledgement. How many there were.
pub fn post(client: &mut Client, address: &Address, ledger: &Ledger, calls_max: u64, stop: &AtomicBool) -> u64 {
    let (agent, mut batches) = (agent(), 0);
    loop {
        // The last one has no new calls: only usage of those that have ended.
        let last = stop.load(Ordering::Relaxed);
        let batch = if last { client.batch(0) } else { client.some(calls_max) };
        if !batch.events.is_empty() {
            ledger.attempt(&batch);
            let places = send(&agent, address, &batch.body);
            ledger.acknowledge(&batch, &places);
        }
        if last {
            return batches;
        }
        batches += 1;
    }
}

/// Sends the same batches again.
pub fn post_again(client: &mut Client, address: &Address, calls_max: u64, batches: u64) {
    let agent = agent();
    for _ in 0..batches {
        send(&agent, address, &client.some(calls_max).body);
    }
    let last = client.batch(0);
    if !last.events.is_empty() {
        send(&agent, address, &last.body);
    }
}
