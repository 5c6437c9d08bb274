//! Figures with their limits, and the table of them; and machines by hand.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::process::Pid;
use serde::Serialize;

/// What was measured, by whom it is judged, and the verdict.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figure {
    name: &'static str,
    against: &'static str,
    /// Of `ours`, `theirs` and their limits; ratios have none.
    unit: &'static str,
    ours: f64,
    theirs: Option<f64>,
    /// What is held against the limit: the ratio where there is a peer, else `ours`.
    value: f64,
    limit: f64,
    is_kept: bool,
    our_samples: Vec<f64>,
    their_samples: Vec<f64>,
}

impl Figure {
    /// Medians of ours over theirs; at most `limit`.
    pub fn ratio(name: &'static str, against: &'static str, pairs: &Pairs, limit: f64) -> Self {
        let (ours, theirs) = (median(&pairs.ours), median(&pairs.theirs));
        let value = ours / theirs;
        Self {
            name,
            against,
            unit: "s",
            ours,
            theirs: Some(theirs),
            value,
            limit,
            is_kept: value <= limit,
            our_samples: pairs.ours.clone(),
            their_samples: pairs.theirs.clone(),
        }
    }

    /// The median of `samples`; at most `limit`, both in `unit`.
    pub fn plain(name: &'static str, unit: &'static str, samples: Vec<f64>, limit: f64) -> Self {
        let value = median(&samples);
        Self {
            name,
            against: "",
            unit,
            ours: value,
            theirs: None,
            value,
            limit,
            is_kept: value <= limit,
            our_samples: samples,
            their_samples: Vec::new(),
        }
    }

    fn row(&self) -> [String; 6] {
        let number = |value: f64| format!("{value:.3} {}", self.unit);
        let (value, limit) = match self.theirs {
            Some(_) => (format!("{:.3}x", self.value), format!("{:.2}x", self.limit)),
            None => (number(self.value), format!("{} {}", self.limit, self.unit)),
        };
        let theirs =
            self.theirs.map_or_else(String::new, |theirs| format!("{} ({})", number(theirs), self.against));
        let verdict = if self.is_kept { "kept" } else { "MISSED" };
        [self.name.to_owned(), number(self.ours), theirs, value, limit, verdict.to_owned()]
    }
}

/// Samples taken in turns.
#[derive(Default)]
pub struct Pairs {
    /// Of ours.
    pub ours: Vec<f64>,
    /// Of the peer's.
    pub theirs: Vec<f64>,
}

/// The middle of `samples`.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

fn print_table(figures: &[Figure]) {
    let head = ["figure", "ours", "theirs", "value", "at most", ""].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(figures.iter().map(Figure::row)).collect();
    let widths: Vec<_> =
        (0..6).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

/// Whether the figures of a name are to be measured: all are, or those whose name holds a word of the command line.
pub fn wanted() -> impl Fn(&str) -> bool {
    let words: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    move |name| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()))
}

/// Prints the table, keeps the samples in `target/bench/FILE`, and says whether every limit is kept.
pub fn finish(file: &str, rounds: usize, figures: &[Figure]) -> ExitCode {
    print_table(figures);

    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    fs::create_dir_all(&directory).unwrap();
    let results = serde_json::json!({"rounds": rounds, "figures": figures});
    fs::write(directory.join(file), format!("{results:#}\n")).unwrap();

    let missed: Vec<_> = figures.iter().filter(|figure| !figure.is_kept).collect();
    for figure in &missed {
        let [name, .., value, limit, _] = figure.row();
        let _ =
            writeln!(std::io::stderr(), "error: missed: {name}: {value}, at most {limit} {}", figure.against);
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A QEMU with the command line of `example`, each word as `own` has it or without it, and with its monitor at `monitor`.
pub fn by_hand(example: Pid, monitor: &Path, own: impl Fn(String) -> Option<String>) -> Command {
    let words = fs::read(format!("/proc/{}/cmdline", example.as_raw_pid())).unwrap();
    let mut words =
        words.split(|byte| *byte == 0).map(String::from_utf8_lossy).filter(|word| !word.is_empty());
    let mut qemu = Command::new(words.next().unwrap().as_ref());
    qemu.args(words.filter_map(|word| match word.strip_prefix("socket,id=qmp,path=") {
        Some(rest) => {
            let options = rest.split_once(',').unwrap().1;
            Some(format!("socket,id=qmp,path={},{options}", monitor.display()))
        }
        None => own(word.into_owned()),
    }));
    qemu
}
