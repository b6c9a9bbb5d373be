use std::collections::{BTreeMap, HashMap};

use protocol::{Outcome, StepName, TaskStep, gpu::GpuView};

use super::*;
use crate::{
    IndexBounds,
    samples::{World, gpu, id, kind, step},
};

/// Numbers that look like chance, and are the same in every run.
struct Chance(u64);

impl Chance {
    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A task of an acted fleet.
#[derive(Clone)]
struct Sent {
    name: String,
    kind: &'static str,
    priority: u8,
    at_ms: u64,
    run_ms: u64,
}

/// Tasks of three kinds, whose run times differ by up to a half either way.
fn sent(chance: &mut Chance, count: usize, every_ms: f64, priorities: &[u8]) -> Vec<Sent> {
    let mut at_ms = 0.0;
    let tasks = (0..count).map(|number| {
        // Some come all at once.
        at_ms += if number > count / 4 && number < count / 2 { 0.0 } else { every_ms * 2.0 * chance.share() };
        let share = chance.share();
        let (kind, middle_ms) = match share {
            0.0..0.6 => ("short", 400.0),
            0.6..0.85 => ("long", 2_500.0),
            _ => ("rare", 1_500.0),
        };
        let run_ms = (middle_ms * (0.5 + chance.share())) as u64;
        let priority = priorities[(chance.share() * priorities.len() as f64) as usize];
        Sent { name: format!("t{number}"), kind, priority, at_ms: 1_000_000 + at_ms as u64, run_ms }
    });
    tasks.collect()
}

fn fleet() -> Vec<GpuView> {
    vec![
        gpu("a", 1, &["long", "rare", "short"]),
        gpu("b", 1, &["long", "rare", "short"]),
        gpu("c", 2, &["rare", "short"]),
        gpu("d", 1, &["long"]),
        gpu("e", 1, &["short"]),
    ]
}

/// What a blind forecast does not see of a step.
type Blind = fn(TaskStep) -> TaskStep;

/// A fleet that runs what was sent: who is first in the line and fits a free slot takes it.
struct Acted {
    views: Vec<GpuView>,
    /// By GPU: task and end.
    running: Vec<Vec<(Sent, u64)>>,
    waiting: Vec<Sent>,
    /// What each forecast is told, and what it said: task, when, forecast.
    index: TaskIndex,
    blind: Blind,
    said: Vec<(String, u64, Option<f64>)>,
    began: HashMap<String, u64>,
}

impl Acted {
    fn new(views: Vec<GpuView>, blind: Blind) -> Self {
        let running = views.iter().map(|_| Vec::new()).collect();
        let index = TaskIndex::new(IndexBounds { tasks_max: 100_000, age_max_ms: u64::MAX });
        Self { views, running, waiting: Vec::new(), index, blind, said: Vec::new(), began: HashMap::new() }
    }

    /// Runs until everything has begun; asks for forecasts of what waits every `ask_ms`. The median of their errors, as shares of the waits.
    fn median_error(mut self, tasks: Vec<Sent>, ask_ms: u64) -> f64 {
        let mut coming = tasks.into_iter().peekable();
        let (mut now_ms, mut asked_ms) = (1_000_000, 1_000_000);
        while coming.peek().is_some() || !self.waiting.is_empty() {
            self.end(now_ms);
            while let Some(task) = coming.next_if(|task| task.at_ms <= now_ms) {
                self.tell(TaskStep { priority: Some(task.priority), ..step(&task.name, StepName::Submitted, task.at_ms, task.kind) });
                self.waiting.push(task);
            }
            self.begin(now_ms);
            if now_ms >= asked_ms + ask_ms {
                asked_ms = now_ms;
                self.ask(now_ms);
            }
            now_ms += 20;
        }
        let errors = self.said.iter().filter_map(|(name, at_ms, forecast)| {
            let is = self.began[name].saturating_sub(*at_ms) as f64;
            (is > 0.0).then(|| forecast.map_or(1.0, |said| (said - is).abs() / is))
        });
        let mut errors: Vec<f64> = errors.collect();
        assert!(errors.len() > 300, "{}", errors.len());
        errors.sort_by(f64::total_cmp);
        errors[errors.len() / 2]
    }

    fn tell(&mut self, step: TaskStep) {
        self.index.apply(&(self.blind)(step));
    }

    fn end(&mut self, now_ms: u64) {
        for gpu in 0..self.views.len() {
            let (over, on): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.running[gpu]).into_iter().partition(|(_, end_ms)| *end_ms <= now_ms);
            self.running[gpu] = on;
            for (task, end_ms) in over {
                let (attempt, outcome, run_ms) = (Some(1), Some(Outcome::Succeeded), Some(task.run_ms as f64));
                self.tell(TaskStep { attempt, outcome, run_ms, ..step(&task.name, StepName::Ended, end_ms, task.kind) });
            }
        }
    }

