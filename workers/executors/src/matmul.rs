//! `matmul`: the product of two matrices, by cuBLAS.
//!
//! ```json
//! {"a": [[1, 2], [3, 4]], "b": [[5, 6], [7, 8]], "dtype": "f32", "check": true}
//! ```
//! Gives `{"product": [[19, 22], [43, 50]], "max_error": 0}`. `dtype` is `f32` (default) or `f64`. With `check` the product is also computed on the CPU in double precision; `max_error`
//! is the largest difference, relative to the largest number of the product. A product that the GPU has no memory for is computed in pieces, by rows of `a`.
//!
//! ```json
//! {"a": {"$segment": 0, "dtype": "f32", "shape": [1000, 500]}, "b": {"$segment": 1, "dtype": "f32", "shape": [500, 10]}}
//! ```
//! A matrix may be raw bytes (`schemas/frame.md`), which say the `dtype`. Then the product is raw bytes as well, `{"product": {"$segment": 0, "dtype": "f32", "shape": [1000, 10]}}`; `"outputs"`
//! asks for one of the two, `"numbers"` or `"segments"`, in any case.
//!
//! ```json
//! {"a": {"tensor": "weights"}, "b": {"tensor": "inputs"}}
//! ```
//! A matrix may also be a tensor of two sides: it is multiplied where it lies. With `keep_as` the product stays on the GPU, `{"product": {"tensor": "outputs", ...}}`, and may be of any size that the GPU has memory for.
//!
//! Small products of lists run together, whoever asked for them: to begin one costs more than to compute it. What comes as raw bytes or as a tensor runs by itself.

mod numbers;
mod together;

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use devices::{
    Device, DeviceBuffer, Use,
    nvidia::cuda::{Lane, Matrix},
};
use protocol::{DType, Framed, Json, Kind, SegmentRef, Segments, TensorRef, TensorShape};
use serde::{Serialize, Serializer, de::IgnoredAny};

use self::numbers::{Factor, Numbers, factor};
use crate::{
    Batching, Executor, Failure, Run, RunBatch, TakesTensors,
    cuda::{Finite, cuda_of, failure},
    occupy::occupy,
    payload::Fields,
    schemas,
    tensor_inputs::{self, Inputs},
};

/// The longest side of a matrix.
const SIDE_MAX: usize = 16_384;
/// The most numbers of a product: no reply carries more.
const PRODUCT_MAX: usize = 4_000_000;
/// The most multiplications that `check` does on the CPU: a second or so.
const CHECK_MAX: usize = 2_000_000_000;
/// Into how many pieces a product may be cut.
const PIECES_MAX: usize = 64;
/// Most products of one run.
const LARGEST: usize = 64;
/// Products whose payloads are no longer than this, in bytes, run together: a matrix of about 100 × 100. Larger ones keep the GPU busy by themselves.
const SMALL_BYTES: usize = 64 * 1024;

struct Matmul;

/// The executor of the kind `matmul`. It needs a GPU with CUDA, and cuBLAS.
#[must_use]
pub fn matmul() -> Arc<dyn Executor> {
    Arc::new(Matmul)
}

/// What a product's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Precision {
    Single,
    Double,
}

impl Precision {
    const fn dtype(self) -> DType {
        match self {
            Self::Single => DType::F32,
            Self::Double => DType::F64,
        }
    }
}

#[derive(Debug)]
struct Asked {
    a: Numbers,
    b: Numbers,
    sizes: [usize; 3],
    precision: Precision,
    check: bool,
    /// Whether the product is to be raw bytes.
    raw: bool,
    /// Whether the product is to stay on the GPU.
    keep: bool,
}

/// Where a product is.
enum Computed {
    Here(Numbers),
    OnGpu(DeviceBuffer),
}

#[async_trait]
impl Executor for Matmul {
    fn kind(&self) -> Kind {
        Kind::new("matmul").expect("a literal that keeps the rule")
    }

