//! The topics that are measured: made under a prefix of their own, filled as gateways would, removed at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use prost::Message;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::failed;
use crate::cli::CliError;
use crate::cli::init::new_log_id;
use crate::cli::terminal::progress;
use crate::http::token_keys::generate;
use crate::log::kafka::{KafkaSettings, topics};
use crate::log::placement::partition_of;
use crate::log::{Identity, NewRecord};
use crate::machine::clock::Source;
use crate::machine::output::Topic;
use crate::model::Ms;
use crate::wire::pb;
use crate::wire::protobuf::decode;
use crate::wire::record::Kind;
use crate::wire::signature::Signer;
use crate::workload::dense::Dense;

/// How long a deleted topic may take to be gone.
const GONE_WAIT: Duration = Duration::from_secs(30);

/// How far ahead of its time an event may be sent.
const AHEAD_MS: Ms = 5;

/// Events that are sent sooner than this after the first are not stamped: the producer connects meanwhile and gets its id, and
/// half a second of them wait for that, whoever reads them then.
const CONNECTED_MS: Ms = 1_000;

/// Events between two looks at what was delivered.
const REPORTS_EVERY: u64 = 256;

/// The topics of one prefix.
pub(super) struct Topics {
    pub(super) settings: KafkaSettings,
    identity: Identity,
    signer: Signer,
}

fn now_ms() -> Ms {
    chrono::Utc::now().timestamp_millis()
}

/// Nanoseconds of the clock that all processes of this machine share.
pub(super) fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| d.as_nanos() as u64)
}

impl Topics {
    /// Makes them.
    pub(super) fn create(settings: KafkaSettings, partitions: u32) -> Result<Self, CliError> {
        let pair = generate().map_err(|e| failed(format!("no random bytes for a key: {e}")))?;
        let topics = Self {
            settings,
            identity: Identity {
                log_id: new_log_id(),
                partition_count: partitions,
                source: Source::Append,
            },
            signer: Signer::new("bench", pair),
        };
        topics.make()?;
        Ok(topics)
    }

    fn make(&self) -> Result<(), CliError> {
        let genesis = |partition| {
            let genesis = pb::Genesis {
                keys: vec![self.signer.operator_key()],
                ..crate::log::local::genesis(&self.identity, partition)
            };
            let bytes = genesis.encode_to_vec();
            NewRecord {
                signature: Some(self.signer.sign(&self.identity.log_id, &bytes)),
                ..NewRecord::new(Kind::Genesis, bytes)
            }
        };
        topics::create(&self.settings, &self.identity, 1, &genesis)?;
        Ok(())
    }

    /// How many partitions each has.
    pub(super) const fn partitions(&self) -> u32 {
        self.identity.partition_count
    }

    fn delete(&self, names: &[String]) -> Result<(), CliError> {
        let client: AdminClient<DefaultClientContext> = self.settings.client().create().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let options = AdminOptions::new().operation_timeout(Some(GONE_WAIT));
        runtime
            .block_on(client.delete_topics(&names, &options))
            .map_err(failed)?
            .into_iter()
            .filter(|r| !matches!(r, Err((_, RDKafkaErrorCode::UnknownTopicOrPartition))))
            .try_for_each(|r| {
                r.map(drop)
                    .map_err(|(name, code)| failed(format!("removing {name}: {code}")))
            })
    }

    /// Empties the outputs, so that the next fold begins from nothing: what was delivered before would be compared.
    pub(super) fn forget_outputs(&self) -> Result<(), CliError> {
        self.delete(&Topic::ALL.map(|t| self.settings.output(t)))?;
        // The name is free once every broker has heard of it.
        let until = SystemTime::now() + GONE_WAIT;
        loop {
            std::thread::sleep(Duration::from_millis(500));
            match self.make() {
                Err(_) if SystemTime::now() < until => {}
                result => return result,
            }
        }
    }

    /// Removes them all.
    pub(super) fn remove(&self) -> Result<(), CliError> {
        let mut names = vec![self.settings.events()];
        names.extend(Topic::ALL.map(|t| self.settings.output(t)));
        self.delete(&names)
    }

