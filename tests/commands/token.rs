//! `reckon token`: what isn't meant is refused.

use std::path::PathBuf;
use std::time::Duration;

use crate::{Ran, good, reckon};

/// A data folder with a log and a key.
struct Guarded {
    folder: tempfile::TempDir,
}

impl Guarded {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let guarded = Self { folder };
        good(&["init", "--data", guarded.data(), "--partitions", "1"]);
        guarded.good(&["key", "new", "--key-id", "k1"]);
        guarded
    }

    fn data(&self) -> &str {
        self.folder.path().to_str().expect("a path")
    }

    fn revoked(&self) -> PathBuf {
        self.folder.path().join("keys/revoked")
    }

    fn run(&self, args: &[&str]) -> Ran {
        reckon(&[&["token"], args, &["--data", self.data()]].concat())
    }

    fn good(&self, args: &[&str]) -> Ran {
        good(&[&["token"], args, &["--data", self.data()]].concat())
    }
}

#[test]
fn only_tokens_and_their_ids_are_revoked() {
    let guarded = Guarded::new();
    for bad in ["edge-1", "t", "9f2c01ab5d3e4f60718293a4b5c6d7", "a.b.c", "k1"] {
        let ran = guarded.run(&["revoke", bad]);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{bad}");
        assert!(
            ran.err.contains("32 hex digits") && ran.err.contains(bad),
            "{}",
            ran.err
        );
        assert!(!guarded.revoked().exists(), "{bad}");
    }
    assert_eq!(guarded.run(&["revoke", ""]).code, 1);
    let issue = || {
        guarded
            .good(&["issue", "operator", "--name", "ann", "--json"])
            .rows()
            .remove(0)
    };
    let (whole, by_id) = (issue(), issue());
    let text = |row: &serde_json::Value| row.as_str().expect("text").to_owned();
    guarded.good(&["revoke", &text(&whole["token"])]);
    guarded.good(&["revoke", &text(&by_id["claims"]["jti"]).to_uppercase()]);
    let list = std::fs::read_to_string(guarded.revoked()).expect("a list");
    for row in [&whole, &by_id] {
        assert!(list.contains(&text(&row["claims"]["jti"])), "{list}");
        assert_eq!(guarded.run(&["inspect", &text(&row["token"])]).code, 1);
    }
}

#[test]
fn what_unset_variables_leave_is_refused() {
    let guarded = Guarded::new();
    for args in [
        &["account", "--account", "", "--name", "a"][..],
        &["account", "--account", "acme", "--name", ""],
        &["operator", "--name", " "],
        &["ingest", "--name", "a", "--source", ""],
        &["ingest", "--name", "a", "--source", "*"],
        &["ingest", "--name", "a", "--source", "edge-*-1"],
    ] {
        let ran = guarded.run(&[&["issue"], args].concat());
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}");
    }
    guarded.good(&[
        "issue", "ingest", "--name", "a", "--source", "edge-*", "--source", "batch",
    ]);
}

#[test]
fn a_retired_key_signs_nothing() {
    let guarded = Guarded::new();
    let signs = |guarded: &Guarded| {
        let row = guarded
            .good(&["key", "list"])
            .out
            .lines()
            .nth(1)
            .expect("a row")
            .to_owned();
        let json = guarded.good(&["key", "list", "--json"]).rows().remove(0);
        (row.trim_end().ends_with("yes"), json["keys"][0]["can_sign"] == true)
    };
    assert_eq!(signs(&guarded), (true, true));
    guarded.good(&["key", "retire", "k1"]);
    assert_eq!(signs(&guarded), (false, false));
}

#[test]
fn a_token_that_has_expired_does_not_hold() {
    let guarded = Guarded::new();
    let token = guarded.good(&["issue", "operator", "--name", "ann", "--for", "1s"]).out;
    std::thread::sleep(Duration::from_millis(1_100));
    let ran = guarded.run(&["inspect", token.trim()]);
    assert_eq!(ran.code, 1, "{}", ran.out);
    assert!(!ran.out.contains("holds"), "{}", ran.out);
    assert!(
        ran.err.contains("expired") && ran.err.contains("30 s longer"),
        "{}",
        ran.err
    );
    let shown = guarded.run(&["inspect", token.trim(), "--json"]).rows().remove(0);
    assert_eq!(shown["holds"], false);
}
