//! What a request is about, from its method and its path alone.
//!
//! The rules are those of `k8s.io/apiserver/pkg/endpoints/request/requestinfo.go`: the verb that authorization sees
//! comes from here, so a path must never mean one thing here and another where it is answered. Handlers therefore
//! look at [`RequestInfo`] only, never at the path again.

use http::Method;

use super::query::Query;
use crate::auth::Attributes;

/// What a request is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Whether the path names a resource; otherwise only `path` and `verb` are set.
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, `proxy`; the method in small
    /// letters for paths that name no resource; empty for a method that no resource has.
    pub verb: String,
    /// The group; empty for the core group.
    pub group: String,
    /// The version, `v1`.
    pub version: String,
    /// The namespace; empty where the path has none.
    pub namespace: String,
    /// The plural.
    pub resource: String,
    /// `status`, or empty.
    pub subresource: String,
    /// The object's name. Lists by `metadata.name=X` have it too, for authorization.
    pub name: String,
    /// The whole path, decoded.
    pub path: String,
    /// What follows the subresource; such a path exists only below an extension.
    pub rest: Vec<String>,
    /// Whether the name stands in the path (and not in a field selector).
    pub has_path_name: bool,
    /// Whether the path has a `/namespaces/NAME/` before the resource.
    pub has_path_namespace: bool,
}

/// A path that cannot be meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathError {
    /// Broken percent-encoding, or text that is not UTF-8: 400.
    Malformed,
    /// Well-formed, but nothing can be there (empty parts, `..`, an encoded slash): 404.
    Nowhere,
}

/// Verbs that clients of old put before the resource.
const SPECIAL_VERBS: [&str; 2] = ["proxy", "watch"];
/// What may follow `/namespaces/NAME` and is about the namespace itself.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];
/// The longest path that is looked at, in bytes. Longer ones name nothing that could exist.
const LONGEST_PATH: usize = 8 * 1024;

impl RequestInfo {
    /// What authorization is asked about.
    pub fn attributes(&self) -> Attributes<'_> {
        if !self.is_resource {
            return Attributes { verb: &self.verb, path: &self.path, ..Attributes::default() };
        }
        Attributes {
            verb: &self.verb,
            group: &self.group,
            version: &self.version,
            resource: &self.resource,
            subresource: &self.subresource,
            namespace: &self.namespace,
            name: &self.name,
            path: &self.path,
        }
    }

    /// Reads a request line. `path` is as it came, percent-encoded.
    ///
    /// # Errors
    /// When the path cannot be meant; see [`PathError`].
    pub fn new(method: &Method, path: &str, query: &Query) -> Result<Self, PathError> {
        let (segments, decoded) = segments(path)?;
        let mut info = Self { path: decoded, verb: method.as_str().to_ascii_lowercase(), ..Self::default() };
        let mut parts = &segments[..];
        match parts.first().map(String::as_str) {
            Some("api") if parts.len() >= 3 => parts = &parts[1..],
            Some("apis") if parts.len() >= 4 => {
                info.group = parts[1].clone();
                parts = &parts[2..];
            }
            _ => return Ok(info),
        }
        info.is_resource = true;
        info.version = parts[0].clone();
        parts = &parts[1..];

        if SPECIAL_VERBS.contains(&parts[0].as_str()) {
            // `/api/v1/watch` names no resource to watch.
            if parts.len() < 2 {
                return Err(PathError::Nowhere);
            }
            info.verb = parts[0].clone();
            parts = &parts[1..];
        } else {
            info.verb = match method.as_str() {
                "POST" => "create",
                "GET" | "HEAD" => "get",
                "PUT" => "update",
                "PATCH" => "patch",
                "DELETE" => "delete",
                _ => "",
            }
            .to_owned();
        }

        if parts[0] == "namespaces"
            && let Some(namespace) = parts.get(1)
        {
            info.namespace = namespace.clone();
            if parts.get(2).is_some_and(|after| !NAMESPACE_SUBRESOURCES.contains(&after.as_str())) {
                info.has_path_namespace = true;
                parts = &parts[2..];
            }
        }
        info.resource = parts[0].clone();
        if let Some(name) = parts.get(1) {
            info.name = name.clone();
            info.has_path_name = true;
        }
        if info.verb != "proxy" {
            info.subresource = parts.get(2).cloned().unwrap_or_default();
            info.rest = parts.iter().skip(3).cloned().collect();
        } else {
            info.rest = parts.iter().skip(2).cloned().collect();
        }

        if !info.has_path_name {
            match info.verb.as_str() {
                "get" => info.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned(),
                "delete" => info.verb = "deletecollection".to_owned(),
                _ => {}
            }
            if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection")
                && let Some(name) = query.first("fieldSelector").and_then(exact_name)
            {
                info.name = name.to_owned();
            }
        }
        Ok(info)
    }

    /// Whether the answer may take as long as it likes: watches, and what extensions stream.
    pub fn is_long_running(&self) -> bool {
        matches!(self.verb.as_str(), "watch" | "proxy")
            || matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
    }

    /// Whether the request changes something, as the limits of requests in flight tell them apart.
    pub fn is_mutating(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
    }
}

/// The parts of a path, decoded, and the decoded path.
fn segments(path: &str) -> Result<(Vec<String>, String), PathError> {
    if path.len() > LONGEST_PATH {
        return Err(PathError::Nowhere);
    }
    // A slash at the end means nothing, one at the beginning is always there.
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() {
        return if path.len() <= 1 { Ok((Vec::new(), "/".to_owned())) } else { Err(PathError::Nowhere) };
    }
    let mut decoded = String::with_capacity(path.len());
    let mut list = Vec::new();
    for raw in inner.split('/') {
        let part = percent_decode(raw).ok_or(PathError::Malformed)?;
        if part.is_empty() || part == "." || part == ".." || part.contains(['/', '\0']) {
            return Err(PathError::Nowhere);
        }
        decoded.push('/');
        decoded.push_str(&part);
        list.push(part);
    }
    if path.ends_with('/') {
        decoded.push('/');
    }
    Ok((list, decoded))
}

/// `%41` → `A`; `None` when the encoding is broken or the result is no UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The name that a field selector demands of `metadata.name`, if it can be one.
fn exact_name(selector: &str) -> Option<&str> {
    selector.split(',').find_map(|requirement| {
        let (field, value) = requirement.split_once('=')?;
        let value = value.strip_prefix('=').unwrap_or(value);
        let may_be_name = !value.is_empty() && value != "." && value != ".." && !value.contains(['/', '%']);
        (field.trim() == "metadata.name" && may_be_name).then_some(value)
    })
}

#[cfg(test)]
mod tests;
