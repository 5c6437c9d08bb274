//! kubeconfig files: ours, and merging it into the user's.

use serde_json::{Map, Value, json};

/// A kubeconfig of a person has a few kilobytes; one of many clusters some hundred.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Why kubeconfig files cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file is not YAML. The text of the file stays out of the error: it holds keys.
    #[error("the kubeconfig is not valid YAML (line {line})")]
    Syntax {
        /// The line, counted from 1.
        line: u64,
    },
    /// The file is YAML and no kubeconfig.
    #[error("the kubeconfig's `{field}` must be {expected}")]
    Shape {
        /// The field.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// The file is too large to be a kubeconfig.
    #[error("the kubeconfig has more than {MAX_BYTES} bytes")]
    TooLarge,
    /// The result cannot be written as YAML.
    #[error("the merged kubeconfig cannot be written as YAML")]
    Write(#[source] serde_saphyr::SerializeError),
}

/// What a kubeconfig needs.
pub(super) struct Access<'a> {
    /// `https://127.0.0.1:6443`
    pub server_url: &'a str,
    /// The name of cluster, context and user.
    pub name: &'a str,
    /// The CA's certificate, base64.
    pub authority: &'a str,
    /// The client certificate, base64.
    pub certificate: &'a str,
    /// The client's key, base64.
    pub key: &'a str,
}

/// The file's text. JSON is YAML, so the text values need no more than JSON's quotes.
pub(super) fn write(access: &Access<'_>) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let (name, server) = (quoted(access.name), quoted(access.server_url));
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: {name}\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {}\ncontexts:\n- name: {name}\n  context:\n    cluster: {name}\n    user: \
         {name}\ncurrent-context: {name}\nusers:\n- name: {name}\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\n",
        access.authority, access.certificate, access.key
    )
}

/// `existing` with the clusters, contexts and users of `ours` put in place of those of the same name, and the current
/// context of `ours`. Everything else stays, in its order; comments may go. An empty `existing` is an empty file.
///
/// # Errors
/// When one of them is not a kubeconfig.
pub fn merge_kubeconfig(existing: &str, ours: &str) -> Result<String, KubeconfigError> {
    let mut merged = parse(existing)?;
    let ours = parse(ours)?;
    for (field, value) in [("apiVersion", json!("v1")), ("kind", json!("Config"))] {
        merged.entry(field).or_insert(value);
    }
    for field in ["clusters", "contexts", "users"] {
        let Some(entries) = ours.get(field).and_then(Value::as_array) else { continue };
        let list = merged.entry(field).or_insert(Value::Null);
        if list.is_null() {
            *list = json!([]);
        }
        let Value::Array(list) = list else {
            return Err(KubeconfigError::Shape { field, expected: "a list" });
        };
        for entry in entries {
            match list.iter_mut().find(|known| known.get("name") == entry.get("name")) {
                Some(known) => known.clone_from(entry),
                None => list.push(entry.clone()),
            }
        }
    }
    if let Some(context) = ours.get("current-context") {
        merged.insert("current-context".to_owned(), context.clone());
    }
    // Keys and certificates stay on one line each, as kubectl writes them.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(&Value::Object(merged), options).map_err(KubeconfigError::Write)
}

fn parse(text: &str) -> Result<Map<String, Value>, KubeconfigError> {
    if text.len() > MAX_BYTES {
        return Err(KubeconfigError::TooLarge);
    }
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    let value: Value = serde_saphyr::from_str(text).map_err(|error| KubeconfigError::Syntax {
        line: error.location().map_or(1, |location| location.line()),
    })?;
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Null => Ok(Map::new()),
        _ => Err(KubeconfigError::Shape { field: "content", expected: "a mapping" }),
    }
}
