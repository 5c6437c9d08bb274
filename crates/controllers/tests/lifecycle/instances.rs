//! One instance at a time, from its creation to its end.

use kube::api::{DeleteParams, Patch, PatchParams};
use manifest::keys;
use manifest::machine_status::{GuestPanic, MachineState, MachineStatus, StateReason};
use manifest::types::VirtualMachineInstance;
use serde_json::{Value, json};

use super::world::{NODE, Told, World, annotation, condition, phase_of, phases_of, reason};

fn reasons(told: &[Told]) -> Vec<&str> {
    told.iter().map(|(_, _, reason, _, _)| reason.as_str()).collect()
}

fn name(pod: &k8s_openapi::api::core::v1::Pod) -> &str {
    pod.metadata.name.as_deref().unwrap()
}

fn uid(instance: &VirtualMachineInstance) -> &str {
    instance.metadata.uid.as_deref().unwrap()
}

#[tokio::test]
async fn a_good_boot_and_an_orderly_end() {
    let world = World::new().await;
    let created = world.create_instance("kb", json!({})).await;
    let pod = world.pod_of(&created).await;
    let scheduling = world.wait_phase("kb", "Scheduling").await;
    assert_eq!(reason(&scheduling, "Ready"), "GuestNotRunning");
    assert_eq!(scheduling.status.as_ref().unwrap().node_name, None);

    let at = world.run(name(&pod)).await;
    let running = world.wait_phase("kb", "Running").await;
    assert_eq!(phases_of(&running), ["Pending", "Scheduling", "Scheduled", "Running"]);
    let mut status = serde_json::to_value(running.status.as_ref().unwrap()).unwrap();
    let fields = status.as_object_mut().unwrap();
    fields.remove("phaseTransitionTimestamps");
    fields.remove("conditions");
    let expected = json!({
        "phase": "Running",
        "nodeName": NODE,
        "activePods": {pod.metadata.uid.as_deref().unwrap(): NODE},
        "currentCPUTopology": {"cores": 1, "sockets": 1, "threads": 1},
        "guestOSInfo": {},
        "kernelBootStatus": {"kernelInfo": {"checksum": 0}, "initrdInfo": {"checksum": 7}},
        "launcherContainerImageVersion": "ferrovirt.dev/launcher:test",
        "machine": {"type": "pc-q35-7.2"},
        "memory": {
            "guestAtBoot": "128Mi", "guestCurrent": "128Mi", "guestRequested": "128Mi",
            "memoryOverhead": "295168Ki",
        },
        "migrationMethod": "LiveMigration",
        "migrationTransport": "Unix",
        "qosClass": "Burstable",
        "runtimeUser": 107,
    });
    assert_eq!(status, expected);
    assert_eq!(condition(&running, "Ready").unwrap(), ("True".into(), String::new(), String::new()));
    assert_eq!(reason(&running, "LiveMigratable"), "InterfaceNotLiveMigratable");
    assert_eq!(reason(&running, "StorageLiveMigratable"), "NotMigratable");
    assert_eq!(running.metadata.labels.as_ref().unwrap()[keys::NODE_NAME], NODE);
    for (key, value) in [
        (keys::IMAGE_DIGEST, Some("sha256:0123")),
        (keys::KERNEL_VERSION, Some("6.1.0")),
        (keys::KERNEL_CHECKSUM, Some("00000000")),
        (keys::KERNEL_CHANGED, None),
    ] {
        assert_eq!(annotation(&running, key), value, "{key}");
    }

    let told = world.wait_told(uid(&created), 3).await;
    let pod_name = name(&pod);
    let expected = [
        ("virtualmachine-controller", "SuccessfulCreate", format!("Created virtual machine pod {pod_name}")),
        ("virt-handler", "Created", "VirtualMachineInstance defined.".to_owned()),
        ("virt-handler", "Started", "VirtualMachineInstance started.".to_owned()),
    ]
    .map(|(source, reason, message)| (source.to_owned(), "Normal".to_owned(), reason.to_owned(), message, 1));
    assert_eq!(told, expected);

    // Userspace is worth a write of its own; the Pod gets its node's name.
    world.launchers.change(at, |status| status.timeline.userspace_started = Some(5));
    world
        .wait("kb", "userspace", |instance: &VirtualMachineInstance| {
            annotation(instance, keys::BOOT_TIMELINE)
                .is_some_and(|text| text.contains("\"userspaceStarted\":5"))
        })
        .await;
    world
        .wait(pod_name, "label", |pod: &k8s_openapi::api::core::v1::Pod| {
            pod.metadata.labels.as_ref().unwrap().get(keys::NODE_NAME).is_some_and(|node| node == NODE)
        })
        .await;

    world.instances().delete("kb", &DeleteParams::default()).await.unwrap();
    let deleted = world
        .wait(pod_name, "deletion", |pod: &k8s_openapi::api::core::v1::Pod| {
            pod.metadata.deletion_timestamp.is_some()
        })
        .await;
    assert_eq!(deleted.metadata.deletion_grace_period_seconds, Some(60));
    let going = world
        .wait("kb", "going", |instance: &VirtualMachineInstance| {
            reason(instance, "Ready") == "PodTerminating"
        })
        .await;
    assert_eq!(phase_of(&going), "Running");
    assert_eq!(world.launchers.shutdowns(at), [30]);
    world.launchers.change(at, |status| {
        (status.state, status.reason) = (MachineState::ShutOff, StateReason::Shutdown);
    });
    let ended = world.wait_phase("kb", "Succeeded").await;
    assert_eq!(reason(&ended, "Ready"), "GuestNotRunning");
    let last = world.launchers.end(at);
    world.ended(pod_name, last.as_ref()).await;
    world.remove(pod_name).await;
    world.wait_gone::<VirtualMachineInstance>("kb").await;
    let told = world.wait_told(uid(&created), 6).await;
    assert_eq!(
        reasons(&told),
        ["SuccessfulCreate", "Created", "Started", "ShuttingDown", "SuccessfulDelete", "Stopped"]
    );
    assert_eq!(told[5].3, "The VirtualMachineInstance was shut down.");
    world.end().await;
}

