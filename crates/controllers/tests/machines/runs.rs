//! Strategies, requests and changes while a machine runs.

use controllers::vm::requests::{self, RestartOptions, StartOptions, StopOptions};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use manifest::keys::{IMAGE_DIGEST, LAST_BOOT, VM_FINALIZER, VM_GENERATION};
use manifest::types::VirtualMachineInstance;
use serde_json::json;

use crate::server::REFUSED;
use crate::world::{NAME, World, condition, machine, template, uid};

fn text(words: [&str; 3]) -> (String, String, String) {
    words.map(str::to_owned).into()
}

#[tokio::test]
async fn a_machine_that_always_runs_is_started_and_started_again_when_its_guest_ends() {
    let world = World::start().await;
    let created = world.create("Always").await;
    let instance = world.instance("an instance", |_| true).await;
    let owner = &instance.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), &owner.uid, owner.controller),
        ("VirtualMachine", created.metadata.uid.as_ref().unwrap(), Some(true))
    );
    assert!(instance.metadata.finalizers.as_ref().unwrap().contains(&VM_FINALIZER.to_owned()));
    let starting = world.shows("Starting").await;
    let status = starting.status.as_ref().unwrap();
    assert_eq!((status.created, status.ready), (Some(true), None));
    assert_eq!((status.desired_generation, status.observed_generation), (Some(1), Some(1)));
    assert_eq!(status.run_strategy.as_deref(), Some("Always"));
    assert_eq!(starting.metadata.finalizers.as_ref().unwrap(), &[VM_FINALIZER]);
    let annotations = starting.metadata.annotations.unwrap();
    assert_eq!(annotations["kubevirt.io/latest-observed-api-version"], "v1");
    let revisions = Api::<ControllerRevision>::namespaced(world.client.clone(), "default");
    let revision = format!("revision-start-vm-{}-1", created.metadata.uid.unwrap());
    assert!(revisions.get_opt(&revision).await.unwrap().is_some());

    let running = world.run().await;
    let shown = world.shows("Running").await;
    assert_eq!(shown.status.as_ref().unwrap().ready, Some(true));
    assert_eq!(condition(&shown, "Ready"), Some(text(["True", "", ""])));

    world.end_instance("Succeeded").await;
    world.let_go().await;
    let next = world.instance("another instance", |instance| uid(instance) != uid(&running)).await;
    assert!(next.metadata.deletion_timestamp.is_none());
    let shown = world.shows("Starting").await;
    assert_eq!(shown.status.unwrap().start_failure, None);
    let started = "Started the virtual machine by creating the new virtual machine instance kb";
    let stopped =
        format!("Stopped the virtual machine by deleting the virtual machine instance {}", uid(&running));
    let normal = |reason: &str, message: &str, count| {
        ("Normal".to_owned(), reason.to_owned(), message.to_owned(), count)
    };
    // The second start counts up the first one's event.
    let mut events = world.events(2).await;
    while events[0].3 < 2 {
        events = world.events(2).await;
    }
    assert_eq!(events, [normal("SuccessfulCreate", started, 2), normal("SuccessfulDelete", &stopped, 1)]);
    world.end().await;
}

