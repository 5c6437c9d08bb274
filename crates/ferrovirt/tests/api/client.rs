//! An HTTP client that hides nothing: each request is one request on one connection, and an answer is what came.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::server::{DEADLINE, World};

/// The administrator's certificate and key, out of a kubeconfig.
pub fn identity(path: &Path) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let kubeconfig = kubeconfig(path);
    let pem = |pointer| decoded(&kubeconfig, pointer);
    (
        CertificateDer::from_pem_slice(&pem("/users/0/user/client-certificate-data")).unwrap(),
        PrivateKeyDer::from_pem_slice(&pem("/users/0/user/client-key-data")).unwrap(),
    )
}

fn kubeconfig(path: &Path) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn decoded(kubeconfig: &Value, pointer: &str) -> Vec<u8> {
    STANDARD.decode(kubeconfig.pointer(pointer).unwrap().as_str().unwrap()).unwrap()
}

/// Trust in the authority that a kubeconfig names.
fn trust(path: &Path) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let authority = decoded(&kubeconfig(path), "/clusters/0/cluster/certificate-authority-data");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&authority).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}

/// What it takes to speak to a server, as its administrator.
#[derive(Clone)]
pub struct Credentials {
    /// Whom the client trusts, and who it is.
    pub config: Arc<ClientConfig>,
}

impl Credentials {
    /// Those of the kubeconfig in `world`.
    pub fn read(world: &World) -> Self {
        Self::read_file(&world.kubeconfig())
    }

    /// Those of a kubeconfig.
    pub fn read_file(path: &Path) -> Self {
        let (certificate, key) = identity(path);
        Self { config: Arc::new(trust(path).with_client_auth_cert(vec![certificate], key).unwrap()) }
    }

    /// Trust in the server of a kubeconfig, and nothing to show to it.
    pub fn of_nobody(path: &Path) -> Self {
        Self { config: Arc::new(trust(path).with_no_client_auth()) }
    }

    /// A connection that has done its handshakes, and on which nothing was asked yet.
    pub async fn stream(
        &self,
        address: SocketAddr,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }

    /// A client with a connection of its own.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<Client> {
        let stream = self.stream(address).await?;
        Client::over(stream, format!("localhost:{}", address.port())).await
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body, which must be JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The same, which must be of the 2xx kind.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert!((200..300).contains(&self.status), "{self:?}");
        self
    }
}

/// One connection that stays open.
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    host: String,
}

impl Client {
    /// A client over a stream to `host`.
    pub async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        host: String,
    ) -> io::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // An error of the connection reaches the requests on it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, host })
    }

    /// Sends a request; the answer's body is still to come.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> io::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("content-type", content_type)
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        let sent = async {
            self.sender.ready().await.map_err(io::Error::other)?;
            self.sender.send_request(request).await.map_err(io::Error::other)
        };
        within_deadline(sent).await
    }

    /// Sends a request with a body of a certain kind and reads the whole answer.
    pub async fn call_as(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> io::Result<Answer> {
        let response = self.send(method, path, content_type, body.into()).await?;
        let status = response.status().as_u16();
        let body = within_deadline(async { response.into_body().collect().await.map_err(io::Error::other) });
        Ok(Answer { status, body: body.await?.to_bytes() })
    }

    /// Sends JSON.
    pub async fn call(&mut self, method: Method, path: &str, body: &Value) -> io::Result<Answer> {
        self.call_as(method, path, "application/json", body.to_string()).await
    }

    /// Reads.
    pub async fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.call_as(Method::GET, path, "application/json", "").await
    }

    /// Begins a watch, for which this connection is used up.
    pub async fn watch(mut self, path: &str) -> io::Result<Events> {
        let response = self.send(Method::GET, path, "application/json", Bytes::new()).await?;
        if response.status() != 200 {
            let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
            panic!("{path}: {}", String::from_utf8_lossy(&body));
        }
        Ok(Events { _client: self, body: response.into_body(), half: Vec::new(), whole: VecDeque::new() })
    }
}

async fn within_deadline<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(result) => result,
        Err(_) => panic!("no answer in {DEADLINE:?}"),
    }
}

/// The events of a watch.
pub struct Events {
    _client: Client,
    body: Incoming,
    half: Vec<u8>,
    whole: VecDeque<Value>,
}

impl Events {
    /// The next event, `None` at the end of the stream. An event that is cut off is none.
    pub async fn next(&mut self) -> io::Result<Option<Value>> {
        loop {
            if let Some(event) = self.whole.pop_front() {
                return Ok(Some(event));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
            self.half.extend_from_slice(&data);
            while let Some(end) = self.half.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.half.drain(..=end).collect();
                self.whole.push_back(serde_json::from_slice(&line).unwrap());
            }
        }
    }
}

/// A runtime for a test.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}
