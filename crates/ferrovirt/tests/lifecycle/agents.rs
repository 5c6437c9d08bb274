//! Guests with an agent and an SSH server: what they tell of themselves, what is done to them, and who logs in.

use std::path::Path;
use std::process::Command;

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{self, Credentials};
use crate::command_line::command;
use crate::console::Terminal;
use crate::harness::Fixtures;
use crate::network::Connection;
use crate::room::{Boot, Room, instance};
use crate::server::{finish, finish_with_input, wait_until};

/// A guest with an agent, whose shell is ready.
fn boot(room: &Room, name: &str) {
    let image = room.reference(&format!("guests/{name}:1"));
    room.push_initrd(&image, "initrd-agent");
    room.apply(&instance(name, &Boot { image: &image, policy: "", guest: "agent" }));
    room.wait_for_phase(&format!("vmi/{name}"), "Running");
    room.wait_for_console(name, "guest: shell is ready");
}

fn has_agent(found: &Value) -> bool {
    let conditions = found["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "AgentConnected" && condition["status"] == "True")
}

/// Code and body of a subresource of the instance `told`.
async fn ask(room: &Room, what: &str) -> (u16, String) {
    let credentials = Credentials::read_file(&room.world.path("state/apiserver/admin.kubeconfig"));
    let path =
        format!("/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachineinstances/told/{what}");
    let answer = credentials.connect(room.address()).await.unwrap().get(&path).await.unwrap();
    (answer.status, String::from_utf8(answer.body.to_vec()).unwrap())
}

fn told(room: &Room, what: &str) -> Value {
    let (code, body) = client::runtime().block_on(ask(room, what));
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[test]
fn an_agent_tells_of_its_guest_and_does_what_it_is_asked() {
    let room = Room::new();
    boot(&room, "told");
    let found = room.wait("vmi/told", "has an agent", has_agent);
    let os = json!({
        "id": "fixture", "name": "Fixture", "prettyName": "Fixture 7", "version": "7 (seven)", "versionId": "7",
        "kernelRelease": Fixtures::version("vmlinuz"), "kernelVersion": found["status"]["guestOSInfo"]["kernelVersion"],
        "machine": "x86_64",
    });
    assert_eq!(found["status"]["guestOSInfo"], os);
    let address = &found["status"]["interfaces"][0]["ipAddress"];
    let interfaces = &found["status"]["interfaces"];
    let own = &interfaces[0]["ipAddresses"];
    assert_eq!(
        *interfaces,
        json!([{
            "name": "default", "mac": interfaces[0]["mac"], "ipAddress": address, "ipAddresses": own,
            "podInterfaceName": "eth0", "infoSource": "domain, guest-agent", "queueCount": 1, "linkState": "up",
            "interfaceName": "eth0",
        }])
    );
    assert_eq!((&own[0], &own[1]), (address, &json!("10.0.2.2")));

    let mut info = told(&room, "guestosinfo");
    let commands = info["supportedCommands"].take();
    assert!(
        commands.as_array().unwrap().contains(&json!({"name": "guest-ping", "enabled": true})),
        "{commands}"
    );
    let file_systems = told(&room, "filesystemlist");
    let data = &file_systems["items"][0];
    assert!(data["usedBytes"].as_u64() < data["totalBytes"].as_u64(), "{data}");
    let expected = json!({
        "metadata": {},
        "items": [{
            "diskName": "ram0", "mountPoint": "/data", "fileSystemType": "ext4", "usedBytes": data["usedBytes"],
            "totalBytes": data["totalBytes"],
        }],
    });
    assert_eq!(file_systems, expected);
    let version = &info["guestAgentVersion"];
    assert!(version.as_str().is_some_and(|version| version.contains('.')), "{version}");
    assert_eq!(
        info,
        json!({
            "guestAgentVersion": version, "supportedCommands": null, "hostname": "told", "os": os,
            "timezone": "UTC, 0", "fsInfo": {"disks": expected["items"]}, "fsFreezeStatus": "thawed",
        })
    );
    assert_eq!(told(&room, "userlist"), json!({"metadata": {}, "items": []}));
    the_balloon_tells_of_the_memory(&room);
    let capacity = "kubevirt_vmi_filesystem_capacity_bytes{node=\"node-1\",namespace=\"default\",name=\"told\",\
                    disk_name=\"ram0\",mount_point=\"/data\",file_system_type=\"ext4\"} ";
    let measured = || {
        let metrics = room.kubectl(&["get", "--raw", "/metrics"]).stdout;
        let told = metrics.lines().find_map(|line| line.strip_prefix(capacity));
        told.map(|value| value.parse::<f64>().unwrap())
    };
    let told_capacity = wait_until("the file system is measured", measured);
    assert_eq!(Some(told_capacity), data["totalBytes"].as_f64());

    client::runtime().block_on(async {
        let mut terminal = Terminal::open(&room, "told", "").await.unwrap();
        let put = |action: &str, body: Value| {
            room.put_to("virtualmachineinstances", "told", action, &body).succeeded();
        };
        let wait_for = |status: Value| {
            room.wait("vmi/told", "says so", |found| found["status"]["fsFreezeStatus"] == status);
        };
        put("freeze", json!({"unfreezeTimeout": "5m0s"}));
        wait_for(json!("frozen"));
        terminal.type_line("(touch /data/x; echo guest: written) &").await;
        terminal.expect("guest: status 0").await;
        let (code, info) = ask(&room, "guestosinfo").await;
        assert!(code == 200 && info.contains(r#""fsFreezeStatus":"frozen""#), "{info}");
        put("unfreeze", json!({}));
        terminal.expect("guest: written").await;
        wait_for(Value::Null);
        // Nobody asks for the end of this one.
        put("freeze", json!({"unfreezeTimeout": "1s"}));
        terminal.type_line("(touch /data/y; echo guest: written again) &").await;
        terminal.expect("guest: written again").await;
        wait_for(Value::Null);

        terminal.type_line("kill $(pidof qemu-ga)").await;
        let found = room.wait("vmi/told", "has no agent", |found| !has_agent(found));
        assert_eq!(found["status"]["guestOSInfo"], os, "what was known stays");
        wait_until("nothing is measured", || measured().is_none().then_some(()));
        let interface = &found["status"]["interfaces"][0];
        let is = (&interface["infoSource"], &interface["ipAddresses"], &interface["interfaceName"]);
        assert_eq!(is, (&json!("domain"), &json!([address, "10.0.2.2"]), &Value::Null));
        for what in ["guestosinfo", "userlist", "filesystemlist"] {
            let message = "Operation cannot be fulfilled on virtualmachineinstance.kubevirt.io \"told\": VMI does not have \
                           guest agent connected";
            assert_eq!(ask(&room, what).await, (500, message.to_owned()));
        }
        let refused =
            room.put_to("virtualmachineinstances", "told", "freeze", &json!({"unfreezeTimeout": "1s"}));
        assert!(refused.stderr.contains("VMI does not have guest agent connected"), "{}", refused.stderr);
        let why = "Warning FreezeError Failed to freeze VMI: VMI does not have guest agent connected";
        room.wait_for_event("VirtualMachineInstance", "told", why);

        // Another program has the port and never stops talking; whoever comes after it is understood all the same.
        let flood = "cd /sys/class/virtio-ports; yes >/dev/$(dirname $(grep -l guest_agent */name)) & flood=$!";
        terminal.type_line(flood).await;
        // It is listened to for five seconds at a time.
        terminal.type_line("sleep 7; kill $flood; echo guest: the flood is over").await;
        terminal.expect("guest: the flood is over").await;
        assert!(!has_agent(&room.get("vmi/told")), "an agent is one that answers");
        terminal.type_line("agent").await;
        room.wait("vmi/told", "has an agent again", has_agent);
        // This guest hears no power button: it is the agent that restarts it.
        put("softreboot", json!({}));
        terminal.expect("guest: shell is ready").await;
        room.wait("vmi/told", "has an agent after the restart", has_agent);
    });
    room.kubectl(&["delete", "vmi", "told"]);
    room.wait_until_empty();
}

/// As much as the instance `told` has, of which its system keeps a part for itself.
fn the_balloon_tells_of_the_memory(room: &Room) {
    let metrics = wait_until("the guest tells of its memory", || {
        let metrics = room.kubectl(&["get", "--raw", "/metrics"]).stdout;
        metrics.contains("kubevirt_vmi_memory_available_bytes{").then_some(metrics)
    });
    let value = |name: &str| -> f64 {
        let series =
            format!("kubevirt_vmi_memory_{name}{{node=\"node-1\",namespace=\"default\",name=\"told\"}} ");
        let told = metrics.lines().find_map(|line| line.strip_prefix(&series));
        told.unwrap_or_else(|| panic!("no {name}: {metrics}")).parse().unwrap()
    };
    let domain = value("domain_bytes");
    assert_eq!(value("actual_balloon_bytes"), domain);
    let (available, unused) = (value("available_bytes"), value("unused_bytes"));
    assert!(domain / 2.0 < available && available < domain, "{metrics}");
    assert!(0.0 < unused && unused < available, "{metrics}");
    assert!(value("usable_bytes") < available && value("cached_bytes") < available, "{metrics}");
    assert!(value("pgminfault_total") > 100.0 && value("pgmajfault_total") >= 0.0, "{metrics}");
    assert_eq!((value("swap_in_traffic_bytes"), value("swap_out_traffic_bytes")), (0.0, 0.0));
}

/// Carries each connection to `listener` to the SSH server of the instance `name`.
async fn forward(room: &Room, name: &str, listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let path = format!("virtualmachineinstances/{name}/portforward/22");
        let (mut to_guest, mut from_guest) = Connection::open(room, &path).await.unwrap().0.split();
        let (mut reader, mut writer) = stream.into_split();
        let there = async {
            let mut buffer = vec![0; 32 << 10];
            while let Ok(count @ 1..) = reader.read(&mut buffer).await {
                to_guest.send(Message::Binary(buffer[..count].to_vec().into())).await.unwrap();
            }
        };
        let back = async {
            while let Some(Ok(message)) = from_guest.next().await {
                // The others are the WebSocket's own.
                if let Message::Binary(bytes) = message {
                    writer.write_all(&bytes).await.unwrap();
                }
            }
        };
        tokio::select! { () = there => {}, () = back => {} }
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

/// The guest's end of scp(1)'s old protocol, for one file: what this guest has no program for.
const SCP: &str = r#"#!/bin/sh
for file; do :; done
reply() { printf '\0'; }
is_told() { dd bs=1 count=1 >/dev/null 2>&1; }
case "$*" in
    *-t*)
        reply
        read -r mode size name
        reply
        dd bs=1 count="$size" >"$file" 2>/dev/null
        is_told
        ;;
    *-f*)
        is_told
        echo "C0644 $(wc -c <"$file") ${file##*/}"
        is_told
        cat "$file"
        ;;
esac
reply
"#;

/// The same guest by `ferrovirt ssh` and `ferrovirt scp`: commands, their codes and input, and a file there and back.
fn logged_in_by_the_command(room: &Room, key: &Path) {
    let known_hosts = room.world.path("known_hosts").display().to_string();
    let login = |line: &str, more: &[&str]| {
        let mut command = command(room, line);
        command.args([
            "--known-hosts",
            &known_hosts,
            "-t",
            "-oStrictHostKeyChecking=accept-new",
            "-t",
            "-oBatchMode=yes",
        ]);
        command.args(["-t", "-q", "-i"]).arg(key).args(more);
        command
    };
    let ssh = |target: &str, there: &str| login(&format!("ssh {target}"), &["-c", there]);
    let said = finish(ssh("root@vmi/shell", "echo the guest is $(hostname)")).succeeded();
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("the guest is shell\n", ""));
    // How it ends there is how it ends here.
    assert_eq!(finish(ssh("shell -l root", "exit 5")).status.code(), Some(5));
    let taken = ssh("root@vmi/shell/default", "cat >/bin/scp && chmod 755 /bin/scp");
    assert_eq!(finish_with_input(taken, SCP).succeeded().stdout, "");

    let (file, back) = (room.world.path("file"), room.world.path("back"));
    std::fs::write(&file, noise(20_000)).unwrap();
    let scp = |from: &str, to: &str| finish(login("scp", &["-t", "-O", from, to]));
    scp(file.to_str().unwrap(), "root@vmi/shell:/tmp/there").succeeded();
    scp("root@vmi/shell:/tmp/there", back.to_str().unwrap()).succeeded();
    assert!(std::fs::read(&file).unwrap() == std::fs::read(&back).unwrap(), "what comes back is another");
    let refused = scp("nothing", "root@vmi/shell:/tmp/there").failed();
    assert!(refused.stderr.contains("nothing: No such file or directory"), "{}", refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
}

/// The ordinary client logs in through the API, and what it sends arrives as it was.
#[test]
fn ssh_logs_in_through_the_api() {
    let room = Room::new();
    boot(&room, "shell");
    let key = room.world.path("key");
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(&key);
    finish(keygen).succeeded();
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let mebibyte = String::from_utf8(noise(1 << 20).iter().map(|byte| b'a' + byte % 26).collect()).unwrap();
    let digest = image::Digest::sha256_of(mebibyte.as_bytes()).to_string();
    client::runtime().block_on(async {
        let mut terminal = Terminal::open(&room, "shell", "").await.unwrap();
        terminal.type_line(&format!("echo '{}' >/root/.ssh/authorized_keys", public.trim())).await;
        terminal.expect("guest: status 0").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let known_hosts = format!("UserKnownHostsFile={}", room.world.path("known_hosts").display());
        let ssh = |command: &'static str, input: String| {
            let mut ssh = Command::new("ssh");
            ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new"]);
            ssh.args(["-o", "HostKeyAlgorithms=ssh-ed25519", "-o", &known_hosts, "-o", "IdentitiesOnly=yes"]);
            ssh.arg("-i").arg(&key).args(["-p", &port, "root@127.0.0.1", command]);
            tokio::task::spawn_blocking(move || finish_with_input(ssh, &input).succeeded().stdout)
        };
        let logins = async {
            let said = ssh("echo the guest is $(hostname)", String::new()).await.unwrap();
            assert_eq!(said, "the guest is shell\n");
            let said = ssh("sha256sum", mebibyte.clone()).await.unwrap();
            assert_eq!(said.split(' ').next().map(|sum| format!("sha256:{sum}")), Some(digest.clone()));
        };
        tokio::select! {
            () = logins => {}
            () = forward(&room, "shell", listener) => {}
        }
    });
    logged_in_by_the_command(&room, &key);
    room.kubectl(&["delete", "vmi", "shell"]);
    room.wait_until_empty();
}
