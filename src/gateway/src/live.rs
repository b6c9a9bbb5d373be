//! `GET /api/v1/live`: the fleet's course as server-sent events. What is shown is made once for all who look.

use std::{collections::VecDeque, time::Duration};

use axum::{extract::State, response::Response};
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit},
    time::{Instant, sleep_until},
};
use tracing::debug;

use crate::{
    Gateway, ObserveError, Problem,
    events::{self, Event, Source, follow::LONGEST},
    gpus::GpuList,
};

/// Between two events of one name.
const EVERY: Duration = Duration::from_secs(2);

/// What the streams show now. Held while it is made: whoever comes meanwhile waits for the same.
#[derive(Debug, Default)]
pub(crate) struct LiveView(Mutex<Option<Shown>>);

/// What is shown at one time, as text.
#[derive(Debug, Clone)]
struct Shown {
    at: Instant,
    events: [Event; 2],
}

/// `GET /api/v1/live`.
pub(crate) async fn show(State(gateway): State<Gateway>) -> Result<Response, Problem> {
    let permit = events::admitted(&gateway)?;
    let now = Instant::now();
    Ok(events::answer(Watching { gateway, ready: VecDeque::new(), look_at: now, ends_at: now + LONGEST, _permit: permit }))
}

/// One client that looks.
struct Watching {
    gateway: Gateway,
    ready: VecDeque<Event>,
    look_at: Instant,
    ends_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Watching {
    async fn look(&mut self) {
        match self.gateway.shown().await {
            Ok(Shown { at, events }) => {
                self.ready.extend(events);
                self.look_at = at + EVERY;
            }
            Err(error) => {
                debug!(%error, "show the fleet's course");
                self.look_at = Instant::now() + EVERY;
            }
        }
    }
}

impl Source for Watching {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ends_at <= Instant::now() {
                return None;
            }
            let gateway = self.gateway.clone();
            let looking = async {
                sleep_until(self.look_at.min(self.ends_at)).await;
                self.look().await;
            };
            tokio::select! {
                biased;
                () = gateway.closing.cancelled() => return None,
                () = looking => {}
            }
        }
    }
}

impl Gateway {
    /// What is shown now, made anew where it is too old.
    async fn shown(&self) -> Result<Shown, ObserveError> {
        let mut last = self.live.0.lock().await;
        if let Some(shown) = last.as_ref().filter(|shown| shown.at.elapsed() < EVERY) {
            return Ok(shown.clone());
        }
        let overview = self.observatory.overview().await?;
        let gpus = GpuList::of(self.options.pool.clone(), self.observatory.gpus());
        let shown = Shown { at: Instant::now(), events: [Event::new("overview", &overview), Event::new("gpus", &gpus)] };
        *last = Some(shown.clone());
        Ok(shown)
    }
}
