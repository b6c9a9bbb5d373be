//! Where tensors are, as workers say it.

use gpu_table::{TENSORS_TOLD_MAX, TableError, VersionDraw, VersionWanted};
use protocol::{DType, DataPort, PoolName, TensorName, TensorPlace, TensorRecord, TensorShape};

use super::world::{HELD_SECONDS, World, gpu_id, incarnation, pool, row, row_with};

/// How long a copy is remembered.
const LIVES_SECONDS: u64 = 24 * 3_600;
/// The same where its GPU has no row.
const LIVES_GONE_SECONDS: u64 = 10 * HELD_SECONDS;

pub fn tensor_name(name: &str) -> TensorName {
    TensorName::new(name).expect("a good name")
}

/// A copy that this GPU has of this version.
pub fn copy(name: &str, version: u64, gpu: &str) -> TensorRecord {
    TensorRecord {
        name: tensor_name(name),
        version,
        shape: TensorShape { dtype: DType::F32, shape: vec![2, 3] },
        bytes: 24,
        owner: "the task \"ü\"".to_owned(),
        made_ms: 1_700_000_000_000,
        last_used_ms: 1_700_000_000_001,
        ttl_ms: u64::MAX,
        gpu_id: gpu_id(gpu),
        incarnation: incarnation(gpu),
        place: TensorPlace::Gpu,
        port: Some(DataPort { address: Some("host:7".to_owned()), socket: None, system: "s".to_owned(), key: "k\n".to_owned() }),
    }
}

/// The same of this GPU after it was started again.
fn of_next_start(record: TensorRecord) -> TensorRecord {
    TensorRecord { incarnation: incarnation("again"), ..record }
}

async fn restart(world: &World, gpu: &str) {
    world.join(row_with(gpu, |row| row.incarnation = incarnation("again"))).await;
}

async fn announce(world: &World, records: &[TensorRecord]) {
    world.table.announce_tensors(&pool(), records).await.expect("told");
}

async fn withdraw(world: &World, gpu: &str, copies: &[(&str, u64)]) {
    let copies: Vec<(TensorName, u64)> = copies.iter().map(|(name, version)| (tensor_name(name), *version)).collect();
    world.table.withdraw_tensors(&pool(), &gpu_id(gpu), &incarnation(gpu), &copies).await.expect("told");
}

async fn find(world: &World, names: &[&str]) -> Vec<TensorRecord> {
    let names: Vec<TensorName> = names.iter().map(|name| tensor_name(name)).collect();
    world.table.find_tensors(&pool(), &names).await.expect("an answer")
}

/// What is found, as `name version gpu`.
async fn found(world: &World, names: &[&str]) -> Vec<String> {
    shown(&find(world, names).await)
}

async fn listed(world: &World, after: &str, names_max: usize) -> Vec<String> {
    let after = TensorName::new(after).ok();
    shown(&world.table.tensors(&pool(), after.as_ref(), names_max).await.expect("a list"))
}

fn shown(records: &[TensorRecord]) -> Vec<String> {
    records.iter().map(|record| format!("{} {} {}", record.name, record.version, record.gpu_id)).collect()
}

pub async fn an_announced_tensor_is_found_as_it_was_told(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    assert!(find(&world, &["x", "y"]).await.is_empty());
    announce(&world, &[]).await;
    withdraw(&world, "a", &[]).await;
    assert!(find(&world, &[]).await.is_empty());
    let bare = TensorRecord { port: None, place: TensorPlace::Host, ..copy("x", 3, "a") };
    let told = [bare, copy("x", 3, "b"), copy("y", u64::MAX, "a")];
    for _ in 0..2 {
        announce(&world, &[told[2].clone(), told[1].clone(), told[0].clone()]).await;
        assert_eq!(find(&world, &["y", "z", "x", "x"]).await, told);
    }
    assert_eq!(found(&world, &["y"]).await, [format!("y {} a", u64::MAX)]);
}

