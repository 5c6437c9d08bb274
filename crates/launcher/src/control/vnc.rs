//! The display over a connection of its own: HTTP's upgrade, then the bytes of VNC both ways.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::server::Refused;
use crate::display::{Display, DisplayError, Session};

/// Where it is.
pub(super) const PATH: &str = "/v1/vnc";

/// What the connection becomes (`Upgrade` of RFC 9110).
pub(super) const PROTOCOL: &str = "ferrovirt-vnc";

/// Path and query of a request.
pub(super) fn uri(preserve: bool) -> String {
    format!("{PATH}?preserve={preserve}")
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
    if request.method() != Method::GET {
        let text = format!("`{PATH}` takes GET, not {}", request.method());
        return Err((StatusCode::METHOD_NOT_ALLOWED, text));
    }
    if request.headers().get(header::UPGRADE).is_none_or(|protocol| protocol != PROTOCOL) {
        return Err((StatusCode::UPGRADE_REQUIRED, format!("`{PATH}` is for an upgrade to `{PROTOCOL}`")));
    }
    let preserve = read_query(request.uri().query().unwrap_or_default());
    let preserve = preserve.map_err(|text| (StatusCode::BAD_REQUEST, text))?;
    let session = display.connect(preserve).await.map_err(|error| (code(&error), error.to_string()))?;
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok((response, Granted { upgrade: hyper::upgrade::on(request), session }))
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
