//! From a kernel file to one that QEMU's `-kernel` takes.
//!
//! A kernel that QEMU takes as it is stays where it is. A wrapped one is unpacked once, into a directory of
//! the caller's that may be shared by processes and deleted at any time:
//!
//! ```text
//! DIR/NAME.kernel           the unpacked kernel, mode 0444, complete from the moment it has this name
//! DIR/NAME.json             what it is (KernelInfo), how long, and when it was found intact; written before the
//!                           other, and its time of modification is when that was used last
//! DIR/NAME-pvh.kernel       the ELF file inside a bzImage, likewise; empty if it cannot be used
//! DIR/NAME-pvh.json         what it is, or what the bzImage is
//! DIR/.tmp-PROCESS-NUMBER   being written
//! ```
//!
//! NAME is DEVICE-INODE-SIZE-MTIME-CTIME of the file given. It says which state of which file it was made
//! from. Digests of the contents would name it as well, but computing one on each start costs more than the
//! rest of the preparation; a file's time of change (ctime) cannot be set back, so a changed kernel never
//! passes for the old one.

use std::fmt;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::pvh::{self, ExtractError};
use super::source::{FileSource, Source};
use super::{Fault, KernelError, KernelFormat, KernelInfo, Layer, inspect, open, recognise, resolve};
use crate::host_facts::boot_id;

/// Which entry point of a bzImage the machine shall use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EntryChoice {
    /// The bzImage's own, always.
    AsGiven,
    /// The PVH entry of the ELF file inside the bzImage, where there is one.
    ///
    /// This spares the guest unpacking itself: a tenth of a boot where every instruction is emulated (TCG),
    /// and nothing worth mentioning where none is (KVM).
    ///
    /// What else the kernel's own decompressor does is left out with it. So there is no KASLR: the kernel is
    /// at the address that it was linked for, as with `nokaslr`, and says `Kernel Offset: disabled` when it
    /// panics. Page tables have four levels even if the processor has five. The real-mode setup code is left
    /// out too, from which the kernel learns the video mode and the BIOS's disks.
    PreferPvh,
}

/// How QEMU enters a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KernelEntry {
    /// Through the bzImage's setup code (the Linux/x86 boot protocol).
    BzImage,
    /// Through the PVH entry that a note of the ELF file names.
    Pvh,
}

impl fmt::Display for KernelEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::BzImage => "bzImage",
            Self::Pvh => "PVH",
        })
    }
}

/// A kernel that QEMU's `-kernel` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedKernel {
    /// The file for QEMU.
    pub path: PathBuf,
    /// What the given file was; its wrappings are those that have been taken off. A bzImage stays one here,
    /// whichever way it is entered.
    pub info: KernelInfo,
    /// Whether `path` is another file than the one given.
    pub unwrapped: bool,
    /// How QEMU enters the file at `path`.
    pub entry: KernelEntry,
}

impl PreparedKernel {
    fn new(path: PathBuf, info: KernelInfo, unwrapped: bool) -> Self {
        let entry = match info.format {
            KernelFormat::BzImage => KernelEntry::BzImage,
            KernelFormat::ElfPvh => KernelEntry::Pvh,
        };
        Self { path, info, unwrapped, entry }
    }
}

/// Unpacked kernels beyond so many are removed, the longest unused first...
const KEPT: usize = 8;

/// ...if nobody has used them for so long. A QEMU that is being started has opened its kernel by then.
const UNUSED_FOR: Duration = Duration::from_secs(600);

const COPY_BYTES: usize = 64 * 1024;

const TEMPORARY_PREFIX: &str = ".tmp-";

/// What the unpacked file is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    info: KernelInfo,
    length_bytes: u64,
    /// CRC-32 (IEEE 802.3) of the file, by which it is verified.
    #[serde(default)]
    crc32: u32,
    /// When it was found intact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    intact: Option<Intact>,
}

/// When an unpacked file was found intact: since this boot of the host, and in this state. Reading all of it takes as long
/// as half of the rest of a start, so it is done once for both.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Intact {
    boot_id: String,
    /// As [`state_name`] has it.
    state: String,
}

impl Intact {
    fn now(state: &Metadata) -> io::Result<Self> {
        Ok(Self { boot_id: boot_id()?, state: state_name(state) })
    }
}