    fn begin(&mut self, now_ms: u64) {
        for gpu in 0..self.views.len() {
            let row = self.views[gpu].row.clone();
            while self.running[gpu].len() < row.slots as usize {
                let fitting = self.waiting.iter().enumerate().filter(|(_, task)| row.kinds.contains(&kind(task.kind)));
                let Some((first, _)) = fitting.min_by_key(|(_, task)| (9 - task.priority, task.at_ms)) else { break };
                let task = self.waiting.remove(first);
                let (attempt, gpu_id, waited_ms) = (Some(1), Some(row.gpu.gpu_id.clone()), Some((now_ms - task.at_ms) as f64));
                self.tell(TaskStep { attempt, gpu_id, waited_ms, ..step(&task.name, StepName::Began, now_ms, task.kind) });
                self.began.insert(task.name.clone(), now_ms);
                self.running[gpu].push((task.clone(), now_ms + task.run_ms));
            }
        }
    }

    fn ask(&mut self, now_ms: u64) {
        let mut world = World::new(now_ms, self.views.clone());
        for (view, running) in world.gpus.iter_mut().zip(&self.running) {
            view.held = running.len() as u32;
            view.row.running = running.iter().map(|(task, _)| id(&task.name)).collect();
            if (self.blind)(step("t", StepName::Submitted, 1, "short")).kind != Some(kind("short")) {
                view.row.kinds = vec![kind("any")];
            }
        }
        world.ready = Some(self.waiting.len() as u64);
        world.activity = self.index.activity(now_ms, 60_000);
        for task in self.waiting.iter().step_by(3) {
            self.said.push((task.name.clone(), now_ms, begins_in_ms(&world.observed(), &self.index, &id(&task.name))));
        }
    }
}

fn sees_all(step: TaskStep) -> TaskStep {
    step
}

fn without_priority(step: TaskStep) -> TaskStep {
    TaskStep { priority: None, ..step }
}

fn without_kind(step: TaskStep) -> TaskStep {
    TaskStep { kind: Some(kind("any")), ..step }
}

#[test]
fn forecasts_of_mixed_kinds_are_right_within_a_fifth_and_those_that_see_no_kinds_are_not() {
    for seed in [1, 3] {
        let tasks = sent(&mut Chance(seed), 1_200, 250.0, &[5]);
        let seeing = Acted::new(fleet(), sees_all).median_error(tasks.clone(), 10_000);
        let blind = Acted::new(fleet(), without_kind).median_error(tasks, 10_000);
        println!("kinds, seed {seed}: {seeing:.3}, blind {blind:.3}");
        assert!(seeing < 0.2 && blind > 0.2, "{seeing} {blind}");
    }
}

#[test]
fn forecasts_with_priorities_are_right_within_a_fifth_and_those_that_see_none_are_not() {
    for seed in [4, 5] {
        let tasks = sent(&mut Chance(seed), 1_200, 250.0, &[1, 1, 1, 5, 9]);
        let seeing = Acted::new(fleet(), sees_all).median_error(tasks.clone(), 10_000);
        let blind = Acted::new(fleet(), without_priority).median_error(tasks, 10_000);
        println!("priorities, seed {seed}: {seeing:.3}, blind {blind:.3}");
        assert!(seeing < 0.2 && blind > 0.2, "{seeing} {blind}");
    }
}

/// One GPU with one slot that learnt that a run takes a second.
fn one_gpu(waiting: &[(&str, u8)]) -> (World, TaskIndex) {
    let mut index = TaskIndex::new(IndexBounds { tasks_max: 100_000, age_max_ms: u64::MAX });
    let (outcome, run_ms, attempt) = (Some(Outcome::Succeeded), Some(1_000.0), Some(1));
    index.apply(&TaskStep { outcome, run_ms, attempt, ..step("learnt", StepName::Ended, 100, "echo") });
    for (number, (name, priority)) in waiting.iter().enumerate() {
        index.apply(&TaskStep { priority: Some(*priority), ..step(name, StepName::Submitted, 1_000 + number as u64, "echo") });
    }
    (World::new(100_000, vec![gpu("a", 1, &["echo"])]), index)
}

fn close(said: Option<f64>, is: f64) {
    assert!(said.is_some_and(|said| (said - is).abs() < 1.0), "{said:?} for {is}");
}

#[test]
fn those_before_a_task_run_first_and_what_runs_has_a_rest() {
    let (mut world, mut index) = one_gpu(&[("x", 1), ("y", 1), ("z", 9)]);
    let says = |world: &World, index: &TaskIndex, name| begins_in_ms(&world.observed(), index, &id(name));
    close(says(&world, &index, "z"), 0.0);
    close(says(&world, &index, "x"), 1_000.0);
    close(says(&world, &index, "y"), 2_000.0);
    let began = TaskStep { attempt: Some(1), gpu_id: Some("a".parse().unwrap()), ..step("r", StepName::Began, 99_700, "echo") };
    index.apply(&began);
    close(says(&world, &index, "y"), 2_700.0);
    assert_eq!(says(&world, &index, "r"), None);
    // It has run for longer than others did: it may end at any time.
    world.now_ms = 103_000;
    close(says(&world, &index, "y"), 2_000.0);
    // Long after, the row does not name it: its end was not told.
    index.apply(&TaskStep { attempt: Some(1), gpu_id: Some("a".parse().unwrap()), ..step("z", StepName::Began, 103_000, "echo") });
    world.now_ms = 109_000;
    close(says(&world, &index, "x"), 0.0);
    world.gpus[0].row.running = vec![id("unknown")];
    close(says(&world, &index, "x"), 500.0);
    world.gpus[0].row.run_ms = BTreeMap::from([(kind("echo"), 3_000.0)]);
    close(says(&world, &index, "y"), 3_500.0);
}

