//! Where a task goes: a slot here, another queue, or an end without a run.

mod telling;
mod tensors;

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use gpu_table::eligibility::{fits, has_memory_now, is_within_thresholds};
use protocol::{Choice, ClaimAnswer, ClaimMode, ClaimRequest, ErrorCode, GpuId, Holding, Strategy, Task, TaskError, Unplaceable};
use task_queue::Queue;
use task_store::{Begin, Verdict};
use tokio::time::Instant;

use super::{
    begun::{self, Unsettled},
    needs,
    slots::Slot,
    unserved::{Fate, Rest},
};
use crate::{
    context::Context,
    data::asked::AskedTensors,
    delivery::{InHand, credits::Waits},
    disposition::{Disposition, Onward},
    ports::{Abandoned, Backoff},
};

/// After so many forwards a task stays where it fits.
const HOPS_MAX: u32 = 3;
/// For so long at least a task waits where its model is.
const WAITS_FOR_MODEL_MIN: Duration = Duration::from_secs(1);

/// A slot of this GPU, and the strategy that chose it.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) slot: Slot,
    pub(crate) choice: Choice,
    /// What the store said of the beginning, where it was asked in the same trip as the table.
    pub(crate) begun: Option<(Unsettled, Begin)>,
}

/// Where a task goes.
#[derive(Debug)]
pub(crate) enum Placement<'t> {
    /// Here.
    Here(Placed),
    /// Nowhere, or somewhere else.
    Not(Disposition<'t>),
}

/// Whether this GPU can run the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Here {
    /// Now, if it has a slot.
    Now,
    /// Not while so much of its memory, or so much of it by others, is in use.
    Later,
    /// It does not fit, or this GPU takes no tasks.
    No,
}

/// Waits until the task's queue deadline passes; for ever if it has none.
pub(crate) async fn deadline(context: &Context, task: &Task) {
    match task.start_before_ms {
        Some(deadline) => tokio::time::sleep(Duration::from_millis(deadline.saturating_sub(context.ports.now_ms()))).await,
        None => std::future::pending().await,
    }
}

/// The placing of one task, across the tries that its life makes.
pub(crate) struct Placing<'t> {
    context: &'t Context,
    task: &'t Task,
    in_hand: &'t InHand,
    request: ClaimRequest,
    /// What became of its former holder, where that is known.
    verdict: Option<Verdict>,
    /// The slot of the task that this one was fetched to follow.
    follows_in: Option<Slot>,
    /// Tasks wait: the next slot that becomes free will do, before anybody is asked.
    next_slot_will_do: bool,
    own_queue: bool,
    /// The strategy that chose this GPU, where the task was forwarded to it.
    forwarded_by: Option<Strategy>,
    /// Since when no living GPU can run it, in Unix milliseconds, where that was found before. A delivery that comes again may have been placed meanwhile: its wait begins anew.
    unserved_since_ms: Option<u64>,
    /// What it asks of tensors.
    tensors: Option<Arc<AskedTensors>>,
    /// The model that it is about, and for how long it waits here for the sake of it, as far as that is known.
    model: Option<String>,
    waits_for_model: Option<Duration>,
    /// For how long it waits for the sake of its tensors, as far as that is known: as long as to bring them elsewhere takes.
    waits_for_data: Option<Duration>,
    /// Since when it looks for a place: what is given back for its age gave way to nobody before.
    since: Instant,
    backoff: Backoff,
    asked_for_beat: bool,
}

impl<'t> Placing<'t> {
    /// Of a task in hand. `follows_in`: the slot of the task that it was fetched to follow, if it was.
    pub(crate) fn new(context: &'t Context, in_hand: &'t InHand, task: &'t Task, follows_in: Option<Slot>) -> Self {
        let own_queue = matches!(in_hand.queue, Queue::Gpu(_));
        if own_queue {
            context.slots.offer_taken(&task.id);
        }
        let tasks_wait = in_hand.waits == Waits::Tasks || task.hops >= HOPS_MAX;
        // The slices of a batch fill the slots that are there: a hop would only cost time.
        let request = request(context, task, tasks_wait || task.slice().is_some());
        let tensors = AskedTensors::of(&context.gpu.executors, task);
        // One that names tensors always asks: a GPU that has them may be worth the hop, and one that is missing must not cost a slot.
        let names_tensors = tensors.as_ref().is_some_and(|asked| !asked.references.is_empty());
        Self {
            model: request.needs.model.clone().filter(|_| request.specific_gpu_id.is_none()),
            request,
            next_slot_will_do: tasks_wait && !names_tensors,
            tensors,
            waits_for_model: None,
            waits_for_data: None,
            context,
            task,
            in_hand,
            verdict: None,
            follows_in,
            forwarded_by: in_hand.envelope.headers.strategy.as_deref().filter(|_| own_queue).and_then(|name| name.parse().ok()),
            own_queue,
            unserved_since_ms: in_hand.envelope.headers.unserved_since_ms.filter(|_| !in_hand.redelivered),
            since: in_hand.received,
            backoff: Backoff::default(),
            asked_for_beat: false,
        }
    }

