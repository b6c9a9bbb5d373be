//! What a seed stands for: a fleet, its tasks, and what goes wrong when.

use std::time::Duration;

use protocol::Strategy;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use task_queue::Queue;

use super::chaos::Site;

/// What kind of trouble a fleet is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// None: the order of tasks can be judged.
    Calm,
    /// Everything that the promises cover in full.
    Faults,
    /// Tasks that crash every worker that runs them, or, in every other seed, the process beside it in which they run; and nothing else.
    Poison,
    /// As `Faults`, and the store is emptied once: the weaker promise.
    StoreEmptied,
    /// The table is lost again and again, and nothing dies: no worker may be taken for dead.
    TableLost,
    /// One after the other every worker is killed and replaced by one of another id, and a server forgets or is away meanwhile. Where the store is emptied: the weaker promise.
    Replaced,
}

/// One task.
#[derive(Debug, Clone)]
pub struct PlannedTask {
    pub id: String,
    pub priority: u8,
    pub ms: u64,
    /// So many first attempts fail.
    pub fails: u32,
    pub attempts_max: u32,
    pub poison: bool,
    pub queue_deadline_ms: Option<u64>,
    /// It must not start before so much time has passed since its publish.
    pub delay_ms: Option<u64>,
    pub gpu: Option<usize>,
    pub strategy: Option<&'static str>,
    pub cancelled: bool,
    pub copied: bool,
    /// Where it is a batch.
    pub batch: Option<PlannedBatch>,
}

/// The items of a planned batch.
#[derive(Debug, Clone, Copy)]
pub struct PlannedBatch {
    pub items: u32,
    /// This item fails for good.
    pub bad_item: Option<u32>,
    /// Then the whole batch fails.
    pub fails_whole: bool,
}

/// What happens to the fleet from outside.
#[derive(Debug, Clone)]
pub enum Event {
    Publish(usize),
    Cancel(usize),
    Start(usize),
    Kill(usize),
    /// Dies, and at once a worker with an id that nobody ever had takes its place.
    Replace(usize),
    /// Dies at its so-many-th call from now.
    CrashIn(usize, u32),
    /// Dies at its next call of this name.
    CrashAt(usize, Site),
    LoseChannels(usize),
    Stall(usize, Duration),
    /// A server does not answer one worker, or all of them.
    CutOff(Option<usize>, &'static str, Duration),
    /// From now on calls meet trouble.
    TroubleBegins,
    ClearTable,
    /// The table's server has copied itself for the last time.
    CopyTable,
    /// The copy takes over: what was written since is lost.
    FailTableOver,
    ClearStore,
    BlockPublishers,
    UnblockPublishers,
    /// The queue of the replies holds at most so many from now on, and refuses more; `None`: as many as come.
    BoundReplies(Option<u32>),
    /// An operator deletes a queue, if nothing is in it and nobody consumes it.
    DeleteIfUnused(Queue),
    /// The same for the queues of all GPUs that are gone.
    DeleteQueuesOfTheGone,
    /// A host's clock jumps by so many milliseconds.
    JumpClock(usize, i64),
    Drain(usize),
}

/// What a seed stands for.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub class: Class,
    pub gpus: usize,
    pub slots: u32,
    pub strategy: Strategy,
    pub lease: Duration,
    /// The share of calls that meet trouble.
    pub trouble: f64,
    pub tasks: Vec<PlannedTask>,
    /// What happens, and when in ms, in order.
    pub events: Vec<(u64, Event)>,
}

/// From when on things go wrong, in ms: the workers have started by then.
const CALM_UNTIL_MS: u64 = 600;
/// Until when, in ms.
const TROUBLE_UNTIL_MS: u64 = 20_000;

/// The steps of a task's life at which a process dies for certain in some seeds.
pub const STEPS: [&str; 17] = [
    "look",
    "claim",
    "begin",
    "record",
    "retry",
    "tell",
    "take",
    "publish a reply",
    "publish to a GPU's queue",
    "publish to a retry queue",
    "publish to the pool",
    "ack",
    "split",
    "publish a slice",
    "record a slice",
    "read the results of slices",
    "record a batch",
];

