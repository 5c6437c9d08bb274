//! What the node writes down of a Pod in its directory, and the directories that an earlier daemon left.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use launcher::pod_dir::{ImageVolume, PodDir};
use serde::{Deserialize, Serialize};

use super::shape::{is_name, is_uid};
use crate::files;

/// A directory that is being made; not a Pod's until it has its name.
const UNFINISHED: &str = ".new-";

/// A directory that is being removed.
const REMOVED: &str = ".gone-";

/// Longest document read, in bytes.
const MOST_BYTES: u64 = 1 << 20;

/// The node's own record of a Pod whose launcher it started, `pod.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodRecord {
    /// The Pod's UID, and the directory's name.
    pub uid: String,
    /// The Pod's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Name of the VirtualMachineInstance.
    pub instance: String,
    /// The Pod's address.
    pub address: Ipv4Addr,
    /// The Pod's `terminationGracePeriodSeconds`.
    pub grace_seconds: u64,
    /// When the launcher was started, milliseconds since the Unix epoch.
    pub started: u64,
    /// Its process id; absent until it is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_id: Option<u32>,
    /// The launcher has been told to end, and the event about it recorded.
    #[serde(default)]
    pub ending: bool,
}

impl PodRecord {
    /// Writes it. The run directory does not survive the host, so nothing waits for a disk.
    pub(super) fn write(&self, directory: &PodDir) -> io::Result<()> {
        replace(&directory.pod_record(), &serde_json::to_vec(self)?)
    }
}

/// What a Pod's directory is made of.
pub(super) struct Contents<'a> {
    pub record: &'a PodRecord,
    pub volumes: &'a [(String, ImageVolume)],
    pub authority: &'a str,
    pub identity: &'a crate::pki::Identity,
}

/// Makes a Pod's directory as a whole.
pub(super) fn create(pods: &Path, contents: &Contents<'_>) -> io::Result<PodDir> {
    let uid = &contents.record.uid;
    let unfinished = pods.join(format!("{UNFINISHED}{uid}"));
    remove_tree(&unfinished)?;
    // Passed through by QEMU, which may be another user, and not listed by it.
    files::create_directory(&unfinished, 0o711)?;
    let directory = PodDir::new(&unfinished);
    contents.record.write(&directory)?;
    files::create_directory(&unfinished.join("volumes"), 0o700)?;
    for (name, volume) in contents.volumes {
        replace(&directory.image_volume(name), &serde_json::to_vec(volume)?)?;
    }
    files::create_directory(&directory.tls(), 0o700)?;
    replace(&directory.tls().join("ca.crt"), contents.authority.as_bytes())?;
    replace(&directory.tls().join("tls.crt"), contents.identity.certificate.as_bytes())?;
    replace(&directory.tls().join("tls.key"), contents.identity.key.as_bytes())?;
    files::create_directory(&unfinished.join("logs"), 0o700)?;
    let path = pods.join(uid);
    fs::rename(&unfinished, &path)?;
    Ok(PodDir::new(path))
}

/// Removes a Pod's control group and its directory; what is gone is removed already.
pub(super) fn remove(directory: &PodDir) -> io::Result<()> {
    if let Some(group) = read::<Vec<PathBuf>>(&directory.control_group())? {
        launcher::cgroup::remove(&group)?;
    }
    let path = directory.path();
    let Some((parent, name)) = path.parent().zip(path.file_name().and_then(|name| name.to_str())) else {
        return Ok(());
    };
    // Its name goes first: half a directory is nobody's Pod.
    let removed = parent.join(format!("{REMOVED}{name}"));
    remove_tree(&removed)?;
    match fs::rename(path, &removed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    remove_tree(&removed)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Writes a file of a directory that does not survive the host: whole or not at all.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let temporary = path.with_extension("tmp");
    remove_file(&temporary)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    fs::rename(&temporary, path)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Reads a JSON document; `None` when there is none.
pub(super) fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(bytes) = files::read_start(path, MOST_BYTES)? else { return Ok(None) };
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// The records of a Pod's image volumes, by their names.
pub(super) fn volumes(directory: &PodDir) -> io::Result<Vec<(String, ImageVolume)>> {
    let mut volumes = Vec::new();
    let entries = match fs::read_dir(directory.path().join("volumes")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(volumes),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
        if let Some(name) = name
            && let Some(volume) = read(&path)?
        {
            volumes.push((name.to_owned(), volume));
        }
    }
    volumes.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(volumes)
}

/// A Pod that was started here, with its directory.
pub(super) type Found = (PodDir, PodRecord);

/// The Pods that an earlier daemon started, and the UIDs of those whose directories cannot be understood: they stay as they
/// are, and what runs in them goes on. What was left half-done is removed.
pub(super) fn scan(pods: &Path) -> io::Result<(Vec<Found>, HashSet<String>)> {
    let (mut found, mut unknown) = (Vec::new(), HashSet::new());
    for entry in fs::read_dir(pods)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.starts_with(UNFINISHED) || name.starts_with(REMOVED) {
            if let Err(error) = remove_tree(&path) {
                tracing::warn!(directory = %path.display(), %error, "what is left of a Pod cannot be removed");
            }
            continue;
        }
        match understand(&path, name) {
            Ok(pod) => found.push(pod),
            Err(why) => {
                tracing::warn!(directory = %path.display(), %why, "a directory of a Pod is not understood and stays");
                unknown.insert(name.to_owned());
            }
        }
    }
    Ok((found, unknown))
}

/// The Pods that were started here. Changes nothing, whoever runs meanwhile.
pub(super) fn all(pods: &Path) -> io::Result<Vec<Found>> {
    let entries = match fs::read_dir(pods) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // What is not understood is nobody's Pod, or being made or removed.
        found.extend(
            path.file_name().and_then(|name| name.to_str()).and_then(|name| understand(&path, name).ok()),
        );
    }
    Ok(found)
}

/// The Pods of an instance that were started here, the newest first. Changes nothing, whoever runs meanwhile.
pub(super) fn of_instance(pods: &Path, namespace: &str, instance: &str) -> io::Result<Vec<Found>> {
    let mut found = all(pods)?;
    found.retain(|(_, pod)| pod.namespace == namespace && pod.instance == instance);
    found.sort_by_key(|(_, pod)| std::cmp::Reverse(pod.started));
    Ok(found)
}

/// The Pod with this UID, where it was started here.
pub(super) fn find(pods: &Path, uid: &str) -> io::Result<Option<Found>> {
    let path = pods.join(uid);
    if !is_uid(uid) || !path.try_exists()? {
        return Ok(None);
    }
    understand(&path, uid).map(Some).map_err(io::Error::other)
}

fn understand(path: &Path, name: &str) -> Result<Found, String> {
    let directory = PodDir::new(path);
    let record: PodRecord = read(&directory.pod_record())
        .map_err(|error| format!("cannot read its record: {error}"))?
        .ok_or("it has no record")?;
    if record.uid != name || !is_uid(name) {
        return Err("its record is another Pod's".to_owned());
    }
    if !is_name(&record.namespace) || !is_name(&record.instance) || !is_name(&record.name) {
        return Err("its record has names that no object has".to_owned());
    }
    Ok((directory, record))
}
