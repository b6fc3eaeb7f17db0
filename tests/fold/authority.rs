//! RULES §1, authority: who may write events may not write money. Each record is judged by the machine and by the auditor.

use prost::Message;
use reckon::auditor::{Auditor, ClockSource, Entry, Word};
use reckon::machine::authority::Authority;
use reckon::machine::clock::Source;
use reckon::machine::fold::{Advance, Machine, Record};
use reckon::machine::output::Topic;
use reckon::model::placement::partition_of;
use reckon::wire::check::{instant_ms, timestamp};
use reckon::wire::key_pair::KeyPair;
use reckon::wire::pb::{self, control::Body};
use reckon::wire::record::{Headers, Kind, decode};
use reckon::wire::signature::Signer;

const START: i64 = 1_790_000_000_000;
const DAY: i64 = 86_400_000;
const LOG: &str = "log-1";

pub fn signer(id: &str, secret: u8) -> Signer {
    Signer::new(id, KeyPair::from_secret(&[secret; 32]))
}

/// One partition of a log, folded and audited.
struct Log {
    machine: Machine,
    auditor: Auditor,
    now: i64,
}

impl Log {
    fn new(source: Source, keys: &[&Signer]) -> Self {
        Self::placed(source, keys, 0, 1)
    }

    fn placed(source: Source, keys: &[&Signer], partition: u32, count: u32) -> Self {
        let genesis = pb::Genesis {
            log_id: LOG.to_owned(),
            keys: keys.iter().map(|s| s.operator_key()).collect(),
            ..pb::Genesis::default()
        };
        let mut machine = Machine::new(partition, count, source, START);
        machine.authority = Authority::of_genesis(&genesis);
        let audited = match source {
            Source::Append => ClockSource::Append,
            Source::Ticks => ClockSource::Ticks,
        };
        let mut auditor = Auditor::new(audited, START);
        auditor.placed(partition, count);
        auditor.signed(LOG, &genesis.keys);
        Self {
            machine,
            auditor,
            now: START,
        }
    }

    /// Folds a record. Why it was rejected; both must say the same.
    fn take(&mut self, kind: Kind, bytes: &[u8], signature: Option<&str>) -> Option<String> {
        let offset = self.machine.position.next_offset;
        let word = match kind {
            Kind::Event => pb::CallEvent::decode(bytes).map(Word::Event),
            Kind::Control => pb::Control::decode(bytes).map(Word::Control),
            _ => pb::Tick::decode(bytes).map(|t| Word::Tick(t.at.map_or(0, |at| instant_ms(&at)))),
        };
        self.auditor.take(&Entry {
            bytes,
            signature,
            ..Entry::new(offset, self.now, word.expect("a record"))
        });
        let mut scratch = Vec::new();
        let record = Record {
            offset,
            append_ms: self.now,
            bytes,
            headers: Headers {
                signature,
                ..Headers::default()
            },
            input: decode(kind, bytes, &mut scratch),
        };
        while self.machine.advance(&record) != Advance::Done {}
        let (outputs, forwards) = self.machine.outputs.take();
        assert!(
            kind != Kind::Control || forwards.is_empty(),
            "control records are never forwarded"
        );
        let rejects: Vec<pb::Rejected> = outputs
            .iter()
            .filter(|o| o.topic == Topic::Rejects)
            .map(|o| pb::Rejected::decode(o.body.as_slice()).expect("a reject"))
            .collect();
        let reason = rejects.first().map(|r| r.reason.clone());
        let audited = self.auditor.findings().rejects.get(&offset).copied();
        let audited = audited.map(|reason| {
            if reason == "bad_operator_keys" {
                "bad_control"
            } else {
                reason
            }
        });
        assert_eq!(reason.as_deref(), audited, "machine and auditor");
        reason
    }

    fn tick(&mut self, at: i64, by: Option<&Signer>) -> Option<String> {
        self.now = at;
        let bytes = pb::Tick {
            at: Some(timestamp(at)),
        }
        .encode_to_vec();
        let signature = by.map(|s| s.sign(LOG, &bytes));
        self.take(Kind::Tick, &bytes, signature.as_deref())
    }

