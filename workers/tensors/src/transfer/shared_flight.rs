//! Those who want the same tensor at the same time share one transfer. It goes on for as long as anybody waits for it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use data_link::{LinkError, RefusedBecause};
use protocol::{TensorName, TensorRecord};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Moving, SoFar, TellMoving, bring, moving::telling};
use crate::{
    DataError, Tensor,
    plane::{Shared, here, trial::is_of_trial},
};

type Key = (TensorName, u64);
type Outcome = Option<Result<Arc<Tensor>, DataError>>;

/// The transfers to one GPU that go on.
#[derive(Default)]
pub(crate) struct Flights(Mutex<BTreeMap<Key, Going>>);

/// A transfer that goes on, as those find it who want the same.
struct Going {
    flight: Weak<Flight>,
    is_freed: Freed,
}

/// Whether what a transfer brings was freed meanwhile: those who wait for it have it all the same, and nobody else finds it.
type Freed = Arc<AtomicBool>;

/// One transfer. When the last who waits for it lets go, it is ended.
struct Flight {
    key: Key,
    bytes: u64,
    so_far: Arc<SoFar>,
    outcome: watch::Receiver<Outcome>,
    _ends_with_the_last: DropGuard,
}

impl Flight {
    fn moving(&self) -> Moving {
        self.so_far.moving(&self.key.0, self.bytes)
    }
}

impl Flights {
    /// How many bytes have come of a tensor that is on its way. `None`: it is not.
    pub(crate) fn came(&self, name: &TensorName, version: u64) -> Option<u64> {
        let flight = self.going().get(&(name.clone(), version))?.flight.upgrade()?;
        Some(flight.moving().done_bytes)
    }

    /// What comes of this name, in this version or in any, is not to be found when it is there; whether any comes. Who asks from now on waits for none of it.
    pub(crate) fn free(&self, name: &TensorName, version: Option<u64>) -> bool {
        let mut is_any = false;
        self.going().retain(|(of, of_version), going| {
            let is_meant = of == name && version.is_none_or(|version| version == *of_version);
            if is_meant {
                going.is_freed.store(true, Ordering::SeqCst);
                is_any |= going.flight.strong_count() > 0;
            }
            !is_meant
        });
        is_any
    }

    /// The transfer is over: whoever comes from now on finds what it brought in the store, or begins anew. Another one under the same key stays.
    fn is_over(&self, key: &Key, is_freed: &Freed) {
        let mut going = self.going();
        if going.get(key).is_some_and(|other| Arc::ptr_eq(&other.is_freed, is_freed)) {
            going.remove(key);
        }
    }

    fn going(&self) -> MutexGuard<'_, BTreeMap<Key, Going>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Brings a tensor here: `copies` are its copies elsewhere, all of one version, and at least one.
    ///
    /// # Errors
    /// [`DataError`].
    pub(crate) async fn bring(
        self: &Arc<Self>,
        copies: Vec<TensorRecord>,
        cancel: &CancellationToken,
        tell: Option<TellMoving<'_>>,
    ) -> Result<Arc<Tensor>, DataError> {
        let name = copies[0].name.clone();
        let flight = self.board(copies);
        let mut outcome = flight.outcome.clone();
        let arrived = async {
            let arrived = outcome.wait_for(Option::is_some).await.ok().and_then(|arrived| arrived.clone());
            // Its job is gone without a word: it panicked, or was dropped with what runs it.
            arrived.unwrap_or_else(|| {
                let reason = "the transfer broke off by a fault of this program; its log says more".to_owned();
                Err(DataError::Transfer { name, to: self.gpu_id.clone(), reason })
            })
        };
        tokio::select! {
            biased;
            arrived = arrived => arrived,
            () = cancel.cancelled() => Err(DataError::Cancelled),
            never = telling(tell, || flight.moving()) => match never {},
        }
    }

    /// The transfer that goes on already, or a new one.
    fn board(self: &Arc<Self>, copies: Vec<TensorRecord>) -> Arc<Flight> {
        let key = (copies[0].name.clone(), copies[0].version);
        let mut all = self.flights.going();
        // One whose job is gone comes to nothing any more.
        let goes_on = |flight: &Arc<Flight>| flight.outcome.has_changed().is_ok();
        if let Some(flight) = all.get(&key).and_then(|going| going.flight.upgrade()).filter(goes_on) {
            return flight;
        }
        let cancel = CancellationToken::new();
        let (arrived, outcome) = watch::channel(None);
        let (bytes, so_far) = (copies[0].bytes, Arc::<SoFar>::default());
        let flight = Arc::new(Flight {
            key: key.clone(),
            bytes,
            so_far: Arc::clone(&so_far),
            outcome,
            _ends_with_the_last: cancel.clone().drop_guard(),
        });
        let is_freed = Freed::default();
        all.retain(|_, going| going.flight.strong_count() > 0);
        all.insert(key, Going { flight: Arc::downgrade(&flight), is_freed: Arc::clone(&is_freed) });
        self.spawn("transfer", fly(Arc::clone(self), copies, Leg { cancel, is_freed, so_far, arrived }));
        flight
    }

