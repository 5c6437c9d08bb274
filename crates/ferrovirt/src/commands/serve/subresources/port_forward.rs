//! `GET …/virtualmachineinstances/NAME/portforward/PORT[/PROTOCOL]` and the same of `virtualmachines`: a connection to the
//! guest over a WebSocket, as virtctl speaks it.
//!
//! The guest is connected to before the WebSocket opens, so that whatever is in the way is an ordinary answer. When the
//! guest ends the connection, so does the WebSocket; when the client does, the guest sees the end. A client that has said
//! all and still listens sends an empty message: the guest sees the end of what it is sent, and may go on. Of a UDP port
//! each message is a datagram, and it ends when the client does.

use apiserver::http::extension::{Call, Response};
use apiserver::status::ApiError;
use launcher::control;
use launcher::network::Protocol;

use super::super::metrics::{Connections, Stream};
use super::Machine;
use super::console::{Messages, upgraded};
use super::instance::Instance;

/// Whose port is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// An instance's.
    Instance,
    /// That of a machine's instance.
    Machine,
}

/// Answers with the connection. `rest` is the path after `portforward`.
pub async fn open(
    call: Call,
    of: Of,
    launchers: Option<control::Client>,
    connections: &Connections,
) -> Result<Response, ApiError> {
    let (protocol, port) = port(&call.info.rest)?;
    if of == Of::Machine {
        Machine::of(&call).started_instance().await?;
    }
    let instance = Instance::of(&call, launchers);
    let connection = connections.open(Stream::PortForward, &call.info.namespace, &call.info.name);
    let messages = match protocol {
        Protocol::Tcp => Messages::StreamWithEnd,
        Protocol::Udp => Messages::Datagrams,
    };
    upgraded(call, instance.port(protocol, port), messages, connection).await
}

/// `PORT`, `PORT/tcp` or `PORT/udp`, from the path.
fn port(rest: &[String]) -> Result<(Protocol, u16), ApiError> {
    let dialing = |why: String| ApiError::internal(format_args!("dialing VM: {why}"));
    let (port, protocol) = match rest {
        [] => return Err(ApiError::bad_request("port must not be empty")),
        [port] => (port, "tcp"),
        [port, protocol] => (port, protocol.as_str()),
        _ => return Err(ApiError::no_such_path()),
    };
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        other => return Err(dialing(format!("unknown network {other}"))),
    };
    let number = port.parse().map_err(|_| dialing(format!("`{port}` is not a port")))?;
    Ok((protocol, number))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_path_says_which_port() {
        let read = |rest: &[&str]| {
            let rest: Vec<String> = rest.iter().map(|part| (*part).to_owned()).collect();
            port(&rest).map_err(|error| format!("{} {}", error.code, error.message))
        };
        assert_eq!(read(&["22"]), Ok((Protocol::Tcp, 22)));
        assert_eq!(read(&["65535", "tcp"]), Ok((Protocol::Tcp, 65535)));
        assert_eq!(read(&["53", "udp"]), Ok((Protocol::Udp, 53)));
        let internal = "500 Internal error occurred: dialing VM:";
        for (rest, expected) in [
            (&[][..], "400 port must not be empty".to_owned()),
            (&["ssh"], format!("{internal} `ssh` is not a port")),
            (&["65536"], format!("{internal} `65536` is not a port")),
            (&["53", "sctp"], format!("{internal} unknown network sctp")),
        ] {
            assert_eq!(read(rest), Err(expected));
        }
        assert!(read(&["22", "tcp", "x"]).unwrap_err().starts_with("404"));
    }
}
