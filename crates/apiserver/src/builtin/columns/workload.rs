//! The columns of what makes Pods.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Found, joined, labels, selector, shown, wide};
use crate::field::{self, list, number};
use crate::kind::Column;
use crate::table::human_duration;

fn containers(object: &Value, _: Timestamp) -> Found {
    joined(
        list(object, "/spec/template/spec/containers")
            .iter()
            .map(|container| field::text(container, "/name")),
    )
}

fn images(object: &Value, _: Timestamp) -> Found {
    joined(
        list(object, "/spec/template/spec/containers")
            .iter()
            .map(|container| field::text(container, "/image")),
    )
}

fn set_selector(object: &Value, _: Timestamp) -> Found {
    selector(object.pointer("/spec/selector"))
}

const CONTAINERS: Column = wide("Containers", "string", containers);
const IMAGES: Column = wide("Images", "string", images);
const SELECTOR: Column = wide("Selector", "string", set_selector);

const DESIRED: Column =
    shown("Desired", "integer", |object, _| Some(number(object, "/spec/replicas").into()));
const CURRENT: Column =
    shown("Current", "integer", |object, _| Some(number(object, "/status/replicas").into()));
const READY: Column =
    shown("Ready", "integer", |object, _| Some(number(object, "/status/readyReplicas").into()));

fn ready_of_wanted(object: &Value, _: Timestamp) -> Found {
    let wanted = number(object, "/spec/replicas");
    Some(format!("{}/{wanted}", number(object, "/status/readyReplicas")).into())
}

