//! Content-addressed content: writing it so that a name implies its bytes, and reading it back with a second look.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use super::follower::{BlobFollower, Publisher};
use super::{
    Area, Durability, Lease, Locked, OnDrop, ResolvedFile, Store, StoreError, TemporaryFile, flat_name,
    io_error, lock_if_same, names_same_file, remove_quietly, sync_parent,
};
use crate::client::BlobSink;
use crate::digest::{Algorithm, Digest, Hasher};

/// Bytes read at once when content is hashed again.
const READ_BYTES: usize = 256 << 10;

/// Files that are remembered as verified; beyond that all are verified anew.
const MOST_VERIFIED: usize = 1024;

/// What became of the wish to download a blob.
pub enum Download {
    /// It is in the store already.
    Present,
    /// Somebody else is writing it; ask again in a moment.
    Busy,
    /// The caller writes it. Bytes of an interrupted download count as received.
    Start(Box<BlobWriter>),
}

/// What a second look at content found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// The bytes are those that the digest names.
    Intact,
    /// Nothing of that name.
    Missing,
    /// It was something else, and has been removed.
    Corrupted,
}

/// Writes one piece of content into the store, hashing as it goes.
///
/// Until [`BlobWriter::commit`] nothing has the content's name. Dropped before that, bytes of a blob whose digest is known
/// stay for a later resume, others are removed.
pub struct BlobWriter {
    store: Store,
    area: Area,
    /// Flocked: it has one writer at a time.
    temporary: TemporaryFile,
    hasher: Hasher,
    /// Beside the digest, of content that is made here: what it is verified by when it is used.
    checksum: Option<crc32fast::Hasher>,
    received_bytes: u64,
    /// Digest and length that were announced.
    expected: Option<(Digest, u64)>,
    /// Bytes found from an earlier, interrupted download.
    resumed_bytes: u64,
    /// How the file system refused more.
    storage_full: Option<io::ErrorKind>,
    /// Tells whoever reads along.
    publisher: Option<Publisher>,
    lease: Lease,
}

impl Store {
    /// Whether a blob is there, with the announced length if one is given. Does not read it.
    #[must_use]
    pub fn has_blob(&self, digest: &Digest, size_bytes: Option<u64>) -> bool {
        std::fs::metadata(self.content_path(Area::Blobs, digest))
            .is_ok_and(|found| found.is_file() && size_bytes.is_none_or(|size| size == found.len()))
    }

