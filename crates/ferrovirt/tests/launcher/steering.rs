//! What a launcher can be told while its machine runs.

use launcher::control::ControlError;
use launcher::serial_port::Attach;
use manifest::machine_status::{MachineState, StateReason};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

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
fn a_guest_is_told_to_restart_by_its_power_button() {
    let pod = Pod::new();
    let mut launcher = pod.start(30);
    launcher.boot(&instance("guest=obey", json!({})));
    let heard = || pod.log("guest-console-log").matches("guest: listening to the power button").count();
    for restarts in 1..=2_u32 {
        wait_for("a boot", || (heard() == restarts as usize).then_some(()));
        launcher.ask(async |client, at| client.soft_reboot(at).await).unwrap();
        let status = launcher.wait_for_status(|status| status.reboots == restarts);
        assert_eq!((status.state, status.reason), (MachineState::Running, StateReason::None));
    }
    wait_for("the third boot", || (heard() == 3).then_some(()));
    // What was asked for is done: the next power-off is an end.
    launcher.ask(async |client, at| client.shutdown(at, 30).await).unwrap();
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Shutdown);
}

#[test]
fn a_restart_that_was_asked_for_gives_way_to_a_shutdown() {
    let pod = Pod::new();
    let mut launcher = pod.start(30);
    launcher.boot(&instance("guest=shell", json!({})));
    wait_for("the shell", || pod.log("guest-console-log").contains("guest: shell is ready").then_some(()));
    // It does not listen to its button.
    launcher.ask(async |client, at| client.soft_reboot(at).await).unwrap();
    launcher.ask(async |client, at| client.shutdown(at, 60).await).unwrap();
    let refused = launcher.ask(async |client, at| client.soft_reboot(at).await);
    let reason = "the machine is being shut down".to_owned();
    assert_eq!(refused, Err(ControlError::Refused { code: 409, reason }));
    let _console = launcher.ask(async |client, at| {
        let mut console = client.console(at, Attach::default()).await.unwrap();
        console.write_all(b"poweroff\n").await.unwrap();
        console.flush().await.unwrap();
        console
    });
    let last = launcher.expect_end(0, MachineState::ShutOff, StateReason::Shutdown);
    assert_eq!(last.reboots, 0);
}

#[test]
fn a_restart_ends_a_machine_that_does_not_reboot_and_needs_a_power_button() {
    let pod = Pod::new();
    let mut launcher = pod.start(30);
    let mut terminated = instance("guest=obey", json!({}));
    terminated.spec.domain.reboot_policy = Some("Terminate".to_owned());
    launcher.boot(&terminated);
    let listens = "guest: listening to the power button";
    wait_for("the button", || pod.log("guest-console-log").contains(listens).then_some(()));
    launcher.ask(async |client, at| client.soft_reboot(at).await).unwrap();
    launcher.expect_end(0, MachineState::ShutOff, StateReason::Shutdown);

    let pod = Pod::new();
    let launcher = pod.start(30);
    let mut buttonless = instance("guest=hang", json!({}));
    buttonless.spec.domain.features = serde_json::from_value(json!({"acpi": {"enabled": false}})).unwrap();
    launcher.boot(&buttonless);
    let refused = launcher.ask(async |client, at| client.soft_reboot(at).await);
    let reason = "the machine has no power button: `features.acpi.enabled` is false".to_owned();
    assert_eq!(refused, Err(ControlError::Refused { code: 409, reason }));
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
