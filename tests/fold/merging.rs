//! Merging is commutative, associative and idempotent; order and copies within a window change no verdict and no quantity.

use proptest::prelude::*;
use prost::Message;
use reckon::machine::evidence::{Difference, Evidence};
use reckon::machine::names::{Names, Shape};
use reckon::machine::verdict;
use reckon::model::policy::Policy;
use reckon::wire::protobuf::decode;
use reckon::workload::What;
use reckon::workload::arbitrary::Arbitrary;

/// Events about one call, each acceptable by itself.
fn events(seed: u64) -> Vec<Vec<u8>> {
    let arbitrary = Arbitrary {
        seed,
        events: 24,
        calls: 1,
        accounts: 1,
        leap_ms: 1,
    };
    arbitrary
        .make()
        .into_iter()
        .filter_map(|step| match step.what {
            What::Event(event) => Some(event.encode_to_vec()),
            _ => None,
        })
        .filter(|bytes| decode(bytes).is_ok_and(|e| e.too_large.is_none()))
        .collect()
}

/// Names numbered in one fixed order, so that merged evidence can be compared as memory.
fn names(all: &[Vec<u8>]) -> Names {
    let mut names = Names::default();
    let mut texts: Vec<String> = Vec::new();
    for event in all.iter().filter_map(|b| decode(b).ok()) {
        texts.extend([event.service.to_owned(), event.product.to_owned()]);
        texts.extend(event.end.map(|e| e.error_type.to_owned()));
        texts.extend(event.usage.iter().map(|u| u.meter.to_owned()));
    }
    texts.sort();
    for text in &texts {
        names.symbols.intern(text);
    }
    for service in &texts {
        for product in &texts {
            let shape = Shape {
                service: names.symbols.intern(service),
                product: names.symbols.intern(product),
                ..Shape::default()
            };
            names.shape(shape);
        }
    }
    names
}

fn merged<'a>(events: impl IntoIterator<Item = &'a Vec<u8>>, names: &mut Names) -> Option<(Evidence, usize)> {
    let mut evidence: Option<Evidence> = None;
    let mut difference = Difference::default();
    let mut changes = 0;
    for bytes in events {
        let event = decode(bytes).ok()?;
        let shape = Shape {
            service: names.symbols.intern(event.service),
            product: names.symbols.intern(event.product),
            ..Shape::default()
        };
        let shape = names.shape(shape);
        let known = evidence.clone();
        let evidence = evidence.get_or_insert_with(|| Evidence::new(event.occurred_at));
        evidence.merge(&event, shape, names, &mut difference);
        // A row is written again if something changed, and then alone.
        if let Some(known) = known {
            assert_eq!(
                difference.changed,
                known != *evidence,
                "{event:?}: {known:?}, then {evidence:?}"
            );
        }
        changes += usize::from(difference.changed);
    }
    evidence.map(|e| (e, changes))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn order_and_copies_change_nothing(seed in 0u64..1_000_000, shuffle in any::<u64>()) {
        let events = events(seed);
        prop_assume!(!events.is_empty());
        let mut names = names(&events);
        let (once, _) = merged(&events, &mut names).expect("merged");
        // Every event again, all in another order, some thrice.
        let mut again: Vec<&Vec<u8>> = events.iter().chain(&events).chain(events.iter().step_by(3)).collect();
        let mut draw = reckon::workload::seed::Seed::new(shuffle);
        for i in (1..again.len()).rev() {
            again.swap(i, draw.below(i as u64 + 1) as usize);
        }
        let (other, _) = merged(again, &mut names).expect("merged");
        prop_assert_eq!(&once, &other);
        let policy = Policy::default();
        prop_assert_eq!(
            verdict::verdict(&once, &policy, None, &names),
            verdict::verdict(&other, &policy, None, &names)
        );
    }

    #[test]
    fn a_copy_says_that_it_changed_nothing(seed in 0u64..1_000_000) {
        let events = events(seed);
        prop_assume!(!events.is_empty());
        let mut names = names(&events);
        let (_, changes) = merged(&events, &mut names).expect("merged");
        let twice: Vec<&Vec<u8>> = events.iter().chain(&events).collect();
        let (_, with_copies) = merged(twice, &mut names).expect("merged");
        prop_assert_eq!(changes, with_copies);
    }
}

#[test]
fn time_in_one_leap_or_many_gives_the_same() {
    use crate::folding::{entries, folded};
    use reckon::machine::clock::Source;
    use reckon::workload::Step;
    for seed in 0..20 {
        let arbitrary = Arbitrary {
            seed: seed + 77,
            events: 300,
            calls: 20,
            accounts: 3,
            leap_ms: 20 * 86_400_000,
        };
        let leaps = arbitrary.make();
        // Between two ticks that lie far apart, many more.
        let mut crawl: Vec<Step> = Vec::new();
        for step in &leaps {
            if step.what == What::Tick
                && let Some(before) = crawl.last().map(|s| s.at_ms)
            {
                let width = (step.at_ms - before) / 17 + 1;
                let mut at_ms = before + width;
                while at_ms < step.at_ms {
                    crawl.push(Step {
                        at_ms,
                        what: What::Tick,
                    });
                    at_ms += width;
                }
            }
            crawl.push(step.clone());
        }
        let outputs = |steps: &[Step]| {
            let (machine, outputs) = folded(&entries(steps, 0, 1), Source::Ticks);
            // Offsets differ, and with them rejects; what is owed must not.
            let statements: Vec<Vec<u8>> = outputs
                .into_iter()
                .filter(|o| o.topic == reckon::machine::output::Topic::Statements)
                .map(|o| o.body)
                .collect();
            (
                statements,
                machine.counters.settled,
                machine.counters.amended,
                machine.calls.open(),
            )
        };
        assert_eq!(outputs(&leaps), outputs(&crawl), "seed {seed}");
    }
}
