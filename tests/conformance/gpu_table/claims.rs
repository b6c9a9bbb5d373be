//! The life of what the table counts: slots that workers tell, and offers of other GPUs' slots.

use protocol::{ClaimAnswer, ClaimMode, GpuId, Holding};

use super::world::{
    OFFERED_SECONDS, World, ask, ask_with, ask_without_slot, full_here, gpu_id, incarnation, is_own, pool, row, row_with, task_id, telling,
};

/// How many slots of `a` and of `b` are held or offered.
async fn held(world: &World) -> [u32; 2] {
    [world.held("a").await, world.held("b").await]
}

pub async fn a_claim_for_the_asking_gpu_is_counted_at_once(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    assert!(is_own(&world.claim(&ask("t", "a")).await));
    assert_eq!(held(&world).await, [1, 0]);
    world.pass(OFFERED_SECONDS + 100);
    assert_eq!(held(&world).await, [1, 0], "it is no offer, and does not lapse");
    world.tell("a", -1, &[]).await;
    assert_eq!(held(&world).await, [0, 0], "until its worker tells that the slot is free");
}

pub async fn a_claim_for_another_gpu_is_offered_until_it_is_taken(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 1).await;
    let request = ask_with("t", "a", |request| request.strategy = Some("fastest".to_owned()));
    let offer = world.offer(&request).await;
    assert_eq!((offer.gpu_id.as_str(), offer.task_id.clone(), offer.pool.clone()), ("b", task_id("t"), pool()));
    assert_eq!(held(&world).await, [1, 1], "the slot that a had for the task counts as free");
    world.tell("b", 1, &["t"]).await;
    assert_eq!(held(&world).await, [1, 1], "counted once: held now, not offered");
    world.pass(OFFERED_SECONDS + 100);
    assert_eq!(held(&world).await, [1, 1], "it outlives the offer");
    world.tell("b", -1, &["t"]).await;
    assert_eq!(held(&world).await, [1, 0], "told again that it was taken: nothing is left to end");
}

pub async fn an_offer_ends_with_a_heartbeat_that_says_it_is_taken(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 1).await;
    world.offer(&ask("t", "a")).await;
    let mut heartbeat = world.heartbeat(row("b"));
    heartbeat.holding = world.holding(&incarnation("b"), 1);
    world.beat(&heartbeat).await;
    assert_eq!(world.held("b").await, 2, "not said yet: counted as held and as offered");
    heartbeat.taken = vec![task_id("t"), task_id("never-offered")];
    world.beat(&heartbeat).await;
    assert_eq!(world.held("b").await, 1);
}

pub async fn an_offer_is_ended_by_its_own_gpu_only(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 1).await;
    world.offer(&ask("t", "a")).await;
    world.tell("a", 0, &["t"]).await;
    world.beat(&gpu_table::Heartbeat { taken: vec![task_id("t")], ..world.heartbeat(row("a")) }).await;
    assert_eq!(held(&world).await, [1, 1]);
}

pub async fn an_offer_lapses_if_nobody_takes_it(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 2).await;
    let offer = world.offer(&ask_without_slot("t", "a")).await;
    world.occupy("b", 1).await;
    assert_eq!(world.claim(&ask_without_slot("u", "a")).await, full_here(), "an offer takes a slot");
    world.pass(OFFERED_SECONDS + 50);
    assert_eq!(held(&world).await, [2, 1]);
    assert_eq!(world.placed(&ask_without_slot("u", "a")).await, "b", "the slot is free again");
    world.withdraw(&offer).await;
    assert_eq!(held(&world).await, [2, 2], "a lapsed offer cannot be withdrawn");
}

pub async fn a_withdrawn_offer_frees_its_slot_at_once(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 2).await;
    world.occupy("b", 1).await;
    let offer = world.offer(&ask_without_slot("t", "a")).await;
    assert_eq!(world.claim(&ask_without_slot("u", "a")).await, full_here());
    world.withdraw(&offer).await;
    assert_eq!(world.placed(&ask_without_slot("u", "a")).await, "b");
    world.withdraw(&offer).await;
    assert_eq!(held(&world).await, [2, 2], "withdrawing twice does nothing");
}

pub async fn a_taken_offer_cannot_be_withdrawn(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 1).await;
    let offer = world.offer(&ask("t", "a")).await;
    world.tell("b", 1, &["t"]).await;
    world.withdraw(&offer).await;
    assert_eq!(held(&world).await, [1, 1]);
}

