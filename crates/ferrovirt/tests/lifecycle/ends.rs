//! Ways to end: guests that obey and guests that do not, and deletion at every moment.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::room::{Boot, Room, instance, machine};

#[test]
fn a_guest_that_obeys_is_shut_down_and_one_that_does_not_is_killed() {
    let room = Room::new();
    let image = room.reference("guests/obey:1");
    room.push(&image, "vmlinuz");
    let mut obeys = machine("obeys", "Always", &Boot { image: &image, policy: "", guest: "obey" });
    obeys["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(600);
    room.apply(&obeys);
    room.wait_for_status("obeys", "Running");
    room.wait_for_console("obeys", "guest: listening to the power button");
    let began = Instant::now();
    room.put("obeys", "stop", &json!({})).succeeded();
    room.wait_for_status("obeys", "Stopped");
    room.wait_until_gone("vmi/obeys");
    assert!(began.elapsed() < Duration::from_secs(300), "the guest was not asked: {:?}", began.elapsed());
    let asked = "Normal ShuttingDown Signaled Graceful Shutdown";
    room.wait_for_event("VirtualMachineInstance", "obeys", asked);
    room.wait_until_empty();

    let mut deaf = machine("deaf", "Always", &Boot { image: &image, policy: "", guest: "hang" });
    deaf["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(4);
    room.apply(&deaf);
    room.wait_for_status("deaf", "Running");
    room.wait_for_console("deaf", "guest: kernel");
    let began = Instant::now();
    room.put("deaf", "stop", &json!({})).succeeded();
    room.wait_for_status("deaf", "Stopping");
    room.wait_for_status("deaf", "Stopped");
    assert!(began.elapsed() >= Duration::from_secs(4), "it had no time to obey: {:?}", began.elapsed());
    room.wait_until_empty();
    room.kubectl(&["delete", "vm", "obeys", "deaf"]);
}

#[test]
fn a_shorter_grace_ends_a_stop_that_takes_long() {
    let room = Room::new();
    let image = room.reference("guests/grace:1");
    room.push(&image, "vmlinuz");
    let mut vm = machine("vm", "Always", &Boot { image: &image, policy: "", guest: "hang" });
    vm["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(3600);
    room.apply(&vm);
    room.wait_for_status("vm", "Running");
    room.put("vm", "stop", &json!({})).succeeded();
    room.wait_for_status("vm", "Stopping");
    room.put("vm", "stop", &json!({"gracePeriod": 0})).succeeded();
    room.wait_for_status("vm", "Stopped");
    room.kubectl(&["delete", "vm", "vm"]);
    room.wait_until_empty();
}

#[test]
fn deletion_finishes_at_every_moment() {
    let room = Room::new();
    let (image, missing) = (room.reference("guests/moment:1"), room.reference("guests/missing:1"));
    room.push(&image, "vmlinuz");
    let hang = Boot { image: &image, policy: "", guest: "hang" };

    // While it pulls (in vain).
    room.apply(&machine("pulls", "Always", &Boot { image: &missing, policy: "", guest: "hang" }));
    room.wait("vmi/pulls", "is scheduling", |vmi| vmi["status"]["phase"] == "Scheduling");
    room.kubectl(&["delete", "vm", "pulls"]);
    room.wait_until_empty();

    // While it starts: at whatever moment that is.
    for attempt in 0..4u64 {
        let name = format!("starts-{attempt}");
        room.apply(&instance(&name, &hang));
        std::thread::sleep(Duration::from_millis(60 * attempt));
        room.kubectl(&["delete", "vmi", &name]);
    }
    room.wait_until_empty();

    // With its launcher dead.
    room.apply(&instance("dead", &hang));
    room.wait_for_phase("vmi/dead", "Running");
    let launchers = room.processes("launcher");
    assert_eq!(launchers.len(), 1);
    kill_process(launchers[0], Signal::KILL).unwrap();
    room.kubectl(&["delete", "vmi", "dead"]);
    room.wait_until_empty();
}
