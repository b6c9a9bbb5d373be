//! The scripts: each is the parts that it needs, in order, and its own text.

use redis::Script;

use super::keys;

const CLOCK: &str = include_str!("clock.lua");
const ROW: &str = include_str!("row.lua");
const CLAIMS: &str = include_str!("claims.lua");
const CHOOSE: &str = include_str!("choose.lua");
const SETTINGS: &str = include_str!("settings.lua");

pub(super) struct Scripts {
    pub claim: Script,
    pub heartbeat: Script,
    pub release: Script,
    pub renew: Script,
    pub leave: Script,
    pub rows: Script,
    pub known: Script,
    pub steady: Script,
    pub initial_settings: Script,
    pub change_settings: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            claim: script(&[ROW, CLAIMS, CHOOSE, include_str!("claim.lua")]),
            heartbeat: script(&[ROW, CLAIMS, SETTINGS, include_str!("heartbeat.lua")]),
            release: script(&[ROW, CLAIMS, include_str!("release.lua")]),
            renew: script(&[ROW, CLAIMS, include_str!("renew.lua")]),
            leave: script(&[ROW, include_str!("leave.lua")]),
            rows: script(&[ROW, CLAIMS, include_str!("rows.lua")]),
            known: script(&[include_str!("known.lua")]),
            steady: script(&[include_str!("steady.lua")]),
            initial_settings: script(&[ROW, SETTINGS, include_str!("initial_settings.lua")]),
            change_settings: script(&[ROW, CLAIMS, SETTINGS, include_str!("change_settings.lua")]),
        }
    }
}

fn script(parts: &[&str]) -> Script {
    Script::new(&[keys::PREAMBLE, CLOCK, &parts.concat()].concat())
}
