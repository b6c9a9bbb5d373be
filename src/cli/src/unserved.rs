//! `gpufleet unserved`: what tasks ask for and no living GPU of the pool has. And the same question for a task that is about to be submitted.

use std::{process::ExitCode, time::Duration};

use gpu_table::{Living, Wanted};
use producer::NewTask;
use protocol::{Unserved, carried, config::WhenUnserved};

use crate::{arguments::Common, fault::Fault, fleet::Fleet, output};

const HEADER: [&str; 6] = ["TASKS ASK FOR", "FOUND", "FIRST S AGO", "LAST S AGO", "SERVED", "WHY"];

/// Lists what workers found lately.
pub(crate) async fn run(common: &Common) -> Result<ExitCode, Fault> {
    let (pool, unserved) = Fleet::to_ask(common)?.unserved().await?;
    if common.json {
        output::json(&unserved)?;
    } else if unserved.is_empty() {
        output::line(&format!("in the last three minutes no worker of pool {pool} found a task that no living GPU can run"))?;
    } else {
        let now_ms = service::system_environment().clock.now_ms();
        output::table(&HEADER, &unserved.iter().map(|entry| row(entry, now_ms)).collect::<Vec<_>>())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(entry: &Unserved, now_ms: u64) -> Vec<String> {
    vec![
        entry.wanted.clone(),
        entry.sightings.to_string(),
        seconds_ago(entry.first_ms, now_ms),
        seconds_ago(entry.last_ms, now_ms),
        served(entry),
        entry.reason.clone(),
    ]
}

/// The kinds that are served, for people.
pub(crate) fn served(entry: &Unserved) -> String {
    let kinds: Vec<&str> = entry.served.iter().map(|kind| kind.as_str()).collect();
    if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") }
}

/// How long ago that was. The table's clock may run ahead of ours.
pub(crate) fn seconds_ago(at_ms: u64, now_ms: u64) -> String {
    (now_ms.saturating_sub(at_ms) / 1_000).to_string()
}

/// Warns of a task that asks for what does nothing, and of one that no living GPU can run; refuses it where the configuration says so. Where the table does not answer, nothing is said.
/// A gateway does so by itself.
pub(crate) async fn warn_of(task: &NewTask, fleet: &Fleet) -> Result<(), Fault> {
    let Fleet::Servers(servers) = fleet else { return Ok(()) };
    carried::split_in_vain(&task.body, &task.body.gpu_options).into_iter().for_each(output::warning);
    let (table, configuration) = (servers.table().await?, servers.configuration());
    let worker = &configuration.worker;
    let Ok(living) = Living::look(table.as_ref(), &worker.pool).await else { return Ok(()) };
    let wanted =
        Wanted { kind: task.kind.clone(), needs: task.body.needs.clone(), specific_gpu_id: task.body.gpu_options.specific_gpu_id.clone() };
    // What share of a GPU's memory tasks may use is in the fleet's settings, and its workers go by that.
    let Some(lack) = living.lack(&wanted, 1.0) else {
        if let Some(down) = living.down(&wanted, 1.0) {
            output::warning(&format!("{down}; the task waits until it is up again"));
        }
        return Ok(());
    };
    let is_sure = living.steady() >= Duration::from_millis(worker.lease_ms);
    if is_sure && configuration.gateway.unserved == WhenUnserved::Refuse {
        return Err(Fault::Unavailable(format!("{lack}; nothing was submitted (gateway.unserved is refuse)")));
    }
    let waits = "the task waits for a GPU that can run it (worker.unserved_wait_ms)";
    output::warning(&format!("{lack}; {waits}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::Kind;

    use super::*;

    #[test]
    fn an_entry_says_how_long_ago_and_what_is_served() {
        let kinds = |names: &[&str]| -> Vec<Kind> { names.iter().map(|name| name.parse().expect("a kind")).collect() };
        let entry = Unserved {
            wanted: "kind ecko".to_owned(),
            kind: "ecko".parse().expect("a kind"),
            reason: "because".to_owned(),
            served: kinds(&["echo", "simulate"]),
            first_ms: 10_000,
            last_ms: 90_000,
            sightings: 7,
        };
        assert_eq!(row(&entry, 70_000), ["kind ecko", "7", "60", "0", "echo, simulate", "because"]);
        assert_eq!(served(&Unserved { served: kinds(&[]), ..entry }), "nothing");
    }
}
