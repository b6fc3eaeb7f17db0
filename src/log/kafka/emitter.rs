//! One partition's outputs, each once: the five steps by which an owner takes over and emits.
//!
//! 1. *Ask the group* ([`super::group`]): only whom it confirms initialises the partition's transactional producer, which fences
//!    whoever had it before.
//! 2. *Barrier*: one record to each output partition, and to the input, in a transaction that is aborted. Whatever was written
//!    before has a lower offset: a tail counts once it is read past it, and so does the input's end.
//! 3. *Read the tails* past the barrier: the last committed output of each topic is what was delivered.
//! 4. *Catch up and compare*: the partition's shell emits nothing before its store has reached all tails, and compares what it
//!    decides up to them with what was delivered, before it writes it ([`crate::partition::worker`]).
//! 5. *Emit* in transactions.
//!
//! Any failure of a transaction ends the producer: its outcome may be unknown, and the tails say it once they are read anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::ffi::Taken;
use super::reader::{Readers, Seen, Want};
use super::settings::{ASK_TIMEOUT, KafkaSettings};
use super::{kafka, note};
use crate::log::LogError;
use crate::machine::output::{Output, Tail, Topic};

/// Outputs of one transaction at most.
const TRANSACTION_OUTPUTS: usize = 1_000;

/// Bytes of one transaction at most, unless one output is larger.
const TRANSACTION_BYTES: usize = 8 << 20;

/// How long a transaction's parts may take before its producer is given up.
const TRANSACTION_WAIT: Duration = Duration::from_secs(25);

/// How long one wait for the coordinator is.
const FENCE_WAIT: Duration = Duration::from_millis(50);

/// How long one wait for reports is.
const REPORT_WAIT: Duration = Duration::from_millis(5);

/// How far back the last committed output is looked for at first: each take-over leaves a barrier and a marker.
const LOOK_BACK: u64 = 64;

/// Field 14, a varint: `sequence` of every message of `outputs.proto`.
const SEQUENCE_TAG: u8 = 14 << 3;

/// Where the time of a take-over goes.
struct Phases(Instant);

impl Phases {
    fn begin() -> Self {
        Self(Instant::now())
    }

    fn next(&mut self) -> u64 {
        let now = Instant::now();
        let before = std::mem::replace(&mut self.0, now);
        now.duration_since(before).as_millis() as u64
    }
}

/// Where the barrier's records came to stand, and what the producer was told of its records.
#[derive(Default)]
struct Reports {
    offsets: BTreeMap<String, u64>,
    failed: Option<RDKafkaErrorCode>,
}

struct Context {
    reports: Arc<Mutex<Reports>>,
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        note(&error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut reports = self.reports.lock();
        match result {
            Ok(message) => {
                let offset = u64::try_from(message.offset()).unwrap_or(0);
                reports.offsets.insert(message.topic().to_owned(), offset);
            }
            Err((error, _)) => reports.failed = error.rdkafka_error_code().or(Some(RDKafkaErrorCode::Fail)),
        }
    }
}

/// Whoever puts out one partition's outputs.
pub struct Emitter {
    partition: u32,
    producer: BaseProducer<Context>,
    reports: Arc<Mutex<Reports>>,
    topics: [String; 4],
    /// Where the barrier stands in the input: whoever has read past it has read to the end, whatever a stale leader says.
    pub input_barrier: u64,
    events: String,
    /// What is delivered, by [`Topic`] number.
    pub tails: [Tail; 4],
}

/// What an output's message says of itself.
pub(super) fn read_output(topic: Topic, message: &Taken) -> Option<Output> {
    let (mut sequence, mut chain) = (None, None);
    message.headers(|name, value| match name {
        "reckon-sequence" => sequence = std::str::from_utf8(value).ok().and_then(|t| t.parse::<u64>().ok()),
        "reckon-chain" => {
            chain = std::str::from_utf8(value)
                .ok()
                .and_then(|t| u128::from_str_radix(t, 16).ok());
        }
        _ => {}
    });
    let (sequence, chain) = (sequence?, chain?);
    let mut body = message.payload().to_vec();
    let field = sequence_field(sequence);
    body.ends_with(&field)
        .then(|| body.truncate(body.len() - field.len()))?;
    Some(Output {
        topic,
        sequence,
        chain,
        body,
    })
}

/// The field that a body ends with on Kafka: fields of protobuf messages may stand in any order.
pub(super) fn sequence_field(sequence: u64) -> Vec<u8> {
    let mut field = vec![SEQUENCE_TAG];
    prost::encoding::encode_varint(sequence, &mut field);
    field
}

