//! The whole server: authorities, store, default objects, collectors and the listener, put together.
//!
//! ```text
//! STATE/            0700
//!   store/          the store's own directory (database, lock)
//!   pki/            keys and certificates
//!   admin.kubeconfig   0600
//! ```
//!
//! Start: open the store (which keeps a second server out), keys, listener, default objects, collectors. End: watches
//! end, requests finish, collectors stop, the store is closed; what was acknowledged is on the disk at any moment.

mod seed;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::auth::{Authenticator, Authorities, Identity, PkiError, ServerNames, TokenFile, TokenFileError};
use crate::collector;
use crate::files;
use crate::http::audit;
use crate::http::extension::Extension;
use crate::http::front::{Caller, Front, Limits, Parts};
use crate::http::in_process::ClientService;
use crate::http::listener;
use crate::kind::Kinds;
use crate::rbac::{self, Authorizer, BindingHooks, RoleHooks};
use crate::store::{HistoryLimits, OpenError, Store, StoreOptions};
use crate::verbs::{Api, Sources};

pub use seed::SeedError;

/// How to start.
#[derive(Debug)]
pub struct Options {
    /// Where the store, the authorities and the admin kubeconfig live; made (0700) if it is not there.
    pub state_directory: PathBuf,
    /// Where to listen; port 0 takes a free one ([`ApiServer::address`] says which).
    pub listen: SocketAddr,
    /// A static token file in Kubernetes' CSV format.
    pub token_file: Option<PathBuf>,
    /// Where audit events go, one JSON object a line; `None` writes none.
    pub audit_log: Option<PathBuf>,
    /// How much audit events tell.
    pub audit_level: audit::Level,
    /// What `/version` says, `v1.33.4+ferrovirt.0.1.0`: the Kubernetes version whose API this is, and ours after the plus.
    pub git_version: String,
    /// Objects that are created at start where they do not exist, of registered kinds. Roles and bindings with the
    /// annotation `rbac.authorization.kubernetes.io/autoupdate: "true"` are brought up to date where they do.
    pub extra_objects: Vec<Value>,
    /// Requests that somebody else answers.
    pub extensions: Vec<Extension>,
    /// What `/metrics` tells beside the server's own measurements.
    pub metrics: Registry,
    /// How much of the past the store keeps.
    pub history: HistoryLimits,
    /// How much is taken on at once.
    pub limits: Limits,
    /// What the cluster, the context and the user are called in the admin kubeconfig.
    pub cluster_name: String,
}

impl Options {
    /// The defaults: 127.0.0.1:6443, no token file, no audit.
    pub fn new(state_directory: impl Into<PathBuf>, git_version: impl Into<String>) -> Self {
        Self {
            state_directory: state_directory.into(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 6443)),
            token_file: None,
            audit_log: None,
            audit_level: audit::Level::default(),
            git_version: git_version.into(),
            extra_objects: Vec::new(),
            extensions: Vec::new(),
            metrics: Registry::default(),
            history: HistoryLimits::default(),
            limits: Limits::default(),
            cluster_name: "ferrovirt".to_owned(),
        }
    }
}

