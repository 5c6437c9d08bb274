//! Figures of machines under `ferrovirt serve`: how soon they run, come back and are adopted, and what each costs.
//!
//! Guests are real but for the thousand machines, whose QEMU is a stand-in: this very program, which answers on the
//! monitor as far as a launcher asks and emulates nothing. `cargo bench --bench lifecycle -- WORD` measures only the
//! figures whose name holds the word. Samples go to `target/bench/lifecycle.json`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/api/client.rs"]
mod client;
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/e2e/harness.rs"]
mod harness;
#[path = "../../image/tests/support/real_registry.rs"]
mod real_registry;
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/lifecycle/room.rs"]
mod room;
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/api/server.rs"]
mod server;
#[allow(dead_code, reason = "other benches use the rest")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use http::Method;
use rustix::process::Pid;
use serde_json::{Value, json};

use client::{Credentials, Events};
use room::{Boot, Room, instance, machine};
use server::memory_kib;
use support::{Figure, Pairs, by_hand, finish, wanted};

const INSTANCES: &str = "/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances";

/// Machines in a burst, and machines that a new daemon adopts.
const BURST: usize = 20;

/// Bursts, and as many by hand. The first pays for memory that the host itself has to find.
const BURSTS: usize = 3;

/// Machines with a stand-in for QEMU, and how many of them are made in a second.
const MANY: usize = 1000;

/// How many of those are made in a second.
const RATE: u32 = 10;

fn main() -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    if name.ends_with("qemu-system-x86_64") {
        return stand_in();
    }
    let wanted = wanted();
    let mut figures = Vec::new();
    if wanted("burst adoption memory") {
        figures.extend(burst());
    }
    if wanted("restart writes") {
        figures.extend(restart());
    }
    if wanted("thousand") {
        figures.extend(thousand());
    }
    finish("lifecycle.json", 1, &figures)
}

