//! The server is killed at random moments while several connections write and others watch, and is started again.
//!
//! SIGKILL takes the process, not the machine: what was written without a sync is still there. The power failure that
//! takes that too is in `power.rs`.
//!
//! Each object has one writer, which knows what was acknowledged; of its last request it may not know. So after a kill
//! there is one right answer for each object, or two for those that a request was under way for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Client, Credentials, runtime};
use crate::random::{Random, number};
use crate::server::{DEADLINE, Server, World, finish};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WRITERS: u64 = 6;
const NAMES: u64 = 6;

/// How often the server is killed: `FERROVIRT_TEST_KILLS`, or few enough for every day.
fn kills() -> u64 {
    number("FERROVIRT_TEST_KILLS").unwrap_or(20)
}

/// A state of an object: the value that it shows, and the revision where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    kind: &'static str,
    value: u64,
    revision: Option<u64>,
}

/// What a request without an answer may have done.
#[derive(Debug, Clone, Copy)]
enum Doubt {
    Put(u64),
    Gone,
}

/// An object as its writer knows it.
#[derive(Debug)]
struct Known {
    name: String,
    history: Vec<Change>,
    doubt: Option<Doubt>,
}

impl Known {
    fn present(&self) -> Option<(u64, u64)> {
        let last = self.history.last().filter(|last| last.kind != "DELETED")?;
        Some((last.value, last.revision.unwrap()))
    }

    fn put(&mut self, value: u64, revision: u64) {
        let kind = if self.present().is_some() { "MODIFIED" } else { "ADDED" };
        self.history.push(Change { kind, value, revision: Some(revision) });
    }

    fn gone(&mut self) {
        let (value, _) = self.present().unwrap();
        self.history.push(Change { kind: "DELETED", value, revision: None });
    }

    /// Compares with what the server has after it was killed.
    fn settle(&mut self, found: Option<(u64, u64)>) {
        let known = self.present();
        match self.doubt.take() {
            _ if found == known => {}
            Some(Doubt::Put(value)) => match found {
                Some((shown, revision))
                    if shown == value && known.is_none_or(|(_, before)| revision > before) =>
                {
                    self.put(value, revision);
                }
                _ => panic!("{self:?} was to become {value}; there is {found:?}"),
            },
            Some(Doubt::Gone) if found.is_none() => self.gone(),
            doubt => panic!("{self:?} ({doubt:?}); there is {found:?}"),
        }
    }
}

/// The object that shows `value`: in every field the same, so that a half of it would be noticed.
fn object(name: &str, writer: u64, value: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "labels": {"parity": if writer.is_multiple_of(2) { "even" } else { "odd" }}},
        "data": data(value)})
}

fn data(value: u64) -> Value {
    let padding = "x".repeat(usize::try_from(value.wrapping_mul(7919) % 5000).unwrap());
    json!({"value": value.to_string(), "padding": padding, "copy": value.to_string()})
}

/// What an object shows, and its revision.
#[track_caller]
fn shown(object: &Value) -> (u64, u64) {
    let value: u64 = object["data"]["value"].as_str().unwrap().parse().unwrap();
    assert_eq!(object["data"], data(value), "half an object");
    (value, object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap())
}

/// One connection's worth of writing.
struct Writer {
    index: u64,
    random: Random,
    last_value: u64,
    objects: Vec<Known>,
}

impl Writer {
    fn new(index: u64, random: &mut Random) -> Self {
        let objects = (0..NAMES)
            .map(|number| Known { name: format!("w{index}-{number}"), history: Vec::new(), doubt: None })
            .collect();
        Self { index, random: Random::new(random.next()), last_value: 0, objects }
    }

    /// Writes until the server is gone.
    async fn run(mut self, credentials: Credentials, address: SocketAddr) -> Self {
        let Ok(mut client) = credentials.connect(address).await else { return self };
        while self.step(&mut client).await.is_ok() {}
        self
    }

