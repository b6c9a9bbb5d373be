//! Changing the fleet's settings against others who may change them at the same time.

use protocol::{PoolName, claim::Settings};

use crate::{GpuTable, TableError};

/// How often a change is tried again when somebody else was faster.
const TRIES: u32 = 8;

/// Applies `change` to the settings in force (to `initial` where the table has none), again if somebody else was faster; the settings that are in force then. Where they
/// are as `change` wants them, nothing is written.
///
/// # Errors
/// Those of the table; [`TableError::Contended`] if others were faster eight times.
pub async fn change_settings(
    table: &dyn GpuTable,
    pool: &PoolName,
    initial: &Settings,
    change: impl Fn(Settings) -> Settings,
) -> Result<Settings, TableError> {
    let current = table.current_settings(pool).await?;
    let mut wanted = change(current.clone().unwrap_or_else(|| initial.clone()));
    if current.as_ref() == Some(&wanted) {
        return Ok(wanted);
    }
    for _ in 0..TRIES {
        let in_force = table.change_settings(pool, &wanted).await?;
        wanted = change(in_force.clone());
        if wanted == in_force {
            return Ok(in_force);
        }
    }
    Err(TableError::Contended { tries: TRIES })
}
