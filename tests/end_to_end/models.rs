//! Models that GPUs keep: where tasks go for them, and what operators wish of them.

use std::collections::BTreeMap;

use devices::simulated::SimulatedOptions;
use gpu_table::wish_for_model;
use producer::NewTask;
use protocol::{GpuId, GpuRow, ModelAction, ModelWish, Reply, Strategy, claim::Settings, config::SimulatedModel};
use serde_json::json;
use tests::{
    fleet::{Fleet, FleetPlan},
    tasks::{PATIENCE, on, replies, reply, result, task},
    until::until,
};

crate::on_both!(
    task_specific_goes_where_the_model_is,
    four_models_on_two_gpus_that_hold_two_each_lose_nothing,
    a_model_is_loaded_and_unloaded_on_the_gpus_that_are_wished_for,
    a_wish_that_cannot_be_done_says_why,
    a_pin_holds_against_other_models_and_outlives_the_worker,
    a_task_has_the_memory_of_models_that_nobody_uses,
    operators_wishes_outlive_the_table,
);

/// A task of a model of 10 GB.
fn about(model: &str) -> NewTask {
    task("simulate", json!({"model": model, "model_mb": 10_000, "load_ms": 20, "duration_ms": 1, "result": model}))
}

/// GPUs that hold two models of 10 GB each, and know the models `a` to `d`.
fn keeping(gpus: usize) -> FleetPlan {
    let plan = Fleet::of(gpus).strategy(Strategy::TaskSpecific).configured(|configuration| {
        configuration.models.memory_mb = Some(20_000);
        configuration.models.simulated =
            ["a", "b", "c", "d"].map(|name| SimulatedModel { memory_mb: 10_000, load_ms: 20, ..SimulatedModel::named(name) }).into();
    });
    plan.keeping_models()
}

fn gpu(reply: &Reply) -> GpuId {
    reply.gpu_id.clone().unwrap_or_else(|| panic!("it ran: {reply:?}"))
}

async fn row(fleet: &Fleet, gpu_id: &str) -> Option<GpuRow> {
    fleet.rows().await.into_iter().map(|view| view.row).find(|row| row.gpu.gpu_id.as_str() == gpu_id)
}

/// Waits until the row of a GPU says that exactly these models are loaded.
async fn has_loaded(fleet: &Fleet, gpu_id: &str, models: &[&str]) {
    until(&format!("{gpu_id} has {models:?}"), async || row(fleet, gpu_id).await.is_some_and(|row| row.models == models)).await;
}

async fn wish(fleet: &Fleet, model: &str, action: ModelAction, gpus: &[&str]) -> u64 {
    let gpus: Vec<GpuId> = gpus.iter().map(|name| name.parse().unwrap()).collect();
    let wish = ModelWish::new(model, action, fleet.environment().clock.now_ms()).on(&gpus);
    wish_for_model(&*fleet.ports.table, &fleet.pool(), &Settings::default(), &wish).await.unwrap().number
}

/// Waits until a GPU has done a wish.
async fn has_done(fleet: &Fleet, gpu_id: &str, number: u64) -> GpuRow {
    let done = async || row(fleet, gpu_id).await.filter(|row| row.model_state.model_wishes_done >= number);
    until(&format!("{gpu_id} has done wish {number}"), async || done().await.is_some()).await;
    done().await.unwrap()
}

async fn task_specific_goes_where_the_model_is(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(keeping(3)).start().await;
    let mut homes = BTreeMap::new();
    for (gpu_id, model) in [("gpu-0", "a"), ("gpu-1", "b"), ("gpu-2", "c")] {
        result(&reply(&fleet.producer, on(gpu_id, about(model))).await);
        has_loaded(&fleet, gpu_id, &[model]).await;
        fleet.idle().await;
        homes.insert(model, gpu_id);
    }
    for n in 0..30 {
        let model = ["a", "b", "c"][n * 7 % 3];
        let reply = reply(&fleet.producer, about(model)).await;
        assert_eq!((result(&reply), gpu(&reply).as_str()), (json!(model), homes[model]));
        fleet.idle().await;
    }
    let mut named = task("echo", json!(1));
    named.body.gpu_options.model = Some("b".to_owned());
    named.body.needs.model = Some("c".to_owned());
    assert_eq!(gpu(&reply(&fleet.producer, named).await).as_str(), "gpu-1", "whatever its kind: what it names itself wins");
}

async fn four_models_on_two_gpus_that_hold_two_each_lose_nothing(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(keeping(2).slots(3)).start().await;
    let tasks: Vec<NewTask> = (0..60).map(|n| about(["a", "b", "c", "d"][n * 7 % 4])).collect();
    for (n, reply) in replies(&fleet.producer, tasks, 8).await.iter().enumerate() {
        assert_eq!(result(reply), json!(["a", "b", "c", "d"][n * 7 % 4]));
    }
    until("two models are on each", async || {
        fleet.rows().await.iter().all(|view| view.row.models.len() == 2 && view.row.model_state.evictable_mb == 20_000)
    })
    .await;
    until("what happened to them is counted", async || fleet.counted("gpufleet_model_uses_total", "") >= 60.0).await;
    assert!(fleet.counted("gpufleet_model_loads_total", "loaded") >= 4.0);
    assert_eq!(fleet.counted("gpufleet_model_bytes", "gpu-0"), 20e9);
}

