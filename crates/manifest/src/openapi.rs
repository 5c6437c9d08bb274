//! The kinds as an OpenAPI v3 document, for servers and for clients that explain or check fields.
//!
//! The definitions come from the same tables that documents are held against, and their descriptions from the
//! documentation of the types, so that none of the three can disagree.
//!
//! Definitions are called as the API server of a cluster would publish them (`io.kubevirt.v1.VirtualMachine`) and refer
//! to each other as `#/components/schemas/NAME`.

use serde_json::{Map, Value, json};

use crate::schema::{Described, Node, ObjectType, Presence, QUANTITY_PATTERN};
use crate::types::{VirtualMachine, VirtualMachineInstance};

/// Name of the definition of `metadata`, which every kind of Kubernetes shares.
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// How lists are merged where they are not replaced as a whole: (type, field, list type, keys). As KubeVirt's own
/// definitions say; every other list is atomic.
const LIST_TYPES: &[(&str, &str, &str, &[&str])] = &[
    ("VirtualMachineInstanceSpec", "resourceClaims", "map", &["name"]),
    ("VirtualMachineInstanceSpec", "topologySpreadConstraints", "map", &["topologyKey", "whenUnsatisfiable"]),
    ("VirtualMachineInstanceSpec", "utilityVolumes", "map", &["name"]),
    ("QemuGuestAgentSSHPublicKeyAccessCredentialPropagation", "users", "set", &[]),
    ("ObjectMeta", "finalizers", "set", &[]),
    ("ObjectMeta", "ownerReferences", "map", &["uid"]),
];

/// Everything that `VirtualMachine` refers to, and itself: [`VIRTUAL_MACHINE`] is its name.
pub fn virtual_machine() -> Map<String, Value> {
    components(VirtualMachine::NODE)
}

/// Everything that `VirtualMachineInstance` refers to, and itself: [`VIRTUAL_MACHINE_INSTANCE`] is its name.
pub fn virtual_machine_instance() -> Map<String, Value> {
    components(VirtualMachineInstance::NODE)
}

/// Name of the definition of the kind `VirtualMachine`.
pub const VIRTUAL_MACHINE: &str = "io.kubevirt.v1.VirtualMachine";

/// Name of the definition of the kind `VirtualMachineInstance`.
pub const VIRTUAL_MACHINE_INSTANCE: &str = "io.kubevirt.v1.VirtualMachineInstance";

fn components(root: &'static Node) -> Map<String, Value> {
    let mut definitions = Map::new();
    schema_of(root, &mut definitions);
    definitions
}

fn definition_name(object: &ObjectType) -> String {
    match object.name {
        "ObjectMeta" => OBJECT_META.to_owned(),
        name => format!("io.kubevirt.v1.{name}"),
    }
}

/// The schema of a value; the definitions that it refers to are added to `definitions`.
fn schema_of(node: &'static Node, definitions: &mut Map<String, Value>) -> Value {
    match node {
        Node::Text => json!({"type": "string"}),
        Node::Boolean => json!({"type": "boolean"}),
        Node::Whole { minimum, maximum } => whole(*minimum, *maximum),
        Node::Quantity => json!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": QUANTITY_PATTERN,
            "x-kubernetes-int-or-string": true,
        }),
        Node::IntOrString => json!({
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": true,
        }),
        Node::Time => json!({"type": "string", "format": "date-time"}),
        Node::AnyObject => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        Node::List(element) => json!({"type": "array", "items": schema_of(element, definitions)}),
        Node::Map(element) => {
            json!({"type": "object", "additionalProperties": schema_of(element, definitions)})
        }
        Node::Object(object) => {
            let name = definition_name(object);
            if !definitions.contains_key(&name) {
                // Its place is taken first, so that a type which holds itself ends.
                definitions.insert(name.clone(), Value::Null);
                let definition = object_schema(object, definitions);
                definitions.insert(name.clone(), definition);
            }
            json!({"$ref": format!("#/components/schemas/{name}")})
        }
    }
}

fn whole(minimum: i128, maximum: i128) -> Value {
    let format =
        if maximum <= i128::from(u32::MAX) && minimum >= i128::from(i32::MIN) { "int32" } else { "int64" };
    let mut schema = json!({"type": "integer", "format": format});
    if minimum == 0 {
        schema["minimum"] = json!(0);
    }
    schema
}

