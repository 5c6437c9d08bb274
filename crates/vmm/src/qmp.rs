//! The QEMU Machine Protocol: one JSON object a line, commands with ids in one direction, replies and events
//! in the other (QEMU, `docs/interop/qmp-spec`).
//!
//! Supervision must outlive anything that a newer QEMU may say, so nothing is decoded further than the
//! protocol itself needs: events are a name and a JSON value, replies are JSON values.
//!
//! ```text
//!  execute() ─ line ─► writer task ─► socket ─► reader task ─┬─ {"return"|"error", "id"} ─► the waiting call
//!      ▲                                                      └─ {"event"} ─► bounded queue ─► next_event()
//!      └────────────── oneshot, removed when the call ends or is dropped ◄─┘
//! ```
//!
//! # Guarantees
//! - A call ends: with its reply, with an error, or after its time limit.
//! - A call that is dropped or late leaves nothing behind; its reply is ignored when it comes.
//! - Whole lines are written even if the caller is dropped in the middle, since another task writes.
//! - An unknown event, an unknown member or an unknown reply never ends the connection. What is no JSON
//!   object, or longer than [`MAX_LINE_BYTES`], does: the stream cannot be trusted after that. All waiting
//!   calls then fail with the reason.
//! - At most [`EVENT_QUEUE_LENGTH`] events wait; beyond that the oldest are dropped and counted.
//!
//! # Assumptions
//! Runs inside a tokio runtime (any flavour). Dropping [`Qmp`] ends both tasks.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longest line accepted, in bytes. The longest replies in use (`query-qmp-schema`, about 200 KiB) stay far
/// below.
pub const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;

/// Events that may wait to be read.
pub const EVENT_QUEUE_LENGTH: usize = 256;

/// Commands that may wait to be written.
const COMMAND_QUEUE_LENGTH: usize = 32;

/// Something that happened in QEMU, as it told.
#[derive(Debug, Clone, PartialEq)]
pub struct QmpEvent {
    /// The event's name, e.g. `SHUTDOWN`.
    pub name: String,
    /// Its data, `Null` when it has none.
    pub data: Value,
}

/// Why a command or the connection failed.
///
/// Only [`QmpError::TimedOut`] is worth a retry: QEMU may be busy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QmpError {
    /// The greeting did not come or was none.
    #[error("cannot start a QMP session: {reason}")]
    Handshake {
        /// What came instead.
        reason: String,
    },
    /// QEMU refused the command.
    #[error("QEMU refused `{command}`: {description} ({class})")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's class of error, e.g. `GenericError`.
        class: String,
        /// QEMU's text.
        description: String,
    },
    /// No reply within the time limit.
    #[error("QEMU did not answer `{command}` within {} ms", limit.as_millis())]
    TimedOut {
        /// The command.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// The connection is over.
    #[error("the QMP connection is closed: {reason}")]
    Closed {
        /// Why.
        reason: String,
    },
}

/// A QMP session.
#[derive(Debug)]
pub struct Qmp {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Vec<u8>>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
    greeting: Value,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    pending: HashMap<u64, oneshot::Sender<Value>>,
    events: VecDeque<QmpEvent>,
    dropped_events: u64,
    /// Why the connection ended, once it has.
    closed: Option<String>,
}

impl Shared {
    /// The state; a panic of another holder cannot have left it half-changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, reason: String) {
        let mut state = self.state();
        if state.closed.is_none() {
            tracing::debug!(%reason, "QMP connection closed");
            state.closed = Some(reason);
        }
        // Dropping the senders wakes every waiting call.
        state.pending.clear();
        drop(state);
        self.changed.notify_waiters();
    }

    fn closed_error(&self) -> QmpError {
        QmpError::Closed { reason: self.state().closed.clone().unwrap_or_else(|| "ended".to_owned()) }
    }
}

