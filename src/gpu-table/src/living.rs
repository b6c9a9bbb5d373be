//! Who lives in a pool, and what tasks nobody there could ever run, however long they wait.
//!
//! A claim says that nothing fits also where the GPUs that do fit take no tasks right now. [`Living`] tells the two apart.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use protocol::{GpuRow, Kind, PoolName, Unserved, task::ComputeCapability};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::{GpuTable, TableError, Wanted, eligibility::memory_for_tasks_mb};

/// The living GPUs of a pool at one moment.
#[derive(Debug, Clone)]
pub struct Living {
    pool: PoolName,
    rows: Vec<GpuRow>,
    steady: Duration,
}

/// What a task asks for and no living GPU has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// What is missing, for people: a sentence without a full stop.
    pub what: String,
    /// The field of the task that asks for it: `kind`, `needs`, `needs.memory_mb` or `needs.compute_capability`.
    pub field: &'static str,
    /// The kinds that the living GPUs of the pool serve, sorted.
    pub served: Vec<Kind>,
}

impl fmt::Display for Lack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}; served now: ", self.what)?;
        if self.served.is_empty() {
            return formatter.write_str("nothing");
        }
        let named: Vec<&str> = self.served.iter().map(Kind::as_str).take(Unserved::SERVED_MAX).collect();
        formatter.write_str(&named.join(", "))?;
        if self.served.len() > named.len() { formatter.write_str(", …") } else { Ok(()) }
    }
}

impl Living {
    /// Looks at the table.
    ///
    /// # Errors
    /// Those of [`GpuTable`].
    pub async fn look(table: &dyn GpuTable, pool: &PoolName) -> Result<Self, TableError> {
        // In this order: a table that is emptied in between is not steady, and never looks like one whose GPUs are gone.
        let views = table.rows(pool).await?;
        let steady = table.steady(pool).await?;
        Ok(Self { pool: pool.clone(), rows: views.into_iter().map(|view| view.row).collect(), steady })
    }

    /// Whether no GPU lives.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// As [`GpuTable::steady`]: while this is less than a lease, GPUs may live that are not here.
    #[must_use]
    pub const fn steady(&self) -> Duration {
        self.steady
    }

    /// The kinds that are served, sorted.
    #[must_use]
    pub fn kinds(&self) -> Vec<Kind> {
        let kinds: BTreeSet<&Kind> = self.rows.iter().flat_map(|row| &row.kinds).collect();
        kinds.into_iter().cloned().collect()
    }

    /// Whether a living GPU could run the task, busy or not, whether or not it takes tasks now. Tasks may use the share `memory_threshold` of a GPU's memory.
    #[must_use]
    pub fn serves(&self, wanted: &Wanted, memory_threshold: f64) -> bool {
        self.rows.iter().any(|row| wanted.fits(row, memory_threshold))
    }

    /// What the task asks for and no living GPU has; `None` where [`Living::serves`] says yes. Also `None` where the task names a GPU that does not live: that one may come back.
    #[must_use]
    pub fn lack(&self, wanted: &Wanted, memory_threshold: f64) -> Option<Lack> {
        // First of all: most tasks are served, and every submit asks.
        if self.serves(wanted, memory_threshold) {
            return None;
        }
        let may_run = |row: &&GpuRow| wanted.specific_gpu_id.as_ref().is_none_or(|only| *only == row.gpu.gpu_id);
        let rows: Vec<&GpuRow> = self.rows.iter().filter(may_run).collect();
        if rows.is_empty() && wanted.specific_gpu_id.is_some() {
            return None;
        }
        let (what, field) = self.missing(wanted, &rows, memory_threshold);
        Some(Lack { what, field, served: self.kinds() })
    }

