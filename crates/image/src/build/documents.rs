//! The two JSON documents of a built image: its config and its manifest.
//!
//! Written from structs of our own with sorted maps and a fixed order of fields, because both documents are
//! named by the digest of their bytes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Compression;
use crate::digest::{Descriptor, Digest};
use crate::manifest::OCI_MANIFEST;
use crate::platform::Platform;

/// Media type of a layer (OCI image specification, "Image Layer Filesystem Changeset").
pub(crate) const fn oci_layer(compression: Compression) -> &'static str {
    match compression {
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        Compression::None => "application/vnd.oci.image.layer.v1.tar",
    }
}

/// What the config says beside the layers.
pub(super) struct ConfigFacts<'a> {
    pub(super) platform: &'a Platform,
    pub(super) labels: &'a BTreeMap<String, String>,
    pub(super) timestamp_seconds: u64,
    /// One line for each layer, the lowest first.
    pub(super) history: &'a [String],
}

#[derive(Serialize)]
struct Config<'a> {
    created: &'a str,
    architecture: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'a str>,
    os: &'a str,
    config: RuntimeConfig<'a>,
    rootfs: RootFilesystem<'a>,
    history: Vec<History<'a>>,
}

#[derive(Serialize)]
struct RuntimeConfig<'a> {
    #[serde(rename = "Labels", skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct RootFilesystem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    diff_ids: &'a [Digest],
}

#[derive(Serialize)]
struct History<'a> {
    created: &'a str,
    created_by: &'a str,
}

/// The image's config.
pub(super) fn config(facts: &ConfigFacts<'_>, diff_ids: &[Digest]) -> Vec<u8> {
    let created = rfc3339(facts.timestamp_seconds);
    let config = Config {
        created: &created,
        architecture: &facts.platform.architecture,
        variant: facts.platform.variant.as_deref(),
        os: &facts.platform.os,
        config: RuntimeConfig { labels: facts.labels },
        rootfs: RootFilesystem { kind: "layers", diff_ids },
        history: facts.history.iter().map(|line| History { created: &created, created_by: line }).collect(),
    };
    serde_json::to_vec(&config).expect("strings and sorted maps always serialise")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: &'static str,
    config: &'a Descriptor,
    layers: &'a [Descriptor],
}

/// An OCI manifest naming a config and layers, the lowest first.
pub(crate) fn manifest(config: &Descriptor, layers: &[Descriptor]) -> Vec<u8> {
    let manifest = Manifest { schema_version: 2, media_type: OCI_MANIFEST, config, layers };
    serde_json::to_vec(&manifest).expect("strings and numbers always serialise")
}

/// A point in time as RFC 3339 writes it, in UTC; `seconds` count from 1970.
pub(crate) fn rfc3339(seconds: u64) -> String {
    const SECONDS_PER_DAY: u64 = 24 * 60 * 60;
    let (days, second_of_day) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The Gregorian date of a day counted from 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last of its year and month lengths follow one
/// formula; eras of 400 years have equal lengths.
const fn civil_date(days_since_1970: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    /// From 0000-03-01 to 1970-01-01.
    const DAYS_BEFORE_1970: u64 = 719_468;
    let days = days_since_1970 + DAYS_BEFORE_1970;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