pub async fn a_tensor_is_found_as_long_as_its_gpu_lives_under_the_same_incarnation(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    announce(&world, &[copy("x", 1, "a"), copy("x", 1, "b"), copy("x", 1, "stranger")]).await;
    assert_eq!(found(&world, &["x"]).await, ["x 1 a", "x 1 b"]);
    restart(&world, "a").await;
    assert_eq!(found(&world, &["x"]).await, ["x 1 b"]);
    announce(&world, &[copy("x", 2, "a")]).await;
    assert_eq!(found(&world, &["x"]).await, ["x 1 b"], "the one before is heard no more");
    announce(&world, &[of_next_start(copy("x", 1, "a"))]).await;
    assert_eq!(found(&world, &["x"]).await, ["x 1 a", "x 1 b"]);
    withdraw(&world, "a", &[("x", 9)]).await;
    announce(&world, &[copy("x", 9, "a")]).await;
    assert_eq!(found(&world, &["x"]).await, ["x 1 a", "x 1 b"], "the one before takes nothing away, and replaces nothing");
    world.table.leave(&pool(), &gpu_id("b"), &incarnation("b")).await.expect("it leaves");
    assert_eq!(found(&world, &["x"]).await, ["x 1 a"]);
}

pub async fn the_tensors_of_a_row_that_lapsed_count_again_with_its_next_heartbeat(world: World) {
    let world = world.with_gpus(&["a"]).await;
    announce(&world, &[copy("x", 1, "a")]).await;
    world.pass(HELD_SECONDS);
    assert!(find(&world, &["x"]).await.is_empty());
    assert!(listed(&world, "", 9).await.is_empty());
    world.join(row("a")).await;
    assert_eq!(found(&world, &["x"]).await, ["x 1 a"]);
    world.pass(LIVES_GONE_SECONDS);
    assert!(find(&world, &["x"]).await.is_empty());
    world.join(row("a")).await;
    assert!(find(&world, &["x"]).await.is_empty(), "it was gone for too long");
    announce(&world, &[copy("x", 1, "a")]).await;
    assert_eq!(found(&world, &["x"]).await, ["x 1 a"]);
}

pub async fn a_tensor_that_nobody_tells_again_for_a_day_is_forgotten(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    announce(&world, &[copy("x", 1, "a"), copy("x", 1, "b"), copy("y", 1, "a")]).await;
    world.pass(LIVES_SECONDS - 100);
    world.join(row("a")).await;
    world.join(row("b")).await;
    announce(&world, &[copy("x", 1, "b")]).await;
    assert_eq!(found(&world, &["x", "y"]).await, ["x 1 a", "x 1 b", "y 1 a"]);
    world.pass(200);
    assert_eq!(found(&world, &["x", "y"]).await, ["x 1 b"]);
    assert_eq!(listed(&world, "", 9).await, ["x 1 b"]);
}

pub async fn a_newer_version_replaces_an_older_one_and_no_late_one_replaces_it(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    // Neither in the order of text nor within what a double holds exactly.
    for version in [9, 10, (1 << 53) + 1, (1 << 53) + 2] {
        announce(&world, &[copy("x", version, "a")]).await;
        assert_eq!(found(&world, &["x"]).await, [format!("x {version} a")]);
    }
    announce(&world, &[copy("x", (1 << 53) + 1, "a"), copy("x", 10, "a"), copy("x", 10, "b")]).await;
    assert_eq!(found(&world, &["x"]).await, ["x 10 b".to_owned(), format!("x {} a", (1_u64 << 53) + 2)], "each GPU has its own");
    let used = TensorRecord { last_used_ms: 1_800_000_000_000, ..copy("x", 10, "b") };
    announce(&world, std::slice::from_ref(&used)).await;
    assert_eq!(find(&world, &["x"]).await[0], used, "the same version, told anew");
}

pub async fn a_withdrawn_tensor_is_gone_and_a_newer_version_stays(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    announce(&world, &[copy("x", 9, "a"), copy("x", 9, "b"), copy("y", 10, "a"), copy("z", 1, "a")]).await;
    for _ in 0..2 {
        withdraw(&world, "a", &[("x", 9), ("y", 9), ("z", 2), ("never-told", 1)]).await;
        assert_eq!(found(&world, &["x", "y", "z"]).await, ["x 9 b", "y 10 a"]);
        assert_eq!(listed(&world, "", 9).await, ["x 9 b", "y 10 a"]);
    }
    announce(&world, &[copy("z", 1, "a")]).await;
    assert_eq!(found(&world, &["z"]).await, ["z 1 a"], "it can be told again");
}

