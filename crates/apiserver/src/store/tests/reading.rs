use super::*;

#[test]
fn an_object_is_encoded_with_its_revision_and_the_usual_fields_first() {
    let text = |object: Value, revision| {
        String::from_utf8(Encoded::new(&object).unwrap().at_revision(revision).to_vec()).unwrap()
    };
    assert_eq!(
        text(
            json!({"spec": {}, "metadata": {"name": "a", "resourceVersion": "1"}, "kind": "K", "apiVersion": "v1"}),
            9
        ),
        r#"{"apiVersion":"v1","kind":"K","metadata":{"resourceVersion":"9","name":"a"},"spec":{}}"#
    );
    assert_eq!(text(json!({"metadata": {}}), 10), r#"{"metadata":{"resourceVersion":"10"}}"#);
    assert_eq!(Encoded::new(&json!([])), Err(EncodeError::NotAnObject));
    assert_eq!(Encoded::new(&json!({"metadata": null})), Err(EncodeError::NoMetadata));
}

#[test]
fn what_is_logged_of_an_object_is_not_its_content() {
    let write = put("a", "b", Expect::Absent, "secret");
    assert!(!format!("{write:?}").contains("secret"), "{write:?}");
}

#[tokio::test]
async fn writes_are_judged_by_what_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    assert_eq!(store.revision(), 1);
    let first = store.commit(put("a", "x", Expect::Absent, "1")).await.unwrap();
    assert_eq!((first.revision, first.created_revision, value(&first).as_str()), (2, 2, "1"));

    let exists = store.commit(put("a", "x", Expect::Absent, "2")).await.unwrap_err();
    assert!(matches!(exists, CommitError::Exists(current) if current == first));
    let changed = store.commit(put("a", "x", Expect::Revision(1), "2")).await.unwrap_err();
    assert!(matches!(changed, CommitError::Changed(Some(current)) if current == first));
    let gone = store.commit(put("a", "y", Expect::Revision(2), "2")).await.unwrap_err();
    assert!(matches!(gone, CommitError::Changed(None)));
    let gone = store.commit(delete("b", "x", 2)).await.unwrap_err();
    assert!(matches!(gone, CommitError::Changed(None)));
    assert_eq!(store.revision(), 2);

    let second = store.commit(put("a", "x", Expect::Revision(2), "2")).await.unwrap();
    assert_eq!((second.revision, second.created_revision), (3, 2));
    assert_eq!(store.get(PODS, "a", "x").unwrap(), second);
    let last = store.commit(delete("a", "x", 3)).await.unwrap();
    assert_eq!((last.revision, last.created_revision, value(&last).as_str()), (4, 2, "last"));
    assert_eq!(store.get(PODS, "a", "x"), None);
    assert_eq!(store.last_changed(PODS), 4);
    let again = store.commit(put("a", "x", Expect::Absent, "3")).await.unwrap();
    assert_eq!((again.revision, again.created_revision), (5, 5));

    let mut misnamed = put("a", "x", Expect::Revision(5), "4");
    misnamed.name = "y".into();
    assert!(matches!(store.commit(misnamed).await, Err(CommitError::Unavailable(_))));
}

#[tokio::test]
async fn one_refused_write_does_not_fail_its_group() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    // All are queued before the first one is awaited, and each is judged by what those before it do.
    let mut writes = Vec::new();
    for round in 0..50 {
        writes.push(put("a", "x", Expect::Absent, &round.to_string()));
        writes.push(put("a", &format!("own-{round:02}"), Expect::Absent, "own"));
    }
    let results = futures::future::join_all(writes.into_iter().map(|write| store.commit(write))).await;
    for (index, result) in results.iter().enumerate() {
        match (index, result) {
            (0, Ok(_)) => {}
            (index, Err(CommitError::Exists(current))) if index % 2 == 0 => assert_eq!(value(current), "0"),
            (index, Ok(_)) if index % 2 == 1 => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.list(PODS, None).items.len(), 51);
    assert_eq!(store.revision(), 52);
}

#[tokio::test]
async fn lists_are_ordered_and_paged() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for (namespace, name) in [("b", "1"), ("a", "2"), ("a", "1"), ("c", "1"), ("", "z"), ("a-b", "0")] {
        store.commit(put(namespace, name, Expect::Absent, "v")).await.unwrap();
    }
    let names = |listing: Listing| -> Vec<String> {
        assert_eq!(listing.revision, 7);
        listing.items.iter().map(|item| format!("{}/{}", item.namespace, item.name)).collect()
    };
    assert_eq!(names(store.list(PODS, None)), ["/z", "a/1", "a/2", "a-b/0", "b/1", "c/1"]);
    assert_eq!(names(store.list(PODS, Some("a"))), ["a/1", "a/2"]);
    assert_eq!(names(store.list(PODS, Some(""))), ["/z"]);
    assert!(names(store.list("/core/secrets/", None)).is_empty());
    let from = |namespace, after, max| names(store.list_from(PODS, namespace, after, max));
    assert_eq!(from(None, None, 2), ["/z", "a/1"]);
    assert_eq!(from(None, Some(("a", "1")), 2), ["a/2", "a-b/0"]);
    assert_eq!(from(None, Some(("a", "9")), 9), ["a-b/0", "b/1", "c/1"]);
    assert_eq!(from(None, Some(("aa", "")), 1), ["b/1"]);
    assert_eq!(from(Some("a"), Some(("a", "1")), 9), ["a/2"]);
    assert!(from(Some("a"), Some(("b", "0")), 9).is_empty());
    assert_eq!(from(Some("b"), Some(("a", "2")), 9), ["b/1"]);
}

