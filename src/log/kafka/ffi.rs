//! What librdkafka offers by C alone: many messages in one call, and ids of topics.
//!
//! A poll of `rdkafka` crosses over for every message and makes an event of each; `rd_kafka_consume_batch_queue` takes thousands
//! at once, at half the CPU time a message (`reckon bench kafka` shows both). Ids of topics tell a topic that was deleted and
//! made anew from the one that a store was folded from.

#![allow(
    unsafe_code,
    reason = "librdkafka offers these by FFI alone; everything unsafe of the Kafka log is here"
)]

use std::ffi::{CStr, CString};
use std::os::raw::c_char;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;

use crate::model::Ms;

/// Messages taken in one call at most.
pub const BATCH_MESSAGES: usize = 8_192;

/// A consumer's queue, from which messages are taken many at a time. One thread at a time takes from it.
pub struct Queue<C: ConsumerContext + 'static> {
    native: NonNull<rd::rd_kafka_queue_t>,
    raw: Vec<*mut rd::rd_kafka_message_t>,
    // Let go of after the queue.
    consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: librdkafka's queues may be used from any thread; `take` needs `&mut self`.
unsafe impl<C: ConsumerContext> Send for Queue<C> {}

impl<C: ConsumerContext> Queue<C> {
    /// The queue of a consumer that has a group id.
    pub fn of(consumer: Arc<BaseConsumer<C>>) -> Option<Self> {
        // SAFETY: the client lives as long as the `Arc` that is kept beside the queue.
        let queue = unsafe { rd::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        Some(Self {
            native: NonNull::new(queue)?,
            raw: vec![ptr::null_mut(); BATCH_MESSAGES],
            consumer,
        })
    }

    /// The consumer.
    pub fn consumer(&self) -> &Arc<BaseConsumer<C>> {
        &self.consumer
    }

    /// Waits for a message at most `timeout`, then hands over whatever is there, each to `take`, in order. Returns how many.
    pub fn take(&mut self, timeout: Duration, mut take: impl FnMut(&Taken)) -> usize {
        let wait_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let mut count = 0;
        // The call waits until the whole array is full or time is over: so wait for one, then take what is there.
        for (wait_ms, room) in [(wait_ms, 1), (0, BATCH_MESSAGES)] {
            // SAFETY: the array has room for `room` pointers, the queue is alive.
            let got =
                unsafe { rd::rd_kafka_consume_batch_queue(self.native.as_ptr(), wait_ms, self.raw.as_mut_ptr(), room) };
            let got = usize::try_from(got).unwrap_or(0);
            for raw in &self.raw[..got] {
                if let Some(message) = NonNull::new(*raw) {
                    take(&Taken(message));
                }
            }
            count += got;
            if got == 0 {
                break;
            }
        }
        count
    }
}

impl<C: ConsumerContext> Drop for Queue<C> {
    fn drop(&mut self) {
        // SAFETY: got by `rd_kafka_queue_get_consumer`, given back once.
        unsafe { rd::rd_kafka_queue_destroy(self.native.as_ptr()) }
    }
}

/// A message, or an error in its place.
pub struct Taken(NonNull<rd::rd_kafka_message_t>);

impl Drop for Taken {
    fn drop(&mut self) {
        // SAFETY: taken from a queue, given back once.
        unsafe { rd::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

impl Taken {
    fn raw(&self) -> &rd::rd_kafka_message_t {
        // SAFETY: not given back before drop.
        unsafe { self.0.as_ref() }
    }

    /// The error that stands in place of a message; the end of a partition is one.
    pub fn error(&self) -> Option<RDKafkaErrorCode> {
        let code = self.raw().err;
        (code != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| code.into())
    }

    /// The error in words.
    pub fn error_text(&self) -> String {
        // SAFETY: a text that lives as long as the message, or null.
        let text = unsafe { rd::rd_kafka_message_errstr(self.0.as_ptr()) };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: not null, ends with 0.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    /// Which partition; negative on errors of no partition.
    pub fn partition(&self) -> i32 {
        self.raw().partition
    }

    /// Its offset; of a partition's end the offset after the last record.
    pub fn offset(&self) -> u64 {
        u64::try_from(self.raw().offset).unwrap_or(0)
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        if self.raw().rkt.is_null() {
            return "";
        }
        // SAFETY: the topic lives as long as the message; names are ASCII.
        let name = unsafe { CStr::from_ptr(rd::rd_kafka_topic_name(self.raw().rkt)) };
        name.to_str().unwrap_or_default()
    }

    /// The value; none is empty.
    pub fn payload(&self) -> &[u8] {
        let raw = self.raw();
        if raw.payload.is_null() {
            return &[];
        }
        // SAFETY: as librdkafka says how long.
        unsafe { std::slice::from_raw_parts(raw.payload.cast(), raw.len) }
    }

    /// Its time in ms, and whether the broker gave it.
    pub fn timestamp(&self) -> (Ms, bool) {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: a message and a place for the kind.
        let at = unsafe { rd::rd_kafka_message_timestamp(self.0.as_ptr(), &raw mut kind) };
        let by_broker = kind == rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME;
        (at.max(0), by_broker)
    }

    /// The epoch of the leader that took it; 0 where the broker doesn't say.
    pub fn leader_epoch(&self) -> i32 {
        // SAFETY: a message.
        unsafe { rd::rd_kafka_message_leader_epoch(self.0.as_ptr()) }.max(0)
    }

    /// Tells each header's name and value.
    pub fn headers(&self, mut tell: impl FnMut(&str, &[u8])) {
        let mut headers = ptr::null_mut();
        // SAFETY: a message and a place for its headers, which live as long as it.
        let code = unsafe { rd::rd_kafka_message_headers(self.0.as_ptr(), &raw mut headers) };
        if code != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || headers.is_null() {
            return;
        }
        for index in 0.. {
            let (mut name, mut value, mut len) = (ptr::null::<c_char>(), ptr::null(), 0);
            // SAFETY: places for what is there at that index; another code after the last.
            let code =
                unsafe { rd::rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut len) };
            if code != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
                return;
            }
            // SAFETY: a name that ends with 0, and as many bytes as it says.
            let (name, value) = unsafe {
                let value: &[u8] = if value.is_null() {
                    &[]
                } else {
                    std::slice::from_raw_parts(value.cast(), len)
                };
                (CStr::from_ptr(name), value)
            };
            tell(name.to_str().unwrap_or_default(), value);
        }
    }
}

/// The ids of topics, by the order of `names`; `None` where the broker has none such.
pub fn topic_ids<C: ClientContext>(
    client: &rdkafka::client::Client<C>,
    names: &[&str],
    timeout: Duration,
) -> Result<Vec<Option<String>>, String> {
    let owned: Vec<CString> = names.iter().filter_map(|n| CString::new(*n).ok()).collect();
    let mut pointers: Vec<*const c_char> = owned.iter().map(|n| n.as_ptr()).collect();
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let native = client.native_ptr();
    // SAFETY: everything made here is given back below; the result's parts are read before the event is.
    unsafe {
        let options = rd::rd_kafka_AdminOptions_new(native, rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let mut text = [0 as c_char; 256];
        rd::rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, text.as_mut_ptr(), text.len());
        let topics = rd::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let queue = rd::rd_kafka_queue_new(native);
        rd::rd_kafka_DescribeTopics(native, topics, options, queue);
        let event = rd::rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1_000));
        let result = read_ids(event, names);
        if !event.is_null() {
            rd::rd_kafka_event_destroy(event);
        }
        rd::rd_kafka_queue_destroy(queue);
        rd::rd_kafka_TopicCollection_destroy(topics);
        rd::rd_kafka_AdminOptions_destroy(options);
        result
    }
}

/// # Safety
/// `event` is null or one of `rd_kafka_queue_poll` that isn't given back yet.
unsafe fn read_ids(event: *mut rd::rd_kafka_event_t, names: &[&str]) -> Result<Vec<Option<String>>, String> {
    // SAFETY: as the caller says; everything read lives as long as the event.
    unsafe {
        if event.is_null() {
            return Err("the broker doesn't answer".to_owned());
        }
        if rd::rd_kafka_event_error(event) != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            let text = rd::rd_kafka_event_error_string(event);
            return Err(CStr::from_ptr(text).to_string_lossy().into_owned());
        }
        let result = rd::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err("an answer of another kind".to_owned());
        }
        let mut count = 0;
        let topics = rd::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let mut ids = vec![None; names.len()];
        for index in 0..count {
            let topic = *topics.add(index);
            if !rd::rd_kafka_TopicDescription_error(topic).is_null()
                && rd::rd_kafka_error_code(rd::rd_kafka_TopicDescription_error(topic))
                    != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                continue;
            }
            let name = CStr::from_ptr(rd::rd_kafka_TopicDescription_name(topic)).to_string_lossy();
            let id = rd::rd_kafka_Uuid_base64str(rd::rd_kafka_TopicDescription_topic_id(topic));
            if let Some(at) = names.iter().position(|n| *n == name)
                && !id.is_null()
            {
                ids[at] = Some(CStr::from_ptr(id).to_string_lossy().into_owned());
            }
        }
        Ok(ids)
    }
}
