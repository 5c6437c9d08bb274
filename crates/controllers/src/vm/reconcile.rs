//! One look at one machine: read, decide, act, write down.
//!
//! Machine and instance are read anew each time, so a decision is never older than the request before it. An instance
//! that nobody has heard of is not asked for: most machines of a large installation are made and never started. Everything
//! that could lose a race tests what it changes; who loses looks again. The status is written before an instance is
//! deleted or let go, since what it says of that instance cannot be found out afterwards.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{Timestamp, Unit};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::controller::Action as Next;
use manifest::Time;
use manifest::types::{VirtualMachine, VirtualMachineInstance};
use uuid::Uuid;

use super::claim::{self, Claim};
use super::conditions::SyncError;
use super::decision::{self, Action, Manner};
use super::revision::{self, Drift};
use super::status::News;
use super::{build, instance, last_boot, pending, requests, status};
use crate::PASSING;
use crate::events::{CONTROLLER, Event, Recorder};

/// How long details of an instance on its way to running may wait to be written to its machine's status: the instance has
/// them.
const DETAILS_DELAY: Duration = Duration::from_secs(5);

/// The first pause after something went wrong on the way to the API; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// The first pause after an instance could not be created or deleted.
const FIRST_SYNC_RETRY: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What the reconciler is given, and remembers between two looks.
pub(super) struct Context {
    client: kube::Client,
    recorder: Recorder,
    notes: Mutex<HashMap<Key, Note>>,
    /// Where there may be an instance: all of which the watch has told, until one of them is not found.
    heard_of: Mutex<HashSet<Key>>,
}

/// Namespace and name.
type Key = (String, String);

/// What is remembered of a machine. Losing it costs nothing but time.
#[derive(Debug, Default)]
struct Note {
    /// Failures in a row.
    failures: u32,
    /// Since when there is something to write that can wait.
    waiting_since: Option<Instant>,
}

impl Context {
    pub(super) fn new(client: kube::Client) -> Self {
        Self {
            recorder: Recorder::new(client.clone()),
            client,
            notes: Mutex::default(),
            heard_of: Mutex::default(),
        }
    }

    fn notes(&self) -> MutexGuard<'_, HashMap<Key, Note>> {
        // What is in there is never half changed.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that there may be an instance of this name.
    pub(super) fn hear_of(&self, namespace: &str, name: &str) {
        self.heard_of().insert((namespace.to_owned(), name.to_owned()));
    }

    /// Whether there may be an instance of this name.
    pub(super) fn has_heard_of(&self, namespace: &str, name: &str) -> bool {
        self.heard_of().contains(&(namespace.to_owned(), name.to_owned()))
    }

    fn heard_of(&self) -> MutexGuard<'_, HashSet<Key>> {
        // Nor this.
        self.heard_of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long to pause after another failure.
    pub(super) fn pause(&self, namespace: &str, name: &str, first: Duration) -> Duration {
        let mut notes = self.notes();
        let note = notes.entry((namespace.to_owned(), name.to_owned())).or_default();
        note.failures = note.failures.saturating_add(1);
        first.saturating_mul(2_u32.saturating_pow(note.failures.min(16) - 1)).min(LONGEST_RETRY)
    }

    /// How long to pause after `error`.
    pub(super) fn pause_after(&self, namespace: &str, name: &str, error: &kube::Error) -> Duration {
        if is_race(error) {
            tracing::debug!(object = %format_args!("{namespace}/{name}"), %error, "a machine is looked at again");
        } else {
            tracing::warn!(object = %format_args!("{namespace}/{name}"), %error, "a machine could not be looked after");
        }
        self.pause(namespace, name, FIRST_RETRY)
    }

    /// Forgets what is remembered of a machine that does not exist.
    pub(super) fn forget(&self, namespace: &str, name: &str) {
        self.notes().remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Lets an instance go whose machine does not exist.
    pub(super) async fn release_abandoned(&self, namespace: &str, name: &str) -> Result<(), kube::Error> {
        let instances = Api::<VirtualMachineInstance>::namespaced(self.client.clone(), namespace);
        let Some(found) = instances.get_metadata_opt(name).await? else {
            return Ok(());
        };
        if !build::has_finalizer(&found.metadata) || !claim::is_abandoned(&found.metadata, None) {
            return Ok(());
        }
        let machines = Api::<VirtualMachine>::namespaced(self.client.clone(), namespace);
        if machines.get_metadata_opt(name).await?.is_some() {
            return Ok(());
        }
        release_instance(&instances, &found.metadata).await
    }
}

/// Whether `error` says that somebody else was faster.
fn is_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409 | 422))
}

fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// Takes this controller's finalizer off an instance; one that is gone needs none.
async fn release_instance(
    instances: &Api<VirtualMachineInstance>,
    metadata: &ObjectMeta,
) -> Result<(), kube::Error> {
    let (Some(patch), Some(name)) = (build::release(metadata), &metadata.name) else {
        return Ok(());
    };
    let result = instances.patch_metadata(name, &PatchParams::default(), &Patch::Json::<()>(patch)).await;
    ignore_gone(result.map(drop))
}

fn ignore_gone(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(error) if has_code(&error, 404) => Ok(()),
        other => other,
    }
}

/// One look at one machine.
pub(super) struct Look<'a> {
    context: &'a Context,
    machines: Api<VirtualMachine>,
    instances: Api<VirtualMachineInstance>,
    revisions: Api<ControllerRevision>,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Look<'a> {
    pub(super) fn new(context: &'a Context, namespace: &'a str, name: &'a str) -> Self {
        let client = &context.client;
        Self {
            context,
            machines: Api::namespaced(client.clone(), namespace),
            instances: Api::namespaced(client.clone(), namespace),
            revisions: Api::namespaced(client.clone(), namespace),
            namespace,
            name,
        }
    }

    /// Brings the machine closer to what it should be, and says when to look again.
    pub(super) async fn reconcile(&self) -> Result<Next, kube::Error> {
        let Some(mut machine) = self.machines.get_opt(self.name).await? else {
            self.forget();
            return Ok(Next::await_change());
        };
        let found = self.find_instance(&machine).await?;
        let claim = found.as_ref().map(|found| claim::claim(&machine, found));
        if let Some(found) = &found
            && claim != Some(Claim::Own)
            && claim::is_abandoned(&found.metadata, machine.metadata.uid.as_deref())
        {
            release_instance(&self.instances, &found.metadata).await?;
        }
        let leaves = decision::leaves_instance(&machine);
        if let Some(found) = &found
            && (claim == Some(Claim::Freed) || claim == Some(Claim::Own) && leaves)
        {
            release_instance(&self.instances, &found.metadata).await?;
        }
        let mut instance = found.filter(|_| matches!(claim, Some(Claim::Own | Claim::Adopted)));
        if machine.metadata.deletion_timestamp.is_some() {
            if leaves || instance.is_none() {
                return self.release_machine(&machine).await;
            }
        } else if let Some(patch) = build::preparation(&machine) {
            let parameters = PatchParams::default();
            machine = self.machines.patch(self.name, &parameters, &Patch::Merge(&patch)).await?;
        }
        if claim == Some(Claim::Adopted)
            && let Some(orphan) = &instance
        {
            let patch = Patch::Json::<()>(build::adoption(&machine, orphan));
            instance = Some(self.instances.patch(self.name, &PatchParams::default(), &patch).await?);
        }
        self.carry_out(machine, instance, claim).await
    }

    /// The instance of the machine's name. Where the watch is late and one is taken for absent, its event leads here again;
    /// what is made in its place until then is refused as there already.
    async fn find_instance(
        &self,
        machine: &VirtualMachine,
    ) -> Result<Option<VirtualMachineInstance>, kube::Error> {
        let key = self.key();
        let has_one = machine.status.as_ref().and_then(|status| status.created).unwrap_or_default();
        // Forgotten before the question, so that one that comes meanwhile is not.
        let may_be_there = self.context.heard_of().remove(&key);
        if !may_be_there && !has_one && machine.metadata.deletion_timestamp.is_none() {
            return Ok(None);
        }
        let found = self.instances.get_opt(self.name).await;
        if !matches!(found, Ok(None)) {
            self.context.heard_of().insert(key);
        }
        found
    }

    async fn carry_out(
        &self,
        machine: VirtualMachine,
        mut instance: Option<VirtualMachineInstance>,
        claim: Option<Claim>,
    ) -> Result<Next, kube::Error> {
        // Kubernetes' times are whole seconds.
        let now = Timestamp::now().round(Unit::Second).unwrap_or_default();
        let random = Uuid::new_v4().as_u64_pair().0;
        let decision = decision::decide(&machine, instance.as_ref(), now, random);
        let is_deletion = matches!(decision.action, Action::Delete | Action::DeleteAndStart);
        let mut failure = None;
        let mut is_settled = true;
        let mut again: Option<Duration> = None;
        let mut restart_required = None;
        match &decision.action {
            Action::Create(_) if claim == Some(Claim::Leaving) => is_settled = false,
            Action::Create(manner) => {
                let append = pending::append(&decision.requests);
                match self.create(&machine, *manner, append, claim).await? {
                    Ok(created) => instance = Some(created),
                    Err(error) => (failure, is_settled) = (Some(error), false),
                };
            }
            Action::CreateAfter(wait) => (again, is_settled) = (Some(*wait), false),
            Action::SwitchOn => return self.switch(&requests::switch(&machine, true).patch).await,
            Action::Restore(strategy) => return self.switch(&build::restoration(&machine, strategy)).await,
            Action::Fail(message) => {
                failure = Some(SyncError { reason: "FailedCreate", message: message.clone() });
            }
            Action::Nothing => {
                if let Some(live) = &instance
                    && !instance::is_final(live)
                    && !instance::is_deleting(live)
                    && machine.metadata.deletion_timestamp.is_none()
                {
                    let drift = self.drift(&machine, live).await?;
                    if let Drift::Restart(message) = drift {
                        restart_required = Some(message);
                    }
                    if let Some(patch) = build::live_update(&machine, live, drift) {
                        let (parameters, patch) = (PatchParams::default(), Patch::Json::<()>(patch));
                        instance = Some(self.instances.patch(self.name, &parameters, &patch).await?);
                    }
                }
            }
            Action::Delete | Action::DeleteAndStart => {}
        }
        let mut outcome = status::Outcome {
            instance: instance.as_ref(),
            requests: &decision.requests,
            start_failure: decision.start_failure.as_ref(),
            is_stopping: is_deletion,
            is_settled,
            failure: failure.as_ref(),
            restart_required,
            now: Time(now),
        };
        let (machine, wait) = self.write_status(machine, &outcome).await?;
        let delete_failure = match &instance {
            Some(instance) if is_deletion => self.delete(&machine, instance).await?,
            _ => None,
        };
        if delete_failure.is_some() {
            (outcome.failure, outcome.is_stopping) = (delete_failure.as_ref(), false);
            self.write_status(machine.clone(), &outcome).await?;
        }
        if let Some(instance) = &instance {
            if let Some(patch) = last_boot::record(&machine, instance) {
                self.machines
                    .patch_metadata(self.name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await?;
            }
            if instance::is_final(instance) {
                release_instance(&self.instances, &instance.metadata).await?;
            }
        }
        if failure.or(delete_failure).is_some() {
            again = Some(self.context.pause(self.namespace, self.name, FIRST_SYNC_RETRY));
        } else if let Some(note) = self.context.notes().get_mut(&self.key()) {
            note.failures = 0;
        }
        Ok(again.into_iter().chain(wait).min().map_or_else(Next::await_change, Next::requeue))
    }

    /// Creates the instance, and the revision that it is made from.
    async fn create(
        &self,
        machine: &VirtualMachine,
        manner: Manner,
        append: Option<&str>,
        claim: Option<Claim>,
    ) -> Result<Result<VirtualMachineInstance, SyncError>, kube::Error> {
        let parameters = PostParams::default();
        let mut result = Ok(());
        if claim.is_none() {
            result = match self.revisions.create(&parameters, &revision::of(machine)).await {
                // It is there when the machine was started before and has not changed since.
                Err(error) if has_code(&error, 409) => Ok(()),
                other => other.map(drop),
            };
        }
        let result = match result {
            Ok(()) => self.instances.create(&parameters, &build::instance(machine, manner, append)).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(created) => {
                let name = self.name;
                let text = format!(
                    "Started the virtual machine by creating the new virtual machine instance {name}"
                );
                self.record(machine, &Event::normal("SuccessfulCreate", text));
                if let Err(error) = self.forget_older_revisions(machine).await {
                    let object = format!("{}/{name}", self.namespace);
                    tracing::warn!(object, uid = machine.metadata.uid, %error, "older revisions are kept");
                }
                Ok(Ok(created))
            }
            // Somebody else made one in between.
            Err(error) if has_code(&error, 409) && claim.is_none() => {
                self.context.hear_of(self.namespace, self.name);
                Err(error)
            }
            Err(kube::Error::Api(answer)) => {
                let why = &answer.message;
                let text = format!("Error creating virtual machine instance: {why}");
                self.record(machine, &Event::warning("FailedCreate", text));
                let message = format!("Failure while starting VMI: {why}");
                Ok(Err(SyncError { reason: "FailedCreate", message }))
            }
            Err(error) => Err(error),
        }
    }

    async fn forget_older_revisions(&self, machine: &VirtualMachine) -> Result<(), kube::Error> {
        let uid = machine.metadata.uid.as_deref().unwrap_or_default();
        if machine.metadata.generation.is_none_or(|generation| generation <= 1) || uid.is_empty() {
            return Ok(());
        }
        let label = format!("{}={uid}", revision::MACHINE_UID);
        let present = revision::name(machine);
        for older in self.revisions.list_metadata(&ListParams::default().labels(&label)).await? {
            let Some(name) = older.metadata.name.filter(|name| *name != present) else {
                continue;
            };
            let deleted = self.revisions.delete(&name, &DeleteParams::default()).await;
            ignore_gone(deleted.map(drop))?;
        }
        Ok(())
    }

    /// Deletes the instance, unless that has happened before.
    async fn delete(
        &self,
        machine: &VirtualMachine,
        instance: &VirtualMachineInstance,
    ) -> Result<Option<SyncError>, kube::Error> {
        if instance::is_deleting(instance) {
            return Ok(None);
        }
        let uid = instance.metadata.uid.clone();
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteParams::default()
        };
        match self.instances.delete(self.name, &parameters).await {
            Ok(_) => {
                let uid = instance::uid(instance);
                let text =
                    format!("Stopped the virtual machine by deleting the virtual machine instance {uid}");
                self.record(machine, &Event::normal("SuccessfulDelete", text));
                Ok(None)
            }
            // It is gone, or another one has taken its place.
            Err(error) if has_code(&error, 404) || has_code(&error, 409) => Ok(None),
            Err(kube::Error::Api(answer)) => {
                let why = &answer.message;
                let text = format!("Error deleting virtual machine instance {}: {why}", self.name);
                self.record(machine, &Event::warning("FailedDelete", text));
                let message = format!("Failure attempting to delete VMI: {why}");
                Ok(Some(SyncError { reason: "FailedDelete", message }))
            }
            Err(error) => Err(error),
        }
    }

    /// How far the machine has moved on from what its instance was made from.
    async fn drift(
        &self,
        machine: &VirtualMachine,
        instance: &VirtualMachineInstance,
    ) -> Result<Drift, kube::Error> {
        let status = instance.status.as_ref();
        let Some(name) = status.and_then(|status| status.virtual_machine_revision_name.as_deref()) else {
            return Ok(Drift::Unknown);
        };
        if instance::generation(instance) == machine.metadata.generation {
            return Ok(Drift::None);
        }
        let most_sockets = instance.spec.domain.cpu.as_ref().and_then(|cpu| cpu.max_sockets);
        let revision = self.revisions.get_opt(name).await?;
        let start = revision.as_ref().and_then(revision::spec_in);
        Ok(start.map_or(Drift::Unknown, |start| revision::drift(&start, &machine.spec, most_sockets)))
    }

    /// Writes the status if it differs; says how long that can wait, if it can.
    async fn write_status(
        &self,
        mut machine: VirtualMachine,
        outcome: &status::Outcome<'_>,
    ) -> Result<(VirtualMachine, Option<Duration>), kube::Error> {
        let wanted = status::next(&machine, outcome);
        let present = machine.status.clone().unwrap_or_default();
        if wanted == present {
            if let Some(note) = self.context.notes().get_mut(&self.key()) {
                note.waiting_since = None;
            }
            return Ok((machine, None));
        }
        {
            let mut notes = self.context.notes();
            let note = notes.entry(self.key()).or_default();
            let patience = match status::news(&present, &wanted) {
                News::Instance => PASSING,
                News::Details => DETAILS_DELAY,
                News::Other => Duration::ZERO,
            };
            let waited = note.waiting_since.get_or_insert_with(Instant::now).elapsed();
            if let Some(left) = patience.checked_sub(waited).filter(|left| !left.is_zero()) {
                return Ok((machine, Some(left)));
            }
            note.waiting_since = None;
        }
        machine.status = Some(wanted);
        let machine = self.machines.replace_status(self.name, &PostParams::default(), &machine).await?;
        Ok((machine, None))
    }

    /// Changes the spec of the machine; that change has it looked at again.
    async fn switch(&self, patch: &json_patch::Patch) -> Result<Next, kube::Error> {
        let patch = Patch::Json::<()>(patch.clone());
        self.machines.patch_metadata(self.name, &PatchParams::default(), &patch).await?;
        Ok(Next::await_change())
    }

    /// Lets the machine go.
    async fn release_machine(&self, machine: &VirtualMachine) -> Result<Next, kube::Error> {
        if let Some(patch) = build::release(&machine.metadata) {
            let patch = Patch::Json::<()>(patch);
            let result = self.machines.patch_metadata(self.name, &PatchParams::default(), &patch).await;
            ignore_gone(result.map(drop))?;
        }
        self.forget();
        Ok(Next::await_change())
    }

    fn record(&self, machine: &VirtualMachine, event: &Event) {
        let about = ObjectReference {
            api_version: Some("kubevirt.io/v1".to_owned()),
            kind: Some("VirtualMachine".to_owned()),
            namespace: Some(self.namespace.to_owned()),
            name: Some(self.name.to_owned()),
            uid: machine.metadata.uid.clone(),
            resource_version: machine.metadata.resource_version.clone(),
            ..ObjectReference::default()
        };
        self.context.recorder.record(CONTROLLER, &about, event);
    }

    fn key(&self) -> Key {
        (self.namespace.to_owned(), self.name.to_owned())
    }

    fn forget(&self) {
        self.context.forget(self.namespace, self.name);
    }
}
