//! What the page costs a gateway while nobody looks at it, and what it says while the gateway is away.

use serde_json::json;
use tests::until::until;

use crate::site::Site;

const STREAMS: &str = "gateway_event_streams";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_page_holds_no_stream_and_takes_it_up_again_when_it_is_shown() {
    let site = Site::start(1).await;
    let browser = &site.browser;
    site.page("#/").await;
    browser.until_shown("#live-state", "Live").await;
    browser.until_shown(".live", "as of").await;
    assert_eq!(browser.value("gpufleet.streams.opened - gpufleet.streams.closed").await, 1);
    until("the gateway has one stream", async || site.metric(STREAMS).await == 1.0).await;

    browser.hide().await;
    browser.until("it is paused", "document.hidden && gpufleet.streams.state === 'paused'").await;
    browser.until_shown("#live-state", "Paused").await;
    assert_eq!(browser.value("gpufleet.streams.opened - gpufleet.streams.closed").await, 0);
    until("the gateway has none", async || site.metric(STREAMS).await == 0.0).await;

    browser.show().await;
    browser.until("it is live again", "!document.hidden && gpufleet.streams.state === 'live'").await;
    assert_eq!(browser.value("gpufleet.streams").await, json!({"opened": 2, "closed": 1, "state": "live"}));
    // Going from page to page opens none.
    for page in ["#/gpus", "#/tasks", "#/settings", "#/"] {
        site.page(page).await;
    }
    assert_eq!(browser.value("gpufleet.streams.opened").await, 2);
    site.all_is_well("stream").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_whose_gateway_is_gone_says_so_and_keeps_what_it_knew() {
    let mut site = Site::start(1).await;
    site.page("#/").await;
    site.browser.until_shown("#live-state", "Live").await;
    site.browser.until("there is a verdict", "document.querySelector('.verdict .sentence')?.innerText").await;
    site.end_the_fleet();
    site.browser.until_shown("#live-state", "Reconnecting").await;
    site.browser.until_shown(".trouble", "the gateway does not answer").await;
    site.browser.until_shown(".trouble", "as of").await;
    site.browser.until("the verdict is still there", "document.querySelector('.verdict .sentence')?.innerText").await;
}
