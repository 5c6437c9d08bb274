#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use super::*;
use crate::builtin;

fn kinds() -> Kinds {
    Kinds::new(builtin::kinds())
}

fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(target) if name == "$ref" => {
                        found.insert(target);
                    }
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn check_references(document: &Value, prefix: &str, definitions: &Value) {
    let mut found = BTreeSet::new();
    references(document, &mut found);
    assert!(found.len() > 5);
    for target in found {
        let name = target.strip_prefix(prefix).unwrap_or_else(|| panic!("{target}"));
        assert!(definitions.get(name).is_some(), "{target} leads nowhere");
    }
}

fn operations(document: &Value) -> Vec<&Value> {
    let paths = document["paths"].as_object().unwrap().values();
    paths
        .flat_map(|item| item.as_object().unwrap().iter())
        .filter(|(name, _)| *name != "parameters")
        .map(|(_, operation)| operation)
        .collect()
}

#[test]
fn every_document_of_version_3_is_whole() {
    let kinds = kinds();
    let root = v3_root(&kinds);
    let paths = root["paths"].as_object().unwrap();
    assert!(paths.len() > 10);
    for (path, entry) in paths {
        let url = entry["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with(&format!("/openapi/v3/{path}?hash=")), "{url}");
        let document = v3_group(&kinds, path).unwrap();
        check_references(&document, COMPONENTS, &document["components"]["schemas"]);
        let ids: Vec<_> =
            operations(&document).iter().map(|operation| operation["operationId"].to_string()).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an operation id twice in {path}");
    }
}

#[test]
fn the_hash_follows_the_content_and_unknown_paths_have_no_document() {
    let all = v3_root(&kinds());
    assert_eq!(all, v3_root(&kinds()));
    let fewer = Kinds::new(builtin::kinds().into_iter().filter(|kind| kind.names.kind != "Pod"));
    assert_ne!(v3_root(&fewer)["paths"]["api/v1"], all["paths"]["api/v1"]);
    assert_eq!(v3_root(&fewer)["paths"]["apis/apps/v1"], all["paths"]["apis/apps/v1"]);
    for path in ["", "api", "api/v2", "apis/apps", "apis/apps/v1/x", "apis/nothing/v1", "apis//v1"] {
        assert!(v3_group(&kinds(), path).is_none(), "{path}");
    }
}

#[test]
fn pods_have_the_operations_that_clients_look_for() {
    let document = v3_group(&kinds(), "api/v1").unwrap();
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert_eq!(patch["operationId"], "patchCoreV1NamespacedPod");
    assert_eq!(patch["x-kubernetes-action"], "patch");
    let pod = json!({"group": "", "kind": "Pod", "version": "v1"});
    assert_eq!(patch["x-kubernetes-group-version-kind"], pod);
    // kubectl asks for these two before it sends them.
    for wanted in ["dryRun", "fieldValidation"] {
        let mut parameters = patch["parameters"].as_array().unwrap().iter();
        assert!(parameters.any(|parameter| parameter["name"] == wanted && parameter["in"] == "query"));
    }
    assert_eq!(
        document["components"]["schemas"]["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"][0],
        pod
    );
    let list = &document["paths"]["/api/v1/pods"]["get"];
    assert_eq!(list["operationId"], "listCoreV1PodForAllNamespaces");
    let log = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/log"]["get"];
    assert_eq!(log["operationId"], "readCoreV1NamespacedPodLog");
    let scale = &v3_group(&kinds(), "apis/apps/v1").unwrap()["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]
        ["get"]["x-kubernetes-group-version-kind"];
    assert_eq!(scale["kind"], "Scale");
}

#[test]
fn version_2_is_whole_and_in_its_own_words() {
    let document = v2(&kinds());
    check_references(&document, "#/definitions/", &document["definitions"]);
    let text = document.to_string();
    for word in ["\"nullable\":", "\"oneOf\":", "\"requestBody\":", "components/schemas"] {
        assert!(!text.contains(word), "{word}");
    }
    let definitions = &document["definitions"];
    assert_eq!(
        definitions["io.k8s.api.core.v1.Pod"]["properties"]["spec"]["$ref"],
        "#/definitions/io.k8s.api.core.v1.PodSpec"
    );
    assert!(definitions["io.k8s.api.core.v1.Pod"]["properties"]["spec"]["description"].is_string());
    assert_eq!(definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"], "string");
    let port = &definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"];
    assert_eq!((&port["type"], &port["format"]), (&json!("string"), &json!("int-or-string")));
    for operation in operations(&document) {
        let mut parameters = operation["parameters"].as_array().unwrap().iter();
        assert!(parameters.all(|one| one["type"].is_string() || one["in"] == "body"));
    }
}

/// The fields of a protobuf message, those that hold bytes or messages: (number, content).
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let length = match tag & 7 {
            0 => {
                varint(&mut bytes);
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)).unwrap(),
            other => panic!("wire type {other}"),
        };
        found.push((tag >> 3, &bytes[..length]));
        bytes = &bytes[length..];
    }
    found
}

fn field(bytes: &[u8], number: u64) -> Option<&[u8]> {
    fields(bytes).into_iter().find(|(found, _)| *found == number).map(|(_, content)| content)
}

fn named<'a>(bytes: &'a [u8], list: u64, name: &str) -> Option<&'a [u8]> {
    let entries = fields(bytes).into_iter().filter(|(found, _)| *found == list);
    entries
        .map(|(_, entry)| entry)
        .find(|entry| field(entry, 1) == Some(name.as_bytes()))
        .and_then(|entry| field(entry, 2))
}

#[test]
fn the_protobuf_form_has_everything_in_its_place() {
    let document = v2(&kinds());
    let bytes = v2_protobuf(&document);
    assert_eq!(field(&bytes, 1), Some(&b"2.0"[..]));
    let definitions = field(&bytes, 9).unwrap();
    assert_eq!(fields(definitions).len(), document["definitions"].as_object().unwrap().len());
    let pod = named(definitions, 1, "io.k8s.api.core.v1.Pod").unwrap();
    let kinds = named(pod, 31, "x-kubernetes-group-version-kind").unwrap();
    let kinds: Value = serde_json::from_slice(field(kinds, 2).unwrap()).unwrap();
    assert_eq!(kinds[0]["kind"], "Pod");
    let spec = named(field(pod, 25).unwrap(), 1, "spec").unwrap();
    assert_eq!(field(spec, 1), Some(&b"#/definitions/io.k8s.api.core.v1.PodSpec"[..]));
    let path = named(field(&bytes, 8).unwrap(), 2, "/api/v1/namespaces/{namespace}/pods/{name}").unwrap();
    let patch = field(path, 8).unwrap();
    assert_eq!(field(patch, 5), Some(&b"patchCoreV1NamespacedPod"[..]));
    let names: Vec<_> = fields(patch)
        .into_iter()
        .filter(|(number, _)| *number == 8)
        .filter_map(|(_, item)| field(field(field(field(item, 1)?, 2)?, 3)?, 4))
        .collect();
    assert!(names.contains(&&b"dryRun"[..]), "{names:?}");
}
