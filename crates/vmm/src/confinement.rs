//! What QEMU can reach besides its guest: a view of the file system with just its own files, and namespaces of its own.
//!
//! ```text
//!  Namespaces::probe ──► Namespaces ─┐                ┌─ trampoline: enter_view ─► QEMU
//!  QemuFacts::probe ─► Installation ─┼─► View::of ────┤
//!  LaunchSpec, RunPaths ─────────────┘    (pure)      └─ supervisor: in_own_process_namespace
//! ```
//!
//! | namespace | what is not there for QEMU |
//! |---|---|
//! | mount | every file that [`View::of`] does not name; the root is an empty file system, and all but the machine's own directory is read-only |
//! | process | other processes, those of other machines under the same user id among them: it can neither signal nor trace them |
//! | network | the host's interfaces, its loopback and abstract UNIX sockets; the guest's card is a UNIX socket in the machine's directory |
//! | IPC, UTS | System V IPC, POSIX message queues, the host's name |
//!
//! All of it needs `CAP_SYS_ADMIN`, and a kernel and security modules that let its holder do so; containers often do not.
//! Who is no root has that capability in a user namespace of its own, user_namespaces(7), where the host lets everybody
//! make one. QEMU is no child of the process that makes it, so it gets no process namespace then: it sees no others,
//! since it has no `/proc`, and cannot trace those outside of its user namespace, but it can signal its user's processes.
//!
//! Whether it works is tried out, and where it does not, machines run without and [`Namespaces`] says why.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{Mode, StatVfsMountFlags};
use serde::{Deserialize, Serialize};

use crate::args::RunPaths;
use crate::host_facts::{Accelerator, HostFacts, QemuFacts};
use crate::launch_spec::LaunchSpec;
use crate::process::{Role, Trampoline, tried};
use crate::run_as::RunAs;

/// Whether QEMU can be given namespaces of its own here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Namespaces {
    /// It can.
    Usable,
    /// It can have all but that of processes, in a user namespace: this process is no root.
    UsableByUser,
    /// This process is no root, and cannot make a user namespace in which it would work.
    Unprivileged {
        /// What was refused and why, for the user.
        reason: String,
    },
    /// The kernel, or who started this process, does not let root do it.
    Refused {
        /// What was refused and why, for the user.
        reason: String,
    },
}

/// What an installed QEMU reads of the file system, whatever its guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installation {
    /// The program, without symbolic links on the way.
    pub program: PathBuf,
    /// Absolute paths of the directories with its libraries and firmware, and of single files.
    pub paths: Vec<PathBuf>,
}

impl Installation {
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.program).chain(&self.paths).map(PathBuf::as_path)
    }
}

/// The network of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// One of its own, with nothing in it.
    Own,
    /// The host's.
    Hosts,
}

/// One file or directory in a view, at the path that it has outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub path: PathBuf,
    pub access: ShownAs,
}

/// What may be done with something in a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShownAs {
    /// Read it, or run it.
    ReadOnly,
    /// Read and write a device.
    Device,
    /// Make files in a directory.
    Writable,
}

impl Shown {
    /// These, to be read.
    pub(crate) fn read_only<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Vec<Self> {
        let shown = |path: &Path| Self { path: path.to_owned(), access: ShownAs::ReadOnly };
        paths.into_iter().map(shown).collect()
    }
}

impl ShownAs {
    /// The trampoline's option for it.
    pub(crate) const ALL: [(&str, Self); 3] =
        [("--show", Self::ReadOnly), ("--show-device", Self::Device), ("--show-writable", Self::Writable)];

    fn flags(self) -> MsFlags {
        let flags = match self {
            Self::ReadOnly => MsFlags::MS_RDONLY | MsFlags::MS_NODEV,
            Self::Device => MsFlags::MS_NOEXEC,
            Self::Writable => MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        };
        flags | MsFlags::MS_NOSUID
    }
}

/// What a QEMU in namespaces of its own is started from, and sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub program: PathBuf,
    pub shown: Vec<Shown>,
}

