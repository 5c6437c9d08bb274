//! The asking half: connections to many launchers, kept while they are of use.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use manifest::guest_agent::{GuestAgentInfo, GuestFileSystem, GuestUser};
use manifest::machine_status::MachineStatus;
use manifest::types::VirtualMachineInstance;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::console::{self, Console};
use super::guest::FreezeRequest;
use super::port_forward;
use super::tls::{Identity, IdentityError, client_config};
use super::vnc;
use super::{POLL_PATIENCE, Refusal, START_PATIENCE, ShutdownRequest};
use crate::guest_agent::CALL_LIMIT;
use crate::network::DIAL_LIMIT;
use crate::serial_port::Attach;

/// How long connecting may take, TLS included. Launchers are on this machine, which may be busy.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long an answer may take beyond the time that the launcher means to wait.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Largest answer in bytes; a status is kept below 4 KiB by the launcher.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Largest document about a guest in bytes: each of its texts is bounded, and how many there are.
const MAX_GUEST_BYTES: usize = 4 << 20;

/// Largest picture in bytes.
const MAX_SCREENSHOT_BYTES: usize = vmm::MAX_PICTURE_BYTES as usize;

/// What hyper may buffer of a head, in bytes (its least).
const HEAD_BUFFER_BYTES: usize = 8192;

/// Idle connections kept for one launcher: one for a request beside the one that waits for a change.
const IDLE_CONNECTIONS: usize = 1;

/// Why a launcher did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Nobody answers there, or the connection broke; it may be worth another try.
    #[error("the launcher at {address} does not answer: {reason}")]
    Unreachable {
        /// Where it should be.
        address: SocketAddr,
        /// What happened.
        reason: String,
    },
    /// It answered that it will not.
    #[error("{reason}")]
    Refused {
        /// The status code of HTTP, see [`control`](crate::control).
        code: u16,
        /// Why, in the launcher's words.
        reason: String,
    },
}

/// Asks launchers. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    connector: TlsConnector,
    idle: Mutex<HashMap<SocketAddr, Vec<Sender>>>,
}

type Sender = SendRequest<Full<Bytes>>;

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").finish_non_exhaustive()
    }
}

/// Whether a request may be sent again when it is not known to have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Harmless,
    Harmful,
}

#[derive(Clone)]
struct Call {
    method: Method,
    path: String,
    body: Bytes,
    /// How long the launcher may mean to wait before it answers.
    patience: Duration,
    repeat: Repeat,
}

impl Client {
    /// A client that trusts `authority` and proves itself with `certificate` and `key`, all PEM.
    ///
    /// # Errors
    /// [`IdentityError`] when the texts are no such thing or do not belong together.
    pub fn new(authority: &str, certificate: &str, key: &str) -> Result<Self, IdentityError> {
        let config = client_config(Identity::from_pem(authority, certificate, key)?)?;
        Ok(Self(Arc::new(Inner { connector: TlsConnector::from(config), idle: Mutex::default() })))
    }

    /// Hands `instance` to the launcher, which starts its machine. Asked again, it only answers.
    ///
    /// # Errors
    /// [`ControlError`]. A machine that cannot be started is no error: see `sync_error` of the answer.
    pub async fn put_machine(
        &self,
        at: SocketAddr,
        instance: &VirtualMachineInstance,
    ) -> Result<MachineStatus, ControlError> {
        self.call(at, put("/v1/machine", json(instance), START_PATIENCE)).await
    }

