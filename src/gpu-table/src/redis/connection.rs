//! One multiplexed connection that reconnects by itself, and the time limit on everything sent through it.

use std::{future::Future, time::Duration};

use protocol::config::SecretUrl;
use redis::{
    Client, ErrorKind, FromRedisValue, RedisError, RedisResult, ScriptInvocation, ServerErrorKind,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

use crate::TableError;

pub(super) struct Connection {
    manager: ConnectionManager,
    url: String,
    timeout: Duration,
}

impl Connection {
    pub(super) fn open(url: &SecretUrl, timeout: Duration) -> Result<Self, TableError> {
        let bad_url = |error: RedisError| TableError::BadUrl { url: url.redacted(), reason: error.to_string() };
        // No retries inside the manager: a caller waits for one attempt at most, and the next call makes the next one.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        let client = Client::open(url.reveal()).map_err(bad_url)?;
        let manager = ConnectionManager::new_lazy_with_config(client, config).map_err(bad_url)?;
        Ok(Self { manager, url: url.redacted(), timeout })
    }

    /// The server, without its password.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Runs a script. It may have run even where this fails.
    pub(super) async fn invoke<T: FromRedisValue>(
        &self,
        operation: &'static str,
        invocation: &ScriptInvocation<'_>,
    ) -> Result<T, TableError> {
        self.limited(operation, async {
            let mut manager = self.manager.clone();
            match invocation.invoke_async(&mut manager).await {
                // The manager reports a broken connection only after it has begun a new one.
                Err(error) if is_broken(&error) => invocation.invoke_async(&mut manager).await,
                answer => answer,
            }
        })
        .await
    }

    pub(super) async fn ping(&self) -> Result<(), TableError> {
        self.limited("ping", async {
            let mut manager = self.manager.clone();
            match redis::cmd("PING").exec_async(&mut manager).await {
                Err(error) if is_broken(&error) => redis::cmd("PING").exec_async(&mut manager).await,
                answer => answer,
            }
        })
        .await
    }

    async fn limited<T>(&self, operation: &'static str, answer: impl Future<Output = RedisResult<T>>) -> Result<T, TableError> {
        let unavailable = |reason: String| TableError::Unavailable { operation, url: self.url.clone(), reason };
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if is_garbled(&error) => Err(TableError::Garbled { operation, answer: error.to_string() }),
            Ok(Err(error)) => Err(unavailable(error.to_string())),
            Err(_) => Err(unavailable(format!("no answer within {:?}", self.timeout))),
        }
    }
}

fn is_broken(error: &RedisError) -> bool {
    !error.is_timeout() && (error.is_io_error() || error.is_connection_dropped())
}

/// A plain `ERR` is a script that fails on what it finds; `LOADING`, `READONLY`, `OOM` and their like pass.
fn is_garbled(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Parse | ErrorKind::UnexpectedReturnType | ErrorKind::Server(ServerErrorKind::ResponseError))
}
