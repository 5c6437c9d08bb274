//! The schema of `metadata`, which is the same for every kind.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::{ListType, PatchStrategy, Schema, Shape};

/// The definition that every kind's `metadata` is.
const DEFINITION: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// What the name of that definition ends in, wherever it is published.
pub(super) const SUFFIX: &str = "apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// `metav1.ObjectMeta`. Its fields are closed: what is not among them is unknown in every kind.
pub fn object_meta() -> &'static Arc<Schema> {
    static SCHEMA: OnceLock<Arc<Schema>> = OnceLock::new();
    SCHEMA.get_or_init(|| Arc::new(build()))
}

fn build() -> Schema {
    let text = Arc::new(Schema { shape: Shape::String, ..Schema::default() });
    let flag = Arc::new(Schema { shape: Shape::Boolean, ..Schema::default() });
    let time = Arc::new(Schema {
        shape: Shape::String,
        format: Some("date-time".to_owned()),
        definition: Some("io.k8s.apimachinery.pkg.apis.meta.v1.Time".into()),
        ..Schema::default()
    });
    let whole =
        Arc::new(Schema { shape: Shape::Integer, format: Some("int64".to_owned()), ..Schema::default() });
    let texts = Arc::new(Schema {
        shape: Shape::Object {
            fields: BTreeMap::new(),
            required: Vec::new(),
            additional: Some(Arc::clone(&text)),
        },
        ..Schema::default()
    });
    let finalizers = Arc::new(Schema {
        shape: Shape::List(Arc::clone(&text)),
        list_type: ListType::Set,
        patch_strategy: PatchStrategy { merge: true, ..PatchStrategy::default() },
        ..Schema::default()
    });
    let owner = Schema {
        definition: Some("io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference".into()),
        atomic_map: true,
        ..structure(&[
            ("apiVersion", &text),
            ("blockOwnerDeletion", &flag),
            ("controller", &flag),
            ("kind", &text),
            ("name", &text),
            ("uid", &text),
        ])
    };
    let owners = Arc::new(Schema {
        shape: Shape::List(Arc::new(owner)),
        list_type: ListType::Map(vec!["uid".to_owned()]),
        patch_strategy: PatchStrategy { merge: true, ..PatchStrategy::default() },
        patch_merge_key: Some("uid".to_owned()),
        ..Schema::default()
    });
    let anything = Arc::new(Schema { preserve_unknown_fields: true, ..Schema::default() });
    let manager = Schema {
        definition: Some("io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry".into()),
        ..structure(&[
            ("apiVersion", &text),
            ("fieldsType", &text),
            ("fieldsV1", &anything),
            ("manager", &text),
            ("operation", &text),
            ("subresource", &text),
            ("time", &time),
        ])
    };
    let managers = Arc::new(Schema { shape: Shape::List(Arc::new(manager)), ..Schema::default() });
    Schema {
        definition: Some(DEFINITION.into()),
        ..structure(&[
            ("annotations", &texts),
            ("creationTimestamp", &time),
            ("deletionGracePeriodSeconds", &whole),
            ("deletionTimestamp", &time),
            ("finalizers", &finalizers),
            ("generateName", &text),
            ("generation", &whole),
            ("labels", &texts),
            ("managedFields", &managers),
            ("name", &text),
            ("namespace", &text),
            ("ownerReferences", &owners),
            ("resourceVersion", &text),
            ("selfLink", &text),
            ("uid", &text),
        ])
    }
}

fn structure(fields: &[(&str, &Arc<Schema>)]) -> Schema {
    Schema {
        shape: Shape::Object {
            fields: fields.iter().map(|(name, schema)| ((*name).to_owned(), Arc::clone(schema))).collect(),
            required: Vec::new(),
            additional: None,
        },
        ..Schema::default()
    }
}
