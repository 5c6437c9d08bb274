//! From an OpenAPI v3 document, or what schemars derives, to the compact form.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{ListType, PatchStrategy, Pattern, QUANTITY_FORMAT, Schema, Shape, object_meta};

// Names are compared by their ends: they begin with `io.k8s.` in Kubernetes' documents, with `k8s.io.` in KubeVirt's.

/// Definitions whose content is not described, and is kept as it is.
const OPAQUE: [&str; 5] = [
    "apimachinery.pkg.apis.meta.v1.FieldsV1",
    "apimachinery.pkg.apis.meta.v1.Patch",
    "apimachinery.pkg.runtime.RawExtension",
    "pkg.apis.apiextensions.v1.JSON",
    "pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
];

/// `resource.Quantity`, which is written as a number or a string.
const QUANTITY: &str = "apimachinery.pkg.api.resource.Quantity";

/// `intstr.IntOrString`.
const INT_OR_STRING: &str = "apimachinery.pkg.util.intstr.IntOrString";

/// The schema of the whole objects that `definition` describes.
pub(super) fn object(components: &Map<String, Value>, definition: &str) -> Schema {
    let mut builder =
        Builder { components, named: HashMap::new(), leaves: HashMap::new(), open: BTreeSet::new() };
    let mut schema = (*builder.definition(definition)).clone();
    if !matches!(schema.shape, Shape::Object { .. }) {
        schema.shape = Shape::Object { fields: BTreeMap::new(), required: Vec::new(), additional: None };
        schema.preserve_unknown_fields = true;
    }
    builder.embed(&mut schema);
    schema
}

struct Builder<'a> {
    components: &'a Map<String, Value>,
    /// Definitions that are done: each is built once and shared.
    named: HashMap<String, Arc<Schema>>,
    /// Schemas with nothing inside, by their text: most fields are plain strings, and share one.
    leaves: HashMap<String, Arc<Schema>>,
    /// Definitions that are being built, to notice a definition inside itself.
    open: BTreeSet<String>,
}

