//! The HTTP client that brings batches of spans to a collector: one connection for each batch, plain HTTP.

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, Uri, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::net::TcpStream;

/// The port of a URL that names none.
const PORT: u16 = 80;
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Who asks bounds the time.
#[derive(Debug)]
pub(super) struct CollectorClient;

#[async_trait]
impl HttpClient for CollectorClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (mut parts, body) = request.into_parts();
        let authority = parts.uri.authority().cloned().ok_or("the URL of the collector names no host")?;
        // An IPv6 address stands in brackets in a URL alone.
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(PORT))).await?;
        let address = authority.as_str().rsplit('@').next().unwrap_or_default();
        parts.headers.insert(header::HOST, address.parse()?);
        parts.uri = parts.uri.path_and_query().map_or("/", |path| path.as_str()).parse::<Uri>()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let asked = async {
            let (head, body) = sender.send_request(Request::from_parts(parts, Full::new(body))).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        let mut asked = std::pin::pin!(asked);
        // The connection ends with the answer, and what is unread with it.
        tokio::select! {
            biased;
            answer = &mut asked => answer,
            ended = connection => {
                ended?;
                asked.await
            }
        }
    }
}
