//! The group `subresources.kubevirt.io`: what is done to machines by request.
//!
//! ```text
//! PUT …/virtualmachines/NAME/start ─► options ─► machine, instance ─► controllers::vm::requests ─► patches ─► 202
//! ```
//!
//! What is done to a running instance goes to its launcher, whose address its Pod says:
//!
//! ```text
//! PUT …/virtualmachineinstances/NAME/pause   ─► controllers::vmi::requests ─► Pod ─► launcher ─► 200
//! GET …/virtualmachineinstances/NAME/console ─► the same, then a WebSocket over the launcher's console
//! GET …/portforward/PORT                     ─► the same, over a connection to the guest
//! ```
//!
//! What a request changes, and why one is refused, the controllers' crate decides; here are the bodies, the reading and
//! the writing. Both are done as KubeVirt's own account, since the caller has the right to start a machine and not the
//! one to change it.

mod about;
mod console;
mod expand;
mod gates;
mod instance;
mod port_forward;
mod vnc;

use std::sync::Arc;

use apiserver::auth::Identity;
use apiserver::decode;
use apiserver::http::extension::{self, Call, Extends, Extension, Response};
use apiserver::kind::ForeignGroup;
use apiserver::status::{ApiError, Details};
use bytes::Bytes;
use controllers::vm::requests::{self, Change, Refusal, Target};
use controllers::vmi::requests::{self as instance_requests, FreezeOptions, PauseOptions};
use http::StatusCode;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use manifest::types::{VirtualMachine, VirtualMachineInstance};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::installation::components;
use super::metrics::Connections;
use instance::{Instance, Operation};
use port_forward::Of;

/// The group's name.
const GROUP: &str = "subresources.kubevirt.io";

/// The most bytes of options that are read; the largest that make sense have some hundred.
const MOST_BODY_BYTES: usize = 64 * 1024;

/// The most bytes of a whole machine that are read, as where machines are created.
const MOST_OBJECT_BYTES: usize = 3 << 20;

/// The group as discovery shows it. KubeVirt lists names of two slashes as well, such as `…/vnc/screenshot`, on which the
/// dynamic client of Python's `kubernetes` fails for every resource; no client is known that needs them.
pub const DISCOVERY: ForeignGroup = ForeignGroup {
    name: GROUP,
    versions: &["v1", "v1alpha3"],
    resources: &[
        "expand-vm-spec",
        "virtualmachineinstances/addvolume",
        "virtualmachineinstances/backup",
        "virtualmachineinstances/console",
        "virtualmachineinstances/filesystemlist",
        "virtualmachineinstances/freeze",
        "virtualmachineinstances/guestosinfo",
        "virtualmachineinstances/objectgraph",
        "virtualmachineinstances/pause",
        "virtualmachineinstances/portforward",
        "virtualmachineinstances/redefine-checkpoint",
        "virtualmachineinstances/removevolume",
        "virtualmachineinstances/reset",
        "virtualmachineinstances/softreboot",
        "virtualmachineinstances/unfreeze",
        "virtualmachineinstances/unpause",
        "virtualmachineinstances/userlist",
        "virtualmachineinstances/vnc",
        "virtualmachines/expand-spec",
        "virtualmachines/migrate",
        "virtualmachines/objectgraph",
        "virtualmachines/restart",
        "virtualmachines/start",
        "virtualmachines/stop",
    ],
};

/// What answers the group; `launchers` is there where machines run.
/// Connections to guests are counted in `connections`.
pub fn extension(launchers: Option<launcher::control::Client>, connections: Connections) -> Extension {
    let handler = move |call: Call| answer(call, launchers.clone(), connections.clone());
    Extension { extends: Extends::Group(GROUP.to_owned()), handler: Arc::new(handler) }
}

