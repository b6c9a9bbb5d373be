//! The spans of tasks, as whoever keeps traces gets them.

use std::{
    collections::BTreeSet,
    num::NonZeroU16,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind as CollectedKind;
use producer::NewTask;
use protocol::{
    Envelope, Strategy, TaskId, TraceSink,
    config::{SecretUrl, SimulatedModel, TracesSection},
    envelope::Headers,
    traces::{AttributeValue, Span, SpanId, SpanKind, SpanParent, TraceContext, TraceId},
};
use serde_json::json;
use service::Traces;
use task_queue::{Outgoing, Queue, Target};
use tests::{
    collector::Collector,
    environment,
    fleet::{Fleet, FleetPlan},
    ports::NOBODY,
    tasks::{echo, on, reply, result, task},
    until::until,
};

crate::on_both!(a_task_is_one_trace_through_its_retry);

const NAMED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn named() -> TraceContext {
    TraceContext::read(NAMED).unwrap()
}

/// Keeps what it is given.
#[derive(Default)]
struct Spans {
    kept: Mutex<Vec<Span>>,
    /// Of the traces that begin in the fleet it records none.
    none: bool,
}

impl TraceSink for Spans {
    fn records(&self, _trace_id: TraceId) -> bool {
        !self.none
    }

    fn take(&self, span: Span) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }
}

impl Spans {
    fn all(&self) -> Vec<Span> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Those whose name begins so, in the order in which they ended.
    fn of(&self, name: &str) -> Vec<Span> {
        self.all().into_iter().filter(|span| span.name.starts_with(name)).collect()
    }

    async fn until(&self, count: usize, name: &str) -> Vec<Span> {
        until(&format!("{count} spans {name}"), async || self.of(name).len() >= count).await;
        let found = self.of(name);
        assert_eq!(found.len(), count, "{found:#?}");
        found
    }
}

fn text(span: &Span, name: &str) -> Option<String> {
    span.attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| match value {
        AttributeValue::Text(text) => text.clone(),
        AttributeValue::Integer(number) => number.to_string(),
        AttributeValue::Bool(value) => value.to_string(),
    })
}

fn one(spans: &[Span], having: (&str, &str)) -> Span {
    let found: Vec<&Span> = spans.iter().filter(|span| text(span, having.0).as_deref() == Some(having.1)).collect();
    let [only] = found.as_slice() else { panic!("{} spans have {having:?} among {spans:#?}", found.len()) };
    (*only).clone()
}

async fn a_task_is_one_trace_through_its_retry(here: fn(FleetPlan) -> FleetPlan) {
    let spans = Arc::<Spans>::default();
    let fleet = here(Fleet::of(1)).tracing(spans.clone()).start().await;
    fleet.knobs(&fleet.gpus()[0]).fail_next_allocations(1);
    let traced = NewTask {
        traceparent: Some(NAMED.to_owned()),
        tracestate: Some("rojo=1".to_owned()),
        ..task("simulate", json!({"memory_mb": 10, "result": "in the end"}))
    };
    let reply = reply(&fleet.producer, traced).await;
    assert_eq!(reply.attempt, 2);
    let replied = spans.until(1, "publish {reply_to}").await.remove(0);
    let processed = spans.until(2, "process ").await;
    let published = spans.of("publish ");

    let all = spans.all();
    assert!(all.iter().all(|span| span.trace_id == named().trace_id && span.start_us <= span.end_us), "{all:#?}");
    assert!(all.iter().all(|span| span.trace_state.as_deref() == Some("rojo=1")), "it travels with the retry: {all:#?}");
    let ids: BTreeSet<String> = all.iter().map(|span| span.span_id.to_string()).collect();
    assert_eq!(ids.len(), all.len(), "each has an id of its own");

    // Both attempts are of the producer's context; the second also links to what published it.
    let again = one(&published, ("gpufleet.reason", "retry"));
    let [first, second] = processed.as_slice() else { panic!("{processed:#?}") };
    for (span, links) in [(first, vec![named().span_id]), (second, vec![named().span_id, again.span_id])] {
        assert_eq!((span.kind, span.parent, &span.links), (SpanKind::Consumer, Some(SpanParent::There(named().span_id)), &links));
        assert_eq!(text(span, "messaging.system").as_deref(), Some("rabbitmq"));
        assert_eq!(text(span, "messaging.message.id").as_deref(), Some(reply.task_id.as_str()));
        assert_eq!(text(span, "gpufleet.kind").as_deref(), Some("simulate"));
    }
    assert_eq!([first, second].map(|span| text(span, "gpufleet.attempt")), [Some("1".to_owned()), Some("2".to_owned())]);
    assert!(first.error.is_some() && text(first, "error.type").is_some() && second.error.is_none(), "{processed:#?}");
    assert_eq!((again.kind, again.parent), (SpanKind::Producer, Some(SpanParent::Here(first.span_id))));
    assert!(again.end_us <= second.start_us && first.start_us <= again.start_us, "{all:#?}");

    assert_eq!((replied.kind, replied.parent), (SpanKind::Producer, Some(SpanParent::Here(second.span_id))));
    assert_eq!(text(&replied, "messaging.destination.temporary").as_deref(), Some("true"));
    let submitted = published.iter().find(|span| span.parent == Some(SpanParent::There(named().span_id))).unwrap();
    assert_eq!((submitted.kind, submitted.links.as_slice()), (SpanKind::Producer, &[][..]));
    its_parts_lie_within_it(&spans, second);
}

