//! The AMQP properties of a message, apart from any AMQP library.
//!
//! An [`Envelope`] holds only what gpufleet reads or writes: building a message from one *is* the whitelist of properties for re-publishing.
//! A producer's `CC`, `BCC`, `x-death` or unknown headers never travel on.

use std::time::Duration;

use crate::{BodyHash, GroupName, Limits, Needs, PoolName, Slice, is_traceparent, is_tracestate, traces::SpanLinks};

/// Header: W3C trace context. What [is none](is_traceparent) is left behind: it fails no task, does not travel on and does not come back.
pub const TRACEPARENT: &str = "traceparent";
/// Header: what vendors say of the trace that [`TRACEPARENT`] names. What [is none](is_tracestate), or comes without one, is left behind.
pub const TRACESTATE: &str = "tracestate";
/// Header: the spans that published the task again: forwards, retries, requeues. Up to 8 ids of spans of the task's trace, oldest first, with commas between. Written where traces are
/// recorded alone; [`TRACEPARENT`] stays what the producer wrote.
pub const LINKS: &str = "x-gpufleet-links";
/// Header: which attempt this message asks for, from 1. Absent means 1.
pub const ATTEMPT: &str = "x-gpufleet-attempt";
/// Header: how often the task was forwarded. Absent means 0.
pub const HOPS: &str = "x-gpufleet-hops";
/// Header: the strategy that chose the GPU to which the task was forwarded.
pub const STRATEGY: &str = "x-gpufleet-strategy";
/// Header: memory that an earlier attempt found it needs, in MB (10^6 bytes): the next one looks for a GPU with so much.
pub const MEMORY: &str = "x-gpufleet-memory-mb";
/// Header: the task's queue deadline in Unix milliseconds. Written by the first re-publish, because dead-lettering strips
/// `expiration` and every hop restarts its clock.
pub const START_BEFORE: &str = "x-gpufleet-start-before-ms";
/// Header: the task's total deadline in Unix milliseconds, written by the first re-publish.
pub const END_BEFORE: &str = "x-gpufleet-end-before-ms";
/// Header: the producer's login (its `user_id`), trusted only on queues that only workers write. A `user_id` property under another
/// login would close the channel (406).
pub const USER: &str = "x-gpufleet-user";
/// Header: the pool a waiting message (retry, unplaceable, expired) goes back to.
pub const POOL: &str = "x-gpufleet-pool";
/// Header: the task was looked at before (parked, returned): look in the store before claiming.
pub const RETURNED: &str = "x-gpufleet-returned";
/// Header: since when the task has waited for a GPU that serves it, in Unix milliseconds: written by the worker that first found that no living GPU of the pool
/// does, and left out as soon as one does.
pub const UNSERVED_SINCE: &str = "x-gpufleet-unserved-since";
/// Header: the items of its batch that this message carries, as `16..32`: it is a slice, whose `message_id` is its batch's with the items in braces (`order-17{16..32}`), and its results go into its batch's reply.
pub const SLICE: &str = "x-gpufleet-slice";
/// Header of a slice: the hash of its batch's body, as [`BodyHash::as_str`] has it. A slice of another batch that had the same id before is told by it.
pub const BATCH_HASH: &str = "x-gpufleet-batch-hash";
/// Header: true asks for progress messages on the reply queue, before the reply. It belongs to the delivery and not to the task: the body, its hash and
/// so the task's identity are the same with and without it.
pub const PROGRESS: &str = "x-gpufleet-progress";
/// Header: the group in which the task is counted. It belongs to the delivery and not to the task: the body, its hash and so the task's identity are the same with and
/// without it. It travels on with everything that is published of the task.
pub const GROUP: &str = "x-gpufleet-group";
/// Header: a copy of a delivery that a worker has or had in hand, and no publish of a producer's own. Once its reply has gone out, it needs none of its own.
pub const COPY: &str = "x-gpufleet-copy";
/// Header of a reply: its outcome, so that a consumer can route without parsing the body.
pub const OUTCOME: &str = "x-gpufleet-outcome";
/// Header of a reply: the token under which its outcome was recorded. Of the message of a batch that waits for the end of its slices: which split of the batch it is of, whose
/// slices were published: all, or those that [`PUBLISHED_BEFORE`] says.
pub const TOKEN: &str = "x-gpufleet-token";
/// Header of the message of a batch that waits for the end of its slices, beside [`TOKEN`]: only those of its slices were published whose items lie before this one, counted from 0. The others
/// follow when their pool has room.
pub const PUBLISHED_BEFORE: &str = "x-gpufleet-published-before";
/// Header of a dead letter: why it is there.
pub const REASON: &str = "x-gpufleet-reason";
/// Header: what became of the task's attempts so far, one line each: those that failed, oldest first, and in a dead letter those that crashed. It travels with the retries.
pub const HISTORY: &str = "x-gpufleet-history";
/// Header of a reply that waits for another try, or is parked: the queue that it is for, as the task's `reply_to` named it.
pub const REPLY_TO: &str = "x-gpufleet-reply-to";
/// Header of a reply that waits for another try, or is parked: when it was tried first, in Unix milliseconds. Its age counts from there.
pub const FIRST_TRY: &str = "x-gpufleet-first-try-ms";
/// Header: the task must not start before this, in Unix milliseconds. Not together with [`DELAY`]. It travels until the task is due; deadlines count from then.
pub const NOT_BEFORE: &str = "x-gpufleet-not-before-ms";
/// Header: the task must not start before so many milliseconds have passed since it was published. The first worker that looks at it writes [`NOT_BEFORE`] instead.
pub const DELAY: &str = "x-gpufleet-delay-ms";
/// Header of a message in a waiting queue: when it goes on, in Unix milliseconds of the host that put it there. Never longer than its queue's own delay after it was received.
/// Beside [`NOT_BEFORE`] in its pool's queue: it has waited until then, and no worker whose clock is behind lets it wait once more.
pub const DUE: &str = "x-gpufleet-due-ms";
/// Header of a message whose properties cannot be read: the property and what is wrong with it, as `type: is not UTF-8 text`.
pub const UNREADABLE: &str = "x-gpufleet-unreadable";
/// Header of a message whose properties cannot be read: their original bytes, as AMQP has them, from the flags on.
pub const PROPERTIES: &str = "x-gpufleet-properties";

