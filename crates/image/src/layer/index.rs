//! The index of a layer: a file with one record for each entry, so that other paths can be looked up without the layer.
//!
//! ```text
//! "ferrovirt layer index 1\n" DIFF_ID "\n"
//! record*     kind u8, mode u16, path length u16, link length u16, uid u32, gid u32, size u64, ordinal u64, path, link
//! end         0xff, then the SHA-256 digest of everything before it, as text
//! ```
//!
//! All numbers are little-endian. It is read from beginning to end whenever it is asked: an index of 100,000 entries
//! takes some milliseconds, and no memory. A question therefore names all the paths that matter at once.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;

use super::{LayerError, LayerLimits};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::store::{Durability, Store, StoreError, TemporaryFile, io_error};

const MAGIC: &str = "ferrovirt layer index 1\n";
const FIXED_BYTES: usize = 31;
const END: u8 = 0xff;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum EntryKind {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// `link` is its target as written.
    Symlink = 3,
    /// `link` is the normalised path of the file in the same layer.
    HardLink = 4,
    CharacterDevice = 5,
    BlockDevice = 6,
    Fifo = 7,
    /// A regular file whose content is condensed.
    Sparse = 8,
    /// `path` of lower layers is hidden.
    Whiteout = 9,
    /// Everything that lower layers have in the directory `path` is hidden.
    Opaque = 10,
}

impl EntryKind {
    fn from_byte(byte: u8) -> Option<Self> {
        const ALL: [EntryKind; 10] = [
            EntryKind::File,
            EntryKind::Directory,
            EntryKind::Symlink,
            EntryKind::HardLink,
            EntryKind::CharacterDevice,
            EntryKind::BlockDevice,
            EntryKind::Fifo,
            EntryKind::Sparse,
            EntryKind::Whiteout,
            EntryKind::Opaque,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What the index knows of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryRecord {
    pub(crate) kind: EntryKind,
    /// Number of the entry in the archive, extension headers not counted.
    pub(crate) ordinal: u64,
    /// Normalised: no `/` at either end; empty for the root.
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) size_bytes: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
}

/// What one layer says about one path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fact {
    /// The last entry of that name, whiteouts apart.
    pub(crate) entry: Option<EntryRecord>,
    /// Something is below it, so that it is a directory even without an entry.
    pub(crate) is_implied_directory: bool,
    /// Lower layers' entry of that name is hidden.
    pub(crate) is_whiteout: bool,
    /// What lower layers have in this directory is hidden.
    pub(crate) is_opaque: bool,
}

impl Fact {
    /// Takes in one entry, which may be about `query` or not.
    fn take(&mut self, query: &[u8], record: &EntryRecord) {
        let Some(rest) = record.path.strip_prefix(query) else {
            return;
        };
        if query.is_empty() {
            self.is_implied_directory = true;
        } else if rest.first() == Some(&b'/') {
            self.is_implied_directory = true;
            return;
        }
        if rest.is_empty() {
            match record.kind {
                EntryKind::Whiteout => self.is_whiteout = true,
                EntryKind::Opaque => {
                    self.is_opaque = true;
                    self.is_implied_directory = true;
                }
                _ => self.entry = Some(record.clone()),
            }
        }
    }
}

/// What a list of entries says about paths.
#[cfg(test)]
pub(crate) fn facts_of(records: &[EntryRecord], queries: &[Vec<u8>]) -> Vec<Fact> {
    let mut facts = vec![Fact::default(); queries.len()];
    for record in records {
        queries.iter().zip(&mut facts).for_each(|(query, fact)| fact.take(query, record));
    }
    facts
}

/// Writes an index while a layer is read.
pub(super) struct IndexWriter {
    file: BufWriter<TemporaryFile>,
    hasher: Hasher,
    written_bytes: u64,
    limit_bytes: u64,
    store: Store,
    diff_id: Digest,
}

impl Write for TemporaryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl IndexWriter {
    pub(super) fn create(store: &Store, diff_id: &Digest, limits: &LayerLimits) -> Result<Self, LayerError> {
        let mut writer = Self {
            file: BufWriter::with_capacity(64 << 10, store.temporary_file().map_err(LayerError::Store)?),
            hasher: Hasher::new(Algorithm::Sha256),
            written_bytes: 0,
            limit_bytes: limits.index_bytes,
            store: store.clone(),
            diff_id: diff_id.clone(),
        };
        writer.append(format!("{MAGIC}{diff_id}\n").as_bytes())?;
        Ok(writer)
    }

