//! Kernel files: what they are, which version, and how they become something that QEMU's `-kernel` takes.
//!
//! ```text
//! file ─► recognise ─┬─ bzImage ─────────────────────────► given to QEMU as it is, or the ELF file inside
//!                    ├─ ELF with a PVH note ─────────────► given to QEMU as it is
//!                    ├─ gzip, zstd, EFI zboot ─► unpack ─► recognise what is inside (two levels at most)
//!                    └─ anything else ───────────────────► an error that says what it is
//! ```
//!
//! Everything is read through one narrow interface: a few bytes at given places, of a file or of a compressed
//! stream that is unpacked as it goes by. No kernel is ever held in memory, so the size of a file (or what a
//! few bytes claim to unpack to) costs time at most, and [`MAX_UNPACKED_BYTES`] bounds that.

mod bzimage;
mod elf;
mod initrd;
mod lz4;
mod other;
mod prepare;
mod pvh;
mod source;
mod version;
mod wrapped;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use initrd::{InitrdKind, inspect_initrd};
pub use prepare::{EntryChoice, KernelEntry, PreparedKernel, prepare};

use source::{FileSource, Source};

/// A kernel that unpacks to more is refused. The largest distribution kernels unpack to about 100 MB; one
/// with all its debugging information may have 400 MB.
pub const MAX_UNPACKED_BYTES: u64 = 512 << 20;

/// Compressed within compressed is followed so far.
const MAX_WRAPPINGS: usize = 2;

/// The kinds of kernel that QEMU's `-kernel` takes on x86.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KernelFormat {
    /// Linux/x86 boot protocol: `vmlinuz`, `arch/x86/boot/bzImage`.
    BzImage,
    /// ELF with a note that names its PVH entry point: `vmlinux` of a kernel with `CONFIG_PVH`.
    ElfPvh,
}

impl fmt::Display for KernelFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::BzImage => "bzImage",
            Self::ElfPvh => "ELF with PVH entry",
        })
    }
}

/// What a kernel is wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Wrapping {
    /// gzip, as in `Image.gz`.
    Gzip,
    /// zstd, as in `vmlinux.zst`.
    Zstd,
    /// An EFI application that unpacks itself (`CONFIG_EFI_ZBOOT`).
    EfiZboot,
}

impl fmt::Display for Wrapping {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::EfiZboot => "EFI zboot",
        })
    }
}

/// What a kernel runs on. Kernels for anything else are an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Architecture {
    /// 64-bit x86.
    #[serde(rename = "amd64")]
    X86_64,
    /// 32-bit x86, which runs on a 64-bit machine too.
    #[serde(rename = "386")]
    X86,
}

impl Architecture {
    /// Its name in container images.
    pub fn oci_name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::X86 => "386",
        }
    }
}

/// What a kernel file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelInfo {
    /// The kernel itself, unwrapped.
    pub format: KernelFormat,
    /// What it is wrapped in, outermost first; empty for most.
    pub wrappings: Vec<Wrapping>,
    /// What it runs on.
    pub architecture: Architecture,
    /// The release as `uname -r` prints it, such as `6.1.0-56-cloud-amd64`, if the file tells.
    pub version: Option<String>,
    /// The whole version text, with builder and build number; one line, at most 1 KiB.
    pub banner: Option<String>,
}

/// A file cannot be used as a kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The file cannot be opened or read.
    #[error("cannot read kernel `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The same of an initrd.
    #[error("cannot read initrd `{}`", path.display())]
    ReadInitrd {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is something else.
    #[error("`{}` is not a kernel that QEMU can boot: it is {found}", path.display())]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What it is, with its article.
        found: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Something for another machine.
    #[error("`{}` is for another architecture: it is {found}, and the guest is x86_64", path.display())]
    OtherArchitecture {
        /// The file.
        path: PathBuf,
        /// What it is, with its article.
        found: String,
    },
    /// A kernel by its header, but not a whole one.
    #[error("kernel `{}` is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The compressed data does not unpack.
    #[error("cannot unpack kernel `{}` ({wrapping})", path.display())]
    Unpack {
        /// The file.
        path: PathBuf,
        /// What it is wrapped in.
        wrapping: Wrapping,
        /// The reason.
        source: io::Error,
    },
    /// The unwrapped kernel cannot be written.
    #[error("cannot write the unpacked kernel to `{}`", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl KernelError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotAKernel { hint, .. } => hint.clone(),
            Self::OtherArchitecture { .. } => Some("give a kernel built for x86_64 (amd64)".to_owned()),
            Self::Damaged { .. } | Self::Unpack { .. } => Some(
                "the copy or the download may be incomplete: compare its size and checksum with the original"
                    .to_owned(),
            ),
            Self::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space there".to_owned())
            }
            Self::Read { path, source } | Self::ReadInitrd { path, source } => Some(match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    format!("make `{}` readable for this user, and its directories passable", path.display())
                }
                _ => format!("check the path: `ls -l {}`", path.display()),
            }),
            Self::Write { path, .. } => Some(format!(
                "make `{}` writable, or choose another place with `--state-dir`",
                path.display()
            )),
        }
    }
}

