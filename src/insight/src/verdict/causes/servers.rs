//! The broker and Redis: away, blocked, or slow.

use protocol::{gpu::ServerTimes, insight::Holdup};

use super::super::{
    Found,
    words::{duration, limited, measured},
};
use crate::{Observed, load::Load};

/// What is faster than this, in ms, is never a cause.
const SLOW_MS: f64 = 200.0;
/// What is slower than this, in ms, is one however long tasks run.
const VERY_SLOW_MS: f64 = 5_000.0;
/// From this part of what a task runs on a server's answer counts.
const RUN_SHARE: f64 = 0.5;
/// No answer at all: nothing travels.
const AWAY: f64 = 4.0;
/// Publishers wait, what is queued goes on.
const BLOCKED: f64 = 3.0;

/// The broker gives no answer, blocks publishers, or is slow.
pub(in super::super) fn broker(observed: &Observed<'_>) -> Option<Found> {
    let Some(own_ms) = observed.broker_ms else {
        return Some(away(Holdup::Broker, "The broker does not answer: see that RabbitMQ runs and can be reached."));
    };
    let workers = observed.gpus.len();
    let blocked = observed.gpus.iter().filter(|view| view.row.servers.broker_blocked).count();
    if observed.broker_blocked || (blocked > 0 && blocked * 2 >= workers) {
        let evidence = vec![
            limited("workers whose publishes are blocked", blocked as f64, "workers", 0.0),
            measured("workers", workers as f64, "workers"),
            measured("time of a confirm", own_ms, "ms"),
        ];
        let sentence = format!(
            "The broker blocks publishers, {blocked} of {workers} workers among them: free memory or disk on RabbitMQ's host (an alarm is set)."
        );
        return Some(Found { holdup: Holdup::Broker, weight: BLOCKED, sentence, evidence });
    }
    let ms = median(own_ms, observed, |servers| servers.broker_ms);
    slow(observed, (Holdup::Broker, "a confirm of the broker"), ms, "see RabbitMQ's disk and CPU")
}

/// Redis gives no answer or is slow: the store or the table, whichever is worse.
pub(in super::super) fn redis(observed: &Observed<'_>) -> Option<Found> {
    let (Some(store_ms), Some(table_ms)) = (observed.store_ms, observed.table_ms) else {
        let which = match (observed.store_ms, observed.table_ms) {
            (None, None) => "neither store nor table answers",
            (None, _) => "the store does not answer",
            _ => "the table does not answer",
        };
        return Some(away(Holdup::Redis, &format!("Redis is away, {which}: see that it runs and can be reached.")));
    };
    let store_ms = median(store_ms, observed, |servers| servers.store_ms);
    let table_ms = median(table_ms, observed, |servers| servers.table_ms);
    let (what, ms) = if store_ms >= table_ms { ("a call of the store", store_ms) } else { ("a claim of the table", table_ms) };
    slow(observed, (Holdup::Redis, what), ms, "see Redis' CPU, its slow log and what else uses it")
}

fn away(holdup: Holdup, sentence: &str) -> Found {
    let evidence = vec![limited("servers of it that answer", 0.0, "", 1.0)];
    Found { holdup, weight: AWAY, sentence: sentence.to_owned(), evidence }
}

/// A server that is slow against what tasks run, while they wait too long.
fn slow(observed: &Observed<'_>, (holdup, what): (Holdup, &str), ms: f64, advice: &str) -> Option<Found> {
    let load = Load::of(observed);
    let run_ms = load.mean_run_ms.unwrap_or(0.0);
    let limit = (run_ms * RUN_SHARE).clamp(SLOW_MS, VERY_SLOW_MS);
    if ms < limit || !load.is_late(observed.scaling.wait_objective_ms) {
        return None;
    }
    let sentence = format!("{} takes {} where a task runs for {}: {advice}.", capitalized(what), duration(ms), duration(run_ms));
    let evidence = vec![
        limited(&format!("{what}, median over the workers"), ms, "ms", limit),
        measured("mean run time of a task", run_ms, "ms"),
        limited("age of the oldest waiting task", load.oldest_ms as f64, "ms", observed.scaling.wait_objective_ms as f64),
    ];
    Some(Found { holdup, weight: ms / (ms + run_ms) + 0.5, sentence, evidence })
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

/// The median of what the workers and who observes measured: one host with a bad line is not a slow server.
fn median(own_ms: f64, observed: &Observed<'_>, of: fn(&ServerTimes) -> Option<f64>) -> f64 {
    let mut all: Vec<f64> = observed.gpus.iter().filter_map(|view| of(&view.row.servers)).collect();
    all.push(own_ms);
    all.sort_by(f64::total_cmp);
    all[(all.len() - 1) / 2]
}
