//! The tables of decisions and of the printable status, whole.

use std::fmt::Write as _;
use std::time::Duration;

use super::super::decision::{Action, Situation, Stage, act, decide};
use super::super::pending::{Asked, trim};
use super::super::printable::{Facts, Storage, status};
use super::super::strategy::Strategy;
use super::*;

#[test]
fn what_is_done_in_every_situation() {
    let mut table = String::new();
    let asked = [
        ("nothing", Asked::Nothing),
        ("start", Asked::Start { paused: false }),
        ("start paused", Asked::Start { paused: true }),
        ("stop", Asked::Stop),
    ];
    let wait = Duration::from_secs(10);
    for strategy in STRATEGIES {
        writeln!(table, "{strategy}").unwrap();
        for (text, asked) in asked {
            for (again, last_strategy) in [("", Some(strategy)), (", new to the strategy", None)] {
                for (backing_off, wait) in [("", None), (", backing off", Some(wait))] {
                    let cells = [Stage::Absent, Stage::Live, Stage::Succeeded, Stage::Failed].map(|stage| {
                        let situation = Situation {
                            strategy: Strategy::from(strategy),
                            stage,
                            is_receiver: false,
                            asked,
                            last_strategy,
                            wait,
                            arrived: None,
                        };
                        format!("{stage:?}: {}", act(&situation))
                    });
                    writeln!(table, "  asked {text}{again}{backing_off}").unwrap();
                    writeln!(table, "    {}", cells.join(" | ")).unwrap();
                }
            }
        }
    }
    insta::assert_snapshot!("decisions", table);
}

#[test]
fn who_waits_for_a_machine_gets_it() {
    let waiting = Situation {
        strategy: Strategy::WaitAsReceiver,
        stage: Stage::Live,
        is_receiver: true,
        asked: Asked::Nothing,
        last_strategy: None,
        wait: None,
        arrived: None,
    };
    assert_eq!(act(&waiting), Action::Nothing);
    let arrived = Situation { arrived: Some("Always"), ..waiting };
    assert_eq!(act(&arrived), Action::Restore("Always".to_owned()));
}

#[test]
fn both_forms_of_the_strategy_are_read() {
    let of = |running, word: Option<&str>| {
        let mut spec = machine("x").spec;
        spec.running = running;
        spec.run_strategy = word.map(str::to_owned);
        Strategy::of(&spec)
    };
    assert_eq!(of(Some(true), None), Strategy::Always);
    assert_eq!(of(Some(false), None), Strategy::Halted);
    assert_eq!(of(None, None), Strategy::Halted);
    for word in STRATEGIES {
        assert_eq!(of(None, Some(word)).as_str(), word);
        assert_eq!(of(None, Some(word)) == Strategy::Unknown(word.to_owned()), word == "Sometimes");
    }
}

#[test]
fn requests_that_are_carried_out_or_pointless_are_dropped() {
    let live = instance("Running");
    let ended = instance("Succeeded");
    let leaving = deleting(instance("Running"), |instance| &mut instance.metadata);
    let no_uid = VirtualMachineStateChangeRequest { uid: None, ..stop("") };
    let cases: Vec<(&str, Vec<_>, Option<&VirtualMachineInstance>, usize)> = vec![
        ("a stop without an instance", vec![stop("instance-uid")], None, 0),
        ("a stop of another instance", vec![stop("other")], Some(&live), 0),
        ("a stop of no instance", vec![no_uid], Some(&live), 0),
        ("a stop with an empty UID", vec![stop("")], Some(&live), 0),
        ("a stop of this instance", vec![stop("instance-uid")], Some(&live), 1),
        ("a stop of this one, which leaves", vec![stop("instance-uid")], Some(&leaving), 1),
        ("a start without an instance", vec![start()], None, 1),
        ("a start of a live one", vec![start()], Some(&live), 0),
        ("a start of one that leaves", vec![start()], Some(&leaving), 1),
        ("a start of one that has ended", vec![start()], Some(&ended), 1),
        ("a restart under way", vec![stop("instance-uid"), start()], Some(&leaving), 2),
        ("a restart whose stop is done", vec![stop("instance-uid"), start()], None, 1),
        ("a restart that is done", vec![stop("other"), start()], Some(&live), 0),
        ("what is not understood", vec![VirtualMachineStateChangeRequest::default()], Some(&live), 1),
    ];
    for (case, requests, instance, left) in cases {
        let wanted = &requests[requests.len() - left..];
        assert_eq!(trim(&requests, instance), wanted, "{case}");
    }
}

