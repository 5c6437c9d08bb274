//! What a verb is asked, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use crate::auth::Identity;
use crate::kind::Kind;
use crate::metadata::FIELD_MANAGER_LIMIT;
use crate::status::{ApiError, FieldError, GroupResource};
use crate::store::Stored;

use super::view::View;

/// What is done about fields that the schema does not know, and about fields that are there twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped silently.
    Ignore,
    /// They are dropped, and a `Warning` header says so. Kubernetes' default since 1.25.
    #[default]
    Warn,
    /// The request is refused with 400.
    Strict,
}

/// What a verb knows of the request beside its target and its body.
#[derive(Debug, Clone)]
pub struct Context {
    /// Who asks.
    pub identity: Identity,
    /// The `User-Agent` header; names the field manager where the request does not.
    pub user_agent: String,
    /// `dryRun=All`: everything is decided, nothing is stored.
    pub dry_run: bool,
    /// `fieldManager=`; empty where it is missing.
    pub field_manager: String,
    /// `fieldValidation=`.
    pub field_validation: FieldValidation,
    /// The time now.
    pub now: jiff::Timestamp,
    /// Why this caller may not create the object, for an apply that finds none; `None`: it may. Who may patch what exists
    /// may not thereby make what does not.
    pub create_refused: Option<Box<ApiError>>,
}

impl Context {
    /// A request of the server itself: a member of `system:masters`, no dry run.
    pub fn internal(user: &str, now: jiff::Timestamp) -> Self {
        let identity = Identity {
            user: user.to_owned(),
            groups: vec!["system:masters".to_owned()],
            ..Identity::default()
        };
        Self {
            identity,
            user_agent: user.to_owned(),
            dry_run: false,
            field_manager: user.to_owned(),
            field_validation: FieldValidation::Ignore,
            now,
            create_refused: None,
        }
    }

    /// The name that owns the fields this request writes: `fieldManager=`, or else what stands before the first slash
    /// of the user agent.
    pub fn manager(&self) -> String {
        if !self.field_manager.is_empty() {
            return self.field_manager.clone();
        }
        let product = self.user_agent.split('/').next().unwrap_or_default();
        product.chars().filter(|character| !character.is_control()).take(FIELD_MANAGER_LIMIT).collect()
    }
}

/// Refuses the options of a request: `CreateOptions.meta.k8s.io "" is invalid: …`. `options_kind` is `CreateOptions` and
/// its like.
pub(crate) fn check_options(options_kind: &str, errors: &[FieldError]) -> Result<(), ApiError> {
    ApiError::check(GroupResource { group: "meta.k8s.io", resource: options_kind }, "", errors)
}

/// What a verb is about.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The kind.
    pub kind: &'a Arc<Kind>,
    /// The version in the path, one of the kind's.
    pub version: &'a str,
    /// The namespace in the path; empty for cluster-scoped kinds and for lists over all namespaces.
    pub namespace: &'a str,
    /// The name in the path; empty for collections.
    pub name: &'a str,
    /// `status`, `scale`, `binding`, `eviction`, `finalize`, or empty.
    pub subresource: &'a str,
}

impl Target<'_> {
    /// The `apiVersion` that the path means.
    pub fn api_version(&self) -> String {
        self.kind.api_version(self.version)
    }
}

/// A decoded request body.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Body {
    /// The object.
    pub value: Value,
    /// The paths of fields that were there more than once.
    pub duplicates: Vec<String>,
}

impl From<crate::decode::Decoded> for Body {
    fn from(decoded: crate::decode::Decoded) -> Self {
        Self { value: decoded.value, duplicates: decoded.duplicates }
    }
}

impl From<Value> for Body {
    fn from(value: Value) -> Self {
        Self { value, duplicates: Vec::new() }
    }
}

/// The four kinds of patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchFormat {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
    /// `application/apply-patch+yaml`
    Apply,
}

