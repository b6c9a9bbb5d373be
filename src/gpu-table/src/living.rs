//! Who lives in a pool, and what tasks nobody there could ever run, however long they wait.
//!
//! A claim says that nothing fits also where the GPUs that do fit take no tasks right now, or none of the kind because its handler is down. [`Living`] tells these apart.

use std::{collections::BTreeSet, fmt, pin::Pin, sync::Arc, time::Duration};

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

    /// Its rows, by GPU id.
    #[must_use]
    pub fn rows(&self) -> &[GpuRow] {
        &self.rows
    }

    /// What the tensors of the pool take together, each counted once for each copy, in MB (10^6 bytes): those on GPUs, and those that were evicted to the memory of their hosts.
    #[must_use]
    pub fn tensors_mb(&self) -> u64 {
        self.rows.iter().map(|row| row.data.tensor_mb.saturating_add(row.data.tensor_host_mb)).fold(0, u64::saturating_add)
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

    /// Whether a living GPU could run the task, busy or not, whether or not it takes tasks now, or has the kind up. Tasks may use the share `memory_threshold` of a GPU's memory.
    #[must_use]
    pub fn serves(&self, wanted: &Wanted, memory_threshold: f64) -> bool {
        self.rows.iter().any(|row| wanted.fits(row, memory_threshold) || wanted.fits_later(row, memory_threshold))
    }

    /// Why no GPU runs such a task now where those that could have its kind down, as a sentence without a full stop; `None` where it is up on one of them, or no living GPU could ever run it.
    /// It is waited for like a GPU that takes no tasks: a process is started anew, a model loaded.
    #[must_use]
    pub fn down(&self, wanted: &Wanted, memory_threshold: f64) -> Option<String> {
        if self.rows.iter().any(|row| wanted.fits(row, memory_threshold)) {
            return None;
        }
        let down: Vec<&GpuRow> = self.rows.iter().filter(|row| wanted.fits_later(row, memory_threshold)).collect();
        let first = down.first()?;
        let (kind, reason) = (&wanted.kind, first.kinds_down.get(&wanted.kind)?);
        let (count, gpu_id) = (down.len(), &first.gpu.gpu_id);
        let gpus = if count == 1 { "GPU" } else { "GPUs" };
        Some(format!("the kind {kind} is down on {count} {gpus} that could run it: {reason} ({gpu_id})"))
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
        // A kind that is down there comes up again.
        let serves = |row: &&GpuRow| row.kinds.contains(kind) || row.kinds_down.contains_key(kind);
        let of_kind: Vec<&GpuRow> = rows.iter().copied().filter(serves).collect();
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
    looks: Mutex<Looks>,
}

/// A look on its way. `None`: the table did not answer.
type Look = Pin<Box<dyn Future<Output = Option<Arc<Living>>> + Send>>;

/// The last look, and the one that is under way. That one stays where nobody waits for it any more: a table that answers slowly is heard by those who ask next.
#[derive(Default)]
struct Looks {
    last: Option<(Instant, Option<Arc<Living>>)>,
    under_way: Option<(Instant, Look)>,
}

impl Looks {
    async fn living(&mut self, look: impl FnOnce() -> Look) -> Option<Arc<Living>> {
        if let Some((_, living)) = self.last.as_ref().filter(|(at, _)| at.elapsed() < PoolView::AGE_MAX) {
            return living.clone();
        }
        // An answer that nobody has waited for may have come long ago.
        let (began, answer) = match self.under_way.take_if(|(began, _)| began.elapsed() < PoolView::AGE_MAX) {
            Some(under_way) => self.under_way.insert(under_way),
            None => self.under_way.insert((Instant::now(), look())),
        };
        let (began, living) = (*began, answer.await);
        self.under_way = None;
        // A view is as old as its question. A table that did not answer is left alone from now on.
        let at = if living.is_some() { began } else { Instant::now() };
        self.last = Some((at, living.clone()));
        living
    }
}

impl PoolView {
    /// How old a view may be.
    pub const AGE_MAX: Duration = Duration::from_secs(1);
    /// How long whoever asks waits for the table.
    const PATIENCE: Duration = Duration::from_millis(200);
    /// How long the table may take to answer.
    const LOOK_MAX: Duration = Duration::from_millis(900);

    /// A view that asks nobody yet.
    #[must_use]
    pub fn new(table: Arc<dyn GpuTable>, pool: PoolName) -> Self {
        Self { table, pool, looks: Mutex::default() }
    }

    /// The living GPUs, as they were at most [`PoolView::AGE_MAX`] ago. `None` if the table does not answer within a fifth of a second, or did not when it was asked last. Who asks at the
    /// same time waits for the same answer.
    pub async fn living(&self) -> Option<Arc<Living>> {
        let asking = async { self.looks.lock().await.living(|| self.look()).await };
        timeout(Self::PATIENCE, asking).await.ok().flatten()
    }

    fn look(&self) -> Look {
        let (table, pool) = (Arc::clone(&self.table), self.pool.clone());
        Box::pin(async move {
            let looked = timeout(Self::LOOK_MAX, Living::look(&*table, &pool)).await;
            looked.ok().and_then(Result::ok).map(Arc::new)
        })
    }
}

impl fmt::Debug for PoolView {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PoolView").field("pool", &self.pool).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
            model_state: Default::default(),
            data: Default::default(),
            servers: Default::default(),
            emptied: false,
            foreign_utilization_percent: 0.0,
            waiting: 0,
            running: Vec::new(),
            item_ms: BTreeMap::new(),
            kinds_down: BTreeMap::new(),
            run_ms: BTreeMap::new(),
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
    fn a_kind_that_is_down_wherever_it_could_run_is_waited_for_and_the_reason_is_said() {
        let (mut living, embed) = (living(), wanted("embed"));
        for row in &mut living.rows {
            row.kinds_down.insert("embed".parse().expect("a kind"), "handler mine: setup failed: no such model".to_owned());
        }
        assert!(living.serves(&embed, 0.5) && living.lack(&embed, 0.5).is_none(), "it comes up again");
        let said = living.down(&embed, 0.5).expect("it is down");
        assert_eq!(said, "the kind embed is down on 2 GPUs that could run it: handler mine: setup failed: no such model (old)");
        let said = living.down(&only("new", embed.clone()), 0.5).expect("it is down");
        assert!(said.starts_with("the kind embed is down on 1 GPU that could run it: ") && said.ends_with("(new)"), "{said}");
        // Where the GPU could never run it, that it is down there is no hope.
        let large = Wanted { kind: embed.kind.clone(), ..needing(50_001, (8, 0)) };
        assert!(living.down(&large, 0.5).is_none() && living.lack(&large, 0.5).is_some());
        // Up on one of them, it is down for nobody.
        living.rows[1].kinds.push("embed".parse().expect("a kind"));
        assert_eq!(living.down(&embed, 0.5), None);
    }

    #[test]
    fn the_tensors_of_a_pool_are_those_of_all_its_rows_on_gpus_and_hosts() {
        let mut living = living();
        (living.rows[0].data.tensor_mb, living.rows[1].data.tensor_host_mb) = (70, 5);
        living.rows[1].data.tensor_mb = 1;
        assert_eq!((living.tensors_mb(), living.rows().len()), (76, 2));
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

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_is_there_for_who_asks_next_and_one_that_came_long_ago_is_not() {
        let slow = || -> Look {
            Box::pin(async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Some(Arc::new(living()))
            })
        };
        let mut looks = Looks::default();
        let brief = Duration::from_millis(200);
        assert!(timeout(brief, looks.living(slow)).await.is_err(), "whoever asked went on without it");
        let next = timeout(brief, looks.living(|| panic!("a look is under way"))).await.expect("in time");
        assert!(next.is_some());
        assert!(looks.living(|| panic!("the view is new")).await.is_some());

        tokio::time::advance(PoolView::AGE_MAX).await;
        assert!(timeout(brief, looks.living(slow)).await.is_err());
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let began = Instant::now();
        assert!(looks.living(slow).await.is_some());
        assert!(began.elapsed() >= Duration::from_millis(300), "it was asked for anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_that_did_not_answer_is_left_alone_for_a_moment() {
        let mut looks = Looks::default();
        assert!(looks.living(|| Box::pin(std::future::ready(None))).await.is_none());
        assert!(looks.living(|| panic!("it was asked a moment ago")).await.is_none());
        tokio::time::advance(PoolView::AGE_MAX).await;
        assert!(looks.living(|| Box::pin(std::future::ready(Some(Arc::new(living()))))).await.is_some());
    }
}
