//! Writes images of the store into one archive.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::documents::{
    DOCKER_MANIFEST, DockerEntry, LAYOUT_INDEX, LAYOUT_MARK, LAYOUT_MARK_CONTENT, LayoutEntry, LayoutIndex,
    blob_member,
};
use crate::digest::{Algorithm, Descriptor, Digest};
use crate::manifest::OCI_INDEX;
use crate::outgoing::{self, OutgoingError, OutgoingImage};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Store, StoreError};

/// Bytes gathered before the file is written to.
const WRITE_BUFFER_BYTES: usize = 128 * 1024;

/// An image that was written into an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedImage {
    /// The name that the archive gives it.
    pub reference: Reference,
    /// Digest of its manifest.
    pub digest: Digest,
}

/// Why images were not saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// No image was named.
    #[error("cannot save an archive of no images")]
    Nothing,
    /// An image cannot leave the store.
    #[error("cannot save `{reference}`")]
    Image {
        /// The image.
        reference: String,
        /// Why.
        source: OutgoingError,
    },
    /// A blob in the store cannot be read, or is corrupted.
    #[error("cannot save blob `{digest}`")]
    Blob {
        /// The blob.
        digest: Digest,
        /// Why.
        source: StoreError,
    },
    /// The archive cannot be written.
    #[error("cannot write the archive")]
    Write {
        /// Why.
        source: io::Error,
    },
    /// The archive's file cannot be made.
    #[error("cannot write the archive `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SaveError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Image { source, .. } => source.hint(),
            Self::Blob { source: StoreError::Corrupted { .. } | StoreError::MissingBlob { .. }, .. } => {
                Some("build the image again, or fetch it again with `ferrovirt image pull`".to_owned())
            }
            Self::Blob { source, .. } => source.hint(),
            Self::Write { source } | Self::File { source, .. }
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                Some("free some space, or write the archive elsewhere".to_owned())
            }
            Self::Nothing => {
                Some("name an image; `ferrovirt image ls` lists those that are there".to_owned())
            }
            Self::Write { .. } | Self::File { .. } => {
                Some("check that the directory is there and that you may write to it".to_owned())
            }
        }
    }
}

/// Writes images to `out` as one tar stream. The same images give the same bytes.
///
/// Blocks for as long as copying takes: call it on a blocking thread. What was written before an error is of
/// no use.
///
/// # Errors
///
/// See [`SaveError`].
pub fn save(
    store: &Store,
    references: &[Reference],
    platform: &Platform,
    out: &mut dyn Write,
) -> Result<Vec<SavedImage>, SaveError> {
    let images = find_all(store, references, platform)?;
    write_archive(store, &images, out)
}

/// Writes images to the file at `path` as one tar file, which is there whole or not at all. Whatever is not a
/// regular file (a pipe, `/dev/stdout`) is written to as it is.
///
/// Blocks for as long as copying takes: call it on a blocking thread.
///
/// # Errors
///
/// See [`SaveError`].
pub fn save_to_file(
    store: &Store,
    references: &[Reference],
    platform: &Platform,
    path: &Path,
) -> Result<Vec<SavedImage>, SaveError> {
    let in_file = |source| SaveError::File { path: path.to_owned(), source };
    let images = find_all(store, references, platform)?;
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        let mut file = OpenOptions::new().write(true).open(path).map_err(in_file)?;
        return write_archive(store, &images, &mut file);
    }
    let mut partial = PartialFile::create(path).map_err(in_file)?;
    let saved = write_archive(store, &images, &mut partial.file)?;
    partial.place(path).map_err(in_file)?;
    Ok(saved)
}

fn find_all(
    store: &Store,
    references: &[Reference],
    platform: &Platform,
) -> Result<Vec<(Reference, OutgoingImage)>, SaveError> {
    if references.is_empty() {
        return Err(SaveError::Nothing);
    }
    let mut images: Vec<(Reference, OutgoingImage)> = Vec::with_capacity(references.len());
    for reference in references {
        if images.iter().any(|(known, _)| known == reference) {
            continue;
        }
        let image = outgoing::find(store, reference, platform)
            .map_err(|source| SaveError::Image { reference: reference.to_string(), source })?;
        images.push((reference.clone(), image));
    }
    Ok(images)
}

