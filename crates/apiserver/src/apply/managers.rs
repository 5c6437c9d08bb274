//! `metadata.managedFields`: who owns which fields since when.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::element::Element;
use super::merge::Comparison;
use super::set::{FieldsError, Set};
use super::typed::Typed;
use crate::go;
use crate::object::{metadata, metadata_mut};
use crate::status::{ApiError, Cause, Details};

/// How many managers are kept that wrote by other means than apply; the oldest ones beyond are merged.
/// `DefaultMaxUpdateManagers` of `k8s.io/apimachinery/pkg/util/managedfields`.
const MAX_UPDATE_MANAGERS: usize = 10;

/// The name under which the oldest updates are merged.
const ANCIENT_CHANGES: &str = "ancient-changes";

/// By what kind of request fields were set. The order is that of the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// What tells one entry from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) name: String,
    pub(super) operation: Operation,
    /// Empty for appliers: one who applies another version goes on in the same entry.
    pub(super) api_version: String,
    pub(super) subresource: String,
}

impl Owner {
    pub(super) fn new(manager: &super::Manager, operation: Operation) -> Self {
        let name = if manager.name.is_empty() { "unknown" } else { &manager.name };
        Self {
            name: name.to_owned(),
            operation,
            api_version: match operation {
                Operation::Apply => String::new(),
                Operation::Update => manager.api_version.clone(),
            },
            subresource: manager.subresource.clone(),
        }
    }

    /// As conflicts name it: `"kubectl" with subresource "status" using v1`.
    fn words(&self) -> String {
        let mut words = go::quoted(&self.name);
        if !self.subresource.is_empty() {
            words.push_str(" with subresource ");
            words.push_str(&go::quoted(&self.subresource));
        }
        if self.operation == Operation::Update {
            words.push_str(" using ");
            words.push_str(&self.api_version);
        }
        words
    }
}

/// What one owner owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) fields: Set,
    pub(super) api_version: String,
    /// RFC 3339, as it was found.
    pub(super) time: Option<String>,
}

impl Owned {
    fn seconds(&self) -> i64 {
        self.time.as_deref().and_then(seconds).unwrap_or_default()
    }
}

fn seconds(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

/// Why `managedFields` cannot be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("managedFields must be a list of objects")]
    Shape,
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    #[error("apiVersion must not be empty")]
    ApiVersion,
    #[error("missing fieldsType in managed fields entry {0}")]
    MissingFieldsType(usize),
    #[error("invalid fieldsType {1:?} in managed fields entry {0}")]
    FieldsType(usize, String),
    #[error("invalid time {0:?}")]
    Time(String),
    #[error("error decoding set: {0}")]
    Fields(#[from] FieldsError),
}

/// A field that is owned by another.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Conflict {
    pub(super) owner: Owner,
    pub(super) path: Vec<Element>,
}

/// All owners of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Owners(pub(super) BTreeMap<Owner, Owned>);

impl Owners {
    /// The owners that an object names; none where it names none.
    pub(super) fn of(object: &Value) -> Result<Self, DecodeError> {
        let entries = match metadata(object).and_then(|metadata| metadata.get("managedFields")) {
            None | Some(Value::Null) => return Ok(Self::default()),
            Some(Value::Array(entries)) => entries,
            Some(_) => return Err(DecodeError::Shape),
        };
        let mut owners = BTreeMap::new();
        for (index, entry) in entries.iter().enumerate() {
            let entry = entry.as_object().ok_or(DecodeError::Shape)?;
            let text = |name: &str| match entry.get(name) {
                None | Some(Value::Null) => Ok(""),
                Some(Value::String(text)) => Ok(text.as_str()),
                Some(_) => Err(DecodeError::Shape),
            };
            let operation = match text("operation")? {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err(DecodeError::Operation),
            };
            let api_version = text("apiVersion")?;
            if api_version.is_empty() {
                return Err(DecodeError::ApiVersion);
            }
            match text("fieldsType")? {
                "FieldsV1" => {}
                "" => return Err(DecodeError::MissingFieldsType(index)),
                other => return Err(DecodeError::FieldsType(index, other.to_owned())),
            }
            let time = match text("time")? {
                "" => None,
                time if seconds(time).is_some() => Some(time.to_owned()),
                other => return Err(DecodeError::Time(other.to_owned())),
            };
            let fields = match entry.get("fieldsV1") {
                None | Some(Value::Null) => Set::default(),
                Some(fields) => Set::decode(fields)?,
            };
            let owner = Owner {
                name: text("manager")?.to_owned(),
                operation,
                api_version: match operation {
                    Operation::Apply => String::new(),
                    Operation::Update => api_version.to_owned(),
                },
                subresource: text("subresource")?.to_owned(),
            };
            owners.insert(owner, Owned { fields, api_version: api_version.to_owned(), time });
        }
        Ok(Self(owners))
    }

