//! An object and a patch, parted by a line with `---`, as each kind of patch.
#![no_main]

use std::sync::{Arc, LazyLock};

use apiserver::schema::Schema;
use apiserver::{builtin, decode, patch};
use libfuzzer_sys::fuzz_target;

static POD: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let kinds = builtin::kinds();
    let pod = kinds.iter().find(|kind| kind.names.kind == "Pod").expect("there are pods");
    pod.schema.schema()
});

fuzz_target!(|text: &str| {
    let Some((original, patch)) = text.split_once("\n---\n") else { return };
    let Ok(original) = decode::yaml(original.as_bytes()) else { return };
    let original = original.value;
    let _ = patch::json(&original, patch.as_bytes());
    let Ok(patch) = decode::yaml(patch.as_bytes()) else { return };
    let patch = patch.value;
    let _ = patch::json(&original, patch.to_string().as_bytes());
    let merged = patch::merge(&original, &patch);
    assert_eq!(patch::merge(&merged, &patch), merged, "a merge patch is idempotent");
    let _ = patch::strategic(&original, &patch, &POD);
});