/// A patch as it was sent.
#[derive(Debug, Clone)]
pub struct Patch {
    /// How `body` is to be read.
    pub format: PatchFormat,
    /// The raw body; its length is already bounded by HTTP.
    pub body: Bytes,
    /// `force=true`; only for [`PatchFormat::Apply`].
    pub force: Option<bool>,
}

/// What happens to the objects that are owned by a deleted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// The owner waits until they are gone.
    Foreground,
    /// They are deleted after the owner.
    Background,
    /// They stay, without the owner reference.
    Orphan,
}

/// `metav1.DeleteOptions`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`.
    pub grace_period_seconds: Option<i64>,
    /// `propagationPolicy` or the older `orphanDependents`.
    pub propagation: Option<Propagation>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
    /// `dryRun: [All]`; the context's counts too.
    pub dry_run: bool,
    /// Whether `orphanDependents` was given and false; an object that stays for its finalizers answers 202 then.
    pub accepted_if_pending: bool,
}

impl DeleteOptions {
    /// Reads the options from the body, or from the query where there is no body, as Kubernetes does.
    ///
    /// # Errors
    /// 400 for a body that is not a `DeleteOptions`, 422 for values that contradict each other.
    pub fn read(body: Option<&Value>, query: &[(String, String)]) -> Result<Self, ApiError> {
        match body {
            Some(body) => Self::from_body(body),
            None => Self::from_query(query),
        }
    }

    fn from_body(body: &Value) -> Result<Self, ApiError> {
        let object = body.as_object().ok_or_else(|| {
            ApiError::bad_request(
                "couldn't get version/kind; json parse error: cannot unmarshal into Go value of type struct",
            )
        })?;
        match object.get("kind").and_then(Value::as_str) {
            None | Some("" | "DeleteOptions") => {}
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "decoded object cannot be converted to DeleteOptions: {other}"
                )));
            }
        }
        let mut options = Self {
            grace_period_seconds: field(
                object.get("gracePeriodSeconds"),
                "gracePeriodSeconds",
                Value::as_i64,
            )?,
            ..Self::default()
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if let Some(preconditions) = object.get("preconditions").filter(|value| !value.is_null()) {
            options.uid = field(preconditions.get("uid"), "preconditions.uid", text)?;
            options.resource_version =
                field(preconditions.get("resourceVersion"), "preconditions.resourceVersion", text)?;
        }
        let policy = field(object.get("propagationPolicy"), "propagationPolicy", text)?;
        let orphan = field(object.get("orphanDependents"), "orphanDependents", Value::as_bool)?;
        let empty = Vec::new();
        let dry_run: Vec<_> = match object.get("dryRun") {
            None | Some(Value::Null) => &empty,
            Some(Value::Array(values)) => values,
            Some(_) => return Err(ApiError::bad_request("dryRun: expected a list of strings")),
        }
        .iter()
        .map(|value| value.as_str().unwrap_or_default().to_owned())
        .collect();
        options.finish(policy, orphan, &dry_run)
    }

    fn from_query(query: &[(String, String)]) -> Result<Self, ApiError> {
        let mut options = Self::default();
        let (mut policy, mut orphan, mut dry_run) = (None, None, Vec::new());
        for (key, value) in query {
            match key.as_str() {
                "gracePeriodSeconds" => {
                    let seconds = value.parse().map_err(|_| {
                        ApiError::bad_request(format!("gracePeriodSeconds: invalid number {value:?}"))
                    })?;
                    options.grace_period_seconds = Some(seconds);
                }
                "propagationPolicy" => policy = Some(value.clone()),
                "orphanDependents" => orphan = Some(!matches!(value.as_str(), "0" | "false")),
                "dryRun" => dry_run.push(value.clone()),
                _ => {}
            }
        }
        options.finish(policy, orphan, &dry_run)
    }

    fn finish(
        mut self,
        policy: Option<String>,
        orphan: Option<bool>,
        dry_run: &[String],
    ) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        if let (Some(policy), Some(_)) = (&policy, orphan) {
            errors.push(FieldError::invalid(
                "propagationPolicy",
                policy.clone(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        self.accepted_if_pending = orphan == Some(false);
        self.propagation = match policy.as_deref() {
            None => orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background }),
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Background") => Some(Propagation::Background),
            Some("Orphan") => Some(Propagation::Orphan),
            Some(other) => {
                let known = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(FieldError::not_supported("propagationPolicy", other, known));
                None
            }
        };
        for value in dry_run {
            if value == "All" {
                self.dry_run = true;
            } else {
                // Kubernetes prints the whole list, and the supported ones after it.
                errors.push(FieldError::not_supported("dryRun", vec![value.as_str()], ["All"]));
            }
        }
        check_options("DeleteOptions", &errors)?;
        Ok(self)
    }
}

