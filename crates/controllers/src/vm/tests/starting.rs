//! What instances are made from, whose they are, and how long to wait after failures.

use proptest::prelude::*;

use super::super::backoff::{delay_seconds, next, remaining};
use super::super::build::{adoption, instance as build, live_update, preparation, release};
use super::super::claim::{Claim, claim, is_abandoned};
use super::super::decision::Manner;
use super::super::last_boot::record;
use super::super::revision::{Drift, drift, name, of, spec_in};
use super::super::strategy::Strategy;
use super::*;

#[test]
fn an_instance_is_what_the_template_says_and_belongs_to_its_machine() {
    let mut machine = machine("Always");
    let metadata = machine.spec.template.metadata.get_or_insert_default();
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert("kubevirt.io/vm-generation".to_owned(), "99".to_owned());
    let instance = build(&machine, Manner::AsWritten, None);
    insta::assert_snapshot!("instance", serde_json::to_string_pretty(&instance).unwrap());
    let paused = build(&machine, Manner::Paused, None);
    assert_eq!(paused.spec.start_strategy.as_deref(), Some("Paused"));
    let receiver = build(&machine, Manner::Receiver, None);
    assert_eq!(receiver.metadata.annotations.unwrap()["kubevirt.io/create-migration-target"], "true");
    let firmware = machine.spec.template.spec.domain.firmware.as_mut().unwrap();
    firmware.uuid = None;
    let legacy = build(&machine, Manner::AsWritten, None).spec.domain.firmware.unwrap().uuid.unwrap();
    assert_eq!(legacy, uuid::Uuid::new_v5(&manifest::defaults::FIRMWARE_UUID_NAMESPACE, b"kb").to_string());
}

#[test]
fn the_words_of_one_start_go_to_its_instance_and_leave_the_machine() {
    let of = |append| build(&machine("Always"), Manner::AsWritten, append).metadata.annotations.unwrap();
    assert_eq!(of(Some("single")).get(keys::APPEND).map(String::as_str), Some("single"));
    assert_eq!(of(None).get(keys::APPEND), None);

    let taken = |annotation: &str, requests: Vec<VirtualMachineStateChangeRequest>| {
        let mut machine = machine("Manual");
        let annotations = machine.metadata.annotations.get_or_insert_default();
        annotations.insert(keys::APPEND.to_owned(), annotation.to_owned());
        machine.status.get_or_insert_default().state_change_requests = requests;
        preparation(&machine).unwrap()["metadata"]["annotations"].get(keys::APPEND).cloned()
    };
    let data = || [("append".to_owned(), "single".to_owned())].into();
    let request = || VirtualMachineStateChangeRequest { data: data(), ..start() };
    assert_eq!(taken("single", vec![stop("uid"), request()]), Some(serde_json::Value::Null));
    assert_eq!(taken("debug", vec![request()]), None, "they are those of the next start");
    assert_eq!(taken("single", vec![start()]), None, "no start has taken them");
    assert_eq!(super::super::pending::append(&[request()]), Some("single"));
    assert_eq!(super::super::pending::append(&[stop("uid"), request()]), None);
}

#[test]
fn a_revision_keeps_the_spec() {
    let machine = machine("Always");
    let revision = of(&machine);
    assert_eq!(revision.metadata.name.as_deref(), Some("revision-start-vm-machine-uid-3"));
    assert_eq!(revision.metadata.name.as_deref(), Some(name(&machine).as_str()));
    assert_eq!(revision.metadata.owner_references.as_ref().unwrap()[0].uid, "machine-uid");
    assert_eq!((revision.revision, spec_in(&revision)), (3, Some(machine.spec)));
}

#[test]
fn only_what_a_live_instance_takes_over_needs_no_restart() {
    let start = machine("Always").spec;
    let drift_of = |change: fn(&mut VirtualMachineSpec)| {
        let mut now = start.clone();
        change(&mut now);
        drift(&start, &now, Some(4))
    };
    let generic = Drift::Restart("a non-live-updatable field was changed in the template spec");
    fn spec(spec: &mut VirtualMachineSpec) -> &mut VirtualMachineInstanceSpec {
        &mut spec.template.spec
    }
    fn sockets(of: &mut VirtualMachineSpec, count: u32) {
        spec(of).domain.cpu.get_or_insert_default().sockets = Some(count);
    }
    assert_eq!(drift_of(|_| {}), Drift::None);
    assert_eq!(drift_of(|now| now.run_strategy = Some("Halted".to_owned())), Drift::None);
    let node = |now: &mut VirtualMachineSpec| {
        spec(now).node_selector.insert("a".to_owned(), "b".to_owned());
    };
    assert_eq!(drift_of(node), Drift::Live);
    assert_eq!(drift_of(|now| spec(now).affinity = Some(Default::default())), Drift::Live);
    assert_eq!(drift_of(|now| spec(now).tolerations.push(Default::default())), Drift::Live);
    assert_eq!(drift_of(|now| spec(now).hostname = Some("x".to_owned())), generic);
    let kernel = |now: &mut VirtualMachineSpec| {
        let firmware = spec(now).domain.firmware.as_mut().unwrap();
        firmware.kernel_boot.as_mut().unwrap().container.as_mut().unwrap().image = "localhost/k:2".to_owned();
    };
    assert_eq!(drift_of(kernel), generic);
    assert_eq!(drift_of(|now| now.instancetype = Some(InstancetypeMatcher::default())), generic);
    let memory = |now: &mut VirtualMachineSpec| {
        spec(now).domain.memory.as_mut().unwrap().guest = Some(manifest::Quantity::from_bytes(1 << 30));
    };
    assert_eq!(drift_of(memory), generic);
    assert_eq!(drift_of(|now| sockets(now, 4)), generic);
    let sockets_of = |count| {
        let mut now = start.clone();
        sockets(&mut now, count);
        drift(&start, &now, Some(4))
    };
    let more = "CPU sockets updated in template spec to a value higher than what's available";
    assert_eq!(sockets_of(5), Drift::Restart(more));
    assert_eq!(sockets_of(1), Drift::Restart("Reduction of CPU socket count requires a restart"));
    assert_eq!(sockets_of(0), Drift::Restart("Reduction of CPU socket count requires a restart"));
    let mut arm = start.clone();
    spec(&mut arm).architecture = Some("arm64".to_owned());
    let mut more = arm.clone();
    sockets(&mut more, 3);
    assert_eq!(drift(&arm, &more, Some(4)), Drift::Restart("ARM doesn't support CPU hotplug"));
}

