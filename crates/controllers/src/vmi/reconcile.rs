//! The I/O around [`report`](super::report): reads what is observed, does what follows, writes the difference.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::controller::Action;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource, ResourceExt};
use manifest::forms;
use manifest::keys;
use manifest::machine_status::BootFacts;
use manifest::types::{VirtualMachine, VirtualMachineInstance};
use serde_json::{Map, Value, json};

use super::conditions::{self, find};
use super::followers::{Followers, Instance, Intent, Latest};
use super::phase::Phase;
use super::pod::{POD_GRACE_BEYOND_SECONDS, UNPAUSED, grace_seconds, launcher_pod, pod_name};
use super::report::{self, Observed, Report, Teller, can_wait, has_acpi, report};
use super::transitions::Transitions;
use super::view::{LauncherPod, PodView, Stage, controller, view};
use crate::PASSING;
use crate::events::{self, Event, Recorder, Source};
use crate::metrics::{Metrics, PanicLabels};

/// How often a write is made anew because somebody else was faster.
const ATTEMPTS: usize = 5;

/// Between attempts after errors: doubled from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));

/// How long a Pod may outlive the end of its grace before its node is looked at.
const OVERDUE: Duration = Duration::from_secs(30);

/// KubeVirt's node agent, on whose behalf the controller tells of machines.
const HANDLER: &str = "virt-handler";

/// What a reconciliation needs.
pub(super) struct Context {
    pub client: Client,
    pub launcher_image: String,
    pub metrics: Metrics,
    pub pods: Store<LauncherPod>,
    pub followers: Followers,
    pub recorder: Recorder,
    pub failures: Mutex<HashMap<ObjectRef<Instance>, u32>>,
    /// By UID.
    pub drafts: Mutex<HashMap<String, Draft>>,
    pub transitions: Transitions,
}

/// What an instance is to say, and who is to be told, once it is worth a write. Losing it costs nothing: it is found
/// out anew, and so it is when somebody else changes the instance.
pub(super) struct Draft {
    instance: Arc<VirtualMachineInstance>,
    told: Vec<(Teller, Event)>,
    since: Instant,
}

impl Context {
    /// Forgets what is kept of instances that are gone.
    pub fn sweep(&self, instances: &Store<Instance>) {
        let there: HashSet<_> =
            instances.state().iter().filter_map(|instance| instance.meta().uid.clone()).collect();
        self.followers.retain(|uid| there.contains(uid));
        lock(&self.drafts).retain(|uid, _| there.contains(uid));
        self.transitions.retain(|uid| there.contains(uid));
        lock(&self.failures).retain(|object, _| instances.get(object).is_some());
    }
}

