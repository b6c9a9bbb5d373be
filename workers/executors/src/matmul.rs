//! `matmul`: the product of two matrices, by cuBLAS.
//!
//! ```json
//! {"a": [[1, 2], [3, 4]], "b": [[5, 6], [7, 8]], "dtype": "f32", "check": true}
//! ```
//! Gives `{"product": [[19, 22], [43, 50]], "max_error": 0}`. `dtype` is `f32` (default) or `f64`. With `check` the product is also computed on the CPU in double precision; `max_error`
//! is the largest difference, relative to the largest number of the product. A product that the GPU has no memory for is computed in pieces, by rows of `a`.
//!
//! Small products run together, whoever asked for them: to begin one costs more than to compute it.

mod together;

use std::sync::Arc;

use async_trait::async_trait;
use devices::{
    Use,
    nvidia::cuda::{Lane, Matrix},
};
use protocol::{Framed, Json, Kind};
use serde::{Serialize, Serializer, de::IgnoredAny};

use crate::{
    Batching, Executor, Failure, Run, RunBatch,
    cuda::{Finite, cuda_of, failure},
    occupy::occupy,
    payload::Fields,
    schemas,
};

/// The longest side of a matrix.
const SIDE_MAX: usize = 16_384;
/// The most numbers of a product: it comes back as JSON.
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

#[derive(Debug)]
struct Asked {
    a: Arc<[f64]>,
    b: Arc<[f64]>,
    sizes: [usize; 3],
    precision: Precision,
    check: bool,
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
        let rows = a.and_then(|rows| rows.to::<Vec<IgnoredAny>>().ok()).map_or(1, |rows| rows.len());
        u32::try_from(rows.min(PIECES_MAX)).unwrap_or(1)
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let asked = Asked::read(run.payload)?;
        let product = match asked.precision {
            Precision::Single => asked.multiply::<f32>(&run).await?,
            Precision::Double => asked.multiply::<f64>(&run).await?,
        };
        asked.written(product).await
    }

    /// One run computes while the numbers of another one are read and written.
    fn batching(&self) -> Option<Batching> {
        Some(Batching { at_once: 2, ..Batching::up_to(LARGEST) })
    }

    fn takes_part(&self, payload: &Json) -> bool {
        payload.as_bytes().len() <= SMALL_BYTES
    }

    async fn run_batch(&self, batch: RunBatch<'_>) -> Vec<Result<Framed, Failure>> {
        together::run(batch).await
    }
}

