//! The functions of the store, in one library behind the shared prelude. Their contracts stand at the head of each file.

use redis_link::{Link, ScriptLibrary};

const PRELUDE: &str = concat!(include_str!("prelude.lua"), include_str!("slices.lua"));

/// Functions, each a file; those `of groups` stand behind a prelude of their own.
macro_rules! functions {
    ($($name:literal),+; of groups: $($of_groups:literal),+) => {
        &[
            $(($name, include_str!(concat!($name, ".lua")))),+,
            $(($of_groups, concat!(include_str!("groups/prelude.lua"), include_str!(concat!($of_groups, ".lua"))))),+
        ]
    };
}

const FUNCTIONS: &[(&str, &str)] = functions!(
    "submitted",
    "forget",
    "delayed",
    "look",
    "begin",
    "fence",
    "hand_back",
    "progress",
    "record",
    "retry",
    "reopen",
    "cancel",
    "published",
    "waits_for",
    "status",
    "announce",
    "withdraw",
    "reply_bytes",
    "probe",
    "split",
    "record_slice",
    "slice_results",
    "forget_slices",
    "cancel_asked",
    "groups/enter",
    "groups/due",
    "groups/looked",
    "groups/look_soon",
    "groups/names",
    "groups/known",
    "groups/of_task",
    "journal/tell",
    "journal/steps",
    "journal/note_point",
    "journal/points",
    "journal/note_action";
    of groups: "groups/join",
    "groups/leave",
    "groups/arrive",
    "groups/note",
    "groups/ended",
    "groups/reopen",
    "groups/cancel",
    "groups/show",
    "groups/members",
    "groups/ends"
);

/// `begin` alone, with all that it needs.
pub const BEGIN: &str = concat!(include_str!("prelude.lua"), include_str!("slices.lua"), include_str!("begin.lua"));

/// The library, on the server that `link` leads to.
pub fn library(link: &Link) -> ScriptLibrary {
    ScriptLibrary::new(link.clone(), PRELUDE, FUNCTIONS)
}
