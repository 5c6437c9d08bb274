//! The paths of a group version, and what can be done at each.

use serde_json::{Map, Value, json};

use super::components::{REVIEWS, list_definition, spoken};
use super::{META, document_path, parameters, reference};
use crate::discovery::kinds_of;
use crate::kind::{Family, Kind, Kinds, Scope, Subresource};

/// One group version whose paths are being written.
struct Writer {
    group: String,
    version: String,
    /// `CoreV1`, `RbacAuthorizationV1`, `KubevirtIoV1`.
    tag: String,
    base: String,
    paths: Map<String, Value>,
}

/// All paths of a group version.
pub(super) fn paths(kinds: &Kinds, group: &str, version: &str) -> Map<String, Value> {
    let mut writer = Writer {
        group: group.to_owned(),
        version: version.to_owned(),
        tag: format!("{}{}", camel_case_group(group), capitalised(version)),
        base: format!("/{}", document_path(group, version)),
        paths: Map::new(),
    };
    for kind in kinds_of(kinds, group, version) {
        writer.kind(kind);
    }
    if version == "v1" {
        for (_, kind, definition) in REVIEWS.iter().filter(|(of, ..)| *of == group) {
            writer.review(kind, definition);
        }
    }
    writer.paths.sort_keys();
    writer.paths
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

/// `rbac.authorization.k8s.io` is `RbacAuthorization`; other domains are kept whole: `KubevirtIo`.
fn camel_case_group(group: &str) -> String {
    if group.is_empty() {
        return "Core".to_owned();
    }
    let words = group.strip_suffix(".k8s.io").unwrap_or(group).split(['.', '-']);
    words.map(capitalised).collect()
}

/// What an operation is: method, `x-kubernetes-action`, the verb of its id.
struct Action {
    method: &'static str,
    action: &'static str,
    verb: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    /// The codes of success, each with this schema.
    codes: &'static [&'static str],
}

impl Action {
    fn new(method: &'static str, action: &'static str, verb: &'static str, parameters: Vec<Value>) -> Self {
        Self { method, action, verb, parameters, body: None, codes: &["200"] }
    }

    fn body(mut self, schema: &Value, codes: &'static [&'static str]) -> Self {
        let content = json!({"application/json": {"schema": schema}, "application/yaml": {"schema": schema}});
        self.body = Some(json!({"content": content, "required": true}));
        self.codes = codes;
        self
    }
}

/// Every answer of a success can be read in these.
fn answer(schema: &Value, description: &str, watch: bool) -> Value {
    let mut content = json!({"application/json": {"schema": schema}, "application/yaml": {"schema": schema}});
    if watch {
        content["application/json;stream=watch"] = json!({"schema": schema});
    }
    json!({"description": description, "content": content})
}

fn described(code: &str) -> &'static str {
    match code {
        "201" => "Created",
        "202" => "Accepted",
        _ => "OK",
    }
}

impl Writer {
    fn operation(&self, action: &Action, id: String, schema: &Value, spoken: (&str, &str, &str)) -> Value {
        let watch = action.action == "list";
        let mut responses: Map<_, _> = action
            .codes
            .iter()
            .map(|code| ((*code).to_owned(), answer(schema, described(code), watch)))
            .collect();
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        let tag = format!(
            "{}_{}",
            if self.group.is_empty() { "core" } else { self.group.trim_end_matches(".k8s.io") },
            self.version
        );
        let mut operation = json!({
            "tags": [tag.replace('.', "")],
            "description": format!("{} {}", action.verb, spoken.2),
            "operationId": id,
            "parameters": action.parameters,
        });
        if let Some(body) = &action.body {
            operation["requestBody"] = body.clone();
        }
        operation["responses"] = responses.into();
        operation["x-kubernetes-action"] = action.action.into();
        let (group, version, kind) = spoken;
        operation["x-kubernetes-group-version-kind"] =
            json!({"group": group, "kind": kind, "version": version});
        operation
    }

    fn add(&mut self, path: &str, path_parameters: &[Value], method: &str, operation: Value) {
        let item = self.paths.entry(path).or_insert_with(|| json!({}));
        item[method] = operation;
        if !path_parameters.is_empty() {
            item["parameters"] = json!(path_parameters);
        }
    }

