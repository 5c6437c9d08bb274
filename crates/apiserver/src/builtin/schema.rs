//! The schemas of Kubernetes' own kinds: k8s-openapi's, with the merge facts that it leaves out.
//!
//! They are read from `definitions.txt`, one definition a line. Making them from k8s-openapi's types in the program would
//! take a third of its size; a test makes them so and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::facts;
use crate::kind::SchemaSource;

/// `NAME JSON` a line. Written by `tests/definitions.rs`.
const DEFINITIONS: &str = include_str!("definitions.txt");

/// The name that every object's `metadata` has.
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Where each definition is.
fn index() -> &'static BTreeMap<&'static str, &'static str> {
    static INDEX: OnceLock<BTreeMap<&'static str, &'static str>> = OnceLock::new();
    INDEX.get_or_init(|| DEFINITIONS.lines().filter_map(|line| line.split_once(' ')).collect())
}

/// The schema of a definition.
pub(super) fn source(definition: String) -> SchemaSource {
    let name = definition.clone();
    SchemaSource::new(definition, move || components(&name))
}

/// The definition of this name and of everything that it refers to.
pub(crate) fn components(definition: &str) -> Map<String, Value> {
    const REFERENCE: &str = "\"#/components/schemas/";
    let mut found = Map::new();
    let mut pending = vec![definition];
    let mut seen = BTreeSet::from([definition]);
    while let Some(name) = pending.pop() {
        let Some(&text) = index().get(name) else { continue };
        // The text is JSON of our own, in which nothing but a reference looks like one.
        pending.extend(
            text.split(REFERENCE)
                .skip(1)
                .filter_map(|rest| rest.split_once('"').map(|(name, _)| name))
                .filter(|name| seen.insert(name)),
        );
        // The file's lines are JSON: a test makes them, and every kind is found again in another.
        if let Ok(mut definition) = serde_json::from_str(text) {
            facts::enrich(name, &mut definition);
            found.insert(name.to_owned(), definition);
        }
    }
    found
}

/// An object of which nothing is known but that it is one.
pub(super) fn free_form(definition: &'static str, description: &'static str) -> SchemaSource {
    SchemaSource::new(definition, move || {
        let mut components = components(OBJECT_META);
        let metadata = format!("#/components/schemas/{OBJECT_META}");
        components.insert(
            definition.to_owned(),
            json!({
                "description": description,
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": true,
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"allOf": [{"$ref": metadata}]},
                },
            }),
        );
        components
    })
}
