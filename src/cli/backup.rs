//! `reckon backup`: a copy of log and stores that `reckon restore` can prove.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::CliError;
use super::answer::Refused;
use super::terminal::{bytes, grouped, progress, say};
use crate::http::backups::{BackupBody, BackupRequest};
use crate::log::LogError;
use crate::partition::PartitionError;
use crate::partition::backup::{BackupError, backup_folder};
use crate::store::rocks::{Budget, StoreError};

/// Back up log and stores: of a running service (--url), or of a data folder that nobody serves (--data)
///
/// The folder must be empty or absent. On the data's own file system files are linked, which costs next to nothing and
/// protects from mistakes; from a broken disk protects only a copy elsewhere.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  reckon backup /var/backups/reckon/2026-11-24 --url http://127.0.0.1:7070
  reckon backup /var/backups/reckon/2026-11-24 --url https://reckon.example --token \"$TOKEN\"
  reckon backup ./backup --data ./reckon-data")]
pub struct Backup {
    /// Where to: on the service's machine, if it is asked
    dir: PathBuf,

    /// Ask this running service
    #[arg(long, value_name = "URL", conflicts_with = "data", required_unless_present = "data")]
    url: Option<String>,

    /// An operator's token; if not given, that in the environment's RECKON_TOKEN
    #[arg(long, value_name = "TOKEN", requires = "url")]
    token: Option<String>,

    /// Back up this folder, which nobody serves
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Backup {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        let answer = match (&self.url, &self.data) {
            (Some(url), _) => self.ask(url)?,
            (None, Some(data)) => {
                let bar = progress(0, "hashing");
                let made = backup_folder(data, &self.dir, &Budget::default(), &mut |done, total| {
                    bar.set_length(total);
                    bar.inc(done);
                });
                bar.finish_and_clear();
                let manifest = made.map_err(with_cure)?;
                serde_json::to_value(BackupBody::new(self.dir.display().to_string(), manifest))?
            }
            (None, None) => return Err(CliError::Usage("name --url or --data".to_owned())),
        };
        if json {
            say!("{answer}")?;
        } else {
            print(&answer)?;
        }
        Ok(())
    }

    /// Has a running service do it.
    fn ask(&self, url: &str) -> Result<Value, CliError> {
        // The service may stand elsewhere on the disk.
        let to = std::path::absolute(&self.dir).map_err(|cause| CliError::File {
            path: self.dir.clone(),
            cause,
        })?;
        let to = to.display().to_string();
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let url = format!("{}/v1/backups", url.trim_end_matches('/'));
        let mut request = agent.post(&url);
        if let Some(token) = self.token.clone().or_else(|| std::env::var("RECKON_TOKEN").ok()) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let failed = |cause: ureq::Error| CliError::Finding(format!("{url}: {cause}"));
        let mut response = request.send_json(BackupRequest { to }).map_err(failed)?;
        if response.status().is_success() {
            return response.body_mut().read_json().map_err(failed);
        }
        let status = response.status().as_u16();
        // Whoever is no Reckon may answer with anything.
        let answer = response.body_mut().read_json().unwrap_or_default();
        let refused = Refused::new(&url, status, &answer, "operator");
        Err(CliError::Finding(refused.to_string()))
    }
}

/// A locked folder is served by somebody.
fn with_cure(cause: BackupError) -> CliError {
    match cause {
        BackupError::Partition(
            PartitionError::Log(LogError::Locked { path }) | PartitionError::Store(StoreError::Locked { path }),
        ) => CliError::Finding(format!(
            "{} is in use by another process; back up through the running service: `reckon backup DIR --url URL`",
            path.display()
        )),
        other => other.into(),
    }
}

fn print(answer: &Value) -> std::io::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let size = text(&answer["bytes"]).parse().unwrap_or(0);
    say!(
        "backed up log {} to {}: {} files, {}, complete at {}",
        text(&answer["log_id"]),
        text(&answer["to"]),
        answer["files"],
        bytes(size),
        text(&answer["made_at"])
    )?;
    for standing in answer["partitions"].as_array().unwrap_or(&Vec::new()) {
        say!(
            "  partition {}: store folded to offset {}, log to {}; clock {}; digest {}",
            standing["partition"],
            grouped(&text(&standing["next_offset"])),
            grouped(&text(&standing["log_end"])),
            standing["clock"].as_str().unwrap_or("not begun"),
            standing["digest"].as_str().unwrap_or("none yet")
        )?;
    }
    say!("restore with: reckon restore {} --data DIR", text(&answer["to"]))
}
