//! `reckon explain`.

use serde_json::Value;

use crate::{folded, good, reckon, same_as_golden};

/// What the log took when is not the same in every run.
fn without_append_times(text: &str) -> String {
    let mut row: Value = serde_json::from_str(text).expect("JSON");
    for event in row["events"].as_array_mut().expect("events") {
        event.as_object_mut().expect("an event").remove("appended_at");
    }
    format!("{row:#}\n")
}

#[test]
fn a_call_is_explained_as_in_the_golden_files() {
    let ran = good(&["explain", "acme", "c1", "--data", folded()]);
    same_as_golden("explain.txt", &ran.out);
    let ran = good(&["explain", "acme", "c1", "--data", folded(), "--json"]);
    same_as_golden("explain.json", &without_append_times(&ran.out));
}

#[test]
fn events_are_found_though_json_writes_the_id_in_other_letters() {
    let ran = good(&["explain", "globex", "say \"hi\"/1", "--data", folded(), "--json"]);
    let row: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(row["events"].as_array().map(Vec::len), Some(1), "{row}");
    assert_eq!(row["events"][0]["record"]["call_id"], "say \"hi\"/1");
}

#[test]
fn an_unknown_call_is_a_finding() {
    let ran = reckon(&["explain", "acme", "c9", "--data", folded()]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("has no call \"c9\""), "{}", ran.err);
    assert_eq!(reckon(&["explain", "acme", "--data", folded()]).code, 2);
}
