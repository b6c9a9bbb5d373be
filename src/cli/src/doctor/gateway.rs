//! What a gateway says of itself and of what is behind it.

use super::Finding;
use crate::fleet::Gateway;

/// Looks at a gateway.
pub(super) async fn look(gateway: &Gateway) -> Vec<Finding> {
    let subject = format!("gateway {}", gateway.url());
    let ready = match gateway.not_ready().await {
        Ok(None) => Finding::good(&subject, "ready: its queue, its table and its store answer"),
        Ok(Some(why)) => Finding::bad(&subject, format!("not ready: {why}")),
        Err(fault) => return vec![Finding::bad(&subject, fault.to_string())],
    };
    let version = match gateway.version().await {
        Ok(version) if version == env!("CARGO_PKG_VERSION") => Finding::good(&subject, format!("version {version}")),
        Ok(version) => Finding::warning(&subject, format!("version {version}, and this program is version {}", env!("CARGO_PKG_VERSION"))),
        Err(fault) => Finding::bad(&subject, fault.to_string()),
    };
    vec![ready, version]
}
