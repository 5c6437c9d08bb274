//! `ferrovirt image`: images of the node-local store and of registries.

mod build;
mod show;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use image::archive::{self, LoadRequest, LoadSource};
use image::push::{BlobOutcome, PushEvent, PushProgress, PushRequest, push};
use image::store::{PruneReport, PruneScope, RunMode};
use image::{Client, Images, Platform, PullPolicy, PullRequest, Reference, Store, Wanted, WantedFile};

use vmm::kernel::{self, InitrdKind};

use super::{Context, host};
use crate::cli::{ImageCommand, Policy};
use crate::progress::PullReporter;
use crate::report::{ExitCode, Failure, Reporter, decimal_bytes, print};

/// Runs one of the subcommands.
pub async fn image(context: &Context, command: ImageCommand) -> Result<ExitCode, Failure> {
    match command {
        ImageCommand::Build(flags) => build::build(context, flags).await,
        ImageCommand::Push { reference, destination } => {
            let image = stored_name(context, &reference)?;
            let destination = destination.as_deref().map(parse_reference).transpose()?;
            push_image(context, &image, destination.as_ref().unwrap_or(&image)).await
        }
        ImageCommand::Pull { reference, paths, policy, platform } => {
            pull(context, &reference, paths, policy, platform.as_deref()).await
        }
        ImageCommand::Ls { output } => show::list(&open_store(context)?, output),
        ImageCommand::Inspect { reference } => {
            show::inspect(&open_store(context)?, &stored_name(context, &reference)?)
        }
        ImageCommand::Rm { references } => remove(context, &references),
        ImageCommand::Prune { all, dry_run } => {
            let scope = if all { PruneScope::Unused } else { PruneScope::Unreferenced };
            prune(context, scope, if dry_run { RunMode::DryRun } else { RunMode::Remove })
        }
        ImageCommand::Save { reference, output } => save(context, &reference, output.as_deref()),
        ImageCommand::Load { input, tag } => load(context, &input, tag.as_deref()),
    }
}

/// The image store.
///
/// # Errors
/// When it cannot be opened.
pub fn open_store(context: &Context) -> Result<Store, Failure> {
    Ok(Store::open(&context.settings.image_dir())?)
}

/// The image store and a registry client for it.
///
/// # Errors
/// When the store cannot be opened or a configuration file of the client is malformed.
pub fn open_images(context: &Context) -> Result<Images, Failure> {
    Ok(Images::new(open_store(context)?, open_client(context)?))
}

fn open_client(context: &Context) -> Result<Client, Failure> {
    Ok(Client::new(host::registry_settings(context))?)
}

/// Remarks an initrd that does not look like one: whether it is, only the kernel decides.
///
/// # Errors
/// When it cannot be read.
pub fn warn_of_odd_initrd(context: &Context, path: &Path) -> Result<(), Failure> {
    match kernel::inspect_initrd(path)
        .map_err(|error| Failure::from(error).context("cannot use the initrd"))?
    {
        InitrdKind::Unknown { found } => context
            .reporter
            .warning(format!("the initrd `{}` does not look like one: it is {found}", path.display())),
        InitrdKind::Cpio | InitrdKind::Compressed(_) | InitrdKind::FileSystem(_) => {}
    }
    Ok(())
}

/// The full name that a new image gets for `text`: a short name is spelled out as a pull would, so that what was built
/// as `foo` is what `foo` means to `run`.
///
/// # Errors
/// When it is no reference, or registries.conf(5) cannot resolve it.
fn new_name(context: &Context, text: &str) -> Result<Reference, Failure> {
    let reference = parse_reference(text)?;
    Ok(open_client(context)?.names(&reference)?.into_iter().next().unwrap_or(reference))
}

/// The image of the store that `text` names: of several that a short name may stand for, the first that is there.
///
/// # Errors
/// When it is no reference, registries.conf(5) cannot resolve it, or the store cannot be read.
fn stored_name(context: &Context, text: &str) -> Result<Reference, Failure> {
    let reference = parse_reference(text)?;
    let store = open_store(context)?;
    let mut names = open_client(context)?.names(&reference)?;
    for (index, name) in names.iter().enumerate() {
        if store.record(name)?.is_some() {
            return Ok(names.swap_remove(index));
        }
    }
    Ok(names.into_iter().next().unwrap_or(reference))
}

/// Reads an image reference.
///
/// # Errors
/// When it is none.
pub fn parse_reference(text: &str) -> Result<Reference, Failure> {
    Ok(text.parse::<Reference>()?)
}

async fn push_image(
    context: &Context,
    image: &Reference,
    destination: &Reference,
) -> Result<ExitCode, Failure> {
    let request = PushRequest {
        image: image.clone(),
        destination: destination.clone(),
        platform: Platform::linux("amd64"),
        secrets: Vec::new(),
    };
    let progress = Arc::new(PushReporter(context.reporter));
    let pushed = push(&open_store(context)?, &open_client(context)?, &request, progress).await?;
    context.reporter.note(format!(
        "pushed {destination}: {} uploaded, {} blobs were there",
        decimal_bytes(pushed.uploaded_bytes),
        pushed.skipped_blobs
    ));
    print_line(&pushed.digest.to_string())
}

struct PushReporter(Reporter);

impl PushProgress for PushReporter {
    fn event(&self, event: PushEvent) {
        match event {
            PushEvent::BlobDone { digest, outcome: BlobOutcome::Uploaded } => {
                self.0.note(format!("uploaded {digest}"))
            }
            PushEvent::Retrying { what, attempt, reason, .. } => {
                self.0.warning(format!("{what} failed (attempt {attempt}), trying again: {reason}"));
            }
            PushEvent::Warning(text) => self.0.warning(text),
            PushEvent::BlobStarted { .. } | PushEvent::BlobProgress { .. } | PushEvent::BlobDone { .. } => {}
        }
    }
}

