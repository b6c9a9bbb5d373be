//! The strategies, and what a claim answers where nothing is free.

use protocol::{
    Choice, ClaimAnswer, ClaimMode, ClaimRequest, Fallback, Health, Strategy, Unplaceable, claim::Settings, task::ComputeCapability,
};

use super::world::{World, ask, ask_with, ask_without_slot, full_elsewhere, full_here, gpu_id, incarnation, is_own, pool, row, row_with};

fn by(strategy: &str, task: &str, asker: &str) -> ClaimRequest {
    ask_with(task, asker, |request| request.strategy = Some(strategy.to_owned()))
}

/// Where tasks `<label>0`, `<label>1`, … go, one after the other; each slot is given back at once.
async fn rotation(world: &World, label: &str, count: usize) -> String {
    let mut order = String::new();
    for n in 0..count {
        let placed = world.place(&by("round_robin", &format!("{label}{n}"), "a")).await;
        order.push_str(&placed.gpu);
        world.give_back(&placed).await;
    }
    order
}

pub async fn round_robin_rotates_exactly_while_gpus_come_and_go(world: World) {
    let world = world.with_gpus(&["b", "a", "c"]).await;
    assert_eq!(rotation(&world, "first", 7).await, "abcabca");
    world.join(row("d")).await;
    assert_eq!(rotation(&world, "joined", 5).await, "dbcad", "a new one was claimed longest ago");
    world.table.leave(&pool(), &gpu_id("b"), &incarnation("b")).await.expect("it leaves");
    assert_eq!(rotation(&world, "left", 4).await, "cadc");
    world.occupy("a", 2).await;
    assert_eq!(rotation(&world, "full", 3).await, "dcd", "a full one is passed over");
    world.join(row_with("b", |row| row.incarnation = incarnation("again"))).await;
    assert_eq!(rotation(&world, "back", 4).await, "bcdb");
}

pub async fn least_loaded_avoids_the_busy_one(world: World) {
    let world = world.with_gpus(&["a", "b", "c"]).await;
    world.occupy("a", 1).await;
    world.occupy("b", 1).await;
    assert_eq!(world.placed(&by("least_loaded", "t", "a")).await, "c");
}

pub async fn least_loaded_prefers_the_asking_gpu_among_the_idlest(world: World) {
    let world = world.with_gpus(&["a", "b", "c"]).await;
    world.join(row_with("c", |row| row.sample.memory_used_mb = 60_000)).await;
    assert_eq!(world.placed(&ask("t", "c")).await, "c", "though it uses more memory");
    assert_eq!(world.placed(&ask("u", "c")).await, "a", "now it is not among the idlest");
    assert_eq!(world.placed(&ask("v", "stranger")).await, "b");
}

pub async fn least_loaded_then_prefers_free_memory_then_the_longest_rest(world: World) {
    for (name, used_mb) in [("a", 8_000), ("b", 4_799), ("c", 4_001), ("d", 5_000)] {
        world.join(row_with(name, |row| row.sample.memory_used_mb = used_mb)).await;
    }
    assert_eq!(world.placed(&ask("t", "stranger")).await, "b", "b and c both use 5 %, and b comes first by id");
    assert_eq!(world.placed(&ask("u", "stranger")).await, "c");
    assert_eq!(world.placed(&ask("v", "stranger")).await, "d");
    assert_eq!(world.placed(&ask("w", "stranger")).await, "a");
    assert_eq!(world.placed(&ask("x", "stranger")).await, "b", "claimed before c");
}

pub async fn load_is_the_share_of_slots_not_their_number(world: World) {
    world.join(row_with("large", |row| row.slots = 8)).await;
    world.join(row_with("small", |row| row.slots = 2)).await;
    world.occupy("large", 3).await;
    world.occupy("small", 1).await;
    assert_eq!(world.placed(&ask("t", "small")).await, "large", "3 of 8 is less than 1 of 2");
}

