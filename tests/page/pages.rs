//! What the pages show.

use serde_json::json;
use tests::browser::{Browser, Scheme};

use crate::site::{DEAD, EXACT, GROUP, Site, WAITING};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_page_shows_a_fleet_that_has_tasks_in_all_states() {
    let site = Site::with_everything().await;
    overview(&site).await;
    gpus(&site).await;
    tasks(&site).await;
    running(&site).await;
    one_task(&site).await;
    three_clicks_say_why_a_task_waits(&site).await;
    dead_letters(&site).await;
    settings(&site).await;
    what_is_not_there(&site).await;
    fits_a_phone(&site).await;
}

async fn overview(site: &Site) {
    site.page("#/").await;
    let browser = &site.browser;
    browser.until_shown("#live-state", "Live").await;
    let verdict = site.get("/api/v1/bottleneck").await;
    assert!(!verdict["sentence"].as_str().unwrap_or_default().is_empty(), "{verdict}");
    browser.until("the verdict is a sentence", "document.querySelector('.verdict .sentence').innerText.length > 20").await;
    for (tile, figure) in [
        ("Running", "2 tasks"),
        ("Dead letters", "1 letter"),
        ("Slots held", "slots"),
        ("Desired workers", "workers"),
        ("Arriving", "tasks/s"),
    ] {
        let shown = format!(
            "[...document.querySelectorAll('.tile')].some((tile) => tile.innerText.includes({}) && tile.innerText.includes({}))",
            json!(tile),
            json!(figure)
        );
        browser.until(&format!("{tile} is {figure}"), &shown).await;
    }
    browser.until_shown("tbody", "Priority 3").await;
    browser.until_shown(".counts", "1 drained").await;
    browser
        .until("the kinds have percentiles", "[...document.querySelectorAll('thead')].some((head) => head.innerText.includes('Wait p99'))")
        .await;
    browser.until("charts are drawn", "document.querySelectorAll('svg.chart path').length >= 9").await;
    for span in ["6 hours", "48 hours", "15 minutes"] {
        let button =
            format!("[...document.querySelectorAll('.choice button')].findIndex((button) => button.innerText === {})", json!(span));
        let index = browser.value(&button).await.as_u64().expect("a button") + 1;
        browser.click(&format!(".choice button:nth-of-type({index})")).await;
        browser
            .until(
                &format!("{span} are shown"),
                &format!("document.querySelector('.choice [aria-pressed=true]').innerText === {}", json!(span)),
            )
            .await;
        browser
            .until("the axis says so", "[...document.querySelectorAll('svg .axis')].some((text) => text.textContent.endsWith('ago'))")
            .await;
    }
    site.all_is_well("overview").await;
}

async fn gpus(site: &Site) {
    site.page("#/gpus").await;
    let browser = &site.browser;
    browser.until("there are four", "document.querySelectorAll('.card').length === 4").await;
    browser.until_shown(".card", "an operator drains it").await;
    for unit in [" W", "°C", "MHz", "of 1 slot", " %", "GB"] {
        browser.until_shown(".card", unit).await;
    }
    browser.click("#gpu-state option[value=drained]").await;
    browser.until("one is left", "document.querySelectorAll('.card').length === 1").await;
    browser.click(".card h3 a").await;
    browser.until_shown("h1", "GPU sim-2").await;
    browser.until_shown(".panel", "safe to delete").await;
    site.page("#/gpus/sim-0").await;
    browser.until_shown(".plain", "running-0").await;
    browser.until_shown("table", "simulate").await;
    browser
        .until("its tasks are listed", "[...document.querySelectorAll('th[scope=row]')].some((cell) => cell.innerText === 'running-0')")
        .await;
    browser.until("its samples are drawn", "document.querySelectorAll('svg.chart path').length === 4").await;
    site.all_is_well("gpus").await;
}

async fn tasks(site: &Site) {
    site.page("#/tasks").await;
    let browser = &site.browser;
    for state in ["delayed", "waiting", "running", "retrying", "succeeded", "failed", "cancelled"] {
        site.page(&format!("#/tasks?state={state}")).await;
        browser.until_shown("tbody .badge", state).await;
        let others = format!("[...document.querySelectorAll('tbody tr')].every((row) => row.innerText.includes({}))", json!(state));
        browser.until("no other state is listed", &others).await;
    }
    // By the form, one field after the other.
    site.page("#/tasks").await;
    let matching = async |number: usize| browser.until_shown("#matching", &format!("{number} task")).await;
    browser.write("#filter-group", GROUP).await;
    browser.press(&["\u{E007}"]).await;
    matching(WAITING).await;
    browser.write("#filter-id_prefix", "waiting-1").await;
    browser.press(&["\u{E007}"]).await;
    matching(1).await;
    assert!(browser.value("location.hash").await.as_str().is_some_and(|hash| hash.contains("id_prefix=waiting-1")));
    site.page("#/tasks?error=OOPS&kind=simulate").await;
    browser.until_shown("tbody", "failed").await;
    site.page("#/tasks?priority=3&newer_than_ms=86400000").await;
    matching(WAITING).await;
    site.page("#/tasks?gpu_id=sim-1&state=running").await;
    matching(1).await;
    site.page("#/tasks?older_than_ms=86400000").await;
    browser.until_shown(".panel", "No task matches").await;
    browser.write("#filter-older_than", "soon").await;
    browser.press(&["\u{E007}"]).await;
    browser.until_shown("[role=alert]", "write a time").await;
    browser.until("kinds are offered", "document.querySelectorAll('#known-kinds option').length >= 2").await;
    browser
        .until(
            "GPUs and groups are offered",
            "document.querySelector('#known-gpus option') && document.querySelector('#known-groups option')",
        )
        .await;
    site.all_is_well("tasks").await;
}