    fn about(&self) -> String {
        "the product of two matrices, by cuBLAS".to_owned()
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::of(schemas::MATMUL))
    }

    fn pieces_max(&self, payload: &Json) -> u32 {
        let a = payload.fields().ok().and_then(|mut fields| fields.remove("a"));
        let of_list = |a: &Json| a.to::<Vec<IgnoredAny>>().ok().map(|rows| rows.len());
        let of_segment = |a: &Json| SegmentRef::read(a)?.shape?.first().copied();
        // How many rows a tensor has is not said here.
        let of_tensor = |a: &Json| TensorRef::read(a).map(|_| PIECES_MAX);
        let rows = a.and_then(|a| of_segment(&a).or_else(|| of_tensor(&a)).or_else(|| of_list(&a))).unwrap_or(1).max(1);
        u32::try_from(rows.min(PIECES_MAX)).unwrap_or(1)
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let asked = Asked::read(run.payload, &Inputs::of(&run))?;
        let computed = match asked.precision {
            Precision::Single => asked.multiply::<f32>(&run).await?,
            Precision::Double => asked.multiply::<f64>(&run).await?,
        };
        match computed {
            Computed::Here(product) => asked.written(run.device.as_ref(), product).await,
            Computed::OnGpu(product) => asked.kept(&run, product).await,
        }
    }

    fn takes_tensors(&self) -> TakesTensors {
        TakesTensors::OnGpu
    }

    /// One run computes while the numbers of another one are read and written.
    fn batching(&self) -> Option<Batching> {
        Some(Batching { at_once: 2, ..Batching::up_to(LARGEST) })
    }

    fn takes_part(&self, payload: &Json) -> bool {
        let refers = |key: &str| payload.as_str().contains(key);
        payload.as_bytes().len() <= SMALL_BYTES && !refers("\"$segment\"") && !refers("\"tensor\"")
    }

    async fn run_batch(&self, batch: RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
        together::run(batch).await
    }
}

/// The result as it is written.
#[derive(Serialize)]
struct Product<T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_error: Option<Finite<f64>>,
    product: T,
}

/// A matrix that is written by rows, each number with no more digits than its precision has.
struct Rows<'a> {
    numbers: &'a [f64],
    columns: usize,
    precision: Precision,
}

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows = self.numbers.chunks_exact(self.columns);
        match self.precision {
            Precision::Single => {
                serializer.collect_seq(rows.map(|row| row.iter().map(|number| Finite(*number as f32)).collect::<Vec<_>>()))
            }
            Precision::Double => serializer.collect_seq(rows.map(|row| row.iter().map(|number| Finite(*number)).collect::<Vec<_>>())),
        }
    }
}

/// A number of either precision.
trait Convert: Matrix {
    fn from_double(value: f64) -> Self;
    fn to_double(self) -> f64;
}

impl Convert for f32 {
    fn from_double(value: f64) -> Self {
        value as Self
    }

    fn to_double(self) -> f64 {
        f64::from(self)
    }
}

impl Convert for f64 {
    fn from_double(value: f64) -> Self {
        value
    }

    fn to_double(self) -> f64 {
        self
    }
}

impl Asked {
    fn read(payload: &Json, inputs: &Inputs<'_>) -> Result<Self, Failure> {
        inputs.keeps_as_many_as(1)?;
        let keep = inputs.keeps();
        let mut fields = Fields::of_payload(payload)?;
        let Factor { numbers: a, rows, columns: inner, precision: of_a } = factor(&mut fields, "a", inputs)?;
        let Factor { numbers: b, rows: b_rows, columns, precision: of_b } = factor(&mut fields, "b", inputs)?;
        let precision = precision(&mut fields, of_a, of_b)?;
        let check = fields.flag("check")?.unwrap_or(false);
        let raw = match fields.text("outputs")?.as_deref() {
            None => of_a.or(of_b).is_some(),
            Some("segments") => true,
            Some("numbers") => false,
            Some(other) => {
                let message = format!("must be \"segments\" or \"numbers\", not {other:?}");
                return Err(Failure::invalid(fields.path("outputs"), message));
            }
        };
        fields.finish()?;
        if b_rows != inner {
            let message = format!("must have {inner} rows, as many as payload.a has columns; it has {b_rows}");
            return Err(Failure::invalid("payload.b", message));
        }
        if !keep && rows.saturating_mul(columns) > PRODUCT_MAX {
            let message = format!(
                "a product of {rows}x{columns} is too large for a reply: at most {PRODUCT_MAX} numbers, unless keep_as leaves it on the GPU"
            );
            return Err(Failure::invalid("payload.b", message));
        }
        if check && rows.saturating_mul(inner).saturating_mul(columns) > CHECK_MAX {
            return Err(Failure::invalid("payload.check", format!("is only done for up to {CHECK_MAX} multiplications")));
        }
        Ok(Self { a, b, sizes: [rows, inner, columns], precision, check, raw, keep })
    }

