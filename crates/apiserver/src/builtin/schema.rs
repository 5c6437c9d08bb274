//! The schemas of Kubernetes' own kinds: k8s-openapi's, with the merge facts that it leaves out.

use k8s_openapi::schemars::JsonSchema;
use k8s_openapi::schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::facts;
use crate::kind::SchemaSource;

/// The schema of one of k8s-openapi's types.
pub(super) fn source<T: JsonSchema + 'static>() -> SchemaSource {
    SchemaSource::new(T::schema_name().into_owned(), components::<T>)
}

/// The definition of `T` and of everything that it refers to.
pub(crate) fn components<T: JsonSchema>() -> Map<String, Value> {
    let mut generator = SchemaSettings::openapi3().into_generator();
    generator.subschema_for::<T>();
    let mut definitions = generator.take_definitions(true);
    for (name, definition) in &mut definitions {
        facts::enrich(name, definition);
    }
    definitions
}

/// An object of which nothing is known but that it is one.
pub(super) fn free_form(definition: &'static str, description: &'static str) -> SchemaSource {
    SchemaSource::new(definition, move || {
        let mut components = components::<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>();
        let metadata = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
        components.insert(
            definition.to_owned(),
            json!({
                "description": description,
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": true,
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"allOf": [{"$ref": metadata}]},
                },
            }),
        );
        components
    })
}
