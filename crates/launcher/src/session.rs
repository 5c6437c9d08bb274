//! One guest from its first instruction to a verdict.
//!
//! ```text
//!                      ┌──────────────────────────── Session::run ───────────────────────────┐
//!  console (QEMU) ────►│ log file, scanner ──► findings ─┐                                   │
//!                      │        └──► output channel      ├──► first verdict ──► quit QEMU ──►│ Outcome
//!  VM events (QMP) ───►│ panicked, shut down, exited ────┤                                   │
//!  deadline, requests ►│ timed out, interrupted ─────────┘                                   │
//!                      └─────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! One task owns everything, so there is no question of who saw what first. The first cause decides the verdict; what
//! comes after it (the rest of a panic's report, QEMU's exit) only completes the outcome. One exception: what the guest
//! printed before it powered off may be read after QEMU has told of the power-off, so a finding on the console still
//! replaces that verdict.
//!
//! A command (`run`) and a launcher differ in [`Rules`]: for a command the first sign of failure ends the run, while a
//! launcher follows KubeVirt, where a machine lives until it ends by itself or is ended. A panic then is a fact that is
//! told, unless the machine has a panic device and so crashes by it.
//!
//! # Guarantees
//! QEMU is gone when [`Session::run`] returns. A reader that stalls the output channel slows the guest down (as a full
//! pipe would) but stops neither the deadline nor a request to end, also when the guest has ended by itself.
//!
//! # Caveats
//! Logs are written in place: a log on a disk or pipe that stalls stalls the session.

mod steering;
mod verdict;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use vmm::{
    ConsoleReader, ConsoleWriter, ExitReport, GuestReboot, Origin, PauseReason, PowerOff, ShutdownReason, Vm,
    VmEvent,
};

use crate::console::{Finding, Pattern, Scanner};
use crate::console_log::ConsoleLog;
use crate::cri_log::CriLog;
use crate::memory::{self, Process};
use crate::timeline::Timeline;
pub(crate) use steering::answer;
pub use steering::{OnPanic, Order, PanicReport, PowerButton, Progress, Reply, Rules, Steering};
use verdict::verdict_of_exit;
pub use verdict::{EndRequest, Outcome, Verdict};

/// Bytes taken from the console at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// After a panic or another failure is seen, how long its report may still come in: long enough for the registers and
/// the trace, short enough to call the verdict immediate.
const REPORT_GRACE: Duration = Duration::from_millis(400);

/// The same after the panic device has stopped the guest.
const BUFFERED_GRACE: Duration = Duration::from_millis(50);

/// How long QEMU has to end after it was told to, before it is killed.
const QUIT_GRACE: Duration = Duration::from_secs(2);

/// How long the output may take to be read once the run is over for another reason than the guest's own end.
pub const FLUSH_GRACE: Duration = Duration::from_secs(1);

/// An unfinished console line is judged when nothing has followed for this long: it is a prompt then, and not the first
/// half of a line.
const PROMPT_QUIET: Duration = Duration::from_millis(50);

/// SeaBIOS starts over by resets of its own: each restart of a q35 machine is one to three `RESET` events, the last of
/// them 0.1 s after the first on an idle host. No Linux comes up and restarts in this time without telling its version.
const FIRMWARE_RESETS: Duration = Duration::from_secs(2);

/// How often the power button is pressed until the guest obeys, as KubeVirt does it.
const PRESS_INTERVAL: Duration = Duration::from_secs(5);

/// How long QEMU may take for one command before the session goes on; a healthy one answers within
/// milliseconds, and one that has a small share of a busy host within a second or two.
const COMMAND_LIMIT: Duration = Duration::from_secs(4);

/// How often QEMU's peak memory is looked at.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

/// What ends a run, apart from the guest itself.
#[derive(Debug, Default)]
pub struct Conditions {
    /// Whose rules apply.
    pub rules: Rules,
    /// End as a success when the console matches.
    pub until: Option<Pattern>,
    /// End as a failure when the console matches.
    pub fail_on: Vec<Pattern>,
    /// End at this time.
    pub deadline: Option<Instant>,
}

/// A file that gets every console byte.
#[derive(Debug)]
pub enum Log {
    /// The bytes as they are.
    Plain(ConsoleLog),
    /// Lines with their times, for `kubectl logs`.
    Cri(CriLog),
}

