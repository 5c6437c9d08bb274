//! The API server itself, in the process of a test.

#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use apiserver::auth::Identity;
use apiserver::builtin;
use apiserver::kind::Kinds;
use apiserver::server::{ApiServer, Options, VersionInfo};

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
        let version = VersionInfo {
            git_version: "v1.33.0".to_owned(),
            git_commit: String::new(),
            build_date: String::new(),
        };
        let options = Options {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            ..Options::new(directory.path().join("state"), version)
        };
        let server = ApiServer::start(options, Kinds::new(builtin::kinds())).await.unwrap();
        Self { server, _directory: directory }
    }

    /// A client that may do everything, in the namespace `default`.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.server.client_service(Identity::internal("test")), "default")
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
