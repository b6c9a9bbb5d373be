//! Who may run when: a handler's processes have so many places together, and who finds none free waits in order.
//!
//! ```text
//!            start            ready                 idle
//!  (none) ─────────▶ Starting ─────▶ Up ──────────────────────▶ Asleep
//!                       ▲  │ failed   │ died                       │ a task waits
//!        the pause ends │  ▼          ▼                            ▼
//!                      Resting ◀──────┘                         Starting, still counted as up
//! ```

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

use super::runs::Live;
use crate::Failure;

/// Tasks wait through rests of a handler that are shorter.
const PATIENCE: Duration = Duration::from_secs(4);

/// What the row of a GPU has of a reason, in bytes.
const WHY_BYTES_MAX: usize = 400;

/// What one of a handler's processes is at.
#[derive(Debug)]
pub(super) enum Phase {
    /// It was started and is not ready. `again`: why its predecessor ended, where that was a failure.
    Starting { again: Option<String>, from_sleep: bool },
    /// It takes tasks, unless it is closed.
    Up(Up),
    /// It ended because nothing was to be done; the next task starts it.
    Asleep,
    /// It failed, and is started anew after a pause.
    Resting { why: String, pause: Duration },
    /// It is not started again.
    Over,
}

/// A process that is up.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) live: Arc<Live>,
    pub(super) free: usize,
    pub(super) places: usize,
    pub(super) is_open: bool,
    /// So many more places are given before it is started anew.
    pub(super) left: u64,
    /// Which process of the seat: a place of an earlier one is not given back to it.
    pub(super) life: u64,
}

#[derive(Debug)]
struct Seat {
    phase: Phase,
    wake: Arc<Notify>,
}

/// The line of one handler.
#[derive(Debug)]
pub(super) struct Line {
    handler: String,
    state: Mutex<State>,
}

/// Locked before the runs of a process, never while they are.
#[derive(Debug)]
struct State {
    /// As many as there are runs of this GPU's worker, which has a bound.
    waiting: VecDeque<oneshot::Sender<Result<Given, Failure>>>,
    seats: Vec<Seat>,
}

/// A place in a process: held until the run in it has really ended.
#[derive(Debug)]
pub(super) struct Place {
    line: Arc<Line>,
    seat: usize,
    life: u64,
}

/// A place and its process.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) place: Place,
    pub(super) live: Arc<Live>,
}