    async fn step(&mut self, client: &mut Client) -> std::io::Result<()> {
        let at = usize::try_from(self.random.below(NAMES)).unwrap();
        let (index, choice) = (self.index, self.random.below(5));
        self.last_value += 1;
        let value = self.last_value;
        let known = &mut self.objects[at];
        let path = format!("{MAPS}/{}", known.name);
        let body = object(&known.name, index, value);
        let present = known.present();
        known.doubt = Some(if present.is_some() && choice == 0 { Doubt::Gone } else { Doubt::Put(value) });
        let answer: Answer = match (present, choice) {
            (None, 0..3) => client.call(Method::POST, MAPS, &body).await?,
            (Some(_), 0) => client.call(Method::DELETE, &path, &json!({})).await?,
            (Some((_, revision)), 1 | 2) => {
                let mut body = body;
                body["metadata"]["resourceVersion"] = json!(revision.to_string());
                client.call(Method::PUT, &path, &body).await?
            }
            (Some(_), 3) => {
                let patch = json!({"data": data(value)}).to_string();
                client.call_as(Method::PATCH, &path, "application/merge-patch+json", patch).await?
            }
            _ => {
                let path = format!("{path}?fieldManager=crash&force=true");
                client.call_as(Method::PATCH, &path, "application/apply-patch+yaml", body.to_string()).await?
            }
        };
        // From here on it is acknowledged.
        let answer = answer.succeeded().json();
        match known.doubt.take() {
            Some(Doubt::Gone) => known.gone(),
            _ => {
                let (seen, revision) = shown(&answer);
                assert_eq!(seen, value, "{answer}");
                known.put(value, revision);
            }
        }
        Ok(())
    }
}

/// A watch that is resumed wherever it was cut off.
struct Watcher {
    query: &'static str,
    from: u64,
    last: u64,
    seen: BTreeMap<String, Vec<Change>>,
    bookmarks: u64,
}

/// The object that is written last of all.
const LAST: &str = "last";

impl Watcher {
    /// Watches until the server is gone, or the last object is there.
    async fn run(mut self, credentials: Credentials, address: SocketAddr) -> Self {
        let Ok(client) = credentials.connect(address).await else { return self };
        let path = format!("{MAPS}?watch=true&resourceVersion={}{}", self.from, self.query);
        let Ok(mut events) = client.watch(&path).await else { return self };
        while let Ok(Some(event)) = events.next().await {
            let (kind, object) = (event["type"].as_str().unwrap(), &event["object"]);
            assert_ne!(kind, "ERROR", "{event} after {}", self.from);
            let revision: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            if kind == "BOOKMARK" {
                assert!(revision >= self.from, "{event} after {}", self.from);
                self.bookmarks += 1;
                self.from = revision;
                continue;
            }
            // A bookmark says that there is nothing up to its revision any more.
            assert!(revision > self.from && revision > self.last, "{event} after {}", self.from);
            (self.from, self.last) = (revision, revision);
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            if name == LAST {
                self.seen.insert(name, Vec::new());
                break;
            }
            if !name.starts_with('w') {
                continue;
            }
            let kind = match kind {
                "ADDED" => "ADDED",
                "MODIFIED" => "MODIFIED",
                "DELETED" => "DELETED",
                _ => panic!("{event}"),
            };
            let (value, revision) = shown(object);
            let revision = (kind != "DELETED").then_some(revision);
            self.seen.entry(name).or_default().push(Change { kind, value, revision });
        }
        self
    }

