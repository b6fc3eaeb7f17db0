//! What a service refuses, in the words of the command line: the answer's own cure is for whoever speaks HTTP.

use serde_json::Value;

use super::terminal::plain;
use crate::http::problem::Code;

/// A request that a service refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// What the service says.
    pub why: String,
    /// What to do about it here; empty if `why` says that, too.
    cure: String,
}

impl Refused {
    /// By the answer. `scope` is what a token must be good for.
    pub fn new(url: &str, status: u16, answer: &Value, scope: &str) -> Self {
        let word = |name: &str| plain(answer[name].as_str().unwrap_or_default());
        let (code, detail) = (word("code"), word("detail"));
        if code.is_empty() {
            return Self {
                why: format!("{url} answers with status {status}, and not as Reckon does"),
                cure: "give the address that `reckon serve` listens on".to_owned(),
            };
        }
        let field = match word("field") {
            field if field.is_empty() => field,
            field => format!(" in {field}"),
        };
        let known = Code::ALL.iter().find(|known| known.as_str() == code);
        Self {
            why: format!("{} ({status} {code}){field}: {detail}", word("title")),
            // A newer service's code: its own cure is all there is.
            cure: known.map_or_else(|| word("cure"), |known| cure(*known, scope)),
        }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)?;
        if self.cure.is_empty() {
            return Ok(());
        }
        write!(f, "; {}", self.cure)
    }
}

fn cure(code: Code, scope: &str) -> String {
    let words = match code {
        Code::Unauthenticated => {
            return format!(
                "give --token or RECKON_TOKEN; `reckon token issue {scope} --data DIR --name NAME` makes a token"
            );
        }
        Code::Forbidden => {
            return format!(
                "give another by --token or RECKON_TOKEN; `reckon token issue {scope} --data DIR --name NAME` makes one that may"
            );
        }
        // The detail says it all.
        Code::Conflict | Code::BadParameter | Code::BadBody | Code::NoneAccepted => "",
        Code::UnsupportedType | Code::NoRoute | Code::MethodNotAllowed => {
            "the service may be of another version: compare `reckon --version` there and here"
        }
        Code::TooLarge => "give a smaller --batch",
        Code::PartitionFailed => "the operator restarts the service, see deploy/RUNBOOK.md",
        Code::DiskLow => "make room on the service's disk, then try again",
        Code::TooBusy
        | Code::Behind
        | Code::NotServed
        | Code::OwnerSilent
        | Code::HeldUp
        | Code::LogUnavailable
        | Code::ShuttingDown
        | Code::TimedOut => "try again in a while",
        other => other.cure(),
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cures_are_the_command_lines_own() {
        for code in Code::ALL {
            let answer =
                json!({"code": code.as_str(), "title": code.title(), "detail": "the detail", "cure": code.cure()});
            let said = Refused::new("http://here", code.status().as_u16(), &answer, "operator").to_string();
            for http in ["`detail`", "`field`", "`results`", "Authorization:", "Retry-After"] {
                assert!(!said.contains(http), "{code:?}: {said}");
            }
            assert!(said.contains("the detail") && !said.ends_with("; "), "{said}");
        }
    }

    #[test]
    fn who_is_no_service_is_told_apart() {
        let said = Refused::new("http://here/v1/events", 404, &Value::Null, "ingest").to_string();
        assert!(said.contains("http://here/v1/events") && said.contains("404"), "{said}");
        let answer = json!({"code": "brand_new", "title": "New", "detail": "unheard of", "cure": "update"});
        let said = Refused::new("http://here", 400, &answer, "ingest").to_string();
        assert_eq!(said, "New (400 brand_new): unheard of; update");
    }
}
