//! `-o json=…`: the summary for machines, in a file that is opened before anything is done, so that a path that cannot
//! be written is said at once and a summary of an earlier run never passes for this one's.

use std::fs::{File, OpenOptions};
use std::io::Write;

use anyhow::Context as _;
use serde_json::json;

use super::summary::Summary;
use crate::cli::SummaryOutput;
use crate::report::Failure;

/// Where the summary goes.
#[derive(Debug)]
pub struct SummaryFile {
    file: File,
    name: String,
}

impl SummaryFile {
    /// Opens the file, emptying it, or the caller's descriptor, which is appended to.
    ///
    /// # Errors
    /// When it cannot be opened for writing.
    pub fn open(target: &SummaryOutput) -> Result<SummaryFile, Failure> {
        let (name, file) = match target {
            SummaryOutput::File(path) => (path.display().to_string(), File::create(path)),
            SummaryOutput::Descriptor(number) => {
                let path = format!("/proc/self/fd/{number}");
                let file = OpenOptions::new().append(true).open(&path);
                (format!("descriptor {number}"), file)
            }
        };
        let file = file.with_context(|| format!("cannot write the summary to `{name}`"))?;
        Ok(SummaryFile { file, name })
    }

    /// Writes the summary of a guest's run.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, summary: &Summary) -> Result<(), Failure> {
        let value = serde_json::to_value(summary).context("cannot write the summary as JSON")?;
        self.write_value(&value)
    }

    /// Writes why there was no guest.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_failure(&mut self, failure: &Failure) -> Result<(), Failure> {
        let causes: Vec<String> = failure
            .error
            .chain()
            .skip(1)
            .map(ToString::to_string)
            .chain(failure.causes.iter().cloned())
            .collect();
        self.write_value(&json!({
            "verdict": "NotStarted",
            "message": failure.error.to_string(),
            "exitCode": failure.code as u8,
            "causes": causes,
            "hints": failure.hints,
        }))
    }

    fn write_value(&mut self, value: &serde_json::Value) -> Result<(), Failure> {
        self.file
            .write_all(format!("{value:#}\n").as_bytes())
            .with_context(|| format!("cannot write the summary to `{}`", self.name))?;
        Ok(())
    }
}
