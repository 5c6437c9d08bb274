//! YAML and JSON text to JSON values, with the guards that a manifest from a stranger needs.
//!
//! Both syntaxes go through one visitor, which refuses a key that appears twice and keeps count of what it builds: the
//! text itself is bounded by the caller, but a few YAML aliases can stand for any amount of data.
//!
//! YAML is read as kubectl reads it, which means YAML 1.1 words: `yes` is true and `0755` is octal. Documents are split
//! before they are parsed; that is safe, because YAML allows no other use of a line that begins with `---`.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{MessageFormatter, NonFiniteFloatPolicy, UserMessageFormatter};

/// Most values (list elements, fields, scalars) that one stream may hold once aliases are expanded.
const MAX_VALUES: usize = 200_000;

/// Most bytes of text that one stream may hold once aliases are expanded.
const MAX_TEXT_BYTES: usize = 12 << 20;

/// Deepest nesting of lists and objects; a manifest needs about 15.
const MAX_DEPTH: usize = 64;

/// A fault of syntax, placed in the whole text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SyntaxFault {
    /// Line, from 1.
    pub(crate) line: u64,
    /// Column in characters, from 1.
    pub(crate) column: u64,
    /// What is wrong.
    pub(crate) message: String,
}

/// A document, and where it stands.
#[derive(Debug)]
pub(crate) struct RawDocument<'a> {
    pub(crate) value: Value,
    /// Its text, where it is known to be that of this document alone.
    pub(crate) text: Option<&'a str>,
    /// Number of lines before its text.
    pub(crate) lines_before: u64,
}

/// Reads every document of `text`; those that are empty or `null` are left out.
pub(crate) fn read_documents(text: &str) -> Result<Vec<RawDocument<'_>>, SyntaxFault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if is_json(text) { read_json(text) } else { read_yaml(text) }
}

/// Whether `text` is meant as JSON: a brace and a quoted key, and no line that separates YAML documents. (YAML reads most
/// JSON too, but trips over tabs and accepts slips such as a missing value.)
fn is_json(text: &str) -> bool {
    let Some(inside) = text.trim_start().strip_prefix('{') else {
        return false;
    };
    inside.trim_start().starts_with(['"', '}']) && !text.lines().any(is_marker)
}

/// Reads JSON objects that follow one another.
fn read_json(text: &str) -> Result<Vec<RawDocument<'_>>, SyntaxFault> {
    let allowance = Allowance::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let mut documents: Vec<RawDocument<'_>> = Vec::new();
    loop {
        let value =
            ValueSeed(&allowance).deserialize(&mut deserializer).map_err(|error| json_fault(&error))?;
        documents.push(RawDocument { value, text: None, lines_before: 0 });
        if deserializer.end().is_ok() {
            break;
        }
    }
    if let [document] = documents.as_mut_slice() {
        document.text = Some(text);
    }
    Ok(documents)
}

fn json_fault(error: &serde_json::Error) -> SyntaxFault {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    SyntaxFault {
        line: error.line() as u64,
        column: error.column().max(1) as u64,
        message: text.strip_suffix(&place).unwrap_or(&text).to_owned(),
    }
}

fn read_yaml(text: &str) -> Result<Vec<RawDocument<'_>>, SyntaxFault> {
    let allowance = Allowance::default();
    let mut documents = Vec::new();
    for part in split_documents(text) {
        if part.text.lines().all(is_blank) {
            continue;
        }
        let value = serde_saphyr::with_deserializer_from_str_with_options(
            part.text,
            yaml_options(),
            |deserializer| ValueSeed(&allowance).deserialize(deserializer),
        )
        .map_err(|error| yaml_fault(&error, &part))?;
        if !value.is_null() {
            documents.push(RawDocument { value, text: Some(part.text), lines_before: part.lines_before });
        }
    }
    Ok(documents)
}

fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: 1,
            max_nodes: MAX_VALUES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_VALUES,
        },
        legacy_octal_numbers: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
        emit_comments: false,
    }
}

fn yaml_fault(error: &serde_saphyr::Error, part: &Part<'_>) -> SyntaxFault {
    let (line, column) = error.location().map_or((1, 1), |place| (place.line(), place.column()));
    SyntaxFault {
        line: part.lines_before + line.max(1),
        column: column.max(1),
        message: UserMessageFormatter.format_message(error).into_owned(),
    }
}

/// One YAML document, directives and markers included, and the number of lines before it.
struct Part<'a> {
    text: &'a str,
    lines_before: u64,
}

fn split_documents(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut lines_before) = (0, 0);
    let (mut offset, mut lines) = (0, 0);
    let mut has_begun = false;
    for line in text.split_inclusive('\n') {
        let ends_here = is_end_marker(line);
        if is_marker(line) && has_begun {
            parts.push(Part { text: &text[start..offset], lines_before });
            (start, lines_before) = (offset, lines);
        }
        // Comments and directives belong to the document that follows them.
        has_begun |= is_marker(line) || !is_blank(line);
        offset += line.len();
        lines += 1;
        if ends_here {
            parts.push(Part { text: &text[start..offset], lines_before });
            (start, lines_before, has_begun) = (offset, lines, false);
        }
    }
    parts.push(Part { text: &text[start..], lines_before });
    parts
}

/// Whether a line begins a document.
fn is_marker(line: &str) -> bool {
    is_marker_of("---", line)
}

/// Whether a line ends a document.
fn is_end_marker(line: &str) -> bool {
    is_marker_of("...", line)
}

fn is_marker_of(marker: &str, line: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// Whether a line holds no data: nothing, a comment, a directive, or a bare marker.
fn is_blank(line: &str) -> bool {
    if line.starts_with('%') {
        return true;
    }
    let is_any_marker = is_marker(line) || is_end_marker(line);
    let content = if is_any_marker { &line[3..] } else { line };
    let content = content.trim();
    content.is_empty() || content.starts_with('#')
}

/// What may still be built.
struct Allowance {
    values: Cell<usize>,
    text_bytes: Cell<usize>,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { values: Cell::new(MAX_VALUES), text_bytes: Cell::new(MAX_TEXT_BYTES) }
    }
}

impl Allowance {
    fn take_value<E: Error>(&self) -> Result<(), E> {
        let Some(left) = self.values.get().checked_sub(1) else {
            return Err(E::custom(format_args!("more than {MAX_VALUES} values, aliases expanded")));
        };
        self.values.set(left);
        Ok(())
    }

    fn take_text<E: Error>(&self, text: &str) -> Result<(), E> {
        let Some(left) = self.text_bytes.get().checked_sub(text.len()) else {
            return Err(E::custom(format_args!(
                "more than {MAX_TEXT_BYTES} bytes of text, aliases expanded"
            )));
        };
        self.text_bytes.set(left);
        Ok(())
    }
}

