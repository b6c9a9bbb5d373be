//! The kinds that need CUDA, on tensors of an NVIDIA GPU whose libraries are fakes.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use devices::Device;
use executors::{Executor, Failure, Keeping, KeptSoFar, Run, RunTensors};
use fake_nvidia::process;
use protocol::{
    DType, Framed, IfExists, KeepAs, KeptTensor, Segments, TensorName, TensorRecord, TensorRef, TensorShape, config::DataSection,
};
use serde_json::{Value, json};
use tensors::{Content, DataMetrics, DataOptions, DataParts, DataPlane, Destination, Directory, DirectoryError, Draw, Keep, Tensor};
use tests::{
    environment::seeded,
    executing::{self, run_of},
};
use tokio_util::sync::CancellationToken;

use crate::rig::{block_on, first_gpu};

/// Where the tensors of one GPU are, which is alone.
#[derive(Default)]
struct Alone(Mutex<Vec<TensorRecord>>);

#[async_trait]
impl Directory for Alone {
    async fn find(&self, names: &[TensorName]) -> Result<Vec<TensorRecord>, DirectoryError> {
        Ok(self.0.lock().unwrap().iter().filter(|record| names.contains(&record.name)).cloned().collect())
    }

    async fn draw_version(&self, draw: &Draw<'_>) -> Result<u64, DirectoryError> {
        Ok(draw.wanted())
    }

    async fn announce(&self, records: &[TensorRecord]) -> Result<(), DirectoryError> {
        self.0.lock().unwrap().extend_from_slice(records);
        Ok(())
    }

    async fn withdraw(&self, copies: &[(TensorName, u64)]) -> Result<(), DirectoryError> {
        self.0.lock().unwrap().retain(|record| !copies.contains(&(record.name.clone(), record.version)));
        Ok(())
    }

    async fn destinations(&self) -> Result<Vec<Destination>, DirectoryError> {
        Ok(Vec::new())
    }

    async fn pool_mb(&self) -> Result<u64, DirectoryError> {
        Ok(0)
    }
}

/// A GPU with tensors on it.
struct Rig {
    device: Arc<dyn Device>,
    plane: Arc<DataPlane>,
    /// Of what is kept: each attempt has a newer token.
    version: AtomicU64,
}

impl Rig {
    async fn new() -> Self {
        let device: Arc<dyn Device> = Arc::new(first_gpu().await);
        let environment = seeded(1);
        let parts = DataParts {
            device: Arc::clone(&device),
            directory: Arc::new(Alone::default()),
            incarnation: environment.fresh_incarnation(),
            environment,
            options: DataOptions::of(&DataSection { listen: None, ..DataSection::default() }, 10_000),
            metrics: Arc::new(DataMetrics::new(&prometheus::Registry::new()).unwrap()),
        };
        Self { device, plane: DataPlane::start(parts).await, version: AtomicU64::new(1) }
    }

    async fn put(&self, name: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>) {
        let keep = Keep {
            name: TensorName::new(name).unwrap(),
            shape: TensorShape { dtype, shape: shape.to_vec() },
            owner: "task-0".to_owned(),
            version: None,
            ttl: None,
            if_exists: IfExists::default(),
        };
        self.plane.keep(keep, Content::Host(bytes.into())).await.unwrap();
    }

    async fn put_numbers(&self, name: &str, shape: &[usize], numbers: &[f32]) {
        self.put(name, DType::F32, shape, bytes(numbers)).await;
    }

    async fn tensor(&self, reference: &TensorRef) -> Arc<Tensor> {
        let copies = self.plane.find(std::slice::from_ref(reference)).await.unwrap();
        self.plane.fetch(reference, &copies, &CancellationToken::new()).await.unwrap()
    }

    /// Its numbers, as they lie on the GPU.
    async fn numbers(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensor = self.tensor(&TensorRef::latest(TensorName::new(name).unwrap())).await;
        let read = self.plane.read(&tensor, 0..tensor.about().bytes()).await.unwrap();
        let numbers = read.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
        (tensor.about().shape.shape.clone(), numbers)
    }

    /// Runs a payload with the tensors that it names, and leaves its outputs under these names.
    async fn run(&self, executor: &Arc<dyn Executor>, payload: Value, names: &[&str], pieces: u32) -> Result<Framed, Failure> {
        let task = executing::task(executor.kind().as_str(), payload, Segments::none());
        let mut inputs = BTreeMap::new();
        for reference in TensorRef::all_in(&task.body.payload) {
            let tensor = self.tensor(&reference).await;
            inputs.insert(reference, tensor);
        }
        let names: Vec<TensorName> = names.iter().map(|name| TensorName::new(*name).unwrap()).collect();
        let keep_as = KeepAs { names, ttl_ms: None, if_exists: IfExists::default() };
        let version = self.version.fetch_add(1, Ordering::Relaxed);
        let keeping = (!keep_as.names.is_empty()).then(|| Keeping {
            keep_as,
            owner: "task-1".to_owned(),
            version,
            item: None,
            kept: KeptSoFar::default(),
        });
        let tensors = RunTensors::new(Arc::clone(&self.plane), inputs, keeping);
        executor.run(Run { tensors, pieces, ..run_of(&task, &self.device) }).await
    }
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn a_product_of_tensors_stays_on_the_gpu_and_is_the_next_products_factor() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let (rig, matmul) = (Rig::new().await, executors::matmul());
            rig.put_numbers("a", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).await;
            rig.put_numbers("twice", &[2, 2], &[2.0, 0.0, 0.0, 2.0]).await;
            let payload = json!({"a": {"tensor": "a"}, "b": {"tensor": "twice"}, "check": true});
            for pieces in [1, 2, 3] {
                let kept = rig.run(&matmul, payload.clone(), &["product"], pieces).await.unwrap();
                let result: Value = kept.json.to().unwrap();
                assert_eq!((&result["max_error"], kept.segments.len()), (&json!(0.0), 0));
                let told: KeptTensor = serde_json::from_value(result["product"].clone()).unwrap();
                assert_eq!((told.tensor.as_str(), told.bytes, &told.shape.shape), ("product", 24, &vec![3, 2]));
                assert_eq!(rig.numbers("product").await, (vec![3, 2], vec![2.0, 4.0, 6.0, 8.0, 10.0, 12.0]), "in {pieces} pieces");
            }
            let next = json!({"a": {"tensor": "product"}, "b": [[1], [1]], "outputs": "numbers"});
            let numbers = rig.run(&matmul, next, &[], 1).await.unwrap();
            assert_eq!(numbers.json, json!({"product": [[6.0], [14.0], [22.0]]}));
            let raw = rig.run(&matmul, json!({"a": {"tensor": "a"}, "b": {"tensor": "twice"}}), &[], 1).await.unwrap();
            assert_eq!(raw.json, json!({"product": {"$segment": 0, "dtype": "f32", "shape": [3, 2]}}), "as its factors came");
        });
    });
}

