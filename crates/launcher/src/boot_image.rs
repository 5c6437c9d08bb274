//! The kernel and the initrd of a machine, out of the image volume that a node has laid out.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use manifest::machine_status::{BootFacts, FileFacts};
use manifest::types::VirtualMachineInstance;
use vmm::kernel::{self, EntryChoice, InitrdKind, KernelError};

use crate::boot_files::{self, ImageFile, Role, Unreadable};
use crate::plan::{BootFiles, BootSource, boot_source};
use crate::pod_dir::{ImageVolume, ImageVolumeFile};

/// Name of the image volume that a machine is booted from.
pub const VOLUME: &str = "kernel-boot-volume";

/// Largest record of an image volume, in bytes: a few files, each with paths of 4 KiB at most.
const MAX_RECORD_BYTES: u64 = 256 << 10;

/// Why there is nothing to boot.
#[derive(Debug, thiserror::Error)]
pub enum BootImageError {
    /// The instance has no `kernelBoot.container` with a `kernelPath`.
    #[error("there is no kernel to boot")]
    NoKernel,
    /// The node's record of the volume cannot be used.
    #[error("cannot read the image volume's record `{}`", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image does not have the file.
    #[error("cannot boot the {role} `{path}` of the image `{image}`: {reason}")]
    Missing {
        /// What the file is for.
        role: Role,
        /// The path as asked for.
        path: String,
        /// The image's reference.
        image: String,
        /// Why it is not there.
        reason: String,
    },
    /// QEMU may not read it.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// It is no kernel, or not for this machine.
    #[error("cannot boot `{path}` of the image `{image}`")]
    Kernel {
        /// The path in the image.
        path: String,
        /// The image's reference.
        image: String,
        /// Why.
        source: KernelError,
    },
    /// The initrd cannot be read.
    #[error("cannot use the initrd `{path}` of the image `{image}`")]
    Initrd {
        /// The path in the image.
        path: String,
        /// The image's reference.
        image: String,
        /// Why.
        source: KernelError,
    },
}

impl BootImageError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoKernel => {
                Some("set `domain.firmware.kernelBoot.container` with `image` and `kernelPath`".to_owned())
            }
            Self::Unreadable(error) => Some(error.hint()),
            Self::Kernel { source, .. } | Self::Initrd { source, .. } => source.hint(),
            Self::Record { .. } | Self::Missing { .. } => None,
        }
    }
}

/// Files that QEMU is given, and what is told about them.
#[derive(Debug)]
pub struct BootImage {
    /// For QEMU.
    pub files: BootFiles,
    /// What they are; checksums that the node does not tell are 0 until [`BootImage::checksums`] has read the files.
    pub facts: BootFacts,
    /// When the pull began and ended, milliseconds since the Unix epoch.
    pub pull: (u64, u64),
    /// What is odd and boots all the same.
    pub warnings: Vec<String>,
    /// The files as they are in the image whose checksums are not known: kernel, initrd.
    unread: (Option<PathBuf>, Option<PathBuf>),
}

/// Reads a node's record of an image volume.
///
/// # Errors
/// [`BootImageError::Record`].
pub fn read_volume(path: &Path) -> Result<ImageVolume, BootImageError> {
    let record = |source| BootImageError::Record { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_RECORD_BYTES).read_to_end(&mut bytes)).map_err(record)?;
    serde_json::from_slice(&bytes).map_err(|error| record(error.into()))
}

/// Judges the files that `instance` boots from and makes its kernel one that QEMU takes, in `kernel_dir`.
///
/// # Errors
/// [`BootImageError`]; a later try may succeed when the image has changed.
pub fn prepare(
    instance: &VirtualMachineInstance,
    volume: &ImageVolume,
    kernel_dir: &Path,
    entry: EntryChoice,
) -> Result<BootImage, BootImageError> {
    let BootSource::Image { kernel_path: Some(kernel_path), initrd_path, .. } =
        boot_source(&instance.spec.domain)
    else {
        return Err(BootImageError::NoKernel);
    };
    let mut warnings = Vec::new();
    let kernel = found(volume, Role::Kernel, kernel_path, &mut warnings)?;
    let initrd = initrd_path.map(|path| found(volume, Role::Initrd, path, &mut warnings)).transpose()?;
    let prepared = kernel::prepare(&kernel.path, kernel_dir, entry).map_err(|source| {
        BootImageError::Kernel { path: kernel.resolved.clone(), image: volume.image.clone(), source }
    })?;
    if let Some(initrd) = initrd {
        let kind = kernel::inspect_initrd(&initrd.path).map_err(|source| BootImageError::Initrd {
            path: initrd.resolved.clone(),
            image: volume.image.clone(),
            source,
        })?;
        if let InitrdKind::Unknown { found } = kind {
            warnings.push(format!("the initrd `{}` does not look like one: it is {found}", initrd.resolved));
        }
    }
    let facts = |file: &ImageVolumeFile| FileFacts {
        path: file.requested.clone(),
        size_bytes: file.size_bytes,
        checksum: file.crc32.unwrap_or_default(),
    };
    let unread = |file: &ImageVolumeFile| file.crc32.is_none().then(|| file.path.clone());
    Ok(BootImage {
        files: BootFiles { kernel: prepared.path, initrd: initrd.map(|file| file.path.clone()) },
        facts: BootFacts {
            image: volume.image.clone(),
            image_digest: volume.digest.clone(),
            kernel: Some(facts(kernel)),
            kernel_version: prepared.info.version,
            initrd: initrd.map(facts),
        },
        pull: (volume.pull_started, volume.pulled),
        warnings,
        unread: (unread(kernel), initrd.and_then(unread)),
    })
}

impl BootImage {
    /// The facts with the checksums of the files, which are read to their ends for those that are not known, by whoever
    /// runs this.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn checksums(&self) -> impl FnOnce() -> io::Result<BootFacts> + Send + 'static {
        let (facts, (kernel, initrd)) = (self.facts.clone(), self.unread.clone());
        move || {
            let mut facts = facts;
            for (file, unread) in [(&mut facts.kernel, kernel), (&mut facts.initrd, initrd)] {
                if let (Some(file), Some(path)) = (file, unread) {
                    file.checksum = checksum(&path)?;
                }
            }
            Ok(facts)
        }
    }
}

/// The file of the volume that was asked for by this path.
fn found<'a>(
    volume: &'a ImageVolume,
    role: Role,
    path: &str,
    warnings: &mut Vec<String>,
) -> Result<&'a ImageVolumeFile, BootImageError> {
    let Some(file) = volume.files.iter().find(|file| file.requested == path) else {
        let told = volume.missing.iter().find(|missing| missing.requested == path);
        return Err(BootImageError::Missing {
            role,
            path: path.to_owned(),
            image: volume.image.clone(),
            reason: told.map_or_else(
                || "it was not taken out of the image".to_owned(),
                |missing| missing.reason.clone(),
            ),
        });
    };
    let judged =
        ImageFile { role, path: file.resolved.clone(), uid: file.uid, gid: file.gid, mode: file.mode };
    warnings.extend(boot_files::check_readable(&judged)?);
    Ok(file)
}

/// CRC-32 (IEEE) of a file's bytes.
fn checksum(path: &Path) -> io::Result<u32> {
    let mut file = File::open(path)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
