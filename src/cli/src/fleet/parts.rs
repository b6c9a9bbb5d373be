//! The parts of one task's result as they come, over the events of the gateway that submitted it.

use std::time::Duration;

use gateway::status_url;
use http_body_util::Full;
use hyper::{Method, body::Bytes, header};
use protocol::{Partial, TaskId, TaskStatus};
use tokio::time::{sleep, timeout};

use super::{
    GatewayUrl,
    answer::{Begun, Lines},
    http::{ANSWERED_IN, dial, head, in_words},
};
use crate::fault::Fault;

/// The pause before a stream that broke off is taken up again.
const PAUSE: Duration = Duration::from_millis(500);
/// A gateway whose events rest shows every 15 s that it lives.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// By which a client says what it has seen of a stream.
const LAST_EVENT_ID: &str = "last-event-id";

/// Tells each part once, until the task has ended. While the gateway is away it is asked again and again: whoever waits has a time limit.
///
/// # Errors
/// What `told` gives; and what the gateway says, where another try would end in the same way.
pub(super) async fn follow(url: &GatewayUrl, task_id: &TaskId, told: &impl Fn(&Partial) -> Result<(), Fault>) -> Result<(), Fault> {
    let mut seen = String::new();
    loop {
        match listen((url, task_id), &mut seen, told).await {
            Ok(Ended::Task) => return Ok(()),
            Ok(Ended::Stream) | Err(Fault::Unavailable(_)) => sleep(PAUSE).await,
            Err(fault) => return Err(fault),
        }
    }
}

/// What is over.
enum Ended {
    Task,
    /// It can be taken up again.
    Stream,
}

async fn listen(
    (url, task_id): (&GatewayUrl, &TaskId),
    seen: &mut String,
    told: &impl Fn(&Partial) -> Result<(), Fault>,
) -> Result<Ended, Fault> {
    let asked = timeout(ANSWERED_IN, ask(url, task_id, seen)).await;
    let mut lines = asked.unwrap_or_else(|_| Err(Fault::Unavailable(format!("no answer within {} s", ANSWERED_IN.as_secs()))))?;
    let (mut begun, mut ended) = (Begun::default(), Ended::Stream);
    while let Some(line) = lines.next().await? {
        let Some(event) = begun.take(&line) else { continue };
        let not_understood = |error: serde_json::Error| Fault::Failed(format!("event {} is not understood: {error}", event.name));
        match event.name.as_str() {
            "partial" => {
                let part: Partial = serde_json::from_slice(&event.data).map_err(not_understood)?;
                told(&part)?;
            }
            "reply" => return Ok(Ended::Task),
            "status" => {
                let status: TaskStatus = serde_json::from_slice(&event.data).map_err(not_understood)?;
                ended = if status.state.outcome().is_some() { Ended::Task } else { Ended::Stream };
            }
            _ => {}
        }
        if !event.id.is_empty() {
            *seen = event.id;
        }
    }
    Ok(ended)
}

async fn ask(url: &GatewayUrl, task_id: &TaskId, seen: &str) -> Result<Lines, Fault> {
    let away = |reason: String| Fault::Unavailable(format!("reach the gateway at {url}: {reason}"));
    let mut request = head(url, Method::GET, &format!("{}/events", status_url(task_id))).header(header::ACCEPT, "text/event-stream");
    if !seen.is_empty() {
        request = request.header(LAST_EVENT_ID, seen);
    }
    let request = request.body(Full::<Bytes>::default()).map_err(|error| Fault::Failed(error.to_string()))?;
    let mut connection = dial::<Full<Bytes>>(url).await.map_err(away)?;
    connection.ready().await.map_err(|error| away(in_words(&error)))?;
    let response = connection.send_request(request).await.map_err(|error| away(in_words(&error)))?;
    Lines::of(response, Some(SILENCE_MAX)).await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Answers one request with these events, and closes. The head of the request, in small letters.
    async fn answer(listener: &TcpListener, events: &str) -> String {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            let mut bytes = [0; 1_024];
            let length = stream.read(&mut bytes).await.expect("a request");
            assert!(length > 0, "it ended after {request}");
            request.push_str(std::str::from_utf8(&bytes[..length]).expect("text"));
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        stream.write_all(format!("{head}{events}").as_bytes()).await.expect("sent");
        request.to_lowercase()
    }

    #[tokio::test]
    async fn parts_are_told_once_each_although_the_stream_breaks_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url: GatewayUrl = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("a URL");
        let serving = async {
            let first = answer(&listener, "id: 4\nevent: partial\ndata: {\"number\":1,\"value\":\"a\"}\n\n").await;
            let second =
                answer(&listener, "id: 5\nevent: partial\ndata: {\"number\":2,\"value\":\"b\"}\n\nevent: reply\ndata: {}\n\n").await;
            (first, second)
        };
        let parts = RefCell::new(Vec::new());
        let told = |part: &Partial| {
            parts.borrow_mut().push((part.number, part.value.to_string()));
            Ok(())
        };
        let task_id = TaskId::new("t").expect("valid");
        let ((first, second), followed) = tokio::join!(serving, follow(&url, &task_id, &told));
        followed.expect("the task has ended");
        assert!(first.starts_with("get /api/v1/tasks/t/events ") && !first.contains(LAST_EVENT_ID), "{first}");
        assert!(second.contains("\r\nlast-event-id: 4\r\n"), "{second}");
        assert_eq!(parts.into_inner(), [(1, "\"a\"".to_owned()), (2, "\"b\"".to_owned())]);
    }

    #[tokio::test]
    async fn a_part_that_cannot_be_told_ends_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url: GatewayUrl = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("a URL");
        let task_id = TaskId::new("t").expect("valid");
        let serving = answer(&listener, "event: partial\ndata: {\"number\":1,\"value\":1}\n\n");
        let (_, followed) = tokio::join!(serving, follow(&url, &task_id, &|_: &Partial| Err(Fault::ReaderGone)));
        assert!(matches!(followed, Err(Fault::ReaderGone)), "{followed:?}");
    }
}
