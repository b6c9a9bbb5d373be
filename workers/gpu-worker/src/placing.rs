//! Claiming: where a task goes, from the first claim to a slot here, another queue, or an end without a run.

use std::time::Duration;

use protocol::{Claim, ClaimAnswer, ClaimMode, ClaimRequest, GpuId, Needs, Task, TaskError, Unplaceable};
use task_queue::{Outgoing, Queue};
use tokio::time::Instant;

use crate::{
    context::Context,
    credits::Waits,
    ending::Identity,
    intake::InHand,
    memory,
    onward::{self, Sent},
    persist::{Abandoned, Backoff, Transience, pause_or_abandon, persist},
    slots::{Handed, InLine, Permit},
};

/// After so many forwards a task stays where it fits.
const HOPS_MAX: u32 = 3;

/// A slot of this GPU: the table's claim and the local permit, which is missing while the task waits to run alone.
pub(crate) struct Slot {
    pub(crate) claim: Claim,
    pub(crate) permit: Option<Permit>,
}

/// Where a task went.
pub(crate) enum Placed {
    /// Here: run it.
    Here(Slot),
    /// Into another queue, confirmed: ack.
    Sent,
    /// Nowhere: it is to end without a run. `None`: its queue deadline passed.
    Ends(Option<TaskError>),
    /// The worker drains, or it waited in hand for too long: give the delivery back.
    GiveBack,
}

/// A claim of this GPU's slot for an attempt that is to have it whatever the task needs: it began once. `None` without a kind, which nothing that began is.
pub(crate) fn request_here(context: &Context, identity: &Identity, in_hand: &InHand) -> Option<ClaimRequest> {
    Some(ClaimRequest {
        pool: context.options.pool.clone(),
        task_id: identity.task_id.clone(),
        kind: identity.kind.clone()?,
        attempt: identity.attempt,
        needs: Needs::default(),
        specific_gpu_id: None,
        strategy: None,
        offered_by: context.gpu_id.clone(),
        incarnation: context.incarnation.clone(),
        delivery: in_hand.id,
        mode: ClaimMode::Here,
    })
}

/// Places one task.
pub(crate) async fn place(context: &Context, in_hand: &InHand, task: &Task) -> Result<Placed, Abandoned> {
    let mut placing = Placing {
        context,
        in_hand,
        task,
        mode: first_mode(in_hand, task),
        permit: context.slots.take(),
        backoff: Backoff::default(),
        asked_for_beat: false,
    };
    let mut answer = None;
    let mut next_slot_first = placing.next_slot_will_do();
    loop {
        if passed(task, context.now_ms()) {
            placing.let_go(answer).await;
            return Ok(Placed::Ends(None));
        }
        // Given back after a long wait, it takes its old place, and the broker's patience with it begins anew.
        if context.stop.gently.is_cancelled() || in_hand.received.elapsed() >= context.options.unacked {
            placing.let_go(answer).await;
            return Ok(Placed::GiveBack);
        }
        let step = match answer.take() {
            Some(given) => placing.step(given).await?,
            None if std::mem::take(&mut next_slot_first) => placing.wait_in_hand().await?,
            None => {
                let given = placing.claim().await?;
                placing.step(given).await?
            }
        };
        match step {
            Step::Done(placed) => return Ok(placed),
            Step::Again(given) => answer = given,
        }
    }
}

/// A task from this GPU's own queue runs here; one that was forwarded too often stays; else the table chooses, or not, as tasks wait.
fn first_mode(in_hand: &InHand, task: &Task) -> ClaimMode {
    match (&in_hand.queue, in_hand.waits) {
        (Queue::Gpu(_), _) => ClaimMode::Here,
        _ if task.hops >= HOPS_MAX => ClaimMode::TasksWaiting,
        (_, Waits::Tasks) => ClaimMode::TasksWaiting,
        (_, Waits::Slots) => ClaimMode::Choose,
    }
}

fn passed(task: &Task, now_ms: u64) -> bool {
    task.start_before_ms.is_some_and(|deadline| deadline <= now_ms)
}

