//! Logs of boots whose Pods are gone. Blocks.
//!
//! ```text
//! STATE/logs/NAMESPACE/INSTANCE/
//!   MILLISECONDS-UID/CONTAINER.log     when the Pod's directory was removed, thirteen digits; the Pod's UID
//!   MILLISECONDS-UID/CONTAINER.log.1
//!   .UID/                              being written
//! ```

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use launcher::pod_dir::PodDir;

use super::{CONTAINERS, EndedBoot};

/// Boots of one instance that are kept.
const KEPT: usize = 3;

/// No boot is kept longer.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// All boots together are no more than this.
const MOST_BYTES: u64 = 1 << 30;

/// No file is larger; a launcher sets its logs aside at half of that.
const MOST_FILE_BYTES: u64 = 20 << 20;

/// A directory that is being written for so long is nobody's.
const UNFINISHED: Duration = Duration::from_secs(3600);

/// A boot on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its directory.
    pub path: PathBuf,
    /// When it was kept, milliseconds since the Unix epoch.
    pub kept: u64,
    /// The Pod's UID.
    pub pod_uid: String,
}

impl Kept {
    /// Where the log of a container is, or would be.
    pub fn log(&self, container: &str) -> PathBuf {
        self.path.join(format!("{container}.log"))
    }
}

/// A name that leads nowhere else: a DNS subdomain, or a UID.
fn is_plain(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

/// Where the boots of an instance are; `None` for names that no instance has.
pub fn directory(logs: &Path, namespace: &str, instance: &str) -> Option<PathBuf> {
    (is_plain(namespace) && is_plain(instance)).then(|| logs.join(namespace).join(instance))
}

/// The boots in the directory of an instance, the oldest first.
pub fn boots(directory: &Path) -> io::Result<Vec<Kept>> {
    let mut boots: Vec<Kept> = entries(directory)?
        .into_iter()
        .filter_map(|(name, path)| {
            let (kept, uid) = name.split_once('-')?;
            Some(Kept { path, kept: kept.parse().ok()?, pod_uid: uid.to_owned() })
        })
        .collect();
    boots.sort_by(|left, right| (left.kept, &left.pod_uid).cmp(&(right.kept, &right.pod_uid)));
    Ok(boots)
}

/// Copies the logs of a Pod and removes all but the last [`KEPT`] of its instance.
pub fn keep(logs: &Path, pod: &PodDir, boot: &EndedBoot, now_millis: u64) -> io::Result<()> {
    let Some(directory) =
        directory(logs, &boot.namespace, &boot.instance).filter(|_| is_plain(&boot.pod_uid))
    else {
        return Ok(());
    };
    let before = boots(&directory)?;
    if before.iter().any(|kept| kept.pod_uid == boot.pod_uid) {
        return Ok(());
    }
    let unfinished = directory.join(format!(".{}", boot.pod_uid));
    remove(&unfinished)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&unfinished)?;
    let mut copied = 0;
    for container in CONTAINERS {
        let log = pod.log(container);
        let mut aside = log.clone().into_os_string();
        aside.push(".1");
        for from in [log, aside.into()] {
            if let Some(name) = from.file_name() {
                copied += u64::from(copy(&from, &unfinished.join(name))?);
            }
        }
    }
    if copied == 0 {
        return remove(&unfinished);
    }
    // A cache of what somebody may want to read: a crash of the host may cost it.
    fs::rename(&unfinished, directory.join(format!("{now_millis:013}-{}", boot.pod_uid)))?;
    for old in &before[..before.len().saturating_sub(KEPT - 1)] {
        remove(&old.path)?;
    }
    Ok(())
}

/// Copies a log where it is there.
fn copy(from: &Path, to: &Path) -> io::Result<bool> {
    let Some(file) = super::reader::open(from)? else { return Ok(false) };
    io::copy(&mut file.take(MOST_FILE_BYTES), &mut File::create(to)?)?;
    Ok(true)
}

/// Removes boots that are too old, and the oldest where all are too large; and what was left half done.
pub fn sweep(logs: &Path, now: SystemTime) -> io::Result<()> {
    let now_millis = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut all = Vec::new();
    for (_, namespace) in entries(logs)? {
        for (_, instance) in entries(&namespace)? {
            for (name, path) in entries(&instance)? {
                let is_abandoned = name.starts_with('.')
                    && fs::metadata(&path)
                        .and_then(|found| found.modified())
                        .is_ok_and(|at| now.duration_since(at).unwrap_or_default() > UNFINISHED);
                if is_abandoned {
                    remove(&path)?;
                }
            }
            for boot in boots(&instance)? {
                match now_millis.saturating_sub(u128::from(boot.kept)) > LONGEST.as_millis() {
                    true => remove(&boot.path)?,
                    false => all.push((boot.kept, size(&boot.path)?, boot.path)),
                }
            }
            remove_empty(&instance)?;
        }
        remove_empty(&namespace)?;
    }
    all.sort();
    let mut sum: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in all {
        if sum <= MOST_BYTES {
            break;
        }
        remove(&path)?;
        sum -= bytes;
    }
    Ok(())
}

