//! Kinds as data: what the machinery must know of a kind to serve it.
//!
//! A kind is registered once ([`Kinds::new`]) and everything else follows from it: paths, discovery, OpenAPI, tables,
//! pruning, patches, field ownership. What a kind *means* stays with whoever registers it, in its [`Hooks`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use futures::future::BoxFuture;
use serde_json::{Map, Value};

use crate::schema::Schema;
use crate::status::{ApiError, FieldError, GroupResource};

/// Whether objects of a kind live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// Beside the namespaces.
    Cluster,
}

/// Which of Kubernetes' two families a kind behaves like where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Compiled into Kubernetes' API server: strategic merge patch is known, unknown fields are dropped as Go's decoder does.
    BuiltIn,
    /// As a CustomResourceDefinition serves it: no strategic merge patch (415), structural-schema pruning.
    Custom,
}

/// When `metadata.generation` counts up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Never set (ConfigMap, Secret, Event, …).
    Unset,
    /// When anything outside `metadata` (and outside `status`, where the kind has that subresource) changes.
    Counted,
}

/// What a kind is called.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// `virtualmachines`
    pub plural: String,
    /// `virtualmachine`
    pub singular: String,
    /// `VirtualMachine`
    pub kind: String,
    /// `vm`, `vms`
    pub short_names: Vec<String>,
    /// `all`
    pub categories: Vec<String>,
}

impl Names {
    /// A kind whose singular is its name in lower case, as Kubernetes has it by default.
    pub fn new(kind: &str, plural: &str) -> Self {
        Self {
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            kind: kind.to_owned(),
            ..Self::default()
        }
    }
}

/// One served version of a kind. All versions of a kind share one schema shape; only `apiVersion` differs.
#[derive(Debug, Clone)]
pub struct Version {
    /// `v1`
    pub name: String,
    /// The text of the `Warning` header on each request to a deprecated version.
    pub deprecation_warning: Option<String>,
}

/// A schema as an OpenAPI v3 document, built when it is first needed.
///
/// The document is the `components.schemas` map: definitions by name (`io.k8s.api.core.v1.Pod`) that refer to each
/// other as `#/components/schemas/NAME`, with Kubernetes' extensions (`x-kubernetes-list-type`,
/// `x-kubernetes-list-map-keys`, `x-kubernetes-patch-strategy`, `x-kubernetes-patch-merge-key`,
/// `x-kubernetes-preserve-unknown-fields`, `x-kubernetes-int-or-string`).
pub struct SchemaSource {
    /// The name of the definition that describes the whole object.
    pub definition: String,
    components: Box<dyn Fn() -> Map<String, Value> + Send + Sync>,
    parsed: OnceLock<Arc<Schema>>,
}

impl SchemaSource {
    /// A schema whose definitions `components` makes; it is called when they are needed, and the result is not kept.
    pub fn new(
        definition: impl Into<String>,
        components: impl Fn() -> Map<String, Value> + Send + Sync + 'static,
    ) -> Self {
        Self { definition: definition.into(), components: Box::new(components), parsed: OnceLock::new() }
    }

    /// The definitions, made anew.
    pub fn components(&self) -> Map<String, Value> {
        (self.components)()
    }

    /// The compact form that pruning, validation and patches walk; made once.
    pub fn schema(&self) -> Arc<Schema> {
        Arc::clone(
            self.parsed
                .get_or_init(|| Arc::new(Schema::from_components(&self.components(), &self.definition))),
        )
    }
}

impl fmt::Debug for SchemaSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SchemaSource").field("definition", &self.definition).finish_non_exhaustive()
    }
}

/// The JSON type of a table column: `string`, `integer`, `number`, `boolean` or `date`.
pub type ColumnType = &'static str;

