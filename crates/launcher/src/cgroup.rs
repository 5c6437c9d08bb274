//! The control group of one machine: its launcher, QEMU and its way outside, with a limit on their memory and their number, and on
//! their share of the processors where the Pod has one.
//!
//! ```text
//!  the group that the launcher was started in        /proc/self/cgroup
//!    └─ ferrovirt-POD-UID                            cgroups(7): one directory (v2), or one for each controller (v1)
//! ```
//!
//! The launcher makes its group under the one that it finds itself in, so a limit on whoever started it still holds. It
//! needs the right to do so: root's, or that of a delegated subtree (systemd's `Delegate=`). With version 2 the
//! controllers can only be handed down from a group without processes of its own, or from the host's root.
//!
//! # Guarantees
//! Where the group is, is written down before it is made, so whoever cleans up after a killed launcher finds it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vmm::{Accelerator, LaunchSpec};

/// Where control groups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// The groups of a process, cgroups(7).
const OWN_GROUPS: &str = "/proc/self/cgroup";

/// Most tasks (processes and threads) of a machine: some ten of the launcher, and of QEMU one for each virtual CPU (255 at
/// most), its main ones, and the workers of its VNC server.
const MOST_TASKS: u32 = 1024;

/// The period over which a share of the processors is dealt out, the kernel's default (`cpu.cfs_period_us`).
const PERIOD_MICROSECONDS: u64 = 100_000;

/// Shortest time in a period that the kernel takes as a quota (`min_cfs_quota_period`).
const LEAST_QUOTA_MICROSECONDS: u64 = 1_000;

/// Shares of a process at nice level 0, the default of version 1; the factor between levels is [`LEVEL_FACTOR`].
const SHARES: f64 = 1024.0;

/// The same in version 2.
const WEIGHT: f64 = 100.0;

/// What a nice level less is worth (`sched_prio_to_weight` of the kernel).
const LEVEL_FACTOR: f64 = 1.25;

/// How often, and how long apart, it is tried to remove a group whose processes are just ending.
const REMOVAL: (u32, Duration) = (20, Duration::from_millis(5));

const MIB: u64 = 1 << 20;

/// What a machine takes beside its guest's memory, whatever it is. QEMU 7.2 had 57 MiB of its own, passt 31 MiB (and QEMU's
/// user network as much) and a launcher a few (resident, 2026-11); the rest is room for connections to the guest, and for the page cache of their files.
const PROCESSES: u64 = 256 * MIB;

/// For each virtual CPU, as in KubeVirt's `GetMemoryOverhead`.
const EACH_CPU: u64 = 8 * MIB;

/// For a display: QEMU's copies of 16 MiB of video memory.
const GRAPHICS: u64 = 64 * MIB;

/// The host's page tables of QEMU, and under KVM those of the guest: one byte for so many of the guest's, for both.
const BYTES_PER_PAGE_TABLE_BYTE: u64 = 256;

/// Most that TCG keeps of translated code (`DEFAULT_CODE_GEN_BUFFER_SIZE_1` in QEMU's `accel/tcg/region.c`).
const TRANSLATIONS: u64 = 1024 * MIB;

/// The limit on the memory of a machine, in bytes.
pub fn memory_limit_bytes(spec: &LaunchSpec, accelerator: &Accelerator) -> u64 {
    let guest = spec.memory_bytes;
    let parts = [
        guest,
        guest / BYTES_PER_PAGE_TABLE_BYTE,
        PROCESSES,
        EACH_CPU.saturating_mul(spec.cpus.vcpus()),
        if spec.graphics { GRAPHICS } else { 0 },
        if *accelerator == Accelerator::Kvm { 0 } else { TRANSLATIONS },
    ];
    parts.into_iter().fold(0, u64::saturating_add)
}

/// A limit on the processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuLimit {
    /// Thousandths of a core.
    pub millis: u64,
    /// Nice level of QEMU, from 0 to 19: how the group stands against others. Levels count inside of a group only.
    pub niceness: u8,
}

/// The version of control groups that the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The group of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlGroup {
    version: Version,
    memory: PathBuf,
    pids: PathBuf,
    cpu: PathBuf,
}

/// One file of a group, and what is to be written to it.
type Setting = (PathBuf, String);

impl ControlGroup {
    /// The group `name` under the one that this process is in.
    ///
    /// # Errors
    /// When this process's groups cannot be read, or there are none.
    pub fn below_own(name: &str) -> io::Result<Self> {
        let root = Path::new(ROOT);
        let version = if root.join("cgroup.controllers").exists() { Version::Two } else { Version::One };
        let own = fs::read_to_string(OWN_GROUPS)?;
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no control groups in `{ROOT}`"));
        Self::below(root, version, &own, name).filter(|group| group.parent_exists()).ok_or_else(missing)
    }