    /// The largest error of the product, if that was asked for.
    async fn checked(&self, device: &dyn Device, product: &Numbers) -> Result<Option<Finite<f64>>, Failure> {
        if !self.check {
            return Ok(None);
        }
        let (a, b) = (self.a.on_host(device).await?, self.b.on_host(device).await?);
        let (sizes, product, precision) = (self.sizes, product.clone(), self.precision);
        let doubles = move |numbers: &Numbers| numbers.doubles(precision);
        let checking = tokio::task::spawn_blocking(move || max_error(&doubles(&a), &doubles(&b), &doubles(&product), sizes));
        let error = checking.await.map_err(|error| Failure::transient(format!("check the product: {error}")))?;
        Ok(Some(Finite(error)))
    }

    /// The product left on the GPU, and what stands in its place in the result.
    async fn kept(&self, run: &Run<'_>, product: DeviceBuffer) -> Result<Framed, Failure> {
        let device = run.device.as_ref();
        let mut max_error = None;
        if self.check {
            let here = Numbers::Raw(tensor_inputs::bytes_of(device, &product).await?);
            max_error = self.checked(device, &here).await?;
        }
        let [rows, _, columns] = self.sizes;
        let shape = TensorShape { dtype: self.precision.dtype(), shape: vec![rows, columns] };
        let product = tensor_inputs::keep(run, 0, shape, product).await?;
        Ok(Json::of(&Product { max_error, product }).into())
    }

    /// The product as the result has it, checked if that was asked for.
    async fn written(&self, device: &dyn Device, product: Numbers) -> Result<Framed, Failure> {
        let ([rows, _, columns], precision) = (self.sizes, self.precision);
        let max_error = self.checked(device, &product).await?;
        if self.raw {
            let segments = Segments::of(vec![product.bytes(precision)]);
            let product = SegmentRef::numbers(0, precision.dtype(), vec![rows, columns]);
            return Ok(Framed { json: Json::of(&Product { max_error, product }), segments });
        }
        let product = product.doubles(precision);
        let product = Rows { numbers: &product, columns, precision };
        Ok(Json::of(&Product { max_error, product }).into())
    }

    /// What one piece holds of the GPU at once, in MB, besides what stays there.
    fn memory_mb<T>(&self, rows: usize) -> u64 {
        let [_, inner, columns] = self.sizes;
        let parts = [(self.a.are_resident(), rows, inner), (self.b.are_resident(), inner, columns), (self.keep, rows, columns)];
        let numbers: usize = parts.into_iter().filter(|(stays, ..)| !stays).map(|(_, rows, columns)| rows * columns).sum();
        ((numbers * size_of::<T>()) as u64).div_ceil(1_000_000)
    }

    async fn multiply<T: Convert>(&self, run: &Run<'_>) -> Result<Computed, Failure> {
        // Asked for first: a GPU without it takes nothing.
        cuda_of(run.device.as_ref())?;
        let [rows, _, columns] = self.sizes;
        let step = rows.div_ceil(run.pieces as usize).max(1);
        let memory_mb = self.memory_mb::<T>(step);
        let _memory = occupy(run.device.as_ref(), Use { memory_mb, compute_share: 1.0 })?;
        let mut kept = None;
        if self.keep {
            let bytes = (rows as u64).saturating_mul(columns as u64).saturating_mul(size_of::<T>() as u64);
            kept = Some(tensor_inputs::room_for(run, bytes).await?);
        }
        let mut product = Vec::new();
        for first in (0..rows).step_by(step) {
            if run.cancel.is_cancelled() {
                return Err(Failure::cancelled());
            }
            let count = step.min(rows - first);
            let part = self.piece::<T>(run, first..first + count, kept.clone(), memory_mb).await?;
            // Most often there is one.
            if product.is_empty() {
                product = part;
            } else {
                product.extend(part);
            }
            run.report.progress((first + count) as f64 / rows as f64, "");
        }
        Ok(kept.map_or_else(|| Computed::Here(Numbers::Raw(product.into())), Computed::OnGpu))
    }

