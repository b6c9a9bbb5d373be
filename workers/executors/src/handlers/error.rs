//! Why a handler was not started.

/// A handler that was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandlerError {
    /// Its first process ended before it said its kinds, or did not say them in time.
    #[error("start the handler {name}: {why}")]
    NotStarted {
        /// The handler.
        name: String,
        /// What happened, with the end of what it wrote on standard error.
        why: String,
    },
    /// It runs nothing.
    #[error("start the handler {name}: it names no kind in its hello, and its configuration none in `kinds`")]
    NoKinds {
        /// The handler.
        name: String,
    },
    /// It has no `hello` to name its kinds in.
    #[error("start the handler {name}: with `protocol: lines` its kinds are to be given in handlers[].kinds")]
    LinesWithoutKinds {
        /// The handler.
        name: String,
    },
}
