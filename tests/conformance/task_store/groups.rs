//! Groups: who is a member, how many are in which state, whom a cancel reaches, and what the bounds keep out.

use std::collections::BTreeMap;

use protocol::{GroupCounts, GroupMember, GroupName, GroupStatus};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use task_store::{Arrival, Counted, GroupBound, GroupCancel, GroupStore, Join, MemberEnd, MembersPage, MembersRequest};

use super::*;

macro_rules! cases {
    ($($case:ident,)*) => {
        mod on_memory { $(#[tokio::test] async fn $case() { super::$case(super::BackEnd::Memory).await })* }
        mod on_redis { $(#[tokio::test] async fn $case() { super::$case(super::BackEnd::Redis).await })* }
    };
}

cases! {
    a_member_is_counted_in_one_state_from_its_submit_to_its_end,
    what_is_told_twice_or_late_changes_nothing,
    an_end_that_was_told_alone_makes_a_member,
    a_member_that_was_reopened_waits_and_one_that_runs_does_not,
    the_same_task_submitted_anew_after_its_record_is_gone_waits_anew,
    a_member_that_nobody_began_leaves_and_no_other_does,
    the_status_of_a_task_names_its_group,
    a_cancel_counts_for_the_members_of_its_moment_and_for_no_later_one,
    a_cancel_counts_for_what_was_published_before_it_and_nobody_has_seen,
    a_group_that_is_full_takes_no_more_and_says_how_many_it_missed,
    a_list_that_is_full_takes_no_more_groups_until_one_is_forgotten,
    a_group_is_forgotten_after_its_last_change,
    members_are_listed_page_by_page_and_by_state,
    ends_are_listed_in_the_order_in_which_they_came,
    groups_are_listed_the_newest_first,
}

fn group() -> GroupName {
    named("nightly")
}

fn named(name: &str) -> GroupName {
    name.parse().expect("a valid name")
}

fn id(id: impl std::fmt::Display) -> TaskId {
    TaskId::new(id.to_string()).expect("a valid id")
}

async fn show(subject: &Subject) -> GroupStatus {
    subject.store.groups().show(&group()).await.expect("an answer").expect("known")
}

async fn counts(subject: &Subject) -> GroupCounts {
    show(subject).await.counts
}

async fn join(subject: &Subject, task: &TaskId) {
    assert_eq!(subject.store.groups().join(&group(), task, Submission::Noted).await, Ok(Join::Member));
}

async fn arrive(subject: &Subject, task: &TaskId, published_s: Option<u64>) -> Arrival {
    subject.store.groups().arrive(&group(), task, published_s).await.expect("an answer")
}

async fn end(subject: &Subject, task: &TaskId, outcome: Outcome) {
    assert_eq!(subject.store.groups().note_ended(&group(), task, outcome).await, Ok(Counted::Yes));
}

async fn cancel(subject: &Subject) {
    assert_eq!(subject.store.groups().cancel_all(&group()).await, Ok(GroupCancel::Marked));
}

/// Notes that nobody waits for are sent at once, and with what follows them at the latest.
async fn settled(subject: &Subject) -> GroupCounts {
    subject.store.groups().leave(&group(), &id("nobody")).await.expect("an answer");
    counts(subject).await
}

async fn a_member_is_counted_in_one_state_from_its_submit_to_its_end(back_end: BackEnd) {
    let subject = back_end.start().await;
    let groups = subject.store.groups();
    assert_eq!(groups.show(&group()).await, Ok(None));
    join(&subject, &id("a")).await;
    let first = show(&subject).await;
    assert_eq!((first.counts, first.total, first.ended), (GroupCounts { waiting: 1, ..GroupCounts::default() }, 1, false));
    subject.pass(Duration::from_secs(5));
    groups.note_begun(&group(), &id("a"), 1);
    assert_eq!(settled(&subject).await, GroupCounts { running: 1, ..GroupCounts::default() });
    groups.note_retried(&group(), &id("a"), 1);
    assert_eq!(settled(&subject).await, GroupCounts { retrying: 1, ..GroupCounts::default() });
    groups.note_begun(&group(), &id("a"), 2);
    assert_eq!(settled(&subject).await, GroupCounts { running: 1, ..GroupCounts::default() });
    end(&subject, &id("a"), Outcome::Succeeded).await;
    let last = show(&subject).await;
    assert_eq!((last.counts, last.total, last.ended), (GroupCounts { succeeded: 1, ..GroupCounts::default() }, 1, true));
    assert_eq!((last.first_seen_ms, last.cancelled_ms, last.not_counted), (first.first_seen_ms, None, 0));
    assert!((5_000..60_000).contains(&(last.changed_ms - last.first_seen_ms)), "{last:?}");
    join(&subject, &id("b")).await;
    assert!(!show(&subject).await.ended, "one that comes later makes it go on");
}

async fn what_is_told_twice_or_late_changes_nothing(back_end: BackEnd) {
    let subject = back_end.start().await;
    let groups = subject.store.groups();
    for _ in 0..2 {
        join(&subject, &id("a")).await;
    }
    groups.note_begun(&group(), &id("a"), 2);
    for late in [1, 2] {
        groups.note_begun(&group(), &id("a"), late);
        groups.note_retried(&group(), &id("a"), 1);
        assert_eq!(groups.join(&group(), &id("a"), Submission::Known).await, Ok(Join::Member));
        assert_eq!(arrive(&subject, &id("a"), None).await, Arrival::Open);
    }
    assert_eq!(settled(&subject).await, GroupCounts { running: 1, ..GroupCounts::default() });
    end(&subject, &id("a"), Outcome::Failed).await;
    end(&subject, &id("a"), Outcome::Failed).await;
    end(&subject, &id("a"), Outcome::Succeeded).await;
    groups.note_begun(&group(), &id("a"), 3);
    groups.note_retried(&group(), &id("a"), 3);
    groups.join(&group(), &id("a"), Submission::Known).await.expect("an answer");
    assert_eq!(arrive(&subject, &id("a"), None).await, Arrival::Open, "its record says that it ended");
    assert_eq!(settled(&subject).await, GroupCounts { failed: 1, ..GroupCounts::default() });
    assert_eq!(groups.ends(&group(), 0, 10).await.expect("an answer").len(), 1);
}

async fn an_end_that_was_told_alone_makes_a_member(back_end: BackEnd) {
    let subject = back_end.start().await;
    let groups = subject.store.groups();
    groups.note_begun(&group(), &id("a"), 1);
    groups.note_retried(&group(), &id("a"), 1);
    groups.note_reopened(&group(), &id("a")).await.expect("an answer");
    groups.leave(&group(), &id("a")).await.expect("an answer");
    assert_eq!(groups.show(&group()).await, Ok(None), "none of these makes a group");
    end(&subject, &id("a"), Outcome::Expired).await;
    assert_eq!(counts(&subject).await, GroupCounts { expired: 1, ..GroupCounts::default() });
}

async fn a_member_that_was_reopened_waits_and_one_that_runs_does_not(back_end: BackEnd) {
    let subject = back_end.start().await;
    let groups = subject.store.groups();
    join(&subject, &id("a")).await;
    groups.note_begun(&group(), &id("a"), 1);
    groups.note_reopened(&group(), &id("a")).await.expect("an answer");
    assert_eq!(settled(&subject).await, GroupCounts { running: 1, ..GroupCounts::default() });
    end(&subject, &id("a"), Outcome::Failed).await;
    cancel(&subject).await;
    groups.note_reopened(&group(), &id("a")).await.expect("an answer");
    assert_eq!(settled(&subject).await, GroupCounts { waiting: 1, ..GroupCounts::default() });
    assert_eq!(groups.ends(&group(), 0, 10).await, Ok(Vec::new()));
    assert_eq!(arrive(&subject, &id("a"), None).await, Arrival::Open, "the cancel came before its second life");
    groups.note_begun(&group(), &id("a"), 1);
    end(&subject, &id("a"), Outcome::Succeeded).await;
    assert_eq!(counts(&subject).await, GroupCounts { succeeded: 1, ..GroupCounts::default() });
    assert_eq!(groups.ends(&group(), 1, 10).await.expect("an answer")[0].number, 2, "its second end is a new one");
}

async fn the_same_task_submitted_anew_after_its_record_is_gone_waits_anew(back_end: BackEnd) {
    let subject = back_end.start().await;
    join(&subject, &id("a")).await;
    end(&subject, &id("a"), Outcome::Succeeded).await;
    assert_eq!(subject.store.groups().join(&group(), &id("a"), Submission::Known).await, Ok(Join::Member));
    assert_eq!(counts(&subject).await, GroupCounts { succeeded: 1, ..GroupCounts::default() });
    assert_eq!(subject.store.groups().join(&group(), &id("a"), Submission::Noted).await, Ok(Join::Member));
    assert_eq!(counts(&subject).await, GroupCounts { waiting: 1, ..GroupCounts::default() });
}

async fn a_member_that_nobody_began_leaves_and_no_other_does(back_end: BackEnd) {
    let subject = back_end.start().await;
    let groups = subject.store.groups();
    let leave = async |task: &str| groups.leave(&group(), &id(task)).await.expect("an answer");
    join(&subject, &id("alone")).await;
    leave("alone").await;
    assert_eq!((groups.show(&group()).await, groups.known().await), (Ok(None), Ok(0)), "nothing is left of it");
    for task in ["waits", "runs", "ended"] {
        join(&subject, &id(task)).await;
    }
    groups.note_begun(&group(), &id("runs"), 1);
    end(&subject, &id("ended"), Outcome::Succeeded).await;
    for task in ["waits", "waits", "runs", "ended"] {
        leave(task).await;
    }
    assert_eq!(counts(&subject).await, GroupCounts { running: 1, succeeded: 1, ..GroupCounts::default() });
}

async fn the_status_of_a_task_names_its_group(back_end: BackEnd) {
    let subject = back_end.start().await;
    let (store, groups) = (&subject.store, subject.store.groups());
    let group_of = async || store.status(&task()).await.expect("an answer").and_then(|status| status.group);
    store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    groups.join(&group(), &task(), Submission::Noted).await.expect("an answer");
    assert_eq!(group_of().await, Some(group()));
    store.begin(&attempt(1, 7)).await.expect("an answer");
    store.record(&success(1, 7)).await.expect("an answer");
    assert_eq!(group_of().await, Some(group()));
    // One that was published over AMQP, and one that never began.
    for begins in [true, false] {
        let subject = back_end.start().await;
        if begins {
            subject.store.begin(&attempt(1, 7)).await.expect("an answer");
            subject.store.groups().note_begun(&group(), &task(), 1);
        } else {
            subject.store.record(&outcome(Outcome::Expired, 1, None, "late")).await.expect("an answer");
        }
        end(&subject, &task(), Outcome::Succeeded).await;
        let status = subject.store.status(&task()).await.expect("an answer").expect("known");
        assert_eq!(status.group, Some(group()));
    }
    // The note is taken back together with the task.
    let subject = back_end.start().await;
    subject.store.submitted(&task(), &kind(), &body_hash()).await.expect("an answer");
    join(&subject, &task()).await;
    subject.store.forget(&task()).await.expect("an answer");
    assert_eq!(state_of(&subject).await, None);
}

async fn a_cancel_counts_for_the_members_of_its_moment_and_for_no_later_one(back_end: BackEnd) {
    let subject = back_end.start().await;
    let groups = subject.store.groups();
    for task in ["waits", "runs", "ended"] {
        join(&subject, &id(task)).await;
    }
    groups.note_begun(&group(), &id("runs"), 1);
    end(&subject, &id("ended"), Outcome::Succeeded).await;
    cancel(&subject).await;
    join(&subject, &id("later")).await;
    for (task, expected) in
        [("waits", Arrival::Cancelled), ("runs", Arrival::Cancelled), ("ended", Arrival::Open), ("later", Arrival::Open)]
    {
        for _ in 0..2 {
            assert_eq!(arrive(&subject, &id(task), Some(1)).await, expected, "{task}");
        }
    }
    let reached = MembersRequest { cancelled: true, ..MembersRequest::all(group(), 10) };
    let page = groups.members(&reached).await.expect("an answer").expect("known");
    assert_eq!(page.members.iter().map(|member| member.task_id.as_str()).collect::<Vec<_>>(), ["ended", "runs", "waits"]);
    assert!(show(&subject).await.cancelled_ms.is_some());
    cancel(&subject).await;
    assert_eq!(arrive(&subject, &id("later"), None).await, Arrival::Cancelled);
}

async fn a_cancel_counts_for_what_was_published_before_it_and_nobody_has_seen(back_end: BackEnd) {
    let subject = back_end.start().await;
    let groups = subject.store.groups();
    cancel(&subject).await;
    let empty = show(&subject).await;
    assert_eq!((empty.total, empty.ended), (0, true), "a cancel alone makes a group");
    let now_s = subject.now_s().await;
    let cases = [
        ("before", Some(now_s - 2), Arrival::Cancelled),
        ("unknown", None, Arrival::Cancelled),
        ("after", Some(now_s + 3_600), Arrival::Open),
    ];
    for (task, published_s, expected) in cases {
        for _ in 0..2 {
            assert_eq!(arrive(&subject, &id(task), published_s).await, expected, "{task}");
        }
    }
    assert_eq!(counts(&subject).await, GroupCounts { waiting: 3, ..GroupCounts::default() }, "all of them are members");
    groups.note_begun(&group(), &id("after"), 1);
    assert_eq!(arrive(&subject, &id("after"), Some(now_s - 2)).await, Arrival::Open, "it joined after the cancel");
}

async fn a_group_that_is_full_takes_no_more_and_says_how_many_it_missed(back_end: BackEnd) {
    let subject = back_end.start_with(StoreOptions { group_members_max: 2, ..OPTIONS }).await;
    let groups = subject.store.groups();
    for task in ["a", "b", "a"] {
        join(&subject, &id(task)).await;
    }
    assert_eq!(groups.join(&group(), &id("c"), Submission::Noted).await, Ok(Join::Refused(GroupBound::Members)));
    assert_eq!(arrive(&subject, &id("c"), None).await, Arrival::Open);
    groups.note_begun(&group(), &id("c"), 1);
    assert_eq!(groups.note_ended(&group(), &id("c"), Outcome::Succeeded).await, Ok(Counted::No(GroupBound::Members)));
    let status = show(&subject).await;
    assert_eq!((status.total, status.not_counted, status.counts.waiting), (2, 1, 2));
    // A cancel reaches it all the same.
    cancel(&subject).await;
    assert_eq!(arrive(&subject, &id("d"), None).await, Arrival::Cancelled);
    end(&subject, &id("a"), Outcome::Cancelled).await;
    assert_eq!(groups.join(&group(), &id("c"), Submission::Noted).await, Ok(Join::Refused(GroupBound::Members)), "one that ended counts");
}

async fn a_list_that_is_full_takes_no_more_groups_until_one_is_forgotten(back_end: BackEnd) {
    let subject = back_end.start_with(StoreOptions { groups_max: 2, ..OPTIONS }).await;
    let groups = subject.store.groups();
    let joins = async |name: &str, task: &str| groups.join(&named(name), &id(task), Submission::Noted).await.expect("an answer");
    assert_eq!(joins("one", "a").await, Join::Member);
    subject.pass(Duration::from_secs(60));
    assert_eq!(joins("two", "b").await, Join::Member);
    assert_eq!(joins("three", "c").await, Join::Refused(GroupBound::Groups));
    assert_eq!(groups.arrive(&named("three"), &id("c"), None).await, Ok(Arrival::Open));
    assert_eq!(groups.note_ended(&named("three"), &id("c"), Outcome::Failed).await, Ok(Counted::No(GroupBound::Groups)));
    assert_eq!(groups.cancel_all(&named("three")).await, Ok(GroupCancel::TooManyGroups));
    assert_eq!((groups.show(&named("three")).await, groups.known().await), (Ok(None), Ok(2)));
    assert_eq!(joins("two", "d").await, Join::Member, "those that are known go on");
    // The first one changes once more, so that the second one is forgotten before it.
    subject.pass(OUTCOME_RETENTION - Duration::from_secs(120));
    assert_eq!(groups.note_ended(&named("one"), &id("a"), Outcome::Failed).await, Ok(Counted::Yes));
    assert_eq!(joins("three", "c").await, Join::Refused(GroupBound::Groups));
    subject.pass(Duration::from_secs(120));
    assert_eq!(joins("three", "c").await, Join::Member);
    assert_eq!(groups.names(None, 10).await, Ok(Some(vec![named("three"), named("one")])));
    assert_eq!(groups.known().await, Ok(2));
}

async fn a_group_is_forgotten_after_its_last_change(back_end: BackEnd) {
    let subject = back_end.start().await;
    let groups = subject.store.groups();
    join(&subject, &id("a")).await;
    end(&subject, &id("a"), Outcome::Succeeded).await;
    subject.pass(OUTCOME_RETENTION - Duration::from_secs(60));
    join(&subject, &id("b")).await;
    subject.pass(OUTCOME_RETENTION - Duration::from_secs(60));
    assert_eq!(show(&subject).await.total, 2);
    subject.pass(Duration::from_secs(60));
    assert_eq!(groups.show(&group()).await, Ok(None));
    assert_eq!(groups.members(&MembersRequest::all(group(), 10)).await, Ok(None));
    assert_eq!(groups.known().await, Ok(0));
    // A new one of its name has nothing of the old one.
    join(&subject, &id("c")).await;
    let page = groups.members(&MembersRequest::all(group(), 10)).await.expect("an answer").expect("known");
    assert_eq!(page.members, [GroupMember { task_id: id("c"), state: TaskState::Waiting }]);
    assert_eq!((show(&subject).await.total, groups.ends(&group(), 0, 10).await), (1, Ok(Vec::new())));
}

async fn members_are_listed_page_by_page_and_by_state(back_end: BackEnd) {
    let subject = back_end.start_with(StoreOptions { group_members_max: 5_000, ..OPTIONS }).await;
    let groups = subject.store.groups();
    let ids: Vec<TaskId> = (0..2_500).map(|n| id(format!("task-{n:04}"))).collect();
    for task in ids.iter().rev() {
        join(&subject, task).await;
    }
    // The last one, beyond two pages that are looked at.
    end(&subject, &ids[2_400], Outcome::Failed).await;
    let all = async |state: Option<TaskState>, limit: u32| {
        let mut request = MembersRequest { state, ..MembersRequest::all(group(), limit) };
        let (mut found, mut pages) = (Vec::new(), 0);
        loop {
            let MembersPage { members, next } = groups.members(&request).await.expect("an answer").expect("known");
            assert!(members.len() <= limit as usize);
            found.extend(members.into_iter().map(|member| member.task_id));
            pages += 1;
            let Some(next) = next else { break (found, pages) };
            request.after = Some(next);
        }
    };
    assert_eq!(all(None, 999).await, (ids.clone(), 3));
    assert_eq!(all(Some(TaskState::Failed), 10).await, (vec![ids[2_400].clone()], 3), "a page looks at a thousand");
    assert_eq!(all(Some(TaskState::Running), 10).await.0, Vec::<TaskId>::new());
    assert_eq!(all(Some(TaskState::Waiting), 1_000).await.0.len(), 2_499);
}

async fn ends_are_listed_in_the_order_in_which_they_came(back_end: BackEnd) {
    let subject = back_end.start().await;
    let outcomes = [("c", Outcome::Failed), ("a", Outcome::Succeeded), ("b", Outcome::Cancelled)];
    for (task, outcome) in outcomes {
        end(&subject, &id(task), outcome).await;
    }
    let groups = subject.store.groups();
    let expected: Vec<MemberEnd> =
        (1..).zip(outcomes).map(|(number, (task, outcome))| MemberEnd { number, task_id: id(task), outcome }).collect();
    assert_eq!(groups.ends(&group(), 0, 10).await.expect("an answer"), expected);
    assert_eq!(groups.ends(&group(), 1, 1).await.expect("an answer"), expected[1..2]);
    assert_eq!(groups.ends(&group(), 3, 10).await, Ok(Vec::new()));
}

async fn groups_are_listed_the_newest_first(back_end: BackEnd) {
    let subject = back_end.start().await;
    let groups = subject.store.groups();
    for name in ["one", "two", "three"] {
        groups.join(&named(name), &id("a"), Submission::Noted).await.expect("an answer");
        subject.pass(Duration::from_secs(1));
    }
    // A change makes no group newer.
    groups.note_ended(&named("one"), &id("a"), Outcome::Failed).await.expect("an answer");
    let list = async |after: Option<&str>, limit| groups.names(after.map(named).as_ref(), limit).await.expect("an answer");
    assert_eq!(list(None, 2).await, Some(vec![named("three"), named("two")]));
    assert_eq!(list(Some("two"), 2).await, Some(vec![named("one")]));
    assert_eq!(list(Some("one"), 2).await, Some(Vec::new()));
    assert_eq!(list(Some("none"), 2).await, None);
    assert_eq!((list(None, 0).await, groups.known().await), (Some(Vec::new()), Ok(3)));
}

/// What a random step was answered.
#[derive(Debug, PartialEq)]
enum Answer {
    Nothing,
    Joined(Join),
    Arrived(Arrival),
    Counted(Counted),
    Cancelled(GroupCancel),
}

/// One operation, asked of both back ends.
async fn step(groups: &dyn GroupStore, (what, task, attempt): (u32, u32, u32)) -> Answer {
    let (task, outcome) = (id(task), [Outcome::Succeeded, Outcome::Failed][attempt as usize % 2]);
    match what {
        0..=2 => Answer::Joined(groups.join(&group(), &task, Submission::Known).await.expect("an answer")),
        3 => Answer::Joined(groups.join(&group(), &task, Submission::Noted).await.expect("an answer")),
        4..=6 => Answer::Arrived(groups.arrive(&group(), &task, None).await.expect("an answer")),
        7..=9 => {
            groups.note_begun(&group(), &task, attempt);
            Answer::Nothing
        }
        10 => {
            groups.note_retried(&group(), &task, attempt);
            Answer::Nothing
        }
        11..=12 => Answer::Counted(groups.note_ended(&group(), &task, outcome).await.expect("an answer")),
        13 => {
            groups.leave(&group(), &task).await.expect("an answer");
            Answer::Nothing
        }
        14 => {
            groups.note_reopened(&group(), &task).await.expect("an answer");
            Answer::Nothing
        }
        _ => Answer::Cancelled(groups.cancel_all(&group()).await.expect("an answer")),
    }
}

/// What is seen of the group, without times.
async fn seen(groups: &dyn GroupStore) -> Option<(GroupCounts, u64, Vec<GroupMember>, Vec<MemberEnd>)> {
    groups.leave(&group(), &id("nobody")).await.expect("an answer");
    let status = groups.show(&group()).await.expect("an answer")?;
    let page = groups.members(&MembersRequest::all(group(), 100)).await.expect("an answer")?;
    Some((status.counts, status.not_counted, page.members, groups.ends(&group(), 0, 100).await.expect("an answer")))
}

/// The counts are those of the members.
fn agrees(counts: GroupCounts, members: &[GroupMember]) {
    let mut by_state: BTreeMap<&str, u64> = BTreeMap::new();
    for member in members {
        *by_state.entry(member.state.name()).or_default() += 1;
    }
    for state in GroupCounts::STATES {
        assert_eq!(counts.of(state), by_state.get(state.name()).copied().unwrap_or(0), "{state:?} of {members:?}");
    }
}

#[tokio::test]
async fn random_steps_get_the_same_answers_from_both_back_ends() {
    let options = StoreOptions { group_members_max: 6, ..OPTIONS };
    for seed in 0..30 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (memory, redis) = (BackEnd::Memory.start_with(options).await, BackEnd::Redis.start_with(options).await);
        let mut done = Vec::new();
        for _ in 0..60 {
            let one = (random.random_range(0..16), random.random_range(0..8), random.random_range(1..4));
            done.push(one);
            let answers = (step(memory.store.groups(), one).await, step(redis.store.groups(), one).await);
            assert_eq!(answers.0, answers.1, "seed {seed}: {done:?}");
            let groups = (seen(memory.store.groups()).await, seen(redis.store.groups()).await);
            assert_eq!(groups.0, groups.1, "seed {seed}: {done:?}");
            if let Some((counts, _, members, _)) = groups.0 {
                agrees(counts, &members);
            }
        }
    }
}
