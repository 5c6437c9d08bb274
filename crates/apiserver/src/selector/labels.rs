//! Label selectors: what they say, and matching them.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::parser;
use crate::metadata::{is_label_value, is_qualified_name};
use crate::object;
use crate::status::{ApiError, FieldError};

/// How a requirement relates a label to its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    /// `key = value`, `key == value`
    Equals,
    /// `key != value`; also where there is no such label.
    NotEquals,
    /// `key in (a, b)`
    In,
    /// `key notin (a, b)`; also where there is no such label.
    NotIn,
    /// `key`
    Exists,
    /// `!key`
    DoesNotExist,
    /// `key > 1`, by whole number.
    GreaterThan,
    /// `key < 1`, by whole number.
    LessThan,
}

/// One term of a label selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Requirement {
    /// The label's name.
    pub(super) key: String,
    /// What must hold of it.
    pub(super) operator: Operator,
    /// The values, sorted and each once; none for [`Operator::Exists`] and [`Operator::DoesNotExist`].
    pub(super) values: Vec<String>,
}

impl Requirement {
    /// A requirement, checked as `labels.NewRequirement` does.
    ///
    /// # Errors
    /// The message, with every fault.
    pub(super) fn new(key: String, operator: Operator, mut values: Vec<String>) -> Result<Self, String> {
        values.sort_unstable();
        values.dedup();
        let mut faults = Vec::new();
        let mut fault = |field: String, value: Value, detail: String| {
            faults.push(FieldError::invalid(field, value, detail).to_string());
        };
        let key_faults = is_qualified_name(&key);
        if !key_faults.is_empty() {
            fault("key".to_owned(), key.as_str().into(), key_faults.join("; "));
        }
        let listed = || Value::from(values.clone());
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                let detail = "for 'in', 'notin' operators, values set can't be empty";
                fault("values".to_owned(), listed(), detail.to_owned());
            }
            Operator::Equals | Operator::NotEquals if values.len() != 1 => {
                let detail = "exact-match compatibility requires one single value";
                fault("values".to_owned(), listed(), detail.to_owned());
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                let detail = "values set must be empty for exists and does not exist";
                fault("values".to_owned(), listed(), detail.to_owned());
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    let detail = "for 'Gt', 'Lt' operators, exactly one value is required";
                    fault("values".to_owned(), listed(), detail.to_owned());
                }
                for (index, value) in values.iter().enumerate() {
                    if value.parse::<i64>().is_err() {
                        let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                        fault(format!("values[{index}]"), value.as_str().into(), detail.to_owned());
                    }
                }
            }
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            let value_faults = is_label_value(value);
            if !value_faults.is_empty() {
                fault(format!("values[{index}][{key}]"), value.as_str().into(), value_faults.join("; "));
            }
        }
        match &faults[..] {
            [] => Ok(Self { key, operator, values }),
            [one] => Err(one.clone()),
            many => Err(format!("[{}]", many.join(", "))),
        }
    }

    /// Whether it holds where the label has this value, or is missing.
    fn holds(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.binary_search_by(|known| known.as_str().cmp(value)).is_ok();
        let number = |text: &str| text.parse::<i64>().ok();
        let limit = || self.values.first().and_then(|value| number(value));
        match self.operator {
            Operator::Equals | Operator::In => value.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => {
                matches!((value.and_then(number), limit()), (Some(value), Some(limit)) if value > limit)
            }
            Operator::LessThan => {
                matches!((value.and_then(number), limit()), (Some(value), Some(limit)) if value < limit)
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.join(",");
        let key = &self.key;
        match self.operator {
            Operator::Equals => write!(out, "{key}={values}"),
            Operator::NotEquals => write!(out, "{key}!={values}"),
            Operator::In => write!(out, "{key} in ({values})"),
            Operator::NotIn => write!(out, "{key} notin ({values})"),
            Operator::Exists => write!(out, "{key}"),
            Operator::DoesNotExist => write!(out, "!{key}"),
            Operator::GreaterThan => write!(out, "{key}>{values}"),
            Operator::LessThan => write!(out, "{key}<{values}"),
        }
    }
}

/// A label selector: requirements that must all hold. Shown as it is written in `labelSelector=`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    pub(super) requirements: Vec<Requirement>,
    /// Set where nothing can match: a `metav1.LabelSelector` that is not there.
    nothing: bool,
}

impl Labels {
    /// Reads a selector as it stands in `labelSelector=`. The empty text matches everything.
    ///
    /// # Errors
    /// 400 with the text of `k8s.io/apimachinery/pkg/labels`.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut requirements = parser::parse(text).map_err(ApiError::bad_request)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Reads a `metav1.LabelSelector` (`matchLabels` and `matchExpressions`). An empty one matches everything, null
    /// nothing.
    ///
    /// # Errors
    /// 400 when it cannot be read.
    pub fn from_object(selector: &Value) -> Result<Self, ApiError> {
        if selector.is_null() {
            return Ok(Self { requirements: Vec::new(), nothing: true });
        }
        if !selector.is_object() {
            return Err(ApiError::bad_request("a label selector is an object"));
        }
        let mut requirements = Vec::new();
        let text = |value: &Value| {
            value
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| ApiError::bad_request("label selectors are made of strings"))
        };
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let requirement = Requirement::new(key.clone(), Operator::Equals, vec![text(value)?]);
            requirements.push(requirement.map_err(ApiError::bad_request)?);
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let operator = match expression.get("operator").and_then(Value::as_str).unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(ApiError::bad_request(format!(
                        "{other:?} is not a valid label selector operator"
                    )));
                }
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.map(text).collect::<Result<_, _>>()?;
            let key = text(expression.get("key").unwrap_or(&Value::Null))?;
            requirements.push(Requirement::new(key, operator, values).map_err(ApiError::bad_request)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Whether every object matches.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether the labels of `object` match.
    pub fn matches(&self, object: &Value) -> bool {
        if self.is_empty() {
            return true;
        }
        let labels =
            object::metadata(object).and_then(|metadata| metadata.get("labels")).and_then(Value::as_object);
        self.matches_labels(labels)
    }

    /// Whether these labels match; `None` is no labels.
    pub fn matches_labels(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.all_hold(|key| labels?.get(key)?.as_str())
    }

    /// Whether the labels of an object match that is given as JSON. Nothing but the labels is taken out of it, so that
    /// looking at many objects costs little. What is no object does not match.
    pub fn matches_json(&self, object: &[u8]) -> bool {
        #[derive(Deserialize)]
        struct Object {
            metadata: Option<Metadata>,
        }
        #[derive(Deserialize)]
        struct Metadata {
            labels: Option<BTreeMap<String, String>>,
        }
        if self.is_empty() {
            return true;
        }
        let Ok(object) = serde_json::from_slice::<Object>(object) else { return false };
        let labels = object.metadata.and_then(|metadata| metadata.labels).unwrap_or_default();
        self.all_hold(|key| labels.get(key).map(String::as_str))
    }

    fn all_hold<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|requirement| requirement.holds(value(&requirement.key)))
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, requirement) in self.requirements.iter().enumerate() {
            if position > 0 {
                out.write_str(",")?;
            }
            requirement.fmt(out)?;
        }
        Ok(())
    }
}