/// Why an instance could not be dealt with; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the API server did not do as asked")]
    Api(#[from] kube::Error),
    #[error("the Pod could not be created: {0}")]
    Create(String),
    #[error("the instance cannot be read")]
    Read(#[from] serde_json::Error),
    #[error("the instance was changed by others time and again")]
    Contended,
}

/// How one pass ended.
enum Pass {
    Done(Action),
    /// Somebody else was faster.
    Lost,
}

/// Deals with one instance.
pub(super) async fn reconcile(instance: Arc<Instance>, context: Arc<Context>) -> Result<Action, Error> {
    let instances = Api::<Instance>::namespaced(context.client.clone(), instance.key().0);
    let mut current = instance;
    for _ in 0..ATTEMPTS {
        match pass(&context, &instances, &current).await? {
            Pass::Done(action) => {
                lock(&context.failures).remove(&ObjectRef::from_obj(current.as_ref()));
                return Ok(action);
            }
            Pass::Lost => {}
        }
        let Some(fresh) = instances.get_opt(&current.name_any()).await? else {
            return Ok(Action::await_change());
        };
        if fresh.meta().uid != current.meta().uid {
            return Ok(Action::await_change());
        }
        current = Arc::new(fresh);
    }
    Err(Error::Contended)
}

/// When to try again after `error`.
pub(super) fn retry(instance: Arc<Instance>, error: &Error, context: Arc<Context>) -> Action {
    tracing::debug!(name = %instance.name_any(), %error, "an instance is tried again");
    let mut failures = lock(&context.failures);
    let count = failures.entry(ObjectRef::from_obj(instance.as_ref())).or_default();
    *count = count.saturating_add(1);
    Action::requeue(RETRY.1.min(RETRY.0.saturating_mul(1 << (*count - 1).min(16))))
}

async fn pass(context: &Context, instances: &Api<Instance>, packed: &Arc<Instance>) -> Result<Pass, Error> {
    let stored = &Arc::new(packed.read()?);
    let uid = stored.metadata.uid.clone().unwrap_or_default();
    let draft = lock(&context.drafts).remove(&uid);
    let is_of = |draft: &Draft| draft.instance.metadata.resource_version == stored.metadata.resource_version;
    let (instance, told_before, since) = match draft.filter(is_of) {
        Some(draft) => (&draft.instance.clone(), draft.told, Some(draft.since)),
        None => (stored, Vec::new(), None),
    };
    let Some(phase) = phase_of(instance) else { return Ok(Pass::Done(Action::await_change())) };
    let deleting = instance.metadata.deletion_timestamp.is_some();
    if phase.is_final() && !deleting {
        // All that is left of it is its object; the Pod goes with that.
        context.followers.forget(&uid);
        return Ok(Pass::Done(Action::await_change()));
    }
    let pods = Api::<Pod>::namespaced(
        context.client.clone(),
        instance.metadata.namespace.as_deref().unwrap_or_default(),
    );
    let mut create_error = None;
    let mut pod = find_pod(context, &pods, instance).await?;
    if pod.is_none() && phase == Phase::Pending && !deleting && !report::is_receiver(instance) {
        // What is cached may be old, and a second Pod must never be.
        let fresh = instances.get_opt(&instance.name_any()).await?;
        if fresh.is_none_or(|fresh| fresh.meta().resource_version != instance.metadata.resource_version) {
            return Ok(Pass::Lost);
        }
        match create_pod(context, &pods, instance).await? {
            Ok(created) => pod = Some(created),
            Err(error) => create_error = Some(error),
        }
    }
    let latest = match &pod {
        Some(pod) => {
            let starts = report::may_start(instance, pod);
            follow(context, packed, pod, if starts { Intent::Start } else { Intent::Listen })
        }
        None => context.followers.latest(&uid),
    };
    let observed = Observed {
        pod: pod.as_ref(),
        machine: latest.machine.as_ref(),
        refusal: latest.refusal.as_deref(),
        create_error: create_error.as_deref(),
        ..Observed::default()
    };
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    let draft = report(instance, &observed, now);
    let enters = |phase: Phase| phase_of(&draft.instance) == Some(phase);
    let learns_boot = report::knows_boot(&draft.instance) && !report::knows_boot(instance);
    let last_boot = if learns_boot { last_boot(context, instance).await } else { None };
    // A launcher that told of its machine's end did not end with its node.
    let told = pod.as_ref().and_then(|pod| pod.last.as_ref()).or(observed.machine);
    let has_told = told.is_some_and(|machine| machine.state.is_final());
    let node_is_lost = match &instance.status {
        Some(status) if !has_told && enters(Phase::Failed) => match &status.node_name {
            Some(node) => is_lost(context, node).await?,
            None => false,
        },
        _ => false,
    };
    let mut report = if last_boot.is_some() || node_is_lost {
        report(instance, &Observed { last_boot: last_boot.as_ref(), node_is_lost, ..observed }, now)
    } else {
        draft
    };
    context.transitions.note(&context.metrics, instance, &report.instance, Timestamp::now());
    report.events.splice(0..0, told_before);
    let mut again_after = report.again_after;
    match waits(stored, &report.instance, since) {
        Some((since, left)) => {
            again_after = again_after.into_iter().chain([left]).min();
            let draft = Draft { instance: Arc::new(report.instance.clone()), told: report.events, since };
            lock(&context.drafts).insert(uid.clone(), draft);
        }
        None => {
            if !write(context, instances, stored, &report).await? {
                return Ok(Pass::Lost);
            }
        }
    }
    if let Some(pod) = &pod {
        if deleting {
            again_after = end_pod(context, &pods, instance, pod, now).await?.or(again_after);
        } else {
            open_gate(&pods, &report.instance, pod).await?;
        }
    } else {
        context.followers.forget(&uid);
    }
    match create_error {
        Some(error) => Err(Error::Create(error)),
        None => Ok(Pass::Done(again_after.map_or_else(Action::await_change, Action::requeue))),
    }
}

/// Since when there is something to write that can wait, and how much longer it can.
fn waits(
    stored: &VirtualMachineInstance,
    new: &VirtualMachineInstance,
    since: Option<Instant>,
) -> Option<(Instant, Duration)> {
    if stored == new || !can_wait(stored, new) {
        return None;
    }
    let since = since.unwrap_or_else(Instant::now);
    let left = PASSING.checked_sub(since.elapsed()).filter(|left| !left.is_zero())?;
    Some((since, left))
}

fn phase_of(instance: &VirtualMachineInstance) -> Option<Phase> {
    let status = instance.status.as_ref();
    Phase::parse(status.and_then(|status| status.phase.as_deref()).unwrap_or_default())
}

/// The instance's Pod. That there is none is asked of the server, since what is cached may be late.
async fn find_pod(
    context: &Context,
    pods: &Api<Pod>,
    instance: &VirtualMachineInstance,
) -> Result<Option<PodView>, Error> {
    let key = ObjectRef::new(&pod_name(instance))
        .within(instance.metadata.namespace.as_deref().unwrap_or_default());
    if let Some(pod) = context.pods.get(&key).filter(|pod| is_of(pod.note.controller.as_ref(), instance)) {
        return Ok(Some(pod.note.view.clone()));
    }
    Ok(stored_pod(pods, instance).await?)
}

/// The same as the server has it.
pub(super) async fn stored_pod(
    pods: &Api<Pod>,
    instance: &VirtualMachineInstance,
) -> Result<Option<PodView>, kube::Error> {
    let pod = pods.get_opt(&pod_name(instance)).await?;
    Ok(pod.filter(|pod| is_of(controller(pod), instance)).map(|pod| view(&pod)))
}

/// Whether what `owner` looks after is the instance's.
fn is_of(owner: Option<&OwnerReference>, instance: &VirtualMachineInstance) -> bool {
    owner.is_some_and(|owner| Some(&owner.uid) == instance.metadata.uid.as_ref())
}

/// Creates the Pod; the inner error is for the instance's status.
async fn create_pod(
    context: &Context,
    pods: &Api<Pod>,
    instance: &VirtualMachineInstance,
) -> Result<Result<PodView, String>, Error> {
    let pod = match launcher_pod(instance, &context.launcher_image) {
        Ok(pod) => pod,
        Err(error) => return Ok(Err(error.to_string())),
    };
    match pods.create(&PostParams::default(), &pod).await {
        Ok(pod) => Ok(Ok(view(&pod))),
        // The cache was late, or an earlier daemon was interrupted; or somebody else has taken the name.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Ok(stored_pod(pods, instance).await?.ok_or_else(|| status.message.clone()))
        }
        Err(kube::Error::Api(status)) => Ok(Err(status.message.clone())),
        Err(error) => Err(error.into()),
    }
}

