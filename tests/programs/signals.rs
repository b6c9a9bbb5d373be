//! Signals: an orderly stop gives back what waits, `kill -9` loses nothing, and a stop is obeyed at any moment.

use producer::{NewTask, Pending, Producer};
use protocol::TaskState;
use serde_json::json;
use tests::{
    ports::NOBODY,
    program::Program,
    tasks::{PATIENCE, on, result, simulate, started},
    until::until,
};

use crate::{http::get_text, servers::Servers};

async fn submit(producer: &Producer, tasks: impl Iterator<Item = NewTask>) -> Vec<Pending> {
    let mut pending = Vec::new();
    for task in tasks {
        pending.push(producer.pending(task, PATIENCE).await.expect("submitted"));
    }
    pending
}

/// How many of these tasks run or have run.
async fn begun(producer: &Producer, tasks: &[Pending]) -> usize {
    let mut begun = 0;
    for task in tasks {
        let status = producer.status(task.task_id()).await.expect("the store answers");
        begun += usize::from(status.is_some_and(|status| status.attempt > 0));
    }
    begun
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_worker_finishes_what_runs_and_gives_back_what_waits() {
    let servers = Servers::fresh().await;
    let producer = servers.producer().await;
    let first = servers.start(&["worker", "--simulated", "1", "--id-prefix", "first"]);
    servers.eligible(1).await;
    let pending = submit(&producer, (0..20).map(|n| simulate(700, n))).await;
    until("eight have begun", async || begun(&producer, &pending).await >= 8).await;
    first.signal("TERM");
    assert_eq!(first.exit_code().await, 0, "{}", first.log());
    assert!(servers.rows().await.is_empty(), "the row of a worker that left must go with it");

    let _second = servers.start(&["worker", "--simulated", "1", "--id-prefix", "second"]);
    let mut by_the_first = 0;
    for (n, pending) in pending.into_iter().enumerate() {
        let reply = pending.await.expect("a reply");
        assert_eq!(result(&reply), json!(n));
        by_the_first += u32::from(reply.gpu_id.is_some_and(|gpu_id| gpu_id.as_str() == "first-0"));
    }
    assert!((8..20).contains(&by_the_first), "{by_the_first} of 20 tasks ran on the worker that was stopped with eight running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_gpu_that_leaves_first_does_not_end_what_runs_on_another_of_its_process() {
    let servers = Servers::fresh().await;
    let producer = servers.producer().await;
    let worker = servers.start(&["worker", "--simulated", "2", "--id-prefix", "pair"]);
    servers.eligible(2).await;
    let pending = started(&producer, on("pair-1", simulate(3_000, "ended"))).await;
    worker.signal("TERM");
    assert_eq!(worker.exit_code().await, 0, "{}", worker.log());
    let status = producer.status(pending.task_id()).await.expect("the store answers");
    assert_eq!(status.map(|status| status.state), Some(TaskState::Succeeded));
    assert_eq!(result(&pending.await.expect("a reply")), "ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tasks_of_a_killed_worker_run_elsewhere_and_every_producer_has_its_reply() {
    let servers = Servers::fresh().await;
    let producer = servers.producer().await;
    let quick = ["redis.response_timeout_ms=1000", "worker.lease_ms=1500", "worker.offer_ms=1000"].map(|setting| ["--set", setting]);
    let worker = |prefix: &str| servers.start(&[&["worker", "--simulated", "1", "--id-prefix", prefix], quick.as_flattened()].concat());
    let (killed, _living) = (worker("killed"), worker("living"));
    servers.eligible(2).await;
    let pending = submit(&producer, (0..40).map(|n| simulate(300, n))).await;
    until("the worker has tasks", async || {
        servers.rows().await.iter().any(|view| view.row.gpu.gpu_id.as_str() == "killed-0" && view.held > 0)
    })
    .await;
    killed.signal("KILL");
    assert_eq!(killed.exit_code().await, 128 + 9);
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(result(&pending.await.expect("a reply")), json!(n));
    }
    servers.eligible(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_in_one_process_stops_when_it_is_told_to() {
    let servers = Servers::fresh().await;
    let fleet = servers.up(2, &[]).await;
    fleet.signal("INT");
    assert_eq!(fleet.exit_code().await, 0, "{}", fleet.log());
    assert!(servers.rows().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_waits_for_its_servers_stops_when_it_is_told_to() {
    let (amqp, redis) = (format!("amqp://127.0.0.1:{NOBODY}"), format!("redis://127.0.0.1:{NOBODY}"));
    for role in [&["worker", "--simulated", "1"][..], &["gateway", "--listen", "127.0.0.1:0"], &["up", "--listen", "127.0.0.1:0"]] {
        let program = Program::start([role, &["--amqp-url", &amqp, "--redis-url", &redis]].concat(), &[]);
        program.logged("a server is away").await;
        program.signal("TERM");
        // Its patience with the servers would end with 3.
        assert_eq!(program.exit_code().await, 0, "{role:?}: {}", program.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_stops_a_worker_at_once_and_its_task_runs_elsewhere() {
    let servers = Servers::fresh().await;
    let producer = servers.producer().await;
    let first = servers.start(&["worker", "--simulated", "1", "--id-prefix", "first"]);
    servers.eligible(1).await;
    let pending = started(&producer, simulate(4_000, "kept")).await;
    let _second = servers.start(&["worker", "--simulated", "1", "--id-prefix", "second"]);
    servers.eligible(2).await;
    first.signal("TERM");
    first.logged("a second signal stops at once").await;
    first.signal("TERM");
    assert_eq!(first.exit_code().await, 0, "{}", first.log());
    let reply = pending.await.expect("a reply");
    assert_eq!((result(&reply), reply.attempt), (json!("kept"), 1), "it was handed back, at no cost to it");
    assert_eq!(reply.gpu_id.expect("a GPU").as_str(), "second-0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_stops_a_gateway_that_still_waits_for_a_result() {
    let servers = Servers::fresh().await;
    let gateway = servers.start(&["gateway", "--listen", "127.0.0.1:0"]);
    let url = gateway.url().await;
    // A GPU that is away may come back, so that it is waited for.
    let request = json!({"text": "no worker is there", "gpu_options": {"specific_gpu_id": "away"}});
    let asking = tokio::spawn(reqwest::Client::new().post(format!("{url}/api/v1/predict")).json(&request).send());
    until("the result is waited for", async || {
        let metrics = get_text(&format!("{url}/metrics")).await;
        metrics.lines().any(|line| line == "gateway_tasks_waited_for 1")
    })
    .await;
    gateway.signal("TERM");
    gateway.logged("a second signal stops at once").await;
    gateway.signal("TERM");
    // Its grace with open requests would end with 1.
    assert_eq!(gateway.exit_code().await, 0, "{}", gateway.log());
    // Told so or cut off, as the end of the process comes.
    let answer = asking.await.unwrap();
    assert!(answer.as_ref().map_or(true, |answer| answer.status() == 503), "{answer:?}");
}

/// Waits until a process answers a signal by itself.
async fn hears(program: &Program, number: u32) {
    let path = format!("/proc/{}/status", program.pid());
    let caught = || {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0").trim().to_owned();
        u64::from_str_radix(&mask, 16).unwrap_or(0) & (1 << (number - 1)) != 0
    };
    until("the program hears the signal", async || caught()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_up_and_a_quit_end_a_worker_after_its_task() {
    let servers = Servers::fresh().await;
    let producer = servers.producer().await;
    // A terminal that closes tells it by its shell and by the kernel.
    for signals in [&["HUP", "HUP"][..], &["QUIT"]] {
        let worker = Program::start_with_signals("--default-signal=HUP", servers.command_line(&["worker", "--simulated", "1"]), &[]);
        servers.eligible(1).await;
        let pending = started(&producer, simulate(2_500, "ended")).await;
        for signal in signals {
            worker.signal(signal);
            worker.logged("a second signal stops at once").await;
        }
        assert_eq!(worker.exit_code().await, 0, "{signals:?}: {}", worker.log());
        let reply = pending.await.expect("a reply");
        assert_eq!((result(&reply), reply.attempt), (json!("ended"), 1), "{signals:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signals_that_mean_nothing_to_a_worker_end_no_task() {
    let servers = Servers::fresh().await;
    let producer = servers.producer().await;
    let worker = servers.start(&["worker", "--simulated", "1"]);
    servers.eligible(1).await;
    let pending = started(&producer, simulate(2_500, "ended")).await;
    for signal in ["USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "XFSZ", "PIPE"] {
        worker.signal(signal);
    }
    let reply = pending.await.expect("a reply");
    assert_eq!((result(&reply), reply.attempt), (json!("ended"), 1));
    assert!(!worker.log().contains("stopping"), "{}", worker.log());
    worker.signal("TERM");
    assert_eq!(worker.exit_code().await, 0, "{}", worker.log());
}

/// As under `nohup`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_up_that_was_ignored_from_the_start_stays_ignored() {
    let servers = Servers::fresh().await;
    let producer = servers.producer().await;
    let worker = Program::start_with_signals("--ignore-signal=HUP", servers.command_line(&["worker", "--simulated", "1"]), &[]);
    servers.eligible(1).await;
    let pending = started(&producer, simulate(1_000, "ended")).await;
    worker.signal("HUP");
    assert_eq!(result(&pending.await.expect("a reply")), "ended");
    let next = producer.pending(simulate(0, "next"), PATIENCE).await.expect("submitted");
    assert_eq!(result(&next.await.expect("a reply")), "next", "it goes on");
    assert!(!worker.log().contains("stopping"), "{}", worker.log());
    worker.signal("TERM");
    assert_eq!(worker.exit_code().await, 0, "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_up_ends_a_gateway_a_fleet_in_one_process_and_a_demo_in_good_order() {
    let servers = Servers::fresh().await;
    let gateway = servers.command_line(&["gateway", "--listen", "127.0.0.1:0"]);
    let up = ["up", "--simulated", "1", "--listen", "127.0.0.1:0"].map(str::to_owned).to_vec();
    let demo = ["demo", "--tasks", "1000000", "--gpus", "1"].map(str::to_owned).to_vec();
    for (arguments, code) in [(gateway, 0), (up, 0), (demo, 1)] {
        let program = Program::start_with_signals("--default-signal=HUP", &arguments, &[]);
        hears(&program, 1).await;
        program.signal("HUP");
        assert_eq!(program.exit_code().await, code, "{arguments:?}: {}", program.log());
    }
}
