//! `ferrovirt delete`: objects by name, selector or manifest; it waits until they are gone.

use http::Method;
use serde_json::{Value, json};

use super::api::refusal::RequestError;
use super::api::targets::{self, Object};
use super::api::watch::Deadline;
use super::api::{JSON, Server, request, text};
use super::get::there;
use super::{Context, apply, each};
use crate::cli::{DeleteFlags, DryRun};
use crate::report::{ExitCode, Failure, print};

/// Deletes objects; one that is refused does not keep the rest.
pub async fn delete(context: &Context, flags: &DeleteFlags) -> Result<ExitCode, Failure> {
    let targets = match flags.filename.is_empty() {
        true => targets::read(&flags.resources).map_err(Failure::usage)?,
        false => Vec::new(),
    };
    targets::check_choice(&targets, flags.all, &flags.choice).map_err(Failure::usage)?;
    let server = Server::find(context).await?;
    let doomed = match flags.filename.is_empty() {
        true => server.objects(targets, &flags.choice).await?,
        false => written(context, &server, flags).await?,
    };
    if doomed.is_empty() {
        context.reporter.note("No resources found");
    }
    let mut going = Vec::new();
    let code = each(context, &doomed, async |doomed| {
        let Some(uid) = remove(&server, flags, doomed).await? else { return Ok(()) };
        let suffix = flags.dry_run.mode.suffix();
        print(&format!("{} \"{}\" deleted{suffix}\n", doomed.resource.title(), doomed.name))?;
        going.push((doomed, uid));
        Ok(())
    })
    .await?;
    if flags.wait && flags.dry_run.mode == DryRun::None {
        let deadline = Deadline::after(flags.timeout);
        for (doomed, uid) in &going {
            wait_until_gone(&server, doomed, uid, deadline).await?;
        }
    }
    Ok(code)
}

async fn written(context: &Context, server: &Server, flags: &DeleteFlags) -> Result<Vec<Object>, Failure> {
    let mut doomed = Vec::new();
    for object in apply::read(&flags.filename, flags.recursive)? {
        let (resource, namespace, name) = apply::place(context, server, &object).await?;
        doomed.push(Object { resource, namespace, name });
    }
    Ok(doomed)
}

/// Deletes one object; its UID, or nothing where it was not there and that is right.
async fn remove(server: &Server, flags: &DeleteFlags, doomed: &Object) -> Result<Option<String>, Failure> {
    let Object { resource, namespace, name } = doomed;
    let namespace = namespace.as_deref();
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"});
    if let Some(seconds) = flags.grace_period {
        options["gracePeriodSeconds"] = seconds.into();
    }
    if flags.dry_run.mode == DryRun::Server {
        options["dryRun"] = json!(["All"]);
    }
    let body = Some((JSON, options.to_string().into_bytes()));
    let answer = match request(Method::DELETE, &resource.path(namespace, Some(name)), JSON, body) {
        Ok(request) => server.call(request).await.and_then(|answer| answer.json()),
        Err(error) => Err(error),
    };
    match answer {
        Ok(answer) => Ok(Some(uid(&answer).to_owned())),
        Err(error) if error.is_not_found() && flags.ignore_not_found => Ok(None),
        Err(error) => {
            let hint = error.is_not_found().then(|| there(resource, namespace));
            Err(error.failure(format!("cannot delete {}", doomed.described()), hint))
        }
    }
}

/// The UID of what was deleted: in the answer's details, or in the object that is on its way out.
fn uid(answer: &Value) -> &str {
    match text(answer, "/details/uid") {
        "" => text(answer, "/metadata/uid"),
        uid => uid,
    }
}

async fn wait_until_gone(
    server: &Server,
    doomed: &Object,
    uid: &str,
    deadline: Deadline,
) -> Result<(), Failure> {
    let Object { resource, namespace, name } = doomed;
    let is_gone = |object: Option<&Value>| match object {
        None => Some(()),
        // Another one of that name is not the one that was to go.
        Some(object) => (!uid.is_empty() && text(object, "/metadata/uid") != uid).then_some(()),
    };
    let waited = server.follow(resource, namespace.as_deref(), name, deadline, is_gone).await;
    let waited = waited.map_err(|error: RequestError| {
        error.failure(format!("cannot wait for {}", doomed.described()), None)
    })?;
    waited.ok_or_else(|| deadline.missed(&format!("{} to be gone", doomed.described())))
}
