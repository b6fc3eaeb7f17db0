//! Where settings come from, which one holds, and what is refused.

use std::path::{Path, PathBuf};

use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Metadata, Profile, Provider, Source};

use super::{Config, ConfigError};

/// What every environment variable of ours begins with.
const PREFIX: &str = "RECKON_";

/// Between section and field in an environment variable. Variables without it are of other kinds.
const BETWEEN: &str = "__";

/// Names the configuration file where no flag does.
pub const FILE_VARIABLE: &str = "RECKON_CONFIG";

/// Names the log filter where neither [`PREFIX`]'s variable nor a flag does.
const RUST_LOG: &str = "RUST_LOG";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave it.
    Default,
    /// A file.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
    /// A flag.
    Flag(String),
    /// A flag that adds to what was given before.
    Added(String, Box<Origin>),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "env {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Added(flag, to) => write!(f, "{to}, and flag {flag}"),
        }
    }
}

/// A flag that gives a setting.
#[derive(Clone, Debug)]
pub struct Flag {
    /// As on the command line.
    pub name: String,
    /// `section.field`.
    pub key: String,
    /// As given.
    pub value: Value,
}

impl Flag {
    /// A flag's value as text; numbers and booleans are found in it as in an environment variable.
    pub fn new(name: &str, key: &str, value: &str) -> Self {
        Self {
            name: name.to_owned(),
            key: key.to_owned(),
            // What can't be read as anything else is text.
            value: value.parse().unwrap_or_else(|_| Value::from(value)),
        }
    }

    /// A flag's value that is text, whatever it looks like.
    pub fn text(name: &str, key: &str, value: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            key: key.to_owned(),
            value: Value::from(value.into()),
        }
    }
}

impl Provider for Flag {
    fn metadata(&self) -> Metadata {
        Metadata::from(self.name.clone(), Source::Custom(self.name.clone()))
    }

    fn data(&self) -> Result<figment::value::Map<Profile, Dict>, figment::Error> {
        let nested = figment::util::nest(&self.key, self.value.clone());
        match nested {
            Value::Dict(_, dict) => Ok(figment::value::Map::from([(Profile::Default, dict)])),
            _ => Err(figment::Error::from(format!("{:?} is not SECTION.FIELD", self.key))),
        }
    }
}

/// One setting that holds.
#[derive(Clone, Debug)]
pub struct Setting {
    /// `section.field`.
    pub key: String,
    /// Its value.
    pub value: serde_json::Value,
    /// Who gave it.
    pub origin: Origin,
}

/// Parts of names of librdkafka's settings whose values are nobody's business.
const SECRET: [&str; 6] = ["password", "secret", "pem", "key", "token", "oauthbearer"];

/// What stands for a secret.
const HIDDEN: &str = "***";

impl Setting {
    /// Its value as it may be shown: of `NAME=VALUE` only the name, if the value is a secret.
    pub fn shown(&self) -> serde_json::Value {
        let hidden = |value: &serde_json::Value| {
            let Some(text) = value.as_str().filter(|_| self.key == PROPERTIES) else {
                return value.clone();
            };
            let (name, has_value) = text.split_once('=').map_or((text, false), |(name, _)| (name, true));
            let is_secret = SECRET.iter().any(|part| name.to_ascii_lowercase().contains(part));
            match (is_secret, has_value) {
                (true, true) => format!("{name}={HIDDEN}").into(),
                // It may be a value that has lost its name.
                (_, false) => HIDDEN.into(),
                (false, true) => value.clone(),
            }
        };
        match &self.value {
            serde_json::Value::Array(all) => all.iter().map(hidden).collect(),
            value => hidden(value),
        }
    }
}

/// Where the service listens.
const ADDRESS: &str = "listen.address";

/// librdkafka's settings.
const PROPERTIES: &str = "kafka.properties";

/// The configuration that holds, and where it came from.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The values.
    pub config: Config,
    /// Every key, sorted.
    pub settings: Vec<Setting>,
}

impl Effective {
    /// With more of librdkafka's settings, by a flag that adds to the others.
    pub fn add_properties(&mut self, flag: &str, more: &[String]) {
        if more.is_empty() {
            return;
        }
        let all = &mut self.config.kafka.properties;
        all.extend_from_slice(more);
        for setting in self.settings.iter_mut().filter(|s| s.key == PROPERTIES) {
            setting.value = all.clone().into();
            let before = std::mem::replace(&mut setting.origin, Origin::Flag(flag.to_owned()));
            if before != Origin::Default {
                setting.origin = Origin::Added(flag.to_owned(), Box::new(before));
            }
        }
    }
}

