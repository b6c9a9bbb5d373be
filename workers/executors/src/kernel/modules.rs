//! The operator's modules, compiled once for each GPU and each text of the file.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::PathBuf,
};

use devices::{
    Cuda,
    nvidia::cuda::{Module, Source},
};
use protocol::{GpuDescription, GpuId};
use tokio::sync::Mutex;

use crate::{Failure, cuda::failure};

/// Modules that are kept at most; beyond it all are let go and compiled again when they are used.
const KEPT_MAX: usize = 256;

pub(super) struct Modules {
    directory: PathBuf,
    kept: Mutex<HashMap<(GpuId, String), Kept>>,
}

/// The longest name of a module.
const NAME_MAX: usize = 64;

struct Kept {
    text: String,
    module: Module,
}

impl Modules {
    pub(super) fn of(directory: PathBuf) -> Self {
        Self { directory, kept: Mutex::default() }
    }

    /// The module of this name. A file that has changed is compiled again.
    ///
    /// While one is compiled, others wait: NVRTC compiles one at a time anyway, and two tasks of the same new module must not compile it twice.
    pub(super) async fn get(&self, cuda: &Cuda, gpu: &GpuDescription, name: &str) -> Result<Module, Failure> {
        let text = self.read(name).await?;
        let mut kept = self.kept.lock().await;
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        let entry = kept.entry((gpu.gpu_id.clone(), name.to_owned()));
        if let Entry::Occupied(known) = &entry
            && known.get().text == text
        {
            return Ok(known.get().module.clone());
        }
        let source = Source { name: format!("{name}.cu"), text: text.clone() };
        let built = cuda.build(source, gpu.compute_capability).await;
        let module = built.map_err(|error| Failure { field: Some("payload.module".to_owned()), ..failure(&error, None) })?;
        tracing::info!(module = name, gpu_id = %gpu.gpu_id, "compiled");
        entry.insert_entry(Kept { text, module: module.clone() });
        Ok(module)
    }

    /// Lets go of all. Whether there were any.
    pub(super) async fn forget(&self) -> bool {
        !std::mem::take(&mut *self.kept.lock().await).is_empty()
    }

    async fn read(&self, name: &str) -> Result<String, Failure> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(plain) {
            return Err(Failure::invalid("payload.module", "must be a name of at most 64 letters, digits, '-' and '_', without .cu"));
        }
        let path = self.directory.join(format!("{name}.cu"));
        match tokio::fs::read_to_string(&path).await {
            Ok(text) => Ok(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Failure::invalid("payload.module", format!("the operator allows no module {name:?}")))
            }
            Err(error) => Err(Failure::transient(format!("read {}: {error}", path.display()))),
        }
    }
}
