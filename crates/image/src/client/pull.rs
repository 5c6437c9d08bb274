//! Manifests and blobs, coming in.

use std::time::{Duration, Instant};

use http::{
    HeaderValue, Method, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, RANGE},
};

use super::{
    Access, Actions, BlobSink, Client, Endpoint, FetchedManifest, Role, Wanted,
    error::RegistryError,
    transport::{Outgoing, Reply},
};
use crate::{
    credentials::PullSecret,
    digest::{Algorithm, Descriptor, Digest},
    reference::Reference,
    registries::Place,
    settings::RetryPolicy,
};

/// The largest manifest or index: what the Distribution specification asks registries to accept at least.
pub const LARGEST_MANIFEST_BYTES: u64 = 4 * 1024 * 1024;
/// Progress that makes earlier failures of a download not count.
const PROGRESS_BYTES: u64 = 1024 * 1024;
/// The slowest average rate of a download; far below what any network that is of use has.
const LOWEST_BYTES_PER_SECOND: u64 = 1024;
/// How often one download goes on after it broke off, even if every attempt brings it further.
const MOST_RESUMPTIONS: u32 = 100;
/// Not standardised, but sent by every registry (Distribution specification, "Pulling manifests").
const CONTENT_DIGEST: &str = "docker-content-digest";

/// The kinds of manifest and index that are asked for.
pub const MANIFEST_MEDIA_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Where a manifest may come from.
struct Source {
    endpoint: Endpoint,
    /// The image as that place knows it.
    reference: Reference,
    /// The full name of the image.
    name: Reference,
}

impl From<Place> for Source {
    fn from(place: Place) -> Self {
        Self { endpoint: Endpoint::new(&place), reference: place.reference, name: place.name }
    }
}