async fn answer(
    mut call: Call,
    launchers: Option<launcher::control::Client>,
    connections: Connections,
) -> Result<Response, ApiError> {
    let info = &call.info;
    let verb = info.verb.clone();
    let expect = |wanted: &str| if verb == wanted { Ok(()) } else { Err(ApiError::no_such_method()) };
    let resource = info.resource.clone();
    let subresource = std::iter::once(&info.subresource).chain(&info.rest).map(String::as_str);
    let subresource = subresource.collect::<Vec<_>>().join("/");
    // Read whole whatever it is for: a client that still sends would lose the answer with the stream.
    let body = match (verb.as_str(), resource.as_str()) {
        ("update", "expand-vm-spec") => call.body(MOST_OBJECT_BYTES).await?,
        ("update", _) => call.body(MOST_BODY_BYTES).await?,
        _ => Bytes::new(),
    };
    let info = &call.info;
    match (info.has_path_namespace, info.has_path_name, resource.as_str(), subresource.as_str()) {
        (true, true, "virtualmachines", action @ ("start" | "stop" | "restart")) => {
            expect("update")?;
            let machine = Machine::of(&call);
            match action {
                "start" => machine.start(read(&body)?).await?,
                "stop" => machine.stop(read(&body)?).await?,
                _ => machine.restart(read(&body)?).await?,
            }
            Ok(extension::empty(StatusCode::ACCEPTED))
        }
        (true, true, "virtualmachines", "migrate") => {
            expect("update")?;
            read::<serde_json::Map<_, _>>(&body)?;
            let machine = Machine::of(&call);
            let (_, instance) = machine.current().await?;
            let absent = || refused(instance_requests::not_found(machine.name));
            Err(refused(instance_requests::migrate(&instance.ok_or_else(absent)?)))
        }
        (true, true, "virtualmachines", "removememorydump") => {
            expect("update")?;
            let machine = Machine::of(&call);
            machine.current().await?;
            Err(refused(Refusal::no_memory_dump(machine.name)))
        }
        (true, true, kind @ ("virtualmachineinstances" | "virtualmachines"), "evacuate/cancel") => {
            expect("update")?;
            if body.is_empty() {
                return Err(ApiError::bad_request("No body"));
            }
            read::<serde_json::Map<_, _>>(&body)?;
            let instance = match kind {
                "virtualmachines" => Machine::of(&call).started_instance().await?,
                _ => Instance::of(&call, launchers).current().await?,
            };
            // No instance is ever told to leave its node, so there is nothing else to call off.
            let stays = controllers::vmi::stay(server(&call), &instance).await.map_err(ApiError::internal)?;
            stays.map_err(refused)?;
            Ok(extension::empty(StatusCode::OK))
        }
        (true, true, "virtualmachines", "expand-spec") => {
            expect("get")?;
            expand::stored(&Machine::of(&call)).await
        }
        (true, false, "expand-vm-spec", "") => {
            expect("update")?;
            expand::given(&body, &call.info.namespace)
        }
        (true, true, "virtualmachineinstances", "console") => {
            expect("get")?;
            console::open(call, launchers, &connections).await
        }
        (true, true, kind @ ("virtualmachineinstances" | "virtualmachines"), path)
            if path == "portforward" || path.starts_with("portforward/") =>
        {
            let of = if kind == "virtualmachines" { Of::Machine } else { Of::Instance };
            expect("get")?;
            port_forward::open(call, of, launchers, &connections).await
        }
        (true, true, "virtualmachineinstances", action @ ("pause" | "unpause" | "reset" | "softreboot")) => {
            expect("update")?;
            let instance = Instance::of(&call, launchers);
            match action {
                "pause" => instance.operate(Operation::Pause, read(&body)?).await?,
                "unpause" => instance.operate(Operation::Unpause, read(&body)?).await?,
                "softreboot" => instance.operate(Operation::SoftReboot, PauseOptions::default()).await?,
                _ => instance.reset().await?,
            }
            Ok(extension::empty(StatusCode::OK))
        }
        (true, true, "virtualmachineinstances", what @ ("guestosinfo" | "userlist" | "filesystemlist")) => {
            expect("get")?;
            let instance = Instance::of(&call, launchers);
            let told = match what {
                "guestosinfo" => instance.guest_info().await,
                "userlist" => instance.guest_users().await,
                _ => instance.guest_file_systems().await,
            };
            // Refusals are texts here, and all of them have this code, as KubeVirt's.
            Ok(told.map_or_else(
                |error| extension::text(StatusCode::INTERNAL_SERVER_ERROR, error.message),
                |document| extension::json(StatusCode::OK, &document),
            ))
        }
        (true, true, "virtualmachineinstances", "freeze") => {
            expect("update")?;
            let options: FreezeOptions = read(&body)?;
            Instance::of(&call, launchers).freeze(&options).await?;
            Ok(extension::empty(StatusCode::OK))
        }
        (true, true, "virtualmachineinstances", "unfreeze") => {
            expect("update")?;
            Instance::of(&call, launchers).unfreeze().await?;
            Ok(extension::empty(StatusCode::OK))
        }
        (true, true, "virtualmachineinstances", "vnc") => {
            expect("get")?;
            vnc::open(call, launchers, &connections).await
        }
        (true, true, "virtualmachineinstances", "vnc/screenshot") => {
            expect("get")?;
            vnc::screenshot(call, launchers).await
        }
        (true, true, "virtualmachineinstances", "vsock") => {
            expect("get")?;
            Err(Instance::of(&call, launchers).refused_by(instance_requests::vsock).await)
        }
        (true, true, "virtualmachineinstances", "usbredir") => {
            expect("get")?;
            Err(Instance::of(&call, launchers).refused_by(instance_requests::usbredir).await)
        }
        (true, true, "virtualmachineinstances", "backup") => {
            expect("update")?;
            Err(Instance::of(&call, launchers).refused_by(instance_requests::backup).await)
        }
        (true, true, "virtualmachineinstances", "redefine-checkpoint") => {
            expect("update")?;
            Err(Instance::of(&call, launchers).refused_by(instance_requests::redefine_checkpoint).await)
        }
        (false, false, "version", "") => expect("list").map(|()| about::version()),
        (false, false, "guestfs", "") => expect("list").map(|()| about::guestfs()),
        (false, false, "healthz", "") => {
            expect("list")?;
            about::health(server(&call)).await
        }
        (in_namespace, is_named, resource, subresource) => {
            let gate = gates::find(in_namespace, is_named, resource, subresource);
            let (verb, answer) = gate.ok_or_else(ApiError::no_such_path)?;
            expect(verb)?;
            answer
        }
    }
}

