//! The rules of `k8s.io/apiserver/pkg/registry/rest` for one object on its way into the store, as pure functions.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

use crate::go;
use crate::kind::{Family, Generation, Kind};
use crate::metadata;
use crate::object;
use crate::status::{ApiError, FieldError, GroupResource};

use super::{FieldValidation, Target};

/// Kubernetes' alphabet of generated names: no vowels, and nothing that looks like something else.
const NAME_ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const NAME_SUFFIX: usize = 5;
/// `maxGeneratedNameLength` of `k8s.io/apiserver/pkg/storage/names`.
const NAME_BASE_MAX: usize = 58;

/// A name made of `generateName` and five characters chosen by `random`.
pub(super) fn generated_name(base: &str, mut random: u64) -> String {
    let mut name: String = base.chars().take(NAME_BASE_MAX).collect();
    for _ in 0..NAME_SUFFIX {
        let letters = NAME_ALPHABET.len() as u64;
        name.push(char::from(NAME_ALPHABET[(random % letters) as usize]));
        random /= letters;
    }
    name
}

/// A random (version 4) UUID out of 128 random bits.
pub(super) fn uid(high: u64, low: u64) -> String {
    uuid::Builder::from_random_bytes((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
        .into_uuid()
        .to_string()
}

/// Checks `apiVersion` and `kind` of a body against the path, and fills in what is missing.
pub(super) fn check_type(target: &Target<'_>, object: &mut Value) -> Result<(), ApiError> {
    let kind = target.kind;
    let name = &kind.names.kind;
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request(format!(
            "{name} in version {:?} cannot be handled as a {name}: json: cannot unmarshal {} into Go value of type \
             map[string]interface {{}}",
            target.version,
            go::json_type(object)
        )));
    };
    let expected = target.api_version();
    match map.get("apiVersion").and_then(Value::as_str).unwrap_or_default() {
        "" => {}
        found if found == expected => {}
        found => {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({found}) does not match the expected API version ({expected})"
            )));
        }
    }
    match map.get("kind").and_then(Value::as_str).unwrap_or_default() {
        "" => {}
        found if found == name => {}
        found if kind.family == Family::Custom => {
            let error = FieldError::invalid("kind", found, format!("must be {name}"));
            let subject = metadata_name(map);
            return Err(ApiError::invalid(kind.group_kind(), &subject, &[error]));
        }
        found => {
            return Err(ApiError::bad_request(format!(
                "{found} in version {:?} cannot be handled as a {name}: converting ({}.{found}) to ({}.{name}): \
                 unknown conversion",
                target.version,
                target.version,
                if kind.group.is_empty() { "core" } else { kind.group.split('.').next().unwrap_or_default() },
            )));
        }
    }
    map.insert("apiVersion".to_owned(), expected.into());
    map.insert("kind".to_owned(), name.clone().into());
    match map.get("metadata") {
        None | Some(Value::Null) => {
            map.insert("metadata".to_owned(), Value::Object(Map::new()));
        }
        Some(Value::Object(_)) => {}
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "{name} in version {:?} cannot be handled as a {name}: json: cannot unmarshal {} into Go struct field \
                 {name}.metadata of type v1.ObjectMeta",
                target.version,
                go::json_type(other)
            )));
        }
    }
    Ok(())
}

fn metadata_name(map: &Map<String, Value>) -> String {
    map.get("metadata")
        .and_then(|metadata| metadata.get("name"))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// The namespace of a new object against the path's (`EnsureObjectNamespaceMatchesRequestNamespace`).
pub(super) fn match_namespace_on_create(target: &Target<'_>, object: &mut Value) -> Result<(), ApiError> {
    if target.kind.scope == crate::kind::Scope::Namespaced && target.namespace.is_empty() {
        return Err(ApiError::bad_request("an empty namespace may not be set during creation"));
    }
    if target.namespace.is_empty() {
        if let Some(metadata) = object::metadata_mut(object) {
            metadata.shift_remove("namespace");
        }
        return Ok(());
    }
    match object::namespace(object) {
        "" => {
            set_metadata(object, "namespace", target.namespace.into());
            Ok(())
        }
        found if found == target.namespace => Ok(()),
        _ => Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
    }
}

/// The name and namespace of a changed object against the path's (`checkName` of the endpoint handlers).
pub(super) fn match_name_on_update(target: &Target<'_>, object: &mut Value) -> Result<(), ApiError> {
    let (name, namespace) = (object::name(object), object::namespace(object));
    if name.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            target.name
        )));
    }
    if name != target.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        )));
    }
    if !target.namespace.is_empty() && !namespace.is_empty() && namespace != target.namespace {
        return Err(ApiError::bad_request(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the request ({})",
            target.namespace
        )));
    }
    if target.namespace.is_empty() {
        if let Some(metadata) = object::metadata_mut(object) {
            metadata.shift_remove("namespace");
        }
    } else if namespace.is_empty() {
        set_metadata(object, "namespace", target.namespace.into());
    }
    Ok(())
}

