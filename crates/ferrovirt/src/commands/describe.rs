//! `ferrovirt describe`: what an object is and what happened to it; of a machine, also what it boots and where the time of
//! its boot went.

use apiserver::table::age;
use jiff::Timestamp;
use launcher::console::printable;
use manifest::keys;
use manifest::machine_status::BootTimeline;
use serde_json::{Map, Value};

use super::api::refusal::RequestError;
use super::api::resources::{EVENTS, INSTANCES, MACHINES, PODS};
use super::api::table::Rows;
use super::api::targets::{self, Object};
use super::api::{JSON, Server, query, text};
use super::events::{instant, last_seen};
use super::get::not_got;
use super::{Context, each};
use crate::cli::DescribeFlags;
use crate::report::{ExitCode, Failure, print, seconds};

/// Width of a line's name.
const NAME_WIDTH: usize = 15;

/// Width of the bars, in columns.
const BAR_WIDTH: u64 = 48;

/// Most events that are told.
const MOST_EVENTS: usize = 20;

/// Annotations that are told in other words here, or are for a tool alone.
const UNTOLD: [&str; 3] =
    [keys::BOOT_TIMELINE, keys::LAST_BOOT, "kubectl.kubernetes.io/last-applied-configuration"];

/// Describes each object; one that is not there does not keep the rest.
pub async fn describe(context: &Context, flags: &DescribeFlags) -> Result<ExitCode, Failure> {
    let targets = targets::read(&flags.resources).map_err(Failure::usage)?;
    targets::check_names(&targets, &flags.choice).map_err(Failure::usage)?;
    let server = Server::find(context).await?;
    let objects = server.objects(targets, &flags.choice).await?;
    if objects.is_empty() {
        context.reporter.note("No resources found");
    }
    let mut gap = "";
    each(context, &objects, async |object| {
        print(&format!("{gap}{}", one(&server, object).await?))?;
        gap = "\n\n";
        Ok(())
    })
    .await
}

async fn one(server: &Server, object: &Object) -> Result<String, Failure> {
    let Object { resource, namespace, name } = object;
    let namespace = namespace.as_deref();
    let found = server.get(&resource.path(namespace, Some(name)), JSON).await;
    let found = found.map_err(|error| not_got(error, resource, namespace, name))?;
    let instance = match resource {
        resource if *resource == INSTANCES => Some(found.clone()),
        resource if *resource == MACHINES => {
            match server.get(&INSTANCES.path(namespace, Some(name)), JSON).await {
                Ok(instance) => Some(instance),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(not_got(error, &INSTANCES, namespace, name)),
            }
        }
        _ => None,
    };
    let now = Timestamp::now();
    let mut out = about(&found, now);
    if *resource == MACHINES {
        line(&mut out, "Status", text(&found, "/status/printableStatus"));
        line(&mut out, "Run Strategy", &strategy(&found));
    }
    if let Some(instance) = &instance {
        out.push_str(&boot(instance));
    }
    out.push_str(&conditions(&found));
    let mut kinds = vec![resource.kind.as_ref()];
    if *resource == MACHINES {
        kinds.push(&INSTANCES.kind);
    }
    let mut told = Vec::new();
    for kind in kinds {
        told.extend(events(server, namespace, kind, name).await.map_err(|error| {
            error.failure(format!("cannot list the events of {}", object.described()), None)
        })?);
    }
    if let Some(instance) = &instance {
        match pods_warnings(server, instance).await {
            Ok(warnings) => told.extend(warnings),
            // Who may not look at Pods is told all the rest.
            Err(RequestError::Refused(_)) => {}
            Err(error) => {
                return Err(error.failure(format!("cannot list the Pods of {}", object.described()), None));
            }
        }
    }
    out.push_str(&events_told(told));
    let annotation =
        instance.as_ref().map(|instance| &instance["metadata"]["annotations"][keys::BOOT_TIMELINE]);
    // What cannot be read is not drawn: the annotation may be another program's.
    let timeline = annotation.and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    out.push_str(&timeline.as_ref().map(chart).unwrap_or_default());
    Ok(out)
}

/// A line of a name and what it is; nothing where that is nothing. What came from a server must not drive the terminal.
fn line(out: &mut String, name: &str, value: &str) {
    for (index, value) in value.lines().enumerate() {
        let name = if index == 0 { format!("{name}:") } else { String::new() };
        out.push_str(&format!("{name:NAME_WIDTH$}{}\n", printable(value.as_bytes())));
    }
}

