//! The commands as people and programs run them: what they print, and with what they end.

mod check;
mod config;
mod consume;
mod explain;
mod export;
mod import;
mod init;
mod pipes;
mod rejects;
mod replay;
mod token;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// What a command came to.
pub struct Ran {
    /// 0, 1 or 2.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ran {
    /// The rows that it printed.
    pub fn rows(&self) -> Vec<Value> {
        let rows = self.out.lines().map(|l| serde_json::from_str(l).expect("JSON"));
        rows.collect()
    }
}

/// Runs `reckon`.
pub fn reckon(args: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(args)
        .output()
        .expect("reckon runs");
    Ran {
        code: output.status.code().expect("not killed"),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// Runs it, and asks that it ends well.
pub fn good(args: &[&str]) -> Ran {
    let ran = reckon(args);
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
    ran
}

fn own(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/commands").join(file)
}

/// The history that most tests look at.
pub fn history() -> String {
    own("history.ndjson").to_str().expect("a path").to_owned()
}

/// A folder with that history folded in two partitions; made once.
pub fn folded() -> &'static str {
    static DATA: OnceLock<String> = OnceLock::new();
    DATA.get_or_init(|| {
        let data = tempfile::tempdir().expect("a folder").keep();
        let data = data.to_str().expect("a path").to_owned();
        good(&["import", "events", &history(), "--data", &data, "--partitions", "2"]);
        data
    })
}

/// Writes lines to a file.
pub fn file_of(folder: &Path, lines: &[&[u8]]) -> String {
    let file = folder.join("records.ndjson");
    let mut text = lines.join(&b'\n');
    text.push(b'\n');
    std::fs::write(&file, text).expect("written");
    file.to_str().expect("a path").to_owned()
}

/// An event as a line of a file.
pub fn event(account: &str, call: &str, phase: &str, at: &str, more: &str) -> String {
    format!(
        r#"{{"event":{{"account_id":"{account}","call_id":"{call}","phase":"{phase}","occurred_at":"{at}","product":"m"{more}}}}}"#
    )
}

/// Compares with a file in `golden/`. `RECKON_BLESS=1` writes it anew: then look at what has changed, others' checks read it.
pub fn same_as_golden(name: &str, text: &str) {
    let file = own("golden").join(name);
    if std::env::var_os("RECKON_BLESS").is_some() {
        std::fs::write(&file, text).expect("written");
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        golden == text,
        "{name} is another one; is the interface meant to change?\n--- was\n{golden}--- is\n{text}"
    );
}
