//! How transfers go.
