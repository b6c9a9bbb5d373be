//! The same random life on both back ends, answer by answer: the memory back end is the specification of the scripts.
//!
//! 256 cases, or `PROPTEST_CASES`. A failing one is shrunk, and its seed is kept in `proptest-regressions/`, to be tried first ever after.

use gpu_table::Heartbeat;
use proptest::prelude::*;
use protocol::{
    Claim, ClaimAnswer, ClaimMode, ClaimRequest, DeliveryId, GpuId, GpuRow, Health, Needs, Strategy as Rule, Token,
    claim::{HeldClaim, Settings},
    gpu::GpuView,
    task::ComputeCapability,
};

use super::world::{World, gpu_id, incarnation, pool, row, task_id};

const GPUS: u8 = 6;
const TASKS: u8 = 12;

/// One step of a life. Indices stand for what exists when the step is taken, so that every sequence means something.
#[derive(Debug, Clone)]
enum Step {
    Beat { row: RowPlan, names_claims: bool, forgets_one: bool, knows_settings: bool },
    Claim(AskPlan),
    HandOver { done: u8, next: AskPlan },
    Release(u8),
    Renew(u8),
    Leave { gpu: u8, stale: bool },
    Change(SettingsPlan),
    Settings,
    Pass { seconds: u64 },
    Forget,
    Look,
}

#[derive(Debug, Clone)]
struct RowPlan {
    gpu: u8,
    incarnation: u8,
    slots: u32,
    class: u8,
    used_percent: u64,
    health: u8,
    consuming: bool,
    stopping: bool,
    models: u8,
    foreign_percent: f64,
    waiting: u32,
}

#[derive(Debug, Clone)]
struct AskPlan {
    task: u8,
    attempt: u32,
    predict: bool,
    memory_mb: Option<u64>,
    capability: Option<u8>,
    model: Option<u8>,
    only: Option<u8>,
    strategy: Option<u8>,
    asker: u8,
    delivery: u64,
    mode: u8,
}

#[derive(Debug, Clone)]
struct SettingsPlan {
    behind: bool,
    default: u8,
    enabled: u8,
    memory_threshold: f64,
    draining: u8,
}

fn rows() -> impl Strategy<Value = RowPlan> {
    let identity = (0..GPUS, prop_oneof![9 => Just(0_u8), 1 => 1..3_u8], 1..5_u32, 0..5_u8);
    let state = (0..100_u64, prop_oneof![8 => Just(0_u8), 1 => 1..4_u8], prop::bool::weighted(0.9), prop::bool::weighted(0.05));
    let rest = (0..8_u8, prop_oneof![9 => Just(0.0), 1 => 50.0..100.0], 0..3_u32);
    (identity, state, rest).prop_map(|((gpu, incarnation, slots, class), state, (models, foreign_percent, waiting))| {
        let (used_percent, health, consuming, stopping) = state;
        RowPlan { gpu, incarnation, slots, class, used_percent, health, consuming, stopping, models, foreign_percent, waiting }
    })
}

fn asks() -> impl Strategy<Value = AskPlan> {
    let identity = (0..TASKS, prop_oneof![5 => Just(1_u32), 1 => Just(2)], 0..GPUS + 1, prop_oneof![5 => Just(1_u64), 1 => Just(2)]);
    let needs = (
        prop::bool::weighted(0.2),
        prop::option::weighted(0.3, prop_oneof![Just(10_000_u64), Just(30_000), Just(50_000), Just(90_000)]),
        prop::option::weighted(0.2, 0..10_u8),
        prop::option::weighted(0.3, 0..4_u8),
    );
    let choice = (prop::option::weighted(0.15, 0..GPUS + 1), prop::option::weighted(0.7, 0..5_u8), 0..3_u8);
    (identity, needs, choice).prop_map(|((task, attempt, asker, delivery), needs, (only, strategy, mode))| {
        let (predict, memory_mb, capability, model) = needs;
        AskPlan { task, attempt, predict, memory_mb, capability, model, only, strategy, asker, delivery, mode }
    })
}