/// Says what kernel `path` holds.
///
/// # Errors
///
/// [`KernelError`] says what else the file is, or why it cannot be read.
pub fn inspect(path: &Path) -> Result<KernelInfo, KernelError> {
    let source = FileSource::new(open(path)?);
    inspect_source(Box::new(source)).map_err(|fault| fault.at(path))
}

/// Like [`inspect`], for a kernel in memory; `name` stands for its path in errors.
///
/// # Errors
///
/// [`KernelError`] says what else the bytes are.
pub fn inspect_bytes(name: &Path, bytes: &[u8]) -> Result<KernelInfo, KernelError> {
    inspect_source(Box::new(source::BytesSource(bytes.to_vec()))).map_err(|fault| fault.at(name))
}

/// Opens a kernel's file.
fn open(path: &Path) -> Result<File, KernelError> {
    match open_regular(path) {
        Ok(Opened::File(file)) => Ok(file),
        Ok(Opened::Other(found)) => {
            Err(KernelError::NotAKernel { path: path.to_owned(), found: found.to_owned(), hint: None })
        }
        Err(source) => Err(KernelError::Read { path: path.to_owned(), source }),
    }
}

/// What is at a path.
enum Opened {
    File(File),
    /// Something else, with its article.
    Other(&'static str),
}

/// Opens a regular file; with a pipe or a device, it neither waits for anything nor sets anything off.
fn open_regular(path: &Path) -> io::Result<Opened> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?);
    let kind = file.metadata()?.file_type();
    Ok(if kind.is_file() {
        Opened::File(file)
    } else if kind.is_dir() {
        Opened::Other("a directory")
    } else {
        Opened::Other("a device, pipe or socket")
    })
}

/// Why something is no kernel, before it is known where it was read from.
#[derive(Debug)]
enum Fault {
    Read(io::Error),
    NotAKernel { found: String, hint: Option<String> },
    OtherArchitecture { found: String },
    Damaged(String),
    Unpack { wrapping: Wrapping, source: io::Error },
}

impl Fault {
    fn not_a_kernel(found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::NotAKernel { found: found.into(), hint: Some(hint.into()) }
    }

    fn at(self, path: &Path) -> KernelError {
        let path = path.to_owned();
        match self {
            Self::Read(source) => KernelError::Read { path, source },
            Self::NotAKernel { found, hint } => KernelError::NotAKernel { path, found, hint },
            Self::OtherArchitecture { found } => KernelError::OtherArchitecture { path, found },
            Self::Damaged(what) => KernelError::Damaged { path, what },
            Self::Unpack { wrapping, source } => KernelError::Unpack { path, wrapping, source },
        }
    }
}

/// A read that failed is the fault of the innermost wrapping, if there is one, else of the file.
impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.downcast::<source::UnpackFailure>() {
            Ok(failure) => Self::Unpack { wrapping: failure.wrapping, source: failure.cause },
            Err(error) => Self::Read(error),
        }
    }
}

/// What a source holds, one level deep.
enum Layer {
    /// A kernel as QEMU takes it.
    Kernel(KernelInfo),
    /// A kernel may be inside.
    Wrapped(wrapped::Payload),
}

fn recognise(source: &mut dyn Source) -> Result<Layer, Fault> {
    if let Some(info) = bzimage::inspect(source)? {
        return Ok(Layer::Kernel(info));
    }
    if let Some(info) = elf::inspect(source)? {
        return Ok(Layer::Kernel(info));
    }
    if let Some(payload) = wrapped::recognise(source)? {
        return Ok(Layer::Wrapped(payload));
    }
    Err(other::describe(source)?)
}

/// The kernel in `source`: what it is, and its own bytes.
fn resolve(source: Box<dyn Source>) -> Result<(KernelInfo, Box<dyn Source>), Fault> {
    let mut wrappings = Vec::new();
    let mut source = source;
    for _ in 0..=MAX_WRAPPINGS {
        match recognise(source.as_mut()).map_err(|fault| wrapped::inside(&wrappings, fault))? {
            Layer::Kernel(info) => return Ok((KernelInfo { wrappings, ..info }, source)),
            Layer::Wrapped(payload) => {
                wrappings.extend(&payload.wrappings);
                source = payload.open(source);
            }
        }
    }
    Err(Fault::NotAKernel { found: "something compressed more than twice".to_owned(), hint: None })
}

fn inspect_source(source: Box<dyn Source>) -> Result<KernelInfo, Fault> {
    resolve(source).map(|(info, _)| info)
}

#[cfg(test)]
mod tests;
