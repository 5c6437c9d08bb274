//! Layers: reading tar archives that strangers made, within bounds.
//!
//! ```text
//! blob (digest) ──► gzip | zstd | plain ──► bounded, hashed (diffID) ──► tar ──► index of entries, on disk
//!                                                                         └────► files wanted right away
//! ```
//!
//! One pass over a layer writes an index of all its entries into the store and, on the way, puts aside files
//! that are likely to be wanted. Nothing is ever unpacked: names in a layer never become names on disk. Memory does not
//! grow with the layer, since the index goes to disk as it is made and is read sequentially when it is asked. A layer is
//! believed only when both its blob and its uncompressed bytes have the digests that manifest and config say.
//!
//! The tar reader is our own: what containers use is small, and the readers at hand hold extension records of any length
//! in memory.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};

use crate::compression::{Decoder, Packed, Packing};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::store::{Area, BlobFollower, BlobWriter, Lease, Store, StoreError, Verification};

mod ahead;
mod index;
mod tar;

#[cfg(test)]
pub(crate) use index::facts_of;
pub(crate) use index::{EntryKind, EntryRecord, Fact, LayerIndex};

use index::IndexWriter;
use tar::{TarEntry, TarKind, TarReader};

/// How much a layer may ask of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerLimits {
    /// Uncompressed bytes of one layer.
    pub uncompressed_bytes: u64,
    /// Uncompressed bytes that are fine however small the blob is; beyond, [`LayerLimits::expansion`] counts.
    pub unconditional_bytes: u64,
    /// Uncompressed bytes for each byte of the blob. Deflate can reach 1032.
    pub expansion: u64,
    /// Entries of one layer.
    pub entries: u64,
    /// Bytes of the index of one layer.
    pub index_bytes: u64,
    /// Bytes of one file taken out of a layer.
    pub file_bytes: u64,
}

impl Default for LayerLimits {
    /// Generous for images that exist: large images have some 10 GiB and some 100,000 entries in a layer.
    fn default() -> Self {
        Self {
            uncompressed_bytes: 64 << 30,
            unconditional_bytes: 4 << 30,
            expansion: 200,
            entries: 4_000_000,
            index_bytes: 512 << 20,
            file_bytes: 4 << 30,
        }
    }
}

impl LayerLimits {
    /// How many uncompressed bytes a blob of this length may have.
    pub(crate) fn uncompressed_for(&self, blob_bytes: u64) -> u64 {
        blob_bytes.saturating_mul(self.expansion).max(self.unconditional_bytes).min(self.uncompressed_bytes)
    }
}