    /// Claims a blob for `lease` and says whether it has to be downloaded. Hashes the bytes of an interrupted download, so
    /// call it on a blocking thread when the blob may be large.
    ///
    /// # Errors
    ///
    /// The blob is there, intact, and of another length than `size_bytes`; the store cannot be read or written, or its
    /// file system has less space than is still missing.
    pub fn begin_download(
        &self,
        lease: &Lease,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<Download, StoreError> {
        lease.add([digest])?;
        let placed = self.content_path(Area::Blobs, digest);
        let (path, _) = self.partial_download(digest);
        loop {
            match std::fs::metadata(&placed) {
                Ok(found) if found.len() == size_bytes => return Ok(Download::Present),
                // The announcement may be false, and others may use the blob: only its bytes speak against it.
                Ok(found) if self.verify(Area::Blobs, digest)? == Verification::Intact => {
                    return Err(StoreError::WrongSize {
                        digest: digest.clone(),
                        expected_bytes: size_bytes,
                        actual_bytes: found.len(),
                    });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(io_error("look at", &placed)(source)),
            }
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(|source| self.write_error("create", &path, size_bytes, source))?;
            match lock_if_same(&file, &path)? {
                Locked::Busy => return Ok(Download::Busy),
                // Finished and renamed by its writer, or pruned: look again.
                Locked::Replaced => continue,
                Locked::Yes => {}
            }
            // Finished between the first look and the open, which then made an empty file of its own.
            if self.has_blob(digest, Some(size_bytes)) {
                remove_quietly(&path);
                return Ok(Download::Present);
            }
            let temporary = TemporaryFile { file, path, on_drop: OnDrop::Keep };
            return self
                .resume(lease, temporary, digest, size_bytes)
                .map(|writer| Download::Start(Box::new(writer)));
        }
    }

    /// Where a blob is while it arrives, and how many bytes of it are there.
    pub(crate) fn partial_download(&self, digest: &Digest) -> (PathBuf, u64) {
        let path = self.root.join("partial").join(flat_name(digest));
        let size_bytes = std::fs::metadata(&path).map_or(0, |found| found.len());
        (path, size_bytes)
    }

    fn resume(
        &self,
        lease: &Lease,
        temporary: TemporaryFile,
        digest: &Digest,
        size_bytes: u64,
    ) -> Result<BlobWriter, StoreError> {
        let mut writer = BlobWriter {
            store: self.clone(),
            area: Area::Blobs,
            temporary,
            hasher: Hasher::new(digest.algorithm()),
            checksum: None,
            received_bytes: 0,
            expected: Some((digest.clone(), size_bytes)),
            resumed_bytes: 0,
            storage_full: None,
            publisher: None,
            lease: lease.clone(),
        };
        let found_bytes =
            writer.temporary.file.metadata().map_err(io_error("look at", &writer.temporary.path))?.len();
        if found_bytes > size_bytes {
            writer.restart().map_err(io_error("empty", &writer.temporary.path))?;
        } else if found_bytes > 0 {
            writer.temporary.file.rewind().map_err(io_error("read", &writer.temporary.path))?;
            let hashed = hash_into(&mut writer.hasher, &writer.temporary.file)
                .map_err(io_error("read", &writer.temporary.path))?;
            writer.received_bytes = hashed;
            writer.resumed_bytes = hashed;
        }
        let missing_bytes = size_bytes - writer.received_bytes;
        if missing_bytes > self.available_bytes()? {
            return Err(self.no_space(io::ErrorKind::StorageFull, Some(missing_bytes)));
        }
        Ok(writer)
    }

    /// A writer for content whose digest is not known yet.
    ///
    /// # Errors
    ///
    /// The temporary file cannot be made.
    pub fn create(&self, lease: &Lease, area: Area, algorithm: Algorithm) -> Result<BlobWriter, StoreError> {
        let temporary = self.temporary_file()?;
        Ok(BlobWriter {
            store: self.clone(),
            area,
            temporary,
            hasher: Hasher::new(algorithm),
            checksum: Some(crc32fast::Hasher::new()),
            received_bytes: 0,
            expected: None,
            resumed_bytes: 0,
            storage_full: None,
            publisher: None,
            lease: lease.clone(),
        })
    }

    /// Puts bytes that are in memory (a manifest, a config) into the store as a blob.
    ///
    /// # Errors
    ///
    /// The store cannot be written.
    pub fn put_blob(
        &self,
        lease: &Lease,
        content: &[u8],
        algorithm: Algorithm,
    ) -> Result<Digest, StoreError> {
        let (digest, unsynced) = self.put_blob_unsynced(lease, content, algorithm)?;
        unsynced.map_or(Ok(()), Unsynced::sync)?;
        Ok(digest)
    }

    /// The same without waiting for the disk; nothing to wait for when the blob was there.
    ///
    /// # Errors
    ///
    /// The store cannot be written.
    pub fn put_blob_unsynced(
        &self,
        lease: &Lease,
        content: &[u8],
        algorithm: Algorithm,
    ) -> Result<(Digest, Option<Unsynced>), StoreError> {
        let digest = Digest::of(algorithm, content);
        lease.add([&digest])?;
        if self.has_blob(&digest, Some(content.len() as u64)) {
            return Ok((digest, None));
        }
        let placed = self.content_path(Area::Blobs, &digest);
        let mut writer = self.create(lease, Area::Blobs, algorithm)?;
        writer
            .write_all(content)
            .map_err(|source| self.write_error("write", &placed, content.len() as u64, source))?;
        writer.commit_unsynced().map(|(digest, unsynced)| (digest, Some(unsynced)))
    }

    /// Reads a manifest or config, verified. `None` when it is not there or was corrupted (and is removed).
    ///
    /// # Errors
    ///
    /// It cannot be read, or is larger than `limit_bytes`.
    pub fn read_blob(&self, digest: &Digest, limit_bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.content_path(Area::Blobs, digest);
        let Some(file) = open_existing(&path)? else {
            return Ok(None);
        };
        let size_bytes = file.metadata().map_err(io_error("look at", &path))?.len();
        if size_bytes > limit_bytes {
            return match self.verify(Area::Blobs, digest)? {
                Verification::Intact => {
                    Err(StoreError::TooLarge { digest: digest.clone(), size_bytes, limit_bytes })
                }
                Verification::Missing | Verification::Corrupted => Ok(None),
            };
        }
        let mut content = Vec::with_capacity(usize::try_from(size_bytes).unwrap_or(0));
        (&file).take(limit_bytes).read_to_end(&mut content).map_err(io_error("read", &path))?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&content);
        if hasher.finish() == *digest {
            return Ok(Some(content));
        }
        self.remove_content(&path, &file)?;
        Ok(None)
    }

    /// Opens a blob for one sequential read; reading its end fails with [`io::ErrorKind::InvalidData`] when the bytes are not
    /// those that the digest names. Nothing read may be trusted before [`BlobReader::finish`].
    ///
    /// # Errors
    ///
    /// It is not there or cannot be opened.
    pub fn open_blob(&self, digest: &Digest) -> Result<BlobReader, StoreError> {
        let path = self.content_path(Area::Blobs, digest);
        let file = open_existing(&path)?.ok_or_else(|| StoreError::MissingBlob { digest: digest.clone() })?;
        let size_bytes = file.metadata().map_err(io_error("look at", &path))?.len();
        // Advice only: a file system that does not take it reads as well.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential).ok();
        Ok(BlobReader {
            store: self.clone(),
            path,
            digest: digest.clone(),
            hasher: Hasher::new(digest.algorithm()),
            file,
            size_bytes,
            read_bytes: 0,
        })
    }

    /// Opens a blob whose bytes the reader verifies in another way than by the blob's digest; with its length.
    pub(crate) fn open_unverified(&self, digest: &Digest) -> Result<(File, u64), StoreError> {
        let path = self.content_path(Area::Blobs, digest);
        let file = open_existing(&path)?.ok_or_else(|| StoreError::MissingBlob { digest: digest.clone() })?;
        let size_bytes = file.metadata().map_err(io_error("look at", &path))?.len();
        Ok((file, size_bytes))
    }

    /// Hashes content again. What does not match is removed, so that it will be fetched or taken out of its layer anew.
    /// Takes as long as hashing takes: call it on a blocking thread.
    ///
    /// # Errors
    ///
    /// It cannot be read or, corrupted, removed.
    pub fn verify(&self, area: Area, digest: &Digest) -> Result<Verification, StoreError> {
        let path = self.content_path(area, digest);
        let Some(file) = open_existing(&path)? else {
            return Ok(Verification::Missing);
        };
        let mut hasher = Hasher::new(digest.algorithm());
        hash_into(&mut hasher, &file).map_err(io_error("read", &path))?;
        if hasher.finish() == *digest {
            return Ok(Verification::Intact);
        }
        self.remove_content(&path, &file)?;
        Ok(Verification::Corrupted)
    }

    /// Verifies a file that was taken out of an image, by its length and checksum; else like [`Store::verify`].
    ///
    /// The checksum finds what a disk or a crash does to a file in a tenth of the time that its digest takes. Somebody
    /// who may write to the store could change the record beside it as well, so a digest would say no more.
    ///
    /// # Errors
    ///
    /// It cannot be read or, corrupted, removed.
    pub fn verify_file(&self, file: &ResolvedFile) -> Result<Verification, StoreError> {
        let path = self.content_path(Area::Files, &file.digest);
        let Some(mut content) = open_existing(&path)? else {
            return Ok(Verification::Missing);
        };
        let state = content.metadata().map_err(io_error("look at", &path))?;
        let verified =
            Verified { checksum: file.crc32, size_bytes: file.size_bytes, state: state_of(&state) };
        if self.verified().get(&file.digest) == Some(&verified) {
            return Ok(Verification::Intact);
        }
        let mut checksum = crc32fast::Hasher::new();
        let mut read_bytes = 0;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    checksum.update(&buffer[..count]);
                    read_bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(io_error("read", &path)(source)),
            }
        }
        if read_bytes == file.size_bytes && checksum.finalize() == file.crc32 {
            let mut known = self.verified();
            if known.len() >= MOST_VERIFIED {
                known.clear();
            }
            known.insert(file.digest.clone(), verified);
            return Ok(Verification::Intact);
        }
        self.remove_content(&path, &content)?;
        Ok(Verification::Corrupted)
    }

    fn verified(&self) -> MutexGuard<'_, HashMap<Digest, Verified>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes content that proved to be wrong, unless somebody has put a fresh copy in its place meanwhile.
    fn remove_content(&self, path: &Path, seen: &File) -> Result<(), StoreError> {
        let _guard = self.lock_exclusive()?;
        if !names_same_file(seen, path)? {
            return Ok(());
        }
        match std::fs::remove_file(path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(io_error("remove corrupted", path)(source)),
        }
    }
}

