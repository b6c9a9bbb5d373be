//! Tasks that wait for what no living GPU has.

use protocol::Unserved;

use super::Finding;
use crate::{
    servers::Servers,
    unserved::{seconds_ago, served},
};

/// How many are named.
const NAMED_MAX: usize = 5;

/// A warning where workers found such tasks lately; nothing where they did not, or where the table does not answer, which is said elsewhere.
pub(super) async fn look(servers: &Servers) -> Option<Finding> {
    let pool = &servers.configuration().worker.pool;
    let unserved = servers.table().await.ok()?.unserved(pool).await.ok()?;
    let any = unserved.first()?;
    let now_ms = servers.environment().clock.now_ms();
    let mut named: Vec<String> = unserved.iter().take(NAMED_MAX).map(|entry| described(entry, now_ms)).collect();
    if unserved.len() > NAMED_MAX {
        named.push(format!("{} more (`gpufleet unserved` lists them)", unserved.len() - NAMED_MAX));
    }
    let detail = format!(
        "tasks of pool {pool} wait for what no living GPU has, and fail after worker.unserved_wait_ms: {}; served are: {}. Start workers for them, or correct who submits them",
        named.join("; "),
        served(any)
    );
    Some(Finding::warning("unserved tasks", detail))
}

fn described(entry: &Unserved, now_ms: u64) -> String {
    format!("{}, last found {} s ago", entry.wanted, seconds_ago(entry.last_ms, now_ms))
}
