//! Launchers that a test plays.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use controllers::Launchers;
use controllers::launchers::LauncherError;
use futures::FutureExt;
use futures::future::BoxFuture;
use manifest::machine_status::{BootFacts, BootTimeline, FileFacts, MachineState, MachineStatus};
use manifest::types::VirtualMachineInstance;
use tokio::sync::watch;

/// How long a status is waited for that does not change.
const POLL: Duration = Duration::from_millis(300);

#[derive(Debug)]
struct Machine {
    status: watch::Sender<MachineStatus>,
    syncs: usize,
    shutdowns: Vec<u64>,
}

/// All launchers, by address.
#[derive(Debug, Default)]
pub struct FakeLaunchers {
    machines: Mutex<HashMap<SocketAddr, Machine>>,
    /// Why machines cannot be started for now.
    pub sync_error: Mutex<Option<String>>,
    /// CRC-32 of the kernel that is booted.
    pub kernel: Mutex<u32>,
}

impl FakeLaunchers {
    /// A launcher listens at `at`.
    pub fn start(&self, at: SocketAddr) {
        let machine = Machine { status: watch::Sender::default(), syncs: 0, shutdowns: Vec::new() };
        self.machines.lock().unwrap().insert(at, machine);
    }

    /// The launcher at `at` is gone; its last status.
    pub fn end(&self, at: SocketAddr) -> Option<MachineStatus> {
        let machine = self.machines.lock().unwrap().remove(&at)?;
        Some(machine.status.borrow().clone())
    }

    /// Changes what the machine at `at` says.
    pub fn change(&self, at: SocketAddr, change: impl FnOnce(&mut MachineStatus)) {
        if let Some(machine) = self.machines.lock().unwrap().get(&at) {
            machine.status.send_modify(|status| {
                change(status);
                status.revision += 1;
            });
        }
    }

    /// How often the launcher at `at` was given its instance.
    pub fn syncs(&self, at: SocketAddr) -> usize {
        self.machines.lock().unwrap().get(&at).map_or(0, |machine| machine.syncs)
    }

    /// The grace periods that the launcher at `at` was asked to shut down with.
    pub fn shutdowns(&self, at: SocketAddr) -> Vec<u64> {
        self.machines.lock().unwrap().get(&at).map_or_else(Vec::new, |machine| machine.shutdowns.clone())
    }
}

fn unreachable(at: SocketAddr) -> LauncherError {
    LauncherError::Unreachable { address: at, reason: "connection refused".to_owned() }
}

/// What is booted of a kernel with that checksum.
fn boot(kernel: u32) -> BootFacts {
    let file = |path: &str, checksum| FileFacts { path: path.to_owned(), size_bytes: 1, checksum };
    BootFacts {
        image: "registry/kb".to_owned(),
        image_digest: "sha256:0123".to_owned(),
        kernel: Some(file("/boot/vmlinuz", kernel)),
        kernel_version: Some("6.1.0".to_owned()),
        initrd: Some(file("/boot/initrd", 7)),
    }
}

impl Launchers for FakeLaunchers {
    fn sync(
        &self,
        at: SocketAddr,
        instance: &VirtualMachineInstance,
    ) -> BoxFuture<'static, Result<MachineStatus, LauncherError>> {
        let mut machines = self.machines.lock().unwrap();
        let Some(machine) = machines.get_mut(&at) else {
            return futures::future::ready(Err(unreachable(at))).boxed();
        };
        machine.syncs += 1;
        let error = self.sync_error.lock().unwrap().clone();
        let kernel = *self.kernel.lock().unwrap();
        machine.status.send_if_modified(|status| {
            let before = status.clone();
            status.vmi_uid = instance.metadata.uid.clone().unwrap();
            if status.state == MachineState::None {
                status.sync_error = error;
                if status.sync_error.is_none() {
                    status.state = MachineState::Running;
                    status.machine_type = Some("pc-q35-7.2".to_owned());
                    status.qemu_user = Some(107);
                    status.boot = Some(boot(kernel));
                    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap();
                    status.timeline = BootTimeline { vmm_ready: Some(now), ..BootTimeline::default() };
                }
            }
            let changes = before != *status;
            status.revision += u64::from(changes);
            changes
        });
        let status = machine.status.borrow().clone();
        futures::future::ready(Ok(status)).boxed()
    }

    fn status(&self, at: SocketAddr, after: u64) -> BoxFuture<'static, Result<MachineStatus, LauncherError>> {
        let machines = self.machines.lock().unwrap();
        let Some(machine) = machines.get(&at) else {
            return futures::future::ready(Err(unreachable(at))).boxed();
        };
        let mut status = machine.status.subscribe();
        async move {
            let waited = {
                let changed = status.wait_for(|status| status.revision > after);
                tokio::time::timeout(POLL, changed).await.map(|changed| changed.map(|status| status.clone()))
            };
            match waited {
                // The launcher went while it was asked.
                Ok(Err(_)) => Err(unreachable(at)),
                Ok(Ok(status)) => Ok(status),
                Err(_) => Ok(status.borrow().clone()),
            }
        }
        .boxed()
    }

    fn shutdown(&self, at: SocketAddr, grace_seconds: u64) -> BoxFuture<'static, Result<(), LauncherError>> {
        let mut machines = self.machines.lock().unwrap();
        let answer = machines.get_mut(&at).map(|machine| machine.shutdowns.push(grace_seconds));
        futures::future::ready(answer.ok_or(unreachable(at))).boxed()
    }
}