pub async fn task_specific_prefers_the_loaded_model_then_the_tightest_fit(world: World) {
    let of = |name: &str, memory_mb: u64, major: u8, models: &[&str]| {
        row_with(name, |row| {
            row.gpu.memory_total_mb = memory_mb;
            row.gpu.compute_capability = ComputeCapability { major, minor: 0 };
            row.models = models.iter().map(|model| (*model).to_owned()).collect();
            row.slots = 8;
        })
    };
    world.join(of("a", 80_000, 9, &[])).await;
    world.join(of("b", 40_000, 8, &[])).await;
    world.join(of("c", 24_000, 9, &[])).await;
    world.join(of("d", 80_000, 9, &["a: model", "llama"])).await;
    world.join(of("e", 80_000, 8, &["llama"])).await;
    let mut n = 0;
    let mut wanting = |change: &dyn Fn(&mut ClaimRequest)| {
        n += 1;
        let mut request = by("task_specific", &format!("t{n}"), "a");
        change(&mut request);
        request
    };
    let llama = wanting(&|request| request.needs.model = Some("llama".to_owned()));
    assert_eq!(world.placed(&llama).await, "d", "loaded there");
    let llama = wanting(&|request| request.needs.model = Some("llama".to_owned()));
    assert_eq!(world.placed(&llama).await, "e", "loaded there, and idler");
    let unknown = wanting(&|request| request.needs.model = Some("gpt".to_owned()));
    assert_eq!(world.placed(&unknown).await, "a", "loaded nowhere: least loaded");
    let small = wanting(&|request| request.needs.memory_mb = Some(10_000));
    assert_eq!(world.placed(&small).await, "c", "the smallest that suffices");
    let middle = wanting(&|request| request.needs.memory_mb = Some(30_000));
    assert_eq!(world.placed(&middle).await, "b");
    let old = wanting(&|request| request.needs.compute_capability = Some(ComputeCapability { major: 7, minor: 5 }));
    assert_eq!(world.placed(&old).await, "e", "the lowest that suffices; b has it too, and was claimed later");
    let new = wanting(&|request| {
        request.needs.compute_capability = Some(ComputeCapability { major: 9, minor: 0 });
        request.needs.memory_mb = Some(60_000);
        request.needs.model = Some("a: model".to_owned());
    });
    assert_eq!(world.placed(&new).await, "d");
}

pub async fn a_strategy_that_cannot_be_used_falls_back_and_says_so(world: World) {
    let enabled = vec![Strategy::RoundRobin, Strategy::LeastLoaded];
    let initial = Settings { strategies: enabled, default_strategy: Strategy::RoundRobin, ..Settings::default() };
    world.table.settings(&pool(), &initial).await.expect("settings");
    let world = world.with_gpus(&["a"]).await;
    let fallen =
        |requested: &str, fallback| Choice { used: Strategy::RoundRobin, requested: Some(requested.to_owned()), fallback: Some(fallback) };
    let unknown = world.place(&by("the fastest, please", "t", "a")).await;
    assert_eq!(unknown.choice, fallen("the fastest, please", Fallback::Unknown));
    let disabled = world.place(&by("task_specific", "u", "a")).await;
    assert_eq!(disabled.choice, fallen("task_specific", Fallback::Disabled));
    world.give_back(&disabled).await;
    world.join(row("b")).await;
    let empty = world.place(&by("", "v", "a")).await;
    assert_eq!(empty.choice, fallen("", Fallback::Unknown));
    assert!(empty.offer.is_some(), "{empty:?}");
    assert_eq!(world.place(&by("", "v", "a")).await, empty, "the same again");
    let plain = Choice { used: Strategy::LeastLoaded, requested: None, fallback: None };
    assert_eq!(world.place(&by("least_loaded", "w", "a")).await.choice, plain);
}

pub async fn waiting_tasks_take_the_asking_gpu_whatever_its_load(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    let waiting = |task: &str| ask_with(task, "a", |request| request.mode = ClaimMode::TasksWaiting);
    assert!(is_own(&world.claim(&waiting("t")).await));
    assert!(is_own(&world.claim(&waiting("u")).await), "though b is idle");
    assert_eq!(world.placed(&waiting("v")).await, "b", "a is full");
    assert_eq!(world.placed(&waiting("w")).await, "b");
    assert_eq!(world.claim(&waiting("x")).await, full_here());
}

pub async fn a_gpu_that_may_not_take_tasks_is_never_chosen(world: World) {
    world.join(row_with("sick", |row| row.health = Health::Quarantined)).await;
    world.join(row_with("probing", |row| row.health = Health::Probation)).await;
    world.join(row_with("stopping", |row| row.stopping = true)).await;
    world.join(row_with("silent", |row| row.consuming = false)).await;
    world.join(row_with("full", |row| row.sample.memory_used_mb = 72_000)).await;
    world.join(row_with("foreign", |row| row.foreign_utilization_percent = 95.0)).await;
    world.join(row_with("suspect", |row| row.health = Health::Suspect)).await;
    world.join(row_with("busy", |row| row.sample.utilization_percent = 100.0)).await;
    for strategy in ["least_loaded", "round_robin", "task_specific"] {
        let mut given = Vec::new();
        for n in 0..4 {
            let placed = world.place(&by(strategy, &format!("t{n}"), "sick")).await;
            assert!(["suspect", "busy"].contains(&placed.gpu.as_str()), "{strategy}: {}", placed.gpu);
            given.push(placed);
        }
        for placed in given {
            world.give_back(&placed).await;
        }
    }
}