    /// The time until now went into a look at a former holder, whose answer must not be lost: the patience begins anew.
    pub(crate) fn begin_anew(&mut self, verdict: Verdict) {
        self.since = Instant::now();
        self.verdict = Some(verdict);
        self.unserved_since_ms = None;
    }

    /// Behind one long run it would wait where its model is, or its tensors, while another GPU idles: the table goes by what runs usually take. After as long as a cold load takes, any GPU will do; every second
    /// question still prefers one that has the model. After as long as it takes to bring the tensors, they weigh no more.
    fn look_elsewhere_in_time(&mut self) {
        if self.has_waited_for_data() {
            self.own_queue = false;
        }
        let Some(longest) = self.waits_for_model() else { return };
        if self.since.elapsed() >= longest {
            self.own_queue = false;
            self.request.needs.model = if self.request.needs.model.is_some() { None } else { self.model.clone() };
        }
    }

    /// For how long it waits here for its model: no longer than to load it takes. `None`: it has none, or may run nowhere else.
    fn waits_for_model(&mut self) -> Option<Duration> {
        let model = self.model.as_deref()?;
        if self.waits_for_model.is_none() {
            self.waits_for_model = self.context.gpu.executors.load_time(model).map(|time| time.max(WAITS_FOR_MODEL_MIN));
        }
        self.waits_for_model
    }

