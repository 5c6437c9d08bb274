//! Both halves over a real connection, and who is not let in.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use manifest::machine_status::{MachineState, MachineStatus, StateReason};
use manifest::types::VirtualMachineInstance;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::server::{Doors, Start, answer, serve};
use super::tls::{Identity, client_config, server_config};
use super::{Client, ControlError, MAX_BODY_BYTES};
use crate::display::Display;
use crate::guest_agent::Agent;
use crate::probe::{ProbeKind, ProbeOutcome, Probes};
use crate::serial_port::{Attach, SerialPort};
use crate::session::{Order, answer as reply_to};

const UID: &str = "5d307ca9-b3ef-428c-8861-06e72d69f223";

/// An authority and what it signs.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::from_ca_cert_pem(&pem, key).unwrap();
        Self { pem, issuer }
    }

    /// Certificate and key for one purpose, on the loopback address.
    fn signed(&self, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        params.extended_key_usages = vec![purpose];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn client(&self) -> Client {
        let (certificate, key) = self.signed(ExtendedKeyUsagePurpose::ClientAuth);
        Client::new(&self.pem, &certificate, &key).unwrap()
    }
}

/// The answering half, and the supervisor's ends of its channels.
struct Launcher {
    address: SocketAddr,
    status: watch::Sender<MachineStatus>,
    starts: mpsc::Receiver<Start>,
    orders: mpsc::Receiver<Order>,
    port: SerialPort,
    typed: mpsc::Receiver<Vec<u8>>,
    probes: Arc<OnceLock<Probes>>,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
}

fn doors() -> (Doors, watch::Sender<MachineStatus>, mpsc::Receiver<Start>, mpsc::Receiver<Order>) {
    let (status, watched) = watch::channel(MachineStatus::default());
    let (starts, start_requests) = mpsc::channel(4);
    let (orders, order_requests) = mpsc::channel(4);
    let (port, _) = SerialPort::new();
    let display = Display::new("/nonexistent/vnc.sock".into());
    (
        Doors {
            uid: UID.to_owned(),
            starts,
            orders,
            status: watched,
            port,
            display,
            network: Arc::default(),
            agent: Agent::default(),
            probes: Arc::default(),
        },
        status,
        start_requests,
        order_requests,
    )
}