/// Has the Pod's launcher followed while there is one.
fn follow(context: &Context, instance: &Arc<Instance>, pod: &PodView, intent: Intent) -> Latest {
    match pod.control {
        Some(at) if pod.stage != Stage::Ended => context.followers.tend(instance, &pod.uid, at, intent),
        _ => context.followers.latest(instance.meta().uid.as_deref().unwrap_or_default()),
    }
}

/// What the machine that owns the instance booted last.
async fn last_boot(context: &Context, instance: &VirtualMachineInstance) -> Option<BootFacts> {
    let owners = instance.metadata.owner_references.as_ref()?;
    let owner =
        owners.iter().find(|owner| owner.controller == Some(true) && owner.kind == "VirtualMachine")?;
    let machines = Api::<VirtualMachine>::namespaced(
        context.client.clone(),
        instance.metadata.namespace.as_deref().unwrap_or_default(),
    );
    match machines.get_opt(&owner.name).await {
        Ok(machine) => {
            let machine = machine.filter(|machine| machine.metadata.uid.as_deref() == Some(&owner.uid))?;
            let text = machine.metadata.annotations.as_ref()?.get(keys::LAST_BOOT)?;
            // Users may write there too; what is no record is compared with nothing.
            serde_json::from_str(text).ok()
        }
        Err(error) => {
            // Nobody waits for a comparison.
            tracing::debug!(%error, name = %owner.name, "the owner of an instance cannot be read");
            None
        }
    }
}

/// Whether a node is gone: there is no such node, or nothing is known of it any more.
async fn is_lost(context: &Context, name: &str) -> Result<bool, Error> {
    let Some(node) = Api::<Node>::all(context.client.clone()).get_opt(name).await? else { return Ok(true) };
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    Ok(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "Unknown"))
}

