//! The dashboard: its questions are PromQL, and ask for metrics that there are. So do the alerts. Grafana itself is in no registry that tests reach.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tests::pages::root;

use crate::{
    prometheus::rules,
    tools::{file, of_the_system, run, text_of},
};

/// What begins a name of ours, or of what every process shows of itself.
const OURS: [&str; 5] = ["gpufleet_", "gpu_", "gateway_", "xid_", "process_"];
/// What Prometheus adds to the name of a histogram.
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_sum", "_count"];

fn dashboard() -> Value {
    serde_json::from_str(&file("grafana/gpufleet.json")).expect("JSON")
}

fn panels() -> Vec<Value> {
    dashboard()["panels"].as_array().expect("panels").clone()
}

/// The questions of all panels, with values for Grafana's variables.
fn questions() -> Vec<String> {
    let panels = panels();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let asked = targets.map(|target| target["expr"].as_str().expect("a question"));
    asked.map(|expr| expr.replace("$__rate_interval", "5m").replace("$kind", ".*").replace("$gpu", ".*")).collect()
}

/// Every word of a text that a metric may be called.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
}

/// The metrics that questions ask for. Labels are no metrics, although some begin as ours do.
fn asked(questions: &[String]) -> BTreeSet<String> {
    let labels = ["gpu_id"];
    let words = questions.iter().flat_map(|question| words(question));
    words.filter(|word| OURS.iter().any(|ours| word.starts_with(ours)) && !labels.contains(word)).map(str::to_owned).collect()
}

/// The metrics that the sources name between quotation marks.
fn registered() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in ["src", "workers"] {
        sources(&root().join(folder), &mut |text| {
            let between = text.split('"').filter(|word| OURS.iter().any(|ours| word.starts_with(ours)));
            names.extend(between.filter(|word| words(word).count() == 1).map(str::to_owned));
        });
    }
    names
}

fn sources(folder: &Path, look: &mut impl FnMut(&str)) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, look);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            look(&fs::read_to_string(&path).expect("a source"));
        }
    }
}

/// Those that nobody registers. A process shows its own by a library.
fn unknown(asked: &BTreeSet<String>, registered: &BTreeSet<String>) -> Vec<String> {
    let is_known = |name: &str| {
        name.starts_with("process_")
            || registered.contains(name)
            || OF_HISTOGRAMS.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|stem| registered.contains(stem)))
    };
    asked.iter().filter(|name| !is_known(name)).cloned().collect()
}

#[test]
fn every_question_of_the_dashboard_is_promql() {
    let folder = tempfile::tempdir().expect("a folder");
    let as_rule = |(number, expr): (u32, String)| json!({ "record": format!("dashboard:question{number}"), "expr": expr });
    let recorded: Vec<Value> = (0..).zip(questions()).map(as_rule).collect();
    let rules = json!({ "groups": [{ "name": "dashboard", "rules": recorded }] });
    let path = folder.path().join("questions.yaml");
    // JSON is YAML.
    fs::write(&path, rules.to_string()).expect("written");
    let said = run(&of_the_system("promtool"), &["check", "rules", text_of(&path)]);
    assert!(said.is_content, "{}", said.text);
}

#[test]
fn dashboard_and_alerts_ask_for_metrics_that_there_are() {
    let registered = registered();
    assert!(registered.len() > 60, "{registered:?}");
    let alerts: Vec<String> = rules().iter().map(|rule| rule["expr"].as_str().expect("an expression").to_owned()).collect();
    for questions in [questions(), alerts] {
        let asked = asked(&questions);
        assert!(asked.len() > 20, "{asked:?}");
        assert_eq!(unknown(&asked, &registered), Vec::<String>::new());
    }
    let mistaken = asked(&["rate(gpufleet_run_second_sum[5m])".to_owned()]);
    assert_eq!(unknown(&mistaken, &registered), ["gpufleet_run_second_sum"], "a slip of the hand is found");
}

#[test]
fn the_dashboard_has_the_eight_panels_of_operators_and_each_of_its_figures_has_a_unit() {
    let panels = panels();
    let rows: Vec<&str> = panels.iter().filter(|panel| panel["type"] == "row").filter_map(|row| row["title"].as_str()).collect();
    assert_eq!(rows.len(), 8, "{rows:?}");
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().expect("a number")).collect();
    assert_eq!(ids.len(), panels.len(), "an id is there twice");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{}", panel["title"]);
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        let (x, width) = (panel["gridPos"]["x"].as_u64().expect("x"), panel["gridPos"]["w"].as_u64().expect("w"));
        assert!(x + width <= 24, "{} does not fit", panel["title"]);
    }
}
