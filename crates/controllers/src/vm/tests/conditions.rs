//! Conditions and the rest of the status.

use kube::Resource;
use kube::core::{ObjectList, WatchEvent};

use super::super::build;
use super::super::conditions::{Facts, SyncError, next};

use super::super::status::{self, News, Outcome};
use super::super::{Machine, Rest};
use super::*;

fn facts<'a>(instance: Option<&'a VirtualMachineInstance>, now: &'a Time) -> Facts<'a> {
    Facts { instance, failure: None, restart_required: None, now }
}

fn shown(conditions: &[Condition]) -> Vec<String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    conditions
        .iter()
        .map(|of| format!("{} {} {} {}", of.type_, of.status, text(&of.reason), text(&of.message)))
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[test]
fn ready_is_always_there() {
    let time = later(0);
    let missing = next(&[], &facts(None, &time));
    assert_eq!(shown(&missing), ["Ready False VMINotExists VMI does not exist"]);
    assert_eq!(missing[0].last_transition_time, Some(time.clone()));
    let fresh = instance("Pending");
    assert_eq!(
        shown(&next(&missing, &facts(Some(&fresh), &time))),
        ["Ready False VMIConditionMissing VMI is missing the Ready condition"]
    );
    let waiting = with_conditions(fresh, vec![condition("Ready", "False", "GuestNotRunning")]);
    assert_eq!(shown(&next(&missing, &facts(Some(&waiting), &time))), ["Ready False GuestNotRunning"]);
}

#[test]
fn those_of_the_instance_are_there_as_long_as_it_has_them_and_stay_when_it_is_gone() {
    let time = later(0);
    let mut migratable = condition("LiveMigratable", "False", "InterfaceNotLiveMigratable");
    migratable.last_probe_time = Some(later(-5));
    migratable.last_transition_time = Some(later(-5));
    let running = with_conditions(
        instance("Running"),
        vec![condition("Ready", "True", ""), migratable.clone(), condition("Paused", "True", "PausedByUser")],
    );
    let first = next(&[], &facts(Some(&running), &time));
    assert_eq!(
        shown(&first),
        ["Ready True", "LiveMigratable False InterfaceNotLiveMigratable", "Paused True PausedByUser"]
    );
    assert_eq!(first[1], migratable);
    let resumed = with_conditions(instance("Running"), vec![condition("Ready", "True", ""), migratable]);
    let second = next(&first, &facts(Some(&resumed), &time));
    assert_eq!(shown(&second), ["Ready True", "LiveMigratable False InterfaceNotLiveMigratable"]);
    let third = next(&second, &facts(None, &time));
    assert_eq!(
        shown(&third),
        ["Ready False VMINotExists VMI does not exist", "LiveMigratable False InterfaceNotLiveMigratable"]
    );
}

#[test]
fn an_instance_cannot_say_what_is_the_machines_to_say() {
    let time = later(0);
    let lying = with_conditions(
        instance("Running"),
        vec![condition("RestartRequired", "True", ""), condition("Failure", "True", "x")],
    );
    let ready = "Ready False VMIConditionMissing VMI is missing the Ready condition";
    assert_eq!(shown(&next(&[], &facts(Some(&lying), &time))), [ready]);
}

#[test]
fn a_failure_lasts_until_it_is_over_and_keeps_its_time() {
    let (first, second) = (later(0), later(9));
    let error = |message: &str| SyncError { reason: "FailedCreate", message: message.to_owned() };
    let (a, b) = (error("a"), error("b"));
    let before = next(&[], &Facts { failure: Some(&a), ..facts(None, &first) });
    let after = next(&before, &Facts { failure: Some(&b), ..facts(None, &second) });
    assert_eq!(shown(&after), ["Ready False VMINotExists VMI does not exist", "Failure True FailedCreate b"]);
    assert_eq!(after[1].last_transition_time, Some(first.clone()));
    assert_eq!(next(&after, &facts(None, &second)).len(), 1);
    // What says nothing new stays as it is.
    assert_eq!(next(&before, &Facts { failure: Some(&a), ..facts(None, &second) }), before);
}