impl View {
    /// The view of the machine that `spec` describes; `None` where it gets none ([`HostFacts::unconfined`]).
    pub(crate) fn of(facts: &HostFacts, spec: &LaunchSpec, paths: &RunPaths) -> Option<Self> {
        let (Namespaces::Usable | Namespaces::UsableByUser) = &facts.namespaces else { return None };
        let installation = facts.qemu.installation.as_ref()?;
        let of = |access| move |path: &Path| Shown { path: path.to_owned(), access };
        let devices = [("/dev/urandom", spec.rng), ("/dev/kvm", facts.accelerator == Accelerator::Kvm)];
        let devices = devices.iter().filter(|(_, needed)| *needed).map(|(path, _)| Path::new(path));
        let files = [Some(&spec.kernel), spec.initrd.as_ref()].into_iter().flatten().map(PathBuf::as_path);
        let own = paths.qmp_socket.parent();
        let shown = installation
            .files()
            .chain(files)
            .map(of(ShownAs::ReadOnly))
            .chain(devices.map(of(ShownAs::Device)))
            .chain(own.map(of(ShownAs::Writable)));
        Some(Self { program: installation.program.clone(), shown: shown.collect() })
    }
}

impl HostFacts {
    /// Why QEMU of root sees the files and processes of the host, where it does.
    pub fn unconfined(&self) -> Option<String> {
        let reason = match (&self.namespaces, &self.qemu.installation) {
            (Namespaces::Refused { reason }, _) => reason.clone(),
            (Namespaces::Usable, None) => unknown_libraries(&self.qemu),
            (Namespaces::Usable, Some(_))
            | (Namespaces::UsableByUser | Namespaces::Unprivileged { .. }, _) => return None,
        };
        Some(format!("QEMU sees the files and processes of this host as far as its user may: {reason}"))
    }
}

/// Where a view is put together before it becomes the root: a directory of every system, under which no machine has a
/// file.
const BUILDING_SITE: &str = "/proc";

/// Room for the directories and empty files that a view's parts are mounted on.
const ROOT_OPTIONS: &str = "mode=755,size=256k";

const NO_NAME: Option<&str> = None;

impl Namespaces {
    /// Tries it out: in a thread that ends then, well under a millisecond, or in a process, some milliseconds. A user
    /// namespace is a process's, not a thread's.
    pub(crate) fn probe(qemu: &QemuFacts, trampoline: &Trampoline) -> Self {
        if !rustix::process::geteuid().is_root() {
            return match try_as_user(qemu, trampoline) {
                Ok(()) => Self::UsableByUser,
                Err(reason) => Self::Unprivileged { reason },
            };
        }
        // A process namespace needs no process to be made.
        let trial = || in_own_process_namespace(|| Ok(())).and_then(|()| enter_view(&[], Network::Own));
        let tried = std::thread::Builder::new().spawn(trial).map(|thread| thread.join());
        let refused = match tried {
            Ok(Ok(Ok(()))) => return Self::Usable,
            Ok(Ok(Err(error))) | Err(error) => error.to_string(),
            Ok(Err(_)) => "the trial panicked".to_owned(),
        };
        Self::Refused { reason: format!("it cannot have namespaces of its own: {refused}") }
    }
}

/// Has a process go as far as QEMU would, with what every guest's QEMU is shown.
fn try_as_user(qemu: &QemuFacts, trampoline: &Trampoline) -> Result<(), String> {
    let installation = qemu.installation.as_ref().ok_or_else(|| unknown_libraries(qemu))?;
    let shown = Shown::read_only(installation.files());
    let role = Role { run_as: &RunAs::Caller, shown: &shown, network: Network::Own };
    tried(&trampoline.trial(&role).output().map_err(|error| error.to_string())?)
}

pub(crate) fn unknown_libraries(qemu: &QemuFacts) -> String {
    format!("the libraries of `{}` cannot be told, as of a script", qemu.binary.display())
}

