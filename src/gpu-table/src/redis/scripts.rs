//! The scripts: each is the parts that it needs, in order, and its own text.

use redis::Script;

use super::keys;

const CLOCK: &str = include_str!("clock.lua");
const ROW: &str = include_str!("row.lua");
const OFFERS: &str = include_str!("offers.lua");
const CHOOSE: &str = include_str!("choose.lua");
const SETTINGS: &str = include_str!("settings.lua");

pub(super) struct Scripts {
    pub claim: Script,
    pub heartbeat: Script,
    pub tell: Script,
    pub withdraw: Script,
    pub seen: Script,
    pub leave: Script,
    pub rows: Script,
    pub known: Script,
    pub initial_settings: Script,
    pub change_settings: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            claim: script(&[ROW, OFFERS, CHOOSE, include_str!("claim.lua")]),
            heartbeat: script(&[ROW, OFFERS, SETTINGS, include_str!("heartbeat.lua")]),
            tell: script(&[ROW, OFFERS, include_str!("tell.lua")]),
            withdraw: script(&[ROW, OFFERS, include_str!("withdraw.lua")]),
            seen: script(&[include_str!("seen.lua")]),
            leave: script(&[ROW, include_str!("leave.lua")]),
            rows: script(&[ROW, OFFERS, include_str!("rows.lua")]),
            known: script(&[include_str!("known.lua")]),
            initial_settings: script(&[ROW, SETTINGS, include_str!("initial_settings.lua")]),
            change_settings: script(&[ROW, OFFERS, SETTINGS, include_str!("change_settings.lua")]),
        }
    }
}

fn script(parts: &[&str]) -> Script {
    Script::new(&[keys::PREAMBLE, CLOCK, &parts.concat()].concat())
}