pub async fn tensors_are_listed_by_name_in_pages(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    announce(&world, &["b", "a.10", "a.9", "B", "a:1"].map(|name| copy(name, 1, "a"))).await;
    announce(&world, &[copy("b", 2, "b"), copy("a.10", 1, "b")]).await;
    let all = ["B 1 a", "a.10 1 a", "a.10 1 b", "a.9 1 a", "a:1 1 a", "b 1 a", "b 2 b"];
    assert_eq!(listed(&world, "", 9).await, all, "in the order of their bytes");
    assert_eq!(listed(&world, "", 2).await, all[..3], "two names");
    assert_eq!(listed(&world, "a.10", 2).await, all[3..5]);
    assert_eq!(listed(&world, "a.8", 1).await, all[3..4], "a name that there is none of");
    assert_eq!(listed(&world, "b", 9).await, Vec::<String>::new());
    assert_eq!(listed(&world, "", 0).await, Vec::<String>::new());
}

pub async fn a_list_passes_over_many_names_whose_gpus_are_gone(world: World) {
    let world = world.with_gpus(&["a", "gone"]).await;
    for hundred in 0..12 {
        let records: Vec<TensorRecord> = (0..TENSORS_TOLD_MAX).map(|n| copy(&format!("k{hundred:02}{n:02}"), 1, "gone")).collect();
        announce(&world, &records).await;
    }
    announce(&world, &[copy("a", 1, "a"), copy("k0500", 1, "a"), copy("z", 1, "a")]).await;
    assert_eq!(listed(&world, "", 2_000).await.len(), 1_203);
    restart(&world, "gone").await;
    for _ in 0..2 {
        assert_eq!(listed(&world, "", 3).await, ["a 1 a", "k0500 1 a", "z 1 a"]);
        assert_eq!(listed(&world, "k0499", 1).await, ["k0500 1 a"]);
    }
}

pub async fn tensors_of_one_pool_are_of_no_concern_to_another(world: World) {
    let world = world.with_gpus(&["a"]).await;
    announce(&world, &[copy("x", 1, "a")]).await;
    let other: PoolName = "other".parse().expect("a pool");
    world.join(row_with("a", |row| row.pool.clone_from(&other))).await;
    assert!(world.table.find_tensors(&other, &[tensor_name("x")]).await.expect("an answer").is_empty());
    assert!(world.table.tensors(&other, None, 9).await.expect("a list").is_empty());
    let copies = [(tensor_name("x"), 1)];
    world.table.withdraw_tensors(&other, &gpu_id("a"), &incarnation("a"), &copies).await.expect("nothing to withdraw");
    assert_eq!(found(&world, &["x"]).await, ["x 1 a"]);
}

pub async fn tensors_come_back_to_a_table_that_was_emptied(world: World) {
    let world = world.with_gpus(&["a"]).await;
    announce(&world, &[copy("x", 1, "a")]).await;
    world.forget().await;
    assert!(find(&world, &["x"]).await.is_empty() && listed(&world, "", 9).await.is_empty());
    announce(&world, &[copy("x", 1, "a")]).await;
    assert!(find(&world, &["x"]).await.is_empty(), "nobody lives yet");
    world.join(row("a")).await;
    assert_eq!(found(&world, &["x"]).await, ["x 1 a"], "what was told before counts with the heartbeat");
}

