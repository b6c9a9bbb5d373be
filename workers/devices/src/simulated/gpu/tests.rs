use std::time::Duration;

use tokio::time::advance;

use super::*;

fn gpu() -> SimulatedGpu {
    SimulatedGpu::new(SimulatedOptions { memory_mb: 1_000, ..SimulatedOptions::default() })
}

fn work(memory_mb: u64, compute_share: f64) -> Use {
    Use { memory_mb, compute_share }
}

#[tokio::test(start_paused = true)]
async fn memory_and_utilisation_follow_the_work_and_are_freed_on_drop() {
    let gpu = gpu();
    let first = gpu.begin(work(600, 0.25)).unwrap();
    let second = gpu.begin(work(300, 0.5)).unwrap();
    assert_eq!((gpu.sample().memory_used_mb, gpu.sample().utilization_percent), (900, 75.0));
    drop(first);
    assert_eq!((gpu.sample().memory_used_mb, gpu.sample().utilization_percent), (300, 50.0));
    drop(second);
    assert_eq!((gpu.sample().memory_used_mb, gpu.sample().utilization_percent), (0, 0.0));
}

#[tokio::test(start_paused = true)]
async fn compute_beyond_the_gpu_shows_as_full_and_odd_shares_do_no_harm() {
    let gpu = gpu();
    let held: Vec<WorkOn> = [0.8, 0.8, f64::NAN, -3.0, f64::INFINITY].map(|share| gpu.begin(work(0, share)).unwrap()).into();
    assert_eq!(gpu.sample().utilization_percent, 100.0);
    drop(held);
    assert_eq!(gpu.sample().utilization_percent, 0.0);
}

#[tokio::test(start_paused = true)]
async fn work_that_does_not_fit_is_told_what_is_free() {
    let gpu = gpu();
    let _held = gpu.begin(work(600, 0.1)).unwrap();
    let refused = gpu.begin(work(500, 0.1)).unwrap_err();
    assert_eq!(refused, OutOfMemory { wanted_mb: 500, free_mb: 400, total_mb: 1_000 });
    assert_eq!(gpu.sample().memory_used_mb, 600, "a refusal takes nothing");
}

#[tokio::test(start_paused = true)]
async fn temperature_and_power_rise_under_load_and_fall_after_it() {
    let gpu = gpu();
    let cold = gpu.sample();
    assert_eq!((cold.temperature_celsius, cold.power_watts, cold.sm_clock_mhz), (32.0, 70.0, 345.0));
    let held = gpu.begin(work(0, 1.0)).unwrap();
    advance(Duration::from_secs(20)).await;
    let warm = gpu.sample();
    // 63.2 % of the way from 32 to 84.
    assert!((warm.temperature_celsius - 64.87).abs() < 0.01, "{warm:?}");
    assert!((warm.power_watts - 700.0).abs() < 0.01, "{warm:?}");
    assert_eq!(warm.sm_clock_mhz, 1_980.0);
    advance(Duration::from_secs(200)).await;
    let hot = gpu.sample();
    assert!(hot.temperature_celsius > 83.9 && hot.sm_clock_mhz < 1_830.0, "{hot:?}");
    drop(held);
    advance(Duration::from_secs(400)).await;
    let rested = gpu.sample();
    assert!((rested.temperature_celsius - 32.0).abs() < 0.01 && (rested.power_watts - 70.0).abs() < 0.01, "{rested:?}");
}

#[tokio::test(start_paused = true)]
async fn the_same_work_at_the_same_times_gives_the_same_samples() {
    let (one, other) = (gpu(), gpu());
    for step in 1..20_u32 {
        let share = f64::from(step % 7) / 7.0;
        let _held = (one.begin(work(10, share)).unwrap(), other.begin(work(10, share)).unwrap());
        advance(Duration::from_millis(u64::from(step) * 37)).await;
        assert_eq!(one.sample(), other.sample());
    }
}

