//! One fault of a manifest, and a list of them as an API server words it.

use std::fmt;

/// What is wrong with a field, in Kubernetes' words (`reason` of a status cause).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CauseKind {
    /// The value breaks a rule.
    Invalid,
    /// A value is missing.
    Required,
    /// A value that must be unique occurs twice.
    Duplicate,
    /// The value is none of those that are known, or known and not available.
    NotSupported,
    /// The value names something that does not exist.
    NotFound,
}

impl CauseKind {
    /// The name on the wire, for example `FieldValueInvalid`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotSupported => "FieldValueNotSupported",
            Self::NotFound => "FieldValueNotFound",
        }
    }
}

impl fmt::Display for CauseKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// One fault: which field, what is wrong with it, and the sentence that says so.
///
/// The message is whole in itself: it names the field where KubeVirt's message does, so printing the field before it
/// is the reader's choice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cause {
    /// The kind of fault.
    pub kind: CauseKind,
    /// The dotted path of the field, empty where the fault belongs to no single field.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// How many messages the joined text of a list holds; the rest is counted.
pub const MOST_MESSAGES: usize = 10;

/// All faults of one object, at least one. Displays as KubeVirt's admission does: the messages joined by `, `, at most
/// [`MOST_MESSAGES`] of them, then `, and N more validation errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CauseList(Vec<Cause>);

impl CauseList {
    /// The list as an error, or nothing where there is no fault.
    ///
    /// # Errors
    /// Where `causes` holds at least one.
    pub fn check(causes: Vec<Cause>) -> Result<(), Self> {
        if causes.is_empty() { Ok(()) } else { Err(Self(causes)) }
    }

    /// Every fault, in the order in which it was found.
    pub fn causes(&self) -> &[Cause] {
        &self.0
    }
}

impl fmt::Display for CauseList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, cause) in self.0.iter().take(MOST_MESSAGES).enumerate() {
            if index > 0 {
                formatter.write_str(", ")?;
            }
            formatter.write_str(&cause.message)?;
        }
        match self.0.len().saturating_sub(MOST_MESSAGES) {
            0 => Ok(()),
            more => write!(formatter, ", and {more} more validation errors"),
        }
    }
}

impl std::error::Error for CauseList {}

/// A dotted path of a field, built from its root: `spec.domain.devices.disks[0].name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path(String);

impl Path {
    /// The path that starts with `name`.
    pub(super) fn root(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The field `name` (which may be several names joined by dots) of the object at this path.
    pub(super) fn child(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    /// The element `index` of the list at this path.
    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The faults found so far, in order.
#[derive(Debug, Default)]
pub(super) struct Causes(Vec<Cause>);

impl Causes {
    pub(super) fn invalid(&mut self, field: &Path, message: impl Into<String>) {
        self.add(CauseKind::Invalid, &field.0, message);
    }

    pub(super) fn required(&mut self, field: &Path, message: impl Into<String>) {
        self.add(CauseKind::Required, &field.0, message);
    }

    pub(super) fn duplicate(&mut self, field: &Path, message: impl Into<String>) {
        self.add(CauseKind::Duplicate, &field.0, message);
    }

    pub(super) fn not_supported(&mut self, field: &Path, message: impl Into<String>) {
        self.add(CauseKind::NotSupported, &field.0, message);
    }

    pub(super) fn not_found(&mut self, field: &Path, message: impl Into<String>) {
        self.add(CauseKind::NotFound, &field.0, message);
    }

    /// A fault whose field is not the usual path, or which has none.
    pub(super) fn add(&mut self, kind: CauseKind, field: &str, message: impl Into<String>) {
        self.0.push(Cause { kind, field: field.to_owned(), message: message.into() });
    }

    pub(super) fn into_vec(self) -> Vec<Cause> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn list(count: usize) -> String {
        let mut causes = Causes::default();
        for number in 1..=count {
            causes.invalid(&Path::root("spec"), format!("fault {number}"));
        }
        CauseList::check(causes.into_vec()).unwrap_err().to_string()
    }

    #[test]
    fn ten_messages_then_a_count() {
        assert_eq!(list(1), "fault 1");
        assert_eq!(list(2), "fault 1, fault 2");
        assert!(list(10).ends_with("fault 9, fault 10"));
        assert!(list(11).ends_with("fault 10, and 1 more validation errors"));
        assert!(list(25).ends_with("fault 10, and 15 more validation errors"));
    }

    #[test]
    fn no_fault_is_no_error() {
        assert_eq!(CauseList::check(Vec::new()), Ok(()));
    }

    #[test]
    fn kinds_on_the_wire() {
        let kinds = [
            (CauseKind::Invalid, "FieldValueInvalid"),
            (CauseKind::Required, "FieldValueRequired"),
            (CauseKind::Duplicate, "FieldValueDuplicate"),
            (CauseKind::NotSupported, "FieldValueNotSupported"),
            (CauseKind::NotFound, "FieldValueNotFound"),
        ];
        for (kind, name) in kinds {
            assert_eq!(kind.to_string(), name);
        }
    }

    #[test]
    fn paths() {
        let path = Path::root("spec").child("domain.devices").child("disks").index(3).child("name");
        assert_eq!(path.to_string(), "spec.domain.devices.disks[3].name");
    }
}
