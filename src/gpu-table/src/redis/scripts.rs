//! The scripts: each is the parts that it needs, in order, and its own text.

use std::sync::OnceLock;

use redis::Script;

use super::keys;

const CLOCK: &str = include_str!("clock.lua");
const ROW: &str = include_str!("row.lua");
const OFFERS: &str = include_str!("offers.lua");
const CHOOSE: &str = include_str!("choose.lua");
const NEARER: &str = include_str!("nearer.lua");
const SETTINGS: &str = include_str!("settings.lua");
const UNSERVED: &str = include_str!("unserved.lua");
const DESCRIBED: &str = include_str!("described.lua");
const TENSORS: &str = include_str!("tensors.lua");

/// Claims, and then runs the rider if the asking GPU has got the slot. ARGV begins with the number of the claim's arguments.
/// Returns {the claim's answer}, or with it 1 and the rider's answer, or 0 and why it failed.
const RIDE: &str = "\
local claims, claim_arguments, rider_arguments = tonumber(ARGV[1]), {}, {}
for i = 1, claims do claim_arguments[i] = ARGV[1 + i] end
for i = claims + 2, #ARGV do rider_arguments[i - claims - 1] = ARGV[i] end
local answer = claim({ KEYS[1] }, claim_arguments)
if answer[1] ~= 'own' then return { answer } end
local done, ridden = pcall(ride, { unpack(KEYS, 2) }, rider_arguments)
if not done and type(ridden) == 'table' then ridden = ridden.err end
return { answer, done and 1 or 0, done and ridden or tostring(ridden) }
";

pub(super) struct Scripts {
    pub claim: Script,
    /// With the rider that it was made for: there is one kind of them.
    claim_with: OnceLock<(&'static str, Script)>,
    pub heartbeat: Script,
    pub tell: Script,
    pub withdraw: Script,
    pub seen: Script,
    pub leave: Script,
    pub rows: Script,
    pub known: Script,
    pub initial_settings: Script,
    pub current_settings: Script,
    pub change_settings: Script,
    pub note_unserved: Script,
    pub forget_unserved: Script,
    pub unserved: Script,
    pub renew_kinds: Script,
    pub describe_kinds: Script,
    pub kinds: Script,
    pub announce_tensors: Script,
    pub draw_tensor_version: Script,
    pub withdraw_tensors: Script,
    pub find_tensors: Script,
    pub list_tensors: Script,
    pub probe: Script,
}

impl Scripts {
    /// The claim that takes along a rider with this function; `None` for any but the first one.
    pub(super) fn claim_with(&self, rider: &'static str) -> Option<&Script> {
        let (made_for, script) = self.claim_with.get_or_init(|| {
            let function = |name: &str, body: &str| format!("local function {name}(KEYS, ARGV)\n{body}\nend\n");
            let parts = [function("claim", &text(&CLAIM)), function("ride", rider), RIDE.to_owned()];
            (rider, Script::new(&parts.concat()))
        });
        (*made_for == rider).then_some(script)
    }

    pub(super) fn new() -> Self {
        Self {
            claim: script(&CLAIM),
            claim_with: OnceLock::new(),
            heartbeat: script(&[ROW, OFFERS, SETTINGS, include_str!("heartbeat.lua")]),
            tell: script(&[ROW, OFFERS, include_str!("tell.lua")]),
            withdraw: script(&[ROW, OFFERS, include_str!("withdraw.lua")]),
            seen: script(&[include_str!("seen.lua")]),
            leave: script(&[ROW, include_str!("leave.lua")]),
            rows: script(&[ROW, OFFERS, include_str!("rows.lua")]),
            known: script(&[include_str!("known.lua")]),
            initial_settings: script(&[ROW, SETTINGS, include_str!("initial_settings.lua")]),
            current_settings: script(&[include_str!("current_settings.lua")]),
            change_settings: script(&[ROW, OFFERS, SETTINGS, include_str!("change_settings.lua")]),
            note_unserved: script(&[keys::UNSERVED, UNSERVED, include_str!("note_unserved.lua")]),
            forget_unserved: script(&[keys::UNSERVED, UNSERVED, include_str!("forget_unserved.lua")]),
            unserved: script(&[keys::UNSERVED, UNSERVED, include_str!("read_unserved.lua")]),
            renew_kinds: script(&[keys::DESCRIBED, DESCRIBED, include_str!("renew_kinds.lua")]),
            describe_kinds: script(&[keys::DESCRIBED, DESCRIBED, include_str!("describe_kinds.lua")]),
            kinds: script(&[keys::DESCRIBED, DESCRIBED, include_str!("read_kinds.lua")]),
            announce_tensors: script(&[keys::TENSORS, TENSORS, include_str!("announce_tensors.lua")]),
            draw_tensor_version: script(&[keys::TENSORS, keys::DRAWN, TENSORS, include_str!("draw_tensor_version.lua")]),
            withdraw_tensors: script(&[keys::TENSORS, TENSORS, include_str!("withdraw_tensors.lua")]),
            find_tensors: script(&[keys::TENSORS, TENSORS, include_str!("find_tensors.lua")]),
            list_tensors: script(&[keys::TENSORS, TENSORS, include_str!("list_tensors.lua")]),
            probe: script(&[include_str!("probe.lua")]),
        }
    }
}

/// The parts of a claim.
const CLAIM: [&str; 5] = [ROW, OFFERS, CHOOSE, NEARER, include_str!("claim.lua")];

fn script(parts: &[&str]) -> Script {
    Script::new(&text(parts))
}

fn text(parts: &[&str]) -> String {
    [keys::PREAMBLE, CLOCK, &parts.concat()].concat()
}
