//! Ten thousand tasks.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::site::Site;

const MANY: usize = 10_000;
/// The largest page.
const PAGE: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tasks_are_listed_page_by_page() {
    let site = Site::start(2).await;
    let mut lines = String::new();
    for number in 0..MANY {
        writeln!(lines, "{}", json!({"kind": "echo", "task_id": format!("many-{number:05}"), "payload": number, "priority": number % 10}))
            .expect("a string takes everything");
    }
    let answers = site.sends("/api/v1/tasks:bulk", "application/x-ndjson", lines).await;
    let accepted =
        answers.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok_and(|answer| answer["task_id"].is_string())).count();
    assert_eq!(accepted, MANY, "{}", answers.lines().last().unwrap_or_default());
    site.until_listed("state=succeeded", MANY).await;

    let browser = &site.browser;
    site.page("#/tasks?state=succeeded").await;
    browser.until_shown("#matching", "10,000 tasks").await;
    browser.click(&format!("#page-size option[value='{PAGE}']")).await;
    let mut seen = std::collections::BTreeSet::new();
    for page in 1..=MANY / PAGE {
        browser.until_shown(".pager", &format!("Page {page}")).await;
        let full = format!(
            "document.querySelectorAll('tbody tr').length === {PAGE} && document.querySelector('.pager').innerText.includes('Page {page}')"
        );
        browser.until("the page is full", &full).await;
        let fresh = |before: &str| format!("document.querySelector('tbody th').innerText !== {}", json!(before));
        let ids = browser.value("[...document.querySelectorAll('tbody th')].map((cell) => cell.innerText)").await;
        let ids: Vec<String> = serde_json::from_value(ids).expect("ids");
        seen.extend(ids.iter().cloned());
        if page < MANY / PAGE {
            browser.click(".pager button:nth-of-type(3)").await;
            browser.until("the next page is shown", &fresh(&ids[0])).await;
        }
    }
    assert_eq!(seen.len(), MANY);
    browser.until("there is no older one", "document.querySelector('.pager button:nth-of-type(3)').disabled").await;
    browser.click(".pager button:nth-of-type(1)").await;
    browser.until_shown(".pager", "Page 1").await;

    browser.write("#filter-id_prefix", "many-0777").await;
    browser.press(&["\u{E007}"]).await;
    browser.until_shown("#matching", "10 tasks").await;
    browser.until("they are listed", "document.querySelectorAll('tbody tr').length === 10").await;
    site.all_is_well("10,000 tasks").await;
    more_than_one_request_reaches_are_cancelled(&site).await;
}

/// As many as take two requests, by one click and one answer.
async fn more_than_one_request_reaches_are_cancelled(site: &Site) {
    const LATER: usize = 1_200;
    let mut lines = String::new();
    for number in 0..LATER {
        let task = json!({"kind": "echo", "task_id": format!("later-{number:04}"), "group": "later", "delay_ms": 3_600_000});
        writeln!(lines, "{task}").expect("a string takes everything");
    }
    site.sends("/api/v1/tasks:bulk", "application/x-ndjson", lines).await;
    site.until_listed("group=later&state=delayed", LATER).await;
    let browser = &site.browser;
    site.page("#/tasks?group=later").await;
    browser.until_shown("#matching", "1,200 tasks").await;
    browser.click(".page > .actions button:nth-of-type(1)").await;
    browser.until_shown("dialog", "Cancel 1,200 tasks?").await;
    browser.click("dialog [data-confirm]").await;
    browser.until_shown(".notice", "The end of 1,200 tasks was asked for").await;
    site.until_listed("group=later&state=cancelled", LATER).await;
    site.all_is_well("1,200 tasks cancelled").await;
}
