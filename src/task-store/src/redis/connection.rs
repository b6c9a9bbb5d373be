//! One multiplexed connection that restores itself, every use of it bounded in time.

use std::{future::Future, time::Duration};

use protocol::config::SecretUrl;
use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisResult, ScriptInvocation, ServerErrorKind,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};

use super::answers::Answer;
use crate::StoreError;

/// Attempts to connect again before a waiting operation fails; the next operation starts anew.
const RECONNECTS: usize = 3;

/// A handle on the connection. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct Connection {
    manager: ConnectionManager,
    url: String,
    timeout: Duration,
}

impl Connection {
    /// Connects. `timeout` bounds this and every later operation, waiting for a reconnect included.
    pub async fn open(url: &SecretUrl, timeout: Duration) -> Result<Self, StoreError> {
        let client = client(url, timeout).map_err(|problem| StoreError::BadUrl { url: url.redacted(), reason: problem.to_string() })?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout))
            .set_max_delay(timeout)
            .set_number_of_retries(RECONNECTS);
        let connect = ConnectionManager::new_with_config(client, config);
        let manager = bounded("connect", &url.redacted(), timeout, connect).await?;
        Ok(Self { manager, url: url.redacted(), timeout })
    }

    /// Runs a script by its digest, loading it first where the server has lost it.
    pub async fn invoke(&self, operation: &'static str, invocation: &ScriptInvocation<'_>) -> Result<Answer, StoreError> {
        let mut manager = self.manager.clone();
        let run = async {
            match invocation.invoke_async(&mut manager).await {
                // Lost again between loading and running: a fail-over, or somebody's SCRIPT FLUSH.
                Err(problem) if problem.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    invocation.invoke_async(&mut manager).await
                }
                answer => answer,
            }
        };
        Ok(Answer::new(operation, bounded(operation, &self.url, self.timeout, run).await?))
    }

    /// Runs one command.
    pub async fn query<T: FromRedisValue>(&self, operation: &'static str, command: &Cmd) -> Result<T, StoreError> {
        let mut manager = self.manager.clone();
        bounded(operation, &self.url, self.timeout, command.query_async(&mut manager)).await
    }
}

fn client(url: &SecretUrl, timeout: Duration) -> RedisResult<Client> {
    // A peer that vanished without a word keeps the connection open, and redis-rs does not reconnect after a time-out: only the
    // kernel can declare it dead.
    #[cfg(target_os = "linux")]
    let tcp = TcpSettings::default().set_nodelay(true).set_user_timeout(timeout.saturating_mul(2));
    #[cfg(not(target_os = "linux"))]
    let tcp = TcpSettings::default().set_nodelay(true);
    Client::open(url.reveal().into_connection_info()?.set_tcp_settings(tcp))
}

async fn bounded<T>(
    operation: &'static str,
    url: &str,
    timeout: Duration,
    work: impl Future<Output = RedisResult<T>>,
) -> Result<T, StoreError> {
    let unavailable = |reason: String| StoreError::Unavailable { operation, url: url.to_owned(), reason };
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(problem)) if problem.kind() == ErrorKind::UnexpectedReturnType => {
            Err(StoreError::Garbled { operation, answer: problem.to_string() })
        }
        Ok(Err(problem)) => Err(unavailable(problem.to_string())),
        Err(_) => Err(unavailable(format!("no answer within {} ms", timeout.as_millis()))),
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Connection({})", self.url)
    }
}
