//! What is refused says in which field it is wrong, and what helps.

use reckon::http::problem::Code;
use serde_json::Value;

use crate::answers::text;
use crate::ingest::event;
use crate::served::{Served, reckon};

fn serve(folder: &tempfile::TempDir) -> Served {
    let data = folder.path().join("data");
    reckon(&["init", "--data", data.to_str().expect("a path")]);
    Served::start(&data, &[])
}

#[test]
fn a_bad_path_or_query_names_what_is_bad() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serve(&folder);
    for (path, status, code, field, said) in [
        (
            "/v1/outputs/foo",
            404,
            "output_unknown",
            "topic",
            "\"foo\" is not a topic",
        ),
        (
            "/v1/outputs/%ff",
            400,
            "bad_parameter",
            "topic",
            "topic of the path is not UTF-8",
        ),
        ("/v1/accounts/%ff/usage", 400, "bad_parameter", "account", "not UTF-8"),
        (
            "/v1/accounts/a/usage?period=a&period=b",
            400,
            "bad_parameter",
            "period",
            "there twice",
        ),
        (
            "/v1/accounts/a/usage?limit=abc",
            400,
            "bad_parameter",
            "limit",
            "\"abc\" is not a whole number from 1 to 10000",
        ),
        (
            "/v1/outputs/calls?limit=abc",
            400,
            "bad_parameter",
            "limit",
            "\"abc\" is not a whole number from",
        ),
        (
            "/v1/accounts/a/usage?window=week",
            400,
            "bad_parameter",
            "window",
            "`hour`, `day`, `month`",
        ),
        (
            "/v1/accounts/a/usage?from=2026-09-01T00:00:00+02:00",
            400,
            "bad_parameter",
            "from",
            "write + as %2B in a URL",
        ),
    ] {
        let answer = served.get(path);
        let problem = answer.json();
        assert_eq!(
            (answer.status, text(&problem, "code"), text(&problem, "field")),
            (status, code, field),
            "{path}: {problem}"
        );
        assert!(text(&problem, "detail").contains(said), "{path}: {problem}");
    }
    assert!(served.stop().success());
}

#[test]
fn a_refused_event_is_told_how_to_mend_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serve(&folder);
    let bad = |change: fn(&mut Value)| {
        let mut event = event("acme", "c", 1);
        change(&mut event);
        let answer = served.post("/v1/events", "application/json", event.to_string());
        assert_eq!(answer.status, 400, "{}", answer.text);
        let result = answer.json()["results"][0].clone();
        [text(&result, "reason"), text(&result, "field"), text(&result, "detail")].map(str::to_owned)
    };
    for (refusal, expected) in [
        (
            bad(|event| event["occurred_at"] = "nope".into()),
            [
                "undecodable",
                "occurred_at",
                "\"nope\" is not a time of RFC 3339: write it as 2026-09-01T12:00:00.250Z",
            ],
        ),
        (
            bad(|event| event["call_id"] = "c".repeat(129).into()),
            ["bad_id", "call_id", "129 bytes, at most 128"],
        ),
        (
            bad(|event| event["usage"][0]["meter"] = "requests".into()),
            [
                "bad_quantity",
                "usage.meter",
                "usage[0]: \"requests\" is counted, never reported: leave it out",
            ],
        ),
        (
            bad(|event| event["phase"] = "ened".into()),
            [
                "unknown_enum",
                "phase",
                "\"ened\" is not one of started, response_started, progress, attempt_ended, ended, usage_reported",
            ],
        ),
    ] {
        assert_eq!(refusal, expected);
    }
    assert!(served.stop().success());
}

#[test]
fn where_no_tokens_are_asked_for_none_is_the_cure() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serve(&folder);
    let refused = served.get_with("/v1/accounts/acme/usage", &[("x-forwarded-for", "192.0.2.7")]);
    let problem = refused.json();
    assert_eq!((refused.status, text(&problem, "code")), (403, "forbidden"));
    let cure = text(&problem, "cure");
    assert!(cure.starts_with("`reckon token key new` makes a key"), "{problem}");
    assert!(served.stop().success());
}

#[test]
fn the_contract_names_every_code_of_a_problem() {
    let folder = tempfile::tempdir().expect("a folder");
    let served = serve(&folder);
    let contract = served.get("/openapi.json").json();
    let schemas = &contract["components"]["schemas"];
    let code = &schemas["ProblemBody"]["properties"]["code"];
    let refers = serde_json::to_string(code).expect("JSON");
    assert!(refers.contains("#/components/schemas/ProblemCode"), "{refers}");
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(schemas["ProblemCode"]["enum"], Value::from(codes));
    assert!(served.stop().success());
}
