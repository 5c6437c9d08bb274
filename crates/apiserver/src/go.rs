//! How Go prints decoded JSON, as `encoding/json` and the verbs of `fmt` do in Kubernetes' messages.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The most characters of a value that a message quotes; Kubernetes has no such limit.
const QUOTED: usize = 4096;

/// What `encoding/json` calls a value that it cannot decode: `json: cannot unmarshal string into …`.
pub(crate) fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `%T`.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// `%v`. Cut off where it gets long.
pub(crate) fn text(value: &Value) -> String {
    let mut text = String::new();
    write_value(value, &mut text);
    text
}

/// `%v` of an object.
pub(crate) fn map_text(map: &Map<String, Value>) -> String {
    let mut text = String::new();
    write_map(map, &mut text);
    text
}

fn write_value(value: &Value, text: &mut String) {
    if text.len() > QUOTED {
        return;
    }
    match value {
        Value::Null => text.push_str("<nil>"),
        Value::String(string) => text.extend(string.chars().take(QUOTED)),
        Value::Array(items) => {
            text.push('[');
            for (position, item) in items.iter().enumerate() {
                if text.len() > QUOTED {
                    break;
                }
                if position > 0 {
                    text.push(' ');
                }
                write_value(item, text);
            }
            text.push(']');
        }
        Value::Object(map) => write_map(map, text),
        Value::Bool(_) | Value::Number(_) => text.push_str(&value.to_string()),
    }
}

fn write_map(map: &Map<String, Value>, text: &mut String) {
    let mut fields: Vec<_> = map.iter().collect();
    fields.sort_unstable_by_key(|(name, _)| name.as_str());
    text.push_str("map[");
    for (position, (name, value)) in fields.into_iter().enumerate() {
        if text.len() > QUOTED {
            break;
        }
        if position > 0 {
            text.push(' ');
        }
        text.extend(name.chars().take(QUOTED));
        text.push(':');
        write_value(value, text);
    }
    text.push(']');
}

/// `%#v`.
pub(crate) fn syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".to_owned(),
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            format!("[]interface {{}}{{{}}}", items.iter().map(syntax).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> =
                fields.iter().map(|(name, value)| format!("{}:{}", quoted(name), syntax(value))).collect();
            fields.sort();
            format!("map[string]interface {{}}{{{}}}", fields.join(", "))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// `%q`.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\u{0}'..='\u{1f}' | '\u{7f}' => {
                // Writing into a `String` cannot fail.
                let _ = write!(out, "\\x{:02x}", u32::from(character));
            }
            other if other.is_control() => {
                // Writing into a `String` cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(other));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_printed_as_go_prints_them() {
        let value = json!({"b": [1, "x y", null], "a": {"c": true, "d": 1.5}});
        assert_eq!(text(&value), "map[a:map[c:true d:1.5] b:[1 x y <nil>]]");
        assert_eq!(
            syntax(&value),
            "map[string]interface {}{\"a\":map[string]interface {}{\"c\":true, \"d\":1.5}, \
             \"b\":[]interface {}{1, \"x y\", interface {}(nil)}}"
        );
        assert_eq!(quoted("a\"\\\n\u{1}\u{7f}\u{85}é"), r#""a\"\\\n\x01\x7f\u0085é""#);
    }

    #[test]
    fn a_long_value_is_cut_off() {
        let long = json!({"a": "x".repeat(QUOTED), "b": "y", "c": vec!["z"; QUOTED]});
        assert_eq!(text(&long), format!("map[a:{}]", "x".repeat(QUOTED)));
        assert!(text(&json!(vec!["zz"; QUOTED])).len() < QUOTED + 8);
    }
}
