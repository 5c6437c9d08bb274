use std::os::unix::fs::PermissionsExt;

use super::*;

async fn filled(directory: &Path) -> Store {
    let store = open(directory);
    for index in 0..40 {
        store.commit(put("a", &format!("{index:02}"), Expect::Absent, &"v".repeat(500))).await.unwrap();
    }
    store.commit(delete("a", "07", 9)).await.unwrap();
    store
}

#[tokio::test]
async fn a_backup_of_a_running_store_is_one_file_that_can_be_restored() {
    let directory = tempfile::tempdir().unwrap();
    let store = filled(directory.path()).await;
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> =
        std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["copy.db"]);
    assert!(matches!(store.backup(&copy).await, Err(BackupError::Exists { .. })));
    let now = store.list(PODS, None);
    // The store still has its locks, and goes on.
    store.commit(put("a", "later", Expect::Absent, "v")).await.unwrap();

    let other = tempfile::tempdir().unwrap();
    let restored = restore(&copy, other.path(), Existing::Refuse).unwrap();
    assert_eq!((restored.report.objects, restored.set_aside), (39, None));
    let again = open(other.path());
    assert_eq!(again.list(PODS, None).items, now.items);
    assert_eq!(again.revision(), now.revision + 1_000_000_000);
    assert_eq!(restored.revision, again.revision());
    // Every client has to list anew.
    assert!(matches!(again.watch(PODS, None, now.revision), Err(HistoryError::Compacted { .. })));
    again.close().await;
    assert_eq!(check(other.path()).unwrap().faults, Vec::<String>::new());
}

#[tokio::test]
async fn a_restore_replaces_a_state_only_when_told_and_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = filled(directory.path()).await;
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    let later = store.commit(put("a", "later", Expect::Absent, "v")).await.unwrap();

    let running = restore(&copy, directory.path(), Existing::SetAside).unwrap_err();
    assert!(matches!(running, RestoreError::Directory(OpenError::Locked { .. })), "{running}");
    store.close().await;
    let holds = restore(&copy, directory.path(), Existing::Refuse).unwrap_err();
    assert!(matches!(holds, RestoreError::HoldsState { .. }), "{holds}");

    let restored = restore(&copy, directory.path(), Existing::SetAside).unwrap();
    assert!(restored.revision > later.revision);
    let store = open(directory.path());
    assert_eq!(store.get(PODS, "a", "later"), None);
    assert_eq!(store.list(PODS, None).items.len(), 39);
    store.close().await;
    let aside = open(&restored.set_aside.unwrap());
    assert_eq!(aside.get(PODS, "a", "later").unwrap(), later);
}

#[tokio::test]
async fn a_state_that_cannot_be_read_is_set_aside_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = filled(directory.path()).await;
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    store.close().await;
    std::fs::write(directory.path().join("state.db"), "nonsense").unwrap();
    std::fs::write(directory.path().join("state.db-wal"), "its log").unwrap();
    let restored = restore(&copy, directory.path(), Existing::SetAside).unwrap();
    let aside = restored.set_aside.unwrap();
    assert_eq!(std::fs::read(aside.join("state.db")).unwrap(), b"nonsense");
    assert_eq!(std::fs::read(aside.join("state.db-wal")).unwrap(), b"its log");
    assert_eq!(open(directory.path()).list(PODS, None).items.len(), 39);
}

#[tokio::test]
async fn a_check_reports_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(check(directory.path()), Err(OpenError::Missing { .. })));
    let store = filled(directory.path()).await;
    // While it runs, too.
    let report = check(directory.path()).unwrap();
    assert_eq!((report.objects, report.rows, report.revision, report.floor), (39, 41, 42, 1));
    assert_eq!(report.faults, Vec::<String>::new());
    store.compact(20).await.unwrap();
    store.close().await;

    let path = directory.path().join("state.db");
    let whole = std::fs::read(&path).unwrap();
    let faults_after = |sql: &str| {
        std::fs::write(&path, &whole).unwrap();
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        check(directory.path()).unwrap().faults
    };
    let table = [
        ("UPDATE log SET json = substr(json, 1, 20) WHERE revision = 30", "its JSON cannot be read"),
        ("UPDATE log SET name = 'other' WHERE revision = 30", "its JSON says `a/28` at `30`"),
        ("UPDATE log SET revision = 100 WHERE revision = 30", "created at 30"),
        ("UPDATE log SET kind = 7 WHERE revision = 30", "its kind is unknown"),
        ("DELETE FROM log WHERE revision = 9", "it follows 9, which is not there"),
        ("UPDATE meta SET value = 42", "it should have been forgotten, as history begins at 42"),
    ];
    assert_eq!(faults_after("SELECT 1"), Vec::<String>::new());
    for (sql, fault) in table {
        let faults = faults_after(sql);
        assert!(faults.iter().any(|found| found.contains(fault)), "{sql}: {faults:?}");
    }
}

#[tokio::test]
async fn a_damaged_file_is_reported_and_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path()).await.close().await;
    let path = directory.path().join("state.db");
    let mut bytes = std::fs::read(&path).unwrap();
    // All pages but those of the schema and the two tables' roots.
    bytes[4 * 4096..].fill(0x5A);
    std::fs::write(&path, bytes).unwrap();
    let report = check(directory.path()).unwrap();
    assert!(!report.faults.is_empty());
    let refused = Store::open(options(directory.path())).unwrap_err();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
    let place = tempfile::tempdir().unwrap();
    let refused = restore(&path, place.path(), Existing::Refuse).unwrap_err();
    assert!(matches!(refused, RestoreError::Damaged { .. }), "{refused}");
    assert!(!place.path().join("state.db").exists());
}
