//! What dies and what lives on: daemon, launcher, QEMU, and the whole host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getsid, kill_process};
use serde_json::Value;

use crate::harness::wait_until_gone;
use crate::room::{Boot, Room, instance, machine};
use crate::server::wait_until;

/// UID, Pods and phase of each instance.
fn identities(room: &Room) -> BTreeMap<String, (String, Value)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    room.list("vmi")
        .iter()
        .map(|vmi| {
            let name = text(&vmi["metadata"]["name"]);
            (name, (text(&vmi["metadata"]["uid"]), vmi["status"]["activePods"].clone()))
        })
        .collect()
}

#[test]
fn machines_outlive_the_daemon_and_a_new_one_adopts_them() {
    let mut room = Room::new();
    let image = room.reference("guests/outliving:1");
    room.push(&image, "vmlinuz");
    let hang = Boot { image: &image, policy: "", guest: "hang" };
    room.apply(&machine("one", "Always", &hang));
    room.apply(&instance("two", &hang));
    for name in ["one", "two"] {
        room.wait_for_phase(&format!("vmi/{name}"), "Running");
        room.wait_for_console(name, "guest: kernel");
    }
    let (before, launchers, guests) =
        (identities(&room), room.processes("launcher"), room.processes("qemu-system-x86_64"));
    room.wait_for_event("VirtualMachineInstance", "one", "Normal Started ");
    room.wait_for_event("Pod", &room.pod_of("one"), "Normal Started ");
    let told = [room.events("VirtualMachineInstance", "one"), room.events("Pod", &room.pod_of("one"))];

    // Without one it would end with its terminal, and its priority would count among the daemon's processes alone.
    for process in launchers.iter().chain(&guests) {
        assert_eq!(getsid(Some(*process)).unwrap(), *process, "a session of its own");
    }

    room.kill_server();
    assert_eq!(room.processes("qemu-system-x86_64"), guests);
    room.start_server();
    let ready = |vmi: &Value| {
        vmi["status"]["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
    };
    for name in ["one", "two"] {
        room.wait(&format!("vmi/{name}"), "is ready", ready);
        assert!(room.console(name).contains("guest: kernel"));
    }
    // The same after an orderly stop.
    room.stop_server();
    room.start_server();
    for name in ["one", "two"] {
        room.wait(&format!("vmi/{name}"), "is ready", ready);
    }
    assert_eq!(identities(&room), before);
    assert_eq!((room.processes("launcher"), room.processes("qemu-system-x86_64")), (launchers, guests));
    assert_eq!(
        [room.events("VirtualMachineInstance", "one"), room.events("Pod", &room.pod_of("one"))],
        told,
        "events are not repeated"
    );
    // What was adopted is not only looked at.
    room.kubectl(&["delete", "vm", "one"]);
    room.kubectl(&["delete", "vmi", "two"]);
    room.wait_until_empty();
}

#[test]
fn another_server_does_not_get_at_the_machines_of_this_one() {
    let room = Room::new();
    let image = room.reference("guests/owned:1");
    room.push(&image, "vmlinuz");
    room.apply(&instance("one", &Boot { image: &image, policy: "", guest: "hang" }));
    room.wait_for_phase("vmi/one", "Running");
    let guests = room.processes("qemu-system-x86_64");
    let other = room.world.path("other").display().to_string();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--state-dir", &other];
    let refused = room.world.ferrovirt(arguments).expect_code(1);
    let owner = format!("another server (process {}) uses it", room.server_process().as_raw_nonzero());
    let run = room.world.path("run").display().to_string();
    for said in [run.as_str(), owner.as_str(), "--run-dir"] {
        assert!(refused.stderr.contains(said), "{said}: {}", refused.stderr);
    }
    assert_eq!(room.processes("qemu-system-x86_64"), guests);
    room.kubectl(&["delete", "vmi", "one"]);
    room.wait_until_empty();
}

#[test]
fn what_ended_while_no_daemon_looked_is_told_by_the_next() {
    let mut room = Room::new();
    let image = room.reference("guests/meanwhile:1");
    room.push(&image, "vmlinuz");
    room.apply(&instance("ended", &Boot { image: &image, policy: "", guest: "hang" }));
    room.apply(&instance("died", &Boot { image: &image, policy: "", guest: "obey" }));
    room.wait_for_phase("vmi/ended", "Running");
    room.wait_for_phase("vmi/died", "Running");
    room.kill_server();
    let guests = room.processes("qemu-system-x86_64");
    // QEMU's end is its launcher's to tell; a launcher's own end nobody tells.
    kill_process(guests[0], Signal::KILL).unwrap();
    wait_until_gone(guests[0]);
    for launcher in room.processes("launcher") {
        let _ = kill_process(launcher, Signal::KILL);
    }
    for guest in guests {
        wait_until_gone(guest);
    }
    room.start_server();
    room.wait_for_phase("vmi/ended", "Failed");
    room.wait_for_phase("vmi/died", "Failed");
    room.kubectl(&["delete", "vmi", "ended", "died"]);
    room.wait_until_empty();
}

/// The directories of the groups that were made for a machine, cgroups(7); none where its launcher could make none.
fn control_groups(process: Pid) -> Vec<PathBuf> {
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", process.as_raw_nonzero())).unwrap();
    let own = groups.lines().filter_map(|line| {
        let (controller, path) = line.split_once(':')?.1.split_once(':')?;
        let is_own = path.rsplit('/').next()?.starts_with("ferrovirt-");
        is_own.then(|| Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')))
    });
    own.collect()
}

#[test]
fn a_killed_launcher_or_qemu_is_noticed_and_the_strategy_decides() {
    let room = Room::new();
    let image = room.reference("guests/killed:1");
    room.push(&image, "vmlinuz");
    let hang = Boot { image: &image, policy: "", guest: "hang" };
    room.apply(&instance("alone", &hang));
    for program in ["qemu-system-x86_64", "launcher"] {
        room.wait_for_phase("vmi/alone", "Running");
        let victim = room.processes(program)[0];
        let groups = control_groups(victim);
        assert!(groups.iter().all(|group| group.is_dir()), "{groups:?}");
        kill_process(victim, Signal::KILL).unwrap();
        room.wait_for_phase("vmi/alone", "Failed");
        for program in ["qemu-system-x86_64", "launcher"] {
            for process in room.processes(program) {
                wait_until_gone(process);
            }
        }
        let crashed = "Warning Stopped The VirtualMachineInstance crashed.";
        room.wait_for_event("VirtualMachineInstance", "alone", crashed);
        room.kubectl(&["delete", "vmi", "alone"]);
        wait_until("the machine's control groups are gone", || {
            (!groups.iter().any(|group| group.exists())).then_some(())
        });
        room.apply(&instance("alone", &hang));
    }
    room.kubectl(&["delete", "vmi", "alone"]);

    room.apply(&machine("cared", "Always", &hang));
    let first = room.wait_for_phase("vmi/cared", "Running")["metadata"]["uid"].clone();
    kill_process(room.processes("launcher")[0], Signal::KILL).unwrap();
    room.wait("vmi/cared", "runs anew", |vmi| {
        vmi["status"]["phase"] == "Running" && vmi["metadata"]["uid"] != first
    });
    room.kubectl(&["delete", "vm", "cared"]);
    room.wait_until_empty();
}

/// A room whose host was rebooted while the machine `back` and the instance `alone` ran, and the UID of the machine's
/// instance. No server runs yet.
fn rebooted() -> (Room, Value) {
    let mut room = Room::new();
    let image = room.reference("guests/reboot:1");
    room.push(&image, "vmlinuz");
    let hang = Boot { image: &image, policy: "", guest: "hang" };
    room.apply(&machine("back", "Always", &hang));
    room.apply(&instance("alone", &hang));
    let first = room.wait_for_phase("vmi/back", "Running")["metadata"]["uid"].clone();
    room.wait_for_phase("vmi/alone", "Running");
    room.reboot();
    (room, first)
}

#[test]
fn after_a_reboot_of_the_host_nothing_is_claimed_to_run() {
    let (mut room, first) = rebooted();
    room.start_server();
    room.wait_for_phase("vmi/alone", "Failed");
    room.wait("vmi/back", "runs anew", |vmi| {
        vmi["status"]["phase"] == "Running" && vmi["metadata"]["uid"] != first
    });
    room.kubectl(&["delete", "vm", "back"]);
    room.kubectl(&["delete", "vmi", "alone"]);
    room.wait_until_empty();
}

#[test]
fn after_a_reboot_under_another_node_name_nothing_is_claimed_to_run() {
    let (mut room, first) = rebooted();
    room.node_name = Some("node-2");
    room.start_server();
    // Sooner than its silence would tell.
    room.kubectl(&["delete", "node", "node-1"]);
    let alone = room.wait_for_phase("vmi/alone", "Failed");
    assert_eq!(alone["status"]["reason"], "NodeUnresponsive", "{}", alone["status"]);
    room.wait("vmi/back", "runs anew", |vmi| {
        let status = &vmi["status"];
        status["phase"] == "Running" && status["nodeName"] == "node-2" && vmi["metadata"]["uid"] != first
    });
    // It is kept where nothing else is said, whatever the host is called.
    room.stop_server();
    room.node_name = None;
    room.start_server();
    assert_eq!(room.get("vmi/back")["status"]["phase"], "Running");
    let nodes: Vec<_> = room.list("nodes").into_iter().map(|node| node["metadata"]["name"].clone()).collect();
    assert_eq!(nodes, ["node-2"]);
    room.kubectl(&["delete", "vm", "back"]);
    room.kubectl(&["delete", "vmi", "alone"]);
    room.wait_until_empty();
}

#[test]
fn twenty_at_once() {
    let room = Room::new();
    let image = room.reference("guests/many:1");
    room.push(&image, "vmlinuz");
    let hang = Boot { image: &image, policy: "", guest: "halt" };
    let all: Vec<_> = (0..20).map(|number| instance(&format!("vm-{number}"), &hang).to_string()).collect();
    let began = Instant::now();
    room.kubectl_with_input(&["create", "-f", "-"], &all.join("\n---\n"));
    wait_until("all twenty run", || {
        std::thread::sleep(Duration::from_millis(200));
        let running = room.list("vmi").iter().filter(|vmi| vmi["status"]["phase"] == "Running").count();
        (running == 20).then_some(())
    });
    println!("twenty instances run after {:?}", began.elapsed());
    let addresses: std::collections::BTreeSet<_> =
        room.list("pods").iter().map(|pod| pod["status"]["podIP"].to_string()).collect();
    assert_eq!(addresses.len(), 20);
    room.kubectl(&["delete", "vmi", "--all"]);
    room.wait_until_empty();
}
