//! The HTTP/1.1 server under the gateway, and under the metrics of a worker without one: connections have a bound, and nothing of them waits for ever.
//!
//! A client that keeps a connection and says nothing, or half of a head or of a body, costs others nothing: it has a time limit, and makes room before it where room is needed. What
//! an answer says is not this module's business, nor is how long an answer may take: that belongs to each route.

mod activity;
mod answering;
mod connections;
mod stream;

use std::{future::poll_fn, io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

pub use self::connections::ConnectionLimits;
use self::{
    activity::Alarm,
    answering::Answering,
    connections::{Admitted, Room},
    stream::Watched,
};
pub(crate) use self::{answering::ClientAddress, connections::Connections};

/// Most headers of a request; one more is answered 431.
const HEADERS_MAX: usize = 100;
/// Most bytes of a request's head; more are answered 431.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// How many waiting connections are closed when the process has no files left to open.
const CLOSED_AT_ONCE: usize = 16;
/// The pause after connections could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a listener answers with.
#[derive(Clone)]
pub(crate) struct Routers {
    /// Everything.
    pub(crate) all: Router,
    /// What is left of it where a connection is one too many; each takes one request then.
    pub(crate) when_full: Router,
}

/// Answers on `listener` until `stop`; then takes no new connection, closes those without a request, and ends when the last request was answered. Dropping it cuts off what is open.
pub(crate) async fn serve_http(listener: TcpListener, routers: Routers, connections: Arc<Connections>, stop: CancellationToken) {
    let (open, cut_off) = (TaskTracker::new(), CancellationToken::new());
    let _cut_off_when_dropped = cut_off.clone().drop_guard();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let Some(admitted) = connections.admit() else { continue };
                let router = if admitted.room == Room::Whole { &routers.all } else { &routers.when_full };
                open.spawn(live(stream, router.clone(), admitted, stop.clone(), cut_off.clone()));
            }
            Err(error) => not_accepted(&error, &connections).await,
        }
    }
    drop(listener);
    open.close();
    open.wait().await;
}

/// A client that went away before it was accepted is nobody's trouble. Else there are no files left to open, most often: waiting connections give theirs back.
async fn not_accepted(error: &io::Error, connections: &Connections) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused) {
        return;
    }
    let closed = connections.make_room(CLOSED_AT_ONCE);
    warn!(%error, closed, "could not accept a connection; closed waiting ones");
    sleep(ACCEPT_PAUSE).await;
}

/// The life of one connection.
async fn live(stream: TcpStream, router: Router, admitted: Admitted, stop: CancellationToken, cut_off: CancellationToken) {
    let activity = Arc::clone(&admitted.activity);
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "set TCP_NODELAY");
    }
    let client = stream.peer_addr().ok().map(ClientAddress);
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let answering = Answering::new(router, Arc::clone(&activity), client);
    let mut connection = pin!(protocol(admitted.room).serve_connection(io, answering));
    let mut alarm = Alarm::new(admitted.limits());
    let mut stopping = false;
    let ending = loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "a connection broke");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                // Who has asked for nothing yet, or only begun to, is not waited for.
                if activity.give_up_without_a_request() {
                    return;
                }
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = cut_off.cancelled() => return,
            () = activity.given_up() => return,
            ending = poll_fn(|context| alarm.poll(&activity, context)) => break ending,
        }
    };
    debug!(why = ending.name(), "closed a connection");
    admitted.ended(ending);
}

/// HTTP/1.1 with its bounds. The time limits are the [`Alarm`]'s, which tells a head that does not end from a connection that rests.
fn protocol(room: Room) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None::<Duration>).max_headers(HEADERS_MAX).max_header_size(HEAD_BYTES_MAX).keep_alive(room == Room::Whole);
    builder
}
