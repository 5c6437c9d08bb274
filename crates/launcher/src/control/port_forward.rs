//! A connection to a port of the guest, over a connection of its own: HTTP's upgrade, then the bytes both ways.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{DuplexStream, copy_bidirectional_with_sizes};

use super::server::{Doors, Refused};
use super::upgrade::Upgrade;
use crate::network::{DialError, PIECE_BYTES};

/// How it is asked for.
pub(super) const UPGRADE: Upgrade = Upgrade { path: "/v1/portforward", protocol: "ferrovirt-portforward" };

/// Path and query of a request.
pub(super) fn uri(port: u16) -> String {
    format!("{}?port={port}", UPGRADE.path)
}

fn read_query(query: &str) -> Result<u16, String> {
    let port = query.strip_prefix("port=").and_then(|port| port.parse().ok());
    port.ok_or_else(|| format!("`{query}` is not `port=NUMBER`"))
}

/// A connection that the guest has taken; it begins once the answer is out.
pub(super) struct Granted {
    upgrade: OnUpgrade,
    guest: DuplexStream,
}

/// Answers a request for a port, once the guest has.
///
/// # Errors
/// The code and the reason of a refusal.
pub(super) async fn grant(
    request: &mut Request<Incoming>,
    doors: &Doors,
) -> Result<(Response<Full<Bytes>>, Granted), Refused> {
    let port = UPGRADE.asked(request, read_query)?;
    let door = doors.network.get();
    let door = door.ok_or_else(|| (StatusCode::CONFLICT, "the machine has no network".to_owned()))?;
    let guest = door.connect(port).await.map_err(|error| (code(error), error.to_string()))?;
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
    /// Carries the bytes until both sides have ended, or one has failed.
    pub(super) async fn carry(mut self) {
        // Who is gone before that needs nothing.
        let Ok(upgraded) = self.upgrade.await else { return };
        let mut client = TokioIo::new(upgraded);
        let carried =
            copy_bidirectional_with_sizes(&mut client, &mut self.guest, PIECE_BYTES, PIECE_BYTES).await;
        // Whoever failed is gone, and the other one sees that its stream ends.
        drop(carried);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_asks_for_is_what_is_read() {
        for port in [0, 22, 65535] {
            let uri = uri(port);
            assert_eq!(uri.split_once('?').map(|(_, query)| read_query(query)), Some(Ok(port)));
        }
        for wrong in ["", "port=", "port=65536", "port=-1", "port=22&x=y", "x=22"] {
            assert!(read_query(wrong).is_err(), "{wrong}");
        }
    }
}
