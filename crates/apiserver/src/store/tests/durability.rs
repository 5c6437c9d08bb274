use std::os::unix::fs::PermissionsExt;

use super::*;

#[tokio::test]
async fn concurrent_writers_of_one_object_take_turns() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.commit(put("a", "counter", Expect::Absent, "0")).await.unwrap();
    let mut watch = store.watch(PODS, None, 2).unwrap();
    let writers = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..25 {
                loop {
                    let current = store.get(PODS, "a", "counter").unwrap();
                    let next = value(&current).parse::<u32>().unwrap() + 1;
                    let write = put("a", "counter", Expect::Revision(current.revision), &next.to_string());
                    match store.commit(write).await {
                        Ok(_) => break,
                        Err(CommitError::Changed(Some(_))) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(value(&store.get(PODS, "a", "counter").unwrap()), "200");
    let mut counted = Vec::new();
    while counted.len() < 200 {
        counted.extend(soon(watch.next()).await.unwrap().iter().map(|event| value(&event.object)));
    }
    assert_eq!(counted, (1..=200).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_second_server_is_refused_until_the_first_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let refused = Store::open(options(directory.path())).unwrap_err();
    assert!(
        matches!(&refused, OpenError::Locked { process: Some(process), .. } if *process == std::process::id())
    );
    assert_eq!(
        refused.to_string(),
        format!(
            "another server (process {}) uses the state in `{}`",
            std::process::id(),
            directory.path().display()
        )
    );
    store.close().await;
    open(directory.path());
}

#[tokio::test]
async fn nobody_else_can_read_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    let store = open(&state);
    store.commit(put("a", "x", Expect::Absent, "1")).await.unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&state).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(mode(&entry.path()), 0o600, "{:?}", entry.path());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["lock", "state.db", "state.db-shm", "state.db-wal"]);
    store.close().await;
    assert!(!state.join("state.db-wal").exists());
}

#[tokio::test]
async fn the_state_of_a_newer_version_is_refused_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.commit(put("a", "x", Expect::Absent, "1")).await.unwrap();
    store.close().await;
    let path = directory.path().join(database::FILE);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA user_version = 2; CREATE TABLE later (x)").unwrap();
    drop(connection);
    let before = std::fs::read(&path).unwrap();
    let refused = Store::open(options(directory.path())).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 2, supported: 1, .. }), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(!directory.path().join("state.db-wal").exists());
}

/// A newer version that ended before it wrote its header back.
#[tokio::test]
async fn a_newer_version_in_the_write_ahead_log_is_refused_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).close().await;
    let path = directory.path().join(database::FILE);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA user_version = 2; CREATE TABLE later (x)").unwrap();
    let wal = directory.path().join("state.db-wal");
    let crashed = tempfile::tempdir().unwrap();
    for file in [&path, &wal] {
        std::fs::copy(file, crashed.path().join(file.file_name().unwrap())).unwrap();
    }
    let read = || ["state.db", "state.db-wal"].map(|name| std::fs::read(crashed.path().join(name)).unwrap());
    let before = read();
    assert_eq!(before[0][60..64], [0, 0, 0, 1]);
    let refused = Store::open(options(crashed.path())).unwrap_err();
    assert!(matches!(refused, OpenError::Newer { found: 2, .. }), "{refused}");
    assert!(read() == before);
}

#[test]
fn a_file_of_another_kind_is_refused_and_not_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(database::FILE);
    std::fs::write(&path, "no database").unwrap();
    assert!(matches!(Store::open(options(directory.path())), Err(OpenError::Foreign { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"no database");
    std::fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    assert!(matches!(Store::open(options(directory.path())), Err(OpenError::Foreign { .. })));
}

#[test]
fn a_start_that_was_cut_off_is_made_up_for() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("state.db"), "").unwrap();
    std::fs::write(directory.path().join("state.db.new"), "half a database").unwrap();
    std::fs::write(directory.path().join("state.db.new-wal"), "half a log").unwrap();
    assert_eq!(open(directory.path()).revision(), 1);
    assert!(!directory.path().join("state.db.new").exists());
}

