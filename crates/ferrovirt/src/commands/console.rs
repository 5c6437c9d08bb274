//! `ferrovirt console`: a machine's serial console on this terminal.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Context;
use super::api::Server;
use super::api::refusal::RequestError;
use super::api::resources::INSTANCES;
use super::api::stream::{Attach, Said, Stream};
use super::api::targets::Guest;
use super::get::there;
use crate::cli::ConsoleFlags;
use crate::report::{ExitCode, Failure};
use crate::terminal::{self, RawMode, StandardInput};

/// How often a machine that does not run yet is asked for its console (virtctl's interval).
pub const RETRY: Duration = Duration::from_secs(1);

/// Connects standard input and output with the console.
pub async fn console(context: &Context, flags: &ConsoleFlags) -> Result<ExitCode, Failure> {
    let Guest { name, namespace, .. } = &flags.guest;
    let server = Server::find_for(context, namespace.as_deref()).await?;
    let how = Attach { is_read_only: flags.read_only, replays: flags.replay };
    let console = connect(context, &server, name, how, flags.timeout).await?;
    let outcome = carry(context, console, name, how).await?;
    match outcome {
        End::Left => Ok(ExitCode::Done),
        End::Guest => {
            context.reporter.note(format!("The console of {name} has ended with its guest."));
            Ok(ExitCode::Done)
        }
        End::Cut => {
            let hint = format!(
                "look on beside whoever types: ferrovirt console {name} -n {} --read-only",
                server.namespace
            );
            let error = anyhow::anyhow!(
                "disconnected from the console of {}: another client took it, the server went away, or the machine was \
                 killed",
                INSTANCES.object(Some(&server.namespace), name)
            );
            Err(Failure::refused(error, Some(hint)))
        }
        End::OutputClosed => Err(Failure::reader_gone()),
    }
}

/// Opens the console; an instance that does not run yet is waited for, as by virtctl.
async fn connect(
    context: &Context,
    server: &Server,
    name: &str,
    how: Attach,
    patience: Duration,
) -> Result<Stream, Failure> {
    let began = Instant::now();
    let mut is_told = false;
    loop {
        let error = match server.console(&server.namespace, name, how).await {
            Ok(console) => return Ok(console),
            Err(error) => error,
        };
        let may_come = matches!(&error, RequestError::Refused(refusal) if refusal.code == 400);
        let object = INSTANCES.object(Some(&server.namespace), name);
        if !may_come || began.elapsed() + RETRY > patience {
            let hint = match &error {
                error if error.is_not_found() => Some(format!(
                    "start it: ferrovirt start {name} -n {}; {}",
                    server.namespace,
                    there(&INSTANCES, Some(&server.namespace))
                )),
                _ if may_come => Some("give it more time with --timeout".to_owned()),
                _ => None,
            };
            let failure = error.failure(format!("cannot open the console of {object}"), hint);
            return Err(match may_come {
                true => Failure { code: ExitCode::TimedOut, ..failure },
                false => failure,
            });
        }
        if !is_told {
            is_told = true;
            context.reporter.note(format!("Waiting until {object} runs"));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// How a session ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The user left.
    Left,
    /// The guest has ended.
    Guest,
    /// The connection was cut.
    Cut,
    /// Nobody reads standard output any more.
    OutputClosed,
}

async fn carry(context: &Context, mut console: Stream, name: &str, how: Attach) -> Result<End, Failure> {
    let input = terminal::standard_input();
    let is_terminal = input == StandardInput::Terminal;
    let cannot = |error: std::io::Error| anyhow::Error::new(error).context("cannot use the terminal");
    // What is looked at only needs no raw mode: Ctrl-C ends it.
    let types = !how.is_read_only && input != StandardInput::BackgroundTerminal;
    let leave_key = if types && is_terminal { " Press Ctrl+] or Ctrl+5 to exit console." } else { "" };
    context.reporter.note(format!("Successfully connected to {name} console.{leave_key}"));
    let _raw = if types && is_terminal { Some(RawMode::enter().map_err(cannot)?) } else { None };
    let (sender, mut typed) = mpsc::channel::<Vec<u8>>(16);
    let (leave, mut left) = mpsc::channel::<()>(1);
    if types {
        terminal::read_standard_input(is_terminal, sender, move || {
            // A session that has ended needs no word.
            let _ = leave.try_send(());
        });
    }
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(cannot)?;
    let mut output = tokio::io::stdout();
    let mut is_open = true;
    let end = loop {
        tokio::select! {
            said = console.next() => match said {
                Said::Bytes(bytes) => {
                    let written = async {
                        output.write_all(&bytes).await?;
                        output.flush().await
                    };
                    match written.await {
                        Ok(()) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => break End::OutputClosed,
                        Err(error) => {
                            return Err(anyhow::Error::new(error).context("cannot write to standard output").into());
                        }
                    }
                }
                Said::Ended => break End::Guest,
                Said::Cut => break End::Cut,
            },
            bytes = typed.recv(), if is_open => match bytes {
                Some(bytes) => if console.say(bytes).await.is_err() {
                    break End::Cut;
                },
                // Nothing is typed, or no more: the guest may still have much to say.
                None => is_open = false,
            },
            Some(()) = left.recv() => break End::Left,
            _ = terminate.recv() => break End::Left,
            _ = hangup.recv() => break End::Left,
        }
    };
    if end == End::Left {
        console.leave().await;
    }
    Ok(end)
}
