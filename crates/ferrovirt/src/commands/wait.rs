//! `ferrovirt wait`: until objects are as wanted, or their console says so.

use std::time::Duration;

use launcher::console::{Finding, Pattern, Scanner};
use serde_json::Value;

use super::Context;
use super::api::refusal::RequestError;
use super::api::resources::{INSTANCES, MACHINES};
use super::api::stream::{Attach, Said};
use super::api::targets::{self, Object};
use super::api::watch::Deadline;
use super::api::{JSON, Server, text};
use super::console::RETRY;
use super::get::there;
use crate::cli::{Until, WaitForFlags};
use crate::report::{ExitCode, Failure, print};

/// An unfinished line (a prompt) is judged when nothing has followed for this long, as in `run`.
const SETTLE: Duration = Duration::from_millis(50);

/// Waits for each object in turn.
pub async fn wait(context: &Context, flags: &WaitForFlags) -> Result<ExitCode, Failure> {
    let targets = targets::read(&flags.resources).map_err(Failure::usage)?;
    targets::check_choice(&targets, flags.all, &flags.choice).map_err(Failure::usage)?;
    let server = Server::find(context).await?;
    let objects = server.objects(targets, &flags.choice).await?;
    if objects.is_empty() {
        let error = anyhow::anyhow!("there is nothing to wait for");
        return Err(Failure::refused(error, Some("name objects, or choose others with -l".to_owned())));
    }
    let deadline = Deadline::after(Some(flags.timeout));
    for object in &objects {
        until(&server, object, &flags.until, deadline).await?;
        print(&format!("{}/{} condition met\n", object.resource.title(), object.name))?;
    }
    Ok(ExitCode::Done)
}

async fn until(server: &Server, object: &Object, until: &Until, deadline: Deadline) -> Result<(), Failure> {
    let what = || format!("{} to {until}", object.described());
    if let Until::Console(pattern) = until {
        let met = deadline.bounds(console(server, object, pattern)).await;
        return met.unwrap_or_else(|| Err(deadline.missed(&what())));
    }
    let Object { resource, namespace, name } = object;
    let mut uid = String::new();
    let mut last = None;
    let met = server.follow(resource, namespace.as_deref(), name, deadline, |now| {
        let is_another = now.is_some_and(|now| !uid.is_empty() && text(now, "/metadata/uid") != uid);
        if let Some(now) = now {
            text(now, "/metadata/uid").clone_into(&mut uid);
        }
        last = now.and_then(|now| found(until, now));
        judge(until, now, is_another)
    });
    let met =
        met.await.map_err(|error| error.failure(format!("cannot wait for {}", object.described()), None))?;
    match (met, last) {
        (Some(true), _) => Ok(()),
        (Some(false), _) => Err(missing(object)),
        (None, Some(last)) => Err(deadline.missed(&format!("{}; it is `{last}`", what()))),
        (None, None) => Err(deadline.missed(&what())),
    }
}

/// What an object has where something else is wanted; nothing where it has nothing there.
fn found(until: &Until, object: &Value) -> Option<String> {
    let found = match until {
        Until::Condition { name, .. } => {
            conditions(object, name).map(|one| text(one, "/status").to_owned()).next()?
        }
        Until::JsonPath { template, .. } => template.text(object),
        Until::Delete | Until::Create | Until::Console(_) => return None,
    };
    (!found.is_empty()).then_some(found)
}

/// The conditions of a type, in any case.
fn conditions<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(move |one| text(one, "/type").eq_ignore_ascii_case(name))
}

fn missing(object: &Object) -> Failure {
    let hint = there(&object.resource, object.namespace.as_deref());
    Failure::refused(anyhow::anyhow!("there is no {}", object.described()), Some(hint))
}

/// Whether an object is as wanted; nothing as long as it may become so, false when it is not there to become anything.
fn judge(until: &Until, object: Option<&Value>, is_another: bool) -> Option<bool> {
    match (until, object) {
        (Until::Delete, None) => Some(true),
        (Until::Delete, Some(_)) => is_another.then_some(true),
        (Until::Create, object) => object.map(|_| true),
        (Until::Condition { .. } | Until::JsonPath { .. } | Until::Console(_), None) => Some(false),
        (Until::Condition { name, status }, Some(object)) => {
            let mut conditions = conditions(object, name);
            conditions.any(|one| text(one, "/status").eq_ignore_ascii_case(status)).then_some(true)
        }
        (Until::JsonPath { template, value }, Some(object)) => {
            let found = template.text(object);
            match value {
                Some(value) => (found == *value).then_some(true),
                None => (!found.is_empty()).then_some(true),
            }
        }
        // Its own way, above.
        (Until::Console(_), Some(_)) => None,
    }
}

