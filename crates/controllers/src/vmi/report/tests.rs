#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use manifest::keys::PullProgress;
use manifest::machine_status::{GuestAgent, GuestInterface, GuestPanic, MachineState, StateReason};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::view::Said;
use super::*;

const NOW: &str = "2026-01-02T03:04:05Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn instance(changes: Value) -> VirtualMachineInstance {
    let mut object = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {
            "name": "kb", "namespace": "ns", "uid": "u", "finalizers": [keys::VM_FINALIZER, keys::VMI_FINALIZER],
        },
        "spec": {"domain": {"devices": {}, "memory": {"guest": "128Mi"}, "features": {"acpi": {"enabled": true}}}},
        "status": {
            "phase": "Pending", "guestOSInfo": {}, "runtimeUser": 107,
            "phaseTransitionTimestamps": [{"phase": "Pending", "phaseTransitionTimestamp": NOW}],
        },
    });
    json_patch::merge(&mut object, &changes);
    serde_json::from_value(object).unwrap()
}

fn pod(stage: Stage) -> PodView {
    PodView {
        name: "pod".to_owned(),
        uid: "p".to_owned(),
        stage,
        deleted_by: None,
        deletion_grace_seconds: None,
        node_name: Some("node1".to_owned()),
        control: None,
        last: None,
        image_failure: None,
        unschedulable: None,
        ready: None,
        unpaused: None,
        has_node_label: false,
        qos_class: None,
        launcher_image: None,
        progress: None,
    }
}

fn said(reason: &str) -> Said {
    Said { reason: reason.to_owned(), message: format!("{reason} it is") }
}

/// Everything that `Ready` can say.
#[test]
fn the_table_of_readiness() {
    let with = |change: fn(&mut PodView)| {
        let mut pod = pod(Stage::Ready);
        change(&mut pod);
        pod
    };
    let pods = [
        ("no Pod", None),
        ("not ready yet", Some(pod(Stage::Waiting))),
        ("no condition", Some(pod(Stage::Ready))),
        (
            "ready",
            Some(with(|pod| {
                pod.ready = Some(("True".to_owned(), Said { reason: String::new(), message: String::new() }))
            })),
        ),
        ("not ready", Some(with(|pod| pod.ready = Some(("False".to_owned(), said("ContainersNotReady")))))),
        ("paused", Some(with(|pod| pod.ready = Some(("False".to_owned(), said("ReadinessGatesNotReady")))))),
        ("deleted", Some(with(|pod| pod.deleted_by = Some(0)))),
        ("ended", Some(pod(Stage::Ended))),
    ];
    let phases = [
        Phase::Pending,
        Phase::Scheduling,
        Phase::Scheduled,
        Phase::Running,
        Phase::Succeeded,
        Phase::Failed,
    ];
    let mut table = String::new();
    for phase in phases {
        for (name, pod) in &pods {
            let (status, said) = conditions::ready(phase, pod.as_ref()).unwrap();
            let line =
                format!("{:<10} {name:<14} {status:<6} {:<22} {}", phase.as_str(), said.reason, said.message);
            table.push_str(line.trim_end());
            table.push('\n');
        }
    }
    insta::assert_snapshot!("ready", table);
}

#[test]
fn the_line_of_a_panic_is_told_however_much_follows_it() {
    let message = |following: usize| {
        let line = "Kernel panic - not syncing".to_owned();
        let after = (0..following).map(|number| format!("trace {number}"));
        let tail = std::iter::once(line.clone()).chain(after).collect();
        let (_, said) =
            conditions::guest_panicked(Some(&GuestPanic { at: 1, line: Some(line), tail })).unwrap();
        let lines = said.message.lines().count();
        (said.message.matches("Kernel panic").count(), lines)
    };
    for (following, lines) in [(0, 1), (19, 20), (20, 21), (60, 21)] {
        assert_eq!(message(following), (1, lines), "{following}");
    }
}

