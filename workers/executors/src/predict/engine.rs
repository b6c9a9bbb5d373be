//! The texts that are in hand, generated together over one model.
//!
//! A thread takes all of them a token further in each step; a text that ends leaves, and one that waits joins, between two steps. Those that wait join in the order in which they came.
//! The thread lives while there is work: nothing stays behind when the last text is done.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::sync::oneshot;

use super::{
    GenerateError, Generated, Model, Request, Watch,
    sequence::{Sequence, step},
};

/// How many texts are generated together. More would gain little: by then the arithmetic takes longer than reading the weights.
pub(super) const TEXTS_AT_ONCE: usize = 16;

/// How much the texts together may come to remember, in bytes. One that needs more by itself runs alone.
const MEMORY_MAX: usize = 2 << 30;

/// What a text comes to, or why there is none.
pub(super) type Answer = Result<Generated, GenerateError>;

/// The texts of one model. Those that wait are bounded by the slots of the workers that hold it.
pub(super) struct Engine {
    model: Arc<Model>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    /// A thread looks here before it ends.
    has_thread: bool,
}

struct Job {
    request: Request,
    watch: Box<dyn Watch + Send>,
    answer: oneshot::Sender<Answer>,
}

/// A text in the making, and who waits for it.
struct Active<'a> {
    answer: oneshot::Sender<Answer>,
    bytes: usize,
    sequence: Sequence<'a>,
}

impl Engine {
    pub(super) fn new(model: Arc<Model>) -> Self {
        Self { model, queue: Mutex::default() }
    }

    pub(super) const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Generates together with what else is in hand. The receiver fails if the thread broke.
    ///
    /// # Errors
    /// There is no thread to be had; the text was not taken.
    pub(super) fn submit(self: &Arc<Self>, request: Request, watch: Box<dyn Watch + Send>) -> io::Result<oneshot::Receiver<Answer>> {
        let (answer, answered) = oneshot::channel();
        let mut queue = self.queue();
        if !queue.has_thread {
            self.start()?;
            queue.has_thread = true;
        }
        queue.waiting.push_back(Job { request, watch, answer });
        Ok(answered)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing that holds it panics half-way through a change.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: &Arc<Self>) -> io::Result<()> {
        let engine = Arc::clone(self);
        let life = move || {
            let mut if_it_breaks = Restart(Some(Arc::clone(&engine)));
            engine.generate();
            if_it_breaks.0 = None;
        };
        thread::Builder::new().name("predict".to_owned()).spawn(life).map(drop)
    }

    fn generate(&self) {
        let mut active: Vec<Active<'_>> = Vec::new();
        while self.admit(&mut active) {
            self.answer_cancelled();
            // Sequences of their own, since a step takes them as one slice; in the same order.
            let (mut others, mut sequences): (Vec<_>, Vec<_>) =
                active.drain(..).map(|active| ((active.answer, active.bytes), active.sequence)).unzip();
            step(&self.model, &mut sequences);
            for ((answer, bytes), sequence) in others.drain(..).zip(sequences) {
                if sequence.is_over() {
                    // Nobody listens where the run was dropped.
                    let _ = answer.send(Ok(sequence.finish()));
                } else {
                    active.push(Active { answer, bytes, sequence });
                }
            }
        }
    }

    /// Lets those that wait join while there is room. Whether there is anything to do; if not, the thread has signed off.
    fn admit<'a>(&'a self, active: &mut Vec<Active<'a>>) -> bool {
        while active.len() < TEXTS_AT_ONCE {
            let held: usize = active.iter().map(|active| active.bytes).sum();
            let job = {
                let mut queue = self.queue();
                let fits = queue.waiting.front().is_some_and(|job| held == 0 || held + self.bytes_of(&job.request) <= MEMORY_MAX);
                let job = if fits { queue.waiting.pop_front() } else { None };
                queue.has_thread = job.is_some() || !active.is_empty();
                job
            };
            let Some(Job { request, watch, answer }) = job else { break };
            match Sequence::new(&self.model, &request, watch) {
                Ok(sequence) => active.push(Active { answer, bytes: self.model.run_bytes(sequence.tokens_max()), sequence }),
                Err(error) => drop(answer.send(Err(error))),
            }
        }
        !active.is_empty()
    }

    /// At most; its tokens are not counted yet.
    fn bytes_of(&self, request: &Request) -> usize {
        self.model.run_bytes((request.text.len() + request.max_length as usize).min(self.model.context()))
    }

    /// Those that need not wait for their turn to be told that they are cancelled.
    fn answer_cancelled(&self) {
        let mut queue = self.queue();
        for _ in 0..queue.waiting.len() {
            let Some(mut job) = queue.waiting.pop_front() else { break };
            if job.watch.goes_on() {
                queue.waiting.push_back(job);
            } else {
                let _ = job.answer.send(Ok(Generated::cancelled_before_it_began()));
            }
        }
    }
}

/// A thread that panicked fails the texts that it had, whose senders it drops, and leaves those that wait to another.
struct Restart(Option<Arc<Engine>>);

impl Drop for Restart {
    fn drop(&mut self) {
        let Some(engine) = self.0.take() else { return };
        let mut queue = engine.queue();
        queue.has_thread = !queue.waiting.is_empty() && engine.start().is_ok();
        if !queue.has_thread {
            queue.waiting.clear();
        }
    }
}