    pub(super) fn push(&mut self, record: &EntryRecord) -> Result<(), LayerError> {
        let mut fixed = [0; FIXED_BYTES];
        // Both lengths and the mode are bounded by the tar reader.
        fixed[0] = record.kind as u8;
        fixed[1..3].copy_from_slice(&(record.mode as u16).to_le_bytes());
        fixed[3..5].copy_from_slice(&(record.path.len() as u16).to_le_bytes());
        fixed[5..7].copy_from_slice(&(record.link.len() as u16).to_le_bytes());
        fixed[7..11].copy_from_slice(&record.uid.to_le_bytes());
        fixed[11..15].copy_from_slice(&record.gid.to_le_bytes());
        fixed[15..23].copy_from_slice(&record.size_bytes.to_le_bytes());
        fixed[23..31].copy_from_slice(&record.ordinal.to_le_bytes());
        self.append(&fixed)?;
        self.append(&record.path)?;
        self.append(&record.link)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), LayerError> {
        self.written_bytes += bytes.len() as u64;
        if self.written_bytes > self.limit_bytes {
            return Err(LayerError::LargeIndex { limit_bytes: self.limit_bytes });
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> LayerError {
        let path = self.store.root().join("layers");
        LayerError::Store(self.store.write_error("write an index to", &path, None, source))
    }

    /// Gives the index its name. It may be lost in a crash: the layer can be read again.
    pub(super) fn commit(mut self, store: &Store, blob: &Digest) -> Result<LayerIndex, StoreError> {
        let path = store.layer_index_path(blob);
        self.hasher.update(&[END]);
        let end = format!("{}", self.hasher.finish());
        let failed = |source| store.write_error("write", &path, None, source);
        self.file.write_all(&[END]).and_then(|()| self.file.write_all(end.as_bytes())).map_err(failed)?;
        let file = self.file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.place(store, &path, Durability::Cache)?;
        Ok(LayerIndex { path, diff_id: self.diff_id })
    }
}

/// An index that is in the store and intact.
#[derive(Debug, Clone)]
pub(crate) struct LayerIndex {
    path: PathBuf,
    diff_id: Digest,
}

impl LayerIndex {
    /// The index of a layer with this uncompressed digest; `None` when there is none, or it is damaged, of another format,
    /// or says another uncompressed digest: then it is to be made anew.
    pub(crate) fn open(store: &Store, blob: &Digest, diff_id: &Digest) -> Result<Option<Self>, StoreError> {
        let index = Self { path: store.layer_index_path(blob), diff_id: diff_id.clone() };
        match index.is_intact() {
            Ok(true) => Ok(Some(index)),
            Ok(false) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("read", &index.path)(source)),
        }
    }

    /// What the file begins with.
    fn header(&self) -> Vec<u8> {
        format!("{MAGIC}{}\n", self.diff_id).into_bytes()
    }

    /// Whether it begins as it has to, and the digest at the end is that of what precedes it.
    fn is_intact(&self) -> io::Result<bool> {
        let file = File::open(&self.path)?;
        let mut start = Vec::new();
        (&file).take(self.header().len() as u64).read_to_end(&mut start)?;
        if start != self.header() {
            return Ok(false);
        }
        (&file).rewind()?;
        let end_bytes = "sha256:".len() as u64 + Algorithm::Sha256.hex_length() as u64;
        let Some(content_bytes) = file.metadata()?.len().checked_sub(end_bytes) else {
            return Ok(false);
        };
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0; 64 << 10];
        let mut content = (&file).take(content_bytes);
        loop {
            match content.read(&mut buffer)? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
        let mut end = String::new();
        (&file).take(end_bytes).read_to_string(&mut end)?;
        Ok(end == hasher.finish().to_string())
    }

    /// What the layer says about these paths, each normalised.
    pub(crate) fn facts(&self, queries: &[Vec<u8>]) -> Result<Vec<Fact>, StoreError> {
        let mut facts = vec![Fact::default(); queries.len()];
        self.for_each(|record| {
            queries.iter().zip(&mut facts).for_each(|(query, fact)| fact.take(query, record));
        })?;
        Ok(facts)
    }

    /// Shows every entry, in order.
    pub(crate) fn for_each(&self, mut show: impl FnMut(&EntryRecord)) -> Result<(), StoreError> {
        let failed = || io_error("read", &self.path);
        let file = File::open(&self.path).map_err(failed())?;
        let mut reader = BufReader::with_capacity(64 << 10, file);
        let mut start = self.header();
        reader.read_exact(&mut start).map_err(failed())?;
        if start != self.header() {
            return Err(failed()(io::ErrorKind::InvalidData.into()));
        }
        let mut record = EntryRecord {
            kind: EntryKind::File,
            ordinal: 0,
            path: Vec::new(),
            link: Vec::new(),
            size_bytes: 0,
            uid: 0,
            gid: 0,
            mode: 0,
        };
        while read_record(&mut reader, &mut record).map_err(failed())? {
            show(&record);
        }
        Ok(())
    }
}

/// Reads the next record into `record`; false at the end.
fn read_record(reader: &mut impl Read, record: &mut EntryRecord) -> io::Result<bool> {
    let mut fixed = [0; FIXED_BYTES];
    reader.read_exact(&mut fixed[..1])?;
    if fixed[0] == END {
        return Ok(false);
    }
    reader.read_exact(&mut fixed[1..])?;
    let half = |at: usize| u16::from_le_bytes([fixed[at], fixed[at + 1]]);
    let word = |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    record.kind = EntryKind::from_byte(fixed[0]).ok_or(io::ErrorKind::InvalidData)?;
    record.mode = u32::from(half(1));
    record.path.resize(usize::from(half(3)), 0);
    record.link.resize(usize::from(half(5)), 0);
    record.uid = word(7);
    record.gid = word(11);
    record.size_bytes = long(15);
    record.ordinal = long(23);
    reader.read_exact(&mut record.path)?;
    reader.read_exact(&mut record.link)?;
    Ok(true)
}
