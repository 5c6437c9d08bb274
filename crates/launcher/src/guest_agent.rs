//! The agent in a guest: QEMU's guest agent, on the port that every guest has for it.
//!
//! ```text
//!  a program in the guest opens the port ─► QEMU's event ─► follow ─► connect, guest-info ─► told: it is there
//!                                                             │  again and again: what has changed
//!  control API ─► call ────────── one at a time ──────────────┴────► channel ─► QEMU's socket ─► port
//! ```
//!
//! An agent is there once it has answered, and until its port is closed. What changes on its own is asked for again after
//! [`POLL`], as KubeVirt does, and what it measures with it; the rest when somebody wants to know it.
//!
//! The guest may answer anything, late or never. What is kept of an answer is bounded (`channel`, `facts`), and so is the
//! time that one is waited for.

mod channel;
mod facts;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use manifest::guest_agent::{GuestAgentInfo, GuestFileSystem, GuestUser};
use manifest::machine_status::GuestAgent;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::agent_report::{AgentReport, Reporter};
use crate::qemu_socket;
use crate::session::Progress;
pub(crate) use channel::AgentError;
use channel::Channel;
use facts::Answers;
pub(crate) use facts::{CommandEnd, line};

/// How long an agent may take for an answer, libvirt's default for KubeVirt's launcher.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// How long it may take to freeze or thaw file systems: it writes them out before.
const FREEZE_LIMIT: Duration = Duration::from_secs(30);

/// The longest that one request of the control API keeps an agent: several commands of [`ANSWER_LIMIT`].
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(45);

/// How often a guest is asked for its system and interfaces: after the first of these times, doubled up to the second
/// (KubeVirt's `qemu-agent-sys-interval`, and the initial interval of its poller).
const POLL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(120));

/// The same while its file systems are frozen (`qemu-agent-fsfreeze-status-interval`).
const FROZEN_POLL: Duration = Duration::from_secs(5);

/// Pauses between attempts to have the first answer: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Pauses between looks at a command that runs: the first, and the longest.
const EXEC_POLL: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The way to the agent of one guest. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Agent(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// While the port is open.
    channel: Mutex<Option<Channel<UnixStream>>>,
    /// Thaws what was frozen for a time.
    thaw: std::sync::Mutex<Option<AbortHandle>>,
    /// There is something new to be asked for.
    has_news: Notify,
}

impl Agent {
    /// The way to an agent that answers on `stream`.
    #[cfg(test)]
    pub(crate) async fn connected(stream: UnixStream) -> Self {
        let agent = Self::default();
        *agent.0.channel.lock().await = Some(Channel::new(stream));
        agent
    }

    /// What the guest is: everything that KubeVirt tells of it. What the agent refuses is left out, as most of it while
    /// file systems are frozen.
    pub(crate) async fn info(&self) -> Result<GuestAgentInfo, AgentError> {
        let answers = Answers {
            info: self.call("guest-info", Value::Null).await?,
            host_name: self.ask("guest-get-host-name").await?,
            os: self.ask("guest-get-osinfo").await?,
            timezone: self.ask("guest-get-timezone").await?,
            users: self.ask("guest-get-users").await?,
            file_systems: self.ask("guest-get-fsinfo").await?,
            freeze_status: self.ask("guest-fsfreeze-status").await?,
        };
        Ok(facts::info(&answers))
    }

    /// Who is logged in.
    pub(crate) async fn users(&self) -> Result<Vec<GuestUser>, AgentError> {
        Ok(facts::users(&self.call("guest-get-users", Value::Null).await?))
    }

    /// The mounted file systems.
    pub(crate) async fn file_systems(&self) -> Result<Vec<GuestFileSystem>, AgentError> {
        Ok(facts::file_systems(&self.call("guest-get-fsinfo", Value::Null).await?))
    }

    /// Holds the file systems still, for `thaw_after` at most unless that is zero. What is frozen already stays so.
    pub(crate) async fn freeze(&self, thaw_after: Duration) -> Result<(), AgentError> {
        if !self.is_frozen().await? {
            self.call_within("guest-fsfreeze-freeze", Value::Null, FREEZE_LIMIT).await?;
        }
        let thaw = (!thaw_after.is_zero()).then(|| {
            let agent = self.clone();
            let task = tokio::spawn(async move {
                sleep(thaw_after).await;
                if let Err(error) = agent.thaw().await {
                    tracing::warn!(%error, ?thaw_after, "the guest's file systems are not thawed in time");
                }
            });
            task.abort_handle()
        });
        self.set_thaw(thaw);
        self.0.has_news.notify_one();
        Ok(())
    }

    /// Lets them go on.
    pub(crate) async fn unfreeze(&self) -> Result<(), AgentError> {
        self.thaw().await?;
        self.set_thaw(None);
        Ok(())
    }

    async fn thaw(&self) -> Result<(), AgentError> {
        self.call_within("guest-fsfreeze-thaw", Value::Null, FREEZE_LIMIT).await?;
        self.0.has_news.notify_one();
        Ok(())
    }

    /// Puts another task into the place of the one that would thaw.
    fn set_thaw(&self, task: Option<AbortHandle>) {
        let mut thaw = self.0.thaw.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(before) = std::mem::replace(&mut *thaw, task) {
            before.abort();
        }
    }

    /// Has the guest restart.
    pub(crate) async fn reboot(&self) -> Result<(), AgentError> {
        let mut channel = self.0.channel.lock().await;
        let channel = channel.as_mut().ok_or(AgentError::Missing)?;
        channel.tell("guest-shutdown", json!({"mode": "reboot"}), ANSWER_LIMIT).await
    }

