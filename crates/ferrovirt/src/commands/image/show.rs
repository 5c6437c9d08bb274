//! `ferrovirt image ls` and `inspect`: what the store holds, as a table or as JSON.

use std::time::SystemTime;

use anyhow::Context as _;
use image::store::{ImageDetails, ImageSummary};
use image::{Reference, Store};
use serde_json::{Value, json};

use crate::cli::ListFormat;
use crate::progress::short;
use crate::report::{ExitCode, Failure, decimal_bytes, print};

/// Every image of the store.
///
/// # Errors
/// When the store cannot be read.
pub fn list(store: &Store, format: ListFormat) -> Result<ExitCode, Failure> {
    let images = store.list()?;
    let text = match format {
        ListFormat::Json => pretty(&Value::Array(images.iter().map(summary_json).collect()))?,
        ListFormat::Table => table(&images, SystemTime::now()),
    };
    print(&text)?;
    Ok(ExitCode::Done)
}

/// Everything that the store knows of one image, as JSON.
///
/// # Errors
/// When there is no such image, or the store cannot be read.
pub fn inspect(store: &Store, reference: &Reference) -> Result<ExitCode, Failure> {
    print(&pretty(&details_json(&store.inspect(reference)?))?)?;
    Ok(ExitCode::Done)
}

fn pretty(value: &Value) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
    Ok(text + "\n")
}

/// Columns as container tools have them, in a fixed order.
fn table(images: &[ImageSummary], now: SystemTime) -> String {
    let header = ["REFERENCE", "DIGEST", "PLATFORM", "SIZE", "STATE", "LAST USED"].map(str::to_owned);
    let rows = images.iter().map(|image| {
        let platforms: Vec<String> = image.platforms.iter().map(ToString::to_string).collect();
        let state = match (image.is_in_use, image.is_complete) {
            (true, _) => "in use",
            (false, true) => "complete",
            (false, false) => "partial",
        };
        [
            image.reference.clone(),
            short(&image.manifest_digest),
            platforms.join(","),
            decimal_bytes(image.stored_bytes),
            state.to_owned(),
            age(image.last_used, now),
        ]
    });
    let lines: Vec<[String; 6]> = std::iter::once(header).chain(rows).collect();
    let widths: [usize; 6] = std::array::from_fn(|column| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for line in &lines {
        let padded: Vec<String> =
            line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(padded.join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// How long ago, as kubectl's AGE has it.
fn age(then: SystemTime, now: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn summary_json(image: &ImageSummary) -> Value {
    json!({
        "reference": image.reference,
        "digest": image.manifest_digest.to_string(),
        "platforms": image.platforms.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "storedBytes": image.stored_bytes,
        "complete": image.is_complete,
        "inUse": image.is_in_use,
        "lastUsedSeconds": image.last_used.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
    })
}

fn details_json(details: &ImageDetails) -> Value {
    let mut value = summary_json(&details.summary);
    value["images"] = details
        .platforms
        .iter()
        .map(|platform| {
            json!({
                "digest": platform.digest.to_string(),
                "manifest": platform.manifest,
                "config": platform.config,
                "layers": platform.layers.iter().map(|layer| json!({
                    "digest": layer.descriptor.digest.to_string(),
                    "present": layer.is_present,
                })).collect::<Vec<_>>(),
                "files": platform.files.iter().map(|file| json!({
                    "file": file.file,
                    "present": file.is_present,
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn ages_are_kubectls() {
        let then = SystemTime::UNIX_EPOCH;
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (7199, "119m"),
            (7200, "2h"),
            (172_799, "47h"),
            (172_800, "2d"),
        ] {
            assert_eq!(age(then, then + Duration::from_secs(seconds)), expected);
        }
        assert_eq!(age(then + Duration::from_secs(5), then), "0s", "a clock that went back is no age");
    }

    #[test]
    fn an_empty_store_still_has_a_header() {
        assert_eq!(
            table(&[], SystemTime::UNIX_EPOCH),
            "REFERENCE   DIGEST   PLATFORM   SIZE   STATE   LAST USED\n"
        );
    }
}
