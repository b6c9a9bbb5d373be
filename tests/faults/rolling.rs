//! Workers that are restarted one after the other, and machines that are taken away, while tasks flow: none is lost, and none is cut short.

use std::collections::BTreeMap;

use protocol::{GpuId, StepName, TaskId, claim::Settings, gpu::WorkerPhase};
use task_store::StepCursor;
use tests::{
    fleet::{Fleet, ServerUrls},
    rabbitmq::PrivateRabbitMq,
    redis::PrivateRedis,
    until::until,
};

use crate::{
    ledger::{Ledger, report_by_crashes},
    workers::Workers,
};

/// Tasks in all, in waves: one before the first process is stopped, one at each stop.
const TASKS: usize = 2_000;
const PROCESSES: usize = 3;
const GPUS_OF_EACH: usize = 2;
/// How long a task runs, in ms. A wave keeps the fleet busy for seconds, whatever the machine.
const RUN_MS: u64 = 200;

/// A fleet whose workers are processes of their own.
struct Rolling {
    fleet: Fleet,
    ledger: Ledger,
    workers: Workers,
}

impl Rolling {
    async fn start() -> Self {
        let redis = PrivateRedis::shared().await.url();
        let urls = ServerUrls { amqp: PrivateRabbitMq::shared().await.url(), table: redis.clone(), store: redis };
        let plan = Fleet::of(0).slots(4).configured(|configuration| configuration.worker.lease_ms = 3_000);
        let fleet = plan.on_servers(urls.clone()).start().await;
        let ledger = Ledger::open(urls.amqp.clone()).await;
        let workers = Workers::start(&fleet, &urls, (PROCESSES, GPUS_OF_EACH));
        fleet.eligible(PROCESSES * GPUS_OF_EACH).await;
        Self { fleet, ledger, workers }
    }

    async fn publish(&mut self, tasks: usize) {
        self.ledger.publish_simulated(&self.fleet, tasks, RUN_MS).await;
    }

    /// Every task has ended well, in its first attempt, which no crash ended; and no attempt began twice.
    async fn nothing_was_lost_or_cut_short(&mut self, what: &str) {
        self.ledger.until_all_ended(&self.fleet).await;
        self.ledger.until_all_answered().await;
        let balance = self.ledger.balance().await;
        let crashes = self.ledger.crashes(&self.fleet).await;
        report_by_crashes(what, &balance, crashes);
        balance.holds();
        assert_eq!((self.ledger.attempts_max(), crashes), (1, 0), "an attempt was cut short");
        let began = began(&self.fleet).await;
        assert!(!began.is_empty(), "no step was told");
        let twice: Vec<_> = began.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "these began more than once: {twice:?}");
    }
}

/// How often tasks began, as the journal knows it.
async fn began(fleet: &Fleet) -> BTreeMap<TaskId, usize> {
    let (mut began, mut cursor) = (BTreeMap::new(), StepCursor::default());
    loop {
        let page = fleet.ports.store.journal().steps_after(&cursor, 1_000).await.unwrap();
        for step in page.steps.into_iter().filter(|step| step.step == StepName::Began) {
            *began.entry(step.task_id.unwrap()).or_default() += 1;
        }
        cursor = page.cursor;
        if !page.has_more {
            return began;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_worker_is_restarted_while_two_thousand_tasks_flow_and_none_is_lost_or_cut_short() {
    let mut rolling = Rolling::start().await;
    let wave = TASKS / (PROCESSES + 1);
    rolling.publish(wave).await;
    for number in 0..PROCESSES {
        rolling.publish(wave).await;
        rolling.workers.restart(number).await;
        rolling.fleet.eligible(PROCESSES * GPUS_OF_EACH).await;
    }
    rolling.nothing_was_lost_or_cut_short("2,000 tasks: every worker restarted, one after the other").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_whose_gpus_are_drained_can_be_taken_away_under_load_at_no_cost() {
    let mut rolling = Rolling::start().await;
    rolling.publish(TASKS / 4).await;
    let leaving = rolling.workers.gpus_of(0);
    until("its GPUs have tasks", async || held(&rolling.fleet, &leaving).await > 0).await;
    let settings = rolling.fleet.ports.table.settings(&rolling.fleet.pool(), &Settings::default()).await.unwrap();
    let drained = Settings { draining: leaving.clone(), ..settings };
    rolling.fleet.ports.table.change_settings(&rolling.fleet.pool(), &drained).await.unwrap();
    // At once when the rows say so, and without a word to the process: nothing may hang on it.
    until("its GPUs are drained", async || {
        let rows = rolling.fleet.rows().await;
        let mut of_it = rows.iter().filter(|view| leaving.contains(&view.row.gpu.gpu_id));
        of_it.all(|view| view.phase == WorkerPhase::Drained)
    })
    .await;
    rolling.workers.remove(0).await;
    rolling.publish(TASKS / 4).await;
    rolling.nothing_was_lost_or_cut_short("1,000 tasks: a drained machine taken away under load").await;
}

async fn held(fleet: &Fleet, gpus: &[GpuId]) -> u32 {
    fleet.rows().await.iter().filter(|view| gpus.contains(&view.row.gpu.gpu_id)).map(|view| view.held).sum()
}
