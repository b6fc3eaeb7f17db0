//! `reckon token`: keys, and the tokens that they sign.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::kafka::Cluster;
use super::terminal::{Table, put, say};
use super::{CliError, Data};
use crate::http::caller::Scope;
use crate::http::gatekeeper::KEYS_READ_EVERY;
use crate::http::token::{self, BYTES_MAX, Claims, ISSUER, LEEWAY_S, LIFETIME_MAX_S, TokenError};
use crate::http::token_keys::{self, KeyEntry, KeyError, KeyFolder};
use crate::log::Log;
use crate::log::kafka::KafkaLog;
use crate::partition::host;

/// Make keys; issue, look at and revoke tokens
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  reckon token key new --data ./reckon-data
  reckon token issue ingest --data ./reckon-data --name edge-1 --source 'edge-*' --for 90d
  reckon token issue account --account acme --data ./reckon-data --name acme-dashboard
  TOKEN=$(reckon token issue operator --data ./reckon-data --name ann --for 8h)
  reckon token inspect \"$TOKEN\" --data ./reckon-data
  reckon token revoke \"$TOKEN\" --data ./reckon-data")]
pub struct Token {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    Key(Key),
    Issue(Issue),
    Inspect(Inspect),
    Revoke(Revoke),
}

/// Where the keys are.
#[derive(Debug, Args)]
struct Keys {
    #[command(flatten)]
    data: Data,

    /// Folder of the keys, if it isn't DIR/keys
    #[arg(long, value_name = "FOLDER")]
    keys: Option<PathBuf>,
}

impl Keys {
    fn folder(&self) -> KeyFolder {
        match &self.keys {
            Some(folder) => KeyFolder::new(folder.clone()),
            None => KeyFolder::of_data(&self.data.data),
        }
    }
}

/// Where the log is that a token is for, and the keys.
#[derive(Debug, Args)]
struct OfLog {
    /// Folder of the log and the stores
    #[arg(long, value_name = "DIR", required_unless_present = "kafka")]
    data: Option<PathBuf>,

    /// Folder of the keys, if it isn't DIR/keys
    #[arg(long, value_name = "FOLDER", required_unless_present = "data")]
    keys: Option<PathBuf>,

    /// Brokers of the log, if it is on Kafka
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT]")]
    kafka: Option<String>,

    /// First part of its topics' names
    #[arg(long, value_name = "PREFIX", default_value = "reckon", requires = "kafka")]
    topic_prefix: String,

    /// A librdkafka setting (TLS, SASL …); may be given several times
    #[arg(short = 'X', value_name = "NAME=VALUE", requires = "kafka")]
    properties: Vec<String>,
}

impl OfLog {
    fn folder(&self) -> Result<KeyFolder, CliError> {
        match (&self.keys, &self.data) {
            (Some(folder), _) => Ok(KeyFolder::new(folder.clone())),
            (None, Some(data)) => Ok(KeyFolder::of_data(data)),
            (None, None) => Err(CliError::Usage("say by --keys FOLDER where the keys are".to_owned())),
        }
    }

    /// The log's id: of Kafka's topics as their genesis says it, which every instance reads.
    fn log_id(&self) -> Result<String, CliError> {
        match (&self.kafka, &self.data) {
            (Some(kafka), _) => {
                let cluster = Cluster {
                    kafka: kafka.clone(),
                    topic_prefix: self.topic_prefix.clone(),
                    properties: self.properties.clone(),
                };
                let log = KafkaLog::open(&cluster.settings()?)?;
                let log_id = log.identity().log_id.clone();
                log.leave();
                Ok(log_id)
            }
            (None, Some(data)) => Ok(host::identity_beside(data)?.log_id),
            (None, None) => Err(CliError::Usage(
                "say by --data DIR or --kafka HOST:PORT where the log is".to_owned(),
            )),
        }
    }
}

