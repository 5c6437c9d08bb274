//! OpenAPI v3 as v2: what old clients read.

use serde_json::{Map, Value, json};

use super::COMPONENTS;

/// Takes a v3 document apart into v2 paths and definitions.
pub(super) fn convert(
    mut document: Value,
    paths: &mut Map<String, Value>,
    definitions: &mut Map<String, Value>,
) {
    if let Some(Value::Object(schemas)) = document.pointer_mut("/components/schemas").map(Value::take) {
        for (name, mut schema) in schemas {
            if !definitions.contains_key(&name) {
                convert_schema(&mut schema);
                definitions.insert(name, schema);
            }
        }
    }
    if let Some(Value::Object(items)) = document.get_mut("paths").map(Value::take) {
        for (path, item) in items {
            paths.insert(path, path_item(item));
        }
    }
}

/// The schema, in place: references point to `definitions`, and what v2 does not know is dropped.
fn convert_schema(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else { return };
    // `allOf` with one reference is how v3 gives a reference a description.
    if let Some(Value::Array(all)) = fields.get("allOf")
        && let [Value::Object(one)] = &all[..]
        && let Some(target) = one.get("$ref").cloned()
    {
        fields.remove("allOf");
        fields.insert("$ref".to_owned(), target);
    }
    if let Some(Value::String(target)) = fields.get_mut("$ref") {
        *target = target.replacen(COMPONENTS, "#/definitions/", 1);
        // Kubernetes' own v2 document has nothing but the description beside a reference.
        fields.retain(|name, _| matches!(name.as_str(), "$ref" | "description") || name.starts_with("x-"));
        return;
    }
    let either = ["oneOf", "anyOf"].iter().any(|name| fields.remove(*name).is_some());
    fields.remove("nullable");
    fields.remove("not");
    let is_either = either || fields.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    if is_either && !fields.contains_key("type") && !fields.contains_key("properties") {
        fields.insert("type".to_owned(), "string".into());
    }
    for name in ["properties", "patternProperties"] {
        for (_, schema) in fields.get_mut(name).and_then(Value::as_object_mut).into_iter().flatten() {
            convert_schema(schema);
        }
    }
    for name in ["items", "additionalProperties"] {
        if let Some(schema) = fields.get_mut(name) {
            convert_schema(schema);
        }
    }
    for schema in fields.get_mut("allOf").and_then(Value::as_array_mut).into_iter().flatten() {
        convert_schema(schema);
    }
}

fn path_item(item: Value) -> Value {
    let Value::Object(fields) = item else { return item };
    let converted: Map<_, _> = fields
        .into_iter()
        .map(|(name, value)| {
            let value = if name == "parameters" { parameters(value) } else { operation(value) };
            (name, value)
        })
        .collect();
    converted.into()
}

/// v2 has the type of a parameter beside its name.
fn parameters(list: Value) -> Value {
    let Value::Array(list) = list else { return list };
    list.into_iter()
        .map(|mut parameter| {
            if let Some(fields) = parameter.as_object_mut()
                && let Some(Value::Object(schema)) = fields.remove("schema")
            {
                fields.extend(schema);
            }
            parameter
        })
        .collect()
}

fn operation(operation: Value) -> Value {
    let Value::Object(mut fields) = operation else { return operation };
    let mut all = match fields.remove("parameters").map(parameters) {
        Some(Value::Array(all)) => all,
        _ => Vec::new(),
    };
    let mut consumes = json!(["*/*"]);
    if let Some(body) = fields.remove("requestBody") {
        let content = body.get("content").and_then(Value::as_object).cloned().unwrap_or_default();
        let is_patch = content.contains_key("application/merge-patch+json");
        if is_patch {
            consumes = content.keys().map(String::as_str).collect();
        }
        let mut schema =
            content.values().next().and_then(|one| one.get("schema")).cloned().unwrap_or_default();
        convert_schema(&mut schema);
        let mut parameter = json!({"in": "body", "name": "body", "schema": schema});
        if body.get("required") == Some(&Value::Bool(true)) {
            parameter["required"] = true.into();
        }
        all.insert(0, parameter);
    }
    let mut produces = json!([]);
    let responses: Map<_, _> = match fields.remove("responses") {
        Some(Value::Object(responses)) => responses
            .into_iter()
            .map(|(code, response)| {
                let mut converted = json!({"description": response["description"]});
                if let Some(content) = response.get("content").and_then(Value::as_object) {
                    produces = content.keys().map(String::as_str).collect();
                    let first = content.get("application/json").and_then(|one| one.get("schema"));
                    if let Some(mut schema) = first.cloned() {
                        convert_schema(&mut schema);
                        converted["schema"] = schema;
                    }
                }
                (code, converted)
            })
            .collect(),
        _ => Map::new(),
    };
    fields.insert("consumes".to_owned(), consumes);
    fields.insert("produces".to_owned(), produces);
    fields.insert("schemes".to_owned(), json!(["https"]));
    fields.insert("parameters".to_owned(), all.into());
    fields.insert("responses".to_owned(), responses.into());
    fields.into()
}