/// The server, for KubeVirt's own account.
fn server(call: &Call) -> Client {
    let identity = Identity::service_account(components::NAMESPACE, components::API);
    Client::new(call.client_service(identity), "default")
}

/// Options out of a body in JSON or YAML, whatever it is said to be; an empty one asks for nothing in particular.
fn read<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ApiError> {
    match read_value(body)? {
        Some(value) => serde_json::from_value(value).map_err(|error| unreadable(&error)),
        None => Ok(T::default()),
    }
}

/// A document in JSON or YAML; `None` for an empty body.
fn read_value(body: &[u8]) -> Result<Option<Value>, ApiError> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    decode::yaml(body).map(|decoded| Some(decoded.value)).map_err(|error| unreadable(&error))
}

fn unreadable(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("Can not unmarshal Request body to struct, error: {error}"))
}

/// The machine that a request is about.
struct Machine<'a> {
    server: Client,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Machine<'a> {
    /// That of `call`.
    fn of(call: &'a Call) -> Self {
        Self { server: server(call), namespace: &call.info.namespace, name: &call.info.name }
    }

    async fn start(&self, options: requests::StartOptions) -> Result<(), ApiError> {
        let (machine, instance) = self.current().await?;
        let changes = requests::start(&machine, instance.as_ref(), &options).map_err(refused)?;
        self.make(changes, options.dry_run).await
    }

    async fn stop(&self, options: requests::StopOptions) -> Result<(), ApiError> {
        let (machine, instance) = self.current().await?;
        let changes = requests::stop(&machine, instance.as_ref(), &options).map_err(refused)?;
        self.make(changes, options.dry_run).await
    }

    async fn restart(&self, options: requests::RestartOptions) -> Result<(), ApiError> {
        let (machine, instance) = self.current().await?;
        let changes = requests::restart(&machine, instance.as_ref(), &options).map_err(refused)?;
        self.make(changes, options.dry_run).await
    }

    /// The machine, and the instance that is its own or nobody's.
    async fn current(&self) -> Result<(VirtualMachine, Option<VirtualMachineInstance>), ApiError> {
        let machines: Api<VirtualMachine> = Api::namespaced(self.server.clone(), self.namespace);
        let instances: Api<VirtualMachineInstance> = Api::namespaced(self.server.clone(), self.namespace);
        let machine = named(&machines, self.name).await.map_err(|error| self.failed(&error))?;
        let machine = machine.ok_or_else(|| refused(Refusal::not_found(self.name)))?;
        let instance = named(&instances, self.name).await.map_err(|error| self.failed(&error))?;
        let instance = instance.filter(|instance| !is_another_ones(instance, &machine));
        Ok((machine, instance))
    }

    /// The instance of the machine, which must be started.
    async fn started_instance(&self) -> Result<VirtualMachineInstance, ApiError> {
        let (machine, instance) = self.current().await?;
        if machine.status.is_none_or(|status| status.created != Some(true)) {
            return Err(refused(Refusal::conflict(self.name, "VMI is not started")));
        }
        instance.ok_or_else(|| refused(instance_requests::not_found(self.name)))
    }

    async fn make(&self, changes: Vec<Change>, dry_run: Option<Vec<String>>) -> Result<(), ApiError> {
        let parameters = PatchParams { dry_run: is_dry_run(dry_run)?, ..PatchParams::default() };
        let machines: Api<VirtualMachine> = Api::namespaced(self.server.clone(), self.namespace);
        let instances: Api<VirtualMachineInstance> = Api::namespaced(self.server.clone(), self.namespace);
        for Change { target, patch } in changes {
            let done = match target {
                Target::Machine => {
                    machines.patch(self.name, &parameters, &Patch::Json::<()>(patch)).await.map(drop)
                }
                Target::MachineStatus => {
                    machines.patch_status(self.name, &parameters, &Patch::Json::<()>(patch)).await.map(drop)
                }
                Target::Instance => {
                    instances.patch(self.name, &parameters, &Patch::Json::<()>(patch)).await.map(drop)
                }
            };
            done.map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }

    /// What the caller is told when the server refuses what is asked of it on the way.
    fn failed(&self, error: &kube::Error) -> ApiError {
        let kube::Error::Api(status) = error else { return ApiError::internal(error) };
        match status.code {
            404 => refused(Refusal::not_found(self.name)),
            // A patch whose tests fail cannot be processed: somebody else was faster.
            409 | 422 if !status.message.contains("denied the request") => {
                refused(Refusal::lost_race(self.name, &status.message))
            }
            429 => retry(429, "TooManyRequests", &status.message),
            503 => retry(503, "ServiceUnavailable", &status.message),
            _ => ApiError::internal(&status.message),
        }
    }
}

