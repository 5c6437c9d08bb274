//! `docs/support.md` says what the code does: it is written from the tables that the check of support reads.
//!
//! `UPDATE_GOLDEN=1 cargo test -p manifest --test support_table` writes it anew.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test may ask the environment

use std::path::Path;

use manifest::unsupported::{SPEC_FIELDS, VIRTUAL_MACHINE_FIELDS, VIRTUAL_MACHINE_INSTANCE_FIELDS, markdown};

fn document() -> String {
    format!(
        "# What is supported of KubeVirt's API\n\n\
         Written from `crates/manifest/src/unsupported.rs` by a test; do not edit. A field that is not in a table is\n\
         refused with its path and \"is not supported by ferrovirt\".\n\n\
         ## The specification of an instance\n\n\
         `spec` of a VirtualMachineInstance, `spec.template.spec` of a VirtualMachine.\n\n{}\n\
         ## VirtualMachine\n\n{}\n\
         ## VirtualMachineInstance\n\n{}",
        markdown(SPEC_FIELDS, ""),
        markdown(VIRTUAL_MACHINE_FIELDS, ""),
        markdown(VIRTUAL_MACHINE_INSTANCE_FIELDS, ""),
    )
}

#[test]
fn the_table_of_support_is_what_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/support.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, document()).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(&path).unwrap_or_default(),
        document(),
        "docs/support.md is out of date: run this test with UPDATE_GOLDEN=1"
    );
}
