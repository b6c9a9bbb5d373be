//! What every device promises.

use std::time::Duration;

use devices::{Consequence, Use};
use protocol::{Health, task::ComputeCapability};
use tests::until::until;

use crate::rig::Rig;

fn memory(memory_mb: u64) -> Use {
    Use { memory_mb, compute_share: 0.5 }
}

pub async fn a_gpu_says_what_it_is(rig: &impl Rig) {
    let description = rig.device().description();
    assert!(!description.name.is_empty() && description.memory_total_mb >= 80_000, "{description:?}");
    assert_eq!(description.compute_capability, ComputeCapability { major: 9, minor: 0 });
    assert_eq!(rig.device().health(), (Health::Healthy, String::new()));
}

pub async fn a_sample_shows_what_others_use(rig: &impl Rig) {
    let before = rig.device().sample().memory_used_mb;
    rig.others_use(20_000);
    until("the sample shows it", async || {
        let sample = rig.device().sample();
        sample.memory_used_mb > before + 19_000 && sample.utilization_percent == 50.0
    })
    .await;
    let sample = rig.device().sample();
    assert!(sample.temperature_celsius > 10.0 && sample.power_watts > 10.0 && sample.sm_clock_mhz > 100.0, "{sample:?}");
}

pub async fn a_sample_that_hangs_is_served_with_its_age(rig: &impl Rig) {
    rig.hang();
    until("the sample ages", async || rig.device().sample().age_ms > 2_000).await;
    assert!(rig.device().sample().power_watts > 10.0, "the last good one is served");
    rig.resume();
    until("samples are fresh again", async || rig.device().sample().age_ms < 2_000).await;
}

pub async fn memory_is_taken_until_the_work_ends(rig: &impl Rig) {
    let total_mb = rig.device().description().memory_total_mb;
    let work = rig.device().begin(memory(total_mb / 2)).unwrap();
    let refused = rig.device().begin(memory(total_mb / 2 + 1)).unwrap_err();
    assert_eq!((refused.wanted_mb, refused.total_mb), (total_mb / 2 + 1, total_mb));
    assert!(refused.free_mb < refused.wanted_mb);
    rig.device().begin(Use::default()).expect("what needs no memory always fits");
    drop(work);
    rig.device().begin(memory(total_mb / 2 + 1)).expect("it was given back");
}

pub async fn memory_that_others_use_is_not_given_out(rig: &impl Rig) {
    rig.others_use(60_000);
    until("the sample shows it", async || rig.device().sample().memory_used_mb > 59_000).await;
    let refused = rig.device().begin(memory(30_000)).unwrap_err();
    assert!(refused.free_mb < 30_000, "{refused}");
    rig.device().begin(memory(5_000)).unwrap();
}

pub async fn a_probe_tells_a_gpu_that_works_from_one_that_does_not(rig: &impl Rig) {
    rig.device().probe().await.unwrap();
    rig.break_work(true);
    let problem = rig.device().probe().await.unwrap_err();
    assert!(problem.contains("computes wrongly"), "{problem}");
    rig.break_work(false);
    rig.device().probe().await.unwrap();
}

pub async fn trouble_is_told_once_and_in_order(rig: &impl Rig) {
    rig.two_troubles();
    let first = rig.device().trouble().await;
    assert_eq!((first.what, first.xid), (Consequence::Noted, Some(63)));
    let second = rig.device().trouble().await;
    assert_eq!((second.what, second.xid), (Consequence::Quarantined, Some(4_711)));
    let third = tokio::time::timeout(Duration::from_millis(1_200), rig.device().trouble()).await;
    assert!(third.is_err(), "{third:?}");
    assert!(!rig.device().is_lost());
}

pub async fn a_lost_gpu_says_so(rig: &impl Rig) {
    assert!(!rig.device().is_lost());
    rig.poison().await;
    let trouble = rig.device().trouble().await;
    assert_eq!(trouble.what, Consequence::Lost { by_a_task: true });
    assert!(!trouble.reason.is_empty() && rig.device().is_lost());
}
