//! Core/v1 Events, as client-go's recorder makes them.
//!
//! ```text
//! record ──► queue (bounded) ──► one task: too many about this object? ──► POST; 409 ──► count up what is there
//! ```
//!
//! An event's name is derived from everything that makes two events the same, so a repeat finds the earlier one without
//! any memory of it, after a restart too. Recording never waits and never fails: an event that cannot be written is
//! logged and forgotten. What is written is logged as well, at the level INFO.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event as CoreEvent, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use ring::digest;
use serde_json::json;
use tokio::sync::mpsc;

/// Events that wait to be written; more are dropped (client-go `maxQueuedEvents`).
const MOST_QUEUED: usize = 1000;

/// Events about one object that are written without a pause (client-go `defaultSpamBurst`).
const BURST: u32 = 25;

/// After the burst, one event is written in this time (client-go `defaultSpamQPS`).
const REFILL: Duration = Duration::from_secs(300);

/// Objects whose bursts are remembered (client-go `maxLruCacheEntries`).
const MOST_OBJECTS: usize = 4096;

/// Longest message in bytes (`ValidateEventCreate` of events.k8s.io/v1).
const MOST_MESSAGE_BYTES: usize = 1024;

/// Longest name of an object in bytes (RFC 1123 subdomain).
const MOST_NAME_BYTES: usize = 253;

/// How often an event that is counted up by somebody else at the same time is tried again.
const ATTEMPTS: usize = 3;

/// Whether an event is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// It is.
    Normal,
    /// Somebody may have to look.
    Warning,
}

impl EventType {
    /// As it is in `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Whether it is as it should be.
    pub type_: EventType,
    /// One word in upper camel case.
    pub reason: &'static str,
    /// For people; cut at 1024 bytes.
    pub message: String,
}

impl Event {
    /// A `Normal` event.
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_: EventType::Normal, reason, message: message.into() }
    }

    /// A `Warning` event.
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_: EventType::Warning, reason, message: message.into() }
    }
}

/// Who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source<'a> {
    /// The component, `virtualmachine-controller` or `virt-handler`.
    pub component: &'a str,
    /// The node where it runs, or empty.
    pub host: &'a str,
}

/// KubeVirt's controllers of machines and of instances call themselves this.
pub const CONTROLLER: Source<'static> = Source { component: "virtualmachine-controller", host: "" };

/// Writes events. Clones share one queue.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<CoreEvent>,
}

impl Recorder {
    /// A recorder that writes as `client`. Must be called within a runtime; its task ends with the last clone, once
    /// the queue is written.
    pub fn new(client: kube::Client) -> Self {
        let (queue, events) = mpsc::channel(MOST_QUEUED);
        tokio::spawn(write_all(client, events));
        Self { queue }
    }

    /// Has `event` about the object `about` written soon, after those recorded before.
    pub fn record(&self, source: Source<'_>, about: &ObjectReference, event: &Event) {
        let event = core_event(source, about, event, Time(jiff::Timestamp::now()));
        if let Err(error) = self.queue.try_send(event) {
            tracing::warn!(%error, "an event is dropped");
        }
    }
}

/// The object that is stored the first time.
fn core_event(source: Source<'_>, about: &ObjectReference, event: &Event, now: Time) -> CoreEvent {
    let namespace = about.namespace.clone().filter(|name| !name.is_empty());
    CoreEvent {
        metadata: ObjectMeta {
            name: Some(event_name(source, about, event)),
            namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: about.clone(),
        type_: Some(event.type_.as_str().to_owned()),
        reason: Some(event.reason.to_owned()),
        message: Some(cut(&event.message, MOST_MESSAGE_BYTES).to_owned()),
        source: Some(EventSource {
            component: Some(source.component.to_owned()),
            host: Some(source.host.to_owned()).filter(|host| !host.is_empty()),
        }),
        reporting_component: Some(source.component.to_owned()),
        reporting_instance: Some(source.host.to_owned()),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..CoreEvent::default()
    }
}

/// The object's name and sixteen hexadecimal digits, as client-go's; here they are a digest of what client-go's
/// `getEventKey` compares. The object's resourceVersion is not part of it.
fn event_name(source: Source<'_>, about: &ObjectReference, event: &Event) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    let parts = [
        Some(source.component),
        Some(source.host),
        about.kind.as_deref(),
        about.namespace.as_deref(),
        about.name.as_deref(),
        about.field_path.as_deref(),
        about.uid.as_deref(),
        about.api_version.as_deref(),
        Some(event.type_.as_str()),
        Some(event.reason),
        Some(event.message.as_str()),
    ];
    for part in parts {
        context.update(part.unwrap_or_default().as_bytes());
        context.update(&[0]);
    }
    let digest = context.finish();
    let suffix: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let name = about.name.as_deref().unwrap_or("unknown");
    let name = cut(name, MOST_NAME_BYTES - 1 - suffix.len()).trim_end_matches(['.', '-']);
    format!("{name}.{suffix}")
}