/// Why a layer cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// The compressed or archived data is broken or ends too early.
    #[error("the archive is broken near byte {offset_bytes} of its uncompressed data")]
    Broken {
        /// Uncompressed bytes that could be read.
        offset_bytes: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A tar header makes no sense.
    #[error("the archive has a malformed entry at byte {offset_bytes} of its uncompressed data: {reason}")]
    MalformedEntry {
        /// Where the header is.
        offset_bytes: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// Another compression than layers may have.
    #[error("it is compressed with {compression}, which layers may not be")]
    UnknownCompression {
        /// Its name.
        compression: &'static str,
    },
    /// An entry that leaves the root of the image.
    #[error("its entry `{path}` leaves the root of the image")]
    Escape {
        /// The name in the archive, or the target of a hard link.
        path: String,
    },
    /// A name that is longer than file systems take.
    #[error("it has a name of more than {limit_bytes} bytes")]
    LongName {
        /// The limit.
        limit_bytes: usize,
    },
    /// Extension records that are larger than any use of them.
    #[error("it has extension records of {size_bytes} bytes, more than {limit_bytes}")]
    LongExtension {
        /// Announced length.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// More data than the limits allow, or than such a small blob can honestly have.
    #[error("its {blob_bytes} bytes expand to more than {limit_bytes}")]
    TooLarge {
        /// Length of the blob.
        blob_bytes: u64,
        /// The limit that was reached.
        limit_bytes: u64,
    },
    /// More entries than the limits allow.
    #[error("it has more than {limit} entries")]
    TooManyEntries {
        /// The limit that was reached.
        limit: u64,
    },
    /// The names in it take more space than the limits allow.
    #[error("the names in it take more than {limit_bytes} bytes")]
    LargeIndex {
        /// The limit that was reached.
        limit_bytes: u64,
    },
    /// The uncompressed data is not what the image config says.
    #[error("its uncompressed data has the digest `{actual}` where the image config says `{expected}`")]
    WrongDiffId {
        /// In the config.
        expected: Digest,
        /// What was read.
        actual: Digest,
    },
    /// The store failed.
    #[error("cannot keep what was read of it")]
    Store(#[source] StoreError),
}

impl LayerError {
    /// What the user can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Store(source) => source.hint(),
            _ => Some("the image is broken or hostile: build and push it again".to_owned()),
        }
    }
}

/// A file that was put aside while a layer was read: not committed yet, gone when dropped.
pub(crate) struct SpooledFile {
    /// Number of its entry in the layer.
    pub(crate) ordinal: u64,
    pub(crate) writer: BlobWriter,
}

/// What came of reading a layer.
pub(crate) struct ScannedLayer {
    pub(crate) index: LayerIndex,
    /// By normalised path.
    pub(crate) spooled: HashMap<Vec<u8>, SpooledFile>,
}

/// Paths whose files are worth putting aside in the same pass: the wanted ones, and where symlinks on the way point to,
/// as far as they are met before their targets.
struct Candidates {
    paths: Vec<Vec<u8>>,
}

impl Candidates {
    /// Above this many, further guesses are left to a second pass.
    const LIMIT: usize = 64;

    fn contains(&self, path: &[u8]) -> bool {
        self.paths.iter().any(|candidate| candidate == path)
    }

    /// A symlink was met: whatever leads through it may lead to its target.
    fn follow(&mut self, link: &[u8], target: &[u8]) {
        for position in 0..self.paths.len() {
            let rest = match self.paths[position].strip_prefix(link) {
                Some(rest) if rest.is_empty() || rest[0] == b'/' => rest.to_vec(),
                _ => continue,
            };
            let parent = if target.starts_with(b"/") { &b""[..] } else { parent_of(link) };
            let guess = lexical(&[parent, target, &rest]);
            if self.paths.len() < Self::LIMIT && !self.contains(&guess) {
                self.paths.push(guess);
            }
        }
    }
}

/// The directory part of a normalised path; empty for the root.
pub(crate) fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |position| &path[..position])
}

/// Joins parts and takes `.` and `..` out by looking at the text alone: a guess, since symlinks change what `..` means.
pub(crate) fn lexical(parts: &[&[u8]]) -> Vec<u8> {
    let mut elements: Vec<&[u8]> = Vec::new();
    for element in parts.iter().flat_map(|part| part.split(|byte| *byte == b'/')) {
        match element {
            b"" | b"." => {}
            b".." => {
                elements.pop();
            }
            name => elements.push(name),
        }
    }
    elements.join(&b'/')
}

/// Why [`Scan::stored`] or [`extract`] failed: the blob in the store may be bad, or the layer itself.
#[derive(Debug)]
pub(crate) enum ReadFailure {
    /// The blob is missing, or was corrupted and has been removed: fetch it again.
    Refetch,
    /// The blob is what the registry has, and unusable.
    Layer(LayerError),
}

impl From<LayerError> for ReadFailure {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}

/// A layer that was read, before it has an index in the store: the blob may prove to be another one than it should be.
pub(crate) struct PendingScan {
    index: IndexWriter,
    spooled: HashMap<Vec<u8>, SpooledFile>,
}

impl PendingScan {
    /// Keeps the index: `blob` is in the store.
    pub(crate) fn commit(self, store: &Store, blob: &Digest) -> Result<ScannedLayer, LayerError> {
        let index = self.index.commit(store, blob).map_err(LayerError::Store)?;
        Ok(ScannedLayer { index, spooled: self.spooled })
    }
}

