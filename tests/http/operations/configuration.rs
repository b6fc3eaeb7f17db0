//! Settings: which source holds, what is refused, and the sample file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

use reckon::config::sources;
use serde_json::Value;

/// `reckon config` in a clean environment.
fn config(args: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_reckon"))
        .arg("config")
        .args(args)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .expect("reckon runs")
}

/// Every setting with its value and origin.
fn settings(args: &[&str], environment: &[(&str, &str)]) -> BTreeMap<String, (Value, String)> {
    let output = config(&[args, &["--json"]].concat(), environment);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let row = |row: Value| {
        (
            row["value"].clone(),
            row["from"].as_str().expect("an origin").to_owned(),
        )
    };
    all.into_iter().map(|(key, value)| (key, row(value))).collect()
}

fn refusal(args: &[&str], environment: &[(&str, &str)]) -> String {
    let output = config(args, environment);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn flags_hold_over_environment_over_file_over_defaults() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("reckon.toml");
    std::fs::write(
        &file,
        "[fold]\ncommit_ms = 301\nflush_ms = 31000\nhold_ms = 1\n[health]\nlag_records_max = 7\n",
    )
    .expect("written");
    let file = file.to_str().expect("a path");
    let environment = [
        ("RECKON_FOLD__COMMIT_MS", "302"),
        ("RECKON_FOLD__FLUSH_MS", "32000"),
        ("RUST_LOG", "debug"),
        // Of another kind: no section.
        ("RECKON_TRACES", "/nowhere"),
    ];
    let args = [
        "--config",
        file,
        "--set",
        "fold.commit_ms=303",
        "--listen",
        "127.0.0.1:0",
    ];
    let all = settings(&args, &environment);
    let expected = [
        ("fold.commit_ms", Value::from(303), "flag --set"),
        ("fold.flush_ms", Value::from(32_000), "env RECKON_FOLD__FLUSH_MS"),
        ("fold.hold_ms", Value::from(1), &format!("file {file}")),
        ("health.lag_records_max", Value::from(7), &format!("file {file}")),
        ("listen.address", Value::from("127.0.0.1:0"), "flag --listen"),
        ("listen.unready_ms", Value::from(250), "default"),
        ("telemetry.log_filter", Value::from("debug"), "env RUST_LOG"),
    ];
    for (key, value, origin) in expected {
        assert_eq!(all[key], (value, origin.to_owned()), "{key}");
    }
    // The variable names the file where no flag does, and ours holds over RUST_LOG.
    let environment = [
        ("RECKON_CONFIG", file),
        ("RUST_LOG", "debug"),
        ("RECKON_TELEMETRY__LOG_FILTER", "warn"),
    ];
    let all = settings(&[], &environment);
    assert_eq!(all["fold.commit_ms"], (Value::from(301), format!("file {file}")));
    let origin = "env RECKON_TELEMETRY__LOG_FILTER".to_owned();
    assert_eq!(all["telemetry.log_filter"], (Value::from("warn"), origin));
}

#[test]
fn what_is_printed_can_be_given_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let printed = config(&["--set", "listen.unready_ms=1500", "--data", "/var/lib/x y"], &[]);
    let file = folder.path().join("again.toml");
    std::fs::write(&file, &printed.stdout).expect("written");
    let again = settings(&["--config", file.to_str().expect("a path")], &[]);
    assert_eq!(again["listen.unready_ms"].0, 1_500);
    assert_eq!(again["data.path"].0, "/var/lib/x y");
}

#[test]
fn wrong_keys_and_values_are_refused_with_their_place_and_a_cure() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |text: &str| {
        let path = folder.path().join("bad.toml");
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("a path").to_owned()
    };
    let of = |text: &str| refusal(&["--config", &file(text)], &[]);
    for (text, parts) in [
        (
            "[fold]\ncomit_ms = 1\n",
            ["bad.toml", "\"fold.comit_ms\"", "did you mean \"fold.commit_ms\""],
        ),
        (
            "[listen]\ncommit_ms = 1\n",
            ["bad.toml", "\"listen.commit_ms\"", "did you mean \"fold.commit_ms\""],
        ),
        (
            "[fold]\ncommit_ms = \"soon\"\n",
            ["bad.toml", "fold.commit_ms", "\"soon\""],
        ),
        ("[fold]\ncommit_ms = -1\n", ["bad.toml", "fold.commit_ms", "-1"]),
        (
            "[telemetry]\nlog_format = \"xml\"\n",
            ["bad.toml", "telemetry.log_format", "xml"],
        ),
        (
            "[listen]\ndrain_timeout_ms = 60000\n",
            ["bad.toml", "listen.drain_timeout_ms", "10 s"],
        ),
        ("[fold\n", ["bad.toml", "line 1", "table"]),
        ("zebra = 1\n", ["bad.toml", "\"zebra\"", "reckon config"]),
    ] {
        let said = of(text);
        for part in parts {
            assert!(said.contains(part), "{text:?}: {part:?} is not in {said:?}");
        }
    }
    let said = refusal(&[], &[("RECKON_FOLD__COMMIT", "5")]);
    assert!(said.contains("env RECKON_FOLD__COMMIT:"), "{said}");
    let said = refusal(&["--set", "fold.commit_ms"], &[]);
    assert!(said.contains("SECTION.FIELD=VALUE"), "{said}");
    let said = refusal(&["--config", "/nowhere/reckon.toml"], &[]);
    assert!(said.contains("/nowhere/reckon.toml"), "{said}");
}

