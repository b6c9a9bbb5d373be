//! The connections to one server.

use std::{fmt, future::Future, time::Duration};

use deadpool_redis::{Connection, Manager, Pool, Runtime, Timeouts};
use protocol::config::SecretUrl;
use redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo, RedisResult, ScriptInvocation,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};

use crate::{
    ServerId,
    error::{LinkError, is_broken},
};

/// Connections for what is large or slow.
const POOL: usize = 4;

/// The way to one server. Cheap to clone; clones share the connections. Connects at the first call, so that a worker starts while the server is away.
///
/// Every call takes at most the response time-out, reconnecting included. Where the connection broke, a call is sent once more at once: every operation of the back ends is
/// idempotent, so one that had happened already gives the same answer.
///
/// It speaks to one server and follows no redirection: of a Redis Cluster it reaches what that node, or a proxy before the nodes, answers for.
#[derive(Clone)]
pub struct Link {
    manager: ConnectionManager,
    pool: Pool,
    url: String,
    server: ServerId,
    timeout: Duration,
}

impl Link {
    /// A way to the server at `redis://[user:password@]host[:port][/database]`. Needs a tokio runtime.
    ///
    /// # Errors
    /// What is wrong with the URL, without its password.
    pub fn open(url: &SecretUrl, timeout: Duration) -> Result<Self, String> {
        let client = client(url, timeout).map_err(|problem| problem.to_string())?;
        // No retries inside the manager: a caller waits for one attempt at most, and the next call makes the next one.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        let info = client.get_connection_info().clone();
        let (database, user) = (info.redis_settings().db(), info.redis_settings().username());
        let server = ServerId(format!("{} {database} {}", info.addr(), user.unwrap_or_default()));
        let manager = ConnectionManager::new_lazy_with_config(client, config).map_err(|problem| problem.to_string())?;
        let timeouts = Timeouts { wait: Some(timeout), create: Some(timeout), recycle: Some(timeout) };
        // Without it the library gives up an answer after half a second.
        let pooled_config = AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout));
        let pooled = Manager::new_with_config(info, pooled_config).map_err(|problem| problem.to_string())?;
        let pool = Pool::builder(pooled).max_size(POOL).timeouts(timeouts).runtime(Runtime::Tokio1).build();
        Ok(Self { manager, pool: pool.map_err(|problem| problem.to_string())?, url: url.redacted(), server, timeout })
    }

    /// The server, without its password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server and database, for comparison.
    #[must_use]
    pub const fn server(&self) -> &ServerId {
        &self.server
    }

    /// What every call takes at most.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Runs a small, quick script. It may have run even where this fails.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn invoke<T: FromRedisValue>(&self, invocation: &ScriptInvocation<'_>) -> Result<T, LinkError> {
        self.limited(async {
            let mut manager = self.manager.clone();
            match invocation.invoke_async(&mut manager).await {
                // The manager reports a broken connection only after it has begun a new one.
                Err(error) if is_broken(&error) => invocation.invoke_async(&mut manager).await,
                answer => answer,
            }
        })
        .await
    }

    /// Runs a small, quick command.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, LinkError> {
        self.limited(async {
            let mut manager = self.manager.clone();
            match command.query_async(&mut manager).await {
                Err(error) if is_broken(&error) => command.query_async(&mut manager).await,
                answer => answer,
            }
        })
        .await
    }

    /// Runs a command that carries much or takes long, beside the quick ones.
    ///
    /// # Errors
    /// See [`LinkError`]; [`LinkError::Away`] also where no connection of the pool becomes free in time.
    pub async fn query_large<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, LinkError> {
        self.limited_large(async {
            let mut connection = self.pooled().await?;
            match command.query_async(&mut connection).await {
                // It lay in the pool while the server went away and came back.
                Err(error) if is_broken(&error) => {
                    drop(Connection::take(connection));
                    Ok(command.query_async(&mut self.pooled().await?).await?)
                }
                answer => Ok(answer?),
            }
        })
        .await
    }

    /// Runs a script that carries much or takes long, beside the quick ones.
    ///
    /// # Errors
    /// As [`Link::query_large`].
    pub async fn invoke_large<T: FromRedisValue>(&self, invocation: &ScriptInvocation<'_>) -> Result<T, LinkError> {
        self.limited_large(async {
            let mut connection = self.pooled().await?;
            match invocation.invoke_async(&mut connection).await {
                Err(error) if is_broken(&error) => {
                    drop(Connection::take(connection));
                    Ok(invocation.invoke_async(&mut self.pooled().await?).await?)
                }
                answer => Ok(answer?),
            }
        })
        .await
    }

    async fn pooled(&self) -> Result<Connection, LinkError> {
        self.pool.get().await.map_err(|problem| LinkError::Away(problem.to_string()))
    }

    async fn limited_large<T>(&self, answer: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
        tokio::time::timeout(self.timeout, answer).await.unwrap_or_else(|_| Err(LinkError::late(self.timeout)))
    }

    async fn limited<T>(&self, answer: impl Future<Output = RedisResult<T>>) -> Result<T, LinkError> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Err(error)) if error.is_timeout() => Err(LinkError::late(self.timeout)),
            Ok(answer) => Ok(answer?),
            Err(_) => Err(LinkError::late(self.timeout)),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Link").field("url", &self.url).field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

fn client(url: &SecretUrl, timeout: Duration) -> RedisResult<Client> {
    // A peer that vanished without a word keeps the connection open, and the client library does not reconnect after a time-out: only the kernel can declare it dead.
    // Without TCP_NODELAY a call that is issued while another one is unanswered would wait for that answer.
    #[cfg(target_os = "linux")]
    let tcp = TcpSettings::default().set_nodelay(true).set_user_timeout(timeout.saturating_mul(2));
    #[cfg(not(target_os = "linux"))]
    let tcp = TcpSettings::default().set_nodelay(true);
    Client::open(url.reveal().into_connection_info()?.set_tcp_settings(tcp))
}
