//! Measurements of one scrape, put together by their names as the text format wants them.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// What a measurement is called, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Metric {
    /// Its name; a counter's without the `_total` that the text format puts behind it.
    pub name: &'static str,
    /// What it tells.
    pub help: &'static str,
    /// Whether it only grows, from nothing at a machine's start.
    pub is_counter: bool,
}

impl Metric {
    /// One that goes up and down.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, is_counter: false }
    }

    /// One that only grows.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, is_counter: true }
    }
}

/// Labels with their values.
pub type Labels = Vec<(&'static str, String)>;

/// The labels of one measurement: those that all of its metric have, and its own.
type AllLabels = (Labels, Vec<(String, String)>);

/// All measurements.
#[derive(Debug, Default)]
pub struct Families(BTreeMap<Metric, Vec<(AllLabels, f64)>>);

impl Families {
    /// Adds one.
    pub fn add(&mut self, metric: Metric, labels: Labels, value: f64) {
        self.add_with(metric, labels, Vec::new(), value);
    }

    /// Adds one that has labels of its own: names that the text format takes, none of them twice.
    pub fn add_with(&mut self, metric: Metric, labels: Labels, own: Vec<(String, String)>, value: f64) {
        self.0.entry(metric).or_default().push(((labels, own), value));
    }

    /// Writes them.
    pub fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (metric, samples) in &self.0 {
            let kind = if metric.is_counter { MetricType::Counter } else { MetricType::Gauge };
            let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
            for (labels, value) in samples {
                let mut sample = family.encode_family(labels)?;
                if metric.is_counter {
                    sample.encode_counter::<NoLabelSet, f64, f64>(value, None)?;
                } else {
                    sample.encode_gauge(value)?;
                }
            }
        }
        Ok(())
    }

    /// The values of one, by the text of its labels.
    #[cfg(test)]
    pub fn of(&self, name: &str) -> Vec<(String, f64)> {
        let samples =
            self.0.iter().filter(|(metric, _)| metric.name == name).flat_map(|(_, samples)| samples);
        let text = |(labels, own): &AllLabels| {
            let own = own.iter().map(|(key, value)| (key.as_str(), value));
            let all = labels.iter().map(|(key, value)| (*key, value)).chain(own);
            all.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
        };
        samples.map(|(labels, value)| (text(labels), *value)).collect()
    }
}
