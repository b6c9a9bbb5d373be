//! What happens to messages whose time runs out in a queue.

use std::time::Duration;

use task_queue::{Death, DeathReason, Delivery, Outgoing, Queue, Target, TaskQueue};

use super::broker::{Broker, gpu, id_of, message, next, pool, prefetch, ready, until_ready, with_expiration};

pub async fn what_expires_in_a_pool_goes_to_the_expired_queue_without_its_expiration(broker: &Broker) {
    let queue = broker.connect().await;
    let mut late = with_expiration(&pool(), "late", "50");
    late.envelope.priority = Some(5);
    queue.publish(late).await.expect("published");
    queue.publish(message(&pool(), "patient")).await.expect("published");
    let expired = next_of(&*queue, &Queue::Expired).await;
    assert_eq!((id_of(&expired), expired.envelope.expiration.as_deref(), expired.envelope.priority), ("late", None, Some(5)));
    assert_eq!(expired.envelope.headers.invalid, Vec::<String>::new());
    assert_eq!(ready(&*queue, &pool()).await, 1);
}

pub async fn what_expires_in_the_queue_of_a_gpu_goes_to_the_expired_queue(broker: &Broker) {
    let queue = broker.connect().await;
    queue.declare(&gpu()).await.expect("declared");
    queue.publish(with_expiration(&gpu(), "late", "0")).await.expect("published");
    assert_eq!(id_of(&next_of(&*queue, &Queue::Expired).await), "late");
    until_ready(&*queue, &gpu(), 0).await;
}

pub async fn what_expires_before_a_worker_has_led_it_to_a_pool_goes_to_the_expired_queue(broker: &Broker) {
    let queue = broker.fleet(|_| ()).bare().await;
    queue.declare(&pool()).await.expect("declared");
    queue.publish(with_expiration(&Queue::Unrouted, "astray", "20")).await.expect("published");
    let expired = next_of(&*queue, &Queue::Expired).await;
    let death = Death { queue: queue.names().queue(&Queue::Unrouted), reason: DeathReason::Expired };
    assert_eq!((id_of(&expired), expired.death.as_ref()), ("astray", Some(&death)));
}

pub async fn nothing_stays_in_the_queue_of_a_gpu_that_nobody_consumes(broker: &Broker) {
    let queue = broker.fleet(|options| options.gpu_queue_ttl = Duration::from_millis(100)).connect().await;
    queue.declare(&gpu()).await.expect("declared");
    queue.publish(message(&gpu(), "forgotten")).await.expect("published");
    queue.publish(with_expiration(&gpu(), "patient", "86400000")).await.expect("published");
    let mut came_back = Vec::new();
    let mut expired = queue.consume(&Queue::Expired, prefetch(2)).await.expect("consuming");
    for _ in 0..2 {
        came_back.push(id_of(&next(&mut expired).await).to_owned());
    }
    assert_eq!(came_back, ["forgotten", "patient"]);
}

pub async fn what_expired_says_where_and_why_until_it_is_published_again(broker: &Broker) {
    let queue = broker.connect().await;
    queue.publish(with_expiration(&pool(), "late", "20")).await.expect("published");
    let expected = Death { queue: queue.names().queue(&pool()), reason: DeathReason::Expired };
    let expired = next_of(&*queue, &Queue::Expired).await;
    assert_eq!(expired.death.as_ref(), Some(&expected));
    // Its consumer is gone, so it comes again.
    let again = next_of(&*queue, &Queue::Expired).await;
    assert_eq!((again.redelivered, again.death.as_ref()), (true, Some(&expected)));
    let anew = Outgoing::new(Target::Queue(pool()), again.envelope.clone(), again.body.clone());
    queue.publish(anew).await.expect("published");
    assert_eq!(next_of(&*queue, &pool()).await.death, None);
}

pub async fn what_expires_before_anybody_else_has_declared_a_queue_is_kept(broker: &Broker) {
    let queue = broker.fleet(|_| ()).bare().await;
    queue.declare(&pool()).await.expect("declared");
    queue.publish(with_expiration(&pool(), "early", "20")).await.expect("published");
    assert_eq!(id_of(&next_of(&*queue, &Queue::Expired).await), "early");
}

/// A worker holds it until it is due. A broker that took it out before would confirm that to nobody.
pub async fn what_waits_stays_where_it_is_whatever_its_expiration(broker: &Broker) {
    let queue = broker.connect().await;
    let mut waiting = vec![Queue::retry_after(Duration::from_millis(1)), Queue::Unplaceable, Queue::undelivered_for(Duration::ZERO)];
    waiting.extend(Queue::where_tasks_are_delayed());
    for name in &waiting {
        queue.declare(name).await.expect("declared");
        queue.publish(with_expiration(name, "waits", "20")).await.expect("published");
    }
    // Longer than the shortest delay.
    queue.publish(with_expiration(&pool(), "clock", "400")).await.expect("published");
    assert_eq!(id_of(&next_of(&*queue, &Queue::Expired).await), "clock");
    for name in &waiting {
        assert_eq!(ready(&*queue, name).await, 1, "{name}");
        let delivery = queue.take(name).await.expect("connected").expect("a message");
        assert_eq!((id_of(&delivery), delivery.envelope.expiration.as_deref(), delivery.death.as_ref()), ("waits", None, None));
        delivery.receipt.give_back().await.expect("given back");
        until_ready(&*queue, name, 1).await;
    }
}

pub async fn a_reply_that_waits_keeps_its_address(broker: &Broker) {
    let queue = broker.connect().await;
    let waiting = Queue::undelivered_for(Duration::ZERO);
    queue.declare(&waiting).await.expect("declared");
    let mut reply = message(&waiting, "answer");
    reply.envelope.headers.reply_to = Some("answers".to_owned());
    reply.envelope.headers.first_try_ms = Some(1_700_000_000_000);
    queue.publish(reply.clone()).await.expect("published");
    let again = next_of(&*queue, &waiting).await;
    assert_eq!((again.envelope, again.body), (reply.envelope, reply.body));
}

pub async fn a_dead_letter_is_kept_for_so_long(broker: &Broker) {
    let queue = broker.fleet(|options| options.dead_letters_ttl = Duration::from_millis(100)).connect().await;
    queue.declare(&Queue::Dead).await.expect("declared");
    queue.publish(message(&Queue::Dead, "old")).await.expect("published");
    until_ready(&*queue, &Queue::Dead, 0).await;
}

async fn next_of(queue: &dyn TaskQueue, name: &Queue) -> Delivery {
    let mut consumer = queue.consume(name, prefetch(1)).await.expect("consuming");
    next(&mut consumer).await
}
