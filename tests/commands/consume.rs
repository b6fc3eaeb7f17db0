//! `reckon consume statements` from a data folder.

use serde_json::Value;

use crate::{folded, good};

#[test]
fn rows_have_the_ids_that_outputs_have_everywhere() {
    let rows = good(&["consume", "statements", "--data", folded()]).rows();
    assert!(!rows.is_empty());
    for row in &rows {
        let id = format!("statements/{}/{}", row["partition"], row["sequence"]);
        assert_eq!(row["id"], Value::from(id));
    }
}

#[test]
fn a_file_with_ids_in_the_earlier_form_goes_on_and_is_proved() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let (cursor, out) = (path("cursor"), path("rows"));
    let consume = |more: &[&str]| {
        let args = [
            "consume",
            "statements",
            "--data",
            folded(),
            "--cursor",
            &cursor,
            "--out",
            &out,
        ];
        good(&[&args, more].concat())
    };
    consume(&[]);
    let rows = std::fs::read_to_string(&out).expect("rows");
    let mut earlier = String::new();
    for row in rows.lines() {
        let (before, rest) = row.split_once("\"statements/").expect("an id");
        let (id, after) = rest.split_once('"').expect("its end");
        let id = id.replace('/', "-");
        earlier.push_str(&format!("{before}\"statements-{id}\"{after}\n"));
    }
    assert_eq!(earlier.len(), rows.len(), "the cursor counts bytes");
    std::fs::write(&out, &earlier).expect("written");
    let ran = consume(&["--complete", "2026-09"]);
    assert!(ran.out.contains("2026-09 is complete"), "{}", ran.out);
    assert_eq!(
        std::fs::read_to_string(&out).expect("rows"),
        earlier,
        "no row came again"
    );
}
