//! What a connection is doing, and for how long it may.

use std::{
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::{
    sync::Notify,
    time::{Instant, Sleep, sleep_until},
};

use super::ConnectionLimits;

/// So many bytes of a body are headway. A client that sends less at a time may go on, but where room is needed it counts as one that sends nothing.
const HEADWAY_BYTES: usize = 4 << 10;

/// Where a connection stands.
///
/// ```text
///            first byte           head complete              answer complete             all of it handed to the kernel
///  Resting ────────────► Head ───────────────────► Answering ─────────────────► Flushing ─────────────────────────────► Resting
/// ```
///
/// A connection begins in `Head`. Any phase in which the server waits for its client may be given up to make room. That is also so while a body is awaited, between
/// `Answering` and `Answering`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The client is to send a head, or the rest of it.
    Head,
    /// A request is answered.
    Answering,
    /// The client is to send a body, or the rest of it.
    Body,
    /// The answer is complete, and not all of it is written.
    Flushing,
    /// Between two requests.
    Resting,
    /// Nothing that comes is heard any more.
    GivenUp,
}

/// Why the server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The head did not arrive in time.
    HeadTimeout,
    /// No request came for too long.
    IdleTimeout,
    /// The client took nothing of an answer for too long.
    Stalled,
    /// Another connection needed the room.
    MadeRoom,
}

impl Ending {
    /// The name in metrics and in the log.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::HeadTimeout => "head_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::Stalled => "stalled",
            Self::MadeRoom => "made_room",
        }
    }
}

/// How long a connection has waited for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// For the rest of a head, or for its first byte after the accept.
    Head(Instant),
    /// For a body, since it last made headway.
    Body(Instant),
    /// For its next request.
    Rest(Instant),
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    /// The bytes of a body that came since then.
    came: usize,
    /// Since when the client takes nothing of what is to be written.
    stalled: Option<Instant>,
}

/// What a connection is doing. Shared by what reads and writes it, what answers it, and whoever needs room.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    given_up: Notify,
}

