//! The disk is full: on a file system of a few megabytes in memory, in a mount namespace of the test's own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use http::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Credentials, runtime};
use crate::server::{Server, World, finish, wait_until};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A small file system at the world's state directory, for those who enter its namespace.
struct SmallDisk {
    holder: Child,
}

impl SmallDisk {
    /// `None` where this user may not have one.
    fn new(world: &World, size: &str) -> Option<Self> {
        let script = format!(
            "mkdir -p \"$FERROVIRT_STATE_DIR\" && mount -t tmpfs -o size={size},mode=0755 tmpfs \
             \"$FERROVIRT_STATE_DIR\" && echo mounted && exec cat"
        );
        let mut command = world.command("unshare", ["--map-root-user", "--mount", "sh", "-c", &script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut holder = command.spawn().ok()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let disk = Self { holder };
        (line == "mounted\n").then_some(disk)
    }

    /// A command in the namespace.
    fn enter(&self, world: &World, arguments: &[&str]) -> Command {
        let target = self.holder.id().to_string();
        let mut words = vec!["--preserve-credentials", "--user", "--mount", "--target", &target, "--"];
        words.extend(arguments);
        world.command("nsenter", words)
    }

    fn serve(&self, world: &World, listen: &str) -> Server {
        Server::spawn(
            self.enter(world, &[env!("CARGO_BIN_EXE_ferrovirt"), "serve", "--api-only", "--listen", listen]),
        )
    }

    /// A file of the small file system as seen from outside.
    fn seen(&self, path: PathBuf) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.holder.id(), path.display()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn map(number: usize, bytes: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{number}")},
        "data": {"value": "x".repeat(bytes)}})
}

/// What an answer for a full disk must look like.
#[track_caller]
fn is_full(answer: &Answer) -> bool {
    if (200..300).contains(&answer.status) {
        return false;
    }
    let status = answer.json();
    assert!(answer.status == 507 || answer.status == 500, "{status}");
    assert_eq!(status["kind"], "Status", "{status}");
    assert_eq!(status["code"], answer.status, "{status}");
    true
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let world = World::new();
    let Some(disk) = SmallDisk::new(&world, "6m") else {
        println!("skipped: this user may not mount a file system in a namespace of its own");
        return;
    };
    let server = disk.serve(&world, "127.0.0.1:0");
    std::fs::create_dir_all(world.api_directory()).unwrap();
    std::fs::copy(disk.seen(world.kubeconfig()), world.kubeconfig()).unwrap();
    let credentials = Credentials::read(&world);
    let runtime = runtime();
    let list = |server: &Server| {
        runtime.block_on(async {
            let mut client = credentials.connect(server.address()).await.unwrap();
            let list = client.get(MAPS).await.unwrap().succeeded().json();
            let items = list["items"].as_array().unwrap().iter();
            items
                .map(|item| {
                    let name = item["metadata"]["name"].as_str().unwrap().to_owned();
                    (name, item["data"]["value"].as_str().unwrap_or_default().len())
                })
                .filter(|(name, _)| name.starts_with('m'))
                .collect::<BTreeMap<_, _>>()
        })
    };
    let create = |server: &Server, number: usize, bytes: usize| {
        runtime.block_on(async {
            let mut client = credentials.connect(server.address()).await.unwrap();
            client.call(Method::POST, MAPS, &map(number, bytes)).await.unwrap()
        })
    };

    // Large ones until one is refused, then small ones.
    let mut acknowledged = BTreeMap::new();
    let mut number = 0;
    for bytes in [100_000, 3_000] {
        loop {
            number += 1;
            if is_full(&create(&server, number, bytes)) {
                break;
            }
            acknowledged.insert(format!("m{number}"), bytes);
            assert!(number < 5_000, "the disk does not become full");
        }
    }
    assert!(acknowledged.len() > 10, "{acknowledged:?}");
    assert_eq!(list(&server), acknowledged, "reads go on");

    // Nothing was lost, and a server starts on a full disk.
    let address = server.address().to_string();
    server.kill();
    let server = disk.serve(&world, &address);
    assert_eq!(list(&server), acknowledged, "after a kill");

    let grow =
        disk.enter(&world, &["mount", "-o", "remount,size=24m", world.path("state").to_str().unwrap()]);
    finish(grow).succeeded();
    number += 1;
    wait_until("objects can be written again", || {
        (!is_full(&create(&server, number, 100_000))).then_some(())
    });
    acknowledged.insert(format!("m{number}"), 100_000);
    assert_eq!(list(&server), acknowledged);
    let check = [env!("CARGO_BIN_EXE_ferrovirt"), "state", "check"];
    finish(disk.enter(&world, &check)).succeeded();
    assert!(server.stop().success());
}
