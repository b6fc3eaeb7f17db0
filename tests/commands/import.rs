//! `reckon import`: nothing of a file is lost or mended.

use base64::Engine;

use crate::{event, file_of, good, reckon};

const AT: &str = "2026-09-10T12:00:00Z";

#[test]
fn bytes_that_are_no_text_are_kept_as_they_are_and_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = |byte: u8| {
        let text = event("acme", "X", "ended", AT, r#","end":{"cause":"completed"}"#);
        let at = text.find('X').expect("there");
        let mut bytes = text.into_bytes();
        bytes.splice(at..=at, [b'a', byte]);
        bytes
    };
    let good_line = event("acme", "b", "ended", AT, r#","end":{"cause":"completed"}"#);
    let lines = [line(0xff), line(0xfe), good_line.into_bytes()];
    let file = file_of(folder.path(), &[&lines[0], &lines[1], &lines[2]]);
    let data = folder.path().join("data");
    let data = data.to_str().expect("a path");
    good(&["import", "events", &file, "--data", data]);
    let calls = good(&["export", "calls", "--data", data]).rows();
    assert_eq!(calls.len(), 1, "{calls:?}");
    let rejects = good(&["export", "rejects", "--data", data]).rows();
    let records: Vec<Vec<u8>> = rejects
        .iter()
        .map(|r| {
            assert_eq!(
                (&r["reason"], &r["record_encoding"]),
                (&"undecodable".into(), &"base64".into())
            );
            let record = r["record"].as_str().expect("text");
            base64::engine::general_purpose::STANDARD
                .decode(record)
                .expect("base64")
        })
        .collect();
    assert_eq!(records, lines[..2]);
    let checked = reckon(&["check", &file, "--json"]).rows();
    let unreadable: Vec<_> = checked.iter().filter(|r| r["finding"] == "unreadable").collect();
    assert_eq!(unreadable.len(), 2, "{checked:?}");
    assert!(unreadable[0]["detail"].as_str().expect("text").contains("UTF-8"));
}

#[test]
fn the_account_of_a_broken_event_decides_where_it_is_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines: Vec<String> = (0..20)
        .map(|n| event(&format!("account-{n}"), "c", "ended", AT, r#","attempt":"many""#))
        .collect();
    let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
    let file = file_of(folder.path(), &lines);
    let data = folder.path().join("data");
    let data = data.to_str().expect("a path");
    good(&["import", "events", &file, "--data", data, "--partitions", "3"]);
    let rejects = good(&["export", "rejects", "--data", data]).rows();
    assert_eq!(rejects.len(), 20);
    for reject in &rejects {
        let record = reject["record"].as_str().expect("text");
        let record: serde_json::Value = serde_json::from_str(record).expect("JSON");
        let account = record["account_id"].as_str().expect("an account");
        let own = reckon::log::placement::partition_of(account, 3);
        assert_eq!(
            (&reject["partition"], &reject["reason"]),
            (&own.into(), &"undecodable".into())
        );
    }
}

#[test]
fn odd_traces_are_refused_with_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("trace_conv.csv");
    std::fs::write(&file, "2023-11-16 18:17:03,1,18446744073709551615\n").expect("written");
    let file = file.to_str().expect("a path");
    let data = folder.path().join("data");
    let data = data.to_str().expect("a path");
    let ran = reckon(&["import", "azure-llm", file, "--data", data]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("line 1") && ran.err.contains("at most"), "{}", ran.err);
    let options = ["--failures-per-mille", "600", "--disconnects-per-mille", "500"];
    let ran = reckon(&[&["import", "azure-llm", file, "--data", data], &options[..]].concat());
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("1100"), "{}", ran.err);
}

/// What an import of these lines is refused with, where no log is.
fn refused(lines: &[&[u8]]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = file_of(folder.path(), lines);
    let data = folder.path().join("data");
    let ran = reckon(&["import", "events", &file, "--data", data.to_str().expect("a path")]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{}", ran.err);
    assert!(!data.exists(), "no log is left behind");
    ran.err
}

#[test]
fn a_file_of_something_else_is_refused_with_what_it_looks_like() {
    let bare = event("acme", "a", "ended", AT, r#","end":{"cause":"completed"}"#);
    let bare = &bare.as_bytes()[r#"{"event":"#.len()..bare.len() - 1];
    let said = refused(&[bare, b"", bare]);
    for part in [
        "none of its 2 lines",
        "bare events",
        "reckon post",
        "sed 's/..*/{\"event\": &}/'",
    ] {
        assert!(said.contains(part), "{part} isn't in {said}");
    }
    assert!(refused(&[b"\x7fELF\x02\x01\x01\x00\x00", b"\xff\xfe"]).contains("binary"));
    assert!(refused(&[b"\x1f\x8b\x08\x00"]).contains("gzip"));
    assert!(refused(&[b"TIMESTAMP,ContextTokens,GeneratedTokens", b"1,2,3"]).contains("azure-llm"));
    assert!(refused(&[br#"{"evnt": {}}"#]).contains("unknown field `evnt`"));
    assert!(refused(&[b"hello"]).contains("not a log record"));
}

#[test]
fn bare_events_are_taken_once_they_are_wrapped_as_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let bare = event("acme", "a", "ended", AT, r#","end":{"cause":"completed"}"#);
    let bare = &bare.as_bytes()[r#"{"event":"#.len()..bare.len() - 1];
    let file = file_of(folder.path(), &[bare, b"", bare]);
    let data = folder.path().join("data");
    let data = data.to_str().expect("a path");
    let said = reckon(&["import", "events", &file, "--data", data]).err;
    let sed = &said[said.find("sed ").expect("a command")..];
    let ended = std::process::Command::new("sh")
        .args(["-c", sed.trim()])
        .current_dir(folder.path())
        .status()
        .expect("a shell");
    assert!(ended.success());
    let records = format!("{file}.records");
    good(&["import", "events", &records, "--data", data]);
    assert_eq!(good(&["export", "calls", "--data", data]).rows().len(), 1);
}

#[test]
fn a_wrong_file_leaves_a_log_that_is_there_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let data = data.to_str().expect("a path");
    good(&["import", "events", &crate::history(), "--data", data]);
    let stands = || good(&["inspect", "--data", data, "--json"]).out;
    let before = stands();
    let file = file_of(folder.path(), &[b"{}", b"\xff"]);
    assert_eq!(reckon(&["import", "events", &file, "--data", data]).code, 1);
    assert_eq!(stands(), before);
}
