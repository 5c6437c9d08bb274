//! Every answer to starting, stopping and restarting.

use std::fmt::Write as _;

use super::super::requests::{
    Change, Refusal, RestartOptions, StartOptions, StopOptions, restart, start as start_machine,
    stop as stop_machine,
};
use super::*;

fn show(answer: Result<Vec<Change>, Refusal>) -> String {
    match answer {
        Err(refusal) => format!("{} {}: {refusal}", refusal.code, refusal.reason),
        Ok(changes) if changes.is_empty() => "nothing changes".to_owned(),
        Ok(changes) => {
            let shown = changes.iter().map(|change| {
                format!("{:?} {}", change.target, serde_json::to_string(&change.patch).unwrap())
            });
            shown.collect::<Vec<_>>().join("\n      ")
        }
    }
}

/// The states that an instance can be in as far as requests look at them.
fn states() -> Vec<(&'static str, Option<VirtualMachineInstance>)> {
    let mut states = vec![("none", None)];
    for phase in ["", "Pending", "Running", "Succeeded", "Failed", "Unknown"] {
        states.push((phase, Some(instance(phase))));
    }
    states
}

#[test]
fn every_answer_to_a_start() {
    let mut table = String::new();
    for paused in [false, true] {
        for strategy in STRATEGIES {
            for (state, instance) in states() {
                let options = StartOptions { paused, ..StartOptions::default() };
                let answer = show(start_machine(&machine(strategy), instance.as_ref(), &options));
                let how = if paused { " paused" } else { "" };
                writeln!(table, "{strategy}, instance {state:?}, start{how}\n      {answer}").unwrap();
            }
        }
    }
    insta::assert_snapshot!("start", table);
}

#[test]
fn every_answer_to_a_stop() {
    let mut table = String::new();
    for grace_period in [None, Some(0), Some(29), Some(30), Some(-1)] {
        for strategy in STRATEGIES {
            for (state, instance) in states() {
                let options = StopOptions { grace_period, dry_run: None };
                let answer = show(stop_machine(&machine(strategy), instance.as_ref(), &options));
                writeln!(table, "{strategy}, instance {state:?}, stop {grace_period:?}\n      {answer}")
                    .unwrap();
            }
        }
    }
    insta::assert_snapshot!("stop", table);
}

#[test]
fn every_answer_to_a_restart() {
    let mut table = String::new();
    for grace_period_seconds in [None, Some(0), Some(1), Some(-1)] {
        for strategy in STRATEGIES {
            for (state, instance) in states() {
                let options = RestartOptions { grace_period_seconds, dry_run: None };
                let answer = show(restart(&machine(strategy), instance.as_ref(), &options));
                writeln!(
                    table,
                    "{strategy}, instance {state:?}, restart {grace_period_seconds:?}\n      {answer}"
                )
                .unwrap();
            }
        }
    }
    insta::assert_snapshot!("restart", table);
}

/// The words that a machine's annotation, or who starts it, gives its kernel for one start.
#[test]
fn a_start_takes_over_the_words_for_its_kernel() {
    let annotated = |strategy: &str, words: &str| {
        let mut machine = machine(strategy);
        let annotations = machine.metadata.annotations.get_or_insert_default();
        annotations.insert(keys::APPEND.to_owned(), words.to_owned());
        machine
    };
    let request = |data: &str| {
        format!(
            "MachineStatus [{{\"op\":\"test\",\"path\":\"/status/stateChangeRequests\",\"value\":null}},{{\"op\":\"add\",\
             \"path\":\"/status/stateChangeRequests\",\"value\":[{{\"action\":\"Start\",\"data\":{data}}}]}}]"
        )
    };
    let options = |append: &str| StartOptions { append: Some(append.to_owned()), ..StartOptions::default() };
    for strategy in ["Halted", "Manual"] {
        let plain = StartOptions::default();
        let shown = show(start_machine(&annotated(strategy, " single "), None, &plain));
        assert_eq!(shown, request("{\"append\":\"single\"}"));
        let paused = StartOptions { paused: true, ..options("debug") };
        let shown = show(start_machine(&annotated(strategy, "single"), None, &paused));
        assert_eq!(shown, request("{\"append\":\"debug\",\"paused\":\"true\"}"));
        // Nothing to append is a start like any other.
        let expected = show(start_machine(&machine(strategy), None, &plain));
        assert_eq!(show(start_machine(&annotated(strategy, " "), None, &plain)), expected);
        for (words, why) in [
            ("a\nb", "kernel arguments cannot have control characters"),
            (&*"x".repeat(2048), "kernel arguments have 2048 bytes together, 2047 are possible"),
        ] {
            assert_eq!(
                show(start_machine(&annotated(strategy, words), None, &plain)),
                format!("400 BadRequest: {why}")
            );
            let shown = show(start_machine(&machine(strategy), None, &options(words)));
            assert_eq!(shown, format!("400 BadRequest: {why}"));
        }
    }
    let shown = show(start_machine(&annotated("Always", "single"), None, &StartOptions::default()));
    assert!(
        shown.starts_with("409") && shown.ends_with("Always does not support manual start requests"),
        "{shown}"
    );
}

const UNDERWAY: &str =
    "500 InternalError: Internal error occurred: unable to complete request: stop/start already underway";
const RECOVERY: &str = "409 Conflict: Operation cannot be fulfilled on virtualmachine.kubevirt.io \"kb\": VM \
                        recovery required: Volume migration failed, leaving some volumes pointing to non-consistent \
                        targets; manual intervention is needed to reassign them to their original volumes.";

