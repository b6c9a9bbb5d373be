//! Producers that are not ours: what README promises them, by pika and by amqplib.

use serde_json::{Value, json};
use task_queue::{Queue, TaskQueue};
use tests::{
    rabbitmq::{Permissions, PrivateRabbitMq},
    until::until,
};

use crate::{
    clients::{Client, Plan, Publish},
    http::{get_json, get_text},
    servers::Servers,
};

macro_rules! by_both {
    ($($case:ident),+ $(,)?) => {
        mod pika {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(super::Client::Pika).await;
                }
            )+
        }
        mod amqplib {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::$case(super::Client::Amqplib).await;
                }
            )+
        }
    };
}

by_both!(
    waiting_tasks_run_by_priority_from_the_exchange_and_from_the_default_exchange,
    a_reply_comes_by_direct_reply_to,
    the_same_publish_twice_without_a_message_id_is_one_task,
    a_task_under_a_user_id_is_forwarded_and_answered,
    what_is_no_task_is_answered_with_the_field_and_kept_among_the_dead_letters,
    a_task_whose_expiration_passes_while_the_slots_are_busy_is_answered,
);

/// To the default exchange, with the queue's name.
fn to_the_queue(queue: &str, properties: Value, body: Value) -> Publish<'_> {
    Publish { exchange: "", routing_key: queue, properties, body: body.to_string() }
}

async fn waiting_tasks_run_by_priority_from_the_exchange_and_from_the_default_exchange(client: Client) {
    let servers = Servers::fresh().await;
    let (queue, pool) = (servers.queue().await, Queue::Pool(servers.configuration.worker.pool.clone()));
    queue.declare(&pool).await.expect("declared");
    let (exchange, queue_name) = (format!("{}.tasks", servers.prefix()), servers.pool_queue());
    let mut plan = Plan::at(servers.amqp());
    for priority in [1, 9, 0, 5, 7, 3] {
        let properties = json!({"type": "echo", "priority": priority, "correlation_id": format!("c-{priority}")});
        let body = json!({"payload": priority}).to_string();
        let (exchange, routing_key) = if priority % 3 == 0 { (exchange.as_str(), "default") } else { ("", queue_name.as_str()) };
        plan = plan.publish(Publish { exchange, routing_key, properties, body });
    }
    let talking = tokio::spawn(client.talk(plan));
    until("all tasks wait", async || queue.depth(&pool).await.expect("a depth").is_some_and(|depth| depth.ready == 6)).await;
    let _fleet = servers.up(1, &["--set", "gpu.multi_gpu.max_concurrent_tasks_per_gpu=1"]).await;

    let replies = talking.await.expect("replies");
    let results: Vec<&Value> = replies.iter().map(|reply| &reply["body"]["result"]).collect();
    assert_eq!(results, [9, 7, 5, 3, 1, 0]);
    for reply in &replies {
        assert_eq!(reply["correlation_id"], format!("c-{}", reply["body"]["result"]));
        assert_eq!(reply["headers"]["x-gpufleet-outcome"], "succeeded");
    }
}

async fn a_reply_comes_by_direct_reply_to(client: Client) {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(2, &[]).await;
    let mut plan = Plan::at(servers.amqp()).direct();
    let queue = servers.pool_queue();
    for n in 0..6 {
        // Half of them on one GPU alone: what is forwarded is answered all the same.
        let gpu = if n % 2 == 0 { json!({}) } else { json!({"specific_gpu_id": "sim-1"}) };
        let body = json!({"payload": n, "gpu_options": gpu});
        plan = plan.publish(to_the_queue(&queue, json!({"type": "echo", "correlation_id": n.to_string()}), body));
    }
    let mut replies = client.talk(plan).await;
    replies.sort_by_key(|reply| reply["body"]["result"].as_u64());
    let answers: Vec<(&Value, &Value)> = replies.iter().map(|reply| (&reply["correlation_id"], &reply["body"]["result"])).collect();
    assert_eq!(answers.len(), 6);
    for (n, (correlation_id, result)) in answers.into_iter().enumerate() {
        assert_eq!((correlation_id, result), (&json!(n.to_string()), &json!(n)));
    }
}

async fn the_same_publish_twice_without_a_message_id_is_one_task(client: Client) {
    let servers = Servers::fresh().await;
    let fleet = servers.up(2, &[]).await;
    let queue = servers.pool_queue();
    let publish = |payload: &str| to_the_queue(&queue, json!({"type": "echo", "correlation_id": "order-7"}), json!({"payload": payload}));
    let plan = Plan::at(servers.amqp()).publish(publish("the same")).publish(publish("the same")).publish(publish("another"));
    let replies = client.talk(plan).await;
    let of =
        |payload: &str| -> Vec<&Value> { replies.iter().map(|reply| &reply["body"]).filter(|body| body["result"] == payload).collect() };
    let (same, other) = (of("the same"), of("another"));
    assert_eq!((same.len(), other.len()), (2, 1), "{replies:?}");
    assert_eq!(same[0], same[1]);
    assert_ne!(same[0]["task_id"], other[0]["task_id"]);

    let task_id = same[0]["task_id"].as_str().expect("an id");
    assert!(task_id.starts_with("derived-"), "{task_id}");
    let (code, status) = get_json(&format!("{}/api/v1/tasks/{task_id}", fleet.url().await)).await;
    assert_eq!((code, &status["state"], &status["reply"]), (200, &json!("succeeded"), same[0]));
    let shown = servers.run(&["status", task_id, "--json"]).await;
    assert_eq!((shown.code, serde_json::from_str::<Value>(&shown.output).expect("JSON")), (Some(0), status));
}

