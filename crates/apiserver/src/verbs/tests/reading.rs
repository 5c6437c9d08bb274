//! Get, list and watch.

use crate::store::EventKind;

use super::*;

async fn fill(server: &Server, count: usize) {
    for number in 0..count {
        let mut body = widget(&format!("w{number:02}"), json!({"size": number}));
        body["metadata"]["labels"] = json!({"half": (number % 2).to_string()});
        server.create("widgets", "default", body).await.unwrap();
    }
}

fn item_names(list: &List) -> Vec<String> {
    list.items.iter().map(|item| item.name.to_string()).collect()
}

#[tokio::test]
async fn pages_show_one_version() {
    let server = Server::new().await;
    fill(&server, 7).await;
    let (context, target) = (server.context(), server.at("widgets", "default", ""));
    let page = |continue_token: &str| ListOptions {
        limit: 3,
        continue_token: continue_token.to_owned(),
        ..ListOptions::default()
    };
    let first = server.api.list(&context, &target, &page("")).await.unwrap();
    assert_eq!(item_names(&first), ["w00", "w01", "w02"]);
    assert_eq!(first.remaining, Some(4));
    // What happens between the pages is not seen in them.
    server.delete("widgets", "default", "w04", DeleteOptions::default()).await.unwrap();
    server.create("widgets", "default", widget("w035", json!({}))).await.unwrap();
    let second = server.api.list(&context, &target, &page(&first.continue_token)).await.unwrap();
    assert_eq!(item_names(&second), ["w03", "w04", "w05"]);
    assert_eq!((second.revision, second.remaining), (first.revision, Some(1)));
    let third = server.api.list(&context, &target, &page(&second.continue_token)).await.unwrap();
    assert_eq!(item_names(&third), ["w06"]);
    assert_eq!((third.continue_token.as_str(), third.remaining), ("", None));

    server.api.store().compact(server.api.store().revision()).await.unwrap();
    let error = server.api.list(&context, &target, &page(&first.continue_token)).await.unwrap_err();
    assert_eq!((error.code, error.reason), (410, "Expired"));
    let status = error.to_json();
    let fresh = status["metadata"]["continue"].as_str().unwrap();
    let rest = server.api.list(&context, &target, &page(fresh)).await.unwrap();
    assert_eq!(item_names(&rest), ["w03", "w035", "w05"]);
}

#[tokio::test]
async fn selected_pages_are_full_and_count_nothing() {
    let server = Server::new().await;
    fill(&server, 9).await;
    let (context, target) = (server.context(), server.at("widgets", "", ""));
    let mut options = ListOptions { limit: 2, label_selector: "half=1".to_owned(), ..ListOptions::default() };
    let mut seen = Vec::new();
    loop {
        let list = server.api.list(&context, &target, &options).await.unwrap();
        assert_eq!(list.remaining, None);
        seen.extend(item_names(&list));
        if list.continue_token.is_empty() {
            break;
        }
        assert_eq!(list.items.len(), 2);
        options.continue_token = list.continue_token;
    }
    assert_eq!(seen, ["w01", "w03", "w05", "w07"]);
    let named = ListOptions { field_selector: "metadata.name=w03".to_owned(), ..ListOptions::default() };
    assert_eq!(item_names(&server.api.list(&context, &target, &named).await.unwrap()), ["w03"]);
    let in_namespace = server.at("widgets", "default", "");
    assert_eq!(item_names(&server.api.list(&context, &in_namespace, &named).await.unwrap()), ["w03"]);
}

#[tokio::test]
async fn what_is_computed_is_listed_and_got_like_what_is_stored() {
    let server = Server::new().await;
    let list = async |namespace: &str, options: ListOptions| {
        let target = server.at("readings", namespace, "");
        let list = server.api.list(&server.context(), &target, &options).await.unwrap();
        let names = list.items.iter().map(|item| format!("{}/{}", item.namespace, item.name));
        (names.collect::<Vec<_>>().join(" "), list.continue_token)
    };
    let all = ListOptions::default();
    assert_eq!(list("", all.clone()).await.0, "a/x a/y b/x");
    assert_eq!(list("a", all.clone()).await.0, "a/x a/y");
    assert_eq!(list("none", all.clone()).await.0, "");
    let labelled = ListOptions { label_selector: "on=x".to_owned(), ..all.clone() };
    assert_eq!(list("", labelled).await.0, "a/x b/x");
    let named = ListOptions { field_selector: "metadata.name=y".to_owned(), ..all.clone() };
    assert_eq!(list("", named).await.0, "a/y");
    let (first, more) = list("", ListOptions { limit: 2, ..all.clone() }).await;
    assert_eq!(first, "a/x a/y");
    assert_eq!(list("", ListOptions { limit: 2, continue_token: more, ..all }).await.0, "b/x");
    assert_eq!(server.get("readings", "b", "x").await.unwrap(), super::reading("b", "x"));
    let message = "readings.example.com \"y\" not found".to_owned();
    assert_eq!(said(server.get("readings", "b", "y").await), (404, message));
}

