//! Declares queues with the arguments of their contract, and remembers which, so that they can be declared again.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lapin::{
    options::QueueBindOptions,
    types::{FieldTable, ShortString},
};

use super::{
    failure::Failure,
    inspect::Presence,
    line::Kept,
    part::{How, Part},
    spare::Spare,
};
use crate::{Queue, QueueOptions};

/// The queues that this process has declared.
#[derive(Debug)]
pub(super) struct Topology {
    pub(super) options: QueueOptions,
    /// For whatever is asked of the broker that no consumer and no publisher asks.
    pub(super) spare: Spare,
    declared: Mutex<BTreeSet<Queue>>,
    /// What exists without something that this version would give it.
    lacking: Mutex<BTreeSet<String>>,
    /// What could not be declared again when it was last tried, as the log says already.
    failing: Mutex<BTreeSet<Queue>>,
}

impl Topology {
    pub(super) fn new(options: QueueOptions) -> Self {
        Self { options, spare: Spare::default(), declared: Mutex::default(), lacking: Mutex::default(), failing: Mutex::default() }
    }

    pub(super) fn remember(&self, queue: &Queue) {
        self.declared().insert(queue.clone());
    }

    pub(super) fn forget(&self, queue: &Queue) {
        self.declared().remove(queue);
    }

    pub(super) fn has(&self, queue: &Queue) -> bool {
        self.declared().contains(queue)
    }

    /// Every declared queue, each behind those that are to be declared before it.
    pub(super) fn all(&self) -> Vec<Queue> {
        let mut all: Vec<Queue> = self.declared().iter().cloned().collect();
        all.sort_by_cached_key(Queue::rank);
        all
    }

    /// Takes note that a queue cannot be declared again. Whether the log is to say so: not for each try.
    pub(super) fn begins_to_fail(&self, queue: &Queue) -> bool {
        self.failing().insert(queue.clone())
    }

    /// Takes note that a queue was declared again.
    pub(super) fn fails_no_more(&self, queue: &Queue) {
        self.failing().remove(queue);
    }

    fn failing(&self) -> MutexGuard<'_, BTreeSet<Queue>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn declared(&self) -> MutexGuard<'_, BTreeSet<Queue>> {
        self.declared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lacking(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.lacking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares one queue, and where it is reached through an exchange, that one and the binding. What exists without a bound (or an alternate exchange) that it should
    /// have is used as it is, with one warning.
    pub(super) async fn declare(&self, connection: &Arc<Kept>, queue: &Queue) -> Result<(), Failure> {
        let plan = self.options.plan(queue);
        if let Some(binding) = &plan.binding {
            self.declare_part(connection, Part::Exchange(binding)).await?;
        }
        self.declare_part(connection, Part::Queue(&plan)).await?;
        if let Some(binding) = &plan.binding {
            let channel = self.spare.channel(connection).await?;
            let (name, exchange, routing_key) = (short(&plan.name)?, short(&binding.exchange)?, short(&binding.routing_key)?);
            channel.queue_bind(name, exchange, routing_key, QueueBindOptions::default(), FieldTable::default()).await?;
            self.spare.keep(connection, channel);
        }
        Ok(())
    }

    async fn declare_part(&self, connection: &Arc<Kept>, part: Part<'_>) -> Result<(), Failure> {
        let subject = part.subject();
        // The broker notes every refused declaration in its log: what is known to lack something is looked at, and declared once it is gone.
        let known = self.lacking().contains(&subject);
        if known {
            match self.attempt(connection, part, How::Look).await {
                Err(failure) if failure.is_missing() => {}
                looked => return looked,
            }
        }
        let refused = match self.attempt(connection, part, How::Whole).await {
            Err(failure) if part.may_lack(&failure) => failure,
            declared => {
                if declared.is_ok() && known {
                    self.lacking().remove(&subject);
                }
                return declared;
            }
        };
        match self.attempt(connection, part, How::Less).await {
            Ok(()) => {
                if self.lacking().insert(subject.clone()) {
                    tracing::warn!("{subject} {}", part.lack());
                }
                Ok(())
            }
            // It has the argument, with another value.
            Err(failure) if part.may_lack(&failure) => Err(refused),
            Err(failure) => Err(failure),
        }
    }

    /// Compares what exists with the contract, by declaring it: what is equal is left as it is. Declares nothing that is missing (unless somebody deletes it between the two
    /// looks).
    pub(super) async fn compare(&self, connection: &Arc<Kept>, part: Part<'_>) -> Result<Presence, Failure> {
        match self.attempt(connection, part, How::Look).await {
            Err(failure) if failure.is_missing() => return Ok(Presence::Missing),
            looked => looked?,
        }
        let Err(refused) = self.attempt(connection, part, How::Whole).await else { return Ok(Presence::AsWanted) };
        if part.may_lack(&refused) && self.attempt(connection, part, How::Less).await.is_ok() {
            return Ok(Presence::Lacking(part.lack()));
        }
        refused.mismatch().map(Presence::Mismatch).ok_or(refused)
    }

    async fn attempt(&self, connection: &Arc<Kept>, part: Part<'_>, how: How) -> Result<(), Failure> {
        let channel = self.spare.channel(connection).await?;
        part.declare_on(&channel, how).await?;
        self.spare.keep(connection, channel);
        Ok(())
    }
}

/// A name as AMQP has it.
pub(super) fn short(name: &str) -> Result<ShortString, Failure> {
    ShortString::try_new(name).map_err(|_| Failure::Refused { code: 0, text: format!("the name {name:?} has more than 255 bytes") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_cannot_be_declared_is_told_once_until_it_can() {
        let topology = Topology::new(QueueOptions::default());
        let told = [Queue::Expired, Queue::Expired, Queue::Unrouted].map(|queue| topology.begins_to_fail(&queue));
        assert_eq!(told, [true, false, true]);
        topology.fails_no_more(&Queue::Expired);
        assert!(topology.begins_to_fail(&Queue::Expired) && !topology.begins_to_fail(&Queue::Unrouted));
    }

    #[test]
    fn every_queue_stands_behind_those_that_take_what_it_cannot_keep() {
        let topology = Topology::new(QueueOptions::default());
        let declared = [Queue::Pool(protocol::PoolName::default()), Queue::Unrouted, Queue::Expired];
        declared.iter().for_each(|queue| topology.remember(queue));
        let all = topology.all();
        assert_eq!(all.len(), declared.len());
        for (place, queue) in all.iter().enumerate() {
            assert!(queue.declared_before().iter().all(|before| all[..place].contains(before)), "{all:?}");
        }
    }
}
