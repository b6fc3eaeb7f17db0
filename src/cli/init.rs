//! `reckon init`: makes a log.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::terminal::say;
use super::{CliError, Data};
use crate::log::local::{LocalLog, wall_clock};
use crate::log::{Identity, Log, LogError};
use crate::machine::clock::Source;
use crate::partition::Settings;
use crate::partition::host::{self, Host};
use crate::store::rocks::Budget;

/// Partitions at most: each has a store and a thread of its own.
pub(super) const PARTITIONS_MAX: u32 = 1_024;

/// Make a log: its id, partitions and clock source stay as they are given here.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  reckon init --data ./reckon-data --partitions 4 --clock ticks")]
pub struct Init {
    #[command(flatten)]
    data: Data,

    /// Partitions: how many cores can fold at once; accounts are spread over them
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=i64::from(PARTITIONS_MAX)))]
    partitions: u32,

    /// What moves the log's clock: append times (live), or ticks alone (histories, demos, tests)
    #[arg(long, value_enum, default_value_t = Clock::Append)]
    clock: Clock,
}

/// A clock source on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Clock {
    /// Append times, held back by the owner's ticks.
    Append,
    /// Ticks alone.
    Ticks,
}

impl From<Clock> for Source {
    fn from(clock: Clock) -> Self {
        match clock {
            Clock::Append => Self::Append,
            Clock::Ticks => Self::Ticks,
        }
    }
}

/// A log id that no other log has.
pub(super) fn new_log_id() -> String {
    let nanos = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default();
    format!("reckon-{nanos:x}-{:x}", std::process::id())
}

/// Folders of a data folder that are Reckon's own: a log in one of them would lie among RocksDB's files, or be swept away.
const OWN: [&str; 4] = ["log", "store", "keys", "replay"];

/// The data folder with a log within whose own folders a folder lies, there or not.
fn lies_within(data: &Path) -> std::io::Result<Option<PathBuf>> {
    let path = std::path::absolute(data)?;
    // By whichever name: of what isn't there yet the part that is.
    let there = path
        .ancestors()
        .find_map(|part| Some((part, part.canonicalize().ok()?)));
    let path = match there {
        Some((part, real)) => real.join(path.strip_prefix(part).unwrap_or(&path)),
        None => path,
    };
    let own = |part: &&Path| part.file_name().is_some_and(|name| OWN.iter().any(|own| name == *own));
    let owners = path.ancestors().filter(own).filter_map(Path::parent);
    Ok(owners
        .map(Path::to_owned)
        .find(|owner| host::log_path(owner).join("CURRENT").exists()))
}

/// Makes a log in the data folder.
pub fn create(data: &Path, partitions: u32, source: Source) -> Result<LocalLog, CliError> {
    let within = lies_within(data).map_err(|cause| CliError::File {
        path: data.to_owned(),
        cause,
    })?;
    if let Some(owner) = within {
        return Err(CliError::Usage(format!(
            "--data {} lies within the folders of the log of {owner}: give {owner} if that log is meant, or a folder of its own",
            data.display(),
            owner = owner.display()
        )));
    }
    let identity = Identity {
        log_id: new_log_id(),
        partition_count: partitions,
        source,
    };
    Ok(host::create_log(data, &identity, wall_clock())?)
}

/// Opens the data folder's log for a history, made if there is none.
pub fn open_for_history(data: &Path, partitions: u32) -> Result<LocalLog, CliError> {
    match host::open_log(data, wall_clock()) {
        Ok(log) if log.identity().source == Source::Ticks => Ok(log),
        Ok(_) => Err(CliError::Usage(format!(
            "the log in {} takes its time from append times; a history needs one made with `reckon init --clock ticks`: give \
             another --data",
            data.display()
        ))),
        Err(LogError::NoGenesis { .. }) => create(data, partitions, Source::Ticks),
        Err(cause) => Err(cause.into()),
    }
}

impl Init {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        let log: Arc<dyn Log> = Arc::new(create(&self.data.data, self.partitions, self.clock.into())?);
        // The stores too, so that everything can be looked at from the start.
        let settings = Settings::default();
        Host::open(Arc::clone(&log), &self.data.data, &Budget::default(), &settings)?.finish()?;
        let identity = log.identity();
        let data = self.data.data.display();
        if json {
            let row = json!({"log_id": identity.log_id, "partitions": identity.partition_count,
                "clock": identity.source.as_str(), "data": data.to_string()});
            say!("{row}")?;
        } else {
            say!(
                "made log {} in {data}: {} partitions, clock source {}",
                identity.log_id,
                identity.partition_count,
                identity.source.as_str()
            )?;
        }
        Ok(())
    }
}
