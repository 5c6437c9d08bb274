//! The kernel and the initrd of a run: which are wanted, from where, and whether they can be used.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use image::{PullPolicy, PullRequest, PullSecret, PulledImage};
use launcher::boot_files::{self, ImageFile, Role};
use launcher::plan::{BootFiles, BootSource, boot_source};
use manifest::Secret;
use manifest::types::VirtualMachineInstance;
use vmm::kernel::{self, EntryChoice, KernelEntry};

use super::summary::ImageSummary;
use crate::cli::RunFlags;
use crate::commands::Context;
use crate::commands::image::{open_images, parse_reference, warn_of_odd_initrd};
use crate::progress::PullReporter;
use crate::report::Failure;

/// What a run boots, before anything was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    image: Option<WantedImage>,
    local_kernel: Option<PathBuf>,
    local_initrd: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct WantedImage {
    reference: String,
    policy: Option<String>,
    secret: Option<String>,
    kernel_path: Option<String>,
    initrd_path: Option<String>,
}

impl Wanted {
    /// Settles which files come from the image and which from flags.
    pub fn of(instance: &VirtualMachineInstance, flags: &RunFlags) -> Wanted {
        let image = match boot_source(&instance.spec.domain) {
            BootSource::None => None,
            BootSource::Image { image, kernel_path, initrd_path, pull_policy, pull_secret } => {
                Some(WantedImage {
                    reference: image.to_owned(),
                    policy: pull_policy.map(str::to_owned),
                    secret: pull_secret.map(str::to_owned),
                    kernel_path: kernel_path.filter(|_| flags.kernel.is_none()).map(str::to_owned),
                    initrd_path: initrd_path.filter(|_| flags.initrd.is_none()).map(str::to_owned),
                })
            }
        };
        // Where both files are given by flags, there is nothing to pull.
        let image = image.filter(|image| image.kernel_path.is_some() || image.initrd_path.is_some());
        Wanted { image, local_kernel: flags.kernel.clone(), local_initrd: flags.initrd.clone() }
    }
}

/// Fetched files, not yet judged.
#[derive(Debug)]
pub struct Fetched {
    pulled: Option<PulledImage>,
    local_kernel: Option<PathBuf>,
    local_initrd: Option<PathBuf>,
}

/// Files that QEMU is given, and what is told about them.
#[derive(Debug)]
pub struct Boot {
    /// The kernel.
    pub kernel: Kernel,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The image that any of them came from.
    pub image: Option<ImageSummary>,
    /// A line about each file that was found.
    pub found: Vec<String>,
    /// Keeps the image's files in the store while they are used.
    _pulled: Option<PulledImage>,
}

impl Boot {
    /// What QEMU is given.
    pub fn files(&self) -> BootFiles {
        BootFiles { kernel: self.kernel.path.clone(), initrd: self.initrd.clone() }
    }
}

/// The kernel of a run.
#[derive(Debug)]
pub struct Kernel {
    /// A file that QEMU takes.
    pub path: PathBuf,
    /// Path in the image, or on this machine.
    pub shown_path: String,
    /// Digest of the file as it was found; `None` when it could not be read a second time.
    pub digest: Option<String>,
    /// Its release.
    pub version: Option<String>,
    /// How it is entered: `bzImage` or `PVH`.
    pub entry: KernelEntry,
}

/// Brings the wanted files of the image into the store.
///
/// # Errors
/// As [`image::PullError`] has them, and for references and Secrets that make no sense.
pub async fn fetch(
    context: &Context,
    wanted: &Wanted,
    secrets: &[Secret],
    instance: &VirtualMachineInstance,
    progress: &PullReporter,
) -> Result<Fetched, Failure> {
    let (local_kernel, local_initrd) = (wanted.local_kernel.clone(), wanted.local_initrd.clone());
    let Some(image) = &wanted.image else {
        return Ok(Fetched { pulled: None, local_kernel, local_initrd });
    };
    let reference = parse_reference(&image.reference)?;
    let policy = match image.policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        Some("Never") => PullPolicy::Never,
        // Validation lets nothing else through.
        _ => PullPolicy::default_for(&reference),
    };
    let secrets = pull_secrets(context, image.secret.as_deref(), secrets, instance)?;
    let wanted_file = |role: Role, path: &Option<String>| {
        path.as_ref().map(|path| image::WantedFile { role: role.to_string(), path: path.clone() })
    };
    let files =
        [wanted_file(Role::Kernel, &image.kernel_path), wanted_file(Role::Initrd, &image.initrd_path)];
    let request = PullRequest {
        reference,
        policy,
        wanted: image::Wanted::Files(files.into_iter().flatten().collect()),
        platform: image::Platform::linux("amd64"),
        secrets,
    };
    let pulled = open_images(context)?.pull(&request, progress).await?;
    Ok(Fetched { pulled: Some(pulled), local_kernel, local_initrd })
}