#[tokio::test]
async fn a_list_shows_the_version_that_is_wanted() {
    let server = Server::new().await;
    fill(&server, 2).await;
    let old = server.api.store().revision();
    server.delete("widgets", "default", "w00", DeleteOptions::default()).await.unwrap();
    let (context, target) = (server.context(), server.at("widgets", "default", ""));
    let options = |version: &str, version_match: &str, limit: u64| ListOptions {
        resource_version: version.to_owned(),
        resource_version_match: version_match.to_owned(),
        limit,
        ..ListOptions::default()
    };
    let past = old.to_string();
    for (version, version_match, limit, expected) in [
        ("", "", 0, 1),
        ("0", "", 0, 1),
        ("0", "NotOlderThan", 1, 1),
        (past.as_str(), "", 0, 1),
        (past.as_str(), "NotOlderThan", 0, 1),
        (past.as_str(), "Exact", 0, 2),
        (past.as_str(), "", 5, 2),
    ] {
        let list = server.api.list(&context, &target, &options(version, version_match, limit)).await.unwrap();
        assert_eq!(list.items.len(), expected, "{version} {version_match} {limit}");
    }
    for (version, version_match, code) in
        [("", "Exact", 422), ("0", "Exact", 422), ("1", "Sideways", 422), ("x", "", 400), ("-1", "", 400)]
    {
        let result = server.api.list(&context, &target, &options(version, version_match, 0)).await;
        assert_eq!(said(result).0, code, "{version} {version_match}");
    }
    let token = ListOptions { continue_token: "!".to_owned(), ..ListOptions::default() };
    assert_eq!(said(server.api.list(&context, &target, &token).await).0, 400);
}

#[tokio::test]
async fn a_version_to_come_is_waited_for() {
    let server = Server::new().await;
    let (context, target) = (server.context(), server.at("widgets", "default", ""));
    let current = server.api.store().revision();
    let ahead = ListOptions { resource_version: (current + 1).to_string(), ..ListOptions::default() };
    let (list, created) = tokio::join!(
        server.api.list(&context, &target, &ahead),
        server.create("widgets", "default", widget("a", json!({}))),
    );
    created.unwrap();
    assert_eq!(item_names(&list.unwrap()), ["a"]);

    let error = super::super::read::too_large(7, 5);
    assert_eq!(error.message, "Timeout: Too large resource version: 7, current: 5");
    assert_eq!((error.code, error.reason), (504, "Timeout"));
    assert_eq!(error.details.unwrap().causes[0].reason, "ResourceVersionTooLarge");
}

/// Reads items until there are `count`.
async fn items(watcher: &mut Watcher, count: usize) -> Vec<(String, String)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let batch =
            tokio::time::timeout(Duration::from_secs(20), watcher.next()).await.expect("an event in time");
        for item in batch.expect("the watch goes on") {
            seen.push(match item {
                WatchItem::Object { kind, object } => (format!("{kind:?}"), object.name.to_string()),
                WatchItem::Bookmark { initial_events_end, .. } => {
                    ("Bookmark".to_owned(), initial_events_end.to_string())
                }
                WatchItem::Error(error) => ("Error".to_owned(), error.code.to_string()),
            });
        }
    }
    seen
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned())).collect()
}

