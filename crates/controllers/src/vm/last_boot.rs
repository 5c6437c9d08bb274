//! What a machine booted last, kept on the machine so that the next boot can be compared with it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifest::keys::{IMAGE_DIGEST, KERNEL_VERSION, LAST_BOOT};
use manifest::machine_status::{BootFacts, FileFacts};
use manifest::types::{FileChecksum, VirtualMachine, VirtualMachineInstance};
use serde_json::{Value, json};

use super::instance;

/// A merge patch that writes down what `instance` booted; `None` when it is not known (yet) or written down already.
pub fn record(machine: &VirtualMachine, instance: &VirtualMachineInstance) -> Option<Value> {
    if !instance::has_run(instance) {
        return None;
    }
    let facts = serde_json::to_string(&facts(instance)?).ok()?;
    let known = annotation(&machine.metadata, LAST_BOOT);
    (known != Some(&facts)).then(|| json!({"metadata": {"annotations": {LAST_BOOT: facts}}}))
}

/// What `instance` booted, as far as it is published on it.
fn facts(instance: &VirtualMachineInstance) -> Option<BootFacts> {
    let firmware = instance.spec.domain.firmware.as_ref()?;
    let container = firmware.kernel_boot.as_ref()?.container.as_ref()?;
    let image_digest = annotation(&instance.metadata, IMAGE_DIGEST)?.to_owned();
    let boot = instance.status.as_ref().and_then(|status| status.kernel_boot_status.as_ref());
    let file = |path: &Option<String>, info: Option<&FileChecksum>| {
        let path = path.clone().filter(|path| !path.is_empty())?;
        Some(FileFacts { path, checksum: info?.checksum?, ..FileFacts::default() })
    };
    Some(BootFacts {
        image: container.image.clone(),
        image_digest,
        kernel: file(&container.kernel_path, boot.and_then(|boot| boot.kernel_info.as_ref())),
        kernel_version: annotation(&instance.metadata, KERNEL_VERSION).map(str::to_owned),
        initrd: file(&container.initrd_path, boot.and_then(|boot| boot.initrd_info.as_ref())),
    })
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}
