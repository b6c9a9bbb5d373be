use devices::{SimulatedGpu, SimulatedOptions, Sleeper};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    BatchMember, Listening, Usage,
    fixture::{gpu, run_of, run_on, run_reporting, task},
};

#[tokio::test(start_paused = true)]
async fn it_takes_the_time_asked_for_and_gives_the_result_asked_for() {
    let before = Instant::now();
    assert_eq!(run_on(&simulate(), &gpu(), json!({"duration_ms": 250, "result": {"x": 1}})).await.unwrap(), json!({"x": 1}));
    assert_eq!(before.elapsed().as_millis(), 250);
    assert_eq!(run_on(&simulate(), &gpu(), json!(null)).await, Ok(Json::null()));
}

#[test]
fn the_size_of_its_result_is_known_before_it_runs() {
    let least = |payload: serde_json::Value| simulate().result_bytes_min(&payload.into());
    assert_eq!(least(json!({"duration_ms": 250, "result": "x".repeat(98)})), 100);
    assert_eq!([json!({"result": 1, "fail": {}}), json!({"oops": 1}), json!(7)].map(least), [0; 3]);
}

#[tokio::test(start_paused = true)]
async fn it_reports_at_every_step_how_far_it_is() {
    let (report, mut reports) = Report::new(Listening::ToPartialsToo);
    let (executor, gpu) = (simulate(), gpu());
    let run = run_reporting(&executor, &gpu, json!({"duration_ms": 1000, "progress_every_ms": 250}), report);
    let watching = async {
        let mut seen = Vec::new();
        while reports.progress.changed().await.is_ok() {
            seen.push(reports.progress.borrow_and_update().clone());
        }
        seen
    };
    let (ended, seen) = tokio::join!(run, watching);
    ended.unwrap();
    let seen: Vec<_> = seen.into_iter().map(|reported| (reported.fraction.get(), reported.message.unwrap())).collect();
    assert_eq!(seen, [(0.25, "250 of 1000 ms".to_owned()), (0.5, "500 of 1000 ms".to_owned()), (0.75, "750 of 1000 ms".to_owned())]);
    let steps: Vec<_> = reports.partials.take().into_iter().map(|partial| partial.value).collect();
    assert_eq!(steps, [json!(1), json!(2), json!(3)]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_gpu_takes_longer() {
    let slow = SimulatedGpu::new(SimulatedOptions::default());
    slow.knobs().set_speed(0.5);
    let before = Instant::now();
    run_on(&simulate(), &(Arc::new(slow) as _), json!({"duration_ms": 250})).await.unwrap();
    assert_eq!(before.elapsed().as_millis(), 500);
}

#[tokio::test]
async fn on_a_running_clock_it_never_takes_less_than_the_time_asked_for() {
    let precise = SimulatedGpu::new(SimulatedOptions { sleeper: Sleeper::Precise, ..SimulatedOptions::default() });
    let gpu: Arc<dyn devices::Device> = Arc::new(precise);
    for payload in [json!({"duration_ms": 5}), json!({"duration_ms": 5, "progress_every_ms": 2})] {
        let before = Instant::now();
        run_on(&simulate(), &gpu, payload).await.unwrap();
        assert!(before.elapsed() >= Duration::from_millis(5));
    }
}

#[tokio::test(start_paused = true)]
async fn memory_and_compute_are_in_use_while_it_runs_and_free_after() {
    let (executor, gpu) = (simulate(), gpu());
    let mut running = Box::pin(run_on(&executor, &gpu, json!({"duration_ms": 1000, "memory_mb": 700, "compute_share": 0.4})));
    tokio::select! {
        biased;
        _ = &mut running => panic!("it ended at once"),
        () = tokio::time::sleep(Duration::from_millis(10)) => {}
    }
    assert_eq!((gpu.sample().memory_used_mb, gpu.sample().utilization_percent), (700, 40.0));
    running.await.unwrap();
    assert_eq!((gpu.sample().memory_used_mb, gpu.sample().utilization_percent), (0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn more_memory_than_the_gpu_has_is_out_of_memory_and_may_be_retried() {
    let failure = run_on(&simulate(), &gpu(), json!({"memory_mb": 90_000_000})).await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.retry), ("out_of_memory", true));
    assert_eq!(failure.message, "the GPU has 80000 MB free of 80000 MB, the task needs 90000000 MB");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_it_at_once() {
    let (task, gpu, cancel) = (task("simulate", json!({"duration_ms": 60_000})), gpu(), CancellationToken::new());
    let executor = simulate();
    let before = Instant::now();
    let run = executor.run(Run { task: &task, device: &gpu, cancel: cancel.clone(), ..run_of(&task, &gpu) });
    let (ended, ()) = tokio::join!(run, async { cancel.cancel() });
    assert_eq!(ended.unwrap_err().code, "cancelled");
    assert_eq!(before.elapsed().as_millis(), 0);
}

#[tokio::test(start_paused = true)]
async fn it_fails_as_asked_after_its_time() {
    let before = Instant::now();
    let asked = json!({"duration_ms": 5, "fail": {"code": "oops", "message": "as asked", "retry": true}});
    let failure = run_on(&simulate(), &gpu(), asked).await.unwrap_err();
    assert_eq!(failure, Failure { code: "oops".to_owned(), message: "as asked".to_owned(), retry: true, ..Failure::default() });
    assert_eq!(before.elapsed().as_millis(), 5);
    let plain = run_on(&simulate(), &gpu(), json!({"fail": {}})).await.unwrap_err();
    assert_eq!((plain.code.as_str(), plain.retry), ("executor_failed", false));
}

#[tokio::test(start_paused = true)]
async fn wrong_and_unknown_fields_are_refused_by_name() {
    for (payload, field) in [
        (json!({"duration": 5}), "payload.duration"),
        (json!({"duration_ms": -5}), "payload.duration_ms"),
        (json!({"duration_ms": 1.5}), "payload.duration_ms"),
        (json!({"duration_ms": 5, "batch_item_ms": 1}), "payload.duration_ms"),
        (json!({"batch_fixed_ms": -1}), "payload.batch_fixed_ms"),
        (json!({"batch_item_ms": "1"}), "payload.batch_item_ms"),
        (json!({"memory_mb": "1"}), "payload.memory_mb"),
        (json!({"compute_share": 1.1}), "payload.compute_share"),
        (json!({"progress_every_ms": 0}), "payload.progress_every_ms"),
        (json!({"inputs": []}), "payload.inputs"),
        (json!({"inputs": [{"tensor": "x"}], "result": 1}), "payload.inputs"),
        (json!({"inputs": [{"tensor": "x"}], "batch_item_ms": 1}), "payload.inputs"),
        (json!({"add": 1}), "payload.add"),
        (json!({"model": ""}), "payload.model"),
        (json!({"model": 7}), "payload.model"),
        (json!({"model_mb": 7}), "payload.model_mb"),
        (json!({"load_ms": 7}), "payload.load_ms"),
        (json!({"fail": true}), "payload.fail"),
        (json!({"fail": {"retry": "yes"}}), "payload.fail.retry"),
        (json!({"fail": {"why": 1}}), "payload.fail.why"),
        (json!("sleep"), "payload"),
    ] {
        let refused = run_on(&simulate(), &gpu(), payload).await.unwrap_err();
        assert_eq!((refused.code.as_str(), refused.field.as_deref(), refused.retry), ("invalid_payload", Some(field), false));
    }
}

/// Runs payloads together on this GPU, until `cancel` fires.
async fn run_together(
    gpu: &Arc<dyn devices::Device>,
    payloads: &[serde_json::Value],
    cancel: CancellationToken,
) -> Vec<Result<Framed, Failure>> {
    let tasks: Vec<_> = payloads.iter().map(|payload| task("simulate", payload.clone())).collect();
    let members = tasks.iter().map(|task| BatchMember {
        task,
        payload: &task.body.payload,
        cancel: CancellationToken::new(),
        report: Report::to_nobody(),
        usage: Usage::default(),
    });
    let members = members.collect();
    simulate().run_batch(RunBatch { device: gpu, members, cancel }).await
}

#[tokio::test(start_paused = true)]
async fn a_run_of_several_takes_the_largest_fixed_time_and_the_sum_of_the_others() {
    let before = Instant::now();
    let payloads = [
        json!({"batch_fixed_ms": 10, "batch_item_ms": 5, "result": 1}),
        json!({"batch_fixed_ms": 20, "batch_item_ms": 2.5, "result": 2}),
        json!({"batch_item_ms": "wrong"}),
        json!({"batch_item_ms": 2.5, "fail": {"code": "oops", "message": "as asked"}}),
    ];
    let answers = run_together(&gpu(), &payloads, CancellationToken::new()).await;
    assert_eq!(before.elapsed().as_millis(), 30);
    assert_eq!((answers[0].clone().unwrap(), answers[1].clone().unwrap()), (json!(1).into(), json!(2).into()));
    let failures: Vec<_> = answers[2..].iter().map(|answer| answer.clone().unwrap_err().code).collect();
    assert_eq!(failures, ["invalid_payload", "oops"], "each fails alone");
}

#[tokio::test(start_paused = true)]
async fn payloads_of_which_none_is_right_take_no_time() {
    let before = Instant::now();
    let answers = run_together(&gpu(), &[json!({"batch_item_ms": "wrong"})], CancellationToken::new()).await;
    assert_eq!((before.elapsed().as_millis(), answers[0].clone().unwrap_err().code.as_str()), (0, "invalid_payload"));
}

#[tokio::test(start_paused = true)]
async fn a_run_of_several_holds_the_gpu_once_with_the_memory_of_all() {
    let gpu = gpu();
    let payload = json!({"batch_fixed_ms": 1000, "memory_mb": 700, "compute_share": 0.4});
    let payloads = [payload.clone(), payload];
    let mut running = Box::pin(run_together(&gpu, &payloads, CancellationToken::new()));
    tokio::select! {
        biased;
        _ = &mut running => panic!("it ended at once"),
        () = tokio::time::sleep(Duration::from_millis(10)) => {}
    }
    assert_eq!((gpu.sample().memory_used_mb, gpu.sample().utilization_percent), (1_400, 40.0));
    assert!(running.await.iter().all(Result::is_ok));
    let large = json!({"batch_fixed_ms": 1, "memory_mb": 50_000});
    let refused = run_together(&gpu, &[large.clone(), large], CancellationToken::new()).await;
    assert!(refused.iter().all(|answer| answer.as_ref().is_err_and(|failure| failure.code == "out_of_memory" && failure.retry)));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_nobody_waits_for_ends_at_once() {
    let (cancel, before) = (CancellationToken::new(), Instant::now());
    cancel.cancel();
    let answers = run_together(&gpu(), &[json!({"batch_fixed_ms": 60_000})], cancel).await;
    assert_eq!((answers[0].clone().unwrap_err().code.as_str(), before.elapsed().as_millis()), ("cancelled", 0));
}

#[test]
fn only_a_payload_with_the_times_of_many_runs_together_with_others() {
    let takes_part = |payload: serde_json::Value| simulate().takes_part(&payload.into());
    assert!(takes_part(json!({"batch_fixed_ms": 1})) && takes_part(json!({"batch_item_ms": null})));
    assert!(!takes_part(json!({"duration_ms": 1})) && !takes_part(json!(null)) && !takes_part(json!(["batch_item_ms"])));
    assert!(!takes_part(json!({"result": {"batch_item_ms": 1}})), "a result that looks like it");
}

#[tokio::test(start_paused = true)]
async fn a_model_is_loaded_once_and_stays_in_the_gpus_memory() {
    let (executor, gpu) = (simulate(), gpu());
    let payload = json!({"model": "llama", "model_mb": 16_000, "load_ms": 2_000, "duration_ms": 50});
    let before = Instant::now();
    run_on(&executor, &gpu, payload.clone()).await.unwrap();
    assert_eq!(before.elapsed().as_millis(), 2_050);
    run_on(&executor, &gpu, payload).await.unwrap();
    run_on(&executor, &gpu, json!({"model": "llama", "duration_ms": 50})).await.unwrap();
    assert_eq!(before.elapsed().as_millis(), 2_150);
    assert_eq!((executor.models(), gpu.sample().memory_used_mb), (vec!["llama".to_owned()], 16_000));
    assert!(executor.evict(gpu.as_ref()).await && !executor.evict(gpu.as_ref()).await);
    assert_eq!((executor.models().len(), gpu.sample().memory_used_mb), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn payloads_that_run_together_load_each_model_once() {
    let (gpu, before) = (gpu(), Instant::now());
    let of = |model: &str| json!({"model": model, "load_ms": 100, "batch_fixed_ms": 10});
    let answers = run_together(&gpu, &[of("a"), of("b"), of("a")], CancellationToken::new()).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!((before.elapsed().as_millis(), gpu.sample().memory_used_mb), (210, 2_000));
}

#[tokio::test(start_paused = true)]
async fn a_cancel_ends_the_wait_for_a_model_and_the_load_goes_on() {
    let (executor, gpu, cancel) = (simulate(), gpu(), CancellationToken::new());
    let task = task("simulate", json!({"model": "a", "load_ms": 1_000}));
    let run = executor.run(Run { cancel: cancel.clone(), ..run_of(&task, &gpu) });
    let (ended, ()) = tokio::join!(run, async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        cancel.cancel();
    });
    assert_eq!(ended.unwrap_err().code, "cancelled");
    assert!(executor.models().is_empty());
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    assert_eq!(executor.models(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn configured_models_are_known_before_any_payload_tells_of_them() {
    let model = SimulatedModel { memory_mb: 7, load_ms: 30, ..SimulatedModel::named("a") };
    let executor = simulate_keeping(Arc::new(ModelCache::new(ModelBounds::default())), &[model]);
    let (shelf, gpu, before) = (executor.shelf().unwrap(), gpu(), Instant::now());
    shelf.load("a", &gpu).await.unwrap();
    assert_eq!((before.elapsed().as_millis(), gpu.sample().memory_used_mb), (30, 7));
    assert!(shelf.has("a").await && !shelf.has("b").await);
    assert!(shelf.load("b", &gpu).await.unwrap_err().message.contains("there is no simulated model"));
}

#[test]
fn a_payload_tells_of_its_model() {
    let of = |payload: serde_json::Value| simulate().model_of(&payload.into());
    assert_eq!(of(json!({"model": "a", "duration_ms": 1})).as_deref(), Some("a"));
    assert_eq!(
        [json!({"duration_ms": 1}), json!({"model": 7}), json!({"result": {"model": "a"}}), json!(null)].map(of),
        [const { None }; 4]
    );
}

#[tokio::test(start_paused = true)]
async fn a_gpu_that_keeps_no_tensors_has_no_inputs() {
    let failure = run_on(&simulate(), &gpu(), json!({"inputs": [{"tensor": "x"}], "duration_ms": 5})).await.unwrap_err();
    assert_eq!((failure.message.as_str(), failure.retry), ("this GPU keeps no tensors", true));
    let asked = json!({"inputs": [{"tensor": "x"}], "fail": {"code": "oops"}});
    assert_eq!(run_on(&simulate(), &gpu(), asked).await.unwrap_err().code, "oops", "a failure that is asked for comes first");
}
