//! Calls to the server: which operations travel together, which go beside the others, and what their errors mean.

use redis::{Cmd, FromRedisValue, Value, from_redis_value};
use redis_link::{Group, Item, Link, LinkError, ScriptLibrary, ServerId};

use super::{answers::Answer, scripts};
use crate::StoreError;

/// Replies above this many bytes travel beside the quick calls.
const LARGE: usize = 64 << 10;

/// The ways to the store's server. Cheap to clone; clones share the connections.
#[derive(Debug, Clone)]
pub struct Calls {
    link: Link,
    scripts: ScriptLibrary,
    group: Group<ScriptLibrary>,
}

impl Calls {
    pub fn new(link: Link) -> Self {
        let scripts = scripts::library(&link);
        // The time that an operation stands in line counts: the store promises one time limit for all of it.
        Self { group: Group::new(scripts.clone(), link.timeout()), scripts, link }
    }

    /// The server.
    pub const fn server(&self) -> &ServerId {
        self.link.server()
    }

    /// Runs a function, together with whatever else this process has to tell the server at this moment.
    pub async fn run(&self, operation: &'static str, item: Item) -> Result<Answer, StoreError> {
        let large = item.arguments.iter().any(|argument| argument.len() > LARGE);
        let answer = if large { self.scripts.run_large(item).await } else { self.group.run(item).await };
        self.answer(operation, answer)
    }

    /// Runs a function whose answer nobody waits for, with the next call that goes anyway.
    pub fn run_quietly(&self, item: Item) {
        self.group.run_quietly(item);
    }

    /// Runs a function that reads much, beside the quick calls.
    pub async fn run_beside(&self, operation: &'static str, item: Item) -> Result<Answer, StoreError> {
        let answer = self.scripts.run_large(item).await;
        self.answer(operation, answer)
    }

    /// Runs one small, quick command.
    pub async fn query<T: FromRedisValue>(&self, operation: &'static str, command: &Cmd) -> Result<T, StoreError> {
        self.link.query(command).await.map_err(|error| self.failed(operation, error))
    }

    /// Runs one command that carries much or takes long.
    pub async fn query_large<T: FromRedisValue>(&self, operation: &'static str, command: &Cmd) -> Result<T, StoreError> {
        self.link.query_large(command).await.map_err(|error| self.failed(operation, error))
    }

    /// The answer to an operation.
    pub fn answer(&self, operation: &'static str, answer: Result<Value, LinkError>) -> Result<Answer, StoreError> {
        let value = answer.map_err(|error| self.failed(operation, error))?;
        let garbled = |error: redis::ParsingError| StoreError::Garbled { operation, answer: error.to_string() };
        Ok(Answer::new(operation, from_redis_value(value).map_err(garbled)?))
    }

    fn failed(&self, operation: &'static str, error: LinkError) -> StoreError {
        match error {
            LinkError::Garbled(answer) | LinkError::Scattered(answer) => StoreError::Garbled { operation, answer },
            LinkError::Away(reason) => StoreError::Unavailable { operation, url: self.link.url().to_owned(), reason },
            refused @ LinkError::Refused(_) => {
                StoreError::Unavailable { operation, url: self.link.url().to_owned(), reason: refused.to_string() }
            }
        }
    }
}
