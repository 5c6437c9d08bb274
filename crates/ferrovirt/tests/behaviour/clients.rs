//! Programs as people write them with kube-rs: a controller, a cache, an election. Each runs over the network and, with
//! no socket at all, inside this process.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::auth::Identity;
use apiserver::kind::Kinds;
use apiserver::server::{ApiServer, Options};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Event as CoreEvent, Namespace, Secret};
use k8s_openapi::api::events::v1::Event as NewEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{
    Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{Event as Finalizer, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt as _, predicates, reflector, watcher};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;

use crate::server::DEADLINE;
use crate::target::with_space;

/// Runs `test` with a client over the network and with one of a server in this process, each with a namespace.
async fn both_ways<F: Future<Output = ()> + Send + 'static>(test: impl Fn(Client, String) -> F) {
    with_space(|space| test(space.client.clone(), space.name)).await;

    let directory = tempfile::tempdir().unwrap();
    let mut options = Options::new(directory.path().join("state"), "v1.33.0");
    options.listen.set_port(0);
    let server = ApiServer::start(options, Kinds::new(apiserver::builtin::kinds())).await.unwrap();
    let client = Client::new(server.client_service(Identity::internal("system:tests")), "default");
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some("inside".to_owned());
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let result = tokio::spawn(test(client, "inside".to_owned())).await;
    server.shutdown().await;
    if let Err(error) = result {
        std::panic::resume_unwind(error.into_panic());
    }
}

/// Looks until there is something; kube-rs has no event for what is looked at here.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl Fn() -> F) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn config_map(name: &str, data: &[(&str, &str)]) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([("own".to_owned(), "yes".to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
        ..ConfigMap::default()
    }
}

#[tokio::test]
async fn typed_clients_read_and_write() {
    both_ways(|client, namespace| async move {
        let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
        let made = maps.create(&PostParams::default(), &config_map("a", &[("k", "1")])).await.unwrap();
        let version = made.resource_version().unwrap();
        let events = maps.watch(&WatchParams::default().labels("own"), &version).await.unwrap();
        let mut events = std::pin::pin!(events);
        let mut changed = made.clone();
        changed.data = Some(BTreeMap::from([("k".to_owned(), "2".to_owned())]));
        let replaced = maps.replace("a", &PostParams::default(), &changed).await.unwrap();
        assert_ne!(replaced.resource_version(), made.resource_version());
        let error = maps.replace("a", &PostParams::default(), &made).await.unwrap_err();
        assert!(
            matches!(&error, kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict"),
            "{error}"
        );
        let error = maps.get("none").await.unwrap_err();
        assert!(matches!(&error, kube::Error::Api(status) if status.is_not_found()), "{error}");
        assert!(maps.get_opt("none").await.unwrap().is_none());
        let metadata = maps.get_metadata("a").await.unwrap();
        assert_eq!(metadata.metadata.uid, made.metadata.uid);
        let patched = maps
            .patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"n": "3"}})))
            .await
            .unwrap();
        assert_eq!(patched.data.unwrap().len(), 2);
        let list = maps.list(&ListParams::default().labels("own=yes").limit(10)).await.unwrap();
        assert_eq!(list.items.len(), 1);
        assert!(maps.delete("a", &DeleteParams::default()).await.unwrap().is_right());
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.push(match events.try_next().await.unwrap().unwrap() {
                WatchEvent::Modified(_) => "modified",
                WatchEvent::Deleted(_) => "deleted",
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(seen, ["modified", "modified", "deleted"]);
    })
    .await;
}

const FINALIZER: &str = "behaviour.example.com/cleanup";

struct Tools {
    client: Client,
    recorder: Recorder,
}

/// Keeps a Secret for each ConfigMap, and tells of it.
async fn reconcile(
    map: Arc<ConfigMap>,
    tools: Arc<Tools>,
) -> Result<Action, kube::runtime::finalizer::Error<kube::Error>> {
    let namespace = map.namespace().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(tools.client.clone(), &namespace);
    let secrets: Api<Secret> = Api::namespaced(tools.client.clone(), &namespace);
    finalizer(&maps, FINALIZER, map, |event| async {
        match event {
            Finalizer::Apply(map) => {
                let secret = Secret {
                    metadata: ObjectMeta {
                        name: Some(format!("{}-copy", map.name_any())),
                        owner_references: Some(vec![map.controller_owner_ref(&()).unwrap()]),
                        ..ObjectMeta::default()
                    },
                    string_data: map.data.clone(),
                    ..Secret::default()
                };
                let apply = PatchParams::apply("behaviour.example.com").force();
                secrets.patch(&secret.name_any(), &apply, &Patch::Apply(&secret)).await?;
                let told = told("Copied", "Copying");
                tools.recorder.publish(&told, &map.object_ref(&())).await?;
            }
            Finalizer::Cleanup(map) => {
                tools.recorder.publish(&told("Cleaned", "Cleaning"), &map.object_ref(&())).await?;
            }
        }
        Ok(Action::await_change())
    })
    .await
}

