//! Blobs and manifests, going out.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, StatusCode,
    header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION},
};
use reqwest::Url;

use super::{
    Access, Actions, Client, Endpoint, Wanted,
    error::RegistryError,
    transport::{FilePart, Outgoing, Payload, Reply, Target},
};
use crate::{
    credentials::PullSecret,
    digest::{Descriptor, Digest},
};

/// The size of the pieces in which a blob goes to a registry that does not take it whole.
const PIECE_BYTES: u64 = 8 * 1024 * 1024;

/// Hears how many bytes of a blob have been sent.
pub type SentBytes = Arc<dyn Fn(u64) + Send + Sync>;

impl Client {
    /// Whether the repository already has a blob.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn blob_exists(
        &self,
        target: &Endpoint,
        digest: &Digest,
        secrets: &[PullSecret],
    ) -> Result<bool, RegistryError> {
        let what = format!("blob `{digest}` of `{}/{}`", target.registry, target.repository);
        let access = push_access(target, secrets, &what);
        let request = Outgoing::new(Method::HEAD, format!("/v2/{}/blobs/{digest}", target.repository));
        let mut attempt = 1;
        loop {
            let result = match self.exchange(&request, &access).await {
                Ok(reply) if reply.response.status() == StatusCode::NOT_FOUND => return Ok(false),
                Ok(reply) => self.expect_success(reply, &access).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(_) => return Ok(true),
                Err(error) => self.pause(&self.shared.settings.retry, &mut attempt, &what, error).await?,
            }
        }
    }

    /// Uploads the file at `path`, whose content `descriptor` describes. `sent` hears the total of bytes sent
    /// so far, which falls back when an upload is begun anew.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn push_blob(
        &self,
        target: &Endpoint,
        descriptor: &Descriptor,
        path: &Path,
        sent: SentBytes,
        secrets: &[PullSecret],
    ) -> Result<(), RegistryError> {
        let what = format!("blob `{}` for `{}/{}`", descriptor.digest, target.registry, target.repository);
        let access = push_access(target, secrets, &what);
        let length = tokio::fs::metadata(path)
            .await
            .map_err(|source| RegistryError::Source { path: path.to_owned(), what: what.clone(), source })?
            .len();
        if length != descriptor.size_bytes {
            let source = std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("it has {length} bytes instead of {}", descriptor.size_bytes),
            );
            return Err(RegistryError::Source { path: path.to_owned(), what, source });
        }
        let whole = FilePart {
            path: path.to_owned(),
            offset: 0,
            length,
            sent: Arc::new(AtomicU64::new(0)),
            progress: sent,
        };
        let mut in_pieces = false;
        let mut attempt = 1;
        loop {
            let result = if in_pieces {
                self.upload_in_pieces(&access, &descriptor.digest, &whole).await
            } else {
                self.upload_whole(&access, &descriptor.digest, &whole).await
            };
            match result {
                Ok(()) => return Ok(()),
                Err(RegistryError::UnexpectedStatus { status, .. })
                    if !in_pieces && is_about_size_or_method(status) =>
                {
                    in_pieces = true;
                }
                Err(error) => self.pause(&self.shared.settings.retry, &mut attempt, &what, error).await?,
            }
        }
    }

    /// `POST` for a place, `PUT` the whole blob there.
    async fn upload_whole(
        &self,
        access: &Access<'_>,
        digest: &Digest,
        whole: &FilePart,
    ) -> Result<(), RegistryError> {
        let location = self.begin_upload(access).await?;
        let mut request = Outgoing::new(Method::PUT, String::new());
        request.target = Target::Upload(with_digest(location, digest));
        request.headers.insert(CONTENT_TYPE, octet_stream());
        request.payload = Payload::File(whole.clone());
        let reply = self.exchange(&request, access).await?;
        self.expect_success(reply, access).await.map(|_| ())
    }

    /// `POST` for a place, `PATCH` piece after piece there, `PUT` to close it.
    async fn upload_in_pieces(
        &self,
        access: &Access<'_>,
        digest: &Digest,
        whole: &FilePart,
    ) -> Result<(), RegistryError> {
        let mut location = self.begin_upload(access).await?;
        let mut offset = 0;
        while offset < whole.length {
            let length = PIECE_BYTES.min(whole.length - offset);
            let mut request = Outgoing::new(Method::PATCH, String::new());
            request.target = Target::Upload(location);
            request.headers.insert(CONTENT_TYPE, octet_stream());
            let range = format!("{offset}-{}", offset + length - 1);
            let range = HeaderValue::from_str(&range).expect("digits are a header value");
            request.headers.insert(CONTENT_RANGE, range);
            request.payload = Payload::File(FilePart { offset, length, ..whole.clone() });
            let reply = self.exchange(&request, access).await?;
            let reply = self.expect_success(reply, access).await?;
            location = upload_location(&reply, access)?;
            offset += length;
        }
        let mut request = Outgoing::new(Method::PUT, String::new());
        request.target = Target::Upload(with_digest(location, digest));
        let reply = self.exchange(&request, access).await?;
        self.expect_success(reply, access).await.map(|_| ())
    }

    async fn begin_upload(&self, access: &Access<'_>) -> Result<Url, RegistryError> {
        let request =
            Outgoing::new(Method::POST, format!("/v2/{}/blobs/uploads/", access.endpoint.repository));
        let reply = self.exchange(&request, access).await?;
        let reply = self.expect_success(reply, access).await?;
        upload_location(&reply, access)
    }

    /// Uploads a manifest under `selector`, a tag or a digest. Returns its digest.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub async fn push_manifest(
        &self,
        target: &Endpoint,
        selector: &str,
        media_type: &str,
        bytes: &[u8],
        secrets: &[PullSecret],
    ) -> Result<Digest, RegistryError> {
        let separator = if selector.contains(':') { '@' } else { ':' };
        let what = format!("manifest `{}/{}{separator}{selector}`", target.registry, target.repository);
        let access = push_access(target, secrets, &what);
        let mut request =
            Outgoing::new(Method::PUT, format!("/v2/{}/manifests/{selector}", target.repository));
        let content_type = HeaderValue::from_str(media_type).map_err(|_| RegistryError::WrongMediaType {
            host: target.host().to_owned(),
            what: what.clone(),
            media_type: media_type.to_owned(),
        })?;
        request.headers.insert(CONTENT_TYPE, content_type);
        request.payload = Payload::Bytes(Bytes::copy_from_slice(bytes));
        let digest = Digest::sha256_of(bytes);
        let mut attempt = 1;
        loop {
            let result = match self.exchange(&request, &access).await {
                Ok(reply) => self.expect_success(reply, &access).await,
                Err(error) => Err(error),
            };
            let reply = match result {
                Ok(reply) => reply,
                Err(error) => {
                    self.pause(&self.shared.settings.retry, &mut attempt, &what, error).await?;
                    continue;
                }
            };
            let stored = reply
                .response
                .headers()
                .get("docker-content-digest")
                .and_then(|value| value.to_str().ok())
                .and_then(|value| value.parse::<Digest>().ok())
                .filter(|stored| stored.algorithm() == digest.algorithm());
            return match stored {
                Some(stored) if stored != digest => Err(RegistryError::WrongDigest {
                    host: reply.host,
                    what,
                    expected: digest,
                    actual: stored,
                }),
                _ => Ok(digest),
            };
        }
    }
}

