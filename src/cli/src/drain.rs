//! `gpufleet drain` and `undrain`: an operator's flag in the table; and the wait until a worker has nothing any more.

use std::{collections::BTreeMap, process::ExitCode, time::Duration};

use protocol::{
    GpuId,
    gpu::{GpuView, WorkerPhase},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    arguments::{Common, DrainGpus, WhichGpus},
    fault::Fault,
    fleet::{Fleet, Pool},
    gpus, output, simulated, words,
};

/// Between two looks at a GPU that drains.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A GPU is drained once so many looks in a row say so: a row is as old as the last heartbeat, and by default those come every two seconds.
const LOOKS: u32 = 6;
/// A row that is not there may have been lost with the table: its worker has ended where it does not come back for so many looks, or for as long as the row that was last seen was to live.
const LOOKS_WITHOUT_ROW: u32 = 12;

/// What to do with a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drain {
    /// It takes no new tasks; what runs there ends, what waits there goes elsewhere.
    On,
    /// It takes tasks again.
    Off,
}

/// Sets the flag of GPUs, and waits until they are drained if that is asked for. The flag outlives the GPU's worker and a loss of the table.
pub(crate) async fn drain(common: &Common, drain: &DrainGpus) -> Result<ExitCode, Fault> {
    let fleet = Fleet::to_ask(common)?;
    let gpu_ids = which(&fleet.pool().await?, &drain.which)?;
    set(common, &fleet, &gpu_ids, Drain::On, !(common.json && drain.wait)).await?;
    if drain.wait {
        until_drained(&fleet, &gpu_ids, Duration::from_millis(drain.timeout)).await?;
        if common.json {
            output::json(&json!({ "drained": gpu_ids }))?;
        } else {
            output::line(&format!("{} drained: they hold nothing, and can be stopped", words::count(many(gpu_ids.len()), "GPU")))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Clears the flag of GPUs.
pub(crate) async fn undrain(common: &Common, which_gpus: &WhichGpus) -> Result<ExitCode, Fault> {
    let fleet = Fleet::to_ask(common)?;
    let gpu_ids = which(&fleet.pool().await?, which_gpus)?;
    set(common, &fleet, &gpu_ids, Drain::Off, true).await?;
    Ok(ExitCode::SUCCESS)
}

/// The GPUs that are meant.
fn which(pool: &Pool, which: &WhichGpus) -> Result<Vec<GpuId>, Fault> {
    if which.this_host {
        let host = simulated::host();
        let of_this_host = on_host(&pool.gpus, &host);
        if of_this_host.is_empty() {
            let name = &pool.name;
            return Err(Fault::NotFound(format!(
                "no living GPU of the pool {name} is on this host, {host}; `gpufleet gpus --wide` shows the hosts"
            )));
        }
        return Ok(of_this_host);
    }
    let mut gpu_ids = which.gpu.iter().chain(&which.more).map(|name| gpus::named(pool, name)).collect::<Result<Vec<_>, Fault>>()?;
    gpu_ids.sort();
    gpu_ids.dedup();
    Ok(gpu_ids)
}

fn on_host(views: &[GpuView], host: &str) -> Vec<GpuId> {
    views.iter().filter(|view| view.row.host == host).map(|view| view.row.gpu.gpu_id.clone()).collect()
}

async fn set(common: &Common, fleet: &Fleet, gpu_ids: &[GpuId], drain: Drain, is_told: bool) -> Result<(), Fault> {
    let mut last = None;
    for gpu_id in gpu_ids {
        last = Some(fleet.drain(gpu_id, drain).await?);
        if is_told && !common.json {
            let state = if drain == Drain::On { "drains: no new tasks, what runs there ends" } else { "takes tasks again" };
            output::line(&format!("GPU {gpu_id} {state}"))?;
        }
    }
    match last {
        Some(settings) if is_told && common.json => Ok(output::json(&settings)?),
        _ => Ok(()),
    }
}

/// Waits until the workers of these GPUs have nothing any more; tells on standard error how it goes on. A fleet that is away for a while ends nothing, while there is time.
async fn until_drained(fleet: &Fleet, gpu_ids: &[GpuId], limit: Duration) -> Result<(), Fault> {
    let until = Instant::now() + limit;
    let mut progress = Draining::default();
    loop {
        match fleet.pool().await {
            Ok(pool) => {
                progress.look(&pool.gpus, gpu_ids).iter().for_each(|line| output::note(line));
                if progress.is_done(gpu_ids) {
                    return Ok(());
                }
            }
            Err(Fault::Unavailable(away)) => progress.away(&away).iter().for_each(|line| output::note(line)),
            Err(fault) => return Err(fault),
        }
        if Instant::now() + LOOK_AGAIN > until {
            let left = progress.left(gpu_ids);
            let after = words::span(limit.as_millis() as f64);
            return Err(Fault::TimeLimit(format!(
                "after {after} not drained: {left}; they go on draining, and what they run is not lost if they are stopped, it runs again elsewhere"
            )));
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// How GPUs drain, as it was last seen.
#[derive(Debug, Default)]
struct Draining {
    seen: BTreeMap<GpuId, Seen>,
    told_away: bool,
}

/// How one GPU drains.
#[derive(Debug)]
struct Seen {
    /// What was last told of it.
    told: String,
    /// How many looks in a row found it drained, or gone.
    looks: u32,
    /// How many of them it takes.
    looks_needed: u32,
}

impl Seen {
    const fn new() -> Self {
        Self { told: String::new(), looks: 0, looks_needed: LOOKS_WITHOUT_ROW }
    }

    /// Takes a look; what is to be told of it.
    fn look(&mut self, view: Option<&GpuView>) -> String {
        // One that was drained when its row went stays drained: it took no tasks any more.
        let (words, is_empty) = match view {
            Some(view) => {
                let (words, is_drained) = described(view);
                self.looks_needed = if is_drained { LOOKS } else { looks_without(view) };
                (words, is_drained)
            }
            None => ("its worker is not heard of any more".to_owned(), true),
        };
        self.looks = if is_empty { self.looks.saturating_add(1) } else { 0 };
        words
    }

    const fn is_done(&self) -> bool {
        self.looks >= self.looks_needed
    }
}

/// How many looks without a row show that a worker has ended: for as long as this row is to live, in which a living worker writes it again more than once.
fn looks_without(view: &GpuView) -> u32 {
    let looks = u128::from(view.expires_in_ms).div_ceil(LOOK_AGAIN.as_millis());
    u32::try_from(looks).unwrap_or(u32::MAX).max(LOOKS_WITHOUT_ROW)
}

impl Draining {
    /// Takes a look; a line for each GPU of which there is news.
    fn look(&mut self, views: &[GpuView], gpu_ids: &[GpuId]) -> Vec<String> {
        self.told_away = false;
        let mut news = Vec::new();
        for gpu_id in gpu_ids {
            let view = views.iter().find(|view| view.row.gpu.gpu_id == *gpu_id);
            let seen = self.seen.entry(gpu_id.clone()).or_insert_with(Seen::new);
            let words = seen.look(view);
            if seen.told != words {
                news.push(format!("GPU {gpu_id}: {words}"));
                seen.told = words;
            }
        }
        news
    }

    /// The fleet did not answer: told once.
    fn away(&mut self, why: &str) -> Option<String> {
        let is_news = !std::mem::replace(&mut self.told_away, true);
        is_news.then(|| why.to_owned())
    }

    fn is_done(&self, gpu_ids: &[GpuId]) -> bool {
        gpu_ids.iter().all(|gpu_id| self.seen.get(gpu_id).is_some_and(Seen::is_done))
    }

    /// Those that are not drained, and why not.
    fn left(&self, gpu_ids: &[GpuId]) -> String {
        let open = gpu_ids.iter().filter_map(|gpu_id| match self.seen.get(gpu_id) {
            Some(seen) if seen.is_done() => None,
            Some(seen) => Some(format!("GPU {gpu_id} ({})", seen.told)),
            None => Some(format!("GPU {gpu_id} (the fleet did not answer)")),
        });
        open.collect::<Vec<_>>().join(", ")
    }
}

/// How far a GPU is, and whether its worker has nothing any more.
fn described(view: &GpuView) -> (String, bool) {
    let row = &view.row;
    match gpus::phase(view) {
        WorkerPhase::Drained => ("drained".to_owned(), true),
        WorkerPhase::Draining => (
            format!("draining, {} of {} slots held, {} in hand", view.held, row.slots, words::count(u64::from(row.waiting), "task")),
            false,
        ),
        // Somebody took the flag back, or the table has not heard of it yet.
        WorkerPhase::Serving => ("takes tasks: somebody undrained it".to_owned(), false),
    }
}

fn many(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use protocol::{GpuDescription, GpuRow, GpuSample, Health, Incarnation, PoolName, gpu::Hardware, task::ComputeCapability};

    use super::*;

    fn view(id: &str, host: &str, (held, draining): (u32, bool)) -> GpuView {
        let row = GpuRow {
            gpu: GpuDescription {
                gpu_id: GpuId::new(id).unwrap(),
                name: "a GPU".to_owned(),
                memory_total_mb: 80_000,
                compute_capability: ComputeCapability { major: 9, minor: 0 },
                hardware: Hardware::default(),
            },
            sample: GpuSample::default(),
            pool: PoolName::default(),
            incarnation: Incarnation::new("i").unwrap(),
            host: host.to_owned(),
            slots: 8,
            health: Health::Healthy,
            health_reason: String::new(),
            consuming: true,
            stopping: false,
            kinds: Vec::new(),
            models: Vec::new(),
            foreign_utilization_percent: 0.0,
            waiting: 0,
            running: Vec::new(),
            item_ms: BTreeMap::new(),
            kinds_down: BTreeMap::new(),
            run_ms: BTreeMap::new(),
            model_state: Default::default(),
            data: Default::default(),
            servers: Default::default(),
            emptied: draining && held == 0,
        };
        GpuView { row, held, draining, eligible: !draining, expires_in_ms: 5_000, phase: Default::default() }
    }

    #[test]
    fn a_gpu_is_drained_once_several_looks_say_so_and_each_change_is_told_once() {
        let ids = [GpuId::new("sim-0").unwrap()];
        let mut draining = Draining::default();
        let busy = [view("sim-0", "h", (2, true))];
        assert_eq!(draining.look(&busy, &ids), ["GPU sim-0: draining, 2 of 8 slots held, 0 tasks in hand"]);
        assert!(draining.look(&busy, &ids).is_empty() && !draining.is_done(&ids));
        assert_eq!(draining.left(&ids), "GPU sim-0 (draining, 2 of 8 slots held, 0 tasks in hand)");
        let empty = [view("sim-0", "h", (0, true))];
        assert_eq!(draining.look(&empty, &ids), ["GPU sim-0: drained"]);
        assert!(!draining.is_done(&ids), "one look may be of an old row");
        draining.look(&busy, &ids);
        for _ in 0..LOOKS {
            assert!(!draining.is_done(&ids));
            draining.look(&empty, &ids);
        }
        assert!(draining.is_done(&ids));
    }

    #[test]
    fn a_worker_of_which_nothing_is_heard_for_long_has_ended_and_a_fleet_that_is_away_is_told_once() {
        let ids = [GpuId::new("sim-0").unwrap()];
        let mut draining = Draining::default();
        assert_eq!((draining.away("away"), draining.away("away")), (Some("away".to_owned()), None));
        assert_eq!(draining.left(&ids), "GPU sim-0 (the fleet did not answer)");
        assert_eq!(draining.look(&[], &ids), ["GPU sim-0: its worker is not heard of any more"]);
        (1..LOOKS_WITHOUT_ROW).for_each(|_| drop(draining.look(&[], &ids)));
        assert!(draining.is_done(&ids));
    }

    #[test]
    fn a_table_that_lost_its_rows_makes_no_busy_gpu_drained() {
        let ids = [GpuId::new("sim-0").unwrap()];
        let mut draining = Draining::default();
        let mut busy = view("sim-0", "h", (2, true));
        busy.expires_in_ms = 20_000;
        draining.look(&[busy.clone()], &ids);
        (0..39).for_each(|_| drop(draining.look(&[], &ids)));
        assert!(!draining.is_done(&ids), "its row would still live");
        draining.look(&[busy], &ids);
        (0..39).for_each(|_| drop(draining.look(&[], &ids)));
        assert!(!draining.is_done(&ids), "its worker wrote its row again");
        draining.look(&[], &ids);
        assert!(draining.is_done(&ids));
    }

    #[test]
    fn a_drained_gpu_whose_worker_then_ends_is_not_waited_for_any_longer() {
        let ids = [GpuId::new("sim-0").unwrap()];
        let mut draining = Draining::default();
        draining.look(&[view("sim-0", "h", (0, true))], &ids);
        (1..LOOKS).for_each(|_| drop(draining.look(&[], &ids)));
        assert!(draining.is_done(&ids));
    }

    #[test]
    fn the_gpus_of_a_host_are_those_whose_workers_run_there() {
        let views = [view("a", "one", (0, false)), view("b", "two", (0, false)), view("c", "one", (1, false))];
        let ids = |host: &str| on_host(&views, host).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!((ids("one"), ids("three")), (vec!["a".to_owned(), "c".to_owned()], Vec::new()));
    }
}