impl Activity {
    pub(super) fn new() -> Self {
        let state = State { phase: Phase::Head, since: Instant::now(), came: 0, stalled: None };
        Self { state: Mutex::new(state), given_up: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes came. False: the connection is given up, and they must not be acted on.
    pub(super) fn heard(&self) -> bool {
        let mut state = self.state();
        if state.phase == Phase::Resting {
            state.enter(Phase::Head);
        }
        state.phase != Phase::GivenUp
    }

    /// A head is complete.
    pub(super) fn answering(&self) {
        self.state().enter(Phase::Answering);
    }

    /// The rest of a body is wanted, and has not come.
    pub(super) fn awaits_body(&self) {
        let mut state = self.state();
        if state.phase == Phase::Answering {
            state.came = 0;
            state.enter(Phase::Body);
        }
    }

    /// So many bytes of a body came. False: the connection is given up, and they must not be acted on.
    pub(super) fn body_came(&self, bytes: usize) -> bool {
        let mut state = self.state();
        if state.phase == Phase::Body {
            state.came = state.came.saturating_add(bytes);
            if state.came >= HEADWAY_BYTES {
                (state.came, state.since) = (0, Instant::now());
            }
        }
        state.phase != Phase::GivenUp
    }

    /// No more of the body is to come, or nobody wants more. False: the connection is given up.
    pub(super) fn body_ended(&self) -> bool {
        let mut state = self.state();
        if state.phase == Phase::Body {
            state.enter(Phase::Answering);
        }
        state.phase != Phase::GivenUp
    }

    /// The answer is complete, or nobody wants it any more.
    pub(super) fn answered(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Answering | Phase::Body) {
            state.enter(Phase::Flushing);
        }
    }

    /// Something was to be written, and the client did or did not take it. A client that takes some of the last bytes has as long again for the rest: a large answer
    /// is complete long before a slow client has all of it.
    pub(super) fn wrote(&self, taken: bool) {
        let mut state = self.state();
        state.stalled = if taken { None } else { state.stalled.or_else(|| Some(Instant::now())) };
        // An answer that is taken while its body still comes is headway too: the client has it from what it sent.
        if taken && matches!(state.phase, Phase::Flushing | Phase::Body) {
            state.since = Instant::now();
        }
    }

    /// Nothing is left to be written.
    pub(super) fn flushed(&self) {
        let mut state = self.state();
        if state.phase == Phase::Flushing {
            state.enter(Phase::Resting);
        }
    }

    /// Whether the server waits for the client, and since when.
    pub(super) fn waiting(&self) -> Option<Waiting> {
        let state = self.state();
        match state.phase {
            Phase::Head => Some(Waiting::Head(state.since)),
            Phase::Body => Some(Waiting::Body(state.since)),
            Phase::Resting => Some(Waiting::Rest(state.since)),
            Phase::Answering | Phase::Flushing | Phase::GivenUp => None,
        }
    }

    /// Gives the connection up, if the server still waits for its client. From then on nothing is heard of it, so that no request is taken and not answered.
    pub(super) fn give_up(&self) -> bool {
        self.give_up_in(&[Phase::Head, Phase::Body, Phase::Resting])
    }

    /// As [`Activity::give_up`], but only where no request has been made of which the head is complete.
    pub(super) fn give_up_without_a_request(&self) -> bool {
        self.give_up_in(&[Phase::Head, Phase::Resting])
    }

    fn give_up_in(&self, phases: &[Phase]) -> bool {
        let mut state = self.state();
        if !phases.contains(&state.phase) {
            return false;
        }
        state.enter(Phase::GivenUp);
        drop(state);
        self.given_up.notify_one();
        true
    }

    /// Ends when the connection was given up.
    pub(super) async fn given_up(&self) {
        self.given_up.notified().await;
    }

    /// When it has lasted too long, and what has.
    fn overdue(&self, limits: ConnectionLimits) -> Option<(Instant, Ending)> {
        let state = self.state();
        let phase = match state.phase {
            Phase::Head => Some((state.since + limits.head_timeout, Ending::HeadTimeout)),
            Phase::Resting => Some((state.since + limits.idle_timeout, Ending::IdleTimeout)),
            Phase::Flushing => Some((state.since + limits.idle_timeout, Ending::Stalled)),
            // How long a body or an answer may take is for each route to say.
            Phase::Answering | Phase::Body | Phase::GivenUp => None,
        };
        let stalled = state.stalled.map(|since| (since + limits.idle_timeout, Ending::Stalled));
        [phase, stalled].into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

impl State {
    fn enter(&mut self, phase: Phase) {
        if self.phase != Phase::GivenUp {
            (self.phase, self.since) = (phase, Instant::now());
        }
    }
}

/// Rings when a connection's phase has lasted too long. Polled with the connection, and after it: then every change of phase has been seen.
#[derive(Debug)]
pub(super) struct Alarm {
    limits: ConnectionLimits,
    sleep: Pin<Box<Sleep>>,
}

impl Alarm {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self { limits, sleep: Box::pin(sleep_until(Instant::now() + limits.head_timeout)) }
    }

    pub(super) fn poll(&mut self, activity: &Activity, context: &mut Context<'_>) -> Poll<Ending> {
        loop {
            let Some((at, ending)) = activity.overdue(self.limits) else { return Poll::Pending };
            // A timer that is set for earlier may stay: it is set anew when it rings. Most requests then cost no timer.
            if at < self.sleep.deadline() || self.sleep.is_elapsed() {
                self.sleep.as_mut().reset(at);
            }
            ready!(self.sleep.as_mut().poll(context));
            if at <= Instant::now() {
                return Poll::Ready(ending);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use super::*;

    const LIMITS: ConnectionLimits =
        ConnectionLimits { connections_max: 4, head_timeout: Duration::from_secs(10), idle_timeout: Duration::from_secs(75) };

    async fn rings(activity: &Activity) -> (Ending, u64) {
        let (began, mut alarm) = (Instant::now(), Alarm::new(LIMITS));
        let ending = poll_fn(|context| alarm.poll(activity, context)).await;
        (ending, began.elapsed().as_secs())
    }

    fn answered_once() -> Activity {
        let activity = Activity::new();
        activity.answering();
        activity.answered();
        activity.flushed();
        activity
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_limit_and_an_answer_under_way_has_none() {
        assert_eq!(rings(&Activity::new()).await, (Ending::HeadTimeout, 10));
        let activity = answered_once();
        assert_eq!(rings(&activity).await, (Ending::IdleTimeout, 75));
        assert!(activity.heard());
        assert_eq!(rings(&activity).await, (Ending::HeadTimeout, 10), "the first byte of the next head");
        activity.answering();
        assert!(tokio::time::timeout(Duration::from_secs(3_600), rings(&activity)).await.is_err());
        activity.wrote(false);
        assert_eq!(rings(&activity).await, (Ending::Stalled, 75));
        activity.wrote(true);
        activity.answered();
        assert_eq!(rings(&activity).await, (Ending::Stalled, 75), "its last bytes are not read");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_an_answer_slowly_gets_all_of_it() {
        let activity = Activity::new();
        activity.answering();
        activity.answered();
        for _ in 0..5 {
            tokio::time::advance(Duration::from_secs(60)).await;
            activity.wrote(true);
            activity.wrote(false);
        }
        assert_eq!(rings(&activity).await, (Ending::Stalled, 75), "only since it took the last of it");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_its_answer_while_it_sends_makes_headway() {
        let activity = Activity::new();
        activity.answering();
        activity.awaits_body();
        tokio::time::advance(Duration::from_secs(60)).await;
        let began = Instant::now() - Duration::from_secs(60);
        activity.wrote(false);
        assert_eq!(activity.waiting(), Some(Waiting::Body(began)), "it took nothing");
        activity.wrote(true);
        assert_eq!(activity.waiting(), Some(Waiting::Body(Instant::now())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_phase_that_began_while_the_alarm_was_set_has_its_own_limit() {
        let (activity, mut alarm) = (answered_once(), Alarm::new(LIMITS));
        let (began, mut heard) = (Instant::now(), false);
        let ring = poll_fn(|context| {
            let ring = alarm.poll(&activity, context);
            if heard || began.elapsed() < LIMITS.head_timeout {
                return ring;
            }
            // By now it is set for the end of the rest. The first byte of a head comes.
            heard = activity.heard();
            assert!(heard && ring.is_pending());
            alarm.poll(&activity, context)
        });
        assert_eq!(ring.await, Ending::HeadTimeout);
        assert_eq!(began.elapsed().as_secs(), 20);
    }

    #[tokio::test]
    async fn only_what_waits_for_its_client_is_given_up_and_then_hears_nothing() {
        let busy = Activity::new();
        busy.answering();
        assert!(busy.waiting().is_none() && !busy.give_up());
        busy.answered();
        assert!(!busy.give_up(), "its answer is not all written");
        busy.flushed();
        assert!(matches!(busy.waiting(), Some(Waiting::Rest(_))) && busy.give_up());
        busy.given_up().await;
        assert!(!busy.heard() && busy.waiting().is_none() && !busy.give_up());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_waited_for_since_it_last_made_headway_and_is_given_up_until_it_is_whole() {
        let second = Duration::from_secs(1);
        let sending = || {
            let activity = Activity::new();
            activity.answering();
            activity.awaits_body();
            activity
        };
        let (began, slow) = (Instant::now(), sending());
        tokio::time::advance(second).await;
        assert!(slow.body_came(1));
        assert_eq!(slow.waiting(), Some(Waiting::Body(began)), "one byte is no headway");
        assert!(slow.body_came(HEADWAY_BYTES));
        assert_eq!(slow.waiting(), Some(Waiting::Body(began + second)));
        assert!(!slow.give_up_without_a_request() && slow.give_up());
        assert!(!slow.body_came(HEADWAY_BYTES) && !slow.body_ended(), "nothing is done with it");

        let whole = sending();
        assert!(whole.body_ended());
        assert!(whole.waiting().is_none() && !whole.give_up());
    }
}
