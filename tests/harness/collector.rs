//! A collector of spans: takes OTLP over HTTP in its protobuf form, as far as one client at a time needs it.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::ports::ReservedPort;

/// The longest head of a request, in bytes.
const HEAD_MAX: usize = 16 << 10;

/// A collector on a port of its own. It ends when it is dropped.
pub struct Collector {
    port: ReservedPort,
    heard: Arc<Mutex<Heard>>,
    serving: JoinHandle<()>,
}

/// What came so far.
#[derive(Default)]
struct Heard {
    connections: usize,
    paths: Vec<String>,
    spans: Vec<CollectedSpan>,
}

/// A span as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct CollectedSpan {
    /// Which programs it is of.
    pub service: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// 16 hexadecimal digits; empty: its trace begins with it.
    pub parent_id: String,
    /// What it did.
    pub name: String,
    /// What it is to messages.
    pub kind: SpanKind,
    /// Its beginning, in Unix ns.
    pub start_ns: u64,
    /// Its end, in Unix ns.
    pub end_ns: u64,
    /// The vendors' words.
    pub trace_state: String,
    /// The spans that it follows from, as `trace id/span id`.
    pub links: Vec<String>,
    /// What is known of it, as text.
    pub attributes: BTreeMap<String, String>,
    /// Why it failed.
    pub error: Option<String>,
}

impl Collector {
    /// Listens on a free port of this host.
    pub async fn start() -> Self {
        let port = ReservedPort::take();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).await.expect("a reserved port");
        let heard = Arc::<Mutex<Heard>>::default();
        let serving = tokio::spawn(serve(listener, Arc::clone(&heard)));
        Self { port, heard, serving }
    }

    /// Its URL, for `traces.otlp_url`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.number())
    }

    /// All spans that came so far.
    #[must_use]
    pub fn spans(&self) -> Vec<CollectedSpan> {
        lock(&self.heard).spans.clone()
    }

    /// Those with this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Vec<CollectedSpan> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    /// The paths that were asked for.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        lock(&self.heard).paths.clone()
    }

    /// How many connections were made to it.
    #[must_use]
    pub fn connections(&self) -> usize {
        lock(&self.heard).connections
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, heard: Arc<Mutex<Heard>>) {
    while let Ok((stream, _)) = listener.accept().await {
        lock(&heard).connections += 1;
        // Whoever breaks off asks again on a new connection.
        let _ = answer(stream, &heard).await;
    }
}

/// Takes one request.
async fn answer(mut stream: TcpStream, heard: &Mutex<Heard>) -> std::io::Result<()> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(place) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break place + 4;
        }
        if stream.read_buf(&mut read).await? == 0 || read.len() > HEAD_MAX {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let mut body = read.split_off(end);
    let length = head.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or_default();
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            return Ok(());
        }
    }
    let request = ExportTraceServiceRequest::decode(&body[..length]).expect("OTLP in protobuf");
    {
        let mut heard = lock(heard);
        heard.paths.extend(head.split(' ').nth(1).map(str::to_owned));
        heard.spans.extend(spans(request));
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n").await
}

fn spans(request: ExportTraceServiceRequest) -> Vec<CollectedSpan> {
    let mut found = Vec::new();
    for of_resource in request.resource_spans {
        let attributes = texts(of_resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        let service = attributes.get("service.name").cloned().unwrap_or_default();
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            found.push(collected(span, service.clone()));
        }
    }
    found
}

fn collected(span: Span, service: String) -> CollectedSpan {
    CollectedSpan {
        service,
        kind: span.kind(),
        error: span.status.map(|status| status.message).filter(|message| !message.is_empty()),
        trace_id: hexadecimal(&span.trace_id),
        span_id: hexadecimal(&span.span_id),
        parent_id: hexadecimal(&span.parent_span_id),
        name: span.name,
        start_ns: span.start_time_unix_nano,
        end_ns: span.end_time_unix_nano,
        trace_state: span.trace_state,
        links: span.links.iter().map(|link| format!("{}/{}", hexadecimal(&link.trace_id), hexadecimal(&link.span_id))).collect(),
        attributes: texts(span.attributes),
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|pair| (pair.key, pair.value.map(text).unwrap_or_default())).collect()
}

fn text(value: AnyValue) -> String {
    match value.value {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(value)) => value.to_string(),
        other => format!("{other:?}"),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