/// Looks on at the console, from the start of the boot, until a line matches.
async fn console(server: &Server, object: &Object, pattern: &Pattern) -> Result<(), Failure> {
    if ![&MACHINES, &INSTANCES].contains(&&object.resource) {
        return Err(Failure::usage(format!("{} has no console; name a vm or vmi", object.described())));
    }
    let namespace = object.namespace.as_deref().unwrap_or(&server.namespace);
    let cannot = |error: RequestError| {
        let hint = error.is_not_found().then(|| there(&object.resource, Some(namespace)));
        error.failure(format!("cannot watch the console of {}", object.described()), hint)
    };
    if !server.is_ferrovirts().await.map_err(cannot)? {
        let error = anyhow::anyhow!(
            "the server `{}` is none of Ferrovirt's: looking on at a console would end the session of whoever types",
            server.url()
        );
        let hint = format!("follow what it logs: ferrovirt logs {} -f", object.name);
        return Err(Failure::refused(error, Some(hint)));
    }
    loop {
        let how = Attach { is_read_only: true, replays: true };
        match server.console(namespace, &object.name, how).await {
            Ok(mut console) => {
                let mut scanner = Scanner::new(Some(pattern.clone()), Vec::new());
                loop {
                    let pause = tokio::time::timeout(SETTLE, console.next());
                    let (findings, has_ended) = match pause.await {
                        Err(_) if !scanner.has_open_line() => match console.next().await {
                            Said::Bytes(bytes) => (scanner.feed(&bytes), None),
                            end => (scanner.settle(), Some(end)),
                        },
                        Err(_) => (scanner.settle(), None),
                        Ok(Said::Bytes(bytes)) => (scanner.feed(&bytes), None),
                        Ok(end) => (scanner.settle(), Some(end)),
                    };
                    if findings.iter().any(|finding| matches!(finding, Finding::Until(_))) {
                        return Ok(());
                    }
                    match has_ended {
                        Some(Said::Ended) if object.resource == INSTANCES => {
                            let error = anyhow::anyhow!(
                                "the guest of {} has ended, and its console did not match `{}`",
                                object.described(),
                                pattern.as_str()
                            );
                            let hint = format!("see what it said: ferrovirt logs {}", object.name);
                            return Err(Failure::refused(error, Some(hint)));
                        }
                        // The machine's next boot may say it.
                        Some(_) => break,
                        None => {}
                    }
                }
            }
            Err(RequestError::Refused(refusal)) if refusal.code == 400 => {}
            // A machine that is being started has no instance yet.
            Err(error) if error.is_not_found() && object.resource == MACHINES => {
                if let Err(error) =
                    server.get(&MACHINES.path(Some(namespace), Some(&object.name)), JSON).await
                {
                    return Err(cannot(error));
                }
            }
            Err(error) => return Err(cannot(error)),
        }
        tokio::time::sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::cli::parse_until;

    #[test]
    fn objects_are_judged() {
        let object =
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let judge = |word: &str, object: Option<&Value>| judge(&parse_until(word).unwrap(), object, false);
        for (word, there, gone) in [
            ("condition=Ready", Some(true), Some(false)),
            ("condition=ready=true", Some(true), Some(false)),
            ("condition=Ready=False", None, Some(false)),
            ("condition=Paused", None, Some(false)),
            ("jsonpath={.status.phase}=Running", Some(true), Some(false)),
            ("jsonpath=.status.phase=Failed", None, Some(false)),
            ("jsonpath={.status.phase}", Some(true), Some(false)),
            ("jsonpath={.status.nothing}", None, Some(false)),
            ("delete", None, Some(true)),
            ("create", Some(true), None),
        ] {
            assert_eq!(judge(word, Some(&object)), there, "{word}");
            assert_eq!(judge(word, None), gone, "{word}");
        }
        assert_eq!(super::judge(&Until::Delete, Some(&object), true), Some(true), "another one of that name");
    }
}
