//! The same random life on both back ends, answer by answer: the memory back end is the specification of the scripts.
//!
//! 256 cases, or `PROPTEST_CASES`. A failing one is shrunk, and its seed is kept in `proptest-regressions/`, to be tried first ever after.

mod tensors;

use gpu_table::{Heartbeat, Telling};
use proptest::prelude::*;
use protocol::{
    ClaimAnswer, ClaimMode, ClaimRequest, DataCosts, GpuId, GpuRow, Health, Holding, Incarnation, ModelAction, ModelWish, ModelWishes,
    Needs, Offer, Strategy as Rule, TaskId, claim::Settings, gpu::GpuView, task::ComputeCapability,
};

use self::tensors::TensorStep;
use super::world::{World, gpu_id, incarnation, pool, row, task_id};

const GPUS: u8 = 6;
const TASKS: u8 = 12;
/// Where the numbers of tellings begin: as large as microseconds since 1970.
const NUMBERS: u64 = 1_700_000_000_000_000;

/// One step of a life. Indices stand for what exists when the step is taken, so that every sequence means something.
#[derive(Debug, Clone)]
enum Step {
    Beat { row: RowPlan, word: WordPlan, knows_settings: bool },
    Claim(AskPlan),
    Tell { gpu: u8, word: WordPlan },
    Withdraw(u8),
    Leave { gpu: u8, stale: bool },
    Change(SettingsPlan),
    Settings,
    Tensors(TensorStep),
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
    /// What a run, and a cold load of a model, take there, in ms. The latter is known of some models only.
    times_ms: (Option<u16>, Option<u16>),
    evictable_percent: u64,
    foreign_percent: f64,
    waiting: u32,
}

/// What a worker says of itself.
#[derive(Debug, Clone)]
struct WordPlan {
    slots: u32,
    /// How far its number is behind the last one; 0 is the next one.
    behind: u64,
    is_stale: bool,
    taken: Vec<u8>,
}

#[derive(Debug, Clone)]
struct AskPlan {
    task: u8,
    predict: bool,
    memory_mb: Option<u64>,
    capability: Option<u8>,
    model: Option<u8>,
    only: Option<u8>,
    strategy: Option<u8>,
    asker: u8,
    word: WordPlan,
    has_slot: bool,
    waits: bool,
    data: Option<DataPlan>,
}

/// What it takes to bring a task's data to any GPU, and to some, in sevenths of a ms.
#[derive(Debug, Clone)]
struct DataPlan {
    elsewhere: u32,
    at: Vec<(u8, u32)>,
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
    let rest = (0..8_u8, prop_oneof![9 => Just(0.0), 1 => 50.0..100.0], prop_oneof![6 => 0..3_u32, 1 => 3..12_u32]);
    let times_ms = (prop::option::weighted(0.8, 1..200_u16), prop::option::weighted(0.8, 100..3_000_u16));
    let kept = (times_ms, prop_oneof![4 => Just(0_u64), 1 => 0..110_u64]);
    (identity, state, rest, kept).prop_map(|((gpu, incarnation, slots, class), state, (models, foreign_percent, waiting), kept)| {
        let (used_percent, health, consuming, stopping) = state;
        let (times_ms, evictable_percent) = kept;
        RowPlan {
            gpu,
            incarnation,
            slots,
            class,
            used_percent,
            health,
            consuming,
            stopping,
            models,
            times_ms,
            evictable_percent,
            foreign_percent,
            waiting,
        }
    })
}

fn words() -> impl Strategy<Value = WordPlan> {
    let behind = prop_oneof![6 => Just(0_u64), 1 => Just(1), 1 => 2..5_u64];
    let taken = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(0..TASKS, 1..4)];
    (0..5_u32, behind, prop::bool::weighted(0.1), taken).prop_map(|(slots, behind, is_stale, taken)| WordPlan {
        slots,
        behind,
        is_stale,
        taken,
    })
}

fn data() -> impl Strategy<Value = DataPlan> {
    // Often the same, and about as long as runs and loads take.
    let sevenths = || prop_oneof![Just(0_u32), Just(70), Just(700), 0..20_000_u32];
    (sevenths(), prop::collection::vec((0..GPUS + 1, sevenths()), 0..4)).prop_map(|(elsewhere, at)| DataPlan { elsewhere, at })
}

