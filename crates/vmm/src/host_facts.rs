//! What this host is, as far as the QEMU command line depends on it. Everything here is looked at once,
//! before anything is decided: [`qemu_args`](crate::qemu_args) then works on values alone.
//!
//! ```text
//!  QemuFacts::probe ──► QemuFacts ──┐
//!  Namespaces::probe ─► Namespaces ─┤
//!  accelerator probe ─► Accelerator ┼─► HostFacts::probe ──► HostFacts ──► qemu_args, Vm::start
//!  choose_run_as ─────► RunAs ──────┘
//! ```
//!
//! The environment is not read: the search path comes in as a value.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::confinement::{Installation, Namespaces};
use crate::process::{Trampoline, with_own_environment};
use crate::run_as::RunAs;

/// File name of the QEMU system emulator for the one architecture supported so far.
pub const QEMU_BINARY_NAME: &str = "qemu-system-x86_64";

/// Oldest QEMU that has every option which [`qemu_args`](crate::qemu_args) emits: `-action` came with 6.0.
pub const OLDEST_QEMU: QemuVersion = QemuVersion { major: 6, minor: 0, micro: 0 };

/// Name of the cache file that [`QemuFacts::probe`] keeps in the directory it is given; the number is its
/// format.
const CACHE_FILE_NAME: &str = "qemu-facts-3.json";

/// Directories in which distributions keep x86 firmware: beside the binary's prefix and in the system's.
const FIRMWARE_DIRECTORIES: [&str; 4] =
    ["/usr/share/qemu", "/usr/share/seabios", "/usr/local/share/qemu", "/usr/share/qemu-kvm"];

/// Everything about the host that the command line and the start of a virtual machine depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The emulator.
    pub qemu: QemuFacts,
    /// What executes the guest's instructions.
    pub accelerator: Accelerator,
    /// CPUs online.
    pub cpus: u32,
    /// Memory of the host in bytes (`MemTotal`).
    pub memory_bytes: u64,
    /// Whose credentials QEMU gets.
    pub run_as: RunAs,
    /// Whether QEMU gets namespaces of its own.
    pub namespaces: Namespaces,
}

impl HostFacts {
    /// Completes what the caller has found with the host's own size, and tries whether QEMU can have namespaces of its own.
    ///
    /// # Errors
    /// [`ProbeError::Memory`] when `/proc/meminfo` cannot be read or has no `MemTotal`.
    pub fn probe(
        qemu: QemuFacts,
        accelerator: Accelerator,
        run_as: RunAs,
        trampoline: &Trampoline,
    ) -> Result<Self, ProbeError> {
        let text = fs::read_to_string(MEMINFO).map_err(|source| ProbeError::Memory { source })?;
        let memory_bytes = proc_bytes(&text, "MemTotal").ok_or_else(|| ProbeError::Memory {
            source: io::Error::new(io::ErrorKind::InvalidData, "no MemTotal line"),
        })?;
        let cpus = std::thread::available_parallelism().map_or(1, |count| count.get());
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        let namespaces = Namespaces::probe(&qemu, trampoline);
        Ok(Self { qemu, accelerator, cpus, memory_bytes, run_as, namespaces })
    }
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The processor, through `/dev/kvm`.
    Kvm,
    /// QEMU's translator, many times slower.
    Tcg {
        /// Why not KVM, in words for the user.
        reason: String,
    },
}

/// Where the kernel tells the size of memory, proc_meminfo(5).
const MEMINFO: &str = "/proc/meminfo";

/// What names this boot of the host, random(4).
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The bytes that the line `key` of proc_meminfo(5) or proc_pid_status(5) says; the kernel counts in KiB there although it
/// says `kB`. `None` where it says nothing that can be read.
pub fn proc_bytes(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The QEMU binary and what it can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuFacts {
    /// Absolute path of the executable.
    pub binary: PathBuf,
    /// Its version.
    pub version: QemuVersion,
    /// Firmware images found beside it.
    pub firmware: FirmwareFacts,
    /// Whether it can put itself under a seccomp filter.
    pub sandbox: Sandbox,
    /// Whether it has a user network.
    pub slirp: Slirp,
    /// What it reads of the file system; `None` where that cannot be told, as of a script.
    pub installation: Option<Installation>,
}

/// Firmware images that a `-bios` option could name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareFacts {
    /// qboot, the minimal firmware.
    pub qboot: Option<PathBuf>,
    /// SeaBIOS built without what only real machines have.
    pub seabios_microvm: Option<PathBuf>,
}

/// Whether QEMU was built with `-sandbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sandbox {
    /// `-sandbox on,…` works.
    Available,
    /// Built without libseccomp.
    Missing,
}

/// Whether QEMU was built with libslirp, as some distributions' is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slirp {
    /// `-netdev user,…` works.
    Available,
    /// It does not.
    Missing,
}