/// The Secret that `imagePullSecret` names, out of the manifest. One that is not there only costs the credentials, as
/// with a kubelet (`FailedToRetrieveImagePullSecret`).
fn pull_secrets(
    context: &Context,
    name: Option<&str>,
    secrets: &[Secret],
    instance: &VirtualMachineInstance,
) -> Result<Vec<PullSecret>, Failure> {
    let Some(name) = name else { return Ok(Vec::new()) };
    let namespace = instance.metadata.namespace.as_deref().unwrap_or_default();
    let namespace_of = |secret: &Secret| secret.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let (here, elsewhere): (Vec<&Secret>, Vec<&Secret>) = secrets
        .iter()
        .filter(|secret| secret.name == name)
        .partition(|secret| namespace_of(secret) == namespace);
    let Some(secret) = here.first() else {
        let reason = match elsewhere.first() {
            Some(other) => format!(
                "the manifest's Secret of that name is in the namespace `{}`; give it `namespace: {namespace}`",
                namespace_of(other)
            ),
            None => "the manifest holds no Secret of that name".to_owned(),
        };
        context.reporter.warning(format!(
            "unable to retrieve the image pull secret `{namespace}/{name}`: {reason}; pulling without it"
        ));
        return Ok(Vec::new());
    };
    let key = |key: &str| {
        secret.data.get(key).map(Vec::as_slice).ok_or_else(|| {
            Failure::refused(anyhow::anyhow!("the Secret `{namespace}/{name}` has no key `{key}`"), None)
        })
    };
    let parsed = match secret.type_.as_str() {
        "kubernetes.io/dockerconfigjson" => {
            PullSecret::from_docker_config_json(name, key(".dockerconfigjson")?)
        }
        "kubernetes.io/dockercfg" => PullSecret::from_docker_cfg(name, key(".dockercfg")?),
        other => {
            return Err(Failure::refused(
                anyhow::anyhow!(
                    "the Secret `{namespace}/{name}` has the type `{other}`, which is no image pull secret"
                ),
                Some(
                    "use `kubernetes.io/dockerconfigjson` (`kubectl create secret docker-registry`)"
                        .to_owned(),
                ),
            ));
        }
    };
    Ok(vec![parsed.map_err(|error| Failure::refused(error, None))?])
}

/// Judges the files and makes the kernel one that QEMU takes, entered as `entry` says.
///
/// # Errors
/// When QEMU could not read a file of the image, or the kernel is none.
pub fn prepare(context: &Context, fetched: Fetched, entry: EntryChoice) -> Result<Boot, Failure> {
    let Fetched { pulled, local_kernel, local_initrd } = fetched;
    let mut found = Vec::new();
    let mut from_image = |role: Role| -> Result<Option<&image::PulledFile>, Failure> {
        let file = pulled.iter().flat_map(|pulled| &pulled.files).find(|file| file.role == role.to_string());
        if let Some(file) = file {
            judge_readable(context, role, file)?;
            found.push(format!(
                "{role}: {} → {} ({} bytes, {}:{} {:04o}, {})",
                file.requested, file.resolved, file.size_bytes, file.uid, file.gid, file.mode, file.digest
            ));
        }
        Ok(file)
    };
    let kernel = from_image(Role::Kernel)?;
    let initrd = from_image(Role::Initrd)?;
    let (source, shown_path, digest) = match (&local_kernel, kernel) {
        (Some(path), _) => {
            // Only for "kernel changed"; a file that cannot be read is refused with its reason just below.
            let digest = file_digest(path).ok();
            found.push(format!("kernel: {}", path.display()));
            (path.clone(), path.display().to_string(), digest)
        }
        (None, Some(file)) => (file.path.clone(), file.resolved.clone(), Some(file.digest.to_string())),
        // Judging the manifest has said this already, with the field's path.
        (None, None) => {
            return Err(Failure::refused(anyhow::anyhow!("there is no kernel to boot"), None));
        }
    };
    let source = std::path::absolute(&source).context("cannot make the kernel's path absolute")?;
    let kernel_dir = context.settings.kernel_dir();
    let prepared = kernel::prepare(&source, &kernel_dir, entry).map_err(|error| {
        let failure = Failure::from(error);
        match (&pulled, &local_kernel) {
            (Some(pulled), None) => {
                failure.context(format!("cannot boot `{shown_path}` of the image `{}`", pulled.reference))
            }
            _ => failure,
        }
    })?;
    if let Some(version) = &prepared.info.version {
        found.push(format!("kernel version: {version}"));
    }
    let initrd = match (&local_initrd, initrd) {
        (Some(path), _) => {
            found.push(format!("initrd: {}", path.display()));
            Some(std::path::absolute(path).context("cannot make the initrd's path absolute")?)
        }
        (None, Some(file)) => Some(file.path.clone()),
        (None, None) => None,
    };
    if let Some(initrd) = &initrd {
        warn_of_odd_initrd(context, initrd)?;
    }
    let image = pulled.as_ref().map(|pulled| ImageSummary {
        reference: pulled.reference.to_string(),
        digest: pulled.manifest_digest.to_string(),
        requests: pulled.requests,
        fetched_bytes: pulled.bytes_fetched,
        cached: pulled.from_cache,
    });
    found.push(format!("kernel entry: {}", prepared.entry));
    let kernel = Kernel {
        path: prepared.path,
        shown_path,
        digest,
        version: prepared.info.version,
        entry: prepared.entry,
    };
    Ok(Boot { kernel, initrd, image, found, _pulled: pulled })
}

fn judge_readable(context: &Context, role: Role, file: &image::PulledFile) -> Result<(), Failure> {
    let file = ImageFile { role, path: file.resolved.clone(), uid: file.uid, gid: file.gid, mode: file.mode };
    match boot_files::check_readable(&file) {
        Ok(None) => Ok(()),
        Ok(Some(warning)) => {
            context.reporter.warning(warning);
            Ok(())
        }
        Err(error) => {
            let hint = error.hint();
            Err(Failure::refused(error, Some(hint)))
        }
    }
}

fn file_digest(path: &Path) -> std::io::Result<String> {
    let mut hasher = image::Hasher::new(image::Algorithm::Sha256);
    let mut file = std::fs::File::open(path)?;
    let mut buffer = vec![0u8; 128 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finish().to_string());
        }
        hasher.update(&buffer[..count]);
    }
}
