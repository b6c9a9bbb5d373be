//! Slots: whose they are, where a task goes, and who holds a task already.

pub(crate) mod begun;
pub(crate) mod holder;
pub(crate) mod needs;
pub(crate) mod placing;
pub(crate) mod slots;
pub(crate) mod telling;
pub(crate) mod unserved;
