//! `reckon export`: an interface that other people's checks use. Names, forms and codes stay as they are.

use crate::{folded, good, reckon, same_as_golden};

const ALL: [&str; 7] = [
    "calls",
    "usage",
    "outcomes",
    "statements",
    "adjustments",
    "rejects",
    "control",
];

#[test]
fn rows_are_those_of_the_golden_files() {
    for what in ALL {
        let ran = good(&["export", what, "--data", folded()]);
        assert!(!ran.out.is_empty(), "{what}");
        same_as_golden(&format!("{what}.ndjson"), &ran.out);
        // NDJSON is JSON.
        assert_eq!(good(&["export", what, "--data", folded(), "--json"]).out, ran.out);
    }
    for what in ["usage", "outcomes"] {
        let ran = good(&["export", what, "--data", folded(), "--format", "csv"]);
        same_as_golden(&format!("{what}.csv"), &ran.out);
    }
}

#[test]
fn filters_leave_rows_out_and_change_none() {
    let rows = |args: &[&str]| -> Vec<String> {
        let args = [&["export"], args, &["--data", folded()]].concat();
        good(&args).out.lines().map(str::to_owned).collect()
    };
    for what in ["calls", "usage", "outcomes", "statements", "adjustments"] {
        let all = rows(&[what]);
        let of_acme: Vec<String> = all
            .iter()
            .filter(|r| r.contains("\"account\":\"acme\""))
            .cloned()
            .collect();
        assert!(!of_acme.is_empty());
        assert_eq!(rows(&[what, "--account", "acme"]), of_acme, "{what}");
        assert!(rows(&[what, "--account", "nobody"]).is_empty());
    }
    for what in ["calls", "usage", "outcomes", "statements", "adjustments", "control"] {
        let all = rows(&[what]);
        let is_september = |r: &&String| r.contains("\"period\":\"2026-09\"");
        let of_september: Vec<String> = all.iter().filter(is_september).cloned().collect();
        assert_eq!(rows(&[what, "--period", "2026-09"]), of_september, "{what}");
        assert!(rows(&[what, "--period", "2025-01"]).is_empty());
    }
    // Whose a record is that can't be folded is read from what can be read of it.
    let rejected = |account: &str| -> Vec<String> {
        let found = rows(&["rejects", "--account", account]);
        let reason = |row: &String| serde_json::from_str::<serde_json::Value>(row).expect("JSON")["reason"].to_string();
        found.iter().map(reason).collect()
    };
    assert_eq!(
        rejected("acme"),
        ["\"unknown_enum\"", "\"too_late\"", "\"call_forgotten\""]
    );
    assert_eq!(rejected("globex"), ["\"undecodable\""]);
    assert!(rejected("nobody").is_empty());
}

#[test]
fn what_has_no_meaning_is_refused() {
    for args in [
        &["rejects", "--period", "2026-09"][..],
        &["control", "--account", "acme"],
        &["calls", "--format", "csv"],
        &["usage", "--format", "csv", "--json"],
        &["usage", "--period", "September"],
        &["everything"],
    ] {
        let ran = reckon(&[&["export"], args, &["--data", folded()]].concat());
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}");
        assert!(!ran.err.is_empty());
    }
    assert_eq!(reckon(&["export", "calls"]).code, 2, "from where?");
    let nowhere = reckon(&["export", "calls", "--data", "/nowhere"]);
    assert_eq!(nowhere.code, 1);
}
