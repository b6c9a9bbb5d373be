//! The spans of publishes, where the process traces. A producer's own trace context stays what it is; where it gave none, the publish begins the trace, and its message names it.

use protocol::{
    Envelope, Environment, TaskId, TraceSink,
    traces::{Span, SpanId, SpanKind, SpanParent, TraceContext, TraceId},
};
use task_queue::PublishError;

/// A publish that is under way and recorded.
pub(crate) struct Publishing<'a> {
    sink: &'a dyn TraceSink,
    context: TraceContext,
    /// Of the trace that the message named before.
    named: Option<SpanId>,
    /// Whether the message is of a task that was published before, so that the span follows from the first one rather than being made by it.
    again: bool,
    trace_state: Option<String>,
    task_id: String,
    conversation_id: Option<String>,
    kind: Option<String>,
    priority: u8,
    began_us: u64,
}

impl<'a> Publishing<'a> {
    /// A task's first publish. A message without a trace context gets the one of this publish, also where it is not recorded, so that every worker knows that.
    pub(crate) fn first(environment: &'a Environment, envelope: &mut Envelope) -> Option<Self> {
        let sink = environment.traces.as_deref()?;
        let random = &environment.random;
        let span_id = SpanId::of_bits(random.next_u64());
        let named = envelope.headers.traceparent.as_deref().and_then(TraceContext::read);
        let context = match named {
            Some(named) => TraceContext { span_id, ..named },
            None => {
                let trace_id = TraceId::of_bits(random.next_u64(), random.next_u64());
                let context = TraceContext { trace_id, span_id, sampled: sink.records(trace_id) };
                envelope.headers.traceparent = Some(context.to_string());
                context
            }
        };
        context.sampled.then(|| Self::of(environment, sink, envelope, (context, named.map(|named| named.span_id), false)))
    }

    /// Another publish of a task that may have run before: its span is added to what its worker links to, and the trace context stays.
    pub(crate) fn again(environment: &'a Environment, task_id: &TaskId, envelope: &mut Envelope) -> Option<Self> {
        let sink = environment.traces.as_deref()?;
        let span_id = SpanId::of_bits(environment.random.next_u64());
        let named = envelope.headers.traceparent.as_deref().and_then(TraceContext::read);
        let context = named.map_or_else(
            || {
                let trace_id = TraceId::of_task(task_id);
                TraceContext { trace_id, span_id, sampled: sink.records(trace_id) }
            },
            |named| TraceContext { span_id, ..named },
        );
        if !context.sampled {
            return None;
        }
        envelope.headers.links.get_or_insert_default().add(span_id);
        Some(Self::of(environment, sink, envelope, (context, named.map(|named| named.span_id), true)))
    }

    fn of(
        environment: &Environment,
        sink: &'a dyn TraceSink,
        envelope: &Envelope,
        (context, named, again): (TraceContext, Option<SpanId>, bool),
    ) -> Self {
        Self {
            sink,
            context,
            named,
            again,
            trace_state: envelope.headers.tracestate.clone(),
            task_id: envelope.message_id.clone().unwrap_or_default(),
            conversation_id: envelope.correlation_id.clone(),
            kind: envelope.kind.clone(),
            priority: envelope.priority.unwrap_or_default(),
            began_us: environment.clock.now_us(),
        }
    }

    /// It is over. `destination`: its queue.
    pub(crate) fn ended(self, environment: &Environment, destination: &str, published: &Result<(), PublishError>) {
        let ids = (self.context.trace_id, self.context.span_id);
        let times_us = (self.began_us, environment.clock.now_us());
        let span = Span {
            parent: self.named.map(SpanParent::There),
            trace_state: self.trace_state,
            links: self.named.filter(|_| self.again).into_iter().collect(),
            ..Span::new(ids, format!("publish {destination}"), SpanKind::Producer, times_us)
        };
        let span = span
            .with("messaging.system", "rabbitmq")
            .with("messaging.operation.name", "publish")
            .with("messaging.operation.type", "send")
            .with("messaging.destination.name", destination)
            .with("messaging.message.id", self.task_id.as_str())
            .with_some("messaging.message.conversation_id", self.conversation_id.as_deref())
            .with("messaging.rabbitmq.destination.routing_key", destination)
            .with_some("gpufleet.kind", self.kind.as_deref())
            .with("gpufleet.priority", u32::from(self.priority));
        self.sink.take(match published {
            Ok(()) => span,
            Err(error) => span.failed(name(error), &error.to_string()),
        });
    }
}

/// What went wrong, as a word.
const fn name(error: &PublishError) -> &'static str {
    match error {
        PublishError::Unroutable { .. } => "unroutable",
        PublishError::Inaccessible { .. } => "inaccessible",
        PublishError::Full { .. } => "full",
        PublishError::Blocked { .. } => "blocked",
        PublishError::Timeout { .. } => "timeout",
        PublishError::Disconnected { .. } => "disconnected",
        PublishError::Refused { .. } => "refused",
    }
}