/// Which words a strict decoding error is wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The body is the object.
    Body,
    /// The object came out of a patch.
    Patch,
}

/// Drops what the schema does not know and fills in its defaults. What was dropped is an error or a warning.
pub(super) fn clean(
    target: &Target<'_>,
    object: &mut Value,
    duplicates: &[String],
    validation: FieldValidation,
    source: Source,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let kind = target.kind;
    let (name, version) = (&kind.names.kind, target.version);
    let schema = kind.schema.schema();
    match kind.family {
        Family::BuiltIn => schema.check_types(name, version, object).map_err(|error| match source {
            Source::Body => error,
            Source::Patch => not_from_a_patch(&error, object),
        })?,
        Family::Custom => schema.check_metadata_types(name, version, object)?,
    }
    let before = (validation == FieldValidation::Strict && source == Source::Patch).then(|| object.clone());
    let unknown = schema.prune(object);
    let faults: Vec<String> = duplicates
        .iter()
        .map(|path| format!("duplicate field {path:?}"))
        .chain(unknown.iter().map(|path| format!("unknown field {path:?}")))
        .collect();
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => warnings.extend(faults),
        FieldValidation::Strict if faults.is_empty() => {}
        FieldValidation::Strict => {
            let text = format!("strict decoding error: {}", faults.join(", "));
            return Err(match source {
                Source::Body => ApiError::bad_request(format!(
                    "{name} in version {version:?} cannot be handled as a {name}: {text}"
                )),
                Source::Patch => patch_fault(&before.unwrap_or_default(), text),
            });
        }
    }
    schema.drop_nulls(object);
    // Go writes what it has decoded; a custom resource stays as it was sent.
    if kind.family == Family::BuiltIn {
        schema.make_quantities_canonical(object);
    }
    drop_empty_metadata(object);
    schema.fill_defaults(object);
    Ok(())
}

/// Leaves empty maps and lists out of the metadata, as every object does that has been through Go's `ObjectMeta`. An
/// empty `managedFields` is kept: it is a request to forget.
fn drop_empty_metadata(object: &mut Value) {
    let Some(metadata) = object::metadata_mut(object) else { return };
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let is_empty = match metadata.get(field) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            _ => false,
        };
        if is_empty {
            metadata.shift_remove(field);
        }
    }
}

/// What a patch has made of an object is no object of its kind: the patch is at fault, not the request.
fn not_from_a_patch(error: &ApiError, object: &Value) -> ApiError {
    let text = error.message.split_once(": ").map_or(error.message.as_str(), |(_, fault)| fault);
    patch_fault(object, text.to_owned())
}

fn patch_fault(object: &Value, text: String) -> ApiError {
    let nothing = GroupResource { group: "", resource: "" };
    ApiError::invalid(nothing, "", &[FieldError::invalid("patch", object.to_string(), text)])
}

/// Removes owner references that name one owner twice, and warns of it.
pub(super) fn deduplicate_owners(object: &mut Value, warnings: &mut Vec<String>) {
    let Some(Value::Array(owners)) =
        object::metadata_mut(object).and_then(|metadata| metadata.get_mut("ownerReferences"))
    else {
        return;
    };
    let mut seen: HashSet<String> = HashSet::new();
    let mut twice: Vec<String> = Vec::new();
    owners.retain(|owner| {
        // The same fields in another order make the same owner.
        let fields: BTreeMap<_, _> = owner.as_object().into_iter().flatten().collect();
        let is_new = seen.insert(serde_json::to_string(&fields).unwrap_or_default());
        if !is_new {
            twice.push(owner.get("uid").and_then(Value::as_str).unwrap_or_default().to_owned());
        }
        is_new
    });
    if !twice.is_empty() {
        warnings.push(format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may \
             reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        ));
    }
}

