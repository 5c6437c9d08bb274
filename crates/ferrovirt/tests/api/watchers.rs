//! Watchers that do not read, beside some that do.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Client, Credentials, runtime};
use crate::server::{DEADLINE, Server, World, memory_kib};

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

async fn stuck(
    credentials: &Credentials,
    address: SocketAddr,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
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
