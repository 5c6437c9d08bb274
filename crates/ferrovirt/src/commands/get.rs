//! `ferrovirt get`: objects as a table that the server makes, or as they are; once, or as they change.

use serde_json::Value;
use tokio::time::Instant;

use super::Context;
use super::api::output::{self, Output};
use super::api::refusal::RequestError;
use super::api::resources::Resource;
use super::api::table::{Printer, Shown};
use super::api::targets::{self, Target};
use super::api::{JSON, Server, query, text};
use crate::cli::GetFlags;
use crate::report::{ExitCode, Failure, print};

/// Asks for a table; a server that has none answers with the objects.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Most objects in one answer; what is beyond is asked for after it.
const PAGE: &str = "5000";

/// How soon a watch that ended is opened again at the earliest.
const PACE: std::time::Duration = std::time::Duration::from_secs(1);

/// What is read together: the objects of one resource, all or those named.
#[derive(Debug)]
struct Wanted {
    resource: Resource,
    names: Vec<String>,
}

/// Prints objects.
pub async fn get(context: &Context, flags: &GetFlags) -> Result<ExitCode, Failure> {
    let targets = targets::read(&flags.resources).map_err(Failure::usage)?;
    targets::check_names(&targets, &flags.choice).map_err(Failure::usage)?;
    let server = Server::find(context).await?;
    let wanted = gather(&server, targets).await?;
    let get = Get { context, flags, server: &server, is_one_of_several: wanted.len() > 1 };
    if flags.watch {
        return match wanted.as_slice() {
            [Wanted { resource, names }] if names.len() < 2 => get.watch(resource, names.first()).await,
            _ => Err(Failure::usage("a watch (-w) is for one resource, or one object of it")),
        };
    }
    match &flags.output {
        Some(output) if output.needs_objects() => get.objects(&wanted, output).await,
        _ => get.tables(&wanted).await,
    }
}

/// Finds the resources, and puts the names of one together.
async fn gather(server: &Server, targets: Vec<Target>) -> Result<Vec<Wanted>, Failure> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for Target { word, name } in targets {
        let resource = server.resource(&word).await?;
        match wanted.iter_mut().find(|wanted| wanted.resource == resource) {
            Some(wanted) => wanted.names.extend(name),
            None => wanted.push(Wanted { resource, names: name.into_iter().collect() }),
        }
    }
    Ok(wanted)
}

struct Get<'a> {
    context: &'a Context,
    flags: &'a GetFlags,
    server: &'a Server,
    is_one_of_several: bool,
}

