//! Batches whose splitter or merger dies half-way, or finds no room: the next one goes on where that one stopped.

use super::*;

/// A fleet without workers, whose pool has one batch.
async fn laid_before(items: impl Iterator<Item = Value>) -> (Fleet, Client) {
    let fleet = plan(0).slots(2).start().await;
    let client = Client::of(&fleet, "laid-before").await;
    client.publish(&fleet, items).await;
    (fleet, client)
}

/// Ends the only worker as `kill -9` does, lets the broker take messages again and starts another worker.
async fn another_worker(fleet: &mut Fleet) {
    let killed = fleet.gpus().remove(0);
    fleet.kill(&killed).await;
    fleet.broker().unblock_publishers();
    for queue in Queue::where_tasks_wait().into_iter().chain([Queue::Pool(fleet.pool())]) {
        fleet.broker().bound(&queue, None);
    }
    fleet.add_gpu().await;
}

#[tokio::test(start_paused = true)]
async fn a_splitter_that_dies_before_it_publishes_a_slice_leaves_that_to_the_next_one() {
    let (mut fleet, mut client) = laid_before(taking(10, 8)).await;
    fleet.broker().block_publishers("low on memory");
    fleet.add_gpu().await;
    client.split(&fleet).await;
    another_worker(&mut fleet).await;
    assert_eq!(results(&client.next().await), taking(10, 8).collect::<Vec<_>>());
    client.nothing_else(&fleet).await;
}

/// What a splitter leaves behind that dies after the first of its slices.
#[tokio::test(start_paused = true)]
async fn a_splitter_that_dies_half_way_leaves_the_other_slices_to_the_next_one() {
    let fleet = plan(1).slots(2).start().await;
    let mut client = Client::of(&fleet, "half-way").await;
    let wanted = || taking(10, 8);
    let split = SplitRequest {
        task_id: client.id.clone(),
        body_hash: BodyHash::of(&body_of(wanted())),
        kind: Kind::new("work").unwrap(),
        attempt: 1,
        published_s: None,
        slices: Slice::of_lengths(&[3, 5]),
    };
    assert!(matches!(fleet.ports.store.split(&split).await.unwrap(), SplitAnswer::Split(_)));
    let mut first = client.envelope();
    first.headers.slice = Slice::new(0, 3);
    first.headers.batch_hash = Some(split.body_hash.clone());
    client.send(&fleet, first, wanted().take(3)).await;
    // Where the splitter has died, the broker marks what it delivers again.
    let mut again = client.envelope();
    again.headers.copy = true;
    client.send(&fleet, again, wanted()).await;
    assert_eq!(results(&client.next().await), wanted().collect::<Vec<_>>());
    client.nothing_else(&fleet).await;
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "work"), 2.0, "each slice ran once, and the first cut stayed");
}

#[tokio::test(start_paused = true)]
async fn slices_that_a_full_pool_does_not_take_follow_when_there_is_room() {
    let (mut fleet, mut client) = laid_before(taking(10, 8)).await;
    let pool = Queue::Pool(fleet.pool());
    fleet.broker().bound(&pool, Some(0));
    fleet.add_gpu().await;
    until("the batch waits for room", async || fleet.counted("gpufleet_held_messages", "wait.5000") == 1.0).await;
    fleet.idle().await;
    assert_eq!(fleet.counted("gpufleet_slices_total", ""), 0.0, "nobody holds it meanwhile, and nothing ran");
    fleet.broker().bound(&pool, None);
    assert_eq!(results(&client.next().await), taking(10, 8).collect::<Vec<_>>());
    client.nothing_else(&fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_splitter_that_dies_before_the_batch_waits_runs_nothing_twice() {
    let (mut fleet, mut client) = laid_before(taking(10, 8)).await;
    for queue in Queue::where_tasks_wait() {
        fleet.ports.queue.declare(&queue).await.unwrap();
        fleet.broker().bound(&queue, Some(0));
    }
    fleet.add_gpu().await;
    // Its slices run and are merged, while it still cannot let the batch wait.
    assert_eq!(results(&client.next().await), taking(10, 8).collect::<Vec<_>>());
    another_worker(&mut fleet).await;
    client.nothing_else(&fleet).await;
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "work"), 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_merger_that_dies_before_the_reply_is_out_leaves_it_to_the_copy_of_the_batch() {
    let (mut fleet, mut client) = laid_before(taking(500, 8)).await;
    fleet.add_gpu().await;
    until("both slices run", async || held(&fleet).await == 2).await;
    until("the batch waits", async || fleet.counted("gpufleet_held_messages", "wait.5000") == 1.0).await;
    fleet.broker().block_publishers("low on memory");
    until("it is merged", async || client.state(&fleet).await == Some(TaskState::Succeeded)).await;
    another_worker(&mut fleet).await;
    let reply = client.next().await;
    assert_eq!(results(&reply), taking(500, 8).collect::<Vec<_>>());
    assert_eq!(fleet.producer.status(&client.id).await.unwrap().unwrap().reply.as_ref(), Some(&reply), "the very one that was recorded");
    client.nothing_else(&fleet).await;
    assert_eq!(fleet.counted("gpufleet_run_seconds_count", "work"), 2.0, "nothing ran again");
}
