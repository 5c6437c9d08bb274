//! Random lives: whatever Pods and launchers do and whenever controllers end, instances go along the arrows of their
//! phases, say each phase once, and go when they are deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use manifest::machine_status::{MachineState, StateReason};
use manifest::types::VirtualMachineInstance;
use serde_json::json;

use super::world::{World, phase_of, phases_of, until};

const INSTANCES: usize = 6;

/// What happens, at the least; and until each of the phases was seen, at the most. How much of it meets a machine that runs
/// depends on how fast controllers are.
const STEPS: (usize, usize) = (300, 6000);

/// Phases of an instance, all of which are to be seen.
const PHASES: usize = 6;

const ARROWS: [(&str, &str); 9] = [
    ("Pending", "Scheduling"),
    ("Pending", "Failed"),
    ("Scheduling", "Scheduled"),
    ("Scheduling", "Failed"),
    ("Scheduled", "Running"),
    ("Scheduled", "Succeeded"),
    ("Scheduled", "Failed"),
    ("Running", "Succeeded"),
    ("Running", "Failed"),
];

/// Numbers that are the same in every run (the generator of Numerical Recipes).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

fn control(pod: &Pod) -> Option<SocketAddr> {
    let address = pod.status.as_ref()?.pod_ip.as_deref()?;
    Some(SocketAddr::new(address.parse().ok()?, 8443))
}

fn pod_phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// One thing that a node, a guest or a user may do to a Pod.
async fn happen(world: &World, pod: &Pod, numbers: &mut Numbers) {
    let name = pod.metadata.name.as_deref().unwrap();
    let is_bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let is_over = matches!(pod_phase(pod), "Succeeded" | "Failed");
    let deleting = pod.metadata.deletion_timestamp.is_some();
    let at = control(pod);
    match numbers.below(8) {
        0..=2 if !is_bound && !deleting => world.bind(name).await,
        0..=2 if is_bound && at.is_none() && !is_over && !deleting => {
            world.start(name).await;
        }
        3 if is_bound && at.is_none() && !is_over => world.wait_for_image(name, "ErrImagePull", "no").await,
        4 if !is_over && numbers.below(3) == 0 => world.ended(name, None).await,
        5 | 6 if !is_over => {
            let Some(at) = at else { return };
            let states = [
                (MachineState::Running, StateReason::None),
                (MachineState::Paused, StateReason::User),
                (MachineState::ShutOff, StateReason::Shutdown),
                (MachineState::ShutOff, StateReason::Destroyed),
                (MachineState::Crashed, StateReason::Panicked),
            ];
            let (state, reason) = states[numbers.below(states.len())];
            world.launchers.change(at, |status| {
                if status.state != MachineState::None && !status.state.is_final() {
                    (status.state, status.reason) = (state, reason);
                }
            });
            if state.is_final() && numbers.below(2) == 0 {
                let last = world.launchers.end(at);
                world.ended(name, last.as_ref().filter(|last| last.state.is_final())).await;
            }
        }
        7 if deleting || numbers.below(10) == 0 => world.remove(name).await,
        _ => {}
    }
}

/// What a watcher has seen: the phases of each instance.
type Seen = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

/// The phases that instances were in.
fn entered(seen: &Seen) -> BTreeSet<String> {
    seen.lock().unwrap().values().flatten().cloned().collect()
}

async fn watch(api: kube::Api<VirtualMachineInstance>, seen: Seen) {
    let mut changes = pin!(watcher(api, watcher::Config::default()).applied_objects());
    while let Some(instance) = changes.next().await {
        let instance = instance.unwrap();
        let mut seen = seen.lock().unwrap();
        let phases = seen.entry(instance.metadata.uid.clone().unwrap()).or_default();
        *phases = phases_of(&instance);
        assert_eq!(phases.last().map(String::as_str), Some(phase_of(&instance)));
    }
}

#[tokio::test]
async fn whatever_happens_phases_go_along_their_arrows_and_what_is_deleted_goes() {
    let mut world = World::new().await;
    let seen = Seen::default();
    let watching = tokio::spawn(watch(world.instances(), Arc::clone(&seen)));
    let mut numbers = Numbers(20_261_122);
    let names: Vec<_> = (0..INSTANCES).map(|index| format!("vm{index}")).collect();
    for step in 0..STEPS.1 {
        if step >= STEPS.0 && entered(&seen).len() == PHASES {
            break;
        }
        let name = &names[numbers.below(INSTANCES)];
        let pods = world.pods().list(&ListParams::default()).await.unwrap().items;
        if !pods.is_empty() {
            let pod = &pods[numbers.below(pods.len())];
            happen(&world, pod, &mut numbers).await;
        }
        match numbers.below(12) {
            0..=2 if world.instances().get_opt(name).await.unwrap().is_none() => {
                world.create_instance(name, json!({})).await;
            }
            3 if numbers.below(2) == 0 => {
                // It may not be there.
                let _ = world.instances().delete(name, &DeleteParams::default()).await;
            }
            4 if numbers.below(5) == 0 => world.restart_controllers().await,
            _ => {}
        }
        tokio::task::yield_now().await;
    }
    for name in &names {
        // It may have gone by itself.
        let _ = world.instances().delete(name, &DeleteParams::default()).await;
    }
    until("nothing is left", || async {
        for pod in world.pods().list(&ListParams::default()).await.unwrap().items {
            if pod.metadata.deletion_timestamp.is_some() {
                world.remove(pod.metadata.name.as_deref().unwrap()).await;
            }
        }
        let instances = world.instances().list(&ListParams::default()).await.unwrap().items;
        let pods = world.pods().list(&ListParams::default()).await.unwrap().items;
        if instances.is_empty() && pods.is_empty() {
            Ok(())
        } else {
            Err(format!("{instances:#?} {pods:#?}"))
        }
    })
    .await;
    watching.abort();
    assert!(watching.await.is_err_and(|error| error.is_cancelled()));
    let entered = entered(&seen);
    assert_eq!(entered.len(), PHASES, "{entered:?}");
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(seen.len() > INSTANCES, "{} lives", seen.len());
    for (uid, phases) in seen.iter() {
        assert_eq!(phases.first().map(String::as_str), Some("Pending"));
        for pair in phases.windows(2) {
            assert!(ARROWS.contains(&(pair[0].as_str(), pair[1].as_str())), "{uid}: {phases:?}");
        }
    }
    world.end().await;
}
