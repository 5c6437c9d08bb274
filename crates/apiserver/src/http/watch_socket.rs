//! A watch over a WebSocket, which is how browsers follow one: a text message is an event. As kube-apiserver does it.

use axum::extract::FromRequestParts as _;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use bytes::Bytes;
use futures::{SinkExt as _, Stream, StreamExt as _};
use http::request::Parts;
use std::pin::pin;
use std::time::Duration;

use super::answer::Response;
use super::watch_body::WatchBody;
use crate::auth::web_socket;
use crate::status::ApiError;

/// The longest message that is taken of a client, in bytes. What a client says is of no concern here.
const MOST_MESSAGE_BYTES: usize = 4 * 1024;

/// How long a client may take for the farewell.
const FAREWELL: Duration = Duration::from_secs(2);

/// Answers with a WebSocket on which `watch` is told.
pub async fn answer(mut head: Parts, watch: WatchBody) -> Result<Response, ApiError> {
    let upgrade = WebSocketUpgrade::from_request_parts(&mut head, &())
        .await
        .map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    // A browser hangs up where none of those that it offers is chosen. The messages are the same with each.
    let protocol = web_socket::protocols(&head.headers).next().map(ToOwned::to_owned);
    Ok(upgrade
        .protocols(protocol)
        .max_message_size(MOST_MESSAGE_BYTES)
        .max_frame_size(MOST_MESSAGE_BYTES)
        .on_upgrade(|socket| tell(socket, watch.into_stream())))
}

/// Tells what there is until the watch ends, or the client.
async fn tell(socket: WebSocket, chunks: impl Stream<Item = Bytes>) {
    let (mut to_client, mut from_client) = socket.split();
    let told = async {
        let mut chunks = pin!(chunks);
        while let Some(chunk) = chunks.next().await {
            for event in events(&chunk) {
                // Who is gone needs no events.
                to_client.send(Message::Text(event)).await.ok()?;
            }
        }
        Some(())
    };
    // Pings are answered while it is read from.
    let left = async { while let Some(Ok(_)) = from_client.next().await {} };
    let is_told = tokio::select! {
        told = told => told.is_some(),
        () = left => false,
    };
    if is_told {
        let close = Message::Close(Some(CloseFrame { code: close_code::NORMAL, reason: "".into() }));
        // Late or lost: the connection is closed without it.
        let _ = tokio::time::timeout(FAREWELL, to_client.send(close)).await;
    }
}

/// The events of a chunk, which are whole lines.
fn events(chunk: &Bytes) -> impl Iterator<Item = Utf8Bytes> + '_ {
    chunk.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| {
        // Events are JSON, so they are UTF-8.
        Utf8Bytes::try_from(chunk.slice_ref(line)).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_message() {
        let chunk = Bytes::from_static("{\"type\":\"ADDED\"}\n{\"type\":\"ü\"}\n".as_bytes());
        let told: Vec<_> = events(&chunk).collect();
        assert_eq!(told, ["{\"type\":\"ADDED\"}", "{\"type\":\"ü\"}"]);
    }
}