#[tokio::test]
async fn a_machine_runs_by_request() {
    let world = World::start().await;
    world.create("Manual").await;
    let idle = world.machine("a Ready condition", |machine| condition(machine, "Ready").is_some()).await;
    let missing = text(["False", "VMINotExists", "VMI does not exist"]);
    assert_eq!(condition(&idle, "Ready"), Some(missing.clone()));
    assert_eq!(idle.status.unwrap().run_strategy, None);

    let paused = StartOptions { paused: true, ..StartOptions::default() };
    world.ask(|machine, instance| requests::start(machine, instance, &paused)).await;
    let first = world.instance("an instance", |_| true).await;
    assert_eq!(first.spec.start_strategy.as_deref(), Some("Paused"));
    let started = world.shows("Starting").await;
    assert_eq!(started.status.unwrap().state_change_requests, []);

    world.run().await;
    world.shows("Running").await;
    let restart = RestartOptions::default();
    world.ask(|machine, instance| requests::restart(machine, instance, &restart)).await;
    world.shows("Stopping").await;
    world.end_instance("Succeeded").await;
    world.let_go().await;
    let second = world.instance("another instance", |instance| uid(instance) != uid(&first)).await;
    assert_eq!(second.spec.start_strategy, None);
    world.run().await;
    world
        .machine("a running machine without requests", |machine| {
            let status = machine.status.clone().unwrap();
            status.printable_status.as_deref() == Some("Running") && status.state_change_requests.is_empty()
        })
        .await;

    world.ask(|machine, instance| requests::stop(machine, instance, &StopOptions::default())).await;
    world.shows("Stopping").await;
    world.end_instance("Failed").await;
    world.let_go().await;
    let stopped = world
        .machine("a stopped machine", |machine| condition(machine, "Ready") == Some(missing.clone()))
        .await;
    let status = stopped.status.unwrap();
    assert_eq!(status.printable_status.as_deref(), Some("Stopped"));
    assert_eq!((status.created, status.state_change_requests), (None, vec![]));
    assert_eq!(status.run_strategy.as_deref(), Some("Manual"));
    world.no_instance().await;
    world.end().await;
}

#[tokio::test]
async fn a_guest_that_ends_by_itself_is_kept_by_hand_and_replaced_on_request() {
    let world = World::start().await;
    world.create("Manual").await;
    world.ask(|machine, instance| requests::start(machine, instance, &StartOptions::default())).await;
    let first = world.instance("an instance", |_| true).await;
    world.run().await;
    world.end_instance("Succeeded").await;
    let kept = world.instance("an instance that is let go", |instance| {
        !instance.metadata.finalizers.as_ref().unwrap().contains(&VM_FINALIZER.to_owned())
    });
    assert_eq!(uid(&kept.await), uid(&first));
    let stopped = world.shows("Stopped").await;
    assert_eq!(stopped.status.unwrap().created, Some(true));
    world.ask(|machine, instance| requests::start(machine, instance, &StartOptions::default())).await;
    world.let_go().await;
    world.instance("another instance", |instance| uid(instance) != uid(&first)).await;
    world.shows("Starting").await;
    world.end().await;
}

#[tokio::test]
async fn a_machine_that_reruns_on_failure_follows_a_crash_and_not_a_shutdown() {
    let world = World::start().await;
    world.create("RerunOnFailure").await;
    let first = world.instance("an instance", |_| true).await;
    world.run().await;
    world.end_instance("Failed").await;
    world.let_go().await;
    world.instance("another instance", |instance| uid(instance) != uid(&first)).await;
    world.run().await;
    world.shows("Running").await;
    world.end_instance("Succeeded").await;
    world.let_go().await;
    world.no_instance().await;
    let stopped = world.machine("a stopped machine", |machine| {
        condition(machine, "Ready").is_some_and(|ready| ready.1 == "VMINotExists")
    });
    let status = stopped.await.status.unwrap();
    assert_eq!(status.printable_status.as_deref(), Some("Stopped"));
    assert_eq!(status.state_change_requests, []);
    // Nothing is left that would start it: a controller that knows nothing leaves it, too.
    assert!(world.instances.get_opt(NAME).await.unwrap().is_none());
    world.end().await;
}

#[tokio::test]
async fn an_instance_that_never_ran_is_followed_by_another_after_a_wait_only() {
    let mut world = World::start().await;
    world.create("Always").await;
    let first = world.instance("an instance", |_| true).await;
    world.end_instance("Failed").await;
    world.let_go().await;
    world.no_instance().await;
    let waiting = world.shows("CrashLoopBackOff").await;
    let failure = waiting.status.unwrap().start_failure.unwrap();
    assert_eq!(failure.consecutive_fail_count, Some(1));
    assert_eq!(failure.last_failed_vmi_uid, Some(uid(&first)));
    // A controller that starts afterwards waits, too.
    world.restart_controller().await;
    world.patch(json!({"spec": {"runStrategy": "Manual"}})).await;
    world.shows("Stopped").await;
    assert!(world.instances.get_opt(NAME).await.unwrap().is_none());
    world.patch(json!({"spec": {"runStrategy": "Always"}})).await;
    world.instance("an instance at once", |_| true).await;
    world.end().await;
}

