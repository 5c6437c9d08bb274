//! Create, update and patch: from a body to a committed object.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::apply::{self, Manager};
use crate::kind::{Admission, Family, Kind, Operation};
use crate::object;
use crate::status::{ApiError, Cause, Details, FieldError, GroupResource};
use crate::store::{Change, CommitError, Encoded, Expect, Stored, Write};
use crate::{decode, metadata, patch};

use super::object_rules::{self as rules, Source};
use super::request::check_options;
use super::{
    Answer, Api, Body, Content, Context, FieldValidation, Patch, PatchFormat, Target, View, namespaces,
};

/// How often a generated name is tried (`maxNameGenerationCreateAttempts` of the generic registry).
const NAME_ATTEMPTS: usize = 8;
/// How often a write is tried again when another one came between reading and writing.
///
/// Kubernetes tries for ever where the request names no version; a bound keeps one request from spinning.
pub(super) const WRITE_ATTEMPTS: usize = 64;

/// The most bytes of JSON that a stored object may have: what etcd takes. Bodies are bounded by HTTP, but patches add up.
const LARGEST_OBJECT: usize = 1536 << 10;
/// What an object may grow by beyond that while it is being deleted, so that it can be.
const DELETION_ROOM: usize = 16 << 10;

/// Makes the new state of an object out of the stored one.
pub(super) type Make<'a> = Box<dyn Fn(&Value) -> Result<Value, ApiError> + Send + Sync + 'a>;

/// What a changed object is made of.
pub(super) enum Revision<'a> {
    /// A whole object that was sent.
    Object(Body),
    /// A patch on whatever is stored.
    Patch(Patch),
    /// What a function makes of whatever is stored.
    Made(Make<'a>),
}

/// An error of the store, for the client. `stored` errors that have their own meaning are handled before.
pub(super) fn storage_error(target: &Target<'_>, error: &CommitError) -> ApiError {
    match error {
        CommitError::Exists(_) => ApiError::already_exists(target.kind.group_resource(), target.name),
        CommitError::Changed(Some(_)) => ApiError::modified(target.kind.group_resource(), target.name),
        CommitError::Changed(None) => ApiError::not_found(target.kind.group_resource(), target.name),
        CommitError::TooLarge => ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {LARGEST_OBJECT}"),
        ),
        CommitError::Full(cause) => {
            ApiError::new(507, "InsufficientStorage", format!("no space to store the object: {cause}"))
        }
        CommitError::Unavailable(cause) => {
            ApiError::internal(format_args!("the state cannot be written: {cause}"))
        }
        CommitError::Malformed(fault) => ApiError::internal(fault),
        CommitError::Closed => {
            let mut error = ApiError::new(
                503,
                "ServiceUnavailable",
                "the server is shutting down, please try again later",
            );
            error.details = Some(Box::new(Details { retry_after_seconds: Some(1), ..Details::default() }));
            error
        }
    }
}

/// Turns an object of the request's version into what is stored.
pub(super) fn to_stored(target: &Target<'_>, mut object: Value) -> Value {
    if let Some(shared) = &target.kind.shared_storage {
        (shared.to_stored)(&mut object);
    }
    super::view::set_first(&mut object, "apiVersion", &target.kind.storage_api_version());
    if let Some(shared) = &target.kind.shared_storage
        && !shared.api_version.is_empty()
    {
        super::view::set_first(&mut object, "kind", &target.kind.names.kind);
    }
    super::view::order(&mut object);
    object
}

impl Context {
    pub(super) fn admission<'a>(&'a self, target: &Target<'a>, operation: Operation) -> Admission<'a> {
        Admission {
            operation,
            subresource: target.subresource,
            namespace: target.namespace,
            name: target.name,
            user: &self.identity.user,
            groups: &self.identity.groups,
            now: self.now,
        }
    }

