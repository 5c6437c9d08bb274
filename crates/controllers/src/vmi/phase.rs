//! The phases of an instance, and which one follows.
//!
//! ```text
//!  Pending ──Pod──► Scheduling ──ready──► Scheduled ──machine──► Running ──► Succeeded
//!     │ └─► WaitingForSync ─┤                   │                   │
//!     └──────────────────┴──┴───────────────────┴───────────────────┴──────► Failed
//! ```
//!
//! What is observed may be several steps ahead (a guest that ended at once, a controller that was away): then the
//! phases in between are entered all the same, so that every instance has gone along these arrows and no others.

use manifest::machine_status::{MachineState, MachineStatus, StateReason};

use super::view::Stage;

/// A phase that the controller knows how to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Pending,
    WaitingForSync,
    Scheduling,
    Scheduled,
    Running,
    Succeeded,
    Failed,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::WaitingForSync => "WaitingForSync",
            Self::Scheduling => "Scheduling",
            Self::Scheduled => "Scheduled",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// The phase of that name; none for those that other controllers use.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [
            Self::Pending,
            Self::WaitingForSync,
            Self::Scheduling,
            Self::Scheduled,
            Self::Running,
            Self::Succeeded,
            Self::Failed,
        ];
        if name.is_empty() {
            return Some(Self::Pending);
        }
        all.into_iter().find(|phase| phase.as_str() == name)
    }

    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// What the phase depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    /// How far the Pod is; none when there is no Pod.
    pub pod: Option<Stage>,
    /// What is known last of the machine.
    pub machine: Option<&'a MachineStatus>,
    /// The instance is to be filled by a machine that migrates here.
    pub is_receiver: bool,
    /// The instance is being deleted.
    pub deleting: bool,
    /// The guest had a chance to end by itself, so having been killed is a failure: it has ACPI and a grace period.
    pub had_a_chance: bool,
}

/// The phases that are entered from `phase` on, in order; none when nothing changes.
pub(super) fn steps(phase: Phase, facts: &Facts<'_>) -> Vec<Phase> {
    let mut entered = Vec::new();
    let mut at = phase;
    while let Some(next) = next(at, facts) {
        entered.push(next);
        at = next;
    }
    entered
}

/// The next phase. It is always later in the order of [`Phase`].
fn next(phase: Phase, facts: &Facts<'_>) -> Option<Phase> {
    let state = facts.machine.map_or(MachineState::None, |machine| machine.state);
    let is_gone = matches!(facts.pod, None | Some(Stage::Ended));
    match phase {
        // A receiver gets its Pod from who migrates.
        Phase::Pending | Phase::WaitingForSync => match facts.pod {
            Some(_) => Some(Phase::Scheduling),
            None if facts.deleting => Some(Phase::Failed),
            None => (facts.is_receiver && phase == Phase::Pending).then_some(Phase::WaitingForSync),
        },
        Phase::Scheduling if facts.pod == Some(Stage::Ready) || state != MachineState::None => {
            Some(Phase::Scheduled)
        }
        Phase::Scheduling => is_gone.then_some(Phase::Failed),
        Phase::Scheduled if matches!(state, MachineState::Running | MachineState::Paused) && !is_gone => {
            Some(Phase::Running)
        }
        Phase::Scheduled if state.is_final() && has_run(facts.machine) => Some(Phase::Running),
        Phase::Scheduled | Phase::Running if state.is_final() => {
            facts.machine.map(|machine| ending(machine, facts))
        }
        Phase::Scheduled | Phase::Running => is_gone.then_some(Phase::Failed),
        Phase::Succeeded | Phase::Failed => None,
    }
}

/// Whether the machine that has ended was there at all.
fn has_run(machine: Option<&MachineStatus>) -> bool {
    machine.is_some_and(|machine| machine.timeline.vmm_ready.is_some())
}

/// What a machine's end means.
fn ending(machine: &MachineStatus, facts: &Facts<'_>) -> Phase {
    match (machine.state, machine.reason) {
        (MachineState::Crashed, _) | (_, StateReason::Crashed | StateReason::Panicked) => Phase::Failed,
        (_, StateReason::Destroyed) if facts.had_a_chance => Phase::Failed,
        _ => Phase::Succeeded,
    }
}

#[cfg(test)]
mod tests {
    use manifest::machine_status::BootTimeline;
    use proptest::prelude::*;

    use super::*;

    const STATES: [(MachineState, StateReason); 13] = [
        (MachineState::None, StateReason::None),
        (MachineState::Running, StateReason::None),
        (MachineState::Paused, StateReason::User),
        (MachineState::Paused, StateReason::IoError),
        (MachineState::ShutOff, StateReason::None),
        (MachineState::ShutOff, StateReason::Shutdown),
        (MachineState::ShutOff, StateReason::Destroyed),
        (MachineState::ShutOff, StateReason::Panicked),
        (MachineState::ShutOff, StateReason::Crashed),
        (MachineState::Crashed, StateReason::None),
        (MachineState::Crashed, StateReason::Destroyed),
        (MachineState::Crashed, StateReason::Panicked),
        (MachineState::Crashed, StateReason::Crashed),
    ];

    const PODS: [Option<Stage>; 4] = [None, Some(Stage::Waiting), Some(Stage::Ready), Some(Stage::Ended)];