impl Get<'_> {
    /// The namespace that is asked: none for all of them, and for what is in none.
    fn namespace(&self, resource: &Resource) -> Option<&str> {
        self.server.namespace_for(resource, &self.flags.choice)
    }

    fn printer(&self, resource: &Resource) -> Printer {
        let shown = Shown {
            is_wide: self.flags.output == Some(Output::Wide),
            has_namespace: self.flags.choice.all_namespaces && resource.is_namespaced,
            has_header: !self.flags.no_headers,
        };
        let prefix = if self.is_one_of_several { format!("{}/", resource.title()) } else { String::new() };
        Printer::new(shown, prefix)
    }

    async fn tables(&self, wanted: &[Wanted]) -> Result<ExitCode, Failure> {
        let mut code = ExitCode::Done;
        let mut printed = false;
        for Wanted { resource, names } in wanted {
            let mut printer = self.printer(resource);
            let mut out = String::new();
            if names.is_empty() {
                for page in self.list(resource, TABLE).await? {
                    out.push_str(&printer.lines(&as_table(page)));
                }
            }
            let mut rows: Option<Value> = None;
            for name in names {
                match self.one(resource, name, TABLE).await {
                    Ok(table) => join(&mut rows, as_table(table)),
                    Err(failure) => code = self.told(&failure),
                }
            }
            if let Some(table) = rows {
                out.push_str(&printer.lines(&table));
            }
            if !out.is_empty() {
                // A line between the tables of two kinds, as with kubectl.
                print(&format!("{}{out}", if printed { "\n" } else { "" }))?;
                printed = true;
            }
        }
        if !printed && code == ExitCode::Done {
            self.context.reporter.note(none_found(match wanted {
                [Wanted { resource, .. }] => self.namespace(resource),
                _ => None,
            }));
        }
        Ok(code)
    }

    async fn objects(&self, wanted: &[Wanted], output: &Output) -> Result<ExitCode, Failure> {
        let mut code = ExitCode::Done;
        let mut objects: Vec<(&Resource, Value)> = Vec::new();
        for Wanted { resource, names } in wanted {
            if names.is_empty() {
                for mut page in self.list(resource, JSON).await? {
                    let kind =
                        page["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).map(str::to_owned);
                    let version = page["apiVersion"].take();
                    let Value::Array(items) = page["items"].take() else { continue };
                    // Items of a list do not say what they are.
                    objects.extend(
                        items.into_iter().map(|item| (resource, described(item, &version, kind.as_deref()))),
                    );
                }
            }
            for name in names {
                match self.one(resource, name, JSON).await {
                    Ok(object) => objects.push((resource, object)),
                    Err(failure) => code = self.told(&failure),
                }
            }
        }
        if !self.flags.show_managed_fields {
            objects.iter_mut().for_each(|(_, object)| output::without_managed_fields(object));
        }
        if *output == Output::Name {
            let mut text = String::new();
            for (resource, object) in &objects {
                text.push_str(&output.text(resource, object)?);
            }
            print(&text)?;
            return Ok(code);
        }
        let is_single = matches!(wanted, [Wanted { names, .. }] if names.len() == 1);
        match (objects.pop(), is_single, wanted.first()) {
            (Some((resource, object)), true, _) => print(&output.text(resource, &object)?)?,
            (None, true, _) | (_, _, None) => {}
            (last, false, Some(Wanted { resource, .. })) => {
                let items = objects.into_iter().chain(last).map(|(_, object)| object).collect();
                print(&output.text(resource, &output::list(items))?)?;
            }
        }
        Ok(code)
    }

    fn told(&self, failure: &Failure) -> ExitCode {
        self.context.reporter.failure(failure);
        failure.code
    }

    /// Every page of a list.
    async fn list(&self, resource: &Resource, accept: &str) -> Result<Vec<Value>, Failure> {
        let path = resource.path(self.namespace(resource), None);
        let mut pages = Vec::new();
        let mut more = String::new();
        loop {
            let mut pairs = vec![("limit", PAGE)];
            pairs.extend(self.flags.choice.selector.as_deref().map(|selector| ("labelSelector", selector)));
            if accept == TABLE && !self.flags.choice.all_namespaces {
                pairs.push(("includeObject", "None"));
            }
            if !more.is_empty() {
                pairs.push(("continue", &more));
            }
            let page = self.server.get(&format!("{path}{}", query(pairs)), accept).await;
            let page =
                page.map_err(|error| error.failure(format!("cannot list {}", resource.plural), None))?;
            let next = text(&page, "/metadata/continue").to_owned();
            pages.push(page);
            // A server that gives the same place again would never come to an end.
            if next.is_empty() || next == more {
                return Ok(pages);
            }
            more = next;
        }
    }

    async fn one(&self, resource: &Resource, name: &str, accept: &str) -> Result<Value, Failure> {
        let namespace = self.server.namespace_of(resource);
        let answer = self.server.get(&resource.path(namespace, Some(name)), accept).await;
        answer.map_err(|error| not_got(error, resource, namespace, name))
    }

    /// Prints what is there, and then what becomes of it, until it is interrupted.
    async fn watch(&self, resource: &Resource, name: Option<&String>) -> Result<ExitCode, Failure> {
        let output = self.flags.output.as_ref().filter(|output| output.needs_objects());
        let accept = if output.is_some() { JSON } else { TABLE };
        let path = resource.path(self.namespace(resource), None);
        let one = name.map(|name| format!("metadata.name={name}"));
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        pairs.extend(self.flags.choice.selector.as_deref().map(|selector| ("labelSelector", selector)));
        pairs.extend(one.as_deref().map(|one| ("fieldSelector", one)));
        let failed = |error: RequestError| error.failure(format!("cannot watch {}", resource.plural), None);
        let mut printer = self.printer(resource);
        let mut show = |object: Value| -> Result<(), Failure> {
            match output {
                None => print(&printer.lines(&as_table(object))),
                Some(output) => {
                    let mut object = object;
                    if !self.flags.show_managed_fields {
                        output::without_managed_fields(&mut object);
                    }
                    print(&output.text(resource, &object)?)
                }
            }
        };
        let list = self.server.get(&format!("{path}{}", query(pairs.iter().copied())), accept).await;
        let mut list = list.map_err(failed)?;
        if let Some(name) = name
            && rows(&list).is_empty()
        {
            // The words of who asks for an object that is not there.
            self.one(resource, name, JSON).await?;
        }
        let mut from = text(&list, "/metadata/resourceVersion").to_owned();
        match output {
            None => show(list)?,
            Some(_) => {
                let (version, kind) = (list["apiVersion"].take(), list["kind"].take());
                let kind = kind.as_str().and_then(|kind| kind.strip_suffix("List"));
                if let Value::Array(items) = list["items"].take() {
                    items.into_iter().try_for_each(|item| show(described(item, &version, kind)))?;
                }
            }
        }
        loop {
            let began = Instant::now();
            let place =
                [("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", from.as_str())];
            let path = format!("{path}{}", query(pairs.iter().copied().chain(place)));
            let mut watch = self.server.watch(&path, accept).await.map_err(failed)?;
            while let Some(mut event) = watch.next().await.map_err(failed)? {
                let object = event["object"].take();
                let inner = rows(&object).last().map_or(&object, |row| &row["object"]);
                let version = text(inner, "/metadata/resourceVersion");
                if !version.is_empty() {
                    from = version.to_owned();
                }
                if event["type"] != "BOOKMARK" {
                    show(object)?;
                }
            }
            tokio::time::sleep_until(began + PACE).await;
        }
    }
}