    /// What became of its former holder, where that is known.
    pub(crate) const fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Finds its place.
    pub(crate) async fn place(&mut self) -> Result<Placement<'t>, Abandoned> {
        loop {
            if self.task.start_before_ms.is_some_and(|deadline| deadline <= self.context.ports.now_ms()) {
                return Ok(Placement::Not(Disposition::expired()));
            }
            // Given back after a long wait, it takes its old place, and the broker's patience with it begins anew.
            if self.context.stops() || self.since.elapsed() >= self.context.me.options.unacked {
                return Ok(Placement::Not(Disposition::GiveBack));
            }
            self.look_elsewhere_in_time();
            let placed = if self.own_queue { self.on_arrival().await? } else { self.out_of_the_pool().await? };
            if let Some(placement) = placed {
                return Ok(placement);
            }
        }
    }

    /// Nothing can be done right now: a short pause, then the question again.
    pub(crate) async fn rest(&mut self, why: &str) -> Result<(), Abandoned> {
        let pause = self.backoff.next(&self.context.ports.environment);
        tracing::debug!(task_id = %self.task.id, why, pause_ms = pause.as_millis(), "asks again");
        self.tell_if_long(|| why.to_owned());
        self.context.signals.nudge.notify_one();
        self.context.ports.pause(pause).await
    }

    /// A task that was forwarded here: this worker decides alone, since the local count has the last word.
    async fn on_arrival(&mut self) -> Result<Option<Placement<'t>>, Abandoned> {
        match self.here() {
            Here::No if self.row_is_missing() => self.beat_and_ask_again().await,
            Here::No => {
                let takes = *self.context.signals.taking.borrow();
                if !takes || self.kind_is_down() {
                    // As in `own`; and the table may have heard that this GPU takes tasks again before its worker did.
                    self.context.signals.beat_now(self.context.me.options.lease).await;
                }
                if takes || self.here() == Here::No { self.back_to_pool().await } else { Ok(None) }
            }
            Here::Later => self.rest("its memory is in use").await.map(|()| None),
            Here::Now => {
                // Where they are is what the run asks next, and it may be long ago that it was asked.
                if self.names_tensors()
                    && let ControlFlow::Break(placed) = Box::pin(self.find_tensors()).await?
                {
                    return Ok(placed);
                }
                let line = self.context.slots.wait_for_offered(self.task.priority);
                self.stand(line).await
            }
        }
    }

    async fn out_of_the_pool(&mut self) -> Result<Option<Placement<'t>>, Abandoned> {
        let follows_in = self.follows_in.take();
        let here = if self.next_slot_will_do { self.here() } else { Here::No };
        if here != Here::Now {
            drop(follows_in);
            self.next_slot_will_do = false;
            return self.claim().await;
        }
        if let Some(slot) = follows_in.or_else(|| self.context.slots.take_kept()) {
            return Ok(Some(self.placed(slot)));
        }
        self.next_slot_will_do = false;
        if self.context.slots.has_free() {
            return self.claim().await;
        }
        // Tasks wait and every slot here is busy: the next one that ends passes its slot on. Asking the table now could only find the moment between two tasks of another GPU, and
        // pay a hop to fill it.
        self.wait_in_hand().await
    }

    /// Whether this GPU can run the task, by what the table was last told of it.
    fn here(&self) -> Here {
        let Some(row) = self.context.signals.row() else { return Here::No };
        let settings = self.context.signals.settings.borrow();
        if !fits(&row, &settings, &self.request) || !self.takes_tasks() {
            return Here::No;
        }
        if is_within_thresholds(&row, &settings) && has_memory_now(&row, &self.request.needs, &settings) { Here::Now } else { Here::Later }
    }

    fn takes_tasks(&self) -> bool {
        self.may_begin() && *self.context.signals.taking.borrow()
    }

    /// Whether an attempt of the task may begin here now. Its kind may have gone down since the row was written that still names it.
    fn may_begin(&self) -> bool {
        self.context.gpu.health.takes_tasks() && !self.kind_is_down()
    }

    fn kind_is_down(&self) -> bool {
        self.context.gpu.executors.is_down(&self.task.kind)
    }

    fn placed(&self, slot: Slot) -> Placement<'t> {
        let requested = self.request.strategy.as_deref();
        let choice = match self.forwarded_by {
            Some(used) => Choice::made_by(used, requested),
            None => {
                let settings = self.context.signals.settings.borrow();
                Choice::resolve(requested, settings.default_strategy, &settings.strategies)
            }
        };
        Placement::Here(Placed { slot, choice, begun: None })
    }

    /// Asks the table, once it knows that this worker consumes.
    async fn claim(&mut self) -> Result<Option<Placement<'t>>, Abandoned> {
        let context = self.context;
        known_to_the_table(context).await?;
        // Boxed, as it is rare.
        if self.names_tensors()
            && let ControlFlow::Break(placed) = Box::pin(self.find_tensors()).await?
        {
            return Ok(placed);
        }
        let question = tokio::select! {
            biased;
            () = context.ports.stop.now.cancelled() => return Err(Abandoned),
            question = context.slots.ask() => question,
        };
        (self.request.has_slot, self.request.holding) = (question.has_slot(), question.holding());
        // Where another delivery of it has begun here, the claim alone is asked for, and the beginning finds that out.
        let unsettled = if question.has_slot() { context.begun.add(&self.task.id, self.in_hand.id) } else { None };
        let begin = unsettled.as_ref().map(|_| begun::request(context, (self.task, self.in_hand), self.verdict));
        let asked = Instant::now();
        let (answer, begun) = context.ports.claim(&self.request, begin.as_ref()).await?;
        context.metrics.claim_seconds.observe(asked.elapsed().as_secs_f64());
        context.metrics.claimed(name(&answer));
        let ClaimAnswer::Own(choice) = answer else {
            question.not_given();
            return self.not_here(answer).await;
        };
        match question.given() {
            Some(slot) => self.own(choice, slot, unsettled.zip(begun)).await,
            // Without a slot of its own the table gives it none.
            None => self.wait_in_hand().await,
        }
    }

    async fn own(&mut self, choice: Choice, slot: Slot, begun: Option<(Unsettled, Begin)>) -> Result<Option<Placement<'t>>, Abandoned> {
        if self.may_begin() {
            return Ok(Some(Placement::Here(Placed { slot, choice, begun })));
        }
        drop(slot);
        if let Some((_unsettled, Begin::Begun(token))) = begun {
            self.context.ports.hand_back(&self.task.id, token).await;
        }
        // The table does not know yet that this GPU takes no tasks, or none of the kind: until it does, the task would come straight back.
        self.context.signals.beat_now(self.context.me.options.lease).await;
        self.back_to_pool().await
    }

    async fn not_here(&mut self, answer: ClaimAnswer) -> Result<Option<Placement<'t>>, Abandoned> {
        match answer {
            ClaimAnswer::Other(offer) => {
                let (task, queue, reason) = (self.task, Queue::Gpu(offer.gpu_id.clone()), "forward");
                let onward = Onward { task, queue, reason, offer: Some(offer), among: self.among(), unserved_since_ms: None };
                Ok(Some(Placement::Not(Disposition::SendOn(onward))))
            }
            ClaimAnswer::Own(_) | ClaimAnswer::Full { fits_here: true, .. } => self.wait_in_hand().await,
            // It fits only elsewhere, where no slot is free: it waits there, so that it stands in nobody's way here.
            ClaimAnswer::Full { elsewhere: Some(gpu_id), .. } => self.away(Queue::Gpu(gpu_id), "wait_there"),
            ClaimAnswer::Full { elsewhere: None, .. } => self.rest("no GPU that fits has a free slot").await.map(|()| None),
            ClaimAnswer::Unplaceable(Unplaceable::NothingFits { .. }) if self.row_is_missing() => self.beat_and_ask_again().await,
            ClaimAnswer::Unplaceable(why) => self.unplaceable(why).await,
        }
    }

    /// It came on this GPU's own queue, or the table gave it a slot here, and it cannot run here now.
    async fn back_to_pool(&mut self) -> Result<Option<Placement<'t>>, Abandoned> {
        self.away(Queue::Pool(self.context.me.options.pool.clone()), "back_to_pool")
    }

    fn away(&self, queue: Queue, reason: &'static str) -> Result<Option<Placement<'t>>, Abandoned> {
        let onward = Onward { task: self.task, queue, reason, offer: None, among: None, unserved_since_ms: None };
        Ok(Some(Placement::Not(Disposition::SendOn(onward))))
    }

    async fn unplaceable(&mut self, why: Unplaceable) -> Result<Option<Placement<'t>>, Abandoned> {
        let task = self.task;
        let rest = match &why {
            Unplaceable::NothingFits { .. } => match self.context.unserved.judge(task, &self.request, self.unserved_since_ms).await {
                Fate::Rests(rest) => rest,
                Fate::Fails(error) => {
                    tracing::debug!(task_id = %task.id, kind = %task.kind, error = error.message, "unserved for too long");
                    return Ok(Some(Placement::Not(Disposition::fails(error))));
                }
            },
            Unplaceable::GpuAway { gpu_id } => Rest::short(None, format!("GPU {gpu_id} is away or takes no tasks")),
            Unplaceable::GpuUnknown { gpu_id } if self.was_announced(gpu_id).await? => Rest::short(None, format!("GPU {gpu_id} is away")),
            Unplaceable::GpuUnknown { gpu_id } => return self.unknown(gpu_id).await,
        };
        Ok(Some(self.waits_apart(rest).await))
    }

    /// It rests in a queue, and its status says what it waits for.
    async fn waits_apart(&self, Rest { queue, since_ms, reason, is_unserved }: Rest) -> Placement<'t> {
        let task = self.task;
        self.tell_apart(&reason, is_unserved);
        tracing::debug!(task_id = %task.id, kind = %task.kind, reason, "unplaceable");
        // Other slices of its batch may run: the batch as a whole does not wait for this.
        if task.slice().is_none()
            && let Err(error) = self.context.ports.store.waits_for(&task.id, &task.kind, &reason).await
        {
            tracing::debug!(task_id = %task.id, %error, "the reason was not noted");
        }
        let reason = "unplaceable";
        Placement::Not(Disposition::SendOn(Onward { task, queue, reason, offer: None, among: None, unserved_since_ms: since_ms }))
    }

    /// Fails the task, once the table is steady: where it was emptied and the store with it, living GPUs are known again within a lease.
    async fn unknown(&mut self, gpu_id: &GpuId) -> Result<Option<Placement<'t>>, Abandoned> {
        let options = &self.context.me.options;
        let missing = options.lease.saturating_sub(self.context.ports.steady(&options.pool).await?);
        if missing.is_zero() {
            return Ok(Some(Placement::Not(Disposition::fails(unknown_gpu(gpu_id)))));
        }
        self.context.ports.pause(missing).await.map(|()| None)
    }

    /// The table may have been emptied; the store remembers every GPU that ever announced itself.
    async fn was_announced(&self, gpu_id: &GpuId) -> Result<bool, Abandoned> {
        Ok(self.context.ports.announced().await?.iter().any(|known| known.gpu_id == *gpu_id))
    }

    /// Waits in hand for a slot here; once its patience ends, the table is asked whether another GPU has one.
    async fn wait_in_hand(&mut self) -> Result<Option<Placement<'t>>, Abandoned> {
        let line = self.context.slots.wait_for_freed(self.task.priority);
        let placed = self.stand(line).await?;
        if placed.is_none() {
            self.tell_if_long(|| format!("every slot of GPU {} is busy, and it waits there", self.context.me.gpu_id));
        }
        if placed.is_none() && self.task.hops < HOPS_MAX {
            self.request.mode = ClaimMode::Choose;
        }
        Ok(placed)
    }

    /// Stands in line until a slot comes, or the patience ends.
    async fn stand(&mut self, mut line: super::slots::InLine) -> Result<Option<Placement<'t>>, Abandoned> {
        let patience = self.patience();
        let slot = tokio::select! {
            biased;
            () = self.context.ports.stop.now.cancelled() => return Err(Abandoned),
            slot = line.slot() => slot,
            () = self.context.ports.stop.gently.cancelled() => return Ok(None),
            () = tokio::time::sleep(patience) => return Ok(None),
        };
        // Much may have changed meanwhile.
        Ok((self.here() == Here::Now && !self.is_late()).then(|| self.placed(slot)))
    }

    fn is_late(&self) -> bool {
        self.task.start_before_ms.is_some_and(|deadline| deadline <= self.context.ports.now_ms())
    }

    /// Until the next look: the patience, or the deadline, or the end of the wait for its model or its tensors, if that is sooner.
    fn patience(&mut self) -> Duration {
        let waited = self.since.elapsed();
        let for_model = self.waits_for_model().filter(|longest| *longest > waited).map(|longest| longest - waited);
        let for_data = self.waits_for_data.filter(|longest| *longest > waited).map(|longest| longest - waited);
        let waits_for = for_model.into_iter().chain(for_data).min().unwrap_or(Duration::MAX);
        let patience = self.context.me.options.in_hand_patience.min(waits_for);
        let left =
            self.task.start_before_ms.map(|deadline| Duration::from_millis(deadline.saturating_sub(self.context.ports.now_ms()).max(1)));
        left.map_or(patience, |left| left.min(patience))
    }

    /// Nothing fits although this GPU would: the table has lost this worker's row (or has not got it yet).
    fn row_is_missing(&self) -> bool {
        !self.asked_for_beat
            && self.context.signals.row().is_none_or(|row| fits(&row, &self.context.signals.settings.borrow(), &self.request))
            && self.takes_tasks()
    }

    async fn beat_and_ask_again(&mut self) -> Result<Option<Placement<'t>>, Abandoned> {
        self.asked_for_beat = true;
        let seen = self.context.signals.beats.now();
        self.context.signals.nudge.notify_one();
        tokio::select! {
            biased;
            () = self.context.ports.stop.now.cancelled() => Err(Abandoned),
            () = self.context.signals.beats.above(seen) => Ok(None),
        }
    }
}

