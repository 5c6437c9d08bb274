//! The figures of `ferrovirt serve`, measured against etcd (one node, its default settings, the same disk) and against
//! plain files.
//!
//! Ours does more for each request than etcd does (TLS, JSON, admission, field ownership); the limits say how much more
//! that may cost. Both sides are driven by the same client over connections that stay open. What is compared are medians
//! of rounds that take turns.
//!
//! What is measured is the whole of `serve`, the controllers and the node included; what depends on them is measured of
//! `serve --api-only` too.
//!
//! `cargo bench --bench apiserver -- WORD` measures only the figures whose name holds the word.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/api/client.rs"]
mod client;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/api/server.rs"]
mod server;
#[allow(dead_code, reason = "other benches use the rest")]
mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use client::{Client, Credentials};
use server::{Server, World, memory_kib};
use support::{Figure, Pairs, finish};

/// Rounds that are measured of each figure.
const ROUNDS: usize = 7;

/// After this everything is given up: several times what the whole takes on a slow machine.
const WATCHDOG: Duration = Duration::from_secs(20 * 60);

/// Requests of one client in a round.
const REQUESTS: usize = 200;

/// Clients that write at once.
const CLIENTS: usize = 16;

/// Watchers of one namespace.
const WATCHERS: usize = 100;

const MACHINES: &str = "/apis/kubevirt.io/v1/namespaces/default/virtualmachines";

/// The media type of every body here.
const JSON: &str = "application/json";

/// A connection without TLS.
async fn plain(address: SocketAddr) -> Client {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    Client::over(stream, address.to_string()).await.unwrap()
}

/// Sends a request, which must succeed, and reads the whole answer.
async fn call(client: &mut Client, method: Method, path: &str, body: impl Into<Bytes>) -> Bytes {
    client.call_as(method, path, JSON, body).await.unwrap().succeeded().body
}

/// A machine of about 2 KB as it is stored.
fn machine(name: &str) -> String {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine",
        "metadata": {"name": name, "labels": {"bench": "yes"}},
        "spec": {"runStrategy": "Halted", "template": {"metadata": {"labels": {"kubevirt.io/vm": name}}, "spec": {
            "domain": {
                "devices": {"interfaces": [], "disks": []},
                "memory": {"guest": "256Mi"},
                "cpu": {"cores": 1},
                "firmware": {"kernelBoot": {
                    "kernelArgs": "console=ttyS0 panic=-1 ".repeat(12),
                    "container": {"image": "localhost/bench/kernel:latest", "kernelPath": "/vmlinuz", "initrdPath": "/initrd"},
                }},
            },
        }}},
    })
    .to_string()
}