/// Where a column's cell comes from.
#[derive(Clone, Copy)]
pub enum Cell {
    /// A JSONPath without the leading `$`, as `additionalPrinterColumns` has it: `.status.conditions[?(@.type=='Ready')].status`.
    JsonPath(&'static str),
    /// A function of the object and the time now; `None` prints as `<none>`.
    Function(fn(&Value, jiff::Timestamp) -> Option<Value>),
}

impl fmt::Debug for Cell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JsonPath(path) => write!(out, "JsonPath({path:?})"),
            Self::Function(_) => out.write_str("Function"),
        }
    }
}

/// One printer column after NAME, which every table has unless one of its columns is called `Name`.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// The heading, `Status`.
    pub name: &'static str,
    /// The JSON type.
    pub column_type: ColumnType,
    /// What it says, for clients that show it.
    pub description: &'static str,
    /// 0 is always shown; 1 only with `-o wide`.
    pub priority: u8,
    /// Where the value comes from.
    pub cell: Cell,
}

/// What is being done to an object, as admission sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change to an object.
    Update,
    /// The end of an object.
    Delete,
}

/// The request that hooks are asked about.
#[derive(Debug, Clone)]
pub struct Admission<'a> {
    /// What is being done.
    pub operation: Operation,
    /// The subresource, `status`, or empty.
    pub subresource: &'a str,
    /// The namespace; empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// The object's name; empty when `generateName` has not been used yet.
    pub name: &'a str,
    /// Who asks: the user's name.
    pub user: &'a str,
    /// The user's groups.
    pub groups: &'a [String],
    /// The time now.
    pub now: jiff::Timestamp,
}

/// What a kind adds to the machinery. Every function is pure: time, names and the old object come in as values.
///
/// Order on a write: decode → prune and check against the schema → [`default`](Self::default) → metadata is filled in
/// → a built-in kind's [`validate`](Self::validate) → all [`faults`](Self::faults) → a custom one's `validate` → store.
pub trait Hooks: Send + Sync {
    /// Fills in what the object leaves out, in place. `old` is the stored object on an update. Warnings are added to
    /// `warnings`, and reach the client as `Warning` headers.
    ///
    /// # Errors
    /// When the object is refused already here.
    fn default(
        &self,
        _request: &Admission<'_>,
        _object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    /// What is wrong with the object's own fields, told together with what is wrong with its metadata. `old` is the
    /// stored object on an update.
    fn faults(&self, _request: &Admission<'_>, _object: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        Vec::new()
    }

    /// Says whether the object may be stored, or deleted, for reasons that are no fault of a field.
    ///
    /// # Errors
    /// When it may not; the error is sent to the client as it is.
    fn validate(
        &self,
        _request: &Admission<'_>,
        _object: &Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        Ok(())
    }

    /// An object that was not there before has been stored in `namespace`.
    fn created(&self, _namespace: &str) {}
}

/// Hooks that add nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoHooks;

impl Hooks for NoHooks {}

/// The `scale` subresource of a kind.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// `.spec.replicas`
    pub spec_replicas: &'static str,
    /// `.status.replicas`
    pub status_replicas: &'static str,
    /// `.status.labelSelector`, where there is one.
    pub label_selector: Option<&'static str>,
}

/// How a kind is kept that shares its storage with another kind: the same objects seen in two groups, such as
/// `events.k8s.io/v1` and core Events, or in two versions that differ in more than their name.
#[derive(Debug, Clone, Copy)]
pub struct SharedStorage {
    /// The group of the kind that is stored; empty for the core group.
    pub group: &'static str,
    /// The plural of the kind that is stored.
    pub plural: &'static str,
    /// The `apiVersion` of what is stored.
    pub api_version: &'static str,
    /// Turns an object of this kind into the one that is stored; `apiVersion` is written by the caller.
    pub to_stored: fn(&mut Value),
    /// Turns a stored object into one of this kind; `apiVersion` is written by the caller.
    pub from_stored: fn(&mut Value),
}

