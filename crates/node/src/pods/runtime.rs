//! A Pod's launcher and what it holds: started in a directory of its own, or found there by a daemon that comes later.

use std::io;
use std::path::Path;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use launcher::pod_dir::{LauncherRecord, PodDir};
use rustix::process::Signal;
use tokio::time::Instant;

use super::Node;
use super::address::{Address, Addresses};
use super::process::{self, Launch, Lock, Process};
use super::record::{self, Contents, PodRecord};
use super::shape::{LauncherPod, niceness};
use super::status::{End, Run};
use crate::images::ImageManager;
use crate::{Settings, chain, files};

/// Longest exit record that is looked at, in bytes; what is told of it is shorter.
const MOST_RECORD_BYTES: u64 = 64 * 1024;

/// A Pod that has, or had, a launcher.
pub(super) struct Runtime {
    pub directory: PodDir,
    pub record: PodRecord,
    pub run: Run,
    /// Held while the launcher lives.
    pub address: Option<Address>,
    pub leases: Vec<image::store::Lease>,
    pub process: Option<Process>,
    pub phase: Phase,
}

/// How far a launcher has come.
pub(super) enum Phase {
    /// It lives, and its process is not known.
    Nameless,
    /// It does not listen yet.
    Starting(Instant),
    Listening,
    Told,
    Killed,
    Ended {
        end: End,
        /// Keeps the directory's lock where nobody else does: none can come to life there.
        _lock: Option<std::fs::File>,
    },
}

