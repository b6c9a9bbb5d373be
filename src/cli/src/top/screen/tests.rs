//! Keys, and the pictures that they lead to.

use protocol::gpu::GpuView;
use ratatui::{Terminal, backend::TestBackend};
use serde_json::{Value, json};

use super::*;
use crate::top::{draw::draw, theme::Theme};

const SENTENCE: &str = "Every slot is busy and tasks come faster than they end: 3 more GPUs would hold the wait under 30 s.";

fn gpu(id: &str, held: u32, reason: &str) -> GpuView {
    let health = if reason.is_empty() { "healthy" } else { "quarantined" };
    serde_json::from_value(json!({
        "gpu": {"gpu_id": id, "name": "a GPU", "memory_total_mb": 80_000, "compute_capability": "9.0"},
        "sample": {"memory_used_mb": 1_000, "utilization_percent": 50.0, "temperature_celsius": 60.0, "power_watts": 300.0, "sm_clock_mhz": 1.0, "age_ms": 1},
        "pool": "default", "incarnation": "i", "host": "a-host", "slots": 8, "health": health, "health_reason": reason, "consuming": true,
        "kinds": [], "held": held, "draining": false, "eligible": true, "expires_in_ms": 5_000
    }))
    .expect("a view")
}

fn task(id: &str, began_ms: u64) -> Value {
    json!({"task_id": id, "state": "running", "pool": "default", "kind": "embed", "gpu_id": "sim-1", "attempt": 1,
        "first_seen_ms": 1, "changed_ms": 1, "began_ms": began_ms})
}

fn shot(gpus: Vec<GpuView>, tasks: &[Value]) -> Shot {
    let overview = json!({
        "pool": "default", "at_ms": 1_777_896_184_512_u64,
        "verdict": {"holdup": "too_few_gpus", "sentence": SENTENCE, "evidence": [], "window_ms": 300_000},
        "scaling": {"pool": "default", "desired_workers": 5, "workers": 3, "wait_objective_ms": 30_000, "expected_wait_ms": 61_000.0, "waiting": 9,
            "waiting_slot_seconds": 1.0, "arriving_slot_seconds_per_second": 1.0, "slots_per_worker": 8.0, "reason": "", "remove_first": [], "safe_to_delete": []},
        "ready": 12, "tasks": {"waiting": 12, "running": 3},
        "oldest_waiting": [{"priority": 9, "waiting": 2, "oldest_ms": 1_200}, {"priority": 0, "waiting": 10, "oldest_ms": 241_000}],
        "arrived_per_s": 3.25, "ended_per_s": 3.0, "retried_per_s": 0.0,
        "gpus": {"living": 4, "serving": 3, "quarantined": 1, "slots": 32, "held": 12},
        "kinds": [{"kind": "embed", "waiting": 9, "running": 3, "ended": 100, "failed": 2, "retried": 1, "wait_p50_ms": 5.0, "wait_p95_ms": 100.0,
            "wait_p99_ms": 99_000.0, "run_p50_ms": 1.0, "run_p95_ms": 2.0, "run_p99_ms": 3.0, "slot_seconds": 9.0}]
    });
    let running = json!({"tasks": tasks, "matching": tasks.len(), "indexed": 100});
    Shot {
        overview: serde_json::from_value(overview).expect("an overview"),
        gpus,
        running: Ok(serde_json::from_value(running).expect("a page")),
    }
}

fn usual() -> Shot {
    let gpus = (0..4).map(|number| gpu(&format!("sim-{number}"), number, if number == 3 { "Xid 79: fell off the bus" } else { "" }));
    shot(gpus.collect(), &[task("order-1", 1_777_896_183_000), task("order-2", 1_777_896_182_000)])
}

fn screen() -> Screen {
    Screen::new(usual(), "http://127.0.0.1:8080".to_owned())
}

fn press(screen: &mut Screen, code: KeyCode) -> Next {
    screen.take(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn pictured(screen: &mut Screen, (width, height): (u16, u16)) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame, screen, Theme::Coloured)).expect("drawn");
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(row).collect()
}