/// Waits until the table knows that this worker consumes.
pub(crate) async fn known_to_the_table(context: &Context) -> Result<(), Abandoned> {
    if context.signals.beats.now() > 0 {
        return Ok(());
    }
    tokio::select! {
        biased;
        () = context.ports.stop.now.cancelled() => Err(Abandoned),
        () = context.signals.beats.above(0) => Ok(()),
    }
}

/// What the table is asked for the task.
pub(crate) fn request(context: &Context, task: &Task, tasks_wait: bool) -> ClaimRequest {
    ClaimRequest {
        pool: context.me.options.pool.clone(),
        task_id: task.id.clone(),
        kind: task.kind.clone(),
        needs: needs::needs(context, task),
        specific_gpu_id: task.body.gpu_options.specific_gpu_id.clone(),
        strategy: task.body.gpu_options.strategy.clone(),
        asker: context.me.gpu_id.clone(),
        incarnation: context.me.incarnation.clone(),
        holding: Holding::default(),
        has_slot: false,
        mode: if tasks_wait { ClaimMode::TasksWaiting } else { ClaimMode::Choose },
        data: None,
    }
}

fn unknown_gpu(gpu_id: &GpuId) -> TaskError {
    let message = format!("the fleet never knew a GPU {gpu_id}; `gpufleet gpus` lists those that it knows");
    TaskError::new(ErrorCode::UnknownGpu, message).at("gpu_options.specific_gpu_id")
}

const fn name(answer: &ClaimAnswer) -> &'static str {
    match answer {
        ClaimAnswer::Own(_) => "own",
        ClaimAnswer::Other(_) => "other",
        ClaimAnswer::Full { .. } => "full",
        ClaimAnswer::Unplaceable(_) => "unplaceable",
    }
}