/// A subresource beside `status` and `scale` that discovery and OpenAPI show (`pods/log`). Serving it is up to whoever
/// registers it with the HTTP layer.
#[derive(Debug, Clone)]
pub struct Subresource {
    /// `log`
    pub name: &'static str,
    /// The group of the kind that it speaks, where that is another one than the resource's.
    pub group: &'static str,
    /// The version of that kind; empty when group and version are the resource's.
    pub version: &'static str,
    /// The kind that it speaks: `Pod`, `TokenRequest`.
    pub kind: &'static str,
    /// `create`, `get`, `patch`, `update`.
    pub verbs: &'static [&'static str],
}

/// Works out all objects of a kind that nothing is stored of, in any order: each with `apiVersion`, `kind` and `metadata`
/// (`name`, and `namespace` where the kind has one) before all else.
pub type Compute = dyn Fn() -> BoxFuture<'static, Result<Vec<Value>, ApiError>> + Send + Sync;

/// One kind.
pub struct Kind {
    /// The group; empty for the core group.
    pub group: String,
    /// What it is called.
    pub names: Names,
    /// Whether it lives in namespaces.
    pub scope: Scope,
    /// The served versions, the preferred one first; that one is stored.
    pub versions: Vec<Version>,
    /// What an object may contain.
    pub schema: SchemaSource,
    /// Built in, or as a custom resource.
    pub family: Family,
    /// When the generation counts up.
    pub generation: Generation,
    /// Whether there is a `status` subresource.
    pub has_status: bool,
    /// The `scale` subresource, where there is one.
    pub scale: Option<Scale>,
    /// Printer columns after NAME. Empty: `Age` alone.
    pub columns: Vec<Column>,
    /// Fields that a field selector may name beside `metadata.name` and `metadata.namespace`: (`spec.nodeName`, where to
    /// find it as a JSON pointer, what an absent value counts as).
    pub selectable_fields: Vec<(&'static str, &'static str, &'static str)>,
    /// Why nothing of this kind can be created (`not supported by ferrovirt`); lists are empty then.
    pub refuses_creation: Option<String>,
    /// What a creation is answered with while there is an object of this kind, in whatever namespace; `None` where there
    /// may be any number.
    pub refuses_another: Option<fn() -> ApiError>,
    /// Verbs that there are; discovery lists them. Empty: all of them.
    pub verbs: Vec<&'static str>,
    /// How long an object is kept after its last change (Events: one hour); `None` for ever.
    pub time_to_live: Option<std::time::Duration>,
    /// Where its objects are kept, if not under its own name.
    pub shared_storage: Option<SharedStorage>,
    /// Where its objects come from, if they are not stored. Such a kind has the verbs `get` and `list` alone.
    pub computed: Option<Arc<Compute>>,
    /// What the kind adds.
    pub hooks: Arc<dyn Hooks>,
    /// Subresources that discovery and OpenAPI show beside `status` and `scale`.
    pub subresources: Vec<Subresource>,
}

/// The eight verbs that a kind has unless it says otherwise, in discovery's order.
pub const ALL_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

impl Kind {
    /// A custom resource as it is without further ado: all verbs, a counted generation, `Age` alone, no subresource.
    ///
    /// `versions` are the names of the served ones, the stored and preferred one first. There must be at least one.
    pub fn new(
        group: impl Into<String>,
        versions: &[&str],
        names: Names,
        scope: Scope,
        schema: SchemaSource,
    ) -> Self {
        let served = |name: &&str| Version { name: (*name).to_owned(), deprecation_warning: None };
        Self {
            group: group.into(),
            names,
            scope,
            versions: versions.iter().map(served).collect(),
            schema,
            family: Family::Custom,
            generation: Generation::Counted,
            has_status: false,
            scale: None,
            columns: Vec::new(),
            selectable_fields: Vec::new(),
            refuses_creation: None,
            refuses_another: None,
            verbs: Vec::new(),
            time_to_live: None,
            shared_storage: None,
            computed: None,
            hooks: Arc::new(NoHooks),
            subresources: Vec::new(),
        }
    }

    /// The stored version.
    pub fn storage_version(&self) -> &str {
        &self.versions[0].name
    }

