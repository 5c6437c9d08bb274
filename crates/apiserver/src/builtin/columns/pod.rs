//! The columns of Pods: above all their STATUS, which is derived from much more than the phase.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Found, shown, text, wide};
use crate::field::{self, flag, list, number};
use crate::kind::Column;
use crate::object;
use crate::table::human_duration;

/// Pods.
pub(in crate::builtin) const PODS: &[Column] = &[
    shown("Ready", "string", |pod, now| {
        let state = State::of(pod, now);
        Some(format!("{}/{}", state.ready, state.total).into())
    }),
    shown("Status", "string", |pod, now| Some(State::of(pod, now).status.into())),
    shown("Restarts", "string", |pod, now| Some(State::of(pod, now).restarts.into())),
    AGE,
    wide("IP", "string", |pod, _| {
        let first = field::text(pod, "/status/podIPs/0/ip");
        text(if first.is_empty() { field::text(pod, "/status/podIP") } else { first })
    }),
    wide("Node", "string", |pod, _| text(field::text(pod, "/spec/nodeName"))),
    wide("Nominated Node", "string", |pod, _| text(field::text(pod, "/status/nominatedNodeName"))),
    wide("Readiness Gates", "string", readiness_gates),
];

fn readiness_gates(pod: &Value, _: Timestamp) -> Found {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return None;
    }
    let met = gates
        .iter()
        .filter(|gate| condition(pod, field::text(gate, "/conditionType")).is_some_and(|at| at == "True"))
        .count();
    Some(format!("{met}/{}", gates.len()).into())
}

fn condition<'a>(pod: &'a Value, wanted: &str) -> Option<&'a str> {
    list(pod, "/status/conditions")
        .iter()
        .find(|condition| field::text(condition, "/type") == wanted)
        .map(|condition| field::text(condition, "/status"))
}

/// What a Pod's row says.
struct State {
    ready: usize,
    total: usize,
    status: String,
    restarts: String,
}

/// Restarts of some containers, and when the last of them ended.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += number(container, "/restartCount");
        let finished = field::text(container, "/lastState/terminated/finishedAt").parse().ok();
        self.last = self.last.max(finished);
    }

    fn printed(&self, now: Timestamp) -> String {
        match self.last {
            Some(at) if self.count != 0 => {
                format!("{} ({} ago)", self.count, human_duration(now.duration_since(at)))
            }
            _ => self.count.to_string(),
        }
    }
}

/// What a stopped container says of itself: its reason, or the signal or code that it ended with.
fn ended(terminated: &Value) -> String {
    let reason = field::text(terminated, "/reason");
    match (reason, number(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

impl State {
    fn of(pod: &Value, now: Timestamp) -> Self {
        let init_specs = list(pod, "/spec/initContainers");
        let is_sidecar = |name: &str| {
            init_specs.iter().any(|spec| {
                field::text(spec, "/name") == name && field::text(spec, "/restartPolicy") == "Always"
            })
        };
        let sidecars =
            init_specs.iter().filter(|spec| field::text(spec, "/restartPolicy") == "Always").count();
        let total = list(pod, "/spec/containers").len() + sidecars;

        let phase = field::text(pod, "/status/phase");
        let pod_reason = field::text(pod, "/status/reason");
        let mut status = if pod_reason.is_empty() { phase } else { pod_reason }.to_owned();
        if condition_reason(pod, "PodScheduled") == "SchedulingGated" {
            status = "SchedulingGated".to_owned();
        }

        let (mut restarts, mut sidecar_restarts) = (Restarts::default(), Restarts::default());
        let (mut ready, mut initializing) = (0, false);
        for (index, container) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
            restarts.add(container);
            let sidecar = is_sidecar(field::text(container, "/name"));
            if sidecar {
                sidecar_restarts.add(container);
            }
            let state = container.get("state").unwrap_or(&Value::Null);
            let terminated = state.get("terminated").filter(|at| !at.is_null());
            let waiting = field::text(state, "/waiting/reason");
            if let Some(terminated) = terminated {
                if number(terminated, "/exitCode") == 0 {
                    continue;
                }
                status = format!("Init:{}", ended(terminated));
            } else if sidecar && flag(container, "/started") {
                if flag(container, "/ready") {
                    ready += 1;
                }
                continue;
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                status = format!("Init:{waiting}");
            } else {
                status = format!("Init:{index}/{}", init_specs.len());
            }
            initializing = true;
            break;
        }

        if !initializing || condition(pod, "Initialized") == Some("True") {
            restarts = sidecar_restarts;
            let mut running = false;
            for container in list(pod, "/status/containerStatuses").iter().rev() {
                restarts.add(container);
                let state = container.get("state").unwrap_or(&Value::Null);
                let waiting = field::text(state, "/waiting/reason");
                if !waiting.is_empty() {
                    status = waiting.to_owned();
                } else if let Some(terminated) = state.get("terminated").filter(|at| !at.is_null()) {
                    status = ended(terminated);
                } else if flag(container, "/ready") && state.get("running").is_some_and(|at| !at.is_null()) {
                    running = true;
                    ready += 1;
                }
            }
            if status == "Completed" && running {
                let is_ready = condition(pod, "Ready") == Some("True");
                status = if is_ready { "Running" } else { "NotReady" }.to_owned();
            }
        }

        if object::is_deleting(pod) && pod_reason == "NodeLost" {
            status = "Unknown".to_owned();
        } else if object::is_deleting(pod) && !matches!(phase, "Failed" | "Succeeded") {
            status = "Terminating".to_owned();
        }
        Self { ready, total, status, restarts: restarts.printed(now) }
    }
}

fn condition_reason<'a>(pod: &'a Value, wanted: &str) -> &'a str {
    list(pod, "/status/conditions")
        .iter()
        .find(|condition| field::text(condition, "/type") == wanted)
        .map(|condition| field::text(condition, "/reason"))
        .unwrap_or_default()
}