#[test]
fn waiting_tasks_that_nobody_told_of_take_their_time_before_those_of_the_lowest_priority() {
    let (mut world, index) = one_gpu(&[("x", 0), ("y", 4)]);
    world.ready = Some(7);
    close(begins_in_ms(&world.observed(), &index, &id("x")), 6_000.0);
    close(begins_in_ms(&world.observed(), &index, &id("y")), 0.0);
}

#[test]
fn a_delayed_task_begins_not_before_it_is_due_and_others_before_it() {
    let (world, mut index) = one_gpu(&[("x", 1)]);
    let delayed =
        |name, due_ms| TaskStep { priority: Some(9), not_before_ms: Some(due_ms), ..step(name, StepName::Submitted, 2_000, "echo") };
    index.apply(&delayed("later", 130_000));
    index.apply(&delayed("soon", 100_500));
    close(begins_in_ms(&world.observed(), &index, &id("later")), 30_000.0);
    close(begins_in_ms(&world.observed(), &index, &id("soon")), 1_000.0);
    close(begins_in_ms(&world.observed(), &index, &id("x")), 0.0);
}

#[test]
fn a_forwarded_task_waits_for_its_own_gpu_alone() {
    let (mut world, mut index) = one_gpu(&[("x", 9), ("y", 0)]);
    world.gpus.push(gpu("b", 1, &["echo"]));
    let began =
        |name, at_ms| TaskStep { attempt: Some(1), gpu_id: Some("b".parse().unwrap()), ..step(name, StepName::Began, at_ms, "echo") };
    index.apply(&began("r", 99_900));
    index.apply(&TaskStep { gpu_id: Some("b".parse().unwrap()), ..step("y", StepName::Forwarded, 99_950, "echo") });
    close(begins_in_ms(&world.observed(), &index, &id("y")), 900.0);
}

#[test]
fn there_is_no_forecast_where_nothing_is_learnt_or_nobody_takes_the_task() {
    let mut index = TaskIndex::new(IndexBounds { tasks_max: 10, age_max_ms: u64::MAX });
    index.apply(&step("x", StepName::Submitted, 1, "echo"));
    let mut world = World::new(100, vec![gpu("a", 1, &["echo"])]);
    assert_eq!(begins_in_ms(&world.observed(), &index, &id("x")), Some(0.0), "a slot is free");
    index.apply(&step("y", StepName::Submitted, 2, "echo"));
    assert_eq!(begins_in_ms(&world.observed(), &index, &id("y")), None);
    world.settings.draining = vec!["a".parse().unwrap()];
    let none = [begins_in_ms(&world.observed(), &index, &id("x")), expected_wait_ms(&world.observed(), 5, None)];
    assert_eq!(none, [None, None]);
}

#[test]
fn the_wait_of_a_task_that_comes_now_is_that_of_those_before_it() {
    let (mut world, index) = one_gpu(&[("x", 2), ("y", 4), ("z", 4)]);
    world.activity = index.activity(world.now_ms, 60_000);
    let expected = |world: &World, priority, of: Option<&str>| expected_wait_ms(&world.observed(), priority, of.map(kind).as_ref());
    close(expected(&world, 4, None), 2_000.0);
    close(expected(&world, 9, Some("echo")), 0.0);
    close(expected(&world, 0, None), 3_000.0);
    assert_eq!(expected(&world, 4, Some("other")), None);
    world.ready = Some(13);
    close(expected(&world, 0, None), 13_000.0);
    world.gpus[0].held = 1;
    close(expected(&world, 4, None), 2_500.0);
}

#[test]
fn a_line_too_long_to_be_acted_out_is_reckoned_with_as_work() {
    let (mut world, mut index) = one_gpu(&[]);
    world.gpus.push(gpu("b", 3, &["echo"]));
    // These have a GPU of their own, and are in nobody's way.
    world.gpus.push(gpu("c", 1, &["apart"]));
    for number in 0..20_000 {
        index.apply(&step(&format!("a{number}"), StepName::Submitted, 1_000 + number, "apart"));
    }
    for number in 0..50_000 {
        index.apply(&step(&format!("w{number}"), StepName::Submitted, 1_000 + number, "echo"));
    }
    index.apply(&step("last", StepName::Submitted, 90_000, "echo"));
    world.activity = index.activity(world.now_ms, 60_000);
    world.activity.priorities.iter_mut().for_each(|numbers| numbers.arrived = 0);
    let right = 50_000.0 * 1_000.0 / 4.0;
    for said in [begins_in_ms(&world.observed(), &index, &id("last")), expected_wait_ms(&world.observed(), 0, Some(&kind("echo")))] {
        assert!(said.is_some_and(|said| (said / right - 1.0).abs() < 0.01), "{said:?}");
    }
}
