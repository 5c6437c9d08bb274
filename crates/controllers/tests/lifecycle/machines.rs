//! Machines and their instances, both controllers at work.

use kube::api::{DeleteParams, ListParams, PostParams};
use manifest::keys;
use manifest::machine_status::{MachineState, StateReason};
use manifest::types::{VirtualMachine, VirtualMachineInstance};
use serde_json::json;

use super::world::{World, annotation, instance_spec, phases_of, reason};

fn printable(machine: &VirtualMachine) -> &str {
    machine.status.as_ref().and_then(|status| status.printable_status.as_deref()).unwrap_or_default()
}

#[tokio::test]
async fn a_machine_that_always_runs_is_run_again_and_says_whether_its_kernel_changed() {
    let world = World::new().await;
    let machine: VirtualMachine = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "kb"},
        "spec": {"runStrategy": "Always", "template": {"spec": instance_spec()}},
    }))
    .unwrap();
    world.machines().create(&PostParams::default(), &machine).await.unwrap();
    let mut last_uid = None;
    for (kernel, changed) in [(1, None), (1, Some("false")), (2, Some("true"))] {
        *world.launchers.kernel.lock().unwrap() = kernel;
        let instance = world
            .wait("kb", "the next instance", |instance: &VirtualMachineInstance| {
                instance.metadata.uid != last_uid
            })
            .await;
        last_uid = instance.metadata.uid.clone();
        let pod = world.pod_of(&instance).await.metadata.name.unwrap();
        let at = world.run(&pod).await;
        let running = world.wait_phase("kb", "Running").await;
        assert_eq!(annotation(&running, keys::KERNEL_CHANGED), changed);
        world.wait("kb", "Running", |machine: &VirtualMachine| printable(machine) == "Running").await;
        // What runs is what the next boot is compared with.
        let boot = format!("\"checksum\":{kernel},");
        world
            .wait("kb", "the last boot", |machine: &VirtualMachine| {
                let annotations = machine.metadata.annotations.as_ref();
                let last = annotations.and_then(|annotations| annotations.get(keys::LAST_BOOT));
                last.is_some_and(|last| format!("{last},").replace('}', ",").contains(&boot))
            })
            .await;
        // The guest powers itself off.
        world.launchers.change(at, |status| {
            (status.state, status.reason) = (MachineState::ShutOff, StateReason::Shutdown);
        });
        let last = world.launchers.end(at);
        world.ended(&pod, last.as_ref()).await;
    }
    let instance = world
        .wait("kb", "the last instance", |instance: &VirtualMachineInstance| {
            instance.metadata.uid != last_uid
        })
        .await;
    let pod = world.pod_of(&instance).await.metadata.name.unwrap();
    let at = world.run(&pod).await;
    world.wait_phase("kb", "Running").await;
    world.machines().delete("kb", &DeleteParams::default()).await.unwrap();
    world.wait("kb", "Terminating", |machine: &VirtualMachine| printable(machine) == "Terminating").await;
    world.launchers.change(at, |status| {
        (status.state, status.reason) = (MachineState::ShutOff, StateReason::Shutdown);
    });
    let last = world.launchers.end(at);
    world.ended(&pod, last.as_ref()).await;
    world.remove(&pod).await;
    world.wait_gone::<VirtualMachineInstance>("kb").await;
    world.wait_gone::<VirtualMachine>("kb").await;
    world.end().await;
}

#[tokio::test]
async fn a_receiver_waits_for_a_migration_and_gets_no_pod() {
    let world = World::new().await;
    let machine: VirtualMachine = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "kb"},
        "spec": {"runStrategy": "WaitAsReceiver", "template": {"spec": instance_spec()}},
    }))
    .unwrap();
    world.machines().create(&PostParams::default(), &machine).await.unwrap();
    let waiting = world.wait_phase("kb", "WaitingForSync").await;
    assert_eq!(phases_of(&waiting), ["Pending", "WaitingForSync"]);
    assert_eq!(reason(&waiting, "Ready"), "PodNotExists");
    let word = "WaitingForReceiver";
    world.wait("kb", word, |machine: &VirtualMachine| printable(machine) == word).await;
    assert_eq!(world.pods().list(&ListParams::default()).await.unwrap().items.len(), 0);
    world.machines().delete("kb", &DeleteParams::default()).await.unwrap();
    world.wait_gone::<VirtualMachine>("kb").await;
    world.wait_gone::<VirtualMachineInstance>("kb").await;
    world.end().await;
}