#[test]
fn what_is_under_way_is_not_started_or_restarted_again_but_can_be_stopped() {
    let mut machine = machine("Manual");
    machine.status.get_or_insert_default().state_change_requests = vec![start()];
    let running = instance("Running");
    assert_eq!(show(start_machine(&machine, None, &StartOptions::default())), UNDERWAY);
    assert_eq!(show(restart(&machine, Some(&running), &RestartOptions::default())), UNDERWAY);
    assert_eq!(
        show(stop_machine(&machine, Some(&running), &StopOptions::default())),
        "MachineStatus [{\"op\":\"test\",\"path\":\"/status/stateChangeRequests\",\"value\":[{\"action\":\"Start\"}]},\
         {\"op\":\"add\",\"path\":\"/status/stateChangeRequests\",\"value\":[{\"action\":\"Stop\",\"uid\":\
         \"instance-uid\"}]}]"
    );
}

#[test]
fn a_request_gives_a_machine_that_failed_to_start_another_try() {
    let mut machine = machine("Manual");
    machine.status.get_or_insert_default().start_failure = Some(VirtualMachineStartFailure {
        consecutive_fail_count: Some(2),
        last_failed_vmi_uid: Some("u".to_owned()),
        retry_after_timestamp: None,
    });
    let shown = show(start_machine(&machine, None, &StartOptions::default()));
    let expected = "{\"op\":\"test\",\"path\":\"/status/startFailure\",\"value\":{\"consecutiveFailCount\":2,\
                    \"lastFailedVMIUID\":\"u\"}},{\"op\":\"remove\",\"path\":\"/status/startFailure\"}]";
    assert!(shown.ends_with(expected), "{shown}");
}

#[test]
fn failed_migrations_of_volumes_come_first() {
    let running = instance("Running");
    let mut recover = machine("Manual");
    recover.status.get_or_insert_default().conditions = vec![condition("ManualRecoveryRequired", "True", "")];
    assert_eq!(show(start_machine(&recover, None, &StartOptions::default())), RECOVERY);
    let running_first = show(start_machine(&recover, Some(&running), &StartOptions::default()));
    assert!(running_first.ends_with("VM is already running"), "{running_first}");
    let mut moving = machine("Halted");
    moving.status.get_or_insert_default().conditions = vec![condition("VolumesChange", "True", "")];
    assert_eq!(show(restart(&moving, Some(&running), &RestartOptions::default())), RECOVERY);
    moving.status.get_or_insert_default().conditions = vec![condition("VolumesChange", "False", "")];
    let other = show(restart(&moving, Some(&running), &RestartOptions::default()));
    assert!(other.ends_with("RunStategy Halted does not support manual restart requests"), "{other}");
}

#[test]
fn the_older_form_of_the_strategy_is_kept() {
    let mut machine = machine("x");
    machine.spec.run_strategy = None;
    machine.spec.running = Some(false);
    assert_eq!(
        show(start_machine(&machine, None, &StartOptions::default())),
        "Machine [{\"op\":\"test\",\"path\":\"/spec/running\",\"value\":false},\
         {\"op\":\"add\",\"path\":\"/spec/running\",\"value\":true}]"
    );
    machine.spec.running = Some(true);
    assert_eq!(
        show(stop_machine(&machine, None, &StopOptions::default())),
        "Machine [{\"op\":\"test\",\"path\":\"/spec/running\",\"value\":true},\
         {\"op\":\"add\",\"path\":\"/spec/running\",\"value\":false}]"
    );
}

#[test]
fn a_machine_without_a_status_is_given_one() {
    let mut machine = machine("Manual");
    machine.status = None;
    assert_eq!(
        show(start_machine(&machine, None, &StartOptions::default())),
        "MachineStatus [{\"op\":\"test\",\"path\":\"/status\",\"value\":null},\
         {\"op\":\"add\",\"path\":\"/status\",\"value\":{\"stateChangeRequests\":[{\"action\":\"Start\"}]}}]"
    );
}

#[test]
fn refusals_name_what_they_are_about() {
    let missing = Refusal::not_found("kb");
    assert_eq!((missing.code, missing.reason), (404, "NotFound"));
    assert_eq!(missing.message, "virtualmachine.kubevirt.io \"kb\" not found");
    let subject = missing.subject.unwrap();
    assert_eq!((subject.group, subject.kind, subject.name.as_str()), ("kubevirt.io", "virtualmachine", "kb"));
    let lost = Refusal::lost_race("kb", "the server rejected our request");
    assert_eq!(
        lost.message,
        "Operation cannot be fulfilled on virtualmachine.kubevirt.io \"kb\": the server rejected our request"
    );
}

#[test]
fn options_are_read_as_clients_send_them() {
    let start: StartOptions =
        serde_json::from_str(r#"{"paused": true, "dryRun": ["All"], "kind": "x"}"#).unwrap();
    assert_eq!(start, StartOptions { paused: true, append: None, dry_run: Some(vec!["All".to_owned()]) });
    let stop: StopOptions = serde_json::from_str(r#"{"gracePeriod": 5}"#).unwrap();
    assert_eq!(stop, StopOptions { grace_period: Some(5), dry_run: None });
    let restart: RestartOptions =
        serde_json::from_str(r#"{"gracePeriodSeconds": 0, "dryRun": null}"#).unwrap();
    assert_eq!(restart, RestartOptions { grace_period_seconds: Some(0), dry_run: None });
}