#[tokio::test]
async fn images_that_do_not_come_are_told_of() {
    let world = World::new().await;
    let created = world.create_instance("kb", json!({})).await;
    let pod = world.pod_of(&created).await;
    let synchronized = |wanted: &'static str| {
        move |instance: &VirtualMachineInstance| reason(instance, "Synchronized") == wanted
    };
    let no_node = json!([{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available",
    }]);
    world.set_status(name(&pod), json!({"conditions": no_node})).await;
    world
        .wait("kb", "Unschedulable", |instance: &VirtualMachineInstance| {
            reason(instance, "PodScheduled") == "Unschedulable"
        })
        .await;
    world.bind(name(&pod)).await;
    for failure in ["ErrImagePull", "ImagePullBackOff", "ErrImagePull"] {
        world.wait_for_image(name(&pod), failure, "manifest unknown").await;
        let found = world.wait("kb", failure, synchronized(failure)).await;
        assert_eq!(phase_of(&found), "Scheduling");
        assert_eq!(reason(&found, "PodScheduled"), "");
        let (status, _, message) = condition(&found, "Synchronized").unwrap();
        assert_eq!((status.as_str(), message.as_str()), ("False", "manifest unknown"));
    }
    world.wait_for_image(name(&pod), "ErrImageNeverPull", "not here").await;
    world.wait("kb", "no condition", synchronized("")).await;

    let progress = |value: Value| json!({"metadata": {"annotations": {keys::PULL_PROGRESS: value}}});
    let text = r#"{"image":"registry/kb","bytes":3145728,"total":12582912,"percent":25}"#;
    let pods = world.pods();
    let params = PatchParams::default();
    pods.patch(name(&pod), &params, &Patch::Merge(progress(text.into()))).await.unwrap();
    let pulling = world
        .wait("kb", "Pulling", |instance: &VirtualMachineInstance| {
            reason(instance, keys::IMAGE_PULLED) == "Pulling"
        })
        .await;
    assert_eq!(condition(&pulling, keys::IMAGE_PULLED).unwrap().2, "3 of 12 MiB of registry/kb (25 %)");
    assert_eq!(annotation(&pulling, keys::PULL_PROGRESS), Some(text));
    pods.patch(name(&pod), &params, &Patch::Merge(progress(Value::Null))).await.unwrap();
    world.start(name(&pod)).await;
    let running = world.wait_phase("kb", "Running").await;
    assert_eq!(reason(&running, keys::IMAGE_PULLED), "Pulled");
    assert_eq!(annotation(&running, keys::PULL_PROGRESS), None);
    world.end().await;
}

