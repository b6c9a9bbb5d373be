//! The contract of each queue: its arguments, and where its dead letters go. Both back ends declare what stands here and nothing else.

use std::time::Duration;

use protocol::config::QueueType;

use crate::{Outgoing, Queue, QueueOptions, Target};

/// `x-max-priority` of a classic queue: tasks use 0 to 9, anything higher counts as 10.
pub(crate) const PRIORITY_LEVELS_MAX: u8 = 10;

/// A queue as the topology wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Its name.
    pub name: String,
    /// Exclusive to one connection, deleted with its last consumer; otherwise durable.
    pub exclusive: bool,
    /// Whether higher priorities are delivered first.
    pub by_priority: bool,
    /// Where what expires goes; `None`: nowhere.
    pub dead_letters_to: Option<String>,
    /// How long a message stays, whatever its own `expiration`.
    pub ttl: Option<Duration>,
    /// How much it may hold.
    pub bounds: Bounds,
    /// Classic or quorum. Exclusive queues are always classic: a quorum queue cannot be exclusive.
    pub queue_type: QueueType,
    /// How it is reached other than by its name.
    pub binding: Option<Binding>,
}

/// How much a queue may hold. Earlier versions have declared queues without these bounds, and arguments cannot be changed: a queue that exists without any of them
/// is used as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Most ready messages.
    pub length_max: Option<u32>,
    /// Most bytes of the bodies of ready messages.
    pub bytes_max: Option<u64>,
    /// The age at which a message is dropped.
    pub age_max: Option<Duration>,
    /// What becomes of a message for which there is no room.
    pub overflow: Overflow,
}

/// What becomes of a message for which there is no room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// Its publish is refused.
    #[default]
    Refuse,
    /// It comes in, and the oldest ones make room.
    DropOldest,
}

/// A bound as a queue's argument says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Argument {
    /// A number.
    Number(u64),
    /// A word.
    Text(&'static str),
}

impl Overflow {
    const fn argument(self) -> Argument {
        Argument::Text(match self {
            Self::Refuse => "reject-publish",
            Self::DropOldest => "drop-head",
        })
    }
}

impl Bounds {
    /// The arguments that say them; none for no bound.
    pub(crate) fn arguments(&self) -> Vec<(&'static str, Argument)> {
        let age_ms = self.age_max.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let numbers = [("x-max-length", self.length_max.map(u64::from)), ("x-max-length-bytes", self.bytes_max), ("x-message-ttl", age_ms)];
        let mut arguments: Vec<(&'static str, Argument)> =
            numbers.into_iter().filter_map(|(name, number)| Some((name, Argument::Number(number?)))).collect();
        if self.length_max.is_some() || self.bytes_max.is_some() {
            arguments.push(("x-overflow", self.overflow.argument()));
        }
        arguments
    }

    /// Whether a message is refused with which the queue would have so many ready ones, with bodies of so many bytes.
    pub(crate) fn refuses(&self, length: usize, bytes: u64) -> bool {
        self.overflow == Overflow::Refuse && self.is_beyond(length, bytes)
    }

    /// Whether a queue of so many ready messages, with bodies of so many bytes, drops its oldest one.
    pub(crate) fn drops_oldest(&self, length: usize, bytes: u64) -> bool {
        self.overflow == Overflow::DropOldest && self.is_beyond(length, bytes)
    }

    fn is_beyond(&self, length: usize, bytes: u64) -> bool {
        self.length_max.is_some_and(|most| length > most as usize) || self.bytes_max.is_some_and(|most| bytes > most)
    }
}

/// The way to a queue through an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    /// The exchange's name.
    pub exchange: String,
    /// How the exchange chooses.
    pub routes: Routes,
    /// The exchange that takes what this one leads nowhere. Earlier versions have declared it without: then it is used as it is.
    pub alternate: Option<String>,
    /// The routing key under which it leads to the queue.
    pub routing_key: String,
}

/// How an exchange chooses where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Routes {
    /// To the queues that are bound under its routing key.
    ByKey,
    /// To all that are bound.
    Always,
}

impl Plan {
    /// How long a message may stay at most; `None`: for ever.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        [self.ttl, self.bounds.age_max].into_iter().flatten().min()
    }

    /// What is to be said of a queue that exists without its bounds.
    pub(crate) fn without_bounds(&self) -> String {
        let arguments = self.bounds.arguments();
        let wanted: Vec<String> = arguments.iter().map(|(name, value)| format!("{name} {}", value.json().trim_matches('"'))).collect();
        let policy: Vec<String> =
            arguments.iter().map(|(name, value)| format!("\"{}\":{}", name.trim_start_matches("x-"), value.json())).collect();
        let (name, pattern) = (&self.name, self.name.replace('.', "\\."));
        format!(
            "exists without {}, so nothing bounds it; it is used as it is. Delete it when it is empty (a living worker declares it again with its bounds within a minute), \
             or set a policy: rabbitmqctl set_policy --apply-to queues '{name}' '^{pattern}$' '{{{}}}' (AMQP does not show policies: where one says this, all is well)",
            wanted.join(", "),
            policy.join(",")
        )
    }
}

impl Binding {
    /// What is to be said of an exchange that exists without its alternate one.
    pub(crate) fn without_alternate(&self) -> String {
        let (exchange, pattern) = (&self.exchange, self.exchange.replace('.', "\\."));
        let alternate = self.alternate.as_deref().unwrap_or_default();
        format!(
            "exists without alternate-exchange {alternate}, so a task for a pool that does not exist is lost unless it was published as mandatory; it is used as it is. Set a \
             policy: rabbitmqctl set_policy --apply-to exchanges '{exchange}' '^{pattern}$' '{{\"alternate-exchange\":\"{alternate}\"}}' (AMQP does not show policies: where \
             one says this, all is well), or delete the exchange while a worker runs, which declares it again within a minute"
        )
    }
}

