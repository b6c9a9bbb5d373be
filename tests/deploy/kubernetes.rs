//! The Kustomize base and its components. They are built, and held against the schemas of Kubernetes, of KEDA and of the Prometheus operator; no cluster takes them here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use protocol::config::Configuration;
use serde_json::Value;
use tempfile::TempDir;
use tests::{pages::root, program::gpufleet};

use crate::tools::{brought, document, documents, file, not_run, of_the_system, run, text_of};

/// What may be added to the base.
const COMPONENTS: [&str; 5] = ["keda", "keda-prometheus", "prometheus-operator", "simulated", "without-host-lock"];
/// The oldest version of Kubernetes that the base is for, and the newest whose schemas there are.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];
/// What no version of Kubernetes has by itself.
const CUSTOM: [&str; 3] = ["ScaledObject", "PodMonitor", "ServiceMonitor"];

/// The base with some components, built. `None` where there is no kubectl.
fn built(components: &[&str]) -> Option<Built> {
    let kubectl = brought("kubectl")?;
    let folder = tempfile::tempdir().expect("a folder");
    let copied = Command::new("cp").arg("-R").arg(root().join("deploy/kubernetes")).arg(folder.path()).status().expect("cp can be started");
    assert!(copied.success());
    let variant = folder.path().join("kubernetes/variant");
    fs::create_dir(&variant).expect("made");
    let named: Vec<String> = components.iter().map(|name| format!("../components/{name}")).collect();
    let kustomization = serde_json::json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": ["../base"], "components": named,
    });
    fs::write(variant.join("kustomization.yaml"), kustomization.to_string()).expect("written");
    Some(Built::of(&kubectl, &variant, folder))
}

struct Built {
    /// All objects in one file.
    path: PathBuf,
    objects: Vec<Value>,
    _folder: TempDir,
}

impl Built {
    fn of(kubectl: &Path, variant: &Path, folder: TempDir) -> Self {
        let said = run(kubectl, &["kustomize", text_of(variant)]);
        assert!(said.is_content, "{}: {}", variant.display(), said.text);
        let path = folder.path().join("built.yaml");
        fs::write(&path, &said.output).expect("written");
        Self { path, objects: documents(&said.output), _folder: folder }
    }