fn object_schema(object: &'static ObjectType, definitions: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    for field in object.fields {
        let mut schema = schema_of(field.node, definitions);
        let description = description(field.documentation);
        // A client shows the description of the field and then that of its type; the same twice says nothing.
        let repeats = matches!(field.node, Node::Object(of) if of.documentation == field.documentation);
        if !description.is_empty() && !repeats {
            // Keywords beside a `$ref` are not read in OpenAPI 3.0.
            if schema.get("$ref").is_some() {
                schema = json!({"allOf": [schema], "description": description});
            } else {
                schema["description"] = description.into();
            }
        }
        let list_type = LIST_TYPES.iter().find(|row| (row.0, row.1) == (object.name, field.name));
        match (field.node, list_type) {
            (Node::List(_), Some((_, _, list_type, keys))) => {
                schema["x-kubernetes-list-type"] = json!(list_type);
                if !keys.is_empty() {
                    schema["x-kubernetes-list-map-keys"] = json!(keys);
                }
            }
            (Node::List(_), None) => schema["x-kubernetes-list-type"] = json!("atomic"),
            _ => {}
        }
        properties.insert(field.name.to_owned(), schema);
    }
    let required: Vec<_> = object
        .fields
        .iter()
        .filter(|field| field.presence == Presence::Required)
        .map(|field| field.name)
        .collect();
    let mut schema = json!({"type": "object"});
    let description = description(object.documentation);
    if !description.is_empty() {
        schema["description"] = description.into();
    }
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema["properties"] = Value::Object(properties);
    schema
}

/// Documentation as a client shows it: one paragraph for each of its own, without the marks of links and code.
fn description(documentation: &str) -> String {
    let mut text = String::new();
    for line in documentation.lines() {
        match line.trim() {
            "" if !text.is_empty() => text.push_str("\n\n"),
            "" => {}
            line => {
                if !text.is_empty() && !text.ends_with('\n') {
                    text.push(' ');
                }
                text.push_str(line);
            }
        }
    }
    let text = text.trim_end().replace('`', "");
    // `[Name]` and `[Name](path)` are links in rustdoc; `disks[0]` is not.
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(open) = rest.find('[') {
        let (before, from) = rest.split_at(open);
        plain.push_str(before);
        let close = from.find(']').unwrap_or(from.len() - 1);
        let inner = from.get(1..close).unwrap_or_default();
        let is_link = !before.ends_with(|letter: char| letter.is_alphanumeric())
            && inner.starts_with(|letter: char| letter.is_alphabetic());
        plain.push_str(if is_link { inner } else { &from[..=close] });
        rest = &from[close + 1..];
        if is_link && rest.starts_with('(') {
            rest = rest.find(')').map_or("", |end| &rest[end + 1..]);
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::*;

    /// Every `$ref` in `value`.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn nothing_is_referred_to_that_is_not_there() {
        for (components, root) in
            [(virtual_machine(), VIRTUAL_MACHINE), (virtual_machine_instance(), VIRTUAL_MACHINE_INSTANCE)]
        {
            assert!(components.contains_key(root), "{root} is missing");
            let mut found = Vec::new();
            components.values().for_each(|definition| references(definition, &mut found));
            assert!(found.len() > 100, "only {} references were found", found.len());
            for reference in found {
                let name = reference.strip_prefix("#/components/schemas/").unwrap();
                assert!(components[name].is_object(), "{name} is missing");
            }
        }
    }

    #[test]
    fn a_field_is_described_by_its_documentation() {
        let components = virtual_machine();
        let machine = &components[VIRTUAL_MACHINE];
        assert_eq!(machine["required"], json!(["spec"]));
        assert_eq!(machine["properties"]["kind"]["description"], "Always VirtualMachine.");
        let boot = &components["io.kubevirt.v1.KernelBootContainer"]["properties"];
        assert_eq!(boot["kernelPath"]["type"], "string");
        let spec = &components["io.kubevirt.v1.VirtualMachineInstanceSpec"]["properties"];
        assert_eq!(spec["topologySpreadConstraints"]["x-kubernetes-list-map-keys"][0], "topologyKey");
        assert_eq!(spec["volumes"]["x-kubernetes-list-type"], "atomic");
    }

    #[test]
    fn two_types_of_one_name_would_be_noticed() {
        fn names(object: &'static ObjectType) -> Vec<&'static str> {
            object.fields.iter().map(|field| field.name).collect()
        }
        fn compare(node: &'static Node, seen: &mut BTreeMap<&'static str, Vec<&'static str>>) {
            match node {
                Node::List(element) | Node::Map(element) => compare(element, seen),
                Node::Object(object) => match seen.get(object.name) {
                    Some(known) => assert_eq!(*known, names(object), "two types are called {}", object.name),
                    None => {
                        seen.insert(object.name, names(object));
                        object.fields.iter().for_each(|field| compare(field.node, seen));
                    }
                },
                _ => {}
            }
        }
        let mut seen = Default::default();
        compare(VirtualMachine::NODE, &mut seen);
        compare(VirtualMachineInstance::NODE, &mut seen);
        assert!(seen.len() > 50);
    }

    #[test]
    fn documentation_loses_its_marks() {
        let text = " One of [`Disk`] and\n [that](crate::x), `disks[0]`.\n\n Second.\n";
        assert_eq!(description(text), "One of Disk and that, disks[0].\n\nSecond.");
    }
}
