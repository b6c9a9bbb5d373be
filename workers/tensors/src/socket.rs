//! How neighbours reach a plane: two abstract Unix sockets, which the kernel forgets with the process.
//!
//! One speaks the protocol of data ports. The other, whose name ends in `.memory`, speaks of memory: it exports buffers, and fills memory that the one who asks hands over. Both take only processes of the same
//! user, and only those that have the key.

mod connection;
mod words;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use data_link::{Refused, RefusedBecause, ServerLimits, serve_stream};
use devices::SharedMemory;
use protocol::TensorName;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

pub(crate) use self::{
    connection::Connection,
    words::{Answer, Request, Ring, Taken, Wanted},
};
use crate::{
    DataError, Tensor,
    plane::Shared,
    served::ServedPlane,
    transfer::{TryFailure, peer, staged},
};

/// Most connections at once, over both sockets.
const CONNECTIONS_MAX: usize = 128;
/// For who connects to say what is wanted.
const HELLO: Duration = Duration::from_secs(5);
/// After the system has refused a connection: it may be out of file descriptors, and a second is time to get some back.
const PAUSE: Duration = Duration::from_secs(1);

/// Where an abstract socket of this name is.
pub(crate) fn address_of(name: &str) -> PathBuf {
    PathBuf::from(format!("\0{name}"))
}

/// Where the socket of a plane is that speaks of memory.
pub(crate) fn memory_address_of(name: &str) -> PathBuf {
    address_of(&format!("{name}.memory"))
}

/// Opens both sockets, and serves them until the plane's end.
///
/// # Errors
/// The system's.
pub(crate) fn open(shared: &Arc<Shared>, name: &str, key: &str) -> io::Result<()> {
    let (data, memory) = (UnixListener::bind(address_of(name))?, UnixListener::bind(memory_address_of(name))?);
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for (listener, speaks) in [(data, Speaks::Data), (memory, Speaks::Memory)] {
        let door = Door { shared: Arc::clone(shared), speaks, key: key.to_owned(), free: Arc::clone(&free) };
        shared.spawn("data socket", door.keep(listener));
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Speaks {
    Data,
    Memory,
}

struct Door {
    shared: Arc<Shared>,
    speaks: Speaks,
    key: String,
    free: Arc<Semaphore>,
}

impl Door {
    async fn keep(self, listener: UnixListener) {
        let ended = self.shared.ended.clone();
        ended.run_until_cancelled(self.admit(listener)).await;
    }

    async fn admit(&self, listener: UnixListener) {
        // Above the bound the others wait in the kernel's queue.
        while let Ok(free) = Arc::clone(&self.free).acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) if is_same_user(&stream) => self.attend(stream, free),
                Ok(_) => tracing::warn!(gpu_id = %self.shared.gpu_id, "a process of another user wants tensors, and is refused"),
                Err(error) => {
                    tracing::warn!(%error, gpu_id = %self.shared.gpu_id, "the data socket takes no connection now");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn attend(&self, stream: UnixStream, free: OwnedSemaphorePermit) {
        let (shared, key, speaks) = (Arc::clone(&self.shared), self.key.clone(), self.speaks);
        self.shared.spawn("data socket connection", async move {
            let ended = shared.ended.clone();
            ended.run_until_cancelled(attend(&shared, stream, &key, speaks)).await;
            drop(free);
        });
    }
}

async fn attend(shared: &Arc<Shared>, stream: UnixStream, key: &str, speaks: Speaks) {
    let outcome = match speaks {
        Speaks::Data => {
            let served = Arc::new(ServedPlane(Arc::clone(shared)));
            serve_stream(stream, served, key, ServerLimits::default()).await.map_err(|error| crate::error::whole(&error))
        }
        Speaks::Memory => serve_memory(shared, Connection::new(stream), key).await.map_err(|failure| failure.to_string()),
    };
    if let Err(reason) = outcome {
        tracing::debug!(reason, gpu_id = %shared.gpu_id, "a connection to the data socket ended early");
    }
}

fn is_same_user(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|other| other.uid() == rustix::process::geteuid().as_raw())
}

/// Answers one request.
async fn serve_memory(shared: &Shared, mut connection: Connection, key: &str) -> Result<(), TryFailure> {
    let (request, file) = transfer_limit(HELLO, connection.receive_with::<Request>()).await?;
    let wanted = request.wanted();
    if wanted.key != key {
        let refused = Refused::new(RefusedBecause::NotAllowed, "the key is wrong");
        return connection.send(&Answer::Refused(refused)).await;
    }
    let tensor = match find(shared, &wanted.name, wanted.version).await {
        Ok(tensor) => tensor,
        Err(refused) => return connection.send(&Answer::Refused(refused)).await,
    };
    // Who reads has no longer than this either.
    let limit = shared.options.limits.for_bytes(tensor.about().bytes());
    match (request, file) {
        // When its time is over it may be within a last piece, and must not lose the buffer under that.
        (Request::Peer(_), _) => {
            let limit = limit.saturating_add(shared.options.limits.stall);
            transfer_limit(limit, peer::serve(shared, tensor, &mut connection)).await
        }
        (Request::Staged(_, ring), Some(file)) if ring.is_sound() => {
            let memory = SharedMemory::attach(file, ring.bytes())?;
            transfer_limit(limit, staged::serve(shared, tensor, (ring, memory), &mut connection)).await
        }
        (Request::Staged(..), _) => {
            let refused = Refused::new(RefusedBecause::Invalid, "no memory was handed over, or its ring makes no sense");
            connection.send(&Answer::Refused(refused)).await
        }
    }
}

async fn transfer_limit<T>(limit: Duration, step: impl Future<Output = Result<T, TryFailure>>) -> Result<T, TryFailure> {
    tokio::time::timeout(limit, step).await.unwrap_or(Err(TryFailure::Stalled(limit)))
}

async fn find(shared: &Shared, name: &TensorName, version: u64) -> Result<Arc<Tensor>, Refused> {
    match shared.stored(name, Some(version)).await {
        Ok(Some(tensor)) => Ok(tensor),
        Ok(None) => Err(Refused::new(RefusedBecause::Missing, format!("GPU {} has no {name} in version {version}", shared.gpu_id))),
        Err(error) => Err(crate::served::refusal(&DataError::from(error))),
    }
}