/// What every object has.
fn about(object: &Value, now: Timestamp) -> String {
    let mut out = String::new();
    line(&mut out, "Name", text(object, "/metadata/name"));
    line(&mut out, "Namespace", text(object, "/metadata/namespace"));
    line(&mut out, "Kind", text(object, "/kind"));
    let created = text(object, "/metadata/creationTimestamp");
    if !created.is_empty() {
        line(&mut out, "Created", &format!("{created} ({} ago)", age(created, now)));
    }
    let deleted = text(object, "/metadata/deletionTimestamp");
    if !deleted.is_empty() {
        line(&mut out, "Deleted", &format!("{deleted}, held by {}", finalizers(object)));
    }
    let pairs = |pointer: &str| -> Vec<String> {
        let map: Option<&Map<String, Value>> = object.pointer(pointer).and_then(Value::as_object);
        let pairs = map.into_iter().flatten();
        let pairs = pairs.filter(|(key, _)| !UNTOLD.contains(&key.as_str()));
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect()
    };
    line(&mut out, "Labels", &pairs("/metadata/labels").join("\n"));
    line(&mut out, "Annotations", &pairs("/metadata/annotations").join("\n"));
    out
}

fn finalizers(object: &Value) -> String {
    let list = object["metadata"]["finalizers"].as_array().into_iter().flatten();
    let names: Vec<_> = list.filter_map(Value::as_str).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// A machine's run strategy, also where it is written in the old way.
fn strategy(machine: &Value) -> String {
    match (&machine["spec"]["runStrategy"], &machine["spec"]["running"]) {
        (Value::String(strategy), _) => strategy.clone(),
        (_, Value::Bool(true)) => "Always".to_owned(),
        (_, Value::Bool(false)) => "Halted".to_owned(),
        _ => String::new(),
    }
}

/// What an instance runs.
fn boot(instance: &Value) -> String {
    let mut out = String::new();
    let annotation = |key: &str| instance["metadata"]["annotations"][key].as_str().unwrap_or_default();
    line(&mut out, "Phase", text(instance, "/status/phase"));
    line(&mut out, "Node", text(instance, "/status/nodeName"));
    line(&mut out, "Address", text(instance, "/status/interfaces/0/ipAddress"));
    let changed = match annotation(keys::KERNEL_CHANGED) {
        "true" => " (changed since the last boot)",
        "false" => " (as in the last boot)",
        _ => "",
    };
    let kernel = annotation(keys::KERNEL_VERSION);
    if !kernel.is_empty() {
        line(&mut out, "Kernel", &format!("{kernel}{changed}"));
    }
    let firmware = "/spec/domain/firmware/kernelBoot";
    let image = text(instance, &format!("{firmware}/container/image"));
    line(&mut out, "Image", &format!("{image}\n{}", annotation(keys::IMAGE_DIGEST)));
    line(&mut out, "Arguments", text(instance, &format!("{firmware}/kernelArgs")));
    line(&mut out, "Liveness", &probe(&instance["spec"]["livenessProbe"]));
    line(&mut out, "Readiness", &probe(&instance["spec"]["readinessProbe"]));
    out
}

/// A probe, as kubectl describes a container's; nothing where there is none.
fn probe(probe: &Value) -> String {
    let written = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let what = if let Some(get) = probe.get("httpGet") {
        let scheme = get["scheme"].as_str().unwrap_or("HTTP").to_lowercase();
        format!("http-get {scheme}://:{}{}", written(&get["port"]), text(get, "/path"))
    } else if let Some(socket) = probe.get("tcpSocket") {
        format!("tcp-socket :{}", written(&socket["port"]))
    } else if let Some(exec) = probe.get("exec") {
        let words: Vec<_> = exec["command"].as_array().into_iter().flatten().map(written).collect();
        format!("exec [{}]", words.join(" "))
    } else if probe.get("guestAgentPing").is_some() {
        "guest-agent-ping".to_owned()
    } else {
        return String::new();
    };
    let number = |name: &str| probe[name].as_i64().unwrap_or_default();
    format!(
        "{what} delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds"),
        number("timeoutSeconds"),
        number("periodSeconds"),
        number("successThreshold"),
        number("failureThreshold"),
    )
}

fn conditions(object: &Value) -> String {
    let list = object["status"]["conditions"].as_array().into_iter().flatten();
    let cell =
        |condition: &Value, pointer: &str| printable(text(condition, pointer).replace('\n', " ").as_bytes());
    let rows: Vec<_> = list
        .map(|condition| {
            ["/type", "/status", "/reason", "/message"].map(|pointer| cell(condition, pointer)).to_vec()
        })
        .collect();
    table("Conditions", &["TYPE", "STATUS", "REASON", "MESSAGE"], &rows)
}

