//! A folder of small models, and ONNX Runtime, for tests. `scripts/fetch-models target/onnx` fetches what they need (`make test` does so).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use devices::Device;
use protocol::{DType, Framed, Json, SegmentRef, Segments, Task, config::ModelsSection};
use serde_json::Value;

use super::{OnnxModels, OnnxPlace, graph::Graph, tensor::Element};
use crate::{
    Executor, Failure, fixture,
    models::{ModelBounds, ModelCache},
};

pub(super) const SINGLE: Element = Element::Number(DType::F32);

/// What was fetched for tests.
pub(super) fn fetched(file: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/onnx");
    let path = folder.join(file);
    assert!(path.exists(), "{} is missing; `scripts/fetch-models target/onnx` fetches it", path.display());
    path
}

/// `y` = `x` times a 3 x 2 matrix, plus 1; `x` is `[batch, 3]`.
pub(super) fn linear(factor: f32) -> Vec<u8> {
    let matrix = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0].map(|number| number * factor);
    Graph::default()
        .input("x", SINGLE, &["batch", "3"])
        .output("y", SINGLE, &["batch", "2"])
        .weights("matrix", &[3, 2], &matrix)
        .weights("one", &[1], &[1.0])
        .step("MatMul", &["x", "matrix"], "product", &[])
        .step("Add", &["product", "one"], "y", &[])
        .written()
}

/// `y` = `x` times a 3 x 1 matrix that lies in another file.
pub(super) fn parted(file: &str) -> Vec<u8> {
    let graph = Graph::default().input("x", SINGLE, &["batch", "3"]).output("y", SINGLE, &["batch", "1"]);
    graph.weights_beside("matrix", &[3, 1], file).step("MatMul", &["x", "matrix"], "y", &[]).written()
}

/// Gives what it takes.
pub(super) fn identity(element: Element) -> Vec<u8> {
    Graph::default().input("x", element, &["n", "2"]).output("y", element, &["n", "2"]).step("Identity", &["x"], "y", &[]).written()
}

/// Looks like a model whose first side is for payloads; it is not: each row's answer depends on the others.
pub(super) fn mixing() -> Vec<u8> {
    Graph::default().input("x", SINGLE, &["n", "2"]).output("y", SINGLE, &["n", "2"]).step("Softmax", &["x"], "y", &[("axis", 0)]).written()
}

/// Many products of large matrices, one after the other: seconds of work.
pub(super) fn slow() -> Vec<u8> {
    let mut graph = Graph::default().input("x", SINGLE, &["n", "n"]).output("y", SINGLE, &["n", "n"]);
    let names: Vec<String> = (0..400).map(|at| format!("p{at}")).collect();
    let mut last = "x";
    for name in &names {
        graph = graph.step("MatMul", &[last, "x"], name, &[]);
        last = name;
    }
    graph.step("Identity", &[last], "y", &[]).written()
}

/// A folder of models and what serves them, on the CPU of a simulated GPU.
pub(super) struct World {
    pub(super) folder: tempfile::TempDir,
    pub(super) cache: Arc<ModelCache>,
    pub(super) device: Arc<dyn Device>,
}

impl World {
    pub(super) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), cache: Arc::new(ModelCache::new(ModelBounds::default())), device: fixture::gpu() }
    }

    /// Puts a model into the folder, as an operator should: by a rename.
    pub(super) fn put(&self, file: &str, content: &[u8]) {
        let path = self.folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let beside = path.with_extension("new");
        fs::write(&beside, content).unwrap();
        fs::rename(beside, path).unwrap();
    }

    pub(super) fn section(&self) -> ModelsSection {
        let onnx_runtime = Some(fetched("onnxruntime"));
        ModelsSection { directory: Some(self.folder.path().to_owned()), onnx_runtime, ..ModelsSection::default() }
    }

    pub(super) async fn models(&self) -> Arc<OnnxModels> {
        OnnxModels::open(&self.section(), OnnxPlace::Cpu, true).await.unwrap().looking_always()
    }

    pub(super) async fn onnx(&self) -> Arc<dyn Executor> {
        super::onnx(self.models().await, Arc::clone(&self.cache))
    }

    pub(super) async fn run(&self, executor: &Arc<dyn Executor>, payload: Value, segments: Segments) -> Result<Framed, Failure> {
        let task = framed_task(executor, payload, segments);
        executor.run(fixture::run_of(&task, &self.device)).await
    }
}

pub(super) fn framed_task(executor: &Arc<dyn Executor>, payload: Value, segments: Segments) -> Task {
    let mut task = fixture::task(executor.kind().as_str(), payload);
    task.body.segments = segments;
    task
}

pub(super) fn segments(each: &[&[u8]]) -> Segments {
    Segments::of(each.iter().map(|bytes| bytes::Bytes::copy_from_slice(bytes)).collect())
}

pub(super) fn floats(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The single-precision numbers of a segment that a result refers to.
pub(super) fn floats_of(framed: &Framed, reference: &Json) -> Vec<f32> {
    let bytes = SegmentRef::read(reference).unwrap().of(&framed.segments).unwrap().clone();
    super::tensor::words(&bytes).map(f32::from_le_bytes).collect()
}