async fn running(site: &Site) {
    site.page("#/running").await;
    let browser = &site.browser;
    browser.until("two run", "document.querySelectorAll('tbody tr').length === 2").await;
    browser.until_shown("tbody", " s").await;
    browser.until("their progress is told", "document.querySelectorAll('tbody .bar').length === 2").await;
    site.all_is_well("running").await;
}

async fn one_task(site: &Site) {
    site.page("#/tasks/done").await;
    let browser = &site.browser;
    for (place, text) in
        [(".badge", "succeeded"), (".steps", "Submitted"), (".steps", "Began"), (".steps", "Ended"), (".steps", "GPU sim-"), ("pre", EXACT)]
    {
        browser.until_shown(place, text).await;
    }
    site.page("#/tasks/failed").await;
    browser.until_shown(".panel", "oops").await;
    site.page("#/tasks/retrying").await;
    browser.until_shown(".steps", "to be tried again").await;
    site.page("#/tasks/running-0").await;
    browser.until_shown(".facts", " %").await;
    site.all_is_well("one task").await;
}

async fn three_clicks_say_why_a_task_waits(site: &Site) {
    site.page("#/").await;
    let browser = &site.browser;
    browser.click("nav a[data-page=tasks]").await;
    browser.click("#state-waiting").await;
    browser.click("th[scope=row] a[href$='waiting-0']").await;
    browser.until("the reason is a sentence", "document.getElementById('why')?.innerText.length > 20").await;
    browser.until_shown("table", "sim-2").await;
    site.all_is_well("why").await;
}

async fn dead_letters(site: &Site) {
    site.page("#/dead").await;
    let browser = &site.browser;
    browser.until_shown("tbody", DEAD).await;
    browser.click("tbody summary").await;
    browser.until_shown("tbody pre", "window.__hacked").await;
    site.all_is_well("dead letters").await;
}

async fn settings(site: &Site) {
    site.page("#/settings").await;
    let browser = &site.browser;
    browser.until_shown(".plain", "sim-2").await;
    browser.until("the strategy is told", "document.getElementById('strategy').value === 'least_loaded'").await;
    browser.until("the threshold is told", "document.getElementById('memory-threshold').value === '90'").await;
    browser.until_shown("tbody", "drain").await;
    site.all_is_well("settings").await;
}

async fn what_is_not_there(site: &Site) {
    let browser = &site.browser;
    site.page("#/tasks/nobody-knows-it").await;
    browser.until_shown(".panel", "never heard of this task").await;
    site.page("#/gpus/none").await;
    browser.until_shown(".panel", "No living GPU has this id").await;
    site.page("#/nowhere").await;
    browser.until_shown("h1", "No such page").await;
    site.all_is_well("what is not there").await;
}

async fn fits_a_phone(site: &Site) {
    let browser = &site.browser;
    for scheme in [Scheme::Dark, Scheme::Light] {
        browser.look((360, 740), scheme).await;
        for page in ["#/", "#/gpus", "#/gpus/sim-0", "#/tasks", "#/running", "#/tasks/done", "#/tasks/waiting-0", "#/dead", "#/settings"] {
            site.page(page).await;
            let fits = "document.documentElement.scrollWidth <= window.innerWidth";
            browser.until(&format!("{page} is no wider than a phone"), fits).await;
            readable(browser, page).await;
        }
    }
    site.all_is_well("on a phone").await;
}

/// Text against what is behind it, by the formula of WCAG 2: at least 4.5.
const CONTRAST: &str = r"(() => {
    const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const read = (colour) => {
        paint.clearRect(0, 0, 1, 1);
        paint.fillStyle = colour;
        paint.fillRect(0, 0, 1, 1);
        return [...paint.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => [r, g, b].map((one) => one / 255).map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
        .reduce((sum, one, index) => sum + one * [0.2126, 0.7152, 0.0722][index], 0);
    const behind = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const colour = read(getComputedStyle(one).backgroundColor);
            if (colour[3] === 255) {
                return colour;
            }
        }
        return [255, 255, 255, 255];
    };
    const poor = [];
    for (const element of document.querySelectorAll('body *')) {
        const says = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== '');
        if (!says || element.closest('svg, :disabled, .unseen, .skip, noscript, dialog') || element.offsetParent === null) {
            continue;
        }
        const [front, back] = [light(read(getComputedStyle(element).color)), light(behind(element))];
        const contrast = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
        if (contrast < 4.5) {
            poor.push(`${contrast.toFixed(2)} ${element.className} ${element.innerText.slice(0, 40)}`);
        }
    }
    return poor;
})()";

async fn readable(browser: &Browser, page: &str) {
    let poor = browser.value(CONTRAST).await;
    assert_eq!(poor, json!([]), "{page} has text with too little contrast");
}