/// Why an object cannot be got, in words.
pub fn not_got(error: RequestError, resource: &Resource, namespace: Option<&str>, name: &str) -> Failure {
    let hint = error.is_not_found().then(|| there(resource, namespace));
    error.failure(format!("cannot get {}", resource.object(namespace, name)), hint)
}

/// What is said when there is nothing, in a namespace or at all, in kubectl's words.
pub fn none_found(namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("No resources found in {namespace} namespace."),
        None => "No resources found".to_owned(),
    }
}

/// The command that lists what there is.
pub fn there(resource: &Resource, namespace: Option<&str>) -> String {
    let word = match (resource.group.as_ref(), resource.plural.as_ref()) {
        ("kubevirt.io", "virtualmachines") => "vm",
        ("kubevirt.io", "virtualmachineinstances") => "vmi",
        (_, plural) => plural,
    };
    match namespace {
        Some(namespace) => format!("see what is there: ferrovirt get {word} -n {namespace}"),
        None => format!("see what is there: ferrovirt get {word}"),
    }
}

/// An item of a list, which now says what it is.
pub fn described(mut item: Value, version: &Value, kind: Option<&str>) -> Value {
    if let (Value::Object(fields), Some(kind)) = (&mut item, kind)
        && !fields.contains_key("kind")
    {
        fields.shift_insert(0, "apiVersion".to_owned(), version.clone());
        fields.shift_insert(1, "kind".to_owned(), kind.into());
    }
    item
}

/// The rows of a table, or the items of a list.
fn rows(list: &Value) -> &[Value] {
    let rows = list["rows"].as_array().or_else(|| list["items"].as_array());
    rows.map_or(&[], Vec::as_slice)
}

/// A table as it is; of objects, which a server without tables answers with, one of their names.
fn as_table(answer: Value) -> Value {
    if answer["kind"] == "Table" {
        return answer;
    }
    let objects = match answer["items"].as_array() {
        Some(items) => items.as_slice(),
        None => std::slice::from_ref(&answer),
    };
    let row = |object: &Value| {
        serde_json::json!({"cells": [object["metadata"]["name"], object["metadata"]["creationTimestamp"]],
            "object": {"metadata": {"namespace": object["metadata"]["namespace"]}}})
    };
    serde_json::json!({
        "columnDefinitions": [{"name": "Name"}, {"name": "Created At"}],
        "rows": objects.iter().map(row).collect::<Vec<_>>(),
    })
}

/// Puts the rows of `table` behind those that are there.
fn join(rows: &mut Option<Value>, mut table: Value) {
    match rows {
        None => *rows = Some(table),
        Some(all) => {
            if let (Some(all), Value::Array(more)) = (all["rows"].as_array_mut(), table["rows"].take()) {
                all.extend(more);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_server_without_tables_has_names_at_least() {
        let metadata = json!({"name": "a", "namespace": "n", "creationTimestamp": "2026-01-01T00:00:00Z"});
        let table = as_table(json!({"kind": "FooList", "items": [{"metadata": metadata}]}));
        assert_eq!(table["rows"][0]["cells"], json!(["a", "2026-01-01T00:00:00Z"]));
        assert_eq!(as_table(json!({"kind": "Foo", "metadata": metadata})), table);
        let made = json!({"kind": "Table", "rows": []});
        assert_eq!(as_table(made.clone()), made);
    }

    #[test]
    fn items_of_a_list_say_what_they_are() {
        let item = described(json!({"metadata": {}}), &"v1".into(), Some("Pod"));
        assert_eq!(item.to_string(), r#"{"apiVersion":"v1","kind":"Pod","metadata":{}}"#);
        let said = json!({"kind": "Other", "apiVersion": "x"});
        assert_eq!(described(said.clone(), &"v1".into(), Some("Pod")), said);
    }
}