/// Deployments.
pub(in crate::builtin) const DEPLOYMENTS: &[Column] = &[
    shown("Ready", "string", ready_of_wanted),
    shown("Up-to-date", "string", |object, _| Some(number(object, "/status/updatedReplicas").into())),
    shown("Available", "string", |object, _| Some(number(object, "/status/availableReplicas").into())),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// ReplicaSets.
pub(in crate::builtin) const REPLICA_SETS: &[Column] =
    &[DESIRED, CURRENT, READY, AGE, CONTAINERS, IMAGES, SELECTOR];

/// ReplicationControllers.
pub(in crate::builtin) const REPLICATION_CONTROLLERS: &[Column] = &[
    DESIRED,
    CURRENT,
    READY,
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", "string", |object, _| labels(field::map(object, "/spec/selector"))),
];

/// StatefulSets.
pub(in crate::builtin) const STATEFUL_SETS: &[Column] =
    &[shown("Ready", "string", ready_of_wanted), AGE, CONTAINERS, IMAGES];

/// DaemonSets.
pub(in crate::builtin) const DAEMON_SETS: &[Column] = &[
    shown("Desired", "integer", |object, _| Some(number(object, "/status/desiredNumberScheduled").into())),
    shown("Current", "integer", |object, _| Some(number(object, "/status/currentNumberScheduled").into())),
    shown("Ready", "integer", |object, _| Some(number(object, "/status/numberReady").into())),
    shown("Up-to-date", "integer", |object, _| Some(number(object, "/status/updatedNumberScheduled").into())),
    shown("Available", "integer", |object, _| Some(number(object, "/status/numberAvailable").into())),
    shown("Node Selector", "string", |object, _| {
        labels(field::map(object, "/spec/template/spec/nodeSelector"))
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

/// Jobs.
pub(in crate::builtin) const JOBS: &[Column] = &[
    shown("Status", "string", job_status),
    shown("Completions", "string", job_completions),
    shown("Duration", "string", job_duration),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn job_status(job: &Value, _: Timestamp) -> Found {
    let is_true = |wanted: &str| {
        list(job, "/status/conditions").iter().any(|condition| {
            field::text(condition, "/type") == wanted && field::text(condition, "/status") == "True"
        })
    };
    let status = if is_true("Complete") {
        "Complete"
    } else if is_true("Failed") {
        "Failed"
    } else if !field::text(job, "/metadata/deletionTimestamp").is_empty() {
        "Terminating"
    } else if is_true("Suspended") {
        "Suspended"
    } else if is_true("FailureTarget") {
        "FailureTarget"
    } else if is_true("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    Some(status.into())
}

fn job_completions(job: &Value, _: Timestamp) -> Found {
    let done = number(job, "/status/succeeded");
    let wanted = job.pointer("/spec/completions").and_then(Value::as_i64);
    Some(
        match (wanted, number(job, "/spec/parallelism")) {
            (Some(wanted), _) => format!("{done}/{wanted}"),
            (None, parallel) if parallel > 1 => format!("{done}/1 of {parallel}"),
            (None, _) => format!("{done}/1"),
        }
        .into(),
    )
}

fn job_duration(job: &Value, now: Timestamp) -> Found {
    let Ok(start) = field::text(job, "/status/startTime").parse::<Timestamp>() else {
        return Some("".into());
    };
    let end = field::text(job, "/status/completionTime").parse().unwrap_or(now);
    Some(human_duration(end.duration_since(start)).into())
}

/// PodTemplates.
pub(in crate::builtin) const POD_TEMPLATES: &[Column] = &[
    shown("Containers", "string", |object, _| {
        joined(list(object, "/template/spec/containers").iter().map(|one| field::text(one, "/name")))
    }),
    shown("Images", "string", |object, _| {
        joined(list(object, "/template/spec/containers").iter().map(|one| field::text(one, "/image")))
    }),
    shown("Pod Labels", "string", |object, _| labels(field::map(object, "/template/metadata/labels"))),
];

/// PodDisruptionBudgets.
pub(in crate::builtin) const POD_DISRUPTION_BUDGETS: &[Column] = &[
    shown("Min Available", "string", |object, _| Some(or_not_applicable(object, "/spec/minAvailable"))),
    shown("Max Unavailable", "string", |object, _| Some(or_not_applicable(object, "/spec/maxUnavailable"))),
    shown("Allowed Disruptions", "integer", |object, _| {
        Some(number(object, "/status/disruptionsAllowed").into())
    }),
    AGE,
];

fn or_not_applicable(object: &Value, pointer: &str) -> Value {
    match object.pointer(pointer) {
        Some(Value::String(text)) => text.as_str().into(),
        Some(Value::Number(number)) => number.to_string().into(),
        _ => "N/A".into(),
    }
}

/// ControllerRevisions.
pub(in crate::builtin) const CONTROLLER_REVISIONS: &[Column] = &[
    shown("Controller", "string", controller),
    shown("Revision", "string", |object, _| Some(number(object, "/revision").into())),
    AGE,
];

fn controller(object: &Value, _: Timestamp) -> Found {
    let owner =
        list(object, "/metadata/ownerReferences").iter().find(|owner| field::flag(owner, "/controller"))?;
    let kind = field::text(owner, "/kind").to_lowercase();
    let name = field::text(owner, "/name");
    Some(match field::text(owner, "/apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{name}").into(),
        None => format!("{kind}/{name}").into(),
    })
}

fn job_containers(object: &Value) -> &[Value] {
    list(object, "/spec/jobTemplate/spec/template/spec/containers")
}

/// CronJobs.
pub(in crate::builtin) const CRON_JOBS: &[Column] = &[
    shown("Schedule", "string", |object, _| Some(field::text(object, "/spec/schedule").into())),
    shown("Timezone", "string", |object, _| super::text(field::text(object, "/spec/timeZone"))),
    shown("Suspend", "boolean", |object, _| {
        Some(if field::flag(object, "/spec/suspend") { "True" } else { "False" }.into())
    }),
    shown("Active", "integer", |object, _| Some(list(object, "/status/active").len().into())),
    shown("Last Schedule", "string", |object, now| {
        let at = field::text(object, "/status/lastScheduleTime");
        if at.is_empty() { None } else { Some(crate::table::age(at, now).into()) }
    }),
    AGE,
    wide("Containers", "string", |object, _| {
        joined(job_containers(object).iter().map(|one| field::text(one, "/name")))
    }),
    wide("Images", "string", |object, _| {
        joined(job_containers(object).iter().map(|one| field::text(one, "/image")))
    }),
    wide("Selector", "string", |object, _| selector(object.pointer("/spec/jobTemplate/spec/selector"))),
];

/// HorizontalPodAutoscalers. Nothing measures here, so what a target stands at is never known.
pub(in crate::builtin) const AUTOSCALERS: &[Column] = &[
    shown("Reference", "string", |object, _| {
        let of = |name: &str| field::text(object, &format!("/spec/scaleTargetRef/{name}")).to_owned();
        Some(format!("{}/{}", of("kind"), of("name")).into())
    }),
    shown("Targets", "string", |object, _| {
        // `autoscaling/v1` has a field for the one that it knows.
        let old = object.pointer("/spec/targetCPUUtilizationPercentage");
        let targets: Vec<_> = old
            .map(|percent| format!("cpu: <unknown>/{percent}%"))
            .into_iter()
            .chain(list(object, "/spec/metrics").iter().map(unmeasured))
            .collect();
        joined(targets.iter().map(String::as_str))
    }),
    shown("MinPods", "string", |object, _| Some(number(object, "/spec/minReplicas").to_string().into())),
    shown("MaxPods", "integer", |object, _| Some(number(object, "/spec/maxReplicas").into())),
    shown("Replicas", "integer", |object, _| Some(number(object, "/status/currentReplicas").into())),
    AGE,
];

/// A metric's target next to a value that nobody knows.
fn unmeasured(metric: &Value) -> String {
    let source = match field::text(metric, "/type") {
        "ContainerResource" => "containerResource",
        "Resource" => "resource",
        _ => return "<unknown>".to_owned(),
    };
    let of = |name: &str| metric.pointer(&format!("/{source}/{name}"));
    let name = of("name").and_then(Value::as_str).unwrap_or_default();
    match of("target/averageUtilization") {
        Some(percent) => format!("{name}: <unknown>/{percent}%"),
        None => {
            let value = of("target/averageValue").and_then(Value::as_str).unwrap_or("<unset>");
            format!("{name}: <unknown>/{value}")
        }
    }
}
