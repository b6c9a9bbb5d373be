//! Carrying out what becomes of a delivery. The one file that records, counts in the group, publishes and acks, in this order, so that a crash anywhere leads to a redelivery, and a redelivery
//! to the same stored reply. (The slot is not here: it was free as soon as the executor had ended.)

use std::time::Duration;

use protocol::{
    ErrorCode, KeepAs, OnError, Outcome, Refusal, Reply, TaskError, TaskId,
    envelope::{Headers, PRIORITY_MAX},
    identify_letter,
    intake::Reading,
};
use task_queue::{Outgoing, Queue, Target};
use task_store::{Crash, Fence, FenceRequest, Look, Record, RecordRequest, Split, Stored};

use super::{
    delaying,
    ending::Ending,
    history,
    reply::{self, Final},
    retrying, slices,
    splitting::{self, Became},
    unrouted,
};
use crate::{
    claim::holder::{self, Former},
    context::Context,
    data::freeing::let_go_of_all,
    delivery::{
        Identity, InHand, due,
        onward::{self, WaitsFor},
    },
    disposition::{Disposition, End, Onward, Ran},
    metrics::known_kind,
    ports::{Abandoned, Sent},
    steps, traces,
};

/// For how many leases a task waits in the queue of a GPU that has a slot for it. A GPU that lives takes it at once. Where one is gone that somebody remembers, its queue is emptied before
/// that, with confirms.
const LEASES_IN_THE_QUEUE_OF_A_GPU: u32 = 10;

/// What is left to do with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Nothing.
    Done,
    /// It could not be sent where it was to go: decide anew.
    NotSent,
    /// It was to be split, and an attempt of it began once: it runs whole.
    RunsWhole,
}

/// What a task says of its items, of a batch or of a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Items {
    /// How many it has.
    pub(super) count: u32,
    pub(super) on_error: OnError,
}

/// A delivery whose disposition is carried out.
pub(crate) struct Settling<'a> {
    pub(crate) context: &'a Context,
    pub(crate) in_hand: &'a InHand,
    pub(crate) identity: Identity,
    /// `None`: it has none, or is no valid task.
    pub(super) items: Option<Items>,
    /// How its outputs stay on the GPU.
    pub(super) keep_as: Option<&'a KeepAs>,
}

/// Carries out a disposition. The delivery is acked only when what must follow it is safe.
pub(crate) async fn carry_out(
    context: &Context,
    in_hand: &InHand,
    reading: &Reading,
    disposition: Disposition<'_>,
) -> Result<Settled, Abandoned> {
    let body = reading.task.as_ref().ok().map(|task| &task.body);
    let items = body.and_then(|body| {
        let count = u32::try_from(body.items.as_ref()?.len()).unwrap_or(u32::MAX);
        Some(Items { count, on_error: body.on_error })
    });
    let keep_as = body.and_then(|body| body.keep_as.as_ref());
    let settling = Settling { context, in_hand, identity: Identity::read(reading, in_hand), items, keep_as };
    // What is rare is boxed: every life has room for the largest thing that it may come to.
    let mut next = Some(disposition);
    while let Some(disposition) = next.take() {
        match disposition {
            Disposition::Finish(end, ran) => settling.end(end, Some(ran)).await?,
            Disposition::EndUnrun(end) => settling.end_unrun(end).await?,
            Disposition::Resend(stored) => settling.resend(stored).await?,
            // The store may know better than that another attempt follows.
            Disposition::Retry(retry) => next = Box::pin(retrying::retry(&settling, retry)).await?,
            Disposition::PublishRetry(task, due) => Box::pin(retrying::publish(&settling, task, due)).await?,
            Disposition::Park(wait) => settling.wait_in_a_retry_queue(WaitsFor::AnotherHolder, wait).await?,
            Disposition::SendOn(onward) => return settling.send_on(onward).await,
            Disposition::GiveBack => in_hand.give_back().await,
            Disposition::Refuse(refusal) => Box::pin(settling.refuse(ErrorCode::InvalidTask, refusal)).await?,
            Disposition::Route(task) => next = Box::pin(unrouted::route(&settling, task)).await?,
            Disposition::Delay(task) => next = Box::pin(delaying::delay(&settling, task)).await?,
            Disposition::RefuseUnknownPool(refusal) => Box::pin(settling.refuse(ErrorCode::UnknownPool, refusal)).await?,
            Disposition::RefuseReusedId => Box::pin(settling.refuse_reused_id()).await?,
            Disposition::Quarantine(crashes, words) => Box::pin(settling.quarantine(&crashes, words)).await?,
            Disposition::Split(task, slices) => match Box::pin(splitting::split(&settling, task, slices)).await? {
                Became::Settled => {}
                Became::Whole => return Ok(Settled::RunsWhole),
                Became::Otherwise(disposition) => next = Some(*disposition),
            },
            Disposition::GoOnSplit(task, split) => Box::pin(splitting::go_on(&settling, task, &split)).await?,
            Disposition::Unwanted => settling.unwanted(Ack::Elsewhere).await,
        }
    }
    Ok(Settled::Done)
}

