//! Whose fault a lost context is. CUDA says what it saw, the driver's Xid events say what happened: either may come first, and both are told as one trouble.

use std::time::Duration;

use tokio::sync::mpsc;

use super::cuda::CudaError;
use crate::{Consequence, Trouble};

/// How soon after an error in CUDA its Xid events come.
const XID_FOLLOWS: Duration = Duration::from_secs(1);

/// What CUDA alone says of a lost context.
pub(super) fn lost(error: &CudaError) -> Trouble {
    let by_a_task = !matches!(error, CudaError::Lost { by_a_task: false, .. });
    Trouble { what: Consequence::Lost { by_a_task }, reason: error.to_string(), xid: None }
}

/// A lost context, with what is heard of the GPU in the moment after: that may say that it was no task.
pub(super) async fn blamed(error: &CudaError, troubles: &mut mpsc::Receiver<Trouble>) -> Trouble {
    let mut told = lost(error);
    let listen = async {
        while let Some(heard) = troubles.recv().await {
            told = joined(told.clone(), heard);
        }
    };
    // The moment is over, or nobody is left to tell.
    let _ = tokio::time::timeout(XID_FOLLOWS, listen).await;
    told
}

/// Both as one. A fault of the GPU clears its tasks, and its Xid is the one that counts.
pub(super) fn joined(told: Trouble, heard: Trouble) -> Trouble {
    let innocent = Consequence::Lost { by_a_task: false };
    let clears = heard.what == innocent;
    Trouble {
        what: if clears { innocent } else { told.what },
        reason: format!("{}; {}", told.reason, heard.reason),
        xid: if clears { heard.xid.or(told.xid) } else { told.xid.or(heard.xid) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> CudaError {
        CudaError::Lost { operation: "wait for the GPU", cause: "CUDA_ERROR_ILLEGAL_ADDRESS (700)".to_owned(), by_a_task: true }
    }

    fn xid(number: u64, what: Consequence) -> Trouble {
        Trouble { what, reason: format!("Xid {number}"), xid: Some(number) }
    }

    async fn after(heard: Vec<Trouble>) -> Trouble {
        let (tell, mut troubles) = mpsc::channel(8);
        for trouble in heard {
            tell.try_send(trouble).unwrap();
        }
        blamed(&fault(), &mut troubles).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_xid_that_follows_is_told_with_its_number_whatever_its_class() {
        let told = after(vec![xid(31, Consequence::Suspected), xid(43, Consequence::Suspected)]).await;
        assert_eq!((told.what, told.xid), (Consequence::Lost { by_a_task: true }, Some(31)));
        assert!(told.reason.contains("ILLEGAL_ADDRESS") && told.reason.ends_with("Xid 31; Xid 43"), "{}", told.reason);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_of_the_gpu_that_follows_clears_the_task() {
        let told = after(vec![xid(31, Consequence::Suspected), xid(79, Consequence::Lost { by_a_task: false })]).await;
        assert_eq!((told.what, told.xid), (Consequence::Lost { by_a_task: false }, Some(79)));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_xid_cuda_alone_is_believed() {
        assert_eq!(after(Vec::new()).await, lost(&fault()));
    }
}