/// How a layer is read.
pub(crate) struct Scan {
    pub(crate) store: Store,
    pub(crate) lease: Lease,
    pub(crate) diff_id: Digest,
    /// Paths whose files are put aside.
    pub(crate) candidates: Vec<Vec<u8>>,
    pub(crate) limits: LayerLimits,
}

impl Scan {
    /// Reads a layer of the store once: verifies it, writes its index, puts wanted files aside. Blocks for as long as
    /// decompression takes.
    ///
    /// The blob is not hashed: its uncompressed bytes have the digest that the config says, which is worth as much.
    /// Only a complaint is believed no sooner than the blob has its own digest.
    pub(crate) fn stored(self, blob: &Digest) -> Result<ScannedLayer, ReadFailure> {
        let store = self.store.clone();
        let (mut file, blob_bytes) = match store.open_unverified(blob) {
            Ok(opened) => opened,
            Err(StoreError::MissingBlob { .. }) => return Err(ReadFailure::Refetch),
            Err(error) => return Err(LayerError::Store(error).into()),
        };
        match self.read(&mut file, blob_bytes) {
            Ok(pending) => Ok(pending.commit(&store, blob)?),
            Err(error @ LayerError::Store(_)) => Err(error.into()),
            Err(error) => match store.verify(Area::Blobs, blob).map_err(LayerError::Store)? {
                Verification::Intact => Err(error.into()),
                Verification::Missing | Verification::Corrupted => Err(ReadFailure::Refetch),
            },
        }
    }

    /// Reads a layer while it arrives. Neither result nor complaint is worth anything before the download is complete.
    pub(crate) fn arriving(self, mut follower: BlobFollower) -> Result<PendingScan, LayerError> {
        let blob_bytes = follower.size_bytes();
        self.read(&mut follower, blob_bytes)
    }

    fn read(self, source: &mut (dyn Read + Send), blob_bytes: u64) -> Result<PendingScan, LayerError> {
        let Self { store, lease, diff_id, candidates, limits } = self;
        let mut candidates = Candidates { paths: candidates };
        with_archive(source, blob_bytes, diff_id.algorithm(), &limits, |mut archive| {
            let mut spooled = HashMap::new();
            let mut index = IndexWriter::create(&store, &diff_id, &limits)?;
            let mut ordinal = 0;
            while let Some(entry) = archive.next_entry()? {
                if ordinal == limits.entries {
                    return Err(LayerError::TooManyEntries { limit: limits.entries });
                }
                let record = EntryRecord::of(entry, ordinal)?;
                if let Some(record) = record {
                    match record.kind {
                        EntryKind::Symlink => candidates.follow(&record.path, &record.link),
                        EntryKind::File
                            if candidates.contains(&record.path)
                                && record.size_bytes <= limits.file_bytes =>
                        {
                            let file = spool(&store, &lease, &mut archive)?;
                            spooled.insert(record.path.clone(), SpooledFile { ordinal, writer: file });
                        }
                        _ => {}
                    }
                    index.push(&record)?;
                }
                ordinal += 1;
            }
            let actual = archive.finish()?;
            if actual != diff_id {
                return Err(LayerError::WrongDiffId { expected: diff_id, actual });
            }
            Ok(PendingScan { index, spooled })
        })
    }
}

/// Takes entries, by number in ascending order, out of a layer that was scanned before.
pub(crate) fn extract(
    store: &Store,
    lease: &Lease,
    blob: &Digest,
    ordinals: &[u64],
    limits: &LayerLimits,
) -> Result<Vec<BlobWriter>, ReadFailure> {
    read_verified(store, blob, |source, blob_bytes| {
        with_archive(source, blob_bytes, Algorithm::Sha256, limits, |mut archive| {
            let mut found = Vec::with_capacity(ordinals.len());
            let mut ordinal = 0;
            while found.len() < ordinals.len() {
                if archive.next_entry()?.is_none() {
                    return Err(LayerError::MalformedEntry {
                        offset_bytes: archive.offset_bytes(),
                        reason: "fewer entries than before",
                    });
                }
                if ordinals.get(found.len()) == Some(&ordinal) {
                    found.push(spool(store, lease, &mut archive)?);
                }
                ordinal += 1;
            }
            Ok(found)
        })
    })
}

