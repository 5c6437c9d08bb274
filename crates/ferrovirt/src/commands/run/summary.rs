//! The closing summary of a run: for people as text, for machines as JSON, from the same facts.

use std::path::PathBuf;
use std::time::Duration;

use launcher::timeline::{Phase, Timeline};
use serde::{Serialize, Serializer};

use crate::report::{ExitCode, binary_bytes, decimal_bytes, seconds};

/// Everything that is told about a finished run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The machine's namespace.
    pub namespace: String,
    /// The machine's name.
    pub name: String,
    /// How it ended, in one word of `docs/errors.md`.
    pub verdict: &'static str,
    /// The same for people.
    pub message: String,
    /// The process's exit code.
    #[serde(serialize_with = "code_as_number")]
    pub exit_code: ExitCode,
    /// The image that kernel or initrd came from.
    pub image: Option<ImageSummary>,
    /// The kernel.
    pub kernel: KernelSummary,
    /// What ran the guest's instructions.
    pub accelerator: AcceleratorSummary,
    /// How often the guest restarted itself.
    pub reboots: u32,
    /// Where the time went.
    pub phases: Vec<PhaseSummary>,
    /// From the start of the run to the guest's end, in milliseconds.
    pub duration_ms: u128,
    /// Peak memory.
    pub memory: MemorySummary,
    /// Where the console's log is kept.
    pub console_log: PathBuf,
    /// The last console lines, of a failed run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub console_tail: Vec<String>,
}

/// The image of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSummary {
    /// The reference in full.
    pub reference: String,
    /// What it stood for in this run.
    pub digest: String,
    /// Requests made to registries.
    pub requests: u32,
    /// Bytes of blobs fetched.
    pub fetched_bytes: u64,
    /// Everything was in the store already.
    pub cached: bool,
}

/// What ran the guest's instructions.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcceleratorSummary {
    /// `KVM` or `TCG`.
    pub name: &'static str,
    /// Why not KVM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The kernel of a run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelSummary {
    /// Release from the file, e.g. `6.1.0-56-cloud-amd64`.
    pub version: Option<String>,
    /// Release that the guest itself printed.
    pub booted_version: Option<String>,
    /// The release that this machine booted before, where it was another.
    pub changed_from: Option<String>,
    /// Path in the image, or on this machine for `--kernel`.
    pub path: String,
    /// How it was entered: `bzImage` or `PVH`.
    pub entry: String,
}

/// One phase of the boot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PhaseSummary {
    /// Its name.
    pub name: &'static str,
    /// Its length in milliseconds.
    pub duration_ms: f64,
}

/// Peak memory (resident set) in bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemorySummary {
    /// Of QEMU; absent when it ended before it could be asked.
    pub qemu_peak_bytes: Option<u64>,
    /// Of this process.
    pub ferrovirt_peak_bytes: Option<u64>,
}

impl Summary {
    /// The phases of `timeline` in the form that the summary has.
    pub fn phases_of(timeline: &Timeline) -> Vec<PhaseSummary> {
        timeline
            .phases()
            .into_iter()
            .map(|Phase { name, duration }| PhaseSummary { name, duration_ms: milliseconds(duration) })
            .collect()
    }

    /// How it ended, one line.
    pub fn headline(&self) -> String {
        format!("{}/{}: {}", self.namespace, self.name, self.message)
    }