/// etcd in a directory of its own.
struct Etcd {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Etcd {
    fn start(runtime: &Runtime) -> Self {
        let directory = tempfile::Builder::new().prefix("fv-etcd").tempdir().unwrap();
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (client, peer) = (free(), free());
        let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts; `make bench` installs it");
        let etcd = Self { child, address: client, _directory: directory };
        runtime.block_on(async {
            let deadline = Instant::now() + server::DEADLINE;
            loop {
                if TcpStream::connect(client).await.is_ok() {
                    let mut connection = plain(client).await;
                    let answer = connection.send(Method::GET, "/health", JSON, Bytes::new()).await.unwrap();
                    if answer.status().is_success() {
                        break;
                    }
                }
                assert!(Instant::now() < deadline, "etcd does not come up");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        etcd
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The body of a put of `value` under `key`, for etcd's JSON gateway.
fn put(key: &str, value: &str) -> String {
    json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value)}).to_string()
}

/// What runs beside the API.
#[derive(Clone, Copy)]
enum Beside {
    Controllers,
    Nothing,
}

struct Bench {
    runtime: Runtime,
}

impl Bench {
    /// A server with its administrator's credentials.
    fn server(&self, beside: Beside) -> (World, Server, Credentials) {
        let world = World::new();
        let server = match beside {
            Beside::Controllers => Server::spawn(world.ferrovirt(["serve", "--listen", "127.0.0.1:0"])),
            Beside::Nothing => Server::start(&world),
        };
        let credentials = Credentials::read(&world);
        (world, server, credentials)
    }

    /// Creates `count` machines through 16 connections.
    fn fill(&self, credentials: &Credentials, address: SocketAddr, count: usize) {
        self.runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for worker in 0..CLIENTS {
                let credentials = credentials.clone();
                tasks.spawn(async move {
                    let mut client = credentials.connect(address).await.unwrap();
                    for index in (worker..count).step_by(CLIENTS) {
                        call(&mut client, Method::POST, MACHINES, machine(&format!("filled-{index}"))).await;
                    }
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.unwrap();
            }
        });
    }

    /// From the start of the process to the first `ok` of /readyz.
    fn start_up(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        for (name, count, limit) in [
            ("start: to /readyz ok, empty store", 0, 50.0),
            ("start: to /readyz ok, 10,000 machines", 10_000, 400.0),
        ] {
            let (world, server, credentials) = self.server(Beside::Controllers);
            self.fill(&credentials, server.address(), count);
            assert!(server.stop().success());
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let samples = (0..ROUNDS)
                .map(|_| {
                    let mut command = world.ferrovirt(["serve", "--quiet", "--listen", &port.to_string()]);
                    command.stdout(Stdio::null()).stderr(Stdio::null());
                    let started = Instant::now();
                    let mut child = command.spawn().unwrap();
                    let took = self.runtime.block_on(async {
                        loop {
                            assert!(started.elapsed() < server::DEADLINE, "the server does not come up");
                            if let Ok(mut client) = credentials.connect(port).await
                                && call(&mut client, Method::GET, "/readyz", "").await == "ok"
                            {
                                break started.elapsed();
                            }
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    });
                    child.kill().unwrap();
                    child.wait().unwrap();
                    took.as_secs_f64() * 1e3
                })
                .collect();
            figures.push(Figure::plain(name, "ms", samples, limit));
        }
        figures
    }

    /// Creating a machine against putting the same bytes into etcd: one client, then sixteen.
    fn create(&self) -> Vec<Figure> {
        let whole = ["create: one machine, one client, p50", "create: 3,200 machines, 16 clients"];
        let api = ["create, --api-only: one client, p50", "create, --api-only: 16 clients"];
        [(Beside::Controllers, whole), (Beside::Nothing, api)]
            .into_iter()
            .flat_map(|(beside, names)| self.create_beside(beside, names))
            .collect()
    }

    fn create_beside(&self, beside: Beside, [one_client, many_clients]: [&'static str; 2]) -> [Figure; 2] {
        let (_world, server, credentials) = self.server(beside);
        let etcd = Etcd::start(&self.runtime);
        let (mut one, mut many) = (Pairs::default(), Pairs::default());
        self.runtime.block_on(async {
            let mut ours = credentials.connect(server.address()).await.unwrap();
            let stored = call(&mut ours, Method::POST, MACHINES, machine("first")).await;
            let value = String::from_utf8(stored.to_vec()).unwrap();
            let mut theirs = plain(etcd.address).await;
            for round in 0..ROUNDS {
                one.ours.push({
                    let mut samples = Vec::with_capacity(REQUESTS);
                    for index in 0..REQUESTS {
                        let body = machine(&format!("one-{round}-{index}"));
                        let started = Instant::now();
                        call(&mut ours, Method::POST, MACHINES, body).await;
                        samples.push(started.elapsed().as_secs_f64());
                    }
                    support::median(&samples)
                });
                one.theirs.push({
                    let mut samples = Vec::with_capacity(REQUESTS);
                    for index in 0..REQUESTS {
                        let body = put(&format!("/one/{round}/{index}"), &value);
                        let started = Instant::now();
                        call(&mut theirs, Method::POST, "/v3/kv/put", body).await;
                        samples.push(started.elapsed().as_secs_f64());
                    }
                    support::median(&samples)
                });
            }
            for round in 0..ROUNDS {
                let mut clients = Vec::new();
                for _ in 0..CLIENTS {
                    clients.push(credentials.connect(server.address()).await.unwrap());
                }
                many.ours.push(
                    together(clients, MACHINES, move |worker, index| {
                        machine(&format!("many-{round}-{worker}-{index}"))
                    })
                    .await,
                );
                let mut clients = Vec::new();
                for _ in 0..CLIENTS {
                    clients.push(plain(etcd.address).await);
                }
                let value = value.clone();
                many.theirs.push(
                    together(clients, "/v3/kv/put", move |worker, index| {
                        put(&format!("/many/{round}/{worker}/{index}"), &value)
                    })
                    .await,
                );
            }
        });
        [
            Figure::ratio(one_client, "etcd put", &one, 1.3),
            Figure::ratio(many_clients, "etcd puts", &many, 1.0),
        ]
    }

    /// A list of 5,000 machines against the same bytes out of a file through the same TLS stack.
    fn list(&self) -> Vec<Figure> {
        let (world, server, credentials) = self.server(Beside::Controllers);
        self.fill(&credentials, server.address(), 5000);
        let mut pairs = Pairs::default();
        self.runtime.block_on(async {
            let mut ours = credentials.connect(server.address()).await.unwrap();
            let bytes = call(&mut ours, Method::GET, MACHINES, "").await;
            let file = world.file("list.json", &bytes);
            let address = serve_file(&world, file).await;
            // The file server's certificate is the administrator's own, which names no host: its client trusts it alone.
            let mut theirs = trusting().connect(address).await.unwrap();
            for _ in 0..ROUNDS {
                let started = Instant::now();
                let read = call(&mut ours, Method::GET, MACHINES, "").await;
                pairs.ours.push(started.elapsed().as_secs_f64());
                assert_eq!(read.len(), bytes.len());
                let started = Instant::now();
                let read = call(&mut theirs, Method::GET, "/", "").await;
                pairs.theirs.push(started.elapsed().as_secs_f64());
                assert_eq!(read.len(), bytes.len());
            }
        });
        vec![Figure::ratio("list: 5,000 machines", "the same bytes from a file", &pairs, 3.0)]
    }

    /// The table of 1,000 machines by `ferrovirt get` against kubectl's, both as whole processes.
    fn get(&self) -> Vec<Figure> {
        let (world, server, credentials) = self.server(Beside::Controllers);
        self.fill(&credentials, server.address(), 1000);
        settle(&server);
        let arguments = ["get", "vm", "--no-headers"];
        let run = |mut command: Command| {
            command.env("KUBECONFIG", world.kubeconfig());
            let started = Instant::now();
            let output = command.output().unwrap();
            let took = started.elapsed().as_secs_f64();
            assert!(output.status.success(), "{output:?}");
            assert_eq!(output.stdout.iter().filter(|&&byte| byte == b'\n').count(), 1000);
            took
        };
        // kubectl asks for discovery the first time, and keeps it.
        run(world.kubectl(arguments));
        let mut pairs = Pairs::default();
        for _ in 0..ROUNDS {
            pairs.ours.push(run(world.ferrovirt(arguments)));
            pairs.theirs.push(run(world.kubectl(arguments)));
        }
        vec![Figure::ratio("get: 1,000 machines, whole process", "kubectl get", &pairs, 0.2)]
    }

    /// From sending a write to the event at each of 100 watchers.
    fn watch(&self) -> Vec<Figure> {
        let (_world, server, credentials) = self.server(Beside::Controllers);
        let address = server.address();
        let samples = self.runtime.block_on(async {
            let (sender, mut arrivals) = tokio::sync::mpsc::unbounded_channel::<Instant>();
            for _ in 0..WATCHERS {
                let mut client = credentials.connect(address).await.unwrap();
                let path = "/api/v1/namespaces/default/configmaps?watch=true&resourceVersion=0&fieldSelector=metadata.name=pulse";
                let response = client.send(Method::GET, path, JSON, Bytes::new()).await.unwrap();
                assert!(response.status().is_success(), "{}", response.status());
                let sender = sender.clone();
                tokio::spawn(async move {
                    // The connection lives as long as the client.
                    let _client = client;
                    let mut body = response.into_body();
                    while let Some(Ok(frame)) = body.frame().await {
                        let count = frame.data_ref().map_or(0, |data| data.iter().filter(|&&byte| byte == b'\n').count());
                        for _ in 0..count {
                            if sender.send(Instant::now()).is_err() {
                                return;
                            }
                        }
                    }
                });
            }
            let mut writer = credentials.connect(address).await.unwrap();
            let pulse = |beat: usize| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pulse"}, "data": {"beat": beat.to_string()}}).to_string();
            let mut rounds = Vec::new();
            for round in 0..ROUNDS {
                let mut delays = Vec::new();
                for beat in 0..50 {
                    let number = round * 50 + beat;
                    let started = Instant::now();
                    if number == 0 {
                        call(&mut writer, Method::POST, "/api/v1/namespaces/default/configmaps", pulse(number)).await;
                    } else {
                        call(&mut writer, Method::PUT, "/api/v1/namespaces/default/configmaps/pulse", pulse(number)).await;
                    }
                    for _ in 0..WATCHERS {
                        let arrived = tokio::time::timeout(server::DEADLINE, arrivals.recv()).await.unwrap().unwrap();
                        delays.push(arrived.duration_since(started).as_secs_f64() * 1e3);
                    }
                }
                delays.sort_by(f64::total_cmp);
                rounds.push(delays[delays.len() * 99 / 100]);
            }
            rounds
        });
        vec![Figure::plain("watch: write to event, p99, 100 watchers", "ms", samples, 10.0)]
    }

    /// Memory of the server: idle, with 10,000 machines, and what an idle watch adds.
    fn memory(&self) -> Vec<Figure> {
        let whole = ["memory: idle", "memory: an idle watch with its connection", "memory: 10,000 machines"];
        let api = [
            "memory, --api-only: idle",
            "memory, --api-only: a watch",
            "memory, --api-only: 10,000 machines",
        ];
        [(Beside::Controllers, whole), (Beside::Nothing, api)]
            .into_iter()
            .flat_map(|(beside, names)| self.memory_beside(beside, names))
            .collect()
    }

    fn memory_beside(&self, beside: Beside, [idle_name, watch, full]: [&'static str; 3]) -> [Figure; 3] {
        let (_world, server, credentials) = self.server(beside);
        self.runtime.block_on(async {
            let mut client = credentials.connect(server.address()).await.unwrap();
            call(&mut client, Method::GET, MACHINES, "").await;
        });
        settle(&server);
        let idle = resident_mib(&server);
        let watches = self.runtime.block_on(async {
            let mut kept = Vec::new();
            // Through few connections each watch would share what a connection costs; clients that idle have one each.
            for _ in 0..500 {
                let mut client = credentials.connect(server.address()).await.unwrap();
                let response = client
                    .send(Method::GET, &format!("{MACHINES}?watch=true"), JSON, Bytes::new())
                    .await
                    .unwrap();
                assert!(response.status().is_success());
                kept.push((client, response));
            }
            (resident_mib(&server) - idle) * 1024.0 / 500.0
        });
        self.fill(&credentials, server.address(), 10_000);
        settle(&server);
        let filled = resident_mib(&server);
        [
            Figure::plain(idle_name, "MiB", vec![idle], 25.0),
            Figure::plain(watch, "KiB", vec![watches], 100.0),
            Figure::plain(full, "MiB", vec![filled], 150.0),
        ]
    }
}

/// Seconds that `clients` take together for [`REQUESTS`] posts each.
async fn together(
    clients: Vec<Client>,
    path: &'static str,
    body: impl Fn(usize, usize) -> String + Clone + Send + 'static,
) -> f64 {
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (worker, mut client) in clients.into_iter().enumerate() {
        let body = body.clone();
        tasks.spawn(async move {
            for index in 0..REQUESTS {
                call(&mut client, Method::POST, path, body(worker, index)).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    started.elapsed().as_secs_f64()
}

/// A client without credentials that trusts the server which it finds.
fn trusting() -> Credentials {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Credentials { config: Arc::new(config) }
}

/// Accepts every certificate: the peer is this process.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Answers each request on each TLS connection with the bytes of `file`, read anew.
async fn serve_file(world: &World, file: PathBuf) -> SocketAddr {
    let (certificate, key) = client::identity(&world.kubeconfig());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let mut tls = acceptor.accept(stream).await.unwrap();
            let mut request = [0; 4096];
            // A request of this bench's client comes in one piece.
            while tls.read(&mut request).await.is_ok_and(|length| length > 0) {
                let mut content = tokio::fs::File::open(&file).await.unwrap();
                let length = content.metadata().await.unwrap().len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
                );
                tls.write_all(head.as_bytes()).await.unwrap();
                let mut buffer = vec![0; 64 << 10];
                loop {
                    let length = content.read(&mut buffer).await.unwrap();
                    if length == 0 {
                        break;
                    }
                    tls.write_all(&buffer[..length]).await.unwrap();
                }
                tls.flush().await.unwrap();
            }
        }
    });
    address
}

/// Waits until the server does next to nothing: what its controllers make of a change is done then.
fn settle(server: &Server) {
    // In ticks, of which the kernel tells a hundred a second: proc_pid_stat(5), `utime` and `stime`.
    let used = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid().as_raw_nonzero())).unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let deadline = Instant::now() + server::DEADLINE;
    let mut before = used();
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = used();
        if now - before <= 2 {
            break;
        }
        assert!(Instant::now() < deadline, "the server does not come to rest");
        before = now;
    }
}

/// Resident memory of a server.
fn resident_mib(server: &Server) -> f64 {
    memory_kib(server.pid(), "status", "VmRSS") as f64 / 1024.0
}

fn main() -> ExitCode {
    std::thread::spawn(|| {
        std::thread::park_timeout(WATCHDOG);
        let _ = writeln!(std::io::stderr(), "error: given up after {WATCHDOG:?}");
        std::process::exit(1);
    });
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let bench = Bench { runtime: Runtime::new().unwrap() };
    type Measure = fn(&Bench) -> Vec<Figure>;
    let measures: [(&str, Measure); 6] = [
        ("start", Bench::start_up),
        ("create", Bench::create),
        ("list", Bench::list),
        ("get", Bench::get),
        ("watch", Bench::watch),
        ("memory", Bench::memory),
    ];
    let mut figures = Vec::new();
    for (name, measure) in measures.into_iter().filter(|(name, _)| name.contains(&filter)) {
        let _ = writeln!(std::io::stderr(), "measuring {name}");
        figures.extend(measure(&bench));
    }
    finish("apiserver.json", ROUNDS, &figures)
}