fn changes() -> impl Strategy<Value = SettingsPlan> {
    let threshold = prop_oneof![Just(0.9), Just(0.5), Just(1.0), 0.2..1.0];
    (prop::bool::weighted(0.2), 0..3_u8, 0..8_u8, threshold, 0..64_u8).prop_map(|(behind, default, enabled, memory_threshold, draining)| {
        SettingsPlan { behind, default, enabled, memory_threshold, draining }
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let beat = (rows(), prop::bool::weighted(0.9), prop::bool::weighted(0.1), prop::bool::weighted(0.8))
        .prop_map(|(row, names_claims, forgets_one, knows_settings)| Step::Beat { row, names_claims, forgets_one, knows_settings });
    prop_oneof![
        10 => beat,
        20 => asks().prop_map(Step::Claim),
        4 => (any::<u8>(), asks()).prop_map(|(done, next)| Step::HandOver { done, next }),
        6 => any::<u8>().prop_map(Step::Release),
        2 => any::<u8>().prop_map(Step::Renew),
        1 => (0..GPUS, any::<bool>()).prop_map(|(gpu, stale)| Step::Leave { gpu, stale }),
        1 => changes().prop_map(Step::Change),
        1 => Just(Step::Settings),
        4 => prop_oneof![Just(100_u64), Just(200), Just(400), Just(700)].prop_map(|seconds| Step::Pass { seconds }),
        1 => prop::bool::weighted(0.2).prop_map(|all| if all { Step::Forget } else { Step::Look }),
        2 => Just(Step::Look),
    ]
}

/// What one back end has given so far. Indices into it mean the same on both, as long as the answers are the same.
struct Life {
    world: World,
    claims: Vec<Claim>,
    settings: Settings,
    incarnations: [u8; GPUS as usize + 1],
}

/// An answer without what may differ: tokens and remaining times, of which only the presence counts.
type Answer = String;

impl Life {
    fn new(world: World) -> Self {
        Self { world, claims: Vec::new(), settings: Settings::default(), incarnations: [0; GPUS as usize + 1] }
    }

    async fn take(&mut self, step: &Step) -> Answer {
        let table = self.world.table.clone();
        match step {
            Step::Beat { row, names_claims, forgets_one, knows_settings } => {
                self.incarnations[usize::from(row.gpu)] = row.incarnation;
                let row = planned_row(row);
                let held = if *names_claims { self.held_by(&row.gpu.gpu_id, usize::from(*forgets_one)) } else { Vec::new() };
                let settings = if *knows_settings { self.settings.clone() } else { Settings::default() };
                let beat = self.world.beat(&Heartbeat { row, held, settings }).await;
                self.settings = beat.settings.clone();
                format!("{beat:?}")
            }
            Step::Claim(plan) => {
                let answer = self.world.claim(&self.planned_request(plan)).await;
                self.remember(answer)
            }
            Step::HandOver { done, next } => {
                let request = self.planned_request(next);
                let Some(done) = self.claim(*done) else { return String::new() };
                let answer = table.hand_over(&done, &request).await.expect("an answer");
                self.remember(answer)
            }
            Step::Release(index) => match self.claim(*index) {
                Some(claim) => format!("{:?}", table.release(&claim).await),
                None => String::new(),
            },
            Step::Renew(index) => match self.claim(*index) {
                Some(claim) => format!("{:?}", table.renew(&pool(), &claim.task_id, claim.token).await),
                None => String::new(),
            },
            Step::Leave { gpu, stale } => {
                let incarnation = incarnation(&format!("{gpu}-{}", if *stale { 9 } else { self.incarnations[usize::from(*gpu)] }));
                format!("{:?}", table.leave(&pool(), &gpu_of(*gpu), &incarnation).await)
            }
            Step::Change(plan) => {
                self.settings = table.change_settings(&pool(), &self.planned_settings(plan)).await.expect("settings");
                format!("{:?}", self.settings)
            }
            Step::Settings => format!("{:?}", table.settings(&pool(), &self.settings).await),
            Step::Pass { seconds } => {
                self.world.pass(*seconds).await;
                String::new()
            }
            Step::Forget => {
                self.world.forget().await;
                String::new()
            }
            Step::Look => self.look().await,
        }
    }

    async fn look(&self) -> Answer {
        let table = &self.world.table;
        let mut rows = table.rows(&pool()).await.expect("rows");
        rows.iter_mut().for_each(|view: &mut GpuView| view.expires_in_ms = 0);
        // Time passes in hundreds of seconds; the rest is how long the test took.
        let steady = table.steady(&pool()).await.expect("a time").as_secs() / 100;
        format!("{rows:?} {:?} {steady}", table.known(&pool()).await)
    }

    fn remember(&mut self, mut answer: ClaimAnswer) -> Answer {
        match &mut answer {
            ClaimAnswer::Own(claim) | ClaimAnswer::Other(claim) => {
                self.claims.push(claim.clone());
                // Which earlier claim has the same token is the same on both; the number itself is not.
                claim.token = Token(self.claims.iter().position(|other| other.token == claim.token).unwrap_or_default() as u64);
            }
            ClaimAnswer::Held { for_ms } => *for_ms = 0,
            _ => {}
        }
        format!("{answer:?}")
    }

    /// A claim given before; the latest are the likeliest to live.
    fn claim(&self, index: u8) -> Option<Claim> {
        let recent = self.claims.len().min(10);
        (recent > 0).then(|| self.claims[self.claims.len() - 1 - usize::from(index) % recent].clone())
    }

    /// What this GPU's worker believes to hold: the last few claims that it was ever given, lapsed ones included.
    fn held_by(&self, gpu_id: &GpuId, forgotten: usize) -> Vec<HeldClaim> {
        let mut held: Vec<HeldClaim> = Vec::new();
        for claim in self.claims.iter().rev().filter(|claim| claim.gpu_id == *gpu_id).skip(forgotten) {
            if held.len() < 4 && held.iter().all(|other| other.task_id != claim.task_id) {
                let (task_id, attempt, token) = (claim.task_id.clone(), claim.attempt, claim.token);
                held.push(HeldClaim { task_id, attempt, token, delivery: DeliveryId(1) });
            }
        }
        held
    }

    fn planned_request(&self, plan: &AskPlan) -> ClaimRequest {
        let strategy = plan.strategy.map(|n| ["least_loaded", "round_robin", "task_specific", "fastest", ""][usize::from(n)].to_owned());
        let capability = |n| ComputeCapability { major: n, minor: 0 };
        ClaimRequest {
            pool: pool(),
            task_id: task_id(&format!("t{}", plan.task)),
            kind: if plan.predict { "predict" } else { "echo" }.parse().expect("a kind"),
            attempt: plan.attempt,
            needs: Needs {
                memory_mb: plan.memory_mb,
                compute_capability: plan.capability.map(capability),
                model: plan.model.map(|n| format!("m {n}")),
            },
            specific_gpu_id: plan.only.map(gpu_of),
            strategy,
            offered_by: gpu_of(plan.asker),
            incarnation: incarnation(&format!("{}-{}", plan.asker, self.incarnations[usize::from(plan.asker)])),
            delivery: DeliveryId(plan.delivery),
            mode: [ClaimMode::Choose, ClaimMode::TasksWaiting, ClaimMode::Here][usize::from(plan.mode)],
        }
    }

    fn planned_settings(&self, plan: &SettingsPlan) -> Settings {
        let chosen = |bits: u8, n: usize| bits & (1 << n) != 0;
        Settings {
            version: self.settings.version.saturating_sub(u64::from(plan.behind)),
            default_strategy: Rule::ALL[usize::from(plan.default)],
            strategies: Rule::ALL.into_iter().enumerate().filter(|(n, _)| chosen(plan.enabled, *n)).map(|(_, rule)| rule).collect(),
            memory_threshold: plan.memory_threshold,
            utilization_threshold: 0.95,
            // Mostly nobody drains.
            draining: (0..GPUS).filter(|n| plan.draining < 8 && chosen(plan.draining, usize::from(*n))).map(gpu_of).collect(),
        }
    }
}

fn gpu_of(n: u8) -> GpuId {
    gpu_id(&format!("gpu-{n}"))
}

fn planned_row(plan: &RowPlan) -> GpuRow {
    let mut row = row(gpu_of(plan.gpu).as_str());
    let (memory_mb, major) = [(80_000, 9), (80_000, 9), (80_000, 8), (40_000, 8), (24_000, 7)][usize::from(plan.class)];
    row.gpu.memory_total_mb = memory_mb;
    row.gpu.compute_capability.major = major;
    row.incarnation = incarnation(&format!("{}-{}", plan.gpu, plan.incarnation));
    row.slots = plan.slots;
    row.sample.memory_used_mb = memory_mb * plan.used_percent / 100;
    row.health = [Health::Healthy, Health::Suspect, Health::Quarantined, Health::Probation][usize::from(plan.health)];
    (row.consuming, row.stopping) = (plan.consuming, plan.stopping);
    if plan.class % 2 == 1 {
        row.kinds.push("predict".parse().expect("a kind"));
    }
    row.models = (0..3).filter(|n| plan.models & (1 << n) != 0).map(|n| format!("m {n}")).collect();
    row.foreign_utilization_percent = plan.foreign_percent;
    row.waiting = plan.waiting;
    row
}

async fn live(steps: &[Step]) -> Result<(), TestCaseError> {
    let (mut memory, mut redis) = (Life::new(World::memory()), Life::new(World::redis().await));
    for gpu in 0..GPUS {
        for life in [&mut memory, &mut redis] {
            life.world.join(planned_row(&first_row(gpu))).await;
        }
    }
    for (n, step) in steps.iter().enumerate() {
        let (expected, got) = (memory.take(step).await, redis.take(step).await);
        prop_assert_eq!(got, expected, "step {} of {}: {:?}", n, steps.len(), step);
        let (expected, got) = (memory.look().await, redis.look().await);
        prop_assert_eq!(got, expected, "the rows after step {} of {}: {:?}", n, steps.len(), step);
    }
    Ok(())
}

fn first_row(gpu: u8) -> RowPlan {
    let calm = RowPlan {
        gpu,
        incarnation: 0,
        slots: 2,
        class: gpu % 5,
        used_percent: 10,
        health: 0,
        consuming: true,
        stopping: false,
        models: gpu,
        foreign_percent: 0.0,
        waiting: 0,
    };
    RowPlan { slots: 1 + u32::from(gpu % 3), ..calm }
}

#[test]
fn both_back_ends_give_the_same_answers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let config = ProptestConfig { max_shrink_time: 60_000, ..ProptestConfig::with_source_file(file!()) };
    proptest!(config, |(steps in prop::collection::vec(steps(), 1..60))| {
        runtime.block_on(live(&steps))?;
    });
}
