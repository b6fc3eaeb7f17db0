//! `reckon config`: how the service would be set up here, and where each value comes from.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::terminal::say;
use super::{CliError, complain};
use crate::config::sources::{self, Effective, Flag};

/// Show the service's settings as they hold here, and where each comes from
#[derive(Debug, Args)]
#[command(
    after_help = "Passwords and keys among librdkafka's settings are shown as ***.\n\nExample:\n  \
        RECKON_LISTEN__ADDRESS=0.0.0.0:7070 reckon config --config /etc/reckon/reckon.toml"
)]
pub struct ConfigCommand {
    #[command(flatten)]
    given: Given,
}

/// Where settings are given on the command line.
#[derive(Clone, Debug, Args)]
pub struct Given {
    /// Configuration file (TOML); else the one that the variable RECKON_CONFIG names
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Folder of the log and the stores [setting data.path]
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,

    /// Brokers, HOST:PORT separated by commas: the log is on Kafka [setting kafka.bootstrap]
    #[arg(long, value_name = "BROKERS")]
    pub kafka: Option<String>,

    /// First part of the topics' names [setting kafka.topic_prefix]
    #[arg(long, value_name = "PREFIX")]
    pub topic_prefix: Option<String>,

    /// This instance's name in the group [setting kafka.instance]
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,

    /// Where other instances reach this one, http://HOST:PORT [setting kafka.advertise]
    #[arg(long, value_name = "URL")]
    pub advertise: Option<String>,

    /// A librdkafka setting, beside those of kafka.properties; may be given several times
    #[arg(short = 'X', value_name = "NAME=VALUE")]
    pub properties: Vec<String>,

    /// Address to answer on; port 0 takes a free one and says which [setting listen.address]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,

    /// Any setting, as `reckon config` lists them; may be given several times
    #[arg(long, value_name = "SECTION.FIELD=VALUE")]
    pub set: Vec<String>,
}

impl Given {
    /// Puts them together with defaults, file and environment.
    pub fn load(&self) -> Result<Effective, CliError> {
        let variables = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        for stray in sources::strays(variables) {
            complain("warning", &stray);
        }
        let mut flags = Vec::new();
        for set in &self.set {
            let (key, value) = set
                .split_once('=')
                .ok_or_else(|| CliError::Usage(format!("--set {set}: give it as SECTION.FIELD=VALUE")))?;
            flags.push(Flag::new("--set", key.trim(), value.trim()));
        }
        let texts = [
            ("--data", "data.path", &self.data),
            ("--listen", "listen.address", &self.listen),
            ("--kafka", "kafka.bootstrap", &self.kafka),
            ("--topic-prefix", "kafka.topic_prefix", &self.topic_prefix),
            ("--instance", "kafka.instance", &self.instance),
            ("--advertise", "kafka.advertise", &self.advertise),
        ];
        for (name, key, value) in texts {
            flags.extend(value.as_ref().map(|value| Flag::text(name, key, value)));
        }
        let mut effective =
            sources::load(self.config.as_deref(), &flags).map_err(|cause| CliError::Usage(cause.to_string()))?;
        effective.add_properties("-X", &self.properties);
        Ok(effective)
    }
}

impl ConfigCommand {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        let settings = self.given.load()?.settings;
        if json {
            let rows: serde_json::Map<String, serde_json::Value> = settings
                .into_iter()
                .map(|s| (s.key.clone(), json!({"value": s.shown(), "from": s.origin.to_string()})))
                .collect();
            say!("{}", serde_json::Value::from(rows))?;
            return Ok(());
        }
        // As a configuration file: what is printed can be given again.
        let mut section = String::new();
        for setting in settings {
            let (of, field) = setting.key.split_once('.').unwrap_or(("", &setting.key));
            if of != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                say!("{gap}[{of}]")?;
                section = of.to_owned();
            }
            let line = format!("{field} = {}", setting.shown());
            say!("{line:<40} # {}", setting.origin)?;
        }
        Ok(())
    }
}