    fn kind(&mut self, kind: &Kind) {
        let namespaced = kind.scope == Scope::Namespaced;
        let name = &kind.names.kind;
        let scope = if namespaced { "Namespaced" } else { "" };
        let namespace =
            parameters::path("namespace", "object name and auth scope, such as for teams and projects");
        let object_name = parameters::path("name", &format!("name of the {name}"));
        let collection = if namespaced {
            format!("{}/namespaces/{{namespace}}/{}", self.base, kind.names.plural)
        } else {
            format!("{}/{}", self.base, kind.names.plural)
        };
        let in_collection: &[Value] = if namespaced { std::slice::from_ref(&namespace) } else { &[] };
        let own = reference(&kind.schema.definition);
        let list = reference(&list_definition(kind));
        let status = reference(&format!("{META}.Status"));
        let verbs = kind.served_verbs();
        let (group, version) = (self.group.clone(), self.version.clone());
        let speaks = (group.as_str(), version.as_str(), name.as_str());

        if namespaced && verbs.contains(&"list") {
            let action = Action::new("get", "list", "list", parameters::query(parameters::LIST));
            let id = format!("list{}{name}ForAllNamespaces", self.tag);
            let operation = self.operation(&action, id, &list, speaks);
            self.add(&format!("{}/{}", self.base, kind.names.plural), &[], "get", operation);
        }
        if verbs.contains(&"list") {
            let action = Action::new("get", "list", "list", parameters::query(parameters::LIST));
            let id = format!("list{}{scope}{name}", self.tag);
            let operation = self.operation(&action, id, &list, speaks);
            self.add(&collection, in_collection, action.method, operation);
        }
        if verbs.contains(&"create") {
            let action = Action::new("post", "post", "create", parameters::query(parameters::WRITE))
                .body(&own, &["200", "201", "202"]);
            let id = format!("create{}{scope}{name}", self.tag);
            let operation = self.operation(&action, id, &own, speaks);
            self.add(&collection, in_collection, action.method, operation);
        }
        let options = reference(&format!("{META}.DeleteOptions"));
        if verbs.contains(&"deletecollection") {
            let mut action = Action::new(
                "delete",
                "deletecollection",
                "delete collection of",
                parameters::query(parameters::DELETE_COLLECTION),
            )
            .body(&options, &["200"]);
            optional(&mut action);
            let id = format!("delete{}Collection{scope}{name}", self.tag);
            let operation = self.operation(&action, id, &status, speaks);
            self.add(&collection, in_collection, action.method, operation);
        }

        let item = format!("{collection}/{{name}}");
        let in_item: Vec<_> = [object_name].into_iter().chain(in_collection.iter().cloned()).collect();
        self.item(kind, &item, &in_item, "", &own, speaks);
        if verbs.contains(&"delete") {
            let mut action = Action::new("delete", "delete", "delete", parameters::query(parameters::DELETE))
                .body(&options, &["200", "202"]);
            optional(&mut action);
            let id = format!("delete{}{scope}{name}", self.tag);
            let operation = self.operation(&action, id, &status, speaks);
            self.add(&item, &in_item, action.method, operation);
        }
        if kind.has_status {
            self.item(kind, &format!("{item}/status"), &in_item, "Status", &own, speaks);
        }
        if let (Some(_), Some((definition, group, version))) = (&kind.scale, spoken("Scale")) {
            let scale = (group, version, "Scale");
            self.item(kind, &format!("{item}/scale"), &in_item, "Scale", &reference(definition), scale);
        }
        for subresource in &kind.subresources {
            self.subresource(kind, subresource, &item, &in_item, &own);
        }
    }

