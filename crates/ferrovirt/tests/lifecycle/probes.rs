//! Probes of real guests: what is not ready, what comes to be, and what is ended because it does not live.

use serde_json::{Value, json};

use crate::client;
use crate::console::Terminal;
use crate::room::{Boot, Room, machine};

/// A machine with these probes, asked every second unless they say otherwise; its guest has an HTTP server on port 80,
/// called `web`, and an agent.
fn probed(room: &Room, name: &str, probes: &Value) {
    let image = room.reference(&format!("guests/{name}:1"));
    room.push_initrd(&image, "initrd-agent");
    let mut machine = machine(name, "Always", &Boot { image: &image, policy: "", guest: "agent" });
    let spec = &mut machine["spec"]["template"]["spec"];
    for (name, probe) in probes.as_object().unwrap() {
        // A busy host runs an emulated guest slowly.
        spec[name] = json!({"periodSeconds": 1, "timeoutSeconds": 5});
        spec[name].as_object_mut().unwrap().extend(probe.as_object().unwrap().clone());
    }
    spec["networks"] = json!([{"name": "default", "pod": {}}]);
    let ports = json!([{"name": "web", "port": 80}, {"name": "late", "port": 9}]);
    spec["domain"]["devices"]["interfaces"] = json!([{"name": "default", "masquerade": {}, "ports": ports}]);
    room.apply(&machine);
}

fn condition<'a>(object: &'a Value, type_: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or(&Value::Null)
}

/// Waits until Pod, instance and machine say together whether they are ready.
#[track_caller]
fn wait_until_ready(room: &Room, name: &str, is_ready: bool) -> Value {
    let (status, reason) =
        if is_ready { ("True", Value::Null) } else { ("False", json!("ContainersNotReady")) };
    let is_told = |object: &Value| {
        let ready = condition(object, "Ready");
        ready["status"] == status && ready["reason"] == reason
    };
    room.wait(&format!("vmi/{name}"), "is ready or not", is_told);
    room.wait(&format!("vm/{name}"), "is ready or not", |vm| {
        vm["status"]["ready"].as_bool().unwrap_or_default() == is_ready && is_told(vm)
    });
    let pod = room.wait(&format!("pod/{}", room.pod_of(name)), "is ready or not", is_told);
    assert_eq!(pod["status"]["containerStatuses"][0]["ready"], is_ready);
    pod
}

fn resource_version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

#[test]
fn a_guest_is_ready_for_as_long_as_its_server_answers() {
    let mut room = Room::new();
    let get = json!({"httpGet": {"port": "web", "path": "/ready"}, "failureThreshold": 1});
    probed(&room, "web", &json!({"readinessProbe": get}));
    probed(&room, "port", &json!({"readinessProbe": {"tcpSocket": {"port": "late"}}}));
    for name in ["web", "port"] {
        room.wait_for_phase(&format!("vmi/{name}"), "Running");
        wait_until_ready(&room, name, false);
        // It runs all the same.
        room.wait_for_status(name, "Running");
    }
    let message = condition(&room.get("vmi/web"), "Ready")["message"].clone();
    assert_eq!(message, "containers with unready status: [compute]");

    room.wait_for_console("web", "guest: shell is ready");
    let refused = "Warning Unhealthy Readiness probe failed: HTTP probe failed with statuscode: 404";
    room.wait_for_event("Pod", &room.pod_of("web"), refused);
    client::runtime().block_on(async {
        let mut web = Terminal::open(&room, "web", "").await.unwrap();
        web.type_line("echo up >/www/ready").await;
        wait_until_ready(&room, "web", true);
        web.type_line("rm /www/ready").await;
        wait_until_ready(&room, "web", false);
        web.type_line("echo up >/www/ready").await;
        wait_until_ready(&room, "web", true);
    });

    room.wait_for_console("port", "guest: shell is ready");
    let refused = "Warning Unhealthy Readiness probe failed: the guest refuses connections to port 9";
    room.wait_for_event("Pod", &room.pod_of("port"), refused);
    client::runtime().block_on(async {
        let mut port = Terminal::open(&room, "port", "").await.unwrap();
        port.type_line("nc -ll -p 9 -e cat & listener=$!").await;
        let before = wait_until_ready(&room, "port", true);

        // Another daemon believes what the one before it has found, and goes on.
        room.kill_server();
        room.start_server();
        room.wait_for_log("launchers of an earlier daemon are taken over");
        let mut web = Terminal::open(&room, "web", "").await.unwrap();
        web.type_line("rm /www/ready").await;
        wait_until_ready(&room, "web", false);
        let after = wait_until_ready(&room, "port", true);
        assert_eq!(resource_version(&before), resource_version(&after), "nothing is written again");
        let mut port = Terminal::open(&room, "port", "").await.unwrap();
        port.type_line("kill $listener").await;
        wait_until_ready(&room, "port", false);
    });
    for name in ["web", "port"] {
        room.kubectl(&["delete", "vm", name, "--wait=false"]);
    }
    room.wait_until_empty();
}

#[test]
fn the_agent_answers_for_its_guest() {
    let room = Room::new();
    // Not more often, since an object has 25 events before there is a pause between them.
    let exec = json!({"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 5});
    let ping = json!({"guestAgentPing": {}, "failureThreshold": 60, "periodSeconds": 5});
    probed(&room, "told", &json!({"readinessProbe": exec, "livenessProbe": ping}));
    let first = room.wait_for_phase("vmi/told", "Running");
    room.wait_for_console("told", "guest: shell is ready");
    let refused = "Warning Unhealthy Readiness probe failed: the command has ended with exit code 1: cat: can't open \
                   '/tmp/ready': No such file or directory";
    room.wait_for_event("Pod", &room.pod_of("told"), refused);
    client::runtime().block_on(async {
        let mut terminal = Terminal::open(&room, "told", "").await.unwrap();
        terminal.type_line("echo up >/tmp/ready").await;
        wait_until_ready(&room, "told", true);
        terminal.type_line("kill $(pidof qemu-ga)").await;
        wait_until_ready(&room, "told", false);
        terminal.type_line("agent").await;
        wait_until_ready(&room, "told", true);
    });
    assert_eq!(
        room.get("vmi/told")["metadata"]["uid"],
        first["metadata"]["uid"],
        "it has lived all the time"
    );
    room.kubectl(&["delete", "vm", "told"]);
    room.wait_until_empty();
}

#[test]
fn a_guest_that_does_not_live_is_started_anew() {
    let room = Room::new();
    probed(&room, "dead", &json!({"livenessProbe": {"tcpSocket": {"port": "late"}, "timeoutSeconds": 1}}));
    let first = room.wait_for_phase("vmi/dead", "Running");
    let pod = room.pod_of("dead");
    // It is ready as long as nobody finds otherwise.
    wait_until_ready(&room, "dead", true);
    room.wait_for_event("Pod", &pod, "Warning Unhealthy Liveness probe failed: the guest ");
    room.wait_for_event("Pod", &pod, "Normal Killing Container compute failed liveness probe");
    room.wait("vmi/dead", "runs anew", |vmi| {
        vmi["status"]["phase"] == "Running" && vmi["metadata"]["uid"] != first["metadata"]["uid"]
    });
    room.kubectl(&["delete", "vm", "dead"]);
    room.wait_until_empty();
}
