//! What the service writes to its log, and what it doesn't.

use std::fs::File;

use serde_json::Value;

use crate::ingest::event;
use crate::served::{Served, reckon};

#[test]
fn a_line_a_request_that_names_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, file) = (folder.path().join("data"), folder.path().join("lines"));
    reckon(&["init", "--data", data.to_str().expect("a path"), "--partitions", "1"]);
    let filter = ["--set", "telemetry.log_filter=debug"];
    let served = Served::start_logging(&data, &filter, File::create(&file).expect("a file").into());
    let posted = served.post(
        "/v1/events",
        "application/json",
        event("vip-account", "vip-call", 5).to_string(),
    );
    assert_eq!(posted.status, 200, "{}", posted.text);
    let result = &posted.json()["results"][0];
    let seen = format!(
        "{}:{}",
        result["partition"],
        result["offset"].as_str().expect("an offset")
    );
    let headers = [
        ("authorization", "Bearer topsecrettoken"),
        ("cookie", "reckon=topsecrettoken"),
        ("x-request-id", "edge-42"),
    ];
    assert_eq!(
        served
            .get_with(
                &format!("/v1/accounts/vip-account/usage?group_by=product&at_least={seen}"),
                &headers
            )
            .status,
        200
    );
    assert_eq!(
        served
            .get_with("/v1/accounts/vip-account/calls/other-vip-call", &headers)
            .status,
        404
    );
    assert!(served.stop().success());

    let text = std::fs::read_to_string(&file).expect("lines");
    for secret in ["vip-account", "vip-call", "topsecrettoken"] {
        assert!(!text.contains(secret), "{secret} is in:\n{text}");
    }
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let requests: Vec<&Value> = lines.iter().filter(|l| l["target"] == "reckon::request").collect();
    assert_eq!(requests.len(), 3, "{text}");
    let read = requests[1];
    assert_eq!(
        (&read["method"], &read["status"], &read["span"]["id"]),
        (&"GET".into(), &200.into(), &"edge-42".into())
    );
    assert!(read["route"].as_str().is_some_and(|r| r.contains('{')), "{read}");
    assert!(read["latency_us"].is_u64(), "{read}");
    assert_eq!(requests[2]["status"], 404);
    // What was done at its end is there too.
    assert!(lines.iter().any(|l| l["signal"] == "SIGTERM"));
}
