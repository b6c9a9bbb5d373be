//! Every key of the table, in one place.
//!
//! | key, after `<prefix>:{<pool>}:` | type | holds |
//! | --- | --- | --- |
//! | `pool` | hash | `sequence`: the number of the last claim; `beat`, `steady`: the last heartbeat, and since when there was no gap, ms; the settings, as `json` and as the fields that scripts compare |
//! | `draining` | set | GPUs that an operator drains |
//! | `slots:rows` | set | GPUs with a row |
//! | `slots:row:<gpu>` | hash | what its worker last wrote and told, and what scripts compare |
//! | `known` | sorted set | GPU → until when it is known, ms |
//! | `slots:offers` | hash | task → the offer made for it, packed (`offers.lua`) |
//! | `slots:offered:<gpu>` | set | tasks that a slot of this GPU is offered to |
//! | `slots:due` | sorted set | `r<gpu>` and `o<task>` → when that row or offer lapses, ms |
//! | `slots:classes` | set | classes of GPUs (capability, memory, kinds) with a member that a task can wait for |
//! | `slots:load:<class>`, `slots:model:<class>:<model>` | sorted set | eligible GPUs with a free slot, by load (`row.lua`) |
//! | `slots:busy:<class>:<model>` | sorted set | eligible GPUs without a free slot that have the model, by their work |
//! | `slots:turn:<class>` | sorted set | the same GPUs, by the number of their last claim |
//! | `slots:work:<class>` | sorted set | GPUs that a task can wait for, by their work |
//! | `slots:unserved` | sorted set | what tasks ask for and no living GPU has → when a worker last told of it, ms |
//! | `slots:unserved:told` | hash | the same → what was told of it (`unserved.lua`) |
//! | `slots:kinds` | sorted set | a kind and the version of a description of it → when a worker last told it, ms |
//! | `slots:kinds:told` | hash | the same → the description (`described.lua`) |
//! | `slots:tensor:<name>` | hash | GPU → its copy of this tensor (`tensors.lua`) |
//! | `slots:tensors` | sorted set | names of tensors, all with the same score: in the order of their bytes |
//! | `slots:tensors:told` | sorted set | the same → when a worker last told of a copy, ms |
//! | `slots:drawn:<name>` | text | the versions of this tensor that were drawn lately (`draw_tensor_version.lua`); expires |
//! | `slots:probe` | text | the mark that shows that the server takes writes; expires |
//!
//! Settings and drains keep their names from version to version; what only lives for a lease is under `slots:`, apart from what versions before it wrote.
//!
//! One pool is one hash tag, so that one script may touch all of its keys on a cluster. Scripts are given the part before as `KEYS[1]`.

use protocol::PoolName;

/// The names of the keys, for the scripts.
pub(super) const PREAMBLE: &str = "\
local base = KEYS[1]
local POOL, DRAINING, KNOWN = base .. 'pool', base .. 'draining', base .. 'known'
local slots = base .. 'slots:'
local ROWS, ROW, CLASSES = slots .. 'rows', slots .. 'row:', slots .. 'classes'
local OFFERS, OFFERED, DUE = slots .. 'offers', slots .. 'offered:', slots .. 'due'
local LOAD, TURN, WORK, MODEL, BUSY = slots .. 'load:', slots .. 'turn:', slots .. 'work:', slots .. 'model:', slots .. 'busy:'
";

/// The names of the keys of tasks that nobody serves, for the scripts that name them.
pub(super) const UNSERVED: &str = "local UNSERVED, UNSERVED_TOLD = slots .. 'unserved', slots .. 'unserved:told'\n";

/// The names of the keys of what kinds do, for the scripts that name them.
pub(super) const DESCRIBED: &str = "local DESCRIBED, DESCRIBED_TOLD = slots .. 'kinds', slots .. 'kinds:told'\n";

/// The names of the keys of tensors, for the scripts that name them.
pub(super) const TENSORS: &str = "local TENSOR, TENSORS, TENSORS_TOLD = slots .. 'tensor:', slots .. 'tensors', slots .. 'tensors:told'\n";

/// The names of the keys of versions of tensors, for the script that draws them.
pub(super) const DRAWN: &str = "local DRAWN = slots .. 'drawn:'\n";

/// What all keys of one pool begin with.
pub(super) fn base(prefix: &str, pool: &PoolName) -> String {
    format!("{prefix}:{{{pool}}}:")
}