/// Writes what differs and then tells of it. `false`: somebody else was faster.
async fn write(
    context: &Context,
    instances: &Api<Instance>,
    old: &VirtualMachineInstance,
    report: &Report,
) -> Result<bool, Error> {
    if *old != report.instance {
        let Some(mut patch) = difference(old, &report.instance) else { return Ok(true) };
        patch["metadata"]["resourceVersion"] = json!(old.metadata.resource_version);
        let params = PatchParams::default();
        match instances.patch(&old.name_any(), &params, &Patch::Merge(&patch)).await {
            Ok(_) => {}
            // Gone, or changed: it is looked at again.
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    tell(context, &report.instance, &report.events);
    Ok(true)
}

fn tell(context: &Context, instance: &VirtualMachineInstance, told: &[(Teller, Event)]) {
    if told.is_empty() {
        return;
    }
    let about = ObjectReference { resource_version: None, ..instance.object_ref(&()) };
    let node = instance.status.as_ref().and_then(|status| status.node_name.as_deref());
    for (teller, event) in told {
        let source = match teller {
            Teller::Controller => events::CONTROLLER,
            Teller::Handler => Source { component: HANDLER, host: node.unwrap_or_default() },
        };
        context.recorder.record(source, &about, event);
        if event.reason == "GuestPanicked" {
            let has_device = !instance.spec.domain.devices.panic_devices.is_empty();
            context.metrics.guest_panicked(PanicLabels {
                namespace: about.namespace.clone().unwrap_or_default(),
                name: about.name.clone().unwrap_or_default(),
                r#type: if has_device { "pvpanic" } else { "console" },
                bugcheck_code: "",
            });
        }
    }
}

/// The merge patch from `old` to `new` (RFC 7396); none when they are written alike.
fn difference(old: &VirtualMachineInstance, new: &VirtualMachineInstance) -> Option<Value> {
    // It can be written: it has no keys but texts.
    let write = |instance| forms::to_value(instance).unwrap_or_default();
    merge_patch(&write(old), &write(new))
}

fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old_fields), Value::Object(new_fields)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = Map::new();
    for (name, value) in new_fields {
        let change = match old_fields.get(name) {
            Some(old) => merge_patch(old, value),
            None => Some(value.clone()),
        };
        patch.extend(change.map(|change| (name.clone(), change)));
    }
    let gone = old_fields.keys().filter(|name| !new_fields.contains_key(*name));
    patch.extend(gone.map(|name| (name.clone(), Value::Null)));
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// What the end of a Pod needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It is to be deleted.
    Delete,
    /// It was, with more time than it has by now.
    Shorten,
    /// Its node has until then.
    Wait(Duration),
    /// Its node should have been done with it.
    Overdue,
}

fn ending(pod: &PodView, pod_grace: i64, now: Timestamp) -> Ending {
    let Some(deadline) = pod.deleted_by else { return Ending::Delete };
    if pod.deletion_grace_seconds.is_some_and(|given| given > pod_grace) {
        return Ending::Shorten;
    }
    let overdue = deadline.saturating_add(OVERDUE.as_secs().cast_signed());
    match u64::try_from(overdue.saturating_sub(now.as_second())) {
        Ok(left) if left > 0 => Ending::Wait(Duration::from_secs(left)),
        _ => Ending::Overdue,
    }
}

/// Has the guest shut down and the Pod deleted. Returns when to look again.
async fn end_pod(
    context: &Context,
    pods: &Api<Pod>,
    instance: &VirtualMachineInstance,
    pod: &PodView,
    now: Timestamp,
) -> Result<Option<Duration>, Error> {
    let grace = grace_seconds(instance);
    let uid = instance.metadata.uid.as_deref().unwrap_or_default();
    let lives = pod.control.is_some() && pod.stage != Stage::Ended;
    if lives {
        context.followers.shutdown(uid, grace.unsigned_abs());
    }
    let pod_grace = grace.saturating_add(POD_GRACE_BEYOND_SECONDS);
    match ending(pod, pod_grace, now) {
        Ending::Delete => {
            delete(context, pods, instance, pod, pod_grace).await?;
            let mut told = Vec::new();
            if lives && matches!(phase_of(instance), Some(Phase::Scheduled | Phase::Running)) {
                told.push(if grace > 0 && has_acpi(instance) {
                    (Teller::Handler, Event::normal("ShuttingDown", "Signaled Graceful Shutdown"))
                } else {
                    (Teller::Handler, Event::normal("Deleted", "Signaled Deletion"))
                });
            }
            let message = format!("Deleted virtual machine pod {}", pod.name);
            told.push((Teller::Controller, Event::normal("SuccessfulDelete", message)));
            tell(context, instance, &told);
            Ok(None)
        }
        Ending::Shorten => {
            delete(context, pods, instance, pod, pod_grace).await?;
            Ok(None)
        }
        Ending::Wait(left) => Ok(Some(left)),
        Ending::Overdue => {
            let is_gone = match &pod.node_name {
                Some(node) => is_lost(context, node).await?,
                None => true,
            };
            if is_gone {
                // Nobody is left to say that it has ended.
                delete(context, pods, instance, pod, 0).await?;
            }
            Ok(Some(OVERDUE))
        }
    }
}

