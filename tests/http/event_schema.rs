//! What the contract says of an event's body, against the proto file and the service.

use std::collections::BTreeSet;

use serde_json::Value;

use reckon::http::event_schema;
use reckon::model::event::{CallKind, Cause, EndMarker, Observer, Phase, Progress, Provenance};

use crate::served::{Served, reckon};

fn contract() -> Value {
    serde_json::to_value(reckon::http::routes().1).expect("JSON")
}

/// Names of a message's fields in the proto file.
fn fields_of(message: &str) -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/proto/reckon/v1/events.proto");
    let proto = std::fs::read_to_string(path).expect("the contract");
    let (_, body) = proto.split_once(&format!("message {message} {{")).expect("the message");
    let (body, _) = body.split_once("\n}").expect("its end");
    let names = body
        .lines()
        .filter_map(|line| line.split("//").next()?.split_once(" = "));
    names
        .filter_map(|(before, _)| before.split_whitespace().next_back())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_field_and_every_value_of_an_event_is_described() {
    let contract = contract();
    let schemas = &contract["components"]["schemas"];
    for (schema, message) in [
        ("CallEvent", "CallEvent"),
        ("EventEnd", "Termination"),
        ("EventQuantity", "Quantity"),
    ] {
        let described = schemas[schema]["properties"].as_object().expect("properties");
        let described: BTreeSet<String> = described.keys().cloned().collect();
        assert_eq!(described, fields_of(message), "{message}");
    }
    macro_rules! same {
        ($($described:ident = $of:ident;)+) => {$(
            // 0 is what isn't given.
            let values: Vec<$of> = $of::ALL.iter().copied().filter(|value| *value as usize != 0).collect();
            let names: Vec<&str> = values.iter().map(|value| value.as_str()).collect();
            let numbers: Vec<usize> = values.iter().map(|value| *value as usize).collect();
            assert_eq!(event_schema::$described::NAMES, names);
            assert_eq!(numbers, (1..=names.len()).collect::<Vec<_>>());
            assert_eq!(schemas[stringify!($described)]["oneOf"][0]["enum"], Value::from(names));
        )+};
    }
    same! {
        EventPhase = Phase;
        EventObserver = Observer;
        EventCallKind = CallKind;
        EventCause = Cause;
        EventProgress = Progress;
        EventEndMarker = EndMarker;
        EventProvenance = Provenance;
    }
    let content = &contract["paths"]["/v1/events"]["post"]["requestBody"]["content"];
    let binary = schemas["Protobuf"].clone();
    assert_eq!(
        (&binary["type"], &binary["format"]),
        (&"string".into(), &"binary".into())
    );
    for form in [
        "application/json",
        "application/x-protobuf",
        "application/cloudevents+json",
    ] {
        assert!(content[form]["schema"]["$ref"].is_string(), "{form}: {content}");
    }
}

#[test]
fn the_examples_are_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    reckon(&["init", "--data", data.to_str().expect("a path")]);
    let served = Served::start(&data, &[]);
    let contract = contract();
    for (schema, form) in [
        ("CallEvent", "application/json"),
        ("CloudEvent", "application/cloudevents+json"),
    ] {
        let example = &contract["components"]["schemas"][schema]["example"];
        let answer = served.post("/v1/events", form, example.to_string());
        assert_eq!(answer.status, 200, "{schema}: {}", answer.text);
    }
    assert!(served.stop().success());
}
