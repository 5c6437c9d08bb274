//! From a reference to the manifest of one platform.

use super::transfer::Context;
use super::{PullError, PullEvent, PullPolicy};
use crate::client::FetchedManifest;
use crate::digest::Digest;
use crate::manifest::{self, DOCUMENT_LIMIT_BYTES, Document, ImageManifest, Index, ManifestError};
use crate::store::ImageRecord;

/// Indexes may name indexes, in theory.
const NESTED_INDEXES: usize = 4;

/// The image that is pulled.
pub(super) struct ChosenImage {
    /// What the reference means.
    pub(super) manifest_digest: Digest,
    /// The manifest of the platform.
    pub(super) platform_digest: Digest,
    pub(super) image: ImageManifest,
}

/// Finds out what the reference means, as the policy says, and which of its manifests is for the platform.
pub(super) async fn choose(
    context: &Context,
    record: Option<&ImageRecord>,
) -> Result<ChosenImage, PullError> {
    let known = context.reference.digest().or(record.map(|record| &record.manifest_digest));
    let (manifest_digest, mut document) = top(context, known).await?;
    let mut digest = manifest_digest.clone();
    for _ in 0..=NESTED_INDEXES {
        let index = match document {
            Document::Image(image) => {
                return Ok(ChosenImage { manifest_digest, platform_digest: digest, image });
            }
            Document::Index(index) => index,
        };
        let entry = index.entries_for(&context.platform).next().ok_or_else(|| PullError::NoPlatform {
            reference: context.reference.to_string(),
            wanted: context.platform.clone(),
            present: platforms_of(&index),
        })?;
        digest = entry.descriptor.digest.clone();
        document = match stored(context, &digest).await? {
            Some(document) => document,
            None if context.policy == PullPolicy::Never => {
                return Err(PullError::NeverAndIncomplete {
                    reference: context.reference.to_string(),
                    digest,
                });
            }
            None => fetch_named(context, &digest).await?,
        };
    }
    Err(context.in_manifest()(ManifestError::Ambiguous {
        reason: format!("more than {NESTED_INDEXES} indexes name one another"),
    }))
}

/// What the reference itself names.
async fn top(context: &Context, known: Option<&Digest>) -> Result<(Digest, Document), PullError> {
    let known = match known {
        Some(digest) => stored(context, digest).await?.map(|document| (digest.clone(), document)),
        None => None,
    };
    match (context.policy, known) {
        (PullPolicy::Never | PullPolicy::IfNotPresent, Some(known)) => Ok(known),
        (PullPolicy::Never, None) => Err(PullError::NeverAndAbsent { reference: context.wanted_name() }),
        (PullPolicy::IfNotPresent, None) | (PullPolicy::Always, None) => {
            context.event(PullEvent::Resolving);
            let answer = ask(context, None).await?;
            keep(context, answer).await
        }
        (PullPolicy::Always, Some((digest, document))) => {
            context.event(PullEvent::Resolving);
            let answer = ask(context, Some(&digest)).await?;
            if !answer.unchanged {
                return keep(context, answer).await;
            }
            context.came_from(answer.endpoint);
            context.event(PullEvent::ManifestFetched { digest: digest.clone() });
            Ok((digest, document))
        }
    }
}

/// A manifest that is in the store, under the lease.
async fn stored(context: &Context, digest: &Digest) -> Result<Option<Document>, PullError> {
    context.claim(vec![digest.clone()]).await?;
    let bytes = context.store.read_blob(digest, DOCUMENT_LIMIT_BYTES).map_err(context.in_store())?;
    bytes.map(|bytes| manifest::parse(&bytes, None).map_err(context.in_manifest())).transpose()
}

/// Asks what the reference means.
async fn ask(context: &Context, known: Option<&Digest>) -> Result<FetchedManifest, PullError> {
    let answer = context.client.manifest(&context.reference, known, &context.secrets).await;
    let answer = answer.map_err(context.in_registry())?;
    context.is_called(answer.name.clone());
    Ok(answer)
}

/// A manifest that an index names: asked for where the index came from first.
async fn fetch_named(context: &Context, digest: &Digest) -> Result<Document, PullError> {
    let reference = context.name().with_digest(digest.clone());
    let answer = match context.source() {
        Some(source) => context.client.manifest_by_digest(source, &reference, &context.secrets).await,
        None => context.client.manifest(&reference, None, &context.secrets).await,
    };
    Ok(keep(context, answer.map_err(context.in_registry())?).await?.1)
}

/// Understands a manifest that arrived, and puts it into the store.
async fn keep(context: &Context, answer: FetchedManifest) -> Result<(Digest, Document), PullError> {
    let document = manifest::parse(&answer.bytes, Some(&answer.media_type)).map_err(context.in_manifest())?;
    context.count_bytes(answer.bytes.len() as u64);
    let (store, lease) = (context.store.clone(), context.lease.clone());
    let (bytes, algorithm) = (answer.bytes, answer.digest.algorithm());
    let put = move || store.put_blob_unsynced(&lease, &bytes, algorithm);
    let (digest, unsynced) = context.blocking(put).await?.map_err(context.in_store())?;
    if let Some(unsynced) = unsynced {
        context.sync_later(unsynced);
    }
    context.came_from(answer.endpoint);
    context.event(PullEvent::ManifestFetched { digest: digest.clone() });
    Ok((digest, document))
}

/// What an index has, for people. Builders file attestations under `unknown/unknown`.
fn platforms_of(index: &Index) -> String {
    let mut names: Vec<String> = index
        .entries
        .iter()
        .filter_map(|entry| entry.platform.as_ref())
        .filter(|platform| platform.os != "unknown")
        .map(|platform| format!("`{platform}`"))
        .collect();
    names.sort();
    names.dedup();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
