//! The power fails at any moment: whatever was written and not synced is lost, or kept, or half of it is.
//!
//! No machine is switched off. A process that writes to the store runs under strace, which gives every write, sync and
//! acknowledgement in the order in which they happened. From that, states are made that a disk may be in at a moment of
//! it: of each file, what was synced before, and of every later write either all, nothing, or some of its 512-byte sectors,
//! or garbage in them. Each state is opened and must have everything that was acknowledged before the moment.
//!
//! What this stands for, and what not: files' contents are as bad as a disk may leave them. Names are not: making,
//! renaming and removing files happens at once and in order. Nor are disks that lie about a sync. The process writes
//! through the store that the server uses, not through HTTP, because its acknowledgements must be in the same record.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use apiserver::store::{Change, Encoded, Expect, HistoryLimits, Store, StoreOptions, Write, check};
use serde_json::{Value, json};

use crate::client::runtime;
use crate::random::{Random, number};

const PREFIX: &str = "/core/configmaps/";
const COMMITS: u64 = 260;
const NAMES: u64 = 12;
const SECTOR: usize = 512;

fn open(directory: &Path) -> Store {
    Store::open(StoreOptions { directory: directory.into(), history: HistoryLimits::default() }).unwrap()
}

/// What the commit number `number` writes; nothing for a removal.
fn written(number: u64) -> Option<String> {
    let length = usize::try_from(number.wrapping_mul(7919) % 48_000).unwrap();
    (number % 9 != 8).then(|| format!("{number}:{}", "x".repeat(length)))
}

/// Not a test: what the test below runs under strace, in the directory that it is told.
#[test]
#[ignore = "started by another test, with a directory in its environment"]
fn writes_and_says_so() {
    let Some(directory) = std::env::var_os("FERROVIRT_TEST_DIRECTORY") else { return };
    let acknowledge = |line: String| std::io::stdout().write_all(line.as_bytes()).unwrap();
    runtime().block_on(async {
        let store = open(Path::new(&directory));
        for number in 0..COMMITS {
            let name = (number % NAMES).to_string();
            let current = store.get(PREFIX, "a", &name).map(|current| current.revision);
            let value = written(number);
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": "a"}, "value": value});
            let encoded = Encoded::new(&object).unwrap();
            let change = match (&value, current) {
                (None, Some(_)) => Change::Delete(encoded),
                (None, None) => continue,
                _ => Change::Put(encoded),
            };
            let expect = current.map_or(Expect::Absent, Expect::Revision);
            let write = Write { prefix: PREFIX.into(), namespace: "a".into(), name, expect, change };
            let stored = store.commit(write).await.unwrap();
            acknowledge(format!("acknowledged {} {number}\n", stored.revision));
            if number % 60 == 59 {
                store.compact(stored.revision - 20).await.unwrap();
            }
        }
        store.close().await;
    });
}

