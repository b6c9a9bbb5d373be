//! `gpufleet group`: tasks that are watched, counted, cancelled and waited for together.

use std::{process::ExitCode, time::Duration};

use producer::GroupPace;
use protocol::{GroupCancelled, GroupCounts, GroupName, GroupStatus, TaskState};
use task_store::MembersRequest;
use tokio::time::{Instant, sleep};

use crate::{
    arguments::{Common, GroupCommand},
    fault::Fault,
    fleet::Fleet,
    output::{self, Printed},
};

/// Shows, waits for or cancels groups.
pub(crate) async fn run(common: &Common, command: GroupCommand) -> Result<ExitCode, Fault> {
    let fleet = Fleet::to_ask(common)?;
    match command {
        GroupCommand::Ls { limit } => list(common, &fleet, limit).await,
        GroupCommand::Show { group } => {
            let status = known(&fleet, &group).await?;
            show(common, &status)?;
            Ok(ExitCode::SUCCESS)
        }
        GroupCommand::Watch { group } => watch(common, &fleet, &group).await,
        GroupCommand::Wait { group, timeout } => wait(common, &fleet, &group, Duration::from_secs(timeout)).await,
        GroupCommand::Cancel { group } => cancel(common, &fleet, &group).await,
        GroupCommand::Tasks { group, state, limit } => tasks(common, &fleet, (group, state), limit).await,
    }
}

async fn list(common: &Common, fleet: &Fleet, limit: u32) -> Result<ExitCode, Fault> {
    let groups = fleet.groups(limit).await?;
    if common.json {
        output::json(&groups)?;
        return Ok(ExitCode::SUCCESS);
    }
    let header: Vec<String> = GroupCounts::STATES.map(|state| state.name().to_uppercase()).into();
    let header: Vec<&str> = ["GROUP", "TASKS"].into_iter().chain(header.iter().map(String::as_str)).collect();
    let row = |status: &GroupStatus| -> Vec<String> {
        let counts = GroupCounts::STATES.map(|state| status.counts.of(state).to_string());
        [status.group.to_string(), status.total.to_string()].into_iter().chain(counts).collect()
    };
    output::table(&header, &groups.iter().map(row).collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}

/// Shows the counts as they change.
async fn watch(common: &Common, fleet: &Fleet, group: &GroupName) -> Result<ExitCode, Fault> {
    let mut pace = GroupPace::default();
    loop {
        let status = known(fleet, group).await?;
        if pace.is_news(&status) {
            show(common, &status)?;
        }
        if status.ended {
            return Ok(ExitCode::SUCCESS);
        }
        sleep(pace.pause()).await;
    }
}

/// Waits for the end of all. The fleet may be away for a while, as long as there is time.
async fn wait(common: &Common, fleet: &Fleet, group: &GroupName, limit: Duration) -> Result<ExitCode, Fault> {
    let (until, mut pace, mut open) = (Instant::now() + limit, GroupPace::default(), None);
    loop {
        match known(fleet, group).await {
            Ok(status) if status.ended => return ended(common, &status),
            Ok(status) => {
                pace.is_news(&status);
                open = Some(status.counts.open());
            }
            Err(Fault::Unavailable(_)) if open.is_some() => {}
            Err(fault) => return Err(fault),
        }
        let Some(pause) = pace.pause_until(until) else {
            let open = format!("{} of its tasks have not ended", open.unwrap_or(0));
            let advice = "it goes on, `gpufleet group show` tells of it and `gpufleet group cancel` ends it";
            return Err(Fault::TimeLimit(format!("wait for group {group}: after {} s {open}; {advice}", limit.as_secs())));
        };
        sleep(pause).await;
    }
}

/// The exit code says the worst of the outcomes.
fn ended(common: &Common, status: &GroupStatus) -> Result<ExitCode, Fault> {
    show(common, status)?;
    if status.not_counted > 0 {
        let count = status.not_counted;
        output::warning(&format!(
            "{count} tasks of the group were not counted, since it was full (store.group_members_max); their outcomes are not known here"
        ));
    }
    Ok(if status.all_succeeded() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn cancel(common: &Common, fleet: &Fleet, group: &GroupName) -> Result<ExitCode, Fault> {
    let cancelled = fleet.cancel_group(group).await?;
    if common.json {
        output::json(&cancelled)?;
        return Ok(ExitCode::SUCCESS);
    }
    let GroupCancelled { waiting, running, ended, .. } = cancelled;
    output::line(&format!(
        "group {group}: {waiting} had not begun and will be skipped, {running} run and were asked to end, {ended} had ended"
    ))?;
    if waiting + running + ended == 0 {
        output::note("no task of this group has been seen; one that waits in a queue is cancelled when its turn comes");
    }
    Ok(ExitCode::SUCCESS)
}

async fn tasks(common: &Common, fleet: &Fleet, (group, state): (GroupName, Option<TaskState>), limit: u32) -> Result<ExitCode, Fault> {
    let mut request = MembersRequest { state, ..MembersRequest::all(group, 0) };
    let mut left = limit;
    while left > 0 {
        request.limit = left.min(MembersRequest::LIMIT_MAX);
        let page = fleet.members(&request).await?;
        for member in &page.members {
            if common.json { output::json(member)? } else { output::line(&format!("{} {}", member.task_id, member.state.name()))? }
        }
        left = left.saturating_sub(u32::try_from(page.members.len()).unwrap_or(u32::MAX));
        if page.next.is_none() {
            break;
        }
        request.after = page.next;
    }
    Ok(ExitCode::SUCCESS)
}

async fn known(fleet: &Fleet, group: &GroupName) -> Result<GroupStatus, Fault> {
    fleet.group(group).await?.ok_or_else(|| not_found(group))
}

/// No task of the group is known.
pub(crate) fn not_found(group: &GroupName) -> Fault {
    Fault::NotFound(format!(
        "the fleet knows no group {group}: no task of it was submitted, no worker has looked at one yet, or it has been forgotten"
    ))
}

fn show(common: &Common, status: &GroupStatus) -> Printed {
    if common.json { output::json(status) } else { output::line(&shown(status)) }
}

/// One line: what there is none of is left out.
fn shown(status: &GroupStatus) -> String {
    let counts = GroupCounts::STATES.map(|state| (status.counts.of(state), state.name()));
    let mut parts: Vec<String> =
        counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
    if status.not_counted > 0 {
        parts.push(format!("{} not counted", status.not_counted));
    }
    if status.cancelled_ms.is_some() {
        parts.push("the group was cancelled".to_owned());
    }
    let counts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!("group {}, {} tasks{counts}", status.group, status.total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_told_in_one_line_without_what_there_is_none_of() {
        let mut status = GroupStatus {
            group: "nightly".parse().expect("valid"),
            counts: GroupCounts { running: 2, succeeded: 3, ..GroupCounts::default() },
            total: 5,
            not_counted: 0,
            first_seen_ms: 1,
            changed_ms: 1,
            cancelled_ms: None,
            ended: false,
        };
        assert_eq!(shown(&status), "group nightly, 5 tasks: 2 running, 3 succeeded");
        (status.not_counted, status.cancelled_ms) = (7, Some(1));
        assert_eq!(shown(&status), "group nightly, 5 tasks: 2 running, 3 succeeded, 7 not counted, the group was cancelled");
        (status.counts, status.total, status.not_counted, status.cancelled_ms) = (GroupCounts::default(), 0, 0, None);
        assert_eq!(shown(&status), "group nightly, 0 tasks");
    }
}
