//! `gpufleet worker` on a host with NVIDIA GPUs, whose libraries are fakes: one process per GPU, kept alive, locked, and isolated from the others.

#![expect(clippy::unwrap_used, reason = "helpers of tests; their unwraps are a test's")]

use std::{fs, path::Path};

use fake_nvidia::{FakeMachine, FakeMig, FakeNvidia};
use producer::{NewTask, Producer};
use protocol::{GpuId, Health, Outcome, Reply, gpu::GpuView};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    program::{Ended, Program, gpu_check, gpufleet, kill},
    tasks::{PATIENCE, on, reply, result, simulate, started, task},
    until::until,
};

use crate::{
    http::{get_text, post},
    own_work::python_file,
    python_package::package,
    servers::Servers,
};

/// The modules that its operator allows. The fakes know these kernels by name.
const MODULES: [(&str, &str); 5] = [
    ("saxpy", r#"extern "C" __global__ void saxpy(unsigned int n, float a, const float *x, float *y) {}"#),
    ("fault", r#"extern "C" __global__ void fault() {}"#),
    ("sleep", r#"extern "C" __global__ void sleep_ms(unsigned int ms) {}"#),
    ("spin", r#"extern "C" __global__ void spin() {}"#),
    ("broken", "#error out of order"),
];

/// A host with GPUs, and the servers of its fleet.
struct Host {
    machine: FakeMachine,
    servers: Servers,
    folder: TempDir,
}

impl Host {
    async fn with(gpus: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("modules")).unwrap();
        for (name, text) in MODULES {
            fs::write(folder.path().join("modules").join(format!("{name}.cu")), text).unwrap();
        }
        Self { machine: FakeMachine::new(gpus), servers: Servers::fresh().await, folder }
    }

    fn uuid(&self, number: usize) -> String {
        self.machine.state().gpus[number].uuid.clone()
    }

    fn line(&self, arguments: &[&str]) -> Vec<String> {
        let mut line = self.servers.command_line(arguments);
        let (locks, modules) = (self.folder.path().join("locks"), self.folder.path().join("modules"));
        let settings = [
            format!("gpu.lock_folder={}", locks.display()),
            format!("kernel.directory={}", modules.display()),
            "worker.lease_ms=1500".to_owned(),
            "worker.offer_ms=1000".to_owned(),
            "redis.response_timeout_ms=1000".to_owned(),
        ];
        line.extend(settings.into_iter().flat_map(|setting| ["--set".to_owned(), setting]));
        line
    }

    fn start(&self, arguments: &[&str]) -> Program {
        self.start_with(arguments, &[])
    }

    fn start_with(&self, arguments: &[&str], more: &[(&str, &str)]) -> Program {
        let environment = self.machine.environment();
        let variables = environment.iter().map(|(name, value)| (*name, value.as_str()));
        let variables: Vec<(&str, &str)> = variables.chain(more.iter().copied()).collect();
        Program::start(self.line(arguments), &variables)
    }

    async fn run(&self, arguments: &[&str]) -> Ended {
        let environment = self.machine.environment();
        let variables: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        gpufleet(Path::new("/"), self.line(arguments), &variables).await
    }

    fn change(&self, change: impl FnOnce(&mut FakeNvidia)) {
        self.machine.change(change);
    }

    /// The process that has the lock of a GPU.
    fn holder(&self, gpu: &str) -> Option<u32> {
        let note = fs::read(self.folder.path().join("locks").join(format!("{gpu}.lock"))).ok()?;
        let note: Value = serde_json::from_slice(&note).ok()?;
        u32::try_from(note["pid"].as_u64()?).ok()
    }

    async fn row(&self, gpu: &str) -> Option<GpuView> {
        let gpu_id: GpuId = gpu.parse().unwrap();
        self.servers.rows().await.into_iter().find(|view| view.row.gpu.gpu_id == gpu_id)
    }
}

fn saxpy(a: f32, x: &[f32], y: &[f32]) -> NewTask {
    let arguments = json!([{"u32": x.len()}, {"f32": a}, {"in": {"f32": x}}, {"inout": {"f32": y}}]);
    task("kernel", json!({"module": "saxpy", "blocks": 1, "threads": 64, "arguments": arguments}))
}

fn sleeps(ms: u32) -> NewTask {
    task("kernel", json!({"module": "sleep", "kernel": "sleep_ms", "blocks": 1, "threads": 1, "arguments": [{"u32": ms}]}))
}

/// It never ends.
fn spins(attempt_timeout_ms: u64) -> NewTask {
    let mut task = task("kernel", json!({"module": "spin", "blocks": 1, "threads": 1}));
    task.body.limits.attempt_timeout_ms = Some(attempt_timeout_ms);
    task.body.limits.max_attempts = Some(1);
    task
}

async fn adds(producer: &Producer, gpu: &str) -> Reply {
    let answered = reply(producer, on(gpu, saxpy(2.0, &[1.0, 2.0], &[10.0, 20.0]))).await;
    assert_eq!(result(&answered), json!({"outputs": [[12.0, 24.0]]}));
    assert_eq!(answered.gpu_id.as_ref().unwrap().as_str(), gpu);
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_gpu_of_a_host_gets_a_process_of_its_own_and_runs_products_and_kernels() {
    let host = Host::with(2).await;
    let supervisor = host.start(&["worker"]);
    host.servers.eligible(2).await;
    let producer = host.servers.producer().await;
    for gpu in [host.uuid(0), host.uuid(1)] {
        let answered = adds(&producer, &gpu).await;
        assert!(answered.timings.device_ms.is_some(), "{:?}", answered.timings);
        let variables = fs::read(format!("/proc/{}/environ", host.holder(&gpu).unwrap())).unwrap();
        assert!(String::from_utf8_lossy(&variables).contains(&format!("CUDA_VISIBLE_DEVICES={gpu}\0")));
    }
    let factors = json!({"a": [[1, 2, 3], [4, 5, 6]], "b": [[1, 0], [0, 1], [1, 1]], "dtype": "f64", "check": true});
    let product = reply(&producer, task("matmul", factors)).await;
    assert_eq!(result(&product), json!({"product": [[4.0, 5.0], [10.0, 11.0]], "max_error": 0.0}));
    let refused = reply(&producer, task("kernel", json!({"module": "broken", "blocks": 1, "threads": 1}))).await;
    let error = refused.error.unwrap();
    assert_eq!((error.code.as_str(), error.field.as_deref()), ("invalid_payload", Some("payload.module")));
    assert!(error.message.contains("out of order"), "{}", error.message);

    supervisor.signal("TERM");
    assert_eq!(supervisor.exit_code().await, 0, "{}", supervisor.log());
    assert!(host.servers.rows().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_the_gpus_name_them_shortly_and_get_clear_refusals() {
    let host = Host::with(2).await;
    let _supervisor = host.start(&["worker"]);
    host.servers.eligible(2).await;
    let (first, second) = (host.uuid(0), host.uuid(1));

    let again = host.run(&["worker"]).await;
    assert_eq!(again.code, Some(3), "{again:?}");
    assert!(again.errors.contains("every GPU of this host has a worker already") && again.errors.contains(&first), "{again:?}");
    let one = host.run(&["worker", "--gpu", "1"]).await;
    assert_eq!(one.code, Some(3), "{one:?}");
    assert!(one.errors.contains(&format!("GPU {second} already has a worker on this host (process ")), "{one:?}");
    let unknown = host.run(&["worker", "--gpu", "GPU-ff"]).await;
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.errors.contains("no GPU is called \"GPU-ff\"") && unknown.errors.contains(&second), "{unknown:?}");

    let doctor = host.run(&["doctor"]).await;
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    for shown in
        ["NVML: ", "CUDA driver: 12.4", "NVRTC: 12.4", "cuBLAS: ", first.as_str(), "served by process", "MIG mode off", "peer access"]
    {
        assert!(doctor.output.contains(shown), "{shown}: {}", doctor.output);
    }
    let drained = host.run(&["drain", "1"]).await;
    assert_eq!(drained.code, Some(0), "{drained:?}");
    until("the second one drains", async || host.row(&second).await.is_some_and(|view| view.draining)).await;
    let undrained = host.run(&["undrain", &second.to_lowercase()]).await;
    assert_eq!(undrained.code, Some(0), "{undrained:?}");
    let submitted = host.run(&["submit", "echo", "--payload", "7", "--gpu", "0", "--wait"]).await;
    assert_eq!((submitted.code, submitted.output.trim()), (Some(0), "7"), "{submitted:?}");
}

/// Says which GPU its process sees.
const SEES: &str = r#"
import os
from gpufleet import task

@task
def sees() -> str:
    return os.environ["CUDA_VISIBLE_DEVICES"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_of_the_command_line_runs_beside_each_gpu_and_sees_that_one_alone() {
    let host = Host::with(2).await;
    let (_folder, file) = python_file("sees.py", SEES);
    let supervisor = host.start_with(&["worker", "--handler", file.to_str().unwrap()], &[("PYTHONPATH", &package().display().to_string())]);
    host.servers.eligible(2).await;
    let producer = host.servers.producer().await;
    for gpu in [host.uuid(0), host.uuid(1)] {
        assert_eq!(result(&reply(&producer, on(&gpu, task("sees", json!({})))).await), json!(gpu));
    }
    supervisor.signal("TERM");
    assert_eq!(supervisor.exit_code().await, 0, "{}", supervisor.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gpus_that_the_caller_may_not_use_are_left_alone() {
    let host = Host::with(2).await;
    let second = host.uuid(1);
    let supervisor = host.start_with(&["worker"], &[("CUDA_VISIBLE_DEVICES", &second)]);
    host.servers.eligible(1).await;
    adds(&host.servers.producer().await, &second).await;
    assert!(host.row(&host.uuid(0)).await.is_none() && host.holder(&host.uuid(0)).is_none(), "{}", supervisor.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_instances_of_a_gpu_in_mig_mode_are_served_and_a_gpu_without_any_is_named() {
    let host = Host::with(2).await;
    let (instance, empty) = (FakeMig::numbered(0, 0), host.uuid(1));
    host.change(|state| {
        state.gpus[0].mig = vec![instance.clone()];
        state.gpus[1].mig_enabled = true;
    });
    let supervisor = host.start(&["worker"]);
    host.servers.eligible(1).await;
    adds(&host.servers.producer().await, &instance.uuid).await;
    assert!(supervisor.log().contains(&format!("GPU 1 ({empty}) is in MIG mode and has no instance")), "{}", supervisor.log());

    let doctor = host.run(&["doctor"]).await;
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    let parted = format!("a MIG instance of {}", host.uuid(0));
    for shown in ["MIG mode on; instances: 1", &parted, "nvidia-smi mig -i 1 -cgi"] {
        assert!(doctor.output.contains(shown), "{shown}: {}", doctor.output);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_is_started_again_and_ends_with_its_supervisor() {
    let host = Host::with(2).await;
    let supervisor = host.start(&["worker"]);
    host.servers.eligible(2).await;
    let gpu = host.uuid(0);
    let (first, other) = (host.holder(&gpu).unwrap(), host.holder(&host.uuid(1)).unwrap());
    let producer = host.servers.producer().await;
    let pending = started(&producer, on(&gpu, simulate(2_000, "kept"))).await;
    kill(first);
    assert_eq!(result(&pending.await.unwrap()), "kept");
    assert_ne!(host.holder(&gpu).unwrap(), first);
    assert_eq!(host.holder(&host.uuid(1)).unwrap(), other, "the other GPU's process was not touched");
    adds(&producer, &gpu).await;

    supervisor.signal("KILL");
    assert_eq!(supervisor.exit_code().await, 137);
    until("the processes leave", async || host.servers.rows().await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_up_of_supervisor_and_workers_lets_their_tasks_end_and_every_line_of_their_log_is_json() {
    let host = Host::with(2).await;
    let environment = host.machine.environment();
    let variables: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let line = host.line(&["worker", "--set", "log.json=true"]);
    let supervisor = Program::start_with_signals("--default-signal=HUP", line, &variables);
    host.servers.eligible(2).await;
    let (producer, gpu) = (host.servers.producer().await, host.uuid(0));
    let pending = started(&producer, on(&gpu, simulate(2_500, "kept"))).await;
    let worker = host.holder(&gpu).unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-HUP", &worker]).status().unwrap().success());
    supervisor.signal("HUP");
    assert_eq!(supervisor.exit_code().await, 0, "{}", supervisor.log());
    let answered = pending.await.unwrap();
    assert_eq!((result(&answered), answered.attempt), (json!("kept"), 1));
    let log = supervisor.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    assert!(lines.iter().all(|line| line["level"].is_string() && line["message"].is_string()), "{log}");
    for message in ["worker left", "works", "gpufleet serves 2 NVIDIA GPUs, a process each"] {
        assert!(lines.iter().any(|line| line["message"] == message), "{message}: {log}");
    }
}

/// As real ones may, while a thread of the process still uses them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn libraries_that_crash_at_the_exit_crash_no_worker_that_was_told_to_end() {
    let host = Host::with(1).await;
    host.change(|machine| machine.dies_at_exit = true);
    let worker = host.start(&["worker", "--gpu", "0"]);
    host.servers.eligible(1).await;
    adds(&host.servers.producer().await, &host.uuid(0)).await;
    worker.signal("TERM");
    assert_eq!(worker.exit_code().await, 0, "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_that_never_ends_costs_its_process_and_a_new_one_takes_the_gpu() {
    let host = Host::with(1).await;
    let supervisor = host.start(&["worker"]);
    host.servers.eligible(1).await;
    let (producer, gpu) = (host.servers.producer().await, host.uuid(0));
    let first = host.holder(&gpu).unwrap();
    // Its module stays loaded, and so does this one's.
    adds(&producer, &gpu).await;
    assert_eq!(reply(&producer, spins(5_000)).await.outcome, Outcome::Failed);
    until("another process has the GPU", async || host.holder(&gpu).is_some_and(|holder| holder != first)).await;
    adds(&producer, &gpu).await;
    let log = supervisor.log();
    assert!(log.contains("work still runs 20 s after its task had ended"), "the log says why: {log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_worker_although_a_kernel_never_does() {
    let host = Host::with(1).await;
    let worker = host.start(&["worker", "--gpu", "0"]);
    host.servers.eligible(1).await;
    let producer = host.servers.producer().await;
    adds(&producer, &host.uuid(0)).await;
    let _runs_for_ever = producer.pending(spins(600_000), PATIENCE).await.unwrap();
    worker.logged("module=\"spin\"").await;
    worker.signal("TERM");
    worker.logged("a second signal stops at once").await;
    worker.signal("TERM");
    assert_eq!(worker.exit_code().await, 0, "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_that_poisons_the_context_is_found_alone_and_its_neighbours_succeed() {
    let host = Host::with(1).await;
    let supervisor = host.start(&["worker", "--set", "worker.crashes_max=2"]);
    host.servers.eligible(1).await;
    let producer = host.servers.producer().await;
    let mut neighbours = Vec::new();
    for _ in 0..3 {
        neighbours.push(started(&producer, sleeps(1_500)).await);
    }
    let poison = task("kernel", json!({"module": "fault", "blocks": 1, "threads": 1}));
    let poisoned = reply(&producer, poison).await;
    assert_eq!(poisoned.outcome, Outcome::Failed);
    assert_eq!(poisoned.error.unwrap().code, "quarantined");
    for neighbour in neighbours {
        result(&neighbour.await.unwrap());
    }
    let log = supervisor.log();
    assert!(log.contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "the log says why: {log}");
    adds(&producer, &host.uuid(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn xid_events_are_counted_and_one_that_asks_for_a_reset_costs_the_process_but_no_task() {
    let host = Host::with(1).await;
    let supervisor = host.start(&["worker", "--set", "worker.metrics_listen=127.0.0.1:0"]);
    let metrics = supervisor.logged("metrics are at ").await;
    host.servers.eligible(1).await;
    let gpu = host.uuid(0);
    host.change(|state| state.gpus[0].xids.push(63));
    until("it is counted", async || get_text(&metrics).await.contains(&format!("xid_errors_total{{gpu_id=\"{gpu}\",xid=\"63\"}} 1"))).await;

    let producer = host.servers.producer().await;
    let pending = started(&producer, sleeps(1_500)).await;
    let before = host.row(&gpu).await.unwrap().row.incarnation;
    host.change(|state| state.gpus[0].xids.push(79));
    until("a new process proves the GPU", async || {
        host.row(&gpu).await.is_some_and(|view| view.row.incarnation != before && view.row.health_reason.contains("re-admitted after"))
    })
    .await;
    let answered = pending.await.unwrap();
    result(&answered);
    assert_eq!(answered.attempt, 1, "the GPU's fault is not the task's");
    let log = supervisor.log();
    assert!(log.contains("Xid 79: the GPU has fallen off the bus"), "{log}");
    let metrics = log.lines().rev().find_map(|line| line.split_once("metrics are at ")).expect("the second process says so too").1;
    let counted = format!("xid_errors_total{{gpu_id=\"{gpu}\",xid=\"79\"}} 1");
    assert!(get_text(metrics.trim()).await.contains(&counted), "the process that saw it is gone, and the next one counts it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_that_cannot_be_used_shows_why_and_comes_back() {
    let host = Host::with(2).await;
    host.change(|state| state.gpus[1].wrong_results = true);
    let _supervisor = host.start(&["worker"]);
    until("it is quarantined", async || {
        host.row(&host.uuid(1)).await.is_some_and(|view| view.row.health == Health::Quarantined && view.row.consuming)
    })
    .await;
    let listed = host.run(&["gpus", "--wide"]).await;
    assert!(listed.output.contains("quarantined") && listed.output.contains("computes wrongly"), "{listed:?}");
    let producer = host.servers.producer().await;
    adds(&producer, &host.uuid(0)).await;
    host.change(|state| state.gpus[1].wrong_results = false);
    host.servers.eligible(2).await;
    adds(&producer, &host.uuid(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_checks_for_a_machine_with_a_gpu_pass_on_the_fakes_and_fail_where_it_computes_wrongly() {
    let host = Host::with(2).await;
    let (report, second) = (host.folder.path().join("gpu-check.md"), host.uuid(1));
    let check = async |more: &[&str]| {
        let mut command = tokio::process::Command::new(gpu_check());
        command.arg("--quick").args(more).arg(&report).envs(host.machine.environment()).env("CUDA_VISIBLE_DEVICES", &second[..]);
        let running = command.kill_on_drop(true).output();
        let ended = tokio::time::timeout(std::time::Duration::from_secs(300), running).await.unwrap().unwrap();
        (ended.status.code(), String::from_utf8(ended.stdout).unwrap(), fs::read_to_string(&report).unwrap())
    };
    let (code, output, written) = check(&[]).await;
    assert_eq!(code, Some(0), "{output}");
    assert!(!written.contains("FAILED") && written.matches("| passed |").count() >= 12, "{written}");
    assert!(written.contains(&format!("compute capability 9.0, {second}")) && !written.contains("did not come to it"), "{written}");

    host.change(|state| state.gpus[1].wrong_results = true);
    let (code, output, written) = check(&["--limit=5"]).await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("FAILED    matmul") && output.contains("computes wrongly"), "{output}");
    let late = "| a killed process is started again, and memory is given back | FAILED | no answer within 5 s";
    assert!(written.contains(late) && !written.contains("did not come to it"), "{written}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_is_offered_only_where_its_library_works() {
    let host = Host::with(1).await;
    host.change(|state| {
        // NVRTC 12.4 is older than this GPU.
        state.gpus[0].compute_capability = (10, 0);
        state.gpus[0].cublas_init_error = Some(14);
    });
    let supervisor = host.start(&["worker"]);
    host.servers.eligible(1).await;
    let kinds: Vec<String> = host.servers.rows().await[0].row.kinds.iter().map(ToString::to_string).collect();
    // Those of tensors need no library.
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).filter(|kind| !kind.starts_with("tensor.")).collect();
    assert_eq!(kinds, ["echo", "simulate"]);
    let log = supervisor.log();
    for reason in ["CUBLAS_STATUS_INTERNAL_ERROR", "does not know this GPU's architecture (sm_100)"] {
        assert!(log.contains(reason), "{reason}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_without_a_gpu_says_what_else_there_is() {
    let host = Host::with(0).await;
    let none = host.run(&["worker"]).await;
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.errors.contains("no NVIDIA GPU") && none.errors.contains("--simulated"), "{none:?}");
    let off = host.run(&["worker", "--set", "gpu.enabled=false"]).await;
    assert_eq!(off.code, Some(2), "{off:?}");
    assert!(off.errors.contains("gpu.enabled is false"), "{off:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_model_a_real_gpu_does_not_offer_predict_and_one_that_is_asked_for_is_refused_at_once() {
    let host = Host::with(1).await;
    let _supervisor = host.start(&["worker"]);
    host.servers.eligible(1).await;
    let gateway = host.servers.start(&["gateway", "--listen", "127.0.0.1:0", "--set", "gateway.predict_timeout_ms=1000"]);
    let url = format!("{}/api/v1/predict", gateway.url().await);
    let mut answer = (0, Value::Null);
    // Until the workers were heard of for a lease, a worker that serves it may be one that the table does not know.
    until("it is refused", async || {
        answer = post(&url, &json!({"text": "nobody has a model"})).await;
        answer.0 == 503
    })
    .await;
    let detail = answer.1["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("serves kind predict") && detail.contains("served now: echo, "), "{answer:?}");
    assert_eq!(answer.1["type"], "urn:gpufleet:problem:no-gpu");
}