/// The waiting ends with its beginning, and its run is in it.
fn its_parts_lie_within_it(spans: &Spans, process: &Span) {
    let waits = spans.of("wait ");
    let wait = waits.iter().find(|span| span.end_us == process.start_us).unwrap_or_else(|| panic!("{waits:#?}"));
    let claim = spans.of("claim").into_iter().find(|span| span.parent == Some(SpanParent::Here(wait.span_id))).unwrap();
    assert!(wait.start_us <= claim.start_us && claim.end_us == wait.end_us, "{claim:#?}");
    let run = spans.of("run").into_iter().find(|span| span.parent == Some(SpanParent::Here(process.span_id))).unwrap();
    assert!(process.start_us <= run.start_us && run.kind == SpanKind::Internal, "{run:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_forward_adds_a_link_and_leaves_the_producers_context_as_it_is() {
    let spans = Arc::<Spans>::default();
    let fleet = Fleet::of(3).strategy(Strategy::RoundRobin).tracing(spans.clone()).start().await;
    let mut forwarded = 0;
    for n in 0..12 {
        let traced = NewTask { traceparent: Some(NAMED.to_owned()), ..on("gpu-2", echo(n)) };
        let task_id = reply(&fleet.producer, traced).await.task_id;
        fleet.idle().await;
        let about = |spans: Vec<Span>| -> Vec<Span> {
            spans.into_iter().filter(|span| text(span, "messaging.message.id").as_deref() == Some(task_id.as_str())).collect()
        };
        let process = about(spans.until(n + 1, "process ").await).remove(0);
        let hops: Vec<Span> = about(spans.of("publish ")).into_iter().filter(|span| text(span, "gpufleet.reason").is_some()).collect();
        let expected: Vec<SpanId> = std::iter::once(named().span_id).chain(hops.iter().map(|hop| hop.span_id)).collect();
        assert_eq!((process.parent, &process.links), (Some(SpanParent::There(named().span_id)), &expected), "{hops:#?}");
        for hop in &hops {
            assert_eq!(hop.parent, Some(SpanParent::There(named().span_id)), "nothing of this worker ran before it");
            assert_eq!(text(hop, "gpufleet.gpu_id").as_deref(), Some("gpu-2"), "{hop:#?}");
        }
        forwarded += hops.len();
    }
    assert!(forwarded > 0, "others receive its tasks too");
}

#[tokio::test(start_paused = true)]
async fn a_publish_begins_the_trace_where_its_producer_named_none() {
    let spans = Arc::<Spans>::default();
    let fleet = Fleet::of(1).tracing(spans.clone()).start().await;
    result(&reply(&fleet.producer, echo("x")).await);
    let process = spans.until(1, "process ").await.remove(0);
    let publish = one(&spans.of("publish "), ("messaging.destination.name", "gpufleet.tasks.default"));
    assert_eq!((publish.parent, process.parent), (None, Some(SpanParent::There(publish.span_id))));
    assert_eq!((process.trace_id, process.links.as_slice()), (publish.trace_id, &[publish.span_id][..]));
}

#[tokio::test(start_paused = true)]
async fn a_task_of_plain_amqp_has_a_trace_that_follows_from_its_id_also_when_it_is_requeued() {
    let spans = Arc::<Spans>::default();
    let fleet = Fleet::of(1).tracing(spans.clone()).start().await;
    let bad: TaskId = "bad".parse().unwrap();
    let envelope = Envelope { message_id: Some(bad.to_string()), kind: Some("echo".to_owned()), ..Envelope::default() };
    let outgoing = Outgoing::new(Target::Queue(Queue::Pool(fleet.pool())), envelope, bytes::Bytes::from_static(b"no JSON"));
    fleet.ports.queue.publish(outgoing).await.unwrap();
    let first = spans.until(1, "process ").await.remove(0);
    assert_eq!((first.trace_id, first.parent, first.links.as_slice()), (TraceId::of_task(&bad), None, &[][..]));
    assert_eq!(text(&first, "error.type").as_deref(), Some("invalid_task"));

    until("it is a dead letter", async || fleet.producer.dead_letters().count().await.unwrap() == 1).await;
    fleet.producer.dead_letters().requeue(Some(&bad)).await.unwrap();
    let second = spans.until(2, "process ").await.remove(1);
    let requeue = one(&spans.of("publish "), ("messaging.message.id", "bad"));
    assert_eq!((requeue.kind, requeue.trace_id), (SpanKind::Producer, first.trace_id));
    assert_eq!((second.trace_id, second.links), (first.trace_id, vec![requeue.span_id]));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_recorded_makes_no_span_and_is_said_to_the_workers() {
    let spans = Arc::new(Spans { none: true, ..Spans::default() });
    let fleet = Fleet::of(1).tracing(spans.clone()).start().await;
    result(&reply(&fleet.producer, echo("untraced")).await);
    let unrecorded = Some(NAMED.replace("-01", "-00"));
    result(&reply(&fleet.producer, NewTask { traceparent: unrecorded, ..echo("its producer records nothing") }).await);
    assert_eq!(spans.all(), []);
    result(&reply(&fleet.producer, NewTask { traceparent: Some(NAMED.to_owned()), ..echo("its producer records") }).await);
    spans.until(1, "process ").await;
}

#[tokio::test(start_paused = true)]
async fn the_load_of_a_model_is_part_of_its_run() {
    let spans = Arc::<Spans>::default();
    let plan = Fleet::of(1).configured(|configuration| {
        configuration.models.simulated = vec![SimulatedModel { memory_mb: 1_000, load_ms: 700, ..SimulatedModel::named("a") }];
    });
    let fleet = plan.keeping_models().tracing(spans.clone()).start().await;
    let cold = task("simulate", json!({"model": "a", "model_mb": 1_000, "load_ms": 700, "duration_ms": 10, "result": "a"}));
    result(&reply(&fleet.producer, cold).await);
    let load = spans.until(1, "load model").await.remove(0);
    let run = spans.of("run").remove(0);
    assert_eq!(load.parent, Some(SpanParent::Here(run.span_id)));
    assert!(load.end_us - load.start_us >= 700_000 && run.end_us >= load.end_us, "{load:#?} {run:#?}");
}

#[tokio::test(start_paused = true)]
async fn without_traces_no_message_says_anything_of_them() {
    let fleet = Fleet::of(0).start().await;
    fleet.producer.submit(echo("plain")).await.unwrap();
    let mut consumer = fleet.ports.queue.consume(&Queue::Pool(fleet.pool()), NonZeroU16::MIN).await.unwrap();
    let headers = consumer.next().await.unwrap().envelope.headers;
    let Headers { traceparent, tracestate, links, .. } = headers;
    assert_eq!((traceparent, tracestate, links), (None, None, None));
    let none = Traces::start_with(&TracesSection::default(), &environment::seeded(1), &|_| None);
    assert!(none.is_none());
}

/// What sends spans to a collector at this URL.
fn sending_to(url: &str) -> Traces {
    let section = TracesSection { otlp_url: Some(SecretUrl::new(url)), ..TracesSection::default() };
    Traces::start_with(&section, &environment::seeded(1), &|_| None).expect("a collector is named")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_come_to_a_collector_as_they_were_made() {
    let collector = Collector::start().await;
    let traces = sending_to(&collector.url());
    let fleet = Fleet::of(1).tracing(traces.sink()).start().await;
    result(&reply(&fleet.producer, NewTask { traceparent: Some(NAMED.to_owned()), ..echo("x") }).await);
    until("its spans are there", async || {
        traces.flush().await;
        collector.named("publish {reply_to}").len() == 1
    })
    .await;
    assert!(collector.paths().iter().all(|path| path == "/v1/traces"), "{:?}", collector.paths());
    let spans = collector.spans();
    let process = spans.iter().find(|span| span.name.starts_with("process ")).unwrap();
    assert_eq!((process.service.as_str(), process.kind), ("gpufleet", CollectedKind::Consumer));
    assert_eq!([&process.trace_id, &process.parent_id], [&named().trace_id.to_string(), &named().span_id.to_string()]);
    assert_eq!(process.links, [format!("{}/{}", named().trace_id, named().span_id)]);
    assert_eq!(process.attributes["messaging.operation.type"], "process");
    assert!(process.start_ns > 0 && process.start_ns <= process.end_ns);
    let run = spans.iter().find(|span| span.name == "run").unwrap();
    assert_eq!((&run.parent_id, run.kind), (&process.span_id, CollectedKind::Internal));
    assert_eq!(traces.dropped(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_go_on_while_the_collector_is_away_and_spans_are_dropped_and_counted() {
    let traces = sending_to(&format!("http://127.0.0.1:{NOBODY}"));
    let fleet = Fleet::of(1).tracing(traces.sink()).start().await;
    for n in 0..5 {
        result(&reply(&fleet.producer, echo(n)).await);
    }
    until("spans are dropped", async || {
        traces.flush().await;
        traces.dropped() >= 5
    })
    .await;
}
