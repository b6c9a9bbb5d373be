//! What makes the calls of a group, one after the other.

use std::sync::Arc;

use super::{
    Answer, Call, Item, Shared,
    queue::{Caller, NextCall},
};
use crate::LinkError;

/// Makes calls until nothing needs to go. There is at most one at a time.
///
/// Where it ends before that (a call panicked, or the runtime is shutting down), everybody who waits hears so, and the next operation starts another one.
pub(super) struct Driver<C> {
    shared: Arc<Shared<C>>,
    done: bool,
}

impl<C> Driver<C> {
    pub(super) fn new(shared: Arc<Shared<C>>) -> Self {
        Self { shared, done: false }
    }

    fn next_call(&self) -> Option<NextCall> {
        self.shared.lock().next_call()
    }

    fn answer(&self, items: Vec<Item>, callers: Vec<Caller>, answered: Result<Vec<Answer>, LinkError>) {
        match answered {
            Ok(each) => each.into_iter().zip(callers).for_each(|(answer, caller)| tell(caller, answer)),
            Err(LinkError::Scattered(_)) if self.shared.lock().keep_to_one_hash_slot() => self.shared.lock().put_back(items, callers),
            Err(error) => callers.into_iter().for_each(|caller| tell(caller, Err(error.clone()))),
        }
    }
}

impl<C: Call> Driver<C> {
    pub(super) async fn drive(mut self) {
        // The callers that run at this moment have more to say.
        tokio::task::yield_now().await;
        while let Some((items, callers)) = self.next_call() {
            let answered = self.shared.call.call(&items).await;
            self.answer(items, callers, answered);
        }
        self.done = true;
    }
}

impl<C> Drop for Driver<C> {
    fn drop(&mut self) {
        // Once it is done, another driver may be at work already.
        if !self.done {
            let stranded = self.shared.lock().break_off();
            stranded.into_iter().for_each(|caller| tell(caller, Err(LinkError::broken_off())));
        }
    }
}

fn tell(caller: Caller, answer: Answer) {
    if let Some(caller) = caller {
        let _unheard = caller.send(answer);
    }
}
