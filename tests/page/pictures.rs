//! The pictures in the documents: what the page shows of a simulated fleet at work. `scripts/screenshots` takes them anew.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{browser::Scheme, until::until};

use crate::site::Site;

/// Where the pictures go; not said: they are taken and thrown away.
const FOLDER: &str = "GPUFLEET_SCREENSHOTS";
/// For how long the fleet works before its pictures are taken, so that there is a course to show.
const WORK: Duration = Duration::from_secs(420);
/// The documents are to stay small.
const BYTES_MAX: usize = 200_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documents_pictures_can_be_taken() {
    let folder = std::env::var_os(FOLDER).map(PathBuf::from);
    let site = Site::start(4).await;
    let work = folder.as_ref().map_or(Duration::ZERO, |_| WORK);
    let begin = Instant::now();
    let mut round = 0;
    while round == 0 || begin.elapsed() < work {
        some_work(&site, round).await;
        round += 1;
        let asked = Instant::now();
        until("the round is over", async || work.is_zero() || asked.elapsed() > Duration::from_secs(5)).await;
    }
    site.submit(
        json!({"kind": "simulate", "task_id": "report-2026-11", "payload": {"duration_ms": 1}, "needs": {"memory_mb": 1}, "priority": 2}),
    )
    .await;
    site.browser.look((1040, 720), Scheme::Light).await;
    for (name, page, there) in [
        ("overview", "#/", "document.querySelector('svg.chart path')?.getAttribute('d')"),
        ("gpus", "#/gpus", "document.querySelectorAll('.card').length === 4"),
        ("tasks", "#/tasks", "document.querySelectorAll('tbody tr').length > 5"),
        ("task", "#/tasks/report-2026-11", "document.querySelectorAll('.steps li').length > 0"),
    ] {
        site.page(page).await;
        site.browser.until(&format!("{name} is there"), there).await;
        let picture = site.browser.screenshot().await;
        assert!(picture.starts_with(b"\x89PNG") && picture.len() <= BYTES_MAX, "{name}: {} bytes", picture.len());
        if let Some(folder) = &folder {
            fs::create_dir_all(folder).expect("the folder is made");
            fs::write(folder.join(format!("{name}.png")), picture).expect("the picture is written");
        }
    }
    site.all_is_well("pictures").await;
}

/// Five seconds of work for four GPUs, a little more each time, of some kinds and priorities; one task in twenty fails.
async fn some_work(site: &Site, round: usize) {
    for number in 0..(20 + round) {
        let payload = if number % 20 == 7 {
            json!({"duration_ms": 200, "fail": {"code": "bad_input", "message": "the image has no pixels", "retry": true}})
        } else {
            json!({"duration_ms": 100 + number * 61 % 1_300, "progress_every_ms": 100})
        };
        let task: Value = if number % 3 == 0 {
            json!({"kind": "echo", "task_id": format!("thumbnail-{round:03}-{number:02}"), "payload": number, "group": "thumbnails", "priority": 5})
        } else {
            json!({"kind": "simulate", "task_id": format!("render-{round:03}-{number:02}"), "payload": payload, "group": "render", "priority": number % 3})
        };
        site.submit(task).await;
    }
}