#[tokio::test]
async fn a_watch_is_woken_and_hands_out_each_change_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut all = store.watch(PODS, None, 1).unwrap();
    let mut other = store.watch(PODS, Some("b".into()), 1).unwrap();
    // A call that is dropped loses nothing.
    assert!(futures::poll!(Box::pin(all.next())).is_pending());

    let (waited, _) = soon(async {
        tokio::join!(all.next(), async {
            store.commit(put("a", "x", Expect::Absent, "1")).await.unwrap();
        })
    })
    .await;
    let events = waited.unwrap();
    assert_eq!((events.len(), events[0].kind, events[0].revision), (1, EventKind::Added, 2));
    assert_eq!((all.progress(), other.progress()), (2, 2));

    store.commit(put("a", "x", Expect::Revision(2), "2")).await.unwrap();
    assert_eq!((all.progress(), other.progress()), (2, 3));
    store.commit(delete("a", "x", 3)).await.unwrap();
    store.commit(put("b", "y", Expect::Absent, "1")).await.unwrap();
    assert_eq!((all.progress(), other.progress()), (2, 1.max(other.progress())));
    let events = soon(all.next()).await.unwrap();
    let kinds: Vec<_> = events.iter().map(|event| (event.kind, event.revision)).collect();
    assert_eq!(kinds, [(EventKind::Modified, 3), (EventKind::Deleted, 4), (EventKind::Added, 5)]);
    assert_eq!(value(events[1].previous.as_ref().unwrap()), "2");
    assert_eq!(all.progress(), 5);
    let events = soon(other.next()).await.unwrap();
    assert_eq!(events.iter().map(|event| event.revision).collect::<Vec<_>>(), [5]);

    // What was written before the end is handed out before the end.
    store.commit(put("b", "y", Expect::Revision(5), "2")).await.unwrap();
    store.close().await;
    assert_eq!(soon(other.next()).await.unwrap()[0].revision, 6);
    assert_eq!(soon(other.next()).await, Err(WatchError::Closed));
    assert!(matches!(store.commit(put("b", "z", Expect::Absent, "")).await, Err(CommitError::Closed)));
    assert!(matches!(store.compact(5).await, Err(CommitError::Closed)));
}

#[tokio::test]
async fn a_watch_that_falls_behind_is_ended_and_one_that_begins_in_the_past_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(directory.path());
    options.history.window_events = 10;
    let store = Store::open(options).unwrap();
    let mut slow = store.watch(PODS, None, 1).unwrap();
    store.commit(put("a", "x", Expect::Absent, "0")).await.unwrap();
    assert_eq!(soon(slow.next()).await.unwrap().len(), 1);
    for revision in 2..=40 {
        store.commit(put("a", "x", Expect::Revision(revision), "v")).await.unwrap();
    }
    assert_eq!(slow.progress(), 2);
    assert_eq!(soon(slow.next()).await, Err(WatchError::Expired { oldest: 31 }));

    let mut resumed = store.watch(PODS, None, 2).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 39 {
        let events = soon(resumed.next()).await.unwrap();
        seen.extend(events.iter().map(|event| event.revision));
    }
    assert_eq!(seen, (3..=41).collect::<Vec<_>>());
    assert_eq!(store.watch(PODS, None, 42).unwrap_err(), HistoryError::Future { current: 41 });
    assert_eq!(soon(store.compact(20)).await.unwrap(), 20);
    assert_eq!(store.watch(PODS, None, 19).unwrap_err(), HistoryError::Compacted { oldest: 20 });
    assert_eq!(soon(store.list_at(PODS, None, 19)).await, Err(HistoryError::Compacted { oldest: 20 }));
    // Nothing of this kind ever changed, so that its past is known.
    assert!(store.watch("/core/secrets/", None, 1).is_ok());
}

#[tokio::test]
async fn a_watch_resumed_on_the_disk_is_ended_when_that_is_compacted() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(directory.path());
    options.history.window_events = 1;
    let store = Store::open(options).unwrap();
    store.commit(put("a", "x", Expect::Absent, "0")).await.unwrap();
    for revision in 2..=5 {
        store.commit(put("a", "x", Expect::Revision(revision), "v")).await.unwrap();
    }
    let mut watch = store.watch(PODS, None, 2).unwrap();
    soon(store.compact(4)).await.unwrap();
    assert_eq!(soon(watch.next()).await, Err(WatchError::Expired { oldest: 4 }));
}

#[tokio::test]
async fn waiting_for_a_revision_ends_with_it_or_with_the_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    assert!(store.wait_for(1, Duration::ZERO).await);
    assert!(!store.wait_for(2, Duration::from_millis(1)).await);
    let waiting = store.wait_for(2, Duration::from_secs(30));
    let (reached, _) = tokio::join!(waiting, store.commit(put("a", "x", Expect::Absent, "1")));
    assert!(reached);
}

#[tokio::test]
async fn the_window_is_bounded_in_bytes_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(directory.path());
    options.history.window_bytes = 10_000;
    let store = Store::open(options).unwrap();
    let long = "x".repeat(3000);
    for index in 0..10 {
        store.commit(put("a", &index.to_string(), Expect::Absent, &long)).await.unwrap();
    }
    assert_eq!(store.cache.read().prefix(PODS).unwrap().window_start, 8);
    let listing = soon(store.list_at(PODS, None, 4)).await.unwrap();
    assert_eq!(listing.items.len(), 3);
}
