//! `reckon config` and what `serve` reads: what was meant and isn't taken is told.

use std::process::Command;

/// Exit code and standard error, in an environment of that variable alone.
fn told(args: &[&str], variable: &str, value: &str) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(args)
        .env_clear()
        .env(variable, value)
        .output()
        .expect("reckon runs");
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

#[test]
fn a_variable_that_misses_its_setting_is_named_with_the_right_one() {
    let (code, said) = told(&["config"], "RECKON_LISTEN_ADDRESS", "0.0.0.0:7070");
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.starts_with("warning: ")
            && said.contains("RECKON_LISTEN_ADDRESS")
            && said.contains("RECKON_LISTEN__ADDRESS"),
        "{said}"
    );
    let (_, said) = told(
        &["serve", "--data", "/nowhere"],
        "RECKON_KAFKA_BOOTSTRAP",
        "localhost:9092",
    );
    assert!(said.contains("RECKON_KAFKA__BOOTSTRAP"), "{said}");
    for (variable, value) in [
        ("RECKON_LISTEN__ADDRESS", "0.0.0.0:7070"),
        ("RECKON_TOKEN", "x"),
        ("RECKON_SERVICE_HOST", "10.0.0.1"),
    ] {
        assert_eq!(
            told(&["config"], variable, value),
            (Some(0), String::new()),
            "{variable}"
        );
    }
}

#[test]
fn an_address_that_is_none_is_told_with_one_that_is() {
    let (code, said) = told(&["config", "--listen", "localhost:7070"], "PATH", "");
    assert_eq!(code, Some(2));
    for part in [
        "--listen",
        "\"localhost:7070\"",
        "give an IP address and port, such as 127.0.0.1:7070",
    ] {
        assert!(said.contains(part), "{part} isn't in {said}");
    }
    for bad in ["7070", ":7070", "127.0.0.1"] {
        let (code, said) = told(&["config"], "RECKON_LISTEN__ADDRESS", bad);
        assert!(
            code == Some(2) && said.contains("such as 127.0.0.1:7070"),
            "{bad}: {said}"
        );
    }
}
