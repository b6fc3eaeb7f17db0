//! How outputs are delivered exactly once, as an executable model: every interleaving of small scenes, and long runs by seed.
//!
//! It is the protocol that the emitter follows, not the emitter: this crate's code isn't called. Who changes one changes both, see
//! below.
//! `cargo test --release --test delivery -- --nocapture` prints what was explored and the shortest way to each breach;
//! `RECKON_MODEL_RUNS=500000` draws more random runs than 20,000.
//!
//! # The protocol
//!
//! 1. *Ask the group*, under its newest generation. Only whom it names the owner initialises its producer, which aborts an older
//!    owner's transaction and fences it.
//! 2. *Barrier*: a record in every output partition, in a transaction that is aborted.
//! 3. *Read the tail* of every output topic, `read_committed`, past the barrier.
//! 4. *Catch up*: what the outbox holds and what is folded anew up to the tails is compared before it is written; nothing is
//!    emitted until all tails are reached.
//! 5. *Emit* in transactions; prune what is known to be committed.
//!
//! Any error of the producer leads to 1.
//!
//! # What is modelled
//!
//! | file | what |
//! |---|---|
//! | `fold` | what each record puts into two output topics, with gapless sequence and chained hash; a second version of it |
//! | `input` | the log of one partition: grows, is truncated by an unclean election, loses its oldest records |
//! | `broker` | output partitions with their markers; the transaction coordinator: epochs, time-outs, late commits |
//! | `group` | generation, owner, members; sessions that run out |
//! | `store` | three column families, written and flushed: a crash leaves what was flushed |
//! | `instance`, `owner` | one instance and its steps; it may be wrong about being the owner |
//! | `fate` | what happens to instances |
//! | `world`, `action`, `scene` | all of it at one moment; what can happen next; what is played, and which piece is missing |
//! | `promise` | what must hold |
//! | `explore`, `canon` | all interleavings, nearest first; which worlds are alike |
//! | `random` | long runs |
//! | `bound` | which code each step stands for |
//!
//! A paused instance (SIGSTOP, a long collection, a swapped page) is one whose turn doesn't come while others' do: all
//! interleavings hold all pauses, between any two steps, and it wakes up believing what it believed. A deposed leader of an
//! output partition tells an old end to some readers, and a reading may get no answer at all: then nothing is known, and it is asked
//! anew. A commit without an answer is still on its way, and is committed, aborted by a time-out or fenced. A store may be lost, or be a copy of another instance's.
//!
//! # What is promised
//!
//! * A `read_committed` reader finds exactly the sequences 1 to n of each topic, as the fold of the log has them.
//! * A reader that takes exactly the next sequence and doesn't ask what is committed gets the same content.
//! * No row leaves an outbox that wasn't committed.
//! * Nobody halts without a reason; whoever halts has written and pruned nothing in that step.
//! * From *every* state: once nothing goes wrong any more, all is delivered, or all instances have halted for a reason. An
//!   exploration goes on from each state in one fixed fair order; a random run in a drawn one.
//!
//! `variants` leaves out one piece of the protocol after the other and shows the promise that breaks; `limits` shows what the whole
//! protocol doesn't promise.
//!
//! # How it is bound to the code
//!
//! By names, not by calls: nothing here runs when the code does. What each step of the model stands for is in `bound.rs`, and a test
//! fails when what is named there isn't in the crate any more, so that whoever moves or renames it comes by here. What the code does in
//! another order than the model must be one of the model's interleavings: an owner that folds in memory while it takes over
//! (`partition::owned`) does less than an `eager` instance here, which writes, too. The real emitter is held to the same promises by
//! `tests/kafka`, with processes that are killed (`chaos`, `zombies`).
//!
//! # What isn't
//!
//! * Time. A session or a transaction may run out at any moment; nothing is said about how long anything takes.
//! * Replication inside Kafka: what is acknowledged stays, but where a scene says otherwise. Output partitions aren't truncated.
//! * Requests that arrive out of order: the idempotent producer sees to it. Of late requests only the commit is modelled, since a late
//!   produce under an old epoch is refused like a zombie's.
//! * The `calls` output and forwards, which are at least once and have no sequence.
//! * More than one input partition: nothing is shared between two.
//! * What is in a statement. Hashes are 16 bits; the few that a scene has differ.

mod action;
mod alike;
mod bound;
mod broker;
mod canon;
mod explore;
mod fate;
mod fold;
mod group;
mod input;
mod instance;
mod limits;
mod owner;
mod promise;
mod random;
mod scene;
mod store;
mod variants;
mod whole;
mod world;
