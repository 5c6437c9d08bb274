//! `GET …/virtualmachineinstances/NAME/vnc`: the display over a WebSocket, as virtctl speaks it, and `…/vnc/screenshot`.
//!
//! Messages have the bytes of the remote framebuffer protocol (RFC 6143) as they are. A new client puts off the one before,
//! unless it asks for `preserveSession=true`.

use apiserver::http::extension::{self, Call, Response};
use apiserver::status::ApiError;
use launcher::control;

use super::super::metrics::{Connections, Stream};
use super::console::{Messages, upgraded};
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
    upgraded(call, instance.vnc(preserve), Messages::Stream, connection).await
}

/// Answers with a picture of the display.
pub async fn screenshot(call: Call, launchers: Option<control::Client>) -> Result<Response, ApiError> {
    let move_cursor = call.query.flag("moveCursor");
    let picture = Instance::of(&call, launchers).screenshot(move_cursor).await?;
    Ok(extension::bytes("image/png", picture))
}
