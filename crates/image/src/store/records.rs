//! Records: what references stand for, and which files were found in which image.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Durability, Store, StoreError, flat_name, io_error, read_small};
use crate::digest::Digest;
use crate::reference::Reference;

/// Far above what any record needs.
const RECORD_LIMIT_BYTES: u64 = 1 << 20;

/// What a reference stood for when it was last asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The reference in its canonical form.
    pub reference: String,
    /// Digest of the index or manifest that the reference names.
    pub manifest_digest: Digest,
    /// What was last taken files from under this reference, if anything ever was. Not kept from pruning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<UsedImage>,
}

/// The image that files were last taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedImage {
    /// Digest of the index or manifest.
    pub manifest_digest: Digest,
    /// Digest of the manifest of the chosen platform.
    pub platform_digest: Digest,
    /// Role and requested path of each file.
    #[serde(default)]
    pub files: Vec<(String, String)>,
}

/// Where a path of an image leads, and where its content is in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedFile {
    /// The path as it was asked for.
    pub requested: String,
    /// The path of the regular file that it leads to, absolute in the image.
    pub resolved: String,
    /// The layer that the file comes from.
    pub layer: Digest,
    /// Digest of the content, in [`super::Area::Files`].
    pub digest: Digest,
    /// Length of the content in bytes.
    pub size_bytes: u64,
    /// CRC-32 (IEEE 802.3) of the content, by which it is verified when it is used.
    pub crc32: u32,
    /// Owner in the image.
    pub uid: u32,
    /// Group in the image.
    pub gid: u32,
    /// Permission bits in the image, at most 0o7777.
    pub mode: u32,
}

impl Store {
    fn record_path(&self, reference: &Reference) -> PathBuf {
        let name = Digest::sha256_of(reference.to_string().as_bytes());
        self.root.join("records").join(format!("{}.json", name.hex()))
    }

    fn resolved_path(&self, platform_digest: &Digest, requested: &str) -> PathBuf {
        let name = Digest::sha256_of(requested.as_bytes());
        self.root.join("resolved").join(flat_name(platform_digest)).join(format!("{}.json", name.hex()))
    }

    /// What is known of a reference. A record that cannot be understood counts as none: it will be written again.
    ///
    /// # Errors
    ///
    /// The record is there and cannot be read.
    pub fn record(&self, reference: &Reference) -> Result<Option<ImageRecord>, StoreError> {
        let content = read_small(&self.record_path(reference), RECORD_LIMIT_BYTES)?;
        let record = content.and_then(|content| serde_json::from_slice::<ImageRecord>(&content).ok());
        Ok(record.filter(|record| record.reference == reference.to_string()))
    }

    /// Writes what a reference stands for.
    ///
    /// # Errors
    ///
    /// The store cannot be written.
    pub(crate) fn put_record(
        &self,
        reference: &Reference,
        record: &ImageRecord,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let mut content = serde_json::to_vec_pretty(record).expect("strings always serialise");
        content.push(b'\n');
        self.write_atomically(&self.record_path(reference), &content, durability)
    }

    /// Makes `reference` name a manifest that is in the store. The caller's lease names its content.
    ///
    /// # Errors
    ///
    /// The store cannot be read or written.
    pub fn tag(&self, reference: &Reference, manifest_digest: &Digest) -> Result<(), StoreError> {
        let used = self.record(reference)?.and_then(|record| record.used);
        let record =
            ImageRecord { reference: reference.to_string(), manifest_digest: manifest_digest.clone(), used };
        self.put_record(reference, &record, Durability::Synced)
    }

    /// Notes that the image was used just now. `None` when there is no record any more.
    ///
    /// # Errors
    ///
    /// The time of the record cannot be set.
    pub fn touch_record(&self, reference: &Reference) -> Result<Option<()>, StoreError> {
        let path = self.record_path(reference);
        match std::fs::File::open(&path).and_then(|file| file.set_modified(SystemTime::now())) {
            Ok(()) => Ok(Some(())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("note the use of", &path)(source)),
        }
    }

    /// Every record with the time of its last use, sorted by reference. What cannot be understood is passed over.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn records(&self) -> Result<Vec<(ImageRecord, SystemTime)>, StoreError> {
        let directory = self.root.join("records");
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(io_error("list", &directory))? {
            let path = entry.map_err(io_error("list", &directory))?.path();
            let Some(content) = read_small(&path, RECORD_LIMIT_BYTES)? else {
                continue;
            };
            let Ok(record) = serde_json::from_slice::<ImageRecord>(&content) else {
                continue;
            };
            let Ok(used) = std::fs::metadata(&path).and_then(|found| found.modified()) else {
                continue;
            };
            records.push((record, used));
        }
        records.sort_by(|(left, _), (right, _)| left.reference.cmp(&right.reference));
        Ok(records)
    }

    /// Removes the record of a reference. Content stays until it is pruned.
    pub(super) fn remove_record(&self, reference: &Reference) -> Result<(), StoreError> {
        let path = self.record_path(reference);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(io_error("remove", &path)(source)),
        }
    }

    /// Where a path of an image led when it was looked up before.
    ///
    /// # Errors
    ///
    /// The note is there and cannot be read.
    pub fn resolved_file(
        &self,
        platform_digest: &Digest,
        requested: &str,
    ) -> Result<Option<ResolvedFile>, StoreError> {
        let content = read_small(&self.resolved_path(platform_digest, requested), RECORD_LIMIT_BYTES)?;
        let found = content.and_then(|content| serde_json::from_slice::<ResolvedFile>(&content).ok());
        Ok(found.filter(|found| found.requested == requested))
    }

    /// Notes where a path of an image leads. May be lost in a crash: it can be found again.
    ///
    /// # Errors
    ///
    /// The store cannot be written.
    pub fn put_resolved_file(&self, platform_digest: &Digest, file: &ResolvedFile) -> Result<(), StoreError> {
        let path = self.resolved_path(platform_digest, &file.requested);
        let content = serde_json::to_vec_pretty(file).expect("strings and numbers always serialise");
        // Pruning may remove the directory between its making and the rename into it.
        let _guard = self.lock_shared()?;
        super::make_directory(path.parent().unwrap_or(&self.root), 0o700)?;
        self.write_atomically(&path, &content, Durability::Cache)
    }

    /// Every path that was looked up in an image, sorted by path.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn resolved_files(&self, platform_digest: &Digest) -> Result<Vec<ResolvedFile>, StoreError> {
        let directory = self.root.join("resolved").join(flat_name(platform_digest));
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(io_error("list", &directory)(source)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(io_error("list", &directory))?.path();
            let content = read_small(&path, RECORD_LIMIT_BYTES)?.unwrap_or_default();
            files.extend(serde_json::from_slice::<ResolvedFile>(&content).ok());
        }
        files.sort_by(|left, right| left.requested.cmp(&right.requested));
        Ok(files)
    }
}
