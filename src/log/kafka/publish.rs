//! Appending to the input topic: events, ticks and forwards by an idempotent producer; control by one transaction at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders, Timestamp};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, ThreadedProducer};

use super::settings::KafkaSettings;
use super::{broker, kafka, note};
use crate::log::{LogError, NewRecord, Place, Receipt};
use crate::model::Ms;
use crate::model::limits::ID_BYTES_MAX;
use crate::wire::record::{Kind, account_of};

/// How long whoever appends waits for the brokers: longer than the producer itself tries.
const APPEND_WAIT: Duration = Duration::from_secs(40);

/// How long a control transaction's parts may take.
const CONTROL_WAIT: Duration = Duration::from_secs(30);

/// How often another writer of control records may come between before it is given up.
const CONTROL_ATTEMPTS: u32 = 5;

/// One append on its way: each record's receipt, once the broker has it.
struct Pending {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    receipts: Vec<Option<Receipt>>,
    waiting: usize,
    failed: Option<KafkaError>,
}

impl Pending {
    fn of(count: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                receipts: vec![None; count],
                waiting: 0,
                failed: None,
            }),
            changed: Condvar::new(),
        })
    }

    fn told(&self, at: usize, result: Result<Receipt, KafkaError>) {
        let mut state = self.state.lock();
        state.waiting = state.waiting.saturating_sub(1);
        match result {
            Ok(receipt) => state.receipts[at] = Some(receipt),
            Err(cause) => state.failed = Some(cause),
        }
        drop(state);
        self.changed.notify_all();
    }
}

struct Context;

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        note(&error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<(Arc<Pending>, usize)>;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Self::DeliveryOpaque) {
        let (pending, at) = *opaque;
        pending.told(
            at,
            match result {
                Ok(message) => Ok(receipt(message)),
                Err((error, _)) => Err(error.clone()),
            },
        );
    }
}

fn receipt(message: &impl Message) -> Receipt {
    let append_ms: Ms = match message.timestamp() {
        Timestamp::LogAppendTime(ms) | Timestamp::CreateTime(ms) => ms,
        Timestamp::NotAvailable => 0,
    };
    Receipt {
        partition: u32::try_from(message.partition()).unwrap_or(0),
        offset: u64::try_from(message.offset()).unwrap_or(0),
        append_ms,
    }
}

/// What stands beside a record's bytes, as headers; an event of a gateway's form has none.
fn headers(record: &NewRecord) -> Option<OwnedHeaders> {
    let mut headers = OwnedHeaders::new();
    let mut any = false;
    let mut add = |name, value: &str| {
        any = true;
        let old = std::mem::replace(&mut headers, OwnedHeaders::new());
        headers = old.insert(Header {
            key: name,
            value: Some(value),
        });
    };
    if record.kind != Kind::Event {
        add("reckon-record", record.kind.as_str());
    }
    if let Some(signature) = &record.signature {
        add("reckon-signature", signature);
    }
    if let Some(forwarded) = record.forwarded {
        add("reckon-forwarded", &forwarded.to_text());
    }
    any.then_some(headers)
}

/// Appends events, ticks and forwards.
pub struct Publisher {
    settings: KafkaSettings,
    producer: RwLock<Arc<ThreadedProducer<Context>>>,
    topic: String,
}

fn producer(settings: &KafkaSettings) -> Result<Arc<ThreadedProducer<Context>>, LogError> {
    let producer = settings.producer().create_with_context(Context);
    Ok(Arc::new(
        producer.map_err(|e| kafka("making the producer of events", &e))?,
    ))
}

impl Publisher {
    /// Makes the producer; it connects when it first has something.
    pub fn new(settings: &KafkaSettings) -> Result<Self, LogError> {
        Ok(Self {
            settings: settings.clone(),
            producer: RwLock::new(producer(settings)?),
            topic: settings.events(),
        })
    }

    /// Appends records to partitions, each in its order there, and returns once the brokers have all of them. After an error
    /// some may be there: appending them again is harmless.
    pub fn append(&self, records: &[(u32, &NewRecord)]) -> Result<Vec<Receipt>, LogError> {
        let producer = Arc::clone(&self.producer.read());
        let result = self.append_by(&producer, records);
        if result.is_err() {
            self.replace_if_fatal(&producer);
        }
        result
    }

    /// An idempotent producer whose sequence the brokers don't go on with appends nothing more, ever: another takes its place.
    fn replace_if_fatal(&self, failed: &Arc<ThreadedProducer<Context>>) {
        let Some((code, cause)) = failed.client().fatal_error() else {
            return;
        };
        let mut current = self.producer.write();
        // Others that waited for it have done so already.
        if !Arc::ptr_eq(&current, failed) {
            return;
        }
        match producer(&self.settings) {
            Ok(new) => {
                *current = new;
                drop(current);
                metrics::counter!("reckon_publisher_replaced_total").increment(1);
                tracing::warn!(
                    ?code,
                    cause,
                    "the producer of events has failed for good; another one goes on"
                );
            }
            Err(cause) => tracing::error!(%cause, "the producer of events has failed for good"),
        }
    }

