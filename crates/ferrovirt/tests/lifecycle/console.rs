//! The serial console over a WebSocket, as virtctl speaks it, and what stops and resets a running guest.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::client;
use crate::command_line::command;
use crate::room::{Boot, Room, instance};
use crate::server::{DEADLINE, finish, wait_until};
use crate::streams::{self, Socket};

/// Opens a stream of the instance `name`; otherwise the code and the body of the answer.
pub async fn open(room: &Room, name: &str, subresource: &str) -> Result<Socket, (u16, Value)> {
    streams::open(room, &format!("virtualmachineinstances/{name}/{subresource}")).await
}

/// A client's end of a console.
pub struct Terminal {
    socket: Socket,
    seen: String,
}

/// How a console ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Closed(CloseCode),
    /// Without a farewell: code 1006 to clients.
    Cut,
}

impl Terminal {
    /// Opens the console of `name`; otherwise the code and the body of the answer.
    pub async fn open(room: &Room, name: &str, query: &str) -> Result<Self, (u16, Value)> {
        let socket = open(room, name, &format!("console{query}")).await?;
        Ok(Self { socket, seen: String::new() })
    }

    pub async fn type_line(&mut self, line: &str) {
        self.socket.send(Message::Binary(format!("{line}\n").into_bytes().into())).await.unwrap();
    }

    /// Reads until `text` has come.
    pub async fn expect(&mut self, text: &str) {
        self.read_to(text).await;
    }

    /// The same; what came before it.
    pub async fn read_to(&mut self, text: &str) -> String {
        let reading = async {
            while !self.seen.contains(text) {
                match self.socket.next().await.unwrap().unwrap() {
                    Message::Binary(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                    Message::Ping(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        let outcome = timeout(DEADLINE, reading).await;
        assert!(outcome.is_ok(), "waited in vain for {text:?}: {}", self.seen);
        let rest = self.seen.split_off(self.seen.find(text).unwrap() + text.len());
        let before = std::mem::replace(&mut self.seen, rest);
        before.strip_suffix(text).unwrap().to_owned()
    }

    /// Reads to the end.
    async fn end(mut self) -> End {
        let reading = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(Some(frame)))) => return End::Closed(frame.code),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return End::Cut,
                }
            }
        };
        timeout(DEADLINE, reading).await.expect("the console ends")
    }
}

/// What is typed faster than a guest reads waits, however much it is.
#[test]
fn a_mebibyte_is_pasted_without_loss() {
    let room = Room::new();
    let image = room.reference("guests/paste:1");
    room.push_initrd(&image, "initrd-network");
    room.apply(&instance("paste", &Boot { image: &image, policy: "", guest: "network" }));
    room.wait_for_phase("vmi/paste", "Running");
    // Every byte that there is, each in the place of another.
    let pasted: Vec<u8> =
        (0..1u32 << 18).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let digest = image::Digest::sha256_of(&pasted);
    client::runtime().block_on(async {
        let mut terminal = Terminal::open(&room, "paste", "?replay=true").await.unwrap();
        terminal.expect("guest: shell is ready").await;
        let count = pasted.len();
        terminal.type_line(&format!("stty raw; echo go; head -c {count} | sha256sum; stty sane -echo")).await;
        terminal.expect("go\n").await;
        for piece in pasted.chunks(16 << 10) {
            let sent = terminal.socket.send(Message::Binary(piece.to_vec().into()));
            timeout(DEADLINE, sent).await.expect("the guest reads on").unwrap();
        }
        terminal.expect(digest.hex()).await;
    });
    room.kubectl(&["delete", "vmi", "paste"]);
    room.wait_until_empty();
}

fn refusal(opened: Result<Terminal, (u16, Value)>) -> (u16, String) {
    let Err((code, status)) = opened else { panic!("the console opens") };
    assert_eq!(status["kind"], "Status");
    (code, status["message"].as_str().unwrap().to_owned())
}

#[test]
fn clients_type_look_and_take_each_others_place() {
    let room = Room::new();
    let image = room.reference("guests/console:1");
    room.push(&image, "vmlinuz");
    client::runtime().block_on(async {
        let about = "virtualmachineinstance.kubevirt.io \"vm\"";
        assert_eq!(refusal(Terminal::open(&room, "vm", "").await), (404, format!("{about} not found")));
        let missing = room.reference("guests/missing:1");
        room.apply(&instance("waits", &Boot { image: &missing, policy: "", guest: "echo" }));
        // What virtctl takes as "ask again".
        let waits = (400, "VMI is not running".to_owned());
        assert_eq!(refusal(Terminal::open(&room, "waits", "").await), waits);
        room.kubectl(&["delete", "vmi", "waits"]);

        room.apply(&instance("vm", &Boot { image: &image, policy: "", guest: "echo" }));
        room.wait_for_phase("vmi/vm", "Running");
        let mut first = Terminal::open(&room, "vm", "?replay=true").await.unwrap();
        first.expect("Linux version").await;
        first.expect("guest: echo is ready").await;
        first.type_line("one").await;
        first.expect("guest: heard one").await;
        // What came before is not told again unless it is asked for.
        let mut viewer = Terminal::open(&room, "vm", "?readOnly=true").await.unwrap();
        let mut replayed = Terminal::open(&room, "vm", "?readOnly=true&replay=true").await.unwrap();
        replayed.expect("guest: heard one").await;
        viewer.type_line("nobody hears this").await;
        first.socket.send(Message::Text("nor this\n".into())).await.unwrap();

        let told = |name: &str| {
            let metrics = room.kubectl(&["get", "--raw", "/metrics"]).stdout;
            let of = format!("{name}{{namespace=\"default\",vmi=\"vm\"}} ");
            metrics.lines().find_map(|line| line.strip_prefix(&of).map(str::to_owned))
        };
        let clients = || told("kubevirt_console_active_connections");
        let last = || told("kubevirt_vmi_last_api_connection_timestamp_seconds");
        wait_until("three clients are told of", || (clients().as_deref() == Some("3.0")).then_some(()));
        let now = jiff::Timestamp::now().as_second() as f64;
        let at: f64 = last().unwrap().parse().unwrap();
        assert!((now - 60.0..=now).contains(&at), "{at} is not now, {now}");

        let mut second = Terminal::open(&room, "vm", "").await.unwrap();
        assert_eq!(first.end().await, End::Cut);
        second.type_line("two").await;
        for terminal in [&mut second, &mut viewer, &mut replayed] {
            terminal.expect("guest: heard two").await;
        }
        assert!(!viewer.seen.contains("one") && !replayed.seen.contains("this"));

        second.type_line("end").await;
        second.expect("guest: powering off").await;
        assert_eq!(second.end().await, End::Closed(CloseCode::Normal));
        assert_eq!(viewer.end().await, End::Closed(CloseCode::Normal));
        room.wait_for_phase("vmi/vm", "Succeeded");
        wait_until("no client is told of", || clients().is_none().then_some(()));
        assert_eq!(refusal(Terminal::open(&room, "vm", "").await), waits);
    });
    room.kubectl(&["delete", "vmi", "vm"]);
    room.wait_until_empty();
}

