//! The commands. Each is a file; what they print is for people on a terminal, or JSON with `--json`.

// Results are written by `say!` and `put`, which don't panic where nobody reads.
#![warn(clippy::print_stdout)]

mod answer;
pub mod audit;
pub mod backup;
pub mod bench;
#[allow(clippy::print_stdout, reason = "who measures reads to the end")]
pub mod bench_fold;
#[allow(clippy::print_stdout, reason = "who measures reads to the end")]
pub mod bench_kafka;
#[allow(clippy::print_stdout, reason = "who measures reads to the end")]
pub mod bench_serve;
pub mod check;
pub mod config;
pub mod consume;
pub mod control;
pub mod demo;
pub mod explain;
pub mod export;
mod history;
pub mod import;
pub mod init;
pub mod inspect;
pub mod kafka;
pub mod keygen;
pub mod logging;
pub mod post;
pub mod rejects;
pub mod replay;
pub mod restore;
pub mod serve;
pub mod source;
pub mod terminal;
pub mod token;
pub mod topics;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use thiserror::Error;

use crate::config::operator_key::OperatorKeyFileError;
use crate::http::gatekeeper::GatekeeperError;
use crate::http::token_keys::KeyError;
use crate::log::LogError;
use crate::log::continuity::Discontinuity;
use crate::partition::PartitionError;
use crate::store::rocks::StoreError;

/// Turns the request-lifecycle events of API gateways into what each account owes.
#[derive(Debug, Parser)]
#[command(name = "reckon", version, max_term_width = 110, propagate_version = true)]
pub struct Cli {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Demo(demo::Demo),
    Import(import::Import),
    Export(export::Export),
    Check(check::Check),
    Explain(explain::Explain),
    Replay(replay::Replay),
    Inspect(inspect::Inspect),
    #[command(after_help = "Examples:
  reckon bench fold --calls 1000000 --rounds 3
  reckon bench serve --seconds 10 --rounds 3
  reckon bench kafka --kafka localhost:9092 --calls 1000000")]
    Bench(bench::Bench),
    Serve(serve::Serve),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Config(config::ConfigCommand),
    Token(token::Token),
    Post(post::Post),
    Topics(topics::Topics),
    Control(control::Control),
    Keygen(keygen::Keygen),
    Consume(consume::Consume),
    Rejects(rejects::Rejects),
}

/// Where the log and the stores are.
#[derive(Clone, Debug, Args)]
pub struct Data {
    /// Folder of the log and the stores
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
}

