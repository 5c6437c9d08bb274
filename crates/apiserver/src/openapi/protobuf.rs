//! OpenAPI v2 in protobuf, as gnostic's `openapiv2/OpenAPIv2.proto` lays it out. kubectl reads nothing else.
//!
//! Field numbers are those of that file. What Kubernetes' documents do not use is left out.

use serde_json::Value;

/// One message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// A text; empty ones are not written, as proto3 has it.
    fn text(&mut self, field: u64, value: Option<&Value>) {
        if let Some(text) = value.and_then(Value::as_str).filter(|text| !text.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }

    /// A list of texts.
    fn texts(&mut self, field: u64, value: Option<&Value>) {
        for text in value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn boolean(&mut self, field: u64, value: Option<&Value>) {
        if value.and_then(Value::as_bool) == Some(true) {
            self.varint(field << 3);
            self.varint(1);
        }
    }

    fn integer(&mut self, field: u64, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_u64).filter(|number| *number != 0) {
            self.varint(field << 3);
            self.varint(number);
        }
    }

    fn double(&mut self, field: u64, value: Option<&Value>) {
        if let Some(number) = value.and_then(Value::as_f64).filter(|number| *number != 0.0) {
            self.varint(field << 3 | 1);
            self.0.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    /// `NamedX { name = 1, value = 2 }`
    fn named(&mut self, field: u64, name: &str, value: &Self) {
        let mut entry = Self::default();
        entry.bytes(1, name.as_bytes());
        entry.message(2, value);
        self.message(field, &entry);
    }

    /// Everything that starts with `x-`, as YAML (which JSON is).
    fn extensions(&mut self, field: u64, value: &Value) {
        for (name, value) in value.as_object().into_iter().flatten() {
            if name.starts_with("x-") {
                self.named(field, name, &any(value));
            }
        }
    }
}

/// `Any { yaml = 2 }`
fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.bytes(2, format!("{value}\n").as_bytes());
    message
}

/// `Document`
pub(super) fn document(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, document.get("swagger"));
    let mut info = Message::default();
    info.text(1, document.pointer("/info/title"));
    info.text(2, document.pointer("/info/version"));
    out.message(2, &info);
    let mut paths = Message::default();
    for (path, item) in document.get("paths").and_then(Value::as_object).into_iter().flatten() {
        paths.named(2, path, &path_item(item));
    }
    out.message(8, &paths);
    out.message(9, &named_schemas(document.get("definitions")));
    out.0
}

/// `Definitions` and `Properties`
fn named_schemas(map: Option<&Value>) -> Message {
    let mut out = Message::default();
    for (name, value) in map.and_then(Value::as_object).into_iter().flatten() {
        out.named(1, name, &schema(value));
    }
    out
}

/// `Schema`
fn schema(schema_json: &Value) -> Message {
    let get = |name: &str| schema_json.get(name);
    let mut out = Message::default();
    out.text(1, get("$ref"));
    out.text(2, get("format"));
    out.text(3, get("title"));
    out.text(4, get("description"));
    if let Some(default) = get("default") {
        out.message(5, &any(default));
    }
    out.double(6, get("multipleOf"));
    out.double(7, get("maximum"));
    out.boolean(8, get("exclusiveMaximum"));
    out.double(9, get("minimum"));
    out.boolean(10, get("exclusiveMinimum"));
    out.integer(11, get("maxLength"));
    out.integer(12, get("minLength"));
    out.text(13, get("pattern"));
    out.integer(14, get("maxItems"));
    out.integer(15, get("minItems"));
    out.boolean(16, get("uniqueItems"));
    out.integer(17, get("maxProperties"));
    out.integer(18, get("minProperties"));
    out.texts(19, get("required"));
    for value in get("enum").and_then(Value::as_array).into_iter().flatten() {
        out.message(20, &any(value));
    }
    match get("additionalProperties") {
        Some(Value::Bool(allowed)) => {
            let mut item = Message::default();
            item.varint(2 << 3);
            item.varint(u64::from(*allowed));
            out.message(21, &item);
        }
        Some(inner) => {
            let mut item = Message::default();
            item.message(1, &schema(inner));
            out.message(21, &item);
        }
        None => {}
    }
    if let Some(kind) = get("type") {
        let mut item = Message::default();
        item.text(1, Some(kind));
        item.texts(1, Some(kind));
        out.message(22, &item);
    }
    if let Some(inner) = get("items") {
        let mut item = Message::default();
        item.message(1, &schema(inner));
        out.message(23, &item);
    }
    for inner in get("allOf").and_then(Value::as_array).into_iter().flatten() {
        out.message(24, &schema(inner));
    }
    if get("properties").is_some() {
        out.message(25, &named_schemas(get("properties")));
    }
    out.boolean(27, get("readOnly"));
    out.extensions(31, schema_json);
    out
}

/// `PathItem`
fn path_item(item: &Value) -> Message {
    let mut out = Message::default();
    let methods =
        [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7), ("patch", 8)];
    for (method, field) in methods {
        if let Some(found) = item.get(method) {
            out.message(field, &operation(found));
        }
    }
    add_parameters(&mut out, 9, item.get("parameters"));
    out.extensions(10, item);
    out
}

/// `Operation`
fn operation(operation: &Value) -> Message {
    let mut out = Message::default();
    out.texts(1, operation.get("tags"));
    out.text(3, operation.get("description"));
    out.text(5, operation.get("operationId"));
    out.texts(6, operation.get("produces"));
    out.texts(7, operation.get("consumes"));
    add_parameters(&mut out, 8, operation.get("parameters"));
    let mut responses = Message::default();
    for (code, response) in operation.get("responses").and_then(Value::as_object).into_iter().flatten() {
        let mut body = Message::default();
        body.text(1, response.get("description"));
        if let Some(found) = response.get("schema") {
            let mut item = Message::default();
            item.message(1, &schema(found));
            body.message(2, &item);
        }
        let mut value = Message::default();
        value.message(1, &body);
        responses.named(1, code, &value);
    }
    out.message(9, &responses);
    out.texts(10, operation.get("schemes"));
    out.extensions(13, operation);
    out
}

/// `repeated ParametersItem`
fn add_parameters(out: &mut Message, field: u64, parameters: Option<&Value>) {
    for parameter in parameters.and_then(Value::as_array).into_iter().flatten() {
        let mut choice = Message::default();
        match parameter.get("in").and_then(Value::as_str) {
            Some("body") => {
                let mut body = Message::default();
                body.text(1, parameter.get("description"));
                body.text(2, parameter.get("name"));
                body.text(3, parameter.get("in"));
                body.boolean(4, parameter.get("required"));
                if let Some(found) = parameter.get("schema") {
                    body.message(5, &schema(found));
                }
                choice.message(1, &body);
            }
            place => {
                let is_query = place == Some("query");
                let mut inner = Message::default();
                inner.boolean(1, parameter.get("required"));
                inner.text(2, parameter.get("in"));
                inner.text(3, parameter.get("description"));
                inner.text(4, parameter.get("name"));
                inner.text(if is_query { 6 } else { 5 }, parameter.get("type"));
                inner.boolean(if is_query { 20 } else { 19 }, parameter.get("uniqueItems"));
                let mut other = Message::default();
                other.message(if is_query { 3 } else { 4 }, &inner);
                choice.message(2, &other);
            }
        }
        let mut item = Message::default();
        item.message(1, &choice);
        out.message(field, &item);
    }
}