#[tokio::test]
async fn a_paused_start_switches_a_halted_machine_on() {
    let world = World::start().await;
    let mut halted = machine("Halted");
    halted["spec"].as_object_mut().unwrap().remove("runStrategy");
    halted["spec"]["running"] = json!(false);
    world.create_as(halted).await;
    let paused = StartOptions { paused: true, ..StartOptions::default() };
    world.ask(|machine, instance| requests::start(machine, instance, &paused)).await;
    let instance = world.instance("an instance", |_| true).await;
    assert_eq!(instance.spec.start_strategy.as_deref(), Some("Paused"));
    let shown = world.shows("Starting").await;
    assert_eq!((shown.spec.running, shown.spec.run_strategy), (Some(true), None));
    assert_eq!(shown.status.unwrap().state_change_requests, []);
    world.end().await;
}

#[tokio::test]
async fn a_change_that_needs_a_restart_says_so_until_it_is_taken_back_or_done() {
    let world = World::start().await;
    world.create("Always").await;
    let first = world.run_new().await;
    let required = Some(text(["True", "", "a non-live-updatable field was changed in the template spec"]));
    let image = |image: &str| {
        let mut template = template();
        template["spec"]["domain"]["firmware"]["kernelBoot"]["container"]["image"] = json!(image);
        json!({"spec": {"template": template}})
    };
    world.patch(image("localhost/k:2")).await;
    let changed =
        world.machine("RestartRequired", |machine| condition(machine, "RestartRequired") == required).await;
    let status = changed.status.unwrap();
    assert_eq!((status.observed_generation, status.desired_generation), (Some(1), Some(2)));
    world.patch(image("localhost/k:1")).await;
    let back = world.machine("no RestartRequired", |machine| {
        condition(machine, "RestartRequired").is_none()
            && machine.status.as_ref().unwrap().observed_generation == Some(3)
    });
    back.await;
    let bumped = world.instances.get(NAME).await.unwrap();
    assert_eq!(bumped.metadata.annotations.unwrap()[VM_GENERATION], "3");

    // Where it runs next is taken over by the instance.
    world.patch(json!({"spec": {"template": {"spec": {"nodeSelector": {"zone": "a"}}}}})).await;
    let moved = world.instance("the node selector", |instance| !instance.spec.node_selector.is_empty()).await;
    assert_eq!(uid(&moved), uid(&first));

    world.patch(image("localhost/k:3")).await;
    world.machine("RestartRequired", |machine| condition(machine, "RestartRequired") == required).await;
    world.ask(|machine, instance| requests::restart(machine, instance, &RestartOptions::default())).await;
    world.instance("deletion", |instance| instance.metadata.deletion_timestamp.is_some()).await;
    world.end_instance("Succeeded").await;
    world.let_go().await;
    world.instance("another instance", |instance| uid(instance) != uid(&first)).await;
    let done = world.machine("no RestartRequired", |machine| condition(machine, "RestartRequired").is_none());
    let done = done.await;
    world.only_revision(&format!("revision-start-vm-{}-5", done.metadata.uid.unwrap())).await;
    world.end().await;
}