    /// Asks whether it answers.
    pub(crate) async fn ping(&self) -> Result<(), AgentError> {
        self.call("guest-ping", Value::Null).await.map(drop)
    }

    /// Runs a program with arguments in the guest, and waits for its end however long that takes. Given up, it runs on:
    /// an agent ends nothing.
    pub(crate) async fn exec(&self, command: &[String]) -> Result<CommandEnd, AgentError> {
        let (path, arguments) = command.split_first().unzip();
        let arguments = json!({"path": path, "arg": arguments, "capture-output": true});
        let started = self.call("guest-exec", arguments).await?;
        let mut pause = EXEC_POLL.0;
        loop {
            let status = self.call("guest-exec-status", json!({"pid": started["pid"]})).await?;
            if status["exited"] == true {
                return Ok(facts::command_end(&status));
            }
            sleep(pause).await;
            pause = EXEC_POLL.1.min(pause * 2);
        }
    }

    async fn is_frozen(&self) -> Result<bool, AgentError> {
        Ok(self.call("guest-fsfreeze-status", Value::Null).await? == "frozen")
    }

    /// What the agent answers; `Null` where it refuses.
    async fn ask(&self, command: &'static str) -> Result<Value, AgentError> {
        match self.call(command, Value::Null).await {
            Err(AgentError::Refused { .. }) => Ok(Value::Null),
            answer => answer,
        }
    }

    async fn call(&self, command: &'static str, arguments: Value) -> Result<Value, AgentError> {
        self.call_within(command, arguments, ANSWER_LIMIT).await
    }

    async fn call_within(
        &self,
        command: &'static str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, AgentError> {
        let mut channel = self.0.channel.lock().await;
        channel.as_mut().ok_or(AgentError::Missing)?.call(command, arguments, limit).await
    }

    /// Follows the agent that QEMU serves on `socket` for as long as the machine runs, and tells what it says.
    pub(crate) async fn follow(
        self,
        socket: PathBuf,
        mut progress: watch::Receiver<Progress>,
        told: watch::Sender<Option<GuestAgent>>,
        mut reporter: Reporter,
    ) {
        let is_open = |progress: &Progress| progress.is_agent_port_open;
        while progress.wait_for(is_open).await.is_ok() {
            tokio::select! {
                // An error is the end of the session, which the loop sees too.
                _ = progress.wait_for(|progress| !progress.is_agent_port_open) => {}
                () = self.listen(&socket, &told, &mut reporter) => {}
            }
            told.send_if_modified(|told| told.take().is_some());
            reporter.forget();
            self.set_thaw(None);
            // Waits for whoever is asking, and gets no answer any more.
            *self.0.channel.lock().await = None;
        }
    }

    /// Asks an agent whose port is open, again and again.
    async fn listen(&self, socket: &Path, told: &watch::Sender<Option<GuestAgent>>, reporter: &mut Reporter) {
        let mut pause = RETRY.0;
        while let Err(error) = self.connect(socket).await {
            tracing::warn!(%error, "QEMU does not let anybody to the guest's agent");
            sleep(pause).await;
            pause = RETRY.1.min(pause * 2);
        }
        pause = RETRY.0;
        let mut longest = RETRY.1;
        loop {
            match self.look(told, reporter).await {
                Ok(is_first) => {
                    let is_frozen = told.borrow().as_ref().is_some_and(|agent| agent.is_frozen);
                    longest = if is_frozen { FROZEN_POLL } else { POLL.1 };
                    pause = if is_first { POLL.0 } else { pause };
                }
                Err(error) => tracing::debug!(%error, "the guest's agent is asked again later"),
            }
            tokio::select! {
                () = sleep(pause.min(longest)) => pause = longest.min(pause * 2),
                () = self.0.has_news.notified() => {}
            }
        }
    }

    async fn connect(&self, socket: &Path) -> std::io::Result<()> {
        let stream = qemu_socket::connect(socket).await?;
        *self.0.channel.lock().await = Some(Channel::new(stream));
        Ok(())
    }

    /// Asks once for what is told, and tells; whether it is the first that is heard of this agent.
    async fn look(
        &self,
        told: &watch::Sender<Option<GuestAgent>>,
        reporter: &mut Reporter,
    ) -> Result<bool, AgentError> {
        let info = self.call("guest-info", Value::Null).await?;
        let is_frozen = self.ask("guest-fsfreeze-status").await? == "frozen";
        let os = self.ask("guest-get-osinfo").await?;
        let interfaces = self.ask("guest-network-get-interfaces").await?;
        let mut agent = facts::status(&info, &os, &interfaces, is_frozen);
        let before = told.borrow().clone();
        if let Some(before) = before.as_ref().filter(|_| is_frozen) {
            // While it is frozen it tells of nothing else.
            (agent.os, agent.interfaces) = (before.os.clone(), before.interfaces.clone());
            agent.is_unsupported = before.is_unsupported;
        }
        let agent = Some(agent);
        if before != agent {
            told.send_replace(agent);
        }
        // While it is frozen it measures nothing either.
        if !is_frozen {
            match self.measure(&info).await {
                Ok(report) => reporter.tell(report),
                Err(error) => tracing::debug!(%error, "the guest's agent has measured nothing"),
            }
        }
        Ok(before.is_none())
    }

    /// Has an agent measure what it can, by its own `info`.
    async fn measure(&self, info: &Value) -> Result<AgentReport, AgentError> {
        let file_systems = self.ask("guest-get-fsinfo").await?;
        let load =
            if facts::can(info, "guest-get-load") { self.ask("guest-get-load").await? } else { Value::Null };
        Ok(facts::report(&file_systems, &load))
    }
}
