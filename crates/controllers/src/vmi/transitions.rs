//! How long instances take from one phase to the next.
//!
//! The times that an instance itself has are of whole seconds, and a machine is there in less. So what this controller has
//! seen itself is noted here, by UID; what was before it began is taken from the instance.

use std::collections::HashMap;
use std::sync::Mutex;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use manifest::types::VirtualMachineInstance;

use super::phase::Phase;
use super::reconcile::lock;
use crate::metrics::Metrics;

/// What is noted of the instances that there are.
#[derive(Debug, Default)]
pub(super) struct Transitions(Mutex<HashMap<String, Note>>);

#[derive(Debug)]
struct Note {
    created: Timestamp,
    /// When it was seen first that it is to go.
    deleted: Option<Timestamp>,
    phase: Phase,
    entered: Timestamp,
}

impl Transitions {
    /// Counts the phases that `after` has entered and no `after` before it had; `before` is what it was made of.
    pub fn note(
        &self,
        metrics: &Metrics,
        before: &VirtualMachineInstance,
        after: &VirtualMachineInstance,
        now: Timestamp,
    ) {
        let Some(uid) = &after.metadata.uid else { return };
        let mut notes = lock(&self.0);
        let note = notes.entry(uid.clone()).or_insert_with(|| Note::of(before, now));
        if after.metadata.deletion_timestamp.is_some() {
            note.deleted.get_or_insert(now);
        }
        // Each is later than the one before it.
        for phase in entered(after).map(|(phase, _)| phase) {
            if phase <= note.phase {
                continue;
            }
            metrics.phase_entered(phase.as_str(), note.phase.as_str(), since(note.entered, now));
            metrics.phase_after_creation(phase.as_str(), since(note.created, now));
            if let Some(deleted) = note.deleted.filter(|_| phase.is_final()) {
                metrics.phase_after_deletion(phase.as_str(), since(deleted, now));
            }
            (note.phase, note.entered) = (phase, now);
        }
    }

    /// Forgets those whose UIDs are not `wanted`.
    pub fn retain(&self, wanted: impl Fn(&str) -> bool) {
        lock(&self.0).retain(|uid, _| wanted(uid));
    }
}

impl Note {
    fn of(instance: &VirtualMachineInstance, now: Timestamp) -> Self {
        // What is of this second was a moment ago.
        let fine = |time: Option<&Time>| match time {
            Some(Time(time)) if now.duration_since(*time) >= SignedDuration::from_secs(1) => *time,
            _ => now,
        };
        let last = entered(instance).max_by_key(|(phase, _)| *phase);
        Self {
            created: fine(instance.metadata.creation_timestamp.as_ref()),
            deleted: instance.metadata.deletion_timestamp.as_ref().map(|time| fine(Some(time))),
            phase: last.map_or(Phase::Pending, |(phase, _)| phase),
            entered: fine(last.and_then(|(_, time)| time)),
        }
    }
}

/// The phases that an instance has entered, with their times.
fn entered(instance: &VirtualMachineInstance) -> impl Iterator<Item = (Phase, Option<&Time>)> {
    let stamps = instance.status.iter().flat_map(|status| &status.phase_transition_timestamps);
    stamps.filter_map(|stamp| {
        Some((Phase::parse(stamp.phase.as_deref()?)?, stamp.phase_transition_timestamp.as_ref()))
    })
}

