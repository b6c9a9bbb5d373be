//! `PUT /api/v1/tensors/{name}`: the body of a request becomes a tensor. It is passed on as it comes.

use std::{future::poll_fn, io, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes, HttpBody},
    extract::{
        Path, Query, Request, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use data_link::NewTensor;
use futures::{StreamExt, stream};
use protocol::{DType, GpuId, IfExists, KeepAs, KeptTensor, TensorName, TensorShape};
use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};

use super::{Destination, named};
use crate::{
    Gateway, Problem,
    encoding::tensor_url,
    intake::{broken_off, check_coding, content_length, throw_away},
    problem::ProblemKind,
    query,
};

const DTYPE: &str = "x-gpufleet-dtype";
const SHAPE: &str = "x-gpufleet-shape";
const TTL: &str = "x-gpufleet-ttl-ms";
const IF_EXISTS: &str = "x-gpufleet-if-exists";
/// How much is taken and forgotten of a body that was refused, so that its client comes to the answer.
const IN_VAIN_BYTES: usize = 64 << 20;

/// Where a tensor is to be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutQuery {
    gpu: Option<String>,
}

/// A tensor whose bytes may come.
struct Prepared {
    new: NewTensor,
    bytes: u64,
    to: Destination,
}

/// `PUT /api/v1/tensors/{name}`.
pub(crate) async fn put(
    State(gateway): State<Gateway>,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<PutQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let (head, mut body) = request.into_parts();
    let prepared = async {
        let (name, gpu_id) = (named(name)?, gpu(query)?);
        gateway.prepare(name, gpu_id, &head.headers).await
    };
    let put = match prepared.await {
        Ok(prepared) => gateway.receive_tensor(prepared, &mut body).await,
        // Whoever waits to be asked for the body sends none once it is refused.
        Err(problem) if head.headers.contains_key(header::EXPECT) => return Err(problem),
        Err(problem) => Err(problem),
    };
    if put.is_err() {
        let _either_way = timeout(gateway.options.body_timeout, throw_away(&mut body, IN_VAIN_BYTES)).await;
    }
    let kept = put?;
    let etag = super::show::etag(kept.version);
    Ok((StatusCode::CREATED, [(header::LOCATION, tensor_url(&kept.tensor)), (header::ETAG, etag)], Json(kept)).into_response())
}

fn gpu(query: Result<Query<PutQuery>, QueryRejection>) -> Result<Option<GpuId>, Problem> {
    let Query(PutQuery { gpu }) = query.map_err(|rejection| query::unread(&["gpu"], &rejection))?;
    gpu.map(|text| GpuId::new(&*text).map_err(|error| query::not_allowed("gpu", error.rule, &text))).transpose()
}

impl Gateway {
    /// Checks everything that is known before the first byte, and finds the GPU.
    async fn prepare(&self, name: TensorName, gpu_id: Option<GpuId>, headers: &HeaderMap) -> Result<Prepared, Problem> {
        check_coding(headers)?;
        let shape = shape(headers)?;
        let bytes = shape.bytes().ok_or_else(|| query::not_allowed(SHAPE, "the shape of a tensor that has fewer than 2^64 bytes", "it"))?;
        if let Some(length) = content_length(headers)
            && bytes != length as u64
        {
            return Err(wrong_length(bytes, &format!("has {length} bytes")));
        }
        let new = NewTensor {
            name,
            shape,
            owner: self.ports.producer.fresh_task_id().to_string(),
            ttl_ms: ttl_ms(headers)?,
            if_exists: if_exists(headers)?,
        };
        let to = self.tensors().destination(bytes, gpu_id.as_ref()).await.map_err(|cause| self.tensors_failed(&cause))?;
        self.unreached.accepted();
        Ok(Prepared { new, bytes, to })
    }

    /// Passes the body on to the GPU. Where the body is at fault that is told, and else why the GPU does not take it.
    async fn receive_tensor(&self, Prepared { new, bytes, to }: Prepared, body: &mut Body) -> Result<KeptTensor, Problem> {
        let _share = self.share_of_passage(bytes)?;
        let (pieces, mut taken) = mpsc::channel(1);
        let stream = stream::poll_fn(move |context| taken.poll_recv(context)).boxed();
        let (written, passed) = tokio::join!(to.write(new, stream), pass_on(body, pieces, bytes, self.options.body_timeout));
        passed?;
        written.map_err(|cause| self.tensors_failed(&cause))
    }
}

/// Passes a body of so many bytes on, and ends early where nobody takes it any more. What is wrong with the body ends the stream with an error, so that it never looks whole.
async fn pass_on(body: &mut Body, to: mpsc::Sender<io::Result<Bytes>>, bytes: u64, silence_max: Duration) -> Result<(), Problem> {
    let passed = pass_pieces(body, &to, bytes, silence_max).await;
    if let Err(problem) = &passed {
        let _nobody_takes_it = to.send(Err(io::Error::other(problem.document().detail.clone()))).await;
    }
    passed
}

async fn pass_pieces(body: &mut Body, to: &mpsc::Sender<io::Result<Bytes>>, bytes: u64, silence_max: Duration) -> Result<(), Problem> {
    let mut left = bytes;
    loop {
        let frame = tokio::select! {
            biased;
            () = to.closed() => return Ok(()),
            frame = timeout(silence_max, poll_fn(|context| Pin::new(&mut *body).poll_frame(context))) => frame,
        };
        let frame = frame.map_err(|_| {
            let detail = format!("body: nothing came for {} ms (gateway.body_timeout_ms)", silence_max.as_millis());
            Problem::new(ProblemKind::BodyTimeout, detail).field("body")
        })?;
        let Some(frame) = frame else { break };
        // What is no data are trailers.
        let Ok(data) = frame.map_err(|error| broken_off(&error))?.into_data() else { continue };
        left = left.checked_sub(data.len() as u64).ok_or_else(|| wrong_length(bytes, "has more"))?;
        if to.send(Ok(data)).await.is_err() {
            return Ok(());
        }
    }
    if left == 0 { Ok(()) } else { Err(wrong_length(bytes, &format!("has {} bytes", bytes - left))) }
}

