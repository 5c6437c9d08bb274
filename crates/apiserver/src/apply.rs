//! Server-side apply and field ownership (`metadata.managedFields`).
//!
//! Every field of an object is owned by those who set it: by applying it, or by any other write. Who applies an object
//! owns what it names, shares it with those who want the same, and must take it from those who do not (`force`). What
//! an applier names no more, and nobody else owns, is removed.
//!
//! ```text
//! applied ─► check ─┐                               ┌─► conflicts? ─► 409
//!                   ├─► merge ─► cut what was given up ─► compare ─► owners ─► managedFields
//! live ─────────────┘
//! ```
//!
//! The rules are those of `sigs.k8s.io/structured-merge-diff` v4 to v6 and of the managers that
//! `k8s.io/apimachinery/pkg/util/managedfields` stacks on it. Everything here is pure: the time comes with the
//! [`Manager`].
//!
//! Caveats. All versions of a kind have one schema, so owners of any version are compared as they are. Defaults are the
//! caller's: what it fills in after an apply belongs to nobody, as in Kubernetes.

mod check;
mod element;
mod last_applied;
mod managers;
mod merge;
mod set;
#[cfg(test)]
mod tests;
mod typed;

use serde_json::{Map, Value, json};

use self::element::same;
use self::managers::{Conflict, Operation, Owned, Owner, Owners, conflict_error};
use self::merge::{compare, merge, remove};
use self::set::Set;
use self::typed::Typed;
use crate::kind::Family;
use crate::object::{self, format_time, metadata};
use crate::schema::Schema;
use crate::status::ApiError;

/// Who owns what was there before the first apply, where nothing was tracked.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Who writes an object, and through what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manager {
    /// The `fieldManager` of the request, such as `kubectl`. An empty one counts as `unknown`.
    pub name: String,
    /// The subresource that is written, such as `status`; empty for the object itself.
    pub subresource: String,
    /// The `apiVersion` of the request's object, such as `apps/v1`.
    pub api_version: String,
    /// The time now, which a changed entry is stamped with.
    pub at: jiff::Timestamp,
}

/// Merges `applied`, what `manager` wants to be so, into `live`, and notes who owns what in `metadata.managedFields`.
///
/// `live` is `None` for an object that does not exist yet. The result has the `apiVersion` of `applied`; no defaults are
/// filled in. An apply that changes nothing gives a result equal to `live`. `applied` must be limited to what its
/// (sub)resource writes, see [`keep_writable`].
///
/// # Errors
/// - 400 where `applied` is not an object or names `metadata.managedFields`;
/// - 409 `Conflict` with a cause for each field that another manager owns with another value, unless `force`;
/// - 400 where `applied` does not fit the schema.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    schema: &Schema,
    manager: &Manager,
    force: bool,
) -> Result<Value, ApiError> {
    if !applied.is_object() {
        return Err(ApiError::bad_request("error decoding YAML: the object to apply must be a map"));
    }
    if metadata(applied).and_then(|metadata| metadata.get("managedFields")).is_some_and(Value::is_array) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let typed = Typed::root(schema);
    let faults = check::faults(typed, applied);
    if !faults.is_empty() {
        let text = match &faults[..] {
            [one] => one.clone(),
            many => format!("errors:\n  {}", many.join("\n  ")),
        };
        // Kubernetes has no status for it, which makes a 500; it is the client's to mend.
        let message = format!("failed to create typed patch object ({}): {text}", about(applied));
        return Err(ApiError::bad_request(message));
    }

    let request = Request { base: base(live, applied), applied, typed, manager };
    let mut owners = match live {
        Some(live) => Owners::of(live)
            .map_err(|error| ApiError::new(500, "", format!("failed to decode managed fields: {error}")))?,
        None => Owners::default(),
    };
    if live.is_some() && owners.0.is_empty() {
        let before = Manager { name: BEFORE_FIRST_APPLY.to_owned(), ..manager.clone() };
        note_update(&mut owners, typed, &empty_like(&request.base), &request.base, &before);
    }

    let outcome = match request.run(&owners, force)? {
        Err(conflicts) => {
            // kubectl's client-side apply owned what its annotation says; its server-side apply may take that over.
            let conflicts = match last_applied::fields(&request.base, typed, manager) {
                Some(allowed) => {
                    conflicts.into_iter().filter(|conflict| !allowed.has(&conflict.path)).collect()
                }
                None => conflicts,
            };
            if !conflicts.is_empty() {
                return Err(conflict_error(&conflicts));
            }
            request.run(&owners, true)?
        }
        done => done,
    };
    let Ok((mut merged, after)) = outcome else {
        return Err(ApiError::internal("a forced apply met conflicts"));
    };
    last_applied::update(&mut merged, applied, manager);

    // What is equal is given back as it was found, down to the order of its fields.
    if let Some(live) = live
        && same(&merged, &request.base)
        && Owners::of(live).is_ok_and(|before| before == after)
    {
        let mut unchanged = live.clone();
        if let (Some(fields), Some(version)) = (unchanged.as_object_mut(), applied.get("apiVersion")) {
            fields.insert("apiVersion".to_owned(), version.clone());
        }
        return Ok(unchanged);
    }
    after.write(&mut merged);
    Ok(merged)
}