    fn field_manager(&self, target: &Target<'_>) -> Manager {
        Manager {
            name: self.manager(),
            subresource: target.subresource.to_owned(),
            api_version: target.api_version(),
            at: self.now,
        }
    }
}

impl Api {
    /// Whether there is an object of this kind.
    pub(crate) fn has_any(&self, kind: &Kind) -> bool {
        !self.inner.store.list_from(&kind.storage_prefix(), None, None, 1).items.is_empty()
    }

    pub(super) fn random(&self) -> u64 {
        (self.inner.sources.random)()
    }

    /// Commits, or in a dry run answers as if it had been.
    pub(super) async fn store_object(
        &self,
        context: &Context,
        target: &Target<'_>,
        name: &str,
        stored: Value,
        expect: Expect,
    ) -> Result<Content, CommitError> {
        let view = View::new(target.kind, target.version);
        let prefix = target.kind.storage_prefix();
        if context.dry_run {
            let existing = self.inner.store.get(&prefix, target.namespace, name);
            let mut shown = stored;
            match (expect, existing) {
                (Expect::Absent, Some(existing)) => return Err(CommitError::Exists(existing)),
                (Expect::Absent, None) => {}
                (Expect::Revision(revision), Some(existing)) if existing.revision == revision => {
                    rules::set_metadata(&mut shown, "resourceVersion", revision.to_string().into());
                }
                (Expect::Revision(_), existing) => return Err(CommitError::Changed(existing)),
            }
            view.convert(&mut shown);
            return Ok(Content::Value(shown));
        }
        let encoded = Encoded::new(&stored)?;
        let room = if object::is_deleting(&stored) { LARGEST_OBJECT + DELETION_ROOM } else { LARGEST_OBJECT };
        if encoded.size() > room {
            // What is larger already may become smaller.
            let existing = self.inner.store.get(&prefix, target.namespace, name);
            if existing.is_none_or(|existing| existing.json.len() < encoded.size()) {
                return Err(CommitError::TooLarge);
            }
        }
        let write = Write {
            prefix,
            namespace: target.namespace.to_owned(),
            name: name.to_owned(),
            expect,
            change: Change::Put(encoded),
        };
        let committed = self.inner.store.commit(write).await?;
        // What was just written as JSON can be read as JSON.
        Ok(view.content(Arc::clone(&committed)).unwrap_or(Content::Stored(committed)))
    }

    pub(super) async fn create_object(
        &self,
        context: &Context,
        target: &Target<'_>,
        body: Body,
    ) -> Result<Answer, ApiError> {
        let kind = target.kind;
        if let Some(reason) = &kind.refuses_creation {
            return Err(refused(target, reason));
        }
        let Body { value: mut object, duplicates } = body;
        let mut warnings = Vec::new();
        rules::check_type(target, &mut object)?;
        rules::match_namespace_on_create(target, &mut object)?;
        if !target.name.is_empty() {
            rules::match_name_on_update(target, &mut object)?;
        }
        namespaces::may_hold_new(self, target, &object)?;
        rules::clean(
            target,
            &mut object,
            &duplicates,
            context.field_validation,
            Source::Body,
            &mut warnings,
        )?;
        rules::deduplicate_owners(&mut object, &mut warnings);
        rules::reset_for_create(kind, &mut object)?;
        self.finish_create(context, target, object, Ownership::Update, warnings).await
    }