#[tokio::test]
async fn a_machine_that_cannot_be_started_waits_and_is_tried_again() {
    let world = World::new().await;
    *world.launchers.sync_error.lock().unwrap() = Some("no such file: /boot/nope".to_owned());
    let created = world.create_instance("kb", json!({})).await;
    let pod = world.pod_of(&created).await;
    let at = world.run(name(&pod)).await;
    let failed = world
        .wait("kb", "failure", |instance: &VirtualMachineInstance| {
            condition(instance, "Synchronized").is_some()
        })
        .await;
    assert_eq!(phase_of(&failed), "Scheduled");
    let expected = ("False", "Synchronizing with the Domain failed.", "no such file: /boot/nope");
    let (status, reason_, message) = condition(&failed, "Synchronized").unwrap();
    assert_eq!((status.as_str(), reason_.as_str(), message.as_str()), expected);
    let told = world.wait_told(uid(&created), 2).await;
    assert_eq!(told[1].2, "SyncFailed");
    assert_eq!(
        (told[1].0.as_str(), told[1].1.as_str(), told[1].3.as_str()),
        ("virt-handler", "Warning", "no such file: /boot/nope")
    );
    *world.launchers.sync_error.lock().unwrap() = None;
    let running = world.wait_phase("kb", "Running").await;
    assert_eq!(condition(&running, "Synchronized"), None);
    assert!(world.launchers.syncs(at) >= 2);
    world.end().await;
}

/// What a machine's end means, told by its launcher, by its Pod, by both or by nobody.
#[tokio::test]
async fn every_end_has_its_phase() {
    let world = World::new().await;
    let table = [
        ("off", Some((MachineState::ShutOff, StateReason::Shutdown)), json!({}), "Succeeded"),
        ("killed", Some((MachineState::ShutOff, StateReason::Destroyed)), json!({}), "Failed"),
        (
            "at-once",
            Some((MachineState::ShutOff, StateReason::Destroyed)),
            json!({"spec": {"terminationGracePeriodSeconds": 0}}),
            "Succeeded",
        ),
        ("crashed", Some((MachineState::Crashed, StateReason::Crashed)), json!({}), "Failed"),
        ("launcher-died", None, json!({}), "Failed"),
    ];
    for (name_, end, changes, phase) in table {
        let created = world.create_instance(name_, changes).await;
        let pod = world.pod_of(&created).await;
        let at = world.run(name(&pod)).await;
        world.wait_phase(name_, "Running").await;
        let last = world.launchers.end(at);
        let last = last.zip(end).map(|(last, (state, reason))| MachineStatus { state, reason, ..last });
        world.ended(name(&pod), last.as_ref()).await;
        let ended = world.wait_phase(name_, phase).await;
        assert_eq!(phases_of(&ended), ["Pending", "Scheduling", "Scheduled", "Running", phase]);
        let told = world.wait_told(uid(&created), 4).await;
        let type_ = if phase == "Failed" { "Warning" } else { "Normal" };
        assert_eq!((told[3].1.as_str(), told[3].2.as_str()), (type_, "Stopped"), "{name_}");
    }

    let created = world.create_instance("vanished", json!({})).await;
    let pod = world.pod_of(&created).await;
    world.run(name(&pod)).await;
    world.wait_phase("vanished", "Running").await;
    world.remove(name(&pod)).await;
    world.wait_phase("vanished", "Failed").await;

    let created = world.create_instance("never-ran", json!({})).await;
    let pod = world.pod_of(&created).await;
    world.bind(name(&pod)).await;
    world.set_status(name(&pod), json!({"phase": "Failed"})).await;
    let failed = world.wait_phase("never-ran", "Failed").await;
    assert_eq!(phases_of(&failed), ["Pending", "Scheduling", "Failed"]);
    world.end().await;
}

