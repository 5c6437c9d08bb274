//! What a service manager is told, by the protocol of sd_notify(3): one datagram to the socket in NOTIFY_SOCKET.

use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};

/// The server answers requests.
pub fn ready(address: SocketAddr) {
    send(&format!("READY=1\nSTATUS=Serving on https://{address}\nMAINPID={}", std::process::id()));
}

/// The server is about to end.
pub fn stopping() {
    send("STOPPING=1");
}

/// A message that cannot be delivered is logged: without it the service manager reports the start as failed by itself.
fn send(message: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return };
    if let Err(error) = deliver(&socket, message) {
        tracing::warn!(socket = %socket.display(), %error, "cannot notify the service manager");
    }
}

/// `@name` is a name in the abstract namespace, anything else a path.
fn deliver(socket: &std::ffi::OsStr, message: &str) -> std::io::Result<()> {
    let address = match socket.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddress::from_abstract_name(name)?,
        None => UnixAddress::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_message_reaches_a_path_and_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let name = format!("ferrovirt-test-{}", std::process::id());
        let at_path = UnixDatagram::bind(&path).unwrap();
        let at_name = UnixDatagram::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
        for (socket, listener) in [(path.into_os_string(), at_path), (format!("@{name}").into(), at_name)] {
            deliver(&socket, "READY=1").unwrap();
            let mut buffer = [0; 64];
            let length = listener.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"READY=1");
        }
    }

    #[test]
    fn nobody_there_is_an_error() {
        assert!(deliver("/nonexistent/notify".as_ref(), "READY=1").is_err());
    }
}
