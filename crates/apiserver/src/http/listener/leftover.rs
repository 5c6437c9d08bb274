//! What an HTTP/1 client sends although its request was refused by its head.
//!
//! Many clients write a body after the head without looking for an answer. Were the connection closed then, they would
//! lose the answer, or the next request that they send on it. As Go's server does, a little is read and thrown away; where
//! there is more, the answer says that the connection ends.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

/// Go's limit.
const MOST_BYTES: usize = 256 * 1024;
/// A client that is about to send has begun long before this.
const PATIENCE: Duration = Duration::from_secs(1);

/// A body that can be read on when its reader has had enough.
#[derive(Clone)]
pub(super) struct Leftover(Arc<Mutex<Incoming>>);

impl Leftover {
    /// The request with such a body, and the other end of it; `None` where there is no body.
    pub(super) fn of(request: Request<Incoming>) -> (Request<Body>, Option<Self>) {
        if request.body().is_end_stream() {
            return (request.map(Body::new), None);
        }
        let (head, body) = request.into_parts();
        let leftover = Self(Arc::new(Mutex::new(body)));
        (Request::from_parts(head, Body::new(leftover.clone())), Some(leftover))
    }

    /// Reads what is left, or has `response` say that nothing can follow it.
    pub(super) async fn settle(mut self, mut response: Response<Body>) -> Response<Body> {
        let drained = async {
            let mut left = MOST_BYTES;
            while let Some(frame) =
                std::future::poll_fn(|context| Pin::new(&mut self).poll_frame(context)).await
            {
                let size = frame.ok()?.data_ref().map_or(0, Bytes::len);
                left = left.checked_sub(size)?;
            }
            Some(())
        };
        if !matches!(tokio::time::timeout(PATIENCE, drained).await, Ok(Some(()))) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn with<T>(&self, look: impl FnOnce(Pin<&mut Incoming>) -> T) -> T {
        look(Pin::new(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl http_body::Body for Leftover {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.with(|body| body.poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.with(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.with(|body| body.size_hint())
    }
}
