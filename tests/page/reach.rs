//! What a person without a mouse, or without eyes, reaches.

use serde_json::json;
use tests::browser::key;

use crate::site::Site;

/// Every element that can be used and has no name, every table without a caption, every cell of a head without a scope, every id that is there twice.
const NAMELESS: &str = r"(() => {
    const found = [];
    const name = (one) => one.getAttribute('aria-label') || one.innerText?.trim() || [...(one.labels ?? [])].map((label) => label.innerText).join(' ') || one.getAttribute('title');
    for (const one of document.querySelectorAll('a, button, input, select, [role=img], [tabindex=\'0\']')) {
        if (!name(one)) {
            found.push(`no name: ${one.tagName} ${one.id} ${one.className}`);
        }
    }
    for (const table of document.querySelectorAll('table')) {
        if (!table.caption?.textContent) {
            found.push('a table without a caption');
        }
        for (const cell of table.querySelectorAll('th')) {
            if (!cell.scope) {
                found.push(`no scope: ${cell.innerText}`);
            }
        }
    }
    const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
    found.push(...ids.filter((id, index) => ids.indexOf(id) !== index).map((id) => `twice: ${id}`));
    if (document.querySelectorAll('h1').length !== 1 || !document.documentElement.lang || !document.title) {
        found.push('no heading, language or title');
    }
    return found;
})()";

/// What has the focus, and whether that is seen.
const FOCUS: &str = r"(() => {
    const one = document.activeElement;
    const style = getComputedStyle(one);
    return { text: one.getAttribute('aria-label') || one.innerText || one.id, seen: one.matches(':focus-visible') && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2 };
})()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_has_a_name_and_is_reached_with_the_keyboard() {
    let site = Site::with_everything().await;
    let browser = &site.browser;
    for page in ["#/", "#/gpus", "#/gpus/sim-0", "#/tasks", "#/running", "#/tasks/done", "#/tasks/waiting-0", "#/dead", "#/settings"] {
        site.page(page).await;
        assert_eq!(browser.value(NAMELESS).await, json!([]), "{page}");
    }
    the_content_is_one_key_away(&site).await;
    every_control_has_its_turn(&site).await;
    a_task_is_cancelled_by_keys_alone(&site).await;
    a_chart_is_read_by_keys(&site).await;
    the_focus_stays_while_figures_change(&site).await;
    site.all_is_well("keyboard").await;
}

async fn the_content_is_one_key_away(site: &Site) {
    let browser = &site.browser;
    browser.open("about:blank").await;
    site.page("#/").await;
    browser.press(&[key::TAB]).await;
    let focus = browser.value(FOCUS).await;
    assert_eq!((&focus["text"], &focus["seen"]), (&json!("Skip to the content"), &json!(true)));
    browser.press(&[key::ENTER]).await;
    browser.until("the content has the focus", "document.activeElement.id === 'main'").await;
}

async fn every_control_has_its_turn(site: &Site) {
    let browser = &site.browser;
    browser.open("about:blank").await;
    site.page("#/gpus").await;
    browser.until("there are four GPUs", "document.querySelectorAll('.card').length === 4").await;
    let controls = browser.value("[...document.querySelectorAll('a, button, input, select, [tabindex=\\'0\\']')].filter((one) => !one.disabled && one.checkVisibility()).length").await;
    let mut reached = Vec::new();
    for _ in 0..controls.as_u64().expect("a number") {
        browser.press(&[key::TAB]).await;
        let focus = browser.value(FOCUS).await;
        assert_eq!(focus["seen"], true, "the focus is not seen: {focus}");
        reached.push(focus["text"].as_str().unwrap_or_default().to_owned());
    }
    for control in ["Overview", "Settings", "find-id", "in any state", "gpu-text", "sim-0", "Drain GPU sim-0", "Undrain GPU sim-2"] {
        assert!(reached.iter().any(|text| text.contains(control)), "{control} is not reached: {reached:?}");
    }
}

async fn a_task_is_cancelled_by_keys_alone(site: &Site) {
    let browser = &site.browser;
    site.page("#/tasks/running-1").await;
    browser.until("the heading has the focus", "document.activeElement.tagName === 'H1'").await;
    let mut left = 20;
    while browser.value(FOCUS).await["text"] != "Cancel task running-1" {
        assert!(left > 0, "the button is not reached");
        left -= 1;
        browser.press(&[key::TAB]).await;
    }
    browser.press(&[key::ENTER]).await;
    // The harmless answer has the focus; the other one is next to it.
    browser.until("the question is asked", "document.activeElement.innerText === 'Leave it'").await;
    browser.press(&[key::TAB, key::ENTER]).await;
    site.until_state("running-1", "cancelled").await;
}

async fn a_chart_is_read_by_keys(site: &Site) {
    let browser = &site.browser;
    site.page("#/").await;
    browser.until("a chart has points", "document.querySelector('svg.chart path')?.getAttribute('d')").await;
    browser.value("document.querySelector('svg.chart').focus() ?? 1").await;
    browser.press(&[key::LEFT]).await;
    browser.until("a point is chosen", "document.querySelector('svg.chart .cursor')").await;
    let said = browser.value("document.querySelector('svg.chart').getAttribute('aria-label')").await;
    assert!(said.as_str().is_some_and(|text| text.contains("waiting: ") && text.contains(" tasks now")), "{said}");
}

async fn the_focus_stays_while_figures_change(site: &Site) {
    let browser = &site.browser;
    site.page("#/gpus").await;
    let keep = "(() => { window.__kept = document.querySelector('.card button'); window.__kept.focus(); window.__before = document.getElementById('live-time').innerText; return 1; })()";
    browser.until("there are GPUs", "document.querySelector('.card button')").await;
    browser.value(keep).await;
    browser.until("new figures came", "document.getElementById('live-time').innerText !== window.__before").await;
    assert_eq!(browser.value("document.activeElement === window.__kept && window.__kept.isConnected").await, true);
}
