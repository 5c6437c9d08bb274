//! `start`, `stop`, `restart`, `pause`, `unpause`, `reset`, `soft-reboot`: what virtctl asks of machines, in its words.

use std::time::Duration;

use http::Method;
use manifest::keys;
use serde_json::{Value, json};

use super::api::refusal::RequestError;
use super::api::resources::{INSTANCES, MACHINES};
use super::api::targets::{self, MachineKind};
use super::api::watch::Deadline;
use super::api::{JSON, Server, request, text};
use super::get::there;
use super::{Context, each};
use crate::cli::{DryRun, InstanceFlags, MachinesFlags, RestartFlags, StartFlags, StopFlags, WaitFlags};
use crate::report::{ExitCode, Failure, print};

/// What is done to a VirtualMachine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MachineAction {
    Start,
    Stop,
    Restart,
}

/// What is done to a running VirtualMachineInstance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceAction {
    /// Its virtual CPUs stand still.
    Pause,
    /// They run again.
    Unpause,
    /// The reset button.
    Reset,
    /// The guest is told to restart itself.
    SoftReboot,
}

impl InstanceAction {
    /// The command's word.
    fn word(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Unpause => "unpause",
            Self::Reset => "reset",
            Self::SoftReboot => "soft-reboot",
        }
    }

    fn subresource(self) -> &'static str {
        match self {
            Self::SoftReboot => "softreboot",
            other => other.word(),
        }
    }
}

/// `ferrovirt start`
pub async fn start(context: &Context, flags: &StartFlags) -> Result<ExitCode, Failure> {
    let mut options = dry_run(flags.on.dry_run.mode);
    if flags.paused {
        options["paused"] = true.into();
    }
    if !flags.append.is_empty() {
        options["append"] = flags.append.join(" ").into();
        must_append(&Server::find(context).await?).await?;
    }
    switch(context, &flags.on, &flags.waiting, MachineAction::Start, &options, "Running").await
}

/// Refuses a server that would start a machine without the words for its kernel.
async fn must_append(server: &Server) -> Result<(), Failure> {
    match server.is_ferrovirts().await {
        Ok(true) => Ok(()),
        Ok(false) => {
            let error = anyhow::anyhow!(
                "the server `{}` is none of Ferrovirt's: it would start the machine without --append",
                server.url()
            );
            let hint = "change `kernelArgs` in the machine's manifest for this start";
            Err(Failure::refused(error, Some(hint.to_owned())))
        }
        Err(error) => Err(error.failure("cannot tell whether the server knows --append", None)),
    }
}

/// `ferrovirt stop`
pub async fn stop(context: &Context, flags: &StopFlags) -> Result<ExitCode, Failure> {
    let mut options = dry_run(flags.on.dry_run.mode);
    if let Some(seconds) = grace_period(flags.force, flags.grace_period) {
        options["gracePeriod"] = seconds.into();
    }
    switch(context, &flags.on, &flags.waiting, MachineAction::Stop, &options, "Stopped").await
}

/// Does it to each machine, and waits for a printable status where that is wanted.
async fn switch(
    context: &Context,
    on: &MachinesFlags,
    waiting: &WaitFlags,
    action: MachineAction,
    options: &Value,
    wanted: &str,
) -> Result<ExitCode, Failure> {
    let server = Server::find(context).await?;
    each(context, machines(&on.machines)?, async |name| {
        machine(&server, &name, action, options).await?;
        if waiting.wait && on.dry_run.mode == DryRun::None {
            wait_for_status(&server, &name, waiting.timeout, wanted).await?;
        }
        Ok(())
    })
    .await
}