impl Builder<'_> {
    fn definition(&mut self, name: &str) -> Arc<Schema> {
        if let Some(done) = self.named.get(name) {
            return Arc::clone(done);
        }
        if name.ends_with(object_meta::SUFFIX) {
            return Arc::clone(object_meta::object_meta());
        }
        let components = self.components;
        let described = components.get(name);
        if OPAQUE.iter().any(|end| name.ends_with(end))
            || described.is_none()
            || !self.open.insert(name.to_owned())
        {
            return anything();
        }
        let mut schema = described.map(|described| (*self.schema(described)).clone()).unwrap_or_default();
        self.open.remove(name);
        if name.ends_with(QUANTITY) || name.ends_with(INT_OR_STRING) {
            schema.shape = Shape::IntOrString;
            schema.format = name.ends_with(QUANTITY).then(|| QUANTITY_FORMAT.to_owned());
        }
        schema.definition = Some(name.into());
        let schema = Arc::new(schema);
        self.named.insert(name.to_owned(), Arc::clone(&schema));
        schema
    }

    /// The schema that `described` describes; `true` and everything that is not an object describe anything.
    fn schema(&mut self, described: &Value) -> Arc<Schema> {
        let Some(described) = described.as_object() else { return anything() };
        if let Some(base) = self.reference(described) {
            return self.adorn(base, described);
        }
        let inside = ["properties", "additionalProperties", "items", "anyOf", "oneOf", "allOf"]
            .iter()
            .any(|inner| described.contains_key(*inner));
        if inside {
            return Arc::new(self.build(described));
        }
        let key: String = described
            .iter()
            .filter(|(name, _)| !is_prose(name))
            .map(|(name, value)| format!("{name}={value};"))
            .collect();
        if let Some(known) = self.leaves.get(&key) {
            return Arc::clone(known);
        }
        let schema = Arc::new(self.build(described));
        self.leaves.insert(key, Arc::clone(&schema));
        schema
    }

    /// What `described` refers to, where it is nothing but a reference (perhaps to "this or null").
    fn reference(&mut self, described: &Map<String, Value>) -> Option<Arc<Schema>> {
        if let Some(target) = described.get("$ref").and_then(Value::as_str) {
            let name = target.rsplit('/').next().unwrap_or(target).replace("~1", "/").replace("~0", "~");
            return Some(self.definition(&name));
        }
        if described.contains_key("properties") || described.contains_key("type") {
            return None;
        }
        if let Some([only]) = described.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
            return Some(self.schema(only));
        }
        let choices = alternatives(described)?;
        let (nulls, others): (Vec<_>, Vec<_>) = choices.iter().partition(|choice| is_null_schema(choice));
        match others[..] {
            [only] => {
                let base = self.schema(only);
                if nulls.is_empty() || base.nullable {
                    return Some(base);
                }
                Some(Arc::new(Schema { nullable: true, ..(*base).clone() }))
            }
            _ => None,
        }
    }

    /// `base` with what stands beside the reference to it.
    fn adorn(&mut self, base: Arc<Schema>, described: &Map<String, Value>) -> Arc<Schema> {
        let plain = described
            .keys()
            .all(|name| is_prose(name) || matches!(name.as_str(), "$ref" | "allOf" | "anyOf" | "oneOf"));
        if plain {
            return base;
        }
        let mut schema = (*base).clone();
        common(&mut schema, described);
        Arc::new(schema)
    }

    fn build(&mut self, described: &Map<String, Value>) -> Schema {
        let mut schema = Schema { shape: self.shape(described), ..Schema::default() };
        common(&mut schema, described);
        if matches!(schema.shape, Shape::Any) {
            schema.preserve_unknown_fields = true;
        }
        let bounds = match schema.shape {
            Shape::Integer | Shape::Number => ["minimum", "maximum"],
            Shape::List(_) => ["minItems", "maxItems"],
            Shape::Object { .. } => ["minProperties", "maxProperties"],
            _ => ["minLength", "maxLength"],
        };
        schema.minimum = described.get(bounds[0]).and_then(Value::as_f64);
        schema.maximum = described.get(bounds[1]).and_then(Value::as_f64);
        if schema.allowed.is_empty() && matches!(schema.shape, Shape::String) {
            schema.allowed = alternatives(described)
                .map(|choices| choices.iter().flat_map(allowed).collect())
                .unwrap_or_default();
        }
        if flag(described, "additionalProperties") {
            schema.preserve_unknown_fields = true;
        }
        if flag(described, "x-kubernetes-embedded-resource") {
            self.embed(&mut schema);
        }
        schema
    }

    fn shape(&mut self, described: &Map<String, Value>) -> Shape {
        if flag(described, "x-kubernetes-int-or-string")
            || described.get("format").and_then(Value::as_str) == Some("int-or-string")
        {
            return Shape::IntOrString;
        }
        let types = types(described);
        match types[..] {
            [] if described.contains_key("properties") || described.contains_key("additionalProperties") => {
                self.structure(described)
            }
            [] if described.contains_key("items") => self.list(described),
            [] => Self::choice(described),
            ["object"] => self.structure(described),
            ["array"] => self.list(described),
            ["string"] => Shape::String,
            ["integer"] => Shape::Integer,
            ["number"] => Shape::Number,
            ["boolean"] => Shape::Boolean,
            ["integer", "string"] | ["string", "integer"] => Shape::IntOrString,
            _ => Shape::Any,
        }
    }

    /// The shape of a choice without a type of its own: texts, whole numbers or texts, or anything.
    fn choice(described: &Map<String, Value>) -> Shape {
        if described.get("enum").and_then(Value::as_array).is_some_and(|values| only_texts(values)) {
            return Shape::String;
        }
        if described.get("const").is_some_and(Value::is_string) {
            return Shape::String;
        }
        let Some(choices) = alternatives(described) else { return Shape::Any };
        let kinds: BTreeSet<_> = choices
            .iter()
            .filter(|choice| !is_null_schema(choice))
            .map(|choice| choice.as_object().map(types).unwrap_or_default())
            .map(|types| if types.len() == 1 { types[0] } else { "" })
            .collect();
        let kinds: Vec<_> = kinds.into_iter().collect();
        let closed = choices.iter().all(|choice| is_null_schema(choice) || !allowed(choice).is_empty());
        match kinds[..] {
            ["integer", "string"] => Shape::IntOrString,
            ["string"] if closed => Shape::String,
            _ => Shape::Any,
        }
    }

    fn structure(&mut self, described: &Map<String, Value>) -> Shape {
        let mut fields = BTreeMap::new();
        if let Some(properties) = described.get("properties").and_then(Value::as_object) {
            for (name, property) in properties {
                fields.insert(name.clone(), self.schema(property));
            }
        }
        let required = described
            .get("required")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        let additional = described
            .get("additionalProperties")
            .filter(|rest| rest.is_object())
            .map(|rest| self.schema(rest));
        Shape::Object { fields, required, additional }
    }

    fn list(&mut self, described: &Map<String, Value>) -> Shape {
        Shape::List(described.get("items").map_or_else(anything, |items| self.schema(items)))
    }

    /// Adds what every whole object has.
    fn embed(&mut self, schema: &mut Schema) {
        let text = self.schema(&serde_json::json!({"type": "string"}));
        if let Shape::Object { fields, .. } = &mut schema.shape {
            for name in ["apiVersion", "kind"] {
                fields.insert(name.to_owned(), Arc::clone(&text));
            }
            fields.insert("metadata".to_owned(), Arc::clone(object_meta::object_meta()));
        }
    }
}