/// Header: when the broker took the message from its publisher, in Unix milliseconds. RabbitMQ writes it where its interceptor `set_header_timestamp` is on. Read only: a message
/// that is published again gets another one, and deadlines travel as headers of their own.
pub const TIMESTAMP_IN_MS: &str = "timestamp_in_ms";

/// The highest priority of a task.
pub const PRIORITY_MAX: u8 = 9;
/// The priority of a task that sets none.
pub const PRIORITY_DEFAULT: u8 = 0;

/// The properties that gpufleet reads or writes. `None` means that the property is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The task's id.
    pub message_id: Option<String>,
    /// The kind (AMQP `type`); of a progress message [`PROGRESS_TYPE`](crate::progress::PROGRESS_TYPE), of a reply nothing.
    pub kind: Option<String>,
    /// 0 to 9 for a task; a foreign producer may send anything.
    pub priority: Option<u8>,
    /// Where the reply goes: a queue's name, or RabbitMQ's `amq.rabbitmq.reply-to.…`.
    pub reply_to: Option<String>,
    /// Comes back in the reply.
    pub correlation_id: Option<String>,
    /// Time to live in milliseconds, as AMQP has it: text.
    pub expiration: Option<String>,
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// How the body is coded; see [`content::CODINGS`](crate::content::CODINGS).
    pub content_encoding: Option<String>,
    /// Unix time in seconds.
    pub timestamp: Option<u64>,
    /// The publishing login; the broker has checked it against the connection.
    pub user_id: Option<String>,
    /// Headers of ours; everything else was left behind when the message was read.
    pub headers: Headers,
}

