//! Tensors that stay on GPUs: on servers through the data ports of the GPUs themselves, else through a gateway. Their bytes are passed on as they come.

use std::{io, time::Duration};

use data_link::NewTensor;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use gateway::{FreedTensor, PoolTensors, ProblemDocument, TensorPage, tensor_url, url_encoded};
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::{Body, Bytes, Frame, Incoming},
    header,
};
use protocol::{DType, GpuId, IfExists, KeptTensor, TensorName, TensorShape, TensorView};
use tokio::time::timeout;

use super::{
    Fleet, Gateway,
    gateway::fault_of,
    http::{ANSWER_BYTES_MAX, ANSWERED_IN, Answer, Question, dial, head, in_words},
};
use crate::{fault::Fault, servers::Servers};

/// The longest silence of a gateway that gives the bytes of a tensor.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// What a writing through a gateway may take beside the usual wait for an answer: so many bytes in a millisecond, which is 1 MB/s.
const SLOWEST_BYTES_PER_MS: u64 = 1_000;

const DTYPE: &str = "x-gpufleet-dtype";
const SHAPE: &str = "x-gpufleet-shape";
const TTL: &str = "x-gpufleet-ttl-ms";
const IF_EXISTS: &str = "x-gpufleet-if-exists";

/// A tensor that is to be made.
pub(crate) struct NewBytes {
    pub(crate) name: TensorName,
    pub(crate) shape: TensorShape,
    /// `None`: the GPU with the most free memory.
    pub(crate) gpu_id: Option<GpuId>,
    /// `None`: as the worker is configured.
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) if_exists: IfExists,
}

/// A tensor whose bytes come.
pub(crate) struct Coming {
    pub(crate) shape: TensorShape,
    /// All of them, or an error: what ends without one is whole.
    pub(crate) bytes: BoxStream<'static, Result<Bytes, Fault>>,
}

impl Fleet {
    /// The tensors of the pool, by name.
    pub(crate) async fn tensors(&self) -> Result<Vec<TensorView>, Fault> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = match self {
                Self::Servers(servers) => {
                    let now_ms = servers.environment().clock.now_ms();
                    servers.pool_tensors().await?.page(after.as_ref(), PoolTensors::LISTED_MAX, now_ms).await?
                }
                Self::Gateway(gateway) => gateway.tensor_page(after.as_ref()).await?,
            };
            all.extend(page.tensors);
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Makes a tensor of bytes, as many as its shape says.
    pub(crate) async fn write_tensor(&self, new: NewBytes, bytes: BoxStream<'static, io::Result<Bytes>>) -> Result<KeptTensor, Fault> {
        match self {
            Self::Servers(servers) => servers.write_tensor(new, bytes).await,
            Self::Gateway(gateway) => gateway.write_tensor(new, bytes).await,
        }
    }

    /// The bytes of a tensor.
    pub(crate) async fn read_tensor(&self, name: &TensorName) -> Result<Coming, Fault> {
        match self {
            Self::Servers(servers) => {
                let found = servers.pool_tensors().await?.find(name, None).await?;
                let record = found.record();
                let bytes = found.read(0..record.bytes).map_err(Fault::from).boxed();
                Ok(Coming { shape: record.shape.clone(), bytes })
            }
            Self::Gateway(gateway) => gateway.read_tensor(name).await,
        }
    }

    /// Frees every copy of a tensor.
    pub(crate) async fn free_tensor(&self, name: &TensorName) -> Result<FreedTensor, Fault> {
        match self {
            Self::Servers(servers) => {
                let freed = servers.pool_tensors().await?.free(name, None).await?;
                servers.note("free_tensor", name.as_str(), "").await;
                Ok(freed)
            }
            Self::Gateway(gateway) => {
                let question = Question::new(Method::DELETE, tensor_url(name));
                let answer = gateway.ask(&question).await?;
                gateway.read(&question, &answer)
            }
        }
    }
}

impl Servers {
    async fn pool_tensors(&self) -> Result<PoolTensors, Fault> {
        Ok(PoolTensors::new(self.table().await?, self.configuration().worker.pool.clone()))
    }

    async fn write_tensor(&self, new: NewBytes, bytes: BoxStream<'static, io::Result<Bytes>>) -> Result<KeptTensor, Fault> {
        let NewBytes { name, shape, gpu_id, ttl_ms, if_exists } = new;
        let length = shape.bytes().unwrap_or(u64::MAX);
        let to = self.pool_tensors().await?.destination(length, gpu_id.as_ref()).await?;
        let owner = self.environment().fresh_task_id().to_string();
        Ok(to.write(NewTensor { name, shape, owner, ttl_ms, if_exists }, bytes).await?)
    }
}

impl Gateway {
    async fn tensor_page(&self, after: Option<&TensorName>) -> Result<TensorPage, Fault> {
        let after = after.map(|name| format!("&after={}", url_encoded(name.as_str()))).unwrap_or_default();
        self.get(&format!("/api/v1/tensors?limit={}{after}", PoolTensors::LISTED_MAX)).await
    }

