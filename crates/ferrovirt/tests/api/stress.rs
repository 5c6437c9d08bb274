//! Many clients at once, doing everything, and what must be true all the same.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Client, Credentials, runtime};
use crate::random::{Random, number};
use crate::server::{DEADLINE, Server, World};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CLIENTS: u64 = 16;
const SHARED: u64 = 4;

/// How long the clients work: `FERROVIRT_TEST_STRESS_SECONDS`, or a short time for every day.
fn duration() -> Duration {
    Duration::from_secs(number("FERROVIRT_TEST_STRESS_SECONDS").unwrap_or(3))
}

/// What one client has done.
#[derive(Default)]
struct Done {
    requests: u64,
    /// How often it counted one up on each of the shared objects.
    counted: [u64; SHARED as usize],
}

fn counter(number: u64) -> String {
    format!("{MAPS}/counter{number}")
}

async fn work(credentials: Credentials, address: SocketAddr, mut random: Random, until: Instant) -> Done {
    let mut client = credentials.connect(address).await.unwrap();
    let mut done = Done::default();
    while Instant::now() < until {
        let own = format!("object{}", random.below(40));
        let path = format!("{MAPS}/{own}");
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": own, "labels": {"size": random.below(3).to_string()}},
            "data": {"value": random.next().to_string()}});
        let answer = match random.below(10) {
            0 | 1 => {
                let number = random.below(SHARED);
                count(&mut client, number, &mut done).await;
                continue;
            }
            2 => client.call(Method::POST, MAPS, &object).await,
            3 => client.call(Method::PUT, &path, &object).await,
            4 => client.call(Method::DELETE, &path, &json!({})).await,
            5 => {
                let patch = json!({"data": {"patched": random.next().to_string()}}).to_string();
                client.call_as(Method::PATCH, &path, "application/strategic-merge-patch+json", patch).await
            }
            6 => {
                let path = format!("{path}?fieldManager=stress{}&force=true", random.below(3));
                client.call_as(Method::PATCH, &path, "application/apply-patch+yaml", object.to_string()).await
            }
            7 => client.get(&format!("{MAPS}?labelSelector=size%3D{}&limit=5", random.below(3))).await,
            8 if random.below(20) == 0 => {
                let path = format!("{MAPS}?labelSelector=size%3D{}", random.below(3));
                client.call(Method::DELETE, &path, &json!({})).await
            }
            _ => client.get(&path).await,
        };
        let answer = answer.unwrap();
        done.requests += 1;
        assert!(matches!(answer.status, 200..300 | 404 | 409), "{answer:?}");
        answer.json();
    }
    done
}

/// Reads, adds one, writes what was read: only one of those who read the same succeeds.
async fn count(client: &mut Client, number: u64, done: &mut Done) {
    let mut object = client.get(&counter(number)).await.unwrap().succeeded().json();
    let value: u64 = object["data"]["count"].as_str().unwrap().parse().unwrap();
    object["data"]["count"] = (value + 1).to_string().into();
    let answer = client.call(Method::PUT, &counter(number), &object).await.unwrap();
    done.requests += 2;
    match answer.status {
        200 => done.counted[usize::try_from(number).unwrap()] += 1,
        status => assert_eq!(status, 409, "{answer:?}"),
    }
}

#[test]
fn many_clients_at_once() {
    let mut random = Random::seeded("FERROVIRT_TEST_SEED");
    let world = World::new();
    let server = Server::start(&world);
    let credentials = Credentials::read(&world);
    let address = server.address();
    let runtime = runtime();
    let until = Instant::now() + duration();
    let working: Vec<_> = runtime.block_on(async {
        let mut client = credentials.connect(address).await.unwrap();
        for number in 0..SHARED {
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": format!("counter{number}")}, "data": {"count": "0"}});
            client.call(Method::POST, MAPS, &object).await.unwrap().succeeded();
        }
        let list = client.get(MAPS).await.unwrap().succeeded().json();
        let watch = tokio::spawn(watch(credentials.clone(), address, list));
        let working: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::spawn(work(credentials.clone(), address, Random::new(random.next()), until)))
            .collect();
        let mut all = Vec::new();
        for work in working {
            all.push(work.await.unwrap());
        }
        // The first connection has had nothing to do meanwhile, and a server closes such ones.
        let mut client = credentials.connect(address).await.unwrap();
        for number in 0..SHARED {
            let object = client.get(&counter(number)).await.unwrap().succeeded().json();
            let counted: u64 = all.iter().map(|done| done.counted[usize::try_from(number).unwrap()]).sum();
            assert_eq!(object["data"]["count"], counted.to_string(), "an update was lost or counted twice");
            assert!(counted > 0, "nobody counted");
        }
        let end = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "end"}});
        client.call(Method::POST, MAPS, &end).await.unwrap().succeeded();
        let watched = tokio::time::timeout(DEADLINE, watch).await.unwrap().unwrap();
        let list = client.get(MAPS).await.unwrap().succeeded().json();
        assert_eq!(watched, by_name(&list), "the watch and the list differ");
        all
    });
    let requests: u64 = working.iter().map(|done| done.requests).sum();
    println!("{requests} requests of {CLIENTS} clients");
    assert!(requests > 100, "{requests} requests");
    assert!(server.stop().success());
}

