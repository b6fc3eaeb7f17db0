//! Bodies of requests, made before anything is measured: later each is copied and given call ids that nobody has sent before.

use std::sync::atomic::{AtomicU64, Ordering};

use hyper::body::Bytes;
use prost::Message;
use serde_json::{Value, json};

use crate::model::Ms;
use crate::wire::pb;
use crate::workload::dense::Dense;

/// How events are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Ndjson,
    Protobuf,
    JsonBatch,
    CloudEvents,
}

impl Format {
    pub const ALL: [Self; 4] = [Self::Ndjson, Self::Protobuf, Self::JsonBatch, Self::CloudEvents];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "NDJSON",
            Self::Protobuf => "protobuf",
            Self::JsonBatch => "JSON array",
            Self::CloudEvents => "CloudEvents batch",
        }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Protobuf => "application/x-protobuf; framing=delimited",
            Self::JsonBatch => "application/json",
            Self::CloudEvents => "application/cloudevents-batch+json",
        }
    }

    fn body(self, events: &[pb::CallEvent]) -> Vec<u8> {
        let value = crate::wire::json::encode;
        match self {
            Self::Protobuf => {
                let mut bytes = Vec::new();
                for event in events {
                    // A growing Vec takes any message.
                    let _ = event.encode_length_delimited(&mut bytes);
                }
                bytes
            }
            Self::Ndjson => {
                let lines: Vec<String> = events.iter().map(|e| format!("{}\n", value(e))).collect();
                lines.concat().into()
            }
            Self::JsonBatch => events.iter().map(value).collect::<Value>().to_string().into(),
            Self::CloudEvents => {
                let envelope = |(n, event): (usize, &pb::CallEvent)| {
                    json!({"specversion": "1.0", "id": format!("{n}"), "source": "/bench",
                        "type": "reckon.call_event.v1", "datacontenttype": "application/json", "data": value(event)})
                };
                let all: Value = events.iter().enumerate().map(envelope).collect();
                all.to_string().into()
            }
        }
    }
}

/// Digits of a call id that tell apart how often its body was sent.
const DIGITS: usize = 4;

/// A body, and where its call ids end.
struct Model {
    bytes: Vec<u8>,
    id_ends: Vec<usize>,
    events: u64,
}

/// Bodies of one format, sent over and over again with new call ids.
pub struct Bodies {
    pub format: Format,
    models: Vec<Model>,
    next: AtomicU64,
}

impl Bodies {
    /// Bodies with `batch` events each. The same calls were `sent` so often before: ids go on after that.
    pub fn make(dense: &Dense, format: Format, events: u64, batch: usize, sent: u64) -> Self {
        let mut models = Vec::new();
        let mut waiting: Vec<pb::CallEvent> = Vec::new();
        let mut finish = |waiting: &mut Vec<pb::CallEvent>| {
            if !waiting.is_empty() {
                models.push(Model::of(format, waiting));
                waiting.clear();
            }
        };
        dense.write(0, events / 3, |bytes, _: Ms| {
            waiting.extend(pb::CallEvent::decode(bytes));
            if waiting.len() == batch {
                finish(&mut waiting);
            }
        });
        finish(&mut waiting);
        Self {
            format,
            next: AtomicU64::new(sent * models.len() as u64),
            models,
        }
    }

    /// How often all were sent, begun ones counted.
    pub fn sent(&self) -> u64 {
        self.next
            .load(Ordering::Relaxed)
            .div_ceil(self.models.len().max(1) as u64)
    }

    /// The next body, with calls that nobody has sent, and how many events are in it.
    pub fn next(&self) -> (Bytes, u64) {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.models.len() as u64;
        let model = &self.models[(n % count) as usize];
        let digits = format!("{:0width$x}", n / count % (1 << (4 * DIGITS)), width = DIGITS);
        let mut bytes = model.bytes.clone();
        for &end in &model.id_ends {
            bytes[end - DIGITS..end].copy_from_slice(digits.as_bytes());
        }
        (bytes.into(), model.events)
    }
}

impl Model {
    fn of(format: Format, events: &[pb::CallEvent]) -> Self {
        let bytes = format.body(events);
        let mut at = 0;
        let ends = events.iter().filter_map(|event| {
            let found = memchr::memmem::find(&bytes[at..], event.call_id.as_bytes())?;
            at += found + event.call_id.len();
            Some(at)
        });
        Self {
            id_ends: ends.collect(),
            events: events.len() as u64,
            bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_sent_twice_and_all_else_stays() {
        let dense = Dense {
            accounts: 10,
            ..Dense::default()
        };
        for format in Format::ALL {
            let bodies = Bodies::make(&dense, format, 30, 100, 0);
            let (first, second) = (bodies.next(), bodies.next());
            assert_eq!((first.1, bodies.sent()), (second.1, 2));
            assert_eq!(first.0.len(), second.0.len());
            let changed = first.0.iter().zip(&second.0).filter(|(a, b)| a != b).count() as u64;
            assert_eq!(changed, first.1, "one digit an event");
        }
    }
}