/// A QEMU release number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QemuVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub micro: u32,
}

impl std::fmt::Display for QemuVersion {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Where to look for QEMU.
#[derive(Debug, Clone, Default)]
pub struct QemuSearch {
    /// This file and no other, when given.
    pub binary: Option<PathBuf>,
    /// The `PATH` to search otherwise.
    pub search_path: std::ffi::OsString,
    /// Directory that may keep the answer for the next call; created when missing. `None` asks QEMU each
    /// time.
    pub cache_directory: Option<PathBuf>,
}

/// Why the host could not be described.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No QEMU in the search path.
    #[error("cannot find `{name}` in the search path `{search_path}`")]
    NotFound {
        /// File name looked for.
        name: &'static str,
        /// Directories looked in.
        search_path: String,
    },
    /// The file does not exist or cannot be looked at.
    #[error("cannot use `{}` as QEMU", path.display())]
    Inspect {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It would not start.
    #[error("cannot run `{} --version`", path.display())]
    Run {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ran and said something else than a QEMU version.
    #[error("`{} --version` is not QEMU's answer: `{answer}`", path.display())]
    NotQemu {
        /// The file.
        path: PathBuf,
        /// First line of its output.
        answer: String,
    },
    /// A QEMU without options that are needed.
    #[error("`{}` is QEMU {found}, older than {OLDEST_QEMU}", path.display())]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: QemuVersion,
    },
    /// The host's memory could not be told.
    #[error("cannot read the size of memory from `{MEMINFO}`")]
    Memory {
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ProbeError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { .. } => Some(
                "install QEMU (Debian, Ubuntu: `apt-get install qemu-system-x86`; \
                 Fedora: `dnf install qemu-system-x86-core`)"
                    .to_owned(),
            ),
            Self::TooOld { .. } => Some(format!("install QEMU {OLDEST_QEMU} or newer")),
            Self::Inspect { .. } | Self::Run { .. } | Self::NotQemu { .. } => {
                Some(format!("name an executable `{QEMU_BINARY_NAME}`"))
            }
            Self::Memory { .. } => None,
        }
    }
}

impl QemuFacts {
    /// Finds QEMU and asks it what it is; about 10 ms, or well under 1 ms from the cache.
    ///
    /// The cached answer holds for the same path, modification time, size and inode only, so an upgraded QEMU
    /// is asked again. A cache that cannot be read or written costs time and nothing else.
    ///
    /// # Errors
    /// All of [`ProbeError`] but `Memory`; none passes by itself, so none is worth a retry.
    pub fn probe(search: &QemuSearch) -> Result<Self, ProbeError> {
        let found = match &search.binary {
            Some(binary) => binary.clone(),
            None => find_in_path(OsStr::new(QEMU_BINARY_NAME), &search.search_path).ok_or_else(|| {
                ProbeError::NotFound {
                    name: QEMU_BINARY_NAME,
                    search_path: search.search_path.to_string_lossy().into_owned(),
                }
            })?,
        };
        let inspect = |source| ProbeError::Inspect { path: found.clone(), source };
        let binary = std::path::absolute(&found).map_err(inspect)?;
        let identity = FileIdentity::of(&binary).map_err(inspect)?;
        let cache_file = search.cache_directory.as_ref().map(|directory| directory.join(CACHE_FILE_NAME));
        if let Some(facts) = cache_file.as_deref().and_then(|file| cached(file, &identity)) {
            return Ok(facts);
        }
        let facts = ask(binary)?;
        if let Some(file) = &cache_file
            && let Err(error) = keep(file, CacheEntry { identity, facts: facts.clone() })
        {
            tracing::debug!(file = %file.display(), %error, "the answer of QEMU is not cached");
        }
        Ok(facts)
    }
}

/// What makes a file the same file as before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileIdentity {
    path: PathBuf,
    inode: u64,
    size_bytes: u64,
    modified_seconds: i64,
    modified_nanoseconds: i64,
}

impl FileIdentity {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self {
            path: path.to_owned(),
            inode: metadata.ino(),
            size_bytes: metadata.size(),
            modified_seconds: metadata.mtime(),
            modified_nanoseconds: metadata.mtime_nsec(),
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheEntry {
    identity: FileIdentity,
    facts: QemuFacts,
}

/// The cached facts if they are about the same file; an unreadable cache is an absent one.
fn cached(file: &Path, identity: &FileIdentity) -> Option<QemuFacts> {
    let entry: CacheEntry = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    (entry.identity == *identity).then_some(entry.facts)
}

/// Replaces the cache file in one step. No fsync: losing it costs one question to QEMU.
fn keep(file: &Path, entry: CacheEntry) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let temporary = directory.join(format!(".{CACHE_FILE_NAME}.{}", std::process::id()));
    fs::write(&temporary, serde_json::to_vec(&entry)?)?;
    fs::rename(&temporary, file).inspect_err(|_| {
        // Removing the leftover is a courtesy; the rename's error is the one that matters.
        let _ = fs::remove_file(&temporary);
    })
}

/// First executable file `name` in the directories of `search_path`.
pub fn find_in_path(name: &OsStr, search_path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search_path)
        .filter(|directory| !directory.as_os_str().is_empty())
        .map(|directory| directory.join(name))
        .find(|candidate| {
            fs::metadata(candidate).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
        })
}

