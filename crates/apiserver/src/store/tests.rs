#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

mod crash;
mod durability;
mod maintenance;
mod model;
mod reading;

const PODS: &str = "/core/pods/";

fn object(namespace: &str, name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": "77"}, "value": value})
}

fn encoded(namespace: &str, name: &str, value: &str) -> Encoded {
    Encoded::new(&object(namespace, name, value)).unwrap()
}

fn put(namespace: &str, name: &str, expect: Expect, value: &str) -> Write {
    let change = Change::Put(encoded(namespace, name, value));
    Write { prefix: PODS.into(), namespace: namespace.into(), name: name.into(), expect, change }
}

fn delete(namespace: &str, name: &str, revision: u64) -> Write {
    let change = Change::Delete(encoded(namespace, name, "last"));
    let expect = Expect::Revision(revision);
    Write { prefix: PODS.into(), namespace: namespace.into(), name: name.into(), expect, change }
}

fn options(directory: &Path) -> StoreOptions {
    StoreOptions { directory: directory.into(), history: HistoryLimits::default() }
}

fn open(directory: &Path) -> Store {
    Store::open(options(directory)).unwrap()
}

fn value(stored: &Stored) -> String {
    let json: Value = serde_json::from_slice(&stored.json).unwrap();
    assert_eq!(json["metadata"]["resourceVersion"], stored.revision.to_string());
    assert_eq!(json["metadata"]["name"], *stored.name);
    json["value"].as_str().unwrap().to_owned()
}

fn values(listing: &Listing) -> Vec<(String, String)> {
    listing.items.iter().map(|item| (format!("{}/{}", item.namespace, item.name), value(item))).collect()
}

fn named(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Fails rather than hangs.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.unwrap()
}

impl Store {
    async fn meddle(&self, meddle: impl FnOnce(&mut Option<rusqlite::Connection>) + Send + 'static) {
        let (done, is_done) = oneshot::channel();
        let request = Request::Meddle(Box::new(move |connection| {
            meddle(connection);
            done.send(()).unwrap();
        }));
        self.queue.send(request).unwrap_or_else(|_| panic!("the writer has ended"));
        is_done.await.unwrap();
    }

    /// Lets the database have so many pages, at least as many as it has.
    async fn limit_pages(&self, pages: u32) {
        self.meddle(move |connection| {
            let sql = format!("PRAGMA max_page_count = {pages}");
            connection.as_ref().unwrap().query_row(&sql, [], |_| Ok(())).unwrap();
        })
        .await;
    }

    /// As after a fault; with an object that is on the disk and was not acknowledged.
    async fn lose_connection(&self, unacknowledged: Option<&str>) {
        let revision = self.revision() + 1;
        let entry = unacknowledged.map(|name| {
            let object = Arc::new(Stored {
                namespace: "a".into(),
                name: name.into(),
                revision,
                created_revision: revision,
                json: encoded("a", name, name).at_revision(revision),
            });
            let event = Arc::new(Event { revision, kind: EventKind::Added, object, previous: None });
            log::Entry { prefix: PODS.into(), event }
        });
        self.meddle(move |connection| {
            if let Some(entry) = entry {
                log::append(connection.as_ref().unwrap(), &[entry], 0).unwrap();
            }
            *connection = None;
        })
        .await;
    }
}