fn applied(patch: &json_patch::Patch, object: &impl serde::Serialize) -> serde_json::Value {
    let mut object = serde_json::to_value(object).unwrap();
    // The server takes a test for null as one for absence, which the library does not.
    let operations: Vec<_> = patch
        .0
        .iter()
        .filter(|operation| {
            !serde_json::to_value(operation).unwrap()["value"].is_null()
                || !matches!(operation, json_patch::PatchOperation::Test(_))
        })
        .cloned()
        .collect();
    json_patch::patch(&mut object, &operations).unwrap();
    object
}

#[test]
fn a_live_instance_takes_over_where_it_runs_next_and_the_generation() {
    let mut machine = machine("Always");
    let running = instance("Running");
    assert_eq!(live_update(&machine, &running, Drift::None), None);
    machine.metadata.generation = Some(4);
    let bumped = applied(&live_update(&machine, &running, Drift::None).unwrap(), &running);
    assert_eq!(bumped["metadata"]["annotations"]["kubevirt.io/vm-generation"], "4");
    machine.spec.template.spec.node_selector.insert("a".to_owned(), "b".to_owned());
    assert_eq!(live_update(&machine, &running, Drift::Unknown), None);
    let moved = applied(&live_update(&machine, &running, Drift::Live).unwrap(), &running);
    assert_eq!(moved["spec"]["nodeSelector"], json!({"a": "b"}));
    assert_eq!(moved["metadata"]["annotations"]["kubevirt.io/vm-generation"], "3");
}

#[test]
fn an_instance_is_held_taken_over_and_let_go() {
    let mut machine = machine("Always");
    let patch = preparation(&machine).unwrap();
    assert_eq!(
        patch,
        json!({"metadata": {
            "annotations": {
                "kubevirt.io/latest-observed-api-version": "v1",
                "kubevirt.io/storage-observed-api-version": "v1",
            },
            "finalizers": ["kubevirt.io/virtualMachineControllerFinalize"],
            "resourceVersion": "7",
        }})
    );
    machine.metadata.annotations = serde_json::from_value(patch["metadata"]["annotations"].clone()).unwrap();
    machine.metadata.finalizers = Some(vec!["other".to_owned()]);
    assert_eq!(
        preparation(&machine).unwrap(),
        json!({"metadata": {
            "finalizers": ["other", "kubevirt.io/virtualMachineControllerFinalize"],
            "resourceVersion": "7",
        }})
    );
    assert_eq!(release(&machine.metadata), None);
    machine.metadata.finalizers.as_mut().unwrap().push(manifest::keys::VM_FINALIZER.to_owned());
    assert_eq!(preparation(&machine), None);
    let released = applied(&release(&machine.metadata).unwrap(), &machine);
    assert_eq!(released["metadata"]["finalizers"], json!(["other"]));

    let own = instance("Running");
    assert_eq!(claim(&machine, &own), Claim::Own);
    let mut orphan = own.clone();
    orphan.metadata.owner_references = None;
    assert_eq!(claim(&machine, &orphan), Claim::Adopted);
    let adopted = applied(&adoption(&machine, &orphan), &orphan);
    let adopted: VirtualMachineInstance = serde_json::from_value(adopted).unwrap();
    assert_eq!(claim(&machine, &adopted), Claim::Own);
    let leaving = deleting(orphan.clone(), |instance| &mut instance.metadata);
    assert_eq!(claim(&machine, &leaving), Claim::Leaving);
    let mut other = machine.clone();
    other.metadata.uid = Some("other".to_owned());
    assert_eq!(claim(&other, &own), Claim::Foreign);
    let ending = deleting(machine.clone(), |machine| &mut machine.metadata);
    assert_eq!(claim(&ending, &orphan), Claim::Freed);
    assert_eq!(claim(&ending, &own), Claim::Own);

    let leaving_own = deleting(own.clone(), |instance| &mut instance.metadata);
    assert!(is_abandoned(&leaving.metadata, None) && is_abandoned(&leaving.metadata, Some("machine-uid")));
    assert!(is_abandoned(&leaving_own.metadata, None) && is_abandoned(&leaving_own.metadata, Some("other")));
    assert!(!is_abandoned(&leaving_own.metadata, Some("machine-uid")));
    assert!(!is_abandoned(&own.metadata, None));
    let mut replica = leaving_own.clone();
    replica.metadata.owner_references.as_mut().unwrap()[0].kind = "Pool".to_owned();
    assert!(!is_abandoned(&replica.metadata, None));
}