    /// The second half of a creation: from a clean object on. Generated names are tried until one is free.
    async fn finish_create(
        &self,
        context: &Context,
        target: &Target<'_>,
        mut object: Value,
        ownership: Ownership,
        warnings: Vec<String>,
    ) -> Result<Answer, ApiError> {
        let base = object::metadata_text(&object, "generateName").to_owned();
        let generates = object::name(&object).is_empty() && !base.is_empty();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut warnings = warnings.clone();
            // Only a generated name is tried again, and only then is the object needed once more.
            let attempt = if generates {
                let mut attempt = object.clone();
                let name = rules::generated_name(&base, self.random());
                rules::set_metadata(&mut attempt, "name", name.into());
                attempt
            } else {
                std::mem::take(&mut object)
            };
            let uid = rules::uid(self.random(), self.random());
            let object = prepare_create(context, target, attempt, ownership, uid, &mut warnings)?;
            // A webhook that looks whether there is one decides as late as this, and two at once pass it.
            if let Some(refusal) = target.kind.refuses_another.filter(|_| self.has_any(target.kind)) {
                return Err(refusal());
            }
            let name = object::name(&object).to_owned();
            let named = Target { name: &name, ..*target };
            let stored = to_stored(target, object);
            match self.store_object(context, &named, &name, stored, Expect::Absent).await {
                Ok(content) => {
                    if !context.dry_run {
                        target.kind.hooks.created(target.namespace);
                    }
                    return Ok(Answer { code: 201, content, warnings });
                }
                Err(CommitError::Exists(_)) if generates && attempts < NAME_ATTEMPTS => {}
                Err(CommitError::Exists(_)) if generates => {
                    let mut error = ApiError::already_exists(target.kind.group_resource(), &name);
                    error
                        .message
                        .push_str(", the server was not able to generate a unique name for the object");
                    return Err(error);
                }
                Err(error) => return Err(storage_error(&named, &error)),
            }
        }
    }

    pub(super) async fn update_object(
        &self,
        context: &Context,
        target: &Target<'_>,
        revision: Revision<'_>,
    ) -> Result<Answer, ApiError> {
        let kind = target.kind;
        let view = View::new(kind, target.version);
        let prefix = kind.storage_prefix();
        for _ in 0..WRITE_ATTEMPTS {
            let mut warnings = Vec::new();
            let Some(stored) = self.inner.store.get(&prefix, target.namespace, target.name) else {
                return match &revision {
                    Revision::Object(body) if rules::allows_create_on_update(target) => {
                        self.create_by_update(context, target, body).await
                    }
                    Revision::Patch(patch) if patch.format == PatchFormat::Apply => {
                        self.create_by_apply(context, target, patch).await
                    }
                    _ => Err(ApiError::not_found(kind.group_resource(), target.name)),
                };
            };
            let old_stored = super::view::parse(&stored)?;
            let old = view.shown(&old_stored);
            let (new, ownership) = revise(context, target, &revision, &old, &mut warnings)?;
            let new = prepare_update(context, target, new, &old, ownership, &mut warnings)?;
            let mut new_stored = to_stored(target, new);
            apply::keep_times(&old_stored, &mut new_stored);
            if rules::is_finished(&new_stored) {
                match self.remove(context, target, &stored, new_stored).await {
                    Ok(content) => return Ok(Answer { code: 200, content, warnings }),
                    Err(CommitError::Changed(_)) => continue,
                    Err(error) => return Err(storage_error(target, &error)),
                }
            }
            if rules::same(&new_stored, &old_stored) {
                return Ok(Answer { code: 200, content: view.content(stored)?, warnings });
            }
            let expect = Expect::Revision(stored.revision);
            match self.store_object(context, target, target.name, new_stored, expect).await {
                Ok(content) => return Ok(Answer { code: 200, content, warnings }),
                Err(CommitError::Changed(_)) => {}
                Err(error) => return Err(storage_error(target, &error)),
            }
        }
        Err(ApiError::modified(kind.group_resource(), target.name))
    }

    /// Removes a stored object whose last state is `last`, and answers with that state.
    pub(super) async fn remove(
        &self,
        context: &Context,
        target: &Target<'_>,
        stored: &Stored,
        last: Value,
    ) -> Result<Content, CommitError> {
        let view = View::new(target.kind, target.version);
        if !context.dry_run {
            let encoded = Encoded::new(&last)?;
            let write = Write {
                prefix: target.kind.storage_prefix(),
                namespace: target.namespace.to_owned(),
                name: target.name.to_owned(),
                expect: Expect::Revision(stored.revision),
                change: Change::Delete(encoded),
            };
            let removed = self.inner.store.commit(write).await?;
            return Ok(view.content(Arc::clone(&removed)).unwrap_or(Content::Stored(removed)));
        }
        let mut shown = last;
        rules::set_metadata(&mut shown, "resourceVersion", stored.revision.to_string().into());
        view.convert(&mut shown);
        Ok(Content::Value(shown))
    }

    /// A replacement of what is not there: for some kinds that makes it.
    async fn create_by_update(
        &self,
        context: &Context,
        target: &Target<'_>,
        body: &Body,
    ) -> Result<Answer, ApiError> {
        if let Some(error) = &context.create_refused {
            return Err(ApiError::clone(error));
        }
        let nothing = json!({"metadata": {"name": target.name, "namespace": target.namespace}});
        rules::check_uid(target.kind, target.name, &body.value, &nothing)?;
        let mut body = body.clone();
        // It says what was replaced, and there is nothing to compare it with.
        if let Some(metadata) = object::metadata_mut(&mut body.value) {
            metadata.shift_remove("resourceVersion");
        }
        self.create_object(context, target, body).await
    }

    async fn create_by_apply(
        &self,
        context: &Context,
        target: &Target<'_>,
        patch: &Patch,
    ) -> Result<Answer, ApiError> {
        let kind = target.kind;
        if !target.subresource.is_empty() {
            return Err(ApiError::not_found(kind.group_resource(), target.name));
        }
        if let Some(error) = &context.create_refused {
            return Err(ApiError::clone(error));
        }
        if let Some(reason) = &kind.refuses_creation {
            return Err(refused(target, reason));
        }
        let mut warnings = Vec::new();
        let applied = read_applied(context, target, patch, &mut warnings)?;
        let uid = object::uid(&applied);
        if !uid.is_empty() {
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(ApiError::conflict(kind.group_resource(), target.name, why));
        }
        let manager = context.field_manager(target);
        let force = patch.force.unwrap_or_default();
        let mut object = apply::apply(None, &applied, &kind.schema.schema(), &manager, force)?;
        rules::match_namespace_on_create(target, &mut object)?;
        namespaces::may_hold_new(self, target, &object)?;
        let ignore = FieldValidation::Ignore;
        rules::clean(target, &mut object, &[], ignore, Source::Patch, &mut warnings)?;
        rules::deduplicate_owners(&mut object, &mut warnings);
        rules::reset_for_create(kind, &mut object)?;
        self.finish_create(context, target, object, Ownership::Applied, warnings).await
    }
}

