//! What becomes of a delivery, and how it is carried out.

pub(crate) mod carry_out;
mod delaying;
mod ending;
pub(crate) mod history;
mod membership;
mod merging;
mod reply;
mod retrying;
mod slices;
mod splitting;
mod unrouted;
