//! Health, readiness and metrics of a real service.

use std::collections::{BTreeMap, BTreeSet};

use reckon::http::metrics::{Kind, METRICS};

use super::deployment::promtool;
use crate::reads::history;
use crate::served::{Answer, Served, reckon};

/// A sample's name with its labels, and its value in whole numbers.
fn samples(text: &str) -> BTreeMap<String, i64> {
    let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    let mut samples = BTreeMap::new();
    for line in lines {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().expect("a number");
        samples.insert(name.to_owned(), value as i64);
    }
    samples
}

/// The sum of a metric's samples whose labels hold `label`.
fn sum(samples: &BTreeMap<String, i64>, name: &str, label: &str) -> i64 {
    let of = |key: &str| key.split('{').next() == Some(name) && key.contains(label);
    samples.iter().filter(|(key, _)| of(key)).map(|(_, value)| value).sum()
}

fn scrape(served: &Served) -> Answer {
    let answer = served.get("/metrics");
    assert_eq!(answer.status, 200);
    answer
}

#[test]
fn every_metric_of_the_table_is_there_and_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = history(folder.path(), true);
    let served = Served::start(data.as_ref(), &[]);
    assert_eq!(served.get("/v1/accounts/acme/usage").status, 200);
    assert_eq!(served.get("/v1/accounts/nobody/usage").status, 404);
    assert_eq!(served.get("/nowhere").status, 404);
    let started = r#"{"account_id": "acme", "call_id": "c-9", "phase": "started", "occurred_at": "2026-09-03T00:00:00Z", "source": "gw"}"#;
    let posted = served.post("/v1/events", "application/x-ndjson", format!("{started}\nnonsense\n"));
    assert_eq!(
        (posted.json()["accepted"].as_u64(), posted.json()["refused"].as_u64()),
        (Some(1), Some(1))
    );
    let answer = scrape(&served);
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    promtool(&["check", "metrics"], &answer.text);

    let found = |prefix: &str| -> BTreeMap<String, String> {
        let lines = answer.text.lines().filter_map(|l| l.strip_prefix(prefix));
        lines
            .filter_map(|l| l.split_once(' '))
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .collect()
    };
    let (helps, types) = (found("# HELP "), found("# TYPE "));
    // What a history made from ticks, a log of one's own and a short life don't have.
    let absent = [
        "reckon_clock_age_seconds",
        "reckon_partition_halted",
        "reckon_reads_passed_on_total",
        "reckon_stable_offset_still_seconds",
        "reckon_tick_skew_ms",
        "reckon_unstable_records",
    ];
    for metric in METRICS.iter().filter(|m| !absent.contains(&m.name)) {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        assert_eq!(
            types.get(metric.name).map(String::as_str),
            Some(kind),
            "{}",
            metric.name
        );
        assert!(helps.contains_key(metric.name), "{} has no HELP", metric.name);
        assert_eq!(
            metric.name.ends_with("_total"),
            metric.kind == Kind::Counter,
            "{}",
            metric.name
        );
    }
    let known: BTreeSet<&str> = METRICS.iter().map(|m| m.name).collect();
    for name in types.keys() {
        assert!(known.contains(name.as_str()), "{name} isn't in the table");
    }
    let all = samples(&answer.text);
    assert_eq!(all["reckon_ingest_events_total{result=\"accepted\"}"], 1);
    assert_eq!(all["reckon_ingest_events_total{result=\"undecodable\"}"], 1);
    assert_eq!(all["reckon_source_starts_total{source=\"gw\"}"], 1);
    assert_eq!(all["reckon_source_refused_total{source=\"unnamed\"}"], 1);
    for (sample, _) in all {
        let (name, labels) = sample.split_once('{').unwrap_or((&sample, ""));
        let metric = METRICS.iter().find(|m| {
            let rest = name.strip_prefix(m.name);
            rest == Some("") || (m.kind == Kind::Histogram && matches!(rest, Some("_bucket" | "_sum" | "_count")))
        });
        let metric = metric.unwrap_or_else(|| panic!("{sample}"));
        for label in labels
            .split("\",")
            .filter_map(|l| l.split_once("=\""))
            .map(|(name, _)| name)
        {
            assert!(metric.labels.contains(&label) || label == "le", "{sample}: {label}");
        }
    }
    assert!(served.stop().success());
}

