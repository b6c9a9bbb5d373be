//! The scripts, each behind the shared prelude. Their contracts stand at the head of each file.

use redis::Script;

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(include_str!("prelude.lua"), "\n", include_str!($file)))
    };
}

/// All scripts, with their digests computed once.
#[derive(Debug)]
pub struct Scripts {
    pub submitted: Script,
    pub forget: Script,
    pub look: Script,
    pub begin: Script,
    pub hand_back: Script,
    pub progress: Script,
    pub record: Script,
    pub retry: Script,
    pub reopen: Script,
    pub cancel: Script,
    pub published: Script,
    pub waits_for: Script,
    pub status: Script,
    pub announce: Script,
    pub withdraw: Script,
    pub reply_bytes: Script,
}

impl Scripts {
    pub fn new() -> Self {
        Self {
            submitted: script!("submitted.lua"),
            forget: script!("forget.lua"),
            look: script!("look.lua"),
            begin: script!("begin.lua"),
            hand_back: script!("hand_back.lua"),
            progress: script!("progress.lua"),
            record: script!("record.lua"),
            retry: script!("retry.lua"),
            reopen: script!("reopen.lua"),
            cancel: script!("cancel.lua"),
            published: script!("published.lua"),
            waits_for: script!("waits_for.lua"),
            status: script!("status.lua"),
            announce: script!("announce.lua"),
            withdraw: script!("withdraw.lua"),
            reply_bytes: script!("reply_bytes.lua"),
        }
    }
}
