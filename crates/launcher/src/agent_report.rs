//! What a guest's agent measures in it, told in a file of the Pod's directory as its memory is: a scrape reads it and wakes
//! nobody.

use std::fs;
use std::path::PathBuf;

use manifest::guest_agent::GuestFileSystem;
use serde::{Deserialize, Serialize};

/// The measurements of one look at a guest. The numbers are the guest's own words.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentReport {
    /// Mounted file systems whose size is known, without their disks. No two have the same device, mount point and type.
    pub file_systems: Vec<GuestFileSystem>,
    /// How many programs wanted to run; none where the agent does not count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<LoadAverage>,
}

/// Programs that ran or wanted to, on average over a time that ends now.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadAverage {
    /// Over a minute.
    pub one_minute: f64,
    /// Over five.
    pub five_minutes: f64,
    /// Over fifteen.
    pub fifteen_minutes: f64,
}

/// Keeps the file up to date.
#[derive(Debug)]
pub(crate) struct Reporter {
    path: PathBuf,
    told: Option<AgentReport>,
}

impl Reporter {
    /// Tells nothing yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, told: None }
    }

    /// Tells what has been measured last.
    pub(crate) fn tell(&mut self, report: AgentReport) {
        if self.told.as_ref() == Some(&report) {
            return;
        }
        match crate::pod_dir::write_document(&self.path, &report) {
            Ok(()) => self.told = Some(report),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "what the guest's agent measures is not told");
            }
        }
    }

    /// Takes back what was told: there is no agent any more.
    pub(crate) fn forget(&mut self) {
        if self.told.take().is_none() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "what the guest's agent has measured is still told");
        }
    }
}
