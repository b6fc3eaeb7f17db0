//! `reckon topics`: a log on Kafka is made and checked.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use prost::Message;
use serde_json::json;

use super::CliError;
use super::init::{Clock, PARTITIONS_MAX, new_log_id};
use super::kafka::Cluster;
use super::terminal::say;
use crate::config::operator_key::OperatorKeyFile;
use crate::log::kafka::KafkaSettings;
use crate::log::kafka::acls::acls;
use crate::log::kafka::topics::{self, Severity};
use crate::log::{Identity, NewRecord};
use crate::wire::pb;
use crate::wire::record::Kind;

/// Make or check the topics of a log on Kafka
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  reckon keygen --out operator\n  reckon topics create --kafka localhost:9092 --key operator \
    --partitions 12 --replication 3\n  reckon topics check --kafka localhost:9092"
)]
pub struct Topics {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    Check(Check),
    Acls(Acls),
}

/// Make the topics, with the settings that they must have, and write each partition's genesis; safe to repeat
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  reckon topics create --kafka localhost:9092 --key operator --partitions 12 --replication 3"
)]
struct Create {
    #[command(flatten)]
    cluster: Cluster,

    /// The operator's private key, made by `reckon keygen`; it signs the genesis, which names its public key
    #[arg(long, value_name = "PATH")]
    key: PathBuf,

    /// Partitions: over so many instances and cores the work can be spread. They can't be added later
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=i64::from(PARTITIONS_MAX)))]
    partitions: u32,

    /// Replicas of each partition
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=99))]
    replication: i32,

    /// What moves the log's clock: append times (live), or signed ticks alone (histories, demos, tests)
    #[arg(long, value_enum, default_value_t = Clock::Append)]
    clock: Clock,
}

/// Check the topics' settings: what Reckon refuses, and what is lost some day
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  reckon topics check --kafka localhost:9092\n\nThe exit code is 1 if Reckon would refuse to run."
)]
struct Check {
    #[command(flatten)]
    cluster: Cluster,
}

/// Print what each role must be allowed on a cluster with an authorizer; nothing is asked or changed
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  reckon topics acls --topic-prefix reckon\n\nEach line is for Kafka's own tool: kafka-acls.sh \
    --bootstrap-server HOST:PORT LINE. GATEWAY, RECKON, OPERATOR and INVOICING stand for your users. OPERATOR makes the topics, so \
    set its lines first."
)]
struct Acls {
    /// First part of the topics' names: PREFIX.events, PREFIX.statements …
    #[arg(long, value_name = "PREFIX", default_value = "reckon")]
    topic_prefix: String,
}

impl Topics {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        match self.command {
            Command::Create(command) => command.run(json),
            Command::Check(command) => command.run(json),
            Command::Acls(command) => command.run(json),
        }
    }
}

impl Create {
    fn run(self, json: bool) -> Result<(), CliError> {
        let settings = self.cluster.settings()?;
        let signer = OperatorKeyFile::new(self.key).load()?;
        let identity = Identity {
            log_id: new_log_id(),
            partition_count: self.partitions,
            source: self.clock.into(),
        };
        let genesis = |partition| {
            let genesis = pb::Genesis {
                keys: vec![signer.operator_key()],
                ..crate::log::local::genesis(&identity, partition)
            };
            let bytes = genesis.encode_to_vec();
            NewRecord {
                signature: Some(signer.sign(&identity.log_id, &bytes)),
                ..NewRecord::new(Kind::Genesis, bytes)
            }
        };
        let created = topics::create(&settings, &identity, self.replication, &genesis)?;
        let lines = acls(&settings);
        if json {
            let row = json!({"topics": created.topics, "genesis": created.genesis, "log_id": identity.log_id,
                "partitions": self.partitions, "clock": identity.source.as_str(), "acls": lines});
            say!("{row}")?;
            return Ok(());
        }
        match created.topics.as_slice() {
            [] => say!("every topic was there already")?,
            made => say!("made {} with {} partitions each", made.join(", "), self.partitions)?,
        }
        if created.genesis {
            say!(
                "wrote the genesis of log {} (clock source {}, operator key {})",
                identity.log_id,
                identity.source.as_str(),
                signer.key_id()
            )?;
        } else {
            say!("every partition has records already: no genesis was written")?;
        }
        say!(
            "\nOn a cluster with an authorizer, allow (kafka-acls.sh --bootstrap-server {} …):",
            self.cluster.kafka
        )?;
        lines.iter().try_for_each(|line| say!("  {line}"))?;
        Ok(())
    }
}

impl Acls {
    fn run(self, json: bool) -> Result<(), CliError> {
        let settings = KafkaSettings {
            prefix: self.topic_prefix,
            ..KafkaSettings::default()
        };
        let lines = acls(&settings);
        if json {
            say!("{}", json!({"acls": lines}))?;
        } else {
            lines.iter().try_for_each(|line| say!("{line}"))?;
        }
        Ok(())
    }
}

impl Check {
    fn run(self, json: bool) -> Result<(), CliError> {
        let settings = self.cluster.settings()?;
        let (found, findings) = topics::check(&settings)?;
        let refused = findings.iter().filter(|f| f.severity == Severity::Refused).count();
        for finding in &findings {
            let severity = match finding.severity {
                Severity::Refused => "refused",
                Severity::Warning => "warning",
                Severity::Good => "good",
            };
            if json {
                let row = json!({"topic": finding.topic, "setting": finding.setting, "found": finding.found,
                    "severity": severity, "advice": finding.advice});
                say!("{row}")?;
                continue;
            }
            let gap = if finding.advice.is_empty() { "" } else { "  " };
            say!(
                "{severity:<8} {:<20} {:<32} {:<14}{gap}{}",
                finding.topic,
                finding.setting,
                finding.found,
                finding.advice
            )?;
        }
        match found {
            Some(found) if refused == 0 => {
                if !json {
                    say!("\n{} partitions; {}", found.partition_count, found.place)?;
                }
                Ok(())
            }
            _ => Err(CliError::Finding(format!(
                "{refused} of these are refused: `reckon serve` doesn't run on such topics"
            ))),
        }
    }
}
