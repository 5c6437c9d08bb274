//! Hooks made of two plain functions.

use serde_json::Value;

use crate::kind::{Admission, Hooks};
use crate::status::{ApiError, FieldError};

/// Fills in what an object leaves out.
pub(super) type Default = fn(&Admission<'_>, &mut Value, Option<&Value>);
/// Adds each fault of an object, given the stored one on an update.
pub(super) type Validate = fn(&Admission<'_>, &Value, Option<&Value>, &mut Vec<FieldError>);

/// Defaulting and validation of one kind.
pub(super) struct Rules {
    pub(super) default: Default,
    pub(super) validate: Validate,
}

impl Hooks for Rules {
    fn default(
        &self,
        request: &Admission<'_>,
        object: &mut Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        (self.default)(request, object, old);
        Ok(())
    }

    fn faults(&self, request: &Admission<'_>, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        (self.validate)(request, object, old, &mut errors);
        errors
    }
}

/// Fills in nothing.
pub(super) fn no_default(_: &Admission<'_>, _: &mut Value, _: Option<&Value>) {}

/// Finds no fault.
pub(super) fn no_validate(_: &Admission<'_>, _: &Value, _: Option<&Value>, _: &mut Vec<FieldError>) {}