/// What a file was when it was found to be what its record says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verified {
    checksum: u32,
    size_bytes: u64,
    state: [i128; 4],
}

/// Tells states of a file apart: which it is, how long, and when it was changed (ctime, which cannot be set back).
fn state_of(file: &Metadata) -> [i128; 4] {
    let changed = i128::from(file.ctime()) * 1_000_000_000 + i128::from(file.ctime_nsec());
    [file.dev().into(), file.ino().into(), file.size().into(), changed]
}

fn open_existing(path: &Path) -> Result<Option<File>, StoreError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("open", path)(source)),
    }
}

/// Hashes from the file's position to its end; returns the number of bytes.
fn hash_into(hasher: &mut Hasher, mut file: &File) -> io::Result<u64> {
    let mut buffer = vec![0; READ_BYTES];
    let mut hashed_bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hashed_bytes),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                hashed_bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

impl BlobWriter {
    /// Bytes of an earlier, interrupted download that this one goes on from.
    #[must_use]
    pub fn resumed_bytes(&self) -> u64 {
        self.resumed_bytes
    }

    /// A second look at the bytes of this download as they arrive, one that does not wait for the last of them. `None`
    /// when the length is not known.
    ///
    /// # Errors
    ///
    /// The file cannot be opened a second time.
    pub fn follow(&mut self) -> io::Result<Option<BlobFollower>> {
        let Some((_, size_bytes)) = &self.expected else {
            return Ok(None);
        };
        let file = self.temporary.file.try_clone()?;
        let (publisher, follower) = BlobFollower::new(file, self.received_bytes, *size_bytes);
        self.publisher = Some(publisher);
        Ok(Some(follower))
    }

