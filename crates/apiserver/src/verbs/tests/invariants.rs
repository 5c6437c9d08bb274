//! Random sequences of verbs, and what holds after each.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::store::EventKind;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Create(u8, i64),
    Put(u8, i64),
    Merge(u8, i64),
    Status(u8, i64),
    Label(u8, i64),
    Finalizer(u8, bool),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..3_u8;
    let number = 0..3_i64;
    prop_oneof![
        (name.clone(), number.clone()).prop_map(|(name, number)| Step::Create(name, number)),
        (name.clone(), number.clone()).prop_map(|(name, number)| Step::Put(name, number)),
        (name.clone(), number.clone()).prop_map(|(name, number)| Step::Merge(name, number)),
        (name.clone(), number.clone()).prop_map(|(name, number)| Step::Status(name, number)),
        (name.clone(), number).prop_map(|(name, number)| Step::Label(name, number)),
        (name.clone(), any::<bool>()).prop_map(|(name, on)| Step::Finalizer(name, on)),
        name.prop_map(Step::Delete),
    ]
}

async fn take(server: &Server, step: &Step) -> Result<Value, ApiError> {
    let named = |name: &u8| format!("w{name}");
    match step {
        Step::Create(name, size) => {
            server.create("widgets", "default", widget(&named(name), json!({"size": size}))).await
        }
        Step::Put(name, size) => {
            let mut object = server.get("widgets", "default", &named(name)).await?;
            object["spec"]["size"] = (*size).into();
            server.update("widgets", "default", &named(name), object).await
        }
        Step::Merge(name, size) => {
            server.merge("widgets", "default", &named(name), json!({"spec": {"size": size}})).await
        }
        Step::Status(name, number) => {
            let patch = json!({"status": {"phase": number.to_string()}});
            server.merge("widgets", "default", &format!("{}/status", named(name)), patch).await
        }
        Step::Label(name, number) => {
            let patch = json!({"metadata": {"labels": {"n": number.to_string()}}});
            server.merge("widgets", "default", &named(name), patch).await
        }
        Step::Finalizer(name, on) => {
            let finalizers = if *on { json!(["example.com/x"]) } else { Value::Null };
            server
                .merge("widgets", "default", &named(name), json!({"metadata": {"finalizers": finalizers}}))
                .await
        }
        Step::Delete(name) => {
            server.delete("widgets", "default", &named(name), DeleteOptions::default()).await
        }
    }
}

async fn check(steps: Vec<Step>) {
    let server = Server::new().await;
    let (context, target) = (server.context(), server.at("widgets", "default", ""));
    let mut watcher = server.api.watch(&context, &target, &ListOptions::default()).await.unwrap();
    let mut known: BTreeMap<String, Value> = BTreeMap::new();
    for step in &steps {
        let before = server.api.store().revision();
        let result = take(&server, step).await;
        let after = server.api.store().revision();
        let code = result.as_ref().err().map(|error| error.code);
        assert!(code.is_none_or(|code| matches!(code, 404 | 409 | 422)), "{step:?}: {result:?}");
        assert!(code.is_none() || before == after, "a refused step writes nothing: {step:?}");
        let list = server.api.list(&context, &target, &ListOptions::default()).await.unwrap();
        let now: BTreeMap<String, Value> =
            list.items.iter().map(|item| (item.name.to_string(), list.view.value(item).unwrap())).collect();
        for (name, object) in &now {
            let Some(old) = known.get(name).filter(|old| object::uid(old) == object::uid(object)) else {
                continue;
            };
            let generation = |object: &Value| object["metadata"]["generation"].as_i64().unwrap();
            assert_eq!(old["metadata"]["creationTimestamp"], object["metadata"]["creationTimestamp"]);
            assert!(
                !object::is_deleting(old) || object::is_deleting(object),
                "a deletion is never taken back"
            );
            if old == object {
                continue;
            }
            assert!(version(object) > version(old), "a change has a new version");
            assert!(generation(object) >= generation(old));
            let counted =
                old["spec"] != object["spec"] || object::is_deleting(old) != object::is_deleting(object);
            assert_eq!(generation(object) > generation(old), counted, "{step:?}");
        }
        known = now;
    }
    // What the watch told gives the same as the list.
    let revision = server.api.store().revision();
    let marker = server.create("widgets", "default", widget("marker", json!({}))).await.unwrap();
    let mut replayed: BTreeMap<String, Value> = BTreeMap::new();
    let (mut last, mut done) = (0, false);
    while !done {
        for item in watcher.next().await.unwrap() {
            let WatchItem::Object { kind, object } = item else { panic!("{item:?}") };
            assert!(object.revision > last, "events come in order");
            last = object.revision;
            done = object.revision == version(&marker);
            if done {
                break;
            }
            match kind {
                EventKind::Deleted => replayed.remove(&*object.name),
                _ => replayed.insert(object.name.to_string(), serde_json::from_slice(&object.json).unwrap()),
            };
        }
    }
    assert_eq!(replayed, known);
    assert!(last > revision);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn verbs_keep_their_promises(steps in prop::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(steps));
    }
}
