//! The topics: made with the settings that Reckon's promises hang on, checked against them, refused if they are others.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::fetch::Quiet;
use super::place::place;
use super::publish::ControlWriter;
use super::settings::{ASK_TIMEOUT, KafkaSettings, OUTPUT_BYTES_MAX};
use super::{broker, kafka};
use crate::log::{Identity, LogError, NewRecord, Place};
use crate::machine::output::Topic;

/// What the topics turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Partitions of each.
    pub partition_count: u32,
    /// Cluster and topics by their ids: another place has another text.
    pub place: String,
}

/// How a setting is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Reckon refuses to run.
    Refused,
    /// Reckon runs; something is lost some day.
    Warning,
    /// As it should be.
    Good,
}

/// One thing that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which topic.
    pub topic: String,
    /// Which setting.
    pub setting: &'static str,
    /// What it is.
    pub found: String,
    /// How it is judged.
    pub severity: Severity,
    /// What to change, and what it costs not to.
    pub advice: String,
}

/// What [`create`] made or found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Topics made now; the others were there.
    pub topics: Vec<String>,
    /// Whether the genesis records were written now.
    pub genesis: bool,
}

const FOREVER: &str = "-1";

/// How long a topic that was made just now is given before it is asked for again.
const MADE_WAIT: Duration = Duration::from_millis(100);

/// The cluster's client for questions about topics.
struct Admin {
    bootstrap: String,
    client: AdminClient<DefaultClientContext>,
    consumer: BaseConsumer<Quiet>,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    fn new(settings: &KafkaSettings) -> Result<Self, LogError> {
        Ok(Self {
            bootstrap: settings.bootstrap.clone(),
            client: settings
                .client()
                .create()
                .map_err(|e| kafka("making a client that administers", &e))?,
            consumer: settings
                .reader()
                .create_with_context(Quiet)
                .map_err(|e| kafka("making a client that reads", &e))?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .map_err(|e| broker("starting a runtime", e))?,
        })
    }

    /// Partitions of a topic, and the smallest number of replicas; `None`: there is no such topic.
    fn partitions(&self, topic: &str) -> Result<Option<(u32, usize)>, LogError> {
        let until = Instant::now() + ASK_TIMEOUT;
        loop {
            let metadata = self.consumer.fetch_metadata(Some(topic), ASK_TIMEOUT).map_err(|e| {
                kafka(
                    &format!("asking {} for the topics; is a broker there?", self.bootstrap),
                    &e,
                )
            })?;
            let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
                return Ok(None);
            };
            match found.error().map(RDKafkaErrorCode::from) {
                None => {
                    let replicas = found.partitions().iter().map(|p| p.replicas().len()).min();
                    return Ok(Some((found.partitions().len() as u32, replicas.unwrap_or(0))));
                }
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
                Some(RDKafkaErrorCode::LeaderNotAvailable) if Instant::now() < until => {
                    std::thread::sleep(MADE_WAIT);
                }
                Some(code) => return Err(not_told(topic, code)),
            }
        }
    }

    /// Where a partition ends. One that was made just now may not have come to every broker yet.
    fn end(&self, topic: &str, partition: u32) -> Result<i64, LogError> {
        let until = Instant::now() + ASK_TIMEOUT;
        loop {
            match self.consumer.fetch_watermarks(topic, partition as i32, ASK_TIMEOUT) {
                Ok((_, end)) => return Ok(end),
                Err(cause) if is_unknown(&cause) && Instant::now() < until => std::thread::sleep(MADE_WAIT),
                Err(cause) => return Err(kafka("asking whether a partition is empty", &cause)),
            }
        }
    }

    fn settings_of(&self, topics: &[String]) -> Result<Vec<ConfigResource>, LogError> {
        // A question about nothing isn't allowed.
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<ResourceSpecifier<'_>> = topics.iter().map(|t| ResourceSpecifier::Topic(t)).collect();
        let options = AdminOptions::new().request_timeout(Some(ASK_TIMEOUT));
        self.runtime
            .block_on(self.client.describe_configs(&wanted, &options))
            .map_err(|e| kafka("asking for the topics' settings", &e))?
            .into_iter()
            .map(|r| {
                r.map_err(|code| {
                    let doing =
                        "asking for the topics' settings (DescribeConfigs allowed? `reckon topics acls` says to whom)";
                    broker(doing, code)
                })
            })
            .collect()
    }
}

/// Why a topic can't be seen; one that may not be is none that isn't there.
pub(super) fn not_told(topic: &str, code: RDKafkaErrorCode) -> LogError {
    let doing = if code == RDKafkaErrorCode::TopicAuthorizationFailed {
        format!("asking what {topic} is (Describe allowed? `reckon topics acls` says to whom)")
    } else {
        format!("asking what {topic} is")
    };
    broker(&doing, code)
}