    fn control(&mut self, control: &pb::Control, by: &Signer) -> Option<String> {
        let bytes = control.encode_to_vec();
        let signature = by.sign(LOG, &bytes);
        self.take(Kind::Control, &bytes, Some(&signature))
    }

    /// The next record for everyone.
    fn next(&self, id: &str, body: Body) -> pb::Control {
        pb::Control {
            control_version: self.machine.ledger.version + 1,
            ..own(id, self.now, body)
        }
    }
}

fn own(id: &str, issued_ms: i64, body: Body) -> pb::Control {
    pb::Control {
        id: id.to_owned(),
        issued_at: Some(timestamp(issued_ms)),
        actor: "kim@ops".to_owned(),
        control_version: 0,
        body: Some(body),
    }
}

fn profile(account: &str, zone: &str) -> Body {
    Body::AccountProfile(pb::AccountProfile {
        account_id: account.to_owned(),
        time_zone: zone.to_owned(),
        currency: String::new(),
    })
}

fn policy(bill_unproven: bool) -> Body {
    Body::Policy(pb::Policy {
        bill_unproven: Some(bill_unproven),
        ..pb::Policy::default()
    })
}

fn keys(add: &[&Signer], remove: &[&str]) -> Body {
    Body::OperatorKeys(pb::OperatorKeys {
        add: add.iter().map(|s| s.operator_key()).collect(),
        remove: remove.iter().map(|id| (*id).to_owned()).collect(),
    })
}

const NOT_AUTHORISED: Option<&str> = Some("not_authorised");

#[test]
fn only_the_operators_word_holds() {
    let (ops, stranger) = (signer("ops", 1), signer("ops", 2));
    let mut log = Log::new(Source::Append, &[&ops]);
    let record = log.next("c-1", policy(true));
    let bytes = record.encode_to_vec();
    let good = ops.sign(LOG, &bytes);
    let refused = [
        None,
        Some(String::new()),
        Some("ops".to_owned()),
        Some(good.replacen("ops", "kim", 1)),
        Some(stranger.sign(LOG, &bytes)),
        Some(ops.sign("log-2", &bytes)),
        Some(ops.sign(LOG, &bytes[1..])),
    ];
    for signature in refused {
        let reason = log.take(Kind::Control, &bytes, signature.as_deref());
        assert_eq!(reason.as_deref(), NOT_AUTHORISED, "{signature:?}");
    }
    // The same signature over other bytes: an unproven call for a proven one.
    let altered = log.next("c-1", policy(false)).encode_to_vec();
    assert_eq!(
        log.take(Kind::Control, &altered, Some(&good)).as_deref(),
        NOT_AUTHORISED
    );
    assert_eq!((log.machine.ledger.version, log.machine.policies.len()), (0, 1));
    assert_eq!(log.take(Kind::Control, &bytes, Some(&good)), None);
    assert!(log.machine.policy().bill_unproven);
}

#[test]
fn an_event_needs_no_signature() {
    let mut log = Log::new(Source::Append, &[&signer("ops", 1)]);
    let event = pb::CallEvent {
        account_id: "acme".to_owned(),
        call_id: "c".to_owned(),
        phase: pb::Phase::Started.into(),
        occurred_at: Some(timestamp(START)),
        ..pb::CallEvent::default()
    };
    assert_eq!(log.take(Kind::Event, &event.encode_to_vec(), None), None);
    assert_eq!(log.machine.counters.events, 1);
}

