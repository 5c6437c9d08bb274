//! One attempt at a probe of the instance.

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use manifest::machine_status::{MachineState, StateReason};

use super::server::{Doors, Refused, response};
use crate::probe::{Guest, ProbeKind};

/// What the paths begin with.
pub(super) const PREFIX: &str = "/v1/probe/";

/// Where a probe is asked for.
pub(super) fn path(kind: ProbeKind) -> String {
    format!("{PREFIX}{}", kind.as_str().to_ascii_lowercase())
}

/// Answers a request for the probe at `asked`.
pub(super) async fn answer(
    method: &Method,
    asked: &str,
    doors: &Doors,
) -> Result<Response<Full<Bytes>>, Refused> {
    let kind = ProbeKind::ALL.into_iter().find(|kind| path(*kind) == asked);
    let kind = kind.ok_or_else(|| (StatusCode::NOT_FOUND, format!("there is no `{asked}`")))?;
    if method != Method::GET {
        return Err((StatusCode::METHOD_NOT_ALLOWED, format!("`{asked}` takes GET, not {method}")));
    }
    let probes = doors.probes.get();
    let probes = probes.ok_or_else(|| (StatusCode::CONFLICT, "there is no machine".to_owned()))?;
    let is_paused = {
        let status = doors.status.borrow();
        status.state == MachineState::Paused && status.reason == StateReason::User
    };
    let guest = Guest { door: doors.network.get(), agent: &doors.agent, is_paused };
    match probes.attempt(kind, guest).await {
        Some(outcome) => Ok(response(StatusCode::OK, &outcome)),
        None => Err((StatusCode::NOT_FOUND, format!("the instance has no `{asked}`"))),
    }
}