fn shows(screen: &mut Screen, size: (u16, u16), parts: &[&str]) {
    let picture = pictured(screen, size).join("\n");
    for part in parts {
        assert!(picture.contains(part), "{part}:\n{picture}");
    }
}

#[test]
fn the_page_tells_of_everything_on_80_columns_and_24_rows() {
    let mut screen = screen();
    shows(
        &mut screen,
        (80, 24),
        &[
            "gpufleet top  pool default  http://127.0.0.1:8080  12:03:04 UTC",
            "Every slot is busy",
            "under 30 s.",
            "oldest waiting: p9 1.2 s (2)  p0 4m 01s (10)",
            "queue: 12 ready  tasks: 12 waiting, 0 delayed, 3 running, 0 retrying, ? dead",
            "rates: 3.2/s in, 3.0/s out, 0.0/s retried  workers: 5 desired, 3 take tasks",
            "GPUs: 4 living, 3 serving, 1 quarantined  slots: 12 of 32 held",
            "GPUs 1 of 4, by number",
            "1.0/80.0",
            "quarantined",
            "q end",
        ],
    );
    press(&mut screen, KeyCode::Tab);
    shows(&mut screen, (80, 24), &["Kinds, last 15 minutes", "embed", "99.0 s", "W.P99", "R.P50"]);
    press(&mut screen, KeyCode::Tab);
    shows(&mut screen, (80, 24), &["Running tasks 1 of 2, by longest first", "order-2", "2.5 s"]);
}

#[test]
fn every_size_is_drawn_and_a_tall_one_shows_all_tables() {
    let mut screen = screen();
    screen.explain(vec!["a long line ".repeat(40), "another".to_owned()]);
    for size in [(1, 1), (20, 5), (40, 12), (79, 23), (80, 24), (200, 60), (500, 200)] {
        pictured(&mut screen, size);
    }
    screen.page = None;
    shows(&mut screen, (120, 50), &["GPUs 1 of 4", "Kinds, last 15 minutes", "Running tasks 1 of 2"]);
    shows(&mut screen, (30, 8), &["too small"]);
}

#[test]
fn many_gpus_scroll_and_the_one_that_is_chosen_stays_chosen_where_it_moves() {
    let mut screen = screen();
    let many = |first: usize| (first..1_000).map(|number| gpu(&format!("sim-{number}"), 0, "")).collect::<Vec<_>>();
    screen.show(Ok(shot(many(0), &[])));
    press(&mut screen, KeyCode::End);
    shows(&mut screen, (80, 24), &["sim-999", "1000 of 1000"]);
    press(&mut screen, KeyCode::PageUp);
    screen.show(Ok(shot(many(500), &[])));
    shows(&mut screen, (80, 24), &["of 500"]);
    let chosen = screen.chosen().expect("one");
    screen.show(Ok(shot(many(0), &[])));
    assert_eq!(screen.chosen(), Some(chosen));
    press(&mut screen, KeyCode::Home);
    assert_eq!(screen.chosen().as_deref(), Some("sim-0"));
    screen.show(Ok(shot(Vec::new(), &[])));
    shows(&mut screen, (80, 24), &["no GPU serves the pool"]);
    assert_eq!(screen.chosen(), None);
}

#[test]
fn a_gpu_is_drained_only_after_a_yes() {
    let mut screen = screen();
    press(&mut screen, KeyCode::Down);
    assert_eq!(press(&mut screen, KeyCode::Char('d')), Next::Stay);
    shows(&mut screen, (80, 24), &["Drain sim-1: it takes no new tasks, what runs there ends? y/n"]);
    assert_eq!(press(&mut screen, KeyCode::Char('n')), Next::Stay);
    press(&mut screen, KeyCode::Char('d'));
    let sim_1 = GpuId::new("sim-1").expect("valid");
    assert_eq!(press(&mut screen, KeyCode::Char('y')), Next::Ask(Ask::Drain(sim_1.clone())));
    screen.tell("drain sim-1".to_owned(), Err("the table is away".to_owned()));
    shows(&mut screen, (80, 24), &["drain sim-1: the table is away"]);
    press(&mut screen, KeyCode::Char('u'));
    assert_eq!(press(&mut screen, KeyCode::Char('y')), Next::Ask(Ask::Undrain(sim_1)));
    press(&mut screen, KeyCode::Tab);
    press(&mut screen, KeyCode::Char('d'));
    shows(&mut screen, (80, 24), &["choose a GPU first"]);
}