    fn missing(&self, wanted: &Wanted, rows: &[&GpuRow], memory_threshold: f64) -> (String, &'static str) {
        let Wanted { kind, needs, specific_gpu_id } = wanted;
        let of_kind: Vec<&GpuRow> = rows.iter().copied().filter(|row| row.kinds.contains(kind)).collect();
        let pool = &self.pool;
        if of_kind.is_empty() {
            let what = match specific_gpu_id {
                Some(gpu_id) => format!("GPU {gpu_id} of pool {pool} does not serve kind {kind}"),
                None => format!("no living GPU of pool {pool} serves kind {kind}"),
            };
            return (what, "kind");
        }
        let who = match specific_gpu_id {
            Some(gpu_id) => format!("GPU {gpu_id} of pool {pool}"),
            None => format!("the living GPUs of pool {pool} that serve kind {kind}"),
        };
        let largest_mb = of_kind.iter().map(|row| memory_for_tasks_mb(row, memory_threshold)).fold(0.0, f64::max);
        if let Some(memory_mb) = needs.memory_mb.filter(|memory_mb| *memory_mb as f64 > largest_mb) {
            let what = format!("{memory_mb} MB of memory are needed, and the most that tasks may use of {who} is {largest_mb:.0} MB");
            return (what, "needs.memory_mb");
        }
        let highest: Option<ComputeCapability> = of_kind.iter().map(|row| row.gpu.compute_capability).max();
        if let (Some(lowest), Some(highest)) = (needs.compute_capability, highest)
            && lowest > highest
        {
            let (lowest, highest) = (String::from(lowest), String::from(highest));
            return (format!("compute capability {lowest} is needed, and the highest of {who} is {highest}"), "needs.compute_capability");
        }
        (format!("none of {who} has all of that at once: {wanted}"), "needs")
    }
}

/// A pool's living GPUs as they were a moment ago, for those who ask often: the table is asked at most once in [`PoolView::AGE_MAX`], and only if somebody asks.
pub struct PoolView {
    table: Arc<dyn GpuTable>,
    pool: PoolName,
    last: Mutex<Option<Looked>>,
}

struct Looked {
    at: Instant,
    /// `None`: the table did not answer.
    living: Option<Arc<Living>>,
}

impl PoolView {
    /// How old a view may be.
    pub const AGE_MAX: Duration = Duration::from_secs(1);
    /// How long the table may take to answer.
    const PATIENCE: Duration = Duration::from_secs(1);

    /// A view that asks nobody yet.
    #[must_use]
    pub fn new(table: Arc<dyn GpuTable>, pool: PoolName) -> Self {
        Self { table, pool, last: Mutex::new(None) }
    }

    /// The living GPUs, as they were at most [`PoolView::AGE_MAX`] ago. `None` if the table did not answer within a second; it is asked again after [`PoolView::AGE_MAX`]. Who asks at the
    /// same time waits for the same answer.
    pub async fn living(&self) -> Option<Arc<Living>> {
        let mut last = self.last.lock().await;
        if let Some(looked) = last.as_ref().filter(|looked| looked.at.elapsed() < Self::AGE_MAX) {
            return looked.living.clone();
        }
        let looking = timeout(Self::PATIENCE, Living::look(&*self.table, &self.pool)).await;
        let living = looking.ok().and_then(Result::ok).map(Arc::new);
        *last = Some(Looked { at: Instant::now(), living: living.clone() });
        living
    }
}

impl fmt::Debug for PoolView {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PoolView").field("pool", &self.pool).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use protocol::{GpuDescription, GpuId, GpuSample, Health, Incarnation, Needs, gpu::Hardware};

    use super::*;

    fn row(name: &str, kinds: &[&str], memory_total_mb: u64, (major, minor): (u8, u8)) -> GpuRow {
        GpuRow {
            gpu: GpuDescription {
                gpu_id: GpuId::new(name).expect("a good id"),
                name: "a GPU".to_owned(),
                memory_total_mb,
                compute_capability: ComputeCapability { major, minor },
                hardware: Hardware::default(),
            },
            sample: GpuSample::default(),
            pool: PoolName::default(),
            incarnation: Incarnation::new(format!("{name}.1")).expect("a good id"),
            host: "host".to_owned(),
            slots: 1,
            health: Health::Healthy,
            health_reason: String::new(),
            consuming: true,
            stopping: false,
            kinds: kinds.iter().map(|kind| kind.parse().expect("a kind")).collect(),
            models: Vec::new(),
            foreign_utilization_percent: 0.0,
            waiting: 0,
            running: Vec::new(),
        }
    }