#[test]
fn only_a_step_on_the_way_to_running_can_wait() {
    let pending = instance(json!({}));
    let after = |change: fn(&mut PodView), create_error: Option<&str>| {
        let mut pod = pod(Stage::Waiting);
        change(&mut pod);
        let pod = create_error.is_none().then_some(&pod);
        report(&pending, &Observed { pod, create_error, ..Observed::default() }, now()).instance
    };
    assert!(can_wait(&pending, &after(|_| {}, None)));
    assert!(can_wait(&pending, &after(|pod| pod.stage = Stage::Ready, None)));
    let progress = |pod: &mut PodView| {
        let image = "i".to_owned();
        pod.progress = Some(PullProgress { image, bytes: 1, total: 4, percent: 25 });
    };
    let told: [fn(&mut PodView); 4] = [
        |pod| pod.image_failure = Some(said("ErrImagePull")),
        |pod| pod.unschedulable = Some(said("Unschedulable")),
        |pod| pod.stage = Stage::Ended,
        progress,
    ];
    for change in told {
        let after = after(change, None);
        assert!(!can_wait(&pending, &after), "{:?}", after.status);
    }
    assert!(!can_wait(&pending, &after(|_| {}, Some("no"))));
}

#[test]
fn a_lost_node_is_the_reason() {
    let running = instance(json!({"status": {"phase": "Running", "nodeName": "node1"}}));
    for (node_is_lost, expected) in [(true, Some("NodeUnresponsive")), (false, None)] {
        let status = report(&running, &Observed { node_is_lost, ..Observed::default() }, now())
            .instance
            .status
            .unwrap();
        assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), expected));
    }
}

#[test]
fn phases_of_others_are_left_alone() {
    for phase in ["Provisioning", "Unknown"] {
        let instance = instance(json!({"status": {"phase": phase}}));
        assert_eq!(report(&instance, &Observed::default(), now()).instance, instance);
    }
}

#[test]
fn a_timeline_is_written_with_something_else_or_when_it_is_worth_it() {
    let ready = u64::try_from(now().as_millisecond()).unwrap();
    let machine = |timeline: BootTimeline| MachineStatus {
        state: MachineState::Running,
        timeline: BootTimeline { vmm_ready: Some(ready), ..timeline },
        ..MachineStatus::default()
    };
    let pod = pod(Stage::Ready);
    let look = |instance: &VirtualMachineInstance, timeline, seconds: i64| {
        let machine = machine(timeline);
        let observed = Observed { pod: Some(&pod), machine: Some(&machine), ..Observed::default() };
        report(instance, &observed, Timestamp::from_second(now().as_second() + seconds).unwrap())
    };
    let scheduled = instance(json!({"status": {"phase": "Scheduled"}}));
    let running = look(&scheduled, BootTimeline::default(), 0).instance;
    let stored = |instance: &VirtualMachineInstance| {
        instance.metadata.annotations.as_ref().unwrap()[keys::BOOT_TIMELINE].clone()
    };
    assert_eq!(stored(&running), format!("{{\"vmmReady\":{ready}}}"));

    let kernel = || BootTimeline { kernel_started: Some(1), ..BootTimeline::default() };
    let soon = look(&running, kernel(), 1);
    assert_eq!((soon.instance == running, soon.again_after), (true, Some(Duration::from_secs(9))));
    let late = look(&running, kernel(), 10);
    assert_eq!(stored(&late.instance), format!("{{\"vmmReady\":{ready},\"kernelStarted\":1}}"));
    assert_eq!(late.again_after, None);
    let userspace = BootTimeline { userspace_started: Some(2), ..kernel() };
    let written = look(&running, userspace.clone(), 1);
    assert!(stored(&written.instance).contains("userspaceStarted"));
    assert_eq!(look(&written.instance, userspace, 2).instance, written.instance);
}

#[test]
fn a_pull_is_told_of_until_the_image_is_there_or_is_not() {
    let pulling = PodView {
        progress: Some(PullProgress { image: "i".to_owned(), bytes: 1 << 20, total: 1 << 21, percent: 50 }),
        ..pod(Stage::Waiting)
    };
    let look = |instance: &VirtualMachineInstance, pod: &PodView| {
        report(instance, &Observed { pod: Some(pod), ..Observed::default() }, now()).instance
    };
    let status = |instance: &VirtualMachineInstance| {
        let conditions = &instance.status.as_ref().unwrap().conditions;
        find(conditions, keys::IMAGE_PULLED).map(|condition| condition.status.clone())
    };
    let first = look(&instance(json!({})), &pulling);
    assert_eq!(status(&first).as_deref(), Some("False"));
    let between = look(&first, &pod(Stage::Waiting));
    assert_eq!(status(&between).as_deref(), Some("False"));
    assert_eq!(status(&look(&between, &pod(Stage::Ready))).as_deref(), Some("True"));
    let failed = PodView { image_failure: Some(said("ErrImagePull")), ..pod(Stage::Waiting) };
    assert_eq!(status(&look(&between, &failed)), None);
    // Nothing is said of an image that was there all along.
    assert_eq!(status(&look(&instance(json!({})), &pod(Stage::Ready))), None);
}