/// Copies the files of a running store, as they would be after the power failed.
fn crash(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["state.db", "state.db-wal"] {
        std::fs::copy(directory.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

/// A checkpoint overwrites the database before it is synced; until then the write-ahead log has all of it.
#[tokio::test]
async fn a_header_that_a_checkpoint_left_torn_is_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for index in 0..12 {
        store.commit(put("a", &format!("{index:02}"), Expect::Absent, &"x".repeat(7000))).await.unwrap();
    }
    let crashed = crash(directory.path());
    let path = crashed.path().join("state.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..512].fill(0x5a);
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(open(crashed.path()).list(PODS, None).items.len(), 12);

    // Without the log nothing says whose file it is.
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("state.db"), [0x5a; 8192]).unwrap();
    assert!(matches!(Store::open(options(other.path())), Err(OpenError::Foreign { .. })));
}

#[tokio::test]
async fn a_torn_end_of_the_log_loses_nothing_that_was_committed_before() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let wal = directory.path().join("state.db-wal");
    let mut sizes = Vec::new();
    for index in 0..12 {
        store.commit(put("a", &format!("{index:02}"), Expect::Absent, &"x".repeat(700))).await.unwrap();
        sizes.push(wal.metadata().unwrap().len());
    }
    // Cut anywhere within the last commit, or overwrite its end: all before it are there, and it is whole or gone.
    let (before, after) = (sizes[10], sizes[11]);
    for cut in [before, before + 1, before + 24, (before + after) / 2, after - 1, after] {
        for garble in [false, true] {
            let crashed = crash(directory.path());
            let path = crashed.path().join("state.db-wal");
            let mut bytes = std::fs::read(&path).unwrap();
            let cut = usize::try_from(cut).unwrap();
            if garble {
                bytes[cut..].fill(0xA5);
            } else {
                bytes.truncate(cut);
            }
            std::fs::write(&path, bytes).unwrap();
            let store = open(crashed.path());
            let expected = if cut as u64 == after { 12 } else { 11 };
            assert_eq!(
                store.list(PODS, None).items.len(),
                expected,
                "cut at {cut} of {after}, garbled: {garble}"
            );
            assert_eq!(store.revision(), expected as u64 + 1);
            let next = store.commit(put("b", "next", Expect::Absent, "x")).await.unwrap();
            assert_eq!(next.revision, expected as u64 + 2);
            store.close().await;
            assert_eq!(check(crashed.path()).unwrap().faults, Vec::<String>::new());
        }
    }
}

#[tokio::test]
async fn revisions_go_on_when_everything_was_removed_and_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = store.commit(put("a", "x", Expect::Absent, "1")).await.unwrap();
    store.commit(delete("a", "x", first.revision)).await.unwrap();
    assert_eq!(store.compact(u64::MAX).await.unwrap(), 3);
    store.close().await;
    assert_eq!(check(directory.path()).unwrap().rows, 0);
    let store = open(directory.path());
    assert_eq!((store.revision(), store.oldest_revision()), (3, 3));
    assert_eq!(store.last_changed(PODS), 3);
    assert_eq!(store.watch(PODS, None, 2).unwrap_err(), HistoryError::Compacted { oldest: 3 });
    assert_eq!(store.commit(put("a", "x", Expect::Absent, "2")).await.unwrap().revision, 4);
}

