//! The display: VNC over a WebSocket, as virtctl speaks it, and pictures of it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{self, Credentials};
use crate::command_line::command;
use crate::console::open;
use crate::room::{Boot, Room, instance};
use crate::server::{DEADLINE, finish};
use crate::streams::Socket;

/// A viewer, as RFC 6143 has it.
struct Viewer {
    socket: Socket,
    heard: Vec<u8>,
}

impl Viewer {
    async fn read<const COUNT: usize>(&mut self) -> [u8; COUNT] {
        let reading = async {
            while self.heard.len() < COUNT {
                match self.socket.next().await.unwrap().unwrap() {
                    Message::Binary(bytes) => self.heard.extend_from_slice(&bytes),
                    Message::Ping(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        timeout(DEADLINE, reading).await.expect("the server goes on");
        self.heard.drain(..COUNT).collect::<Vec<_>>().try_into().unwrap()
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.socket.send(Message::Binary(bytes.to_vec().into())).await.unwrap();
    }

    /// Shakes hands; the display's width and height in pixels.
    async fn begin(socket: Socket) -> (Self, (u32, u32)) {
        let mut viewer = Self { socket, heard: Vec::new() };
        assert_eq!(&viewer.read().await, b"RFB 003.008\n");
        viewer.say(b"RFB 003.008\n").await;
        assert_eq!(viewer.read().await, [1, 1], "one kind of security: none");
        viewer.say(&[1]).await;
        assert_eq!(viewer.read().await, [0; 4], "let in");
        viewer.say(&[1]).await;
        let [high, low] = viewer.read().await;
        let width = u16::from_be_bytes([high, low]);
        let [high, low] = viewer.read().await;
        let height = u16::from_be_bytes([high, low]);
        (viewer, (width.into(), height.into()))
    }

    /// Whether the connection ends without a farewell, as it does for who is put off.
    async fn ends_cut(mut self) -> bool {
        let reading = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Close(_))) => return false,
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return true,
                }
            }
        };
        timeout(DEADLINE, reading).await.expect("the connection ends")
    }
}

/// Code, kind and bytes of the answer.
async fn screenshot(room: &Room, query: &str) -> (u16, String, Bytes) {
    let credentials = Credentials::read_file(&room.world.path("state/apiserver/admin.kubeconfig"));
    let mut client = credentials.connect(room.address()).await.unwrap();
    let path = format!(
        "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachineinstances/vm/vnc/screenshot{query}"
    );
    let answer = client.send(Method::GET, &path, "application/json", Bytes::new()).await.unwrap();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    let code = answer.status().as_u16();
    (code, kind, answer.into_body().collect().await.unwrap().to_bytes())
}

/// Width and height out of the first chunk of a PNG (PNG specification, 11.2.2).
fn size(picture: &[u8]) -> (u32, u32) {
    assert_eq!(picture.get(..8), Some(&b"\x89PNG\r\n\x1a\n"[..]));
    assert_eq!(picture.get(12..16), Some(&b"IHDR"[..]));
    assert!(picture.ends_with(b"IEND\xae\x42\x60\x82"), "it is whole");
    let number = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

/// The display by the command: a picture, a port for any viewer, and viewers that it starts.
fn seen_by_the_command(room: &Room, display: (u32, u32)) {
    let picture = room.world.path("picture.png");
    finish(command(room, &format!("vnc screenshot vmi/vm --move-cursor --file {}", picture.display())))
        .succeeded();
    assert_eq!(size(&std::fs::read(&picture).unwrap()), display);

    let mut proxy = command(room, "vnc vm --proxy-only").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let told: Value = serde_json::from_str(&line).unwrap();
    let port = told["port"].as_u64().unwrap().try_into().unwrap();
    let mut viewer = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let mut greeting = [0; 12];
    viewer.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"RFB 003.008\n");
    drop(viewer);
    assert_eq!(proxy.wait().unwrap().code(), Some(0));

    // The first that is in the search path is taken, and how it ends is how the command does.
    let stand_ins = room.world.path("stand-ins");
    std::fs::create_dir(&stand_ins).unwrap();
    let said = room.world.path("said");
    for (name, code) in [("vncviewer", 3), ("remote-viewer", 0)] {
        let file = stand_ins.join(name);
        let script = format!("#!/bin/sh\necho {name} \"$@\" >{}\nexit {code}\n", said.display());
        std::fs::write(&file, script).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = command(room, "vnc vm --preserve-session");
        let outcome = finish({
            command.env("PATH", &stand_ins);
            command
        });
        assert_eq!(outcome.status.code(), Some(i32::from(code > 0)), "{}", outcome.stderr);
        let said = std::fs::read_to_string(&said).unwrap();
        let at = if code > 0 { "127.0.0.1:" } else { "vnc://127.0.0.1:" };
        assert!(said.starts_with(&format!("{name} {at}")), "{said}");
        assert_eq!(outcome.stderr.contains("ended with exit status: 3"), code > 0, "{}", outcome.stderr);
    }
}

#[test]
fn a_display_is_seen_by_one_client_at_a_time_and_in_pictures() {
    let room = Room::new();
    let image = room.reference("guests/display:1");
    room.push(&image, "vmlinuz");
    let boot = Boot { image: &image, policy: "", guest: "echo" };
    room.apply(&instance("vm", &boot));
    room.wait_for_phase("vmi/vm", "Running");
    // Its display has the size that it keeps.
    room.wait_for_console("vm", "guest: echo is ready");
    client::runtime().block_on(async {
        let (first, display) = Viewer::begin(open(&room, "vm", "vnc").await.unwrap()).await;
        assert!(display.0 >= 640 && display.1 >= 400, "{display:?}");
        let (code, status) = open(&room, "vm", "vnc?preserveSession=true").await.expect_err("a refusal");
        let busy = "Internal error occurred: Can't connect to websocket (503): Active VNC connection. Request denied.";
        assert_eq!((code, &status["message"]), (500, &json!(busy)));
        // Who has the display keeps it when a picture is taken.
        for query in ["", "?moveCursor=true"] {
            let (code, kind, picture) = screenshot(&room, query).await;
            assert_eq!((code, kind.as_str()), (200, "image/png"));
            assert_eq!(size(&picture), display);
        }
        let (second, again) = Viewer::begin(open(&room, "vm", "vnc").await.unwrap()).await;
        assert_eq!(again, display);
        assert!(first.ends_cut().await);
        seen_by_the_command(&room, display);
        assert!(second.ends_cut().await);
        room.kubectl(&["delete", "vmi", "vm"]);
    });

    let mut blind = instance("vm", &boot);
    blind["spec"]["domain"]["devices"]["autoattachGraphicsDevice"] = json!(false);
    room.apply(&blind);
    room.wait_for_phase("vmi/vm", "Running");
    client::runtime().block_on(async {
        let (code, status) = open(&room, "vm", "vnc").await.expect_err("a refusal");
        assert_eq!((code, &status["message"]), (400, &json!("No graphics devices are present.")));
        let (code, _, body) = screenshot(&room, "").await;
        let refused: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((code, &refused["message"]), (400, &status["message"]));
    });
    room.kubectl(&["delete", "vmi", "vm"]);
    room.wait_until_empty();
}