fn asks() -> impl Strategy<Value = AskPlan> {
    let identity = (0..TASKS, 0..GPUS + 1, words(), prop::bool::weighted(0.8), any::<bool>());
    let needs = (
        prop::bool::weighted(0.2),
        prop::option::weighted(0.3, prop_oneof![Just(10_000_u64), Just(30_000), Just(50_000), Just(90_000)]),
        prop::option::weighted(0.2, 0..10_u8),
        prop::option::weighted(0.3, 0..4_u8),
    );
    let choice = (prop::option::weighted(0.15, 0..GPUS + 1), prop::option::weighted(0.7, 0..5_u8));
    let data = prop::option::weighted(0.5, data());
    (identity, needs, choice, data).prop_map(|((task, asker, word, has_slot, waits), needs, (only, strategy), data)| {
        let (predict, memory_mb, capability, model) = needs;
        AskPlan { task, predict, memory_mb, capability, model, only, strategy, asker, word, has_slot, waits, data }
    })
}

fn changes() -> impl Strategy<Value = SettingsPlan> {
    let threshold = prop_oneof![Just(0.9), Just(0.5), Just(1.0), 0.2..1.0];
    (prop::bool::weighted(0.2), 0..3_u8, 0..8_u8, threshold, 0..64_u8).prop_map(|(behind, default, enabled, memory_threshold, draining)| {
        SettingsPlan { behind, default, enabled, memory_threshold, draining }
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let beat = (rows(), words(), prop::bool::weighted(0.8));
    prop_oneof![
        10 => beat.prop_map(|(row, word, knows_settings)| Step::Beat { row, word, knows_settings }),
        20 => asks().prop_map(Step::Claim),
        8 => (0..GPUS, words()).prop_map(|(gpu, word)| Step::Tell { gpu, word }),
        4 => any::<u8>().prop_map(Step::Withdraw),
        1 => (0..GPUS, any::<bool>()).prop_map(|(gpu, stale)| Step::Leave { gpu, stale }),
        1 => changes().prop_map(Step::Change),
        1 => Just(Step::Settings),
        6 => tensors::steps().prop_map(Step::Tensors),
        4 => prop_oneof![Just(100_u64), Just(200), Just(400), Just(700)].prop_map(|seconds| Step::Pass { seconds }),
        1 => prop::bool::weighted(0.2).prop_map(|all| if all { Step::Forget } else { Step::Look }),
        2 => Just(Step::Look),
    ]
}

/// What one back end has given so far. Indices into it mean the same on both, as long as the answers are the same.
struct Life {
    world: World,
    offers: Vec<Offer>,
    settings: Settings,
    incarnations: [u8; GPUS as usize + 1],
    numbers: [u64; GPUS as usize + 1],
}

/// An answer without the remaining times, which may differ.
type Answer = String;

impl Life {
    fn new(world: World) -> Self {
        let (incarnations, numbers) = ([0; GPUS as usize + 1], [NUMBERS; GPUS as usize + 1]);
        Self { world, offers: Vec::new(), settings: Settings::default(), incarnations, numbers }
    }

    async fn take(&mut self, step: &Step) -> Answer {
        let table = self.world.table.clone();
        match step {
            Step::Beat { row, word, knows_settings } => self.beat(row, word, *knows_settings).await,
            Step::Claim(plan) => {
                let request = self.planned_request(plan);
                let answer = self.world.send(&request).await;
                if let ClaimAnswer::Other(offer) = &answer {
                    self.offers.push(offer.clone());
                }
                format!("{answer:?}")
            }
            Step::Tell { gpu, word } => {
                let (incarnation, holding) = self.word(*gpu, word);
                let telling = Telling { pool: pool(), gpu_id: gpu_of(*gpu), incarnation, holding, taken: tasks(&word.taken) };
                format!("{:?}", table.tell(&telling).await)
            }
            Step::Withdraw(index) => match self.offer(*index) {
                Some(offer) => format!("{:?}", table.withdraw(&offer).await),
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
            Step::Tensors(step) => tensors::take(&*table, step).await,
            Step::Pass { seconds } => {
                self.world.pass(*seconds);
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
        let seen = table.seen(&pool(), &gpu_of(0)).await.expect("an answer").row;
        format!("{rows:?} {:?} {steady} {seen:?}", table.known(&pool()).await)
    }

    async fn beat(&mut self, row: &RowPlan, word: &WordPlan, knows_settings: bool) -> Answer {
        self.incarnations[usize::from(row.gpu)] = row.incarnation;
        let (_, holding) = self.word(row.gpu, word);
        let settings = if knows_settings { self.settings.clone() } else { Settings::default() };
        let heartbeat = Heartbeat { row: planned_row(row), holding, taken: tasks(&word.taken), settings };
        let beat = self.world.beat(&heartbeat).await;
        self.settings = beat.settings.clone();
        format!("{beat:?}")
    }

    /// An offer made before; the latest are the likeliest to stand.
    fn offer(&self, index: u8) -> Option<Offer> {
        let recent = self.offers.len().min(10);
        (recent > 0).then(|| self.offers[self.offers.len() - 1 - usize::from(index) % recent].clone())
    }

    /// Who speaks for this GPU, and what that one holds.
    fn word(&mut self, gpu: u8, plan: &WordPlan) -> (Incarnation, Holding) {
        let gpu_index = usize::from(gpu);
        self.numbers[gpu_index] += u64::from(plan.behind == 0);
        let speaker = if plan.is_stale { 9 } else { self.incarnations[gpu_index] };
        let number = self.numbers[gpu_index] - plan.behind.saturating_sub(1);
        (incarnation(&format!("{gpu}-{speaker}")), Holding { slots: plan.slots, number })
    }

    fn planned_request(&mut self, plan: &AskPlan) -> ClaimRequest {
        let strategy = plan.strategy.map(|n| ["least_loaded", "round_robin", "task_specific", "fastest", ""][usize::from(n)].to_owned());
        let capability = |n| ComputeCapability { major: n, minor: 0 };
        let (incarnation, mut holding) = self.word(plan.asker, &plan.word);
        holding.slots += u32::from(plan.has_slot);
        ClaimRequest {
            pool: pool(),
            task_id: task_id(&format!("t{}", plan.task)),
            kind: if plan.predict { "predict" } else { "echo" }.parse().expect("a kind"),
            needs: Needs {
                memory_mb: plan.memory_mb,
                compute_capability: plan.capability.map(capability),
                model: plan.model.map(|n| format!("m {n}")),
            },
            specific_gpu_id: plan.only.map(gpu_of),
            strategy,
            asker: gpu_of(plan.asker),
            incarnation,
            holding,
            has_slot: plan.has_slot,
            mode: if plan.waits { ClaimMode::TasksWaiting } else { ClaimMode::Choose },
            data: plan.data.as_ref().map(planned_costs),
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
            // What operators wish of models is carried, and decides nothing here.
            models: (0..plan.draining % 3)
                .map(|n| ModelWish::new("m 0", ModelAction::ALL[usize::from(n)], 7))
                .fold(ModelWishes::default(), |wishes, wish| wishes.with(&wish)),
        }
    }
}

fn gpu_of(n: u8) -> GpuId {
    gpu_id(&format!("gpu-{n}"))
}

fn tasks(numbers: &[u8]) -> Vec<TaskId> {
    numbers.iter().map(|n| task_id(&format!("t{n}"))).collect()
}

fn planned_costs(plan: &DataPlan) -> DataCosts {
    let ms = |sevenths: u32| f64::from(sevenths) / 7.0;
    DataCosts { elsewhere_ms: ms(plan.elsewhere), at_ms: plan.at.iter().map(|(gpu, sevenths)| (gpu_of(*gpu), ms(*sevenths))).collect() }
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
    let (run_ms, load_ms) = plan.times_ms;
    row.run_ms = run_ms.iter().map(|ms| ("echo".parse().expect("a kind"), f64::from(*ms) / 7.0)).collect();
    // Of "m 2" it is never known.
    row.model_state.load_ms = load_ms.iter().flat_map(|ms| (0..2).map(move |n| (format!("m {n}"), f64::from(*ms) / 3.0))).collect();
    row.model_state.evictable_mb = memory_mb * plan.evictable_percent / 100;
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
        times_ms: (Some(50), Some(900)),
        evictable_percent: 0,
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
