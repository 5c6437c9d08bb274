//! Things fail at random while machines run; after each fault the world is as spec and strategy say.
//!
//! `FERROVIRT_TEST_CHAOS_ROUNDS` sets how often (10 without it, 200 in `make soak`), `FERROVIRT_TEST_SEED` the order.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{World, wait_until_gone};
use crate::random::{Random, number};
use crate::real_registry::RealRegistry;
use crate::room::{Boot, Room, instance, machine};
use crate::server::{finish, wait_until};

const MACHINES: [&str; 3] = ["alpha", "beta", "gamma"];

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
enum Fault {
    DaemonKilled,
    DaemonReplaced,
    LauncherKilled,
    QemuKilled,
    RegistryDown,
    DiskFull,
    ClockJump,
}

const FAULTS: [Fault; 7] = [
    Fault::DaemonKilled,
    Fault::LauncherKilled,
    Fault::RegistryDown,
    Fault::QemuKilled,
    Fault::DiskFull,
    Fault::DaemonReplaced,
    Fault::ClockJump,
];

/// A small file system over the state directory, so that it can be filled. `None` where this user may not mount one.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount(world: &World) -> Option<Self> {
        let path = world.path("state");
        fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=192m,mode=0755", "tmpfs"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self { path })
    }

    /// Takes all that is left, until what it returns is dropped.
    fn fill(&self) -> Filling {
        let path = self.path.join("filling");
        let mut file = fs::File::create(&path).unwrap();
        let block = vec![1u8; 1 << 16];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        Filling { path }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what is still open goes with its last user.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

struct Filling {
    path: PathBuf,
}

impl Drop for Filling {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What lives: the instance of each machine, with launcher and QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Census {
    instances: BTreeMap<String, String>,
    launchers: Vec<Pid>,
    guests: Vec<Pid>,
}

/// Waits until every machine runs, exactly once, and nothing else is there.
fn settled(room: &Room) -> Census {
    wait_until("every machine runs, once", || {
        std::thread::sleep(Duration::from_millis(100));
        let vmis = room.list("vmi");
        let vms = room.list("vm");
        let is_settled = vms.len() == MACHINES.len()
            && vms
                .iter()
                .all(|vm| vm["status"]["printableStatus"] == "Running" && vm["status"]["ready"] == true)
            && vmis.len() == MACHINES.len()
            && vmis.iter().all(|vmi| vmi["status"]["phase"] == "Running")
            && room.list("pods").len() == MACHINES.len()
            && room.pod_directories().len() == MACHINES.len();
        let census = Census {
            instances: vmis
                .iter()
                .map(|vmi| {
                    let text = |field: &str| vmi["metadata"][field].as_str().unwrap().to_owned();
                    (text("name"), text("uid"))
                })
                .collect(),
            launchers: room.processes("launcher"),
            guests: room.processes("qemu-system-x86_64"),
        };
        let counts = (census.launchers.len(), census.guests.len());
        (is_settled && counts == (MACHINES.len(), MACHINES.len())).then_some(census)
    })
}

/// What a disk is too full to be told is told again; what was told is done.
#[test]
fn a_deletion_on_a_full_disk_finishes() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world) else {
        println!("no file system may be mounted here: this test does nothing");
        return;
    };
    let room = Room::in_world(world, RealRegistry::start());
    let image = room.reference("guests/full:1");
    room.push(&image, "vmlinuz");
    room.apply(&instance("vm", &Boot { image: &image, policy: "", guest: "hang" }));
    room.wait_for_phase("vmi/vm", "Running");
    room.wait_for_console("vm", "guest: kernel");
    let filling = disk.fill();
    let deleted = finish(room.kubectl_command(&["delete", "vmi", "vm", "--wait=false"]));
    println!("on a full disk: {}{}", deleted.stdout, deleted.stderr);
    if deleted.status.success() {
        // Its logs cannot be kept, which keeps nothing else.
        wait_until("the guest has ended", || room.processes("qemu-system-x86_64").is_empty().then_some(()));
    } else {
        assert!(deleted.stderr.contains("no space to store"), "{deleted:?}");
    }
    drop(filling);
    room.kubectl(&["delete", "vmi", "vm", "--ignore-not-found"]);
    room.wait_until_empty();
    assert!(room.get("vmi/vm").is_null());
}

#[test]
fn whatever_fails_the_world_becomes_as_it_should_be() {
    let rounds = number("FERROVIRT_TEST_CHAOS_ROUNDS").unwrap_or(10);
    let seed = number("FERROVIRT_TEST_SEED").unwrap_or(1);
    println!("seed {seed}, {rounds} rounds");
    let mut random = Random::new(seed);
    let mut below = |limit: usize| usize::try_from(random.below(limit as u64)).unwrap();
    let world = World::new();
    let disk = SmallDisk::mount(&world);
    if disk.is_none() {
        println!("no file system may be mounted here: the disk does not fill up in this run");
    }
    let mut room = Room::in_world(world, RealRegistry::start());
    let image = room.reference("guests/chaos:1");
    room.push(&image, "vmlinuz");
    for name in MACHINES {
        room.apply(&machine(name, "Always", &Boot { image: &image, policy: "IfNotPresent", guest: "halt" }));
    }
    let mut before = settled(&room);
    for round in 0..rounds {
        let fault = match usize::try_from(round).unwrap() {
            first if first < FAULTS.len() => FAULTS[first],
            _ => FAULTS[below(FAULTS.len())],
        };
        let began = Instant::now();
        let victim = below(MACHINES.len());
        let deaths = match fault {
            Fault::DaemonKilled => {
                room.kill_server();
                room.start_server();
                0
            }
            Fault::DaemonReplaced => {
                room.stop_server();
                room.start_server();
                0
            }
            Fault::LauncherKilled | Fault::QemuKilled => {
                let processes =
                    if matches!(fault, Fault::LauncherKilled) { &before.launchers } else { &before.guests };
                kill_process(processes[victim], Signal::KILL).unwrap();
                wait_until_gone(processes[victim]);
                1
            }
            Fault::RegistryDown => {
                room.registry.pause();
                kill_process(before.launchers[victim], Signal::KILL).unwrap();
                wait_until_gone(before.launchers[victim]);
                // The image is there, so the machine comes back without the registry.
                let back = settled(&room);
                assert_ne!(back.launchers, before.launchers);
                room.registry.resume();
                1
            }
            Fault::DiskFull => {
                let filling = disk.as_ref().map(SmallDisk::fill);
                if filling.is_some() {
                    room.kubectl(&["get", "vmi"]);
                    room.kill_server();
                    room.start_server();
                    room.kubectl(&["get", "vmi"]);
                }
                0
            }
            Fault::ClockJump => {
                room.kill_server();
                if room.start_server_at("+2d") {
                    settled(&room);
                    room.kill_server();
                } else {
                    println!("no library for wrong clocks is here (package faketime)");
                }
                room.start_server();
                0
            }
        };
        let after = settled(&room);
        println!("round {round}: {fault:?} was settled after {:?}", began.elapsed());
        let replaced =
            after.instances.iter().filter(|(name, uid)| before.instances.get(*name) != Some(uid)).count();
        assert_eq!(replaced, deaths, "{fault:?}: {before:?} became {after:?}");
        let survivors = after.guests.iter().filter(|guest| before.guests.contains(guest)).count();
        assert_eq!(survivors, MACHINES.len() - deaths, "{fault:?}: {before:?} became {after:?}");
        before = after;
    }
    room.kubectl(&["delete", "vm", "--all"]);
    room.wait_until_empty();
    drop(room);
}
