//! `echo`: gives the payload's bytes back. For first steps and for measuring everything but the work.

use std::sync::Arc;

use async_trait::async_trait;
use devices::Use;
use protocol::{Framed, Json, Kind};

use crate::{Executor, Failure, Run, occupy::occupy, schemas};

struct Echo;

/// The executor of the kind `echo`: its result is the payload.
#[must_use]
pub fn echo() -> Arc<dyn Executor> {
    Arc::new(Echo)
}

#[async_trait]
impl Executor for Echo {
    fn kind(&self) -> Kind {
        Kind::new("echo").expect("a literal that keeps the rule")
    }

    fn about(&self) -> String {
        "gives the payload back, to the last byte".to_owned()
    }

    fn schema(&self) -> Option<Json> {
        Some(schemas::of(schemas::ECHO))
    }

    fn result_bytes_min(&self, payload: &Json) -> usize {
        payload.as_bytes().len()
    }

    async fn run(&self, run: Run<'_>) -> Result<Framed, Failure> {
        let _work = occupy(run.device.as_ref(), Use::default())?;
        Ok(Framed { json: run.payload.clone(), segments: run.segments().clone() })
    }
}

#[cfg(test)]
mod tests {
    use devices::SimulatedGpu;
    use serde_json::json;

    use super::*;
    use crate::fixture::{gpu, run_on};

    #[tokio::test]
    async fn echo_gives_the_payload_back() {
        for payload in [json!({"a": [1, null, "ü"]}), json!(null), json!("text")] {
            let result = run_on(&echo(), &gpu(), payload.clone()).await.unwrap();
            assert_eq!(result, payload);
            assert_eq!(result.as_bytes().len(), echo().result_bytes_min(&payload.into()));
        }
    }

    #[tokio::test]
    async fn a_fault_of_the_gpu_fails_the_attempt_and_may_be_retried() {
        let broken = SimulatedGpu::new(devices::SimulatedOptions::default());
        broken.knobs().fail_tasks(1.0, "Xid 31");
        let failure = run_on(&echo(), &(Arc::new(broken) as _), json!(1)).await.unwrap_err();
        assert_eq!((failure.message.as_str(), failure.retry), ("the GPU failed: Xid 31", true));
    }
}
