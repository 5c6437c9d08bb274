//! Forms in which objects are printed: `-o json|yaml|name|wide|jsonpath=TEMPLATE`.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::{Arg, Command};
use manifest::encode_yaml;
use serde_json::{Value, json};

use super::resources::Resource;
use super::template::Template;
use super::text;
use crate::report::Failure;

/// A form.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A table with every column.
    Wide,
    /// JSON, indented.
    Json,
    /// YAML.
    Yaml,
    /// `virtualmachine.kubevirt.io/demo`.
    Name,
    /// What a template picks.
    JsonPath(Template),
}

/// The forms that can be asked for; a template follows the last.
const FORMS: [&str; 5] = ["wide", "json", "yaml", "name", "jsonpath="];

/// [`parse`] for the command line, where shells complete the forms.
#[derive(Debug, Clone)]
pub struct OutputParser;

impl TypedValueParser for OutputParser {
    type Value = Output;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Output, clap::Error> {
        TypedValueParser::parse_ref(&parse, command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(FORMS.into_iter().map(PossibleValue::new)))
    }
}

/// Reads `-o`.
///
/// # Errors
/// When it is none of them.
fn parse(word: &str) -> Result<Output, String> {
    match word {
        "wide" => Ok(Output::Wide),
        "json" => Ok(Output::Json),
        "yaml" => Ok(Output::Yaml),
        "name" => Ok(Output::Name),
        _ => match word.strip_prefix("jsonpath=") {
            Some(template) => Template::parse(template).map(Output::JsonPath),
            None => Err("choose one of wide, json, yaml, name, jsonpath=TEMPLATE".to_owned()),
        },
    }
}

impl Output {
    /// Whether objects themselves are needed, and no table of them.
    pub fn needs_objects(&self) -> bool {
        *self != Self::Wide
    }

    /// One object or list as text.
    ///
    /// # Errors
    /// When it cannot be written as YAML.
    pub fn text(&self, resource: &Resource, object: &Value) -> Result<String, Failure> {
        Ok(match self {
            Self::Json => format!("{object:#}\n"),
            Self::Yaml => encode_yaml(object).map_err(|error| {
                Failure::refused(
                    anyhow::anyhow!(error).context("cannot write the answer as YAML"),
                    Some("use -o json".to_owned()),
                )
            })?,
            Self::Name | Self::Wide => {
                let line =
                    |object: &Value| format!("{}/{}\n", resource.title(), text(object, "/metadata/name"));
                match object["items"].as_array() {
                    Some(items) => items.iter().map(line).collect(),
                    None => line(object),
                }
            }
            Self::JsonPath(template) => template.text(object),
        })
    }
}

/// Takes what is only for servers out of an object.
pub fn without_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
}

/// A list as kubectl prints it.
pub fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::resources::MACHINES;
    use super::*;

    #[test]
    fn objects_have_forms() {
        let mut object = json!({"kind": "VirtualMachine",
            "metadata": {"name": "a", "managedFields": [{}], "labels": {"on": "yes"}}});
        without_managed_fields(&mut object);
        let text = |form: &str| parse(form).unwrap().text(&MACHINES, &object).unwrap();
        assert_eq!(text("name"), "virtualmachine.kubevirt.io/a\n");
        assert_eq!(text("jsonpath={.metadata.name}"), "a");
        assert_eq!(
            text("json"),
            "{\n  \"kind\": \"VirtualMachine\",\n  \"metadata\": {\n    \"name\": \"a\",\n    \"labels\": {\n      \
             \"on\": \"yes\"\n    }\n  }\n}\n"
        );
        // What other readers of YAML take for a truth value is in quotes.
        assert_eq!(
            text("yaml"),
            "kind: VirtualMachine\nmetadata:\n  name: a\n  labels:\n    \"on\": \"yes\"\n"
        );
        let both = list(vec![object.clone(), object.clone()]);
        assert_eq!(parse("name").unwrap().text(&MACHINES, &both).unwrap(), text("name").repeat(2));
        for word in ["", "table", "jsonpath", "JSON"] {
            assert!(parse(word).unwrap_err().starts_with("choose one of wide"), "{word}");
        }
    }
}