/// The longest beginning of `text` that is no longer than `limit` bytes.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

async fn write_all(client: kube::Client, mut events: mpsc::Receiver<CoreEvent>) {
    let mut bursts = Bursts::default();
    while let Some(event) = events.recv().await {
        let about = &event.involved_object;
        let object = format!(
            "{}/{}",
            about.namespace.as_deref().unwrap_or_default(),
            about.name.as_deref().unwrap_or_default()
        );
        let source = event.reporting_component.as_deref().unwrap_or_default();
        let key = format!("{source} {}", about.uid.as_deref().or(about.name.as_deref()).unwrap_or_default());
        if !bursts.allow(key, Instant::now()) {
            tracing::debug!(
                reason = event.reason,
                object,
                uid = about.uid,
                "too many events about an object"
            );
            continue;
        }
        let CoreEvent { reason, message, .. } = &event;
        tracing::info!(
            kind = about.kind,
            object,
            uid = about.uid,
            reason,
            said = message,
            "an event is written"
        );
        if let Err(error) = write(&client, &event).await {
            tracing::warn!(
                %error, reason = event.reason, kind = about.kind, object, uid = about.uid,
                "an event could not be written"
            );
        }
    }
}

/// Creates `event`, or counts up the one that is there.
async fn write(client: &kube::Client, event: &CoreEvent) -> Result<(), kube::Error> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let name = event.metadata.name.as_deref().unwrap_or_default();
    let events = Api::<CoreEvent>::namespaced(client.clone(), namespace);
    let mut attempt = 1;
    loop {
        let result = match events.create(&PostParams::default(), event).await {
            Err(error) if has_code(&error, 409) => count_up(&events, name, event).await,
            other => other.map(drop),
        };
        match result {
            // Somebody else counted, or it expired in between.
            Err(error) if attempt < ATTEMPTS && (has_code(&error, 409) || has_code(&error, 404)) => {
                attempt += 1
            }
            other => return other,
        }
    }
}

async fn count_up(events: &Api<CoreEvent>, name: &str, event: &CoreEvent) -> Result<(), kube::Error> {
    let known = events.get(name).await?;
    let patch = json!({
        "metadata": {"resourceVersion": known.metadata.resource_version},
        "count": known.count.unwrap_or(1).saturating_add(1),
        "lastTimestamp": event.last_timestamp,
    });
    events.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
}

/// Whether the server answered with `code`.
fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// How many more events each object may have: a token bucket each.
#[derive(Debug, Default)]
struct Bursts {
    objects: HashMap<String, Burst>,
}

#[derive(Debug)]
struct Burst {
    left: u32,
    since: Instant,
}

