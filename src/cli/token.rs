//! `reckon token`: keys, and the tokens that they sign.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::kafka::Cluster;
use super::terminal::Table;
use super::{CliError, Data};
use crate::http::caller::Scope;
use crate::http::gatekeeper::KEYS_READ_EVERY;
use crate::http::token::{self, BYTES_MAX, Claims, ISSUER, LIFETIME_MAX_S, TokenError};
use crate::http::token_keys::KeyFolder;
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
    New {
        #[command(flatten)]
        keys: Keys,

        /// Its id, if it isn't to be the day and a part of the key
        #[arg(long, value_name = "ID")]
        key_id: Option<String>,
    },
    /// List the keys
    List {
        #[command(flatten)]
        keys: Keys,
    },
    /// Put a public key aside: its tokens are refused within seconds
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
    Ingest {
        /// Only events of this source, or of all that begin like it if it ends in `*`; may be given several times
        #[arg(long = "source", value_name = "PREFIX*")]
        sources: Vec<String>,

        #[command(flatten)]
        terms: Terms,
    },
    /// Reads one account
    Account {
        /// Which
        #[arg(long, value_name = "ID")]
        account: String,

        #[command(flatten)]
        terms: Terms,
    },
    /// Reads the metrics and nothing else: for Prometheus
    Metrics {
        #[command(flatten)]
        terms: Terms,
    },
    /// Reads everything, writes events and records
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
    #[arg(long, value_name = "NAME")]
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
    /// The token's id, or the token; `-` reads it from standard input, where other users can't see it
    token: String,

    #[command(flatten)]
    keys: Keys,
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
                    println!("{}", json!({"key_id": id, "folder": path.to_string()}));
                    return Ok(());
                }
                println!("made key {id} in {path}; a running service knows it within {seconds} s");
                if first {
                    println!("from now on the service asks for tokens: `reckon token issue` makes them");
                }
            }
            KeyCommand::List { keys } => {
                let entries = keys.folder().list()?;
                if json {
                    let row = |k: &crate::http::token_keys::KeyEntry| json!({"key_id": k.id, "state": k.state.as_str(), "can_sign": k.can_sign});
                    println!("{}", json!({"keys": entries.iter().map(row).collect::<Vec<Value>>()}));
                    return Ok(());
                }
                let mut table = Table::new(&["key", "state", "signs here"]);
                for key in entries {
                    let signs = if key.can_sign { "yes" } else { "no" };
                    table.row([key.id.as_str(), key.state.as_str(), signs]);
                }
                if table.is_empty() {
                    println!("no keys: the service lets everything through, and only on a loopback address");
                } else {
                    print!("{table}");
                }
            }
            KeyCommand::Retire { key_id, keys } => {
                let folder = keys.folder();
                folder.retire(&key_id)?;
                let left = folder.ring()?.keys.len();
                if json {
                    println!("{}", json!({"key_id": key_id, "retired": true, "active_keys": left}));
                    return Ok(());
                }
                println!(
                    "retired key {key_id}: its tokens are refused within {seconds} s; {left} active keys are left"
                );
                if left == 0 {
                    println!("nobody can sign in now: `reckon token key new` makes a key");
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
        getrandom::fill(&mut random).map_err(crate::http::token_keys::KeyError::from)?;
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
            println!("{}", json!({"token": token, "key_id": key_id, "claims": claims}));
        } else {
            eprintln!(
                "a token for {:?}: {}; holds until {}; key {key_id}, token {}",
                claims.sub,
                scope_in_words(&claims.scope),
                token::time_shown(claims.exp),
                claims.jti
            );
            println!("{token}");
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
fn given(token: String) -> std::io::Result<String> {
    if token != "-" {
        return Ok(token);
    }
    let mut text = String::new();
    std::io::stdin().take(1 << 16).read_to_string(&mut text)?;
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
            Err(_) => (token.to_owned(), String::new()),
        };
        let folder = self.keys.folder();
        folder.revoke(&token_id, &note)?;
        if json {
            println!("{}", json!({"token_id": token_id, "revoked": true}));
        } else {
            println!(
                "revoked token {token_id}: it is refused within {} s; streams that are open with it end within five minutes",
                KEYS_READ_EVERY.as_secs()
            );
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
        let checked = token::verify(token, &ring.keys, &log_id).and_then(|claims| {
            claims.hold_at(token::now_s())?;
            if ring.revoked.contains(&claims.jti) {
                return Err(TokenError::Revoked(claims.jti));
            }
            Ok(())
        });
        let read = token::read_unverified(token);
        if json {
            let (key_id, claims) = read.ok().unzip();
            let refused = checked.as_ref().err().map(ToString::to_string);
            println!(
                "{}",
                json!({"holds": checked.is_ok(), "refused": refused, "key_id": key_id.flatten(), "claims": claims})
            );
        } else if let Ok((key_id, claims)) = read {
            println!("name     {}", claims.sub);
            println!("scope    {}", scope_in_words(&claims.scope));
            println!("log      {}", claims.aud);
            println!("issued   {}", token::time_shown(claims.iat));
            println!("until    {}", token::time_shown(claims.exp));
            println!("key      {}", key_id.as_deref().unwrap_or("none"));
            println!("token    {}", claims.jti);
            if checked.is_ok() {
                println!("holds");
            }
        }
        checked.map_err(|cause| CliError::Finding(format!("refused: {cause}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