pub async fn an_offered_task_gets_the_same_offer_whoever_asks(world: World) {
    let world = world.with_gpus(&["a", "b", "c"]).await;
    world.occupy("a", 1).await;
    let request = ask_with("t", "a", |request| request.strategy = Some("fastest".to_owned()));
    let offer = world.offer(&request).await;
    let plain = ask_with("t", "c", |request| request.specific_gpu_id = Some(gpu_id("c")));
    for again in [&request, &plain, &ask_without_slot("t", "a"), &ask("t", "stranger")] {
        assert_eq!(world.claim(again).await, ClaimAnswer::Other(offer.clone()));
    }
    assert_eq!((held(&world).await, world.held("c").await), ([1, 1], 0), "offered once, and nobody else holds a slot for it");
}

pub async fn the_gpu_that_a_slot_is_offered_to_takes_it_by_asking(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 1).await;
    world.occupy("b", 1).await;
    let request =
        ask_with("t", "a", |request| (request.specific_gpu_id, request.strategy) = (Some(gpu_id("b")), Some("fastest".to_owned())));
    let offer = world.offer(&request).await;
    assert_eq!(world.claim(&ask("t", "b")).await, ClaimAnswer::Own(offer.choice), "with the choice that made the offer");
    assert_eq!(held(&world).await, [1, 2], "its slot is counted once");
    world.tell("b", -1, &[]).await;
    assert_eq!(held(&world).await, [1, 1], "and the offer is gone");
}

pub async fn an_offer_whose_delivery_waits_for_a_slot_is_over(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 2).await;
    let offer = world.offer(&ask_without_slot("t", "a")).await;
    world.occupy("b", 2).await;
    assert_eq!(world.held("b").await, 3);
    assert_eq!(world.claim(&ask_without_slot("t", offer.gpu_id.as_str())).await, full_here());
    assert_eq!(world.held("b").await, 2, "it has arrived: nothing is on its way");
}

pub async fn telling_again_changes_nothing(world: World) {
    let world = world.with_gpus(&["a"]).await;
    let telling = telling("a", Holding { slots: 2, number: 40 }, &[]);
    for _ in 0..3 {
        world.send_telling(&telling).await;
        assert_eq!(world.held("a").await, 2);
    }
}

pub async fn what_arrives_late_changes_nothing(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.send_telling(&telling("a", Holding { slots: 2, number: 40 }, &[])).await;
    world.send_telling(&telling("a", Holding { slots: 0, number: 39 }, &[])).await;
    assert_eq!(world.held("a").await, 2, "a telling");
    world.beat(&gpu_table::Heartbeat { holding: Holding { slots: 1, number: 39 }, ..world.heartbeat(row("a")) }).await;
    assert_eq!(world.held("a").await, 2, "a heartbeat");
    let late = |request: &mut protocol::ClaimRequest| request.holding = Holding { slots: 1, number: 39 };
    let answer = world.send(&ask_with("t", "a", late)).await;
    assert!(matches!(answer, ClaimAnswer::Other(_)), "a is full: {answer:?}");
    assert_eq!(world.held("a").await, 2, "a claim");
    world.send_telling(&telling("a", Holding { slots: 1, number: 40 }, &[])).await;
    world.send_telling(&telling("a", Holding { slots: 1, number: 41 }, &[])).await;
    assert_eq!(world.held("a").await, 1, "something newer counts");
    assert!(is_own(&world.send(&ask_with("u", "a", late)).await), "a late claim may be given a slot");
    assert_eq!(world.held("a").await, 1, "what was told after it counts that slot already");
}

pub async fn an_offer_that_was_taken_is_over_even_if_that_is_heard_late(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.occupy("a", 1).await;
    world.offer(&ask("t", "a")).await;
    world.send_telling(&telling("b", Holding { slots: 1, number: 40 }, &[])).await;
    world.send_telling(&telling("b", Holding { slots: 2, number: 39 }, &["t"])).await;
    assert_eq!(world.held("b").await, 1);
}

pub async fn a_stale_incarnation_changes_nothing(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    world.join(row_with("b", |row| row.incarnation = incarnation("second"))).await;
    world.occupy("a", 1).await;
    world.offer(&ask("t", "a")).await;
    world.send_telling(&telling("b", Holding { slots: 2, number: 99 }, &["t"])).await;
    assert_eq!(held(&world).await, [1, 1], "neither its number nor what it took");
    let claim = ask_with("u", "b", |request| request.holding = Holding { slots: 2, number: 100 });
    assert_eq!(world.send(&claim).await, world.send(&ask("u", "stranger")).await, "it gets no slot of a GPU that is another's now");
    assert_eq!(world.held("b").await, 1);
}

