//! Those who want the same tensor at the same time share one transfer. It goes on for as long as anybody waits for it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use protocol::{TensorName, TensorRecord};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::bring;
use crate::{DataError, Tensor, plane::Shared};

type Key = (TensorName, u64);
type Outcome = Option<Result<Arc<Tensor>, DataError>>;

/// The transfers to one GPU that go on.
#[derive(Default)]
pub(crate) struct Flights(Mutex<BTreeMap<Key, Weak<Flight>>>);

/// One transfer. When the last who waits for it lets go, it is ended.
struct Flight {
    outcome: watch::Receiver<Outcome>,
    _ends_with_the_last: DropGuard,
}

impl Shared {
    /// Brings a tensor here: `copies` are its copies elsewhere, all of one version, and at least one.
    ///
    /// # Errors
    /// [`DataError`].
    pub(crate) async fn bring(self: &Arc<Self>, copies: Vec<TensorRecord>, cancel: &CancellationToken) -> Result<Arc<Tensor>, DataError> {
        let flight = self.board(copies);
        let mut outcome = flight.outcome.clone();
        let arrived = async {
            match outcome.wait_for(Option::is_some).await {
                Ok(arrived) => arrived.clone().unwrap_or(Err(DataError::Cancelled)),
                // Its job was ended with the plane.
                Err(_) => Err(DataError::Cancelled),
            }
        };
        tokio::select! {
            biased;
            arrived = arrived => arrived,
            () = cancel.cancelled() => Err(DataError::Cancelled),
        }
    }

    /// The transfer that goes on already, or a new one.
    fn board(self: &Arc<Self>, copies: Vec<TensorRecord>) -> Arc<Flight> {
        let key = (copies[0].name.clone(), copies[0].version);
        let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade) {
            return flight;
        }
        let cancel = CancellationToken::new();
        let (arrived, outcome) = watch::channel(None);
        let flight = Arc::new(Flight { outcome, _ends_with_the_last: cancel.clone().drop_guard() });
        flights.retain(|_, flight| flight.strong_count() > 0);
        flights.insert(key, Arc::downgrade(&flight));
        self.spawn("transfer", fly(Arc::clone(self), copies, cancel, arrived));
        flight
    }
}

async fn fly(shared: Arc<Shared>, copies: Vec<TensorRecord>, cancel: CancellationToken, arrived: watch::Sender<Outcome>) {
    let key = (copies[0].name.clone(), copies[0].version);
    let outcome = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(DataError::Cancelled),
        () = shared.ended.cancelled() => Err(DataError::Cancelled),
        outcome = bring(&shared, &copies) => outcome,
    };
    let copy = outcome.as_ref().ok().map(|tensor| shared.record_of(tensor));
    // Who comes from now on finds it in the store, or begins anew. A flight that was left by all may have a successor under the same key, which stays.
    if !cancel.is_cancelled() {
        shared.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }
    arrived.send_replace(Some(outcome));
    shared.tell_gone();
    // A copy that is not announced is only not found. One that a newer version came before is none to be found.
    if let Some(copy) = copy
        && shared.store.look(&copy.name).is_some_and(|stored| stored.about.version == copy.version)
    {
        let announced = shared.ended.run_until_cancelled(shared.announce(std::slice::from_ref(&copy))).await;
        if let Some(Err(error)) = announced {
            tracing::debug!(%error, tensor = %copy.name, gpu_id = %shared.gpu_id, "a copy stays unannounced");
        }
    }
}
