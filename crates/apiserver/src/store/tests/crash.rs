//! Killing a process that writes, again and again, and looking at what it left.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;

const CHILD: &str = "store::tests::crash::writes_until_it_is_killed";

/// Not a test: what [`crash_and_look`] starts. It is told a directory, and says what was acknowledged.
#[tokio::test]
#[ignore = "started by another test, with a directory on its standard input"]
async fn writes_until_it_is_killed() {
    let mut directory = String::new();
    std::io::stdin().read_line(&mut directory).unwrap();
    let mut options = options(Path::new(directory.trim_end()));
    // Checkpoints and compaction are killed, too.
    options.history.max_events = 100_000;
    let store = Store::open(options).unwrap();
    let tasks = (0..6_usize).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0_usize.. {
                let name = format!("{task}-{}", round % 5);
                let value = format!("{round}-{}", "x".repeat((round * 37 + task * 311) % 3000));
                let current = store.get(PODS, "a", &name).map(|current| current.revision);
                let write = match current {
                    Some(revision) if round % 7 == 3 => delete("a", &name, revision),
                    Some(revision) => put("a", &name, Expect::Revision(revision), &value),
                    None => put("a", &name, Expect::Absent, &value),
                };
                let stored = store.commit(write).await.unwrap();
                // One call, so that a line is whole or not there.
                let line = format!("ack {} {}\n", stored.revision, self::value(&stored));
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            }
        })
    });
    futures::future::join_all(tasks.collect::<Vec<_>>()).await;
}

/// Kills a writer after about so many acknowledgements; what it acknowledged, by revision.
fn write_and_kill(directory: &Path, acknowledgements: u64) -> BTreeMap<u64, String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--ignored", "--nocapture", "--test-threads=1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{}", directory.display()).unwrap();
    let mut acknowledged = BTreeMap::new();
    let mut is_killed = false;
    let started = Instant::now();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["ack", revision, value] = words[..] {
            acknowledged.insert(revision.parse().unwrap(), value.to_owned());
        }
        let enough = acknowledged.len() as u64 >= acknowledgements;
        if (enough || started.elapsed() > Duration::from_secs(30)) && !is_killed {
            child.kill().unwrap();
            is_killed = true;
        }
    }
    child.wait().unwrap();
    assert!(is_killed, "the writer ended by itself");
    acknowledged
}

async fn crash_and_look(rounds: u64) {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 0..rounds {
        acknowledged.extend(write_and_kill(directory.path(), (round * 7919) % 613 + 1));

        assert_eq!(check(directory.path()).unwrap().faults, Vec::<String>::new(), "round {round}");
        let mut options = options(directory.path());
        options.history.max_events = u64::MAX;
        let store = Store::open(options).unwrap();
        let oldest = store.oldest_revision();
        let mut watch = store.watch(PODS, None, oldest).unwrap();
        let mut seen = oldest;
        while seen < store.revision() {
            for event in soon(watch.next()).await.unwrap() {
                // No gap and no repeat.
                seen += 1;
                assert_eq!(event.revision, seen);
                if let Some(expected) = acknowledged.remove(&seen) {
                    assert_eq!(value(&event.object), expected);
                }
            }
        }
        acknowledged.retain(|revision, _| *revision > oldest);
        assert_eq!(acknowledged, BTreeMap::new(), "acknowledged and lost in round {round}");
        soon(store.compact(seen.saturating_sub(50))).await.unwrap();
        soon(store.close()).await;
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_the_process() {
    crash_and_look(5).await;
}

#[tokio::test]
#[ignore = "takes minutes; for the long mode"]
async fn what_was_acknowledged_survives_the_process_three_hundred_times() {
    crash_and_look(300).await;
}