impl Emitter {
    /// Steps 1 (its second half), 2 and 3. The group has confirmed the caller as the partition's owner.
    pub fn take_over(
        settings: &KafkaSettings,
        log_id: &str,
        partition: u32,
        readers: &Readers,
    ) -> Result<Self, LogError> {
        let reports = Arc::new(Mutex::new(Reports::default()));
        let context = Context {
            reports: Arc::clone(&reports),
        };
        let mut phases = Phases::begin();
        let producer: BaseProducer<Context> = settings
            .transactional(&settings.output_transactions(log_id, partition))
            .create_with_context(context)
            .map_err(|e| kafka("making an output producer", &e))?;
        let events = settings.events();
        // A producer that asks for its coordinator before any broker is connected asks again only half a second later.
        let client = producer.client();
        client
            .fetch_metadata(Some(&events), ASK_TIMEOUT)
            .map_err(|e| kafka("making an output producer", &e))?;
        let client_ms = phases.next();
        fence(&producer).map_err(|e| ended(partition, "taking over its transactions", &e))?;
        let fence_ms = phases.next();
        let mut emitter = Self {
            partition,
            producer,
            reports,
            topics: Topic::ALL.map(|t| settings.output(t)),
            input_barrier: 0,
            events,
            tails: [Tail::default(); 4],
        };
        let (barrier, input_barrier) = emitter.barrier()?;
        let barrier_ms = phases.next();
        emitter.input_barrier = input_barrier;
        emitter.tails = emitter.read_tails(readers, &barrier)?;
        let tails_ms = phases.next();
        tracing::debug!(
            partition,
            client_ms,
            fence_ms,
            barrier_ms,
            tails_ms,
            "its outputs are ours"
        );
        Ok(emitter)
    }