#[tokio::test]
async fn an_orphan_of_the_same_name_is_taken_over() {
    let world = World::start().await;
    let orphan: VirtualMachineInstance = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": NAME},
        "spec": template()["spec"],
    }))
    .unwrap();
    let orphan = world.instances.create(&PostParams::default(), &orphan).await.unwrap();
    world.run().await;
    let machine = world.create("Always").await;
    let adopted = world.instance("an owner", |instance| instance.metadata.owner_references.is_some()).await;
    assert_eq!(uid(&adopted), uid(&orphan));
    assert_eq!(adopted.metadata.owner_references.unwrap()[0].uid, machine.metadata.uid.unwrap());
    let shown = world.shows("Running").await;
    // What it was made from is not known, so nothing is said about it.
    assert_eq!(condition(&shown, "RestartRequired"), None);
    world.end().await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_a_failure_until_it_is_free() {
    let world = World::start().await;
    let foreign: VirtualMachineInstance = serde_json::from_value(json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": NAME, "ownerReferences": [{
            "apiVersion": "v1", "kind": "Namespace", "name": "default", "controller": true,
            "uid": world.uid_of_namespace().await,
        }]},
        "spec": template()["spec"],
    }))
    .unwrap();
    let foreign = world.instances.create(&PostParams::default(), &foreign).await.unwrap();
    world.create("Always").await;
    let why = "virtualmachineinstances.kubevirt.io \"kb\" already exists";
    let failure = text(["True", "FailedCreate", &format!("Failure while starting VMI: {why}")]);
    let failing =
        world.machine("a failure", |machine| condition(machine, "Failure") == Some(failure.clone())).await;
    assert_eq!(failing.status.unwrap().created, None);
    let events = world.events(1).await;
    let expected = format!("Error creating virtual machine instance: {why}");
    assert_eq!(
        (events[0].0.as_str(), events[0].1.as_str(), events[0].2.as_str()),
        ("Warning", "FailedCreate", expected.as_str())
    );
    world.instances.delete(NAME, &DeleteParams::default()).await.unwrap();
    world.let_go().await;
    world.instance("its own instance", |instance| uid(instance) != uid(&foreign)).await;
    let shown = world.shows("Starting").await;
    assert_eq!(condition(&shown, "Failure"), None);
    world.end().await;
}

#[tokio::test]
async fn an_instance_that_is_refused_is_a_failure_until_the_template_is_mended() {
    let world = World::start().await;
    let mut refused = machine("RerunOnFailure");
    refused["spec"]["template"]["metadata"]["annotations"] = json!({REFUSED: "yes"});
    world.create_as(refused).await;
    let message = "Failure while starting VMI: admission webhook \"x\" denied the request: no";
    let failure = text(["True", "FailedCreate", message]);
    let failing =
        world.machine("a failure", |machine| condition(machine, "Failure") == Some(failure.clone())).await;
    let status = failing.status.unwrap();
    assert_eq!((status.printable_status.as_deref(), status.run_strategy), (Some("Stopped"), None));
    world.patch(json!({"spec": {"template": {"metadata": {"annotations": null}}}})).await;
    world.instance("an instance", |_| true).await;
    let shown = world.shows("Starting").await;
    assert_eq!(condition(&shown, "Failure"), None);
    world.end().await;
}

#[tokio::test]
async fn what_it_booted_is_written_down_on_the_machine() {
    let world = World::start().await;
    world.create("Always").await;
    world.instance("an instance", |_| true).await;
    let facts = json!({
        "metadata": {"annotations": {IMAGE_DIGEST: "sha256:00"}},
        "status": {"kernelBootStatus": {"kernelInfo": {"checksum": 7}}},
    });
    world.instances.patch(NAME, &PatchParams::default(), &Patch::Merge(&facts)).await.unwrap();
    let before = world.shows("Starting").await;
    assert!(!before.metadata.annotations.unwrap().contains_key(LAST_BOOT));
    world.run().await;
    let written = world.machine("the last boot", |machine| {
        machine.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LAST_BOOT))
    });
    let boot: manifest::machine_status::BootFacts =
        serde_json::from_str(&written.await.metadata.annotations.unwrap()[LAST_BOOT]).unwrap();
    assert_eq!((boot.image_digest.as_str(), boot.kernel.unwrap().checksum), ("sha256:00", 7));
    world.end().await;
}

#[tokio::test]
async fn a_start_costs_few_writes() {
    let world = World::start().await;
    world.create("Always").await;
    world.shows("Starting").await;
    for phase in ["Scheduling", "Scheduled"] {
        world.advance(phase, json!([{"type": "Ready", "status": "False", "reason": phase}])).await;
    }
    world.run().await;
    world.shows("Running").await;
    let mut writes = world.writes(6).await;
    writes.sort();
    // One more where `Scheduled` took so long that it was worth a write of its own.
    if writes.len() == 7 {
        writes.pop();
    }
    assert_eq!(
        writes,
        [
            "create controllerrevisions",
            "create events",
            "create virtualmachineinstances",
            "patch virtualmachines",
            "update virtualmachines/status",
            "update virtualmachines/status",
        ]
    );
    world.end().await;
}
