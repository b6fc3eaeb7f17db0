//! Who has to be allowed what on a cluster with an authorizer.

use super::settings::KafkaSettings;
use crate::machine::output::Topic;

/// What each role must be allowed, to be set with Kafka's own tool.
pub fn acls(settings: &KafkaSettings) -> Vec<String> {
    let (prefix, group) = (&settings.prefix, settings.group());
    let all = format!("--topic {prefix}. --resource-pattern-type prefixed");
    let allow = |who: &str, operations: &[&str], on: &str| {
        let operations: Vec<String> = operations.iter().map(|o| format!("--operation {o}")).collect();
        format!("--add --allow-principal User:{who} {} {on}", operations.join(" "))
    };
    let topic = |name: &str| format!("--topic {name}");
    let (events, rejects) = (topic(&settings.events()), topic(&settings.output(Topic::Rejects)));
    let control = format!("--transactional-id {}", settings.control_transactions());
    let transactions = format!("--transactional-id {prefix}- --resource-pattern-type prefixed");
    let mut lines = vec![
        allow("GATEWAY", &["Write", "Describe"], &events),
        allow("RECKON", &["Read", "Write", "Describe", "DescribeConfigs"], &all),
        allow("RECKON", &["Read", "Describe"], &format!("--group {group}")),
        allow("RECKON", &["Write", "Describe"], &transactions),
        allow("RECKON", &["IdempotentWrite"], "--cluster"),
        // Makes topics, and looks at all of them before it writes; what it publishes goes into the input alone.
        allow("OPERATOR", &["Create", "Describe", "DescribeConfigs"], &all),
        allow("OPERATOR", &["Read", "Write"], &events),
        allow("OPERATOR", &["Read"], &rejects),
        allow("OPERATOR", &["Write", "Describe"], &control),
    ];
    for output in [Topic::Statements, Topic::Alerts, Topic::Rejects] {
        let output = topic(&settings.output(output));
        lines.push(allow("INVOICING", &["Read", "Describe"], &output));
    }
    lines.push(allow("INVOICING", &["Read"], "--group invoicing"));
    lines
}