pub async fn a_gpu_without_the_memory_now_is_passed_over(world: World) {
    for n in 0..20 {
        world.join(row_with(&format!("crowded-{n:02}"), |row| row.sample.memory_used_mb = 40_000)).await;
    }
    world.join(row_with("roomy", |row| row.slots = 8)).await;
    world.occupy("roomy", 3).await;
    for strategy in ["least_loaded", "round_robin", "task_specific"] {
        let mut request = by(strategy, strategy, "crowded-00");
        request.needs.memory_mb = Some(32_001);
        assert_eq!(world.placed(&request).await, "roomy", "{strategy}");
    }
    let mut request = ask("large", "crowded-00");
    request.needs.memory_mb = Some(32_000);
    assert_eq!(world.placed(&request).await, "crowded-00", "just enough: up to the threshold, 72 of 80 GB");
}

pub async fn a_worker_without_a_slot_of_its_own_is_never_chosen_itself(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("b", 1).await;
    assert_eq!(world.placed(&ask_without_slot("t", "a")).await, "b", "though a is idle");
    assert_eq!(world.claim(&ask_without_slot("u", "a")).await, full_here());
    let waiting = ask_with("u", "a", |request| (request.has_slot, request.mode) = (false, ClaimMode::TasksWaiting));
    assert_eq!(world.claim(&waiting).await, full_here());
    let named = ask_with("u", "a", |request| (request.has_slot, request.specific_gpu_id) = (false, Some(gpu_id("a"))));
    assert_eq!(world.claim(&named).await, full_here());
    assert_eq!(world.placed(&ask("u", "a")).await, "a", "now it has one");
}

pub async fn a_task_that_fits_here_waits_here(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 2).await;
    world.occupy("b", 2).await;
    assert_eq!(world.claim(&ask("t", "a")).await, full_here());
}

pub async fn a_task_that_fits_only_elsewhere_is_sent_where_the_least_work_is(world: World) {
    let runs = |row: &mut protocol::GpuRow| row.kinds = vec!["predict".parse().expect("a kind")];
    let world = world.with_gpus(&["a"]).await;
    for name in ["b", "c", "d"] {
        world.join(row_with(name, runs)).await;
    }
    let predict = |task: &str, asker: &str| ask_with(task, asker, |request| request.kind = "predict".parse().expect("a kind"));
    for n in 0..6 {
        world.claim(&predict(&format!("t{n}"), "a")).await;
    }
    world
        .join(row_with("b", |row| {
            runs(row);
            row.waiting = 1
        }))
        .await;
    assert_eq!(world.claim(&predict("u", "a")).await, full_elsewhere("c"), "nobody waits there, and it was claimed before d");
    assert_eq!(world.claim(&predict("v", "a")).await, full_elsewhere("d"), "one was sent to c already");
    assert_eq!(world.claim(&predict("w", "a")).await, full_elsewhere("b"), "one waits or was sent everywhere: claimed longest ago");
    assert_eq!(world.claim(&predict("x", "a")).await, full_elsewhere("c"));
    world.join(row_with("d", runs)).await;
    assert_eq!(world.claim(&predict("y", "a")).await, full_elsewhere("d"), "its heartbeat says that nothing waits there now");
    world
        .join(row_with("d", |row| {
            runs(row);
            row.consuming = false
        }))
        .await;
    assert_eq!(world.claim(&predict("z", "a")).await, full_elsewhere("b"), "nothing waits where nobody consumes");
}

