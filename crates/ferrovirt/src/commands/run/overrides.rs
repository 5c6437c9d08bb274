//! `--set path=value`: one field of a manifest changed for one run.
//!
//! A path is written as kubectl and KubeVirt's messages write it: names joined by dots, list indexes in brackets
//! (`spec.template.spec.volumes[0].name`); a name that holds dots itself is quoted in brackets
//! (`metadata.labels["a.b/c"]`). A value is JSON where it reads as JSON (`true`, `4`, `{"a":1}`, `"4"`), else a string.

use anyhow::{Result, bail};
use serde_json::{Map, Value};

/// A parsed `--set`.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    steps: Vec<Step>,
    value: Value,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Name(String),
    Index(usize),
}

impl Override {
    /// Parses `path=value`.
    ///
    /// # Errors
    /// When there is no `=` or the path is not well formed.
    pub fn parse(text: &str) -> Result<Override> {
        let Some(end) = path_end(text) else {
            bail!("`--set {text}` has no value; write `--set path=value`");
        };
        let steps = parse_path(&text[..end])?;
        let raw = &text[end + 1..];
        let value = serde_json::from_str(raw).unwrap_or_else(|_| Value::String(raw.to_owned()));
        Ok(Override { steps, value, text: text.to_owned() })
    }

    /// Changes `document`, creating the objects on the way that are absent.
    ///
    /// # Errors
    /// When the path leads through something that is neither object nor list, or beyond the end of a list (one past
    /// the end appends).
    pub fn apply(&self, document: &mut Value) -> Result<()> {
        let mut place = document;
        for (depth, step) in self.steps.iter().enumerate() {
            if place.is_null() {
                *place = match step {
                    Step::Name(_) => Value::Object(Map::new()),
                    Step::Index(_) => Value::Array(Vec::new()),
                };
            }
            let found = kind(place);
            place = match (step, place) {
                (Step::Name(name), Value::Object(object)) => {
                    object.entry(name.clone()).or_insert(Value::Null)
                }
                (Step::Index(index), Value::Array(list)) => {
                    if *index > list.len() {
                        bail!(
                            "cannot apply `--set {}`: the list has {} items, so there is no [{index}]",
                            self.text,
                            list.len()
                        );
                    }
                    if *index == list.len() {
                        list.push(Value::Null);
                    }
                    &mut list[*index]
                }
                _ => bail!(
                    "cannot apply `--set {}`: `{}` is {found}, it has no fields of that kind",
                    self.text,
                    print_path(&self.steps[..depth])
                ),
            };
        }
        *place = self.value.clone();
        Ok(())
    }
}

/// Where the path ends: the first `=` outside of brackets.
fn path_end(text: &str) -> Option<usize> {
    let mut in_quotes = false;
    text.char_indices().find_map(|(position, character)| {
        match character {
            '"' => in_quotes = !in_quotes,
            '=' if !in_quotes => return Some(position),
            _ => {}
        }
        None
    })
}

fn parse_path(path: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let mut rest = path;
    loop {
        if let Some(quoted) = rest.strip_prefix("[\"") {
            let Some((name, after)) = quoted.split_once("\"]") else {
                bail!("`{path}` is no field path: `[\"` is not closed")
            };
            steps.push(Step::Name(name.to_owned()));
            rest = after;
        } else if let Some(bracket) = rest.strip_prefix('[') {
            let parsed =
                bracket.split_once(']').and_then(|(number, after)| Some((number.parse().ok()?, after)));
            let Some((index, after)) = parsed else {
                bail!("`{path}` is no field path: `[` takes a number or a quoted name")
            };
            steps.push(Step::Index(index));
            rest = after;
        } else {
            let name_end = rest.find(['.', '[']).unwrap_or(rest.len());
            if name_end == 0 {
                bail!("`{path}` is no field path: a name is empty");
            }
            steps.push(Step::Name(rest[..name_end].to_owned()));
            rest = &rest[name_end..];
        }
        if rest.is_empty() {
            return Ok(steps);
        }
        if let Some(after) = rest.strip_prefix('.') {
            if after.is_empty() || after.starts_with('[') {
                bail!("`{path}` is no field path: a name is empty");
            }
            rest = after;
        } else if !rest.starts_with('[') {
            bail!("`{path}` is no field path: `.` or `[` is missing after `]`");
        }
    }
}

fn print_path(steps: &[Step]) -> String {
    let mut out = String::new();
    for step in steps {
        match step {
            Step::Name(name) if name.contains(['.', '[']) => out.push_str(&format!("[\"{name}\"]")),
            Step::Name(name) if out.is_empty() => out.push_str(name),
            Step::Name(name) => out.push_str(&format!(".{name}")),
            Step::Index(index) => out.push_str(&format!("[{index}]")),
        }
    }
    out
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn set(document: Value, text: &str) -> Result<Value> {
        let mut document = document;
        Override::parse(text)?.apply(&mut document)?;
        Ok(document)
    }

    #[test]
    fn values_are_json_or_text() {
        for (text, expected) in [
            ("a=1", json!({"a": 1})),
            ("a=true", json!({"a": true})),
            ("a=2Gi", json!({"a": "2Gi"})),
            ("a=\"1\"", json!({"a": "1"})),
            ("a=", json!({"a": ""})),
            ("a=console=ttyS0 quiet", json!({"a": "console=ttyS0 quiet"})),
            ("a={\"b\":[1]}", json!({"a": {"b": [1]}})),
        ] {
            assert_eq!(set(json!({}), text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn paths_reach_into_objects_lists_and_dotted_names() {
        assert_eq!(set(json!({"a": {"b": 1, "c": 2}}), "a.b=3").unwrap(), json!({"a": {"b": 3, "c": 2}}));
        assert_eq!(
            set(json!({"l": [{"n": 1}, {"n": 2}]}), "l[1].n=5").unwrap(),
            json!({"l": [{"n": 1}, {"n": 5}]})
        );
        assert_eq!(set(json!({"l": [1]}), "l[1]=2").unwrap(), json!({"l": [1, 2]}));
        assert_eq!(
            set(json!({}), "m.labels[\"a.b/c=d\"]=x").unwrap(),
            json!({"m": {"labels": {"a.b/c=d": "x"}}})
        );
        assert_eq!(set(json!({}), "l[0].a=1").unwrap(), json!({"l": [{"a": 1}]}));
    }

    #[test]
    fn bad_paths_are_named() {
        for text in ["a", "=1", "a..b=1", ".a=1", "a.=1", "a[x]=1", "a[1=1", "a[\"b=1", "a[0]b=1", "a.[0]=1"]
        {
            assert!(Override::parse(text).is_err(), "{text}");
        }
        let message = set(json!({"a": "text"}), "a.b=1").unwrap_err().to_string();
        assert_eq!(message, "cannot apply `--set a.b=1`: `a` is a string, it has no fields of that kind");
        assert!(set(json!({"l": [1]}), "l[5]=1").unwrap_err().to_string().contains("no [5]"));
    }
}
