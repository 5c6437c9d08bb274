#![allow(clippy::unwrap_used)]

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::object;
use crate::verbs::tests::{Server, widget};
use crate::verbs::{DeleteOptions, ListOptions, Propagation};

use super::{Settings, start};

/// A server with its controllers; they end with it.
struct Running {
    server: Server,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Running {
    async fn new() -> Self {
        let server = Server::new().await;
        let (stop, stopped) = watch::channel(false);
        let settings = Settings { root_certificate: "PEM".to_owned() };
        let tasks = start(&server.api, settings, stopped);
        Self { server, stop, tasks }
    }

    /// Waits until the object satisfies a condition (`None`: it does not exist), looking whenever anything changes.
    async fn until(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        condition: impl Fn(Option<&Value>) -> bool,
    ) {
        let target = self.server.at(plural, namespace, "");
        let context = self.server.context();
        let mut watcher = self.server.api.watch(&context, &target, &ListOptions::default()).await.unwrap();
        let waiting = async {
            loop {
                let object = self.server.get(plural, namespace, name).await.ok();
                if condition(object.as_ref()) {
                    return;
                }
                watcher.next().await.expect("the watch goes on");
            }
        };
        if tokio::time::timeout(Duration::from_secs(20), waiting).await.is_err() {
            panic!("{plural} {name}: last seen {:?}", self.server.get(plural, namespace, name).await);
        }
    }

    async fn gone(&self, plural: &str, namespace: &str, name: &str) {
        self.until(plural, namespace, name, |object| object.is_none()).await;
    }

    /// A widget that is owned by these objects.
    async fn owned(&self, name: &str, owners: &[&Value]) -> Value {
        let mut body = widget(name, json!({}));
        let references: Vec<_> = owners
            .iter()
            .map(|owner| {
                json!({"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": object::name(owner),
                    "uid": object::uid(owner), "blockOwnerDeletion": true})
            })
            .collect();
        body["metadata"]["ownerReferences"] = references.into();
        self.server.create("widgets", "default", body).await.unwrap()
    }

    async fn delete(&self, name: &str, propagation: Propagation) {
        let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        self.server.delete("widgets", "default", name, options).await.unwrap();
    }
}

#[tokio::test]
async fn dependents_follow_their_owner_in_the_background() {
    let running = Running::new().await;
    let owner = running.owned("owner", &[]).await;
    let child = running.owned("child", &[&owner]).await;
    running.owned("grandchild", &[&child]).await;
    let other = running.owned("other", &[]).await;
    running.owned("shared", &[&owner, &other]).await;
    running.delete("owner", Propagation::Background).await;
    running.gone("widgets", "default", "child").await;
    running.gone("widgets", "default", "grandchild").await;
    let only_other = |object: Option<&Value>| {
        object.is_some_and(|object| {
            object["metadata"]["ownerReferences"]
                .as_array()
                .is_some_and(|owners| owners.len() == 1 && owners[0]["name"] == "other")
        })
    };
    running.until("widgets", "default", "shared", only_other).await;
}

#[tokio::test]
async fn an_owner_waits_for_its_dependents_in_the_foreground() {
    let running = Running::new().await;
    let owner = running.owned("owner", &[]).await;
    running.owned("child", &[&owner]).await;
    let hold = json!({"metadata": {"finalizers": ["example.com/hold"]}});
    running.server.merge("widgets", "default", "child", hold).await.unwrap();
    running.delete("owner", Propagation::Foreground).await;
    running.until("widgets", "default", "child", |object| object.is_some_and(object::is_deleting)).await;
    let owner = running.server.get("widgets", "default", "owner").await.unwrap();
    assert_eq!(owner["metadata"]["finalizers"], json!(["foregroundDeletion"]), "the child is still there");
    let release = json!({"metadata": {"finalizers": null}});
    running.server.merge("widgets", "default", "child", release).await.unwrap();
    running.gone("widgets", "default", "owner").await;
    running.gone("widgets", "default", "child").await;
}

#[tokio::test]
async fn orphans_stay_without_their_owner() {
    let running = Running::new().await;
    let owner = running.owned("owner", &[]).await;
    let child = running.owned("child", &[&owner]).await;
    running.delete("owner", Propagation::Orphan).await;
    running.gone("widgets", "default", "owner").await;
    let kept = running.server.get("widgets", "default", "child").await.unwrap();
    assert_eq!(object::uid(&kept), object::uid(&child));
}

#[tokio::test]
async fn what_was_never_owned_rightly_goes() {
    let running = Running::new().await;
    let ghost =
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a", "uid": "gone"}});
    running.owned("child", &[&ghost]).await;
    running.gone("widgets", "default", "child").await;
    // Nobody can say whether an object of an unknown kind exists.
    let unknown =
        json!({"apiVersion": "example.com/v1", "kind": "Nothing", "metadata": {"name": "a", "uid": "u"}});
    running.owned("kept", &[&unknown]).await;
    running.owned("next", &[&ghost]).await;
    running.gone("widgets", "default", "next").await;
    assert!(running.server.get("widgets", "default", "kept").await.is_ok());
}

#[tokio::test]
async fn a_namespace_is_furnished_and_ends_with_its_contents() {
    let running = Running::new().await;
    let certified = |object: Option<&Value>| object.is_some_and(|object| object["data"]["ca.crt"] == "PEM");
    running.until("configmaps", "other", "kube-root-ca.crt", certified).await;
    running.until("serviceaccounts", "other", "default", |object| object.is_some()).await;
    let options = DeleteOptions::default();
    running.server.delete("serviceaccounts", "other", "default", options.clone()).await.unwrap();
    running.until("serviceaccounts", "other", "default", |object| object.is_some()).await;

    let mut held = widget("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    running.server.create("widgets", "other", held).await.unwrap();
    running.server.create("widgets", "other", widget("free", json!({}))).await.unwrap();
    running.server.delete("namespaces", "", "other", options).await.unwrap();
    running.gone("widgets", "other", "free").await;
    let told = |object: Option<&Value>| {
        object.and_then(|object| object["status"]["conditions"].as_array()).is_some_and(|conditions| {
            conditions.iter().any(|condition| {
                condition["message"]
                    == "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
            })
        })
    };
    running.until("namespaces", "", "other", told).await;
    let release = json!({"metadata": {"finalizers": null}});
    running.server.merge("widgets", "other", "held", release).await.unwrap();
    running.gone("namespaces", "", "other").await;
    running.gone("configmaps", "other", "kube-root-ca.crt").await;
}

#[tokio::test]
async fn objects_with_a_time_to_live_expire() {
    let running = Running::new().await;
    running.server.create("briefs", "default", json!({"metadata": {"name": "a"}})).await.unwrap();
    running.gone("briefs", "default", "a").await;
}

#[tokio::test]
async fn the_controllers_end_when_the_server_stops() {
    let Running { server, stop, mut tasks } = Running::new().await;
    stop.send(true).unwrap();
    let ended = async {
        while let Some(result) = tasks.join_next().await {
            result.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("every controller ends");
    drop(server);
}

#[test]
fn a_certificate_that_somebody_froze_is_left_alone() {
    let kept_up = |old: &Value| super::essentials::with_data(old, &json!({"ca.crt": "PEM"}));
    let mut map = json!({"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "MINE"}});
    assert_eq!(kept_up(&map)["data"]["ca.crt"], "PEM");
    map["immutable"] = true.into();
    assert_eq!(kept_up(&map), map);
}
