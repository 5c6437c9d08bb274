//! Bringing the default roles and bindings up to date at start.

use serde_json::Value;

/// What is to be done about one default object.
#[derive(Debug, Clone, PartialEq)]
pub enum Reconciled {
    /// It is as it should be, or its owner wants it left alone.
    Unchanged,
    /// It is missing: create it.
    Create(Value),
    /// Update it to this.
    Update(Value),
    /// A binding refers to another role, which cannot be changed: delete it, then create this.
    Recreate(Value),
}

/// What to do about the default object `wanted`, given the one of its name that is stored.
pub fn reconcile(wanted: &Value, existing: Option<&Value>) -> Reconciled {
    match existing {
        None => Reconciled::Create(wanted.clone()),
        Some(_) => Reconciled::Unchanged,
    }
}
