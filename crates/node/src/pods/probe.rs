//! Probes of a Pod's guest, as a kubelet's prober makes them: the launcher is asked again and again, and results in a row
//! decide.
//!
//! ```text
//!  launcher listens ──► a task for each probe ──► Count (pure) ──► Health ──► the Pod's status, the launcher's end
//!                             └──► Unhealthy, ProbeWarning (events)
//! ```
//!
//! A launcher that cannot be asked, and a machine that is not there yet, say nothing about the guest: such an attempt
//! counts for nothing (as an error of the prober does in a kubelet).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use events::Event;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Probe};
use launcher::pod_dir::CONTROL_PORT;
use launcher::probe::{ProbeKind, ProbeOutcome};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::shape::COMPUTE;
use super::status::Run;
use super::{Node, record_event};

/// When a probe is made, and how many results in a row mean something. Whatever a Pod says, once a second is the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    thresholds: Thresholds,
}

/// How many results in a row mean something; neither is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Thresholds {
    success: u32,
    failure: u32,
}

impl Plan {
    /// With a kubelet's defaults for what is not said.
    fn of(probe: &Probe) -> Self {
        // What is less than nothing is nothing.
        let count = |count: i32| u32::try_from(count).unwrap_or_default();
        let least_one = |said: Option<i32>, default: u32| said.map_or(default, |said| count(said).max(1));
        let seconds = |count: u32| Duration::from_secs(count.into());
        Self {
            initial_delay: seconds(probe.initial_delay_seconds.map_or(0, count)),
            period: seconds(least_one(probe.period_seconds, 10)),
            timeout: seconds(least_one(probe.timeout_seconds, 1)),
            thresholds: Thresholds {
                success: least_one(probe.success_threshold, 1),
                failure: least_one(probe.failure_threshold, 3),
            },
        }
    }
}

/// Results in a row, and what they have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    /// What the last long enough row was of; at first what is taken for granted.
    holds: bool,
    /// The last result, and how many there were of it in a row.
    row: (bool, u32),
}

impl Count {
    fn new(holds: bool) -> Self {
        Self { holds, row: (holds, 0) }
    }

    /// The count after one more result.
    fn after(self, succeeded: bool, thresholds: Thresholds) -> Self {
        let before = if self.row.0 == succeeded { self.row.1 } else { 0 };
        let length = before.saturating_add(1);
        let needed = if succeeded { thresholds.success } else { thresholds.failure };
        Self { holds: if length >= needed { succeeded } else { self.holds }, row: (succeeded, length) }
    }
}

/// What the probes have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    /// The readiness probe holds, or there is none.
    pub is_ready: bool,
    /// The liveness probe holds, or there is none.
    pub is_live: bool,
}

impl Health {
    /// Before anything is known: a Pod that was ready still is, and one that lives is not given up.
    pub(super) fn at_first(pod: &Pod) -> Self {
        let has_readiness = compute(pod).is_some_and(|container| container.readiness_probe.is_some());
        let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
        let mut statuses = statuses.unwrap_or_default().iter();
        let was_ready = statuses.any(|status| status.name == COMPUTE && status.ready);
        Self { is_ready: was_ready || !has_readiness, is_live: true }
    }

    fn of(&mut self, kind: ProbeKind) -> &mut bool {
        match kind {
            ProbeKind::Liveness => &mut self.is_live,
            ProbeKind::Readiness => &mut self.is_ready,
        }
    }
}

fn compute(pod: &Pod) -> Option<&Container> {
    pod.spec.as_ref()?.containers.iter().find(|container| container.name == COMPUTE)
}

/// The probes of a Pod at work; they end with it.
pub(super) struct Probing {
    /// What they had come to at the last look.
    pub health: Health,
    told: watch::Receiver<Health>,
    /// As long as this is here there may be news.
    _sender: watch::Sender<Health>,
    tasks: JoinSet<()>,
}

impl Probing {
    /// Starts them; `None` when the Pod has none.
    pub(super) fn start(node: &Arc<Node>, pod: &Pod, run: &Run) -> Option<Self> {
        let container = compute(pod)?;
        let probes = [
            (ProbeKind::Liveness, &container.liveness_probe),
            (ProbeKind::Readiness, &container.readiness_probe),
        ];
        let health = Health::at_first(pod);
        let (sender, told) = watch::channel(health);
        let mut tasks = JoinSet::new();
        for (kind, probe) in probes {
            let Some(probe) = probe else { continue };
            let prober = Prober {
                node: Arc::clone(node),
                kind,
                plan: Plan::of(probe),
                at: SocketAddr::from((run.address, CONTROL_PORT)),
                about: super::about_compute(pod),
                health: sender.clone(),
            };
            tasks.spawn(prober.run(run.started));
        }
        (!tasks.is_empty()).then_some(Self { health, told, _sender: sender, tasks })
    }

    /// Looks at what they have come to.
    pub(super) fn look(&mut self) {
        self.health = *self.told.borrow_and_update();
    }

    /// Comes back when that is another than at the last look.
    pub(super) async fn changed(&mut self) {
        // The sender is our own.
        let _ = self.told.changed().await;
    }