    fn judge(&self, writers: &[Writer]) {
        assert!(self.seen.contains_key(LAST), "`{}` ended at {}", self.query, self.from);
        for writer in
            writers.iter().filter(|writer| !self.query.contains("even") || writer.index.is_multiple_of(2))
        {
            for known in &writer.objects {
                let seen = self.seen.get(&known.name).map_or(&[][..], Vec::as_slice);
                let differs = seen.iter().zip(&known.history).position(|(seen, written)| seen != written);
                let at = differs.unwrap_or(seen.len().min(known.history.len()));
                assert!(
                    seen == known.history,
                    "`{}` of {}, change {at}: seen {:?}, written {:?}",
                    self.query,
                    known.name,
                    &seen[at..seen.len().min(at + 3)],
                    &known.history[at..known.history.len().min(at + 3)],
                );
            }
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kills() {
    let mut random = Random::seeded("FERROVIRT_TEST_SEED");
    let world = World::new();
    let runtime = runtime();
    let mut server = Server::start(&world);
    let credentials = Credentials::read(&world);
    let mut writers: Vec<_> = (0..WRITERS).map(|index| Writer::new(index, &mut random)).collect();
    let (from, _) = runtime.block_on(list(&credentials, server.address()));
    let queries = ["", "&allowWatchBookmarks=true", "&labelSelector=parity%3Deven"];
    let watcher = |query| Watcher { query, from, last: from, seen: BTreeMap::new(), bookmarks: 0 };
    let mut watchers: Vec<_> = queries.map(watcher).into();

    let kills = kills();
    for kill in 0..kills {
        let address = server.address();
        let writing: Vec<_> =
            writers.drain(..).map(|writer| runtime.spawn(writer.run(credentials.clone(), address))).collect();
        let watching: Vec<_> = watchers
            .drain(..)
            .map(|watcher| runtime.spawn(watcher.run(credentials.clone(), address)))
            .collect();
        // The moment of the kill, not something that is waited for.
        std::thread::sleep(Duration::from_millis(random.below(120)));
        server.kill();
        runtime.block_on(async {
            for writer in writing {
                writers.push(writer.await.unwrap());
            }
            for watcher in watching {
                watchers.push(watcher.await.unwrap());
            }
        });
        if random.below(4) == 0 {
            kill_while_it_starts(&world, Duration::from_millis(random.below(100)));
        }
        server = Server::start(&world);
        let (_, mut objects) = runtime.block_on(list(&credentials, server.address()));
        for known in writers.iter_mut().flat_map(|writer| &mut writer.objects) {
            known.settle(objects.remove(&known.name));
        }
        assert!(objects.is_empty(), "nobody wrote {objects:?}");
        if kill % 50 == 49 {
            println!("{} kills", kill + 1);
            finish(world.ferrovirt(["state", "check"])).succeeded();
        }
    }

    let address = server.address();
    runtime.block_on(async {
        let mut client = credentials.connect(address).await.unwrap();
        client.call(Method::POST, MAPS, &object(LAST, 0, 0)).await.unwrap().succeeded();
        for watcher in watchers.drain(..) {
            let watching = watcher.run(credentials.clone(), address);
            tokio::time::timeout(DEADLINE, watching).await.unwrap().judge(&writers);
        }
    });
    let history = || writers.iter().flat_map(|writer| &writer.objects).map(|known| known.history.len());
    println!("{kills} kills survived, {} changes acknowledged or found", history().sum::<usize>());
    assert!(history().sum::<usize>() as u64 > 5 * kills, "hardly anything was written");
    let checked = finish(world.ferrovirt(["state", "check"])).succeeded();
    println!("{}", checked.stdout);
    server.stop();
}

/// A start that does not get far.
fn kill_while_it_starts(world: &World, after: Duration) {
    let mut command: Command = world.ferrovirt(["serve", "--api-only", "--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The revision, and what each of the writers' objects shows at it.
async fn list(credentials: &Credentials, address: SocketAddr) -> (u64, BTreeMap<String, (u64, u64)>) {
    let mut client = credentials.connect(address).await.unwrap();
    let list = client.get(MAPS).await.unwrap().succeeded().json();
    let objects = list["items"].as_array().unwrap().iter();
    let objects = objects
        .map(|object| (object["metadata"]["name"].as_str().unwrap(), object))
        .filter(|(name, _)| name.starts_with('w'))
        .map(|(name, object)| (name.to_owned(), shown(object)));
    (list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap(), objects.collect())
}
