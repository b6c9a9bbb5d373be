//! ONNX Runtime, where the configuration has models for it.

use protocol::config::Configuration;

use super::Finding;

/// Which library would be loaded, and where it can run models.
#[cfg(feature = "onnx")]
pub(super) async fn look(configuration: &Configuration) -> Vec<Finding> {
    let section = configuration.models.clone();
    if section.directory.is_none() && section.onnx_runtime.is_none() {
        return Vec::new();
    }
    let looking = tokio::task::spawn_blocking(move || look_here(&section)).await;
    vec![looking.unwrap_or_else(|error| Finding::bad(SUBJECT, format!("the look at it broke: {error}")))]
}

#[cfg(feature = "onnx")]
const SUBJECT: &str = "ONNX Runtime";

#[cfg(feature = "onnx")]
fn look_here(section: &protocol::config::ModelsSection) -> Finding {
    use protocol::config::ModelProvider;

    let runtime = match executors::onnx::OnnxRuntime::load(section) {
        Ok(runtime) => runtime,
        Err(error) => return Finding::warning(SUBJECT, format!("{error}. Needed for the kinds `onnx`, `embed` and `classify`")),
    };
    let (providers, path) = (runtime.providers(), runtime.path().display().to_string());
    let detail = format!("{}, {path}, runs models on {}", runtime.version(), providers.join(" and "));
    if section.provider == ModelProvider::Cuda && !providers.contains(&"cuda") {
        return Finding::bad(SUBJECT, format!("{detail}, and models.provider is cuda: install a build of it with CUDA"));
    }
    Finding::good(SUBJECT, detail)
}

/// A program without these kinds has no use for it.
#[cfg(not(feature = "onnx"))]
pub(super) async fn look(_: &Configuration) -> Vec<Finding> {
    Vec::new()
}