/// Notes in `new`'s `metadata.managedFields` what `manager` changed since `live` by a create, an update or a patch.
///
/// To be called when `new` is as the client wants it, with the schema's defaults (which a writer owns, as in
/// Kubernetes) and before hooks change it, and after what the (sub)resource does not write has been put back. What `new` says in `managedFields` is
/// honoured as in Kubernetes: valid entries replace the live ones, `[]` and `[{}]` reset them, anything else is as if
/// it was not there; through a subresource it is not looked at. An object whose entries were reset is not tracked until
/// it is applied.
pub fn update_managed_fields(live: Option<&Value>, new: &mut Value, schema: &Schema, manager: &Manager) {
    if !new.is_object() {
        return;
    }
    // Entries that cannot be read count as none.
    let stored = || live.and_then(|live| Owners::of(live).ok()).unwrap_or_default();
    let mut owners = if !manager.subresource.is_empty() {
        stored()
    } else if is_reset(new) {
        Owners::default()
    } else {
        match Owners::of(new) {
            Ok(owners) if !owners.0.is_empty() => owners,
            _ => stored(),
        }
    };
    forget_owners(new);
    let exists = live.is_some_and(|live| !object::uid(live).is_empty());
    if owners.0.is_empty() && exists {
        return;
    }
    let base = base(live, new);
    note_update(&mut owners, Typed::root(schema), &base, new, manager);
    owners.write(new);
}

/// Takes out of `applied` what a write through `subresource` does not change: `status` where that is a subresource of
/// its own, and all but `status` for a write through it, which takes metadata along where a built-in kind is written.
/// Who applies an object does not own what is ignored.
pub fn keep_writable(applied: &mut Value, subresource: &str, has_status: bool, family: Family) {
    let Some(fields) = applied.as_object_mut() else { return };
    match subresource {
        "" if has_status => {
            fields.shift_remove("status");
        }
        "status" => {
            fields.retain(|name, _| matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
            if family == Family::Custom
                && let Some(Value::Object(metadata)) = fields.get_mut("metadata")
            {
                metadata.retain(|name, _| {
                    matches!(
                        name.as_str(),
                        "name" | "namespace" | "uid" | "resourceVersion" | "managedFields"
                    )
                });
            }
        }
        _ => {}
    }
}

/// Gives `new` the times of `live`'s entries if nothing else differs between the two (but the resource version), so
/// that nothing is written. To be called last, when defaults are filled in.
pub fn keep_times(live: &Value, new: &mut Value) {
    const OWNERS: &str = "/metadata/managedFields";
    fn without_times(entries: &Value) -> Option<Vec<Value>> {
        let mut entries = entries.as_array()?.clone();
        for entry in &mut entries {
            entry.as_object_mut()?.shift_remove("time");
        }
        entries.sort_by(element::compare_values);
        Some(entries)
    }
    /// Whether two objects are the same but for these of their fields.
    fn same_but(ignored: &[&str], left: Option<&Value>, right: Option<&Value>) -> bool {
        let (Some(left), Some(right)) = (left.and_then(Value::as_object), right.and_then(Value::as_object))
        else {
            return false;
        };
        let counted = |name: &str| !ignored.contains(&name);
        left.keys().filter(|name| counted(name)).count() == right.keys().filter(|name| counted(name)).count()
            && left.iter().all(|(name, value)| {
                !counted(name) || right.get(name).is_some_and(|other| same(value, other))
            })
    }
    let (Some(before), Some(after)) = (live.pointer(OWNERS), new.pointer(OWNERS)) else { return };
    let only_times_differ = before != after
        && without_times(before).is_some_and(|before| Some(before) == without_times(after))
        && same_but(&["resourceVersion", "managedFields"], live.get("metadata"), new.get("metadata"))
        && same_but(&["metadata"], Some(live), Some(new));
    if only_times_differ {
        new["metadata"]["managedFields"] = before.clone();
    }
}

/// One apply.
struct Request<'a> {
    /// The live object without its owners, in the version that is applied.
    base: Value,
    applied: &'a Value,
    typed: Typed<'a>,
    manager: &'a Manager,
}

