//! Reads beside the fold: whatever is committed, retired or flushed meanwhile, an answer is that of the record it names.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use reckon::log::memory::MemoryLog;
use reckon::log::{Identity, Log, NewRecord};
use reckon::machine::clock::Source;
use reckon::model::period::{Month, rfc3339};
use reckon::partition::Settings;
use reckon::partition::account::{Usage, UsageQuery, Window};
use reckon::partition::live::{Live, Stop};
use reckon::partition::taken::{Asked, Taken};
use reckon::partition::worker::Partition;
use reckon::store::rocks::Budget;
use reckon::wire::record::Kind;
use reckon::workload::seed::Seed;
use serde_json::json;

/// 2026-09-25T00:00:00Z.
const NOW: i64 = 1_790_294_400_000;
const DAY: i64 = 86_400_000;

struct Served {
    live: Arc<Live>,
    log: Arc<MemoryLog>,
    stop: Stop,
    _folder: tempfile::TempDir,
}

impl Served {
    fn new(settings: Settings) -> Self {
        let identity = Identity {
            log_id: "read".to_owned(),
            partition_count: 1,
            source: Source::Append,
        };
        let log = Arc::new(MemoryLog::new(identity, NOW));
        let folder = tempfile::tempdir().expect("a folder");
        let as_log = Arc::clone(&log) as Arc<dyn Log>;
        let budget = Budget::new(1 << 20, 64 << 20);
        let partition = Partition::open(Arc::clone(&as_log), 0, folder.path(), &budget, settings).expect("opened");
        let live = Arc::new(Live::new(0, as_log));
        live.serve(partition).expect("served");
        Self {
            live,
            log,
            stop: Stop::default(),
            _folder: folder,
        }
    }

    /// A call that is charged one output token.
    fn call(&self, id: &str, product: &str, at: i64) -> u64 {
        let event = json!({"account_id": "acme", "call_id": id, "phase": "ended", "occurred_at": rfc3339(at),
            "product": product, "end": {"cause": "completed"}, "usage": [{"meter": "output_tokens", "value": 1}]});
        let record = NewRecord::new(Kind::Event, event.to_string().into_bytes());
        self.log.append(0, vec![record]).expect("appended")[0].offset
    }

    /// Folds while `work` goes on.
    fn folding<T>(&self, work: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            let fold = scope.spawn(|| self.live.fold(&self.stop));
            let done = work();
            self.stop.set();
            fold.join().expect("folded").expect("folded");
            done
        })
    }

    fn wait_for(&self, offset: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let mut standing = self.live.watch();
        let folded = standing.wait_for(|s| s.next_offset > offset);
        runtime.expect("a runtime").block_on(folded).expect("folded");
    }
}

fn days() -> UsageQuery {
    UsageQuery {
        months: Some((Month::MIN, Month(u32::MAX))),
        window: Window::Day,
        by_product: true,
        ..UsageQuery::default()
    }
}

fn tokens(usage: &Usage) -> i128 {
    let of_tokens = usage.sums.iter().filter(|(of, _)| of.meter == "output_tokens");
    of_tokens.map(|(_, sum)| sum.quantity.0 / 1_000_000_000).sum()
}

/// Every record but the genesis is a call with one token.
fn check(usage: &Usage) {
    assert_eq!(tokens(usage), i128::from(usage.standing.next_offset) - 1, "{usage:?}");
    assert_eq!(usage.calls.values().sum::<i64>(), usage.standing.next_offset as i64 - 1);
}

