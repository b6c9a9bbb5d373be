//! Alert rules, their own tests, and the example of a configuration.

use std::{fs, path::Path};

use serde_json::Value;

use crate::tools::{Said, document, file, of_the_system, run, text_of};

fn promtool(arguments: &[&str]) -> Said {
    run(&of_the_system("promtool"), arguments)
}

/// The rules, in their order.
pub fn rules() -> Vec<Value> {
    let rules = document(&file("prometheus/rules.yaml"));
    let groups = rules["groups"].as_array().expect("groups").clone();
    groups.iter().flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

#[test]
fn promtool_loads_the_rules_and_the_configuration() {
    for arguments in [["check", "rules", "deploy/prometheus/rules.yaml"], ["check", "config", "deploy/prometheus/prometheus.yaml"]] {
        let said = promtool(&arguments);
        assert!(said.is_content, "{}", said.text);
    }
}

#[test]
fn each_alert_fires_in_one_case_and_stays_silent_in_another() {
    let said = promtool(&["test", "rules", "deploy/prometheus/rules_test.yaml"]);
    assert!(said.is_content, "{}", said.text);
    let cases = document(&file("prometheus/rules_test.yaml"));
    let cases = cases["tests"].as_array().expect("tests");
    let named = |beginning: &str| cases.iter().filter(|case| case["name"].as_str().is_some_and(|name| name.starts_with(beginning))).count();
    for rule in rules() {
        let alert = rule["alert"].as_str().expect("a name");
        assert_eq!((named(&format!("{alert} fires")), named(&format!("{alert} stays silent "))), (1, 1), "{alert}");
    }
    assert_eq!(cases.len(), 2 * rules().len(), "a case for what is no alert");
    for case in cases {
        let (name, expected) = (case["name"].as_str().expect("a name"), &case["promql_expr_test"][0]["exp_samples"]);
        match name.strip_suffix(" fires") {
            Some(alert) => assert_eq!(expected[0]["labels"], format!("{{alertname=\"{alert}\"}}"), "{name}"),
            None => assert_eq!(expected.as_array().map(Vec::len), Some(0), "{name}"),
        }
    }
}

#[test]
fn cases_find_a_rule_that_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = file("prometheus/rules.yaml");
    let wrong = rules.replacen("gpufleet_server_up) == 0", "gpufleet_server_up) == 2", 1);
    assert_ne!(rules, wrong);
    write(folder.path(), "rules.yaml", &wrong);
    write(folder.path(), "rules_test.yaml", &file("prometheus/rules_test.yaml"));
    let said = promtool(&["test", "rules", text_of(&folder.path().join("rules_test.yaml"))]);
    assert!(!said.is_content && said.text.contains("GpufleetServerAway"), "{}", said.text);
}

#[test]
fn alerts_say_how_urgent_they_are_and_what_to_do() {
    for rule in rules() {
        let alert = rule["alert"].as_str().expect("a name");
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["page", "ticket"].contains(&severity), "{alert}: {severity}");
        for annotation in ["summary", "description"] {
            assert!(rule["annotations"][annotation].as_str().is_some_and(|text| text.len() > 20), "{alert}: {annotation}");
        }
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    fs::write(folder.join(name), text).expect("written");
}
