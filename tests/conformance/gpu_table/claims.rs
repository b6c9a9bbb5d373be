//! The life of a claim: offered, held, renewed, handed over, released, lapsed.

use protocol::{ClaimAnswer, ClaimMode, DeliveryId};

use super::world::{
    HELD_SECONDS, OFFERED_SECONDS, World, ask, ask_with, claim_of, full_here, heartbeat, here, is_own, pool, row, row_with,
};

pub async fn a_claim_for_the_asking_gpu_is_held_at_once(world: World) {
    let world = world.with_gpus(&["a"]).await;
    let answer = world.claim(&ask("t", "a")).await;
    assert!(is_own(&answer), "{answer:?}");
    let claim = claim_of(answer);
    assert_eq!((claim.gpu_id.as_str(), claim.attempt, claim.pool.clone()), ("a", 1, pool()));
    world.beat(&heartbeat(row("a"), &[])).await;
    world.pass(OFFERED_SECONDS + 100).await;
    assert!(world.release(&claim).await, "it outlives an offer's lease");
}

pub async fn a_claim_for_another_gpu_is_offered_until_that_gpu_takes_it_up(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 1).await;
    let request = ask_with("t", "a", |request| request.strategy = Some("fastest".to_owned()));
    let ClaimAnswer::Other(offer) = world.claim(&request).await else { panic!("a is busy") };
    assert_eq!(offer.gpu_id.as_str(), "b");
    let arrival = ask_with("t", "b", |request| {
        request.mode = ClaimMode::Here;
        request.delivery = DeliveryId(77);
    });
    assert_eq!(world.claim(&arrival).await, ClaimAnswer::Own(offer.clone()), "the same token, the same choice");
    assert_eq!(world.claim(&arrival).await, ClaimAnswer::Own(offer.clone()), "asked again");
    assert!(matches!(world.claim(&request).await, ClaimAnswer::Held { .. }), "it is b's now");
    world.pass(OFFERED_SECONDS + 100).await;
    assert!(world.release(&offer).await, "it outlives an offer's lease");
}

pub async fn an_offer_lapses_if_nobody_takes_it_up(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 2).await;
    let offer = claim_of(world.claim(&ask("t", "a")).await);
    world.occupy("b", 1).await;
    assert_eq!(world.claim(&here("u", "b")).await, full_here(), "an offer takes a slot");
    world.pass(OFFERED_SECONDS + 50).await;
    assert!(is_own(&world.claim(&here("u", "b")).await), "the slot is free again");
    assert!(!world.release(&offer).await);
}

pub async fn asking_again_for_the_same_delivery_gives_the_same_answer(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    let own = world.claim(&ask("t", "a")).await;
    assert_eq!(world.claim(&ask("t", "a")).await, own);
    world.occupy("a", 1).await;
    let other = world.claim(&ask("u", "a")).await;
    assert!(matches!(other, ClaimAnswer::Other(_)), "{other:?}");
    assert_eq!(world.claim(&ask("u", "a")).await, other);
    let rows = world.table.rows(&pool()).await.expect("rows");
    assert_eq!(rows.iter().map(|view| view.held).collect::<Vec<_>>(), [2, 1], "nothing was claimed twice");
}

pub async fn another_delivery_or_attempt_of_a_claimed_task_is_told_how_long_it_is_held(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.claim(&ask("t", "a")).await;
    let others = [
        ask("t", "b"),
        here("t", "b"),
        ask_with("t", "a", |request| request.delivery = DeliveryId(2)),
        ask_with("t", "a", |request| request.attempt = 2),
        ask_with("t", "a", |request| request.incarnation = super::world::incarnation("later")),
    ];
    for request in others {
        let ClaimAnswer::Held { for_ms } = world.claim(&request).await else { panic!("{request:?} got through") };
        assert!(for_ms > (HELD_SECONDS - 100) * 1_000 && for_ms <= HELD_SECONDS * 1_000, "{for_ms}");
    }
}

pub async fn a_held_claim_lives_as_long_as_it_is_renewed(world: World) {
    let world = world.with_gpus(&["a"]).await;
    let claim = claim_of(world.claim(&ask("t", "a")).await);
    for _ in 0..5 {
        world.pass(HELD_SECONDS - 200).await;
        let beat = world.beat(&heartbeat(row("a"), &[&claim])).await;
        assert!(beat.lost.is_empty());
    }
    world.beat(&heartbeat(row("a"), &[])).await;
    world.pass(HELD_SECONDS - 200).await;
    world.join(row("a")).await;
    assert!(world.table.renew(&pool(), &claim.task_id, claim.token).await.expect("an answer"), "renewed by name");
    world.pass(HELD_SECONDS - 200).await;
    assert!(world.release(&claim).await);
}