#[test]
fn a_failed_instance_is_followed_by_another_unless_somebody_stopped_it() {
    let decided = |requests: Vec<VirtualMachineStateChangeRequest>, instance: &VirtualMachineInstance| {
        let mut machine = machine("RerunOnFailure");
        machine.status.get_or_insert_default().state_change_requests = requests;
        let decision = decide(&machine, Some(instance), now(), 0);
        (decision.action, decision.requests)
    };
    let failed = instance("Failed");
    let leaving = deleting(instance("Failed"), |instance| &mut instance.metadata);
    let stopped = stop("instance-uid");
    assert_eq!(decided(vec![], &failed), (Action::DeleteAndStart, vec![start()]));
    assert_eq!(decided(vec![stopped.clone()], &failed), (Action::Delete, vec![stopped.clone()]));
    let restart = vec![stopped, start()];
    assert_eq!(decided(restart.clone(), &failed), (Action::Delete, restart));
    // Deleted by hand, and killed because it did not end in time.
    assert_eq!(decided(vec![], &leaving), (Action::DeleteAndStart, vec![]));
    assert_eq!(decided(vec![start()], &leaving), (Action::DeleteAndStart, vec![start()]));
}

#[test]
fn who_halts_a_machine_that_is_restarted_has_it_stay_halted() {
    let decided = |requests: Vec<VirtualMachineStateChangeRequest>,
                   instance: Option<&VirtualMachineInstance>| {
        let mut machine = machine("Halted");
        machine.status.get_or_insert_default().state_change_requests = requests;
        let decision = decide(&machine, instance, now(), 0);
        (decision.action, decision.requests)
    };
    let restart = vec![stop("instance-uid"), start()];
    let running = instance("Running");
    assert_eq!(decided(restart.clone(), Some(&running)), (Action::Delete, vec![stop("instance-uid")]));
    assert_eq!(decided(restart, None), (Action::Nothing, vec![]));
    assert_eq!(decided(vec![start_paused()], None), (Action::SwitchOn, vec![start_paused()]));
}

#[test]
fn a_machine_that_is_deleted_takes_its_instance_along_unless_told_not_to() {
    for strategy in STRATEGIES {
        let mut machine = deleting(machine(strategy), |machine| &mut machine.metadata);
        let live = instance("Running");
        assert_eq!(decide(&machine, Some(&live), now(), 0).action, Action::Delete, "{strategy}");
        assert_eq!(decide(&machine, None, now(), 0).action, Action::Nothing, "{strategy}");
        machine.metadata.finalizers = Some(vec!["orphan".to_owned()]);
        assert_eq!(decide(&machine, Some(&live), now(), 0).action, Action::Nothing, "{strategy}");
    }
}