    fn below(root: &Path, version: Version, own: &str, name: &str) -> Option<Self> {
        let of = |controller: &str| {
            let path = own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':');
                let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
                let is_it = match version {
                    Version::One => controllers.split(',').any(|one| one == controller),
                    Version::Two => number == "0" && controllers.is_empty(),
                };
                is_it.then_some(path)
            })?;
            let mount = match version {
                Version::One => root.join(controller),
                Version::Two => root.to_owned(),
            };
            Some(mount.join(path.trim_start_matches('/')).join(name))
        };
        Some(Self { version, memory: of("memory")?, pids: of("pids")?, cpu: of("cpu")? })
    }

    fn parent_exists(&self) -> bool {
        self.directories(true).iter().all(|path| path.parent().is_some_and(Path::is_dir))
    }

    /// Its directories. That of the processors' controller is used only for a limit: in a group of its own a process's
    /// nice level counts against the others in there alone, and a start would no longer go ahead of other guests.
    pub fn directories(&self, has_cpu_limit: bool) -> Vec<PathBuf> {
        let mut directories = vec![self.memory.clone()];
        for directory in [Some(&self.pids), has_cpu_limit.then_some(&self.cpu)].into_iter().flatten() {
            if !directories.contains(directory) {
                directories.push(directory.clone());
            }
        }
        directories
    }

    /// Makes it, without a limit on memory, and moves this process into it with all that it will start.
    ///
    /// # Errors
    /// What the kernel says. What was made is removed then, and this process is where it was.
    pub fn enter(&self, cpu: Option<CpuLimit>) -> io::Result<()> {
        let directories = self.directories(cpu.is_some());
        self.make_and_enter(&directories, cpu).inspect_err(|_| {
            if let Err(error) = leave(&directories) {
                tracing::debug!(%error, "a control group stays");
            }
        })
    }

    fn make_and_enter(&self, directories: &[PathBuf], cpu: Option<CpuLimit>) -> io::Result<()> {
        for directory in directories {
            match fs::create_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(cannot("make", directory))?,
            }
            write(&(directory.join("cgroup.procs"), "0".to_owned()))?;
        }
        self.handed_down(cpu.is_some()).iter().chain(&self.settings(cpu)).try_for_each(write)
    }

    /// What gives the group its controllers.
    fn handed_down(&self, has_cpu_limit: bool) -> Option<Setting> {
        let parent = self.memory.parent()?;
        let controllers = if has_cpu_limit { "+memory +pids +cpu" } else { "+memory +pids" };
        let setting = || (parent.join("cgroup.subtree_control"), controllers.to_owned());
        (self.version == Version::Two).then(setting)
    }

    /// The limits that do not depend on what is started.
    fn settings(&self, cpu: Option<CpuLimit>) -> Vec<Setting> {
        let mut settings = vec![(self.pids.join("pids.max"), MOST_TASKS.to_string())];
        if let Some(CpuLimit { millis, niceness }) = cpu {
            let quota = millis.saturating_mul(PERIOD_MICROSECONDS / 1000).max(LEAST_QUOTA_MICROSECONDS);
            let share =
                |of_level_0: f64| (of_level_0 / LEVEL_FACTOR.powi(niceness.into())).round().to_string();
            let of_version = match self.version {
                Version::One => vec![
                    ("cpu.cfs_period_us", PERIOD_MICROSECONDS.to_string()),
                    ("cpu.cfs_quota_us", quota.to_string()),
                    ("cpu.shares", share(SHARES)),
                ],
                Version::Two => {
                    vec![("cpu.max", format!("{quota} {PERIOD_MICROSECONDS}")), ("cpu.weight", share(WEIGHT))]
                }
            };
            settings.extend(of_version.into_iter().map(|(file, value)| (self.cpu.join(file), value)));
        }
        settings
    }

    /// Limits the memory of all in the group.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        let file = match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        write(&(self.memory.join(file), bytes.to_string()))
    }

    /// How many processes were killed since the group was out of memory.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn out_of_memory_kills(&self) -> io::Result<u64> {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = fs::read_to_string(self.memory.join(file))?;
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        // An old kernel does not count them.
        Ok(kills.unwrap_or_default())
    }
}

/// Moves this process out of a group, and removes that.
///
/// # Errors
/// As [`remove`], and where the group above takes no processes (version 2); it goes with that then.
pub fn leave(directories: &[PathBuf]) -> io::Result<()> {
    for directory in directories {
        let parent = directory.parent().unwrap_or(directory);
        write(&(parent.join("cgroup.procs"), "0".to_owned()))?;
    }
    remove(directories)
}

