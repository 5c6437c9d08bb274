//! The definitions of a group version: those of its kinds, and what every request and answer is made of.

use serde_json::{Map, Value, json};

use super::{META, reference};
use crate::builtin::schema::components;
use crate::discovery::kinds_of;
use crate::kind::{Kind, Kinds};

/// Where a review's definition is: (group, kind, definition's name).
pub(super) const REVIEWS: [(&str, &str, &str); 6] = [
    ("authentication.k8s.io", "SelfSubjectReview", "io.k8s.api.authentication.v1.SelfSubjectReview"),
    ("authentication.k8s.io", "TokenReview", "io.k8s.api.authentication.v1.TokenReview"),
    (
        "authorization.k8s.io",
        "LocalSubjectAccessReview",
        "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
    ),
    (
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
    ),
    ("authorization.k8s.io", "SelfSubjectRulesReview", "io.k8s.api.authorization.v1.SelfSubjectRulesReview"),
    ("authorization.k8s.io", "SubjectAccessReview", "io.k8s.api.authorization.v1.SubjectAccessReview"),
];

/// The definition that a subresource speaks, and the kind that it belongs to: (definition, group, version).
pub(super) fn spoken(kind: &str) -> Option<(&'static str, &'static str, &'static str)> {
    match kind {
        "Scale" => Some(("io.k8s.api.autoscaling.v1.Scale", "autoscaling", "v1")),
        "Binding" => Some(("io.k8s.api.core.v1.Binding", "", "v1")),
        "Eviction" => Some(("io.k8s.api.policy.v1.Eviction", "policy", "v1")),
        "TokenRequest" => Some(("io.k8s.api.authentication.v1.TokenRequest", "authentication.k8s.io", "v1")),
        _ => None,
    }
}

fn spoken_components(kind: &str) -> Map<String, Value> {
    match kind {
        "Scale" => components("io.k8s.api.autoscaling.v1.Scale"),
        "Binding" => components("io.k8s.api.core.v1.Binding"),
        "Eviction" => components("io.k8s.api.policy.v1.Eviction"),
        "TokenRequest" => components("io.k8s.api.authentication.v1.TokenRequest"),
        "SelfSubjectReview" => components("io.k8s.api.authentication.v1.SelfSubjectReview"),
        "TokenReview" => components("io.k8s.api.authentication.v1.TokenReview"),
        "LocalSubjectAccessReview" => components("io.k8s.api.authorization.v1.LocalSubjectAccessReview"),
        "SelfSubjectAccessReview" => components("io.k8s.api.authorization.v1.SelfSubjectAccessReview"),
        "SelfSubjectRulesReview" => components("io.k8s.api.authorization.v1.SelfSubjectRulesReview"),
        "SubjectAccessReview" => components("io.k8s.api.authorization.v1.SubjectAccessReview"),
        _ => Map::new(),
    }
}

/// The name of the definition of a kind's list.
pub(super) fn list_definition(kind: &Kind) -> String {
    format!("{}List", kind.schema.definition)
}

/// All definitions that the paths of a group version refer to, and all that those refer to.
pub(super) fn schemas(kinds: &Kinds, group: &str, version: &str) -> Map<String, Value> {
    let mut all = machinery();
    let mut add = |more: Map<String, Value>| {
        for (name, schema) in more {
            all.entry(name).or_insert(schema);
        }
    };
    for kind in kinds_of(kinds, group, version) {
        add(kind.schema.components());
        let mut lists = Map::new();
        lists.insert(list_definition(kind), list_schema(kind));
        add(lists);
        for subresource in &kind.subresources {
            add(spoken_components(subresource.kind));
        }
        if kind.scale.is_some() {
            add(spoken_components("Scale"));
        }
    }
    for (_, kind, _) in REVIEWS.iter().filter(|(of, ..)| *of == group && version == "v1") {
        add(spoken_components(kind));
    }
    for kind in kinds_of(kinds, group, version) {
        mark(&mut all, &kind.schema.definition, kind, &kind.names.kind);
        mark(&mut all, &list_definition(kind), kind, &kind.list_kind());
    }
    for (group, kind, definition) in REVIEWS {
        if let Some(schema) = all.get_mut(definition) {
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": group, "kind": kind, "version": "v1"}]);
        }
    }
    for name in ["Scale", "Binding", "Eviction", "TokenRequest"] {
        if let Some((definition, group, version)) = spoken(name)
            && let Some(schema) = all.get_mut(definition)
        {
            schema["x-kubernetes-group-version-kind"] =
                json!([{"group": group, "kind": name, "version": version}]);
        }
    }
    for (name, schema) in &mut all {
        describe_scalars(name, schema);
    }
    all
}

/// Says of a definition which kinds it is; clients look for that.
fn mark(all: &mut Map<String, Value>, definition: &str, kind: &Kind, name: &str) {
    if let Some(schema) = all.get_mut(definition) {
        let kinds: Vec<_> = kind
            .versions
            .iter()
            .map(|version| json!({"group": kind.group, "kind": name, "version": version.name}))
            .collect();
        schema["x-kubernetes-group-version-kind"] = kinds.into();
    }
}

fn list_schema(kind: &Kind) -> Value {
    let described = |text: &str| json!({"type": "string", "description": text});
    json!({
        "description": format!("{} is a list of {}", kind.list_kind(), kind.names.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": described("APIVersion defines the versioned schema of this representation of an object."),
            "items": {
                "description": format!("List of {}.", kind.names.plural),
                "type": "array",
                "items": {"allOf": [reference(&kind.schema.definition)]},
            },
            "kind": described("Kind is a string value representing the REST resource this object represents."),
            "metadata": {
                "description": "Standard list metadata.",
                "allOf": [reference(&format!("{META}.ListMeta"))],
            },
        },
    })
}

/// What every group version uses.
fn machinery() -> Map<String, Value> {
    let mut all = components("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta");
    all.extend(components("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"));
    all.extend(components("io.k8s.apimachinery.pkg.apis.meta.v1.Status"));
    all.insert(
        format!("{META}.Patch"),
        json!({
            "description": "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.",
            "type": "object",
        }),
    );
    if let Some(options) = all.get_mut(&format!("{META}.DeleteOptions")) {
        options["x-kubernetes-group-version-kind"] =
            json!([{"group": "", "kind": "DeleteOptions", "version": "v1"}]);
    }
    if let Some(status) = all.get_mut(&format!("{META}.Status")) {
        status["x-kubernetes-group-version-kind"] = json!([{"group": "", "kind": "Status", "version": "v1"}]);
    }
    all
}

/// Quantities and int-or-strings as Kubernetes publishes them.
fn describe_scalars(name: &str, schema: &mut Value) {
    if name.ends_with(".api.resource.Quantity") {
        schema["oneOf"] = json!([{"type": "string"}, {"type": "number"}]);
    } else if name.ends_with(".util.intstr.IntOrString") {
        schema["format"] = "int-or-string".into();
        schema["oneOf"] = json!([{"type": "integer"}, {"type": "string"}]);
    }
}