/// Ends when the task's queue deadline passes; never if it has none.
pub(crate) async fn deadline(context: &Context, task: &Task) {
    match task.start_before_ms {
        Some(deadline) => tokio::time::sleep(Duration::from_millis(deadline.saturating_sub(context.now_ms()))).await,
        None => std::future::pending().await,
    }
}

enum Step {
    Done(Placed),
    /// Go on, with an answer that somebody else's hand-over brought, if any.
    Again(Option<ClaimAnswer>),
}

struct Placing<'a> {
    context: &'a Context,
    in_hand: &'a InHand,
    task: &'a Task,
    mode: ClaimMode,
    permit: Option<Permit>,
    backoff: Backoff,
    asked_for_beat: bool,
}

impl Placing<'_> {
    async fn step(&mut self, answer: ClaimAnswer) -> Result<Step, Abandoned> {
        match answer {
            // The table has fallen back to what it was before: this worker has the task already.
            ClaimAnswer::Own(claim) if self.context.held.by_another(&claim.task_id, self.in_hand.id) => {
                self.release(&claim).await;
                self.park(self.context.options.lease).await
            }
            ClaimAnswer::Own(claim) if !self.context.health.takes_tasks() => {
                self.release(&claim).await;
                self.tell_the_table().await?;
                self.back_to_pool().await
            }
            ClaimAnswer::Own(claim) => self.here(claim).await.map(Step::Done),
            ClaimAnswer::Other(claim) => self.forward(claim).await,
            ClaimAnswer::Full { fits_here: true, .. } => self.wait_in_hand().await,
            ClaimAnswer::Full { elsewhere: Some(gpu_id), .. } => self.wait_at(gpu_id).await,
            ClaimAnswer::Full { elsewhere: None, .. } => self.rest("no GPU that fits has a free slot").await,
            ClaimAnswer::Held { for_ms } => self.park(Duration::from_millis(for_ms)).await,
            ClaimAnswer::Unplaceable(Unplaceable::NothingFits { .. }) | ClaimAnswer::NotHere if self.row_is_missing() => {
                self.beat_and_ask_again().await
            }
            ClaimAnswer::Unplaceable(why) => self.unplaceable(why).await,
            ClaimAnswer::NotHere => self.back_to_pool().await,
        }
    }

    /// Tasks wait and every slot here is busy: the next one that ends hands its slot over. Asking the table now could only find the moment between two tasks of
    /// another GPU, and pay a hop to fill it.
    fn next_slot_will_do(&self) -> bool {
        self.mode == ClaimMode::TasksWaiting && self.permit.is_none() && self.fits_here()
    }

    /// Whether this GPU could ever run the task.
    fn fits_here(&self) -> bool {
        let Needs { memory_mb, compute_capability, .. } = memory::needs(self.context, self.task);
        let specific = self.task.body.gpu_options.specific_gpu_id.as_ref();
        let description = self.context.device.description();
        self.context.executors.get(&self.task.kind).is_some()
            && specific.is_none_or(|gpu_id| *gpu_id == self.context.gpu_id)
            && memory_mb.is_none_or(|mb| mb <= description.memory_total_mb)
            && compute_capability.is_none_or(|capability| capability <= description.compute_capability)
    }

    fn request(&self) -> ClaimRequest {
        let (context, task) = (self.context, self.task);
        ClaimRequest {
            pool: context.options.pool.clone(),
            task_id: task.id.clone(),
            kind: task.kind.clone(),
            attempt: task.attempt,
            needs: memory::needs(context, task),
            specific_gpu_id: task.body.gpu_options.specific_gpu_id.clone(),
            strategy: task.body.gpu_options.strategy.clone(),
            offered_by: context.gpu_id.clone(),
            incarnation: context.incarnation.clone(),
            delivery: self.in_hand.id,
            mode: self.mode,
        }
    }

    /// Asks the table, once it knows that this worker consumes.
    async fn claim(&mut self) -> Result<ClaimAnswer, Abandoned> {
        let context = self.context;
        beats_above(context, 0).await?;
        if self.permit.is_none() {
            self.permit = context.slots.take();
        }
        let asked = Instant::now();
        let request = self.request();
        loop {
            match persist(&context.environment, &context.stop.now, || context.table.claim(&request)).await? {
                Ok(answer) => {
                    context.metrics.claim_seconds.observe(asked.elapsed().as_secs_f64());
                    context.metrics.claimed(name(&answer));
                    return Ok(answer);
                }
                Err(error) => self.complain(&error).await?,
            }
        }
    }

    async fn complain(&mut self, error: &impl Transience) -> Result<(), Abandoned> {
        tracing::error!(task_id = %self.task.id, %error, "claim a GPU");
        let pause = self.backoff.next(&self.context.environment);
        pause_or_abandon(&self.context.stop.now, pause).await
    }

    /// The claim is ours. The local count has the last word: after the table's loss it may know of runs that the table does not.
    async fn here(&mut self, claim: Claim) -> Result<Placed, Abandoned> {
        self.context.held.insert(&claim, self.in_hand.id);
        let permit = match self.permit.take() {
            Some(permit) => permit,
            None => match self.local_slot().await? {
                Some(permit) if !passed(self.task, self.context.now_ms()) => permit,
                other => {
                    self.context.held.remove(&claim);
                    self.release(&claim).await;
                    return Ok(if other.is_some() { Placed::Ends(None) } else { Placed::GiveBack });
                }
            },
        };
        Ok(Placed::Here(Slot { claim, permit: Some(permit) }))
    }

    /// `None`: the worker drains, or it has waited for too long.
    async fn local_slot(&self) -> Result<Option<Permit>, Abandoned> {
        loop {
            let mut line = self.context.slots.wait_for_slot(self.task.priority);
            let handed = tokio::select! {
                biased;
                () = self.context.stop.now.cancelled() => return Err(Abandoned),
                handed = line.handed() => handed,
                () = self.context.stop.gently.cancelled() => return Ok(None),
                () = tokio::time::sleep(self.context.options.unacked.saturating_sub(self.in_hand.received.elapsed())) => return Ok(None),
            };
            if let Some(Handed::Slot(permit, _)) = handed {
                return Ok(Some(permit));
            }
        }
    }

    /// The strategy chose another GPU, and its slot is offered.
    async fn forward(&mut self, claim: Claim) -> Result<Step, Abandoned> {
        self.permit = None;
        let queue = Queue::Gpu(claim.gpu_id.clone());
        match self.send_to(queue, "forward").await? {
            Sent::There => Ok(Step::Done(Placed::Sent)),
            Sent::Unsendable => Ok(self.unsendable()),
            Sent::NoQueue => {
                self.release(&claim).await;
                self.rest("the chosen GPU has no queue any more").await
            }
        }
    }

    /// It fits only elsewhere, where no slot is free: it waits there, so that it stands in nobody's way here.
    async fn wait_at(&mut self, gpu_id: GpuId) -> Result<Step, Abandoned> {
        self.permit = None;
        match self.send_to(Queue::Gpu(gpu_id), "wait_there").await? {
            Sent::There => Ok(Step::Done(Placed::Sent)),
            Sent::Unsendable => Ok(self.unsendable()),
            Sent::NoQueue => self.rest("the fitting GPU has no queue any more").await,
        }
    }

    /// It came on this GPU's own queue and cannot run here now.
    async fn back_to_pool(&mut self) -> Result<Step, Abandoned> {
        self.send_away(Queue::Pool(self.context.options.pool.clone()), "back_to_pool").await
    }

    /// Somebody else runs it: it waits out the rest of that lease, at no cost to the task.
    async fn park(&mut self, lease: Duration) -> Result<Step, Abandoned> {
        self.permit = None;
        let context = self.context;
        let mut outgoing = self.outgoing(Queue::retry_after(lease), 0);
        outgoing.envelope.headers.copy = self.in_hand.is_copy();
        outgoing.envelope.expiration = Some(lease.as_millis().max(1).to_string());
        let sent = onward::send(context, outgoing).await?;
        self.sent_away(sent, "held_elsewhere").await
    }

    async fn unplaceable(&mut self, why: Unplaceable) -> Result<Step, Abandoned> {
        let reason = match &why {
            Unplaceable::NothingFits { wanted } => format!("no living GPU fits: {wanted}"),
            Unplaceable::GpuAway { gpu_id } => format!("GPU {gpu_id} is away or takes no tasks"),
            Unplaceable::GpuUnknown { gpu_id } if self.was_announced(gpu_id).await? => format!("GPU {gpu_id} is away"),
            Unplaceable::GpuUnknown { gpu_id } => return self.unknown(gpu_id).await,
        };
        tracing::info!(task_id = %self.task.id, kind = %self.task.kind, reason, "unplaceable");
        if let Err(error) = self.context.store.waits_for(&self.task.id, &self.task.kind, &reason).await {
            tracing::debug!(task_id = %self.task.id, %error, "the reason was not noted");
        }
        self.send_away(Queue::Unplaceable, "unplaceable").await
    }

    /// Fails the task, once the table is steady: where it was emptied and the store with it, living GPUs are known again within a lease.
    async fn unknown(&mut self, gpu_id: &GpuId) -> Result<Step, Abandoned> {
        let (context, pool) = (self.context, &self.context.options.pool);
        let steady = persist(&context.environment, &context.stop.now, || context.table.steady(pool)).await?;
        let missing = context.options.lease.saturating_sub(steady.unwrap_or(context.options.lease));
        if missing.is_zero() {
            return Ok(Step::Done(Placed::Ends(Some(unknown_gpu(gpu_id)))));
        }
        self.permit = None;
        pause_or_abandon(&context.stop.now, missing).await?;
        Ok(Step::Again(None))
    }

    /// The table may have been emptied; the store remembers every GPU that ever announced itself.
    async fn was_announced(&self, gpu_id: &GpuId) -> Result<bool, Abandoned> {
        let context = self.context;
        let announced = persist(&context.environment, &context.stop.now, || context.store.announced()).await?;
        Ok(announced.is_ok_and(|all| all.iter().any(|known| known.gpu_id == *gpu_id)))
    }

    async fn send_away(&mut self, queue: Queue, reason: &str) -> Result<Step, Abandoned> {
        self.permit = None;
        let outgoing = self.outgoing(queue, 0);
        let sent = onward::send(self.context, outgoing).await?;
        self.sent_away(sent, reason).await
    }

    async fn sent_away(&mut self, sent: Sent, reason: &str) -> Result<Step, Abandoned> {
        match sent {
            Sent::There => {
                self.context.metrics.forwarded(reason);
                Ok(Step::Done(Placed::Sent))
            }
            Sent::Unsendable => Ok(self.unsendable()),
            Sent::NoQueue => self.rest("a queue of the topology is missing").await,
        }
    }

    /// To another GPU's queue, which is a hop.
    async fn send_to(&self, queue: Queue, reason: &str) -> Result<Sent, Abandoned> {
        let sent = onward::send(self.context, self.outgoing(queue, 1)).await?;
        if sent == Sent::There {
            self.context.metrics.forwarded(reason);
        }
        Ok(sent)
    }

    fn outgoing(&self, queue: Queue, hops: u32) -> Outgoing {
        let context = self.context;
        let mut envelope = onward::envelope(self.in_hand, self.task, &context.options.pool, context.now_ms());
        envelope.headers.hops = Some(self.task.hops.saturating_add(hops));
        envelope.headers.returned = !matches!(queue, Queue::Gpu(_));
        onward::to(queue, envelope, self.in_hand.body.clone())
    }

    fn unsendable(&self) -> Step {
        let error =
            TaskError::new("invalid_task", "the broker does not take the message on to another queue; are its properties too long?");
        Step::Done(Placed::Ends(Some(error)))
    }

    /// Waits in hand for a slot here; a pool task looks elsewhere again once its patience ends.
    async fn wait_in_hand(&mut self) -> Result<Step, Abandoned> {
        self.permit = None;
        let mut request = self.request();
        request.mode = ClaimMode::Here;
        let mut line = self.context.slots.wait_for_claim(self.task.priority, request);
        let handed = self.stand(&mut line).await?;
        let handed = match handed {
            Some(handed) => Some(handed),
            None => line.leave().await,
        };
        Ok(match handed {
            Some(Handed::Slot(permit, answer)) => {
                self.permit = Some(permit);
                Step::Again(answer)
            }
            Some(Handed::Answer(answer)) => Step::Again(Some(answer)),
            None => {
                self.mode = self.patient_mode();
                Step::Again(None)
            }
        })
    }

    async fn stand(&self, line: &mut InLine) -> Result<Option<Handed>, Abandoned> {
        tokio::select! {
            biased;
            () = self.context.stop.now.cancelled() => Err(Abandoned),
            handed = line.handed() => Ok(handed),
            () = self.context.stop.gently.cancelled() => Ok(None),
            () = tokio::time::sleep(self.patience()) => Ok(None),
        }
    }

    /// Until the next look: the patience, or the deadline if that is sooner.
    fn patience(&self) -> Duration {
        let patience = self.context.options.in_hand_patience;
        let left = self.task.start_before_ms.map(|deadline| Duration::from_millis(deadline.saturating_sub(self.context.now_ms()).max(1)));
        left.map_or(patience, |left| left.min(patience))
    }

    fn patient_mode(&self) -> ClaimMode {
        match self.in_hand.queue {
            Queue::Gpu(_) => ClaimMode::Here,
            _ if self.task.hops >= HOPS_MAX => ClaimMode::TasksWaiting,
            _ => ClaimMode::Choose,
        }
    }

    /// Nothing can be done right now: a short pause, then the question again.
    async fn rest(&mut self, why: &str) -> Result<Step, Abandoned> {
        self.permit = None;
        let pause = self.backoff.next(&self.context.environment);
        tracing::debug!(task_id = %self.task.id, why, pause_ms = pause.as_millis(), "asks again");
        self.context.nudge.notify_one();
        pause_or_abandon(&self.context.stop.now, pause).await?;
        Ok(Step::Again(None))
    }

    /// The table says that nothing fits although this GPU would: it has lost this worker's row (or has not got it yet).
    fn row_is_missing(&self) -> bool {
        !self.asked_for_beat && self.fits_here()
    }

    /// The table does not know yet that this GPU takes no tasks: until it does, the task would come straight back.
    async fn tell_the_table(&mut self) -> Result<(), Abandoned> {
        self.permit = None;
        let seen = self.context.beats.now();
        self.context.nudge.notify_one();
        tokio::time::timeout(self.context.options.lease, beats_above(self.context, seen)).await.unwrap_or(Ok(()))
    }

    async fn beat_and_ask_again(&mut self) -> Result<Step, Abandoned> {
        self.asked_for_beat = true;
        let seen = self.context.beats.now();
        self.context.nudge.notify_one();
        beats_above(self.context, seen).await?;
        Ok(Step::Again(None))
    }

    async fn release(&self, claim: &Claim) {
        if let Err(error) = self.context.table.release(claim).await {
            tracing::debug!(task_id = %claim.task_id, %error, "not released; the offer lapses by itself");
        }
    }

    /// Gives back what an answer holds, when it is not used.
    async fn let_go(&mut self, answer: Option<ClaimAnswer>) {
        if let Some(ClaimAnswer::Own(claim) | ClaimAnswer::Other(claim)) = answer {
            self.release(&claim).await;
        }
        self.permit = None;
    }
}

/// Waits until the table has taken more than `seen` heartbeats of this worker, consuming.
async fn beats_above(context: &Context, seen: u64) -> Result<(), Abandoned> {
    tokio::select! {
        biased;
        () = context.stop.now.cancelled() => Err(Abandoned),
        () = context.beats.above(seen) => Ok(()),
    }
}

fn unknown_gpu(gpu_id: &GpuId) -> TaskError {
    let message = format!("the fleet never knew a GPU {gpu_id}; `gpufleet gpus` lists those that it knows");
    TaskError { code: "unknown_gpu".to_owned(), message, field: Some("gpu_options.specific_gpu_id".to_owned()) }
}

const fn name(answer: &ClaimAnswer) -> &'static str {
    match answer {
        ClaimAnswer::Own(_) => "own",
        ClaimAnswer::Other(_) => "other",
        ClaimAnswer::Full { .. } => "full",
        ClaimAnswer::Held { .. } => "held",
        ClaimAnswer::Unplaceable(_) => "unplaceable",
        ClaimAnswer::NotHere => "not_here",
    }
}
