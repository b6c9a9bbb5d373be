//! The requests of one connection, answered by a router.

use std::{
    convert::Infallible,
    fmt,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{Request, Response},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    service::Service,
};
use hyper_util::service::TowerToHyperService;

use super::activity::Activity;

/// Who asks, among the extensions of each request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) SocketAddr);

/// Without the port, which says nothing of who it is.
impl fmt::Display for ClientAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0.ip().to_canonical())
    }
}

/// Answers one request after the other, and tells the connection's [`Activity`].
pub(super) struct Answering {
    router: TowerToHyperService<Router>,
    activity: Arc<Activity>,
    client: Option<ClientAddress>,
}

impl Answering {
    pub(super) fn new(router: Router, activity: Arc<Activity>, client: Option<ClientAddress>) -> Self {
        Self { router: TowerToHyperService::new(router), activity, client }
    }
}

impl Service<Request<Incoming>> for Answering {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.activity.answering();
        let until_answered = UntilAnswered(Arc::clone(&self.activity));
        let mut request = request.map(|body| Asked { body, activity: Arc::clone(&self.activity) });
        if let Some(client) = self.client {
            request.extensions_mut().insert(client);
        }
        let answer = self.router.call(request);
        Box::pin(async move {
            let answered = answer.await;
            answered.map(|response| response.map(|body| Answer { body, _until_answered: until_answered }))
        })
    }
}

/// The body of a request.
pub(super) struct Asked {
    body: Incoming,
    activity: Arc<Activity>,
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let heard = match &frame {
            Poll::Pending => {
                self.activity.awaits_body();
                return Poll::Pending;
            }
            Poll::Ready(Some(Ok(frame))) if !self.body.is_end_stream() => self.activity.body_came(frame.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(_) => self.activity.body_ended(),
        };
        // A connection that is given up ends at once, and with it whoever waits for this.
        if heard { frame } else { Poll::Pending }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.activity.body_ended();
    }
}

/// Says that an answer is complete when its body is let go of.
struct UntilAnswered(Arc<Activity>);

impl Drop for UntilAnswered {
    fn drop(&mut self) {
        self.0.answered();
    }
}

/// The body of an answer.
pub(super) struct Answer {
    body: Body,
    _until_answered: UntilAnswered,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