fn table(title: &str, names: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut out = format!("{title}:\n");
    for line in Rows::new(names).lines(rows).lines() {
        out.push_str(&format!("  {}\n", line.trim_end()));
    }
    out
}

async fn events(
    server: &Server,
    namespace: Option<&str>,
    kind: &str,
    name: &str,
) -> Result<Vec<Value>, RequestError> {
    let fields = format!("involvedObject.kind={kind},involvedObject.name={name}");
    let path = EVENTS.path(namespace, None);
    server.list(&format!("{path}{}", query([("fieldSelector", fields.as_str())]))).await
}

/// What went wrong with an instance's launcher Pods, such as the pull of its image, by their events.
async fn pods_warnings(server: &Server, instance: &Value) -> Result<Vec<Value>, RequestError> {
    let namespace = text(instance, "/metadata/namespace");
    let labels = format!("{}={}", keys::CREATED_BY, text(instance, "/metadata/uid"));
    let mut told = Vec::new();
    for pod in server.pods(namespace, &labels).await? {
        told.extend(events(server, Some(namespace), &PODS.kind, text(&pod, "/metadata/name")).await?);
    }
    told.retain(|event| text(event, "/type") == "Warning");
    Ok(told)
}

/// The last events, oldest first.
fn events_told(mut events: Vec<Value>) -> String {
    events.sort_by(|one, other| instant(one).cmp(instant(other)));
    let surplus = events.len().saturating_sub(MOST_EVENTS);
    let row = |event: &Value| {
        let cells = [
            last_seen(event),
            text(event, "/type").to_owned(),
            text(event, "/reason").to_owned(),
            text(event, "/message").trim().replace('\n', " "),
        ];
        cells.map(|cell| printable(cell.as_bytes())).to_vec()
    };
    let rows: Vec<_> = events[surplus..].iter().map(row).collect();
    table("Events", &["LAST SEEN", "TYPE", "REASON", "MESSAGE"], &rows)
}

/// The boot as bars, one for each phase, on one scale up to user space; nothing where nothing is known of it.
fn chart(timeline: &BootTimeline) -> String {
    let BootTimeline { pull_started, pulled, prepared, vmm_ready, userspace_started, ended, .. } = *timeline;
    // Where the guest does not tell its kernel and user space apart, its time is one.
    let (guest, guest_ended) = match userspace_started {
        Some(at) => ("kernel", Some(at)),
        None => ("guest", ended),
    };
    let phases = [
        ("pull", pull_started, pulled),
        ("prepare", pulled, prepared),
        ("VMM", prepared, vmm_ready),
        (guest, vmm_ready, guest_ended),
    ];
    let phases: Vec<(&str, u64, u64)> = phases
        .into_iter()
        .filter_map(|(name, from, to)| Some((name, from?, to?)).filter(|(_, from, to)| from <= to))
        .collect();
    let Some(began) = phases.iter().map(|(_, from, _)| *from).min() else { return String::new() };
    let total = phases.iter().map(|(_, _, to)| to - began).max().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a boot")]
    let told = |milliseconds: u64| seconds(milliseconds as f64);
    // A time that no calendar has is left out.
    let at = i64::try_from(began).ok().and_then(|began| Timestamp::from_millisecond(began).ok());
    let at = at.map(|at| format!(" from {at:.3}")).unwrap_or_default();
    let mut out = format!("Boot timeline: {}{at}\n", told(total));
    for (name, from, to) in phases {
        let bar = bar(from - began, to - began, total);
        out.push_str(&format!("  {name:<9}{:>9}  {bar}\n", told(to - from)));
    }
    if let (Some(from), Some(to)) = (userspace_started, ended)
        && from <= to
    {
        out.push_str(&format!("  {:<9}{:>9}  (not to scale)\n", "userspace", told(to - from)));
    }
    out
}

