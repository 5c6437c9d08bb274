//! The VirtualMachine controller.
//!
//! ```text
//!               ┌── strategy ── pending (requests) ── backoff ──┐
//!  machine ─────┤                                               ├──► decision ──► create, delete, wait, …
//!  instance ────┴── claim (whose is it?) ── instance (phase) ───┘        │
//!                                                                        ▼
//!  status ◄── conditions ── printable ◄── revision (has the template moved on?) ◄── what there is now
//! ```
//!
//! Everything but [`run`] and what it calls in `reconcile` is pure; time and chance come in as values. `requests` holds
//! what users ask of a machine over HTTP.

pub mod backoff;
pub mod build;
pub mod claim;
pub mod conditions;
pub mod decision;
pub mod instance;
pub mod last_boot;
pub mod pending;
pub mod printable;
mod reconcile;
pub mod requests;
pub mod revision;
pub mod status;
pub mod strategy;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, future};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::runtime::controller::{Action, Config, Controller, Error};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use manifest::types::{VirtualMachine, VirtualMachineInstance, VirtualMachineSpec, VirtualMachineStatus};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::PAGE;
use crate::identity::Identity;
use reconcile::{Context, Look};

/// Machines that are looked at at the same time.
const CONCURRENCY: u16 = 16;

/// How often it is tried to let an instance go whose machine does not exist; about a minute passes until the last try.
const RELEASE_ATTEMPTS: u32 = 12;

/// What is kept of a machine between two looks: its name, and whether there is nothing to do about it.
type Machine = Identity<VirtualMachine, Rest>;

/// Whether nothing is to be done about a machine that has no instance: what a look would find out, with all that it needs
/// at hand already. Most machines of a large installation are made, and not started for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rest(bool);

impl<'de> Deserialize<'de> for Machine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A machine that cannot be read must not keep others from being watched; looking at it tells what is wrong.
        let text = Box::<RawValue>::deserialize(deserializer)?;
        if let Ok(watched) = serde_json::from_str::<Watched>(text.get()) {
            return Ok(watched.into());
        }
        let identity: Identity<VirtualMachine> =
            serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?;
        Ok(Self::new(identity.meta().clone(), Rest(false)))
    }
}

/// What of a machine says which one it is, and whether there is something to do about it. The rest of its metadata is
/// skipped, field ownership before all.
#[derive(Deserialize)]
struct Watched {
    metadata: Metadata,
    spec: VirtualMachineSpec,
    status: Option<VirtualMachineStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
    annotations: Option<BTreeMap<String, String>>,
    finalizers: Option<Vec<String>>,
}

impl From<Watched> for Machine {
    fn from(Watched { metadata, spec, status }: Watched) -> Self {
        let Metadata { name, namespace, uid, resource_version, deletion_timestamp, annotations, finalizers } =
            metadata;
        let identity = ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() };
        let metadata = ObjectMeta { deletion_timestamp, annotations, finalizers, ..ObjectMeta::default() };
        let machine = VirtualMachine { metadata, spec, status, ..VirtualMachine::default() };
        Self::new(identity, Rest(status::rests(&machine, Timestamp::now())))
    }
}

/// Runs until dropped.
pub async fn run(client: kube::Client) {
    let context = Arc::new(Context::new(client.clone()));
    let machines = Api::<Machine>::all(client.clone());
    let instances = Api::<Identity<VirtualMachineInstance>>::all(client);
    // An instance concerns the machine of its name, whoever it belongs to.
    let listening = Arc::clone(&context);
    let machine_of = move |instance: Identity<VirtualMachineInstance>| {
        let (namespace, name) = instance.key();
        listening.hear_of(namespace, name);
        Some(ObjectRef::<Machine>::new(name).within(namespace))
    };
    let (known, writer) = reflector::store();
    let looking = Arc::clone(&context);
    let changes = watcher(machines, watcher::Config::default().page_size(PAGE))
        .reflect(writer)
        .applied_objects()
        .try_filter(move |machine| {
            let (namespace, name) = machine.key();
            future::ready(!machine.note.0 || looking.has_heard_of(namespace, name))
        });
    let reconcile = |machine: Arc<Machine>, context: Arc<Context>| async move {
        let (namespace, name) = machine.key();
        Look::new(&context, namespace, name).reconcile().await
    };
    let on_error = |machine: Arc<Machine>, error: &kube::Error, context: Arc<Context>| {
        let (namespace, name) = machine.key();
        Action::requeue(context.pause_after(namespace, name, error))
    };
    Controller::for_stream(changes, known)
        .with_config(Config::default().concurrency(CONCURRENCY))
        .watches(instances, watcher::Config::default().page_size(PAGE), machine_of)
        .run(reconcile, on_error, Arc::clone(&context))
        .for_each_concurrent(usize::from(CONCURRENCY), |result| async {
            match result {
                Ok(_) | Err(Error::ReconcilerFailed(..)) => {}
                Err(Error::ObjectNotFound(machine)) => without_machine(&context, &machine.erase()).await,
                Err(error) => tracing::warn!(%error, "machines and instances are watched again"),
            }
        })
        .await;
}

/// Looks after an instance whose machine does not exist.
async fn without_machine(context: &Context, machine: &ObjectRef<kube::core::DynamicObject>) {
    let namespace = machine.namespace.as_deref().unwrap_or_default();
    // Its next change brings it here again; without one it would wait for ever.
    for _ in 0..RELEASE_ATTEMPTS {
        match context.release_abandoned(namespace, &machine.name).await {
            Ok(()) => return context.forget(namespace, &machine.name),
            Err(error) => tokio::time::sleep(context.pause_after(namespace, &machine.name, &error)).await,
        }
    }
    context.forget(namespace, &machine.name);
    tracing::error!(object = %format_args!("{namespace}/{}", machine.name), "an instance without a machine could not be let go");
}