    fn append_by(
        &self,
        producer: &ThreadedProducer<Context>,
        records: &[(u32, &NewRecord)],
    ) -> Result<Vec<Receipt>, LogError> {
        let pending = Pending::of(records.len());
        for (at, (partition, record)) in records.iter().enumerate() {
            let key = match record.kind {
                // A key that no account may have only makes the record larger.
                Kind::Event => account_of(&record.bytes).filter(|account| account.len() <= ID_BYTES_MAX),
                _ => None,
            };
            let mut message = BaseRecord::with_opaque_to(&self.topic, Box::new((Arc::clone(&pending), at)))
                .partition(*partition as i32)
                .payload(record.bytes.as_slice());
            if let Some(key) = &key {
                message = message.key(key.as_str());
            }
            if let Some(headers) = headers(record) {
                message = message.headers(headers);
            }
            pending.state.lock().waiting += 1;
            let mut next = Some(message);
            while let Some(message) = next.take() {
                match producer.send(message) {
                    Ok(()) => {}
                    // Room comes with the next report.
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), message)) => {
                        producer.poll(Duration::from_millis(5));
                        next = Some(message);
                    }
                    Err((cause, _)) => return Err(not_appended(&cause)),
                }
            }
        }
        let until = Instant::now() + APPEND_WAIT;
        let mut state = pending.state.lock();
        while state.waiting > 0 {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return Err(broker("appending to the log", "the brokers haven't answered in 40 s"));
            };
            pending.changed.wait_for(&mut state, left);
        }
        if let Some(cause) = &state.failed {
            return Err(not_appended(cause));
        }
        Ok(state.receipts.iter().copied().flatten().collect())
    }
}

fn not_appended(cause: &KafkaError) -> LogError {
    const DOING: &str = "appending to the log";
    match cause.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => LogError::TooLarge {
            doing: DOING.to_owned(),
            cause: cause.to_string(),
        },
        _ => kafka(DOING, cause),
    }
}

/// Whoever writes control records, one at a time over the whole cluster: so their order is the same in every partition.
pub struct ControlWriter {
    producer: BaseProducer<Context>,
    topic: String,
}

impl ControlWriter {
    /// Fences whoever wrote before; what that one had begun is taken back.
    pub fn take_over(settings: &KafkaSettings) -> Result<Self, LogError> {
        let producer: BaseProducer<Context> = settings
            .transactional(&settings.control_transactions())
            .create_with_context(Context)
            .map_err(|e| kafka("making the producer of control records", &e))?;
        producer
            .init_transactions(CONTROL_WAIT)
            .map_err(|e| kafka("taking over the control records", &e))?;
        Ok(Self {
            producer,
            topic: settings.events(),
        })
    }

    /// Appends records to their places, all or none of them.
    pub fn append(&self, records: &[(Place, NewRecord)], partition_count: u32) -> Result<Vec<Receipt>, LogError> {
        let mut placed = Vec::new();
        for (place, record) in records {
            for partition in place.partitions(partition_count)? {
                placed.push((partition, record));
            }
        }
        let failed = |e: &KafkaError| kafka("writing control records", e);
        self.producer.begin_transaction().map_err(|e| failed(&e))?;
        let result = self.transaction(&placed).map_err(|e| failed(&e));
        if result.is_err() {
            // Nothing of it counts. As long as it is open nobody reads on behind it; the next writer takes it back, should this fail.
            let _ = self.producer.abort_transaction(CONTROL_WAIT);
        }
        result
    }

    fn transaction(&self, placed: &[(u32, &NewRecord)]) -> Result<Vec<Receipt>, KafkaError> {
        let pending = Pending::of(placed.len());
        for (at, (partition, record)) in placed.iter().enumerate() {
            let mut message: BaseRecord<'_, (), [u8], _> =
                BaseRecord::with_opaque_to(&self.topic, Box::new((Arc::clone(&pending), at)))
                    .partition(*partition as i32)
                    .payload(record.bytes.as_slice());
            if let Some(headers) = headers(record) {
                message = message.headers(headers);
            }
            self.producer.send(message).map_err(|(e, _)| e)?;
        }
        self.producer.flush(CONTROL_WAIT)?;
        if let Some(cause) = pending.state.lock().failed.take() {
            return Err(cause);
        }
        self.producer.commit_transaction(CONTROL_WAIT)?;
        Ok(pending.state.lock().receipts.iter().copied().flatten().collect())
    }
}

/// Appends control records, all or none, beside other writers that do so too.
pub fn append_control(
    settings: &KafkaSettings,
    records: &[(Place, NewRecord)],
    partition_count: u32,
) -> Result<Vec<Receipt>, LogError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let result = ControlWriter::take_over(settings).and_then(|w| w.append(records, partition_count));
        match result {
            // Another writer has taken over meanwhile: its records go first.
            Err(LogError::Kafka { fenced: true, .. }) if attempt < CONTROL_ATTEMPTS => {}
            result => return result,
        }
    }
}