/// Why the server did not start. None of these goes away by trying again at once.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory cannot be made or written to.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error("cannot open the store")]
    Store(#[from] OpenError),
    /// Keys or certificates cannot be used.
    #[error("cannot prepare the server's keys and certificates")]
    Pki(#[from] PkiError),
    /// The token file cannot be used.
    #[error("cannot use the token file")]
    Tokens(#[from] TokenFileError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A default object cannot be written.
    #[error("cannot bring the default objects up to date")]
    Seed(#[from] SeedError),
    /// Something panicked, which is a fault of ours.
    #[error("the server could not be put together")]
    Task(#[source] tokio::task::JoinError),
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
        source: io::Error,
    },
}

/// A started server: it listens, and answers the network once [`run_until`](Self::run_until) is polled. Clients in this
/// program are answered from the beginning.
pub struct ApiServer {
    address: SocketAddr,
    admin_kubeconfig: PathBuf,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    front: Front,
    api: Api,
    store: Store,
    stop: watch::Sender<bool>,
    duties: JoinSet<()>,
    grace: Duration,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ApiServer").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The objects of a server, as they are stored. They are read out of memory, and nobody is asked whether they may be.
#[derive(Clone)]
pub struct Objects {
    api: Api,
}

impl fmt::Debug for Objects {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Objects").finish_non_exhaustive()
    }
}

impl Objects {
    /// The JSON of all objects of a kind, in order of namespace and name; none for a kind that is not registered.
    pub fn all(&self, group: &str, plural: &str) -> Vec<Bytes> {
        let Some(kind) = self.api.kinds().resource(group, plural) else { return Vec::new() };
        let listing = self.api.store().list(&kind.storage_prefix(), None);
        listing.items.iter().map(|stored| stored.json.clone()).collect()
    }
}

/// The admin kubeconfig's name in the state directory.
pub const ADMIN_KUBECONFIG: &str = "admin.kubeconfig";
/// The store's directory in the state directory.
pub const STORE_DIRECTORY: &str = "store";
/// How often it is looked whether certificates are due.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(12 * 3600);

impl ApiServer {
    /// Opens the state, brings the default objects up to date and binds the listener.
    ///
    /// # Errors
    /// When the state cannot be opened or the address is taken.
    pub async fn start(options: Options, kinds: Kinds) -> Result<Self, StartError> {
        let listener = TcpListener::bind(options.listen)
            .await
            .map_err(|source| StartError::Listen { address: options.listen, source })?;
        let address =
            listener.local_addr().map_err(|source| StartError::Listen { address: options.listen, source })?;
        let opening = move || {
            let opened = open(&options, address);
            (options, opened)
        };
        let (options, opened) = tokio::task::spawn_blocking(opening).await.map_err(StartError::Task)?;
        let Opened { store, authorities, tokens, audit, tls, admin } = opened?;
        let admin_kubeconfig = admin.path.clone();

        let authorizer = Arc::new(Authorizer::new(store.clone()));
        let kinds = Arc::new(kinds.adjusted(|kind| guard(kind, &authorizer)));
        let api = Api::new(store.clone(), kinds, Sources::system());
        seed::seed(&api, address, &options.extra_objects).await?;

        let (stop, stopped) = watch::channel(false);
        let settings = collector::Settings { root_certificate: authorities.ca_certificate_pem().to_owned() };
        let mut duties = collector::start(&api, settings, stopped.clone());
        duties.spawn(collector::tokens::run(api.clone(), Arc::clone(&authorities), stopped.clone()));
        duties.spawn(renew(Arc::clone(&authorities), admin, stopped.clone()));
        let grace = options.limits.shutdown_grace;
        let front = Front::new(Parts {
            api: api.clone(),
            authenticator: Authenticator::new(Arc::clone(&authorities), tokens, store.clone()),
            authorizer,
            authorities,
            git_version: options.git_version,
            extensions: options.extensions,
            metrics: options.metrics,
            limits: options.limits,
            audit,
            address: reachable(address).to_string(),
            stop: stopped,
        });
        Ok(Self { address, admin_kubeconfig, listener, tls, front, api, store, stop, duties, grace })
    }

    /// The address listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The kubeconfig of the administrator (0600).
    pub fn admin_kubeconfig(&self) -> &Path {
        &self.admin_kubeconfig
    }

    /// The whole API as a router, for tests and for servers around it. Callers are known by their bearer token only.
    pub fn router(&self) -> Router {
        let front = self.front.clone();
        Router::new().fallback(move |request: axum::extract::Request| {
            front.answer(request, Caller::Network { address: None, certificate: None })
        })
    }

    /// The whole API for a client in this program that is always `identity`:
    /// `kube::Client::new(server.client_service(identity), "default")`. Upgrades work.
    pub fn client_service(&self, identity: Identity) -> ClientService {
        ClientService::new(self.front.clone(), identity)
    }

    /// The objects that are there, for what looks at all of them at once.
    pub fn objects(&self) -> Objects {
        Objects { api: self.api.clone() }
    }

    /// Answers requests until `shutdown` is done, then ends watches, lets requests finish and closes the store.
    ///
    /// # Errors
    /// When the listener fails for good; the store is closed then too.
    pub async fn run_until(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        let Self { address, listener, tls, front, store, stop, duties, grace, .. } = self;
        let stopped = stop.subscribe();
        let served = {
            let serving = listener::serve(listener, tls, front, stopped);
            tokio::pin!(serving);
            tokio::select! {
                served = &mut serving => served,
                () = shutdown => {
                    stop.send_replace(true);
                    serving.await
                }
            }
        };
        finish(store, &stop, duties, grace).await;
        served.map_err(|source| ServeError::Accept { address, source })
    }

    /// Stops a server that was never run, or whose clients were all in this program.
    pub async fn shutdown(self) {
        finish(self.store, &self.stop, self.duties, self.grace).await;
    }
}

async fn finish(store: Store, stop: &watch::Sender<bool>, mut duties: JoinSet<()>, grace: Duration) {
    stop.send_replace(true);
    let ended = async { while duties.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!("some controllers did not stop in time");
        duties.shutdown().await;
    }
    store.close().await;
}

/// What is read from the disk.
struct Opened {
    store: Store,
    authorities: Arc<Authorities>,
    tokens: Option<TokenFile>,
    audit: Option<audit::Log>,
    tls: Arc<rustls::ServerConfig>,
    admin: AdminFile,
}

/// The kubeconfig of the administrator, which has a certificate that runs out.
struct AdminFile {
    path: PathBuf,
    server_url: String,
    cluster_name: String,
}

impl AdminFile {
    fn write(&self, authorities: &Authorities) -> io::Result<()> {
        let text = authorities.admin_kubeconfig(&self.server_url, &self.cluster_name);
        files::write_private(&self.path, &text)
    }
}

/// The part of starting that waits for the disk and for keys.
fn open(options: &Options, address: SocketAddr) -> Result<Opened, StartError> {
    let directory = &options.state_directory;
    let file = |action, path: &Path| {
        let path = path.to_owned();
        move |source| StartError::File { action, path, source }
    };
    files::create_private_directory(directory).map_err(file("create", directory))?;
    let store = Store::open(StoreOptions {
        directory: directory.join(STORE_DIRECTORY),
        history: options.history.clone(),
    })?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let names = ServerNames { host_names: vec![host], addresses: vec![address.ip()] };
    let authorities = Authorities::open_or_create(directory, &names, jiff::Timestamp::now())?;
    let tls = authorities.server_config()?;
    let tokens = options.token_file.as_deref().map(TokenFile::read).transpose()?;
    let audit = match &options.audit_log {
        Some(path) => {
            Some(audit::Log::open(path, options.audit_level).map_err(file("open the audit log", path))?)
        }
        None => None,
    };
    let admin = AdminFile {
        path: directory.join(ADMIN_KUBECONFIG),
        server_url: format!("https://{}", reachable(address)),
        cluster_name: options.cluster_name.clone(),
    };
    admin.write(&authorities).map_err(file("write", &admin.path))?;
    Ok(Opened { store, authorities: Arc::new(authorities), tokens, audit, tls, admin })
}

/// The address that a client on this machine reaches the server at.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Roles and bindings may grant only what their writer has; the authorizer, which reads the store, decides that.
fn guard(kind: &mut crate::kind::Kind, authorizer: &Arc<Authorizer>) {
    if kind.group != rbac::GROUP {
        return;
    }
    match kind.names.plural.as_str() {
        "roles" | "clusterroles" => {
            kind.hooks = Arc::new(RoleHooks { authorizer: Some(Arc::clone(authorizer)) });
        }
        "rolebindings" | "clusterrolebindings" => {
            kind.hooks = Arc::new(BindingHooks { authorizer: Some(Arc::clone(authorizer)) });
        }
        _ => {}
    }
}

/// Renews certificates that are due, and the file that one of them is in, for as long as the server runs.
async fn renew(authorities: Arc<Authorities>, admin: AdminFile, mut stop: watch::Receiver<bool>) {
    let admin = Arc::new(admin);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(RENEWAL_INTERVAL) => {}
        }
        let (authorities, admin) = (Arc::clone(&authorities), Arc::clone(&admin));
        let renewal = move || renew_once(&authorities, &admin, jiff::Timestamp::now());
        if let Err(error) = tokio::task::spawn_blocking(renewal).await {
            tracing::error!(%error, "renewing certificates failed");
        }
    }
}

fn renew_once(authorities: &Authorities, admin: &AdminFile, now: jiff::Timestamp) {
    match authorities.renew(now) {
        Ok(true) => tracing::info!("certificates were renewed"),
        Ok(false) => return,
        Err(error) => {
            tracing::error!(%error, "certificates could not be renewed");
            return;
        }
    }
    if let Err(error) = admin.write(authorities) {
        let path = admin.path.display();
        tracing::error!(%path, %error, "the administrator's new certificate could not be written");
    }
}
