//! Submit tasks to a gpufleet, await their replies, ask for their status.
//!
//! [`Producer::submit`] publishes a task and returns once the broker has it. [`Producer::submit_and_wait`] also waits for the reply;
//! [`Producer::pending`] gives the waiting as a future of its own; [`Producer::submit_many`] and [`Producer::submit_and_wait_many`] keep a
//! bounded number in flight. A task that asks for its progress ([`NewTask::progress`]) offers it beside its reply ([`Pending::progress`]).
//!
//! Tasks that carry the name of a group ([`NewTask::group`]) are watched, counted, cancelled and waited for together: [`Producer::groups`], [`Producer::group_ended`].
//! A task may carry many payloads ([`NewTask::batch`]): its reply has a result for each. They can also be read in pieces ([`Producer::results`]), while the batch runs too.
//!
//! [`Producer::dead_letters`] is for operators: what could not be a task, or was given up, is shown, submitted once more or let go.
//!
//! Nobody needs this library to be a producer: any AMQP client publishes the message that `schemas/asyncapi.yaml` describes.
//!
//! ```text
//!  submit_and_wait ──► note `waiting` in the store ──► publish, confirmed ──► Pending ◄── dispatcher ◄── exclusive reply queue
//!                                                                                ▲
//!                                                                                └── poller ◄── stored reply (reply queue lost, or long silence)
//! ```

mod dead;
mod delaying;
mod error;
mod groups;
mod item_set;
mod listener;
mod many;
mod new_task;
mod options;
mod pace;
mod pending;
mod poller;
mod producer;
mod progress;
mod results;
mod steps;
mod traces;
mod waiters;

pub use dead::DeadLetters;
pub use error::{DeadLetterError, SubmitError, WaitError};
pub use groups::{GroupPace, Groups, GroupsError, GroupsPage};
pub use item_set::ItemSet;
pub use many::Many;
pub use new_task::{NewTask, ReplyTo, Submitted};
pub use options::ProducerOptions;
pub use pace::{Pace, Patience};
pub use pending::Pending;
pub use producer::Producer;
pub use progress::ProgressStream;
pub use results::{ResultsError, WantedResults, results_of};
pub use steps::cancel_asked as tell_cancel_asked;
pub use waiters::Counts;
