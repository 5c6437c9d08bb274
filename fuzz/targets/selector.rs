//! Label and field selectors, on an object.
#![no_main]

use std::sync::LazyLock;

use apiserver::builtin;
use apiserver::kind::Kind;
use apiserver::selector::{Fields, Labels};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static POD: LazyLock<Kind> = LazyLock::new(|| {
    builtin::kinds().into_iter().find(|kind| kind.names.kind == "Pod").expect("there are pods")
});
static OBJECT: LazyLock<Value> = LazyLock::new(|| {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "b", "labels": {"a": "b", "c": "", "n": "7", "x.y/z": "a-b"}},
        "spec": {"nodeName": "n"}, "status": {"phase": "Running"}})
});

fuzz_target!(|text: &str| {
    if let Ok(labels) = Labels::parse(text) {
        let matches = labels.matches(&OBJECT);
        assert_eq!(
            labels.matches_json(OBJECT.to_string().as_bytes()),
            matches,
            "both ways to look say the same"
        );
    }
    if let Ok(fields) = Fields::parse(text, &POD) {
        fields.matches(&OBJECT);
        let _ = (fields.exact_name(), fields.exact_namespace());
    }
});