/// Runs `--version` and looks for what lies beside the binary.
fn ask(binary: PathBuf) -> Result<QemuFacts, ProbeError> {
    let answer = output_of(&binary, &["--version"])?;
    let version = parse_version(&answer).ok_or_else(|| ProbeError::NotQemu {
        path: binary.clone(),
        answer: answer.lines().next().unwrap_or_default().chars().take(200).collect(),
    })?;
    if version < OLDEST_QEMU {
        return Err(ProbeError::TooOld { path: binary, found: version });
    }
    let help = output_of(&binary, &["-help"])?;
    let sandbox = if help.lines().any(|line| line.starts_with("-sandbox ")) {
        Sandbox::Available
    } else {
        Sandbox::Missing
    };
    // One name a line, since QEMU 4.0.
    let backends = output_of(&binary, &["-netdev", "help"])?;
    let slirp =
        if backends.lines().any(|line| line.trim() == "user") { Slirp::Available } else { Slirp::Missing };
    let firmware = FirmwareFacts {
        qboot: find_firmware(&binary, "qboot.rom"),
        seabios_microvm: find_firmware(&binary, "bios-microvm.bin"),
    };
    let installation = installation(&binary);
    Ok(QemuFacts { binary, version, firmware, sandbox, slirp, installation })
}

/// Asks the dynamic loader and QEMU itself where they read.
fn installation(binary: &Path) -> Option<Installation> {
    let asked = || -> Result<Option<Installation>, ProbeError> {
        let inspect = |source| ProbeError::Inspect { path: binary.to_owned(), source };
        let program = fs::canonicalize(binary).map_err(inspect)?;
        let mut magic = [0; ELF_MAGIC.len()];
        File::open(&program).and_then(|mut file| file.read_exact(&mut magic)).map_err(inspect)?;
        if magic != ELF_MAGIC {
            return Ok(None);
        }
        let mut trace = Command::new(&program);
        with_own_environment(&mut trace).env("LD_TRACE_LOADED_OBJECTS", "1").arg("--version");
        let libraries = library_directories(&said_by(trace)?);
        if libraries.is_empty() {
            return Ok(None);
        }
        let data = output_of(&program, &["-L", "help"])?;
        let data = data.lines().map(PathBuf::from).filter(|path| path.is_absolute());
        let mut paths = Vec::new();
        for path in libraries.into_iter().chain(data).chain([LOADER_CACHE.into()]) {
            // What is not there cannot be read. Symbolic links lead to the real place from others in there.
            let Ok(real) = fs::canonicalize(&path) else { continue };
            for path in [path, real] {
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
        Ok(Some(Installation { program, paths }))
    };
    asked().unwrap_or_else(|error| {
        tracing::debug!(%error, "it cannot be told what QEMU reads");
        None
    })
}

/// How a program begins that the dynamic loader can be asked about, elf(5).
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

/// Where the loader finds libraries that are in none of its own directories, ld.so(8).
const LOADER_CACHE: &str = "/etc/ld.so.cache";

/// The directories of the libraries in an answer of the loader: `name => /path (address)`, or `/path (address)`.
fn library_directories(answer: &str) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    for line in answer.lines() {
        let file = line.split_whitespace().find(|word| word.starts_with('/')).map(Path::new);
        let directory = file.and_then(Path::parent).filter(|directory| directory.parent().is_some());
        if let Some(directory) = directory.map(Path::to_owned)
            && !directories.contains(&directory)
        {
            directories.push(directory);
        }
    }
    directories
}

fn output_of(binary: &Path, arguments: &[&str]) -> Result<String, ProbeError> {
    let mut command = Command::new(binary);
    // As it is started later: a QEMU that needs more would answer now and fail then.
    with_own_environment(&mut command).args(arguments);
    said_by(command)
}

fn said_by(mut command: Command) -> Result<String, ProbeError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ProbeError::Run { path: command.get_program().into(), source })?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.is_empty() {
        text = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    Ok(text)
}

