//! Questions to the rules that are stored.

use crate::auth::{Attributes, Identity, Objects};
use crate::status::{ApiError, GroupResource};

/// An answer. There is no denial in RBAC: what nothing allows is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Allowed, and why (empty for `system:masters`).
    Allow(String),
    /// Not allowed by anything, and what went wrong on the way (mostly empty).
    NoOpinion(String),
}

impl Decision {
    /// Whether it is allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// Answers questions from the stored roles and bindings.
pub struct Authorizer {}

impl Authorizer {
    /// An authorizer over these objects.
    pub fn new(_objects: impl Objects + 'static) -> Self {
        Self {}
    }

    /// Whether `identity` may do this.
    pub fn authorize(&self, _identity: &Identity, _attributes: &Attributes<'_>) -> Decision {
        Decision::NoOpinion(String::new())
    }

    /// [`Self::authorize`], with the answer to the client.
    ///
    /// # Errors
    /// 403 when it is not allowed.
    pub fn require(&self, identity: &Identity, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        match self.authorize(identity, attributes) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) => Err(forbidden(&identity.user, attributes, &reason)),
        }
    }
}

/// The 403 that Kubernetes answers.
pub fn forbidden(user: &str, attributes: &Attributes<'_>, _reason: &str) -> ApiError {
    let of = GroupResource { group: attributes.group, resource: attributes.resource };
    ApiError::forbidden(of, attributes.name, user)
}
