//! What is counted, under KubeVirt's names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
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

/// The controllers' measurements. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    guest_panics: Family<PanicLabels, Counter>,
    counted: Arc<AtomicU64>,
}

impl Metrics {
    /// Has `registry` tell them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "kubevirt_vmi_guest_os_panic",
            "Panics of guests' kernels",
            self.guest_panics.clone(),
        );
    }

    pub(crate) fn guest_panicked(&self, labels: PanicLabels) {
        if self.counted.fetch_add(1, Ordering::Relaxed) % MOST_COUNTED == MOST_COUNTED - 1 {
            self.guest_panics.clear();
        }
        self.guest_panics.get_or_create(&labels).inc();
    }
}
