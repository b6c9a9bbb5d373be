//! Changing the fleet's settings in the table, against others who may change them at the same time.

use protocol::claim::Settings;

use crate::{fault::Fault, servers::Servers};

/// How often a change is tried again when somebody else was faster.
const TRIES: u32 = 8;

/// The settings in force.
pub(crate) async fn get(servers: &Servers) -> Result<Settings, Fault> {
    let configuration = servers.configuration();
    let initial = configuration.gpu.multi_gpu.initial_settings();
    Ok(servers.table().await?.settings(&configuration.worker.pool, &initial).await?)
}

/// Applies `change` to the settings in force, again if somebody else was faster.
pub(crate) async fn change(servers: &Servers, change: impl Fn(Settings) -> Settings) -> Result<Settings, Fault> {
    let table = servers.table().await?;
    let mut settings = get(servers).await?;
    for _ in 0..TRIES {
        let wanted = change(settings.clone());
        if wanted == settings {
            return Ok(settings);
        }
        settings = table.change_settings(&servers.configuration().worker.pool, &wanted).await?;
    }
    Err(Fault::Failed(format!("the settings change faster than they can be changed: {TRIES} tries")))
}
