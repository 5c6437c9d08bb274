//! What a WebSocket's client shows: browsers cannot set `Authorization` there, so they offer a token among the protocols.
//! As kube-apiserver takes it (its `authentication/request/websocket`).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};

/// What stands before the token, which is in base64url without padding.
const TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// Whether a WebSocket is asked for, RFC 6455, 4.1.
pub fn is_asked_for(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| listed(headers, name).any(|one| one.eq_ignore_ascii_case(word));
    has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")
}

/// The protocols that are offered, without the one that is a token.
pub fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    listed(headers, SEC_WEBSOCKET_PROTOCOL).filter(|protocol| !protocol.starts_with(TOKEN))
}

/// The token that is offered; an error when it is a wrong one in any case.
///
/// It is good only beside another protocol, which is the one that the server chooses: it must not send a token back.
pub(super) fn token(headers: &HeaderMap) -> Result<Option<String>, Malformed> {
    if !is_asked_for(headers) {
        return Ok(None);
    }
    let mut tokens = listed(headers, SEC_WEBSOCKET_PROTOCOL).filter_map(|one| one.strip_prefix(TOKEN));
    let Some(token) = tokens.next() else { return Ok(None) };
    if tokens.next().is_some() || protocols(headers).next().is_none() {
        return Err(Malformed);
    }
    let token = URL_SAFE_NO_PAD.decode(token).map_err(|_| Malformed)?;
    String::from_utf8(token).map(Some).map_err(|_| Malformed)
}

/// A token that cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The values of a header that is a list.
fn listed(headers: &HeaderMap, name: http::HeaderName) -> impl Iterator<Item = &str> {
    // What is no text is none of what is looked for.
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|one| !one.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn asks(protocols: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, "keep-alive, Upgrade".parse().unwrap());
        headers.insert(UPGRADE, "WebSocket".parse().unwrap());
        for protocols in protocols {
            headers.append(SEC_WEBSOCKET_PROTOCOL, protocols.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_table_of_offers() {
        let good = format!("{TOKEN}{}", URL_SAFE_NO_PAD.encode("se-cret"));
        let no_text = format!("{TOKEN}{}", URL_SAFE_NO_PAD.encode([0xff]));
        let some = |text: &str| Ok(Some(text.to_owned()));
        for (offered, expected, left) in [
            (vec![], Ok(None), vec![]),
            (vec!["a, b"], Ok(None), vec!["a", "b"]),
            (vec!["plain.kubevirt.io", &good], some("se-cret"), vec!["plain.kubevirt.io"]),
            (vec![&format!("{good},binary.k8s.io")], some("se-cret"), vec!["binary.k8s.io"]),
            (vec![&good], Err(Malformed), vec![]),
            (vec![&good, &good, "a"], Err(Malformed), vec!["a"]),
            (vec![&format!("{TOKEN}=="), "a"], Err(Malformed), vec!["a"]),
            (vec![&no_text, "a"], Err(Malformed), vec!["a"]),
        ] {
            let headers = asks(&offered);
            assert_eq!(token(&headers), expected, "{offered:?}");
            assert_eq!(protocols(&headers).collect::<Vec<_>>(), left, "{offered:?}");
        }
    }

    #[test]
    fn only_who_asks_for_a_web_socket_shows_a_token_so() {
        let mut headers = asks(&[&format!("{TOKEN}{}", URL_SAFE_NO_PAD.encode("se-cret")), "a"]);
        headers.remove(UPGRADE);
        assert_eq!(token(&headers), Ok(None));
        assert!(!is_asked_for(&headers));
    }
}
