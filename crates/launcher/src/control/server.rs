//! The answering half: who is let in, what is asked, and the answers.
//!
//! Handshakes and connections have limits of their own, so that somebody who never finishes a handshake keeps nobody
//! else out for longer than [`HANDSHAKE_LIMIT`], and memory stays bounded whatever is sent.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use manifest::machine_status::{MachineState, MachineStatus};
use manifest::types::VirtualMachineInstance;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::{MAX_BODY_BYTES, POLL_PATIENCE, Refusal, START_PATIENCE, ShutdownRequest};
use super::{console, guest, port_forward, probe, vnc};
use crate::display::Display;
use crate::guest_agent::Agent;
use crate::network::Door;
use crate::probe::Probes;
use crate::serial_port::SerialPort;
use crate::session::{Order, Reply};

/// Handshakes at a time.
const HANDSHAKES: usize = 8;

/// Connections at a time, of those who have proven themselves.
const CONNECTIONS: usize = 16;

/// Consoles at a time. A viewer costs a connection and what it has not read.
const CONSOLES: usize = 64;

/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// How long a head may take to arrive; also how long a connection may be idle.
const HEAD_LIMIT: Duration = Duration::from_secs(90);

/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// How long the supervisor may take to carry out an order: one command to QEMU.
const ORDER_LIMIT: Duration = Duration::from_secs(5);

/// What may be buffered of a head, in bytes.
const HEAD_BUFFER_BYTES: usize = 16 << 10;

/// Pause after a connection could not be accepted, as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A request to start a machine.
#[derive(Debug)]
pub(crate) struct Start {
    /// What to start.
    pub instance: Box<VirtualMachineInstance>,
    /// Told, or dropped, once it has come to an outcome.
    pub done: oneshot::Sender<()>,
}

/// Whose launcher this is, and ways to its supervisor.
#[derive(Debug, Clone)]
pub(crate) struct Doors {
    /// UID of the instance that the launcher is for.
    pub uid: String,
    /// Starts a machine; read while there is none.
    pub starts: mpsc::Sender<Start>,
    /// Steers it.
    pub orders: mpsc::Sender<Order>,
    /// What is known of it.
    pub status: watch::Receiver<MachineStatus>,
    /// Its serial port.
    pub port: SerialPort,
    /// Its display.
    pub display: Display,
    /// The way to the guest, once it runs and if it has a network.
    pub network: Arc<OnceLock<Door>>,
    /// The agent in the guest, once it answers.
    pub agent: Agent,
    /// The probes of the instance, once its machine runs.
    pub probes: Arc<OnceLock<Probes>>,
}

