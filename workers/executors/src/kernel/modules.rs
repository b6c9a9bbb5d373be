//! The operator's modules, compiled once for each GPU and each text of the file.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use devices::{
    Cuda,
    nvidia::cuda::{Module, Source},
};
use protocol::{GpuDescription, GpuId};
use tokio::{sync::OnceCell, task::spawn_blocking, time::Instant};

use crate::{Failure, cuda::failure};

/// Modules that are kept at most; beyond it all are let go and compiled again when they are used.
const KEPT_MAX: usize = 256;
/// How long a file counts as read: its next tasks do not wait for the disk.
const FRESH: Duration = Duration::from_secs(1);
/// The longest name of a module.
const NAME_MAX: usize = 64;

pub(super) struct Modules {
    directory: PathBuf,
    kept: Mutex<HashMap<(GpuId, String), Kept>>,
}

/// A text and its module, once it is compiled. Tasks of the same module wait for the one that compiles it, and for no other.
#[derive(Clone)]
struct Kept {
    text: Arc<str>,
    read_at: Instant,
    module: Arc<OnceCell<Module>>,
}

impl Modules {
    pub(super) fn of(directory: PathBuf) -> Self {
        Self { directory, kept: Mutex::default() }
    }

    /// The module of this name. A file that has changed is compiled again, within a second.
    pub(super) async fn get(&self, cuda: &Cuda, gpu: &GpuDescription, name: &str) -> Result<Module, Failure> {
        let key = (gpu.gpu_id.clone(), name.to_owned());
        let fresh = self.kept().get(&key).filter(|kept| kept.read_at.elapsed() < FRESH).cloned();
        let kept = match fresh {
            Some(kept) => kept,
            None => {
                let read_at = Instant::now();
                let (kept, old) = self.entry(key, self.read(name).await?, read_at);
                let_go(old).await;
                kept
            }
        };
        let build = async || {
            let source = Source { name: format!("{name}.cu"), text: kept.text.to_string() };
            let module = cuda.build(source, gpu.compute_capability).await?;
            tracing::info!(module = name, gpu_id = %gpu.gpu_id, "compiled");
            Ok(module)
        };
        let module = kept.module.get_or_try_init(build).await;
        module.cloned().map_err(|error| Failure { field: Some("payload.module".to_owned()), ..failure(&error, None) })
    }

    /// What is kept of a module with the text that was read then, or of a later one; and what that replaces.
    fn entry(&self, key: (GpuId, String), text: String, read_at: Instant) -> (Kept, Vec<Kept>) {
        let mut kept = self.kept();
        if let Some(known) = kept.get_mut(&key)
            && (*known.text == *text || known.read_at > read_at)
        {
            known.read_at = known.read_at.max(read_at);
            return (known.clone(), Vec::new());
        }
        let mut old: Vec<Kept> = Vec::new();
        if kept.len() >= KEPT_MAX {
            old.extend(kept.drain().map(|(_, kept)| kept));
        }
        let new = Kept { text: text.into(), read_at, module: Arc::default() };
        old.extend(kept.insert(key, new.clone()));
        (new, old)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<(GpuId, String), Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of all. Whether there were any on the GPU.
    pub(super) async fn forget(&self) -> bool {
        let old: Vec<Kept> = self.kept().drain().map(|(_, kept)| kept).collect();
        let freed = old.iter().any(|kept| kept.module.initialized());
        let_go(old).await;
        freed
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

/// Taking a module off the GPU waits for what runs there: not on a thread of the runtime. Once this is done, its memory is free, unless a task still uses it.
async fn let_go(old: Vec<Kept>) {
    if !old.is_empty() {
        // It only fails where a drop panics: then the memory stays in use.
        let _ = spawn_blocking(move || drop(old)).await;
    }
}