    /// get, put and patch of an object or of a part of it.
    fn item(
        &mut self,
        kind: &Kind,
        path: &str,
        in_path: &[Value],
        suffix: &str,
        schema: &Value,
        speaks: (&str, &str, &str),
    ) {
        let scope = if kind.scope == Scope::Namespaced { "Namespaced" } else { "" };
        let name = &kind.names.kind;
        let verbs = kind.served_verbs();
        let mut actions = Vec::new();
        if verbs.contains(&"get") {
            actions.push(Action::new("get", "get", "read", parameters::query(parameters::GET)));
        }
        if verbs.contains(&"update") {
            actions.push(
                Action::new("put", "put", "replace", parameters::query(parameters::WRITE))
                    .body(schema, &["200", "201"]),
            );
        }
        if verbs.contains(&"patch") {
            let mut action = Action::new("patch", "patch", "patch", parameters::query(parameters::PATCH));
            let patch = json!({"schema": reference(&format!("{META}.Patch"))});
            let mut content = json!({
                "application/apply-patch+yaml": patch,
                "application/json-patch+json": patch,
                "application/merge-patch+json": patch,
            });
            if kind.family == Family::BuiltIn {
                content["application/strategic-merge-patch+json"] = patch;
            }
            action.body = Some(json!({"content": content, "required": true}));
            action.codes = &["200", "201"];
            actions.push(action);
        }
        for action in actions {
            let id = format!("{}{}{scope}{name}{suffix}", action.verb, self.tag);
            let operation = self.operation(&action, id, schema, speaks);
            self.add(path, in_path, action.method, operation);
        }
    }

    fn subresource(
        &mut self,
        kind: &Kind,
        subresource: &Subresource,
        item: &str,
        in_item: &[Value],
        own: &Value,
    ) {
        let (schema, group, version) = match spoken(subresource.kind) {
            Some((definition, group, version)) => {
                (reference(definition), group.to_owned(), version.to_owned())
            }
            None => (own.clone(), self.group.clone(), self.version.clone()),
        };
        let scope = if kind.scope == Scope::Namespaced { "Namespaced" } else { "" };
        for verb in subresource.verbs {
            let action = match *verb {
                "create" => Action::new("post", "post", "create", parameters::query(parameters::WRITE))
                    .body(&schema, &["200", "201", "202"]),
                "update" => Action::new("put", "put", "replace", parameters::query(parameters::WRITE))
                    .body(&schema, &["200", "201"]),
                "get" if subresource.name == "log" => {
                    Action::new("get", "get", "read", parameters::query(parameters::LOG))
                }
                "get" => Action::new("get", "get", "read", parameters::query(parameters::GET)),
                _ => continue,
            };
            let id = format!(
                "{}{}{scope}{}{}",
                action.verb,
                self.tag,
                kind.names.kind,
                capitalised(subresource.name)
            );
            let speaks = (group.as_str(), version.as_str(), subresource.kind);
            let mut operation = self.operation(&action, id, &schema, speaks);
            if subresource.name == "log" {
                let text = json!({"schema": {"type": "string"}});
                operation["responses"]["200"]["content"] =
                    json!({"text/plain": text, "application/json": text});
            }
            self.add(&format!("{item}/{}", subresource.name), in_item, action.method, operation);
        }
    }

    fn review(&mut self, kind: &str, definition: &str) {
        let schema = reference(definition);
        let action = Action::new("post", "post", "create", parameters::query(parameters::WRITE))
            .body(&schema, &["200", "201", "202"]);
        let (group, version) = (self.group.clone(), self.version.clone());
        let plural = format!("{}s", kind.to_lowercase());
        let (path, scope) = if kind == "LocalSubjectAccessReview" {
            (format!("{}/namespaces/{{namespace}}/{plural}", self.base), "Namespaced")
        } else {
            (format!("{}/{plural}", self.base), "")
        };
        let id = format!("create{}{scope}{kind}", self.tag);
        let operation = self.operation(&action, id, &schema, (&group, &version, kind));
        let namespace =
            parameters::path("namespace", "object name and auth scope, such as for teams and projects");
        let in_path: &[Value] = if scope.is_empty() { &[] } else { std::slice::from_ref(&namespace) };
        self.add(&path, in_path, action.method, operation);
    }
}

/// Delete options may be left out.
fn optional(action: &mut Action) {
    if let Some(body) = action.body.as_mut().and_then(Value::as_object_mut) {
        body.remove("required");
    }
}