#[test]
fn a_guest_is_paused_goes_on_is_reset_and_its_console_outlives_the_daemon() {
    let mut room = Room::new();
    let image = room.reference("guests/paused:1");
    room.push(&image, "vmlinuz");
    room.apply(&instance("vm", &Boot { image: &image, policy: "", guest: "echo" }));
    room.wait_for_phase("vmi/vm", "Running");
    let runtime = client::runtime();
    let mut terminal = runtime.block_on(async {
        let mut terminal = Terminal::open(&room, "vm", "?replay=true").await.unwrap();
        terminal.expect("guest: echo is ready").await;
        terminal
    });
    let put = |room: &Room, action: &str| room.put_to("virtualmachineinstances", "vm", action, &json!({}));
    let about = "Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"vm\":";
    assert!(put(&room, "unpause").stderr.contains(&format!("{about} VMI is not paused")));
    put(&room, "pause").succeeded();
    let paused = |found: &Value| {
        let conditions = found["status"]["conditions"].as_array().unwrap();
        conditions.iter().any(|condition| condition["type"] == "Paused" && condition["status"] == "True")
    };
    room.wait("vmi/vm", "is paused", paused);
    assert!(put(&room, "pause").stderr.contains(&format!("{about} VMI is already paused")));
    runtime.block_on(async {
        terminal.type_line("while it stood still").await;
        // Nothing can be waited for that does not come.
        let silence = timeout(Duration::from_millis(300), terminal.expect("heard")).await;
        assert!(silence.is_err(), "a paused guest says nothing");
    });
    put(&room, "unpause").succeeded();
    room.wait("vmi/vm", "goes on", |found| !paused(found));
    runtime.block_on(terminal.expect("guest: heard while it stood still"));

    room.kill_server();
    assert_eq!(runtime.block_on(terminal.end()), End::Cut);
    room.start_server();
    put(&room, "reset").succeeded();
    runtime.block_on(async {
        let mut terminal = Terminal::open(&room, "vm", "?replay=true").await.unwrap();
        terminal.expect("guest: echo is ready").await;
        terminal.type_line("again").await;
        terminal.expect("guest: heard again").await;
        terminal.type_line("end").await;
        assert_eq!(terminal.end().await, End::Closed(CloseCode::Normal));
    });
    room.kubectl(&["delete", "vmi", "vm"]);
    room.wait_until_empty();
}

#[test]
fn a_guest_restarts_by_its_power_button_and_stays_the_same_instance() {
    let room = Room::new();
    let image = room.reference("guests/soft:1");
    room.push(&image, "vmlinuz");
    room.apply(&instance("vm", &Boot { image: &image, policy: "", guest: "obey" }));
    let before = room.wait_for_phase("vmi/vm", "Running");
    let put = |action: &str| room.put_to("virtualmachineinstances", "vm", action, &json!({}));
    let button = "guest: listening to the power button";
    room.wait_for_console("vm", button);
    let qemu = room.processes("qemu-system-x86_64");
    let asked = finish(command(&room, "soft-reboot vm")).succeeded().stdout;
    assert_eq!(asked, "VMI vm was scheduled to soft-reboot\n");
    wait_until("the second boot", || {
        std::thread::sleep(Duration::from_millis(60));
        (room.console("vm").matches(button).count() == 2).then_some(())
    });
    let after = room.get("vmi/vm");
    assert_eq!(
        (&after["metadata"]["uid"], &after["status"]["phase"]),
        (&before["metadata"]["uid"], &json!("Running"))
    );
    assert_eq!(room.processes("qemu-system-x86_64"), qemu);
    put("pause").succeeded();
    room.wait("vmi/vm", "is paused", |found| {
        found["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|condition| condition["type"] == "Paused")
    });
    let about = "Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"vm\":";
    assert!(put("softreboot").stderr.contains(&format!("{about} VMI is paused")));
    room.kubectl(&["delete", "vmi", "vm"]);
    room.wait_until_empty();
}