impl Client {
    /// Fetches the manifest of `reference`, from mirrors first where there are any.
    ///
    /// With a `known` digest one `HEAD` request learns whether the reference still means it; only when it
    /// does not is the manifest downloaded.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn manifest(
        &self,
        reference: &Reference,
        known: Option<&Digest>,
        secrets: &[PullSecret],
    ) -> Result<FetchedManifest, RegistryError> {
        let places = self.shared.registries.resolve(reference)?;
        let sources = places.into_iter().map(Source::from).collect();
        self.manifest_from(sources, reference, known, secrets).await
    }

    /// Fetches the manifest that `reference` names by digest: from `preferred`, for instance because the index that
    /// names it came from there, and from the other places only if that one cannot serve it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn manifest_by_digest(
        &self,
        preferred: &Endpoint,
        reference: &Reference,
        secrets: &[PullSecret],
    ) -> Result<FetchedManifest, RegistryError> {
        let others = self.shared.registries.resolve(reference)?.into_iter().map(Source::from);
        let mut sources: Vec<Source> = others.filter(|source| source.endpoint != *preferred).collect();
        let (endpoint, name) = (preferred.clone(), reference.clone());
        sources.insert(0, Source { endpoint, reference: reference.clone(), name });
        self.manifest_from(sources, reference, None, secrets).await
    }

    /// Fetches a manifest from the first of `sources` that serves it.
    async fn manifest_from(
        &self,
        sources: Vec<Source>,
        reference: &Reference,
        known: Option<&Digest>,
        secrets: &[PullSecret],
    ) -> Result<FetchedManifest, RegistryError> {
        let mut attempts = Vec::new();
        let count = sources.len();
        for (index, source) in sources.into_iter().enumerate() {
            let is_last = index + 1 == count;
            let result = self.manifest_at(&source, known, secrets, is_last).await;
            let endpoint = source.endpoint;
            let error = match result {
                Ok(manifest) => return Ok(manifest),
                Err(error) => error,
            };
            if !is_last {
                self.warn(&format!(
                    "{} `{}` did not help: {}",
                    if endpoint.role == Role::Mirror { "mirror" } else { "registry" },
                    endpoint.registry,
                    error.chain()
                ));
            }
            attempts.push((endpoint, error));
        }
        if attempts.len() == 1
            && let Some((_, error)) = attempts.pop()
        {
            return Err(error);
        }
        Err(RegistryError::AllPlacesFailed { what: format!("image `{reference}`"), attempts })
    }

    async fn manifest_at(
        &self,
        source: &Source,
        known: Option<&Digest>,
        secrets: &[PullSecret],
        is_last: bool,
    ) -> Result<FetchedManifest, RegistryError> {
        let Source { endpoint, reference, name } = source;
        let what = format!("image `{reference}`");
        let access =
            Access { endpoint, actions: Actions::Pull, secrets, what: &what, kind: Wanted::Manifest };
        // A mirror that is in trouble has somebody behind it, who is asked sooner than it recovers.
        let policy = if is_last || endpoint.role == Role::Primary {
            self.shared.settings.retry
        } else {
            RetryPolicy { attempts: 1, ..self.shared.settings.retry }
        };
        let selector = reference.manifest_selector();
        let mut attempt = 1;
        loop {
            let result = match known {
                Some(known) => match self.still_means(&access, &selector, known).await {
                    Ok(true) => {
                        return Ok(FetchedManifest {
                            bytes: Vec::new(),
                            media_type: String::new(),
                            digest: known.clone(),
                            name: name.clone(),
                            endpoint: endpoint.clone(),
                            unchanged: true,
                        });
                    }
                    Ok(false) => self.get_manifest(&access, source).await,
                    Err(error) => Err(error),
                },
                None => self.get_manifest(&access, source).await,
            };
            match result {
                Ok(manifest) => return Ok(manifest),
                Err(error) => self.pause(&policy, &mut attempt, &what, error).await?,
            }
        }
    }

    /// Asks by `HEAD` whether `selector` still means `known`. An answer that leaves it open counts as no; no answer
    /// at all is an error, which a `GET` would only meet again.
    async fn still_means(
        &self,
        access: &Access<'_>,
        selector: &str,
        known: &Digest,
    ) -> Result<bool, RegistryError> {
        let request = manifest_request(Method::HEAD, access.endpoint, selector);
        let reply = self.exchange(&request, access).await?;
        Ok(reply.response.status().is_success()
            && announced_digest(reply.response.headers()).as_ref() == Some(known))
    }

    async fn get_manifest(
        &self,
        access: &Access<'_>,
        source: &Source,
    ) -> Result<FetchedManifest, RegistryError> {
        let selector = source.reference.manifest_selector();
        let request = manifest_request(Method::GET, access.endpoint, &selector);
        let reply = self.exchange(&request, access).await?;
        let mut reply = self.expect_success(reply, access).await?;
        let announced = announced_digest(reply.response.headers());
        let content_type = content_type(reply.response.headers());
        let bytes = self.read_small_body(&mut reply, access.what, LARGEST_MANIFEST_BYTES).await?;
        let media_type =
            media_type_of(&bytes, &content_type).ok_or_else(|| RegistryError::WrongMediaType {
                host: reply.host.clone(),
                what: access.what.to_owned(),
                media_type: if content_type.is_empty() { "unknown".to_owned() } else { content_type },
            })?;
        let expected = source.reference.digest().or(announced.as_ref());
        let digest = Digest::of(expected.map_or(Algorithm::Sha256, Digest::algorithm), &bytes);
        if let Some(expected) = expected
            && *expected != digest
        {
            return Err(RegistryError::WrongDigest {
                host: reply.host,
                what: access.what.to_owned(),
                expected: expected.clone(),
                actual: digest,
            });
        }
        let (name, endpoint) = (source.name.clone(), source.endpoint.clone());
        Ok(FetchedManifest { bytes, media_type, digest, name, endpoint, unchanged: false })
    }

    /// Downloads a blob into `sink`, resuming from what the sink already has.
    ///
    /// # Errors
    /// See [`RegistryError`]. The digest is the sink's to verify.
    pub async fn blob(
        &self,
        source: &Endpoint,
        descriptor: &Descriptor,
        sink: &mut dyn BlobSink,
        secrets: &[PullSecret],
    ) -> Result<(), RegistryError> {
        let what = format!("blob `{}` of `{}/{}`", descriptor.digest, source.registry, source.repository);
        let access =
            Access { endpoint: source, actions: Actions::Pull, secrets, what: &what, kind: Wanted::Blob };
        let mut attempt = 1;
        let mut resumptions = 0;
        let mut counted_from = sink.received();
        loop {
            let error = match self.blob_once(&access, descriptor, sink).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            resumptions += 1;
            if resumptions > MOST_RESUMPTIONS {
                return Err(error);
            }
            if sink.received() >= counted_from + PROGRESS_BYTES {
                attempt = 1;
                counted_from = sink.received();
            }
            // After a restart what there was is gone.
            counted_from = counted_from.min(sink.received());
            self.pause(&self.shared.settings.retry, &mut attempt, &what, error).await?;
        }
    }

    async fn blob_once(
        &self,
        access: &Access<'_>,
        descriptor: &Descriptor,
        sink: &mut dyn BlobSink,
    ) -> Result<(), RegistryError> {
        let size = descriptor.size_bytes;
        let host = access.endpoint.host();
        let cannot_keep = |host: &str, source| RegistryError::Sink {
            host: host.to_owned(),
            what: access.what.to_owned(),
            source,
        };
        if sink.received() > size {
            sink.restart().map_err(|source| cannot_keep(host, source))?;
        }
        let offset = sink.received();
        if offset == size {
            return Ok(());
        }
        let path = format!("/v2/{}/blobs/{}", access.endpoint.repository, descriptor.digest);
        let mut request = Outgoing::new(Method::GET, path);
        request.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if offset > 0 {
            let range =
                HeaderValue::from_str(&format!("bytes={offset}-")).expect("digits are a header value");
            request.headers.insert(RANGE, range);
        }
        let reply = self.exchange(&request, access).await?;
        let resumes = reply.response.status() == StatusCode::PARTIAL_CONTENT
            && range_start(reply.response.headers()) == Some(offset);
        let cannot_resume = offset > 0
            && !resumes
            && matches!(
                reply.response.status(),
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE
            );
        if cannot_resume {
            sink.restart().map_err(|source| cannot_keep(&reply.host, source))?;
            return Err(truncated(&reply.host, access, 0, size));
        }
        let mut reply = self.expect_success(reply, access).await?;
        if offset > 0 && !resumes {
            sink.restart().map_err(|source| cannot_keep(&reply.host, source))?;
        }
        let content_type = content_type(reply.response.headers());
        if content_type == "text/html" {
            return Err(RegistryError::WrongMediaType {
                host: reply.host,
                what: access.what.to_owned(),
                media_type: content_type,
            });
        }
        let too_large = |reply: &Reply| RegistryError::TooLarge {
            host: reply.host.clone(),
            what: access.what.to_owned(),
            limit_bytes: size,
        };
        let announced = reply.response.content_length();
        if announced.is_some_and(|length| length > size.saturating_sub(sink.received())) {
            return Err(too_large(&reply));
        }
        let mut pace = Pace::new(self.shared.connections.limits.download_window, sink.received());
        while let Some(piece) = self.next_piece(&mut reply, access.what).await? {
            if sink.received() + piece.len() as u64 > size {
                return Err(too_large(&reply));
            }
            sink.write(&piece).map_err(|source| cannot_keep(&reply.host, source))?;
            if let Some(received_bytes) = pace.too_slow(sink.received())
                && sink.received() < size
            {
                return Err(RegistryError::TooSlow {
                    host: reply.host,
                    what: access.what.to_owned(),
                    received_bytes,
                    window: pace.window,
                });
            }
        }
        match sink.received() {
            received if received == size => Ok(()),
            received => Err(truncated(&reply.host, access, received, size)),
        }
    }
}