    /// Some rows of the product: their bytes, or none where they are left in the memory that is `kept`.
    async fn piece<T: Convert>(
        &self,
        run: &Run<'_>,
        piece: Range<usize>,
        kept: Option<DeviceBuffer>,
        memory_mb: u64,
    ) -> Result<Vec<u8>, Failure> {
        let [_, inner, columns] = self.sizes;
        let (a, b) = (self.a.clone(), self.b.clone());
        let work = move |lane: &Lane| {
            let a = a.upload::<T>(lane, piece.start * inner..piece.end * inner)?;
            let b = b.upload::<T>(lane, 0..inner * columns)?;
            let sizes = [piece.len(), inner, columns];
            match kept {
                None => lane.download_bytes(&lane.timed(|| lane.multiply(&a, &b, sizes))?),
                Some(kept) => {
                    let mut product = lane.resident::<T>(&kept, piece.start * columns..piece.end * columns)?;
                    lane.timed(|| lane.multiply_into(&a, &b, sizes, &mut product)).map(|()| Vec::new())
                }
            }
        };
        let ran = cuda_of(run.device.as_ref())?.run(work).await.map_err(|error| failure(&error, Some(memory_mb)))?;
        Ok(run.usage.add(ran))
    }
}

/// The precision that is asked for: by the payload, or by the raw bytes of its factors.
fn precision(fields: &mut Fields, of_a: Option<Precision>, of_b: Option<Precision>) -> Result<Precision, Failure> {
    let asked = match fields.text("dtype")?.as_deref() {
        None => None,
        Some("f32") => Some(Precision::Single),
        Some("f64") => Some(Precision::Double),
        Some(other) => return Err(Failure::invalid(fields.path("dtype"), format!("must be \"f32\" or \"f64\", not {other:?}"))),
    };
    let precision = asked.or(of_a).or(of_b).unwrap_or(Precision::Single);
    let other = [("a", of_a), ("b", of_b)].into_iter().find(|(_, given)| given.is_some_and(|given| given != precision));
    match other {
        None => Ok(precision),
        Some((name, _)) => {
            let message = format!("has another dtype than {}, of which the product is to be", precision.dtype().name());
            Err(Failure::invalid(fields.path(name), message))
        }
    }
}