#[test]
fn an_instance_that_must_move_and_cannot_is_warned_of() {
    let scheduled = instance(json!({
        "spec": {
            "evictionStrategy": "LiveMigrate", "networks": [{"name": "default", "pod": {}}],
            "domain": {"devices": {"interfaces": [{"name": "default", "bridge": {}}]}},
        },
        "status": {"phase": "Scheduled"},
    }));
    let machine = MachineStatus { state: MachineState::Running, ..MachineStatus::default() };
    let pod = pod(Stage::Ready);
    let observed = Observed { pod: Some(&pod), machine: Some(&machine), ..Observed::default() };
    let events = report(&scheduled, &observed, now()).events;
    let last = &events.last().unwrap().1;
    assert_eq!(
        (last.reason, last.message.as_str()),
        (
            "Migrated",
            "EvictionStrategy is set but vmi is not migratable; cannot migrate VMI which does not use masquerade or a \
         migratable plugin to connect to the pod network",
        )
    );
}

#[test]
fn volumes_are_listed_by_name_with_the_devices_of_their_disks() {
    let disk = |name: &str, bus: &str| json!({"name": name, "disk": {"bus": bus}});
    let volumes = instance(json!({"spec": {
        "domain": {"devices": {"disks": [disk("b", "virtio"), disk("a", "sata"), disk("c", "virtio")]}},
        "volumes": [{"name": "b"}, {"name": "a"}, {"name": "c"}, {"name": "d"}],
    }}));
    let found: Vec<_> = volume_status(&volumes)
        .into_iter()
        .map(|status| format!("{} {}", status.name, status.target))
        .collect();
    assert_eq!(found, ["a sda", "b vda", "c vdb", "d "]);
    let names: Vec<_> = [0, 25, 26, 51, 52, 701, 702].into_iter().map(letters).collect();
    assert_eq!(names, ["a", "z", "aa", "az", "ba", "zz", "aaa"]);
}

/// What may be seen at one moment.
#[derive(Debug, Clone)]
struct Sight {
    pod: Option<PodView>,
    machine: Option<MachineStatus>,
    refusal: Option<String>,
    create_error: Option<String>,
    deleting: bool,
    seconds: i64,
}

fn machines() -> impl Strategy<Value = MachineStatus> {
    let states = prop::sample::select(vec![
        (MachineState::None, StateReason::None),
        (MachineState::Running, StateReason::None),
        (MachineState::Paused, StateReason::User),
        (MachineState::Paused, StateReason::IoError),
        (MachineState::ShutOff, StateReason::Shutdown),
        (MachineState::ShutOff, StateReason::Destroyed),
        (MachineState::Crashed, StateReason::Panicked),
    ]);
    let text = prop::option::of("[a-c\u{1b}]{1,3}");
    let mark = || prop::option::of(1_767_323_000_000_u64..1_767_324_000_000);
    (states, text.clone(), text, any::<bool>(), mark(), mark(), prop::sample::select(vec!["", "u", "other"]))
        .prop_map(|((state, reason), error, line, has_boot, vmm_ready, userspace_started, uid)| {
            MachineStatus {
                state,
                reason,
                sync_error: error.filter(|_| state == MachineState::None),
                vmi_uid: uid.to_owned(),
                boot: has_boot.then(BootFacts::default),
                panic: line.map(|line| GuestPanic { at: 1, line: Some(line), tail: vec!["x".to_owned()] }),
                timeline: BootTimeline { vmm_ready, userspace_started, ..BootTimeline::default() },
                ..MachineStatus::default()
            }
        })
}