#[tokio::test]
async fn a_panic_is_a_fact() {
    let world = World::new().await;
    let created = world.create_instance("kb", json!({})).await;
    let pod = world.pod_of(&created).await;
    let at = world.run(name(&pod)).await;
    world.wait_phase("kb", "Running").await;
    world.launchers.change(at, |status| {
        status.panic = Some(GuestPanic {
            at: 1,
            line: Some("Kernel panic - not syncing: \u{1b}[31mVFS".to_owned()),
            tail: vec!["one".to_owned(), "two".to_owned()],
        });
    });
    let panicked = world
        .wait("kb", "panic", |instance: &VirtualMachineInstance| {
            condition(instance, keys::GUEST_PANICKED).is_some()
        })
        .await;
    assert_eq!(phase_of(&panicked), "Running");
    let (status, _, message) = condition(&panicked, keys::GUEST_PANICKED).unwrap();
    assert_eq!(status, "True");
    assert_eq!(message, "Kernel panic - not syncing: \u{fffd}[31mVFS\none\ntwo");
    let told = world.wait_told(uid(&created), 4).await;
    assert_eq!(
        (told[3].1.as_str(), told[3].2.as_str(), told[3].3.as_str()),
        ("Warning", "GuestPanicked", "Kernel panic - not syncing: \u{fffd}[31mVFS")
    );
    world.end().await;
}

/// However far it got, an instance that is deleted goes.
#[tokio::test]
async fn deletion_always_finishes() {
    let mut world = World::new().await;
    let delete = async |world: &World, name: &str| {
        world.instances().delete(name, &DeleteParams::default()).await.unwrap();
    };

    // The controller was not there yet: no Pod.
    world.stop_controllers().await;
    world.create_instance("pending", json!({})).await;
    delete(&world, "pending").await;
    world.start_controllers();
    world.wait_gone::<VirtualMachineInstance>("pending").await;

    // Nobody took the Pod.
    let created = world.create_instance("unbound", json!({})).await;
    world.pod_of(&created).await;
    delete(&world, "unbound").await;
    world.wait_gone::<VirtualMachineInstance>("unbound").await;

    // The image never came.
    let created = world.create_instance("unpulled", json!({})).await;
    let pod = world.pod_of(&created).await;
    world.bind(name(&pod)).await;
    world.wait_for_image(name(&pod), "ErrImagePull", "no").await;
    delete(&world, "unpulled").await;
    world
        .wait(name(&pod), "deletion", |pod: &k8s_openapi::api::core::v1::Pod| {
            pod.metadata.deletion_timestamp.is_some()
        })
        .await;
    world.remove(name(&pod)).await;
    world.wait_gone::<VirtualMachineInstance>("unpulled").await;

    // The machine cannot be started.
    *world.launchers.sync_error.lock().unwrap() = Some("no".to_owned());
    let created = world.create_instance("unstartable", json!({})).await;
    let pod = world.pod_of(&created).await;
    let at = world.run(name(&pod)).await;
    world
        .wait("unstartable", "failure", |instance: &VirtualMachineInstance| {
            condition(instance, "Synchronized").is_some()
        })
        .await;
    delete(&world, "unstartable").await;
    world
        .wait(name(&pod), "deletion", |pod: &k8s_openapi::api::core::v1::Pod| {
            pod.metadata.deletion_timestamp.is_some()
        })
        .await;
    world.launchers.end(at);
    world.remove(name(&pod)).await;
    world.wait_gone::<VirtualMachineInstance>("unstartable").await;
    *world.launchers.sync_error.lock().unwrap() = None;

    // The launcher is dead, and its Pod says so.
    let created = world.create_instance("dead", json!({})).await;
    let pod = world.pod_of(&created).await;
    let at = world.run(name(&pod)).await;
    world.wait_phase("dead", "Running").await;
    world.launchers.end(at);
    world.ended(name(&pod), None).await;
    delete(&world, "dead").await;
    world.wait_gone::<VirtualMachineInstance>("dead").await;
    world.wait_gone::<k8s_openapi::api::core::v1::Pod>(name(&pod)).await;
    world.end().await;
}

