//! What goes wrong between a command and its server, in words.

use anyhow::anyhow;
use http::StatusCode;
use serde_json::Value;

use super::text;
use crate::report::Failure;

/// Why a request has no answer that is of use.
#[derive(Debug)]
pub enum RequestError {
    /// The server refuses.
    Refused(Refusal),
    /// The server was not reached, or did not speak as servers do.
    Failed(Failure),
}

/// What a server says when it refuses (`metav1.Status`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status, 400 and above.
    pub code: u16,
    /// The reason in one word, `NotFound`; may be empty.
    pub reason: String,
    /// The reason in words.
    pub message: String,
}

impl Refusal {
    /// Reads an answer's body: a `Status`, or any text.
    pub fn read(status: StatusCode, body: &[u8]) -> Refusal {
        match serde_json::from_slice::<Value>(body) {
            Ok(value) if value["kind"] == "Status" => Refusal::of(&value, status.as_u16()),
            _ => {
                let said = String::from_utf8_lossy(body);
                let said = said.trim();
                let message = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
                Refusal { code: status.as_u16(), reason: String::new(), message }
            }
        }
    }

    /// Reads a `Status`; `code` is the HTTP status, where the object has none.
    pub fn of(status: &Value, code: u16) -> Refusal {
        let own = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        Refusal {
            code: own.unwrap_or(code),
            reason: text(status, "/reason").to_owned(),
            message: text(status, "/message").to_owned(),
        }
    }
}

impl From<Failure> for RequestError {
    fn from(failure: Failure) -> RequestError {
        RequestError::Failed(failure)
    }
}

impl RequestError {
    /// Whether there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == 404)
    }

    /// Whether a watch asked for what the server has forgotten.
    pub fn is_expired(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code == 410)
    }

    /// The failure of a command that attempted `what`: "cannot start VirtualMachine `default/demo`". `hint` is the way
    /// out of what only this command knows; what any request may meet has one of its own.
    pub fn failure(self, what: impl std::fmt::Display, hint: Option<String>) -> Failure {
        match self {
            Self::Failed(failure) => failure.context(what.to_string()),
            Self::Refused(refusal) => {
                let hint = match refusal.code {
                    401 => Some(
                        "the server does not know these credentials; choose others with --context, or fetch those of the \
                         server on this machine: ferrovirt kubeconfig --merge"
                            .to_owned(),
                    ),
                    403 if hint.is_none() => {
                        Some("choose a user who has the right with --context".to_owned())
                    }
                    _ => hint,
                };
                let message = match refusal.message.is_empty() {
                    true => format!("the server answers with {}", refusal.code),
                    false => refusal.message,
                };
                Failure::refused(anyhow!(message).context(what.to_string()), hint)
            }
        }
    }
}

/// The failure to speak to the server at `url`.
pub fn unreachable(url: &str, error: kube::Error) -> RequestError {
    let cause = match error {
        // Its own text repeats its cause.
        kube::Error::Service(error) => anyhow!(error),
        other => anyhow!(other),
    };
    // A client's error says "client error (Connect)" first, which is no news.
    let mut texts: Vec<String> = cause.chain().map(ToString::to_string).collect();
    texts.dedup();
    if texts.len() > 1 {
        texts.retain(|text| !text.starts_with("client error ("));
    }
    let hint = match texts.iter().any(|text| text.contains("refused") || text.contains("No such host")) {
        true => {
            "start the server of this machine (ferrovirt serve), or choose another with --context or --kubeconfig"
        }
        false => "choose another server with --context or --kubeconfig",
    };
    let mut failure = Failure::refused(anyhow!("cannot reach the server `{url}`"), Some(hint.to_owned()));
    failure.causes = texts;
    RequestError::Failed(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_refuses_in_an_object_or_in_any_text() {
        let status = br#"{"kind":"Status","code":409,"reason":"Conflict","message":"VM is already running"}"#;
        let refusal = Refusal::read(StatusCode::CONFLICT, status);
        assert_eq!((refusal.code, refusal.reason.as_str()), (409, "Conflict"));
        assert_eq!(refusal.message, "VM is already running");
        for (body, message) in [
            ("", "502 Bad Gateway"),
            ("<p>no</p>\n", "502 Bad Gateway: <p>no</p>"),
            ("[1]", "502 Bad Gateway: [1]"),
        ] {
            let refusal = Refusal::read(StatusCode::BAD_GATEWAY, body.as_bytes());
            assert_eq!((refusal.code, refusal.message.as_str()), (502, message));
        }
    }

    #[test]
    fn a_failure_names_what_was_attempted_and_a_way_out() {
        let refusal =
            |code| RequestError::Refused(Refusal { code, reason: String::new(), message: "no".to_owned() });
        let failure = refusal(404).failure("cannot get x", Some("list them".to_owned()));
        assert_eq!(format!("{:#}", failure.error), "cannot get x: no");
        assert_eq!(failure.hints, ["list them"]);
        let failure = refusal(401).failure("cannot get x", Some("list them".to_owned()));
        assert!(failure.hints[0].ends_with("ferrovirt kubeconfig --merge"), "{failure:?}");
    }
}