fn pods() -> impl Strategy<Value = PodView> {
    let stages = prop::sample::select(vec![Stage::Waiting, Stage::Ready, Stage::Ended]);
    (stages, prop::option::of(machines()), any::<[bool; 6]>()).prop_map(
        |(stage, last, [bound, deleted, failure, unschedulable, ready, pulling])| PodView {
            last: last.filter(|_| stage == Stage::Ended),
            node_name: bound.then(|| "node1".to_owned()),
            deleted_by: deleted.then_some(0),
            image_failure: failure.then(|| said("ErrImagePull")),
            unschedulable: unschedulable.then(|| said("Unschedulable")),
            ready: ready.then(|| ("True".to_owned(), said(""))),
            progress: pulling.then(|| PullProgress { image: "i".to_owned(), bytes: 0, total: 1, percent: 0 }),
            ..pod(stage)
        },
    )
}

fn sights() -> impl Strategy<Value = Sight> {
    let error = || prop::option::weighted(0.1, Just("no".to_owned()));
    (
        prop::option::weighted(0.8, pods()),
        prop::option::of(machines()),
        error(),
        error(),
        prop::bool::weighted(0.1),
        0..30_i64,
    )
        .prop_map(|(pod, machine, refusal, create_error, deleting, seconds)| Sight {
            create_error: create_error.filter(|_| pod.is_none()),
            pod,
            machine,
            refusal,
            deleting,
            seconds,
        })
}

proptest! {
    /// Whatever is seen in whatever order: phases are entered once each and keep their times, what is final stays so,
    /// no condition is there twice, looking again changes nothing and tells of nothing, and what is deleted and has no
    /// Pod is let go.
    #[test]
    fn a_life_of_reports(sights in prop::collection::vec(sights(), 1..20)) {
        let mut instance = instance(json!({}));
        let mut at = now();
        for sight in sights {
            if sight.deleting {
                instance.metadata.deletion_timestamp = Some(Time(now()));
            }
            at = Timestamp::from_second(at.as_second() + sight.seconds).unwrap();
            let observed = Observed {
                pod: sight.pod.as_ref(),
                machine: sight.machine.as_ref(),
                refusal: sight.refusal.as_deref(),
                create_error: sight.create_error.as_deref(),
                ..Observed::default()
            };
            let found = report(&instance, &observed, at);
            let status = found.instance.status.as_ref().unwrap();
            let before = instance.status.as_ref().unwrap();
            let was = Phase::parse(before.phase.as_deref().unwrap()).unwrap();
            let is = Phase::parse(status.phase.as_deref().unwrap()).unwrap();
            prop_assert!(is == was || (is > was && !was.is_final()), "{was:?} -> {is:?}");
            let stamps = &status.phase_transition_timestamps;
            prop_assert_eq!(&stamps[..before.phase_transition_timestamps.len()], &before.phase_transition_timestamps[..]);
            let names: BTreeSet<_> = stamps.iter().map(|stamp| stamp.phase.clone()).collect();
            prop_assert_eq!(names.len(), stamps.len());
            prop_assert_eq!(stamps.last().and_then(|stamp| stamp.phase.as_deref()), status.phase.as_deref());
            let types: BTreeSet<_> = status.conditions.iter().map(|condition| &condition.type_).collect();
            prop_assert_eq!(types.len(), status.conditions.len());
            if was.is_final() {
                prop_assert!(found.events.iter().all(|(_, event)| event.reason == "GuestPanicked"), "{:?}", found.events);
            }

            let again = report(&found.instance, &observed, at);
            prop_assert_eq!(&again.instance, &found.instance);
            prop_assert_eq!(again.events, vec![]);

            let finalizers = found.instance.metadata.finalizers.clone().unwrap_or_default();
            let is_let_go = !finalizers.iter().any(|name| name == keys::VMI_FINALIZER);
            let deleting = found.instance.metadata.deletion_timestamp.is_some();
            if is_let_go {
                prop_assert!(deleting && is.is_final());
            }
            if deleting && sight.pod.is_none() {
                prop_assert!(is_let_go, "{is:?}");
            }
            prop_assert!(finalizers.iter().any(|name| name == keys::VM_FINALIZER));
            instance = found.instance;
        }
    }
}