pub async fn names_of_tensors_are_bounded_and_only_those_that_are_gone_make_room(world: World) {
    let world = world.with_gpus(&["a", "gone"]).await;
    world.bound_tensor_names(20);
    let is_refused = async |record: TensorRecord| match world.table.announce_tensors(&pool(), &[record]).await {
        Ok(()) => false,
        Err(TableError::TooManyTensors { refused, names_max }) => refused == 1 && names_max == 20,
        Err(other) => panic!("{other}"),
    };
    announce(&world, &[copy("first", 1, "gone")]).await;
    world.pass(1);
    let records: Vec<TensorRecord> = (1..20).map(|n| copy(&format!("k{n}"), 1, "a")).collect();
    announce(&world, &records).await;
    assert!(is_refused(copy("one-more", 1, "a")).await);
    assert!(!is_refused(copy("k5", 2, "a")).await, "the pool has that name");
    let both = world.table.announce_tensors(&pool(), &[copy("one-more", 1, "a"), copy("k7", 3, "a")]).await.expect_err("one too many");
    assert!(!both.is_transient() && both.to_string().contains("1 of them are not known"), "{both}");
    assert_eq!(found(&world, &["one-more", "k5", "k7"]).await, ["k5 2 a", "k7 3 a"]);
    restart(&world, "gone").await;
    assert!(!is_refused(copy("one-more", 1, "a")).await, "the first one is gone");
    assert!(is_refused(copy("another", 1, "a")).await);
    withdraw(&world, "a", &[("k9", 1)]).await;
    assert!(!is_refused(copy("another", 1, "a")).await);
}

/// The version that is drawn for a tensor of this name by this owner.
async fn drawn(world: &World, name: &str, owner: &str, wanted: VersionWanted) -> u64 {
    let draw = VersionDraw { name: tensor_name(name), owner: owner.to_owned(), wanted };
    world.table.draw_tensor_version(&pool(), &draw).await.expect("a version")
}

pub async fn a_version_is_drawn_above_the_latest_of_its_name_whatever_the_clocks_say(world: World) {
    use VersionWanted::{Time, Token};
    let world = world.with_gpus(&["a"]).await;
    assert_eq!(drawn(&world, "x", "put", Time(5_000)).await, 5_000, "the first has what it wants");
    assert_eq!(drawn(&world, "x", "put", Time(4_000)).await, 5_001, "of a clock that is behind");
    assert_eq!(drawn(&world, "x", "task", Token(4_500)).await, 5_002, "an output after a put by a clock that is ahead");
    assert_eq!(drawn(&world, "x", "task", Token(4_500)).await, 5_002, "asked again");
    assert_eq!(drawn(&world, "x", "task", Token(4_400)).await, 4_400, "a late holder stays behind");
    assert_eq!(drawn(&world, "x", "task", Token(4_600)).await, 5_003, "its next attempt");
    assert_eq!(drawn(&world, "x", "task", Token(9_000)).await, 9_000);
    assert_eq!(drawn(&world, "y", "put", Time(1)).await, 1, "each name has its own");
    // What living GPUs have counts, too: neither in the order of text nor within what a double holds exactly.
    for (version, next) in [(9_999, 10_000), ((1 << 53) + 1, (1 << 53) + 2), (u64::MAX, u64::MAX)] {
        announce(&world, &[copy("z", version, "a")]).await;
        assert_eq!(drawn(&world, "z", "put", Time(1)).await, next);
    }
}

pub async fn a_draw_is_remembered_for_ten_leases_and_then_the_copies_stand_for_it(world: World) {
    use VersionWanted::{Time, Token};
    let world = world.with_gpus(&["a"]).await;
    let owner = copy("x", 1, "a").owner;
    assert_eq!(drawn(&world, "x", &owner, Token(70)).await, 70);
    world.pass(LIVES_GONE_SECONDS);
    world.join(row("a")).await;
    assert_eq!(drawn(&world, "x", &owner, Token(60)).await, 60, "nobody knows of it any more");
    announce(&world, &[copy("x", 80, "a")]).await;
    world.pass(LIVES_GONE_SECONDS);
    world.join(row("a")).await;
    assert_eq!(drawn(&world, "x", &owner, Token(75)).await, 75, "a late holder of who made the latest");
    assert_eq!(drawn(&world, "x", "another", Token(75)).await, 81);
    assert_eq!(drawn(&world, "x", "put", Time(1)).await, 82);
}
