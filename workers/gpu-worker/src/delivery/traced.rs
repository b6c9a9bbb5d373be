//! What a delivery remembers of its attempt, for the spans that are made when it ends.

use protocol::{Strategy, traces::SpanId};

/// An attempt that began, and is recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BegunSpan {
    /// Of the span that is made at its end; others name it before.
    pub(crate) span_id: SpanId,
    /// When it began, in Unix µs.
    pub(crate) at_us: u64,
    /// The strategy that chose its GPU.
    pub(crate) strategy: Strategy,
    /// Whether its span was made.
    pub(crate) is_told: bool,
}
