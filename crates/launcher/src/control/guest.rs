//! What is asked of the agent in the guest.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::server::{Doors, MAX_GRACE_SECONDS, Refused, read, response};
use crate::guest_agent::{AgentError, CALL_LIMIT};

/// What the paths begin with.
pub(super) const PREFIX: &str = "/v1/guest/";

/// Body of `PUT /v1/guest/freeze`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FreezeRequest {
    /// Seconds until the guest goes on by itself; 0: it does not.
    pub unfreeze_after_seconds: u64,
}

/// Answers one request.
pub(super) async fn answer<B>(request: Request<B>, doors: &Doors) -> Result<Response<Full<Bytes>>, Refused>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let what = path.strip_prefix(PREFIX).unwrap_or_default();
    let wanted = match what {
        "info" | "users" | "filesystems" => Method::GET,
        "freeze" | "unfreeze" => Method::PUT,
        _ => return Err((StatusCode::NOT_FOUND, format!("there is no `{path}`"))),
    };
    if head.method != wanted {
        let text = format!("`{path}` takes {wanted}, not {}", head.method);
        return Err((StatusCode::METHOD_NOT_ALLOWED, text));
    }
    let agent = &doors.agent;
    let asked = async {
        Ok(match what {
            "info" => document(&agent.info().await.map_err(refused)?),
            "users" => document(&agent.users().await.map_err(refused)?),
            "filesystems" => document(&agent.file_systems().await.map_err(refused)?),
            "freeze" => {
                let FreezeRequest { unfreeze_after_seconds } = read(body).await?;
                let after = Duration::from_secs(unfreeze_after_seconds.min(MAX_GRACE_SECONDS));
                document(&agent.freeze(after).await.map_err(refused)?)
            }
            _ => document(&agent.unfreeze().await.map_err(refused)?),
        })
    };
    let late = |_| {
        let text = format!("the guest agent has not done it within {} seconds", CALL_LIMIT.as_secs());
        (StatusCode::BAD_GATEWAY, text)
    };
    timeout(CALL_LIMIT, asked).await.map_err(late)?
}

fn document(document: &impl Serialize) -> Response<Full<Bytes>> {
    response(StatusCode::OK, document)
}

pub(super) fn refused(error: AgentError) -> Refused {
    let code = match error {
        AgentError::Missing => StatusCode::CONFLICT,
        _ => StatusCode::BAD_GATEWAY,
    };
    (code, error.to_string())
}