/// Serves until `stop` is true, then finishes the requests at hand. Never fails: what a client does ends its connection.
pub(crate) async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    doors: Doors,
    mut stop: watch::Receiver<bool>,
) {
    let [handshakes, connections, consoles] =
        [HANDSHAKES, CONNECTIONS, CONSOLES].map(|most| Arc::new(Semaphore::new(most)));
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = tasks.join_next() => continue,
            accepted = accept(&listener, &handshakes) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (connections, consoles) = (Arc::clone(&connections), Arc::clone(&consoles));
        let (acceptor, doors, stop) = (acceptor.clone(), doors.clone(), stop.clone());
        tasks.spawn(async move {
            let handshake = timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await;
            drop(permit);
            match handshake {
                Ok(Ok(stream)) => {
                    // The semaphore is never closed.
                    let Ok(permit) = connections.acquire_owned().await else { return };
                    let stream = connection(stream, doors, consoles, stop).await;
                    drop(permit);
                    if let Some(stream) = stream {
                        stream.await;
                    }
                }
                // Anybody on this machine can connect and be refused: nobody has to act on it.
                Ok(Err(error)) => tracing::debug!(%error, "a client was refused"),
                Err(_) => tracing::debug!("a client did not finish its handshake"),
            }
        });
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

async fn accept(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(handshakes).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}

/// What a connection becomes after an upgrade, to its end.
type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Answers what is asked, up to an upgrade.
async fn connection(
    stream: tokio_rustls::server::TlsStream<TcpStream>,
    doors: Doors,
    consoles: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
) -> Option<Stream> {
    let (granted, mut streams) = mpsc::channel(1);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (doors, consoles, granted) = (doors.clone(), Arc::clone(&consoles), granted.clone());
        async move {
            let upgraded = match request.uri().path() {
                path if path == console::UPGRADE.path => grant_console(&mut request, &doors.port, consoles),
                path if path == vnc::UPGRADE.path => grant_vnc(&mut request, &doors.display, consoles).await,
                path if path == port_forward::UPGRADE.path => grant_port(&mut request, &doors).await,
                _ => return Ok::<_, Infallible>(answer(request, &doors).await),
            };
            Ok(match upgraded {
                Ok((response, stream)) => match granted.try_send(stream) {
                    Ok(()) => response,
                    Err(_) => refusal(StatusCode::CONFLICT, "this connection is a stream".to_owned()),
                },
                Err((code, error)) => refusal(code, error),
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let served = tokio::select! {
        served = &mut connection => Some(served),
        _ = stop.wait_for(|stop| *stop) => None,
    };
    let served = match served {
        Some(served) => served,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
    // No connection has one without an upgrade, and nobody sends any more.
    streams.try_recv().ok()
}

/// A console, with its place among [`CONSOLES`].
fn grant_console(
    request: &mut Request<Incoming>,
    port: &SerialPort,
    consoles: Arc<Semaphore>,
) -> Result<(Response<Full<Bytes>>, Stream), Refused> {
    let permit = seat(consoles)?;
    let (response, console) = console::grant(request, port)?;
    let stream = async move {
        console.carry().await;
        drop(permit);
    };
    Ok((response, Box::pin(stream)))
}

/// A connection to a port of the guest; the network counts them.
async fn grant_port(
    request: &mut Request<Incoming>,
    doors: &Doors,
) -> Result<(Response<Full<Bytes>>, Stream), Refused> {
    let (response, connection) = port_forward::grant(request, doors).await?;
    Ok((response, Box::pin(connection.carry())))
}

/// The display, with a place among [`CONSOLES`].
async fn grant_vnc(
    request: &mut Request<Incoming>,
    display: &Display,
    consoles: Arc<Semaphore>,
) -> Result<(Response<Full<Bytes>>, Stream), Refused> {
    let permit = seat(consoles)?;
    let (response, vnc) = vnc::grant(request, display).await?;
    let stream = async move {
        vnc.carry().await;
        drop(permit);
    };
    Ok((response, Box::pin(stream)))
}

fn seat(consoles: Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refused> {
    let taken = |_| (StatusCode::TOO_MANY_REQUESTS, format!("{CONSOLES} consoles are open"));
    consoles.try_acquire_owned().map_err(taken)
}

fn refusal(code: StatusCode, error: String) -> Response<Full<Bytes>> {
    response(code, &Refusal { error })
}

/// Why a request is refused.
pub(super) type Refused = (StatusCode, String);

/// Answers one request. Generic over the body so that tests need no connection.
pub(super) async fn answer<B>(request: Request<B>, doors: &Doors) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if request.uri().path() == SCREENSHOT {
        let picture = screenshot(request.method(), request.uri().query().unwrap_or_default(), doors).await;
        return picture.unwrap_or_else(|(code, error)| refusal(code, error));
    }
    if request.uri().path().starts_with(guest::PREFIX) {
        return guest::answer(request, doors).await.unwrap_or_else(|(code, error)| refusal(code, error));
    }
    let path = request.uri().path();
    if path.starts_with(probe::PREFIX) {
        let outcome = probe::answer(request.method(), path, doors).await;
        return outcome.unwrap_or_else(|(code, error)| refusal(code, error));
    }
    match answered(request, doors).await {
        Ok(status) => response(StatusCode::OK, &status),
        Err((code, error)) => refusal(code, error),
    }
}

/// Where the picture of the display is.
const SCREENSHOT: &str = "/v1/screenshot";

async fn screenshot(method: &Method, query: &str, doors: &Doors) -> Result<Response<Full<Bytes>>, Refused> {
    if method != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, format!("`{SCREENSHOT}` takes GET, not {method}")));
    }
    let move_cursor = query.strip_prefix("moveCursor=").and_then(|value| value.parse().ok());
    let move_cursor = move_cursor
        .ok_or_else(|| (StatusCode::BAD_REQUEST, format!("`{query}` is not `moveCursor=BOOL`")))?;
    let picture = carried_out(|reply| Order::Picture { move_cursor, reply }, doors).await?;
    let mut response = Response::new(Full::new(Bytes::from(picture)));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("image/png"));
    Ok(response)
}

async fn answered<B>(request: Request<B>, doors: &Doors) -> Result<MachineStatus, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let wanted = match head.uri.path() {
        "/v1/status" => Method::GET,
        "/v1/machine" | "/v1/shutdown" | "/v1/pause" | "/v1/unpause" | "/v1/reset" | "/v1/softreboot" => {
            Method::PUT
        }
        path => return Err((StatusCode::NOT_FOUND, format!("there is no `{path}`"))),
    };
    if head.method != wanted {
        let text = format!("`{}` takes {wanted}, not {}", head.uri.path(), head.method);
        return Err((StatusCode::METHOD_NOT_ALLOWED, text));
    }
    match head.uri.path() {
        "/v1/status" => status_after(revision(head.uri.query())?, doors).await,
        "/v1/machine" => put_machine(read(body).await?, doors).await,
        "/v1/shutdown" => {
            let ShutdownRequest { grace_period_seconds } = read(body).await?;
            // A time beyond the clock's range never comes; a day is as good.
            let grace = Duration::from_secs(grace_period_seconds.min(MAX_GRACE_SECONDS));
            order(|reply| Order::Shutdown { grace, reply }, doors).await
        }
        "/v1/pause" => order(Order::Pause, doors).await,
        "/v1/unpause" => order(Order::Unpause, doors).await,
        "/v1/reset" => order(Order::Reset, doors).await,
        // As by KubeVirt: where an agent answers it is the one to be asked.
        _ if current(doors).guest_agent.is_some() => {
            doors.agent.reboot().await.map_err(guest::refused)?;
            Ok(current(doors))
        }
        _ => order(Order::SoftReboot, doors).await,
    }
}