/// Make, list and retire the keys that sign tokens
#[derive(Debug, Args)]
#[command(
    after_help = "Keys rotate without a restart: make a new one, issue tokens anew, retire the old one.

Examples:
  reckon token key new --data ./reckon-data
  reckon token key list --data ./reckon-data
  reckon token key retire 20261124-9f2c01ab --data ./reckon-data"
)]
struct Key {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key pair; from then on tokens are asked for
    #[command(after_help = "Example:\n  reckon token key new --data ./reckon-data")]
    New {
        #[command(flatten)]
        keys: Keys,

        /// Its id, if it isn't to be the day and a part of the key
        #[arg(long, value_name = "ID")]
        key_id: Option<String>,
    },
    /// List the keys
    #[command(after_help = "Example:\n  reckon token key list --data ./reckon-data")]
    List {
        #[command(flatten)]
        keys: Keys,
    },
    /// Put a public key aside: its tokens are refused within seconds
    #[command(after_help = "Example:\n  reckon token key retire 20261124-9f2c01ab --data ./reckon-data")]
    Retire {
        /// Its id
        key_id: String,

        #[command(flatten)]
        keys: Keys,
    },
}

/// Issue a token: it alone is printed, the rest goes to standard error
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  reckon token issue ingest --data ./reckon-data --name edge-1 --source 'edge-*' --for 90d
  reckon token issue account --account acme --data ./reckon-data --name acme-dashboard
  reckon token issue metrics --data ./reckon-data --name prometheus --for 366d
  reckon token issue operator --data ./reckon-data --name ann --for 8h
  reckon token issue operator --kafka localhost:9092 --keys ./keys --name ann --for 8h")]
struct Issue {
    #[command(subcommand)]
    scope: IssueScope,
}

#[derive(Debug, Subcommand)]
enum IssueScope {
    /// Writes events, reads nothing
    #[command(
        after_help = "Example:\n  reckon token issue ingest --data ./reckon-data --name edge-1 --source 'edge-*' --for 90d"
    )]
    Ingest {
        /// Only events of this source, or of all that begin like it if it ends in `*`; may be given several times
        #[arg(long = "source", value_name = "PREFIX*", value_parser = source)]
        sources: Vec<String>,

        #[command(flatten)]
        terms: Terms,
    },
    /// Reads one account
    #[command(
        after_help = "Example:\n  reckon token issue account --account acme --data ./reckon-data --name acme-dashboard"
    )]
    Account {
        /// Which
        #[arg(long, value_name = "ID", value_parser = given_text)]
        account: String,

        #[command(flatten)]
        terms: Terms,
    },
    /// Reads the metrics and nothing else: for Prometheus
    #[command(after_help = "Example:\n  reckon token issue metrics --data ./reckon-data --name prometheus --for 366d")]
    Metrics {
        #[command(flatten)]
        terms: Terms,
    },
    /// Reads everything, writes events and records
    #[command(
        after_help = "Examples:\n  reckon token issue operator --data ./reckon-data --name ann --for 8h\n  \
            reckon token issue operator --kafka localhost:9092 --keys ./keys --name ann --for 8h"
    )]
    Operator {
        #[command(flatten)]
        terms: Terms,
    },
}

#[derive(Debug, Args)]
struct Terms {
    #[command(flatten)]
    log: OfLog,

    /// Who holds it
    #[arg(long, value_name = "NAME", value_parser = given_text)]
    name: String,

    /// How long it holds: a number and d, h, m or s; 366d at most
    #[arg(long = "for", value_name = "TIME", default_value = "30d", value_parser = lifetime_s)]
    lifetime_s: u64,

    /// Key to sign with, if not the newest that is active
    #[arg(long, value_name = "ID")]
    key_id: Option<String>,
}

/// Decode a token, and check whether it holds
#[derive(Debug, Args)]
#[command(after_help = "Exits with 1 if the token doesn't hold.

Examples:
  reckon token inspect \"$TOKEN\" --data ./reckon-data
  reckon token inspect - --data ./reckon-data < token.txt")]