/// Whether `metadata.managedFields` is still to be worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// The fields that changed belong to the request's manager.
    Update,
    /// Server-side apply has noted them already.
    Applied,
}

/// 405: nothing of this kind can be made here. No Kubernetes server refuses so; a method that is not there is what
/// comes nearest, and no client takes it for a fault of its object or of its rights.
fn refused(target: &Target<'_>, reason: &str) -> ApiError {
    let mut error = ApiError::method_not_allowed(target.kind.group_resource(), "create");
    error.message = format!("{} is {reason}", target.kind.names.kind);
    error
}

/// The pure rest of a creation: ownership, hooks, what the server fills in, and every check.
fn prepare_create(
    context: &Context,
    target: &Target<'_>,
    mut object: Value,
    ownership: Ownership,
    uid: String,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let kind = target.kind;
    let name = object::name(&object).to_owned();
    let named = Target { name: &name, ..*target };
    let admission = context.admission(&named, Operation::Create);
    let manager = context.field_manager(target);
    let notes = |object: &mut Value| {
        if ownership == Ownership::Update {
            apply::update_managed_fields(None, object, &kind.schema.schema(), &manager);
        }
    };
    // A built-in kind's defaults belong to whoever creates it; what a webhook adds to a custom one belongs to nobody.
    if kind.family == Family::Custom {
        notes(&mut object);
    }
    kind.hooks.default(&admission, &mut object, None, warnings)?;
    namespaces::fill_for_create(kind, &mut object);
    if kind.family == Family::BuiltIn {
        notes(&mut object);
    }
    rules::fill_for_create(kind, &mut object, context.now, uid);
    let errors = metadata::validate_create(kind, &object);
    check(kind, &admission, errors, &object, None, warnings)?;
    Ok(object)
}