/// The number in `QEMU emulator version 7.2.22 (Debian …)`; a missing third part is 0.
fn parse_version(answer: &str) -> Option<QemuVersion> {
    let rest = answer.lines().next()?.strip_prefix("QEMU emulator version ")?;
    let number = rest.split(|character: char| !character.is_ascii_digit() && character != '.').next()?;
    let mut parts = number.split('.').map(str::parse::<u32>);
    let major = parts.next()?.ok()?;
    let minor = parts.next()?.ok()?;
    let micro = parts.next().and_then(Result::ok).unwrap_or(0);
    Some(QemuVersion { major, minor, micro })
}

fn find_firmware(binary: &Path, name: &str) -> Option<PathBuf> {
    let beside = binary.parent().and_then(Path::parent).map(|prefix| prefix.join("share/qemu"));
    let system = FIRMWARE_DIRECTORIES.iter().map(PathBuf::from);
    beside.into_iter().chain(system).map(|directory| directory.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn versions_of_distributions_and_of_git_builds_are_read() {
        for (answer, expected) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c)", Some((7, 2, 22))),
            ("QEMU emulator version 10.0.2 (qemu-10.0.2-1.fc42)", Some((10, 0, 2))),
            ("QEMU emulator version 9.1.50 (v9.1.0-1234-gabcdef)", Some((9, 1, 50))),
            ("QEMU emulator version 8.2", Some((8, 2, 0))),
            ("qemu-img version 7.2.22", None),
            ("QEMU emulator version seven", None),
            ("", None),
        ] {
            let found = parse_version(answer).map(|version| (version.major, version.minor, version.micro));
            assert_eq!(found, expected, "{answer}");
        }
    }

    #[test]
    fn libraries_are_where_the_loader_says() {
        let answer = "\tlinux-vdso.so.1 (0x00007f6c26fab000)\n\tlibz.so.1 => /lib/x/libz.so.1 (0x0)\n\
                      \tlibc.so.6 => /lib/x/libc.so.6 (0x1)\n\t/lib64/ld-linux-x86-64.so.2 (0x2)\n\
                      \tlibodd.so => /libodd.so (0x3)\n\tlibgone.so => not found\n";
        assert_eq!(library_directories(answer), [Path::new("/lib/x"), Path::new("/lib64")]);
        assert_eq!(library_directories("QEMU emulator version 9.0.0"), Vec::<PathBuf>::new());
    }

    #[test]
    fn total_memory_is_in_bytes() {
        assert_eq!(
            proc_bytes("MemFree: 1 kB\nMemTotal:       24683456 kB\n", "MemTotal"),
            Some(24_683_456 * 1024)
        );
        assert_eq!(proc_bytes("MemFree: 1 kB\n", "MemTotal"), None);
        assert_eq!(proc_bytes("MemTotal: many kB\n", "MemTotal"), None);
    }

    #[test]
    fn the_cache_answers_for_the_same_file_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let binary = directory.path().join(QEMU_BINARY_NAME);
        let pretend = |version: &str| {
            // A shell script that answers as QEMU does and counts how often it is asked.
            let script = format!(
                "#!/bin/sh\necho x >> {0}/asked\n\
                 case $1 in --version) echo QEMU emulator version {version};; -netdev) echo tap; echo user;; *) echo '-sandbox on';; esac\n",
                directory.path().display()
            );
            fs::write(&binary, script).unwrap();
            fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        };
        let search = QemuSearch {
            binary: None,
            search_path: directory.path().as_os_str().to_owned(),
            cache_directory: Some(directory.path().join("cache")),
        };
        let asked = || fs::read_to_string(directory.path().join("asked")).unwrap().lines().count();

        pretend("8.2.1");
        let first = QemuFacts::probe(&search).unwrap();
        assert_eq!(first.version.to_string(), "8.2.1");
        assert_eq!(first.sandbox, Sandbox::Available);
        assert_eq!(first.slirp, Slirp::Available);
        assert_eq!(asked(), 3, "a question each for the version, the options and the networks");
        assert_eq!(QemuFacts::probe(&search).unwrap(), first);
        assert_eq!(asked(), 3, "the second answer comes from the cache");

        pretend("10.0.12");
        assert_eq!(QemuFacts::probe(&search).unwrap().version.to_string(), "10.0.12");
        fs::write(directory.path().join("cache").join(CACHE_FILE_NAME), b"{garbage").unwrap();
        assert_eq!(QemuFacts::probe(&search).unwrap().version.to_string(), "10.0.12");

        pretend("5.2.0");
        let error = QemuFacts::probe(&search).unwrap_err();
        assert!(matches!(error, ProbeError::TooOld { .. }), "{error:?}");
    }

    #[test]
    fn no_qemu_is_said_with_a_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let search = QemuSearch { search_path: directory.path().into(), ..QemuSearch::default() };
        let error = QemuFacts::probe(&search).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot find `qemu-system-x86_64` in the search path `{}`", directory.path().display())
        );
        assert!(error.hint().unwrap().contains("apt-get install qemu-system-x86"));
    }
}
