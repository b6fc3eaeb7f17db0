//! The service that is measured, as a process of its own.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::failed;
use crate::cli::CliError;
use crate::http::process::Process;

/// `reckon serve`, on a port of its own; killed when it is let go.
pub struct Served {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Served {
    /// Starts a build of it, and waits until it listens. It logs what `RUST_LOG` says, else warnings.
    pub fn start(binary: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Self, CliError> {
        let mut child = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(args)
            .env(
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".to_owned()),
            )
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or_else(|| failed("no output of serve"))?;
        let mut lines = BufReader::new(output).lines();
        let address = loop {
            let line = lines.next().ok_or_else(|| failed("serve ended at once"))??;
            if let Some(address) = line.strip_prefix("listening on http://") {
                break address.parse().map_err(failed)?;
            }
        };
        // Whatever else it prints must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address })
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) -> Result<(), CliError> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// What the system says of it.
    pub fn process(&self) -> Process {
        Process::of(self.child.id())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