#[test]
fn a_tensor_that_is_no_factor_is_refused_with_its_field() {
    process::on_a_machine(1, |_| {
        block_on(async {
            let (rig, matmul) = (Rig::new().await, executors::matmul());
            rig.put_numbers("row", &[2], &[1.0, 2.0]).await;
            rig.put("whole", DType::I32, &[1, 1], vec![0; 4]).await;
            rig.put("double", DType::F64, &[1, 1], vec![0; 8]).await;
            for (a, dtype, field, says) in [
                ("row", Value::Null, "payload.a", "two sides"),
                ("whole", Value::Null, "payload.a", "f32 or f64"),
                ("double", json!("f32"), "payload.a", "another dtype than f32"),
            ] {
                let payload = json!({"a": {"tensor": a}, "b": [[1]], "dtype": dtype});
                let refused = rig.run(&matmul, payload, &[], 1).await.unwrap_err();
                assert_eq!((refused.field.as_deref(), refused.retry), (Some(field), false), "{a}");
                assert!(refused.message.contains(says), "{a}: {}", refused.message);
            }
            let two_names = rig.run(&matmul, json!({"a": [[1]], "b": [[1]]}), &["one", "two"], 1).await.unwrap_err();
            assert_eq!(two_names.field.as_deref(), Some("keep_as"));
        });
    });
}

#[test]
fn a_kernel_reads_tensors_works_on_copies_and_leaves_its_outputs() {
    process::on_a_machine(1, |_| {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"extern "C" __global__ void saxpy(unsigned int n, float a, const float *x, float *y) {}"#;
        fs::write(folder.path().join("saxpy.cu"), text).unwrap();
        block_on(async {
            let (rig, kernel) = (Rig::new().await, executors::kernel(folder.path().to_owned()));
            rig.put_numbers("x", &[2, 2], &[1.0, 2.0, 3.0, 4.0]).await;
            rig.put_numbers("y", &[2, 2], &[10.0, 20.0, 30.0, 40.0]).await;
            let arguments = json!([{"u32": 4}, {"f32": 2.0}, {"in": {"tensor": "x"}}, {"inout": {"tensor": "y"}}]);
            let payload = json!({"module": "saxpy", "blocks": 1, "threads": 32, "arguments": arguments});
            let sums = vec![12.0, 24.0, 36.0, 48.0];

            let kept = rig.run(&kernel, payload.clone(), &["z"], 1).await.unwrap();
            let result: Value = kept.json.to().unwrap();
            assert_eq!((&result["outputs"][0]["tensor"], kept.segments.len()), (&json!("z"), 0));
            assert_eq!(rig.numbers("z").await, (vec![2, 2], sums.clone()));
            assert_eq!(rig.numbers("y").await.1, [10.0, 20.0, 30.0, 40.0], "a tensor never changes");

            let raw = rig.run(&kernel, payload.clone(), &[], 1).await.unwrap();
            assert_eq!(raw.json, json!({"outputs": [{"$segment": 0, "dtype": "f32", "shape": [2, 2]}]}));
            assert_eq!(raw.segments.get(0).map(|segment| segment.to_vec()), Some(bytes(&sums)));

            let refused = rig.run(&kernel, payload, &["z", "more"], 1).await.unwrap_err();
            assert_eq!(refused.field.as_deref(), Some("keep_as"));
        });
    });
}

#[test]
fn outputs_of_lists_stay_as_well() {
    process::on_a_machine(1, |_| {
        let folder = tempfile::tempdir().unwrap();
        let text = r#"extern "C" __global__ void vector_add(const float *a, const float *b, float *out, unsigned int n) {}"#;
        fs::write(folder.path().join("vector_add.cu"), text).unwrap();
        block_on(async {
            let (rig, kernel) = (Rig::new().await, executors::kernel(folder.path().to_owned()));
            let arguments = json!([{"in": {"f32": [1, 2]}}, {"in": {"f32": [10, 20]}}, {"out": {"f32": 2}}, {"u32": 2}]);
            let payload = json!({"module": "vector_add", "blocks": 1, "threads": 32, "arguments": arguments});
            rig.run(&kernel, payload, &["sum"], 1).await.unwrap();
            assert_eq!(rig.numbers("sum").await, (vec![2], vec![11.0, 22.0]));
            let matmul = executors::matmul();
            rig.run(&matmul, json!({"a": [[1, 2]], "b": [[3], [4]]}), &["product"], 1).await.unwrap();
            assert_eq!(rig.numbers("product").await, (vec![1, 1], vec![11.0]));
        });
    });
}
