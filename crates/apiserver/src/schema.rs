//! What an object may contain: the compact form of an OpenAPI v3 schema, and the walks over it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use crate::status::{ApiError, FieldError};

mod build;
mod go;
mod object_meta;
pub(crate) mod path;
mod validate;
mod walk;

#[cfg(test)]
mod tests;

pub use object_meta::object_meta;

use path::Path;

/// The schema of a value. The whole of what pruning, validation, defaulting, patches and field ownership need.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Schema {
    /// The definition that this comes from (`io.k8s.api.core.v1.PodSpec`), where it has a name.
    pub definition: Option<Arc<str>>,
    /// The JSON type and what is inside.
    pub shape: Shape,
    /// Whether `null` is a value of its own here (otherwise a null means "unset").
    pub nullable: bool,
    /// What is filled in where the value is missing.
    pub default: Option<Value>,
    /// The only values that are allowed, if not empty.
    pub allowed: Vec<Value>,
    /// Fields that are not in the schema are kept (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown_fields: bool,
    /// `int32`, `int64`, `date-time`, `byte`, …
    pub format: Option<String>,
    /// The smallest number, or the fewest items, characters or properties, by shape.
    pub minimum: Option<f64>,
    /// The largest number, or the most items, characters or properties, by shape.
    pub maximum: Option<f64>,
    /// What a string must match.
    pub pattern: Option<Pattern>,
    /// How two versions of a list are merged (`x-kubernetes-list-type`, `x-kubernetes-list-map-keys`).
    pub list_type: ListType,
    /// Whether an object is owned as a whole (`x-kubernetes-map-type: atomic`).
    pub atomic_map: bool,
    /// `x-kubernetes-patch-strategy`.
    pub patch_strategy: PatchStrategy,
    /// `x-kubernetes-patch-merge-key`.
    pub patch_merge_key: Option<String>,
}

/// The JSON type of a value.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Shape {
    /// Anything at all.
    #[default]
    Any,
    /// An object.
    Object {
        /// The fields that are known.
        fields: BTreeMap<String, Arc<Schema>>,
        /// The fields that must be there.
        required: Vec<String>,
        /// What all other fields are (`additionalProperties`): `None` when there may be none.
        additional: Option<Arc<Schema>>,
    },
    /// A list.
    List(Arc<Schema>),
    /// A string.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A boolean.
    Boolean,
    /// A whole number or a string (`x-kubernetes-int-or-string`; quantities are such).
    IntOrString,
}

/// The format of an [`Shape::IntOrString`] that is a `resource.Quantity`.
const QUANTITY_FORMAT: &str = "quantity";

/// How two versions of a list are merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ListType {
    /// The list is one value.
    #[default]
    Atomic,
    /// A set of scalars.
    Set,
    /// A map whose keys are these fields of its items.
    Map(Vec<String>),
}

/// What a strategic merge patch does with a list or an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists merge by key (or as sets of scalars) instead of being replaced.
    pub merge: bool,
    /// `retainKeys`: fields that the patch does not name are removed.
    pub retain_keys: bool,
    /// `replace`: an object is replaced as a whole.
    pub replace: bool,
}

/// A regular expression, compiled when it is first used.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    compiled: OnceLock<Option<regex::Regex>>,
}

impl Pattern {
    /// A pattern as the schema has it.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), compiled: OnceLock::new() }
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the pattern is found in `text`. A pattern that is no regular expression matches everything.
    pub fn matches(&self, text: &str) -> bool {
        self.compiled
            .get_or_init(|| regex::Regex::new(&self.source).ok())
            .as_ref()
            .is_none_or(|pattern| pattern.is_match(text))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Pattern({:?})", self.source)
    }
}

impl Schema {
    /// The schema of the whole objects that `definition` describes among `components`.
    ///
    /// References are followed by their last segment (`#/components/schemas/NAME`, `#/$defs/NAME`), and what is referred to
    /// is shared. A definition inside itself, and one that is not there, is anything. OpenAPI 3.0 (`nullable`) and JSON Schema
    /// 2020 (`"type": ["string", "null"]`, `const`, `anyOf` with null) are both understood, with Kubernetes' extensions.
    /// `apiVersion`, `kind` and [`metadata`](object_meta) are added as every kind has them.
    pub fn from_components(components: &Map<String, Value>, definition: &str) -> Self {
        build::object(components, definition)
    }

    /// Removes the fields that the schema does not know, and returns their paths (`spec.containers[0].bar`), for
    /// `unknown field "spec.containers[0].bar"`. `self` is the schema of a whole object: `apiVersion`, `kind` and
    /// the fields of `metadata` are known in any case. At most 100 paths are returned; all unknown fields are removed.
    pub fn prune(&self, value: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        walk::prune(self, value, &Path::ROOT, &mut unknown);
        unknown
    }

    /// Removes fields that are `null`, which means "unset", except where `null` is a value of its own.
    pub fn drop_nulls(&self, value: &mut Value) {
        walk::drop_nulls(self, value);
    }

    /// Fills in the defaults of fields that are missing, in objects that are there.
    pub fn fill_defaults(&self, value: &mut Value) {
        walk::fill_defaults(self, value);
    }

    /// Writes every quantity as Kubernetes does that has decoded it: `1000m` becomes `"1"`, `1024Mi` becomes `"1Gi"`, a
    /// number its text. Amounts from [`quantity::Quantity::LIMIT`] on stay as they are.
    pub fn make_quantities_canonical(&self, value: &mut Value) {
        walk::make_quantities_canonical(self, value);
    }

    /// What is wrong with the value, as Kubernetes says it of custom resources (422, `Invalid`); at most 100 faults.
    /// `metadata` is left to [`check_metadata_types`](Self::check_metadata_types) and [`crate::metadata`].
    ///
    /// The texts are those of `k8s.io/kube-openapi/pkg/validation` and `k8s.io/apiextensions-apiserver`.
    pub fn validate(&self, value: &Value) -> Vec<FieldError> {
        validate::validate(self, value)
    }

    /// Checks JSON types alone, as decoding into Go's structs does for built-in kinds. `kind` and `version` are what the
    /// message names (`Pod`, `v1`).
    ///
    /// # Errors
    /// 400 with the first ill-typed field: `Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string
    /// into Go struct field PodSpec.spec.hostNetwork of type bool`.
    pub fn check_types(&self, kind: &str, version: &str, value: &Value) -> Result<(), ApiError> {
        go::check(self, value).map_err(|fault| go::bad_request(kind, version, &fault))
    }

    /// Checks the JSON types of `metadata` alone, which is decoded into a Go struct for custom resources too.
    ///
    /// # Errors
    /// As those of [`check_types`](Self::check_types).
    pub fn check_metadata_types(&self, kind: &str, version: &str, value: &Value) -> Result<(), ApiError> {
        go::check_metadata(value).map_err(|fault| go::bad_request(kind, version, &fault))
    }

    /// The schema of a field of an object: a known field, or what all others are.
    pub fn field(&self, name: &str) -> Option<&Arc<Schema>> {
        match &self.shape {
            Shape::Object { fields, additional, .. } => fields.get(name).or(additional.as_ref()),
            _ => None,
        }
    }

    /// The schema of a list's items.
    pub fn items(&self) -> Option<&Arc<Schema>> {
        match &self.shape {
            Shape::List(items) => Some(items),
            _ => None,
        }
    }
}