    fn find(&self, kind: &str, name: &str) -> &Value {
        let found = self.objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    fn pod_of(&self, deployment: &str) -> &Value {
        &self.find("Deployment", deployment)["spec"]["template"]["spec"]
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The configuration of the pods.
fn configuration() -> Configuration {
    serde_json::from_value(document(&file("kubernetes/base/gpufleet.yaml"))).expect("a configuration")
}

#[test]
fn the_base_and_each_component_keep_to_the_schemas_of_kubernetes() {
    let Some(validate) = brought("kubernetes-validate") else { return };
    let variants: Vec<Vec<&str>> = std::iter::once(Vec::new()).chain(COMPONENTS.map(|name| vec![name])).collect();
    for components in variants {
        let Some(built) = built(&components) else { return };
        for version in VERSIONS {
            let said = run(&validate, &["--strict", "--kubernetes-version", version, text_of(&built.path)]);
            assert!(said.is_content, "{components:?}, {version}: {}", said.text);
            let unknown = said.text.lines().filter(|line| line.starts_with("WARN") && !CUSTOM.iter().any(|kind| line.contains(kind)));
            assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&str>::new(), "{components:?}, {version}");
        }
    }
    let secret = run(&validate, &["--strict", "deploy/kubernetes/secret.example.yaml"]);
    assert!(secret.is_content, "{}", secret.text);
    not_run("the manifests in a cluster, which needs an engine; tests/deploy/kubernetes.rs holds them against schemas");
}

#[test]
fn a_slip_of_the_hand_in_a_manifest_is_found() {
    let (Some(validate), Some(built)) = (brought("kubernetes-validate"), built(&[])) else { return };
    let text = fs::read_to_string(&built.path).expect("the objects");
    fs::write(&built.path, text.replacen("terminationGracePeriodSeconds: 45", "terminationGraceSeconds: 45", 1)).expect("written");
    let said = run(&validate, &["--strict", text_of(&built.path)]);
    assert!(!said.is_content && said.text.contains("terminationGraceSeconds"), "{}", said.text);
}

#[test]
fn objects_of_keda_and_of_the_prometheus_operator_keep_to_their_schemas() {
    let Some(models) = brought("kubernetes-models") else { return };
    // Node looks for packages beside the program.
    let program = models.parent().and_then(Path::parent).expect("target/tools").join("custom-objects.mjs");
    fs::copy(root().join("tests/deploy/custom-objects.mjs"), &program).expect("copied");
    let mut checked = 0;
    for component in ["keda", "keda-prometheus", "prometheus-operator"] {
        let Some(built) = built(&[component]) else { return };
        let custom: Vec<&Value> = built.objects.iter().filter(|object| CUSTOM.iter().any(|kind| object["kind"] == *kind)).collect();
        checked += custom.len();
        let path = built.path.with_file_name("custom.json");
        fs::write(&path, serde_json::to_string(&custom).expect("JSON")).expect("written");
        let said = run(&of_the_system("node"), &[text_of(&program), text_of(&path)]);
        assert!(said.is_content, "{component}: {}", said.text);
    }
    assert_eq!(checked, 4);
}

#[test]
fn pods_are_given_nothing_that_they_do_not_need() {
    let Some(built) = built(&[]) else { return };
    for deployment in ["gpufleet-gateway", "gpufleet-worker"] {
        let pod = built.pod_of(deployment);
        assert_eq!(
            (&pod["securityContext"]["runAsNonRoot"], &pod["automountServiceAccountToken"]),
            (&Value::Bool(true), &Value::Bool(false))
        );
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        for container in list(&pod["containers"]).iter().chain(list(&pod["initContainers"])) {
            let (name, context) = (&container["name"], &container["securityContext"]);
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["privileged"], false, "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(context["capabilities"]["drop"][0], "ALL", "{name}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
        }
    }
}

#[test]
fn pods_have_time_to_drain_and_workers_are_asked_once() {
    let Some(built) = built(&[]) else { return };
    let grace_s = configuration().worker.drain_grace_ms / 1_000;
    for deployment in ["gpufleet-gateway", "gpufleet-worker"] {
        let pod = built.pod_of(deployment);
        let waits_before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap_or(0);
        let has = pod["terminationGracePeriodSeconds"].as_u64().expect("seconds");
        assert!(has > waits_before + grace_s + 5, "{deployment}: {has} s");
    }
    let worker = built.pod_of("gpufleet-worker");
    assert!(worker["containers"][0]["lifecycle"].is_null(), "SIGTERM is the drain; an operator's flag would outlive the pod");
    assert_eq!(built.find("Deployment", "gpufleet-worker")["spec"]["strategy"]["rollingUpdate"]["maxSurge"], 0, "there is no GPU to spare");
}

#[test]
fn a_worker_s_pod_has_one_gpu_its_host_s_locks_and_shared_memory() {
    let Some(built) = built(&[]) else { return };
    let (pod, configuration) = (built.pod_of("gpufleet-worker"), configuration());
    let container = &pod["containers"][0];
    assert_eq!(container["resources"]["limits"]["nvidia.com/gpu"], 1);
    assert!(list(&container["env"]).iter().all(|variable| variable["name"] != "NVIDIA_VISIBLE_DEVICES"), "past the device plugin");
    let volume = |name: &str| list(&pod["volumes"]).iter().find(|volume| volume["name"] == name).cloned().unwrap_or_default();
    let mounted =
        |path: &str| list(&container["volumeMounts"]).iter().find(|mount| mount["mountPath"] == path).cloned().unwrap_or_default();
    let lock_folder = configuration.gpu.lock_folder.to_str().expect("a path that is text");
    assert_eq!((&volume("locks")["hostPath"]["path"], &mounted(lock_folder)["name"]), (&Value::from(lock_folder), &Value::from("locks")));
    assert_eq!((&volume("shm")["emptyDir"]["medium"], &mounted("/dev/shm")["name"]), (&Value::from("Memory"), &Value::from("shm")));
}

#[test]
fn probes_ports_and_network_policies_go_by_the_configuration() {
    let Some(built) = built(&["prometheus-operator"]) else { return };
    let configuration = configuration();
    let port = |address: Option<&str>| address.and_then(|address| address.rsplit_once(':')).and_then(|(_, port)| port.parse::<u64>().ok());
    let expected = [
        ("gpufleet-gateway", "http", port(Some(configuration.gateway.listen.as_str()))),
        ("gpufleet-worker", "metrics", port(configuration.worker.metrics_listen.as_deref())),
        ("gpufleet-worker", "data", port(configuration.data.listen.as_deref())),
    ];
    for (deployment, name, number) in expected {
        let container = &built.pod_of(deployment)["containers"][0];
        let declared = list(&container["ports"]).iter().find(|port| port["name"] == name).expect("declared");
        assert_eq!(declared["containerPort"].as_u64(), number, "{deployment}: {name}");
        let policy = &built.find("NetworkPolicy", deployment)["spec"]["ingress"];
        assert!(list(policy).iter().any(|rule| rule["ports"][0]["port"] == name), "{deployment}: nobody may reach {name}");
    }
    for deployment in ["gpufleet-gateway", "gpufleet-worker"] {
        let container = &built.pod_of(deployment)["containers"][0];
        let paths = ["startupProbe", "livenessProbe", "readinessProbe"].map(|probe| container[probe]["httpGet"]["path"].as_str());
        assert_eq!(paths, [Some("/healthz"), Some("/healthz"), Some("/readyz")], "{deployment}");
    }
}

#[test]
fn scalers_ask_for_what_the_gateway_says_and_never_read_silence_as_zero() {
    let (Some(by_gateway), Some(by_prometheus)) = (built(&["keda"]), built(&["keda-prometheus"])) else { return };
    let configuration = configuration();
    for built in [&by_gateway, &by_prometheus] {
        let spec = &built.find("ScaledObject", "gpufleet-worker")["spec"];
        assert_eq!(spec["maxReplicaCount"], configuration.scaling.workers_max);
        assert_eq!(spec["minReplicaCount"], configuration.scaling.workers_min);
        assert_eq!(spec["fallback"]["behavior"], "currentReplicasIfHigher");
        assert_eq!(spec["triggers"][0]["metricType"], "AverageValue", "one pod has one GPU");
        assert!(built.find("Deployment", "gpufleet-worker")["spec"]["replicas"].is_null(), "the number of pods is KEDA's");
    }
    let asks = |built: &Built| built.find("ScaledObject", "gpufleet-worker")["spec"]["triggers"][0]["metadata"].clone();
    let metadata = asks(&by_gateway);
    let service = by_gateway.find("Service", "gpufleet-gateway");
    let (name, port) = (service["metadata"]["name"].as_str().expect("a name"), &service["spec"]["ports"][0]["port"]);
    assert_eq!(metadata["url"], format!("http://{name}.gpufleet.svc:{port}/api/v1/scaling"));
    assert_eq!((&metadata["valueLocation"], &metadata["targetValue"]), (&Value::from("desired_workers"), &Value::from("1")));
    let metadata = asks(&by_prometheus);
    assert_eq!((&metadata["ignoreNullValues"], &metadata["threshold"]), (&Value::from("false"), &Value::from("1")));
    assert!(metadata["query"].as_str().is_some_and(|query| query.contains("gpufleet_desired_workers")), "{metadata}");
}

#[test]
fn without_the_host_s_locks_the_namespace_keeps_to_the_level_restricted() {
    let Some(built) = built(&["without-host-lock"]) else { return };
    assert_eq!(built.find("Namespace", "gpufleet")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    let pod = built.pod_of("gpufleet-worker");
    assert!(list(&pod["volumes"]).iter().all(|volume| volume["hostPath"].is_null()), "{pod}");
    assert!(list(&pod["initContainers"]).is_empty(), "none needs root");
}

#[tokio::test]
async fn the_program_takes_the_configuration_of_the_pods() {
    let path = root().join("deploy/kubernetes/base/gpufleet.yaml");
    let servers = [("GPUFLEET_AMQP_URL", "amqp://broker.example"), ("GPUFLEET_REDIS_URL", "redis://redis.example")];
    let folder = tempfile::tempdir().expect("a folder");
    let checked = gpufleet(folder.path(), ["config", "check", "--config", text_of(&path)], &servers).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
}
