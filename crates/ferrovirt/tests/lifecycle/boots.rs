//! Instances boot, are seen, are heard and go.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, geteuid, getpriority_process, setpriority_process};
use serde_json::{Value, json};

use crate::harness::Fixtures;
use crate::room::{Boot, Room, instance, machine};
use crate::server::wait_until;
use crate::{client, console};

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

#[test]
fn an_instance_boots_is_seen_and_heard_and_is_gone_when_deleted() {
    let room = Room::new();
    let image = room.reference("guests/hang:1");
    room.push(&image, "vmlinuz");
    room.apply(&instance("first", &Boot { image: &image, policy: "", guest: "hang" }));
    let running = room.wait_for_phase("vmi/first", "Running");
    room.wait_for_console("first", "guest: kernel");

    let status = &running["status"];
    assert_eq!(status["nodeName"], "node-1");
    assert_eq!(running["metadata"]["labels"]["kubevirt.io/nodeName"], "node-1");
    let phases: Vec<_> =
        status["phaseTransitionTimestamps"].as_array().unwrap().iter().map(|t| &t["phase"]).collect();
    assert_eq!(phases, ["Pending", "Scheduling", "Scheduled", "Running"]);
    let pod_name = room.pod_of("first");
    assert!(pod_name.starts_with("virt-launcher-first-"), "{pod_name}");
    let pod = room.get(&format!("pod/{pod_name}"));
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["spec"]["volumes"][0]["image"]["reference"], image.as_str());
    assert!(pod["status"]["podIP"].as_str().unwrap().starts_with("127.88."), "{}", pod["status"]);
    room.wait("vmi/first", "is ready", |vmi| condition(vmi, "Ready")["status"] == "True");

    let annotations = &running["metadata"]["annotations"];
    assert!(annotations["ferrovirt.dev/image-digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(annotations["ferrovirt.dev/kernel-version"], Fixtures::version("vmlinuz"));
    room.wait("vmi/first", "tells of its user space", |vmi| {
        let timeline =
            vmi["metadata"]["annotations"]["ferrovirt.dev/boot-timeline"].as_str().unwrap_or_default();
        timeline.contains("userspaceStarted")
    });

    room.wait_for_event("VirtualMachineInstance", "first", "Normal Started ");
    let told = room.events("VirtualMachineInstance", "first");
    let expected = [
        format!("Normal SuccessfulCreate Created virtual machine pod {pod_name}"),
        "Normal Created VirtualMachineInstance defined.".to_owned(),
        "Normal Started VirtualMachineInstance started.".to_owned(),
    ];
    assert_eq!(told, expected);

    let table = room.kubectl(&["get", "vmi"]).stdout;
    assert!(table.contains("Running") && table.contains("node-1"), "{table}");
    let nodes = room.kubectl(&["get", "nodes"]).stdout;
    assert!(nodes.contains("node-1") && nodes.contains("Ready"), "{nodes}");
    let last = room.kubectl(&["logs", &pod_name, "-c", "guest-console-log", "--tail", "1"]).stdout;
    assert_eq!(last.lines().count(), 1, "{last:?}");
    let stamped =
        room.kubectl(&["logs", &pod_name, "-c", "guest-console-log", "--timestamps", "--tail", "2"]).stdout;
    assert!(stamped.lines().all(|line| line.starts_with("20")), "{stamped:?}");
    assert!(!room.kubectl(&["logs", &pod_name, "-c", "compute"]).stdout.is_empty());

    let began = Instant::now();
    room.kubectl(&["delete", "vmi", "first", "--wait=true"]);
    room.wait_until_empty();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn a_guest_that_powers_off_succeeds_and_its_instance_stays() {
    let room = Room::new();
    let image = room.reference("guests/off:1");
    room.push(&image, "vmlinuz");
    room.apply(&instance("short", &Boot { image: &image, policy: "Always", guest: "poweroff" }));
    room.wait_for_phase("vmi/short", "Succeeded");
    let pod = room.wait_for_phase(&format!("pod/{}", room.pod_of("short")), "Succeeded");
    let compute = &pod["status"]["containerStatuses"][0];
    assert_eq!(compute["state"]["terminated"]["exitCode"], 0, "{compute}");
    let stopped = "Normal Stopped The VirtualMachineInstance was shut down.";
    room.wait_for_event("VirtualMachineInstance", "short", stopped);
    assert!(room.processes("launcher").is_empty() && room.processes("qemu-system-x86_64").is_empty());
    assert!(room.console("short").contains("guest: kernel"));
    room.kubectl(&["delete", "vmi", "short"]);
    room.wait_until_empty();
}

#[test]
fn a_panic_is_a_fact_and_what_follows_depends_on_the_panic_device() {
    let room = Room::new();
    let image = room.reference("guests/panic:1");
    room.push(&image, "vmlinuz");
    let boot = Boot { image: &image, policy: "", guest: "panic" };
    let mut with_device = instance("reporting", &boot);
    with_device["spec"]["domain"]["devices"] = json!({"panicDevices": [{"model": "isa"}]});
    room.apply(&with_device);
    let failed = room.wait_for_phase("vmi/reporting", "Failed");
    let fact = condition(&failed, "ferrovirt.dev/GuestPanicked");
    assert_eq!(fact["status"], "True");
    assert!(fact["message"].as_str().unwrap().contains("Kernel panic"), "{fact}");
    // virtctl asks again after 400, and not after this.
    let (code, status) =
        client::runtime().block_on(console::open(&room, "reporting", "console")).unwrap_err();
    let about = "Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"reporting\":";
    assert_eq!((code, &status["message"]), (409, &json!(format!("{about} VMI is in failed status"))));
    for event in ["Warning GuestPanicked", "Warning Stopped The VirtualMachineInstance crashed."] {
        room.wait_for_event("VirtualMachineInstance", "reporting", event);
    }

    let metrics = room.kubectl(&["get", "--raw", "/metrics"]).stdout;
    let counted =
        "kubevirt_vmi_guest_os_panic_total{namespace=\"default\",name=\"reporting\",type=\"pvpanic\",";
    assert!(metrics.contains(counted), "{metrics}");

    room.apply(&instance("silent", &boot));
    let panicked = room.wait("vmi/silent", "tells of its panic", |vmi| {
        vmi["status"]["conditions"].is_array()
            && condition(vmi, "ferrovirt.dev/GuestPanicked")["status"] == "True"
    });
    assert_eq!(panicked["status"]["phase"], "Running");

    // What runs is told with what it uses; what has ended uses nothing.
    let metrics = room.kubectl(&["get", "--raw", "/metrics"]).stdout;
    let values = |name: &str, instance: &str| -> Vec<f64> {
        let is_it = |line: &&str| {
            line.starts_with(&format!("{name}{{")) && line.contains(&format!("name=\"{instance}\""))
        };
        metrics.lines().filter(is_it).map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
    };
    assert_eq!(
        (values("kubevirt_vmi_info", "silent"), values("kubevirt_vmi_info", "reporting")),
        (vec![1.0], vec![1.0])
    );
    assert!(metrics.contains("phase=\"failed\"") && metrics.contains("phase=\"running\""), "{metrics}");
    for (name, least) in [
        ("kubevirt_vmi_cpu_usage_seconds_total", 0.1),
        ("kubevirt_vmi_vcpu_seconds_total", 0.1),
        ("kubevirt_vmi_vcpu_delay_seconds_total", 0.0),
        ("kubevirt_vmi_memory_resident_bytes", f64::from(16 << 20)),
    ] {
        let used = values(name, "silent");
        assert!(matches!(used[..], [value] if value > least), "{name}: {used:?}");
        assert_eq!(values(name, "reporting"), [0.0; 0], "{name}");
    }

    // Each phase was entered from the one before it, and a machine is there in less than KubeVirt's first half second.
    for count in [
        "time_seconds_count{phase=\"Running\",last_phase=\"Scheduled\"} 2",
        "time_seconds_count{phase=\"Failed\",last_phase=\"Running\"} 1",
        "time_from_creation_seconds_count{phase=\"Scheduling\"} 2",
        "time_from_creation_seconds_count{phase=\"Running\"} 2",
    ] {
        assert!(metrics.contains(&format!("kubevirt_vmi_phase_transition_{count}\n")), "{count}: {metrics}");
    }
    assert!(
        metrics.contains("_time_from_creation_seconds_bucket{le=\"0.01\",phase=\"Running\"}"),
        "{metrics}"
    );

    // Dashboards and alerts ask for nothing that is not told. A virtual machine has series of its own.
    let stopped = machine("stopped", "Halted", &boot);
    for dry_run in ["--dry-run=server", "--dry-run=none"] {
        room.kubectl_with_input(&["create", "-f", "-", dry_run], &stopped.to_string());
    }
    // What a guest itself tells takes one with a card, a balloon's driver and an agent.
    let image = room.reference("guests/telling:1");
    room.push_initrd(&image, "initrd-agent");
    room.apply(&instance("telling", &Boot { image: &image, policy: "", guest: "agent" }));
    let metrics = wait_until("the guest tells of itself", || {
        let metrics = room.kubectl(&["get", "--raw", "/metrics"]).stdout;
        let told = ["memory_usable_bytes", "filesystem_used_bytes", "network_transmit_bytes_total"];
        told.iter().all(|name| metrics.contains(&format!("kubevirt_vmi_{name}{{"))).then_some(metrics)
    });
    assert!(metrics.contains("kubevirt_vm_created_total{namespace=\"default\"} 1.0\n"), "{metrics}");
    for file in ["grafana-dashboard.json", "prometheus-rules.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib").join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let names: BTreeSet<&str> = text
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
            .filter(|word| word.starts_with("kubevirt_") || word.starts_with("apiserver_"))
            .collect();
        assert!(names.len() > 4, "{file}: {names:?}");
        for name in names {
            let is_told =
                |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
            let is_recorded = text.contains(&format!("- record: {name}\n"));
            assert!(
                is_recorded || metrics.lines().any(is_told),
                "{file} asks for {name}, which nobody tells"
            );
        }
    }
}

#[test]
fn a_kernel_without_an_initrd_boots() {
    let room = Room::new();
    let image = room.reference("guests/kernel:1");
    room.push(&image, "vmlinuz");
    let mut vmi = instance("bare", &Boot { image: &image, policy: "", guest: "hang" });
    vmi["spec"]["domain"]["firmware"]["kernelBoot"]["container"]
        .as_object_mut()
        .unwrap()
        .remove("initrdPath");
    room.apply(&vmi);
    room.wait_for_phase("vmi/bare", "Running");
    room.wait_for_console("bare", "Linux version");
    room.kubectl(&["delete", "vmi", "bare"]);
    room.wait_until_empty();
}

#[test]
fn an_instance_that_does_not_fit_waits_with_the_arithmetic() {
    let room = Room::new();
    let image = room.reference("guests/large:1");
    let mut vmi = instance("large", &Boot { image: &image, policy: "", guest: "hang" });
    vmi["spec"]["domain"]["memory"]["guest"] = json!("900Gi");
    room.apply(&vmi);
    let waiting = room.wait("vmi/large", "is unschedulable", |vmi| {
        vmi["status"]["conditions"].is_array() && condition(vmi, "PodScheduled")["reason"] == "Unschedulable"
    });
    let message = condition(&waiting, "PodScheduled")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("Insufficient memory (requested 90") && message.contains("free"), "{message}");
    assert_eq!(waiting["status"]["phase"], "Scheduling");
    room.kubectl(&["delete", "vmi", "large"]);
    room.wait_until_empty();
}

