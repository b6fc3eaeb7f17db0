//! The Azure LLM inference traces billed to the token, by the real command.

#![cfg(feature = "store")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The traces' folder: `$RECKON_TRACES`, or `../shared/traces` beside the checkout.
fn traces() -> Option<PathBuf> {
    let folder = std::env::var_os("RECKON_TRACES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces"),
        PathBuf::from,
    );
    let folder = if folder.exists() {
        folder
    } else {
        PathBuf::from("/work/shared/traces")
    };
    folder
        .join("AzureLLMInferenceTrace_conv.csv")
        .exists()
        .then_some(folder)
}

fn reckon(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(args)
        .output()
        .expect("reckon runs");
    assert!(
        output.status.success(),
        "reckon {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn both_traces_are_billed_to_the_token() {
    let Some(folder) = traces() else {
        assert!(
            std::env::var_os("RECKON_REQUIRE_TRACES").is_none(),
            "RECKON_REQUIRE_TRACES is set, but there are no traces in $RECKON_TRACES or ../shared/traces"
        );
        eprintln!(
            "\n*** SKIPPED: no traces in $RECKON_TRACES or ../shared/traces; nothing was billed to the token ***\n"
        );
        return;
    };
    let data = tempfile::tempdir().expect("a folder");
    let data = data.path().join("data").display().to_string();
    let file = |name: &str| folder.join(name).display().to_string();
    let (conv, code) = (
        file("AzureLLMInferenceTrace_conv.csv"),
        file("AzureLLMInferenceTrace_code.csv"),
    );
    reckon(&["import", "azure-llm", &conv, &code, "--data", &data, "--close"]);
    // The sums stated in the traces' README.
    let stated: BTreeMap<(&str, &str), u64> = BTreeMap::from([
        (("chat", "requests"), 19_366),
        (("chat", "input_tokens_uncached"), 22_361_870),
        (("chat", "output_tokens"), 4_088_665),
        (("code", "requests"), 8_819),
        (("code", "input_tokens_uncached"), 18_059_974),
        (("code", "output_tokens"), 245_896),
    ]);
    let usage = reckon(&["export", "usage", "--data", &data]);
    let statements = reckon(&["export", "statements", "--data", &data]);
    let mut sums: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut frozen = sums.clone();
    let add = |sums: &mut BTreeMap<(String, String), u64>, row: &serde_json::Value| {
        assert_eq!(row["class"], "success");
        let text = |name: &str| row[name].as_str().expect("text").to_owned();
        *sums.entry((text("service"), text("meter"))).or_default() +=
            text("quantity").parse::<u64>().expect("a number");
    };
    for line in usage.lines() {
        add(&mut sums, &serde_json::from_str(line).expect("JSON"));
    }
    for line in statements.lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        for sum in row["usage"].as_array().expect("usage") {
            add(&mut frozen, sum);
        }
    }
    let stated: BTreeMap<(String, String), u64> = stated
        .into_iter()
        .map(|((s, m), n)| ((s.to_owned(), m.to_owned()), n))
        .collect();
    assert_eq!(sums, stated, "export usage");
    assert_eq!(frozen, stated, "export statements");
}
