//! What this host offers to a machine, looked at before one is started: QEMU, what executes the guest, and whose
//! credentials QEMU gets. The same for `run` and for launchers.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use vmm::accelerator::{self, AcceleratorChoice, AcceleratorError, CacheUse, Chosen, Helper, ProbeRequest};
use vmm::kernel::EntryChoice;
use vmm::process::Trampoline;
use vmm::{
    Accelerator, Access, HostFacts, ProbeError, QemuFacts, QemuSearch, RunAs, RunAsFacts, choose_run_as,
};

use crate::plan::BootFiles;

/// KVM's device, which QEMU opens by itself.
pub const KVM_DEVICE: &str = "/dev/kvm";

/// Why a machine has no host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No QEMU, or none that can be used.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The accelerator that is demanded does not work.
    #[error(transparent)]
    Accelerator(#[from] AcceleratorError),
    /// A path that QEMU needs cannot be looked at.
    #[error("cannot look at the files that QEMU needs")]
    Look {
        /// Why.
        source: io::Error,
    },
    /// The search ended without an answer.
    #[error("the search for an accelerator was interrupted")]
    Interrupted,
}

impl HostError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Probe(error) => error.hint(),
            Self::Accelerator(error) => error.hint(),
            Self::Look { .. } | Self::Interrupted => None,
        }
    }
}

/// Where to look, and what is wanted.
#[derive(Debug, Clone)]
pub struct Host {
    /// The `PATH` in which QEMU is searched.
    pub search_path: OsString,
    /// Directory that keeps answers which stay true for a while.
    pub facts_dir: PathBuf,
    /// What shall execute guests.
    pub choice: AcceleratorChoice,
}

impl Host {
    /// Finds QEMU.
    ///
    /// # Errors
    /// When there is none, or none that can be used.
    pub fn qemu(&self) -> Result<QemuFacts, HostError> {
        let search = QemuSearch {
            binary: None,
            search_path: self.search_path.clone(),
            cache_directory: Some(self.facts_dir.clone()),
        };
        Ok(QemuFacts::probe(&search)?)
    }

    /// Settles what executes the guest's instructions; blocks while KVM is tried, which is once in a boot of the host.
    ///
    /// # Errors
    /// When KVM is demanded and does not work.
    pub fn accelerator(
        &self,
        qemu: &QemuFacts,
        run_as: &RunAs,
        cache_use: CacheUse,
    ) -> Result<Chosen, HostError> {
        let request = ProbeRequest {
            qemu: qemu.binary.clone(),
            machine: "q35".to_owned(),
            cpu_model: "host".to_owned(),
            run_as: run_as.clone(),
            helper: Helper::this_program(),
            trampoline: Trampoline::this_program(),
            cache: Some((self.facts_dir.clone(), cache_use)),
        };
        Ok(accelerator::choose(self.choice, &request)?)
    }

    /// The same for a machine in `directory`, as the user that QEMU will be, without keeping other tasks waiting.
    ///
    /// # Errors
    /// As [`Host::accelerator`] and [`run_as`].
    pub async fn accelerator_for(&self, directory: &Path, qemu: &QemuFacts) -> Result<Chosen, HostError> {
        let (probed_as, _) =
            run_as(&[(directory, Access::Traverse), (Path::new(KVM_DEVICE), Access::Device)])?;
        let (host, qemu) = (self.clone(), qemu.clone());
        let probe = move || host.accelerator(&qemu, &probed_as, CacheUse::Reuse);
        tokio::task::spawn_blocking(probe).await.map_err(|_| HostError::Interrupted)?
    }
}

/// Decides whose credentials QEMU gets, with a warning when root has to keep its own.
///
/// # Errors
/// When a path that QEMU needs cannot be looked at.
pub fn run_as(needs: &[(&Path, Access)]) -> Result<(RunAs, Option<String>), HostError> {
    let facts = RunAsFacts::gather(needs).map_err(|source| HostError::Look { source })?;
    Ok(choose_run_as(&facts))
}

/// How a kernel is best entered: under KVM it unpacks itself in no time; translated, that is a tenth of the boot.
pub fn kernel_entry(accelerator: &Accelerator) -> EntryChoice {
    match accelerator {
        Accelerator::Tcg { .. } => EntryChoice::PreferPvh,
        Accelerator::Kvm => EntryChoice::AsGiven,
    }
}

/// The host for a machine in `directory` with these files, and warnings: that root's QEMU has to stay root, that it sees
/// what is not its own. KVM's device counts among what QEMU must reach only when KVM is used.
///
/// # Errors
/// When a path that QEMU needs or the size of memory cannot be read.
pub fn facts(
    qemu: QemuFacts,
    accelerator: Accelerator,
    files: &BootFiles,
    directory: &Path,
) -> Result<(HostFacts, Vec<String>), HostError> {
    let mut needs: Vec<(&Path, Access)> =
        vec![(files.kernel.as_path(), Access::Read), (directory, Access::Traverse)];
    needs.extend(files.initrd.as_ref().map(|initrd| (initrd.as_path(), Access::Read)));
    if accelerator == Accelerator::Kvm {
        needs.push((Path::new(KVM_DEVICE), Access::Device));
    }
    let (run_as, stays_root) = run_as(&needs)?;
    let facts = HostFacts::probe(qemu, accelerator, run_as, &Trampoline::this_program())?;
    let warnings = stays_root.into_iter().chain(facts.unconfined()).collect();
    Ok((facts, warnings))
}