/// What a client may not say about a new object (`BeforeCreate`).
pub(super) fn reset_for_create(kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    if !matches!(object::resource_version(object), "" | "0") {
        // In Kubernetes' words, but not with its 500, which is what an error of its storage without a type becomes.
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    if let Some(metadata) = object::metadata_mut(object) {
        for field in [
            "resourceVersion",
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
        ] {
            metadata.shift_remove(field);
        }
        if kind.generation == Generation::Counted {
            metadata.shift_remove("generation");
        }
    }
    if kind.has_status
        && !comes_with_its_status(kind)
        && let Some(map) = object.as_object_mut()
    {
        map.shift_remove("status");
    }
    Ok(())
}

/// Whether the status that a creation brings is kept: kubelets register Nodes together with theirs.
fn comes_with_its_status(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.names.plural == "nodes"
}

/// Fills in what the server alone knows of a new object.
pub(super) fn fill_for_create(kind: &Kind, object: &mut Value, now: jiff::Timestamp, uid: String) {
    set_metadata(object, "uid", uid.into());
    set_metadata(object, "creationTimestamp", object::format_time(now).into());
    if kind.generation == Generation::Counted {
        set_metadata(object, "generation", 1.into());
    }
}

/// Whether an update may leave `resourceVersion` out (`AllowUnconditionalUpdate`).
pub(super) fn allows_unconditional_update(kind: &Kind) -> bool {
    const NOT: [&str; 3] = ["leases", "csidrivers", "csinodes"];
    kind.family == Family::BuiltIn && !NOT.contains(&kind.names.plural.as_str())
}

/// Whether replacing what is not there makes it (`AllowCreateOnUpdate`). Who may replace must be allowed to create then.
pub(crate) fn allows_create_on_update(target: &Target<'_>) -> bool {
    let kind = target.kind;
    let plural = kind.names.plural.as_str();
    target.subresource.is_empty()
        && kind.family == Family::BuiltIn
        && match kind.group.as_str() {
            "" => matches!(plural, "endpoints" | "events" | "limitranges" | "services"),
            "events.k8s.io" => plural == "events",
            "coordination.k8s.io" => plural == "leases",
            "rbac.authorization.k8s.io" => true,
            _ => false,
        }
}

/// Whether the object that an update was made from is the stored one.
pub(super) fn check_version(kind: &Kind, name: &str, new: &Value, old: &Value) -> Result<(), ApiError> {
    match object::resource_version(new) {
        "" | "0" if allows_unconditional_update(kind) => Ok(()),
        "" | "0" => {
            // Kubernetes names the resource where the kind belongs.
            let error = metadata::missing_resource_version();
            Err(ApiError::invalid(kind.group_resource(), name, &[error]))
        }
        version if version == object::resource_version(old) => Ok(()),
        version if version.parse::<u64>().is_err() => Err(ApiError::invalid(
            kind.group_kind(),
            name,
            &[FieldError::invalid(
                "metadata.resourceVersion",
                version,
                format!("strconv.ParseUint: parsing {version:?}: invalid syntax"),
            )],
        )),
        _ => Err(ApiError::modified(kind.group_resource(), name)),
    }
}

/// Whether a uid in a replaced object is the stored one's (the precondition that an update carries).
pub(super) fn check_uid(kind: &Kind, name: &str, new: &Value, old: &Value) -> Result<(), ApiError> {
    let (sent, stored) = (object::uid(new), object::uid(old));
    if sent.is_empty() || sent == stored {
        return Ok(());
    }
    let namespace = object::namespace(old);
    let key = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
    let storage = if kind.group.is_empty() {
        format!("/registry/{}/{key}", kind.names.plural)
    } else {
        format!("/registry/{}/{}/{key}", kind.group, kind.names.plural)
    };
    Err(ApiError::conflict(
        kind.group_resource(),
        name,
        format_args!(
            "StorageError: invalid object, Code: 4, Key: {storage}, ResourceVersion: 0, AdditionalErrorMsg: \
             Precondition failed: UID in precondition: {sent}, UID in object meta: {stored}"
        ),
    ))
}

/// Takes from `new` only what a write through this subresource may change; the rest stays as it is stored.
pub(super) fn reset_for_update(kind: &Kind, subresource: &str, new: &mut Value, old: &Value) {
    match subresource {
        "status" => reset_for_status(kind, new, old),
        // What the server itself made of the object (`binding`).
        "binding" => {}
        "finalize" => {
            carry(new, old, "status");
        }
        _ if kind.has_status => carry(new, old, "status"),
        _ => {}
    }
}

/// Makes one top-level field of `new` what it is in `old`.
fn carry(new: &mut Value, old: &Value, field: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => {
            map.insert(field.to_owned(), value.clone());
        }
        None => {
            map.shift_remove(field);
        }
    }
}

