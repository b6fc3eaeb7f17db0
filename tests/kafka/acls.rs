//! A cluster with an authorizer, where everybody may do what `reckon topics acls` says and nothing else.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reckon::log::NewRecord;
use reckon::log::kafka::KafkaSettings;
use reckon::log::kafka::outputs::OutputStream;
use reckon::log::kafka::publish::Publisher;
use reckon::machine::output::Topic;
use reckon::wire::record::Kind;
use serde_json::Value;
use tempfile::TempDir;

use crate::broker::Broker;
use crate::fleet::{eventually, ready};
use crate::served::{Served, reckon};

const WAIT: Duration = Duration::from_secs(60);

const PREFIX: &str = "metering";

const USERS: [&str; 6] = ["admin", "GATEWAY", "RECKON", "OPERATOR", "INVOICING", "STRANGER"];

/// A broker that knows its users by name and password, which is the name.
fn guarded() -> Broker {
    let users: Vec<String> = USERS.iter().map(|user| format!("user_{user}=\"{user}\"")).collect();
    let module = "org.apache.kafka.common.security.plain.PlainLoginModule";
    let login = format!(
        "{module} required username=\"admin\" password=\"admin\" {};",
        users.join(" ")
    );
    Broker::start(
        1,
        &[
            (
                "listener.security.protocol.map",
                "CLIENTS:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
            ),
            ("sasl.enabled.mechanisms", "PLAIN"),
            ("sasl.mechanism.inter.broker.protocol", "PLAIN"),
            ("listener.name.clients.plain.sasl.jaas.config", &login),
            (
                "authorizer.class.name",
                "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            ),
            ("super.users", "User:admin;User:ANONYMOUS"),
        ],
    )
}

fn properties(user: &str) -> [String; 4] {
    [
        "security.protocol=SASL_PLAINTEXT".to_owned(),
        "sasl.mechanism=PLAIN".to_owned(),
        format!("sasl.username={user}"),
        format!("sasl.password={user}"),
    ]
}

fn settings(broker: &Broker, user: &str) -> KafkaSettings {
    let passed = properties(user).into_iter().map(|property| {
        let (name, value) = property.split_once('=').expect("a setting");
        (name.to_owned(), value.to_owned())
    });
    KafkaSettings {
        bootstrap: broker.bootstrap(),
        prefix: PREFIX.to_owned(),
        passed: passed.collect(),
        ..KafkaSettings::default()
    }
}

/// A command's arguments that reach the cluster as a user.
fn with(broker: &Broker, user: &str, args: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = args.iter().map(|&a| a.to_owned()).collect();
    all.extend(["--kafka", &broker.bootstrap(), "--topic-prefix", PREFIX].map(str::to_owned));
    for property in properties(user) {
        all.extend(["-X".to_owned(), property]);
    }
    all
}

fn borrowed(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// Sets every line that is printed, as an administrator does.
fn allow(broker: &Broker, folder: &Path) {
    let config = folder.join("admin.properties");
    let login =
        "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" password=\"admin\";";
    let lines = format!("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.jaas.config={login}\n");
    std::fs::write(&config, lines).expect("written");
    let printed = reckon(&["topics", "acls", "--topic-prefix", PREFIX]);
    assert!(printed.lines().count() > 5, "{printed}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka");
    for line in printed.lines() {
        let output = Command::new(&script)
            .args(["tool", "org.apache.kafka.tools.AclCommand", "--bootstrap-server"])
            .arg(broker.bootstrap())
            .arg("--command-config")
            .arg(&config)
            .args(line.split(' '))
            .output()
            .expect("the tool runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}");
    }
}

#[test]
fn each_role_may_do_its_work_by_the_printed_lines_and_no_more() {
    let broker = guarded();
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    allow(&broker, folder.path());
    let key = path("operator");
    reckon(&["keygen", "--out", &key]);
    let create = [
        "topics",
        "create",
        "--key",
        &key,
        "--partitions",
        "2",
        "--replication",
        "1",
    ];
    reckon(&borrowed(&with(&broker, "OPERATOR", &create)));

    // Who may not look isn't told that there is nothing.
    let check = with(&broker, "STRANGER", &["topics", "check"]);
    let refused = Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(&check)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
    assert!(
        !refused.status.success() && said.contains("reckon topics acls"),
        "{said}"
    );
    assert!(!said.contains("no such topic"), "{said}");

    let serve = with(&broker, "RECKON", &[]);
    let served = Served::start(&folder.path().join("data"), &borrowed(&serve));
    ready(&served, WAIT);

    let event = NewRecord::new(Kind::Event, b"no event".to_vec());
    let gateway = Publisher::new(&settings(&broker, "GATEWAY")).expect("a producer");
    let receipts = gateway.append(&[(0, &event)]).expect("a gateway writes events");
    let offset = receipts[0].offset;
    let posted = served.post(
        "/v1/events",
        "application/json",
        r#"{"account_id": "acme", "call_id": "c", "phase": "ended", "source": "gw", "occurred_at": "2026-01-01T00:00:00Z",
            "end": {"cause": "completed"}}"#,
    );
    assert_eq!(posted.status, 200, "{}", posted.text);

    let records = path("records.ndjson");
    let month = chrono::Utc::now().format("%Y-%m").to_string();
    let control = serde_json::json!({"control": {"id": "h", "hold_close": {"period": month}}});
    std::fs::write(&records, control.to_string()).expect("written");
    let publish = ["--json", "control", "publish", &records, "--key", &key];
    let said: Value = serde_json::from_str(&reckon(&borrowed(&with(&broker, "OPERATOR", &publish)))).expect("JSON");
    assert_eq!((&said["written"], &said["control_version"]), (&1.into(), &1.into()));
    eventually("it is folded", WAIT, || {
        let period = served.get(&format!("/v1/periods/{month}")).json();
        (period["held_for_everyone"] == true).then_some(())
    });

    // Outputs are put out, and those who take them see them.
    let list = ["--json", "rejects", "list"];
    eventually("the reject of what is no event", WAIT, || {
        let said = reckon(&borrowed(&with(&broker, "INVOICING", &list)));
        let said: Value = serde_json::from_str(&said).expect("JSON");
        said["rejects"]
            .as_array()
            .is_some_and(|rows| !rows.is_empty())
            .then_some(())
    });
    for topic in [Topic::Statements, Topic::Alerts, Topic::Rejects] {
        let mut stream = OutputStream::open(&settings(&broker, "INVOICING"), topic).expect("the topic");
        assert_eq!(stream.partition_count(), 2);
        let start = stream.bounds(0).expect("its bounds").0;
        stream.follow(&[(0, start)].into()).expect("followed");
        let mut heard = 0;
        eventually("something is read", WAIT, || {
            stream
                .take(Duration::from_millis(100), |_, _, _| heard += 1)
                .expect("read");
            (heard > 0).then_some(())
        });
    }

    // The record itself is in the input, which is none of their business: that is said, not that it is gone.
    let show = ["rejects", "show", &format!("0:{offset}")];
    let said = reckon(&borrowed(&with(&broker, "INVOICING", &show)));
    assert!(said.contains("the log could not be read"), "{said}");
    assert!(!said.contains("not in the log any more"), "{said}");

    // And no more than that.
    let mut elsewhere = settings(&broker, "GATEWAY");
    elsewhere
        .passed
        .insert("message.timeout.ms".to_owned(), "10000".to_owned());
    elsewhere.prefix = "other".to_owned();
    let refused = Publisher::new(&elsewhere).expect("a producer").append(&[(0, &event)]);
    refused.expect_err("a gateway writes nothing else");
    let outputs = OutputStream::open(&settings(&broker, "GATEWAY"), Topic::Statements);
    assert!(outputs.is_err(), "a gateway reads no statements");
    let calls = OutputStream::open(&settings(&broker, "INVOICING"), Topic::Calls);
    assert!(calls.is_err(), "who invoices reads no calls");
    assert!(served.stop().success());
}
