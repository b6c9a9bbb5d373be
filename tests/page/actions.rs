//! What operators do by clicks, looked up at the gateway afterwards.

use reqwest::Method;
use serde_json::json;
use tests::{browser::key, until::until};

use crate::site::{DEAD, GROUP, Site, WAITING};

/// The button that agrees in a dialog that asks.
const AGREE: &str = "dialog[open] [data-confirm]";
/// The button of the tasks' page that cancels what is listed.
const CANCEL_THESE: &str = ".page > .actions button:nth-of-type(1)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_action_of_the_page_is_done_at_the_fleet() {
    let site = Site::with_everything().await;
    one_running_task_is_cancelled(&site).await;
    many_tasks_are_cancelled_and_the_question_says_how_many(&site).await;
    a_gpu_is_drained_and_undrained(&site).await;
    settings_are_changed_and_the_log_says_who_did_it(&site).await;
    dead_letters_are_requeued_and_purged(&site).await;
    a_refusal_is_shown(&site).await;
}

/// Clicks on a button by what screen readers call it.
async fn press(site: &Site, label: &str) {
    site.browser.click(&format!("button[aria-label={}]", json!(label))).await;
}

async fn one_running_task_is_cancelled(site: &Site) {
    site.page("#/running").await;
    press(site, "Cancel task running-0").await;
    site.browser.until_shown("dialog", "Cancel task running-0?").await;
    // Who did not mean it leaves it.
    site.browser.press(&[key::ESCAPE]).await;
    site.browser.until("the dialog is gone", "!document.querySelector('dialog')").await;
    assert_eq!(site.state("running-0").await, "running");
    press(site, "Cancel task running-0").await;
    site.browser.click(AGREE).await;
    site.browser.until_shown(".notice", "running-0").await;
    site.until_state("running-0", "cancelled").await;
    site.browser
        .until("it is no longer listed", "![...document.querySelectorAll('tbody th')].some((cell) => cell.innerText === 'running-0')")
        .await;
    site.all_is_well("cancel one").await;
}

async fn many_tasks_are_cancelled_and_the_question_says_how_many(site: &Site) {
    // Delayed ones stay open for as long as the test needs.
    for number in 0..WAITING {
        site.submit(json!({"kind": "echo", "task_id": format!("later-{number}"), "group": "later", "delay_ms": 3_600_000})).await;
    }
    site.until_listed("group=later&state=delayed", WAITING).await;
    site.page("#/tasks?group=later").await;
    site.browser.until_shown("#matching", &format!("{WAITING} tasks")).await;
    site.browser.click(CANCEL_THESE).await;
    site.browser.until_shown("dialog", &format!("Cancel {WAITING} tasks?")).await;
    site.browser.until_shown("dialog", "in group later").await;
    site.browser.click(AGREE).await;
    site.browser.until_shown(".notice", &format!("The end of {WAITING} tasks was asked for")).await;
    site.until_listed("group=later&state=cancelled", WAITING).await;
    assert_ne!(site.state("delayed").await, "cancelled", "it is not in the group");
    // What has ended cannot be cancelled.
    site.page("#/tasks?state=succeeded").await;
    site.browser.until("the button is off", &format!("document.querySelector('{CANCEL_THESE}')?.disabled")).await;
    site.all_is_well("cancel many").await;
}

async fn a_gpu_is_drained_and_undrained(site: &Site) {
    let draining = async |gpu: usize| site.get("/api/v1/gpus").await["gpus"][gpu]["draining"] == true;
    site.page("#/gpus").await;
    press(site, "Drain GPU sim-0").await;
    site.browser.until_shown("dialog", "takes no more").await;
    site.browser.click(AGREE).await;
    until("sim-0 drains", async || draining(0).await).await;
    press(site, "Undrain GPU sim-0").await;
    until("sim-0 takes tasks again", async || !draining(0).await).await;
    site.page("#/gpus/sim-2").await;
    press(site, "Undrain GPU sim-2").await;
    until("sim-2 takes tasks again", async || !draining(2).await).await;
    site.all_is_well("drain").await;
}

async fn settings_are_changed_and_the_log_says_who_did_it(site: &Site) {
    site.page("#/settings").await;
    let browser = &site.browser;
    browser.click("#strategy option[value=round_robin]").await;
    browser.click(".page > section:nth-of-type(1) button[type=submit]").await;
    until("the strategy is set", async || site.get("/api/v1/settings").await["default_strategy"] == "round_robin").await;
    browser.write("#memory-threshold", "80").await;
    browser.write("#utilization-threshold", "70.5").await;
    browser.click(".page > section:nth-of-type(2) button[type=submit]").await;
    until("the thresholds are set", async || {
        let settings = site.get("/api/v1/settings").await;
        settings["memory_threshold"] == 0.8 && settings["utilization_threshold"] == 0.705
    })
    .await;
    for action in ["set strategy", "set thresholds", "undrain", "127.0.0.1"] {
        browser.until_shown("tbody", action).await;
    }
    site.all_is_well("settings").await;
}

async fn dead_letters_are_requeued_and_purged(site: &Site) {
    site.page("#/dead").await;
    // It is no task now either: its worker sends it back.
    press(site, &format!("Requeue {DEAD}")).await;
    site.browser.until_shown(".notice", DEAD).await;
    until("it is dead again, or still", async || site.dead().await == 1).await;
    site.page("#/").await;
    site.page("#/dead").await;
    press(site, &format!("Purge {DEAD}")).await;
    site.browser.until_shown("dialog", "deleted for good").await;
    site.browser.click(AGREE).await;
    until("it is gone", async || site.dead().await == 0).await;
    site.browser.until_shown(".panel", "There are no dead letters").await;

    // Another one: what comes again under an id that is answered is a copy, and is not kept.
    site.bury("dead-2").await;
    site.page("#/").await;
    site.page("#/dead").await;
    site.browser.click(".panel-body .actions button.danger").await;
    site.browser.until_shown("dialog", "Purge all 1 dead letter?").await;
    site.browser.click(AGREE).await;
    until("all are gone", async || site.dead().await == 0).await;
    site.all_is_well("dead letters").await;
}

async fn a_refusal_is_shown(site: &Site) {
    // It ends between the look and the click.
    site.page("#/tasks/running-1").await;
    site.browser.click(".page .actions button").await;
    site.browser.until_shown("dialog", "Cancel task running-1?").await;
    site.asks(Method::DELETE, "/api/v1/tasks/running-1", None).await;
    site.until_state("running-1", "cancelled").await;
    site.browser.click(AGREE).await;
    site.browser.until_shown(".notice.bad", "had ended already").await;
    // Of that answer (409) the console has a line, and nothing else went wrong.
    let troubles = site.browser.troubles().await;
    assert!(troubles.iter().all(|trouble| trouble.contains("409")), "{troubles:?}");
    // What waited behind the other one runs.
    site.asks(Method::DELETE, "/api/v1/tasks/running-0", None).await;
    site.until_listed(&format!("group={GROUP}&state=succeeded"), WAITING).await;
}