    /// An old GPU with much memory, and a new one with little.
    fn living() -> Living {
        let rows = vec![row("old", &["echo", "simulate"], 100_000, (8, 0)), row("new", &["echo", "predict"], 50_000, (9, 0))];
        Living { pool: PoolName::default(), rows, steady: Duration::ZERO }
    }

    fn wanted(kind: &str) -> Wanted {
        Wanted { kind: kind.parse().expect("a kind"), needs: Needs::default(), specific_gpu_id: None }
    }

    fn needing(memory_mb: u64, (major, minor): (u8, u8)) -> Wanted {
        let compute_capability = Some(ComputeCapability { major, minor });
        Wanted { needs: Needs { memory_mb: Some(memory_mb), compute_capability, ..Needs::default() }, ..wanted("echo") }
    }

    fn only(gpu_id: &str, wanted: Wanted) -> Wanted {
        Wanted { specific_gpu_id: Some(GpuId::new(gpu_id).expect("a good id")), ..wanted }
    }

    fn lack(wanted: &Wanted) -> Option<(String, &'static str)> {
        living().lack(wanted, 0.5).map(|lack| (lack.to_string(), lack.field))
    }

    #[test]
    fn what_one_living_gpu_could_run_lacks_nothing_whether_or_not_it_takes_tasks() {
        assert_eq!(lack(&wanted("simulate")), None);
        assert_eq!(lack(&needing(50_000, (8, 0))), None);
        assert_eq!(lack(&only("new", wanted("predict"))), None);
        let mut away = living();
        for row in &mut away.rows {
            (row.health, row.consuming, row.stopping) = (Health::Quarantined, false, true);
        }
        assert_eq!(away.lack(&wanted("echo"), 0.5), None);
    }

    #[test]
    fn a_named_gpu_that_does_not_live_may_come_back() {
        assert_eq!(lack(&only("gone", wanted("ecko"))), None);
    }

    #[test]
    fn a_lack_says_what_is_missing_where_it_was_asked_for_and_what_is_served() {
        let served = "served now: echo, predict, simulate";
        let cases = [
            (wanted("ecko"), format!("no living GPU of pool default serves kind ecko; {served}"), "kind"),
            (only("old", wanted("predict")), format!("GPU old of pool default does not serve kind predict; {served}"), "kind"),
            (
                needing(50_001, (8, 0)),
                format!(
                    "50001 MB of memory are needed, and the most that tasks may use of the living GPUs of pool default that serve kind echo is 50000 MB; {served}"
                ),
                "needs.memory_mb",
            ),
            (
                needing(1, (10, 0)),
                format!(
                    "compute capability 10.0 is needed, and the highest of the living GPUs of pool default that serve kind echo is 9.0; {served}"
                ),
                "needs.compute_capability",
            ),
            (
                needing(50_000, (9, 0)),
                format!(
                    "none of the living GPUs of pool default that serve kind echo has all of that at once: kind echo, 50000 MB of memory, compute capability 9.0; {served}"
                ),
                "needs",
            ),
        ];
        for (wanted, text, field) in cases {
            assert_eq!(lack(&wanted), Some((text, field)));
        }
        let nobody = Living { pool: PoolName::default(), rows: Vec::new(), steady: Duration::ZERO };
        let text = nobody.lack(&wanted("echo"), 1.0).expect("nobody lives").to_string();
        assert_eq!(text, "no living GPU of pool default serves kind echo; served now: nothing");
    }
}