#[test]
fn failures_to_start_are_counted_once_each_until_one_runs() {
    let always = Strategy::Always;
    let failed = has_been(instance("Failed"), &["Pending", "Scheduling", "Failed"]);
    let first = next(None, &always, Some(&failed), now(), 0).unwrap();
    assert_eq!(
        serde_json::to_value(&first).unwrap(),
        json!({
            "consecutiveFailCount": 1, "lastFailedVMIUID": "instance-uid",
            "retryAfterTimestamp": "2026-01-02T03:04:15Z",
        })
    );
    assert_eq!(next(Some(&first), &always, Some(&failed), now(), 0).as_ref(), Some(&first));
    assert_eq!(next(Some(&first), &always, None, now(), 0).as_ref(), Some(&first));
    let mut again = failed.clone();
    again.metadata.uid = Some("second".to_owned());
    let second = next(Some(&first), &Strategy::Once, Some(&again), now(), 0).unwrap();
    assert_eq!((second.consecutive_fail_count, second.retry_after_timestamp), (Some(2), Some(later(40))));
    let starting = has_been(instance("Scheduled"), &["Pending", "Scheduling", "Scheduled"]);
    assert_eq!(next(Some(&first), &always, Some(&starting), now(), 0).as_ref(), Some(&first));
    let running = has_been(instance("Running"), &["Pending", "Running"]);
    assert_eq!(next(Some(&first), &always, Some(&running), now(), 0), None);
    let crashed = has_been(instance("Failed"), &["Pending", "Running", "Failed"]);
    assert_eq!(next(None, &always, Some(&crashed), now(), 0), None);
    for strategy in [Strategy::Manual, Strategy::Halted, Strategy::WaitAsReceiver] {
        assert_eq!(next(Some(&first), &strategy, Some(&failed), now(), 0), None);
    }
    assert_eq!(remaining(Some(&first), now()), Some(jiff::SignedDuration::from_secs(10)));
    assert_eq!(remaining(Some(&first), later(10).0), None);
    // The clock was set back by an hour.
    assert_eq!(remaining(Some(&first), later(-3600).0), None);
    assert_eq!(remaining(None, now()), None);
}

#[test]
fn the_wait_grows_to_five_minutes() {
    let bounds = |count: u64| (delay_seconds(count, 0), delay_seconds(count, 5 * count * count));
    assert_eq!(
        [1, 2, 3, 4, 5, 6].map(bounds),
        [(10, 15), (40, 60), (90, 135), (160, 240), (250, 300), (300, 300)]
    );
}

proptest! {
    #[test]
    fn no_wait_is_outside_of_its_bounds(count in 1..u64::MAX, random: u64) {
        let seconds = delay_seconds(count, random);
        let square = count.min(10).pow(2);
        prop_assert!((10 * square).min(300) <= seconds && seconds <= (15 * square).min(300));
    }
}

#[test]
fn what_was_booted_is_written_down_once_it_runs_and_only_when_it_is_new() {
    let mut machine = machine("Always");
    let mut running = has_been(instance("Running"), &["Running"]);
    assert_eq!(record(&machine, &running), None);
    let annotations = running.metadata.annotations.get_or_insert_default();
    annotations.insert(manifest::keys::IMAGE_DIGEST.to_owned(), "sha256:00".to_owned());
    annotations.insert(manifest::keys::KERNEL_VERSION.to_owned(), "6.1.0".to_owned());
    running.status.as_mut().unwrap().kernel_boot_status =
        Some(KernelBootStatus { kernel_info: Some(FileChecksum { checksum: Some(7) }), initrd_info: None });
    let patch = record(&machine, &running).unwrap();
    let written = patch["metadata"]["annotations"]["ferrovirt.dev/last-boot"].as_str().unwrap();
    assert_eq!(
        written,
        "{\"image\":\"localhost/k:1\",\"imageDigest\":\"sha256:00\",\"kernel\":{\"path\":\"/vmlinuz\",\
         \"checksum\":7},\"kernelVersion\":\"6.1.0\"}"
    );
    machine.metadata.annotations = Some([(manifest::keys::LAST_BOOT.to_owned(), written.to_owned())].into());
    assert_eq!(record(&machine, &running), None);
    let starting = has_been(running, &["Scheduled"]);
    machine.metadata.annotations = None;
    assert_eq!(record(&machine, &starting), None);
}