    async fn write_tensor(&self, new: NewBytes, bytes: BoxStream<'static, io::Result<Bytes>>) -> Result<KeptTensor, Fault> {
        let NewBytes { name, shape, gpu_id, ttl_ms, if_exists } = new;
        let on = gpu_id.map(|gpu_id| format!("?gpu={}", url_encoded(gpu_id.as_str()))).unwrap_or_default();
        let question = Question::new(Method::PUT, tensor_url(&name) + &on);
        let length = shape.bytes().unwrap_or(u64::MAX);
        let sides: Vec<String> = shape.shape.iter().map(ToString::to_string).collect();
        let mut request = head(self.url(), Method::PUT, &question.path)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, length)
            .header(DTYPE, shape.dtype.name())
            .header(SHAPE, sides.join(","));
        if let Some(ttl_ms) = ttl_ms {
            request = request.header(TTL, ttl_ms);
        }
        if if_exists == IfExists::Fail {
            request = request.header(IF_EXISTS, "fail");
        }
        let request = request.body(StreamBody::new(bytes.map_ok(Frame::data))).map_err(|error| Fault::Failed(error.to_string()))?;
        let answered_in = ANSWERED_IN + Duration::from_millis(length / SLOWEST_BYTES_PER_MS);
        let answering = async { whole(self.send(request).await?).await };
        let late = |_| Fault::TimeLimit(format!("write the tensor {name}: no answer within {} s", answered_in.as_secs()));
        let answer = timeout(answered_in, answering).await.map_err(late)??;
        self.read(&question, &answer)
    }

    async fn read_tensor(&self, name: &TensorName) -> Result<Coming, Fault> {
        let request = head(self.url(), Method::GET, &tensor_url(name)).header(header::ACCEPT, "application/octet-stream");
        let request = request.body(Full::<Bytes>::default()).map_err(|error| Fault::Failed(error.to_string()))?;
        let late = |_| Fault::Unavailable(format!("read the tensor {name}: no answer within {} s", ANSWERED_IN.as_secs()));
        let response = timeout(ANSWERED_IN, self.send(request)).await.map_err(late)??;
        if !response.status().is_success() {
            return Err(refused(response).await);
        }
        let shape = shape(response.headers()).ok_or_else(|| {
            Fault::Failed(format!(
                "read the tensor {name}: the answer does not say what its numbers are; is it a gateway of this program's version?"
            ))
        })?;
        Ok(Coming { shape, bytes: frames(response.into_body()) })
    }

    /// Sends a request over a connection of its own.
    async fn send<B>(&self, request: Request<B>) -> Result<Response<Incoming>, Fault>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let away = |reason: String| Fault::Unavailable(format!("reach the gateway at {}: {reason}", self.url()));
        let mut connection = dial::<B>(self.url()).await.map_err(away)?;
        connection.ready().await.map_err(|error| away(in_words(&error)))?;
        connection.send_request(request).await.map_err(|error| {
            // The bytes that were to be sent could not be had, as far as the gateway is not at fault.
            if error.is_user() { Fault::Usage(in_words(&error)) } else { away(in_words(&error)) }
        })
    }
}

/// Reads a short answer to its end.
async fn whole(response: Response<Incoming>) -> Result<Answer, Fault> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(|error| Fault::Unavailable(in_words(&*error)))?;
    Ok(Answer { status: head.status, body: body.to_bytes() })
}

/// What an answer says that is no success.
async fn refused(response: Response<Incoming>) -> Fault {
    let read = timeout(ANSWERED_IN, whole(response)).await;
    let Ok(Ok(Answer { status, body })) = read else { return Fault::Unavailable("the answer broke off".to_owned()) };
    match serde_json::from_slice::<ProblemDocument>(&body) {
        Ok(problem) => fault_of(status, problem),
        Err(_) => Fault::Failed(format!("the answer is {status}, and not as a gateway says it; is this a gateway's address?")),
    }
}

/// What the headers say of the numbers.
fn shape(headers: &HeaderMap) -> Option<TensorShape> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let dtype = DType::named(text(DTYPE)?)?;
    let sides = text(SHAPE)?;
    let shape = sides.split(',').filter(|side| !side.is_empty()).map(|side| side.parse().ok()).collect::<Option<Vec<usize>>>()?;
    Some(TensorShape { dtype, shape })
}

/// The bytes of an answer. One that breaks off before its announced length ends with an error.
fn frames(body: Incoming) -> BoxStream<'static, Result<Bytes, Fault>> {
    let next = |body: Option<Incoming>| async move {
        let mut body = body?;
        let silent = |_| Fault::Unavailable(format!("nothing more came for {} s", SILENCE_MAX.as_secs()));
        match timeout(SILENCE_MAX, body.frame()).await.map_err(silent) {
            Ok(None) => None,
            // What is no data are trailers.
            Ok(Some(Ok(frame))) => Some((Ok(frame.into_data().unwrap_or_default()), Some(body))),
            Ok(Some(Err(error))) => {
                let cut = format!("the tensor broke off: {}; the GPU that had it may be gone", in_words(&error));
                Some((Err(Fault::Failed(cut)), None))
            }
            Err(fault) => Some((Err(fault), None)),
        }
    };
    stream::unfold(Some(body), next).boxed()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    #[test]
    fn the_headers_say_what_the_numbers_are() {
        let of = |dtype: &str, sides: &str| {
            let headers = [(DTYPE, dtype), (SHAPE, sides)];
            shape(&headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a value"))).collect())
        };
        let expected = |dtype, sides: &[usize]| Some(TensorShape { dtype, shape: sides.to_vec() });
        assert_eq!(of("f32", "2,3"), expected(DType::F32, &[2, 3]));
        assert_eq!(of("bf16", ""), expected(DType::BF16, &[]));
        assert_eq!((of("float", "2"), of("f32", "two"), shape(&HeaderMap::new())), (None, None, None));
    }
}
