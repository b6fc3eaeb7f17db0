//! Those who watch share what is computed, and leave nothing behind.

use std::sync::Arc;
use std::time::Duration;

use reckon::http::watchers::{Form, Pace, Watch, Watchers};
use reckon::log::local::wall_clock;
use reckon::log::{Identity, NewRecord};
use reckon::machine::clock::Source;
use reckon::partition::account::UsageQuery;
use reckon::partition::running::Running;
use reckon::partition::{Settings, host};
use reckon::store::rocks::Budget;
use reckon::wire::record::Kind;
use serde_json::json;

fn running(data: &std::path::Path) -> Arc<Running> {
    let identity = Identity {
        log_id: "watched".to_owned(),
        partition_count: 1,
        source: Source::Append,
    };
    drop(host::create_log(data, &identity, wall_clock()).expect("a log"));
    Running::start(data, &Budget::default(), &Settings::default()).expect("it runs")
}

async fn call(running: &Running, account: &str, id: &str) -> u64 {
    let now = chrono::Utc::now().to_rfc3339();
    let event = json!({"account_id": account, "call_id": id, "phase": "ended", "occurred_at": now,
        "end": {"cause": "completed"}});
    let record = NewRecord::new(Kind::Event, event.to_string().into_bytes());
    let receipts = running.log.append(0, vec![record]).expect("appended");
    let mut standing = running.partitions[0].watch();
    standing
        .wait_for(|s| s.next_offset > receipts[0].offset)
        .await
        .expect("folded");
    receipts[0].offset
}

fn watch(watchers: &Watchers, running: &Running, account: &str) -> Watch {
    watch_from(watchers, running, account, None)
}

fn watch_from(watchers: &Watchers, running: &Running, account: &str, seen: Option<u64>) -> Watch {
    let form = Form::Usage(UsageQuery::default());
    watchers
        .watch(&running.partitions[0], account, form, seen)
        .expect("a partition")
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_watch_an_account_are_given_one_computation() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = running(folder.path());
    call(&running, "acme", "c-1").await;
    call(&running, "umbrella", "c-1").await;
    let watchers = Watchers::new(&running);
    let (mut one, mut two) = (watch(&watchers, &running, "acme"), watch(&watchers, &running, "acme"));
    let mut other = watch(&watchers, &running, "umbrella");
    let first = one.next().await.expect("totals");
    assert!(Arc::ptr_eq(&first, &two.next().await.expect("totals")), "computed once");
    other.next().await.expect("totals");
    let mut late = watch(&watchers, &running, "acme");
    assert!(
        Arc::ptr_eq(&first, &late.next().await.expect("totals")),
        "not again for a newcomer"
    );

    call(&running, "acme", "c-2").await;
    let second = one.next().await.expect("totals");
    assert!(second.standing.next_offset > first.standing.next_offset);
    assert!(Arc::ptr_eq(&second, &two.next().await.expect("totals")));
    let nothing = tokio::time::timeout(Duration::from_millis(600), other.next()).await;
    assert!(nothing.is_err(), "nothing has changed for umbrella");
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_leave_free_what_was_kept_for_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = running(folder.path());
    call(&running, "acme", "c-1").await;
    let watchers = Watchers::new(&running);
    for _ in 0..3 {
        let (mut one, two) = (watch(&watchers, &running, "acme"), watch(&watchers, &running, "acme"));
        assert_eq!(watchers.watched(), 1);
        one.next().await.expect("totals, also after everybody had left");
        drop(one);
        assert_eq!(watchers.watched(), 1, "somebody still watches");
        drop(two);
        assert_eq!(watchers.watched(), 0);
    }
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_new_waits_for_no_round() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = running(folder.path());
    call(&running, "acme", "c-1").await;
    call(&running, "umbrella", "c-1").await;
    let pace = Pace {
        every: Duration::from_secs(3_600),
        ..Pace::default()
    };
    let watchers = Watchers::paced(&running, pace);
    let mut one = watch(&watchers, &running, "acme");
    one.next().await.expect("totals");
    // The first round may come after it; from then on there is none for an hour.
    call(&running, "acme", "c-2").await;
    let _ = tokio::time::timeout(Duration::from_millis(300), one.next()).await;
    call(&running, "acme", "c-3").await;
    let mut other = watch(&watchers, &running, "umbrella");
    let first = tokio::time::timeout(Duration::from_secs(20), other.next()).await;
    first.expect("at once").expect("totals");
    let nothing = tokio::time::timeout(Duration::from_millis(300), one.next()).await;
    assert!(nothing.is_err(), "no round has come");
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn totals_that_have_what_was_seen_come_also_when_nothing_has_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = running(folder.path());
    call(&running, "acme", "c-1").await;
    let watchers = Watchers::new(&running);
    let mut one = watch(&watchers, &running, "acme");
    let first = one.next().await.expect("totals");
    // A copy, and another account's: acme's totals are what they were.
    call(&running, "umbrella", "c-1").await;
    let copy = call(&running, "acme", "c-1").await;
    assert!(first.standing.next_offset <= copy);
    let mut later = watch_from(&watchers, &running, "acme", Some(copy));
    let mut standing = 0;
    while standing <= copy {
        let totals = tokio::time::timeout(Duration::from_secs(20), later.next()).await;
        standing = totals.expect("it comes").expect("totals").standing.next_offset;
    }
    // One that isn't folded yet is waited for.
    let mut ahead = watch_from(&watchers, &running, "acme", Some(standing));
    let copy = call(&running, "acme", "c-1").await;
    let mut standing = 0;
    while standing <= copy {
        let totals = tokio::time::timeout(Duration::from_secs(20), ahead.next()).await;
        standing = totals.expect("it comes").expect("totals").standing.next_offset;
    }
    running.stop();
}
