//! Each run strategy through its table, driven as virtctl drives it.

use serde_json::{Value, json};

use crate::room::{Boot, Room, machine};

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// Waits until the machine runs in another instance than `before`.
#[track_caller]
fn wait_for_another(room: &Room, name: &str, before: &str) -> Value {
    room.wait(&format!("vmi/{name}"), "runs anew", |vmi| {
        vmi["status"]["phase"] == "Running" && vmi["metadata"]["uid"] != before
    })
}

#[test]
fn always_brings_back_what_ends_and_stop_halts_it() {
    let room = Room::new();
    let image = room.reference("guests/always:1");
    room.push(&image, "vmlinuz");
    room.apply(&machine("vm", "Always", &Boot { image: &image, policy: "", guest: "hang" }));
    let first = uid(&room.wait_for_phase("vmi/vm", "Running"));
    let vm = room.wait_for_status("vm", "Running");
    assert_eq!(vm["status"]["created"], true);
    room.wait("vm/vm", "is ready", |vm| vm["status"]["ready"] == true);

    let refused = room.put("vm", "start", &json!({})).failed();
    assert!(refused.stderr.contains("VM is already running"), "{refused:?}");
    // Deleting the instance of an Always machine restarts it.
    room.kubectl(&["delete", "vmi", "vm"]);
    let second = uid(&wait_for_another(&room, "vm", &first));
    room.put("vm", "restart", &json!({})).succeeded();
    wait_for_another(&room, "vm", &second);

    room.put("vm", "stop", &json!({})).succeeded();
    let stopped = room.wait_for_status("vm", "Stopped");
    assert_eq!(stopped["spec"]["runStrategy"], "Halted");
    room.wait_until_gone("vmi/vm");
    room.wait_until_empty();

    room.put("vm", "start", &json!({})).succeeded();
    room.wait_for_status("vm", "Running");
    assert_eq!(room.get("vm/vm")["spec"]["runStrategy"], "Always");
    room.kubectl(&["delete", "vm", "vm"]);
    room.wait_until_empty();
    assert!(room.get("vmi/vm").is_null());
}

#[test]
fn always_starts_a_guest_that_powers_off_again_and_again() {
    let room = Room::new();
    let image = room.reference("guests/again:1");
    room.push(&image, "vmlinuz");
    room.apply(&machine("again", "Always", &Boot { image: &image, policy: "", guest: "poweroff" }));
    let first = uid(&room.wait("vmi/again", "is there", |vmi| !vmi.is_null()));
    let second = uid(&room.wait("vmi/again", "is another", |vmi| !vmi.is_null() && uid(vmi) != first));
    room.wait("vmi/again", "is a third", |vmi| !vmi.is_null() && uid(vmi) != first && uid(vmi) != second);
    // It had run each time, so there is no back-off.
    assert!(room.get("vm/again")["status"]["startFailure"].is_null());
    room.put("again", "stop", &json!({})).succeeded();
    room.wait_until_empty();
}

#[test]
fn manual_waits_to_be_told() {
    let room = Room::new();
    let image = room.reference("guests/manual:1");
    room.push(&image, "vmlinuz");
    room.apply(&machine("vm", "Manual", &Boot { image: &image, policy: "", guest: "poweroff" }));
    room.wait_for_status("vm", "Stopped");
    assert!(room.get("vmi/vm").is_null());
    let refused = room.put("vm", "stop", &json!({})).failed();
    assert!(refused.stderr.contains("VM is not running"), "{refused:?}");

    room.put("vm", "start", &json!({})).succeeded();
    let ended = uid(&room.wait_for_phase("vmi/vm", "Succeeded"));
    room.wait_for_status("vm", "Stopped");
    // The instance stays, and a second start makes another one.
    room.put("vm", "start", &json!({})).succeeded();
    room.wait("vmi/vm", "is another", |vmi| !vmi.is_null() && uid(vmi) != ended);
    let started =
        "Normal SuccessfulCreate Started the virtual machine by creating the new virtual machine instance vm";
    room.wait_for_event("VirtualMachine", "vm", started);
    room.kubectl(&["delete", "vm", "vm"]);
    room.wait_until_empty();
}

#[test]
fn rerun_on_failure_knows_success_from_failure() {
    let room = Room::new();
    let image = room.reference("guests/rerun:1");
    room.push(&image, "vmlinuz");
    room.apply(&machine("good", "RerunOnFailure", &Boot { image: &image, policy: "", guest: "poweroff" }));
    room.wait("vmi/good", "is there", |vmi| !vmi.is_null());
    room.wait_until_gone("vmi/good");
    room.wait_for_status("good", "Stopped");

    let mut bad = machine("bad", "RerunOnFailure", &Boot { image: &image, policy: "", guest: "panic" });
    bad["spec"]["template"]["spec"]["domain"]["devices"] = json!({"panicDevices": [{"model": "isa"}]});
    room.apply(&bad);
    let first = uid(&room.wait("vmi/bad", "is there", |vmi| !vmi.is_null()));
    room.wait("vmi/bad", "is another", |vmi| !vmi.is_null() && uid(vmi) != first);
    room.put("bad", "stop", &json!({}));
    room.kubectl(&["delete", "vm", "bad", "good"]);
    room.wait_until_empty();
}

