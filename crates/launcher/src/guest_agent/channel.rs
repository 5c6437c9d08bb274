//! The wire to an agent: QEMU's guest agent protocol, a request and its answer as lines of JSON ("QEMU Guest Agent Protocol
//! Reference").
//!
//! An answer does not say to which request. So each request follows a `guest-sync-delimited` with a number of its own: what
//! comes before the answer to that, which a byte that is nowhere in JSON precedes, belongs to somebody else.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::time::timeout;

/// The longest answer in bytes. File systems and users of a large guest are some ten KiB.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Begins the answer to `guest-sync-delimited`, and has the agent forget half a request.
const DELIMITER: u8 = 0xff;

/// How long a guest that shuts down may take to say that it will not: success has no answer.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// Nobody in the guest listens.
    #[error("the guest agent is not connected")]
    Missing,
    /// The connection broke.
    #[error("the connection to the guest agent has ended: {0}")]
    Ended(#[from] std::io::Error),
    /// There is no answer.
    #[error("the guest agent has not answered to `{command}` within {limit:?}")]
    Late {
        /// What it was asked.
        command: &'static str,
        /// The time it had.
        limit: Duration,
    },
    /// The answer makes no sense.
    #[error("the guest agent's answer to `{command}` cannot be understood: {reason}")]
    Nonsense {
        /// What it was asked.
        command: &'static str,
        /// What is wrong with the answer.
        reason: String,
    },
    /// It says no.
    #[error("the guest agent refuses `{command}`: {reason}")]
    Refused {
        /// What it was asked.
        command: &'static str,
        /// Why, in its words.
        reason: String,
    },
}

/// An answer of the agent.
#[derive(Debug, Deserialize)]
enum Answer {
    #[serde(rename = "return")]
    Return(Value),
    #[serde(rename = "error")]
    Error { desc: String },
}

/// A connection to an agent.
#[derive(Debug)]
pub(super) struct Channel<S> {
    stream: BufReader<S>,
    last_number: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Channel<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream), last_number: 0 }
    }

    /// Has the agent carry out a command. Given up at any time, the next one is not disturbed.
    pub(super) async fn call(
        &mut self,
        command: &'static str,
        arguments: Value,
        limit: Duration,
    ) -> Result<Value, AgentError> {
        let exchange = async {
            self.ask(command, arguments).await?;
            self.answer(command).await
        };
        timeout(limit, exchange).await.unwrap_or(Err(AgentError::Late { command, limit }))
    }

    /// The same for a command that is not answered where it succeeds.
    pub(super) async fn tell(
        &mut self,
        command: &'static str,
        arguments: Value,
        limit: Duration,
    ) -> Result<(), AgentError> {
        timeout(limit, self.ask(command, arguments))
            .await
            .unwrap_or(Err(AgentError::Late { command, limit }))?;
        match timeout(REFUSAL_LIMIT, self.answer(command)).await {
            Ok(Err(error @ AgentError::Refused { .. })) => Err(error),
            // The guest is on its way, and its agent may be gone already.
            _ => Ok(()),
        }
    }

    /// Sends a command, and passes over everything that is not of it.
    async fn ask(&mut self, command: &'static str, arguments: Value) -> Result<(), AgentError> {
        self.last_number += 1;
        let number = self.last_number;
        let sync = json!({"execute": "guest-sync-delimited", "arguments": {"id": number}});
        let mut request = json!({"execute": command});
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let mut lines = vec![DELIMITER];
        lines.extend_from_slice(format!("{sync}\n{request}\n").as_bytes());
        self.stream.write_all(&lines).await?;
        self.stream.flush().await?;
        loop {
            skip_to_delimiter(&mut self.stream).await?;
            // Anything else is the end of an answer that nobody has waited for.
            if let Ok(Value::Number(found)) = self.answer("guest-sync-delimited").await
                && found.as_u64() == Some(number)
            {
                return Ok(());
            }
        }
    }

    async fn answer(&mut self, command: &'static str) -> Result<Value, AgentError> {
        let nonsense = |reason: String| AgentError::Nonsense { command, reason };
        let mut line = Vec::new();
        (&mut self.stream).take(MAX_ANSWER_BYTES).read_until(b'\n', &mut line).await?;
        if line.last() != Some(&b'\n') {
            return Err(match u64::try_from(line.len()) {
                Ok(MAX_ANSWER_BYTES) => nonsense(format!("it has more than {MAX_ANSWER_BYTES} bytes")),
                _ => ended(),
            });
        }
        match serde_json::from_slice(&line).map_err(|error| nonsense(error.to_string()))? {
            Answer::Return(value) => Ok(value),
            Answer::Error { desc } => {
                Err(AgentError::Refused { command, reason: super::facts::text(&desc).to_owned() })
            }
        }
    }
}

/// Drops what comes up to a delimiter, and that.
async fn skip_to_delimiter(stream: &mut (impl AsyncBufRead + Unpin)) -> Result<(), AgentError> {
    loop {
        let buffer = stream.fill_buf().await?;
        if buffer.is_empty() {
            return Err(ended());
        }
        let found = buffer.iter().position(|byte| *byte == DELIMITER);
        let count = found.map_or(buffer.len(), |at| at + 1);
        stream.consume(count);
        if found.is_some() {
            return Ok(());
        }
        // A guest that never stops must not keep everybody else from going on.
        tokio::task::yield_now().await;
    }
}

