//! What machines use, as kubectl and `ferrovirt top` tell it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::command_line::command;
use crate::room::{Boot, Room, instance, machine};
use crate::server::{finish, wait_until};

/// Thousandths of a core and MiB by name, out of a table without its first line.
#[track_caller]
fn amounts(table: &str) -> BTreeMap<String, (u64, u64)> {
    let row = |line: &str| {
        let cells: Vec<_> = line.split_whitespace().collect();
        let [name, cpu, memory] = cells[..] else { panic!("{table}") };
        let cpu = cpu.strip_suffix('m').unwrap().parse().unwrap();
        (name.to_owned(), (cpu, memory.strip_suffix("Mi").unwrap().parse().unwrap()))
    };
    table.lines().map(row).collect()
}

fn check_raw(room: &Room, pod: &str) {
    let raw = |path: &str| -> Value {
        serde_json::from_str(&room.kubectl(&["get", "--raw", path]).stdout).unwrap()
    };
    let group = "/apis/metrics.k8s.io/v1beta1";
    let resource = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
    assert_eq!(
        raw(group),
        json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1",
            "resources": [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)],
        })
    );
    let one = raw(&format!("{group}/namespaces/default/pods/{pod}"));
    assert_eq!((&one["kind"], &one["apiVersion"]), (&json!("PodMetrics"), &json!("metrics.k8s.io/v1beta1")));
    assert_eq!(one["metadata"]["labels"]["vm.kubevirt.io/name"], "vm", "{one}");
    assert_eq!(one["containers"][0]["name"], "compute", "{one}");
    assert!(one["timestamp"].is_string() && one["window"].as_str().unwrap().ends_with('s'), "{one}");
    let list = raw(&format!("{group}/pods?labelSelector=vm.kubevirt.io/name%3Dvm"));
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("PodMetricsList"), 1));
    let table = room.kubectl(&["get", "podmetrics", pod]).stdout;
    assert!(table.starts_with("NAME") && table.contains("CPU") && table.contains("Ki"), "{table}");
    for (arguments, refusal) in [
        (
            vec!["get", "--raw", "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods/x"],
            "pods.metrics.k8s.io \"x\" not found",
        ),
        (
            vec!["get", "podmetrics", "--watch"],
            "the server does not allow this method on the requested resource",
        ),
        (
            vec!["delete", "podmetrics", pod],
            "the server does not allow this method on the requested resource",
        ),
    ] {
        let refused = finish(room.kubectl_command(&arguments)).failed();
        assert!(refused.stderr.contains(refusal), "{}", refused.stderr);
    }
}

/// Who may look at Pods may look at what they use; nodes are the administrator's.
fn check_rights(room: &Room) {
    room.kubectl(&["create", "clusterrolebinding", "viewer", "--clusterrole=view", "--user=viewer"]);
    wait_until("a viewer may see what Pods use", || {
        let seen = finish(room.kubectl_command(&["top", "pods", "--as", "viewer"]));
        seen.status.success().then_some(())
    });
    let refused = finish(room.kubectl_command(&["top", "pods", "--as", "stranger"])).failed();
    let words =
        "pods.metrics.k8s.io is forbidden: User \"stranger\" cannot list resource \"pods\" in API group";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
}

#[test]
fn what_machines_use_is_told_to_kubectl_and_by_top() {
    let room = Room::new();
    let top = |line: &str| finish(command(&room, &format!("top {line}")));
    let image = room.reference("guests/usage:1");
    room.push(&image, "vmlinuz");
    assert!(room.kubectl(&["top", "pods"]).stderr.contains("No resources found in default namespace"));
    assert_eq!(top("vm").succeeded().stderr, "No resources found in default namespace.\n");

    let boot = |guest| Boot { image: &image, policy: "", guest };
    room.apply(&machine("vm", "Always", &boot("hang")));
    // A kernel that has panicked and was not told to reboot turns its processor round for ever.
    room.apply(&instance("busy", &boot("panic")));
    room.wait_for_console("vm", "guest: ");
    room.wait_for_console("busy", "end Kernel panic");
    room.wait_for_phase("vmi/vm", "Running");
    room.wait_for_phase("vmi/busy", "Running");
    let (pod, busy) = (room.pod_of("vm"), room.pod_of("busy"));

    let pods = amounts(&room.kubectl(&["top", "pods", "--no-headers"]).stdout);
    assert_eq!(pods.keys().collect::<Vec<_>>(), [&busy, &pod]);
    assert!(pods.values().all(|(_, memory)| (20..4096).contains(memory)), "{pods:?}");
    let containers = room.kubectl(&["top", "pod", &pod, "--containers"]).stdout;
    assert!(containers.contains("compute"), "{containers}");
    let everywhere = room.kubectl(&["top", "pods", "-A", "-l", "vm.kubevirt.io/name=vm"]).stdout;
    assert!(everywhere.contains(&pod) && !everywhere.contains(&busy), "{everywhere}");
    let node = room.kubectl(&["top", "nodes", "--no-headers"]).stdout;
    assert!(node.starts_with("node-1 ") && node.matches('%').count() == 2, "{node}");
    check_raw(&room, &pod);
    check_rights(&room);

    // Its processor is never idle, though it has to share it with the tests beside this one.
    wait_until("the busy guest is seen to be", || {
        let used = amounts(&top("vmi --no-headers --sort-by cpu").succeeded().stdout);
        (used["busy"].0 > 50).then_some(())
    });
    let table = top("vm").succeeded().stdout;
    let (names, rows) = table.split_once('\n').unwrap();
    assert_eq!(names.split_whitespace().collect::<Vec<_>>(), ["NAME", "CPU(cores)", "MEMORY(bytes)"]);
    assert_eq!(amounts(rows).keys().collect::<Vec<_>>(), ["vm"]);
    let used = amounts(&top("vmi/busy vmi/vm --no-headers").succeeded().stdout);
    assert_eq!(used.keys().collect::<Vec<_>>(), ["busy", "vm"]);
    let everywhere = top("pods -A --sort-by memory").succeeded().stdout;
    assert!(everywhere.starts_with("NAMESPACE   NAME "), "{everywhere}");
    assert_eq!(everywhere.lines().filter(|line| line.starts_with("default ")).count(), 2);
    let node = top("node --no-headers").succeeded().stdout;
    assert!(node.starts_with("node-1 ") && node.matches('%').count() == 2, "{node}");

    let refused = top("vm vm missing").failed();
    assert_eq!(amounts(refused.stdout.split_once('\n').unwrap().1).len(), 1);
    assert!(refused.stderr.contains("cannot get VirtualMachine `default/missing`"), "{}", refused.stderr);
    finish(command(&room, "stop vm --force --wait --timeout 5m")).succeeded();
    let refused = top("vm vm").failed();
    assert!(
        refused.stderr.contains("nothing is measured of VirtualMachine `default/vm`"),
        "{}",
        refused.stderr
    );
}