/// The headers that gpufleet knows, typed. A known header with a wrong type or an absurd value is not used. It is listed in `invalid` if it decides over a task; what only tells of
/// where a message came from is left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// See [`TRACEPARENT`].
    pub traceparent: Option<String>,
    /// See [`TRACESTATE`].
    pub tracestate: Option<String>,
    /// See [`LINKS`].
    pub links: Option<SpanLinks>,
    /// See [`ATTEMPT`].
    pub attempt: Option<u32>,
    /// See [`HOPS`].
    pub hops: Option<u32>,
    /// See [`STRATEGY`].
    pub strategy: Option<String>,
    /// See [`MEMORY`].
    pub memory_mb: Option<u64>,
    /// See [`START_BEFORE`].
    pub start_before_ms: Option<u64>,
    /// See [`END_BEFORE`].
    pub end_before_ms: Option<u64>,
    /// See [`NOT_BEFORE`].
    pub not_before_ms: Option<u64>,
    /// See [`DELAY`].
    pub delay_ms: Option<u64>,
    /// See [`UNSERVED_SINCE`].
    pub unserved_since_ms: Option<u64>,
    /// See [`USER`].
    pub user: Option<String>,
    /// See [`POOL`].
    pub pool: Option<String>,
    /// See [`RETURNED`].
    pub returned: bool,
    /// See [`COPY`].
    pub copy: bool,
    /// See [`SLICE`].
    pub slice: Option<Slice>,
    /// See [`BATCH_HASH`].
    pub batch_hash: Option<BodyHash>,
    /// See [`PROGRESS`].
    pub progress: bool,
    /// See [`GROUP`].
    pub group: Option<GroupName>,
    /// See [`OUTCOME`].
    pub outcome: Option<String>,
    /// See [`TOKEN`].
    pub token: Option<u64>,
    /// See [`PUBLISHED_BEFORE`].
    pub published_before: Option<u32>,
    /// See [`REASON`].
    pub reason: Option<String>,
    /// See [`HISTORY`].
    pub history: Option<String>,
    /// See [`REPLY_TO`].
    pub reply_to: Option<String>,
    /// See [`FIRST_TRY`].
    pub first_try_ms: Option<u64>,
    /// See [`DUE`].
    pub due_ms: Option<u64>,
    /// See [`UNREADABLE`].
    pub unreadable: Option<String>,
    /// See [`PROPERTIES`].
    pub properties: Option<Vec<u8>>,
    /// See [`TIMESTAMP_IN_MS`]. Never written.
    pub published_ms: Option<u64>,
    /// Whether there was a [`TRACEPARENT`] that is no trace context. Never written.
    pub traceparent_dropped: bool,
    /// Names of known headers whose value was unusable.
    pub invalid: Vec<String>,
}

/// A header's value: what both back ends and foreign producers can express.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderValue {
    /// Text.
    Text(String),
    /// Any AMQP integer or timestamp.
    Integer(i64),
    /// A boolean.
    Bool(bool),
    /// Bytes that need not be text.
    Bytes(Vec<u8>),
    /// Anything else (tables, arrays, floats): no header of ours has such a value.
    Other,
}

impl Headers {
    /// The longest accepted text of a header, in bytes.
    pub const TEXT_MAX: usize = 512;
    /// The longest accepted history, in bytes. Whoever adds a line to a full one takes out the oldest.
    pub const HISTORY_MAX: usize = 4 * 1024;
    /// Most bytes of a header that holds bytes.
    pub const BYTES_MAX: usize = 16 * 1024;

    /// Keeps the headers that are ours and usable.
    pub fn read(pairs: impl IntoIterator<Item = (String, HeaderValue)>) -> Self {
        let mut headers = Self::default();
        for (name, value) in pairs {
            if !headers.set(&name, value) {
                headers.invalid.push(name);
            }
        }
        headers.invalid.sort();
        if headers.traceparent.is_none() {
            headers.tracestate = None;
        }
        headers
    }

