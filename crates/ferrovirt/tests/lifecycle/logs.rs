//! Logs of JSON, of a server and of a launcher.

use serde_json::{Value, json};

use crate::room::{Boot, Room, machine};
use crate::server::finish;

/// Each line as an object, which has what every line has.
#[track_caller]
fn objects<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<Value> {
    let object = |line: &str| -> Value {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for field in ["timestamp", "level", "message", "target"] {
            assert!(object[field].is_string(), "{field}: {line}");
        }
        object
    };
    lines.into_iter().map(object).collect()
}

#[track_caller]
fn said<'a>(log: &'a [Value], message: &str) -> &'a Value {
    let line = log.iter().find(|line| line["message"].as_str().unwrap().contains(message));
    line.unwrap_or_else(|| panic!("nobody says {message}: {log:#?}"))
}

#[test]
fn every_line_of_a_log_is_json_that_tells_of_whom() {
    let mut room = Room::with_json_logs();
    let image = room.reference("guests/logs:1");
    room.push(&image, "vmlinuz");
    room.apply(&machine("vm", "Always", &Boot { image: &image, policy: "", guest: "hang" }));
    let instance = room.wait_for_phase("vmi/vm", "Running");
    let compute = room.kubectl(&["logs", &room.pod_of("vm"), "-c", "compute"]).stdout;
    let compute = objects(compute.lines());
    said(&compute, "QEMU runs");
    for line in &compute {
        assert_eq!(line["span"]["object"], "default/vm", "{line}");
        assert_eq!(line["span"]["uid"], instance["metadata"]["uid"], "{line}");
    }

    let uid = room.get("vm/vm")["metadata"]["uid"].clone();
    room.put("vm", "stop", &json!({})).succeeded();
    room.wait_for_status("vm", "Stopped");
    room.wait_until_gone("vmi/vm");
    room.wait_for_event("VirtualMachine", "vm", "SuccessfulDelete");
    // Another that cannot start says why in the same form.
    let listen = room.address().to_string();
    let failed = finish(room.world.command(["serve", "--log-format=json", "--listen", &listen])).failed();
    assert_eq!(failed.status.code(), Some(1));
    let failed = objects(failed.stderr.lines());
    assert_eq!(failed.last().unwrap()["level"], "ERROR", "{failed:#?}");

    let lines = room.stop_server_for_log();
    let log = objects(lines.iter().map(String::as_str));
    said(&log, "serving on https://");
    said(&log, "stopping: SIGTERM");
    for reason in ["SuccessfulCreate", "SuccessfulDelete"] {
        let written = log.iter().find(|line| line["reason"] == reason && line["kind"] == "VirtualMachine");
        let written = written.unwrap_or_else(|| panic!("no {reason}: {log:#?}"));
        assert_eq!((&written["object"], &written["uid"]), (&json!("default/vm"), &uid), "{written}");
    }
}
