#![allow(clippy::unwrap_used)]

mod deleting;
mod invariants;
mod reading;
mod writing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::kind::{Family, Generation, Kind, Kinds, Names, Scale, SchemaSource, Scope, Version};
use crate::object;
use crate::status::ApiError;
use crate::store::{HistoryLimits, Store, StoreOptions};

use super::*;

/// A server's verbs over a store of its own.
pub(crate) struct Server {
    pub(crate) api: Api,
    pub(crate) kinds: Arc<Kinds>,
    _directory: tempfile::TempDir,
}

fn schema(name: &'static str, properties: Value) -> SchemaSource {
    SchemaSource::new(name, move || {
        let mut components = Map::new();
        let mut all = json!({
            "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
        });
        all.as_object_mut().unwrap().extend(properties.as_object().unwrap().clone());
        components.insert(name.to_owned(), json!({"type": "object", "properties": all}));
        components
    })
}

fn built_in(plural: &str, kind: &str, scope: Scope, schema: SchemaSource) -> Kind {
    let mut kind = Kind::new("", &["v1"], Names::new(kind, plural), scope, schema);
    kind.family = Family::BuiltIn;
    kind.generation = Generation::Unset;
    kind
}

fn test_kinds() -> Kinds {
    let integer = json!({"type": "integer", "format": "int32"});
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let texts = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let widget_schema = schema(
        "Widget",
        json!({
            "spec": {"type": "object", "properties": {
                "size": {"type": "integer", "minimum": 0}, "color": {"type": "string", "default": "red"},
                "replicas": integer,
            }},
            "status": {"type": "object", "properties": {"phase": {"type": "string"}, "replicas": integer}},
        }),
    );
    let mut widget =
        Kind::new("example.com", &["v1"], Names::new("Widget", "widgets"), Scope::Namespaced, widget_schema);
    widget.versions.push(Version { name: "v1beta1".to_owned(), deprecation_warning: None });
    widget.has_status = true;
    widget.scale = Some(Scale {
        spec_replicas: ".spec.replicas",
        status_replicas: ".status.replicas",
        label_selector: None,
    });
    let mut refused = Kind::new(
        "example.com",
        &["v1"],
        Names::new("Ghost", "ghosts"),
        Scope::Namespaced,
        schema("Ghost", json!({"spec": any})),
    );
    refused.refuses_creation = Some("not supported by ferrovirt".to_owned());
    let mut brief = Kind::new(
        "example.com",
        &["v1"],
        Names::new("Brief", "briefs"),
        Scope::Namespaced,
        schema("Brief", json!({"spec": any})),
    );
    brief.time_to_live = Some(Duration::from_millis(300));
    let mut namespace = built_in(
        "namespaces",
        "Namespace",
        Scope::Cluster,
        schema("Namespace", json!({"spec": any, "status": any})),
    );
    namespace.has_status = true;
    let mut pod =
        built_in("pods", "Pod", Scope::Namespaced, schema("Pod", json!({"spec": any, "status": any})));
    pod.has_status = true;
    pod.selectable_fields = vec![("spec.nodeName", "/spec/nodeName", "")];
    let config =
        built_in("configmaps", "ConfigMap", Scope::Namespaced, schema("ConfigMap", json!({"data": texts})));
    let account =
        built_in("serviceaccounts", "ServiceAccount", Scope::Namespaced, schema("ServiceAccount", json!({})));
    let mut computed = Kind::new(
        "example.com",
        &["v1"],
        Names::new("Reading", "readings"),
        Scope::Namespaced,
        schema("Reading", json!({"value": any})),
    );
    computed.verbs = vec!["get", "list"];
    computed.computed = Some(Arc::new(|| {
        Box::pin(async { Ok(vec![reading("b", "x"), reading("a", "y"), reading("a", "x")]) })
    }));
    Kinds::new([namespace, pod, config, account, widget, refused, brief, computed])
}

/// 2026-01-01T00:00:00Z
pub(crate) const NOW: &str = "2026-01-01T00:00:00Z";

impl Server {
    pub(crate) async fn new() -> Self {
        Self::with_history(HistoryLimits::default()).await
    }

    pub(crate) async fn with_history(history: HistoryLimits) -> Self {
        // Several calls in a row give the same generated name (27⁵ of them are there), but never the same uid.
        let count = AtomicU64::new(0);
        let sources = Sources {
            now: Box::new(jiff::Timestamp::now),
            random: Box::new(move || {
                let count = count.fetch_add(1, Ordering::Relaxed);
                count * 27_u64.pow(5) + count / 6
            }),
        };
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(StoreOptions { directory: directory.path().to_owned(), history }).unwrap();
        let kinds = Arc::new(test_kinds());
        let server = Self { api: Api::new(store, Arc::clone(&kinds), sources), kinds, _directory: directory };
        for name in ["default", "other"] {
            server.create("namespaces", "", json!({"metadata": {"name": name}})).await.unwrap();
        }
        server
    }

    pub(crate) fn kind(&self, plural: &str) -> &Arc<Kind> {
        self.kinds.iter().find(|kind| kind.names.plural == plural).unwrap()
    }

    pub(crate) fn at<'a>(&'a self, plural: &str, namespace: &'a str, path: &'a str) -> Target<'a> {
        let (name, subresource) = path.split_once('/').unwrap_or((path, ""));
        Target { kind: self.kind(plural), version: "v1", namespace, name, subresource }
    }

    pub(crate) fn context(&self) -> Context {
        Context {
            field_validation: FieldValidation::Warn,
            ..Context::internal("tester", NOW.parse().unwrap())
        }
    }

    pub(crate) async fn create(&self, plural: &str, namespace: &str, body: Value) -> Result<Value, ApiError> {
        let answer = self.api.create(&self.context(), &self.at(plural, namespace, ""), body.into()).await?;
        assert_eq!(answer.code, 201);
        answer.value()
    }

    pub(crate) async fn get(&self, plural: &str, namespace: &str, name: &str) -> Result<Value, ApiError> {
        self.api.get(&self.context(), &self.at(plural, namespace, name), "").await?.value()
    }

    pub(crate) async fn update(
        &self,
        plural: &str,
        namespace: &str,
        path: &str,
        body: Value,
    ) -> Result<Value, ApiError> {
        self.api.update(&self.context(), &self.at(plural, namespace, path), body.into()).await?.value()
    }

    pub(crate) async fn merge(
        &self,
        plural: &str,
        namespace: &str,
        path: &str,
        patch: Value,
    ) -> Result<Value, ApiError> {
        let patch = Patch { format: PatchFormat::Merge, body: patch.to_string().into(), force: None };
        self.api.patch(&self.context(), &self.at(plural, namespace, path), patch).await?.value()
    }

    pub(crate) async fn delete(
        &self,
        plural: &str,
        namespace: &str,
        name: &str,
        options: DeleteOptions,
    ) -> Result<Value, ApiError> {
        self.api.delete(&self.context(), &self.at(plural, namespace, name), &options).await?.value()
    }
}

fn reading(namespace: &str, name: &str) -> Value {
    let labels = json!({"on": name});
    json!({"apiVersion": "example.com/v1", "kind": "Reading",
        "metadata": {"namespace": namespace, "name": name, "labels": labels}})
}

pub(crate) fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

/// The code and the message of an error.
pub(crate) fn said<T: std::fmt::Debug>(result: Result<T, ApiError>) -> (u16, String) {
    let error = result.unwrap_err();
    (error.code, error.message)
}

pub(crate) fn version(value: &Value) -> u64 {
    object::resource_version(value).parse().unwrap()
}
