//! Reading manifests and judging them: shared by `run` and `validate`.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use manifest::decode::MAX_INPUT_BYTES;
use manifest::types::VirtualMachine;
use manifest::types::VirtualMachineInstance;
use manifest::unsupported::Findings;
use manifest::validate::KernelSource;
use manifest::{Document, Secret, bootable};

use crate::report::{Failure, Reporter};

/// A machine of a manifest, whichever kind it is written as.
#[derive(Debug, Clone, PartialEq)]
pub enum Machine {
    /// A machine that outlives its runs.
    VirtualMachine(Box<VirtualMachine>),
    /// One run.
    VirtualMachineInstance(Box<VirtualMachineInstance>),
}

/// How a machine is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// By what is written.
    AsWritten,
    /// Also whether there is enough to run it.
    ToRun(KernelSource),
}

impl Machine {
    /// `VirtualMachine` or `VirtualMachineInstance`.
    pub fn kind(&self) -> &'static str {
        match self {
            Machine::VirtualMachine(_) => "VirtualMachine",
            Machine::VirtualMachineInstance(_) => "VirtualMachineInstance",
        }
    }

    /// Its name, empty where it has none.
    pub fn name(&self) -> &str {
        let metadata = match self {
            Machine::VirtualMachine(machine) => &machine.metadata,
            Machine::VirtualMachineInstance(instance) => &instance.metadata,
        };
        metadata.name.as_deref().unwrap_or_default()
    }

    /// Every rule of KubeVirt's that it breaks, and every field that is not supported here, as one failure; warnings
    /// are printed.
    ///
    /// # Errors
    /// All faults, each as a cause.
    pub fn judge(&self, judgement: Judgement, reporter: &Reporter) -> Result<(), Failure> {
        let Findings { causes, warnings } = match (self, judgement) {
            (Machine::VirtualMachine(machine), Judgement::ToRun(kernel)) => {
                bootable::bootable_vm(machine, kernel)
            }
            (Machine::VirtualMachineInstance(instance), Judgement::ToRun(kernel)) => {
                bootable::bootable_vmi(instance, kernel)
            }
            (Machine::VirtualMachine(machine), Judgement::AsWritten) => bootable::supported_vm(machine),
            (Machine::VirtualMachineInstance(instance), Judgement::AsWritten) => {
                bootable::supported_vmi(instance)
            }
        };
        for warning in &warnings {
            reporter.warning(format!("{} `{}`: {}", self.kind(), self.name(), warning.message));
        }
        if causes.is_empty() {
            return Ok(());
        }
        let mut failure = Failure::refused(
            anyhow::anyhow!("{} `{}` cannot run as it is written", self.kind(), self.name()),
            None,
        );
        failure.causes = causes
            .iter()
            .map(|cause| match cause.message.contains(&cause.field) {
                true => cause.message.clone(),
                false => format!("{}: {}", cause.field, cause.message),
            })
            .collect();
        Err(failure)
    }
}

/// What a manifest holds, as far as it matters here.
#[derive(Debug, Default)]
pub struct Manifest {
    /// In the order of the text.
    pub machines: Vec<Machine>,
    /// Credentials for registries, among others.
    pub secrets: Vec<Secret>,
}

/// How names of manifests end in a directory (kubectl's `FileExtensions`).
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// The files that `paths` mean: for a directory those in it whose names end as manifests' do, in the order of their names,
/// and where `recursive` also those in its directories. Links to directories are not followed there: they may lead back.
///
/// # Errors
/// When a directory cannot be read, or has no such file.
pub fn files(paths: &[PathBuf], recursive: bool) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let before = files.len();
        add_directory(path, recursive, &mut files)
            .with_context(|| format!("cannot read the directory `{}`", path.display()))?;
        if files.len() == before {
            let error = anyhow::anyhow!(
                "in the directory `{}` no name ends as those of manifests do, in .json, .yaml or .yml",
                path.display()
            );
            let hint = (!recursive).then(|| "look into its directories too with --recursive".to_owned());
            return Err(Failure::refused(error, hint));
        }
    }
    Ok(files)
}

fn add_directory(directory: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if recursive {
                add_directory(&path, recursive, files)?;
            }
        } else if path.extension().is_some_and(|end| EXTENSIONS.iter().any(|known| end == *known))
            && path.is_file()
        {
            files.push(path);
        }
    }
    Ok(())
}

/// Reads the manifest at `path`, `-` being standard input.
///
/// # Errors
/// When it cannot be read, is too large, or an object in it has the wrong shape.
pub fn read(path: &Path) -> Result<Manifest, Failure> {
    parse(&path.display().to_string(), &text(path)?)
}

/// The text of the manifest at `path`, `-` being standard input; a text that is too long is cut behind the limit, which
/// its decoder notices.
///
/// # Errors
/// When it cannot be read, or is not UTF-8.
pub fn text(path: &Path) -> Result<String, Failure> {
    read_text(path).with_context(|| format!("cannot read the manifest `{}`", path.display())).map_err(
        |error| {
            Failure::refused(
                error,
                Some("give the path of a YAML or JSON file, or `-` for standard input".to_owned()),
            )
        },
    )
}

/// Decodes a manifest's text.
///
/// # Errors
/// As [`manifest::decode_stream`] has them.
pub fn parse(source: &str, text: &str) -> Result<Manifest, Failure> {
    let documents = manifest::decode_stream(source, text)?;
    let mut found = Manifest::default();
    for document in documents {
        match document {
            Document::VirtualMachine(machine) => found.machines.push(Machine::VirtualMachine(machine)),
            Document::VirtualMachineInstance(instance) => {
                found.machines.push(Machine::VirtualMachineInstance(instance));
            }
            Document::Secret(secret) => found.secrets.push(secret),
            // A manifest may carry Services, ConfigMaps and more for a cluster; they do not concern a boot.
            Document::Other { .. } => {}
        }
    }
    Ok(found)
}

fn read_text(path: &Path) -> std::io::Result<String> {
    // One byte more than a manifest may have, so that the decoder sees that it is too long and says so.
    let limit = MAX_INPUT_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count()
            + 1;
        std::io::Error::new(std::io::ErrorKind::InvalidData, format!("line {line} is not UTF-8 text"))
    })
}