    fn machine(state: MachineState, reason: StateReason, has_run: bool) -> MachineStatus {
        let timeline = BootTimeline { vmm_ready: has_run.then_some(1), ..BootTimeline::default() };
        MachineStatus { state, reason, timeline, ..MachineStatus::default() }
    }

    /// The whole table: every phase, Pod, machine and the rest, and the phases that are entered.
    #[test]
    fn the_table_of_phases() {
        let mut table = String::new();
        for phase in [Phase::Pending, Phase::Scheduling, Phase::Scheduled, Phase::Running] {
            for pod in PODS {
                for deleting in [false, true] {
                    for (state, reason) in STATES {
                        for had_a_chance in [true, false] {
                            let machine = machine(state, reason, state != MachineState::None);
                            let facts = Facts {
                                pod,
                                machine: Some(&machine),
                                is_receiver: false,
                                deleting,
                                had_a_chance,
                            };
                            let entered: Vec<_> =
                                steps(phase, &facts).into_iter().map(Phase::as_str).collect();
                            let pod =
                                pod.map_or("absent".to_owned(), |pod| format!("{pod:?}").to_lowercase());
                            table.push_str(&format!(
                                "{:<10} pod {pod:<7} machine {:<18} {:<9} {:<8} -> {}\n",
                                phase.as_str(),
                                format!("{state:?}/{reason:?}"),
                                if deleting { "deleting" } else { "" },
                                if had_a_chance { "" } else { "no grace" },
                                if entered.is_empty() { "stays".to_owned() } else { entered.join(", ") },
                            ));
                        }
                    }
                }
            }
        }
        insta::assert_snapshot!("phases", table);
    }

    #[test]
    fn a_machine_that_never_ran_never_was_running() {
        let machine = machine(MachineState::Crashed, StateReason::Crashed, false);
        let facts = Facts {
            pod: Some(Stage::Ended),
            machine: Some(&machine),
            is_receiver: false,
            deleting: false,
            had_a_chance: true,
        };
        assert_eq!(steps(Phase::Scheduling, &facts), [Phase::Scheduled, Phase::Failed]);
    }

    #[test]
    fn a_receiver_waits_without_a_pod() {
        let facts =
            |pod, deleting| Facts { pod, machine: None, is_receiver: true, deleting, had_a_chance: true };
        let table = [
            (Phase::Pending, None, false, vec![Phase::WaitingForSync]),
            (Phase::Pending, None, true, vec![Phase::Failed]),
            (Phase::WaitingForSync, None, false, vec![]),
            (Phase::WaitingForSync, None, true, vec![Phase::Failed]),
            (Phase::WaitingForSync, Some(Stage::Waiting), false, vec![Phase::Scheduling]),
        ];
        for (phase, pod, deleting, entered) in table {
            assert_eq!(steps(phase, &facts(pod, deleting)), entered, "{phase:?} {pod:?} {deleting}");
        }
    }

    #[test]
    fn names_are_read_back() {
        for name in ["Pending", "WaitingForSync", "Scheduling", "Scheduled", "Running", "Succeeded", "Failed"]
        {
            assert_eq!(Phase::parse(name).map(Phase::as_str), Some(name));
        }
        assert_eq!(Phase::parse(""), Some(Phase::Pending));
        assert_eq!(Phase::parse("Unknown"), None);
    }

    /// The arrows of the picture above.
    const ARROWS: [(Phase, Phase); 12] = [
        (Phase::Pending, Phase::WaitingForSync),
        (Phase::WaitingForSync, Phase::Scheduling),
        (Phase::WaitingForSync, Phase::Failed),
        (Phase::Pending, Phase::Scheduling),
        (Phase::Pending, Phase::Failed),
        (Phase::Scheduling, Phase::Scheduled),
        (Phase::Scheduling, Phase::Failed),
        (Phase::Scheduled, Phase::Running),
        (Phase::Scheduled, Phase::Succeeded),
        (Phase::Scheduled, Phase::Failed),
        (Phase::Running, Phase::Succeeded),
        (Phase::Running, Phase::Failed),
    ];

    proptest! {
        /// Whatever is observed in whatever order, phases go along the arrows, and an instance without a Pod whose
        /// deletion has begun ends.
        #[test]
        fn phases_go_along_the_arrows(
            observations in prop::collection::vec(
                (0..PODS.len(), prop::option::of((0..STATES.len(), any::<bool>())), any::<bool>(), any::<bool>()),
                1..12,
            ),
            is_receiver in any::<bool>(),
        ) {
            let mut phase = Phase::Pending;
            let mut deleting = false;
            for (pod, state, delete, had_a_chance) in observations {
                deleting |= delete;
                let machine = state.map(|(index, has_run)| machine(STATES[index].0, STATES[index].1, has_run));
                let facts =
                    Facts { pod: PODS[pod], machine: machine.as_ref(), is_receiver, deleting, had_a_chance };
                for next in steps(phase, &facts) {
                    prop_assert!(ARROWS.contains(&(phase, next)), "{phase:?} -> {next:?} on {facts:?}");
                    phase = next;
                }
            }
            let facts =
                Facts { pod: None, machine: None, is_receiver, deleting: true, had_a_chance: true };
            let end = steps(phase, &facts).last().copied().unwrap_or(phase);
            prop_assert!(end.is_final(), "{end:?}");
        }
    }
}
