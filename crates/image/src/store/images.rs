//! What `image ls` and `image inspect` tell.

use std::time::SystemTime;

use serde_json::Value;

use super::{ImageRecord, ResolvedFile, Store, StoreError};
use crate::digest::{Descriptor, Digest};
use crate::manifest::{self, DOCUMENT_LIMIT_BYTES, Document, ImageConfig, ImageManifest};
use crate::platform::Platform;
use crate::reference::Reference;

/// One line of `image ls`.
#[derive(Debug, Clone)]
pub struct ImageSummary {
    /// The reference in its canonical form.
    pub reference: String,
    /// Digest of the index or manifest.
    pub manifest_digest: Digest,
    /// When it was last pulled or used.
    pub last_used: SystemTime,
    /// Bytes of its manifests, configs, layers and extracted files that are in the store. Shared content counts for each image.
    pub stored_bytes: u64,
    /// Platforms whose manifest is in the store.
    pub platforms: Vec<Platform>,
    /// Whether every layer of those platforms is there, as `image save` and `image push` need it.
    pub is_complete: bool,
    /// Whether a living process uses it.
    pub is_in_use: bool,
}

/// Everything that the store knows of an image.
#[derive(Debug, Clone)]
pub struct ImageDetails {
    /// What `ls` says of it.
    pub summary: ImageSummary,
    /// Of the platforms whose manifest is in the store.
    pub platforms: Vec<PlatformDetails>,
}

/// One platform of an image.
#[derive(Debug, Clone)]
pub struct PlatformDetails {
    /// Digest of its manifest.
    pub digest: Digest,
    /// The manifest as it is.
    pub manifest: Value,
    /// The config as it is; `None` when it is not in the store.
    pub config: Option<Value>,
    /// What was read of the config.
    pub parsed_config: Option<ImageConfig>,
    /// The lowest first.
    pub layers: Vec<LayerDetails>,
    /// Files that were taken out of it.
    pub files: Vec<FileDetails>,
}

/// One layer.
#[derive(Debug, Clone)]
pub struct LayerDetails {
    /// As the manifest names it.
    pub descriptor: Descriptor,
    /// Whether it is in the store.
    pub is_present: bool,
}

/// A file that was taken out of an image.
#[derive(Debug, Clone)]
pub struct FileDetails {
    /// What was found.
    pub file: ResolvedFile,
    /// Whether its content is in the store.
    pub is_present: bool,
}