/// What a [`Session`] is made of.
#[derive(Debug)]
pub struct Connections<'a> {
    /// The started VM.
    pub vm: Vm,
    /// What the guest writes.
    pub console: ConsoleReader,
    /// Files that get every console byte.
    pub logs: Vec<Log>,
    /// Receives every console byte, in order. When its receiver is dropped, the run goes on unheard.
    pub output: mpsc::Sender<Vec<u8>>,
    /// Requests to end the run.
    pub requests: &'a mut mpsc::Receiver<EndRequest>,
    /// For a launcher.
    pub steering: Option<Steering<'a>>,
}

/// A started guest and what it is connected to.
#[derive(Debug)]
pub struct Session<'a> {
    connections: Connections<'a>,
    scanner: Scanner,
    rules: Rules,
    deadline: Option<Instant>,
    began: Instant,
    progress: Progress,
    /// Whether `progress` is to be told.
    is_news: bool,
    /// A panic whose report is still coming in, and when it is taken to be complete.
    panic: Option<(PanicReport, Instant)>,
    /// Whether the panic of this boot was noticed.
    has_panicked: bool,
    /// When the machine was restarted last.
    restarted_at: Option<Instant>,
    soft_reboot: SoftReboot,
    /// When the power button is pressed next.
    press_at: Option<Instant>,
    /// When the machine is killed.
    kill_at: Option<Instant>,
    booted_version: Option<String>,
    qemu_peak_bytes: Option<u64>,
    verdict: Option<Verdict>,
    /// When the report behind a verdict is taken to be complete.
    report_until: Option<Instant>,
    /// When the console's unfinished line counts as a prompt.
    prompt_at: Option<Instant>,
    /// Why a log is no longer written; the run goes on.
    log_fault: Option<String>,
}

/// How far a session has come.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// The guest runs.
    Following,
    /// The guest has ended by itself; what it printed is still on its way.
    GuestEnded,
    /// The run ends for another reason; what the guest printed is passed on until then.
    Ending(Instant),
}

/// How far [`Order::SoftReboot`] is. A guest may take any time to power off, or restart by itself meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum SoftReboot {
    #[default]
    Unasked,
    /// The guest's next power-off is a restart.
    Asked,
    /// The guest has powered off, and its machine is being reset.
    Restarting,
}

/// What a step of the loop leads to.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    GoOn,
    /// End QEMU, then pass on what is left.
    End,
    /// QEMU has ended.
    Exited(ExitReport),
    /// Pass on nothing more.
    Leave,
}