fn push_access<'a>(target: &'a Endpoint, secrets: &'a [PullSecret], what: &'a str) -> Access<'a> {
    Access { endpoint: target, actions: Actions::PullAndPush, secrets, what, kind: Wanted::Upload }
}

fn octet_stream() -> HeaderValue {
    HeaderValue::from_static("application/octet-stream")
}

/// What registries, and proxies before them, answer to a body that is too large for one request.
fn is_about_size_or_method(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::LENGTH_REQUIRED
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::RANGE_NOT_SATISFIABLE
    )
}

/// Where the upload goes on. A registry behind a proxy that ends TLS often names itself with `http`; what
/// began with HTTPS stays with it.
fn upload_location(reply: &Reply, access: &Access<'_>) -> Result<Url, RegistryError> {
    let nowhere =
        || RegistryError::NoUploadLocation { host: reply.host.clone(), what: access.what.to_owned() };
    let mut location = reply
        .response
        .headers()
        .get(LOCATION)
        .and_then(|location| location.to_str().ok())
        .and_then(|location| reply.url.join(location).ok())
        .ok_or_else(nowhere)?;
    if reply.url.scheme() == "https" && location.scheme() == "http" {
        location.set_scheme("https").map_err(|()| nowhere())?;
    }
    Ok(location)
}

fn with_digest(mut location: Url, digest: &Digest) -> Url {
    location.query_pairs_mut().append_pair("digest", &digest.to_string());
    location
}