/// Removes a call's entry whichever way the call ends.
struct PendingCall<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for PendingCall<'_> {
    fn drop(&mut self) {
        self.shared.state().pending.remove(&self.id);
    }
}

impl Qmp {
    /// Reads the greeting and leaves negotiation mode. No capability is asked for: nothing here needs
    /// out-of-band execution, and without it replies come in the order of the commands.
    ///
    /// # Errors
    /// [`QmpError::Handshake`] when no greeting comes within `limit`, or the peer is not QMP.
    pub async fn start<S>(stream: S, limit: Duration) -> Result<Self, QmpError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let handshake = |reason: String| QmpError::Handshake { reason };
        let (read_half, write_half) = tokio::io::split(stream);
        let mut lines = BufReader::new(read_half);
        let mut line = Vec::new();
        let first = timeout(limit, read_line(&mut lines, &mut line)).await;
        let greeting: Value = match first {
            Err(_) => return Err(handshake(format!("no greeting within {} ms", limit.as_millis()))),
            Ok(Err(error)) => return Err(handshake(error.to_string())),
            Ok(Ok(false)) => return Err(handshake("the peer closed the connection".to_owned())),
            Ok(Ok(true)) => {
                serde_json::from_slice(&line).map_err(|error| handshake(format!("not JSON: {error}")))?
            }
        };
        let greeting = match greeting.get("QMP") {
            Some(greeting) => greeting.clone(),
            None => return Err(handshake("the first line is no QMP greeting".to_owned())),
        };
        let shared = Arc::new(Shared::default());
        let (commands, to_write) = mpsc::channel(COMMAND_QUEUE_LENGTH);
        let session = Self {
            reader: tokio::spawn(read_all(lines, Arc::clone(&shared))),
            writer: tokio::spawn(write_all(write_half, to_write, Arc::clone(&shared))),
            shared,
            commands,
            greeting,
        };
        session.execute("qmp_capabilities", Value::Null, limit).await.map_err(|error| match error {
            QmpError::Handshake { .. } => error,
            other => handshake(other.to_string()),
        })?;
        Ok(session)
    }

    /// What QEMU said of itself in its greeting.
    pub fn greeting(&self) -> &Value {
        &self.greeting
    }

    /// Runs one command and gives what it returns. `arguments` is an object, or `Null` for none.
    ///
    /// May be dropped at any point: the command may or may not run then, and its reply is ignored.
    ///
    /// # Errors
    /// Each of [`QmpError`] but `Handshake`.
    pub async fn execute(&self, command: &str, arguments: Value, limit: Duration) -> Result<Value, QmpError> {
        let (call, reply) = self.register()?;
        let mut message = json!({ "execute": command, "id": call.id });
        if let (Value::Object(message), false) = (&mut message, arguments.is_null()) {
            message.insert("arguments".to_owned(), arguments);
        }
        let mut line = message.to_string().into_bytes();
        line.push(b'\n');
        let exchange = async {
            self.commands.send(line).await.map_err(|_| self.shared.closed_error())?;
            reply.await.map_err(|_| self.shared.closed_error())
        };
        let reply = timeout(limit, exchange)
            .await
            .map_err(|_| QmpError::TimedOut { command: command.to_owned(), limit })??;
        drop(call);
        outcome(command, reply)
    }

    fn register(&self) -> Result<(PendingCall<'_>, oneshot::Receiver<Value>), QmpError> {
        let mut state = self.shared.state();
        if let Some(reason) = &state.closed {
            return Err(QmpError::Closed { reason: reason.clone() });
        }
        let id = state.next_id;
        state.next_id += 1;
        let (sender, receiver) = oneshot::channel();
        state.pending.insert(id, sender);
        Ok((PendingCall { shared: &self.shared, id }, receiver))
    }

    /// The next event, in the order QEMU sent them; `None` once the connection is closed and all are read.
    ///
    /// Cancel safe: an event is taken only when it is returned.
    pub async fn next_event(&self) -> Option<QmpEvent> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            // Listening starts before looking, so that nothing can happen in between unseen.
            changed.as_mut().enable();
            {
                let mut state = self.shared.state();
                if let Some(event) = state.events.pop_front() {
                    return Some(event);
                }
                if state.closed.is_some() {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// Events that had to be dropped since the session started.
    pub fn dropped_events(&self) -> u64 {
        self.shared.state().dropped_events
    }

    /// Why the connection ended, if it has.
    pub fn closed_reason(&self) -> Option<String> {
        self.shared.state().closed.clone()
    }

    #[cfg(test)]
    fn pending_calls(&self) -> usize {
        self.shared.state().pending.len()
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

/// What a reply means for the call.
fn outcome(command: &str, mut reply: Value) -> Result<Value, QmpError> {
    if let Some(value) = reply.get_mut("return") {
        return Ok(value.take());
    }
    let text = |member: &str| {
        reply.pointer(&format!("/error/{member}")).and_then(Value::as_str).unwrap_or("unknown").to_owned()
    };
    Err(QmpError::Refused { command: command.to_owned(), class: text("class"), description: text("desc") })
}

/// Sorts what QEMU says until it stops saying it.
async fn read_all(mut lines: impl AsyncBufRead + Unpin, shared: Arc<Shared>) {
    let mut line = Vec::new();
    let reason = loop {
        match read_line(&mut lines, &mut line).await {
            Ok(true) => {}
            Ok(false) => break "the peer closed the connection".to_owned(),
            Err(error) => break error.to_string(),
        }
        match serde_json::from_slice(&line) {
            Ok(Value::Object(message)) => dispatch(Value::Object(message), &shared),
            Ok(_) => break "the peer sent JSON that is no object".to_owned(),
            Err(error) => break format!("the peer sent no JSON: {error}"),
        }
    };
    shared.close(reason);
}

fn dispatch(mut message: Value, shared: &Shared) {
    if let Some(name) = message.get("event").and_then(Value::as_str) {
        let name = name.to_owned();
        let data = message.get_mut("data").map(Value::take).unwrap_or_default();
        let mut state = shared.state();
        if state.events.len() == EVENT_QUEUE_LENGTH {
            state.events.pop_front();
            state.dropped_events += 1;
        }
        state.events.push_back(QmpEvent { name, data });
        drop(state);
        shared.changed.notify_waiters();
        return;
    }
    let waiting = message.get("id").and_then(Value::as_u64).and_then(|id| shared.state().pending.remove(&id));
    match waiting {
        // The call may have ended in this very moment; then nobody wants the reply.
        Some(call) => drop(call.send(message)),
        None => tracing::debug!("ignoring a QMP message that nobody waits for"),
    }
}

async fn write_all(
    mut stream: impl AsyncWrite + Unpin,
    mut commands: mpsc::Receiver<Vec<u8>>,
    shared: Arc<Shared>,
) {
    while let Some(line) = commands.recv().await {
        if let Err(error) = stream.write_all(&line).await {
            shared.close(format!("cannot write: {error}"));
            return;
        }
    }
}

/// Reads one line without its end into `line`; `false` at the end of the stream. Never holds more than
/// [`MAX_LINE_BYTES`] and one buffer.
async fn read_line(lines: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    loop {
        let chunk = lines.fill_buf().await?;
        if chunk.is_empty() {
            return if line.is_empty() {
                Ok(false)
            } else {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended inside a line"))
            };
        }
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let part = &chunk[..end.unwrap_or(chunk.len())];
        if line.len() + part.len() > MAX_LINE_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a line is longer than {MAX_LINE_BYTES} bytes"),
            ));
        }
        line.extend_from_slice(part);
        let consumed = part.len() + usize::from(end.is_some());
        lines.consume(consumed);
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
#[path = "qmp_tests.rs"]
mod tests;