/// One thing that happened.
enum Step {
    Write {
        path: PathBuf,
        at: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        path: PathBuf,
        length: usize,
    },
    Sync {
        path: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// Revision and number of a commit.
    Acknowledge(u64, u64),
}

/// Reads strace's record. A write counts from its beginning, a sync from its end.
fn read_record(record: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut syncing: BTreeMap<&str, PathBuf> = BTreeMap::new();
    for line in record.lines() {
        let (thread, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        if call.starts_with("<... f") && call.contains("sync resumed") {
            assert!(call.ends_with("= 0"), "{call}");
            steps.push(Step::Sync { path: syncing.remove(thread).unwrap() });
            continue;
        }
        let Some((name, arguments)) = call.split_once('(') else { continue };
        match name {
            "pwrite64" => {
                let (path, rest) = descriptor(arguments);
                let (bytes, rest) = text(rest);
                let at = rest.split([',', ')', ' ']).filter(|word| !word.is_empty()).nth(1).unwrap();
                steps.push(Step::Write { path, at: at.parse().unwrap(), bytes });
            }
            "write" => {
                let (_, rest) = descriptor(arguments);
                let line = String::from_utf8(text(rest).0).unwrap_or_default();
                if let ["acknowledged", revision, number] = line.split_whitespace().collect::<Vec<_>>()[..] {
                    steps.push(Step::Acknowledge(revision.parse().unwrap(), number.parse().unwrap()));
                }
            }
            "ftruncate" => {
                let (path, rest) = descriptor(arguments);
                let length = rest.trim_start_matches([',', ' ']).split([')', ' ']).next().unwrap();
                steps.push(Step::Truncate { path, length: length.parse().unwrap() });
            }
            "fsync" | "fdatasync" => {
                let path = descriptor(arguments).0;
                if call.ends_with("<unfinished ...>") {
                    syncing.insert(thread, path);
                } else {
                    assert!(call.ends_with("= 0"), "{call}");
                    steps.push(Step::Sync { path });
                }
            }
            "unlink" if call.ends_with("= 0") => {
                steps.push(Step::Remove { path: path_of(text(arguments).0) })
            }
            "rename" if call.ends_with("= 0") => {
                let (from, rest) = text(arguments);
                steps.push(Step::Rename { from: path_of(from), to: path_of(text(rest).0) });
            }
            _ => {}
        }
    }
    steps
}

/// `3<\x2f…>, …`: the path, and what follows.
fn descriptor(arguments: &str) -> (PathBuf, &str) {
    let (_, rest) = arguments.split_once('<').unwrap();
    let (path, rest) = rest.split_once('>').unwrap();
    (path_of(unescape(path)), rest)
}

/// `…"\x61…"…`: the bytes, and what follows.
fn text(arguments: &str) -> (Vec<u8>, &str) {
    let (_, rest) = arguments.split_once('"').unwrap();
    let (bytes, rest) = rest.split_once('"').unwrap();
    assert!(!rest.starts_with("..."), "strace cut a write short");
    (unescape(bytes), rest)
}

fn unescape(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(4).map(|code| digit(code[2]) << 4 | digit(code[3])).collect()
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    String::from_utf8(bytes).unwrap().into()
}

/// A file on a disk: what is surely there, and what was done to it since.
#[derive(Default)]
struct File<'a> {
    synced: Vec<u8>,
    since: Vec<&'a Step>,
}

impl File<'_> {
    fn sync(&mut self) {
        for step in std::mem::take(&mut self.since) {
            apply(&mut self.synced, step, |_| Fate::Kept);
        }
    }

    /// What may be left of it.
    fn torn(&self, random: &mut Random) -> Vec<u8> {
        let mut content = self.synced.clone();
        // Mostly kept, mostly lost, or anything.
        let kept = [95, 5, 50][usize::try_from(random.below(3)).unwrap()];
        for step in &self.since {
            let whole = random.below(3) != 0;
            let fate = if random.below(100) < kept { Fate::Kept } else { Fate::Lost };
            apply(&mut content, step, |_| match (whole, random.below(100)) {
                (true, _) => fate,
                (false, 0..2) => Fate::Garbled(random.next() as u8),
                (false, chance) if chance < kept => Fate::Kept,
                _ => Fate::Lost,
            });
        }
        content
    }
}

#[derive(Clone, Copy)]
enum Fate {
    Kept,
    Lost,
    Garbled(u8),
}

/// Does a step to a content; each sector of a write has a fate of its own.
fn apply(content: &mut Vec<u8>, step: &Step, mut fate: impl FnMut(usize) -> Fate) {
    match step {
        Step::Write { at, bytes, .. } => {
            let end = at + bytes.len();
            let mut from = *at;
            while from < end {
                let to = end.min((from / SECTOR + 1) * SECTOR);
                match fate(from) {
                    Fate::Lost => {}
                    kept_or_not => {
                        if content.len() < to {
                            content.resize(to, 0);
                        }
                        match kept_or_not {
                            Fate::Garbled(byte) => content[from..to].fill(byte),
                            _ => content[from..to].copy_from_slice(&bytes[from - at..to - at]),
                        }
                    }
                }
                from = to;
            }
        }
        Step::Truncate { length, .. } => {
            if matches!(fate(0), Fate::Kept) {
                content.resize(*length, 0);
            }
        }
        _ => {}
    }
}

/// The disk after the first `moment` steps. `has_sync` is false for a disk that never syncs.
fn disk<'a>(steps: &'a [Step], moment: usize, has_sync: bool) -> BTreeMap<&'a Path, File<'a>> {
    let mut files: BTreeMap<&Path, File<'_>> = BTreeMap::new();
    for step in &steps[..moment] {
        match step {
            Step::Write { path, .. } | Step::Truncate { path, .. } => {
                files.entry(path).or_default().since.push(step);
            }
            Step::Sync { path } if has_sync => {
                if let Some(file) = files.get_mut(&**path) {
                    file.sync();
                }
            }
            Step::Remove { path } => drop(files.remove(&**path)),
            Step::Rename { from, to } => {
                if let Some(file) = files.remove(&**from) {
                    files.insert(to, file);
                }
            }
            Step::Sync { .. } | Step::Acknowledge(..) => {}
        }
    }
    files
}

