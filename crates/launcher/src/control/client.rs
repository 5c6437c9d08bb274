//! The asking half: connections to many launchers, kept while they are of use.
//!
//! A launcher is asked for its status all the time and seldom answers, so a server of a thousand machines has a thousand
//! requests under way. Those are written and read here, over a connection that has no buffer while it waits (hyper's
//! take 26 KB, more than all else of a machine). What happens now and then goes through hyper.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
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
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::console::{self, Console};
use super::guest::FreezeRequest;
use super::port_forward;
use super::probe;
use super::tls::{Identity, IdentityError, client_config};
use super::vnc;
use super::{POLL_PATIENCE, Refusal, START_PATIENCE, ShutdownRequest};
use crate::guest_agent::CALL_LIMIT;
use crate::network::{DIAL_LIMIT, Protocol};
use crate::probe::{ProbeKind, ProbeOutcome};
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

/// What hyper may buffer of a head, in bytes (its least), and the longest head that is read here.
const HEAD_BUFFER_BYTES: usize = 8192;

/// Most headers of an answer; a launcher sends three.
const MOST_HEADERS: usize = 32;

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
    idle: Mutex<HashMap<SocketAddr, Vec<Connection>>>,
}

type Connection = TlsStream<TcpStream>;

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

    /// Connects to a port of the guest, over a connection of its own. Of a UDP port each datagram is a
    /// [`Frame`](crate::network::Frame).
    ///
    /// # Errors
    /// [`ControlError`]; refused with 502 where the guest does not take it.
    pub async fn connect_to_guest(
        &self,
        at: SocketAddr,
        protocol: Protocol,
        port: u16,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, ControlError> {
        let uri = port_forward::uri(protocol, port);
        self.upgraded(at, &uri, port_forward::UPGRADE.protocol, DIAL_LIMIT).await.map(TokioIo::new)
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

    /// One attempt at a probe of the instance, which has `limit`, its `timeoutSeconds`.
    ///
    /// # Errors
    /// [`ControlError`]; refused with 404 where the instance has no such probe, and with 409 while it has no machine. That
    /// the attempt fails is no error.
    pub async fn probe(
        &self,
        at: SocketAddr,
        kind: ProbeKind,
        limit: Duration,
    ) -> Result<ProbeOutcome, ControlError> {
        self.guest(at, get(probe::path(kind), limit)).await
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
        timeout(limit, answer).await.map_err(|_| late(at, limit))?
    }

    /// Sends over an idle connection where there is one. It may just have been closed by the other side: then, and if
    /// that does no harm, once more over a new one.
    async fn call(&self, at: SocketAddr, call: Call) -> Result<MachineStatus, ControlError> {
        let unreachable = |reason| unreachable(at, reason);
        if let Some(connection) = self.idle(at) {
            match self.exchange(at, connection, &call).await {
                Err(_) if call.repeat == Repeat::Harmless => {}
                answer => return answer.unwrap_or_else(|reason| Err(unreachable(reason))),
            }
        }
        let connection = self.dial(at).await?;
        self.exchange(at, connection, &call).await.unwrap_or_else(|reason| Err(unreachable(reason)))
    }

    /// One request and its answer; why the connection broke, perhaps after the launcher had read the request.
    async fn exchange(
        &self,
        at: SocketAddr,
        mut connection: Connection,
        call: &Call,
    ) -> Result<Result<MachineStatus, ControlError>, String> {
        let limit = call.patience + ANSWER_LIMIT;
        let answer = async {
            connection.write_all(&written(at, call)).await.map_err(|error| described(&error))?;
            connection.flush().await.map_err(|error| described(&error))?;
            read(&mut connection).await
        };
        let (head, body) = match timeout(limit, answer).await {
            Ok(answer) => answer?,
            // Not a broken connection: it is not tried again at once.
            Err(_) => return Ok(Err(late(at, limit))),
        };
        if !head.is_last {
            self.keep(at, connection);
        }
        Ok(read_answer(at, head.status, &body))
    }

    async fn dial(&self, at: SocketAddr) -> Result<Connection, ControlError> {
        let unreachable = |reason| unreachable(at, reason);
        self.forget_closed();
        let dial = async {
            let stream = TcpStream::connect(at).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let name = ServerName::IpAddress(at.ip().into());
            self.0.connector.connect(name, stream).await.map_err(|error| described(&error))
        };
        timeout(CONNECT_LIMIT, dial)
            .await
            .map_err(|_| unreachable(format!("no connection within {CONNECT_LIMIT:?}")))?
            .map_err(unreachable)
    }

    /// A connection of its own in hyper's hands.
    async fn connect(&self, at: SocketAddr) -> Result<SendRequest<Full<Bytes>>, ControlError> {
        let stream = self.dial(at).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(at, described(&error)))?;
        tokio::spawn(async move {
            // How it ended is told to whoever waits for an answer; nobody else has to know.
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    fn idle(&self, at: SocketAddr) -> Option<Connection> {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.get_mut(&at)?;
        while let Some(connection) = connections.pop() {
            if is_open(&connection) {
                return Some(connection);
            }
        }
        None
    }

    fn keep(&self, at: SocketAddr, connection: Connection) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.entry(at).or_default();
        if connections.len() < IDLE_CONNECTIONS {
            connections.push(connection);
        }
    }

    /// Drops the connections that their launchers have closed. Few are idle at a time, most wait for an answer.
    fn forget_closed(&self) {
        let mut idle = self.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, connections| {
            connections.retain(is_open);
            !connections.is_empty()
        });
    }
}

/// Whether an idle connection has not ended: a launcher says nothing unless it is asked.
fn is_open(connection: &Connection) -> bool {
    let (socket, _) = connection.get_ref();
    let seen = recv(socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(seen, Err(Errno::AGAIN))
}

/// The request, as HTTP/1.1 has it.
fn written(at: SocketAddr, Call { method, path, body, .. }: &Call) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {at}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// What is said before the body of an answer.
struct Head {
    status: StatusCode,
    /// Bytes before the body.
    length: usize,
    body_length: usize,
    /// The launcher closes the connection.
    is_last: bool,
}

/// Reads an answer. There is no buffer before its first byte is there.
async fn read(connection: &mut Connection) -> Result<(Head, Vec<u8>), String> {
    let mut bytes = vec![connection.read_u8().await.map_err(|error| described(&error))?];
    let head = loop {
        if let Some(head) = read_head(&bytes)? {
            break head;
        }
        if bytes.len() >= HEAD_BUFFER_BYTES {
            return Err(format!("its answer's head has more than {HEAD_BUFFER_BYTES} bytes"));
        }
        receive(connection, &mut bytes).await?;
    };
    let length = head.body_length;
    if length > MAX_ANSWER_BYTES {
        return Err(format!("its answer has {length} bytes, and {MAX_ANSWER_BYTES} are the most"));
    }
    let mut body = bytes.split_off(head.length);
    while body.len() < length {
        receive(connection, &mut body).await?;
    }
    body.truncate(length);
    Ok((head, body))
}

async fn receive(connection: &mut Connection, bytes: &mut Vec<u8>) -> Result<(), String> {
    match connection.read_buf(bytes).await {
        Ok(0) => Err("the connection was closed before the end of the answer".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(described(&error)),
    }
}

/// The head of an answer; `None` while there is more of it to come. A launcher says how long its answers are.
fn read_head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let fault = |what: &dyn std::fmt::Display| format!("its answer is no HTTP: {what}");
    let httparse::Status::Complete(length) = response.parse(bytes).map_err(|error| fault(&error))? else {
        return Ok(None);
    };
    // What is complete has a code; what is no text is none of the headers that count.
    let status = StatusCode::from_u16(response.code.unwrap_or_default()).map_err(|error| fault(&error))?;
    let header = |name: &str| {
        let mut found = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        found.next().and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let body_length = header("content-length").and_then(|length| length.parse().ok());
    let body_length = body_length.ok_or_else(|| fault(&"it does not say how long it is"))?;
    let is_last = header("connection").is_some_and(|word| word.eq_ignore_ascii_case("close"));
    Ok(Some(Head { status, length, body_length, is_last }))
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

fn late(address: SocketAddr, limit: Duration) -> ControlError {
    unreachable(address, format!("no answer within {limit:?}"))
}

fn read_document<T: DeserializeOwned>(at: SocketAddr, body: &[u8]) -> Result<T, ControlError> {
    serde_json::from_slice(body)
        .map_err(|error| unreachable(at, format!("its answer is not what was asked for: {error}")))
}

fn refused(at: SocketAddr, status: StatusCode, body: &[u8]) -> ControlError {
    let reason = serde_json::from_slice::<Refusal>(body)
        .map_or_else(|_| format!("the launcher at {at} answered {status}"), |refusal| refusal.error);
    ControlError::Refused { code: status.as_u16(), reason }
}

/// An error with its causes, in one line.
pub(crate) fn described(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Status, where the body begins, its length, and whether the answer is the last.
    fn head(text: &str) -> Result<Option<(u16, usize, usize, bool)>, String> {
        let found = read_head(text.as_bytes())?;
        Ok(found.map(|head| (head.status.as_u16(), head.length, head.body_length, head.is_last)))
    }

    #[test]
    fn a_head_is_read_once_it_is_whole() {
        let whole = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(head(&whole[..end]), Ok(None), "{end}");
        }
        let start = whole.len();
        assert_eq!(head(&format!("{whole}{{}}")), Ok(Some((200, start, 2, false))));
        let last = "HTTP/1.1 409 Conflict\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(head(last), Ok(Some((409, last.len(), 0, true))));
    }

    #[test]
    fn what_is_no_answer_is_told() {
        let no_length = "its answer is no HTTP: it does not say how long it is".to_owned();
        assert_eq!(head("HTTP/1.1 200 OK\r\n\r\n"), Err(no_length.clone()));
        assert_eq!(head("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"), Err(no_length));
        assert_eq!(head("SSH-2.0"), Err("its answer is no HTTP: invalid HTTP version".to_owned()));
        let many = format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(MOST_HEADERS + 1));
        assert_eq!(head(&many), Err("its answer is no HTTP: too many headers".to_owned()));
    }
}
