//! `ferrovirt events`: what happened, oldest first.

use apiserver::table::age;
use launcher::console::printable;
use serde_json::Value;
use tokio::time::Instant;

use super::Context;
use super::api::output;
use super::api::refusal::RequestError;
use super::api::resources::EVENTS;
use super::api::table::Rows;
use super::api::targets;
use super::api::{JSON, Server, query, text};
use super::console::RETRY;
use super::get::described;
use crate::cli::EventsFlags;
use crate::report::{ExitCode, Failure, print};

/// Prints events, and with `--watch` those that follow.
pub async fn events(context: &Context, flags: &EventsFlags) -> Result<ExitCode, Failure> {
    let server = Server::find(context).await?;
    let mut fields = Vec::new();
    if let Some(word) = &flags.r#for {
        let targets = targets::read(std::slice::from_ref(word)).map_err(Failure::usage)?;
        let [targets::Target { word, name: Some(name) }] = targets.as_slice() else {
            return Err(Failure::usage(format!("`{word}` is not of the form KIND/NAME")));
        };
        let resource = server.resource(word).await?;
        fields.push(format!("involvedObject.kind={}", resource.kind));
        fields.push(format!("involvedObject.name={name}"));
    }
    // There are two types: who names both means all.
    if let [one, others @ ..] = flags.types.as_slice()
        && others.iter().all(|other| other == one)
    {
        fields.push(format!("type={}", one.as_str()));
    }
    let fields = fields.join(",");
    let namespace = (!flags.all_namespaces).then_some(server.namespace.as_str());
    let path = EVENTS.path(namespace, None);
    let pairs: Vec<_> =
        (!fields.is_empty()).then_some(("fieldSelector", fields.as_str())).into_iter().collect();
    let failed = |error: RequestError| error.failure("cannot list events", None);
    let mut list =
        server.get(&format!("{path}{}", query(pairs.iter().copied())), JSON).await.map_err(failed)?;
    let mut from = text(&list, "/metadata/resourceVersion").to_owned();
    let Value::Array(events) = list["items"].take() else { return Ok(ExitCode::Done) };
    let is = |event: Value| {
        let mut event = described(event, &"v1".into(), Some("Event"));
        output::without_managed_fields(&mut event);
        event
    };
    let mut events: Vec<_> = events.into_iter().map(is).collect();
    events.sort_by(|one, other| instant(one).cmp(instant(other)));
    let mut names = vec!["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
    if flags.all_namespaces {
        names.insert(0, "NAMESPACE");
    }
    let mut rows = Rows::new(&names);
    let row = |event: &Value| row(event, flags.all_namespaces);
    let output = flags.output.as_ref().filter(|output| output.needs_objects());
    if let (Some(output), false) = (output, flags.watch) {
        print(&output.text(&EVENTS, &output::list(events))?)?;
        return Ok(ExitCode::Done);
    }
    let mut show = |events: &[Value]| match output {
        None => print(&rows.lines(&events.iter().map(row).collect::<Vec<_>>())),
        Some(output) => events.iter().try_for_each(|event| print(&output.text(&EVENTS, event)?)),
    };
    show(&events)?;
    if events.is_empty() && !flags.watch {
        context.reporter.note(match namespace {
            Some(namespace) => format!("No events found in {namespace} namespace."),
            None => "No events found".to_owned(),
        });
    }
    if !flags.watch {
        return Ok(ExitCode::Done);
    }
    let failed = |error: RequestError| error.failure("cannot watch events", None);
    loop {
        let began = Instant::now();
        let place = [("watch", "true"), ("allowWatchBookmarks", "true"), ("resourceVersion", from.as_str())];
        let path = format!("{path}{}", query(pairs.iter().copied().chain(place)));
        let mut watch = server.watch(&path, JSON).await.map_err(failed)?;
        while let Some(mut event) = watch.next().await.map_err(failed)? {
            text(&event["object"], "/metadata/resourceVersion").clone_into(&mut from);
            if event["type"] == "ADDED" || event["type"] == "MODIFIED" {
                show(&[is(event["object"].take())])?;
            }
        }
        tokio::time::sleep_until(began + RETRY).await;
    }
}

/// When an event was seen last; texts of RFC 3339 in UTC are in the order of time.
pub fn instant(event: &Value) -> &str {
    [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/firstTimestamp",
        "/metadata/creationTimestamp",
    ]
    .into_iter()
    .map(|pointer| text(event, pointer))
    .find(|time| !time.is_empty())
    .unwrap_or_default()
}

/// How long ago an event was seen, and how often before, in kubectl's words.
pub fn last_seen(event: &Value) -> String {
    let now = jiff::Timestamp::now();
    let count = event["series"]["count"].as_u64().or_else(|| event["count"].as_u64()).unwrap_or(1);
    let last = age(instant(event), now);
    match (count, text(event, "/firstTimestamp")) {
        (2.., first) if !first.is_empty() => format!("{last} (x{count} over {})", age(first, now)),
        _ => last,
    }
}

fn row(event: &Value, has_namespace: bool) -> Vec<String> {
    let kind = text(event, "/involvedObject/kind").to_lowercase();
    let mut cells = vec![
        last_seen(event),
        text(event, "/type").to_owned(),
        text(event, "/reason").to_owned(),
        format!("{kind}/{}", text(event, "/involvedObject/name")),
        text(event, "/message").trim().to_owned(),
    ];
    if has_namespace {
        cells.insert(0, text(event, "/metadata/namespace").to_owned());
    }
    cells.iter().map(|cell| printable(cell.replace('\n', " ").as_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = json!({
            "type": "Warning", "reason": "Failed", "message": "one\ntwo\u{1b}[m ", "count": 3,
            "involvedObject": {"kind": "VirtualMachine", "name": "a"}, "metadata": {"namespace": "n"},
            "firstTimestamp": "2020-01-01T00:00:00Z", "lastTimestamp": "2021-01-01T00:00:00Z",
        });
        let row = row(&event, true);
        assert_eq!(row[0], "n");
        assert!(row[1].contains(" (x3 over ") && row[1].contains('y'), "{row:?}");
        assert_eq!(row[2..5], ["Warning", "Failed", "virtualmachine/a"]);
        assert!(row[5].starts_with("one two") && !row[5].contains('\x1b'), "{row:?}");
        assert_eq!(instant(&event), "2021-01-01T00:00:00Z");
        assert_eq!(
            instant(&json!({"lastTimestamp": null, "eventTime": "2022-01-01T00:00:00Z"})),
            "2022-01-01T00:00:00Z"
        );
    }
}