/// The result as it is written.
#[derive(Serialize)]
struct Product<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_error: Option<Finite<f64>>,
    product: Rows<'a>,
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
    fn read(payload: &Json) -> Result<Self, Failure> {
        let mut fields = Fields::of_payload(payload)?;
        let (a, rows, inner) = matrix(&mut fields, "a")?;
        let (b, b_rows, columns) = matrix(&mut fields, "b")?;
        let precision = match fields.text("dtype")?.as_deref() {
            None | Some("f32") => Precision::Single,
            Some("f64") => Precision::Double,
            Some(other) => return Err(Failure::invalid(fields.path("dtype"), format!("must be \"f32\" or \"f64\", not {other:?}"))),
        };
        let check = fields.flag("check")?.unwrap_or(false);
        fields.finish()?;
        if b_rows != inner {
            let message = format!("must have {inner} rows, as many as payload.a has columns; it has {b_rows}");
            return Err(Failure::invalid("payload.b", message));
        }
        if rows * columns > PRODUCT_MAX {
            let message = format!("a product of {rows}x{columns} is too large for a reply: at most {PRODUCT_MAX} numbers");
            return Err(Failure::invalid("payload.b", message));
        }
        if check && rows * inner * columns > CHECK_MAX {
            return Err(Failure::invalid("payload.check", format!("is only done for up to {CHECK_MAX} multiplications")));
        }
        Ok(Self { a, b, sizes: [rows, inner, columns], precision, check })
    }

    /// The product as the result has it, checked if that was asked for.
    async fn written(&self, product: Arc<[f64]>) -> Result<Framed, Failure> {
        let mut max_error = None;
        if self.check {
            let (a, b, sizes, product) = (Arc::clone(&self.a), Arc::clone(&self.b), self.sizes, Arc::clone(&product));
            let checking = tokio::task::spawn_blocking(move || self::max_error(&a, &b, &product, sizes));
            let error = checking.await.map_err(|error| Failure::transient(format!("check the product: {error}")))?;
            max_error = Some(Finite(error));
        }
        let product = Rows { numbers: &product, columns: self.sizes[2], precision: self.precision };
        Ok(Json::of(&Product { max_error, product }).into())
    }

    /// What one piece holds of the GPU at once, in MB.
    fn memory_mb<T>(&self, rows: usize) -> u64 {
        let [_, inner, columns] = self.sizes;
        let numbers = rows * inner + inner * columns + rows * columns;
        ((numbers * size_of::<T>()) as u64).div_ceil(1_000_000)
    }

    async fn multiply<T: Convert>(&self, run: &Run<'_>) -> Result<Arc<[f64]>, Failure> {
        let cuda = cuda_of(run.device.as_ref())?;
        let [rows, inner, columns] = self.sizes;
        let step = rows.div_ceil(run.pieces as usize).max(1);
        let memory_mb = self.memory_mb::<T>(step);
        let _memory = occupy(run.device.as_ref(), Use { memory_mb, compute_share: 1.0 })?;
        let mut product = Vec::with_capacity(rows * columns);
        for first in (0..rows).step_by(step) {
            if run.cancel.is_cancelled() {
                return Err(Failure::cancelled());
            }
            let (a, b) = (Arc::clone(&self.a), Arc::clone(&self.b));
            let count = step.min(rows - first);
            let work = move |lane: &Lane| {
                let converted = |numbers: &[f64]| numbers.iter().map(|value| T::from_double(*value)).collect::<Vec<T>>();
                let a = lane.upload(&converted(&a[first * inner..(first + count) * inner]))?;
                let b = lane.upload(&converted(&b))?;
                let product = lane.timed(|| lane.multiply(&a, &b, [count, inner, columns]))?;
                Ok(lane.download(&product)?.into_iter().map(T::to_double).collect::<Vec<f64>>())
            };
            let ran = cuda.run(work).await.map_err(|error| failure(&error, Some(memory_mb)))?;
            product.extend(run.usage.add(ran));
            run.report.progress((first + count) as f64 / rows as f64, "");
        }
        Ok(product.into())
    }
}

/// A matrix by rows, with its sizes.
fn matrix(fields: &mut Fields, name: &'static str) -> Result<(Arc<[f64]>, usize, usize), Failure> {
    let wrong = |what: String| Failure::invalid(format!("payload.{name}"), what);
    let no_matrix = || wrong("must be a matrix: a list of rows, each a list of numbers".to_owned());
    let rows = fields.value(name).and_then(|rows| rows.elements().ok()).ok_or_else(no_matrix)?;
    let length = |row: &Json| row.to::<Vec<IgnoredAny>>().ok().map(|row| row.len());
    let columns = rows.first().and_then(length).unwrap_or(0);
    if columns == 0 || rows.len().max(columns) > SIDE_MAX {
        return Err(wrong(format!("must have 1 to {SIDE_MAX} rows and columns")));
    }
    let mut numbers = Vec::with_capacity(rows.len() * columns);
    for (at, row) in rows.iter().enumerate() {
        match row.to::<Vec<f64>>() {
            Ok(row) if row.len() == columns => numbers.extend(row),
            Err(_) if length(row) == Some(columns) => return Err(wrong(format!("row {at} holds something that is no number"))),
            _ => return Err(wrong(format!("row {at} must have {columns} numbers, as the first one has"))),
        }
    }
    Ok((numbers.into(), rows.len(), columns))
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
        ] {
            let refused = run_on(&matmul(), &gpu(), payload.clone()).await.unwrap_err();
            assert_eq!((refused.field.as_deref(), refused.retry), (Some(field), false), "{payload}");
        }
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
