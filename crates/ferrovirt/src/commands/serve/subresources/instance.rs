//! What is asked of a running instance goes to its launcher.

use std::net::SocketAddr;

use apiserver::http::extension::Call;
use apiserver::status::ApiError;
use bytes::Bytes;
use controllers::events::{Event, Recorder, Source};
use controllers::vmi::requests::{self, FreezeOptions, PauseOptions, Refusal};
use kube::{Api, Client, Resource as _};
use launcher::control::{self, ControlError};
use launcher::network::Protocol;
use manifest::guest_agent::GuestList;
use manifest::types::VirtualMachineInstance;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{is_dry_run, refused, server};

/// The instance that a request is about, and the way to its launcher.
pub struct Instance {
    server: Client,
    launchers: Option<control::Client>,
    namespace: String,
    name: String,
}

/// What is done to a machine whose state allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The virtual CPUs are stopped.
    Pause,
    /// They go on.
    Unpause,
    /// The guest is told to restart.
    SoftReboot,
}

impl Instance {
    /// That of `call`.
    pub fn of(call: &Call, launchers: Option<control::Client>) -> Self {
        Self {
            server: server(call),
            launchers,
            namespace: call.info.namespace.clone(),
            name: call.info.name.clone(),
        }
    }

    /// Does it, or only checks whether it could be done.
    pub async fn operate(&self, operation: Operation, options: PauseOptions) -> Result<(), ApiError> {
        let instance = self
            .checked(match operation {
                Operation::Pause => requests::pause,
                Operation::Unpause => requests::unpause,
                Operation::SoftReboot => requests::soft_reboot,
            })
            .await?;
        if is_dry_run(options.dry_run)? {
            return Ok(());
        }
        let (launchers, at) = self.launcher(&instance).await?;
        let done = match operation {
            Operation::Pause => launchers.pause(at).await,
            Operation::Unpause => launchers.unpause(at).await,
            Operation::SoftReboot => launchers.soft_reboot(at).await,
        };
        done.map(drop).map_err(|error| failed(&error))
    }

    /// Presses the reset button.
    pub async fn reset(&self) -> Result<(), ApiError> {
        let instance = self.checked(requests::reach).await?;
        let (launchers, at) = self.launcher(&instance).await?;
        launchers
            .reset(at)
            .await
            .map(drop)
            .map_err(|error| failed(&requests::reset_failed(&instance, &error)))
    }

