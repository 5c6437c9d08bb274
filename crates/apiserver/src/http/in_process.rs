//! Requests without a socket: a `tower::Service` over the front, for clients in this program.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::Request;
use http::header::UPGRADE;
use hyper_util::rt::TokioIo;

use super::answer::Response;
use super::front::{Caller, Front};
use crate::auth::Identity;

/// Bytes that an upgraded connection holds between its ends.
const PIPE: usize = 64 * 1024;

/// A client's side of the server, always as the same identity.
#[derive(Debug, Clone)]
pub struct ClientService {
    front: Front,
    identity: Arc<Identity>,
}

impl ClientService {
    /// A service that asks as `identity`.
    pub fn new(front: Front, identity: Identity) -> Self {
        Self { front, identity: Arc::new(identity) }
    }
}

impl<B> tower::Service<Request<B>> for ClientService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = axum::BoxError;
    type Future = BoxFuture<'static, Result<Response, axum::BoxError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), axum::BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let front = self.front.clone();
        let caller = Caller::InProcess(Arc::clone(&self.identity));
        let request = request.map(Body::new);
        Box::pin(async move {
            if request.headers().contains_key(UPGRADE) {
                upgraded(front, caller, request).await
            } else {
                Ok(front.answer(request, caller).await)
            }
        })
    }
}

/// Only hyper can upgrade a connection, so there must be one: a pipe with hyper at both ends.
async fn upgraded(
    front: Front,
    caller: Caller,
    mut request: Request<Body>,
) -> Result<Response, axum::BoxError> {
    let (near, far) = tokio::io::duplex(PIPE);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let (front, caller) = (front.clone(), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(front.answer(request.map(Body::new), caller).await) }
    });
    tokio::spawn(async move {
        let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
        if let Err(error) = server.with_upgrades().await {
            tracing::debug!(%error, "an upgraded connection in process ended");
        }
    });
    // HTTP/1.1 has the path alone in its request line.
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = path.into();
    }
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "an upgraded connection in process ended");
        }
    });
    Ok(sender.send_request(request).await?.map(Body::new))
}
