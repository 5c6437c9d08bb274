//! Garbage collection: what no record and no living process needs is removed.
//!
//! Mark and sweep under the exclusive lock. Marked are: what records name, manifests of an index that are there, configs
//! and layers of those, their layer indexes, the files taken out of them, and everything that a lease names.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{Area, Locked, Store, StoreError, flat_name, io_error, lock_if_same, parse_flat_name};
use crate::digest::Digest;
use crate::manifest::{self, DOCUMENT_LIMIT_BYTES, Document};
use crate::reference::Reference;

/// Which images pruning gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneScope {
    /// None: only what no record names.
    Unreferenced,
    /// Every image that no living process uses.
    Unused,
}

/// Whether to remove or only to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMode {
    /// Remove.
    Remove,
    /// Tell what would be removed.
    DryRun,
}

/// What kind of thing was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RemovedKind {
    /// A record: the name of an image.
    Image,
    /// A manifest, config or layer.
    Blob,
    /// A file taken out of a layer.
    File,
    /// What is known of a layer or an image and can be found out again.
    Cache,
    /// An interrupted download.
    Partial,
}

/// One removed thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedItem {
    /// Its kind.
    pub kind: RemovedKind,
    /// Reference, digest, or file name of a partial download.
    pub name: String,
    /// Bytes on disk.
    pub size_bytes: u64,
}

/// What pruning did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// In no particular order within one kind.
    pub removed: Vec<RemovedItem>,
}

impl PruneReport {
    /// Sum of the sizes.
    #[must_use]
    pub fn freed_bytes(&self) -> u64 {
        self.removed.iter().map(|item| item.size_bytes).sum()
    }
}

/// What is to be kept.
#[derive(Default)]
struct Marked {
    /// Blobs and, since a digest names its bytes, files.
    content: HashSet<Digest>,
}

impl Store {
    /// Removes what is not needed. Waits for content that is being claimed or placed at the moment, not for downloads.
    ///
    /// # Errors
    ///
    /// The store cannot be read or written; what was removed until then stays removed.
    pub fn prune(&self, scope: PruneScope, mode: RunMode) -> Result<PruneReport, StoreError> {
        let _guard = self.lock_exclusive()?;
        let leased = self.leased_digests(mode == RunMode::DryRun)?;
        let mut report = PruneReport::default();
        let mut kept = Vec::new();
        for (record, _) in self.records()? {
            if scope == PruneScope::Unused && !leased.contains(&record.manifest_digest) {
                if let Ok(reference) = record.reference.parse::<Reference>()
                    && mode == RunMode::Remove
                {
                    self.remove_record(&reference)?;
                }
                report.removed.push(RemovedItem {
                    kind: RemovedKind::Image,
                    name: record.reference,
                    size_bytes: 0,
                });
            } else {
                kept.push(record.manifest_digest);
            }
        }
        let marked = self.mark(kept, &leased)?;
        self.sweep(&marked, None, mode, &mut report)?;
        self.sweep_partial(mode, &mut report)?;
        Ok(report)
    }

    /// Removes an image by its reference, with the content that only it needed.
    ///
    /// # Errors
    ///
    /// There is no such image, a living process uses it, or the store cannot be written.
    pub fn remove(&self, reference: &Reference, mode: RunMode) -> Result<PruneReport, StoreError> {
        let _guard = self.lock_exclusive()?;
        let record = self
            .record(reference)?
            .ok_or_else(|| StoreError::UnknownImage { reference: reference.to_string() })?;
        let leased = self.leased_digests(mode == RunMode::DryRun)?;
        let kept: Vec<Digest> = self
            .records()?
            .into_iter()
            .filter(|(other, _)| other.reference != record.reference)
            .map(|(other, _)| other.manifest_digest)
            .collect();
        if leased.contains(&record.manifest_digest) && !kept.contains(&record.manifest_digest) {
            return Err(StoreError::InUse { reference: record.reference });
        }
        let own = self.mark(vec![record.manifest_digest.clone()], &HashSet::new())?;
        let marked = self.mark(kept, &leased)?;
        let mut report = PruneReport::default();
        report.removed.push(RemovedItem { kind: RemovedKind::Image, name: record.reference, size_bytes: 0 });
        if mode == RunMode::Remove {
            self.remove_record(reference)?;
        }
        self.sweep(&marked, Some(&own), mode, &mut report)?;
        Ok(report)
    }