/// A field of the options, if it is there and not null.
fn field<T>(
    value: Option<&Value>,
    name: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(|| {
            ApiError::bad_request(format!(
                "DeleteOptions in version \"v1\" cannot be handled as a DeleteOptions: json: cannot unmarshal into Go \
                 struct field DeleteOptions.{name}"
            ))
        }),
    }
}

/// `metav1.ListOptions`, as the query says them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// `labelSelector=`
    pub label_selector: String,
    /// `fieldSelector=`
    pub field_selector: String,
    /// `resourceVersion=`
    pub resource_version: String,
    /// `resourceVersionMatch=`
    pub resource_version_match: String,
    /// `limit=`; 0 means no limit.
    pub limit: u64,
    /// `continue=`
    pub continue_token: String,
    /// `allowWatchBookmarks=`
    pub allow_watch_bookmarks: bool,
    /// `sendInitialEvents=`
    pub send_initial_events: Option<bool>,
    /// How long a watch lasts (`timeoutSeconds=`, or what the server chose); `None`: until it is dropped.
    pub timeout: Option<Duration>,
}

/// What is answered about one object.
#[derive(Debug, Clone)]
pub enum Content {
    /// The stored bytes are the answer; nothing has to be parsed.
    Stored(Arc<Stored>),
    /// An object that differs from the stored bytes, or a `Status`.
    Value(Value),
}

/// The answer of a verb on one object.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status: 200, 201 or 202.
    pub code: u16,
    /// The object, in the version that was asked for.
    pub content: Content,
    /// Texts for `Warning` headers, in order.
    pub warnings: Vec<String>,
}

impl Answer {
    /// The answer as a value, parsed where it has to be.
    ///
    /// # Errors
    /// 500 when the stored bytes are not JSON.
    pub fn value(&self) -> Result<Value, ApiError> {
        match &self.content {
            Content::Value(value) => Ok(value.clone()),
            Content::Stored(stored) => super::view::parse(stored),
        }
    }

    /// The answer as JSON bytes; free of work where they are stored so.
    ///
    /// # Errors
    /// 500 when the answer cannot be written as JSON.
    pub fn bytes(&self) -> Result<Bytes, ApiError> {
        match &self.content {
            Content::Stored(stored) => Ok(stored.json.clone()),
            Content::Value(value) => serde_json::to_vec(value).map(Bytes::from).map_err(ApiError::internal),
        }
    }
}

/// The answer of a list: HTTP writes the list object around it.
#[derive(Debug, Clone)]
pub struct List {
    /// The objects as they are stored, ordered by namespace and name.
    pub items: Vec<Arc<Stored>>,
    /// How each of them is shown in the version that was asked for.
    pub view: View,
    /// The list's `metadata.resourceVersion`.
    pub revision: u64,
    /// `metadata.continue`; empty on the last page.
    pub continue_token: String,
    /// `metadata.remainingItemCount`.
    pub remaining: Option<u64>,
}

impl List {
    /// The list's `metadata`, with the fields that are set.
    pub fn metadata(&self) -> Value {
        let mut metadata = serde_json::Map::new();
        metadata.insert("resourceVersion".to_owned(), self.revision.to_string().into());
        if !self.continue_token.is_empty() {
            metadata.insert("continue".to_owned(), self.continue_token.clone().into());
        }
        if let Some(remaining) = self.remaining {
            metadata.insert("remainingItemCount".to_owned(), remaining.into());
        }
        Value::Object(metadata)
    }
}
