//! Who may do what: every route that the contract names × every scope × own and other account, and every way a token can be wrong.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::served::{Answer, Served, reckon};

/// Two accounts with a call each in September 2026.
const HISTORY: &str = r#"{"tick": "2026-09-01T00:00:00Z"}
{"control": {"id": "card", "rate_card": {"effective_from": "2026-09-01T00:00:00Z", "prices": [{"meter": "output_tokens", "currency": "USD", "amount": "15", "per": 1000000}]}}}
{"event": {"account_id": "acme", "call_id": "c-1", "phase": "ended", "occurred_at": "2026-09-01T10:00:01Z", "product": "m-large", "end": {"cause": "completed", "progress": "complete", "client_status": 200}, "usage": [{"meter": "output_tokens", "value": "412", "provenance": "upstream_measured"}]}}
{"event": {"account_id": "globex", "call_id": "c-1", "phase": "ended", "occurred_at": "2026-09-02T10:00:01Z", "product": "m-large", "end": {"cause": "completed", "progress": "complete", "client_status": 200}, "usage": [{"meter": "output_tokens", "value": "99", "provenance": "upstream_measured"}]}}
"#;

/// What a route asks of who calls it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Nothing.
    Nothing,
    /// The account's own or an operator token.
    Account,
    /// An operator token.
    Operator,
    /// A metrics or an operator token.
    Metrics,
    /// An ingest or an operator token.
    Ingest,
}