#[test]
fn earlier_reasons_come_first() {
    let (ops, stranger) = (signer("ops", 1), signer("kim", 2));
    let reason = |control: &pb::Control, by| Log::placed(Source::Append, &[&ops], 1, 4).control(control, by);
    let account = (0..1_000)
        .map(|n| format!("a{n}"))
        .find(|a| partition_of(a, 4) == 2)
        .expect("one");
    let record = own("c-1", START, profile(&account, ""));
    let undated = pb::Control {
        issued_at: None,
        ..record.clone()
    };
    assert_eq!(reason(&undated, &stranger).as_deref(), Some("missing_field"));
    let nobodys = own("c-1", START, profile("", ""));
    assert_eq!(reason(&nobodys, &stranger).as_deref(), Some("missing_field"));
    let odd = own("c\n1", START, profile(&account, ""));
    assert_eq!(reason(&odd, &stranger).as_deref(), Some("bad_id"));
    let colon = pb::Control {
        control_version: 1,
        ..own("c-1", START, keys(&[&signer("a:b", 3)], &[]))
    };
    assert_eq!(reason(&colon, &stranger).as_deref(), Some("bad_id"));
    assert_eq!(reason(&record, &stranger).as_deref(), NOT_AUTHORISED);
    assert_eq!(reason(&record, &ops).as_deref(), Some("wrong_partition"));
    let versioned = pb::Control {
        control_version: 7,
        ..record
    };
    assert_eq!(reason(&versioned, &ops).as_deref(), Some("wrong_partition"));
    let policy = pb::Control {
        control_version: 7,
        ..own("c-1", START, policy(true))
    };
    assert_eq!(reason(&policy, &stranger).as_deref(), NOT_AUTHORISED);
    assert_eq!(reason(&policy, &ops).as_deref(), Some("bad_version"));
}

#[test]
fn a_misplaced_record_leaves_nothing_behind() {
    let ops = signer("ops", 1);
    let mut log = Log::placed(Source::Append, &[&ops], 1, 4);
    let all: Vec<String> = (0..40).map(|n| format!("a{n}")).collect();
    for account in &all {
        let home = partition_of(account, 4) == 1;
        let hold = Body::HoldClose(pb::HoldClose {
            period: "2026-09".to_owned(),
            account_id: account.clone(),
        });
        for (n, body) in [profile(account, "Asia/Kolkata"), hold].into_iter().enumerate() {
            let reason = log.control(&own(&format!("{account}-{n}"), START, body), &ops);
            assert_eq!(reason.as_deref(), (!home).then_some("wrong_partition"));
        }
    }
    let home = all.iter().filter(|a| partition_of(a, 4) == 1).count();
    assert_eq!((log.machine.accounts.len(), log.machine.holds.len()), (home, home));
}

#[test]
fn a_replayed_record_does_nothing_however_late() {
    let ops = signer("ops", 1);
    let mut log = Log::new(Source::Ticks, &[&ops]);
    assert_eq!(log.tick(START, Some(&ops)), None);
    let first = own("c-1", START, profile("acme", "Asia/Kolkata"));
    assert_eq!(log.control(&first, &ops), None);
    // Issued by a clock that is ahead: its id is kept for as long as it can be taken.
    let ahead = own("c-2", START + 30 * DAY, profile("other", "Asia/Kolkata"));
    assert_eq!(log.control(&ahead, &ops), None);
    assert_eq!(
        log.control(&own("c-3", START, profile("acme", "Europe/Paris")), &ops),
        None
    );
    assert_eq!(
        log.control(&own("c-4", START, profile("other", "Europe/Paris")), &ops),
        None
    );
    let profiles = |log: &Log| {
        let accounts = log.machine.accounts.iter();
        accounts.map(|(_, a)| a.profile).collect::<Vec<_>>()
    };
    let before = profiles(&log);
    let reused = own("c-1", START, profile("acme", ""));
    assert_eq!(log.control(&reused, &ops).as_deref(), Some("conflicting_id"));
    for day in 0..80 {
        assert_eq!(log.tick(START + day * DAY, Some(&ops)), None);
        if day == 50 {
            // A longer window doesn't open what has expired.
            let longer = Body::Policy(pb::Policy {
                amend_window_ms: Some(70 * DAY as u64),
                ..pb::Policy::default()
            });
            let longer = log.next("c-5", longer);
            assert_eq!(log.control(&longer, &ops), None);
        }
        let expired = (day > 35).then_some("expired");
        assert_eq!(log.control(&first, &ops).as_deref(), expired, "day {day}");
        assert_eq!(log.control(&ahead, &ops), None, "day {day}");
        assert_eq!(profiles(&log), before, "day {day}");
    }
}

