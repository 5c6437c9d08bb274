//! What is to be done for one Pod, as a function of what the API server says of it, what runs and what is there.
//!
//! ```text
//!              volumes Due ─► LayOut ─► There ─► Start
//!  Live   ── Absent ──────────────────────────────┐
//!                                                 ▼
//!                                    Starting ─► Listening ── Report (running)
//!  Deleting, Final, Gone, Unhealthy ── Terminate ─► Told ── overdue: Kill ─► Killed
//!                                                 ▼
//!                                     Ended ── Report (terminal) ─► DeletePod ─► Gone ─► Remove
//! ```
//!
//! Guarantees, whatever happens in whatever order: a Pod's launcher is started once at most; a Pod is not deleted, and its
//! directory not removed, while its launcher lives; a launcher whose Pod is to end is told first and killed when its time
//! is over; what ran is reported before its Pod is deleted by the node.

/// What the API server says of the Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Api {
    /// It shall run.
    Live,
    /// It shall end.
    Deleting,
    /// It has ended; its object stays.
    Final,
    /// It has ended, and its object may go.
    FinalDeleting,
    /// It is not there any more.
    Gone,
}

/// What of the Pod is on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Launcher {
    /// Nothing.
    Absent,
    /// A process lives that cannot be named yet, since an earlier daemon ended while it started.
    Nameless,
    /// It runs and cannot be asked yet; too long already, if overdue.
    Starting {
        /// Its time is over.
        overdue: bool,
    },
    /// It can be asked.
    Listening,
    /// It can be asked, and its guest has failed its liveness probe.
    Unhealthy,
    /// It was told to end.
    Told {
        /// Its time is over.
        overdue: bool,
    },
    /// It was killed, and is still seen.
    Killed,
    /// It has ended; its directory is there.
    Ended,
}

/// Whether a Pod without a launcher may have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Start {
    /// It is no launcher's.
    Unsupported,
    /// It ran here before, by its status.
    Lost,
    /// Its volumes are to be laid out.
    Due,
    /// They could not be, and it is not yet time for the next attempt.
    Waiting,
    /// They are there.
    Ready,
    /// It could not be started, and never will be.
    Failed,
}

/// Whether the Pod's status says what is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    /// It does.
    Right,
    /// It does not.
    Stale,
}

/// Everything that a decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub api: Api,
    pub launcher: Launcher,
    pub start: Start,
    pub status: Status,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing, until something changes.
    Wait,
    /// Lay out the volumes.
    LayOut,
    /// Make the directory and start the launcher.
    Start,
    /// Write the Pod's status.
    Report,
    /// Tell the launcher to end.
    Terminate,
    /// Kill it.
    Kill,
    /// Delete the Pod's object.
    DeletePod,
    /// Keep its logs and remove its directory.
    Remove,
    /// Forget the Pod.
    Forget,
}