/// Removes the directories of a group whose processes have ended, or end just now; blocks for a tenth of a second at most.
///
/// # Errors
/// When there are still processes in it, and for directories that are no control group.
pub fn remove(directories: &[PathBuf]) -> io::Result<()> {
    for directory in directories {
        if !directory.starts_with(ROOT) || directory.components().any(|part| part.as_os_str() == "..") {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "it is no control group");
            return Err(cannot("remove", directory)(error));
        }
        let (mut tries, pause) = REMOVAL;
        loop {
            match fs::remove_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries > 0 => tries -= 1,
                removed => {
                    removed.map_err(cannot("remove", directory))?;
                    break;
                }
            }
            std::thread::sleep(pause);
        }
    }
    Ok(())
}

fn write((path, value): &Setting) -> io::Result<()> {
    fs::write(path, value).map_err(cannot("write to", path))
}

fn cannot(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("cannot {what} `{}`: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const HYBRID: &str = "9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/\n8:pids:/p\n0::/u\n";

    fn group(version: Version) -> ControlGroup {
        ControlGroup::below(Path::new("/c"), version, HYBRID, "vm").unwrap()
    }

    #[test]
    fn the_group_is_below_that_of_the_process() {
        let directories = |version, has_cpu| {
            let directories = group(version).directories(has_cpu);
            directories.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(directories(Version::One, false), "/c/memory/a/b/vm /c/pids/p/vm");
        assert_eq!(directories(Version::One, true), "/c/memory/a/b/vm /c/pids/p/vm /c/cpu/vm");
        assert_eq!(directories(Version::Two, true), "/c/u/vm");
        assert_eq!(ControlGroup::below(Path::new("/c"), Version::One, "0::/\n", "vm"), None);
        assert_eq!(ControlGroup::below(Path::new("/c"), Version::Two, "4:memory:/\n", "vm"), None);
    }

    #[test]
    fn limits_are_written_as_each_version_has_them() {
        let settings = |version, cpu: Option<(u64, u8)>| {
            let group = group(version);
            let cpu = cpu.map(|(millis, niceness)| CpuLimit { millis, niceness });
            let settings = group.handed_down(cpu.is_some()).into_iter().chain(group.settings(cpu));
            let lines = settings.map(|(path, value)| format!("{}={value}", path.display()));
            lines.collect::<Vec<_>>().join(" ")
        };
        for (version, cpu, expected) in [
            (Version::One, None, "/c/pids/p/vm/pids.max=1024"),
            (
                Version::One,
                Some((1500, 0)),
                "/c/pids/p/vm/pids.max=1024 /c/cpu/vm/cpu.cfs_period_us=100000 \
                 /c/cpu/vm/cpu.cfs_quota_us=150000 /c/cpu/vm/cpu.shares=1024",
            ),
            (Version::Two, None, "/c/u/cgroup.subtree_control=+memory +pids /c/u/vm/pids.max=1024"),
            (
                Version::Two,
                Some((5, 5)),
                "/c/u/cgroup.subtree_control=+memory +pids +cpu /c/u/vm/pids.max=1024 \
                 /c/u/vm/cpu.max=1000 100000 /c/u/vm/cpu.weight=33",
            ),
        ] {
            assert_eq!(settings(version, cpu), expected);
        }
    }

    #[test]
    fn the_limit_is_the_guests_memory_and_what_its_machine_takes() {
        let mut spec = LaunchSpec::new("vm", "/k", 512 * MIB);
        assert_eq!(memory_limit_bytes(&spec, &Accelerator::Kvm), (512 + 2 + 256 + 8) * MIB);
        let tcg = Accelerator::Tcg { reason: String::new() };
        assert_eq!(memory_limit_bytes(&spec, &tcg), (512 + 2 + 256 + 8 + 1024) * MIB);
        (spec.graphics, spec.cpus.cores) = (true, 4);
        assert_eq!(memory_limit_bytes(&spec, &Accelerator::Kvm), (512 + 2 + 256 + 32 + 64) * MIB);
        spec.memory_bytes = u64::MAX;
        assert_eq!(memory_limit_bytes(&spec, &tcg), u64::MAX);
    }

    #[test]
    fn nothing_but_control_groups_is_removed() {
        let elsewhere = tempfile::tempdir().unwrap();
        for path in [elsewhere.path().to_owned(), "/sys/fs/cgroup/../../../tmp/x".into()] {
            assert_eq!(remove(&[path]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert!(elsewhere.path().is_dir());
        remove(&[Path::new(ROOT).join("no-such-group")]).unwrap();
    }
}