/// Longest time that a guest is given to shut down, in seconds: ten years.
pub(super) const MAX_GRACE_SECONDS: u64 = 10 * 365 * 86_400;

fn revision(query: Option<&str>) -> Result<u64, Refused> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(0) };
    query
        .strip_prefix("after=")
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| (StatusCode::BAD_REQUEST, format!("`{query}` is not `after=REVISION`")))
}

async fn status_after(after: u64, doors: &Doors) -> Result<MachineStatus, Refused> {
    let mut status = doors.status.clone();
    // Late or when the supervisor has ended: the answer is what is known.
    let _ = timeout(POLL_PATIENCE, status.wait_for(|status| status.revision != after)).await;
    Ok(current(doors))
}

async fn put_machine(instance: VirtualMachineInstance, doors: &Doors) -> Result<MachineStatus, Refused> {
    let uid = instance.metadata.uid.as_deref().unwrap_or_default();
    if uid != doors.uid {
        let text = format!("this launcher is for the instance `{}`, not for `{uid}`", doors.uid);
        return Err((StatusCode::FORBIDDEN, text));
    }
    let mut status = doors.status.clone();
    let has_machine = |status: &MachineStatus| status.state != MachineState::None;
    if has_machine(&status.borrow()) {
        return Ok(current(doors));
    }
    let (done, outcome) = oneshot::channel();
    let start = Start { instance: Box::new(instance), done };
    // When another start is under way, nobody may read this one: its outcome shows in the status.
    let outcome = async {
        if doors.starts.send(start).await.is_ok() {
            let _ = outcome.await;
        }
    };
    tokio::select! {
        () = outcome => {}
        _ = status.wait_for(has_machine) => {}
        () = sleep(START_PATIENCE) => {}
    }
    Ok(current(doors))
}

/// Has the supervisor carry out an order, for the status after it.
async fn order(make: impl FnOnce(Reply) -> Order, doors: &Doors) -> Result<MachineStatus, Refused> {
    carried_out(make, doors).await?;
    Ok(current(doors))
}

/// Has the supervisor carry out an order.
async fn carried_out<T>(make: impl FnOnce(Reply<T>) -> Order, doors: &Doors) -> Result<T, Refused> {
    let (reply, outcome) = oneshot::channel();
    let carried_out = async {
        doors.orders.send(make(reply)).await.map_err(drop)?;
        outcome.await.map_err(drop)
    };
    match timeout(ORDER_LIMIT, carried_out).await {
        Ok(Ok(Ok(done))) => Ok(done),
        Ok(Ok(Err(reason))) => Err((StatusCode::CONFLICT, reason)),
        Ok(Err(())) => Err((StatusCode::CONFLICT, "the machine has ended".to_owned())),
        Err(_) => Err((
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the machine has not obeyed within {ORDER_LIMIT:?}"),
        )),
    }
}

fn current(doors: &Doors) -> MachineStatus {
    doors.status.borrow().clone()
}

pub(super) async fn read<T, B>(body: B) -> Result<T, Refused>
where
    T: serde::de::DeserializeOwned,
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let collected = timeout(BODY_LIMIT, Limited::new(body, MAX_BODY_BYTES).collect()).await;
    let bytes = match collected {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let text = format!("the body has more than {MAX_BODY_BYTES} bytes");
            return Err((StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        Ok(Err(error)) => return Err((StatusCode::BAD_REQUEST, format!("cannot read the body: {error}"))),
        Err(_) => return Err((StatusCode::REQUEST_TIMEOUT, "the body does not arrive".to_owned())),
    };
    let unreadable =
        |error: &dyn fmt::Display| (StatusCode::BAD_REQUEST, format!("cannot read the body: {error}"));
    // From text, as clients of the API read machines: each form of input has code of its own for every type.
    let text = str::from_utf8(&bytes).map_err(|error| unreadable(&error))?;
    serde_json::from_str(text).map_err(|error| unreadable(&error))
}

pub(super) fn response(code: StatusCode, document: &impl Serialize) -> Response<Full<Bytes>> {
    // Our own documents always have a JSON form.
    let body = serde_json::to_vec(document).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
