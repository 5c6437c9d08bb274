//! One attempt at a probe of a guest. When there is one, and what a row of results means, is the node's to say.
//!
//! | probe | succeeds where |
//! |---|---|
//! | `tcpSocket` | the guest takes a connection |
//! | `httpGet` | it answers with a status from 200 to 399; redirects are not followed, and any certificate will do |
//! | `exec` | its agent runs the command, and that ends with exit code 0 |
//! | `guestAgentPing` | its agent answers, or somebody has paused the machine (as KubeVirt has it since 1.8) |
//!
//! The others go on while the machine is paused, and fail, as a kubelet knows of no pause.
//!
//! What a guest sends is hostile: of an HTTP answer no more than a head of 8 KiB is read, and what a
//! command says is bounded as every answer of the agent is.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use manifest::types::{Probe, VirtualMachineInstance};
use manifest::{HTTPGetAction, IntOrString};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::control::described;
use crate::guest_agent::Agent;
use crate::network::{Door, GUEST};

/// What hyper may buffer of a head, in bytes (its least).
const HEAD_BUFFER_BYTES: usize = 8192;

/// Who asks, as a kubelet begins to say it.
const USER_AGENT: &str = concat!("kube-probe/ferrovirt-", env!("CARGO_PKG_VERSION"));

/// Which probe of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    /// `livenessProbe`.
    Liveness,
    /// `readinessProbe`.
    Readiness,
}

impl ProbeKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Liveness, Self::Readiness];

    /// One word, in upper camel case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What an attempt has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProbeOutcome {
    /// The guest has done as the probe wants.
    Success,
    /// It has not: why, for people.
    Failure(String),
}

/// The probes of an instance.
#[derive(Debug)]
pub(crate) struct Probes {
    liveness: Option<Probe>,
    readiness: Option<Probe>,
    /// Ports that the manifest names, by which a probe may call them.
    ports: Vec<(String, i32)>,
}

/// Ways to a guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guest<'a> {
    pub door: Option<&'a Door>,
    pub agent: &'a Agent,
    /// Somebody has asked for a pause.
    pub is_paused: bool,
}

impl Probes {
    pub(crate) fn of(instance: &VirtualMachineInstance) -> Self {
        let spec = &instance.spec;
        let ports = spec.domain.devices.interfaces.iter().flat_map(|interface| &interface.ports);
        Self {
            liveness: spec.liveness_probe.clone(),
            readiness: spec.readiness_probe.clone(),
            ports: ports.filter_map(|port| Some((port.name.clone()?, port.port))).collect(),
        }
    }

    /// Makes an attempt; `None` when the instance has no such probe.
    pub(crate) async fn attempt(&self, kind: ProbeKind, guest: Guest<'_>) -> Option<ProbeOutcome> {
        let probe = match kind {
            ProbeKind::Liveness => &self.liveness,
            ProbeKind::Readiness => &self.readiness,
        };
        let probe = probe.as_ref()?;
        let seconds = probe.timeout_seconds.unwrap_or(1).max(1);
        let limit = Duration::from_secs(u64::from(seconds.unsigned_abs()));
        let late = |_| Err(format!("the guest has not answered within {seconds} s"));
        Some(match timeout(limit, self.ask(probe, guest)).await.unwrap_or_else(late) {
            Ok(()) => ProbeOutcome::Success,
            Err(why) => ProbeOutcome::Failure(why),
        })
    }

    async fn ask(&self, probe: &Probe, guest: Guest<'_>) -> Result<(), String> {
        let agent = guest.agent;
        if let Some(tcp) = &probe.tcp_socket {
            return self.connect(&tcp.port, guest).await.map(drop);
        }
        if let Some(get) = &probe.http_get {
            return judged(self.get(get, guest).await?);
        }
        if let Some(exec) = &probe.exec {
            let end = agent.exec(exec.command.as_deref().unwrap_or_default()).await;
            return end.map_err(|error| error.to_string())?.succeeded();
        }
        if guest.is_paused {
            return Ok(());
        }
        agent.ping().await.map_err(|error| error.to_string())
    }

    async fn connect(&self, port: &IntOrString, guest: Guest<'_>) -> Result<DuplexStream, String> {
        let port = self.port(port)?;
        let door = guest.door.ok_or("the machine has no network")?;
        door.connect(port).await.map_err(|error| error.to_string())
    }

    /// The number of a port that may be called by a name.
    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => match self.ports.iter().find(|(known, _)| known == name) {
                Some((_, number)) => *number,
                // As a kubelet reads it.
                None => name.parse().map_err(|_| format!("no interface has a port named `{name}`"))?,
            },
        };
        let known = u16::try_from(number).ok().filter(|number| *number > 0);
        known.ok_or_else(|| format!("{number} is no port from 1 to 65535"))
    }

    async fn get(&self, get: &HTTPGetAction, guest: Guest<'_>) -> Result<StatusCode, String> {
        let request = request(get, self.port(&get.port)?)?;
        let stream = self.connect(&get.port, guest).await?;
        if !get.scheme.as_deref().unwrap_or_default().eq_ignore_ascii_case("https") {
            return status_of(stream, request).await;
        }
        let connector = TlsConnector::from(Arc::new(any_server()?));
        let stream = connector.connect(ServerName::IpAddress(GUEST.into()), stream).await;
        status_of(stream.map_err(|error| described(&error))?, request).await
    }
}

/// The request of a probe for a port of the guest, with the headers that a kubelet sends.
fn request(get: &HTTPGetAction, port: u16) -> Result<Request<Empty<Bytes>>, String> {
    let path = get.path.as_deref().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut request = Request::get(format!("{slash}{path}"))
        .body(Empty::new())
        .map_err(|error| format!("`{path}` is no path of a URL: {error}"))?;
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let host = HeaderValue::from_str(&format!("{GUEST}:{port}"));
    headers.insert(header::HOST, host.map_err(|error| error.to_string())?);
    let mut own = Vec::new();
    for http_header in get.http_headers.iter().flatten() {
        let wrong = |error: &dyn std::error::Error| format!("`{}` is no header: {error}", http_header.name);
        let name = HeaderName::try_from(&http_header.name).map_err(|error| wrong(&error))?;
        let value = HeaderValue::try_from(&http_header.value).map_err(|error| wrong(&error))?;
        // The first of a name takes the place of ours.
        if own.contains(&name) {
            headers.append(name, value);
        } else {
            own.push(name.clone());
            headers.insert(name, value);
        }
    }
    Ok(request)
}

/// Sends the request, and reads no more than the head of the answer.
async fn status_of<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<StatusCode, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connecting = http1::Builder::new();
    let connecting = connecting.max_buf_size(HEAD_BUFFER_BYTES).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connecting.map_err(|error| described(&error))?;
    let mut connection = pin!(connection);
    let mut answer = pin!(sender.send_request(request));
    let response = tokio::select! {
        response = &mut answer => response,
        // How it ended is told to the answer.
        _ = &mut connection => answer.await,
    };
    response.map(|response| response.status()).map_err(|error| described(&error))
}

fn judged(status: StatusCode) -> Result<(), String> {
    match status.as_u16() {
        200..400 => Ok(()),
        // In a kubelet's words.
        code => Err(format!("HTTP probe failed with statuscode: {code}")),
    }
}

/// Settings of a client that takes any certificate: a probe asks whether somebody answers, not who.
fn any_server() -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let verifier = Arc::new(AnyCertificate(provider));
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