/// Whether only the checks are to be made.
fn is_dry_run(dry_run: Option<Vec<String>>) -> Result<bool, ApiError> {
    let dry_run = dry_run.unwrap_or_default();
    if let Some(unknown) = dry_run.iter().find(|value| *value != "All") {
        let why = format!("dryRun: Unsupported value: {unknown:?}: supported values: \"All\"");
        return Err(ApiError::internal(format_args!("PatchOptions.meta.k8s.io \"\" is invalid: {why}")));
    }
    Ok(!dry_run.is_empty())
}

/// Whether an instance of the machine's name belongs to something else.
fn is_another_ones(instance: &VirtualMachineInstance, machine: &VirtualMachine) -> bool {
    let mut owners = instance.metadata.owner_references.iter().flatten();
    let controller = owners.find(|owner| owner.controller == Some(true));
    controller.is_some_and(|owner| Some(&owner.uid) != machine.metadata.uid.as_ref())
}

fn refused(refusal: Refusal) -> ApiError {
    let mut error = ApiError::new(refusal.code, refusal.reason, refusal.message);
    error.details = refusal.subject.map(|subject| {
        Box::new(Details {
            name: subject.name,
            group: subject.group.to_owned(),
            kind: subject.kind.to_owned(),
            ..Details::default()
        })
    });
    error
}

fn retry(code: u16, reason: &'static str, message: &str) -> ApiError {
    let mut error = ApiError::new(code, reason, message);
    error.details = Some(Box::new(Details { retry_after_seconds: Some(1), ..Details::default() }));
    error
}

/// The object of that name. One that fits into no path, of control characters for instance, is nobody's.
pub(super) async fn named<K>(api: &kube::Api<K>, name: &str) -> Result<Option<K>, kube::Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match api.get_opt(name).await {
        Err(kube::Error::BuildRequest(_)) => Ok(None),
        found => found,
    }
}

#[cfg(test)]
mod tests;