#[tokio::test(start_paused = true)]
async fn hung_samples_keep_their_numbers_and_grow_old_until_they_resume() {
    let gpu = gpu();
    let held = gpu.begin(work(500, 1.0)).unwrap();
    gpu.knobs().hang_samples();
    drop(held);
    advance(Duration::from_millis(1_500)).await;
    gpu.knobs().hang_samples();
    let stale = gpu.sample();
    assert_eq!((stale.memory_used_mb, stale.age_ms), (500, 1_500));
    gpu.knobs().resume_samples();
    assert_eq!((gpu.sample().memory_used_mb, gpu.sample().age_ms), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn health_and_speed_are_what_the_knobs_say() {
    let gpu = gpu();
    assert_eq!((gpu.health(), gpu.speed()), ((Health::Healthy, String::new()), 1.0));
    gpu.knobs().set_health(Health::Quarantined, "Xid 79: the GPU has fallen off the bus");
    gpu.knobs().set_speed(0.25);
    assert_eq!(gpu.health(), (Health::Quarantined, "Xid 79: the GPU has fallen off the bus".to_owned()));
    assert_eq!(gpu.speed(), 0.25);
    gpu.knobs().set_speed(0.0);
    assert!(gpu.speed() > 0.0, "work must end some day");
}

#[tokio::test(start_paused = true)]
async fn work_on_it_waits_as_its_options_say() {
    assert_eq!(gpu().sleeper(), Sleeper::Coarse);
    let precise = SimulatedGpu::new(SimulatedOptions { sleeper: Sleeper::Precise, ..SimulatedOptions::default() });
    assert_eq!(precise.sleeper(), Sleeper::Precise);
}

#[tokio::test(start_paused = true)]
async fn other_processes_take_memory_and_show_in_samples() {
    let gpu = gpu();
    gpu.knobs().set_foreign_use(work(700, 0.4));
    let sample = gpu.sample();
    assert_eq!((sample.memory_used_mb, sample.utilization_percent), (700, 40.0));
    assert_eq!(gpu.begin(work(301, 0.0)).unwrap_err().free_mb, 300);
    gpu.knobs().set_foreign_use(Use::default());
    assert!(gpu.begin(work(301, 0.0)).is_ok());
}

#[tokio::test(start_paused = true)]
async fn capped_or_failing_allocations_are_out_of_memory() {
    let gpu = gpu();
    gpu.knobs().cap_free_memory(Some(100));
    assert_eq!(gpu.begin(work(101, 0.0)).unwrap_err().free_mb, 100);
    assert!(gpu.begin(work(100, 0.0)).is_ok());
    gpu.knobs().cap_free_memory(None);
    gpu.knobs().fail_next_allocations(2);
    assert!(gpu.begin(work(0, 0.0)).is_ok(), "no memory wanted, none refused");
    assert_eq!([1, 1, 1].map(|wanted| gpu.begin(work(wanted, 0.0)).is_ok()), [false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn faults_come_evenly_in_the_share_asked_for() {
    let gpu = gpu();
    assert_eq!(gpu.take_fault(), None);
    gpu.knobs().fail_tasks(0.1, "Xid 31");
    let faults: Vec<bool> = (0..30).map(|_| gpu.take_fault().is_some()).collect();
    assert_eq!(faults.iter().filter(|fault| **fault).count(), 3);
    assert!(faults[9] && faults[19] && faults[29]);
    gpu.knobs().fail_tasks(1.0, "Xid 31");
    assert_eq!(gpu.take_fault().as_deref(), Some("Xid 31"));
    gpu.knobs().fail_tasks(0.0, "");
    assert_eq!(gpu.take_fault(), None);
}

#[tokio::test(start_paused = true)]
async fn heat_from_outside_throttles_the_clock() {
    let gpu = gpu();
    let _held = gpu.begin(work(0, 0.5)).unwrap();
    gpu.knobs().set_extra_heat(40.0);
    advance(Duration::from_secs(600)).await;
    let sample = gpu.sample();
    assert!((sample.temperature_celsius - 98.0).abs() < 0.01 && (sample.sm_clock_mhz - 1_260.0).abs() < 1.0, "{sample:?}");
}