fn outcome<'a>(instance: Option<&'a VirtualMachineInstance>) -> Outcome<'a> {
    Outcome {
        instance,
        requests: &[],
        start_failure: None,
        is_stopping: false,
        is_settled: true,
        failure: None,
        restart_required: None,
        now: later(0),
    }
}

#[test]
fn the_status_of_a_machine_that_never_ran_says_so() {
    let status = status::next(&machine("Manual"), &outcome(None));
    let shown = serde_json::to_value(status).unwrap();
    assert_eq!(
        shown,
        json!({
            "printableStatus": "Stopped",
            "conditions": [{
                "type": "Ready", "status": "False", "reason": "VMINotExists", "message": "VMI does not exist",
                "lastTransitionTime": "2026-01-02T03:04:05Z",
            }],
        })
    );
}

#[test]
fn a_new_machine_is_at_rest_unless_it_is_to_run() {
    for strategy in STRATEGIES {
        let mut new = machine(strategy);
        new.status = None;
        let rests = matches!(strategy, "Halted" | "Manual");
        let status = status::at_rest(&new, now());
        assert_eq!(status.is_some(), rests, "{strategy}");
        if status.is_some() {
            new.status = status.clone();
            // A later look has nothing to add.
            let later = Outcome { now: later(60), ..outcome(None) };
            assert_eq!(Some(status::next(&new, &later)), status, "{strategy}");
        }
    }
}

#[test]
fn a_machine_rests_once_it_is_prepared_and_says_so_and_nobody_wants_anything_of_it() {
    let prepared = |strategy: &str| {
        let mut new = VirtualMachine { status: None, ..machine(strategy) };
        let patch = build::preparation(&new).unwrap();
        new.metadata.annotations = serde_json::from_value(patch["metadata"]["annotations"].clone()).unwrap();
        new.metadata.finalizers = serde_json::from_value(patch["metadata"]["finalizers"].clone()).unwrap();
        new
    };
    // As the watch tells of it, with what it skips.
    let rests = |machine: &VirtualMachine| {
        let mut object = serde_json::to_value(machine).unwrap();
        object["metadata"]["managedFields"] = json!([{"manager": "m", "fieldsV1": {"f:spec": {}}}]);
        let event = json!({"type": "MODIFIED", "object": object}).to_string();
        let WatchEvent::Modified(read) = serde_json::from_str::<WatchEvent<Machine>>(&event).unwrap() else {
            panic!("{event}")
        };
        assert_eq!(read.key(), ("ns", "kb"));
        assert_eq!(read.meta().resource_version, machine.metadata.resource_version);
        assert_eq!(read.meta().uid, machine.metadata.uid);
        read.note == Rest(true)
    };
    let mut resting = prepared("Halted");
    assert!(!rests(&resting), "it has no status yet");
    resting.status = status::at_rest(&resting, now());
    assert!(rests(&resting));

    assert!(!rests(&prepared("Always")), "it is to be started");
    let unprepared = VirtualMachine { metadata: machine("Halted").metadata, ..resting.clone() };
    assert!(!rests(&unprepared), "it has no finalizer");
    let deleted = deleting(resting.clone(), |machine| &mut machine.metadata);
    assert!(!rests(&deleted), "it is to be let go");
    let mut asked = resting;
    asked.status.as_mut().unwrap().state_change_requests = vec![start()];
    assert!(!rests(&asked), "it is asked to start");
}

