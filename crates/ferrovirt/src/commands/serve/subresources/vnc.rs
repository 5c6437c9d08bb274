//! `GET …/virtualmachineinstances/NAME/vnc`: the display over a WebSocket, as virtctl speaks it, and `…/vnc/screenshot`.
//!
//! Messages have the bytes of the remote framebuffer protocol (RFC 6143) as they are. A new client puts off the one before,
//! unless it asks for `preserveSession=true`.

use apiserver::http::extension::{self, Call, Response};
use apiserver::status::ApiError;
use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use launcher::control;

use super::super::metrics::{Connections, Stream};
use super::console::{MOST_MESSAGE_BYTES, Messages, PROTOCOL, carry};
use super::instance::Instance;

/// Answers with the display.
pub async fn open(
    call: Call,
    launchers: Option<control::Client>,
    connections: &Connections,
) -> Result<Response, ApiError> {
    let preserve = call.query.flag("preserveSession");
    let instance = Instance::of(&call, launchers);
    let connection = connections.open(Stream::Vnc, &call.info.namespace, &call.info.name);
    let stopped = call.stopped();
    let (mut head, _) = call.request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut head, &()).await;
    // Who sends no WebSocket's head is told of the display first, as by KubeVirt.
    let display = instance.vnc(preserve).await?;
    let upgrade = upgrade.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let upgrade = upgrade.protocols([PROTOCOL]).max_message_size(MOST_MESSAGE_BYTES);
    let carry = |socket| carry(socket, display, Messages::Stream, stopped, connection);
    Ok(upgrade.max_frame_size(MOST_MESSAGE_BYTES).on_upgrade(carry))
}

/// Answers with a picture of the display.
pub async fn screenshot(call: Call, launchers: Option<control::Client>) -> Result<Response, ApiError> {
    let move_cursor = call.query.flag("moveCursor");
    let picture = Instance::of(&call, launchers).screenshot(move_cursor).await?;
    Ok(extension::bytes("image/png", picture))
}