/// Builds a value within an allowance.
#[derive(Clone, Copy)]
struct ValueSeed<'a>(&'a Allowance);

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.take_value()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.0.take_text(value)?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        self.0.take_text(&value)?;
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = access.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            self.0.take_text(&key)?;
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{key}` appears twice")));
            }
            let value = access.next_value_seed(self)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Vec<Value> {
        read_documents(text).unwrap().into_iter().map(|document| document.value).collect()
    }

    #[test]
    fn yaml_scalars_mean_what_they_mean_to_kubectl() {
        let text = "a: yes\nb: 0755\nc: '1'\nd: 18446744073709551607\ne: ~\nf: 1.5\ng: on\nh: 0x10\n1: x\ni: 1_000\nj: .inf\n";
        assert_eq!(
            values(text),
            [json!({
                "a": true, "b": 493, "c": "1", "d": 18_446_744_073_709_551_607_u64, "e": null, "f": 1.5, "g": true,
                "h": 16, "1": "x", "i": 1000, "j": ".inf"
            })]
        );
    }

    #[test]
    fn documents_without_data_are_left_out() {
        let text = "# heading\n---\n---\na: 1\n--- # second\nb: 2\n...\n---\n~\n---\n# nothing\n";
        assert_eq!(values(text), [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(values(""), Vec::<Value>::new());
        assert_eq!(
            values("%YAML 1.2\n# x\n---\na: 1\n...\n%YAML 1.2\n---\nb: 2\n"),
            [json!({"a": 1}), json!({"b": 2})]
        );
        assert_eq!(values("a: 1\n...\nb: 2\n"), [json!({"a": 1}), json!({"b": 2})]);
    }

    #[test]
    fn a_line_of_dashes_that_goes_on_is_no_marker() {
        let text = "a: |\n  ---\n  x\nb: 1\n----: 2\n";
        assert_eq!(values(text), [json!({"a": "---\nx\n", "b": 1, "----": 2})]);
    }

    #[test]
    fn json_objects_may_follow_one_another() {
        let text = "\u{feff} {\"a\":\t1}\n{\"b\": 2}\n";
        assert_eq!(values(text), [json!({"a": 1}), json!({"b": 2})]);
    }

    #[test]
    fn a_flow_mapping_is_not_mistaken_for_json() {
        for text in ["{a: 1}\n---\nb: 2\n", "{\"a\": 1}\n---\nb: 2\n"] {
            assert_eq!(values(text), [json!({"a": 1}), json!({"b": 2})]);
        }
    }

    fn fault(text: &str) -> SyntaxFault {
        read_documents(text).unwrap_err()
    }

    #[test]
    fn faults_of_yaml_carry_line_and_column_of_the_whole_text() {
        let found = fault("a: 1\n---\nb: 2\n  c: 3\n");
        assert_eq!((found.line, found.column), (4, 4), "{found:?}");
        let found = fault("a: 1\n---\nb: {\n");
        assert!(found.line >= 3, "{found:?}");
        let found = fault("a:\n\t- b\n");
        assert_eq!(found.line, 2, "{found:?}");
    }

    #[test]
    fn faults_of_json_carry_line_and_column() {
        let found = fault("{\"a\": 1,\n \"b\": }\n");
        assert_eq!((found.line, found.column), (2, 7));
        assert_eq!(found.message, "expected value");
    }

    #[test]
    fn a_key_twice_is_refused_in_both_syntaxes() {
        let found = fault("a:\n  b: 1\n  c: 2\n  b: 3\n");
        assert_eq!(found.line, 4);
        assert!(found.message.contains("duplicate") && found.message.contains('b'), "{found:?}");
        let found = fault("{\"a\": 1,\n \"a\": 2}");
        assert_eq!(found.line, 2);
        assert_eq!(found.message, "the key `a` appears twice");
    }

    #[test]
    fn aliases_cannot_stand_for_more_than_the_allowance() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let previous = format!("*a{}, ", level - 1).repeat(10);
            text.push_str(&format!("a{level}: &a{level} [{}]\n", previous.trim_end_matches(", ")));
        }
        assert_eq!(
            fault(&text).message,
            "YAML document too large or too complex: total_replayed_events=200001 > 200000"
        );

        let large = "x".repeat(1 << 20);
        let text = format!("a: &a {large}\nb: [{}]\n", "*a, ".repeat(50));
        assert_eq!(fault(&text).message, "more than 12582912 bytes of text, aliases expanded");
    }

    #[test]
    fn nesting_is_bounded_in_both_syntaxes() {
        let deep = format!("a: {}{}", "[".repeat(1000), "]".repeat(1000));
        assert!(read_documents(&deep).is_err());
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(1000), "]".repeat(1000));
        assert!(read_documents(&deep).is_err());
    }
}
