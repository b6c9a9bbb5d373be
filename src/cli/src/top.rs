//! `gpufleet top`: the fleet on the whole terminal.
//!
//! It looks about once a second and draws only what changed. The page and its keys know nothing of fleet or terminal: [`screen`] is the state, [`draw`] its picture.

mod draw;
mod rows;
mod screen;
mod terminal;
mod theme;

use std::{collections::VecDeque, process::ExitCode, time::Duration};

use futures::future::{LocalBoxFuture, pending};
use protocol::{
    TaskState,
    insight::{TaskFilter, Why},
};
use tokio::time::{MissedTickBehavior, interval};

use self::{
    screen::{Ask, Next, Screen, Shot},
    terminal::{Events, FullScreen, Signals},
    theme::Theme,
};
use crate::{arguments::Common, drain::Drain, fault::Fault, fleet::Fleet, why};

/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Most running tasks that are listed.
const RUNNING_MAX: u32 = 500;

/// Shows the fleet until it is told to end.
pub(crate) async fn run(common: &Common) -> Result<ExitCode, Fault> {
    let others = "`gpufleet gpus`, `gpufleet tasks ls` and `gpufleet bottleneck` print the same, with --json too";
    if common.json {
        return Err(Fault::Usage(format!("top draws for people, and has no JSON; {others}")));
    }
    if !terminal::is_there() {
        return Err(Fault::Usage(format!("top needs a terminal to draw on and to read keys from; {others}")));
    }
    let fleet = Fleet::to_observe(common).await?;
    let watched = match look(&fleet).await {
        Ok(first) => watch(&fleet, first).await,
        Err(fault) => Err(fault),
    };
    fleet.close().await;
    watched
}

/// What came of something that the fleet was asked.
enum Answer {
    Looked(Result<Box<Shot>, Fault>),
    Told(String, Result<String, Fault>),
    Why(Result<Option<Why>, Fault>),
}

async fn watch(fleet: &Fleet, first: Shot) -> Result<ExitCode, Fault> {
    let place = fleet.gateway_url().map_or_else(|| "servers".to_owned(), ToString::to_string);
    let mut screen = Screen::new(first, place);
    let theme = Theme::of_process();
    let mut signals = Signals::listen()?;
    let mut full = FullScreen::open()?;
    let mut events = Events::read()?;
    let mut ticks = interval(LOOK_AGAIN);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asks = VecDeque::<Ask>::new();
    // One question at a time: what a person asks comes before the next look.
    let mut asked: Option<LocalBoxFuture<'_, Answer>> = None;
    loop {
        if screen.take_changed() {
            full.draw(|frame| draw::draw(frame, &mut screen, theme))?;
        }
        if asked.is_none()
            && let Some(ask) = asks.pop_front()
        {
            asked = Some(Box::pin(put(fleet, ask)));
        }
        let is_free = asked.is_none();
        tokio::select! {
            biased;
            code = signals.next() => return Ok(ExitCode::from(code)),
            event = events.next() => match screen.take(&event?) {
                Next::Stay => {}
                Next::End => return Ok(ExitCode::SUCCESS),
                Next::Ask(ask) => asks.push_back(ask),
            },
            answer = answered(&mut asked) => {
                asked = None;
                match answer {
                    Answer::Looked(looked) => screen.show(looked.map(|shot| *shot).map_err(|fault| fault.to_string())),
                    Answer::Told(what, told) => {
                        // What cannot be noted in the action log was warned of, right across the picture.
                        full.wipe()?;
                        screen.tell(what, told.map_err(|fault| fault.to_string()));
                    }
                    Answer::Why(why) => screen.explain(why_lines(why)),
                }
            }
            _ = ticks.tick(), if is_free && !screen.is_paused() => asked = Some(Box::pin(look_again(fleet))),
        }
    }
}

/// The answer to what was asked; never, where nothing was.
async fn answered(asked: &mut Option<LocalBoxFuture<'_, Answer>>) -> Answer {
    match asked {
        Some(asked) => asked.await,
        None => pending().await,
    }
}

async fn look_again(fleet: &Fleet) -> Answer {
    Answer::Looked(look(fleet).await.map(Box::new))
}

async fn look(fleet: &Fleet) -> Result<Shot, Fault> {
    let overview = fleet.overview().await?;
    let gpus = fleet.pool().await?.gpus;
    let filter = TaskFilter { state: vec![TaskState::Running], slices: true, ..TaskFilter::default() };
    let running = match fleet.tasks(&filter, None, RUNNING_MAX).await {
        Ok(page) => Ok(page),
        // A gateway may show tasks to operators alone, and the rest to all.
        Err(Fault::Usage(why)) => Err(why),
        Err(fault) => return Err(fault),
    };
    Ok(Shot { overview, gpus, running })
}

async fn put(fleet: &Fleet, ask: Ask) -> Answer {
    match ask {
        Ask::Why(task_id) => Answer::Why(fleet.why(&task_id).await),
        Ask::Drain(gpu_id) => {
            let drained = fleet.drain(&gpu_id, Drain::On).await;
            Answer::Told(format!("drain {gpu_id}"), drained.map(|_| format!("GPU {gpu_id} drains")))
        }
        Ask::Undrain(gpu_id) => {
            let undrained = fleet.drain(&gpu_id, Drain::Off).await;
            Answer::Told(format!("undrain {gpu_id}"), undrained.map(|_| format!("GPU {gpu_id} takes tasks again")))
        }
    }
}

/// What is to be said of a task, a line each.
fn why_lines(why: Result<Option<Why>, Fault>) -> Vec<String> {
    match why {
        Ok(Some(why)) => {
            let mut lines = why::lines(&why);
            lines.extend(why.gpus.iter().map(|gpu| format!("{}: {}", gpu.gpu_id, gpu.words)));
            lines
        }
        Ok(None) => vec!["nobody knows of this task any more".to_owned()],
        Err(fault) => vec![fault.to_string()],
    }
}