    /// Waits until all that was sent is reported on. The client's own flush looks ten times a second whether it is.
    fn flush(&self, doing: &'static str) -> Result<(), LogError> {
        let until = Instant::now() + TRANSACTION_WAIT;
        while self.producer.in_flight_count() > 0 {
            if Instant::now() >= until {
                let late = KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut);
                return Err(ended(self.partition, doing, &late));
            }
            self.producer.poll(REPORT_WAIT);
        }
        Ok(())
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock()
    }

    /// Writes a record to each output partition and to the input, and takes them back. Where they stood.
    fn barrier(&self) -> Result<([u64; 4], u64), LogError> {
        let fail = |doing, e: &KafkaError| ended(self.partition, doing, e);
        *self.reports() = Reports::default();
        self.producer
            .begin_transaction()
            .map_err(|e| fail("beginning the barrier", &e))?;
        for topic in self.topics.iter().chain([&self.events]) {
            let headers = OwnedHeaders::new().insert(Header {
                key: "reckon-barrier",
                value: Some("1"),
            });
            let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(topic)
                .partition(self.partition as i32)
                .payload(&[][..])
                .headers(headers);
            self.producer
                .send(record)
                .map_err(|(e, _)| fail("writing the barrier", &e))?;
        }
        self.flush("writing the barrier")?;
        let offsets = {
            let reports = self.reports();
            if let Some(code) = reports.failed {
                return Err(interrupted(self.partition, "writing the barrier", code.to_string()));
            }
            let stood = |topic: &String| {
                let offset = reports.offsets.get(topic).copied();
                offset.ok_or_else(|| interrupted(self.partition, "writing the barrier", "no report".to_owned()))
            };
            let mut offsets = [0; 4];
            for (offset, topic) in offsets.iter_mut().zip(&self.topics) {
                *offset = stood(topic)?;
            }
            (offsets, stood(&self.events)?)
        };
        self.producer
            .abort_transaction(TRANSACTION_WAIT)
            .map_err(|e| fail("taking the barrier back", &e))?;
        Ok(offsets)
    }

    /// The last committed output of each topic, read past the barrier.
    fn read_tails(&self, readers: &Readers, barrier: &[u64; 4]) -> Result<[Tail; 4], LogError> {
        let mut tails = [Tail::default(); 4];
        let mut open: Vec<(usize, u64)> = (0..4).map(|n| (n, LOOK_BACK)).collect();
        let mut starts = [0; 4];
        for (start, topic) in starts.iter_mut().zip(&self.topics) {
            *start = readers.ends(topic, self.partition)?.0;
        }
        while !open.is_empty() {
            let from: Vec<(&str, u32, u64)> = open
                .iter()
                .map(|&(n, back)| {
                    let offset = barrier[n].saturating_sub(back).max(starts[n]);
                    (self.topics[n].as_str(), self.partition, offset)
                })
                .collect();
            let mut unreadable = None;
            readers.read(&from, ASK_TIMEOUT * 3, |topic, _, seen| {
                let Some(n) = self.topics.iter().position(|t| t == topic) else {
                    return Want::Enough;
                };
                match seen {
                    Seen::Record(message) => match read_output(Topic::ALL[n], message) {
                        Some(output) => {
                            tails[n] = Tail {
                                sequence: output.sequence,
                                chain: output.chain,
                            };
                        }
                        None => unreadable = Some((n, message.offset())),
                    },
                    Seen::End(end) if end > barrier[n] => return Want::Enough,
                    Seen::End(_) => {}
                }
                Want::More
            })?;
            if let Some((n, offset)) = unreadable {
                return Err(LogError::ForeignOutput {
                    topic: self.topics[n].clone(),
                    partition: self.partition,
                    offset,
                });
            }
            let mut further = Vec::new();
            for (n, back) in open {
                if tails[n].sequence > 0 {
                    continue;
                }
                if barrier[n].saturating_sub(back) > starts[n] {
                    further.push((n, back.saturating_mul(16)));
                } else if starts[n] > 0 {
                    return Err(LogError::OutputsDropped {
                        topic: self.topics[n].clone(),
                        partition: self.partition,
                        start: starts[n],
                    });
                }
            }
            open = further;
        }
        Ok(tails)
    }

    /// Step 5: puts out what follows the tails, in transactions. After an error the emitter is of no use any more.
    pub fn emit(&mut self, outputs: &[&Output]) -> Result<(), LogError> {
        let mut rest = outputs;
        while !rest.is_empty() {
            let mut bytes = 0;
            let count = rest
                .iter()
                .take(TRANSACTION_OUTPUTS)
                .take_while(|o| {
                    bytes += o.body.len();
                    bytes <= TRANSACTION_BYTES
                })
                .count()
                .max(1);
            let (now, later) = rest.split_at(count);
            let began = Instant::now();
            self.transaction(now)?;
            metrics::counter!("reckon_output_transactions_total").increment(1);
            metrics::histogram!("reckon_output_transaction_seconds").record(began.elapsed());
            rest = later;
        }
        Ok(())
    }

    fn transaction(&mut self, outputs: &[&Output]) -> Result<(), LogError> {
        let partition = self.partition;
        let fail = |doing, e: &KafkaError| ended(partition, doing, e);
        *self.reports() = Reports::default();
        self.producer
            .begin_transaction()
            .map_err(|e| fail("beginning a transaction", &e))?;
        let mut tails = self.tails;
        for output in outputs {
            let mut value = output.body.clone();
            value.extend_from_slice(&sequence_field(output.sequence));
            let name = output.topic.as_str();
            let id = format!("{name}/{partition}/{}", output.sequence);
            let headers = OwnedHeaders::new_with_capacity(3)
                .insert(Header {
                    key: "reckon-sequence",
                    value: Some(&output.sequence.to_string()),
                })
                .insert(Header {
                    key: "reckon-chain",
                    value: Some(&format!("{:032x}", output.chain)),
                })
                .insert(Header {
                    key: "reckon-id",
                    value: Some(&id),
                });
            let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(&self.topics[output.topic as usize])
                .partition(partition as i32)
                .payload(value.as_slice())
                .headers(headers);
            self.producer
                .send(record)
                .map_err(|(e, _)| fail("writing outputs", &e))?;
            tails[output.topic as usize] = Tail {
                sequence: output.sequence,
                chain: output.chain,
            };
        }
        self.flush("writing outputs")?;
        if let Some(code) = self.reports().failed {
            return Err(interrupted(partition, "writing outputs", code.to_string()));
        }
        self.producer
            .commit_transaction(TRANSACTION_WAIT)
            .map_err(|e| fail("committing outputs", &e))?;
        self.tails = tails;
        Ok(())
    }
}

/// Step 1, its second half. A client that meets its coordinator not connected yet asks it again half a second later, or as soon as
/// it is told to go on: so it is told so soon.
fn fence(producer: &BaseProducer<Context>) -> Result<(), KafkaError> {
    let until = Instant::now() + TRANSACTION_WAIT;
    loop {
        match producer.init_transactions(FENCE_WAIT) {
            Err(KafkaError::Transaction(e))
                if e.code() == RDKafkaErrorCode::OperationTimedOut && e.is_retriable() && Instant::now() < until => {}
            result => return result,
        }
    }
}

/// A transaction that didn't go through. Whether it was fenced or timed out doesn't matter: who owns the partition the group
/// says, and what was delivered the tails say.
fn ended(partition: u32, doing: &'static str, cause: &KafkaError) -> LogError {
    let fenced = match cause {
        KafkaError::Transaction(e) => matches!(
            e.code(),
            RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch
        ),
        _ => false,
    };
    metrics::counter!("reckon_output_transactions_failed_total", "fenced" => if fenced { "yes" } else { "no" })
        .increment(1);
    interrupted(partition, doing, cause.to_string())
}

fn interrupted(partition: u32, doing: &'static str, cause: String) -> LogError {
    LogError::Interrupted {
        partition,
        doing,
        cause,
    }
}
