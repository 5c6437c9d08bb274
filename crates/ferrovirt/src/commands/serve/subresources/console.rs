//! `GET …/virtualmachineinstances/NAME/console`: the serial console over a WebSocket, as virtctl speaks it.
//!
//! Messages are binary and have the bytes as they are; text is not for the guest and is dropped. The launcher is asked
//! before the WebSocket opens, so that whatever is in the way is an ordinary answer. The guest's end closes the WebSocket;
//! when another client takes the console, the connection ends without (RFC 6455 calls that 1006), by which virtctl knows.
//!
//! `readOnly=true` only looks, beside whoever types; `replay=true` begins with what is kept of this boot. KubeVirt has
//! neither.

use std::io;
use std::time::Duration;

use apiserver::http::extension::{Call, Response};
use apiserver::status::ApiError;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use bytes::{Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use launcher::control;
use launcher::network::Frame;
use launcher::serial_port::Attach;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::super::metrics::{Connection, Connections, Stream};
use super::instance::Instance;

/// KubeVirt's sub-protocol: a stream of bytes.
const PROTOCOL: &str = "plain.kubevirt.io";

/// Longest message from a client, in bytes: what somebody pastes is in one.
const MOST_MESSAGE_BYTES: usize = 16 << 20;

/// Longest datagram, in bytes: of UDP over IPv4 (RFC 768, RFC 791).
const MOST_DATAGRAM_BYTES: usize = 65_535 - 20 - 8;

/// Bytes that are read of a launcher at a time.
const PIECE_BYTES: usize = 32 << 10;

/// How often a client that says nothing is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long a client may take for the farewell.
const FAREWELL: Duration = Duration::from_secs(2);

/// Answers with the console.
pub async fn open(
    call: Call,
    launchers: Option<control::Client>,
    connections: &Connections,
) -> Result<Response, ApiError> {
    let how = Attach { read_only: call.query.flag("readOnly"), replay: call.query.flag("replay") };
    let instance = Instance::of(&call, launchers);
    let connection = connections.open(Stream::Console, &call.info.namespace, &call.info.name);
    upgraded(call, instance.console(how), Messages::Stream, connection).await
}

/// Answers with a WebSocket to what `guest` comes to. Who sends no WebSocket's head is told of the guest first, as by
/// KubeVirt.
pub(super) async fn upgraded<S>(
    call: Call,
    guest: impl Future<Output = Result<S, ApiError>>,
    messages: Messages,
    mut connection: Connection,
) -> Result<Response, ApiError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let stopped = call.stopped();
    let (mut head, _) = call.request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut head, &()).await;
    let guest = guest.await?;
    connection.established();
    let upgrade = upgrade.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let most_bytes = messages.most_bytes();
    let upgrade = upgrade.protocols([PROTOCOL]).max_message_size(most_bytes).max_frame_size(most_bytes);
    Ok(upgrade.on_upgrade(move |socket| carry(socket, guest, messages, stopped, connection)))
}

/// What messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Messages {
    /// Bytes of a stream, cut anyhow; an empty one says nothing.
    Stream,
    /// The same, but an empty one of the client's says that it says no more, while it still listens. KubeVirt's clients
    /// send none, and its server ignores it.
    StreamWithEnd,
    /// Datagrams, on the launcher's side a [`Frame`] each.
    Datagrams,
}

impl Messages {
    /// The longest that is taken of a client.
    fn most_bytes(self) -> usize {
        match self {
            Self::Stream | Self::StreamWithEnd => MOST_MESSAGE_BYTES,
            Self::Datagrams => MOST_DATAGRAM_BYTES,
        }
    }

    /// The next message out of what the launcher has said; `None` when more has to be read.
    fn next(self, said: &mut BytesMut) -> io::Result<Option<Bytes>> {
        match self {
            Self::Datagrams => Frame::split(said),
            Self::Stream | Self::StreamWithEnd => Ok((!said.is_empty()).then(|| said.split().freeze())),
        }
    }
}

/// Carries bytes until either side ends, or the server does. The connection is counted until then.
async fn carry(
    socket: WebSocket,
    console: impl AsyncRead + AsyncWrite + Send,
    messages: Messages,
    stopped: impl Future<Output = ()> + Send,
    _counted: Connection,
) {
    let (mut to_client, from_client) = socket.split();
    let (said, typed) = tokio::io::split(console);
    let why = tokio::select! {
        why = tell(said, &mut to_client, messages) => why,
        () = type_in(from_client, typed, messages) => None,
        () = stopped => Some(close_code::AWAY),
    };
    if let Some(code) = why {
        let farewell = async {
            let close = CloseFrame { code, reason: "".into() };
            // Who is gone needs no farewell.
            let _ = to_client.send(Message::Close(Some(close))).await;
            let _ = to_client.close().await;
        };
        // Late: the connection is closed without it.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
}

/// Hands on what the guest says; the code to close with when it has said its last.
async fn tell(
    mut said: impl AsyncRead + Unpin,
    to_client: &mut SplitSink<WebSocket, Message>,
    messages: Messages,
) -> Option<u16> {
    let mut buffer = BytesMut::new();
    let mut pings = tokio::time::interval(PING_INTERVAL);
    loop {
        buffer.reserve(PIECE_BYTES);
        let told = tokio::select! {
            read = said.read_buf(&mut buffer) => match read {
                Ok(0) => return Some(close_code::NORMAL),
                Ok(_) => tell_all(&mut buffer, to_client, messages).await,
                // Another client has taken the console, or the launcher was killed.
                Err(error) => {
                    tracing::debug!(%error, "a console ends");
                    return None;
                }
            },
            _ = pings.tick() => to_client.send(Message::Ping(Bytes::new())).await.map_err(io::Error::other),
        };
        if let Err(error) = told {
            tracing::debug!(%error, "a client is gone");
            return None;
        }
    }
}

/// Hands on the messages that are whole.
async fn tell_all(
    said: &mut BytesMut,
    to_client: &mut SplitSink<WebSocket, Message>,
    messages: Messages,
) -> io::Result<()> {
    while let Some(message) = messages.next(said)? {
        to_client.send(Message::Binary(message)).await.map_err(io::Error::other)?;
    }
    Ok(())
}

async fn type_in(
    mut from_client: SplitStream<WebSocket>,
    mut typed: impl AsyncWrite + Unpin,
    messages: Messages,
) {
    while let Some(Ok(message)) = from_client.next().await {
        match message {
            Message::Binary(bytes) => {
                let written = async {
                    match messages {
                        Messages::StreamWithEnd if bytes.is_empty() => return typed.shutdown().await,
                        Messages::Stream | Messages::StreamWithEnd => typed.write_all(&bytes).await?,
                        Messages::Datagrams => typed.write_all(Frame::of(&bytes).on_the_wire()).await?,
                    }
                    typed.flush().await
                };
                if let Err(error) = written.await {
                    tracing::debug!(%error, "nobody is left to type to");
                    // What the guest said last is still on its way.
                    return std::future::pending().await;
                }
            }
            Message::Close(_) => return,
            // Pings are answered by the library.
            Message::Text(_) | Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}