#[test]
fn once_and_halted() {
    let room = Room::new();
    let image = room.reference("guests/once:1");
    room.push(&image, "vmlinuz");
    room.apply(&machine("once", "Once", &Boot { image: &image, policy: "", guest: "poweroff" }));
    let ended = uid(&room.wait_for_phase("vmi/once", "Succeeded"));
    room.wait_for_status("once", "Stopped");
    let refused = room.put("once", "start", &json!({})).failed();
    assert!(refused.stderr.contains("Once does not support manual start requests"), "{refused:?}");
    assert_eq!(uid(&room.get("vmi/once")), ended);

    room.apply(&machine("halted", "Halted", &Boot { image: &image, policy: "", guest: "hang" }));
    room.wait_for_status("halted", "Stopped");
    let refused = room.put("halted", "restart", &json!({})).failed();
    assert!(
        refused.stderr.contains("RunStategy Halted does not support manual restart requests"),
        "{refused:?}"
    );
    room.put("halted", "start", &json!({"paused": true})).succeeded();
    let paused = room.wait_for_status("halted", "Paused");
    assert_eq!(paused["spec"]["runStrategy"], "Always");
    room.kubectl(&["patch", "vm", "halted", "--type=merge", "-p", r#"{"spec":{"runStrategy":"Halted"}}"#]);
    room.wait_for_status("halted", "Stopped");
    room.kubectl(&["delete", "vm", "halted", "once"]);
    room.wait_until_empty();
}

#[test]
fn a_receiver_waits_and_never_boots() {
    let room = Room::new();
    // Nothing pulls it.
    let image = room.reference("guests/receiver:1");
    room.apply(&machine("target", "WaitAsReceiver", &Boot { image: &image, policy: "", guest: "hang" }));
    room.wait_for_status("target", "WaitingForReceiver");
    assert_eq!(room.get("vmi/target")["status"]["phase"], "WaitingForSync");
    assert_eq!(room.list("pods"), Vec::<Value>::new());
    room.kubectl(&["delete", "vm", "target"]);
    room.wait_until_gone("vmi/target");
    room.wait_until_empty();
}

#[test]
fn a_standalone_instance_is_adopted_and_an_orphan_survives() {
    let room = Room::new();
    let image = room.reference("guests/adopted:1");
    room.push(&image, "vmlinuz");
    let boot = Boot { image: &image, policy: "", guest: "hang" };
    room.apply(&crate::room::instance("vm", &boot));
    let instance = uid(&room.wait_for_phase("vmi/vm", "Running"));
    room.apply(&machine("vm", "Always", &boot));
    let owned = room.wait("vmi/vm", "has an owner", |vmi| vmi["metadata"]["ownerReferences"].is_array());
    assert_eq!(uid(&owned), instance);
    room.wait_for_status("vm", "Running");

    room.kubectl(&["delete", "vm", "vm", "--cascade=orphan"]);
    let left = room.wait("vmi/vm", "has no owner", |vmi| vmi["metadata"]["ownerReferences"].is_null());
    assert_eq!((uid(&left), &left["status"]["phase"]), (instance, &json!("Running")));
    room.kubectl(&["delete", "vmi", "vm"]);
    room.wait_until_empty();
}

#[test]
fn a_change_while_it_runs_asks_for_a_restart() {
    let room = Room::new();
    let image = room.reference("guests/change:1");
    room.push(&image, "vmlinuz");
    room.apply(&machine("vm", "Always", &Boot { image: &image, policy: "", guest: "hang" }));
    room.wait_for_status("vm", "Running");
    let patch = r#"{"spec":{"template":{"spec":{"domain":{"firmware":{"kernelBoot":{"kernelArgs":"console=ttyS0 guest=hang second=1"}}}}}}}"#;
    let required = |vm: &Value| {
        let conditions = vm["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions
            .iter()
            .any(|condition| condition["type"] == "RestartRequired" && condition["status"] == "True")
    };
    room.kubectl(&["patch", "vm", "vm", "--type=merge", "-p", patch]);
    room.wait("vm/vm", "asks for a restart", required);
    room.put("vm", "restart", &json!({})).succeeded();
    room.wait("vm/vm", "asks no more", |vm| !required(vm) && vm["status"]["printableStatus"] == "Running");
    room.wait_for_console("vm", "second=1");
    room.kubectl(&["delete", "vm", "vm"]);
    room.wait_until_empty();
}
