//! What ONNX Runtime writes of a run that it was told to watch: which step ran where. It is the one proof that a model runs on CUDA: a session that was told to use it may fall back to the CPU without a word.

use std::path::Path;

use serde::Deserialize;

use super::OnnxError;

const CUDA: &str = "CUDAExecutionProvider";

/// How many steps ran on CUDA, and how many elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) on_cuda: usize,
    pub(super) elsewhere: usize,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    #[serde(default)]
    args: Args,
}

#[derive(Default, Deserialize)]
struct Args {
    #[serde(default)]
    provider: Option<String>,
}

impl Steps {
    /// Counts them in a profile.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn read(profile: &[u8]) -> Result<Self, String> {
        let events: Vec<Event> =
            serde_json::from_slice(profile).map_err(|error| format!("the record of its run cannot be read: {error}"))?;
        let mut steps = Self::default();
        for provider in events.into_iter().filter(|event| event.cat == "Node").filter_map(|event| event.args.provider) {
            if provider == CUDA {
                steps.on_cuda += 1;
            } else {
                steps.elsewhere += 1;
            }
        }
        Ok(steps)
    }

    /// The same, of the file that a session has written, which is removed.
    pub(super) fn take(path: &Path) -> Result<Self, OnnxError> {
        let profile = std::fs::read(path);
        // What cannot be removed lies in a folder for what is temporary.
        let _ = std::fs::remove_file(path);
        let profile = profile.map_err(|error| OnnxError::unreadable(path, &error))?;
        Self::read(&profile).map_err(|why| OnnxError::unreadable(path, &why))
    }

    /// Whether the model runs on CUDA. Small steps about shapes run on the CPU by design; a model that has more of those than of others is not meant.
    ///
    /// # Errors
    /// What ran where.
    pub(super) fn prove_cuda(self) -> Result<(), String> {
        let Self { on_cuda, elsewhere } = self;
        if on_cuda == 0 {
            return Err(format!("it was loaded for CUDA, and all {elsewhere} steps of its trial ran on the CPU"));
        }
        if on_cuda < elsewhere {
            return Err(format!("it was loaded for CUDA, and of the steps of its trial {elsewhere} ran on the CPU and {on_cuda} on CUDA"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn event(cat: &str, provider: &str) -> Value {
        json!({"cat": cat, "name": "n", "dur": 3, "args": {"op_name": "MatMul", "provider": provider}})
    }

    #[test]
    fn a_model_that_fell_back_to_the_cpu_is_found() {
        let steps = |events: &[Value]| Steps::read(json!(events).to_string().as_bytes()).unwrap();
        let session = json!({"cat": "Session", "name": "model_run", "args": {}});
        let (cuda, cpu) = (event("Node", CUDA), event("Node", "CPUExecutionProvider"));
        assert_eq!(steps(&[session.clone(), cuda.clone(), cpu.clone()]).prove_cuda(), Ok(()));
        let fell_back = steps(&[session.clone(), cpu.clone(), event("Session", CUDA)]);
        assert!(fell_back.prove_cuda().unwrap_err().contains("all 1 steps of its trial ran on the CPU"));
        assert!(steps(&[cuda, cpu.clone(), cpu]).prove_cuda().unwrap_err().contains("2 ran on the CPU and 1 on CUDA"));
        assert!(steps(&[session]).prove_cuda().is_err(), "nothing ran at all");
        assert!(Steps::read(b"[{").unwrap_err().contains("cannot be read"));
    }
}