    /// The VNC of its display, as whose only client unless another is preserved.
    pub async fn vnc(
        &self,
        preserve: bool,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, ApiError> {
        let (launchers, at) = self.reached(requests::vnc).await?;
        launchers.vnc(at, preserve).await.map_err(|error| match error {
            ControlError::Refused { code: 503, reason } => {
                failed(&format_args!("Can't connect to websocket (503): {reason}"))
            }
            error => crowded_or_failed(error),
        })
    }

    /// A picture of its display, a PNG.
    pub async fn screenshot(&self, move_cursor: bool) -> Result<Bytes, ApiError> {
        let (launchers, at) = self.reached(requests::vnc).await?;
        launchers.screenshot(at, move_cursor).await.map_err(|error| failed(&error))
    }

    /// What the agent in its guest says of it, the document of `guestosinfo`.
    pub async fn guest_info(&self) -> Result<Value, ApiError> {
        let (launchers, at) = self.reached(requests::guest_info).await?;
        document(launchers.guest_info(at).await)
    }

    /// Who is logged in there, the document of `userlist`.
    pub async fn guest_users(&self) -> Result<Value, ApiError> {
        let (launchers, at) = self.reached(requests::guest_info).await?;
        document(launchers.guest_users(at).await.map(GuestList::from))
    }

    /// Its file systems, the document of `filesystemlist`.
    pub async fn guest_file_systems(&self) -> Result<Value, ApiError> {
        let (launchers, at) = self.reached(requests::guest_info).await?;
        document(launchers.guest_file_systems(at).await.map(GuestList::from))
    }

    /// Holds the guest's file systems still.
    pub async fn freeze(&self, options: &FreezeOptions) -> Result<(), ApiError> {
        let instance = self.current().await?;
        let seconds = requests::freeze(&instance, options).map_err(|refusal| {
            // KubeVirt finds that out on the node.
            if refusal == requests::no_agent() {
                self.tell_of_freezing(&instance, &requests::NO_AGENT);
            }
            refused(refusal)
        })?;
        let (launchers, at) = self.launcher(&instance).await?;
        launchers.freeze(at, seconds).await.map_err(|error| {
            self.tell_of_freezing(&instance, &error);
            failed(&error)
        })
    }

    /// Records why its file systems are not held still, as KubeVirt's node agent does.
    fn tell_of_freezing(&self, instance: &VirtualMachineInstance, why: &dyn std::fmt::Display) {
        let event = Event::warning("FreezeError", format!("Failed to freeze VMI: {why}"));
        let node = instance.status.as_ref().and_then(|status| status.node_name.as_deref());
        let source = Source { component: "virt-handler", host: node.unwrap_or_default() };
        let mut about = instance.object_ref(&());
        about.resource_version = None;
        Recorder::new(self.server.clone()).record(source, &about, &event);
    }

    /// Lets them go on.
    pub async fn unfreeze(&self) -> Result<(), ApiError> {
        let (launchers, at) = self.reached(requests::unfreeze).await?;
        launchers.unfreeze(at).await.map_err(|error| failed(&error))
    }

    /// The refusal of what no instance has here, as `why` words it.
    pub async fn refused_by(&self, why: impl FnOnce(&VirtualMachineInstance) -> Refusal) -> ApiError {
        self.current().await.map_or_else(|error| error, |instance| refused(why(&instance)))
    }

    /// Its console.
    pub async fn console(&self, how: launcher::serial_port::Attach) -> Result<control::Console, ApiError> {
        let (launchers, at) = self.reached(requests::console).await?;
        launchers.console(at, how).await.map_err(crowded_or_failed)
    }

    /// A way to a port of its guest: a connection, or datagrams, each a [`launcher::network::Frame`].
    pub async fn port(
        &self,
        protocol: Protocol,
        port: u16,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, ApiError> {
        let instance = self.checked(requests::port_forward).await?;
        let dialing = |error: &dyn std::fmt::Display| failed(&format_args!("dialing VM: {error}"));
        let (launchers, at) = self.address(&instance).await.map_err(|error| dialing(&error))?;
        launchers.connect_to_guest(at, protocol, port).await.map_err(|error| match error {
            crowded @ ControlError::Refused { code: 429, .. } => crowded_or_failed(crowded),
            error => dialing(&error),
        })
    }

    /// The instance, if `check` allows what is asked.
    async fn checked(
        &self,
        check: impl FnOnce(&VirtualMachineInstance) -> Result<(), Refusal>,
    ) -> Result<VirtualMachineInstance, ApiError> {
        let instance = self.current().await?;
        check(&instance).map_err(refused)?;
        Ok(instance)
    }

    /// The instance.
    pub async fn current(&self) -> Result<VirtualMachineInstance, ApiError> {
        let instances: Api<VirtualMachineInstance> = Api::namespaced(self.server.clone(), &self.namespace);
        let instance = super::named(&instances, &self.name).await.map_err(ApiError::internal)?;
        instance.ok_or_else(|| refused(requests::not_found(&self.name)))
    }

    /// Its launcher, if `check` allows what is asked.
    async fn reached(
        &self,
        check: impl FnOnce(&VirtualMachineInstance) -> Result<(), Refusal>,
    ) -> Result<(&control::Client, SocketAddr), ApiError> {
        let instance = self.checked(check).await?;
        self.launcher(&instance).await
    }

    async fn launcher(
        &self,
        instance: &VirtualMachineInstance,
    ) -> Result<(&control::Client, SocketAddr), ApiError> {
        self.address(instance).await.map_err(|error| failed(&error))
    }

    /// Its launcher, or why there is none.
    async fn address(
        &self,
        instance: &VirtualMachineInstance,
    ) -> Result<(&control::Client, SocketAddr), String> {
        let launchers = self
            .launchers
            .as_ref()
            .ok_or("this server runs no machines, since it was started with `--api-only`")?;
        let at = controllers::vmi::launcher_address(self.server.clone(), instance).await;
        let at = at.map_err(|error| error.to_string())?;
        // It has ended since, and the instance does not say so yet.
        Ok((launchers, at.ok_or("the launcher of the instance does not run")?))
    }
}

/// Why a launcher opens no stream: too many are open, or something is wrong.
fn crowded_or_failed(error: ControlError) -> ApiError {
    match error {
        ControlError::Refused { code: 429, reason } => ApiError::new(429, "TooManyRequests", reason),
        error => failed(&error),
    }
}

fn document(told: Result<impl Serialize, ControlError>) -> Result<Value, ApiError> {
    serde_json::to_value(told.map_err(|error| failed(&error))?).map_err(ApiError::internal)
}

fn failed(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::internal(format_args!("{error}"))
}
