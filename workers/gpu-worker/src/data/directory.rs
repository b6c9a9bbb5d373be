//! The table as the directory of tensors.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use gpu_table::{GpuTable, TENSORS_TOLD_MAX, TableError, VersionDraw, VersionWanted};
use protocol::{GpuId, Incarnation, PoolName, TensorName, TensorRecord, gpu::GpuView};
use tensors::{Destination, Directory, DirectoryError, Draw};
use tokio::{sync::Mutex, time::Instant};

use crate::context::Context;

/// How old the rows may be that ways, receivers and the pool's quota are taken from: whoever moves many tensors reads them once a second.
const ROWS_AGE_MAX: Duration = Duration::from_secs(1);

/// The table, as the data plane of one GPU asks it.
pub(crate) struct TableDirectory {
    table: Arc<dyn GpuTable>,
    pool: PoolName,
    gpu_id: GpuId,
    incarnation: Incarnation,
    /// Held while they are asked for, so that those who ask at the same time get the same answer.
    rows: Mutex<Option<(Instant, Arc<Vec<GpuView>>)>>,
}

impl TableDirectory {
    pub(crate) fn of(context: &Context) -> Self {
        Self {
            table: Arc::clone(&context.ports.table),
            pool: context.me.options.pool.clone(),
            gpu_id: context.me.gpu_id.clone(),
            incarnation: context.me.incarnation.clone(),
            rows: Mutex::default(),
        }
    }

    async fn rows(&self) -> Result<Arc<Vec<GpuView>>, DirectoryError> {
        let mut known = self.rows.lock().await;
        if let Some((_, rows)) = known.as_ref().filter(|(at, _)| at.elapsed() < ROWS_AGE_MAX) {
            return Ok(Arc::clone(rows));
        }
        // A view is as old as its question.
        let asked = Instant::now();
        let rows = Arc::new(self.table.rows(&self.pool).await.map_err(failed)?);
        *known = Some((asked, Arc::clone(&rows)));
        Ok(rows)
    }
}

fn failed(error: TableError) -> DirectoryError {
    DirectoryError { is_transient: error.is_transient(), message: error.to_string() }
}

#[async_trait]
impl Directory for TableDirectory {
    async fn find(&self, names: &[TensorName]) -> Result<Vec<TensorRecord>, DirectoryError> {
        let mut found = Vec::new();
        for names in names.chunks(TENSORS_TOLD_MAX) {
            found.extend(self.table.find_tensors(&self.pool, names).await.map_err(failed)?);
        }
        Ok(found)
    }

    async fn draw_version(&self, draw: &Draw<'_>) -> Result<u64, DirectoryError> {
        let wanted = draw.token.map_or(VersionWanted::Time(draw.now_us), VersionWanted::Token);
        let draw = VersionDraw { name: draw.name.clone(), owner: draw.owner.to_owned(), wanted };
        self.table.draw_tensor_version(&self.pool, &draw).await.map_err(failed)
    }

    async fn announce(&self, records: &[TensorRecord]) -> Result<(), DirectoryError> {
        for records in records.chunks(TENSORS_TOLD_MAX) {
            self.table.announce_tensors(&self.pool, records).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn withdraw(&self, copies: &[(TensorName, u64)]) -> Result<(), DirectoryError> {
        for copies in copies.chunks(TENSORS_TOLD_MAX) {
            self.table.withdraw_tensors(&self.pool, &self.gpu_id, &self.incarnation, copies).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn destinations(&self) -> Result<Vec<Destination>, DirectoryError> {
        let rows = self.rows().await?;
        // What a worker that stops is given would be gone with it.
        let staying = rows.iter().map(|view| &view.row).filter(|row| !row.stopping);
        Ok(staying
            .map(|row| Destination {
                gpu_id: row.gpu.gpu_id.clone(),
                incarnation: row.incarnation.clone(),
                host: row.host.clone(),
                port: row.data.data_port.clone(),
                links: row.gpu.hardware.links.clone(),
                numa_node: row.gpu.hardware.numa_node,
            })
            .collect())
    }

    async fn pool_mb(&self) -> Result<u64, DirectoryError> {
        let rows = self.rows().await?;
        Ok(rows.iter().map(|view| &view.row.data).map(|data| data.tensor_mb.saturating_add(data.tensor_host_mb)).sum())
    }
}