struct Inspect {
    /// The token; `-` reads it from standard input, where other users can't see it
    token: String,

    #[command(flatten)]
    log: OfLog,
}

/// Take one token back; the others of its key go on
#[derive(Debug, Args)]
#[command(
    after_help = "Every folder of keys that a service reads has a list of its own: where instances don't share one, revoke in
each.

Examples:
  reckon token revoke 9f2c01ab5d3e4f60718293a4b5c6d7e8 --data ./reckon-data
  reckon token revoke - --data ./reckon-data < token.txt"
)]
struct Revoke {
    /// The token's id, 32 hex digits, or the token; `-` reads it from standard input, where other users can't see it
    token: String,

    #[command(flatten)]
    keys: Keys,
}

/// A value that says something: a variable of the shell that isn't set leaves nothing of it.
fn given_text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("it is empty; is a variable not set?".to_owned());
    }
    Ok(text.to_owned())
}

/// A source, or the beginning of some. A `*` alone is what an unset variable leaves of `$NAME*`, and would allow every source; one
/// before the end stands for itself, which nobody means.
fn source(text: &str) -> Result<String, String> {
    let text = given_text(text)?;
    let name = text.strip_suffix('*').unwrap_or(&text);
    if name.trim().is_empty() {
        return Err(
            "it would allow every source: leave --source away if that is meant; is a variable not set?".to_owned(),
        );
    }
    if name.contains('*') {
        return Err("`*` stands at the end only, for whatever follows: edge-*".to_owned());
    }
    Ok(text)
}

/// A time such as 30d, in seconds.
fn lifetime_s(text: &str) -> Result<u64, String> {
    let units = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];
    let parsed = units.into_iter().find_map(|(unit, seconds)| {
        let number = text.strip_suffix(unit)?;
        number.parse::<u64>().ok()?.checked_mul(seconds)
    });
    match parsed {
        Some(seconds) if (1..=LIFETIME_MAX_S).contains(&seconds) => Ok(seconds),
        Some(_) => Err(format!(
            "a token lives 1 second at least, {} days at most",
            LIFETIME_MAX_S / 86_400
        )),
        None => Err("give a number and d, h, m or s, such as 30d".to_owned()),
    }
}

impl Token {
    pub(super) fn run(self, json: bool) -> Result<(), CliError> {
        match self.command {
            TokenCommand::Key(key) => key.run(json),
            TokenCommand::Issue(issue) => issue.run(json),
            TokenCommand::Inspect(inspect) => inspect.run(json),
            TokenCommand::Revoke(revoke) => revoke.run(json),
        }
    }
}

impl Key {
    fn run(self, json: bool) -> Result<(), CliError> {
        let seconds = KEYS_READ_EVERY.as_secs();
        match self.command {
            KeyCommand::New { keys, key_id } => {
                let folder = keys.folder();
                let first = folder.list()?.is_empty();
                let id = folder.make(key_id.as_deref())?;
                let path = folder.path().display();
                if json {
                    say!("{}", json!({"key_id": id, "folder": path.to_string()}))?;
                    return Ok(());
                }
                say!("made key {id} in {path}; a running service knows it within {seconds} s")?;
                if first {
                    say!("from now on the service asks for tokens: `reckon token issue` makes them")?;
                }
            }
            KeyCommand::List { keys } => {
                let entries = keys.folder().list()?;
                if json {
                    let row = |k: &KeyEntry| json!({"key_id": k.id, "state": k.state.as_str(), "can_sign": k.can_sign});
                    say!("{}", json!({"keys": entries.iter().map(row).collect::<Vec<Value>>()}))?;
                    return Ok(());
                }
                let mut table = Table::new(&["key", "state", "signs here"]);
                for key in entries {
                    let signs = if key.can_sign { "yes" } else { "no" };
                    table.row([key.id.as_str(), key.state.as_str(), signs]);
                }
                if table.is_empty() {
                    say!("no keys: the service lets everything through, and only on a loopback address")?;
                } else {
                    put(&table)?;
                }
            }
            KeyCommand::Retire { key_id, keys } => {
                let folder = keys.folder();
                folder.retire(&key_id)?;
                let left = folder.ring()?.keys.len();
                if json {
                    say!("{}", json!({"key_id": key_id, "retired": true, "active_keys": left}))?;
                    return Ok(());
                }
                say!("retired key {key_id}: its tokens are refused within {seconds} s; {left} active keys are left")?;
                if left == 0 {
                    say!("nobody can sign in now: `reckon token key new` makes a key")?;
                }
            }
        }
        Ok(())
    }
}

