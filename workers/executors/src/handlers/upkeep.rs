//! When a process has had its time: idle, after so many tasks, after so much growth; and whether it takes too much memory.

use std::{sync::Arc, time::Duration};

use protocol::config::HandlerSection;
use tokio::{task::JoinHandle, time::Instant};

use super::group::Group;

/// How often memory is measured, where there is a bound.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What is watched of one process.
#[derive(Debug)]
pub(super) struct Upkeep {
    group: Arc<Group>,
    idle_timeout: Option<Duration>,
    memory_mb_max: Option<u64>,
    tasks_max: Option<u64>,
    growth_mb_max: Option<u64>,
    /// Since when nothing runs, once it is ready.
    idle_from: Option<Instant>,
    next_look: Instant,
    /// A look that is under way.
    looking: Option<JoinHandle<u64>>,
    is_ready: bool,
    /// What it had when it was first measured after it was ready.
    memory_mb_at_first: Option<u64>,
    grown_mb: u64,
}

impl Upkeep {
    pub(super) fn new(section: &HandlerSection, group: Arc<Group>) -> Self {
        Self {
            group,
            idle_timeout: section.idle_timeout_ms.map(Duration::from_millis),
            memory_mb_max: section.memory_mb,
            tasks_max: section.restart_after_tasks,
            growth_mb_max: section.restart_after_growth_mb,
            idle_from: None,
            next_look: Instant::now() + BETWEEN_LOOKS,
            looking: None,
            is_ready: false,
            memory_mb_at_first: None,
            grown_mb: 0,
        }
    }

    /// It takes tasks from now on.
    pub(super) fn ready(&mut self, now: Instant) {
        self.is_ready = true;
        // Growth counts from here: what was imported before is no growth.
        self.next_look = now;
    }

    /// When it will have been idle for too long. `None`: it is not idle, or may be.
    pub(super) fn idle_since(&mut self, now: Instant, is_idle: bool) -> Option<Instant> {
        let idle_timeout = self.idle_timeout?;
        if !is_idle {
            self.idle_from = None;
            return None;
        }
        Some(*self.idle_from.get_or_insert(now) + idle_timeout)
    }

    /// So many tasks may run in it.
    pub(super) fn tasks_max(&self) -> u64 {
        self.tasks_max.unwrap_or(u64::MAX)
    }

    /// Why it is to be started anew now, after so many tasks, as the rest of a sentence that begins with its name.
    pub(super) fn worn_out(&self, tasks: u64, is_spent: bool) -> Option<String> {
        if is_spent || tasks >= self.tasks_max() {
            return Some(format!("has had its {} tasks (handlers[].restart_after_tasks)", self.tasks_max()));
        }
        let is_grown = self.growth_mb_max.is_some_and(|most| self.grown_mb >= most);
        is_grown.then(|| format!("has grown by {} MB since it was ready (handlers[].restart_after_growth_mb)", self.grown_mb))
    }

    /// Waits until its memory was measured again; for ever where there is no bound. Cancel safe.
    pub(super) async fn measured(&mut self) -> u64 {
        if self.memory_mb_max.is_none() && self.growth_mb_max.is_none() {
            return std::future::pending().await;
        }
        loop {
            if let Some(looking) = &mut self.looking {
                let memory_mb = looking.await;
                self.looking = None;
                self.next_look = Instant::now() + BETWEEN_LOOKS;
                return memory_mb.unwrap_or(0);
            }
            tokio::time::sleep_until(self.next_look).await;
            let group = Arc::clone(&self.group);
            self.looking = Some(tokio::task::spawn_blocking(move || group.memory_mb()));
        }
    }

    /// Takes what was measured. The bound, where it is above it.
    pub(super) fn weighs(&mut self, memory_mb: u64) -> Option<u64> {
        if self.is_ready {
            let at_first = *self.memory_mb_at_first.get_or_insert(memory_mb);
            self.grown_mb = memory_mb.saturating_sub(at_first);
        }
        self.memory_mb_max.filter(|most| memory_mb > *most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upkeep(section: &HandlerSection) -> Upkeep {
        Upkeep::new(section, Arc::new(Group::led_by(std::process::id())))
    }

    #[tokio::test]
    async fn what_is_bounded_is_measured_and_growth_counts_from_the_first_look() {
        let section = HandlerSection { memory_mb: Some(500), restart_after_growth_mb: Some(100), ..HandlerSection::default() };
        let mut upkeep = upkeep(&section);
        assert_eq!((upkeep.weighs(450), upkeep.worn_out(0, false)), (None, None));
        upkeep.ready(Instant::now());
        assert_eq!((upkeep.weighs(300), upkeep.weighs(399), upkeep.worn_out(0, false)), (None, None, None));
        assert_eq!(upkeep.weighs(400), None);
        assert!(upkeep.worn_out(0, false).unwrap().contains("grown by 100 MB"));
        assert_eq!(upkeep.weighs(501), Some(500));
    }

    #[test]
    fn it_is_worn_out_after_so_many_tasks() {
        let upkeep = upkeep(&HandlerSection { restart_after_tasks: Some(3), ..HandlerSection::default() });
        assert_eq!(upkeep.worn_out(2, false), None);
        assert!(upkeep.worn_out(2, true).is_some(), "the third has its place");
        assert!(upkeep.worn_out(3, false).unwrap().contains("has had its 3 tasks"));
    }

    #[test]
    fn it_is_idle_since_its_last_task_ended() {
        let now = Instant::now();
        let mut upkeep = upkeep(&HandlerSection { idle_timeout_ms: Some(1_000), ..HandlerSection::default() });
        let (second, later) = (Duration::from_secs(1), now + Duration::from_millis(500));
        assert_eq!(upkeep.idle_since(now, true), Some(now + second));
        assert_eq!(upkeep.idle_since(later, true), Some(now + second));
        assert_eq!(upkeep.idle_since(later, false), None);
        assert_eq!(upkeep.idle_since(later, true), Some(later + second));
    }
}
