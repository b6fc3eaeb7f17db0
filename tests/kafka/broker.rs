//! A real Kafka for the tests: `scripts/kafka` makes it, kills it, freezes it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// A cluster of its own; gone when it is let go, and also when this process is killed.
#[derive(Debug)]
pub struct Broker {
    folder: TempDir,
    bootstrap: String,
}

/// The one broker that tests share which neither stop it nor set it up in their own way. Each takes topics of its own.
///
/// What is static is never dropped: whoever watches this process (`--with-pid`) stops it.
pub fn shared() -> &'static Broker {
    static SHARED: OnceLock<Broker> = OnceLock::new();
    SHARED.get_or_init(|| Broker::start(1, &[]))
}

impl Broker {
    /// Starts brokers 1 to `brokers`, with properties over those of the script, and returns when all of them serve.
    ///
    /// # Panics
    ///
    /// If there is no Kafka to be had: with what is missing, and how to get it.
    pub fn start(brokers: usize, properties: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("reckon-kafka-")
            .tempdir()
            .expect("a folder");
        let (brokers, pid) = (brokers.to_string(), std::process::id().to_string());
        let mut args = vec!["start", "--brokers", &brokers, "--with-pid", &pid];
        let properties: Vec<String> = properties
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        for property in &properties {
            args.extend(["--property", property]);
        }
        let bootstrap = script(folder.path(), &args);
        Self { folder, bootstrap }
    }

    /// `HOST:PORT`, with commas between those of several brokers.
    pub fn bootstrap(&self) -> String {
        self.bootstrap.clone()
    }

    /// Kills a broker at once (SIGKILL).
    pub fn kill(&self, broker: usize) {
        self.script(&["kill", &broker.to_string()]);
    }

    /// Stops a broker in order, unless it is dead already, and starts it with its ports and data; returns when it serves.
    ///
    /// Of several, a majority has to be alive with it: after more were killed, [`Broker::start_all`].
    pub fn restart(&self, broker: usize) {
        self.script(&["restart", &broker.to_string()]);
    }

    /// Starts all brokers that don't run, at once; returns when they serve.
    pub fn start_all(&self) {
        let pid = std::process::id().to_string();
        self.script(&["start", "--with-pid", &pid]);
    }

    /// Freezes a broker (SIGSTOP): its connections stay open, and nobody answers.
    pub fn stop_process(&self, broker: usize) {
        self.script(&["pause", &broker.to_string()]);
    }

    /// Lets a frozen broker go on (SIGCONT).
    pub fn cont(&self, broker: usize) {
        self.script(&["resume", &broker.to_string()]);
    }

    /// What a broker has said.
    pub fn log(&self, broker: usize) -> PathBuf {
        self.folder.path().join(format!("broker-{broker}")).join("log")
    }

    fn script(&self, args: &[&str]) -> String {
        script(self.folder.path(), args)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // A test that fails already is not to be ended by a second panic.
        let ended = command(self.folder.path(), &["stop", "--now"]).status();
        if !ended.is_ok_and(|status| status.success()) {
            eprintln!("the brokers in {} may still run", self.folder.path().display());
        }
    }
}

fn command(folder: &Path, args: &[&str]) -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
    let mut command = Command::new(path);
    command.args(args).arg("--dir").arg(folder).stdin(Stdio::null());
    command
}

/// Runs a command of `scripts/kafka` to its end and returns what it printed.
fn script(folder: &Path, args: &[&str]) -> String {
    let output = command(folder, args).output().expect("scripts/kafka runs");
    assert!(
        output.status.success(),
        "scripts/kafka {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_killed_broker_comes_back_with_its_ports_and_data() {
    let broker = Broker::start(1, &[("num.partitions", "3")]);
    let address = broker.bootstrap();
    let serves = || std::net::TcpStream::connect(&address).is_ok();
    assert!(serves());
    broker.kill(1);
    assert!(!serves());
    broker.start_all();
    assert!(serves());
    broker.restart(1);
    assert!(serves());
    broker.stop_process(1);
    broker.cont(1);
    assert!(broker.log(1).exists());
    let folder = broker.folder.path().to_owned();
    drop(broker);
    assert!(!serves());
    assert!(!folder.exists());
}

#[test]
fn the_shared_broker_is_one() {
    assert_eq!(shared().bootstrap(), shared().bootstrap());
}