impl Issue {
    fn run(self, json: bool) -> Result<(), CliError> {
        let (scope, terms) = match self.scope {
            IssueScope::Ingest { sources, terms } => (Scope::Ingest { sources }, terms),
            IssueScope::Account { account, terms } => (Scope::Account { account }, terms),
            IssueScope::Metrics { terms } => (Scope::Metrics, terms),
            IssueScope::Operator { terms } => (Scope::Operator, terms),
        };
        let (key_id, key) = terms.log.folder()?.signer(terms.key_id.as_deref())?;
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(KeyError::from)?;
        let now = token::now_s();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: terms.log.log_id()?,
            sub: terms.name,
            iat: now,
            nbf: None,
            exp: now.saturating_add(terms.lifetime_s),
            jti: format!("{:032x}", u128::from_be_bytes(random)),
            scope,
        };
        let token = token::sign(&claims, &key_id, &key).map_err(|cause| CliError::Finding(cause.to_string()))?;
        if token.len() > BYTES_MAX {
            return Err(CliError::Usage(format!(
                "the token would have {} bytes, {BYTES_MAX} are the most: give fewer sources, or let them end in `*`",
                token.len()
            )));
        }
        if json {
            say!("{}", json!({"token": token, "key_id": key_id, "claims": claims}))?;
        } else {
            eprintln!(
                "a token for {:?}: {}; holds until {}; key {key_id}, token {}",
                claims.sub,
                scope_in_words(&claims.scope),
                token::time_shown(claims.exp),
                claims.jti
            );
            say!("{token}")?;
        }
        Ok(())
    }
}

fn scope_in_words(scope: &Scope) -> String {
    match scope {
        Scope::Ingest { sources } if sources.is_empty() => "writes events of any source".to_owned(),
        Scope::Ingest { sources } => format!("writes events of {}", sources.join(", ")),
        Scope::Account { account } => format!("reads account {account}"),
        Scope::Metrics => "reads the metrics".to_owned(),
        Scope::Operator => "reads and writes everything".to_owned(),
    }
}

/// A token as given, or from standard input.
fn given(token: String) -> Result<String, CliError> {
    if token != "-" {
        return Ok(token);
    }
    let mut text = String::new();
    let read = std::io::stdin().take(1 << 16).read_to_string(&mut text);
    read.map_err(|cause| CliError::File {
        path: "standard input".into(),
        cause,
    })?;
    Ok(text)
}

impl Revoke {
    fn run(self, json: bool) -> Result<(), CliError> {
        let token = given(self.token)?;
        let token = token.trim();
        // Whoever signed it: an id that no token has does no harm.
        let (token_id, note) = match token::read_unverified(token) {
            Ok((_, claims)) => {
                let note = format!("{}, until {}", claims.sub, token::time_shown(claims.exp));
                (claims.jti, note)
            }
            Err(_) => (token_keys::token_id(token)?, String::new()),
        };
        let folder = self.keys.folder();
        folder.revoke(&token_id, &note)?;
        if json {
            say!("{}", json!({"token_id": token_id, "revoked": true}))?;
        } else {
            say!(
                "revoked token {token_id}: it is refused within {} s; streams that are open with it end within five minutes",
                KEYS_READ_EVERY.as_secs()
            )?;
        }
        Ok(())
    }
}