/// Why a command failed.
#[derive(Debug, Error)]
pub enum CliError {
    /// A partition's.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// A file's.
    #[error("{path}: {cause}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A trace's.
    #[error(transparent)]
    Trace(#[from] crate::workload::azure::TraceError),
    /// The data folder is another's.
    #[error(transparent)]
    Instance(#[from] crate::partition::instance::InstanceError),
    /// The keys of tokens.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// An operator's key.
    #[error(transparent)]
    OperatorKey(#[from] OperatorKeyFileError),
    /// The service would let in whom it shouldn't.
    #[error(transparent)]
    Gatekeeper(#[from] GatekeeperError),
    /// A backup's.
    #[error(transparent)]
    Backup(#[from] crate::partition::backup::BackupError),
    /// A consumer's.
    #[error(transparent)]
    Consume(#[from] consume::ConsumeError),
    /// The output is gone.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
    /// A row that can't be written.
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The command doesn't fit what is there.
    #[error("{0}")]
    Usage(String),
    /// What was looked for isn't there, or something was found that shouldn't be.
    #[error("{0}")]
    Finding(String),
}

impl From<LogError> for CliError {
    fn from(cause: LogError) -> Self {
        Self::Partition(cause.into())
    }
}

impl From<Discontinuity> for CliError {
    fn from(cause: Discontinuity) -> Self {
        Self::Consume(cause.into())
    }
}

impl From<StoreError> for CliError {
    fn from(cause: StoreError) -> Self {
        Self::Partition(cause.into())
    }
}

impl CliError {
    fn is_broken_pipe(&self) -> bool {
        let kind = match self {
            Self::Output(cause) => Some(cause.kind()),
            Self::Json(cause) => cause.io_error_kind(),
            _ => None,
        };
        kind == Some(std::io::ErrorKind::BrokenPipe)
    }
}

/// Says on standard error what is wrong. Where nobody reads that (`reckon … 2>&1 | head`) the exit code says it alone.
fn complain(how_bad: &str, what: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{how_bad}: {what}");
}

/// Exit code of a command line that can't be understood.
const USAGE: u8 = 2;

/// Runs the command line. 0: good; 1: a finding or a failure; 2: usage.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    // The service sets up its own lines, as its settings say.
    if !matches!(cli.command, Command::Serve(_)) {
        logging::of_commands();
    }
    let result = match cli.command {
        Command::Init(command) => command.run(json),
        Command::Demo(command) => command.run(json),
        Command::Import(command) => command.run(json),
        Command::Export(command) => command.run(json),
        Command::Check(command) => command.run(json),
        Command::Explain(command) => command.run(json),
        Command::Replay(command) => command.run(json),
        Command::Inspect(command) => command.run(json),
        Command::Bench(command) => command.run(json),
        Command::Serve(command) => command.run(),
        Command::Backup(command) => command.run(json),
        Command::Restore(command) => command.run(json),
        Command::Config(command) => command.run(json),
        Command::Token(command) => command.run(json),
        Command::Post(command) => command.run(json),
        Command::Topics(command) => command.run(json),
        Command::Control(command) => command.run(json),
        Command::Keygen(command) => command.run(json),
        Command::Consume(command) => command.run(json),
        Command::Rejects(command) => command.run(json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has had enough: `reckon export … | head`.
        Err(cause) if cause.is_broken_pipe() => ExitCode::SUCCESS,
        Err(CliError::Usage(what)) => {
            complain("error", &what);
            ExitCode::from(USAGE)
        }
        Err(cause) => {
            complain("error", &cause);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::Cli;

    /// Every command that is shown, below this one, and how it is called.
    fn shown(command: &Command, called: &str) -> Vec<(String, Command)> {
        let mut all = Vec::new();
        for command in command.get_subcommands().filter(|c| !c.is_hide_set()) {
            let called = format!("{called} {}", command.get_name());
            all.extend(shown(command, &called));
            all.push((called, command.clone()));
        }
        all
    }

    /// The lines below `Example:` or `Examples:`.
    fn examples(command: &Command) -> Vec<String> {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let mut lines = after.lines().skip_while(|line| !line.starts_with("Example"));
        lines.next();
        lines
            .take_while(|line| line.starts_with("  "))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_command_has_an_example() {
        let commands = shown(&Cli::command(), "reckon");
        assert!(
            commands
                .iter()
                .any(|(called, _)| called == "reckon token issue metrics")
        );
        for (called, command) in commands {
            let examples = examples(&command);
            let own = |line: &String| line.contains(&format!("{called} "));
            assert!(examples.iter().any(own), "{called}: {examples:?}");
        }
    }

    #[test]
    fn examples_can_be_pasted() {
        for (called, command) in shown(&Cli::command(), "reckon") {
            // As wide as where there is no terminal: what is wider would be broken into lines that are no commands.
            let help = command.clone().term_width(100).render_long_help().to_string();
            let mut goes_on = false;
            for line in examples(&command) {
                assert!(line.chars().count() <= 98, "{called}: {line}");
                assert!(help.lines().any(|shown| shown == line), "{called}: {line}\n{help}");
                assert_eq!(line.starts_with("      "), goes_on, "{called}: {line}");
                goes_on = line.ends_with(" \\");
            }
            assert!(!goes_on, "{called}: a last line that goes on");
        }
    }
}