/// Leaves the mount, IPC and UTS namespaces of the caller for new ones, and that of the network if it is to be another, in
/// which there is nothing but what is shown. Works on the calling thread; who is no root must have no other, and has all
/// capabilities then, over what is in the new namespaces.
///
/// # Errors
/// What the kernel says, with what was attempted. The thread is of no use then.
pub(crate) fn enter_view(shown: &[Shown], network: Network) -> io::Result<()> {
    let mut own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    match network {
        Network::Own => own |= CloneFlags::CLONE_NEWNET,
        Network::Hosts => {}
    }
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if !user.is_root() {
        // The kernel makes this one first.
        own |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(own).map_err(cannot("make namespaces"))?;
    if !user.is_root() {
        keep_names(user.as_raw(), group.as_raw()).map_err(cannot("map its user and group"))?;
    }
    let root = Path::new(BUILDING_SITE);
    let (private, sealed) = (MsFlags::MS_REC | MsFlags::MS_PRIVATE, ShownAs::ReadOnly.flags());
    mount(NO_NAME, "/", NO_NAME, private, NO_NAME).map_err(cannot("make the mounts private"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), root, Some("tmpfs"), flags, Some(ROOT_OPTIONS)).map_err(cannot("mount a tmpfs"))?;
    // What leads to the files is for the user that QEMU becomes.
    let umask = rustix::process::umask(Mode::from_raw_mode(0o022));
    for Shown { path, access } in shown {
        show(root, path, *access).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot show `{}`: {error}", path.display()))
        })?;
    }
    rustix::process::umask(umask);
    // The old root ends up on top of the new one, and is taken off: pivot_root(2), "pivot_root(".", ".")".
    std::env::set_current_dir(root)?;
    rustix::process::pivot_root(".", ".").map_err(cannot("change the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(cannot("let go of the old root"))?;
    std::env::set_current_dir("/")?;
    let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOEXEC | sealed;
    mount(NO_NAME, "/", NO_NAME, remount, NO_NAME).map_err(cannot("make the root read-only"))?;
    Ok(())
}

/// Has the caller's user and group be the same in its new user namespace as outside; others have no name in it.
fn keep_names(user: u32, group: u32) -> io::Result<()> {
    // Without a say in groups that are not in the map, or the kernel takes none of them: user_namespaces(7).
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{user} {user} 1")),
        ("gid_map", format!("{group} {group} 1")),
    ];
    maps.iter().try_for_each(|(file, map)| fs::write(Path::new("/proc/self").join(file), map))
}

/// Mounts what is at `path` at the same place under `root`. What is not there is not shown; QEMU says best what it misses.
fn show(root: &Path, path: &Path, access: ShownAs) -> io::Result<()> {
    let place = under(root, path)?;
    let is_directory = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?.is_dir(),
    };
    if is_directory {
        fs::create_dir_all(&place)?;
    } else if !place.exists() {
        if let Some(directory) = place.parent() {
            fs::create_dir_all(directory)?;
        }
        File::create(&place)?;
    }
    mount(Some(path), &place, NO_NAME, MsFlags::MS_BIND, NO_NAME)?;
    // The flags of a bind mount are those of its source, whatever it is asked for: mount(2). None of them can be taken away
    // in a user namespace: mount_namespaces(7).
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | access.flags() | flags_of(&place)?;
    Ok(mount(NO_NAME, &place, NO_NAME, flags, NO_NAME)?)
}

