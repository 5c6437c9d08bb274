//! Machines that run, by the commands of `ferrovirt` alone.

use std::process::Command;

use crate::harness::{Fixtures, Session, Terminal};
use crate::room::{Boot, Room, machine};
use crate::server::{Outcome, finish, finish_with_input};

/// A command of the binary, as the administrator.
pub fn command(room: &Room, line: &str) -> Command {
    let mut command = room.world.command(line.split_whitespace());
    command.env("KUBECONFIG", room.world.path("state/apiserver/admin.kubeconfig"));
    command
}

fn run(room: &Room, line: &str) -> Outcome {
    finish(command(room, line))
}

/// What a command prints; it must succeed.
#[track_caller]
fn ok(room: &Room, line: &str) -> String {
    run(room, line).succeeded().stdout
}

/// What the kernel of the boot that runs was told, once it says so.
fn told_kernel(room: &Room) -> String {
    ok(room, "wait vmi/vm --for=console=is.ready --timeout 5m");
    let log = ok(room, "logs vm --local");
    let line = log.lines().find(|line| line.contains("Command line: "));
    line.unwrap_or_else(|| panic!("no command line in {log}")).to_owned()
}

/// By the flag, and by the annotation of kubectl's users; neither is there in the boot after.
fn one_start_has_words_for_its_kernel(room: &Room) {
    for words in ["probe.flag=1", "probe.note=1"] {
        ok(room, "stop vm --force --wait --timeout 5m");
        let flag = match words {
            "probe.flag=1" => format!(" --append {words}"),
            _ => {
                room.kubectl(&["annotate", "vm", "vm", &format!("ferrovirt.dev/append={words}")]);
                String::new()
            }
        };
        ok(room, &format!("start vm --wait --timeout 5m{flag}"));
        let told = told_kernel(room);
        assert!(told.contains(words) && told.matches("probe.").count() == 1, "{told}");
        let machine = room.get("vm/vm");
        assert_eq!(machine["metadata"]["annotations"].get("ferrovirt.dev/append"), None, "{machine}");
        ok(room, "restart vm --force --wait --timeout 5m");
        let told = told_kernel(room);
        assert!(!told.contains("probe."), "{told}");
    }
}

/// On a terminal every key is the guest's but the one that leaves.
fn a_console_on_a_terminal(room: &Room) {
    let mut terminal = Terminal::open();
    let mut console = command(room, "console vm");
    console.stdin(terminal.stdin());
    let session = Session::spawn(console);
    session.wait_for_stderr("Successfully connected to vm console. Press Ctrl+] or Ctrl+5 to exit console.");
    terminal.press(b"from the keyboard\r");
    session.wait_for_stdout("guest: heard from the keyboard", 1);
    assert!(terminal.is_raw(), "the console takes every key");
    terminal.press(b"\x1d");
    session.finish().expect_code(0);
    assert!(!terminal.is_raw(), "the terminal is as it was");
}