fn reset_for_status(kind: &Kind, new: &mut Value, old: &Value) {
    let status = new.get("status").cloned();
    let metadata = new.get("metadata").cloned();
    let api_version = new.get("apiVersion").cloned();
    let mut kept = old.clone();
    if let Some(map) = kept.as_object_mut() {
        if let Some(api_version) = api_version {
            map.insert("apiVersion".to_owned(), api_version);
        }
        map.shift_remove("status");
        if let Some(status) = status {
            map.insert("status".to_owned(), status);
        }
    }
    if let Some(Value::Object(mut metadata)) = metadata {
        match kind.family {
            // A built-in kind's status strategy keeps the spec and the owners; labels and annotations may change.
            Family::BuiltIn => {
                let owners = object::metadata(old).and_then(|old| old.get("ownerReferences")).cloned();
                metadata.shift_remove("ownerReferences");
                if let Some(owners) = owners {
                    metadata.insert("ownerReferences".to_owned(), owners);
                }
                kept["metadata"] = Value::Object(metadata);
            }
            // A custom resource's takes the status alone; who owns the fields is noted all the same.
            Family::Custom => {
                if let Some(managed) = metadata.shift_remove("managedFields") {
                    set_metadata(&mut kept, "managedFields", managed);
                }
            }
        }
    }
    *new = kept;
}

/// Carries over what an update can never change (`BeforeUpdate`), and counts the generation.
pub(super) fn carry_metadata(kind: &Kind, new: &mut Value, old: &Value) {
    let old_metadata = object::metadata(old);
    let stored = |field: &str| old_metadata.and_then(|metadata| metadata.get(field)).cloned();
    let changed = kind.generation == Generation::Counted && spec_differs(kind, new, old);
    let Some(metadata) = object::metadata_mut(new) else { return };
    metadata.shift_remove("selfLink");
    metadata.shift_remove("resourceVersion");
    let mut put = |field: &str, value: Option<Value>| match value {
        Some(value) => {
            metadata.insert(field.to_owned(), value);
        }
        None => {
            metadata.shift_remove(field);
        }
    };
    put("creationTimestamp", stored("creationTimestamp"));
    let generation = stored("generation").and_then(|generation| generation.as_i64()).unwrap_or_default();
    let generation = if changed { generation + 1 } else { generation };
    put("generation", (generation != 0).then(|| generation.into()));
    if stored("deletionTimestamp").is_some() {
        put("deletionTimestamp", stored("deletionTimestamp"));
        put("deletionGracePeriodSeconds", stored("deletionGracePeriodSeconds"));
    }
    if metadata.get("uid").and_then(Value::as_str).unwrap_or_default().is_empty()
        && let Some(uid) = stored("uid")
    {
        metadata.insert("uid".to_owned(), uid);
    }
}

/// Whether anything that the generation counts differs.
fn spec_differs(kind: &Kind, new: &Value, old: &Value) -> bool {
    let counted = |field: &str| {
        let status = kind.has_status && field == "status";
        !status && !matches!(field, "metadata" | "apiVersion" | "kind")
    };
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return true };
    new.iter().filter(|(field, _)| counted(field)).any(|(field, value)| old.get(field) != Some(value))
        || old.keys().filter(|field| counted(field)).any(|field| !new.contains_key(field.as_str()))
}

/// Whether an update leaves nothing to keep a deleted object for (`ShouldDeleteDuringUpdate`).
pub(super) fn is_finished(object: &Value) -> bool {
    let metadata = object::metadata(object);
    let grace =
        metadata.and_then(|metadata| metadata.get("deletionGracePeriodSeconds")).and_then(Value::as_i64);
    object::is_deleting(object)
        && object::finalizers(object).is_empty()
        && grace.unwrap_or_default() == 0
        && spec_finalizers(object).is_none_or(Vec::is_empty)
}

/// `spec.finalizers` of a Namespace; `None` for every other kind.
pub(super) fn spec_finalizers(object: &Value) -> Option<&Vec<Value>> {
    if object.get("kind").and_then(Value::as_str) != Some("Namespace") {
        return None;
    }
    object.pointer("/spec/finalizers").and_then(Value::as_array)
}

/// Whether two states of an object are the same but for their version.
pub(super) fn same(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return false };
    let without_version = |map: &Map<String, Value>| {
        map.get("metadata").and_then(Value::as_object).map(|metadata| {
            let mut metadata = metadata.clone();
            metadata.shift_remove("resourceVersion");
            metadata
        })
    };
    let fields = |map: &Map<String, Value>| map.keys().filter(|field| *field != "metadata").count();
    fields(new) == fields(old)
        && new
            .iter()
            .filter(|(field, _)| *field != "metadata")
            .all(|(field, value)| old.get(field) == Some(value))
        && without_version(new) == without_version(old)
}

/// Sets one field of `metadata`.
pub(super) fn set_metadata(object: &mut Value, field: &str, value: Value) {
    if let Some(metadata) = object::metadata_mut(object) {
        metadata.insert(field.to_owned(), value);
    }
}