    /// Lets go of a copy that has just been announced where the table knows no other one, and none of those that it could be read from is there any more, as their GPUs say: it was freed while this one was on its
    /// way, by somebody who did not know of it. Who frees looks once more after that, so that one of the two sees the other. What is gone with its worker is no such case.
    async fn let_go_if_freed(&self, copy: &TensorRecord, sources: &[TensorRecord]) {
        let is_other = |other: &TensorRecord| other.version == copy.version && !self.is_own(other);
        match self.ask(std::slice::from_ref(&copy.name)).await {
            Ok(found) if !found.iter().any(is_other) => {}
            Ok(_) => return,
            Err(error) => return tracing::debug!(%error, tensor = %copy.name, "it is not known whether a tensor was freed meanwhile"),
        }
        for source in sources {
            if !self.says_it_is_gone(source).await {
                return;
            }
        }
        if let Some(freed) = self.store.free(&copy.name, Some(copy.version)) {
            tracing::debug!(tensor = %copy.name, gpu_id = %self.gpu_id, "a tensor was freed while a copy of it was on its way");
            self.tell_later([(copy.name.clone(), freed)]);
        }
    }

    /// Whether the GPU of a copy lives, and has it no more.
    async fn says_it_is_gone(&self, source: &TensorRecord) -> bool {
        if let Some(plane) = here::find(&source.incarnation, &source.gpu_id) {
            return plane.store.look(&source.name).is_none_or(|stored| stored.about.version != source.version);
        }
        let Some(port) = &source.port else { return false };
        let told = async { self.client(port, self.options.limits.stall).await?.about(&source.name, Some(source.version)).await };
        matches!(told.await, Err(LinkError::Refused(refused)) if refused.because == RefusedBecause::Missing)
    }

    /// Lets go of a copy that was freed while it was on its way, or that nobody waits for any more. Whether it is still to be found.
    fn is_to_be_found(&self, copy: &TensorRecord, leg: &Leg) -> bool {
        if !leg.is_freed.load(Ordering::SeqCst) && !leg.cancel.is_cancelled() {
            return true;
        }
        if let Some(freed) = self.store.free(&copy.name, Some(copy.version)) {
            // Somebody may have told the table of it in that moment.
            self.tell_later([(copy.name.clone(), freed)]);
        }
        false
    }
}

/// The job's side of a transfer.
struct Leg {
    cancel: CancellationToken,
    is_freed: Freed,
    so_far: Arc<SoFar>,
    arrived: watch::Sender<Outcome>,
}

async fn fly(shared: Arc<Shared>, copies: Vec<TensorRecord>, leg: Leg) {
    let key = (copies[0].name.clone(), copies[0].version);
    let outcome = tokio::select! {
        biased;
        () = leg.cancel.cancelled() => Err(DataError::Cancelled),
        () = shared.ended.cancelled() => Err(DataError::Cancelled),
        outcome = bring(&shared, &copies, &leg.so_far) => outcome,
    };
    let copy = outcome.as_ref().ok().map(|tensor| shared.record_of(tensor));
    shared.flights.is_over(&key, &leg.is_freed);
    // Only now: who frees it from here on finds it in the store.
    let copy = copy.filter(|copy| shared.is_to_be_found(copy, &leg));
    leg.arrived.send_replace(Some(outcome));
    shared.tell_gone();
    // A copy that is not announced is only not found. One that a newer version came before is none to be found.
    if let Some(copy) = copy
        && !is_of_trial(&copy.name)
        && shared.store.look(&copy.name).is_some_and(|stored| stored.about.version == copy.version)
    {
        match shared.ended.run_until_cancelled(shared.announce(std::slice::from_ref(&copy))).await {
            Some(Ok(())) => drop(shared.ended.run_until_cancelled(shared.let_go_if_freed(&copy, &copies)).await),
            Some(Err(error)) => tracing::debug!(%error, tensor = %copy.name, gpu_id = %shared.gpu_id, "a copy stays unannounced"),
            None => {}
        }
    }
}