async fn launcher(authority: &Authority) -> Launcher {
    let (certificate, key) = authority.signed(ExtendedKeyUsagePurpose::ServerAuth);
    let identity = Identity::from_pem(&authority.pem, &certificate, &key).unwrap();
    let acceptor = TlsAcceptor::from(server_config(identity).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (doors, status, starts, orders) = doors();
    let (port, typed) = SerialPort::new();
    let doors = Doors { port: port.clone(), ..doors };
    let probes = Arc::clone(&doors.probes);
    let (stop, stopped) = watch::channel(false);
    let served = tokio::spawn(serve(listener, acceptor, doors, stopped));
    Launcher { address, status, starts, orders, port, typed, probes, stop, served }
}

fn instance(uid: &str) -> VirtualMachineInstance {
    let mut instance = VirtualMachineInstance::default();
    instance.metadata.name = Some("vm".to_owned());
    instance.metadata.uid = Some(uid.to_owned());
    instance
}

fn running(revision: u64) -> MachineStatus {
    MachineStatus { revision, state: MachineState::Running, ..MachineStatus::default() }
}

#[tokio::test]
async fn a_machine_is_started_once_and_asked_for_again() {
    let authority = Authority::new();
    let Launcher { address, status, mut starts, stop: _stop, .. } = launcher(&authority).await;
    let client = authority.client();
    let supervisor = tokio::spawn(async move {
        let start = starts.recv().await.unwrap();
        status.send_replace(running(1));
        start.done.send(()).unwrap();
        (start.instance, status, starts)
    });
    assert_eq!(client.put_machine(address, &instance(UID)).await.unwrap(), running(1));
    let (started, _status, mut starts) = supervisor.await.unwrap();
    assert_eq!(started.metadata.name.as_deref(), Some("vm"));
    assert_eq!(client.put_machine(address, &instance(UID)).await.unwrap(), running(1));
    assert!(starts.try_recv().is_err(), "it is started once");
}

#[tokio::test]
async fn a_start_that_fails_is_answered_with_the_reason() {
    let authority = Authority::new();
    let Launcher { address, status, mut starts, stop: _stop, .. } = launcher(&authority).await;
    let supervisor = tokio::spawn(async move {
        for revision in 1..3 {
            let start = starts.recv().await.unwrap();
            let failed = MachineStatus {
                revision,
                sync_error: Some(format!("reason {revision}")),
                ..MachineStatus::default()
            };
            status.send_replace(failed);
            start.done.send(()).unwrap();
        }
    });
    let client = authority.client();
    for reason in ["reason 1", "reason 2"] {
        let answer = client.put_machine(address, &instance(UID)).await.unwrap();
        assert_eq!(answer.sync_error.as_deref(), Some(reason));
    }
    supervisor.await.unwrap();
}

#[tokio::test]
async fn a_probe_is_attempted_once_for_each_request() {
    let authority = Authority::new();
    let Launcher { address, status, probes, stop: _stop, .. } = launcher(&authority).await;
    let client = authority.client();
    let limit = Duration::from_secs(1);
    let mut instance = instance(UID);
    let ping = serde_json::json!({"guestAgentPing": {}});
    instance.spec.readiness_probe = serde_json::from_value(ping).unwrap();
    probes.set(Probes::of(&instance)).unwrap();
    let failure = ProbeOutcome::Failure("the guest agent is not connected".to_owned());
    assert_eq!(client.probe(address, ProbeKind::Readiness, limit).await, Ok(failure.clone()));
    for (reason, expected) in [(StateReason::User, ProbeOutcome::Success), (StateReason::IoError, failure)] {
        status.send_replace(MachineStatus { state: MachineState::Paused, reason, ..running(1) });
        assert_eq!(client.probe(address, ProbeKind::Readiness, limit).await, Ok(expected));
    }
    let missing = client.probe(address, ProbeKind::Liveness, limit).await.unwrap_err();
    let reason = "the instance has no `/v1/probe/liveness`".to_owned();
    assert_eq!(missing, ControlError::Refused { code: 404, reason });
}

#[tokio::test]
async fn the_instance_of_another_launcher_is_refused() {
    let authority = Authority::new();
    let Launcher { address, mut starts, stop: _stop, .. } = launcher(&authority).await;
    let error = authority.client().put_machine(address, &instance("other")).await.unwrap_err();
    let reason = format!("this launcher is for the instance `{UID}`, not for `other`");
    assert_eq!(error, ControlError::Refused { code: 403, reason });
    assert!(starts.try_recv().is_err());
}

#[tokio::test]
async fn a_poll_waits_for_a_change_and_other_requests_do_not_wait_for_it() {
    let authority = Authority::new();
    let Launcher { address, status, mut orders, stop: _stop, .. } = launcher(&authority).await;
    status.send_replace(running(3));
    let client = authority.client();
    assert_eq!(client.status(address, 0).await.unwrap().revision, 3);
    assert_eq!(
        client.status(address, 9).await.unwrap().revision,
        3,
        "what it never told is no reason to wait"
    );
    let poll = tokio::spawn({
        let client = client.clone();
        async move { client.status(address, 3).await.unwrap() }
    });
    let supervisor = tokio::spawn(async move {
        match orders.recv().await.unwrap() {
            Order::Shutdown { grace, reply } => {
                reply_to(reply, Ok(()));
                grace.as_secs()
            }
            order => panic!("{order:?}"),
        }
    });
    client.shutdown(address, 30).await.unwrap();
    assert_eq!(supervisor.await.unwrap(), 30);
    assert!(!poll.is_finished());
    status.send_replace(running(4));
    assert_eq!(poll.await.unwrap().revision, 4);
}

#[tokio::test]
async fn what_the_machine_does_not_allow_is_a_conflict() {
    let authority = Authority::new();
    let Launcher { address, mut orders, stop: _stop, .. } = launcher(&authority).await;
    tokio::spawn(async move {
        while let Some(order) = orders.recv().await {
            order.refuse("there is no machine");
        }
    });
    let client = authority.client();
    let refused = Err(ControlError::Refused { code: 409, reason: "there is no machine".to_owned() });
    assert_eq!(client.pause(address).await, refused);
    assert_eq!(client.unpause(address).await, refused);
    assert_eq!(client.reset(address).await, refused);
    assert_eq!(client.soft_reboot(address).await, refused);
    let Err(refused) = refused else { panic!() };
    assert_eq!(client.screenshot(address, false).await, Err(refused));
}

#[tokio::test]
async fn a_console_carries_bytes_both_ways_until_the_guest_ends() {
    let authority = Authority::new();
    let Launcher { address, port, mut typed, stop: _stop, .. } = launcher(&authority).await;
    let client = authority.client();
    port.record(b"boot\n").await;
    let mut viewer = client.console(address, Attach { read_only: true, replay: true }).await.unwrap();
    let mut boot = [0; 5];
    viewer.read_exact(&mut boot).await.unwrap();
    assert_eq!(&boot, b"boot\n");
    let mut first = client.console(address, Attach::default()).await.unwrap();
    first.write_all(b"typed").await.unwrap();
    assert_eq!(typed.recv().await.unwrap(), b"typed");
    let second = client.console(address, Attach::default()).await.unwrap();
    assert_eq!(first.read(&mut [0; 10]).await.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    // More than any buffer on the way holds, one way and then the other.
    let many: Vec<u8> = (0..3 << 20).map(|number: u32| (number % 251) as u8).collect();
    let (mut said, mut input) = tokio::io::split(second);
    let typing = async { input.write_all(&many).await.unwrap() };
    let listening = async {
        let mut heard = Vec::new();
        while heard.len() < many.len() {
            heard.extend(typed.recv().await.unwrap());
        }
        heard
    };
    let ((), heard) = tokio::join!(typing, listening);
    assert!(heard == many);
    let saying = async {
        for piece in many.chunks(16 << 10) {
            port.record(piece).await;
        }
        port.close();
    };
    let mut all = Vec::new();
    let ((), read) = tokio::join!(saying, said.read_to_end(&mut all));
    read.unwrap();
    assert!(all == many);
}

#[tokio::test]
async fn a_console_is_asked_for_by_an_upgrade_and_not_without_end() {
    let authority = Authority::new();
    let Launcher { address, stop: _stop, .. } = launcher(&authority).await;
    let client = authority.client();
    let look = Attach { read_only: true, replay: false };
    let mut open = Vec::new();
    let refused = loop {
        match client.console(address, look).await {
            Ok(console) => open.push(console),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, ControlError::Refused { code: 429, reason: "64 consoles are open".to_owned() });
    assert_eq!(open.len(), 64);
    drop(open);
    while client.console(address, look).await.is_err() {}
    let (doors, ..) = doors();
    let request = Request::get("/v1/console").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(answer(request, &doors).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn polls_get_the_last_status_before_the_launcher_goes() {
    let authority = Authority::new();
    let Launcher { address, status, stop, served, .. } = launcher(&authority).await;
    let client = authority.client();
    let poll = tokio::spawn({
        let client = client.clone();
        async move { client.status(address, 0).await }
    });
    // A second connection answers, so the first one is in the launcher's hands.
    status.send_modify(|status| status.reboots = 1);
    assert_eq!(client.status(address, 5).await.unwrap().reboots, 1);
    status.send_replace(MachineStatus { state: MachineState::ShutOff, ..running(1) });
    stop.send_replace(true);
    assert_eq!(poll.await.unwrap().unwrap().state, MachineState::ShutOff);
    served.await.unwrap();
    let error = client.status(address, 0).await.unwrap_err();
    assert!(matches!(error, ControlError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_launcher_that_was_replaced_at_its_address_is_reached_by_a_new_connection() {
    let authority = Authority::new();
    let first = launcher(&authority).await;
    let client = authority.client();
    first.status.send_replace(running(1));
    client.status(first.address, 0).await.unwrap();
    first.stop.send_replace(true);
    first.served.await.unwrap();

    let (certificate, key) = authority.signed(ExtendedKeyUsagePurpose::ServerAuth);
    let identity = Identity::from_pem(&authority.pem, &certificate, &key).unwrap();
    let listener = TcpListener::bind(first.address).await.unwrap();
    let (doors, status, _starts, _orders) = doors();
    status.send_replace(running(2));
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(serve(listener, TlsAcceptor::from(server_config(identity).unwrap()), doors, stopped));
    assert_eq!(client.status(first.address, 0).await.unwrap().revision, 2);
}

/// Sends `request` as who has `identity` (nobody, without one), and gives what comes back until the end.
async fn raw(
    address: SocketAddr,
    authority: &str,
    identity: Option<(String, String)>,
    request: &[u8],
) -> String {
    let config = match identity {
        Some((certificate, key)) => {
            client_config(Identity::from_pem(authority, &certificate, &key).unwrap()).unwrap()
        }
        None => {
            let mut roots = rustls::RootCertStore::empty();
            use rustls::pki_types::pem::PemObject;
            roots
                .add(rustls::pki_types::CertificateDer::from_pem_slice(authority.as_bytes()).unwrap())
                .unwrap();
            let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
            std::sync::Arc::new(
                rustls::ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_root_certificates(roots)
                    .with_no_client_auth(),
            )
        }
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
    let Ok(mut stream) = TlsConnector::from(config).connect(name, stream).await else {
        return "no handshake".to_owned();
    };
    let mut text = Vec::new();
    // Who is not let in may be cut off at any point.
    let _ = stream.write_all(request).await;
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

const GET: &[u8] = b"GET /v1/status?after=9 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn only_clients_of_the_authority_are_let_in() {
    let (authority, other) = (Authority::new(), Authority::new());
    let Launcher { address, stop: _stop, .. } = launcher(&authority).await;
    let client = authority.signed(ExtendedKeyUsagePurpose::ClientAuth);
    let answered = raw(address, &authority.pem, Some(client), GET).await;
    assert!(answered.starts_with("HTTP/1.1 200 OK\r\n"), "{answered}");
    for (who, identity) in [
        ("nobody", None),
        ("another authority's", Some(other.signed(ExtendedKeyUsagePurpose::ClientAuth))),
        ("a launcher", Some(authority.signed(ExtendedKeyUsagePurpose::ServerAuth))),
    ] {
        let answered = raw(address, &authority.pem, identity, GET).await;
        assert!(!answered.contains("HTTP/1.1"), "{who}: {answered}");
    }
}

#[tokio::test]
async fn a_server_that_is_no_launcher_is_not_asked() {
    let (authority, other) = (Authority::new(), Authority::new());
    let Launcher { address, stop: _stop, .. } = launcher(&other).await;
    let error = authority.client().status(address, 1).await.unwrap_err();
    assert!(
        matches!(&error, ControlError::Unreachable { reason, .. } if reason.contains("certificate")),
        "{error}"
    );
}

#[tokio::test]
async fn who_never_shakes_hands_keeps_nobody_out() {
    let authority = Authority::new();
    let Launcher { address, stop: _stop, .. } = launcher(&authority).await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    assert_eq!(authority.client().status(address, 9).await.unwrap(), MachineStatus::default());
}

/// The answer to a request without a connection.
async fn asked(method: &str, path: &str, body: impl Into<Bytes>) -> (StatusCode, String) {
    let (doors, _status, _starts, _orders) = doors();
    let request = Request::builder().method(method).uri(path).body(Full::new(body.into())).unwrap();
    let response = answer(request, &doors).await;
    let code = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn what_a_later_version_adds_to_an_instance_is_passed_over() {
    let body = serde_json::json!({
        "metadata": {"name": "vm", "uid": UID}, "later": [],
        "spec": {"later": true, "domain": {"devices": {"later": {}}, "later": {"a": 1}}},
    });
    let (doors, status, mut starts, _orders) = doors();
    let supervisor = tokio::spawn(async move {
        let start = starts.recv().await.unwrap();
        status.send_replace(running(1));
        start.done.send(()).unwrap();
        (start.instance, status)
    });
    let request = Request::put("/v1/machine").body(Full::new(Bytes::from(body.to_string()))).unwrap();
    assert_eq!(answer(request, &doors).await.status(), StatusCode::OK);
    let (instance, _status) = supervisor.await.unwrap();
    assert_eq!(instance.metadata.uid.as_deref(), Some(UID));
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let told = |text: &str| serde_json::json!({ "error": text }).to_string();
    for (method, path, body, code, text) in [
        ("GET", "/", "", 404, "there is no `/`"),
        ("GET", "/v1/machine", "", 405, "`/v1/machine` takes PUT, not GET"),
        ("PUT", "/v1/status", "", 405, "`/v1/status` takes GET, not PUT"),
        ("GET", "/v1/status?before=1", "", 400, "`before=1` is not `after=REVISION`"),
        ("GET", "/v1/status?after=-1", "", 400, "`after=-1` is not `after=REVISION`"),
        ("GET", "/v1/guest/info", "", 409, "the guest agent is not connected"),
        ("GET", "/v1/guest/else", "", 404, "there is no `/v1/guest/else`"),
        ("GET", "/v1/guest/unfreeze", "", 405, "`/v1/guest/unfreeze` takes PUT, not GET"),
        ("PUT", "/v1/guest/unfreeze", "", 409, "the guest agent is not connected"),
        ("GET", "/v1/probe/readiness", "", 409, "there is no machine"),
        ("PUT", "/v1/probe/readiness", "", 405, "`/v1/probe/readiness` takes GET, not PUT"),
        ("GET", "/v1/probe/Readiness", "", 404, "there is no `/v1/probe/Readiness`"),
        ("PUT", "/v1/screenshot", "", 405, "`/v1/screenshot` takes GET, not PUT"),
        ("GET", "/v1/screenshot?moveCursor=1", "", 400, "`moveCursor=1` is not `moveCursor=BOOL`"),
        (
            "PUT",
            "/v1/shutdown",
            "{}",
            400,
            "cannot read the body: missing field `gracePeriodSeconds` at line 1 column 2",
        ),
        ("PUT", "/v1/machine", "", 400, "cannot read the body: EOF while parsing a value at line 1 column 0"),
    ] {
        assert_eq!(
            asked(method, path, body).await,
            (StatusCode::from_u16(code).unwrap(), told(text)),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn a_body_is_read_up_to_its_limit() {
    let (code, text) = asked("PUT", "/v1/shutdown", vec![b' '; MAX_BODY_BYTES]).await;
    assert_eq!(code, StatusCode::BAD_REQUEST, "{text}");
    let (code, text) = asked("PUT", "/v1/shutdown", vec![b' '; MAX_BODY_BYTES + 1]).await;
    assert_eq!(code, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(
        text,
        serde_json::json!({ "error": format!("the body has more than {MAX_BODY_BYTES} bytes") }).to_string()
    );
}