/// Whether a download keeps the lowest rate, window after window.
struct Pace {
    window: Duration,
    begun: Instant,
    begun_with_bytes: u64,
}

impl Pace {
    fn new(window: Duration, received_bytes: u64) -> Self {
        Self { window, begun: Instant::now(), begun_with_bytes: received_bytes }
    }

    /// How much came in the window that has just ended, if that is too little.
    fn too_slow(&mut self, received_bytes: u64) -> Option<u64> {
        if self.begun.elapsed() < self.window {
            return None;
        }
        let in_window = received_bytes.saturating_sub(self.begun_with_bytes);
        let wanted = self.window.as_secs_f64() * LOWEST_BYTES_PER_SECOND as f64;
        (self.begun, self.begun_with_bytes) = (Instant::now(), received_bytes);
        ((in_window as f64) < wanted).then_some(in_window)
    }
}

fn truncated(host: &str, access: &Access<'_>, received_bytes: u64, expected_bytes: u64) -> RegistryError {
    RegistryError::Truncated {
        host: host.to_owned(),
        what: access.what.to_owned(),
        received_bytes,
        expected_bytes,
    }
}

fn manifest_request(method: Method, endpoint: &Endpoint, selector: &str) -> Outgoing {
    let mut request = Outgoing::new(method, format!("/v2/{}/manifests/{selector}", endpoint.repository));
    let accept =
        HeaderValue::from_str(&MANIFEST_MEDIA_TYPES.join(", ")).expect("media types are a header value");
    request.headers.insert(ACCEPT, accept);
    request
}