impl Argument {
    fn json(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => format!("\"{text}\""),
        }
    }
}

impl Queue {
    /// Where what expires in it goes; `None`: nowhere.
    const fn dead_letters_to(&self) -> Option<Self> {
        match self {
            // A producer's `expiration` counts in each of these.
            Self::Pool(_) | Self::Gpu(_) | Self::Unrouted => Some(Self::Expired),
            Self::Expired | Self::Returned | Self::Dead | Self::Parked | Self::Reply(_) => None,
            // What a broker dead-letters is confirmed by nobody: these are consumed or looked at, and never expire.
            Self::Unplaceable | Self::Retry(_) | Self::Delayed(_) | Self::Undelivered(_) => None,
        }
    }

    /// The queues that take what this one, or the exchange that leads to it, cannot keep. Whoever declares a queue declares these before it: a broker drops what it should
    /// lead to a queue that is not there.
    pub(crate) fn declared_before(&self) -> Vec<Self> {
        let astray = matches!(self, Self::Pool(_)).then_some(Self::Unrouted);
        self.dead_letters_to().into_iter().chain(astray).collect()
    }

    /// How many queues, each of which takes what the next one cannot keep, are to be declared before this one.
    pub(crate) fn rank(&self) -> usize {
        self.declared_before().iter().map(|before| before.rank() + 1).max().unwrap_or(0)
    }
}

impl QueueOptions {
    /// Bounds the life of a message where its queue may be consumed by nobody for good: then it comes back by the broker's own means, and rests on nobody's memory. A
    /// property of the message and not of the queue, whose arguments nobody can change. In a waiting queue nothing expires: there it would be gone.
    pub(crate) fn bound_life(&self, message: &mut Outgoing) {
        match message.target {
            Target::Queue(Queue::Gpu(_)) => message.envelope.lives_at_most(self.gpu_queue_ttl),
            Target::Queue(Queue::Unplaceable | Queue::Retry(_) | Queue::Delayed(_) | Queue::Undelivered(_)) => {
                message.envelope.expiration = None
            }
            Target::Queue(_) | Target::ReplyTo(_) => {}
        }
    }

    /// The contract of `queue`.
    pub(crate) fn plan(&self, queue: &Queue) -> Plan {
        let plain = Plan {
            name: self.names.queue(queue),
            exclusive: false,
            by_priority: false,
            dead_letters_to: queue.dead_letters_to().map(|target| self.names.queue(&target)),
            ttl: None,
            bounds: Bounds::default(),
            queue_type: self.queue_type,
            binding: None,
        };
        match queue {
            Queue::Pool(pool) => {
                let binding = Binding {
                    exchange: self.names.exchange(),
                    routes: Routes::ByKey,
                    alternate: Some(self.names.unrouted_exchange()),
                    routing_key: pool.to_string(),
                };
                let bounds = Bounds { length_max: self.length_max, ..Bounds::default() };
                Plan { by_priority: true, bounds, binding: Some(binding), ..plain }
            }
            Queue::Gpu(_) => Plan { by_priority: true, ..plain },
            Queue::Unrouted => {
                let exchange = self.names.unrouted_exchange();
                let binding = Binding { exchange, routes: Routes::Always, alternate: None, routing_key: String::new() };
                Plan { binding: Some(binding), ..plain }
            }
            Queue::Delayed(_) => {
                let bounds = Bounds { length_max: Some(self.delayed_max), ..Bounds::default() };
                Plan { bounds, ..plain }
            }
            Queue::Parked => Plan { ttl: Some(self.parked_ttl), ..plain },
            Queue::Undelivered(_) => {
                let bounds = Bounds {
                    length_max: Some(self.undelivered_max),
                    bytes_max: Some(self.undelivered_bytes_max),
                    age_max: None,
                    overflow: Overflow::Refuse,
                };
                Plan { bounds, ..plain }
            }
            Queue::Dead => {
                let bounds = Bounds {
                    length_max: Some(self.dead_letters_max),
                    bytes_max: Some(self.dead_letters_bytes_max),
                    age_max: Some(self.dead_letters_ttl),
                    overflow: Overflow::DropOldest,
                };
                Plan { bounds, ..plain }
            }
            Queue::Expired | Queue::Returned | Queue::Unplaceable | Queue::Retry(_) => plain,
            Queue::Reply(_) => Plan { exclusive: true, queue_type: QueueType::Classic, ..plain },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reads_of_a_queue_without_bounds_reads_how_it_gets_them() {
        let options = QueueOptions { dead_letters_max: 7, dead_letters_ttl: Duration::from_secs(60), ..QueueOptions::default() };
        let said = options.plan(&Queue::Dead).without_bounds();
        let policy = r#"'^gpufleet\.dead$' '{"max-length":7,"max-length-bytes":1024000000,"message-ttl":60000,"overflow":"drop-head"}'"#;
        assert!(said.contains("x-max-length 7, x-max-length-bytes 1024000000, x-message-ttl 60000, x-overflow drop-head"), "{said}");
        assert!(said.contains(policy), "{said}");
        let said = options.plan(&Queue::Pool(protocol::PoolName::default())).binding.expect("bound").without_alternate();
        assert!(said.contains(r#"'^gpufleet\.tasks$' '{"alternate-exchange":"gpufleet.unrouted"}'"#), "{said}");
    }
}
