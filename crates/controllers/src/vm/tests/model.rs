//! Random lives of a machine against a small world: one place for an instance, a node that moves it along, and users.
//!
//! The world applies what was decided as the reconciler does; every answer of the pure functions comes from them.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

use super::super::decision::{Action, Manner, Stage, decide};
use super::super::requests::{self, Change, RestartOptions, StartOptions, StopOptions, Target};
use super::super::status::{self, Outcome};
use super::super::strategy::Strategy;
use super::super::{build, claim, instance};
use super::*;

/// What can happen around a controller.
#[derive(Debug, Clone)]
enum Event {
    Strategy(&'static str),
    Start {
        paused: bool,
    },
    Stop,
    Restart,
    /// The instance gets as far as its node brings it, or to that end.
    Advance,
    End(&'static str),
    DeleteInstance,
    DeleteMachine,
    /// The controller looks.
    Look,
    /// The controller looks, acts, and is killed before it writes the status.
    LookAndDie,
    Wait(i64),
}

fn events() -> impl proptest::strategy::Strategy<Value = Event> {
    prop_oneof![
        2 => proptest::sample::select(&STRATEGIES[..5]).prop_map(Event::Strategy),
        2 => any::<bool>().prop_map(|paused| Event::Start { paused }),
        2 => Just(Event::Stop),
        2 => Just(Event::Restart),
        6 => Just(Event::Advance),
        3 => proptest::sample::select(&["Succeeded", "Failed"][..]).prop_map(Event::End),
        1 => Just(Event::DeleteInstance),
        1 => Just(Event::DeleteMachine),
        12 => Just(Event::Look),
        2 => Just(Event::LookAndDie),
        2 => (1..400_i64).prop_map(Event::Wait),
    ]
}

struct World {
    /// `None` once it is gone.
    machine: Option<VirtualMachine>,
    instance: Option<VirtualMachineInstance>,
    made: u32,
    ended: BTreeSet<String>,
    now: Timestamp,
}

impl World {
    fn new(strategy: &str) -> Self {
        Self { machine: Some(machine(strategy)), instance: None, made: 0, ended: BTreeSet::new(), now: now() }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Strategy(word) => {
                if let Some(machine) = &mut self.machine {
                    machine.spec.run_strategy = Some((*word).to_owned());
                    machine.metadata.generation =
                        machine.metadata.generation.map(|generation| generation + 1);
                }
            }
            Event::Start { paused } => {
                let options = StartOptions { paused: *paused, ..StartOptions::default() };
                self.request(|machine, instance| requests::start(machine, instance, &options));
            }
            Event::Stop => {
                self.request(|machine, instance| requests::stop(machine, instance, &StopOptions::default()));
            }
            Event::Restart => self.request(|machine, instance| {
                requests::restart(machine, instance, &RestartOptions::default())
            }),
            Event::Advance => self.advance(),
            Event::End(phase) => self.end(phase),
            Event::DeleteInstance => self.delete_instance(),
            Event::DeleteMachine => {
                if let Some(machine) = &mut self.machine {
                    machine.metadata.deletion_timestamp.get_or_insert(Time(self.now));
                }
            }
            Event::Look => self.look(true),
            Event::LookAndDie => self.look(false),
            Event::Wait(seconds) => self.now += jiff::SignedDuration::from_secs(*seconds),
        }
        self.collect();
    }

    fn request(
        &mut self,
        ask: impl Fn(&VirtualMachine, Option<&VirtualMachineInstance>) -> Result<Vec<Change>, requests::Refusal>,
    ) {
        let Some(machine) = &mut self.machine else { return };
        let Ok(changes) = ask(machine, self.instance.as_ref()) else { return };
        for change in changes {
            match change.target {
                Target::Instance => panic!("nobody asked for another grace period"),
                Target::Machine | Target::MachineStatus => *machine = patched(machine, &change.patch),
            }
        }
    }

    fn set_phase(&mut self, phase: &str) {
        let Some(instance) = &mut self.instance else { return };
        let status = instance.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.phase_transition_timestamps.push(VirtualMachineInstancePhaseTransitionTimestamp {
            phase: Some(phase.to_owned()),
            phase_transition_timestamp: Some(Time(self.now)),
        });
    }

    fn advance(&mut self) {
        let Some(instance) = &self.instance else { return };
        let next = match instance::phase(instance) {
            _ if instance::is_deleting(instance) => "Failed",
            "Pending" => "Scheduling",
            "Scheduling" => "Scheduled",
            "Scheduled" => "Running",
            _ => return,
        };
        if instance::is_deleting(instance) { self.end(next) } else { self.set_phase(next) }
    }

    fn end(&mut self, phase: &str) {
        if let Some(instance) = &self.instance
            && !instance::is_final(instance)
        {
            assert!(self.ended.insert(instance::uid(instance).to_owned()), "it ended twice");
            self.set_phase(phase);
        }
    }

    fn delete_instance(&mut self) {
        if let Some(instance) = &mut self.instance {
            instance.metadata.deletion_timestamp.get_or_insert(Time(self.now));
        }
    }

    /// What the API server and the instance's controller do: objects that are deleted and held by nobody vanish.
    fn collect(&mut self) {
        let is_held = |instance: &VirtualMachineInstance| {
            !instance::is_final(instance) || build::has_finalizer(&instance.metadata)
        };
        if self
            .instance
            .as_ref()
            .is_some_and(|instance| instance::is_deleting(instance) && !is_held(instance))
        {
            self.instance = None;
        }
        let gone = |machine: &VirtualMachine| {
            machine.metadata.deletion_timestamp.is_some() && !build::has_finalizer(&machine.metadata)
        };
        if self.machine.as_ref().is_some_and(gone) {
            self.machine = None;
        }
    }

    /// What the reconciler does, in its order.
    fn look(&mut self, writes_status: bool) {
        let Some(mut machine) = self.machine.take() else { return };
        if let Some(found) = &self.instance {
            assert_eq!(claim::claim(&machine, found), claim::Claim::Own);
        }
        if machine.metadata.deletion_timestamp.is_some() {
            if self.instance.is_none() {
                machine.metadata.finalizers = None;
                self.machine = Some(machine);
                return;
            }
        } else if let Some(patch) = build::preparation(&machine) {
            let mut object = serde_json::to_value(&machine).unwrap();
            json_patch::merge(&mut object, &patch);
            machine = serde_json::from_value(object).unwrap();
        }
        let decision = decide(&machine, self.instance.as_ref(), self.now, 1);
        let mut is_settled = true;
        let mut is_stopping = false;
        match &decision.action {
            Action::Create(manner) => self.create(&machine, *manner),
            Action::CreateAfter(wait) => {
                assert!(wait.as_secs() <= 300);
                is_settled = false;
            }
            Action::SwitchOn => {
                self.machine = Some(patched(&machine, &requests::switch(&machine, true).patch));
                return;
            }
            Action::Delete | Action::DeleteAndStart => is_stopping = true,
            Action::Nothing => {}
            Action::Restore(_) | Action::Fail(_) => panic!("{}", decision.action),
        }
        let status = status::next(
            &machine,
            &Outcome {
                instance: self.instance.as_ref(),
                requests: &decision.requests,
                start_failure: decision.start_failure.as_ref(),
                is_stopping,
                is_settled,
                failure: None,
                restart_required: None,
                now: Time(self.now),
            },
        );
        if !writes_status {
            self.machine = Some(machine);
            return;
        }
        machine.status = Some(status);
        if is_stopping {
            self.delete_instance();
        }
        if let Some(instance) = self.instance.as_mut().filter(|instance| instance::is_final(instance)) {
            instance.metadata.finalizers = None;
        }
        self.machine = Some(machine);
    }

    fn create(&mut self, machine: &VirtualMachine, manner: Manner) {
        assert!(self.instance.is_none(), "a second instance is made");
        assert!(machine.metadata.deletion_timestamp.is_none(), "a machine that is deleted is started");
        self.made += 1;
        let mut instance = build::instance(machine, manner, None);
        instance.metadata.uid = Some(format!("instance-{}", self.made));
        self.instance = Some(instance);
        self.set_phase("Pending");
    }

    /// Looks and lets the node work until nothing changes any more; waits where the controller does.
    fn settle(&mut self) {
        for _ in 0..200 {
            let before = (self.machine.clone(), self.instance.clone());
            self.happen(&Event::Look);
            self.happen(&Event::Advance);
            if before == (self.machine.clone(), self.instance.clone()) {
                let waits = self.machine.as_ref().is_some_and(|machine| {
                    let decision = decide(machine, self.instance.as_ref(), self.now, 1);
                    matches!(decision.action, Action::CreateAfter(_))
                });
                if !waits {
                    return;
                }
                self.happen(&Event::Wait(301));
            }
        }
        panic!("the world does not come to rest: {:?} {:?}", self.machine, self.instance);
    }

    fn stage(&self) -> Stage {
        Stage::of(self.instance.as_ref())
    }

    fn word(&self) -> String {
        self.machine.clone().unwrap().status.unwrap().printable_status.unwrap()
    }
}

/// `machine` with the patch as the server applies it.
fn patched(machine: &VirtualMachine, patch: &json_patch::Patch) -> VirtualMachine {
    let mut object = serde_json::to_value(machine).unwrap();
    for operation in &patch.0 {
        if let json_patch::PatchOperation::Test(test) = operation {
            let found = object.pointer(test.path.as_str()).unwrap_or(&serde_json::Value::Null);
            assert_eq!(found, &test.value, "{patch}");
        } else {
            json_patch::patch(&mut object, std::slice::from_ref(operation)).unwrap();
        }
    }
    serde_json::from_value(object).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happened before, each strategy gets what it asks for.
    #[test]
    fn every_history_ends_as_the_strategy_says(
        first in proptest::sample::select(&STRATEGIES[..5]),
        history in vec(events(), 0..40),
        last in proptest::sample::select(&STRATEGIES[..5]),
    ) {
        let mut world = World::new(first);
        for event in &history {
            world.happen(event);
        }
        world.happen(&Event::Strategy(last));
        world.settle();
        let is_deleted = world.machine.as_ref().is_none_or(|machine| machine.metadata.deletion_timestamp.is_some());
        if is_deleted {
            prop_assert!(world.machine.is_none(), "the machine is deleted and still there");
            prop_assert!(world.instance.is_none(), "the instance outlives its machine");
            return Ok(());
        }
        let machine = world.machine.clone().unwrap();
        let status = machine.status.clone().unwrap();
        prop_assert!(build::has_finalizer(&machine.metadata));
        // A paused start may have switched a halted machine on.
        let strategy = Strategy::of(&machine.spec);
        match strategy {
            Strategy::Always => prop_assert_eq!((world.stage(), world.word()), (Stage::Live, "Running".to_owned())),
            Strategy::Halted => prop_assert_eq!((world.stage(), world.word()), (Stage::Absent, "Stopped".to_owned())),
            Strategy::Once => prop_assert!(world.stage() != Stage::Absent),
            Strategy::RerunOnFailure => prop_assert!(matches!(world.stage(), Stage::Live | Stage::Absent)),
            _ => {}
        }
        prop_assert_eq!(status.created, world.instance.as_ref().map(|_| true));
        // No request is left that could still do something.
        let left = status.state_change_requests.clone();
        prop_assert!(left.is_empty() || (strategy == Strategy::Manual && left == [start()]) ||
            (strategy == Strategy::Manual && left == [start_paused()]) || strategy == Strategy::Once, "{left:?}");

        if world.stage() == Stage::Live && strategy != Strategy::Halted {
            let uid = instance::uid(world.instance.as_ref().unwrap()).to_owned();
            // A restart makes exactly one other; Once refuses it.
            let made = world.made;
            world.happen(&Event::Restart);
            world.settle();
            if strategy == Strategy::Once {
                prop_assert_eq!(world.made, made);
            } else {
                prop_assert_eq!((world.stage(), world.made), (Stage::Live, made + 1));
                prop_assert!(instance::uid(world.instance.as_ref().unwrap()) != uid);
            }
            // A stop ends it, and it stays ended.
            world.happen(&Event::Stop);
            world.settle();
            prop_assert!(world.stage() != Stage::Live);
            let made = world.made;
            world.settle();
            prop_assert_eq!(world.made, made);
            // A start brings it back.
            world.happen(&Event::Start { paused: true });
            world.settle();
            prop_assert_eq!(world.stage(), Stage::Live, "{:?}", world.machine);
            let how = world.instance.as_ref().unwrap().spec.start_strategy.clone();
            prop_assert_eq!(how.as_deref(), Some("Paused"));
        }
        world.happen(&Event::DeleteMachine);
        world.settle();
        prop_assert!(world.machine.is_none() && world.instance.is_none());
    }
}