impl Inspect {
    fn run(self, json: bool) -> Result<(), CliError> {
        let token = given(self.token)?;
        let token = token.trim();
        let ring = self.log.folder()?.ring()?;
        let log_id = self.log.log_id()?;
        let checked = token::verify(token, &ring.keys, &log_id)
            .and_then(|claims| {
                if ring.revoked.contains(&claims.jti) {
                    return Err(TokenError::Revoked(claims.jti));
                }
                Ok(claims)
            })
            .map_err(|cause| cause.to_string())
            .and_then(|claims| holds(&claims, token::now_s()));
        let read = token::read_unverified(token);
        if json {
            let (key_id, claims) = read.ok().unzip();
            let refused = checked.as_ref().err();
            say!(
                "{}",
                json!({"holds": checked.is_ok(), "refused": refused, "key_id": key_id.flatten(), "claims": claims})
            )?;
        } else if let Ok((key_id, claims)) = read {
            say!("name     {}", claims.sub)?;
            say!("scope    {}", scope_in_words(&claims.scope))?;
            say!("log      {}", claims.aud)?;
            say!("issued   {}", token::time_shown(claims.iat))?;
            say!("until    {}", token::time_shown(claims.exp))?;
            say!("key      {}", key_id.as_deref().unwrap_or("none"))?;
            say!("token    {}", claims.jti)?;
            if checked.is_ok() {
                say!("holds")?;
            }
        }
        checked.map_err(|cause| CliError::Finding(format!("refused: {cause}")))
    }
}

/// Whether a token holds at that time. Where a service still takes one that has expired, so as to get along with clocks that
/// differ, that is said: it holds no more all the same.
fn holds(claims: &Claims, now: u64) -> Result<(), String> {
    claims.hold_at(now).map_err(|cause| cause.to_string())?;
    if now < claims.exp {
        return Ok(());
    }
    Err(format!(
        "the token expired at {}; services on other machines, whose clocks may differ, accept it up to {LEEWAY_S} s longer",
        token::time_shown(claims.exp)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_unset_variable_leaves_is_refused() {
        for text in ["", " ", "*", " *", "**", "edge-*-1", "*edge"] {
            assert!(source(text).is_err(), "{text:?}");
        }
        for text in ["edge-*", "batch", "/envoy/eu1/*"] {
            assert_eq!(source(text).as_deref(), Ok(text));
        }
        assert!(given_text("").is_err() && given_text("\t").is_err());
        assert_eq!(given_text("acme").as_deref(), Ok("acme"));
    }

    #[test]
    fn a_token_holds_no_longer_than_it_says() {
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: "a-log".to_owned(),
            sub: "ann".to_owned(),
            iat: 1_000,
            nbf: None,
            exp: 2_000,
            jti: "t".to_owned(),
            scope: Scope::Operator,
        };
        assert_eq!(holds(&claims, 1_999), Ok(()));
        let late = |now| holds(&claims, now).unwrap_err();
        for now in [2_000, 2_000 + LEEWAY_S - 1] {
            assert!(
                late(now).contains("expired") && late(now).contains("up to 30 s longer"),
                "{}",
                late(now)
            );
        }
        assert!(!late(2_000 + LEEWAY_S).contains("longer"));
        assert!(holds(&claims, 1_000 - LEEWAY_S - 1).is_err());
    }

    #[test]
    fn lifetimes() {
        for (text, seconds) in [
            ("30d", 2_592_000),
            ("8h", 28_800),
            ("15m", 900),
            ("1s", 1),
            ("366d", LIFETIME_MAX_S),
        ] {
            assert_eq!(lifetime_s(text), Ok(seconds));
        }
        for text in [
            "",
            "30",
            "d",
            "0d",
            "-1d",
            "367d",
            "1.5h",
            "99999999999999999999d",
            "213503982334602d",
        ] {
            assert!(lifetime_s(text).is_err(), "{text}");
        }
    }
}