/// What may stand at a type as well as beside a reference.
fn common(schema: &mut Schema, described: &Map<String, Value>) {
    if flag(described, "nullable")
        || described
            .get("type")
            .and_then(Value::as_array)
            .is_some_and(|types| types.iter().any(|t| t == "null"))
        || alternatives(described).is_some_and(|choices| choices.iter().any(is_null_schema))
    {
        schema.nullable = true;
    }
    if let Some(default) = described.get("default").filter(|default| schema.nullable || !default.is_null()) {
        schema.default = Some(default.clone());
    }
    let values: Vec<_> = allowed_here(described).into_iter().filter(|value| !value.is_null()).collect();
    if !values.is_empty() {
        schema.allowed = values;
    }
    if flag(described, "x-kubernetes-preserve-unknown-fields") {
        schema.preserve_unknown_fields = true;
    }
    if let Some(format) = described.get("format").and_then(Value::as_str) {
        schema.format = Some(format.to_owned()).filter(|format| format != "int-or-string");
    }
    if let Some(pattern) = described.get("pattern").and_then(Value::as_str) {
        schema.pattern = Some(Pattern::new(pattern));
    }
    let text = |name| described.get(name).and_then(Value::as_str);
    match text("x-kubernetes-list-type") {
        Some("set") => schema.list_type = ListType::Set,
        Some("map") => {
            let keys = described.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
            let keys = keys.map(|keys| keys.iter().filter_map(Value::as_str).map(str::to_owned).collect());
            schema.list_type = ListType::Map(keys.unwrap_or_default());
        }
        Some(_) => schema.list_type = ListType::Atomic,
        None => {}
    }
    if let Some(map_type) = text("x-kubernetes-map-type") {
        schema.atomic_map = map_type == "atomic";
    }
    if let Some(strategy) = text("x-kubernetes-patch-strategy") {
        let has = |word| strategy.split(',').any(|part| part.trim() == word);
        schema.patch_strategy =
            PatchStrategy { merge: has("merge"), retain_keys: has("retainKeys"), replace: has("replace") };
    }
    if let Some(key) = text("x-kubernetes-patch-merge-key") {
        schema.patch_merge_key = Some(key.to_owned());
    }
}

fn anything() -> Arc<Schema> {
    static ANYTHING: std::sync::OnceLock<Arc<Schema>> = std::sync::OnceLock::new();
    let schema = || Arc::new(Schema { preserve_unknown_fields: true, ..Schema::default() });
    Arc::clone(ANYTHING.get_or_init(schema))
}

fn flag(described: &Map<String, Value>, name: &str) -> bool {
    described.get(name) == Some(&Value::Bool(true))
}

fn is_prose(name: &str) -> bool {
    matches!(
        name,
        "description" | "title" | "example" | "examples" | "externalDocs" | "$comment" | "deprecated"
    )
}

/// The types apart from `null`.
fn types(described: &Map<String, Value>) -> Vec<&str> {
    match described.get("type") {
        Some(Value::String(one)) if one != "null" => vec![one],
        Some(Value::Array(many)) => {
            many.iter().filter_map(Value::as_str).filter(|one| *one != "null").collect()
        }
        _ => Vec::new(),
    }
}

fn alternatives(described: &Map<String, Value>) -> Option<&Vec<Value>> {
    ["anyOf", "oneOf"].iter().find_map(|name| described.get(*name)).and_then(Value::as_array)
}

/// Whether a schema describes `null` alone: `{"type": "null"}`, or OpenAPI 3.0's `{"enum": [null], "nullable": true}`.
fn is_null_schema(described: &Value) -> bool {
    described.get("type") == Some(&Value::from("null"))
        || described.get("const") == Some(&Value::Null)
        || described.get("enum").and_then(Value::as_array).is_some_and(|values| values == &[Value::Null])
}

fn only_texts(values: &[Value]) -> bool {
    !values.is_empty() && values.iter().all(|value| value.is_string() || value.is_null())
}

fn allowed(described: &Value) -> Vec<Value> {
    described.as_object().map(allowed_here).unwrap_or_default()
}

fn allowed_here(described: &Map<String, Value>) -> Vec<Value> {
    match (described.get("enum"), described.get("const")) {
        (Some(Value::Array(values)), _) => values.clone(),
        (_, Some(value)) => vec![value.clone()],
        _ => Vec::new(),
    }
}
