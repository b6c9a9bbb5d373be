//! Claims that weigh what it takes to bring a task's data to a GPU.

use gpu_table::Heartbeat;
use protocol::{ClaimMode, ClaimRequest, DataCosts, GpuRow, Health, Holding, Needs};

use super::world::{HELD_SECONDS, World, ask_with, full_elsewhere, full_here, gpu_id, heartbeat, is_own, row, row_with};

/// Of data that some GPUs have: what it takes to bring all of them there, and to any other, in ms.
fn costs(at_ms: &[(&str, f64)], elsewhere_ms: f64) -> Option<DataCosts> {
    Some(DataCosts { elsewhere_ms, at_ms: at_ms.iter().map(|(name, ms)| (gpu_id(name), *ms)).collect() })
}

fn by(strategy: &str, task: &str, asker: &str, data: Option<DataCosts>) -> ClaimRequest {
    ask_with(task, asker, |request| (request.strategy, request.data) = (Some(strategy.to_owned()), data))
}

/// A task whose data are on `b`; it takes a second to bring them anywhere else.
fn for_data_on_b(task: &str, asker: &str) -> ClaimRequest {
    by("task_specific", &task.replace(' ', "-"), asker, costs(&[("b", 0.0)], 1_000.0))
}

/// A GPU on which a run takes so long.
fn running(name: &str, run_ms: f64) -> GpuRow {
    row_with(name, |row| _ = row.run_ms.insert("echo".parse().expect("a kind"), run_ms))
}

fn with_llama(row: GpuRow, load_ms: Option<f64>) -> GpuRow {
    let mut row = row;
    row.models = vec!["llama".to_owned()];
    row.model_state.load_ms = load_ms.map(|ms| ("llama".to_owned(), ms)).into_iter().collect();
    row
}

fn llama() -> Needs {
    Needs { model: Some("llama".to_owned()), ..Needs::default() }
}

/// Writes a row whose slots are all taken.
async fn join_full(world: &World, row: GpuRow) {
    let holding = world.holding(&row.incarnation, 0);
    let holding = Holding { slots: row.slots, ..holding };
    world.beat(&Heartbeat { holding, ..heartbeat(row) }).await;
}

/// Where a task goes, whose slot is given back.
async fn placed(world: &World, request: &ClaimRequest) -> String {
    let placed = world.place(request).await;
    world.give_back(&placed).await;
    placed.gpu
}

pub async fn task_specific_goes_where_the_data_are_soonest_whatever_the_load(world: World) {
    let world = world.with_gpus(&["a", "b", "c", "d"]).await;
    world.occupy("b", 1).await;
    let some = costs(&[("b", 2.0), ("c", 2.001)], 50.0);
    assert_eq!(placed(&world, &by("task_specific", "t", "a", some)).await, "b", "though others are idle");
    let equal = costs(&[("b", 2.0), ("c", 2.000_1), ("d", 3.0)], 50.0);
    assert_eq!(placed(&world, &by("task_specific", "u", "a", equal)).await, "c", "no microsecond lies between them, and c is idle");
    let all_the_same = costs(&[], 50.0);
    assert_eq!(placed(&world, &by("task_specific", "v", "a", all_the_same)).await, "a", "as without data");
    let here = costs(&[("a", 1.0), ("b", 2.0)], 50.0);
    assert_eq!(placed(&world, &by("task_specific", "w", "a", here)).await, "a");
    let nonsense = costs(&[("b", 70.0), ("c", f64::NAN), ("d", f64::INFINITY)], 50.0);
    assert_eq!(placed(&world, &by("task_specific", "x", "a", nonsense)).await, "a", "no cost is above that of a GPU that has nothing");
}

pub async fn data_on_a_gpu_that_cannot_run_the_task_now_count_for_nothing(world: World) {
    world.join(row("dead")).await;
    world.pass(HELD_SECONDS);
    let world = world.with_gpus(&["a", "full"]).await;
    world.occupy("full", 2).await;
    world.join(row_with("sick", |row| row.health = Health::Quarantined)).await;
    world.join(row_with("silent", |row| row.consuming = false)).await;
    world.join(row_with("hot", |row| row.foreign_utilization_percent = 99.0)).await;
    world.join(row_with("other", |row| row.kinds = vec!["predict".parse().expect("a kind")])).await;
    let everywhere = ["dead", "full", "sick", "silent", "hot", "other", "unknown"].map(|name| (name, 0.0));
    for strategy in ["task_specific", "least_loaded", "round_robin"] {
        assert_eq!(placed(&world, &by(strategy, strategy, "stranger", costs(&everywhere, 9_000.0))).await, "a", "{strategy}");
    }
}

