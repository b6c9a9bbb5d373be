//! What a task says is text, whatever it says.

use gateway::url_encoded;
use serde_json::json;

use crate::site::{DEAD, HOSTILE_IDS, HOSTILE_KIND, HOSTILE_TEXT, Site};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_task_says_runs_in_the_page() {
    let site = Site::with_everything().await;
    let browser = &site.browser;
    for page in [
        "#/",
        "#/gpus",
        "#/gpus/sim-0",
        "#/tasks",
        "#/tasks?slices=true",
        "#/running",
        "#/dead",
        "#/settings",
        "#/tasks/done",
        "#/tasks/failed",
        "#/tasks/retrying",
    ] {
        site.page(page).await;
        site.all_is_well(page).await;
    }
    for id in HOSTILE_IDS {
        site.page("#/tasks?state=waiting").await;
        browser.until_shown("th[scope=row]", id).await;
        site.page(&format!("#/tasks/{}", url_encoded(id))).await;
        browser.until_shown("h1", id).await;
        browser.until("the reason is told", "document.getElementById('why')?.innerText.length > 10").await;
        site.all_is_well(id).await;
        site.page(&format!("#/tasks?id_prefix={}", url_encoded(id))).await;
        browser.until_shown("#matching", "1 task").await;
        browser.until_shown(".page > .actions", id).await;
        // Into the question and out of it.
        browser.click(".page > .actions button:nth-of-type(1)").await;
        browser.until_shown("dialog", id).await;
        browser.click("dialog button:not([data-confirm])").await;
        browser.until_shown(".notice", "Nothing was cancelled").await;
        site.all_is_well(id).await;
    }
    site.page("#/tasks/failed").await;
    browser.until_shown(".steps", HOSTILE_TEXT).await;
    site.page("#/dead").await;
    browser.until_shown("tbody", HOSTILE_KIND).await;
    browser.click("tbody summary").await;
    browser.until_shown("pre", HOSTILE_TEXT).await;
    site.page(&format!("#/tasks/{DEAD}")).await;
    site.page(&format!("#/{}", url_encoded(HOSTILE_TEXT))).await;
    browser.until_shown("h1", "No such page").await;
    site.all_is_well("hostile texts").await;
    assert_eq!(browser.count("main img, main script, main svg[onload]").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_stops_what_gets_into_the_page_all_the_same() {
    let site = Site::start(1).await;
    site.page("#/").await;
    let plant = "(() => { const planted = document.createElement('script'); planted.textContent = \"window.__hacked = 'planted'\"; document.body.append(planted); return 1; })()";
    site.browser.value(plant).await;
    let elsewhere = "fetch('http://127.0.0.1:1/').catch(() => {}) && 1";
    site.browser.value(elsewhere).await;
    site.browser.until("both were stopped", "window.__violations.length >= 2").await;
    assert_eq!(site.browser.value("window.__hacked ?? null").await, json!(null));
}
