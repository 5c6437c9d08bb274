//! What is counted, under KubeVirt's names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// After so many panics the counters begin anew, as after a restart: names of machines that are gone must not pile up.
const MOST_COUNTED: u64 = 10_000;

/// Whose panic it was, and who told of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PanicLabels {
    pub namespace: String,
    pub name: String,
    /// `pvpanic` when the guest told through its panic device, `console` when only its console did.
    pub r#type: &'static str,
    /// The code of a Windows guest; no other has one.
    pub bugcheck_code: &'static str,
}

/// From which phase an instance came to which.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transition {
    phase: &'static str,
    last_phase: &'static str,
}

/// To which phase an instance came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reached {
    phase: &'static str,
}

/// Bounds in seconds. KubeVirt begins with the half second (`phaseTransitionTimeBuckets` of
/// `pkg/monitoring/metrics/virt-controller`), in which machines here have come up.
const TRANSITION_SECONDS: [f64; 20] = [
    0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 90.0, 120.0, 180.0,
    300.0, 600.0,
];

type Times<Labels> = Family<Labels, Histogram, fn() -> Histogram>;

fn times<Labels: Clone + std::hash::Hash + Eq>() -> Times<Labels> {
    Family::new_with_constructor(|| Histogram::new(TRANSITION_SECONDS))
}

/// The controllers' measurements. Clones share everything.
#[derive(Debug, Clone)]
pub struct Metrics {
    guest_panics: Family<PanicLabels, Counter>,
    counted: Arc<AtomicU64>,
    transitions: Times<Transition>,
    from_creation: Times<Reached>,
    from_deletion: Times<Reached>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            guest_panics: Family::default(),
            counted: Arc::default(),
            transitions: times(),
            from_creation: times(),
            from_deletion: times(),
        }
    }
}

impl Metrics {
    /// Has `registry` tell them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "kubevirt_vmi_guest_os_panic",
            "Panics of guests' kernels",
            self.guest_panics.clone(),
        );
        registry.register(
            "kubevirt_vmi_phase_transition_time_seconds",
            "How long an instance was in a phase before it came to the next",
            self.transitions.clone(),
        );
        registry.register(
            "kubevirt_vmi_phase_transition_time_from_creation_seconds",
            "How long after its creation an instance came to a phase",
            self.from_creation.clone(),
        );
        registry.register(
            "kubevirt_vmi_phase_transition_time_from_deletion_seconds",
            "How long after its deletion was asked for an instance came to its end",
            self.from_deletion.clone(),
        );
    }

    /// An instance has come to `phase` after so many seconds in `last_phase`.
    pub(crate) fn phase_entered(&self, phase: &'static str, last_phase: &'static str, seconds: f64) {
        self.transitions.get_or_create(&Transition { phase, last_phase }).observe(seconds);
    }

    /// An instance has come to `phase` so many seconds after its creation.
    pub(crate) fn phase_after_creation(&self, phase: &'static str, seconds: f64) {
        self.from_creation.get_or_create(&Reached { phase }).observe(seconds);
    }

    /// An instance that is to go has come to `phase` so many seconds after that was said.
    pub(crate) fn phase_after_deletion(&self, phase: &'static str, seconds: f64) {
        self.from_deletion.get_or_create(&Reached { phase }).observe(seconds);
    }

    pub(crate) fn guest_panicked(&self, labels: PanicLabels) {
        if self.counted.fetch_add(1, Ordering::Relaxed) % MOST_COUNTED == MOST_COUNTED - 1 {
            self.guest_panics.clear();
        }
        self.guest_panics.get_or_create(&labels).inc();
    }
}
