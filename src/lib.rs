//! Reckon turns the request-lifecycle events of API gateways into what each account owes.
//!
//! The log is the truth; everything else is a fold of it and can be rebuilt from it. This page is the map.
//!
//! # Layers
//!
//! Lower ones first; a layer names its own and lower ones only (`tests/tidy.rs` holds this).
//!
//! | layer | what it is | what it doesn't do |
//! |---|---|---|
//! | [`model`] | the nouns: ids, time, periods, quantities, money, events, outcomes, policies, prices, rejects | decide anything |
//! | [`wire`] | bytes to nouns and back: a borrowing protobuf scan, JSON, control records, signatures, files of records | touch a file |
//! | [`machine`] | the fold: clock, evidence, verdicts, settling, usage, rating, closing, adjustments | I/O, wall clock, randomness, floats, panics |
//! | [`auditor`] | a second computation of calls and usage, written from the rules alone | share code with the machine |
//! | [`store`] | one partition in RocksDB: every key in `keys.rs`, every value in `values.rs` | decide anything |
//! | [`log`] | the ordered input and the outputs: in memory, embedded on local disk, and on Kafka | know what a record says |
//! | [`partition`] | the shell around one machine: poll, decode, bring in, apply, commit, emit; reads beside it; backups | know a rule |
//! | [`http`] | the service: events in, reads, streams, pages and outputs out; tokens, metrics | know a rule, or hold state that a bill hangs on |
//! | [`workload`] | made-up and recorded traffic, by seed | |
//! | [`config`] | how the service is set up, and where each value came from | change what a call costs |
//! | [`cli`] | the commands | |
//!
//! # Flow
//!
//! ```text
//! log ─poll─▶ decode 32 at a time ─▶ bring packed calls in ─▶ machine.advance ─▶ commit (one WriteBatch) ─▶ outputs
//!              wire::protobuf          store::shelf             evidence → verdict   state, outbox,           log
//!                                      store::index             → usage, statements  position, digest
//! ```
//!
//! A record is applied in steps ([`machine::fold::Machine::advance`]): move the clock; fire each timer that is due at its own
//! due time (settle, close, the month's control record, notice); then the record. Between steps the shell may commit; where
//! days of a period have to be in memory first, the machine asks for them ([`machine::fold::Advance::Load`]).
//!
//! *A call's life.* Its first event opens it in the slab ([`machine::calls`]). Every event is merged into its
//! [`machine::evidence`], a lattice; the [`machine::verdict`] is a function of evidence and pinned policy and says which wait
//! its row needs. When that is over the call settles ([`machine::settle`]): its quantities go to the account's day and hour
//! ([`machine::usage`]), its verdict to the calls output. It stays in memory for some seconds of log time, since usage often
//! comes then, and is packed with 255 others into a block ([`store::packed`]) that is written once. A later event finds the
//! block by the resident fingerprint index ([`store::index`]: about six bytes a call), the call is re-opened, the difference
//! booked, a newer record packed. Blocks are dropped by range when the forget line has passed them.
//!
//! *A month's life.* Its bounds are stored when the account first needs it ([`machine::periods`]). It closes at its end plus
//! close grace ([`machine::close`]): usage is frozen, rated ([`machine::rating`]) and put out as one `PeriodClosed`, or
//! in pages if a record doesn't hold it ([`machine::paging`]): whoever reads a statement puts them together. What changes after is
//! noticed at the next full hour and is a line of the next statement ([`machine::adjust`]).
//!
//! *An event's way through the service.* A handler of [`http`] reads the body as it comes, decodes each event once to refuse what
//! can't be folded, and appends the rest as received in one durable write ([`log::local`] syncs once for all who wait); only
//! then is it acknowledged. The partition's thread ([`partition::running`], [`partition::live`]) polls it from the log like any
//! record. Nothing is handed from a handler to the fold but through the log.
//!
//! *On Kafka.* A member of the consumer group says which partitions are ours ([`log::kafka::group`]), one client fetches them all
//! ([`log::kafka`]), a thread each folds them ([`partition::sharing`]). An owner takes its partition over: it asks the group, fences
//! older owners, writes a barrier and reads past it what was delivered ([`log::kafka::emitter`]); meanwhile it opens the store and
//! folds in memory alone. What is decided up to what was delivered is compared before it is written, and nothing goes out before
//! the store has reached it. What is committed is taken to the log beside the fold (`partition::courier`), one transaction after
//! the other: nobody who folds waits for the brokers. As many partitions are folded at a time as there are cores
//! (`partition::turns`). The operator's records are signed ([`wire::signature`], [`machine::authority`]), misplaced events are
//! forwarded ([`machine::forward`]). A read of an account that another instance owns is handed to that one.
//!
//! *A read's way.* The fold holds the partition's lock for half a millisecond at a time. A read takes, under that lock, copies of
//! what memory holds of one account ([`partition::taken`]); if the fold is at work, the fold does it for the reader between two
//! groups of records. Off the lock the store's rows of the same moment are put beneath it, summed and priced
//! ([`partition::usage`], [`partition::account`]), and the answer says the partition, offset and clock at which it stands. A commit
//! keeps readers out while it takes what changed, not while that is written. Whoever follows an account's stream is told by one task
//! ([`http::watchers`]), which looks at most four times a second which watched accounts have changed.
//!
//! | question | file |
//! |---|---|
//! | why was this call billed? | [`machine::verdict`] |
//! | who may change money? | [`machine::authority`], [`wire::signature`] |
//! | what of an event in another partition? | [`machine::forward`], `partition::forwarding` |
//! | when does May close? | [`machine::close`] |
//! | what is on disk? | [`store::keys`], [`log::local`] |
//! | when is an event acknowledged? | [`log::local`], [`log::kafka::publish`] |
//! | what if two believe that they own a partition? | [`log::kafka::emitter`] |
//! | who may change a price? | [`machine::authority`] |
//! | what may this token do? | [`http::caller`], [`http::gatekeeper`] |
//! | what does a restart do? | [`partition::open`] |
//! | what does a backup hold? | [`partition::backup`] |
//!
//! # Invariants, stated as absences
//!
//! * No verdict hangs on arrival order, copies, batch splits, commits, eviction or restarts (`tests/fold`).
//! * No write but [`partition::worker::Partition::commit`]'s changes a store, and it is one `WriteBatch`.
//! * No output leaves before what led to it is committed; none leaves twice under one sequence; none with another content:
//!   the chained hash of every output is compared with what was delivered.
//! * No record is dropped silently: what isn't folded is in the rejects output with reason, field, cure and bytes.
//! * No call is forgotten while an event for it can still be accepted (RULES §5).
//! * No float, no clock, no hash order in what decides money; integers of 10^-9 and `rust_decimal`, rounded once a line.
//! * No output of an owner that was fenced counts; none is held back because the group's offset says so.
//! * No control record counts on a log that others write, but one that an operator's key has signed for that log.
//! * No log record is removed that the flushed store still needs.
//! * No event is acknowledged before it is durable; no read shows half a record; none waits for the fold longer than a commit.
//! * No route answers without having asked who asks, but those that say whether the process lives.
//!
//! # The fold by hand
//!
//! ```
//! use reckon::machine::{clock::Source, fold::{Advance, Machine, Record}};
//! use reckon::wire::record::{Headers, Kind, decode};
//!
//! let mut machine = Machine::new(0, 1, Source::Append, 1_790_000_000_000);
//! let event = br#"{"account_id": "acme", "call_id": "c-1", "phase": "ended", "occurred_at": "2026-09-21T14:13:20Z",
//!     "end": {"cause": "completed"}, "usage": [{"meter": "output_tokens", "value": 412}]}"#;
//! let mut scratch = Vec::new();
//! let record = Record {
//!     offset: 1,
//!     append_ms: 1_790_000_000_500,
//!     bytes: event,
//!     headers: Headers::default(),
//!     input: decode(Kind::Event, event, &mut scratch),
//! };
//! while machine.advance(&record) != Advance::Done {}
//! let (slot, _) = machine.calls.iter().next().expect("one call");
//! let verdict = machine.verdict_of(slot).expect("a verdict");
//! assert_eq!((verdict.ruling.row, verdict.ruling.reason.as_str()), (10, "completed"));
//! ```
//!
//! # Where RULES.md is read closely
//!
//! * Row 9 applies to completed ∧ end marker not seen ∧ (upstream failed ∨ the edge's word has an upstream status ≥ 400 other
//!   than 499).
//! * Attempt 0 is not one of the 64 attempts that a call remembers.
//! * `started_at` is no evidence: first and last time are those of `occurred_at`.
//! * Progress is one fact of an attempt, whoever states it: told again by another observer it changes nothing, and no wait begins anew.
//!   That there was a numbered attempt is a fact too, once.
//! * A call that settles at the very instant at which its period's close is due is in the statement if the account has that period by
//!   then; a period that would only come to be with it counts as closed, and the call is an adjustment.
//! * A correction counts as a change of the evidence for `settle_grace`.
//! * A verdict has a period and a day, which carries the price, not an instant: another one of the same day is no change by which
//!   a call is remembered longer, and makes no revision.
//! * A period that is first needed while a hold holds its month is open, however late; a month held for everyone also holds
//!   its control record. A month whose control record is out counts as closed for an account new to it.
//! * A change whose notice is due at the instant of the next close is in that close's lines: the amount is what is known then.
//! * Of two wildcard prices the one that names the product beats the one that names the meter, and that one beats one that
//!   names neither: the order of a card's prices decides nothing.
//! * A notice is put out for whatever a closed period owes beyond what was stated and noticed, also where differences by line
//!   cancel (a call moved to a day of another price); one that a statement has named comes in any case.
//! * An adjustment is in the currency of its own period: in a statement of another one its line names it and is not added to
//!   the total. Billed usage without a price that comes after a close is in the next statement's `unpriced`.
//! * A month's control record waits for any hold of the month on an account that isn't closed, and keeps no later month's back.
//!   The first one is of the first month whose time for it hasn't passed when the clock begins.
//! * A control record is judged by what it shows, then by its signature, then by its partition; only then by what is known: so
//!   a copy of an accepted one, older than the amendment window, is not ignored but rejected: `bad_version` if it is for
//!   everyone, else `expired`, which is among the last of RULES §5's reasons. Older is before the late line.
//! * Control records have sizes, too: 1 MiB a record; 128 bytes for what a price names and for a correction's meters, of which
//!   there may be 64; 1,024 bytes for `actor` and a correction's `reason`; 64 bytes for a rollup name. Else `too_large`.
//! * An amount that can't be expressed is an `error` in its place, wherever it stands: of a line, a notice, or a month's control
//!   record. What was stated before stays; as soon as the amount can be expressed, the next statement has it.
//! * The id of a control record that was issued ahead of the clock is kept until that record has expired, however long: else a
//!   copy of an account's own record could be taken twice.
//! * Where genesis names operator keys, `issued_at` is required; where it names none, an `operator_keys` record is refused.
//! * Of a forwarded event only `ahead` is judged by when it came first; clock, waits and late line are its own partition's.
//!   An event that can't be decoded is forwarded, too, if its account can be read; of one that its own
//!   partition's topic wouldn't take with the header, the beginning. One that was forwarded and is still not at
//!   home is `wrong_partition`, whatever else is wrong with it. Who forges the header gains nothing: the earlier time counts.
//! * Names for what RULES §5 leaves open: `expired` (issued longer ago than the amendment window), `bad_control` (content).

pub mod auditor;
#[cfg(feature = "store")]
pub mod cli;
#[cfg(feature = "store")]
pub mod config;
#[cfg(feature = "store")]
pub mod http;
#[cfg(feature = "store")]
pub mod log;
pub mod machine;
pub mod model;
#[cfg(feature = "store")]
pub mod partition;
#[cfg(feature = "store")]
pub mod store;
pub mod wire;
pub mod workload;