    /// Writes the owners into an object, in Kubernetes' order; no owners, no `managedFields`.
    pub(super) fn write(&self, object: &mut Value) {
        let Some(metadata) = metadata_mut(object) else { return };
        // It is always the last field, as in `ObjectMeta`.
        metadata.shift_remove("managedFields");
        if self.0.is_empty() {
            return;
        }
        let mut entries: Vec<_> = self.0.iter().collect();
        entries.sort_by(|left, right| {
            let key = |(owner, owned): &(&Owner, &Owned)| (owner.operation, owned.seconds());
            let rest = |(owner, owned): &(&Owner, &Owned)| {
                (owner.name.clone(), owned.api_version.clone(), owner.subresource.clone())
            };
            key(left).cmp(&key(right)).then_with(|| rest(left).cmp(&rest(right)))
        });
        let entries = entries.into_iter().map(|(owner, owned)| {
            let mut entry = Map::new();
            if !owner.name.is_empty() {
                entry.insert("manager".to_owned(), json!(owner.name));
            }
            entry.insert("operation".to_owned(), json!(owner.operation.name()));
            entry.insert("apiVersion".to_owned(), json!(owned.api_version));
            if let Some(time) = &owned.time {
                entry.insert("time".to_owned(), json!(time));
            }
            entry.insert("fieldsType".to_owned(), json!("FieldsV1"));
            entry.insert("fieldsV1".to_owned(), owned.fields.encode());
            if !owner.subresource.is_empty() {
                entry.insert("subresource".to_owned(), json!(owner.subresource));
            }
            Value::Object(entry)
        });
        metadata.insert("managedFields".to_owned(), entries.collect());
    }

    /// The fields as the schema of today allows them.
    pub(super) fn reconcile(&mut self, typed: Typed<'_>) {
        for owned in self.0.values_mut() {
            owned.fields = typed.reconcile(&owned.fields);
        }
    }

    /// Which owners but `except` own what has changed.
    pub(super) fn conflicts(&self, comparison: &Comparison, except: Option<&Owner>) -> Vec<Conflict> {
        let changed = comparison.changed();
        let others = self.0.iter().filter(|(owner, _)| Some(*owner) != except);
        others
            .flat_map(|(owner, owned)| {
                let paths = owned.fields.intersection(&changed).paths();
                paths.into_iter().map(|path| Conflict { owner: owner.clone(), path })
            })
            .collect()
    }

    /// Takes from all owners but `except` what has changed or is gone. Who owns nothing any more is no owner.
    pub(super) fn release(&mut self, comparison: &Comparison, except: Option<&Owner>) {
        if self.0.is_empty() {
            return;
        }
        let lost = comparison.changed().union(&comparison.removed);
        self.0.retain(|owner, owned| {
            if Some(owner) != except {
                owned.fields.remove_all(&lost);
            }
            !owned.fields.is_empty()
        });
    }

    /// Merges the oldest updates until there are few enough.
    pub(super) fn cap(&mut self) {
        let updates = self.0.iter().filter(|(owner, _)| owner.operation == Operation::Update);
        if updates.clone().count() <= MAX_UPDATE_MANAGERS {
            return;
        }
        let mut updates: Vec<_> = updates.map(|(owner, owned)| (owned.seconds(), owner.clone())).collect();
        updates.sort();
        let mut left = updates.len();
        let mut first_of_version: BTreeMap<String, Owner> = BTreeMap::new();
        for (_, owner) in updates {
            if left <= MAX_UPDATE_MANAGERS {
                return;
            }
            let Some(first) = first_of_version.get(&owner.api_version) else {
                first_of_version.insert(owner.api_version.clone(), owner);
                continue;
            };
            let bucket = Owner {
                name: ANCIENT_CHANGES.to_owned(),
                operation: Operation::Update,
                api_version: owner.api_version.clone(),
                subresource: String::new(),
            };
            if !self.0.contains_key(&bucket)
                && let Some(owned) = self.0.remove(first)
            {
                self.0.insert(bucket.clone(), owned);
            }
            // Where the bucket comes second, the one before it goes into it.
            let merged = if owner == bucket { first.clone() } else { owner };
            let Some(merged) = self.0.remove(&merged) else { continue };
            if let Some(ancient) = self.0.get_mut(&bucket) {
                if ancient.seconds() < merged.seconds() {
                    ancient.time = merged.time;
                }
                ancient.fields.absorb(merged.fields);
            }
            first_of_version.insert(bucket.api_version.clone(), bucket);
            left -= 1;
        }
    }
}

/// 409 `Apply failed with …`, with a cause for each field.
pub(super) fn conflict_error(conflicts: &[Conflict]) -> ApiError {
    let path = |conflict: &Conflict| conflict.path.iter().map(ToString::to_string).collect::<String>();
    let message = match conflicts {
        [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", one.owner.words(), path(one)),
        many => {
            let mut lines = Vec::new();
            let mut last = None;
            for conflict in many {
                if last != Some(&conflict.owner) {
                    lines.push(format!("conflicts with {}:", conflict.owner.words()));
                    last = Some(&conflict.owner);
                }
                lines.push(format!("- {}", path(conflict)));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let causes = conflicts
        .iter()
        .map(|conflict| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", conflict.owner.words()),
            field: path(conflict),
        })
        .collect();
    let mut error = ApiError::new(409, "Conflict", message);
    error.details = Some(Box::new(Details { causes, ..Details::default() }));
    error
}