#[test]
fn enter_asks_why_and_the_answer_is_shown_above_the_tables() {
    let mut screen = screen();
    press(&mut screen, KeyCode::BackTab);
    let asked = press(&mut screen, KeyCode::Enter);
    assert_eq!(asked, Next::Ask(Ask::Why(TaskId::new("order-2").expect("valid"))));
    screen.explain(vec!["task order-2 is running".to_owned()]);
    shows(&mut screen, (80, 24), &["task order-2 is running", "any other key closes"]);
    assert_eq!(press(&mut screen, KeyCode::Char('q')), Next::Stay);
    assert!(screen.page.is_none());
    assert_eq!(press(&mut screen, KeyCode::Char('q')), Next::End);
}

#[test]
fn it_is_drawn_only_when_something_changed() {
    let mut screen = screen();
    assert!(screen.take_changed() && !screen.take_changed());
    screen.take(&Event::FocusGained);
    assert!(!screen.take_changed());
    screen.take(&Event::Resize(80, 24));
    assert!(screen.take_changed());
    press(&mut screen, KeyCode::Char('p'));
    assert!(screen.take_changed() && screen.is_paused());
    screen.show(Ok(shot(Vec::new(), &[])));
    assert!(!screen.take_changed() && screen.shot.gpus.len() == 4, "what is paused stays as it is");
    let end = screen.take(&Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    assert_eq!(end, Next::End);
}

#[test]
fn the_order_of_a_table_goes_round() {
    let mut screen = screen();
    press(&mut screen, KeyCode::Char('s'));
    shows(&mut screen, (80, 24), &["by slots held"]);
    assert_eq!(screen.rows(Panel::Gpus)[0].id, "sim-3");
    for _ in 1..Panel::Gpus.orders().len() {
        press(&mut screen, KeyCode::Char('s'));
    }
    shows(&mut screen, (80, 24), &["by number"]);
}

#[test]
fn a_fleet_that_is_away_is_told_above_what_was_seen_last() {
    let mut screen = screen();
    screen.show(Err("reach the gateway: connection refused".to_owned()));
    shows(&mut screen, (80, 24), &["No answer, this is how it was: reach the gateway: connection refused", "sim-0"]);
    screen.show(Ok(usual()));
    assert!(!pictured(&mut screen, (80, 24)).join("\n").contains("No answer"));
    screen.show(Ok(Shot { running: Err("gateway.operate is never".to_owned()), ..usual() }));
    press(&mut screen, KeyCode::BackTab);
    shows(&mut screen, (80, 24), &["gateway.operate is never"]);
}

#[test]
fn hostile_texts_are_shown_and_not_obeyed() {
    let mut hostile = usual();
    hostile.overview.verdict.sentence = "a\x1b]0;owned\x07b\u{9b}2Jc\u{202e}d\ne".to_owned();
    hostile.gpus = vec![gpu("sim-0", 0, "Xid 79\x1b[2J\nand more")];
    let mut screen = Screen::new(hostile, "servers".to_owned());
    let rows = pictured(&mut screen, (160, 24));
    let picture = rows.join("\n");
    assert!(picture.contains("a\\u001b]0;owned\\u0007b\\u009b2Jc\\u202ed e"), "{picture}");
    assert!(rows.iter().all(|row| !row.chars().any(|c| c.is_control() || c == '\u{202e}')), "{picture}");
}

#[test]
fn without_colours_nothing_is_coloured() {
    let mut screen = screen();
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
    terminal.draw(|frame| draw(frame, &mut screen, Theme::Plain)).expect("drawn");
    let colour = ratatui::style::Color::Reset;
    assert!(terminal.backend().buffer().content().iter().all(|cell| cell.fg == colour && cell.bg == colour));
}
