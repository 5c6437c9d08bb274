//! Watchers that do not read, beside some that do.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::{SinkExt as _, StreamExt as _};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::client::{Client, Credentials, runtime};
use crate::server::{DEADLINE, Server, World, finish, memory_kib};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const STUCK: usize = 30;
const WRITES: u64 = 120;
const BYTES: usize = 200_000;

async fn open_watches(client: &mut Client) -> f64 {
    let metrics = client.get("/metrics").await.unwrap().succeeded();
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let of_watches = text.lines().filter(|line| line.starts_with("apiserver_longrunning_requests"));
    of_watches.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

async fn stuck(credentials: &Credentials, address: SocketAddr) -> TlsStream<TcpStream> {
    let mut stream = credentials.stream(address).await.unwrap();
    let request = format!("GET {MAPS}?watch=true HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // It is a watch now; nothing is read after this.
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    stream
}

#[test]
fn who_does_not_read_is_dropped_and_keeps_nobody_waiting() {
    let world = World::new();
    let server = Server::start(&world);
    let credentials = Credentials::read(&world);
    let address = server.address();
    runtime().block_on(async {
        let mut client = credentials.connect(address).await.unwrap();
        let first = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}});
        client.call(Method::POST, MAPS, &first).await.unwrap().succeeded();
        let before = open_watches(&mut client).await;
        let mut streams = Vec::new();
        for _ in 0..STUCK {
            streams.push(stuck(&credentials, address).await);
        }
        assert_eq!(open_watches(&mut client).await, before + STUCK as f64);
        let reader = credentials.connect(address).await.unwrap();
        let mut events =
            reader.watch(&format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Dlarge")).await.unwrap();
        let idle = memory_kib(server.pid(), "status", "VmRSS");

        let path = format!("{MAPS}/large");
        let mut slowest = Duration::ZERO;
        for number in 0..WRITES {
            let patch =
                json!({"data": {"number": number.to_string(), "padding": "x".repeat(BYTES)}}).to_string();
            let began = Instant::now();
            let written = client.call_as(Method::PATCH, &path, "application/merge-patch+json", patch);
            let written = written.await.unwrap().succeeded().json();
            // The one that reads has it before anything else happens.
            loop {
                let event: Value = events.next().await.unwrap().expect("the watch goes on");
                if event["object"]["metadata"]["resourceVersion"] == written["metadata"]["resourceVersion"] {
                    break;
                }
            }
            slowest = slowest.max(began.elapsed());
        }
        let grown = memory_kib(server.pid(), "status", "VmHWM").saturating_sub(idle);
        // All of it for each of them would be 700 MB. The window of changes is 16 MiB.
        assert!(grown < 128 << 10, "memory grew by {grown} KiB");

        let deadline = Instant::now() + DEADLINE;
        while open_watches(&mut client).await > before + 1.0 {
            assert!(Instant::now() < deadline, "those who do not read are still there");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        println!("{WRITES} writes seen at once, the slowest after {slowest:?}; memory grew by {grown} KiB");
        drop(streams);
    });
    assert!(server.stop().success());
}

/// Opens a watch over a WebSocket; otherwise the code and the reason of the answer.
async fn socket(
    credentials: &Credentials,
    address: SocketAddr,
    path: &str,
    protocols: &str,
) -> Result<WebSocketStream<TlsStream<TcpStream>>, (u16, Value)> {
    let stream = credentials.stream(address).await.unwrap();
    let uri = format!("wss://localhost:{}{path}", address.port());
    let mut request = uri.into_client_request().unwrap();
    if !protocols.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    }
    match timeout(DEADLINE, tokio_tungstenite::client_async(request, stream)).await.unwrap() {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => {
            let status: Value = serde_json::from_slice(response.body().as_deref().unwrap()).unwrap();
            Err((response.status().as_u16(), status["reason"].clone()))
        }
        Err(error) => panic!("{error}"),
    }
}

/// The next message, which is an event.
async fn event(socket: &mut WebSocketStream<TlsStream<TcpStream>>) -> Value {
    let message = timeout(DEADLINE, socket.next()).await.unwrap().unwrap().unwrap();
    serde_json::from_str(message.to_text().unwrap()).unwrap()
}

#[test]
fn browsers_watch_over_a_web_socket_and_show_a_token_among_its_protocols() {
    let world = World::new();
    let server = Server::start(&world);
    let address = server.address();
    let administrator = Credentials::read(&world);
    let nobody = Credentials::of_nobody(&world.kubeconfig());
    let kubectl = |line: &str| finish(world.kubectl(line.split(' '))).succeeded().stdout;
    kubectl("create clusterrolebinding looks --clusterrole=view --serviceaccount=default:default");
    let token = kubectl("create token default");
    let offered =
        |token: &str| format!("base64url.bearer.authorization.k8s.io.{}", URL_SAFE_NO_PAD.encode(token));
    let good = format!("{}, base64.binary.k8s.io", offered(token.trim()));
    runtime().block_on(async {
        let path = format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Dseen");
        let mut watches = Vec::new();
        for (credentials, protocols) in [(&administrator, ""), (&nobody, good.as_str())] {
            watches.push(socket(credentials, address, &path, protocols).await.unwrap());
        }
        let mut client = administrator.connect(address).await.unwrap();
        let map = |text: &str| {
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "seen"}, "data": {"text": text}})
        };
        client.call(Method::POST, MAPS, &map("one\ntwo")).await.unwrap().succeeded();
        client.call(Method::PUT, &format!("{MAPS}/seen"), &map("three")).await.unwrap().succeeded();
        for watch in &mut watches {
            let (first, second) = (event(watch).await, event(watch).await);
            assert_eq!((&first["type"], &first["object"]["data"]["text"]), (&json!("ADDED"), &json!("one\ntwo")));
            assert_eq!((&second["type"], &second["object"]["data"]["text"]), (&json!("MODIFIED"), &json!("three")));
        }
        // What a client says changes nothing.
        watches[0].send(Message::text("hello")).await.unwrap();
        client.call(Method::DELETE, &format!("{MAPS}/seen"), &json!({})).await.unwrap().succeeded();
        for watch in &mut watches {
            assert_eq!(event(watch).await["type"], "DELETED");
        }

        let unauthorized = Err((401, json!("Unauthorized")));
        for protocols in [String::new(), offered(token.trim()), format!("{}, a", offered("wrong"))] {
            let refused = socket(&nobody, address, &path, &protocols).await.map(drop);
            assert_eq!(refused, unauthorized, "{protocols:?}");
        }
        let secrets = path.replace("configmaps", "secrets");
        let refused = socket(&nobody, address, &secrets, &good).await.map(drop);
        assert_eq!(refused, Err((403, json!("Forbidden"))));

        // A server that stops says farewell.
        let stopped = tokio::task::spawn_blocking(move || server.stop());
        for watch in &mut watches {
            let end = timeout(DEADLINE, watch.next()).await.unwrap();
            assert!(matches!(end, Some(Ok(Message::Close(Some(_))))), "{end:?}");
        }
        stopped.await.unwrap();
    });
}
