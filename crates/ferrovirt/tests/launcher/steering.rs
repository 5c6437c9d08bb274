//! What a launcher can be told while its machine runs.

use launcher::control::ControlError;
use manifest::machine_status::{MachineState, StateReason};
use serde_json::json;

use crate::pod::{Pod, instance, wait_for};

#[test]
fn a_machine_that_starts_paused_runs_when_it_is_told_to() {
    let pod = Pod::new();
    let mut launcher = pod.start(30);
    let refused = launcher.ask(async |client, at| client.unpause(at).await);
    assert_eq!(refused, Err(ControlError::Refused { code: 409, reason: "there is no machine".to_owned() }));
    let mut paused = instance("guest=none", json!({}));
    paused.spec.start_strategy = Some("Paused".to_owned());
    let status = launcher.boot(&paused);
    assert_eq!((status.state, status.reason), (MachineState::Paused, StateReason::User));
    assert_eq!(launcher.put(&paused).revision, status.revision, "asked again, it only answers");
    launcher.ask(async |client, at| client.unpause(at).await).unwrap();
    launcher.wait_for_status(|status| status.state == MachineState::Running);
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Shutdown);
}

#[test]
fn a_machine_is_paused_and_goes_on() {
    let pod = Pod::new();
    let launcher = pod.start(30);
    launcher.boot(&instance("guest=hang", json!({})));
    launcher.ask(async |client, at| client.pause(at).await).unwrap();
    let status = launcher.wait_for_status(|status| status.state == MachineState::Paused);
    assert_eq!(status.reason, StateReason::User);
    launcher.ask(async |client, at| client.unpause(at).await).unwrap();
    let status = launcher.wait_for_status(|status| status.state == MachineState::Running);
    assert_eq!(status.reason, StateReason::None);
}

#[test]
fn resets_are_counted_and_no_end() {
    let pod = Pod::new();
    let launcher = pod.start(30);
    launcher.boot(&instance("guest=hang", json!({})));
    let boots = || pod.log("guest-console-log").matches("guest: files in the initrd").count();
    wait_for("the first boot", || (boots() == 1).then_some(()));
    launcher.ask(async |client, at| client.reset(at).await).unwrap();
    wait_for("the second boot", || (boots() == 2).then_some(()));
    // The firmware's own resets came before it.
    let status = launcher.ask(async |client, at| client.status(at, 0).await).unwrap();
    assert_eq!((status.state, status.reboots), (MachineState::Running, 1));
}

#[test]
fn the_instance_of_another_launcher_is_refused() {
    let pod = Pod::new();
    let launcher = pod.start(30);
    let mut other = instance("guest=none", json!({}));
    other.metadata.uid = Some("other".to_owned());
    let refused = launcher.ask(async |client, at| client.put_machine(at, &other).await);
    assert!(matches!(refused, Err(ControlError::Refused { code: 403, .. })), "{refused:?}");
}