/// When each instance was running, from a watch that began before they were made; others may run already.
async fn until_running(mut events: Events, instances: BTreeSet<String>) -> BTreeMap<String, Instant> {
    let mut running = BTreeMap::new();
    let all = async {
        while running.len() < instances.len() {
            let event = events.next().await.unwrap().expect("the watch goes on");
            let object = &event["object"];
            if object["status"]["phase"] == "Running" {
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                if instances.contains(&name) {
                    running.entry(name).or_insert_with(Instant::now);
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(600), all).await.expect("all instances run");
    running
}

/// The value below which `share` of `samples` lie.
fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len());
    sorted[index - 1]
}

/// Proportional set size in MiB.
fn pss(process: Pid) -> f64 {
    memory_kib(process, "smaps_rollup", "Pss") as f64 / 1024.0
}

/// Resident set size in MiB.
fn rss(process: Pid) -> f64 {
    memory_kib(process, "status", "VmRSS") as f64 / 1024.0
}

fn credentials(room: &Room) -> Credentials {
    Credentials::read_file(&room.world.path("state/apiserver/admin.kubeconfig"))
}

/// Creates `instances`, `pace` apart, and returns how long each took to run, in milliseconds.
fn create_and_wait(room: &Room, instances: &[Value], pace: Duration) -> Vec<f64> {
    client::runtime().block_on(async {
        let credentials = credentials(room);
        let watching = credentials.connect(room.address()).await.unwrap();
        let events = watching.watch(&format!("{INSTANCES}?watch=1")).await.unwrap();
        let names =
            instances.iter().map(|instance| instance["metadata"]["name"].as_str().unwrap().to_owned());
        let waiting = tokio::spawn(until_running(events, names.collect()));
        let mut client = credentials.connect(room.address()).await.unwrap();
        let mut made = BTreeMap::new();
        let began = Instant::now();
        for (index, instance) in instances.iter().enumerate() {
            tokio::time::sleep_until((began + pace * u32::try_from(index).unwrap()).into()).await;
            made.insert(instance["metadata"]["name"].as_str().unwrap().to_owned(), Instant::now());
            client.call(Method::POST, INSTANCES, instance).await.unwrap().succeeded();
        }
        let running = waiting.await.unwrap();
        made.iter().map(|(name, at)| running[name].duration_since(*at).as_secs_f64() * 1e3).collect()
    })
}

/// Twenty at once, in turns with as many by hand; what a launcher costs; a new daemon adopts them.
fn burst() -> Vec<Figure> {
    let mut room = Room::of_a_service();
    let image = room.reference("bench/burst:1");
    room.push(&image, "vmlinuz");
    let boot = Boot { image: &image, policy: "IfNotPresent", guest: "halt" };
    let all: Vec<_> = (0..BURST).map(|number| instance(&format!("vm-{number}"), &boot)).collect();
    let (mut middle, mut late, mut last) = (Vec::new(), Vec::new(), Pairs::default());
    for round in 0..BURSTS {
        if round > 0 {
            room.kubectl(&["delete", "vmi", "--all"]);
            room.wait_until_empty();
        }
        // The image is there from here on.
        create_and_wait(&room, &[instance("first", &boot)], Duration::ZERO);
        let by_hand = burst_by_hand(&room, room.processes("qemu-system-x86_64")[0]);
        room.kubectl(&["delete", "vmi", "first"]);
        room.wait_until_empty();

        let took = create_and_wait(&room, &all, Duration::ZERO);
        for name in (0..BURST).map(|number| format!("vm-{number}")) {
            room.wait_for_console(&name, "System halted");
        }
        middle.push(quantile(&took, 0.5));
        late.push(quantile(&took, 0.95));
        last.ours.push(quantile(&took, 1.0) / 1e3);
        last.theirs.push(quantile(&by_hand, 1.0) / 1e3);
    }
    let launchers: Vec<_> = room.processes("launcher").into_iter().map(pss).collect();

    room.kill_server();
    let began = Instant::now();
    room.start_server();
    // The Pods and instances were never anything but Ready; what is waited for is that the new daemon has them in hand.
    room.wait_for_log(&format!("taken over count={BURST}"));
    let ready = began.elapsed();
    room.kubectl(&["delete", "vmi", "--all"]);
    room.wait_until_empty();
    vec![
        Figure::plain("burst of 20: create to Running, p50", "ms", middle, 150.0),
        Figure::plain("burst of 20: create to Running, p95", "ms", late, 500.0),
        Figure::ratio("burst of 20: create to Running, last", "20 QEMUs by hand", &last, 1.0),
        Figure::plain("launcher, PSS (median of 20)", "MiB", launchers, 6.0),
        Figure::plain(
            "start of a daemon until it has 20 machines in hand",
            "s",
            vec![ready.as_secs_f64()],
            1.0,
        ),
    ]
}

/// Starts as many QEMUs at once by hand as a burst has, each with the command line of `example`; when each of them
/// answered on its monitor, in milliseconds.
fn burst_by_hand(room: &Room, example: Pid) -> Vec<f64> {
    let began = Instant::now();
    let mut guests: Vec<_> = (0..BURST)
        .map(|number| {
            let socket = room.world.path(&format!("by-hand-{number}.sock"));
            // They share no socket: those for VNC and for the guest's agent are others for each.
            let own = |word: String| {
                let of_display = word.replace("vnc.sock", &format!("vnc-{number}.sock"));
                Some(of_display.replace("ga.sock", &format!("ga-{number}.sock")))
            };
            let mut qemu = by_hand(example, &socket, own);
            qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
            (qemu.spawn().unwrap(), socket)
        })
        .collect();
    let answered = thread::scope(|scope| {
        let waiting = |socket: &Path| {
            let socket = socket.to_owned();
            scope.spawn(move || {
                let stream = loop {
                    match UnixStream::connect(&socket) {
                        Ok(stream) => break stream,
                        Err(_) if began.elapsed() < server::DEADLINE => {
                            thread::sleep(Duration::from_millis(4))
                        }
                        Err(error) => panic!("QEMU by hand does not answer: {error}"),
                    }
                };
                // The greeting comes while the machine is still being made; this is answered when it is there.
                let questions = ["qmp_capabilities", "query-status"].map(|name| json!({"execute": name}));
                questions.iter().for_each(|question| writeln!(&stream, "{question}").unwrap());
                let answers = BufReader::new(&stream).lines().take(1 + questions.len());
                answers.for_each(|answer| drop(answer.unwrap()));
                began.elapsed().as_secs_f64() * 1e3
            })
        };
        let waiting: Vec<_> = guests.iter().map(|(_, socket)| waiting(socket)).collect();
        waiting.into_iter().map(|one| one.join().unwrap()).collect()
    });
    for (qemu, _) in &mut guests {
        qemu.kill().unwrap();
        qemu.wait().unwrap();
    }
    answered
}

/// An unchanged image, from the end of the old QEMU to the new one; and how much is written for a machine.
fn restart() -> Vec<Figure> {
    let room = Room::with_audit();
    let image = room.reference("bench/restart:1");
    room.push(&image, "vmlinuz");
    room.apply(&machine("vm", "Always", &Boot { image: &image, policy: "Always", guest: "halt" }));
    room.wait_for_status("vm", "Running");
    let writes = room.writes();
    writes.iter().for_each(|write| println!("{write}"));
    let (events, objects): (Vec<_>, Vec<_>) = writes.into_iter().partition(|write| write.contains("/events"));
    let mut samples = Vec::new();
    for _ in 0..7 {
        let old = room.processes("qemu-system-x86_64")[0];
        room.put("vm", "restart", &json!({})).succeeded();
        let (mut ended, began) = (None, Instant::now());
        samples.push(loop {
            let now = room.processes("qemu-system-x86_64");
            if !now.contains(&old) {
                ended.get_or_insert_with(Instant::now);
            }
            if let (Some(ended), Some(_)) = (ended, now.iter().find(|guest| **guest != old)) {
                break ended.elapsed().as_secs_f64() * 1e3;
            }
            assert!(began.elapsed() < server::DEADLINE, "the machine does not come back");
            std::thread::sleep(Duration::from_millis(1));
        });
        room.wait_for_status("vm", "Running");
    }
    room.kubectl(&["delete", "vm", "vm"]);
    room.wait_until_empty();
    vec![
        Figure::plain("restart: from the old QEMU's end to the new one", "ms", samples, 300.0),
        Figure::plain(
            "API writes from create to Running, events aside",
            "",
            vec![objects.len() as f64],
            12.0,
        ),
        // Each is told once: one of the machine, three of the instance, and four of the Pod.
        Figure::plain("API writes from create to Running, of events", "", vec![events.len() as f64], 8.0),
    ]
}

/// A thousand machines whose QEMU is a stand-in.
fn thousand() -> Vec<Figure> {
    let room = Room::with_stand_in(&std::env::current_exe().unwrap());
    let image = room.reference("bench/thousand:1");
    room.push(&image, "vmlinuz");
    let boot = Boot { image: &image, policy: "IfNotPresent", guest: "hang" };
    create_and_wait(&room, &[instance("first", &boot)], Duration::ZERO);
    let all: Vec<_> = (0..MANY)
        .map(|number| {
            let mut one = instance(&format!("vm-{number}"), &boot);
            // What the node may hand out is not what is measured.
            one["spec"]["domain"]["memory"]["guest"] = json!("1Mi");
            one["spec"]["domain"]["resources"] =
                json!({"requests": {"cpu": "1m", "memory": "1Mi"}, "overcommitGuestOverhead": true});
            one
        })
        .collect();
    let took = create_and_wait(&room, &all, Duration::from_secs(1) / RATE);
    let daemon = rss(room.server_process());
    vec![
        Figure::plain(
            "1,000 machines, 10 a second: create to Running, p95",
            "ms",
            vec![quantile(&took, 0.95)],
            100.0,
        ),
        Figure::plain("daemon with 1,000 machines, RSS", "MiB", vec![daemon], 120.0),
    ]
}

/// What a launcher takes for QEMU: the answers of its monitor.
fn stand_in() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    if arguments.iter().any(|word| word == "--version") {
        println!("QEMU emulator version 7.2.0 (a stand-in)");
        return ExitCode::SUCCESS;
    }
    let Some(socket) = arguments.iter().find_map(|word| {
        let path = word.strip_prefix("socket,id=qmp,path=")?;
        path.split(',').next().map(str::to_owned)
    }) else {
        return ExitCode::SUCCESS;
    };
    let listener = UnixListener::bind(socket).unwrap();
    // Its network card has a wire, on which nothing is ever sent.
    let _wire = arguments.iter().find_map(|word| {
        let (_, path) = word.strip_prefix("stream,")?.split_once("addr.path=")?;
        Some(UnixStream::connect(path).unwrap())
    });
    println!("Linux version 0.0.0-stand-in");
    let (mut stream, _) = listener.accept().unwrap();
    let greeting = json!({"QMP": {
        "version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": [],
    }});
    writeln!(stream, "{greeting}").unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    while let Some(Ok(line)) = lines.next() {
        let command: Value = serde_json::from_str(&line).unwrap();
        let answer = match command["execute"].as_str().unwrap_or_default() {
            "query-status" => json!({"status": "running", "running": true, "singlestep": false}),
            "query-machines" => json!([]),
            _ => json!({}),
        };
        writeln!(stream, "{}", json!({"return": answer, "id": command["id"]})).unwrap();
        if matches!(command["execute"].as_str(), Some("quit" | "system_powerdown")) {
            writeln!(
                stream,
                "{}",
                json!({"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"},
                    "timestamp": {"seconds": 0, "microseconds": 0}})
            )
            .unwrap();
            break;
        }
    }
    ExitCode::SUCCESS
}