fn ended() -> AgentError {
    AgentError::Ended(std::io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);

    /// An agent that answers `answer` to each command, where SYNC stands for the answer to the synchronisation.
    async fn agent(mut guest: DuplexStream, answers: Vec<Vec<u8>>) {
        let (reader, mut writer) = tokio::io::split(&mut guest);
        let mut reader = BufReader::new(reader);
        for answer in answers {
            let mut sync = Vec::new();
            reader.read_until(b'\n', &mut sync).await.unwrap();
            assert_eq!(sync[0], DELIMITER);
            let sync: Value = serde_json::from_slice(&sync[1..]).unwrap();
            let mut request = Vec::new();
            reader.read_until(b'\n', &mut request).await.unwrap();
            let in_step = format!("{{\"return\": {}}}\n", sync["arguments"]["id"]);
            let at = answer.windows(4).position(|window| window == b"SYNC");
            let said = match at {
                Some(at) => [&answer[..at], &[DELIMITER], in_step.as_bytes(), &answer[at + 4..]].concat(),
                None => answer,
            };
            // The other side may have had enough.
            let _ = writer.write_all(&said).await;
        }
        // Whoever has nothing more to say says nothing.
        std::future::pending::<()>().await;
    }

    async fn said(answers: &[&[u8]]) -> Vec<Result<Value, String>> {
        let (host, guest) = duplex(1 << 16);
        let mut channel = Channel::new(host);
        let task = tokio::spawn(agent(guest, answers.iter().map(|answer| answer.to_vec()).collect()));
        let mut heard = Vec::new();
        for _ in answers {
            let answer = channel.call("guest-ping", Value::Null, LIMIT).await;
            heard.push(answer.map_err(|error| error.to_string()));
        }
        task.abort();
        heard
    }

    #[tokio::test]
    async fn an_answer_is_the_one_to_its_request() {
        let late = Err("the guest agent has not answered to `guest-ping` within 500ms".to_owned());
        assert_eq!(said(&[b"SYNC{\"return\": {}}\n"]).await, [Ok(json!({}))]);
        assert_eq!(
            said(&[b"SYNC{\"error\": {\"class\": \"X\", \"desc\": \"no \\u001b[1m\"}}\n"]).await,
            [Err("the guest agent refuses `guest-ping`: no \u{fffd}[1m".to_owned())]
        );
        // The first comes too late, and the second is not taken for it, nor what a stranger says.
        let heard = said(&[
            b"SYNC",
            b"{\"return\": 1}\n\xff{\"return\": 99}\n\xff\xffnonsense\nSYNC{\"return\": 2}\n",
            b"",
            b"SYNC{\"return\": 3}\n",
        ]);
        assert_eq!(heard.await, [late.clone(), Ok(json!(2)), late.clone(), Ok(json!(3))]);
    }

    #[tokio::test]
    async fn what_never_ends_or_makes_no_sense_is_given_up() {
        let cannot = "the guest agent's answer to `guest-ping` cannot be understood: ";
        let long = [b"SYNC".as_slice(), &vec![b'x'; 2 << 20]].concat();
        let heard = said(&[&long, b"SYNC{\"return\": 7}\n", b"SYNCnonsense\n", b"SYNC{}\n"]).await;
        assert_eq!(heard[0], Err(format!("{cannot}it has more than 1048576 bytes")));
        assert_eq!(heard[1], Ok(json!(7)), "the rest of it is passed over");
        assert!(heard[2].as_ref().unwrap_err().starts_with(cannot), "{heard:?}");
        assert!(heard[3].as_ref().unwrap_err().starts_with(cannot), "{heard:?}");
        // Without a delimiter, for ever.
        let (host, mut guest) = duplex(1 << 16);
        let flood = tokio::spawn(async move { while guest.write_all(&[b'x'; 1 << 12]).await.is_ok() {} });
        let mut channel = Channel::new(host);
        let error = channel.call("guest-ping", Value::Null, LIMIT).await.unwrap_err();
        assert!(matches!(error, AgentError::Late { .. }), "{error}");
        drop(channel);
        flood.await.unwrap();
    }

    #[tokio::test]
    async fn what_has_no_answer_is_done_unless_it_is_refused() {
        for (answer, expected) in [
            (&b"SYNC"[..], None),
            (b"SYNC{\"return\": {}}\n", None),
            (
                b"SYNC{\"error\": {\"class\": \"X\", \"desc\": \"disabled\"}}\n",
                Some("the guest agent refuses `guest-shutdown`: disabled"),
            ),
            (b"", Some("the guest agent has not answered to `guest-shutdown` within 500ms")),
        ] {
            let (host, guest) = duplex(1 << 16);
            let task = tokio::spawn(agent(guest, vec![answer.to_vec()]));
            let told = Channel::new(host).tell("guest-shutdown", json!({"mode": "reboot"}), LIMIT).await;
            assert_eq!(told.err().map(|error| error.to_string()).as_deref(), expected);
            task.abort();
        }
    }

    #[tokio::test]
    async fn the_end_of_the_connection_is_an_answer() {
        let (host, guest) = duplex(64);
        drop(guest);
        let error = Channel::new(host).call("guest-ping", Value::Null, LIMIT).await.unwrap_err();
        assert!(matches!(error, AgentError::Ended(_)), "{error}");
    }
}
