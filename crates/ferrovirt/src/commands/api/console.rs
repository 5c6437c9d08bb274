//! The serial console of an instance over a WebSocket, as virtctl speaks it: binary messages of bytes as they are.

use anyhow::anyhow;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::refusal::{RequestError, unreachable};
use super::{Server, query, request};

/// KubeVirt's sub-protocol: a stream of bytes.
const PROTOCOL: &str = "plain.kubevirt.io";

/// How a console is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attach {
    /// Only look, beside whoever types. Ferrovirt's servers know it; others attach as ever.
    pub is_read_only: bool,
    /// Begin with what was said in this boot. As above.
    pub replays: bool,
}

/// What comes of a console.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// The guest says this.
    Bytes(Bytes),
    /// The console has ended with its guest.
    Ended,
    /// The connection was cut: by another client that took the console, or by the network.
    Cut,
}

/// A console that is open.
pub struct Console(WebSocketStream<TokioIo<Upgraded>>);

impl Server {
    /// Opens the console of an instance.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses: 400 as long as the instance does not run.
    pub async fn console(&self, name: &str, how: Attach) -> Result<Console, RequestError> {
        let wanted = [("readOnly", how.is_read_only), ("replay", how.replays)];
        let pairs = wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| (name, "true"));
        let path = format!(
            "/apis/subresources.kubevirt.io/v1/namespaces/{}/virtualmachineinstances/{}/console{}",
            super::escape(&self.namespace),
            super::escape(name),
            query(pairs)
        );
        let mut request = request(Method::GET, &path, "*/*", None)?;
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
        Ok(Console(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await))
    }
}

impl Console {
    /// What the guest says next.
    pub async fn next(&mut self) -> Said {
        loop {
            match self.0.next().await {
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

    /// Types.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn type_in(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        self.0.send(Message::Binary(bytes.into())).await
    }

    /// Takes leave.
    pub async fn leave(mut self) {
        // Who is gone needs no farewell.
        let _ = self.0.close(None).await;
    }
}
