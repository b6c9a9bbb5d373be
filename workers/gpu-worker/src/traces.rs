//! The spans of tasks: made of the same steps that people are told, where the process traces.
//!
//! ```text
//!  creation context ─┬─ wait {queue} ── claim           until an attempt begins
//!  (its producer's)  ├─ process {queue} ─┬─ run ─┬─ bring tensors
//!                    │  (linked to it)   │       └─ load model
//!                    │                   ├─ publish {queue}      of a retry
//!                    │                   └─ publish {reply_to}
//!                    └─ publish {queue}                          of a forward
//! ```
//!
//! A span is made when it has ended, with the times that were measured. An attempt that nobody ends, because its worker died or handed it back, has none.

use std::time::Duration;

use protocol::{
    Envelope, GpuId, Kind, Strategy, Task, TaskId, TraceSink,
    traces::{Span, SpanId, SpanKind, SpanParent, TraceContext, TraceId},
};
use task_queue::Queue;

use crate::{
    context::Context,
    delivery::{BegunSpan, InHand},
    replies::Became,
    steps::Beside,
};

/// Whether this process traces anything.
pub(crate) fn are_on(context: &Context) -> bool {
    context.ports.environment.traces.is_some()
}

/// The trace of a delivery's task, where it is recorded.
struct Trace<'a> {
    sink: &'a dyn TraceSink,
    context: &'a Context,
    in_hand: &'a InHand,
    task_id: &'a TaskId,
    trace_id: TraceId,
    /// The span under which its producer published it, where it said so.
    creation: Option<SpanId>,
}

/// A publish that is under way.
pub(crate) struct Publishing {
    span_id: SpanId,
    began_us: u64,
}

/// How an attempt came out, as its span says it.
pub(crate) struct CameOut<'a> {
    pub(crate) attempt: u32,
    /// How long it ran, in ms. `None`: it did not run.
    pub(crate) run_ms: Option<f64>,
    pub(crate) beside: Beside,
    /// The code and the words of why it did not succeed.
    pub(crate) error: Option<(&'a str, &'a str)>,
}

impl<'a> Trace<'a> {
    fn of(context: &'a Context, (task_id, in_hand): (&'a TaskId, &'a InHand)) -> Option<Self> {
        let sink = context.ports.environment.traces.as_deref()?;
        let (trace_id, creation) = match in_hand.envelope.headers.traceparent.as_deref().and_then(TraceContext::read) {
            Some(named) if named.sampled => (named.trace_id, Some(named.span_id)),
            Some(_) => return None,
            None => (Some(TraceId::of_task(task_id)).filter(|trace_id| sink.records(*trace_id))?, None),
        };
        Some(Self { sink, context, in_hand, task_id, trace_id, creation })
    }

    fn now_us(&self) -> u64 {
        self.context.ports.environment.clock.now_us()
    }

    fn fresh(&self) -> SpanId {
        SpanId::of_bits(self.context.ports.environment.random.next_u64())
    }

    fn received_us(&self) -> u64 {
        self.now_us().saturating_sub(micros(self.in_hand.received.elapsed()))
    }

    fn queue_name(&self, queue: &Queue) -> String {
        self.context.ports.queue.names().queue(queue)
    }

    /// A span after the creation context, or after one of this process.
    fn span(&self, (span_id, after): (SpanId, Option<SpanId>), (name, kind): (String, SpanKind), times_us: (u64, u64)) -> Span {
        let parent = after.map(SpanParent::Here).or(self.creation.map(SpanParent::There));
        let trace_state = self.in_hand.envelope.headers.tracestate.clone();
        Span { parent, trace_state, ..Span::new((self.trace_id, span_id), name, kind, times_us) }
    }

    /// The same about a message, and linked to the creation context and to what published it again since.
    fn span_of_message(&self, span: Span, operation: &'static str, destination: &str) -> Span {
        let again = self.in_hand.envelope.headers.links.iter().flat_map(|links| links.ids());
        let links = self.creation.iter().chain(again).copied().collect();
        let kind = if operation == "process" { "process" } else { "send" };
        Span { links, ..span }
            .with("messaging.system", "rabbitmq")
            .with("messaging.operation.name", operation)
            .with("messaging.operation.type", kind)
            .with("messaging.destination.name", destination)
            .with("messaging.message.id", self.task_id.as_str())
            .with_some("messaging.message.conversation_id", self.in_hand.envelope.correlation_id.as_deref())
            .with("messaging.rabbitmq.destination.routing_key", destination)
    }