/// What the stored object is to become, before any rule that compares the two.
fn revise(
    context: &Context,
    target: &Target<'_>,
    revision: &Revision<'_>,
    old: &Value,
    warnings: &mut Vec<String>,
) -> Result<(Value, Ownership), ApiError> {
    match revision {
        Revision::Made(make) => Ok((make(old)?, Ownership::Update)),
        Revision::Object(body) => {
            let mut new = body.value.clone();
            rules::check_type(target, &mut new)?;
            rules::match_name_on_update(target, &mut new)?;
            rules::check_uid(target.kind, target.name, &new, old)?;
            rules::clean(
                target,
                &mut new,
                &body.duplicates,
                context.field_validation,
                Source::Body,
                warnings,
            )?;
            Ok((new, Ownership::Update))
        }
        Revision::Patch(patch) => patched(context, target, patch, old, warnings),
    }
}

fn patched(
    context: &Context,
    target: &Target<'_>,
    patch: &Patch,
    old: &Value,
    warnings: &mut Vec<String>,
) -> Result<(Value, Ownership), ApiError> {
    let kind = target.kind;
    let schema = kind.schema.schema();
    let mut duplicates = Vec::new();
    let mut new = match patch.format {
        PatchFormat::Json => patch::json(old, &patch.body)?,
        PatchFormat::Merge => {
            let decoded = decode_patch(patch)?;
            duplicates = decoded.duplicates;
            patch::merge(old, &decoded.value)
        }
        PatchFormat::Strategic if kind.family == Family::Custom => {
            return Err(ApiError::new(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
        PatchFormat::Strategic => {
            let decoded = decode_patch(patch)?;
            duplicates = decoded.duplicates;
            patch::strategic(old, &decoded.value, &schema)?
        }
        PatchFormat::Apply => {
            let applied = read_applied(context, target, patch, warnings)?;
            rules::check_uid(kind, target.name, &applied, old)?;
            let manager = context.field_manager(target);
            let mut new =
                apply::apply(Some(old), &applied, &schema, &manager, patch.force.unwrap_or_default())?;
            // A version in the applied object is a precondition; apply itself keeps the stored one.
            let version = object::resource_version(&applied);
            let version = if version.is_empty() { object::resource_version(old) } else { version };
            rules::set_metadata(&mut new, "resourceVersion", version.into());
            let ignore = FieldValidation::Ignore;
            rules::check_type(target, &mut new)?;
            rules::match_name_on_update(target, &mut new)?;
            rules::clean(target, &mut new, &[], ignore, Source::Patch, warnings)?;
            return Ok((new, Ownership::Applied));
        }
    };
    rules::check_type(target, &mut new)?;
    rules::match_name_on_update(target, &mut new)?;
    rules::clean(target, &mut new, &duplicates, context.field_validation, Source::Patch, warnings)?;
    Ok((new, Ownership::Update))
}

fn decode_patch(patch: &Patch) -> Result<decode::Decoded, ApiError> {
    let decoded = decode::json(&patch.body)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    if !decoded.value.is_object() {
        return Err(ApiError::bad_request("error decoding patch: the patch must be a JSON object"));
    }
    Ok(decoded)
}

/// Reads an apply patch and leaves in it what may be applied through the target's subresource.
fn read_applied(
    context: &Context,
    target: &Target<'_>,
    patch: &Patch,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    if context.field_manager.is_empty() {
        let error = FieldError::required("fieldManager", "is required for apply patch");
        check_options("PatchOptions", &[error])?;
    }
    let decoded = decode::yaml(&patch.body)
        .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))?;
    let mut faults = decoded.duplicates.iter().map(|path| format!("duplicate field {path:?}")).peekable();
    match context.field_validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => warnings.extend(faults),
        FieldValidation::Strict if faults.peek().is_none() => {}
        FieldValidation::Strict => {
            let faults: Vec<_> = faults.collect();
            return Err(ApiError::bad_request(format!("error strict decoding YAML: {}", faults.join(", "))));
        }
    }
    let mut applied = decoded.value;
    if applied.get("kind").and_then(Value::as_str).unwrap_or_default().is_empty() {
        return Err(ApiError::bad_request(format!("Object 'Kind' is missing in '{applied}'")));
    }
    let (sent, expected) = (applied.get("apiVersion").and_then(Value::as_str), target.api_version());
    if sent != Some(expected.as_str()) {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {expected}",
            sent.unwrap_or_default()
        )));
    }
    rules::check_type(target, &mut applied)?;
    if object::name(&applied).is_empty() {
        rules::set_metadata(&mut applied, "name", target.name.into());
    }
    rules::match_name_on_update(target, &mut applied)?;
    apply::keep_writable(&mut applied, target.subresource, target.kind.has_status, target.kind.family);
    Ok(applied)
}