/// A request may be refused by its head. Clients that write their body only after that must get the answer, and may use the
/// connection again, or are told that they may not.
#[test]
fn a_refused_body_ends_no_connection_unsaid() {
    let world = World::new();
    let server = Server::start(&world);
    let credentials = Credentials::read(&world);
    runtime().block_on(async {
        for (bytes, is_kept) in [(3_000, true), (4_000_000, false)] {
            let mut stream = credentials.stream(server.address()).await.unwrap();
            let head = format!(
                "POST {MAPS} HTTP/1.1\r\nhost: localhost\r\ncontent-type: no/such\r\ncontent-length: {bytes}\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            // The head alone is there for a while.
            tokio::time::sleep(Duration::from_millis(50)).await;
            if is_kept {
                stream.write_all(&vec![b' '; bytes]).await.unwrap();
            }
            let mut answer = vec![0; 16_384];
            let length = stream.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..length]).to_lowercase();
            assert!(answer.starts_with("http/1.1 415"), "{answer}");
            assert_eq!(answer.contains("connection: close"), !is_kept, "{answer}");
            if is_kept {
                stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
                let mut next = [0; 12];
                stream.read_exact(&mut next).await.unwrap();
                assert_eq!(&next, b"HTTP/1.1 200");
            }
        }
    });
    assert!(server.stop().success());
}

/// The same over HTTP/2, where a client writes its body while the answer is made: some (curl 7.88) look for no answer when
/// the stream is reset meanwhile, so the body is taken to its end.
#[test]
fn a_refused_body_is_taken_to_its_end_over_http2() {
    const PIECE: &[u8] = &[b' '; 64 * 1024];
    const PIECES: usize = 32;
    let world = World::new();
    let server = Server::start(&world);
    let mut credentials = Credentials::read(&world);
    Arc::make_mut(&mut credentials.config).alpn_protocols = vec![b"h2".to_vec()];
    runtime().block_on(async {
        let stream = credentials.stream(server.address()).await.unwrap();
        let (executor, io) = (TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        tokio::spawn(connection);
        let host = format!("https://localhost:{}", server.address().port());
        for (path, code) in [(MAPS, 415), ("/nowhere", 404), ("/api/v1/nodes/a", 405)] {
            let request = Request::post(format!("{host}{path}")).header("content-type", "no/such");
            let taken = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&taken);
            let pieces = futures::stream::iter(0..PIECES).map(move |_| {
                counter.fetch_add(1, Ordering::Relaxed);
                Ok::<_, Infallible>(Frame::data(Bytes::from_static(PIECE)))
            });
            sender.ready().await.unwrap();
            let response = sender.send_request(request.body(StreamBody::new(pieces)).unwrap()).await.unwrap();
            assert_eq!(response.status(), code, "{path}");
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert!(!body.is_empty(), "{path}");
            let all = async {
                while taken.load(Ordering::Relaxed) < PIECES {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let all = tokio::time::timeout(Duration::from_secs(20), all).await;
            assert!(all.is_ok(), "{path}: {taken:?} of {PIECES} pieces were taken");
        }
    });
    assert!(server.stop().success());
}

/// The objects of a list, by name; the list's items leave out what each of them is.
fn by_name(list: &Value) -> BTreeMap<String, Value> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| (item["metadata"]["name"].as_str().unwrap().to_owned(), bare(item))).collect()
}

fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    let map = object.as_object_mut().unwrap();
    map.shift_remove("apiVersion");
    map.shift_remove("kind");
    object
}

/// Follows the changes after `list` until there is an object named `end`.
async fn watch(credentials: Credentials, address: SocketAddr, list: Value) -> BTreeMap<String, Value> {
    let mut objects = by_name(&list);
    let client = credentials.connect(address).await.unwrap();
    let from = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = client.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await.unwrap();
    let mut last: u64 = from.parse().unwrap();
    loop {
        let event = events.next().await.unwrap().expect("the watch goes on");
        let object = &event["object"];
        let name = object["metadata"]["name"].as_str().unwrap_or_else(|| panic!("{event}")).to_owned();
        let revision: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(revision > last, "{event} after {last}");
        last = revision;
        let known = match event["type"].as_str().unwrap() {
            "DELETED" => objects.remove(&name).is_some(),
            "ADDED" => objects.insert(name.clone(), bare(object)).is_none(),
            "MODIFIED" => objects.insert(name.clone(), bare(object)).is_some(),
            _ => false,
        };
        assert!(known, "{event} does not fit what was there");
        if name == "end" {
            return objects;
        }
    }
}
