//! Programs that send spans, as the standard variables of OpenTelemetry say.

use serde_json::json;
use tests::{collector::Collector, program::Program, until::until};

use crate::http::{get_json, get_text};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_one_trace_from_the_gateway_to_its_reply() {
    let collector = Collector::start().await;
    let url = collector.url();
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()), ("OTEL_SERVICE_NAME", "render-farm")];
    let fleet = Program::start(["up", "--simulated", "1", "--listen", "127.0.0.1:0"], &variables);
    let url = fleet.url().await;
    let request = reqwest::Client::new().post(format!("{url}/api/v1/tasks"));
    let request = request.header("traceparent", format!("00-{TRACE}-{PARENT}-01")).header("tracestate", "rojo=1");
    assert_eq!(request.json(&json!({"task_id": "traced", "kind": "echo"})).send().await.unwrap().status(), 202);
    let ended = async || get_json(&format!("{url}/api/v1/tasks/traced")).await.1["state"] == "succeeded";
    until("it has succeeded", ended).await;
    let counted = async || get_text(&format!("{url}/metrics")).await.contains("gpufleet_trace_spans_dropped_total 0");
    until("spans are counted", counted).await;
    fleet.signal("TERM");
    assert_eq!(fleet.exit_code().await, 0, "{}", fleet.log());

    // What was told last was sent before the end.
    let spans = collector.spans();
    let of = |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name} is not among {spans:#?}"));
    for name in ["publish gpufleet.tasks.default", "process gpufleet.tasks.default"] {
        let span = of(name);
        assert_eq!((span.trace_id.as_str(), span.parent_id.as_str()), (TRACE, PARENT), "{span:#?}");
        assert_eq!((span.service.as_str(), span.trace_state.as_str()), ("render-farm", "rojo=1"), "{span:#?}");
        assert_eq!(span.attributes["messaging.message.id"], "traced");
    }
    assert_eq!(of("run").parent_id, of("process gpufleet.tasks.default").span_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_behind_tls_is_told_of_and_the_fleet_serves() {
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example:4318")];
    let fleet = Program::start(["up", "--simulated", "1", "--listen", "127.0.0.1:0"], &variables);
    let url = fleet.url().await;
    assert_eq!(get_json(&format!("{url}/healthz")).await.0, 200);
    assert!(!get_text(&format!("{url}/metrics")).await.contains("gpufleet_trace_spans"), "nothing is traced");
    fleet.signal("TERM");
    assert_eq!(fleet.exit_code().await, 0, "{}", fleet.log());
    let log = fleet.log();
    assert!(log.contains("traces are off") && log.contains("must begin with http://"), "{log}");
}