/// Each row of the printable status, once by itself and once with every row below it applying, too.
#[test]
fn the_word_for_every_state() {
    let always = Strategy::Always;
    let receiver = Strategy::WaitAsReceiver;
    let failure = VirtualMachineStartFailure {
        consecutive_fail_count: Some(2),
        ..VirtualMachineStartFailure::default()
    };
    let unsynchronized = |phase: &str, reason: &str| {
        with_conditions(instance(phase), vec![condition("Synchronized", "False", reason)])
    };
    let mut migrating = instance("Running");
    migrating.status.get_or_insert_default().migration_state = Some(VirtualMachineInstanceMigrationState {
        start_timestamp: Some(Time(now())),
        ..VirtualMachineInstanceMigrationState::default()
    });
    let mut migrated = migrating.clone();
    migrated.status.as_mut().unwrap().migration_state.as_mut().unwrap().end_timestamp = Some(Time(now()));
    let paused = with_conditions(instance("Running"), vec![condition("Paused", "True", "PausedByUser")]);
    let unschedulable =
        with_conditions(instance("Scheduling"), vec![condition("PodScheduled", "False", "Unschedulable")]);
    let both = with_conditions(
        instance("Scheduling"),
        vec![
            condition("Synchronized", "False", "FailedPvcNotFound"),
            condition("PodScheduled", "False", "Unschedulable"),
        ],
    );
    let leaving = deleting(paused.clone(), |instance| &mut instance.metadata);
    let ended = deleting(instance("Failed"), |instance| &mut instance.metadata);
    let base = Facts {
        is_deleting: false,
        strategy: &always,
        instance: None,
        is_stopping: false,
        is_set_to_start: true,
        storage: Storage::Settled,
        start_failure: None,
    };
    let with = |instance| Facts { instance: Some(instance), ..base.clone() };
    let phases = ["", "Pending", "Scheduling", "Scheduled", "Running", "Succeeded", "Failed", "Unknown"]
        .map(|phase| (phase, instance(phase)));
    let missing = unsynchronized("Pending", "FailedPvcNotFound");
    let pull = unsynchronized("Scheduling", "ErrImagePull");
    let backoff = unsynchronized("Scheduling", "ImagePullBackOff");
    let other = unsynchronized("Scheduled", "Synchronizing with the Domain failed.");
    let waiting = instance("WaitingForSync");
    let mut cases = vec![
        ("deleted, running", Facts { is_deleting: true, ..with(&phases[4].1) }),
        ("deleted, stopped", Facts { is_deleting: true, ..base.clone() }),
        ("instance is being deleted", with(&leaving)),
        ("instance has just been told to end", Facts { is_stopping: true, ..with(&phases[2].1) }),
        ("instance is being deleted and has ended", with(&ended)),
        ("migration", with(&migrating)),
        ("migration has ended", with(&migrated)),
        ("paused", with(&paused)),
        ("claim is missing", with(&missing)),
        ("claim is missing, unschedulable too", with(&both)),
        ("volume failed", Facts { storage: Storage::Failed, ..with(&unschedulable) }),
        ("unschedulable", Facts { storage: Storage::Filling, ..with(&unschedulable) }),
        ("volume is being filled", Facts { storage: Storage::Filling, ..with(&pull) }),
        ("volume is not bound", Facts { storage: Storage::Unbound, ..base.clone() }),
        (
            "volume is not bound, not to be started",
            Facts { storage: Storage::Unbound, is_set_to_start: false, ..base.clone() },
        ),
        ("pull failed", with(&pull)),
        ("pull backs off", with(&backoff)),
        ("machine cannot be started", with(&other)),
        ("never started, backing off", Facts { start_failure: Some(&failure), ..base.clone() }),
        ("failed, backing off", Facts { start_failure: Some(&failure), ..with(&phases[6].1) }),
        ("starting again after failures", Facts { start_failure: Some(&failure), ..with(&phases[2].1) }),
        (
            "failures do not count",
            Facts { start_failure: Some(&failure), strategy: &receiver, ..base.clone() },
        ),
        ("waits for a machine", Facts { strategy: &receiver, ..with(&waiting) }),
        ("waits though nobody asked", with(&waiting)),
        ("no instance", base.clone()),
    ];
    let names: Vec<_> = phases.iter().map(|(phase, _)| format!("phase {phase:?}")).collect();
    cases.extend(names.iter().zip(&phases).map(|(name, (_, instance))| (name.as_str(), with(instance))));
    let mut table = String::new();
    for (case, facts) in &cases {
        writeln!(table, "{case:<42} {}", status(facts)).unwrap();
    }
    insta::assert_snapshot!("printable", table);
}
