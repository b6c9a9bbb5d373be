//! The images' Dockerfiles and the Compose project. No engine builds or runs them here.

use std::fs;

use protocol::config::Configuration;
use serde_json::Value;
use tests::pages::root;

use crate::tools::{Said, brought, document, file, not_run, run, text_of};

const PROJECT: &str = "deploy/compose/compose.yaml";
const VARIABLES: &str = "deploy/compose/.env.example";

/// What Compose makes of the project, with all its profiles. `None` where there is no Compose.
fn composed(project: &str, more: &[&str]) -> Option<Said> {
    let compose = brought("docker-compose")?;
    let mut arguments = vec!["--file", project, "--env-file", VARIABLES, "--profile", "*", "config"];
    arguments.extend(more);
    Some(run(&compose, &arguments))
}

/// `1m30s`, as Compose writes times.
fn seconds(time: &str) -> u64 {
    let mut seconds = 0;
    let mut number = String::new();
    for character in time.chars() {
        let unit = match character {
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            digit => {
                number.push(digit);
                continue;
            }
        };
        seconds += number.parse::<u64>().expect("a number") * unit;
        number.clear();
    }
    seconds
}

#[test]
fn hadolint_takes_the_dockerfiles() {
    let Some(hadolint) = brought("hadolint") else { return };
    let said = run(&hadolint, &["--failure-threshold", "style", "deploy/container/Dockerfile", "deploy/container/Dockerfile.python"]);
    assert!(said.is_content && said.text.trim().is_empty(), "{}", said.text);
    not_run("a build of the image, which needs an engine; tests/deploy/image.rs starts its file system");
}

#[test]
fn the_image_is_for_nobody_in_particular_and_has_an_init() {
    let dockerfile = file("container/Dockerfile");
    for line in [
        "USER 10001:10001",
        "ENTRYPOINT [\"/usr/bin/tini\", \"--\", \"/usr/local/bin/gpufleet\"]",
        "STOPSIGNAL SIGTERM",
        "HEALTHCHECK NONE",
        "ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ] {
        assert!(dockerfile.lines().any(|found| found == line), "{line}");
    }
    let ignored = fs::read_to_string(root().join(".dockerignore")).expect("the file");
    for folder in ["/.git", "/target", "/deploy/compose/.env"] {
        assert!(ignored.lines().any(|line| line == folder), "{folder} would go into the build");
    }
    let toolchain = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let needed = toolchain.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("a version").trim_matches('"').to_owned();
    assert!(dockerfile.contains(&format!("FROM rust:{needed}-slim-")), "built by the Rust that the workspace asks for, {needed}");
}

#[test]
fn compose_takes_the_project_and_finds_a_slip_of_the_hand() {
    let Some(said) = composed(PROJECT, &["--quiet"]) else { return };
    assert!(said.is_content && said.text.trim().is_empty(), "{}", said.text);

    let folder = tempfile::tempdir().expect("a folder");
    let wrong = folder.path().join("compose.yaml");
    fs::write(&wrong, file("compose/compose.yaml").replace("stop_grace_period:", "stop_grace:")).expect("written");
    let said = composed(text_of(&wrong), &["--quiet"]).expect("it is there");
    assert!(!said.is_content && said.text.contains("stop_grace"), "{}", said.text);
}

#[test]
fn services_of_ours_have_time_to_drain_and_nothing_that_they_do_not_need() {
    let Some(said) = composed(PROJECT, &["--format", "json"]) else { return };
    assert!(said.is_content, "{}", said.text);
    let project: Value = serde_json::from_str(&said.output).expect("JSON");
    let services = project["services"].as_object().expect("services");
    let grace_s = Configuration::default().worker.drain_grace_ms / 1_000;
    let ours: Vec<_> =
        services.iter().filter(|(_, service)| service["image"].as_str().is_some_and(|image| image.starts_with("gpufleet:"))).collect();
    assert_eq!(ours.len(), 3, "{services:?}");
    for (name, service) in ours {
        assert!(seconds(service["stop_grace_period"].as_str().expect("a time")) > grace_s + 5, "{name}");
        assert_eq!((&service["read_only"], &service["cap_drop"][0]), (&Value::Bool(true), &Value::from("ALL")), "{name}");
        assert_eq!(service["security_opt"][0], "no-new-privileges:true", "{name}");
        assert_eq!(service["depends_on"]["redis"]["condition"], "service_healthy", "{name}");
    }
    for (name, service) in services {
        assert!(service["healthcheck"]["test"].is_array(), "{name} has no health check");
        for port in service["ports"].as_array().into_iter().flatten() {
            assert_eq!(port["host_ip"], "127.0.0.1", "{name} is open to the network");
        }
    }
    assert_eq!(services["worker"]["deploy"]["replicas"], 2);
    let words = services["redis"]["command"].as_array().expect("words");
    for setting in [["--appendonly", "yes"], ["--maxmemory-policy", "noeviction"]] {
        assert!(words.windows(2).any(|pair| pair == setting), "{setting:?}: {words:?}");
    }
    // The locks of GPUs are the host's.
    let locks = &services["gpu-worker"]["volumes"][0];
    assert_eq!(locks["source"].as_str(), Configuration::default().gpu.lock_folder.to_str());
    assert_eq!(locks["source"], locks["target"]);
}

#[test]
fn prometheus_scrapes_the_services_that_there_are() {
    let Some(said) = composed(PROJECT, &["--format", "json"]) else { return };
    let project: Value = serde_json::from_str(&said.output).expect("JSON");
    let configuration = document(&file("prometheus/prometheus.yaml"));
    for scraped in configuration["scrape_configs"].as_array().expect("jobs") {
        let (name, port) = (&scraped["dns_sd_configs"][0]["names"][0], &scraped["dns_sd_configs"][0]["port"]);
        let service = &project["services"][name.as_str().expect("a name")];
        let listens =
            ["GPUFLEET__GATEWAY__LISTEN", "GPUFLEET__WORKER__METRICS_LISTEN"].map(|variable| service["environment"][variable].as_str());
        assert!(listens.contains(&Some(format!("0.0.0.0:{port}").as_str())), "{name}: {listens:?}");
        assert!(scraped["job_name"].as_str().is_some_and(|job| job.starts_with("gpufleet-")), "rules tell jobs by their names");
    }
}