    /// Takes one header; false if it is ours, its value is unusable, and a task may not be what its producer meant without it.
    fn set(&mut self, name: &str, value: HeaderValue) -> bool {
        match name {
            TRACEPARENT => self.set_traceparent(value),
            TRACESTATE => tell(&mut self.tracestate, text(value).filter(|text| is_tracestate(text))),
            LINKS => tell(&mut self.links, text(value).and_then(|text| SpanLinks::read(&text))),
            TIMESTAMP_IN_MS => tell(&mut self.published_ms, integer(&value)),
            ATTEMPT => take(&mut self.attempt, integer(&value).filter(|n| *n >= 1)),
            HOPS => take(&mut self.hops, integer(&value)),
            MEMORY => take(&mut self.memory_mb, integer(&value).filter(|mb| *mb <= Needs::MEMORY_MB_MAX)),
            START_BEFORE => take(&mut self.start_before_ms, integer(&value)),
            END_BEFORE => take(&mut self.end_before_ms, integer(&value)),
            NOT_BEFORE => take(&mut self.not_before_ms, integer(&value)),
            DELAY => take(&mut self.delay_ms, integer(&value)),
            UNSERVED_SINCE => take(&mut self.unserved_since_ms, integer(&value)),
            SLICE => take(&mut self.slice, text(value).and_then(|text| text.parse().ok())),
            BATCH_HASH => take(&mut self.batch_hash, text(value).and_then(|text| BodyHash::read(&text))),
            STRATEGY => tell(&mut self.strategy, text(value)),
            USER => take(&mut self.user, text(value)),
            POOL => take(&mut self.pool, text(value)),
            OUTCOME => tell(&mut self.outcome, text(value)),
            TOKEN => tell(&mut self.token, integer(&value)),
            PUBLISHED_BEFORE => tell(&mut self.published_before, integer(&value)),
            REASON => tell(&mut self.reason, text(value)),
            HISTORY => tell(&mut self.history, text_up_to(Self::HISTORY_MAX, value)),
            REPLY_TO => take(&mut self.reply_to, text(value)),
            FIRST_TRY => take(&mut self.first_try_ms, integer(&value)),
            DUE => tell(&mut self.due_ms, integer(&value)),
            UNREADABLE => take(&mut self.unreadable, text(value)),
            PROPERTIES => take(&mut self.properties, bytes(value)),
            RETURNED => flag(&mut self.returned, &value),
            COPY => flag(&mut self.copy, &value),
            PROGRESS => flag(&mut self.progress, &value),
            GROUP => take(&mut self.group, text(value).and_then(|name| GroupName::new(name).ok())),
            _ => true,
        }
    }

    /// Telemetry decides over no task, so this is never at fault.
    fn set_traceparent(&mut self, value: HeaderValue) -> bool {
        self.traceparent = text(value).filter(|text| is_traceparent(text));
        self.traceparent_dropped = self.traceparent.is_none();
        true
    }

    /// Forgets what is found by reading and never written, as every message does on its way through a broker.
    pub fn forget_findings(&mut self) {
        self.published_ms = None;
        self.traceparent_dropped = false;
    }

    /// The headers as pairs, for a back end to write.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, HeaderValue)> {
        let texts = [
            (TRACEPARENT, &self.traceparent),
            (TRACESTATE, &self.tracestate),
            (STRATEGY, &self.strategy),
            (USER, &self.user),
            (POOL, &self.pool),
            (OUTCOME, &self.outcome),
            (REASON, &self.reason),
            (HISTORY, &self.history),
            (REPLY_TO, &self.reply_to),
            (UNREADABLE, &self.unreadable),
        ];
        let integers = [
            (ATTEMPT, self.attempt.map(u64::from)),
            (HOPS, self.hops.map(u64::from)),
            (MEMORY, self.memory_mb),
            (START_BEFORE, self.start_before_ms),
            (END_BEFORE, self.end_before_ms),
            (NOT_BEFORE, self.not_before_ms),
            (DELAY, self.delay_ms),
            (UNSERVED_SINCE, self.unserved_since_ms),
            (TOKEN, self.token),
            (PUBLISHED_BEFORE, self.published_before.map(u64::from)),
            (FIRST_TRY, self.first_try_ms),
            (DUE, self.due_ms),
        ];
        let mut pairs = Vec::new();
        pairs.extend(texts.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::Text(value.clone()?)))));
        pairs.extend(integers.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::Integer(i64::try_from(value?).ok()?)))));
        pairs.extend(self.slice.map(|slice| (SLICE, HeaderValue::Text(slice.to_string()))));
        pairs.extend(self.batch_hash.as_ref().map(|hash| (BATCH_HASH, HeaderValue::Text(hash.as_str().to_owned()))));
        pairs.extend(self.links.as_ref().map(|links| (LINKS, HeaderValue::Text(links.to_string()))));
        pairs.extend(self.group.as_ref().map(|group| (GROUP, HeaderValue::Text(group.to_string()))));
        pairs.extend(self.properties.clone().map(|bytes| (PROPERTIES, HeaderValue::Bytes(bytes))));
        let flags = [(RETURNED, self.returned), (COPY, self.copy), (PROGRESS, self.progress)];
        pairs.extend(flags.into_iter().filter(|(_, set)| *set).map(|(name, _)| (name, HeaderValue::Bool(true))));
        pairs
    }
}