/// Makes sure that QEMU can take the kernel `path`, unpacking it into `directory` if it must be. The
/// directory is made if it is needed and absent.
///
/// With [`EntryChoice::PreferPvh`], the kernel inside a bzImage is unpacked as well, if that can be done with
/// little memory and there is no doubt about the result; otherwise the bzImage is used, and that is no error.
///
/// # Errors
///
/// [`KernelError`] says what the file is if it is no kernel, what is wrong with it, or why it cannot be
/// unpacked.
pub fn prepare(path: &Path, directory: &Path, choice: EntryChoice) -> Result<PreparedKernel, KernelError> {
    let file = open(path)?;
    let read = |source| KernelError::Read { path: path.to_owned(), source };
    let name = state_name(&file.metadata().map_err(read)?);
    let given = file.try_clone().map_err(read)?;
    let prepared = take_off_wrappings(path, file, directory, &name)?;
    if choice == EntryChoice::AsGiven || prepared.entry == KernelEntry::Pvh {
        return Ok(prepared);
    }
    let bz_image = if prepared.unwrapped { open(&prepared.path)? } else { given };
    match kernel_inside(bz_image, &prepared.info, directory, &name) {
        Ok(inside) => {
            Ok(PreparedKernel { path: inside, entry: KernelEntry::Pvh, unwrapped: true, ..prepared })
        }
        Err(reason) => {
            let reason: &dyn std::error::Error = &reason;
            tracing::debug!(kernel = %path.display(), reason, "the bzImage is used as it is");
            Ok(prepared)
        }
    }
}

/// The kernel as QEMU takes it, whichever entry it has.
fn take_off_wrappings(
    path: &Path,
    file: File,
    directory: &Path,
    name: &str,
) -> Result<PreparedKernel, KernelError> {
    let mut source: Box<dyn Source> = Box::new(FileSource::new(file));
    if let Layer::Kernel(info) = recognise(source.as_mut()).map_err(|fault| fault.at(path))? {
        return Ok(PreparedKernel::new(path.to_owned(), info, false));
    }
    let kept = directory.join(format!("{name}.kernel"));
    let record = directory.join(format!("{name}.json"));
    if let Some(info) = reuse(&kept, &record) {
        return Ok(PreparedKernel::new(kept, info, true));
    }
    let (info, mut kernel) = resolve(source).map_err(|fault| fault.at(path))?;
    let write = |source| KernelError::Write { path: directory.to_owned(), source };
    fs::create_dir_all(directory).map_err(write)?;
    let mut unpacked = TemporaryFile::create(directory).map_err(write)?;
    let length_bytes = copy(kernel.as_mut(), &mut unpacked.file).map_err(|failure| match failure {
        CopyFailure::Read(error) => Fault::from(error).at(path),
        CopyFailure::Write(error) => write(error),
    })?;
    keep(unpacked, &kept, &record, Record { info: info.clone(), length_bytes, crc32: 0, intact: None })
        .map_err(write)?;
    remove_unused(directory, &kept);
    Ok(PreparedKernel::new(kept, info, true))
}

/// The file of the kernel inside of `bz_image`, which is unpacked unless it was before. That it cannot be
/// used is remembered as well, with an empty file: finding out may have taken as long as unpacking.
fn kernel_inside(
    bz_image: File,
    info: &KernelInfo,
    directory: &Path,
    name: &str,
) -> Result<PathBuf, ExtractError> {
    let kept = directory.join(format!("{name}-pvh.kernel"));
    let record = directory.join(format!("{name}-pvh.json"));
    if let Some(kept_info) = reuse(&kept, &record) {
        let usable = pvh::is_its_kernel(info, &kept_info);
        return usable.then_some(kept).ok_or(ExtractError::Unfit("that is known from an earlier attempt"));
    }
    let payload = pvh::Payload::find(Box::new(FileSource::new(bz_image)), info)?;
    fs::create_dir_all(directory).map_err(ExtractError::Write)?;
    let unpacked = TemporaryFile::create(directory).map_err(ExtractError::Write)?;
    let extracted = payload.extract(&unpacked.file).and_then(|length_bytes| match inspect(&unpacked.path) {
        Ok(inside) if pvh::is_its_kernel(info, &inside) => {
            Ok(Record { info: inside, length_bytes, crc32: 0, intact: None })
        }
        _ => Err(ExtractError::Unfit("its payload is not the same release with a PVH entry")),
    });
    let (written, result) = match extracted {
        Ok(written) => (written, Ok(kept.clone())),
        Err(error @ ExtractError::Write(_)) => return Err(error),
        Err(error) => {
            unpacked.file.set_len(0).map_err(ExtractError::Write)?;
            (Record { info: info.clone(), length_bytes: 0, crc32: 0, intact: None }, Err(error))
        }
    };
    keep(unpacked, &kept, &record, written).map_err(ExtractError::Write)?;
    remove_unused(directory, &kept);
    result
}