    fn publish(&self, publishing: &Publishing, after: Option<SpanId>, (name, destination): (&str, &str)) -> Span {
        let times_us = (publishing.began_us, self.now_us());
        let span = self.span((publishing.span_id, after), (format!("publish {name}"), SpanKind::Producer), times_us);
        self.span_of_message(span, "publish", destination)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn micros_of(ms: f64) -> u64 {
    (ms.max(0.0) * 1e3) as u64
}

/// An attempt began: its waiting is over. `waited_ms`: since it was published or was due.
pub(crate) fn began(context: &Context, (task, in_hand): (&Task, &InHand), (strategy, waited_ms): (Strategy, f64)) {
    let Some(trace) = Trace::of(context, (&task.id, in_hand)) else { return };
    let (at_us, wait, received_us) = (trace.now_us(), trace.fresh(), trace.received_us());
    in_hand.begun(BegunSpan { span_id: trace.fresh(), at_us, strategy, is_told: false });
    let since_us = at_us.saturating_sub(micros_of(waited_ms)).min(received_us);
    let queue = trace.queue_name(&in_hand.queue);
    let waited = trace.span((wait, None), (format!("wait {queue}"), SpanKind::Internal), (since_us, at_us));
    trace.sink.take(waited.with("messaging.message.id", task.id.as_str()).with("gpufleet.attempt", task.attempt));
    let claimed = trace.span((trace.fresh(), Some(wait)), ("claim".to_owned(), SpanKind::Internal), (received_us, at_us));
    trace.sink.take(claimed.with("gpufleet.gpu_id", context.me.gpu_id.as_str()).with("gpufleet.strategy", strategy.name()));
}

/// An attempt ended, or its task did without one.
pub(crate) fn ended(context: &Context, in_hand: &InHand, (task_id, kind): (&TaskId, Option<&Kind>), came_out: &CameOut<'_>) {
    let Some(trace) = Trace::of(context, (task_id, in_hand)) else { return };
    // What ends without a run after an attempt that crashed has a span of its own.
    let begun = in_hand.tell_begun();
    let (span_id, began_us) = begun.map_or_else(|| (trace.fresh(), trace.received_us()), |begun| (begun.span_id, begun.at_us));
    let (now_us, queue) = (trace.now_us(), trace.queue_name(&in_hand.queue));
    let span = trace.span((span_id, None), (format!("process {queue}"), SpanKind::Consumer), (began_us, now_us));
    let span = trace
        .span_of_message(span, "process", &queue)
        .with_some("gpufleet.kind", kind.map(Kind::as_str))
        .with("gpufleet.gpu_id", context.me.gpu_id.as_str())
        .with("gpufleet.attempt", came_out.attempt)
        .with_some("gpufleet.strategy", begun.map(|begun| begun.strategy.name()))
        .with("gpufleet.priority", u32::from(in_hand.envelope.priority.unwrap_or_default()));
    trace.sink.take(failed(span, came_out.error));
    if let (Some(_), Some(run_ms)) = (begun, came_out.run_ms) {
        ran(&trace, (span_id, began_us), run_ms, came_out);
    }
}

/// The run, and what it did beside its work. How long that took was measured, and not when: it stands at the beginning, tensors first.
fn ran(trace: &Trace<'_>, (process, began_us): (SpanId, u64), run_ms: f64, came_out: &CameOut<'_>) {
    let (run, end_us) = (trace.fresh(), began_us.saturating_add(micros_of(run_ms)));
    let span = trace.span((run, Some(process)), ("run".to_owned(), SpanKind::Internal), (began_us, end_us));
    trace.sink.take(failed(span, came_out.error));
    let mut at_us = began_us;
    for (name, ms) in [("bring tensors", came_out.beside.transfer_ms), ("load model", came_out.beside.load_ms)] {
        let Some(ms) = ms else { continue };
        let until_us = at_us.saturating_add(micros_of(ms));
        trace.sink.take(trace.span((trace.fresh(), Some(run)), (name.to_owned(), SpanKind::Internal), (at_us, until_us)));
        at_us = until_us;
    }
}

fn failed(span: Span, error: Option<(&str, &str)>) -> Span {
    match error {
        Some((code, message)) => span.failed(code, message),
        None => span,
    }
}

/// A message of this task is about to be published again: its span is added to what the next holder links to.
pub(crate) fn publishes_again(context: &Context, of: (&TaskId, &InHand), envelope: &mut Envelope) -> Option<Publishing> {
    let publishing = publishes(context, of)?;
    envelope.headers.links.get_or_insert_default().add(publishing.span_id);
    Some(publishing)
}

/// A message about this task is about to be published.
pub(crate) fn publishes(context: &Context, of: (&TaskId, &InHand)) -> Option<Publishing> {
    let trace = Trace::of(context, of)?;
    Some(Publishing { span_id: trace.fresh(), began_us: trace.now_us() })
}

/// The message went to another GPU, or to wait.
pub(crate) fn sent_on(
    context: &Context,
    (task, in_hand): (&Task, &InHand),
    publishing: Option<&Publishing>,
    (queue, reason): (&Queue, &str),
) {
    let (Some(publishing), Some(trace)) = (publishing, Trace::of(context, (&task.id, in_hand))) else { return };
    let queue_name = trace.queue_name(queue);
    let to = if let Queue::Gpu(gpu_id) = queue { Some(gpu_id) } else { None };
    // Only an attempt of this delivery may come before it.
    let after = in_hand.begun_span().map(|begun| begun.span_id);
    let span = trace.publish(publishing, after, (&queue_name, &queue_name));
    let span = span.with("gpufleet.reason", reason).with("gpufleet.kind", task.kind.as_str()).with("gpufleet.attempt", task.attempt);
    trace.sink.take(span.with_some("gpufleet.gpu_id", to.map(GpuId::as_str)));
}

/// The reply was published; what became of it.
pub(crate) fn replied(context: &Context, of: (&TaskId, &InHand), publishing: &Publishing, (reply_to, became): (&str, Became)) {
    let Some(trace) = Trace::of(context, of) else { return };
    let after = trace.in_hand.begun_span().map(|begun| begun.span_id);
    // There are as many of their names as producers.
    let span = trace.publish(publishing, after, ("{reply_to}", reply_to)).with("messaging.destination.template", "{reply_to}");
    let own = format!("{}.", trace.context.ports.queue.names().queue(&Queue::Reply(String::new())).trim_end_matches('.'));
    let is_temporary = reply_to.starts_with("amq.") || reply_to.starts_with(&own);
    let span = if is_temporary { span.with("messaging.destination.temporary", true) } else { span };
    let error = match became {
        Became::Taken => None,
        Became::PutAside => Some(("reply_put_aside", "its queue did not take it: it waits for another try")),
        Became::Parked => Some(("reply_parked", "nobody takes it: it is parked")),
    };
    trace.sink.take(failed(span, error));
}