/// What an ack says of the slot that the delivery had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    AfterRun,
    Elsewhere,
}

impl Ack {
    pub(super) const fn of(ran: Option<&Ran>) -> Self {
        if ran.is_some() { Self::AfterRun } else { Self::Elsewhere }
    }
}

impl<'a> Settling<'a> {
    /// However it ends, with a run or without: here the ways of tasks and of slices part. A slice's results go to its batch, and it has no reply of its own.
    async fn end(&self, end: End, ran: Option<Ran>) -> Result<(), Abandoned> {
        match self.identity.task_id.slice() {
            Some(slice) => Box::pin(slices::end(self, slice, end, ran)).await,
            None => self.end_task(end, ran.as_ref(), Ack::of(ran.as_ref())).await,
        }
    }

    /// Without a run.
    pub(super) async fn end_unrun(&self, end: End) -> Result<(), Abandoned> {
        self.end(end, None).await
    }

    /// Record, publish, ack. Where the task did not run, and an attempt of it began once, that one's outcome is refused from now on, unless it is still in somebody's hand.
    pub(super) async fn end_task(&self, end: End, ran: Option<&Ran>, ack: Ack) -> Result<(), Abandoned> {
        let (end, body) = reply::of(self, end, ran);
        let (outcome, ending) = (end.outcome, Ending::of(&end));
        let mut request = self.request(outcome, ran, &body);
        loop {
            match self.context.ports.record(&request).await? {
                Record::Recorded => {
                    ending.tell(self);
                    steps::ended(self, &end, ran);
                    self.batch_ended(&end, ran);
                    if ran.is_some() && end.error.as_ref().is_some_and(is_too_large) {
                        Box::pin(self.let_go_of_outputs()).await;
                    }
                    return self.publish_and_ack(self.recorded(outcome, ran, body), ack).await;
                }
                Record::EndedBefore(stored) => return self.ended_before(stored, ack).await,
                Record::Superseded if request.token.is_some() => return self.is_late().await,
                Record::Superseded => match self.fence().await? {
                    Fence::Fenced(token) => request.token = Some(token),
                    Fence::Not(Look::Ended(stored)) => return self.ended_before(stored, ack).await,
                    Fence::Not(_) | Fence::Unfinished(_) => return self.park(self.lease()).await,
                },
            }
        }
    }

    /// The task ran and has failed all the same, for its result: what it left on the GPU would only take room, and be taken for the output of a task that has none.
    async fn let_go_of_outputs(&self) {
        let (Some(keep_as), Some(data)) = (self.keep_as, self.context.gpu.data.get()) else { return };
        let owner = self.identity.task_id.batch().to_string();
        let items = self.items.map(|items| items.count);
        let_go_of_all(&data.plane, keep_as, items, &owner).await;
    }

    /// The outcome of a batch is recorded: nobody needs its slices any more, or only their results, where no reply could carry them.
    fn batch_ended(&self, end: &End, ran: Option<&Ran>) {
        if self.items.is_none() {
            return;
        }
        if ran.is_some() {
            self.context.metrics.batch_ended("whole");
            return;
        }
        if end.items.is_some() {
            self.context.metrics.batch_ended("split");
        }
        let keeps_results = end.error.as_ref().is_some_and(is_too_large);
        self.context.ports.store.forget_slices(&self.identity.task_id, keeps_results);
    }

