//! The client side of the Distribution specification v2.
//!
//! ```text
//! manifest / blob / push_*      what is wanted; retries, mirrors, sizes, digests      (pull, push)
//!   └ exchange                  401 → credentials → the same request again            (auth)
//!       └ deliver               http or https? redirects without credentials          (transport)
//!           └ reqwest           one connection pool per kind of TLS settings
//! ```
//!
//! A [`Client`] is cheap to clone; clones share connections, tokens and what was learned about each host.
//!
//! **Requests are counted with care.** A loopback registry is asked by plain HTTP first, so that an anonymous
//! request to it is one request; what each host speaks is remembered. A known digest is asked about by
//! `HEAD`, which costs one request when the tag is unchanged, two when it moved, and which public registries
//! do not count as a pull.
//!
//! **Credentials** go to the origin that the registry's name stands for, and in exchange for tokens to the
//! server that the registry names; never along a redirect to another origin.

mod auth;
mod challenge;
mod connections;
mod error;
mod pull;
mod push;
mod retry;
mod transport;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

pub use self::{
    error::{RegistryError, TransportError, Wanted},
    pull::{LARGEST_MANIFEST_BYTES, MANIFEST_MEDIA_TYPES},
    push::SentBytes,
};
use crate::{
    credentials::PullSecret,
    digest::Digest,
    reference::{DEFAULT_REGISTRY, Reference},
    registries::{Place, Registries, Role, Trust},
    settings::{RegistrySettings, RetryPolicy},
};

/// Where Docker Hub's registry really is.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// Takes in a blob while it is downloaded. The sink hashes and verifies what it is given; the client sees to
/// it that it is never given more bytes than the descriptor declares, nor told that a blob with fewer is
/// complete.
pub trait BlobSink: Send {
    /// How many bytes the sink holds; a download goes on from there.
    fn received(&self) -> u64;

    /// Takes in the next bytes.
    ///
    /// # Errors
    /// When they cannot be kept, for instance on a full disk; the download ends with [`RegistryError::Sink`].
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Forgets everything: the next write is the blob's first byte.
    ///
    /// # Errors
    /// When the storage cannot be emptied.
    fn restart(&mut self) -> io::Result<()>;
}

/// Hears what happens on the way that is worth telling a person.
pub trait Listener: Send + Sync {
    /// Attempt number `attempt` (the first is 1) at `what` failed for a reason that may pass; the next one is
    /// made after `delay`.
    fn retrying(&self, what: &str, attempt: u32, delay: Duration, reason: &str);

    /// Something odd that does no harm by itself, such as a mirror that failed before another place answered.
    fn warning(&self, text: &str);
}

/// One place that may hold an image: a registry or a mirror, and the repository's name there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The registry as configured: `docker.io`, `localhost:5000`.
    pub registry: String,
    /// The repository there.
    pub repository: String,
    /// Whether the registry has to prove who it is.
    pub trust: Trust,
    /// Whether it is a mirror.
    pub role: Role,
}

impl Endpoint {
    fn new(place: &Place) -> Self {
        Self {
            registry: place.reference.registry().to_owned(),
            repository: place.reference.repository().to_owned(),
            trust: place.trust,
            role: place.role,
        }
    }

    /// `HOST` or `HOST:PORT` to connect to.
    fn host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { DOCKER_HUB_HOST } else { &self.registry }
    }
}

/// A manifest (or index) as a registry served it.
#[derive(Clone, Debug)]
pub struct FetchedManifest {
    /// The manifest, byte for byte; empty when `unchanged`.
    pub bytes: Vec<u8>,
    /// Its media type; empty when `unchanged`.
    pub media_type: String,
    /// Its digest, computed from the bytes and not merely claimed (when `unchanged`, the one that was known).
    pub digest: Digest,
    /// The full name of the image: a search list may have several for one short name.
    pub name: Reference,
    /// Where it came from; blobs are to be asked for there.
    pub endpoint: Endpoint,
    /// Whether the registry says that the reference still means the known digest. Nothing was downloaded
    /// then.
    pub unchanged: bool,
}

