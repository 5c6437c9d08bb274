//! HTTP's upgrade (RFC 9110, section 7.8), with which a console, a display and a connection to a port begin.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::server::Refused;

/// A kind of stream that a connection can become.
#[derive(Debug, Clone, Copy)]
pub(super) struct Upgrade {
    /// Where it is asked for.
    pub path: &'static str,
    /// What the connection becomes.
    pub protocol: &'static str,
}

impl Upgrade {
    /// What a request for the stream says of it, as `read` reads its query.
    ///
    /// # Errors
    /// The code and the reason of a refusal.
    pub fn asked<T>(
        &self,
        request: &Request<Incoming>,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Refused> {
        let Self { path, protocol } = self;
        if request.method() != Method::GET {
            let text = format!("`{path}` takes GET, not {}", request.method());
            return Err((StatusCode::METHOD_NOT_ALLOWED, text));
        }
        if request.headers().get(header::UPGRADE).is_none_or(|asked| asked != protocol) {
            return Err((
                StatusCode::UPGRADE_REQUIRED,
                format!("`{path}` is for an upgrade to `{protocol}`"),
            ));
        }
        read(request.uri().query().unwrap_or_default()).map_err(|text| (StatusCode::BAD_REQUEST, text))
    }

    /// The answer that grants it, and what follows the answer.
    pub fn granted(&self, request: &mut Request<Incoming>) -> (Response<Full<Bytes>>, OnUpgrade) {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(self.protocol));
        (response, hyper::upgrade::on(request))
    }
}