fn wrong_length(bytes: u64, has: &str) -> Problem {
    let detail = format!("{SHAPE}: a tensor of this type and shape has {bytes} bytes, and the body {has}");
    Problem::new(ProblemKind::InvalidParameter, detail).field(SHAPE)
}

/// What the headers say of the numbers; without a shape one dimension of all that comes.
fn shape(headers: &HeaderMap) -> Result<TensorShape, Problem> {
    let dtype = match text(headers, DTYPE) {
        None => DType::U8,
        Some(name) => {
            let names = DType::ALL.map(DType::name).join(", ");
            DType::named(&name).ok_or_else(|| query::not_allowed(DTYPE, &format!("one of {names}"), &name))?
        }
    };
    let shape = match (text(headers, SHAPE), content_length(headers)) {
        (Some(sides), _) => sides_of(&sides)
            .ok_or_else(|| query::not_allowed(SHAPE, "whole numbers with commas between them, as 2,3, or empty for one number", &sides))?,
        (None, Some(length)) if length % dtype.size() == 0 => vec![length / dtype.size()],
        (None, Some(length)) => {
            let detail = format!("{DTYPE}: {length} bytes are no whole number of {}, of which each has {}", dtype.name(), dtype.size());
            return Err(Problem::new(ProblemKind::InvalidParameter, detail).field(DTYPE));
        }
        (None, None) => {
            let detail = format!("{SHAPE}: is absent, and so is Content-Length; one of the two must say how long the tensor is");
            return Err(Problem::new(ProblemKind::InvalidParameter, detail).field(SHAPE));
        }
    };
    Ok(TensorShape { dtype, shape })
}

/// `2,3`; of nothing, no sides: one number.
fn sides_of(text: &str) -> Option<Vec<usize>> {
    if text.trim().is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|side| side.trim().parse::<usize>().ok()).collect()
}

fn ttl_ms(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let read = |given: String| {
        let ms = given.parse::<u64>().ok().filter(|ms| (1..=KeepAs::TTL_MS_MAX).contains(ms));
        ms.ok_or_else(|| query::not_allowed(TTL, &format!("a whole number from 1 to {}", KeepAs::TTL_MS_MAX), &given))
    };
    text(headers, TTL).map(read).transpose()
}

fn if_exists(headers: &HeaderMap) -> Result<IfExists, Problem> {
    match text(headers, IF_EXISTS).as_deref() {
        None | Some("replace") => Ok(IfExists::Replace),
        Some("fail") => Ok(IfExists::Fail),
        Some(given) => Err(query::not_allowed(IF_EXISTS, "replace or fail", given)),
    }
}

/// A header's value.
fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn of(given: &[(&'static str, &'static str)]) -> Result<(DType, Vec<usize>), String> {
        let header = |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), value.parse().expect("a value"));
        let headers: HeaderMap = given.iter().map(header).collect();
        shape(&headers).map(|shape| (shape.dtype, shape.shape)).map_err(|problem| problem.document().field.clone().unwrap_or_default())
    }

    #[test]
    fn what_the_numbers_are_is_said_by_headers_or_by_the_length() {
        let (dtype, shape, length) = (DTYPE, SHAPE, "content-length");
        assert_eq!(of(&[(length, "5")]), Ok((DType::U8, vec![5])));
        assert_eq!(of(&[(length, "12"), (dtype, "f32")]), Ok((DType::F32, vec![3])));
        assert_eq!(of(&[(dtype, "bf16"), (shape, "2, 3")]), Ok((DType::BF16, vec![2, 3])));
        assert_eq!(of(&[(dtype, "f64"), (shape, "")]), Ok((DType::F64, vec![])));
        for (given, field) in [
            (vec![], shape),
            (vec![(length, "5"), (dtype, "f32")], dtype),
            (vec![(length, "4"), (dtype, "float32")], dtype),
            (vec![(shape, "2,-3")], shape),
            (vec![(shape, "2,,3")], shape),
        ] {
            assert_eq!(of(&given), Err(field.to_owned()), "{given:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_too_short_too_long_or_silent_ends_with_an_error() {
        for (body, bytes, status) in [
            (Body::from("abc"), 3, None),
            (Body::from("abc"), 4, Some(400)),
            (Body::from("abc"), 2, Some(400)),
            (Body::from_stream(stream::pending::<Result<Bytes, io::Error>>()), 1, Some(408)),
            (Body::from_stream(stream::iter([Err::<Bytes, _>(io::Error::other("away"))])), 1, Some(400)),
        ] {
            let (mut body, (pieces, mut taken)) = (body, mpsc::channel(8));
            let passed = pass_on(&mut body, pieces, bytes, Duration::from_secs(30)).await;
            assert_eq!(passed.err().map(|problem| problem.document().status), status);
            let mut last = None;
            while let Some(piece) = taken.recv().await {
                last = Some(piece.is_ok());
            }
            assert_eq!(last, Some(status.is_none()), "what does not look whole ends with an error");
        }
    }

    #[tokio::test]
    async fn a_body_that_nobody_takes_is_not_waited_for() {
        let (pieces, taken) = mpsc::channel(1);
        drop(taken);
        let mut body = Body::from_stream(stream::pending::<Result<Bytes, io::Error>>());
        assert!(pass_on(&mut body, pieces, 1, Duration::from_secs(30)).await.is_ok());
    }
}