pub async fn a_lapsed_claim_is_not_resurrected_by_a_renewal(world: World) {
    let world = world.with_gpus(&["a"]).await;
    let claim = claim_of(world.claim(&ask("t", "a")).await);
    world.pass(400).await;
    world.join(row("a")).await;
    world.pass(400).await;
    assert!(!world.table.renew(&pool(), &claim.task_id, claim.token).await.expect("an answer"));
    assert!(!world.release(&claim).await, "lapsed, though its row lives");
}

pub async fn renewing_never_shortens_a_lease_and_never_extends_an_offer(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 1).await;
    let offer = claim_of(world.claim(&ask("t", "a")).await);
    assert!(!world.table.renew(&pool(), &offer.task_id, offer.token).await.expect("an answer"));
    world.beat(&heartbeat(row("b"), &[&offer])).await;
    world.pass(OFFERED_SECONDS + 50).await;
    assert!(!world.release(&offer).await, "an offer is taken up or lapses");
}

pub async fn a_claim_is_released_once(world: World) {
    let world = world.with_gpus(&["a"]).await;
    let claim = claim_of(world.claim(&ask("t", "a")).await);
    assert!(world.release(&claim).await);
    assert!(!world.release(&claim).await, "the second time is no error and no release");
    assert!(is_own(&world.claim(&ask("t", "a")).await));
}

pub async fn a_late_holder_is_refused_by_its_token(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    let late = claim_of(world.claim(&ask("t", "a")).await);
    world.pass(HELD_SECONDS + 50).await;
    world.join(row("b")).await;
    let new = claim_of(world.claim(&here("t", "b")).await);
    assert!(new.token > late.token);
    assert!(!world.release(&late).await);
    assert!(!world.table.renew(&pool(), &late.task_id, late.token).await.expect("an answer"));
    let beat = world.beat(&heartbeat(row("a"), &[&late])).await;
    assert_eq!(beat.lost, std::slice::from_ref(&late.task_id));
    assert!(world.release(&new).await, "the new holder is untouched");
}

pub async fn handing_over_gives_the_slot_to_no_one_else(world: World) {
    let world = world.with_gpus(&["a"]).await;
    let done = world.occupy("a", 2).await.remove(0);
    assert_eq!(world.claim(&here("next", "a")).await, full_here());
    let answer = world.table.hand_over(&done, &here("next", "a")).await.expect("an answer");
    assert!(is_own(&answer), "{answer:?}");
    assert!(!world.release(&done).await, "gone with the hand-over");
    assert_eq!(world.table.hand_over(&done, &here("next", "a")).await.expect("an answer"), answer, "repeated");
    let full = world.table.hand_over(&done, &here("one-more", "a")).await.expect("an answer");
    assert_eq!(full, full_here(), "a claim that is gone already frees nothing");
}

pub async fn two_hundred_claims_at_once_never_exceed_the_slots(world: World) {
    let world = world;
    for name in ["a", "b", "c", "d", "e"] {
        world.join(row_with(name, |row| row.slots = 7)).await;
    }
    let names = ["a", "b", "c", "d", "e"];
    let modes = [ClaimMode::Choose, ClaimMode::TasksWaiting, ClaimMode::Here];
    let requests = (0..200).map(|n| ask_with(&format!("t{n}"), names[n % 5], |request| request.mode = modes[n % 3]));
    let requests: Vec<_> = requests.collect();
    let answers = futures::future::join_all(requests.iter().map(|request| world.claim(request))).await;
    let placed = answers.iter().filter(|answer| matches!(answer, ClaimAnswer::Own(_) | ClaimAnswer::Other(_))).count();
    assert_eq!(placed, 35, "every slot, and none twice");
    for view in world.table.rows(&pool()).await.expect("rows") {
        assert_eq!(view.held, 7, "{}", view.row.gpu.gpu_id);
    }
}

pub async fn tokens_grow(world: World) {
    let world = world.with_gpus(&["a"]).await;
    let mut last = 0;
    for n in 0..20 {
        let claim = claim_of(world.claim(&ask(&format!("t{n}"), "a")).await);
        assert!(claim.token.0 > last);
        last = claim.token.0;
        world.release(&claim).await;
    }
}
