//! `/metrics`, with the names that dashboards of Kubernetes look for.
//!
//! Labels hold verbs, registered resources and status codes only, so a client cannot make series.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// What a request was about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The verb, in capitals as Kubernetes writes it here.
    pub verb: String,
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The plural; empty for other paths and for what is not registered.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The HTTP status.
    pub code: u16,
}

/// What is timed: like [`RequestLabels`], but for all status codes together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DurationLabels {
    /// The verb.
    pub verb: String,
    /// The group.
    pub group: String,
    /// The plural.
    pub resource: String,
}

/// The server's measurements.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    watchers: Gauge,
    revision: Gauge<u64, AtomicU64>,
    audit_dropped: Counter,
    panics: Counter,
}

fn duration_histogram() -> Histogram {
    // 1 ms … 16 s.
    Histogram::new((0..15).map(|doubled| 0.001 * f64::from(1_u32 << doubled)))
}

impl Metrics {
    /// Measurements that are told with those of `registry`.
    pub fn new(mut registry: Registry) -> Self {
        let requests = Family::default();
        let durations = Family::new_with_constructor(duration_histogram as fn() -> Histogram);
        let (in_flight, watchers, revision) = (Gauge::default(), Gauge::default(), Gauge::default());
        let (audit_dropped, panics) = (Counter::default(), Counter::default());
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and status code",
            Clone::clone(&requests),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Seconds from a request's arrival to the head of its answer",
            Clone::clone(&durations),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests that are being answered",
            in_flight.clone(),
        );
        registry.register("apiserver_longrunning_requests", "Watches that are open", watchers.clone());
        registry.register("apiserver_storage_revision", "The store's last revision", revision.clone());
        registry.register(
            "apiserver_audit_dropped_events",
            "Audit events that the writer could not keep up with",
            audit_dropped.clone(),
        );
        registry.register("apiserver_request_panics", "Requests whose handler panicked", panics.clone());
        Self { registry, requests, durations, in_flight, watchers, revision, audit_dropped, panics }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(Registry::default())
    }
}

/// Counts something for as long as it is there.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// A request was answered.
    pub fn answered(&self, labels: RequestLabels, took: Duration) {
        let timed = DurationLabels {
            verb: labels.verb.clone(),
            group: labels.group.clone(),
            resource: labels.resource.clone(),
        };
        self.durations.get_or_create(&timed).observe(took.as_secs_f64());
        self.requests.get_or_create(&labels).inc();
    }

    /// A request is being answered until the result is dropped.
    pub fn in_flight(&self) -> Counted {
        Counted::new(&self.in_flight)
    }

    /// A watch is open until the result is dropped.
    pub fn watcher(&self) -> Counted {
        Counted::new(&self.watchers)
    }

    /// An audit event was left out.
    pub fn audit_dropped(&self) {
        self.audit_dropped.inc();
    }

    /// A handler panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// Everything in the text format of OpenMetrics, at this revision of the store.
    pub fn encode(&self, revision: u64) -> String {
        self.revision.set(revision);
        let mut text = String::new();
        // Writing into a `String` cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_watchers_are_counted() {
        let metrics = Metrics::default();
        let labels = RequestLabels {
            verb: "GET".to_owned(),
            group: String::new(),
            version: "v1".to_owned(),
            resource: "pods".to_owned(),
            subresource: String::new(),
            code: 200,
        };
        metrics.answered(labels, Duration::from_millis(3));
        let watcher = metrics.watcher();
        let text = metrics.encode(7);
        let request = "apiserver_request_total{verb=\"GET\",group=\"\",version=\"v1\",resource=\"pods\",subresource=\"\",code=\"200\"} 1";
        assert!(text.contains(request), "{text}");
        assert!(
            text.contains("apiserver_longrunning_requests 1")
                && text.contains("apiserver_storage_revision 7")
        );
        drop(watcher);
        assert!(metrics.encode(7).contains("apiserver_longrunning_requests 0"));
    }
}
