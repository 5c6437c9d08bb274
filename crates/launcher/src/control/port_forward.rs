//! A connection to a port of the guest, over a connection of its own: HTTP's upgrade, then the bytes both ways. Of a UDP
//! port each datagram is a [`Frame`].

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, BufReader, DuplexStream, copy_bidirectional_with_sizes};

use super::server::{Doors, Refused};
use super::upgrade::Upgrade;
use crate::network::{Datagrams, DialError, Frame, PIECE_BYTES, Protocol};

/// How it is asked for.
pub(super) const UPGRADE: Upgrade = Upgrade { path: "/v1/portforward", protocol: "ferrovirt-portforward" };

/// Path and query of a request.
pub(super) fn uri(protocol: Protocol, port: u16) -> String {
    let protocol = match protocol {
        Protocol::Tcp => "",
        Protocol::Udp => UDP,
    };
    format!("{}?port={port}{protocol}", UPGRADE.path)
}

/// What asks for datagrams, behind the port.
const UDP: &str = "&protocol=udp";

fn read_query(query: &str) -> Result<(Protocol, u16), String> {
    let (port, protocol) = match query.strip_suffix(UDP) {
        Some(port) => (port, Protocol::Udp),
        None => (query, Protocol::Tcp),
    };
    let port = port.strip_prefix("port=").and_then(|port| port.parse().ok());
    port.map(|port| (protocol, port))
        .ok_or_else(|| format!("`{query}` is not `port=NUMBER` or `port=NUMBER{UDP}`"))
}

/// A way to the guest; it begins once the answer is out.
pub(super) struct Granted {
    upgrade: OnUpgrade,
    guest: Guest,
}

enum Guest {
    Connection(DuplexStream),
    Datagrams(Datagrams),
}

/// Answers a request for a port, once the guest has.
///
/// # Errors
/// The code and the reason of a refusal.
pub(super) async fn grant(
    request: &mut Request<Incoming>,
    doors: &Doors,
) -> Result<(Response<Full<Bytes>>, Granted), Refused> {
    let (protocol, port) = UPGRADE.asked(request, read_query)?;
    let door = doors.network.get();
    let door = door.ok_or_else(|| (StatusCode::CONFLICT, "the machine has no network".to_owned()))?;
    let guest = match protocol {
        Protocol::Tcp => door.connect(port).await.map(Guest::Connection),
        Protocol::Udp => door.datagrams(port).await.map(Guest::Datagrams),
    };
    let guest = guest.map_err(|error| (code(error), error.to_string()))?;
    let (response, upgrade) = UPGRADE.granted(request);
    Ok((response, Granted { upgrade, guest }))
}

fn code(error: DialError) -> StatusCode {
    match error {
        DialError::Closed { .. } | DialError::Refused { .. } | DialError::Silent { .. } => {
            StatusCode::BAD_GATEWAY
        }
        DialError::TooMany => StatusCode::TOO_MANY_REQUESTS,
        DialError::Ended => StatusCode::CONFLICT,
    }
}

impl Granted {
    /// Carries the bytes until both sides have ended, or one has failed; datagrams until the client has.
    pub(super) async fn carry(self) {
        // Who is gone before that needs nothing.
        let Ok(upgraded) = self.upgrade.await else { return };
        let mut client = TokioIo::new(upgraded);
        match self.guest {
            Guest::Connection(mut guest) => {
                let carried =
                    copy_bidirectional_with_sizes(&mut client, &mut guest, PIECE_BYTES, PIECE_BYTES).await;
                // Whoever failed is gone, and the other one sees that its stream ends.
                drop(carried);
            }
            Guest::Datagrams(guest) => carry_datagrams(client, guest).await,
        }
    }
}

async fn carry_datagrams(client: TokioIo<Upgraded>, guest: Datagrams) {
    let Datagrams { to_guest, mut from_guest } = guest;
    let (from_client, mut to_client) = tokio::io::split(client);
    let mut from_client = BufReader::new(from_client);
    let asking = async {
        let mut datagram = Frame::default();
        // Its end and its faults are one: the client is gone.
        while let Ok(true) = datagram.read(&mut from_client).await {
            if to_guest.send(std::mem::take(&mut datagram)).await.is_err() {
                return;
            }
        }
    };
    let answering = async {
        while let Some(datagram) = from_guest.recv().await {
            let told = async {
                to_client.write_all(datagram.on_the_wire()).await?;
                to_client.flush().await
            };
            if told.await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = answering => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_asks_for_is_what_is_read() {
        for asked in [(Protocol::Tcp, 0), (Protocol::Tcp, 22), (Protocol::Udp, 53), (Protocol::Tcp, 65535)] {
            let uri = uri(asked.0, asked.1);
            assert_eq!(uri.split_once('?').map(|(_, query)| read_query(query)), Some(Ok(asked)));
        }
        for wrong in ["", "port=", "port=65536", "port=-1", "port=22&x=y", "x=22", "port=53&protocol=sctp"] {
            assert!(read_query(wrong).is_err(), "{wrong}");
        }
    }
}
