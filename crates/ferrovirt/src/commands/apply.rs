//! `ferrovirt apply`: server-side apply of every object of a manifest.

use std::path::{Path, PathBuf};

use http::{Method, StatusCode};
use serde_json::Value;

use super::api::output;
use super::api::resources::Resource;
use super::api::{JSON, Server, query, request, text};
use super::{Context, each, manifests};
use crate::cli::{ApplyFlags, DryRun};
use crate::report::{ExitCode, Failure, print};

/// Who owns the fields.
const FIELD_MANAGER: &str = "ferrovirt";

/// Applies every object in the order of the text; each is told, and one that is refused does not keep the rest.
pub async fn apply(context: &Context, flags: &ApplyFlags) -> Result<ExitCode, Failure> {
    let objects = read(&flags.filename, flags.recursive)?;
    let server = Server::find(context).await?;
    each(context, objects, async |object| print(&one(context, &server, flags, object).await?)).await
}

/// The objects of files and directories, each with a name.
///
/// # Errors
/// When one cannot be read, or an object has no name.
pub fn read(paths: &[PathBuf], recursive: bool) -> Result<Vec<Value>, Failure> {
    let mut objects = Vec::new();
    for file in manifests::files(paths, recursive)? {
        objects.extend(read_file(&file)?);
    }
    if objects.is_empty() {
        return Err(Failure::refused(
            anyhow::anyhow!("no object is in what was given"),
            Some("give manifests with -f FILE, or `-f -` for standard input".to_owned()),
        ));
    }
    Ok(objects)
}

fn read_file(file: &Path) -> Result<Vec<Value>, Failure> {
    let source = file.display().to_string();
    let objects = manifest::decode_objects(&source, &manifests::text(file)?)?;
    for object in &objects {
        let kind = text(object, "/kind");
        if text(object, "/metadata/name").is_empty() {
            return Err(Failure::refused(
                anyhow::anyhow!("in `{source}` there is a {kind} without a name"),
                Some("write one in `metadata.name`; what has none cannot be applied twice".to_owned()),
            ));
        }
    }
    Ok(objects)
}

/// Where an object of a manifest is: its resource, its namespace and its name.
///
/// # Errors
/// When the server does not have its kind, or the object is for another namespace than the one asked for.
pub async fn place(
    context: &Context,
    server: &Server,
    object: &Value,
) -> Result<(Resource, Option<String>, String), Failure> {
    let (api_version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
    let resource = server.resource_of_kind(api_version, kind).await?;
    let (name, own) = (text(object, "/metadata/name"), text(object, "/metadata/namespace"));
    let namespace = match (resource.is_namespaced, own, &context.settings.namespace) {
        (false, ..) => None,
        (true, "", _) => Some(server.namespace.clone()),
        (true, own, Some(asked)) if own != asked => {
            return Err(Failure::refused(
                anyhow::anyhow!(
                    "{kind} `{name}` is written for the namespace `{own}`, and `{asked}` was asked for"
                ),
                Some(format!("leave out --namespace, or use --namespace {own}")),
            ));
        }
        (true, own, _) => Some(own.to_owned()),
    };
    Ok((resource, namespace, name.to_owned()))
}

async fn one(
    context: &Context,
    server: &Server,
    flags: &ApplyFlags,
    object: Value,
) -> Result<String, Failure> {
    let (resource, namespace, name) = place(context, server, &object).await?;
    let mut pairs = vec![("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict")];
    if flags.force_conflicts {
        pairs.push(("force", "true"));
    }
    if flags.dry_run.mode == DryRun::Server {
        pairs.push(("dryRun", "All"));
    }
    let path = format!("{}{}", resource.path(namespace.as_deref(), Some(&name)), query(pairs));
    let what = || format!("cannot apply {}", resource.object(namespace.as_deref(), &name));
    let body = Some(("application/apply-patch+yaml", object.to_string().into_bytes()));
    let answer = match request(Method::PATCH, &path, JSON, body) {
        Ok(request) => server.call(request).await,
        Err(error) => Err(error),
    };
    let answer = answer.map_err(|error| {
        let is_conflict =
            matches!(&error, super::api::refusal::RequestError::Refused(refusal) if refusal.code == 409);
        let hint = "--force-conflicts takes the fields over from who has them";
        error.failure(what(), is_conflict.then(|| hint.to_owned()))
    })?;
    if let Some(output) = &flags.output {
        let mut object = answer.json().map_err(|error| error.failure(what(), None))?;
        output::without_managed_fields(&mut object);
        return output.text(&resource, &object);
    }
    let done = if answer.status == StatusCode::CREATED { "created" } else { "serverside-applied" };
    Ok(format!("{}/{name} {done}{}\n", resource.title(), flags.dry_run.mode.suffix()))
}