/// Whether `error` says that the object is not there any more, or is another by now.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409))
}

/// Deletes the Pod, which has so many seconds then; that it is gone, or another, is as good.
async fn delete(
    context: &Context,
    pods: &Api<Pod>,
    instance: &VirtualMachineInstance,
    pod: &PodView,
    grace_seconds: i64,
) -> Result<(), Error> {
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: Some(pod.uid.clone()), resource_version: None }),
        grace_period_seconds: u32::try_from(grace_seconds).ok(),
        ..DeleteParams::default()
    };
    match pods.delete(&pod.name, &params).await {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => {
            let message = format!("Failed to delete virtual machine pod {}", pod.name);
            tell(context, instance, &[(Teller::Controller, Event::warning("FailedDelete", message))]);
            Err(error.into())
        }
    }
}

/// Opens the Pod's readiness gate while the guest runs and is not paused, and puts its node's name on the Pod.
async fn open_gate(pods: &Api<Pod>, instance: &VirtualMachineInstance, pod: &PodView) -> Result<(), Error> {
    if phase_of(instance) != Some(Phase::Running) || pod.is_going() {
        return Ok(());
    }
    let status = instance.status.as_ref();
    let paused = status.is_some_and(|status| find(&status.conditions, conditions::PAUSED).is_some());
    let (wanted, reason, message) = if paused {
        ("False", "Paused", "the virtual machine is paused")
    } else {
        ("True", "NotPaused", "the virtual machine is not paused")
    };
    if pod.unpaused.as_deref() == Some(wanted) && pod.has_node_label {
        return Ok(());
    }
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let patch = json!({
        "metadata": {"uid": pod.uid, "labels": {keys::NODE_NAME: pod.node_name}},
        "status": {"conditions": [{
            "type": UNPAUSED, "status": wanted, "reason": reason, "message": message,
            "lastProbeTime": now, "lastTransitionTime": now,
        }]},
    });
    match pods.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The instance that a Pod belongs to.
pub(super) fn owner(pod: &LauncherPod) -> Option<ObjectRef<Instance>> {
    ObjectRef::from_owner_ref(Some(pod.key().0), pod.note.controller.as_ref()?, ())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pod_ends_by_its_node_until_that_is_overdue() {
        let deleted = |deadline: &str, grace: i64| {
            let metadata = json!({
                "deletionTimestamp": deadline, "deletionGracePeriodSeconds": grace,
            });
            serde_json::from_value::<Pod>(json!({"metadata": metadata})).unwrap()
        };
        let wait = |seconds| Ending::Wait(Duration::from_secs(seconds));
        let table = [
            (Pod::default(), 60, Ending::Delete),
            (deleted("2026-01-01T00:01:00Z", 60), 60, wait(90)),
            (deleted("2026-01-01T00:01:00Z", 60), 30, Ending::Shorten),
            (deleted("2026-01-01T00:00:00Z", 30), 60, wait(30)),
            (deleted("2025-12-31T23:59:31Z", 30), 60, wait(1)),
            (deleted("2025-12-31T23:59:30Z", 30), 60, Ending::Overdue),
            (deleted("2025-01-01T00:00:00Z", 0), 30, Ending::Overdue),
        ];
        for (pod, grace, expected) in table {
            let found = ending(&view(&pod), grace, "2026-01-01T00:00:00Z".parse().unwrap());
            assert_eq!(found, expected, "{:?}", pod.metadata.deletion_timestamp);
        }
    }

    #[test]
    fn a_patch_has_what_differs_and_no_more() {
        let old = json!({"a": 1, "b": {"c": [1], "d": 2}, "e": {"f": 1}});
        let new = json!({"a": 1, "b": {"c": [2]}, "e": {"f": 1}, "g": {}});
        assert_eq!(merge_patch(&old, &new), Some(json!({"b": {"c": [2], "d": null}, "g": {}})));
        assert_eq!(merge_patch(&old, &old), None);
    }

    fn objects() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![any::<bool>().prop_map(Value::from), (0..3).prop_map(Value::from)];
        let tree = leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        });
        prop::collection::btree_map("[abc]", tree, 0..3)
            .prop_map(|fields| Value::Object(fields.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn a_patch_leads_from_one_to_the_other(old in objects(), new in objects()) {
            let mut patched = old.clone();
            if let Some(patch) = merge_patch(&old, &new) {
                json_patch::merge(&mut patched, &patch);
            }
            prop_assert_eq!(patched, new);
        }
    }
}
