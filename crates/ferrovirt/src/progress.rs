//! Progress of a pull for a person at a terminal: a bar for each layer, a spinner while waiting. Elsewhere only what
//! must be known (warnings, retries) is printed.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};

use image::{Digest, PullEvent, PullProgress};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::Reporter;

/// Prints what a pull tells.
pub struct PullReporter {
    reporter: Reporter,
    bars: Option<Bars>,
}

struct Bars {
    all: MultiProgress,
    layers: Mutex<HashMap<Digest, ProgressBar>>,
    phase: ProgressBar,
}

impl PullReporter {
    /// Bars where standard error is a terminal, and never when the user asked for silence.
    pub fn new(reporter: Reporter) -> PullReporter {
        let bars = (std::io::stderr().is_terminal() && reporter.chatty).then(|| {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
            let phase = all.add(ProgressBar::new_spinner());
            Bars { all, layers: Mutex::default(), phase }
        });
        PullReporter { reporter, bars }
    }

    /// Takes the bars off the terminal.
    pub fn finish(&self) {
        if let Some(bars) = &self.bars {
            bars.phase.finish_and_clear();
            for bar in bars.layers.lock().unwrap_or_else(PoisonError::into_inner).values() {
                bar.finish_and_clear();
            }
            // Nothing is lost when the terminal cannot be cleared.
            let _ = bars.all.clear();
        }
    }

    fn warning(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.all.suspend(|| self.reporter.warning(text)),
            None => self.reporter.warning(text),
        }
    }
}

impl Drop for PullReporter {
    fn drop(&mut self) {
        self.finish();
    }
}

impl PullProgress for PullReporter {
    fn event(&self, event: PullEvent) {
        match &event {
            PullEvent::Retrying { what, attempt, reason } => {
                return self.warning(&format!("{what} failed (attempt {attempt}), trying again: {reason}"));
            }
            PullEvent::Warning(text) => return self.warning(text),
            _ => {}
        }
        let Some(bars) = &self.bars else { return };
        let mut layers = bars.layers.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            PullEvent::Resolving => bars.phase.set_message("asking the registry"),
            PullEvent::ManifestFetched { digest } => {
                bars.phase.set_message(format!("manifest {}", short(&digest)))
            }
            PullEvent::LayerStarted { digest, total } => {
                let style =
                    ProgressStyle::with_template("  {msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}")
                        .expect("a constant template parses");
                let bar =
                    bars.all.add(ProgressBar::new(total).with_style(style).with_message(short(&digest)));
                layers.insert(digest, bar);
            }
            PullEvent::LayerProgress { digest, done } => {
                if let Some(bar) = layers.get(&digest) {
                    bar.set_position(done);
                }
            }
            PullEvent::LayerDone { digest, .. } => {
                if let Some(bar) = layers.remove(&digest) {
                    bar.finish_and_clear();
                }
            }
            PullEvent::Extracting { digest } => {
                bars.phase.set_message(format!("searching layer {}", short(&digest)))
            }
            _ => {}
        }
        bars.phase.tick();
    }
}

/// The first twelve digits of a digest, as container tools show it.
pub fn short(digest: &Digest) -> String {
    let text = digest.to_string();
    text.split_once(':').map_or(text.as_str(), |(_, hex)| hex).chars().take(12).collect()
}