    /// Everything else for people, several lines.
    pub fn details(&self) -> String {
        let mut lines = Vec::new();
        if let Some(image) = &self.image {
            let effort = if image.cached {
                match image.requests {
                    0 => "from the store".to_owned(),
                    1 => "unchanged, 1 request".to_owned(),
                    requests => format!("unchanged, {requests} requests"),
                }
            } else {
                format!("{} fetched", decimal_bytes(image.fetched_bytes))
            };
            lines.push(format!("  image    {}", image.reference));
            lines.push(format!("           {} ({effort})", image.digest));
        }
        let version =
            self.kernel.booted_version.as_deref().or(self.kernel.version.as_deref()).unwrap_or("unknown");
        lines.push(format!("  kernel   {version} ({})", self.kernel.path));
        if let Some(old) = &self.kernel.changed_from {
            lines.push(format!(
                "           kernel changed: {old} → {}",
                self.kernel.version.as_deref().unwrap_or("unknown")
            ));
        }
        let phases: Vec<String> = self
            .phases
            .iter()
            .map(|phase| format!("{} {}", phase.name, seconds(phase.duration_ms)))
            .collect();
        lines.push(format!("  time     {}: {}", seconds(self.duration_ms as f64), phases.join(" · ")));
        if self.reboots > 0 {
            lines.push(format!("  reboots  {}", self.reboots));
        }
        let mut memory = Vec::new();
        if let Some(bytes) = self.memory.qemu_peak_bytes {
            memory.push(format!("QEMU {}", binary_bytes(bytes)));
        }
        if let Some(bytes) = self.memory.ferrovirt_peak_bytes {
            memory.push(format!("ferrovirt {}", binary_bytes(bytes)));
        }
        if !memory.is_empty() {
            lines.push(format!("  memory   peak: {}", memory.join(" · ")));
        }
        lines.push(format!("  ran on   {}", self.accelerator.name));
        lines.push(format!("  console  {}", self.console_log.display()));
        lines.join("\n")
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn code_as_number<S: Serializer>(code: &ExitCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(*code as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let ms = |milliseconds| Some(Duration::from_millis(milliseconds));
        let timeline = Timeline {
            pulled: ms(12),
            prepared: ms(20),
            first_output: ms(150),
            kernel_started: ms(151),
            userspace_started: ms(2000),
            ended: ms(2100),
            ..Timeline::default()
        };
        Summary {
            namespace: "default".into(),
            name: "demo".into(),
            verdict: "PoweredOff",
            message: "powered off".into(),
            exit_code: ExitCode::Done,
            image: Some(ImageSummary {
                reference: "localhost:5000/demo:latest".into(),
                digest: "sha256:00ff".into(),
                requests: 1,
                fetched_bytes: 0,
                cached: true,
            }),
            kernel: KernelSummary {
                version: Some("6.12.1".into()),
                booted_version: None,
                changed_from: Some("6.1.0".into()),
                path: "/boot/vmlinuz-virt".into(),
                entry: "bzImage".into(),
            },
            reboots: 2,
            accelerator: AcceleratorSummary { name: "TCG", reason: Some("no /dev/kvm".into()) },
            phases: Summary::phases_of(&timeline),
            duration_ms: 2100,
            memory: MemorySummary { qemu_peak_bytes: Some(180 << 20), ferrovirt_peak_bytes: None },
            console_log: "/run/ferrovirt/machines/default.demo/console.log".into(),
            console_tail: Vec::new(),
        }
    }

    #[test]
    fn the_headline_names_machine_and_end() {
        assert_eq!(summary().headline(), "default/demo: powered off");
    }

    #[test]
    fn people_read_where_the_time_went_and_what_changed() {
        assert_eq!(
            summary().details(),
            "  image    localhost:5000/demo:latest\n           sha256:00ff (unchanged, 1 request)\n  \
               kernel   6.12.1 (/boot/vmlinuz-virt)\n           kernel changed: 6.1.0 → 6.12.1\n  \
               time     2.10 s: pull 12.0 ms · prepare 8.0 ms · VMM 0.13 s · kernel 1.85 s · userspace 0.10 s\n  \
               reboots  2\n  \
               memory   peak: QEMU 180.0 MiB\n  \
               ran on   TCG\n  \
               console  /run/ferrovirt/machines/default.demo/console.log"
        );
    }

    #[test]
    fn machines_read_numbers() {
        let json = serde_json::to_value(summary()).expect("serializes");
        assert_eq!(json["exitCode"], 0);
        assert_eq!(json["verdict"], "PoweredOff");
        assert_eq!(json["kernel"]["changedFrom"], "6.1.0");
        assert_eq!(json["phases"][0]["name"], "pull");
        assert_eq!(json["phases"][0]["durationMs"], 12.0);
        assert_eq!(json["image"]["fetchedBytes"], 0);
    }
}
