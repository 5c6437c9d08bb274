//! The run's ends in this process: standard output for the console, standard input for the guest, signals.

use std::io::ErrorKind;

use launcher::session::EndRequest;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::report::Reporter;
use crate::terminal::{self, RawMode, StandardInput};

/// Console pieces that may wait for a slow reader of standard output, 16 KiB each.
const OUTPUT_PIECES: usize = 32;

/// Where the guest's input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputSource {
    /// A terminal in raw mode, with a key to leave.
    Terminal,
    /// A pipe or file that the user asked to be sent (`--interactive`); its end is not the run's end.
    Stream,
    /// Nothing.
    None,
}

/// Decides where input comes from.
pub fn input_source(standard_input: StandardInput, pass_on: PassOn) -> InputSource {
    match (standard_input, pass_on) {
        (StandardInput::Terminal, _) => InputSource::Terminal,
        (StandardInput::Other, PassOn::Everything) => InputSource::Stream,
        (StandardInput::Other | StandardInput::BackgroundTerminal, _) => InputSource::None,
    }
}

/// What of standard input the guest gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassOn {
    /// What is typed on a terminal.
    Keys,
    /// Pipes and files too (`--interactive`).
    Everything,
}

/// Starts writing what the returned channel carries to standard output.
pub fn standard_output(requests: mpsc::Sender<EndRequest>) -> (mpsc::Sender<Vec<u8>>, JoinHandle<()>) {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(OUTPUT_PIECES);
    let task = tokio::spawn(async move {
        let mut output = tokio::io::stdout();
        while let Some(piece) = receiver.recv().await {
            let written = match output.write_all(&piece).await {
                Ok(()) => output.flush().await,
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                let request = match error.kind() {
                    ErrorKind::BrokenPipe => EndRequest::OutputClosed,
                    _ => EndRequest::OutputFailed(error.to_string()),
                };
                // Dropping the receiver tells the session that nobody listens; a full request queue means that an
                // end was asked for already.
                let _ = requests.try_send(request);
                return;
            }
        }
    });
    (sender, task)
}

/// Starts reading standard input for the guest. The guard restores the terminal when dropped.
///
/// # Errors
/// When the terminal refuses raw mode.
pub fn standard_input(
    source: InputSource,
    requests: mpsc::Sender<EndRequest>,
    reporter: Reporter,
) -> std::io::Result<(mpsc::Receiver<Vec<u8>>, Option<RawMode>)> {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>(16);
    let guard = match source {
        InputSource::None => return Ok((receiver, None)),
        InputSource::Stream => None,
        InputSource::Terminal => {
            reporter.note("Connected to the guest's serial console. Ctrl-] leaves and ends the machine.");
            Some(RawMode::enter()?)
        }
    };
    terminal::read_standard_input(source == InputSource::Terminal, sender, move || {
        // A full queue means that an end was asked for already.
        let _ = requests.try_send(EndRequest::LeaveKey);
    });
    Ok((receiver, guard))
}

/// Turns signals into requests to end the run.
///
/// # Errors
/// When a handler cannot be installed.
pub fn watch_signals(requests: mpsc::Sender<EndRequest>) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    for (kind, name) in [
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::hangup(), "SIGHUP"),
    ] {
        let mut signals = signal(kind)?;
        let requests = requests.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if requests.send(EndRequest::Signal(name)).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_comes_from_our_terminal_or_on_request() {
        use super::PassOn::*;
        use crate::terminal::StandardInput::*;
        for (standard_input, pass_on, expected) in [
            (Terminal, Keys, InputSource::Terminal),
            (Terminal, Everything, InputSource::Terminal),
            (BackgroundTerminal, Keys, InputSource::None),
            (BackgroundTerminal, Everything, InputSource::None),
            (Other, Keys, InputSource::None),
            (Other, Everything, InputSource::Stream),
        ] {
            assert_eq!(input_source(standard_input, pass_on), expected, "{standard_input:?} {pass_on:?}");
        }
    }
}