    /// CRC-32 (IEEE 802.3) of what was written; `None` for downloads, which are verified by their digest.
    #[must_use]
    pub fn checksum(&self) -> Option<u32> {
        self.checksum.as_ref().map(|checksum| checksum.clone().finalize())
    }

    /// Bytes written so far, resumed ones included.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Verifies what was written, brings it to the disk and gives it its name; returns its digest and length. Call it on a
    /// blocking thread when it is large.
    ///
    /// # Errors
    ///
    /// Length or digest differ from what was announced (what was written is then removed), or the store cannot be written.
    pub fn commit(mut self) -> Result<(Digest, u64), StoreError> {
        let size_bytes = self.received_bytes;
        let digest = self.check()?;
        let placed = self.store.content_path(self.area, &digest);
        if let Err(source) = self.temporary.file.sync_all() {
            self.temporary.on_drop = OnDrop::Remove;
            return Err(self.store.write_error("write", &placed, size_bytes, source));
        }
        self.rename(&placed)?;
        sync_parent(&placed)?;
        Ok((digest, size_bytes))
    }

    /// The same without waiting for the disk: a crash of the machine may leave the name with other content, which is
    /// noticed when it is used. Call [`Unsynced::sync`] before anything durable relies on the content.
    ///
    /// # Errors
    ///
    /// As [`BlobWriter::commit`].
    pub fn commit_unsynced(mut self) -> Result<(Digest, Unsynced), StoreError> {
        let size_bytes = self.received_bytes;
        let digest = self.check()?;
        let path = self.store.content_path(self.area, &digest);
        let store = self.store.clone();
        let file = self.rename(&path)?;
        Ok((digest, Unsynced { store, file, path, size_bytes }))
    }

    /// Compares what was written with what was announced.
    fn check(&mut self) -> Result<Digest, StoreError> {
        let digest = std::mem::replace(&mut self.hasher, Hasher::new(Algorithm::Sha256)).finish();
        let Some((expected, expected_bytes)) = self.expected.clone() else {
            self.lease.add([&digest])?;
            return Ok(digest);
        };
        if self.received_bytes != expected_bytes {
            // Shorter is an interrupted download that may go on; `write` refuses longer ones.
            return Err(StoreError::WrongSize {
                digest: expected,
                expected_bytes,
                actual_bytes: self.received_bytes,
            });
        }
        if digest != expected {
            self.temporary.on_drop = OnDrop::Remove;
            return Err(StoreError::Corrupted { digest: expected, actual: digest.to_string() });
        }
        Ok(digest)
    }

    fn rename(self, placed: &Path) -> Result<File, StoreError> {
        let read_only = || Permissions::from_mode(0o444);
        let file = self.temporary.file.try_clone().map_err(io_error("open", placed))?;
        if self.area == Area::Files {
            // Before it has its name, since the hypervisor may run as another user.
            file.set_permissions(read_only()).map_err(io_error("set the mode of", placed))?;
        }
        {
            let _guard = self.store.lock_shared()?;
            self.temporary.place(&self.store, placed, Durability::Cache)?;
        }
        if self.area == Area::Blobs {
            // After the rename: a partial download that cannot be opened for writing could not be resumed.
            file.set_permissions(read_only()).map_err(io_error("set the mode of", placed))?;
        }
        Ok(file)
    }