#[test]
fn a_machine_that_cannot_be_read_is_watched_all_the_same() {
    let odd =
        json!({"metadata": {"name": "odd", "namespace": "ns", "resourceVersion": "7"}, "spec": "whatever"});
    let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [odd]}).to_string();
    let read: ObjectList<Machine> = serde_json::from_str(&list).unwrap();
    let [odd] = &read.items[..] else { panic!("{read:?}") };
    assert_eq!((odd.key(), odd.note), (("ns", "odd"), Rest(false)));
    assert_eq!(odd.meta().resource_version.as_deref(), Some("7"));
}

#[test]
fn the_status_of_a_running_machine_has_everything_and_forgets_what_is_over() {
    let mut machine = machine("Always");
    machine.spec.template.spec.volumes = vec![Volume { name: "data".to_owned(), ..Volume::default() }];
    let running = with_conditions(instance("Running"), vec![condition("Ready", "True", "")]);
    let requests = [stop("older"), start()];
    let running_status = status::next(&machine, &Outcome { requests: &requests, ..outcome(Some(&running)) });
    assert_eq!(
        serde_json::to_value(&running_status).unwrap(),
        json!({
            "created": true,
            "ready": true,
            "printableStatus": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "volumeSnapshotStatuses": [{
                "name": "data", "enabled": false,
                "reason": "Snapshot is not supported for this volumeSource type [data]",
            }],
            "observedGeneration": 3,
            "desiredGeneration": 3,
            "runStrategy": "Always",
        })
    );
    machine.metadata.generation = Some(4);
    machine.status = Some(running_status);
    let behind = status::next(&machine, &outcome(Some(&running)));
    assert_eq!((behind.observed_generation, behind.desired_generation), (Some(3), Some(4)));
    machine.metadata.generation = Some(5);
    machine.spec.run_strategy = Some("Halted".to_owned());
    let stopped = status::next(&machine, &outcome(None));
    assert_eq!((stopped.created, stopped.ready), (None, None));
    assert_eq!((stopped.observed_generation, stopped.desired_generation), (Some(3), Some(3)));
    assert_eq!(stopped.run_strategy.as_deref(), Some("Halted"));
    let waiting = status::next(&machine, &Outcome { is_settled: false, ..outcome(None) });
    assert_eq!(waiting.run_strategy.as_deref(), Some("Always"));
}

#[test]
fn details_on_the_way_to_running_can_wait_and_nothing_else_can() {
    let mut machine = machine("Always");
    let at = |machine: &VirtualMachine, phase: &str, conditions: Vec<Condition>| {
        status::next(machine, &outcome(Some(&with_conditions(instance(phase), conditions))))
    };
    let created = at(&machine, "Pending", vec![]);
    let stored = VirtualMachineStatus {
        printable_status: Some("Stopped".to_owned()),
        ..VirtualMachineStatus::default()
    };
    assert_eq!(status::news(&stored, &created), News::Instance);
    let asked = VirtualMachineStatus { state_change_requests: vec![Default::default()], ..stored.clone() };
    assert_eq!(status::news(&asked, &created), News::Other, "what was asked for is done");
    let running = at(&machine, "Running", vec![]);
    assert_eq!(status::news(&stored, &running), News::Other);
    machine.status = Some(created.clone());
    let ready = |reason| condition("Ready", "False", reason);
    let scheduling = at(&machine, "Scheduling", vec![ready("GuestNotRunning")]);
    assert_ne!(created, scheduling);
    assert_eq!(status::news(&created, &scheduling), News::Details);
    let migratable = at(&machine, "Scheduled", vec![ready("x"), condition("LiveMigratable", "True", "")]);
    assert_eq!(status::news(&created, &migratable), News::Details);
    let major = [
        at(&machine, "Running", vec![]),
        at(&machine, "Scheduling", vec![condition("Ready", "True", "")]),
        at(&machine, "Scheduling", vec![condition("Synchronized", "False", "ErrImagePull")]),
        at(&machine, "Failed", vec![]),
        status::next(&machine, &outcome(None)),
    ];
    for status in major {
        assert_eq!(status::news(&created, &status), News::Other, "{status:?}");
    }
}
