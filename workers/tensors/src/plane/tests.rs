//! What planes do together.