/// `ferrovirt restart`
pub async fn restart(context: &Context, flags: &RestartFlags) -> Result<ExitCode, Failure> {
    let mut options = dry_run(flags.on.dry_run.mode);
    if let Some(seconds) = grace_period(flags.force, flags.grace_period) {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let server = Server::find(context).await?;
    each(context, machines(&flags.on.machines)?, async |name| {
        let waits = flags.waiting.wait && flags.on.dry_run.mode == DryRun::None;
        let before = if waits { instance(&server, &name).await? } else { None };
        machine(&server, &name, MachineAction::Restart, &options).await?;
        match before {
            Some(before) => wait_for_next(&server, &name, flags.waiting.timeout, &before).await,
            None => Ok(()),
        }
    })
    .await
}

/// `ferrovirt pause`, `unpause`, `reset` and `soft-reboot`
pub async fn instances(
    context: &Context,
    flags: &InstanceFlags,
    action: InstanceAction,
) -> Result<ExitCode, Failure> {
    let names = targets::machines(&flags.machines).map_err(Failure::usage)?;
    let options = dry_run(flags.dry_run.mode);
    let server = Server::find(context).await?;
    let word = action.word();
    each(context, names, async |(_, name)| {
        let path = INSTANCES.subresource_path(&server.namespace, &name, action.subresource());
        let what = || format!("cannot {word} {}", INSTANCES.object(Some(&server.namespace), &name));
        put(&server, &path, &options).await.map_err(|error| {
            let hint = error.is_not_found().then(|| there(&INSTANCES, Some(&server.namespace)));
            error.failure(what(), hint)
        })?;
        print(&format!("VMI {name} was scheduled to {word}\n"))
    })
    .await
}

/// Names of VirtualMachines; an instance is not what these commands are for.
fn machines(words: &[String]) -> Result<Vec<String>, Failure> {
    let found = targets::machines(words).map_err(Failure::usage)?;
    if let Some((_, name)) = found.iter().find(|(kind, _)| *kind == Some(MachineKind::Instance)) {
        return Err(Failure::usage(format!(
            "`vmi/{name}` is an instance; this is for its VirtualMachine: vm/{name}"
        )));
    }
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// The grace period that is asked for: with force none at all, unless a time is given.
fn grace_period(force: bool, seconds: Option<u32>) -> Option<u32> {
    seconds.or_else(|| force.then_some(0))
}

fn dry_run(dry_run: DryRun) -> Value {
    match dry_run {
        DryRun::None => json!({}),
        DryRun::Server => json!({"dryRun": ["All"]}),
    }
}

async fn put(server: &Server, path: &str, options: &Value) -> Result<(), RequestError> {
    let body = Some((JSON, options.to_string().into_bytes()));
    server.call(request(Method::PUT, path, "*/*", body)?).await.map(drop)
}

async fn machine(server: &Server, name: &str, action: MachineAction, options: &Value) -> Result<(), Failure> {
    let word = match action {
        MachineAction::Start => "start",
        MachineAction::Stop => "stop",
        MachineAction::Restart => "restart",
    };
    let namespace = Some(server.namespace.as_str());
    let path = MACHINES.subresource_path(&server.namespace, name, word);
    put(server, &path, options).await.map_err(|error| {
        let hint = match &error {
            error if error.is_not_found() => Some(there(&MACHINES, namespace)),
            RequestError::Refused(refusal) => way_out(action, &refusal.message, name, &server.namespace),
            RequestError::Failed(_) => None,
        };
        error.failure(format!("cannot {word} {}", MACHINES.object(namespace, name)), hint)
    })?;
    print(&format!("VM {name} was scheduled to {word}\n"))
}

/// What leads on from a refusal, where another command does.
fn way_out(action: MachineAction, message: &str, name: &str, namespace: &str) -> Option<String> {
    match action {
        MachineAction::Start if message.contains("already running") => {
            Some(format!("boot it anew: ferrovirt restart {name} -n {namespace}"))
        }
        MachineAction::Restart if message.contains("is not running") || message.contains("Halted") => {
            Some(format!("start it: ferrovirt start {name} -n {namespace}"))
        }
        MachineAction::Stop if message.contains("shorter graceperiod") => {
            Some(format!("end it at once: ferrovirt stop {name} -n {namespace} --force"))
        }
        _ => None,
    }
}

/// The machine's instance, if there is one.
async fn instance(server: &Server, name: &str) -> Result<Option<Value>, Failure> {
    let namespace = Some(server.namespace.as_str());
    match server.get(&INSTANCES.path(namespace, Some(name)), JSON).await {
        Ok(instance) => Ok(Some(instance)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(super::get::not_got(error, &INSTANCES, namespace, name)),
    }
}

/// Waits for a printable status, and until what was asked for is done with: until then the next request is refused.
async fn wait_for_status(
    server: &Server,
    name: &str,
    bound: Option<Duration>,
    wanted: &str,
) -> Result<(), Failure> {
    let object = MACHINES.object(Some(&server.namespace), name);
    let deadline = Deadline::after(bound);
    let mut last = String::new();
    let mut is_under_way = false;
    let reached = server.follow(&MACHINES, Some(&server.namespace), name, deadline, |machine| {
        let Some(machine) = machine else { return Some(false) };
        let status = text(machine, "/status/printableStatus");
        status.clone_into(&mut last);
        let requests = machine.pointer("/status/stateChangeRequests").and_then(Value::as_array);
        is_under_way = requests.is_some_and(|requests| !requests.is_empty());
        (status == wanted && !is_under_way).then_some(true)
    });
    match reached.await.map_err(|error| error.failure(format!("cannot wait for {object}"), None))? {
        Some(true) => Ok(()),
        Some(false) => Err(Failure::refused(anyhow::anyhow!("{object} was deleted meanwhile"), None)),
        None => Err(deadline.missed(&match last.as_str() {
            "" => format!("{object} to be `{wanted}`; it has no status yet"),
            last if last == wanted && is_under_way => {
                format!("{object} to be `{wanted}`; it is, and has a request that is not carried out yet")
            }
            last => format!("{object} to be `{wanted}`; it is `{last}`"),
        })),
    }
}

/// Waits until another instance than `before` runs, and tells the kernels of both.
async fn wait_for_next(
    server: &Server,
    name: &str,
    bound: Option<Duration>,
    before: &Value,
) -> Result<(), Failure> {
    let object = MACHINES.object(Some(&server.namespace), name);
    let deadline = Deadline::after(bound);
    let mut last = String::new();
    let old = text(before, "/metadata/uid");
    let found = server.follow(&INSTANCES, Some(&server.namespace), name, deadline, |instance| {
        let instance = instance.filter(|instance| text(instance, "/metadata/uid") != old)?;
        let phase = text(instance, "/status/phase");
        phase.clone_into(&mut last);
        matches!(phase, "Running" | "Succeeded" | "Failed").then(|| instance.clone())
    });
    let found = found.await.map_err(|error| error.failure(format!("cannot wait for {object}"), None))?;
    let after = found.ok_or_else(|| {
        deadline.missed(&match last.as_str() {
            "" => format!("a new instance of {object}"),
            phase => format!("the new instance of {object} to run; its phase is `{phase}`"),
        })
    })?;
    if text(&after, "/status/phase") == "Failed" {
        let hint = format!("see why: ferrovirt logs {name} -n {}", server.namespace);
        let error = anyhow::anyhow!("the new instance of {object} has failed");
        return Err(Failure::refused(error, Some(hint)));
    }
    print(&kernels(kernel_version(before), kernel_version(&after)))
}

/// The release of the kernel that an instance booted, where the server says it.
fn kernel_version(instance: &Value) -> Option<&str> {
    instance["metadata"]["annotations"][keys::KERNEL_VERSION].as_str()
}

/// What a restart did to the kernel.
fn kernels(old: Option<&str>, new: Option<&str>) -> String {
    match (old, new) {
        (Some(old), Some(new)) if old == new => format!("kernel {new} (as before)\n"),
        (Some(old), Some(new)) => format!("kernel {old} → {new}\n"),
        (None, Some(new)) => format!("kernel {new}\n"),
        (_, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_restart_tells_both_kernels() {
        assert_eq!(kernels(Some("6.1"), Some("6.2")), "kernel 6.1 → 6.2\n");
        assert_eq!(kernels(Some("6.1"), Some("6.1")), "kernel 6.1 (as before)\n");
        assert_eq!(kernels(None, Some("6.1")), "kernel 6.1\n");
        assert_eq!(kernels(Some("6.1"), None), "");
    }

    #[test]
    fn force_is_no_grace_and_a_time_is_that_time() {
        assert_eq!(grace_period(false, None), None);
        assert_eq!(grace_period(true, None), Some(0));
        assert_eq!(grace_period(true, Some(5)), Some(5));
    }

    #[test]
    fn refusals_lead_to_another_command() {
        let hint = |action, message: &str| way_out(action, message, "a", "n");
        let restart = hint(MachineAction::Start, "VM is already running");
        assert_eq!(restart.unwrap(), "boot it anew: ferrovirt restart a -n n");
        let start =
            hint(MachineAction::Restart, "RunStategy Halted does not support manual restart requests");
        assert_eq!(start.unwrap(), "start it: ferrovirt start a -n n");
        assert_eq!(hint(MachineAction::Stop, "VM is not running"), None);
    }

    #[test]
    fn an_instance_is_not_started() {
        let failure = machines(&["vmi/a".to_owned()]).unwrap_err();
        assert_eq!(failure.code, ExitCode::Usage);
        assert!(failure.error.to_string().ends_with("vm/a"), "{failure:?}");
    }
}