impl<'a> Session<'a> {
    /// A session over a VM that was just started. `began` is when the run began and `timeline` what is known of it.
    pub fn new(
        connections: Connections<'a>,
        conditions: Conditions,
        began: Instant,
        timeline: Timeline,
    ) -> Session<'a> {
        Session {
            connections,
            scanner: Scanner::new(conditions.until, conditions.fail_on),
            rules: conditions.rules,
            deadline: conditions.deadline,
            began,
            progress: Progress { timeline, ..Progress::default() },
            is_news: true,
            panic: None,
            has_panicked: false,
            restarted_at: None,
            soft_reboot: SoftReboot::default(),
            press_at: None,
            kill_at: None,
            booted_version: None,
            qemu_peak_bytes: None,
            verdict: None,
            report_until: None,
            prompt_at: None,
            log_fault: None,
        }
    }

    /// The same over a VM that waits for [`Order::Unpause`] before its first instruction.
    pub fn paused(mut self) -> Session<'a> {
        self.progress.paused = Some(PauseReason::Requested);
        self
    }

    /// Follows the guest to its end.
    pub async fn run(mut self) -> Outcome {
        let exit = self.follow().await;
        self.settle_logs();
        self.complete_panic();
        let verdict = self.verdict.take().unwrap_or_else(|| verdict_of_exit(exit.as_ref()));
        Outcome {
            verdict,
            timeline: self.progress.timeline,
            console_tail: self.scanner.tail(),
            booted_version: self.booted_version,
            reboots: self.progress.reboots,
            qemu_peak_bytes: self.qemu_peak_bytes,
            at_line_start: self.scanner.at_line_start(),
            log_fault: self.log_fault,
            panic: self.progress.panic,
        }
    }

    /// Until QEMU is gone and everything that it left is passed on, or given up.
    async fn follow(&mut self) -> Option<ExitReport> {
        let mut buffer = vec![0u8; CHUNK_BYTES];
        let mut console_open = true;
        let output = self.connections.output.clone();
        // Taken from the console and not yet from us: a full output channel must not stop the other arms.
        let mut pending: Option<Vec<u8>> = None;
        let mut memory_tick = interval(MEMORY_INTERVAL);
        memory_tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stage = Stage::Following;
        let mut exit = None;
        loop {
            self.tell_progress();
            if stage != Stage::Following && !console_open && pending.is_none() {
                return exit;
            }
            let stop_at = match &stage {
                Stage::Following => self.report_until.or(self.deadline),
                Stage::GuestEnded => self.deadline.map(|deadline| deadline.max(Instant::now())),
                Stage::Ending(until) => Some(*until),
            };
            let panic_until = self.panic.as_ref().map(|(_, until)| *until);
            let step = tokio::select! {
                permit = output.reserve(), if pending.is_some() => {
                    // Without a receiver the bytes go nowhere; whoever dropped it has asked for an end.
                    if let (Ok(permit), Some(piece)) = (permit, pending.take()) {
                        permit.send(piece);
                    }
                    Step::GoOn
                }
                read = self.connections.console.read(&mut buffer), if console_open && pending.is_none() => match read {
                    // QEMU closed its end; its exit follows as an event.
                    Ok(0) | Err(_) => {
                        console_open = false;
                        let findings = self.scanner.settle();
                        self.take_findings(findings)
                    }
                    Ok(count) => {
                        let step = self.take_console(&buffer[..count]);
                        pending = Some(buffer[..count].to_vec());
                        step
                    }
                },
                event = self.connections.vm.next_event(), if stage == Stage::Following => match event {
                    Some(VmEvent::Exited(exit)) => Step::Exited(exit),
                    Some(event) => self.take_event(event).await,
                    None => Step::End,
                },
                Some(request) = self.connections.requests.recv() => {
                    self.decide(Verdict::Ended(request));
                    if stage == Stage::Following { Step::End } else { Step::Leave }
                }
                Some(order) = next_order(&mut self.connections.steering) => match stage {
                    Stage::Following => self.obey(order).await,
                    _ => {
                        order.refuse("the machine has ended");
                        Step::GoOn
                    }
                },
                () = wait_until(self.press_at), if self.press_at.is_some() && stage == Stage::Following => {
                    self.press_power_button().await;
                    Step::GoOn
                }
                () = wait_until(self.kill_at), if self.kill_at.is_some() && stage == Stage::Following => {
                    self.decide(Verdict::Destroyed);
                    Step::End
                }
                () = wait_until(panic_until), if panic_until.is_some() => {
                    self.complete_panic();
                    Step::GoOn
                }
                () = wait_until(stop_at), if stop_at.is_some() => {
                    self.decide(Verdict::TimedOut);
                    if stage == Stage::Following { Step::End } else { Step::Leave }
                }
                () = wait_until(self.prompt_at), if self.prompt_at.is_some() => {
                    self.prompt_at = None;
                    self.settle_logs();
                    let findings = self.scanner.settle();
                    self.take_findings(findings)
                }
                _ = memory_tick.tick() => {
                    self.sample_memory();
                    Step::GoOn
                }
            };
            match (step, &stage) {
                (Step::GoOn, _) | (Step::End, Stage::GuestEnded | Stage::Ending(_)) => {}
                (Step::Exited(report), _) => {
                    self.progress.timeline.ended.get_or_insert(self.began.elapsed());
                    exit = Some(report);
                    stage = Stage::GuestEnded;
                }
                (Step::End, Stage::Following) => {
                    self.progress.timeline.ended.get_or_insert(self.began.elapsed());
                    self.sample_memory();
                    exit = self.connections.vm.terminate(QUIT_GRACE).await;
                    stage = Stage::Ending(Instant::now() + FLUSH_GRACE);
                }
                (Step::Leave, _) => return exit,
            }
        }
    }

    /// The first verdict stays, but for a power-off: what the console says was said before it.
    fn decide(&mut self, verdict: Verdict) {
        let from_console = matches!(
            verdict,
            Verdict::UntilMatched { .. } | Verdict::FailMatched { .. } | Verdict::Panicked { line: Some(_) }
        );
        let replaceable = match self.verdict {
            None => true,
            Some(Verdict::PoweredOff | Verdict::Rebooted) => from_console,
            Some(_) => false,
        };
        if replaceable {
            self.progress.timeline.ended.get_or_insert(self.began.elapsed());
            self.verdict = Some(verdict);
        }
    }

    /// Decides, and leaves the guest a moment to finish its report.
    fn decide_with_report(&mut self, verdict: Verdict) {
        self.decide(verdict);
        self.report_until.get_or_insert(Instant::now() + REPORT_GRACE);
    }

    fn take_console(&mut self, bytes: &[u8]) -> Step {
        if self.progress.timeline.first_output.is_none() {
            self.progress.timeline.first_output = Some(self.began.elapsed());
            self.is_news = true;
        }
        for log in &mut self.connections.logs {
            match log {
                Log::Plain(log) => {
                    if let Err(error) = log.write(bytes)
                        && self.log_fault.is_none()
                    {
                        self.log_fault =
                            Some(format!("cannot write the console log `{}`: {error}", log.path().display()));
                    }
                }
                Log::Cri(log) => log.write(bytes),
            }
        }
        let findings = self.scanner.feed(bytes);
        self.prompt_at = self.scanner.has_open_line().then(|| Instant::now() + PROMPT_QUIET);
        self.take_findings(findings)
    }

    fn take_findings(&mut self, findings: Vec<Finding>) -> Step {
        let now = self.began.elapsed();
        let mut step = Step::GoOn;
        for finding in findings {
            match finding {
                Finding::KernelStarted(version) => {
                    self.progress.timeline.kernel_started.get_or_insert(now);
                    self.booted_version = Some(version);
                    self.is_news = true;
                }
                Finding::UserspaceStarted => {
                    self.progress.timeline.userspace_started.get_or_insert(now);
                    self.is_news = true;
                }
                Finding::Panic(line) if self.rules != Rules::Command => self.note_panic(Some(line)),
                Finding::PanicReportEnded if self.rules != Rules::Command => self.complete_panic(),
                Finding::Until(line) => {
                    self.decide(Verdict::UntilMatched { line });
                    step = Step::End;
                }
                Finding::Panic(line) => match &mut self.verdict {
                    // The device was faster than the console: the line explains its report.
                    Some(Verdict::Panicked { line: unknown @ None }) => *unknown = Some(line),
                    _ => self.decide_with_report(Verdict::Panicked { line: Some(line) }),
                },
                Finding::Fail { pattern, line } => {
                    self.decide_with_report(Verdict::FailMatched { pattern, line });
                }
                Finding::PanicReportEnded => {
                    if self.verdict.is_some() {
                        step = Step::End;
                    }
                }
            }
        }
        step
    }

    async fn take_event(&mut self, event: VmEvent) -> Step {
        match event {
            VmEvent::GuestPanicked { .. } => {
                if let Rules::Launcher { panic, .. } = self.rules {
                    self.note_panic(None);
                    if panic == OnPanic::Tell {
                        return Step::GoOn;
                    }
                }
                self.decide(Verdict::Panicked { line: None });
                // The virtual CPUs stand still: only what QEMU holds already can follow.
                let buffered = Instant::now() + BUFFERED_GRACE;
                self.report_until = earliest(self.report_until, Some(buffered));
            }
            VmEvent::GuestReset { origin, .. } => {
                let since = self.restarted_at.map(|at| at.elapsed());
                if is_firmware_reset(origin, since, self.progress.timeline.kernel_started) {
                    return Step::GoOn;
                }
                self.restarted_at = Some(Instant::now());
                self.progress.reboots = self.progress.reboots.saturating_add(1);
                self.complete_panic();
                self.has_panicked = false;
                self.is_news = true;
                // A new boot of the same kernel: its marks are the ones that count.
                self.progress.timeline.kernel_started = None;
                self.progress.timeline.userspace_started = None;
                if let Err(reason) = self.complete_soft_reboot().await {
                    let reason = format!("QEMU does not let the machine go on after a restart: {reason}");
                    self.decide(Verdict::VmmFailed { reason });
                    return Step::End;
                }
            }
            VmEvent::GuestShutdown { reason: ShutdownReason::GuestShutdown, .. }
                if self.soft_reboot == SoftReboot::Asked =>
            {
                self.soft_reboot = SoftReboot::Restarting;
                if let Err(reason) = limited(self.connections.vm.reset()).await {
                    let reason = format!("QEMU does not reset a machine that has powered off: {reason}");
                    self.decide(Verdict::VmmFailed { reason });
                    return Step::End;
                }
            }
            VmEvent::GuestShutdown { reason, .. } => {
                self.sample_memory();
                self.decide(match reason {
                    ShutdownReason::GuestShutdown => Verdict::PoweredOff,
                    ShutdownReason::GuestReset => Verdict::Rebooted,
                    ShutdownReason::GuestPanic => Verdict::Panicked { line: None },
                    ShutdownReason::HostQuit | ShutdownReason::HostReset => {
                        Verdict::VmmFailed { reason: "QEMU was told to quit by somebody else".to_owned() }
                    }
                    ShutdownReason::HostSignal => {
                        Verdict::VmmFailed { reason: "QEMU was ended by a signal".to_owned() }
                    }
                    ShutdownReason::Other(name) => {
                        Verdict::VmmFailed { reason: format!("QEMU shut down for the reason `{name}`") }
                    }
                });
            }
            VmEvent::ControlLost { reason } => {
                self.decide(Verdict::VmmFailed { reason: format!("QEMU's monitor is gone: {reason}") });
                return Step::End;
            }
            // On the way from the power-off to the reset.
            VmEvent::Paused { .. } if self.soft_reboot == SoftReboot::Restarting => {}
            VmEvent::Paused { reason } => self.set_paused(Some(reason)),
            VmEvent::Resumed => self.set_paused(None),
            VmEvent::AgentPort { is_open } => {
                self.is_news |= self.progress.is_agent_port_open != is_open;
                self.progress.is_agent_port_open = is_open;
            }
            VmEvent::WatchdogFired { action } => tracing::info!(action, "the guest neglected its watchdog"),
            VmEvent::Other { name, data } => tracing::debug!(name, %data, "QEMU event"),
            VmEvent::Exited(_) => {}
        }
        Step::GoOn
    }

    /// Does what a launcher is told.
    async fn obey(&mut self, order: Order) -> Step {
        let vm = &self.connections.vm;
        match order {
            Order::Shutdown { grace, reply } => {
                answer(reply, Ok(()));
                if grace.is_zero() || self.has_no_button() {
                    self.decide(Verdict::Destroyed);
                    return Step::End;
                }
                if self.soft_reboot == SoftReboot::Asked
                    && let Err(reason) = self.complete_soft_reboot().await
                {
                    tracing::warn!(%reason, "a restart cannot be called off; the machine will be killed");
                }
                // A time beyond the clock's range never comes.
                self.kill_at = earliest(self.kill_at, Instant::now().checked_add(grace));
                self.press_at.get_or_insert_with(Instant::now);
            }
            Order::Pause(reply) => {
                let outcome = limited(vm.pause()).await;
                if outcome.is_ok() {
                    self.set_paused(Some(PauseReason::Requested));
                }
                answer_told(self, reply, outcome);
            }
            Order::Unpause(reply) => {
                let outcome = limited(vm.resume()).await;
                if outcome.is_ok() {
                    self.set_paused(None);
                }
                answer_told(self, reply, outcome);
            }
            Order::Reset(reply) => answer(reply, limited(vm.reset()).await),
            Order::SoftReboot(reply) => answer(reply, self.soft_reboot().await),
            Order::Picture { move_cursor, reply } => {
                // The picture is what is wanted, with a mouse or without.
                if move_cursor && let Err(reason) = limited(vm.nudge_mouse()).await {
                    tracing::debug!(%reason, "the mouse cannot be moved");
                }
                answer(reply, limited(vm.picture()).await);
            }
        }
        Step::GoOn
    }

    fn has_no_button(&self) -> bool {
        matches!(self.rules, Rules::Launcher { power_button: PowerButton::Absent, .. })
    }

    /// Presses the power button for a restart. QEMU knows no such button: it is told to hold the machine when the guest
    /// powers off, and then to reset it. Where a reboot ends the machine the power-off does so, too.
    async fn soft_reboot(&mut self) -> Result<(), String> {
        if self.has_no_button() {
            return Err("the machine has no power button: `features.acpi.enabled` is false".to_owned());
        }
        if self.kill_at.is_some() {
            return Err("the machine is being shut down".to_owned());
        }
        let vm = &self.connections.vm;
        if let Rules::Launcher { reboot: GuestReboot::Restart, .. } = self.rules {
            limited(vm.on_power_off(PowerOff::Holds)).await?;
            self.soft_reboot = SoftReboot::Asked;
        }
        limited(vm.powerdown()).await
    }

    /// After a restart: the next power-off is an end again, and what stood still for the restart goes on.
    async fn complete_soft_reboot(&mut self) -> Result<(), String> {
        let vm = &self.connections.vm;
        let until_here = std::mem::take(&mut self.soft_reboot);
        if until_here != SoftReboot::Unasked {
            limited(vm.on_power_off(PowerOff::Ends)).await?;
        }
        if until_here == SoftReboot::Restarting {
            limited(vm.resume()).await?;
        }
        Ok(())
    }

    async fn press_power_button(&mut self) {
        self.press_at = Some(Instant::now() + PRESS_INTERVAL);
        if let Err(reason) = limited(self.connections.vm.powerdown()).await {
            tracing::warn!(%reason, "the power button could not be pressed");
        }
    }

    fn set_paused(&mut self, paused: Option<PauseReason>) {
        self.is_news |= self.progress.paused != paused;
        self.progress.paused = paused;
    }

    /// Remembers a panic, the first of a boot; what follows it on the console belongs to its report.
    fn note_panic(&mut self, line: Option<String>) {
        if let Some((report, _)) = &mut self.panic {
            if report.line.is_none() {
                report.line = line;
            }
        } else if !self.has_panicked {
            self.has_panicked = true;
            let report = PanicReport { at: self.began.elapsed(), line, tail: Vec::new() };
            self.panic = Some((report, Instant::now() + REPORT_GRACE));
        }
    }

    fn complete_panic(&mut self) {
        if let Some((report, _)) = self.panic.take() {
            self.progress.panic = Some(PanicReport { tail: self.scanner.tail(), ..report });
            self.is_news = true;
        }
    }

    fn settle_logs(&mut self) {
        for log in &mut self.connections.logs {
            if let Log::Cri(log) = log {
                log.settle();
            }
        }
    }

    fn tell_progress(&mut self) {
        if std::mem::take(&mut self.is_news)
            && let Some(steering) = &self.connections.steering
        {
            steering.progress.send_replace(self.progress.clone());
        }
    }

    fn sample_memory(&mut self) {
        let peak = memory::peak_bytes(Process::Id(self.connections.vm.process_id()));
        self.qemu_peak_bytes = peak.max(self.qemu_peak_bytes);
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    [one, other].into_iter().flatten().min()
}