fn announced_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

/// The media type without parameters, in lower case; empty if there is none.
fn content_type(headers: &HeaderMap) -> String {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(|value| value.trim().to_ascii_lowercase())
        .unwrap_or_default()
}

/// What a manifest is: by its own `mediaType`, else by the header, if either is one of the kinds that were
/// asked for. Some registries send every manifest as `application/json` or `text/plain`.
fn media_type_of(bytes: &[u8], content_type: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        media_type: Option<String>,
        schema_version: Option<u64>,
        manifests: Option<serde::de::IgnoredAny>,
        layers: Option<serde::de::IgnoredAny>,
    }
    let known = |name: &str| {
        MANIFEST_MEDIA_TYPES.iter().find(|known| **known == name).map(|known| (*known).to_owned())
    };
    let head: Head = serde_json::from_slice(bytes).ok()?;
    if let Some(found) = head.media_type.as_deref().map_or_else(|| known(content_type), known) {
        return Some(found);
    }
    // OCI leaves `mediaType` optional, so that the fields have to tell.
    match (head.media_type, head.schema_version, head.manifests, head.layers) {
        (None, Some(2), Some(_), None) => known(MANIFEST_MEDIA_TYPES[0]),
        (None, Some(2), None, Some(_)) => known(MANIFEST_MEDIA_TYPES[1]),
        _ => None,
    }
}

/// Where a partial response begins: `bytes 100-199/200` begins at 100.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifests_kind_is_found_in_it_or_in_the_header() {
        let [index, manifest, _, docker] = MANIFEST_MEDIA_TYPES;
        let kind = |body: &str, header: &str| media_type_of(body.as_bytes(), header);
        assert_eq!(
            kind(&format!(r#"{{"mediaType":"{docker}"}}"#), "application/json"),
            Some(docker.to_owned())
        );
        assert_eq!(kind(r#"{"schemaVersion":2,"layers":[]}"#, manifest), Some(manifest.to_owned()));
        assert_eq!(kind(r#"{"schemaVersion":2,"layers":[]}"#, "text/plain"), Some(manifest.to_owned()));
        assert_eq!(kind(r#"{"schemaVersion":2,"manifests":[]}"#, ""), Some(index.to_owned()));
        assert_eq!(kind(r#"{"schemaVersion":1,"fsLayers":[]}"#, "application/json"), None);
        assert_eq!(kind(r#"{"mediaType":"application/vnd.oci.empty.v1+json"}"#, manifest), None);
        assert_eq!(kind("<html>", "text/html"), None);
    }
}