/// Puts together defaults, the file, the environment and flags.
pub fn load(file: Option<&Path>, flags: &[Flag]) -> Result<Effective, ConfigError> {
    let file = file.map(Path::to_owned).or_else(|| {
        std::env::var_os(FILE_VARIABLE)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    });
    let mut layers = Figment::from(Serialized::defaults(Config::default()));
    if let Some(path) = &file {
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::File {
            path: path.clone(),
            cause,
        })?;
        layers = layers.merge(File {
            path: path.clone(),
            text,
        });
    }
    layers = layers
        .merge(Env::raw().only(&[RUST_LOG]).map(|_| "telemetry.log_filter".into()))
        .merge(
            Env::prefixed(PREFIX)
                .filter(|key| key.as_str().contains(BETWEEN))
                .split(BETWEEN),
        );
    for flag in flags {
        layers = layers.merge(flag.clone());
    }
    let given: Dict = layers.extract().map_err(|cause| explain(cause, &layers))?;
    let known = keys();
    for (key, value) in flat(&given) {
        if !known.contains(&key) {
            return Err(ConfigError::UnknownKey {
                nearest: nearest(&key, &known),
                origin: origin(&layers, &key, value).to_string(),
                key,
            });
        }
    }
    let config: Config = layers.extract().map_err(|cause| explain(cause, &layers))?;
    if let Some((key, what)) = config.misfit() {
        let value = layers.find_value(key).map_err(|cause| explain(cause, &layers))?;
        return Err(ConfigError::BadValue {
            key: key.to_owned(),
            origin: origin(&layers, key, &value).to_string(),
            what,
        });
    }
    let mut settings = Vec::new();
    for key in known {
        let value = layers.find_value(&key).map_err(|cause| explain(cause, &layers))?;
        settings.push(Setting {
            origin: origin(&layers, &key, &value),
            value: serde_json::to_value(&value).map_err(|cause| ConfigError::Form(cause.to_string()))?,
            key,
        });
    }
    Ok(Effective { config, settings })
}

/// A configuration file whose text is at hand.
struct File {
    path: PathBuf,
    text: String,
}

impl Provider for File {
    fn metadata(&self) -> Metadata {
        Metadata::from("file", self.path.as_path())
    }

    fn data(&self) -> Result<figment::value::Map<Profile, Dict>, figment::Error> {
        Toml::string(&self.text).data()
    }
}

/// Every key, sorted.
pub fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    let Ok(serde_json::Value::Object(sections)) = serde_json::to_value(Config::default()) else {
        return keys;
    };
    for (section, fields) in &sections {
        for field in fields.as_object().into_iter().flat_map(serde_json::Map::keys) {
            keys.push(format!("{section}.{field}"));
        }
    }
    keys
}

/// What was given, by `section.field`; a section that isn't one, and what lies deeper, as it is.
fn flat(given: &Dict) -> Vec<(String, &Value)> {
    let mut all = Vec::new();
    for (section, value) in given {
        match value.as_dict() {
            Some(fields) => all.extend(
                fields
                    .iter()
                    .map(|(field, value)| (format!("{section}.{field}"), value)),
            ),
            None => all.push((section.clone(), value)),
        }
    }
    all
}

fn origin(layers: &Figment, key: &str, value: &Value) -> Origin {
    let Some(metadata) = layers.get_metadata(value.tag()) else {
        return Origin::Default;
    };
    match &metadata.source {
        Some(Source::File(path)) => Origin::File(path.clone()),
        Some(Source::Custom(flag)) => Origin::Flag(flag.clone()),
        _ if metadata.name.contains(PREFIX) => Origin::Environment(variable(key)),
        _ if metadata.name.contains("environment") => Origin::Environment(RUST_LOG.to_owned()),
        _ => Origin::Default,
    }
}

/// The environment variable of a key.
fn variable(key: &str) -> String {
    let (section, field) = key.split_once('.').unwrap_or((key, ""));
    format!("{PREFIX}{section}{BETWEEN}{field}").to_uppercase()
}

/// An environment variable that gives no setting, though its name looks as if it were meant to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stray {
    /// As it is.
    pub name: String,
    /// The variable that it seems to be meant for.
    pub meant: String,
}

impl std::fmt::Display for Stray {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the environment variable {} gives no setting and is left out; did you mean {}? Section and field have two \
             underscores between them",
            self.name, self.meant
        )
    }
}

/// Flags of a name of their own, which variables are likely to be named after.
const NAMED_LIKE_FLAGS: [(&str, &str); 6] = [
    ("data", "data.path"),
    ("listen", "listen.address"),
    ("kafka", "kafka.bootstrap"),
    ("topic_prefix", "kafka.topic_prefix"),
    ("instance", "kafka.instance"),
    ("advertise", "kafka.advertise"),
];