fn is_unknown(cause: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        LeaderNotAvailable, NotLeaderForPartition, UnknownPartition, UnknownTopic, UnknownTopicOrPartition,
    };
    matches!(
        cause.rdkafka_error_code(),
        Some(LeaderNotAvailable | NotLeaderForPartition | UnknownPartition | UnknownTopic | UnknownTopicOrPartition)
    )
}

/// All five, the input first.
pub(super) fn names(settings: &KafkaSettings) -> Vec<String> {
    let mut names = vec![settings.events()];
    names.extend(Topic::ALL.map(|t| settings.output(t)));
    names
}

/// Checks every setting. Finding nothing to refuse is [`open`]'s condition too.
pub fn check(settings: &KafkaSettings) -> Result<(Option<Found>, Vec<Finding>), LogError> {
    let admin = Admin::new(settings)?;
    let names = names(settings);
    let mut findings = Vec::new();
    let mut counts = Vec::new();
    for name in &names {
        let (severity, found, advice) = match admin.partitions(name)? {
            Some((count, replicas)) => {
                counts.push((name, count));
                if replicas < 3 {
                    findings.push(Finding {
                        topic: name.clone(),
                        setting: "replicas",
                        found: replicas.to_string(),
                        severity: Severity::Warning,
                        advice: "a broker's disk that dies takes the log with it; 3 replicas survive that".to_owned(),
                    });
                }
                continue;
            }
            None => (
                Severity::Refused,
                "no such topic".to_owned(),
                "make it: reckon topics create".to_owned(),
            ),
        };
        findings.push(Finding {
            topic: name.clone(),
            setting: "topic",
            found,
            severity,
            advice,
        });
    }
    let there: Vec<String> = counts.iter().map(|(n, _)| (*n).clone()).collect();
    let input = counts.first().map_or(0, |c| c.1);
    for (name, count) in &counts {
        if *count != input {
            findings.push(Finding {
                topic: (*name).clone(),
                setting: "partitions",
                found: count.to_string(),
                severity: Severity::Refused,
                advice: format!(
                    "the input has {input}, and every topic must have as many as the log was made with: restore the topic. \
                     Partitions can't be added; for more make a new log under another --topic-prefix"
                ),
            });
        }
    }
    for resource in admin.settings_of(&there)? {
        let rdkafka::admin::OwnedResourceSpecifier::Topic(name) = &resource.specifier else {
            continue;
        };
        let is_input = *name == names[0];
        for entry in &resource.entries {
            let value = entry.value.clone().unwrap_or_default();
            let Some((severity, setting, advice)) = judge(is_input, &entry.name, &value) else {
                continue;
            };
            findings.push(Finding {
                topic: name.clone(),
                setting,
                found: value,
                severity,
                advice,
            });
        }
    }
    if there.len() < names.len() {
        return Ok((None, findings));
    }
    let place = place(admin.consumer.client(), settings, ASK_TIMEOUT)?;
    let found = Found {
        partition_count: input,
        place,
    };
    Ok((Some(found), findings))
}

/// What a topic's setting is worth; `None`: nothing hangs on it.
fn judge(is_input: bool, name: &str, value: &str) -> Option<(Severity, &'static str, String)> {
    use Severity::{Good, Refused, Warning};
    let good = |setting| (Good, setting, String::new());
    Some(match name {
        "cleanup.policy" if value == "delete" => good("cleanup.policy"),
        "cleanup.policy" => (
            Refused,
            "cleanup.policy",
            "set it to delete: a compacted log has forgotten what bills were made of".to_owned(),
        ),
        "message.timestamp.type" if is_input => match value {
            "LogAppendTime" => good("message.timestamp.type"),
            _ => (
                Refused,
                "message.timestamp.type",
                "set it to LogAppendTime: with CreateTime producers move the clock".to_owned(),
            ),
        },
        "unclean.leader.election.enable" if value == "true" => (
            Refused,
            "unclean.leader.election.enable",
            "set it to false: an unclean leader cuts off records that were acknowledged and billed".to_owned(),
        ),
        "unclean.leader.election.enable" => good("unclean.leader.election.enable"),
        "retention.ms" | "retention.bytes" => {
            let setting = if name == "retention.ms" {
                "retention.ms"
            } else {
                "retention.bytes"
            };
            if value == FOREVER {
                return Some(good(setting));
            }
            let cost = if is_input {
                "a store that is lost can't be rebuilt from what was removed, and an instance that takes a partition over needs \
                 all of it"
            } else {
                "an output that was removed before it was read is lost for its consumers, and a topic whose last output is gone \
                 can't tell what was delivered"
            };
            (
                Warning,
                setting,
                format!("set it to -1 until checkpoints exist: {cost}"),
            )
        }
        "min.insync.replicas" if value == "1" => (
            Warning,
            "min.insync.replicas",
            "2, with 3 replicas: else what one broker alone has acknowledged may be lost with it".to_owned(),
        ),
        "min.insync.replicas" => good("min.insync.replicas"),
        "max.message.bytes" if is_input => return None,
        "max.message.bytes" => {
            if value.parse().is_ok_and(|bytes: usize| bytes >= OUTPUT_BYTES_MAX) {
                return Some(good("max.message.bytes"));
            }
            (
                Refused,
                "max.message.bytes",
                format!(
                    "set it to {OUTPUT_BYTES_MAX}: an output may be larger than that, and a partition stops at an output \
                     that the topic doesn't take"
                ),
            )
        }
        _ => return None,
    })
}