async fn pull(
    context: &Context,
    reference: &str,
    paths: Vec<String>,
    policy: Policy,
    platform: Option<&str>,
) -> Result<ExitCode, Failure> {
    let files = paths.iter().map(|path| WantedFile { role: "file".to_owned(), path: path.clone() }).collect();
    let request = PullRequest {
        reference: parse_reference(reference)?,
        policy: match policy {
            Policy::Always => PullPolicy::Always,
            Policy::IfNotPresent => PullPolicy::IfNotPresent,
            Policy::Never => PullPolicy::Never,
        },
        wanted: if paths.is_empty() { Wanted::Everything } else { Wanted::Files(files) },
        platform: platform.map_or_else(|| Ok(Platform::linux("amd64")), parse_platform)?,
        secrets: Vec::new(),
    };
    let progress = PullReporter::new(context.reporter);
    let pulled = open_images(context)?.pull(&request, &progress).await?;
    drop(progress);
    context.reporter.note(match pulled.from_cache {
        true => format!("{}: unchanged, {} request(s)", pulled.reference, pulled.requests),
        false => format!("{}: {} fetched", pulled.reference, decimal_bytes(pulled.bytes_fetched)),
    });
    for file in &pulled.files {
        print_line(&format!("{}\t{}", file.requested, file.path.display()))?;
    }
    if paths.is_empty() {
        print_line(&pulled.manifest_digest.to_string())?;
    }
    Ok(ExitCode::Done)
}

fn parse_platform(text: &str) -> Result<Platform, Failure> {
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        [os, architecture] if !os.is_empty() && !architecture.is_empty() => {
            Ok(Platform { os: os.to_owned(), architecture: architecture.to_owned(), variant: None })
        }
        [os, architecture, variant] if !os.is_empty() && !architecture.is_empty() && !variant.is_empty() => {
            Ok(Platform {
                variant: Some(variant.to_owned()),
                ..Platform { os: os.to_owned(), architecture: architecture.to_owned(), variant: None }
            })
        }
        _ => Err(Failure::usage(format!(
            "`{text}` is no platform; write `os/architecture[/variant]`, e.g. `linux/amd64`"
        ))),
    }
}

fn remove(context: &Context, references: &[String]) -> Result<ExitCode, Failure> {
    let store = open_store(context)?;
    let parsed = references.iter().map(|text| stored_name(context, text)).collect::<Result<Vec<_>, _>>()?;
    for reference in &parsed {
        report_removed(&store.remove(reference, RunMode::Remove)?)?;
    }
    Ok(ExitCode::Done)
}

fn prune(context: &Context, scope: PruneScope, mode: RunMode) -> Result<ExitCode, Failure> {
    let report = open_store(context)?.prune(scope, mode)?;
    report_removed(&report)?;
    let verb = match mode {
        RunMode::DryRun => "would free",
        RunMode::Remove => "freed",
    };
    context.reporter.note(format!("{verb} {}", decimal_bytes(report.freed_bytes())));
    Ok(ExitCode::Done)
}

fn report_removed(report: &PruneReport) -> Result<(), Failure> {
    for item in &report.removed {
        print_line(&format!("{}\t{}", item.name, decimal_bytes(item.size_bytes)))?;
    }
    Ok(())
}

fn save(context: &Context, reference: &str, output: Option<&Path>) -> Result<ExitCode, Failure> {
    let store = open_store(context)?;
    let references = [stored_name(context, reference)?];
    let platform = Platform::linux("amd64");
    match output {
        Some(path) => archive::save_to_file(&store, &references, &platform, path)?,
        None if std::io::stdout().is_terminal() => {
            return Err(Failure::usage(
                "an archive is nothing for a terminal; write it to a file with `-o FILE`",
            ));
        }
        None => archive::save(&store, &references, &platform, &mut std::io::stdout().lock())?,
    };
    Ok(ExitCode::Done)
}

fn load(context: &Context, input: &Path, tag: Option<&str>) -> Result<ExitCode, Failure> {
    let request = LoadRequest {
        name: tag.map(|tag| new_name(context, tag)).transpose()?,
        platform: Platform::linux("amd64"),
    };
    let store = open_store(context)?;
    let loaded = if input == Path::new("-") {
        archive::load(&store, LoadSource::Reader(&mut std::io::stdin().lock()), &request)?
    } else {
        archive::load(&store, LoadSource::Path(input), &request)?
    };
    for image in loaded {
        for reference in image.references {
            print_line(&format!("{reference}\t{}", image.digest))?;
        }
    }
    Ok(ExitCode::Done)
}

/// One line of data.
fn print_line(line: &str) -> Result<ExitCode, Failure> {
    print(&format!("{line}\n"))?;
    Ok(ExitCode::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_two_or_three_parts() {
        let platform =
            |text| parse_platform(text).map(|platform| platform.to_string()).map_err(|failure| failure.code);
        assert_eq!(platform("linux/amd64"), Ok("linux/amd64".to_owned()));
        assert_eq!(platform("linux/arm64/v8"), Ok("linux/arm64/v8".to_owned()));
        for text in ["linux", "linux/", "/amd64", "a/b/c/d", ""] {
            assert_eq!(platform(text), Err(ExitCode::Usage), "{text}");
        }
    }
}
