//! What goes wrong for one worker: each of its calls to queue, table and store passes through [`Chaos::around`].

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tests::environment::Lifeline;
use tokio::{sync::mpsc::UnboundedSender, time::Instant};

/// Where a process died: at which call, and whether the call had happened.
pub type Site = (&'static str, &'static str);

/// The process that runs one worker, as the faults see it.
pub struct Chaos {
    state: Mutex<State>,
    lifeline: Lifeline,
    /// Told where the process died.
    died: UnboundedSender<(usize, Site)>,
    worker: usize,
}

struct State {
    random: ChaCha8Rng,
    /// The share of calls that are delayed, fail, or fail although they happened.
    trouble: f64,
    /// The longest delay.
    longest: Duration,
    /// Calls until the process dies.
    crash_in: Option<u32>,
    /// The call at which the process dies, and whether the call happens before.
    crash_at: Option<Site>,
    /// Until when every call hangs.
    stalled: Option<Instant>,
    /// Which ports do not answer, until when.
    away: BTreeMap<&'static str, Instant>,
    dead: bool,
}

/// What becomes of one call.
enum Fate {
    Goes,
    Waits(Duration),
    FailsBefore,
    FailsAfter,
    DiesBefore,
    DiesAfter,
}

impl Chaos {
    pub fn new(worker: usize, seed: u64, trouble: f64, longest: Duration, died: UnboundedSender<(usize, Site)>) -> Arc<Self> {
        let random = ChaCha8Rng::seed_from_u64(seed);
        let state = State { random, trouble, longest, crash_in: None, crash_at: None, stalled: None, away: BTreeMap::new(), dead: false };
        Arc::new(Self { state: Mutex::new(state), lifeline: Lifeline::default(), died, worker })
    }

    pub fn lifeline(&self) -> &Lifeline {
        &self.lifeline
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process will die at its `calls`-th call from now.
    pub fn crash_in(&self, calls: u32) {
        self.lock().crash_in = Some(calls);
    }

    /// The process will die at its next call of this name, before or after the call has happened.
    pub fn crash_at(&self, site: Site) {
        self.lock().crash_at = Some(site);
    }

    /// The process hangs for this long, as in a long pause of its host; what it runs goes on.
    pub fn stall(&self, duration: Duration) {
        self.lock().stalled = Some(Instant::now() + duration);
    }

    /// The server behind this port does not answer for this long.
    pub fn cut_off(&self, port: &'static str, duration: Duration) {
        self.lock().away.insert(port, Instant::now() + duration);
    }

    /// From now on this share of calls meets trouble.
    pub fn trouble(&self, share: f64) {
        self.lock().trouble = share;
    }

    /// From now on nothing goes wrong any more.
    pub fn calm(&self) {
        let mut state = self.lock();
        state.trouble = 0.0;
        state.crash_in = None;
        state.crash_at = None;
        state.stalled = None;
        state.away.clear();
    }

    /// Kills the process. Nothing of it does another step.
    pub fn kill(&self, site: Site) {
        if !std::mem::replace(&mut self.lock().dead, true) {
            self.lifeline.cut();
            let _ = self.died.send((self.worker, site));
        }
    }

    /// Kills the process from within: the caller goes no further.
    pub async fn die<T>(&self, site: Site) -> T {
        self.kill(site);
        std::future::pending().await
    }

    /// One call of `port`, named `site`.
    pub async fn around<T, E>(
        &self,
        (port, site): (&'static str, &'static str),
        call: impl Future<Output = Result<T, E>>,
        unavailable: impl Fn() -> E,
    ) -> Result<T, E> {
        self.out_of_the_stall().await;
        if self.lock().away.get(port).is_some_and(|until| *until > Instant::now()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            return Err(unavailable());
        }
        let fate = self.fate(site);
        match fate {
            Fate::Goes => call.await,
            Fate::Waits(delay) => {
                tokio::time::sleep(delay).await;
                let answer = call.await;
                tokio::time::sleep(delay / 2).await;
                answer
            }
            Fate::FailsBefore => Err(unavailable()),
            Fate::FailsAfter => {
                let _ = call.await;
                Err(unavailable())
            }
            Fate::DiesBefore => self.die((site, "before")).await,
            Fate::DiesAfter => {
                let _ = call.await;
                self.die((site, "after")).await
            }
        }
    }

    /// Whether something that nobody waits for gets lost on its way to `port`.
    pub fn loses_what_nobody_awaits(&self, port: &'static str) -> bool {
        let mut state = self.lock();
        let (trouble, away) = (state.trouble, state.away.get(port).is_some_and(|until| *until > Instant::now()));
        state.dead || away || (trouble > 0.0 && state.random.random_bool(trouble))
    }

    async fn out_of_the_stall(&self) {
        loop {
            let until = self.lock().stalled;
            match until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => return,
            }
        }
    }

    fn fate(&self, site: &'static str) -> Fate {
        let mut guard = self.lock();
        let state = &mut *guard;
        if let Some((_, when)) = state.crash_at.filter(|(at, _)| *at == site) {
            state.crash_at = None;
            return if when == "before" { Fate::DiesBefore } else { Fate::DiesAfter };
        }
        if let Some(calls) = state.crash_in {
            state.crash_in = calls.checked_sub(1);
            if calls == 0 {
                return if state.random.random() { Fate::DiesBefore } else { Fate::DiesAfter };
            }
        }
        if state.trouble == 0.0 || !state.random.random_bool(state.trouble) {
            return Fate::Goes;
        }
        let longest = state.longest;
        match state.random.random_range(0..10) {
            0..=4 => Fate::Waits(Duration::from_millis(state.random.random_range(1..50))),
            5 => Fate::Waits(longest.mul_f64(state.random.random_range(0.1..1.0))),
            6 | 7 => Fate::FailsBefore,
            _ => Fate::FailsAfter,
        }
    }
}