/// A bar from `from` to `to`, of `total`; at least an eighth of a column long.
fn bar(from: u64, to: u64, total: u64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let place = |at: u64| {
        let place = u128::from(at) * u128::from(BAR_WIDTH * 8) / u128::from(total.max(1));
        usize::try_from(place).unwrap_or(usize::MAX).min(BAR_WIDTH as usize * 8)
    };
    // What begins within the last column is drawn there.
    let column = (place(from) / 8).min(BAR_WIDTH as usize - 1);
    let length = place(to).saturating_sub(column * 8).max(1);
    format!("{}{}{}", " ".repeat(column), "█".repeat(length / 8), EIGHTHS[length % 8])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_boot_is_drawn_to_scale() {
        let timeline = BootTimeline {
            pull_started: Some(1_700_000_000_000),
            pulled: Some(1_700_000_000_100),
            prepared: Some(1_700_000_000_110),
            vmm_ready: Some(1_700_000_000_400),
            userspace_started: Some(1_700_000_001_600),
            ended: Some(1_700_000_099_600),
            ..BootTimeline::default()
        };
        let expected = "Boot timeline: 1.60 s from 2023-11-14T22:13:20.000Z\n\
                        \u{20} pull        0.10 s  ███\n\
                        \u{20} prepare    10.0 ms     ▎\n\
                        \u{20} VMM         0.29 s     █████████\n\
                        \u{20} kernel      1.20 s              ████████████████████████████████████\n\
                        \u{20} userspace  98.00 s  (not to scale)\n";
        assert_eq!(chart(&timeline), expected);
    }

    #[test]
    fn a_timeline_may_have_holes_and_clocks_may_jump() {
        assert_eq!(chart(&BootTimeline::default()), "");
        let only = BootTimeline { vmm_ready: Some(5), ..BootTimeline::default() };
        assert_eq!(chart(&only), "");
        let guest = BootTimeline { vmm_ready: Some(1000), ended: Some(3000), ..BootTimeline::default() };
        assert!(
            chart(&guest).contains(&format!("  guest       2.00 s  {}\n", "█".repeat(48))),
            "{}",
            chart(&guest)
        );
        let back = BootTimeline { prepared: Some(9), vmm_ready: Some(3), ..BootTimeline::default() };
        assert_eq!(chart(&back), "");
        let huge = BootTimeline { prepared: Some(0), vmm_ready: Some(u64::MAX), ..BootTimeline::default() };
        assert!(chart(&huge).lines().count() == 2);
        let none = BootTimeline { prepared: Some(7), vmm_ready: Some(7), ..BootTimeline::default() };
        assert!(chart(&none).contains("0.0 ms  ▏"), "{}", chart(&none));
    }

    #[test]
    fn bars_stay_within_their_width() {
        for (from, to) in [(0, 1), (99, 100), (100, 100), (0, 100), (50, 50)] {
            let bar = bar(from, to, 100);
            assert!((1..=48).contains(&bar.chars().count()) && !bar.ends_with(' '), "{from} {to} {bar:?}");
        }
    }

    #[test]
    fn a_probe_is_described_as_kubectl_does() {
        let numbers = "delay=5s timeout=1s period=10s #success=1 #failure=3";
        for (action, expected) in [
            (
                json!({"httpGet": {"port": "web", "path": "/up", "scheme": "HTTPS"}}),
                "http-get https://:web/up",
            ),
            (json!({"httpGet": {"port": 80}}), "http-get http://:80"),
            (json!({"tcpSocket": {"port": 22}}), "tcp-socket :22"),
            (json!({"exec": {"command": ["cat", "/tmp/x"]}}), "exec [cat /tmp/x]"),
            (json!({"guestAgentPing": {}}), "guest-agent-ping"),
        ] {
            let mut said = action;
            for (name, number) in [
                ("initialDelaySeconds", 5),
                ("timeoutSeconds", 1),
                ("periodSeconds", 10),
                ("successThreshold", 1),
                ("failureThreshold", 3),
            ] {
                said[name] = json!(number);
            }
            assert_eq!(probe(&said), format!("{expected} {numbers}"));
        }
        assert_eq!(probe(&Value::Null), "");
    }

    #[test]
    fn an_object_is_described_without_driving_the_terminal() {
        let object = json!({"kind": "Pod", "metadata": {"name": "a", "namespace": "n", "labels": {"x": "1", "y": "2"},
            "annotations": {"note": "\u{1b}[31m", "kubectl.kubernetes.io/last-applied-configuration": "{}"},
            "creationTimestamp": "2023-11-14T22:13:20Z", "deletionTimestamp": "2023-11-14T22:13:21Z",
            "finalizers": ["f"]}});
        let now = Timestamp::from_second(1_700_000_060).unwrap_or_default();
        let said = about(&object, now);
        assert_eq!(
            said.lines().take(8).collect::<Vec<_>>(),
            [
                "Name:          a",
                "Namespace:     n",
                "Kind:          Pod",
                "Created:       2023-11-14T22:13:20Z (60s ago)",
                "Deleted:       2023-11-14T22:13:21Z, held by f",
                "Labels:        x=1",
                "               y=2",
                "Annotations:   note=",
            ]
        );
        assert_eq!(strategy(&json!({"spec": {"running": true}})), "Always");
        assert_eq!(strategy(&json!({"spec": {"runStrategy": "Manual"}})), "Manual");
    }
}
