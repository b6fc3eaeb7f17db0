//! How commands that talk to a Kafka cluster are told where it is.

use clap::Args;

use super::CliError;
use crate::config::Kafka;
use crate::log::kafka::KafkaSettings;

/// Where the cluster and the topics are.
#[derive(Clone, Debug, Args)]
pub struct Cluster {
    /// Brokers
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT]")]
    pub kafka: String,

    /// First part of the topics' names: PREFIX.events, PREFIX.statements …
    #[arg(long, value_name = "PREFIX", default_value = "reckon")]
    pub topic_prefix: String,

    /// A librdkafka setting (TLS, SASL …); may be given several times
    #[arg(short = 'X', value_name = "NAME=VALUE")]
    pub properties: Vec<String>,
}

impl Cluster {
    /// As the log takes it.
    pub fn settings(&self) -> Result<KafkaSettings, CliError> {
        let config = Kafka {
            bootstrap: self.kafka.clone(),
            topic_prefix: self.topic_prefix.clone(),
            properties: self.properties.clone(),
            ..Kafka::default()
        };
        config
            .settings()
            .map_err(|cause| CliError::Usage(cause.to_string()))?
            .ok_or_else(|| CliError::Usage("--kafka is empty: give it as HOST:PORT".to_owned()))
    }
}