    /// `kubevirt.io/v1`, or `v1` for the core group.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// The plural in its group, as most messages name it.
    pub fn group_resource(&self) -> GroupResource<'_> {
        GroupResource { group: &self.group, resource: &self.names.plural }
    }

    /// The kind in its group, as `Invalid` messages name it.
    pub fn group_kind(&self) -> GroupResource<'_> {
        GroupResource { group: &self.group, resource: &self.names.kind }
    }

    /// `VirtualMachineList`
    pub fn list_kind(&self) -> String {
        format!("{}List", self.names.kind)
    }

    /// The verbs of this kind.
    pub fn served_verbs(&self) -> &[&'static str] {
        if self.verbs.is_empty() { &ALL_VERBS } else { &self.verbs }
    }

    /// Where objects of this kind are stored: `/GROUP/PLURAL/`. `core` stands for the empty group.
    pub fn storage_prefix(&self) -> String {
        let (group, plural) = match &self.shared_storage {
            Some(shared) => (shared.group, shared.plural),
            None => (self.group.as_str(), self.names.plural.as_str()),
        };
        format!("/{}/{plural}/", if group.is_empty() { "core" } else { group })
    }

    /// The `apiVersion` of stored objects.
    pub fn storage_api_version(&self) -> String {
        match &self.shared_storage {
            Some(shared) => shared.api_version.to_owned(),
            None => self.api_version(self.storage_version()),
        }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Kind({})", self.group_kind())
    }
}

/// A group of which nothing is stored: something outside this crate answers its requests
/// ([`crate::http::extension`]), and discovery names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignGroup {
    /// The group, `subresources.kubevirt.io`.
    pub name: &'static str,
    /// The versions, which all serve the same.
    pub versions: &'static [&'static str],
    /// What there is in namespaces, `virtualmachines/start`.
    pub resources: &'static [&'static str],
}

/// All kinds of a server.
#[derive(Debug, Default)]
pub struct Kinds {
    kinds: Vec<Arc<Kind>>,
    foreign: Vec<ForeignGroup>,
    /// The hash of each OpenAPI v3 document by path; the documents themselves are not kept.
    pub(crate) openapi_hashes: OnceLock<BTreeMap<String, String>>,
}

impl Kinds {
    /// A set of kinds, in the order in which discovery lists them.
    pub fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self::index(kinds.into_iter().map(Arc::new).collect())
    }

    /// The same kinds, and a group of somebody else's beside them.
    pub fn with_foreign(mut self, group: ForeignGroup) -> Self {
        self.foreign.push(group);
        self
    }

    /// The groups that something else answers.
    pub fn foreign(&self) -> &[ForeignGroup] {
        &self.foreign
    }

    /// The same kinds, each after `change`. A kind that somebody else holds on to stays as it is.
    pub fn adjusted(self, mut change: impl FnMut(&mut Kind)) -> Self {
        let mut kinds = self.kinds;
        for kind in kinds.iter_mut().filter_map(Arc::get_mut) {
            change(kind);
        }
        Self { foreign: self.foreign, ..Self::index(kinds) }
    }

    fn index(kinds: Vec<Arc<Kind>>) -> Self {
        Self { kinds, foreign: Vec::new(), openapi_hashes: OnceLock::new() }
    }

    /// Every kind.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.kinds.iter()
    }

    /// The kind with this plural in this version of a group.
    pub fn served(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.kinds.iter().find(|known| {
            known.group == group
                && known.names.plural == plural
                && known.versions.iter().any(|known| known.name == version)
        })
    }

    /// The kind with this plural in this group; where several versions are kinds of their own, the first that was
    /// registered.
    pub fn resource(&self, group: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.kinds.iter().find(|known| known.group == group && known.names.plural == plural)
    }

    /// The kind with this name in this group, as [`resource`](Self::resource) finds it.
    pub fn kind(&self, group: &str, kind: &str) -> Option<&Arc<Kind>> {
        self.kinds.iter().find(|known| known.group == group && known.names.kind == kind)
    }
}
