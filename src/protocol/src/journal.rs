//! What the fleet remembers of its course, for people: the steps of tasks, numbers over time, what operators did.
//!
//! Nothing rests on it. It is bounded, may lack what was told while a server was away, and is on both back ends ([`Journal`](../task_store/trait.Journal.html) is the port).

mod action;
mod history;
mod step;

pub use action::OperatorAction;
pub use history::{HistoryPoint, HistorySpan, KindPoint};
pub use step::{StepName, TaskStep};

/// Cuts a text to so many bytes, at a character's end.
fn cut(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max - '…'.len_utf8()));
        text.push('…');
    }
}