/// Lets `read` read a blob, and believes its result, or its complaint, only when the blob has its digest.
fn read_verified<T>(
    store: &Store,
    blob: &Digest,
    read: impl FnOnce(&mut (dyn Read + Send), u64) -> Result<T, LayerError>,
) -> Result<T, ReadFailure> {
    let mut source = match store.open_blob(blob) {
        Ok(source) => source,
        Err(StoreError::MissingBlob { .. }) => return Err(ReadFailure::Refetch),
        Err(error) => return Err(LayerError::Store(error).into()),
    };
    let blob_bytes = source.size_bytes();
    let outcome = read(&mut source, blob_bytes);
    match source.finish() {
        Ok(()) => Ok(outcome?),
        Err(StoreError::Corrupted { .. }) => Err(ReadFailure::Refetch),
        Err(error) => Err(LayerError::Store(error).into()),
    }
}

type Archive<'a> = TarReader<Uncompressed<Box<dyn Read + 'a>>>;

/// Below this length of the blob a thread costs more than it brings.
const AHEAD_BYTES: u64 = 256 << 10;

/// The uncompressed data of a layer.
fn decompressed<R: BufRead>(source: R) -> Result<Decoder<impl BufRead + use<R>>, LayerError> {
    let broken = |source: io::Error| LayerError::Broken { offset_bytes: 0, source };
    let packed = Packed::new(source).map_err(broken)?;
    match packed.packing {
        Packing::Known(compression) => Decoder::new(compression, packed.stream).map_err(broken),
        Packing::Unknown(compression) => Err(LayerError::UnknownCompression { compression }),
    }
}

/// Lets `read` read the archive in a blob.
fn with_archive<T>(
    source: &mut (dyn Read + Send),
    blob_bytes: u64,
    diff_algorithm: Algorithm,
    limits: &LayerLimits,
    read: impl FnOnce(Archive<'_>) -> Result<T, LayerError>,
) -> Result<T, LayerError> {
    let inner: Box<dyn Read + Send> = Box::new(decompressed(BufReader::with_capacity(64 << 10, source))?);
    let hasher = Hasher::new(diff_algorithm);
    let limit_bytes = limits.uncompressed_for(blob_bytes);
    let uncompressed = Uncompressed { inner: (), hasher, read_bytes: 0, limit_bytes, blob_bytes };
    if blob_bytes < AHEAD_BYTES {
        return read(TarReader::new(uncompressed.of(inner)));
    }
    ahead::read_ahead(inner, |ahead| read(TarReader::new(uncompressed.of(Box::new(ahead)))))
}

/// Copies the content of the entry at hand into the store, uncommitted.
fn spool(store: &Store, lease: &Lease, archive: &mut Archive<'_>) -> Result<BlobWriter, LayerError> {
    let mut writer = store.create(lease, Area::Files, Algorithm::Sha256).map_err(LayerError::Store)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = archive.read_content(&mut buffer)?;
        if count == 0 {
            return Ok(writer);
        }
        if let Err(source) = writer.write_all(&buffer[..count]) {
            let needed_bytes = count as u64 + archive.remaining_bytes();
            let path = store.root().join("partial");
            return Err(LayerError::Store(store.write_error("write to", &path, needed_bytes, source)));
        }
    }
}

/// Counts, bounds and hashes uncompressed bytes.
struct Uncompressed<R> {
    inner: R,
    hasher: Hasher,
    read_bytes: u64,
    limit_bytes: u64,
    blob_bytes: u64,
}

