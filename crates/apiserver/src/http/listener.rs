//! The accept loop: TCP, TLS, HTTP, and an orderly end.
//!
//! Nothing that a client does (or does not do) keeps another from being accepted: handshakes run in tasks of their own
//! and have a deadline, heads have one, and a connection that takes no bytes is closed.

mod idle;
mod leftover;
mod patient;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use idle::Streams;
use leftover::Leftover;
use patient::Patient;

use super::front::{Caller, Front};
use super::kept::until_sent;

/// A handshake takes three round trips; whoever needs longer is not there.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes no bytes for this long is gone, or as good as.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle HTTP/2 connections are asked this often whether they are still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
/// Kubernetes' own limit.
const MOST_STREAMS: u32 = 250;
const MOST_HEADER_BYTES: u32 = 64 * 1024;
const MOST_HEADERS: usize = 128;
/// What a stuck HTTP/2 stream may hold.
const SEND_BUFFER: usize = 128 * 1024;
/// Descriptors that are for other things than connections.
const DESCRIPTORS_KEPT: usize = 256;
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves connections until `stop` becomes true (or its sender is gone), then waits for requests in flight.
///
/// # Errors
/// When the listener itself is unusable.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    front: Front,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(tls);
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let room = Arc::new(Semaphore::new(room(front.limits().connections, descriptors)));
    let mut connections = JoinSet::new();
    let mut faults = 0;
    let result = loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break Ok(()),
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &room) => accepted,
        };
        let (stream, address, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if is_for_good(&error) {
                    break Err(error);
                }
                faults += 1_u64;
                // Said ever more rarely: it may go on for as long as somebody holds all descriptors.
                if faults.is_power_of_two() {
                    tracing::warn!(%error, faults, "connections could not be accepted");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        faults = 0;
        let (acceptor, front, stop) = (acceptor.clone(), front.clone(), stop.clone());
        connections.spawn(async move {
            let _permit = permit;
            if let Err(error) = connection(stream, address, &acceptor, front, stop).await {
                // Clients come and go; nobody has to act on it.
                tracing::debug!(%address, %error, "a connection ended");
            }
        });
    };
    drop(listener);
    let grace = front.limits().shutdown_grace;
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!(?grace, "some connections did not end in time and are closed");
    }
    connections.shutdown().await;
    result
}

/// How many connections there may be. Whoever connects must not be able to take the descriptors that the store needs.
fn room(wanted: usize, descriptors: Option<u64>) -> usize {
    let descriptors = descriptors.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    wanted.min(descriptors.saturating_sub(DESCRIPTORS_KEPT)).max(1)
}

/// Whether nothing can be accepted any more. Whatever else accepting fails with (no more descriptors, no memory, a client
/// that is gone) passes, and until then clients must not be able to end the server by it.
fn is_for_good(error: &io::Error) -> bool {
    use rustix::io::Errno;

    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP)
    )
}

type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<Accepted> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address, permit))
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: &TlsAcceptor,
    front: Front,
    mut stop: watch::Receiver<bool>,
) -> Result<(), axum::BoxError> {
    // Watch events are small and must not wait for more of them.
    stream.set_nodelay(true)?;
    let stream = Patient::new(stream, WRITE_TIMEOUT);
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let (_, tls) = stream.get_ref();
    let certificate =
        tls.peer_certificates().and_then(|chain| chain.first()).map(|leaf| Arc::from(leaf.as_ref()));
    let is_http2 = tls.alpn_protocol() == Some(b"h2");
    let caller = Caller::Network { address: Some(address), certificate };
    let idle = front.limits().idle;
    let streams = Arc::new(Streams::default());
    let begun = Arc::clone(&streams);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (front, caller) = (front.clone(), caller.clone());
        let stream = is_http2.then(|| begun.begin());
        async move {
            if let Some(refused) = refuse_host(&request) {
                return Ok::<_, Infallible>(refused);
            }
            let is_head = request.method() == Method::HEAD;
            let (request, leftover) = Leftover::of(request);
            let response = front.answer(request, caller).await;
            let leftover = leftover.filter(|leftover| !leftover.is_end_stream());
            Ok(match (stream, leftover) {
                // A stream of HTTP/2 can end without its connection.
                (Some(stream), leftover) => {
                    if let Some(leftover) = leftover {
                        tokio::spawn(leftover.drain());
                    }
                    // The answer to HEAD has no body; over HTTP/1 hyper sees to that.
                    response.map(|body| until_sent(if is_head { Body::empty() } else { body }, stream))
                }
                (None, Some(leftover)) => leftover.settle(response).await,
                (None, None) => response,
            })
        }
    });
    let builder = builder(is_http2, idle);
    let mut served = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    tokio::select! {
        result = served.as_mut() => return result,
        () = streams.idle(idle), if is_http2 => {}
        // Its sender is gone when the server is.
        _ = stop.wait_for(|stop| *stop) => {}
    }
    served.as_mut().graceful_shutdown();
    served.await
}

/// The answer to a request of HTTP/1.1 that does not say once which host it is for, RFC 9112, 3.2.
fn refuse_host<B>(request: &Request<B>) -> Option<Response<Body>> {
    let mut hosts = request.headers().get_all(HOST).into_iter();
    if request.version() != Version::HTTP_11 || (hosts.next().is_some() && hosts.next().is_none()) {
        return None;
    }
    let mut response = Response::new(Body::from("400 Bad Request: one Host header is required\n"));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Some(response)
}

/// HTTP as ALPN chose it: guessing it from the first bytes would wait for them without a deadline.
fn builder(is_http2: bool, idle: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(idle).max_headers(MOST_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(MOST_HEADER_BYTES)
        .max_send_buf_size(SEND_BUFFER);
    if is_http2 { builder.http2_only() } else { builder.http1_only() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_store() {
        for (wanted, descriptors, expected) in
            [(8192, Some(1024), 768), (100, Some(1024), 100), (8192, None, 8192), (8192, Some(64), 1)]
        {
            assert_eq!(room(wanted, descriptors), expected, "{wanted} {descriptors:?}");
        }
    }

    #[test]
    fn http_1_1_names_its_host_once() {
        let code = |version, hosts: &[&'static str]| {
            let mut request = Request::new(());
            *request.version_mut() = version;
            for host in hosts {
                request.headers_mut().append(HOST, HeaderValue::from_static(host));
            }
            refuse_host(&request).map(|response| response.status().as_u16())
        };
        assert_eq!(code(Version::HTTP_11, &["a"]), None);
        assert_eq!(code(Version::HTTP_11, &[]), Some(400));
        assert_eq!(code(Version::HTTP_11, &["a", "a"]), Some(400));
        // HTTP/1.0 has none, and HTTP/2 another place for it.
        assert_eq!((code(Version::HTTP_10, &[]), code(Version::HTTP_2, &[])), (None, None));
    }

    #[test]
    fn a_lack_of_descriptors_does_not_end_the_server() {
        use rustix::io::Errno;

        for passes in
            [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::CONNABORTED, Errno::PERM]
        {
            assert!(!is_for_good(&passes.into()), "{passes}");
        }
        assert!(is_for_good(&Errno::BADF.into()));
    }
}
