//! What the machines of this node use of it, as the kernel counts it (proc(5)).

mod meter;

pub use meter::{Meter, PodReading, Reading, Used};

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use launcher::agent_report::AgentReport;
use launcher::guest_memory::GuestMemory;
use launcher::memory::proc_bytes;
use launcher::network::Traffic;
use serde::de::DeserializeOwned;

/// What QEMU of one machine has used since it was started.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// Namespace of the instance.
    pub namespace: String,
    /// Its name.
    pub instance: String,
    /// Seconds of processor time in QEMU and, under KVM, in the guest.
    pub user_seconds: f64,
    /// Seconds of processor time in the host's kernel.
    pub system_seconds: f64,
    /// Bytes of memory that are not swapped out.
    pub resident_bytes: u64,
    /// What its virtual processors have used, by their numbers.
    pub virtual_cpus: BTreeMap<u32, VirtualCpu>,
    /// What has gone over the guest's card, as its launcher told within the last second; none without a card.
    pub traffic: Option<Traffic>,
    /// What the guest tells of its memory, as its launcher told within the last seconds; none without a balloon.
    pub guest_memory: Option<GuestMemory>,
    /// What its agent measures in it, as its launcher told within the last minutes; none without an agent.
    pub agent_report: Option<AgentReport>,
}

/// What the thread of a virtual processor has used.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualCpu {
    /// Seconds of processor time, in the guest, QEMU and the host's kernel.
    pub seconds: f64,
    /// Seconds in which it could have run and waited for a processor; none where the kernel does not count them
    /// (`CONFIG_SCHED_INFO`).
    pub delay_seconds: Option<f64>,
}

/// What the kernel counts in for programs, whatever it counts in itself (`USER_HZ`, the same on all of Linux' platforms
/// that QEMU runs on).
const TICKS_PER_SECOND: f64 = 100.0;

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND
}

/// How the names of guests' QEMUs begin; the kernel keeps fifteen bytes of them. A user network has another name.
const QEMU: &str = "qemu-system";

/// What the machines whose Pods are in `pods_dir` use; those without a QEMU are left out. Blocks for some microseconds for
/// each process of the host.
///
/// # Errors
/// When the directory or `/proc` cannot be read.
pub fn machines(pods_dir: &Path) -> io::Result<Vec<Usage>> {
    let pods = crate::pods::started(pods_dir)?;
    if pods.is_empty() {
        return Ok(Vec::new());
    }
    let processes = Processes::of_host()?;
    // One that has ended meanwhile uses nothing.
    let usage = |pod: crate::pods::Started| {
        let qemu = processes.qemu_of(pod.launcher?)?;
        Some(Usage {
            namespace: pod.namespace,
            instance: pod.instance,
            user_seconds: seconds(qemu.user_ticks),
            system_seconds: seconds(qemu.system_ticks),
            resident_bytes: qemu.resident_bytes()?,
            virtual_cpus: qemu.virtual_cpus().unwrap_or_default(),
            // A machine without a card has no such file, nor has one of a launcher that is older than this.
            traffic: told(&pod.directory.traffic()),
            // Nor has one without a balloon, or in its first seconds.
            guest_memory: told(&pod.directory.guest_memory()),
            agent_report: told(&pod.directory.agent_report()),
        })
    };
    Ok(pods.into_iter().filter_map(usage).collect())
}

/// What a launcher has told of its guest, where it has.
fn told<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let read = serde_json::from_slice(&fs::read(path).ok()?);
    read.inspect_err(|error| tracing::debug!(path = %path.display(), %error, "what a guest does is left out"))
        .ok()
}

/// A process, or a thread, as its `stat` in `/proc` tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    id: u32,
    parent: u32,
    name: String,
    user_ticks: u64,
    system_ticks: u64,
}

impl Process {
    /// Fields 2, 4, 14 and 15 of proc_pid_stat(5).
    fn read(id: u32, stat: &str) -> Option<Self> {
        // A name may hold blanks and brackets.
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            id,
            parent: u32::try_from(field(4)?).ok()?,
            name: name.to_owned(),
            user_ticks: field(14)?,
            system_ticks: field(15)?,
        })
    }

    /// Its memory that is not swapped out; none when it has ended.
    fn resident_bytes(&self) -> Option<u64> {
        proc_bytes(&fs::read_to_string(format!("/proc/{}/status", self.id)).ok()?, "VmRSS")
    }

    /// What its threads that are virtual processors have used; none when it has ended.
    fn virtual_cpus(&self) -> Option<BTreeMap<u32, VirtualCpu>> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id)).ok()?;
        let used = threads.filter_map(|entry| {
            let directory = entry.ok()?.path();
            // A thread that has ended meanwhile has no file any more.
            let thread = Self::read(self.id, &fs::read_to_string(directory.join("stat")).ok()?)?;
            let number = virtual_cpu(&thread.name)?;
            let schedule = fs::read_to_string(directory.join("schedstat"));
            let used = VirtualCpu {
                seconds: seconds(thread.user_ticks + thread.system_ticks),
                delay_seconds: schedule.ok().and_then(|schedule| run_delay(&schedule)),
            };
            Some((number, used))
        });
        Some(used.collect())
    }
}

/// Which virtual processor a thread is, by the name that QEMU gives it: `CPU 0/KVM`, `CPU 0/TCG`.
fn virtual_cpu(thread: &str) -> Option<u32> {
    let (number, accelerator) = thread.strip_prefix("CPU ")?.split_once('/')?;
    matches!(accelerator, "KVM" | "TCG").then(|| number.parse().ok())?
}

