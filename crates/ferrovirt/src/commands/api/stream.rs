//! Streams of bytes over a WebSocket, as virtctl speaks it: consoles, displays and ports of guests. Messages are binary and
//! have the bytes as they are.

use std::io;
use std::pin::pin;
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use futures::stream::SplitSink;
use futures::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::refusal::{RequestError, unreachable};
use super::resources::INSTANCES;
use super::{Server, query, request};

/// KubeVirt's sub-protocol: a stream of bytes.
const PROTOCOL: &str = "plain.kubevirt.io";

/// Most bytes of one message to the server.
const PIECE_BYTES: usize = 32 << 10;

/// How long a guest may be silent after this side has said all that it has to say. A server that cannot tell the guest of
/// that end, as KubeVirt's, would otherwise keep the connection for ever.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// How a console is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attach {
    /// Only look, beside whoever types. Ferrovirt's servers know it; others attach as ever.
    pub is_read_only: bool,
    /// Begin with what was said in this boot. As above.
    pub replays: bool,
}

/// What comes of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The guest says this.
    Bytes(Bytes),
    /// The guest has ended it.
    Ended,
    /// The connection was cut: by another client that took the console, or by the network.
    Cut,
}

/// How a stream that was carried ends.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The guest has ended it.
    Guest,
    /// This side has, and the guest had no more to say.
    Own,
    /// The connection was cut; the guest may have had more to say.
    Cut,
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A stream that is open.
pub struct Stream(Socket);

impl Server {
    /// Opens the console of an instance.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses: 400 as long as the instance does not run.
    pub async fn console(&self, namespace: &str, name: &str, how: Attach) -> Result<Stream, RequestError> {
        let wanted = [("readOnly", how.is_read_only), ("replay", how.replays)];
        let pairs = wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| (name, "true"));
        let path = INSTANCES.subresource_path(namespace, name, "console");
        self.stream(&format!("{path}{}", query(pairs))).await
    }

    /// Opens the stream at `path`, a query included.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub async fn stream(&self, path: &str) -> Result<Stream, RequestError> {
        let mut request = request(Method::GET, path, "*/*", None)?;
        let key = generate_key();
        let broken = |why: &str| {
            RequestError::Failed(anyhow!("the server `{}` opens no WebSocket: {why}", self.url()).into())
        };
        let headers = request.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
        let key_value = HeaderValue::from_str(&key).map_err(|_| broken("its key is no header"))?;
        headers.insert(SEC_WEBSOCKET_KEY, key_value);
        let response = self.open(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(broken(&format!("it answers with {}", response.status())));
        }
        let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
        if accepted != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err(broken("it answers to another request"));
        }
        let upgraded = hyper::upgrade::on(response).await;
        let upgraded = upgraded.map_err(|error| unreachable(self.url(), kube::Error::HyperError(error)))?;
        Ok(Stream(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await))
    }
}

impl Stream {
    /// What the guest says next.
    pub async fn next(&mut self) -> Said {
        next(&mut self.0).await
    }

    /// Says something to the guest.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn say(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        self.0.send(Message::Binary(bytes.into())).await
    }

    /// Takes leave.
    pub async fn leave(mut self) {
        // Who is gone needs no farewell.
        let _ = self.0.close(None).await;
    }

    /// Carries bytes both ways until the guest has ended the stream, or this side has and the guest has said its last.
    ///
    /// That `from` has ended is told by an empty message: Ferrovirt's servers hand it on as the end of what the guest is
    /// sent, while the guest may go on; for others it has no meaning.
    ///
    /// # Errors
    /// When `from` cannot be read or `to` be written: nobody is there any more.
    pub async fn carry(
        self,
        from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<End> {
        let (sink, mut source) = self.0.split();
        let mut saying = pin!(say_all(from, sink));
        let mut has_said_all = false;
        let end = loop {
            tokio::select! {
                said = next(&mut source) => match said {
                    Said::Bytes(bytes) => {
                        to.write_all(&bytes).await?;
                        to.flush().await?;
                    }
                    Said::Ended => break End::Guest,
                    Said::Cut => break End::Cut,
                },
                outcome = &mut saying, if !has_said_all => {
                    outcome?;
                    has_said_all = true;
                }
                () = tokio::time::sleep(LAST_WORDS), if has_said_all => break End::Own,
            }
        };
        if end != End::Cut {
            to.shutdown().await?;
        }
        Ok(end)
    }
}

async fn next(source: &mut (impl futures::Stream<Item = Result<Message, Error>> + Unpin)) -> Said {
    loop {
        match source.next().await {
            Some(Ok(Message::Binary(bytes))) => return Said::Bytes(bytes),
            Some(Ok(Message::Close(Some(frame)))) if frame.code == CloseCode::Normal => {
                return Said::Ended;
            }
            // Text is not for clients; pings are answered by the library.
            Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_)) | Err(_)) | None => return Said::Cut,
        }
    }
}

/// Says all that comes from there, and that it has ended.
async fn say_all(mut from: impl AsyncRead + Unpin, mut sink: SplitSink<Socket, Message>) -> io::Result<()> {
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        let sent = sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..length]))).await;
        // Where the connection is gone, the other direction finds out how.
        if length == 0 || sent.is_err() {
            return Ok(());
        }
    }
}