impl Store {
    /// Every image, sorted by reference.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn list(&self) -> Result<Vec<ImageSummary>, StoreError> {
        let leased = {
            let _guard = self.lock_exclusive()?;
            self.leased_digests(true)?
        };
        let records = self.records()?;
        let mut summaries = Vec::with_capacity(records.len());
        for (record, last_used) in records {
            let platforms = self.platform_details(&record.manifest_digest)?;
            let is_in_use = leased.contains(&record.manifest_digest);
            summaries.push(self.summary(record, last_used, &platforms, is_in_use));
        }
        Ok(summaries)
    }

    /// Everything known of one image.
    ///
    /// # Errors
    ///
    /// There is no such image, or the store cannot be read.
    pub fn inspect(&self, reference: &Reference) -> Result<ImageDetails, StoreError> {
        let name = reference.to_string();
        let (record, last_used) = self
            .records()?
            .into_iter()
            .find(|(record, _)| record.reference == name)
            .ok_or(StoreError::UnknownImage { reference: name })?;
        let leased = {
            let _guard = self.lock_exclusive()?;
            self.leased_digests(true)?
        };
        let is_in_use = leased.contains(&record.manifest_digest);
        let platforms = self.platform_details(&record.manifest_digest)?;
        let summary = self.summary(record, last_used, &platforms, is_in_use);
        Ok(ImageDetails { summary, platforms })
    }

    /// The manifest of an image in the store, with its digest: the one that the reference names, or the best for `platform`
    /// of those in its index that are in the store. `None` when the reference or the manifest is not in the store.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or what is there is no image.
    pub fn image_manifest(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Option<(Digest, ImageManifest)>, StoreError> {
        let Some(record) = self.record(reference)? else {
            return Ok(None);
        };
        let mut digest = record.manifest_digest;
        // An index may name an index; more than a few levels are nonsense.
        for _ in 0..4 {
            let Some(bytes) = self.read_blob(&digest, DOCUMENT_LIMIT_BYTES)? else {
                return Ok(None);
            };
            let parsed = manifest::parse(&bytes, None)
                .map_err(|source| StoreError::Manifest { digest: digest.clone(), source })?;
            match parsed {
                Document::Image(image) => return Ok(Some((digest, image))),
                Document::Index(index) => {
                    let mut entries = index.entries_for(platform);
                    let Some(entry) = entries.find(|entry| self.has_blob(&entry.descriptor.digest, None))
                    else {
                        return Ok(None);
                    };
                    digest = entry.descriptor.digest.clone();
                }
            }
        }
        Ok(None)
    }

    fn platform_details(&self, manifest_digest: &Digest) -> Result<Vec<PlatformDetails>, StoreError> {
        let mut found = Vec::new();
        let mut waiting = vec![manifest_digest.clone()];
        let mut visited = 0_usize;
        while let Some(digest) = waiting.pop() {
            visited += 1;
            if visited > 1000 {
                break;
            }
            let Some(bytes) = self.read_blob(&digest, DOCUMENT_LIMIT_BYTES)? else {
                continue;
            };
            match manifest::parse(&bytes, None) {
                Ok(Document::Index(index)) => {
                    waiting.extend(index.entries.into_iter().rev().map(|entry| entry.descriptor.digest));
                }
                Ok(Document::Image(image)) => found.push(self.details_of(digest, &bytes, image)?),
                // A record may name an artifact that came with `load`; it has no platforms.
                Err(_) => {}
            }
        }
        Ok(found)
    }

    fn details_of(
        &self,
        digest: Digest,
        bytes: &[u8],
        image: ImageManifest,
    ) -> Result<PlatformDetails, StoreError> {
        let config = self.read_blob(&image.config.digest, DOCUMENT_LIMIT_BYTES)?;
        let files = self
            .resolved_files(&digest)?
            .into_iter()
            .map(|file| {
                let is_present = self.content_path(super::Area::Files, &file.digest).is_file();
                FileDetails { file, is_present }
            })
            .collect();
        Ok(PlatformDetails {
            manifest: serde_json::from_slice(bytes).unwrap_or(Value::Null),
            parsed_config: config.as_deref().and_then(|bytes| manifest::parse_config(bytes).ok()),
            config: config.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok()),
            layers: image
                .layers
                .into_iter()
                .map(|descriptor| {
                    let is_present = self.has_blob(&descriptor.digest, Some(descriptor.size_bytes));
                    LayerDetails { descriptor, is_present }
                })
                .collect(),
            files,
            digest,
        })
    }

    fn summary(
        &self,
        record: ImageRecord,
        last_used: SystemTime,
        platforms: &[PlatformDetails],
        is_in_use: bool,
    ) -> ImageSummary {
        let size_of = |area, digest: &Digest| {
            std::fs::metadata(self.content_path(area, digest)).map_or(0, |found| found.len())
        };
        let mut counted = std::collections::HashSet::new();
        let mut stored_bytes = 0;
        let mut count = |area, digest: &Digest| {
            if counted.insert((area, digest.clone())) {
                stored_bytes += size_of(area, digest);
            }
        };
        count(super::Area::Blobs, &record.manifest_digest);
        for platform in platforms {
            count(super::Area::Blobs, &platform.digest);
            for layer in &platform.layers {
                count(super::Area::Blobs, &layer.descriptor.digest);
            }
            for file in &platform.files {
                count(super::Area::Files, &file.file.digest);
            }
        }
        ImageSummary {
            reference: record.reference,
            manifest_digest: record.manifest_digest,
            last_used,
            stored_bytes,
            platforms: platforms
                .iter()
                .filter_map(|platform| platform.parsed_config.as_ref()?.platform.clone())
                .collect(),
            is_complete: !platforms.is_empty()
                && platforms.iter().all(|platform| {
                    platform.config.is_some() && platform.layers.iter().all(|layer| layer.is_present)
                }),
            is_in_use,
        }
    }
}