/// The steps of a reply's life, where its queue does not take it, at which a process dies for certain in some seeds.
pub const STEPS_OF_REPLIES: [&str; 2] = ["put a reply aside", "ack a redelivery"];

impl Scenario {
    /// The scenario of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let class = match random.random_range(0..20) {
            0..=1 => Class::Calm,
            2..=3 => Class::Poison,
            4..=5 => Class::StoreEmptied,
            6..=7 => Class::TableLost,
            8..=11 => Class::Replaced,
            _ => Class::Faults,
        };
        let strategies = [Strategy::RoundRobin, Strategy::LeastLoaded, Strategy::TaskSpecific];
        let mut scenario = Self {
            seed,
            class,
            gpus: random.random_range(1..=4),
            slots: random.random_range(1..=3),
            strategy: strategies[random.random_range(0..3)],
            lease: Duration::from_millis(random.random_range(900..5_000)),
            trouble: if matches!(class, Class::Faults | Class::StoreEmptied | Class::Replaced) {
                random.random_range(0.0..0.08)
            } else {
                0.0
            },
            tasks: Vec::new(),
            events: Vec::new(),
        };
        if class == Class::Replaced {
            // What is forwarded waits elsewhere than where its worker dies; and what waits there is back before all is over.
            scenario.gpus = scenario.gpus.max(2);
            scenario.lease = scenario.lease.min(Duration::from_millis(2_500));
        }
        scenario.add_tasks(&mut random);
        for gpu in 0..scenario.gpus {
            scenario.events.push((if class == Class::Calm { 100 } else { 0 }, Event::Start(gpu)));
        }
        if matches!(class, Class::Faults | Class::StoreEmptied) {
            scenario.add_faults(&mut random);
        }
        if class == Class::TableLost {
            scenario.add_losses(&mut random);
        }
        if class == Class::Replaced {
            scenario.add_replacements(&mut random);
        }
        if matches!(class, Class::Faults | Class::StoreEmptied) && random.random_bool(0.4) {
            scenario.add_full_replies(&mut random);
        }
        scenario.add_delays();
        scenario.events.sort_by_key(|(at_ms, _)| *at_ms);
        scenario
    }

    fn add_tasks(&mut self, random: &mut ChaCha8Rng) {
        // Where all take the same time, the end of a run can be foreseen.
        let even_ms = (self.class != Class::TableLost && random.random_bool(0.4)).then(|| random.random_range(20..300));
        let (calm, weak) = (self.class == Class::Calm, self.class == Class::StoreEmptied);
        for number in 0..random.random_range(4..24) {
            let fails = if !calm && random.random_bool(0.15) { random.random_range(1..4) } else { 0 };
            let task = PlannedTask {
                id: format!("task-{number}"),
                priority: random.random_range(0..10),
                ms: match even_ms {
                    Some(ms) => ms,
                    None if random.random_bool(0.2) => random.random_range(1_500..6_000),
                    None => random.random_range(0..1_500),
                },
                fails,
                attempts_max: random.random_range(1..4),
                poison: self.class == Class::Poison && number < 2,
                queue_deadline_ms: (!calm && random.random_bool(0.1)).then(|| random.random_range(100..10_000)),
                delay_ms: None,
                // A GPU that is replaced never comes back, and a task for it would wait for ever.
                gpu: (!calm && self.class != Class::Replaced && random.random_bool(0.15)).then(|| random.random_range(0..self.gpus)),
                strategy: random
                    .random_bool(0.3)
                    .then(|| ["round_robin", "least_loaded", "task_specific", "unheard_of"][random.random_range(0..4)]),
                cancelled: self.class == Class::Faults && random.random_bool(0.1),
                copied: self.class == Class::Faults && random.random_bool(0.15),
                batch: None,
            };
            let task = self.perhaps_a_batch(task, random);
            let at_ms = if calm { 0 } else { random.random_range(CALM_UNTIL_MS..TROUBLE_UNTIL_MS / 2) };
            self.events.push((at_ms, Event::Publish(number)));
            if task.copied {
                self.events.push((at_ms + random.random_range(0..8_000), Event::Publish(number)));
            }
            if task.cancelled && !weak {
                self.events.push(((at_ms + random.random_range(0..4_000)).saturating_sub(500), Event::Cancel(number)));
            }
            self.tasks.push(task);
        }
    }

    /// Some tasks are batches: short items, one of which may be bad. (The order of priority is judged of single tasks, and poison of one culprit.)
    fn perhaps_a_batch(&self, task: PlannedTask, random: &mut ChaCha8Rng) -> PlannedTask {
        if self.class == Class::Calm || task.poison || !random.random_bool(0.25) {
            return task;
        }
        let items = random.random_range(1..40);
        let bad_item = random.random_bool(0.3).then(|| random.random_range(0..items));
        let batch = PlannedBatch { items, bad_item, fails_whole: random.random_bool(0.4) };
        PlannedTask { ms: random.random_range(0..150), batch: Some(batch), ..task }
    }

    /// Some tasks must not start at once. Not where clocks jump: to a host whose clock is behind by minutes their time comes minutes later. Drawn apart, so that all else is as it was.
    fn add_delays(&mut self) {
        let clocks_jump = self.events.iter().any(|(_, event)| matches!(event, Event::JumpClock(..)));
        if clocks_jump || self.class == Class::Calm {
            return;
        }
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ 0x0DE1_A7ED);
        for task in &mut self.tasks {
            task.delay_ms = random.random_bool(0.15).then(|| random.random_range(1..15_000));
        }
    }

    /// Losses of the table, and of channels, so that tasks that run are delivered to others.
    fn add_losses(&mut self, random: &mut ChaCha8Rng) {
        for _ in 0..random.random_range(2..12) {
            let at_ms = random.random_range(CALM_UNTIL_MS..TROUBLE_UNTIL_MS / 2);
            let event = match random.random_range(0..6) {
                0..=2 => Event::ClearTable,
                3 => {
                    self.events.push((at_ms + random.random_range(1..2_000), Event::FailTableOver));
                    Event::CopyTable
                }
                _ => {
                    // The table is lost as others are handed what runs, and again just before they look a second time.
                    let again_ms = self.lease.mul_f64(random.random_range(0.4..0.5)).as_millis() as u64;
                    self.events.extend([(at_ms - 1, Event::ClearTable), (at_ms + again_ms, Event::ClearTable)]);
                    Event::LoseChannels(random.random_range(0..self.gpus))
                }
            };
            self.events.push((at_ms, event));
        }
    }

    fn add_faults(&mut self, random: &mut ChaCha8Rng) {
        // Until every GPU has shown itself once: a task for a GPU that the fleet never knew fails, as it should.
        self.events.push((CALM_UNTIL_MS - 100, Event::TroubleBegins));
        for _ in 0..random.random_range(1..8) {
            let at_ms = random.random_range(CALM_UNTIL_MS..TROUBLE_UNTIL_MS);
            let gpu = random.random_range(0..self.gpus);
            let long = self.lease.mul_f64(random.random_range(0.2..2.5));
            let event = match random.random_range(0..20) {
                0..=3 => Event::CrashIn(gpu, random.random_range(0..60)),
                4 | 5 => Event::Kill(gpu),
                6 | 7 => Event::LoseChannels(gpu),
                8 | 16 | 17 => Event::Stall(gpu, self.lease.mul_f64(random.random_range(1.0..4.0))),
                9 => Event::CutOff(random.random_bool(0.5).then_some(gpu), ["queue", "table", "store"][random.random_range(0..3)], long),
                10 => Event::ClearTable,
                11 => {
                    self.events.push((at_ms + random.random_range(1..2_000), Event::FailTableOver));
                    Event::CopyTable
                }
                12 => {
                    self.events.push((at_ms + long.as_millis() as u64, Event::UnblockPublishers));
                    Event::BlockPublishers
                }
                13 => Event::JumpClock(gpu, random.random_range(-600_000..600_000)),
                14 => Event::Drain(gpu),
                _ => {
                    let (step, when) = (STEPS[random.random_range(0..STEPS.len())], ["before", "after"][random.random_range(0..2)]);
                    Event::CrashAt(gpu, (step, when))
                }
            };
            self.events.push((at_ms, event));
        }
        if self.class == Class::StoreEmptied {
            self.events.push((random.random_range(1_000..12_000), Event::ClearStore));
        }
    }

    /// The queue of the replies takes none for a while, and a process dies with a reply that waits for that.
    fn add_full_replies(&mut self, random: &mut ChaCha8Rng) {
        let from_ms = random.random_range(CALM_UNTIL_MS..TROUBLE_UNTIL_MS / 2);
        let until_ms = from_ms + random.random_range(1_000..12_000);
        // Who consumes at once leaves nothing in the queue: with room for one it would take them all.
        self.events.extend([(from_ms, Event::BoundReplies(Some(0))), (until_ms, Event::BoundReplies(None))]);
        for (at_ms, step) in [from_ms, until_ms].into_iter().zip(STEPS_OF_REPLIES) {
            let (gpu, when) = (random.random_range(0..self.gpus), ["before", "after"][random.random_range(0..2)]);
            self.events.push((at_ms, Event::CrashAt(gpu, (step, when))));
        }
    }

    /// Whether everything runs in processes beside the workers, which poison ends in place of them.
    pub fn in_handlers(&self) -> bool {
        self.class == Class::Poison && self.seed.is_multiple_of(2)
    }

    /// Whether the store forgets: then less is promised.
    pub fn empties_the_store(&self) -> bool {
        self.events.iter().any(|(_, event)| matches!(event, Event::ClearStore))
    }

    /// Once or twice nobody of those who were there is left, and at that time one or two more things go wrong.
    fn add_replacements(&mut self, random: &mut ChaCha8Rng) {
        self.events.push((CALM_UNTIL_MS - 100, Event::TroubleBegins));
        let lease_ms = self.lease.as_millis() as u64;
        for _ in 0..random.random_range(1..=2) {
            let mut at_ms = random.random_range(CALM_UNTIL_MS..TROUBLE_UNTIL_MS / 2);
            let mut order: Vec<usize> = (0..self.gpus).collect();
            order.rotate_left(random.random_range(0..self.gpus));
            for gpu in order {
                self.events.push((at_ms, Event::Replace(gpu)));
                at_ms += random.random_range(1..lease_ms / 4);
            }
            for _ in 0..random.random_range(1..=2) {
                let beside_ms = at_ms + random.random_range(0..lease_ms / 4);
                self.add_beside_a_replacement(random, beside_ms);
            }
        }
    }

    /// What goes wrong while workers are replaced.
    fn add_beside_a_replacement(&mut self, random: &mut ChaCha8Rng, at_ms: u64) {
        let long_ms = self.lease.mul_f64(random.random_range(0.2..2.5)).as_millis() as u64;
        // Emptied twice, it would promise nothing.
        let still_full = !self.empties_the_store();
        match random.random_range(0..9) {
            0..=2 if still_full => self.events.extend([(at_ms, Event::ClearTable), (at_ms, Event::ClearStore)]),
            3 if still_full => self.events.push((at_ms, Event::ClearStore)),
            0..=4 => self.events.push((at_ms, Event::ClearTable)),
            // The broker is restarted: what was in hand goes back, and nobody reaches it for a while.
            5 | 6 => {
                self.events.push((at_ms, Event::CutOff(None, "queue", Duration::from_millis(long_ms))));
                self.events.extend((0..self.gpus).map(|gpu| (at_ms, Event::LoseChannels(gpu))));
            }
            7 => self.events.extend([(at_ms, Event::BlockPublishers), (at_ms + long_ms, Event::UnblockPublishers)]),
            _ => {
                let queues = [Queue::Dead, Queue::Parked].into_iter().chain(Queue::where_tasks_wait());
                self.events.extend(queues.map(|queue| (at_ms, Event::DeleteIfUnused(queue))));
                self.events.push((at_ms, Event::DeleteQueuesOfTheGone));
            }
        }
    }
}