fn told(reason: &str, action: &str) -> Event {
    Event {
        type_: EventType::Normal,
        reason: reason.to_owned(),
        note: Some(format!("{reason} it")),
        action: action.to_owned(),
        secondary: None,
    }
}

#[tokio::test]
async fn a_controller_keeps_what_it_makes() {
    both_ways(|client, namespace| async move {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
        let reporter = Reporter {
            controller: "behaviour.example.com/controller".to_owned(),
            instance: Some("one".to_owned()),
        };
        let tools =
            Arc::new(Tools { client: client.clone(), recorder: Recorder::new(client.clone(), reporter) });
        let controller = Controller::new(maps.clone(), watcher::Config::default().labels("own=yes"))
            .owns(secrets.clone(), watcher::Config::default())
            .run(
                reconcile,
                |_, error, _| {
                    // A conflict with the test's own writes is no fault; it goes away by trying again.
                    let _ = error;
                    Action::requeue(Duration::from_millis(50))
                },
                tools,
            )
            .for_each(|_| std::future::ready(()));
        let controller = tokio::spawn(controller);

        let made = maps.create(&PostParams::default(), &config_map("a", &[("k", "1")])).await.unwrap();
        let value = async |wanted: &'static str| {
            let has = move |secret: Option<&Secret>| {
                secret
                    .and_then(|secret| secret.data.as_ref()?.get("k"))
                    .is_some_and(|data| data.0 == wanted.as_bytes())
            };
            let waited =
                tokio::time::timeout(DEADLINE, await_condition(secrets.clone(), "a-copy", has)).await;
            waited.expect("the copy comes").unwrap().unwrap()
        };
        let first = value("1").await;
        assert!(maps.get("a").await.unwrap().finalizers().contains(&FINALIZER.to_owned()));
        let manager = &first.metadata.managed_fields.as_ref().unwrap()[0];
        assert_eq!(
            (manager.manager.as_deref(), manager.operation.as_deref()),
            (Some("behaviour.example.com"), Some("Apply"))
        );
        // It follows a change, and puts back what somebody removes.
        maps.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "2"}}))).await.unwrap();
        value("2").await;
        secrets.delete("a-copy", &DeleteParams::default()).await.unwrap();
        let again = value("2").await;
        assert_ne!(again.uid(), first.uid());
        // With its owner it goes, after the controller has had its say.
        maps.delete("a", &DeleteParams::default()).await.unwrap();
        let uid = made.uid().unwrap();
        let gone = await_condition(maps.clone(), "a", conditions::is_deleted(&uid));
        tokio::time::timeout(DEADLINE, gone).await.expect("the object goes").unwrap();
        let last = again.uid().unwrap();
        let gone = await_condition(secrets.clone(), "a-copy", conditions::is_deleted(&last));
        tokio::time::timeout(DEADLINE, gone).await.expect("the copy goes").unwrap();
        controller.abort();

        // What it told is there in both groups.
        let old: Api<CoreEvent> = Api::namespaced(client.clone(), &namespace);
        let new: Api<NewEvent> = Api::namespaced(client, &namespace);
        let selector = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
        let mut reasons: Vec<_> =
            old.list(&selector).await.unwrap().items.into_iter().map(|event| event.reason.unwrap()).collect();
        reasons.sort();
        reasons.dedup();
        assert_eq!(reasons, ["Cleaned", "Copied"]);
        let all = new.list(&ListParams::default()).await.unwrap().items;
        let copied = all.iter().find(|event| event.reason.as_deref() == Some("Copied")).unwrap();
        assert_eq!(copied.regarding.as_ref().unwrap().name.as_deref(), Some("a"));
        assert_eq!(copied.note.as_deref(), Some("Copied it"));
        // The second publication of the same event counts it, by patching its series.
        assert!(copied.series.as_ref().is_some_and(|series| series.count >= 2), "{copied:?}");
    })
    .await;
}

