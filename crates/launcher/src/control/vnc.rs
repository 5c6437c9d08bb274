//! The display over a connection of its own: HTTP's upgrade, then the bytes of VNC both ways.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::server::Refused;
use super::upgrade::Upgrade;
use crate::display::{Display, DisplayError, Session};

/// How it is asked for.
pub(super) const UPGRADE: Upgrade = Upgrade { path: "/v1/vnc", protocol: "ferrovirt-vnc" };

/// Path and query of a request.
pub(super) fn uri(preserve: bool) -> String {
    format!("{}?preserve={preserve}", UPGRADE.path)
}

fn read_query(query: &str) -> Result<bool, String> {
    let preserve = query.strip_prefix("preserve=").and_then(|value| value.parse().ok());
    preserve.ok_or_else(|| format!("`{query}` is not `preserve=BOOL`"))
}

/// A display that was granted; it begins once the answer is out.
pub(super) struct Granted {
    upgrade: OnUpgrade,
    session: Session,
}

/// Answers a request for the display.
///
/// # Errors
/// The code and the reason of a refusal.
pub(super) async fn grant(
    request: &mut Request<Incoming>,
    display: &Display,
) -> Result<(Response<Full<Bytes>>, Granted), Refused> {
    let preserve = UPGRADE.asked(request, read_query)?;
    let session = display.connect(preserve).await.map_err(|error| (code(&error), error.to_string()))?;
    let (response, upgrade) = UPGRADE.granted(request);
    Ok((response, Granted { upgrade, session }))
}

fn code(error: &DisplayError) -> StatusCode {
    match error {
        DisplayError::Missing(_) => StatusCode::CONFLICT,
        DisplayError::Busy => StatusCode::SERVICE_UNAVAILABLE,
    }
}

impl Granted {
    /// Carries the bytes until either side ends, or another client takes the display.
    pub(super) async fn carry(self) {
        // Who is gone before that needs nothing.
        let Ok(upgraded) = self.upgrade.await else { return };
        self.session.carry(TokioIo::new(upgraded)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_asks_for_is_what_is_read() {
        for preserve in [false, true] {
            assert_eq!(read_query(uri(preserve).split_once('?').unwrap_or_default().1), Ok(preserve));
        }
        for wrong in ["", "preserve", "preserve=1", "x=true"] {
            assert!(read_query(wrong).is_err(), "{wrong}");
        }
    }
}