/// What the mount that `path` is on forbids.
fn flags_of(path: &Path) -> io::Result<MsFlags> {
    let has = rustix::fs::statvfs(path)?.f_flag;
    let known = [
        (StatVfsMountFlags::RDONLY, MsFlags::MS_RDONLY),
        (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
        (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
        (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
    ];
    let there = known.into_iter().filter(|(flag, _)| has.contains(*flag));
    Ok(there.fold(MsFlags::empty(), |all, (_, flag)| all | flag))
}

/// The place of an absolute path under another root, which it does not leave.
fn under(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut place = root.to_owned();
    let mut depth = 0_usize;
    for component in path.components() {
        depth = match component {
            Component::RootDir => continue,
            Component::Normal(_) => depth + 1,
            Component::ParentDir if depth > 0 => depth - 1,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not below the root")),
        };
        place.push(component);
    }
    if !path.is_absolute() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not absolute"));
    }
    Ok(place)
}

/// Starts a process that is the first in a process namespace of its own; those that this thread starts later are where
/// they always were.
///
/// # Errors
/// What `start` fails with, or what the kernel says.
pub(crate) fn in_own_process_namespace<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // As long as this is not undone, the kernel lets the thread make no other: clone(2), EINVAL. `start` makes none.
    let before = File::open(OWN_PROCESS_NAMESPACE).map_err(cannot("open the process namespace"))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(cannot("make a process namespace"))?;
    let started = start();
    setns(&before, CloneFlags::CLONE_NEWPID).map_err(cannot("return to the process namespace"))?;
    started
}

/// The process namespace of the calling thread, namespaces(7).
const OWN_PROCESS_NAMESPACE: &str = "/proc/thread-self/ns/pid";

fn cannot<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> io::Error {
    move |error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("cannot {what}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::test_facts;

    fn confined() -> HostFacts {
        let mut facts = test_facts();
        facts.namespaces = Namespaces::Usable;
        facts.qemu.installation =
            Some(Installation { program: "/opt/q".into(), paths: vec!["/lib".into(), "/etc/ld".into()] });
        facts
    }

    fn spec() -> LaunchSpec {
        LaunchSpec::new("vm", "/k", 64 << 20)
    }

    /// What is shown, a word for each.
    fn view(facts: &HostFacts, spec: &LaunchSpec) -> Option<String> {
        let view = View::of(facts, spec, &RunPaths::in_directory(Path::new("/run/vm")))?;
        assert_eq!(view.program, Path::new("/opt/q"));
        let word = |shown: &Shown| {
            let how = match shown.access {
                ShownAs::ReadOnly => "",
                ShownAs::Device => ":device",
                ShownAs::Writable => ":writable",
            };
            format!("{}{how}", shown.path.display())
        };
        Some(view.shown.iter().map(word).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_view_has_what_the_machine_needs_and_no_more() {
        let with = |change: fn(&mut HostFacts, &mut LaunchSpec)| {
            let (mut facts, mut spec) = (confined(), spec());
            change(&mut facts, &mut spec);
            view(&facts, &spec)
        };
        for (change, expected) in [
            (
                (|_, _| {}) as fn(&mut HostFacts, &mut LaunchSpec),
                "/opt/q /lib /etc/ld /k /run/vm/qemu:writable",
            ),
            (|_, spec| spec.initrd = Some("/i".into()), "/opt/q /lib /etc/ld /k /i /run/vm/qemu:writable"),
            (
                |facts, _| facts.namespaces = Namespaces::UsableByUser,
                "/opt/q /lib /etc/ld /k /run/vm/qemu:writable",
            ),
            (|_, spec| spec.rng = true, "/opt/q /lib /etc/ld /k /dev/urandom:device /run/vm/qemu:writable"),
            (
                |facts, _| facts.accelerator = Accelerator::Kvm,
                "/opt/q /lib /etc/ld /k /dev/kvm:device /run/vm/qemu:writable",
            ),
        ] {
            assert_eq!(with(change).as_deref(), Some(expected));
        }
    }

    #[test]
    fn where_there_is_no_view_root_is_told_why() {
        let reason = || "it cannot: EPERM".to_owned();
        for (namespaces, has_installation, has_view, told) in [
            (Namespaces::Usable, true, true, None),
            (
                Namespaces::Usable,
                false,
                false,
                Some("the libraries of `/usr/bin/qemu-system-x86_64` cannot be told, as of a script"),
            ),
            (Namespaces::UsableByUser, true, true, None),
            (Namespaces::UsableByUser, false, false, None),
            (Namespaces::Unprivileged { reason: reason() }, true, false, None),
            (Namespaces::Refused { reason: reason() }, true, false, Some("it cannot: EPERM")),
        ] {
            let mut facts = HostFacts { namespaces, ..confined() };
            if !has_installation {
                facts.qemu.installation = None;
            }
            assert_eq!(view(&facts, &spec()).is_some(), has_view, "{facts:?}");
            let told = told.map(|reason| {
                format!("QEMU sees the files and processes of this host as far as its user may: {reason}")
            });
            assert_eq!(facts.unconfined(), told);
        }
    }

    #[test]
    fn nothing_is_shown_outside_of_the_new_root() {
        let root = Path::new("/r");
        for (path, expected) in [
            ("/a/b", Some("/r/a/b")),
            ("/usr/bin/../share", Some("/r/usr/bin/../share")),
            ("/..", None),
            ("/a/../../b", None),
            ("a", None),
            ("../a", None),
        ] {
            assert_eq!(under(root, Path::new(path)).ok().as_deref(), expected.map(Path::new), "{path}");
        }
    }
}
