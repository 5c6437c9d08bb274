//! One attempt at a probe of a guest. When there is one, and what a row of results means, is the node's to say.
//!
//! | probe | succeeds where |
//! |---|---|
//! | `tcpSocket` | the guest takes a connection |
//! | `httpGet` | it answers with a status from 200 to 399, behind redirects to itself; any certificate will do |
//! | `exec` | its agent runs the command, and that ends with exit code 0 |
//! | `guestAgentPing` | its agent answers, or somebody has paused the machine (as KubeVirt has it since 1.8) |
//!
//! The others go on while the machine is paused, and fail, as a kubelet knows of no pause.
//!
//! What a guest sends is hostile: of an HTTP answer no more than a head of 8 KiB is read, and 10 KiB of the body where that
//! is told; no more than 10 answers are asked for, and what a command says is bounded as every answer of the agent is.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
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
use crate::guest_agent::{Agent, line};
use crate::network::{Door, GUEST};

/// What hyper may buffer of a head, in bytes (its least).
const HEAD_BUFFER_BYTES: usize = 8192;

/// How many bytes of a body are read where it is told, as by a kubelet.
const MOST_BODY_BYTES: usize = 10 << 10;

/// How many requests an attempt makes before it gives up on redirects, as a kubelet.
const MOST_REQUESTS: usize = 10;

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
    /// It has, but not in a way that says much: why, for people.
    Warning(String),
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
            Ok(outcome) => outcome,
            Err(why) => ProbeOutcome::Failure(why),
        })
    }

    async fn ask(&self, probe: &Probe, guest: Guest<'_>) -> Result<ProbeOutcome, String> {
        if let Some(get) = &probe.http_get {
            return self.get(get, guest).await;
        }
        self.succeeds(probe, guest).await.map(|()| ProbeOutcome::Success)
    }

    async fn succeeds(&self, probe: &Probe, guest: Guest<'_>) -> Result<(), String> {
        let agent = guest.agent;
        if let Some(tcp) = &probe.tcp_socket {
            return connect(self.port(&tcp.port)?, guest).await.map(drop);
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

    async fn get(&self, get: &HTTPGetAction, guest: Guest<'_>) -> Result<ProbeOutcome, String> {
        let path = get.path.as_deref().unwrap_or_default();
        let slash = if path.starts_with('/') { "" } else { "/" };
        let mut place = Place {
            is_https: get.scheme.as_deref().unwrap_or_default().eq_ignore_ascii_case("https"),
            port: self.port(&get.port)?,
            path: format!("{slash}{path}"),
            keeps_host: true,
        };
        for _ in 0..MOST_REQUESTS {
            let answer = place.ask(get, guest).await?;
            match answer.status.as_u16() {
                200..300 => return Ok(ProbeOutcome::Success),
                300..400 => {}
                // In a kubelet's words, here and below.
                code => return Err(format!("HTTP probe failed with statuscode: {code}")),
            }
            let Some(next) = place.behind(answer.status, answer.location.as_deref())? else {
                let said = line(&answer.body);
                let why = format!("Probe terminated redirects, Response body: {said}");
                return Ok(ProbeOutcome::Warning(why));
            };
            place = next;
        }
        Err(format!("stopped after {MOST_REQUESTS} redirects"))
    }
}

async fn connect(port: u16, guest: Guest<'_>) -> Result<DuplexStream, String> {
    let door = guest.door.ok_or("the machine has no network")?;
    door.connect(port).await.map_err(|error| error.to_string())
}

/// What of the guest is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    is_https: bool,
    port: u16,
    /// Path and query; begins with a slash.
    path: String,
    /// Whether a header `Host` of the probe's own still holds.
    keeps_host: bool,
}

/// What there is in an answer for a probe.
struct Answer {
    status: StatusCode,
    /// Where a redirect leads.
    location: Option<String>,
    /// The beginning of a redirect's body.
    body: String,
}

impl Place {
    async fn ask(&self, get: &HTTPGetAction, guest: Guest<'_>) -> Result<Answer, String> {
        let request = request(get, self)?;
        let stream = connect(self.port, guest).await?;
        if !self.is_https {
            return answer_of(stream, request).await;
        }
        let connector = TlsConnector::from(Arc::new(any_server()?));
        let stream = connector.connect(ServerName::IpAddress(GUEST.into()), stream).await;
        answer_of(stream.map_err(|error| described(&error))?, request).await
    }

    /// Where a redirect leads that is followed, which is one to this guest.
    ///
    /// # Errors
    /// When the location makes no sense.
    fn behind(&self, status: StatusCode, location: Option<&str>) -> Result<Option<Self>, String> {
        let Some(location) = location.filter(|_| matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308))
        else {
            return Ok(None);
        };
        let wrong = || format!("failed to parse Location header {:?}", line(location));
        let scheme = if self.is_https { "https" } else { "http" };
        let (uri, keeps_host) = if location.starts_with("//") {
            (format!("{scheme}:{location}"), false)
        } else if location.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':')) {
            (location.to_owned(), false)
        } else {
            let (before, _) = self.path.split_once('?').unwrap_or((&self.path, ""));
            let path = match location.as_bytes().first() {
                Some(b'/') => location.to_owned(),
                Some(b'?') => format!("{before}{location}"),
                Some(b'#') | None => self.path.clone(),
                Some(_) => format!("{}/{location}", before.rsplit_once('/').map_or("", |(folder, _)| folder)),
            };
            (format!("{scheme}://{GUEST}:{}{path}", self.port), self.keeps_host)
        };
        let uri: Uri = uri.parse().map_err(|_| wrong())?;
        if uri.host() != Some(&GUEST.to_string()) {
            return Ok(None);
        }
        let (is_https, usual) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(wrong()),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Some(Self { is_https, port: uri.port_u16().unwrap_or(usual), path, keeps_host }))
    }
}

/// The request of a probe for a place in the guest, with the headers that a kubelet sends.
fn request(get: &HTTPGetAction, place: &Place) -> Result<Request<Empty<Bytes>>, String> {
    let Place { path, port, .. } = place;
    let mut request = Request::get(path.as_str())
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
        if name == header::HOST && !place.keeps_host {
            continue;
        }
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

/// Sends the request, and reads no more than the head of the answer, or the beginning of a redirect's body.
async fn answer_of<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut connecting = http1::Builder::new();
    let connecting = connecting.max_buf_size(HEAD_BUFFER_BYTES).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connecting.map_err(|error| described(&error))?;
    let mut connection = pin!(connection);
    let answer = async {
        let mut response = sender.send_request(request).await?;
        let mut body = Vec::new();
        while response.status().is_redirection() && body.len() < MOST_BODY_BYTES {
            match response.frame().await {
                // Trailers are no body.
                Some(frame) => body.extend(frame?.into_data().unwrap_or_default()),
                None => break,
            }
        }
        body.truncate(MOST_BODY_BYTES);
        Ok(Answer {
            status: response.status(),
            location: response
                .headers()
                .get(header::LOCATION)
                .map(|location| String::from_utf8_lossy(location.as_bytes()).into_owned()),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    let mut answer = pin!(answer);
    let answer: hyper::Result<Answer> = tokio::select! {
        answer = &mut answer => answer,
        // How it ended is told to the answer.
        _ = &mut connection => answer.await,
    };
    answer.map_err(|error| described(&error))
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
