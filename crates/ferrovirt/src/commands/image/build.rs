//! `ferrovirt image build`: a kernel, and what belongs to it, as an image.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use image::Platform;
use image::build::{
    BuildRequest, Compression, ImageFile, ImageTree, LABEL_ARCHITECTURE, LABEL_KERNEL_VERSION,
};
use vmm::kernel::{self, KernelInfo};

use super::{new_name, open_store, print_line, push_image, warn_of_odd_initrd};
use crate::cli::{ImageBuildFlags, LayerCompression};
use crate::commands::Context;
use crate::report::{ExitCode, Failure, decimal_bytes};

/// Builds the image, and sends it where it was asked for.
///
/// # Errors
/// When a file is missing or is not what it should be, or the registry refuses.
pub async fn build(context: &Context, flags: ImageBuildFlags) -> Result<ExitCode, Failure> {
    let reference = new_name(context, &flags.tag)?;
    let kernel = kernel::inspect(&flags.kernel)?;
    if let Some(initrd) = &flags.initrd {
        warn_of_odd_initrd(context, initrd)?;
    }
    let request = request(&flags, &kernel, source_date_epoch()?)?;
    let store = open_store(context)?;
    let built = image::build::build(&store, &reference, &request)?;
    context.reporter.note(format!(
        "built {reference}: kernel {}, {} layers, {}",
        kernel.version.as_deref().unwrap_or("of unknown version"),
        built.layers.len(),
        decimal_bytes(built.size_bytes)
    ));
    if flags.push {
        return push_image(context, &reference, &reference).await;
    }
    print_line(&built.digest.to_string())
}

/// The time that everything in the image carries (reproducible-builds.org), zero without `SOURCE_DATE_EPOCH`.
fn source_date_epoch() -> Result<u64, Failure> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Err(_) => Ok(0),
        Ok(text) => text
            .parse()
            .with_context(|| {
                format!("cannot use SOURCE_DATE_EPOCH=`{text}`: it is a number of seconds since 1970")
            })
            .map_err(Failure::from),
    }
}

fn request(
    flags: &ImageBuildFlags,
    kernel: &KernelInfo,
    timestamp_seconds: u64,
) -> Result<BuildRequest, Failure> {
    let mut labels =
        BTreeMap::from([(LABEL_ARCHITECTURE.to_owned(), kernel.architecture.oci_name().to_owned())]);
    if let Some(version) = &kernel.version {
        labels.insert(LABEL_KERNEL_VERSION.to_owned(), version.clone());
    }
    for label in &flags.label {
        let Some((key, value)) = label.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(Failure::usage(format!("`--label {label}` is no label; write `--label KEY=VALUE`")));
        };
        labels.insert(key.to_owned(), value.to_owned());
    }
    let mut files = Vec::new();
    let mut trees = Vec::new();
    if let Some(modules) = &flags.modules {
        trees.push(modules_tree(modules, kernel)?);
    }
    for add in &flags.add {
        let (source, destination) = added(add)?;
        if source.is_dir() {
            trees.push(ImageTree { source, destination, uid: 0, gid: 0, left_out_links: Vec::new() });
        } else {
            // As in trees: what its owner may execute stays executable.
            let executable =
                source.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o100 != 0);
            let mode = if executable { 0o755 } else { 0o644 };
            files.push(ImageFile { source, destination, mode, uid: 0, gid: 0 });
        }
    }
    files.extend(flags.initrd.clone().map(ImageFile::initrd));
    files.push(ImageFile::kernel(flags.kernel.clone()));
    Ok(BuildRequest {
        files,
        trees,
        labels,
        platform: Platform::linux(kernel.architecture.oci_name()),
        compression: match flags.compression {
            LayerCompression::Gzip => Compression::Gzip,
            LayerCompression::Zstd => Compression::Zstd,
            LayerCompression::None => Compression::None,
        },
        timestamp_seconds,
    })
}

/// The modules' place in the image is named by the kernel's release; the directory's own name must agree, since modules
/// of another release cannot be loaded.
fn modules_tree(modules: &Path, kernel: &KernelInfo) -> Result<ImageTree, Failure> {
    let absolute = std::path::absolute(modules).context("cannot make the modules' path absolute")?;
    let name = absolute.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match &kernel.version {
        Some(version) if *version != name => Err(Failure::refused(
            anyhow::anyhow!(
                "the modules in `{}` are for the kernel `{name}`, and the kernel is `{version}`",
                modules.display()
            ),
            Some(format!("name the directory `…/lib/modules/{version}`")),
        )),
        _ => Ok(ImageTree::modules(modules.to_owned(), &name)),
    }
}

fn added(text: &str) -> Result<(PathBuf, String), Failure> {
    match text.rsplit_once(':') {
        Some((source, destination)) if !source.is_empty() && destination.starts_with('/') => {
            Ok((PathBuf::from(source), destination.to_owned()))
        }
        _ => Err(Failure::usage(format!(
            "`--add {text}` does not say what goes where; write `--add SOURCE:/ABSOLUTE/DESTINATION`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn additions_name_an_absolute_destination() {
        assert_eq!(added("a:b:/c").unwrap(), (PathBuf::from("a:b"), "/c".to_owned()));
        for text in ["a", "a:", ":/b", "a:b"] {
            assert_eq!(added(text).unwrap_err().code, ExitCode::Usage, "{text}");
        }
    }
}