#[test]
fn a_server_that_leads_its_session_goes_ahead_of_what_it_starts() {
    // Of a process and of its session, where the kernel groups sessions: `/autogroup-7 nice 7`, and nothing for what never
    // left the session of the kernel's first process.
    let levels = |process: Pid| {
        let own = getpriority_process(Some(process)).unwrap();
        let group =
            fs::read_to_string(format!("/proc/{}/autogroup", process.as_raw_pid())).unwrap_or_default();
        let session =
            group.trim_end().rsplit_once(' ').map_or(own, |(_, level)| level.parse::<i32>().unwrap());
        (own, session)
    };
    let this = levels(rustix::process::getpid());
    let room = Room::new();
    assert_eq!(levels(room.server_process()), this, "in another's session it stays where it is");
    drop(room);

    let room = Room::of_a_service();
    let image = room.reference("guests/levels:1");
    room.push(&image, "vmlinuz");
    room.apply(&instance("kb", &Boot { image: &image, policy: "", guest: "hang" }));
    room.wait_for_phase("vmi/kb", "Running");
    // Levels below 0 are for who has CAP_SYS_NICE, and who gave this process one meant it.
    let privileged = setpriority_process(None, this.0 - 1).is_ok();
    setpriority_process(None, this.0).unwrap();
    let new_session = if fs::exists("/proc/self/autogroup").unwrap() { 0 } else { this.0 };
    let ahead = if privileged && this.0 == 0 { (-10, -10) } else { (this.0, new_session) };
    assert_eq!(levels(room.server_process()), ahead);
    let (launcher, guest) = (room.processes("launcher")[0], room.processes("qemu-system-x86_64")[0]);
    // It steps back when QEMU runs, and its level is not handed down to guests.
    wait_until("the launcher steps back", || (levels(launcher).0 >= 0).then_some(()));
    // The level of QEMU, which is another user's where this is root, takes the same privilege.
    if privileged || !geteuid().is_root() {
        wait_until("the guest stands behind", || (levels(guest).0 >= 5).then_some(()));
    }
}
