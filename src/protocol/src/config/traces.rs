//! Where the spans of tasks go.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretUrl;

/// `traces:`. What is null here is read from the standard variables of OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TracesSection {
    /// The collector that takes spans by OTLP over HTTP, as `http://host:4318`; they go to `/v1/traces` there. Null: what `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` (the whole URL) or
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` says, and without one of them nobody traces. Default: null.
    pub otlp_url: Option<SecretUrl>,
    /// Which share of the traces that begin in the fleet is recorded, 0 to 1. Where a producer names a trace, its flag decides. Default: 1.0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample_ratio: f64,
    /// What traces call these programs. Null: what `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` says, else `gpufleet`. Default: null.
    pub service_name: Option<String>,
}

impl Default for TracesSection {
    fn default() -> Self {
        Self { otlp_url: None, sample_ratio: 1.0, service_name: None }
    }
}