/// Decides.
pub(super) fn decide(facts: Facts) -> Action {
    match (facts.api, facts.launcher) {
        // Who is it? Until that is known nothing can be done to it.
        (_, Launcher::Nameless) => Action::Wait,
        (_, Launcher::Told { overdue: true }) => Action::Kill,
        (_, Launcher::Told { overdue: false } | Launcher::Killed) => Action::Wait,

        (Api::Live, Launcher::Absent) => match (facts.start, facts.status) {
            (Start::Due, _) => Action::LayOut,
            (Start::Ready, _) => Action::Start,
            (_, Status::Stale) => Action::Report,
            (_, Status::Right) => Action::Wait,
        },
        (Api::Live, Launcher::Starting { overdue: true }) => Action::Kill,
        (Api::Live, Launcher::Starting { overdue: false }) => Action::Wait,
        (Api::Live, Launcher::Listening | Launcher::Ended) => match facts.status {
            Status::Stale => Action::Report,
            Status::Right => Action::Wait,
        },

        (_, Launcher::Starting { .. } | Launcher::Listening | Launcher::Unhealthy) => Action::Terminate,

        (Api::Deleting, Launcher::Absent) => Action::DeletePod,
        // The terminal status makes it final.
        (Api::Deleting, Launcher::Ended) => Action::Report,
        (Api::Final, Launcher::Absent | Launcher::Ended) => Action::Wait,
        (Api::FinalDeleting, Launcher::Absent | Launcher::Ended) => Action::DeletePod,
        (Api::Gone, Launcher::Ended) => Action::Remove,
        (Api::Gone, Launcher::Absent) => Action::Forget,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    const APIS: [Api; 5] = [Api::Live, Api::Deleting, Api::Final, Api::FinalDeleting, Api::Gone];
    const LAUNCHERS: [Launcher; 10] = [
        Launcher::Absent,
        Launcher::Nameless,
        Launcher::Starting { overdue: false },
        Launcher::Starting { overdue: true },
        Launcher::Listening,
        Launcher::Unhealthy,
        Launcher::Told { overdue: false },
        Launcher::Told { overdue: true },
        Launcher::Killed,
        Launcher::Ended,
    ];
    const STARTS: [Start; 6] =
        [Start::Unsupported, Start::Lost, Start::Due, Start::Waiting, Start::Ready, Start::Failed];

    /// The whole table, one line for each state; what does not depend on a column says `*` in it.
    #[test]
    fn the_table() {
        let mut table = String::new();
        for api in APIS {
            for launcher in LAUNCHERS {
                let mut lines: Vec<(String, [Action; 2])> = Vec::new();
                for start in STARTS {
                    let both = [Status::Right, Status::Stale]
                        .map(|status| decide(Facts { api, launcher, start, status }));
                    lines.push((format!("{start:?}"), both));
                }
                if lines.iter().all(|(_, both)| *both == lines[0].1) {
                    lines.truncate(1);
                    lines[0].0 = "*".to_owned();
                }
                for (start, [right, stale]) in lines {
                    let action = if right == stale {
                        format!("{right:?}")
                    } else {
                        format!("{stale:?}, then {right:?}")
                    };
                    let launcher = format!("{launcher:?}");
                    writeln!(table, "{:14} {launcher:27} {start:12} {action}", format!("{api:?}")).unwrap();
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    /// A Pod, its launcher and an API server, as far as decisions are concerned.
    #[derive(Debug, Clone)]
    struct World {
        api: Api,
        launcher: Launcher,
        start: Start,
        status: Status,
        starts: u32,
        reported_end: bool,
        forgotten: bool,
    }

    impl World {
        fn lives(&self) -> bool {
            !matches!(self.launcher, Launcher::Absent | Launcher::Ended)
        }

        fn act(&mut self, action: Action) {
            match action {
                Action::Wait => {}
                Action::LayOut => self.start = Start::Ready,
                Action::Start => {
                    self.starts += 1;
                    self.launcher = Launcher::Starting { overdue: false };
                }
                Action::Report => {
                    self.status = Status::Right;
                    self.reported_end |= self.launcher == Launcher::Ended;
                    let is_end = self.launcher == Launcher::Ended
                        || self.launcher == Launcher::Absent
                            && matches!(self.start, Start::Unsupported | Start::Lost | Start::Failed);
                    self.api = match self.api {
                        Api::Live if is_end => Api::Final,
                        Api::Deleting if is_end => Api::FinalDeleting,
                        other => other,
                    };
                }
                Action::Terminate => self.launcher = Launcher::Told { overdue: false },
                Action::Kill => self.launcher = Launcher::Killed,
                Action::DeletePod => {
                    assert!(!self.lives(), "deleted while it lives: {self:?}");
                    assert!(self.starts == 0 || self.reported_end, "not reported: {self:?}");
                    self.api = Api::Gone;
                }
                Action::Remove => {
                    assert!(!self.lives(), "removed while it lives: {self:?}");
                    self.launcher = Launcher::Absent;
                }
                Action::Forget => {
                    assert_eq!((self.api, self.launcher), (Api::Gone, Launcher::Absent));
                    self.forgotten = true;
                }
            }
            assert!(self.starts <= 1, "started twice: {self:?}");
        }

        fn facts(&self) -> Facts {
            Facts { api: self.api, launcher: self.launcher, start: self.start, status: self.status }
        }

        /// What may happen from outside; what cannot happen in this state changes nothing.
        fn happen(&mut self, event: u8) {
            match event {
                0 if self.api == Api::Live => self.api = Api::Deleting,
                0 if self.api == Api::Final => self.api = Api::FinalDeleting,
                1 => self.api = Api::Gone,
                2 if matches!(self.launcher, Launcher::Starting { .. }) => {
                    self.launcher = Launcher::Listening;
                    self.status = Status::Stale;
                }
                3 if self.lives() => {
                    self.launcher = Launcher::Ended;
                    self.status = Status::Stale;
                }
                4 => match &mut self.launcher {
                    Launcher::Starting { overdue } | Launcher::Told { overdue } => *overdue = true,
                    _ => {}
                },
                5 if self.start == Start::Ready && self.launcher == Launcher::Absent && self.starts == 0 => {
                    self.start = Start::Waiting;
                    self.status = Status::Stale;
                }
                6 if self.start == Start::Waiting => self.start = Start::Due,
                7 if self.launcher == Launcher::Listening => self.status = Status::Stale,
                8 if self.launcher == Launcher::Listening => self.launcher = Launcher::Unhealthy,
                _ => {}
            }
        }
    }

    proptest! {
        #[test]
        fn every_order_of_events_ends_well(
            start in prop::sample::select(vec![Start::Unsupported, Start::Lost, Start::Due]),
            events in prop::collection::vec((0u8..9, 0usize..3), 0..60),
        ) {
            let mut world = World {
                api: Api::Live, launcher: Launcher::Absent, start, status: Status::Stale,
                starts: 0, reported_end: false, forgotten: false,
            };
            for (event, actions) in events {
                world.happen(event);
                for _ in 0..actions {
                    world.act(decide(world.facts()));
                }
                if world.forgotten {
                    return Ok(());
                }
            }
            // From here on the Pod is to end, and the process ends once it is killed.
            world.happen(0);
            for _ in 0..20 {
                if world.forgotten {
                    break;
                }
                world.act(decide(world.facts()));
                if world.launcher == Launcher::Killed {
                    world.happen(3);
                }
                world.happen(4);
            }
            prop_assert!(world.forgotten, "{world:?}");
        }
    }
}
