//! KubeVirt's own example manifests, read where they lie beside the project; skipped where they are not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use manifest::validate::{validate_vm, validate_vmi};
use manifest::{Document, decode_stream};

/// Examples that KubeVirt itself refuses with its default settings, and the words of the fault.
const REFUSED: [(&str, &str); 5] = [
    ("vmi-host-disk.yaml", "HostDisk feature gate is not enabled"),
    ("vmi-with-sidecar-hook.yaml", "sidecar feature gate"),
    ("vmi-with-sidecar-hook-configmap.yaml", "sidecar feature gate"),
    ("vm-cirros-with-sidecar-hook-configmap.yaml", "sidecar feature gate"),
    ("vmi-usb.yaml", "Host Devices feature gate is not enabled"),
];

#[test]
fn examples_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/kubevirt/examples");
    let Ok(entries) = fs::read_dir(&folder) else {
        eprintln!("skipped: {} is not there", folder.display());
        return;
    };
    let refused = BTreeMap::from(REFUSED);
    let mut checked = 0;
    let mut wrong = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        for document in decode_stream(&name, &fs::read_to_string(&path).unwrap()).unwrap() {
            let causes = match &document {
                Document::VirtualMachine(machine) => validate_vm(machine),
                Document::VirtualMachineInstance(instance) => validate_vmi(instance),
                _ => continue,
            };
            checked += 1;
            let expected = refused.get(name.as_str()).copied();
            let fine = match expected {
                Some(words) => causes.iter().any(|cause| cause.message.contains(words)),
                None => causes.is_empty(),
            };
            if !fine {
                wrong.push((name.clone(), causes));
            }
        }
    }
    assert!(checked > 20, "only {checked} machines and instances found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