fn size(directory: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for (_, path) in entries(directory)? {
        // What has gone meanwhile takes no space.
        sum += fs::symlink_metadata(path).map_or(0, |found| found.len());
    }
    Ok(sum)
}

/// Names and paths in a directory; none when it is not there.
fn entries(directory: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let found = match fs::read_dir(directory) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    found
        .map(|entry| entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())))
        .collect()
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn remove_empty(directory: &Path) -> io::Result<()> {
    match fs::remove_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    struct Bench(tempfile::TempDir);

    impl Bench {
        fn logs(&self) -> PathBuf {
            self.0.path().join("logs")
        }

        fn pod(&self, uid: &str) -> PodDir {
            let pod = PodDir::new(self.0.path().join("pods").join(uid));
            fs::create_dir_all(pod.log("compute").parent().unwrap()).unwrap();
            fs::write(pod.log("compute"), uid).unwrap();
            fs::write(pod.path().join("logs/compute.log.1"), "before").unwrap();
            pod
        }

        fn keep(&self, uid: &str, now: u64) {
            let boot = EndedBoot { namespace: "ns".into(), instance: "vm.a".into(), pod_uid: uid.into() };
            keep(&self.logs(), &self.pod(uid), &boot, now).unwrap();
        }

        fn names(&self) -> Vec<String> {
            let boots = boots(&directory(&self.logs(), "ns", "vm.a").unwrap()).unwrap();
            boots
                .into_iter()
                .map(|boot| boot.path.file_name().unwrap().to_str().unwrap().to_owned())
                .collect()
        }
    }

    #[test]
    fn the_last_three_boots_are_kept() {
        let bench = Bench(tempfile::tempdir().unwrap());
        for number in 1..=5 {
            bench.keep(&format!("uid-{number}"), number * 1000);
            bench.keep(&format!("uid-{number}"), number * 1000 + 1);
        }
        assert_eq!(bench.names(), ["0000000003000-uid-3", "0000000004000-uid-4", "0000000005000-uid-5"]);
        let last = boots(&directory(&bench.logs(), "ns", "vm.a").unwrap()).unwrap().pop().unwrap();
        assert_eq!(fs::read_to_string(last.log("compute")).unwrap(), "uid-5");
        assert_eq!(fs::read_to_string(last.path.join("compute.log.1")).unwrap(), "before");
        assert!(!last.log("guest-console-log").exists());
    }

    #[test]
    fn names_lead_nowhere_else_and_what_has_no_log_is_not_kept() {
        let bench = Bench(tempfile::tempdir().unwrap());
        let pod = bench.pod("u");
        for (namespace, instance, uid) in
            [("..", "a", "u"), ("ns", "../a", "u"), ("ns", "", "u"), ("ns", "a", "../u")]
        {
            let boot =
                EndedBoot { namespace: namespace.into(), instance: instance.into(), pod_uid: uid.into() };
            keep(&bench.logs(), &pod, &boot, 1).unwrap();
        }
        let boot = EndedBoot { namespace: "ns".into(), instance: "vm.a".into(), pod_uid: "none".into() };
        keep(&bench.logs(), &PodDir::new(bench.0.path().join("none")), &boot, 1).unwrap();
        assert_eq!(bench.names(), [""; 0]);
        assert_eq!(fs::read_dir(bench.0.path()).unwrap().count(), 2, "logs and pods only");
    }

    #[test]
    fn old_boots_and_unfinished_ones_are_swept() {
        let bench = Bench(tempfile::tempdir().unwrap());
        bench.keep("a", 1000);
        bench.keep("b", 2000);
        let instance = directory(&bench.logs(), "ns", "vm.a").unwrap();
        fs::create_dir(instance.join(".c")).unwrap();
        let at = |millis: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let month = LONGEST.as_millis() as u64;
        sweep(&bench.logs(), at(month + 1000)).unwrap();
        assert_eq!(bench.names(), ["0000000001000-a", "0000000002000-b"]);
        sweep(&bench.logs(), at(month + 1001)).unwrap();
        assert_eq!(bench.names(), ["0000000002000-b"]);
        assert!(instance.join(".c").exists());
        sweep(&bench.logs(), SystemTime::now() + Duration::from_secs(3700)).unwrap();
        assert!(!bench.logs().join("ns").exists(), "nothing is left of it");
    }
}
