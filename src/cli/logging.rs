//! What the process says while it runs: lines to standard error.
//!
//! Text for people on a terminal, one JSON object a line for machines. No line has a token, an account, a path or an address
//! of a client.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::CliError;
use crate::config::{LogFormat, Telemetry};

/// What commands other than the service say: what went wrong. `RUST_LOG` asks for more.
pub fn of_commands() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

/// What the service says.
pub fn of_service(telemetry: &Telemetry) -> Result<(), CliError> {
    let filter = EnvFilter::builder().parse(&telemetry.log_filter).map_err(|cause| {
        CliError::Usage(format!(
            "telemetry.log_filter: {:?} is no log filter: {cause}",
            telemetry.log_filter
        ))
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let text = match telemetry.log_format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    if text {
        lines.with_ansi(std::io::stderr().is_terminal()).init();
    } else {
        lines.json().flatten_event(true).with_span_list(false).init();
    }
    Ok(())
}