impl Bursts {
    fn allow(&mut self, key: String, now: Instant) -> bool {
        if self.objects.len() >= MOST_OBJECTS && !self.objects.contains_key(&key) {
            // Those that were left in peace for longest are as good as new.
            self.objects.retain(|_, burst| now.duration_since(burst.since) < REFILL);
            if self.objects.len() >= MOST_OBJECTS {
                self.objects.clear();
            }
        }
        let burst = self.objects.entry(key).or_insert(Burst { left: BURST, since: now });
        let refills = now.duration_since(burst.since).as_secs() / REFILL.as_secs();
        if let Ok(refills) = u32::try_from(refills)
            && refills > 0
        {
            burst.left = burst.left.saturating_add(refills).min(BURST);
            burst.since = now;
        }
        if burst.left == 0 {
            return false;
        }
        if burst.left == BURST {
            burst.since = now;
        }
        burst.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn about(name: &str) -> ObjectReference {
        ObjectReference {
            kind: Some("VirtualMachineInstance".to_owned()),
            namespace: Some("ns".to_owned()),
            name: Some(name.to_owned()),
            uid: Some("u".to_owned()),
            api_version: Some("kubevirt.io/v1".to_owned()),
            ..ObjectReference::default()
        }
    }

    fn now() -> Time {
        Time("2026-01-02T03:04:05Z".parse().unwrap())
    }

    #[test]
    fn an_event_is_what_client_go_writes() {
        let source = Source { component: "virt-handler", host: "node1" };
        let event = Event::warning("SyncFailed", "no such file");
        let stored = serde_json::to_value(core_event(source, &about("kb"), &event, now())).unwrap();
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "kb.0d9465f119aefc62", "namespace": "ns"},
            "involvedObject": {
                "apiVersion": "kubevirt.io/v1",
                "kind": "VirtualMachineInstance",
                "namespace": "ns",
                "name": "kb",
                "uid": "u",
            },
            "type": "Warning",
            "reason": "SyncFailed",
            "message": "no such file",
            "source": {"component": "virt-handler", "host": "node1"},
            "reportingComponent": "virt-handler",
            "reportingInstance": "node1",
            "firstTimestamp": "2026-01-02T03:04:05Z",
            "lastTimestamp": "2026-01-02T03:04:05Z",
            "count": 1,
        });
        assert_eq!(stored, expected);
    }

    #[test]
    fn the_same_has_the_same_name_and_anything_else_another() {
        let name = |source, name: &str, event: &Event| event_name(source, &about(name), event);
        let event = Event::normal("Created", "VirtualMachineInstance defined.");
        let first = name(CONTROLLER, "kb", &event);
        assert_eq!(first, name(CONTROLLER, "kb", &event));
        let mut later = about("kb");
        later.resource_version = Some("7".to_owned());
        assert_eq!(first, event_name(CONTROLLER, &later, &event));
        let host = Source { component: "virt-handler", host: "a" };
        let others = [
            name(host, "kb", &event),
            name(CONTROLLER, "kc", &event),
            name(CONTROLLER, "kb", &Event::warning("Created", "VirtualMachineInstance defined.")),
            name(CONTROLLER, "kb", &Event::normal("Created", "VirtualMachineInstance started.")),
        ];
        for other in others {
            assert_ne!(first, other);
        }
        let long = name(CONTROLLER, &format!("{}.a", "x".repeat(235)), &event);
        assert_eq!((long.len(), long.matches('.').count()), (252, 1), "{long}");
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let event = Event::normal("Created", "ä".repeat(MOST_MESSAGE_BYTES));
        let stored = core_event(CONTROLLER, &about("kb"), &event, now());
        assert_eq!(stored.message.unwrap(), "ä".repeat(MOST_MESSAGE_BYTES / 2));
    }

    #[test]
    fn a_burst_passes_and_then_one_in_five_minutes() {
        let mut bursts = Bursts::default();
        let start = Instant::now();
        let allowed = |bursts: &mut Bursts, at| (0..100).filter(|_| bursts.allow("a".to_owned(), at)).count();
        assert_eq!(allowed(&mut bursts, start), 25);
        assert_eq!(allowed(&mut bursts, start + REFILL - Duration::from_secs(1)), 0);
        assert_eq!(allowed(&mut bursts, start + REFILL), 1);
        assert_eq!(allowed(&mut bursts, start + REFILL * 4), 3);
        assert!(bursts.allow("b".to_owned(), start));
    }

    #[test]
    fn no_more_objects_are_remembered_than_the_limit() {
        let mut bursts = Bursts::default();
        let start = Instant::now();
        for index in 0..2 * MOST_OBJECTS {
            assert!(bursts.allow(index.to_string(), start));
            assert!(bursts.objects.len() <= MOST_OBJECTS);
        }
    }
}
