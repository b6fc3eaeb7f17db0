//! Which code each step of the model stands for.

use std::path::Path;

/// Step of the model, file of the crate, and what is there.
const BOUND: [(&str, &str, &str); 17] = [
    ("Learn, HandOver, Expire", "log/kafka/group.rs", "fn rebalance("),
    ("Learn: history", "partition/open.rs", "fn check("),
    ("Ask", "log/kafka/group.rs", "fn confirm("),
    ("Init", "log/kafka/emitter.rs", "init_transactions("),
    ("Barrier, Abort", "log/kafka/emitter.rs", "fn barrier("),
    ("Tail", "log/kafka/emitter.rs", "fn read_tails("),
    ("Tail: no answer is no answer", "log/kafka/reader.rs", "fn read("),
    ("Tail, then compare", "partition/commit.rs", "fn compare("),
    (
        "Fold: written at once, compared before",
        "partition/commit.rs",
        "fn begin_commit(",
    ),
    ("Fold: another leader", "partition/worker.rs", "fn check_leader("),
    (
        "Fold before the tails are known",
        "partition/owned.rs",
        "fn fold_ahead(",
    ),
    ("CatchUp to Emit", "partition/worker.rs", "fn reach_tails("),
    ("AtEnd", "partition/worker.rs", "fn check_tails("),
    ("Produce, Commit", "log/kafka/emitter.rs", "fn transaction("),
    ("Produce: beside the fold", "partition/courier.rs", "fn carry("),
    ("Prune", "partition/worker.rs", "fn sent("),
    ("Fail, and all that leads to Ask", "partition/owned.rs", "fn take_over("),
];

#[test]
fn what_the_model_stands_for_is_there() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (step, file, code) in BOUND {
        let text = std::fs::read_to_string(source.join(file)).unwrap_or_default();
        assert!(
            text.contains(code),
            "{step}: src/{file} has no `{code}` any more; where is it, and does the model still say what it does?"
        );
    }
}
