//! What ends the gateway. What a client does wrong is a [`crate::Problem`].

/// The gateway could not stop in time.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Requests were still open when the grace after a stop was over; they were cut off.
    #[error("stop serving HTTP: requests were still open after {after_ms} ms")]
    CutOff {
        /// The grace.
        after_ms: u128,
    },
}
