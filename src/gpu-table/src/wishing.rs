//! Taking down operators' wishes for models, in the fleet's settings.

use protocol::{ModelWish, PoolName, WishError, claim::Settings};

use crate::{GpuTable, TableError, change_settings};

/// Why a wish was not taken down.
#[derive(Debug, thiserror::Error)]
pub enum WishFailed {
    /// It cannot be taken.
    #[error(transparent)]
    Refused(#[from] WishError),
    /// The table failed.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Takes a wish down (its `number` counts for nothing); the wish with the number that it got. Taking down the same wish of the same moment twice takes it down once.
///
/// # Errors
/// [`WishFailed`].
pub async fn wish_for_model(table: &dyn GpuTable, pool: &PoolName, initial: &Settings, wish: &ModelWish) -> Result<ModelWish, WishFailed> {
    let known = table.current_settings(pool).await?.unwrap_or_else(|| initial.clone());
    known.models.check(&wish.model, wish.action, &wish.gpus)?;
    let with_it = |settings: Settings| Settings { models: settings.models.with(wish), ..settings };
    let settings = change_settings(table, pool, initial, with_it).await?;
    match settings.models.taken(wish) {
        Some(taken) => Ok(taken.clone()),
        // Others pinned so much meanwhile that there is no room any more.
        None => Err(settings.models.check(&wish.model, wish.action, &wish.gpus).err().unwrap_or(WishError::TooManyPins).into()),
    }
}
