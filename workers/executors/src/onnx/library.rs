//! ONNX Runtime's library: where it is looked for, and how it is loaded. A process loads it once.

use std::{
    error::Error as _,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use ort::{
    LoadDynamicError,
    environment::Environment,
    ep::{CPU, CUDA, ExecutionProvider},
    logging::{LogLevel, LoggerFunction},
};
use protocol::config::ModelsSection;

use super::{OnnxError, directory::natural};

/// The name that the system's loader knows it by.
const NAME: &str = "libonnxruntime.so";
/// Where the system's loader may not look, and packages put libraries.
const SYSTEM_FOLDERS: [&str; 5] =
    ["/usr/local/lib", "/opt/onnxruntime/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];

/// ONNX Runtime, loaded. Clones are the same library: a process has one.
#[derive(Clone)]
pub struct OnnxRuntime {
    environment: Environment,
    path: PathBuf,
}

static LOADED: Mutex<Option<OnnxRuntime>> = Mutex::new(None);

impl fmt::Debug for OnnxRuntime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OnnxRuntime").field("path", &self.path).finish_non_exhaustive()
    }
}

impl OnnxRuntime {
    /// Loads the library from the configured place, or else from the first usual one that has it. A process that has loaded one keeps it, whatever `section` says. Blocks.
    ///
    /// # Errors
    /// [`OnnxError::NoLibrary`] and [`OnnxError::Library`]; a later call tries again.
    pub fn load(section: &ModelsSection) -> Result<Self, OnnxError> {
        // A panic while loading leaves it as it was.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*loaded {
            return Ok(runtime.clone());
        }
        let runtime = Self::load_first(section)?;
        Ok(loaded.insert(runtime).clone())
    }

    fn load_first(section: &ModelsSection) -> Result<Self, OnnxError> {
        if let Some(configured) = &section.onnx_runtime {
            let path = if configured.is_dir() { newest_in(configured) } else { Some(configured.clone()) };
            let path = path.ok_or_else(|| OnnxError::NoLibrary { looked_in: configured.display().to_string() })?;
            return Self::load_from(&path);
        }
        let folders = usual_folders(section);
        if let Some(path) = folders.iter().find_map(|folder| newest_in(folder)) {
            return Self::load_from(&path);
        }
        let looked_in = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
        Self::load_by(Path::new(NAME)).map_err(|_| OnnxError::NoLibrary { looked_in })
    }

    /// Its real place, so that it finds the libraries that belong to it beside itself.
    fn load_from(path: &Path) -> Result<Self, OnnxError> {
        let real = path.canonicalize().map_err(|error| OnnxError::Library { path: path.to_owned(), why: error.to_string() })?;
        preload_cuda(&real, Self::load_by(&real)?)
    }

    fn load_by(path: &Path) -> Result<Self, OnnxError> {
        let unusable = |why: String| OnnxError::Library { path: path.to_owned(), why };
        // The crate takes some faults of a library for impossible, and panics.
        let environment = catch_unwind(AssertUnwindSafe(|| {
            let builder = ort::init_from(path).map_err(|error| in_full(&error))?;
            let built = builder.with_name("gpufleet").with_telemetry(false).with_logger(to_our_log()).build();
            built.map_err(|error| error.to_string())
        }));
        let environment = environment.unwrap_or_else(|_| Err("it is not the library that its name says".to_owned())).map_err(unusable)?;
        environment.set_log_level(LogLevel::Warning);
        Ok(Self { environment, path: path.to_owned() })
    }

    pub(super) const fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The file that was loaded.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version, such as `1.32.0`, or what it says of its build where that names none.
    #[must_use]
    pub fn version(&self) -> String {
        version_in(ort::info())
    }

    /// Where it can run models, as it says itself: whether the parts it needs for that are there shows only when a model is loaded.
    #[must_use]
    pub fn providers(&self) -> Vec<&'static str> {
        let known = [(CPU::is_available(), "cpu"), (CUDA::is_available(), "cuda")];
        known.into_iter().filter(|(available, _)| available.as_ref().is_ok_and(|available| *available)).map(|(_, name)| name).collect()
    }
}

/// The system's loader says what is wrong one level below.
fn in_full(error: &LoadDynamicError) -> String {
    match error {
        LoadDynamicError::Dlopen { error, .. } => error.source().map_or_else(|| error.to_string(), ToString::to_string),
        other => other.to_string(),
    }
}

/// What it says of its build names its branch: `git-branch=rel-1.32.0`.
fn version_in(build: &str) -> String {
    let branch = build.split("git-branch=").nth(1).and_then(|rest| rest.split([',', ' ']).next());
    let version = branch.and_then(|branch| branch.strip_prefix("rel-"));
    version.unwrap_or(build).to_owned()
}

/// Beside the program, in the folder of models, and where the system keeps libraries.
fn usual_folders(section: &ModelsSection) -> Vec<PathBuf> {
    let program = std::env::current_exe().ok().and_then(|program| program.parent().map(Path::to_owned));
    let beside = program.iter().flat_map(|folder| [folder.clone(), folder.join("lib")]);
    let models = section.directory.iter().flat_map(|folder| [folder.clone(), folder.join("onnxruntime")]);
    beside.chain(models).chain(SYSTEM_FOLDERS.map(PathBuf::from)).collect()
}

/// The library of the highest version in a folder; the name without a version comes first.
fn newest_in(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join(NAME);
    if plain.is_file() {
        return Some(plain);
    }
    let names = std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let versions = names.filter(|name| {
        let version = name.strip_prefix(NAME).and_then(|rest| rest.strip_prefix('.'));
        version.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
    });
    versions.max_by(|one, other| natural(one, other)).map(|name| folder.join(name))
}

/// CUDA's and cuDNN's libraries beside it are loaded before it asks for them by name.
fn preload_cuda(path: &Path, runtime: OnnxRuntime) -> Result<OnnxRuntime, OnnxError> {
    let Some(folder) = path.parent() else { return Ok(runtime) };
    let holds = |name: &str| folder.join(name).exists().then_some(folder);
    let cuda = ort::ep::cuda::CUDA_DYLIBS.first().and_then(|name| holds(name));
    let cudnn = ort::ep::cuda::CUDNN_DYLIBS.first().and_then(|name| holds(name));
    match ort::ep::cuda::preload_dylibs(cuda, cudnn) {
        Ok(()) => Ok(runtime),
        Err(error) => Err(OnnxError::Library { path: path.to_owned(), why: error.to_string() }),
    }
}

fn to_our_log() -> LoggerFunction {
    Arc::new(|level, _category, _id, place, message| match level {
        LogLevel::Verbose | LogLevel::Info => tracing::trace!(place, "ONNX Runtime: {message}"),
        LogLevel::Warning => tracing::debug!(place, "ONNX Runtime: {message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::warn!(place, "ONNX Runtime: {message}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_versions_the_highest_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "libonnxruntime.so.1.9.0",
            "libonnxruntime.so.1.32.0",
            "libonnxruntime.so.1.32.0.LICENSE.txt",
            "libonnxruntime_providers_shared.so",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(newest_in(folder.path()), Some(folder.path().join("libonnxruntime.so.1.32.0")));
        assert_eq!(newest_in(&folder.path().join("none")), None);
    }

    #[test]
    fn the_version_is_read_from_what_the_library_says_of_its_build() {
        assert_eq!(version_in("ORT Build Info: git-branch=rel-1.32.0, git-commit-id=12, build type=Release"), "1.32.0");
        assert_eq!(version_in("ORT Build Info: git-branch=main, x"), "ORT Build Info: git-branch=main, x");
    }
}