/// Makes the directory of a Pod and starts its launcher there; what keeps it from that is said in the error.
pub(super) fn start(
    node: &Node,
    pod: &Pod,
    leases: Vec<image::store::Lease>,
    volumes: Vec<(String, launcher::pod_dir::ImageVolume)>,
) -> Result<Runtime, String> {
    let shape = LauncherPod::read(pod)?;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let settings = &node.settings;
    let address = node.addresses.take(&uid).ok_or("no address for it is free in 127.88.0.0/16")?;
    let identity = settings.authority.launcher(address.get().into()).map_err(|error| chain(&error))?;
    let started = Timestamp::now();
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    let mut record = PodRecord {
        uid: uid.clone(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        namespace: shape.namespace.clone(),
        instance: shape.instance.clone(),
        address: address.get(),
        grace_seconds: u64::try_from(grace).unwrap_or_default(),
        started: u64::try_from(started.as_millisecond()).unwrap_or_default(),
        process_id: None,
        ending: false,
    };
    let authority = settings.authority.certificate();
    let contents = Contents { record: &record, volumes: &volumes, authority, identity: &identity };
    let pods = &settings.pods_dir;
    let directory = record::create(pods, &contents)
        .map_err(|error| format!("cannot make its directory in `{}`: {error}", pods.display()))?;
    let launch = Launch {
        program: settings.program.clone(),
        arguments: arguments(settings, &shape, niceness(pod), directory.path(), address.get()),
        uid,
        instance: format!("{}/{}", record.namespace, record.instance),
        grace_seconds: record.grace_seconds,
        output: output(&directory),
        scopes: node.scopes,
        has_cpu_limit: shape.cpu_limit_millis.is_some(),
    };
    let process = Process::start(&launch).and_then(|process| {
        record.process_id = Some(process.id());
        // It is in `launcher.json` too, once that is there.
        if let Err(error) = record.write(&directory) {
            // Its directory is removed: nobody would know of it.
            process.signal(Signal::KILL)?;
            return Err(error);
        }
        Ok(process)
    });
    let process = process.map_err(|error| {
        if let Err(error) = record::remove(&directory) {
            tracing::warn!(directory = %directory.path().display(), %error, "a Pod's directory stays");
        }
        format!("cannot start `{}`: {error}", launch.program.display())
    })?;
    Ok(Runtime {
        run: run_of(&record, volumes),
        directory,
        record,
        address: Some(address),
        leases,
        process: Some(process),
        phase: Phase::Starting(Instant::now()),
    })
}

fn run_of(record: &PodRecord, volumes: Vec<(String, launcher::pod_dir::ImageVolume)>) -> Run {
    let started = i64::try_from(record.started).ok().and_then(|at| Timestamp::from_millisecond(at).ok());
    Run { address: record.address, started: started.unwrap_or_default(), volumes }
}

/// Everything that a launcher is told on its command line.
fn arguments(
    settings: &Settings,
    shape: &LauncherPod,
    niceness: u8,
    directory: &Path,
    address: std::net::Ipv4Addr,
) -> Vec<String> {
    let mut arguments = settings.program_arguments.clone();
    arguments.push("launcher".to_owned());
    arguments.extend(settings.launcher_arguments.iter().cloned());
    arguments.extend(shape.arguments(niceness));
    arguments.extend(["--pod-dir".to_owned(), directory.to_string_lossy().into_owned()]);
    arguments.extend(["--listen".to_owned(), format!("{address}:{}", launcher::pod_dir::CONTROL_PORT)]);
    arguments
}

/// What was found in a directory that an earlier daemon left.
pub(super) struct Found {
    pub process: Option<Process>,
    pub phase: Phase,
}

/// Looks at a directory of an earlier daemon; `None` when its launcher never came to anything and never will, and the
/// directory has been removed.
pub(super) fn look(directory: &PodDir, pod: &PodRecord) -> io::Result<Option<Found>> {
    let launcher: Option<LauncherRecord> = record::read(&directory.launcher_record())?;
    match process::lock(directory)? {
        Lock::Missing => Ok(None),
        Lock::Held => {
            let id = launcher.as_ref().map(|launcher| launcher.process_id).or(pod.process_id);
            let process = id.map(|id| Process::adopt(directory, id)).transpose()?.flatten();
            let phase = match (&process, launcher) {
                (None, _) => Phase::Nameless,
                (Some(_), Some(_)) => Phase::Listening,
                (Some(_), None) => Phase::Starting(Instant::now()),
            };
            Ok(Some(Found { process, phase }))
        }
        Lock::Ours(lock) => {
            let exit = std::fs::symlink_metadata(directory.exit_record());
            if launcher.is_none() && exit.is_err() {
                record::remove(directory)?;
                return Ok(None);
            }
            let finished = exit.and_then(|exit| exit.modified()).ok();
            let finished =
                finished.and_then(|at| Timestamp::try_from(at).ok()).unwrap_or_else(Timestamp::now);
            let end = read_end(directory, None, finished);
            Ok(Some(Found { process: None, phase: Phase::Ended { end, _lock: Some(lock) } }))
        }
    }
}

/// Takes over what an earlier daemon left of a Pod; `None` when that is nothing.
pub(super) async fn adopt(
    images: &ImageManager,
    addresses: &Addresses,
    directory: PodDir,
    record: PodRecord,
) -> io::Result<Option<Runtime>> {
    let Some(Found { process, phase }) = look(&directory, &record)? else { return Ok(None) };
    let volumes = record::volumes(&directory)?;
    let (mut leases, mut address) = (Vec::new(), None);
    if !matches!(phase, Phase::Ended { .. }) {
        address = addresses.claim(record.address);
        for (name, volume) in &volumes {
            match images.keep(volume).await {
                Ok(lease) => leases.push(lease),
                Err(error) => {
                    tracing::warn!(object = %format_args!("{}/{}", record.namespace, record.name), uid = record.uid, volume = %name, %error, "an image in use is not in the store");
                }
            }
        }
    }
    let run = run_of(&record, volumes);
    Ok(Some(Runtime { directory, record, run, address, leases, process, phase }))
}

/// What a directory's launcher left, or `None` for the exit code's part.
pub(super) fn read_end(directory: &PodDir, code: Option<i32>, finished: Timestamp) -> End {
    let read = |path: &Path| {
        files::read_start(path, MOST_RECORD_BYTES).unwrap_or_else(|error| {
            tracing::warn!(file = %path.display(), %error, "what a launcher left cannot be read");
            None
        })
    };
    let record = read(&directory.exit_record());
    let said = read(&output(directory)).unwrap_or_default();
    End::new(code, record.as_deref(), &String::from_utf8_lossy(&said), finished)
}

/// Where a launcher's standard streams go until it listens and lets go of them: what keeps it from starting is in there.
fn output(directory: &PodDir) -> std::path::PathBuf {
    directory.path().join("logs").join("launcher.out")
}

/// Whether the launcher of a directory can be asked.
pub(super) fn is_listening(directory: &PodDir) -> bool {
    directory.launcher_record().exists()
}
