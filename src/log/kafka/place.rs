//! Where a log physically is: the ids of cluster and topics, which tell them from others of the same names.

use std::time::Duration;

use rdkafka::client::{Client, ClientContext};

use super::settings::KafkaSettings;
use super::{broker, ffi, topics};
use crate::log::LogError;

/// What tells a cluster and topics from others of the same names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    pub(super) cluster: String,
    /// By the order in which they were asked for.
    pub(super) topics: Vec<String>,
}

/// Asks for the ids of the cluster and of topics.
pub(super) fn ids<C: ClientContext>(client: &Client<C>, names: &[&str], timeout: Duration) -> Result<Ids, LogError> {
    let found = ffi::topic_ids(client, names, timeout).map_err(|cause| broker("asking for the topics' ids", cause))?;
    // The answer to that has told it.
    let cluster = client.fetch_cluster_id(timeout);
    whole(cluster, names, found)
}

/// An id that nobody has told is unknown, not empty: nothing is to be compared with it, and nothing named by it.
fn whole(cluster: Option<String>, names: &[&str], found: Vec<Option<String>>) -> Result<Ids, LogError> {
    let known = |id: Option<String>| id.filter(|id| !id.is_empty());
    let untold = |what: &str| broker(&format!("asking for the id of {what}"), "it wasn't told");
    let cluster = known(cluster).ok_or_else(|| untold("the cluster"))?;
    let topics = names.iter().zip(found);
    let topics: Result<Vec<String>, LogError> =
        topics.map(|(name, id)| known(id).ok_or_else(|| untold(name))).collect();
    Ok(Ids {
        cluster,
        topics: topics?,
    })
}

/// Cluster and topics by their ids: another place has another text.
pub(super) fn place<C: ClientContext>(
    client: &Client<C>,
    settings: &KafkaSettings,
    timeout: Duration,
) -> Result<String, LogError> {
    let names = topics::names(settings);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let ids = ids(client, &names, timeout)?;
    Ok(format!(
        "cluster {}, topics {} {}",
        ids.cluster,
        settings.prefix,
        ids.topics.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_was_not_told_is_an_interruption_and_not_an_empty_one() {
        let (names, id) = (["a", "b"], |text: &str| Some(text.to_owned()));
        let good = whole(id("c"), &names, vec![id("1"), id("2")]);
        assert_eq!(good.map(|ids| ids.topics.join(" ")).ok().as_deref(), Some("1 2"));
        for (cluster, topics) in [
            (None, vec![id("1"), id("2")]),
            (id(""), vec![id("1"), id("2")]),
            (id("c"), vec![id("1"), None]),
            (id("c"), vec![id(""), id("2")]),
        ] {
            let cause = whole(cluster, &names, topics).expect_err("not told");
            assert!(cause.is_interruption(), "{cause}");
        }
    }
}