#[tokio::test]
async fn a_new_controller_repeats_nothing() {
    let mut world = World::new().await;
    let created = world.create_instance("kb", json!({})).await;
    let pod = world.pod_of(&created).await;
    let at = world.run(name(&pod)).await;
    world.wait_phase("kb", "Running").await;
    let told = world.wait_told(uid(&created), 3).await;

    world.restart_controllers().await;
    // What happens next is seen, so everything before it was dealt with.
    world.launchers.change(at, |status| {
        (status.state, status.reason) = (MachineState::Paused, StateReason::User);
    });
    let paused = world
        .wait("kb", "paused", |instance: &VirtualMachineInstance| condition(instance, "Paused").is_some())
        .await;
    assert_eq!(condition(&paused, "Paused").unwrap().1, "PausedByUser");
    assert_eq!(phases_of(&paused), ["Pending", "Scheduling", "Scheduled", "Running"]);
    world
        .wait(name(&pod), "closed gate", |pod: &k8s_openapi::api::core::v1::Pod| {
            let conditions = pod.status.as_ref().unwrap().conditions.as_ref().unwrap();
            conditions.iter().any(|condition| {
                condition.type_ == "kubevirt.io/virtual-machine-unpaused" && condition.status == "False"
            })
        })
        .await;
    let after = world.wait_told(uid(&created), told.len() + 1).await;
    assert_eq!(after[..told.len()], told);
    assert_eq!(world.pod_of(&created).await.metadata.uid, pod.metadata.uid);

    world.launchers.change(at, |status| status.state = MachineState::Running);
    world
        .wait("kb", "unpaused", |instance: &VirtualMachineInstance| condition(instance, "Paused").is_none())
        .await;
    let after = world.wait_told(uid(&created), told.len() + 2).await;
    let said: Vec<_> = after[told.len()..]
        .iter()
        .map(|(from, type_, reason, message, _)| format!("{from} {type_} {reason} {message}"))
        .collect();
    assert_eq!(
        said,
        [
            "virt-handler Normal Paused VirtualMachineInstance paused",
            "virt-handler Normal Unpaused VirtualMachineInstance unpaused",
        ]
    );
    world.end().await;
}

#[tokio::test]
async fn an_instance_is_told_that_its_node_is_lost() {
    let world = World::new().await;
    let created = world.create_instance("kb", json!({})).await;
    let pod = world.pod_of(&created).await;
    world.run(name(&pod)).await;
    world.wait_phase("kb", "Running").await;
    // Its launcher said last that it runs, and nobody says anything after that.
    let unknown = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    let nodes = kube::Api::<k8s_openapi::api::core::v1::Node>::all(world.client.clone());
    nodes.patch_status(NODE, &PatchParams::default(), &Patch::Strategic(&unknown)).await.unwrap();
    world.set_status(name(&pod), json!({"phase": "Failed", "reason": "NodeLost"})).await;
    let failed = world.wait_phase("kb", "Failed").await;
    assert_eq!(failed.status.unwrap().reason.as_deref(), Some("NodeUnresponsive"));
    world.end().await;
}

#[tokio::test]
async fn a_pod_that_cannot_be_created_is_told_of_and_tried_again() {
    let mut world = World::new().await;
    world.stop_controllers().await;
    let created = world.create_instance("kb", json!({"spec": {"domain": {"memory": null}}})).await;
    world.start_controllers();
    let failed = world
        .wait("kb", "failure", |instance: &VirtualMachineInstance| {
            reason(instance, "Synchronized") == "FailedCreate"
        })
        .await;
    assert_eq!((phase_of(&failed), reason(&failed, "Ready").as_str()), ("Pending", "PodNotExists"));
    let told = world.wait_told(uid(&created), 1).await;
    assert_eq!((told[0].1.as_str(), told[0].2.as_str()), ("Warning", "FailedCreate"));
    assert!(told[0].3.starts_with("Error creating pod: no memory requested"), "{}", told[0].3);
    world.instances().delete("kb", &DeleteParams::default()).await.unwrap();
    world.wait_gone::<VirtualMachineInstance>("kb").await;
    world.end().await;
}
