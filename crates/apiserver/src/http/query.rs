//! The options that stand in a request's query.
//!
//! Kubernetes decodes them with `k8s.io/apimachinery/pkg/conversion/queryparams`: the first value of a name counts,
//! unknown names are ignored, a flag is true unless it says `false` or `0`, and numbers are Go's.

use std::borrow::Cow;

use crate::metadata::validate_field_manager;
use crate::status::{ApiError, FieldError};
use crate::verbs::{FieldValidation, check_options};

/// A query, decoded: names and values in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

/// More options than any client sends; what follows is not looked at.
const MOST_OPTIONS: usize = 1000;

impl Query {
    /// Decodes a query. Pairs whose encoding is broken are left out, as Go leaves them out.
    pub fn parse(query: &str) -> Self {
        let pairs = query
            .split('&')
            .filter(|pair| !pair.is_empty() && !pair.contains(';'))
            .take(MOST_OPTIONS)
            .filter_map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Some((decode(name)?, decode(value)?))
            })
            .collect();
        Self { pairs }
    }

    /// The first value of a name.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first value of a name; empty where there is none.
    pub fn text(&self, name: &str) -> &str {
        self.first(name).unwrap_or_default()
    }

    /// Names and values in their order.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// Every value of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether a name is there.
    pub fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// A flag: there, and neither `false` nor `0`.
    pub fn flag(&self, name: &str) -> bool {
        self.optional_flag(name).unwrap_or(false)
    }

    /// A flag that may be left out.
    pub fn optional_flag(&self, name: &str) -> Option<bool> {
        self.first(name).map(|value| !(value.eq_ignore_ascii_case("false") || value == "0"))
    }

    /// A whole number that may be left out (or empty).
    ///
    /// # Errors
    /// 400 in the words of Go's `strconv` when it is none.
    pub fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.first(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let digits = !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits => Ok(Some(number)),
            _ => {
                let why = if digits { "value out of range" } else { "invalid syntax" };
                Err(ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}")))
            }
        }
    }
}

/// A name or a value of a query: `+` is a space.
fn decode(text: &str) -> Option<String> {
    let spaced: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    super::request_info::percent_decode(&spaced)
}

/// The options of create, update and patch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Nothing is stored.
    pub dry_run: bool,
    /// Who owns the fields; empty where the client did not say.
    pub field_manager: String,
    /// What unknown fields do.
    pub field_validation: FieldValidation,
    /// Takes fields from other managers (apply patches only).
    pub force: bool,
}

impl WriteOptions {
    /// Reads the options of a write. `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`; `is_apply` says
    /// whether it is an apply patch.
    ///
    /// # Errors
    /// 422 with every fault.
    pub fn parse(query: &Query, kind: &str, is_apply: bool) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let field_manager = query.text("fieldManager").to_owned();
        if kind == "PatchOptions" {
            if is_apply && field_manager.is_empty() {
                errors.push(FieldError::required("fieldManager", "is required for apply patch"));
            } else if !is_apply && query.has("force") {
                errors.push(FieldError::forbidden("force", "may not be specified for non-apply patch"));
            }
        }
        errors.extend(validate_field_manager(&field_manager, "fieldManager"));
        let dry_run = dry_run(query, &mut errors);
        let field_validation = match query.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                let known = ["", "Ignore", "Strict", "Warn"];
                errors.push(FieldError::not_supported("fieldValidation", other, known));
                FieldValidation::Warn
            }
        };
        check_options(kind, &errors)?;
        Ok(Self { dry_run, field_manager, field_validation, force: query.flag("force") })
    }
}

/// `dryRun`: absent, or `All`.
fn dry_run(query: &Query, errors: &mut Vec<FieldError>) -> bool {
    let mut asked = false;
    for value in query.all("dryRun").filter(|value| !value.is_empty()) {
        if value == "All" {
            asked = true;
        } else {
            errors.push(FieldError::not_supported("dryRun", vec![value], ["All"]));
            return false;
        }
    }
    asked
}

#[cfg(test)]
mod tests;
