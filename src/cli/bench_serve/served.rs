//! The service that is measured, as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::failed;
use crate::cli::CliError;

/// Ticks a second in `/proc/PID/stat`.
const TICKS_PER_S: u64 = 100;

/// The service as a process; killed when it is let go.
pub struct Served {
    child: Child,
    pub address: SocketAddr,
}

impl Served {
    pub fn start(binary: &Path, data: &Path, partitions: u32) -> Result<Self, CliError> {
        let made = Command::new(binary)
            .args(["init", "--json", "--partitions", &partitions.to_string(), "--data"])
            .arg(data)
            .stdout(Stdio::null())
            .status()?;
        if !made.success() {
            return Err(failed("no log could be made"));
        }
        let mut child = Command::new(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .env("RUST_LOG", "error")
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

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default()
    }

    /// Bytes of memory that the process holds.
    pub fn resident_bytes(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or_default() * 1024
    }

    /// Time that the process has had on processors.
    pub fn cpu(&self) -> Duration {
        let stat = self.proc("stat");
        // Behind the name, which may hold anything: the 14th and 15th field of all.
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks = rest.split(' ').skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|t| t.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 1_000 / TICKS_PER_S)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder of its own under the system's temporary folder, removed when it is let go.
pub struct Scratch(pub std::path::PathBuf);

impl Scratch {
    pub fn new() -> Result<Self, CliError> {
        let stamp = chrono::Utc::now().timestamp_nanos_opt().unwrap_or_default();
        let path = std::env::temp_dir().join(format!("reckon-bench-{}-{stamp}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing of worth is in it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