fn take<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    *slot = value;
    slot.is_some()
}

/// Takes what only tells of where a message came from: without it the task is the same.
fn tell<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    *slot = value;
    true
}

fn flag(slot: &mut bool, value: &HeaderValue) -> bool {
    *slot = *value == HeaderValue::Bool(true);
    matches!(value, HeaderValue::Bool(_))
}

fn text(value: HeaderValue) -> Option<String> {
    text_up_to(Headers::TEXT_MAX, value)
}

fn text_up_to(bytes_max: usize, value: HeaderValue) -> Option<String> {
    match value {
        HeaderValue::Text(text) if text.len() <= bytes_max => Some(text),
        _ => None,
    }
}

fn bytes(value: HeaderValue) -> Option<Vec<u8>> {
    match value {
        HeaderValue::Bytes(bytes) if bytes.len() <= Headers::BYTES_MAX => Some(bytes),
        _ => None,
    }
}

fn integer<N: TryFrom<i64>>(value: &HeaderValue) -> Option<N> {
    match value {
        HeaderValue::Integer(number) => N::try_from(*number).ok(),
        _ => None,
    }
}

impl Envelope {
    /// The pool this message belongs to, as its header says; the given one where it says nothing usable.
    #[must_use]
    pub fn pool_or(&self, pool: &PoolName) -> PoolName {
        self.headers.pool.as_deref().and_then(|name| PoolName::new(name).ok()).unwrap_or_else(|| pool.clone())
    }

    /// From its publish on, the message lives for `time`, in whole milliseconds: at least 1, so that the broker ends it and not nobody, and at most
    /// [`Limits::LONGEST_MS`]. The time may come from a header that a producer made up, and the broker takes no time to live of centuries.
    pub fn expires_in(&mut self, time: Duration) {
        self.expiration = Some(time.as_millis().clamp(1, Limits::LONGEST_MS.into()).to_string());
    }