/// Seconds that a thread has waited on a run queue: the second field of its `schedstat`, in nanoseconds (the kernel's
/// `Documentation/scheduler/sched-stats.rst`). libvirt tells the same as a processor's delay.
fn run_delay(schedule: &str) -> Option<f64> {
    let nanoseconds: u64 = schedule.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds).as_secs_f64())
}

/// The processes of the host.
struct Processes {
    by_id: HashMap<u32, Process>,
    children: HashMap<u32, Vec<u32>>,
}

impl Processes {
    /// Those that there are.
    fn of_host() -> io::Result<Self> {
        Ok(Self::new(fs::read_dir("/proc")?.filter_map(|entry| {
            // What is no number is no process.
            let name = entry.ok()?.file_name();
            let id: u32 = name.to_str()?.parse().ok()?;
            // One that has ended meanwhile has no file any more.
            Process::read(id, &fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
        })))
    }

    fn new(processes: impl Iterator<Item = Process>) -> Self {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        let by_id = processes
            .map(|process| {
                children.entry(process.parent).or_default().push(process.id);
                (process.id, process)
            })
            .collect();
        Self { by_id, children }
    }

    /// A launcher, its children, and theirs: all processes of its Pod.
    fn of_pod(&self, launcher: u32) -> impl Iterator<Item = &Process> {
        let children = |id: u32| self.children.get(&id).into_iter().flatten().copied();
        let below = children(launcher).chain(children(launcher).flat_map(children));
        std::iter::once(launcher).chain(below).filter_map(|id| self.by_id.get(&id))
    }

    /// The QEMU of a launcher.
    fn qemu_of(&self, launcher: u32) -> Option<&Process> {
        self.of_pod(launcher).find(|process| process.name.starts_with(QEMU))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn process(id: u32, parent: u32, name: &str) -> Process {
        Process { id, parent, name: name.to_owned(), user_ticks: 1, system_ticks: 2 }
    }

    #[test]
    fn a_line_of_proc_is_read_whatever_the_process_calls_itself() {
        let line = |name: &str| {
            format!(
                "77 ({name}) S 12 77 77 0 -1 4194560 200 0 0 0 150 31 0 0 20 0 4 0 900 1048576 256 18446744073709551615 1 1"
            )
        };
        for name in ["qemu-system-x86", "a b", ") S 1 (", ""] {
            let expected = Process { user_ticks: 150, system_ticks: 31, ..process(77, 12, name) };
            assert_eq!(Process::read(77, &line(name)), Some(expected), "{name}");
        }
        for broken in ["", "77 (x", "77 (x) S 12", "77 (x) S -1 0"] {
            assert_eq!(Process::read(77, broken), None, "{broken}");
        }
    }

    #[test]
    fn threads_of_virtual_processors_are_known_by_their_names() {
        for (name, number) in [
            ("CPU 0/KVM", Some(0)),
            ("CPU 255/TCG", Some(255)),
            ("CPU 4294967296/K", None),
            ("CPU 1/HVF", None),
            ("CPU -1/TCG", None),
            ("CPU 1", None),
            ("ALL CPUs/TCG", None),
            ("worker", None),
        ] {
            assert_eq!(virtual_cpu(name), number, "{name}");
        }
        for (schedule, delay) in
            [("78276 1500000000 2\n", Some(1.5)), ("0 0 0", Some(0.0)), ("1", None), ("1 x 2", None)]
        {
            assert_eq!(run_delay(schedule), delay, "{schedule}");
        }
    }

    #[test]
    fn a_thread_is_told_with_what_it_has_used() {
        let busy = || {
            let began = std::time::Instant::now();
            let own = || fs::read_to_string("/proc/thread-self/stat").unwrap();
            // Until the kernel has counted something.
            while Process::read(0, &own()).unwrap().user_ticks < 2 {
                assert!(began.elapsed() < Duration::from_secs(60));
            }
            let this = Process { id: std::process::id(), ..process(0, 0, "") };
            this.virtual_cpus().unwrap()
        };
        let thread = std::thread::Builder::new().name("CPU 7/TCG".to_owned()).spawn(busy).unwrap();
        let told = thread.join().unwrap();
        assert_eq!(told.keys().collect::<Vec<_>>(), [&7]);
        assert!(told[&7].seconds >= 0.02 && told[&7].delay_seconds.is_some(), "{told:?}");
        let ended = Process { id: u32::MAX, ..process(0, 0, "") };
        assert_eq!(ended.virtual_cpus(), None);
    }

    #[test]
    fn qemu_is_found_below_its_launcher_alone() {
        let processes = Processes::new(
            [
                process(10, 1, "ferrovirt"),
                process(11, 10, "passt"),
                process(19, 20, "user-network"),
                process(12, 10, "qemu-system-x86"),
                process(20, 1, "ferrovirt"),
                process(21, 20, "ferrovirt"),
                process(22, 21, "qemu-system-x86"),
                process(30, 1, "ferrovirt"),
            ]
            .into_iter(),
        );
        for (launcher, qemu) in [(10, Some(12)), (20, Some(22)), (30, None), (99, None)] {
            assert_eq!(processes.qemu_of(launcher).map(|process| process.id), qemu, "{launcher}");
        }
    }
}
