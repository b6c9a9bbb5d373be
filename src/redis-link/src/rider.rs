//! Two operations of different back ends in one trip, where both are on one server.

use redis::Value;

use crate::{Item, LinkError};

/// Which server and database a link leads to, and as which user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerId(pub(crate) String);

/// An operation of one back end that another back end's call may take along: it runs right after that one's own operation, and only if that one came out as it should.
#[derive(Debug, Clone)]
pub struct Rider {
    /// Where it is to run.
    pub server: ServerId,
    /// The body of its function of `KEYS` and `ARGV`, with all that it needs.
    pub function: &'static str,
    /// Its keys and arguments.
    pub item: Item,
}

/// What became of a rider.
pub type Ridden = Result<Value, LinkError>;

impl Rider {
    /// Reads what a script says of it: whether it came to its end, and its answer or why not.
    ///
    /// # Errors
    /// What the server said in the middle of it.
    pub fn ridden(done: bool, answer: Value) -> Ridden {
        if done {
            return Ok(answer);
        }
        Err(LinkError::within_a_script(redis::from_redis_value(answer).unwrap_or_else(|_| "a script failed".to_owned())))
    }
}