#[test]
fn metrics_say_what_was_folded_also_after_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = history(folder.path(), true);
    for _ in 0..2 {
        let served = Served::start(data.as_ref(), &[]);
        let text = scrape(&served).text;
        let all = samples(&text);
        assert_eq!(sum(&all, "reckon_events_folded_total", ""), 2);
        assert_eq!(sum(&all, "reckon_verdicts_total", "reason=\"completed\""), 1);
        assert_eq!(sum(&all, "reckon_verdicts_total", "reason=\"upstream_error\""), 1);
        assert_eq!(sum(&all, "reckon_verdicts_total", ""), 2);
        assert!(sum(&all, "reckon_outputs_total", "topic=\"statements\"") >= 1);
        assert_eq!(sum(&all, "reckon_fold_lag_records", ""), 0);
        assert_eq!(sum(&all, "reckon_accounts", ""), 1);
        assert_eq!(sum(&all, "reckon_ready", ""), 1);
        assert_eq!(sum(&all, "reckon_partition_failed", ""), 0);
        assert!(sum(&all, "reckon_disk_free_bytes", "") > 0);
        assert!(sum(&all, "process_resident_memory_bytes", "") > 1_000_000);
        // Routes by pattern: an account's id is nobody's business here.
        assert_eq!(served.get("/v1/accounts/acme/usage").status, 200);
        let text = scrape(&served).text;
        assert_eq!(
            sum(
                &samples(&text),
                "reckon_http_requests_total",
                "/usage\",method=\"GET\",status=\"200\""
            ),
            1
        );
        assert!(!text.contains("acme"), "{text}");
        assert!(served.stop().success());
    }
}

#[test]
fn metrics_want_a_token_where_there_is_a_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let text = data.to_str().expect("a path");
    let brought = ("x-forwarded-for", "203.0.113.9");
    let served = Served::ticks(&data, 1);
    assert_eq!(served.get("/metrics").status, 200);
    assert_eq!(served.get_with("/metrics", &[brought]).status, 403);
    assert!(served.stop().success());

    reckon(&["token", "key", "new", "--data", text]);
    let issue = |scope: &[&str]| {
        let terms = ["--data", text, "--name", "me", "--for", "1h"];
        let token = reckon(&[&["token", "issue"], scope, &terms].concat());
        format!("Bearer {}", token.trim())
    };
    let (metrics, operator) = (issue(&["metrics"]), issue(&["operator"]));
    let account = issue(&["account", "--account", "acme"]);
    let served = Served::start(&data, &[]);
    // A proxy on this machine brings strangers, and may leave nothing behind that tells.
    assert_eq!(served.get("/metrics").status, 401);
    let status = |path: &str, token: &str| served.get_with(path, &[("authorization", token)]).status;
    assert_eq!(
        (status("/metrics", &metrics), status("/metrics", &operator)),
        (200, 200)
    );
    assert_eq!(status("/metrics", &account), 403);
    for path in [
        "/v1/accounts/acme/usage",
        "/v1/periods/2026-09",
        "/v1/outputs/calls",
        "/accounts/acme",
    ] {
        assert_eq!(status(path, &metrics), 403, "{path}");
    }
    // Whoever asks whether it lives needs none.
    assert_eq!(served.get_with("/healthz", &[brought]).status, 200);
    assert_eq!(served.get_with("/readyz", &[brought]).status, 200);
    assert!(served.stop().success());
}

#[test]
fn a_service_that_keeps_up_is_healthy_and_ready() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::ticks(&folder.path().join("data"), 3);
    let health = served.get("/healthz");
    assert_eq!((health.status, health.json()["status"].as_str()), (200, Some("ok")));
    assert_eq!(health.header("cache-control"), "no-store");
    let ready = served.get("/readyz");
    assert_eq!(ready.status, 200);
    let body = ready.json();
    assert_eq!(body["ready"], true);
    assert_eq!(body["partitions"].as_array().map(Vec::len), Some(3));
    assert_eq!(body["partitions"][2]["lag_records"], "0");
    assert!(served.stop().success());
}

#[test]
fn requests_have_an_id() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = Served::ticks(&folder.path().join("data"), 1);
    let given = served.get_with("/healthz", &[("x-request-id", "from-the-edge-17")]);
    assert_eq!(given.header("x-request-id"), "from-the-edge-17");
    let (one, two) = (served.get("/nowhere"), served.get("/healthz"));
    assert!(!one.header("x-request-id").is_empty());
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
    let doubtful = served.get_with("/healthz", &[("x-request-id", "a b@c")]);
    assert_ne!(doubtful.header("x-request-id"), "a b@c");
}
