//! The GPU that a tensor is written to.

use std::{cmp::Reverse, io};

use axum::body::Bytes;
use data_link::{Client, LinkError, NewTensor};
use futures::stream::BoxStream;
use protocol::{GpuId, KeptTensor, PoolName, TensorRecord, gpu::GpuView};

use super::LIMITS;
use crate::tensors::{TensorsError, error::in_words};

/// How many ports are tried, where no GPU is named.
const TRIED_MAX: usize = 8;
/// Bytes of an MB, as rows count them.
const MB: u64 = 1_000_000;

/// A GPU whose data port has answered.
#[derive(Debug)]
pub struct Destination {
    gpu_id: GpuId,
    /// Of its port.
    client: Client,
}

impl Destination {
    /// Writes a tensor there. `bytes` in any cut, together as many as its shape says; they are passed on as they come. Where it fails, or is dropped, nothing of it remains.
    ///
    /// # Errors
    /// [`TensorsError::Port`].
    pub async fn write(self, new: NewTensor, bytes: BoxStream<'static, Result<Bytes, io::Error>>) -> Result<KeptTensor, TensorsError> {
        let Self { gpu_id, client } = self;
        let written = client.write(new, bytes).await.map_err(|cause| TensorsError::Port { gpu_id, cause })?;
        let TensorRecord { name, version, gpu_id, shape, bytes, .. } = written;
        Ok(KeptTensor { tensor: name, version, gpu_id, shape, bytes })
    }

    /// See [`PoolTensors::destination`](super::PoolTensors::destination).
    pub(super) async fn choose(pool: &PoolName, rows: Vec<GpuView>, bytes: u64, named: Option<&GpuId>) -> Result<Self, TensorsError> {
        let candidates = match named {
            Some(gpu_id) => vec![living(pool, rows, gpu_id)?],
            None => ranked(rows),
        };
        if let Some(largest) = candidates.iter().max_by_key(|view| memory_bytes(view))
            && bytes > memory_bytes(largest)
        {
            return Err(TensorsError::TooLarge { bytes, gpu_id: largest.row.gpu.gpu_id.clone(), most: memory_bytes(largest) });
        }
        let mut reason = "none that lives has a data port (data.listen)".to_owned();
        for view in candidates.into_iter().filter(|view| bytes <= memory_bytes(view)).take(TRIED_MAX) {
            let gpu_id = view.row.gpu.gpu_id;
            let connected = match &view.row.data.data_port {
                Some(port) => Client::connect(port, LIMITS).await,
                None => Err(LinkError::NoAddress),
            };
            match connected {
                Ok(client) => return Ok(Self { gpu_id, client }),
                Err(cause) => reason = format!("GPU {gpu_id}: {}", in_words(&cause)),
            }
        }
        Err(TensorsError::NoGpu { pool: pool.clone(), reason })
    }
}

fn living(pool: &PoolName, rows: Vec<GpuView>, gpu_id: &GpuId) -> Result<GpuView, TensorsError> {
    let found = rows.into_iter().find(|view| view.row.gpu.gpu_id == *gpu_id);
    found.ok_or_else(|| TensorsError::UnknownGpu { pool: pool.clone(), gpu_id: gpu_id.clone() })
}

/// Those with data ports: first those that may be given tasks, among them the one with the most free memory.
fn ranked(rows: Vec<GpuView>) -> Vec<GpuView> {
    let mut rows: Vec<GpuView> = rows.into_iter().filter(|view| !view.row.stopping && view.row.data.data_port.is_some()).collect();
    rows.sort_by_cached_key(|view| {
        let free_mb = view.row.gpu.memory_total_mb.saturating_sub(view.row.memory_in_the_way_mb());
        (Reverse(view.eligible && !view.draining), Reverse(free_mb), view.row.gpu.gpu_id.clone())
    });
    rows
}

const fn memory_bytes(view: &GpuView) -> u64 {
    view.row.gpu.memory_total_mb.saturating_mul(MB)
}
