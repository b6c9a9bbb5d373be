//! The kind `onnx` on CUDA, where there is a build of ONNX Runtime that can; where it cannot, the kind is refused.

use std::{path::PathBuf, sync::Arc, time::Instant};

use devices::Device;
use executors::{
    ModelCache,
    onnx::{OnnxModels, OnnxPlace, onnx},
};
use protocol::config::{ModelProvider, ModelsSection};
use serde_json::json;

use crate::{
    Fault,
    bench::Bench,
    finding::{Checked, Finding},
    fleet::{Fleet, Plan},
    python::{Place, Program},
    work::modules,
};

const MODEL: &str = include_str!("../python/onnx_model.py");
const CODES: [(i32, &str); 1] = [(3, "ONNX Runtime cannot be imported here")];
/// Most memory of the GPU for a model, in MB.
const MEMORY_MB: u64 = 2_000;
const RUNS: u32 = 20;

pub async fn cuda(bench: &Bench) -> Finding {
    let place = match Place::look(bench).await? {
        Ok(place) => place,
        Err(why) => return Ok(Checked::Unchecked(why)),
    };
    let found = match Program::start(MODEL, place.folder.path(), &CODES).await? {
        Ok(program) => program.said.clone(),
        Err(why) => return Ok(Checked::Unchecked(why)),
    };
    let library = found["folder"].as_str().map(PathBuf::from).ok_or("no folder of the library")?;
    let works = found["cuda"] == json!(true);
    let version = found["version"].as_str().unwrap_or_default().to_owned();
    let section = ModelsSection {
        directory: Some(place.folder.path().to_owned()),
        onnx_runtime: Some(library),
        provider: ModelProvider::Cuda,
        ..ModelsSection::default()
    };
    match OnnxModels::open(&section, OnnxPlace::of(ModelProvider::Cuda, Some(MEMORY_MB))?, true).await {
        Ok(models) => on_cuda(bench, models, &version).await,
        Err(error) if works => {
            Err(format!("Python runs the model on CUDA with ONNX Runtime {version}, and here the kind is refused: {error}").into())
        }
        Err(error) => Ok(Checked::Passed(format!(
            "ONNX Runtime {version} of this machine does not run models on CUDA, in Python neither, and the kind is refused: {error}"
        ))),
    }
}

async fn on_cuda(bench: &Bench, models: Arc<OnnxModels>, version: &str) -> Finding {
    let modules = modules()?;
    let mut plan = Plan::of(Arc::new(bench.open().await?) as Arc<dyn Device>, modules.path());
    plan.executors = plan.executors.with(onnx(models, Arc::new(ModelCache::default())));
    let fleet = Fleet::of(plan).await?;
    run(&fleet).await?;
    let started = Instant::now();
    for _ in 0..RUNS {
        run(&fleet).await?;
    }
    let each_ms = started.elapsed().as_secs_f64() * 1e3 / f64::from(RUNS);
    fleet.end().await?;
    Ok(Checked::Passed(format!(
        "ONNX Runtime {version} runs a model on CUDA, as the reply says, and it is right; {each_ms:.2} ms a task, one at a time"
    )))
}

/// A product of whole numbers: exact.
async fn run(fleet: &Fleet) -> Result<(), Fault> {
    let result = fleet.result("onnx", json!({"model": "linear", "inputs": {"x": [[1, 0, 0], [1, 1, 1]]}})).await?;
    if result["provider"] != json!("cuda") {
        return Err(format!("it ran on {}", result["provider"]).into());
    }
    if result["outputs"]["y"] != json!([[1.0, 2.0], [9.0, 12.0]]) {
        return Err(format!("it computes {}", result["outputs"]).into());
    }
    Ok(())
}