pub async fn a_task_that_fits_nowhere_is_unplaceable(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    let mut request = ask("t", "a");
    request.needs.memory_mb = Some(72_001);
    request.needs.compute_capability = Some(ComputeCapability { major: 8, minor: 6 });
    let wanted = "kind echo, 72001 MB of memory, compute capability 8.6".to_owned();
    assert_eq!(world.claim(&request).await, ClaimAnswer::Unplaceable(Unplaceable::NothingFits { wanted }));
    request.needs.memory_mb = Some(72_000);
    assert!(is_own(&world.claim(&request).await), "the threshold's share fits");
    let mut newer = ask("u", "a");
    newer.needs.compute_capability = Some(ComputeCapability { major: 10, minor: 0 });
    assert!(matches!(world.claim(&newer).await, ClaimAnswer::Unplaceable(_)));
    let mut unknown = ask("v", "a");
    unknown.kind = "ech".parse().expect("a kind");
    assert!(matches!(world.claim(&unknown).await, ClaimAnswer::Unplaceable(_)), "part of a kind's name is no kind");
}

/// A GPU that has loaded `llama` in a second, and on which a run takes so long.
fn with_llama(name: &str, run_ms: f64) -> protocol::GpuRow {
    row_with(name, |row| {
        row.models = vec!["llama".to_owned()];
        row.model_state.load_ms.insert("llama".to_owned(), 1_000.0);
        row.run_ms.insert("echo".parse().expect("a kind"), run_ms);
    })
}

fn for_llama(task: &str, asker: &str) -> ClaimRequest {
    ask_with(&task.replace(' ', "-"), asker, |request| {
        request.strategy = Some("task_specific".to_owned());
        request.needs.model = Some("llama".to_owned());
    })
}

pub async fn a_task_waits_for_its_model_where_a_cold_load_elsewhere_would_take_more_than_twice_as_long(world: World) {
    let world = world.with_gpus(&["a", "c"]).await;
    world.join(with_llama("b", 100.0)).await;
    assert_eq!(world.placed(&for_llama("free", "a")).await, "b", "it has a slot");
    world.occupy("b", 1).await;
    assert_eq!(world.claim(&for_llama("t", "a")).await, full_elsewhere("b"), "two tasks in two slots: 100 ms");
    assert_eq!(world.placed(&by("least_loaded", "u", "a")).await, "a", "other strategies know nothing of models");
    let other = ask_with("v", "c", |request| {
        request.strategy = Some("task_specific".to_owned());
        request.needs.model = Some("another".to_owned());
    });
    assert_eq!(world.placed(&other).await, "c", "it is loaded nowhere");
}

pub async fn a_task_does_not_wait_for_its_model_for_long_or_where_nothing_is_known(world: World) {
    let world = world.with_gpus(&["a"]).await;
    let busy = async |row: protocol::GpuRow| {
        let holding = world.holding(&row.incarnation, 0);
        world.beat(&gpu_table::Heartbeat { holding: protocol::Holding { slots: 2, ..holding }, ..super::world::heartbeat(row) }).await;
    };
    let placed = async |task: &str| {
        let placed = world.place(&for_llama(task, "a")).await;
        world.give_back(&placed).await;
        placed.gpu
    };
    busy(with_llama("b", 500.0)).await;
    assert_eq!(placed("half of the load").await, "a");
    busy(with_llama("b", 499.0)).await;
    assert_eq!(world.claim(&for_llama("less than half", "a")).await, full_elsewhere("b"));
    assert_eq!(placed("now one was sent there").await, "a", "three tasks in two slots");
    let mut unknown = with_llama("b", 1.0);
    unknown.run_ms.clear();
    busy(unknown).await;
    assert_eq!(placed("who knows how long a run takes").await, "a");
    let mut unknown = with_llama("b", 1.0);
    unknown.model_state.load_ms.clear();
    busy(unknown).await;
    assert_eq!(placed("who knows how long a load takes").await, "a");
    world.join(row_with("a", |row| _ = row.model_state.load_ms.insert("llama".to_owned(), 10.0))).await;
    assert_eq!(world.claim(&for_llama("the free one has loaded it before", "a")).await, full_elsewhere("b"));
    let mut crowded = with_llama("b", 0.001);
    crowded.waiting = 8;
    busy(crowded).await;
    assert_eq!(placed("eight wait there").await, "a");
    busy(row_with("b", |row| {
        *row = with_llama("b", 1.0);
        row.consuming = false;
    }))
    .await;
    assert_eq!(placed("nobody consumes there").await, "a");
}

pub async fn a_task_waits_here_where_the_asking_gpu_has_its_model(world: World) {
    let world = world.with_gpus(&["a"]).await;
    world.join(with_llama("b", 1.0)).await;
    world.occupy("b", 2).await;
    let mut request = for_llama("t", "b");
    request.has_slot = false;
    assert_eq!(world.claim(&request).await, full_here());
}