/// Whether a reset is the firmware's, `since` a restart, and so belongs to it.
fn is_firmware_reset(origin: Origin, since: Option<Duration>, kernel_started: Option<Duration>) -> bool {
    origin == Origin::Guest && kernel_started.is_none() && since.is_some_and(|since| since < FIRMWARE_RESETS)
}

/// Answers after what was done has been told, so that who asked finds it in the status.
fn answer_told(session: &mut Session<'_>, reply: Reply, outcome: Result<(), String>) {
    session.tell_progress();
    answer(reply, outcome);
}

/// A command to QEMU, which must not keep the session.
async fn limited<T, E: std::error::Error>(command: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match timeout(COMMAND_LIMIT, command).await {
        Ok(outcome) => outcome.map_err(|error| match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        }),
        Err(_) => Err(format!("QEMU has not answered within {COMMAND_LIMIT:?}")),
    }
}

/// The next order; never without steering, or when nobody can steer any more.
async fn next_order(steering: &mut Option<Steering<'_>>) -> Option<Order> {
    match steering {
        Some(steering) => steering.orders.recv().await,
        None => None,
    }
}

async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Passes `input` on to the guest until either end closes. Runs beside [`Session::run`].
pub async fn forward_input(mut input: mpsc::Receiver<Vec<u8>>, mut console: ConsoleWriter) {
    while let Some(bytes) = input.recv().await {
        // The guest's end of the pipe closes with QEMU; there is nobody to type to then.
        if console.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // The input has ended and the guest has not: its console must stay open, since QEMU would see a hang-up.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_of_the_firmware_are_no_restarts() {
        let soon = Some(Duration::from_millis(100));
        assert!(is_firmware_reset(Origin::Guest, soon, None));
        assert!(!is_firmware_reset(Origin::Guest, None, None), "the first");
        assert!(!is_firmware_reset(Origin::Guest, Some(FIRMWARE_RESETS), None), "a guest that tells nothing");
        assert!(!is_firmware_reset(Origin::Guest, soon, soon), "a kernel that fails at once");
        assert!(!is_firmware_reset(Origin::Host, soon, None), "the reset button");
    }
}
