use std::{future::ready, pin::pin};

use tokio::task::JoinSet;

use super::*;

fn after(micros: u64) -> Instant {
    Instant::now() + Duration::from_micros(micros)
}

#[tokio::test(start_paused = true)]
async fn a_coarse_sleep_ends_exactly_at_its_time_on_a_paused_clock() {
    let started = Instant::now();
    Sleeper::default().sleep_until(started + Duration::from_millis(20)).await;
    assert_eq!(started.elapsed().as_millis(), 20);
}

#[tokio::test]
async fn a_precise_sleep_never_ends_before_its_time() {
    for micros in [0, 1, 300, 1_999, 2_000, 2_001, 5_300] {
        let end = after(micros);
        Sleeper::Precise.sleep_until(end).await;
        assert!(Instant::now() >= end, "{micros} µs");
    }
}

#[tokio::test]
async fn many_precise_sleeps_at_once_all_end_and_none_before_its_time() {
    let mut sleeping = JoinSet::new();
    for step in 0..100 {
        let end = after(step * 53);
        sleeping.spawn(async move {
            Sleeper::Precise.sleep_until(end).await;
            Instant::now() >= end
        });
    }
    assert_eq!(sleeping.join_all().await, [true; 100]);
}

#[tokio::test]
async fn a_sleep_until_a_moment_that_has_passed_ends_at_once() {
    let passed = Instant::now();
    tokio::select! {
        biased;
        () = Sleeper::Precise.sleep_until(passed) => {}
        () = ready(()) => panic!("it waits"),
    }
}

#[tokio::test]
async fn a_precise_sleep_that_is_dropped_half_way_does_no_harm_to_the_next() {
    let an_hour = 3_600_000_000;
    for micros in [1_500, 5_300, an_hour] {
        {
            let mut dropped = pin!(Sleeper::Precise.sleep_until(after(micros)));
            tokio::select! {
                biased;
                () = &mut dropped => {}
                () = ready(()) => {}
            }
        }
        let end = after(1_000);
        Sleeper::Precise.sleep_until(end).await;
        assert!(Instant::now() >= end, "after one of {micros} µs");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_kernel_gives_timers_and_they_never_expire_too_early() {
    for micros in [1, 700, 2_000] {
        let (started, left) = (std::time::Instant::now(), Duration::from_micros(micros));
        kernel::sleep(left).await.unwrap();
        assert!(started.elapsed() >= left, "{micros} µs");
    }
}