pub async fn a_worker_without_a_row_is_not_heard(world: World) {
    let world = world.with_gpus(&["a"]).await;
    world.send_telling(&telling("b", Holding { slots: 2, number: 99 }, &[])).await;
    world.join(row("b")).await;
    assert_eq!(held(&world).await, [0, 0], "its heartbeat says the same");
}

pub async fn a_claim_that_gives_no_own_slot_counts_the_askers_as_free(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    let named = ask_with("t", "a", |request| request.specific_gpu_id = Some(gpu_id("b")));
    world.offer(&named).await;
    assert_eq!(held(&world).await, [0, 1]);
    world.occupy("b", 1).await;
    let full = world.claim(&ask_with("u", "a", |request| request.specific_gpu_id = Some(gpu_id("b")))).await;
    assert!(matches!(full, ClaimAnswer::Full { .. }), "{full:?}");
    assert_eq!(held(&world).await, [0, 2]);
}

pub async fn a_repeated_claim_is_counted_once(world: World) {
    let world = world.with_gpus(&["a", "b"]).await;
    let own = ask_with("t", "a", |request| request.holding = Holding { slots: 1, number: 7 });
    let answer = world.send(&own).await;
    assert!(is_own(&answer), "{answer:?}");
    assert_eq!(world.send(&own).await, answer, "the same number again");
    assert_eq!(held(&world).await, [1, 0]);
    let other = ask_with("u", "a", |request| request.holding = Holding { slots: 2, number: 8 });
    let answer = world.send(&other).await;
    assert!(matches!(answer, ClaimAnswer::Other(_)), "{answer:?}");
    assert_eq!(world.send(&other).await, answer);
    assert_eq!(held(&world).await, [1, 1]);
}

pub async fn two_hundred_claims_at_once_never_exceed_the_slots(world: World) {
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        world.join(row_with(name, |row| row.slots = 7)).await;
    }
    // Each worker has taken a slot of its own for as many claims as it has slots, and asks for the others without one.
    let request = |n: usize| {
        let mine = u32::try_from(n / 5).expect("few") + 1;
        ask_with(&format!("t{n}"), names[n % 5], |request| {
            request.holding = Holding { slots: mine.min(7), number: 10 + u64::from(mine) };
            request.has_slot = mine <= 7;
            request.mode = [ClaimMode::Choose, ClaimMode::TasksWaiting][n % 2];
        })
    };
    let requests: Vec<_> = (0..200).map(request).collect();
    let answers = futures::future::join_all(requests.iter().map(|request| world.send(request))).await;
    let placed = |name: &str| {
        requests.iter().zip(&answers).filter(|(request, answer)| own_or_offered(request, answer) == Some(gpu_id(name))).count()
    };
    for name in names {
        let own = requests.iter().zip(&answers).filter(|(request, answer)| request.asker == gpu_id(name) && is_own(answer)).count();
        let slots = u32::try_from(own).expect("few");
        world.send_telling(&telling(name, Holding { slots, number: 1_000 }, &[])).await;
        assert_eq!(world.held(name).await as usize, placed(name), "{name}");
        assert!(placed(name) <= 7, "{name}: {} placed", placed(name));
    }
}

pub async fn workers_that_claim_side_by_side_use_every_slot_once(world: World) {
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        world.join(row_with(name, |row| row.slots = 7)).await;
    }
    let works = async |name: &str| {
        let mut placed = 0;
        for n in 0..40 {
            let has_slot = world.holding(&incarnation(name), 0).slots < 7;
            let answer = world.claim(&ask_with(&format!("{name}{n}"), name, |request| request.has_slot = has_slot)).await;
            placed += usize::from(matches!(answer, ClaimAnswer::Own(_) | ClaimAnswer::Other(_)));
        }
        placed
    };
    let placed = futures::future::join_all(names.map(works)).await;
    assert_eq!(placed.iter().sum::<usize>(), 35, "every slot, and none twice");
    for name in names {
        assert_eq!(world.held(name).await, 7, "{name}");
    }
}

fn own_or_offered(request: &protocol::ClaimRequest, answer: &ClaimAnswer) -> Option<GpuId> {
    match answer {
        ClaimAnswer::Own(_) => Some(request.asker.clone()),
        ClaimAnswer::Other(offer) => Some(offer.gpu_id.clone()),
        _ => None,
    }
}
