//! What lies in `deploy/`: it names what there is, and Prometheus' own tool takes it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reckon::http::metrics::{METRICS, table};
use serde_json::Value;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).expect("a file")
}

/// Runs `promtool` with an input.
pub fn promtool(args: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, which `scripts/setup --for-tests` installs");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(input.as_bytes()).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("its end");
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "promtool {args:?}: {out}{err}");
}

/// Names of metrics in a text; of a histogram's parts the histogram's.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|w| w.starts_with("reckon_") || w.starts_with("process_"))
        .map(|w| w.strip_suffix("_bucket").unwrap_or(w).to_owned())
        .collect()
}

fn alerts() -> Vec<String> {
    let text = text("alerts.yml");
    let names = text.lines().filter_map(|l| l.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

#[test]
fn alert_rules_hold_and_fire_when_they_should() {
    let path = |name: &str| deploy(name).to_str().expect("a path").to_owned();
    // The token's file is there where it is set up.
    promtool(&["check", "config", "--syntax-only", &path("prometheus.yml")], "");
    promtool(&["check", "rules", &path("alerts.yml")], "");
    promtool(&["test", "rules", &path("alerts_test.yml")], "");
    let tests = text("alerts_test.yml");
    for alert in alerts() {
        for when in ["fires", "is quiet"] {
            assert!(
                tests.contains(&format!("name: \"{alert} {when}\"")),
                "no test that {alert} {when}"
            );
        }
    }
}

#[test]
fn every_alert_is_in_the_runbook() {
    let runbook = text("RUNBOOK.md");
    let rules = text("alerts.yml");
    assert!(alerts().len() >= 20);
    for alert in alerts() {
        assert!(runbook.contains(&format!("\n### {alert}\n")), "{alert} has no section");
        assert!(
            rules.contains(&format!("runbook: RUNBOOK.md#{}\n", alert.to_lowercase())),
            "{alert}"
        );
    }
}

#[test]
fn alerts_and_dashboard_name_metrics_that_there_are() {
    let known: BTreeSet<String> = METRICS.iter().map(|m| m.name.to_owned()).collect();
    let dashboard = text("grafana/reckon.json");
    let board: Value = serde_json::from_str(&dashboard).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    assert!(panels.len() > 20 && panels.iter().all(|p| p["title"].is_string()));
    let ids: BTreeSet<i64> = panels.iter().filter_map(|p| p["id"].as_i64()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    for (name, text) in [
        ("alerts.yml", text("alerts.yml")),
        ("alerts_test.yml", text("alerts_test.yml")),
        ("RUNBOOK.md", text("RUNBOOK.md")),
        ("reckon.json", dashboard),
    ] {
        let unknown: Vec<_> = metrics_in(&text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{name} names {unknown:?}");
    }
}

#[test]
fn metrics_md_lists_the_metrics() {
    assert!(
        text("METRICS.md").ends_with(&table()),
        "deploy/METRICS.md should end with:\n{}",
        table()
    );
}

#[test]
fn the_compose_file_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for profile in ["", "embedded"] {
        let output = Command::new("docker-compose")
            .args(["--profile", profile, "config", "--quiet"])
            .current_dir(root)
            .output()
            .expect("docker-compose, which `scripts/setup --for-tests` installs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