impl Line {
    /// Of a handler with so many processes, none of which has been started.
    pub(super) fn new(handler: String, processes: usize) -> Arc<Self> {
        let seat = || Seat { phase: Phase::Starting { again: None, from_sleep: false }, wake: Arc::default() };
        let seats = std::iter::repeat_with(seat).take(processes).collect();
        Arc::new(Self { handler, state: Mutex::new(State { waiting: VecDeque::new(), seats }) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a place, in order. Dropped, it leaves the line.
    ///
    /// # Errors
    /// No process will be there soon.
    pub(super) async fn place(self: &Arc<Self>) -> Result<Given, Failure> {
        let (given, waits) = oneshot::channel();
        {
            let mut state = self.lock();
            if let Some(failure) = state.hopeless(&self.handler) {
                return Err(failure);
            }
            state.waiting.push_back(given);
        }
        self.give();
        self.wake_one();
        waits.await.unwrap_or_else(|_| Err(Failure::transient(format!("the handler {} is gone", self.handler))))
    }

    /// Gives what is free to those that wait.
    fn give(self: &Arc<Self>) {
        // Of those that have left meanwhile. Not to be dropped under the lock, which a place takes when it goes back.
        let mut returned = Vec::new();
        let mut state = self.lock();
        state.waiting.retain(|waiting| !waiting.is_closed());
        while let Some(seat) = state.freest() {
            let Some(waiting) = state.waiting.pop_front() else { break };
            let Phase::Up(up) = &mut state.seats[seat].phase else { break };
            up.free -= 1;
            up.left -= 1;
            if up.left == 0 {
                up.live.changed.notify_one();
            }
            let place = Place { line: Arc::clone(self), seat, life: up.life };
            let given = Given { place, live: Arc::clone(&up.live) };
            returned.extend(waiting.send(Ok(given)).err());
        }
        drop(state);
    }

    /// Starts a process that sleeps, if anybody waits.
    fn wake_one(&self) {
        let mut state = self.lock();
        if state.waiting.is_empty() {
            return;
        }
        if let Some(seat) = state.seats.iter_mut().find(|seat| matches!(seat.phase, Phase::Asleep)) {
            seat.phase = Phase::Starting { again: None, from_sleep: true };
            seat.wake.notify_one();
        }
    }

    /// What wakes a process that sleeps.
    pub(super) fn wake_of(&self, seat: usize) -> Arc<Notify> {
        Arc::clone(&self.lock().seats[seat].wake)
    }

    /// What a process is at from now on.
    pub(super) fn set(self: &Arc<Self>, seat: usize, phase: Phase) {
        let mut told = Vec::new();
        {
            let mut state = self.lock();
            state.seats[seat].phase = phase;
            if let Some(failure) = state.hopeless(&self.handler) {
                told.extend(state.waiting.drain(..).map(|waiting| (waiting, failure.clone())));
            }
        }
        for (waiting, failure) in told {
            // Who has left needs no answer.
            let _ = waiting.send(Err(failure));
        }
        self.give();
        self.wake_one();
    }

    /// How many places of a process are taken.
    pub(super) fn taken(&self, seat: usize) -> usize {
        match &self.lock().seats[seat].phase {
            Phase::Up(up) => up.places - up.free,
            _ => 0,
        }
    }

    /// Lets a process take no more tasks.
    pub(super) fn close(&self, seat: usize) {
        if let Phase::Up(up) = &mut self.lock().seats[seat].phase {
            up.is_open = false;
        }
    }

    /// Whether all the places of a process that may be given have been.
    pub(super) fn is_spent(&self, seat: usize) -> bool {
        matches!(&self.lock().seats[seat].phase, Phase::Up(up) if up.left == 0)
    }

    /// Puts a process to sleep if nothing runs there and nobody waits. Whether it is so. The next task wakes it.
    pub(super) fn sleep_if_unused(&self, seat: usize) -> bool {
        let mut state = self.lock();
        let is_wanted = state.waiting.iter().any(|waiting| !waiting.is_closed());
        match &state.seats[seat].phase {
            Phase::Up(up) if up.free == up.places && !is_wanted => {
                state.seats[seat].phase = Phase::Asleep;
                true
            }
            _ => false,
        }
    }

    /// Why no process takes tasks now. `None`: one does, or would at once.
    pub(super) fn why_down(&self) -> Option<String> {
        let state = self.lock();
        let serves = |seat: &Seat| match &seat.phase {
            Phase::Up(up) => up.is_open && up.left > 0,
            Phase::Asleep => true,
            Phase::Starting { from_sleep, .. } => *from_sleep,
            Phase::Resting { .. } | Phase::Over => false,
        };
        if state.seats.iter().any(serves) {
            return None;
        }
        let name = &self.handler;
        let words = |seat: &Seat| match &seat.phase {
            Phase::Resting { why, pause } => (3, format!("{}; it is started anew after a pause of {} s", in_brief(why), pause.as_secs())),
            Phase::Starting { again: Some(why), .. } => (2, format!("{}; it starts anew", in_brief(why))),
            Phase::Starting { again: None, .. } => (1, format!("handler {name} is starting")),
            Phase::Up(_) | Phase::Asleep => (1, format!("handler {name} is about to be started anew")),
            Phase::Over => (0, format!("handler {name} was stopped")),
        };
        state.seats.iter().map(words).max().map(|(_, words)| words)
    }
}

/// A reason for the row of a GPU: its beginning and its end, which have what happened and what was written last.
fn in_brief(why: &str) -> String {
    if why.len() <= WHY_BYTES_MAX {
        return why.to_owned();
    }
    let half = WHY_BYTES_MAX / 2;
    format!("{} … {}", &why[..why.floor_char_boundary(half)], &why[why.ceil_char_boundary(why.len() - half)..])
}

impl State {
    /// The process with the most free places. One in which a cancelled run lingers has none: it is about to be ended, and whatever runs there then crashes, and would be convicted for it.
    fn freest(&self) -> Option<usize> {
        let free = self.seats.iter().enumerate().filter_map(|(number, seat)| match &seat.phase {
            Phase::Up(up) if up.is_open && up.free > 0 && up.left > 0 && !up.live.has_lingering() => {
                Some((up.free, std::cmp::Reverse(number)))
            }
            _ => None,
        });
        free.max().map(|(_, number)| number.0)
    }

    /// The failure of who waits, where no process will be there soon.
    fn hopeless(&self, handler: &str) -> Option<Failure> {
        let rests = self.seats.iter().map(|seat| match &seat.phase {
            Phase::Resting { why, pause } if *pause >= PATIENCE => Some((*pause, why.clone())),
            Phase::Over => Some((Duration::ZERO, format!("handler {handler} was stopped"))),
            _ => None,
        });
        let (pause, why) = rests.collect::<Option<Vec<_>>>()?.into_iter().min()?;
        let retry_after_ms = u64::try_from(pause.as_millis()).ok().filter(|pause| *pause > 0);
        Some(Failure { retry_after_ms, ..Failure::transient(why) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Phase::Up(up) = &mut self.line.lock().seats[self.seat].phase
            && up.life == self.life
        {
            up.free += 1;
            up.live.changed.notify_one();
        }
        self.line.give();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use protocol::config::HandlerProtocol;

    use super::*;

    fn up(line: &Arc<Line>, seat: usize, places: usize, life: u64) {
        let live = Live::new("h".to_owned(), HandlerProtocol::Frames).0;
        line.set(seat, Phase::Up(Up { live, free: places, places, is_open: true, left: 3, life }));
    }

    #[tokio::test]
    async fn places_are_given_in_order_and_one_that_left_takes_none() {
        let line = Line::new("h".to_owned(), 1);
        assert_eq!(line.why_down().unwrap(), "handler h is starting");
        let (mut first, mut second, mut third) = (Box::pin(line.place()), Box::pin(line.place()), Box::pin(line.place()));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        drop(second);
        up(&line, 0, 1, 1);
        assert_eq!(line.why_down(), None);
        let given = first.await.unwrap();
        assert!((&mut third).now_or_never().is_none() && line.taken(0) == 1);
        drop(given);
        drop(third.await.unwrap());
        assert!(line.taken(0) == 0 && !line.is_spent(0));
        let last = line.place().await.unwrap();
        assert!(line.is_spent(0) && !line.sleep_if_unused(0) && line.why_down().is_some());
        drop(last);
        assert!(line.place().now_or_never().is_none() && line.sleep_if_unused(0) && line.why_down().is_none(), "it has given three places");
    }

    #[tokio::test]
    async fn a_place_of_an_earlier_process_is_not_given_back_to_the_next() {
        let line = Line::new("h".to_owned(), 1);
        up(&line, 0, 1, 1);
        let of_the_first = line.place().await.unwrap();
        up(&line, 0, 1, 2);
        let of_the_second = line.place().await.unwrap();
        drop(of_the_first);
        assert!(line.place().now_or_never().is_none(), "the second process has one place");
        drop(of_the_second);
        assert!(line.place().now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_waits_is_told_once_every_process_rests_for_long() {
        let line = Line::new("h".to_owned(), 2);
        let mut waits = Box::pin(line.place());
        assert!((&mut waits).now_or_never().is_none());
        line.set(0, Phase::Resting { why: "no model".to_owned(), pause: Duration::from_secs(8) });
        assert!((&mut waits).now_or_never().is_none(), "the other one starts");
        line.set(1, Phase::Resting { why: "no model".to_owned(), pause: Duration::from_secs(2) });
        assert!((&mut waits).now_or_never().is_none(), "the other one is there soon");
        line.set(1, Phase::Resting { why: "no model".to_owned(), pause: Duration::from_secs(16) });
        let failure = waits.await.unwrap_err();
        assert_eq!((failure.message.as_str(), failure.retry_after_ms, failure.retry), ("no model", Some(8_000), true));
        assert!(line.why_down().unwrap().starts_with("no model; it is started anew after a pause of"));
        assert!(line.place().await.is_err());
    }

    #[tokio::test]
    async fn a_long_reason_is_told_by_its_beginning_and_its_end() {
        let line = Line::new("h".to_owned(), 1);
        let why = format!("handler h ended; standard error: {} no model", "ü".repeat(2_000));
        line.set(0, Phase::Resting { why, pause: Duration::from_secs(1) });
        let down = line.why_down().unwrap();
        assert!(down.starts_with("handler h ended; ") && down.contains(" no model; it is started anew") && down.len() < 500, "{down}");
    }

    #[tokio::test]
    async fn one_that_sleeps_counts_as_up_and_is_woken_by_a_task() {
        let line = Line::new("h".to_owned(), 1);
        line.set(0, Phase::Asleep);
        assert_eq!(line.why_down(), None);
        let mut waits = Box::pin(line.place());
        assert!((&mut waits).now_or_never().is_none());
        assert!(line.wake_of(0).notified().now_or_never().is_some() && line.why_down().is_none());
    }
}