impl Request<'_> {
    /// The merged object without `managedFields`, and who owns it; or the conflicts.
    fn run(&self, owners: &Owners, force: bool) -> Result<Result<(Value, Owners), Vec<Conflict>>, ApiError> {
        let mut owners = owners.clone();
        owners.reconcile(self.typed);
        let merged = merge(self.typed, &self.base, self.applied)
            .map_err(|error| ApiError::bad_request(format!("failed to merge config: {error}")))?;
        let owner = Owner::new(self.manager, Operation::Apply);
        let before = owners.0.get(&owner).cloned();
        let owned = Owned {
            fields: self.typed.fields_of(self.applied),
            api_version: self.manager.api_version.clone(),
            time: before.as_ref().and_then(|owned| owned.time.clone()),
        };
        owners.0.insert(owner.clone(), owned);
        let merged = match &before {
            Some(before) => self.cut(merged, &before.fields, &owners),
            None => merged,
        };

        let comparison = compare(self.typed, &self.base, &merged);
        if !force {
            let conflicts = owners.conflicts(&comparison, Some(&owner));
            if !conflicts.is_empty() {
                return Ok(Err(conflicts));
            }
        }
        owners.release(&comparison, Some(&owner));
        let mut merged = merged;
        self.typed.drop_nulls(&mut merged);
        let changed = !same(&merged, &self.base);
        if let Some(owned) = owners.0.get_mut(&owner) {
            owned.fields.remove_all(&never_owned());
            let same_fields = before.as_ref().is_some_and(|before| {
                before.fields == owned.fields && before.api_version == owned.api_version
            });
            if changed || !same_fields {
                owned.time = Some(format_time(self.manager.at));
            }
            if owned.fields.is_empty() {
                owners.0.remove(&owner);
            }
        }
        Ok(Ok((merged, owners)))
    }

    /// Removes what the manager applied the last time and does not apply now, if nobody else owns it.
    fn cut(&self, merged: Value, last: &Set, owners: &Owners) -> Value {
        if last.is_empty() {
            return merged;
        }
        let typed = self.typed;
        let named = |value: &Value| typed.with_named_fields(&typed.fields_of(value));
        let last = typed.with_named_fields(last);
        let owned = owners.0.values().fold(Set::default(), |all, owned| all.union(&owned.fields));
        let owned = typed.with_named_fields(&owned);
        let all = named(&merged);
        // First as if all of it was to go, then without that which has an owner, …
        let pruned = remove(typed, &merged, &last);
        let pruned = remove(typed, &merged, &all.difference(&named(&pruned).union(&owned)));
        // … and at last without that which was not the manager's.
        remove(typed, &merged, &all.difference(&named(&pruned)).intersection(&last))
    }
}

/// An update, which owns what it changed and nothing else.
fn note_update(owners: &mut Owners, typed: Typed<'_>, old: &Value, new: &Value, manager: &Manager) {
    owners.reconcile(typed);
    let comparison = compare(typed, old, new);
    owners.release(&comparison, None);
    let mut changed = comparison.into_changed();
    changed.remove_all(&never_owned());
    if !changed.is_empty() {
        let owned = owners.0.entry(Owner::new(manager, Operation::Update)).or_insert_with(|| Owned {
            fields: Set::default(),
            api_version: String::new(),
            time: None,
        });
        owned.fields.absorb(changed);
        owned.api_version.clone_from(&manager.api_version);
        owned.time = Some(format_time(manager.at));
    }
    owners.cap();
}

/// What identifies an object or is the server's: `stripMetaManager` of `k8s.io/apimachinery`.
fn never_owned() -> Set {
    Set::of(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
}

/// The live object as it is compared: without owners, in the version of `new`; or an empty object of its kind.
fn base(live: Option<&Value>, new: &Value) -> Value {
    let Some(live) = live.filter(|live| live.is_object()) else { return empty_like(new) };
    let mut base = live.clone();
    forget_owners(&mut base);
    if let (Some(fields), Some(version)) = (base.as_object_mut(), new.get("apiVersion")) {
        fields.insert("apiVersion".to_owned(), version.clone());
    }
    base
}

fn empty_like(object: &Value) -> Value {
    let mut empty = Map::new();
    for name in ["apiVersion", "kind"] {
        if let Some(value) = object.get(name) {
            empty.insert(name.to_owned(), value.clone());
        }
    }
    empty.insert("metadata".to_owned(), json!({}));
    Value::Object(empty)
}

fn forget_owners(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
}

/// Whether a client asks for its owners to be forgotten: by an empty list, or by one empty entry.
fn is_reset(object: &Value) -> bool {
    let Some(Value::Array(entries)) = metadata(object).and_then(|metadata| metadata.get("managedFields"))
    else {
        return false;
    };
    match &entries[..] {
        [] => true,
        [Value::Object(entry)] => {
            entry.values().all(|value| value.is_null() || value.as_str().is_some_and(str::is_empty))
        }
        _ => false,
    }
}

/// `namespace/name; group/version, Kind=Kind`
fn about(object: &Value) -> String {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let version = text("apiVersion");
    let version = if version.contains('/') { version.to_owned() } else { format!("/{version}") };
    format!("{}/{}; {version}, Kind={}", object::namespace(object), object::name(object), text("kind"))
}
