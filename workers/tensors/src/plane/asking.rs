//! Asking the table where tensors are, and telling it: with a time limit, and again where that may help.

use std::time::Duration;

use protocol::{TensorName, TensorRecord};

use super::{Shared, trial::is_of_trial};
use crate::{DataError, Directory, DirectoryError, Draw};

/// For each question.
const LIMIT: Duration = Duration::from_secs(10);
/// How often a copy is announced before it is given up.
const TRIES: u32 = 4;
/// Before the second try, in ms; doubled with each further one.
const PAUSE_MS: u64 = 50;
/// How many rows one call carries.
const AT_ONCE: usize = 100;

impl Shared {
    /// All copies of these names that the table knows.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub(crate) async fn ask(&self, names: &[TensorName]) -> Result<Vec<TensorRecord>, DirectoryError> {
        let mut found = Vec::new();
        for names in names.chunks(AT_ONCE) {
            found.extend(limited(self.directory.find(names)).await?);
        }
        Ok(found)
    }

    /// Announces copies, and tries a few times where that may help.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub(crate) async fn announce(&self, records: &[TensorRecord]) -> Result<(), DirectoryError> {
        let mut announced = Ok(());
        for records in records.chunks(AT_ONCE) {
            match self.insist(|directory| directory.announce(records)).await {
                Ok(()) => self.told.told(records),
                Err(error) if error.is_transient => return Err(error),
                // The table refuses names beyond its bound, and knows those of others that it has.
                Err(error) => announced = announced.and(Err(error)),
            }
        }
        // What went away while the table was told would be found for ever.
        let is_gone = |record: &&TensorRecord| self.store.look(&record.name).is_none_or(|stored| stored.about.version != record.version);
        let gone: Vec<_> = records.iter().filter(is_gone).map(|record| (record.name.clone(), record.version)).collect();
        if !gone.is_empty() {
            self.tell_later(gone);
        }
        announced
    }

    /// Draws a version, and tries a few times where that may help.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub(crate) async fn draw(&self, draw: &Draw<'_>) -> Result<u64, DirectoryError> {
        self.insist(|directory| directory.draw_version(draw)).await
    }

    /// Says that copies are gone.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub(crate) async fn withdraw(&self, copies: &[(TensorName, u64)]) -> Result<(), DirectoryError> {
        for copies in copies.chunks(AT_ONCE) {
            limited(self.directory.withdraw(copies)).await?;
        }
        Ok(())
    }

    /// See [`DataPlane::announce_all`](super::DataPlane::announce_all).
    pub(crate) async fn announce_all(&self) -> Result<(), DataError> {
        let here = self.store.list().into_iter().filter(|stored| !is_of_trial(&stored.about.name));
        let records: Vec<_> = here.map(|stored| self.record(&stored.about, stored.place, stored.last_used_ms)).collect();
        Ok(self.announce(&records).await?)
    }

    async fn insist<'a, T, Asked>(&'a self, ask: impl Fn(&'a dyn Directory) -> Asked) -> Result<T, DirectoryError>
    where
        Asked: Future<Output = Result<T, DirectoryError>>,
    {
        let mut pause_ms = PAUSE_MS;
        for _ in 1..TRIES {
            match limited(ask(&*self.directory)).await {
                Err(error) if error.is_transient => tracing::debug!(%error, "the table will be asked again"),
                answered => return answered,
            }
            // Workers that lost the table at the same time must not come back at the same time.
            tokio::time::sleep(Duration::from_millis(pause_ms).mul_f64(0.5 + self.environment.random.unit())).await;
            pause_ms *= 2;
        }
        limited(ask(&*self.directory)).await
    }
}

/// An answer of the table, in time.
pub(crate) async fn limited<T>(asked: impl Future<Output = Result<T, DirectoryError>>) -> Result<T, DirectoryError> {
    tokio::time::timeout(LIMIT, asked)
        .await
        .unwrap_or_else(|_| Err(DirectoryError { message: format!("it did not answer within {} s", LIMIT.as_secs()), is_transient: true }))
}
