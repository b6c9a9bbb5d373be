//! Spans of traces, as a worker or a producer tells them: apart from any tracing library. What sends them is a [`TraceSink`], which a program puts into its
//! [`Environment`](crate::Environment) where traces are asked for.
//!
//! Everything of a task is in one trace: its producer's, or, where that gave none, one whose id follows from the task's id, so that all workers agree on it without a word in the message.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::{TaskId, is_traceparent};

/// The id of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

/// The id of a span within its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// Of these bits; never zeros alone, which would be none.
    #[must_use]
    pub fn of_bits(high: u64, low: u64) -> Self {
        Self(((u128::from(high) << 64) | u128::from(low)).max(1).to_be_bytes())
    }

    /// The trace of a task whose producer named none: of a slice that of its batch.
    #[must_use]
    pub fn of_task(task_id: &TaskId) -> Self {
        let digest = Sha256::digest(task_id.batch().as_str().as_bytes());
        let bits = digest.iter().take(16).fold(0_u128, |bits, byte| (bits << 8) | u128::from(*byte));
        Self(bits.max(1).to_be_bytes())
    }

    /// Whether it is among a share of all traces, 0 to 1. Every process with the same share says the same of a trace.
    #[must_use]
    pub fn is_among(self, share: f64) -> bool {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        let place = (u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 11) as f64 / (1_u64 << 53) as f64;
        place < share
    }
}

impl SpanId {
    /// Of these bits; never zeros alone, which would be none.
    #[must_use]
    pub fn of_bits(bits: u64) -> Self {
        Self(bits.max(1).to_be_bytes())
    }

    /// Of 16 lower-case hexadecimal digits that are not all zeros.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let bits = u64::from_str_radix(text, 16).ok().filter(|bits| digits && *bits != 0)?;
        Some(Self(bits.to_be_bytes()))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// What a `traceparent` says. Shown as one of version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The span in it that named it.
    pub span_id: SpanId,
    /// Whether whoever began the trace records it.
    pub sampled: bool,
}

impl TraceContext {
    /// `None`: the text is no `traceparent`.
    #[must_use]
    pub fn read(traceparent: &str) -> Option<Self> {
        if !is_traceparent(traceparent) {
            return None;
        }
        let trace_id = u128::from_str_radix(traceparent.get(3..35)?, 16).ok()?;
        let flags = u8::from_str_radix(traceparent.get(53..55)?, 16).ok()?;
        Some(Self { trace_id: TraceId(trace_id.to_be_bytes()), span_id: SpanId::read(traceparent.get(36..52)?)?, sampled: flags & 1 == 1 })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "00-{}-{}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

/// The spans that published a message before: forwards, retries, requeues, oldest first, each of its task's trace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpanLinks(Vec<SpanId>);

impl SpanLinks {
    /// Most that travel with a message; whoever adds one to so many takes out the oldest.
    pub const MAX: usize = 8;

    /// Of ids as [`SpanId`] shows them, with commas between. `None`: the text is no such list.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let ids: Option<Vec<SpanId>> = text.split(',').map(SpanId::read).collect();
        ids.filter(|ids| ids.len() <= Self::MAX).map(Self)
    }

    /// Adds the newest.
    pub fn add(&mut self, span_id: SpanId) {
        if self.0.len() >= Self::MAX {
            self.0.remove(0);
        }
        self.0.push(span_id);
    }

    /// Oldest first.
    #[must_use]
    pub fn ids(&self) -> &[SpanId] {
        &self.0
    }
}

impl fmt::Display for SpanLinks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, id) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(formatter, "{comma}{id}")?;
        }
        Ok(())
    }
}

/// What a span is to the messages that pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// It is about work inside one process.
    Internal,
    /// It published a message.
    Producer,
    /// It worked on a message.
    Consumer,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeValue {
    /// Text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// True or false.
    Bool(bool),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u32> for AttributeValue {
    fn from(number: u32) -> Self {
        Self::Integer(i64::from(number))
    }
}

impl From<bool> for AttributeValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// The span before a span: that which made it happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanParent {
    /// Of this process.
    Here(SpanId),
    /// Of another one, as a message or a request named it.
    There(SpanId),
}

