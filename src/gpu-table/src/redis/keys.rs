//! Every key of the table, in one place.
//!
//! | key, after `<prefix>:{<pool>}:` | type | holds |
//! | --- | --- | --- |
//! | `pool` | hash | `token`, `sequence`: the last ones given; `beat`, `steady`: the last heartbeat, and since when there was no gap, ms; the settings, as `json` and as the fields that scripts compare |
//! | `draining` | set | GPUs that an operator drains |
//! | `rows` | sorted set | living GPU → when its row expires, ms |
//! | `row:<gpu>` | hash | what its worker last wrote, and what scripts compare |
//! | `known` | sorted set | GPU → until when it is known, ms |
//! | `claims` | hash | task → its claim, packed (`claims.lua`) |
//! | `deadlines` | sorted set | task → when its claim lapses, ms |
//! | `tasks:<gpu>` | set | tasks with a claim on this GPU: its load is their number |
//! | `classes` | set | classes of GPUs (capability, memory, kinds) with a member that a task can wait for |
//! | `load:<class>`, `model:<class>:<model>` | sorted set | eligible GPUs with a free slot, by load (`row.lua`) |
//! | `turn:<class>` | sorted set | the same GPUs, by the number of their last claim |
//! | `work:<class>` | sorted set | GPUs that a task can wait for, by their work |
//! | `clock-offset-ms` | string | added to the server's time: only tests write it |
//!
//! One pool is one hash tag, so that one script may touch all of its keys on a cluster. Scripts are given the part before as `KEYS[1]`.

use protocol::PoolName;

/// The names of the keys, for the scripts.
pub(super) const PREAMBLE: &str = "\
local base = KEYS[1]
local POOL, DRAINING, CLASSES = base .. 'pool', base .. 'draining', base .. 'classes'
local ROWS, ROW, KNOWN = base .. 'rows', base .. 'row:', base .. 'known'
local CLAIMS, DEADLINES, TASKS = base .. 'claims', base .. 'deadlines', base .. 'tasks:'
local LOAD, TURN, WORK, MODEL = base .. 'load:', base .. 'turn:', base .. 'work:', base .. 'model:'
local CLOCK_OFFSET = base .. 'clock-offset-ms'
";

/// What all keys of one pool begin with.
pub(super) fn base(prefix: &str, pool: &PoolName) -> String {
    format!("{prefix}:{{{pool}}}:")
}