#[tokio::test]
async fn a_cache_follows_with_and_without_streaming_lists() {
    both_ways(|client, namespace| async move {
        let maps: Api<ConfigMap> = Api::namespaced(client, &namespace);
        for number in 0..7 {
            maps.create(&PostParams::default(), &config_map(&format!("m{number}"), &[])).await.unwrap();
        }
        let mut caches = Vec::new();
        for config in [
            watcher::Config::default().labels("own").page_size(3),
            watcher::Config::default().labels("own").streaming_lists(),
            watcher::Config::default().labels("own").any_semantic(),
        ] {
            let (reader, writer) = reflector::store::<ConfigMap>();
            let stream = watcher(maps.clone(), config)
                .default_backoff()
                .reflect(writer)
                .applied_objects()
                .predicate_filter(
                    predicates::resource_version,
                    kube::runtime::utils::PredicateConfig::default(),
                );
            let following = tokio::spawn(stream.for_each(|result| {
                result.unwrap();
                std::future::ready(())
            }));
            tokio::time::timeout(DEADLINE, reader.wait_until_ready())
                .await
                .expect("the cache fills")
                .unwrap();
            assert_eq!(reader.len(), 7);
            caches.push((reader, following));
        }
        maps.delete("m0", &DeleteParams::default()).await.unwrap();
        maps.create(&PostParams::default(), &config_map("m7", &[])).await.unwrap();
        // Out of the selector is out of the cache.
        let unlabel = json!({"metadata": {"labels": {"own": null}}});
        maps.patch("m1", &PatchParams::default(), &Patch::Merge(unlabel)).await.unwrap();
        for (reader, following) in caches {
            eventually("the cache is up to date", || async {
                let mut names: Vec<_> = reader.state().iter().map(|map| map.name_any()).collect();
                names.sort();
                (names == ["m2", "m3", "m4", "m5", "m6", "m7"]).then_some(())
            })
            .await;
            assert!(!following.is_finished(), "the watch ended with an error");
            following.abort();
        }
    })
    .await;
}

/// One who wants to lead, by the rules of client-go's leader election.
struct Candidate {
    leases: Api<Lease>,
    name: &'static str,
    term: Duration,
}

impl Candidate {
    /// Takes or renews the lease; whether it is ours now. A lost race is an answer, not an error.
    async fn campaign(&self, now: Timestamp) -> bool {
        let mine = |lease: &mut Lease, transitions: i32, acquired: Option<MicroTime>| {
            lease.spec = Some(LeaseSpec {
                holder_identity: Some(self.name.to_owned()),
                lease_duration_seconds: Some(self.term.as_secs() as i32),
                acquire_time: Some(acquired.unwrap_or(MicroTime(now))),
                renew_time: Some(MicroTime(now)),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            });
        };
        let Some(mut lease) = self.leases.get_opt("leader").await.unwrap() else {
            let mut lease = Lease::default();
            lease.metadata.name = Some("leader".to_owned());
            mine(&mut lease, 0, None);
            return won(self.leases.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let held = spec.holder_identity.as_deref() == Some(self.name);
        let renewed = spec.renew_time.map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        if !held && spec.holder_identity.is_some() && renewed + self.term > now {
            return false;
        }
        let transitions = spec.lease_transitions.unwrap_or_default();
        match held {
            true => mine(&mut lease, transitions, spec.acquire_time),
            false => mine(&mut lease, transitions + 1, None),
        }
        won(self.leases.replace("leader", &PostParams::default(), &lease).await)
    }
}

fn won(result: kube::Result<Lease>) -> bool {
    match result {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.code == 409 => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn one_of_two_leads() {
    both_ways(|client, namespace| async move {
        let candidate = |name| Candidate {
            leases: Api::namespaced(client.clone(), &namespace),
            name,
            term: Duration::from_secs(15),
        };
        let (one, two) = (candidate("one"), candidate("two"));
        let start: Timestamp = "2026-01-01T00:00:00.123456Z".parse().unwrap();
        // Both at once, again and again: never two winners, once the lease is there always one.
        let mut last = None;
        for round in 0..20 {
            let now = start + Duration::from_secs(60 * round);
            let (first, second) = tokio::join!(one.campaign(now), two.campaign(now));
            assert!(first != second, "round {round}: {first} {second}");
            let leader = if first { &one } else { &two };
            let other = if first { &two } else { &one };
            // While it is renewed nobody else gets it.
            let soon = now + Duration::from_secs(10);
            assert!(leader.campaign(soon).await);
            assert!(!other.campaign(soon + Duration::from_secs(14)).await);
            last = Some(leader.name);
        }
        let lease = one.leases.get("leader").await.unwrap().spec.unwrap();
        assert_eq!(lease.holder_identity.as_deref(), last);
        // Times keep their microseconds.
        assert_eq!(lease.renew_time.unwrap().0, start + Duration::from_secs(60 * 19 + 10));
    })
    .await;
}
