//! OpenAPI documents. All are made on demand, and nothing of them is kept.

use serde_json::{Value, json};

use crate::kind::Kinds;

/// `GET /openapi/v3`: the paths of the documents, each with a hash of its content.
pub fn v3_root(_kinds: &Kinds) -> Value {
    json!({"paths": {}})
}

/// `GET /openapi/v3/PATH`, where `path` is `api/v1` or `apis/GROUP/VERSION`; `None` when there is no such version.
pub fn v3_group(_kinds: &Kinds, _path: &str) -> Option<Value> {
    None
}

/// `GET /openapi/v2` as JSON.
pub fn v2(_kinds: &Kinds) -> Value {
    json!({})
}

/// `GET /openapi/v2` as `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`, from what [`v2`] made.
pub fn v2_protobuf(_document: &Value) -> Vec<u8> {
    Vec::new()
}