/// One operation: how to call it, and what comes of it if it is allowed.
struct Route {
    method: &'static str,
    /// As the contract has it.
    path: &'static str,
    /// With `ACCOUNT` for the account.
    call: &'static str,
    content_type: &'static str,
    body: &'static str,
    needs: Needs,
    /// Status and code of the answer to who may.
    allowed: (u16, &'static str),
    /// What is answered goes on: of a good answer only the head is looked at.
    endless: bool,
}

const fn get(path: &'static str, call: &'static str, needs: Needs) -> Route {
    Route {
        method: "get",
        path,
        call,
        content_type: "",
        body: "",
        needs,
        allowed: (200, ""),
        endless: false,
    }
}

const fn follow(path: &'static str, call: &'static str, needs: Needs) -> Route {
    Route {
        endless: true,
        ..get(path, call, needs)
    }
}

const fn post(
    path: &'static str,
    content_type: &'static str,
    body: &'static str,
    needs: Needs,
    allowed: (u16, &'static str),
) -> Route {
    Route {
        method: "post",
        content_type,
        body,
        allowed,
        ..get(path, path, needs)
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

/// An event of a source that the ingest token of the tests may send.
const EVENT: &str = r#"{"account_id": "acme", "call_id": "c-9", "phase": "started", "occurred_at": "2026-09-01T11:00:00Z", "source": "edge-1"}"#;

/// Every operation of the contract; one that isn't here fails the test.
#[rustfmt::skip]
const ROUTES: &[Route] = &[
    post("/v1/events", "application/json", EVENT, Needs::Ingest, (200, "")),
    post("/v1/records", "application/x-ndjson", r#"{"tick": "2026-09-01T00:00:00Z"}"#, Needs::Operator, (200, "")),
    get("/v1/accounts/{account}/usage", "/v1/accounts/ACCOUNT/usage", Needs::Account),
    follow("/v1/accounts/{account}/usage/stream", "/v1/accounts/ACCOUNT/usage/stream", Needs::Account),
    get("/v1/accounts/{account}/calls/{call}", "/v1/accounts/ACCOUNT/calls/c-1", Needs::Account),
    get("/v1/accounts/{account}/statements", "/v1/accounts/ACCOUNT/statements", Needs::Account),
    get("/v1/accounts/{account}/statements/{period}", "/v1/accounts/ACCOUNT/statements/2026-09", Needs::Account),
    get("/v1/periods/{period}", "/v1/periods/2026-09", Needs::Operator),
    get("/v1/outputs/{topic}", "/v1/outputs/calls?partition=0", Needs::Operator),
    post("/v1/backups", "application/json", r#"{"to": "no-absolute-path"}"#, Needs::Operator, (400, "bad_body")),
    get("/healthz", "/healthz", Needs::Nothing),
    get("/readyz", "/readyz", Needs::Nothing),
    get("/metrics", "/metrics", Needs::Metrics),
    get("/sign-in", "/sign-in", Needs::Nothing),
    post("/session", FORM, "token=garbage", Needs::Nothing, (401, "")),
    post("/session/end", FORM, "", Needs::Nothing, (303, "")),
];

/// Every page of an account: they are no part of the contract.
#[rustfmt::skip]
const PAGES: &[Route] = &[
    get("/accounts/{account}", "/accounts/ACCOUNT", Needs::Account),
    follow("/accounts/{account}/live", "/accounts/ACCOUNT/live", Needs::Account),
    Route { allowed: (303, ""), ..get("/accounts/{account}/calls", "/accounts/ACCOUNT/calls?id=c-1", Needs::Account) },
    get("/accounts/{account}/calls/{call}", "/accounts/ACCOUNT/calls/c-1", Needs::Account),
];

/// What instances ask each other: no part of the contract either.
const INSTANCES: &[Route] = &[get(
    "/instances/periods/{period}",
    "/instances/periods/2026-09",
    Needs::Operator,
)];

/// Routes that let nobody through without a token.
fn guarded_routes() -> impl Iterator<Item = &'static Route> {
    let guarded = |r: &&Route| r.needs != Needs::Nothing;
    ROUTES.iter().chain(PAGES).chain(INSTANCES).filter(guarded)
}

/// A service that asks for tokens.
struct Guarded {
    served: Served,
    data: String,
    _folder: tempfile::TempDir,
}

impl Guarded {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("history.ndjson");
        std::fs::write(&file, HISTORY).expect("written");
        let data = folder.path().join("data");
        let (file, data) = (file.to_str().expect("a path"), data.to_str().expect("a path"));
        reckon(&["import", "events", file, "--data", data]);
        reckon(&["token", "key", "new", "--data", data, "--key-id", "first"]);
        Self {
            served: Served::start(data.as_ref(), &[]),
            data: data.to_owned(),
            _folder: folder,
        }
    }

    /// A token by the command.
    fn issue(&self, scope: &[&str]) -> String {
        let terms = ["--name", "a test", "--data", &self.data];
        let token = reckon(&[&["token", "issue"], scope, &terms].concat());
        token.trim().to_owned()
    }

    fn call(&self, route: &Route, account: &str, headers: &[(&str, &str)]) -> Answer {
        let path = route.call.replace("ACCOUNT", account);
        if route.method == "post" {
            let typed = [("content-type", route.content_type)];
            return self.served.post_with(&path, &[&typed, headers].concat(), route.body);
        }
        if route.endless {
            let head = self.served.head_with(&path, headers);
            if head.status < 300 {
                return head;
            }
        }
        self.served.get_with(&path, headers)
    }

    fn log_id(&self) -> String {
        let shown = reckon(&["inspect", "--json", "--data", &self.data]);
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        shown["log_id"].as_str().expect("a log id").to_owned()
    }

    fn private_pem(&self, key_id: &str) -> Vec<u8> {
        let path = Path::new(&self.data).join(format!("keys/{key_id}.private.pem"));
        std::fs::read(path).expect("a private key")
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// Status and code: the code is empty where the answer is no problem.
fn outcome(answer: &Answer) -> (u16, String) {
    let problem = answer.header("content-type").starts_with("application/problem+json");
    let code = problem.then(|| answer.json()["code"].as_str().expect("a code").to_owned());
    (answer.status, code.unwrap_or_default())
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn now_s() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed();
    since.expect("a clock past 1970").as_secs()
}

#[test]
fn every_route_by_every_scope_on_own_and_other_account() {
    let guarded = Guarded::start();
    let contract = guarded.served.get("/openapi.json").json();
    let mut documented: Vec<(String, String)> = Vec::new();
    for (path, operations) in contract["paths"].as_object().expect("paths") {
        let methods = operations.as_object().expect("operations").keys();
        let methods = methods.filter(|m| ["get", "put", "post", "delete", "patch", "head"].contains(&m.as_str()));
        documented.extend(methods.map(|m| (m.clone(), path.clone())));
    }
    documented.sort();
    let mut tested: Vec<_> = ROUTES
        .iter()
        .map(|r| (r.method.to_owned(), r.path.to_owned()))
        .collect();
    tested.sort();
    assert_eq!(
        documented, tested,
        "every operation of the contract has a line in ROUTES"
    );

    let callers = [
        ("account", guarded.issue(&["account", "--account", "acme"])),
        ("operator", guarded.issue(&["operator"])),
        ("ingest", guarded.issue(&["ingest", "--source", "edge-*"])),
        ("metrics", guarded.issue(&["metrics"])),
    ];
    for route in ROUTES.iter().chain(PAGES).chain(INSTANCES) {
        let is_page = PAGES.iter().any(|page| page.path == route.path);
        let is_contract = ROUTES.iter().any(|known| known.path == route.path);
        let problem = |status: u16, code: &str| is(status, if is_page { "" } else { code });
        let allowed = is(route.allowed.0, route.allowed.1);
        for (scope, token) in &callers {
            for account in ["acme", "globex"] {
                let may = match route.needs {
                    Needs::Nothing => true,
                    Needs::Metrics => *scope == "operator" || *scope == "metrics",
                    Needs::Account => *scope == "operator" || (*scope == "account" && account == "acme"),
                    Needs::Operator => *scope == "operator",
                    Needs::Ingest => *scope == "operator" || *scope == "ingest",
                };
                let answer = guarded.call(route, account, &[("authorization", &bearer(token))]);
                let wanted = if may {
                    allowed.clone()
                } else if route.endless {
                    is(403, "forbidden")
                } else {
                    problem(403, "forbidden")
                };
                let what = format!("{} {} by {scope} on {account}", route.method, route.path);
                assert_eq!(outcome(&answer), wanted, "{what}");
            }
        }
        let without = match route.needs {
            Needs::Nothing => allowed.clone(),
            _ => is(401, "unauthenticated"),
        };
        let answer = guarded.call(route, "acme", &[]);
        assert_eq!(
            outcome(&answer),
            without,
            "{} {} without a token",
            route.method,
            route.path
        );
        if !is_contract {
            continue;
        }
        // The contract says so, too.
        let operation = &contract["paths"][route.path][route.method];
        let schemes = operation["security"].as_array().into_iter().flatten();
        let schemes: Vec<&str> = schemes
            .filter_map(|s| s.as_object()?.keys().next())
            .map(String::as_str)
            .collect();
        let wanted: &[&str] = match route.needs {
            Needs::Nothing => &[],
            Needs::Account => &["account", "operator"],
            Needs::Operator => &["operator"],
            Needs::Metrics => &["metrics", "operator"],
            Needs::Ingest => &["ingest", "operator"],
        };
        assert_eq!(schemes, wanted, "security of {} {}", route.method, route.path);
        // And that browsers are sent on.
        let asks_a_browser = route.method == "get" && !wanted.is_empty();
        let documented = operation["responses"]["303"].is_object();
        assert_eq!(
            documented,
            asks_a_browser || allowed.0 == 303 || route.path == "/sign-in" || route.path == "/session",
            "303 of {}",
            route.path
        );
        if asks_a_browser {
            assert_eq!(
                guarded.call(route, "acme", &[("accept", "text/html")]).status,
                303,
                "{}",
                route.path
            );
        }
    }
}

/// Every way a token can be wrong, and a part of what is said of it.
fn wrong_tokens(guarded: &Guarded) -> Vec<(&'static str, String, &'static str)> {
    let (log_id, now) = (guarded.log_id(), now_s());
    let good = json!({"iss": "reckon", "aud": log_id, "sub": "x", "iat": now, "exp": now + 600, "jti": "t", "scope": "operator"});
    let with = |changes: Value| {
        let mut claims = good.clone();
        for (name, value) in changes.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        claims
    };
    let without = |name: &str| {
        let mut claims = good.clone();
        claims.as_object_mut().expect("claims").remove(name);
        claims
    };
    let header = |alg: Algorithm, key_id: Option<&str>| Header {
        kid: key_id.map(str::to_owned),
        ..Header::new(alg)
    };
    let own = EncodingKey::from_ed_pem(&guarded.private_pem("first")).expect("a key");
    let sign =
        |claims: &Value| jsonwebtoken::encode(&header(Algorithm::EdDSA, Some("first")), claims, &own).expect("a token");
    // What this test signs with the real key holds: so the others are refused for what is wrong with them.
    let answer = guarded
        .served
        .get_with("/v1/periods/2026-09", &[("authorization", &bearer(&sign(&good)))]);
    assert_eq!(answer.status, 200, "{}", answer.text);

    let other = tempfile::tempdir().expect("a folder");
    let other_path = other.path().to_str().expect("a path");
    reckon(&["token", "key", "new", "--data", other_path, "--key-id", "first"]);
    let other_pem = std::fs::read(other.path().join("keys/first.private.pem")).expect("a key");
    let forger = EncodingKey::from_ed_pem(&other_pem).expect("a key");
    let forged = jsonwebtoken::encode(&header(Algorithm::EdDSA, Some("first")), &good, &forger).expect("a token");
    let wrong_kid = jsonwebtoken::encode(&header(Algorithm::EdDSA, Some("../first")), &good, &own).expect("a token");
    let no_kid = jsonwebtoken::encode(&header(Algorithm::EdDSA, None), &good, &own).expect("a token");

    let public_pem = std::fs::read(Path::new(&guarded.data).join("keys/first.public.pem")).expect("a key");
    let by_pem = EncodingKey::from_secret(&public_pem);
    let hs256 = jsonwebtoken::encode(&header(Algorithm::HS256, Some("first")), &good, &by_pem).expect("a token");
    let der = ed25519_dalek::pkcs8::DecodePublicKey::from_public_key_pem(&String::from_utf8_lossy(&public_pem));
    let raw: ed25519_dalek::VerifyingKey = der.expect("a public key");
    let by_raw = EncodingKey::from_secret(raw.as_bytes());
    let hs256_raw = jsonwebtoken::encode(&header(Algorithm::HS256, Some("first")), &good, &by_raw).expect("a token");

    let signed = sign(&good);
    let parts: Vec<&str> = signed.split('.').collect();
    // {"alg":"none","kid":"first"}
    let none = "eyJhbGciOiJub25lIiwia2lkIjoiZmlyc3QifQ";
    let grown = sign(&with(json!({"scope": "account", "account": "acme"})));
    let grown: Vec<&str> = grown.split('.').collect();
    vec![
        ("garbage", "garbage".to_owned(), "not a JWT"),
        ("empty", String::new(), "not `Bearer TOKEN`"),
        ("three empty parts", "..".to_owned(), "can't be read"),
        ("endless", "a".repeat(8_000), "bytes"),
        ("forged with an own key of the same id", forged, "signature"),
        ("a key id that leads out of the folder", wrong_kid, "not known"),
        ("no key id", no_kid, "`kid`"),
        (
            "another log's",
            sign(&with(json!({"aud": "reckon-test"}))),
            "another log",
        ),
        ("no log's", sign(&without("aud")), "can't be read"),
        ("another issuer's", sign(&with(json!({"iss": "somebody"}))), "`iss`"),
        (
            "expired",
            sign(&with(json!({"iat": now - 900, "exp": now - 300}))),
            "held until",
        ),
        ("without an end", sign(&without("exp")), "can't be read"),
        ("not begun", sign(&with(json!({"nbf": now + 300}))), "holds from"),
        (
            "issued in the future",
            sign(&with(json!({"iat": now + 300}))),
            "holds from",
        ),
        (
            "living too long",
            sign(&with(json!({"exp": now + 367 * 86_400}))),
            "lives longer",
        ),
        (
            "of an unknown scope",
            sign(&with(json!({"scope": "owner"}))),
            "can't be read",
        ),
        (
            "of an account without its name",
            sign(&with(json!({"scope": "account"}))),
            "can't be read",
        ),
        ("alg none", format!("{none}.{}.", parts[1]), "only `alg` EdDSA"),
        (
            "alg none with a signature",
            format!("{none}.{}.{}", parts[1], parts[2]),
            "only `alg` EdDSA",
        ),
        ("HS256 by the public key's file", hs256, "not signed by EdDSA"),
        ("HS256 by the public key's bytes", hs256_raw, "not signed by EdDSA"),
        (
            "without a signature",
            format!("{}.{}.", parts[0], parts[1]),
            "signature",
        ),
        (
            "others' claims under its signature",
            format!("{}.{}.{}", parts[0], parts[1], grown[2]),
            "signature",
        ),
    ]
}

#[test]
fn wrong_tokens_are_refused_everywhere_and_told_why() {
    let guarded = Guarded::start();
    for (what, token, said) in wrong_tokens(&guarded) {
        for route in guarded_routes() {
            let answer = guarded.call(route, "acme", &[("authorization", &bearer(&token))]);
            assert_eq!(
                outcome(&answer),
                is(401, "unauthenticated"),
                "{what}: {} {}",
                route.method,
                route.path
            );
            assert_eq!(answer.header("www-authenticate"), "Bearer");
            let detail = answer.json()["detail"].as_str().expect("a detail").to_owned();
            assert!(detail.contains(said), "{what}: {detail}");
            // As a cookie it is no better.
            let answer = guarded.call(route, "acme", &[("cookie", &format!("reckon={token}"))]);
            assert_eq!(
                outcome(&answer),
                is(401, "unauthenticated"),
                "{what}: {} {}",
                route.method,
                route.path
            );
        }
    }
    let operator = guarded.issue(&["operator"]);
    for header in [
        operator.clone(),
        format!("Basic {operator}"),
        "Bearer".to_owned(),
        String::new(),
    ] {
        let answer = guarded
            .served
            .get_with("/v1/periods/2026-09", &[("authorization", &header)]);
        assert_eq!(outcome(&answer), is(401, "unauthenticated"), "{header}");
    }
}

#[test]
fn what_another_account_has_cannot_be_told_from_what_it_has_not() {
    let guarded = Guarded::start();
    let token = bearer(&guarded.issue(&["account", "--account", "acme"]));
    let answers = |paths: &[&str]| {
        let mut told: BTreeMap<String, &str> = BTreeMap::new();
        for path in paths {
            let answer = guarded.served.get_with(path, &[("authorization", &token)]);
            assert_eq!(answer.status, 403, "{path}");
            told.insert(answer.text, path);
        }
        assert_eq!(told.len(), 1, "{told:?}");
    };
    answers(&[
        "/v1/accounts/globex/usage",
        "/v1/accounts/nobody/usage",
        "/v1/accounts/globex/calls/c-1",
        "/v1/accounts/globex/calls/c-2",
        "/v1/accounts/nobody/calls/c-1",
        "/v1/accounts/globex/statements",
        "/v1/accounts/globex/statements/2026-09",
        "/v1/accounts/globex/statements/2031-01",
        "/v1/accounts/nobody/statements/2026-09",
        // Neither by a name that almost is one's own.
        "/v1/accounts/ACME/usage",
        "/v1/accounts/acme%20/usage",
        "/v1/accounts/acme%00/usage",
        "/v1/accounts/acme%2F..%2Fglobex/usage",
    ]);
    let own = |path: &str| guarded.served.get_with(path, &[("authorization", &token)]).status;
    assert_eq!(own("/v1/accounts/acme/usage"), 200);
    assert_eq!(own("/v1/accounts/%61cme/usage"), 200);
}

#[test]
fn an_ingest_token_sends_events_of_its_own_sources_alone() {
    let guarded = Guarded::start();
    let token = bearer(&guarded.issue(&["ingest", "--source", "edge-*", "--source", "batch"]));
    let send = |source: &str| {
        let body = EVENT.replace("edge-1", source);
        let headers = [("content-type", "application/json"), ("authorization", &*token)];
        guarded.served.post_with("/v1/events", &headers, body)
    };
    for source in ["edge-1", "edge-", "batch"] {
        assert_eq!(send(source).status, 200, "{source}");
    }
    for source in ["edge", "batch-2", "other", ""] {
        let answer = send(source);
        assert_eq!(outcome(&answer), is(400, "none_accepted"), "{source}");
        assert!(answer.text.contains("source_not_allowed"), "{}", answer.text);
    }
}

#[test]
fn nobody_is_waited_for_who_may_not_back_up() {
    let guarded = Guarded::start();
    let token = guarded.issue(&["account", "--account", "acme"]);
    let mut socket = TcpStream::connect(guarded.served.base.trim_start_matches("http://")).expect("connected");
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .expect("a time-out");
    // The body never comes.
    let head = format!(
        "POST /v1/backups HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\ncontent-type: application/json\r\n\
         content-length: 90\r\n\r\n",
        bearer(&token)
    );
    socket.write_all(head.as_bytes()).expect("sent");
    let mut status = [0; 12];
    socket.read_exact(&mut status).expect("an answer before the body");
    assert_eq!(&status, b"HTTP/1.1 403");
}

/// Asks until the answer is so: keys are read again every few seconds.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never came: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn keys_rotate_without_a_restart() {
    let guarded = Guarded::start();
    let status = |token: &str| {
        let answer = guarded
            .served
            .get_with("/v1/periods/2026-09", &[("authorization", &bearer(token))]);
        outcome(&answer)
    };
    let old = guarded.issue(&["operator"]);
    assert_eq!(status(&old), is(200, ""));
    reckon(&["token", "key", "new", "--data", &guarded.data, "--key-id", "second"]);
    // Signed by the newest key.
    let new = guarded.issue(&["operator"]);
    until("the new key's tokens hold", || status(&new).0 == 200);
    assert_eq!(status(&old), is(200, ""), "both hold");

    reckon(&["token", "key", "retire", "first", "--data", &guarded.data]);
    until("the old key's tokens are refused", || {
        status(&old) == is(401, "unauthenticated")
    });
    assert_eq!(status(&new), is(200, ""));

    // By hand, and with the whole folder: who takes away the last key has not opened the door.
    std::fs::remove_dir_all(Path::new(&guarded.data).join("keys")).expect("removed");
    until("no token holds", || status(&new) == is(401, "unauthenticated"));
    let answer = guarded.served.get("/v1/periods/2026-09");
    assert_eq!(outcome(&answer), is(401, "unauthenticated"));
}

#[test]
fn one_token_is_revoked_and_the_others_go_on() {
    let guarded = Guarded::start();
    let status = |token: &str| {
        let answer = guarded
            .served
            .get_with("/v1/periods/2026-09", &[("authorization", &bearer(token))]);
        outcome(&answer)
    };
    let [leaked, by_id, kept] = [0; 3].map(|_| guarded.issue(&["operator"]));
    assert_eq!(status(&leaked), is(200, ""));
    let inspect = |token: &str| {
        let inspected = std::process::Command::new(env!("CARGO_BIN_EXE_reckon"))
            .args(["token", "inspect", token, "--data", &guarded.data, "--json"])
            .output()
            .expect("it runs");
        serde_json::from_slice::<Value>(&inspected.stdout).expect("JSON")
    };
    let id = inspect(&by_id)["claims"]["jti"].as_str().expect("an id").to_owned();
    reckon(&["token", "revoke", &leaked, "--data", &guarded.data]);
    reckon(&["token", "revoke", &id, "--data", &guarded.data]);
    for token in [&leaked, &by_id] {
        until("a revoked token is refused", || {
            status(token) == is(401, "unauthenticated")
        });
        assert_eq!(inspect(token)["holds"], false);
    }
    assert_eq!(
        (status(&kept), inspect(&kept)["holds"].clone()),
        (is(200, ""), true.into())
    );
    let answer = guarded
        .served
        .get_with("/v1/periods/2026-09", &[("authorization", &bearer(&leaked))]);
    assert!(answer.text.contains("revoked"), "{}", answer.text);
}

#[test]
fn without_a_key_this_machine_alone_may_do_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let served = Served::ticks(&data, 1);
    let data = data.to_str().expect("a path");
    let port = served.base.rsplit(':').next().expect("a port").to_owned();
    let asked = |headers: &[(&str, &str)]| outcome(&served.get_with("/v1/periods/2026-09", headers));
    assert_eq!(asked(&[]), is(200, ""));
    for host in ["localhost", "reckon.localhost", "[::1]", "127.0.0.1"] {
        assert_eq!(asked(&[("host", &format!("{host}:{port}"))]), is(200, ""), "{host}");
    }
    let own = format!("http://127.0.0.1:{port}");
    assert_eq!(asked(&[("origin", &own)]), is(200, ""));
    assert_eq!(asked(&[("sec-fetch-site", "same-origin")]), is(200, ""));
    // There is nothing to sign in to.
    assert_eq!(
        served.get("/sign-in?to=/accounts/acme").header("location"),
        "/accounts/acme"
    );
    assert_eq!(served.post("/session", FORM, "token=x").status, 401);
    for headers in [
        &[("host", "evil.example")][..],
        &[("host", "127.0.0.1.evil.example")],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("x-forwarded-for", "203.0.113.9")],
        &[("x-forwarded-proto", "https")],
        &[("cf-ray", "1")],
        &[("true-client-ip", "203.0.113.9")],
        &[("via", "1.1 proxy")],
    ] {
        assert_eq!(asked(headers), is(403, "forbidden"), "{headers:?}");
        let answer = served.get_with("/v1/periods/2026-09", headers);
        assert!(answer.text.contains("reckon token key new"), "{}", answer.text);
    }

    // A key that is made now shuts the door.
    reckon(&["token", "key", "new", "--data", data]);
    until("tokens are asked for", || asked(&[]) == is(401, "unauthenticated"));
    let token = reckon(&["token", "issue", "operator", "--name", "ann", "--data", data]);
    assert_eq!(asked(&[("authorization", &bearer(token.trim()))]), is(200, ""));
}

#[test]
fn without_a_key_no_other_address_is_listened_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let data = data.to_str().expect("a path");
    reckon(&["init", "--data", data, "--partitions", "1"]);
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_reckon"))
        .args(["serve", "--data", data, "--listen", "0.0.0.0:0"])
        .output()
        .expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("reckon token key new") && said.contains("loopback"),
        "{said}"
    );
    assert!(output.stdout.is_empty(), "it never listened");
}

#[test]
fn a_browser_signs_in_reads_and_signs_out() {
    let guarded = Guarded::start();
    let served = &guarded.served;
    let token = guarded.issue(&["account", "--account", "acme"]);
    let html = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
    let form_type = ("content-type", FORM);
    let post_form = |path: &str, headers: &[(&str, &str)], form: &str| served.post_with(path, headers, form);

    // Whoever isn't signed in is shown where to.
    let sent = served.get_with("/v1/accounts/acme/usage?window=day", &[html]);
    assert_eq!(sent.status, 303);
    let place = sent.header("location").to_owned();
    assert_eq!(place, "/sign-in?to=%2Fv1%2Faccounts%2Facme%2Fusage%3Fwindow%3Dday");
    let page = served.get(&place);
    assert_eq!(page.status, 200);
    assert!(
        page.text
            .contains(r#"name="to" value="/v1/accounts/acme/usage?window=day""#),
        "{}",
        page.text
    );

    // A token that doesn't hold is said to, and what was written is not run.
    let refused = post_form("/session", &[form_type], "token=%3Cscript%3E&to=/docs/");
    assert_eq!((refused.status, refused.header("set-cookie")), (401, ""));
    assert!(
        refused.text.contains("not a JWT") && !refused.text.contains("<script>"),
        "{}",
        refused.text
    );
    let ingest = guarded.issue(&["ingest"]);
    let refused = post_form("/session", &[form_type], &format!("token={ingest}"));
    assert_eq!((refused.status, refused.header("set-cookie")), (401, ""));
    for to in ["https://evil.example", "//evil.example", "/%5Cevil.example"] {
        let answer = post_form("/session", &[form_type], &format!("token={token}&to={to}"));
        assert_eq!(outcome(&answer), is(400, "bad_parameter"), "{to}");
        assert_eq!(answer.header("set-cookie"), "");
        let page = served.get(&format!("/sign-in?to={to}"));
        assert!(page.text.contains(r#"name="to" value="""#), "{}", page.text);
    }
    let elsewhere = [form_type, ("sec-fetch-site", "cross-site")];
    let answer = post_form("/session", &elsewhere, &format!("token={token}"));
    assert_eq!(outcome(&answer), is(403, "forbidden"));

    // One that holds is exchanged for a cookie.
    let signed_in = post_form("/session", &[form_type], &format!("token={token}&to=/accounts/acme"));
    assert_eq!(
        (signed_in.status, signed_in.header("location")),
        (303, "/accounts/acme")
    );
    let cookie = signed_in.header("set-cookie").to_owned();
    let (pair, terms) = cookie.split_once("; ").expect("a cookie");
    assert!(pair.starts_with("reckon=ey"), "{pair}");
    for term in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=25"] {
        assert!(terms.contains(term), "{terms}");
    }
    assert!(!terms.contains("Secure"), "in the clear on this machine: {terms}");
    let unsaid = post_form("/session", &[form_type], &format!("token={token}"));
    assert_eq!(
        unsaid.header("location"),
        "/accounts/acme",
        "an account's token leads to its account"
    );

    // With it one reads one's own account, and writes nothing.
    let read = |path: &str| outcome(&served.get_with(path, &[("cookie", pair)]));
    assert_eq!(read("/v1/accounts/acme/usage"), is(200, ""));
    assert_eq!(read("/v1/accounts/globex/usage"), is(403, "forbidden"));
    for route in guarded_routes().filter(|r| r.method != "get") {
        let answer = guarded.call(route, "acme", &[("cookie", pair)]);
        assert_eq!(outcome(&answer), is(401, "unauthenticated"), "{}", route.path);
    }

    // Behind TLS the cookie is bound to this host and to TLS.
    let behind = [form_type, ("host", "billing.example"), ("x-forwarded-proto", "https")];
    let signed_in = post_form("/session", &behind, &format!("token={token}"));
    let secure = signed_in.header("set-cookie").to_owned();
    assert!(
        secure.starts_with("__Host-reckon=") && secure.contains("; Secure"),
        "{secure}"
    );
    let (secure_pair, _) = secure.split_once("; ").expect("a cookie");
    let from = |cookie: &str| {
        let headers = [("host", "billing.example"), ("cookie", cookie)];
        outcome(&served.get_with("/v1/accounts/acme/usage", &headers)).0
    };
    assert_eq!(from(secure_pair), 200);
    assert_eq!(from(pair), 401, "a neighbouring name could have set that one");

    let signed_out = post_form("/session/end", &[form_type, ("cookie", pair)], "");
    assert_eq!((signed_out.status, signed_out.header("location")), (303, "/sign-in"));
    assert!(
        signed_out
            .header("set-cookie")
            .starts_with("reckon=; Path=/; Max-Age=0")
    );
}

#[test]
fn answers_tell_browsers_what_not_to_do() {
    let guarded = Guarded::start();
    let operator = bearer(&guarded.issue(&["operator"]));
    for path in [
        "/v1/periods/2026-09",
        "/sign-in",
        "/docs/",
        "/openapi.json",
        "/nowhere",
        "/v1/accounts/acme/usage?format=csv",
    ] {
        let answer = guarded.served.get_with(path, &[("authorization", &operator)]);
        let policy = answer.header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        let page = answer.header("content-type").starts_with("text/html");
        assert_eq!(policy.contains("script-src 'self'"), page, "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "same-origin", "{path}");
    }
    // The documents' own scripts are files: a policy without inline scripts lets them run.
    let docs = guarded.served.get("/docs/").text;
    for script in docs.split("<script").skip(1) {
        assert!(script.split('>').next().unwrap_or_default().contains("src="), "{docs}");
    }
}

#[test]
fn the_command_says_what_it_does_and_ends_with_the_right_code() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let data = data.to_str().expect("a path");
    let run = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_reckon"))
            .arg("token")
            .args(args)
            .args(["--data", data])
            .output()
            .expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (
            output.status.code().expect("an end"),
            text(output.stdout),
            text(output.stderr),
        )
    };
    reckon(&["init", "--data", data, "--partitions", "1"]);
    let (code, _, said) = run(&["issue", "operator", "--name", "ann"]);
    assert!(code == 1 && said.contains("reckon token key new"), "{said}");
    let (code, made, _) = run(&["key", "new", "--json"]);
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let key_id = made["key_id"].as_str().expect("an id");
    assert_eq!(code, 0);
    let (code, token, said) = run(&[
        "issue", "ingest", "--name", "edge-1", "--source", "edge-*", "--for", "90d",
    ]);
    assert!(code == 0 && said.contains("edge-1") && said.contains(key_id), "{said}");
    assert_eq!(token.lines().count(), 1, "the token alone");
    let (code, shown, _) = run(&["inspect", token.trim(), "--json"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!((code, &shown["holds"]), (0, &true.into()));
    assert_eq!(shown["claims"]["sources"], json!(["edge-*"]));
    let claims = &shown["claims"];
    let life = claims["exp"]
        .as_u64()
        .zip(claims["iat"].as_u64())
        .map(|(exp, iat)| exp - iat);
    assert_eq!(life, Some(90 * 86_400));
    assert_eq!(run(&["issue", "operator", "--name", "ann", "--for", "367d"]).0, 2);
    assert_eq!(run(&["issue", "account", "--name", "ann"]).0, 2);
    let (code, said, _) = run(&["key", "retire", key_id]);
    assert!(
        code == 0 && said.contains(key_id) && said.contains("0 active keys"),
        "{said}"
    );
    let (code, listed, _) = run(&["key", "list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((code, &listed["keys"][0]["state"]), (0, &"retired".into()));
    let (code, _, said) = run(&["inspect", token.trim()]);
    assert!(code == 1 && said.contains("refused"), "{said}");
    assert_eq!(run(&["key", "retire", "unheard-of"]).0, 1);
}

#[test]
fn the_audit_trail_names_the_token_where_a_record_names_nobody() {
    let guarded = Guarded::start();
    let operator = bearer(&guarded.issue(&["operator"]));
    let auth = ("authorization", operator.as_str());
    let actor = |id: &str, actor: &str| {
        let record = json!({"control": {"id": id, "actor": actor,
            "correction": {"account_id": "acme", "call_id": "c-1", "bill": false, "reason": "a bad release"}}});
        let headers = [("content-type", "application/x-ndjson"), auth];
        let answer = guarded.served.post_with("/v1/records", &headers, record.to_string());
        assert_eq!(answer.status, 200, "{}", answer.text);
        let place = answer.json()["results"][0].clone();
        let offset = place["offset"].as_str().expect("an offset").to_owned();
        let path = format!("/v1/accounts/acme/calls/c-1?at_least={}:{offset}", place["partition"]);
        let call = guarded.served.get_with(&path, &[auth]).json();
        call["correction"]["actor"].as_str().map(str::to_owned)
    };
    assert_eq!(actor("c-1", "").as_deref(), Some("a test"));
    assert_eq!(actor("c-2", "kim@ops").as_deref(), Some("kim@ops"));
}