/// A span that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Its trace.
    pub trace_id: TraceId,
    /// Itself.
    pub span_id: SpanId,
    /// `None`: its trace begins here.
    pub parent: Option<SpanParent>,
    /// What vendors say in the `tracestate` of its trace.
    pub trace_state: Option<String>,
    /// What it did, of few different texts.
    pub name: String,
    /// What it is to messages.
    pub kind: SpanKind,
    /// Its beginning, in Unix µs.
    pub start_us: u64,
    /// Its end, in Unix µs.
    pub end_us: u64,
    /// Other spans of its trace that it follows from.
    pub links: Vec<SpanId>,
    /// What is known of it.
    pub attributes: Vec<(&'static str, AttributeValue)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

impl Span {
    /// A span without links and attributes.
    #[must_use]
    pub fn new((trace_id, span_id): (TraceId, SpanId), name: String, kind: SpanKind, (start_us, end_us): (u64, u64)) -> Self {
        Self {
            trace_id,
            span_id,
            parent: None,
            trace_state: None,
            name,
            kind,
            start_us,
            end_us: end_us.max(start_us),
            links: Vec::new(),
            attributes: Vec::new(),
            error: None,
        }
    }

    /// The same with one more attribute.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<AttributeValue>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    /// The same with one more attribute, where there is a value.
    #[must_use]
    pub fn with_some(self, name: &'static str, value: Option<impl Into<AttributeValue>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// The same, failed. `code` is the error's name, of few different texts.
    #[must_use]
    pub fn failed(mut self, code: &str, message: &str) -> Self {
        self.error = Some(message.to_owned());
        self.with("error.type", code)
    }
}

/// Takes spans, and sends them to where traces are kept. Nothing waits for it and nothing rests on it.
pub trait TraceSink: Send + Sync {
    /// Whether a trace is recorded that begins in this fleet. Of one that began elsewhere its own flag decides.
    fn records(&self, trace_id: TraceId) -> bool;

    /// Takes a span. Never waits: where there is no room, the span is dropped and counted.
    fn take(&self, span: Span);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_read_and_shown_the_same() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = TraceContext::read(text).unwrap();
        assert!(context.sampled);
        assert_eq!(context.to_string(), text);
        assert!(!TraceContext::read(&text.replace("-01", "-00")).unwrap().sampled);
        assert!(TraceContext::read(&text.replace("-01", "-03")).unwrap().sampled, "other flags say other things");
        assert_eq!(TraceContext::read("00-xyz"), None);
    }

    #[test]
    fn links_are_bounded_and_the_oldest_go() {
        let mut links = SpanLinks::default();
        for bits in 1..=10 {
            links.add(SpanId::of_bits(bits));
        }
        assert_eq!(links.ids().len(), SpanLinks::MAX);
        assert_eq!(links.ids()[0], SpanId::of_bits(3));
        assert_eq!(SpanLinks::read(&links.to_string()), Some(links.clone()));
        for bad in ["", "0000000000000000", "12", "000000000000000A", &format!("{links},{links}")] {
            assert_eq!(SpanLinks::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn all_workers_find_the_same_trace_of_a_task_and_of_its_slices() {
        let task_id = TaskId::new("order-17").unwrap();
        let slice = task_id.of_slice(crate::Slice::new(0, 4).unwrap());
        assert_eq!(TraceId::of_task(&task_id), TraceId::of_task(&slice));
        assert_ne!(TraceId::of_task(&task_id), TraceId::of_task(&TaskId::new("order-18").unwrap()));
    }

    #[test]
    fn about_as_many_traces_are_recorded_as_asked_for() {
        let recorded =
            |share: f64| (0..1_000).filter(|n| TraceId::of_task(&TaskId::new(format!("t-{n}")).unwrap()).is_among(share)).count();
        assert_eq!([recorded(0.0), recorded(1.0)], [0, 1_000]);
        assert!((150..350).contains(&recorded(0.25)), "{}", recorded(0.25));
    }

    #[test]
    fn no_id_is_zeros_alone() {
        assert_eq!(TraceId::of_bits(0, 0).to_string(), format!("{:032x}", 1));
        assert_eq!(SpanId::of_bits(0).to_string(), format!("{:016x}", 1));
    }
}