#[test]
fn a_machine_lives_by_the_commands_of_the_binary() {
    let room = Room::new();
    let image = room.reference("guests/commands:1");
    room.push(&image, "vmlinuz");
    let manifest = machine("vm", "Manual", &Boot { image: &image, policy: "Always", guest: "echo" });
    let applied = finish_with_input(command(&room, "apply -f -"), &manifest.to_string()).succeeded();
    assert_eq!(applied.stdout, "virtualmachine.kubevirt.io/vm created\n");
    assert_eq!(
        ok(&room, "wait vm/vm --for=jsonpath={.status.printableStatus}=Stopped"),
        "virtualmachine.kubevirt.io/vm condition met\n"
    );

    assert_eq!(ok(&room, "start vm --wait --timeout 5m"), "VM vm was scheduled to start\n");
    ok(&room, "wait vm vm --for=condition=Ready --timeout 5m");
    ok(&room, "wait vmi/vm --for=console=^guest:.*is.ready$ --timeout 5m");
    let table = ok(&room, "get vmi,pods");
    assert!(
        table.contains("virtualmachineinstance.kubevirt.io/vm") && table.contains("pod/virt-launcher-vm-"),
        "{table}"
    );

    a_console_on_a_terminal(&room);
    // What is typed before the end of the input is heard, and the session ends with the guest.
    let typing = finish_with_input(command(&room, "console vm --replay"), "one\nend\n").succeeded();
    for said in ["Linux version", "guest: heard one", "guest: powering off"] {
        assert!(typing.stdout.contains(said), "{said}: {}", typing.stdout);
    }
    assert!(typing.stderr.contains("has ended with its guest"), "{}", typing.stderr);
    ok(&room, "wait vm/vm --for=jsonpath={.status.printableStatus}=Stopped --timeout 5m");
    let refused = run(&room, "console vm --timeout 0").failed();
    assert!(refused.stderr.contains("cannot open the console"), "{}", refused.stderr);

    ok(&room, "start vm --wait --timeout 5m");
    let refused = run(&room, "start vm").failed();
    assert!(refused.stderr.contains("hint: boot it anew: ferrovirt restart vm"), "{}", refused.stderr);
    assert_eq!(ok(&room, "pause vm"), "VMI vm was scheduled to pause\n");
    ok(&room, "wait vmi/vm --for=condition=Paused --timeout 5m");
    let refused = run(&room, "pause vm").failed();
    assert!(refused.stderr.contains("VMI is already paused"), "{}", refused.stderr);
    assert_eq!(ok(&room, "unpause vmi/vm"), "VMI vm was scheduled to unpause\n");
    assert_eq!(ok(&room, "reset vm"), "VMI vm was scheduled to reset\n");

    one_start_has_words_for_its_kernel(&room);
    room.push(&image, "vmlinuz-other");
    let restarted = ok(&room, "restart vm --force --wait --timeout 5m");
    let (old, new) = (Fixtures::version("vmlinuz"), Fixtures::version("vmlinuz-other"));
    assert_eq!(restarted, format!("VM vm was scheduled to restart\nkernel {old} → {new}\n"));
    ok(&room, "wait vmi/vm --for=console=is.ready --timeout 5m");
    let again = ok(&room, "restart vm --force --wait --timeout 5m");
    assert!(again.ends_with(&format!("kernel {new} (as before)\n")), "{again}");

    // Of this machine's own server the files are read; another's is asked.
    ok(&room, "wait vmi/vm --for=console=is.ready --timeout 5m");
    for place in ["", " --local", " --state-dir elsewhere"] {
        let logs = ok(&room, &format!("logs vm{place}"));
        assert!(
            logs.contains(&format!("Linux version {new}")) && logs.contains("guest: kernel"),
            "{place}: {logs}"
        );
        assert_eq!(ok(&room, &format!("logs vm --tail 1{place}")).lines().count(), 1);
        let before = ok(&room, &format!("logs vm --previous{place}"));
        assert!(before.contains("Linux version"), "{place}: {before}");
    }
    let refused = run(&room, "logs vm --boot -2 --state-dir elsewhere").failed();
    assert!(refused.stderr.contains("hint: on the machine where it runs"), "{}", refused.stderr);

    room.wait("vmi/vm", "tells of its user space", |vmi| {
        let timeline = vmi["metadata"]["annotations"]["ferrovirt.dev/boot-timeline"].as_str();
        timeline.unwrap_or_default().contains("userspaceStarted")
    });
    let described = ok(&room, "describe vm/vm");
    println!("{described}");
    let (about, chart) = described.split_once("\nBoot timeline: ").unwrap();
    assert!(about.contains(&format!("\nKernel:        {new} (as in the last boot)\n")), "{about}");
    assert!(about.contains("\nStatus:        Running\n") && about.contains("Started"), "{about}");
    let names: Vec<_> = chart.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["pull", "prepare", "VMM", "kernel"], "{chart}");

    let events = ok(&room, "events --for vmi/vm");
    assert!(events.contains("virtualmachineinstance/vm") && events.contains("Started"), "{events}");
    assert_eq!(ok(&room, "stop vm --force --wait --timeout 5m"), "VM vm was scheduled to stop\n");
    assert_eq!(ok(&room, "delete vm vm"), "virtualmachine.kubevirt.io \"vm\" deleted\n");
    assert_eq!(ok(&room, "get vm,vmi,pods"), "");
    room.wait_until_empty();
}