#[test]
fn keys_come_and_go() {
    let (ops, next, third) = (signer("ops", 1), signer("next", 2), signer("third", 3));
    let mut log = Log::new(Source::Append, &[&ops]);
    assert_eq!(
        log.control(&log.next("c-1", policy(true)), &next).as_deref(),
        NOT_AUTHORISED
    );
    assert_eq!(
        log.control(&log.next("k-0", keys(&[&next], &[])), &next).as_deref(),
        NOT_AUTHORISED
    );
    assert_eq!(log.control(&log.next("k-1", keys(&[&next], &[])), &ops), None);
    assert_eq!(log.control(&log.next("c-1", policy(true)), &next), None);
    // Both hold until one goes.
    assert_eq!(log.control(&log.next("c-2", policy(false)), &ops), None);
    let refused = |log: &mut Log, id: &str, body| log.control(&log.next(id, body), &next);
    let bad = Some("bad_control".to_owned());
    assert_eq!(refused(&mut log, "k-2", keys(&[], &["ops", "next"])), bad);
    assert_eq!(refused(&mut log, "k-3", keys(&[], &["third"])), bad);
    assert_eq!(refused(&mut log, "k-4", keys(&[&signer("ops", 9)], &[])), bad);
    assert_eq!(refused(&mut log, "k-5", keys(&[&signer("ops", 9)], &["ops"])), bad);
    assert_eq!(
        refused(&mut log, "k-6", keys(&[], &[])).as_deref(),
        Some("missing_field")
    );
    assert_eq!(log.control(&log.next("k-7", keys(&[&third], &["ops"])), &ops), None);
    assert_eq!(
        log.control(&log.next("c-3", policy(true)), &ops).as_deref(),
        NOT_AUTHORISED
    );
    assert_eq!(log.control(&log.next("c-3", policy(true)), &third), None);
    let Authority::Signed { keys, .. } = &log.machine.authority else {
        panic!("it stays signed");
    };
    assert_eq!(keys.keys().collect::<Vec<_>>(), ["next", "third"]);
    assert_eq!(log.machine.ledger.version, 5);
}

#[test]
fn a_log_of_one_writer_has_no_keys_to_change() {
    let ops = signer("ops", 1);
    let mut log = Log::new(Source::Append, &[]);
    let record = log.next("k-1", keys(&[&ops], &[]));
    assert_eq!(
        log.take(Kind::Control, &record.encode_to_vec(), None).as_deref(),
        Some("bad_control")
    );
    let record = log.next("c-1", policy(true));
    assert_eq!(log.take(Kind::Control, &record.encode_to_vec(), None), None);
    assert_eq!(log.machine.authority, Authority::Process);
}

#[test]
fn only_the_operators_ticks_move_a_history() {
    let (ops, stranger) = (signer("ops", 1), signer("ops", 2));
    let mut log = Log::new(Source::Ticks, &[&ops]);
    for by in [None, Some(&stranger)] {
        assert_eq!(log.tick(START, by).as_deref(), NOT_AUTHORISED);
        assert_eq!((log.machine.clock.now, log.machine.clock.last_tick), (None, None));
    }
    assert_eq!(log.tick(START, Some(&ops)), None);
    assert_eq!(log.tick(START + 40 * DAY, None).as_deref(), NOT_AUTHORISED);
    assert_eq!(log.machine.clock.now, Some(START));
    // Where the owner's clock is only a guard, it needs none.
    let mut log = Log::new(Source::Append, &[&ops]);
    assert_eq!(log.tick(START + 1_000, None), None);
    assert_eq!(log.machine.clock.last_tick, Some(START + 1_000));
    log.now = START + 10 * DAY;
    let far = pb::Tick {
        at: Some(timestamp(START)),
    };
    assert_eq!(
        log.take(Kind::Tick, &far.encode_to_vec(), None).as_deref(),
        Some("bad_tick")
    );
}
