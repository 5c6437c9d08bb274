//! The same machines through every kubectl that is here, and through `ferrovirt logs` where kubectl leads no further.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::room::{Boot, Room, machine};
use crate::server::{Outcome, finish, finish_with_input, kubectls};

const START: &str = "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachines/vm/start";
const STOP: &str = "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachines/vm/stop";

fn kubectl(room: &Room, program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    room.world.environment(&mut command);
    command.env("KUBECONFIG", room.world.path("state/apiserver/admin.kubeconfig"));
    command
}

fn raw(room: &Room, program: &Path, verb: &str, path: &str) -> Outcome {
    finish_with_input(kubectl(room, program, &[verb, "--raw", path, "-f", "-"]), "{}")
}

fn ferrovirt(room: &Room, arguments: &[&str]) -> Outcome {
    finish(room.world.command(arguments))
}

/// Boots the machine with a word on its command line, which its kernel prints; returns its Pod.
fn boot(room: &Room, program: &Path, word: &str) -> String {
    let arguments = format!("console=ttyS0 guest=hang word={word}");
    let firmware = json!({"kernelBoot": {"kernelArgs": arguments}});
    let patch = json!({"spec": {"template": {"spec": {"domain": {"firmware": firmware}}}}});
    room.kubectl(&["patch", "vm", "vm", "--type=merge", "-p", &patch.to_string()]);
    raw(room, program, "replace", START).succeeded();
    room.wait_for_status("vm", "Running");
    room.wait_for_console("vm", &format!("word={word}"));
    room.pod_of("vm")
}

#[test]
fn every_kubectl_starts_and_stops_machines_and_reads_their_logs() {
    let room = Room::new();
    let image = room.reference("guests/clients:1");
    room.push(&image, "vmlinuz");
    room.apply(&machine("vm", "Manual", &Boot { image: &image, policy: "", guest: "hang" }));
    room.wait_for_status("vm", "Stopped");
    let missing = ferrovirt(&room, &["logs", "vm"]).failed();
    assert!(missing.stderr.contains("no boot of `default/vm` has a log on this machine"), "{missing:?}");

    let mut words: Vec<String> = Vec::new();
    for program in kubectls() {
        // It is a request to replace something, and none to create it.
        let refused = raw(&room, &program, "create", START).failed();
        assert!(refused.stderr.contains("does not allow this method"), "{refused:?}");
        for _ in 0..2 {
            let word = format!("boot-{}", words.len());
            let pod = boot(&room, &program, &word);
            let logs = |options: &[&str]| {
                let all = [&["logs", &pod, "-c", "guest-console-log"], options].concat();
                kubectl(&room, &program, &all)
            };
            // What is read later has all that was read before.
            let last = finish(logs(&["--tail=2"])).succeeded().stdout;
            let since = finish(logs(&["--since=1h"])).succeeded().stdout;
            let said = finish(logs(&[])).succeeded().stdout;
            assert!(said.contains(&format!("word={word}")), "{said}");
            assert!(said.contains(&last) && last.lines().count() == 2, "{last:?}");
            assert_eq!(since.lines().next(), said.lines().next());
            match words.last() {
                None => {
                    let refused = finish(logs(&["--previous"])).failed();
                    let expected = "previous terminated container \"guest-console-log\" in pod";
                    assert!(refused.stderr.contains(expected), "{refused:?}");
                }
                Some(before) => {
                    let previous = finish(logs(&["--previous"])).succeeded().stdout;
                    assert!(previous.contains(&format!("word={before}")), "{previous}");
                    assert!(!previous.contains(&format!("word={word}")), "{previous}");
                }
            }
            let mut follows = logs(&["-f"]).stdout(Stdio::piped()).spawn().unwrap();
            let mut output = follows.stdout.take().unwrap();
            let mut followed = vec![0];
            output.read_exact(&mut followed).unwrap();
            raw(&room, &program, "replace", STOP).succeeded();
            // Who follows comes to an end with the machine.
            output.read_to_end(&mut followed).unwrap();
            assert!(follows.wait().unwrap().success());
            assert!(followed.starts_with(said.as_bytes()), "{}", String::from_utf8_lossy(&followed));
            room.wait_for_status("vm", "Stopped");
            room.wait_until_empty();
            words.push(word);
        }
    }

    // No Pod is there any more; the last three boots are.
    for (back, word) in words.iter().rev().enumerate() {
        let boot = format!("-{back}");
        let read = ferrovirt(&room, &["logs", "vm", "--boot", &boot]);
        if back < 3 {
            assert!(read.succeeded().stdout.contains(&format!("word={word}")), "{word}");
        } else {
            let refused = read.failed();
            assert!(refused.stderr.contains("has no boot `-3` here; there are 3"), "{refused:?}");
        }
    }
    let listed = ferrovirt(&room, &["logs", "vm", "--list-boots"]).succeeded().stdout;
    let numbers: Vec<_> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(numbers[..3], ["BOOT", "0", "-1"], "{listed}");
    let compute = ferrovirt(&room, &["logs", "vm", "-c", "compute", "--tail", "1"]).succeeded().stdout;
    assert_eq!(compute.lines().count(), 1, "{compute:?}");
    let refused = ferrovirt(&room, &["logs", "vm", "-c", "sidecar"]).failed();
    assert!(refused.stderr.contains("choose one of compute, guest-console-log"), "{refused:?}");
    assert_eq!(room.get("vmi/vm"), Value::Null);
    room.kubectl(&["delete", "vm", "vm"]);
}
