//! What kinds do, as workers say it.

use gpu_table::DESCRIPTIONS_MAX;
use protocol::{DescribedKind, Json, KindDescription};

use super::world::{HELD_SECONDS, World, pool};

/// How long a description lives.
const LIVES_SECONDS: u64 = 10 * HELD_SECONDS;

fn description(kind: &str, about: &str) -> KindDescription {
    // Its text is nobody's to change.
    let schema = Json::parse(r#"{"type": "object", "properties": {"n": {"minimum": 1.50}, "ü": {}}}"#).expect("JSON");
    KindDescription { kind: kind.parse().expect("a kind"), about: about.to_owned(), schema: Some(schema), batch_largest: Some(32) }
}

fn bare(kind: &str) -> KindDescription {
    KindDescription { about: String::new(), schema: None, batch_largest: None, ..description(kind, "") }
}

async fn describe(world: &World, kinds: &[KindDescription]) {
    world.table.describe_kinds(&pool(), kinds).await.expect("told");
}

async fn kinds(world: &World) -> Vec<DescribedKind> {
    world.table.kinds(&pool()).await.expect("a list")
}

/// Each kind with its sentence, and whether there are other versions.
async fn shown(world: &World) -> Vec<(String, String, bool)> {
    let of = |kind: DescribedKind| (kind.description.kind.to_string(), kind.description.about, kind.differs);
    kinds(world).await.into_iter().map(of).collect()
}

fn is(kind: &str, about: &str, differs: bool) -> (String, String, bool) {
    (kind.to_owned(), about.to_owned(), differs)
}

pub async fn what_kinds_do_is_kept_as_it_was_told(world: World) {
    assert!(kinds(&world).await.is_empty());
    describe(&world, &[]).await;
    let told = [bare("echo"), description("embed", "vectors of texts")];
    for _ in 0..2 {
        describe(&world, &[told[1].clone(), told[0].clone()]).await;
        let expected = told.clone().map(|description| DescribedKind { description, differs: false });
        assert_eq!(kinds(&world).await, expected);
    }
}

pub async fn a_description_lives_for_ten_leases_after_it_was_last_told(world: World) {
    describe(&world, &[bare("echo"), description("embed", "a")]).await;
    world.pass(LIVES_SECONDS - 100);
    describe(&world, &[bare("echo")]).await;
    assert_eq!(shown(&world).await, [is("echo", "", false), is("embed", "a", false)]);
    world.pass(200);
    assert_eq!(shown(&world).await, [is("echo", "", false)]);
    // One worker tells what the table has and what it has not.
    describe(&world, &[description("embed", "a"), bare("echo"), description("predict", "b")]).await;
    assert_eq!(shown(&world).await, [is("echo", "", false), is("embed", "a", false), is("predict", "b", false)]);
    world.pass(LIVES_SECONDS);
    assert!(shown(&world).await.is_empty());
}

pub async fn of_several_versions_the_newest_is_shown_and_that_they_differ(world: World) {
    describe(&world, &[description("embed", "old")]).await;
    world.pass(60);
    describe(&world, &[description("embed", "new")]).await;
    assert_eq!(shown(&world).await, [is("embed", "new", true)]);
    world.pass(60);
    describe(&world, &[description("embed", "old")]).await;
    assert_eq!(shown(&world).await, [is("embed", "new", true)], "whoever told last");
    // The old workers are gone.
    world.pass(LIVES_SECONDS - 120);
    describe(&world, &[description("embed", "new")]).await;
    world.pass(240);
    assert_eq!(shown(&world).await, [is("embed", "new", false)]);
}

pub async fn descriptions_are_bounded_and_the_one_told_longest_ago_goes(world: World) {
    let all: Vec<KindDescription> = (0..DESCRIPTIONS_MAX).map(|n| bare(&format!("k{n:03}"))).collect();
    describe(&world, &all).await;
    world.pass(60);
    describe(&world, &all[..1]).await;
    describe(&world, &all[2..]).await;
    describe(&world, &[bare("one-more")]).await;
    let kinds = shown(&world).await;
    assert_eq!(kinds.len(), DESCRIPTIONS_MAX);
    let has = |kind: &str| kinds.contains(&is(kind, "", false));
    assert_eq!((has("k000"), has("k001"), has("k002"), has("one-more")), (true, false, true, true));
}

pub async fn what_kinds_do_in_one_pool_is_of_no_concern_to_another(world: World) {
    describe(&world, &[bare("echo")]).await;
    let other = "other".parse().expect("a pool");
    assert!(world.table.kinds(&other).await.expect("a list").is_empty());
}

pub async fn descriptions_come_back_to_a_table_that_was_emptied(world: World) {
    describe(&world, &[description("embed", "a")]).await;
    world.forget().await;
    assert!(shown(&world).await.is_empty());
    describe(&world, &[description("embed", "a")]).await;
    assert_eq!(shown(&world).await, [is("embed", "a", false)]);
}