    /// Makes no attempt any more; what is known stays.
    pub(super) fn stop(&mut self) {
        self.tasks.abort_all();
    }
}

/// One probe of one guest.
struct Prober {
    node: Arc<Node>,
    kind: ProbeKind,
    plan: Plan,
    at: SocketAddr,
    about: ObjectReference,
    health: watch::Sender<Health>,
}

impl Prober {
    async fn run(self, started: Timestamp) {
        let Self { node, kind, plan, at, about, health } = self;
        let mut at_first = *health.borrow();
        let mut count = Count::new(*at_first.of(kind));
        // A clock that was set back does not make it longer.
        let age = Duration::try_from(Timestamp::now().duration_since(started)).unwrap_or_default();
        let mut ticks = interval_at(Instant::now() + plan.initial_delay.saturating_sub(age), plan.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let outcome = match node.settings.launchers.probe(at, kind, plan.timeout).await {
                Ok(outcome) => outcome,
                Err(error) => {
                    let (namespace, name) = (about.namespace.as_deref(), about.name.as_deref());
                    tracing::debug!(%error, namespace, name, probe = kind.as_str(), "a guest could not be probed");
                    continue;
                }
            };
            let told = match &outcome {
                ProbeOutcome::Success => None,
                ProbeOutcome::Warning(why) => Some(("ProbeWarning", "warning", why)),
                ProbeOutcome::Failure(why) => Some(("Unhealthy", "failed", why)),
            };
            if let Some((reason, how, why)) = told {
                let text = format!("{} probe {how}: {why}", kind.as_str());
                record_event(&node, &about, &Event::warning(reason, text));
            }
            count = count.after(!matches!(outcome, ProbeOutcome::Failure(_)), plan.thresholds);
            health.send_if_modified(|health| {
                let before = std::mem::replace(health.of(kind), count.holds);
                before != count.holds
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn plan(probe: Value) -> Plan {
        Plan::of(&serde_json::from_value(probe).unwrap_or_default())
    }

    #[test]
    fn what_is_not_said_is_a_kubelets_default_and_nonsense_is_the_least() {
        let told = |probe: Value| {
            let Plan { initial_delay, period, timeout, thresholds } = plan(probe);
            let seconds = [initial_delay, period, timeout].map(|time| time.as_secs());
            (seconds, thresholds.success, thresholds.failure)
        };
        assert_eq!(told(json!({})), ([0, 10, 1], 1, 3));
        let said = json!({
            "initialDelaySeconds": 15, "periodSeconds": 2, "timeoutSeconds": 4, "successThreshold": 5,
            "failureThreshold": 6,
        });
        assert_eq!(told(said), ([15, 2, 4], 5, 6));
        for nonsense in [0, -1, i32::MIN] {
            let said = json!({
                "initialDelaySeconds": nonsense, "periodSeconds": nonsense, "timeoutSeconds": nonsense,
                "successThreshold": nonsense, "failureThreshold": nonsense,
            });
            assert_eq!(told(said), ([0, 1, 1], 1, 1), "{nonsense}");
        }
    }

    /// What holds after each of the results, `+` for a success; as letters, `R` for ready.
    fn followed(holds: bool, thresholds: (u32, u32), results: &str) -> String {
        let (success, failure) = thresholds;
        let mut count = Count::new(holds);
        let step = |result: char| {
            count = count.after(result == '+', Thresholds { success, failure });
            if count.holds { 'R' } else { '.' }
        };
        results.chars().map(step).collect()
    }

    #[test]
    fn results_in_a_row_decide() {
        for (holds, thresholds, results, expected) in [
            (false, (1, 3), "--+--+---+", "..RRRRRR.R"),
            (false, (1, 1), "-+-+", ".R.R"),
            (false, (2, 2), "+-++-+--++", "...RRRR..R"),
            (true, (1, 3), "----+", "RR..R"),
            (true, (1, 3), "--+--+--+", "RRRRRRRRR"),
            (true, (3, 1), "-++-+++", "......R"),
        ] {
            assert_eq!(followed(holds, thresholds, results), expected, "{holds} {thresholds:?} {results}");
        }
    }

    proptest! {
        /// Against the definition: the last row that was long enough says what holds.
        #[test]
        fn it_is_the_last_row_that_was_long_enough(
            holds: bool, success in 1u32..5, failure in 1u32..5,
            results in prop::collection::vec(any::<bool>(), 0..40),
        ) {
            let thresholds = Thresholds { success, failure };
            let count = results.iter().fold(Count::new(holds), |count, result| count.after(*result, thresholds));
            let needed = |result: bool| usize::try_from(if result { success } else { failure }).unwrap_or(1);
            let long_enough = (0..results.len()).rev().find_map(|end| {
                let result = results[end];
                let start = (end + 1).checked_sub(needed(result))?;
                results[start..=end].iter().all(|one| *one == result).then_some(result)
            });
            prop_assert_eq!(count.holds, long_enough.unwrap_or(holds));
        }
    }
}