/// Opens a disk as the power left it; a word about what is wrong.
fn look(
    steps: &[Step],
    moment: usize,
    has_sync: bool,
    commits: &BTreeMap<u64, u64>,
    random: &mut Random,
) -> Result<(), String> {
    let root = tempfile::Builder::new().prefix("fv-power").tempdir().unwrap();
    let directory = root.path().join("store");
    fs::create_dir(&directory).unwrap();
    for (path, file) in disk(steps, moment, has_sync) {
        let name = path.file_name().unwrap();
        // Made anew from the log by whoever opens the database first.
        if path.parent().is_some_and(|parent| parent.ends_with("store"))
            && name.to_string_lossy().starts_with("state.db")
            && !name.to_string_lossy().ends_with("-shm")
        {
            fs::write(directory.join(name), file.torn(random)).unwrap();
        }
    }
    let acknowledged = steps[..moment].iter().rev().find_map(|step| match step {
        Step::Acknowledge(revision, _) => Some(*revision),
        _ => None,
    });
    let store = Store::open(StoreOptions { directory: directory.clone(), history: HistoryLimits::default() })
        .map_err(|error| format!("{error}: {:?}", std::error::Error::source(&error)))?;
    let revision = store.revision();
    if revision < acknowledged.unwrap_or(1) {
        return Err(format!("it is at {revision}, and {acknowledged:?} was acknowledged"));
    }
    let mut expected: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for (&revision, &number) in commits.range(..=revision) {
        let name = (number % NAMES).to_string();
        match written(number) {
            Some(value) => drop(expected.insert(name, (revision, value))),
            None => drop(expected.remove(&name)),
        }
    }
    let found: BTreeMap<String, (u64, String)> = store
        .list(PREFIX, None)
        .items
        .iter()
        .map(|item| {
            let object: Value = serde_json::from_slice(&item.json).unwrap();
            (item.name.to_string(), (item.revision, object["value"].as_str().unwrap().to_owned()))
        })
        .collect();
    if found != expected {
        return Err(format!("at {revision} it holds other objects than were written"));
    }
    drop(store);
    let report = check(&directory).map_err(|error| error.to_string())?;
    if report.faults.is_empty() { Ok(()) } else { Err(report.faults.join("; ")) }
}

#[test]
fn what_was_acknowledged_survives_a_power_failure() {
    let root = tempfile::Builder::new().prefix("fv-power").tempdir().unwrap();
    let record = root.path().join("record");
    let output = Command::new("strace")
        .args(["--follow-forks", "--decode-fds=path", "-xx", "--string-limit=16777216", "--output"])
        .arg(&record)
        .args(["-e", "trace=pwrite64,write,ftruncate,fsync,fdatasync,rename,unlink"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "power::writes_and_says_so", "--ignored", "--nocapture", "--test-threads=1"])
        .env("FERROVIRT_TEST_DIRECTORY", root.path().join("store"))
        .stdin(Stdio::null())
        .output()
        .expect("strace starts; `make tools` installs it");
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("Operation not permitted") {
        println!("skipped: nothing may be traced here: {said}");
        return;
    }
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
    let steps = read_record(&fs::read_to_string(&record).unwrap());
    let commits: BTreeMap<u64, u64> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Acknowledge(revision, number) => Some((*revision, *number)),
            _ => None,
        })
        .collect();
    let is_database = |step: &&Step| matches!(step, Step::Write { path, .. } if path.ends_with("state.db"));
    let checkpointed = steps.iter().filter(is_database).count();
    assert!(commits.len() > 200 && checkpointed > 100, "{} commits, {checkpointed}", commits.len());

    let mut random = Random::seeded("FERROVIRT_TEST_SEED");
    let failures = number("FERROVIRT_TEST_POWER_FAILURES").unwrap_or(60);
    for failure in 0..failures {
        let moment = usize::try_from(random.below(steps.len() as u64 + 1)).unwrap();
        if let Err(fault) = look(&steps, moment, true, &commits, &mut random) {
            panic!("power failure {failure}, after step {moment} of {}: {fault}", steps.len());
        }
    }
    println!("{failures} power failures survived at {} steps, {} commits", steps.len(), commits.len());
    // A disk that loses what was synced is noticed, so the above looks at something.
    let lost = (0..5).any(|_| look(&steps, steps.len() * 3 / 4, false, &commits, &mut random).is_err());
    assert!(lost, "nothing depends on a sync");
}