/// Names the state of a file.
fn state_name(state: &Metadata) -> String {
    format!(
        "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
        state.dev(),
        state.ino(),
        state.size(),
        state.mtime(),
        state.mtime_nsec(),
        state.ctime(),
        state.ctime_nsec()
    )
}

/// The record of an unpacked kernel that is there and intact; marks it as used now. One of which anything cannot be read is
/// made again.
fn reuse(kept: &Path, record_path: &Path) -> Option<KernelInfo> {
    let file = File::open(kept).ok()?;
    let record_file = File::open(record_path).ok()?;
    let mut record: Record = serde_json::from_reader(BufReader::new(&record_file)).ok()?;
    let state = file.metadata().ok()?;
    if state.len() != record.length_bytes || state.permissions().mode() & 0o777 != 0o444 {
        return None;
    }
    let intact = Intact::now(&state).ok()?;
    if record.intact.as_ref() != Some(&intact) {
        if checksum(&file).ok()? != record.crc32 {
            tracing::warn!(kernel = %kept.display(), "an unpacked kernel was damaged and is made again");
            return None;
        }
        record.intact = Some(intact);
        if let Err(error) = write_record(record_path, &record) {
            tracing::debug!(kernel = %kept.display(), %error, "an unpacked kernel is verified again the next time");
        }
    } else {
        // Only tells the longest unused one; not being allowed to (another user's file) does no harm.
        let _ = record_file.set_modified(SystemTime::now());
    }
    Some(record.info)
}

/// CRC-32 of a whole file.
fn checksum(file: &File) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; COPY_BYTES];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

enum CopyFailure {
    Read(io::Error),
    Write(io::Error),
}

/// Writes all of `source` to `file`; returns the length.
fn copy(source: &mut dyn Source, file: &mut File) -> Result<u64, CopyFailure> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut length = 0;
    loop {
        let read = source.read_at(length, &mut buffer).map_err(CopyFailure::Read)?;
        file.write_all(&buffer[..read]).map_err(CopyFailure::Write)?;
        length += read as u64;
        if read < buffer.len() {
            return Ok(length);
        }
    }
}

/// A file that is removed unless it is renamed.
struct TemporaryFile {
    file: File,
    path: PathBuf,
}

impl TemporaryFile {
    fn create(directory: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{TEMPORARY_PREFIX}{}-{number}", std::process::id()));
        // One of the same name is of a process that is gone.
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok(Self { file, path })
    }

    /// Gives the complete file its name.
    fn rename(self, to: &Path) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(0o444))?;
        self.file.sync_all()?;
        fs::rename(&self.path, to)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // usually it is gone, renamed
    }
}

fn keep(unpacked: TemporaryFile, kept: &Path, record_path: &Path, mut record: Record) -> io::Result<()> {
    record.crc32 = checksum(&unpacked.file)?;
    write_record(record_path, &record)?;
    unpacked.rename(kept)?;
    File::open(directory_of(kept))?.sync_all()
}

fn write_record(path: &Path, record: &Record) -> io::Result<()> {
    let mut temporary = TemporaryFile::create(directory_of(path))?;
    temporary.file.write_all(&serde_json::to_vec(record).map_err(io::Error::other)?)?;
    temporary.rename(path)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Removes unpacked kernels that are many and long unused, and what a process that died has left behind.
/// Failing to only means that they stay.
fn remove_unused(directory: &Path, current: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let now = SystemTime::now();
    let mut kernels = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let is_kernel = path.extension().is_some_and(|extension| extension == "kernel");
        // A kernel's use is marked on its record, so that its own state stays.
        let marked = if is_kernel { path.with_extension("json") } else { path.clone() };
        let Ok(used) = fs::metadata(&marked).or_else(|_| entry.metadata()).and_then(|state| state.modified())
        else {
            continue;
        };
        let is_unused = now.duration_since(used).is_ok_and(|unused| unused > UNUSED_FOR);
        if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) && is_unused {
            // What cannot be removed now is tried again by the next start, here and below.
            let _ = fs::remove_file(&path);
        } else if is_kernel && path != current {
            kernels.push((used, is_unused, path));
        }
    }
    kernels.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
    for (_, is_unused, path) in kernels.into_iter().skip(KEPT - 1) {
        if is_unused {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(path.with_extension("json"));
        }
    }
}

#[cfg(test)]
mod tests;
