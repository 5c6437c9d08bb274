//! The control API of a launcher: what the controllers ask of one machine, and both halves of the connection.
//!
//! HTTP/1.1 over TLS 1.3 on the Pod's own address. Both sides prove who they are with a certificate of the node's
//! authority; a launcher's own certificate is for servers only, so one launcher cannot ask another.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `PUT /v1/machine` | the VirtualMachineInstance | 200, its status once the start has succeeded or failed, or after [`START_PATIENCE`] |
//! | `GET /v1/status?after=REVISION` | | 200, the status once its revision is another than REVISION, or after [`POLL_PATIENCE`] |
//! | `PUT /v1/shutdown` | `{"gracePeriodSeconds": N}` | 200, the status; the power button is pressed, or the machine killed |
//! | `PUT /v1/pause`, `/v1/unpause`, `/v1/reset`, `/v1/softreboot` | | 200, the status after it |
//! | `GET /v1/guest/info`, `/v1/guest/users`, `/v1/guest/filesystems` | | 200, what the guest's agent says, as in [`guest_agent`](manifest::guest_agent) |
//! | `PUT /v1/guest/freeze` | `{"unfreezeAfterSeconds": N}` | 200; its file systems stand still, for N seconds at most unless that is 0 |
//! | `PUT /v1/guest/unfreeze` | | 200; they go on |
//! | `GET /v1/probe/liveness`, `/v1/probe/readiness` | | 200 after one attempt within the probe's `timeoutSeconds`: `"success"` or `{"failure": "…"}` |
//! | `GET /v1/console?readOnly=BOOL&replay=BOOL`, upgraded to `ferrovirt-console` | | 101, the bytes of the serial port both ways |
//! | `GET /v1/portforward?port=NUMBER&protocol=udp`, upgraded to `ferrovirt-portforward` | | 101, datagrams both ways, each after its length in four bytes |
//! | `GET /v1/portforward?port=NUMBER`, upgraded to `ferrovirt-portforward` | | 101 once the guest has taken the connection, the bytes of it both ways |
//!
//! | `GET /v1/vnc?preserve=BOOL`, upgraded to `ferrovirt-vnc` | | 101, the bytes of the display's VNC both ways |
//! | `GET /v1/screenshot?moveCursor=BOOL` | | 200, `image/png` |
//!
//! A console that is over because the machine is ends with TLS' own farewell; one that was put off ends without.
//!
//! Every other answer of 200 is a [`MachineStatus`](manifest::machine_status::MachineStatus). Any other is
//! `{"error": "…"}`: 400 for what cannot be read, 403 for the instance of another launcher, 404 for an unknown path, 405
//! for another method, 408 for a body that does not arrive, 409 for what the machine's state does not allow, 413 for a body above [`MAX_BODY_BYTES`], 426 for a console
//! or a port without the upgrade, 429 for one too many, 500
//! where QEMU refused, 502 where the guest has not taken a connection, or its agent has not done as asked.
//!
//! A machine that cannot be started is no error: the status says so in `syncError`, and the same request tries again.
//!
//! # Guarantees
//! `PUT /v1/machine` and `PUT /v1/shutdown` may be repeated: there is one machine at most, and of two ends the earlier
//! one counts.

mod client;
mod console;
mod guest;
mod port_forward;
mod probe;
mod server;
#[cfg(test)]
mod tests;
mod tls;
mod upgrade;
mod vnc;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use client::described;
pub use client::{Client, ControlError};
pub use console::Console;
pub(crate) use server::{Doors, Start, serve};
pub use tls::IdentityError;
pub(crate) use tls::{Identity, server_config};

/// Longest request body in bytes. An instance is an object of the API server, which takes 3 MiB at most; what a launcher
/// boots from is a few KiB.
pub const MAX_BODY_BYTES: usize = 3 << 20;

/// How long a request for the status waits for a change.
pub const POLL_PATIENCE: Duration = Duration::from_secs(20);

/// How long the request that starts a machine waits for the start's outcome.
pub const START_PATIENCE: Duration = Duration::from_secs(10);

/// Body of `PUT /v1/shutdown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ShutdownRequest {
    /// Seconds until the guest is killed; 0 kills at once.
    grace_period_seconds: u64,
}

/// Body of every answer other than 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Refusal {
    /// Why, for people.
    error: String,
}