    /// The message lives for `time` at most, from its publish on, or less where its `expiration` says so.
    pub fn lives_at_most(&mut self, time: Duration) {
        let own = self.expiration.as_deref().and_then(|text| text.parse::<u64>().ok());
        if own.is_none_or(|own_ms| u128::from(own_ms) > time.as_millis()) {
            self.expires_in(time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_a_round_trip() {
        let headers = Headers {
            attempt: Some(2),
            hops: Some(1),
            memory_mb: Some(40_000),
            start_before_ms: Some(1_700_000_000_000),
            not_before_ms: Some(1_700_000_000_003),
            delay_ms: Some(60_000),
            unserved_since_ms: Some(1_600_000_000_000),
            strategy: Some("round_robin".into()),
            user: Some("ann".into()),
            returned: true,
            progress: true,
            group: GroupName::new("nightly:7").ok(),
            copy: true,
            slice: "16..32".parse().ok(),
            batch_hash: Some(BodyHash::of(b"{}")),
            token: Some(1_700_000_000_000_000),
            published_before: Some(16),
            reply_to: Some("answers".into()),
            first_try_ms: Some(1_700_000_000_001),
            due_ms: Some(1_700_000_000_002),
            history: Some("attempt 1 on gpu-0: flaky\n".repeat(100)),
            ..Headers::default()
        };
        let pairs = headers.pairs().into_iter().map(|(name, value)| (name.to_owned(), value));
        assert_eq!(Headers::read(pairs), headers);
    }

    #[test]
    fn no_time_to_live_is_too_long_for_the_broker_and_none_is_nothing() {
        let written = |time| {
            let mut envelope = Envelope::default();
            envelope.expires_in(time);
            envelope.expiration.expect("just set").parse::<u64>().expect("a number")
        };
        assert_eq!([Duration::from_secs(2), Duration::ZERO, Duration::MAX].map(written), [2_000, 1, Limits::LONGEST_MS]);
        assert!(Limits::LONGEST_MS < u32::MAX.into(), "RabbitMQ takes no more");
    }

    #[test]
    fn the_shorter_of_two_times_to_live_counts() {
        let bounded = |own: Option<&str>| {
            let mut envelope = Envelope { expiration: own.map(str::to_owned), ..Envelope::default() };
            envelope.lives_at_most(Duration::from_secs(2));
            envelope.expiration
        };
        assert_eq!([None, Some("3000"), Some("500")].map(bounded), ["2000", "2000", "500"].map(|ms| Some(ms.to_owned())));
    }

    #[test]
    fn absurd_and_foreign_headers_are_left_behind() {
        let read = Headers::read([
            (BATCH_HASH.to_owned(), HeaderValue::Text("no hash".into())),
            (PUBLISHED_BEFORE.to_owned(), HeaderValue::Integer(-1)),
            (ATTEMPT.to_owned(), HeaderValue::Integer(-1)),
            (HOPS.to_owned(), HeaderValue::Text("many".into())),
            ("x-death".to_owned(), HeaderValue::Other),
            (TOKEN.to_owned(), HeaderValue::Text("a service's own".into())),
            (HISTORY.to_owned(), HeaderValue::Text("x".repeat(Headers::HISTORY_MAX + 1))),
            (DUE.to_owned(), HeaderValue::Text("soon".into())),
        ]);
        assert_eq!(read.invalid, [ATTEMPT, BATCH_HASH, HOPS], "what only tells of the past is left behind without a word");
        assert_eq!(read, Headers { invalid: read.invalid.clone(), ..Headers::default() });
    }

    #[test]
    fn what_is_no_trace_context_is_dropped_and_noted_and_does_not_travel() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read = |value| Headers::read([(TRACEPARENT.to_owned(), value)]);
        assert_eq!(read(HeaderValue::Text(good.into())), Headers { traceparent: Some(good.into()), ..Headers::default() });
        let unusable = [
            HeaderValue::Bytes(good.into()),
            HeaderValue::Integer(7),
            HeaderValue::Bool(true),
            HeaderValue::Other,
            HeaderValue::Text(String::new()),
            HeaderValue::Text("x".repeat(1_000)),
        ];
        for value in unusable {
            let dropped = read(value.clone());
            assert_eq!(dropped, Headers { traceparent_dropped: true, ..Headers::default() }, "{value:?}");
            assert!(dropped.pairs().is_empty());
        }
    }

    #[test]
    fn a_tracestate_travels_with_its_trace_alone_and_links_are_read_back() {
        let parent = (TRACEPARENT.to_owned(), HeaderValue::Text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()));
        let state = |text: &str| (TRACESTATE.to_owned(), HeaderValue::Text(text.into()));
        assert_eq!(Headers::read([state("a=1"), parent.clone()]).tracestate.as_deref(), Some("a=1"));
        assert_eq!(Headers::read([state("a=1")]), Headers::default());
        assert_eq!(Headers::read([parent, state("none")]).tracestate, None);
        let links = SpanLinks::read("b7ad6b7169203331,00000000000000a1");
        let headers = Headers { links, ..Headers::default() };
        assert!(headers.links.is_some());
        assert_eq!(Headers::read(headers.pairs().into_iter().map(|(name, value)| (name.to_owned(), value))), headers);
        assert_eq!(Headers::read([(LINKS.to_owned(), HeaderValue::Text("x".into()))]), Headers::default(), "no task fails for it");
    }

    #[test]
    fn the_brokers_time_is_read_and_never_written() {
        let read = |value| Headers::read([(TIMESTAMP_IN_MS.to_owned(), value)]);
        let stamped = read(HeaderValue::Integer(1_800_000_000_123));
        assert_eq!(stamped, Headers { published_ms: Some(1_800_000_000_123), ..Headers::default() });
        assert!(stamped.pairs().is_empty());
        for value in [HeaderValue::Integer(-1), HeaderValue::Text("now".into()), HeaderValue::Other] {
            assert_eq!(read(value), Headers::default(), "it is not ours to refuse");
        }
        let mut again = Headers { traceparent_dropped: true, attempt: Some(2), ..stamped };
        again.forget_findings();
        assert_eq!(again, Headers { attempt: Some(2), ..Headers::default() });
    }
}
