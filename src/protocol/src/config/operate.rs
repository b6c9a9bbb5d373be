//! Where a gateway serves operators' requests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where operators' requests are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Operate {
    /// Only where the gateway listens on a loopback address.
    #[default]
    Loopback,
    /// To everybody who reaches the port.
    Always,
    /// To nobody.
    Never,
}

impl Operate {
    /// The name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}
