//! Field selectors, as `k8s.io/apimachinery/pkg/fields` reads them.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

use crate::kind::{Family, Kind, Scope};
use crate::object;
use crate::status::ApiError;

/// Where a field that can be selected by is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Name,
    Namespace,
    /// A JSON pointer, and what an absent value counts as.
    Pointer(&'static str, &'static str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    field: String,
    place: Place,
    equal: bool,
    value: String,
}

impl Term {
    fn matches(&self, object: &Value) -> bool {
        let found = match self.place {
            Place::Name => Cow::Borrowed(object::name(object)),
            Place::Namespace => Cow::Borrowed(object::namespace(object)),
            Place::Pointer(pointer, absent) => match object.pointer(pointer) {
                None | Some(Value::Null) => Cow::Borrowed(absent),
                Some(Value::String(text)) => Cow::Borrowed(text.as_str()),
                Some(other) => Cow::Owned(other.to_string()),
            },
        };
        (found == self.value) == self.equal
    }
}

/// A field selector: terms that must all hold. Shown as it is written in `fieldSelector=`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    terms: Vec<Term>,
}

impl Fields {
    /// Reads a selector as it stands in `fieldSelector=`. The empty text matches everything.
    ///
    /// `metadata.name` and (but for cluster-scoped custom resources) `metadata.namespace` are always known, everything
    /// else comes from the kind's `selectable_fields`.
    ///
    /// # Errors
    /// 400 when it cannot be read or names a field that cannot be selected by.
    pub fn parse(text: &str, kind: &Kind) -> Result<Self, ApiError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let (field, equal, value) = split_term(part).ok_or_else(|| {
                ApiError::bad_request(format!("invalid selector: '{text}'; can't understand '{part}'"))
            })?;
            let value = unescape(value).map_err(ApiError::bad_request)?;
            terms.push(Term { field: field.to_owned(), place: place(field, kind)?, equal, value });
        }
        Ok(Self { terms })
    }

    /// Whether every object matches.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether the fields of `object` match.
    pub fn matches(&self, object: &Value) -> bool {
        self.terms.iter().all(|term| term.matches(object))
    }

    /// The one name that objects must have, where the selector says so.
    pub fn exact_name(&self) -> Option<&str> {
        self.exact(Place::Name)
    }

    /// The one namespace that objects must be in, where the selector says so.
    pub fn exact_namespace(&self) -> Option<&str> {
        self.exact(Place::Namespace)
    }

    fn exact(&self, place: Place) -> Option<&str> {
        self.terms.iter().find(|term| term.place == place && term.equal).map(|term| term.value.as_str())
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, term) in self.terms.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            let operator = if term.equal { "=" } else { "!=" };
            write!(out, "{comma}{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

fn place(field: &str, kind: &Kind) -> Result<Place, ApiError> {
    let known = kind.selectable_fields.iter().find(|(name, _, _)| *name == field);
    if let Some((_, pointer, absent)) = known {
        return Ok(Place::Pointer(pointer, absent));
    }
    match field {
        "metadata.name" => Ok(Place::Name),
        "metadata.namespace" if kind.family == Family::BuiltIn || kind.scope == Scope::Namespaced => {
            Ok(Place::Namespace)
        }
        // What built-in kinds say that have no conversion of their own for field labels.
        _ if kind.family == Family::BuiltIn && kind.selectable_fields.is_empty() => {
            Err(ApiError::bad_request(format!(
                "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            )))
        }
        _ => Err(ApiError::bad_request(format!("field label not supported: {field}"))),
    }
}

/// Cuts at every comma that no backslash stands before.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// The field, whether the value must be equal, and the value as it is written.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term
        .bytes()
        .zip(term.bytes().skip(1).chain([0]))
        .position(|pair| pair == (b'!', b'=') || pair.0 == b'=')?;
    let (field, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((field, false, value));
    }
    let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='))?;
    Some((field, true, value))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut value = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some(escaped @ ('\\' | ',' | '=')) => value.push(escaped),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(format!("invalid field selector: invalid escape sequence: {sequence}"));
                }
            },
            // Go prints the rune's number.
            ',' | '=' => {
                let number = u32::from(character);
                return Err(format!("invalid field selector: unescaped character in value: {number}"));
            }
            other => value.push(other),
        }
    }
    Ok(value)
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}