    /// Gives up, leaving nothing behind.
    pub fn discard(mut self) {
        self.temporary.on_drop = OnDrop::Remove;
    }

    /// The error to report when writing failed because the file system is full: it names the space that is missing, where
    /// that is known.
    #[must_use]
    pub fn storage_full(&self) -> Option<StoreError> {
        let missing_bytes = self.expected.as_ref().map(|(_, size)| size.saturating_sub(self.received_bytes));
        self.storage_full.map(|kind| self.store.no_space(kind, missing_bytes))
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some((_, expected_bytes)) = &self.expected
            && self.received_bytes + bytes.len() as u64 > *expected_bytes
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("more than the announced {expected_bytes} bytes arrived"),
            ));
        }
        if let Err(error) = self.temporary.file.write_all_at(bytes, self.received_bytes) {
            if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                // A full disk is not made better by keeping the part.
                self.storage_full = Some(error.kind());
                self.temporary.on_drop = OnDrop::Remove;
            }
            return Err(error);
        }
        self.received_bytes += bytes.len() as u64;
        if let Some(publisher) = &self.publisher {
            publisher.publish(self.received_bytes);
        }
        self.hasher.update(bytes);
        if let Some(checksum) = &mut self.checksum {
            checksum.update(bytes);
        }
        Ok(())
    }
}

impl BlobSink for BlobWriter {
    fn received(&self) -> u64 {
        self.received_bytes
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.append(bytes)
    }

    fn restart(&mut self) -> io::Result<()> {
        // What was read along is void.
        self.publisher = None;
        self.temporary.file.set_len(0)?;
        self.temporary.file.seek(SeekFrom::Start(0))?;
        let algorithm = self.expected.as_ref().map_or(Algorithm::Sha256, |(digest, _)| digest.algorithm());
        self.hasher = Hasher::new(algorithm);
        if let Some(checksum) = &mut self.checksum {
            checksum.reset();
        }
        self.received_bytes = 0;
        self.resumed_bytes = 0;
        Ok(())
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Content that has its name and may not be on the disk yet; see [`BlobWriter::commit_unsynced`].
pub struct Unsynced {
    store: Store,
    file: File,
    path: PathBuf,
    size_bytes: u64,
}

impl Unsynced {
    /// Waits for the disk.
    ///
    /// # Errors
    ///
    /// The content did not get there; it is then removed.
    pub fn sync(self) -> Result<(), StoreError> {
        let path = self.path.clone();
        self.sync_content()?;
        sync_parent(&path)
    }

    /// The same but for the name, for which [`sync_names`] has to be called; returns it.
    pub(crate) fn sync_content(self) -> Result<PathBuf, StoreError> {
        if let Err(source) = self.file.sync_all() {
            self.store.remove_content(&self.path, &self.file)?;
            return Err(self.store.write_error("write", &self.path, self.size_bytes, source));
        }
        Ok(self.path)
    }
}

/// Waits until these names are on the disk, each directory once.
pub(crate) fn sync_names(paths: Vec<PathBuf>) -> Result<(), StoreError> {
    let mut one_of_each: Vec<PathBuf> = paths;
    one_of_each.sort();
    one_of_each.dedup_by(|later, earlier| later.parent() == earlier.parent());
    one_of_each.iter().try_for_each(|path| sync_parent(path))
}

/// Reads a blob from beginning to end and checks it on the way; see [`Store::open_blob`].
pub struct BlobReader {
    store: Store,
    path: PathBuf,
    digest: Digest,
    hasher: Hasher,
    file: File,
    size_bytes: u64,
    read_bytes: u64,
}

impl BlobReader {
    /// Length of the blob in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Bytes read so far.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Reads what is left and compares the digest. A blob that does not match is removed from the store.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is corrupted.
    pub fn finish(mut self) -> Result<(), StoreError> {
        hash_into(&mut self.hasher, &self.file).map_err(io_error("read", &self.path))?;
        let hasher = std::mem::replace(&mut self.hasher, Hasher::new(Algorithm::Sha256));
        let actual = hasher.finish();
        if actual == self.digest {
            return Ok(());
        }
        self.store.remove_content(&self.path, &self.file)?;
        Err(StoreError::Corrupted { digest: self.digest.clone(), actual: actual.to_string() })
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.read_bytes += count as u64;
        Ok(count)
    }
}
