//! OpenAPI documents: version 3 per group version, and version 2 as one document, in JSON and in protobuf.
//!
//! All are made on demand from the kinds, and nothing of them is kept but their hashes.

mod components;
mod operations;
mod parameters;
mod protobuf;
mod swagger;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::discovery;
use crate::kind::Kinds;

const COMPONENTS: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// What refers to a definition.
fn reference(definition: &str) -> Value {
    json!({"$ref": format!("{COMPONENTS}{definition}")})
}

/// The path of a document: `api/v1`, `apis/apps/v1`.
fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The other way round: (group, version).
fn parse_path(path: &str) -> Option<(&str, &str)> {
    if let Some(version) = path.strip_prefix("api/") {
        return (!version.contains('/')).then_some(("", version));
    }
    let (group, version) = path.strip_prefix("apis/")?.split_once('/')?;
    (!group.is_empty() && !version.contains('/')).then_some((group, version))
}

/// `GET /openapi/v3`: the paths of the documents, each with a hash of its content, by which clients cache it. The first
/// call makes every document once.
pub fn v3_root(kinds: &Kinds) -> Value {
    let hashes = kinds.openapi_hashes.get_or_init(|| {
        let mut hashes = BTreeMap::new();
        for group in discovery::all_groups(kinds) {
            for version in &group.versions {
                let path = document_path(&group.name, version);
                if let Some(document) = v3_group(kinds, &path) {
                    hashes.insert(path, hash(&document));
                }
            }
        }
        hashes
    });
    let paths: Map<_, _> = hashes
        .iter()
        .map(|(path, hash)| {
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path.clone(), json!({"serverRelativeURL": url}))
        })
        .collect();
    json!({"paths": paths})
}

/// SHA-512 is what Kubernetes takes; all that clients ask is that it changes with the content.
fn hash(document: &Value) -> String {
    let mut hasher = Sha256::new();
    hasher.update(document.to_string());
    hasher.finalize().iter().map(|byte| format!("{byte:02X}")).collect()
}

/// `GET /openapi/v3/PATH`, where `path` is `api/v1` or `apis/GROUP/VERSION`; `None` when there is no such version.
pub fn v3_group(kinds: &Kinds, path: &str) -> Option<Value> {
    let (group, version) = parse_path(path)?;
    let groups = discovery::all_groups(kinds);
    let known = groups.iter().find(|known| known.name == group)?;
    if !known.versions.iter().any(|served| served == version) {
        return None;
    }
    let mut schemas = components::schemas(kinds, group, version);
    schemas.sort_keys();
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": operations::paths(kinds, group, version),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "BearerToken": {
                    "type": "apiKey", "description": "Bearer Token authentication", "name": "authorization",
                    "in": "header",
                },
            },
        },
        "security": [{"BearerToken": []}],
    }))
}

/// `GET /openapi/v2` as JSON.
pub fn v2(kinds: &Kinds) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for group in discovery::all_groups(kinds) {
        for version in &group.versions {
            if let Some(document) = v3_group(kinds, &document_path(&group.name, version)) {
                swagger::convert(document, &mut paths, &mut definitions);
            }
        }
    }
    paths.sort_keys();
    definitions.sort_keys();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {
            "BearerToken": {
                "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization",
                "in": "header",
            },
        },
        "security": [{"BearerToken": []}],
    })
}

/// `GET /openapi/v2` as `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`, from what [`v2`] made.
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    protobuf::document(document)
}

#[cfg(test)]
mod tests;