async fn a_task_under_a_user_id_is_forwarded_and_answered(client: Client) {
    let servers = Servers::fresh().await;
    let fleet = servers.up(2, &[]).await;
    let write = format!("^(amq\\.default|{}\\.tasks)$", servers.prefix());
    let permissions = Permissions { configure: "^amq\\.gen", write: &write, read: "^amq\\.gen" };
    let user = format!("plain-{client:?}").to_lowercase();
    let url = PrivateRabbitMq::shared().await.url_for(&user, permissions).await;
    let exchange = format!("{}.tasks", servers.prefix());
    let mut plan = Plan::at(&url);
    for n in 0..20 {
        let gpu = if n < 10 { json!({"specific_gpu_id": "sim-1"}) } else { json!({"strategy": "round_robin"}) };
        let body = json!({"payload": n, "gpu_options": gpu}).to_string();
        let properties = json!({"type": "echo", "user_id": user, "correlation_id": n.to_string()});
        plan = plan.publish(Publish { exchange: &exchange, routing_key: "default", properties, body });
    }
    let replies = client.talk(plan).await;
    assert!(replies.iter().all(|reply| reply["correlation_id"] == json!(reply["body"]["result"].to_string())), "{replies:?}");
    let on_one: Vec<&Value> = replies.iter().filter(|reply| reply["body"]["result"].as_u64() < Some(10)).collect();
    assert_eq!((replies.len(), on_one.len()), (20, 10));
    assert!(on_one.iter().all(|reply| reply["body"]["gpu_id"] == "sim-1"), "{on_one:?}");

    let metrics = get_text(&format!("{}/metrics", fleet.url().await)).await;
    let forwarded = metrics.lines().filter(|line| line.starts_with("gpufleet_forwarded_total{"));
    let forwarded: f64 = forwarded.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    assert!(forwarded > 0.0, "nothing was forwarded, so nothing was tried");
    // What the worker would log of a closed channel.
    let log = fleet.log();
    let troubles = ["PRECONDITION", "lost a consumer", "lost the broker", "cannot be sent", "will try again"];
    assert!(!troubles.iter().any(|trouble| log.contains(trouble)), "{log}");
}

async fn what_is_no_task_is_answered_with_the_field_and_kept_among_the_dead_letters(client: Client) {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(1, &[]).await;
    let queue_name = servers.pool_queue();
    let body = json!({"payload": 1, "prioritee": 9});
    let plan =
        Plan::at(servers.amqp()).publish(to_the_queue(&queue_name, json!({"type": "echo", "correlation_id": "wrong"}), body.clone()));
    let replies = client.talk(plan).await;
    let error = &replies[0]["body"]["error"];
    assert_eq!((&replies[0]["correlation_id"], &replies[0]["body"]["outcome"]), (&json!("wrong"), &json!("failed")));
    assert_eq!((&error["code"], &error["field"]), (&json!("invalid_task"), &json!("prioritee")));

    let queue = servers.queue().await;
    let mut dead = None;
    until("the original is among the dead letters", async || {
        dead = queue.take(&Queue::Dead).await.expect("the queue answers");
        dead.is_some()
    })
    .await;
    assert_eq!(dead.expect("a letter").body, body.to_string().as_bytes());
}

async fn a_task_whose_expiration_passes_while_the_slots_are_busy_is_answered(client: Client) {
    let servers = Servers::fresh().await;
    let _fleet = servers.up(1, &["--set", "gpu.multi_gpu.max_concurrent_tasks_per_gpu=1"]).await;
    let queue = servers.pool_queue();
    let busy = json!({"payload": {"duration_ms": 1_500, "result": "done"}});
    let plan = Plan::at(servers.amqp())
        .publish(to_the_queue(&queue, json!({"type": "simulate", "correlation_id": "busy"}), busy))
        .publish(to_the_queue(&queue, json!({"type": "echo", "correlation_id": "late", "expiration": "200"}), json!({"payload": 1})));
    let replies = client.talk(plan).await;
    let outcome = |correlation_id: &str| {
        let reply = replies.iter().find(|reply| reply["correlation_id"] == correlation_id).expect("a reply");
        (&reply["body"]["outcome"], &reply["body"]["gpu_id"])
    };
    assert_eq!(outcome("busy"), (&json!("succeeded"), &json!("sim-0")));
    assert_eq!(outcome("late"), (&json!("expired"), &Value::Null));
}