    /// The status once its revision is another than `after`; the current one after [`POLL_PATIENCE`] at the latest.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn status(&self, at: SocketAddr, after: u64) -> Result<MachineStatus, ControlError> {
        self.call(at, get(format!("/v1/status?after={after}"), POLL_PATIENCE)).await
    }

    /// Has the guest shut down by its power button, pressed again every five seconds, and killed after `grace_seconds`;
    /// at once when that is 0 or the machine has no ACPI. Asked again, the earlier end counts.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn shutdown(&self, at: SocketAddr, grace_seconds: u64) -> Result<MachineStatus, ControlError> {
        let request = ShutdownRequest { grace_period_seconds: grace_seconds };
        self.call(at, put("/v1/shutdown", json(&request), Duration::ZERO)).await
    }

    /// Stops the virtual CPUs.
    ///
    /// # Errors
    /// [`ControlError`]; refused without a running machine.
    pub async fn pause(&self, at: SocketAddr) -> Result<MachineStatus, ControlError> {
        self.call(at, put("/v1/pause", Bytes::new(), Duration::ZERO)).await
    }

    /// Lets them run on.
    ///
    /// # Errors
    /// [`ControlError`]; refused without a machine.
    pub async fn unpause(&self, at: SocketAddr) -> Result<MachineStatus, ControlError> {
        self.call(at, put("/v1/unpause", Bytes::new(), Duration::ZERO)).await
    }

    /// Resets the machine, as its reset button would.
    ///
    /// # Errors
    /// [`ControlError`]; refused without a machine.
    pub async fn reset(&self, at: SocketAddr) -> Result<MachineStatus, ControlError> {
        let call = Call { repeat: Repeat::Harmful, ..put("/v1/reset", Bytes::new(), Duration::ZERO) };
        self.call(at, call).await
    }

    /// Has the guest restart by its agent, or without one by its power button, within whatever time it takes; where its
    /// reboot policy is `Terminate` the machine ends then.
    ///
    /// # Errors
    /// [`ControlError`]; refused where the agent refuses or does not answer, and without one: without a machine, without a
    /// power button, and while it is being shut down.
    pub async fn soft_reboot(&self, at: SocketAddr) -> Result<MachineStatus, ControlError> {
        let call = Call { repeat: Repeat::Harmful, ..put("/v1/softreboot", Bytes::new(), Duration::ZERO) };
        self.call(at, call).await
    }

    /// Attaches to the serial port, over a connection of its own.
    ///
    /// # Errors
    /// [`ControlError`]; refused where too many have.
    pub async fn console(&self, at: SocketAddr, how: Attach) -> Result<Console, ControlError> {
        self.upgraded(at, &console::uri(how), console::UPGRADE.protocol, Duration::ZERO)
            .await
            .map(Console::new)
    }

    /// Connects to a TCP port of the guest, over a connection of its own.
    ///
    /// # Errors
    /// [`ControlError`]; refused with 502 where the guest does not take it.
    pub async fn connect_to_guest(
        &self,
        at: SocketAddr,
        port: u16,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, ControlError> {
        let upgraded =
            self.upgraded(at, &port_forward::uri(port), port_forward::UPGRADE.protocol, DIAL_LIMIT).await;
        upgraded.map(TokioIo::new)
    }

    /// Connects to the VNC of the display, over a connection of its own. Whoever has it is put off, unless that is to be
    /// preserved.
    ///
    /// # Errors
    /// [`ControlError`]; refused with 409 without a display, and with 503 where another client is preserved.
    pub async fn vnc(
        &self,
        at: SocketAddr,
        preserve: bool,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, ControlError> {
        self.upgraded(at, &vnc::uri(preserve), vnc::UPGRADE.protocol, Duration::ZERO).await.map(TokioIo::new)
    }

    /// A picture of the display, a PNG; the mouse may be moved before, for a screen that has gone dark.
    ///
    /// # Errors
    /// [`ControlError`]; refused without a display.
    pub async fn screenshot(&self, at: SocketAddr, move_cursor: bool) -> Result<Bytes, ControlError> {
        let call = get(format!("/v1/screenshot?moveCursor={move_cursor}"), Duration::ZERO);
        self.fetch(at, call, MAX_SCREENSHOT_BYTES).await
    }

    /// What the agent in the guest says of it.
    ///
    /// # Errors
    /// [`ControlError`]; refused with 409 without an agent, and with 502 where it does not answer.
    pub async fn guest_info(&self, at: SocketAddr) -> Result<GuestAgentInfo, ControlError> {
        self.guest(at, get("/v1/guest/info".to_owned(), CALL_LIMIT)).await
    }

    /// Who is logged in to the guest.
    ///
    /// # Errors
    /// As of [`Client::guest_info`].
    pub async fn guest_users(&self, at: SocketAddr) -> Result<Vec<GuestUser>, ControlError> {
        self.guest(at, get("/v1/guest/users".to_owned(), CALL_LIMIT)).await
    }

    /// The guest's file systems.
    ///
    /// # Errors
    /// As of [`Client::guest_info`].
    pub async fn guest_file_systems(&self, at: SocketAddr) -> Result<Vec<GuestFileSystem>, ControlError> {
        self.guest(at, get("/v1/guest/filesystems".to_owned(), CALL_LIMIT)).await
    }

    /// Holds the guest's file systems still, for this many seconds at most unless that is 0.
    ///
    /// # Errors
    /// As of [`Client::guest_info`].
    pub async fn freeze(&self, at: SocketAddr, unfreeze_after_seconds: u64) -> Result<(), ControlError> {
        let body = json(&FreezeRequest { unfreeze_after_seconds });
        self.guest(at, put("/v1/guest/freeze", body, CALL_LIMIT)).await
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// As of [`Client::guest_info`].
    pub async fn unfreeze(&self, at: SocketAddr) -> Result<(), ControlError> {
        self.guest(at, put("/v1/guest/unfreeze", Bytes::new(), CALL_LIMIT)).await
    }

    async fn guest<T: DeserializeOwned>(&self, at: SocketAddr, call: Call) -> Result<T, ControlError> {
        read_document(at, &self.fetch(at, call, MAX_GUEST_BYTES).await?)
    }

    /// The body of an answer of 200, over a connection of its own.
    async fn fetch(&self, at: SocketAddr, call: Call, most_bytes: usize) -> Result<Bytes, ControlError> {
        let limit = call.patience + ANSWER_LIMIT;
        let request = Request::builder().method(call.method).uri(call.path);
        self.ask(at, request, call.body, limit, async |response| {
            let (head, body) = response.into_parts();
            let body = collect(body, most_bytes).await.map_err(|reason| unreachable(at, reason))?;
            if head.status == StatusCode::OK {
                return Ok(body);
            }
            Err(refused(at, head.status, &body))
        })
        .await
    }

    /// A connection that has become something else than HTTP. The launcher may mean to wait for `patience` before.
    async fn upgraded(
        &self,
        at: SocketAddr,
        uri: &str,
        protocol: &str,
        patience: Duration,
    ) -> Result<Upgraded, ControlError> {
        let request = Request::get(uri)
            .header(http::header::CONNECTION, "upgrade")
            .header(http::header::UPGRADE, protocol);
        self.ask(at, request, Bytes::new(), patience + ANSWER_LIMIT, async |response| {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                let upgraded = hyper::upgrade::on(response).await;
                return upgraded.map_err(|error| unreachable(at, described(&error)));
            }
            let (head, body) = response.into_parts();
            let body = collect(body, MAX_ANSWER_BYTES).await.map_err(|reason| unreachable(at, reason))?;
            match read_answer(at, head.status, &body) {
                Ok(_) => Err(unreachable(at, format!("it answers with a status and no `{protocol}`"))),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Asks over a connection of its own for something that is no status, which `read` takes from the answer.
    async fn ask<T>(
        &self,
        at: SocketAddr,
        request: http::request::Builder,
        body: Bytes,
        limit: Duration,
        read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, ControlError>,
    ) -> Result<T, ControlError> {
        let mut sender = self.connect(at).await?;
        let request = request.header(http::header::HOST, at.to_string());
        let request = request.body(Full::new(body)).map_err(|error| unreachable(at, error.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await;
            read(response.map_err(|error| unreachable(at, described(&error)))?).await
        };
        let late = |_| unreachable(at, format!("no answer within {limit:?}"));
        timeout(limit, answer).await.map_err(late)?
    }

    /// Sends over an idle connection where there is one. It may just have been closed by the other side: then, and if
    /// that does no harm, once more over a new one.
    async fn call(&self, at: SocketAddr, call: Call) -> Result<MachineStatus, ControlError> {
        if let Some(sender) = self.idle(at) {
            match self.exchange(at, sender, &call).await {
                Err(Broken::Before) => {}
                Err(Broken::Perhaps(_)) if call.repeat == Repeat::Harmless => {}
                Err(Broken::Perhaps(reason)) => {
                    return Err(unreachable(at, reason));
                }
                Ok(answer) => return answer,
            }
        }
        let sender = self.connect(at).await?;
        self.exchange(at, sender, &call).await.unwrap_or_else(|broken| {
            let reason = match broken {
                Broken::Before => "the connection was closed".to_owned(),
                Broken::Perhaps(reason) => reason,
            };
            Err(unreachable(at, reason))
        })
    }

    async fn exchange(
        &self,
        at: SocketAddr,
        mut sender: Sender,
        call: &Call,
    ) -> Result<Result<MachineStatus, ControlError>, Broken> {
        let request = request(at, call.clone()).map_err(|error| Broken::Perhaps(error.to_string()))?;
        let limit = call.patience + ANSWER_LIMIT;
        let answer = async {
            // Ready once the task of the connection has put the last answer away; an error when it has ended.
            sender.ready().await.map_err(|_| Broken::Before)?;
            let response = sender.send_request(request).await.map_err(|error| {
                if error.is_canceled() { Broken::Before } else { Broken::Perhaps(described(&error)) }
            })?;
            let (head, body) = response.into_parts();
            let body = collect(body, MAX_ANSWER_BYTES).await.map_err(Broken::Perhaps)?;
            Ok((head.status, body))
        };
        let late = || Ok(Err(unreachable(at, format!("no answer within {limit:?}"))));
        let (status, body) = match timeout(limit, answer).await {
            Ok(answer) => answer?,
            // Not a broken connection: it is not tried again at once.
            Err(_) => return late(),
        };
        self.keep(at, sender);
        Ok(read_answer(at, status, &body))
    }

    async fn connect(&self, at: SocketAddr) -> Result<Sender, ControlError> {
        let unreachable = |reason| unreachable(at, reason);
        let connect = async {
            let stream = TcpStream::connect(at).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let name = ServerName::IpAddress(at.ip().into());
            let stream = self.0.connector.connect(name, stream).await.map_err(|error| described(&error))?;
            http1::Builder::new()
                .max_buf_size(HEAD_BUFFER_BYTES)
                .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(|error| described(&error))
        };
        let (sender, connection) = timeout(CONNECT_LIMIT, connect)
            .await
            .map_err(|_| unreachable(format!("no connection within {CONNECT_LIMIT:?}")))?
            .map_err(unreachable)?;
        let inner = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            // How it ended is told to whoever waits for an answer; nobody else has to know.
            let _ = connection.with_upgrades().await;
            forget_closed(&inner, at);
        });
        Ok(sender)
    }

    fn idle(&self, at: SocketAddr) -> Option<Sender> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = idle.get_mut(&at)?;
        while let Some(sender) = senders.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, at: SocketAddr, sender: Sender) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = idle.entry(at).or_default();
        if senders.len() < IDLE_CONNECTIONS {
            senders.push(sender);
        }
    }
}

/// How a connection ended a request.
enum Broken {
    /// Before anything of it was sent.
    Before,
    /// Perhaps after the launcher had read it; with the reason.
    Perhaps(String),
}

/// Drops what is kept of a connection that has ended.
fn forget_closed(inner: &Weak<Inner>, at: SocketAddr) {
    let Some(inner) = inner.upgrade() else { return };
    let mut idle = inner.idle.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(senders) = idle.get_mut(&at) {
        senders.retain(|sender| !sender.is_closed());
        if senders.is_empty() {
            idle.remove(&at);
        }
    }
}

fn request(at: SocketAddr, call: Call) -> http::Result<Request<Full<Bytes>>> {
    Request::builder()
        .method(call.method)
        .uri(call.path)
        .header(http::header::HOST, at.to_string())
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Full::new(call.body))
}

fn get(path: String, patience: Duration) -> Call {
    Call { method: Method::GET, path, body: Bytes::new(), patience, repeat: Repeat::Harmless }
}

fn put(path: &str, body: Bytes, patience: Duration) -> Call {
    Call { method: Method::PUT, path: path.to_owned(), body, patience, repeat: Repeat::Harmless }
}

/// Our own types always have a JSON form; should one not, the launcher refuses the empty body.
fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).map_or_else(|_| Bytes::new(), Bytes::from)
}

async fn collect(body: Incoming, most_bytes: usize) -> Result<Bytes, String> {
    match Limited::new(body, most_bytes).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(error.to_string()),
    }
}

fn read_answer(at: SocketAddr, status: StatusCode, body: &[u8]) -> Result<MachineStatus, ControlError> {
    if status == StatusCode::OK {
        return read_document(at, body);
    }
    Err(refused(at, status, body))
}

fn unreachable(address: SocketAddr, reason: String) -> ControlError {
    ControlError::Unreachable { address, reason }
}

fn read_document<T: DeserializeOwned>(at: SocketAddr, body: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(body).map_err(|error| ControlError::Unreachable {
        address: at,
        reason: format!("its answer is not what was asked for: {error}"),
    })
}

fn refused(at: SocketAddr, status: StatusCode, body: &[u8]) -> ControlError {
    let reason = serde_json::from_slice::<Refusal>(body)
        .map_or_else(|_| format!("the launcher at {at} answered {status}"), |refusal| refusal.error);
    ControlError::Refused { code: status.as_u16(), reason }
}

/// An error with its causes, in one line.
fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