async fn a_model_is_loaded_and_unloaded_on_the_gpus_that_are_wished_for(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(keeping(3)).start().await;
    let number = wish(&fleet, "a", ModelAction::Load, &["gpu-1", "gpu-2"]).await;
    for gpu_id in ["gpu-1", "gpu-2"] {
        let row = has_done(&fleet, gpu_id, number).await;
        assert_eq!((row.models, row.model_state.model_errors), (vec!["a".to_owned()], BTreeMap::new()));
        assert!(row.model_state.load_ms["a"] >= 20.0);
    }
    assert!(has_done(&fleet, "gpu-0", number).await.models.is_empty(), "it was not for this one");
    let number = wish(&fleet, "a", ModelAction::Unload, &[]).await;
    for gpu_id in ["gpu-0", "gpu-1", "gpu-2"] {
        assert!(has_done(&fleet, gpu_id, number).await.models.is_empty());
    }
    let number = wish(&fleet, "b", ModelAction::Load, &[]).await;
    for gpu_id in ["gpu-0", "gpu-1", "gpu-2"] {
        assert_eq!(has_done(&fleet, gpu_id, number).await.models, ["b"]);
    }
}

async fn a_wish_that_cannot_be_done_says_why(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(keeping(1)).start().await;
    let number = wish(&fleet, "nobody's", ModelAction::Load, &[]).await;
    let row = has_done(&fleet, "gpu-0", number).await;
    assert!(row.model_state.model_errors["nobody's"].contains("no kind of this GPU has a model"), "{row:?}");
    wish(&fleet, "a", ModelAction::Pin, &[]).await;
    let number = wish(&fleet, "a", ModelAction::Unload, &[]).await;
    let row = has_done(&fleet, "gpu-0", number).await;
    assert_eq!((row.model_state.model_errors["a"].as_str(), &row.models[..]), ("it is pinned; unpin it first", &["a".to_owned()][..]));
    wish(&fleet, "a", ModelAction::Unpin, &[]).await;
    let number = wish(&fleet, "a", ModelAction::Unload, &[]).await;
    let row = has_done(&fleet, "gpu-0", number).await;
    assert!(row.models.is_empty() && !row.model_state.model_errors.contains_key("a"), "{row:?}");
}

async fn a_pin_holds_against_other_models_and_outlives_the_worker(here: fn(FleetPlan) -> FleetPlan) {
    let mut fleet = here(keeping(1)).start().await;
    let number = wish(&fleet, "a", ModelAction::Pin, &[]).await;
    assert!(has_done(&fleet, "gpu-0", number).await.model_state.model_details[0].pinned);
    for model in ["b", "c", "d", "b"] {
        result(&reply(&fleet.producer, about(model)).await);
    }
    has_loaded(&fleet, "gpu-0", &["a", "b"]).await;
    let before = row(&fleet, "gpu-0").await.unwrap().incarnation;
    let gpu_id: GpuId = "gpu-0".parse().unwrap();
    fleet.kill_and_restart(&gpu_id).await;
    until("its next worker has the model", async || {
        row(&fleet, "gpu-0")
            .await
            .is_some_and(|row| row.incarnation != before && row.models == ["a"] && row.model_state.model_details[0].pinned)
    })
    .await;
    let new: GpuId = "new".parse().unwrap();
    fleet.add(SimulatedOptions::new(new.clone())).await;
    has_loaded(&fleet, "new", &["a"]).await;
    let number = wish(&fleet, "a", ModelAction::Unpin, &["new"]).await;
    assert!(!has_done(&fleet, "new", number).await.model_state.model_details[0].pinned);
    assert!(has_done(&fleet, "gpu-0", number).await.model_state.model_details[0].pinned, "it was for the other one");
}

async fn a_task_has_the_memory_of_models_that_nobody_uses(here: fn(FleetPlan) -> FleetPlan) {
    let plan = keeping(1).configured(|configuration| configuration.models.memory_mb = None);
    let fleet = here(plan.keeping_models()).start().await;
    for model in ["x", "y"] {
        let payload = json!({"model": model, "model_mb": 30_000});
        result(&reply(&fleet.producer, task("simulate", payload)).await);
    }
    has_loaded(&fleet, "gpu-0", &["x", "y"]).await;
    fleet.idle().await;
    let mut large = task("simulate", json!({"memory_mb": 50_000, "duration_ms": 1, "result": "done"}));
    large.body.needs.memory_mb = Some(50_000);
    let reply = fleet.producer.submit_and_wait(large, PATIENCE).await.unwrap();
    assert_eq!((result(&reply), reply.attempt), (json!("done"), 1), "60 of 80 GB were taken by models");
    has_loaded(&fleet, "gpu-0", &[]).await;
}