pub async fn a_model_and_data_are_weighed_together(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.join(with_llama(row("c"), Some(100.0))).await;
    let request = |task: &str, on_b_ms: f64, elsewhere_ms: f64| ClaimRequest {
        needs: llama(),
        ..by("task_specific", task, "a", costs(&[("b", on_b_ms)], elsewhere_ms))
    };
    assert_eq!(placed(&world, &request("t", 0.0, 99.0)).await, "c", "a load takes longer than to bring the data");
    assert_eq!(placed(&world, &request("u", 0.0, 101.0)).await, "b", "and here it does not");
    assert_eq!(placed(&world, &request("v", 20.0, 120.0)).await, "c", "where both take as long the model is loaded");
    world.join(with_llama(row("c"), None)).await;
    assert_eq!(placed(&world, &request("w", 0.0, 9_000.0)).await, "c", "who knows how long a load takes");
    world.occupy("c", 2).await;
    assert_eq!(placed(&world, &request("x", 0.0, 1.0)).await, "b", "no free one has the model");
}

pub async fn other_strategies_ask_for_the_data_only_among_equals(world: World) {
    let world = world.with_gpus(&["a", "b", "c"]).await;
    let on = |strategy: &str, task: &str, name: &str| by(strategy, task, "a", costs(&[(name, 1.0)], 50.0));
    for (task, gpu) in [("t", "b"), ("u", "c"), ("v", "a")] {
        assert_eq!(world.placed(&on("least_loaded", task, gpu)).await, gpu, "of three idle ones");
    }
    world.tell("a", -1, &[]).await;
    assert_eq!(placed(&world, &on("least_loaded", "w", "b")).await, "a", "it is idler");
    world.join(row("d")).await;
    world.join(row("e")).await;
    assert_eq!(placed(&world, &on("round_robin", "x", "e")).await, "e", "neither d nor e was ever claimed");
    assert_eq!(placed(&world, &on("round_robin", "y", "e")).await, "d", "it is its turn");
    assert_eq!(placed(&world, &on("round_robin", "z", "e")).await, "b");
}

pub async fn a_task_waits_for_its_data_where_bringing_them_would_take_more_than_twice_as_long(world: World) {
    let world = world.with_gpus(&["a", "c"]).await;
    world.join(running("b", 100.0)).await;
    assert_eq!(world.placed(&for_data_on_b("free", "a")).await, "b", "it has a slot");
    world.occupy("b", 1).await;
    assert_eq!(world.claim(&for_data_on_b("t", "a")).await, full_elsewhere("b"), "two tasks in two slots: 100 ms");
    let least_loaded = ClaimRequest { strategy: Some("least_loaded".to_owned()), ..for_data_on_b("u", "a") };
    assert_eq!(world.placed(&least_loaded).await, "a", "other strategies do not wait for data");
    let part = |task: &str, on_a_ms: f64| by("task_specific", task, "c", costs(&[("a", on_a_ms), ("b", 50.0)], 1_000.0));
    assert_eq!(placed(&world, &part("v", 400.0)).await, "a", "three tasks in two slots, and some data to bring: 200 of 400 ms");
    assert_eq!(world.claim(&part("w", 401.0)).await, full_elsewhere("b"));
}