/// Checks the topics and says what they are, or what to change.
pub fn open(settings: &KafkaSettings) -> Result<Found, LogError> {
    let (found, findings) = check(settings)?;
    let refused: Vec<String> = findings
        .iter()
        .filter(|f| f.severity == Severity::Refused)
        .map(|f| format!("{} has {} {}: {}", f.topic, f.setting, f.found, f.advice))
        .collect();
    let mut warned: Vec<&str> = findings
        .iter()
        .filter(|f| f.severity == Severity::Warning)
        .map(|f| f.setting)
        .collect();
    warned.sort_unstable();
    warned.dedup();
    if !warned.is_empty() {
        tracing::warn!(
            settings = warned.join(", "),
            "the topics have settings by which something is lost some day: `reckon topics check`"
        );
    }
    match found {
        Some(found) if refused.is_empty() => Ok(found),
        _ => Err(LogError::Topics {
            what: refused.join("; "),
        }),
    }
}

/// Makes the topics that aren't there, and writes each partition's genesis. Safe to repeat. `sign` signs a genesis' bytes.
pub fn create(
    settings: &KafkaSettings,
    identity: &Identity,
    replication: i32,
    genesis: &dyn Fn(u32) -> NewRecord,
) -> Result<Created, LogError> {
    let admin = Admin::new(settings)?;
    let count = identity.partition_count;
    let insync = if replication >= 3 { "2" } else { "1" };
    let bytes_max = OUTPUT_BYTES_MAX.to_string();
    let names = names(settings);
    let mut new = Vec::new();
    for (at, name) in names.iter().enumerate() {
        if let Some((found, _)) = admin.partitions(name)? {
            if found != count {
                return Err(LogError::PartitionCount {
                    topic: name.clone(),
                    partition: 0,
                    found,
                    wanted: count,
                });
            }
            continue;
        }
        let topic = NewTopic::new(name, count as i32, TopicReplication::Fixed(replication))
            .set("cleanup.policy", "delete")
            .set("retention.ms", FOREVER)
            .set("retention.bytes", FOREVER)
            .set("unclean.leader.election.enable", "false")
            .set("min.insync.replicas", insync)
            .set("compression.type", "producer");
        new.push(if at == 0 {
            topic.set("message.timestamp.type", "LogAppendTime")
        } else {
            topic.set("max.message.bytes", &bytes_max)
        });
    }
    let options = AdminOptions::new()
        .request_timeout(Some(Duration::from_secs(30)))
        .operation_timeout(Some(Duration::from_secs(30)));
    let mut topics = Vec::new();
    if !new.is_empty() {
        let results = admin
            .runtime
            .block_on(admin.client.create_topics(&new, &options))
            .map_err(|e| kafka("making topics", &e))?;
        for result in results {
            match result {
                Ok(name) => topics.push(name),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(broker(&format!("making {name}"), code)),
            }
        }
    }
    let events = &names[0];
    let writer = ControlWriter::take_over(settings)?;
    // Looked at now, when nobody else can be writing genesis records.
    let mut empty = Vec::new();
    for partition in 0..count {
        if admin.end(events, partition)? == 0 {
            empty.push((Place::One(partition), genesis(partition)));
        }
    }
    let genesis = !empty.is_empty();
    if genesis && empty.len() < count as usize {
        return Err(LogError::Topics {
            what: format!(
                "{} of {count} partitions of {events} are empty, the others are not: a log's genesis is written to all at once. \
                 Choose another --topic-prefix, or remove the topics",
                empty.len()
            ),
        });
    }
    if genesis {
        writer.append(&empty, count)?;
    }
    Ok(Created { topics, genesis })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_topic_that_takes_no_largest_output_is_refused() {
        let judged = |is_input, value: &str| judge(is_input, "max.message.bytes", value).map(|j| j.0);
        assert_eq!(judged(false, "1048588"), Some(Severity::Refused));
        assert_eq!(
            judged(false, &(OUTPUT_BYTES_MAX - 1).to_string()),
            Some(Severity::Refused)
        );
        assert_eq!(judged(false, &OUTPUT_BYTES_MAX.to_string()), Some(Severity::Good));
        assert_eq!(judged(true, "1048588"), None);
    }
}
