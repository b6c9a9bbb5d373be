//! The functions of the store, in one library behind the shared prelude. Their contracts stand at the head of each file.

use redis_link::{Link, ScriptLibrary};

const PRELUDE: &str = include_str!("prelude.lua");

macro_rules! functions {
    ($($name:literal),+) => {
        &[$(($name, include_str!(concat!($name, ".lua")))),+]
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
    "probe"
);

/// `begin` alone, with all that it needs.
pub const BEGIN: &str = concat!(include_str!("prelude.lua"), include_str!("begin.lua"));

/// The library, on the server that `link` leads to.
pub fn library(link: &Link) -> ScriptLibrary {
    ScriptLibrary::new(link.clone(), PRELUDE, FUNCTIONS)
}
