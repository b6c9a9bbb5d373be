//! `gpufleet thresholds`.

use clap::{Args, Subcommand};

use super::parsers;

/// `gpufleet thresholds`.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum ThresholdsCommand {
    /// Shows them
    Get,
    /// Changes one or both, for the whole fleet, at once
    #[command(after_help = "Example: gpufleet thresholds set --memory 0.9 --utilization 0.95")]
    Set(SetThresholds),
}

/// `gpufleet thresholds set`.
#[derive(Debug, Clone, Copy, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct SetThresholds {
    /// A GPU takes tasks below this share of its memory in use, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = parsers::memory_share)]
    pub(crate) memory: Option<f64>,
    /// A GPU takes tasks below this utilisation by others, 0 to 1; 1.01 switches it off
    #[arg(long, value_name = "SHARE", value_parser = parsers::utilization_share)]
    pub(crate) utilization: Option<f64>,
}
