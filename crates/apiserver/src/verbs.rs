//! The verbs: what get, list, watch, create, update, patch and delete mean, as Kubernetes' generic registry has it.
//!
//! ```text
//! body ─► type, name, namespace ─► strict fields, pruning ─► hooks.default ─► metadata, generation, managedFields
//!      ─► schema, metadata rules, hooks.validate ─► store.commit (compare and set) ─► answer
//! ```
//!
//! Objects are stored in their kind's storage version and shown in the version of the request ([`View`]). Decisions are
//! functions of values; only the methods of [`Api`] read the store, and only its `commit` writes.

mod delete;
pub(crate) mod namespaces;
mod object_rules;
mod pods;
mod read;
mod request;
mod scale;
#[cfg(test)]
pub(crate) mod tests;
mod view;
mod watch;
mod write;

pub(crate) use delete::{FOREGROUND, ORPHAN};

use std::fmt;
use std::sync::Arc;

use crate::kind::Kinds;
use crate::status::ApiError;
use crate::store::Store;

pub(crate) use object_rules::allows_create_on_update;
pub(crate) use request::check_options;
pub use request::{
    Answer, Body, Content, Context, DeleteOptions, FieldValidation, List, ListOptions, Patch, PatchFormat,
    Propagation, Target,
};
pub use view::View;
pub use watch::{WatchItem, Watcher};

/// Where time and chance come from; tests fix both.
pub struct Sources {
    /// The time now, for what no request stands behind (retries, controllers).
    pub now: Box<dyn Fn() -> jiff::Timestamp + Send + Sync>,
    /// 64 random bits.
    pub random: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl Sources {
    /// The system's clock and random numbers.
    pub fn system() -> Self {
        Self {
            now: Box::new(jiff::Timestamp::now),
            random: Box::new(|| {
                uuid::Uuid::new_v4().as_u64_pair().1.rotate_left(16) ^ uuid::Uuid::new_v4().as_u64_pair().0
            }),
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Sources")
    }
}

/// The verbs over one store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Api {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    kinds: Arc<Kinds>,
    sources: Sources,
}

impl Api {
    /// The verbs on objects of `kinds` in `store`.
    pub fn new(store: Store, kinds: Arc<Kinds>, sources: Sources) -> Self {
        Self { inner: Arc::new(Inner { store, kinds, sources }) }
    }

    /// The store behind the verbs.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Every kind that is served.
    pub fn kinds(&self) -> &Arc<Kinds> {
        &self.inner.kinds
    }

    /// The time now.
    pub fn now(&self) -> jiff::Timestamp {
        (self.inner.sources.now)()
    }

    /// One object. `resource_version` is the query's `resourceVersion` (empty: the newest).
    ///
    /// # Errors
    /// 404 when it does not exist, 504 when the version is not reached in time.
    pub async fn get(
        &self,
        _context: &Context,
        target: &Target<'_>,
        resource_version: &str,
    ) -> Result<Answer, ApiError> {
        match target.subresource {
            "scale" => self.get_scale(target).await,
            _ => self.get_object(target, resource_version).await,
        }
    }

    /// The objects of a kind, in one namespace or in all (empty `target.namespace`).
    ///
    /// # Errors
    /// 400 for options that make no sense, 410 for an expired `continue` or version.
    pub async fn list(
        &self,
        _context: &Context,
        target: &Target<'_>,
        options: &ListOptions,
    ) -> Result<List, ApiError> {
        self.list_objects(target, options).await
    }

    /// A stream of changes.
    ///
    /// # Errors
    /// 400 or 422 for options that make no sense, 410 when the version is too old.
    pub async fn watch(
        &self,
        _context: &Context,
        target: &Target<'_>,
        options: &ListOptions,
    ) -> Result<Watcher, ApiError> {
        self.start_watch(target, options).await
    }

    /// A new object (POST on a collection, or on `binding` and `eviction` of a Pod).
    ///
    /// # Errors
    /// As Kubernetes answers: 400, 403, 404 (namespace), 409 `AlreadyExists`, 422.
    pub async fn create(
        &self,
        context: &Context,
        target: &Target<'_>,
        body: Body,
    ) -> Result<Answer, ApiError> {
        let is_pod = target.kind.group.is_empty() && target.kind.names.plural == "pods";
        match target.subresource {
            "" => self.create_object(context, target, body).await,
            "binding" if is_pod => self.bind_pod(context, target, body).await,
            "eviction" if is_pod => self.evict_pod(context, target, body).await,
            _ => Err(ApiError::method_not_allowed(target.kind.group_resource(), "create")),
        }
    }

    /// Replaces an object or a subresource of it (PUT).
    ///
    /// # Errors
    /// As Kubernetes answers: 400, 404, 409 `Conflict`, 422.
    pub async fn update(
        &self,
        context: &Context,
        target: &Target<'_>,
        body: Body,
    ) -> Result<Answer, ApiError> {
        match target.subresource {
            "scale" => self.update_scale(context, target, body).await,
            subresource if self.has_subresource(target, subresource) => {
                self.update_object(context, target, write::Revision::Object(body)).await
            }
            _ => Err(ApiError::no_such_path()),
        }
    }

    /// Patches an object or a subresource of it; apply creates what is missing.
    ///
    /// # Errors
    /// As Kubernetes answers: 400, 404, 409 `Conflict`, 415, 422.
    pub async fn patch(
        &self,
        context: &Context,
        target: &Target<'_>,
        patch: Patch,
    ) -> Result<Answer, ApiError> {
        match target.subresource {
            "scale" => self.patch_scale(context, target, patch).await,
            subresource if self.has_subresource(target, subresource) => {
                self.update_object(context, target, write::Revision::Patch(patch)).await
            }
            _ => Err(ApiError::no_such_path()),
        }
    }

    /// Deletes an object: at once (200 and a `Status`), or marks it (200 and the object; 202 never).
    ///
    /// # Errors
    /// As Kubernetes answers: 404, 409 for preconditions, 422.
    pub async fn delete(
        &self,
        context: &Context,
        target: &Target<'_>,
        options: &DeleteOptions,
    ) -> Result<Answer, ApiError> {
        self.delete_object(context, target, options).await
    }

    /// Deletes every object that a list with these options shows, and answers with that list.
    ///
    /// # Errors
    /// What the list or the first failed deletion answers; objects that are gone already do not count.
    pub async fn delete_collection(
        &self,
        context: &Context,
        target: &Target<'_>,
        options: &ListOptions,
        delete: &DeleteOptions,
    ) -> Result<List, ApiError> {
        self.delete_listed(context, target, options, delete).await
    }

    /// Changes an object by a function of its present state, through every rule of an update; tried again when another
    /// write comes between. A state that `make` leaves as it is costs no write.
    ///
    /// # Errors
    /// What [`update`](Self::update) answers, and what `make` itself refuses with.
    pub async fn modify(
        &self,
        context: &Context,
        target: &Target<'_>,
        make: impl Fn(&serde_json::Value) -> Result<serde_json::Value, ApiError> + Send + Sync,
    ) -> Result<Answer, ApiError> {
        self.update_object(context, target, write::Revision::Made(Box::new(make))).await
    }

    fn has_subresource(&self, target: &Target<'_>, subresource: &str) -> bool {
        match subresource {
            "" => true,
            "status" => target.kind.has_status,
            "finalize" => namespaces::is_namespace(target.kind),
            // What else a kind lists (`ephemeralcontainers`, `resize`) changes the object itself.
            other => target.kind.subresources.iter().any(|known| known.name == other),
        }
    }
}
