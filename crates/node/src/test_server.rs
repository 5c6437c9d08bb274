//! The API server itself, in the process of a test.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::auth::Identity;
use apiserver::builtin;
use apiserver::kind::Kinds;
use apiserver::server::{ApiServer, Options};
use image::settings::RetryPolicy;
use image::{Client, Images, RegistrySettings, Store};

use crate::Settings;

/// Far above what anything here takes.
const WAIT: Duration = Duration::from_secs(20);

/// A server with Kubernetes' own kinds, in a directory that goes with it.
pub struct TestServer {
    server: ApiServer,
    _directory: tempfile::TempDir,
}

impl TestServer {
    /// Starts one.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ..Options::new(directory.path().join("state"), "v1.33.0")
        };
        let server = ApiServer::start(options, Kinds::new(builtin::kinds())).await.unwrap();
        Self { server, _directory: directory }
    }

    /// A client that may do everything, in the namespace `default`.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.server.client_service(Identity::internal("test")), "default")
    }
}

/// What a node with everything in `directory` is told. Pulls are tried once.
pub fn settings(directory: &Path) -> Settings {
    let retry = RetryPolicy {
        attempts: 1,
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(1),
    };
    let client = Client::new(RegistrySettings { retry, ..RegistrySettings::default() }).unwrap();
    let store = Store::open(&directory.join("images")).unwrap();
    let authority = crate::pki::Authority::open(&directory.join("pki")).unwrap();
    let identity = authority.controllers().unwrap();
    let launchers =
        launcher::control::Client::new(authority.certificate(), &identity.certificate, &identity.key)
            .unwrap();
    Settings {
        name: "here".to_owned(),
        address: Ipv4Addr::LOCALHOST.into(),
        pods_dir: directory.join("pods"),
        state_dir: directory.join("state"),
        program: "/bin/false".into(),
        program_arguments: Vec::new(),
        launcher_arguments: Vec::new(),
        images: Arc::new(Images::new(store, client)),
        authority: Arc::new(authority),
        launchers,
        image_gc: crate::images::Thresholds::default(),
    }
}

/// Asks again until the answer is `Ok`; panics with the last `Err` after a while.
pub async fn eventually<T>(mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + WAIT;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) => assert!(Instant::now() < end, "not seen in time; the last was: {last}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
