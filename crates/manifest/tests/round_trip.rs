//! No field may be lost between reading and writing: the fixtures, which hold every field, must come out as they went in.
#![allow(clippy::unwrap_used, clippy::print_stderr)]
#![allow(clippy::disallowed_methods, reason = "tests read files and the environment")]

use std::path::Path;

use manifest::{Document, decode_stream};
use serde_json::Value;

fn encoded(document: &Document) -> Value {
    match document {
        Document::VirtualMachine(machine) => serde_json::to_value(machine).unwrap(),
        Document::VirtualMachineInstance(instance) => serde_json::to_value(instance).unwrap(),
        other => panic!("{other:?} is no machine"),
    }
}

/// Paths at which two values differ.
fn differences(before: &Value, after: &Value, path: &str, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(left), Value::Object(right)) => {
            for (key, value) in left {
                let path = format!("{path}.{key}");
                match right.get(key) {
                    Some(other) => differences(value, other, &path, found),
                    None => found.push(format!("{path}: lost")),
                }
            }
            found.extend(
                right.keys().filter(|key| !left.contains_key(*key)).map(|key| format!("{path}.{key}: new")),
            );
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (index, (value, other)) in left.iter().zip(right).enumerate() {
                differences(value, other, &format!("{path}[{index}]"), found);
            }
        }
        (left, right) if left != right => found.push(format!("{path}: {left} became {right}")),
        _ => {}
    }
}

fn assert_survives(source_name: &str, text: &str) {
    let before: Value = serde_saphyr::from_str(text).unwrap();
    let documents = decode_stream(source_name, text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(documents.len(), 1);
    let mut found = Vec::new();
    differences(&before, &encoded(&documents[0]), "", &mut found);
    assert_eq!(found, Vec::<String>::new(), "{source_name}");
}

#[test]
fn complete_objects_survive() {
    assert_survives("virtual-machine-complete.yaml", include_str!("fixtures/virtual-machine-complete.yaml"));
    assert_survives(
        "virtual-machine-instance-complete.yaml",
        include_str!("fixtures/virtual-machine-instance-complete.yaml"),
    );
}

/// KubeVirt's own fully populated objects, where they lie beside the project.
#[test]
fn populated_objects_survive() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/kubevirt/populated");
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there", folder.display());
        return;
    }
    for kind in ["VirtualMachine", "VirtualMachineInstance"] {
        for extension in ["json", "yaml"] {
            let path = folder.join(format!("kubevirt.io.v1.{kind}.{extension}"));
            let text = std::fs::read_to_string(&path).unwrap();
            assert_survives(&path.display().to_string(), &text);
        }
    }
}

/// KubeVirt's example manifests, where they lie beside the project: all of them are read.
#[test]
fn examples_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/kubevirt/examples");
    if !folder.is_dir() {
        eprintln!("skipped: {} is not there", folder.display());
        return;
    }
    let mut machines = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.display().to_string();
        let documents = decode_stream(&name, &text).unwrap_or_else(|error| panic!("{error}"));
        assert!(!documents.is_empty(), "{name}");
        for document in &documents {
            if matches!(document, Document::VirtualMachine(_) | Document::VirtualMachineInstance(_)) {
                machines += 1;
                let text = encoded(document).to_string();
                assert_eq!(decode_stream(&name, &text).unwrap(), std::slice::from_ref(document), "{name}");
            }
        }
    }
    assert!(machines > 20, "only {machines} machines");
}