/// Seconds; none where the clock was put back.
fn since(then: Timestamp, now: Timestamp) -> f64 {
    now.duration_since(then).as_secs_f64().max(0.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;
    use serde_json::json;

    use super::*;

    fn at(time: &str) -> Timestamp {
        format!("2026-01-01T00:00:{time}Z").parse().unwrap()
    }

    fn instance(deleted: Option<&str>, phases: &[(&str, &str)]) -> VirtualMachineInstance {
        let stamp = |(phase, time): &(&str, &str)| json!({"phase": phase, "phaseTransitionTimestamp": format!("2026-01-01T00:00:{time}Z")});
        let mut instance = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
            "metadata": {"name": "a", "uid": "u", "creationTimestamp": "2026-01-01T00:00:10Z"},
            "spec": {"domain": {"devices": {}}},
            "status": {"phaseTransitionTimestamps": phases.iter().map(stamp).collect::<Vec<_>>()},
        });
        if let Some(time) = deleted {
            instance["metadata"]["deletionTimestamp"] = json!(format!("2026-01-01T00:00:{time}Z"));
        }
        serde_json::from_value(instance).unwrap()
    }

    /// Count and sum of each series.
    fn told(metrics: &Metrics) -> Vec<String> {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let lines = text.lines().filter_map(|line| {
            let (name, rest) =
                line.strip_prefix("kubevirt_vmi_phase_transition_time")?.split_once("seconds_")?;
            (!rest.starts_with("bucket")).then(|| format!("{name}{rest}"))
        });
        let mut lines: Vec<_> = lines.collect();
        lines.sort();
        lines
    }

    #[test]
    fn what_was_seen_is_told_to_the_millisecond() {
        let (metrics, transitions) = (Metrics::default(), Transitions::default());
        let pending = instance(None, &[("Pending", "10")]);
        let running = instance(
            None,
            &[("Pending", "10"), ("Scheduling", "10"), ("Scheduled", "10"), ("Running", "11")],
        );
        transitions.note(&metrics, &pending, &pending, at("10.25"));
        transitions.note(&metrics, &pending, &running, at("11.5"));
        // A write that was lost, and one that changes something else.
        transitions.note(&metrics, &pending, &running, at("11.75"));
        transitions.note(&metrics, &running, &running, at("20"));
        let ending = instance(Some("30"), &[("Running", "11")]);
        transitions.note(&metrics, &ending, &ending, at("30.5"));
        let ended = instance(Some("30"), &[("Running", "11"), ("Succeeded", "32")]);
        transitions.note(&metrics, &ending, &ended, at("32.5"));
        assert_eq!(
            told(&metrics),
            [
                "_count{phase=\"Running\",last_phase=\"Scheduled\"} 1",
                "_count{phase=\"Scheduled\",last_phase=\"Scheduling\"} 1",
                "_count{phase=\"Scheduling\",last_phase=\"Pending\"} 1",
                "_count{phase=\"Succeeded\",last_phase=\"Running\"} 1",
                "_from_creation_count{phase=\"Running\"} 1",
                "_from_creation_count{phase=\"Scheduled\"} 1",
                "_from_creation_count{phase=\"Scheduling\"} 1",
                "_from_creation_count{phase=\"Succeeded\"} 1",
                "_from_creation_sum{phase=\"Running\"} 1.25",
                "_from_creation_sum{phase=\"Scheduled\"} 1.25",
                "_from_creation_sum{phase=\"Scheduling\"} 1.25",
                "_from_creation_sum{phase=\"Succeeded\"} 22.25",
                "_from_deletion_count{phase=\"Succeeded\"} 1",
                "_from_deletion_sum{phase=\"Succeeded\"} 2.0",
                "_sum{phase=\"Running\",last_phase=\"Scheduled\"} 0.0",
                "_sum{phase=\"Scheduled\",last_phase=\"Scheduling\"} 0.0",
                "_sum{phase=\"Scheduling\",last_phase=\"Pending\"} 1.25",
                "_sum{phase=\"Succeeded\",last_phase=\"Running\"} 21.0",
            ]
        );
    }

    #[test]
    fn what_was_before_this_controller_is_told_by_the_instance() {
        let (metrics, transitions) = (Metrics::default(), Transitions::default());
        let scheduled = instance(None, &[("Pending", "10"), ("Scheduling", "11"), ("Scheduled", "15")]);
        let failed =
            instance(None, &[("Pending", "10"), ("Scheduling", "11"), ("Scheduled", "15"), ("Failed", "20")]);
        transitions.note(&metrics, &scheduled, &scheduled, at("18"));
        transitions.note(&metrics, &scheduled, &failed, at("20.5"));
        let sums: Vec<_> = told(&metrics).into_iter().filter(|line| line.contains("sum")).collect();
        assert_eq!(
            sums,
            [
                "_from_creation_sum{phase=\"Failed\"} 10.5",
                "_sum{phase=\"Failed\",last_phase=\"Scheduled\"} 5.5",
            ]
        );
        // What is forgotten is noted anew.
        transitions.retain(|_| false);
        transitions.note(&metrics, &failed, &failed, at("21"));
        assert_eq!(told(&metrics).len(), 4);
    }
}