fn write_archive(
    store: &Store,
    images: &[(Reference, OutgoingImage)],
    out: &mut dyn Write,
) -> Result<Vec<SavedImage>, SaveError> {
    let writing = |source| SaveError::Write { source };
    let mut archive = tar::Builder::new(BufWriter::with_capacity(WRITE_BUFFER_BYTES, out));
    append_bytes(&mut archive, LAYOUT_MARK, LAYOUT_MARK_CONTENT.as_bytes()).map_err(writing)?;
    append_bytes(&mut archive, LAYOUT_INDEX, &layout_index(images)).map_err(writing)?;
    append_bytes(&mut archive, DOCKER_MANIFEST, &docker_manifest(images)).map_err(writing)?;
    append_blobs(store, images, &mut archive)?;
    let mut out = archive.into_inner().map_err(writing)?;
    out.flush().map_err(writing)?;
    let saved = images.iter().map(|(reference, image)| SavedImage {
        reference: reference.clone(),
        digest: image.manifest.digest.clone(),
    });
    Ok(saved.collect())
}

fn layout_index(images: &[(Reference, OutgoingImage)]) -> Vec<u8> {
    let manifests = images
        .iter()
        .map(|(reference, image)| LayoutEntry::named(image.manifest.clone(), reference))
        .collect();
    let index = LayoutIndex { schema_version: 2, media_type: Some(OCI_INDEX.to_owned()), manifests };
    serde_json::to_vec(&index).expect("strings and sorted maps always serialise")
}

fn docker_manifest(images: &[(Reference, OutgoingImage)]) -> Vec<u8> {
    let entries: Vec<DockerEntry> = images
        .iter()
        .map(|(reference, image)| DockerEntry {
            config: blob_member(&image.config.digest),
            // Docker knows no digests here, only tags.
            repo_tags: reference.tag().map(|tag| format!("{}:{tag}", reference.name())).into_iter().collect(),
            layers: image.layers.iter().map(|layer| blob_member(&layer.digest)).collect(),
        })
        .collect();
    serde_json::to_vec(&entries).expect("strings always serialise")
}

fn append_blobs<W: Write>(
    store: &Store,
    images: &[(Reference, OutgoingImage)],
    archive: &mut tar::Builder<W>,
) -> Result<(), SaveError> {
    let writing = |source| SaveError::Write { source };
    append_directory(archive, "blobs/").map_err(writing)?;
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let is_used = |image: &OutgoingImage| {
            image
                .blobs()
                .into_iter()
                .chain([&image.manifest])
                .any(|blob| blob.digest.algorithm() == algorithm)
        };
        if images.iter().any(|(_, image)| is_used(image)) {
            append_directory(archive, &format!("blobs/{}/", algorithm.name())).map_err(writing)?;
        }
    }
    let mut written = HashSet::new();
    for (_, image) in images {
        if written.insert(&image.manifest.digest) {
            append_bytes(archive, &blob_member(&image.manifest.digest), &image.manifest_bytes)
                .map_err(writing)?;
        }
        for blob in image.blobs() {
            if written.insert(&blob.digest) {
                append_blob(store, archive, blob)?;
            }
        }
    }
    Ok(())
}

/// Copies a blob, verifying it on the way.
fn append_blob<W: Write>(
    store: &Store,
    archive: &mut tar::Builder<W>,
    blob: &Descriptor,
) -> Result<(), SaveError> {
    let in_store = |source| SaveError::Blob { digest: blob.digest.clone(), source };
    let mut reader = store.open_blob(&blob.digest).map_err(in_store)?;
    let mut header = header(tar::EntryType::Regular, 0o644);
    header.set_size(blob.size_bytes);
    archive
        .append_data(&mut header, blob_member(&blob.digest), (&mut reader).take(blob.size_bytes))
        .map_err(|source| SaveError::Write { source })?;
    reader.finish().map_err(in_store)
}

fn append_bytes<W: Write>(archive: &mut tar::Builder<W>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = header(tar::EntryType::Regular, 0o644);
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, name, bytes)
}

fn append_directory<W: Write>(archive: &mut tar::Builder<W>, name: &str) -> io::Result<()> {
    archive.append_data(&mut header(tar::EntryType::Directory, 0o755), name, io::empty())
}

/// A header that says nothing of this machine and this moment.
fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

/// A file beside its final place, removed unless it gets there.
struct PartialFile {
    file: File,
    path: PathBuf,
    is_placed: bool,
}

impl PartialFile {
    fn create(target: &Path) -> io::Result<Self> {
        let name = target.file_name().ok_or(io::ErrorKind::IsADirectory)?;
        let mut partial_name = std::ffi::OsString::from(".");
        partial_name.push(name);
        partial_name.push(format!(".{}.partial", std::process::id()));
        let path = target.with_file_name(partial_name);
        // A process of this id that was killed may have left one behind; nobody else uses such a name.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        Ok(Self { file, path, is_placed: false })
    }

    fn place(mut self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        self.is_placed = true;
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory)?.sync_all()
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.is_placed {
            // The error that led here is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}
