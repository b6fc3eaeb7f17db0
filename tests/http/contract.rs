//! The contract at /openapi.json against the running service: Schemathesis makes requests from it, valid and not, and compares
//! every answer. `scripts/setup --for-tests` installs it.

use std::path::PathBuf;
use std::process::Command;

use crate::served::{Served, reckon};

/// What an answer must hold to, in Schemathesis' words; what isn't valid is refused, and so is who has no token or a wrong
/// one. Left out: that valid parameters are never refused, for a contract can't say which dimensions the policy names, or that a
/// log has no such period.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,unsupported_method,negative_data_rejection,ignored_auth";

fn schemathesis() -> PathBuf {
    let own = std::env::var_os("RECKON_SCHEMATHESIS").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let path = own.unwrap_or_else(|| home.join(".cache/reckon-tools/schemathesis/bin/schemathesis"));
    assert!(
        path.exists(),
        "{} isn't there: run `scripts/setup --for-tests`, or name it by RECKON_SCHEMATHESIS",
        path.display()
    );
    path
}

#[test]
fn answers_are_as_the_contract_says() {
    let tool = schemathesis();
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let data_text = data.to_str().expect("a path");
    reckon(&["demo", "--calls", "2000", "--data", data_text]);
    reckon(&["token", "key", "new", "--data", data_text]);
    let token = reckon(&["token", "issue", "operator", "--name", "a test", "--data", data_text]);
    let bearer = format!("Bearer {}", token.trim());
    let served = Served::start(&data, &[]);
    let get = |path: &str| served.get_with(path, &[("authorization", &bearer)]);
    let periods = get("/v1/accounts/acme/statements").json();
    let period = periods["periods"][0]["period"].as_str().expect("a period").to_owned();
    // Values that there is something to read for; others are made up beside them.
    let partition = &periods["as_of"]["partition"];
    let outputs = get(&format!("/v1/outputs/calls?limit=1000&partition={partition}")).json();
    let outputs = outputs["outputs"].as_array().expect("outputs");
    let verdicts = outputs
        .iter()
        .flat_map(|output| output["calls"].as_array().expect("calls"));
    let mut of_acme = verdicts.filter(|verdict| verdict["account"] == "acme");
    let call = of_acme.next_back().expect("a call")["call"].as_str().expect("its id");
    let known = format!(
        "[parameters]\n\"path.account\" = \"acme\"\n\"path.period\" = \"{period}\"\n\"path.call\" = \"{call}\"\n\
         \"query.wait_ms\" = 0\n"
    );
    std::fs::write(folder.path().join("schemathesis.toml"), known).expect("written");
    let output = Command::new(tool)
        .current_dir(folder.path())
        .args(["run", &format!("{}/openapi.json", served.base)])
        .args(["--checks", CHECKS, "--max-examples", "25", "--seed", "7", "--no-color"])
        .args(["--header", &format!("Authorization: {bearer}")])
        // It can't make NDJSON, and would follow a stream until it gives up; both have tests of their own.
        .args(["--exclude-path", "/v1/records", "--exclude-path-regex", "stream$"])
        .output()
        .expect("schemathesis runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("generated"), "{text}");
}