    fn request(&self, outcome: Outcome, ran: Option<&Ran>, body: &bytes::Bytes) -> RecordRequest {
        let Identity { task_id, body_hash, kind, attempt, .. } = self.identity.clone();
        RecordRequest { task_id, body_hash, kind, outcome, attempt, token: ran.map(|ran| ran.token), reply: body.clone() }
    }

    /// The reply of the outcome that was just recorded.
    fn recorded(&self, outcome: Outcome, ran: Option<&Ran>, body: bytes::Bytes) -> Final {
        let kind = known_kind(&self.context.gpu.executors, self.identity.kind.as_ref());
        self.context.metrics.ended(kind, outcome.name());
        Final { is_copy: false, outcome, body, attempt: self.identity.attempt, token: ran.map(|ran| ran.token) }
    }

    /// Sends the reply that the store has for good, and acks. Where its queue does not take it now, it is a copy in a waiting queue that is safe.
    async fn publish_and_ack(&self, reply: Final, ack: Ack) -> Result<(), Abandoned> {
        let Settling { context, in_hand, identity, .. } = self;
        let is_copy = reply.is_copy;
        self.count_in_group(reply.outcome).await?;
        reply::send(context, in_hand, &identity.task_id, reply).await?;
        // Only who comes again asks whether the reply went out. Of a batch a copy goes round.
        if in_hand.may_come_again() || self.items.is_some() {
            context.ports.store.note_published(&identity.task_id, &in_hand.address());
        }
        if !is_copy {
            context.metrics.response_time_ms.observe(in_hand.received.elapsed().as_secs_f64() * 1_000.0);
        }
        self.ack(ack).await;
        Ok(())
    }

    pub(super) async fn ack(&self, ack: Ack) {
        match ack {
            Ack::AfterRun => self.in_hand.ack_after_run().await,
            Ack::Elsewhere => self.in_hand.ack_elsewhere().await,
        }
    }

    /// A slice whose batch wants nothing of it: there is nothing to record, and nobody to tell.
    pub(super) async fn unwanted(&self, ack: Ack) {
        self.context.metrics.slices_unwanted.inc();
        tracing::debug!(task_id = %self.identity.task_id, "a slice that its batch does not want (any more)");
        self.ack(ack).await;
    }

    /// What follows where the task ended before: publishes the stored reply and acks. Not where this is a copy of a delivery whose reply has gone out: that one is done with already.
    ///
    /// Nor where this is the delivery of a slice, which owes nobody the reply of its batch: the batch's own message, or the copy that goes round, is there until it has found the end, and
    /// sends what was left unsent. A total deadline ends all slices that run at once, and the producer is to be answered once.
    pub(super) async fn ended_before(&self, stored: Stored, ack: Ack) -> Result<(), Abandoned> {
        let (context, in_hand, task_id) = (self.context, self.in_hand, &self.identity.task_id);
        if self.items.is_some() {
            // Whoever recorded the end may have died before it did this.
            context.ports.store.forget_slices(task_id, may_need_results(&stored));
        }
        if in_hand.was_answered(stored.published_to.as_deref()) || in_hand.envelope.headers.slice.is_some() {
            self.count_in_group(stored.outcome).await?;
            self.ack(ack).await;
            return Ok(());
        }
        self.resend_and_ack(stored, ack).await
    }

    /// Publishes the stored reply of a task that ended before, and acks.
    async fn resend_and_ack(&self, stored: Stored, ack: Ack) -> Result<(), Abandoned> {
        let reply = reply::kept(self.context, &self.identity.task_id, self.identity.kind.clone(), stored);
        self.publish_and_ack(reply, ack).await
    }