/// A registry client. Clones share everything; [`Client::with_listener`] makes one with a request count of
/// its own.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    listener: Option<Arc<dyn Listener>>,
    requests: Arc<AtomicU32>,
}

struct Shared {
    settings: RegistrySettings,
    registries: Registries,
    connections: connections::Connections,
    authorizations: auth::Authorizations,
}

impl Client {
    /// A client under the given settings. Opens no connection and reads no file but those of
    /// registries.conf(5).
    ///
    /// # Errors
    /// When a configuration file is malformed.
    pub fn new(settings: RegistrySettings) -> Result<Self, RegistryError> {
        let registries = Registries::load(&settings)?;
        Ok(Self {
            shared: Arc::new(Shared {
                connections: connections::Connections::new(&settings),
                authorizations: auth::Authorizations::default(),
                registries,
                settings,
            }),
            listener: None,
            requests: Arc::default(),
        })
    }

    /// The same client reporting to `listener`, its own request count starting at zero.
    pub fn with_listener(&self, listener: Arc<dyn Listener>) -> Self {
        Self { shared: Arc::clone(&self.shared), listener: Some(listener), requests: Arc::default() }
    }

    /// How many HTTP requests this client and its clones have sent, those for tokens and after redirects
    /// included.
    pub fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// The settings that the client was made with.
    pub fn settings(&self) -> &RegistrySettings {
        &self.shared.settings
    }

    /// The full names that `reference` may stand for, in the order in which they are tried: more than one only for a
    /// short name under a search list. No request is made.
    ///
    /// # Errors
    /// When registries.conf(5) cannot resolve a short name.
    pub fn names(&self, reference: &Reference) -> Result<Vec<Reference>, RegistryError> {
        Ok(self.shared.registries.spell_out(reference)?)
    }

    /// The places that may hold `reference`, in the order in which they are to be asked. No request is made.
    ///
    /// # Errors
    /// When registries.conf(5) blocks the registry or cannot resolve a short name.
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistryError> {
        Ok(self.shared.registries.resolve(reference)?.iter().map(Endpoint::new).collect())
    }

    /// The place to which `reference` is pushed: mirrors play no part.
    ///
    /// # Errors
    /// When registries.conf(5) blocks the registry.
    pub fn push_endpoint(&self, reference: &Reference) -> Result<Endpoint, RegistryError> {
        Ok(Endpoint::new(&self.shared.registries.resolve_for_push(reference)?))
    }

    fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    fn warn(&self, text: &str) {
        tracing::debug!("{text}");
        if let Some(listener) = &self.listener {
            listener.warning(text);
        }
    }

    /// Waits before the next attempt and counts it, or hands the error back when there is to be none.
    async fn pause(
        &self,
        policy: &RetryPolicy,
        attempt: &mut u32,
        what: &str,
        error: RegistryError,
    ) -> Result<(), RegistryError> {
        match retry::decide(policy, *attempt, &error) {
            retry::Next::GiveUp => Err(error),
            retry::Next::Again(delay) => {
                let reason = error.chain();
                tracing::debug!(what, attempt = *attempt, ?delay, reason, "request failed, trying again");
                if let Some(listener) = &self.listener {
                    listener.retrying(what, *attempt, delay, &reason);
                }
                *attempt += 1;
                tokio::time::sleep(delay).await;
                Ok(())
            }
        }
    }
}

/// What a request is for: everything that authorization and error messages need.
struct Access<'a> {
    endpoint: &'a Endpoint,
    actions: Actions,
    secrets: &'a [PullSecret],
    /// For messages: "image `a/b:c`".
    what: &'a str,
    kind: Wanted,
}

/// What a token has to allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Actions {
    Pull,
    PullAndPush,
}

impl Actions {
    const fn scope(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::PullAndPush => "pull,push",
        }
    }
}
