//! How the cluster is reached: names, addresses, and every librdkafka setting.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

use crate::machine::output::Topic;

/// How long a question to the cluster may take.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest output record: a statement of an account with tens of thousands of rows.
pub const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// Settings that Reckon's promises hang on, by all their names: they can't be passed through. Beside each what does it instead,
/// if something does.
const FIXED: [(&str, &str); 29] = [
    ("acks", ""),
    ("allow.auto.create.topics", ""),
    ("auto.commit.enable", ""),
    ("auto.offset.reset", ""),
    ("bootstrap.servers", "kafka.bootstrap (--kafka)"),
    ("check.crcs", ""),
    ("client.id", "kafka.advertise (--advertise)"),
    ("enable.auto.commit", ""),
    ("enable.auto.offset.store", ""),
    ("enable.gapless.guarantee", ""),
    ("enable.idempotence", ""),
    ("enable.partition.eof", ""),
    ("fetch.queue.backoff.ms", ""),
    ("group.id", "kafka.topic_prefix (--topic-prefix)"),
    ("group.instance.id", "kafka.instance (--instance)"),
    ("group.protocol", ""),
    ("group.protocol.type", ""),
    ("group.remote.assignor", ""),
    ("heartbeat.interval.ms", "kafka.session_timeout_ms"),
    ("isolation.level", ""),
    ("max.in.flight", ""),
    ("max.in.flight.requests.per.connection", ""),
    ("max.poll.interval.ms", "kafka.session_timeout_ms"),
    ("metadata.broker.list", "kafka.bootstrap (--kafka)"),
    ("partition.assignment.strategy", ""),
    ("request.required.acks", ""),
    ("session.timeout.ms", "kafka.session_timeout_ms"),
    ("test.mock.num.brokers", ""),
    ("transactional.id", ""),
];

/// How a Kafka cluster is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaSettings {
    /// `HOST:PORT`, several by commas.
    pub bootstrap: String,
    /// First part of every topic's name, and the group's name.
    pub prefix: String,
    /// This process's name, the same after a restart: the group keeps its partitions for it for the session's time.
    pub instance: Option<String>,
    /// Where other instances reach this one's HTTP, `http://host:port`. It is in the client id, which the group's description shows.
    pub advertise: Option<String>,
    /// How long the group waits for an instance that is silent.
    pub session_timeout: Duration,
    /// librdkafka settings as they are (`sasl.mechanism` …).
    pub passed: BTreeMap<String, String>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            bootstrap: String::new(),
            prefix: "reckon".to_owned(),
            instance: None,
            advertise: None,
            session_timeout: Duration::from_secs(10),
            passed: BTreeMap::new(),
        }
    }
}

/// First part of an instance's client id; its address follows.
pub const CLIENT_ID: &str = "reckon;";

impl KafkaSettings {
    /// What is wrong with a setting that may not be passed through, if there is one.
    pub fn forbidden(&self) -> Option<String> {
        let (name, instead) = FIXED.iter().find(|(name, _)| self.passed.contains_key(*name))?;
        Some(match *instead {
            "" => format!("{name} can't be set: Reckon's promises hang on it"),
            instead => format!("{name} can't be set, Reckon sets it itself: use {instead}"),
        })
    }

    /// The input topic.
    pub fn events(&self) -> String {
        format!("{}.events", self.prefix)
    }

    /// An output topic.
    pub fn output(&self, topic: Topic) -> String {
        format!("{}.{}", self.prefix, topic.as_str())
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        &self.prefix
    }

    /// The one transactional id of all who write control records.
    pub fn control_transactions(&self) -> String {
        format!("{}-control", self.prefix)
    }

    /// The transactional id of whoever puts out a partition's outputs.
    pub fn output_transactions(&self, log_id: &str, partition: u32) -> String {
        format!("{}-{log_id}-{partition}", self.prefix)
    }

    /// What all clients have in common.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set(
                "client.id",
                format!("{CLIENT_ID}{}", self.advertise.as_deref().unwrap_or_default()),
            )
            // A broker that comes back is found again soon.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("allow.auto.create.topics", "false")
            .set_log_level(RDKafkaLogLevel::Error);
        self.passing(config)
    }

    /// With the settings passed through, which win over those that nothing hangs on.
    fn passing(&self, mut config: ClientConfig) -> ClientConfig {
        for (name, value) in &self.passed {
            config.set(name, value);
        }
        config
    }

    /// A client that reads what is committed, from offsets that it is given.
    pub fn reader(&self) -> ClientConfig {
        let mut config = self.client();
        config
            // Assigning needs one; nothing is joined and nothing committed under it.
            .set("group.id", self.group())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Never silently from somewhere else.
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("isolation.level", "read_committed")
            // Mostly for one record, or a few.
            .set("fetch.message.max.bytes", (128 << 10).to_string())
            .set("fetch.queue.backoff.ms", "5")
            .set("fetch.error.backoff.ms", "100");
        self.passing(config)
    }

    /// The client that fetches what is folded.
    pub fn fetcher(&self) -> ClientConfig {
        let mut config = self.reader();
        config
            // Says up to where everything is read: markers of transactions aren't records.
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "100")
            // Little at a time: what is taken soon after it was unpacked is still in the processor's cache.
            .set("fetch.message.max.bytes", (256 << 10).to_string())
            .set("queued.max.messages.kbytes", (4 << 10).to_string())
            .set("queued.min.messages", "100000");
        self.passing(config)
    }

    /// The client that is a member of the group.
    pub fn member(&self) -> ClientConfig {
        let mut config = self.reader();
        let session_ms = self.session_timeout.as_millis();
        config
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", session_ms.to_string())
            .set("heartbeat.interval.ms", (session_ms / 4).max(200).to_string())
            .set("max.poll.interval.ms", (session_ms.max(300_000)).to_string());
        if let Some(instance) = &self.instance {
            config.set("group.instance.id", instance);
        }
        self.passing(config)
    }

    /// A producer whose records are on all replicas, once and in order.
    pub fn producer(&self) -> ClientConfig {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "1000000")
            // What others may write, Reckon may have to pass on: the brokers say what is too large.
            .set("message.max.bytes", OUTPUT_BYTES_MAX.to_string())
            .set("message.timeout.ms", "30000");
        self.passing(config)
    }

    /// A producer of transactions. Who fences it is the next one of the same id.
    pub fn transactional(&self, id: &str) -> ClientConfig {
        let mut config = self.producer();
        config
            .set("transactional.id", id)
            .set("linger.ms", "1")
            // Not longer than the transaction's time.
            .set("message.timeout.ms", "20000")
            .set("transaction.timeout.ms", "30000");
        self.passing(config)
    }
}
