#![allow(clippy::unwrap_used)]

mod conditions;
mod model;
mod requests;
mod starting;
mod tables;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifest::Time;
use manifest::keys;
use manifest::types::*;
use serde_json::json;

/// Every run strategy, and a word that is none.
const STRATEGIES: [&str; 7] =
    ["Always", "RerunOnFailure", "Manual", "Halted", "Once", "WaitAsReceiver", "Sometimes"];

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn later(seconds: i64) -> Time {
    Time(now() + jiff::SignedDuration::from_secs(seconds))
}

/// A stored machine of that run strategy.
fn machine(strategy: &str) -> VirtualMachine {
    serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "kb", "namespace": "ns", "uid": "machine-uid", "generation": 3, "resourceVersion": "7"},
        "spec": {
            "runStrategy": strategy,
            "template": {
                "metadata": {"labels": {"app": "a"}, "annotations": {"note": "b"}},
                "spec": {
                    "domain": {
                        "devices": {},
                        "cpu": {"sockets": 2},
                        "memory": {"guest": "128Mi"},
                        "firmware": {
                            "uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223",
                            "kernelBoot": {"container": {"image": "localhost/k:1", "kernelPath": "/vmlinuz"}},
                        },
                    },
                },
            },
        },
        "status": {"printableStatus": "Stopped"},
    }))
    .unwrap()
}

/// A stored instance in that phase, owned by [`machine`].
fn instance(phase: &str) -> VirtualMachineInstance {
    let mut instance = super::build::instance(&machine("Always"), super::decision::Manner::AsWritten, None);
    instance.metadata.uid = Some("instance-uid".to_owned());
    let status = instance.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    instance
}

fn deleting<T>(mut object: T, metadata: fn(&mut T) -> &mut ObjectMeta) -> T {
    metadata(&mut object).deletion_timestamp = Some(Time(now()));
    object
}

fn has_been(mut instance: VirtualMachineInstance, phases: &[&str]) -> VirtualMachineInstance {
    instance.status.get_or_insert_default().phase_transition_timestamps = phases
        .iter()
        .map(|phase| VirtualMachineInstancePhaseTransitionTimestamp {
            phase: Some((*phase).to_owned()),
            phase_transition_timestamp: Some(Time(now())),
        })
        .collect();
    instance
}

fn condition(type_: &str, status: &str, reason: &str) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
        ..Condition::default()
    }
}

fn with_conditions(
    mut instance: VirtualMachineInstance,
    conditions: Vec<Condition>,
) -> VirtualMachineInstance {
    instance.status.get_or_insert_default().conditions = conditions;
    instance
}

fn start() -> VirtualMachineStateChangeRequest {
    VirtualMachineStateChangeRequest { action: "Start".to_owned(), ..Default::default() }
}

fn start_paused() -> VirtualMachineStateChangeRequest {
    let data = BTreeMap::from([("paused".to_owned(), "true".to_owned())]);
    VirtualMachineStateChangeRequest { data, ..start() }
}

fn stop(uid: &str) -> VirtualMachineStateChangeRequest {
    VirtualMachineStateChangeRequest {
        action: "Stop".to_owned(),
        uid: Some(uid.to_owned()),
        ..Default::default()
    }
}