/// The largest difference to the product in double precision, relative to its largest number.
fn max_error(a: &[f64], b: &[f64], product: &[f64], [rows, inner, columns]: [usize; 3]) -> f64 {
    let (mut worst, mut largest) = (0.0_f64, f64::MIN_POSITIVE);
    let mut exact = vec![0.0; columns];
    for row in 0..rows {
        exact.fill(0.0);
        for (k, left) in a[row * inner..(row + 1) * inner].iter().enumerate() {
            let right = &b[k * columns..(k + 1) * columns];
            exact.iter_mut().zip(right).for_each(|(sum, right)| *sum += left * right);
        }
        for (exact, given) in exact.iter().zip(&product[row * columns..]) {
            largest = largest.max(exact.abs());
            let difference = (exact - given).abs();
            worst = if difference.is_nan() { f64::INFINITY } else { worst.max(difference) };
        }
    }
    worst / largest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture::{gpu, run_on};

    #[test]
    fn the_error_is_relative_and_a_wrong_number_shows() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
        assert_eq!(max_error(&a, &b, &[19.0, 22.0, 43.0, 50.0], [2, 2, 2]), 0.0);
        assert_eq!(max_error(&a, &b, &[19.0, 22.0, 43.0, 45.0], [2, 2, 2]), 0.1);
        assert_eq!(max_error(&a, &b, &[19.0, f64::NAN, 43.0, 50.0], [2, 2, 2]), f64::INFINITY);
    }

    #[tokio::test]
    async fn a_payload_that_is_no_product_is_refused_with_its_field() {
        let ones = json!([[1, 1], [1, 1]]);
        for (payload, field) in [
            (json!({"b": ones}), "payload.a"),
            (json!({"a": [], "b": ones}), "payload.a"),
            (json!({"a": [[1], [1, 2]], "b": ones}), "payload.a"),
            (json!({"a": [["x", 1]], "b": ones}), "payload.a"),
            (json!({"a": [[1, 2, 3]], "b": ones}), "payload.b"),
            (json!({"a": ones, "b": ones, "dtype": "f16"}), "payload.dtype"),
            (json!({"a": ones, "b": ones, "c": 1}), "payload.c"),
            (json!({"a": vec![[1]; 3_000], "b": [vec![1; 3_000]]}), "payload.b"),
            (json!({"a": ones, "b": ones, "outputs": "both"}), "payload.outputs"),
            (json!({"a": {"$segment": 0, "dtype": "f32", "shape": [1, 1]}, "b": ones}), "payload.a"),
            (json!({"a": ones, "b": {"tensor": "x"}}), "payload.b"),
        ] {
            let refused = run_on(&matmul(), &gpu(), payload.clone()).await.unwrap_err();
            assert_eq!((refused.field.as_deref(), refused.retry), (Some(field), false), "{payload}");
        }
    }

    #[test]
    fn raw_bytes_say_their_precision_and_are_not_copied() {
        let segments = Segments::of(vec![vec![0; 24].into(), vec![0; 48].into()]);
        let single = |shape: [usize; 2]| json!({"$segment": 0, "dtype": "f32", "shape": shape});
        let double = |shape: [usize; 2]| json!({"$segment": 1, "dtype": "f64", "shape": shape});
        let read = |payload: serde_json::Value| Asked::read(&payload.into(), &Inputs::of_segments(&segments));
        let asked = read(json!({"a": single([2, 3]), "b": [[1], [2], [3]]})).unwrap();
        assert_eq!((asked.sizes, asked.precision, asked.raw), ([2, 3, 1], Precision::Single, true));
        let Numbers::Raw(bytes) = &asked.a else { panic!("{asked:?}") };
        assert_eq!(bytes.as_ptr(), segments.get(0).unwrap().as_ptr());
        let asked = read(json!({"a": double([2, 3]), "b": double([3, 2]), "outputs": "numbers"})).unwrap();
        assert_eq!((asked.precision, asked.raw), (Precision::Double, false));
        for (payload, field, says) in [
            (json!({"a": single([3, 3]), "b": [[1]]}), "payload.a", "has the shape [3, 3] of f32"),
            (json!({"a": single([2, 3]), "b": double([3, 2])}), "payload.b", "another dtype than f32"),
            (json!({"a": double([2, 3]), "b": [[1], [2], [3]], "dtype": "f32"}), "payload.a", "another dtype than f32"),
            (json!({"a": {"$segment": 0}, "b": [[1]]}), "payload.a", "two sides"),
            (json!({"a": {"$segment": 0, "dtype": "i32", "shape": [2, 3]}, "b": [[1]]}), "payload.a", "f32 or f64"),
            (json!({"a": {"$segment": 0, "dtype": "f32", "shape": [0, 3]}, "b": [[1]]}), "payload.a", "has the shape [0, 3]"),
            (json!({"a": [[1]], "b": {"$segment": 7, "dtype": "f32", "shape": [1, 1]}}), "payload.b", "refers to segment 7"),
        ] {
            let refused = read(payload.clone()).unwrap_err();
            assert_eq!(refused.field.as_deref(), Some(field), "{payload}");
            assert!(refused.message.contains(says), "{payload}: {}", refused.message);
        }
        let small = json!({"a": single([2, 3]), "b": [[1], [2], [3]]});
        assert!(!matmul().takes_part(&small.clone().into()), "its bytes may be many");
        assert!(!matmul().takes_part(&json!({"a": {"tensor": "x"}, "b": [[1]]}).into()), "nor does a tensor");
        assert_eq!(matmul().pieces_max(&small.into()), 2);
    }

    #[tokio::test]
    async fn a_gpu_without_cuda_lets_another_one_try() {
        let task = crate::fixture::task("matmul", json!({"a": [[1]], "b": [[1]]}));
        let member = crate::BatchMember {
            task: &task,
            payload: &task.body.payload,
            cancel: tokio_util::sync::CancellationToken::new(),
            report: crate::Report::to_nobody(),
            usage: crate::Usage::default(),
        };
        let batch = RunBatch { device: &gpu(), members: vec![member], cancel: tokio_util::sync::CancellationToken::new() };
        let together = matmul().run_batch(batch).await.remove(0).unwrap_err();
        assert!(together.retry && together.message.contains("has no CUDA"), "{together:?}");

        let refused = run_on(&matmul(), &gpu(), json!({"a": [[1]], "b": [[1]]})).await.unwrap_err();
        assert!(refused.retry && refused.message.contains("has no CUDA"), "{refused:?}");
    }
}
