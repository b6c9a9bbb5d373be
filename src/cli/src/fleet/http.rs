//! The little of HTTP that a command speaks to a gateway: one request, one answer, JSON in both, or a frame where there are raw bytes.
//!
//! On the HTTP library that the gateway itself is made of, so that it costs the program no further crate.

use std::{
    error::Error,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode,
    body::{Body, Bytes},
    client::conn::http1,
    header,
    http::request::Builder,
};
use hyper_util::rt::TokioIo;
use protocol::frame::JSON;
use tokio::{net::TcpStream, time::timeout};

use super::{heard::Heard, url::GatewayUrl};

/// Longest wait for a connection.
const DIALLED_IN: Duration = Duration::from_secs(5);
/// Longest wait for an answer, where a question has no limit of its own. The gateway answers most of them at once.
pub(super) const ANSWERED_IN: Duration = Duration::from_secs(30);
/// The longest answer that is read, in bytes: a status holds the task's reply.
pub(super) const ANSWER_BYTES_MAX: usize = 256 * 1_024 * 1_024;

type Connection = http1::SendRequest<Full<Bytes>>;

/// What is asked. Asking twice must be harmless: a question goes out again where the connection was closed meanwhile.
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) path: String,
    /// None where it is empty.
    pub(super) body: Bytes,
    /// What the body is. Default: JSON.
    pub(super) content_type: &'static str,
    /// What the answer may be, where that is not JSON alone.
    pub(super) accept: Option<&'static str>,
    /// W3C trace context.
    pub(super) traceparent: Option<String>,
    /// Longest wait for its answer.
    pub(super) answered_in: Duration,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Question {
    /// A question without a body.
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        let (body, content_type) = (Bytes::new(), JSON);
        Self { method, path: path.into(), body, content_type, accept: None, traceparent: None, answered_in: ANSWERED_IN }
    }

    fn request(&self, url: &GatewayUrl) -> Result<Request<Full<Bytes>>, String> {
        let mut request = head(url, self.method.clone(), &self.path);
        if !self.body.is_empty() {
            request = request.header(header::CONTENT_TYPE, self.content_type);
        }
        if let Some(accept) = self.accept {
            request = request.header(header::ACCEPT, accept);
        }
        if let Some(traceparent) = &self.traceparent {
            request = request.header("traceparent", traceparent);
        }
        request.body(Full::new(self.body.clone())).map_err(|error| error.to_string())
    }
}

/// A client of one gateway. Connections are kept between questions.
pub(super) struct Client {
    url: GatewayUrl,
    idle: Mutex<Vec<Connection>>,
}

impl Client {
    pub(super) fn new(url: GatewayUrl) -> Self {
        Self { url, idle: Mutex::default() }
    }

    pub(super) const fn url(&self) -> &GatewayUrl {
        &self.url
    }

    /// Asks, and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// Why there is no answer, in words.
    pub(super) async fn ask(&self, question: &Question) -> Result<Answer, String> {
        let answered_in = question.answered_in;
        let asking = timeout(answered_in, async {
            // The other end may have closed a kept connection meanwhile. Then a fresh one tells how things are.
            if let Some(kept) = self.kept()
                && let Ok(answer) = self.exchange(kept, question).await
            {
                return Ok(answer);
            }
            let fresh = dial(&self.url).await?;
            self.exchange(fresh, question).await
        });
        asking.await.unwrap_or_else(|_| Err(format!("no answer within {} s", answered_in.as_secs())))
    }

    async fn exchange(&self, mut connection: Connection, question: &Question) -> Result<Answer, String> {
        let request = question.request(&self.url)?;
        connection.ready().await.map_err(|error| in_words(&error))?;
        let (head, body) = connection.send_request(request).await.map_err(|error| in_words(&error))?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| in_words(&*error))?.to_bytes();
        self.keep(connection);
        Ok(Answer { status: head.status, body })
    }

    fn kept(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|connection| !connection.is_closed())
    }

    fn keep(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

/// The head of a request that goes to a gateway, without what is said of its body.
pub(super) fn head(url: &GatewayUrl, method: Method, path: &str) -> Builder {
    let path = format!("{}{path}", url.prefix);
    let request = Request::builder().method(method).uri(path).header(header::HOST, url.authority());
    request.header(header::USER_AGENT, concat!("gpufleet/", env!("CARGO_PKG_VERSION")))
}

/// A new connection to a gateway.
///
/// # Errors
/// Why there is none, in words.
pub(super) async fn dial<B>(url: &GatewayUrl) -> Result<http1::SendRequest<B>, String>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let dialled = timeout(DIALLED_IN, TcpStream::connect((url.host.as_str(), url.port))).await;
    let stream = dialled.map_err(|_| format!("no connection within {} s", DIALLED_IN.as_secs()))?.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (connection, driver) = http1::handshake(TokioIo::new(Heard::new(stream))).await.map_err(|error| in_words(&error))?;
    tokio::spawn(async move {
        // Whoever asks over it hears of its end.
        let _ended = driver.await;
    });
    Ok(connection)
}

/// An error with its causes: the library's own words stop at what it was doing.
pub(super) fn in_words(error: &(dyn Error + 'static)) -> String {
    let mut causes = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(deeper) = cause {
        causes.push(deeper.to_string());
        cause = deeper.source();
    }
    causes.join(": ")
}