#[tokio::test]
async fn a_watch_starts_where_it_is_told() {
    let server = Server::new().await;
    fill(&server, 1).await;
    let old = server.api.store().revision();
    fill(&server, 0).await;
    server.create("widgets", "default", widget("x", json!({}))).await.unwrap();
    let (context, target) = (server.context(), server.at("widgets", "default", ""));
    let from = |version: &str| ListOptions { resource_version: version.to_owned(), ..ListOptions::default() };
    let mut all = server.api.watch(&context, &target, &from("")).await.unwrap();
    assert_eq!(items(&mut all, 2).await, pairs(&[("Added", "w00"), ("Added", "x")]));
    let mut later = server.api.watch(&context, &target, &from(&old.to_string())).await.unwrap();
    assert_eq!(items(&mut later, 1).await, pairs(&[("Added", "x")]));
    let streaming = ListOptions {
        send_initial_events: Some(true),
        resource_version_match: "NotOlderThan".to_owned(),
        allow_watch_bookmarks: true,
        ..ListOptions::default()
    };
    let mut streaming = server.api.watch(&context, &target, &streaming).await.unwrap();
    assert_eq!(
        items(&mut streaming, 3).await,
        pairs(&[("Added", "w00"), ("Added", "x"), ("Bookmark", "true")])
    );
    server.delete("widgets", "default", "x", DeleteOptions::default()).await.unwrap();
    for watcher in [&mut all, &mut later, &mut streaming] {
        assert_eq!(items(watcher, 1).await, pairs(&[("Deleted", "x")]));
    }
    server.api.store().compact(server.api.store().revision()).await.unwrap();
    let mut expired = server.api.watch(&context, &target, &from(&old.to_string())).await.unwrap();
    assert_eq!(items(&mut expired, 1).await, pairs(&[("Error", "410")]));
    assert!(expired.next().await.is_none());
}

#[tokio::test]
async fn objects_enter_and_leave_a_selection() {
    let server = Server::new().await;
    let (context, target) = (server.context(), server.at("widgets", "default", ""));
    let options = ListOptions { label_selector: "on=yes".to_owned(), ..ListOptions::default() };
    let mut watcher = server.api.watch(&context, &target, &options).await.unwrap();
    server.create("widgets", "default", widget("a", json!({"size": 1}))).await.unwrap();
    let label = |value: Value| json!({"metadata": {"labels": {"on": value}}});
    server.merge("widgets", "default", "a", label("yes".into())).await.unwrap();
    server.merge("widgets", "default", "a", json!({"spec": {"size": 2}})).await.unwrap();
    let left = server.merge("widgets", "default", "a", label(Value::Null)).await.unwrap();
    server.merge("widgets", "default", "a", json!({"spec": {"size": 3}})).await.unwrap();
    server.merge("widgets", "default", "a", label("yes".into())).await.unwrap();
    server.delete("widgets", "default", "a", DeleteOptions::default()).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 5 {
        for item in watcher.next().await.unwrap() {
            let WatchItem::Object { kind, object } = item else { panic!("{item:?}") };
            seen.push((kind, serde_json::from_slice::<Value>(&object.json).unwrap(), object.revision));
        }
    }
    let kinds: Vec<_> = seen.iter().map(|(kind, ..)| *kind).collect();
    use EventKind::{Added, Deleted, Modified};
    assert_eq!(kinds, [Added, Modified, Deleted, Added, Deleted]);
    let (_, gone, revision) = &seen[2];
    assert_eq!(gone["metadata"]["labels"]["on"], "yes", "the last state that matched");
    assert_eq!((version(gone), *revision), (version(&left), version(&left)), "at the version of the change");
}

#[tokio::test]
async fn a_watch_ends_in_time() {
    let server = Server::new().await;
    let (context, target) = (server.context(), server.at("widgets", "default", ""));
    let options = ListOptions { timeout: Some(Duration::from_millis(20)), ..ListOptions::default() };
    let mut watcher = server.api.watch(&context, &target, &options).await.unwrap();
    assert!(watcher.next().await.is_none());
}

#[test]
fn tokens_survive_the_round_trip_and_hostile_ones_are_refused() {
    use super::super::read::Token;
    let stored = |namespace: &str, name: &str| crate::store::Stored {
        namespace: namespace.into(),
        name: name.into(),
        revision: 1,
        created_revision: 1,
        json: bytes::Bytes::new(),
    };
    for (namespace, name) in [("", "a"), ("ns", "a.b")] {
        let token = Token::after(7, &stored(namespace, name));
        let read = Token::decode(&token.encode()).unwrap();
        assert_eq!(read, token);
        assert_eq!(read.position(), (namespace, name));
    }
    for hostile in
        ["", "a", "e30", "bnVsbA", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MCwic3RhcnQiOiJhIn0", "\u{1f980}"]
    {
        assert_eq!(Token::decode(hostile).unwrap_err().code, 400, "{hostile:?}");
    }
}