async fn operators_wishes_outlive_the_table(here: fn(FleetPlan) -> FleetPlan) {
    let fleet = here(keeping(2)).start().await;
    let number = wish(&fleet, "a", ModelAction::Pin, &[]).await;
    for gpu_id in ["gpu-0", "gpu-1"] {
        has_done(&fleet, gpu_id, number).await;
    }
    fleet.empty_the_table().await;
    until("the settings are back", async || {
        let settings = fleet.ports.table.current_settings(&fleet.pool()).await.unwrap();
        settings.is_some_and(|settings| settings.models.number == number && settings.models.pins.len() == 1)
    })
    .await;
    assert_eq!(wish(&fleet, "b", ModelAction::Load, &[]).await, number + 1, "numbers go on");
    assert_eq!(has_done(&fleet, "gpu-0", number + 1).await.models, ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_kind_is_not_offered_before_its_pinned_models_are_loaded() {
    let plan = keeping(1).configured(|configuration| {
        configuration.models.pinned = vec!["slow".to_owned()];
        configuration.models.simulated = vec![SimulatedModel { load_ms: 5_000, ..SimulatedModel::named("slow") }];
    });
    let fleet = plan.keeping_models().start().await;
    let simulate: protocol::Kind = "simulate".parse().unwrap();
    let row_of = async || row(&fleet, "gpu-0").await.unwrap();
    let cold = row_of().await;
    assert_eq!((cold.kinds.contains(&simulate), cold.kinds_down[&simulate].as_str()), (false, "loading model slow"));
    let patient = fleet.producer.pending(task("simulate", json!({"model": "slow", "result": 7})), PATIENCE).await.unwrap();
    result(&reply(&fleet.producer, task("echo", json!(1))).await);
    until("the model is loaded", async || row_of().await.kinds.contains(&simulate)).await;
    assert!(row_of().await.model_state.model_details[0].pinned);
    assert_eq!(result(&patient.await.unwrap()), json!(7), "it waited for its kind");
}

#[tokio::test(start_paused = true)]
async fn behind_a_long_run_no_task_waits_for_its_model_while_another_gpu_idles() {
    let plan = Fleet::of(2).slots(1).strategy(Strategy::TaskSpecific).configured(|configuration| {
        configuration.models.simulated = vec![SimulatedModel { load_ms: 2_000, ..SimulatedModel::named("a") }];
    });
    let fleet = plan.keeping_models().start().await;
    let lasting = |duration_ms: u64| task("simulate", json!({"model": "a", "duration_ms": duration_ms, "result": duration_ms}));
    for _ in 0..10 {
        result(&reply(&fleet.producer, on("gpu-0", lasting(1))).await);
    }
    let simulate: protocol::Kind = "simulate".parse().unwrap();
    until("runs are known to be short", async || row(&fleet, "gpu-0").await.unwrap().run_ms.get(&simulate).is_some_and(|ms| *ms < 100.0))
        .await;
    fleet.idle().await;
    let long = fleet.producer.pending(on("gpu-0", lasting(30_000)), PATIENCE).await.unwrap();
    until("the long one runs", async || row(&fleet, "gpu-0").await.unwrap().running.len() == 1).await;
    let short = reply(&fleet.producer, lasting(2)).await;
    assert_eq!((result(&short), gpu(&short).as_str()), (json!(2), "gpu-1"), "it did not wait for the end of the long one");
    assert_eq!(result(&long.await.unwrap()), json!(30_000));
}

#[tokio::test(start_paused = true)]
async fn a_pinned_model_that_no_kind_has_is_told_until_it_is_unpinned() {
    let plan = keeping(1).configured(|configuration| configuration.models.pinned = vec!["zzz".to_owned()]);
    let fleet = plan.keeping_models().start().await;
    let said = async || row(&fleet, "gpu-0").await.unwrap().model_state.model_errors.get("zzz").cloned();
    until("it is told", async || said().await.is_some_and(|why| why.contains("models.pinned names it"))).await;
    result(&reply(&fleet.producer, task("echo", json!(1))).await);
    let number = wish(&fleet, "zzz", ModelAction::Unpin, &[]).await;
    has_done(&fleet, "gpu-0", number).await;
    until("nobody wants it any more", async || said().await.is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_pinned_model_that_does_not_fit_keeps_its_kind_down_and_says_why() {
    let plan = keeping(1).configured(|configuration| {
        configuration.models.pinned = vec!["huge".to_owned()];
        configuration.models.simulated = vec![SimulatedModel { memory_mb: 90_000, ..SimulatedModel::named("huge") }];
    });
    let fleet = plan.keeping_models().start().await;
    let simulate: protocol::Kind = "simulate".parse().unwrap();
    until("it says why", async || {
        let row = row(&fleet, "gpu-0").await.unwrap();
        let why = row.kinds_down.get(&simulate).cloned().unwrap_or_default();
        why.contains("model huge cannot be loaded") && row.model_state.model_errors.contains_key("huge")
    })
    .await;
    result(&reply(&fleet.producer, task("echo", json!(1))).await);
}