/// The pure rest of a change: version, ownership, hooks, what an update carries over, and every check.
fn prepare_update(
    context: &Context,
    target: &Target<'_>,
    mut new: Value,
    old: &Value,
    ownership: Ownership,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let kind = target.kind;
    rules::check_version(kind, target.name, &new, old)?;
    rules::deduplicate_owners(&mut new, warnings);
    rules::reset_for_update(kind, target.subresource, &mut new, old);
    namespaces::reset_for_update(target, &mut new, old);
    let admission = context.admission(target, Operation::Update);
    let notes = |object: &mut Value| {
        if ownership == Ownership::Update {
            apply::update_managed_fields(
                Some(old),
                object,
                &kind.schema.schema(),
                &context.field_manager(target),
            );
        }
    };
    if kind.family == Family::Custom {
        notes(&mut new);
    }
    kind.hooks.default(&admission, &mut new, Some(old), warnings)?;
    if kind.family == Family::BuiltIn {
        notes(&mut new);
    }
    rules::carry_metadata(kind, &mut new, old);
    let errors = metadata::validate_update(kind, &new, old);
    check(kind, &admission, errors, &new, Some(old), warnings)?;
    Ok(new)
}

/// Every check of what is to be stored; `errors` are the faults of its metadata.
fn check(
    kind: &Kind,
    admission: &Admission<'_>,
    mut errors: Vec<FieldError>,
    object: &Value,
    old: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    // Who may not write a role hears nothing of its faults; a webhook sees nothing that its definition refuses.
    if kind.family == Family::BuiltIn {
        kind.hooks.validate(admission, object, old, warnings)?;
    } else {
        errors.extend(kind.schema.schema().validate(object));
    }
    errors.extend(kind.hooks.faults(admission, object, old));
    ApiError::check(kind.group_kind(), admission.name, &errors)?;
    if kind.family == Family::Custom {
        kind.hooks.validate(admission, object, old, warnings)?;
    }
    Ok(())
}

/// `Status` of a request that has nothing else to answer.
pub(super) fn success(name: &str, of: GroupResource<'_>, uid: &str) -> Value {
    let details = Details {
        name: name.to_owned(),
        group: of.group.to_owned(),
        kind: of.resource.to_owned(),
        uid: uid.to_owned(),
        ..Details::default()
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Adds a cause to an error.
pub(super) fn with_cause(mut error: ApiError, reason: &str, message: String, field: &str) -> ApiError {
    error.details.get_or_insert_default().causes.push(Cause {
        reason: reason.to_owned(),
        message,
        field: field.to_owned(),
    });
    error
}