#[test]
fn the_sample_lists_every_key_with_its_default() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/reckon.toml");
    let sample_text = sample.to_str().expect("a path");
    let (given, defaults) = (settings(&["--config", sample_text], &[]), settings(&[], &[]));
    let keys: BTreeSet<String> = given
        .iter()
        .filter(|(_, (_, origin))| origin.starts_with("file"))
        .map(|(key, _)| key.clone())
        .collect();
    assert_eq!(keys, sources::keys().into_iter().collect());
    for (key, (value, _)) in &defaults {
        assert_eq!(&given[key].0, value, "{key}");
    }
}

#[test]
fn no_number_is_taken_that_would_overflow_or_never_end() {
    let numbers: Vec<String> = settings(&[], &[])
        .into_iter()
        .filter(|(_, (value, _))| value.is_number())
        .map(|(key, _)| key)
        .collect();
    assert!(numbers.len() > 20, "{numbers:?}");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("most.toml");
    for key in numbers {
        let (section, field) = key.split_once('.').expect("a section");
        for most in [i64::MAX, i64::MAX / 1_000] {
            std::fs::write(&file, format!("[{section}]\n{field} = {most}\n")).expect("written");
            let said = refusal(&["--config", file.to_str().expect("a path")], &[]);
            for part in ["most.toml", &key, &most.to_string(), "too much; at most"] {
                assert!(said.contains(part), "{key}: {part:?} is not in {said:?}");
            }
        }
        let said = refusal(&["--set", &format!("{key}=-1")], &[]);
        assert!(said.contains(&key), "{said}");
    }
}

#[test]
fn the_largest_age_of_the_log_removes_nothing() {
    // A century is taken, and more isn't.
    let most = 100_u64 * 366 * 24 * 3_600;
    let of = |age: u64| {
        config(&["--set", &format!("retention.log_age_s={age}")], &[])
            .status
            .code()
    };
    assert_eq!((of(most), of(most + 1)), (Some(0), Some(2)));
}

#[test]
fn what_is_added_is_shown_and_secrets_are_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("reckon.toml");
    let properties =
        "[kafka]\nproperties = [\"sasl.username=ann\", \"sasl.password=tiger1\", \"ssl.key.pem=tiger2\"]\n";
    std::fs::write(&file, properties).expect("written");
    let file = file.to_str().expect("a path");
    let args = [
        "--config",
        file,
        "-X",
        "client.id=x",
        "-X",
        "ssl.keystore.password=tiger3",
        "-X",
        "tiger4",
    ];
    let (value, origin) = &settings(&args, &[])["kafka.properties"];
    let shown = [
        "sasl.username=ann",
        "sasl.password=***",
        "ssl.key.pem=***",
        "client.id=x",
        "ssl.keystore.password=***",
        "***",
    ];
    assert_eq!(value, &Value::from(shown.to_vec()));
    assert_eq!(origin, &format!("file {file}, and flag -X"));
    let printed = config(&args, &[]);
    assert!(
        !String::from_utf8_lossy(&printed.stdout).contains("tiger"),
        "{printed:?}"
    );
    let (value, origin) = &settings(&["-X", "client.id=x"], &[])["kafka.properties"];
    assert_eq!((value, origin.as_str()), (&Value::from(vec!["client.id=x"]), "flag -X"));
    let variable = [("RECKON_KAFKA__PROPERTIES", "[\"SASL.Password=tiger5\"]")];
    let (value, _) = &settings(&[], &variable)["kafka.properties"];
    assert_eq!(value, &Value::from(vec!["SASL.Password=***"]));
}