    /// Everything reachable from these manifests, and from what leases name.
    fn mark(&self, manifests: Vec<Digest>, leased: &HashSet<Digest>) -> Result<Marked, StoreError> {
        let mut marked = Marked { content: leased.clone() };
        let mut waiting = manifests;
        let mut seen = HashSet::new();
        while let Some(digest) = waiting.pop() {
            if !seen.insert(digest.clone()) {
                continue;
            }
            marked.content.insert(digest.clone());
            marked.content.extend(self.resolved_files(&digest)?.into_iter().map(|file| file.digest));
            // A manifest that is missing, corrupted or strange has no children here; it will be fetched again with them.
            let Ok(Some(bytes)) = self.peek_blob(&digest) else {
                continue;
            };
            match manifest::parse(&bytes, None) {
                Ok(Document::Index(index)) => {
                    waiting.extend(index.entries.into_iter().map(|entry| entry.descriptor.digest));
                }
                Ok(Document::Image(image)) => {
                    marked.content.insert(image.config.digest);
                    marked.content.extend(image.layers.into_iter().map(|layer| layer.digest));
                }
                Err(_) => {}
            }
        }
        Ok(marked)
    }

    /// A manifest's bytes without verifying them: under the exclusive lock nothing may be removed for being corrupted.
    fn peek_blob(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        super::read_small(&self.content_path(Area::Blobs, digest), DOCUMENT_LIMIT_BYTES)
    }

    /// Removes content that is not marked, only such as is in `only` where that is given.
    fn sweep(
        &self,
        marked: &Marked,
        only: Option<&Marked>,
        mode: RunMode,
        report: &mut PruneReport,
    ) -> Result<(), StoreError> {
        let goes = |digest: &Digest| {
            !marked.content.contains(digest) && only.is_none_or(|only| only.content.contains(digest))
        };
        for (area, kind) in [(Area::Blobs, RemovedKind::Blob), (Area::Files, RemovedKind::File)] {
            for algorithm in ["sha256", "sha512"] {
                let directory = self.root.join(area.directory()).join(algorithm);
                for (name, path) in list(&directory)? {
                    let Ok(digest) = format!("{algorithm}:{name}").parse::<Digest>() else {
                        continue;
                    };
                    if goes(&digest) {
                        remove_item(kind, digest.to_string(), &path, mode, report)?;
                    }
                }
            }
        }
        for directory in ["layers", "resolved"] {
            for (name, path) in list(&self.root.join(directory))? {
                let Some(digest) = parse_flat_name(&name) else {
                    continue;
                };
                if goes(&digest) {
                    remove_item(RemovedKind::Cache, flat_name(&digest), &path, mode, report)?;
                }
            }
        }
        Ok(())
    }

    /// Removes what no living process writes in `partial/`.
    fn sweep_partial(&self, mode: RunMode, report: &mut PruneReport) -> Result<(), StoreError> {
        for (name, path) in list(&self.root.join("partial"))? {
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(io_error("open", &path)(source)),
            };
            if let Locked::Yes = lock_if_same(&file, &path)? {
                remove_item(RemovedKind::Partial, name, &path, mode, report)?;
            }
        }
        Ok(())
    }
}

/// Names and paths in a directory; none when it is not there.
fn list(directory: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io_error("list", directory)(source)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", directory))?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    Ok(found)
}

fn remove_item(
    kind: RemovedKind,
    name: String,
    path: &Path,
    mode: RunMode,
    report: &mut PruneReport,
) -> Result<(), StoreError> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(io_error("look at", path)(source)),
    };
    if mode == RunMode::Remove {
        let removed =
            if metadata.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        match removed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(io_error("remove", path)(source)),
        }
    }
    report.removed.push(RemovedItem { kind, name, size_bytes: metadata.len() });
    Ok(())
}
