//! Random operations against a model that keeps everything.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PREFIXES: [&str; 2] = ["/core/pods/", "/core/secrets/"];

#[derive(Debug, Clone)]
enum Operation {
    /// Writes of objects that are queued together; which one, and whether it is removed.
    Writes(Vec<(usize, usize, usize, Intent)>),
    /// Forgets this part of the history, of 100.
    Compact(u64),
    Reopen,
}

#[derive(Debug, Clone, Copy)]
enum Intent {
    Put,
    Delete,
    /// With an expectation that is wrong.
    Mistaken,
}

fn operation() -> impl Strategy<Value = Operation> {
    let intent = prop_oneof![5 => Just(Intent::Put), 3 => Just(Intent::Delete), 1 => Just(Intent::Mistaken)];
    let write = (0..2_usize, 0..2_usize, 0..3_usize, intent);
    prop_oneof![
        8 => prop::collection::vec(write, 1..5).prop_map(Operation::Writes),
        1 => (0..=100_u64).prop_map(Operation::Compact),
        1 => Just(Operation::Reopen),
    ]
}

type Key = (usize, String, String);

#[derive(Debug, Clone, PartialEq)]
struct ModelEvent {
    revision: u64,
    key: Key,
    kind: EventKind,
    value: String,
    previous: Option<u64>,
}

#[derive(Debug, Default)]
struct Model {
    revision: u64,
    floor: u64,
    objects: BTreeMap<Key, (u64, String)>,
    events: Vec<ModelEvent>,
}

impl Model {
    fn at(&self, prefix: usize, namespace: Option<&str>, revision: u64) -> Vec<(String, String)> {
        let mut objects = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.revision <= revision) {
            if event.kind == EventKind::Deleted {
                objects.remove(&event.key);
            } else {
                objects.insert(event.key.clone(), event.value.clone());
            }
        }
        objects
            .into_iter()
            .filter(|(key, _)| key.0 == prefix && namespace.is_none_or(|namespace| namespace == key.1))
            .map(|(key, value)| (format!("{}/{}", key.1, key.2), value))
            .collect()
    }

    fn after(&self, prefix: usize, namespace: Option<&str>, revision: u64) -> Vec<ModelEvent> {
        let is_meant = |event: &&ModelEvent| {
            event.revision > revision
                && event.key.0 == prefix
                && namespace.is_none_or(|namespace| namespace == event.key.1)
        };
        self.events.iter().filter(is_meant).cloned().collect()
    }
}

async fn write(store: &Store, model: &mut Model, writes: &[(usize, usize, usize, Intent)]) {
    let mut expected = Vec::new();
    let mut futures = Vec::new();
    for (prefix, namespace, name, intent) in writes {
        let key = (*prefix, format!("ns{namespace}"), format!("n{name}"));
        let current = model.objects.get(&key).cloned();
        let value = format!("value {}", model.revision + 1);
        let expect = match (&current, intent) {
            (None, Intent::Mistaken) => Expect::Revision(model.revision),
            (Some(_), Intent::Mistaken) => Expect::Absent,
            (None, _) => Expect::Absent,
            (Some((revision, _)), _) => Expect::Revision(*revision),
        };
        let encoded = encoded(&key.1, &key.2, &value);
        let change =
            if matches!(intent, Intent::Delete) { Change::Delete(encoded) } else { Change::Put(encoded) };
        futures.push(store.commit(Write {
            prefix: PREFIXES[*prefix].into(),
            namespace: key.1.clone(),
            name: key.2.clone(),
            expect,
            change,
        }));
        if matches!(intent, Intent::Mistaken) || (current.is_none() && matches!(intent, Intent::Delete)) {
            expected.push(None);
            continue;
        }
        model.revision += 1;
        let revision = model.revision;
        let kind = match (intent, &current) {
            (Intent::Delete, _) => EventKind::Deleted,
            (_, None) => EventKind::Added,
            _ => EventKind::Modified,
        };
        if kind == EventKind::Deleted {
            model.objects.remove(&key);
        } else {
            model.objects.insert(key.clone(), (revision, value.clone()));
        }
        let previous = current.map(|(revision, _)| revision);
        model.events.push(ModelEvent { revision, key, kind, value, previous });
        expected.push(Some(revision));
    }
    let results: Vec<_> = futures::future::join_all(futures).await;
    let found: Vec<_> = results.into_iter().map(|result| result.ok().map(|stored| stored.revision)).collect();
    assert_eq!(found, expected);
}

/// Everything that can be read equals the model.
async fn compare(store: &Store, model: &Model) {
    assert_eq!(store.revision(), model.revision);
    assert_eq!(store.oldest_revision(), model.floor);
    for (index, prefix) in PREFIXES.iter().enumerate() {
        for namespace in [None, Some("ns1")] {
            let now = store.list(prefix, namespace);
            assert_eq!(values(&now), model.at(index, namespace, model.revision));
            for revision in 1..=model.revision {
                match soon(store.list_at(prefix, namespace, revision)).await {
                    Ok(listing) => {
                        assert_eq!(listing.revision, revision);
                        assert_eq!(values(&listing), model.at(index, namespace, revision), "at {revision}");
                    }
                    Err(error) => {
                        assert_eq!(error, HistoryError::Compacted { oldest: model.floor });
                        assert!(revision < model.floor);
                    }
                }
                let expected = model.after(index, namespace, revision);
                match store.watch(prefix, namespace.map(str::to_owned), revision) {
                    Ok(mut watch) => {
                        let mut seen = Vec::new();
                        while seen.len() < expected.len() {
                            for event in soon(watch.next()).await.unwrap() {
                                let object = &event.object;
                                seen.push(ModelEvent {
                                    revision: event.revision,
                                    key: (index, object.namespace.to_string(), object.name.to_string()),
                                    kind: event.kind,
                                    value: value(object),
                                    previous: event.previous.as_ref().map(|previous| previous.revision),
                                });
                            }
                        }
                        assert_eq!(seen, expected, "after {revision}");
                        assert!(futures::poll!(Box::pin(watch.next())).is_pending() || expected.is_empty());
                    }
                    Err(error) => {
                        assert_eq!(error, HistoryError::Compacted { oldest: model.floor });
                        assert!(revision < model.floor);
                    }
                }
            }
        }
    }
}

async fn run(operations: Vec<Operation>, window_events: usize) {
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(directory.path());
    options.history.window_events = window_events;
    let mut store = Store::open(options.clone()).unwrap();
    let mut model = Model { revision: 1, floor: 1, ..Model::default() };
    for operation in operations {
        match operation {
            Operation::Writes(writes) => write(&store, &mut model, &writes).await,
            Operation::Compact(part) => {
                let target = model.floor + (model.revision - model.floor) * part / 100;
                model.floor = soon(store.compact(target)).await.unwrap();
                assert_eq!(model.floor, target);
            }
            Operation::Reopen => {
                compare(&store, &model).await;
                soon(store.close()).await;
                store = Store::open(options.clone()).unwrap();
            }
        }
    }
    compare(&store, &model).await;
    soon(store.close()).await;
    let report = check(directory.path()).unwrap();
    assert_eq!(report.faults, Vec::<String>::new());
    assert_eq!((report.revision, report.objects), (model.revision, model.objects.len() as u64));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_the_model(
        operations in prop::collection::vec(operation(), 1..25),
        window_events in prop_oneof![Just(1_usize), Just(4), Just(1000)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(operations, window_events));
    }
}