#[tokio::test]
async fn history_is_forgotten_by_count_while_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let mut options = options(directory.path());
    options.history.max_events = 100;
    let store = Store::open(options).unwrap();
    let mut revision = store.commit(put("a", "x", Expect::Absent, "0")).await.unwrap().revision;
    for round in 0..20 {
        let writes =
            (0..64).map(|index| store.commit(put("b", &format!("{round}-{index}"), Expect::Absent, "v")));
        let written = futures::future::join_all(writes).await;
        revision = revision.max(written.into_iter().map(|result| result.unwrap().revision).max().unwrap());
    }
    assert_eq!(revision, 1282);
    // The writer forgets after it has answered; it is idle when this is answered.
    let oldest = soon(store.compact(0)).await.unwrap();
    assert!((513..=1182).contains(&oldest), "{oldest}");
    assert_eq!(store.list(PODS, None).items.len(), 1281);
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_is_got_over() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let kept = store.commit(put("a", "kept", Expect::Absent, "1")).await.unwrap();
    store.close().await;

    // The same as a full disk to SQLite: no page can be added.
    let store = open(directory.path());
    store.limit_pages(12).await;
    let large = "x".repeat(100_000);
    let (failed, small) = tokio::join!(
        store.commit(put("a", "large", Expect::Absent, &large)),
        store.commit(put("a", "small", Expect::Absent, "1")),
    );
    assert!(matches!(failed, Err(CommitError::Full(_))), "{failed:?}");
    let small = small.unwrap();
    assert_eq!(store.revision(), small.revision);
    assert_eq!(store.get(PODS, "a", "kept").unwrap(), kept);
    assert_eq!(store.get(PODS, "a", "large"), None);
    let mut watch = store.watch(PODS, None, kept.revision).unwrap();
    assert_eq!(soon(watch.next()).await.unwrap()[0].object, small);

    store.limit_pages(1_000_000).await;
    let large = store.commit(put("a", "large", Expect::Absent, &large)).await.unwrap();
    assert_eq!(large.revision, small.revision + 1);
    store.close().await;
    let store = open(directory.path());
    assert_eq!(store.list(PODS, None).items, [kept, large, small]);
}

#[tokio::test]
async fn a_connection_that_failed_is_replaced_and_nothing_is_lost_or_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = store.commit(put("a", "1", Expect::Absent, "1")).await.unwrap();
    let mut watch = store.watch(PODS, None, 1).unwrap();
    assert_eq!(soon(watch.next()).await.unwrap()[0].object, first);
    // As if the fsync of a commit had failed although the disk has it: the log is ahead of the memory.
    store.lose_connection(Some("lost")).await;
    let second = store.commit(put("a", "2", Expect::Absent, "2")).await.unwrap();
    assert_eq!(second.revision, 4);
    let mut revisions = Vec::new();
    while revisions.len() < 2 {
        revisions.extend(soon(watch.next()).await.unwrap().iter().map(|event| event.revision));
    }
    assert_eq!(revisions, [3, 4]);
    assert_eq!(values(&store.list(PODS, None)), named(&[("a/1", "1"), ("a/2", "2"), ("a/lost", "lost")]));
}

#[tokio::test]
async fn what_waits_when_the_store_is_closed_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let writes: Vec<_> =
        (0..300).map(|index| store.commit(put("a", &index.to_string(), Expect::Absent, "v"))).collect();
    let (results, ()) = tokio::join!(futures::future::join_all(writes), store.close());
    let done = results.iter().filter(|result| result.is_ok()).count();
    for result in results {
        assert!(matches!(result, Ok(_) | Err(CommitError::Closed)));
    }
    assert_eq!(open(directory.path()).list(PODS, None).items.len(), done);
}

#[tokio::test]
async fn writes_fail_while_the_state_cannot_be_written_and_succeed_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = store.commit(put("a", "1", Expect::Absent, "1")).await.unwrap();
    // Any fault that is not a lack of space; this one can be undone.
    let other = rusqlite::Connection::open(directory.path().join(database::FILE)).unwrap();
    other.execute_batch("ALTER TABLE log RENAME TO hidden").unwrap();
    for _ in 0..2 {
        let failed = store.commit(put("a", "2", Expect::Absent, "2")).await;
        assert!(matches!(failed, Err(CommitError::Unavailable(_))), "{failed:?}");
        // What is in memory is still served.
        assert_eq!(store.list(PODS, None).items, std::slice::from_ref(&first));
    }
    other.execute_batch("ALTER TABLE hidden RENAME TO log").unwrap();
    let second = store.commit(put("a", "2", Expect::Absent, "2")).await.unwrap();
    assert_eq!(second.revision, first.revision + 1);
    store.close().await;
    assert_eq!(open(directory.path()).list(PODS, None).items, [first, second]);
}
