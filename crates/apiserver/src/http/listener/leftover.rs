//! What a client sends although its request was answered before its body was read: refused by its head, or too large.
//!
//! Many clients write a body after the head without looking for an answer. Were the connection closed then, or the stream
//! of HTTP/2 reset, they would lose the answer, or the next request that they send. As Go's server does, a little is read
//! and thrown away, before the answer of HTTP/1, where clients look for it only after that, and beside the answer of
//! HTTP/2. Where there is more, the connection or stream ends, and an answer of HTTP/1 says so.

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

use super::super::resources::MOST_BODY_BYTES;

/// Twice what a request may have: whoever sends a little too much is told so.
const MOST_BYTES: usize = 2 * MOST_BODY_BYTES;
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
    pub(super) async fn settle(self, mut response: Response<Body>) -> Response<Body> {
        if !self.drain().await {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Reads what is left, within bounds; whether that was all of it.
    pub(super) async fn drain(mut self) -> bool {
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
        matches!(tokio::time::timeout(PATIENCE, drained).await, Ok(Some(())))
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