#[test]
fn an_answer_has_all_of_the_records_that_it_names_and_nothing_more() {
    let served = Served::new(Settings {
        commit_events: 5,
        commit_ms: 1,
        flush_bytes: 1,
        ..Settings::default()
    });
    // The account and its months are there before anybody asks.
    let first = served.call("first", "m-0", NOW);
    let (done, at_once, asked) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    served.folding(|| {
        served.wait_for(first);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let usage = served.live.usage("acme", &days()).expect("read");
                        check(&usage.expect("it is known"));
                    }
                });
            }
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async {
                    while !done.load(Ordering::Relaxed) {
                        let take =
                            |look: &reckon::partition::live::Look<'_>| Taken::of(look, "acme", &Asked::Usage(days()));
                        let taken = served.live.ask(take).await.expect("asked").expect("it is known");
                        asked.fetch_add(1, Ordering::Relaxed);
                        if let Some(usage) = served.live.usage_at_once(&taken, &days()) {
                            at_once.fetch_add(1, Ordering::Relaxed);
                            check(&usage);
                        }
                    }
                });
            });
            let mut draw = Seed::new(3);
            let mut last = 0;
            for n in 0..3_000 {
                // Most go to other days than the latest one: their buckets come and go with each commit.
                let at = NOW - draw.below(24) as i64 * DAY;
                last = served.call(&format!("c-{n}"), ["m-0", "m-1", "m-2"][n % 3], at);
            }
            served.wait_for(last);
            done.store(true, Ordering::Relaxed);
        });
        let usage = served.live.usage("acme", &days()).expect("read").expect("known");
        assert_eq!(tokens(&usage), 3_001);
    });
    assert!(asked.into_inner() > 0 && at_once.into_inner() > 0);
}

#[test]
fn the_fold_goes_on_while_an_answer_is_summed() {
    let served = Served::new(Settings {
        commit_events: 1,
        ..Settings::default()
    });
    let first = served.call("c-1", "m-0", NOW);
    served.folding(|| {
        served.wait_for(first);
        let asked = Asked::Usage(days());
        let summed = served.live.with_account("acme", &asked, |taken, rows| {
            // However long summing takes: the next record is folded and committed meanwhile.
            let second = served.call("c-2", "m-0", NOW);
            served.wait_for(second);
            served.live.usage_of(taken, rows, &days())
        });
        let usage = summed.expect("read").expect("it is known");
        check(&usage);
        assert_eq!(tokens(&usage), 1, "as of the record at which it was taken");
    });
}

#[test]
fn pages_put_together_are_the_whole() {
    let served = Served::new(Settings {
        commit_events: 40,
        ..Settings::default()
    });
    let mut draw = Seed::new(5);
    let mut last = 0;
    for n in 0..300 {
        let at = NOW - draw.below(50) as i64 * DAY / 2;
        last = served.call(&format!("c-{n}"), &format!("m-{}", draw.below(9)), at);
    }
    served.folding(|| {
        served.wait_for(last);
        for window in [Window::Day, Window::Month, Window::Hour] {
            let all = UsageQuery { window, ..days() };
            let whole = served.live.usage("acme", &all).expect("read").expect("known");
            assert!(whole.next.is_none() && whole.sums.len() > 12);
            for limit in [1, 7, 12, whole.sums.len(), 10_000] {
                let mut query = UsageQuery {
                    limit: Some(limit),
                    ..all.clone()
                };
                let (mut sums, mut calls, mut pages) = (Vec::new(), Vec::new(), 0);
                loop {
                    let page = served.live.usage("acme", &query).expect("read").expect("known");
                    assert!(page.sums.len() <= limit);
                    sums.extend(page.sums);
                    calls.extend(page.calls);
                    pages += 1;
                    // As a client gives it back.
                    query.after = page
                        .next
                        .map(|next| Box::new(next.to_string().parse().expect("a cursor")));
                    if query.after.is_none() {
                        break;
                    }
                }
                assert_eq!(pages, whole.sums.len().div_ceil(limit), "{window:?} by {limit}");
                assert_eq!(sums, whole.sums.clone().into_iter().collect::<Vec<_>>());
                assert_eq!(calls, whole.calls.clone().into_iter().collect::<Vec<_>>());
            }
        }
    });
}
