//! Spans in the words of OpenTelemetry.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{Link, SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use protocol::traces::{self, AttributeValue, Span, SpanParent};

/// A span for the exporter.
pub(super) fn written(span: Span, scope: &InstrumentationScope) -> SpanData {
    let trace_id = TraceId::from_bytes(span.trace_id.0);
    let state: TraceState = span.trace_state.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default();
    let context = |span_id: traces::SpanId, is_remote: bool| {
        SpanContext::new(trace_id, SpanId::from_bytes(span_id.0), TraceFlags::SAMPLED, is_remote, state.clone())
    };
    let mut links = SpanLinks::default();
    links.links = span.links.iter().map(|id| Link::with_context(context(*id, true))).collect();
    let (parent_span_id, parent_span_is_remote) = match span.parent {
        None => (SpanId::INVALID, false),
        Some(SpanParent::Here(id)) => (SpanId::from_bytes(id.0), false),
        Some(SpanParent::There(id)) => (SpanId::from_bytes(id.0), true),
    };
    SpanData {
        span_context: context(span.span_id, false),
        parent_span_id,
        parent_span_is_remote,
        span_kind: kind(span.kind),
        name: span.name.into(),
        start_time: at(span.start_us),
        end_time: at(span.end_us),
        attributes: span.attributes.into_iter().map(|(name, value)| KeyValue::new(name, valued(value))).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: span.error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}

const fn kind(kind: traces::SpanKind) -> SpanKind {
    match kind {
        traces::SpanKind::Internal => SpanKind::Internal,
        traces::SpanKind::Producer => SpanKind::Producer,
        traces::SpanKind::Consumer => SpanKind::Consumer,
    }
}

fn valued(value: AttributeValue) -> Value {
    match value {
        AttributeValue::Text(text) => text.into(),
        AttributeValue::Integer(number) => number.into(),
        AttributeValue::Bool(value) => value.into(),
    }
}

fn at(us: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_micros(us)).unwrap_or(UNIX_EPOCH)
}
