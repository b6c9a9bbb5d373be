//! How transfers go, well and badly.

mod between_processes;
mod here;