/// Slips of the finger that a name may have and still be known for what it is.
const SLIPS_MAX: usize = 2;

/// Those variables that are strays. Only what is very like a setting's name: others have variables that begin like ours, too
/// (Kubernetes gives every container of a service named `reckon` a `RECKON_SERVICE_HOST`).
pub fn strays(names: impl IntoIterator<Item = String>) -> Vec<Stray> {
    let known = keys();
    let meant = |name: &str| {
        let upper = name.to_uppercase();
        let rest = upper.strip_prefix(PREFIX)?.to_lowercase();
        // One with two underscores is a setting, or refused.
        if rest.contains(BETWEEN) {
            return None;
        }
        if let Some((_, key)) = NAMED_LIKE_FLAGS.iter().find(|(flag, _)| *flag == rest) {
            return Some(variable(key));
        }
        let slips = |key: &&String| strsim::damerau_levenshtein(&rest, &key.replace('.', "_"));
        let key = known.iter().min_by_key(slips)?;
        (slips(&key) <= SLIPS_MAX).then(|| variable(key))
    };
    let strays = names.into_iter().filter_map(|name| {
        let meant = meant(&name)?;
        Some(Stray { name, meant })
    });
    strays.collect()
}

fn nearest(key: &str, known: &[String]) -> Option<String> {
    let field = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |name: &String| {
        let whole = strsim::jaro_winkler(key, name);
        // A field in the wrong section is the likeliest slip of all.
        whole.max(strsim::jaro_winkler(&field(key), &field(name)))
    };
    let best = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.7).then(|| best.clone())
}

/// The first of figment's errors, with the key and whoever gave the value.
fn explain(cause: figment::Error, layers: &Figment) -> ConfigError {
    let key = cause.path.join(".");
    if key.is_empty() {
        return ConfigError::Form(cause.to_string());
    }
    let value = layers.find_value(&key).ok();
    let from = value
        .as_ref()
        .map_or(Origin::Default, |value| origin(layers, &key, value));
    let what = match key.as_str() {
        // What the parser says of it names neither the value nor the cure.
        ADDRESS => {
            let found = value
                .and_then(|value| serde_json::to_value(value).ok())
                .unwrap_or_default();
            format!("{found} is no address to listen on; give an IP address and port, such as 127.0.0.1:7070")
        }
        _ => cause.kind.to_string(),
    };
    ConfigError::BadValue {
        key,
        origin: from.to_string(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(name: &str) -> Option<String> {
        strays([name.to_owned()]).pop().map(|stray| stray.meant)
    }

    #[test]
    fn variables_that_miss_a_setting_by_little_are_strays() {
        for (name, wanted) in [
            ("RECKON_LISTEN_ADDRESS", "RECKON_LISTEN__ADDRESS"),
            ("RECKON_LISTEN_ADRESS", "RECKON_LISTEN__ADDRESS"),
            ("RECKON_DATA_PATH", "RECKON_DATA__PATH"),
            ("RECKON_DATA", "RECKON_DATA__PATH"),
            ("RECKON_KAFKA", "RECKON_KAFKA__BOOTSTRAP"),
            ("RECKON_KAFKA_BOOTSTRAP", "RECKON_KAFKA__BOOTSTRAP"),
            ("RECKON_KAFKA_TOPICPREFIX", "RECKON_KAFKA__TOPIC_PREFIX"),
            ("RECKON_TELEMETRY_LOG_FILTER", "RECKON_TELEMETRY__LOG_FILTER"),
            ("reckon_fold_commit_ms", "RECKON_FOLD__COMMIT_MS"),
        ] {
            assert_eq!(meant(name).as_deref(), Some(wanted), "{name}");
        }
        for key in keys() {
            let flat = format!("{PREFIX}{}", key.replace('.', "_").to_uppercase());
            assert_eq!(meant(&flat), Some(variable(&key)), "{flat}");
        }
    }

    #[test]
    fn other_peoples_variables_are_none() {
        for name in [
            "RECKON_LISTEN__ADDRESS",
            "RECKON_CONFIG",
            "RECKON_TOKEN",
            "RECKON_KILLS",
            "RECKON_BLESS",
            "RECKON_KAFKA_JVM",
            "RECKON_KAFKA_READY_S",
            "RECKON_REQUIRE_TRACES",
            "RECKON_SERVICE_HOST",
            "RECKON_SERVICE_PORT",
            "RECKON_PORT",
            "RECKON_PORT_7070_TCP_ADDR",
            "LISTEN_ADDRESS",
            "PATH",
        ] {
            assert_eq!(meant(name), None, "{name}");
        }
    }
}