pub async fn a_task_does_not_wait_for_its_data_for_long_or_where_nothing_is_known(world: World) {
    let world = world.with_gpus(&["a"]).await;
    join_full(&world, running("b", 500.0)).await;
    assert_eq!(placed(&world, &for_data_on_b("half of the time", "a")).await, "a");
    join_full(&world, running("b", 499.0)).await;
    assert_eq!(world.claim(&for_data_on_b("less than half", "a")).await, full_elsewhere("b"));
    assert_eq!(placed(&world, &for_data_on_b("now one was sent there", "a")).await, "a", "three tasks in two slots");
    join_full(&world, row("b")).await;
    assert_eq!(placed(&world, &for_data_on_b("who knows how long a run takes", "a")).await, "a");
    join_full(&world, GpuRow { waiting: 8, ..running("b", 0.001) }).await;
    assert_eq!(placed(&world, &for_data_on_b("eight wait there", "a")).await, "a");
    join_full(&world, running("b", 1.0)).await;
    let small = by("task_specific", "small", "a", costs(&[("b", 0.0)], 2.0));
    assert_eq!(placed(&world, &small).await, "a", "they are here as soon");
    let with_model = ClaimRequest { needs: llama(), ..for_data_on_b("who knows how long a load takes", "a") };
    assert_eq!(placed(&world, &with_model).await, "a");
    join_full(&world, with_llama(running("b", 1.0), Some(100.0))).await;
    let with_model = ClaimRequest { needs: llama(), ..by("task_specific", "both", "a", costs(&[("b", 0.0)], 1.5)) };
    assert_eq!(world.claim(&with_model).await, full_elsewhere("b"), "for the model");
}

pub async fn a_task_waits_here_where_the_asking_gpu_has_its_data(world: World) {
    let world = world.with_gpus(&["a"]).await;
    world.join(running("b", 1.0)).await;
    world.occupy("b", 2).await;
    let mut request = for_data_on_b("t", "b");
    request.has_slot = false;
    assert_eq!(world.claim(&request).await, full_here());
}

pub async fn of_several_busy_gpus_with_data_it_waits_where_it_runs_first(world: World) {
    let world = world.with_gpus(&["a"]).await;
    join_full(&world, running("b", 300.0)).await;
    join_full(&world, running("c", 100.0)).await;
    join_full(&world, running("d", 1.0)).await;
    let some = costs(&[("b", 0.0), ("c", 150.0), ("d", 260.0)], 1_000.0);
    assert_eq!(world.claim(&by("task_specific", "t", "a", some.clone())).await, full_elsewhere("c"), "250 ms");
    assert_eq!(world.claim(&by("task_specific", "u", "a", some.clone())).await, full_elsewhere("d"), "261 ms; c takes 300 now");
    assert_eq!(world.claim(&by("task_specific", "v", "a", some)).await, full_elsewhere("d"), "one more takes half a millisecond there");
}

pub async fn waiting_tasks_leave_the_asking_gpu_only_where_their_data_are_clearly_nearer(world: World) {
    let world = world.with_gpus(&["a"]).await;
    world.join(running("b", 100.0)).await;
    let waiting =
        |task: &str, data: Option<DataCosts>| ClaimRequest { mode: ClaimMode::TasksWaiting, ..by("task_specific", task, "a", data) };
    assert_eq!(placed(&world, &waiting("t", costs(&[("b", 500.0)], 1_000.0))).await, "a", "half is not less than half");
    assert_eq!(placed(&world, &waiting("u", costs(&[("b", 499.0)], 1_000.0))).await, "b", "it is free");
    assert_eq!(placed(&world, &waiting("v", costs(&[], 1_000.0))).await, "a");
    world.occupy("b", 2).await;
    assert_eq!(placed(&world, &waiting("w", costs(&[("b", 400.0)], 1_000.0))).await, "a", "it waits there as well");
    assert_eq!(world.claim(&waiting("x", costs(&[("b", 399.0)], 1_000.0))).await, full_elsewhere("b"));
    let least_loaded = ClaimRequest { strategy: Some("least_loaded".to_owned()), ..waiting("y", costs(&[("b", 0.0)], 1_000.0)) };
    assert!(is_own(&world.claim(&least_loaded).await), "there is nothing to choose");
}

pub async fn a_named_gpu_gets_the_task_wherever_its_data_are(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    let named = |task: &str| ClaimRequest { specific_gpu_id: Some(gpu_id("a")), ..for_data_on_b(task, "b") };
    assert_eq!(world.placed(&named("t")).await, "a");
    assert_eq!(world.placed(&named("u")).await, "a");
    assert_eq!(world.claim(&named("v")).await, full_elsewhere("a"));
}