    /// The same delivery, for another attempt of its task.
    pub(super) fn of_attempt(&self, attempt: u32) -> Settling<'a> {
        Settling { identity: Identity { attempt, ..self.identity.clone() }, ..*self }
    }

    /// The same delivery, of a slice, for its batch: what ends the batch acks the slice.
    pub(super) fn of_batch(&self, split: &Split) -> Settling<'a> {
        let Identity { task_id, kind, published_s, .. } = &self.identity;
        let identity = Identity {
            task_id: task_id.batch(),
            body_hash: split.body_hash.clone(),
            kind: kind.clone(),
            attempt: split.attempt,
            published_s: *published_s,
        };
        let count = split.slices.last().map_or(0, |(slice, _)| slice.to);
        let on_error = self.items.map_or_else(OnError::default, |items| items.on_error);
        Settling { context: self.context, in_hand: self.in_hand, identity, items: Some(Items { count, on_error }), keep_as: self.keep_as }
    }

    /// What follows where it ended before.
    async fn resend(&self, stored: Stored) -> Result<(), Abandoned> {
        match self.identity.task_id.slice() {
            Some(slice) => Box::pin(slices::ended(self, slice, stored)).await,
            None => self.ended_before(stored, Ack::Elsewhere).await,
        }
    }

    /// Takes a token above that of every attempt that began, unless one of them is in somebody's hand.
    pub(super) async fn fence(&self) -> Result<Fence, Abandoned> {
        let (context, identity) = (self.context, &self.identity);
        let mut request = FenceRequest {
            task_id: identity.task_id.clone(),
            body_hash: identity.body_hash.clone(),
            attempt: identity.attempt,
            gpu_id: context.me.gpu_id.clone(),
            incarnation: context.me.incarnation.clone(),
            verdict: None,
        };
        loop {
            let answer = context.ports.fence(&request).await?;
            let Fence::Unfinished(former) = &answer else { return Ok(answer) };
            match holder::patiently(context, self.in_hand, holder::look_into(context, &identity.task_id, former)).await? {
                Some(Former::Over(verdict)) => request.verdict = Some(verdict),
                Some(Former::GoesOn) | None => return Ok(answer),
            }
        }
    }

    /// A later holder began, whose outcome counts: this one's is refused. The delivery waits, and then finds that holder's reply.
    pub(super) async fn is_late(&self) -> Result<(), Abandoned> {
        self.context.metrics.late_outcomes.inc();
        tracing::warn!(task_id = %self.identity.task_id, attempt = self.identity.attempt, "outcome refused: a later holder began");
        self.park(self.lease()).await
    }

    /// Whether its total deadline has passed, which of a slice is its batch's.
    pub(super) fn total_deadline_passed(&self) -> bool {
        self.in_hand.deadlines.end_before_ms.is_some_and(|deadline_ms| deadline_ms <= self.context.ports.now_ms())
    }

    pub(super) fn lease(&self) -> Duration {
        self.context.me.options.lease
    }

    /// Lets a delivery wait until its task has come to its end.
    pub(super) async fn park(&self, wait: Duration) -> Result<(), Abandoned> {
        self.wait_in_a_retry_queue(WaitsFor::ItsEnd, wait).await
    }

    /// Lets a delivery wait in a retry queue, at no cost to its task.
    async fn wait_in_a_retry_queue(&self, waits_for: WaitsFor, wait: Duration) -> Result<(), Abandoned> {
        let Settling { context, in_hand, identity, .. } = self;
        // Where it was settled before its end, a copy of it goes round already.
        if !in_hand.is_settled() {
            let at = (&context.me.options.pool, wait);
            let waiting = onward::waiting(in_hand, &identity.task_id, (in_hand.is_copy(), waits_for), at, context.ports.now_ms());
            context.ports.publish_surely(&waiting, self.lease()).await?;
            in_hand.ack_elsewhere().await;
        }
        Ok(())
    }

    /// To another queue of the fleet, with everything that its task carries.
    async fn send_on(&self, to: Onward<'_>) -> Result<Settled, Abandoned> {
        let Settling { context, in_hand, .. } = self;
        let (hops, now_ms) = (to.hops(), context.ports.now_ms());
        let Onward { task, queue, reason, offer, among, unserved_since_ms } = to;
        let other = if let Queue::Gpu(gpu_id) = &queue { Some(gpu_id.clone()) } else { None };
        let mut envelope = onward::envelope(in_hand, task, &context.me.options.pool, now_ms);
        envelope.headers.hops = Some(task.hops.saturating_add(hops));
        envelope.headers.returned = hops == 0;
        if offer.is_some() {
            envelope.lives_at_most(self.lease() * LEASES_IN_THE_QUEUE_OF_A_GPU);
        }
        envelope.headers.unserved_since_ms = unserved_since_ms;
        envelope.headers.strategy = offer.as_ref().map(|offer| offer.choice.used.name().to_owned());
        let mut outgoing = Outgoing::new(Target::Queue(queue.clone()), envelope, in_hand.body.clone());
        if let Some(delay) = context.me.options.delay_of(&queue) {
            // It comes back no later than it must start.
            let left = task.start_before_ms.map(|deadline_ms| Duration::from_millis(deadline_ms.saturating_sub(now_ms)));
            due::waits(&mut outgoing, queue.clone(), left.map_or(delay, |left| left.min(delay)), now_ms);
        }
        let publishing = traces::publishes_again(context, (&task.id, in_hand), &mut outgoing.envelope);
        let sent = context.ports.publish(&outgoing).await?;
        if sent == Sent::There {
            context.metrics.forwarded(reason);
            traces::sent_on(context, (task, in_hand), publishing.as_ref(), (&queue, reason));
            if let Some(gpu_id) = &other {
                steps::forwarded(context, (task, in_hand), gpu_id, (offer.as_ref().map(|offer| offer.choice.used), among, now_ms));
            }
            in_hand.ack_elsewhere().await;
            return Ok(Settled::Done);
        }
        if let Some(offer) = offer
            && let Err(error) = context.ports.table.withdraw(&offer).await
        {
            tracing::debug!(task_id = %offer.task_id, %error, "not withdrawn; the offer lapses by itself");
        }
        if matches!(sent, Sent::NoQueue(_)) {
            return Ok(Settled::NotSent);
        }
        let message = "the broker does not take the message on to another queue; are its properties too long?";
        self.end_unrun(End::without_run(Outcome::Failed, TaskError::new(ErrorCode::InvalidTask, message))).await?;
        Ok(Settled::Done)
    }

    /// What is no valid task: recorded as failed, answered, its original bytes kept among the dead letters. The id's record may belong to another task; then that one is left
    /// alone.
    async fn refuse(&self, code: ErrorCode, refusal: Refusal) -> Result<(), Abandoned> {
        match self.context.ports.look(&self.identity).await? {
            // The fleet writes no slice that it cannot read: somebody made it up, or this worker's bounds are narrower. Its batch is not to hear of it.
            Look::Unwanted | Look::ReusedId if self.identity.task_id.slice().is_some() => {
                self.bury(&refusal.to_string(), self.in_hand.envelope.headers.history.clone()).await?;
                self.unwanted(Ack::Elsewhere).await;
                return Ok(());
            }
            Look::Open | Look::Unfinished(_) | Look::Cancelled | Look::Retried(_) | Look::Split(_) | Look::Unwanted => {}
            Look::Ended(stored) => return self.resend(stored).await,
            Look::ReusedId => return self.refuse_reused_id().await,
        }
        self.bury(&refusal.to_string(), self.in_hand.envelope.headers.history.clone()).await?;
        let error = TaskError::new(code, refusal.problem).at(refusal.field);
        self.end_unrun(End::without_run(Outcome::Failed, error)).await
    }

    /// Gives up a task whose worker, or the process that ran it, crashed too often: its history goes to its producer, and with its original bytes to the dead letters.
    async fn quarantine(&self, crashes: &[Crash], words: Option<String>) -> Result<(), Abandoned> {
        let mut crashed: Vec<String> = crashes.iter().map(history::crashed).collect();
        let times = format!("its worker, or the process that ran it, crashed {} times while it ran", crashes.len());
        let told = format!("{times}: {}", crashed.join("; "));
        let message = match &words {
            Some(words) => history::bounded(format!("{told}; the last time: {words}")),
            None => told,
        };
        if let (Some(last), Some(words)) = (crashed.last_mut(), &words) {
            *last = format!("{last}: {}", history::message(words));
        }
        tracing::error!(task_id = %self.identity.task_id, trace_id = self.in_hand.trace_id(), error = message, "quarantined");
        self.context.metrics.quarantined.inc();
        let history = history::with(self.in_hand.envelope.headers.history.as_deref(), crashed);
        self.bury(&format!("quarantined: {times}"), Some(history)).await?;
        self.end_unrun(End::without_run(Outcome::Failed, TaskError::new(ErrorCode::Quarantined, message))).await
    }

    /// A task whose id is in use for another body. The id's record belongs to the other task and is left alone.
    async fn refuse_reused_id(&self) -> Result<(), Abandoned> {
        let message = "this message_id is in use for a task with another body; give each task its own id";
        // People are not told of it under this id, which is another task's.
        self.keep_letter(message, self.in_hand.envelope.headers.history.clone()).await?;
        let error = TaskError::new(ErrorCode::ReusedId, message).at("message_id");
        let end = End::without_run(Outcome::Failed, error);
        let ending = Ending::of(&end);
        let (_, body) = reply::of(self, end, None);
        // Nothing is stored of it: a reply that finds no queue stays parked.
        let reply = Final { is_copy: false, outcome: Outcome::Failed, body, attempt: self.identity.attempt, token: None };
        self.leave_group().await?;
        reply::send(self.context, self.in_hand, &self.identity.task_id, reply).await?;
        self.in_hand.ack_elsewhere().await;
        ending.tell(self);
        Ok(())
    }

    /// Keeps the original bytes among the dead letters, and tells people.
    async fn bury(&self, reason: &str, history: Option<String>) -> Result<(), Abandoned> {
        let letter_id = self.keep_letter(reason, history).await?;
        steps::buried(self, &letter_id, reason);
        Ok(())
    }

    /// Keeps the original bytes among the dead letters, under the id that it gives; of a body that is larger than a task's may be, only its size. What was a slice is a task of its own there, which can be
    /// requeued although its batch has long been answered.
    async fn keep_letter(&self, reason: &str, history: Option<String>) -> Result<TaskId, Abandoned> {
        let (original, task_id) = (&self.in_hand.envelope, &self.identity.task_id);
        let (letter_id, reason, history) = match task_id.slice() {
            None => (task_id.clone(), reason.to_owned(), history),
            Some(slice) => {
                let whose = format!("items {slice} of batch {}", task_id.batch());
                let letter_id = identify_letter(task_id);
                let later = format!("requeued, it answers nobody: its result is read by its id, {letter_id}");
                let history = history::with(history.as_deref(), [format!("{whose}: its slice was given up; {later}")]);
                (letter_id, format!("{reason} ({whose})"), Some(history))
            }
        };
        let mut envelope = onward::bare(original, &letter_id, &self.context.me.options.pool);
        if task_id.slice().is_some() {
            // These are its batch's, which is answered and counted once.
            (envelope.reply_to, envelope.correlation_id) = (None, None);
            (envelope.headers.progress, envelope.headers.group) = (false, None);
        }
        envelope.priority = original.priority.filter(|priority| *priority <= PRIORITY_MAX);
        envelope.headers.attempt = original.headers.attempt;
        envelope.headers.history = history;
        if self.in_hand.queue == Queue::Unrouted {
            // Where its producer wanted it, and not where it is refused.
            envelope.headers.pool = Some(self.in_hand.routing_key.clone());
        }
        let (length, bound) = (self.in_hand.body.len(), self.context.me.options.intake.body_bytes_max);
        let (body, reason) = if length > bound {
            (bytes::Bytes::new(), format!("a body of {length} bytes is not kept (the bound is {bound}); {reason}"))
        } else {
            (self.in_hand.body.clone(), reason)
        };
        envelope.headers.reason = Some(reason.chars().take(Headers::TEXT_MAX / 4).collect());
        self.context.ports.bury(envelope, body, self.lease()).await?;
        Ok(letter_id)
    }
}

/// Whether the reply says that the results of a batch are kept beside it. One that is no longer kept, or was not read, may have said so.
fn may_need_results(stored: &Stored) -> bool {
    let reply = stored.body.as_ref().map(Reply::read);
    reply.is_none_or(|reply| reply.is_ok_and(|reply| reply.error.as_ref().is_some_and(is_too_large)))
}

fn is_too_large(error: &TaskError) -> bool {
    error.code == ErrorCode::ReplyTooLarge.name()
}