#[test]
fn network_cards_and_what_is_restricted_are_told_once_the_machine_runs() {
    let mut pod = pod(Stage::Ready);
    pod.control = Some(([127, 88, 0, 9], 8443).into());
    let machine = MachineStatus {
        vmi_uid: "u".to_owned(),
        state: MachineState::Running,
        interfaces: vec![MachineInterface::new("default", [2, 0, 0, 0, 0, 10])],
        warnings: vec!["nothing outside".to_owned()],
        ..MachineStatus::default()
    };
    let observed = Observed { pod: Some(&pod), machine: Some(&machine), ..Observed::default() };
    let scheduled = instance(json!({"status": {"phase": "Scheduled"}}));
    let told = report(&scheduled, &observed, now());
    let status = serde_json::to_value(told.instance.status.as_ref().unwrap()).unwrap();
    assert_eq!(
        status["interfaces"],
        json!([{
            "name": "default", "mac": "02:00:00:00:00:0a", "ipAddress": "127.88.0.9", "ipAddresses": ["127.88.0.9"],
            "podInterfaceName": "eth0", "infoSource": "domain", "queueCount": 1, "linkState": "up",
        }])
    );
    let restricted = (Teller::Handler, Event::warning("MachineRestricted", "nothing outside".to_owned()));
    assert!(told.events.contains(&restricted), "{:?}", told.events);
    let again = report(&told.instance, &observed, now());
    assert!(again.events.is_empty(), "{:?}", again.events);

    // By DHCP, then by an agent, which knows of a second interface, and is gone again.
    let mut machine = machine;
    machine.interfaces[0].lease = Some("10.0.2.2".to_owned());
    let status_of = |machine: &MachineStatus, before: &VirtualMachineInstance| {
        let observed = Observed { pod: Some(&pod), machine: Some(machine), ..Observed::default() };
        let told = report(before, &observed, now()).instance;
        (serde_json::to_value(told.status.as_ref().unwrap()).unwrap(), told)
    };
    let has_condition = |status: &Value, wanted: &str| {
        status["conditions"].as_array().unwrap().iter().any(|condition| condition["type"] == wanted)
    };
    let (leased, instance) = status_of(&machine, &told.instance);
    assert_eq!(leased["interfaces"][0]["ipAddresses"], json!(["127.88.0.9", "10.0.2.2"]));
    assert_eq!(leased["interfaces"][0]["infoSource"], "domain");
    let interface = |name: &str, mac: &str, address: &str| GuestInterface {
        name: name.to_owned(),
        mac: mac.to_owned(),
        addresses: vec![address.to_owned()],
    };
    machine.guest_agent = Some(GuestAgent {
        version: "1\u{1b}".to_owned(),
        is_unsupported: true,
        os: serde_json::from_value(json!({"id": "debian", "versionId": "12"})).unwrap(),
        interfaces: vec![
            interface("enp1s0", "02:00:00:00:00:0a", "10.0.2.7"),
            interface("docker0", "02:42:00:00:00:01", "172.17.0.1"),
        ],
        is_frozen: true,
    });
    let (status, instance) = status_of(&machine, &instance);
    assert_eq!(
        status["interfaces"],
        json!([
            {
                "name": "default", "mac": "02:00:00:00:00:0a", "ipAddress": "127.88.0.9",
                "ipAddresses": ["127.88.0.9", "10.0.2.7"], "podInterfaceName": "eth0",
                "infoSource": "domain, guest-agent", "queueCount": 1, "linkState": "up", "interfaceName": "enp1s0",
            },
            {
                "mac": "02:42:00:00:00:01", "ipAddress": "172.17.0.1", "ipAddresses": ["172.17.0.1"],
                "infoSource": "guest-agent", "interfaceName": "docker0",
            },
        ])
    );
    assert_eq!(status["guestOSInfo"], json!({"id": "debian", "versionId": "12"}));
    assert_eq!(status["fsFreezeStatus"], "frozen");
    assert!(has_condition(&status, "AgentConnected"));
    let conditions = status["conditions"].as_array().unwrap();
    let unsupported = conditions.iter().find(|found| found["type"] == "AgentVersionNotSupported").unwrap();
    assert_eq!(unsupported["reason"], "Guest agent version '1\u{fffd}' is not supported");
    machine.guest_agent = None;
    let (status, _) = status_of(&machine, &instance);
    assert_eq!(status["interfaces"], leased["interfaces"]);
    assert_eq!((&status["guestOSInfo"]["id"], &status["fsFreezeStatus"]), (&json!("debian"), &Value::Null));
    assert!(!has_condition(&status, "AgentConnected") && !has_condition(&status, "AgentVersionNotSupported"));
}