impl Uncompressed<()> {
    /// The bytes that these counts and bounds are for.
    fn of(self, inner: Box<dyn Read + '_>) -> Uncompressed<Box<dyn Read + '_>> {
        let Self { inner: (), hasher, read_bytes, limit_bytes, blob_bytes } = self;
        Uncompressed { inner, hasher, read_bytes, limit_bytes, blob_bytes }
    }
}

impl<R: Read> Read for Uncompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read_bytes += count as u64;
        if self.read_bytes > self.limit_bytes {
            return Err(io::Error::other(LayerError::TooLarge {
                blob_bytes: self.blob_bytes,
                limit_bytes: self.limit_bytes,
            }));
        }
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

impl<R: Read> TarReader<Uncompressed<R>> {
    /// Reads to the end of the data, after the end of the archive, and returns the digest of all of it.
    fn finish(self) -> Result<Digest, LayerError> {
        let mut source = self.into_inner();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(source.hasher.finish()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(error, source.read_bytes)),
            }
        }
    }
}

/// An error of ours that came through a reader, or what the decompressor or the file system said.
fn read_error(error: io::Error, offset_bytes: u64) -> LayerError {
    match error.downcast::<LayerError>() {
        Ok(ours) => ours,
        Err(source) => LayerError::Broken { offset_bytes, source },
    }
}

impl EntryRecord {
    /// What the index keeps of a tar entry; `None` for entries that say nothing about the file system.
    fn of(entry: TarEntry, ordinal: u64) -> Result<Option<Self>, LayerError> {
        let path = normalised(&entry.path)?;
        let (kind, path) = match whiteout_of(&path) {
            Some(Whiteout::Opaque(directory)) => (EntryKind::Opaque, directory),
            Some(Whiteout::Name(hidden)) => (EntryKind::Whiteout, hidden),
            Some(Whiteout::Internal) => return Ok(None),
            None => {
                let kind = match entry.kind {
                    TarKind::File if entry.is_sparse => EntryKind::Sparse,
                    TarKind::File => EntryKind::File,
                    TarKind::Directory => EntryKind::Directory,
                    TarKind::Symlink => EntryKind::Symlink,
                    TarKind::HardLink => EntryKind::HardLink,
                    TarKind::CharacterDevice => EntryKind::CharacterDevice,
                    TarKind::BlockDevice => EntryKind::BlockDevice,
                    TarKind::Fifo => EntryKind::Fifo,
                    TarKind::Unknown => return Ok(None),
                };
                (kind, path)
            }
        };
        let link = match kind {
            EntryKind::HardLink => normalised(&entry.link)?,
            EntryKind::Symlink => entry.link,
            _ => Vec::new(),
        };
        Ok(Some(Self {
            kind,
            ordinal,
            path,
            link,
            size_bytes: entry.size_bytes,
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode & 0o7777,
        }))
    }
}

/// The path of an entry below the root: without `/` at either end, `.` and empty elements. `..` is refused.
fn normalised(path: &[u8]) -> Result<Vec<u8>, LayerError> {
    let mut elements = Vec::new();
    for element in path.split(|byte| *byte == b'/') {
        match element {
            b"" | b"." => {}
            b".." => {
                return Err(LayerError::Escape { path: String::from_utf8_lossy(path).into_owned() });
            }
            name => elements.push(name),
        }
    }
    Ok(elements.join(&b'/'))
}

/// What a name that begins with `.wh.` means (OCI image specification, "Whiteouts").
enum Whiteout {
    /// Everything that lower layers have in this directory is hidden.
    Opaque(Vec<u8>),
    /// What lower layers have under this name is hidden.
    Name(Vec<u8>),
    /// Something that AUFS kept for itself.
    Internal,
}

fn whiteout_of(path: &[u8]) -> Option<Whiteout> {
    let parent = parent_of(path);
    let name = if parent.is_empty() { path } else { &path[parent.len() + 1..] };
    let hidden = name.strip_prefix(b".wh.")?;
    Some(if hidden == b".wh..opq" {
        Whiteout::Opaque(parent.to_vec())
    } else if hidden.starts_with(b".wh.") || hidden.is_empty() {
        Whiteout::Internal
    } else if parent.is_empty() {
        Whiteout::Name(hidden.to_vec())
    } else {
        Whiteout::Name([parent, b"/", hidden].concat())
    })
}

#[cfg(test)]
mod tests;