    /// Sends the events of calls at their times, and says how many. With `stamped`, one event of so many is stamped: when
    /// it was handed over and where it came to stand is kept.
    pub(super) fn fill(&self, dense: Dense, calls: u64, linger_ms: u32, stamped: u64) -> Result<Filled, CliError> {
        let feed = Feed::new(&self.settings, linger_ms)?;
        let dense = Dense {
            start_ms: now_ms(),
            ..dense
        };
        let bar = progress(calls * 3, "filling");
        let (mut events, mut bytes_len, mut result) = (0u64, 0u64, Ok(()));
        let began = now_nanos();
        dense.write(0, calls, |bytes, at| {
            if result.is_err() {
                return;
            }
            if events.is_multiple_of(REPORTS_EVERY) {
                feed.producer.poll(Duration::ZERO);
                while now_ms() + AHEAD_MS < at {
                    std::thread::sleep(Duration::from_millis(1));
                    feed.producer.poll(Duration::ZERO);
                }
                bar.set_position(events);
            }
            events += 1;
            bytes_len += bytes.len() as u64;
            let is_stamped = stamped > 0 && events.is_multiple_of(stamped) && at >= dense.start_ms + CONNECTED_MS;
            let stamp = if is_stamped { now_nanos() } else { 0 };
            let account = decode(bytes).map_or("", |e| e.account);
            result = feed.send(partition_of(account, self.partitions()), account, bytes, stamp);
        });
        result?;
        let took = Duration::from_nanos(now_nanos() - began);
        bar.finish_and_clear();
        let delivered = feed.finish()?;
        Ok(Filled {
            events,
            bytes: bytes_len,
            took,
            delivered,
        })
    }

    /// One event of an account of each partition, now. Where each stands, by partition.
    pub(super) fn probe(&self, call: &str) -> Result<BTreeMap<u32, (String, u64)>, CliError> {
        let feed = Feed::new(&self.settings, 0)?;
        let mut accounts: BTreeMap<u32, String> = BTreeMap::new();
        for n in 0u64.. {
            if accounts.len() == self.partitions() as usize {
                break;
            }
            let account = format!("probe-{n}");
            accounts
                .entry(partition_of(&account, self.partitions()))
                .or_insert(account);
        }
        for (partition, account) in &accounts {
            let event = serde_json::json!({"account_id": account, "call_id": call, "phase": "ended",
                "occurred_at": chrono::Utc::now().to_rfc3339(), "product": "m-large", "end": {"cause": "completed"},
                "usage": [{"meter": "output_tokens", "value": 7}]});
            feed.send(*partition, account, event.to_string().as_bytes(), now_nanos())?;
        }
        let delivered = feed.finish()?;
        let place = |d: &Delivered| Some((d.partition, (accounts.get(&d.partition)?.clone(), d.offset)));
        Ok(delivered.iter().filter_map(place).collect())
    }
}

/// What was sent.
pub(super) struct Filled {
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) took: Duration,
    /// The stamped ones.
    pub(super) delivered: Vec<Delivered>,
}

/// A stamped event.
#[derive(Clone, Copy)]
pub(super) struct Delivered {
    pub(super) partition: u32,
    pub(super) offset: u64,
    /// When it was handed to the producer, in nanoseconds.
    pub(super) sent: u64,
}

#[derive(Default)]
struct Reports {
    delivered: Mutex<(Vec<Delivered>, Option<KafkaError>)>,
}

/// What the producer reports.
struct Context(Arc<Reports>);

impl ClientContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, stamp: usize) {
        let lock = || self.0.delivered.lock();
        match result {
            Ok(_) if stamp == 0 => {}
            Ok(message) => lock().0.push(Delivered {
                partition: u32::try_from(message.partition()).unwrap_or(0),
                offset: u64::try_from(message.offset()).unwrap_or(0),
                sent: stamp as u64,
            }),
            Err((cause, _)) => lock().1 = Some(cause.clone()),
        }
    }
}

/// A producer such as a gateway has, placing by the account.
struct Feed {
    producer: BaseProducer<Context>,
    reports: Arc<Reports>,
    topic: String,
}

impl Feed {
    fn new(settings: &KafkaSettings, linger_ms: u32) -> Result<Self, CliError> {
        let reports = Arc::new(Reports::default());
        let producer = settings
            .producer()
            .set("linger.ms", linger_ms.to_string())
            .create_with_context(Context(Arc::clone(&reports)))
            .map_err(failed)?;
        Ok(Self {
            producer,
            reports,
            topic: settings.events(),
        })
    }

    fn send(&self, partition: u32, account: &str, bytes: &[u8], stamp: u64) -> Result<(), CliError> {
        let mut next = Some(
            BaseRecord::with_opaque_to(&self.topic, stamp as usize)
                .partition(partition as i32)
                .key(account)
                .payload(bytes),
        );
        while let Some(record) = next.take() {
            match self.producer.send(record) {
                Ok(()) => {}
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) => {
                    self.producer.poll(Duration::from_millis(5));
                    next = Some(record);
                }
                Err((cause, _)) => return Err(failed(cause)),
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<Delivered>, CliError> {
        self.producer.flush(Duration::from_secs(60)).map_err(failed)?;
        let mut reports = self.reports.delivered.lock();
        match reports.1.take() {
            Some(cause) => Err(failed(cause)),
            None => Ok(std::mem::take(&mut reports.0)),
        }
    }
}
